"""The network that tells from two images which latent has changed between them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Mode", "Recogniser"]

Mode = Literal["diff", "concat"]
"""What is seen of two images: their difference, or both of them as channels of one."""


class Recogniser(nn.Module):
    """Two images to logits of the latent that differs: four convolutions, the mean over pixels, a linear layer.

    Names and order of its state are the published network's.

    Args:
        in_channels: of either image.
        out_dim: number of latents.
        mode: ``diff`` sees ``first - second``, ``concat`` both, the first one's channels in front.

    Raises:
        ValueError: no channels, no latents, or another mode.

    References:
        Learning Disentangled Representations with Latent Variation Predictability (Zhu, Xu and Tao, 2020),
        arXiv:2007.12885, section 4 (the metric); its published code has the layers
    """

    def __init__(self, in_channels: int, out_dim: int, mode: Mode = "diff") -> None:
        super().__init__()
        if mode not in ("diff", "concat"):
            raise ValueError(f"mode: expected diff or concat, found {mode!r}")
        if in_channels < 1 or out_dim < 1:
            raise ValueError(f"expected at least 1 channel and 1 latent, found {in_channels} and {out_dim}")
        self.in_channels, self.out_dim, self.mode = in_channels, out_dim, mode
        seen = in_channels * (1 if mode == "diff" else 2)
        self.conv0 = nn.Conv2d(seen, 64, 7, stride=2, padding=3, bias=False)
        self.bn0 = nn.BatchNorm2d(64)
        self.conv1 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 128, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(128)
        self.conv3 = nn.Conv2d(128, 256, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(256)
        self.output = nn.Linear(256, out_dim)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits ``[B, out_dim]`` of images ``[B, in_channels, H, W]`` in [-1, 1], of any size."""
        x = first - second if self.mode == "diff" else torch.cat((first, second), 1)
        x = F.relu(self.bn0(self.conv0(x)))
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.output(x.mean((2, 3)))
