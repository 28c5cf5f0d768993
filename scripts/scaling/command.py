"""The command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.table import Table
from bench.timing import Row, environment

from iin.files import write_atomically
from scaling.curves import FULL, TINY, curve_rows
from scaling.estimate import CLUSTER, estimates, works
from scaling.memory import memory_rows
from scaling.pair import pair_rows
from scaling.plot import draw
from scaling.table import estimated, measured, networks, written

__all__ = ["main"]

THREADS = (1, 2)


def main(argv: Sequence[str] | None = None, description: str = "") -> int:
    """Entry point; returns the exit code."""
    summary, _, rest = description.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--estimate", action="store_true", help="the estimate for many GPUs only; measure nothing")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it runs; the figures say nothing")
    parser.add_argument("--repeats", type=int, metavar="N", default=4, help="samples of each figure (default: 4)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write what was measured as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    arguments = parser.parse_args(argv)
    if arguments.repeats < 1:
        parser.error("--repeats: expected at least 1")
    for path in filter(None, (arguments.out, arguments.plot)):
        if path.is_dir() or not path.parent.is_dir():
            parser.error(f"{path}: no file can be written there")
    rows: list[Row] = []
    tables: list[Table] = []
    if not arguments.estimate:
        sizes = TINY if arguments.tiny else FULL
        facts = environment(["iin", "torch"])
        print(", ".join(f"{key} {value}" for key, value in facts.items()) + "\n", flush=True)
        rows += curve_rows(sizes, THREADS, arguments.repeats)
        rows += memory_rows(sizes)
        rows += pair_rows(sizes, max(1, arguments.repeats - 1))
        tables += measured(rows)
        if arguments.out:
            with write_atomically(arguments.out) as file:
                file.write((json.dumps([{**row, "environment": facts} for row in rows], indent=1) + "\n").encode())
        if arguments.plot:
            draw(rows, arguments.plot)
    print(written([*tables, networks(works()), estimated(estimates())], arguments.markdown))
    if not arguments.markdown:
        print(
            "\nassumed: " + ", ".join(f"{key} {value:g}" for key, value in CLUSTER._asdict().items()), file=sys.stderr
        )
    return 0
