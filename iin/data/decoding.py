"""Pictures in files: from any format, depth and colour space to bytes of one size, decoded when they are asked for.

`Pictures` is indexed like a tensor of images, so `iin.data.memory.Labelled` takes one for the other. What it decodes is
a function of the file alone, so that it may just as well be decoded once and kept: see `iin.data.decoded`.
"""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from iin.data.memory import resize
from iin.data.sources import no_data

__all__ = ["Archive", "Folder", "Pictures", "Unreadable", "decode", "side_by_side"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")

# Pillow refuses what would fill the memory, from twice this size on, and that picture is named; a scan or a panorama
# below it is decoded like any other, and the warning would not say which it is.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def side_by_side(function: Callable[[_In], _Out], items: Sequence[_In]) -> Iterable[_Out]:
    """Apply a function to each item, in as many threads as torch uses; decoding pictures runs in parallel there.

    The threads live no longer than the call, so that worker processes may be forked at any time.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, items)


class Folder:
    """Files below a folder, by their relative paths.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return (self.path / name).read_bytes()

    def stamp(self, name: str) -> str:
        """What changes when the file does, without reading it."""
        stat = (self.path / name).stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"


class Archive:
    """Files in a zip file, read without extracting it. Threads may share it, and so may processes.

    Args:
        path: the zip file.
        prefix: of the names in the archive: ``img_align_celeba/``.

    Raises:
        ValueError: this is no zip file, or a damaged one.
    """

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix
        self._open: tuple[int, zipfile.ZipFile] | None = None
        self._zip()

    def _zip(self) -> zipfile.ZipFile:
        """The open archive; each process opens its own, since they would share one place in the file."""
        if self._open is None or self._open[0] != os.getpid():
            try:
                self._open = (os.getpid(), zipfile.ZipFile(self.path))
            except zipfile.BadZipFile:
                with self.path.open("rb") as file:
                    found = no_data(file.read(512)) or "damaged or cut off"
                raise ValueError(f"{self.path}: no zip file ({found}); fetch it again") from None
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def names(self) -> list[str]:
        """Names of the files below the prefix, without it."""
        names = (info.filename for info in self._zip().infolist() if not info.is_dir())
        return [name[len(self.prefix) :] for name in names if name.startswith(self.prefix)]

    def read(self, name: str) -> bytes:
        """The content of a file."""
        try:
            return self._zip().read(self.prefix + name)
        except zipfile.BadZipFile as error:
            raise ValueError(f"damaged in {self.path.name}: {error}") from None

    def stamp(self, name: str) -> str:
        """What changes when the file does, without reading it."""
        info = self._zip().getinfo(self.prefix + name)
        return f"{info.file_size} {info.CRC}"


def decode(
    content: bytes,
    size: int,
    *,
    crop: int | None = None,
    centre: tuple[int, int] | None = None,
    channels: int = 3,
    antialias: bool = True,
) -> np.ndarray:
    """Decode a picture, cut a square out of it and resize that.

    Whatever it is becomes RGB or grey of 8 bits: palettes are looked up, CMYK is converted, 16 bits are scaled to 8,
    transparent parts are laid on white, and a camera's turns and mirrors are undone. Of an animation, the first
    picture counts.

    Args:
        content: of the file.
        size: height and width wanted, in pixels.
        crop: side of the square that is cut out, in pixels; None for the largest there is.
        centre: row and column of its centre, in pixels; None for the picture's middle.
        channels: 3 for RGB, 1 for grey.
        antialias: average when the square becomes smaller.

    Returns:
        ``[C, size, size]`` uint8.

    Raises:
        ValueError: it cannot be decoded, or the square does not lie within it; the reason, without the file's name.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            image = _plain(opened, "L" if channels == 1 else "RGB")
    except MemoryError:
        raise  # of the machine, not of the picture
    except Exception as error:  # decoders raise whatever the damage leads to
        raise ValueError(_reason(content, error)) from None
    width, height = image.size
    side = min(width, height) if crop is None else crop
    if side > min(width, height):
        raise ValueError(f"{width}x{height} pixels are smaller than the crop of {side}")
    left, top = (width - side) // 2, (height - side) // 2
    if centre is not None:
        top, left = centre[0] - side // 2, centre[1] - side // 2
        if not (0 <= top <= height - side and 0 <= left <= width - side):
            raise ValueError(f"{width}x{height} pixels do not hold a square of {side} around row and column {centre}")
    box = (left, top, left + side, top + side)
    if antialias:
        return _channels_first(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return resize(torch.from_numpy(_channels_first(image.crop(box)))[None], size, antialias=False)[0].numpy()


def _channels_first(image: Image.Image) -> np.ndarray:
    """``[C, H, W]`` uint8, of its own memory."""
    pixels = np.asarray(image)
    return np.array(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1), order="C")


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """The picture upright, opaque, of 8 bits, in mode ``RGB`` or ``L``."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating point pixels have no range that is known: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits, which some versions widen to 32
        levels = np.asarray(image).astype(np.int64)
        if levels.size and not 0 <= levels.min() <= levels.max() <= 65535:
            raise ValueError(f"pixels from {levels.min()} to {levels.max()}: expected 16 bits, 0 to 65535")
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _reason(content: bytes, error: Exception) -> str:
    """Why a picture could not be decoded."""
    if found := no_data(content):
        return found
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: make it smaller"
    said = " ".join(str(error).split())
    if "truncated" in said.lower():
        return "truncated"
    return said or type(error).__name__


class Unreadable(ValueError):
    """A file cannot be read, which says nothing about the picture in it."""


class Pictures:
    """Pictures in files, indexed like a uint8 tensor ``[N, C, size, size]``.

    Args:
        files: where they are.
        names: of the files.
        size, crop, centre, channels, antialias: see `decode`.
    """

    def __init__(
        self,
        files: Folder | Archive,
        names: Sequence[str],
        size: int,
        *,
        crop: int | None = None,
        centre: tuple[int, int] | None = None,
        channels: int = 3,
        antialias: bool = True,
    ) -> None:
        self.files = files
        self.names = list(names)
        self.size = size
        self.crop = crop
        self.centre = centre
        self.channels = channels
        self.antialias = antialias

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Decode the pictures of some rows: ``[B]`` int64 -> ``[B, C, size, size]`` uint8.

        Raises:
            ValueError: a picture cannot be decoded; its name and why.
        """
        out = torch.empty(len(rows), self.channels, self.size, self.size, dtype=torch.uint8)
        for place, image in enumerate(side_by_side(self._one, rows.tolist())):
            out[place] = torch.from_numpy(image)
        return out

    def _one(self, row: int) -> np.ndarray:
        try:
            return self._decode(row)
        except ValueError as error:
            raise self.named(row, error) from None

    def named(self, row: int, error: ValueError) -> ValueError:
        """An error of one picture, with the picture's name."""
        return ValueError(f"{self.files.path / self.names[row]}: {error}")

    def attempt(self, row: int) -> np.ndarray | ValueError:
        """A picture ``[C, size, size]`` uint8, or why it cannot be used, without its name."""
        try:
            return self._decode(row)
        except ValueError as error:
            return error

    def _decode(self, row: int) -> np.ndarray:
        try:
            content = self.files.read(self.names[row])
        except (OSError, KeyError, RuntimeError) as error:  # absent or unreadable; in archives, encrypted
            raise Unreadable(getattr(error, "strerror", None) or str(error).strip("'\"")) from None
        return decode(
            content,
            self.size,
            crop=self.crop,
            centre=self.centre,
            channels=self.channels,
            antialias=self.antialias,
        )

    def complaint(self, row: int) -> ValueError | None:
        """Why a picture cannot be used, without its name; None if it can."""
        found = self.attempt(row)
        return found if isinstance(found, ValueError) else None

    @property
    def how(self) -> str:
        """What is made of the pictures."""
        how = f"{self.size} {self.crop} {self.channels} {self.antialias}"
        return how if self.centre is None else f"{how} {self.centre}"

    def stamp(self, row: int) -> str:
        """Name of a file, and what changes when it does, without reading it."""
        return f"{self.names[row]} {self.files.stamp(self.names[row])}"
