"""Pictures that are decoded once: their pixels lie in one file below the cache folder, and are read from there.

The file is of one folder, or part of it, and of what is made of the pictures. It says by which files it was made, so
that one of other pictures, or of files that have changed since, is recognised and made anew.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iin.arrays import Mapped, Unwritable, lacking, opened, shown, write
from iin.data.decoding import Pictures, Unreadable, side_by_side
from iin.data.memory import digest
from iin.data.sources import rehearsing
from iin.files import cache_folder
from iin.progress import in_pieces

__all__ = ["Decoded"]

log = logging.getLogger("iin")

_PIECE = 512
"""Pictures that are decoded before they are written."""
_MANY = 2000
"""Pictures that are decoded without a word."""


class Decoded:
    """Pictures, indexed like a uint8 tensor ``[N, C, size, size]``.

    Once `make_ready` has made the file, or a process before this one has, they are read from it. Without it, and where
    there is no room for it, they are decoded when they are asked for.

    Args:
        pictures: of a folder.
        part: what part of the folder they are, where that is not the whole.
        keep: whether to make such a file, or read it.
    """

    def __init__(self, pictures: Pictures, part: str = "", keep: bool = True) -> None:
        self._whole = _Whole(pictures, part, keep)
        self._rows = torch.arange(len(pictures))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The pictures of some rows: ``[B]`` int64 -> ``[B, C, size, size]`` uint8.

        Raises:
            ValueError: a picture cannot be decoded; its name and why.
        """
        return self._whole.take(self._rows[rows])

    @property
    def names(self) -> list[str]:
        """Of the files."""
        return [self._whole.pictures.names[row] for row in self._rows.tolist()]

    def select(self, rows: Sequence[int]) -> Decoded:
        """The pictures of some rows, out of the same file."""
        other = object.__new__(Decoded)
        other._whole, other._rows = self._whole, self._rows[torch.tensor(rows, dtype=torch.int64)]
        return other

    def stamps(self) -> str:
        """What changes when the files or what is made of them do; as they were when this was made."""
        return "\n".join([self._whole.pictures.how, *(self._whole.stamps[row] for row in self._rows.tolist())])

    def make_ready(self, check: Callable[[], None] | None = None) -> None:
        """Decode all pictures of the file, unless that was done before, or there is no room.

        Args:
            check: called now and then; what it raises ends the work, and nothing is left of it.

        Raises:
            ValueError: a picture cannot be decoded; its name and why.
        """
        self._whole.make_ready(check)

    def look_through(self, spoilt: bool) -> dict[int, ValueError]:
        """Decode all pictures, to know those that cannot be, with the reasons, and keep the others on the way.

        Args:
            spoilt: keep them even if there are some that cannot be decoded.
        """
        return self._whole.look_through(spoilt)

    def leave_out(self, rows: Sequence[int]) -> None:
        """Nobody will ask for the pictures of these rows, which cannot be decoded."""
        self._whole.left_out.update(self._rows[torch.tensor(rows, dtype=torch.int64)].tolist())


class _Unsettled(Exception):
    """Nothing is to be kept: some cannot be decoded, or files cannot be read, which may have passed the next time."""


class _Whole:
    """All pictures of one file, which several selections share; arguments are those of `Decoded`."""

    def __init__(self, pictures: Pictures, part: str, keep: bool) -> None:
        self.pictures, self.keep = pictures, keep
        self.stamps = [pictures.stamp(row) for row in range(len(pictures))]
        self.left_out: set[int] = set()
        self.shape = (len(pictures), pictures.channels, pictures.size, pictures.size)
        name = digest(str(pictures.files.path.resolve()), pictures.how, part)[:32]
        self.path = cache_folder() / "pictures" / f"{name}.pixels"
        self.about = {"pictures": digest(*self.stamps)}
        self.file: Mapped | None = self.find(quiet=True)

    def find(self, quiet: bool = False) -> Mapped | None:
        return opened(self.path, self.about, self.shape, torch.uint8, quiet=quiet) if self.keep else None

    def take(self, rows: Tensor) -> Tensor:
        return self.pictures[rows] if self.file is None else self.file[rows]

    def make_ready(self, check: Callable[[], None] | None) -> None:
        if not self.keep or self.file is not None:
            return
        self.file = self.find()
        if self.file is None:
            self.fill(check, self.refuse, lambda: None)

    def look_through(self, spoilt: bool) -> dict[int, ValueError]:
        errors: dict[int, ValueError] = {}

        def put(row: int, error: ValueError) -> None:
            errors[row] = error

        def settle() -> None:
            if errors and (not spoilt or any(isinstance(error, Unreadable) for error in errors.values())):
                raise _Unsettled

        if not self.keep or rehearsing() or not self.fill(None, put, settle):
            errors.clear()
            self.say("looked through")
            for start, stop in self.in_pieces(None):
                found = side_by_side(self.pictures.complaint, range(start, stop))
                errors |= {row: reason for row, reason in enumerate(found, start) if reason is not None}
        return errors

    def refuse(self, row: int, error: ValueError) -> None:
        raise self.pictures.named(row, error)

    def fill(
        self, check: Callable[[], None] | None, failed: Callable[[int, ValueError], None], settle: Callable[[], None]
    ) -> bool:
        """Make the file; False where it cannot be written.

        Args:
            check: see `Decoded.make_ready`.
            failed: called with the row of a picture that cannot be decoded, and why.
            settle: called before the file takes its place; raises `_Unsettled` if it should not.
        """
        if not lacking(self.path, math.prod(self.shape)):
            self.say(f"decoded into {self.path}, {shown(math.prod(self.shape))}")
        try:
            self.file = write(self.path, self.about, self.shape, torch.uint8, self.pieces(check, failed, settle))
        except Unwritable as error:
            _say_why(self.pictures.files.path, str(error))
            return False
        except _Unsettled:
            pass
        return True

    def pieces(
        self, check: Callable[[], None] | None, failed: Callable[[int, ValueError], None], settle: Callable[[], None]
    ) -> Iterator[Tensor]:
        """Pixels of all pictures, in pieces; zeros for those that cannot be decoded."""
        for start, stop in self.in_pieces(check):
            out = torch.zeros(stop - start, *self.shape[1:], dtype=torch.uint8)
            for place, found in enumerate(side_by_side(self.attempt, range(start, stop))):
                if isinstance(found, ValueError):
                    failed(start + place, found)
                elif found is not None:
                    out[place] = torch.from_numpy(found)
            yield out
        settle()

    def attempt(self, row: int) -> np.ndarray | ValueError | None:
        return None if row in self.left_out else self.pictures.attempt(row)

    def say(self, what: str) -> None:
        if len(self.pictures) > _MANY:
            log.info("%s: %s pictures are %s, this once", self.pictures.files.path, f"{len(self.pictures):,}", what)

    def in_pieces(self, check: Callable[[], None] | None) -> Iterator[tuple[int, int]]:
        return in_pieces(len(self.pictures), _PIECE, "Pictures", unit="pictures", check=check)


_said: set[Path] = set()


def _say_why(folder: Path, reason: str) -> None:
    """Say that pictures cannot be kept, but not again for the other split of the same folder."""
    if folder not in _said:
        _said.add(folder)
        log.info("%s: decoded at each visit, since the pixels cannot be kept (%s)", folder, reason)
