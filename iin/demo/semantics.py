"""Semantics: what a layer's representation does when one concept of an image is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iin.demo.choosing import (
    Look,
    distance,
    draw,
    generator,
    image,
    image_options,
    in_parts,
    judged,
    said,
    samples_option,
    within,
)
from iin.demo.contract import Choice, Demo, Option, Progress, Shown
from iin.demo.grouping import Network, encodes, judges, stages
from iin.demo.runs import Exhibit
from iin.system import Picture

__all__ = ["Semantics", "demos"]

NEEDS = (
    "a run with a conditional flow (a LatentFlow with a representation), and one with a FactorFlow, both over the same "
    "autoencoder"
)


def demos(runs: Sequence[Exhibit]) -> list[Demo]:
    """One for each network and each run that splits the same first stage's code into factors."""
    return [
        Semantics(network, factors)
        for stage in stages(runs)
        for network in stage.networks
        for factors in stage.factors
        if encodes(network.first)
    ]


class Semantics(Look):
    """An image that a layer cannot tell from the given one, with one concept exchanged.

    Args:
        network: whose layers are looked at.
        factors: a run with a `iin.systems.FactorFlow` over the same first stage.

    References:
        A Disentangling Invertible Interpretation Network for Explaining Latent Representations
        (Esser, Rombach and Ommer, 2020), arXiv:2004.13166
    """

    name = "semantics"
    title = "Semantic editing"
    count = samples_option(2, 12, 6)
    about = (
        "Images are drawn that have the layer's representation of the chosen one. Then one concept of each, one factor "
        "of the code, is exchanged for that of another image, and the network looks again. How far its representation "
        "moves says how much the layer depends on that concept."
    )

    def __init__(self, network: Network, factors: Exhibit) -> None:
        super().__init__(network)
        self.factors = factors
        self.of = f"{self.of}, {factors.name}"

    def inputs(self) -> list[Option]:
        return [
            *super().inputs(),
            *image_options(self.network.first, "other", "other_upload", "Image that gives the factor", default=1),
            Choice("factor", "Factor", among=tuple(self.factors.system.names)),
        ]

    @torch.no_grad()
    def show(self, values: Mapping[str, Any], progress: Progress) -> Shown:
        run, layer = self.network.layers[values["layer"]], values["layer"]
        system, factors, names = run.system, self.factors.system, self.factors.system.names
        source = self.network.first
        given, other = image(source, values), image(source, values, "other", "other_upload")
        v = draw(run, int(values["samples"]), generator(values))
        x = torch.cat([system.code(given), system.codes(system.represent(given), v)[0]])  # [1 + samples, D]
        e = factors.flow(x)[0]
        value = factors.encode(other).expand_as(e)
        size = given.numel()
        kept = in_parts(system.first_stage.decode, x, size, within(progress, 0.0, 0.2), "drawing samples")
        edited: dict[str, Tensor] = {}
        for at, name in enumerate(names):
            codes = factors.flow.inverse(factors.exchange(e, value, [at]))
            part = within(progress, 0.2 + 0.8 * at / len(names), 0.2 + 0.8 * (at + 1) / len(names))
            edited[name] = in_parts(system.first_stage.decode, codes, size, part, f"exchanging {_spoken(name)}")

        factor = values["factor"]
        spoken = _spoken(factor)
        shown = Shown(
            {
                "edited": Picture(
                    torch.stack([kept, edited[factor]]),
                    f"{spoken} exchanged: {layer}",
                    f"In the top row the image's reconstruction, and samples with its representation in {layer}; below "
                    f"each the same with the {spoken} of the other image.",
                    rows=(1,),
                    columns=(1,),
                    labels=("as it was", spoken),
                ),
                "images": Picture(
                    torch.cat([given, other])[None], "Image and other image", "The second one gives the factor."
                ),
                "factors": Picture(
                    torch.stack([kept, *edited.values()]),
                    f"All factors: {layer}",
                    "On top the reconstruction and samples; below, a row for each factor that is exchanged: "
                    f"{', '.join(map(_spoken, names))}.",
                    rows=(1,),
                    columns=(1,),
                    labels=("as it was", *map(_spoken, names)),
                ),
            },
            [f"The image: {said(source, values)}. The other: {said(source, values, 'other', 'other_upload')}."],
        )
        self._measure(shown, run, layer, kept, edited, factor)
        return shown

    @staticmethod
    def _measure(
        shown: Shown, run: Exhibit, layer: str, kept: Tensor, edited: Mapping[str, Tensor], factor: str
    ) -> None:
        """How far the representation moves with each factor, and what the network says before and after."""

        def moved(pair: Tensor) -> Tensor:  # [B, 2, C, H, W]
            return distance(run.system.represent(pair[:, 0]), run.system.represent(pair[:, 1]))

        size = 2 * kept[0].numel()
        for name, each in edited.items():
            shown.figures[f"moved/{name}"] = float(in_parts(moved, torch.stack([kept, each], dim=1), size).mean())
        listed = ", ".join(f"{_spoken(name)} {shown.figures[f'moved/{name}']:.3f}" for name in edited)
        shown.lines.append(
            f"How far the representation in {layer} moves when a factor is exchanged, as a share of its length, on "
            f"average: {listed}."
        )
        if judges(run):
            before, _ = judged(run, kept)
            for name, each in edited.items():
                after, _ = judged(run, each)
                same = sum(one == two for one, two in zip(before, after, strict=True))
                shown.figures[f"agreement/{name}"] = same / len(before)
                if name == factor:
                    shown.lines.append(
                        f"The network takes the reconstruction for {before[0]}, and with the other image's "
                        f"{_spoken(name)} for {after[0]}; of all {len(before)} images its answer stays for {same}."
                    )


def _spoken(name: str) -> str:
    return name.replace("_", " ")
