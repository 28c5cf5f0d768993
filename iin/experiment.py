"""From a plan to a finished run: what the commands, first stages and `iin.load` share.

The order of work is always the same: `iin.plan` checks everything; `train` then trains the first stages that are
missing, builds everything and runs the loop. Building never trains.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from iin import codes, pictures, report
from iin import config as configuration
from iin.building import (
    datasets,
    device_of,
    digest,
    first_stages,
    fresh,
    load_sound,
    logs_folder,
    make_ready,
    metrics,
    name_factors,
    source,
    test_set,
    with_weights,
)
from iin.config import ConfigError, Training
from iin.data import Loader
from iin.distributed import everyone, first, leading, rank, wait, world
from iin.evaluation import evaluate, look, record
from iin.factors import adopt, settle
from iin.files import write_atomically
from iin.interrupt import Interrupt, Interrupted
from iin.logs import LogError, open_sinks
from iin.plan import FirstStage, Plan, changes, locate, plan, plan_resume
from iin.run import Run, RunError, step_of, write_json
from iin.seeds import mix
from iin.system import System
from iin.train import fit, make_optimizers, restore
from iin.trained import Trained

__all__ = ["Trained", "check_shares", "evaluate_run", "load", "plan", "plan_resume", "provide", "resume", "train"]

log = logging.getLogger("iin")


# --- training --------------------------------------------------------------------------------------------------------


def train(made: Plan) -> Run:
    """Carry out a plan: train what first stages are missing, then this.

    Args:
        made: from `plan`.

    Returns:
        The finished run.

    Raises:
        ConfigError, RunError, LogError, TrainingError: in one line.
        Interrupted: a signal asked to stop; everything is saved.
    """
    check_shares(made)
    for stage in made.stages:
        provide(stage)
    asked = made.digest
    made.tree.update(first(lambda: _settled(made.tree)))
    system = fresh(made.tree)
    tree = {"version": configuration.VERSION, **made.tree}
    run = Run(first(lambda: Run.create(logs_folder(), made.name, tree, digest=made.digest, asked=asked).folder))
    with _held(run):
        log.info("Training %s for %d steps: %s", made.name, made.steps, run.folder)
        if rank() == 0:
            _write_environment(run, made)
        _fit(run, made.tree, system, None)
    return run


def check_shares(made: Plan) -> None:
    """See that batches can be divided among the processes, and that all are about to do the same.

    Raises:
        ConfigError: they are not.
    """
    if world() == 1:
        return
    mistakes = []
    for number, tree in enumerate(trees := everyone(made.tree)):
        for key, (ours, theirs) in list(changes(trees[0], tree))[:3]:
            mistakes.append(f"{key}: {theirs} in process {number}, but {ours} in process 0; give all the same settings")
    for one in [made, *(stage.plan for stage in made.stages if stage.plan and not stage.run)]:
        if one.settings.batch_size % world():
            mistakes.append(
                f"train.batch_size: {one.settings.batch_size} ({one.name}) cannot be divided among {world()} "
                f"processes; use a multiple of {world()}"
            )
        if one.settings.device not in ("auto", "cpu", "cuda"):
            mistakes.append(f"train.device: {one.settings.device} is one device, for {world()} processes; use auto")
    if mistakes:
        raise ConfigError(mistakes)


def _settled(tree: dict[str, Any]) -> dict[str, Any]:
    settle(tree)
    return tree


@contextlib.contextmanager
def _held(run: Run) -> Iterator[None]:
    """Hold a run and write its log, which is up to the first process; the others wait until it does."""
    with contextlib.ExitStack() as stack:

        def hold() -> None:
            stack.enter_context(run.locked())
            stack.enter_context(_log_file(run))

        first(hold)
        yield


def provide(stage: FirstStage) -> None:
    """See to it that there is a run which a first stage can be taken from: find one, go on with one, or train one.

    Args:
        stage: of a plan; its ``run`` is set.

    Raises:
        ConfigError, RunError, LogError, TrainingError: in one line.
        Interrupted: a signal asked to stop; everything is saved.
    """
    if stage.plan is not None:
        stage.run = _found(stage.plan.digest)
        if stage.run is None:
            where = f"no finished run of {stage.plan.name} below {logs_folder()}"
            if unfinished := _found(stage.plan.digest, finished=False):
                log.info("First stage: %s, but one that was not finished; it is first", where)
                stage.run = resume(unfinished, allow=stage.plan.allow)
            else:
                log.info("First stage: %s, so it is trained first", where)
                if stage.hint:
                    log.info("%s", stage.hint)
                stage.run = train(stage.plan)
        adopt(stage.plan.tree, stage.run)
    name = stage.path.rpartition(".")[2].replace("_", " ").capitalize()  # First stage, as a rule
    log.info("%s: %s", name, stage.checkpoint or (stage.run and stage.run.folder))


def _found(digest: str, *, finished: bool = True) -> Run | None:
    """The run of this digest that the first process finds."""

    def find() -> Path | None:
        run = Run.find(logs_folder(), digest, finished=finished)
        return None if run is None else run.folder

    folder = first(find)
    return None if folder is None else Run(folder)


def resume(
    run: Run, overrides: Sequence[str] = (), which: str | int | None = None, *, allow: Sequence[str] = ()
) -> Run:
    """Go on with a run from its newest sound checkpoint, or from the one named.

    Args:
        run: the run.
        overrides: ``key=value``; what they change is said, and written into the run's configuration.
        which: a step or a file; default: the newest sound checkpoint.
        allow: packages beyond the program's own that its configuration may name.

    Returns:
        The same run, finished.

    Raises:
        ConfigError, RunError, LogError, TrainingError: in one line.
        Interrupted: a signal asked to stop; everything is saved.
    """
    with _held(run):
        first(run.sweep)
        made = leading(lambda: plan_resume(run, overrides, which, allow=allow))
        check_shares(made)
        content, recorded = None, 0
        if made.checkpoint is not None:
            content, path = made.checkpoint
            system = with_weights(made.tree, content, path)
            if made.step < made.steps:
                log.info("Resuming %s at step %d of %d (%s)", run.folder, made.step, made.steps, path.name)
            else:
                log.info("Nothing left to train: %s is at step %d of %d", run.folder, made.step, made.steps)
            # Tried before anything is set aside for it.
            restore(make_optimizers(system, made.settings), content["optimizers"])
            recorded = first(lambda: _rewind(run, content, path))
        else:  # stopped before its first checkpoint: the beginning is the state to go on from
            system = fresh(made.tree)
            log.info("Starting %s from the beginning: it has no checkpoint yet", run.folder)
        if made.changes:
            log.info("%s", made.changed)
            first(lambda: _adapt(run, made))
        _fit(run, made.tree, system, content, recorded)
    return run


def _adapt(run: Run, made: Plan) -> None:
    """Write changed settings into a run, and what it is found by from now on."""
    with write_atomically(run.config_file) as file:
        file.write(configuration.dump(made.tree).encode())
    mixed = digest(made.tree)
    if made.step and mixed != run.state.get("digest"):
        # Trained in part by other settings, it is no run of either configuration: nobody shall find it as one.
        mixed = f"{mixed}, from step {made.step} on"
    state = run.state
    found_by = {key: mixed for key in ("digest", "asked") if key == "digest" or key in state}
    run.set_state(state.get("state", "interrupted"), made.step, **found_by)


def _rewind(run: Run, content: Mapping[str, Any], path: Path) -> int:
    """Make the checkpoint that was loaded the run's newest; the step up to which the run's record holds for it."""
    own = path.resolve() == run.checkpoint(content["step"]).resolve()
    # A file from elsewhere takes the place of the run's own of that step, whose figures are not those of its weights.
    recorded = content["step"] if own else content["step"] - 1
    newer = run.rewind(recorded)
    if newer:
        log.warning("Set aside, as *.old: %s", ", ".join(file.name for file in newer))
    if not own:
        run.save(content["step"], content["system"], content["optimizers"])
    return recorded


def _fit(
    run: Run,
    tree: Mapping[str, Any],
    system: System,
    content: Mapping[str, Any] | None,
    recorded: int | None = None,
) -> None:
    """Run the loop in a run's folder, and record how it ended.

    Args:
        run: the folder.
        tree: the whole configuration.
        system: with its weights.
        content: of the checkpoint to go on from; None to begin.
        recorded: of a run that is gone on with, the step up to which its record holds; None for a new one.
    """
    settings, seed = Training(**tree.get("train", {})), tree.get("seed", 0)
    step = content["step"] if content else 0
    train_data, test_data = datasets(tree, "train", "test")
    name_factors(system, train_data)
    system.to(device_of(settings))
    evaluators = metrics(tree)
    interrupt = Interrupt()
    leader = rank() == 0
    sinks = open_sinks(tree.get("logs", []), run.folder, tree, step=recorded) if leader else []
    if leader:
        # The names of factors are the data's; a run that is loaded without its data has them from here.
        run.set_state("running", step, factors=list(getattr(system, "names", ())))
    try:
        with interrupt:
            interrupt.folder = run.folder
            for data in (train_data, test_data):
                leading(functools.partial(make_ready, data, interrupt.check))
            seen = codes.instead(system, train_data, settings, step=step, check=interrupt.check)
            workers = settings.workers if seen is train_data else 0  # codes are there, nothing is to be fetched
            fit(
                system,
                Loader(
                    seen,
                    settings.batch_size,
                    seed=mix(seed, 0),
                    shuffle=True,
                    workers=workers,
                    share=(rank(), world()),
                ),
                test_set(test_data, settings, seed, interrupt),
                evaluators,
                settings,
                run,
                sinks,
                seed=mix(seed, 1),
                checkpoint=content,
                facts=_facts(tree, test_data),
                interrupt=interrupt,
            )
        if leader:
            run.set_state("finished", _newest(run))
        wait()
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        if leader:
            with contextlib.suppress(OSError):  # a full disk, perhaps: the error that is on its way says more
                run.set_state("interrupted" if stopped else "failed", _newest(run))
        raise
    finally:
        for sink in sinks:
            with contextlib.suppress(LogError):  # lines are written out one by one, so nothing is lost
                sink.close()


def _newest(run: Run) -> int:
    checkpoints = run.checkpoints()
    return step_of(checkpoints[0]) if checkpoints else 0


def _facts(tree: Mapping[str, Any], test: Any) -> dict[str, Any]:
    """What figures are measured on; written beside them."""
    measured_on = {"data": tree["data"]["test"], "seed": tree.get("seed", 0)}
    return {"data_source": source(test), "test_set": configuration.digest(measured_on)[:16]}


@contextlib.contextmanager
def _log_file(run: Run) -> Iterator[None]:
    """Within this context what is logged goes to ``log.txt`` too, and so does the error that ends it."""
    try:
        handler = logging.FileHandler(run.folder / "log.txt")
    except OSError as error:
        raise RunError(f"{run.folder}: cannot write log.txt there ({error.strerror})") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, text, (), None))
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


def _write_environment(run: Run, made: Plan) -> None:
    """What this run stands on: versions, command, data, first stages."""
    versions = {}
    for package in ("iin", "torch", "torchvision", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    first: dict[str, Any] = {}
    for stage in made.stages:
        first[stage.path] = {"checkpoint": str(stage.checkpoint)} if stage.checkpoint else {}
        if stage.run is not None:
            state = stage.run.state
            first[stage.path] |= {
                "run": str(stage.run.folder),
                "step": state.get("step"),
                "digest": state.get("digest"),
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
            "processes": world(),
            "device": str(device_of(made.settings)),
            "data": made.trial.sources,
            "first_stage": first,
        },
    )


# --- finished runs ---------------------------------------------------------------------------------------------------


def load(
    folder: str | Path | Run,
    which: str | int | None = None,
    *,
    overrides: Sequence[str] = (),
    allow: Sequence[str] = (),
) -> Trained:
    """Load a run: its system with the weights of a checkpoint, frozen, in eval mode, on the CPU.

    Args:
        folder: the run's folder, or its ``config.yaml``.
        which: a step, a file or ``"last"``; default: the newest sound checkpoint.
        overrides: ``key=value``, settings to change.
        allow: packages beyond the program's own that its configuration may name.

    Raises:
        RunError: no run, or no sound checkpoint.
        ConfigError: its configuration is not one that this version reads.
    """
    run = folder if isinstance(folder, Run) else Run(folder)
    config = configuration.load([run.config_file], overrides)
    configuration.check(config, allow=allow)
    content, path = load_sound(run, which)
    system = with_weights(config.tree, content, path).eval().requires_grad_(False)
    if names := run.state.get("factors"):
        system.names = tuple(names)  # type: ignore[assignment]
    step = content["step"]

    def measure(selection: Sequence[str]) -> dict[str, float]:
        return evaluate_run(run, [*overrides, *selection], str(path) if which is None else which, allow=allow)

    return Trained(run, system, config.tree, step, measure)


def evaluate_run(
    run: Run, overrides: Sequence[str] = (), which: str | int | None = None, *, allow: Sequence[str] = ()
) -> dict[str, float]:
    """Measure a run's checkpoint with the metrics of its configuration, as training does.

    Writes ``eval/step-XXXXXXXX/metrics.json`` and pictures beside it.

    Returns:
        The figures.

    Raises:
        ConfigError, RunError: in one line.
    """
    trained = load(run, which, overrides=overrides, allow=allow)
    tree, system = trained.tree, trained.system
    for path, node in first_stages(tree.get("evaluate", {}), "evaluate"):  # those that overrides bring
        if not isinstance(node["params"].get("config"), Mapping):
            locate(node["params"], path=path, allow=allow)
    settings, seed = Training(**tree.get("train", {})), tree.get("seed", 0)
    (data,) = datasets(tree, "test")
    name_factors(system, data)
    evaluators = metrics(tree)
    system.to(device_of(settings))
    leading(functools.partial(make_ready, data))
    test = test_set(data, settings, seed)
    figures = evaluate(system, test, evaluators, seed=mix(seed, 1))

    def write() -> None:
        record(run, trained.step, system, figures, _facts(tree, data), evaluators)
        found = look(system, test, trained.step, seed=mix(seed, 1))
        try:
            pictures.write(run.folder / "eval" / f"step-{trained.step:08d}", found)
        except Exception as error:  # as in training: figures are no worse for pictures that cannot be drawn
            log.warning("pictures: left out, they cannot be written (%s)", " ".join(str(error).split()))
        report.write(run.folder)

    first(write)
    return figures
