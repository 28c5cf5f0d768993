"""Representation: images that a layer cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iin.demo.choosing import (
    Look,
    agreement,
    draw,
    generator,
    image,
    in_parts,
    known,
    resembles,
    said,
    sample,
    samples_option,
    within,
)
from iin.demo.contract import Demo, Progress, Shown
from iin.demo.grouping import stages
from iin.demo.runs import Exhibit
from iin.system import Picture

__all__ = ["Representation", "demos"]

NEEDS = "a run with a conditional flow: a LatentFlow with a representation"
OTHERS = 32
"""Other images that similarities are compared with."""


def demos(runs: Sequence[Exhibit]) -> list[Demo]:
    """One for each network."""
    return [Representation(network) for stage in stages(runs) for network in stage.networks]


class Representation(Look):
    """What each layer keeps of an image, and what it throws away.

    Args:
        network: whose layers are looked at.
    """

    name = "representation"
    title = "Representation and invariances"
    count = samples_option(4, 20, 8)
    about = (
        "The representation of the image in a layer is kept, and all that the layer does not know of it is drawn at "
        "random, several times. What the samples have in common is what the layer knows; what changes from one to the "
        "next, it cannot see."
    )

    @torch.no_grad()
    def show(self, values: Mapping[str, Any], progress: Progress) -> Shown:
        layers = self.network.layers
        run, layer = layers[values["layer"]], values["layer"]
        given = image(self.network.first, values)
        source = generator(values)
        v = draw(run, int(values["samples"]), source)
        samples: dict[str, Tensor] = {}
        for at, (name, each) in enumerate(layers.items()):
            part = within(progress, at / len(layers), (at + 1) / len(layers))
            samples[name] = sample(each, each.system.represent(given), v, part, f"drawing samples: {name}")
        inputs, both = known(run, given)
        deviations = {name: each.std(0, correction=0) for name, each in samples.items()}
        most = max(float(each.max()) for each in deviations.values())
        maps = [
            torch.stack([given[0], each.mean(0), 2 * deviations[name] / max(most, 1e-6) - 1])
            for name, each in samples.items()
        ]
        listed = ", ".join(layers)
        shown = Shown(
            {
                "input": Picture(
                    inputs[None], f"Image{both}", f"The image{both} through code and flow." if both else ""
                ),
                "samples": Picture(
                    samples[layer],
                    f"Samples: {layer}",
                    f"Images that have the same representation in {layer}; all else is drawn at random.",
                ),
                "layers": Picture(
                    torch.stack([torch.cat([inputs, each]) for each in samples.values()]),
                    "Samples by layer",
                    f"A row for each layer, from the top: {listed}. At the left the image{both}; then images with the "
                    "same representation in the row's layer. What is drawn at random is the same for each column.",
                    columns=tuple(range(1, len(inputs) + 1)),
                    labels=tuple(layers),
                ),
                "maps": Picture(
                    torch.stack(maps),
                    "Mean and deviation by layer",
                    f"A row for each layer, from the top: {listed}. The image, the mean of its samples, and how far "
                    f"they differ, pixel by pixel: black is not at all, white is a deviation of {most:.2f}, where "
                    "black and white pixels lie 2 apart.",
                    columns=(1,),
                    labels=tuple(layers),
                ),
            },
            [f"The image: {said(self.network.first, values)}."],
            cover="samples",
        )
        self._compare(shown, run, layer, inputs, samples[layer], source)
        agreement(shown, run, given, samples[layer])
        for name, apart in deviations.items():
            shown.figures[f"deviation/{name}"] = float(apart.mean())
        return shown

    @staticmethod
    def _compare(
        shown: Shown, run: Exhibit, layer: str, inputs: Tensor, samples: Tensor, source: torch.Generator
    ) -> None:
        """How alike the image's representation is to those of samples, of its reconstruction, and of other images."""
        given = inputs[:1]
        context = run.system.represent(given)

        def alike(images: Tensor) -> Tensor:
            represent = run.system.represent
            return in_parts(lambda part: resembles(context, represent(part)), images, given.numel())

        found = alike(samples)
        shown.figures |= {"similarity/samples": float(found.mean()), "similarity/samples_deviation": float(found.std())}
        line = (
            f"Cosine similarity in {layer}, to the image: samples, seen through the network again, "
            f"{found.mean():.3f} ± {found.std():.3f}"
        )
        if len(inputs) > 1:
            again = float(alike(inputs[1:]))
            shown.figures["similarity/reconstruction"] = again
            line += f"; its reconstruction {again:.3f}"
        different = (run.images.image != given).flatten(1).any(1).nonzero()[:, 0].tolist()  # never the image itself
        if different:
            order = torch.randperm(len(different), generator=source)[:OTHERS].tolist()
            others = alike(run.images.image[[different[k] for k in order]])
            deviation = others.std(correction=min(1, len(others) - 1))
            shown.figures |= {
                "similarity/others": float(others.mean()),
                "similarity/others_deviation": float(deviation),
            }
            line += f"; {len(others)} other test images {others.mean():.3f} ± {deviation:.3f}"
        shown.lines.append(f"{line}.")
