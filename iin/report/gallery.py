"""The pictures of a run's folder, as figures of the page."""

from __future__ import annotations

import base64
import contextlib
import io
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from PIL import Image, features

from iin import pictures

__all__ = ["LAST", "MOVING", "figure", "find", "ordered", "place"]

HEAVY = 100_000
"""Bytes beyond which a picture is embedded as lossy WebP, where that is smaller. The folder has it as it was made."""
WIDEST = 1100
"""Pixels: such a picture is reduced to this width, about twice what the page shows."""
MOVING = " in motion"
"""Behind a picture's name, that of the animation; no picture's own name has a space."""
_KINDS = {".png": "", ".webp": MOVING}


def find(folder: Path) -> dict[str, Path]:
    """The newest picture of each name; of the same step, that of an evaluation by hand, which came later.

    What moves is called as its still is, and `MOVING` besides.
    """
    found: dict[str, tuple[int, Path]] = {}
    files = [(path, path.stem) for kind in _KINDS for path in sorted(folder.glob(f"images/*{kind}"))]
    files += [
        (path, f"{path.stem}_{path.parent.name}")
        for kind in _KINDS
        for path in sorted(folder.glob(f"eval/step-*/*{kind}"))
    ]
    for path, label in files:
        if match := re.fullmatch(r"(.+)_step-(\d+)", label):
            name, step = match[1] + _KINDS[path.suffix], int(match[2])
            if step >= found.get(name, (-1, path))[0]:
                found[name] = step, path
    return {name: path for name, (_, path) in sorted(found.items())}


def ordered(names: Iterable[str], kind: str, factors: Iterable[str]) -> list[str]:
    """The names of one kind (``swap``, ``line``): those of the factors in their order, then the others.

    Args:
        names: of pictures.
        kind: what their names begin with, before ``_`` and the factor.
        factors: names of the factors, as the system calls them.
    """
    wanted = pictures.stems(f"{kind}_{factor}" for factor in factors).values()
    there = sorted(name for name in names if name == kind or name.startswith(f"{kind}_"))
    return [name for name in wanted if name in there] + [name for name in there if name not in wanted]


def place(name: str) -> tuple[int, str]:
    """What pictures are sorted by where no factors order them: what the model keeps of images comes first, then what
    its codes do, and last what hardly tells models apart."""
    still = name.removesuffix(MOVING)
    return (-1 if still == "reconstructions" else 1 + LAST.index(still) if still in LAST else 0), name


LAST = ("fixed_samples", "samples", "inputs")
"""Pictures of these names come last."""


def figure(path: Path, kind: str = "", label: str = "") -> str:
    """A figure with the picture inside it; nothing when the file is no sound PNG, nor a sound animation.

    Args:
        path: the file, which says itself what it shows (see `iin.pictures.save`); an animation's still says it.
        kind: class of the figure, for the style sheet.
        label: what to call it, in the place of what the file says.
    """
    if path.suffix == ".webp":
        return _moving(path, kind, label)
    try:
        content = path.read_bytes()
        if b"IEND" not in content[-12:]:
            return ""  # cut short, which the reader may forgive
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
            title, caption = (str(image.info.get(key, "")) for key in ("Title", "Description"))
            width, height = image.size
            if image.info.get("Comment") == pictures.LETTERED:
                kind = f"{kind} lettered".strip()
            mime, content = _lighter(image, content)
    except Exception:  # whatever damaged bytes make of the reader
        return ""
    return _drawn(path, kind, label, title, caption, (width, height), mime, content)


def _moving(path: Path, kind: str, label: str) -> str:
    """A figure with an animation inside it; nothing when the file is no sound one."""
    try:
        content = path.read_bytes()
        if int.from_bytes(content[4:8], "little") + 8 != len(content):
            return ""  # cut short
        with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
            image.load()
            size = image.size
            if getattr(image, "n_frames", 1) < 2:
                return ""
    except Exception:  # whatever damaged bytes make of the reader
        return ""
    title = ""
    with contextlib.suppress(Exception), Image.open(path.with_suffix(".png"), formats=["PNG"]) as still:
        title = str(still.info.get("Title", ""))
    title = f"{title or _spoken(path)}{MOVING}"
    caption = "The same, from one end to the other and back again."
    return _drawn(path, f"{kind} moving".strip(), label, title, caption, size, "image/webp", content)


def _step(path: Path) -> tuple[str, int]:
    """Name and step of a picture, by what its file and folder are called."""
    stem = path.stem if path.parent.name == "images" else f"{path.stem}_{path.parent.name}"
    name, _, step = stem.rpartition("_step-")
    return name, int(step)


def _spoken(path: Path) -> str:
    return _step(path)[0].replace("_", " ").replace("-", " ").capitalize()


def _drawn(
    path: Path, kind: str, label: str, title: str, caption: str, size: tuple[int, int], mime: str, content: bytes
) -> str:
    title = escape(label or title or _spoken(path))
    number = f"{_step(path)[1]:,}"
    below = "" if label else f"<br>{escape(caption)}"
    return (
        f'<figure class="{kind}"><img alt="{title}, step {number}" width="{size[0]}" height="{size[1]}" '
        f'src="data:{mime};base64,{base64.b64encode(content).decode()}">'
        f"<figcaption><b>{title}</b> <span>step {number}</span>{below}</figcaption></figure>"
    )


def _lighter(image: Image.Image, content: bytes) -> tuple[str, bytes]:
    """Type and bytes of what is embedded: a heavy picture, such as a grid of photographs, with some loss."""
    if len(content) > HEAVY and features.check("webp"):
        small = image.convert("RGB")
        small.thumbnail((WIDEST, 4 * WIDEST), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=85)
        if buffer.tell() < len(content):
            return "image/webp", buffer.getvalue()
    return "image/png", content
