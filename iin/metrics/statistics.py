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

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from iin.files import write_atomically

__all__ = ["Statistics", "Summary"]


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

    Float64; each batch is centred before it is multiplied out, so large means cost no digits.

    Args:
        keep: keep the features themselves too: 4 bytes each.
    """

    def __init__(self, keep: bool = False) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)
        self._kept: list[Tensor] | None = [] if keep else None

    def add(self, features: Tensor) -> None:
        """Take in features ``[B, d]``.

        Raises:
            ValueError: not ``[B, d]`` of the same d as before, or not finite.
        """
        if features.ndim != 2 or (self.count and features.shape[1] != len(self.mean)):
            expected = f"[B, {len(self.mean)}]" if self.count else "[B, d]"
            raise ValueError(f"features: expected {expected}, found {list(features.shape)}")
        values = features.detach().cpu().double()
        if not values.isfinite().all():
            raise ValueError("features hold NaN or infinity; are the images finite?")
        count, mean = len(values), values.mean(0)
        if not count:
            return
        if self._kept is not None:
            self._kept.append(values.float())
        centred = values - mean
        if not self.count:
            self.count, self.mean, self.scatter = count, mean, centred.T @ centred
            return
        shift, total = mean - self.mean, self.count + count
        self.scatter += centred.T @ centred + torch.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

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
