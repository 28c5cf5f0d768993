"""From images in [-1, 1] to what a network was trained to see."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocess"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation = Literal["bilinear", "bicubic", "nearest"]

_GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601)."""


class Preprocess(nn.Module):
    """Prepare images for a network: channels, size, range, normalisation, in that order. Differentiable.

    Without arguments the image stays as it is.

    Args:
        size: height and width that the network gets, one number for a square; None keeps the image's.
        resize: length of the shorter side before ``size`` is cut out of the middle; without it the whole image is
            resized to ``size``, whatever its proportions, as published.
        mean: of the channels after scaling to ``range``, subtracted; ``"imagenet"`` for ImageNet's.
        std: what the channels are then divided by; ``"imagenet"`` for ImageNet's.
        range: the values that -1 and 1 become; None is [0, 1] where ``mean`` or ``std`` is given, else [-1, 1].
        antialias: smooth before shrinking. Published representations were made without.
        interpolation: how to resize; corners are not aligned.
        channels: 3 repeats a grey image, 1 makes a coloured one grey; None keeps the image's.

    References:
        Rombach, Esser, Ommer, "Making Sense of CNNs: Interpreting Deep Representations & Their Invariances with
        INNs", 2020, arXiv:2008.01777: the published networks get images that are resized with bilinear
        interpolation, without antialiasing, and normalised.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        resize: int | None = None,
        mean: Sequence[float] | Literal["imagenet"] | None = None,
        std: Sequence[float] | Literal["imagenet"] | None = None,
        range: Sequence[float] | None = None,
        antialias: bool = False,
        interpolation: Interpolation = "bilinear",
        channels: Literal[1, 3] | None = None,
    ) -> None:
        super().__init__()
        for mistake in self.check(size, resize, mean, std, range, antialias, interpolation, channels):
            raise ValueError(mistake)
        self.size = (size, size) if isinstance(size, int) else None if size is None else (int(size[0]), int(size[1]))
        self.resize, self.antialias, self.interpolation, self.channels = resize, antialias, interpolation, channels
        normalised = mean is not None or std is not None
        self.range = (0.0, 1.0) if range is None and normalised else (-1.0, 1.0) if range is None else tuple(range)
        # Numbers of the arguments, not of training: they move with the module, and stay out of checkpoints.
        self.register_buffer("mean", _column(IMAGENET_MEAN if mean == "imagenet" else mean), persistent=False)
        self.register_buffer("std", _column(IMAGENET_STD if std == "imagenet" else std), persistent=False)

    @staticmethod
    def check(
        size: Any = None,
        resize: Any = None,
        mean: Any = None,
        std: Any = None,
        range: Any = None,
        antialias: Any = False,
        interpolation: Any = "bilinear",
        channels: Any = None,
    ) -> Iterator[str]:
        """What is wrong with the arguments, each in words."""
        sides = [size] if isinstance(size, int) else size
        if sides is not None and not (_numbers(sides) and len(sides) in (1, 2) and all(_whole(s) for s in sides)):
            yield f"size: expected a number of pixels >= 1, or height and width, found {size!r}"
        elif resize is not None and not (_whole(resize) and sides and resize >= max(sides)):
            yield f"resize: expected the length of the shorter side, at least size, found {resize!r} (size {size!r})"
        for name, value in (("mean", mean), ("std", std)):
            if value is not None and value != "imagenet" and not (_numbers(value) and len(value) in (1, 3)):
                yield f"{name}: expected imagenet, or 1 or 3 numbers, found {value!r}"
            elif name == "std" and _numbers(value) and not all(number > 0 for number in value):
                yield f"std: expected numbers > 0, found {value!r}"
        if range is not None and not (_numbers(range) and len(range) == 2 and range[0] < range[1]):
            yield f"range: expected two numbers, the lower first, found {range!r}"
        if not isinstance(antialias, bool):
            yield f"antialias: expected true or false, found {antialias!r}"
        if interpolation not in get_args(Interpolation):
            yield f"interpolation: expected {', '.join(get_args(Interpolation))}, found {interpolation!r}"
        if channels not in (None, 1, 3) or isinstance(channels, bool):
            yield f"channels: expected 1 or 3, found {channels!r}"

    @classmethod
    def named(cls, what: str | Mapping[str, Any] | None) -> Preprocess:
        """From the words of a configuration: None or ``none``, ``imagenet``, or a mapping of the arguments.

        Raises:
            ValueError: something else.
        """
        for mistake in mistakes(what):
            raise ValueError(f"preprocess: {mistake}")
        if isinstance(what, Mapping):
            return cls(**what)
        return cls(mean="imagenet", std="imagenet") if what == "imagenet" else cls()

    def forward(self, image: Tensor) -> Tensor:
        """Network inputs ``[B, C', H', W']`` of images ``[B, C, H, W]`` in [-1, 1].

        Raises:
            ValueError: no such images, or of a number of channels that does not fit.
        """
        if image.ndim != 4 or not image.is_floating_point():
            raise ValueError(f"expected images [B, C, H, W] in [-1, 1], found {image.dtype} {list(image.shape)}")
        image = self._coloured(image)
        if self.size is not None:
            image = self._resized(image, self.size)
        if self.range != (-1.0, 1.0):
            low, high = self.range
            image = (image + 1) * ((high - low) / 2) + low
        for numbers in (self.mean, self.std):
            if numbers is not None and image.shape[1] not in (1, numbers.shape[1]) and numbers.shape[1] != 1:
                raise ValueError(
                    f"images have {image.shape[1]} channels, mean and std {numbers.shape[1]}; "
                    "preprocess.channels changes the image's"
                )
        image = image if self.mean is None else image - self.mean
        return image if self.std is None else image / self.std

    def _coloured(self, image: Tensor) -> Tensor:
        if self.channels is None or image.shape[1] == self.channels:
            return image
        if image.shape[1] not in (1, 3):
            raise ValueError(f"preprocess.channels: expected images of 1 or 3 channels, found {image.shape[1]}")
        if self.channels == 3:
            return image.expand(-1, 3, -1, -1)
        return (image * image.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)

    def _resized(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        if self.resize is not None:
            height, width = image.shape[2:]
            short = min(height, width)
            image = self._scaled(image, (self.resize * height // short, self.resize * width // short))
            top, left = (round((image.shape[2 + i] - size[i]) / 2) for i in (0, 1))
            return image[:, :, top : top + size[0], left : left + size[1]]
        return self._scaled(image, size)

    def _scaled(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(image.shape[2:]) == size:
            return image
        if self.interpolation == "nearest":
            return F.interpolate(image, size, mode="nearest")
        return F.interpolate(image, size, mode=self.interpolation, align_corners=False, antialias=self.antialias)


def mistakes(what: Any) -> Iterator[str]:
    """What is wrong with a description of the preprocessing."""
    if isinstance(what, Mapping):
        known = list(inspect.signature(Preprocess).parameters)
        unknown = [key for key in what if key not in known]
        if unknown:
            yield f"unknown key {unknown[0]}; known: {', '.join(known)}"
        else:
            yield from Preprocess.check(**what)
    elif what not in (None, "none", "imagenet", "weights"):
        yield f"expected none, imagenet, weights, or a mapping such as {{size: 224, mean: imagenet}}, found {what!r}"


def _column(numbers: Sequence[float] | str | None) -> Tensor | None:
    if numbers is None:
        return None
    return torch.tensor([float(number) for number in numbers]).view(1, -1, 1, 1)


def _numbers(values: Any) -> bool:
    return isinstance(values, Sequence) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
