"""The digit network that ships with the package: it judges swaps and gives the features of ``fd_digits``.

A small convolutional classifier of MNIST digits, trained by ``scripts/make_digits.py`` on the training split; the
test split was used for nothing but the accuracy that is recorded beside the weights.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["WEIGHTS", "DigitNetwork", "digits", "grey"]

WEIGHTS = Path(__file__).with_name("digits.pt")
"""``state`` (float16 tensors), ``test_accuracy`` and ``trained_by``."""


class DigitNetwork(nn.Module):
    """Classify 32x32 digits, grey or coloured.

    Args:
        width: channels of the first block; the features are ``4 * width``.
    """

    layer_names: ClassVar = {"conv1": "blocks.3", "conv2": "blocks.7", "conv3": "blocks.11"}
    """What `iin.models.Layer` calls the blocks' outputs: convolution, normalisation, ReLU, pooling."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *_block(1, width, 5),  # 32 x 32 -> 16 x 16
            *_block(width, 2 * width, 3),  # -> 8 x 8
            *_block(2 * width, 4 * width, 3),  # -> 4 x 4
        )
        self.squeeze = nn.Linear(4 * width * 4 * 4, 4 * width)
        self.norm = nn.BatchNorm1d(4 * width)
        self.logits = nn.Linear(4 * width, 10)
        self.test_accuracy = float("nan")

    def features(self, image: Tensor) -> Tensor:
        """Penultimate activations.

        Args:
            image: ``[B, 1 or 3, 32, 32]`` in [-1, 1].

        Returns:
            ``[B, 64]``, non-negative.

        Raises:
            ValueError: another shape.
        """
        if image.ndim != 4 or image.shape[1] not in (1, 3) or image.shape[2:] != (32, 32):
            raise ValueError(f"the digit network looks at images [B, 1 or 3, 32, 32], found {list(image.shape)}")
        maps = self.blocks(grey(image))  # [B, 4 * width, 4, 4]
        return F.relu(self.norm(self.squeeze(maps.flatten(1))))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``[B, 10]`` of images ``[B, 1 or 3, 32, 32]`` in [-1, 1]."""
        return self.logits(self.features(image))


def grey(image: Tensor) -> Tensor:
    """Grey version of an image that was tinted by a colour factor: ``[B, C, H, W]`` -> ``[B, 1, H, W]`` in [-1, 1].

    A tinted digit is a grey one times a colour, channel by channel: its stroke is +colour, its background -colour. The
    mean over channels is the grey image times the mean colour, and dividing by the largest absolute value undoes that.
    A grey digit, whose background is -1, is left as it is; an all but black image is not amplified.
    """
    mean = image.mean(1, keepdim=True)
    return mean / mean.abs().amax((1, 2, 3), keepdim=True).clamp_min(1 / 128)  # 1/128: a grey level


@lru_cache(maxsize=4)
def _load(device: str) -> DigitNetwork:
    stored = torch.load(WEIGHTS, map_location="cpu", weights_only=True)
    # Initialising draws numbers, and figures must not depend on who loaded first; nor on whether that was a rehearsal
    # without memory.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        network = DigitNetwork()
    network.load_state_dict(stored["state"])
    network.test_accuracy = stored["test_accuracy"]
    # channels_last halves the time on a CPU.
    return network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def digits(device: torch.device | str = "cpu") -> DigitNetwork:
    """The trained network, frozen and in eval mode; one for all callers, so leave it as it is.

    Its accuracy on the MNIST test images is ``digits().test_accuracy``.
    """
    return _load(str(device))


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """Digest of the weights: names what made a figure."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


def _block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Two convolutions would see more, but cost twice; one and a wide first kernel reach what MNIST allows."""
    return [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
