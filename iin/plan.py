"""What is to be done, checked as a whole before anything is.

`plan` checks names, types and ranges of the whole tree, first stages included, and has `iin.trial` try the networks
out. Nothing is written, trained or downloaded.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from iin import compat
from iin import config as configuration
from iin.building import (
    FIRST_STAGE,
    checkpoint_of,
    decisive,
    digest,
    first_stages,
    is_auto,
    load_sound,
    logs_folder,
    original,
    with_weights,
)
from iin.config import Config, ConfigError, Training
from iin.config.hints import hints_of
from iin.config.reading import read, show_path
from iin.data import sources
from iin.factors import KEY, adopt
from iin.logs import missing
from iin.run import Run, RunError
from iin.trial import Trial, attempt

__all__ = ["FirstStage", "Plan", "changes", "locate", "plan", "plan_resume", "resolve_paths"]

log = logging.getLogger("iin")


@dataclass
class FirstStage:
    """One node of a configuration that stands for a part of another run."""

    path: str
    """Key path of the node."""
    plan: Plan | None = None
    """How to train that run; None when a run or a checkpoint is named by hand."""
    run: Run | None = None
    """The run that it is taken from, where there is one."""
    checkpoint: Path | None = None
    """The file that it is taken from, when one is named by hand."""
    hint: str = ""
    """Without a run: the newest finished one of that name, and how its settings differ."""
    missing: str = ""
    """The file of weights that a shipped configuration names and that is not here, of a rehearsal."""


@dataclass
class Plan:
    """A checked configuration, and what is to be done."""

    config: Config
    tree: dict[str, Any]
    """The merged tree, with the configurations of first stages in the place of their names."""
    allow: tuple[str, ...] = ()
    """Packages beyond the program's own that its targets may come from."""
    run: Run | None = None
    """The run to go on with; None to start one."""
    stages: list[FirstStage] = field(default_factory=list)
    trial: Trial = field(default_factory=Trial)
    """What came of trying data and networks out."""
    missing: list[str] = field(default_factory=list)
    """Data and weights that are not here, of a rehearsal; otherwise they are errors."""
    checkpoint: tuple[dict[str, Any], Path] | None = None
    """Content and file of the checkpoint to go on from, of a run that has one."""
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Settings of the run that change: key path -> (before, after)."""

    @property
    def name(self) -> str:
        return str(self.tree["name"])

    @property
    def settings(self) -> Training:
        return Training(**self.tree.get("train", {}))

    @property
    def digest(self) -> str:
        """By this a run of the same configuration is found."""
        return digest(self.tree)

    @property
    def steps(self) -> int:
        """Steps from the beginning to the end."""
        planned = self.settings.epochs * self.trial.steps_per_epoch
        return planned if self.settings.steps is None else min(planned, self.settings.steps)

    @property
    def step(self) -> int:
        """Steps done already."""
        return self.checkpoint[0]["step"] if self.checkpoint else 0

    @property
    def changed(self) -> str:
        """The changes in words; empty without any."""
        if not self.changes:
            return ""
        text = "Changed: " + ", ".join(f"{key} {before} -> {after}" for key, (before, after) in self.changes.items())
        kept = any(_section(key) == "evaluate" for key in self.changes)
        return text + (" (evaluate: kept in config.yaml, for later evaluations too)" if kept else "")

    def describe(self) -> str:
        """The plan in words, for ``--dry-run``."""
        lines = [f"{self.name}: {_short(self.tree['system'])}"]
        if self.tree.get("description"):
            lines.append(f"  {self.tree['description']}")
        for split, where in self.trial.sources.items():
            lines.append(f"  data.{split}: {_short(self.tree['data'][split])}" + (f", {where}" if where else ""))
        lines += [f"  missing: {line}" for line in self.missing]
        for kind, count in self.trial.parameters.items():
            lines.append(f"  {kind}: {count:,} parameters")
        size, lr = self.settings.batch_size, self.settings.lr
        if per_epoch := self.trial.steps_per_epoch:
            lines.append(f"  steps: {self.steps:,} ({per_epoch:,} an epoch, batches of {size}), lr {lr:g}")
        else:
            most = "" if self.settings.steps is None else f", at most {self.settings.steps:,} steps"
            lines.append(f"  steps: {self.settings.epochs:,} epochs in batches of {size}{most}, lr {lr:g}")
        if self.trial.kept:
            lines.append(f"  codes: {self.trial.kept}")
        if self.run is not None:
            lines.append(f"  at step {self.step:,} of {self.steps:,}")
        if self.changes:
            lines.append(f"  {self.changed}")
        if is_auto(self.tree):
            lines.append("  factors: auto, estimated from the training pairs when the first stage is there")
        lines.append(f"  evaluated: {', '.join(self.tree.get('evaluate', {})) or 'nothing'}")
        for stage in self.stages:
            if stage.run is not None or stage.checkpoint is not None:
                lines.append(f"  {stage.path}: {stage.checkpoint or (stage.run and stage.run.folder)}")
            elif stage.plan is not None:
                lines.append(f"  {stage.path}: no finished run of {stage.plan.name} yet; it will be trained first:")
                if stage.hint:
                    lines.append(f"    {stage.hint}")
                lines += ["    " + line for line in stage.plan.describe().splitlines()]
        where = str(self.run.folder) if self.run else f"{logs_folder()}/<time>_{self.name}/"
        lines.append(f"  results: {where}")
        return "\n".join(lines)


def plan(config: Config, *, quick: bool = False, allow: Sequence[str] = (), rehearse: bool = False) -> Plan:
    """Check a configuration, with those of its first stages, and try its networks out.

    Args:
        config: as `iin.config.load` returns it.
        quick: merge the ``quick`` sections of first stages too.
        allow: packages beyond the program's own that targets may come from.
        rehearse: list data and weights that are missing instead of failing; download nothing.

    Raises:
        ConfigError: with all mistakes at once. Nothing was written or trained; data are downloaded last, when all
            else is in order.
        RunError: a run or checkpoint that a first stage names cannot be used.
    """
    mistakes = _mistakes(config, quick, allow, chain=())
    if mistakes:
        raise ConfigError(list(dict.fromkeys(mistakes)))
    return _plan(config, quick, allow, rehearse)


def plan_resume(
    run: Run, overrides: Sequence[str] = (), which: str | int | None = None, *, allow: Sequence[str] = ()
) -> Plan:
    """Check what a run is to go on with: its own configuration, some settings perhaps changed.

    First stages need not exist any more, the run's checkpoints hold their weights.

    Args:
        run: the run.
        overrides: ``key=value``.
        which: a step or a file; default: the newest sound checkpoint.
        allow: see `plan`.

    Raises:
        ConfigError: with all mistakes at once; or settings of training change, and nothing is left to train.
        RunError: there is no such checkpoint, or no sound one.
    """
    config = configuration.load([run.config_file], overrides)
    _check(config, allow)
    made = Plan(config, config.tree, tuple(allow), run)
    for path, node in first_stages(made.tree):
        if not isinstance(node["params"].get("config"), Mapping):
            raise ConfigError([f"{path}: the first stage of a run cannot be changed; start another with iin-train -b"])
    if is_auto(made.tree):
        raise ConfigError([f"{KEY}: a run keeps the sizes that it began with; start another with iin-train -b"])
    made.changes = dict(changes(configuration.load([run.config_file]).tree, made.tree))
    made.trial = attempt(made.tree, made.settings)
    if run.checkpoints() or which is not None:
        made.checkpoint = load_sound(run, which)
        with_weights(made.tree, *made.checkpoint)
    if made.checkpoint and made.step >= made.steps:
        # The record would speak of settings that nothing was trained with.
        steps = made.settings.steps
        further = f"train.steps=... (now {steps}; null for all epochs)" if steps is not None else "train.epochs=..."
        mistakes = [
            f"{key}: the run is finished (step {made.step} of {made.steps}), so this would change its record only; "
            f"train on with {further}, or start a new run"
            for key in made.changes
            if _section(key) in ("seed", "system", "data", "train")
        ]
        if mistakes:
            raise ConfigError(mistakes)
    return made


def _section(key: str) -> str:
    return key.split(".")[0]


def changes(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Key paths whose values differ, with both values."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            yield from changes(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif before != after:
        yield path, (before, after)


def _check(config: Config, allow: Sequence[str]) -> None:
    configuration.check(config, allow=allow)
    if mistakes := missing(config.tree.get("logs", [])):
        raise ConfigError(mistakes)


def _mistakes(config: Config, quick: bool, allow: Sequence[str], chain: tuple[str, ...]) -> list[str]:
    """Mistakes of a configuration and of those that its first stages name."""
    mistakes: list[str] = []
    try:
        _check(config, allow)
    except ConfigError as error:
        mistakes += error.mistakes
    chain = (*chain, configuration.digest(config.tree))
    for path, node in first_stages(config.tree):
        params = node.get("params")
        if not isinstance(params, Mapping) or params.get("config") is None:
            continue
        try:
            inner = _inner_config(config, path, params["config"], quick)
        except ConfigError as error:
            mistakes += error.mistakes
            continue
        if configuration.digest(inner.tree) in chain:
            mistakes.append(f"{path}.params.config: {params['config']} is its own first stage")
        else:
            mistakes += _mistakes(inner, quick, allow, chain)
    return mistakes


def _inner_config(config: Config | None, path: str, named: Any, quick: bool) -> Config:
    """The configuration that a first stage names: a file, or the whole of it in its place."""
    if isinstance(named, Mapping):
        return Config(named, files=config.files if config else ())
    file = config.where(f"{path}.params.config") if config else None
    try:
        found = configuration.find(named, beside=file)
    except ConfigError as error:
        raise ConfigError([f"{path}.params.config: {mistake}" for mistake in error.mistakes]) from error
    return configuration.load([found], quick=quick)


def _plan(config: Config, quick: bool, allow: Sequence[str], rehearse: bool = False) -> Plan:
    """The plan of a configuration that is known to be sound."""
    made = Plan(config, config.tree, tuple(allow))
    if quick and config.files and not config.can_be_quick:
        files = ", ".join(show_path(file) for file in config.files)
        also = ", over the small version of its first stage" if any(first_stages(config.tree)) else ""
        log.warning("%s has no section quick: its full version is run%s", files, also)
    for section in ("data", "system", "evaluate"):
        resolve_paths(made.tree.get(section), config, section, allow)
    for path, node in first_stages(made.tree):
        made.stages.append(locate(node["params"], config, path, quick=quick, allow=allow, rehearse=rehearse))
    made.missing = [stage.missing for stage in made.stages if stage.missing]
    made.missing += _lacking({key: made.tree.get(key) for key in ("system", "evaluate")}, allow)
    if made.missing and not rehearse:
        raise ConfigError(made.missing)
    unready = bool(made.missing) or any(stage.plan is not None and stage.plan.missing for stage in made.stages)
    with sources.offline() if rehearse else contextlib.nullcontext():
        made.trial = attempt(made.tree, made.settings, rehearse=rehearse, data_only=unready)
    made.missing += made.trial.missing
    return made


def _lacking(tree: Any, allow: Sequence[str], path: str = "") -> list[str]:
    """What targets lack that has to come from elsewhere, such as weights; they say so in ``lacks(**params)``."""
    if not isinstance(tree, dict) or tree.get("target") == FIRST_STAGE:
        return []
    lines: list[str] = []
    if "target" in tree:
        lacks = getattr(configuration.resolve(tree["target"], allow), "lacks", None)
        lines += [f"{path}: {line}" for line in (lacks(**(tree.get("params") or {})) if lacks else ())]
    for key, value in tree.items():
        lines += _lacking(value, allow, f"{path}.{key}" if path else key)
    return lines


def resolve_paths(tree: Any, config: Config, path: str, allow: Sequence[str]) -> None:
    """Make relative paths absolute where a target's signature says `Path`, so that a run can be read from elsewhere."""
    if not isinstance(tree, dict) or tree.get("target") == FIRST_STAGE:
        return
    if "target" in tree and tree.get("params"):
        target = configuration.resolve(tree["target"], allow)
        hints = hints_of(target, inspect.signature(target))
        for key, value in tree["params"].items():
            if isinstance(value, str) and Path in (hints.get(key), *get_args(hints.get(key))):
                found = configuration.resolve_path(value, beside=config.where(f"{path}.params.{key}"))
                tree["params"][key] = str(found or value)
    for key, value in tree.items():
        resolve_paths(value, config, f"{path}.{key}", allow)


