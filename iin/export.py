"""A run's encoder as a file that needs nothing of this package: TorchScript, or torch.export."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from iin.building import datasets
from iin.experiment import load
from iin.files import write_atomically
from iin.run import Run

__all__ = ["Encoder", "Kind", "check", "encoder_of", "save"]

Kind = Literal["torchscript", "export"]
"""How a network is written: as a trace in TorchScript, or as a program of torch.export."""

ENDINGS: dict[str, str] = {"torchscript": ".pt", "export": ".pt2"}
"""Of the files; by these they are told apart when they are read."""

TOLERANCE = 1e-6
"""How far what is read back may answer from what was written, as a share of the largest code, or of 1."""

SEEN = 2
"""Images that the network is written with."""
TRIED = (1, 2, 5)
"""Numbers of images that it is tried on."""


class Encoder(nn.Module):
    """What encodes in a system: images ``[B, C, H, W]`` in [-1, 1] to codes ``[B, D]``, without noise.

    Args:
        system: a system with ``encode(image)``; it is frozen, in eval mode.

    Raises:
        ValueError: it does not encode.
    """

    def __init__(self, system: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(system, "encode", None)):
            raise ValueError(f"{type(system).__name__} has no encode: there is no encoder to export")
        self.system = system.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        system: Any = self.system
        found = system.encode(image)
        return found if isinstance(found, Tensor) else found.mean


def encoder_of(
    run: Run,
    path: str | Path,
    kind: Kind = "torchscript",
    *,
    which: str | int | None = None,
    size: int | None = None,
    channels: int | None = None,
    overrides: Sequence[str] = (),
    allow: Sequence[str] = (),
) -> tuple[tuple[int, ...], float]:
    """Write the encoder of a run; see `save`.

    Args:
        run: which.
        path: the file.
        kind: how it is written.
        which: its checkpoint: a step, a file or ``"last"``; default: the newest sound one.
        size: height and width of the images that it takes; by default as the network or the test data tell.
        channels: of the images; likewise.
        overrides: ``key=value``, settings to change.
        allow: packages beyond the program's own that its configuration may name.

    Returns:
        Shape ``(C, H, W)`` of the images that it takes, and how far its answers are off.

    Raises:
        ConfigError, RunError, ValueError, OSError: in one line.
    """
    for name, value in {"size": size, "channels": channels}.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name}: expected at least 1, found {value}")
    check(Path(path), kind)
    trained = load(run, which, overrides=overrides, allow=allow)
    Encoder(trained.system)
    shape = _told(trained.system)
    if shape is None and None in (size, channels):
        (data,) = datasets(trained.tree, "test")
        shape = tuple(data[[0]].image.shape[1:])
    if shape is None or size is not None:
        shape = (0 if shape is None else shape[0], size or 0, size or 0)
    shape = (channels or shape[0], *shape[1:])
    image = torch.rand(max(TRIED), *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return shape, save(trained.system, path, kind, image)


def check(path: Path, kind: Kind) -> None:
    """See that a file can be written, before anything is loaded.

    Raises:
        ValueError: another ending than the kind's, by which files are told apart; a folder; or nowhere to write.
    """
    expected = ENDINGS[kind]
    if path.suffix != expected:
        raise ValueError(f"--out: {path} should end in {expected}, as files of --to {kind} do")
    if path.is_dir():
        raise ValueError(f"--out: {path} is a folder; give a file")
    if not path.parent.is_dir():
        raise ValueError(f"--out: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"--out: no file can be written in {path.parent}")


def save(system: nn.Module, path: str | Path, kind: Kind, image: Tensor) -> float:
    """Write a system's encoder; what is written is read back and compared before the file is there.

    The file takes any number of images of one size. `iin.models.Layer` reads it as a network.

    Args:
        system: with ``encode(image)``; it is left frozen and in eval mode.
        path: the file, ``.pt`` for ``torchscript`` and ``.pt2`` for ``export``.
        kind: how.
        image: images such as it shall take, five or more ``[B, C, H, W]`` in [-1, 1].

    Returns:
        How far the codes of the file are from the system's, at most, as a share of the largest code, or of 1.

    Raises:
        ValueError: the system does not encode; it cannot be written so; or what is read back answers otherwise.
    """
    check(Path(path), kind)
    encoder = Encoder(system)
    if len(image) < max(TRIED):
        raise ValueError(f"image: expected at least {max(TRIED)} images to try it on, found {len(image)}")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wonders about traces; what matters is compared
        content = _written(encoder, image[:SEEN], kind)
        differences = [_difference(encoder, _read(content, kind), image[:count]) for count in TRIED]
    if not max(differences) <= TOLERANCE:
        raise ValueError(
            f"{path}: not written: as {kind} it answers otherwise than the run, by {max(differences):.1e} of the "
            f"largest code; expected at most {TOLERANCE:g}"
        )
    with write_atomically(Path(path)) as file:
        file.write(content)
    return max(differences)


def _told(system: Any) -> tuple[int, ...] | None:
    """Shape of the images that a system's network takes, if it tells."""
    for name in ("model", "first_stage"):
        part = getattr(system, name, None)
        channels, size = getattr(part, "channels", None), getattr(part, "size", None)
        if isinstance(channels, int) and isinstance(size, int):
            return channels, size, size
    return None


def _written(encoder: Encoder, image: Tensor, kind: Kind) -> bytes:
    """Content of the file.

    Raises:
        ValueError: torch cannot write it so.
    """
    file = io.BytesIO()
    encoder(image)  # what it says of images that it does not take is clearer than what a trace would say
    try:
        if kind == "torchscript":
            torch.jit.save(torch.jit.trace(encoder, image, check_trace=False), file)
        else:
            shapes = ({0: torch.export.Dim("batch")},)
            torch.export.save(torch.export.export(encoder, (image,), dynamic_shapes=shapes), file)
    except Exception as error:  # whatever somebody's network makes of the tracer
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{type(encoder.system).__name__} cannot be written as {kind} ({first[:200]})") from error
    return file.getvalue()


def _read(content: bytes, kind: Kind) -> Any:
    file = io.BytesIO(content)
    return torch.jit.load(file) if kind == "torchscript" else torch.export.load(file).module()


def _difference(encoder: Encoder, written: Any, image: Tensor) -> float:
    """How far two networks' answers lie apart, as a share of the largest."""
    expected = encoder(image)
    try:
        found = written(image)
    except Exception as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ValueError(f"what was written does not take {len(image)} images ({last[:200]})") from error
    if found.shape != expected.shape:
        raise ValueError(f"what was written answers {list(found.shape)}, where the run answers {list(expected.shape)}")
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1.0))
