"""What a step costs, from the shapes of its networks: products, parameters, operations, and what backward needs.

A multiplication with the addition that follows counts as two operations of floating point ("flops").
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from bench.peers import Shape
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "MOMENTS",
    "Convolution",
    "Convolutions",
    "critic",
    "decoder",
    "encoder",
    "flow_flops",
    "flow_products",
    "kept_bytes",
    "operations",
    "step_flops",
    "vgg",
]

MOMENTS = 16
"""Bytes of a trained number: weight, gradient, and Adam's two moments, in single precision."""


# --- the flow --------------------------------------------------------------------------------------------------------


def flow_products(shape: Shape) -> int:
    """Multiplications of one vector's way through a flow: the weights of its networks, each once."""
    return shape.networks * sum(inputs * outputs for inputs, outputs in shape.layers)


def flow_flops(shape: Shape) -> int:
    """Flops of a training step for each vector: forward, and backward to the inputs and to the weights."""
    return 6 * flow_products(shape)


# --- convolutions ----------------------------------------------------------------------------------------------------


class Convolution(NamedTuple):
    """A convolution, or its transpose, by its channels, its kernel, and the side of its smaller map.

    ``side`` is that of the output; of a transpose, which is the same seen from behind, that of the input.
    """

    inputs: int
    outputs: int
    kernel: int
    side: int

    @property
    def flops(self) -> int:
        """Of one image, forward."""
        return 2 * self.inputs * self.outputs * self.kernel**2 * self.side**2


Convolutions = list[Convolution]


def _widths(width: int, count: int, most: int) -> list[int]:
    return [width * min(2**k, most) for k in range(count)]


def encoder(channels: int, size: int, dim: int, n_down: int = 4, width: int = 64) -> Convolutions:
    """The layers of `iin.models.Autoencoder`'s encoder."""
    widths = _widths(width, n_down, 16)
    layers = [
        Convolution(before, after, 4, size // 2 ** (k + 1))
        for k, (before, after) in enumerate(pairwise([channels, *widths]))
    ]
    side = size // 2**n_down
    return [*layers, Convolution(widths[-1], 2 * dim, side, 1)]


def decoder(channels: int, size: int, dim: int, n_down: int = 4, width: int = 64) -> Convolutions:
    """The layers of `iin.models.Autoencoder`'s decoder: the encoder's from behind, with one code instead of two."""
    *layers, dense = encoder(channels, size, dim, n_down, width)
    return [dense._replace(outputs=dim), *reversed(layers)]


def critic(channels: int, size: int, layers: int = 3, width: int = 64) -> Convolutions:
    """The layers of `iin.models.PatchDiscriminator`."""
    found = [Convolution(channels, width, 4, size // 2)]
    side = size // 2
    widths = _widths(width, layers + 1, 8)
    for k, (before, after) in enumerate(itertools.pairwise(widths), 1):
        side = side // 2 if k < layers else side - 1  # the last one does not halve
        found.append(Convolution(before, after, 4, side))
    return [*found, Convolution(widths[-1], 1, 4, side - 1)]


def vgg(size: int) -> Convolutions:
    """The thirteen convolutions of VGG16, which the perceptual distance looks through."""
    found, channels = [], 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            found.append(Convolution(channels, width, 3, size))
            channels = width
        size //= 2
    return found


def flops(layers: Convolutions) -> int:
    """Of one image, forward through all of them."""
    return sum(layer.flops for layer in layers)


def step_flops(
    channels: int, size: int, dim: int, n_down: int = 4, width: int = 64, layers: int = 0, perceptual: bool = False
) -> int:
    """Flops of an autoencoder's training step for each image; of both players, where there are two.

    Args:
        channels, size, dim, n_down, width: of the autoencoder.
        layers: of a discriminator that takes part, with the adaptive weight; 0 for none.
        perceptual: there is a perceptual distance in VGG16.
    """
    first, second = encoder(channels, size, dim, n_down, width), decoder(channels, size, dim, n_down, width)
    # Backward is two products a layer. Nobody asks for the gradient of an image.
    total = 3 * (flops(first) + flops(second)) - first[0].flops
    if layers:
        judge = critic(channels, size, layers, width)
        total += 3 * flops(judge) - judge[0].flops  # of images
        total += 4 * flops(judge)  # of reconstructions: forward, the generator's gradient, and the discriminator's two
        total += 2 * second[-1].flops  # the strength of both gradients at the decoder's last layer
    if perceptual:
        total += 3 * flops(vgg(size))  # images and reconstructions forward, and back to the reconstructions
    return total


# --- what is counted -------------------------------------------------------------------------------------------------


_FREE = r"_unsafe_view|_reshape_alias|empty|new_empty"
"""Names of operations that only look, or take memory, and are not called views."""


class _Counter(TorchDispatchMode):
    """Counts operations that compute something: not those that only look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and func.namespace == "aten" and not re.match(_FREE, func.__name__)
        return func(*args, **(kwargs or {}))


def operations(step: Callable[[], object]) -> int:
    """How many operations a step consists of; on a GPU, each of them is started by the processor."""
    with _Counter() as counter:
        step()
    return counter.count


def kept_bytes(loss: Callable[[], object], parameters: Any) -> int:
    """Bytes that are kept from forward until backward has used them, without the parameters themselves.

    Args:
        loss: runs forward.
        parameters: tensors that are there anyway.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, tuple[int, Tensor]] = {}

    def seen(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that nobody else gets this address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        loss()
    return sum(size for size, _ in kept.values())
