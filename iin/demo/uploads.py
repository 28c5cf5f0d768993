"""Pictures and videos of one's own: looked at before they are decoded, and prepared as a run's images are.

What somebody uploads may be large, damaged, or something else than its name says. Every way to be so ends in one line
that says which it is. Nothing is read but the file itself: formats that only name other files, or addresses, are
refused.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence, UnidentifiedImageError
from torch import Tensor

from iin.data.decoding import decode
from iin.data.folder import SUFFIXES
from iin.demo.contract import Clip, DemoError

__all__ = ["BYTES", "FRAMES", "PICTURES", "PIXELS", "VIDEOS", "picture", "video"]

BYTES = 20 << 20
"""The most bytes of an upload."""
PIXELS = 50_000_000
"""The most pixels of a picture, or of a frame."""
FRAMES = 250
"""Frames of a video that are read, by default."""
PICTURES = tuple(sorted(suffix[1:] for suffix in SUFFIXES))
"""What names of pictures end in."""
VIDEOS = ("avi", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "webm", "zip")
"""What names of videos end in, and of pictures in a row."""
RATE = 25.0
"""Frames a second where a file does not tell."""

# By ffmpeg's names. Play lists are not among them: they name other files and addresses, which would be opened.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,ogg,mpeg,mpegts,flv"


def picture(path: str | Path, shape: tuple[int, int, int]) -> Tensor:
    """Read a picture.

    Its largest square is cut from the middle and resized. Of an animation the first picture counts; transparent parts
    are laid on white, 16 bits are scaled to 8, and a camera's turns are undone (see `iin.data.decoding.decode`).

    Args:
        path: of the file.
        shape: ``(C, H, W)`` wanted, with one channel or three.

    Returns:
        ``[1, C, H, W]`` in [-1, 1].

    Raises:
        DemoError: it cannot be used, and why.
    """
    path = Path(path)
    return _scaled(_decoded(_read(path), path.name, shape)[None])


def video(path: str | Path, shape: tuple[int, int, int], limit: int = FRAMES) -> tuple[Clip, str]:
    """Read a video; or pictures in a row, from an animation, a folder, or a zip file, by their names.

    Args:
        path: of the file or folder.
        shape: ``(C, H, W)`` of the frames wanted; of each, the largest square is taken.
        limit: frames to read.

    Returns:
        The frames, and what was left out in words, empty where nothing was.

    Raises:
        DemoError: it cannot be used, and why.
    """
    path = Path(path)
    if path.is_dir():
        return _row(_Folder(path), path.name, shape, limit)
    content = _read(path)
    if zipfile.is_zipfile(io.BytesIO(content)):
        return _row(_Zip(content, path.name), path.name, shape, limit)
    try:
        with Image.open(io.BytesIO(content)):
            pass
    except UnidentifiedImageError:
        return _film(content, path.name, shape, limit)
    except Exception:  # a picture, but one that cannot be read; it says why when it is decoded
        return Clip(_scaled(_decoded(content, path.name, shape)[None]), RATE), ""
    return _animation(content, path.name, shape, limit)


# --- files -----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    """The content of a file that is not too large."""
    try:
        if path.exists() and not path.is_file():  # a device has no end
            raise DemoError(f"{path}: not a file; expected one")
        size = path.stat().st_size
        if size > BYTES:
            raise DemoError(
                f"{path.name}: {size / (1 << 20):.0f} MB; expected at most {BYTES >> 20} MB: make it smaller"
            )
        return path.read_bytes()
    except OSError as error:
        raise DemoError(f"{path.name}: cannot be read ({error.strerror or error})") from None


class _Folder:
    """Pictures in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = _pictures(child.name for child in path.iterdir() if child.is_file())

    def read(self, name: str) -> bytes:
        return _read(self.path / name)


class _Zip:
    """Pictures in a zip file, which is not extracted."""

    def __init__(self, content: bytes, name: str) -> None:
        try:
            self.archive = zipfile.ZipFile(io.BytesIO(content))
        except zipfile.BadZipFile as error:
            raise DemoError(f"{name}: a damaged zip file ({error})") from None
        self.name = name
        self.names = _pictures(info.filename for info in self.archive.infolist() if not info.is_dir())

    def read(self, name: str) -> bytes:
        if (size := self.archive.getinfo(name).file_size) > BYTES:
            raise DemoError(f"{name}: {size / (1 << 20):.0f} MB in {self.name}; expected at most {BYTES >> 20} MB")
        try:
            with self.archive.open(name) as file:
                return file.read(BYTES)  # and no more, whatever the archive says of its size
        except Exception as error:  # damaged, encrypted, or of a method that is not known
            raise DemoError(f"{self.name}: {name} cannot be read ({' '.join(str(error).split())})") from None


def _pictures(names: Iterator[str] | Any) -> list[str]:
    """Those that are called as pictures are, in order; 10 comes after 9."""
    usual = (name for name in names if Path(name).suffix.lower() in SUFFIXES and not Path(name).name.startswith("."))
    return sorted(usual, key=_order)


