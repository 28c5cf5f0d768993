"""Terms of variational autoencoders' objectives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "annealed",
    "bernoulli_nll",
    "covariance",
    "covariance_penalty",
    "density_ratio",
    "density_ratio_loss",
    "divergence_parts",
    "permuted",
    "total_correlation",
]

LEAST = 1e-6
"""Probabilities of a discriminator are kept at least so far from 0 and 1."""


def bernoulli_nll(made: Tensor, target: Tensor, *, logits: bool = True) -> Tensor:
    """Cross entropy of images under a Bernoulli distribution of each value.

    Args:
        made: logits ``[B, ...]``, or probabilities in [0, 1].
        target: images ``[B, ...]`` in [0, 1]; values between are taken as shares.
        logits: whether ``made`` holds logits. Logarithms of probabilities are cut at -100.

    Returns:
        Scalar, in nats: sum over values, mean over the batch.
    """
    loss = F.binary_cross_entropy_with_logits if logits else F.binary_cross_entropy
    return loss(made, target, reduction="sum") / len(target)


def divergence_parts(mean: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence of normal distributions from the standard normal, in two parts: of means, and of variances.

    Args:
        mean: ``[B, L]``.
        logvar: ``[B, L]``.

    Returns:
        Two scalars in nats, means over the batch, of which the sum is the divergence.
    """
    of_means = 0.5 * mean.square().sum() / len(mean)
    of_variances = -0.5 * (1 + logvar - logvar.exp()).sum() / len(mean)
    return of_means, of_variances


def annealed(value: float, step: int, steps: int) -> float:
    """A weight that grows linearly from 0 at step 0 to its full value, which it has from step ``steps`` on."""
    return value * step / steps if step < steps else value


def covariance(mean: Tensor, logvar: Tensor | None = None) -> Tensor:
    """Covariance of codes over a batch ``[L, L]``, with ``1/B``.

    Args:
        mean: of each code's distribution ``[B, L]``.
        logvar: its log-variance ``[B, L]``: the mean variance is added, which makes it the covariance of codes with
            their noise. None for that of the means.
    """
    centred = mean - mean.mean(0)
    found = centred.T @ centred / len(mean)
    return found if logvar is None else found + torch.diag(logvar.exp().mean(0))


def covariance_penalty(covariance: Tensor, off_diagonal: float, diagonal: float) -> Tensor:
    """How far a covariance ``[L, L]`` is from the identity: weighted sums of squares off and on the diagonal.

    References:
        Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar, Sattigeri and
        Balakrishnan, 2017), arXiv:1711.00848, equations 6 and 7
    """
    variances = covariance.diagonal()
    others = covariance - torch.diag(variances)
    return off_diagonal * others.square().sum() + diagonal * (variances - 1).square().sum()


def total_correlation(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Estimate of how much the numbers of a code depend on each other, from one batch.

    ``mean_j [log sum_i q(z_j | x_i) - sum_l log sum_i q(z_jl | x_i)]``. The constants of a batch's size are left out,
    so that values below 0 are usual.

    Args:
        z: codes with their noise ``[B, L]``.
        mean: of their distributions ``[B, L]``.
        logvar: log of their variances ``[B, L]``.

    Returns:
        Scalar, in nats.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen, Li, Grosse and Duvenaud, 2018),
        arXiv:1802.04942, section 4, as estimated by Challenging Common Assumptions in the Unsupervised Learning of
        Disentangled Representations (Locatello et al., 2018), arXiv:1811.12359
    """
    square = (z[:, None] - mean).square() * torch.exp(-logvar)  # [j, i, l]
    density = -0.5 * (square + logvar + torch.log(torch.tensor(2 * torch.pi, dtype=z.dtype, device=z.device)))
    return (density.sum(2).logsumexp(1) - density.logsumexp(1).sum(1)).mean()


def permuted(z: Tensor, noise: Tensor) -> Tensor:
    """Codes ``[B, L]`` with each column in an order of its own: that of the column of ``noise`` ``[B, L]``."""
    return z.gather(0, noise.argsort(0))


def density_ratio(logits: Tensor) -> Tensor:
    """Total correlation as a discriminator sees it: mean difference of its two logits ``[B, 2]``, scalar."""
    return (logits[:, 0] - logits[:, 1]).mean()


def density_ratio_loss(logits: Tensor, logits_of_permuted: Tensor) -> Tensor:
    """Cross entropy of a discriminator that tells codes (class 0) from permuted ones (class 1), in nats a code.

    Args:
        logits: of codes ``[B, 2]``.
        logits_of_permuted: of permuted ones ``[B, 2]``.

    References:
        Disentangling by Factorising (Kim and Mnih, 2018), arXiv:1802.05983, algorithm 2, as in Challenging Common
        Assumptions in the Unsupervised Learning of Disentangled Representations (Locatello et al., 2018),
        arXiv:1811.12359
    """
    real = logits.softmax(1)[:, 0].clamp(LEAST, 1 - LEAST)
    other = logits_of_permuted.softmax(1)[:, 1].clamp(LEAST, 1 - LEAST)
    return -0.5 * (real.log().mean() + other.log().mean())
