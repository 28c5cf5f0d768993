"""How often a classifier is right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from iin.metrics.contract import made, method, summed
from iin.system import System

__all__ = ["Accuracy"]


class Accuracy:
    """Share of test images whose largest logit is that of their label.

    Figures: ``accuracy``, in [0, 1]. Needs ``system.classify(image) -> logits [B, classes]``; of pairs, the first
    images count.
    """

    divided = True

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        method(system, "classify", "Accuracy")

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        self.check_system(system)
        right = count = 0
        for batch in batches:
            if batch.label is None:
                raise ValueError("Accuracy needs test images with labels; this data set has none")
            right += int((made(system, batch, "classify").argmax(1) == batch.label).sum())
            count += len(batch.label)
        hits, images = summed(batches, right, count)
        if not images:
            raise ValueError("Accuracy: there are no test images")
        return {"accuracy": hits / images}
