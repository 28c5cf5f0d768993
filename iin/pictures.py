"""Tensors to picture files: grids of images, written as PNG, and panels that move, as animated WebP.

::

    pictures.save(run.swap_grid(images, others, "digit"), "swap.png")

Animations are WebP and not GIF: of faces they take a quarter of the bytes, of digits less than half, a GIF has but 256
colours, and all browsers show both.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from iin.files import write_atomically
from iin.system import Loop, Picture

__all__ = ["animation", "draw", "grid", "levels", "moves", "save", "stems", "write"]

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
LETTERED = "lettered"
"""What files of pictures with letters in them say of themselves."""
SIZE = 16
"""Pixels of its letters; fewer where rows are lower."""
PANELS = ((1, 256), (4, 128), (math.inf, 80))
"""Up to so many panels of an animation, the most pixels a side that each has; small images are enlarged to fit."""
TEXT = 12
"""Pixels of the letters in an animation."""
REST = 80
"""Milliseconds that a frame is shown."""
LIGHT = 1 << 19
"""Bytes that an animation may take, as far as the last of these ways to save some allows."""
THRIFT = ((None, 1), (70, 1), (40, 1), (40, 2), (15, 4))
"""Qualities of an animation (none: without loss), and of how many frames one is taken, which then is shown as much
longer."""
LONGEST = 120
"""The most bytes of a file name that a picture's name may take: file systems take 255, and a step stands behind it."""


def draw(picture: Picture) -> Image.Image:
    """A picture as an RGB image; title and caption are in its ``info`` (``Title``, ``Description``), and whether there
    are letters in it, which want to be resized smoothly (``Comment``)."""
    drawn = grid(picture.images, picture.rows, picture.columns, picture.labels, picture.heads)
    lettered = LETTERED if any((*picture.labels, *picture.heads)) else ""
    told = (("Title", picture.title), ("Description", picture.caption), ("Comment", lettered))
    drawn.info |= {key: text for key, text in told if text}
    return drawn


