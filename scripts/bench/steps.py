"""A training step as the loop of `iin.train` makes it; all else here asks this module for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from iin.config import Training
from iin.engine import engine
from iin.losses import nll
from iin.system import Objective, System
from iin.train import make_optimizers

__all__ = ["ADAM", "FlowAlone", "loop_step", "plain_adam"]

ADAM = Training(lr=1.125e-4, betas=(0.5, 0.9))
"""Learning rate and decay rates of Adam, as published."""


def loop_step(system: System, settings: Training = ADAM) -> Callable[[Any], Tensor]:
    """A function that trains a system on a batch with the optimisers that the loop makes; it answers the last loss."""
    made = engine(system, settings)
    optimizers = make_optimizers(system, settings)

    def step(batch: Any) -> Tensor:
        loss = torch.zeros(())
        for objective in made.objectives(batch, 0):
            optimizer = optimizers[objective.name]
            optimizer.zero_grad(set_to_none=True)
            objective.loss.backward()
            optimizer.step()
            loss = objective.loss.detach()
        return loss

    return step


class FlowAlone(System):
    """A flow that is trained on vectors as they are: its own step, and nothing around it."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def flows(self) -> list[nn.Module]:
        return [self.flow]

    def objectives(self, batch: Tensor, step: int) -> Iterator[Objective]:
        yield Objective("main", nll(*self.flow(batch)), {})


def plain_adam(parameters: Any, fused: bool | None = None) -> torch.optim.Adam:
    """Adam as one writes it, ``fused`` or with what torch does by default."""
    moved = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.Adam(moved, lr=ADAM.lr, betas=ADAM.betas, fused=fused)
