"""Variational autoencoders with a Bernoulli likelihood, and what they are regularised by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from iin.arguments import NonNegative, NonNegativeInt
from iin.distributed import noise_like
from iin.flows.base import at_least_single
from iin.losses import (
    annealed,
    bernoulli_nll,
    covariance,
    covariance_penalty,
    decoder_jacobian,
    density_ratio,
    density_ratio_loss,
    divergence_parts,
    permuted,
    total_correlation,
)
from iin.models import ConvVAE, Gaussian
from iin.models.gaussian import standard_normal
from iin.system import Objective, Picture, System, built_on
from iin.systems import views
from iin.systems.players import frozen

__all__ = ["VAE", "Seen", "Variational"]

Regulariser = Literal["vae", "betavae", "annealedvae", "factorvae", "dipvae1", "dipvae2", "betatcvae"]


class Seen(NamedTuple):
    """What a step knows of its batch."""

    posterior: Gaussian
    z: Tensor
    """Codes with their noise ``[B, L]``."""
    nll: Tensor
    """Of the images, in nats: scalar."""
    kl: Tensor
    """Divergence from the standard normal, in nats: scalar."""
    scalars: dict[str, Tensor]
    """What is logged of them."""


class Variational(System):
    """What all variational autoencoders have in common.

    Args:
        model: `iin.models.ConvVAE`, or a module with ``encode(image)`` -> `Gaussian`, ``logits(z)``, ``decode(z)`` and
            ``dim``.
    """

    def __init__(self, model: ConvVAE) -> None:
        super().__init__()
        for name in ("encode", "logits", "decode"):
            if not callable(getattr(model, name, None)):
                raise ValueError(f"model: {type(model).__name__} has no {name}; expected iin.models.ConvVAE or alike")
        self.model = model
        self.dim = model.dim

    def look(self, image: Tensor) -> Seen:
        """Encode images ``[B, C, H, W]`` in [-1, 1], draw codes, and see how well these tell the images."""
        posterior = self.posterior(image)
        z = posterior.sample()
        nll = bernoulli_nll(at_least_single(self.model.logits(z)), (image + 1) / 2)
        of_means, of_variances = divergence_parts(posterior.mean, posterior.logvar)
        kl = of_means + of_variances
        parts = {"nll": nll, "kl": kl, "mu_div": of_means, "var_div": of_variances}
        return Seen(posterior, z, nll, kl, {name: value.detach() for name, value in parts.items()})

    def trainable(self) -> dict[str, list[nn.Parameter]]:
        return {"vae": [p for p in self.model.parameters() if p.requires_grad]}

    def posterior(self, image: Tensor) -> Gaussian:
        """Distribution of codes of images ``[B, C, H, W]`` in [-1, 1]."""
        return self.model.encode(image)

    @built_on("posterior")
    def encode(self, posterior: Gaussian) -> Tensor:
        """Code ``[B, L]``: the posterior's mean."""
        return posterior.mean

    @built_on("encode")
    def code(self, code: Tensor) -> Tensor:
        """Same as `encode`: an autoencoder's code is the first stage's."""
        return code

    def decode(self, z: Tensor) -> Tensor:
        """Images in [-1, 1] of codes ``[B, L]``."""
        return self.model.decode(z)

    @built_on("encode")
    def reconstruct(self, code: Tensor) -> Tensor:
        """Through the posterior's mean and back."""
        return self.decode(code)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Decode ``n`` draws from the prior; noise from the generator, or from torch's own."""
        return self.decode(standard_normal(n, self.dim, next(self.model.parameters()), generator))

    def probabilities(self, z: Tensor) -> Tensor:
        """Images in [0, 1] of codes ``[B, L]``."""
        return torch.sigmoid(at_least_single(self.model.logits(z)))

    def jacobian(self, z: Tensor) -> Tensor:
        """Exact derivatives of images in [0, 1] with respect to codes ``[B, L]``: ``[L, B, C, H, W]``."""
        return decoder_jacobian(self.probabilities, z, "forward")

    def images(self, batch: Any) -> dict[str, Picture]:
        image = batch.image[: views.SIDE]
        code = self.encode(image)
        return {
            **views.overview(self, batch),
            "traversals": views.traversals(self, code[0]),
            "jacobian": views.columns(self.jacobian(code), image),
        }


