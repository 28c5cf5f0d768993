"""What a layer fixes of an image, and what it leaves free: figures of conditional flows.

The samples of an image are ``t^-1(v | Phi(image))`` with v from the standard normal: codes of images that the layer
cannot tell from it, decoded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from iin.arguments import Count
from iin.metrics.contract import decodes, gathered, made, method, noisy_latent, placed, represented
from iin.seeds import mix
from iin.system import System

__all__ = ["Invariances", "Normality", "Share", "share_left_free"]

log = logging.getLogger("iin")


class Share(NamedTuple):
    """A share of the code's variance."""

    value: float
    error: float
    """Its standard error, over images."""


def share_left_free(variances: Tensor, codes: Tensor) -> Share:
    """Share of the code's variance that a representation leaves free.

    ``E_x[sum_d Var_v t^-1(v | Phi(x))_d] / sum_d Var(x_d)``: how much the codes of images with the same representation
    vary, in units of how much codes vary at all. What it leaves of 1 is the share that the representation fixes. The
    standard error is that of a ratio of two means over the same images (delta method).

    Args:
        variances: of the samples of each image, summed over dimensions ``[N]``; the unbiased ones.
        codes: of the same images ``[N, D]``.

    Raises:
        ValueError: fewer than two images, or codes that do not vary.

    References:
        Making Sense of CNNs: Interpreting Deep Representations & Their Invariances with INNs
        (Rombach, Esser and Ommer, 2020), arXiv:2008.01777, section 4 (the variance explained by v)
    """
    count = len(codes)
    if count < 2:
        raise ValueError(f"the share of a variance needs at least 2 images, found {count}")
    variances, codes = variances.double(), codes.double()
    all_ = (codes - codes.mean(0)).square().sum(1) * count / (count - 1)  # [N], whose mean is the unbiased variance
    total = all_.mean()
    if not total > 0:
        raise ValueError("the codes of all images are the same: there is no variance to be shared")
    share = variances.mean() / total
    error = (variances - share * all_).std() / (math.sqrt(count) * total)
    return Share(share.item(), error.item())


