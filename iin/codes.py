"""The answers of frozen networks, computed once for all images that stay the same.

A flow over a frozen network sees an image only through that network's posterior, and a conditional one through the
representation in another frozen network besides. Where the images of a data set do not change from visit to visit, mean
and deviation of the posterior, and the representation, are computed once, before training, and kept in memory or on
disk; only the posterior's noise is drawn anew at each step. Training then is the same, step for step, as without: the
same partners, the same noise, and on a CPU the same bits (on a GPU, as far as its kernels repeat themselves).
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iin.arrays import Unwritable, opened, shown, write
from iin.config import ConfigError, Training
from iin.data import Draws, Visit
from iin.distributed import leading, world
from iin.files import cache_folder
from iin.memory import available_memory
from iin.models import Codes, Gaussian
from iin.progress import in_pieces

__all__ = ["check", "encode", "estimate", "instead"]

log = logging.getLogger("iin")

SHARE = 4
"""Codes are kept in memory when they take at most the available memory divided by this."""
LOOKED_AT = 16
"""Images on which a data set and a first stage are taken at their word."""
TOLERANCE = 2e-2
"""How far codes of one image may lie apart, as a share of the largest: kernels differ, and so does precision."""


class _Unfit(Exception):
    """Codes cannot be kept; the message says why, and `way_out` what to do."""

    def __init__(self, reason: str, way_out: str = "set cache: off", *, worth_a_word: bool = False) -> None:
        super().__init__(reason)
        self.way_out = way_out
        self.worth_a_word = worth_a_word


def check(system: Any, data: Any, settings: Training) -> None:
    """See that a cache that was asked for can be had, as far as that can be told before anything is computed.

    Args:
        system: what is trained.
        data: the training data.
        settings: the section ``train``.

    Raises:
        ConfigError: ``cache`` is ``memory`` or ``disk``, and the images change, or there is no frozen first stage.
    """
    if settings.cache in ("memory", "disk"):
        try:
            _must_fit(system, data)
        except _Unfit as unfit:
            raise _mistake(settings, unfit) from unfit


def instead(
    system: Any, data: Any, settings: Training, *, step: int = 0, check: Callable[[], None] | None = None
) -> Any:
    """The training data with the first stage's answers in the place of images; the data themselves where that cannot
    be, or does not pay.

    Args:
        system: what is trained, on its device.
        data: the training data.
        settings: the section ``train``.
        step: number of steps that are done already.
        check: called now and then while images are encoded; what it raises ends the work.

    Raises:
        ConfigError: ``cache`` is ``memory`` or ``disk``, and that cannot be: see `check`; or there is no room.
    """
    if settings.cache == "off":
        return data
    try:
        _must_fit(system, data)
        paired = _images_an_item(data)
        if settings.cache == "auto" and not _pays(data, settings, step):
            raise _Unfit("images are visited less than twice on average")
        return _Kept(system, data, settings, max(1, paired * settings.batch_size // world()), check).copy()
    except _Unfit as unfit:
        if settings.cache != "auto":
            raise _mistake(settings, unfit) from unfit
        if unfit.worth_a_word:
            log.info("Codes: not kept, since %s; %s", unfit, unfit.way_out)
        else:
            log.debug("codes: not kept, since %s", unfit)
        return data


def estimate(system: Any, data: Any, image: Tensor, settings: Training) -> str:
    """What would be kept, how much room it takes and where that is, in words; nothing where nothing would be.

    Args:
        system: what is trained; it may lie in no memory.
        data: the training data.
        image: one or more of its images, where the system is.
        settings: the section ``train``.
    """
    try:
        if settings.cache == "off" or (settings.cache == "auto" and not _pays(data, settings, 0)):
            return ""
        _must_fit(system, data)
    except _Unfit:
        return ""
    context = system.represent(image[:1]) if hasattr(system, "represent") else None
    shape = None if context is None else tuple(context.shape[1:])
    room = _room(len(data), system.dim, shape)
    in_memory = settings.cache == "memory" or (settings.cache == "auto" and _is_little(room))
    return f"{_what(len(data), system.dim, shape)}, computed once and kept {'in memory' if in_memory else 'on disk'}"


def encode(
    system: Any,
    data: Any,
    rows: range,
    size: int,
    *,
    precision: str = "fp32",
    check: Callable[[], None] | None = None,
) -> Iterator[Tensor]:
    """Encode images of a data set.

    Args:
        system: see `instead`.
        data: see `instead`.
        rows: which of its images, one behind the other.
        size: how many at once: as many as a step encodes, since kernels may round otherwise for other sizes.
        precision: ``bf16`` encodes as a step with this setting does.
        check: see `instead`.

    Yields:
        Mean and deviation of the next images, on the CPU: ``[n, 2, D]`` float32; with a representation, rows of both
        and of it ``[n, 2 * D + ...]``.
    """
    size = min(size, len(rows))
    for start, stop in in_pieces(len(rows), size, "Codes", check=check):
        # The last piece is filled up with the images before it, so that it has the size of the others.
        asked = rows[max(0, stop - size) : stop]
        yield _rows(*_answers(system, data, asked, precision))[-(stop - start) :]


@torch.no_grad()
def _answers(system: Any, data: Any, rows: Sequence[int], precision: str) -> tuple[Tensor, Tensor | None]:
    """Mean and deviation of some images ``[B, 2, D]``, and their representation, if any; on the CPU.

    Raises:
        _Unfit: they are no such distribution, or not finite.
    """
    device = next(system.parameters()).device
    image = data.pixels(torch.tensor(rows), Draws(rows)).to(device)
    training = system.training
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            answer = system.eval().posterior(image)
            context = system.represent(image) if hasattr(system, "represent") else None
    finally:
        system.train(training)
    if not isinstance(answer, Gaussian) or type(answer).sample is not Gaussian.sample:
        raise _Unfit(f"the first stage answers {type(answer).__name__}, not iin.models.Gaussian")
    values = torch.stack([answer.mean, answer.std], 1).float().cpu()
    if not torch.isfinite(values).all():
        raise _Unfit("the first stage's answers are not finite", worth_a_word=True)
    if context is None:
        return values, None
    context = context.float().cpu()
    if not torch.isfinite(context).all():
        raise _Unfit("the representation is not finite", worth_a_word=True)
    return values, context


def _rows(values: Tensor, context: Tensor | None) -> Tensor:
    """Both in one tensor, as they are kept."""
    return values if context is None else torch.cat([values.flatten(1), context.flatten(1)], 1)


# --- whether it can be ------------------------------------------------------------------------------------------------


def _must_fit(system: Any, data: Any) -> None:
    """Raise `_Unfit` if system or data say that codes cannot be kept."""
    if not _takes_codes(system) or any(p.requires_grad for p in system.first_stage.parameters()):
        kind = type(system).__name__
        raise _Unfit(f"{kind} has no frozen first stage whose answers would do", "set cache: auto or off")
    if not getattr(data, "fixed", False):
        varies = getattr(data, "varies", "")
        mended = "set dequantise: fixed, or " if varies == "dequantise: true" else "set "
        why = varies or f"{type(data).__name__} does not say that they are fixed"
        reason = f"images of data.train change at every visit ({why})"
        raise _Unfit(reason, mended + "cache: off", worth_a_word=bool(varies))
    if not (callable(getattr(data, "pixels", None)) and callable(getattr(data, "answering", None))):
        raise _Unfit(f"{type(data).__name__} has no pixels and answering (see iin.data.base)")


def _takes_codes(system: Any) -> bool:
    """Whether what computes the objectives says of itself, and not of what it inherits, that it takes codes."""
    if not (hasattr(system, "first_stage") and hasattr(system, "dim")):
        return False
    asked = ("objectives", "noisy_code", "posterior", *(["represent"] if hasattr(system, "represent") else []))
    for name in asked:
        owner = next((kind for kind in type(system).__mro__ if name in vars(kind)), object)
        if not vars(owner).get("takes_codes", False):
            return False
    return True


def _mistake(settings: Training, unfit: _Unfit) -> ConfigError:
    return ConfigError([f"train.cache: {settings.cache}, but {unfit}: {unfit.way_out}"])


def _images_an_item(data: Any) -> int:
    return 2 if hasattr(data[Visit([0], 0)], "other") else 1


def _pays(data: Any, settings: Training, step: int) -> bool:
    """Whether each image is asked for twice or more, on average."""
    return _visits(data, settings, step) * _images_an_item(data) >= 2 * len(data)


def _visits(data: Any, settings: Training, step: int) -> int:
    """How many items are still to be visited."""
    steps = settings.epochs * (len(data) // settings.batch_size)
    steps = steps if settings.steps is None else min(steps, settings.steps)
    return (steps - step) * settings.batch_size


def _room(count: int, dim: int, context: tuple[int, ...] | None) -> int:
    """Bytes of so many posteriors, and representations of a shape."""
    return 4 * count * (2 * dim + (0 if context is None else math.prod(context)))


def _what(count: int, dim: int, context: tuple[int, ...] | None) -> str:
    """What is kept, and how much room it takes."""
    made = f"{count:,} posteriors of {dim} numbers"
    if context is not None:
        made += f" and representations of {'x'.join(map(str, context))}"
    return f"{made}, {shown(_room(count, dim, context))}"


def _is_little(room: int) -> bool:
    """Whether so many bytes are kept in the memory of each process here without being asked for."""
    return room * world() <= available_memory() // SHARE


# --- where it is kept -------------------------------------------------------------------------------------------------


class _Answered:
    """What is kept, indexed by rows.

    Args:
        values: see `encode`.
        dim: size of a code.
        context: shape of a representation, where there is one.
    """

    def __init__(self, values: Any, dim: int, context: tuple[int, ...] | None) -> None:
        self.values, self.dim, self.context = values, dim, context

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor) -> Codes:
        found = self.values[rows]
        if self.context is None:
            return Codes(found)
        codes, context = found.split([2 * self.dim, found.shape[1] - 2 * self.dim], 1)
        return Codes(codes.unflatten(1, (2, self.dim)), context.unflatten(1, self.context))


class _Kept:
    """Makes or finds the codes of one data set.

    Args:
        system, data, settings, check: see `instead`.
        size: how many images a step encodes.
    """

    def __init__(self, system: Any, data: Any, settings: Training, size: int, check: Callable[[], None] | None) -> None:
        self.system, self.data, self.mode, self.check = system, data, settings.cache, check
        self.size, self.precision = size, settings.precision
        self.context: tuple[int, ...] | None = None
        self.shape: tuple[int, ...] = (len(data), 2, system.dim)
        fingerprint = getattr(data, "fingerprint", None)
        self.about = {
            "data": fingerprint,
            "first stage": _digest(system.first_stage),
            "precision": self.precision,
        }
        if (representation := getattr(system, "representation", None)) is not None:
            self.about["representation"] = _digest(representation)
        key = hashlib.sha256(repr(sorted(self.about.items())).encode()).hexdigest()[:32]
        self.path: Path | None = cache_folder() / "codes" / f"{key}.codes" if fingerprint else None

    def copy(self) -> Any:
        """The data set that answers them.

        Raises:
            _Unfit: the data or the first stage do not keep their word, or there is no room.
        """
        kind, dim = type(self.data).__name__, self.system.dim
        codes, context = self._sample()
        if tuple(codes.shape[1:]) != (2, dim):
            raise _Unfit(f"codes have {codes.shape[-1]} numbers, but the flow works on {dim}")
        sample = _rows(codes, context)
        if context is not None:
            self.context = tuple(context.shape[1:])
            self.shape = (len(self.data), *sample.shape[1:])
        try:
            trial = self.data.answering(self._answered(torch.zeros(1, *self.shape[1:]).expand(self.shape)))
            answer = trial[Visit(self._rows(), 1)]
        except Exception as error:  # whatever comes of counting on codes as if they were images
            raise _Unfit(f"{kind} needs its images ({type(error).__name__}: {error})") from error
        if not isinstance(answer.image, Codes):
            raise _Unfit(f"{kind}.answering does not answer what is stored")
        # On disk, the first of several processes makes the file, and the others find it.
        values = leading(lambda: self._values(sample)) if self.mode == "disk" else self._values(sample)
        return self.data.answering(self._answered(values))

    @property
    def bytes(self) -> int:
        return _room(len(self.data), self.system.dim, self.context)

    @property
    def what(self) -> str:
        return _what(len(self.data), self.system.dim, self.context)

    def _answered(self, values: Any) -> _Answered:
        return _Answered(values, self.system.dim, self.context)

    def _rows(self) -> list[int]:
        return list(range(0, len(self.data), max(1, len(self.data) // LOOKED_AT)))[:LOOKED_AT]

    def _sample(self) -> tuple[Tensor, Tensor | None]:
        """Codes of a few images, which are looked at twice ``[n, 2, D]``, and representations."""
        rows = self._rows()
        seen = [self.data[Visit(rows, seed)].image for seed in (1, 2)]
        seen.append(self.data.pixels(torch.tensor(rows), Draws(rows)))
        if not all(torch.equal(image, seen[0]) for image in seen):
            kind = type(self.data).__name__
            raise _Unfit(f"images of {kind} change, though it says that they are fixed", worth_a_word=True)
        first, second = (_answers(self.system, self.data, rows, self.precision) for _ in range(2))
        for one, other, what in zip(first, second, ("first stage", "representation"), strict=True):
            if one is not None and other is not None and not _close(one, other):
                raise _Unfit(f"the {what} answers otherwise each time", worth_a_word=True)
        return first

    def _values(self, sample: Tensor) -> Any:
        """Find the codes, or compute them and keep them where they fit."""
        if self.mode != "memory" and (found := self._found(sample)) is not None:
            log.info("Codes: %s, found in %s", self.what, self.path)
            return found
        if self.mode == "disk":
            try:
                return self._on_disk()
            except Unwritable as error:
                reason = f"{self.what}, cannot be kept on disk: {error}"
                raise _Unfit(reason, "set cache: memory, or off") from error
        if self.mode == "memory":
            if self.bytes * world() > available_memory():
                reason = f"{self.what}, are more than the {shown(available_memory())} of memory that are available"
                raise _Unfit(reason, "set cache: disk, or off")
            return self._in_memory()
        if self._fits():
            return self._in_memory()
        try:
            return self._on_disk()
        except Unwritable as error:
            if self._fits():  # by now
                log.info("Codes: cannot be kept on disk (%s)", error)
                return self._in_memory()
            raise _Unfit(
                f"{self.what}, are more than a quarter of the {shown(available_memory())} of memory that are "
                f"available, and cannot be kept on disk either: {error}",
                "each image is encoded at each visit",
                worth_a_word=True,
            ) from error

    def _fits(self) -> bool:
        return _is_little(self.bytes)

    def _pieces(self) -> Iterator[Tensor]:
        rows = range(len(self.data))
        return encode(self.system, self.data, rows, self.size, precision=self.precision, check=self.check)

    def _in_memory(self) -> Tensor:
        values = torch.empty(self.shape)
        start = 0
        for piece in self._pieces():
            values[start : start + len(piece)] = piece
            start += len(piece)
        log.info("Codes: %s, in memory", self.what)
        return values

    def _found(self, sample: Tensor) -> Any:
        """The codes on disk, if they are of these images and this network."""
        found = opened(self.path, self.about, self.shape, torch.float32) if self.path is not None else None
        if found is None:
            return None
        if not _close(found[torch.tensor(self._rows())], sample):
            log.info("%s holds other codes than the first stage gives; it is made anew", self.path)
            return None
        return found

    def _on_disk(self) -> Any:
        if self.path is None:
            raise Unwritable(f"{type(self.data).__name__} has no fingerprint to know its codes by")
        found = write(self.path, self.about, self.shape, torch.float32, self._pieces())
        log.info("Codes: %s, in %s", self.what, self.path)
        return found


def _close(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= TOLERANCE * second.abs().max().clamp(min=1e-6))


def _digest(network: nn.Module) -> str:
    """Digest of a network: its classes, their plain settings, weights and buffers."""
    total = hashlib.sha256()
    for name, module in network.named_modules():
        kind = type(module)
        plain = {key: value for key, value in vars(module).items() if _is_plain(value)}
        plain.pop("training", None)
        total.update(f"{name} {kind.__module__}.{kind.__qualname__} {sorted(plain.items())}\n".encode())
        if isinstance(module, torch.jit.ScriptModule):
            total.update(getattr(module, "code", "").encode())  # all scripts are of one class
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _is_plain(value: Any) -> bool:
    """Whether a setting is a number or a text, or some in a row, such as a size."""
    return isinstance(value, bool | int | float | str) or (
        isinstance(value, tuple | list) and all(map(_is_plain, value))
    )
