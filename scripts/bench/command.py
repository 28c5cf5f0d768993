"""The command line."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import autoencoder, evaluation, flows, jacobian, processes, runs
from bench.peers import PACKAGES, absent
from bench.table import render
from bench.timing import Row, Settings, environment
from iin.files import write_atomically

__all__ = ["TASKS", "main"]

TASKS: dict[tuple[str, ...], Callable[[Settings, Sequence[str]], Iterator[Row]]] = {
    flows.TASKS: flows.flow_rows,
    autoencoder.TASKS: autoencoder.autoencoder_rows,
    jacobian.TASKS: jacobian.jacobian_rows,
    runs.TRAINING: runs.training_rows,
    runs.CMNIST: runs.cmnist_rows,
    runs.DATA: runs.data_rows,
    processes.TASKS: processes.distributed_rows,
    evaluation.TASKS: evaluation.evaluation_rows,
    runs.START: runs.start_rows,
}
"""Tasks that are measured together, and by what."""

NAMES = [name for names in TASKS for name in names]


def main(argv: Sequence[str] | None = None, description: str = "") -> int:
    """Entry point; returns the exit code."""
    summary, _, rest = description.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="the flow's tasks with batches of 25 and 128, two threads")
    parser.add_argument("--only", nargs="+", metavar="TASK", choices=NAMES, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--batches", nargs="+", type=_count, metavar="N", help="of the flow's tasks (25 128 1024)")
    parser.add_argument("--threads", nargs="+", type=_count, metavar="N", help="numbers of threads (1 2)")
    parser.add_argument("--repeats", type=_count, metavar="N", default=15, help="samples of each figure (default: 15)")
    parser.add_argument(
        "--without", nargs="+", metavar="PEER", choices=PACKAGES, default=[], help=f"of {', '.join(PACKAGES)}"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON, anew after each task")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    arguments = parser.parse_args(argv)
    tasks = arguments.only or (flows.TASKS if arguments.quick else NAMES)
    settings = Settings(
        batches=tuple(arguments.batches or ((25, 128) if arguments.quick else Settings.batches)),
        threads=tuple(arguments.threads or ((2,) if arguments.quick else Settings.threads)),
        repeats=arguments.repeats,
        peers=tuple(peer for peer in PACKAGES if peer not in arguments.without),
    )
    try:
        _check(settings, tasks, arguments.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts = environment(["iin", "torch", *(PACKAGES[peer] for peer in settings.peers)])
    print(f"{facts['machine']}, load {facts['load']} when it began", file=sys.stderr)
    rows: list[Row] = []
    try:
        for names, measured in TASKS.items():
            if asked := [name for name in names if name in tasks]:
                rows += measured(settings, asked)
                if arguments.out:
                    _write(arguments.out, rows, facts)
    except KeyboardInterrupt:
        print("Stopped at once.", file=sys.stderr)
        return 130
    print(render(rows, facts, arguments.markdown))
    return 0


def _check(settings: Settings, tasks: Sequence[str], out: Path | None) -> None:
    """Find out what cannot work before anything is measured.

    Raises:
        ValueError: in one line.
    """
    missing = [peer for peer in absent() if peer in settings.peers]
    if missing and set(tasks) & set(flows.TASKS):
        names = " ".join(missing)
        raise ValueError(f"not installed: {names}; pip install 'iin[bench]', or leave them out: --without {names}")
    if out is None:
        return
    if out.is_dir():
        raise ValueError(f"--out: {out} is a folder; give a file")
    try:
        with tempfile.NamedTemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ValueError(f"--out: no file can be written in {out.parent} ({error.strerror})") from error


def _write(path: Path, rows: Sequence[Row], facts: dict[str, str]) -> None:
    """All rows so far, each with where it was measured."""
    with write_atomically(path) as file:
        file.write((json.dumps([{**row, "environment": facts} for row in rows], indent=1) + "\n").encode())


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return number
