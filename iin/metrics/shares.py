"""What several processes find in their shares of the test batches, put together.

During an evaluation in several processes, a metric that says ``divided = True`` of itself gets a share of the batches
in each: batch number i goes to process i modulo their number. It goes through its share, and then asks the functions
here for what all have found; every process must ask, in the same order, also one that got no batch. A metric that says
nothing gets all batches in every process, and need not know of any of this: for such batches, as for those of any other
origin, the functions answer what they are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from iin.distributed import gather, total
from iin.distributed import largest as largest_of_all

__all__ = ["gathered", "largest", "placed", "share", "summed", "whole"]

_TYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


def share(batches: Iterable[Any]) -> tuple[int, int]:
    """Which share these batches are, from 0, and of how many; (0, 1) where they are all there are."""
    return getattr(batches, "share", (0, 1))


def whole(batches: Any) -> Iterable[Any]:
    """All batches, of which these are a share."""
    return batches if share(batches)[1] == 1 else batches.whole()


def placed(batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Batches, each with the number of items that come before it in the whole set."""
    start = 0
    for batch in batches:
        place = getattr(batch, "_place", None)
        yield (start if place is None else place.start), batch
        start += len(batch.image)


def summed(batches: Iterable[Any], *values: float) -> list[float]:
    """Sums over all shares."""
    if share(batches)[1] == 1:
        return list(values)
    return total(torch.tensor(values, dtype=torch.float64)).tolist()


def largest(batches: Iterable[Any], value: Tensor) -> Tensor:
    """Largest value over all shares, element by element; NaN is larger than anything."""
    return value if share(batches)[1] == 1 else largest_of_all(value)


def gathered(batches: Iterable[Any], parts: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Rows of all shares in the order of the whole set, on the CPU.

    Args:
        batches: whose shares.
        parts: rows ``[n, ...]``, each with the place of its first one in the whole set; none of a share that is empty.

    Returns:
        ``[N, ...]``; ``[0]`` where no share has any.
    """
    rows = [part.cpu() for _, part in parts]
    if share(batches)[1] == 1:
        return torch.cat(rows) if rows else torch.zeros(0)
    places = [torch.arange(start, start + len(part)) for start, part in parts]
    # A share without rows does not know what they are like.
    about = torch.zeros(10, dtype=torch.int64)
    if rows:
        own = [_TYPES.index(rows[0].dtype) + 1, rows[0].ndim - 1, *rows[0].shape[1:]]
        about[: len(own)] = torch.tensor(own)
    kind, axes, *shape = largest_of_all(about).tolist()
    if not kind:
        return torch.zeros(0)
    nothing = torch.zeros(0, *shape[:axes], dtype=_TYPES[kind - 1])
    order = gather(torch.cat([torch.zeros(0, dtype=torch.int64), *places])).argsort()
    return gather(torch.cat([nothing, *rows]))[order]