def grid(
    images: Tensor,
    rows: Sequence[int] = (),
    columns: Sequence[int] = (),
    labels: Sequence[str] = (),
    heads: Sequence[str] = (),
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
        heads: what each column is, written above it; likewise.

    Returns:
        An RGB picture.

    Raises:
        ValueError: another shape, no image, or another number of labels or heads.
    """
    if images.ndim not in (4, 5) or not images.numel():
        raise ValueError(f"grid: found images of shape {list(images.shape)}; expected [N, C, H, W] or [R, N, C, H, W]")
    across = images.shape[1] if images.ndim == 5 else _columns(len(images))
    cells = levels(images.detach().reshape(-1, *images.shape[-3:]))  # [N, H, W, 3]
    down = math.ceil(len(cells) / across)
    if len(labels) not in (0, down):
        raise ValueError(f"grid: found {len(labels)} labels; expected one for each of the {down} rows, or none")
    if len(heads) not in (0, across):
        raise ValueError(f"grid: found {len(heads)} heads; expected one for each of the {across} columns, or none")
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
    drawn = Image.fromarray(canvas)
    if any(heads):
        drawn = _headed(drawn, heads, [x + width // 2 for x in left[:-1]], width)
    shift = drawn.height - len(canvas)
    return _labelled(drawn, labels, [shift + y + height // 2 for y in top[:-1]], min(SIZE, height))


def _headed(drawn: Image.Image, heads: Sequence[str], middles: Sequence[int], width: int) -> Image.Image:
    """A grid with words above it, each over the middle of its column, in letters that all find room there."""
    size = SIZE
    while size > SIZE // 2 and max(ImageFont.load_default(size).getlength(head) for head in heads) > width + GAP:
        size -= 1
    font = ImageFont.load_default(size)
    high = Image.new("RGB", (drawn.width, drawn.height + SIZE + GAP), (GREY,) * 3)
    high.paste(drawn, (0, SIZE + GAP))
    pen = ImageDraw.Draw(high)
    for head, middle in zip(heads, middles, strict=True):
        pen.text((middle, SIZE // 2 + GAP), _cut(head, font, width + GAP), fill="white", font=font, anchor="mm")
    return high


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Words that fit into so many pixels: if need be without the end of the first ones, as the last may be a number."""
    if font.getlength(text) <= width:
        return text
    begin, space, last = text.rpartition(" ")
    begin, last = (begin, space + last) if begin else (text, "")
    for length in range(len(begin) - 1, 0, -1):
        if font.getlength(shorter := f"{begin[:length]}…{last}") <= width:
            return shorter
    return last.strip()


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


def moves() -> bool:
    """Whether animations can be written and read here: Pillow is as a rule, but not always, built with WebP."""
    return bool(features.check("webp"))


def animation(loop: Loop) -> bytes:
    """A loop as the bytes of an animated WebP file: there and back again, so that it does not jump.

    Its size is bounded: what takes more than half a megabyte is written with loss, and at last with fewer frames.

    Args:
        loop: panels, laid out near-square, each with its label above it.

    Raises:
        ValueError: another shape, fewer than two frames, another number of labels, or Pillow lacks WebP.
    """
    if not moves():
        raise ValueError("animation: this build of Pillow has no WebP; install another: pip install pillow")
    images = loop.images
    if images.ndim != 5 or not images.numel() or images.shape[1] < 2:
        raise ValueError(f"animation: found {list(images.shape)}; expected [N, T, C, H, W] with two frames at least")
    if len(loop.labels) not in (0, len(images)):
        raise ValueError(f"animation: found {len(loop.labels)} labels; expected {len(images)}, or none")
    frames = _frames(loop)
    content = b""
    for quality, step in THRIFT:
        taken = frames[::step]
        if len(taken) < 2:
            break
        first, *others = [*taken, *taken[-2:0:-1]]
        # Without loss, none but the first frame stands alone. With loss all do: WebP leaves out what hardly differs
        # from the frame before, so that of a slow change nothing would be seen but blocks that stay behind.
        apart = len(frames) * 2 if quality is None else 0
        file = io.BytesIO()
        first.save(
            file,
            "WEBP",
            save_all=True,
            append_images=others,
            duration=REST * step,
            loop=0,
            lossless=quality is None,
            quality=50 if quality is None else quality,  # without loss: how long to look for a smaller file
            method=2,
            kmin=apart,
            kmax=apart + 1,
        )
        content = file.getvalue()
        if len(content) <= LIGHT:
            break
    return content


def _frames(loop: Loop) -> list[Image.Image]:
    """The frames of an animation, each with all panels, their labels, and the mark that tells how far it is."""
    count, length = loop.images.shape[:2]
    room = next(int(side) for most, side in PANELS if count <= most)
    cells = levels(loop.images.detach().flatten(0, 1))  # [N * T, H, W, 3]
    height, width = cells.shape[1:3]
    if max(height, width) <= room:
        factor = room // max(height, width)
        cells = cells.repeat(factor, axis=1).repeat(factor, axis=2)
    else:
        size = max(1, round(width * room / max(height, width))), max(1, round(height * room / max(height, width)))
        cells = np.stack([np.asarray(Image.fromarray(cell).resize(size, Image.Resampling.LANCZOS)) for cell in cells])
    height, width = cells.shape[1:3]
    cells = cells.reshape(count, length, *cells.shape[1:])
    root = math.isqrt(count - 1) + 1
    across = min((root, root + 1), key=lambda columns: -count % columns)  # the fewest empty places
    above = TEXT + 2 * GAP if any(loop.labels) else 0
    ground = Image.new(
        "RGB",
        (GAP + across * (width + GAP), math.ceil(count / across) * (above + height + GAP) + GAP + TEXT + 2 * GAP),
        (GREY,) * 3,
    )
    font, pen = ImageFont.load_default(TEXT), ImageDraw.Draw(ground)
    places = [
        (GAP + k % across * (width + GAP), GAP + k // across * (above + height + GAP) + above) for k in range(count)
    ]
    for (x, y), label in zip(places, loop.labels, strict=False):
        fitting = _cut(label, font, width + GAP)
        pen.text((x + width // 2, y - above // 2), fitting, fill="white", font=font, anchor="mm")
    middle = ground.height - TEXT // 2 - GAP - 1
    texts = [_cut(end, font, ground.width // 3) for end in loop.ends]
    left, right = (2 * GAP + math.ceil(font.getlength(text)) + 2 * GAP for text in texts)
    pen.text((2 * GAP, middle), texts[0], fill="white", font=font, anchor="lm")
    pen.text((ground.width - 2 * GAP, middle), texts[1], fill="white", font=font, anchor="rm")
    start, way = left + 4, max(1, ground.width - left - right - 8)
    pen.line((start, middle, start + way, middle), fill=(LINE,) * 3, width=1)
    frames = []
    for at in range(length):
        frame = ground.copy()
        for place, cell in zip(places, cells[:, at], strict=True):
            frame.paste(Image.fromarray(cell), place)
        x = start + round(way * at / (length - 1))
        ImageDraw.Draw(frame).ellipse((x - 4, middle - 4, x + 4, middle + 4), fill="white")
        frames.append(frame)
    return frames


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
    for key in ("Title", "Description", "Comment"):
        if text := drawn.info.get(key):
            texts.add_text(key, text)
    with write_atomically(Path(path)) as file:
        drawn.save(file, format="PNG", pnginfo=texts)


def write(folder: Path, found: Mapping[str, Picture], step: int | None = None) -> list[Path]:
    """Write pictures as ``<name>.png``, or ``<name>_step-00001234.png``; see `stems` for names that files cannot have.

    What moves is written beside it, as ``.webp``. With a step, the animations of earlier ones are then deleted: each
    takes as much room as many pictures, and their stills remain.

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
        if picture.loop is not None and moves():
            files.append(files[-1].with_suffix(".webp"))
            with write_atomically(files[-1]) as file:
                file.write(animation(picture.loop))
            if step is not None:
                _clear(folder, stem, files[-1])
    return files


def _clear(folder: Path, stem: str, newest: Path) -> None:
    """Delete animations of the same name but of other steps."""
    for path in folder.glob("*.webp"):
        if re.fullmatch(re.escape(stem) + r"_step-\d+", path.stem) and path != newest:
            path.unlink(missing_ok=True)


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
