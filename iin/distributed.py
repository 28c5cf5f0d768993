"""Several processes that work on the same thing: which one this is, and how their results come together.

In one process, which is what everything starts in, these functions do nothing: whoever combines results calls them
without asking how many processes there are. In several, every process must call them, in the same order.

Processes are started by torchrun, by ``--devices`` of the commands, or by anything that sets the same variables
(``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``). `session` makes a group of them.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = [
    "Elsewhere",
    "alone",
    "average",
    "devices",
    "everyone",
    "first",
    "gather",
    "largest",
    "leading",
    "lists",
    "lost",
    "noise_like",
    "one_batch",
    "rank",
    "session",
    "speaks",
    "started",
    "total",
    "wait",
    "whole",
    "world",
]

_Result = TypeVar("_Result")

_active: bool = False
"""Whether there is a group of processes, which all of them have joined."""
_store: Any = None
"""What the processes tell each other without waiting."""

PATIENCE = datetime.timedelta(hours=2)
"""How long a process waits for the others before it gives up: as long as the first one may need for work of its own."""


class Elsewhere(Exception):
    """The first process failed, and says itself why."""


def started() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def devices(kind: str) -> int:
    """How many processes this machine has room for: graphics processors, or processor cores."""
    if kind == "cuda":
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Within this context the processes that were started together are a group; alone, it does nothing.

    Tensors of a GPU travel by NCCL, all others by gloo. The process takes the GPU that ``LOCAL_RANK`` names.

    Raises:
        ValueError: there are fewer GPUs than processes on this machine.
        RuntimeError: the others cannot be reached.
    """
    global _active, _store
    if not started() or _active:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", 0))
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}; start no more "
                "processes than that, or hide them with CUDA_VISIBLE_DEVICES= to train on processors"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    _store, place, count = next(torch.distributed.rendezvous("env://"))
    torch.distributed.init_process_group(backend, store=_store, rank=place, world_size=count, timeout=PATIENCE)
    _active = True
    try:
        yield
    finally:
        _active = False
        with contextlib.suppress(RuntimeError):  # others may be gone
            torch.distributed.destroy_process_group()
        _store = None


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within this context there is but this process: what it calls waits for nobody."""
    global _active
    before, _active = _active, False
    try:
        yield
    finally:
        _active = before


def speaks() -> bool:
    """Whether it is up to this process to say what went wrong: the first one does; others, if it is at work still."""
    if world() == 1:
        return True
    try:
        if rank() == 0:
            _store.set("failed", "")
            return True
        _store.wait(["failed"], datetime.timedelta(seconds=3))
        return False
    except RuntimeError:
        return True


# --- one does it, or all in order -------------------------------------------------------------------------------------


def wait() -> None:
    """Wait until every process is here."""
    if world() > 1:
        torch.distributed.barrier()


def everyone(value: _Result) -> list[_Result]:
    """What every process has, process 0 first; anything that can be pickled."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    torch.distributed.all_gather_object(values, value)
    return values


def first(function: Callable[[], _Result]) -> _Result:
    """Call a function in the first process only; every process gets what it returns, which must be fit to be pickled.

    Raises:
        Elsewhere: in the others, when it failed there; in the first, what it raised.
    """
    if world() == 1:
        return function()
    answer: list[Any] = [False, None]
    try:
        if rank() == 0:
            with alone():
                answer = [True, pickle.dumps(function())]
    finally:
        torch.distributed.broadcast_object_list(answer, src=0)
    if not answer[0]:
        raise Elsewhere
    return pickle.loads(answer[1])


def leading(function: Callable[[], _Result]) -> _Result:
    """Call a function in the first process, and when it is done there, in the others: they find made what it makes.

    Raises:
        Elsewhere: in the others, when it failed in the first.
    """
    if world() == 1:
        return function()
    done = [False]
    result: Any = None
    try:
        if rank() == 0:
            with alone():
                result = function()
            done = [True]
    finally:
        torch.distributed.broadcast_object_list(done, src=0)
    if not done[0]:
        raise Elsewhere
    if rank() > 0:
        with alone():
            result = function()
    wait()
    return result