def _order(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers in names by their size."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for letter in f"{name}\0":
        if letter.isascii() and letter.isdigit():
            digits += letter
            continue
        if digits:
            parts.append((0, int(digits), digits))
            digits = ""
        parts.append((1, 0, letter))
    return parts


# --- pictures --------------------------------------------------------------------------------------------------------


def _decoded(content: bytes, name: str, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture ``[C, H, W]`` uint8; its size is read, and found small enough, before it is decoded."""
    channels, height, width = shape
    _check_channels(channels)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            _check_pixels(name, *opened.size)
    except DemoError:
        raise
    except Image.DecompressionBombError:
        raise DemoError(f"{name}: more than {PIXELS:,} pixels; make it smaller") from None
    except Exception:  # `decode` finds out what it is
        pass
    side = max(height, width)
    try:
        image = decode(content, side, channels=channels)
    except ValueError as error:
        raise DemoError(f"{name}: {error}; expected a picture ({', '.join(PICTURES)})") from None
    return _middle(image, height, width)


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise DemoError(f"the run's images have {channels} channels; pictures can be uploaded for 1 (grey) or 3 (RGB)")


def _check_pixels(name: str, width: int, height: int) -> None:
    if width * height > PIXELS:
        raise DemoError(
            f"{name}: {width:,} x {height:,} pixels; expected at most {PIXELS // 1_000_000} million: make it smaller"
        )


def _middle(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a square ``[C, S, S]``, which is all of it where images are squares."""
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def _scaled(levels: np.ndarray) -> Tensor:
    """Levels as data sets answer them: the middle of what noise makes of each, in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(levels)).float().add_(0.5).div_(128).sub_(1)


# --- videos ----------------------------------------------------------------------------------------------------------


def _row(files: _Folder | _Zip, name: str, shape: tuple[int, int, int], limit: int) -> tuple[Clip, str]:
    if not files.names:
        raise DemoError(f"{name}: holds no pictures; expected files that end in {', '.join(PICTURES)}")
    frames = [_decoded(files.read(child), Path(child).name, shape) for child in files.names[:limit]]
    return _clip(frames, RATE, len(files.names), limit, "pictures")


def _animation(content: bytes, name: str, shape: tuple[int, int, int], limit: int) -> tuple[Clip, str]:
    """The pictures of an animated file, or the only one."""
    frames: list[np.ndarray] = []
    with Image.open(io.BytesIO(content)) as opened:
        total = int(getattr(opened, "n_frames", 1))
        if total == 1:
            return Clip(_scaled(_decoded(content, name, shape)[None]), RATE), ""
        _check_channels(shape[0])
        _check_pixels(name, *opened.size)
        try:
            rests = []
            for frame in islice(ImageSequence.Iterator(opened), limit):
                rests.append(float(frame.info.get("duration") or 0))
                frames.append(_fitted(frame.convert("RGBA"), shape))
        except Exception as error:  # decoders raise whatever the damage leads to
            if not frames:
                raise DemoError(f"{name}: damaged ({' '.join(str(error).split())})") from None
            total = len(frames)
    rest = sum(rests) / len(rests)  # milliseconds
    return _clip(frames, 1000 / rest if rest else RATE, total, limit, "pictures")


def _film(content: bytes, name: str, shape: tuple[int, int, int], limit: int) -> tuple[Clip, str]:
    """The frames of a video file."""
    av = _av()
    _check_channels(shape[0])
    frames: list[np.ndarray] = []
    more = False
    try:
        with av.open(io.BytesIO(content), options={"format_whitelist": _FORMATS}) as file:
            if not file.streams.video:
                raise DemoError(f"{name}: has no pictures in it; expected a video")
            stream = file.streams.video[0]
            _check_pixels(name, stream.codec_context.width, stream.codec_context.height)
            rate = float(stream.average_rate or RATE)
            seconds = file.duration / av.time_base if file.duration else 0.0
            try:
                for frame in file.decode(stream):
                    if len(frames) == limit:
                        more = True
                        break
                    frames.append(_fitted(_upright(frame), shape))
            except av.error.FFmpegError:  # cut off: what came before can be seen
                if not frames:
                    raise
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, DemoError):
            raise
        raise DemoError(f"{name}: no video that can be read; expected one of {', '.join(VIDEOS)}") from None
    if not frames:
        raise DemoError(f"{name}: a video without frames")
    rate = rate if 1 <= rate <= 120 else RATE
    total = max(round(seconds * rate), limit + 1) if more else len(frames)
    return _clip(frames, rate, total, limit, "frames")


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise DemoError("videos are read and written by the package av; install it: pip install 'iin[demo]'") from None
    return av


def _upright(frame: Any) -> Image.Image:
    """A frame as a picture, turned as the camera was."""
    image = frame.to_image()
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise
    return image.rotate(90 * turns, expand=True) if turns else image


def _fitted(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """The largest square of a picture, resized as `decode` does: ``[C, H, W]`` uint8."""
    channels, height, width = shape
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    side, large = min(image.size), max(height, width)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    levels = np.asarray(image.resize((large, large), Image.Resampling.BILINEAR, box=box))
    return _middle(levels.reshape(large, large, channels).transpose(2, 0, 1), height, width)


def _clip(frames: list[np.ndarray], rate: float, total: int, limit: int, what: str) -> tuple[Clip, str]:
    said = ""
    if total > len(frames):
        seconds = f" ({_time(total / rate)} in all)" if what == "frames" else ""
        said = f"The first {len(frames)} of {'about ' if what == 'frames' else ''}{total:,} {what}{seconds} are used."
    return Clip(_scaled(np.stack(frames)), rate), said


def _time(seconds: float) -> str:
    """A length in words."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02} minutes"
