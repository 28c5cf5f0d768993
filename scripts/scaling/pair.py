"""The flow's step in two processes that share a batch, beside one process with the whole of it."""

from __future__ import annotations

from collections.abc import Iterator

from bench.processes import COUNT, Asked, room, timed
from bench.timing import Row, row, say

from scaling.curves import Sizes

__all__ = ["pair_rows"]


def pair_rows(sizes: Sizes, repeats: int) -> Iterator[Row]:
    """Rows of the flow's step: by one process of one thread, by one of two threads, by two of one thread each."""
    if not room("processes"):
        return
    say(f"processes: one and two, {', '.join(map(str, sizes.processes))} vectors in all")
    found = timed(Asked("flow", repeats, sizes.processes, (1, COUNT), sizes.flow))
    for batch in sizes.processes:
        for processes, count in ((1, 1), (1, COUNT), (COUNT, 1)):
            seconds = found.steps[batch, processes, count]
            yield row("processes", "iin", seconds, batch=batch, count=count, processes=processes)
    yield row("message", "iin", found.message, batch=None, count=1, processes=COUNT)
