"""What tests of runs share: the commands in this process or in a forked one, and whether two runs are equal."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from iin.cli import eval as eval_command
from iin.cli import train as train_command
from iin.run import Run, read_checkpoint


def train(*arguments: str | Path) -> int:
    """``iin-train`` with tiny allowed; the exit code."""
    return train_command.main([*map(str, arguments), "--allow", "tiny"])


def evaluate(*arguments: str | Path) -> int:
    """``iin-eval`` with tiny allowed; the exit code."""
    return eval_command.main([*map(str, arguments), "--allow", "tiny"])


def start(arguments: Sequence[str | Path], before: Callable[[], Any] | None = None, command: Any = train) -> Any:
    """A command in a forked process, quiet, which does something else first; not waited for."""

    def body() -> None:
        torch.set_num_threads(1)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        if before is not None:
            before()
        os._exit(command(*arguments))

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    return process


def killed(arguments: Sequence[str | Path], before: Callable[[], Any]) -> None:
    """Run a command in a process that ``before`` makes die (with status 9, and nothing cleaned up) on its way."""
    process = start(arguments, before)
    process.join()
    assert process.exitcode == 9


def die(*_: Any, **__: Any) -> None:
    """End the process as SIGKILL does: no handler, no clean-up, nothing flushed."""
    os._exit(9)


def only(folder: Path, pattern: str = "*/") -> Run:
    """The one run below a folder."""
    (found,) = [path for path in folder.glob(pattern) if (path / "config.yaml").is_file()]
    return Run(found)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two values differ, to the bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in a.keys() | b.keys() for d in differences(a.get(key), b.get(key), f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")]
    return [] if a == b else [path]


def assert_equal(left: Run, right: Run) -> None:
    """Weights, optimisers' states, record, last evaluation and pictures of two runs are equal to the bit."""
    assert differences(read_checkpoint(left.checkpoints()[0]), read_checkpoint(right.checkpoints()[0])) == []
    for name in ("metrics.jsonl", f"eval/{left.checkpoints()[0].stem}/metrics.json"):
        assert (left.folder / name).read_bytes() == (right.folder / name).read_bytes(), name
    images, others = ({path.name: path.read_bytes() for path in run.folder.glob("images/*")} for run in (left, right))
    assert images.keys() == others.keys() and [name for name in images if images[name] != others[name]] == []
