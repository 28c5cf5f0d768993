"""A classifier: a network to be interpreted, and a first stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from iin.models import Classifier as ClassifierModel
from iin.system import Objective, Picture, System
from iin.systems import views

__all__ = ["Classifier"]


class Classifier(System):
    """Trains a classifier with one yes-or-no question a class, as published.

    Args:
        model: `iin.models.Classifier`, or a module that maps images to logits ``[B, classes]``.

    References:
        A Disentangling Invertible Interpretation Network for Explaining Latent Representations
        (Esser, Rombach and Ommer, 2020), arXiv:2004.13166, the published code
    """

    def __init__(self, model: ClassifierModel) -> None:
        super().__init__()
        self.model = model

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        logits = self.model(batch.image)
        target = F.one_hot(batch.label, logits.shape[1]).to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, target)
        accuracy = (logits.argmax(1) == batch.label).float().mean()
        yield Objective("main", loss, {"accuracy": accuracy})

    def classify(self, image: Tensor) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.model(image)

    def images(self, batch: Any) -> dict[str, Picture]:
        return {"predictions": views.classes(batch.image, self.classify(batch.image))}
