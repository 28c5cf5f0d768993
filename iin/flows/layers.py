"""The blocks of the published flow: normalise, couple, couple the other half, shuffle; again."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from iin.arguments import Count, Even, NonNegativeInt
from iin.distributed import whole
from iin.flows import kernel
from iin.flows.base import Chain, InvertibleModule, at_least_single, check_context, check_vectors

__all__ = ["ActNorm", "Coupling", "Shuffle", "vector_flow"]


class ActNorm(InvertibleModule):
    """Affine map of each channel, initialised so that the first training batch has mean 0 and deviation 1.

    ``z = scale * (x + loc)``. Until the first forward in training mode it is the identity; evaluation never changes
    it. Works on vectors ``[B, D]`` and on maps ``[B, D, ...]``, whose positions each count in the determinant.

    Args:
        dim: number of channels ``D``.

    Raises:
        ValueError: the first training batch has a single value a channel, whose deviation is undefined.

    References:
        Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma and Dhariwal, 2018), arXiv:1807.03039
    """

    initialized: Tensor

    def __init__(self, dim: Count) -> None:
        super().__init__()
        self.dim = dim
        self.loc = nn.Parameter(torch.zeros(dim))
        self.scale = nn.Parameter(torch.ones(dim))
        # Part of the state: a loaded block must not take its statistics anew.
        self.register_buffer("initialized", torch.tensor(False))
        # Known without asking the buffer, which may be on a GPU that would have to finish its work first.
        self._ready = False

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._ready = False
        super()._load_from_state_dict(*args, **kwargs)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Take ``loc`` and ``scale`` from a batch ``[B, D, ...]``; of a share of one, from the whole."""
        x = whole(x)
        values = (
            at_least_single(x).movedim(1, 0).flatten(1).contiguous()
        )  # [D, B * positions]; sums in the published order
        if values.shape[1] < 2:
            raise ValueError(
                "ActNorm initialises from its first training batch and needs at least 2 values a channel, "
                f"found a batch of shape {list(x.shape)}: use a batch size of 2 or more"
            )
        deviation = values.std(1)  # unbiased, as published
        constant = int((deviation == 0).sum())
        if constant:
            warnings.warn(
                f"ActNorm: {constant} of {self.dim} channels are constant in the first batch; their scale becomes 1e6",
                stacklevel=2,
            )
        self.loc.copy_(-values.mean(1))
        self.scale.copy_(1 / (deviation + 1e-6))
        self.initialized.fill_(True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.ndim < 2 or x.shape[1] != self.dim:
            raise ValueError(f"ActNorm: expected {self.dim} channels, found a batch of shape {list(x.shape)}")
        self.prepare(x)
        shape = (self.dim,) + (1,) * (x.ndim - 2)
        z = self.scale.view(shape) * (x + self.loc.view(shape))
        positions = math.prod(x.shape[2:])
        logdet = positions * self.scale.abs().log().sum()
        return z, logdet.expand(x.shape[0])  # len() would be a constant to torch.export

    def prepare(self, x: Tensor) -> None:
        """Take the first training batch ``[B, D, ...]`` for what it is; any other changes nothing."""
        if self.training and not self._ready:
            if not self.initialized:
                self.initialize(x)
            self._ready = True

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        shape = (self.dim,) + (1,) * (z.ndim - 2)
        return z / self.scale.view(shape) - self.loc.view(shape)


class Coupling(InvertibleModule):
    """Affine coupling: one half stays, and says how the other half is scaled and shifted.

    ``z_b = x_b * exp(s(x_a)) + t(x_a)`` with ``s`` in (-1, 1), so the map can neither explode nor collapse. The two
    networks ``s`` and ``t`` are one batched product of matrices: layer ``k`` holds the weights of both,
    ``[2, in, out]``, scale first. With a context they see ``[x_a; context]``.

    Args:
        dim: number of dimensions ``D``; even.
        hidden: width of the hidden layers.
        depth: hidden layers after the first one.
        flip: keep the second half and move the first.
        context: dimensions ``C`` of the context ``[B, C]`` that the networks see beside the half that stays. With 0, a
            context that is given is ignored.

    Raises:
        ValueError: vectors or context of another shape, or no context where one is needed.

    References:
        Density estimation using Real NVP (Dinh et al., 2016), arXiv:1605.08803
    """

    def __init__(
        self,
        dim: Even,
        hidden: Count = 512,
        depth: NonNegativeInt = 2,
        flip: bool = False,
        context: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"Coupling: dim must be an even number of at least 2, found {dim}")
        self.dim = dim
        self.hidden = hidden
        self.depth = depth
        self.flip = flip
        self.context = context
        sizes = [dim // 2 + context] + [hidden] * (depth + 1) + [dim // 2]
        self.weights = nn.ParameterList(torch.empty(2, i, o) for i, o in pairwise(sizes))
        self.biases = nn.ParameterList(torch.empty(2, 1, o) for o in sizes[1:])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights and biases from U(-1, 1) / sqrt(fan in), like `torch.nn.Linear`."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def scale_shift(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scale in (-1, 1) and shift, each ``[B, D/2]``, from what the networks see ``[B, D/2 + C]``."""
        return kernel.scale_shift(seen, list(self.weights), list(self.biases))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_vectors(x, self.dim, "Coupling")
        first, second = x.chunk(2, dim=1)
        if self.flip:
            first, logdet = self._move(self._seen(second, context), first)
        else:
            second, logdet = self._move(self._seen(first, context), second)
        return torch.cat([first, second], dim=1), logdet

    def _seen(self, kept: Tensor, context: Tensor | None) -> Tensor:
        """What the networks see ``[B, D/2 + C]``: the half that stays, and the context."""
        if not self.context:
            return kept
        return torch.cat([kept, check_context(context, len(kept), self.context, "Coupling")], dim=1)

    def _move(self, seen: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """The half that moves ``[B, D/2]``, and the log-determinant ``[B]``."""
        # A chain leaves autocast; a coupling by itself may be in it, where types are mixed as only autograd follows.
        plain = type(self).scale_shift is Coupling.scale_shift  # networks of somebody's own are asked
        if plain and kernel.active() and not torch.is_autocast_enabled(seen.device.type):
            return kernel.affine(seen, moved, list(self.weights), list(self.biases))
        scale, shift = self.scale_shift(seen)
        return torch.addcmul(shift, moved, scale.exp()), scale.sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        check_vectors(z, self.dim, "Coupling")
        first, second = z.chunk(2, dim=1)
        if self.flip:
            scale, shift = self.scale_shift(self._seen(second, context))
            first = (first - shift) * torch.exp(-scale)
        else:
            scale, shift = self.scale_shift(self._seen(first, context))
            second = (second - shift) * torch.exp(-scale)
        return torch.cat([first, second], dim=1)


class Shuffle(InvertibleModule):
    """Fixed permutation of the dimensions, so that couplings meet new halves.

    Args:
        dim: number of dimensions ``D``. The permutation is drawn from torch's generator, and is part of the state.
    """

    order: Tensor

    def __init__(self, dim: Count) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("order", torch.randperm(dim))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        check_vectors(x, self.dim, "Shuffle")
        return x[:, self.order], x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        check_vectors(z, self.dim, "Shuffle")
        return z[:, torch.argsort(self.order)]


class VectorFlow(Chain):
    """Blocks of the published flow; training steps take each of them as one operation (`iin.flows.kernel`).

    Args:
        blocks: ActNorm, two couplings of which the second is flipped, Shuffle; again and again.
    """

    def _through(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        layers: list[Any] = list(self.blocks)
        # Whoever has hung something on a block wants it to be called; whoever has put in another wants that one.
        hung = any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
        if not kernel.active() or hung or not _published(layers):
            return super()._through(x, context)
        check_vectors(x, layers[0].dim, "ActNorm")
        size = layers[1].context
        context = check_context(context, x.shape[0], size, "Coupling") if size else None
        total = x.new_zeros(x.shape[0])
        for norm, first, second, shuffle in zip(*[iter(layers)] * 4, strict=True):
            norm.prepare(x)
            one, two = ([*coupling.weights, *coupling.biases] for coupling in (first, second))
            x, logdet = kernel.block(x, norm.loc, norm.scale, shuffle.order, one, two, context)
            total = total + logdet
        return x, total


def _published(layers: list[Any]) -> bool:
    """Whether layers are those of `VectorFlow`, and nothing derived from them."""
    kinds = [ActNorm, Coupling, Coupling, Shuffle]
    alike = [type(layer) for layer in layers] == kinds * (len(layers) // 4)
    if len({layer.context for layer in layers if type(layer) is Coupling}) != 1:
        return False
    return alike and all(layer.flip == (k % 4 == 2) for k, layer in enumerate(layers) if type(layer) is Coupling)


def vector_flow(dim: Even, blocks: Count = 12, hidden: Count = 512, depth: NonNegativeInt = 2) -> Chain:
    """The published flow over vectors: ``blocks`` times ActNorm, two couplings (one for each half), Shuffle.

    Args:
        dim: number of dimensions ``D``; even.
        blocks: repetitions.
        hidden: width of the hidden layers of the couplings' networks.
        depth: hidden layers after the first one.

    References:
        A Disentangling Invertible Interpretation Network for Explaining Latent Representations
        (Esser, Rombach and Ommer, 2020), arXiv:2004.13166
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"vector_flow: dim must be an even number of at least 2, found {dim}")
    layers: list[InvertibleModule] = []
    for _ in range(blocks):
        layers += [
            ActNorm(dim),
            Coupling(dim, hidden, depth),
            Coupling(dim, hidden, depth, flip=True),
            Shuffle(dim),
        ]
    return VectorFlow(layers)
