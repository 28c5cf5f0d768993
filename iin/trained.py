"""A finished run in Python: encode, swap, sample, interpolate, evaluate.

::

    run = iin.load("logs/<run>")
    run.swap(images, others, factors=["digit"])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from iin.run import Run
from iin.seeds import mix
from iin.system import Picture, System

__all__ = ["Trained"]


@dataclass(repr=False)
class Trained:
    """A run's system with its weights, in eval mode; its methods take no gradients.

    What is special to the method is in ``system``, a module like any other.
    """

    run: Run
    """The run's folder."""
    system: System
    """The networks."""
    tree: dict[str, Any]
    """The run's configuration as plain data."""
    step: int
    """Steps that the weights were trained for."""
    _measure: Callable[..., dict[str, float]] | None = field(default=None)

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of the factors, the residual last; none for a system without factors."""
        return tuple(getattr(self.system, "names", ()))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents ``[B, D]`` of images ``[B, C, H, W]`` in [-1, 1].

        Raises:
            ValueError: the system does not encode, or images of another shape.
        """
        return self._ask("encode")(self._moved(images))

    @torch.no_grad()
    def decode(self, latents: Tensor, images: Tensor | None = None) -> Tensor:
        """Images ``[B, C, H, W]`` in [-1, 1] of latents ``[B, D]``.

        Args:
            latents: what `encode` answers, or anything near it.
            images: for a conditional flow, those whose representation the result shall have ``[B, C, H, W]``.
        """
        if images is None:
            self._check_free("decode(latents)", "decode(latents, images)")
            return self._ask("decode")(self._moved(latents))
        return self._ask("decode")(self._moved(latents), self.represent(images))

    @torch.no_grad()
    def represent(self, images: Tensor) -> Tensor:
        """What the layer under a conditional flow makes of images: ``[B, C]`` or ``[B, C, H, W]``.

        Raises:
            ValueError: the flow is not conditional.
        """
        found = self._ask("represent")(self._moved(images))
        if found is None:
            raise ValueError(f"this {type(self.system).__name__} has no representation: its flow is not conditional")
        return found

    @torch.no_grad()
    def resample(self, images: Tensor, n: int = 8, seed: int = 0) -> Tensor:
        """Images that a layer cannot tell from those given: the same representation, all else drawn anew.

        Args:
            images: ``[B, C, H, W]`` in [-1, 1].
            n: how many of each.
            seed: of the draws, which are the same for each image; torch's generator is left untouched.

        Returns:
            ``[B, n, C, H, W]``.

        Raises:
            ValueError: the flow is not conditional.
        """
        context = self.represent(images)
        return self._ask("generate")(context, self._ask("latents")(n, torch.Generator().manual_seed(mix(seed))))

    @torch.no_grad()
    def recombine(self, images: Tensor, others: Tensor) -> Tensor:
        """What a layer does not know of images, with what it knows of others ``[B, C, H, W]``.

        Raises:
            ValueError: the flow is not conditional, or there is not another image for each.
        """
        _alike(images, others)
        return self.decode(self.encode(images), others)

    @torch.no_grad()
    def swap(self, images: Tensor, others: Tensor, factors: Sequence[int | str] | int | str = (0,)) -> Tensor:
        """Images with some factors taken from other images.

        Args:
            images: ``[B, C, H, W]`` in [-1, 1].
            others: ``[B, C, H, W]``, which give the factors.
            factors: names, or indices.

        Raises:
            ValueError: the system has no factors, or not this one.
        """
        named = [factors] if isinstance(factors, int | str) else list(factors)
        _alike(images, others)
        return self._ask("swap")(self._moved(images), self._moved(others), [self._index(one) for one in named])

    @torch.no_grad()
    def swap_grid(self, images: Tensor, others: Tensor, factor: int | str = 0) -> Picture:
        """Every image's factor in every other image, ready for ``iin.pictures.save(picture, "swap.png")``.

        Args:
            images: ``[R, C, H, W]`` in [-1, 1], which give the factor, down the left.
            others: ``[N, C, H, W]``, which give all else, along the top.
            factor: name, or index.

        Returns:
            A picture with images ``[R + 1, N + 1, C, H, W]``: the given ones stand in the first row and column.

        Raises:
            ValueError: the system has no factors, or not this one.
        """
        grid = self._ask("swap_grid")(self._moved(images), self._moved(others), self._index(factor))
        return Picture(grid, rows=(1,), columns=(1,))

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` images from the model ``[n, C, H, W]``; the same for the same seed, and torch's generator untouched."""
        self._check_free("sample(n)", "resample(images, n)")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(seed))
            return self._ask("sample")(n)

    @torch.no_grad()
    def interpolate(self, images: Tensor, others: Tensor, factor: int | str | None = None, steps: int = 8) -> Tensor:
        """From images to others in a straight line of latents, all of the latent or one factor of it.

        Args:
            images: ``[B, C, H, W]`` in [-1, 1], where it starts.
            others: ``[B, C, H, W]``, where it leads.
            factor: name or index of the factor that moves; None moves all.
            steps: images on the way, both ends included; at least 2.

        Returns:
            ``[B, steps, C, H, W]``.
        """
        self._check_free("interpolate", "recombine(images, others)")
        if steps < 2:
            raise ValueError(f"steps: expected at least 2, both ends, found {steps}")
        _alike(images, others)
        start, end = self.encode(images), self.encode(others)
        if factor is not None:
            end = self._ask("exchange")(start, end, [self._index(factor)])
        return self._ask("line")(start, end, steps)

    def evaluate(self, *metrics: str) -> dict[str, float]:
        """Measure the run as ``iin-eval`` does: all figures of its configuration, or those of the entries named."""
        if self._measure is None:
            raise ValueError("evaluate() is for runs that iin.load has loaded")
        return self._measure([f"evaluate={','.join(metrics)}"] if metrics else [])

    def __repr__(self) -> str:
        return f"Trained({str(self.run.folder)!r}, {type(self.system).__name__}, step {self.step})"

    def _ask(self, name: str) -> Callable[..., Any]:
        found = getattr(self.system, name, None)
        if not callable(found):
            what = "a FactorFlow" if name in ("swap", "swap_grid", "exchange") else "a flow over an autoencoder"
            raise ValueError(f"{type(self.system).__name__} has no {name}; {what} does")
        return found

    def _check_free(self, asked: str, instead: str) -> None:
        """Raise ValueError where a representation is needed, and none is given."""
        if getattr(self.system, "conditional", False):
            raise ValueError(
                f"this flow is conditional, and {asked} names no images whose representation counts; use {instead}"
            )

    def _index(self, factor: int | str) -> int:
        """Index of a factor, by its name or from 0."""
        if isinstance(factor, str):
            if factor not in self.factors:
                raise ValueError(f"no factor {factor!r}; there are: {', '.join(self.factors) or 'none'}")
            return self.factors.index(factor)
        if not -len(self.factors) <= factor < len(self.factors):
            raise ValueError(f"no factor {factor}; there are {len(self.factors)}: {', '.join(self.factors) or 'none'}")
        return factor % len(self.factors)

    def _moved(self, values: Tensor) -> Tensor:
        return values.to(next(self.system.parameters()).device)


def _alike(images: Tensor, others: Tensor) -> None:
    """Raise ValueError unless there is another image for each."""
    if images.shape != others.shape:
        raise ValueError(
            f"expected as many other images, of the same size: {list(images.shape)}, found {list(others.shape)}"
        )