def locate(
    params: dict[str, Any],
    config: Config | None = None,
    path: str = "first stage",
    *,
    quick: bool = False,
    allow: Sequence[str] = (),
    rehearse: bool = False,
) -> FirstStage:
    """Find out what a first stage stands for, and put the whole configuration of it into its arguments.

    Args:
        params: arguments of `iin.first_stage.pretrained`; changed.
        config: the configuration that they stand in.
        path: key path of the first stage there.
        quick: see `plan`.
        allow: see `plan`.
        rehearse: see `plan`.

    Raises:
        ConfigError, RunError: what it names does not exist, or does not fit.
    """
    for key in [key for key, value in params.items() if value is None]:
        del params[key]
    named = next((key for key in ("run", "checkpoint") if key in params), None)
    if named is None:
        inner = _plan(_inner_config(config, path, params["config"], quick), quick, allow, rehearse)
        params["config"] = inner.tree
        found = Run.find(logs_folder(), inner.digest)
        if found is not None:
            adopt(inner.tree, found)
        return FirstStage(path, inner, found, hint="" if found else _similar(inner, path))
    file = config.where(f"{path}.params.{named}") if config else None
    # Weights that were fetched by hand lie where data do.
    search = sources.folders(None) if named == "checkpoint" else []
    place = configuration.resolve_path(params[named], beside=file, search=search)
    if place is None:
        absent = f"{path}.params.{named}: {params[named]} does not exist ({file or 'command line'})"
        if named == "checkpoint" and not Path(params[named]).is_absolute():
            absent += f"; put it into {search[0]} or the current folder"
            # What a shipped configuration names is to be fetched; elsewhere, a name that leads nowhere is a mistake.
            if rehearse and file is not None and file.is_relative_to(configuration.shipped()):
                return FirstStage(path, missing=absent)
        raise ConfigError([absent])
    params[named] = str(place)
    stage = FirstStage(path, checkpoint=place if named == "checkpoint" else None)
    told = _told(params, config, path)
    if compat.is_original(place):
        # As with runs: what was trained there is what the file says itself.
        if named == "run":
            del params["run"]
        try:
            # That very file, so that one which comes later is not taken for it.
            stage.checkpoint = compat.newest(place)
            params["checkpoint"] = str(stage.checkpoint)
            params["config"] = original(stage.checkpoint, told)
        except compat.CompatError as error:
            words = str(error)
            if isinstance(untold := error.__cause__, compat.Untold):
                words = (
                    f"{place}: a conditional flow, whose weights do not tell {' and '.join(untold.names)}: give "
                    f"{path}.params.original, such as {{{', '.join(f'{name}: ...' for name in untold.names)}}}"
                )
            elif told is not None:
                words += f" (told by {path}.params.original)"
            raise ConfigError([f"{path}.params.{named}: {words}"]) from error
        if not params["config"]["system"]["target"].startswith("iin.systems.") and params.get("part") in (
            None,
            "model",
        ):
            params["part"] = ""  # a flow is no part of a system
    elif told is not None:
        raise ConfigError(
            [f"{path}.params.original: {place} is not of the original, and tells all itself; leave it out"]
        )
    elif named == "checkpoint" and "config" in params:
        params["config"] = _plan(_inner_config(config, path, params["config"], quick), quick, allow).tree
        if is_auto(params["config"]):
            raise ConfigError([f"{path}.params.config: factors are auto, which a file does not tell; name the run"])
    else:
        # What was trained there is what the run says itself; a configuration beside it does not count.
        stage.run = _run_of(place) if named == "checkpoint" else Run(place)
        trained = configuration.load([stage.run.config_file])
        configuration.check(trained, allow=allow)
        params["config"] = trained.tree
    with_weights(params["config"], *checkpoint_of(params))  # missing or damaged weights come to light here
    return stage


