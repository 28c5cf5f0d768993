"""Texture bias: what two networks over the same first stage see in an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from iin.demo.choosing import (
    agreement,
    draw,
    generator,
    image,
    image_options,
    known,
    named,
    resembles,
    said,
    sample,
    samples_option,
    seed_option,
    within,
)
from iin.demo.contract import Choice, Demo, Option, Progress, Shown
from iin.demo.grouping import Network, stages
from iin.demo.runs import Exhibit
from iin.system import Picture

__all__ = ["Texture", "demos"]

NEEDS = "runs with conditional flows (a LatentFlow with a representation) of two networks over one first stage"


def demos(runs: Sequence[Exhibit]) -> list[Demo]:
    """One for each first stage that runs of two or more networks stand on."""
    return [Texture(stage.networks) for stage in stages(runs) if len(stage.networks) > 1]


class Texture:
    """Two networks side by side: the same image, the same draws.

    Args:
        networks: at least two, over the same first stage.

    References:
        ImageNet-trained CNNs are Biased towards Texture (Geirhos, Rubisch, Michaelis, Bethge, Wichmann and Brendel,
        2018), arXiv:1811.12231
    """

    name = "texture"
    title = "Texture bias"
    about = (
        "Two networks may give the same answer and look at different things: one at texture, the other at shape. Each "
        "row keeps what one network's layer knows of the image; what it does not know is drawn at random, the same in "
        "both rows, so that all that differs within a column is the networks' doing."
    )

    def __init__(self, networks: Sequence[Network]) -> None:
        # By the names of the runs: layers of two networks may well be called alike.
        self.runs = {run.name: (layer, at) for at, net in enumerate(networks) for layer, run in net.layers.items()}
        self.exhibits = {run.name: run for net in networks for run in net.layers.values()}
        self.first = networks[0].first
        """The run whose test images are shown."""
        self.of = named(list(self.exhibits.values()))

    def options(self) -> list[Option]:
        names = tuple(self.runs)
        one, two = self._default()
        return [
            Choice("first", "First network and layer", among=names, default=one),
            Choice("second", "Second network and layer", among=names, default=two),
            *image_options(self.first),
            samples_option(2, 16, 6),
            seed_option(),
        ]

    def _default(self) -> tuple[str, str]:
        """The last layer of the first network that another network has too, in both; or else, just two networks."""
        first = [name for name, (_, at) in self.runs.items() if at == 0]
        others = [name for name, (_, at) in self.runs.items() if at > 0]
        for name in reversed(first):
            for other in others:
                if self.runs[name][0] == self.runs[other][0]:
                    return name, other
        return first[-1], others[-1]

    @torch.no_grad()
    def show(self, values: Mapping[str, Any], progress: Progress) -> Shown:
        pair = [self.exhibits[values["first"]], self.exhibits[values["second"]]]
        given = image(self.first, values)
        v = draw(pair[0], int(values["samples"]), generator(values))
        rows = [
            sample(run, run.system.represent(given), v, within(progress, at / 2, (at + 1) / 2), f"drawing: {run.name}")
            for at, run in enumerate(pair)
        ]
        inputs, both = known(pair[0], given)
        shown = Shown(
            {
                "input": Picture(
                    inputs[None], f"Image{both}", "" if both else "The first stage has no reconstruction."
                ),
                "samples": Picture(
                    torch.stack(rows),
                    "Samples of both networks",
                    f"In the top row what {pair[0].name} knows of the image, below what {pair[1].name} knows. What is "
                    "drawn at random is the same within each column.",
                    rows=(1,),
                    labels=(values["first"], values["second"]),
                ),
            },
            [f"The image: {said(self.first, values)}."],
            cover="samples",
        )
        for which, run, row in zip(("first", "second"), pair, rows, strict=True):
            alike = resembles(run.system.represent(given), run.system.represent(row))
            shown.figures[f"similarity/{which}"] = float(alike.mean())
            agreement(shown, run, given, row, f"agreement/{which}", run.name)
        shown.figures["difference"] = float((rows[0] - rows[1]).abs().mean())
        if self.runs[values["first"]][1] == self.runs[values["second"]][1]:
            shown.lines.append("Both are layers of the same network; choose two networks to compare what they look at.")
        return shown
