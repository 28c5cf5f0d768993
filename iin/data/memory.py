"""Labelled images, stored as unsigned bytes: what MNIST is made of, and other sets can be.

Bytes are a quarter of the size of floats; a batch is taken from them by one index, and becomes float32 in [-1, 1] only
then. What holds them may be a tensor, or anything that is indexed like one: `iin.data.decoding.Pictures` reads files.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from iin.arguments import Count
from iin.data.base import Draws, Images

__all__ = ["Classes", "Dequantise", "Labelled", "Levels", "Published", "check", "digest", "resize"]


Dequantise = bool | Literal["fixed"]
"""Whether noise is added to the levels of images: anew at each visit, never, or once for each image."""

_ONCE = 0x6F6E6365
"""Seed of noise that is drawn once."""


_Set = TypeVar("_Set", bound="Labelled")


class Levels(Protocol):
    """What holds images: a uint8 tensor ``[N, C, H, W]``, or what is indexed like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


def resize(image: Tensor, size: int, antialias: bool = True) -> Tensor:
    """Resize to squares, bilinearly and without padding.

    Args:
        image: ``[N, C, H, W]`` uint8.
        size: height and width wanted, in pixels.
        antialias: average when an image becomes smaller; otherwise, take from it the nearest four pixels each.

    Returns:
        ``[N, C, size, size]`` uint8, rounded.
    """
    if image.shape[-2:] == (size, size):
        return image
    out = torch.empty(*image.shape[:2], size, size, dtype=torch.uint8)
    for start in range(0, len(image), 2048):  # in pieces: as floats, all at once would take gigabytes
        piece = image[start : start + 2048].float()
        piece = F.interpolate(piece, (size, size), mode="bilinear", align_corners=False, antialias=antialias)
        out[start : start + 2048] = piece.round_().clamp_(0, 255).byte()
    return out


def digest(*parts: Tensor | str) -> str:
    """SHA-256 over tensors (values, shape and type) and words, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            total.update(f"{part.dtype} {tuple(part.shape)}".encode())
            total.update(part.contiguous().numpy().data)
        else:
            total.update(part.encode(errors="surrogateescape"))  # names of files may be no UTF-8
        total.update(b"\0")
    return total.hexdigest()


def check(split: str, size: int) -> None:
    """See that a split and a size in pixels make sense.

    Raises:
        ValueError: the split is neither ``train`` nor ``test``, or the size is less than a pixel.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: expected 'train' or 'test', found {split!r}")
    if size < 1:
        raise ValueError(f"size: expected at least 1 pixel, found {size}")


class Classes:
    """Which images belong to which class, to draw another of the same.

    Args:
        label: ``[N]`` int64.
        least: how many classes there must be; where there is but one, sharing it says nothing.
        picture: ``[N]`` int64, equal for items that are the same picture; None where no picture comes twice.

    Raises:
        ValueError: there are fewer.
    """

    def __init__(self, label: Tensor, least: int = 2, picture: Tensor | None = None) -> None:
        classes, members = label.unique(return_inverse=True)
        if len(classes) < least:
            raise ValueError(
                f"pairs that share the class need at least {least} classes, but all labels are {classes.tolist()}"
            )
        picture = torch.arange(len(label)) if picture is None else picture
        # Sorted by class, and within a class by picture: what belongs together stands side by side.
        self._sorted = picture.argsort(stable=True)
        self._sorted = self._sorted[members[self._sorted].argsort(stable=True)]
        self._first, self._count = _runs(members[self._sorted], self._sorted)
        runs = members * (int(picture.max()) + 1) + picture if len(label) else members
        start, self._same = _runs(runs[self._sorted], self._sorted)
        self._next = start - self._first + self._same  # place in the class, behind the last item of the same picture

    @property
    def others(self) -> Tensor:
        """How many items of its class show another picture ``[N]`` int64."""
        return self._count - self._same

    def another(self, rows: Tensor, draws: Draws) -> Tensor:
        """Draw an item of the same class for each, evenly; never of the same picture, unless there is no other.

        Args:
            rows: ``[B]`` int64, which images.
            draws: of these images.

        Returns:
            ``[B]`` int64.
        """
        count = self._count[rows]
        step = draws.integers(self.others[rows].clamp(min=1))
        return self._sorted[self._first[rows] + (self._next[rows] + step) % count]


