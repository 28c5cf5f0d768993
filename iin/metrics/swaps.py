"""Factor swaps: does the digit follow when the digit's factor is taken from another image, and stay when the rest is?

Test images are paired at random, the same pairs every time. For each factor that somebody can judge from an image:

* *follows*: that factor is taken from the other image; the result should show the other's value;
* *stays*: all other factors are taken from the other image; the result should still show its own value.

A judge is any callable ``image [B, C, H, W] -> [B]`` int64, a class, compared with the labels of the test set, or
``-> [B, d]`` float, a quantity in [0, 1] that is measured on the input images as well. A new factor needs a judge,
given as ``judges: {factor: {target: ...}}``, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from iin.arguments import Count, NonNegativeInt
from iin.data import measure_color, mix
from iin.metrics.contract import factor_names, gathered, made, method, placed, share, summed, whole
from iin.metrics.memo import Memo, memo_of
from iin.models.digits import digits
from iin.system import System

__all__ = ["FactorSwaps", "Judge", "judge_color", "judge_digit"]

log = logging.getLogger("iin")

Judge = Callable[[Tensor], Tensor]


def judge_digit(image: Tensor) -> Tensor:
    """The digit that the shipped network sees: image ``[B, 1 or 3, 32, 32]`` in [-1, 1] -> int64 ``[B]``."""
    return digits(image.device)(image).argmax(1)


def judge_color(image: Tensor) -> Tensor:
    """The stroke's colour, measured: image ``[B, 3, H, W]`` in [-1, 1] -> ``[B, 3]`` in [0, 1]."""
    return measure_color(image)


_JUDGES: dict[str, Judge] = {"digits": judge_digit, "color": judge_color}
_DEFAULT: dict[str, str | Judge] = {"digit": "digits", "color": "color"}


