"""The benchmark: what `scripts/bench.py` runs, one subject a file.

A task is a function from `Settings` and the names that were asked for to rows, and a line in `bench.command.TASKS`.
"""
