"""``metrics.jsonl``, the record of a run: one JSON object a line.

::

    {"step": 400, "epoch": 0, "split": "train", "loss": 12.5, "lr": 0.0005}
    {"step": 468, "epoch": 0, "split": "test", "nll/nats": 41.7, "swaps/digit/follows": 0.91}

A line holds nothing that depends on the clock, so that the file of a run that was interrupted and resumed equals that
of one that was not. A figure that is not finite is written as the text ``"nan"``, ``"inf"`` or ``"-inf"``, which JSON
has no number for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iin.files import write_atomically

__all__ = ["RESERVED", "LogError", "cut", "encode", "plain", "read", "whole_lines"]

RESERVED = ("step", "epoch", "split")
"""Keys of a line that are not figures."""


class LogError(Exception):
    """Figures cannot be recorded as they should be; the message is one line."""


def encode(step: int, epoch: int, split: str, values: Mapping[str, Any]) -> bytes:
    """One line, with its end.

    Args:
        step: number of steps done.
        epoch: in which the figures were measured, from 0.
        split: ``train`` or ``test``.
        values: figures by name; scalar tensors do too.

    Raises:
        LogError: a figure is called like one of the other keys.
    """
    if clash := [name for name in values if name in RESERVED]:
        raise LogError(f"no figure may be called {clash[0]!r}; rename it in the system or metric that returns it")
    figures = {name: plain(value) for name, value in values.items()}
    line = {"step": int(step), "epoch": int(epoch), "split": split, **figures}
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``: ``step``, ``epoch``, ``split`` and the figures, NaN and infinity as floats.

    What is no such line is passed over: a last one that is half written, one that a damaged disk left. Without a
    file there are no lines.
    """
    return [line for _, line in _lines(path) if line is not None]


def cut(path: Path, step: int) -> None:
    """Drop the lines of steps beyond ``step``, and those that are damaged; the others stay to the byte.

    Raises:
        LogError: the file cannot be written.
    """
    lines = _lines(path)
    kept = [raw for raw, line in lines if line is not None and line["step"] <= step]
    if len(kept) == len(lines):
        return
    try:
        with write_atomically(path) as file:
            file.writelines(kept)
    except OSError as error:
        raise LogError(f"{path}: lines beyond step {step} cannot be cut ({error.strerror or error})") from error


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any] | None]]:
    """Each line as it stands in the file, and what it says; None for a damaged one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [(raw, _parse(raw)) for raw in content.splitlines(keepends=True)]


def _parse(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int or line.get("split") not in ("train", "test"):
        return None
    return {key: float(value) if value in ("nan", "inf", "-inf") else value for key, value in line.items()}


def whole_lines(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


def plain(value: Any) -> int | float | str:
    """A number as JSON has it: what is not finite becomes a text."""
    if isinstance(value, int):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else str(number)
