"""Hold the newest figures of a run against bounds: a lower one for shares, an upper one for errors.

python scripts/check_run.py logs/<run> swaps/digit/follows:0.88 inversion/max:1e-4
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ERRORS = ("inversion", "error", "nll", "fid", "fd_", "kid")
"""What these occur in is better when smaller."""


def main(run: str, *bounds: str) -> int:
    """Print each figure beside its bound; returns the number of bounds that do not hold, at most 1."""
    figures = json.loads(max(Path(run).glob("eval/step-*/metrics.json")).read_text())
    failed = False
    for bound in bounds:
        name, _, limit = bound.rpartition(":")
        smaller = any(word in name for word in ERRORS)
        holds = figures[name] <= float(limit) if smaller else figures[name] >= float(limit)
        failed |= not holds
        verdict, side = "ok  " if holds else "FAIL", "at most" if smaller else "at least"
        print(f"{verdict} {name} {figures[name]:.4g} ({side} {limit})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
