"""Pairs of images that differ in one latent: made by a system, written as files, and read again."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from iin.arrays import lacking, shown
from iin.files import write_atomically
from iin.metrics.contract import decodes, represented

__all__ = [
    "VariedPairs",
    "check_folder",
    "check_pairs",
    "collect",
    "draw_pairs",
    "latents_of",
    "read_labels",
    "read_pairs",
    "write_pairs",
]

LABELS = "labels.npy"
_NAME = re.compile(r"pair_(\d{6,})\.jpg")

TRIES = 100
"""Draws after which a latent that is always the same is given up."""


class VariedPairs(NamedTuple):
    """Pairs of images that differ in one latent each."""

    first: Tensor
    """8-bit levels ``[N, C, H, W]``: uint8, ``round(127.5 (x + 1))`` of images x in [-1, 1]."""
    second: Tensor
    """The same, changed."""
    delta: Tensor
    """Latents of the first less those of the second ``[N, L]``: float64."""


# --- made by a system ------------------------------------------------------------------------------------------------


class Latents(NamedTuple):
    """What a system says of its latents."""

    dim: int
    """Numbers that it decodes."""
    discrete: int
    """The first so many of them name a class, and are the same in both images of a pair."""
    draw: Callable[[int, torch.Generator], Tensor]
    """``n`` latents ``[n, dim]``."""
    decode: Callable[..., Tensor]
    """Images of latents, and for a conditional flow of contexts."""

    @property
    def varied(self) -> int:
        """How many of them can be varied."""
        return self.dim - self.discrete


def latents_of(system: Any) -> Latents:
    """What can be varied of a system.

    It has ``decode(z)``, or ``sample`` with an argument ``z``; ``dim``, its own or its model's. Latents come from
    ``latents(n, generator)``, else from the standard normal; ``discrete`` of them, by default none, name a class.

    Raises:
        ValueError: it cannot decode, does not say how many latents it has, or has fewer than two.
    """
    name = type(system).__name__
    decode = _decoder(system)
    if decode is None:
        raise ValueError(f"pairs need a system with decode(z), or sample(z=...); {name} has neither")
    if not decodes(system):
        raise ValueError(f"pairs need images, but this {name} has no decoder; leave it out")
    dim = _dim(system)
    if dim is None:
        raise ValueError(f"pairs need to know the number of latents; {name} has no attribute dim")
    discrete = int(getattr(system, "discrete", 0) or 0)
    if dim - discrete < 2:
        raise ValueError(f"pairs need at least 2 latents, to tell them apart; this {name} has {dim - discrete}")

    def normal(n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, dim, generator=generator)

    own = getattr(system, "latents", None)
    return Latents(dim, discrete, own if callable(own) else normal, decode)


def _dim(system: Any) -> int | None:
    """The number of a system's latents, if it or its model tells."""
    found = (getattr(part, "dim", None) for part in (system, getattr(system, "model", None)))
    return next((dim for dim in found if isinstance(dim, int)), None)


def _decoder(system: Any) -> Callable[..., Tensor] | None:
    if callable(decode := getattr(system, "decode", None)):
        return decode
    sample = getattr(system, "sample", None)
    if callable(sample) and "z" in inspect.signature(sample).parameters:
        return lambda z, *context: sample(z=z)
    return None


