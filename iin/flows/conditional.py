"""The conditional flow: the blocks of the published one, each told what the vector came with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iin.arguments import Count, Even, NonNegativeInt, Positive
from iin.flows.base import Chain, InvertibleModule, at_least_single, check_vectors, single_precision
from iin.flows.layers import ActNorm, Coupling, Shuffle, VectorFlow

__all__ = ["ActivationName", "ConditionalFlow", "ConditioningName", "LeakyReLU", "conditional_flow"]

ConditioningName = Literal["none", "sequential", "parallel"]
ActivationName = Literal["none", "lrelu"]


class LeakyReLU(InvertibleModule):
    """Scales what is negative by a positive slope, and leaves the rest as it is.

    Args:
        slope: factor of negative values.
        published_logdet: report a log-determinant of 0, as the code of the paper does. The true one, reported else, is
            ``log(slope)`` times the number of negative values.

    References:
        Making Sense of CNNs: Interpreting Deep Representations and Their Invariances with INNs
        (Rombach, Esser and Ommer, 2020), arXiv:2008.01777, the published code
    """

    def __init__(self, slope: Positive = 0.9, published_logdet: bool = False) -> None:
        super().__init__()
        if slope <= 0:
            raise ValueError(f"LeakyReLU: slope must be positive for a way back, found {slope}")
        self.slope = slope
        self.published_logdet = published_logdet

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not torch.compiler.is_compiling() and x.ndim != 2:
            raise ValueError(f"LeakyReLU: expected vectors of shape [B, D], found {list(x.shape)}")
        z = F.leaky_relu(x, self.slope)
        if self.published_logdet:
            return z, x.new_zeros(x.shape[0])
        return z, (x < 0).sum(1).to(x.dtype) * math.log(self.slope)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.where(z < 0, z / self.slope, z)


class ConditionalFlow(InvertibleModule):
    """A bijection of vectors for each context: what a representation leaves open becomes a standard normal latent.

    An embedder makes a vector ``h`` of the context; block ``k`` sees ``c_k``, which is

    * ``none``: ``h`` itself;
    * ``sequential``: a linear map of ``c_{k-1}``, the first one of ``h``;
    * ``parallel``: a linear map of ``h``, each block its own.

    Args:
        dim: number of dimensions ``D``.
        blocks: bijections of ``[B, D]`` whose context is ``[B, E]``.
        embedder: network that makes ``[B, E]`` of contexts. ``E`` is its attribute ``dim``, or ``D`` without one.
        conditioning: what each block sees.

    Raises:
        ValueError: vectors of another shape; no context, or one with another number of rows.

    References:
        Making Sense of CNNs: Interpreting Deep Representations and Their Invariances with INNs
        (Rombach, Esser and Ommer, 2020), arXiv:2008.01777, section 3.2
    """

    def __init__(
        self,
        dim: Even,
        blocks: Iterable[InvertibleModule],
        embedder: nn.Module,
        conditioning: ConditioningName = "none",
    ) -> None:
        super().__init__()
        if conditioning not in ("none", "sequential", "parallel"):
            raise ValueError(f"conditioning: expected none, sequential or parallel, found {conditioning!r}")
        self.dim = dim
        self.conditioning = conditioning
        self.embedder = embedder
        self.embedding = embedding_of(embedder, dim)
        self.blocks = nn.ModuleList(blocks)
        count = 0 if conditioning == "none" else len(self.blocks)
        self.maps = nn.ModuleList(nn.Linear(self.embedding, self.embedding) for _ in range(count))

    def embed(self, context: Tensor | None) -> Tensor:
        """What the blocks get to know of a context ``[B, C]`` or ``[B, C, H, W]``: ``[B, E]``.

        Raises:
            ValueError: there is no context, or none of floating point numbers; or the embedder answers with another
                shape.
        """
        if context is None:
            raise ValueError("ConditionalFlow: needs a context, the representation that vectors come with, found none")
        if not isinstance(context, Tensor) or not context.is_floating_point():
            found = context.dtype if isinstance(context, Tensor) else f"a {type(context).__name__}"
            raise ValueError(f"ConditionalFlow: expected a context of floating point numbers, found {found}")
        with single_precision(context):
            h = self.embedder(at_least_single(context))
        if not torch.compiler.is_compiling() and tuple(h.flatten(1).shape) != (len(context), self.embedding):
            raise ValueError(
                f"ConditionalFlow: expected [{len(context)}, {self.embedding}] of the embedder, a "
                f"{type(self.embedder).__name__}, found {list(h.shape)}"
            )
        return h.flatten(1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.through(x, self.embed(context))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.back(z, self.embed(context))

    def through(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """``forward``, with the embedding ``[B, E]`` of the context at hand."""
        with single_precision(x):
            x = self._checked(x, h)
            return [(x, x.new_zeros(x.shape[0])), *self._walk(x, h)][-1]

    def back(self, z: Tensor, h: Tensor) -> Tensor:
        """``inverse``, with the embedding ``[B, E]`` of the context at hand."""
        with single_precision(z):
            x = self._checked(z, h)
            for block, c in reversed(self._told(h)):
                x = block.inverse(x, c)
            return x

    def steps(self, x: Tensor, context: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """After each block, what has become of ``x`` ``[B, D]``, and the log-determinant so far ``[B]``."""
        h = self.embed(context)
        with single_precision(x):
            return list(self._walk(self._checked(x, h), h))

    def _walk(self, x: Tensor, h: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        total = x.new_zeros(x.shape[0])
        for block, c in self._told(h):
            x, logdet = block(x, c)
            total = total + logdet
            yield x, total

    def _checked(self, x: Tensor, h: Tensor) -> Tensor:
        check_vectors(x, self.dim, "ConditionalFlow")
        if not torch.compiler.is_compiling() and x.shape[0] != h.shape[0]:
            raise ValueError(f"ConditionalFlow: expected one context a vector, found {len(h)} for {len(x)} vectors")
        return at_least_single(x)

    def _told(self, h: Tensor) -> list[tuple[Any, Tensor]]:
        """Each block, and what it sees ``[B, E]``."""
        told = []
        for k, block in enumerate(self.blocks):
            seen = h if self.conditioning == "none" else self.maps[k](h)
            if self.conditioning == "sequential":
                h = seen
            told.append((block, seen))
        return told


def embedding_of(embedder: nn.Module, dim: int) -> int:
    """Size of an embedder's answers: its attribute ``dim``, or else that of the flow."""
    size = getattr(embedder, "dim", dim)
    return size if isinstance(size, int) else dim