def _told(params: dict[str, Any], config: Config | None, path: str) -> Mapping[str, Any] | None:
    """What is said of a checkpoint of the original beside it; a file of the original's is read, and put in its place.

    Raises:
        ConfigError: there is no such file, or it is none.
    """
    told = params.get("original")
    if isinstance(told, Mapping):
        # As everywhere, null takes back what a configuration before said.
        params["original"] = {key: value for key, value in told.items() if value is not None}
        return params["original"]
    if told is None:
        return None
    file = config.where(f"{path}.params.original") if config else None
    place = configuration.resolve_path(told, beside=file)
    if place is None:
        raise ConfigError([f"{path}.params.original: {told} does not exist ({file or 'command line'})"])
    try:
        tree = read(place)
    except ConfigError as error:
        raise ConfigError([f"{path}.params.original: {mistake}" for mistake in error.mistakes]) from error
    # Beside this section stand data and training, of which nothing is taken.
    params["original"] = tree.get("Transformer", tree)
    return params["original"]


def _similar(made: Plan, path: str) -> str:
    """The newest finished run of the same name but with other settings, and how to take it all the same."""
    for folder in sorted(logs_folder().glob(f"*_{made.name}*"), reverse=True):
        try:
            run = Run(folder)
            tree = configuration.load([run.config_file]).tree
            keys = [key for key, _ in changes(decisive(tree), decisive(made.tree))]
        except (RunError, ConfigError, LookupError, TypeError):  # of another version, perhaps
            continue
        if tree.get("name") == made.name and run.state.get("state") == "finished" and run.checkpoints():
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            if keys:
                return f"({folder} differs in {', '.join(keys[:3])}{more}; to use it: {path}.params.run={folder})"
    return ""


def _run_of(checkpoint: Path) -> Run:
    try:
        return Run(checkpoint.parent.parent)
    except RunError as error:
        try:
            compat.read(checkpoint)
        except compat.CompatError as other:
            reason = str(other).removeprefix(f"{checkpoint}: ")
            raise RunError(f"{checkpoint} lies in no run; give its config too (and it is {reason})") from error
        raise RunError(f"{checkpoint} lies in no run; give its config too") from error


def _short(node: Mapping[str, Any]) -> str:
    return str(node["target"]).rsplit(".", 1)[-1]
