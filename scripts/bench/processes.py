"""Two processes that share every batch, beside one process with the whole of it.

All of it is timed in the same two processes, in turn; while the first works alone, the second sleeps. A step is that of
the training loop, with the engine of `iin.engine` and what the processes tell each other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from bench.peers import Shape
from bench.runs import endless
from bench.steps import ADAM, FlowAlone
from bench.timing import Row, Settings, row, say, threads
from iin import distributed
from iin.data import ColorfulMNIST, Loader
from iin.engine import Engine, Parallel, engine
from iin.flows import vector_flow
from iin.models import Autoencoder
from iin.system import System
from iin.systems import FactorFlow
from iin.train import make_optimizers

__all__ = ["TASKS", "Asked", "Samples", "case", "distributed_rows", "room", "stepper", "timed"]

TASKS = ("distributed",)

COUNT = 2
MESSAGES = 20
"""How often the processes tell each other the loss, for one sample of what that takes."""


class Asked(NamedTuple):
    """What is timed.

    Args:
        what: ``flow``, on vectors that are there already; or ``cmnist_diin``, a disentangling flow on pairs of coloured
            digits, which every step loads and encodes.
        repeats: samples of each figure.
        batches: vectors, or pairs, of all processes together.
        counts: numbers of threads of the process that works alone; each of several has one.
        shape: of the flow.
        factors: dimensions of each factor, where there are any.
        width: of the encoder, where there is one.
    """

    what: Literal["flow", "cmnist_diin"]
    repeats: int
    batches: tuple[int, ...] = (1024,)
    counts: tuple[int, ...] = (1,)
    shape: Shape = Shape()
    factors: tuple[int, ...] = (22, 22, 20)
    width: int = 64


CASES = (Asked("flow", 15), Asked("cmnist_diin", 5))
"""The task's, each with the most repeats that it takes: a step with loading and encoding lasts seconds."""


class Samples(NamedTuple):
    """What was timed, in seconds.

    Args:
        steps: by batch, number of processes, and threads of each.
        message: telling each other the loss.
    """

    steps: dict[tuple[int, int, int], list[float]]
    message: list[float]


def distributed_rows(settings: Settings, tasks: Sequence[str]) -> Iterator[Row]:
    """Rows of a training step by one process of one thread, and by two that share its batch."""
    if not room(TASKS[0]):
        return
    for most in CASES:
        asked = most._replace(repeats=min(most.repeats, settings.repeats))
        (batch,) = asked.batches
        say(f"{TASKS[0]}: {asked.what}, batch {batch} in one process and in two")
        steps = timed(asked).steps
        one, two = (
            row(TASKS[0], "iin", steps[batch, processes, 1], batch=batch, count=1, processes=processes, what=asked.what)
            for processes in (1, COUNT)
        )
        for made in (one, two):
            made["items_per_second"] = batch / made["seconds"]
        two["times_as_fast"] = one["seconds"] / two["seconds"]
        two["times_as_fast_minimum"] = one["minimum"] / two["minimum"]
        yield from (one, two)


def room(task: str) -> bool:
    """Whether this machine has a core for each process; where it has not, that is said."""
    if distributed.devices("cpu") >= COUNT:
        return True
    say(f"{task}: left out, there is but one processor core")
    return False


def timed(asked: Asked) -> Samples:
    """Start two processes, and have them time what is asked.

    Raises:
        RuntimeError: they failed; why stands in their output.
    """
    scripts = str(Path(__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [scripts, os.environ.get("PYTHONPATH")])),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(COUNT)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "samples.json")
        words = [*torchrun, "-m", "bench.processes", json.dumps(asked._asdict()), str(out)]
        code = subprocess.run(words, env=environment).returncode
        if code:
            raise RuntimeError(f"{asked.what}: two processes ended with exit code {code}")
        found = json.loads(out.read_text())
    return Samples({(batch, *way): seconds for batch, *way, seconds in found["steps"]}, found["message"])


# --- in each process -------------------------------------------------------------------------------------------------


Batches = Callable[[int, tuple[int, int]], Iterator[Any]]
"""Makes endless batches of a size, of which (r, n) is the r-th of n equal shares."""


def case(asked: Asked) -> tuple[System, Batches]:
    """What is trained, the same in every process, and on what."""
    torch.manual_seed(0)
    flow = vector_flow(*asked.shape)
    if asked.what == "flow":
        vectors = torch.randn(max(asked.batches), asked.shape.dim)

        def shares(batch: int, share: tuple[int, int]) -> Iterator[Any]:
            return repeat(vectors[:batch].chunk(share[1])[share[0]])

        return FlowAlone(flow).train(), shares
    model = Autoencoder(channels=3, dim=asked.shape.dim, width=asked.width)
    data = ColorfulMNIST("train", pairs=True)

    def loaded(batch: int, share: tuple[int, int]) -> Iterator[Any]:
        return endless(Loader(data, batch, shuffle=True, share=share))

    return FactorFlow(model, flow, asked.factors).train(), loaded


def stepper(system: System) -> tuple[Engine, Callable[[Any], None]]:
    """The engine for as many processes as there are, and a function that trains the system on a share of a batch."""
    made = engine(system, ADAM)
    made.place(lambda: None, 0)
    optimizers = make_optimizers(system, ADAM)

    def step(share: Any) -> None:
        with made.step(0):
            for objective in made.objectives(share, 1):
                made.agree(float(objective.loss.detach()), None)
                optimizer = optimizers[objective.name]
                optimizer.zero_grad(set_to_none=True)
                objective.loss.backward()
                optimizer.step()

    return made, step


def _work(asked: Asked) -> Samples:
    """Time what is asked; all processes take part, and what the first one answers counts."""
    system, batches = case(asked)
    place = distributed.rank()
    with distributed.alone():
        next(system.objectives(next(batches(max(asked.batches), (0, 1))), 0))  # ActNorm takes its statistics
        own = deepcopy(system)
        _, alone = stepper(own)
    shared, together = stepper(system)
    assert isinstance(shared, Parallel)
    shares = {batch: batches(batch, (place, COUNT)) for batch in asked.batches}
    wholes = {batch: batches(batch, (0, 1)) for batch in asked.batches}
    found = Samples({}, [])

    def both(batch: int) -> None:
        together(next(shares[batch]))
        distributed.wait()

    def single(batch: int) -> None:
        alone(next(wholes[batch]))

    for turn in range(1 + asked.repeats):
        kept = found if turn else Samples({}, [])
        for batch in asked.batches:
            distributed.wait()
            kept.steps.setdefault((batch, COUNT, 1), []).append(_seconds(partial(both, batch)))
            if place == 0:
                for count in asked.counts:
                    with distributed.alone(), threads(count):
                        kept.steps.setdefault((batch, 1, count), []).append(_seconds(partial(single, batch)))
        distributed.wait()
        kept.message.append(_seconds(lambda: shared.agree(0.0, None), MESSAGES))
    return found


def _seconds(run: Callable[[], object], times: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - started) / times


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    with distributed.session():
        torch.set_num_threads(1)
        answer = _work(Asked(**{**given, "shape": Shape(*given["shape"])}))
        if distributed.rank() == 0:
            steps = [[*key, seconds] for key, seconds in answer.steps.items()]
            Path(sys.argv[2]).write_text(json.dumps({"steps": steps, "message": answer.message}))
        distributed.wait()
    # Threads of gloo may still be letting go of what they sent. They need the interpreter for that, and abort the whole
    # process when they find it on its way out; so it does not go that way.
    os._exit(0)
