"""A variational autoencoder whose decoder answers to few numbers of its code in each place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch

from iin.arguments import NonNegative, NonNegativeInt, Positive
from iin.losses import annealed, jacobian_norm
from iin.models import ConvVAE
from iin.system import Objective
from iin.systems.vae import Variational

__all__ = ["JacobianVAE"]


class JacobianVAE(Variational):
    """Trains a beta-VAE whose decoder's Jacobian is to have a small L1 norm: local disentanglement.

    It minimises ``nll + beta KL + gamma J``, with ``J`` the sum of absolute derivatives of the image in [0, 1] with
    respect to the code, at the very codes, noise included, that the images are told from. Only the decoder's weights
    answer for ``J``. Both weights grow from 0 over the first ``annealing`` steps; where gamma is 0,
    ``J`` is not computed.

    Logged: ``nll``, ``kl``, ``mu_div`` and ``var_div`` (the two parts of ``kl``), ``jacobian`` (``J``, without weight),
    ``beta`` and ``gamma`` as they were.

    Args:
        model: `iin.models.ConvVAE`, or a module alike; see `iin.systems.vae.Variational`.
        beta: weight of the divergence.
        gamma: weight of the Jacobian's norm; it grows with the number of pixels.
        annealing: steps until both are full.
        p: 1 for absolute derivatives, 2 for their squares.
        method: ``difference``, a finite difference, as published; ``forward``, exact, in forward mode.
        step: of the difference.

    References:
        Local Disentanglement in Variational Auto-Encoders Using Jacobian L1 Regularization (Rhodes and Lee, 2021),
        arXiv:2106.02923, section 3
    """

    def __init__(
        self,
        model: ConvVAE,
        beta: NonNegative = 4.0,
        gamma: NonNegative = 0.1,
        annealing: NonNegativeInt = 0,
        p: Literal[1, 2] = 1,
        method: Literal["difference", "forward"] = "difference",
        step: Positive = 1e-3,
    ) -> None:
        super().__init__(model)
        self.beta, self.gamma, self.annealing = beta, gamma, annealing
        self.p, self.method, self.step = p, method, step

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        seen = self.look(batch.image)
        beta, gamma = (annealed(weight, step, self.annealing) for weight in (self.beta, self.gamma))
        loss, norm = seen.nll + beta * seen.kl, torch.zeros_like(seen.nll)
        if gamma:
            norm = jacobian_norm(self.probabilities, seen.z, self.p, self.method, self.step)
            loss = loss + gamma * norm
        scalars = {"jacobian": norm.detach(), "beta": norm.new_tensor(beta), "gamma": norm.new_tensor(gamma)}
        yield Objective("vae", loss, {**seen.scalars, **scalars})
