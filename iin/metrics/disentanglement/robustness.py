"""Scores from how far a code moves when a factor stays where it is."""

from __future__ import annotations

import numpy as np

from iin.metrics.disentanglement.information import discretise
from iin.metrics.disentanglement.points import Array, checked

__all__ = ["irs", "irs_matrix"]


def irs(codes: Array, factors: Array, *, bins: int = 20, quantile: float = 0.99) -> float:
    """Interventional robustness score: how little a code moves while the factor that it belongs to is held.

    Args:
        codes: ``[N, D]`` floats.
        factors: ``[N, F]`` integers.
        bins: see `irs_matrix`.
        quantile: see `irs_matrix`.

    Returns:
        Mean over codes of the best factor's robustness, weighted by how far the codes reach; from 0 to 1, which is
        best. 0 where no code varies.

    Raises:
        ValueError: codes or factors are none, there are fewer points than bins, or the quantile is none.

    References:
        Robustly Disentangled Causal Mechanisms: Validating Deep Representations for Interventional Robustness
        (Suter et al., 2019), arXiv:1811.00007, section 4
    """
    matrix, reach = irs_matrix(codes, factors, bins=bins, quantile=quantile)
    return float((matrix.max(1) * reach).sum() / reach.sum()) if reach.any() else 0.0


def irs_matrix(
    codes: Array, factors: Array, *, bins: int = 20, quantile: float = 0.99
) -> tuple[np.ndarray, np.ndarray]:
    """Robustness of each code for each factor.

    Args:
        codes: ``[N, D]`` floats.
        factors: ``[N, F]`` integers.
        bins: into which the values of factors are put.
        quantile: of the distances from the mean code of a value, which stands for the largest.

    Returns:
        ``[D, F]``, 1 where holding the factor holds the code; a constant code has 0. And how far each code reaches
        from its mean ``[D]``.

    Raises:
        ValueError: see `irs`.
    """
    values, numbers = checked(codes, factors, "irs", bins=bins)
    if not 0 < quantile <= 1:
        raise ValueError(f"irs: quantile {quantile}; expected more than 0 and at most 1")
    values = values.astype(np.float64)
    alive = (values != values[:1]).any(0)
    reach = np.where(alive, np.abs(values - values.mean(0)).max(0), 0.0)
    matrix = np.zeros((values.shape[1], numbers.shape[1]))
    moving = values[:, alive]
    for j, column in enumerate(discretise(numbers, bins).T):
        moved = []
        for value in np.unique(column):
            of_value = moving[column == value]
            moved.append(np.quantile(np.abs(of_value - of_value.mean(0)), quantile, axis=0))
        matrix[alive, j] = 1.0 - np.mean(moved, axis=0) / reach[alive]
    return matrix, reach
