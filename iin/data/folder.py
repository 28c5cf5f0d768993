"""One's own pictures: any folder of them is a data set.

Sub-folders are classes. The split into training and test pictures hangs on each picture's path alone, so it is the same
on every machine, and a picture that is added moves no other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import MinLen

from iin.arguments import Count, Fraction
from iin.data.decoded import Decoded
from iin.data.decoding import Folder, Pictures, Unreadable
from iin.data.memory import Dequantise, Labelled, digest
from iin.data.sources import rehearsing
from iin.files import cache_folder, write_atomically

__all__ = ["SUFFIXES", "ImageFolder", "Selection", "Split", "few", "split_names", "usable", "warn_once"]

log = logging.getLogger("iin")

Split = Literal["train", "test", "all"]
OnError = Literal["raise", "skip"]

MANY = 2000
"""Pictures that are looked at in a rehearsal, at most."""

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""What names of pictures end in, in lower or upper case."""


class ImageFolder(Labelled):
    """Pictures of a folder and of all its sub-folders, sorted by path: ``image [B, C, size, size]``, ``label [B]``.

    The label is the place of the picture's first sub-folder among ``classes``, those sorted by name unless they are
    given; pictures beside the sub-folders are of class ``.``. A folder that is split already can be named twice:
    ``root: faces/train`` and ``root: faces/test``, each with ``split: all``.

    Pictures may be grey or in colour, of 8 or 16 bits, with a palette, transparent (they are laid on white), CMYK or
    turned by the camera; see `iin.data.decoding.decode`. All are decoded once when the set is first made, to know the
    damaged ones, and kept on the way (see `iin.data.decoded`).

    Args:
        root: the folder.
        size: height and width in pixels.
        split: ``train`` or ``test``, by a hash of each picture's relative path; or ``all``.
        test_share: of the pictures, for the test.
        crop: side in pixels of the square that is cut from the middle before it is resized; None for the largest there
            is. Smaller pictures cannot be used: nothing is enlarged to reach the crop.
        on_error: ``raise`` refuses a folder with pictures that cannot be used, ``skip`` leaves them out with a warning;
            either names and counts them, and ``skipped`` maps each to the reason.
        channels: 3 for RGB, 1 for grey.
        dequantise: see `Labelled`.
        cache: keep decoded pictures in a file below ``$IIN_CACHE``: ``channels * size * size`` bytes for each of the
            folder. Otherwise they are decoded whenever they are asked for.
        classes: names of sub-folders, in the order of their labels; pictures elsewhere do not count. None for all.

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
        dequantise: Dequantise = True,
        cache: bool = True,
        classes: Annotated[Sequence[str], MinLen(1)] | None = None,
    ) -> None:
        found = Selection(root, size, crop=crop, channels=channels, on_error=on_error, keep=cache, inside=classes)
        found.look()
        firsts = [name.split("/")[0] if "/" in name else "." for name in found.pictures.names]
        self.classes = tuple(sorted(set(firsts)) if classes is None else classes)
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
    """The pictures of a folder, and which of them can be used.

    Attributes:
        names: of all of them, whether they can be used or not; known from the start.
        skipped: what cannot be used, with the reason of each; complete once `look` has looked.
        pictures: those that can; once `look` has looked.

    Args:
        root: the folder, as it was named.
        size, crop, channels: see `iin.data.decoding.decode`.
        on_error: what to do about pictures that cannot be used.
        keep: see `iin.data.decoded.Decoded`.
        inside: the sub-folders that count; None for all, and for what is beside them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it has no pictures, or an argument makes no sense.
    """

    pictures: Decoded

    def __init__(
        self,
        root: str | Path,
        size: int,
        *,
        crop: int | None = None,
        channels: int = 3,
        on_error: OnError = "raise",
        keep: bool = True,
        inside: Sequence[str] | None = None,
    ) -> None:
        for name, number in (("size", size), ("crop", 1 if crop is None else crop)):
            if number < 1:
                raise ValueError(f"{name}: expected at least 1 pixel, found {number}")
        if channels not in (1, 3):
            raise ValueError(f"channels: expected 1 (grey) or 3 (RGB), found {channels!r}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error: expected 'raise' or 'skip', found {on_error!r}")
        self.root = Path(root).expanduser()
        self.names, self.skipped = _listing(self.root, inside)
        self._files = Pictures(Folder(self.root), self.names, size, crop=crop, channels=channels)
        self._on_error, self._keep = on_error, keep

    def look(self) -> None:
        """Decode all pictures, to know those that can be used.

        Raises:
            ValueError: there are others and they are not to be skipped, or none is left.
        """
        decoded = Decoded(self._files, keep=self._keep)
        self.skipped |= _complaints(self._files, decoded, spoilt=self._on_error == "skip")
        usable(len({*self.names, *self.skipped}), self.skipped, self._on_error, self.root, "pictures cannot be used")
        good = [name not in self.skipped for name in self.names]
        decoded.leave_out([row for row, yes in enumerate(good) if not yes])
        self.pictures = decoded.select([row for row, yes in enumerate(good) if yes])


def usable(total: int, bad: dict[str, str], on_error: OnError | None, where: str | Path, what: str) -> None:
    """Refuse or report what cannot be used: named, with reasons, and counted.

    Args:
        total: how many there are, good and bad.
        bad: name -> reason, which may be empty.
        on_error: what to do about them; None for a data set that has no such argument, and refuses them.
        where: the folder or file, for messages.
        what: what is wrong with them.

    Raises:
        ValueError: there are some and they are not to be skipped, or nothing else is left.
    """
    if not bad:
        return
    message = f"{where}: {len(bad):,} of {total:,} {what}: {few([f'{k} ({v})' if v else k for k, v in bad.items()])}"
    if on_error != "skip":
        advice = "mend or remove them" + (", or leave them out with on_error: skip" if on_error else "")
        raise ValueError(f"{message}; {advice}")
    if len(bad) == total:
        raise ValueError(f"{message}; nothing is left")
    warn_once(f"{message}; left out")


@cache
def warn_once(message: str) -> None:
    """Warn, but not again when the other split of the same folder finds the same."""
    log.warning("%s", message)


def few(names: Sequence[str], count: int = 5) -> str:
    """The first few of many names, for a message; what a terminal might obey is spelt out."""
    shown = [
        "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
        for name in names[:count]
    ]
    return ", ".join(shown) + (f" and {len(names) - count:,} more" if len(names) > count else "")


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
    hashes = [
        int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "big") for name in names
    ]
    limit = int(test_share * 2**64)
    limit = min(max(limit, min(hashes) + 1), max(hashes))
    return [row for row, value in enumerate(hashes) if (value < limit) == (split == "test")]


def _listing(root: Path, only: Sequence[str] | None = None) -> tuple[list[str], dict[str, str]]:
    """Relative paths of all pictures below a folder, sorted; and what cannot even be opened, with the reason of each.

    Hidden files and folders do not count, and what a link leads to is looked at once only, since links can lead round
    in circles.

    Args:
        root: the folder.
        only: the sub-folders that are looked into; None for all, and for what is beside them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it has no pictures, or lacks one of these sub-folders.
    """
    if not root.is_dir():
        kind = "a file, not a folder" if root.exists() else "no such folder"
        raise FileNotFoundError(f"{root}: {kind}; root must be a folder of pictures")
    if only is not None:
        if isinstance(only, str) or not only or len(set(only)) < len(only):
            raise ValueError(f"classes: expected a list of one or more different names, found {only!r}")
        if absent := [name for name in only if not (root / name).is_dir()]:
            raise FileNotFoundError(f"{root}: has no folder {few(absent)}; classes must be folders of pictures in it")
    names: list[str] = []
    odd: dict[str, str] = {}
    seen: set[str] = set()

    def walk(folder: str, inside: str) -> None:
        real = os.path.realpath(folder)
        if real in seen:
            return
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            odd[inside or "."] = error.strerror or "cannot be read"
            return
        for entry in entries:
            name = inside + entry.name
            if entry.name.startswith((".", "__MACOSX")) or (only is not None and not inside and name not in only):
                continue
            try:
                kind = "folder" if entry.is_dir() else "file" if entry.is_file() else ""
            except OSError:  # a link that leads to itself
                kind = ""
            if kind == "folder":
                walk(entry.path, f"{name}/")
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                if kind:
                    names.append(name)
                else:
                    odd[name] = "a link that leads nowhere" if entry.is_symlink() else "not a file"

    walk(str(root), "")
    if not names:
        kinds = " ".join(sorted(SUFFIXES))
        closed = f", and these cannot be opened: {few([f'{k} ({v})' for k, v in odd.items()])}" if odd else ""
        raise ValueError(f"{root}: no pictures here or in its sub-folders; they end in {kinds}{closed}")
    return sorted(names), odd


def _complaints(pictures: Pictures, decoded: Decoded, spoilt: bool) -> dict[str, str]:
    """Which pictures cannot be used, and why; what was found is kept, since finding it takes a while."""
    kept = cache_folder() / "checked" / f"{digest(str(pictures.files.path.resolve()), decoded.stamps())}.json"
    try:
        return dict(json.loads(kept.read_text()))
    except (OSError, ValueError):
        pass
    if len(pictures) > MANY and rehearsing():
        some = range(0, len(pictures), -(-len(pictures) // MANY))
        message = "%s: looked at %s of %s pictures, the others are looked at before training"
        log.info(message, pictures.files.path, f"{len(some):,}", f"{len(pictures):,}")
        return {pictures.names[row]: str(reason) for row in some if (reason := pictures.complaint(row)) is not None}
    found = {pictures.names[row]: reason for row, reason in decoded.look_through(spoilt).items()}
    complaints = {name: str(reason) for name, reason in found.items()}
    if any(isinstance(reason, Unreadable) for reason in found.values()):
        return complaints  # a file that cannot be read now may be read the next time, and look the same from outside
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(kept) as file:
            file.write(json.dumps(complaints).encode())
    except OSError as error:
        log.debug("cannot keep %s: %s", kept, error)
    return complaints
