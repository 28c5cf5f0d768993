"""The convolutional autoencoder whose code the flow interprets."""

from __future__ import annotations

from torch import Tensor, nn

from iin.arguments import Count
from iin.models.gaussian import Gaussian
from iin.models.norm import NormName, norm

__all__ = ["Autoencoder", "encoder"]

# Slope of the published networks' LeakyReLU; the couplings use 0.01.
SLOPE = 0.2

# Channels grow to so many times the width, no further.
MOST = 16


def _widths(width: int, n_down: int) -> list[int]:
    """Channels after each halving: doubled each time, at most 16 times the first."""
    return [width * min(2**i, MOST) for i in range(n_down)]


def encoder(channels: int, size: int, n_down: int, width: int, norm_name: NormName, out: int) -> nn.Sequential:
    """Images ``[B, channels, size, size]`` to ``[B, out, 1, 1]``: convolutions that halve, then a dense one.

    Raises:
        ValueError: ``size`` cannot be halved ``n_down`` times.
    """
    if size % 2**n_down or size < 2**n_down:
        raise ValueError(f"size {size} cannot be halved n_down = {n_down} times: use a multiple of {2**n_down}")
    layers: list[nn.Module] = []
    for into in _widths(width, n_down):
        layers += [
            nn.Conv2d(channels, into, 4, stride=2, padding=1, bias=False),
            norm(norm_name, into),
            nn.LeakyReLU(SLOPE),
        ]
        channels = into
    layers.append(nn.Conv2d(channels, out, size // 2**n_down))
    return nn.Sequential(*layers)


def check_images(image: Tensor, channels: int, size: int, model: str) -> None:
    """Raise ValueError unless ``image`` is ``[B, channels, size, size]``."""
    if image.ndim != 4 or tuple(image.shape[1:]) != (channels, size, size):
        raise ValueError(
            f"{model}: expected images of shape [B, {channels}, {size}, {size}], found {list(image.shape)}: "
            "set channels and size of the model to those of the data"
        )


class Autoencoder(nn.Module):
    """Convolutional variational autoencoder with a code of ``dim`` numbers.

    Args:
        channels: of the images.
        size: height and width of the images; a multiple of ``2**n_down``.
        dim: size ``D`` of the code.
        n_down: how often the encoder halves the image.
        width: channels after the first halving; they double, up to 16 times this.
        norm: normalisation layer.
        deterministic: an autoencoder without posterior noise.

    References:
        A Disentangling Invertible Interpretation Network for Explaining Latent Representations
        (Esser, Rombach and Ommer, 2020), arXiv:2004.13166, section 3 and the published code
    """

    def __init__(
        self,
        channels: Count = 1,
        size: Count = 32,
        dim: Count = 64,
        n_down: Count = 4,
        width: Count = 64,
        norm: NormName = "actnorm",
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.dim = channels, size, dim
        self.n_down, self.width, self.norm = n_down, width, norm
        self.deterministic = deterministic
        self.encoder = encoder(channels, size, n_down, width, norm, 2 * dim)
        self.decoder = _decoder(channels, size, n_down, width, norm, dim)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's last convolution: where adversarial training compares the strengths of its losses."""
        return self.decoder.get_parameter(f"{len(self.decoder) - 2}.weight")

    def encode(self, image: Tensor) -> Gaussian:
        """Posterior over codes ``[B, D]`` of images ``[B, C, H, W]`` in [-1, 1].

        Raises:
            ValueError: images of another shape.
        """
        check_images(image, self.channels, self.size, "Autoencoder")
        mean, logvar = self.encoder(image).flatten(1).chunk(2, dim=1)  # [B, 2D, 1, 1] -> 2 x [B, D]
        return Gaussian(mean, logvar, deterministic=self.deterministic)

    def decode(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` in [-1, 1] of codes ``[B, D]``."""
        return self.decoder(x[:, :, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct images through the mean of their posterior."""
        return self.decode(self.encode(image).mean)


def _decoder(channels: int, size: int, n_down: int, width: int, norm_name: NormName, dim: int) -> nn.Sequential:
    """Codes ``[B, dim, 1, 1]`` to images in [-1, 1]: the mirror image of `encoder`."""
    widths = _widths(width, n_down)
    layers: list[nn.Module] = [nn.ConvTranspose2d(dim, widths[-1], size // 2**n_down)]
    for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True):
        layers += [
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False),
            norm(norm_name, after),
            nn.LeakyReLU(SLOPE),
        ]
    layers += [nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers)
