"""Images of all combinations of factors, in one file: of numpy (``.npz``) or HDF5 (``.h5``).

Such files are large. An array that a ``.npz`` holds as it is gets mapped into memory where it lies; one that is
compressed is unpacked once into a file below the cache folder, and is mapped from there, unless it is small.
"""

from __future__ import annotations

import logging
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from iin.arrays import Mapped, Unwritable, opened, shown, write
from iin.data import sources
from iin.data.factors import Grid, Split
from iin.data.memory import digest, resize
from iin.files import cache_folder

__all__ = ["Bank", "Filed", "find", "open_file"]

log = logging.getLogger("iin")

SMALL = 256 * 10**6
"""Bytes up to which a compressed array is read into memory."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError, EOFError, OSError, ValueError)
"""What reading a damaged archive may end in; the header of an array is a line of Python."""
_PIECE = 16 * 10**6
"""Bytes that are unpacked at once."""


def find(what: str, root: str | Path | None, names: Sequence[str], inside: Sequence[str], page: str) -> Path:
    """Where the file of a data set is.

    Args:
        what: name of the data set, for messages.
        root: folder to look in, or the file itself; without it, the folders of `iin.data.sources`.
        names: that the file may have, best first.
        inside: sub-folders that are looked into as well.
        page: where it can be had.

    Raises:
        Missing: it is nowhere; these files are too large to be fetched without asking.
    """
    places = sources.folders(root)
    if root is not None and places[0].is_file():
        return places[0]
    for place in places:
        for folder in (place, *(place / name for name in inside)):
            for name in names:
                if (folder / name).is_file():
                    return folder / name
    raise sources.Missing(f"{what}: not found: put {' or '.join(names)} into {places[0]} (from {page})")


class _Npz:
    """The arrays of a ``.npz``; arguments and errors are those of `open_file`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        except (zipfile.BadZipFile, OSError) as error:
            raise _damaged(path, error) from None
        self.keys = list(self.members)

    def about(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        with self._member(key) as file:
            shape, _, dtype = _header(self.path, key, file)
        return shape, dtype

    @contextmanager
    def _member(self, key: str) -> Iterator[IO[bytes]]:
        """One file of the archive; that it cannot be opened is told as damage."""
        with zipfile.ZipFile(self.path) as archive:
            try:
                file = archive.open(self.members[key])
            except (*_DAMAGE, RuntimeError, NotImplementedError) as error:  # it is encrypted, or packed as none can
                raise _damaged(self.path, error) from None
            with file:
                yield file

    def stamp(self, key: str) -> str:
        return f"{self.members[key].CRC} {self.members[key].file_size}"

    def mapped(self, key: str) -> np.ndarray | None:
        """The array where it lies in the file; None where it is compressed."""
        info = self.members[key]
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        with self.path.open("rb") as file:
            file.seek(info.header_offset + 26)  # lengths of the name and of what else is said, before the content
            lengths = file.read(4)
            file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
            start = file.tell()
            shape, fortran, dtype = _header(self.path, key, file)
            if fortran:
                return None
            if info.file_size != file.tell() - start + math.prod(shape) * dtype.itemsize:
                raise _damaged(self.path, ValueError(f"{key} is cut off"))
            # Copy on write, as torch wants memory that it may write to.
            return np.memmap(self.path, dtype, "c", file.tell(), shape)

    def whole(self, key: str) -> np.ndarray:
        try:
            with self._member(key) as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except _DAMAGE as error:
            raise _damaged(self.path, error) from None

    def pieces(self, key: str, size: int) -> Iterator[np.ndarray]:
        """``size`` rows at a time."""
        with self._member(key) as file:
            shape, fortran, dtype = _header(self.path, key, file)
            if fortran:
                raise ValueError(f"{self.path}: {key} is stored column by column; save it with numpy.ascontiguousarray")
            row = math.prod(shape[1:]) * dtype.itemsize
            for start in range(0, shape[0], size):
                wanted = min(size, shape[0] - start) * row
                try:
                    content = file.read(wanted)
                except _DAMAGE as error:
                    raise _damaged(self.path, error) from None
                if len(content) < wanted:
                    raise _damaged(self.path, ValueError(f"{key} is cut off"))
                yield np.frombuffer(bytearray(content), dtype).reshape(-1, *shape[1:])


class _H5:
    """The arrays of a HDF5 file; arguments and errors are those of `open_file`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.opened() as file:
            self.keys = list(file)

    def opened(self) -> Any:
        try:
            import h5py
        except ImportError:
            raise ValueError(
                f"{self.path}: reading HDF5 needs h5py: pip install h5py; or save its arrays under the same names "
                "in a .npz"
            ) from None
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise _damaged(self.path, error) from None

    def about(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        with self.opened() as file:
            return tuple(file[key].shape), file[key].dtype

    def stamp(self, key: str) -> str:
        stat = self.path.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def mapped(self, key: str) -> np.ndarray | None:
        return None

    def whole(self, key: str) -> np.ndarray:
        with self.opened() as file:
            return np.asarray(file[key][()])

    def pieces(self, key: str, size: int) -> Iterator[np.ndarray]:
        with self.opened() as file:
            for start in range(0, len(file[key]), size):
                yield np.asarray(file[key][start : start + size])


def open_file(path: Path) -> _Npz | _H5:
    """Open a file of arrays, by its ending: ``.h5`` and ``.hdf5`` are HDF5, all others numpy's.

    Raises:
        ValueError: it is none, or it is HDF5 and h5py is not installed.
    """
    return _H5(path) if path.suffix.lower() in (".h5", ".hdf5") else _Npz(path)


def _damaged(path: Path, error: Exception) -> ValueError:
    try:
        with path.open("rb") as file:
            found = sources.no_data(file.read(512))
    except OSError as unreadable:
        return ValueError(f"{path}: cannot be read ({unreadable.strerror or unreadable})")
    reason = found or " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{path}: damaged, or no file of arrays ({reason}); fetch it again")


def _header(path: Path, key: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index moves fastest, and type of an array; what follows are its values."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except _DAMAGE as error:
        raise _damaged(path, error) from None
    if dtype.hasobject:
        raise ValueError(f"{path}: {key} holds pickled objects, which may run code, and is not read")
    return shape, fortran, dtype


class Bank:
    """Images in a file, indexed like a uint8 tensor ``[N, H, W]`` or ``[N, H, W, C]``; only what is asked for is read.

    Args:
        path: the file; see `open_file`.
        key: name of the array.

    Raises:
        ValueError: the file has no such array, or these are no images of bytes.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        file = open_file(path)
        if key not in file.keys:
            raise ValueError(f"{path}: holds {', '.join(file.keys) or 'nothing'}; expected {key}, uint8 [N, H, W, C]")
        self.shape, dtype = file.about(key)
        if dtype != np.uint8 or len(self.shape) not in (3, 4) or (len(self.shape) == 4 and self.shape[3] not in (1, 3)):
            raise ValueError(
                f"{path}: {key} is {dtype} {list(self.shape)}; expected uint8 [N, H, W, 3], or [N, H, W] of grey images"
            )
        if not math.prod(self.shape[1:]):
            raise ValueError(f"{path}: {key} is uint8 {list(self.shape)}; expected images of at least one pixel")
        self.stamp = f"{key} {file.stamp(key)} {self.shape}"
        self._array: Tensor | Mapped | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Images of some rows: ``[B]`` int64 -> ``[B, C, H, W]`` uint8."""
        array = self._open()
        found = array[rows % len(array)]  # fewer are there in a rehearsal only
        return (found[..., None] if found.ndim == 3 else found).permute(0, 3, 1, 2)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}  # other processes open it themselves

    def make_ready(self, check: Callable[[], None] | None = None) -> None:
        """Unpack the array, where that was not done before."""
        self._open(check)

    def _open(self, check: Callable[[], None] | None = None) -> Tensor | Mapped:
        if self._array is None or len(self._array) < len(self):
            file = open_file(self.path)
            mapped = file.mapped(self.key)
            if mapped is not None:
                self._array = torch.from_numpy(mapped)
            elif math.prod(self.shape) <= SMALL:
                self._array = torch.from_numpy(np.ascontiguousarray(file.whole(self.key)))
            else:
                self._array = self._unpacked(file, check)
        return self._array

    def _unpacked(self, file: _Npz | _H5, check: Callable[[], None] | None) -> Tensor | Mapped:
        """The array in a file of its own below the cache folder, made where it is missing."""
        path = cache_folder() / "banks" / f"{digest(str(self.path.resolve()), self.key)[:32]}.pixels"
        about = {"bank": self.stamp}
        if (found := opened(path, about, self.shape, torch.uint8)) is not None:
            return found
        size = max(1, _PIECE // math.prod(self.shape[1:]))
        if sources.rehearsing():  # which leaves nothing behind: the first images stand for all
            return torch.from_numpy(next(file.pieces(self.key, size)))
        log.info("%s is unpacked into %s, %s, this once", self.path, path, shown(math.prod(self.shape)))

        def pieces() -> Iterator[Tensor]:
            for piece in file.pieces(self.key, size):
                if check is not None:
                    check()
                yield torch.from_numpy(piece)

        try:
            return write(path, about, self.shape, torch.uint8, pieces())
        except Unwritable as error:
            raise ValueError(f"{self.path}: cannot be unpacked ({error}); make room, or set IIN_CACHE") from error


class Filed(Grid):
    """Images of all combinations of factors in a file, the last factor moving fastest.

    Args:
        bank: the images, in that order.
        sizes: of the factors.
        names: of the factors.
        split, test_share, seed: see `Grid`.
        size: height and width in pixels; resized bilinearly if the file's are others.
        white: level that counts as white: 255, or 1 where images are of zeros and ones.

    Raises:
        ValueError: there are more or fewer images than combinations, or an argument makes no sense.
    """

    def __init__(
        self,
        bank: Bank,
        sizes: Sequence[int],
        names: Sequence[str],
        split: Split,
        test_share: float,
        seed: int,
        size: int,
        white: int = 255,
    ) -> None:
        if math.prod(sizes) != len(bank):
            product = " x ".join(map(str, sizes))
            raise ValueError(
                f"{bank.path}: {len(bank):,} images in {bank.key}, but factors of {product} values have "
                f"{math.prod(sizes):,} combinations; expected one image for each"
            )
        super().__init__(sizes, names, split, test_share, seed)
        if size < 1:
            raise ValueError(f"size: expected at least 1 pixel, found {size}")
        self.bank, self.size, self._white = bank, size, white
        self.source = str(bank.path)
        self.fingerprint = digest(f"{type(self).__name__} {size} {bank.stamp} {split} {test_share} {seed}")

    def make_ready(self, check: Callable[[], None] | None = None) -> None:
        """Unpack the images, where that was not done before.

        Args:
            check: called now and then; what it raises ends the work.
        """
        self.bank.make_ready(check)

    def draw(self, factors: Tensor) -> Tensor:
        """Images ``[B, C, size, size]`` of factors ``[B, F]`` that are in range."""
        level = self.bank[self.index(factors)]
        if self._white != 255:
            if level.numel() and (most := int(level.max())) > self._white:
                raise ValueError(
                    f"{self.bank.path}: {self.bank.key} has pixels of {most}; expected 0 to {self._white}, as the "
                    "published file has them"
                )
            level = level * (255 // self._white)
        return resize(level, self.size).float().div_(127.5).sub_(1)
