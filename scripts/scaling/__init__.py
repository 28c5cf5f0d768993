"""How the cost of training grows: formulas, measured curves, and an estimate for many GPUs."""
