"""What an autoencoder minimises: errors of pixels, and what a discriminator says."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["adaptive_weight", "discriminator_loss", "generator_loss", "pixel_error", "reconstruction_nll"]


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
