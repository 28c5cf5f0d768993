"""What layers answer, in one of two arrangements: vectors ``[B, C]`` or maps ``[B, C, H, W]``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["Layout", "arrange", "pick", "told"]

Layout = Literal["auto", "channels_first", "channels_last", "tokens"]

Shape = tuple[int, ...]

_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
    nn.PixelShuffle,
)
"""Modules that know channels as the second dimension only."""


def pick(value: Any, item: int | str | None, where: str) -> Tensor:
    """The tensor in what a layer answers.

    Args:
        value: a tensor, or a tuple, list or mapping that ``item`` chooses from.
        item: index or key; None for a layer that answers a tensor.
        where: what the layer is called in messages.

    Raises:
        ValueError: there is no tensor, or no such item.
    """
    if item is not None:
        if isinstance(value, Tensor):
            raise ValueError(f"{where} answers one tensor {list(value.shape)}; leave out item, found {item!r}")
        try:
            value = value[item]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"{where} answers {told(value)}, which has no item {item!r}") from None
    if not isinstance(value, Tensor):
        advice = "choose one of it with item" if isinstance(value, (tuple, list, dict)) else "choose another layer"
        raise ValueError(f"{where} answers {told(value)}; expected a tensor: {advice}")
    if not value.is_floating_point():
        raise ValueError(f"{where} answers {value.dtype} {list(value.shape)}; expected floating point numbers")
    return value


def told(value: Any) -> str:
    """What a layer answers, in words."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, dict):
        inner = ", ".join(f"{key!r}: {told(each)}" for key, each in list(value.items())[:6])
        return f"a {type(value).__name__} {{{inner}{', ...' if len(value) > 6 else ''}}}"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(f"{index}: {told(each)}" for index, each in enumerate(value[:6]))
        return f"a {type(value).__name__} of {len(value)} ({inner}{', ...' if len(value) > 6 else ''})"
    return f"a {type(value).__name__}"


def arrange(
    value: Tensor,
    image: Shape,
    where: str,
    layout: Layout = "auto",
    module: nn.Module | None = None,
    network: nn.Module | None = None,
    elsewhere: Callable[[], Shape | None] = lambda: None,
) -> Tensor:
    """Bring what a layer answers into one of the two arrangements.

    ``[B]`` becomes ``[B, 1]``; ``[B, C, 1, 1]`` becomes ``[B, C]``; maps with channels last become ``[B, C, H, W]``.
    Tokens ``[B, N, C]`` become a map without class and register tokens where what is left is a grid in the
    proportions of the image; else their mean over all tokens, ``[B, C]``.

    Where ``layout`` is ``auto``, three dimensions are tokens. Four are a map, and where its channels are is found out
    from, in this order: the module's class, where it allows only one answer; which dimensions have the proportions of
    the image; which dimensions change with the size of the image; the network's own word (``output_fmt``, as timm has
    it). If all that leaves it open, channels are the second dimension.

    Args:
        value: of any number of dimensions, the batch first.
        image: shape ``[B, C, H, W]`` of the network's input.
        where: what the layer is called in messages.
        layout: what the dimensions are.
        module: whose answer it is, if known.
        network: that the module is part of; it may know its grid of tokens.
        elsewhere: the shape of the same layer's answer at another image size, asked for only if it decides; None if
            that is not to be had.

    Raises:
        ValueError: no arrangement of these dimensions is known.
    """
    batch, dims = image[0], value.ndim
    if dims == 0 or len(value) != batch:
        raise ValueError(
            f"{where} answers {list(value.shape)} for {batch} images; expected the images in the first dimension"
        )
    if dims == 1:
        return value[:, None]
    if dims == 2:
        return value
    if dims == 3 and layout in ("auto", "tokens"):
        return _from_tokens(value, image, network)
    if dims == 3:
        return _from_tokens(value if layout == "channels_last" else value.transpose(1, 2), image, network)
    if dims == 4 and layout != "tokens":
        if layout == "auto":
            layout = _channels(tuple(value.shape), image, module, network, elsewhere)
        maps = value if layout == "channels_first" else value.permute(0, 3, 1, 2)
        return maps.flatten(1) if maps.shape[2:] == (1, 1) else maps.contiguous()
    raise ValueError(
        f"{where} answers {list(value.shape)}, which layout {layout} does not arrange; "
        "expected [B, C], [B, C, H, W], [B, H, W, C] or [B, N, C]"
    )


