"""Adversarial attack: what a network sees in an image that was changed to mislead it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    sample,
    samples_option,
    within,
)
from iin.demo.contract import Demo, DemoError, Number, Option, Progress, Shown
from iin.demo.grouping import Network, encodes, judges, stages
from iin.demo.runs import Exhibit
from iin.system import Picture

__all__ = ["Attack", "changed", "demos", "misled", "pattern", "smallest", "weakest"]

NEEDS = (
    "a run with a conditional flow (a LatentFlow with a representation) over an autoencoder, whose network tells what "
    "it takes an image for"
)
STRENGTHS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""What is tried where no strength is given."""
TRIED = f"{', '.join(map(str, STRENGTHS[:-1]))} and {STRENGTHS[-1]}"
LOOKED_AT = 32
"""Test images among which one is looked for that little misleads."""

INPUTS = (
    "the image",
    "the attacked image",
    "the control, whose pixels were changed as much but brighter or darker at random,",
)
"""What the network is asked of."""


def demos(runs: Sequence[Exhibit]) -> list[Demo]:
    """One for each network that tells its answers, over a first stage that encodes."""
    return [
        Attack(network)
        for stage in stages(runs)
        for network in stage.networks
        if encodes(network.first) and all(map(judges, network.layers.values()))
    ]


