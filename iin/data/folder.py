"""One's own pictures: any folder of them is a data set.

Sub-folders are classes. The split into training and test pictures hangs on each picture's path alone, so it is the same
on every machine, and a picture that is added moves no other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from iin.arguments import Count, Fraction
from iin.data.decoding import Folder, Pictures, side_by_side
from iin.data.memory import Labelled, digest
from iin.data.sources import cache_folder

__all__ = ["ImageFolder", "Selection", "Split", "few", "split_names", "usable"]

log = logging.getLogger("iin")

Split = Literal["train", "test", "all"]
OnError = Literal["raise", "skip"]

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class ImageFolder(Labelled):
    """Pictures of a folder and of all its sub-folders, sorted by path: ``image [B, C, size, size]``, ``label [B]``.

    The label is the place of the picture's first sub-folder among `classes`, those sorted by name; pictures beside the
    sub-folders are of class ``.``. A folder that is split already can be named twice: ``root: faces/train`` and
    ``root: faces/test``, each with ``split: all``.

    Pictures may be grey or in colour, of 8 or 16 bits, with a palette, transparent (they are laid on white), CMYK or
    turned by the camera; see `iin.data.decoding.decode`. All are decoded once when the set is first made, to know the
    damaged ones, and then again whenever they are asked for.

    Args:
        root: the folder.
        size: height and width in pixels.
        split: ``train`` or ``test``, by a hash of each picture's relative path; or ``all``.
        test_share: of the pictures, for the test.
        crop: side in pixels of the square that is cut from the middle before it is resized; None for the largest there
            is. Smaller pictures cannot be used: nothing is enlarged to reach the crop.
        on_error: ``raise`` refuses a folder with pictures that cannot be used, ``skip`` leaves them out with a warning;
            either names and counts them, and `skipped` maps each to the reason.
        channels: 3 for RGB, 1 for grey.
        dequantise: see `Labelled`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it has no pictures, or some that cannot be used; or an argument makes no sense.
    """

    def __init__(
        self,
        root: str | Path,
        size: Count = 64,
        split: Split = "train",
        test_share: Fraction = 0.1,
        crop: Count | None = None,
        on_error: OnError = "raise",
        channels: Literal[1, 3] = 3,
        dequantise: bool = True,
    ) -> None:
        found = Selection(root, size, crop=crop, channels=channels, on_error=on_error)
        firsts = [name.split("/")[0] if "/" in name else "." for name in found.pictures.names]
        self.classes = tuple(sorted(set(firsts)))
        self.skipped = found.skipped
        rows = split_names(found.pictures.names, split, test_share, str(found.root))
        pictures = found.pictures.select(rows)
        label = torch.tensor([self.classes.index(firsts[row]) for row in rows])
        super().__init__(
            pictures,
            label,
            source=str(found.root),
            fingerprint=digest(f"{type(self).__name__} {dequantise}", pictures.stamps(), label),
            dequantise=dequantise,
        )


class Selection:
    """The pictures of a folder that can be used: ``pictures``; the others: ``skipped``, with the reason of each.

    Args:
        root: the folder, as it was named.
        size, crop, channels: see `iin.data.decoding.decode`.
        on_error: what to do about pictures that cannot be used.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it has no pictures that can be used, or an argument makes no sense.
    """

    def __init__(
        self, root: str | Path, size: int, *, crop: int | None = None, channels: int = 3, on_error: OnError = "raise"
    ) -> None:
        for name, number in (("size", size), ("crop", 1 if crop is None else crop)):
            if number < 1:
                raise ValueError(f"{name}: expected at least 1 pixel, found {number}")
        if channels not in (1, 3):
            raise ValueError(f"channels: expected 1 (grey) or 3 (RGB), found {channels!r}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error: expected 'raise' or 'skip', found {on_error!r}")
        self.root = Path(root).expanduser()
        names = _names(self.root)
        pictures = Pictures(Folder(self.root), names, size, crop=crop, channels=channels)
        self.skipped = _complaints(pictures)
        usable(len(names), self.skipped, on_error, str(self.root), "pictures cannot be used")
        self.pictures = pictures.select([row for row, name in enumerate(names) if name not in self.skipped])


def usable(total: int, bad: dict[str, str], on_error: OnError, where: str, what: str) -> None:
    """Refuse or report what cannot be used: named, with reasons, and counted.

    Args:
        total: how many there are, good and bad.
        bad: name -> reason, which may be empty.
        on_error: what to do about them.
        where: the folder or file, for messages.
        what: what is wrong with them.

    Raises:
        ValueError: there are some and they are not to be skipped, or nothing else is left.
    """
    if not bad:
        return
    message = f"{where}: {len(bad):,} of {total:,} {what}: {few([f'{k} ({v})' if v else k for k, v in bad.items()])}"
    if on_error == "raise":
        raise ValueError(f"{message}; mend or remove them, or leave them out with on_error: skip")
    if len(bad) == total:
        raise ValueError(f"{message}; nothing is left")
    log.warning("%s; left out", message)


def few(names: Sequence[str], count: int = 5) -> str:
    """The first few of many names, for a message."""
    return ", ".join(names[:count]) + (f" and {len(names) - count:,} more" if len(names) > count else "")


def split_names(names: Sequence[str], split: Split, test_share: float, where: str) -> list[int]:
    """Which of some names a split holds, in their order.

    A name is for the test when its hash is below the share; of two names or more, at least one is on either side.

    Args:
        names: relative paths with forward slashes.
        split: which part of them.
        test_share: how much of the whole the test gets, in (0, 1).
        where: the folder, for messages.

    Raises:
        ValueError: the arguments make no sense, or there is but one name to split.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"split: expected 'train', 'test' or 'all', found {split!r}")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share: expected a number between 0 and 1, found {test_share}")
    if split == "all":
        return list(range(len(names)))
    if len(names) < 2:
        raise ValueError(f"{where}: {len(names)} picture cannot be split into training and test; use split: all")
    hashes = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in names]
    limit = int(test_share * 2**64)
    limit = min(max(limit, min(hashes) + 1), max(hashes))
    return [row for row, value in enumerate(hashes) if (value < limit) == (split == "test")]


def _names(root: Path) -> list[str]:
    """Relative paths of all pictures below a folder, sorted; hidden files and folders do not count."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; root must be a folder of pictures")
    names, seen = [], set()
    for folder, inner, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links can lead round in circles
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
        for name in files:
            if Path(name).suffix.lower() in _SUFFIXES and not name.startswith("."):
                names.append((Path(folder) / name).relative_to(root).as_posix())
    if not names:
        kinds = " ".join(sorted(_SUFFIXES))
        raise ValueError(f"{root}: no pictures here or in its sub-folders; they end in {kinds}")
    return sorted(names)


def _complaints(pictures: Pictures) -> dict[str, str]:
    """Which pictures cannot be used, and why; what was found is kept, since finding it takes a while."""
    kept = cache_folder() / "checked" / f"{digest(str(pictures.files.path.resolve()), pictures.stamps())}.json"
    try:
        return dict(json.loads(kept.read_text()))
    except (OSError, ValueError):
        pass
    if len(pictures) > 2000:
        log.info("%s: looking through %s pictures, this once", pictures.files.path, f"{len(pictures):,}")
    reasons = side_by_side(pictures.complaint, range(len(pictures)))
    found = {name: reason for name, reason in zip(pictures.names, reasons, strict=True) if reason is not None}
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=kept.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(found, file)
        os.replace(name, kept)
    except OSError as error:
        log.debug("cannot keep %s: %s", kept, error)
    return found
