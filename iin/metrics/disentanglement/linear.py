"""Scores from linear classifiers: of single codes, and of all together."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from iin.metrics.disentanglement.points import Array, Points, checked, classifiers, fitting, split

__all__ = ["explicitness", "sap", "sap_matrix"]


def sap(codes: Array, factors: Array, test: Points | None = None, *, continuous: bool = False, seed: int = 0) -> float:
    """Separated attribute predictability: by how much the code that predicts a factor best is ahead of the next.

    Args:
        codes: ``[N, D]`` floats, at least two codes.
        factors: ``[N, F]`` integers.
        test: codes and factors of other points, on which predictions are judged; by default a third of the points is
            set aside.
        continuous: see `sap_matrix`.
        seed: of what is set aside.

    Returns:
        Mean over factors of the difference between the two best, from 0 to 1, which is best.

    Raises:
        ValueError: see `sap_matrix`; or there is only one code.

    References:
        Variational Inference of Disentangled Latent Concepts from Unlabeled Observations
        (Kumar, Sattigeri and Balakrishnan, 2018), arXiv:1711.00848, section 3
    """
    scores = np.sort(sap_matrix(codes, factors, test, continuous=continuous, seed=seed), axis=0)
    if len(scores) < 2:
        raise ValueError("sap: one code; expected at least 2, which can be compared")
    return float((scores[-1] - scores[-2]).mean())


def sap_matrix(
    codes: Array, factors: Array, test: Points | None = None, *, continuous: bool = False, seed: int = 0
) -> np.ndarray:
    """How well each code alone predicts each factor.

    Args:
        codes: ``[N, D]`` floats.
        factors: ``[N, F]`` integers.
        test: see `sap`.
        continuous: values of factors are quantities: squared correlation over all points that are given to learn from,
            0 of a constant code. By default they are classes: accuracy of a linear support vector machine.
        seed: of what is set aside.

    Returns:
        ``[D, F]``.

    Raises:
        ValueError: codes or factors are none, a factor has one value, or scikit-learn is missing.
    """
    if continuous and test is None:
        values, numbers = checked(codes, factors, "sap")
        test = (values, numbers)  # nothing is tested
    values, numbers, test_values, test_numbers = split(codes, factors, test, seed, "sap")
    if continuous:
        return _squared_correlations(values.astype(np.float64), numbers.astype(np.float64))
    svm = classifiers("svm", "sap")
    scores = np.empty((values.shape[1], numbers.shape[1]))
    for i in range(values.shape[1]):
        for j in range(numbers.shape[1]):
            with fitting():
                machine = svm.LinearSVC(C=0.01, class_weight="balanced", dual="auto", random_state=seed)
                machine.fit(values[:, i : i + 1], numbers[:, j])
            scores[i, j] = (machine.predict(test_values[:, i : i + 1]) == test_numbers[:, j]).mean()
    return scores


def _squared_correlations(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    count = len(values) - 1
    values, numbers = values - values.mean(0), numbers - numbers.mean(0)
    covariance = values.T @ numbers / count
    variance = (values**2).sum(0)[:, None] / count
    alive = variance > 1e-12
    return np.where(alive, covariance**2 / np.where(alive, variance, 1.0) / ((numbers**2).sum(0) / count), 0.0)


def explicitness(
    codes: Array,
    factors: Array,
    test: Points | None = None,
    *,
    solver: Literal["liblinear", "lbfgs"] = "liblinear",
    seed: int = 0,
) -> dict[str, float]:
    """How well logistic regression reads each factor from all codes, whatever their order and scale.

    Args:
        codes: ``[N, D]`` floats. They are brought to mean 0 and deviation 1 of those to learn from; a constant code
            says nothing and is 0, where the published code divides by 0.
        factors: ``[N, F]`` integers.
        test: codes and factors of other points; by default a third of the points is set aside.
        solver: ``liblinear``, one regression for each value, as published figures are of; ``lbfgs`` is one for all.
        seed: of what is set aside.

    Returns:
        ``train`` and ``test``: area under the curve of each value against the others, mean over values and factors;
        0.5 is chance, 1 is best. Values that the points do not have, or have all, are left out.

    Raises:
        ValueError: codes or factors are none, a factor has one value in those to learn from, or in those to test; or
            scikit-learn is missing.

    References:
        Learning Deep Disentangled Embeddings with the F-Statistic Loss (Ridgeway and Mozer, 2018), arXiv:1802.05312,
        section 3
    """
    values, numbers, test_values, test_numbers = split(codes, factors, test, seed, "explicitness")
    mean, deviation = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    # The deviation of a constant code may be rounding, and that of the smallest numbers 0.
    constant = (values == values[:1]).all(0) | (deviation == 0)
    scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, deviation))
    parts = ((values - mean) * scale, numbers), ((test_values - mean) * scale, test_numbers)
    areas = np.empty((2, numbers.shape[1]))
    for j in range(numbers.shape[1]):
        with fitting():
            regression = _regression(solver).fit(parts[0][0], numbers[:, j])
        for k, (standard, labels) in enumerate(parts):
            areas[k, j] = _area(regression.predict_proba(standard), labels[:, j], regression.classes_, j)
    train, tested = areas.mean(1).tolist()
    return {"train": train, "test": tested}


def _regression(solver: str) -> Any:
    linear = classifiers("linear_model", "explicitness")
    if solver == "lbfgs":
        return linear.LogisticRegression()
    if solver != "liblinear":
        raise ValueError(f"explicitness: solver {solver!r}; expected liblinear or lbfgs")
    return classifiers("multiclass", "explicitness").OneVsRestClassifier(
        linear.LogisticRegression(solver="liblinear", random_state=0)
    )


def _area(scores: np.ndarray, labels: np.ndarray, classes: np.ndarray, factor: int) -> float:
    """Area under the curve, mean over classes: the share of pairs, one of the class and one not, in right order."""
    from scipy.stats import rankdata  # takes longer to import than all of this package

    of_class = labels[:, None] == classes  # [N, K]
    own = of_class.sum(0)
    others = len(labels) - own
    told = (own > 0) & (others > 0)
    if not told.any():
        raise ValueError(f"explicitness: factor {factor} has one value only in the test; expected others too")
    ranks = (rankdata(scores, axis=0) * of_class).sum(0)
    return float(((ranks - own * (own + 1) / 2)[told] / (own * others)[told]).mean())
