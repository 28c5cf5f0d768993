"""Batches on their way to a device: in order, whoever fetches them, and with what goes wrong on the way.

There is no GPU here: what is tried is the thread that fetches ahead, and that elsewhere nothing is done ahead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from iin.data import Images, Loader, MNISTPairs
from iin.feed import ahead, prefetch, to_device
from iin.models import Codes


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "iin-prefetch"]


def alike(first: Any, second: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_items_arrive_in_order_and_the_thread_ends():
    assert list(ahead(range(1000))) == list(range(1000)) and threads() == []
    assert list(ahead([])) == [] and threads() == []
    assert list(ahead([None, [], 0])) == [None, [], 0]


def test_batches_fetched_ahead_are_those_of_the_loader():
    loader = Loader(MNISTPairs("test"), 500, seed=2, shuffle=True)
    batches = list(zip(ahead(loader.epoch(1)), loader.epoch(1), strict=True))
    assert len(batches) == 20 and all(alike(a, b) for a, b in batches)


@pytest.mark.parametrize("slow", ["fetching", "working"])
def test_at_most_two_are_fetched_ahead(slow):
    fetched: list[int] = []

    def items() -> Iterator[int]:
        for number in range(12):
            time.sleep(0.01 if slow == "fetching" else 0)
            fetched.append(number)
            yield number

    most = 0
    for number in ahead(items()):
        time.sleep(0.01 if slow == "working" else 0)
        most = max(most, len(fetched) - number - 1)
    assert most <= 2 and (slow == "fetching" or most >= 1)


def test_fetching_goes_on_while_somebody_works():
    """In another thread: both wait for each other, which one alone could not."""
    meeting = threading.Barrier(2, timeout=10)

    def items() -> Iterator[int]:
        yield 0
        meeting.wait()
        yield 1

    found = ahead(items())
    assert next(found) == 0
    meeting.wait()
    assert list(found) == [1]


@pytest.mark.parametrize("error", [ValueError("25.png: truncated"), KeyboardInterrupt(), StopIteration()])
def test_errors_arrive_in_their_turn(error):
    class Items:
        def __init__(self) -> None:
            self.left = 3

        def __iter__(self) -> Items:
            return self

        def __next__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise error
            return self.left

    found = ahead(Items())
    assert [next(found) for _ in range(3)] == [2, 1, 0]
    with pytest.raises(type(error)) as caught:
        next(found)
    assert isinstance(error, StopIteration) or caught.value is error
    assert threads() == []


def test_who_asks_no_more_ends_the_thread_and_what_it_draws_from():
    closed: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append(threading.current_thread().name)

    found = ahead(items())
    assert next(found) == 0 and threads() == ["iin-prefetch"]
    found.close()
    assert threads() == [] and closed == ["iin-prefetch"]


def test_workers_of_a_loader_end_too():
    import multiprocessing

    found = ahead(Loader(MNISTPairs("test"), 500, workers=2).epoch(0))
    next(found)
    assert len(multiprocessing.active_children()) == 2
    found.close()
    assert multiprocessing.active_children() == []


def test_without_a_gpu_nothing_is_done_ahead():
    fetched: list[int] = []

    def batches() -> Iterator[Images]:
        for number in range(3):
            fetched.append(number)
            yield Images(torch.full((1,), float(number)), torch.tensor([number]))

    for number, batch in enumerate(prefetch(batches(), torch.device("cpu"))):
        assert batch.image.item() == number and fetched == list(range(number + 1)) and threads() == []
    assert len(fetched) == 3


def test_what_can_be_moved_is_moved_and_all_else_stays():
    class Odd(Images):
        pass

    batch = to_device(Odd(Codes(torch.ones(2, 2, 3)), "words"), torch.device("meta"))
    assert type(batch) is Odd and batch.label == "words"
    assert isinstance(batch.image, Codes) and batch.image.values.device.type == "meta"
    batch = to_device(Images(torch.ones(2), None), torch.device("meta"))
    assert batch.image.device.type == "meta" and batch.label is None
