"""Tensors to picture files: grids of images, written as PNG.

::

    pictures.save(run.swap_grid(images, others, "digit"), "swap.png")
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from iin.files import write_atomically
from iin.system import Picture

__all__ = ["draw", "grid", "levels", "save", "stems", "write"]

GAP = 2
"""Pixels between cells."""
BREAK = 10
"""Pixels between cells that are set off from each other; a light line runs in the middle."""
GREY = 128
"""Level of the background; an image of zeros is as grey, so that it reads as an empty cell."""
LINE = 232
"""Level of the lines."""
MAGENTA = (255, 0, 255)
"""Colour of a cell whose image holds a value that is not finite."""
SMALL = 64
"""Images up to this many pixels a side are enlarged."""
WIDTH = 600
"""A grid of small images is enlarged to about this many pixels, unless its cells would be too large."""
LARGE = 160
"""The most pixels a side that an image is enlarged to."""
WIDEST = 1280
"""A grid of large images is reduced to this many pixels."""
LETTERS = 24
"""The most letters of a label beside a row."""
SIZE = 16
"""Pixels of its letters; fewer where rows are lower."""
LONGEST = 120
"""The most bytes of a file name that a picture's name may take: file systems take 255, and a step stands behind it."""


def draw(picture: Picture) -> Image.Image:
    """A picture as an RGB image; title and caption are in its ``info`` (``Title``, ``Description``)."""
    drawn = grid(picture.images, picture.rows, picture.columns, picture.labels)
    drawn.info |= {key: text for key, text in (("Title", picture.title), ("Description", picture.caption)) if text}
    return drawn


