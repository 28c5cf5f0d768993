"""The loop: `fit` trains a system, `evaluate` measures it. Both get everything built."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import signal
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from iin.config import Training
from iin.logs import Sink
from iin.record import plain, read
from iin.run import Run, write_json
from iin.seeds import mix
from iin.system import Evaluator, Picture, System

__all__ = ["Batches", "Interrupt", "Interrupted", "TestSet", "TrainingError", "evaluate", "fit", "schedule"]

log = logging.getLogger("iin")


class TrainingError(Exception):
    """Training cannot go on; the message is one line."""


class Interrupted(Exception):
    """A signal asked to stop, and everything is saved.

    Args:
        number: of the signal.
        folder: of the run to go on with, where it is known.
    """

    def __init__(self, number: int, folder: Path | None = None) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.folder = folder


class Interrupt:
    """Within this context the first Ctrl-C or SIGTERM only asks to stop; the second stops at once."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.folder: Path | None = None
        """Of the run that is stopped; `fit` sets it."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: signals are somebody else's business
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number
        # Neither through the logger nor sys.stderr: the code that was interrupted may be in the middle of using them.
        os.write(2, b"\nStopping: this step is finished and saved first; once more to stop at once.\n")

    def check(self) -> None:
        """Raise `Interrupted` if a signal asked to stop."""
        if self.asked is not None:
            raise Interrupted(self.asked, self.folder)


class Batches(Protocol):
    """Batches of training data by epoch; `iin.data.Loader` is one."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]: ...


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
        for batch in self._batches:
            if self._interrupt is not None:
                self._interrupt.check()
            yield to_device(batch, self.device)


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a named tuple; what is no tensor stays."""
    moved = (value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for value in batch)
    return type(batch)(*moved)


def schedule(step: int, lr: float, decay_start: int | None, total: int) -> float:
    """Learning rate of the step after ``step`` steps: constant, then falling linearly towards 0 at ``total``.

    As published, the rate is set after each step, by the number of that step: it lags a step behind. The first step
    that is slower than others is number ``decay_start + 2``, counted from 0, and the last one still moves.
    """
    if decay_start is None or total <= decay_start:
        return lr
    return lr * (1 - min(1.0, max(0, step - 1 - decay_start) / (total - decay_start)))


def fit(
    system: System,
    train: Batches,
    test: TestSet,
    evaluators: Mapping[str, Evaluator],
    settings: Training,
    run: Run,
    sinks: Sequence[Sink],
    *,
    seed: int,
    checkpoint: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    interrupt: Interrupt | None = None,
) -> None:
    """Train a system, from a checkpoint if one is given, to the end.

    Order and draws of an epoch come from (seed, epoch), noise of a step from (seed, step): a run that was stopped
    and resumed, at any step, ends in the same weights and figures as one that was not.

    Args:
        system: what to train, on the device where it shall train.
        train: batches of training data.
        test: batches of test data.
        evaluators: name -> metric, run after each epoch and at the end.
        settings: the configuration's section ``train``.
        run: the folder; locked by the caller.
        sinks: where scalars and images go.
        seed: of everything random.
        checkpoint: content of a checkpoint of this run.
        facts: what is written beside the figures of an evaluation: data source and the like.
        interrupt: set by signals; the step is finished and saved, then `Interrupted` is raised.

    Raises:
        TrainingError: a loss is not finite. The last good checkpoint is kept.
        Interrupted: a signal asked to stop.
    """
    interrupt = interrupt or Interrupt()
    interrupt.folder = run.folder
    per_epoch = len(train)
    planned = settings.epochs * per_epoch
    total = planned if settings.steps is None else min(planned, settings.steps)
    optimizers = make_optimizers(system, settings)
    step = 0
    if checkpoint is not None:
        step = int(checkpoint["step"])
        restore(optimizers, checkpoint["optimizers"])

    def save() -> None:
        run.save(step, system.state_dict(), {name: optimizer.state_dict() for name, optimizer in optimizers.items()})
        run.prune(settings.keep, best_step(run, settings))

    def measure_if_due() -> None:
        """Evaluate after epochs and at the end, unless an earlier process of this run already has."""
        epoch, position = divmod(step, per_epoch)
        if step < total and (position or epoch % settings.evaluate_every):
            return
        if any(line["split"] == "test" and line["step"] == step for line in read(run.folder / "metrics.jsonl")):
            return
        started = time.monotonic()
        figures = evaluate(system, test, evaluators, seed=seed)
        record(run, step, system, figures, facts or {}, evaluators)
        pictures = look(system, test, step, seed=seed)
        for sink in sinks:
            sink.images(step, pictures)
        for sink in sinks:
            sink.scalars(step, max(0, step - 1) // per_epoch, "test", figures)
        run.prune(settings.keep, best_step(run, settings))
        seconds = time.monotonic() - started
        log.info("step %d, evaluated in %.0f s:%s", step, seconds, table(figures) or " nothing to measure")

    system.train()
    clock = _Clock(step, total)
    with tqdm(total=total, initial=step, unit="step", disable=None, dynamic_ncols=True) as bar:
        if not total:
            save()
        if step or not total:
            measure_if_due()  # the process may have ended between checkpoint and evaluation
        while step < total:
            epoch, start = divmod(step, per_epoch)
            for position, batch in enumerate(train.epoch(epoch, start), start):
                batch = to_device(batch, _device(system))
                lr = schedule(step, settings.lr, settings.decay_start, planned)
                torch.manual_seed(mix(seed, step))
                try:
                    terms = _step(system, batch, step, optimizers, lr, settings.clip)
                except FloatingPointError as error:
                    where = f"step {step + 1} (epoch {epoch}, batch {position})"
                    raise TrainingError(f"{error} at {where}; {_blame(batch)}; {_kept(run)}") from error
                step += 1
                bar.update()
                if step % settings.log_every == 0 or step in (1, total):
                    values = {key: float(value) for key, value in terms.items()}
                    for sink in sinks:
                        sink.scalars(step, epoch, "train", values)
                    loss = next(iter(values.values()))
                    bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
                    if bar.disable:
                        clock.report(step, loss)
                last = step == total or position == per_epoch - 1
                due = settings.checkpoint_every is not None and step % settings.checkpoint_every == 0
                if due or last or interrupt.asked is not None:
                    save()
                interrupt.check()
                if last:
                    break
            measure_if_due()
    interrupt.check()


def _step(
    system: System,
    batch: Any,
    step: int,
    optimizers: Mapping[str, torch.optim.Optimizer],
    lr: float,
    clip: float | None,
) -> dict[str, Tensor | float]:
    """Minimise each objective of one batch once; returns what to log.

    Raises:
        FloatingPointError: a loss is not finite; its update was not made.
    """
    terms: dict[str, Tensor | float] = {}
    factors = system.lr_factors()
    for objective in system.objectives(batch, step):
        optimizer = optimizers[objective.name]
        value = float(objective.loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"loss {objective.name!r} is {value}")
        for group in optimizer.param_groups:
            group["lr"] = lr * factors.get(objective.name, 1.0)
        optimizer.zero_grad(set_to_none=True)
        objective.loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
        optimizer.step()
        prefix = f"{objective.name}/" if len(optimizers) > 1 else ""
        terms[prefix + "loss"] = objective.loss.detach()
        terms.update({prefix + key: value for key, value in objective.scalars.items()})
        if objective.name in factors:
            terms[prefix + "lr"] = lr * factors[objective.name]
    return {**terms, "lr": lr}


def _blame(batch: Any) -> str:
    """Whether the data are at fault for a loss that is not finite."""
    bad = [
        field
        for field, value in zip(batch._fields, batch, strict=True)
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all()
    ]
    return f"the batch itself is not finite ({', '.join(bad)})" if bad else "the data are finite: lower train.lr"


def _kept(run: Run) -> str:
    existing = run.checkpoints()
    kept = f"the last checkpoint is {existing[0]}" if existing else "no checkpoint was written yet"
    return f"stopped before the update, {kept}"


def make_optimizers(system: System, settings: Training) -> dict[str, torch.optim.Optimizer]:
    """One Adam for each objective. Fused: one pass over the parameters instead of a loop over tensors."""
    return {
        name: torch.optim.Adam(parameters, lr=settings.lr, betas=settings.betas, fused=True)
        for name, parameters in system.trainable().items()
    }


def restore(optimizers: Mapping[str, torch.optim.Optimizer], states: Mapping[str, Any]) -> None:
    """Load the state of each optimiser.

    Raises:
        TrainingError: they are those of another system.
    """
    if optimizers.keys() != states.keys():
        raise TrainingError(
            f"the checkpoint has optimisers {', '.join(states)}, but the system minimises {', '.join(optimizers)}"
        )
    for name, optimizer in optimizers.items():
        try:
            optimizer.load_state_dict(states[name])
        except ValueError as error:
            raise TrainingError(f"the checkpoint's optimiser {name!r} is of another system ({error})") from error


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
) -> None:
    """Write ``eval/step-XXXXXXXX/metrics.json``: the figures, and what they were measured with.

    Figures of the same weights and the same facts that stand there already are kept, but for those measured anew. What
    metrics say of themselves (``extractor``, ``images``) stands under ``entries``, and beside the figures too: as it is
    where all entries agree, else by entry in words. An entry that says which ``figures`` it is about loses them all
    when it is measured anew: with other settings they would stand beside facts that are not theirs.
    """
    path = run.folder / "eval" / f"step-{step:08d}" / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"step": step, "weights": _digest(system), **facts}
    entries = {name: dict(found) for name, metric in evaluators.items() if (found := getattr(metric, "facts", None))}
    before = _read_json(path)
    kept: dict[str, Any] = {}
    if all(before.get(key) == value for key, value in facts.items()):
        old = before.pop("entries", {})
        beside = {key for known in old.values() for key in known}
        beside |= {figure for name in entries for figure in old.get(name, {}).get("figures", ())}
        kept = {key: value for key, value in before.items() if key not in facts.keys() | beside}
        entries = {**old, **entries}
    shown: dict[str, Any] = {}
    for key in dict.fromkeys(key for found in entries.values() for key in found if key != "figures"):
        values = {name: found[key] for name, found in entries.items() if key in found}
        alike = len({str(value) for value in values.values()}) == 1
        shown[key] = next(iter(values.values())) if alike else ", ".join(f"{n}: {v}" for n, v in values.items())
    plainly = {name: plain(value) for name, value in figures.items()}
    write_json(path, {**facts, **kept, **plainly, **shown, "entries": entries})


def _digest(system: System) -> str:
    """Digest of a system's state, by which its figures are known."""
    total = hashlib.sha256()
    for name, value in system.state_dict().items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("entries"), dict) else {}


def best_step(run: Run, settings: Training) -> int | None:
    """The evaluated step whose figure ``train.best`` is best, or None when it was never measured."""
    if settings.best is None:
        return None
    sign = 1 if settings.best_mode == "min" else -1
    measured = [
        (sign * line[settings.best], line["step"])
        for line in read(run.folder / "metrics.jsonl")
        if line["split"] == "test"
        and isinstance(line.get(settings.best), int | float)
        and math.isfinite(line[settings.best])
    ]
    return min(measured)[1] if measured else None


class _Clock:
    """Speed and time left, for output that is no terminal; at most a line every few seconds."""

    def __init__(self, step: int, total: int, every: float = 5.0) -> None:
        self.first, self.total, self.every = step, total, every
        self.started = self.last = time.monotonic()

    def report(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self.last < self.every and step < self.total:
            return
        self.last = now
        speed = (step - self.first) / max(1e-9, now - self.started)
        left = (self.total - step) / max(1e-9, speed)
        log.info("step %d/%d  loss %.4g  %.1f steps/s  %.0f s left", step, self.total, loss, speed, left)


def _device(system: System) -> torch.device:
    return next(system.parameters()).device
