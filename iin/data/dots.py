"""Dots that move independently of one another: the simplest images on which local disentanglement can be seen.

References:
    | Local Disentanglement in Variational Auto-Encoders Using Jacobian L1 Regularization (Rhodes and Lee, 2021)
    | https://arxiv.org/abs/2106.02923 (section 5, three-dots)
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from iin.arguments import Count, Fraction, NonNegative, NonNegativeInt
from iin.data.factors import Factored, Kept
from iin.data.memory import check, digest
from iin.seeds import mix

__all__ = ["ThreeDots"]

_FINE = 10
"""Points on a side of each pixel; a pixel is the mean over them."""
_UNITS = 1024
"""A centre is a whole number of these parts of a point, rounded down."""
_SIDES = 72
"""The circle is drawn as a regular polygon."""
_CORNER = 65536
"""A corner is rounded to these parts of a point."""
_PIECE = 2**19
"""Pixels that are drawn at once: their points fit into a processor's cache."""
_MOST = 10**9
"""Bytes that dots at all places may take at most."""


class ThreeDots(Factored):
    """Black dots on white: ``image [B, 1, size, size]``, ``label [B, 2 * dots]``, the place of each dot.

    The factors are ``x0, y0, x1, y1, ...``, each in 0 ... granularity - 1, from left to right and from top to bottom;
    the first puts the centre onto one edge of the image, the last onto the other. Dots may overlap, and which is which
    cannot be seen. Images have the levels 0, 0.01, ... 1 before they are scaled to [-1, 1]; they are those of the
    published set, but for single pixels that differ by 0.01.

    Factors of the items are drawn column by column from ``numpy.random.RandomState(seed)``, all at once. So the 500,000
    or the 20,000 first training images (``count``) with seed 0 are those of the published training sets; the factors of
    an item change with ``count``. The test set draws from another seed, and may hold an image of the training set.

    Args:
        split: ``train`` or ``test``: different draws.
        count: how many images.
        size: height and width in pixels.
        granularity: how many places there are in each direction; at most 256.
        dots: how many; published with 3.
        radius: of a dot, as a share of the size.
        seed: of the factors.
        cache: gigabytes that drawn images may take in memory, a byte a pixel; the first so many of the set are kept
            once they have been drawn. 0 draws them anew at each visit, which takes less than 0.1 ms each.

    Raises:
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        count: Count = 500_000,
        size: Count = 64,
        granularity: Count = 64,
        dots: Count = 3,
        radius: Fraction = 0.08,
        seed: NonNegativeInt = 0,
        cache: NonNegative = 0.5,
    ) -> None:
        check(split, size)
        if not 2 <= granularity <= 256:
            raise ValueError(f"granularity: expected 2 to 256 places, found {granularity}")
        if count < 1 or dots < 1 or not 0 < radius < 0.5 or cache < 0:
            raise ValueError(
                "ThreeDots: expected count and dots of at least 1, radius between 0 and 0.5, and cache of at least 0; "
                f"found {count}, {dots}, {radius:g} and {cache:g}"
            )
        taken = 16 * (granularity * _side(size, radius)) ** 2
        if taken > _MOST:
            raise ValueError(
                f"ThreeDots: dots at {granularity}x{granularity} places of {size}x{size} pixels would take "
                f"{taken / 1e9:.1f} GB; expected at most {_MOST / 1e9:g}: lower granularity, size or radius"
            )
        self.factor_sizes = (granularity,) * (2 * dots)
        self.factor_names = tuple(f"{axis}{dot}" for dot in range(dots) for axis in "xy")
        self.size, self.dots, self.radius, self.granularity = size, dots, radius, granularity
        stream = seed if split == "train" else mix(seed, 1)
        drawn = self.sample_factors(count, np.random.RandomState(stream % 2**32))
        self._factors = drawn.to(torch.uint8)  # [N, F]; 3 MB for the published set
        self.source = f"drawn: {dots} dots of radius {radius:g} on {size}x{size} pixels, seed {seed}"
        self.fingerprint = digest(f"ThreeDots {size} {radius} {granularity}", self._factors)
        self._kept = Kept(count, (1, size, size), cache)

    def __len__(self) -> int:
        return len(self._factors)

    def factors_at(self, rows: Tensor) -> Tensor:
        """Factors of the items in some rows: ``[B]`` int64 -> ``[B, 2 * dots]`` int64."""
        return self._factors[rows].long()

    def pixels(self, rows: Tensor, draws: object = None) -> Tensor:
        """Images of the items in some rows: ``[B]`` int64 -> ``[B, 1, size, size]`` float32 in [-1, 1]."""
        if self._stored is not None:
            return self._stored[rows]
        return _scaled(self._kept.take(rows, lambda new: self._levels(self.factors_at(new))))

    def draw(self, factors: Tensor) -> Tensor:
        """Images ``[B, 1, size, size]`` of factors ``[B, 2 * dots]`` that are in range."""
        return _scaled(self._levels(factors))

    def _levels(self, factors: Tensor) -> Tensor:
        """Images in percent of white: ``[B, F]`` int64 -> ``[B, 1, size, size]`` uint8."""
        stamps = _stamps(self.size, self.granularity, self.radius)
        out = np.empty((len(factors), self.size, self.size), np.uint8)
        places = factors.numpy().reshape(len(factors), self.dots, 2)
        piece = max(1, _PIECE // (self.size + 2 * stamps.side) ** 2)
        for start in range(0, len(out), piece):
            out[start : start + piece] = _laid(stamps, places[start : start + piece], self.size)
        return torch.from_numpy(out)[:, None]


def _scaled(level: Tensor) -> Tensor:
    """Percent of white as float32 in [-1, 1]."""
    return level.float().div_(50).sub_(1)


class _Stamps(NamedTuple):
    """Dots at all places, as sets of points."""

    corner: np.ndarray
    """``[g]`` int64: first pixel, horizontally and vertically, of a stamp with its centre at one of ``g`` places."""
    upper: np.ndarray
    """``[g * g, side * side]`` uint64, by y and then x: which points of the upper half of each pixel are black, a bit
    each."""
    lower: np.ndarray
    """The same of the lower half."""
    side: int
    """Pixels on a side of a stamp."""


def _laid(stamps: _Stamps, places: np.ndarray, size: int) -> np.ndarray:
    """Lay dots over one another, and count what is left white.

    Args:
        stamps: of all places.
        places: ``[B, dots, 2]`` int64: x and y.
        size: height and width in pixels.

    Returns:
        ``[B, size, size]`` uint8, in percent.
    """
    count, side = len(places), stamps.side
    wide = size + 2 * side  # stamps reach over the edges
    upper, lower = np.zeros(count * wide * wide, np.uint64), np.zeros(count * wide * wide, np.uint64)
    within = (np.arange(side)[:, None] * wide + np.arange(side)).reshape(-1)
    corner = stamps.corner[places] + side  # [B, dots, 2]
    first = np.arange(count)[:, None] * wide * wide + corner[..., 1] * wide + corner[..., 0]
    number = places[..., 1] * len(stamps.corner) + places[..., 0]
    touched = [first[:, dot, None] + within for dot in range(places.shape[1])]  # [B, side * side] each
    for dot, at in enumerate(touched):
        upper[at] |= stamps.upper[number[:, dot]]
        lower[at] |= stamps.lower[number[:, dot]]
    out = np.full(count * wide * wide, _FINE * _FINE, np.uint8)
    for at in touched:
        out[at] = _FINE * _FINE - _bits(upper[at], lower[at])
    return out.reshape(count, wide, wide)[:, side:-side, side:-side]


def _bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many bits are set in two uint64 together, at most 128: uint8 of the same shape.

    Neighbouring bits are added up, then neighbouring pairs, then fours; the product adds up the bytes.
    """
    twos, fours, eights = (np.uint64(word) for word in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    total = np.uint64(0)
    for word in (one, other):
        word = word - (word >> np.uint64(1) & twos)
        total = total + (word & fours) + (word >> np.uint64(2) & fours)
    total = (total & eights) + (total >> np.uint64(4) & eights)
    return (total * np.uint64(0x0101010101010101) >> np.uint64(56)).astype(np.uint8)


@lru_cache(maxsize=4)  # 10 MB for the published size
def _stamps(size: int, granularity: int, radius: float) -> _Stamps:
    """Dots at all places of an image."""
    centre = np.floor(size * (np.arange(granularity) / (granularity - 1)) * _FINE * _UNITS) / _UNITS
    reach = _reach(size, radius)
    corner = np.floor((centre - reach - 1) / _FINE).astype(np.int64)
    side = _side(size, radius)
    local = centre - corner * _FINE
    halves: list[list[np.ndarray]] = [[], []]
    for y in local:  # a row of places at once: all of them would take gigabytes
        low, high = _rows(local, np.full_like(local, y), reach, side * _FINE)  # [g, side * 10]
        left = np.arange(side) * _FINE
        low = np.clip(low[..., None] - left, 0, _FINE)  # [g, side * 10, side]
        high = np.clip(high[..., None] - left + 1, 0, _FINE)
        bits = np.where(high > low, (1 << high) - (1 << low), 0).astype(np.uint64)
        bits = bits.reshape(granularity, side, 2, _FINE // 2, side)
        shift = (np.arange(_FINE // 2) * _FINE).astype(np.uint64)[:, None]
        packed = np.bitwise_or.reduce(bits << shift, axis=3)  # [g, side, 2, side]
        for half in range(2):
            halves[half].append(packed[:, :, half].reshape(granularity, -1))
    return _Stamps(corner, np.concatenate(halves[0]), np.concatenate(halves[1]), side)


def _reach(size: int, radius: float) -> float:
    """Radius of a dot in points."""
    return int(size * radius * _FINE * _UNITS) / _UNITS


def _side(size: int, radius: float) -> int:
    """Pixels on a side of a stamp."""
    return math.ceil((2 * _reach(size, radius) + 3) / _FINE) + 1


def _rows(x: np.ndarray, y: np.ndarray, reach: float, height: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last point of a dot in each row of points.

    The dot is what lies on or between the sides of the polygon. A side is walked twice: along the direction in which it
    is longer, from its true corners, as a line is drawn; and row by row from its upper corner, as an area is filled.

    Args:
        x: ``[n]`` of the centre, in points.
        y: ``[n]`` of the centre, in points.
        reach: radius in points.
        height: how many rows.

    Returns:
        ``[n, height]`` int64 each; in rows without the dot, the first is beyond the last.
    """
    angle = 2 * np.pi / _SIDES * np.arange(_SIDES)
    ends = [np.rint((c[:, None] + reach * f(angle)) * _CORNER) / _CORNER for c, f in ((x, np.cos), (y, np.sin))]
    here = np.stack(ends)  # x and y of the corners [2, n, sides]
    there = np.roll(here, -1, 2)
    steps = np.arange(math.ceil(2 * np.pi * reach / _SIDES) + 2)

    steep = np.abs(there[0] - here[0]) <= np.abs(there[1] - here[1])
    along, across = (np.where(steep, [e[1], e[0]], [e[0], e[1]]) for e in (here, there))  # both [2, n, sides]
    begin, end = (np.where(along[0] <= across[0], *e) for e in ((along, across), (across, along)))
    length = end[0] - begin[0]
    slope = (end[1] - begin[1]) / np.where(length > 0, length, 1)
    major = np.floor(begin[0][..., None] + steps + 0.5)
    minor = np.floor(begin[1][..., None] + slope[..., None] * steps + 0.5)
    steep = steep[..., None]
    drawn = [(np.where(steep, minor, major), np.where(steep, major, minor), steps <= np.floor(length)[..., None])]

    top, bottom = (np.where(here[1] <= there[1], *e) for e in ((here, there), (there, here)))
    row = np.floor(top[1] + 0.5)
    rows = np.floor(bottom[1] + 0.5) - row
    slope = (bottom[0] - top[0]) / np.where(rows > 0, rows, 1)
    column = np.floor(top[0][..., None] + slope[..., None] * steps + 0.5)
    drawn.append((column, row[..., None] + steps, steps < rows[..., None]))
    drawn.append((np.floor(here[0] + 0.5), np.floor(here[1] + 0.5), np.ones(here[0].shape, bool)))

    low, high = np.full(len(x) * height, 1 << 40), np.full(len(x) * height, -1)
    for columns, lines, valid in drawn:
        image = np.broadcast_to(np.arange(len(x)).reshape(-1, *[1] * (valid.ndim - 1)), valid.shape)[valid]
        at = image * height + lines[valid].astype(np.int64)
        np.minimum.at(low, at, columns[valid].astype(np.int64))
        np.maximum.at(high, at, columns[valid].astype(np.int64))
    return low.reshape(len(x), height), high.reshape(len(x), height)
