"""Pictures of single things, one for each combination of factors: dSprites, 3D Shapes, and sprites without a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iin.arguments import Count, Fraction, NonNegative, NonNegativeInt
from iin.data.bank import Bank, Filed, find, open_file
from iin.data.base import Draws
from iin.data.factors import Grid, Kept, Split
from iin.data.memory import digest

__all__ = ["DSprites", "Shapes3D", "Sprites"]


class DSprites(Filed):
    """White shapes on black: ``image [B, 1, size, size]``, ``label [B, 5]``, its factors.

    The factors are the shape (square, ellipse, heart), its scale, orientation, and place from left to right and from
    top to bottom, of 3, 6, 40, 32 and 32 values. The colour, of which the file has one, is no factor.

    Args:
        split: ``train`` or ``test``, which have no combination in common, or ``all``.
        root: folder of ``dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz``, or the file, with its arrays ``imgs`` and
            ``latents_classes``; without it, the folders of `iin.data.sources`. It is unpacked once (3 GB), see
            `iin.data.bank`.
        size: height and width in pixels; resized bilinearly if it is not that of the file.
        test_share: of the images, for the test.
        seed: of the division into training and test.

    Raises:
        Missing: the file is nowhere.
        ValueError: it is damaged or another, or an argument makes no sense.

    References:
        | dSprites: Disentanglement testing Sprites dataset (Matthey, Higgins, Hassabis and Lerchner, 2017)
        | https://github.com/google-deepmind/dsprites-dataset
    """

    def __init__(
        self,
        split: Split = "train",
        root: str | Path | None = None,
        size: Count = 64,
        test_share: Fraction = 0.1,
        seed: NonNegativeInt = 0,
    ) -> None:
        name, page = (
            "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
            "https://github.com/google-deepmind/dsprites-dataset",
        )
        bank = Bank(find("dSprites", root, [name], ["dsprites", "dsprites-dataset"], page), "imgs")
        names: tuple[str, ...] = ("color", "shape", "scale", "orientation", "x", "y")
        classes = _table(bank, "latents_classes", names)
        sizes = _in_order(bank, "latents_classes", classes)
        if sizes[0] == 1:
            sizes, names = sizes[1:], names[1:]
        super().__init__(bank, sizes, names, split, test_share, seed, size, white=1)


class Shapes3D(Filed):
    """An object in a room: ``image [B, 3, size, size]``, ``label [B, 6]``, its factors.

    The factors are the hues of floor, wall and object, the scale and shape of the object, and the orientation of the
    camera, of 10, 10, 10, 8, 4 and 15 values.

    Args:
        split: ``train`` or ``test``, which have no combination in common, or ``all``.
        root: folder of ``3dshapes.h5``, or the file, with its arrays ``images`` and ``labels``; without it, the folders
            of `iin.data.sources`. Reading it needs ``h5py``. Without that, a ``3dshapes.npz`` with the same two arrays
            will do. It is unpacked once (6 GB), see `iin.data.bank`.
        size: height and width in pixels; resized bilinearly if it is not that of the file.
        test_share: of the images, for the test.
        seed: of the division into training and test.

    Raises:
        Missing: the file is nowhere.
        ValueError: it is damaged or another, h5py is needed and not installed, or an argument makes no sense.

    References:
        | Disentangling by Factorising (Kim and Mnih, 2018)
        | https://arxiv.org/abs/1802.05983, https://github.com/google-deepmind/3d-shapes
    """

    def __init__(
        self,
        split: Split = "train",
        root: str | Path | None = None,
        size: Count = 64,
        test_share: Fraction = 0.1,
        seed: NonNegativeInt = 0,
    ) -> None:
        page = "https://github.com/google-deepmind/3d-shapes"
        place = find("3D Shapes", root, ["3dshapes.npz", "3dshapes.h5"], ["3dshapes", "3d-shapes"], page)
        bank = Bank(place, "images")
        names = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
        values = _table(bank, "labels", names)
        classes = np.stack([np.unique(column, return_inverse=True)[1].reshape(-1) for column in values.T], 1)
        super().__init__(bank, _in_order(bank, "labels", classes), names, split, test_share, seed, size)


def _table(bank: Bank, key: str, names: Sequence[str]) -> np.ndarray:
    """What the file says of each image: ``[N, F]``, numbers.

    Raises:
        ValueError: the file has no such array, or it is of another shape.
    """
    file = open_file(bank.path)
    if key not in file.keys:
        raise ValueError(f"{bank.path}: holds {', '.join(file.keys)}; expected {key} [N, {len(names)}] besides")
    shape, dtype = file.about(key)
    if dtype.kind not in "iuf" or shape != (len(bank), len(names)):
        raise ValueError(f"{bank.path}: {key} is {dtype} {list(shape)}; expected numbers [{len(bank)}, {len(names)}]")
    return file.whole(key)


def _in_order(bank: Bank, key: str, classes: np.ndarray) -> tuple[int, ...]:
    """Sizes of the factors, by a table of their values.

    Args:
        bank: the images.
        key: name of the table.
        classes: ``[N, F]``, each value as a whole number.

    Raises:
        ValueError: the rows are not all combinations in order, so that an image cannot be found by its factors.
    """
    if classes.dtype.kind not in "iu" or classes.min() < 0:
        raise ValueError(f"{bank.path}: {key} has values that are no classes; expected whole numbers from 0 on")
    sizes = tuple(int(size) + 1 for size in classes.max(0))
    if math.prod(sizes) != len(classes):
        raise ValueError(
            f"{bank.path}: {len(classes):,} images, but {key} has {' x '.join(map(str, sizes))} values, which are "
            f"{math.prod(sizes):,} combinations; expected one image for each"
        )
    strides = np.array([math.prod(sizes[place + 1 :]) for place in range(len(sizes))])
    wrong = np.flatnonzero(classes @ strides != np.arange(len(classes)))
    if len(wrong):
        raise ValueError(
            f"{bank.path}: {key} is out of order in row {wrong[0]}; expected the last factor to move fastest"
        )
    return sizes


class Sprites(Grid):
    """White shapes on black, drawn instead of read: ``image [B, 1, size, size]``, ``label [B, F]``, its factors.

    The factors are ``shape`` (0 triangle, 1 half disc, 2 trapezium), ``scale``, ``rotation``, ``x``, ``y`` and, where
    it has more than one value, ``brightness``. No shape looks the same in two rotations, so an image tells all of its
    factors. Edges are smooth: a pixel that an edge crosses is grey, by how far the edge is from its centre. Images have
    256 levels.

    Args:
        split: ``train`` or ``test``, which have no combination in common, or ``all``.
        size: height and width in pixels; made for 64 and 32.
        shapes: how many of the three.
        scales: how many sizes, from an eighth to a quarter of the image's from centre to corner.
        rotations: how many, evenly round the circle.
        places: how many in each direction, such that no shape is cut off.
        brightness: how many, from half to full; 1 leaves it out.
        test_share: of the combinations, for the test.
        seed: of the division into training and test.
        cache: gigabytes that drawn images may take in memory, a byte a pixel; 0 draws them anew at each visit.

    Raises:
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        split: Split = "train",
        size: Count = 64,
        shapes: Count = 3,
        scales: Count = 4,
        rotations: Count = 16,
        places: Count = 16,
        brightness: Count = 1,
        test_share: Fraction = 0.1,
        seed: NonNegativeInt = 0,
        cache: NonNegative = 0.5,
    ) -> None:
        sizes = {"shape": shapes, "scale": scales, "rotation": rotations, "x": places, "y": places}
        if not 2 <= shapes <= len(_EDGES):
            raise ValueError(f"shapes: expected 2 to {len(_EDGES)}, found {shapes}")
        for name, found in sizes.items():
            if found < 2:
                raise ValueError(f"Sprites: {name} has {found} values; expected at least 2")
        if brightness < 1 or size < 8 or cache < 0:
            raise ValueError(
                "Sprites: expected brightness of at least 1, size of at least 8 and cache of at least 0; "
                f"found {brightness}, {size} and {cache:g}"
            )
        if brightness > 1:
            sizes["brightness"] = brightness
        super().__init__(tuple(sizes.values()), tuple(sizes), split, test_share, seed)
        self.size = size
        self.source = f"drawn: sprites on {size}x{size} pixels"
        self.fingerprint = digest(f"Sprites {size} {self.factor_sizes} {split} {test_share} {seed}")
        self._kept = Kept(len(self), (1, size, size), cache)

    def pixels(self, rows: Tensor, draws: Draws) -> Tensor:
        """Images of the items in some rows: ``[B]`` int64 -> ``[B, 1, size, size]`` float32 in [-1, 1]."""
        if self._stored is not None:
            return self._stored[rows]
        level = self._kept.take(rows, lambda new: self._levels(self.factors_at(new)))
        return level.float().div_(127.5).sub_(1)

    def draw(self, factors: Tensor) -> Tensor:
        """Images ``[B, 1, size, size]`` of factors ``[B, F]`` that are in range."""
        return self._levels(factors).float().div_(127.5).sub_(1)

    def _levels(self, factors: Tensor) -> Tensor:
        """``[B, F]`` int64 -> ``[B, 1, size, size]`` uint8."""
        out = torch.empty(len(factors), 1, self.size, self.size, dtype=torch.uint8)
        piece = max(1, _PIECE // self.size**2)
        for start in range(0, len(out), piece):
            out[start : start + piece, 0] = torch.from_numpy(self._drawn(factors[start : start + piece].numpy()))
        return out

    def _drawn(self, factors: np.ndarray) -> np.ndarray:
        """``[B, F]`` -> ``[B, size, size]`` uint8."""
        share = factors / np.maximum(1, np.array(self.factor_sizes) - 1)  # in [0, 1]
        reach = _SMALLEST + (_LARGEST - _SMALLEST) * share[:, 1]  # as a share of the image
        angle = 2 * np.pi * factors[:, 2] / self.factor_sizes[2]
        centre = _LARGEST + (1 - 2 * _LARGEST) * share[:, 3:5]  # x and y
        light = 0.5 + 0.5 * share[:, 5] if factors.shape[1] > 5 else np.ones(len(factors))

        along = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size
        x = ((along - centre[:, :1]) / reach[:, None]).astype(np.float32)  # [B, size], in units of the shape
        y = ((along - centre[:, 1:]) / reach[:, None]).astype(np.float32)
        cos, sin = (f(angle).astype(np.float32)[:, None] for f in (np.cos, np.sin))
        out = np.zeros((len(factors), self.size, self.size), np.float32)
        for shape, edges in enumerate(_EDGES[: self.factor_sizes[0]]):
            mine = np.flatnonzero(factors[:, 0] == shape)
            if not len(mine):
                continue
            far = np.full((len(mine), self.size, self.size), -np.inf, np.float32)  # from the shape; within, below 0
            for normal, bound in edges:
                # The normal, turned; what it says of a point is a sum of what it says of its column and of its row.
                nx = normal[0] * cos[mine] - normal[1] * sin[mine]
                ny = normal[0] * sin[mine] + normal[1] * cos[mine]
                np.maximum(far, (nx * x[mine])[:, None, :] + (ny * y[mine] - bound)[:, :, None], out=far)
            if shape == _ROUND:
                # The centre of the circle lies off the shape's own, and turns with it.
                cx, cy = -_OFF * sin[mine], _OFF * cos[mine]
                round_ = np.sqrt(((x[mine] - cx) ** 2)[:, None, :] + ((y[mine] - cy) ** 2)[:, :, None]) - _RADIUS
                np.maximum(far, round_, out=far)
            out[mine] = np.clip(0.5 - far * (reach[mine] * self.size).astype(np.float32)[:, None, None], 0, 1)
        return np.rint(out * (255 * light.astype(np.float32))[:, None, None]).astype(np.uint8)


_PIECE = 2**18
"""Pixels that are drawn at once; they fit into a processor's cache."""
_SMALLEST, _LARGEST = 1 / 8, 1 / 4
"""From the centre of a shape to the corner that is farthest, as a share of the image."""


def _edges(*corners: tuple[float, float]) -> list[tuple[tuple[float, float], float]]:
    """The sides of a convex polygon, its corners in the order of the clock (y points down): outward normals of length
    1, and how far along them the polygon reaches."""
    found = []
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        length = math.hypot(x1 - x0, y1 - y0)
        normal = ((y1 - y0) / length, -(x1 - x0) / length)
        found.append((normal, normal[0] * x0 + normal[1] * y0))
    return found


_EDGES = (
    _edges((0, -1), (0.6, 0.8), (-0.6, 0.8)),
    [((0.0, -1.0), 0.35)],  # the straight side of the half disc, which is above
    _edges((-0.3, -0.7), (0.3, -0.7), (0.8, 0.6), (-0.8, 0.6)),
)
"""Straight sides of each shape; all lies within 1 of its centre."""
_ROUND = 1
"""The shape that has a round side besides: the circle's centre is in the middle of the straight one."""
_OFF, _RADIUS = -0.35, 0.93
