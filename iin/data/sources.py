"""Where files of data sets are looked for, and how those that are nowhere are fetched.

Local files come first: below ``root`` where one is given, else below ``$IIN_DATA``, else below ``$IIN_CACHE/data``
(by default ``~/.cache/iin/data``). Only what is found nowhere is downloaded, into the first of these folders, and never
with a question asked. ``IIN_OFFLINE=1`` forbids all downloads; `offline` does so for a stretch of code.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from iin.files import data_folders, write_atomically

__all__ = ["Missing", "Remote", "fetch", "folders", "no_data", "offline", "rehearsing"]

log = logging.getLogger("iin")

_TIMEOUT = 30.0
"""Seconds without an answer after which a server is given up."""
_rehearsals = 0
"""How many `offline` blocks are open."""


class Missing(FileNotFoundError):
    """Files of a data set are nowhere to be found; the message says which go where.

    Args:
        message: one line.
        fetchable: they would be downloaded, were it not forbidden at the moment.
    """

    def __init__(self, message: str, fetchable: bool = False) -> None:
        super().__init__(message)
        self.fetchable = fetchable


class Remote(NamedTuple):
    """A file that can be downloaded."""

    name: str
    md5: str
    urls: tuple[str, ...]
    """Tried in turn."""


def no_data(content: bytes) -> str | None:
    """What a file holds that holds no data at all, whatever its name says: nothing, or a web page; None otherwise."""
    if not content:
        return "empty file"
    if content[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, as sites send when a file has moved or a quota is used up"
    return None


def folders(root: str | Path | None) -> list[Path]:
    """Folders to look for data sets in, best first; downloads go into the first."""
    return data_folders() if root is None else [Path(root).expanduser()]


def rehearsing() -> bool:
    """Whether this is within `offline`: nothing that takes time or room is to be made."""
    return _rehearsals > 0


@contextmanager
def offline() -> Iterator[None]:
    """Make downloads an error within: `Missing`, with ``fetchable`` set and "would be downloaded" in its message.

    For rehearsals, which must leave nothing behind.
    """
    global _rehearsals
    _rehearsals += 1
    try:
        yield
    finally:
        _rehearsals -= 1


def fetch(what: str, files: Sequence[Remote], folder: Path, *, download: bool = True) -> None:
    """Download files into a folder, each checked by its MD5 and put in place whole or not at all.

    Args:
        what: name of the data set, for messages.
        files: those that are missing.
        folder: made when needed.
        download: whether the data set was asked to download at all.

    Raises:
        Missing: downloads are forbidden, or none of a file's addresses gave it; the message says which files go where.
    """
    names = " and ".join(file.name for file in files)
    by_hand = f"put {names} into {folder} (from {', '.join(file.urls[0] for file in files)})"
    if os.environ.get("IIN_OFFLINE", "0") not in ("", "0"):
        raise Missing(f"{what}: not found, and IIN_OFFLINE forbids to download it: {by_hand}")
    if not download:
        raise Missing(f"{what}: not found, and download is false: {by_hand}")
    if _rehearsals:
        raise Missing(f"{what}: not here yet, would be downloaded; or {by_hand}", fetchable=True)
    for file in files:
        complaints = []
        for url in file.urls:
            try:
                _fetch(url, folder / file.name, file.md5)
                break
            except (OSError, ValueError) as error:  # of the network, the disk, or the content
                complaints.append(f"{url}: {' '.join(str(error).split()) or type(error).__name__}")
        else:
            raise Missing(f"{what}: could not be downloaded ({'; '.join(complaints)}): {by_hand}")


def _fetch(url: str, path: Path, md5: str) -> None:
    """Download one file, under another name until its content is known to be right."""
    import urllib.request  # not needed in most runs

    log.info("downloading %s to %s", url, path)
    total = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
        path.parent.mkdir(parents=True, exist_ok=True)  # not before somebody answers
        with write_atomically(path) as file:
            while piece := answer.read(1 << 20):
                total.update(piece)
                file.write(piece)
            if total.hexdigest() != md5:
                raise ValueError(f"its MD5 is {total.hexdigest()}, expected {md5}")
