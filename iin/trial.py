"""A rehearsal: data looked at, networks built on tensors without memory, one batch taken through them.

Sizes that do not fit each other, images out of range and metrics that cannot work come to light here, before anything
is trained.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from iin import codes
from iin.building import (
    check_compiler,
    check_precision,
    datasets,
    device_of,
    first_stages,
    is_auto,
    metrics,
    name_factors,
    skeleton,
    source,
)
from iin.config import ConfigError, Training
from iin.data import sources
from iin.data.base import fetch, length
from iin.factors import KEY, provisional
from iin.system import System

__all__ = ["Trial", "attempt"]

log = logging.getLogger("iin")

LOOKED_AT = 16
"""Items of a data set that are looked at before anything is trained."""
TOLERANCE = 1e-3
"""How far beyond [-1, 1] images may go without a word."""


@dataclass
class Trial:
    """What a rehearsal found out."""

    sources: dict[str, str] = field(default_factory=dict)
    """Where training and test data come from."""
    missing: list[str] = field(default_factory=list)
    """Data that are not here; otherwise they are errors."""
    steps_per_epoch: int = 0
    """0 where data are missing."""
    parameters: dict[str, int] = field(default_factory=dict)
    """Trained by each objective, and frozen."""
    kept: str = ""
    """What is computed once, and how much room it takes; nothing where nothing is."""


def attempt(tree: Mapping[str, Any], settings: Training, *, rehearse: bool = False, data_only: bool = False) -> Trial:
    """Build the data, and the networks on tensors without memory; take one batch through them.

    Args:
        tree: the whole configuration.
        settings: its section ``train``.
        rehearse: list data that are missing instead of failing.
        data_only: leave the networks out, since weights are missing.

    Raises:
        ConfigError: with what does not fit.
    """
    trial = Trial()
    device_of(settings)
    check_precision(settings)
    check_compiler(settings)
    sets = {}
    for split in ("train", "test"):
        try:
            (sets[split],) = datasets(tree, split)
        except ConfigError as error:
            if not rehearse or not isinstance(error.__cause__, sources.Missing):
                raise
            trial.missing += error.mistakes
    trial.sources = {split: source(data) if getattr(data, "source", None) else "" for split, data in sets.items()}
    if trial.missing or data_only:
        return trial  # without data there is nothing to try, without weights nothing to try it with
    counts: dict[str, int] = {}
    mistakes = []
    for split, data in sets.items():
        try:
            counts[split] = length(data)
            _look(split, data, counts[split])
        except (ValueError, OSError) as error:
            mistakes.append(f"data.{split}: {_one_line(error)}")
    if mistakes:
        raise ConfigError(mistakes)
    count = counts["train"]
    if count < settings.batch_size:
        raise ConfigError([f"train.batch_size: {settings.batch_size} is larger than the training set ({count} items)"])
    trial.steps_per_epoch = count // settings.batch_size
    auto, tree = is_auto(tree), provisional(tree, sets["train"])
    # A batch of one is taken in earnest, memory and all: some layers need two values to start from, and say so then.
    alone = settings.batch_size == 1
    system = _build(tree, sets, "cpu" if alone else "meta")
    if auto and not (callable(getattr(system, "code", None)) and hasattr(system, "dim")):
        raise ConfigError([f"{KEY}: auto needs a system with code(image) and dim, such as FactorFlow; give the sizes"])
    _compare_factors(sets)
    codes.check(system, sets["train"], settings)
    trial.parameters = _count(system)
    real = system if alone else None
    for split, data in sets.items():
        try:
            batch = fetch(data, list(range(1 if alone else min(4, counts[split]))))
        except (ValueError, OSError) as error:
            raise ConfigError([f"data.{split}: {_one_line(error)}"]) from error
        try:
            if real is None:
                try:
                    _go_through(system, batch, "meta")
                except RuntimeError as error:
                    # Sizes do not fit, or an operation needs values, as in somebody's network it may: in earnest, then.
                    log.debug("could not try the system out on data.%s without memory: %s", split, error)
                    real = _build(tree, sets, "cpu")
            if real is not None:
                _go_through(real, batch, "cpu")
            if split == "train":
                tried, device = (system, "meta") if real is None else (real, "cpu")
                trial.kept = codes.estimate(tried, data, batch.image.to(device), settings)
        except (ValueError, AttributeError, RuntimeError) as error:
            raise ConfigError([f"data.{split} does not fit system: {_one_line(error)}"]) from error
    _try_metrics(tree.get("evaluate", {}), system, rehearse)
    return trial


def _build(tree: Mapping[str, Any], sets: Mapping[str, Any], device: str) -> Any:
    """The system, in training mode where it has memory."""
    try:
        with torch.device(device), warnings.catch_warnings():
            # Somebody's network may load its weights: into no memory, here.
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
            system = skeleton(tree).train(device == "cpu")
            for data in sets.values():
                name_factors(system, data)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError([f"system: {_one_line(error)}"]) from error
    return system


def _go_through(system: System, batch: Any, device: str) -> None:
    """Take a batch through the system, without learning from it."""
    moved = type(batch)(*(v.to(device) if isinstance(v, torch.Tensor) else v for v in batch))
    for _ in system.objectives(moved, 0):
        pass


def _look(split: str, data: Any, count: int) -> None:
    """Look at a few items: what is no batch is an error, what is an odd one a warning."""
    batch = fetch(data, list(range(0, count, max(1, count // LOOKED_AT)))[:LOOKED_AT])
    if not hasattr(batch, "_fields"):  # a named tuple, whose tensors are moved to the device
        raise ValueError(f"{type(data).__name__} answered {type(batch).__name__}; expected Images or Pairs")
    paired = hasattr(batch, "other")
    values = torch.cat([batch.image.flatten(), batch.other.flatten()] if paired else [batch.image.flatten()])
    low, high = values.double().aminmax()
    if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
        log.warning("data.%s: images go from %.4g to %.4g; expected within [-1, 1]", split, low, high)
    if not paired:
        return
    if not getattr(data, "factors", None):
        log.warning("data.%s: pairs without names; give %s factors = (..., 'residual')", split, type(data).__name__)
    if batch.shared.shape[1] and batch.shared[:, -1].any():
        log.warning("data.%s: pairs share the last factor; that is the residual, which no pair should share", split)


def _compare_factors(sets: Mapping[str, Any]) -> None:
    factors = [tuple(getattr(sets[split], "factors", None) or ()) for split in ("train", "test")]
    if all(factors) and factors[0] != factors[1]:
        log.warning("data.test: its factors are %s, but those of data.train %s", *(", ".join(f) for f in factors[::-1]))


def _try_metrics(entries: Mapping[str, Any], system: System, rehearse: bool) -> None:
    """Build the metrics, and ask those that can tell whether they work with the system."""
    mistakes: dict[str, str] = {}
    for name, node in entries.items():
        if any(first_stages(node)):
            continue  # it may have to be trained first
        if rehearse and (node.get("params") or {}).get("download"):
            continue  # a rehearsal downloads nothing
        try:
            (metric,) = metrics({"evaluate": {name: node}}).values()
        except ConfigError as error:
            mistakes[name] = "; ".join(error.mistakes)
            continue
        try:
            getattr(metric, "check_system", lambda _: None)(system)
        except ValueError as error:
            reason = _one_line(error).removesuffix("; leave it out")
            mistakes[name] = f"evaluate.{name}: {reason}; leave it out"
    others = ",".join(name for name in entries if name not in mistakes) or "none"
    if mistakes:
        raise ConfigError(
            [f"{m}, for instance evaluate={others}" if m.endswith("leave it out") else m for m in mistakes.values()]
        )


def _count(system: System) -> dict[str, int]:
    """Numbers of parameters: those that each objective moves, and those that none does."""
    trainable = system.trainable()
    moved = {id(p) for parameters in trainable.values() for p in parameters}
    counts = {
        f"trained ({name})" if len(trainable) > 1 else "trained": sum(p.numel() for p in parameters)
        for name, parameters in trainable.items()
    }
    frozen = sum(p.numel() for p in system.parameters() if id(p) not in moved)
    return {**counts, "frozen": frozen} if frozen else counts


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
