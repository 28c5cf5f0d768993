"""Objectives as plain functions of tensors."""

from iin.losses.jacobian import decoder_jacobian, jacobian_norm
from iin.losses.likelihood import factor_mask, nll, pair_nll
from iin.losses.reconstruction import (
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    pixel_error,
    reconstruction_nll,
)
from iin.losses.variation import (
    class_loss,
    gradient_penalty,
    information_loss,
    logistic_loss,
    nonsaturating_loss,
    variation_loss,
    variations_loss,
)
from iin.losses.variational import (
    annealed,
    bernoulli_nll,
    covariance,
    covariance_penalty,
    density_ratio,
    density_ratio_loss,
    divergence_parts,
    permuted,
    total_correlation,
)

__all__ = [
    "adaptive_weight",
    "annealed",
    "bernoulli_nll",
    "class_loss",
    "covariance",
    "covariance_penalty",
    "decoder_jacobian",
    "density_ratio",
    "density_ratio_loss",
    "discriminator_loss",
    "divergence_parts",
    "factor_mask",
    "generator_loss",
    "gradient_penalty",
    "information_loss",
    "jacobian_norm",
    "logistic_loss",
    "nll",
    "nonsaturating_loss",
    "pair_nll",
    "permuted",
    "pixel_error",
    "reconstruction_nll",
    "total_correlation",
    "variation_loss",
    "variations_loss",
]
