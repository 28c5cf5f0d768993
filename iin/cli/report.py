"""``iin-report``: set several runs side by side on one page."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from iin.cli.common import run_command

__all__ = ["main"]

EPILOG = """
examples:
  iin-report logs/<run> logs/<run> --save runs.html   what differs in settings and figures, charts, pictures
  iin-report logs --save all.html                     all runs of a folder
  iin-report logs/<run> logs/<run> --save runs.html --figures 'swaps/*' bits_per_dim
                                                      these figures in the first table and in the charts
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="iin-report",
        description="Set several runs side by side on one page: settings in which they differ, figures with their "
        "spread over seeds, charts and pictures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="runs: their folders, or their config.yaml; or a folder of runs"
    )
    parser.add_argument("--save", required=True, type=Path, metavar="FILE", help="where the page is written, as .html")
    parser.add_argument("--title", default="", metavar="TEXT", help="title of the page")
    parser.add_argument(
        "--figures",
        nargs="+",
        default=[],
        metavar="NAME",
        help="the figures that table and charts are of, with * for anything; the last part of a name will do "
        "(default: those that matter most)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and results only")
    arguments = parser.parse_intermixed_args(argv)
    arguments.logs, arguments.allow = None, []

    def command() -> None:
        from iin.report import compare

        _check(arguments.save)
        folders = _folders(arguments.runs)
        if len(folders) < 2:
            raise ValueError(
                f"a comparison needs at least 2 runs, found {len(folders)}; the page of one is its report.html"
            )
        compare.write(folders, arguments.save, arguments.title, arguments.figures)
        print(f"Report: {arguments.save} ({len(folders)} runs)")

    return run_command(command, arguments, "iin.cli.report", sys.argv[1:] if argv is None else argv)


def _check(path: Path) -> None:
    """See to it, before anything is read, that a page may be written there.

    Raises:
        ValueError: it may not.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--save {path}: expected a file named .html")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--save {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"--save {path}: is a folder; expected a file")


def _folders(names: Sequence[str]) -> list[Path]:
    """Folders of runs, each once, in the order in which they were named.

    Raises:
        RunError: there is no run of a name.
    """
    from iin.run import Run

    found: dict[Path, Path] = {}
    for name in names:
        inside = sorted(file.parent for file in Path(name).glob("*/config.yaml")) if name else []
        runs = inside if inside and not (Path(name) / "config.yaml").is_file() else [Run(name).folder]
        for folder in runs:
            if folder.resolve() not in found:
                found[folder.resolve()] = folder
            elif folder not in inside:
                logging.getLogger("iin").warning("%s: named twice, taken once", folder)
    return list(found.values())


if __name__ == "__main__":
    sys.exit(main())
