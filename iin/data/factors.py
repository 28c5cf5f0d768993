"""Data whose factors are known: what an image shows is a list of whole numbers, and from any such list comes an image.

This is what metrics of disentanglement ask of a data set, since some of them intervene: they choose the factors, and
look what becomes of the code. `KnownFactors` is all that they need; `Factored` is a base that has it, and is an
ordinary data set besides (see `iin.data.base`): the label of an image is the row of its factors.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from iin.data.base import Draws, Images
from iin.seeds import mix

__all__ = ["Factored", "Generator", "Grid", "Kept", "KnownFactors", "Split"]

Generator = np.random.RandomState | torch.Generator
"""Where random factors come from: numpy's, for the very numbers that published results are of, or torch's."""

Split = Literal["train", "test", "all"]

_Set = TypeVar("_Set", bound="Factored")


@runtime_checkable
class KnownFactors(Protocol):
    """Structural type of data with known factors; nothing has to inherit from it."""

    factor_sizes: tuple[int, ...]
    """How many values each of the ``F`` factors has: 0, 1, ... below it."""
    factor_names: tuple[str, ...]
    """Of the ``F`` factors, in the same order."""

    def sample_factors(self, n: int, generator: Generator) -> Tensor: ...

    def render(self, factors: Tensor | np.ndarray) -> Tensor: ...


class Factored(ABC):
    """A data set with known factors. A subclass sets the attributes, and says in ``factors_at`` and ``draw``
    what it holds.

    An item always looks the same: its factors hang on its index, and its image on its factors.
    """

    factor_sizes: tuple[int, ...]
    """How many values each of the ``F`` factors has: 0, 1, ... below it."""
    factor_names: tuple[str, ...]
    """Of the ``F`` factors, in the same order."""
    source: str
    """Where the images come from, in words."""
    fingerprint: str
    """Changes when the images do."""
    fixed = True
    """An image always looks the same."""

    _stored: Any = None
    """What a copy answers in the place of images."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def factors_at(self, rows: Tensor) -> Tensor:
        """Factors of the items in some rows: ``[B]`` int64 -> ``[B, F]`` int64."""

    @abstractmethod
    def draw(self, factors: Tensor) -> Tensor:
        """Images of factors that are known to be in range: ``[B, F]`` int64 -> ``[B, C, H, W]`` float32 in [-1, 1]."""

    def __getitem__(self, indices: Sequence[int]) -> Images:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        if rows.ndim != 1:
            raise TypeError(f"data sets answer lists of indices, for example data[[0, 1]]; found {indices!r}")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"indices {int(rows.min())} ... {int(rows.max())} of a data set with {len(self)} items")
        return Images(self.pixels(rows, Draws(indices)), self.factors_at(rows))

    def pixels(self, rows: Tensor, draws: Draws) -> Tensor:
        """Images of the items in some rows, as float32 in [-1, 1].

        Args:
            rows: ``[B]`` int64.
            draws: of the indices; nothing is taken from them, since images stay the same.

        Returns:
            ``[B, C, H, W]``.
        """
        return self.draw(self.factors_at(rows)) if self._stored is None else self._stored[rows]

    def answering(self: _Set, stored: Any) -> _Set:
        """A copy that answers, in the place of images, what is stored of them ``[N, ...]``, indexed by rows."""
        other = copy.copy(self)
        other._stored = stored
        return other

    def sample_factors(self, n: int, generator: Generator) -> Tensor:
        """Draw factors evenly and independently, one column after the other.

        Args:
            n: how many rows; at least 0.
            generator: a ``numpy.random.RandomState`` gives the numbers that ``randint(size, size=n)`` of it does for
                each factor in turn, as published code draws them; or a ``torch.Generator``.

        Returns:
            ``[n, F]`` int64.
        """
        if isinstance(generator, torch.Generator):
            return torch.stack([torch.randint(size, (n,), generator=generator) for size in self.factor_sizes], 1)
        columns = [generator.randint(size, size=n, dtype=np.int64) for size in self.factor_sizes]
        return torch.from_numpy(np.stack(columns, 1))

    def render(self, factors: Tensor | np.ndarray) -> Tensor:
        """Images of any factors.

        Args:
            factors: ``[n, F]`` whole numbers, each below its factor's size.

        Returns:
            ``[n, C, H, W]`` float32 in [-1, 1].

        Raises:
            ValueError: these are no factors of this data set.
        """
        return self.draw(self._checked(factors))

    def index(self, factors: Tensor | np.ndarray) -> Tensor:
        """Number of each combination of factors, of all there are; the last factor moves fastest.

        Args:
            factors: ``[n, F]`` whole numbers, each below its factor's size.

        Returns:
            ``[n]`` int64.

        Raises:
            ValueError: these are no factors of this data set, or it has too many combinations to be numbered.
        """
        return (self._checked(factors) * self._strides()).sum(1)

    def factors_of(self, index: Tensor | np.ndarray) -> Tensor:
        """The combination of factors that has some number: ``[n]`` -> ``[n, F]`` int64, the inverse of `index`.

        Raises:
            ValueError: no combination has such a number, or there are too many to be numbered.
        """
        index, total = torch.as_tensor(index), math.prod(self.factor_sizes)
        if index.is_floating_point() or index.ndim != 1:
            raise ValueError(f"{type(self).__name__}: expected numbers [n], whole ones; found {_about(index)}")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < total:
            raise ValueError(
                f"{type(self).__name__}: numbers {int(index.min())} ... {int(index.max())} of {total:,} combinations"
            )
        return index.long()[:, None] // self._strides() % torch.tensor(self.factor_sizes)

    def _strides(self) -> Tensor:
        """How far the number moves with each factor: ``[F]`` int64."""
        if math.prod(self.factor_sizes) >= 2**63:
            raise ValueError(f"{type(self).__name__}: {math.prod(self.factor_sizes):.1e} combinations have no numbers")
        sizes = self.factor_sizes
        return torch.tensor([math.prod(sizes[place + 1 :]) for place in range(len(sizes))])

    def _checked(self, factors: Tensor | np.ndarray) -> Tensor:
        """Factors as ``[n, F]`` int64, known to be in range."""
        kind, sizes, found = type(self).__name__, self.factor_sizes, torch.as_tensor(factors)
        if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
            raise ValueError(f"{kind}: expected factors as whole numbers, found {_about(found)}")
        if found.ndim != 2 or found.shape[1] != len(sizes):
            raise ValueError(f"{kind}: expected factors [n, {len(sizes)}], found {_about(found)}")
        found = found.to("cpu", torch.int64)
        wrong = ((found < 0) | (found >= torch.tensor(sizes))).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise ValueError(
                f"{kind}: row {row} has {self.factor_names[column]} {int(found[row, column])}; "
                f"expected 0 to {sizes[column] - 1}"
            )
        return found


