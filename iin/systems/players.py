"""What methods of several players have in common: one moves while the others stand still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["frozen", "still"]


@contextmanager
def frozen(module: nn.Module, freeze: bool = True) -> Iterator[None]:
    """Within this context, no graph leads to the module's parameters."""
    moved = [p for p in module.parameters() if p.requires_grad] if freeze else []
    for parameter in moved:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moved:
            parameter.requires_grad_(True)


def still(module: nn.Module) -> Tensor:
    """A loss of 0 whose gradient is 0 for every parameter: those that a loss leaves alone make a step too."""
    return torch.stack([p.flatten()[0] for p in module.parameters() if p.requires_grad]).sum() * 0.0