class FactorSwaps:
    """How often a factor follows, and how often it stays, over random pairs of test images.

    Figures for each factor with a judge, over the pairs whose values of it differ:

    * ``swaps/<factor>/follows``: share of pairs in which, the factor taken from the other image, the judged class is
      the other's true label (of a quantity: it is nearer to the other's than to its own);
    * ``swaps/<factor>/stays``: share in which, all other factors taken, the judged class is still its own label (of a
      quantity: it is nearer to its own).

    Beside them, of a class: ``swaps/<factor>/judge_images`` and ``.../judge_reconstructions``, the judge's accuracy on
    the images themselves and on their reconstructions, which bounds what a swap can reach. Of a quantity:
    ``swaps/<factor>/error``, its mean absolute error, the factor swapped, against the other input image's; and
    ``.../chance``, the same against the quantity of another pair's other image.

    Needs ``system.swap(image, other, factors)``, ``system.reconstruct(image)`` and test data of pairs with named
    factors; the pairs judged here are drawn anew, so that they share nothing by construction.

    Args:
        pairs: how many pairs; where the test images have labels, each is of two differing labels.
        judges: factor -> judge, or the name of one that is here (``digits``, ``color``); the factors ``digit`` and
            ``color`` have theirs by default. A factor without a judge is left out, with a warning.
        batch_size: images decoded at a time.
        seed: of the pairs.
    """

    def __init__(
        self,
        pairs: Count = 2000,
        judges: Mapping[str, Literal["digits", "color"] | Judge] | None = None,
        batch_size: Count = 250,
        seed: NonNegativeInt = 0,
    ) -> None:
        self.pairs = pairs
        self.batch_size = batch_size
        self.seed = seed
        self.explicit = set(judges or {})
        self.judges: dict[str, Judge] = {}
        self._warned: set[str] = set()
        for factor, judge in {**_DEFAULT, **(judges or {})}.items():
            if isinstance(judge, str) and judge not in _JUDGES:
                raise ValueError(f"judges.{factor}: no judge is called {judge!r}; there are {', '.join(_JUDGES)}")
            self.judges[factor] = _JUDGES[judge] if isinstance(judge, str) else judge

    divided = True

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        for name in ("swap", "reconstruct"):
            method(system, name, "FactorSwaps", decoder=True)

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        names = factor_names(batches, "FactorSwaps")
        unknown = sorted(self.explicit - set(names))
        if unknown:
            raise ValueError(f"FactorSwaps: judges for {', '.join(unknown)}, but the factors are {', '.join(names)}")
        if len(getattr(system, "factors", names)) != len(names):
            raise ValueError(f"FactorSwaps: the data has the factors {', '.join(names)}, the system {system.factors}")
        self.check_system(system)
        self._warn(names)
        judges = {index: self.judges[name] for index, name in enumerate(names) if name in self.judges}
        if not judges:
            return {}
        first, second, label = _drawn(batches, self.pairs, self.seed)
        number, shares = share(batches)
        starts = range(number * self.batch_size, len(first), shares * self.batch_size)
        own = torch.cat(
            [torch.arange(start, min(start + self.batch_size, len(first))) for start in starts] or [first[:0]]
        )
        images, rows = _taken(whole(batches), torch.cat((first[own], second[own])))
        outer = memo_of(batches, system)
        seen: dict[int, dict[str, list[tuple[int, Tensor]]]] = {
            index: {look: [] for look in ("image", "other", "reconstruction", "follows", "stays")} for index in judges
        }
        for place, (image, other) in zip(starts, _chunks(images, rows, self.batch_size), strict=True):
            # Whatever is asked of a chunk, each of its images is encoded once.
            memo = Memo(system, 1 << 62, None if outer is None or outer.seed is None else mix(outer.seed, self.seed, 1))
            chunk = memo.view(SwapPairs(image, other, None, None), place // self.batch_size)
            looks = {"image": image, "other": other, "reconstruction": made(system, chunk, "reconstruct")}
            for index, judge in judges.items():
                rest = [k for k in range(len(names)) if k != index]
                looks["follows"] = made(system, chunk, "swap", [index], of=("image", "other"))
                looks["stays"] = made(system, chunk, "swap", rest, of=("image", "other"))
                for key, look in looks.items():
                    seen[index][key].append((place, judge(look)))
        pairs = _Labels(None, None) if label is None else _Labels(label[first], label[second])
        figures: dict[str, float] = {}
        for index, parts in seen.items():
            values = {key: gathered(batches, part) for key, part in parts.items()}
            judged = _classes if values["image"].ndim == 1 else _quantities
            found = judged(names[index], values, pairs, self.seed)
            figures |= {f"swaps/{names[index]}/{key}": value for key, value in found.items()}
        return figures

    def _warn(self, names: tuple[str, ...]) -> None:
        """Say once which factors have no figures; nobody judges the residual."""
        for name in names[:-1]:
            if name not in self.judges and name not in self._warned:
                self._warned.add(name)
                log.warning(
                    "swaps: no judge for factor %s, so it has no figures; give judges: {%s: {target: ...}}", name, name
                )


class SwapPairs(NamedTuple):
    """Random pairs of test images."""

    image: Tensor
    """``[P, C, H, W]``."""
    other: Tensor
    """``[P, C, H, W]``."""
    label: Tensor | None
    """``[P]`` int64, where the test set has labels."""
    other_label: Tensor | None
    """``[P]`` int64; differs from ``label``."""


def draw_pairs(batches: Iterable[Any], count: int, seed: int = 0) -> SwapPairs:
    """Pair test images at random, of differing labels where they have any; the batch size does not matter.

    The set is read twice: once for its labels, from which the pairs are drawn, and once for the images they need, so
    that no more than ``2 * count`` images are held.

    Args:
        batches: all of them, of `Images` or `Pairs`; of the latter, the first images count.
        count: number of pairs ``P``.
        seed: of the draw.

    Raises:
        ValueError: fewer than two images, or all have one label.
    """
    first, second, label = _drawn(batches, count, seed)
    images, rows = _taken(batches, torch.cat((first, second)))
    ((image, other),) = _chunks(images, rows, count)
    if label is None:
        return SwapPairs(image, other, None, None)
    return SwapPairs(image, other, label[first], label[second])


def _drawn(batches: Iterable[Any], count: int, seed: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Numbers of the images of each pair, ``[P]`` and ``[P]``, and the labels of all images, where they have any."""
    own, labels = 0, []
    for start, batch in placed(batches):
        own += len(batch.image)
        if batch.label is not None:
            labels.append((start, batch.label))
    label: Tensor | None = gathered(batches, labels)
    total = int(summed(batches, own)[0])
    if total < 2:
        raise ValueError(f"swaps need at least 2 test images, found {total}")
    if label is None or len(label) < total:
        label = None
    elif (label == label[0]).all():
        raise ValueError(f"swaps need test images of differing labels; all {total} have the label {int(label[0])}")

    generator = torch.Generator().manual_seed(mix(seed, count))
    rounds = [torch.randperm(total, generator=generator) for _ in range(-(-count // total))]
    first = torch.cat(rounds)[:count]  # as few repetitions as can be
    second = torch.randint(total, (count,), generator=generator)
    while True:
        alike = second == first if label is None else label[second] == label[first]
        if not alike.any():
            return first, second, label
        second[alike] = torch.randint(total, (int(alike.sum()),), generator=generator)


def _taken(batches: Iterable[Any], numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Images of these numbers, each once, and which of them belongs to each number."""
    needed, rows = torch.unique(numbers, return_inverse=True)  # sorted, so images can be taken as they pass
    kept, start = [], 0
    for batch in batches:
        stop = start + len(batch.image)
        inside = needed[(needed >= start) & (needed < stop)] - start
        kept.append(batch.image[inside.to(batch.image.device)])
        start = stop
    images = torch.cat(kept)
    return images, rows.to(images.device)


def _chunks(images: Tensor, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Both images of pairs, so many pairs at a time; the first half of the rows are those of the first images."""
    if not len(rows):
        return
    for first, second in zip(*(half.split(size) for half in rows.chunk(2)), strict=True):
        yield images[first], images[second]


class _Labels(NamedTuple):
    """Labels of both images of pairs, where they have any."""

    label: Tensor | None
    other_label: Tensor | None


def _classes(name: str, values: dict[str, Tensor], pairs: _Labels, seed: int) -> dict[str, float]:
    """Figures of a judge that names classes; all pairs differ in their label."""
    if pairs.label is None or pairs.other_label is None:
        raise ValueError(f"FactorSwaps: the judge of {name!r} names classes, but the test images have no labels")
    return {
        "follows": _share(values["follows"] == pairs.other_label),
        "stays": _share(values["stays"] == pairs.label),
        "judge_images": _share(values["image"] == pairs.label),
        "judge_reconstructions": _share(values["reconstruction"] == pairs.label),
    }


def _quantities(name: str, values: dict[str, Tensor], pairs: _Labels, seed: int) -> dict[str, float]:
    """Figures of a judge that measures; pairs whose measures agree are left out."""
    differ = (values["image"] - values["other"]).abs().amax(1) > 1 / 256  # half a grey level, in [0, 1]
    if not differ.any():
        raise ValueError(f"FactorSwaps: {name!r} is the same in both images of all {len(differ)} pairs")
    own, other, follows, stays = (values[key][differ].double() for key in ("image", "other", "follows", "stays"))
    turn = int(torch.randint(1, max(len(own), 2), (), generator=torch.Generator().manual_seed(mix(seed, 1))))
    return {
        "follows": _share(_distance(follows, other) < _distance(follows, own)),
        "stays": _share(_distance(stays, own) < _distance(stays, other)),
        "error": _distance(follows, other).mean().item(),
        "chance": _distance(follows, other.roll(turn, 0)).mean().item(),  # the pairs are in random order already
    }


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference: ``[B, d]`` -> ``[B]``."""
    return (a - b).abs().mean(1)


def _share(right: Tensor) -> float:
    return right.double().mean().item()