class Grid(Factored):
    """A data set of all combinations of its factors, divided at random into training and test images.

    Args:
        sizes: of the factors.
        names: of the factors.
        split: ``train`` or ``test``, whose items stand in a random order and have no combination in common; or ``all``,
            in the order of `index`.
        test_share: of the combinations, for the test.
        seed: of the division.

    Raises:
        ValueError: an argument makes no sense, or a split holds nothing.
    """

    MOST = 10**8
    """Combinations at most; their order is kept in memory."""

    def __init__(self, sizes: Sequence[int], names: Sequence[str], split: Split, test_share: float, seed: int) -> None:
        kind, total = type(self).__name__, math.prod(sizes)
        if split not in ("train", "test", "all"):
            raise ValueError(f"split: expected 'train', 'test' or 'all', found {split!r}")
        if not 0 < test_share < 1:
            raise ValueError(f"test_share: expected a number between 0 and 1, found {test_share}")
        if not 2 <= total <= self.MOST:
            raise ValueError(f"{kind}: expected 2 to {self.MOST:,} combinations of factors, found {total:,}")
        self.factor_sizes, self.factor_names = tuple(sizes), tuple(names)
        self._total = total
        self._order: Tensor | None = None
        if split != "all":
            generator = torch.Generator().manual_seed(mix(seed, 0x67726964))
            order = torch.randperm(total, generator=generator)
            tests = min(max(1, round(test_share * total)), total - 1)
            self._order = order[:tests] if split == "test" else order[tests:]

    def __len__(self) -> int:
        return self._total if self._order is None else len(self._order)

    def factors_at(self, rows: Tensor) -> Tensor:
        """Factors of the items in some rows: ``[B]`` int64 -> ``[B, F]`` int64."""
        return self.factors_of(rows if self._order is None else self._order[rows])


class Kept:
    """Bytes of images that have been drawn, for the first items of a data set, as far as they fit.

    Copies in other processes begin empty.

    Args:
        count: items of the data set.
        shape: of an image, ``(C, H, W)``.
        gigabytes: that the images may take at most; memory is taken as they come.

    Raises:
        ValueError: this is no number of gigabytes.
    """

    def __init__(self, count: int, shape: tuple[int, ...], gigabytes: float) -> None:
        if not 0 <= gigabytes < math.inf:
            raise ValueError(f"cache: expected gigabytes, 0 or more, found {gigabytes}")
        self.count, self.shape, self.gigabytes = count, shape, gigabytes
        self.room = min(count, int(gigabytes * 1e9) // math.prod(shape))
        # Pages of zeros take no memory before they are written to, which is why numpy makes them.
        self._level = torch.from_numpy(np.zeros((self.room, *shape), np.uint8))
        self._there = torch.zeros(self.room, dtype=torch.bool)

    def __getstate__(self) -> dict[str, Any]:
        return {"count": self.count, "shape": self.shape, "gigabytes": self.gigabytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def take(self, rows: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Images of some rows, out of memory where they are there.

        Args:
            rows: ``[B]`` int64.
            make: draws those of other rows: ``[b]`` int64 -> ``[b, C, H, W]`` uint8.

        Returns:
            ``[B, C, H, W]`` uint8, not to be changed.
        """
        known = rows < self.room
        known[known.clone()] = self._there[rows[known]]
        if known.all():
            return self._level[rows]
        new = rows[~known]
        made = make(new)
        fits = new < self.room
        self._level[new[fits]] = made[fits]
        self._there[new[fits]] = True  # not before: another thread may look
        if not known.any():
            return made
        level = torch.empty(len(rows), *self.shape, dtype=torch.uint8)
        level[known], level[~known] = self._level[rows[known]], made
        return level


def _about(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