@torch.no_grad()
def draw_pairs(
    system: nn.Module,
    count: int,
    generator: torch.Generator,
    *,
    batch_size: int = 100,
    batches: Iterable[Any] = (),
) -> Iterator[VariedPairs]:
    """Make pairs, a few at a time: one latent, at random, is drawn anew, and all others are kept.

    Args:
        system: in eval mode; see `latents_of`.
        count: of pairs.
        generator: of latents, on the CPU. How many are made at a time has a say in which they are.
        batch_size: pairs at a time.
        batches: of a conditional flow, whose test images' representations are taken in turn, the same for both images.

    Yields:
        Pairs, on the CPU.

    Raises:
        ValueError: the system cannot decode, or draws a latent always the same; its images are no images, or not
            finite; or a batch size of 0.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
    about = latents_of(system)
    device = next((p.device for p in system.parameters()), torch.device("cpu"))
    contexts = _contexts(system, batches, batch_size) if getattr(system, "conditional", False) else None
    done = 0
    while done < count:
        size = min(batch_size, count - done)
        context: tuple[Tensor, ...] = ()
        if contexts is not None:
            context = (next(contexts)[:size],)
            size = len(context[0])
        z, anew = (about.draw(size, generator).detach() for _ in range(2))
        if tuple(z.shape) != (size, about.dim):
            raise ValueError(
                f"pairs: {type(system).__name__}.latents answered {list(z.shape)}, expected {[size, about.dim]}"
            )
        which = about.discrete + torch.randint(about.varied, (size,), generator=generator).to(z.device)[:, None]
        old, new = z.gather(1, which), anew.gather(1, which)
        for _ in range(TRIES):  # single precision repeats itself, once in some million draws
            if not (same := old == new).any():
                break
            new = torch.where(same, about.draw(size, generator).detach().gather(1, which), new)
        else:
            latent = int(which[same.nonzero()[0, 0]])
            raise ValueError(f"pairs: {type(system).__name__}.latents draws number {latent} always the same")
        varied = z.scatter(1, which, new)
        first, second = (_levels(about.decode(part.to(device), *context), size) for part in (z, varied))
        yield VariedPairs(first, second, (z.double() - varied.double())[:, about.discrete :].cpu())
        done += size


def _contexts(system: nn.Module, batches: Iterable[Any], size: int) -> Iterator[Tensor]:
    """Representations of test images, a few at a time, again and again."""
    while True:
        some = False
        for batch in batches:
            for part in represented(system, batch)[0].split(size):
                some = True
                yield part
        if not some:
            raise ValueError("pairs of a conditional flow need test images, and there are none")


def _levels(image: Tensor, count: int) -> Tensor:
    """8-bit levels as pairs are published with, which are not rounded as `iin.models.features.levels` does."""
    if image.ndim != 4 or len(image) != count:
        raise ValueError(f"pairs: decoding answered {list(image.shape)}, expected images [{count}, C, H, W]")
    if not image.isfinite().all():  # rounding would hide it
        raise ValueError("pairs: images hold NaN or infinity")
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def collect(parts: Iterable[VariedPairs], count: int, memory: int = 1 << 30) -> VariedPairs:
    """Put pairs together: in memory, or where that takes more than ``memory`` bytes, in a file that has no name.

    Raises:
        ValueError: images of different sizes, or other than ``count`` pairs.
        OSError: there is no room for the file.
    """
    images: Tensor | None = None
    deltas: list[Tensor] = []
    done = 0
    for part in parts:
        if images is None:
            images = _space((2, count, *part.first.shape[1:]), memory)
        stop = done + len(part.first)
        if stop > count or part.first.shape[1:] != images.shape[2:] or part.second.shape != part.first.shape:
            raise ValueError(
                f"pairs: expected {count} pairs of images {list(images.shape[2:])}, found number {stop} of "
                f"{list(part.first.shape[1:])} and {list(part.second.shape[1:])}"
            )
        images[0, done:stop], images[1, done:stop] = part.first, part.second
        deltas.append(part.delta)
        done = stop
    if images is None or done < count:
        raise ValueError(f"pairs: expected {count} pairs, found {done}")
    return VariedPairs(images[0], images[1], torch.cat(deltas))


def _space(shape: tuple[int, ...], memory: int) -> Tensor:
    size = int(np.prod(shape))
    if size <= memory:
        return torch.empty(shape, dtype=torch.uint8)
    place = Path(tempfile.gettempdir()) / "pairs"
    if reason := lacking(place, size):
        raise OSError(f"pairs take {shown(size)}, more than memory allows, and there is no room ({reason})")
    with tempfile.TemporaryFile(dir=place.parent) as file:  # the map stays when it is closed
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="w+", shape=shape))


# --- files -----------------------------------------------------------------------------------------------------------


def check_folder(folder: str | Path) -> Path:
    """The folder that pairs shall be written to; of a link, what it leads to.

    Raises:
        ValueError: there is something already, or nowhere to write.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists already; give a folder that is new, or empty")
    if folder.is_symlink():
        folder = folder.resolve()
    # An empty folder is replaced, which these do not bear.
    if folder.is_dir() and (os.path.ismount(folder) or folder.samefile(".")):
        what = "a disk of its own" if os.path.ismount(folder) else "the current folder"
        raise ValueError(f"{folder}: is {what}; give a new folder in it")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"{folder}: there is no folder {folder.parent}; make it first")
    if not os.access(folder.absolute().parent, os.W_OK):
        raise ValueError(f"{folder}: no folder can be made in {folder.parent}")
    return folder


