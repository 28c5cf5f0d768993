"""The factor editor: what each factor of an image is, seen by exchanging, blending and drawing it.

References:
    A Disentangling Invertible Interpretation Network for Explaining Latent Representations
    (Esser, Rombach and Ommer, 2020), arXiv:2004.13166, section 4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iin import pictures
from iin.demo.contract import Choice, Number, Option, Progress, Shown, Upload
from iin.demo.runs import Exhibit
from iin.models.gaussian import standard_normal
from iin.seeds import mix
from iin.system import Picture

__all__ = ["Editor", "demos"]

NEEDS = "a run with a FactorFlow over an autoencoder, or over another first stage that leads back to images"
STEPS = 9
"""Images on a line, both ends included."""
OWN = ("first", "second", "upload", "sample", "samples", "seed")
"""Options that are not factors."""


def demos(runs: Sequence[Exhibit]) -> list[Editor]:
    """An editor for each run whose latent has factors, and whose first stage leads back to images."""
    fitting = [run for run in runs if hasattr(run.system, "exchange") and getattr(run.system, "decodes", False)]
    return [Editor(run) for run in fitting]


class Editor:
    """Edits the factors of an image.

    Args:
        run: with a `iin.systems.FactorFlow`.
    """

    def __init__(self, run: Exhibit) -> None:
        self.run = run
        self.name = "editor"
        self.title = "Factor editor"
        self.of = run.name
        factors = [_spoken(name) for name in run.system.names]
        listed = f"{', '.join(factors[:-1])} and {factors[-1]}" if len(factors) > 1 else factors[0]
        self.about = (
            f"The network takes an image apart into {listed}. Each slider moves one of them from the first image (0) "
            "to the second (1), and the others stay as they are."
        )
        self.keys = [f"factor_{stem}" if stem in OWN else stem for stem in pictures.stems(run.system.names).values()]
        """Names of the sliders, one a factor."""

    def options(self) -> list[Option]:
        last = len(self.run) - 1
        names = tuple(self.run.system.names)
        sliders = [
            Number(
                key,
                _spoken(name).capitalize() if name.islower() else _spoken(name),
                help="0: as in the first image, 1: as in the second",
                whole=False,
                default=float(index == 0),
            )
            for index, (key, name) in enumerate(zip(self.keys, names, strict=True))
        ]
        return [
            Number("first", "First image", low=0, high=last, default=0, help="which test image is edited"),
            Number("second", "Second image", low=0, high=last, default=min(1, last), help="which one gives factors"),
            Upload("upload", "A picture of your own", help="takes the place of the first image"),
            *sliders,
            Choice(
                "sample", "Draw anew", among=(*names, "everything"), default=names[-1], help="below, in the samples"
            ),
            Number("samples", "Samples", low=2, high=16, default=9),
            Number("seed", "Seed", low=0, high=2**31 - 1, default=0, typed=True, help="of the samples"),
        ]

    @torch.no_grad()
    def show(self, values: Mapping[str, Any], progress: Progress) -> Shown:
        run, system = self.run, self.run.system
        own = values["upload"] is not None
        first = run.picture(values["upload"]) if own else run.image(values["first"])
        second = run.image(values["second"])
        z, other = system.encode(first), system.encode(second)
        weights = torch.tensor([values[key] for key in self.keys], device=z.device)
        edited = self.blend(z, other, weights)
        progress(0.3, "lines")
        rebuilt, result, rebuilt_second = system.decode(torch.cat([z, edited, other])).split(1)
        lines = self.lines(z, other, weights)
        progress(0.7, "samples")
        samples = self.samples(edited, values)
        spoken = [_spoken(name) for name in system.names]
        drawn = _spoken(values["sample"])
        return Shown(
            pictures={
                "edit": Picture(
                    torch.stack([first, rebuilt, result, rebuilt_second, second], dim=1),
                    "Edit",
                    "From the left: the first image, what the network makes of its code, the edited image, what the "
                    "network makes of the second image's code, and the second image.",
                    columns=(2, 3),
                ),
                "lines": Picture(
                    lines,
                    "One factor at a time",
                    f"Rows, from the top: {', '.join(spoken)}. Each goes from the first image's to the second's, while "
                    "the other factors stay as the sliders have them.",
                    labels=tuple(spoken),
                ),
                "samples": Picture(
                    samples,
                    "Samples",
                    f"The edited image again and again, with {drawn} drawn at random."
                    if drawn != "everything"
                    else "All factors drawn at random.",
                ),
            },
            lines=[
                f"First image: {'uploaded' if own else self.said(values['first'])}. "
                f"Second image: {self.said(values['second'])}."
            ],
            figures={
                "reconstruction/first": float((rebuilt - first).abs().mean()),
                "reconstruction/second": float((rebuilt_second - second).abs().mean()),
            },
        )

    def said(self, index: int) -> str:
        """A test image in words."""
        label = self.run.label(index)
        return f"test image {index}" + (f", labelled {label}" if label else "")

    def blend(self, z: Tensor, other: Tensor, weights: Tensor) -> Tensor:
        """Latents ``[B, D]`` on the way from ``z`` to ``other``, as far as the weights ``[K]`` say for each factor."""
        return torch.lerp(z, other, weights.repeat_interleave(self.run.system.sizes.to(z.device))[None])

    def lines(self, z: Tensor, other: Tensor, weights: Tensor) -> Tensor:
        """Each factor from one image's to the other's, the others weighted: ``[K, STEPS, C, H, W]``."""
        count = len(weights)
        ways = weights.repeat(count, STEPS, 1)  # [K, STEPS, K]
        ways[range(count), :, range(count)] = torch.linspace(0, 1, STEPS, device=z.device)
        latents = torch.cat([self.blend(z, other, way) for way in ways.flatten(0, 1)])
        return self.run.system.decode(latents).unflatten(0, (count, STEPS))

    def samples(self, z: Tensor, values: Mapping[str, Any]) -> Tensor:
        """Images with a factor drawn anew, or all of them: ``[1, samples, C, H, W]``."""
        system, count = self.run.system, values["samples"]
        generator = torch.Generator(z.device).manual_seed(mix(values["seed"]))
        noise = standard_normal(count, z.shape[1], z, generator)
        if values["sample"] != "everything":
            noise = system.exchange(z.expand_as(noise), noise, [list(system.names).index(values["sample"])])
        return system.decode(noise)[None]


def _spoken(name: str) -> str:
    return name.replace("_", " ")
