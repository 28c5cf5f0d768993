"""Scores that hold one factor while the others are drawn, and ask which it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from iin.data.factors import KnownFactors
from iin.metrics.disentanglement.points import classifiers, fitting
from iin.metrics.disentanglement.sampling import PIECE, Represent, encoded, sample_codes, sample_factors, sizes_of

__all__ = ["Votes", "beta_vae_points", "beta_vae_score", "factor_vae_score", "factor_vae_votes"]


class Votes(NamedTuple):
    """How often which code moved least while which factor was held."""

    train: np.ndarray
    """``[F, D]`` int64: columns are the active codes in order, numbered anew; those left over are 0."""
    test: np.ndarray
    """``[F, D]``, of other draws."""
    variances: np.ndarray
    """Of each code, whatever the factors ``[D]``."""
    active: np.ndarray
    """Which codes vary enough to take part: bool ``[D]``."""


def factor_vae_score(
    represent: Represent,
    data: KnownFactors,
    seed: int = 0,
    *,
    votes: int = 10_000,
    test_votes: int = 5_000,
    batch_size: int = 64,
    points: int = 10_000,
    threshold: float = 0.05,
) -> dict[str, float]:
    """FactorVAE score: whether the code that moves least tells which factor was held.

    A code stands for the factor that it was voted for most often (see `factor_vae_votes`).

    Args:
        represent: images ``[n, C, H, W]`` to codes ``[n, D]``.
        data: with known factors, at least two.
        seed, votes, test_votes, batch_size, points, threshold: see `factor_vae_votes`.

    Returns:
        ``train`` and ``test``: share of the votes for the factor that was held, 1 is best, 0 where no code is active;
        ``active``: how many codes are. (The published ``num_active_dims`` is the number of all.)

    Raises:
        ValueError: these are no such data, codes or numbers.

    References:
        Disentangling by Factorising (Kim and Mnih, 2018), arXiv:1802.05983, section 4; without codes that hardly vary
        as in Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations
        (Locatello et al., 2019), arXiv:1811.12359
    """
    found = factor_vae_votes(
        represent, data, seed, votes=votes, test_votes=test_votes, batch_size=batch_size, points=points,
        threshold=threshold,
    )  # fmt: skip
    if not found.active.any():
        return {"train": 0.0, "test": 0.0, "active": 0.0}
    stands_for = found.train.argmax(0), np.arange(found.train.shape[1])
    train, test = (float(table[stands_for].sum() / table.sum()) for table in (found.train, found.test))
    return {"train": train, "test": test, "active": float(found.active.sum())}


def factor_vae_votes(
    represent: Represent,
    data: KnownFactors,
    seed: int = 0,
    *,
    votes: int = 10_000,
    test_votes: int = 5_000,
    batch_size: int = 64,
    points: int = 10_000,
    threshold: float = 0.05,
) -> Votes:
    """Votes of the FactorVAE score. For each, a factor is chosen, a batch of images drawn that have it in common, and
    the code found whose variance in the batch is least in units of its variance at large.

    Args:
        represent: images to codes.
        data: with known factors, at least two.
        seed: of ``numpy.random.RandomState``, which draws the points first, then votes to learn from, then the others.
        votes: how many to learn from.
        test_votes: how many to test on.
        batch_size: images of a vote, at least two.
        points: images that the variances at large are taken from.
        threshold: standard deviation at large that a code needs to take part.

    Raises:
        ValueError: these are no such data, codes or numbers.
    """
    metric = "factor_vae_score"
    _check(data, metric, votes=votes, test_votes=test_votes, batch_size=batch_size - 1, points=points - 1)
    generator = np.random.RandomState(seed)
    codes, _ = sample_codes(represent, data, points, generator, batch_size=points, metric=metric)
    variances = codes.astype(np.float64).var(0, ddof=1)
    active = np.sqrt(variances) >= threshold
    active &= variances > 0  # with a threshold of 0, a code that never moves would always move least
    tables = np.zeros((2, len(data.factor_sizes), codes.shape[1]), dtype=np.int64)
    if active.any():
        for table, count in zip(tables, (votes, test_votes), strict=True):

            def draw() -> tuple[int, np.ndarray]:
                held = int(generator.randint(len(data.factor_sizes)))
                factors = sample_factors(data, batch_size, generator, metric)
                factors[:, held] = factors[0, held]
                return held, factors

            for held, batches in _drawn(draw, count, batch_size, represent, data, metric):
                local = batches[:, :, active].var(1, ddof=1)  # [n, active codes]
                np.add.at(table, (held, (local / variances[active]).argmin(1)), 1)
    return Votes(tables[0], tables[1], variances, active)


def beta_vae_score(
    represent: Represent,
    data: KnownFactors,
    seed: int = 0,
    *,
    points: int = 10_000,
    test_points: int = 5_000,
    batch_size: int = 64,
) -> dict[str, float]:
    """BetaVAE score: whether the mean difference of codes tells which factor was held.

    For each point, a factor is chosen, and pairs of images drawn that have it in common; the point is the mean absolute
    difference of their codes. A logistic regression tells the factor from it.

    Args:
        represent: images ``[n, C, H, W]`` to codes ``[n, D]``.
        data: with known factors, at least two.
        seed: of ``numpy.random.RandomState``, which draws the points to learn from first.
        points: how many to learn from.
        test_points: how many to test on.
        batch_size: pairs of a point.

    Returns:
        ``train`` and ``test``: accuracy; 1 is best.

    Raises:
        ValueError: these are no such data, codes or numbers, or scikit-learn is missing.

    References:
        beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework (Higgins et al., 2017),
        section 3
    """
    metric = "beta_vae_score"
    _check(data, metric, points=points, test_points=test_points, batch_size=batch_size)
    linear = classifiers("linear_model", metric)
    generator = np.random.RandomState(seed)
    train, labels = beta_vae_points(represent, data, points, generator, batch_size=batch_size)
    if (labels == labels[0]).all():
        raise ValueError(f"{metric}: points: {points} were all drawn of one factor; expected more")
    with fitting():
        regression = linear.LogisticRegression(random_state=generator).fit(train, labels)
    test, test_labels = beta_vae_points(represent, data, test_points, generator, batch_size=batch_size)
    return {
        "train": float((regression.predict(train) == labels).mean()),
        "test": float((regression.predict(test) == test_labels).mean()),
    }


def beta_vae_points(
    represent: Represent, data: KnownFactors, points: int, generator: Any, *, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the BetaVAE score, and which factor was held: ``[N, D]`` and int64 ``[N]``."""
    metric = "beta_vae_score"

    def draw() -> tuple[int, np.ndarray]:
        held = int(generator.randint(len(data.factor_sizes)))
        first, second = (sample_factors(data, batch_size, generator, metric) for _ in range(2))
        second[:, held] = first[:, held]
        return held, np.concatenate([first, second])

    found = list(_differences(draw, points, batch_size, represent, data, metric))
    return np.concatenate([point for point, _ in found]), np.concatenate([held for _, held in found])


def _differences(
    draw: Callable[[], tuple[int, np.ndarray]], points: int, size: int, represent: Represent, data: Any, metric: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for held, batches in _drawn(draw, points, 2 * size, represent, data, metric):
        yield np.abs(batches[:, :size] - batches[:, size:]).mean(1), held


def _drawn(
    draw: Callable[[], tuple[int, np.ndarray]],
    count: int,
    size: int,
    represent: Represent,
    data: KnownFactors,
    metric: str,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Several draws at a time, with the codes of their images: factors held ``[n]`` and ``[n, size, D]`` float64."""
    several = max(1, PIECE // size)
    for start in range(0, count, several):
        draws = [draw() for _ in range(min(several, count - start))]
        factors = np.concatenate([factors for _, factors in draws])
        codes = encoded(represent, data, factors, metric).astype(np.float64)
        yield np.array([held for held, _ in draws]), codes.reshape(len(draws), size, -1)


def _check(data: KnownFactors, metric: str, **numbers: int) -> None:
    sizes_of(data, metric, least=2)
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{metric}: {name}: too few to score anything; give more")
