"""Adam over parameters that lie behind each other in memory: one pass over all of them, whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adam import adam

from iin.flows.kernel import lend

__all__ = ["FlatAdam"]

ALIGNMENT = 16
"""Parameters begin at multiples of so many numbers, as products of matrices like it."""


class FlatAdam(torch.optim.Adam):
    """`torch.optim.Adam`, fused, with the same numbers and the same state.

    Parameters move to one piece of memory, and so do their gradients and moments. Memory for a gradient is offered to
    whoever computes it (see `iin.flows.kernel`); gradients that come from elsewhere are copied. In a step in which a
    parameter has no gradient, and from then on, parameters are updated one by one, as that leaves their counts apart.
    Nobody else may move them: not a second optimiser of this kind, nor ``Module.to`` once this is made.

    Args:
        parameters: of one type, on one device, where they stay.
        lr: learning rate.
        betas: decay rates of the moments.

    Raises:
        ValueError: they are of several types or devices.

    References:
        Adam: A Method for Stochastic Optimization (Kingma and Ba, 2014), arXiv:1412.6980
    """

    def __init__(self, parameters: Iterable[Parameter], lr: float, betas: tuple[float, float]) -> None:
        self._own = list(parameters)
        if len({(p.dtype, p.device) for p in self._own}) != 1:
            raise ValueError("FlatAdam: parameters must be of one type, on one device")
        super().__init__(self._own, lr=lr, betas=betas, fused=True)
        like = self._own[0].detach()
        starts, end = [], 0
        for parameter in self._own:
            starts.append(end)
            end += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        self._starts = starts
        self._values, self._gradient, *self._moments = (like.new_zeros(end) for _ in range(4))
        self._count = torch.zeros((), dtype=torch.float32, device=like.device)
        self._places = self._views(self._gradient)
        for parameter, view in zip(self._own, self._views(self._values), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view
        self._addresses = [parameter.data_ptr() for parameter in self._own]
        self._together = True

    def _views(self, flat: Tensor) -> list[Tensor]:
        """What of a piece of memory belongs to each parameter."""
        pairs = zip(self._own, self._starts, strict=True)
        return [flat[start : start + p.numel()].view(p.shape) for p, start in pairs]

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not set_to_none or not self._together:
            super().zero_grad(set_to_none)
            return
        for parameter, place in zip(self._own, self._places, strict=True):
            parameter.grad = None
            lend(parameter, place)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._together and any(parameter.grad is None for parameter in self._own):
            self._part()
        if not self._together:
            super().step()
            return loss
        if any(own.data_ptr() != at for own, at in zip(self._own, self._addresses, strict=True)):
            raise RuntimeError("FlatAdam: parameters were moved after it was made, and would learn nothing any more")
        for parameter, place in zip(self._own, self._places, strict=True):
            if parameter.grad.data_ptr() != place.data_ptr():  # type: ignore[union-attr]
                place.copy_(parameter.grad)  # type: ignore[arg-type]
        if not self.state:
            self._adopt(self._count)
        group = self.param_groups[0]
        adam(
            [self._values],
            [self._gradient],
            [self._moments[0]],
            [self._moments[1]],
            [],
            [self._count],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        return loss

    def _adopt(self, count: Tensor) -> None:
        """Make the flat moments the state of all parameters."""
        views = zip(self._own, *map(self._views, self._moments), strict=True)
        for parameter, first, second in views:
            self.state[parameter] = {"step": count, "exp_avg": first, "exp_avg_sq": second}

    def _part(self) -> None:
        """From now on every parameter has a count of its own."""
        self._together = False
        for state in self.state.values():
            state["step"] = state["step"].clone()

    def state_dict(self) -> dict[str, Any]:
        found = super().state_dict()
        # A count for each: whoever loads this may count for every parameter, and it is the same number here.
        states = {key: {**state, "step": state["step"].clone()} for key, state in found["state"].items()}
        return {**found, "state": states}

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        loaded = [self.state.get(parameter) for parameter in self._own]
        self._together = not self.state or all(loaded)
        if not self.state:
            for flat in (*self._moments, self._count):
                flat.zero_()
            return
        counts = {float(state["step"]) for state in loaded if state}
        if not self._together or len(counts) != 1:
            self._together = False
            return
        for key, flat in zip(("exp_avg", "exp_avg_sq"), self._moments, strict=True):
            for state, view in zip(loaded, self._views(flat), strict=True):
                view.copy_(state[key])  # type: ignore[index]
        self._count.fill_(counts.pop())
        self._adopt(self._count)
