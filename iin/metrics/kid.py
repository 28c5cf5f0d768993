r"""Squared maximum mean discrepancy between the features of two sets of images.

With a polynomial kernel of third degree, :math:`k(x, y) = (x \cdot y / d + 1)^3`, and without bias: its expectation
does not depend on the number of images, while a Fréchet distance is too large for few of them. With the features of the
reference Inception network this is the KID. It can come out slightly below 0, where two sets hardly differ.

References:
    | Demystifying MMD GANs (Bińkowski, Sutherland, Arbel and Gretton, 2018)
    | https://arxiv.org/abs/1801.01401
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from iin.distributed import total

__all__ = ["KernelDistance", "kernel_distance", "squared_mmd", "subset_size"]


class KernelDistance(NamedTuple):
    """Mean and standard deviation over the subsets; the latter is that of one subset, not that of the mean."""

    mean: float
    deviation: float


def squared_mmd(a: Tensor, b: Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy under the kernel ``(x . y / d + 1)^3``.

    Args:
        a: features ``[n, d]``, n >= 2.
        b: features ``[m, d]``, m >= 2.

    Raises:
        ValueError: shapes do not fit, or there are fewer than two.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"expected features [n, d] and [m, d], n and m >= 2, found {list(a.shape)}, {list(b.shape)}")
    a, b = a.double(), b.double()
    return _within(a) + _within(b) - 2 * _total(a, b) / (len(a) * len(b))


def _within(a: Tensor) -> float:
    """Mean of the kernel over all pairs of two different rows."""
    alone = (a.square().sum(1) / a.shape[1] + 1).pow(3).sum()
    return (_total(a, a) - float(alone)) / (len(a) * (len(a) - 1))


def _total(a: Tensor, b: Tensor) -> float:
    """Sum of the kernel over all pairs; blocks that stay in the processor's cache are several times as fast as all."""
    columns, one = (b / b.shape[1]).T.contiguous(), a.new_ones(())
    total = 0.0
    for rows in a.split(128):
        kernel = torch.addmm(one, rows, columns).flatten()
        total += float(torch.dot(kernel * kernel, kernel))
    return total


def subset_size(count: int, size: int = 1000) -> int:
    """Images a subset: ``size``, but at most half of what there is, and at least the 2 that are needed.

    Subsets of all images would be the same ones time and again, and their deviation 0.
    """
    return min(size, max(2, count // 2))


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0, share: tuple[int, int] = (0, 1)
) -> KernelDistance:
    """Squared maximum mean discrepancy as the KID is reported: over random subsets, with their deviation.

    Args:
        a: features ``[n, d]``.
        b: features ``[m, d]``.
        subsets: how many are drawn, of each set, without putting an image into one twice.
        size: images a subset; see `subset_size` for fewer images than that.
        seed: of the draws; the same features always give the same figures.
        share: (r, n) if n processes, of which this is the r-th, from 0, ask for the same and shall divide the work.

    Raises:
        ValueError: as of `squared_mmd`; or no subsets are asked for.
    """
    if subsets < 1:
        raise ValueError(f"subsets: expected at least 1, found {subsets}")
    size = subset_size(min(len(a), len(b)), size)
    generator = torch.Generator().manual_seed(seed)
    values = torch.zeros(subsets, dtype=torch.float64)
    for i in range(subsets):
        rows, others = (torch.randperm(len(x), generator=generator)[:size] for x in (a, b))
        if i % share[1] == share[0]:
            values[i] = squared_mmd(a[rows], b[others])
    if share[1] > 1:
        values = total(values)
    return KernelDistance(values.mean().item(), values.std(correction=0).item())
