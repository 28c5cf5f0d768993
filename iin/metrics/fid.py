r"""Distances between the features of two sets of images: of samples, and of reconstructions, from real images.

The Fréchet distance sums either set up by mean and covariance, and compares the two Gaussians:

.. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2})

With the features of the reference Inception network this is the FID; with any others it is a Fréchet distance, whose
numbers cannot be compared with FIDs, and the figures' names say which. Beside it stands a kernel distance of the same
features, the KID (`iin.metrics.kid`). All images, real and generated, are first clipped and rounded to 8-bit levels, as
published figures are computed from saved pictures (`iin.models.features.levels` says how).

References:
    | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et al., 2017)
    | https://arxiv.org/abs/1706.08500
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from iin.arguments import Count, NonNegativeInt
from iin.distributed import total
from iin.files import cache_folder
from iin.metrics.contract import decodes, gathered, kept, made, placed, sampled, share
from iin.metrics.kid import kernel_distance, subset_size
from iin.metrics.statistics import Statistics, Summary
from iin.models.features import Inception, extractor, quantise
from iin.system import System

__all__ = ["FID"]


class FID:
    """FID and KID of samples and of reconstructions from the test images, from the same features.

    Figures: ``fid/samples`` and ``fid/reconstructions`` with the Inception network's features, and only with those;
    ``fd_digits/...`` with those of the shipped digit network; ``fd_<name>/...`` with any other. Likewise
    ``kid/samples``, with ``kid/samples_std``, the standard deviation over subsets, and ``kid_digits/...``. A system
    without ``sample(n)`` or ``reconstruct(image)``, or without a decoder, lacks the figure. As many samples are drawn
    as there are real images; where those come from a file, ``images`` of them.

    The statistics of the real images are kept in ``$IIN_CACHE/statistics`` (default ``~/.cache/iin``) for data sets and
    extractors that have a ``fingerprint``. For KID the features themselves are kept as well, here and there: 4 bytes
    each, 82 MB for 10,000 images seen by the Inception network.

    Args:
        extractor: ``digits``, ``inception`` or a callable, image ``[B, C, H, W]`` in [-1, 1] -> ``[B, d]``.
        images: how many test images are compared, at most; of pairs, the first images count.
        statistics: ``.npz`` file whose statistics are compared with, in the place of the test images': one that
            ``scripts/fid_stats.py`` wrote, or any other with ``mu`` and ``sigma``. KID needs features, which
            others' files do not have.
        kid_subsets: random subsets that KID is averaged over; 0 leaves KID out.
        kid_subset_size: images a subset; at most half of the images there are (see `iin.metrics.kid.subset_size`).
        weights: path of the Inception weights; by default they are looked for in the caches.
        download: fetch them when they are found nowhere.
        batch_size: samples drawn, and images looked at, at a time; of larger test batches, in parts.

    Raises:
        ValueError: Inception is asked for and its weights or package are missing; the file of statistics is none, or of
            another extractor; fewer than two images.
    """

    def __init__(
        self,
        extractor: Literal["digits", "inception"] | Callable[[Tensor], Tensor] = "digits",
        images: Annotated[int, Ge(2)] = 10000,
        statistics: str | Path | None = None,
        kid_subsets: NonNegativeInt = 100,
        kid_subset_size: Annotated[int, Ge(2)] = 1000,
        weights: str | Path | None = None,
        download: bool = False,
        batch_size: Count = 250,
    ) -> None:
        self.extractor = _extractor(extractor, weights, download)
        self.images = images
        self.kid_subsets = kid_subsets
        self.kid_subset_size = kid_subset_size
        self.batch_size = batch_size
        name = getattr(self.extractor, "name", None) or getattr(self.extractor, "__name__", None)
        self.name = str(name or type(self.extractor).__name__).lower()
        reference = isinstance(self.extractor, Inception) and self.extractor.reference
        self.prefix, self.kid_prefix = ("fid", "kid") if reference else (f"fd_{self.name}", f"kid_{self.name}")
        self.statistics = None if statistics is None else Path(statistics)
        self._given = None if self.statistics is None else self._read(self.statistics)
        self.facts: dict[str, Any] = {"extractor": self.name}
        """What the figures were made with, to be recorded beside them: ``extractor`` and, once called, ``images``,
        ``kid`` (subsets), ``statistics`` (the file) and ``figures`` (their names)."""
        self._warned = False

    @staticmethod
    def lacks(
        extractor: Any = "digits",
        weights: str | Path | None = None,
        download: bool = False,
        statistics: str | Path | None = None,
        **_: Any,
    ) -> Iterator[str]:
        """What this metric needs with these arguments, and is not here."""
        if extractor == "inception":
            problem = Inception.missing(weights, download)
            if problem:
                yield problem
        if statistics is not None and not Path(statistics).is_file():
            yield f"statistics: no file {statistics}; write it with scripts/fid_stats.py"

    divided = True

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        able = decodes(system)
        reconstruct, sample = (able and callable(getattr(system, name, None)) for name in ("reconstruct", "sample"))
        if not reconstruct and not sample:
            return {}
        path = None if self._given else self._cache_path(batches, _device(system))
        real = self._given or _known(batches, path)
        # A sample of a conditional flow belongs to a test image, whose representation it has.
        resample = sample and bool(getattr(system, "conditional", False))
        found, reconstructions, samples = (_Found(self._keeps) for _ in range(3))
        if not real or reconstruct:
            for start, batch in placed(batches):
                if start >= self.images:
                    break
                count = min(len(batch.image), self.images - start)
                if not real:
                    found.add(start, self._features_of(system, batch, "image", batch.image[:count]))
                if reconstruct:
                    image = made(system, batch, "reconstruct")[:count]
                    reconstructions.add(start, self._features_of(system, batch, "reconstruct", image))
                if resample:
                    image = made(system, batch, "resample")[:count]
                    samples.add(start, self._features_of(system, batch, "resample", image))
        real = real or self._finished(found, batches, path)
        if sample and not resample:
            count = self.images if self._given else real.images or 0
            number, shares = share(batches)
            for index in range(number, -(-count // self.batch_size), shares):
                start = index * self.batch_size
                image = sampled(system, batches, min(self.batch_size, count - start), index)
                samples.add(start, self._features_of(system, batches, f"sample {index}", image))
        made_of = {"samples": samples, "reconstructions": reconstructions}
        summaries = {name: part.summary(batches) for name, part in made_of.items()}
        return self._compare(real, {name: one for name, one in summaries.items() if one.images}, share(batches))

    @torch.no_grad()
    def measure(self, batches: Iterable[Any], device: torch.device | str = "cpu", source: str | None = None) -> Summary:
        """The statistics that this metric compares with, of the images of some batches.

        Args:
            batches: with ``image [B, C, H, W]``; ``images`` of them count.
            device: where these images are.
            source: what they are, in words.

        Raises:
            ValueError: fewer than two images.
        """
        path = self._cache_path(batches, torch.device(device))
        summary = _known(batches, path)
        if not summary:
            found = _Found(self._keeps)
            for start, batch in placed(batches):
                if start >= self.images:
                    break
                found.add(start, self._features(batch.image[: self.images - start]))
            summary = self._finished(found, batches, path)
        return summary._replace(source=source)

    def _compare(self, real: Summary, made: dict[str, Summary], share: tuple[int, int]) -> dict[str, float]:
        """All figures, and the facts about them."""
        for name, one in made.items():
            if one.dim != real.dim:
                raise ValueError(
                    f"FID: {self.statistics or 'the real images'} have {real.dim} features, {name} have "
                    f"{one.dim} by the extractor {self.name}; they must be of the same extractor"
                )
            if one.images is not None and one.images < 2:
                raise ValueError(f"FID: at least 2 {name} are needed, found {one.images}")
        counts = {name: one.images or 0 for name, one in made.items()}
        self._warn_of_few(min([*counts.values(), *([real.images] if real.images else [])]), real.dim)
        alike = len(set(counts.values())) == 1
        self.facts["images"] = (
            next(iter(counts.values())) if alike else ", ".join(f"{count} {name}" for name, count in counts.items())
        )
        if self.statistics is not None:
            number = "an unknown number of" if real.images is None else real.images
            self.facts["statistics"] = f"{self.statistics.name} ({number} images)"
        figures = {f"{self.prefix}/{name}": real.distance(one) for name, one in made.items()}
        sizes = {}
        for name, one in made.items() if self.kid_subsets else ():
            if real.features is None or one.features is None:
                continue
            distance = kernel_distance(real.features, one.features, self.kid_subsets, self.kid_subset_size, share=share)
            figures[f"{self.kid_prefix}/{name}"] = distance.mean
            figures[f"{self.kid_prefix}/{name}_std"] = distance.deviation
            sizes[subset_size(min(len(real.features), len(one.features)), self.kid_subset_size)] = name
        if sizes:
            self.facts["kid"] = f"{self.kid_subsets} subsets of {' and '.join(map(str, sizes))}"
        self.facts["figures"] = list(figures)
        return figures

    @property
    def _keeps(self) -> bool:
        """Whether features are kept, for KID."""
        return bool(self.kid_subsets and (self._given is None or self._given.features is not None))

    def _read(self, path: Path) -> Summary:
        """Statistics from a file, known to fit as far as it tells."""
        found = Summary.load(path)
        if found.extractor not in (None, self.name):
            raise ValueError(f"{path}: statistics by the extractor {found.extractor}, but extractor is {self.name}")
        own = getattr(self.extractor, "fingerprint", None)
        if found.fingerprint is not None and own and found.fingerprint != own:
            raise ValueError(
                f"{path}: statistics by another version of the extractor {self.name}; write them again with "
                "scripts/fid_stats.py"
            )
        dim = getattr(self.extractor, "dim", None)
        if dim not in (None, found.dim):
            raise ValueError(f"{path}: statistics of {found.dim} features, but the extractor {self.name} has {dim}")
        if self.kid_subsets and found.features is None:
            warnings.warn(
                f"FID: {path.name} has no features, so there will be no KID; kid_subsets: 0 leaves it out without "
                "this line",
                stacklevel=4,
            )
        return found

    def _features_of(self, system: System, place: Any, kind: str, image: Tensor) -> Tensor:
        """Features of images of some batch, or of samples, which other entries may have asked for too."""
        extractor = getattr(self.extractor, "fingerprint", None) or id(self.extractor)
        return kept(system, place, (kind, len(image), extractor, self.batch_size), lambda: self._features(image))

    def _features(self, image: Tensor) -> Tensor:
        if not image.isfinite().all():  # rounding to levels would hide it
            raise ValueError("FID: images hold NaN or infinity")
        return torch.cat([self.extractor(quantise(part)) for part in image.split(self.batch_size)])

    def _finished(self, found: _Found, batches: Iterable[Any], path: Path | None) -> Summary:
        """The summary of the real images, which goes into the cache."""
        summary = found.summary(batches, extractor=self.name, fingerprint=getattr(self.extractor, "fingerprint", None))
        if (summary.images or 0) < 2:
            raise ValueError(f"FID: at least 2 test images are needed, found {summary.images}")
        if path and share(batches)[0] == 0:
            with contextlib.suppress(OSError):  # a cache that cannot be written is none, and no error
                path.parent.mkdir(parents=True, exist_ok=True)
                summary.save(path)
        return summary

    def _warn_of_few(self, images: int, dim: int) -> None:
        if images <= dim and not self._warned:
            self._warned = True
            rather = f", or look at {self.kid_prefix}/..." if self._keeps else ""
            warnings.warn(
                f"FID: {images} images for {dim} features: the covariance is singular and the distance unreliable; "
                f"use at least {dim + 1}{rather}",
                stacklevel=4,
            )

    def _cache_path(self, batches: Iterable[Any], device: torch.device) -> Path | None:
        data, features = getattr(batches, "fingerprint", None), getattr(self.extractor, "fingerprint", None)
        if not data or not features:
            return None
        # Rounding differs between devices, versions and batch sizes: figures would depend on who filled the cache.
        known = "features" if self._keeps else "moments"
        size = min(self.batch_size, next((len(batch.image) for batch in batches), 0))
        key = f"3 {known} {data} {features} {self.images} {size} {device.type} {torch.__version__}"
        return cache_folder() / "statistics" / f"{self.name}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


_extractor = extractor  # the argument of FID has the same name


def _device(system: System) -> torch.device:
    return next((p.device for p in system.parameters()), torch.device("cpu"))


class _Found:
    """What this process has seen of a set of images: their features' statistics, and the features where they count."""

    def __init__(self, keep: bool) -> None:
        self.statistics = Statistics()
        self.parts: list[tuple[int, Tensor]] | None = [] if keep else None

    def add(self, start: int, features: Tensor) -> None:
        """Take in features ``[B, d]`` of images from number ``start`` on."""
        self.statistics.add(features)
        if self.parts is not None:
            self.parts.append((start, features.detach().cpu().float()))

    def summary(self, batches: Iterable[Any], **about: str | None) -> Summary:
        """Of all that the processes have seen, if each has gone through its share; every one must ask."""
        divided = share(batches)[1] > 1
        found = self.statistics.everywhere() if divided else self.statistics
        features = None if self.parts is None else gathered(batches, self.parts)
        if found.count < 2:
            return Summary(found.mean, found.scatter, found.count, None, **about)
        return found.summary(**about)._replace(features=features)


KINDS = {"mean": torch.float64, "covariance": torch.float64, "features": torch.float32}
"""Types of what a summary holds."""


def _known(batches: Iterable[Any], path: Path | None) -> Summary | None:
    """Statistics from the cache; None where there are none, or the file is damaged: they can be made again.

    Of several processes the first looks, and tells the others, which may not see the same files, what it has found.
    """
    number, shares = share(batches)
    found: Summary | None = None
    if path and number == 0:
        with contextlib.suppress(ValueError):
            found = Summary.load(path)
    if shares == 1:
        return found
    sizes = torch.zeros(3, dtype=torch.int64)
    if found:
        kept = 0 if found.features is None else len(found.features)
        sizes = torch.tensor([found.dim, found.images or 0, kept])
    dim, images, kept = total(sizes).tolist()
    if not dim:
        return None
    told: dict[str, Tensor] = {}
    for name, shape in {"mean": (dim,), "covariance": (dim, dim), "features": (kept, dim)}.items():
        own = getattr(found, name) if found else None
        told[name] = total(torch.zeros(shape, dtype=KINDS[name]) if own is None else own)
    return Summary(told["mean"], told["covariance"], images or None, told["features"] if kept else None)
