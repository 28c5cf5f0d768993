"""Couplings with their backward pass written out by hand: the arithmetic of a training step, and little else.

Autograd records some sixty operations for a block of the published flow, and finds memory for every gradient anew. Here
a coupling is one operation, and so is a block. The gradients of weights go straight to where the optimiser wants them,
where it has said so (`lend`). When gradients are themselves to be differentiated, autograd gets to see the operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

__all__ = ["SLOPE", "active", "affine", "block", "by_hand", "lend", "scale_shift", "take"]

SLOPE = 0.01
"""Of the LeakyReLU."""

_active = False


@contextlib.contextmanager
def by_hand(use: bool = True) -> Iterator[None]:
    """Within this context flows use `affine` and `block`. The loop says so. Elsewhere autograd records every operation,
    and transforms that need that (forward mode, `torch.func`) work."""
    global _active
    before, _active = _active, use
    try:
        yield
    finally:
        _active = before


def active() -> bool:
    """Whether flows use `affine` and `block` now."""
    return _active and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def lend(parameter: Tensor, memory: Tensor) -> None:
    """Offer memory of the parameter's shape for its next gradient, which may use it, once."""
    parameter.__dict__["lent"] = memory


def take(parameter: Tensor) -> Tensor | None:
    """The memory that was lent for a parameter's gradient; nobody else gets it."""
    memory = parameter.__dict__.pop("lent", None)
    # A tensor of its own upon that memory: autograd keeps what nobody else holds, and copies the rest.
    return None if memory is None else memory.detach()


