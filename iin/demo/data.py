"""What the runs were tested on: images or pairs, what they share, and how their values lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from iin import explore
from iin.demo.choosing import named
from iin.demo.contract import DemoError, Number, Option, Progress, Shown
from iin.demo.runs import Exhibit
from iin.system import Picture

__all__ = ["Data", "demos"]

NEEDS = "any run"
BUDGET = 1 << 23
"""Numbers that are looked at for the figures; a page is to answer soon."""
ACROSS = 12
"""Images in a row."""


def demos(runs: Sequence[Exhibit]) -> list[Data]:
    """One for each test set; runs may share it."""
    sets: dict[int, list[Exhibit]] = {}
    for run in runs:
        sets.setdefault(id(run.data), []).append(run)
    return [Data(those) for those in sets.values()]


class Data:
    """Shows a test set.

    Args:
        runs: those that share it.
    """

    def __init__(self, runs: Sequence[Exhibit]) -> None:
        self.runs = list(runs)
        self.name = "data"
        self.title = f"Data: {type(runs[0].data).__name__}"
        self.of = named(runs)
        self.about = f"Images that {self.of} never learnt from, drawn at random, with figures about them."

    def options(self) -> list[Option]:
        return [
            Number("images", "Images", low=ACROSS, high=8 * ACROSS, default=4 * ACROSS, help="or pairs of them"),
            Number("seed", "Seed", low=0, high=2**31 - 1, default=0, typed=True, help="of the images drawn"),
        ]

    def show(self, values: Mapping[str, Any], progress: Progress) -> Shown:
        try:
            content = explore.describe(self.runs[0].data, values["images"], values["seed"], split="test", budget=BUDGET)
        except (ValueError, OSError) as error:
            raise DemoError(f"data: {' '.join(str(error).split())}") from error
        images = torch.stack([item.image for item in content.items])
        if content.paired:
            others = torch.stack([item.other for item in content.items if item.other is not None])
            rows = _rows(images, others)
            what = "Pairs of images, one above the other."
        else:
            rows, what = _rows(images), "Test images."
        lines = [f"{content.summary}."]
        if content.factors:
            shared = ", ".join(f"{factor.name.replace('_', ' ')} ({factor.pairs:,})" for factor in content.factors)
            lines.append(f"Shared, of {content.amount(content.seen)}: {shared}.")
        lines += [
            f"{name.replace('_', ' ').capitalize()}: "
            + ", ".join(f"{key} ({count:,})" for key, count in counts.items())
            + "."
            for name, counts in content.counts.items()
        ]
        lines += [f"Odd: {remark}" for remark in content.remarks]
        spread = content.values
        figures = {"values/mean": spread.mean, "values/deviation": spread.deviation}
        figures |= {"values/lowest": spread.low, "values/highest": spread.high}
        return Shown(
            pictures={"images": Picture(rows, "Images", what, rows=tuple(range(2, len(rows), 2)) * content.paired)},
            lines=lines,
            figures=figures,
        )


def _rows(*images: torch.Tensor) -> torch.Tensor:
    """Lists of images ``[N, C, H, W]`` in rows, alternately one of each list: ``[R, ACROSS, C, H, W]``.

    Places that are left over are grey.
    """
    count = -(-len(images[0]) // ACROSS)
    laid = []
    for some in images:
        blank = some.new_zeros(count * ACROSS - len(some), *some.shape[1:])
        laid.append(torch.cat([some, blank]).unflatten(0, (count, ACROSS)))
    return torch.stack(laid, dim=1).flatten(0, 1)
