"""First stage: an autoencoder with a Gaussian posterior."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from iin.arguments import NonNegative
from iin.models import Autoencoder as AutoencoderModel
from iin.system import Objective, System

__all__ = ["Autoencoder"]


class Autoencoder(System):
    """Trains an autoencoder: reconstruction under a learnt noise level, and a code close to the normal.

    The reconstruction term is ``sum(|x - r| / exp(s) + s)`` over an image's values, with ``s`` a learnt scalar: the
    likelihood of a Laplacian (or of a normal, for squared errors) up to constants, so that its weight against the
    divergence needs no tuning.

    Args:
        model: `iin.models.Autoencoder` or a module with ``encode(image)`` -> `Gaussian`, ``decode(code)``, ``dim``.
        reconstruction: absolute (l1) or squared (l2) error.
        kl_weight: weight of the divergence.
        logvar_init: initial value of ``s``.

    References:
        A Disentangling Invertible Interpretation Network for Explaining Latent Representations
        (Esser, Rombach and Ommer, 2020), arXiv:2004.13166, supplement A and the published code
    """

    def __init__(
        self,
        model: AutoencoderModel,
        reconstruction: Literal["l1", "l2"] = "l1",
        kl_weight: NonNegative = 1.0,
        logvar_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.reconstruction = reconstruction
        self.kl_weight = kl_weight
        self.logvar = nn.Parameter(torch.tensor(float(logvar_init)))

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        image = batch.image
        posterior = self.model.encode(image)
        difference = image - self.model.decode(posterior.sample())
        error = difference.abs() if self.reconstruction == "l1" else difference.square()
        # A mean over images of the sum over their values; s enters once for each value.
        nll = error.sum() / len(image) * torch.exp(-self.logvar) + error[0].numel() * self.logvar
        kl = posterior.kl().mean()
        yield Objective(
            "autoencoder",
            nll + self.kl_weight * kl,
            {"nll": nll.detach(), "kl": kl.detach(), "error": error.mean().detach(), "logvar": self.logvar.detach()},
        )

    def trainable(self) -> dict[str, list[nn.Parameter]]:
        return {"autoencoder": [p for p in self.parameters() if p.requires_grad]}

    def encode(self, image: Tensor) -> Tensor:
        """Code ``[B, D]``: the posterior's mean."""
        return self.model.encode(image).mean

    def decode(self, code: Tensor) -> Tensor:
        """Images of codes ``[B, D]``."""
        return self.model.decode(code)

    def code(self, image: Tensor) -> Tensor:
        """Same as `encode`: an autoencoder's code is the first stage's."""
        return self.encode(image)

    def reconstruct(self, image: Tensor) -> Tensor:
        """Through the posterior's mean and back."""
        return self.decode(self.encode(image))

    def sample(self, n: int) -> Tensor:
        """Decode ``n`` draws from the prior; noise from torch's generator."""
        return self.decode(torch.randn(n, self.model.dim, device=self.logvar.device))

    def images(self, batch: Any) -> dict[str, Tensor]:
        image = batch.image[:12]
        return {"reconstructions": torch.stack([image, self.reconstruct(image)]), "samples": self.sample(64)}