def scale_shift(seen: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What two networks make of what they see, computed as one.

    Args:
        seen: ``[B, D/2]``, the half that stays; with a context ``[B, D/2 + C]``.
        weights: of each layer ``[2, in, out]``, those of the scale first.
        biases: of each layer ``[2, 1, out]``.

    Returns:
        Log-scale in (-1, 1) and shift, ``[B, D/2]`` each.
    """
    hidden = seen.expand(2, -1, -1)  # [2, B, D/2 + C]: both networks see the same
    last = len(weights) - 1
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        hidden = torch.baddbmm(bias, hidden, weight)
        if k < last:
            hidden = F.leaky_relu(hidden, SLOPE, inplace=not torch.is_grad_enabled())
    return torch.tanh(hidden[0]), hidden[1]


def affine(seen: Tensor, moved: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The half that moves, ``moved * exp(s(seen)) + t(seen)`` ``[B, D/2]``, and the log-determinant ``[B]``.

    Args:
        seen: ``[B, D/2]``, the half that stays; with a context ``[B, D/2 + C]``.
        moved: ``[B, D/2]``.
        weights, biases: see `scale_shift`.
    """
    return _Affine.apply(seen, moved, *weights, *biases)


def block(
    x: Tensor,
    loc: Tensor,
    scale: Tensor,
    order: Tensor,
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    context: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A block of the published flow: ActNorm, a coupling of each half, and a permutation.

    Args:
        x: ``[B, D]``.
        loc, scale: of ActNorm ``[D]``.
        order: the permutation ``[D]`` int64.
        first: weights of the coupling that moves the second half, then its biases; see `scale_shift`.
        second: those of the coupling that moves the first half.
        context: ``[B, C]``, which the networks of both see beside the half that stays, or None.

    Returns:
        z ``[B, D]`` and log|det dz/dx| ``[B]``.
    """
    return _Block.apply(order, context, x, loc, scale, *first, *second)


class _Coupling:
    """One coupling of a step, forward and back, without autograd.

    Args:
        parameters: weights, then biases.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.depth = len(parameters) // 2

    def forward(self, seen: Tensor, moved: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The half that moves, and what the way back needs: log-scale, its exponential, the inputs of all layers."""
        hidden = seen.expand(2, -1, -1)  # [2, B, D/2 + C]
        inputs = []  # of each layer [2, B, in]
        for k in range(self.depth):
            if k:
                F.leaky_relu(hidden, SLOPE, inplace=True)
            inputs.append(hidden)
            hidden = torch.baddbmm(self.parameters[self.depth + k], hidden, self.parameters[k])
        scale, shift = hidden.unbind(0)
        scale.tanh_()
        factor = scale.exp()
        return torch.addcmul(shift, moved, factor), [scale, factor, *inputs]

    def backward(
        self, moved: Tensor, saved: Sequence[Tensor], gradient: Tensor, of_logdet: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Gradients of what the networks saw, of the half that moves, and of the parameters.

        Args:
            moved: as given to `forward`.
            saved: what `forward` answered beside the result.
            gradient: of the result ``[B, D/2]``.
            of_logdet: gradient of the log-determinant ``[B, 1]``.
        """
        scale, factor, *inputs = saved
        of_moved = gradient * factor
        flow = scale.new_empty(2, *scale.shape)  # [2, B, D/2]
        of_scale = flow[0]
        torch.addcmul(of_logdet, of_moved, moved, out=of_scale)
        of_scale.addcmul_(of_scale, scale.square(), value=-1)  # through tanh
        flow[1] = gradient
        found: list[Tensor | None] = [None] * len(self.parameters)
        for k in reversed(range(self.depth)):
            layer, weight, bias = inputs[k], self.parameters[k], self.parameters[self.depth + k]
            if weight.requires_grad:
                found[k] = torch.bmm(layer.mT, flow, out=take(weight))
            if bias.requires_grad:
                found[self.depth + k] = torch.sum(flow, 1, keepdim=True, out=take(bias))
            flow = torch.bmm(flow, weight.mT)
            if k:  # the layer's input is the output of a LeakyReLU, whose sign is that of its own input
                flow = torch.ops.aten.leaky_relu_backward(flow, layer, SLOPE, True)
        return flow.sum(0), of_moved, found


def _recorded(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Iterator[Tensor | None]:
    """Gradients that can be differentiated, of operations that autograd has seen."""
    wanted = [one for one in inputs if one.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=True, allow_unused=True))
    return (next(found) if one.requires_grad else None for one in inputs)


def _affine(seen: Tensor, moved: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """`affine` of operations that autograd knows."""
    depth = len(parameters) // 2
    scale, shift = scale_shift(seen, parameters[:depth], parameters[depth:])
    return torch.addcmul(shift, moved, scale.exp()), scale.sum(1)


class _Affine(Function):
    @staticmethod
    def forward(ctx: Any, seen: Tensor, moved: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        result, saved = _Coupling(parameters).forward(seen, moved)
        ctx.save_for_backward(seen, moved, *parameters, *saved)
        ctx.parameters = parameters
        return result, saved[0].sum(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_logdet: Tensor) -> tuple[Tensor | None, ...]:
        seen, moved, *rest = ctx.saved_tensors
        parameters, saved = rest[: len(ctx.parameters)], rest[len(ctx.parameters) :]
        if torch.is_grad_enabled():  # to be differentiated once more
            outputs = _affine(seen, moved, parameters)
            return tuple(_recorded(outputs, (seen, moved, *parameters), (gradient, of_logdet)))
        of_seen, of_moved, found = _Coupling(ctx.parameters).backward(moved, saved, gradient, of_logdet[:, None])
        return of_seen, of_moved, *found


def _beside(kept: Tensor, context: Tensor | None) -> Tensor:
    """What the networks of a coupling see."""
    return kept if context is None else torch.cat([kept, context], 1)


class _Block(Function):
    @staticmethod
    def forward(
        ctx: Any,
        order: Tensor,
        context: Tensor | None,
        x: Tensor,
        loc: Tensor,
        scale: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        half = len(parameters) // 2
        shifted = x + loc
        a, b = (shifted * scale).chunk(2, 1)
        new_b, saved = _Coupling(parameters[:half]).forward(_beside(a, context), b)
        new_a, more = _Coupling(parameters[half:]).forward(_beside(new_b, context), a)
        ctx.save_for_backward(order, context, x, loc, scale, *parameters, shifted, a, b, *saved, *more)
        ctx.parameters = parameters
        logdet = (saved[0] + more[0]).sum(1) + scale.abs().log().sum()
        return torch.cat([new_a, new_b], 1).index_select(1, order), logdet

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_logdet: Tensor) -> tuple[Tensor | None, ...]:
        order, context, x, loc, scale, *rest = ctx.saved_tensors
        parameters, (shifted, a, b, *saved) = rest[: len(ctx.parameters)], rest[len(ctx.parameters) :]
        half = len(parameters) // 2
        if torch.is_grad_enabled():  # to be differentiated once more
            a, b = (scale * (x + loc)).chunk(2, 1)
            b, one = _affine(_beside(a, context), b, parameters[:half])
            a, two = _affine(_beside(b, context), a, parameters[half:])
            outputs = torch.cat([a, b], 1).index_select(1, order), one + two + scale.abs().log().sum()
            given = (x, loc, scale, *parameters)
            if context is None:
                return None, None, *_recorded(outputs, given, (gradient, of_logdet))
            return None, *_recorded(outputs, (context, *given), (gradient, of_logdet))
        column, middle = of_logdet[:, None], len(saved) // 2
        of_a, of_b = torch.empty_like(gradient).index_copy_(1, order, gradient).chunk(2, 1)
        of_seen, of_a, seconds = _Coupling(ctx.parameters[half:]).backward(a, saved[middle:], of_a, column)
        of_kept, of_context = _apart(of_seen, b)
        of_seen, of_b, firsts = _Coupling(ctx.parameters[:half]).backward(b, saved[:middle], of_b + of_kept, column)
        of_kept, more = _apart(of_seen, a)
        if of_context is not None and more is not None:
            of_context = of_context + more
        scaled = torch.cat([of_a + of_kept, of_b], 1)
        of_scale = (scaled * shifted).sum(0) + of_logdet.sum() / scale
        of_x = scaled * scale
        return None, of_context, of_x, of_x.sum(0), of_scale, *firsts, *seconds


def _apart(seen: Tensor, kept: Tensor) -> tuple[Tensor, Tensor | None]:
    """Undo `_beside`, for gradients: of the half that stays, and of the context, if there is any."""
    half, size = kept.shape[1], seen.shape[1]
    return (seen, None) if size == half else (seen[:, :half], seen[:, half:])
