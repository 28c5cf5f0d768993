"""Likelihoods of what flows map to a normal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["factor_mask", "nll", "pair_nll"]


def nll(z: Tensor, logdet: Tensor, *, normalised: bool = False) -> Tensor:
    """Negative log-likelihood of data that a flow maps to a standard normal.

    Args:
        z: latents ``[B, D]``.
        logdet: log|det dz/dx| ``[B]``, in nats.
        normalised: add the constant ``D/2 log(2 pi)``, which makes it the likelihood itself; training does without,
            as published.

    Returns:
        Scalar, in nats: mean over the batch.

    References:
        A Disentangling Invertible Interpretation Network for Explaining Latent Representations
        (Esser, Rombach and Ommer, 2020), arXiv:2004.13166, section 3.1
    """
    loss = 0.5 * z.square().sum(1).mean() - logdet.mean()
    if normalised:
        loss = loss + 0.5 * z.shape[1] * math.log(2 * math.pi)
    return loss


def factor_mask(shared: Tensor, sizes: Tensor) -> Tensor:
    """Spread what holds for factors over their dimensions.

    Args:
        shared: ``[B, K]``.
        sizes: dimensions of each factor ``[K]`` int64, of sum ``D``.

    Returns:
        ``[B, D]``.
    """
    return shared.repeat_interleave(sizes, dim=1)


def pair_nll(
    z: Tensor,
    logdet: Tensor,
    other: Tensor,
    other_logdet: Tensor,
    shared: Tensor,
    rho: float = 0.975,
    *,
    normalised: bool = False,
) -> Tensor:
    """Negative log-likelihood of pairs whose latents correlate where they share a factor.

    The first of a pair is standard normal. So is the second, but where a factor is shared it is normal about
    ``rho * z`` with variance ``1 - rho^2``: the pair is jointly Gaussian with correlation ``rho`` there.

    Args:
        z: latents of the first images ``[B, D]``.
        logdet: their log|det dz/dx| ``[B]``, in nats.
        other: latents of the second images ``[B, D]``.
        other_logdet: their log|det dz/dx| ``[B]``.
        shared: ``[B, D]`` bool, the dimensions in which the two correlate (see `factor_mask`).
        rho: correlation, in (0, 1).
        normalised: add the constants of the density, ``D log(2 pi)`` and ``log(1 - rho^2) / 2`` for each shared
            dimension; training does without, as published.

    Returns:
        Scalar, in nats for a pair: mean over the batch.

    References:
        A Disentangling Invertible Interpretation Network for Explaining Latent Representations
        (Esser, Rombach and Ommer, 2020), arXiv:2004.13166, equations 7 to 9; the published code conditions on
        ``rho * z`` with variance ``1 - rho^2``, where the paper prints ``1 - rho``
    """
    correlation = rho * shared.to(z.dtype)
    variance = 1 - correlation.square()
    conditional = 0.5 * ((other - correlation * z).square() / variance).sum(1)
    loss = nll(z, logdet) + conditional.mean() - other_logdet.mean()
    if normalised:
        loss = loss + z.shape[1] * math.log(2 * math.pi) + 0.5 * torch.log(variance).sum(1).mean()
    return loss