def grid(
    images: Tensor, rows: Sequence[int] = (), columns: Sequence[int] = (), labels: Sequence[str] = ()
) -> Image.Image:
    """Lay images out in one picture.

    Values are clipped to [-1, 1]. Small images are enlarged by a whole factor, each pixel a square; large ones are
    reduced where the grid would be huge. An image that holds NaN or infinity becomes a magenta cell: something went
    wrong there, and it should be seen.

    Args:
        images: ``[N, C, H, W]`` in [-1, 1], laid out near-square, or ``[R, N, C, H, W]``, R rows as given.
        rows: indices of rows that are set off from the one before.
        columns: likewise, of columns.
        labels: what each row is, written at its left; of none, or one for each row.

    Returns:
        An RGB picture.

    Raises:
        ValueError: another shape, no image, or another number of labels.
    """
    if images.ndim not in (4, 5) or not images.numel():
        raise ValueError(f"grid: found images of shape {list(images.shape)}; expected [N, C, H, W] or [R, N, C, H, W]")
    across = images.shape[1] if images.ndim == 5 else _columns(len(images))
    cells = levels(images.detach().reshape(-1, *images.shape[-3:]))  # [N, H, W, 3]
    down = math.ceil(len(cells) / across)
    if len(labels) not in (0, down):
        raise ValueError(f"grid: found {len(labels)} labels; expected one for each of the {down} rows, or none")
    height, width = cells.shape[1:3]
    bare = _places(across, 0, columns)[-1]  # pixels of the gaps
    if max(height, width) <= SMALL:
        factor = min(round((WIDTH - bare) / (across * width)), LARGE // max(height, width))
        cells = cells.repeat(max(1, factor), axis=1).repeat(max(1, factor), axis=2)
    elif across * width + bare > WIDEST:
        scale = max(WIDEST - bare, across * SMALL) / (across * width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        reduced = (Image.fromarray(cell).resize(size, Image.Resampling.LANCZOS) for cell in cells)
        cells = np.stack([np.asarray(cell) for cell in reduced])
    height, width = cells.shape[1:3]
    top, left = _places(down, height, rows), _places(across, width, columns)
    canvas = np.full((top[-1], left[-1], 3), GREY, np.uint8)
    middle = (BREAK + GAP) // 2 + 1  # the line is two pixels wide
    for index in _inside(rows, down):
        canvas[top[index] - middle : top[index] - middle + 2, GAP:-GAP] = LINE
    for index in _inside(columns, across):
        canvas[GAP:-GAP, left[index] - middle : left[index] - middle + 2] = LINE
    for index, cell in enumerate(cells):
        y, x = top[index // across], left[index % across]
        canvas[y : y + height, x : x + width] = cell
    return _labelled(Image.fromarray(canvas), labels, [y + height // 2 for y in top[:-1]], min(SIZE, height))


def _labelled(drawn: Image.Image, labels: Sequence[str], middles: Sequence[int], size: int) -> Image.Image:
    """A grid with words at its left, each beside the middle of its row."""
    if not any(labels):
        return drawn
    short = [label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…" for label in labels]
    font = ImageFont.load_default(size)
    margin = math.ceil(max(font.getlength(label) for label in short)) + SIZE
    wide = Image.new("RGB", (margin + drawn.width, drawn.height), (GREY,) * 3)
    wide.paste(drawn, (margin, 0))
    pen = ImageDraw.Draw(wide)
    for label, middle in zip(short, middles, strict=True):
        pen.text((margin - SIZE // 2, middle), label, fill="white", font=font, anchor="rm")  # ends at the grid
    return wide


def _inside(breaks: Iterable[int], count: int) -> list[int]:
    """Those that have cells on both sides."""
    return [index for index in breaks if 0 < index < count]


def _places(count: int, size: int, breaks: Iterable[int]) -> list[int]:
    """Pixels at which so many cells begin, and at last the length of it all."""
    wide = _inside(breaks, count)
    return [GAP + k * (size + GAP) + BREAK * sum(index <= k for index in wide) for k in range(count + 1)]


def levels(images: Tensor) -> np.ndarray:
    """Images as the bytes of pictures; one that holds NaN or infinity is magenta all over.

    Args:
        images: ``[N, C, H, W]``, clipped to [-1, 1]. Three channels are red, green and blue; of any other number, the
            mean is shown.

    Returns:
        ``[N, H, W, 3]`` uint8.
    """
    values = images.float().cpu().numpy()
    if values.shape[1] != 3:
        values = values.mean(axis=1, keepdims=True)
    broken = ~np.isfinite(values).all(axis=(1, 2, 3))
    values = np.where(broken[:, None, None, None], 0, values)
    # As images are measured (see `iin.models.features`): dequantised ones become again what they were in their files.
    cells = np.floor((values.clip(-1, 1) + 1) * 128).clip(max=255).astype(np.uint8).transpose(0, 2, 3, 1)
    cells = np.broadcast_to(cells, (*cells.shape[:3], 3)).copy()  # one channel thrice
    cells[broken] = MAGENTA
    return cells


def save(picture: Image.Image | Picture | Tensor, path: str | Path) -> None:
    """Write a PNG file: the old one stays until the new one is complete.

    Args:
        picture: what to write; a `Picture`, or images as `grid` takes them, are drawn first. Title and caption are
            written into the file, as its texts ``Title`` and ``Description``.
        path: where; the folder must exist.

    Raises:
        OSError: it cannot be written; a file that was there is untouched.
    """
    if isinstance(picture, Tensor):
        picture = Picture(picture)
    drawn = draw(picture) if isinstance(picture, Picture) else picture
    texts = PngInfo()
    for key in ("Title", "Description"):
        if text := drawn.info.get(key):
            texts.add_text(key, text)
    with write_atomically(Path(path)) as file:
        drawn.save(file, format="PNG", pnginfo=texts)


def write(folder: Path, found: Mapping[str, Picture], step: int | None = None) -> list[Path]:
    """Write pictures as ``<name>.png``, or ``<name>_step-00001234.png``; see `stems` for names that files cannot have.

    Args:
        folder: where; made when missing.
        found: pictures by name.
        step: stands behind the names.

    Returns:
        The files.

    Raises:
        OSError: one cannot be written.
        ValueError: one has images that cannot be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    behind = "" if step is None else f"_step-{step:08d}"
    files = []
    for name, stem in stems(found).items():
        files.append(folder / f"{stem}{behind}.png")
        picture = found[name]
        save(picture if picture.title else picture._replace(title=name), files[-1])
    return files


def stems(names: Iterable[str]) -> dict[str, str]:
    """What to call pictures of these names in files and logs.

    Factors are called as somebody's table calls them. Slashes, spaces and whatever else a file system or a log may not
    take become ``-``, long names are cut, and names that are then alike get a number.

    Returns:
        name -> stem, in the order of the names.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"^\.+|[^\w.+-]+", "-", name) or "-"
        plain = plain.encode()[:LONGEST].decode(errors="ignore")  # a letter may have been cut in two
        stem, number = plain, 1
        while stem.casefold() in taken:  # some file systems do not tell upper from lower case
            number += 1
            stem = f"{plain}-{number}"
        taken.add(stem.casefold())
        found[name] = stem
    return found


def _columns(count: int) -> int:
    """Columns of a near-square layout, without a ragged last row where the count allows it."""
    root = math.isqrt(count - 1) + 1  # the root, rounded up
    return next((columns for columns in range(root, 2 * root) if count % columns == 0), root)
