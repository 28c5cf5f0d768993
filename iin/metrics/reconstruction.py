"""How much of an image comes back from its code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from iin.metrics.contract import made, method, summed
from iin.system import System

__all__ = ["Reconstruction"]


class Reconstruction:
    """Error of reconstructed test images, mean over pixels and channels; images in [-1, 1].

    Figures: ``reconstruction/mse`` and ``reconstruction/mae``. Needs ``system.reconstruct(image)``; of pairs, the first
    images count.
    """

    divided = True

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        method(system, "reconstruct", "Reconstruction", decoder=True)

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        self.check_system(system)
        squared = absolute = 0.0
        count = 0
        for batch in batches:
            error = (made(system, batch, "reconstruct") - batch.image).double()
            squared += error.square().sum().item()
            absolute += error.abs().sum().item()
            count += error.numel()
        squared, absolute, values = summed(batches, squared, absolute, count)
        if not values:
            raise ValueError("Reconstruction: there are no test images")
        return {"reconstruction/mse": squared / values, "reconstruction/mae": absolute / values}