class Invariances:
    """What the layer under a conditional flow fixes, and what it leaves free.

    Figures, over test images and samples of each:

    * ``invariances/free``, ``/fixed``: shares of the variance of the first stage's code (see `share_left_free`), and
      ``/error``, their standard error over images; the code is a draw from the posterior, as in training, so that its
      noise counts as free;
    * ``invariances/difference``: mean absolute difference between samples and the first stage's reconstruction, in
      images of [-1, 1]; ``invariances/deviation``: standard deviation over the samples of an image, mean over pixels;
    * ``agreement/samples``: how often the network that is looked into predicts the same class for a sample as for the
      image; ``agreement/reconstructions``: for the first stage's reconstruction, about the most that samples can reach;
    * ``similarity/samples``, ``/samples_std``: cosine similarity of the representation of samples, encoded anew, with
      that of the image, mean and deviation; ``similarity/reconstructions``: the same of the reconstruction;
      ``similarity/others``: of another test image, never the same one.

    Those of images lack where the first stage does not decode, those of classes where the representation has no
    ``logits``.

    Args:
        images: how many test images count, at most.
        samples: of each image.
        batch_size: images made at a time.
    """

    divided = True

    def __init__(
        self, images: Annotated[int, Ge(2)] = 500, samples: Annotated[int, Ge(2)] = 10, batch_size: Count = 250
    ) -> None:
        self.images, self.samples, self.batch_size = images, samples, batch_size

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        _check_conditional(system, "Invariances")

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        self.check_system(system)
        found: dict[str, list[tuple[int, Tensor]]] = {}
        for start, batch in placed(batches):
            if start >= self.images:
                break
            count = min(len(batch.image), self.images - start)
            for name, values in self._of_batch(system, batch, count, start).items():
                found.setdefault(name, []).append((start, values))
        # In several processes all must ask for the same; the names hang on the system alone.
        names = ["variance", "code", *_names(system)]
        all_ = {name: gathered(batches, found.get(name, [])) for name in names}
        if not len(all_["code"]):
            raise ValueError("Invariances: there are no test images")
        share = share_left_free(all_.pop("variance"), all_.pop("code"))
        figures = {
            "invariances/free": share.value,
            "invariances/fixed": 1 - share.value,
            "invariances/error": share.error,
        }
        for name, each in all_.items():
            if len(each):
                figures[name] = each.double().nanmean().item()
            if name == "similarity/samples" and len(each):
                figures["similarity/samples_std"] = each.double().std(correction=0).item()
        return figures

    def _of_batch(self, system: Any, batch: Any, count: int, start: int) -> dict[str, Tensor]:
        """Figures of each image, ``[B]`` or ``[B, n]``."""
        (context,) = represented(system, batch, count)
        if not context.isfinite().all():
            raise ValueError("Invariances: the representation of a test image is not finite; look into another layer")
        code = made(system, batch, "noisy_code")[:count]
        generator = torch.Generator().manual_seed(mix(start, 5))
        z = system.latents(count * self.samples, generator).unflatten(0, (count, self.samples))  # [B, n, D]
        found = {"code": code}
        if not decodes(system):
            parts = [system.codes(context[rows], z[rows]) for rows in self._chunks(count)]
            return {**found, "variance": torch.cat(parts).var(1).sum(1)}
        image = batch.image[:count]
        again = made(system, batch, "reconstruct")[:count]
        asked = _Asked(system)
        parts_of: dict[str, list[Tensor]] = {}
        for rows in self._chunks(count):
            x = system.codes(context[rows], z[rows])  # [b, n, D]
            sample = system.first_stage.decode(x.flatten(0, 1))  # [b * n, C, H, W]
            each = sample.unflatten(0, x.shape[:2])
            part = {
                "variance": x.var(1).sum(1),
                "invariances/difference": (each - again[rows, None]).abs().flatten(2).mean(2),
                "invariances/deviation": each.std(1, correction=0).flatten(1).mean(1),
            }
            known = context[rows].flatten(1)[:, None]  # [b, 1, C...]
            seen = system.represent(sample).flatten(1).unflatten(0, x.shape[:2])
            part["similarity/samples"] = F.cosine_similarity(seen, known, dim=2)
            if asked.classifies:
                own = asked(image[rows])
                part["agreement/samples"] = (asked(sample).unflatten(0, x.shape[:2]) == own[:, None]).double()
                part["agreement/reconstructions"] = (asked(again[rows]) == own).double()
            for name, values in part.items():
                parts_of.setdefault(name, []).append(values)
        found |= {name: torch.cat(values) for name, values in parts_of.items()}
        flat = context.flatten(1)
        found["similarity/reconstructions"] = F.cosine_similarity(system.represent(again).flatten(1), flat)
        other = F.cosine_similarity(flat.roll(1, 0), flat)
        found["similarity/others"] = other if count > 1 else torch.full_like(other, math.nan)  # nothing but itself
        return found

    def _chunks(self, count: int) -> Iterator[slice]:
        step = max(1, self.batch_size // self.samples)
        return (slice(start, min(start + step, count)) for start in range(0, count, step))


class _Asked:
    """The network that is looked into, asked for classes."""

    def __init__(self, system: Any) -> None:
        self.logits: Callable[[Tensor], Tensor] | None = getattr(system.representation, "logits", None)

    @property
    def classifies(self) -> bool:
        return callable(self.logits)

    def __call__(self, image: Tensor) -> Tensor:
        assert self.logits is not None
        return self.logits(image).argmax(1)


def _names(system: Any) -> list[str]:
    """Figures that this system has, in the order of a table."""
    if not decodes(system):
        return []
    classes = ["agreement/samples", "agreement/reconstructions"] if _Asked(system).classifies else []
    similar = [f"similarity/{of}" for of in ("samples", "reconstructions", "others")]
    return ["invariances/difference", "invariances/deviation", *classes, *similar]


class Normality:
    """How far the latent of test images is from what it shall be: standard normal, each dimension by itself.

    Figures, over dimensions: ``latent/mean``, the root of the mean square of their means; ``latent/deviation``, the
    same of their standard deviations' distances from 1; ``latent/kolmogorov``, the mean distance between their
    distribution functions and the normal one (Kolmogorov-Smirnov; about ``0.87 / sqrt(images)`` for draws from it).
    """

    divided = True

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        method(system, "noisy_code", "Normality"), method(system, "flow", "Normality")

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        self.check_system(system)
        parts = [(start, noisy_latent(system, batch)[0]) for start, batch in placed(batches)]
        z = gathered(batches, parts).double()
        if len(z) < 2:
            raise ValueError(f"Normality: at least 2 test images are needed, found {len(z)}")
        return {
            "latent/mean": z.mean(0).square().mean().sqrt().item(),
            "latent/deviation": (z.std(0) - 1).square().mean().sqrt().item(),
            "latent/kolmogorov": _kolmogorov(z).mean().item(),
        }


def _kolmogorov(z: Tensor) -> Tensor:
    """Distance of each column's distribution function from the normal one: ``[N, D]`` -> ``[D]``."""
    expected = torch.special.ndtr(z.sort(0).values)
    above = torch.arange(1, len(z) + 1, dtype=z.dtype)[:, None] / len(z)
    return torch.maximum((above - expected).abs(), (above - 1 / len(z) - expected).abs()).amax(0)


def _check_conditional(system: System, metric: str) -> None:
    if not getattr(system, "conditional", False):
        raise ValueError(
            f"{metric} needs a conditional flow, LatentFlow(representation=...); this {type(system).__name__} is none"
        )