def write_pairs(folder: str | Path, parts: Iterable[VariedPairs]) -> tuple[int, int]:
    """Write pairs in the published layout: ``pair_000000.jpg`` ..., both images side by side, and ``labels.npy``.

    JPEGs have the quality that Pillow gives by default, and are grey where the images are; labels are the differences
    of latents ``[N, L]``, float64. The folder takes its place when it is whole.

    Args:
        folder: new, or empty.
        parts: pairs, such as `draw_pairs` makes; they are written as they come.

    Returns:
        Number of pairs, and of latents.

    Raises:
        ValueError: the folder cannot be had, there are no pairs, or images have neither 1 nor 3 channels or are no
            levels.
    """
    folder = check_folder(folder)
    around = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.absolute().parent))
    try:
        deltas, number = [], 0
        for part in parts:
            if part.first.shape[1] not in (1, 3):
                raise ValueError(
                    f"{folder}: JPEGs are grey or RGB, but images have {part.first.shape[1]} channels; expected 1 or 3"
                )
            if part.first.dtype != torch.uint8 or part.second.dtype != torch.uint8:
                raise ValueError(
                    f"{folder}: expected images as uint8 levels, found {part.first.dtype} and {part.second.dtype}"
                )
            side_by_side = torch.cat((part.first, part.second), 3).permute(0, 2, 3, 1).numpy()  # [B, H, 2W, C]
            for pixels in side_by_side:
                Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
                    around / f"pair_{number:06d}.jpg"
                )
                number += 1
            deltas.append(part.delta)
        if not number:
            raise ValueError(f"{folder}: there are no pairs to write")
        labels = torch.cat(deltas).double().numpy()
        with write_atomically(around / LABELS) as file:
            np.save(file, labels)
        around.chmod(0o755)
        os.replace(around, folder)  # an empty folder makes room
    except BaseException:
        shutil.rmtree(around, ignore_errors=True)
        raise
    return labels.shape[0], labels.shape[1]


def read_labels(folder: str | Path) -> np.ndarray:
    """Differences of latents ``[N, L]`` of a folder of pairs.

    Raises:
        ValueError: no such folder, no labels in it, labels of another kind, NaN, or a row without a difference.
    """
    folder = Path(folder).expanduser()
    path = folder / LABELS
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one of pairs, such as iin-pairs writes")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the differences of latents of each pair [N, L]")
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "fiu" or not found.size:
        what = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else "an archive"
        raise ValueError(f"{path}: expected differences of latents [N, L], found {what}")
    if found.shape[1] < 2:
        raise ValueError(f"{path}: differences of {found.shape[1]} latent; expected at least 2, to tell them apart")
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
        raise ValueError(f"{path}: NaN or infinity, first in row {row}; expected differences of latents, all finite")
    if same := np.flatnonzero(~found.any(1)).tolist():
        raise ValueError(
            f"{path}: {len(same)} of {len(found)} rows are all zero, first row {same[0]}; expected a latent that "
            "differs in each pair"
        )
    return found


def check_pairs(folder: str | Path, latents: int | None = None) -> np.ndarray:
    """See that a folder has an image for each row of its labels, and labels of this many latents, which are returned.

    Raises:
        ValueError: it has not.
    """
    folder = Path(folder).expanduser()
    labels = read_labels(folder)
    if latents not in (None, labels.shape[1]):
        raise ValueError(
            f"{folder}: {LABELS} is of {labels.shape[1]} latents, but the system has {latents}; expected pairs of this "
            "system (in Python, iin.metrics.variation.score(*read_pairs(folder)) measures any)"
        )
    there = {int(match[1]) for name in os.listdir(folder) if (match := _NAME.fullmatch(name))}
    count = len(labels)
    if there and max(there) >= count:
        raise ValueError(
            f"{folder}: {LABELS} has {count} rows, but there is pair_{max(there):06d}.jpg; expected a row for each of "
            f"the images, {max(there) + 1}"
        )
    if missing := sorted(set(range(count)) - there):
        few = ", ".join(f"pair_{number:06d}.jpg" for number in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{folder}: {len(missing)} of {count} images are missing: {few}{more}; expected one for each row "
            f"of {LABELS}"
        )
    return labels


def read_pairs(folder: str | Path, *, latents: int | None = None, memory: int = 1 << 30) -> VariedPairs:
    """Read pairs in the published layout, whoever has written them.

    Args:
        folder: with ``pair_000000.jpg`` ... and ``labels.npy``.
        latents: that it should be of.
        memory: bytes that images may take; more are kept in a file without a name.

    Returns:
        Pairs in RGB: grey pictures have three equal channels.

    Raises:
        ValueError: the folder lacks images, labels are of another length or number, or images cannot be read or halved,
            or differ in size.
    """
    folder = Path(folder).expanduser()
    labels = torch.from_numpy(check_pairs(folder, latents).astype(np.float64))

    def parts() -> Iterator[VariedPairs]:
        size: tuple[int, ...] | None = None
        for start, stop in pairwise([*range(0, len(labels), 100), len(labels)]):
            images = []
            for number in range(start, stop):
                path = folder / f"pair_{number:06d}.jpg"
                pixels = _decoded(path)
                size = size or pixels.shape
                if pixels.shape != size or size[1] % 2:
                    raise ValueError(
                        f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels; expected two images side by side, of the "
                        f"size of all others, {size[1] // 2 * 2}x{size[0]} together"
                    )
                images.append(torch.from_numpy(pixels).permute(2, 0, 1))
            both = torch.stack(images)
            first, second = both.chunk(2, 3)
            yield VariedPairs(first, second, labels[start:stop])

    return collect(parts(), len(labels), memory)


def _decoded(path: Path) -> np.ndarray:
    """A picture as RGB levels ``[H, W, 3]``."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({' '.join(str(error).split())[:200]})") from error
