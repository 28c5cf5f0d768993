"""From a configuration to a finished run: what the commands, first stages and `iin.load` share.

The order of work is always the same. `plan` checks names, types and ranges of the whole tree, first stages included,
and tries the networks out on tensors without memory; nothing is written, trained or downloaded. `train` then trains
the first stages that are missing, builds everything and runs the loop. Building never trains.
"""

from __future__ import annotations

import copy
import importlib.metadata
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iin import config as configuration
from iin.config import Config, ConfigError, Training
from iin.logs import open_sinks
from iin.record import cut
from iin.run import Run, RunError, read_checkpoint, step_of, write_atomically, write_json
from iin.seeds import mix
from iin.system import Evaluator, System
from iin.train import Interrupt, Interrupted, TestSet, evaluate, fit, look, record

__all__ = ["Plan", "Trained", "evaluate_run", "load", "logs_folder", "plan", "resume", "train"]

log = logging.getLogger("iin")

FIRST_STAGE = "iin.first_stage.pretrained"
"""The target of a node that stands for a part of another run; named by its path, since it builds upon this module."""

COSMETIC = {"log_every", "checkpoint_every", "keep", "best", "best_mode", "evaluate_every", "workers", "device"}
"""Settings of ``train`` that do not change the weights a run ends with."""


def logs_folder() -> Path:
    """Where run folders are: ``$IIN_LOGS``, or ``logs`` in the current folder."""
    return Path(os.environ.get("IIN_LOGS") or "logs")


# --- the plan ----------------------------------------------------------------------------------------------------------


@dataclass
class FirstStage:
    """One node of a configuration that stands for a part of another run."""

    path: str
    """Key path of the node."""
    plan: Plan | None
    """How to train that run; None when a run or a checkpoint is named by hand."""
    run: Run | None
    """The finished run, where there is one."""

    @property
    def name(self) -> str:
        return str(self.plan.tree["name"]) if self.plan else self.path


@dataclass
class Plan:
    """A checked configuration, and what is to be done."""

    config: Config
    tree: dict[str, Any]
    """The merged tree, with the configurations of first stages in the place of their names."""
    settings: Training
    stages: list[FirstStage] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    """Trained by each objective, and frozen."""
    steps_per_epoch: int = 0
    sources: dict[str, str] = field(default_factory=dict)
    """Where training and test data come from."""

    @property
    def digest(self) -> str:
        """By this a finished run of the same configuration is found."""
        return _digest(self.tree)

    @property
    def steps(self) -> int:
        planned = self.settings.epochs * self.steps_per_epoch
        return planned if self.settings.steps is None else min(planned, self.settings.steps)

    def describe(self, indent: str = "") -> str:
        """The plan in words, for ``--dry-run``."""
        lines = [f"{indent}{self.tree['name']}: {_short(self.tree['system']['target'])}"]
        if self.tree.get("description"):
            lines.append(f"  {self.tree['description']}")
        for split, source in self.sources.items():
            lines.append(f"  data.{split}: {_short(self.tree['data'][split]['target'])}, {source}")
        for name, count in self.parameters.items():
            lines.append(f"  {name}: {count:,} parameters")
        lines.append(
            f"  steps: {self.steps:,} ({self.steps_per_epoch:,} an epoch, batches of {self.settings.batch_size}), "
            f"lr {self.settings.lr:g}"
        )
        lines.append(f"  evaluated: {', '.join(self.tree.get('evaluate', {})) or 'nothing'}")
        for stage in self.stages:
            if stage.run is not None:
                lines.append(f"  {stage.path}: {stage.run.folder}")
            elif stage.plan is not None:
                lines.append(f"  {stage.path}: no finished run of {stage.name} yet; it will be trained first:")
                lines += ["    " + line for line in stage.plan.describe().splitlines()]
        lines.append(f"  results: {logs_folder()}/<time>_{self.tree['name']}/")
        return f"\n{indent}".join(lines)


def plan(config: Config, *, quick: bool = False, allow: Sequence[str] = ()) -> Plan:
    """Check a configuration, with those of its first stages, and try its networks out.

    Args:
        config: as `iin.config.load` returns it.
        quick: merge the ``quick`` sections of first stages too.
        allow: packages beyond the program's own that targets may come from.

    Raises:
        ConfigError: with all mistakes at once. Nothing was written, trained or downloaded.
    """
    mistakes: list[str] = []
    configs: list[tuple[str, dict[str, Any], Config]] = []
    _gather(config, quick, allow, mistakes, configs, chain=())
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))
    return _plan(config, quick, allow)


