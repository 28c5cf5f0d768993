"""Pairs of images that share an attribute: of somebody's own pictures, with a table that says what they show.

An attribute is anything that a column of the table holds for each picture: a word, a class, a number. Each pair is
made to share one of them, drawn anew at each visit; so the attributes become the factors of a `FactorFlow`, with the
residual for all that no attribute says.
"""

from __future__ import annotations

import csv
import difflib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, MinLen
from torch import Tensor

from iin.arguments import Count, Fraction
from iin.data.base import Draws, Pairs
from iin.data.folder import OnError, Selection, Split, few, split_names, usable
from iin.data.memory import Classes, Labelled, Levels, digest

log = logging.getLogger("iin")

__all__ = ["AttributePairs", "Attributed", "Attributes", "Table", "closest", "quantile_bins"]


class Attributes:
    """What each of ``N`` images shows, and partners that show the same.

    Args:
        names: of the ``K`` attributes.
        values: ``[T, K]`` int64, of the whole table; equal numbers mean equal values.
        rows: ``[N]``, which rows of it the images are: those of a split.
        where: what the table is, for messages.

    Raises:
        ValueError: an attribute has one value only, so that sharing it says nothing; or a value of its own for every
            image, so that none share it.
    """

    def __init__(self, names: Sequence[str], values: Tensor, rows: Tensor, where: str) -> None:
        self.names = tuple(names)
        self.values = values[rows]
        self.combinations, combination = values.unique(dim=0, return_inverse=True)
        self.combination = combination[rows]
        self._classes, partnered = [], []
        for name, every, column in zip(names, values.unbind(1), self.values.unbind(1), strict=True):
            counts = every.unique(return_counts=True)[1]
            if len(counts) < 2:
                raise ValueError(
                    f"{where}: all {len(every):,} pictures have the same {name!r}, so that sharing it says nothing; "
                    "leave this attribute out"
                )
            if counts.max() < 2:
                raise ValueError(f"{where}: no two of {len(every):,} pictures have the same {name!r}; leave it out")
            _, members, counts = column.unique(return_inverse=True, return_counts=True)
            if len(counts) < 2 or counts.max() < 2:
                found = "one value only" if len(counts) < 2 else "no value twice"
                log.warning("%s: %r has %s in the %d pictures of this split", where, name, found, len(column))
            self._classes.append(Classes(column, least=1))
            partnered.append(counts[members] > 1)
        self._partnered = torch.stack(partnered, 1)  # [N, K]: whether any other image has this value

    def partners(self, rows: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw an attribute for each image, evenly, and another image with the same value of it.

        Attributes that an image shares with no other are not drawn for it; one that shares none is its own partner.

        Args:
            rows: ``[B]`` int64, which images.
            draws: of these images.

        Returns:
            The partners ``[B]`` int64, and what each pair shares ``[B, K + 1]`` bool, the residual last.
        """
        choice = self._partnered[rows]  # [B, K]
        count = choice.sum(1)
        choice[count == 0] = True
        nth = draws.integers(count.where(count > 0, choice.shape[1]))  # [B]: the nth of those that can be drawn
        drawn = (choice.cumsum(1) == nth[:, None] + 1).long().argmax(1)
        others = torch.stack([classes.another(rows, draws) for classes in self._classes], 1)  # [B, K]
        shared = torch.zeros(len(rows), len(self.names) + 1, dtype=torch.bool)
        shared[torch.arange(len(rows)), drawn] = True
        return others.gather(1, drawn[:, None])[:, 0], shared


class Attributed(Labelled):
    """Pairs of images, each of which shares one attribute.

    The item at an index is that image, and another that shares an attribute with it; ``shared`` says which the pair was
    made to share, and no more: they may agree in others by chance. The label of an image is the combination of all its
    attributes: the row of `Attributes.combinations` that holds their values, the same for both splits of a set.

    Args:
        image: ``N`` images, see `Labelled`.
        attributes: of these images.
        source, fingerprint, dequantise: see `Labelled`.
    """

    def __init__(
        self,
        image: Tensor | Levels,
        attributes: Attributes,
        *,
        source: str,
        fingerprint: str,
        dequantise: bool = True,
    ) -> None:
        super().__init__(image, attributes.combination, source=source, fingerprint=fingerprint, dequantise=dequantise)
        self.attributes = attributes
        self.factors = (*attributes.names, "residual")

    def __getitem__(self, indices: Sequence[int]) -> Pairs:  # type: ignore[override]
        rows, draws = self.rows(indices)
        others, shared = self.attributes.partners(rows, draws)
        return Pairs(
            self.pixels(rows, draws), self.pixels(others, draws), shared, self._label[rows], self._label[others]
        )


class AttributePairs(Attributed):
    """Pairs from a folder of pictures and a table of what they show; see `Attributed`.

    The table is a CSV file with a header. Its first column names the pictures, relative to the folder; each other
    column is an attribute. A column of numbers with more than ``bins`` different ones is divided into ``bins``
    quantiles, with equally many pictures each as far as ties allow, and sharing it means to be in the same; in all
    other columns, equal cells are equal values. `values` maps each attribute to its values in words.

    Args:
        root: folder of the pictures.
        table: the CSV file, with commas, semicolons or tabs; a path that is relative to the current folder, or to root.
        attributes: columns to make factors of; None for all.
        split: ``train`` or ``test``, by a hash of each picture's relative path; or ``all``.
        size: height and width in pixels.
        bins: of columns of numbers.
        test_share, crop, channels, dequantise: see `iin.data.ImageFolder`.
        on_error: ``raise`` refuses pictures that cannot be used, pictures without a row, rows without a picture and
            rows with empty cells; ``skip`` leaves them out with a warning; either names and counts them.

    Raises:
        FileNotFoundError: no such folder or table.
        ValueError: see ``on_error``; the table cannot be read, names a picture twice or has no such column; an
            attribute has one value only.
    """

    def __init__(
        self,
        root: str | Path,
        table: str | Path,
        attributes: Annotated[Sequence[str], MinLen(1)] | None = None,
        split: Split = "train",
        size: Count = 64,
        bins: Annotated[int, Ge(2)] = 10,
        test_share: Fraction = 0.1,
        crop: Count | None = None,
        on_error: OnError = "raise",
        channels: Literal[1, 3] = 3,
        dequantise: bool = True,
    ) -> None:
        if bins < 2:
            raise ValueError(f"bins: expected at least 2, found {bins}")
        read = Table(_locate(table, Path(root).expanduser()), attributes)
        found = Selection(root, size, crop=crop, channels=channels, on_error=on_error)
        self.skipped = {**found.skipped, **read.reconcile(found, on_error)}
        order = {name: row for row, name in enumerate(found.pictures.names)}
        names = sorted(read.cells.keys() & order.keys())

        columns = list(zip(*(read.cells[name] for name in names), strict=True))
        numbered = [_numbered(column, bins) for column in columns]
        values = torch.from_numpy(np.stack([numbers for numbers, _ in numbered], 1))  # [N, K]
        self.values = {name: words for name, (_, words) in zip(read.attributes, numbered, strict=True)}

        rows = split_names(names, split, test_share, str(found.root))
        pictures = found.pictures.select([order[names[row]] for row in rows])
        super().__init__(
            pictures,
            Attributes(read.attributes, values, torch.tensor(rows), str(read.path)),
            source=f"{found.root}, {read.path}",
            fingerprint=digest(
                f"{type(self).__name__} {dequantise}", pictures.stamps(), " ".join(read.attributes), values[rows]
            ),
            dequantise=dequantise,
        )


class Table:
    """A CSV file of what pictures show.

    Attributes:
        attributes: names of the columns that were asked for.
        cells: name of the picture -> its cells in these columns.

    Args:
        path: the file; its first line names the columns, the first of which names the pictures.
        attributes: columns wanted, in this order; None for all.

    Raises:
        ValueError: it is no such table, or lacks a column, or names a picture twice.
    """

    def __init__(self, path: Path, attributes: Sequence[str] | None = None) -> None:
        self.path = path
        header, *rows = self._read()
        known = header[1:]
        if len(set(header)) < len(header):
            twice = sorted({name for name in header if header.count(name) > 1})
            raise ValueError(f"{path}:1: columns of the same name: {', '.join(map(repr, twice))}")
        if not known or not rows:
            raise ValueError(f"{path}: expected a header, a column of file names, one or more of attributes, and rows")
        self.attributes = tuple(known if attributes is None else attributes)
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            raise ValueError(f"attributes: expected one or more different columns, found {list(self.attributes)}")
        columns = []
        for name in self.attributes:
            if name not in known:
                raise ValueError(f"{path}: no column is called {name!r}; {closest(name, known)}")
            columns.append(header.index(name))
        self.cells: dict[str, tuple[str, ...]] = {}
        twice = []
        for line, row in rows:
            if len(row) != len(header):
                raise ValueError(f"{path}:{line}: expected {len(header)} cells as in the header, found {len(row)}")
            name = row[0].strip().replace("\\", "/").removeprefix("./")
            if name in self.cells:
                twice.append(f"{name} (line {line})")
            cells = (row[column].strip() for column in columns)
            self.cells[name] = tuple("" if cell.lower() == "nan" else cell for cell in cells)
        if twice:
            raise ValueError(
                f"{path}: {len(twice):,} rows name a picture again: {few(twice)}; one row each is expected"
            )

    def _read(self) -> list:
        """The header, then each row with the number of its line; empty lines are left out."""
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: not a table in UTF-8 ({error.reason} at byte {error.start})") from None
        head = text.split("\n", 1)[0]
        reader = csv.reader(text.splitlines(keepends=True), delimiter=max(",;\t", key=head.count), strict=True)
        try:
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
        except csv.Error as error:
            raise ValueError(f"{self.path}:{reader.line_num}: not a table ({error})") from None
        return [[cell.strip() for cell in rows[0][1]] if rows else [""], *rows[1:]]

    def reconcile(self, found: Selection, on_error: OnError) -> dict[str, str]:
        """Leave out what the folder and the table do not both have, and rows with empty cells.

        Returns:
            The pictures and rows left out, with the reason of each.

        Raises:
            ValueError: there are some, and they are not to be skipped; or nothing is left.
        """
        pictures = set(found.pictures.names)
        lost = {name: "" for name in self.cells if name not in pictures and name not in found.skipped}
        if len(lost) == len(self.cells):
            raise ValueError(
                f"{self.path}: none of its {len(lost):,} rows names a picture of {found.root}: "
                f"it has {few(list(lost), 2)}, the folder {few(found.pictures.names, 2)}"
            )
        usable(len(self.cells), lost, on_error, str(self.path), f"rows name pictures that are not in {found.root}")
        bare = {name: "" for name in found.pictures.names if name not in self.cells}
        usable(len(pictures), bare, on_error, str(self.path), f"pictures of {found.root} have no row")
        empty = {
            name: "no "
            + " and no ".join(column for column, cell in zip(self.attributes, cells, strict=True) if not cell)
            for name, cells in self.cells.items()
            if "" in cells and name in pictures
        }
        usable(len(self.cells), empty, on_error, str(self.path), "rows have empty cells")
        for name in (*lost, *empty, *found.skipped):
            self.cells.pop(name, None)
        if not self.cells:
            raise ValueError(f"{self.path}: no row is left")
        reasons = {"in the table only": lost, "in the folder only": bare}
        return {name: reason for reason, names in reasons.items() for name in names} | empty


def closest(name: str, known: Collection[str]) -> str:
    """What to say about a name that is not known: the nearest ones, else what there is."""
    folded = {one.lower(): one for one in known}
    near = [folded[one] for one in difflib.get_close_matches(name.lower(), folded)]
    return f"did you mean {' or '.join(near)}?" if near else f"known: {few(sorted(known), 40)}"


def quantile_bins(numbers: np.ndarray, bins: int) -> np.ndarray:
    """Divide numbers into bins that hold equally many, as far as ties allow; equal numbers are in the same.

    Args:
        numbers: ``[N]``, finite; at least two different ones.
        bins: at least 2.

    Returns:
        ``[N]`` int64 in 0 ... ``bins - 1``; at least two different ones, though some in between may be unused.
    """
    _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    middle = (counts.cumsum() - counts / 2) / len(numbers)  # mean rank of each number, in (0, 1)
    return (middle * bins).astype(np.int64)[which]


def _numbered(cells: Sequence[str], bins: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The values of a column as numbers 0, 1, ..., and what each of these means."""
    try:
        numbers = np.array([float(cell) for cell in cells])
    except ValueError:
        numbers = None
    if numbers is not None and np.isfinite(numbers).all():
        distinct, which = np.unique(numbers, return_inverse=True)  # 1 and 1.0 are the same value
        if len(distinct) <= bins:
            return which.astype(np.int64), tuple(f"{number:g}" for number in distinct)
        _, which = np.unique(quantile_bins(numbers, bins), return_inverse=True)
        inside = [numbers[which == place] for place in range(which.max() + 1)]
        return which.astype(np.int64), tuple(f"{part.min():g} to {part.max():g}" for part in inside)
    words, which = np.unique(np.array(cells), return_inverse=True)
    return which.astype(np.int64), tuple(words.tolist())


def _locate(table: str | Path, root: Path) -> Path:
    """The table, beside the current folder or the pictures."""
    path = Path(table).expanduser()
    for place in (path, root / path):
        if place.is_file():
            return place
    raise FileNotFoundError(f"{path}: no such table; looked beside the current folder and in {root}")
