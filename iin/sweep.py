"""Sweeps: one run for each combination of some settings, each in a process of its own.

A sweep has no state beside its runs. What is finished, and what was begun, is found by the digest of each
combination's configuration, so that the same command goes on where it was stopped, and a wider one trains only what is
new.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from iin import config as configuration
from iin import experiment, report
from iin.building import logs_folder
from iin.config import ConfigError
from iin.config.reading import Malformed, parse
from iin.distributed import devices
from iin.factors import adopt
from iin.interrupt import Interrupted
from iin.plan import FirstStage, Plan
from iin.record import LogError
from iin.report.results import short
from iin.run import Run, RunError
from iin.train import TrainingError

__all__ = ["Point", "axes", "commands", "describe", "plan", "run", "table"]

log = logging.getLogger("iin")

Axes = Mapping[str, Sequence[Any]]


@dataclass
class Point:
    """One combination of values, and the run of it."""

    settings: dict[str, Any]
    """Key path -> value."""
    label: str
    """The same in short, such as ``gamma=0.01 seed=1``."""
    plan: Plan
    start: list[str] = field(default_factory=list)
    """Arguments by which ``iin-train`` begins the run."""
    failure: str = ""
    """Why there is no finished run of it, once the sweep is over."""

    @property
    def finished(self) -> Run | None:
        """The newest finished run of this configuration."""
        return Run.find(logs_folder(), self.plan.digest)

    @property
    def unfinished(self) -> Run | None:
        """The newest run that was begun, where none is finished."""
        return None if self.finished else Run.find(logs_folder(), self.plan.digest, finished=False)

    @property
    def state(self) -> str:
        """How its run stands: ``new``, ``finished``, or in which state it was left at which step."""
        if self.finished:
            return "finished"
        if begun := self.unfinished:
            state = begun.state
            return f"{state.get('state', 'begun')} at step {state.get('step', 0)}"
        return "new"


# --- what is asked for -----------------------------------------------------------------------------------------------


def axes(words: Iterable[str]) -> dict[str, list[Any]]:
    """Read ``key.sub=value,value,...``: each key with its values.

    Values are separated as in a list of YAML, so commas within brackets, braces or quotes belong to a value:
    ``factors=[2,2],[1,3]`` are two.

    Args:
        words: of the command line.

    Raises:
        ConfigError: a word is no such thing, a key stands there twice, or a value does.
    """
    found: dict[str, list[Any]] = {}
    mistakes: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            mistakes.append(f"--sweep {word}: expected key.sub=value,value,...")
            continue
        try:
            values = parse(f"[{text}]")
        except Malformed as error:
            mistakes.append(f"--sweep {word}: {error}; expected key.sub=value,value,... in YAML's spelling")
            continue
        if not isinstance(values, list) or not values:
            mistakes.append(f"--sweep {word}: no value for {key}")
        elif key in found:
            mistakes.append(f"--sweep {word}: {key} a second time; give all its values at once")
        elif twice := [value for index, value in enumerate(values) if any(_same(value, v) for v in values[:index])]:
            mistakes.append(f"--sweep {word}: the value {_spelled(twice[0])} a second time")
        else:
            found[key] = values
    if mistakes:
        raise ConfigError(mistakes)
    return found


def plan(
    files: Sequence[str],
    swept: Axes,
    overrides: Sequence[str] = (),
    *,
    quick: bool = False,
    allow: Sequence[str] = (),
    rehearse: bool = False,
) -> list[Point]:
    """Check the configuration of every combination, before anything is trained.

    Args:
        files: configurations, merged left to right.
        swept: from `axes`; the last key varies fastest.
        overrides: ``key=value``, the same for all.
        quick: merge the sections ``quick``.
        allow: packages beyond the program's own that targets may come from.
        rehearse: see `iin.plan.plan`.

    Raises:
        ConfigError: mistakes of all combinations, each with one that it occurs in; or two would be the same run.
    """
    names = short(swept)
    found: list[Point] = []
    mistakes: dict[str, list[str]] = {}
    combinations = [dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())]
    for settings in combinations:
        label = " ".join(f"{names[key]}={_shown(value)}" for key, value in settings.items())
        changes = [f"{key}={_spelled(value)}" for key, value in settings.items()]
        try:
            config = configuration.load(files, [*overrides, *changes], quick=quick)
            made = experiment.plan(config, quick=quick, allow=allow, rehearse=rehearse)
        except (ConfigError, RunError) as error:
            for mistake in getattr(error, "mistakes", [" ".join(str(error).split())]):
                mistakes.setdefault(mistake, []).append(label)
            continue
        kept = [word for word in overrides if not word.startswith("name=")]
        start = ["-b", *files, *kept, *changes, "-n", _named(made.name, label)]
        found.append(Point(settings, label, made, start + ["--quick"] * quick))
    if mistakes:
        raise ConfigError(_told(mistake, labels, len(combinations)) for mistake, labels in mistakes.items())
    _refuse_twins(found, swept)
    return found


def _told(mistake: str, labels: Sequence[str], count: int) -> str:
    """A mistake with the points that have it; one of all points is one of what they share."""
    if len(labels) == count:
        return mistake
    more = f" (and {len(labels) - 1} more)" if len(labels) > 1 else ""
    return f"{labels[0]}{more}: {mistake}"


def _refuse_twins(points: Sequence[Point], swept: Axes) -> None:
    """See that each point is a run of its own."""
    seen: dict[str, Point] = {}
    for point in points:
        twin = seen.setdefault(point.plan.digest, point)
        if twin is not point:
            keys = [key for key in swept if not _same(twin.settings[key], point.settings[key])]
            raise ConfigError(
                f"--sweep: {twin.label} and {point.label} would be the same run, since {' and '.join(keys)} "
                "leaves its weights as they are; set it once, before --sweep"
            )


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one; 1 and true are two, which Python's comparison does not say."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _spelled(value: Any) -> str:
    """A value as YAML has it, on one line."""
    return json.dumps(value, ensure_ascii=False)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else _spelled(value).replace('"', "").replace(" ", "")


def _named(name: str, label: str) -> str:
    """A run's name with its point in it, made of what names of folders may have."""
    text = re.sub(r"[^A-Za-z0-9._]+", "-", label.replace(" ", "_")).strip("-")
    named = f"{name}_{text}"
    return named if len(named) <= 100 else f"{name[:60]}_{configuration.digest(label)[:12]}"


