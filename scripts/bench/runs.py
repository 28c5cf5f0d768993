"""Whole training: the loop on real digits, what it spends on data, and how much memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count as counting
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from bench.peers import PUBLISHED, PlainFlow, Shape
from bench.steps import loop_step, plain_adam
from bench.timing import Entry, Row, Settings, measure, row, say, threads
from iin import config as configuration
from iin import experiment
from iin.data import MNIST, ColorfulMNIST, Loader, Pairs
from iin.flows import vector_flow
from iin.losses import nll
from iin.models.gaussian import Gaussian
from iin.systems import FactorFlow

__all__ = [
    "CMNIST",
    "DATA",
    "START",
    "TRAINING",
    "cmnist_rows",
    "command",
    "data_rows",
    "endless",
    "loop_times",
    "plain_times",
    "start_rows",
    "training_rows",
    "workplace",
]

TRAINING = ("mnist_iin", "mnist_ae")
CMNIST = ("cmnist_diin",)
DATA = ("data",)
START = ("help", "dry_run", "memory")

FIRST_STAGE = "system.params.first_stage.params.run"
STEPS = 45
"""Of a run that is timed."""
SETTLING = 5
"""Steps at its beginning that do not count."""
ROUNDS = 3
"""How often the runs of a comparison are made in turn."""


@contextmanager
def workplace() -> Iterator[Path]:
    """Within this context runs and caches are kept in a temporary folder, nothing is fetched and no bar is drawn."""
    with tempfile.TemporaryDirectory(prefix="iin-bench-") as folder:
        ours = {"IIN_LOGS": f"{folder}/logs", "IIN_CACHE": f"{folder}/cache", "IIN_OFFLINE": "1", "TQDM_DISABLE": "1"}
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def loop_times(base: str, overrides: Sequence[str], steps: int, *, allow: Sequence[str] = ()) -> list[float]:
    """Train as ``iin-train -b`` does, and leave when that was enough: seconds between steps, settling left out.

    Args:
        base: the configuration.
        overrides: ``key=value``.
        steps: that count.
        allow: packages that it may name.

    Raises:
        RuntimeError: training ended before.
    """
    moments: list[float] = []
    first: list[Any] = []

    def note(optimizer: Any, *_: Any) -> None:
        first[:] = first or [optimizer]  # with several optimisers, the first one tells a step
        if optimizer is first[0]:
            moments.append(time.perf_counter())
            if len(moments) == SETTLING + steps:
                raise _Enough  # here, since the end of a run is a checkpoint and an evaluation

    handle = register_optimizer_step_post_hook(note)
    try:
        experiment.train(experiment.plan(configuration.load([base], ["evaluate=none", *overrides]), allow=allow))
    except _Enough:
        return _between(moments, steps)
    finally:
        handle.remove()
    raise RuntimeError(f"{base}: training ended after {len(moments)} steps, but {SETTLING + steps} were to be timed")


class _Enough(Exception):
    """As many steps were made as are timed."""


def _between(moments: Sequence[float], steps: int) -> list[float]:
    """Seconds between moments, of the last so many."""
    kept = moments[-steps - 1 :]
    return [after - before for before, after in pairwise(kept)]


def _first_stage(base: str) -> str:
    """A run of an autoencoder that trained for one step, which is when ActNorm takes its statistics."""
    overrides = ["evaluate=none", "train.steps=1"]
    return str(experiment.train(experiment.plan(configuration.load([base], overrides))).folder)


def plain_times(first_stage: nn.Module, shape: Shape, batches: Iterator[Any], steps: int) -> list[float]:
    """Train a flow as one writes it down; seconds between steps, settling left out.

    Args:
        first_stage: frozen, with ``encode(image)``; each batch is encoded when it comes.
        shape: of the flow, which is a `PlainFlow`.
        batches: with ``image``.
        steps: that count.
    """
    flow = PlainFlow(shape)
    optimizer = plain_adam(flow.parameters())
    moments = []
    for _ in range(SETTLING + steps):
        with torch.no_grad():
            code = first_stage.encode(next(batches).image).sample()  # type: ignore[operator]
        loss = nll(*flow(code))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moments.append(time.perf_counter())
    return _between(moments, steps)


def endless(loader: Loader) -> Iterator[Any]:
    """Batches of one epoch after another."""
    for epoch in counting():
        yield from loader.epoch(epoch)


def training_rows(settings: Settings, tasks: Sequence[str]) -> Iterator[Row]:
    """Rows of the loop on real digits, published sizes, batches of 25; first stages are as good as untrained.

    The flow is trained on images that stay the same, since only then can codes be kept: with them kept, with each batch
    encoded, and, beside these two, by a plain loop. They are kept in a file that is mapped into memory, which the first
    round writes and the others find.
    """
    count, batch = max(settings.threads), 25
    with workplace(), threads(count):
        if "mnist_iin" in tasks:
            stage = _first_stage("mnist_ae")
            fixed = ["data.train.params.dequantise=fixed", f"{FIRST_STAGE}={stage}"]
            loader = Loader(MNIST("train", dequantise="fixed"), batch, shuffle=True)
            model = experiment.load(stage).system.model
            plain = partial(plain_times, model, PUBLISHED, endless(loader), STEPS)
            ways: dict[tuple[str, str], Callable[[], list[float]]] = {
                ("iin", "disk"): partial(loop_times, "mnist_iin", ["train.cache=disk", *fixed], STEPS),
                ("iin", "off"): partial(loop_times, "mnist_iin", ["train.cache=off", *fixed], STEPS),
                ("plain", "off"): plain,
            }
            found: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
            for turn in range(ROUNDS):
                for way, run in ways.items():
                    say(f"mnist_iin: {way[0]}, cache {way[1]}, round {turn + 1} of {ROUNDS}")
                    found[way] += run()
            rows = [
                _training_row("mnist_iin", library, seconds, batch, count, cache=cache)
                for (library, cache), seconds in found.items()
            ]
            for made in rows[:2]:
                made["times_as_fast"] = rows[2]["seconds"] / made["seconds"]
            yield from rows
        if "mnist_ae" in tasks:
            say("mnist_ae: the loop")
            yield _training_row("mnist_ae", "iin", loop_times("mnist_ae", [], STEPS), batch, count)


def _training_row(task: str, library: str, seconds: Sequence[float], batch: int, count: int, **more: Any) -> Row:
    made = row(task, library, seconds, batch=batch, count=count, **more)
    return {**made, "items_per_second": batch / made["seconds"]}


class Ready(nn.Module):
    """A first stage whose images are codes already, so that a flow's step can be timed alone."""

    def encode(self, code: Tensor) -> Gaussian:
        return Gaussian(code, torch.zeros_like(code), deterministic=True)