class VAE(Variational):
    """A variational autoencoder with one of the regularisers that methods of disentanglement are compared by.

    All minimise the negative log-likelihood of the images, summed over their values, and add, with ``KL`` the
    divergence from the standard normal:

    * ``vae``: ``KL``
    * ``betavae``: ``beta KL``
    * ``annealedvae``: ``gamma |KL - C|``, where the capacity ``C`` grows from 0 to ``capacity`` in ``threshold``
      steps
    * ``factorvae``: ``KL + gamma TC``, with the total correlation ``TC`` as a discriminator of codes sees it, the
      second player, which learns in each step from the same codes, detached
    * ``dipvae1``: ``KL + lambda_od (off-diagonal of C)^2 + lambda_d (diagonal of C - 1)^2``, summed, with ``C`` the
      covariance of the codes' means over the batch
    * ``dipvae2``: the same, with ``C`` the covariance of codes with their noise
    * ``betatcvae``: ``KL + (beta - 1) TC``, with ``TC`` estimated from the batch

    The defaults are the third of six strengths in the study, of which each method's published comparison is. Covariance
    and total correlation are those of a process's share of the batch.

    Logged: ``nll``, ``kl``, ``mu_div`` and ``var_div`` (the two parts of ``kl``), ``regulariser`` (all that is added);
    ``capacity``; ``tc``; ``covariance`` (the penalty); of the discriminator ``d``, its loss.

    Args:
        model: `iin.models.ConvVAE`, or a module alike; see `Variational`.
        regulariser: which.
        beta: weight of ``betavae``, and of ``betatcvae``.
        gamma: weight of ``annealedvae`` (by default 1000), and of ``factorvae`` (by default 30).
        capacity: of ``annealedvae``, in nats.
        threshold: steps until the capacity is full.
        lambda_od: weight of ``dipvae1`` and ``dipvae2`` off the diagonal.
        lambda_d: on the diagonal; by default 10 times ``lambda_od`` for ``dipvae1``, and once for ``dipvae2``.
        discriminator: of ``factorvae``: codes ``[B, L]`` -> logits ``[B, 2]``, `iin.models.CodeDiscriminator`. Its
            Adam has decay rates of 0.5 and 0.9.

    Raises:
        ValueError: ``factorvae`` without a discriminator, or another with one; or model and discriminator do not fit.

    References:
        Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations
        (Locatello et al., 2018), arXiv:1811.12359, section 5 and appendix; each method's paper is named there
    """

    def __init__(
        self,
        model: ConvVAE,
        regulariser: Regulariser = "betavae",
        beta: NonNegative = 4.0,
        gamma: NonNegative | None = None,
        capacity: NonNegative = 25.0,
        threshold: NonNegativeInt = 100000,
        lambda_od: NonNegative = 5.0,
        lambda_d: NonNegative | None = None,
        discriminator: nn.Module | None = None,
    ) -> None:
        super().__init__(model)
        for mistake in self.check(regulariser=regulariser, discriminator=discriminator):
            raise ValueError(mistake)
        told = getattr(discriminator, "dim", self.dim)
        if told != self.dim:
            raise ValueError(f"discriminator: looks at codes of {told} numbers, but the model's have {self.dim}")
        self.regulariser = regulariser
        self.beta = beta
        self.gamma = gamma if gamma is not None else 30.0 if regulariser == "factorvae" else 1000.0
        self.capacity, self.threshold = capacity, threshold
        self.lambda_od = lambda_od
        self.lambda_d = lambda_d if lambda_d is not None else lambda_od * (10 if regulariser == "dipvae1" else 1)
        self.discriminator = discriminator

    @staticmethod
    def check(regulariser: Any = "betavae", discriminator: Any = None, **_: Any) -> Iterator[str]:
        """What is wrong with the arguments taken together."""
        if regulariser == "factorvae" and discriminator is None:
            yield "discriminator: factorvae needs one, such as iin.models.CodeDiscriminator"
        if regulariser != "factorvae" and discriminator is not None:
            yield f"discriminator: {regulariser} has none; leave it out, or set regulariser: factorvae"

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        seen = self.look(batch.image)
        added, scalars = self.penalty(seen, step)
        scalars = {"regulariser": added, **scalars}
        yield Objective("vae", seen.nll + added, {**seen.scalars, **{k: v.detach() for k, v in scalars.items()}})
        if self.discriminator is not None:
            z = seen.z.detach()
            # The discriminator has not changed, and the codes are those of the weights before the step.
            d = density_ratio_loss(self._judged(z), self._judged(permuted(z, noise_like(z))))
            yield Objective("discriminator", d, {"d": d.detach()})

    def penalty(self, seen: Seen, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What is added to the likelihood, a scalar, and what to log beside it."""
        kl, (mean, logvar) = seen.kl, (seen.posterior.mean, seen.posterior.logvar)
        if self.regulariser == "betavae":
            return self.beta * kl, {}
        if self.regulariser == "annealedvae":
            capacity = kl.new_tensor(annealed(self.capacity, step, self.threshold))
            return self.gamma * (kl - capacity).abs(), {"capacity": capacity}
        if self.regulariser == "factorvae":
            assert self.discriminator is not None
            with frozen(self.discriminator):
                tc = density_ratio(self._judged(seen.z))
            return kl + self.gamma * tc, {"tc": tc}
        if self.regulariser in ("dipvae1", "dipvae2"):
            found = covariance(mean, logvar if self.regulariser == "dipvae2" else None)
            penalty = covariance_penalty(found, self.lambda_od, self.lambda_d)
            return kl + penalty, {"covariance": penalty}
        if self.regulariser == "betatcvae":
            tc = total_correlation(seen.z, mean, logvar)
            return kl + (self.beta - 1) * tc, {"tc": tc}
        return kl, {}

    def _judged(self, z: Tensor) -> Tensor:
        assert self.discriminator is not None
        return at_least_single(self.discriminator(z))

    def trainable(self) -> dict[str, list[nn.Parameter]]:
        players = super().trainable()
        if self.discriminator is not None:
            players["discriminator"] = [p for p in self.discriminator.parameters() if p.requires_grad]
        return players

    def betas(self) -> dict[str, tuple[float, float]]:
        return {} if self.discriminator is None else {"discriminator": (0.5, 0.9)}
