"""Objectives as plain functions of tensors."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "adaptive_weight",
    "discriminator_loss",
    "factor_mask",
    "generator_loss",
    "nll",
    "pair_nll",
    "pixel_error",
    "reconstruction_nll",
]


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


def pixel_error(image: Tensor, other: Tensor, kind: Literal["l1", "l2"] = "l1") -> Tensor:
    """Absolute (l1) or squared (l2) error of every value: ``[B, ...]``."""
    difference = image - other
    return difference.abs() if kind == "l1" else difference.square()


def reconstruction_nll(error: Tensor, logvar: Tensor) -> Tensor:
    """Negative log-likelihood of images of which a reconstruction misses so much, up to constants.

    ``sum(error / exp(logvar) + logvar)`` over an image's values: that of a Laplacian of scale ``exp(logvar)`` for
    absolute errors, and twice that of a normal of variance ``exp(logvar)`` for squared ones.

    Args:
        error: of every value ``[B, ...]``, non-negative.
        logvar: log of the noise level, scalar.

    Returns:
        Scalar, in nats: mean over the batch.
    """
    # A mean over images of the sum over their values; logvar enters once for each value.
    return error.sum() / len(error) * torch.exp(-logvar) + error[0].numel() * logvar


def generator_loss(fake: Tensor) -> Tensor:
    """What a generator minimises against a discriminator: minus the mean of its logits of what was made.

    Args:
        fake: logits ``[B, ...]`` of generated images.
    """
    return -fake.mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Cross entropy of a discriminator that tells real images from generated ones, in nats an image.

    log 2 for one that says nothing.

    Args:
        real: logits ``[B, ...]`` of real images.
        fake: logits ``[B, ...]`` of generated images.
    """
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def adaptive_weight(nll_gradient: Tensor, generator_gradient: Tensor) -> Tensor:
    """Weight that makes the generator's loss pull at some parameter as strongly as the likelihood does.

    Args:
        nll_gradient: gradient of the likelihood with respect to it.
        generator_gradient: gradient of the generator's loss.

    Returns:
        Quotient of their norms, scalar in [0, 1e4], detached.

    References:
        Taming Transformers for High-Resolution Image Synthesis (Esser, Rombach and Ommer, 2020), arXiv:2012.09841,
        equation 7
    """
    return (nll_gradient.norm() / (generator_gradient.norm() + 1e-4)).clamp(0.0, 1e4).detach()
