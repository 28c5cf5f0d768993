"""What frozen networks said of images, in the place of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from iin.distributed import noise_like

__all__ = ["Codes"]


class Codes:
    """Posteriors of ``B`` images, which were computed before.

    This is no tensor: what counts on images, a colour that is put on them, say, fails on it instead of going wrong.

    Args:
        values: mean and deviation of each ``[B, 2, D]``.
        context: what another frozen network made of each ``[B, ...]``, on which a flow is conditioned; or None.
    """

    def __init__(self, values: Tensor, context: Tensor | None = None) -> None:
        self.values = values
        self.context = context

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> Tensor:
        """``[B, D]``."""
        return self.values[:, 0]

    @property
    def std(self) -> Tensor:
        """Standard deviation ``[B, D]``."""
        return self.values[:, 1]

    def sample(self) -> Tensor:
        """Draw one code a row ``[B, D]``, as `iin.models.Gaussian` does: the same for the same generator."""
        return self.mean + self.std * noise_like(self.mean)

    def to(self, *args: Any, **kwargs: Any) -> Codes:
        """The same elsewhere, or of another type; arguments are those of a tensor's ``to``."""
        return self._each(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> Codes:
        """The same in memory that is fit to be copied to a GPU while other work goes on."""
        return self._each(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Say that a stream of a GPU works on this; see the method of tensors."""
        self.values.record_stream(stream)
        if self.context is not None:
            self.context.record_stream(stream)

    @staticmethod
    def cat(parts: Sequence[Codes]) -> Codes:
        """All rows, behind each other."""
        contexts = [part.context for part in parts if part.context is not None]
        return Codes(torch.cat([part.values for part in parts]), torch.cat(contexts) if contexts else None)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Codes:
        return Codes(change(self.values), None if self.context is None else change(self.context))
