"""What a system makes of test batches, made once however many metrics ask for it.

During an evaluation (`iin.evaluation.evaluate`) batches are views: named tuples as ever, of the data set's own type,
that belong to a memo. A metric that says ``made(system, batch, "reconstruct")`` instead of
``system.reconstruct(batch.image)`` gets the reconstruction that others have asked for before, or leaves it to others.
Batches of any other origin are no views; of them everything is made when it is asked for, and all works the same.

What is kept must not be changed in place. Whoever does so all the same harms nobody: it is noticed, and made anew.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from iin.seeds import mix

__all__ = ["Memo", "kept", "made", "memo_of", "sampled"]

_Value = TypeVar("_Value")


class _Entry(NamedTuple):
    value: Any
    tensors: list[Tensor]
    versions: list[int]
    size: int


class _Place(NamedTuple):
    """Where a view belongs."""

    memo: Memo
    number: int
    start: int
    versions: list[int]


class Memo:
    """Batches, and what one system makes of them, as far as there is room; the rest is made again.

    Where there is no room, the smaller stays: codes take the place of images, which are not worth as much a byte.

    Args:
        system: whose answers these are.
        budget: bytes.
        seed: of what is drawn; what is made of a batch then depends on that, what it is and the batch's number alone,
            not on what was asked for before. None draws from torch's generator as it comes.
    """

    def __init__(self, system: nn.Module | None, budget: int, seed: int | None = None) -> None:
        self.system = system
        self.budget = budget
        self.seed = seed
        self.held = 0
        """Bytes."""
        self._entries: dict[Hashable, _Entry] = {}

    def view(self, batch: Any, number: int, start: int = 0) -> Any:
        """A named tuple as one that belongs here, of a subtype of its own type.

        Args:
            batch: which.
            number: its own.
            start: how many items the batches before it have.
        """
        view = _kind(type(batch))(*batch)
        view._place = _Place(self, number, start, _versions(_tensors(batch)))
        return view

    def recall(self, key: Hashable) -> Any:
        """What is kept under a key; None where there is nothing, or somebody has changed it."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if _versions(entry.tensors) != entry.versions:
            self._drop(key)
            return None
        return entry.value

    def keep(self, key: Hashable, value: Any) -> None:
        """Keep something if there is room, or can be."""
        if key in self._entries:
            self._drop(key)
        tensors = _tensors(value)
        size = sum(tensor.nbytes for tensor in tensors)
        while self.held + size > self.budget:
            largest = max(self._entries, key=lambda other: self._entries[other].size, default=None)
            if largest is None or self._entries[largest].size <= size:
                return
            self._drop(largest)
        self._entries[key] = _Entry(value, tensors, _versions(tensors), size)
        self.held += size

    def once(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """What is kept under a key, or is made now."""
        found = self.recall(key)
        if found is None:
            found = make()
            self.keep(key, found)
        return found

    def answer(self, batch: Any, what: str, of: tuple[str, ...], arguments: tuple[Any, ...]) -> Any:
        """What the system's method of this name says of a view's images, from what others said where it stands on it.

        With further arguments it is not kept: nobody will ask for the same.
        """
        number = batch._place.number
        method = getattr(self.system, what)

        def make() -> Any:
            sources = getattr(method, "built_on", None)
            if sources is None:
                with self.seeded(what, of, number):
                    return method(*(getattr(batch, field) for field in of), *arguments)
            answers = [self.answer(batch, source, (field,), ()) for source in sources for field in of]
            with self.seeded(what, of, number):
                return method.step(self.system, *answers, *arguments)

        return make() if arguments else self.once((what, of, number), make)

    @contextlib.contextmanager
    def seeded(self, what: str, of: tuple[str, ...], number: int) -> Iterator[None]:
        """Within this context torch draws what belongs there; outside, nothing has been drawn."""
        if self.seed is None:
            yield
            return
        device = next((p.device for p in self.system.parameters()), None) if self.system else None
        with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
            torch.manual_seed(mix(self.seed, zlib.crc32(" ".join((what, *of)).encode()), number))
            yield

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.held = 0

    def _drop(self, key: Hashable) -> None:
        self.held -= self._entries.pop(key).size


def made(system: nn.Module, batch: Any, what: str, *arguments: Any, of: str | tuple[str, ...] = "image") -> Any:
    """What a system's method says of a batch's images: of views, what it has said before.

    ::

        for batch in batches:
            error = made(system, batch, "reconstruct") - batch.image

    Args:
        system: whose method.
        batch: from the test batches; any named tuple.
        what: name of a method of images: ``code``, ``noisy_code``, ``encode``, ``reconstruct``, ``classify``, ...
        arguments: what the method takes beside images.
        of: the field of the batch that holds the images, such as ``other`` of pairs; or fields, for a method of more
            than one.

    Returns:
        The method's answer; not to be changed in place.
    """
    fields = (of,) if isinstance(of, str) else of
    memo = memo_of(batch, system)
    if memo is None:
        return getattr(system, what)(*(getattr(batch, field) for field in fields), *arguments)
    return memo.answer(batch, what, fields, arguments)


def sampled(system: Any, batches: Iterable[Any], count: int, index: int) -> Tensor:
    """Chunk number ``index`` of the system's samples, each of ``count`` images ``[count, C, H, W]``.

    During an evaluation, chunks of equal number and size are the same, whoever asks.
    """
    memo = memo_of(batches, system)
    if memo is None:
        return system.sample(count)

    def draw() -> Tensor:
        with memo.seeded("sample", (), index):
            return system.sample(count)

    return memo.once(("sample", count, index), draw)


def kept(system: nn.Module, place: Any, key: Hashable, make: Callable[[], _Value]) -> _Value:
    """Anything that is worth keeping for others during an evaluation, such as features of a batch.

    Args:
        system: under evaluation.
        place: the test batches, or one of them, which then needs no mention in the key.
        key: says what it is, and all that it depends on.
        make: makes it; it shall not draw random numbers, and not be None.
    """
    memo = memo_of(place, system)
    if memo is None:
        return make()
    number = getattr(getattr(place, "_place", None), "number", None)
    return memo.once(("kept", number, key), make)


def memo_of(place: Any, system: nn.Module | None) -> Memo | None:
    """The memo that a view, or test batches under evaluation, belong to; None where it is of no use for this system."""
    held = getattr(place, "_place", None)
    memo = getattr(place, "_memo", None) if held is None else held.memo
    if memo is None or memo.system is not system:
        return None
    if held is not None and _versions(_tensors(place)) != held.versions:
        return None  # somebody has changed the images; what is made of them is not what others want
    return memo


_kinds: dict[type, type] = {}


def _kind(base: type) -> type:
    """The type of views of a type of named tuples."""
    if base not in _kinds:
        # Fields of named tuples do not begin with an underscore. Copies, by `_replace` or any other way, are no views.
        members = {"_place": None, "__module__": base.__module__, "__reduce__": lambda view: (base, tuple(view))}
        _kinds[base] = type(base.__name__, (base,), members)
    return _kinds[base]


def _tensors(value: Any, depth: int = 4) -> list[Tensor]:
    """All tensors in something, but for what lies too deep."""
    if isinstance(value, Tensor):
        return [value]
    parts: Iterable[Any] = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, tuple | list):
        parts = value
    elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module):
        parts = vars(value).values()
    return [tensor for part in parts for tensor in _tensors(part, depth - 1)] if depth else []


def _versions(tensors: list[Tensor]) -> list[int]:
    """Numbers that change when the tensors do."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]
