"""What a demo shows as files: PNG, WebP, MP4 and JSON, the same for the page's downloads and for the command line."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from iin import pictures
from iin.demo.contract import Clip, Demo, DemoError, Shown
from iin.files import write_atomically
from iin.system import Picture

__all__ = ["called", "film", "notes", "png", "save"]

Shows = TypeVar("Shows", Picture, Clip)

SIDE = 256
"""Frames with shorter sides are enlarged by a whole factor, each pixel a square, to about this many pixels."""
CODECS = ("libx264", "libopenh264", "libvpx-vp9", "mpeg4")
"""The first of these that is there is used; browsers play all but the last."""


def png(picture: Picture) -> bytes:
    """A picture as a PNG file."""
    file = io.BytesIO()
    pictures.draw(picture).save(file, format="PNG")
    return file.getvalue()


def film(clip: Clip) -> bytes:
    """A clip as an MP4 file: H.264 where there is an encoder for it.

    Raises:
        DemoError: the package av is not here, or has no encoder.
    """
    try:
        import av
    except ImportError:
        raise DemoError("videos are read and written by the package av; install it: pip install 'iin[demo]'") from None
    codec = next((name for name in CODECS if name in av.codecs_available), None)
    if codec is None:
        raise DemoError(f"av can write none of {', '.join(CODECS)}; install another build of it: pip install av")
    frames = pictures.levels(clip.frames.detach())  # [T, H, W, 3]
    factor = max(1, round(SIDE / max(frames.shape[1:3])))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # colours are halved
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"crf": "16"} if codec == "libx264" else {}
        stream: Any = container.add_stream(codec, rate=max(1, round(clip.rate)), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        if codec != "libx264":
            stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def notes(demo: Demo, values: Mapping[str, Any], shown: Shown) -> bytes:
    """What was chosen, said and measured, as JSON; a figure that is not finite is null."""
    content = {
        "demo": demo.name,
        "title": demo.title,
        "values": {name: value if isinstance(value, int | float) else _words(value) for name, value in values.items()},
        "lines": shown.lines,
        "pictures": {
            f"{stem}.png": {
                "title": picture.title or name,
                "caption": picture.caption,
                "rows": picture.labels,
                **({"columns": picture.heads} if picture.heads else {}),
                **({"moving": f"{stem}.webp"} if picture.loop is not None and pictures.moves() else {}),
            }
            for name, (stem, picture) in called(demo, shown.pictures).items()
        },
        "figures": {name: value if math.isfinite(value) else None for name, value in shown.figures.items()},
    }
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def called(demo: Demo, found: Mapping[str, Shows]) -> dict[str, tuple[str, Shows]]:
    """What to call the files of pictures or clips: several demos may be written into one folder.

    Returns:
        name -> stem and the picture or clip.
    """
    return {name: (f"{demo.name}_{stem}", found[name]) for name, stem in pictures.stems(found).items()}


def _words(value: Any) -> str | None:
    return None if value is None else str(value)


def save(folder: Path, demo: Demo, values: Mapping[str, Any], shown: Shown) -> list[Path]:
    """Write all that is shown: ``<demo>_<picture>.png``, ``<demo>_<clip>.mp4``, ``<demo>.json`` for all in words.

    What moves of a picture is an animation beside it, ``<demo>_<picture>.webp``.

    Args:
        folder: where; made when missing. Files of the same names are replaced, each whole or not at all.
        demo: what was shown.
        values: for which choice.
        shown: its answer.

    Returns:
        The files.

    Raises:
        OSError: one cannot be written.
        DemoError: a clip, where it cannot be written as a video.
    """
    contents = {f"{stem}.mp4": film(clip) for stem, clip in called(demo, shown.clips).values()}
    contents[f"{demo.name}.json"] = notes(demo, values, shown)
    named = called(demo, shown.pictures)
    files = pictures.write(
        folder, {stem: picture._replace(title=picture.title or name) for name, (stem, picture) in named.items()}
    )
    for name, content in contents.items():
        with write_atomically(folder / name) as file:
            file.write(content)
        files.append(folder / name)
    return files
