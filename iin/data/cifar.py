"""CIFAR-10: small photographs of ten kinds of things.

References:
    | Learning multiple layers of features from tiny images (Krizhevsky, 2009)
    | https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iin.data import sources
from iin.data.memory import Published, resize

__all__ = ["CIFAR10", "read_arrays"]

_FOLDER = "cifar-10-batches-py"
_ARCHIVE = sources.Remote(
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
)
_FILES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}


class CIFAR10(Published):
    """Photographs with their kinds: ``image [B, 3, size, size]``, ``label [B]`` in 0 ... 9.

    Args:
        split: 50,000 images to train, or 10,000 to test.
        root: folder that holds ``cifar-10-batches-py``, as torchvision lays it out, or ``cifar-10-python.tar.gz``,
            which is read as it is; that folder itself will do, or a folder ``CIFAR10`` in between. Without it, the
            folders of `iin.data.sources` are searched in the same way.
        size: height and width in pixels; resized bilinearly if it is not 32.
        dequantise: see `Labelled`.
        download: fetch the archive if it is nowhere (163 MB).

    Raises:
        Missing: the files are nowhere and were not downloaded.
        ValueError: a file is damaged or would run code, or an argument makes no sense.
    """

    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    @staticmethod
    def load(split: str, root: str | Path | None, size: int, download: bool) -> tuple[Tensor, Tensor, str]:
        place = _find(split, root, download)
        files = [place] if place.is_file() else [place / name for name in _FILES[split]]
        image, label = _read(split, place, tuple(path.stat().st_mtime_ns for path in files), size)
        return image, label, str(place)


def _find(split: str, root: str | Path | None, download: bool) -> Path:
    """The folder of the batches, or the archive of them, downloaded where needed."""
    places = sources.folders(root)
    for place in places:
        for folder in (place / _FOLDER, place / "CIFAR10" / _FOLDER, place):
            present = [name for name in _FILES[split] if (folder / name).is_file()]
            if len(present) == len(_FILES[split]):
                return folder
            archive = folder.parent / _ARCHIVE.name if folder.name == _FOLDER else folder / _ARCHIVE.name
            if archive.is_file():
                return archive
            if present:
                missing = ", ".join(name for name in _FILES[split] if name not in present)
                raise sources.Missing(f"{folder}: no complete CIFAR-10 here: put {missing} beside {present[0]}")
    sources.fetch("CIFAR-10", [_ARCHIVE], places[0], download=download)
    return places[0] / _ARCHIVE.name


@lru_cache(maxsize=4)  # several data sets of one process share the images
def _read(split: str, place: Path, stamps: tuple[int, ...], size: int) -> tuple[Tensor, Tensor]:
    """Read the batches of a split from their folder or archive, and resize the images."""
    images, labels = [], []
    for name, content in _contents(place, _FILES[split]):
        data = read_arrays(content, name)
        image, label = (data.get("data"), data.get("labels")) if isinstance(data, dict) else (None, None)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[1:] != (3072,):
            raise ValueError(f"{name}: expected 'data' of bytes, [N, 3072], as CIFAR-10 has; is this the right file?")
        if not isinstance(label, list) or len(label) != len(image) or not all(type(x) is int for x in label):
            raise ValueError(f"{name}: expected 'labels', one number for each of {len(image)} images")
        kinds = len(CIFAR10.classes)
        if not all(0 <= x < kinds for x in label):
            raise ValueError(f"{name}: labels from {min(label)} to {max(label)}: expected 0 to {kinds - 1}")
        images.append(image.reshape(-1, 3, 32, 32))
        labels.append(np.array(label, np.int64))
    pixels = torch.from_numpy(np.concatenate(images))  # [N, 3, 32, 32]
    return resize(pixels, size), torch.from_numpy(np.concatenate(labels))


def _contents(place: Path, names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Path and content of each batch."""
    if place.is_dir():
        return [(str(place / name), (place / name).read_bytes()) for name in names]
    with place.open("rb") as begin:
        if reason := sources.no_data(begin.read(512)):
            raise ValueError(f"{place}: {reason}; delete it, and fetch it again")
    found = {}
    try:
        with tarfile.open(place) as archive:  # read in one pass: it is compressed, and cannot be searched
            for member in archive:
                name = Path(member.name).name
                file = archive.extractfile(member) if member.isfile() and name in names else None
                if file is not None:
                    found[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(": ")
        raise ValueError(f"{place}: damaged archive ({reason}); delete it, and fetch it again") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{place}: the archive lacks {', '.join(missing)}; delete it, and fetch it again")
    return [(f"{place}/{name}", found[name]) for name in names]


# --- pickled arrays, without what pickles can do besides --------------------------------------------------------------


def _latin(text: str, encoding: str) -> bytes:
    """How Python 3 spells bytes in old pickles; no other codec is needed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Unpickles plain data and numpy arrays; a pickle that names anything else is refused before that is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric"):
            if name in ("ndarray", "dtype"):
                return getattr(np, name)
            if name in ("_reconstruct", "_frombuffer"):
                # What arrays say that they are made by, wherever this version of numpy keeps it.
                return _makers()[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no file of arrays needs")


def _makers() -> dict[str, Any]:
    array = np.zeros(1, np.uint8)
    return {"_reconstruct": array.__reduce__()[0], "_frombuffer": array.__reduce_ex__(5)[0]}


def read_arrays(content: bytes, name: str) -> Any:
    """Unpickle plain data and numpy arrays, as CIFAR's files hold them; nothing in it is executed.

    Args:
        content: the pickle.
        name: of the file, for messages.

    Raises:
        ValueError: it is damaged, or asks for anything but arrays.
    """
    if reason := sources.no_data(content):
        raise ValueError(f"{name}: {reason}; fetch it again")
    try:
        return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()  # latin1: text of Python 2, bytes of arrays
    except Exception as error:  # a damaged pickle raises whatever the damage spells
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name}: no file of arrays ({reason}); fetch it again") from None
