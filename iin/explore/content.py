"""What was found in a data set: counts, ranges, and the items that are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

__all__ = ["Content", "Factor", "Item", "Spread"]


class Spread(NamedTuple):
    """The finite values of some images."""

    size: int = 0
    mean: float = math.nan
    squares: float = 0.0
    """Sum of squared distances to the mean."""
    low: float = math.inf
    high: float = -math.inf

    @property
    def deviation(self) -> float:
        """Standard deviation; NaN without values."""
        return math.sqrt(self.squares / self.size) if self.size else math.nan

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """Measure values of any shape."""
        values = values[values.isfinite()].double()
        if not len(values):
            return cls()
        mean = values.mean()
        low, high = values.aminmax()
        return cls(len(values), float(mean), float((values - mean).square_().sum()), float(low), float(high))

    def join(self, other: Spread) -> Spread:
        """Both together, without the loss of digits that sums of squares bring."""
        if not self.size or not other.size:
            return self if self.size else other
        size = self.size + other.size
        step = other.mean - self.mean
        mean = self.mean + step * other.size / size
        squares = self.squares + other.squares + step**2 * self.size * other.size / size
        return Spread(size, mean, squares, min(self.low, other.low), max(self.high, other.high))


class Factor(NamedTuple):
    """A factor of a pair data set."""

    name: str
    pairs: int
    """How many of those looked at share it."""
    same_label: float | None
    """Share of these in which both images have the same label; None where labels are unknown or say several things, or
    no pair shares it."""
    different: int = 0
    """How many of these differ in it all the same, by what their labels mean."""


class Item(NamedTuple):
    """An image that is shown, or a pair."""

    place: int
    """Its index in the data set."""
    image: Tensor
    """``[C, H, W]``."""
    label: str = ""
    other: Tensor | None = None
    other_label: str = ""
    shared: tuple[str, ...] = ()
    """Names of the factors that the two share, with the value where it is known: ``shape: disc``."""

    @property
    def labels(self) -> str:
        """The label, or both labels of a pair; empty where none is known."""
        if self.other is None or not (self.label or self.other_label):
            return self.label
        return f"{self.label} \u00b7 {self.other_label}"

    @property
    def sharing(self) -> str:
        """What a pair shares, in words."""
        return " and ".join(self.shared) or "nothing"


@dataclass
class Content:
    """What a data set holds, as far as it was looked at."""

    kind: str
    """Name of its class."""
    split: str
    source: str
    count: int
    """Items that it has."""
    seen: int
    """Items that the figures are taken from."""
    shape: tuple[int, ...]
    """``(C, H, W)``."""
    dtype: str
    paired: bool
    items: list[Item] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    """label -> number of items, in the order of the labels; empty where labels say several things."""
    meanings: dict[str, dict[str, int]] = field(default_factory=dict)
    """Where they do: what they tell of -> value -> number of items."""
    labelled: int = 0
    """Items whose labels were counted."""
    channels: list[Spread] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)
    """Indices of items with values that are not finite."""
    constant: list[int] = field(default_factory=list)
    """Indices of items with an image that is of one colour all over."""
    factors: list[Factor] = field(default_factory=list)
    apart: int = 0
    """Pairs that share no factor."""
    odd: list[tuple[str, str]] = field(default_factory=list)
    """Files that the data set left out, and why."""
    remarks: list[str] = field(default_factory=list)
    """What looks wrong, in words."""
    config: str = ""
    """How a configuration describes the data, as YAML."""

    @property
    def values(self) -> Spread:
        """All channels together."""
        total = Spread()
        for channel in self.channels:
            total = total.join(channel)
        return total

    @property
    def noun(self) -> str:
        return "pairs of images" if self.paired else "images"

    def amount(self, number: int) -> str:
        """So many of them, in words."""
        if number == 1:
            return "1 pair of images" if self.paired else "1 image"
        return f"{number:,} {self.noun}"

    @property
    def title(self) -> str:
        return f"{self.kind}, {self.split}" if self.split else self.kind

    @property
    def summary(self) -> str:
        """One line."""
        where = f", {self.source}" if self.source else ""
        return f"{self.title}: {self.amount(self.count)}, {'x'.join(map(str, self.shape))}, {self.dtype}{where}"

    @property
    def left_out(self) -> str:
        """How many files were left out, in words; those of a table may be rows of it."""
        if len(self.odd) == 1:
            return "1 file or row" if self.meanings else "1 file"
        return f"{len(self.odd):,} files or rows" if self.meanings else f"{len(self.odd):,} files"

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How often each label occurs, or each value of what labels tell of."""
        return self.meanings or ({"labels": self.labels} if self.labels else {})
