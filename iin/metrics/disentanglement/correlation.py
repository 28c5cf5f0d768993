"""Scores of codes alone: how far they depend on each other."""

from __future__ import annotations

import numpy as np

from iin.metrics.disentanglement.information import discretise, mutual_information
from iin.metrics.disentanglement.points import Array, enough, real_numbers

__all__ = ["unsupervised"]


def unsupervised(codes: Array, *, bins: int = 20) -> dict[str, float]:
    r"""How far codes depend on each other, by three measures; 0 is least. No factors are asked.

    With the covariance :math:`\Sigma` of the codes and :math:`\Delta` its diagonal:

    * ``total_correlation``: of a normal distribution with this covariance,
      :math:`\frac{1}{2} (\log\det\Delta - \log\det\Sigma)`, in nats; infinite where codes depend linearly;
    * ``wasserstein``: squared distance from the normal distribution without correlations,
      :math:`2\,\mathrm{tr}\,\Sigma - 2\,\mathrm{tr}\,(\Sigma\Delta)^{1/2}`, and ``wasserstein_normalised`` the same in
      units of :math:`\mathrm{tr}\,\Sigma`;
    * ``mutual_information``: mean over pairs of codes, in bins, in nats.

    Constant codes depend on nothing, and add nothing.

    Args:
        codes: ``[N, D]`` floats, at least two codes.
        bins: of each code.

    Raises:
        ValueError: these are no such codes, or fewer than bins.

    References:
        Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations
        (Locatello et al., 2019), arXiv:1811.12359, section 5.3 and appendix
    """
    values = real_numbers(codes, "unsupervised")
    count, dim = values.shape
    if dim < 2:
        raise ValueError("unsupervised: one code; expected at least 2, which may depend on each other")
    enough(count, bins, "unsupervised")
    told = mutual_information(*(discretise(values, bins),) * 2)
    pairs = (told.sum() - np.trace(told)) / (dim * (dim - 1))
    moving = values[:, (values != values[:1]).any(0)].astype(np.float64)
    # Squares of squares are taken, which the smallest numbers do not have; and nothing but the scale hangs on it.
    scale = np.abs(moving).max(initial=0.0) or 1.0
    moving = moving / scale
    moving = moving[:, moving.var(0) > 0]
    correlation = distance = share = 0.0
    if moving.shape[1]:
        covariance = np.atleast_2d(np.cov(moving, rowvar=False))
        deviations = np.sqrt(np.diag(covariance))
        # The trace of the root of Σ Δ, by the symmetric matrix that has the same eigenvalues.
        squares = np.linalg.eigvalsh(covariance * np.outer(deviations, deviations)).clip(min=0.0)
        distance = float(2 * np.trace(covariance) - 2 * np.sqrt(squares).sum())
        share = distance / float(np.trace(covariance))
        sign, logdet = np.linalg.slogdet(covariance / np.outer(deviations, deviations))
        correlation = float(-0.5 * logdet) if sign > 0 else float("inf")
    return {
        "total_correlation": correlation,
        "wasserstein": distance * scale**2,
        "wasserstein_normalised": share,
        "mutual_information": float(pairs),
    }