def conditional_flow(
    dim: Even,
    embedder: nn.Module,
    blocks: Count = 20,
    hidden: Count = 1024,
    depth: NonNegativeInt = 2,
    conditioning: ConditioningName = "none",
    activation: ActivationName = "none",
    published_logdet: bool = False,
) -> ConditionalFlow:
    """The published conditional flow: ``blocks`` times ActNorm, activation, two couplings, Shuffle.

    ``flow(x [B, D], context) -> (z [B, D], logdet [B])``, where the context is what the embedder takes: a
    representation ``[B, C]`` or ``[B, C, H, W]``.

    Args:
        dim: number of dimensions ``D``; even.
        embedder: network that makes a vector of the context, such as `iin.models.DenseEmbedder` (vectors),
            `iin.models.ConvEmbedder` (maps of one size) and `iin.models.PoolingEmbedder` (maps of any size).
        blocks: repetitions.
        hidden: width of the hidden layers of the couplings' networks.
        depth: hidden layers after the first one.
        conditioning: what each block sees of the embedding; see `ConditionalFlow`.
        activation: after each ActNorm: ``lrelu`` for `LeakyReLU`.
        published_logdet: leave the activations out of the log-determinant, as the published code does.

    Raises:
        ValueError: an odd number of dimensions, or an unknown name.

    References:
        Making Sense of CNNs: Interpreting Deep Representations and Their Invariances with INNs
        (Rombach, Esser and Ommer, 2020), arXiv:2008.01777
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"conditional_flow: dim must be an even number of at least 2, found {dim}")
    if activation not in ("none", "lrelu"):
        raise ValueError(f"activation: expected none or lrelu, found {activation!r}")
    size = embedding_of(embedder, dim)
    made: list[Chain] = []
    for _ in range(blocks):
        layers: list[InvertibleModule] = [
            ActNorm(dim),
            Coupling(dim, hidden, depth, context=size),
            Coupling(dim, hidden, depth, flip=True, context=size),
            Shuffle(dim),
        ]
        if activation == "lrelu":
            layers.insert(1, LeakyReLU(published_logdet=published_logdet))
        made.append(VectorFlow(layers))
    return ConditionalFlow(dim, made, embedder, conditioning)
