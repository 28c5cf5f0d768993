"""``iin-explore``: what the data of a configuration look like, as one page or picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from iin.cli.common import add_common, run_command

__all__ = ["main"]

EPILOG = """
examples:
  iin-explore -b mnist_diin                           a page of the training pairs of a shipped configuration
  iin-explore -b mine.yaml --split test --allow mine  test data of one's own data set, from package mine
  iin-explore -b cmnist_ae seed=1 --save colors.png   other images, as a picture
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="iin-explore",
        description="Show what the data of a configuration look like: images or pairs, what pairs share, labels, "
        "ranges of values, and what looks odd; as one HTML page or PNG picture.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-b", "--base", nargs="+", required=True, metavar="FILE", help="configurations, merged left to right"
    )
    parser.add_argument("--split", choices=("train", "test"), default="train", help="which data (default: train)")
    parser.add_argument("--count", type=int, default=48, metavar="N", help="images or pairs to show (default: 48)")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="a page (.html) or a picture (.png); default: explore_<name>_<split>.html in the current folder",
    )
    add_common(parser)
    # Overrides may stand anywhere, also right behind the files of -b.
    arguments = parser.parse_intermixed_args(argv)
    overrides = [word for word in arguments.base if "=" in word] + list(arguments.overrides)
    bases = [word for word in arguments.base if "=" not in word]
    if not bases:
        parser.error("-b names configurations; only overrides were given")

    def command() -> None:
        from iin import config as configuration
        from iin import explore

        if arguments.count < 1:
            raise ValueError(f"--count: expected at least 1 item to show, found {arguments.count}")
        if arguments.save:
            explore.check_path(arguments.save)
        config = configuration.load(bases, overrides)
        name, data, text = explore.open_data(config, arguments.split, allow=arguments.allow)
        content = explore.describe(
            data, arguments.count, config.tree.get("seed", 0), split=arguments.split, config=text
        )
        if not arguments.quiet:
            print(content.summary)
        for remark in content.remarks:
            print(f"odd: {remark}")
        path = explore.save(content, arguments.save or Path(f"explore_{name}_{arguments.split}.html"))
        print(f"Saved: {path}")

    return run_command(command, arguments, "iin.cli.explore", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
