"""Pairs of images that differ in one latent, made by a run and written as files."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from iin.arrays import shown
from iin.building import datasets, device_of, test_set
from iin.config import Training
from iin.experiment import load
from iin.metrics.variation.pairs import check_folder, draw_pairs, latents_of, write_pairs
from iin.run import Run
from iin.seeds import mix

__all__ = ["write"]

BLOCK = 4096
"""Bytes of a disk that a picture takes at least."""


def write(
    run: Run,
    folder: str | Path,
    count: int = 10_000,
    seed: int = 0,
    *,
    which: str | int | None = None,
    overrides: Sequence[str] = (),
    allow: Sequence[str] = (),
) -> tuple[int, int]:
    """Write pairs of a run's images in the published layout; see `iin.metrics.variation.write_pairs`.

    Those of a seed are those that `iin.metrics.VariationPredictability` makes with it in its first run.

    Args:
        run: which.
        folder: new, or empty.
        count: of pairs.
        seed: of latents, and of which one changes.
        which: its checkpoint: a step, a file or ``"last"``; default: the newest sound one.
        overrides: ``key=value``, settings to change.
        allow: packages beyond the program's own that its configuration may name.

    SIGTERM ends the process as ever, but not before what was begun is removed.

    Returns:
        Number of pairs, and of latents.

    Raises:
        ConfigError, RunError, ValueError, OSError: in one line.
    """
    if count < 1:
        raise ValueError(f"--count: expected at least 1, found {count}")
    if seed < 0:
        raise ValueError(f"--seed: expected 0 or more, found {seed}")
    place = check_folder(folder).absolute().parent
    if (free := shutil.disk_usage(place).free) < count * BLOCK:
        raise ValueError(
            f"--count: {count:,} pairs take {shown(count * BLOCK)} or more, but {shown(free)} are free in {place}"
        )
    trained = load(run, which, overrides=overrides, allow=allow)
    system, tree = trained.system, trained.tree
    latents_of(system)
    settings = Training(**tree.get("train", {}))
    system.to(device_of(settings)).eval()
    batches: Iterable[Any] = ()
    if getattr(system, "conditional", False):
        (data,) = datasets(tree, "test")
        batches = test_set(data, settings, tree.get("seed", 0))
    generator = torch.Generator().manual_seed(mix(seed, 0))
    with _tidy():
        return write_pairs(folder, draw_pairs(system, count, generator, batches=batches))


@contextlib.contextmanager
def _tidy() -> Iterator[None]:
    """Within this context SIGTERM ends the process by an exception, which leaves nothing half-written."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
