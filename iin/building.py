"""From a checked configuration to the objects that it names: data, system, metrics, device.

A configuration here is a whole: where it names a first stage, the configuration of that run stands in the place of its
name (`iin.plan` puts it there). So a system can be built from a run's own ``config.yaml`` and weighted from a
checkpoint of its own, whatever has become of the first stage's run.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iin import compat
from iin import config as configuration
from iin.config import ConfigError, Training
from iin.data import Loader
from iin.evaluation import TestSet
from iin.interrupt import Interrupt
from iin.run import Run, RunError, read_checkpoint
from iin.seeds import mix
from iin.system import Evaluator, System

__all__ = [
    "FIRST_STAGE",
    "check_compiler",
    "check_precision",
    "checkpoint_of",
    "datasets",
    "decisive",
    "device_of",
    "digest",
    "first_stages",
    "fresh",
    "is_auto",
    "logs_folder",
    "make_ready",
    "metrics",
    "name_factors",
    "original",
    "skeleton",
    "source",
    "test_set",
    "trained_part",
    "with_factors",
    "with_weights",
]

log = logging.getLogger("iin")

FIRST_STAGE = "iin.first_stage.pretrained"
"""The target of a node that stands for a part of another run; named by its path, since it builds upon this module."""

COSMETIC = {
    *("log_every", "checkpoint_every", "keep", "best", "best_mode"),
    *("evaluate_every", "eval_batch_size", "workers", "device"),
    *("compile", "cache", "shard"),
}
"""Settings of ``train`` that do not change the weights a run ends with, but for rounding."""

LATER = {"precision", "tf32"}
"""Settings of ``train`` that count in a digest only where they differ from their defaults: earlier versions had none of
them, and their runs are found all the same."""


def logs_folder() -> Path:
    """Where run folders are: ``$IIN_LOGS``, or ``logs`` in the current folder."""
    return Path(os.environ.get("IIN_LOGS") or "logs")


def digest(tree: Mapping[str, Any]) -> str:
    """Digest of all that decides a run's weights; by it a run of the same configuration is found."""
    essential = decisive(tree)
    essential["data"] = essential["data"]["train"]
    for _, node in first_stages(essential):
        params = {"part": "model", **node["params"]}
        node["params"] = {**params, "config": digest(params["config"])}
    return configuration.digest(essential)


