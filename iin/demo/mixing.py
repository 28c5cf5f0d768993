"""Mixing: what a layer knows of one image, with what it does not know of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iin.demo.choosing import Look, generator, image, image_options, judged, said, sample, within
from iin.demo.contract import Demo, Number, Option, Progress, Shown
from iin.demo.grouping import encodes, judges, stages
from iin.demo.runs import Exhibit
from iin.system import Picture

__all__ = ["Mixing", "demos"]

NEEDS = "a run with a conditional flow (a LatentFlow with a representation) over an autoencoder"


def demos(runs: Sequence[Exhibit]) -> list[Demo]:
    """One for each network over a first stage that encodes."""
    return [Mixing(network) for stage in stages(runs) for network in stage.networks if encodes(network.first)]


class Mixing(Look):
    """Two images mixed: the representation of one, the invariances of the other.

    Args:
        network: whose layers may be chosen.
    """

    name = "mixing"
    title = "Image mixing"
    count = Number("grid", "Images in the grid", low=2, high=8, default=5, help="the two, and others by the seed")
    about = (
        "Each image is what a layer knows of it and what the layer does not know. Here the two parts are exchanged: a "
        "recombination shows what the layer knows of one image in the way that the other has of all else. Towards the "
        "answer of the network less and less is known, and more and more is taken from the other."
    )

    def inputs(self) -> list[Option]:
        return [
            *image_options(self.network.first, "first", "first_upload", "First image"),
            *image_options(self.network.first, "second", "second_upload", "Second image", default=1),
        ]

    @torch.no_grad()
    def show(self, values: Mapping[str, Any], progress: Progress) -> Shown:
        layers = self.network.layers
        run, layer = layers[values["layer"]], values["layer"]
        source = self.network.first
        first = image(source, values, "first", "first_upload")
        second = image(source, values, "second", "second_upload")
        both = torch.cat([first, second])
        mixed: dict[str, Tensor] = {}
        for at, (name, each) in enumerate(layers.items()):
            progress(at / len(layers) / 2, f"mixing: {name}")
            mixed[name] = each.system.recombine(both, both.flip(0))
        again = run.system.reconstruct(both)
        images = self._others(both, int(values["grid"]), generator(values))
        cells = self._grid(run, images, within(progress, 0.5, 1.0))
        body = torch.cat([images[:, None], cells], dim=1)
        head = torch.cat([torch.zeros_like(first), images])
        shown = Shown(
            {
                "mixed": Picture(
                    torch.stack([both, again, mixed[layer]]),
                    f"Recombinations: {layer}",
                    f"On top the two images, below them their reconstructions. In the last row, each with what {layer} "
                    "knows of the other one.",
                    rows=(1, 2),
                    labels=("images", "reconstructions", "recombinations"),
                ),
                "layers": Picture(
                    torch.stack([torch.cat([both, again, pair]) for pair in mixed.values()]),
                    "Recombinations by layer",
                    f"A row for each layer, from the top: {', '.join(layers)}. The two images, their reconstructions, "
                    "and each with what the layer knows of the other one.",
                    columns=(2, 4),
                    labels=tuple(layers),
                ),
                "grid": Picture(
                    torch.cat([head[None], body]),
                    f"Cross grid: {layer}",
                    f"Each cell has what {layer} knows of the image at the left of its row, and all else from the one "
                    "at the top of its column. On the diagonal stand reconstructions.",
                    rows=(1,),
                    columns=(1,),
                ),
            },
            [
                f"First image: {said(source, values, 'first', 'first_upload')}. "
                f"Second image: {said(source, values, 'second', 'second_upload')}."
            ],
            cover="layers",
        )
        for name, pair in mixed.items():  # how far each is from the image that it has the invariances of
            shown.figures[f"changed/{name}"] = float((pair - again).abs().mean())
        if judges(run):
            names, _ = judged(run, torch.cat([both, mixed[layer]]))
            shown.lines.append(
                f"The network takes the images for {names[0]} and {names[1]}; the first with the representation of the "
                f"second for {names[2]}, the second with that of the first for {names[3]}."
            )
            shown.figures["agreement"] = ((names[2] == names[1]) + (names[3] == names[0])) / 2
        return shown

    def _others(self, both: Tensor, count: int, source: torch.Generator) -> Tensor:
        """The two images, and test images that are neither of them, up to ``count`` in all ``[N, C, H, W]``."""
        found = self.network.first.images.image
        order = torch.randperm(len(found), generator=source).to(found.device)
        new = [one for one in found[order] if not (one == both).flatten(1).all(1).any()]
        return torch.cat([both, *(one[None] for one in new[: count - 2])])

    @staticmethod
    def _grid(run: Exhibit, images: Tensor, progress: Progress) -> Tensor:
        """Every image's representation, a row each, with every image's invariances: ``[N, N, C, H, W]``."""
        v = run.system.encode(images)
        rows = []
        for at, one in enumerate(images.split(1)):
            progress(at / len(images), "mixing each with each")
            rows.append(sample(run, run.system.represent(one), v))
        return torch.stack(rows)
