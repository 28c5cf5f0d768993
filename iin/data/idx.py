"""IDX, the file format of MNIST and its kin: reading, and finding the files where torchvision puts them."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from iin.data.sources import no_data

__all__ = ["find_idx", "parse_idx", "read_idx", "read_labelled"]

_KIN = {"MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST"}
"""Folders of torchvision's whose files have the same names."""


def parse_idx(data: bytes, name: str, offset: int = 0) -> tuple[np.ndarray, int]:
    """Parse one array of unsigned bytes.

    The format: two zero bytes, the type (8: unsigned bytes), the number of axes, each axis as a big-endian 32-bit
    number, then the values.

    Args:
        data: what holds the array, uncompressed.
        name: of the file, for messages.
        offset: where the array begins.

    Returns:
        The array (read-only, uint8), and the offset of what follows it.

    Raises:
        ValueError: this is no IDX array of bytes, or it is truncated.
    """
    magic = data[offset : offset + 4]
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise ValueError(
            f"{name}: not an IDX file of bytes (expected it to begin with 00 00 08, found {magic.hex(' ')})"
        )
    start = offset + 4 + 4 * magic[3]
    shape = tuple(np.frombuffer(data[offset + 4 : start], dtype=">u4").tolist()) if len(data) >= start else ()
    count = int(np.prod(shape, dtype=object))  # Python's integers: a damaged header may hold anything
    if not shape or len(data) < start + count:
        said = "x".join(map(str, shape)) if shape else f"{magic[3]} axes"
        raise ValueError(f"{name}: truncated: its header says {said}, but only {len(data) - offset} bytes are there")
    return np.frombuffer(data, dtype=np.uint8, count=count, offset=start).reshape(shape), start + count


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read an IDX file, plain or gzipped (its content decides, not its name).

    Args:
        path: the file.
        axes: number of axes it must have: 3 for images ``[N, H, W]``, 1 for labels ``[N]``.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    data = path.read_bytes()
    if found := no_data(data):
        raise ValueError(f"{path}: {found}; fetch it again")
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file ({error}); fetch it again") from None
    array, end = parse_idx(data, str(path))
    if array.ndim != axes:
        raise ValueError(f"{path}: expected {axes} axes, found shape {list(array.shape)}: is this the right file?")
    if end != len(data):
        raise ValueError(f"{path}: {len(data) - end} bytes too many after the {len(array)} items its header announces")
    return array


def read_labelled(images: Path, labels: Path, *, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read images ``[N, H, W]`` and their labels ``[N]`` in 0 ... ``classes`` - 1, both uint8 and read-only.

    Raises:
        ValueError: a file is damaged, holds something else, or there is not one label for each of one or more images.
    """
    image, label = read_idx(images, axes=3), read_idx(labels, axes=1)
    if len(image) != len(label):
        raise ValueError(f"{labels}: {len(label)} labels, but {len(image)} images in {images.name}")
    if not image.size:
        raise ValueError(f"{images}: expected images, found an array of shape {list(image.shape)}")
    if label.max() >= classes:
        raise ValueError(f"{labels}: labels up to {label.max()}: expected 0 to {classes - 1}; is this the right file?")
    return image, label


def find_idx(root: Path, name: str, folder: str, named: bool = False) -> Path | None:
    """Find one IDX file below a root.

    Args:
        root: torchvision's ``root``, or one of the folders in it.
        name: of the file, extracted: ``train-images-idx3-ubyte``.
        folder: what torchvision calls the data set: ``MNIST``.
        named: only files in a folder of that name will do.

    Returns:
        The first that exists among ``root/folder/raw``, ``root/raw`` and ``root``; extracted before gzipped. Files in
        the folder of another data set of the kin are left alone: they have the same names.
    """
    places = (root / folder / "raw", root / "raw", root)
    for path in (p for place in places for p in (place / name, place / f"{name}.gz")):
        owner = next((part for part in reversed(path.parts) if part in _KIN), None)
        if (owner == folder or (owner is None and not named)) and path.is_file():
            return path
    return None
