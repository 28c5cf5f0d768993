"""What the demos of conditional flows have in common: images, layers and seeds to choose, and work in small parts.

References:
    Making Sense of CNNs: Interpreting Deep Representations & Their Invariances with INNs
    (Rombach, Esser and Ommer, 2020), arXiv:2008.01777
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from iin.demo.contract import Choice, Number, Option, Progress, Shown, Upload
from iin.demo.grouping import Network, encodes, judges
from iin.demo.runs import Exhibit
from iin.models.gaussian import standard_normal

__all__ = [
    "Look",
    "agreement",
    "distance",
    "draw",
    "generator",
    "image",
    "image_options",
    "in_parts",
    "judged",
    "known",
    "layer_option",
    "named",
    "resembles",
    "said",
    "sample",
    "samples_option",
    "seed_option",
    "within",
]

VALUES = 1 << 19
"""Values of images that are made at once: 512 grey ones of 32 x 32, or 10 coloured ones of 128 x 128."""


# --- options ---------------------------------------------------------------------------------------------------------


def image_options(
    run: Exhibit, name: str = "image", upload: str = "upload", label: str = "Test image", default: int = 0
) -> list[Option]:
    """A test image by its number, or a picture of one's own in its place."""
    last = len(run) - 1
    return [
        Number(name, label, high=last, default=min(default, last)),
        Upload(upload, "A picture of your own", help=f"takes the place of the {label.lower()}"),
    ]


def image(run: Exhibit, values: Mapping[str, Any], name: str = "image", upload: str = "upload") -> Tensor:
    """The image that was chosen ``[1, C, H, W]``.

    Raises:
        DemoError: an upload that cannot be used.
    """
    path = values.get(upload)
    return run.image(int(values[name])) if path is None else run.picture(path)


def said(run: Exhibit, values: Mapping[str, Any], name: str = "image", upload: str = "upload") -> str:
    """The image that was chosen, in words."""
    if values.get(upload) is not None:
        return "a picture of your own"
    label = run.label(int(values[name]))
    return f"test image {values[name]}" + (f" ({label})" if label else "")


def layer_option(network: Network) -> Choice:
    """The layer that is looked at; by default the last, which leaves the most free."""
    names = tuple(network.layers)
    return Choice("layer", "Layer", among=names, default=names[-1])


def samples_option(low: int, high: int, default: int) -> Number:
    """How many samples are drawn."""
    return Number("samples", "Samples", low=low, high=high, default=default)


def seed_option() -> Number:
    """Of all that is drawn."""
    return Number(
        "seed", "Seed", high=2**31 - 1, typed=True, help="the same seed draws the same, for each layer and network"
    )


def named(group: Sequence[Exhibit]) -> str:
    """The names of runs in words; what all of them begin with is said once."""
    first, *others = (run.name for run in group)
    starts = [first[: at + 1] for at, letter in enumerate(first) if letter == "_"]
    shared = [start for start in starts if all(name.startswith(start) for name in others)]
    start = len(shared[-1]) if shared else 0
    names = [first, *(name[start:] for name in others)]
    if len(names) > 5:
        return f"{', '.join(names[:4])} and {len(names) - 4} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if others else first


class Look:
    """A demo that looks at layers of one network: its options, and what it is of.

    Args:
        network: whose layers may be chosen.
    """

    name: str
    title: str
    count: Number
    """How many are made."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.of = named(list(network.layers.values()))

    def options(self) -> list[Option]:
        """The images and what else a demo asks for first, the layer, how many, and the seed."""
        return [*self.inputs(), layer_option(self.network), self.count, seed_option()]

    def inputs(self) -> list[Option]:
        """What the network is shown."""
        return image_options(self.network.first)


# --- draws -----------------------------------------------------------------------------------------------------------


def generator(values: Mapping[str, Any]) -> torch.Generator:
    """Noise of the seed that was chosen."""
    return torch.Generator().manual_seed(int(values["seed"]))


def draw(run: Exhibit, count: int, source: torch.Generator) -> Tensor:
    """Standard normal invariances ``[count, D]``; fewer are the first of more."""
    like = next(run.system.flow.parameters())
    return torch.cat([standard_normal(1, run.system.dim, like, source) for _ in range(count)])


# --- work ------------------------------------------------------------------------------------------------------------


def in_parts(
    work: Callable[[Tensor], Tensor], items: Tensor, values: int, progress: Progress | None = None, what: str = ""
) -> Tensor:
    """``work(items)``, a few rows at a time, so that memory stays bounded.

    Args:
        work: of rows, answers rows.
        items: ``[N, ...]``.
        values: what a row of the work is made of, in numbers: those of an image.
        progress: told after each part.
        what: is being done.
    """
    size = max(1, VALUES // values)
    done = []
    for start in range(0, len(items), size):
        done.append(work(items[start : start + size]))
        if progress is not None:
            progress(min(1.0, (start + size) / len(items)), what)
    return torch.cat(done)


def sample(run: Exhibit, context: Tensor, v: Tensor, progress: Progress | None = None, what: str = "") -> Tensor:
    """Images with one representation ``[1, ...]`` and given invariances ``[n, D]``: ``[n, C, H, W]``."""
    size = run.images.image[0].numel()
    return in_parts(lambda part: run.system.generate(context, part)[0], v, size, progress, what)


def within(progress: Progress, start: float, end: float) -> Progress:
    """Progress of one part of the work."""
    return lambda share, what: progress(start + share * (end - start), what)


# --- what a network says ---------------------------------------------------------------------------------------------


def judged(run: Exhibit, images: Tensor) -> tuple[list[str], Tensor]:
    """What a network that tells its answers takes images for, in words, and its probabilities ``[B, classes]``.

    Class names are the data set's where the network has as many classes.
    """
    logits = in_parts(run.system.representation.logits, images, images[0].numel())
    named = logits.shape[1] == len(run.classes)
    names = [run.class_name(number) if named else f"class {number}" for number in logits.argmax(1).tolist()]
    return names, logits.softmax(1)


def resembles(one: Tensor, others: Tensor) -> Tensor:
    """Cosine similarity of one representation ``[1, ...]`` to others ``[B, ...]``, over all features: ``[B]``."""
    return F.cosine_similarity(one.flatten(1).cpu().double(), others.flatten(1).cpu().double())


def distance(one: Tensor, others: Tensor) -> Tensor:
    """How far representations ``[B, ...]`` lie from ``[1 or B, ...]``, in lengths of the latter: ``[B]``."""
    away = (others - one).flatten(1).cpu().double().norm(dim=1)
    return away / one.flatten(1).cpu().double().norm(dim=1).clamp_min(1e-12)


def known(run: Exhibit, given: Tensor) -> tuple[Tensor, str]:
    """An image, and its reconstruction where there is one ``[1 or 2, C, H, W]``; and the latter in words."""
    if not encodes(run):
        return given, ""
    return torch.cat([given, run.system.reconstruct(given)]), " and its reconstruction"


def agreement(
    shown: Shown, run: Exhibit, given: Tensor, samples: Tensor, key: str = "agreement", who: str = "The network"
) -> None:
    """Tell what a network takes an image for, and how many of its samples likewise, where it has answers."""
    if not judges(run):
        return
    names, shares = judged(run, torch.cat([given, samples]))
    same = names[1:].count(names[0])
    shown.figures[key] = same / len(samples)
    shown.lines.append(
        f"{who} takes the image for {names[0]} ({shares[0].max():.1%}), and {same} of its {len(samples)} samples "
        "likewise."
    )
