"""BigGAN's generator, as a decoder: with class embeddings (`BigGAN`), or with a class made of the code (`BigAE`)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, NoReturn

import torch
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn
from torch.nn import functional as F

from iin.arguments import Count
from iin.models.norm import NormName, norm

__all__ = ["BigGAN", "FinalNorm", "Generator", "Size", "SpectralConv2d", "SpectralLinear", "Width"]

Size = Literal[128, 256]
Width = Annotated[int, Ge(4), MultipleOf(4)]
FinalNorm = Literal["batch", "actnorm"]

MULTIPLES: dict[int, tuple[int, ...]] = {128: (16, 16, 8, 4, 2, 1), 256: (16, 16, 8, 8, 4, 2, 1)}
"""Size of the images -> channels in front of each block and behind the last, in multiples of the width."""

SIDE = 4
"""Height and width of the first map; each block doubles them."""

EPS = 1e-4
"""Of normalisations, and of the lengths of singular vectors; the published weights were trained with it."""


class _Spectral(nn.Module):
    """A linear map divided by an estimate of its largest singular value.

    The estimate is one power iteration from the stored vector ``u [out]``, which stays as it is: the map is the same at
    every call. Where weights are frozen, in eval mode, the estimate is kept until they change.
    """

    weight: Tensor
    u: Tensor
    _known: tuple[Tensor, Tensor, tuple[int, int], float] | None = None

    def _prepare(self) -> None:
        self.register_buffer("u", F.normalize(torch.randn(len(self.weight)), dim=0))

    @property
    def norm(self) -> Tensor | float:
        """The estimate of the largest singular value."""
        weight, u = self.weight, self.u
        if self.training or weight.requires_grad or weight.is_inference() or u.is_inference():
            return self._estimate()
        versions = (weight._version, u._version)
        known = self._known
        if known is None or known[0] is not weight or known[1] is not u or known[2] != versions:
            known = self._known = (weight, u, versions, float(self._estimate()))
        return known[3]

    def _estimate(self) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = _unit(self.u.to(matrix.dtype) @ matrix)
            u = _unit(matrix @ v)
        return u @ (matrix @ v)


def _unit(vector: Tensor) -> Tensor:
    return vector / (vector.norm() + EPS)


class SpectralConv2d(_Spectral, nn.Conv2d):
    """A convolution with spectral normalisation, odd kernel and as much padding as keeps the size.

    References:
        Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018), arXiv:1802.05957
    """

    def __init__(self, inputs: Count, outputs: Count, kernel: Count = 1, bias: bool = True) -> None:
        nn.Conv2d.__init__(self, inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self._prepare()

    def forward(self, x: Tensor) -> Tensor:
        # Dividing the result instead of the weights makes no copy of them.
        y = F.conv2d(x, self.weight, padding=self.padding) / self.norm
        return y if self.bias is None else y + self.bias[:, None, None]


class SpectralLinear(_Spectral, nn.Linear):
    """A linear layer with spectral normalisation; see `SpectralConv2d`."""

    def __init__(self, inputs: Count, outputs: Count, bias: bool = True) -> None:
        nn.Linear.__init__(self, inputs, outputs, bias)
        self._prepare()

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight) / self.norm
        return y if self.bias is None else y + self.bias


class ConditionalNorm(nn.Module):
    """Batch normalisation whose scale and shift are linear in a condition ``[B, condition]``."""

    def __init__(self, channels: Count, condition: Count) -> None:
        super().__init__()
        self.batch = nn.BatchNorm2d(channels, eps=EPS, affine=False)
        self.scale = SpectralLinear(condition, channels, bias=False)
        self.shift = SpectralLinear(condition, channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.batch(x) * (1 + self.scale(condition))[:, :, None, None] + self.shift(condition)[:, :, None, None]


class Block(nn.Module):
    """A residual block that doubles height and width."""

    def __init__(self, inputs: Count, outputs: Count, condition: Count) -> None:
        super().__init__()
        self.norm0 = ConditionalNorm(inputs, condition)
        self.conv0 = SpectralConv2d(inputs, outputs, 3)
        self.norm1 = ConditionalNorm(outputs, condition)
        self.conv1 = SpectralConv2d(outputs, outputs, 3)
        self.skip = SpectralConv2d(inputs, outputs)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv0(_double(F.relu(self.norm0(x, condition))))
        h = self.conv1(F.relu(self.norm1(h, condition)))
        # A pointwise map commutes with repeating points, and costs a quarter before it.
        return h + _double(self.skip(x))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Attention(nn.Module):
    """Every position looks at all others, four of them taken together, and adds what it finds.

    References:
        Self-Attention Generative Adversarial Networks (Zhang et al., 2018), arXiv:1805.08318
    """

    def __init__(self, channels: Count) -> None:
        super().__init__()
        self.query = SpectralConv2d(channels, channels // 8, bias=False)
        self.key = SpectralConv2d(channels, channels // 8, bias=False)
        self.value = SpectralConv2d(channels, channels // 2, bias=False)
        self.out = SpectralConv2d(channels // 2, channels, bias=False)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, value = self.query(x).flatten(2).mT, F.max_pool2d(self.value(x), 2).flatten(2).mT  # [B, positions, C]
        key = F.max_pool2d(self.key(x), 2).flatten(2).mT
        # Zeros change no product, and with equal widths the table of all pairs of positions is never in memory.
        more = value.shape[-1] - key.shape[-1]
        query, key = F.pad(query, (0, more)), F.pad(key, (0, more))
        seen = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0]
        return x + self.gain * self.out(seen.mT.unflatten(2, x.shape[2:]))


class Generator(nn.Module):
    """Codes and class embeddings to images ``[B, 3, size, size]`` in [-1, 1].

    The code ``[B, first + part * blocks]`` is cut: its first numbers become a map of 4 x 4, and each block, which
    doubles the map, is conditioned on the next ``part`` numbers and on the class embedding.

    Args:
        size: of the images.
        first: numbers of the code that become the first map.
        part: numbers of the code that condition each block.
        embedding: size of the class embedding.
        width: channels after the last block; the first has 16 times as many. A multiple of 4.
        final_norm: normalisation behind the last block.
    """

    def __init__(
        self,
        size: Size = 128,
        first: Count = 20,
        part: Count = 20,
        embedding: Count = 128,
        width: Width = 96,
        final_norm: FinalNorm = "batch",
    ) -> None:
        super().__init__()
        if size not in MULTIPLES:
            raise ValueError(f"size: expected 128 or 256, found {size}")
        if width < 4 or width % 4:
            raise ValueError(f"width: expected a multiple of 4, found {width}")
        widths = [width * multiple for multiple in MULTIPLES[size]]
        self.parts = [first, *[part] * (len(widths) - 1)]
        self.linear = SpectralLinear(first, widths[0] * SIDE**2)
        self.blocks = nn.ModuleList(Block(a, b, part + embedding) for a, b in pairwise(widths))
        self.attention = Attention(widths[-2])
        self.norm: nn.Module = nn.BatchNorm2d(width, eps=EPS) if final_norm == "batch" else _norm(final_norm, width)
        self.image = SpectralConv2d(width, 3, 3)

    @property
    def dim(self) -> int:
        """Size of the code, class embedding not included."""
        return sum(self.parts)

    def forward(self, code: Tensor, embedding: Tensor) -> Tensor:
        first, *parts = code.split(self.parts, 1)
        h = self.linear(first).unflatten(1, (SIDE, SIDE, -1)).permute(0, 3, 1, 2)  # channels are last in the weights
        for place, (block, part) in enumerate(zip(self.blocks, parts, strict=True), 1):
            if place == len(parts):
                h = self.attention(h)
            h = block(h, torch.cat([part, embedding], 1))
        return torch.tanh(self.image(F.relu(self.norm(h))))


def _norm(name: NormName, channels: int) -> nn.Module:
    if name != "actnorm":
        raise ValueError(f"final_norm: expected batch or actnorm, found {name!r}")
    return norm(name, channels)


class BigGAN(nn.Module):
    """A generator of natural images as a first stage: its code is latent and class embedding in a row.

    There is no way from images to codes. Codes are drawn: a normal latent and the embedding of a class (`embed`), or
    what a conditional flow makes of a representation.

    Args:
        size: height and width of the images: 128 (``D`` = 120 + 128) or 256 (``D`` = 140 + 128).
        classes: number of classes.
        part: numbers of the latent that the first map and each block take.
        embedding: size of the class embedding.
        width: channels after the last block; a multiple of 4.

    References:
        Large Scale GAN Training for High Fidelity Natural Image Synthesis (Brock, Donahue and Simonyan, 2018),
        arXiv:1809.11096, appendix B
    """

    def __init__(
        self, size: Size = 256, classes: Count = 1000, part: Count = 20, embedding: Count = 128, width: Width = 96
    ) -> None:
        super().__init__()
        self.size, self.classes, self.part, self.embedding, self.width = size, classes, part, embedding, width
        self.embed_class = nn.Linear(classes, embedding, bias=False)
        self.generator = Generator(size, part, part, embedding, width)
        self.latent = self.generator.dim
        self.dim = self.latent + embedding

    def encode(self, image: Any) -> NoReturn:
        """Raise ValueError: a generator has no way from images to codes."""
        raise ValueError(
            "BigGAN: a generator has no encoder, so it gives no code of an image; draw codes instead, or take an "
            "autoencoder such as iin.models.BigAE"
        )

    def embed(self, label: Tensor) -> Tensor:
        """Class embeddings ``[B, embedding]`` of labels ``[B]``."""
        return F.embedding(label, self.embed_class.weight.T)

    def decode(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, size, size]`` in [-1, 1] of codes ``[B, D]``: the latent, then the class embedding.

        Raises:
            ValueError: codes of another size.
        """
        check_codes(x, self.dim, "BigGAN")
        return self.generator(*x.split([self.latent, self.embedding], 1))


def check_codes(x: Tensor, dim: int, model: str) -> None:
    """Raise ValueError unless ``x`` is ``[B, dim]``."""
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"{model}: expected codes of shape [B, {dim}], found {list(x.shape)}")