# --- what there is to say --------------------------------------------------------------------------------------------


def describe(points: Sequence[Point]) -> str:
    """The points with the state of their runs, and the plan of the first one, for ``--dry-run``."""
    rows = [[point.label, point.state, _folder(point)] for point in points]
    left = sum(point.finished is None for point in points)
    lines = [f"{len(points)} runs of {points[0].plan.name}, {left} of them to be trained:"]
    lines += ["  " + line for line in _aligned(rows)]
    stages = {stage.plan.digest: stage.plan for point in points for stage in point.plan.stages if stage.plan}
    absent = [made.name for digest, made in stages.items() if Run.find(logs_folder(), digest) is None]
    if absent:
        lines.append(f"  first, once for all: {', '.join(absent)}")
    lines += ["", f"{points[0].label}:", *points[0].plan.describe().splitlines()]
    return "\n".join(lines)


def commands(points: Sequence[Point], options: Sequence[str] = ()) -> list[str]:
    """One command line for each point that is not finished, for a launcher such as Slurm's.

    Args:
        points: from `plan`.
        options: further arguments for each.
    """
    lines = []
    for point in points:
        if point.finished:
            continue
        if begun := point.unfinished:
            words = ["-r", str(begun.folder)]
        else:
            at = point.start.index("-n")  # a launcher names the run itself; by its digest it is found all the same
            words = point.start[:at] + point.start[at + 2 :]
        lines.append(shlex.join(["iin-train", *words, *options]))
    return lines


def table(points: Sequence[Point]) -> str:
    """Point, state, the figures that matter most, and folder, of each point."""
    figures = [report.gather(done.folder).newest if (done := point.finished) else {} for point in points]
    names = report.headlines([name for found in figures for name in found])[:4]
    rows = [["point", "state", *names, "folder"]]
    for point, found in zip(points, figures, strict=True):
        values = [f"{found[name]:.4g}" if name in found else "" for name in names]
        rows.append([point.label, point.failure or point.state, *values, _folder(point)])
    return "\n".join(_aligned(rows))


def _folder(point: Point) -> str:
    begun = point.finished or point.unfinished
    return str(begun.folder) if begun else ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# --- training --------------------------------------------------------------------------------------------------------


def run(points: Sequence[Point], *, jobs: int = 1, options: Sequence[str] = ()) -> None:
    """Train what is not finished, ``jobs`` runs at once, first stages before.

    Args:
        points: from `plan`; those that fail have their ``failure`` set.
        jobs: how many processes; they share the processor's cores, and take turns on graphics processors.
        options: further arguments for each ``iin-train``.

    Raises:
        RunError: some points failed, which kept no other from being trained.
        Interrupted: a signal asked to stop; every run has saved.
    """
    done = [point for point in points if point.finished]
    if done:
        log.info("%d of %d runs are finished already", len(done), len(points))
    todo = [point for point in points if point not in done]
    _provide(todo)
    todo = [point for point in todo if not point.failure and point.finished is None]
    stop = _Stop()
    with stop:
        _train(todo, points, max(1, min(jobs, len(todo))), options, stop)
    left = [point for point in points if not point.finished]
    for point in points:
        if point not in left:
            point.failure = ""  # another process had its run, and has finished it
    if stop.number is not None:
        log.warning("%d of %d runs are finished; the same command goes on", len(points) - len(left), len(points))
        raise Interrupted(stop.number)
    if left:
        named = "; ".join(f"{point.label} ({point.failure or point.state})" for point in left)
        raise RunError(f"{len(left)} of {len(points)} runs failed: {named}")


