"""The loop: `fit` trains a system that it gets built, with its data and metrics."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from iin.adam import FlatAdam
from iin.config import Training
from iin.distributed import first, lost, rank, wait, world
from iin.engine import Engine
from iin.engine import engine as make_engine
from iin.evaluation import TestSet, evaluate, look, record, table
from iin.feed import prefetch, to_device
from iin.interrupt import Interrupt, Interrupted
from iin.logs import Sink
from iin.record import read
from iin.run import Run
from iin.seeds import mix
from iin.system import Evaluator, System

__all__ = ["Batches", "TrainingError", "fit", "make_optimizers", "restore", "schedule"]

log = logging.getLogger("iin")


class TrainingError(Exception):
    """Training cannot go on; the message is one line."""


class Batches(Protocol):
    """Batches of training data by epoch; `iin.data.Loader` is one."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]: ...


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

    In several processes (see `iin.distributed`), all call this with the same arguments, but for ``train``: each has its
    share of every batch. The first one writes.

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
        TrainingError: a loss is not finite, or another process is gone. The last good checkpoint is kept.
        Interrupted: a signal asked to stop.
    """
    interrupt = interrupt or Interrupt()
    interrupt.folder = run.folder
    per_epoch = len(train)
    planned = settings.epochs * per_epoch
    total = planned if settings.steps is None else min(planned, settings.steps)
    engine = make_engine(system, settings)
    engine.place(lambda: to_device(next(iter(train.epoch(0))), engine.device), mix(seed, 0))
    optimizers = make_optimizers(system, settings)
    step = 0
    if checkpoint is not None:
        step = int(checkpoint["step"])
        restore(optimizers, checkpoint["optimizers"])
        for optimizer in optimizers.values():
            engine.spread(optimizer)

    def save() -> None:
        weights, moments = engine.weights(), engine.moments(optimizers)
        if rank() == 0:
            run.save(step, weights, moments)
            run.prune(settings.keep, best_step(run, settings))

    def measure_if_due() -> None:
        """Evaluate after epochs and at the end, unless an earlier process of this run already has."""
        epoch, position = divmod(step, per_epoch)
        if step < total and (position or epoch % settings.evaluate_every):
            return
        if first(lambda: measured(run, step)):
            return
        started = time.monotonic()
        with engine.evaluating():
            figures = evaluate(system, test, evaluators, seed=seed)
            pictures = look(system, test, step, seed=seed) if rank() == 0 or not engine.divides else {}
        weights = engine.weights()
        if rank() == 0:
            record(run, step, system, figures, facts or {}, evaluators, weights)
            for sink in sinks:
                sink.images(step, pictures)
            for sink in sinks:
                sink.scalars(step, max(0, step - 1) // per_epoch, "test", figures)
            run.prune(settings.keep, best_step(run, settings))
        wait()
        seconds = time.monotonic() - started
        log.info("step %d, evaluated in %.0f s:%s", step, seconds, table(figures) or " nothing to measure")

    system.train()
    clock = _Clock(step, total)
    silent = None if rank() == 0 else True  # None: where there is no terminal
    with tqdm(total=total, initial=step, unit="step", disable=silent, dynamic_ncols=True) as bar:
        if not total:
            save()
        if step or not total:
            measure_if_due()  # the process may have ended between checkpoint and evaluation
        while step < total:
            epoch, start = divmod(step, per_epoch)
            for position, batch in enumerate(prefetch(train.epoch(epoch, start), engine.device), start):
                lr = schedule(step, settings.lr, settings.decay_start, planned)
                where = f"step {step + 1} (epoch {epoch}, batch {position})"
                try:
                    with engine.step(mix(seed, step)):
                        terms = _step(system, batch, step, optimizers, lr, settings.clip, engine, interrupt.asked)
                except FloatingPointError as error:
                    raise TrainingError(f"{error} at {where}; {_blame(batch)}; {_kept(run)}") from error
                except RuntimeError as error:
                    if not lost(error):
                        raise
                    raise TrainingError(f"another process of this training is gone at {where}; {_kept(run)}") from error
                step += 1
                bar.update()
                if step % settings.log_every == 0 or step in (1, total):
                    values = engine.averages(terms)
                    for sink in sinks:
                        sink.scalars(step, epoch, "train", values)
                    loss = next(iter(values.values()))
                    bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
                    if bar.disable:
                        clock.report(step, loss)
                last = step == total or position == per_epoch - 1
                due = settings.checkpoint_every is not None and step % settings.checkpoint_every == 0
                asked = engine.stopping(interrupt.asked)
                if due or last or asked is not None:
                    save()
                if asked is not None:
                    raise Interrupted(asked, run.folder)
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
    engine: Engine | None = None,
    asked: int | None = None,
) -> dict[str, Tensor | float]:
    """Minimise each objective of one batch once; returns what to log.

    Raises:
        FloatingPointError: a loss is not finite; its update was not made.
        TrainingError: an objective that no parameters belong to.
    """
    terms: dict[str, Tensor | float] = {}
    factors = system.lr_factors()
    engine = engine or Engine(system, Training())
    for objective in engine.objectives(batch, step):
        optimizer = optimizers.get(objective.name)
        if optimizer is None:
            raise TrainingError(
                f"{type(system).__name__}.objectives yielded an objective {objective.name!r}, but trainable() has "
                f"parameters for {', '.join(map(repr, optimizers))}; expected one of these"
            )
        value = engine.agree(float(objective.loss.detach()), asked)
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
    fields = {  # codes that stand for images hold values
        key: value if isinstance(value, Tensor) else getattr(value, "values", None)
        for key, value in batch._asdict().items()
    }
    bad = [
        key
        for key, value in fields.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all()
    ]
    return f"the batch itself is not finite ({', '.join(bad)})" if bad else "the data are finite: lower train.lr"


def _kept(run: Run) -> str:
    existing = run.checkpoints()
    kept = f"the last checkpoint is {existing[0]}" if existing else "no checkpoint was written yet"
    return f"stopped before the update, {kept}"


def make_optimizers(system: System, settings: Training) -> dict[str, torch.optim.Optimizer]:
    """One Adam for each objective. Fused: one pass over the parameters instead of a loop over tensors.

    Parameters of flows move together in memory, unless several objectives move the same ones, or several processes have
    shares of them or of their gradients.
    """
    of_flows = {id(p) for flow in system.flows() for p in flow.parameters()} if world() == 1 else set()
    trainable, betas = system.trainable(), system.betas()
    listed = Counter(id(p) for parameters in trainable.values() for p in parameters)
    made: dict[str, torch.optim.Optimizer] = {}
    for name, parameters in trainable.items():
        alike = len({(p.dtype, p.device) for p in parameters}) == 1
        movable = all(id(p) in of_flows and listed[id(p)] == 1 for p in parameters)
        if alike and movable and parameters[0].device.type != "meta":
            made[name] = FlatAdam(parameters, settings.lr, betas.get(name, settings.betas))
        else:
            made[name] = torch.optim.Adam(parameters, lr=settings.lr, betas=betas.get(name, settings.betas), fused=True)
    return made


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


def measured(run: Run, step: int) -> bool:
    """Whether the run's record has the figures of a step."""
    return any(line["split"] == "test" and line["step"] == step for line in read(run.folder / "metrics.jsonl"))


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
