"""The curves as one picture: a panel each, both axes by powers of ten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from bench.timing import Row
from PIL import Image, ImageDraw, ImageFont

from iin.report.charts import number
from scaling.curves import CURVES

__all__ = ["draw"]

SCALE = 2
"""The picture is drawn at twice the size at which it is read."""
WIDTH, HEIGHT, COLUMNS = 300 * SCALE, 240 * SCALE, 3
LEFT, RIGHT, TOP, BOTTOM = 52 * SCALE, 14 * SCALE, 34 * SCALE, 40 * SCALE
PAPER, INK, SOFT, GRID = "white", "#1d2127", "#626a75", "#e3e6ea"
COLOURS = ("#1f6feb", "#d1652b", "#2b8a3e", "#8250df")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw all curves that were measured into a PNG file."""
    panels = {name: [row for row in rows if row["task"] == name] for name in CURVES}
    panels = {name: found for name, found in panels.items() if found}
    lines = math.ceil(len(panels) / COLUMNS)
    picture = Image.new("RGB", (COLUMNS * WIDTH, lines * HEIGHT), PAPER)
    pen = ImageDraw.Draw(picture)
    for place, (name, found) in enumerate(panels.items()):
        _panel(pen, place % COLUMNS * WIDTH, place // COLUMNS * HEIGHT, name, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


def _panel(pen: ImageDraw.ImageDraw, left: int, top: int, name: str, rows: Sequence[Row]) -> None:
    small, large = ImageFont.load_default(11 * SCALE), ImageFont.load_default(12 * SCALE)
    what, against = CURVES[name]
    across = _Axis([row["size"] for row in rows], left + LEFT, left + WIDTH - RIGHT)
    down = _Axis([1e3 * row["seconds"] for row in rows], top + HEIGHT - BOTTOM, top + TOP)
    pen.text((left + LEFT, top + 8 * SCALE), f"{what}, ms", INK, large)
    pen.text((left + WIDTH - RIGHT, top + HEIGHT - 6 * SCALE), against, SOFT, small, anchor="rs")
    for y in down.marks():
        at = down.at(y)
        pen.line((across.start, at, across.end, at), GRID, SCALE)
        pen.text((across.start - 6 * SCALE, at), number(y), SOFT, small, anchor="rm")
    for x in sorted({row["size"] for row in rows}):
        at = across.at(x)
        pen.line((at, down.start, at, down.start + 4 * SCALE), SOFT, SCALE)
        pen.text((at, down.start + 7 * SCALE), number(x), SOFT, small, anchor="mt")
    for place, count in enumerate(sorted({row["threads"] for row in rows})):
        colour = COLOURS[place % len(COLOURS)]
        points = sorted((row["size"], 1e3 * row["seconds"]) for row in rows if row["threads"] == count)
        path = [(across.at(x), down.at(y)) for x, y in points]
        pen.line(path, colour, 2 * SCALE, joint="curve")
        for x, y in path:
            pen.ellipse((x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE), colour)
        label = f"{count} thread{'s' * (count > 1)}"
        pen.text((across.start + 8 * SCALE, top + TOP + (4 + 15 * place) * SCALE), label, colour, small)


class _Axis:
    """Values along a line of the picture, by their logarithms."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low, self.high = math.log10(min(values)), math.log10(max(values))
        margin = 0.05 * (self.high - self.low) or 0.5
        self.low, self.high = self.low - margin, self.high + margin
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def marks(self) -> list[float]:
        """Ones, twos and fives of every power of ten; ones alone, where there are many."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        inside = [f * 10.0**p for p in powers for f in (1, 2, 5) if self.low <= math.log10(f * 10.0**p) <= self.high]
        return inside if len(inside) <= 7 else [mark for mark in inside if math.log10(mark).is_integer()]
