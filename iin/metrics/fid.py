r"""Fréchet distance between the features of two sets of images.

Features of either set are summed up by mean and covariance, and the two Gaussians compared:

.. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2})

With the features of the reference Inception network this is the FID; with any others it is a Fréchet distance, whose
numbers cannot be compared with FIDs, and the figures' names say which. All images, real and generated, are first
clipped and rounded to 8-bit levels, as published FIDs are computed from saved pictures.

References:
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et al., 2017)
    | https://arxiv.org/abs/1706.08500
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from iin.arguments import Count
from iin.metrics.contract import decodes
from iin.models.features import Inception, cache_folder, extractor, quantise
from iin.system import System

__all__ = ["FID", "Statistics", "frechet_distance"]


def frechet_distance(mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians.

    The trace of the root comes from two symmetric eigendecompositions in float64, so it is real, and defined for
    singular covariances too.

    Args:
        mean_a: ``[d]``, tensor or array.
        cov_a: ``[d, d]``, symmetric, positive semidefinite.
        mean_b: ``[d]``.
        cov_b: ``[d, d]``.

    Returns:
        A number >= 0, in squared units of the features.

    Raises:
        ValueError: shapes do not fit, or a number is not finite.
    """
    parts = [torch.as_tensor(part, dtype=torch.float64, device="cpu") for part in (mean_a, cov_a, mean_b, cov_b)]
    shapes = [list(part.shape) for part in parts]
    if parts[0].ndim != 1 or shapes != [[len(parts[0])], [len(parts[0])] * 2] * 2:
        raise ValueError(f"expected means [d] and covariances [d, d], found {', '.join(map(str, shapes))}")
    if not all(part.isfinite().all() for part in parts):
        raise ValueError("means and covariances must be finite; the features hold NaN or infinity")
    mu_a, sigma_a, mu_b, sigma_b = parts
    values, vectors = torch.linalg.eigh(sigma_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    product = root @ sigma_b @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp_min(0).sqrt().sum()
    distance = (mu_a - mu_b).square().sum() + sigma_a.trace() + sigma_b.trace() - 2 * cross
    return max(distance.item(), 0.0)


class Statistics:
    """Mean and covariance of features that arrive in batches of any size.

    Float64; each batch is centred before it is multiplied out, so large means cost no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)

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


class FID:
    """Fréchet distance of samples and of reconstructions from the test images.

    Figures: ``fid/samples`` and ``fid/reconstructions`` with the Inception network's features, and only with those;
    ``fd_digits/...`` with those of the shipped digit network; ``fd_<name>/...`` with any other. A system without
    ``sample(n)`` or ``reconstruct(image)``, or without a decoder, lacks the figure. As many samples are drawn as there
    are real images.

    The mean and covariance of the real images are kept in ``$IIN_CACHE/statistics`` (default ``~/.cache/iin``) for
    data sets and extractors that have a ``fingerprint``.

    Args:
        extractor: ``digits``, ``inception`` or a callable, image ``[B, C, H, W]`` in [-1, 1] -> ``[B, d]``.
        images: how many test images are compared, at most; of pairs, the first images count.
        weights: path of the Inception weights; by default they are looked for in the caches.
        download: fetch them when they are found nowhere.
        batch_size: images a batch, here; that of the data does not matter.

    Raises:
        ValueError: Inception is asked for and its weights or package are missing; fewer than two test images.
    """

    def __init__(
        self,
        extractor: Literal["digits", "inception"] | Callable[[Tensor], Tensor] = "digits",
        images: Count = 10000,
        weights: str | None = None,
        download: bool = False,
        batch_size: Count = 250,
    ) -> None:
        self.extractor = _extractor(extractor, weights, download)
        self.images = images
        self.batch_size = batch_size
        name = getattr(self.extractor, "name", None) or getattr(self.extractor, "__name__", None)
        self.name = str(name or type(self.extractor).__name__).lower()
        self.prefix = "fid" if isinstance(self.extractor, Inception) else f"fd_{self.name}"
        self.facts: dict[str, Any] = {"extractor": self.name}
        """What the figures were made with, to be recorded beside them: ``extractor`` and, once called, ``images``."""
        self._warned = False

    @staticmethod
    def lacks(extractor: Any = "digits", weights: str | None = None, download: bool = False, **_: Any) -> Iterator[str]:
        """What this metric needs with these arguments, and is not here."""
        if extractor == "inception":
            problem = Inception.missing(weights, download)
            if problem:
                yield problem

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        device = next((p.device for p in system.parameters()), torch.device("cpu"))
        path = self._cache_path(batches, device)
        real = _load(path) if path else None
        cached, real = real is not None, real or Statistics()
        able = decodes(system)
        reconstruct, sample = (getattr(system, name, None) if able else None for name in ("reconstruct", "sample"))
        reconstructions, samples = Statistics(), Statistics()
        if not cached or reconstruct:
            for image in _chunks(batches, self.batch_size, self.images):
                if not cached:
                    self._add(real, image)
                if reconstruct:
                    self._add(reconstructions, reconstruct(image))
        self._check_count(real)
        if path and not cached:
            _save(path, real)
        if sample:
            for start in range(0, real.count, self.batch_size):
                self._add(samples, sample(min(self.batch_size, real.count - start)))
        self.facts["images"] = real.count
        return {
            f"{self.prefix}/{name}": frechet_distance(real.mean, real.covariance, made.mean, made.covariance)
            for name, made in (("samples", samples), ("reconstructions", reconstructions))
            if made.count
        }

    def _add(self, statistics: Statistics, image: Tensor) -> None:
        if not image.isfinite().all():  # rounding to levels would hide it
            raise ValueError("FID: images hold NaN or infinity")
        statistics.add(self.extractor(quantise(image)))

    def _check_count(self, real: Statistics) -> None:
        if real.count < 2:
            raise ValueError(f"FID: at least 2 test images are needed, found {real.count}")
        if real.count <= len(real.mean) and not self._warned:
            self._warned = True
            warnings.warn(
                f"FID: {real.count} images for {len(real.mean)} features: the covariance is singular and the distance "
                f"unreliable; use at least {len(real.mean) + 1}",
                stacklevel=3,
            )

    def _cache_path(self, batches: Iterable[Any], device: torch.device) -> Path | None:
        data, features = getattr(batches, "fingerprint", None), getattr(self.extractor, "fingerprint", None)
        if not data or not features:
            return None
        # Rounding differs between devices, versions and batch sizes: figures would depend on who filled the cache.
        key = f"1 {data} {features} {self.images} {self.batch_size} {device.type} {torch.__version__}"
        return cache_folder() / "statistics" / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.pt"


_extractor = extractor  # the argument of FID has the same name


def _chunks(batches: Iterable[Any], size: int, limit: int) -> Iterator[Tensor]:
    """Images in chunks of one size, whatever the batches' is; at most ``limit`` of them."""
    waiting: list[Tensor] = []
    held = 0
    for batch in batches:
        image = batch.image[:limit]
        limit -= len(image)
        waiting.append(image)
        held += len(image)
        while held >= size:
            joined = torch.cat(waiting)
            yield joined[:size]
            waiting, held = [joined[size:]], held - size
        if not limit:
            break
    if held:
        yield torch.cat(waiting)


def _save(path: Path, statistics: Statistics) -> None:
    """Write to a temporary file and rename it; a cache that cannot be written is none, and no error."""
    fields = {"count": statistics.count, "mean": statistics.mean, "scatter": statistics.scatter}
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            torch.save(fields, file)
        os.replace(temporary, path)
    except (OSError, RuntimeError):  # torch.save reports a full disk as a RuntimeError
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _load(path: Path) -> Statistics | None:
    """Statistics from the cache; None where there are none, or the file is damaged."""
    try:
        fields = torch.load(path, weights_only=True)
        result = Statistics()
        result.count, result.mean, result.scatter = int(fields["count"]), fields["mean"], fields["scatter"]
        dim = len(result.mean)
        sound = (
            result.mean.dtype == result.scatter.dtype == torch.float64
            and result.scatter.shape == (dim, dim)
            and bool(result.mean.isfinite().all() and result.scatter.isfinite().all())
        )
    except Exception:  # whatever is wrong with the file, it can be made again
        return None
    return result if sound else None
