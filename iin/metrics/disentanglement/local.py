"""Scores of small parts of a data set: whether codes are disentangled where one stands, if not at large.

Around a random point, its centre, factors are drawn from a neighbourhood; the codes of these images are scored by
themselves, in bins of their own range. That is done for several centres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from iin.data.factors import KnownFactors
from iin.metrics.disentanglement.information import _mig, _modularity
from iin.metrics.disentanglement.points import enough
from iin.metrics.disentanglement.sampling import Represent, encoded, sizes_of

__all__ = ["RADII", "local_centre", "local_factors", "local_mig", "local_modularity", "local_scores"]

RADII = (0.1, 0.2, 0.3, 0.6, 1.0)
"""Of the published comparison."""

_SCORES: dict[str, Callable[[np.ndarray, np.ndarray, int, str], float]] = {"mig": _mig, "modularity": _modularity}


def local_mig(
    represent: Represent,
    data: KnownFactors,
    seed: int = 0,
    *,
    radii: Sequence[float] = RADII,
    points: int = 10_000,
    clusters: int = 20,
    bins: int = 5,
    cutoff: int = 10,
    denied: Collection[int] = (),
    batch_size: int = 16,
) -> dict[str, float]:
    """Mutual information gap of neighbourhoods, mean over their centres (see `mig` and `local_scores`).

    Args:
        represent: images ``[n, C, H, W]`` to codes ``[n, D]``, at least two codes.
        data: with known factors.
        seed: of the draws, which are begun anew for each radius.
        radii: shares of a factor's range; 1 is all of it.
        points: images of a neighbourhood.
        clusters: how many centres.
        bins: of each code, within the neighbourhood.
        cutoff: factors with fewer values stay at the centre's.
        denied: numbers of factors that stay at the centre's too.
        batch_size: factors that are drawn at a time, column by column: it decides which.

    Returns:
        Radius, such as ``0.1``, -> score; 1 is best.

    Raises:
        ValueError: these are no such data, codes or numbers, or no factor varies in a neighbourhood.

    References:
        Local Disentanglement in Variational Auto-Encoders Using Jacobian L1 Regularization
        (Rhodes and Lee, 2021), arXiv:2106.02923, section 4 and supplement
    """
    given = dict(points=points, clusters=clusters, bins=bins, cutoff=cutoff, denied=denied, batch_size=batch_size)
    return _of_radii("mig", represent, data, seed, radii, given)


def local_modularity(
    represent: Represent,
    data: KnownFactors,
    seed: int = 0,
    *,
    radii: Sequence[float] = RADII,
    points: int = 10_000,
    clusters: int = 20,
    bins: int = 5,
    cutoff: int = 10,
    denied: Collection[int] = (),
    batch_size: int = 16,
) -> dict[str, float]:
    """Modularity of neighbourhoods, mean over their centres (see `modularity` and `local_scores`).

    Factors that stay at the centre's count among F, so that a score rises with their number.

    Args:
        represent: images ``[n, C, H, W]`` to codes ``[n, D]``, of which one will do.
        data: with known factors, at least two.
        seed, radii, points, clusters, bins, cutoff, denied, batch_size: see `local_mig`.

    Returns:
        Radius, such as ``0.1``, -> score; 1 is best.

    Raises:
        ValueError: see `local_mig`.

    References:
        See `local_mig`.
    """
    given = dict(points=points, clusters=clusters, bins=bins, cutoff=cutoff, denied=denied, batch_size=batch_size)
    return _of_radii("modularity", represent, data, seed, radii, given)


def _of_radii(
    score: str, represent: Represent, data: KnownFactors, seed: int, radii: Sequence[float], given: dict[str, Any]
) -> dict[str, float]:
    return {
        f"{radius:g}": float(local_scores(represent, data, seed, radius=radius, scores=(score,), **given)[score].mean())
        for radius in radii
    }


def local_scores(
    represent: Represent,
    data: KnownFactors,
    seed: int = 0,
    *,
    radius: float = 0.1,
    scores: Sequence[str] = ("mig", "modularity"),
    points: int = 10_000,
    clusters: int = 20,
    bins: int = 5,
    cutoff: int = 10,
    denied: Collection[int] = (),
    batch_size: int = 16,
) -> dict[str, np.ndarray]:
    """Scores of each neighbourhood by itself, several of the same draws.

    Args:
        represent, data, points, clusters, bins, cutoff, denied, batch_size: see `local_mig`.
        seed: of one ``numpy.random.RandomState`` for all neighbourhoods.
        radius: see `local_factors`.
        scores: ``mig``, ``modularity``.

    Returns:
        Score -> ``[clusters]``.

    Raises:
        ValueError: see `local_mig`.
    """
    metrics = [f"local_{score}" for score in scores]
    whole = " and ".join(metrics)
    sizes = sizes_of(data, whole)
    if unknown := sorted(set(scores) - _SCORES.keys()):
        raise ValueError(f"local scores: there is no {', '.join(unknown)}; expected {', '.join(_SCORES)}")
    if clusters < 1:
        raise ValueError(f"{whole}: clusters: expected at least 1, found {clusters}")
    enough(points, bins, whole)
    if not any(_reaches(sizes, radius, cutoff, denied)):
        raise ValueError(
            f"{whole}: no factor varies at radius {radius:g} (sizes {list(sizes)}, cutoff {cutoff}, denied "
            f"{sorted(denied)}); expected a larger radius, or a smaller cutoff"
        )
    generator = np.random.RandomState(seed)
    found = np.empty((len(scores), clusters))
    for place in range(clusters):
        centre = local_centre(sizes, generator)
        factors = local_factors(
            sizes, centre, generator, points=points, radius=radius, cutoff=cutoff, denied=denied, batch_size=batch_size
        )
        codes = encoded(represent, data, factors, whole)
        for row, score in enumerate(scores):
            found[row, place] = _SCORES[score](codes, factors, bins, metrics[row])
    return dict(zip(scores, found, strict=True))


def local_centre(sizes: Sequence[int], generator: Any) -> list[int]:
    """Factors of a random point, one draw each: the centre of a neighbourhood."""
    return [int(generator.randint(size)) for size in sizes]


def local_factors(
    sizes: Sequence[int],
    centre: Sequence[int],
    generator: Any,
    *,
    points: int,
    radius: float,
    cutoff: int = 10,
    denied: Collection[int] = (),
    batch_size: int = 16,
) -> np.ndarray:
    """Factors of a neighbourhood, each drawn evenly from those values around the centre's that there are.

    Args:
        sizes: how many values each factor has.
        centre: factors in the middle ``[F]``; at the ends of a range, the neighbourhood is smaller.
        generator: ``numpy.random.RandomState``; it is asked for every factor, also for one that stays.
        points: how many.
        radius: how far a value may be from the centre's, as a share of the factor's size, rounded down.
        cutoff: factors with fewer values stay at the centre's.
        denied: numbers of factors that stay too.
        batch_size: rows that are drawn at a time, column by column.

    Returns:
        ``[points, F]`` int64.

    Raises:
        ValueError: the radius is negative, the factors are denied that are not there, or the batch is empty.
    """
    if batch_size < 1:
        raise ValueError(f"local factors: batch_size: expected at least 1, found {batch_size}")
    bounds = [
        (max(0, middle - reach), min(size - 1, middle + reach) + 1)
        for size, middle, reach in zip(sizes, centre, _reaches(sizes, radius, cutoff, denied), strict=True)
    ]
    found = np.empty((points, len(sizes)), dtype=np.int64)
    for start in range(0, points, batch_size):
        rows = found[start : start + batch_size]
        for column, (low, high) in enumerate(bounds):
            # The generator draws other numbers for 64 bits.
            rows[:, column] = generator.randint(low, high, size=len(rows), dtype=np.int32)
    return found


def _reaches(sizes: Sequence[int], radius: float, cutoff: int, denied: Collection[int]) -> list[int]:
    """How far each factor may be from the centre's."""
    if not 0 <= radius < math.inf:
        raise ValueError(f"local factors: radius {radius}; expected a share of the range, such as 0.1")
    if unknown := sorted(set(denied) - set(range(len(sizes)))):
        raise ValueError(f"local factors: denied: there is no factor {unknown[0]}; expected 0 to {len(sizes) - 1}")
    return [
        math.floor(size * radius) if size >= cutoff and factor not in denied else 0 for factor, size in enumerate(sizes)
    ]
