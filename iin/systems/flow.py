"""Flows over the code of a frozen first stage: one latent for all, or for all that a layer of another network does not
know (LatentFlow), or one a concept (FactorFlow)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Len
from torch import Tensor, nn

from iin.arguments import Count, Fraction
from iin.distributed import lists
from iin.flows import InvertibleModule
from iin.losses import factor_mask, nll, pair_nll
from iin.models.codes import Codes
from iin.models.gaussian import standard_normal
from iin.system import Objective, Picture, System, built_on
from iin.systems import views

__all__ = ["FactorFlow", "LatentFlow"]


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

        Raises:
            ValueError: it answers something else; a tensor's ``mean`` is no distribution's.
        """
        if isinstance(image, Codes):
            return image  # it has said so before
        answer = self.first_stage.encode(image)
        if isinstance(answer, Tensor) or not (hasattr(answer, "sample") and hasattr(answer, "mean")):
            raise ValueError(f"first_stage.encode answered {type(answer).__name__}; expected iin.models.Gaussian")
        return answer

    @torch.no_grad()
    def represent(self, image: Tensor | Codes) -> Tensor | None:
        """What the flow is conditioned on: ``[B, C]`` or ``[B, C, H, W]``; None without a representation."""
        if self.representation is None:
            return None
        # A method of its own module, so that whoever replaces it is asked, and what was kept is not computed anew.
        return image.context if isinstance(image, Codes) else self.representation(image)

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
        """
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
        if self.conditional:
            return views.invariances(self, batch)
        start, end = (image[: views.LINES] for image in views.partners(batch))
        steps = self.line(self.encode(start), self.encode(end), views.STEPS)
        return {**views.overview(self, batch), "line": views.line(start, steps, end)}


class FactorFlow(LatentFlow):
    """The disentangling flow: each factor of its latent is one concept, learnt from pairs that share it.

    Args:
        first_stage: a trained network with ``encode(image)`` -> `Gaussian`; with ``decode(x)``, pictures too.
        flow: bijection of its code ``[B, D]``.
        factors: dimensions of each factor, in the order of the data set's factors, the residual last; sum ``D``. Or
            their number, for equal parts (see `equal_parts`). In a configuration also ``auto``: estimated from the
            training pairs before the flow is built (see `iin.metrics.FactorDims`), and written into the run's
            configuration.
        rho: correlation of a shared factor within a pair, in (0, 1).

    Raises:
        ValueError: the factors do not sum to the size of the latent, or are still to be estimated.

    References:
        A Disentangling Invertible Interpretation Network for Explaining Latent Representations
        (Esser, Rombach and Ommer, 2020), arXiv:2004.13166, section 3.2
    """

    sizes: Tensor
    takes_codes = True

    def __init__(
        self,
        first_stage: nn.Module,
        flow: InvertibleModule,
        factors: Annotated[tuple[Count, ...], Len(2)] | Annotated[int, Ge(2)] | Literal["auto"],
        rho: Fraction = 0.975,
    ) -> None:
        super().__init__(first_stage, flow)
        if isinstance(factors, str):
            raise ValueError(f"FactorFlow: factors: {factors!r} is for configurations; here, give sizes or a number")
        for mistake in self.check(flow={"params": {"dim": self.dim}}, factors=factors):
            raise ValueError(f"FactorFlow: {mistake}")
        self.factors = equal_parts(self.dim, factors) if isinstance(factors, int) else tuple(factors)
        self.names: tuple[str, ...] = tuple(f"factor_{k}" for k in range(len(self.factors)))
        self.rho = rho
        self.register_buffer("sizes", torch.tensor(self.factors), persistent=False)

    @staticmethod
    def check(*, factors: Sequence[int] | int | str = (), flow: Any = None, **_: Any) -> Iterator[str]:
        """What is wrong with arguments taken together, before anything is built."""
        params = flow.get("params", {}) if isinstance(flow, Mapping) else {}
        dim = params.get("dim") if isinstance(params, Mapping) else None
        if not isinstance(dim, int) or isinstance(factors, str):
            return
        if isinstance(factors, int):
            if factors > dim:
                yield f"factors: {factors} factors, but the flow has {dim} dimensions; each factor needs one"
        elif factors and sum(factors) != dim:
            total = " + ".join(map(str, factors))
            yield f"factors: {total} = {sum(factors)}, but the flow has {dim} dimensions; they must be equal"

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        if not hasattr(batch, "shared"):
            raise ValueError("FactorFlow is trained on pairs: use a pair data set (MNISTPairs, pairs: true)")
        with lists(2):
            x = self.noisy_code(_together(batch.image, batch.other))  # both at once: [2B, D]
        if step == 0:
            with torch.no_grad():  # ActNorm takes its statistics from the first images alone, as published
                self.flow(x[: len(batch.image)])
        z, logdet = self.flow(x)
        first, second = z.chunk(2)
        first_logdet, second_logdet = logdet.chunk(2)
        mask = factor_mask(batch.shared, self.sizes)
        loss = pair_nll(first, first_logdet, second, second_logdet, mask, self.rho)
        yield Objective("main", loss, {"logdet": logdet.detach().mean()})

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """Latent ``[B, D]`` as its factors, each ``[B, size]``."""
        return z.split(self.factors, dim=1)

    def exchange(self, z: Tensor, other: Tensor, factors: Sequence[int]) -> Tensor:
        """``z`` ``[B, D]`` with the factors of these indices taken from ``other`` ``[B, D]``."""
        taken = torch.zeros(1, len(self.factors), dtype=torch.bool, device=z.device)
        taken[:, list(factors)] = True
        return torch.where(factor_mask(taken, self.sizes), other, z)

    @built_on("encode", "image", "other")
    def swap(self, z: Tensor, other: Tensor, factors: Sequence[int]) -> Tensor:
        """Images ``[B, C, H, W]`` with the factors of these indices taken from other images."""
        return self.decode(self.exchange(z, other, factors))

    def images(self, batch: Any) -> dict[str, Picture]:
        pictures = super().images(batch)
        if not self.decodes:
            return pictures
        first, second = views.partners(batch)
        start, end = first[: views.LINES], second[: views.LINES]
        z, other = self.encode(start), self.encode(end)
        swaps, lines = {}, {}
        for index, name in enumerate(self.names):
            swaps[f"swap_{name}"] = views.swap(name, self.swap_grid(first, second, index))
            steps = self.line(z, self.exchange(z, other, [index]), views.STEPS)
            lines[f"line_{name}"] = views.line(start, steps, end, name)
        return {**swaps, **lines, **pictures}

    def swap_grid(self, rows: Tensor, columns: Tensor, factor: int) -> Tensor:
        """Every row's factor in every column's image.

        Args:
            rows: ``[R, C, H, W]``, images that give the factor.
            columns: ``[N, C, H, W]``, images that give all else.
            factor: index of the factor.

        Returns:
            ``[R + 1, N + 1, C, H, W]``: the images that were given stand in the first row and the first column.
        """
        count, width = len(rows), len(columns)
        giver = self.encode(rows).repeat_interleave(width, 0)  # [R * N, D]
        taker = self.encode(columns).repeat(count, 1)  # [R * N, D]
        cells = self.decode(self.exchange(taker, giver, [factor])).unflatten(0, (count, width))
        corner = torch.zeros_like(rows[:1])
        body = torch.cat([rows[:, None], cells], dim=1)
        return torch.cat([torch.cat([corner, columns])[None], body])


def _further(context: Tensor | None) -> tuple[Tensor, ...]:
    """What a flow is given beside vectors; one that is not conditional need not take a context."""
    return () if context is None else (context,)


def _together(first: Tensor | Codes, second: Tensor | Codes) -> Tensor | Codes:
    """Two batches behind each other."""
    if isinstance(first, Codes) and isinstance(second, Codes):
        return Codes.cat([first, second])
    return torch.cat([first, second])  # type: ignore[list-item]


def equal_parts(dim: int, count: int) -> tuple[int, ...]:
    """Sizes of so many nearly equal parts, as the original cuts them: ``ceil(dim / count)`` each, and the rest.

    Where that leaves fewer parts than asked for (16 in 5 makes four), as evenly as can be.
    """
    size = -(-dim // count)
    parts = [min(size, dim - start) for start in range(0, dim, size)]
    if len(parts) < count:
        parts = [dim // count + (k < dim % count) for k in range(count)]
    return tuple(parts)


def _dim(flow: nn.Module) -> int:
    """The number of dimensions a flow works on, asked of it or of its first block that knows."""
    for module in flow.modules():
        if isinstance(dim := getattr(module, "dim", None), int):
            return dim
    raise ValueError(f"{type(flow).__name__}: no block tells its number of dimensions (attribute dim)")
