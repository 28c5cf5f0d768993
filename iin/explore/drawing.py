"""The picture: the items that are shown, each with its caption."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from iin import pictures
from iin.explore.content import Content
from iin.report import charts

__all__ = ["cell", "picture"]

LARGEST = 256
"""Images with longer sides are shown reduced."""
PAPER, INK, SOFT, BAD = (255, 255, 255), (29, 33, 39), (98, 106, 117), (179, 38, 30)
LISTED = 8
"""How many attributes have their values counted in the picture."""
SIDE = 72
"""Smaller images are enlarged by a whole factor until they are at least that wide."""
MARGIN, GAP, LINE = 20, 12, 16


def picture(content: Content) -> Image.Image:
    """What was found as one picture: figures above, then the items, each with its caption; pairs side by side."""
    small, large = ImageFont.load_default(12), ImageFont.load_default(20)
    cells = [[_enlarged(image) for image in (item.image, item.other) if image is not None] for item in content.items]
    width = sum(cell.width for cell in cells[0]) + 3 * (len(cells[0]) - 1)
    height = cells[0][0].height
    lines = 2 if content.paired and any(item.labels for item in content.items) else 1
    row_height, column_width = height + 4 + lines * LINE + GAP, width + GAP
    columns = min(len(cells), max(1, round(math.sqrt(len(cells) * row_height / column_width * 1.25))))
    rows = math.ceil(len(cells) / columns)
    total = max(640, 2 * MARGIN + columns * column_width - GAP)
    head = [(line, color) for text, color in _head(content) for line in _wrapped(text, small, total - 2 * MARGIN)]
    top = MARGIN + 28 + len(head) * LINE + GAP
    canvas = Image.new("RGB", (total, top + rows * row_height - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)

    def write(at: tuple[float, int], text: str, font: Any, room: float, fill: tuple[int, int, int] = INK) -> None:
        draw.text(at, _fit(text, font, room), fill, font)

    write((MARGIN, MARGIN), content.title, large, total - 2 * MARGIN)
    for place, (line, color) in enumerate(head):
        write((MARGIN, MARGIN + 28 + place * LINE), line, small, total - 2 * MARGIN, color)
    for place, (item, images) in enumerate(zip(content.items, cells, strict=True)):
        x, y = MARGIN + place % columns * column_width, top + place // columns * row_height
        left = x
        for image in images:
            canvas.paste(image, (left, y))
            left += image.width + 3
        below = y + height + 4
        texts = [f"shares {item.sharing}"] if content.paired else []
        texts += [item.labels] if len(texts) < lines else []
        index = f"#{item.place}"
        end = width - small.getlength(index)
        for row, text in enumerate(texts):
            room = end - 6 if row == lines - 1 else width
            write((x, below + row * LINE), text, small, room, SOFT if row else INK)
        write((x + end, below + (lines - 1) * LINE), index, small, width, SOFT)
    return canvas


def _head(content: Content) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """What is written above the items: figures, and what looks odd, each with its colour."""
    yield content.summary.removeprefix(content.title).lstrip(": "), SOFT
    if content.factors:
        shared = ", ".join(f"{factor.name} ({factor.pairs:,})" for factor in content.factors)
        yield f"shared, of {content.amount(content.seen)}: {shared}", SOFT
    counts = list(content.counts.items())
    for name, numbers in counts[:LISTED]:
        yield f"{name}: " + ", ".join(f"{label} ({number:,})" for label, number in numbers.items()), SOFT
    if len(counts) > LISTED:
        yield f"and {len(counts) - LISTED} more, which the page shows", SOFT
    values = content.values
    low, high, mean, deviation = (
        charts.number(v) if math.isfinite(v) else "\u2013"
        for v in (values.low, values.high, values.mean, values.deviation)
    )
    yield f"values: {low} to {high}, mean {mean}, deviation {deviation}", SOFT
    yield from ((f"odd: {remark}", BAD) for remark in content.remarks)


def _wrapped(text: str, font: Any, room: float) -> list[str]:
    """A text in lines, broken between words; the third is cut."""
    lines = [""]
    words = text.split(" ")
    for place, word in enumerate(words):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(longer) <= room or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < 3:
            lines.append(word)
        else:
            lines[-1] += " " + " ".join(words[place:])
            break
    return lines


def _enlarged(image: Tensor) -> Image.Image:
    picture = cell(image)
    factor = math.ceil(SIDE / max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _fit(text: str, font: Any, room: float) -> str:
    """As much of a text as there is room for."""
    if font.getlength(text) <= room:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if font.getlength(text[:middle] + "…") <= room:
            fits = middle
        else:
            too_long = middle
    return text[:fits].rstrip() + "…"


def cell(image: Tensor) -> Image.Image:
    """An image ``[C, H, W]`` as a picture, reduced when it is large."""
    if image.shape[0] not in (1, 3):
        image = image.float().mean(0, keepdim=True)
    picture = Image.fromarray(pictures.levels(image.detach()[None])[0])
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return picture
