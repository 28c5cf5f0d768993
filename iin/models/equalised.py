"""Layers whose weights learn at the same rate, whatever their size, and how they enlarge and reduce maps."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iin.arguments import Count

__all__ = ["EqualConv2d", "EqualLinear", "ModulatedConv2d", "bent", "smoothed"]

Resample = Literal["same", "up", "down"]

SLOPE = 0.2
"""Of the LeakyReLU."""
TAPS = (1.0, 3.0, 3.0, 1.0)
"""Of the filter that maps are smoothed by when they change their size, in each direction."""


def bent(x: Tensor) -> Tensor:
    """LeakyReLU, times the root of 2, which keeps the deviation about as it was."""
    return F.leaky_relu(x, SLOPE) * math.sqrt(2)


def smoothed(x: Tensor, padding: int, gain: float = 1.0, stride: int = 1) -> Tensor:
    """Smooth maps ``[B, C, H, W]`` with 4x4 taps, the outer product of 1, 3, 3, 1.

    Args:
        x: maps.
        padding: zeros on each side.
        gain: sum of the taps.
        stride: keep every so manieth pixel.

    Returns:
        ``[B, C, (H + 2 padding - 4) // stride + 1, ...]``.
    """
    taps = x.new_tensor(TAPS)
    kernel = taps[:, None] * taps * (gain / taps.sum().square())
    channels = x.shape[1]
    return F.conv2d(x, kernel.expand(channels, 1, 4, 4), stride=stride, padding=padding, groups=channels)


class EqualLinear(nn.Module):
    """Dense layer with weights from N(0, 1), applied as they are divided by the root of the number of inputs.

    Args:
        inputs: size of what comes in.
        outputs: size of what goes out.
        bend: apply `bent`.

    References:
        Progressive Growing of GANs for Improved Quality, Stability, and Variation (Karras et al., 2017),
        arXiv:1710.10196, section 4.1
    """

    def __init__(self, inputs: Count, outputs: Count, bend: bool = False) -> None:
        super().__init__()
        self.bend = bend
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs]`` -> ``[B, outputs]``."""
        x = F.linear(x, self.weight / math.sqrt(self.weight.shape[1]), self.bias)
        return bent(x) if self.bend else x


class EqualConv2d(nn.Module):
    """Convolution with weights from N(0, 1), applied as they are divided by the root of the inputs that they sum.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: 3 or 1.
        resample: ``up`` doubles height and width, smoothed afterwards; ``down`` halves them, smoothed before.
        bias: add a constant to each channel.
        bend: apply `bent`.

    References:
        Analyzing and Improving the Image Quality of StyleGAN (Karras et al., 2019), arXiv:1912.04958, appendix B
    """

    def __init__(
        self,
        inputs: Count,
        outputs: Count,
        kernel: Literal[1, 3] = 3,
        resample: Resample = "same",
        bias: bool = True,
        bend: bool = True,
    ) -> None:
        super().__init__()
        if resample == "up" and kernel != 3:
            raise ValueError(f"EqualConv2d: enlarges with kernels of 3, found {kernel}")
        self.resample, self.bend = resample, bend
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def linear(self, x: Tensor) -> Tensor:
        """The convolution alone, without bias."""
        kernel = self.weight.shape[-1]
        weight = self.weight / math.sqrt(self.weight[0].numel())
        if self.resample == "up":
            # The transposed convolution turns its kernel round, so it is given the turned one.
            x = F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), stride=2)  # [B, outputs, 2H + 1, 2W + 1]
            return smoothed(x, padding=1, gain=4.0)
        if self.resample == "same":
            return F.conv2d(x, weight, padding=kernel // 2)
        if kernel == 1:
            return F.conv2d(smoothed(x, padding=1, stride=2), weight)
        return F.conv2d(smoothed(x, padding=2), weight, stride=2)

    def finished(self, x: Tensor) -> Tensor:
        """What follows the convolution: bias and bend."""
        if self.bias is not None:
            x = x + self.bias[:, None, None]
        return bent(x) if self.bend else x

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` -> ``[B, outputs, H', W']``."""
        return self.finished(self.linear(x))


class ModulatedConv2d(EqualConv2d):
    """Convolution of 3x3 whose input channels are weighted by a style, and whose outputs are brought back to scale.

    The weight of a channel is linear in the style, 1 where the style is 0 and nothing was learnt. Outputs are divided
    by the norm of the weights, as they are then.

    Args:
        inputs: channels.
        outputs: channels.
        style: size of the style.

    References:
        Analyzing and Improving the Image Quality of StyleGAN (Karras et al., 2019), arXiv:1912.04958, section 2.2
    """

    def __init__(self, inputs: Count, outputs: Count, style: Count) -> None:
        super().__init__(inputs, outputs)
        self.modulation = EqualLinear(style, inputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:  # type: ignore[override]
        """``[B, inputs, H, W]``, ``[B, style]`` -> ``[B, outputs, H, W]``."""
        strength = self.modulation(style) + 1  # [B, inputs]
        squares = self.weight.square().sum((2, 3)) / self.weight[0].numel()  # [outputs, inputs]
        norm = torch.rsqrt(strength.square() @ squares.T + 1e-8)  # [B, outputs]
        # Weights on maps instead of on kernels: all images share one convolution.
        x = self.linear(x * strength[:, :, None, None]) * norm[:, :, None, None]
        return self.finished(x)
