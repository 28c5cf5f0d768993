"""The commands: argument parsing and messages, nothing else."""
