"""Batches on their way to the device where they are needed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch

__all__ = ["ahead", "prefetch", "to_device"]

_Item = TypeVar("_Item")

_PATIENCE = 0.1
"""Seconds after which a thread that nobody takes anything from asks whether anybody will."""


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the fields of a named tuple that can be moved: tensors, and what has a ``to`` like theirs."""
    moved = (value.to(device, non_blocking=True) if hasattr(value, "to") else value for value in batch)
    return type(batch)(*moved)


def prefetch(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Batches on a device, in their order.

    For a GPU, a thread fetches them ahead, into pinned memory, and has them copied while the device works on those
    before. Elsewhere they are fetched when they are asked for: nothing would work meanwhile.

    Args:
        batches: named tuples on the CPU.
        device: where they shall be.
    """
    if device.type != "cuda":
        for batch in batches:
            yield to_device(batch, device)
        return
    beside = torch.cuda.Stream(device)

    def copied() -> Iterator[tuple[Any, torch.cuda.Event]]:
        for batch in batches:
            pinned = type(batch)(*(v.pin_memory() if hasattr(v, "pin_memory") else v for v in batch))
            with torch.cuda.stream(beside):
                moved = to_device(pinned, device)
            yield moved, beside.record_event()

    for batch, done in ahead(copied()):
        stream = torch.cuda.current_stream(device)
        stream.wait_event(done)
        for value in batch:
            if hasattr(value, "record_stream"):
                value.record_stream(stream)  # its memory is free again when this stream is done with it
        yield batch


class _Raised(NamedTuple):
    error: BaseException


_END = object()


def ahead(items: Iterable[_Item]) -> Iterator[_Item]:
    """The same items in the same order, which a thread fetches at most two ahead of who asks for them.

    What fetching raises is raised here, in its turn. The thread ends with the last item, or when nobody asks any more.
    """
    fetched: queue.Queue[Any] = queue.Queue(maxsize=1)
    over = threading.Event()

    def put(item: Any) -> bool:
        while not over.is_set():
            try:
                fetched.put(item, timeout=_PATIENCE)
                return True
            except queue.Full:
                pass
        return False

    def fetch() -> None:
        try:
            source = iter(items)
            while put(item := next(source, _END)) and item is not _END:
                pass
            if hasattr(source, "close"):
                source.close()  # here, where it ran: a generator may have workers to stop
        except BaseException as error:  # whatever it is, it is for who waits
            put(_Raised(error))

    thread = threading.Thread(target=fetch, name="iin-prefetch", daemon=True)
    thread.start()
    try:
        while (item := fetched.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item
    finally:
        over.set()
        thread.join()
