"""What distances between sets of images are computed from: mean and covariance of features, and the features.

`Statistics` takes features in, batch by batch; `Summary` is what is known of a set in the end, and can be written to a
file and read again. The files are numpy's, ``.npz``, with ``mu [d]`` and ``sigma [d, d]``: the layout that published
statistics have, so that those are read too. Beside them stand, in files of this package,

* ``images``: how many there were,
* ``extractor``, ``fingerprint``: whose features these are, by name and to the bit,
* ``source``: which images,
* ``features [n, d]`` float32: for the kernel distance, which mean and covariance do not determine.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from iin.distributed import largest, total
from iin.files import write_atomically
from iin.metrics.frechet import frechet_distance, frechet_distance_of_few

__all__ = ["Statistics", "Summary"]

BLOCK = 512
"""Rows that are multiplied out at a time."""


class Summary(NamedTuple):
    """What is known of the features of a set of images."""

    mean: Tensor
    """``[d]`` float64."""
    covariance: Tensor
    """``[d, d]`` float64, unbiased."""
    images: int | None = None
    """How many there were; None where a file does not say."""
    features: Tensor | None = None
    """``[n, d]`` float32, where they were kept."""
    extractor: str | None = None
    """Name of the extractor, where it is known."""
    fingerprint: str | None = None
    """Of the extractor."""
    source: str | None = None
    """Where the images came from, in words."""

    @property
    def dim(self) -> int:
        """Number of features."""
        return len(self.mean)

    def distance(self, other: Summary) -> float:
        """Squared Fréchet distance to another set, from whatever is the fastest that gives it exactly.

        Features that were kept make up for covariances where there are fewer images than features.

        Raises:
            ValueError: the two have different numbers of features, or a number is not finite.
        """
        few = [s for s in (self, other) if s.features is not None and len(s.features) < s.dim]
        if not few or self.dim != other.dim:
            return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)
        if len(few) == 2:
            return frechet_distance_of_few(self.features, other.features)  # type: ignore[arg-type]
        (one,) = few
        rest = other if one is self else self
        return frechet_distance_of_few(one.features, (rest.mean, rest.covariance))  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file; one that was there stays until the new one is complete.

        Raises:
            OSError: it cannot be written.
        """
        arrays: dict[str, Any] = {"mu": self.mean.numpy(), "sigma": self.covariance.numpy()}
        for name in ("images", "extractor", "fingerprint", "source", "features"):
            value = getattr(self, name)
            if value is not None:
                arrays[name] = value.numpy() if isinstance(value, Tensor) else np.array(value)
        with write_atomically(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Summary:
        """Read an ``.npz`` file, of this package or of another that holds ``mu`` and ``sigma``.

        Raises:
            ValueError: it is missing, damaged, or holds something else.
        """
        if not path.is_file():
            raise ValueError(f"no file {path}; write one with scripts/fid_stats.py")
        try:
            with np.load(path, allow_pickle=False) as file:
                known = {name: file[name] for name in (*_ARRAYS, *_WORDS, "images") if name in file.files}
        except Exception as error:  # whatever is wrong with the file, its readers raise all sorts of things
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: no file of statistics: expected .npz with mu and sigma ({reason})") from error
        complaint = _complaint(known)
        if complaint:
            raise ValueError(f"{path}: no sound statistics: {complaint}")
        features = known.get("features")
        return cls(
            torch.from_numpy(known["mu"].astype(np.float64)),
            torch.from_numpy(known["sigma"].astype(np.float64)),
            images=int(known["images"]) if "images" in known else None,
            features=None if features is None else torch.from_numpy(features.astype(np.float32)),
            **{name: str(known[name]) for name in _WORDS if name in known},
        )


_ARRAYS = {"mu": 1, "sigma": 2, "features": 2}
"""Name in a file -> number of dimensions."""
_WORDS = ("extractor", "fingerprint", "source")


def _complaint(known: dict[str, np.ndarray]) -> str | None:
    """What is wrong with the content of a file."""
    if lacking := [name for name in ("mu", "sigma") if name not in known]:
        return f"expected mu [d] and sigma [d, d], found no {' and no '.join(lacking)}"
    shapes = {name: list(known[name].shape) for name in _ARRAYS if name in known}
    dim = known["mu"].size
    expected = {"mu": [dim], "sigma": [dim, dim], "features": [shapes.get("features", [0])[0], dim]}
    for name, shape in shapes.items():
        if known[name].dtype.kind != "f" or shape != expected[name] or not dim:
            wanted = {"mu": "[d]", "sigma": "[d, d]", "features": "[n, d]"}[name]
            return f"expected {name} {wanted} of floating point numbers, found {shape} of {known[name].dtype}"
        if not np.isfinite(known[name]).all():
            return f"{name} holds NaN or infinity"
    if not np.allclose(known["sigma"], known["sigma"].T, rtol=1e-3, atol=1e-6 * np.abs(known["sigma"]).max()):
        return "sigma is not symmetric"
    spread = np.linalg.eigvalsh(known["sigma"].astype(np.float64))
    if spread[0] < -1e-4 * abs(spread[-1]):
        return f"sigma is no covariance: its smallest eigenvalue is {spread[0]:.3g}, the largest {spread[-1]:.3g}"
    images = known.get("images")
    if images is not None and not (images.shape == () and images.dtype.kind in "iu" and images >= 2):
        return f"expected images to be a number >= 2, found {images}"
    features = known.get("features")
    if features is not None and len(features) < 2:
        return f"expected features of at least 2 images, found {len(features)}"
    if features is not None and images is not None and len(features) != images:
        return f"features of {len(features)} images, but mu and sigma are of {images}"
    return None


class Statistics:
    """Mean and covariance of features that arrive in batches of any size.

    Float64; each block of rows is centred before it is multiplied out, so large means cost no digits. What comes out
    does not depend on the batches, to the bit: rows wait until there are enough of them for a fast product.

    Args:
        keep: keep the features themselves too: 4 bytes each.
    """

    def __init__(self, keep: bool = False) -> None:
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)
        self._count = 0
        self._waiting: list[Tensor] = []
        self._kept: list[Tensor] | None = [] if keep else None

    def add(self, features: Tensor) -> None:
        """Take in features ``[B, d]``.

        Raises:
            ValueError: not ``[B, d]`` of the same d as before, or not finite.
        """
        dim = self.dim
        if features.ndim != 2 or (dim is not None and features.shape[1] != dim):
            expected = "[B, d]" if dim is None else f"[B, {dim}]"
            raise ValueError(f"features: expected {expected}, found {list(features.shape)}")
        values = features.detach().cpu()
        if not values.isfinite().all():
            raise ValueError("features hold NaN or infinity; are the images finite?")
        if not len(values):
            return
        if self._kept is not None:
            self._kept.append(values.float())
        while len(values):
            room = BLOCK - sum(map(len, self._waiting))
            self._waiting.append(values[:room].clone())  # whoever made them may change them
            values = values[room:]
            if sum(map(len, self._waiting)) == BLOCK:
                self._settle()

    def merge(self, other: Statistics) -> None:
        """Take in all that another has seen, as if it had been added here, but for rounding; the other stays as it is.

        Raises:
            ValueError: its features are of another size, or it has not kept them and this has.
        """
        if not other.count:
            return
        if self.dim not in (None, other.dim):
            raise ValueError(f"expected statistics of {self.dim} features, found some of {other.dim}")
        if self._kept is not None:
            if other._kept is None:
                raise ValueError("these statistics keep features, the others did not")
            self._kept.extend(other._kept)
        count, mean, scatter = other.count, other.mean, other.scatter
        self._settle()
        self._join(count, mean, None)
        self._scatter += scatter

    def everywhere(self) -> Statistics:
        """Those of all processes, merged; each must ask, also one that has seen nothing. Features are left out."""
        self._settle()
        dim = int(largest(torch.tensor(len(self._mean))))
        mean, scatter = self._mean, self._scatter
        if not self._count:
            mean, scatter = mean.new_zeros(dim), scatter.new_zeros(dim, dim)
        found = Statistics()
        found._count = int(total(torch.tensor(self._count)))
        if not found._count:
            return found
        found._mean = total(self._count * mean) / found._count
        row = (mean - found._mean)[None] * math.sqrt(self._count)
        found._scatter = total(scatter.addmm(row.T, row))
        return found

    def _settle(self) -> None:
        """Multiply out the rows that wait."""
        if not self._waiting:
            return
        rows = torch.cat(self._waiting).double()
        self._waiting = []
        mean = rows.mean(0)
        self._join(len(rows), mean, rows.sub_(mean))

    def _join(self, count: int, mean: Tensor, centred: Tensor | None) -> None:
        """Take in a set by its number, its mean and its rows without that; or, of a scatter, the mean alone."""
        if not self._count:
            dim = len(mean)
            self._mean, self._scatter = mean.new_zeros(dim), mean.new_zeros(dim, dim)
        whole = self._count + count
        shift = mean - self._mean
        # What the means differ by is one row more.
        row = shift[None] * math.sqrt(self._count * count / whole)
        rows = row if centred is None else torch.cat([centred, row])
        self._scatter.addmm_(rows.T, rows)
        self._mean = self._mean + shift * (count / whole)
        self._count = whole

    @property
    def count(self) -> int:
        """How many there were."""
        return self._count + sum(map(len, self._waiting))

    @property
    def dim(self) -> int | None:
        """Number of features; None before there were any."""
        if self._waiting:
            return self._waiting[0].shape[1]
        return len(self._mean) if self._count else None

    @property
    def mean(self) -> Tensor:
        """``[d]`` float64; ``[0]`` before there were any."""
        self._settle()
        return self._mean

    @property
    def scatter(self) -> Tensor:
        """Sum of the products of centred features, ``[d, d]`` float64."""
        self._settle()
        return self._scatter

    @property
    def covariance(self) -> Tensor:
        """``[d, d]``, unbiased.

        Raises:
            ValueError: fewer than two features were added.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, found {self.count}")
        return self.scatter / (self.count - 1)

    def summary(self, **about: str | None) -> Summary:
        """All of it.

        Args:
            about: ``extractor``, ``fingerprint``, ``source``.

        Raises:
            ValueError: fewer than two features were added.
        """
        features = torch.cat(self._kept) if self._kept else None
        return Summary(self.mean, self.covariance, self.count, features, **about)
