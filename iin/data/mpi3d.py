"""MPI3D: photographs and renderings of an object on a robot's arm, one for each combination of seven factors.

References:
    | On the Transfer of Inductive Bias from Simulation to the Real World: a New Disentanglement Dataset
      (Gondal et al., 2019)
    | https://arxiv.org/abs/1906.03292, https://github.com/rr-learning/disentanglement_dataset
    | Local Disentanglement in Variational Auto-Encoders Using Jacobian L1 Regularization (Rhodes and Lee, 2021), of
      MPI3D-multi
    | https://arxiv.org/abs/2106.02923
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from iin.arguments import Count, Fraction, NonNegativeInt
from iin.data.bank import Bank, Filed, find
from iin.data.base import Draws
from iin.data.factors import Factored, Split
from iin.data.memory import check, digest
from iin.seeds import mix

__all__ = ["MPI3D", "MPI3DMulti"]

Variant = Literal["real", "realistic", "toy"]

NAMES = (
    "object_color",
    "object_shape",
    "object_size",
    "camera_height",
    "background_color",
    "horizontal_axis",
    "vertical_axis",
)
_SIZES = ((6, 6, 2, 3, 3, 40, 40), (4, 4, 2, 3, 3, 40, 40))
"""Of the published files; the second is what the description of some says."""
_PAGE = "https://github.com/rr-learning/disentanglement_dataset"


def _open(variant: str, root: str | Path | None, sizes: Sequence[int] | None) -> tuple[Bank, tuple[int, ...]]:
    """The file of a variant, and the sizes of its factors."""
    if variant not in ("real", "realistic", "toy"):
        raise ValueError(f"variant: expected 'real', 'realistic' or 'toy', found {variant!r}")
    bank = Bank(find(f"MPI3D ({variant})", root, [f"mpi3d_{variant}.npz"], ["mpi3d", "MPI3D"], _PAGE), "images")
    if bank.shape[-1] != 3 or len(bank.shape) != 4:
        raise ValueError(f"{bank.path}: images is uint8 {list(bank.shape)}; expected [N, 64, 64, 3]")
    if sizes is None:
        sizes = next((sizes for sizes in _SIZES if math.prod(sizes) == len(bank)), _SIZES[0])
    if len(sizes) != len(NAMES) or min(sizes) < 1:
        raise ValueError(f"factor_sizes: expected {len(NAMES)} numbers of at least 1, found {list(sizes)}")
    if math.prod(sizes) != len(bank):
        raise ValueError(
            f"{bank.path}: {len(bank):,} images, but factors of {' x '.join(map(str, sizes))} values have "
            f"{math.prod(sizes):,} combinations; expected one image for each, or other factor_sizes"
        )
    return bank, tuple(sizes)


class MPI3D(Filed):
    """An object on a robot's arm: ``image [B, 3, size, size]``, ``label [B, 7]``, its factors.

    The factors are the colour, shape and size of the object, the height of the camera, the colour of the background,
    and the places of the two joints; of 6, 6, 2, 3, 3, 40 and 40 values. A file of 4 colours and 4 shapes is known by
    the number of its images.

    Args:
        split: ``train`` or ``test``, which have no combination in common, or ``all``.
        variant: ``real`` (photographs), ``realistic`` or ``toy`` (renderings).
        root: folder of ``mpi3d_<variant>.npz``, or the file; without it, the folders of `iin.data.sources`. A file that
            is compressed is unpacked once (13 GB), see `iin.data.bank`.
        size: height and width in pixels; resized bilinearly if it is not that of the file.
        test_share: of the images, for the test.
        seed: of the division into training and test.
        factor_sizes: of another file of the same kind.

    Raises:
        Missing: the file is nowhere; it is too large to be downloaded without asking.
        ValueError: it is damaged or another, or an argument makes no sense.
    """

    def __init__(
        self,
        split: Split = "train",
        variant: Variant = "real",
        root: str | Path | None = None,
        size: Count = 64,
        test_share: Fraction = 0.1,
        seed: NonNegativeInt = 0,
        factor_sizes: Sequence[int] | None = None,
    ) -> None:
        bank, sizes = _open(variant, root, factor_sizes)
        super().__init__(bank, sizes, NAMES, split, test_share, seed, size)


_CUBE = (3, 1, 1, 0, 2)
"""The first five factors of each tile: a large blue cube, from one height of the camera, before one background."""
_TILES = 4


class MPI3DMulti(Factored):
    """Four images of one cube in one: ``image [B, 3, 64, 64]``, ``label [B, F]``, the factors of all four.

    Each tile is every second pixel of a row and column of an image of MPI3D, in which a large blue cube hangs on the
    arm. The first two tiles are the left half of the image, one above the other, the last two the right half. Only the
    joints of the four arms move.

    Args:
        split: ``train`` or ``test``: different draws, which may have images in common.
        count: how many images.
        factors: ``moving``, the eight that can be seen; or ``published``, all seven of each tile, of which the first
            five change nothing: metrics over these ask for what no code can know.
        variant: see `MPI3D`; published with ``real``.
        root: see `MPI3D`.
        seed: of the factors.
        factor_sizes: see `MPI3D`.

    Raises:
        Missing: the file is nowhere.
        ValueError: it is damaged or another, or an argument makes no sense.
    """

    def __init__(
        self,
        split: Literal["train", "test"] = "train",
        count: Count = 500_000,
        factors: Literal["moving", "published"] = "moving",
        variant: Variant = "real",
        root: str | Path | None = None,
        seed: NonNegativeInt = 0,
        factor_sizes: Sequence[int] | None = None,
    ) -> None:
        check(split, 1)
        if count < 1:
            raise ValueError(f"count: expected at least 1 image, found {count}")
        if factors not in ("moving", "published"):
            raise ValueError(f"factors: expected 'moving' or 'published', found {factors!r}")
        self.bank, self._sizes = _open(variant, root, factor_sizes)
        if any(value >= size for value, size in zip(_CUBE, self._sizes, strict=False)):
            raise ValueError(f"{self.bank.path}: factors of {self._sizes} values have no combination {_CUBE} of a cube")
        if self.bank.shape[1] % 2 or self.bank.shape[2] % 2:
            raise ValueError(f"{self.bank.path}: images {list(self.bank.shape)}; expected an even height and width")
        self._skipped = len(_CUBE) if factors == "moving" else 0
        names = NAMES[self._skipped :]
        self.factor_sizes = self._sizes[self._skipped :] * _TILES
        self.factor_names = tuple(f"{name}{tile}" for tile in range(_TILES) for name in names)
        self._count, self._seed = count, mix(seed, split == "test")
        self.source = f"{self.bank.path}, four in one, seed {seed}"
        self.fingerprint = digest(f"MPI3DMulti {self.bank.stamp} {factors} {split} {count} {seed}")

    def __len__(self) -> int:
        return self._count

    def make_ready(self, check: Callable[[], None] | None = None) -> None:
        """Unpack the images, where that was not done before; see `MPI3D`."""
        self.bank.make_ready(check)

    def factors_at(self, rows: Tensor) -> Tensor:
        """Factors of the items in some rows: ``[B]`` int64 -> ``[B, F]`` int64."""
        draws = Draws(rows.tolist(), self._seed)
        return torch.stack([draws.integers(size) for size in self.factor_sizes], 1)

    def places(self, factors: Tensor) -> Tensor:
        """Which images of MPI3D the tiles are: ``[B, F]`` int64, in range -> ``[B, 4]`` int64."""
        tiles = factors.view(len(factors), _TILES, len(NAMES) - self._skipped)
        cube = torch.tensor(_CUBE).expand(len(factors), _TILES, -1)
        tiles = torch.cat([cube, tiles[..., len(_CUBE) - self._skipped :]], 2)  # [B, 4, 7]
        strides = torch.tensor([math.prod(self._sizes[place + 1 :]) for place in range(len(NAMES))])
        return (tiles * strides).sum(2)

    def draw(self, factors: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` of factors ``[B, F]`` that are in range."""
        tiles = self.bank[self.places(factors).view(-1)][..., ::2, ::2]
        tiles = tiles.reshape(len(factors), _TILES, *tiles.shape[1:])  # [B, 4, 3, H / 2, W / 2]
        halves = torch.cat([tiles[:, 0::2], tiles[:, 1::2]], 3)  # the left half and the right one
        return torch.cat([halves[:, 0], halves[:, 1]], 3).float().div_(127.5).sub_(1)
