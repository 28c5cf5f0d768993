"""Pairs of images that share an attribute: of somebody's own pictures, with a table that says what they show.

An attribute is anything that a column of the table holds for each picture: a word, a class, a number. Each pair is
made to share one of them, drawn anew at each visit; so the attributes become the factors of a `FactorFlow`, with the
residual for all that no attribute says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, MinLen
from torch import Tensor

from iin.arguments import Count, Fraction
from iin.data.base import Draws, Pairs
from iin.data.folder import OnError, Selection, Split, split_names, warn_once
from iin.data.memory import Classes, Dequantise, Labelled, Levels, digest
from iin.data.table import Table

__all__ = ["AttributePairs", "Attributed", "Attributes"]


class Attributes:
    """What each of ``N`` images shows, and partners that show the same.

    Args:
        words: of the ``K`` attributes, by name: what their values 0, 1, ... mean.
        values: ``[T, K]`` int64, of the whole table; equal numbers mean equal values.
        rows: ``[N]``, which rows of it the images are: those of a split. A row that comes twice is one picture.
        where: what the table is, for messages.

    Raises:
        ValueError: an attribute has one value only, so that sharing it says nothing; or a value of its own for every
            image, so that none share it; or the name of the residual.
    """

    def __init__(self, words: Mapping[str, Sequence[str]], values: Tensor, rows: Tensor, where: str) -> None:
        self.words = {name: tuple(meanings) for name, meanings in words.items()}
        self.names = tuple(words)
        if "residual" in words:
            raise ValueError(
                f"{where}: attribute 'residual': that is what no pair shares; give the column another name"
            )
        self.values = values[rows]
        self.combinations, combination = values.unique(dim=0, return_inverse=True)
        self.combination = combination[rows]
        self._classes = []
        for name, every, column in zip(self.names, values.unbind(1), self.values.unbind(1), strict=True):
            counts = every.unique(return_counts=True)[1]
            if len(counts) < 2:
                raise ValueError(
                    f"{where}: all {len(every):,} pictures have the same {name!r}, so that sharing it says nothing; "
                    "leave this attribute out"
                )
            if counts.max() < 2:
                raise ValueError(f"{where}: no two of {len(every):,} pictures have the same {name!r}; leave it out")
            classes = Classes(column, least=1, picture=rows)
            alone = int((classes.others == 0).sum())
            if len(column.unique()) < 2:
                warn_once(f"{where}: {name!r} has one value only in the {len(column):,} pictures of this split")
            elif 2 * alone > len(column):
                warn_once(
                    f"{where}: {name!r}: {alone:,} of {len(column):,} pictures of this split share it with no other"
                )
            self._classes.append(classes)
        self._partnered = torch.stack([classes.others > 0 for classes in self._classes], 1)  # [N, K]

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
    attributes: the row of ``Attributes.combinations`` that holds their values, the same for both splits of a set.

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
        dequantise: Dequantise = True,
    ) -> None:
        super().__init__(image, attributes.combination, source=source, fingerprint=fingerprint, dequantise=dequantise)
        self.attributes = attributes
        self.factors = (*attributes.names, "residual")
        self.values = attributes.words

    def __getitem__(self, indices: Sequence[int]) -> Pairs:  # type: ignore[override]
        rows, draws = self.rows(indices)
        others, shared = self.attributes.partners(rows, draws)
        return Pairs(
            self.pixels(rows, draws), self.pixels(others, draws), shared, self._label[rows], self._label[others]
        )

    def meaning(self, label: int) -> dict[str, str]:
        """What a label says of each attribute, in words."""
        row = self.attributes.combinations[label].tolist()
        return {name: words[value] for (name, words), value in zip(self.values.items(), row, strict=True)}


class AttributePairs(Attributed):
    """Pairs from a folder of pictures and a table of what they show; see `Attributed`.

    The table is a CSV file with a header. One column names the pictures: by their paths below the folder, or by as much
    of them as tells them apart, with or without ``.jpg``. Each other column is an attribute. A column of numbers with
    more than ``bins`` different ones is divided into ``bins`` quantiles, with equally many pictures each as far as ties
    allow, and sharing it means to be in the same; in all other columns, equal cells are equal values. ``values`` maps
    each attribute to its values in words.

    Commas, semicolons and tabs, quotes, the encodings of spreadsheet programs, columns without a name (they are left
    out) and CelebA's own list are all understood; see `iin.data.table.Table`. Cells that are empty or say ``NaN``,
    ``NA`` or ``null`` are missing, and so are words in a column of numbers.

    Args:
        root: folder of the pictures.
        table: the CSV file; a path that is relative to the current folder, or to root.
        attributes: columns to make factors of; None for all.
        split: ``train`` or ``test``, by a hash of each picture's relative path; or ``all``.
        size: height and width in pixels.
        bins: of columns of numbers.
        test_share, crop, channels, dequantise, cache: see `iin.data.ImageFolder`.
        on_error: ``raise`` refuses pictures that cannot be used, pictures without a row or with several, rows without a
            picture and rows with missing cells; ``skip`` leaves them out with a warning, though of rows that say the
            same it keeps one; either names and counts them, and ``skipped`` maps each to the reason.

    Raises:
        FileNotFoundError: no such folder or table.
        ValueError: see ``on_error``; the table cannot be read or has no such column; an attribute has one value only.
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
        dequantise: Dequantise = True,
        cache: bool = True,
    ) -> None:
        if bins < 2:
            raise ValueError(f"bins: expected at least 2, found {bins}")
        read = Table(_locate(table, Path(root).expanduser()), attributes)
        found = Selection(root, size, crop=crop, channels=channels, on_error=on_error, keep=cache)
        read.match(found)
        found.look()
        self.skipped = {**found.skipped, **read.reconcile(found, on_error, bins)}
        order = {name: row for row, name in enumerate(found.pictures.names)}
        names = sorted(read.cells.keys() & order.keys())
        numbers, words = read.numbered(names, bins)
        values = torch.from_numpy(numbers)  # [N, K]
        rows = split_names(names, split, test_share, str(found.root))
        pictures = found.pictures.select([order[names[row]] for row in rows])
        super().__init__(
            pictures,
            Attributes(words, values, torch.tensor(rows), str(read.path)),
            source=f"{found.root}, {read.path}",
            fingerprint=digest(f"{type(self).__name__} {dequantise}", pictures.stamps(), " ".join(words), values[rows]),
            dequantise=dequantise,
        )


def _locate(table: str | Path, root: Path) -> Path:
    """The table, beside the current folder or the pictures."""
    path = Path(table).expanduser()
    for place in (path, root / path):
        if place.is_file():
            return place
    if path.is_dir() or (root / path).is_dir():
        raise FileNotFoundError(f"{path}: a folder; table must be a CSV file")
    raise FileNotFoundError(f"{path}: no such table; looked beside the current folder and in {root}")
