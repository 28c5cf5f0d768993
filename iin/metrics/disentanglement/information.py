r"""Scores from how much single codes tell of single factors.

Codes are put into bins, and the mutual information of each code with each factor is that of the table of counts,

.. math:: I(c, f) = \sum_{b, v} p(b, v) \log \frac{p(b, v)}{p(b)\, p(v)} \quad \text{in nats.}
"""

from __future__ import annotations

import numpy as np

from iin.metrics.disentanglement.points import Array, checked, constant

__all__ = ["discretise", "entropy", "mig", "modularity", "mutual_information"]


def discretise(values: np.ndarray, bins: int) -> np.ndarray:
    """Number of the bin that each value is in; the bins of a column are equal parts of its range.

    Args:
        values: ``[N, D]``.
        bins: how many.

    Returns:
        ``[N, D]`` int64, 1 to ``bins``; the largest value is in the last bin. All of a constant column are in one.
    """
    kind = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    found = np.empty(values.shape, dtype=np.int64)
    for column in range(values.shape[1]):
        low, high = float(values[:, column].min()), float(values[:, column].max())
        if low == high:
            low, high = low - 0.5, high + 0.5
        # In double precision, then of the codes' type, with which they are compared: as published.
        edges = np.linspace(low, high, bins + 1).astype(kind)
        found[:, column] = np.searchsorted(edges[:-1], values[:, column], side="right")
    return found


def mutual_information(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mutual information of whole numbers, of each column with each.

    Args:
        first: ``[N, D]``.
        second: ``[N, F]``.

    Returns:
        ``[D, F]``, in nats; exactly 0 where a column is constant.
    """
    one, other = _numbered(first), _numbered(second)
    found = np.empty((len(one), len(other)))
    for i, (rows, row_counts) in enumerate(one):
        for j, (columns, column_counts) in enumerate(other):
            cells = np.bincount(rows * len(column_counts) + columns, minlength=len(row_counts) * len(column_counts))
            filled = np.flatnonzero(cells)
            counts = cells[filled].astype(np.float64)
            alone = row_counts[filled // len(column_counts)] * column_counts[filled % len(column_counts)]
            found[i, j] = (counts / len(first) * np.log(counts * len(first) / alone)).sum()
    return found.clip(min=0.0)


def entropy(numbers: np.ndarray) -> np.ndarray:
    """Entropy of each column of whole numbers: ``[N, F]`` -> ``[F]``, in nats."""
    shares = [counts / len(numbers) for _, counts in _numbered(numbers)]
    return np.array([-(share * np.log(share)).sum() for share in shares])


def _numbered(columns: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each column, its values numbered from 0 ``[N]``, and how often each occurs ``[V]``."""
    found = []
    for column in columns.T:
        low, high = int(column.min()), int(column.max())
        if high - low < 4 * len(column):  # a table is faster than to sort
            table = np.bincount(column - low)
            numbers, counts = ((table > 0).cumsum() - 1)[column - low], table[table > 0]
        else:
            _, numbers, counts = np.unique(column, return_inverse=True, return_counts=True)
            numbers = numbers.reshape(-1)
        found.append((numbers, counts.astype(np.float64)))
    return found


def mig(codes: Array, factors: Array, *, bins: int = 20) -> float:
    r"""Mutual information gap: by how much the code that tells most of a factor is ahead of the next.

    .. math:: \mathrm{mean}_f \frac{I(c_1, f) - I(c_2, f)}{H(f)}

    with :math:`c_1, c_2` the two codes that tell most of f. Factors with one value have no entropy, and are left out.

    Args:
        codes: ``[N, D]`` floats, at least two codes.
        factors: ``[N, F]`` integers.
        bins: of each code.

    Returns:
        From 0 to 1, which is best.

    Raises:
        ValueError: codes or factors are none, there are fewer points than bins or only one code, or no factor varies.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018), arXiv:1802.04942,
        section 4.1; bins and means as in Challenging Common Assumptions in the Unsupervised Learning of Disentangled
        Representations (Locatello et al., 2019), arXiv:1811.12359
    """
    values, numbers = checked(codes, factors, "mig", bins=bins)
    return _mig(values, numbers, bins, "mig")


def _mig(values: np.ndarray, numbers: np.ndarray, bins: int, metric: str) -> float:
    _check_codes(values, metric)
    varies = ~constant(numbers)
    if not varies.any():
        raise ValueError(f"{metric}: each factor has one value only; expected at least one that varies")
    numbers = numbers[:, varies]
    told = np.sort(mutual_information(discretise(values, bins), numbers), axis=0)  # [D, F]
    return float(((told[-1] - told[-2]) / entropy(numbers)).mean())


def modularity(codes: Array, factors: Array, *, bins: int = 20) -> float:
    r"""How far each code tells of one factor only.

    With :math:`\theta_c = \max_f I(c, f)^2`, a code scores

    .. math:: 1 - \frac{\sum_f I(c, f)^2 - \theta_c}{\theta_c (F - 1)}

    and 0 where it tells of nothing. All codes count, and in F all factors, those with one value among them.

    Args:
        codes: ``[N, D]`` floats.
        factors: ``[N, F]`` integers, at least two factors.
        bins: of each code.

    Returns:
        Mean over codes, from 0 to 1, which is best.

    Raises:
        ValueError: codes or factors are none, there are fewer points than bins or only one factor, or none varies.

    References:
        Learning Deep Disentangled Embeddings with the F-Statistic Loss (Ridgeway and Mozer, 2018), arXiv:1802.05312,
        section 3
    """
    values, numbers = checked(codes, factors, "modularity", bins=bins)
    return _modularity(values, numbers, bins, "modularity")


def _modularity(values: np.ndarray, numbers: np.ndarray, bins: int, metric: str) -> float:
    if numbers.shape[1] < 2:
        raise ValueError(f"{metric}: one factor; expected at least 2, between which codes may be divided")
    if constant(numbers).all():
        raise ValueError(f"{metric}: each factor has one value only; expected at least one that varies")
    squares = mutual_information(discretise(values, bins), numbers) ** 2  # [D, F]
    most = squares.max(1)
    rest = (squares.sum(1) - most) / (np.where(most > 0, most, 1.0) * (numbers.shape[1] - 1))
    return float(np.where(most > 0, 1.0 - rest, 0.0).mean())


def _check_codes(values: np.ndarray, metric: str) -> None:
    if values.shape[1] < 2:
        raise ValueError(f"{metric}: one code; expected at least 2, which can be compared")
