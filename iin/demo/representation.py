"""Representation: images that a layer cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iin.demo.choosing import (
    draw,
    generator,
    image,
    image_options,
    in_parts,
    judged,
    layer_option,
    resembles,
    said,
    sample,
    samples_option,
    seed_option,
    titled,
    within,
)
from iin.demo.contract import Demo, Option, Progress, Shown
from iin.demo.grouping import Network, encodes, judges, stages
from iin.demo.runs import Exhibit
from iin.system import Picture

__all__ = ["Representation", "demos"]

OTHERS = 32
"""Other images that similarities are compared with."""


def demos(runs: Sequence[Exhibit]) -> list[Demo]:
    """One for each network."""
    return [Representation(network) for stage in stages(runs) for network in stage.networks]


class Representation:
    """What each layer keeps of an image, and what it throws away.

    Args:
        network: whose layers are looked at.

    References:
        Making Sense of CNNs: Interpreting Deep Representations & Their Invariances with INNs
        (Rombach, Esser and Ommer, 2020), arXiv:2008.01777
    """

    about = (
        "The representation of the image in a layer is kept, and all that the layer does not know of it is drawn at "
        "random, several times. What the samples have in common is what the layer knows; what changes from one to the "
        "next, it cannot see."
    )

    def __init__(self, network: Network) -> None:
        self.name = "representation"
        self.title = titled("Representation and invariances", list(network.layers.values()))
        self.network = network

    def options(self) -> list[Option]:
        return [
            layer_option(self.network),
            *image_options(self.network.first),
            samples_option(4, 20, 8),
            seed_option(),
        ]

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
        known = torch.cat([given, run.system.reconstruct(given)]) if encodes(run) else given  # [1 or 2, C, H, W]
        both = " and its reconstruction" if len(known) > 1 else ""
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
                    known[None], f"Image{both}", f"The image{both} through code and flow." if both else ""
                ),
                "samples": Picture(
                    samples[layer],
                    f"Samples: {layer}",
                    f"Images that have the same representation in {layer}; all else is drawn at random.",
                ),
                "layers": Picture(
                    torch.stack([torch.cat([known, each]) for each in samples.values()]),
                    "Samples by layer",
                    f"A row for each layer, from the top: {listed}. At the left the image{both}; then images with the "
                    "same representation in the row's layer. What is drawn at random is the same for each column.",
                    columns=tuple(range(1, len(known) + 1)),
                ),
                "maps": Picture(
                    torch.stack(maps),
                    "Mean and deviation by layer",
                    f"A row for each layer, from the top: {listed}. The image, the mean of its samples, and how far "
                    f"they differ, pixel by pixel: black is not at all, white is a deviation of {most:.2f}, where "
                    "black and white pixels lie 2 apart.",
                    columns=(1,),
                ),
            },
            [f"The image: {said(self.network.first, values)}."],
        )
        self._compare(shown, run, layer, known, samples[layer], source)
        self._judge(shown, run, known, samples[layer])
        for name, apart in deviations.items():
            shown.figures[f"deviation/{name}"] = float(apart.mean())
        return shown

    @staticmethod
    def _compare(
        shown: Shown, run: Exhibit, layer: str, known: Tensor, samples: Tensor, source: torch.Generator
    ) -> None:
        """How alike the image's representation is to those of samples, of its reconstruction, and of other images."""
        given = known[:1]
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
        if len(known) > 1:
            again = float(alike(known[1:]))
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

    @staticmethod
    def _judge(shown: Shown, run: Exhibit, known: Tensor, samples: Tensor) -> None:
        """What the network takes the image and the samples for."""
        if not judges(run):
            return
        names, shares = judged(run, torch.cat([known[:1], samples]))
        same = names[1:].count(names[0])
        shown.lines.append(
            f"The network takes the image for {names[0]} ({shares[0].max():.1%}), and {same} of {len(samples)} samples "
            "likewise."
        )
        shown.figures["agreement"] = same / len(samples)
