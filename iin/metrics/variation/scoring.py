"""How well the latent that changed can be told, from pairs of images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from iin.metrics.variation.recogniser import Mode, Recogniser
from iin.seeds import mix

__all__ = ["Learning", "RunScore", "changed", "check_count", "learn", "score", "split", "summary"]

LOOKED_AT = 250
"""Pairs that are judged at a time."""
SMALLEST = 5
"""Side of images in pixels: of smaller ones a single value a channel remains, which has no variance over a batch."""


class Learning(NamedTuple):
    """How the recogniser learns."""

    mode: Mode = "diff"
    epochs: int = 200
    batch_size: int = 32
    lr: float = 0.01
    test_share: float = 0.9
    validation_share: float = 0.1
    every: int = 1

    def check(self) -> None:
        """Raise ValueError for numbers that make no sense."""
        for name in ("epochs", "batch_size", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr: expected more than 0, and finite, found {self.lr}")
        if not 0 < self.validation_share < self.test_share < 1:
            raise ValueError(
                "expected 0 < validation_share < test_share < 1 (the validation share is one of the test pairs), "
                f"found validation_share {self.validation_share} and test_share {self.test_share}"
            )


class RunScore(NamedTuple):
    """Accuracies of one recogniser."""

    published: float
    """The best of all epochs on the test pairs, which thereby choose the epoch."""
    honest: float
    """On test pairs that have no say in which epoch counts."""


def score(
    first: Tensor | np.ndarray,
    second: Tensor | np.ndarray,
    delta: Tensor | np.ndarray,
    *,
    latents: int | None = None,
    mode: Mode = "diff",
    runs: int = 3,
    epochs: int = 200,
    batch_size: int = 32,
    lr: float = 0.01,
    test_share: float = 0.9,
    validation_share: float = 0.1,
    every: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    check: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Variation predictability of pairs of images that differ in one latent each.

    A `Recogniser` learns from the share that is not for the test, by Adam and cross-entropy, and is judged on the test
    pairs after each epoch. ``published`` is its best accuracy there, over all epochs; so the field reports it, though
    the test pairs have chosen the epoch. ``honest`` takes the epoch that is best on a validation share of them, and is
    the accuracy on the rest. Both end early where all test pairs are told, since neither can rise then.

    Arrays stay where they are but for what is looked at; levels of 8 bits need the least memory.

    Args:
        first: images ``[N, C, H, W]``, in [-1, 1] or as uint8 levels; grey ones count as three equal channels.
        second: the same, changed.
        delta: differences of their latents ``[N, L]``, of which the largest one tells the latent, or its index ``[N]``.
        latents: their number ``L``; by default as ``delta`` has columns, or one more than the largest index.
        mode: what the recogniser sees, ``diff`` or ``concat``.
        runs: recognisers, each with a split and a beginning of its own, whose mean is taken.
        epochs: each learns for.
        batch_size: pairs a step.
        lr: learning rate.
        test_share: of the pairs.
        validation_share: of the pairs too, taken from those for the test.
        every: epochs from one look at the test pairs to the next; the last one is always looked at.
        seed: of splits, beginnings and orders.
        device: where the network is.
        check: called between steps; what it raises ends the work.

    Returns:
        ``published`` and ``honest``, shares of 1, means over runs; ``published_std`` and ``honest_std``, their standard
        deviations over runs (with n - 1; 0 of a single run).

    Raises:
        ValueError: images or latents are no arrays, do not fit together, are not finite or too small; too few pairs; a
            setting that makes no sense, or a learning rate at which the recogniser diverges.

    References:
        Learning Disentangled Representations with Latent Variation Predictability (Zhu, Xu and Tao, 2020),
        arXiv:2007.12885, section 4
    """
    how = Learning(mode, epochs, batch_size, lr, test_share, validation_share, every)
    if runs < 1:
        raise ValueError(f"runs: expected at least 1, found {runs}")
    images = _images(first, "first"), _images(second, "second")
    target, number = changed(delta, latents)
    found = [
        learn(*images, target, number, how, seed=mix(seed, run), device=torch.device(device), check=check)
        for run in range(runs)
    ]
    return summary(found)


