"""Generators whose every latent does something of its own that one can see: variation predictability."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from iin.arguments import Count, NonNegative, Positive
from iin.distributed import average, world
from iin.flows.base import at_least_single
from iin.losses import (
    class_loss,
    gradient_penalty,
    information_loss,
    logistic_loss,
    nonsaturating_loss,
    variation_loss,
    variations_loss,
)
from iin.models import ModuleGenerator, ResidualDiscriminator
from iin.system import Objective, Picture, System
from iin.systems import views
from iin.systems.players import frozen, still

__all__ = ["VariationGAN"]

Latent = Literal["uniform", "normal", "truncated"]

REACH = 2.0
"""Latents are uniform between minus this and this; normal ones are cut off there."""
SPREAD = 2.0
"""Deviation of the normal factor that a step is multiplied with."""
CASCADE = 100_000
"""Steps in which a cascade goes through all latents."""
BETAS = (0.0, 0.99)
"""Decay rates of Adam for both players, of which each has a power."""
SOFTENED = 4 / 5
"""What the generator's rates are scaled by: as if it too had a penalty, at each fourth step. It has none."""
CODES = 8
"""Codes of which all classes are shown."""


class VariationGAN(System):
    """Trains a generator to make images of which one can tell the latent that was changed.

    In each step a code is drawn, and changed in one number. A recogniser looks at the images of both and tells which
    number it was; generator and recogniser, one player, minimise its cross entropy beside what the discriminator says
    of the first image. The discriminator is the other player. It learns right after, from images of new codes by the
    generator as it is then; every ``lazy`` steps it makes another step, on the squared norm of its gradient at real
    images, ``lazy`` times as heavy.

    What makes images afterwards is not the generator itself, but the average of its weights over training, `average`.

    Baselines: ``objective: gan`` has no recogniser; ``objective: infogan`` has one that looks at single images, and
    tells the code's numbers, each with a deviation, and the class.

    Codes are the class first, where there are any (1 for it and 0 for the others), then the continuous numbers. As
    published, the second code of a pair has no class at all, all zeros.

    Logged, of the generator: ``g`` (what the discriminator says), ``vp`` (the recogniser's loss without its weight) and
    ``accuracy`` (share of pairs of which it tells the number), or ``info`` (loss of continuous numbers), and ``class``
    (of the class). Of the discriminator: ``d``, ``real`` and ``fake`` (mean logits), and ``r1``, the squared norm
    when last computed.

    Args:
        generator: code -> image.
        discriminator: image -> logit.
        recogniser: of ``vp``, `iin.models.PairRecogniser`, with as many outputs as the code has numbers; of
            ``infogan``, `iin.models.ResidualDiscriminator`, with one for each class and two for each continuous number.
        objective: ``vp``, ``infogan`` or ``gan``.
        weight: of the recogniser's loss of continuous numbers.
        class_weight: of the class: of ``infogan``; and of ``vp`` where the discriminator has ``classes``. Then the
            generator is to make images whose class one can tell, which the discriminator learns from the same images.
        latent: ``uniform`` in [-2, 2], ``normal``, or ``truncated``: normal, and drawn anew beyond 2.
        variation: ``onedim``, which number has changed is told; ``fulldim``, all change, by up to half of ``epsilon``,
            and how far each one did is told.
        epsilon: size of a change.
        random_epsilon: multiply it with a normal number of deviation 2, for each pair; then it is neither bounded nor
            of one sign, and codes leave the range that they are drawn from. Of ``onedim``.
        cascading: of ``onedim``: change one of the first two numbers to begin with, and of one more after each
            ``100000 / C`` steps; beyond all of them, from the start.
        gamma: strength of the discriminator's penalty, of whose half the squared norm has; 0 for none.
        lazy: steps from one penalty to the next.
        half_life: images after which weights count half in the average.

    Raises:
        ValueError: the parts do not fit each other.

    References:
        | Learning Disentangled Representations with Latent Variation Predictability (Zhu, Xu and Tao, 2020),
          arXiv:2007.12885, the published code
        | Analyzing and Improving the Image Quality of StyleGAN (Karras et al., 2019), arXiv:1912.04958, section 3.1
          (lazy penalties, and rates of Adam scaled by them)
        | InfoGAN: Interpretable Representation Learning by Information Maximizing Generative Adversarial Nets
          (Chen et al., 2016), arXiv:1606.03657
    """

    r1: Tensor
    """Squared norm of the discriminator's gradient, as last computed."""

    def __init__(
        self,
        generator: ModuleGenerator,
        discriminator: ResidualDiscriminator,
        recogniser: nn.Module | None = None,
        objective: Literal["vp", "infogan", "gan"] = "vp",
        weight: NonNegative = 0.01,
        class_weight: NonNegative = 1.0,
        latent: Latent = "uniform",
        variation: Literal["onedim", "fulldim"] = "onedim",
        epsilon: Positive = 3.0,
        random_epsilon: bool = True,
        cascading: bool = False,
        gamma: NonNegative = 100.0,
        lazy: Count = 16,
        half_life: Positive = 10000.0,
    ) -> None:
        super().__init__()
        for mistake in self.check(recogniser=recogniser, objective=objective, variation=variation, cascading=cascading):
            raise ValueError(mistake)
        self.generator, self.discriminator, self.recogniser = generator, discriminator, recogniser
        self.objective, self.weight, self.class_weight = objective, weight, class_weight
        self.latent, self.variation, self.epsilon = latent, variation, epsilon
        self.random_epsilon, self.cascading = random_epsilon, cascading
        self.gamma, self.lazy, self.half_life = gamma, lazy, half_life
        self.dim, self.discrete, self.continuous = generator.dim, generator.discrete, generator.continuous
        self._fit()
        self.average = copy.deepcopy(generator).requires_grad_(False)
        """The generator, by the average of its weights."""
        self.register_buffer("r1", torch.zeros(()))
        self.train(self.training)

    @staticmethod
    def check(
        recogniser: Any = None,
        objective: Any = "vp",
        variation: Any = "onedim",
        cascading: Any = False,
        **_: Any,
    ) -> Iterator[str]:
        """What is wrong with the arguments taken together."""
        if objective == "gan" and recogniser is not None:
            yield "recogniser: a plain GAN has none; leave it out, or set objective: vp"
        if objective != "gan" and recogniser is None:
            kind = "PairRecogniser" if objective == "vp" else "ResidualDiscriminator"
            yield f"recogniser: {objective} needs one, such as iin.models.{kind}; or set objective: gan"
        if cascading and variation == "fulldim":
            yield "cascading: chooses the number that changes, but with variation: fulldim all do"

    def _fit(self) -> None:
        """Raise ValueError where the parts do not fit each other, as far as they tell."""
        if self.recogniser is not None:
            pair = self.objective == "vp"
            try:
                inspect.signature(self.recogniser.forward).bind(*[None] * (2 if pair else 1))
            except TypeError as error:
                what, kind = (
                    ("both images of a pair", "PairRecogniser") if pair else ("one image", "ResidualDiscriminator")
                )
                raise ValueError(
                    f"recogniser: {self.objective} shows it {what}, which {type(self.recogniser).__name__} does not "
                    f"take; expected iin.models.{kind}, or alike"
                ) from error
        for name in ("discriminator", "recogniser"):
            for what in ("channels", "size"):
                ours, theirs = getattr(self.generator, what, None), getattr(getattr(self, name), what, None)
                if None not in (ours, theirs) and ours != theirs:
                    raise ValueError(f"{name}: looks at images of {what} {theirs}, but the generator makes {ours}")
        answers = {"discriminator": 1, "recogniser": self.dim + (self.continuous if self.objective == "infogan" else 0)}
        for name, expected in answers.items():
            found = getattr(getattr(self, name), "outputs", expected)
            if found != expected:
                raise ValueError(
                    f"{name}: answers {found} numbers; expected outputs: {expected} (the generator's codes have "
                    f"{self.discrete} classes and {self.continuous} continuous numbers)"
                )
        if self.objective == "vp" and self.variation == "onedim" and self.continuous < 2:
            raise ValueError(
                f"generator: takes {self.continuous} continuous number, and which one has changed is nothing to tell; "
                "expected at least 2 (C_global-2)"
            )
        classes = getattr(self.discriminator, "classes", 0)
        if classes and (classes != self.discrete or self.objective != "vp"):
            raise ValueError(
                f"discriminator: tells {classes} classes; expected classes: "
                f"{self.discrete if self.objective == 'vp' else 0} (the generator has {self.discrete}, and only "
                "objective: vp asks the discriminator for them)"
            )

    def train(self, mode: bool = True) -> VariationGAN:
        super().train(mode)
        self.average.eval()
        return self

    # --- codes --------------------------------------------------------------------------------------------------------

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Between which the continuous numbers of a code lie; None where they may be of any size."""
        return None if self.latent == "normal" else (-REACH, REACH)

    def latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes drawn at random ``[n, dim]``; from the generator, or from torch's own.

        The same generator gives the same codes on every device.
        """
        like = next(self.generator.parameters())
        device = like.device if generator is None else generator.device
        draw = torch.randn if self.latent == "normal" else torch.rand
        value = draw(n, self.continuous, generator=generator, device=device)
        if self.latent == "uniform":
            value = 2 * REACH * value - REACH
        elif self.latent == "truncated":
            within = math.erf(REACH / math.sqrt(2))  # share of a normal distribution that is not cut off
            value = (math.sqrt(2) * torch.erfinv(within * (2 * value - 1))).clamp(-REACH, REACH)
        label = torch.zeros(n, self.discrete, device=device)
        if self.discrete:
            chosen = torch.randint(self.discrete, (n, 1), generator=generator, device=device)
            label.scatter_(1, chosen, 1.0)
        return torch.cat([label, value], 1).to(like)

    def varied(self, z: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Changed codes, and what is to be told of the change.

        Args:
            z: codes ``[B, dim]``.
            step: number of steps done, for the cascade.

        Returns:
            Codes ``[B, dim]``, without a class; the number that has changed ``[B]`` int64, or with ``fulldim`` how
            far each has ``[B, C]``, from 0 (down) to 1 (up).
        """
        value = z[:, self.discrete :]
        nothing = torch.zeros_like(z[:, : self.discrete])
        if self.variation == "fulldim":
            share = torch.rand_like(value)
            return torch.cat([nothing, value + (share - 0.5) * self.epsilon], 1), share
        changed = torch.randint(self.reached(step), (len(z),), device=z.device)
        change = torch.full_like(value[:, :1], self.epsilon)
        if self.random_epsilon:
            change = change * SPREAD * torch.randn_like(change)
        return torch.cat([nothing, value.scatter_add(1, changed[:, None], change)], 1), changed

    def reached(self, step: int) -> int:
        """How many of the continuous numbers may change at a step: all, unless they come in a cascade."""
        if not self.cascading:
            return self.continuous
        return min(int(step / (CASCADE / self.continuous)) % self.continuous + 2, self.continuous)

    # --- training -----------------------------------------------------------------------------------------------------

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        image = batch.image
        with frozen(self.discriminator):
            loss, scalars = self._generated(len(image), step)
        yield Objective("generator", loss, scalars)
        self._follow(len(image))
        loss, scalars = self._judged(image)
        yield Objective("discriminator", loss, scalars)
        if self.gamma and step % self.lazy == 0:
            value = loss.detach()
            r1 = self._steepness(image)
            self.r1.copy_(average(r1.detach()))
            # What is logged as this player's loss remains that of every step.
            logged = {"loss": value, "r1": self.r1.clone()}
            yield Objective("discriminator", self.lazy * self.gamma / 2 * r1 + still(self.discriminator), logged)

    def _generated(self, count: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What generator and recogniser minimise, and what is logged of it."""
        z = self.latents(count)
        label = z[:, : self.discrete]
        made = self.generator(z)
        g = nonsaturating_loss(at_least_single(self.discriminator(made)))
        loss, scalars = g, {"g": g}
        if self.objective == "infogan":
            assert self.recogniser is not None
            of_class, info = (
                part.mean() for part in information_loss(at_least_single(self.recogniser(made)), z, self.discrete)
            )
            loss = loss + self.weight * info
            scalars["info"] = info
            if self.discrete:
                loss = loss + self.class_weight * of_class
                scalars["class"] = of_class
        if self.objective == "vp":
            assert self.recogniser is not None
            other, told = self.varied(z, step)
            logits = at_least_single(self.recogniser(made, self.generator(other)))[:, self.discrete :]
            vp = (variation_loss if self.variation == "onedim" else variations_loss)(logits, told).mean()
            loss = loss + self.weight * vp
            scalars["vp"] = vp
            if self.variation == "onedim":
                scalars["accuracy"] = (logits.argmax(1) == told).float().mean()
            if getattr(self.discriminator, "classes", 0):
                of_class = class_loss(at_least_single(self.discriminator.class_logits(made)), label).mean()
                loss = loss + self.class_weight * of_class
                scalars["class"] = of_class
        return loss, {name: value.detach() for name, value in scalars.items()}

    def _judged(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the discriminator minimises at every step, and what is logged of it."""
        z = self.latents(len(image))
        with torch.no_grad():
            made = self.generator(z)
        real, fake = (at_least_single(self.discriminator(shown)) for shown in (image, made))
        loss = d = logistic_loss(real, fake)
        scalars = {"real": real.mean(), "fake": fake.mean(), "r1": self.r1.clone()}
        if getattr(self.discriminator, "classes", 0):
            label = z[:, : self.discrete]
            of_class = class_loss(at_least_single(self.discriminator.class_logits(made)), label).mean()
            loss = loss + self.class_weight * of_class
            scalars["class"] = of_class
        return loss, {"d": d.detach(), **{name: value.detach() for name, value in scalars.items()}}

    def _steepness(self, image: Tensor) -> Tensor:
        """Squared norm of the discriminator's gradient at images; in single precision at least."""
        with torch.autocast(image.device.type, enabled=False):
            shown = image.detach().requires_grad_()
            return gradient_penalty(self.discriminator(shown), shown)

    @torch.no_grad()
    def _follow(self, count: int) -> None:
        """Let the average follow the generator, by the images of a step."""
        share = 1 - 0.5 ** (count * world() / self.half_life)
        for kept, weight in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            kept.lerp_(weight.detach(), share)

    def trainable(self) -> dict[str, list[nn.Parameter]]:
        parts = [self.generator, *([] if self.recogniser is None else [self.recogniser])]
        return {
            "generator": [p for part in parts for p in part.parameters() if p.requires_grad],
            "discriminator": [p for p in self.discriminator.parameters() if p.requires_grad],
        }

    def lr_factors(self) -> dict[str, float]:
        return {"generator": SOFTENED, "discriminator": self._lazy_share()}

    def betas(self) -> dict[str, tuple[float, float]]:
        powers = {"generator": SOFTENED, "discriminator": self._lazy_share()}
        return {name: (BETAS[0] ** power, BETAS[1] ** power) for name, power in powers.items()}

    def _lazy_share(self) -> float:
        """Steps that count as such, of those that the discriminator makes."""
        return self.lazy / (self.lazy + 1) if self.gamma else 1.0

    # --- use ----------------------------------------------------------------------------------------------------------

    def decode(self, z: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` in [-1, 1] of codes ``[B, dim]``, by the averaged weights; noise is constant."""
        return self.average(z).clamp(-1, 1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Images of ``n`` codes drawn at random; from the generator, or from torch's own."""
        return self.decode(self.latents(n, generator))

    def images(self, batch: Any) -> dict[str, Picture]:
        fixed = torch.Generator().manual_seed(0)
        pictures = {
            "inputs": Picture(batch.image[: views.INPUTS], "Inputs", "Test images."),
            "samples": Picture(
                self.sample(views.SAMPLES), "Samples", "Of codes drawn at random, others at each evaluation."
            ),
            "fixed_samples": Picture(
                self.sample(views.SAMPLES, fixed),
                "Fixed samples",
                "Of the same random codes at each evaluation, so that one can watch them change.",
            ),
            "traversals": self._traversals(),
        }
        if self.discrete:
            pictures["classes"] = self._classes()
        return pictures

    def _traversals(self) -> Picture:
        code = self.latents(1, torch.Generator().manual_seed(1))[0]
        # As published, traversals start from a normal code.
        code[self.discrete :] = torch.randn(self.continuous, generator=torch.Generator().manual_seed(1)).to(code)
        return views.traversals(self, code, of="a random code")

    def _classes(self) -> Picture:
        codes = self.latents(CODES, torch.Generator().manual_seed(2)).repeat_interleave(self.discrete, 0)
        codes[:, : self.discrete] = torch.eye(self.discrete).to(codes).repeat(CODES, 1)
        return Picture(
            self.decode(codes).unflatten(0, (CODES, self.discrete)),
            "Classes",
            "In each row a random code, with each class in turn.",
        )
