"""What a data set answers, and how batches are drawn from it.

A data set has a length and answers a list of indices with a whole batch::

    class Mine:
        def __len__(self) -> int: ...
        def __getitem__(self, indices: Sequence[int]) -> Images | Pairs: ...

Nothing else is required. What it may also have:

* ``source: str``       where the images came from, in words; recorded with every run
* ``fingerprint: str``  changes when the images do; lets statistics of a fixed data set be cached
* ``factors: tuple[str, ...]``  of a pair data set: names of the factors, in the order of the columns of
  ``Pairs.shared``; the last one is the residual, which no pair shares
* ``classes: tuple[str, ...]``  names of the labels 0, 1, ...
* ``meaning(label: int) -> dict[str, str]``  where a label stands for several things: factor -> its value, in words;
  and ``values: dict[str, tuple[str, ...]]``, all that it may say of each, in order
* ``skipped: dict[str, str]``  files that were left out, with the reasons
* ``make_ready(check)``  does what takes a while and is done once for all who use the set, such as decoding pictures;
  called when training or an evaluation begins. It calls ``check``, unless that is None, every now and then
* ``fixed: bool``       an image, which is what an index stands for, always looks the same: at each visit, and whichever
  other asks for it as its partner. Without it, images are taken to change. Where it is false, ``varies: str`` may say
  what is drawn anew at each visit
* ``pixels(rows, draws)``, ``answering(stored)``: of a fixed data set, its images by their rows, and a copy that answers
  in their place what is stored of each; so what a frozen network says of them is computed once (see `iin.codes`).
  `Labelled` has both

Randomness (dequantisation noise, colours, partners) is a function of (seed, epoch, index) and of nothing else:
the order of visits, the batch size, the number of workers and the history of the process do not matter, so a
resumed run sees what an uninterrupted one would have seen. `Draws` is that function.
"""

from __future__ import annotations

import atexit
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from iin.seeds import mix

__all__ = ["Batch", "Dataset", "Draws", "Images", "Loader", "Pairs", "Visit", "fetch", "length", "mix"]


class Images(NamedTuple):
    """Images with labels."""

    image: Tensor
    """``[B, C, H, W]`` float32 in [-1, 1]."""
    label: Tensor
    """``[B]`` int64."""


class Pairs(NamedTuple):
    """Two images each, and which factors the two share."""

    image: Tensor
    """``[B, C, H, W]`` float32 in [-1, 1]."""
    other: Tensor
    """``[B, C, H, W]`` float32 in [-1, 1]."""
    shared: Tensor
    """``[B, K]`` bool; the last factor is the residual and is never shared."""
    label: Tensor | None = None
    """``[B]`` int64: class of ``image``, where the data set knows one."""
    other_label: Tensor | None = None
    """``[B]`` int64: class of ``other``."""


Batch = Images | Pairs


class Dataset(Protocol):
    """Structural type of a data set; nothing has to inherit from it."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Sequence[int]) -> Batch: ...


def length(data: Any) -> int:
    """How many items somebody's data set holds.

    Raises:
        ValueError: none, or it cannot tell.
    """
    kind = type(data).__name__
    try:
        total = len(data)
    except TypeError as error:
        raise ValueError(f"{kind}: has no length ({error}); a data set needs __len__ and __getitem__") from error
    if not total:
        raise ValueError(f"{kind}: holds no items, so there is nothing to see")
    return total


def fetch(data: Any, indices: Sequence[int], shape: tuple[int, ...] | None = None) -> Any:
    """One batch of somebody's data set, known to be what a data set should answer.

    Args:
        data: the data set.
        indices: what to ask it for.
        shape: ``(C, H, W)`` that the images must have, where it is known already.

    Raises:
        ValueError: it answers something else; one line.
        OSError: its files cannot be read.
    """
    listed = f"{', '.join(map(str, indices[:3]))}{', ...' if len(indices) > 3 else ''}"
    asked = f"{type(data).__name__}: data[[{listed}]]"
    try:
        batch = data[indices]
    except (ValueError, OSError):
        raise  # a data set's own words
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{asked} failed ({reason}); a data set answers lists of indices with a batch") from error
    image = getattr(batch, "image", None)
    if not isinstance(image, Tensor) or image.ndim != 4 or image.is_complex():
        found = _about(image) if image is not None else f"{type(batch).__name__}, which has no image"
        raise ValueError(f"{asked} answered {found}; expected Images or Pairs, with image [B, C, H, W]")
    if len(image) != len(indices) or not image.numel():
        raise ValueError(f"{asked} answered {_about(image)} to {len(indices)} indices; expected [{len(indices)}, ...]")
    if shape and tuple(image.shape[1:]) != shape:
        raise ValueError(f"{asked} answered {_about(image)}, but other images are {list(shape)}; expected one shape")
    if hasattr(batch, "other"):
        other, shared = batch.other, getattr(batch, "shared", None)
        if not isinstance(other, Tensor) or other.shape != image.shape:
            raise ValueError(f"{asked} answered other {_about(other)}; expected {list(image.shape)}, as of image")
        if not isinstance(shared, Tensor) or shared.dtype != torch.bool or shared.shape[:-1] != (len(image),):
            raise ValueError(f"{asked} answered shared {_about(shared)}; expected bool [{len(image)}, K]")
    return batch


def _about(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _scramble(state: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser on an array of uint64 (wrap-around is intended)."""
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


class Visit(list):
    """Indices of one batch, together with the seed of this visit to them.

    It is a list, so a data set without randomness need not know about it.

    Args:
        indices: what to fetch.
        seed: differs from epoch to epoch; the same index under the same seed draws the same numbers.
    """

    def __init__(self, indices: Sequence[int], seed: int = 0) -> None:
        super().__init__(indices)
        self.seed = seed


