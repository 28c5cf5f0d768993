"""What a frozen network said of images, in the place of the images."""

from __future__ import annotations

from collections.abc import Sequence
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
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

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
        return Codes(self.values.to(*args, **kwargs))

    def pin_memory(self) -> Codes:
        """The same in memory that is fit to be copied to a GPU while other work goes on."""
        return Codes(self.values.pin_memory())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Say that a stream of a GPU works on this; see the method of tensors."""
        self.values.record_stream(stream)

    @staticmethod
    def cat(parts: Sequence[Codes]) -> Codes:
        """All rows, behind each other."""
        return Codes(torch.cat([part.values for part in parts]))
