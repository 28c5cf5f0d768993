"""The flow's step in two processes that share a batch, beside one process with the whole of it.

All of it is timed in the same two processes, in turn; while the first works alone, the second sleeps. The step is that
of the training loop, with the engine of `iin.engine` and what the processes tell each other.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench.peers import Shape
from bench.steps import ADAM, FlowAlone
from bench.timing import Row, row, say, threads
from torch import Tensor

from iin import distributed
from iin.cli.launch import launch
from iin.engine import Parallel, engine
from iin.flows import vector_flow
from iin.system import System
from iin.train import make_optimizers
from scaling.curves import Sizes

__all__ = ["pair_rows", "stepper"]

COUNT = 2
MESSAGES = 20
"""How often the processes tell each other the loss, for one sample of what that takes."""


def pair_rows(sizes: Sizes, repeats: int) -> Iterator[Row]:
    """Rows of the flow's step: by one process of one thread, by one of two threads, by two of one thread each."""
    if distributed.devices("cpu") < COUNT:
        say("processes: left out, there is but one processor core")
        return
    say(f"processes: one and two, {', '.join(map(str, sizes.processes))} vectors in all")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "samples.json")
        asked = json.dumps({"shape": sizes.flow, "batches": sizes.processes, "repeats": repeats, "out": str(out)})
        code = launch("scaling.pair", [asked], COUNT)
        if code:
            raise RuntimeError(f"two processes ended with exit code {code}")
        samples = json.loads(out.read_text())
    for batch in sizes.processes:
        for processes, count in ((1, 1), (1, COUNT), (COUNT, 1)):
            seconds = samples[f"{batch} {processes} {count}"]
            yield row("processes", "iin", seconds, batch=batch, count=count, processes=processes)
    yield row("message", "iin", samples["message"], batch=None, count=1, processes=COUNT)


def stepper(system: System) -> tuple[Any, Callable[[Tensor], None]]:
    """The engine for as many processes as there are, and a function that trains the system on a share of a batch."""
    made = engine(system, ADAM)
    made.place(lambda: None, 0)
    optimizers = make_optimizers(system, ADAM)

    def step(share: Tensor) -> None:
        with made.step(0):
            for objective in made.objectives(share, 1):
                made.agree(float(objective.loss.detach()), None)
                optimizer = optimizers[objective.name]
                optimizer.zero_grad(set_to_none=True)
                objective.loss.backward()
                optimizer.step()

    return made, step


def _work(asked: Any) -> None:
    shape, repeats = Shape(*asked["shape"]), asked["repeats"]
    torch.manual_seed(0)
    data = torch.randn(max(asked["batches"]), shape.dim)
    flow = FlowAlone(vector_flow(*shape)).train()
    flow.flow(data)  # ActNorm takes its statistics
    shared, together = stepper(deepcopy(flow))
    assert isinstance(shared, Parallel)
    leads = distributed.rank() == 0
    with distributed.alone():
        _, alone = stepper(flow)
    samples: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], object], times: int = 1) -> None:
        started = time.perf_counter()
        for _ in range(times):
            run()
        samples.setdefault(name, []).append((time.perf_counter() - started) / times)

    def both(share: Tensor) -> None:
        together(share)
        distributed.wait()

    for _ in range(1 + repeats):
        for batch in asked["batches"]:
            share = data[:batch].chunk(COUNT)[distributed.rank()]
            distributed.wait()
            timed(f"{batch} {COUNT} 1", partial(both, share))
            if leads:
                with distributed.alone():
                    for count in (1, COUNT):
                        with threads(count):
                            timed(f"{batch} 1 {count}", partial(alone, data[:batch]))
        distributed.wait()
        timed("message", lambda: shared.agree(0.0, None), MESSAGES)
    if leads:
        Path(asked["out"]).write_text(json.dumps({name: found[1:] for name, found in samples.items()}))


if __name__ == "__main__":
    with distributed.session():
        torch.set_num_threads(1)
        _work(json.loads(sys.argv[1]))
