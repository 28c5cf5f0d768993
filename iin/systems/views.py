"""Pictures that several systems show: what they look like, and what is written below them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from iin.system import Loop, Picture
from iin.systems.latents import REACH, Latents, heads

__all__ = [
    "Generative",
    "classes",
    "columns",
    "invariances",
    "line",
    "overview",
    "partners",
    "spread",
    "swap",
    "traversals",
]

INPUTS = 12
"""Test images that are shown, and their reconstructions."""
SAMPLES = 64
SIDE = 8
"""Images that give, and images that take, in a cross grid."""
CLASSES = 10
"""Classes that are shown, and images of each."""
LINES, STEPS = 5, 8
"""Interpolations shown below each other, and images on each, both ends included."""


VISIBLE = 8
"""Samples that are shown of each representation."""
MANY = 32
"""Samples that maps of mean and deviation are taken of."""

VALUES, WAYS = 9, 2
"""Values in a row of a traversal, and steps of its animation from one of these to the next."""
ROWS, PANELS = 32, 16
"""Up to so many latents all are shown; of more, so many: as many as an animation has panels."""
CONTRAST = 60.0
"""Grey levels of 255 that a derivative of 1 stands for, of images in [0, 1]: the same for every model, so that models
can be compared; published pictures have 20, of which a sparse Jacobian is hardly to be seen."""


class Generative(Protocol):
    """Structural type of a system that makes images."""

    def reconstruct(self, image: Tensor) -> Tensor: ...

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...


def overview(system: Generative, batch: Any) -> dict[str, Picture]:
    """Inputs, reconstructions, and samples: new ones, and ones that can be compared.

    Args:
        system: what makes them.
        batch: test data, images ``[B, C, H, W]`` in [-1, 1].
    """
    image = batch.image[:INPUTS]
    if paired := hasattr(batch, "other"):
        rows, what = torch.stack([image, batch.other[:INPUTS]]), "In each column a pair of test images."
    else:
        rows, what = image[None], "Test images."
    return {
        "inputs": Picture(rows, "Inputs", what),
        "reconstructions": Picture(
            torch.stack([image, system.reconstruct(image)]),
            "Reconstructions",
            f"In the top row {'the first image of each pair' if paired else 'test images'}; below each, what the model "
            "makes of its code.",
            rows=(1,),
        ),
        "samples": Picture(
            system.sample(SAMPLES), "Samples", "Decoded from codes drawn at random, others at each evaluation."
        ),
        "fixed_samples": Picture(
            system.sample(SAMPLES, torch.Generator().manual_seed(0)),
            "Fixed samples",
            "Decoded from the same random codes at each evaluation, so that one can watch them change.",
        ),
    }


def invariances(system: Any, batch: Any) -> dict[str, Picture]:
    """What a layer sees of images, and what it does not: samples, recombinations, maps.

    Args:
        system: a `LatentFlow` with a representation.
        batch: test data, images ``[B, C, H, W]`` in [-1, 1].
    """
    image = batch.image[:SIDE]
    layer = str(getattr(system.representation, "layer", "the representation"))
    layer = f"layer {layer}" if layer.isdigit() else layer
    context = system.represent(image)
    again = system.reconstruct(image)
    z = system.latents(VISIBLE, torch.Generator().manual_seed(0))
    given, taken = partners(batch)
    width = len(taken)
    latent = system.encode(taken)  # [N, D]
    cells = torch.stack([system.generate(one[None], latent)[0] for one in system.represent(given)])  # [R, N, C, H, W]
    corner = torch.zeros_like(given[:1])
    body = torch.cat([given[:, None], cells], dim=1)
    mean, deviation = spread(system, context, torch.Generator().manual_seed(1))
    return {
        "samples": Picture(
            torch.cat([image[:, None], again[:, None], system.generate(context, z)], dim=1),
            f"Samples: {layer}",
            f"In each row a test image, its reconstruction, and images with the same representation in {layer}: what "
            "they have in common is what the layer knows. All else is drawn at random, the same for each column.",
            columns=(1, 2),
        ),
        "recombinations": Picture(
            torch.cat([torch.cat([corner, taken])[None], body]),
            f"Recombinations: {layer}",
            f"Each cell has the representation in {layer} of the image at the left of its row, and what the layer does "
            f"not know from the one at the top of its column{'' if width > 1 else ', the only other one'}.",
            rows=(1,),
            columns=(1,),
        ),
        "maps": Picture(
            torch.stack([image, mean, deviation]),
            f"Mean and deviation: {layer}",
            f"Test images; below each the mean of {MANY} samples with its representation, and below that how far they "
            "differ, pixel by pixel: bright is what the layer leaves open.",
            rows=(1,),
        ),
    }


def spread(system: Any, context: Tensor, generator: torch.Generator, count: int = MANY) -> tuple[Tensor, Tensor]:
    """Mean over samples of each representation, and their deviation as an image: -1 where they agree, 1 where their
    channels deviate by 1, each ``[B, C, H, W]``.

    Args:
        system: see `invariances`.
        context: representations ``[B, ...]``.
        generator: of the samples.
        count: how many of each.
    """
    z = system.latents(count, generator)
    samples = [system.generate(one[None], z)[0] for one in context]
    mean = torch.stack([each.mean(0) for each in samples])
    deviation = torch.stack([each.std(0, correction=0) for each in samples])  # values lie in [-1, 1]: at most 1
    return mean, 2 * deviation - 1


@torch.no_grad()
def traversals(system: Any, z: Tensor, context: Tensor | None = None, of: str = "the first test image") -> Picture:
    """What each latent does: a row each, in which it alone changes, and the same in motion.

    Of many latents, only those are shown that move the image most. Classes have no row, but a panel of the animation.

    Args:
        system: any that makes images of latents; see `iin.systems.latents`.
        z: code that it is tried on ``[dim]``.
        context: of a conditional flow, the representation that the images have ``[1, ...]``.
        of: whose code it is.
    """
    latents = Latents(system)
    order = latents.strongest(latents.strengths(z[None], context))
    chosen = order if len(order) <= ROWS else order[:PANELS]
    steps = WAYS * (VALUES - 1) + 1  # each value of the picture is among those of the animation
    ends = [latents.range(index) for index in chosen]
    codes = [
        latents.moved(z, index, torch.linspace(*two, steps if place < PANELS else VALUES))
        for place, (index, two) in enumerate(zip(chosen, ends, strict=True))
    ]
    made = latents.decode(torch.cat(codes), context).split([len(part) for part in codes])
    rows = torch.stack([row[:: WAYS if place < PANELS else 1] for place, row in enumerate(made)])
    moving, labels = list(made[:PANELS]), [latents.names[index] for index in chosen]
    panels = labels[:PANELS]
    if latents.discrete:
        each = [frame * latents.discrete // steps for frame in range(steps)]
        moving, panels = [latents.decode(latents.classed(z, each), context), *moving], ["class", *panels]
    shown = "Those that move the image most stand first."
    if len(chosen) < len(order):
        shown = f"These are the {len(chosen)} of {len(latents)} that move the image most, the strongest first."
    low, high = latents.bounds or (-REACH, REACH)
    values = heads(torch.linspace(low, high, VALUES))
    way = f"from {values[0]} to {values[-1]}{' deviations' if latents.bounds is None else ''}"
    return Picture(
        rows,
        "Latent traversals",
        f"In each row one latent of {of} goes {way}; all others stay. {shown}",
        labels=tuple(labels),
        heads=values,
        loop=Loop(torch.stack(moving), tuple(panels), (values[0], values[-1])),
    )


def columns(jacobian: Tensor, image: Tensor) -> Picture:
    """Columns of a decoder's Jacobian as images: what the picture does where a number of the code grows.

    Args:
        jacobian: ``[L, N, C, H, W]``, of images in [0, 1].
        image: the images at whose codes it was taken ``[N, C, H, W]`` in [-1, 1].
    """
    order = jacobian.square().flatten(1).sum(1).argsort(descending=True, stable=True)
    shown = (jacobian[order] * (CONTRAST / 127.5)).clamp(-1, 1)
    return Picture(
        torch.cat([image[None], shown]),
        "Jacobian of the decoder",
        "Below test images, how each pixel answers to a number of the code, one number a row, the strongest first: "
        f"grey where it does not, brighter or darker where it does. The scale is always the same: {CONTRAST:g} of 255 "
        "levels for a derivative of 1.",
        # The gaps between cells are as grey as a pixel that does not answer: without lines, cells run together.
        rows=tuple(range(1, 1 + len(shown))),
        columns=tuple(range(1, len(image))),
    )


def partners(batch: Any) -> tuple[Tensor, Tensor]:
    """Two lists of up to `SIDE` images ``[R, C, H, W]`` from a batch of pairs, or of single images.

    The second is a list of other images: those to which the first ones are paired come later in it, or not at all, so
    that images of the same place are as unrelated as any. With fewer than two lists of images in the batch, they
    overlap; only of a single image that is not paired, the partner is the image itself.
    """
    shift = min(SIDE, len(batch.image) // 2)
    others = getattr(batch, "other", batch.image)
    return batch.image[:SIDE], others.roll(-shift, 0)[:SIDE]


def swap(name: str, grid: Tensor) -> Picture:
    """A cross grid: the factor of the image at the left, in the image at the top.

    Args:
        name: of the factor.
        grid: ``[R + 1, N + 1, C, H, W]``, the given images in the first row and the first column.
    """
    what = _known(name)
    caption = (
        f"Each cell takes its {what} from the image at the left of its row, and all else from the one at the top of "
        "its column."
    )
    return Picture(grid, f"Swap: {_spoken(name)}", caption, rows=(1,), columns=(1,))


def line(start: Tensor, steps: Tensor, end: Tensor, name: str | None = None) -> Picture:
    """Interpolations, each between the two images that it belongs to.

    Args:
        start: images ``[R, C, H, W]`` that the lines begin at.
        steps: images on the lines ``[R, N, C, H, W]``.
        end: images ``[R, C, H, W]`` that they lead to, or whose factor they lead to.
        name: of the factor that changes; by default all of them do.
    """
    if name is None:
        title, way = "Interpolation", "the image at the left becomes the one at the right"
    else:
        title = f"Interpolation: {_spoken(name)}"
        way = f"the image at the left takes on the {_known(name)} of the one at the right, and nothing else of it"
    images = torch.cat([start[:, None], steps, end[:, None]], dim=1)  # [R, N + 2, C, H, W]
    return Picture(images, title, f"In equal steps {way}.", columns=(1, 1 + steps.shape[1]))


def classes(image: Tensor, logits: Tensor) -> Picture:
    """What a classifier takes for the same class, a row each; cells without an image are grey.

    Args:
        image: ``[B, C, H, W]``.
        logits: ``[B, classes]``; only the first `CLASSES` classes are shown.
    """
    found = logits.argmax(1)
    count = min(CLASSES, logits.shape[1])
    rows = image.new_zeros(count, CLASSES, *image.shape[1:])
    for label in range(count):
        taken = image[found == label][:CLASSES]
        rows[label, : len(taken)] = taken
    caption = "Test images by the class that the classifier takes them for, a row each, class 0 on top."
    return Picture(rows, "Predictions", caption)


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _known(name: str) -> str:
    """The factor, and what it is if its name does not tell."""
    return "residual (the style: all that no pair shares)" if name == "residual" else _spoken(name)
