"""Diagonal normal distributions over codes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iin.distributed import noise_like
from iin.flows.base import at_least_single

__all__ = ["Gaussian", "standard_normal"]


class Gaussian:
    """Diagonal normal distribution of each row.

    Args:
        mean: ``[B, D]``.
        logvar: log of the variance ``[B, D]``; clamped to [-30, 10], so that neither it nor its gradient explodes.
        deterministic: a distribution without width: samples are the mean, its divergence is 0.
    """

    def __init__(self, mean: Tensor, logvar: Tensor, *, deterministic: bool = False) -> None:
        # What encoders say in fewer bits is meant in single precision at least.
        mean, logvar = at_least_single(mean), at_least_single(logvar)
        self.mean = mean
        self.logvar = logvar.clamp(-30.0, 10.0)
        self.deterministic = deterministic
        self.std = torch.zeros_like(mean) if deterministic else (0.5 * self.logvar).exp()
        self.var = self.std.square()

    def sample(self) -> Tensor:
        """Draw one code a row ``[B, D]``, differentiable in mean and deviation; noise from torch's generator."""
        return self.mean + self.std * noise_like(self.mean)

    def kl(self, other: Gaussian | None = None) -> Tensor:
        """Kullback-Leibler divergence ``[B]``, in nats, from ``other`` (default: the standard normal)."""
        if self.deterministic:
            return self.mean.new_zeros(len(self.mean))
        if other is None:
            return 0.5 * (self.mean.square() + self.var - 1.0 - self.logvar).flatten(1).sum(1)
        square = (self.mean - other.mean).square() / other.var
        return 0.5 * (square + self.var / other.var - 1.0 - self.logvar + other.logvar).flatten(1).sum(1)

    def nll(self, x: Tensor) -> Tensor:
        """Negative log-density of ``x`` ``[B, D]``, in nats ``[B]``."""
        if self.deterministic:
            return self.mean.new_zeros(len(self.mean))
        square = (x - self.mean).square() / self.var
        return 0.5 * (math.log(2 * math.pi) + self.logvar + square).flatten(1).sum(1)


def standard_normal(n: int, dim: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws from the standard normal.

    Args:
        n: how many.
        dim: of each.
        like: a tensor whose device and type the result has.
        generator: gives the noise, on whatever device it lives, so that one on the CPU gives the same noise
            everywhere; default: torch's own on the device of ``like``.

    Returns:
        ``[n, dim]``.
    """
    device = like.device if generator is None else generator.device
    return torch.randn(n, dim, generator=generator, device=device, dtype=like.dtype).to(like.device)
