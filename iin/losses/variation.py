"""What latent codes are told from: which number has changed between two images, or what a single image says of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "class_loss",
    "gradient_penalty",
    "information_loss",
    "logistic_loss",
    "nonsaturating_loss",
    "variation_loss",
    "variations_loss",
]

TINY = 1e-12
"""Added to what a logarithm is taken of, as published."""


def variation_loss(logits: Tensor, changed: Tensor) -> Tensor:
    """Cross entropy of which number of a code has changed: what variation predictability is learnt by.

    Args:
        logits: of the recogniser ``[B, C]``.
        changed: number of the one that has changed ``[B]`` int64.

    Returns:
        ``[B]``, in nats.

    References:
        Learning Disentangled Representations with Latent Variation Predictability (Zhu, Xu and Tao, 2020),
        arXiv:2007.12885, the published code
    """
    probability = logits.softmax(1).gather(1, changed[:, None])[:, 0]
    return -(probability + TINY).log()


def variations_loss(logits: Tensor, share: Tensor) -> Tensor:
    """Squared error of how far each number of a code has changed, where all have.

    Args:
        logits: of the recogniser ``[B, C]``.
        share: of the largest change, from 0 (down) to 1 (up) ``[B, C]``.

    Returns:
        ``[B]``: sum over the numbers.
    """
    return (logits.sigmoid() - share).square().sum(1)


def class_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross entropy of a class ``[B]``, in nats.

    Args:
        logits: ``[B, D]``.
        label: which is the class: a 1 among zeros ``[B, D]``.
    """
    return -(label * (logits.softmax(1) + TINY).log()).sum(1)


def information_loss(answer: Tensor, z: Tensor, discrete: int = 0) -> tuple[Tensor, Tensor]:
    """How badly an image tells its code: of the class, and of the continuous numbers, which it tells with a deviation.

    Args:
        answer: of the recogniser ``[B, D + 2C]``: logits of the class, means, logarithms of variances.
        z: codes ``[B, D + C]``, the class first.
        discrete: how many classes, ``D``.

    Returns:
        Two losses ``[B]`` in nats: of the class, and of the continuous numbers.

    References:
        InfoGAN: Interpretable Representation Learning by Information Maximizing Generative Adversarial Nets
        (Chen et al., 2016), arXiv:1606.03657, section 5
    """
    label, value = z[:, :discrete], z[:, discrete:]
    mean, logvar = answer[:, discrete:].chunk(2, 1)
    std = (logvar / 2).exp()  # the root of the exponential has no gradient where that rounds to 0
    density = -0.5 * math.log(2 * math.pi) - (std + TINY).log() - 0.5 * ((value - mean) / (std + TINY)).square()
    return class_loss(answer[:, :discrete], label), -density.sum(1)


def nonsaturating_loss(fake: Tensor) -> Tensor:
    """What a generator minimises: cross entropy of the discriminator's taking its images for real, scalar, in nats.

    Args:
        fake: logits ``[B, 1]`` of generated images.
    """
    return F.softplus(-fake).mean()


def logistic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises: sum of its cross entropies for real and for generated images, scalar, in nats.

    Args:
        real: logits ``[B, 1]`` of real images.
        fake: logits ``[B, 1]`` of generated images.
    """
    return F.softplus(fake).mean() + F.softplus(-real).mean()


def gradient_penalty(real: Tensor, image: Tensor) -> Tensor:
    """Squared norm of a discriminator's gradient at real images, scalar: mean over the batch.

    Args:
        real: logits ``[B, 1]``.
        image: what they were computed from, with ``requires_grad`` ``[B, C, H, W]``.

    References:
        Which Training Methods for GANs do actually Converge? (Mescheder, Geiger and Nowozin, 2018),
        arXiv:1801.04406, section 4.1
    """
    (gradient,) = torch.autograd.grad(real.sum(), image, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()
