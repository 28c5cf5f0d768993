"""Several processes that work on the same thing: which one this is, and how their results come together.

In one process, which is what everything starts in, these functions do nothing: whoever combines results calls them
without asking how many processes there are. In several, every process must call them, in the same order.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gather", "largest", "rank", "total", "world"]

_active: bool = False
"""Whether there is a group of processes, which all of them have joined."""


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


def _meeting(tensor: Tensor) -> torch.device:
    """Where the processes exchange tensors: NCCL knows only those of a GPU, gloo takes them as they are."""
    if torch.distributed.get_backend() == "nccl" and tensor.device.type != "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device
