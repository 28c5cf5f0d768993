"""Stopping when it is asked for: at the end of a step, with everything saved."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["Interrupt", "Interrupted"]


PATIENCE = 5.0
"""Seconds in which a second signal is taken for the first, where several processes work together: a terminal tells all
of them, and who started them tells them again."""


class Interrupted(Exception):
    """A signal asked to stop, and everything is saved.

    Args:
        number: of the signal.
        folder: of the run to go on with, where it is known.
    """

    def __init__(self, number: int, folder: Path | None = None) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.folder = folder


class Interrupt:
    """Within this context the first Ctrl-C or SIGTERM only asks to stop; the second stops at once."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.folder: Path | None = None
        """Of the run that is stopped; `fit` sets it."""
        self._before: dict[int, Any] = {}
        self._since = 0.0

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: signals are somebody else's business
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        several = "RANK" in os.environ
        if self.asked is not None:
            if several and time.monotonic() - self._since < PATIENCE:
                return  # the same once more, from whoever has started these processes
            raise KeyboardInterrupt
        self.asked, self._since = number, time.monotonic()
        if several and os.environ["RANK"] != "0":
            return  # the first process says it
        # Neither through the logger nor sys.stderr: the code that was interrupted may be in the middle of using them.
        with contextlib.suppress(OSError):  # who listened may be gone, which must not keep anything from being saved
            os.write(2, b"\nStopping: this step is finished and saved first; once more to stop at once.\n")

    def check(self) -> None:
        """Raise `Interrupted` if a signal asked to stop."""
        if self.asked is not None:
            raise Interrupted(self.asked, self.folder)