def cmnist_rows(settings: Settings, tasks: Sequence[str]) -> Iterator[Row]:
    """Rows of the disentangling flow over coloured digits, published sizes, 128 pairs a step.

    The whole loop; and, side by side, its parts: a batch of data, its encoding, and the flow's step.
    """
    count, batch = max(settings.threads), 128
    with workplace(), threads(count):
        stage = _first_stage("cmnist_ae")
        say("cmnist_diin: the loop")
        seconds = loop_times("cmnist_diin", [f"{FIRST_STAGE}={stage}", f"train.batch_size={batch}"], STEPS)
        yield _training_row("cmnist_diin", "iin", seconds, batch, count)
        say("cmnist_diin: its parts side by side")
        model = experiment.load(stage).system.model
        loader = Loader(ColorfulMNIST("train", pairs=True), batch, shuffle=True)
        entries = cmnist_entries(model, PUBLISHED, (22, 22, 20), endless(loader))
        rows = measure(entries, settings.repeats, batch=batch, count=count)
        data, encoding, flow = rows
        flow["data_and_encoding"] = (data["seconds"] + encoding["seconds"]) / flow["seconds"]
        yield from rows


def cmnist_entries(model: nn.Module, shape: Shape, factors: tuple[int, ...], batches: Iterator[Pairs]) -> list[Entry]:
    """Data, encoding and flow's step of a disentangling flow, apart."""
    pairs = next(batches)
    images = torch.cat([pairs.image, pairs.other])
    encode = FactorFlow(model, vector_flow(*shape), factors).noisy_code
    code, other = encode(images).chunk(2)
    step = loop_step(FactorFlow(Ready(), vector_flow(*shape), factors))
    task = CMNIST[0]
    return [
        Entry(f"{task}_data", "iin", lambda: next(batches)),
        Entry(f"{task}_encoding", "iin", partial(encode, images)),
        Entry(f"{task}_flow", "iin", partial(step, Pairs(code, other, pairs.shared))),
    ]


def data_rows(settings: Settings, tasks: Sequence[str]) -> Iterator[Row]:
    """Rows of loading alone: a batch of digits, and one of coloured pairs."""
    count = max(settings.threads)
    sets = {"MNIST": MNIST("train"), "ColorfulMNIST pairs": ColorfulMNIST("train", pairs=True)}
    with threads(count):
        for batch in (25, 128):
            say(f"data: batch {batch}")
            entries = [
                Entry("data", "iin", partial(next, endless(Loader(data, batch, shuffle=True))), {"data": name})
                for name, data in sets.items()
            ]
            for made in measure(entries, settings.repeats, batch=batch, count=count):
                yield {**made, "items_per_second": batch / made["seconds"]}


# --- commands --------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    """``iin-train`` with arguments, as it is installed beside the interpreter."""
    return [str(Path(sysconfig.get_path("scripts")) / "iin-train"), *arguments]


MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""
"""Runs a command and prints the most memory that it held. In a process of its own: what a process held when it started
another counts as the other's, and this one may hold gigabytes."""


def start_rows(settings: Settings, tasks: Sequence[str]) -> Iterator[Row]:
    """Rows of commands in processes of their own: how soon they answer, and how much memory a training run takes."""
    count = max(settings.threads)
    with workplace():
        for task, times, arguments in (
            ("help", 5, ["--help"]),
            ("dry_run", 3, ["-b", "mnist_diin", "--dry-run"]),
        ):
            if task in tasks:
                say(f"{task}: {times} times")
                seconds = [_run(command(*arguments))[0] for _ in range(times)]
                yield row(task, "iin", seconds, batch=None, count=count)
        if "memory" in tasks:
            say("memory: a short run of mnist_iin, evaluation included")
            run = [f"{FIRST_STAGE}={_first_stage('mnist_ae')}", "train.steps=50"]
            lasted, printed = _run([sys.executable, "-c", MEASURED, *command("-q", "-b", "mnist_iin", *run)])
            unit = 1 if sys.platform == "darwin" else 1024
            made = row("memory", "iin", [lasted], batch=25, count=count)
            yield {**made, "peak_bytes": int(printed) * unit}


def _run(words: Sequence[str]) -> tuple[float, str]:
    """Seconds that a command takes, and what it prints.

    Raises:
        RuntimeError: it failed.
    """
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[-4:])} failed: {' '.join(done.stderr.split())[-300:]}")
    return seconds, done.stdout