class Attack(Look):
    """An image, changed so that the network takes it for something else, as a layer sees it.

    Args:
        network: whose layers are looked at.

    References:
        Explaining and Harnessing Adversarial Examples (Goodfellow, Shlens and Szegedy, 2014), arXiv:1412.6572
    """

    name = "attack"
    title = "Adversarial attack"
    count = samples_option(2, 12, 6)
    about = (
        "Each pixel is made brighter or darker by the same amount, whichever makes the network less sure of its "
        "answer. How much it takes to mislead it depends on the network and on the image. The invariances of the "
        "original, put together with the representation of the attacked image, show what the layer takes it for now."
    )

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._weakest: int | None = None

    def inputs(self) -> list[Option]:
        if self._weakest is None:  # it is looked for once
            self._weakest = weakest(self.network.first)
        strength = Number(
            "epsilon",
            "Strength of the attack",
            whole=False,
            typed=True,
            unset="the least that misleads",
            help="change of each pixel: 2 is from black to white, 0.02 are two and a half of 256 grey levels; if none "
            f"is given, the smallest of {TRIED} that changes the network's answer",
        )
        return [*image_options(self.network.first, default=self._weakest), strength]

    @torch.no_grad()
    def show(self, values: Mapping[str, Any], progress: Progress) -> Shown:
        run = self.network.layers[values["layer"]]
        system, layer = run.system, values["layer"]
        given = image(self.network.first, values)
        source = generator(values)
        progress(0.0, "attacking the network")
        signs = pattern(system.representation.logits, given)
        least = smallest(system.representation.logits, given, signs) if values["epsilon"] is None else None
        epsilon = (least or STRENGTHS[-1]) if values["epsilon"] is None else float(values["epsilon"])
        attacked = changed(given, signs, epsilon)
        coins = torch.randint(0, 2, given.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        control = changed(given, coins.to(given), epsilon)

        z, z_attacked = system.represent(given), system.represent(attacked)
        v = system.encode(given)
        progress(0.2, "decoding")
        again, attacked_again = system.first_stage.decode(system.code(torch.cat([given, attacked]))).split(1)
        seen = system.decode(v, z_attacked)
        v = draw(run, int(values["samples"]), source)
        what = "drawing samples"
        before = sample(run, z, v, within(progress, 0.3, 0.65), what)
        after = sample(run, z_attacked, v, within(progress, 0.65, 1.0), what)

        pictures = {
            "attack": Picture(
                torch.cat([given, signs, attacked])[None],
                "Image, pattern, attacked image",
                "At the left the image; in the middle where the attack makes it brighter (white) or darker (black); at "
                f"the right both together, the pattern with a strength of {epsilon:g}.",
            ),
            "seen": Picture(
                torch.cat([attacked, again, seen, attacked_again])[None],
                f"What the network sees: {layer}",
                "From the left: the attacked image; the original through the autoencoder; the same with the layer's "
                "representation of the attacked image, which is what the network sees; and, set off, the attacked "
                "image through the autoencoder. If that last one still looks like the original, it is the network that "
                "was attacked, not the autoencoder.",
                columns=(1, 3),
            ),
            "samples": Picture(
                torch.stack([before, after]),
                f"Samples: {layer}",
                "Images with the layer's representation of the original in the top row, and with that of the attacked "
                "image below. All else is drawn at random, the same within each column.",
                rows=(1,),
                labels=("original", "attacked"),
            ),
        }
        shown = Shown(pictures, [f"The image: {said(self.network.first, values)}."])
        if least is not None:
            shown.lines.append(f"Strength {epsilon:g}: the smallest of {TRIED} that changes the network's answer.")
        elif values["epsilon"] is None:
            shown.lines.append(f"None of the strengths {TRIED} changes the network's answer; the last one is shown.")
        else:
            shown.lines.append(f"Strength {epsilon:g}.")
        self._tell(shown, run, torch.cat([given, attacked, control]), torch.cat([seen, before, after]))
        shown.figures |= {
            "epsilon": epsilon,
            "representation_moved/attack": float(distance(z, z_attacked)),
            "representation_moved/control": float(distance(z, system.represent(control))),
            "seen_from_reconstruction": float((seen - again).abs().mean()),
        }
        if not signs.any():
            shown.lines.append("The network's answer does not depend on any pixel here, so there is nothing to change.")
        return shown

    @staticmethod
    def _tell(shown: Shown, run: Exhibit, inputs: Tensor, made: Tensor) -> None:
        """What the network takes the image for, before and after, and what is made of either representation."""
        names, shares = judged(run, inputs)
        for what, name, share in zip(INPUTS, names, shares.amax(1), strict=True):
            shown.lines.append(f"The network takes {what} for {name} ({share:.1%}).")
        made_names, _ = judged(run, made)
        shown.lines.append(
            f"What it sees in the attacked image, shown to it as an image, it takes for {made_names[0]}."
        )
        half = (len(made_names) - 1) // 2
        before, after = made_names[1 : 1 + half], made_names[1 + half :]
        own = shares[:, shares[0].argmax()].tolist()
        shown.figures |= {
            "probability/original": own[0],
            "probability/attacked": own[1],
            "probability/control": own[2],
            "samples_as_original/before": before.count(names[0]) / half,
            "samples_as_original/after": after.count(names[0]) / half,
            "samples_as_attacked/after": after.count(names[1]) / half,
        }


def pattern(logits: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """The way in which each pixel makes a network less sure of what it takes an image for.

    Args:
        logits: the network, images -> ``[B, classes]``, differentiable.
        image: ``[B, C, H, W]``.

    Returns:
        The sign of the gradient of the cross-entropy of the network's own answer, -1, 0 or 1: ``[B, C, H, W]``.

    Raises:
        DemoError: the network cannot be differentiated.
    """
    with torch.enable_grad():
        pixels = image.detach().clone().requires_grad_()
        answers = logits(pixels)
        if answers.shape[1] < 2:
            return torch.zeros_like(image)  # the only answer there is
        own = answers.argmax(1, keepdim=True)
        # The cross-entropy is log(1 + exp(s)) of this s. Its gradient has the same sign, but rounds to 0 where the
        # network is all but sure; that of s does not.
        loss = answers.scatter(1, own, -torch.inf).logsumexp(1) - answers.gather(1, own)[:, 0]
        try:
            (gradient,) = torch.autograd.grad(loss.sum(), pixels)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise DemoError(
                f"the attack needs a network that can be differentiated; this one cannot: {reason}"
            ) from None
    return gradient.sign()


def smallest(logits: Callable[[Tensor], Tensor], image: Tensor, signs: Tensor) -> float | None:
    """The smallest of `STRENGTHS` at which the pattern changes the network's answer for any of the images.

    Args:
        logits: as for `pattern`.
        image: ``[B, C, H, W]``.
        signs: their patterns.
    """
    return next((epsilon for epsilon in STRENGTHS if misled(logits, image, signs, epsilon).any()), None)


def misled(logits: Callable[[Tensor], Tensor], image: Tensor, signs: Tensor, epsilon: float) -> Tensor:
    """Whether the network's answer is another for each of the images, once it is changed: ``[B]``."""
    size = image[0].numel()
    before, after = (in_parts(logits, each, size) for each in (image, changed(image, signs, epsilon)))
    return before.argmax(1) != after.argmax(1)


@torch.no_grad()
def weakest(run: Exhibit) -> int:
    """The first of some test images for which the least strength misleads the network; 0 where none is found.

    Where the network tells the data set's classes, one that it takes for what it is.
    """
    logits = run.system.representation.logits
    images = run.images.image[:LOOKED_AT]
    try:
        signs = in_parts(lambda part: pattern(logits, part), images, images[0].numel())
    except DemoError:  # the page says so
        return 0
    answers = in_parts(logits, images, images[0].numel())
    labels = run.images.label[:LOOKED_AT]
    right = torch.arange(len(images))
    if answers.shape[1] == len(run.classes) and labels.ndim == 1:
        right = (answers.argmax(1) == labels).nonzero()[:, 0]
    images, signs = images[right.to(images.device)], signs[right.to(images.device)]
    if not len(right) or (epsilon := smallest(logits, images, signs)) is None:
        return 0
    return int(right[misled(logits, images, signs, epsilon).nonzero()[0, 0]])


def changed(image: Tensor, signs: Tensor, epsilon: float) -> Tensor:
    """An image ``[B, C, H, W]`` with each pixel moved by ``epsilon`` along signs, within [-1, 1]."""
    return (image + epsilon * signs).clamp(-1, 1)