def decisive(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of what decides a run's weights, defaults written out; the rest of a configuration is left out."""
    settings = dataclasses.asdict(Training(**tree.get("train", {})))
    return copy.deepcopy(
        {
            "seed": tree.get("seed", 0),
            "data": {"train": tree.get("data", {}).get("train")},  # `original` knows of none
            "system": tree["system"],
            "train": {
                key: value
                for key, value in settings.items()
                if key not in COSMETIC and not (key in LATER and value == getattr(Training, key))
            },
        }
    )


# --- first stages ----------------------------------------------------------------------------------------------------


def first_stages(tree: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Nodes that stand for a part of another run, with their key paths; not those inside their configurations."""
    if isinstance(tree, dict):
        if tree.get("target") == FIRST_STAGE:
            yield path, tree
            return
        for key, value in tree.items():
            yield from first_stages(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from first_stages(value, f"{path}.{index}")


def _with_parts(node: Any, make: Callable[[Mapping[str, Any]], nn.Module]) -> Any:
    """A copy of a tree in which every first stage is replaced by what ``make(params)`` returns."""
    if isinstance(node, Mapping):
        if node.get("target") == FIRST_STAGE:
            return make(node["params"])
        return {key: _with_parts(value, make) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_parts(value, make) for value in node]
    return node


def checkpoint_of(params: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
    """The weights that a first stage stands for: those of a checkpoint, a run, or a run that is looked up.

    Args:
        params: of the first stage; ``config`` is a whole configuration.

    Raises:
        RunError: there is no such run, or no sound checkpoint.
    """
    if "checkpoint" in params:
        path = Path(params["checkpoint"])
        if compat.is_original(path):
            return _original_content(path, params.get("original")), path
        return read_checkpoint(path), path
    run = Run(params["run"]) if "run" in params else Run.find(logs_folder(), digest(params["config"]))
    if run is None:
        name = params["config"].get("name")
        raise RunError(f"no finished run of {name} below {logs_folder()}; train it with iin-train -b")
    return load_sound(run)


def original(path: Path, told: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A configuration of the network in a checkpoint, or run's folder, of the original project; it names no data.

    The network is the part ``model`` of its system, or, of a flow, the whole.

    Args:
        path: the checkpoint, or the folder.
        told: what a conditional flow's weights do not tell; see `compat.load`.

    Raises:
        compat.CompatError: not such a file, or one that is damaged.
    """
    return _around(compat.architecture(path, told))


def _around(node: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose system is, or has for its model, what a node builds."""
    kind = node["target"].rpartition(".")[2]
    first_stage = node["target"].startswith("iin.models.")
    trains = "Classifier" if kind == "Classifier" else "Autoencoder"
    return {
        "name": f"original_{kind.lower()}",
        "description": f"The {kind.lower().replace('_', ' ')} of a checkpoint that the original project wrote.",
        "system": {"target": f"iin.systems.{trains}", "params": {"model": node}} if first_stage else node,
    }


def _original_content(path: Path, told: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The network in a checkpoint of the original project, as a checkpoint of ours has it."""
    model = compat.load(path, config=told)
    system: Any = skeleton(_around(compat.architecture(model)))
    getattr(system, "model", system).load_state_dict(model.state_dict())
    return {"step": compat.step_of(path), "system": system.state_dict()}


def load_sound(run: Run, which: str | int | Path | None = None) -> tuple[dict[str, Any], Path]:
    """Read a run's checkpoint, and say which damaged ones were passed over."""
    content, path, complaints = run.load(which)
    for complaint in complaints:
        log.warning("%s; using the one before it", complaint)
    return content, path


def trained_part(params: Mapping[str, Any]) -> nn.Module:
    """What a first stage stands for, with its weights."""
    content, path = checkpoint_of(params)
    system = with_weights(params["config"], content, path)
    with contextlib.suppress(RunError):  # a checkpoint by itself does not know how factors are called
        if names := Run(path.parent.parent).state.get("factors"):
            system.names = tuple(names)  # type: ignore[assignment]
    return part_of(system, params)


def part_of(system: System, params: Mapping[str, Any]) -> nn.Module:
    """The part of a system that a first stage names, or the whole of it: frozen and in eval mode.

    Raises:
        ValueError: there is no such part.
    """
    part = params.get("part", "model")
    try:
        found = attrgetter(part)(system) if part else system
    except AttributeError:
        found = None
    if not isinstance(found, nn.Module):
        parts = ", ".join(name for name, _ in system.named_children())
        raise ValueError(f"{type(system).__name__} has no part {part!r}; it has: {parts}")
    return found.eval().requires_grad_(False)


# --- systems ---------------------------------------------------------------------------------------------------------


def is_auto(tree: Mapping[str, Any]) -> bool:
    """Whether a configuration leaves the sizes of its factors to be estimated; see `iin.factors`."""
    return (tree["system"].get("params") or {}).get("factors") == "auto"


def with_factors(tree: Mapping[str, Any], factors: Any) -> dict[str, Any]:
    """A copy of a configuration with other factors."""
    system = tree["system"]
    return {**tree, "system": {**system, "params": {**system["params"], "factors": factors}}}


def skeleton(tree: Mapping[str, Any]) -> System:
    """The system of a configuration with fresh weights; first stages are built like it, not looked up."""
    if is_auto(tree):
        tree = with_factors(tree, 2)  # of a first stage not yet trained; how many there are changes no weight's shape
    return configuration.build(_with_parts(tree["system"], lambda params: part_of(skeleton(params["config"]), params)))


def fresh(tree: Mapping[str, Any]) -> System:
    """The system of a configuration as training starts with it: first stages trained, all else drawn anew."""
    torch.manual_seed(mix(tree.get("seed", 0), 3))
    return configuration.build(_with_parts(tree["system"], trained_part))


def with_weights(tree: Mapping[str, Any], content: Mapping[str, Any], path: Path) -> System:
    """The system of a configuration with the weights of a checkpoint, all of them.

    Raises:
        RunError: the checkpoint is one of another architecture.
    """
    system = skeleton(tree)
    ours, theirs = system.state_dict(), content["system"]
    differences = [f"{key} is missing" for key in ours.keys() - theirs.keys()]
    differences += [f"{key} is not expected" for key in theirs.keys() - ours.keys()]
    differences += [
        f"{key} is {list(theirs[key].shape)}, expected {list(ours[key].shape)}"
        for key in ours.keys() & theirs.keys()
        if ours[key].shape != theirs[key].shape
    ]
    if differences:
        first = "; ".join(sorted(differences)[:4])
        more = f"; and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise RunError(f"{path}: a checkpoint of another architecture: {first}{more}")
    system.load_state_dict(theirs)
    return system


def device_of(settings: Training) -> torch.device:
    """The device that a configuration asks for.

    Raises:
        ConfigError: there is no such device here.
    """
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(settings.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([f"train.device: {settings.device} cannot be used here ({reason}); try auto"]) from error
    return device


def check_compiler(settings: Training) -> None:
    """See that there is what translates flows, where a configuration asks for that.

    Raises:
        ConfigError: there is not.
    """
    if settings.compile == "off":
        return
    if device_of(settings).type == "cuda":
        lacks = "" if importlib.util.find_spec("triton") else "the package triton"
    else:
        lacks = "" if any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))) else "g++"
    if lacks:
        raise ConfigError([f"train.compile: {settings.compile} needs a compiler, and {lacks} is not here; use off"])


def check_precision(settings: Training) -> None:
    """See that the device computes in the precision that a configuration asks for, and not by emulating it.

    Raises:
        ConfigError: it does not.
    """
    if settings.precision != "bf16":
        return
    device = device_of(settings)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        what = torch.cuda.get_device_name(device)
    elif device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        what = "this processor (without AVX-512)"
    else:
        return
    raise ConfigError([f"train.precision: bf16 is not computed by {what}; use fp32"])


# --- data and metrics ------------------------------------------------------------------------------------------------


def datasets(tree: Mapping[str, Any], *splits: str) -> list[Any]:
    """Data sets of a configuration.

    Raises:
        ConfigError: one cannot be made: files are missing or damaged.
    """
    made = []
    for split in splits:
        try:
            made.append(configuration.build(_with_parts(tree["data"][split], trained_part)))
        except (ValueError, OSError) as error:
            raise ConfigError([f"data.{split}: {' '.join(str(error).split())}"]) from error
    return made


def make_ready(data: Any, check: Callable[[], None] | None = None) -> None:
    """Have a data set do what takes a while and is done once, where it has anything of the kind."""
    if callable(make := getattr(data, "make_ready", None)):
        make(check)


def source(data: Any) -> str:
    """Where a data set came from, in words."""
    return str(getattr(data, "source", type(data).__name__))


def name_factors(system: System, data: Any) -> None:
    """Tell a system of factors their names.

    Raises:
        ValueError: system and data count different numbers of factors.
    """
    names, factors = getattr(data, "factors", None), getattr(system, "factors", None)
    if not names or factors is None:
        return
    if len(names) != len(factors):
        raise ValueError(
            f"factors: {len(factors)} sizes, but the data have {len(names)} factors: {', '.join(names)} "
            "(system.params.factors)"
        )
    system.names = tuple(names)  # type: ignore[assignment]


def metrics(tree: Mapping[str, Any]) -> dict[str, Evaluator]:
    """The metrics of a configuration, by the name of their entry."""
    made: dict[str, Evaluator] = {}
    for name, node in tree.get("evaluate", {}).items():
        try:
            made[name] = configuration.build(_with_parts(node, trained_part))
        except (ValueError, OSError) as error:
            raise ConfigError([f"evaluate.{name}: {' '.join(str(error).split())}"]) from error
    return made


def test_set(data: Any, settings: Training, seed: int, interrupt: Interrupt | None = None) -> TestSet:
    """Test batches as metrics see them; the same ones in training and in evaluation."""
    fingerprint = getattr(data, "fingerprint", None)
    return TestSet(
        Loader(data, settings.eval_batch_size, seed=mix(seed, 2)),
        device_of(settings),
        factors=getattr(data, "factors", None),
        # Noise and colours of test images are drawn from the seed: with another, they are other images.
        fingerprint=fingerprint and configuration.digest([fingerprint, seed]),
        interrupt=interrupt,
    )
