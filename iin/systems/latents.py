"""What one may turn of a system that makes images: its latents, each with a name and the range that it is tried in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from iin.models.gaussian import standard_normal

__all__ = ["REACH", "Latents", "heads", "latents_of"]

REACH = 2.0
"""Deviations that latents are moved by, to both sides of 0: nearly all draws from a standard normal lie within."""
VALUES = 1 << 19
"""Values of images that are made at once: 512 grey ones of 32 x 32, or 10 coloured ones of 128 x 128."""


class Latents:
    """The latents of a system: how to draw, name and move them, and what they look like.

    Codes ``[n, dim]`` are as the system decodes them: the class first, where there are any, then the numbers. A number
    is spoken of by its place among the numbers.

    Args:
        system: with ``decode(z)``, or ``decode(z, context)`` of a conditional flow, and ``dim``, its own or its
            model's. What else it says of its codes is heeded: ``latents(n, generator)`` draws them (default: standard
            normal), the first ``discrete`` of them name a class (default: none), ``bounds`` is the range beyond which
            there are none (default: there is no such), ``deviation`` ``[dim]`` is how far each spreads (default: 1),
            and ``factors`` with ``names`` are the parts that they come in.

    Raises:
        ValueError: it makes no images, or does not say how many latents it has.
    """

    def __init__(self, system: Any) -> None:
        name = type(system).__name__
        if not callable(getattr(system, "decode", None)) or not getattr(system, "decodes", True):
            raise ValueError(f"{name} makes no images of latents: it has no decoder")
        found = (getattr(part, "dim", None) for part in (system, getattr(system, "model", None)))
        dim = next((one for one in found if isinstance(one, int)), None)
        if dim is None:
            raise ValueError(f"{name} does not say how many latents it has (attribute dim)")
        self.system = system
        self.dim = dim
        self.discrete = int(getattr(system, "discrete", 0) or 0)
        """Classes; 0 without."""
        self.bounds: tuple[float, float] | None = getattr(system, "bounds", None)
        """Values beyond which there are no codes."""
        self.names = self._names()
        """Of the numbers."""
        if not self.names:
            raise ValueError(f"{name} has no latents but its {self.discrete} classes")
        self.conditional = bool(getattr(system, "conditional", False))
        """Whether images are made of a context besides."""

    def _names(self) -> tuple[str, ...]:
        sizes, names = getattr(self.system, "factors", ()), getattr(self.system, "names", ())
        if isinstance(sizes, tuple) and len(sizes) == len(names) and sum(sizes) == self.dim:
            spoken = (name.replace("_", " ") for name in names)
            return tuple(f"{name} {k}" for name, size in zip(spoken, sizes, strict=True) for k in range(size))
        return tuple(f"z{k}" for k in range(self.dim - self.discrete))

    def __len__(self) -> int:
        """How many numbers there are, the class apart."""
        return len(self.names)

    def range(self, index: int) -> tuple[float, float]:
        """From where to where a number is moved: its bounds, or `REACH` deviations to both sides."""
        if self.bounds is not None:
            return self.bounds
        reach = REACH * self.deviation(index)
        return -reach, reach

    def deviation(self, index: int) -> float:
        """How far a number spreads."""
        told = getattr(self.system, "deviation", None)
        return 1.0 if told is None else float(told[self.discrete + index])

    def within(self, value: float) -> float:
        """The nearest value that a number may have."""
        return value if self.bounds is None else min(max(value, self.bounds[0]), self.bounds[1])

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes drawn at random ``[n, dim]``; from the generator, or from torch's own."""
        if callable(own := getattr(self.system, "latents", None)):
            return own(n, generator)
        like = next(chain(self.system.parameters(), self.system.buffers()))
        drawn = standard_normal(n, self.dim, like, generator)
        deviation = getattr(self.system, "deviation", None)
        return drawn if deviation is None else drawn * deviation

    def moved(self, z: Tensor, index: int, values: Tensor) -> Tensor:
        """A code ``[dim]`` with each of some values ``[T]`` in the place of one number: ``[T, dim]``."""
        codes = z.repeat(len(values), 1)
        codes[:, self.discrete + index] = values.to(codes)
        return codes

    def classed(self, z: Tensor, labels: Sequence[int]) -> Tensor:
        """A code ``[dim]`` with each of some classes: ``[T, dim]``."""
        codes = z.repeat(len(labels), 1)
        codes[:, : self.discrete] = torch.eye(self.discrete)[list(labels)].to(codes)
        return codes

    @torch.no_grad()
    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Images ``[n, C, H, W]`` of codes ``[n, dim]``, a few at a time, so that memory stays bounded.

        Args:
            z: the codes.
            context: of a conditional flow, the representation that all of them are to have ``[1, ...]``.
        """
        given = () if context is None else (context,)
        made = [self.system.decode(z[:1], *given)]
        size = max(1, VALUES // max(1, made[0][0].numel()))
        for part in z[1:].split(size):
            expanded = (one.expand(len(part), *one.shape[1:]) for one in given)
            made.append(self.system.decode(part, *expanded))
        return torch.cat(made)

    def strengths(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """How much each number moves the image, from one end of its range past the code itself to the other.

        Args:
            z: codes that it is tried on ``[n, dim]``.
            context: see `decode`.

        Returns:
            Mean change of a pixel, on the whole way, of images in [-1, 1]: ``[L]``, on the CPU.
        """
        ends = [torch.tensor(self.range(index)) for index in range(len(self))]
        total = torch.zeros(len(self))
        for code in z:
            codes = [code[None], *(self.moved(code, index, two) for index, two in enumerate(ends))]
            images = self.decode(torch.cat(codes), context).float()
            change = (images[1:] - images[:1]).abs().flatten(1).mean(1)  # [2 L]
            total += change.unflatten(0, (-1, 2)).sum(1).cpu()
        return (total / len(z)).nan_to_num(0.0)

    def strongest(self, strengths: Tensor) -> list[int]:
        """Numbers by their strengths ``[L]``, the strongest first."""
        return strengths.argsort(descending=True, stable=True).tolist()


def latents_of(system: Any) -> Latents | None:
    """The latents of a system; None where it makes no images of any."""
    try:
        return Latents(system)
    except ValueError:
        return None


def heads(values: Tensor) -> tuple[str, ...]:
    """Values ``[T]`` in few digits, to stand above a column each."""
    return tuple(f"{round(value, 4) + 0.0:.3g}" for value in values.tolist())  # no -0
