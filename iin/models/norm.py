"""Normalisation layers for maps, by name."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from iin.arguments import Count
from iin.flows import ActNorm

__all__ = ["ActNormLayer", "NormName", "norm"]

NormName = Literal["actnorm", "batch", "instance"]


class ActNormLayer(ActNorm):
    """`ActNorm` as a layer of an ordinary network: maps ``[B, C, H, W]`` to the same shape, no determinant."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0]


def norm(name: NormName, channels: Count) -> nn.Module:
    """Build the named normalisation layer for maps of ``channels`` channels.

    Raises:
        ValueError: no such layer.
    """
    if name == "actnorm":
        return ActNormLayer(channels)
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    raise ValueError(f"norm: expected actnorm, batch or instance, found {name!r}")
