"""The flow over the code of a frozen first stage: one latent for all, or for all that a layer of another network does
not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from iin.flows import InvertibleModule
from iin.losses import nll
from iin.models.codes import Codes
from iin.models.gaussian import Gaussian, standard_normal
from iin.system import Objective, Picture, System, built_on
from iin.systems import views

__all__ = ["LatentFlow"]


class LatentFlow(System):
    """An unsupervised flow: makes the code of a first stage normal, so that it can be sampled.

    With a representation the flow is conditional, ``z = t(x | representation)``: its latent is what the layer of
    another network does not know of the image, its invariances. Keep the representation, draw the latent anew
    (`generate`), and what changes in the images is what the layer cannot see.

    The first stage is frozen: no gradient, always in eval mode; so is the network that represents.

    Args:
        first_stage: a trained network with ``encode(image)`` -> `Gaussian`; with ``decode(x)``, pictures too.
        flow: bijection of its code ``[B, D]``; with a representation, a conditional one.
        representation: what the flow is conditioned on, such as `iin.models.Layer`: a network, image ->
            ``[B, C]`` or ``[B, C, H, W]``.

    Raises:
        ValueError: the first stage does not encode, or the sizes of code and flow differ, where both tell; or the flow
            is conditional without a representation, or the other way round.

    References:
        A Disentangling Invertible Interpretation Network for Explaining Latent Representations
        (Esser, Rombach and Ommer, 2020), arXiv:2004.13166;
        Making Sense of CNNs: Interpreting Deep Representations & Their Invariances with INNs
        (Rombach, Esser and Ommer, 2020), arXiv:2008.01777, section 3
    """

    first_stage: Any
    """Frozen; what it offers beside ``encode`` is up to it."""

    takes_codes = True
    """Whether the objectives take `Codes` in the place of images. A class that overrides what they are computed from
    says so itself, or is given images."""

    representation: Any
    """Frozen, or None."""

    def __init__(self, first_stage: nn.Module, flow: InvertibleModule, representation: nn.Module | None = None) -> None:
        super().__init__()
        if not callable(getattr(first_stage, "encode", None)):
            raise ValueError(
                f"first_stage: {type(first_stage).__name__} has no encode(image); "
                "expected an autoencoder, a classifier or another network that has it"
            )
        if not callable(getattr(flow, "inverse", None)):
            raise ValueError(f"flow: {type(flow).__name__} has no inverse(z); expected a flow")
        self.first_stage = first_stage.requires_grad_(False)
        self.flow = flow.requires_grad_(True)  # trained, wherever its weights come from
        self.dim = _dim(flow)
        code = getattr(first_stage, "dim", self.dim)
        if code != self.dim:
            raise ValueError(f"flow works on {self.dim} dimensions, but the first stage's code has {code}")
        takes = hasattr(flow, "embed")
        if takes and representation is None:
            raise ValueError(
                f"flow: {type(flow).__name__} is conditional; give the system a representation, such as "
                "iin.models.Layer, or take iin.flows.vector_flow"
            )
        if representation is not None and not takes:
            raise ValueError(
                f"flow: {type(flow).__name__} is not conditional (it has no embed(context)) and would ignore the "
                "representation; use iin.flows.conditional_flow"
            )
        self.representation = None if representation is None else representation.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> LatentFlow:
        super().train(mode)
        self.first_stage.eval()
        if self.representation is not None:
            self.representation.eval()
        return self

    @property
    def conditional(self) -> bool:
        """Whether the flow is conditioned on a representation."""
        return self.representation is not None

    @property
    def decodes(self) -> bool:
        """Whether the first stage has a way back to images."""
        return hasattr(self.first_stage, "decode")

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        z, logdet = self.flow(self.noisy_code(batch.image), *_further(self.represent(batch.image)))
        yield Objective("main", nll(z, logdet), {"logdet": logdet.detach().mean()})

    @torch.no_grad()
    @built_on("posterior")
    def noisy_code(self, posterior: Any) -> Tensor:
        """A draw from the first stage's posterior ``[B, D]``: what the flow is trained on."""
        return posterior.sample()

    def flows(self) -> list[nn.Module]:
        return [self.flow]

    @torch.no_grad()
    @built_on("posterior")
    def code(self, posterior: Any) -> Tensor:
        """The first stage's code ``[B, D]``: the posterior's mean."""
        return posterior.mean

    def posterior(self, image: Tensor | Codes) -> Any:
        """What the first stage says of images: a distribution over codes ``[B, D]``.

        A first stage may answer the codes themselves, which are then certain.

        Raises:
            ValueError: it answers something else.
        """
        if isinstance(image, Codes):
            return image  # it has said so before
        answer = self.first_stage.encode(image)
        if isinstance(answer, Tensor) and tuple(answer.shape) == (len(image), self.dim):
            return Gaussian(answer, torch.zeros_like(answer), deterministic=True)
        # A tensor has a mean as well, but that is no distribution's.
        if isinstance(answer, Tensor) or not (hasattr(answer, "sample") and hasattr(answer, "mean")):
            found = f"a tensor {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
            raise ValueError(
                f"first_stage.encode answered {found}; expected iin.models.Gaussian, or codes [B, {self.dim}]"
            )
        return answer

    @torch.no_grad()
    def represent(self, image: Tensor | Codes) -> Tensor | None:
        """What the flow is conditioned on: ``[B, C]`` or ``[B, C, H, W]``; None without a representation."""
        if self.representation is None:
            return None
        # A method of its own module, so that whoever replaces it is asked, and what was kept is not computed anew.
        return image.context if isinstance(image, Codes) else self.representation(image)

    @torch.no_grad()
    @built_on(("noisy_code", "represent"))
    def noisy_latent(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latent ``[B, D]`` of a draw from the first stage's posterior, and the log-determinant ``[B]``."""
        return self.flow(x, *_further(context))

    @built_on(("code", "represent"))
    def encode(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Interpretable latent ``[B, D]``; of a conditional flow, the invariances."""
        return self.flow(x, *_further(context))[0]

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Images of latents ``[B, D]``.

        Args:
            z: latents.
            context: for a conditional flow, the representation that the images shall have: what `represent` answers.

        Raises:
            ValueError: the first stage has no way back to images; or the flow is conditional, and no context is given.
        """
        self._check_decodes()
        return self.first_stage.decode(self.flow.inverse(z, *_further(self._given(context))))

    def _given(self, context: Tensor | None) -> Tensor | None:
        if self.conditional and context is None:
            raise ValueError(
                "this flow is conditional: give decode(z, context) a representation, such as represent(image)"
            )
        return context

    def _check_decodes(self) -> None:
        if not self.decodes:
            raise ValueError(
                f"no images can be made: the first stage, a {type(self.first_stage).__name__}, has no decode(x); "
                "an autoencoder has"
            )

    @built_on(("encode", "represent"))
    def reconstruct(self, z: Tensor, context: Tensor | None) -> Tensor:
        """Through first stage and flow, and back."""
        return self.decode(z, context)

    def sample(self, n: int, generator: torch.Generator | None = None, context: Tensor | None = None) -> Tensor:
        """Decode ``n`` standard normal latents; noise from the generator, or from torch's own.

        Args:
            n: how many.
            generator: of the noise.
            context: for a conditional flow, the representation of each image ``[n, ...]``.
        """
        return self.decode(self.latents(n, generator), context)

    def latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` standard normal latents ``[n, D]``; noise from the generator, or from torch's own."""
        return standard_normal(n, self.dim, next(self.flow.parameters()), generator)

    @built_on(("represent",))
    def resample(self, context: Tensor) -> Tensor:
        """One image that has the representation of each, all else drawn anew by torch's generator."""
        return self.sample(len(context), context=context)

    def codes(self, context: Tensor, z: Tensor) -> Tensor:
        """First-stage codes with given representations and given invariances.

        Args:
            context: representations ``[B, ...]``.
            z: latents ``[n, D]``, the same for all of them, or ``[B, n, D]``.

        Returns:
            ``[B, n, D]``.

        Raises:
            ValueError: there is no representation, or latents are of another shape.
        """
        if context is None:
            raise ValueError(
                "codes(context, z): give a representation, such as represent(image); without, use decode(z)"
            )
        if z.ndim not in (2, 3) or z.shape[-1] != self.dim or (z.ndim == 3 and len(z) not in (1, len(context))):
            raise ValueError(
                f"expected latents of shape [n, {self.dim}] or [{len(context)}, n, {self.dim}], found {list(z.shape)}"
            )
        z = z.expand(len(context), *z.shape[-2:])
        count = z.shape[1]
        flow: Any = self.flow
        if callable(back := getattr(flow, "back", None)):  # each representation is embedded once
            x = back(z.flatten(0, 1), flow.embed(self._given(context)).repeat_interleave(count, 0))
        else:
            x = flow.inverse(z.flatten(0, 1), self._given(context.repeat_interleave(count, 0)))
        return x.unflatten(0, z.shape[:2])  # [B, n, D]

    def generate(self, context: Tensor, z: Tensor) -> Tensor:
        """Images with given representations and given invariances ``[B, n, C, H, W]``; arguments as of `codes`."""
        self._check_decodes()
        x = self.codes(context, z)
        return self.first_stage.decode(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def recombine(self, image: Tensor, other: Tensor) -> Tensor:
        """What the layer does not know of images, with what it knows of others ``[B, C, H, W]``."""
        return self.decode(self.encode(image), self.represent(other))

    def line(self, start: Tensor, end: Tensor, steps: int) -> Tensor:
        """Images on the straight line between latents ``[B, D]``, ends included: ``[B, steps, C, H, W]``."""
        weight = torch.linspace(0, 1, steps, device=start.device)[None, :, None]
        between = torch.lerp(start[:, None], end[:, None], weight)  # [B, steps, D]
        return self.decode(between.flatten(0, 1)).unflatten(0, (len(start), steps))

    def images(self, batch: Any) -> dict[str, Picture]:
        if not self.decodes:
            return {}
        one = batch.image[:1]
        turned = views.traversals(self, self.encode(one)[0], self.represent(one))
        if self.conditional:
            return {**views.invariances(self, batch), "traversals": turned}
        start, end = (image[: views.LINES] for image in views.partners(batch))
        steps = self.line(self.encode(start), self.encode(end), views.STEPS)
        return {**views.overview(self, batch), "line": views.line(start, steps, end), "traversals": turned}


def _further(context: Tensor | None) -> tuple[Tensor, ...]:
    """What a flow is given beside vectors; one that is not conditional need not take a context."""
    return () if context is None else (context,)


def _dim(flow: nn.Module) -> int:
    """The number of dimensions a flow works on, asked of it or of its first block that knows."""
    for module in flow.modules():
        if isinstance(dim := getattr(module, "dim", None), int):
            return dim
    raise ValueError(f"{type(flow).__name__}: no block tells its number of dimensions (attribute dim)")
