"""Embedders: what a conditional flow gets to know of a representation, as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
from annotated_types import Ge
from torch import Tensor, nn

from iin.arguments import Count, NonNegativeInt
from iin.models.autoencoder import MOST, SLOPE
from iin.models.norm import ActNormLayer

__all__ = ["ConvEmbedder", "DenseEmbedder", "PoolingEmbedder"]


class DenseEmbedder(nn.Module):
    """Linear layers for vectors ``[B, C]`` (or ``[B, C, 1, 1]``); the answer is ``[B, dim]``.

    Between the layers stand ActNorm, which takes its first values from the first training batch, and LeakyReLU.

    Args:
        channels: size ``C`` of the vectors.
        dim: size of the answer.
        depth: number of entries of ``widths`` where they are not given: whole numbers evenly spaced, rounded down.
        widths: of all layers, ``channels`` first and ``dim`` last.

    Raises:
        ValueError: widths that do not start and end so, or a context of another shape.

    References:
        Making Sense of CNNs: Interpreting Deep Representations and Their Invariances with INNs
        (Rombach, Esser and Ommer, 2020), arXiv:2008.01777, the published code
    """

    def __init__(
        self,
        channels: Count,
        dim: Count,
        depth: Annotated[int, Ge(2)] = 4,
        widths: Sequence[Count] | None = None,
    ) -> None:
        super().__init__()
        if widths is None:
            if depth < 2:
                raise ValueError(f"DenseEmbedder: depth counts the ends and is at least 2, found {depth}")
            # numpy's rounding, as the weights that were published have it.
            widths = [int(width) for width in np.linspace(channels, dim, depth)]
        if len(widths) < 2 or widths[0] != channels or widths[-1] != dim:
            raise ValueError(
                f"DenseEmbedder: widths must start with channels = {channels} and end with dim = {dim}, "
                f"found {list(widths)}"
            )
        self.channels, self.dim, self.widths = channels, dim, tuple(widths)
        layers: list[nn.Module] = []
        for into, out in pairwise(widths):
            layers += [nn.Linear(into, out), ActNormLayer(out), nn.LeakyReLU(SLOPE)]
        self.net = nn.Sequential(*layers[:-2])

    def forward(self, context: Tensor) -> Tensor:
        shape = tuple(context.shape)
        if shape[1:] not in ((self.channels,), (self.channels, 1, 1)):
            raise ValueError(
                f"DenseEmbedder: expected a context of shape [B, {self.channels}] or [B, {self.channels}, 1, 1], "
                f"found {list(shape)}: maps need a ConvEmbedder or a PoolingEmbedder"
            )
        return self.net(context.flatten(1))


class ConvEmbedder(nn.Module):
    """Convolutions that halve maps ``[B, C, size, size]``, and one over what is left: the answer is ``[B, dim]``.

    After each that halves stand ActNorm, which takes its first values from the first training batch, and LeakyReLU.

    Args:
        channels: of the maps, ``C``.
        size: height and width of the maps; at least ``2**n_down``. Odd sizes are rounded down where they are halved.
        dim: size of the answer.
        n_down: how often the maps are halved.
        width: channels after the first halving; they double, up to 16 times this.

    Raises:
        ValueError: a size too small for so many halvings, or a context of another shape.

    References:
        Making Sense of CNNs: Interpreting Deep Representations and Their Invariances with INNs
        (Rombach, Esser and Ommer, 2020), arXiv:2008.01777, the published code
    """

    def __init__(self, channels: Count, size: Count, dim: Count, n_down: Count = 4, width: Count = 64) -> None:
        super().__init__()
        if n_down < 1 or size < 2**n_down:
            advice = "a DenseEmbedder" if size == 1 else f"n_down between 1 and {size.bit_length() - 1}"
            raise ValueError(
                f"ConvEmbedder: maps of size {size} cannot be halved n_down = {n_down} times: use {advice}"
            )
        self.channels, self.size, self.dim = channels, size, dim
        self.n_down, self.width = n_down, width
        layers: list[nn.Module] = []
        for k in range(n_down):
            out = width * min(2**k, MOST)
            layers += [
                nn.Conv2d(channels, out, 4, stride=2, padding=1, bias=False),
                ActNormLayer(out),
                nn.LeakyReLU(SLOPE),
            ]
            channels = out
        layers.append(nn.Conv2d(channels, dim, size // 2**n_down))
        self.net = nn.Sequential(*layers)

    def forward(self, context: Tensor) -> Tensor:
        expected = (self.channels, self.size, self.size)
        if tuple(context.shape[1:]) != expected:
            raise ValueError(
                f"ConvEmbedder: expected a context of shape [B, {', '.join(map(str, expected))}], "
                f"found {list(context.shape)}: set channels and size to those of the layer, or use a PoolingEmbedder"
            )
        return self.net(context).flatten(1)


class PoolingEmbedder(nn.Module):
    """Convolutions, the mean over all positions, and a linear layer: maps of any height and width, ``[B, dim]``.

    Vectors ``[B, C]`` are maps of one position.

    Args:
        channels: of the maps, ``C``.
        dim: size of the answer.
        n_down: how often the maps are halved, rounded up, down to one position.
        width: channels after the first convolution; they double with each halving, up to 16 times this.

    Raises:
        ValueError: a context of another shape.
    """

    def __init__(self, channels: Count, dim: Count, n_down: NonNegativeInt = 2, width: Count = 64) -> None:
        super().__init__()
        self.channels, self.dim, self.n_down, self.width = channels, dim, n_down, width
        layers: list[nn.Module] = []
        for k in range(n_down + 1):
            out = width * min(2**k, MOST)
            layers += [
                nn.Conv2d(channels, out, 3, stride=2 if k else 1, padding=1, bias=False),
                ActNormLayer(out),
                nn.LeakyReLU(SLOPE),
            ]
            channels = out
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, dim)

    def forward(self, context: Tensor) -> Tensor:
        if context.ndim not in (2, 4) or context.shape[1] != self.channels or 0 in context.shape[1:]:
            raise ValueError(
                f"PoolingEmbedder: expected a context of shape [B, {self.channels}] or [B, {self.channels}, H, W], "
                f"found {list(context.shape)}: set the embedder's channels to those of the layer"
            )
        if context.ndim == 2:
            context = context[:, :, None, None]
        return self.head(self.features(context).mean((2, 3)))
