"""Latents: a slider for each that a run makes images of, and one of them on its way from end to end."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iin import pictures
from iin.demo.choosing import generator, image, image_options, said, within
from iin.demo.contract import Choice, Number, Option, Progress, Shown
from iin.demo.runs import Exhibit
from iin.system import Loop, Picture
from iin.systems.latents import Latents, heads, latents_of

__all__ = ["LatentSliders", "demos"]

NEEDS = "a run that makes images of latents: a variational autoencoder, a generator, an autoencoder, a flow over one"
SLIDERS = 12
"""Latents whose sliders are seen at once; the others are folded up below them."""
FARTHEST = 4.0
"""Deviations that a slider moves a latent by, to either side."""
BUDGET = 600
"""Images that are made, about, to find out which latents move the image most; at least two for each latent."""
STARTS = 8
"""Codes that it is tried on, at most."""
VALUES, WAYS = 9, 3
"""Images in a strip, and frames of its animation from one of these to the next."""
OWN = ("start", "image", "upload", "seed", "class", "latent")
"""Options that are no latents."""
KEPT = "as it is"


def demos(runs: Sequence[Exhibit]) -> list[LatentSliders]:
    """One for each run that makes images of latents."""
    return [LatentSliders(run, latents) for run in runs if (latents := latents_of(run.system)) is not None]


class LatentSliders:
    """Turns the latents of an image.

    Args:
        run: that makes images of latents.
        latents: of its system.
    """

    def __init__(self, run: Exhibit, latents: Latents) -> None:
        self.run, self.latents = run, latents
        self.name = "latents"
        self.title = "Latents"
        self.of = run.name
        self.encodes = _encodes(run)
        """Whether images have codes, and not only codes images."""
        kept = " What the layer knows of the image stays." if latents.conditional else ""
        self.about = (
            "Each slider adds to one latent, and the others stay: what of the image moves with it? Those latents that "
            f"move images most come first.{kept} Below, one of them on its whole way."
        )
        stems = pictures.stems(name.replace(" ", "_") for name in latents.names).values()
        self.keys = [f"latent_{stem}" if stem in OWN else stem for stem in stems]
        """Names of the sliders, one for each latent in its own order."""

    @functools.cached_property
    def strengths(self) -> Tensor:
        """How much each latent moves images ``[L]``, on average."""
        latents, run = self.latents, self.run
        count = min(STARTS, len(run), max(1, BUDGET // (2 * len(latents) + 1)))
        images = run.images.image[:count]
        with torch.no_grad():
            z = run.system.encode(images) if self.encodes else self._drawn(count, torch.Generator().manual_seed(0))
            if not latents.conditional:
                return latents.strengths(z)
            found = [latents.strengths(z[[k]], run.system.represent(images[[k]])) for k in range(count)]
        return torch.stack(found).mean(0)

    @functools.cached_property
    def order(self) -> list[int]:
        """Latents, those first that move images most."""
        return self.latents.strongest(self.strengths)

    def options(self) -> list[Option]:
        latents, order = self.latents, self.order
        # A conditional flow's draws are invariances: the image still says what the layer knows.
        starts = [Choice("start", "Start from", among=("image", "random"), help="its latents, or random ones")]
        first: list[Option] = [*starts * self.encodes]
        first += image_options(self.run) if self.encodes or latents.conditional else []
        first.append(Number("seed", "Seed", high=2**31 - 1, typed=True, help="of the random latents"))
        classes = tuple(map(str, range(latents.discrete)))
        if classes:
            first.append(Choice("class", "Class", among=(KEPT, *classes), help="in the place of the one drawn"))
        ways = [self.keys[index] for index in order] + ["class"] * bool(classes)
        first.append(Choice("latent", "Shown on its whole way", among=tuple(ways), help="below"))
        rest = len(latents) - SLIDERS
        return [
            *first,
            *(
                Number(
                    self.keys[index],
                    latents.names[index],
                    low=-FARTHEST,
                    high=FARTHEST,
                    whole=False,
                    help=f"added to the value at the start; moves pixels by {float(self.strengths[index]):.2g} in all "
                    "from end to end",
                    fold=f"{rest} more latents" if place >= SLIDERS else "",
                )
                for place, index in enumerate(order)
            ),
        ]

    @torch.no_grad()
    def show(self, values: Mapping[str, Any], progress: Progress) -> Shown:
        run, latents = self.run, self.latents
        random = not self.encodes or values["start"] == "random"
        given = image(run, values) if latents.conditional or not random else None
        context = run.system.represent(given) if latents.conditional else None
        z = self._drawn(1, generator(values)) if random else run.system.encode(given)
        code, lines = self._turned(z[0], values)
        start, changed = latents.decode(torch.stack([z[0], code]), context).split(1)
        progress(0.3, "the latent on its way")

        cells, names = [start, changed, (changed - start) / 2], ["start", "changed", "difference"]
        if given is not None:
            cells, names = [given, *cells], ["image", *names]
        strip = self._way(code, values["latent"], context, within(progress, 0.3, 1.0))
        lead = f"Image: {said(run, values)}." if given is not None else ""
        lead += f" Random latents of seed {values['seed']}." if random else ""
        return Shown(
            {
                "change": Picture(
                    torch.stack(cells, 1),
                    "Changed latents",
                    "What the latents give at the start, and with the sliders as they are; last, what has become "
                    "brighter or darker, grey where nothing has.",
                    heads=tuple(names),
                ),
                "way": strip,
            },
            [lead.strip(), *lines],
            {
                "changed/pixels": float((changed - start).abs().mean()),
                **{f"moves/{self.keys[index]}": float(self.strengths[index]) for index in self.order[:SLIDERS]},
            },
            cover="way",
        )

    def _drawn(self, count: int, source: torch.Generator) -> Tensor:
        """Codes ``[count, dim]``, on the run's device."""
        return self.latents.draw(count, source).to(self.run.device)

    def _turned(self, z: Tensor, values: Mapping[str, Any]) -> tuple[Tensor, list[str]]:
        """A code ``[dim]`` as the sliders have it, and what was done in words."""
        latents, lines, code = self.latents, [], z.clone()
        if values.get("class", KEPT) != KEPT:
            code = latents.classed(code, [int(values["class"])])[0]
            lines.append(f"Class {values['class']}.")
        for index in self.order:
            if not (shift := values[self.keys[index]]):
                continue
            at = latents.discrete + index
            before = float(code[at])
            moved = before + shift * latents.deviation(index)
            code[at] = kept = latents.within(moved)
            cut = ", the end of its range" if kept != moved else ""
            lines.append(f"{latents.names[index]}: from {before:.2f} to {kept:.2f}{cut}.")
        return code, lines

    def _way(self, code: Tensor, key: str, context: Tensor | None, progress: Progress) -> Picture:
        """One latent from end to end, the others as they are."""
        latents = self.latents
        if key == "class":
            codes = latents.classed(code, range(latents.discrete))
            made = latents.decode(codes, context)
            above = tuple(map(str, range(latents.discrete)))
            name, rows, frames = "class", made, made.repeat_interleave(WAYS, 0)
            what = "Each class in turn, with the other latents as the sliders have them."
        else:
            index = self.keys.index(key)
            low, high = latents.range(index)
            values = torch.linspace(low, high, WAYS * (VALUES - 1) + 1)
            frames = latents.decode(latents.moved(code, index, values), context)
            rows, above = frames[::WAYS], heads(values[::WAYS])
            name = latents.names[index]
            what = f"{name} from {above[0]} to {above[-1]}, with the other latents as the sliders have them."
        progress(1.0, "the latent on its way")
        loop = Loop(frames[None], (name,), (above[0], above[-1])) if len(frames) > 1 else None
        return Picture(rows[None], f"On its whole way: {name}", what, labels=(name,), heads=above, loop=loop)


@torch.no_grad()
def _encodes(run: Exhibit) -> bool:
    """Whether the run finds codes of images."""
    try:
        run.system.encode(run.image(0))
    except (AttributeError, NotImplementedError, ValueError):  # it says that it does not
        return False
    return True
