"""How far a long piece of work has come: a bar, or where output is no terminal, a line now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

__all__ = ["in_pieces"]

log = logging.getLogger("iin")

_EVERY = 10.0
"""Seconds between two lines."""


def in_pieces(
    total: int, size: int, what: str, *, unit: str = "images", check: Callable[[], None] | None = None
) -> Iterator[tuple[int, int]]:
    """Yield the first and behind the last of each piece of ``range(total)``, in order.

    Args:
        total: how many there are.
        size: of a piece; the last one may be smaller.
        what: is being done, for the bar.
        unit: of what.
        check: called before each piece; what it raises ends the work.
    """
    from tqdm import tqdm

    started = last = time.monotonic()
    with tqdm(total=total, desc=what, unit=f" {unit}", disable=None, leave=False, dynamic_ncols=True) as bar:
        for start in range(0, total, size):
            if check is not None:
                check()
            stop = min(start + size, total)
            yield start, stop
            bar.update(stop - start)
            now = time.monotonic()
            if bar.disable and stop < total and now - last > _EVERY:
                last = now
                left = (now - started) / stop * (total - stop)
                log.info("%s: %s of %s %s, %.0f s left", what, f"{stop:,}", f"{total:,}", unit, left)
