"""The critics of adversarial training: of patches of images, and of codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iin.arguments import Count
from iin.models.norm import NormName, norm

__all__ = ["CodeDiscriminator", "PatchDiscriminator", "SpectralConv2d"]

SLOPE = 0.2
"""Of the LeakyReLU."""

MOST = 8
"""Channels grow to so many times the width, no further."""


class PatchDiscriminator(nn.Module):
    """Convolutions that judge every patch of an image by itself: the higher a logit, the more real its patch.

    ``layers`` convolutions halve the image, two more look around without halving; all kernels are 4x4. Entries of
    the state have the names of the published discriminator's, and load from its state as they are.

    Args:
        channels: of the images.
        width: channels after the first halving; they double up to eight times this.
        layers: how often the image is halved; patches are 16, 34, 70 or 142 pixels wide for 1, 2, 3 or 4 of them.
        norm: normalisation layer.
        spectral_norm: divide every weight by its largest singular value (`SpectralConv2d`).

    References:
        | Image-to-Image Translation with Conditional Adversarial Networks (Isola et al., 2016), arXiv:1611.07004
        | A Disentangling Invertible Interpretation Network for Explaining Latent Representations
          (Esser, Rombach and Ommer, 2020), arXiv:2004.13166, the published code
    """

    def __init__(
        self,
        channels: Count = 1,
        width: Count = 64,
        layers: Count = 3,
        norm: NormName = "batch",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.width, self.layers = channels, width, layers
        self.norm, self.spectral_norm = norm, spectral_norm
        self.main = _layers(channels, width, layers, norm, SpectralConv2d if spectral_norm else nn.Conv2d)
        self.reset_parameters()

    @property
    def smallest(self) -> int:
        """Height and width of the smallest image that leaves a logit."""
        return 3 * 2**self.layers

    def reset_parameters(self) -> None:
        """Draw weights from N(0, 0.02), factors of batch normalisation from N(1, 0.02), as published."""
        for module in self.modules():
            if isinstance(module, SpectralConv2d):
                nn.init.normal_(module.weight_orig, 0.0, 0.02)
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``[B, 1, h, w]``, one a patch, of images ``[B, C, H, W]``.

        Raises:
            ValueError: images of other channels, or smaller than `smallest`.
        """
        if image.ndim != 4 or image.shape[1] != self.channels:
            raise ValueError(
                f"PatchDiscriminator: expected images [B, {self.channels}, H, W], found {list(image.shape)}: set its "
                "channels to those of the data"
            )
        if min(image.shape[2:]) < self.smallest:
            raise ValueError(
                f"PatchDiscriminator: {self.layers} layers need images of at least {self.smallest}x{self.smallest}, "
                f"found {image.shape[2]}x{image.shape[3]}: set fewer layers"
            )
        return self.main(image)


def _layers(channels: int, width: int, layers: int, norm_name: NormName, conv: type[nn.Module]) -> nn.Sequential:
    """The stack; places in it are the numbers in the names of the state's entries."""
    made: list[nn.Module] = [conv(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
    before = width
    for halvings in range(1, layers + 1):
        into = width * min(2**halvings, MOST)
        stride = 2 if halvings < layers else 1  # the first convolution has halved already
        # No bias: the normalisation that follows has one.
        made += [
            conv(before, into, 4, stride=stride, padding=1, bias=False),
            norm(norm_name, into),
            nn.LeakyReLU(SLOPE),
        ]
        before = into
    made.append(conv(before, 1, 4, stride=1, padding=1))
    return nn.Sequential(*made)


class SpectralConv2d(nn.Module):
    """Convolution whose weight is divided by an estimate of its largest singular value.

    Each forward in training mode makes one step of the power iteration, from the vectors that the last one ended
    with; in evaluation they stay. The gradient knows that the estimate depends on the weight. Torch has two
    implementations of its own: the older one cannot be copied once it was called, and the newer one iterates in another
    order, so that recorded vectors would give other values.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: height and width of the kernel.
        stride: as in `torch.nn.Conv2d`.
        padding: as in `torch.nn.Conv2d`.
        bias: add a constant to each channel.

    References:
        Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018), arXiv:1802.05957
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(
        self, inputs: Count, outputs: Count, kernel: Count, *, stride: Count = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        ordinary = nn.Conv2d(inputs, outputs, kernel, bias=bias)
        self.weight_orig = ordinary.weight
        self.bias = ordinary.bias
        for name, size in (("weight_u", outputs), ("weight_v", inputs * kernel * kernel)):
            self.register_buffer(name, F.normalize(torch.randn(size), dim=0, eps=1e-12))

    def weight(self) -> Tensor:
        """The weight that is applied ``[outputs, inputs, kernel, kernel]``; in training mode the estimate improves."""
        matrix = self.weight_orig.flatten(1)  # [outputs, inputs * kernel * kernel]
        u, v = self.weight_u, self.weight_v
        if self.training:
            with torch.no_grad():
                v = F.normalize(matrix.T @ u, dim=0, eps=1e-12)
                u = F.normalize(matrix @ v, dim=0, eps=1e-12)
                # The graph holds u and v themselves, so that the next forward, which writes here, does not break it.
                self.weight_u.copy_(u)
                self.weight_v.copy_(v)
        return self.weight_orig / (u @ (matrix @ v))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight(), self.bias, stride=self.stride, padding=self.padding)


class CodeDiscriminator(nn.Module):
    """Tells codes whose numbers belong together from codes whose numbers were put together at random.

    Dense layers with LeakyReLU, and two logits: of class 0, codes as they are, and of class 1.

    Args:
        dim: size ``L`` of the code.
        hidden: width of the layers.
        depth: how many there are before the logits.

    References:
        Disentangling by Factorising (Kim and Mnih, 2018), arXiv:1802.05983, appendix A
    """

    def __init__(self, dim: Count = 10, hidden: Count = 1000, depth: Count = 6) -> None:
        super().__init__()
        self.dim = dim
        layers: list[nn.Module] = []
        for before in (dim, *[hidden] * (depth - 1)):
            layers += [nn.Linear(before, hidden), nn.LeakyReLU(SLOPE)]
        self.main = nn.Sequential(*layers, nn.Linear(hidden, 2))

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``[B, 2]`` of codes ``[B, L]``."""
        return self.main(z)
