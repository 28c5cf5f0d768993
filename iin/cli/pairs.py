"""``iin-pairs``: pairs of images that differ in one latent, as files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from iin.cli.common import add_common, add_run, run_command

__all__ = ["main"]

EPILOG = """
examples:
  iin-pairs -p logs/<run> --out pairs                  10,000 pairs: pairs/pair_000000.jpg ..., pairs/labels.npy
  iin-pairs -p logs/<run> --out few --count 500 --seed 1
  iin-eval -p logs/<run> "evaluate.vp={target: iin.metrics.VariationPredictability, params: {pairs: pairs}}"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="iin-pairs",
        description="Write pairs of images of a run that differ in one latent each, side by side as JPEG, and the "
        "differences of their latents: what variation predictability is measured on, in its published layout.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_run(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder: a new one, or an empty one")
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="how many pairs (default: 10000)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of latents, and of which one changes (default: 0)"
    )
    add_common(parser)
    arguments = parser.parse_intermixed_args(argv)

    def command() -> None:
        from iin import pairs
        from iin.run import Run

        count, latents = pairs.write(
            Run(arguments.project),
            arguments.out,
            arguments.count,
            arguments.seed,
            which=arguments.checkpoint,
            overrides=arguments.overrides,
            allow=arguments.allow,
        )
        print(f"{count:,} pairs, each of which differs in one of {latents} latents.")
        print(f"Pairs: {arguments.out}")

    return run_command(command, arguments, "iin.cli.pairs", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