def summary(found: list[RunScore]) -> dict[str, float]:
    """Means and standard deviations over runs."""
    figures: dict[str, float] = {}
    for name, values in zip(RunScore._fields, zip(*found, strict=True), strict=True):
        figures[name] = float(np.mean(values))
        figures[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return figures


def changed(delta: Tensor | np.ndarray, latents: int | None = None) -> tuple[Tensor, int]:
    """Which latent has changed, ``[N]`` int64, and how many there are.

    Args:
        delta: differences ``[N, L]``, of which the largest one tells, or indices ``[N]``.
        latents: their number; by default as there are columns, or one more than the largest index.

    Raises:
        ValueError: another shape or number, a row without a difference, or values that are not finite.
    """
    values = _tensor(delta, "delta")
    if latents is not None and latents < 2:
        raise ValueError(f"latents: at least 2 are needed to tell them apart, found {latents}")
    if values.is_complex():
        raise ValueError(f"delta: expected real differences [N, L], or whole numbers [N], found {values.dtype}")
    if values.ndim == 2 and values.shape[1]:
        size = values.double().abs()
        if not size.isfinite().all():
            raise ValueError("delta holds NaN or infinity")
        same = (size.amax(1) == 0).nonzero().flatten().tolist()
        if same:
            raise ValueError(f"delta: {len(same)} of {len(values)} rows are all zero, the first one is {same[0]}")
        target, number = size.argmax(1), values.shape[1]
    elif values.ndim == 1 and len(values) and not (values.is_floating_point() or values.dtype == torch.bool):
        target = values.long()
        number = int(target.max()) + 1 if latents is None else latents
        if target.min() < 0 or target.max() >= number:
            raise ValueError(f"delta: expected indices from 0 to {number - 1}, found {[*map(int, target.aminmax())]}")
    else:
        raise ValueError(
            f"delta: expected differences [N, L], or whole numbers [N], found {values.dtype} {list(values.shape)}"
        )
    if latents not in (None, number):
        raise ValueError(f"delta has {number} latents, expected {latents}")
    if number < 2:
        raise ValueError(f"delta: at least 2 latents are needed to tell them apart, found {number}")
    return target, number


def split(count: int, test_share: float, generator: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of pairs to learn from, and for the test, in the published order: the test comes first in a shuffle."""
    order = np.arange(count)
    generator.shuffle(order)
    tested = int(count * test_share)
    return order[tested:], order[:tested]


def check_count(count: int, latents: int, how: Learning) -> None:
    """Raise ValueError where so few pairs can teach or show nothing."""
    how.check()

    def parts(number: int) -> tuple[int, int, int]:
        learnt, validated = number - int(number * how.test_share), int(number * how.validation_share)
        return learnt, validated, number - learnt - validated

    def enough(number: int) -> bool:
        learnt, validated, tested = parts(number)
        return learnt >= max(latents, 2) and validated >= 1 and tested >= 1

    if not enough(count):
        learnt, validated, tested = parts(count)
        # What is learnt from is rounded up, and what is validated on down.
        about = int(max((max(latents, 2) - 1) / (1 - how.test_share), 1 / how.validation_share))
        needed = next(number for number in itertools.count(max(1, about - 2)) if enough(number))
        raise ValueError(
            f"too few pairs: {count}, of which {learnt} to learn {latents} latents from, {validated} for validation "
            f"and {tested} for the test; expected {needed} or more, that is one for each latent to learn from"
        )


def learn(
    first: Tensor,
    second: Tensor,
    target: Tensor,
    latents: int,
    how: Learning,
    *,
    seed: int,
    device: torch.device,
    check: Callable[[], None] | None = None,
) -> RunScore:
    """Train one recogniser, and judge it after each epoch; arguments as of `score`.

    Args:
        first: ``[N, C, H, W]``.
        second: the same.
        target: which latent ``[N]``.
        latents: how many there are.
        how: it learns.
        seed: of everything random; torch's generator is left untouched.
        device: where the network is.
        check: called between steps.
    """
    _check_images(first, second, target)
    check_count(len(first), latents, how)
    target = target.cpu()
    learnt, rest = (torch.from_numpy(rows) for rows in split(len(first), how.test_share, _numpy(seed)))
    chosen = int(len(first) * how.validation_share)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix(seed, 1))  # and not those of graphics processors, which nobody keeps
        model = Recogniser(3 if first.shape[1] == 1 else first.shape[1], latents, how.mode)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter faster
    order = torch.Generator().manual_seed(mix(seed, 2))
    optimizer = torch.optim.Adam(model.parameters(), how.lr)

    def seen(rows: Tensor) -> Tensor:
        if check is not None:
            check()
        return model(*(_values(images[rows].to(device)) for images in (first, second)))

    published, honest, validated = 0.0, 0.0, -1.0
    with torch.enable_grad():
        for epoch in range(1, how.epochs + 1):
            model.train()
            for rows in learnt[torch.randperm(len(learnt), generator=order)].split(how.batch_size):
                loss = F.cross_entropy(seen(rows), target[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if epoch % how.every and epoch < how.epochs:
                continue
            model.eval()
            with torch.no_grad():
                logits = torch.cat([seen(rows).cpu() for rows in rest.split(LOOKED_AT)])
            if not logits.isfinite().all():
                raise ValueError(
                    f"lr: with {how.lr} the recogniser's answers are NaN or infinity after {epoch} epochs; expected "
                    "less, such as 0.01"
                )
            right = logits.argmax(1) == target[rest]
            published = max(published, _share(right))
            if _share(right[:chosen]) > validated:
                validated, honest = _share(right[:chosen]), _share(right[chosen:])
            if right.all():
                break
    return RunScore(published, honest)


def _numpy(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed % (1 << 32))


def _share(right: Tensor) -> float:
    return right.double().mean().item()


def _values(images: Tensor) -> Tensor:
    """What the recogniser sees of images: floats in [-1, 1], three channels of grey ones."""
    images = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _tensor(values: Any, name: str) -> Tensor:
    """Numbers of any kind of array."""
    if isinstance(values, np.ndarray) and (not values.dtype.isnative or min(values.strides, default=0) < 0):
        values = np.array(values, dtype=values.dtype.newbyteorder("="))  # torch takes neither
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        found = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(f"{name}: expected an array of numbers, found {found}") from error


def _images(images: Any, name: str) -> Tensor:
    """Images of an array, whose type tells how they are meant."""
    values = _tensor(images, name)
    if values.dtype != torch.uint8 and not values.is_floating_point():
        raise ValueError(f"{name}: expected floats in [-1, 1], or uint8 levels, found {values.dtype}")
    if values.is_floating_point() and not values.isfinite().all():
        raise ValueError(f"{name}: images hold NaN or infinity")
    return values


def _check_images(first: Tensor, second: Tensor, target: Tensor) -> None:
    if first.ndim != 4 or first.shape != second.shape or first.dtype != second.dtype:
        raise ValueError(
            "expected pairs of images [N, C, H, W] of one size and type, found "
            f"{list(first.shape)} ({first.dtype}) and {list(second.shape)} ({second.dtype})"
        )
    if len(target) != len(first):
        raise ValueError(f"expected a difference for each pair: there are {len(first)} pairs, and {len(target)} rows")
    if min(first.shape[2:]) < SMALLEST:
        raise ValueError(f"expected images of {SMALLEST} or more pixels a side, found {list(first.shape[2:])}")