def _runs(values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Where the run of equal values that an item stands in begins, and how long it is.

    Args:
        values: ``[N]``, in which equal ones stand side by side.
        places: ``[N]``, which item each of them belongs to.

    Returns:
        ``[N]`` int64 each, by item.
    """
    _, run, counts = values.unique_consecutive(return_inverse=True, return_counts=True)
    first, count = torch.empty_like(places), torch.empty_like(places)
    first[places] = (counts.cumsum(0) - counts)[run]
    count[places] = counts[run]
    return first, count


class Labelled:
    """Images with labels.

    A subclass that answers something else overrides ``__getitem__``, and draws from `rows` and `pixels`.

    Args:
        image: ``[N, C, H, W]`` uint8, a tensor or what is indexed like one.
        label: ``[N]`` int64.
        source: where the images came from, in words.
        fingerprint: changes when the images or what is made of them do.
        dequantise: add noise from U[0, 1) to the 256 levels, one draw a pixel, and scale [0, 256) to [-1, 1): a density
            over pixels then exists. It is drawn anew at each visit, or with ``fixed`` once for each image, which then
            looks the same whenever it is asked for, and whichever other asks for it as its partner. With ``false``,
            levels 0 ... 255 are scaled to [-1, 1], both ends included.

    Raises:
        ValueError: there are no images, or not one label for each; or dequantise is something else.

    References:
        | A note on the evaluation of generative models (Theis, van den Oord and Bethge, 2016)
        | https://arxiv.org/abs/1511.01844
    """

    _stored: Any = None
    """What a copy answers in the place of images."""

    def __init__(
        self, image: Tensor | Levels, label: Tensor, *, source: str, fingerprint: str, dequantise: Dequantise = True
    ) -> None:
        if dequantise not in (True, False, "fixed"):
            raise ValueError(f"dequantise: expected true, false or 'fixed', found {dequantise!r}")
        if not len(image) or len(image) != len(label):
            raise ValueError(
                f"{source}: expected one label for each of one or more images, found "
                f"{len(image)} images and {len(label)} labels"
            )
        self.source = source
        self.fingerprint = fingerprint
        self._image: Tensor | Levels = image
        self._label = label
        self._dequantise = dequantise

    def __len__(self) -> int:
        return len(self._image)

    @property
    def varies(self) -> str:
        """What is drawn anew at each visit to an image, in words; empty where it always looks the same.

        A subclass that draws more than partners says so here.
        """
        return "dequantise: true" if self._dequantise is True else ""

    @property
    def fixed(self) -> bool:
        """Whether an image always looks the same."""
        return not self.varies

    def __getitem__(self, indices: Sequence[int]) -> Images:
        rows, draws = self.rows(indices)
        return Images(self.pixels(rows, draws), self._label[rows])

    def rows(self, indices: Sequence[int]) -> tuple[Tensor, Draws]:
        """Turn indices into rows ``[B]`` int64 and the random numbers that belong to them.

        Raises:
            TypeError: this is one index, not a list of them.
            IndexError: an index is out of range.
        """
        rows = torch.as_tensor(indices, dtype=torch.int64)
        if rows.ndim != 1:
            raise TypeError(f"data sets answer lists of indices, for example data[[0, 1]]; found {indices!r}")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"indices {int(rows.min())} ... {int(rows.max())} of a data set with {len(self)} items")
        return rows, Draws(indices)

    def pixels(self, rows: Tensor, draws: Draws) -> Tensor:
        """Take images, as float32 in [-1, 1].

        Args:
            rows: ``[B]`` int64, which images; not necessarily those of the indices.
            draws: of the ``B`` indices; noise that is drawn once is not taken from them.

        Returns:
            ``[B, C, H, W]``.
        """
        if self._stored is not None:
            return self._stored[rows]
        level = self._image[rows].float()
        if not self._dequantise:
            return level.div_(127.5).sub_(1)
        if self._dequantise == "fixed":
            draws = Draws(rows.tolist(), _ONCE)
        # 8 bits of level and 16 of noise are 24: float32 holds all of [-1, 1) exactly, and never rounds up to 1.
        noise = draws.halves(*level.shape[1:])
        return level.mul_(2.0**-7).add_(noise, alpha=2.0**-23).sub_(1)

    def make_ready(self, check: Callable[[], None] | None = None) -> None:
        """Do what takes a while and is done once, such as decoding all pictures; what is done already is left.

        Args:
            check: called now and then; what it raises ends the work.
        """
        if callable(make := getattr(self._image, "make_ready", None)):
            make(check)

    def answering(self: _Set, stored: Any) -> _Set:
        """A copy that answers, in the place of images, what is stored of them. All else stays as it is: labels,
        partners, and what is drawn for them.

        Args:
            stored: of all ``N`` images, indexed by rows ``[B]`` like a tensor.
        """
        other = copy.copy(self)
        other._stored = stored
        return other


class Published(Labelled, ABC):
    """A published set that is found or downloaded, and then held in memory. A subclass says how, in ``load``.

    Args:
        split: ``train`` or ``test``.
        root: folder to look in; without one, the folders of `iin.data.sources`.
        size: height and width in pixels.
        dequantise: see `Labelled`.
        download: fetch files that are nowhere.

    Raises:
        Missing: files are nowhere and were not downloaded.
        ValueError: a file is damaged, or an argument makes no sense.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        root: str | Path | None = None,
        size: Count = 32,
        dequantise: Dequantise = True,
        download: bool = True,
    ) -> None:
        check(split, size)
        image, label, source = self.load(split, root, size, download)
        super().__init__(
            image,
            label,
            source=source,
            fingerprint=digest(f"{type(self).__name__} {size} {dequantise}", image, label),
            dequantise=dequantise,
        )

    @staticmethod
    @abstractmethod
    def load(split: str, root: str | Path | None, size: int, download: bool) -> tuple[Tensor, Tensor, str]:
        """Images ``[N, C, size, size]`` uint8, labels ``[N]`` int64, and where they came from in words."""
