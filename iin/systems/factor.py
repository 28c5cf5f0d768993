"""The disentangling flow: one part of the latent for each concept, learnt from pairs that share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Len
from torch import Tensor, nn

from iin.arguments import Count, Fraction
from iin.distributed import lists
from iin.flows import InvertibleModule
from iin.losses import factor_mask, pair_nll
from iin.models.codes import Codes
from iin.system import Objective, Picture, built_on
from iin.systems import views
from iin.systems.flow import LatentFlow

__all__ = ["FactorFlow", "equal_parts"]


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
