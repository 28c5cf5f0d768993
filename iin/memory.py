"""How much memory there is."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_memory"]


def available_memory() -> int:
    """Bytes of memory that may still be taken, of the machine and in the group of processes that this one is in."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # a guess, where nothing says better
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        inside = next(line[3:] for line in groups if line.startswith("0::"))
    except (OSError, StopIteration):
        return free
    root = Path("/sys/fs/cgroup")
    place = root / inside.lstrip("/")
    for folder in (place, *place.parents):
        try:
            limit = int((folder / "memory.max").read_text())
            free = min(free, max(0, limit - int((folder / "memory.current").read_text())))
        except (OSError, ValueError):  # no limit, or no such file
            pass
        if folder == root:
            break
    return free
