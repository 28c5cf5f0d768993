"""The autoencoder of natural images whose decoder is BigGAN's generator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import torch
from annotated_types import Ge, Len
from torch import Tensor, nn

from iin.arguments import Count, NonNegativeInt
from iin.models.autoencoder import check_images
from iin.models.biggan import FinalNorm, Generator, Size, Width, check_codes
from iin.models.gaussian import Gaussian
from iin.models.norm import NormName, norm

__all__ = ["BigAE"]

SIZE: Size = 128
"""Height and width of the images."""

PART = 20
"""Numbers of the code that condition each block of the decoder; the first map gets those that are left."""

BLOCKS = 5
"""Blocks of the decoder."""

EMBEDDING = 128
"""Size of the class embedding."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's images, in [0, 1]."""


class BigAE(nn.Module):
    """Variational autoencoder of colour images of 128 x 128 pixels: a ResNet encodes, BigGAN's generator decodes.

    The decoder makes a distribution over classes of the code (`classes_of`), whose mean embedding stands where BigGAN
    has that of one class; and it cuts the code, as BigGAN cuts its latent.

    Args:
        dim: size ``D`` of the code; more than the 100 numbers that the decoder's blocks take.
        norm: normalisation of the encoder.
        final_norm: normalisation behind the decoder's last block.
        classes: of the distribution that the decoder makes of the code.
        hidden: width of the network that makes it.
        depth: its hidden layers after the first one.
        width: channels after the decoder's last block; a multiple of 4.
        layers: residual blocks in each of the encoder's four stages; the default is a ResNet-101.
        double_normalisation: bring images to ImageNet's mean and deviation twice, the second time from what the first
            made of them, as if that were in [-1, 1]. The published code does so by mistake, and its weights were
            trained with it: they need it. Without, it is done once.
        deterministic: an autoencoder without posterior noise.

    Raises:
        ValueError: the code is too small.

    References:
        | Making Sense of CNNs: Interpreting Deep Representations & Their Invariances with INNs
          (Rombach, Esser and Ommer, 2020), arXiv:2008.01777, section 3 and the published code
        | Large Scale GAN Training for High Fidelity Natural Image Synthesis (Brock, Donahue and Simonyan, 2018),
          arXiv:1809.11096, appendix B
    """

    encoder: Any
    means: Tensor
    deviations: Tensor
    channels, size = 3, SIZE

    def __init__(
        self,
        dim: Annotated[int, Ge(PART * BLOCKS + 1)] = 128,
        norm: NormName = "batch",
        final_norm: FinalNorm = "batch",
        classes: Count = 1000,
        hidden: Count = 2000,
        depth: NonNegativeInt = 2,
        width: Width = 96,
        layers: Annotated[Sequence[Count], Len(4, 4)] = (3, 4, 23, 3),
        double_normalisation: bool = False,
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        if dim <= PART * BLOCKS:
            raise ValueError(f"BigAE: dim: expected more than {PART * BLOCKS}, found {dim}")
        self.dim, self.norm, self.final_norm, self.classes = dim, norm, final_norm, classes
        self.hidden, self.depth, self.width, self.layers = hidden, depth, width, tuple(layers)
        self.double_normalisation, self.deterministic = double_normalisation, deterministic
        self.encoder = _encoder(norm, layers, 2 * dim)
        sizes = [dim, *[hidden] * (depth + 1), classes]
        self.classifier = nn.Sequential()
        for inputs, outputs in pairwise(sizes):
            self.classifier.extend([nn.Linear(inputs, outputs), nn.LeakyReLU(0.01)])
        self.classifier[-1] = nn.Softmax(1)
        self.embed_class = nn.Linear(classes, EMBEDDING, bias=False)
        self.generator = Generator(SIZE, dim - PART * BLOCKS, PART, EMBEDDING, width, final_norm)
        # Constants: not of the state, and with values even where a network is built without memory.
        for name, values in (("means", MEAN), ("deviations", STD)):
            self.register_buffer(name, torch.tensor(values, device="cpu").view(3, 1, 1), persistent=False)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's last convolution: where adversarial training compares the strengths of its losses."""
        return self.generator.get_parameter("image.weight")

    def encode(self, image: Tensor) -> Gaussian:
        """Posterior over codes ``[B, D]`` of images ``[B, 3, 128, 128]`` in [-1, 1].

        Raises:
            ValueError: images of another shape.
        """
        check_images(image, self.channels, self.size, "BigAE")
        for _ in range(1 + self.double_normalisation):
            image = ((image + 1) / 2 - self.means) / self.deviations
        mean, logvar = self.encoder(image).chunk(2, dim=1)
        return Gaussian(mean, logvar, deterministic=self.deterministic)

    def classes_of(self, x: Tensor) -> Tensor:
        """The distribution over classes ``[B, classes]`` that the decoder makes of codes ``[B, D]``."""
        return self.classifier(x)

    def decode(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, 128, 128]`` in [-1, 1] of codes ``[B, D]``.

        Raises:
            ValueError: codes of another size.
        """
        check_codes(x, self.dim, "BigAE")
        return self.generator(x, self.embed_class(self.classes_of(x)))

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct images through the mean of their posterior."""
        return self.decode(self.encode(image).mean)


def _encoder(norm_name: NormName, layers: Sequence[int], out: int) -> nn.Module:
    """Normalised images ``[B, 3, H, W]`` to ``[B, out]``."""
    from torchvision.models.resnet import Bottleneck, ResNet  # takes a second, and few need it

    return ResNet(Bottleneck, list(layers), num_classes=out, norm_layer=partial(norm, norm_name))