class Draws:
    """Random numbers for the images at some indices: each call is a new draw, each row belongs to its index.

    Args:
        indices: ``B`` indices; the seed of a `Visit` counts, that of any other sequence is 0.
        seed: of the data set, to tell it from others.
    """

    def __init__(self, indices: Sequence[int], seed: int = 0) -> None:
        self._rows = np.asarray(indices, dtype=np.int64).astype(np.uint64)
        self._seed = mix(seed, getattr(indices, "seed", 0))
        self._calls = 0

    def _words(self, count: int) -> np.ndarray:
        """``[B, count]`` random uint64: a hash of seed, number of the call, index and column."""
        self._calls += 1
        key = np.uint64(mix(self._seed, self._calls))
        rows = _scramble(self._rows * np.uint64(0x9E3779B97F4A7C15) + key)
        columns = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
        return _scramble(rows[:, None] + columns[None, :])

    def uniform(self, *shape: int) -> Tensor:
        """Draw from U[0, 1): float32 ``[B, *shape]``, multiples of 2^-24."""
        count = math.prod(shape)
        halves = self._words(-(-count // 2)).view(np.uint32)[:, :count]
        values = (halves >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
        return torch.from_numpy(values.reshape(len(self._rows), *shape))

    def halves(self, *shape: int) -> Tensor:
        """Draw from {0, ..., 2^16 - 1}: float32 ``[B, *shape]``; four to a hash, for noise on many pixels."""
        count = math.prod(shape)
        values = self._words(-(-count // 4)).view(np.uint16)[:, :count].astype(np.float32)
        return torch.from_numpy(values.reshape(len(self._rows), *shape))

    def integers(self, high: Tensor | int) -> Tensor:
        """Draw from {0, ..., high - 1}: int64 ``[B]``; ``high >= 1`` is one number, or one for each row ``[B]``."""
        bits = (self._words(1)[:, 0] >> np.uint64(11)).astype(np.float64) * 2.0**-53
        limit = high.numpy() if isinstance(high, Tensor) else np.int64(high)
        return torch.from_numpy(np.minimum((bits * limit).astype(np.int64), limit - 1))


class Loader:
    """Batches of a data set, for as many epochs as asked.

    Args:
        data: the data set.
        batch_size: images (or pairs) a batch.
        seed: of order and draws.
        shuffle: a new order each epoch; otherwise the order of the set, the same draws at each visit,
            and a last batch that may be smaller (shuffled epochs drop it, so that every step is alike).
        workers: processes that fetch; 0 fetches here, which is fastest for sets that live in memory.
        share: (r, n) yields the r-th of n equal shares of every batch, counted from 0: n processes that train together
            each see one.

    Raises:
        ValueError: ``batch_size`` is less than 1, or more than the set has and ``shuffle`` is set; or it cannot be
            divided into the shares.
    """

    def __init__(
        self,
        data: Dataset,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        workers: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
        if shuffle and len(data) < batch_size:
            raise ValueError(f"batch_size {batch_size} is larger than the data set ({len(data)} items)")
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.workers = workers
        if not 0 <= share[0] < share[1] or batch_size % share[1]:
            raise ValueError(f"batch_size {batch_size} has no share {share[0]} of {share[1]}; use a multiple of that")
        self.share = share

    def __len__(self) -> int:
        count, size = len(self.data), self.batch_size
        return count // size if self.shuffle else -(-count // size)

    def visits(self, epoch: int = 0) -> list[Visit]:
        """Which indices each batch of an epoch holds, and the seed of their draws."""
        count, size = len(self.data), self.batch_size
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix(self.seed, epoch))
            order = torch.randperm(count, generator=generator).tolist()
        else:
            order, epoch = list(range(count)), 0
        seed = mix(self.seed, epoch, 1)
        number, shares = self.share
        part = size // shares
        starts = (i * size + number * part for i in range(len(self)))
        return [Visit(order[start : start + part], seed) for start in starts]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch, from the ``start``-th on."""
        visits = self.visits(epoch)[start:]
        if not self.workers:
            yield from (self.data[visit] for visit in visits)
            return
        # batch_size=None: the data set answers whole batches, the loader only fetches them ahead.
        batches = iter(
            torch.utils.data.DataLoader(
                _Answers(self.data),  # type: ignore[arg-type]
                batch_size=None,
                sampler=visits,
                num_workers=self.workers,
                worker_init_fn=_ignore_interrupts,
                generator=torch.Generator(),  # its own, so that drawing the workers' seeds touches no other stream
            )
        )
        # Workers obey no signal, so they have to be told to stop, and be it when the program ends: it would wait for
        # them for ever. After an error that may be the first chance, since its traceback holds on to this loop.
        stop = batches._shutdown_workers  # type: ignore[attr-defined]
        atexit.register(stop)
        try:
            for batch in batches:
                if isinstance(batch, _Failed):
                    raise batch.kind(batch.message)
                yield batch
        finally:
            atexit.unregister(stop)
            stop()

    def __iter__(self) -> Iterator[Any]:
        return self.epoch(0)


class _Failed:
    """What a worker answers instead of a batch; an exception would arrive with the worker's traceback in its words."""

    def __init__(self, kind: type[Exception], message: str) -> None:
        self.kind = kind
        self.message = message


class _Answers:
    """A data set as workers ask it."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __getitem__(self, visit: Sequence[int]) -> Batch | _Failed:
        try:
            return self.data[visit]
        except (ValueError, OSError) as error:  # a data set's own words
            return _Failed(ValueError if isinstance(error, ValueError) else OSError, str(error))


def _ignore_interrupts(_: int) -> None:
    """Leave Ctrl-C and SIGTERM to the process that owns the workers: it finishes its step and stops them."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
