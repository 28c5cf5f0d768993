"""An affine coupling with its backward pass written out by hand: the arithmetic of a training step, and little else.

Autograd records some twenty operations for a coupling and finds memory for every gradient anew. Here a coupling is one
operation. The gradients of its weights go straight to where the optimiser wants them, where it has said so (`lend`).
Elsewhere, and when gradients are themselves to be differentiated, it answers like any other operation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

__all__ = ["SLOPE", "active", "affine", "by_hand", "lend", "scale_shift", "take"]

SLOPE = 0.01
"""Of the LeakyReLU."""

_active = False


@contextlib.contextmanager
def by_hand(use: bool = True) -> Iterator[None]:
    """Within this context couplings use `affine`. The loop says so; elsewhere autograd records every operation, and
    transforms that need that (forward mode, `torch.func`) work."""
    global _active
    before, _active = _active, use
    try:
        yield
    finally:
        _active = before


def active() -> bool:
    """Whether couplings use `affine` now."""
    return _active and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def lend(parameter: Tensor, memory: Tensor) -> None:
    """Offer memory of the parameter's shape for its next gradient, which may use it, once."""
    parameter.__dict__["lent"] = memory


def take(parameter: Tensor) -> Tensor | None:
    """The memory that was lent for a parameter's gradient; nobody else gets it."""
    memory = parameter.__dict__.pop("lent", None)
    # A tensor of its own upon that memory: autograd keeps what nobody else holds, and copies the rest.
    return None if memory is None else memory.detach()


def scale_shift(kept: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What two networks make of the half that stays, computed as one.

    Args:
        kept: ``[B, D/2]``.
        weights: of each layer ``[2, in, out]``, those of the scale first.
        biases: of each layer ``[2, 1, out]``.

    Returns:
        Log-scale in (-1, 1) and shift, ``[B, D/2]`` each.
    """
    hidden = kept.expand(2, -1, -1)  # [2, B, D/2]: both networks see the same
    last = len(weights) - 1
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        hidden = torch.baddbmm(bias, hidden, weight)
        if k < last:
            hidden = F.leaky_relu(hidden, SLOPE, inplace=not torch.is_grad_enabled())
    return torch.tanh(hidden[0]), hidden[1]


def affine(kept: Tensor, moved: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The half that moves, ``moved * exp(s(kept)) + t(kept)`` ``[B, D/2]``, and the log-determinant ``[B]``.

    Args:
        kept: ``[B, D/2]``.
        moved: ``[B, D/2]``.
        weights, biases: see `scale_shift`.
    """
    return _Affine.apply(kept, moved, *weights, *biases)


def _recorded(kept: Tensor, moved: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
    """`affine` of operations that autograd knows."""
    depth = len(parameters) // 2
    scale, shift = scale_shift(kept, parameters[:depth], parameters[depth:])
    return torch.addcmul(shift, moved, scale.exp()), scale.sum(1)


class _Affine(Function):
    @staticmethod
    def forward(ctx: Any, kept: Tensor, moved: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        depth = len(parameters) // 2
        weights, biases = parameters[:depth], parameters[depth:]
        hidden = kept.expand(2, -1, -1)  # [2, B, D/2]
        inputs = []  # of each layer [2, B, in]
        for k in range(depth):
            if k:
                F.leaky_relu(hidden, SLOPE, inplace=True)
            inputs.append(hidden)
            hidden = torch.baddbmm(biases[k], hidden, weights[k])
        scale, shift = hidden.unbind(0)
        scale.tanh_()
        factor = scale.exp()
        ctx.save_for_backward(kept, moved, scale, factor, *inputs[1:], *parameters)
        ctx.parameters = parameters
        return torch.addcmul(shift, moved, factor), scale.sum(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_logdet: Tensor) -> tuple[Tensor | None, ...]:
        depth = len(ctx.parameters) // 2
        kept, moved, scale, factor, *rest = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated once more
            given = (kept, moved, *rest[depth - 1 :])
            wanted = [one for one in given if one.requires_grad]
            found = iter(torch.autograd.grad(_recorded(*given), wanted, (gradient, of_logdet), create_graph=True))
            return tuple(next(found) if one.requires_grad else None for one in given)
        inputs, weights = [kept.expand(2, -1, -1), *rest[: depth - 1]], rest[depth - 1 : 2 * depth - 1]
        of_moved = gradient * factor
        flow = scale.new_empty(2, *scale.shape)  # [2, B, D/2]
        of_scale = flow[0]
        torch.addcmul(of_logdet[:, None], of_moved, moved, out=of_scale)
        of_scale.addcmul_(of_scale, scale.square(), value=-1)  # through tanh
        flow[1] = gradient
        of_weights: list[Tensor | None] = [None] * depth
        of_biases: list[Tensor | None] = [None] * depth
        for k in reversed(range(depth)):
            layer, weight, bias = inputs[k], ctx.parameters[k], ctx.parameters[depth + k]
            if weight.requires_grad:
                of_weights[k] = torch.bmm(layer.mT, flow, out=take(weight))
            if bias.requires_grad:
                of_biases[k] = torch.sum(flow, 1, keepdim=True, out=take(bias))
            if k or kept.requires_grad:
                flow = torch.bmm(flow, weights[k].mT)
            if k:  # its input is the output of a LeakyReLU, whose sign is that of its own input
                flow = torch.ops.aten.leaky_relu_backward(flow, layer, SLOPE, True)
        return flow.sum(0) if kept.requires_grad else None, of_moved, *of_weights, *of_biases
