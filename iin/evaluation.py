"""Measuring a system: figures, pictures, and what is written of them."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iin.feed import prefetch
from iin.interrupt import Interrupt
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
    ) -> None:
        self._batches = batches
        self.device = torch.device(device)
        self.factors = tuple(factors) if factors else None
        self.fingerprint = fingerprint
        self._interrupt = interrupt

    def __iter__(self) -> Iterator[Any]:
        for batch in prefetch(self._batches, self.device):
            if self._interrupt is not None:
                self._interrupt.check()
            yield batch


@torch.no_grad()
def evaluate(system: System, test: TestSet, evaluators: Mapping[str, Evaluator], *, seed: int = 0) -> dict[str, float]:
    """Run metrics on a system.

    The noise of each depends on the seed and its name alone, so a figure does not change with what else is measured.

    Returns:
        Named figures of all evaluators.
    """
    training = system.training
    system.eval()
    figures: dict[str, float] = {}
    try:
        for name, evaluator in evaluators.items():
            torch.manual_seed(mix(seed, zlib.crc32(name.encode())))
            found = {key: float(value) for key, value in evaluator(system, test).items()}
            if twice := sorted(found.keys() & figures.keys()):
                log.warning("evaluate.%s: another entry gives %s too; the first one counts", name, ", ".join(twice))
            figures.update({key: value for key, value in found.items() if key not in figures})
    finally:
        system.train(training)
    return figures


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
        return {name: picture._replace(images=picture.images.cpu()) for name, picture in found.items()}
    except Exception as error:  # somebody's decoder, or memory: nothing that training hangs on
        reason = " ".join(str(error).split())[:200]
        log.warning("no pictures: %s.images failed (%s: %s)", type(system).__name__, type(error).__name__, reason)
        return {}
    finally:
        system.train(training)


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