def _gather(
    config: Config,
    quick: bool,
    allow: Sequence[str],
    mistakes: list[str],
    configs: list[tuple[str, dict[str, Any], Config]],
    chain: tuple[str, ...],
) -> None:
    """Check a configuration and those that its first stages name, collecting mistakes."""
    try:
        configuration.check(config, allow=allow)
    except ConfigError as error:
        mistakes += error.mistakes
    for path, node in _first_stages(config.tree):
        params = node.get("params") or {}
        if not isinstance(params, Mapping) or "config" not in params:
            continue
        try:
            inner = _inner_config(config, path, params["config"], quick)
        except ConfigError as error:
            mistakes += error.mistakes
            continue
        key = configuration.digest(inner.tree)
        if key in chain:
            mistakes.append(f"{path}.params.config: {params['config']} is its own first stage")
            continue
        _gather(inner, quick, allow, mistakes, configs, (*chain, key))


def _inner_config(config: Config, path: str, named: Any, quick: bool) -> Config:
    """The configuration that a first stage names: a file, or the whole of it in its place."""
    if isinstance(named, Mapping):
        return Config(copy.deepcopy(dict(named)), files=list(config.files))
    file = config.where(f"{path}.params.config")
    try:
        found = configuration.find(named, beside=file.parent if file else None)
    except ConfigError as error:
        raise ConfigError([f"{path}.params.config: {mistake}" for mistake in error.mistakes]) from error
    return configuration.load([found], quick=quick)


def _plan(config: Config, quick: bool, allow: Sequence[str]) -> Plan:
    """The plan of a configuration that is known to be sound."""
    tree = copy.deepcopy(config.tree)
    made = Plan(config, tree, Training(**tree.get("train", {})))
    for path, node in _first_stages(tree):
        params = node["params"]
        named = params.get("run") or params.get("checkpoint")
        if named is not None:
            key = "run" if "run" in params else "checkpoint"
            file = config.where(f"{path}.params.{key}")
            found = configuration.resolve_path(str(named), beside=file.parent if file else None)
            if found is None:
                raise ConfigError([f"{path}.params.{key}: {named} does not exist ({file or 'command line'})"])
            params[key] = str(found)
        if named is not None and (key == "run" or "config" not in params):
            # What was trained there is what it says itself; a configuration beside it does not count.
            run = Run(found if key == "run" else found.parent.parent)
            params["config"] = configuration.load([run.config_file]).tree
            made.stages.append(FirstStage(path, None, run))
        else:
            inner = _plan(_inner_config(config, path, params["config"], quick), quick, allow)
            params["config"] = inner.tree
            if named is None:
                run = Run.find_finished(logs_folder(), inner.digest)
                made.stages.append(FirstStage(path, inner, run))
    _try(made)
    return made


def _try(made: Plan) -> None:
    """Build the data, and the networks on tensors without memory; take one batch through them.

    Sizes that do not fit each other come to light here, before anything is trained.
    """
    tree = made.tree
    train, test = _data(tree)
    made.sources = {"train": _source(train), "test": _source(test)}
    if len(train) < made.settings.batch_size:
        raise ConfigError(
            [f"train.batch_size: {made.settings.batch_size} is larger than the training set ({len(train)} items)"]
        )
    made.steps_per_epoch = len(train) // made.settings.batch_size
    try:
        with torch.device("meta"):
            system = _skeleton(tree).eval()
            _name_factors(system, train)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError([f"system: {_one_line(error)}"]) from error
    trainable = system.trainable()
    moved = {id(p) for parameters in trainable.values() for p in parameters}
    for name, parameters in trainable.items():
        made.parameters[f"trained ({name})" if len(trainable) > 1 else "trained"] = sum(p.numel() for p in parameters)
    frozen = sum(p.numel() for p in system.parameters() if id(p) not in moved)
    if frozen:
        made.parameters["frozen"] = frozen
    for split, data in (("train", train), ("test", test)):
        batch = data[list(range(min(4, len(data))))]
        batch = type(batch)(*(v.to("meta") if isinstance(v, torch.Tensor) else v for v in batch))
        try:
            for _ in system.objectives(batch, 0):
                pass
        except (ValueError, AttributeError) as error:
            raise ConfigError([f"data.{split} does not fit system: {_one_line(error)}"]) from error
        except (RuntimeError, NotImplementedError) as error:
            # An operation that needs values: somebody's network may have one. The first step will tell.
            log.debug("could not try the system out on data.%s: %s", split, error)


