"""Residual networks that look at images: one judges them, one tells which latent has changed between two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from iin.arguments import Count, NonNegativeInt
from iin.models.autoencoder import check_images
from iin.models.equalised import EqualConv2d, EqualLinear

__all__ = ["PairRecogniser", "ResidualDiscriminator", "group_deviation"]

GROUP = 4
"""Images whose deviation from each other is shown to a network."""


def group_deviation(x: Tensor, group: int = GROUP) -> Tensor:
    """Add a channel that holds how much images of a group differ.

    Groups are of ``group`` images, or of fewer where that does not divide the batch. Members of a group lie ``B``
    divided by its size apart. The channel has one value: the deviation over the group, averaged over all else.

    Args:
        x: maps ``[B, C, H, W]``.
        group: largest size of a group.

    Returns:
        ``[B, C + 1, H, W]``.

    Raises:
        ValueError: there are no images.
    """
    count = len(x)
    if not count:
        raise ValueError("group_deviation: expected at least 1 image, found none")
    size = next(size for size in range(min(group, count), 0, -1) if count % size == 0)
    groups = x.unflatten(0, (size, count // size))  # [G, M, C, H, W]
    variance = (groups - groups.mean(0)).square().mean(0)  # [M, C, H, W]
    deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))  # [M]
    channel = deviation.repeat(size)[:, None, None, None].expand(count, 1, *x.shape[2:])
    return torch.cat([x, channel], 1)


class _Block(nn.Module):
    """Two convolutions, of which the second halves the map, beside one that only does that."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualConv2d(inputs, inputs)
        self.second = EqualConv2d(inputs, outputs, resample="down")
        self.skip = EqualConv2d(inputs, outputs, 1, resample="down", bias=False, bend=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x)) + self.skip(x)) / math.sqrt(2)


class ResidualDiscriminator(nn.Module):
    """Judges whole images, and how much those of a batch differ.

    Residual blocks halve the image down to 4x4 pixels. There a channel is added that says how much images of a group
    differ (`group_deviation`), so an answer depends on the batch that an image comes in.

    Args:
        channels: of the images.
        size: their height and width: a power of 2, at least 8.
        outputs: numbers that it answers.
        width: of the layer before the answer. At ``4 2^n`` pixels there are ``width / 2^(n + 1)`` channels.
        most: channels at most.
        classes: how many classes it tells besides (`class_logits`), by way of another dense layer; 0 for none.

    Raises:
        ValueError: a size that cannot be halved down to 4x4.

    References:
        Analyzing and Improving the Image Quality of StyleGAN (Karras et al., 2019), arXiv:1912.04958, section 4.1
    """

    def __init__(
        self,
        channels: Count = 3,
        size: Count = 128,
        outputs: Count = 1,
        width: Count = 512,
        most: Count = 512,
        classes: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        for mistake in self.check(size=size):
            raise ValueError(f"{type(self).__name__}: {mistake}")
        self.channels, self.size, self.outputs, self.classes = channels, size, outputs, classes
        stages = size.bit_length() - 1

        def wide(stage: int) -> int:
            return min(max(width // 2**stage, 1), most)

        self.entry = EqualConv2d(channels, wide(stages - 1), 1)
        self.blocks = nn.ModuleList(_Block(wide(stage - 1), wide(stage - 2)) for stage in range(stages, 2, -1))
        self.last = EqualConv2d(wide(1) + 1, wide(1))
        self.dense = EqualLinear(wide(1) * 16, wide(0), bend=True)
        self.answer = EqualLinear(wide(0), outputs)
        head = (EqualLinear(wide(0), wide(0), bend=True), EqualLinear(wide(0), classes)) if classes else ()
        self.head = nn.Sequential(*head) if head else None

    @staticmethod
    def check(size: Any = 128, **_: Any) -> Iterator[str]:
        """What is wrong with the arguments."""
        if size < 8 or size & (size - 1):
            yield f"size: expected a power of 2 of at least 8, found {size}"

    def features(self, image: Tensor) -> Tensor:
        """What is known before the answer: ``[B, width]``."""
        check_images(image, self.channels, self.size, type(self).__name__)
        x = self.entry(image)
        for block in self.blocks:
            x = block(x)
        return self.dense(self.last(group_deviation(x)).flatten(1))

    def forward(self, image: Tensor) -> Tensor:
        """Answers ``[B, outputs]`` to images ``[B, C, size, size]`` in [-1, 1]."""
        return self.answer(self.features(image))

    def class_logits(self, image: Tensor) -> Tensor:
        """Logits of classes ``[B, classes]``.

        Raises:
            ValueError: it tells none.
        """
        if self.head is None:
            raise ValueError("ResidualDiscriminator: tells no classes; set classes to their number")
        return self.head(self.features(image))


class PairRecogniser(nn.Module):
    """Tells which number of the code has changed between two images; it is trained with what makes these.

    This is not the network of the metric, `iin.metrics.variation.Recogniser`, which is trained afterwards, and looks
    at each pair by itself.

    Args:
        channels: of each image.
        size: their height and width: a power of 2, at least 8.
        outputs: numbers of the code.
        mode: both images behind each other (``concat``), or their difference (``diff``).
        width, most: see `ResidualDiscriminator`.

    Raises:
        ValueError: a size that cannot be halved down to 4x4.

    References:
        Learning Disentangled Representations with Latent Variation Predictability (Zhu, Xu and Tao, 2020),
        arXiv:2007.12885, the published code
    """

    def __init__(
        self,
        channels: Count = 3,
        size: Count = 128,
        outputs: Count = 10,
        mode: Literal["concat", "diff"] = "concat",
        width: Count = 512,
        most: Count = 512,
    ) -> None:
        super().__init__()
        for mistake in self.check(size=size):
            raise ValueError(f"PairRecogniser: {mistake}")
        self.channels, self.size, self.outputs, self.mode = channels, size, outputs, mode
        self.body = ResidualDiscriminator(channels * (2 if mode == "concat" else 1), size, outputs, width, most)

    check = staticmethod(ResidualDiscriminator.check)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits ``[B, outputs]`` of pairs of images, each ``[B, C, size, size]`` in [-1, 1]."""
        for image in (first, second):
            check_images(image, self.channels, self.size, type(self).__name__)
        return self.body(torch.cat([first, second], 1) if self.mode == "concat" else first - second)
