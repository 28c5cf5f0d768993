"""First stage: an autoencoder with a Gaussian posterior."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import grad

from iin.arguments import NonNegative, NonNegativeInt, Positive
from iin.distributed import average
from iin.flows.base import at_least_single
from iin.losses import adaptive_weight, discriminator_loss, generator_loss, pixel_error, reconstruction_nll
from iin.models import Autoencoder as AutoencoderModel
from iin.models import BigAE
from iin.models.gaussian import standard_normal
from iin.models.perceptual import PerceptualName, VGGDistance, perceptual
from iin.system import Objective, Picture, System, built_on
from iin.systems import views
from iin.systems.players import frozen, still

__all__ = ["Autoencoder"]


class Autoencoder(System):
    """Trains an autoencoder: reconstruction under a learnt noise level, and a code close to the normal.

    The reconstruction term is ``sum(error / exp(s) + s)`` over an image's values, with ``s`` a learnt scalar: the
    negative log-likelihood of a Laplacian (twice that of a normal, for squared errors) up to constants, so that its
    weight against the divergence needs no tuning. The error is that of a value, plus ``perceptual_weight`` times the
    image's perceptual distance. From step ``disc_start`` on, a discriminator judges the reconstructions, and the
    autoencoder also minimises what it says, weighted.

    Both players are trained in each step. The autoencoder goes first; the discriminator then learns from images and
    from the very reconstructions (detached) that the autoencoder was judged by. Each gradient is taken at the weights
    that the other player had when the step began: the order in which the published code meant its two updates is
    undefined, since it changes weights that it is about to differentiate, which torch refuses today.
    The discriminator sees images first, then reconstructions, once each: its running statistics know that order.

    Logged: ``nll``, ``kl``, ``logvar`` (``s``), ``rec`` (mean error, perceptual distance included), ``calibration``
    (how steep the likelihood is in ``-s``; 0 where the noise level fits the errors), ``p`` (perceptual distance); of
    the discriminator ``g`` and ``d`` (both losses), ``d_weight``, ``real`` and ``fake`` (mean logits), ``active``.

    Args:
        model: `iin.models.Autoencoder`, `iin.models.BigAE` or a module with ``encode(image)`` -> `Gaussian`,
            ``decode(code)``, ``dim``; to calibrate, also ``last_layer``, the weight of the decoder's last layer.
        reconstruction: absolute (l1) or squared (l2) error.
        kl_weight: weight of the divergence.
        logvar_init: initial value of ``s``.
        perceptual: ``vgg`` (LPIPS, as published; needs torchvision's weights), ``digits`` (the same in the shipped
            digit network; offline, for digits) or ``none``; see `iin.models.perceptual`.
        perceptual_weight: weight of the perceptual distance in the error of each value.
        perceptual_path: file of VGG's weights; by default the caches are searched.
        download: fetch them when they are found nowhere.
        discriminator: images ``[B, C, H, W]`` -> logits, such as `iin.models.PatchDiscriminator`; None for none.
        disc_start: steps before the discriminator takes part.
        disc_factor: weight of both adversarial losses.
        discriminator_weight: weight of the autoencoder's one, unless calibrated.
        calibrate: weigh it so that at the decoder's last layer its gradient is as strong as that of the likelihood.
        d_lr_factor: learning rate of the discriminator, as a multiple of ``train.lr``. (The published code applies
            it from its second step on.)
        disc_warmup: run the discriminator before ``disc_start`` too, as published: its verdicts are logged, its
            running statistics settle, and its optimiser counts steps, but its weights stay and nobody heeds it. False
            leaves it out until then, which shortens those steps by a third or more.

    Raises:
        ValueError: the perceptual network has no weights; model and discriminator do not fit each other.

    References:
        | A Disentangling Invertible Interpretation Network for Explaining Latent Representations
          (Esser, Rombach and Ommer, 2020), arXiv:2004.13166, supplement A and the published code
        | Autoencoding beyond pixels using a learned similarity metric (Larsen et al., 2015), arXiv:1512.09300
    """

    def __init__(
        self,
        model: AutoencoderModel | BigAE,
        reconstruction: Literal["l1", "l2"] = "l1",
        kl_weight: NonNegative = 1.0,
        logvar_init: float = 0.0,
        perceptual: PerceptualName = "none",
        perceptual_weight: NonNegative = 1.0,
        perceptual_path: str | Path | None = None,
        download: bool = False,
        discriminator: nn.Module | None = None,
        disc_start: NonNegativeInt = 0,
        disc_factor: NonNegative = 1.0,
        discriminator_weight: NonNegative = 1.0,
        calibrate: bool = False,
        d_lr_factor: Positive = 1.0,
        disc_warmup: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.reconstruction = reconstruction
        self.kl_weight = kl_weight
        self.logvar = nn.Parameter(torch.tensor(float(logvar_init)))
        # No module: its weights are no part of the state, and it is not trained.
        self.perceptual = _perceptual(perceptual, perceptual_weight, perceptual_path, download)
        self.perceptual_weight = perceptual_weight
        self.discriminator = discriminator
        self.disc_start = disc_start
        self.disc_factor = disc_factor
        self.discriminator_weight = discriminator_weight
        self.calibrate = calibrate
        self.d_lr_factor = d_lr_factor
        self.disc_warmup = disc_warmup
        self._fit()

    def _fit(self) -> None:
        """Raise ValueError where model and discriminator do not fit each other, as far as they tell."""
        if self.discriminator is None:
            return
        ours, theirs = (getattr(part, "channels", None) for part in (self.model, self.discriminator))
        if None not in (ours, theirs) and ours != theirs:
            raise ValueError(f"discriminator: looks at images of {theirs} channels, but the model makes {ours}")
        size, smallest = getattr(self.model, "size", None), getattr(self.discriminator, "smallest", None)
        if None not in (size, smallest) and size < smallest:  # type: ignore[operator]
            raise ValueError(
                f"discriminator: needs images of at least {smallest}x{smallest}, but the model makes {size}x{size}: "
                "set fewer layers"
            )
        if self.calibrate and not isinstance(getattr(self.model, "last_layer", None), Tensor):
            raise ValueError(
                "calibrate: the model must have last_layer, the weight of the decoder's last layer; "
                "or set calibrate: false and a discriminator_weight"
            )

    @staticmethod
    def lacks(
        *,
        perceptual: Any = "none",
        perceptual_weight: Any = 1.0,
        perceptual_path: str | Path | None = None,
        download: bool = False,
        **_: Any,
    ) -> Iterator[str]:
        """What this system needs with these arguments, and is not here."""
        if perceptual == "vgg" and perceptual_weight:
            problem = VGGDistance.missing(perceptual_path, download)
            if problem:
                yield problem

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        image = batch.image
        posterior = self.model.encode(image)
        made = at_least_single(self.model.decode(posterior.sample()))  # of fewer bits under autocast; errors need more
        kl = posterior.kl().mean()
        active = step >= self.disc_start
        if self.discriminator is not None and (active or self.disc_warmup):
            yield from self._contest(image, made, kl, active)
            return
        error, seen = self._error(image, made)
        nll = reconstruction_nll(error, self.logvar)
        yield Objective("autoencoder", nll + self.kl_weight * kl, {**self._scalars(nll, kl, error), **seen})

    def _contest(self, image: Tensor, made: Tensor, kl: Tensor, active: bool) -> Iterator[Objective]:
        """Both players' objectives.

        Whatever looks at a reconstruction is differentiated once, down to the reconstruction. These gradients are
        compared at the last layer, added up and handed to the decoder; the autoencoder's backward never enters
        discriminator or perceptual network, and the discriminator's never enters the autoencoder.
        """
        assert self.discriminator is not None
        shown = made.detach().requires_grad_()  # the graph of all that looks at it ends here
        error, scalars = self._error(image, shown)
        nll = reconstruction_nll(error, self.logvar.detach())
        (nll_gradient,) = grad(nll, shown)
        with torch.set_grad_enabled(active):
            real = at_least_single(self.discriminator(image))
        with frozen(self.discriminator, not active), torch.set_grad_enabled(active or self.calibrate):
            fake = at_least_single(self.discriminator(shown))
            g = generator_loss(fake)
        g_gradient = grad(g, shown, retain_graph=active)[0] if fake.requires_grad else None
        weight = self._weight(made, nll_gradient, g_gradient)
        factor = self.disc_factor if active else 0.0
        d = self.disc_factor * discriminator_loss(real, fake) if active else still(self.discriminator)

        gradient = nll_gradient if g_gradient is None else nll_gradient + weight * factor * g_gradient
        loss = reconstruction_nll(error.detach(), self.logvar) + self.kl_weight * kl
        loss = loss + weight * factor * g.detach() + _handing(made, gradient)
        scalars |= self._scalars(nll, kl, error) | {
            "g": g.detach(),
            "d_weight": weight,
            "real": real.detach().mean(),
            "fake": fake.detach().mean(),
            "active": torch.tensor(float(active)),
        }
        yield Objective("autoencoder", loss, scalars)
        # The discriminator has not changed since it judged: no need to ask it again.
        yield Objective("discriminator", d, {"d": d.detach()})

    def _weight(self, made: Tensor, nll_gradient: Tensor, g_gradient: Tensor | None) -> Tensor:
        """Weight of the generator's loss, scalar; the gradients are those at the reconstruction."""
        if not self.calibrate or g_gradient is None:
            return made.new_tensor(self.discriminator_weight)
        last = self.model.last_layer
        # Of the whole batch, of which each process may have a share: the strength of a mean is no mean of strengths.
        at_last = (average(grad(made, last, g, retain_graph=True)[0]) for g in (nll_gradient, g_gradient))
        return adaptive_weight(*at_last)

    def _error(self, image: Tensor, made: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of every value ``[B, C, H, W]``, and what to log of the perceptual distance."""
        error = pixel_error(image, made, self.reconstruction)
        if self.perceptual is None:
            return error, {}
        distance = self.perceptual(image, made)  # [B, 1, 1, 1]
        return error + self.perceptual_weight * distance, {"p": distance.detach().mean()}

    def _scalars(self, nll: Tensor, kl: Tensor, error: Tensor) -> dict[str, Tensor]:
        logvar = self.logvar.detach()
        values = error[0].numel()
        return {
            "nll": nll.detach(),
            "kl": kl.detach(),
            "rec": error.detach().mean(),
            "logvar": logvar.clone(),  # as it was: the step that follows moves it
            "calibration": nll.detach() - values * logvar - values,  # sum(error / exp(s) - 1)
        }

    def trainable(self) -> dict[str, list[nn.Parameter]]:
        if self.discriminator is None:
            return {"autoencoder": [p for p in self.parameters() if p.requires_grad]}
        parts = {
            "autoencoder": [*self.model.parameters(), self.logvar],
            "discriminator": self.discriminator.parameters(),
        }
        return {name: [p for p in parameters if p.requires_grad] for name, parameters in parts.items()}

    def lr_factors(self) -> dict[str, float]:
        return {} if self.discriminator is None else {"discriminator": self.d_lr_factor}

    def encode(self, image: Tensor) -> Tensor:
        """Code ``[B, D]``: the posterior's mean."""
        return self.model.encode(image).mean

    def decode(self, code: Tensor) -> Tensor:
        """Images of codes ``[B, D]``."""
        return self.model.decode(code)

    @built_on("encode")
    def code(self, code: Tensor) -> Tensor:
        """Same as `encode`: an autoencoder's code is the first stage's."""
        return code

    @built_on("encode")
    def reconstruct(self, code: Tensor) -> Tensor:
        """Through the posterior's mean and back."""
        return self.decode(code)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Decode ``n`` draws from the prior; noise from the generator, or from torch's own."""
        return self.decode(standard_normal(n, self.model.dim, self.logvar, generator))

    def images(self, batch: Any) -> dict[str, Picture]:
        return {**views.overview(self, batch), "traversals": views.traversals(self, self.encode(batch.image[:1])[0])}


_perceptual = perceptual  # the argument of Autoencoder has the same name


def _handing(tensor: Tensor, gradient: Tensor) -> Tensor:
    """A loss of 0 whose gradient with respect to a tensor is the given one."""
    product = (tensor * gradient).sum()
    return product - product.detach()
