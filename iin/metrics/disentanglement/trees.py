"""Scores from which codes boosted trees use to predict a factor."""

from __future__ import annotations

import numpy as np

from iin.metrics.disentanglement.points import Array, Points, classifiers, fitting, split

__all__ = ["dci", "importance_scores"]


def dci(codes: Array, factors: Array, test: Points | None = None, *, seed: int = 0) -> dict[str, float]:
    """Disentanglement, completeness and informativeness, from gradient boosted trees that predict each factor.

    A hundred trees are grown for each value of a factor, or for both where it has two: the time grows with points,
    codes and the number of values, and factors of many, such as positions in pixels, take most of it.

    Args:
        codes: ``[N, D]`` floats.
        factors: ``[N, F]`` integers.
        test: codes and factors of other points, for informativeness; by default a third of the points is set aside.
        seed: of trees, and of what is set aside. Ties between splits are broken at random, which moves scores by some
            0.005.

    Returns:
        ``disentanglement`` and ``completeness`` (see `importance_scores`), and ``informativeness_train`` and
        ``informativeness_test``, mean accuracy over factors. 1 is best.

    Raises:
        ValueError: codes or factors are none, a factor has one value, or scikit-learn is missing.

    References:
        A Framework for the Quantitative Evaluation of Disentangled Representations (Eastwood and Williams, 2018),
        section 2; boosted trees as in Challenging Common Assumptions in the Unsupervised Learning of Disentangled
        Representations (Locatello et al., 2019), arXiv:1811.12359
    """
    values, numbers, test_values, test_numbers = split(codes, factors, test, seed, "dci")
    ensemble = classifiers("ensemble", "dci")
    generator = np.random.RandomState(seed)
    importance = np.empty((values.shape[1], numbers.shape[1]))
    right = np.empty((2, numbers.shape[1]))
    for j in range(numbers.shape[1]):
        with fitting():
            trees = ensemble.GradientBoostingClassifier(random_state=generator).fit(values, numbers[:, j])
        importance[:, j] = np.abs(trees.feature_importances_)
        right[0, j] = (trees.predict(values) == numbers[:, j]).mean()
        right[1, j] = (trees.predict(test_values) == test_numbers[:, j]).mean()
    train, tested = right.mean(1).tolist()
    return {**importance_scores(importance), "informativeness_train": train, "informativeness_test": tested}


def importance_scores(importance: Array) -> dict[str, float]:
    r"""Disentanglement and completeness of any matrix that says how important a code is for a factor.

    A code scores :math:`1 - H_F(\mathrm{row})`, with the entropy H of its share in each factor to the base of their
    number: 1 where it is of use for one factor only. A factor scores likewise, from its column. Both figures are means,
    weighted by the share of all importance; of a matrix of zeros, plain ones.

    Args:
        importance: ``[D, F]``, not negative.

    Returns:
        ``disentanglement`` and ``completeness``. With a single factor every code is disentangled, and likewise every
        factor is complete with a single code: 1.

    Raises:
        ValueError: this is no such matrix.
    """
    matrix = np.asarray(importance, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all() or (matrix < 0).any():
        raise ValueError(f"importance {list(matrix.shape)}: expected [D, F], finite and not negative")
    return {"disentanglement": _weighted(matrix), "completeness": _weighted(matrix.T)}


def _weighted(matrix: np.ndarray) -> float:
    """Mean over rows of 1 - entropy, weighted by their sums."""
    shares = matrix + 1e-11  # as published, so that a row of zeros is even
    shares /= shares.sum(1, keepdims=True)
    if matrix.shape[1] > 1:
        scores = 1.0 + (shares * np.log(shares)).sum(1) / np.log(matrix.shape[1])
    else:
        scores = np.ones(len(matrix))
    weights = matrix.sum(1) if matrix.any() else np.ones(len(matrix))
    return float((scores * weights).sum() / weights.sum())
