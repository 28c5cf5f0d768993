"""Variation predictability of a system's latents."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge

from iin.arguments import Count, Fraction, NonNegativeInt, Positive
from iin.metrics.variation.pairs import VariedPairs, check_pairs, collect, draw_pairs, latents_of, read_pairs
from iin.metrics.variation.recogniser import Mode
from iin.metrics.variation.scoring import Learning, changed, check_count, learn, summary
from iin.seeds import mix
from iin.system import System

__all__ = ["VariationPredictability"]


class VariationPredictability:
    """How well one can tell which latent has changed between two images.

    Pairs are made that differ in one latent, which is drawn anew; a small network learns from a tenth of them which it
    was, and is judged on the others. Figures, shares of 1: ``vp/published``, the best accuracy over epochs, as the
    field reports it; ``vp/honest``, the accuracy at the epoch that is best on a validation share, on the pairs that had
    no say in it; ``vp/published_std`` and ``vp/honest_std``, their standard deviations over runs. Chance is one divided
    by the number of latents. Each run makes pairs of its own, and learns anew.

    Any system will do that decodes latents: with ``decode(z)``, or ``sample`` with an argument ``z``, and ``dim``, its
    own or its model's. Latents come from its ``latents(n, generator)`` where it has that, else from the standard
    normal. The first ``discrete`` of them (an attribute, by default 0) name a class: they are the same in both images.
    A conditional flow decodes both with the representation of a test image.

    Pairs are kept as 8-bit levels. They do not become JPEGs on the way, as published ones did; ``iin-pairs`` writes
    such, and ``pairs`` reads them.

    Args:
        pairs: a folder of pairs in the published layout, which are measured in the place of the system's own; its
            latents must be as many as the system's, where that has some. Runs then differ in split and beginning alone.
        count: of pairs, each run; those of a folder are all taken.
        mode: what the network sees of two images: their difference, or both.
        runs: over which mean and deviation are taken.
        epochs: that the network learns for; as published, and long on a processor: see ``every``.
        batch_size: pairs a step.
        lr: learning rate of Adam.
        test_share: of the pairs.
        validation_share: of all pairs, taken from those for the test.
        every: epochs from one look at the test pairs to the next; each look costs about three times as much as an
            epoch of learning.
        decoded: images made at a time.
        memory: bytes that the pairs may take; beyond, they are kept in a temporary file.
        seed: of all draws.

    Raises:
        ValueError: the shares do not fit together; or, when measured, the system has no latents to decode, there are
            too few pairs, or the folder is of other latents, lacks images or has labels of another length.
    """

    def __init__(
        self,
        pairs: str | Path | None = None,
        count: Annotated[int, Ge(4)] = 10_000,
        mode: Mode = "diff",
        runs: Count = 3,
        epochs: Count = 200,
        batch_size: Count = 32,
        lr: Positive = 0.01,
        test_share: Fraction = 0.9,
        validation_share: Fraction = 0.1,
        every: Count = 1,
        decoded: Count = 100,
        memory: NonNegativeInt = 1 << 30,
        seed: NonNegativeInt = 0,
    ) -> None:
        self.pairs = None if pairs is None else Path(pairs).expanduser()
        self.count = count
        self.learning = Learning(mode, epochs, batch_size, lr, test_share, validation_share, every)
        self.learning.check()
        if runs < 1:
            raise ValueError(f"runs: expected at least 1, found {runs}")
        self.runs = runs
        self.decoded = decoded
        self.memory = memory
        self.seed = seed
        self.facts: dict[str, Any] = {}
        """What the figures were made with, to be recorded beside them: ``vp`` (in words) and ``figures`` (their names),
        once called."""

    @staticmethod
    def check(test_share: Any = 0.9, validation_share: Any = 0.1, **_: Any) -> Iterator[str]:
        """What is wrong with the arguments taken together."""
        try:
            Learning(test_share=test_share, validation_share=validation_share).check()
        except ValueError as error:
            yield str(error)

    @staticmethod
    def lacks(pairs: str | Path | None = None, **_: Any) -> Iterator[str]:
        """What this metric needs with these arguments, and is not here."""
        if pairs is not None:
            try:
                check_pairs(pairs)
            except ValueError as error:
                yield f"pairs: {error}"

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        with _named():
            self._check(system)

    def _check(self, system: System) -> None:
        if self.pairs is None:
            check_count(self.count, latents_of(system).varied, self.learning)
            return
        labels = check_pairs(self.pairs, self._latents(system))
        check_count(len(labels), labels.shape[1], self.learning)

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        with _named():
            self._check(system)
            return self._measured(system, batches)

    def _measured(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        device = next((p.device for p in system.parameters()), torch.device("cpu"))
        check = getattr(batches, "check", None)
        given = None
        if self.pairs is not None:
            given = read_pairs(self.pairs, latents=self._latents(system), memory=self.memory)
        found, about = [], (0, 0)
        for run in range(self.runs):
            pairs = given or self._made(system, batches, run)
            target, latents = changed(pairs.delta)
            about = len(target), latents
            seed = mix(self.seed, run)
            images = pairs.first, pairs.second
            found.append(learn(*images, target, latents, self.learning, seed=seed, device=device, check=check))
            del pairs, images  # before the next ones are made: there is room for one set
        figures = {f"vp/{name}": value for name, value in summary(found).items()}
        learnt = about[0] - int(about[0] * self.learning.test_share)
        source = "" if self.pairs is None else f" of {self.pairs.name}"
        self.facts = {
            "vp": f"{about[0]} pairs{source}, {learnt} to learn {about[1]} latents from, {self.learning.epochs} "
            f"epochs, {self.learning.mode}; {self.runs} runs; chance {1 / about[1]:.3g}",
            "figures": list(figures),
        }
        return figures

    def _made(self, system: System, batches: Iterable[Any], run: int) -> VariedPairs:
        generator = torch.Generator().manual_seed(mix(self.seed, run))
        parts = draw_pairs(system, self.count, generator, batch_size=self.decoded, batches=batches)
        check = getattr(batches, "check", None)

        def checked() -> Iterator[VariedPairs]:
            for part in parts:
                if check is not None:
                    check()
                yield part

        return collect(checked(), self.count, self.memory)

    @staticmethod
    def _latents(system: System) -> int | None:
        """How many latents the system has, where it has any."""
        try:
            return latents_of(system).varied
        except ValueError:
            return None


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Say of an error who cannot work."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"VariationPredictability: {error}") from error
