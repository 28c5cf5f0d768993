"""How well a flow explains the codes of the test images, and how exactly it can be inverted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from iin.losses import nll
from iin.metrics.contract import method
from iin.system import System

__all__ = ["NLL", "Inversion"]


class NLL:
    """Negative log-likelihood of the test images' codes under the flow.

    The density is that of ``system.noisy_code(image)``, a draw from the first stage's posterior, which is what the
    flow was trained on; it is normalised (the D/2 log 2 pi are counted). Mean over the test images; of pairs, the
    first images count.

    Figures: ``nll/nats`` of the whole code; ``nll/bits_per_dim`` of one unit of it.
    """

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        method(system, "noisy_code", "NLL"), method(system, "flow", "NLL")

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        noisy_code, flow = method(system, "noisy_code", "NLL"), method(system, "flow", "NLL")
        total, count, dim = 0.0, 0, 1
        for batch in batches:
            z, logdet = flow(noisy_code(batch.image))
            dim = z.shape[1]
            total += nll(z.double(), logdet.double(), normalised=True).item() * len(z)  # mean over the batch: [] * B
            count += len(z)
        if not count:
            raise ValueError("NLL: there are no test images")
        nats = total / count
        return {"nll/nats": nats, "nll/bits_per_dim": nats / dim / math.log(2)}


class Inversion:
    """How exactly the flow is undone in the precision it runs in: ``|x - f^-1(f(x))|`` of the test images' codes.

    Figures: ``inversion/max`` and ``inversion/mean``, over all units of all codes; of pairs, the first images count.
    """

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        method(system, "code", "Inversion"), method(system, "flow", "Inversion")

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        code, flow = method(system, "code", "Inversion"), method(system, "flow", "Inversion")
        largest, total, count = torch.zeros((), dtype=torch.float64), 0.0, 0
        for batch in batches:
            x = code(batch.image)
            error = (x - flow.inverse(flow(x)[0])).abs().double().cpu()
            largest = torch.maximum(largest, error.max())  # unlike Python's max, NaN stays NaN
            total += error.sum().item()
            count += error.numel()
        if not count:
            raise ValueError("Inversion: there are no test images")
        return {"inversion/max": largest.item(), "inversion/mean": total / count}
