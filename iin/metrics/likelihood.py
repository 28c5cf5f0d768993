"""How well a flow explains the codes of the test images, and how exactly it can be inverted."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch

from iin.arguments import Count
from iin.losses import nll
from iin.metrics.contract import largest, made, method, noisy_latent, placed, represented, summed
from iin.system import System

__all__ = ["NLL", "Inversion"]

log = logging.getLogger("iin")


class NLL:
    """Negative log-likelihood of the test images' codes under the flow.

    The density is that of ``system.noisy_code(image)``, a draw from the first stage's posterior, which is what the
    flow was trained on; it is normalised (the D/2 log 2 pi are counted). Mean over the test images; of pairs, the
    first images count.

    Figures: ``nll/nats`` of the whole code; ``nll/bits_per_dim`` of one unit of it.
    """

    divided = True

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        method(system, "noisy_code", "NLL"), method(system, "flow", "NLL")

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        self.check_system(system)
        total = per_dim = 0.0
        count = 0
        for batch in batches:
            z, logdet = noisy_latent(system, batch)
            nats = nll(z.double(), logdet.double(), normalised=True).item() * len(z)  # mean over the batch: [] * B
            total += nats
            per_dim += nats / z.shape[1]
            count += len(z)
        total, per_dim, images = summed(batches, total, per_dim, count)
        if not images:
            raise ValueError("NLL: there are no test images")
        return {"nll/nats": total / images, "nll/bits_per_dim": per_dim / images / math.log(2)}


class Inversion:
    """How exactly the flow is undone in the precision it runs in: ``|x - f^-1(f(x))|`` of the test images' codes.

    Figures: ``inversion/max`` and ``inversion/mean``, over all units of all codes; of pairs, the first images count.
    A warning says so where the largest error exceeds 1e-3: samples and swaps are then not what they should be.

    Every evaluation of a system with ``code`` and ``flow`` has the first of them, also without this metric: then of the
    first 1,000 test images.

    Args:
        images: how many test images count, at most; None takes all.
    """

    divided = True

    LIMIT = 1e-3
    """Error above which there is a warning, in units of the code."""

    def __init__(self, images: Count | None = None) -> None:
        self.images = images

    @staticmethod
    def fits(system: Any) -> bool:
        """Whether the system has what this measures."""
        flow = getattr(system, "flow", None)
        return callable(getattr(system, "code", None)) and callable(flow) and hasattr(flow, "inverse")

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        method(system, "code", "Inversion"), method(system, "flow", "Inversion")

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        self.check_system(system)
        flow: Any = system.flow
        worst, sum_, count = torch.zeros((), dtype=torch.float64), 0.0, 0
        for start, batch in placed(batches):
            if self.images is not None and start >= self.images:
                break
            x = made(system, batch, "code")
            x = x if self.images is None else x[: self.images - start]
            context = represented(system, batch, len(x))
            error = (x - flow.inverse(flow(x, *context)[0], *context)).abs().double().cpu()
            worst = torch.maximum(worst, error.max())  # unlike Python's max, NaN stays NaN
            sum_ += error.sum().item()
            count += error.numel()
        worst = largest(batches, worst)
        sum_, values = summed(batches, sum_, count)
        if not values:
            raise ValueError("Inversion: there are no test images")
        if not worst <= self.LIMIT:  # NaN is not
            log.warning(
                "inversion: the flow is undone with an error of up to %.3g, more than %g: samples and swaps cannot be "
                "trusted; leave train.tf32 off, and train with a smaller train.lr, train.clip or fewer blocks",
                worst.item(),
                self.LIMIT,
            )
        return {"inversion/max": worst.item(), "inversion/mean": sum_ / values}
