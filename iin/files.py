"""Files that are written whole or not at all, and the folder of those that can be had again."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["cache_folder", "data_folders", "write_atomically"]


def cache_folder() -> Path:
    """Where files are kept that can be made or fetched again: ``$IIN_CACHE``, else ``~/.cache/iin``."""
    return Path(os.environ.get("IIN_CACHE") or Path.home() / ".cache" / "iin")


def data_folders() -> list[Path]:
    """Folders in which files are looked for that somebody fetched, best first: ``$IIN_DATA``, and one of the cache."""
    named = os.environ.get("IIN_DATA")
    return [*([Path(named).expanduser()] if named else []), cache_folder() / "data"]


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that takes its place when the block ends, or vanishes if it fails.

    The file is synced before it is renamed, and the folder after: a crash leaves the old file or the new one.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError) and error.filename == name:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
