"""The flow's tasks: training step, forward, inverse; and what the hardware allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from bench.peers import LIBRARIES, PUBLISHED, Flow, Shape
from bench.steps import FlowAlone, loop_step, plain_adam
from bench.timing import Entry, Row, Settings, measure, say, threads
from iin.losses import nll

__all__ = ["TASKS", "Products", "adam_pass", "bounded", "flow_rows", "peer_step"]

TASKS = ("train_step", "forward", "inverse")


def flow_rows(settings: Settings, tasks: Sequence[str]) -> Iterator[Row]:
    """Rows of the flow's tasks: all libraries, the bare matrix products, Adam's pass, and the bound that they make.

    Everything of one number of threads and one batch size is timed side by side.
    """
    shape = PUBLISHED
    makers = _makers(shape, settings.peers, tasks)
    for count in settings.threads:
        for batch in settings.batches:
            x = torch.randn(batch, shape.dim, generator=torch.Generator().manual_seed(0))
            entries = [entry for maker in makers for entry in maker(x)]
            say(f"{', '.join(tasks)}: {count} threads, batch {batch}, {len(entries)} entries side by side")
            with threads(count):
                yield from bounded(measure(entries, settings.repeats, batch=batch, count=count), tasks)


Maker = Callable[[Tensor], list[Entry]]
"""Entries for vectors ``[B, D]``."""


def _makers(shape: Shape, peers: Sequence[str], tasks: Sequence[str]) -> list[Maker]:
    """Everything that is timed, each with weights of its own, so that all find the caches as cold."""
    trained: list[Maker] = []
    still: list[Maker] = []
    for library in ("iin", *peers):
        build = LIBRARIES[library]
        if "train_step" in tasks:
            variants: dict[str, Callable[[Flow], Callable[[Tensor], Tensor]]] = (
                {"": _own_step} if library == "iin" else {"default": peer_step, "fused": partial(peer_step, fused=True)}
            )
            for adam, step_of in variants.items():
                flow = _counted(build(shape), shape, library)
                more = {"parameters": flow.parameters} | ({"adam": adam} if adam else {})
                trained.append(partial(_train_entries, library, step_of(flow), more))
        if other := [task for task in tasks if task != "train_step"]:
            still.append(partial(_still_entries, library, _counted(build(shape), shape, library), other))
    bare = Products(shape)
    return [*trained, *still, partial(_bound_entries, bare, tasks)]


def _counted(flow: Flow, shape: Shape, library: str) -> Flow:
    """The flow, known to be of the size that all have."""
    if flow.parameters != shape.parameters:
        raise AssertionError(f"{library} has {flow.parameters:,} parameters, but {shape.parameters:,} were to be built")
    return flow


def _own_step(flow: Flow) -> Callable[[Tensor], Tensor]:
    return loop_step(FlowAlone(flow.module))


def peer_step(flow: Flow, fused: bool | None = None) -> Callable[[Tensor], Tensor]:
    """A training step as a peer's users write it; it answers the loss."""
    optimizer = plain_adam(flow.module.parameters(), fused)

    def step(x: Tensor) -> Tensor:
        loss = nll(*flow.forward(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _train_entries(library: str, step: Callable[[Tensor], Tensor], more: Row, x: Tensor) -> list[Entry]:
    return [Entry("train_step", library, partial(step, x), more)]


@torch.no_grad()
def _still_entries(library: str, flow: Flow, tasks: Sequence[str], x: Tensor) -> list[Entry]:
    flow.module.eval()
    flow.forward(x)  # ActNorm takes its statistics, the first time
    flow.module.train()
    calls = {"forward": torch.no_grad()(flow.forward), "inverse": torch.no_grad()(flow.inverse)}
    more = {"parameters": flow.parameters}
    return [Entry(task, library, partial(calls[task], x), more) for task in tasks]


def _bound_entries(bare: Products, tasks: Sequence[str], x: Tensor) -> list[Entry]:
    entries = []
    if "train_step" in tasks:
        entries.append(Entry("train_step", "gemm", bare.training(x)))
        entries.append(Entry("adam", "adam", adam_pass(bare.shape.parameters), {"parameters": bare.shape.parameters}))
    if set(tasks) & {"forward", "inverse"}:
        entries.append(Entry("forward", "gemm", bare.forward(x)))
    return entries


class Products:
    """The bare matrix products of all networks: no bias, no activation, no memory taken.

    Each network has weights, and gradients of them, in a place of its own; what flows through the networks shares one.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.weights = [[torch.randn(i, o) / i**0.5 for i, o in shape.layers] for _ in range(shape.networks)]
        self.gradients = [[torch.empty_like(weight) for weight in weights] for weights in self.weights]

    def forward(self, x: Tensor) -> Callable[[], None]:
        """A function that takes half of the dimensions of vectors ``[B, D]`` through all networks."""
        first = x[:, : self.shape.dim // 2].contiguous()
        outputs = [first.new_empty(len(x), o) for _, o in self.shape.layers]

        @torch.no_grad()
        def run() -> None:
            for weights in self.weights:
                inputs = [first, *outputs]
                for k, weight in enumerate(weights):
                    torch.mm(inputs[k], weight, out=outputs[k])

        return run

    def training(self, x: Tensor) -> Callable[[], None]:
        """A function that makes three products a layer: the output, the gradients of the input and of the weight."""
        first = x[:, : self.shape.dim // 2].contiguous()
        inputs = [first.new_empty(len(x), i).normal_() for i, _ in self.shape.layers]
        outputs = [first.new_empty(len(x), o).normal_() for _, o in self.shape.layers]
        forward = self.forward(x)

        @torch.no_grad()
        def run() -> None:
            forward()
            for weights, gradients in zip(reversed(self.weights), reversed(self.gradients), strict=True):
                for k in reversed(range(len(weights))):
                    torch.mm(inputs[k].T, outputs[k], out=gradients[k])
                    torch.mm(outputs[k], weights[k].T, out=inputs[k])

        return run


def adam_pass(size: int) -> Callable[[], object]:
    """One pass of fused Adam over a flat tensor of so many parameters."""
    flat = nn.Parameter(torch.randn(size) / 16)
    flat.grad = torch.randn(size)
    return plain_adam([flat], fused=True).step


def bounded(rows: Sequence[Row], tasks: Sequence[str] = TASKS) -> list[Row]:
    """Rows of one number of threads and one batch size, with the bounds, multiples of them, and ratios to the peers.

    The bound of a training step is its matrix products and one fused pass of Adam; of forward and inverse, it is the
    products alone, which are the same for both. The ratios stand in the rows of this package: how many times as long
    the fastest peer takes, with default Adam and with fused. Beside those of the medians stand those of the minima.
    """
    by = {(row["task"], row["library"]): row for row in rows if "adam" not in row}
    rows = [row for row in rows if (row["task"], row["library"]) != ("forward", "gemm") or "forward" in tasks]
    bounds = {}
    for task in tasks:
        bare = by[("train_step" if task == "train_step" else "forward", "gemm")]
        if task == "inverse":
            rows.append({**bare, "task": task})
        parts = [bare] + ([by["adam", "adam"]] if task == "train_step" else [])
        total = {key: sum(part[key] for part in parts) for key in ("seconds", "minimum")}
        bounds[task] = total
        rows.append({**bare, "task": task, "library": "bound", **total})
    done = []
    for row in rows:
        bound = bounds["train_step" if row["task"] == "adam" else row["task"]]  # Adam's pass is a part of the step
        made = {
            **row,
            "of_bound": row["seconds"] / bound["seconds"],
            "of_bound_minimum": row["minimum"] / bound["minimum"],
        }
        if row["library"] == "iin":
            made |= _ratios(row, rows)
        done.append(made)
    return sorted(done, key=lambda row: TASKS.index("train_step" if row["task"] == "adam" else row["task"]))


def _ratios(own: Row, rows: Sequence[Row]) -> Row:
    """How many times faster than the fastest peer; with either Adam, where there is one."""
    found = {}
    for adam in ("default", "fused") if own["task"] == "train_step" else (None,):
        peers = [row for row in rows if row["task"] == own["task"] and row.get("adam") == adam]
        peers = [row for row in peers if row["library"] in LIBRARIES and row["library"] != "iin"]
        if peers:
            fastest = min(peers, key=lambda row: row["seconds"])
            suffix = f"_{adam}" if adam else ""
            found[f"times_as_fast{suffix}"] = fastest["seconds"] / own["seconds"]
            found[f"fastest_peer{suffix}"] = fastest["library"]
            found[f"times_as_fast{suffix}_minimum"] = min(row["minimum"] for row in peers) / own["minimum"]
    return found
