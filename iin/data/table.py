"""Tables of what pictures show, as people and programs write them.

`Table` reads one, finds the rows of a folder's pictures, and says of each picture what the columns hold. Whatever is
wrong is said with the number of the line, or named and counted.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from iin.data.folder import SUFFIXES, OnError, Selection, few, usable, warn_once
from iin.data.sources import no_data

__all__ = ["Table", "closest", "quantile_bins"]

_MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "null"}
"""Cells, in lower case, that hold nothing."""
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
"""How files of spreadsheet programs begin."""


class Table:
    """A table: a line of column names, and a row for each picture.

    Cells may be separated by commas, semicolons, tabs or, where there is none of these, spaces; be quoted; and the text
    be UTF-8, UTF-16 with a mark, or else Windows-1252. CelebA's ``list_attr_celeba.txt``, which begins with the number
    of its rows and has no name for the first column, is read as well. Columns without a name are left out.

    Attributes:
        path: the file.
        attributes: names of the columns that were asked for.
        cells: name of the picture -> its cells in these columns; once `match` has found the pictures.

    Args:
        path: the file.
        attributes: columns wanted, in this order; None for all but the one that names the pictures, and one that only
            numbers the rows.

    Raises:
        ValueError: it is no such table, or has no such column.
    """

    def __init__(self, path: Path, attributes: Sequence[str] | None = None) -> None:
        self.path = path
        self.wanted = attributes
        self.attributes: tuple[str, ...] = ()
        self.cells: dict[str, tuple[str, ...]] = {}
        self.lost: dict[str, str] = {}
        self.again: dict[str, str] = {}
        self.decimal_comma = False
        self.header, self.rows = self._read(_text(path))
        known = [name for name in self.header if name]
        if len(set(known)) < len(known):
            twice = sorted({name for name in known if known.count(name) > 1})
            raise ValueError(f"{path}: columns of the same name: {', '.join(map(repr, twice))}")
        if len(self.header) < 2 or not self.rows:
            what = (
                f"{len(self.rows):,} rows below {few([', '.join(self.header)[:60]])!r}" if self.header[0] else "nothing"
            )
            raise ValueError(
                f"{path}: expected a header, a column of file names, one or more of attributes, and rows; found {what}"
            )
        if attributes is not None:
            if not attributes or len(set(attributes)) < len(attributes):
                raise ValueError(f"attributes: expected one or more different columns, found {list(attributes)}")
            for name in attributes:
                if name not in known:
                    raise ValueError(f"{path}: no column is called {name!r}; {closest(name, known)}")

    def _read(self, text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
        """The header, and each row with the number of its line; empty lines are left out."""
        lines = [line for line in text.splitlines() if line.strip()]
        rows: list[tuple[int, list[str]]]
        named = re.fullmatch(r"sep=([,;\t])", lines[0].strip(" ")) if lines else None  # a hint for Excel
        head = re.sub(r'"[^"]*"', "", lines[bool(named)]) if len(lines) > bool(named) else ""
        delimiter = named[1] if named else max(",;\t", key=head.count)
        if not named and not any(sign in head for sign in ",;\t"):
            rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
            if len(rows) > 2 and len(rows[0][1]) == 1 and rows[0][1][0].isdigit():
                rows = [(rows[1][0], ["file", *rows[1][1]]), *rows[2:]]  # CelebA's: the number of rows, then names
        else:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            try:
                rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
            except csv.Error as error:
                raise ValueError(f"{self.path}:{reader.line_num}: not a table ({error})") from None
            rows = rows[bool(named) :]
        self.decimal_comma = delimiter != ","
        if not rows:
            return [""], []
        header = [" ".join(cell.split()) for cell in rows[0][1]]
        for line, row in rows[1:]:
            while len(row) > len(header) and not row[-1].strip():
                row.pop()  # a delimiter at the end of the line
            if len(row) != len(header):
                raise ValueError(f"{self.path}:{line}: expected {len(header)} cells as in the header, found {len(row)}")
        while len(header) > 1 and not header[-1] and not any(row[-1].strip() for _, row in rows[1:]):
            header.pop()
            for _, row in rows[1:]:
                row.pop()
        return ["" if re.fullmatch(r"Unnamed: \d+", name) else name for name in header], rows[1:]

    def match(self, found: Selection) -> None:
        """Find the pictures that the rows are about, in the column that names most of them.

        A row may name its picture by its path relative to the folder, by the end of that path, with or without the
        folder's own name or what leads to it, and without the ending that says the format; in lower or upper case.
        Where that fits several, the row counts as one without a picture.

        Raises:
            ValueError: no row names a picture, or the first line is a row already.
        """
        pictures = _Names([*found.names, *found.skipped], found.root)
        columns = [[row[place] for _, row in self.rows] for place in range(len(self.header))]
        distinct = [set(column) for column in columns]
        files = [
            2 * sum(_stem(_path(cell).lower()) != _path(cell).lower() for cell in cells) > len(cells)
            for cells in distinct
        ]
        place = self._naming(distinct, files, pictures)
        if place is None:
            shown = columns[files.index(max(files))]
            raise ValueError(
                f"{self.path}: none of its {len(self.rows):,} rows names a picture of {found.root}: "
                f"it has {few([_path(cell) for cell in shown], 2)}, the folder {few(found.names, 2)}"
            )
        if pictures.find(self.header[place])[0]:
            raise ValueError(
                f"{self.path}: its first line names a picture, {self.header[place]}; expected names of columns"
            )
        self.attributes = tuple(self._attributes(place, columns))
        if not self.attributes:
            raise ValueError(f"{self.path}: expected one or more columns of attributes beside {self.header[place]!r}")
        wanted = [self.header.index(name) for name in self.attributes]
        lines: dict[str, list[int]] = {}
        different: set[str] = set()
        for line, row in self.rows:
            name, reason = pictures.find(row[place])
            cells = tuple("" if row[column].strip().lower() in _MISSING else row[column].strip() for column in wanted)
            if name is None:
                self.lost[_path(row[place])] = reason
                continue
            lines.setdefault(name, []).append(line)
            if self.cells.setdefault(name, cells) != cells:
                different.add(name)
        for name, numbers in lines.items():
            if len(numbers) > 1:
                listed = f"lines {', '.join(map(str, numbers))}"
                self.again[name] = f"{listed}, which differ" if name in different else listed
        for name in different:
            del self.cells[name]  # which of them is right, nobody knows

    def _naming(self, distinct: Sequence[Collection[str]], files: Sequence[bool], pictures: _Names) -> int | None:
        """The column that names pictures; None if there is none.

        Columns of file names come first, if there are such. Else it is one of words or numbers, as attributes are too:
        then the cells have to differ, but for a few, and most have to name a picture.

        Args:
            distinct: the different cells of each column.
            files: which columns are of file names.
            pictures: of the folder.

        Raises:
            ValueError: several may be meant.
        """
        counts = []
        for cells, named in zip(distinct, files, strict=True):
            hits = len({pictures.find(cell)[0] for cell in cells} - {None})
            whole = sum(_path(cell) in pictures.exact for cell in cells)
            differ = 10 * len(cells) > 9 * len(self.rows)
            likely = named if any(files) else differ and 2 * hits > min(len(cells), len(pictures.exact))
            counts.append((whole, hits) if likely else (0, 0))
        best = max(counts)
        if not best[1]:
            return None
        if not best[0] and counts.count(best) > 1:
            several = [repr(name) for name, count in zip(self.header, counts, strict=True) if count == best]
            raise ValueError(f"{self.path}: columns {' and '.join(several)} may all name the pictures: leave one")
        return counts.index(best)

    def _attributes(self, place: int, columns: Sequence[Sequence[str]]) -> Iterable[str]:
        """The columns to make attributes of."""
        if self.wanted is not None:
            if self.header[place] in self.wanted:
                raise ValueError(f"{self.path}: column {self.header[place]!r} names the pictures: no attribute of them")
            yield from self.wanted
            return
        for name, column in zip(self.header, columns, strict=True):
            if not name or name == self.header[place]:
                continue
            start = column[0].strip()
            if len(column) > 2 and start in ("0", "1"):
                counted = (str(number) for number in range(int(start), int(start) + len(column)))
                if all(cell.strip() == number for cell, number in zip(column, counted, strict=True)):
                    warn_once(f"{self.path}: column {name!r} numbers the rows, so it is no attribute of the pictures")
                    continue
            yield name

    def reconcile(self, found: Selection, on_error: OnError, bins: int) -> dict[str, str]:
        """Leave out what the folder and the table do not both have, and rows of which something is missing or wrong.

        Args:
            found: the folder, looked through.
            on_error: what to do about them.
            bins: a column with more different numbers is one of numbers, in which a word is a mistake.

        Returns:
            The pictures and rows left out, with the reason of each.

        Raises:
            ValueError: there are some, and they are not to be skipped; or nothing is left.
        """
        where, total, all_of_them = str(self.path), len(self.rows), {*found.names, *found.skipped}
        usable(total, self.lost, on_error, where, f"rows name pictures that are not in {found.root}")
        usable(len({*self.cells, *self.again}), self.again, on_error, where, "pictures have several rows")
        bare = {name: "" for name in all_of_them - self.cells.keys() - self.again.keys() - found.skipped.keys()}
        bare = dict(sorted(bare.items()))
        usable(len(all_of_them), bare, on_error, where, f"pictures of {found.root} have no row")
        wrong = self._wrong(bins)
        usable(total, wrong, on_error, where, "rows have cells that are empty or no numbers")
        different = {name: reason for name, reason in self.again.items() if name not in self.cells}
        for name in (*wrong, *found.skipped):
            self.cells.pop(name, None)
        if not self.cells:
            raise ValueError(f"{self.path}: no row is left")
        left_out = {name: reason or "in the table only" for name, reason in self.lost.items()}
        left_out |= dict.fromkeys(bare, "in the folder only")
        return left_out | different | {name: reason for name, reason in wrong.items() if name not in found.skipped}

    def _wrong(self, bins: int) -> dict[str, str]:
        """Pictures of which a cell is missing, or a word where the column has numbers; with what is wrong."""
        reasons: dict[str, list[str]] = {}
        for place, attribute in enumerate(self.attributes):
            column = {name: cells[place] for name, cells in self.cells.items()}
            numbers = {name: self.number(cell) for name, cell in column.items() if cell}
            known = [number for number in numbers.values() if number is not None]
            of_numbers = len(set(known)) > bins and 2 * len(known) > len(numbers)
            for name, cell in column.items():
                if not cell:
                    reasons.setdefault(name, []).append(f"no {attribute}")
                elif of_numbers and numbers[name] is None:
                    reasons.setdefault(name, []).append(f"{attribute}: {cell[:30]!r} is no number")
        return {name: " and ".join(reasons[name]) for name in self.cells if name in reasons}

    def number(self, cell: str) -> float | None:
        """The number that a cell holds; None if it holds a word, or infinity."""
        if self.decimal_comma and re.fullmatch(r"[+-]?\d*,\d+", cell):
            cell = cell.replace(",", ".")
        try:
            number = float(cell.replace("_", "?"))  # what Python takes for a number in its own text
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    def numbered(self, names: Sequence[str], bins: int) -> tuple[np.ndarray, dict[str, tuple[str, ...]]]:
        """What pictures show as numbers, and what these mean.

        Args:
            names: ``N`` of the pictures.
            bins: of columns with more different numbers.

        Returns:
            ``[N, K]`` int64, in each column 0, 1, ...; and attribute -> what each of its numbers means, in words.
        """
        values, words = [], {}
        for place, attribute in enumerate(self.attributes):
            column, meanings = self._numbered([self.cells[name][place] for name in names], bins)
            folded: dict[str, list[str]] = {}
            for meaning in meanings:
                folded.setdefault(meaning.casefold(), []).append(meaning)
            for alike in folded.values():
                if len(alike) > 1:
                    listed = ", ".join(map(repr, alike))
                    warn_once(f"{self.path}: {attribute!r}: {listed} are different values, though in nothing but case")
            values.append(column)
            words[attribute] = meanings
        return np.stack(values, 1), words

    def _numbered(self, cells: Sequence[str], bins: int) -> tuple[np.ndarray, tuple[str, ...]]:
        found = [self.number(cell) for cell in cells]
        if None in found:
            words, which = np.unique(np.array(cells), return_inverse=True)
            return which.astype(np.int64), tuple(words.tolist())
        numbers = np.array(found, dtype=np.float64)
        distinct, which = np.unique(numbers, return_inverse=True)  # 1 and 1.0 are the same value
        if len(distinct) <= bins:
            return which.astype(np.int64), tuple(f"{number:.12g}" for number in distinct)
        _, which = np.unique(quantile_bins(numbers, bins), return_inverse=True)
        inside = [numbers[which == place] for place in range(which.max() + 1)]
        return which.astype(np.int64), tuple(f"{part.min():.6g} to {part.max():.6g}" for part in inside)


class _Names:
    """Pictures of a folder, by all that a table may call them."""

    def __init__(self, names: Iterable[str], root: Path) -> None:
        self.exact = set(names)
        self.root = root.resolve().name
        self.short: dict[str, list[str]] = {}
        for name in sorted(self.exact):
            parts = name.lower().split("/")
            for start in range(len(parts)):
                end = "/".join(parts[start:])
                for key in {end, _stem(end)}:
                    self.short.setdefault(key, []).append(name)

    def find(self, cell: str) -> tuple[str | None, str]:
        """The picture that a cell names; else None, and why."""
        name = _path(cell)
        _, inside, behind = f"/{name}".rpartition(f"/{self.root}/")
        candidates = [name, behind] if inside else [name]
        for candidate in candidates:
            if candidate in self.exact:
                return candidate, ""
        for candidate in candidates:
            fitting = self.short.get(candidate.lower(), [])
            if len(fitting) == 1:
                return fitting[0], ""
            if fitting:
                return None, f"several fit: {few(fitting, 2)}"
        return None, ""


def _path(cell: str) -> str:
    """A cell as a path with forward slashes."""
    return cell.strip().replace("\\", "/").removeprefix("./")


def _stem(path: str) -> str:
    """A path in lower case without the ending that says the format, where it has one."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix in SUFFIXES else path


def _text(path: Path) -> str:
    """The text of a table.

    Raises:
        ValueError: it is something else.
    """
    content = path.read_bytes()
    if found := no_data(content):
        raise ValueError(f"{path}: not a table ({found})")
    if content.startswith(_WORKBOOKS):
        raise ValueError(f"{path}: not a table in text, but a workbook or archive: save it as CSV")
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        try:
            text = content.decode("utf-16" if utf16 else "cp1252")
        except UnicodeDecodeError:
            raise ValueError(
                f"{path}: not a table in {error.encoding} ({error.reason} at byte {error.start})"
            ) from None
        warn_once(f"{path}: not in UTF-8 ({error.reason} at byte {error.start}), so it is read as Windows-1252")
    if "\0" in text:
        raise ValueError(f"{path}: not a table (it holds bytes of value 0, as no text does)")
    return text


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
