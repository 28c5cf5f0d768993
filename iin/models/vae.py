"""Convolutional variational autoencoders with a Bernoulli likelihood, of any layout of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iin.arguments import Count
from iin.flows.base import at_least_single
from iin.models.autoencoder import check_images
from iin.models.gaussian import Gaussian

__all__ = ["ConvVAE", "natural_vae", "study_vae", "threedots_vae"]

Padding = Literal["valid", "same"]


class ConvVAE(nn.Module):
    """Convolutions and dense layers to a code of ``dim`` numbers, and back to logits of pixels.

    Images are in [-1, 1] outside, as everywhere in this package, and in [0, 1] inside, where each value has a Bernoulli
    distribution. The encoder is convolutions, dense layers, and a dense layer each for mean and log-variance; the
    decoder dense layers, a map of ``start x start`` pixels, and transposed convolutions that enlarge it by their
    strides, of which the surplus is cut off, the odd pixel at the right and at the bottom. ReLU follows every layer but
    those that answer.

    The defaults are the published network for images of 64x64.

    Args:
        channels: of the images.
        size: height and width of the images; ``start`` times the decoder's strides.
        dim: size ``L`` of the code.
        encoder: channels of the encoder's convolutions.
        encoder_kernels: their kernels; one number is meant for all.
        encoder_strides: their strides; likewise.
        encoder_dense: widths of the encoder's dense layers.
        decoder_dense: widths of the decoder's dense layers; the last one's is ``start^2`` times the map's channels.
        start: height and width of the map.
        decoder: channels of the transposed convolutions but the last, which answers ``channels``.
        decoder_kernels: their kernels, the last one's included; one number is meant for all.
        decoder_strides: their strides; likewise.
        padding: of the encoder's convolutions: ``valid``, none; ``same``, so that a stride of 2 halves.
        logvar_shift: added to the log-variance's initial bias. At -3 noise starts with a deviation of 0.22.

    Raises:
        ValueError: sizes that do not go together.

    References:
        Local Disentanglement in Variational Auto-Encoders Using Jacobian L1 Regularization (Rhodes and Lee, 2021),
        arXiv:2106.02923, the published code
    """

    def __init__(
        self,
        channels: Count = 1,
        size: Count = 64,
        dim: Count = 10,
        encoder: Sequence[Count] = (32, 32, 64, 64),
        encoder_kernels: Count | Sequence[Count] = 4,
        encoder_strides: Count | Sequence[Count] = 2,
        encoder_dense: Sequence[Count] = (256,),
        decoder_dense: Sequence[Count] = (256, 1024),
        start: Count = 4,
        decoder: Sequence[Count] = (64, 32, 32),
        decoder_kernels: Count | Sequence[Count] = 4,
        decoder_strides: Count | Sequence[Count] = 2,
        padding: Padding = "valid",
        logvar_shift: float = -3.0,
    ) -> None:
        super().__init__()
        layout = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        for mistake in self.check(**layout):
            raise ValueError(f"ConvVAE: {mistake}")
        self.channels, self.size, self.dim, self.start, self.padding = channels, size, dim, start, padding
        self.encoder_kernels, self.encoder_strides = _each(encoder_kernels, encoder), _each(encoder_strides, encoder)
        widths = (*decoder, channels)
        self.decoder_kernels, self.decoder_strides = _each(decoder_kernels, widths), _each(decoder_strides, widths)
        left = _encoded(size, self.encoder_kernels, self.encoder_strides, padding)
        flat = (*encoder, channels)[len(encoder) - 1 if encoder else 0] * left**2
        dense = (flat, *encoder_dense)
        # The order of the published weights.
        self.mean = nn.Linear(dense[-1], dim)
        self.logvar = nn.Linear(dense[-1], dim)
        self.encoder = nn.ModuleList(
            nn.Conv2d(before, after, kernel, stride)
            for (before, after), kernel, stride in zip(
                pairwise((channels, *encoder)), self.encoder_kernels, self.encoder_strides, strict=True
            )
        )
        self.encoder_dense = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(dense))
        self.decoder_dense = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise((dim, *decoder_dense)))
        self.decoder = nn.ModuleList(
            # What is cut off on both sides alike need not be computed.
            nn.ConvTranspose2d(before, after, kernel, stride, padding=(kernel - stride) // 2)
            for (before, after), kernel, stride in zip(
                pairwise((decoder_dense[-1] // start**2, *widths)),
                self.decoder_kernels,
                self.decoder_strides,
                strict=True,
            )
        )
        with torch.no_grad():
            self.logvar.bias.add_(logvar_shift)

    @staticmethod
    def check(
        channels: Any = 1,
        size: Any = 64,
        dim: Any = 10,
        encoder: Any = (32, 32, 64, 64),
        encoder_kernels: Any = 4,
        encoder_strides: Any = 2,
        encoder_dense: Any = (256,),
        decoder_dense: Any = (256, 1024),
        start: Any = 4,
        decoder: Any = (64, 32, 32),
        decoder_kernels: Any = 4,
        decoder_strides: Any = 2,
        padding: Any = "valid",
        logvar_shift: Any = -3.0,
    ) -> Iterator[str]:
        """What is wrong with the arguments taken together."""
        mistaken = False
        widths = (*decoder, channels)
        for name, value, layers in (
            ("encoder_kernels", encoder_kernels, encoder),
            ("encoder_strides", encoder_strides, encoder),
            ("decoder_kernels", decoder_kernels, widths),
            ("decoder_strides", decoder_strides, widths),
        ):
            if not isinstance(value, int) and len(value) != len(layers):
                mistaken = True
                yield f"{name}: expected one number, or one for each of {len(layers)} layers, found {len(value)}"
        if not decoder_dense or decoder_dense[-1] % start**2:
            mistaken = True
            found = decoder_dense[-1] if decoder_dense else "none"
            yield f"decoder_dense: expected a last width that is a multiple of start^2 = {start**2}, found {found}"
        if mistaken:
            return
        kernels, strides = _each(decoder_kernels, widths), _each(decoder_strides, widths)
        if any(kernel < stride for kernel, stride in zip(kernels, strides, strict=True)):
            yield "decoder_kernels: a kernel smaller than its stride leaves gaps"
        if start * math.prod(strides) != size:
            yield f"size {size}: the decoder makes images of {start * math.prod(strides)}, start times its strides"
        if _encoded(size, _each(encoder_kernels, encoder), _each(encoder_strides, encoder), padding) < 1:
            yield f"size {size}: too small for the encoder's {len(encoder)} convolutions"

    def encode(self, image: Tensor) -> Gaussian:
        """Posterior over codes ``[B, L]`` of images ``[B, C, H, W]`` in [-1, 1].

        Raises:
            ValueError: images of another shape.
        """
        check_images(image, self.channels, self.size, "ConvVAE")
        x = (image + 1) / 2
        for layer, kernel, stride in zip(self.encoder, self.encoder_kernels, self.encoder_strides, strict=True):
            x = F.relu(layer(_padded(x, kernel, stride) if self.padding == "same" else x))
        x = x.flatten(1)
        for layer in self.encoder_dense:
            x = F.relu(layer(x))
        return Gaussian(self.mean(x), self.logvar(x))

    def logits(self, z: Tensor) -> Tensor:
        """Logits ``[B, C, H, W]`` of codes ``[B, L]``; their sigmoid is the image in [0, 1]."""
        for layer in self.decoder_dense:
            z = F.relu(layer(z))
        x = z.unflatten(1, (-1, self.start, self.start))
        side, last = self.start, len(self.decoder) - 1
        for k, (layer, stride) in enumerate(zip(self.decoder, self.decoder_strides, strict=True)):
            side *= stride
            x = layer(x)[..., :side, :side]
            x = F.relu(x) if k < last else x
        return x

    def decode(self, z: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` in [-1, 1] of codes ``[B, L]``: the means of their values' distributions."""
        return 2 * torch.sigmoid(at_least_single(self.logits(z))) - 1

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct images through the mean of their posterior."""
        return self.decode(self.encode(image).mean)


def threedots_vae(channels: Count = 1, dim: Count = 10) -> ConvVAE:
    """The published network for images of 64x64: three dots (1 channel), scenes of robots (3 channels).

    Args:
        channels: of the images.
        dim: size ``L`` of the code.
    """
    return ConvVAE(channels=channels, size=64, dim=dim)


def natural_vae(channels: Count = 1, dim: Count = 10) -> ConvVAE:
    """The published network for patches of natural images, 16x16.

    Args:
        channels: of the images.
        dim: size ``L`` of the code.
    """
    return ConvVAE(
        channels,
        16,
        dim,
        encoder=(64, 128),
        encoder_kernels=3,
        encoder_dense=(128,),
        decoder_dense=(128, 1024),
        decoder=(64, 32),
        decoder_kernels=3,
        decoder_strides=(2, 2, 1),
    )


def study_vae(channels: Count = 1, dim: Count = 10) -> ConvVAE:
    """The network that methods were compared with, for images of 64x64: smaller kernels in deeper layers, which are
    padded.

    Args:
        channels: of the images.
        dim: size ``L`` of the code.

    References:
        Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations
        (Locatello et al., 2018), arXiv:1811.12359, table 1
    """
    return ConvVAE(channels, 64, dim, encoder_kernels=(4, 4, 2, 2), padding="same", logvar_shift=0.0)


def _each(value: int | Sequence[int], layers: Sequence[int]) -> tuple[int, ...]:
    """A number for each layer."""
    return (value,) * len(layers) if isinstance(value, int) else tuple(value)


def _encoded(size: int, kernels: Sequence[int], strides: Sequence[int], padding: Padding) -> int:
    """Height and width after convolutions; less than 1 where they do not fit."""
    for kernel, stride in zip(kernels, strides, strict=True):
        size = -(-size // stride) if padding == "same" else (size - kernel) // stride + 1
        if size < 1:
            break
    return size


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Maps with zeros around them, so that a convolution answers one value for each stride; odd ones at the end."""
    size = x.shape[-1]
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    before = total // 2
    return F.pad(x, (before, total - before) * 2) if total else x
