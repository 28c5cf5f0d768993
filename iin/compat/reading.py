"""Files that the originals wrote, read without running any code that they might bring along."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iin.compat.state import CompatError, listed

__all__ = ["is_original", "named", "newest", "read", "step_of"]


class _Ours(CompatError):
    """A checkpoint of this package."""


class _Objects(CompatError):
    """A pickle of networks that carry the source of their code along."""


def read(path: str | Path) -> dict[str, Any]:
    """Content of an original checkpoint; nothing in it is executed. Bare weights are its entry ``model``.

    Raises:
        CompatError: not such a file, or one that asks for code to be run.
    """
    path = newest(Path(path))
    try:
        file = path.open("rb")
    except OSError as error:
        raise CompatError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        with file, _numbers_allowed():
            if _STYLEGAN in file.read(_BEGINNING):
                raise _Objects(
                    f"{path}: a pickle of StyleGAN2's networks, which brings the source of their code along, to be run "
                    "as it is read; it is refused. Train anew (iin-train -b celeba_vpgan), or measure images made with "
                    "it (iin.metrics.variation: read_pairs, score)"
                )
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except CompatError:
        raise
    except Exception as error:  # whatever a foreign file makes of the reader
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise CompatError(
            f"{path}: damaged, not a checkpoint of the original, or one that would run code ({first})"
        ) from error
    if isinstance(content, dict) and {"format", "step", "system"} <= content.keys():
        raise _Ours(f"{path}: a checkpoint of iin itself, not of the original: iin.load(its run's folder) reads it")
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        content = {"model": content}  # some were published as the bare weights of a network
    if not isinstance(content, dict) or not isinstance(content.get("model"), Mapping):
        raise CompatError(f"{path}: not a checkpoint of the original (expected model, loss, optimizer)")
    for entry in ("model", "loss"):
        values = content.get(entry) or {}
        if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
            raise CompatError(f"{path}: not a checkpoint of the original (its {entry} holds more than tensors)")
    return content


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Within this context, errors name the file."""
    try:
        yield
    except CompatError as error:
        # The path of a folder is a part of that of its newest checkpoint.
        raise error if str(error).startswith(str(path)) else CompatError(f"{path}: {error}") from error


def is_original(path: str | Path) -> bool:
    """Whether a file or a run's folder is one of the original's: by what is in it, or, if damaged, by its name."""
    path = Path(path)
    if path.is_dir():
        return (
            any(folder.is_dir() for folder in (path / "train" / "checkpoints", path / "checkpoints"))
            and not (path / "config.yaml").is_file()
        )
    try:
        read(path)
    except _Ours:
        return False
    except _Objects:
        return True  # whoever reads it hears why that cannot be
    except CompatError:
        return _STEP.fullmatch(path.name) is not None
    return True


def step_of(path: str | Path) -> int:
    """The step of a checkpoint, or of the newest in a folder, by its name; 0 where that does not tell."""
    match = _STEP.fullmatch(newest(Path(path)).name)
    return int(match[1]) if match else 0


_STYLEGAN, _BEGINNING = b"dnnlib.tflib", 1 << 16
"""What a pickle of StyleGAN2 and its kin names, and within how many bytes."""

_STEP = re.compile(r"model-(\d+)\.ckpt")
"""Names of the original's checkpoints, which alone tell the step."""


def newest(path: Path) -> Path:
    """The checkpoint of the highest step, if the path is a run's folder of the original."""
    if not path.is_dir():
        return path
    for folder in (path / "train" / "checkpoints", path / "checkpoints", path):
        files = [file for file in folder.glob("model-*.ckpt") if _STEP.fullmatch(file.name)]
        if files:
            return max(files, key=step_of)
    runs = sorted(checkpoints.parent.parent.name for checkpoints in path.glob("*/train/checkpoints"))
    hint = f"; it holds runs, name one of them: {listed(runs)}" if runs else ""
    if (path / "model_args.p").is_file():
        raise CompatError(f"{path}: is of the JL1-VAE code; iin.compat.jacobian_vae reads it")
    raise CompatError(
        f"{path}: no checkpoint of the original in it (expected train/checkpoints/model-<step>.ckpt){hint}"
    )


class _Kind:
    """What a file calls ``numpy.dtype``: the kind of a number, and the order of its bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


def _number(kind: _Kind, data: bytes) -> float | int:
    """A number of numpy's as one of Python's.

    Raises:
        ValueError: a value of another kind.
    """
    letter = {"f8": "d", "f4": "f", "i8": "q", "i4": "i"}.get(kind.code)
    if letter is None or kind.order not in ("<", ">"):
        raise ValueError(f"a value of kind {kind.code!r}, expected a number")
    return struct.unpack(kind.order + letter, data)[0]


def _as(name: str, called: Callable[..., Any]) -> Callable[..., Any]:
    """A callable under the name that files know it by."""
    called.__module__, _, called.__qualname__ = name.rpartition(".")
    called.__name__ = called.__qualname__
    return called


@contextmanager
def _numbers_allowed() -> Iterator[None]:
    """Within this context, a file may name numpy's numbers beside tensors: the original stored its learning rates so.

    What it names is never numpy's, but what stands above, which builds a number from bytes and calls nothing.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_NUMBERS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


_NUMBERS: list[Any] = [
    _as("numpy.dtype", _Kind),
    # The module has another name since numpy 2.
    _as("numpy.core.multiarray.scalar", lambda kind, data: _number(kind, data)),
    _as("numpy._core.multiarray.scalar", lambda kind, data: _number(kind, data)),
]
