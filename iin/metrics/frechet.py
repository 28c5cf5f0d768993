r"""The Fréchet distance of two Gaussians, computed fast.

All of the work is in :math:`t = \mathrm{tr}(\Sigma_a \Sigma_b)^{1/2}`. No matrix root is needed for it: with any factor
F of the first covariance, :math:`\Sigma_a = F F^T`, t is the sum of the roots of the eigenvalues of
:math:`F^T \Sigma_b F`, which is symmetric, so that nothing is ever imaginary. Factors come cheap:

* a Cholesky factor, of a covariance of full rank;
* a Cholesky factor with pivoting, which has no more columns than the covariance has rank;
* the centred features themselves, where there are fewer images than features: :math:`F = A^T / \sqrt{n - 1}`. With both
  sets as few, t is the nuclear norm :math:`\|A B^T\|_* / \sqrt{(n - 1)(m - 1)}` of a matrix ``[n, m]``;
* and if nothing else works, as with a matrix that is no covariance to the last digit, its eigenvectors.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["frechet_distance", "frechet_distance_of_few"]

EXACT = 1e-10
"""How far a factor's product may be from the covariance, relative to its largest entry."""


def frechet_distance(mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians.

    In float64, by symmetric eigenvalues alone, so it is real, and defined for singular covariances too.

    Args:
        mean_a: ``[d]``, tensor or array.
        cov_a: ``[d, d]``, symmetric, positive semidefinite.
        mean_b: ``[d]``.
        cov_b: ``[d, d]``.

    Returns:
        A number >= 0, in squared units of the features.

    Raises:
        ValueError: shapes do not fit, or a number is not finite.
    """
    parts = [torch.as_tensor(part, dtype=torch.float64, device="cpu") for part in (mean_a, cov_a, mean_b, cov_b)]
    shapes = [list(part.shape) for part in parts]
    if parts[0].ndim != 1 or shapes != [[len(parts[0])], [len(parts[0])] * 2] * 2:
        raise ValueError(f"expected means [d] and covariances [d, d], found {', '.join(map(str, shapes))}")
    if not all(part.isfinite().all() for part in parts):
        raise ValueError("means and covariances must be finite; the features hold NaN or infinity")
    mu_a, sigma_a, mu_b, sigma_b = parts
    return _distance(mu_a - mu_b, sigma_a.trace() + sigma_b.trace(), _trace_of_root(_factor(sigma_a), sigma_b))


def frechet_distance_of_few(few: Tensor, other: Tensor | tuple[Tensor, Tensor]) -> float:
    """The same, of features, without the covariance of the first set; for fewer images than features.

    Args:
        few: features ``[n, d]``, n >= 2.
        other: features ``[m, d]``, which are best if m < d as well; or mean ``[d]`` and covariance ``[d, d]``.

    Returns:
        A number >= 0, in squared units of the features.

    Raises:
        ValueError: shapes do not fit, there are fewer than two images, or a number is not finite.
    """
    sets = [few, other] if isinstance(other, Tensor) else [few, *other]
    shapes = [list(part.shape) for part in sets]
    dim = shapes[0][-1:]
    fits = [[shapes[0][:1] + dim, shapes[1][:1] + dim], [shapes[0][:1] + dim, dim, dim * 2]]
    if few.ndim != 2 or shapes not in fits or any(len(part) < 2 for part in sets if part is few or len(sets) == 2):
        raise ValueError(
            "expected features [n, d], and [m, d] or a mean [d] and a covariance [d, d], n and m >= 2, "
            f"found {', '.join(map(str, shapes))}"
        )
    sets = [part.to("cpu", torch.float64) for part in sets]
    if not all(part.isfinite().all() for part in sets):
        raise ValueError("features must be finite; they hold NaN or infinity")
    mean, factor = _centred(sets[0])
    if len(sets) == 2:
        mean_b, factor_b = _centred(sets[1])
        with _alone():
            cross = torch.linalg.svdvals(factor @ factor_b.T).sum()
        return _distance(mean - mean_b, factor.square().sum() + factor_b.square().sum(), cross)
    _, mean_b, sigma_b = sets
    return _distance(mean - mean_b, factor.square().sum() + sigma_b.trace(), _trace_of_root(factor.T, sigma_b))


def _distance(shift: Tensor, traces: Tensor, cross: Tensor) -> float:
    distance = shift.square().sum() + traces - 2 * cross
    if not distance.isfinite():
        raise ValueError("the distance is not finite: means or covariances are too large")
    return max(distance.item(), 0.0)


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and a factor ``[n, d]`` whose product with itself is the covariance."""
    mean = features.mean(0)
    return mean, (features - mean) / math.sqrt(len(features) - 1)


def _trace_of_root(factor: Tensor, sigma: Tensor) -> Tensor:
    """Trace of the root of ``F F^T S``, for F ``[d, r]`` and S ``[d, d]``."""
    product = factor.T @ (sigma @ factor)
    with _alone():
        values = torch.linalg.eigvalsh(product)
    return values.clamp_min(0).sqrt().sum()


def _factor(sigma: Tensor) -> Tensor:
    """F ``[d, r]`` with ``F F^T = S``, as good as S is a covariance."""
    factor, failed = torch.linalg.cholesky_ex(sigma)
    if not failed:
        return factor
    from scipy.linalg.lapack import dpstrf  # torch has no Cholesky factor with pivoting

    packed, order, rank, _ = dpstrf(sigma.numpy(), lower=1)
    factor = torch.zeros(len(sigma), rank, dtype=torch.float64)
    factor[torch.from_numpy(order).long() - 1] = torch.from_numpy(packed[:, :rank]).tril()
    # A matrix that rounding has made indefinite may be far from what it ends with.
    if (factor @ factor.T - sigma).abs().max() <= EXACT * sigma.abs().max():
        return factor
    values, vectors = torch.linalg.eigh(sigma)
    some = values > 0
    return vectors[:, some] * values[some].sqrt()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Within this context torch uses one thread.

    What eigenvalues take is bound by memory, in thousands of short steps that wait for all threads: two gain a tenth on
    idle cores, and take four times as long as one where a core is busy with something else.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
