"""The picture: the items that are shown, each with its caption."""

from __future__ import annotations

import math
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from iin import pictures
from iin.explore.content import Content

__all__ = ["cell", "picture"]

LARGEST = 256
"""Images with longer sides are shown reduced."""
PAPER, INK, SOFT = (255, 255, 255), (29, 33, 39), (98, 106, 117)
SIDE = 72
"""Smaller images are enlarged by a whole factor until they are at least that wide."""
MARGIN, GAP, LINE = 20, 12, 16


def picture(content: Content) -> Image.Image:
    """The items that are shown as one picture, each with its caption; pairs side by side, with what they share."""
    small, large = ImageFont.load_default(12), ImageFont.load_default(20)
    cells = [[_enlarged(image) for image in (item.image, item.other) if image is not None] for item in content.items]
    width = sum(cell.width for cell in cells[0]) + 3 * (len(cells[0]) - 1)
    height = cells[0][0].height
    lines = 2 if content.paired else 1
    row_height, column_width = height + 4 + lines * LINE + GAP, width + GAP
    columns = min(len(cells), max(1, round(math.sqrt(len(cells) * row_height / column_width * 1.25))))
    rows = math.ceil(len(cells) / columns)
    top = MARGIN + 54
    total = max(420, 2 * MARGIN + columns * column_width - GAP)
    canvas = Image.new("RGB", (total, top + rows * row_height - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)

    def write(at: tuple[int, int], text: str, font: Any, room: int, fill: tuple[int, int, int] = INK) -> None:
        draw.text(at, _fit(text, font, room), fill, font)

    head = content.summary.removeprefix(content.title).lstrip(": ")
    write((MARGIN, MARGIN), content.title, large, total - 2 * MARGIN)
    write((MARGIN, MARGIN + 28), head, small, total - 2 * MARGIN, SOFT)
    for place, (item, images) in enumerate(zip(content.items, cells, strict=True)):
        x, y = MARGIN + place % columns * column_width, top + place // columns * row_height
        left = x
        for image in images:
            canvas.paste(image, (left, y))
            left += image.width + 3
        below = y + height + 4
        if content.paired:
            write((x, below), f"shares {item.sharing}", small, width)
            write((x, below + LINE), item.labels or f"#{item.place}", small, width, SOFT)
        else:
            write((x, below), item.label or f"#{item.place}", small, width)
    return canvas


def _enlarged(image: Tensor) -> Image.Image:
    picture = cell(image)
    factor = math.ceil(SIDE / max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _fit(text: str, font: Any, room: int) -> str:
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