def _first_stages(tree: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Nodes that stand for a part of another run, with their key paths; not those inside their configurations."""
    if isinstance(tree, Mapping):
        if tree.get("target") == FIRST_STAGE:
            yield path, tree  # type: ignore[misc]
            return
        for key, value in tree.items():
            yield from _first_stages(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _first_stages(value, f"{path}.{index}")


def _digest(tree: Mapping[str, Any]) -> str:
    """Digest of all that decides a run's weights."""
    essential = {
        "seed": tree.get("seed", 0),
        "data": tree["data"]["train"],
        "system": copy.deepcopy(tree["system"]),
        "train": {k: v for k, v in tree.get("train", {}).items() if k not in COSMETIC},
    }
    for _, node in _first_stages(essential):
        if isinstance(inner := node["params"].get("config"), Mapping) and "system" in inner:
            node["params"] = {"config": _digest(inner), "part": node["params"].get("part", "model")}
    return configuration.digest(essential)


# --- building ----------------------------------------------------------------------------------------------------------


def _data(tree: Mapping[str, Any]) -> tuple[Any, Any]:
    """Training and test set of a configuration."""
    try:
        return configuration.build(tree["data"]["train"]), configuration.build(tree["data"]["test"])
    except (ValueError, OSError) as error:
        raise ConfigError([f"data: {_one_line(error)}"]) from error


def _skeleton(tree: Mapping[str, Any]) -> System:
    """The system of a configuration with fresh weights; first stages are built, not looked up."""
    return configuration.build(_with_parts(tree["system"], lambda params: part_of(_skeleton(params["config"]), params)))


def _with_parts(node: Any, make: Any) -> Any:
    """A copy of a tree in which every first stage is replaced by what ``make(params)`` returns."""
    if isinstance(node, Mapping):
        if node.get("target") == FIRST_STAGE:
            return make(node["params"])
        return {key: _with_parts(value, make) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_parts(value, make) for value in node]
    return node


def part_of(system: System, params: Mapping[str, Any]) -> nn.Module:
    """The part of a system that a first stage names, or the whole of it.

    Raises:
        ValueError: there is no such part.
    """
    part = params.get("part", "model")
    if not part:
        return system
    try:
        return attrgetter(part)(system)
    except AttributeError as error:
        children = ", ".join(name for name, _ in system.named_children())
        raise ValueError(f"{type(system).__name__} has no part {part!r}; it has: {children}") from error


def _name_factors(system: System, data: Any) -> None:
    """Tell a system of factors their names; both must count the same."""
    names, factors = getattr(data, "factors", None), getattr(system, "factors", None)
    if not names or factors is None:
        return
    if len(names) != len(factors):
        raise ValueError(f"factors: {len(factors)} sizes, but the data have {len(names)} factors: {', '.join(names)}")
    system.names = tuple(names)  # type: ignore[assignment]


def _source(data: Any) -> str:
    return str(getattr(data, "source", type(data).__name__))


def _device(settings: Training) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def _evaluators(tree: Mapping[str, Any]) -> dict[str, Evaluator]:
    """The metrics of a configuration, by name."""
    evaluators: dict[str, Evaluator] = {}
    for name, node in tree.get("evaluate", {}).items():
        try:
            evaluators[name] = configuration.build(node)
        except (ValueError, OSError) as error:
            raise ConfigError([f"evaluate.{name}: {_one_line(error)}"]) from error
    return evaluators


def _test_set(data: Any, settings: Training, seed: int, interrupt: Interrupt | None = None) -> TestSet:
    from iin.data import Loader  # data sets are reached built; this is the one piece of data that all of them share

    return TestSet(
        Loader(data, settings.eval_batch_size, seed=mix(seed, 2)),
        _device(settings),
        factors=getattr(data, "factors", None),
        fingerprint=getattr(data, "fingerprint", None),
        interrupt=interrupt,
    )


def with_weights(tree: Mapping[str, Any], content: Mapping[str, Any], path: Path) -> System:
    """The system of a configuration with the weights of a checkpoint, all of them.

    Raises:
        RunError: the checkpoint is one of another architecture.
    """
    system = _skeleton(tree)
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


# --- training ----------------------------------------------------------------------------------------------------------


def train(made: Plan, *, announce: bool = True) -> Run:
    """Carry out a plan: train what first stages are missing, then this.

    Args:
        made: from `plan`.
        announce: whether this run is the one that was asked for, or a first stage on its way.

    Returns:
        The finished run.

    Raises:
        ConfigError, RunError, TrainingError: in one line.
        Interrupted: a signal asked to stop; everything is saved.
    """
    tree = made.tree
    for stage in made.stages:
        if stage.run is None and stage.plan is not None:
            stage.run = Run.find_finished(logs_folder(), stage.plan.digest)
        if stage.run is None and stage.plan is not None:
            log.info("First stage: no finished run of %s below %s, so it is trained first", stage.name, logs_folder())
            stage.run = _continue_or_train(stage.plan)
        if stage.run is not None:
            log.info("First stage: %s", stage.run.folder)
    system = _fresh(tree)
    run = Run.create(logs_folder(), tree["name"], {"version": configuration.VERSION, **tree}, digest=made.digest)
    with run.locked():
        _write_environment(run, made)
        _fit(run, tree, system, None)
    return run


def _continue_or_train(made: Plan) -> Run:
    """Go on with an unfinished run of this very configuration, or start one."""
    for folder in sorted(logs_folder().glob("*/"), reverse=True):
        if (folder / "config.yaml").is_file():
            run = Run(folder)
            if run.state.get("digest") == made.digest and run.state.get("state") == "interrupted" and run.checkpoints():
                log.info("First stage: going on with %s", run.folder)
                return resume(run)
    return train(made, announce=False)


def _fresh(tree: Mapping[str, Any]) -> System:
    """The system of a configuration as training starts with it: first stages trained, all else drawn anew."""
    torch.manual_seed(mix(tree.get("seed", 0), 3))
    return configuration.build(_with_parts(tree["system"], _trained_part))


def _trained_part(params: Mapping[str, Any]) -> nn.Module:
    """The part of a finished run that a first stage stands for, with its weights."""
    if "checkpoint" in params:
        file = Path(params["checkpoint"])
        return part_of(with_weights(params["config"], read_checkpoint(file), file), params)
    run = Run(params["run"]) if "run" in params else Run.find_finished(logs_folder(), _digest(params["config"]))
    if run is None:
        raise RunError(f"no finished run of {params['config']['name']} below {logs_folder()}: train it with iin-train -b")
    return part_of(load(run).system, params)


def resume(run: Run, overrides: Sequence[str] = (), which: str | None = None, *, allow: Sequence[str] = ()) -> Run:
    """Go on with a run from its newest sound checkpoint, or from the one named.

    Args:
        run: the run.
        overrides: ``key=value``; what they change is said, and written into the run's configuration.
        which: a step or a file; default: the newest sound checkpoint.

    Returns:
        The same run, finished.
    """
    before = configuration.load([run.config_file])
    config = configuration.load([run.config_file], overrides)
    configuration.check(config, allow=allow)
    tree = config.tree
    with run.locked():
        run.sweep()
        if run.checkpoints() or which is not None:
            content, path, complaints = run.load(which)
            for complaint in complaints:
                log.warning("%s; using the one before it", complaint)
            system = with_weights(tree, content, path)
            log.info("Resuming %s at step %d (%s)", run.folder, content["step"], path.name)
        else:  # stopped before its first checkpoint: the beginning is the state to go on from
            content = None
            system = _fresh(tree)
            log.info("Starting %s from the beginning: it has no checkpoint yet", run.folder)
        step = content["step"] if content else 0
        for newer in run.checkpoints():
            if step_of(newer) > step:
                log.warning("%s lies beyond step %d: set aside as %s.old", newer, step, newer.name)
                newer.rename(newer.with_name(newer.name + ".old"))
        cut(run.folder / "metrics.jsonl", step)
        changed = _changes(before.tree, tree)
        if changed:
            log.info("Changed: %s", ", ".join(changed))
            with write_atomically(run.config_file) as file:
                file.write(configuration.dump(tree).encode())
            run.set_state(run.state.get("state", "interrupted"), step, digest=_digest(tree))
        _fit(run, tree, system, content)
    return run


def _changes(before: Any, after: Any, path: str = "") -> list[str]:
    """Key paths whose values differ, with both values."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = list(dict.fromkeys([*before, *after]))
        return [c for k in keys for c in _changes(before.get(k), after.get(k), f"{path}.{k}" if path else str(k))]
    return [] if before == after else [f"{path} {before} -> {after}"]


def _fit(run: Run, tree: Mapping[str, Any], system: System, content: Mapping[str, Any] | None) -> None:
    """Run the loop in a run's folder, and record how it ended."""
    from iin.data import Loader

    settings, seed = Training(**tree.get("train", {})), tree.get("seed", 0)
    train_data, test_data = _data(tree)
    _name_factors(system, train_data)
    system.to(_device(settings))
    evaluators = _evaluators(tree)
    handler = logging.FileHandler(run.folder / "log.txt")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    sinks = open_sinks(tree.get("logs", []), run.folder, tree)
    interrupt = Interrupt()
    run.set_state("running", content["step"] if content else 0)
    try:
        with interrupt:
            fit(
                system,
                Loader(train_data, settings.batch_size, seed=mix(seed, 0), shuffle=True, workers=settings.workers),
                _test_set(test_data, settings, seed, interrupt),
                evaluators,
                settings,
                run,
                sinks,
                seed=mix(seed, 1),
                checkpoint=content,
                facts={"data_source": _source(test_data)},
                interrupt=interrupt,
            )
    except (Interrupted, KeyboardInterrupt):
        run.set_state("interrupted", _newest(run))
        raise
    except BaseException:
        run.set_state("failed", _newest(run))
        raise
    else:
        run.set_state("finished", _newest(run))
    finally:
        for sink in sinks:
            sink.close()
        log.removeHandler(handler)
        handler.close()


def _newest(run: Run) -> int:
    checkpoints = run.checkpoints()
    return step_of(checkpoints[0]) if checkpoints else 0


def _write_environment(run: Run, made: Plan) -> None:
    """What this run stands on: versions, command, data, first stages."""
    versions = {}
    for package in ("iin", "torch", "torchvision", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    first = {
        stage.path: {"run": str(stage.run.folder), "step": stage.run.state.get("step"), "digest": stage.run.state.get("digest")}
        for stage in made.stages
        if stage.run is not None
    }
    write_json(
        run.folder / "environment.json",
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": sys.argv,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": versions,
            "threads": torch.get_num_threads(),
            "device": str(_device(made.settings)),
            "data": made.sources,
            "first_stage": first,
        },
    )


# --- finished runs -----------------------------------------------------------------------------------------------------


@dataclass
class Trained:
    """A run's system with its weights, ready to use."""

    run: Run
    system: System
    tree: dict[str, Any]
    step: int


def load(folder: str | Path | Run, which: str | None = None, *, allow: Sequence[str] = ()) -> Trained:
    """Load a run: its system with the weights of a checkpoint, in eval mode, on the CPU.

    Args:
        folder: the run's folder, or its ``config.yaml``.
        which: a step, a file or ``"last"``; default: the newest sound checkpoint.
        allow: packages beyond the program's own that its configuration may name.

    Raises:
        RunError: no run, or no sound checkpoint.
        ConfigError: its configuration is not one that this version reads.
    """
    run = folder if isinstance(folder, Run) else Run(folder)
    config = configuration.load([run.config_file])
    configuration.check(config, allow=allow)
    tree = config.tree
    content, path, complaints = run.load(which)
    for complaint in complaints:
        log.warning("%s; using the one before it", complaint)
    return Trained(run, with_weights(tree, content, path).eval(), tree, content["step"])


def evaluate_run(
    run: Run, overrides: Sequence[str] = (), which: str | None = None, *, allow: Sequence[str] = ()
) -> dict[str, float]:
    """Measure a run's checkpoint with the metrics of its configuration, as training does.

    Writes ``eval/step-XXXXXXXX/metrics.json`` and pictures beside it.

    Returns:
        The figures.
    """
    from iin import pictures, report

    config = configuration.load([run.config_file], overrides)
    configuration.check(config, allow=allow)
    trained = load(run, which, allow=allow)
    settings, seed = Training(**config.tree.get("train", {})), config.tree.get("seed", 0)
    data = configuration.build(config.tree["data"]["test"])
    _name_factors(trained.system, data)
    evaluators = _evaluators(config.tree)
    trained.system.to(_device(settings))
    test = _test_set(data, settings, seed)
    figures = evaluate(trained.system, test, evaluators, seed=mix(seed, 1))
    record(run, trained.step, figures, {"data_source": _source(data)}, evaluators)
    for name, images in look(trained.system, test, seed=mix(seed, 1)).items():
        pictures.save(pictures.grid(images), run.folder / "eval" / f"step-{trained.step:08d}" / f"{name}.png")
    report.write(run.folder)
    return figures


def _short(target: str) -> str:
    return target.rsplit(".", 1)[-1]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
