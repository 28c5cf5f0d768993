"""Tensors to picture files: grids of images, written as PNG."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

__all__ = ["grid", "levels", "save"]

GAP = 2
"""Pixels between cells."""
GREY = 128
"""Level of the background; an image of zeros is as grey, so that it reads as an empty cell."""
MAGENTA = (255, 0, 255)
"""Colour of a cell whose image holds a value that is not finite."""
SMALL = 64
"""Images up to this many pixels a side are enlarged."""
WIDTH = 600
"""A grid of small images is at least this many pixels wide."""


def grid(images: Tensor) -> Image.Image:
    """Lay images out in one picture.

    Values are clipped to [-1, 1]. Small images are enlarged by a whole factor, each pixel a square. An image that
    holds NaN or infinity becomes a magenta cell: something went wrong there, and it should be seen.

    Args:
        images: ``[N, C, H, W]`` in [-1, 1], laid out near-square, or ``[R, N, C, H, W]``, R rows as given;
            C is 1 or 3.

    Returns:
        An RGB picture.

    Raises:
        ValueError: another shape, or no image.
    """
    if images.ndim not in (4, 5) or images.shape[-3] not in (1, 3) or not images.numel():
        raise ValueError(
            f"grid: found images of shape {list(images.shape)}; expected [N, C, H, W] or [R, N, C, H, W], C of 1 or 3"
        )
    columns = images.shape[1] if images.ndim == 5 else _columns(len(images))
    cells = levels(images.detach().reshape(-1, *images.shape[-3:]))  # [N, H, W, 3]
    height, width = cells.shape[1:3]
    if max(height, width) <= SMALL:
        factor = max(1, math.ceil((WIDTH - GAP * (columns + 1)) / (columns * width)))
        cells = cells.repeat(factor, axis=1).repeat(factor, axis=2)
        height, width = cells.shape[1:3]
    rows = math.ceil(len(cells) / columns)
    canvas = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), GREY, np.uint8)
    for index, cell in enumerate(cells):
        top = index // columns * (height + GAP) + GAP
        left = index % columns * (width + GAP) + GAP
        canvas[top : top + height, left : left + width] = cell
    return Image.fromarray(canvas)


def levels(images: Tensor) -> np.ndarray:
    """Images as the bytes of pictures; one that holds NaN or infinity is magenta all over.

    Args:
        images: ``[N, C, H, W]``, clipped to [-1, 1]; C is 1 or 3.

    Returns:
        ``[N, H, W, 3]`` uint8.
    """
    values = images.float().cpu().numpy()
    broken = ~np.isfinite(values).all(axis=(1, 2, 3))
    values = np.where(broken[:, None, None, None], 0, values)
    cells = np.rint((values.clip(-1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    cells = np.broadcast_to(cells, (*cells.shape[:3], 3)).copy()  # one channel thrice
    cells[broken] = MAGENTA
    return cells


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG file: the old one stays until the new one is complete.

    Args:
        image: what to write.
        path: where; the folder must exist.

    Raises:
        OSError: it cannot be written; a file that was there is untouched.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            image.save(file, format="PNG")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _columns(count: int) -> int:
    """Columns of a near-square layout, without a ragged last row where the count allows it."""
    root = math.isqrt(count - 1) + 1  # the root, rounded up
    return next((columns for columns in range(root, 2 * root) if count % columns == 0), root)