def _channels(
    shape: Shape,
    image: Shape,
    module: nn.Module | None,
    network: nn.Module | None,
    elsewhere: Callable[[], Shape | None],
) -> Layout:
    """Where the channels of a map are."""
    if isinstance(module, _FIRST):
        return "channels_first"
    # Subclasses that permute around the call, such as LayerNorm2d of timm, are not meant.
    if type(module) is nn.Linear or type(module) is nn.LayerNorm:
        return "channels_last"
    first = _like(shape[2], shape[3], image)
    last = _like(shape[1], shape[2], image)
    if first != last:
        return "channels_first" if first else "channels_last"
    other = elsewhere()
    if other is not None and len(other) == 4:
        changed = [a != b for a, b in zip(shape[1:], other[1:], strict=True)]
        if changed[0] != changed[2]:
            return "channels_first" if changed[2] else "channels_last"
    return "channels_last" if getattr(network, "output_fmt", None) == "NHWC" else "channels_first"


def _like(height: int, width: int, image: Shape) -> bool:
    """Whether a map may be the image, shrunk by one factor; each side is rounded up or down."""
    (h_low, h_high), (w_low, w_high) = (
        (side / (small + 1), side / (small - 1) if small > 1 else math.inf)
        for side, small in zip(image[2:], (height, width), strict=True)
    )
    return max(h_low, w_low) < min(h_high, w_high)


def _from_tokens(value: Tensor, image: Shape, network: nn.Module | None) -> Tensor:
    grid = _grid(value.shape[1], image, network)
    if grid is None:
        return value.mean(1)
    height, width = grid
    patches = value[:, value.shape[1] - height * width :]  # class and register tokens stand in front
    maps = patches.transpose(1, 2).unflatten(2, (height, width))
    return maps.flatten(1) if grid == (1, 1) else maps.contiguous()


def _grid(count: int, image: Shape, network: nn.Module | None) -> tuple[int, int] | None:
    """Rows and columns of the patches among so many tokens."""
    known = _known_grid(image, network)
    extra = getattr(network, "num_prefix_tokens", None)
    if not isinstance(extra, int):
        extra = 1 if isinstance(getattr(network, "class_token", None), Tensor) else None
    if known is not None and count - known[0] * known[1] in {0, extra or 0, 1, 2}:
        return known
    # A network that does not say: a class token, one for distillation too, or one with four registers.
    for front in dict.fromkeys(n for n in (extra, 0, 1, 2, 5) if n is not None):
        if count > front:
            found = _proportional(count - front, image)
            if found is not None:
                return found
    return None


def _known_grid(image: Shape, network: nn.Module | None) -> tuple[int, int] | None:
    """Rows and columns of patches that the network cuts this image into, where it says so."""
    patch = getattr(network, "patch_size", None)
    if patch is None:
        patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if isinstance(patch, int):
        patch = (patch, patch)
    if not isinstance(patch, (tuple, list)) or len(patch) != 2 or not all(isinstance(p, int) and p > 0 for p in patch):
        return None
    height, width = image[2] // patch[0], image[3] // patch[1]
    return (height, width) if height and width else None


def _proportional(count: int, image: Shape) -> tuple[int, int] | None:
    """Rows and columns in the proportions of the image, or nothing."""
    rows = math.isqrt(round(count * image[2] / image[3]))
    for height in (rows, rows + 1):
        if height and count % height == 0 and height * image[3] == count // height * image[2]:
            return height, count // height
    return None


def shape_of(value: Any) -> Any:
    """The same structure without the numbers: tensors that hold a shape alone."""
    if isinstance(value, Tensor):
        return torch.empty_like(value, device="meta")
    if isinstance(value, dict):
        return {key: shape_of(each) for key, each in value.items()}
    if type(value) in (tuple, list):  # those with names, such as outputs of torch.return_types, are told as they are
        return type(value)(shape_of(each) for each in value)
    return value
