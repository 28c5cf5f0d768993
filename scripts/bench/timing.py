"""Timing things side by side, and what is written of them."""

from __future__ import annotations

import gc
import importlib.metadata
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

__all__ = ["Entry", "Row", "Settings", "environment", "interleaved", "measure", "row", "say", "threads"]

Row = dict[str, Any]
"""One line of the result: ``task``, ``library``, ``batch`` (None where there is none), ``threads`` and ``seconds``, the
median; ``minimum`` and ``repeats``; and what else there is to say."""

WARM_UP = 2
"""Rounds that do not count: memory is taken, ActNorm takes its statistics, libraries choose their kernels."""

LEAST = 0.02
"""Seconds that a sample lasts at least: what is shorter is done several times in a row."""


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Args:
        batches: items a step, of the flow's tasks.
        threads: numbers of threads; what is no task of the flow is measured with the largest only.
        repeats: samples of each figure.
        peers: libraries to compare with.
    """

    batches: tuple[int, ...] = (25, 128, 1024)
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 15
    peers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One thing to time.

    Args:
        task: what is done.
        library: who does it.
        run: does it once.
        more: further fields of the row.
    """

    task: str
    library: str
    run: Callable[[], object]
    more: Row = field(default_factory=dict)


def interleaved(
    runs: Sequence[Callable[[], object]], repeats: int, *, warm_up: int = WARM_UP, least: float = LEAST
) -> list[list[float]]:
    """Time things round robin: every round does each once, so that what else the machine does hits all alike.

    Args:
        runs: what to do.
        repeats: rounds that count.
        warm_up: rounds that go before them, and do not.
        least: seconds that a sample lasts at least.

    Returns:
        Seconds of one run, ``repeats`` of them for each.
    """
    times = [1] * len(runs)
    samples: list[list[float]] = [[] for _ in runs]
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        for turn in range(warm_up + repeats):
            for index, run in enumerate(runs):
                count = times[index]
                started = time.perf_counter()
                for _ in range(count):
                    run()
                seconds = (time.perf_counter() - started) / count
                if turn >= warm_up:
                    samples[index].append(seconds)
                elif turn == warm_up - 1:
                    times[index] = max(1, math.ceil(least / max(seconds, 1e-9)))
    finally:
        if collects:
            gc.enable()
    return samples


def measure(entries: Sequence[Entry], repeats: int, *, batch: int | None, count: int) -> list[Row]:
    """Time entries side by side with ``count`` threads; a row each."""
    samples = interleaved([entry.run for entry in entries], repeats)
    return [
        row(entry.task, entry.library, seconds, batch=batch, count=count, **entry.more)
        for entry, seconds in zip(entries, samples, strict=True)
    ]


def row(task: str, library: str, samples: Sequence[float], *, batch: int | None, count: int, **more: Any) -> Row:
    """What is written of some samples, which are seconds."""
    if not samples:
        raise ValueError(f"{task}, {library}: nothing was timed")
    return {
        "task": task,
        "library": library,
        "batch": batch,
        "threads": count,
        "seconds": statistics.median(samples),
        "minimum": min(samples),
        "repeats": len(samples),
        **more,
    }


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within this context torch works with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def say(text: str) -> None:
    """Tell what is going on, beside the table."""
    print(text, file=sys.stderr, flush=True)


def environment(packages: Sequence[str]) -> dict[str, str]:
    """Where and with what it was measured: machine, load when it began, date, versions."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    found = {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "load": load,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "python": platform.python_version(),
    }
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    """The processor's name, as far as it tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
