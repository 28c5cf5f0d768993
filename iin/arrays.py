"""Arrays in files that can be made again: written whole or not at all, and mapped into memory.

A file begins with a page that says what the array is and what it was made from; the array's bytes follow. Whoever reads
it says what is expected, and a file of anything else is taken for none. A checksum ends the file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iin.files import write_atomically

__all__ = ["MARGIN", "Mapped", "Unwritable", "lacking", "opened", "shown", "write"]

log = logging.getLogger("iin")

MARGIN = 10**9
"""Bytes that are left free on a disk, for checkpoints and for others."""

_PAGE = 4096
_MAGIC = b"iin array 2\n"
_END = 4
"""Bytes of the checksum."""
CHECKED = 2 * 10**9
"""Bytes up to which an array is compared with its checksum when it is opened, for which it is read."""
_ABANDONED = 3600.0
"""Seconds after which a file that nobody has written to is taken for one that a killed process left behind."""


class Unwritable(OSError):
    """An array cannot be kept: there is no room, or the folder cannot be written to."""


class Mapped:
    """An array in a file, indexed like a tensor ``[N, ...]``; only what is asked for is read.

    Copies in other processes read the same file.

    Args:
        path: the file; see `opened`.
        shape: of the array.
        dtype: of its values.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        # Copy on write: what is done to the memory never reaches the file, and torch need not be told to keep off.
        array = np.memmap(path, mode="c", dtype=_numpy(dtype), offset=_PAGE, shape=shape)
        self._tensor = torch.from_numpy(np.asarray(array))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows ``[B]`` int64 -> ``[B, ...]``, in memory of their own."""
        return self._tensor[rows]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "shape": self.shape, "dtype": self.dtype}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _numpy(dtype: torch.dtype) -> np.dtype:
    return torch.empty(0, dtype=dtype).numpy().dtype


def _header(about: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    said = json.dumps({**about, "shape": shape, "type": str(dtype).removeprefix("torch.")}, sort_keys=True).encode()
    if len(_MAGIC) + len(said) >= _PAGE:
        raise ValueError(f"what is said of an array takes {len(said)} bytes; expected less than a page")
    return (_MAGIC + said).ljust(_PAGE - 1) + b"\n"


def _bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def opened(
    path: Path, about: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype, *, quiet: bool = False
) -> Mapped | None:
    """The array in a file, if it is the one that is expected; None where there is no file, or another, with a line.

    Args:
        path: the file.
        about: what it was made from; strings and numbers.
        shape: of the array.
        dtype: of its values.
        quiet: say nothing of files that are another; for those who will not make it anew.
    """
    expected = _header(about, shape, dtype)
    try:
        with path.open("rb") as file:
            found = file.read(_PAGE)
        size = path.stat().st_size
        if found == expected and size == _PAGE + _bytes(shape, dtype) + _END:
            if size > CHECKED or _sound(path):
                return Mapped(path, shape, dtype)
            reason = "is damaged"
        elif found == expected or len(found) < _PAGE:
            reason = "is cut off"
        else:
            reason = f"holds {_difference(found, expected)}"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    if not quiet:
        log.info("%s %s; it is made anew", path, reason)
    return None


def _sound(path: Path) -> bool:
    """Whether the array is the one that was written, by its checksum."""
    found = 0
    with path.open("rb") as file:
        file.seek(_PAGE)
        left = path.stat().st_size - _PAGE - _END
        while left and (piece := file.read(min(left, 1 << 24))):
            found = zlib.crc32(piece, found)
            left -= len(piece)
        return not left and file.read(_END) == found.to_bytes(_END, "little")


def _difference(found: bytes, expected: bytes) -> str:
    """What a file holds instead of what was expected."""
    try:
        if not found.startswith(_MAGIC):
            raise ValueError
        theirs, ours = (json.loads(page[len(_MAGIC) :]) for page in (found, expected))
        return "other " + ", ".join(key for key in ours if theirs.get(key) != ours[key])
    except (ValueError, AttributeError):
        return "something else"


def lacking(path: Path, size: int) -> str:
    """Why there is no room for a file of so many bytes, in words; empty where there is room."""
    place = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    free = shutil.disk_usage(place).free
    if free >= size + MARGIN:
        return ""
    return f"{path.parent}: {shown(size)} and {shown(MARGIN)} to spare are needed, {shown(free)} are free"


def shown(size: int) -> str:
    """A number of bytes for people."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}" if size < 100 * unit else f"{size / unit:,.0f} {name}"
    return f"{size} bytes"


def write(
    path: Path, about: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype, pieces: Iterable[Tensor]
) -> Mapped:
    """Write an array, piece by piece. The file takes its place when it is whole; two who write it do not disturb
    each other.

    Args:
        path: the file; its folder is made when it is missing.
        about: see `opened`.
        shape: see `opened`.
        dtype: see `opened`.
        pieces: ``[n, ...]`` each, one behind the other; what they raise ends the writing, and nothing is left of it.

    Raises:
        Unwritable: there is no room, or the folder cannot be written to.
    """
    if reason := lacking(path, _bytes(shape, dtype)):
        raise Unwritable(reason)
    failed = []

    def given() -> Iterator[Tensor]:
        try:
            yield from pieces
        except OSError as error:  # of whoever makes the pieces, not of this file
            failed.append(error)
            raise

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        with write_atomically(path) as file:
            file.write(_header(about, shape, dtype))
            checksum = 0
            for piece in given():
                content = piece.contiguous().numpy().reshape(-1).view(np.uint8).data
                checksum = zlib.crc32(content, checksum)
                file.write(content)
            if file.tell() != _PAGE + _bytes(shape, dtype):
                raise ValueError(f"{path}: {file.tell() - _PAGE} bytes were given; expected {_bytes(shape, dtype)}")
            file.write(checksum.to_bytes(_END, "little"))
    except OSError as error:
        if failed:
            raise
        raise Unwritable(f"{path.parent}: {error.strerror or error}") from error
    return Mapped(path, shape, dtype)


def _sweep(folder: Path) -> None:
    """Delete what killed processes left behind; such files may be large."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                os.unlink(path)
