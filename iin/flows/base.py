"""What every flow block promises, and how blocks are put in a row."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Chain", "InvertibleModule", "at_least_single", "single_precision"]


class InvertibleModule(nn.Module, ABC):
    """A bijection of vectors with a tractable Jacobian determinant.

    Every block takes ``context``, whether it uses it or not, so that blocks of all kinds go into one `Chain`.
    """

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents.

        Args:
            x: ``[B, D]``.
            context: ``[B, C]`` what the map may depend on, or None.

        Returns:
            z ``[B, D]`` and log|det dz/dx| ``[B]`` in nats, summed over dimensions.
        """

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Map latents ``[B, D]`` back to data ``[B, D]``."""


class Chain(InvertibleModule):
    """Blocks one after another; the inverse runs them backwards.

    Args:
        blocks: the bijections, first to last. A chain is a block, so chains nest.
    """

    def __init__(self, blocks: Iterable[InvertibleModule]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with single_precision(x):
            return self._through(at_least_single(x), context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        with single_precision(z):
            z = at_least_single(z)
            for block in reversed(list(self)):
                z = block.inverse(z, context)
            return z

    def _through(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """All blocks, on vectors of the precision they work in."""
        total = x.new_zeros(x.shape[0])
        for block in self.blocks:
            x, logdet = block(x, context)
            total = total + logdet
        return x, total

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.blocks)

    def __getitem__(self, index: int) -> Any:
        return self.blocks[index]


def single_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context without autocast: with 8 bits of mantissa no flow is invertible, and no determinant right."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def at_least_single(x: Tensor) -> Tensor:
    """What autocast made of fewer bits, in single precision; anything else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def check_vectors(x: Tensor, dim: int, block: str) -> None:
    """Raise ValueError unless ``x`` is ``[B, dim]``: broadcasting would otherwise hide a wrong shape."""
    if not torch.compiler.is_compiling() and (x.ndim != 2 or x.shape[1] != dim):
        raise ValueError(f"{block}: expected vectors of shape [B, {dim}], found {list(x.shape)}")


def check_context(context: Tensor | None, rows: int, size: int, block: str) -> Tensor:
    """The context, if it is ``[rows, size]``.

    Raises:
        ValueError: it is not, or there is none.
    """
    if context is None:
        raise ValueError(f"{block}: needs a context of shape [{rows}, {size}], one row a vector, found none")
    if not torch.compiler.is_compiling() and tuple(context.shape) != (rows, size):
        raise ValueError(
            f"{block}: expected a context of shape [{rows}, {size}], one row a vector, found {list(context.shape)}"
        )
    return context
