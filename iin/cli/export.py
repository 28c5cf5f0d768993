"""``iin-export``: a run's encoder as a file for programs without this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from iin.cli.common import add_common, add_run, run_command

__all__ = ["main"]

EPILOG = """
examples:
  iin-export -p logs/<run> --to torchscript --out encoder.pt    torch.jit.load("encoder.pt")(images)
  iin-export -p logs/<run> --to export --out encoder.pt2        torch.export.load("encoder.pt2").module()(images)
  iin-explore --model encoder.pt --layers --size 64 --channels 1
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="iin-export",
        description="Write what encodes in a run, images [B, C, H, W] in [-1, 1] to codes [B, D], as a file that "
        "torch alone reads. What is written is read back and compared first.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_run(parser)
    parser.add_argument(
        "--to",
        choices=("torchscript", "export"),
        default="torchscript",
        help="how: a trace in TorchScript (default), or a program of torch.export",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="the file: .pt for torchscript, .pt2 for export"
    )
    parser.add_argument(
        "--size", type=int, metavar="N", help="height and width of images (default: the network's, or the test data's)"
    )
    parser.add_argument("--channels", type=int, metavar="N", help="channels of images (default: likewise)")
    add_common(parser)
    arguments = parser.parse_intermixed_args(argv)

    def command() -> None:
        from iin import export
        from iin.run import Run

        shape, off = export.encoder_of(
            Run(arguments.project),
            arguments.out,
            arguments.to,
            which=arguments.checkpoint,
            size=arguments.size,
            channels=arguments.channels,
            overrides=arguments.overrides,
            allow=arguments.allow,
        )
        print(f"Takes images [B, {', '.join(map(str, shape))}] in [-1, 1]; its codes are the run's to {off:.1e}.")
        print(f"Encoder: {arguments.out}")

    return run_command(command, arguments, "iin.cli.export", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