def _provide(points: Sequence[Point]) -> None:
    """Train first stages that are missing, each once; points whose own cannot be had are marked as failed."""
    provided: dict[str, Run | str] = {}
    for point in points:
        for stage in point.plan.stages:
            if stage.plan is None or stage.run is not None:
                continue
            key = stage.plan.digest
            if key not in provided:
                provided[key] = _provided(stage)
            if isinstance(found := provided[key], Run):
                stage.run = found
                adopt(stage.plan.tree, found)
            else:
                point.failure = found


def _provided(stage: FirstStage) -> Run | str:
    """The run of a first stage, or why there is none."""
    assert stage.plan is not None
    try:
        experiment.provide(stage)
    except (ConfigError, RunError, TrainingError, LogError, OSError, ValueError) as error:
        return f"first stage {stage.plan.name}: {' '.join(str(error).split())}"
    except Interrupted as stopped:
        log.warning("No run of the sweep was begun; the same command goes on")
        raise Interrupted(stopped.number) from None
    assert stage.run is not None
    return stage.run


class _Stop:
    """Within this context a signal is passed on to the processes that train, and no further one is started."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.running: dict[subprocess.Popen[str], Point] = {}
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            if threading.current_thread() is threading.main_thread():
                self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for process in self.running:  # left by an error
            process.terminate()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        for process in list(self.running):
            process.send_signal(number)  # the first saves and ends, a second ends at once


def _train(todo: Sequence[Point], points: Sequence[Point], jobs: int, options: Sequence[str], stop: _Stop) -> None:
    waiting, slots = list(todo), list(range(jobs))
    readers: list[threading.Thread] = []
    taken: dict[subprocess.Popen[str], int] = {}
    while waiting or stop.running:
        while waiting and slots and stop.number is None:
            point = waiting.pop(0)
            tag = f"[{points.index(point) + 1}/{len(points)}] {point.label}"
            if there := point.finished:
                log.info("%s: finished meanwhile by another process, %s", tag, there.folder)
                continue
            slot, begun = slots.pop(0), point.unfinished
            words = ["-r", str(begun.folder)] if begun else point.start
            log.info("%s: %s", tag, f"goes on with {begun.folder}" if begun else "starts")
            process = _started([*words, *options], slot, jobs)
            stop.running[process], taken[process] = point, slot
            if stop.number is not None:  # it came while the process was being made
                process.send_signal(stop.number)
            if process.stderr is not None:
                readers.append(threading.Thread(target=_repeat, args=(process, tag), daemon=True))
                readers[-1].start()
        for process in [process for process in stop.running if process.poll() is not None]:
            point = stop.running.pop(process)
            slots.append(taken.pop(process))
            if process.returncode and stop.number is None:
                point.failure = _explained(process.returncode, point)
        if stop.number is not None and not stop.running:
            break
        time.sleep(0.05)
    for reader in readers:
        reader.join(timeout=5)


def _started(words: Sequence[str], slot: int, jobs: int) -> subprocess.Popen[str]:
    """``iin-train`` in a session of its own: what the terminal sends is passed on, once."""
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, devices("cpu") // jobs)))
        if (count := torch.cuda.device_count()) > 1:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
            environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % count]
    return subprocess.Popen(
        [sys.executable, "-m", "iin.cli.train", *words, "--under", str(os.getpid())],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if jobs > 1 else None,  # alone, it has the terminal and its progress bar
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _repeat(process: subprocess.Popen[str], tag: str) -> None:
    """Say what a process says, with its point before each line."""
    for line in process.stderr or ():
        if text := line.strip():
            level = logging.ERROR if text.startswith("error: ") else logging.INFO
            log.log(level, "%s: %s", tag, text)


def _explained(code: int, point: Point) -> str:
    """Why a process ended as it did, as far as can be told from outside."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (" (out of memory, perhaps)" if code == -signal.SIGKILL else "")
    if code > 128:
        return f"stopped by {signal.Signals(code - 128).name}"
    begun = point.unfinished
    if begun is None:
        return f"failed with exit code {code}"
    try:
        with begun.locked():
            return f"failed, see {Path(begun.folder, 'log.txt')}"
    except RunError as error:  # its log is the other's
        return str(error).removeprefix(f"{begun.folder}: ")
