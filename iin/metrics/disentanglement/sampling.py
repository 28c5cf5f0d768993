"""Points that a metric draws for itself: factors of its choice, their images, and the codes of these.

Random numbers come from ``numpy.random.RandomState``, in the order in which published figures drew them; nothing else
draws from it in between, so that images may be made and represented in larger pieces than factors are drawn in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iin.data.factors import KnownFactors
from iin.metrics.disentanglement.points import Array, real_numbers, whole_numbers

__all__ = ["PIECE", "Represent", "encoded", "sample_codes", "sample_factors", "sizes_of"]

Represent = Callable[[Tensor], Array]
"""Images ``[n, C, H, W]``, as the data render them, to codes ``[n, D]``."""
PIECE = 1024
"""Images that are made and represented at a time."""


def sizes_of(data: KnownFactors, metric: str, least: int = 1) -> tuple[int, ...]:
    """How many values each factor of a data set has.

    Raises:
        ValueError: it has no known factors, or fewer than ``least``.
    """
    lacking = [name for name in ("sample_factors", "render") if not callable(getattr(data, name, None))]
    lacking += [] if hasattr(data, "factor_sizes") else ["factor_sizes"]
    if lacking:
        raise ValueError(
            f"{metric}: data: {type(data).__name__} has no {', '.join(lacking)}; expected data with known factors, "
            "as iin.data.factors has them"
        )
    sizes = tuple(int(size) for size in data.factor_sizes)
    if len(sizes) < least or min(sizes, default=0) < 1:
        raise ValueError(f"{metric}: data: factor_sizes {list(sizes)}; expected at least {least}, each at least 1")
    return sizes


def sample_factors(data: KnownFactors, count: int, generator: Any, metric: str) -> np.ndarray:
    """Factors ``[count, F]`` int64, as the data set draws them."""
    found = whole_numbers(data.sample_factors(count, generator), metric)
    if found.shape != (count, len(data.factor_sizes)):
        raise ValueError(
            f"{metric}: data: {type(data).__name__}.sample_factors({count}) answered {list(found.shape)}; "
            f"expected [{count}, {len(data.factor_sizes)}]"
        )
    return found


def encoded(represent: Represent, data: KnownFactors, factors: np.ndarray, metric: str) -> np.ndarray:
    """Codes ``[N, D]`` of factors ``[N, F]``.

    Raises:
        ValueError: the codes are none.
    """
    parts = []
    for start in range(0, len(factors), PIECE):
        piece = torch.from_numpy(factors[start : start + PIECE])
        codes = real_numbers(represent(data.render(piece)), metric)
        if len(codes) != len(piece):
            raise ValueError(f"{metric}: represent answered {list(codes.shape)} to {len(piece)} images")
        parts.append(codes)
    return np.concatenate(parts)


def sample_codes(
    represent: Represent, data: KnownFactors, points: int, generator: Any, *, batch_size: int = 16, metric: str = "data"
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and factors of random images.

    Args:
        represent: images to codes.
        data: with known factors.
        points: how many.
        generator: ``numpy.random.RandomState``.
        batch_size: factors that are drawn at a time, column by column: it decides which.
        metric: who asks; errors say so.

    Returns:
        Codes ``[N, D]`` and factors ``[N, F]``.
    """
    sizes_of(data, metric)
    if points < 1 or batch_size < 1:
        raise ValueError(f"{metric}: {points} points in batches of {batch_size}; expected at least 1")
    parts = [
        sample_factors(data, min(batch_size, points - start), generator, metric)
        for start in range(0, points, batch_size)
    ]
    factors = np.concatenate(parts)
    return encoded(represent, data, factors, metric), factors
