"""The convolutional classifier: a network to be interpreted, and a first stage without a decoder."""

from __future__ import annotations

from torch import Tensor, nn

from iin.arguments import Count
from iin.models.autoencoder import check_images, encoder
from iin.models.gaussian import Gaussian
from iin.models.norm import NormName

__all__ = ["Classifier"]


class Classifier(nn.Module):
    """The autoencoder's encoder with a linear layer on its code.

    Args:
        channels: of the images.
        size: height and width of the images.
        classes: number of classes.
        dim: size ``D`` of the code.
        n_down: how often the encoder halves the image.
        width: channels after the first halving; they double, up to 16 times this.
        norm: normalisation layer.
    """

    def __init__(
        self,
        channels: Count = 1,
        size: Count = 32,
        classes: Count = 10,
        dim: Count = 64,
        n_down: Count = 4,
        width: Count = 64,
        norm: NormName = "actnorm",
    ) -> None:
        super().__init__()
        self.channels, self.size, self.dim, self.classes = channels, size, dim, classes
        self.n_down, self.width, self.norm = n_down, width, norm
        self.encoder = encoder(channels, size, n_down, width, norm, dim)
        self.head = nn.Linear(dim, classes)

    def code(self, image: Tensor) -> Tensor:
        """Codes ``[B, D]`` of images ``[B, C, H, W]`` in [-1, 1].

        Raises:
            ValueError: images of another shape.
        """
        check_images(image, self.channels, self.size, "Classifier")
        return self.encoder(image).flatten(1)

    def encode(self, image: Tensor) -> Gaussian:
        """The code as a distribution without width, so that a classifier serves as a first stage."""
        code = self.code(image)
        return Gaussian(code, code.new_zeros(code.shape), deterministic=True)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.head(self.code(image))
