"""``iin-explore``: what the data of a configuration look like, as one page or picture; what a network consists of."""

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
  iin-explore --model torchvision:resnet18 --layers   every layer of a network, and what it answers
  iin-explore -b mine.yaml --layers                   of the network that a configuration interprets
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="iin-explore",
        description="Show what the data of a configuration look like: images or pairs, what pairs share, labels, "
        "ranges of values, and what looks odd; as one HTML page or PNG picture. Or list the layers of a network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-b", "--base", nargs="+", default=[], metavar="FILE", help="configurations, merged left to right"
    )
    parser.add_argument("--split", choices=("train", "test"), default="train", help="which data (default: train)")
    parser.add_argument("--count", type=int, default=48, metavar="N", help="images or pairs to show (default: 48)")
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="a page (.html) or a picture (.png); default: explore_<name>_<split>.html in the current folder",
    )
    parser.add_argument(
        "--model",
        metavar="NETWORK",
        help="with --layers: torchvision:NAME, timm:NAME, a file of TorchScript (.pt) or torch.export (.pt2), or the "
        "import path of a class or function; nothing is downloaded",
    )
    parser.add_argument(
        "--layers", action="store_true", help="list the layers of --model, or of the network that -b interprets"
    )
    parser.add_argument(
        "--size", type=int, metavar="N", help="with --layers: height and width of images (default: 224, or the data's)"
    )
    parser.add_argument(
        "--channels", type=int, metavar="N", help="with --layers: channels of images (default: 3, or the data's)"
    )
    add_common(parser)
    # Overrides may stand anywhere, also right behind the files of -b.
    arguments = parser.parse_intermixed_args(argv)
    overrides = [word for word in arguments.base if "=" in word] + list(arguments.overrides)
    bases = [word for word in arguments.base if "=" not in word]
    if not arguments.base and not arguments.model:
        parser.error("expected -b FILE, or --model NETWORK --layers")
    if not bases and not arguments.model:
        parser.error("-b names configurations; only overrides were given")
    if arguments.model and (arguments.base or not arguments.layers):
        parser.error("--model goes with --layers, and without -b")
    if not arguments.layers and (arguments.size is not None or arguments.channels is not None):
        parser.error("--size and --channels go with --layers")

    def layers() -> None:
        from iin import config as configuration
        from iin import explore

        for name, number in (("--size", arguments.size), ("--channels", arguments.channels)):
            if number is not None and number < 1:
                raise ValueError(f"{name}: expected at least 1, found {number}")
        if arguments.model:
            size, channels = arguments.size or 224, arguments.channels or 3
            rows = explore.layers_of_network(arguments.model, size, channels, allow=arguments.allow)
        else:
            config = configuration.load(bases, overrides)
            rows = explore.layers_of_config(config, arguments.size, arguments.channels, allow=arguments.allow)
        print(explore.table(rows))

    def command() -> None:
        from iin import config as configuration
        from iin import explore

        if arguments.layers:
            return layers()
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
