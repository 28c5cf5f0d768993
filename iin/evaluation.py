"""Measuring a system: figures, pictures, and what is written of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iin.distributed import lost, rank, world
from iin.feed import prefetch, to_device
from iin.interrupt import Interrupt, Interrupted
from iin.metrics.likelihood import Inversion
from iin.metrics.memo import Memo
from iin.record import plain
from iin.run import Run, write_json
from iin.seeds import mix
from iin.system import Evaluator, Picture, System

__all__ = ["TestSet", "evaluate", "look", "record", "table"]

log = logging.getLogger("iin")


class TestSet:
    """Test batches on a device, as evaluators see them; can be iterated again and again.

    Args:
        batches: the same batches in the same order each time.
        device: where the system is.
        factors: names of the factors, for pair data sets.
        fingerprint: changes when the images do, so that statistics of them can be cached; None if they may change.
        interrupt: leaves the iteration when a signal asks to stop.
        memory: bytes that an evaluation may take, in each process, to keep batches and what the system makes of them
            for other metrics; beyond that they are read, and made, again. By default 1 GB.
    """

    __test__ = False  # not a test case, whatever its name suggests to a test runner

    def __init__(
        self,
        batches: Iterable[Any],
        device: torch.device | str = "cpu",
        *,
        factors: Sequence[str] | None = None,
        fingerprint: str | None = None,
        interrupt: Interrupt | None = None,
        memory: int = 1 << 30,
    ) -> None:
        self._batches = batches
        self.memory = memory
        self.device = torch.device(device)
        self.factors = tuple(factors) if factors else None
        self.fingerprint = fingerprint
        self._interrupt = interrupt

    def __iter__(self) -> Iterator[Any]:
        for batch in prefetch(self._batches, self.device):
            if self._interrupt is not None:
                self._interrupt.check()
            yield batch


class _Numbered:
    """Batches of a test set by their numbers, read as seldom as can be."""

    def __init__(self, test: Any, memo: Memo) -> None:
        self.memo = memo
        self.device = torch.device(getattr(test, "device", "cpu"))
        self.interrupt: Interrupt | None = getattr(test, "_interrupt", None)
        self._batches = getattr(test, "_batches", test)
        self._starts: list[int] | None = None
        """Number of items before each batch, and of all, once they are known."""
        self._visits: list[Any] | None = None
        if hasattr(self._batches, "visits") and not getattr(self._batches, "workers", 0):
            # A loader: a batch can be had without those before it.
            self._visits = self._batches.visits()
            self._starts = list(itertools.accumulate(map(len, self._visits), initial=0))

    def those(self, first: int, step: int) -> Iterator[Any]:
        """Views of every ``step``-th batch, from number ``first`` on."""
        wanted = range(first, len(self._starts) - 1, step) if self._starts else None
        if wanted is not None and self._visits is not None:
            yield from self._picked(wanted, self._visits)
            return
        held = [self.memo.recall(("batch", index)) for index in wanted or ()]
        if wanted is None or any(view is None for view in held):
            yield from self._passing(first, step)
            return
        for view in held:  # some may have to make room meanwhile
            self._check()
            yield view

    def _picked(self, wanted: Iterable[int], visits: list[Any]) -> Iterator[Any]:
        data = self._batches.data
        lacking = [index for index in wanted if self.memo.recall(("batch", index)) is None]
        fetched = prefetch((data[visits[index]] for index in lacking), self.device)
        coming = iter(lacking)
        next_one = next(coming, None)
        for index in wanted:
            self._check()
            if index == next_one:
                yield self._view(index, next(fetched))
                next_one = next(coming, None)
                continue
            held = self.memo.recall(("batch", index))
            if held is None:  # it had to make room meanwhile
                held = self._view(index, to_device(data[visits[index]], self.device))
            yield held

    def _passing(self, first: int, step: int) -> Iterator[Any]:
        starts = [0]
        for index, batch in enumerate(prefetch(self._batches, self.device)):
            starts.append(starts[-1] + len(batch.image))
            self._check()
            if index % step == first:
                yield self._view(index, batch, starts[-2])
        self._starts = starts

    def _view(self, index: int, batch: Any, start: int | None = None) -> Any:
        """A view of a batch, which is kept."""
        if start is None:
            assert self._starts is not None
            start = self._starts[index]
        view = self.memo.view(batch, index, start)
        self.memo.keep(("batch", index), view)
        return view

    def _check(self) -> None:
        if self.interrupt is not None:
            self.interrupt.check()


class _Seen:
    """Test batches as metrics see them: views, all of them or a share."""

    def __init__(self, test: Any, numbered: _Numbered, share: tuple[int, int]) -> None:
        self.device = numbered.device
        self.factors = getattr(test, "factors", None)
        self.fingerprint = getattr(test, "fingerprint", None)
        self.share = share
        self._test, self._numbered, self._memo = test, numbered, numbered.memo

    def __iter__(self) -> Iterator[Any]:
        return self._numbered.those(*self.share)

    def check(self) -> None:
        """Leave the evaluation if a signal asked to stop: for metrics that work long without a look at the batches."""
        self._numbered._check()

    def whole(self) -> _Seen:
        """All of them."""
        return _Seen(self._test, self._numbered, (0, 1))


@torch.no_grad()
def evaluate(system: System, test: TestSet, evaluators: Mapping[str, Evaluator], *, seed: int = 0) -> dict[str, float]:
    """Run metrics on a system.

    They are shown views of the batches, by which they share what the system makes of them (`iin.metrics.contract`), as
    far as there is room (``memory`` of the test set); all of it is free again at the end. The noise of what they share
    depends on the seed and the batch alone, that of anything else on the seed and the metric's name: a figure does not
    change with what else is measured.

    In several processes metrics that can do with a share of the batches get one, and others get all; every process must
    call this, and gets all figures.

    The largest error by which the flow is undone is measured in any case, of a system that has ``code`` and ``flow``;
    where no metric gives it, of the first 1,000 images.

    Returns:
        Named figures of all evaluators.
    """
    training = system.training
    system.eval()
    figures: dict[str, float] = {}
    memo = Memo(system, getattr(test, "memory", 1 << 30), mix(seed, 0))
    numbered = _Numbered(test, memo)
    seen = {divided: _Seen(test, numbered, (rank(), world()) if divided else (0, 1)) for divided in (True, False)}
    try:
        for name, evaluator in evaluators.items():
            torch.manual_seed(mix(seed, zlib.crc32(name.encode())))
            shown = seen[bool(getattr(evaluator, "divided", False))]
            try:
                found = {key: float(value) for key, value in evaluator(system, shown).items()}
            except Exception as error:
                if not isinstance(error, Interrupted) and not str(error).startswith(type(evaluator).__name__):
                    log.warning("evaluate.%s: failed in %s", name, type(evaluator).__name__)  # it does not say itself
                raise
            if twice := sorted(found.keys() & figures.keys()):
                log.warning("evaluate.%s: another entry gives %s too; the first one counts", name, ", ".join(twice))
            figures.update({key: value for key, value in found.items() if key not in figures})
        if INVERSION not in figures and Inversion.fits(system):
            figures.update(_inversion(system, seen[True]))
    finally:
        memo.clear()
        system.train(training)
    return figures


INVERSION = "inversion/max"
"""The figure that every evaluation of a flow has."""
ENOUGH = 1000
"""Images that it is measured on where nobody asks for it."""


def _inversion(system: System, batches: Iterable[Any]) -> dict[str, float]:
    """The figure that nobody need ask for; where it cannot be had, a warning says why."""
    try:
        return {INVERSION: Inversion(ENOUGH)(system, batches)[INVERSION]}
    except Exception as error:  # somebody's flow, which may want more than a code
        if isinstance(error, Interrupted) or lost(error):
            raise
        reason = " ".join(str(error).split())[:200]
        log.warning("inversion: the flow's error was not measured (%s: %s)", type(error).__name__, reason)
        return {}


def table(figures: Mapping[str, float], width: int = 100) -> str:
    """Figures for people, one family (``swaps/digit``, ``dims/code``, ``nll``) a line; longer ones are wrapped."""
    families: dict[str, list[str]] = {}
    for name, value in figures.items():
        family, _, last = name.rpartition("/")
        families.setdefault(family or name, []).append(f"{last} {value:.4g}" if family else f"{value:.4g}")
    margin = max(map(len, families), default=0) + 4
    lines = []
    for family, entries in families.items():
        line = f"  {family}".ljust(margin)
        for entry in entries:
            if len(line) > margin and len(line) + len(entry) > width:
                lines.append(line.rstrip())
                line = " " * margin
            line += entry + "  "
        lines.append(line.rstrip())
    return "".join(f"\n{line}" for line in lines)


@torch.no_grad()
def look(system: System, test: TestSet, step: int, *, seed: int = 0) -> dict[str, Picture]:
    """The system's pictures of the first test batch, on the CPU.

    Their noise depends on seed and step alone, so that whoever looks at the same weights sees the same. Where no
    pictures can be made, a warning says why: figures are no worse for it.

    Args:
        system: what to look at.
        test: test data.
        step: that the weights are of.
        seed: of everything random.
    """
    batch = next(iter(test))
    training = system.training
    system.eval()
    torch.manual_seed(mix(seed, 1, step))
    try:
        found = {
            name: value if isinstance(value, Picture) else Picture(value)
            for name, value in system.images(batch).items()
        }
        return {name: _on_cpu(picture) for name, picture in found.items()}
    except Exception as error:  # somebody's decoder, or memory: nothing that training hangs on
        reason = " ".join(str(error).split())[:200]
        log.warning("no pictures: %s.images failed (%s: %s)", type(system).__name__, type(error).__name__, reason)
        return {}
    finally:
        system.train(training)


def _on_cpu(picture: Picture) -> Picture:
    loop = picture.loop and picture.loop._replace(images=picture.loop.images.cpu())
    return picture._replace(images=picture.images.cpu(), loop=loop)


def record(
    run: Run,
    step: int,
    system: System,
    figures: Mapping[str, float],
    facts: Mapping[str, Any],
    evaluators: Mapping[str, Evaluator],
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``eval/step-XXXXXXXX/metrics.json``: the figures, and what they were measured with.

    Figures of the same weights and the same facts that stand there already are kept, but for those measured anew. What
    metrics say of themselves (``extractor``, ``images``) stands under ``entries``, and beside the figures too: as it is
    where all entries agree, else by entry in words. An entry that says which ``figures`` it is about loses them all
    when it is measured anew: with other settings they would stand beside facts that are not theirs.
    """
    path = run.folder / "eval" / f"step-{step:08d}" / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"step": step, "weights": _digest(system.state_dict() if weights is None else weights), **facts}
    facts_of = {name: getattr(metric, "facts", None) for name, metric in evaluators.items()}
    entries = {name: dict(found) for name, found in facts_of.items() if isinstance(found, Mapping) and found}
    before = _read_json(path)
    kept: dict[str, Any] = {}
    if all(before.get(key) == value for key, value in facts.items()):
        old = before.pop("entries", {})
        beside = {key for known in old.values() for key in known}
        beside |= {figure for name in entries for figure in old.get(name, {}).get("figures", ())}
        kept = {key: value for key, value in before.items() if key not in facts.keys() | beside}
        new = {figure for found in entries.values() for figure in found.get("figures", ())}
        for name, known in list(old.items()):
            if name not in entries and "figures" in known:  # of what another entry measured anew it says nothing now
                known["figures"] = [figure for figure in known["figures"] if figure not in new]
                if not known["figures"]:
                    del old[name]
        entries = {**old, **entries}
    if INVERSION in kept and not any(isinstance(metric, Inversion) for metric in evaluators.values()):
        figures = {key: value for key, value in figures.items() if key != INVERSION}  # it was of more images, perhaps
    shown: dict[str, Any] = {}
    for key in dict.fromkeys(key for found in entries.values() for key in found if key != "figures"):
        values = {name: found[key] for name, found in entries.items() if key in found}
        alike = len({str(value) for value in values.values()}) == 1
        shown[key] = next(iter(values.values())) if alike else ", ".join(f"{n}: {v}" for n, v in values.items())
    plainly = {name: plain(value) for name, value in figures.items()}
    write_json(path, {**facts, **kept, **plainly, **shown, "entries": entries})


def _digest(weights: Mapping[str, Tensor]) -> str:
    """Digest of a system's state, by which its figures are known."""
    total = hashlib.sha256()
    for name, value in weights.items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("entries"), dict) else {}