def lost(error: BaseException) -> bool:
    """Whether an error says that another process cannot be reached any more."""
    if world() == 1:
        return False
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "socket timeout", "process group")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


# --- results of all ---------------------------------------------------------------------------------------------------


def rank() -> int:
    """Number of this process, from 0."""
    return torch.distributed.get_rank() if _active else 0


def world() -> int:
    """How many processes there are."""
    return torch.distributed.get_world_size() if _active else 1


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes, those of process 0 first.

    Args:
        tensor: ``[n, ...]``; n may differ between processes, and be 0; all else is the same.

    Returns:
        ``[N, ...]``, the same in every process, on the device of ``tensor``.
    """
    if world() == 1:
        return tensor
    counts = torch.zeros(world(), dtype=torch.int64, device=_meeting(tensor))
    counts[rank()] = len(tensor)
    torch.distributed.all_reduce(counts)
    sizes = counts.tolist()
    if not any(sizes):
        return tensor
    sent = tensor.detach().to(_meeting(tensor)).contiguous()
    # Processes that exchange rows must send equally many; those that fill up are cut off again.
    filled = torch.cat([sent, sent.new_zeros(max(sizes) - len(sent), *sent.shape[1:])])
    received = [torch.empty_like(filled) for _ in sizes]
    torch.distributed.all_gather(received, filled)
    return torch.cat([rows[:size] for rows, size in zip(received, sizes, strict=True)]).to(tensor.device)


def total(tensor: Tensor) -> Tensor:
    """Sum over the processes of a tensor that has one shape in all of them; the same in every process."""
    if world() == 1:
        return tensor
    result = tensor.detach().to(_meeting(tensor), copy=True)
    torch.distributed.all_reduce(result)
    return result.to(tensor.device)


def largest(tensor: Tensor) -> Tensor:
    """Largest value over the processes, element by element; NaN is larger than anything, so it is not lost."""
    if world() == 1:
        return tensor
    return gather(tensor[None]).amax(0)


# --- one batch, of which every process has a share --------------------------------------------------------------------


class _Batch(NamedTuple):
    rank: int
    world: int
    seed: int


_batch: _Batch | None = None
"""The batch that a step works on; None outside of steps, where processes work each on its own."""
_lists = 1


@contextlib.contextmanager
def one_batch(seed: int) -> Iterator[None]:
    """Within this context the processes hold equal shares of one batch, that of process 0 first.

    Args:
        seed: of the step; torch's generator is seeded with it by the caller, in each process with another.
    """
    global _batch
    before, _batch = _batch, _Batch(rank(), world(), seed)
    try:
        yield
    finally:
        _batch = before


def whole(x: Tensor) -> Tensor:
    """The rows of the whole batch, of a share ``[B, ...]``, without gradient; outside of `one_batch`, just these."""
    return x if _batch is None or _batch.world == 1 else gather(x)


def average(x: Tensor) -> Tensor:
    """Mean over the shares of a batch of what was a mean over each; outside of `one_batch`, the value. No gradient."""
    return x if _batch is None or _batch.world == 1 else total(x) / _batch.world


@contextlib.contextmanager
def lists(count: int) -> Iterator[None]:
    """Within this context rows are so many lists behind each other, each a share of its own: both sides of pairs."""
    global _lists
    before, _lists = _lists, count
    try:
        yield
    finally:
        _lists = before


def noise_like(x: Tensor) -> Tensor:
    """Standard normal noise of the shape, type and device of rows ``[B, ...]``, from torch's generator.

    For a share of a batch, it is the very noise that these rows would get if one process had the whole batch.
    """
    if _batch is None or _batch.world == 1:
        return torch.randn_like(x)
    generator = torch.Generator(x.device).manual_seed(_batch.seed)
    shape = (_lists, _batch.world, len(x) // _lists, *x.shape[1:])
    drawn = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
    return drawn[:, _batch.rank].reshape(x.shape)


def _meeting(tensor: Tensor) -> torch.device:
    """Where the processes exchange tensors: NCCL knows only those of a GPU, gloo takes them as they are."""
    if torch.distributed.get_backend() == "nccl" and tensor.device.type != "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device
