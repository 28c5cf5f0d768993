"""Kill a run at random moments, resume it each time, and compare it with one that was left alone.

    python scripts/kill_resume.py                 # 20 kills of an autoencoder, 20 of a factor flow
    python scripts/kill_resume.py --kills 5 --only flow

The processes are killed with SIGKILL: in the middle of epochs, while a checkpoint is being written, and during
evaluation. In the end the weights, the optimisers' state, ``metrics.jsonl`` and the pictures must be equal to the bit.
One thread.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from iin.cli import train as command
from iin.run import Run, read_checkpoint

AUTOENCODER = [
    "-b", "mnist_ae", "system.params.model.params.width=4", "system.params.model.params.dim=8",
    "data.train.params.split=test", "train.batch_size=250", "train.lr=1e-3",
    "train.log_every=5", "train.checkpoint_every=7", "evaluate.fid.params.images=500",
    # A small opponent that joins in on the way: two optimisers to be resumed.
    "system.params.perceptual=none", "system.params.discriminator.params.width=4", "system.params.disc_start=30",
]  # fmt: skip
FLOW = [
    "-b", "mnist_diin", "{first_stage}", "data.train.params.split=test",
    "system.params.flow.params={dim: 8, blocks: 2, hidden: 16, depth: 1}", "system.params.factors=[4, 4]",
    "train.batch_size=250", "train.lr=1e-3", "train.log_every=5", "train.checkpoint_every=7",
    "evaluate.fid.params.images=500", "evaluate.swaps.params.pairs=200",
]  # fmt: skip


def start(arguments: Sequence[str]) -> multiprocessing.Process:
    """Run ``iin-train`` in a process of its own, forked so that torch need not be imported each time."""

    def body() -> None:
        torch.set_num_threads(1)
        os.setpgrp()
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 1)
            if not os.environ.get("IIN_DEBUG"):
                os.dup2(null.fileno(), 2)
        os._exit(command.main(list(arguments)))

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    return process


def finish(arguments: Sequence[str], logs: Path) -> Run:
    """Run ``iin-train`` to its end and return the run."""
    before = set(logs.glob("*/"))
    process = start(arguments)
    process.join()
    if process.exitcode:
        raise SystemExit(f"iin-train {' '.join(arguments)} ended with {process.exitcode} (IIN_DEBUG=1 tells why)")
    return Run(max(set(logs.glob("*/")) - before, key=lambda folder: folder.name))


def moments(run: Callable[[], Path | None], dice: random.Random) -> Callable[[], str | None]:
    """A moment to kill at: answers what the process is doing once it has come, else None."""
    kind = dice.choice(["stepping", "saving", "evaluating"])
    # A number of checkpoints to let pass first, so that runs get on, and then a part of a second.
    patience, delay = dice.randint(1, 3), dice.uniform(0.0, 0.25)
    seen: dict[str, Any] = {"checkpoints": None, "due": None}

    def due() -> str | None:
        folder = run()
        if folder is None:
            return None
        newest = max((p.name for p in folder.glob("checkpoints/step-*.ckpt")), default="")
        if seen["checkpoints"] is None:
            seen["checkpoints"] = newest
        if newest != seen["checkpoints"]:
            seen["checkpoints"], passed = newest, seen.get("passed", 0) + 1
            seen["passed"] = passed
        if seen.get("passed", 0) < patience:
            return None
        if kind == "saving":
            return kind if any(folder.glob("checkpoints/.step-*.tmp")) else None
        if kind == "evaluating":
            # Evaluation follows the checkpoint of an epoch's end, and adds a folder when it is done.
            step = int(newest[5:13]) if newest else 0
            if step % 40 or not step or (folder / "eval" / f"step-{step:08d}" / "metrics.json").exists():
                return None
        if seen["due"] is None:
            seen["due"] = time.monotonic() + delay
        return kind if time.monotonic() >= seen["due"] else None

    return due


def killed(arguments: Sequence[str], logs: Path, kills: int, dice: random.Random) -> tuple[Run, Counter[str]]:
    """The same run, killed and resumed ``kills`` times on its way, and what it was doing when it was killed."""
    before = set(logs.glob("*/"))
    folder: Path | None = None
    doing: Counter[str] = Counter()

    def find() -> Path | None:
        nonlocal folder
        if folder is None:
            new = [path for path in set(logs.glob("*/")) - before if (path / "config.yaml").exists()]
            folder = new[0] if new else None
        return folder

    while True:
        process = start(arguments if folder is None else ["-r", str(folder)])
        due = moments(find, dice)
        while process.is_alive():
            if doing.total() < kills and (what := due()) is not None:
                os.kill(process.pid or 0, signal.SIGKILL)
                doing[what] += 1
                break
            time.sleep(0.0005)
        process.join()
        if process.exitcode == 0:
            return Run(find() or logs), doing
        if process.exitcode != -signal.SIGKILL:
            raise SystemExit(f"a resumed run ended with {process.exitcode} (IIN_DEBUG=1 tells why)")


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two checkpoints differ, to the bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in a.keys() | b.keys() for d in differences(a.get(key), b.get(key), f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")]
    return [] if a == b else [path]


def compare(left: Run, right: Run) -> list[str]:
    """What differs between two runs: weights, optimisers, figures, pictures."""
    found = differences(read_checkpoint(left.checkpoints()[0]), read_checkpoint(right.checkpoints()[0]))
    if (left.folder / "metrics.jsonl").read_bytes() != (right.folder / "metrics.jsonl").read_bytes():
        found.append("metrics.jsonl")
    images, others = ({path.name: path.read_bytes() for path in run.folder.glob("images/*")} for run in (left, right))
    return found + [name for name in images.keys() | others.keys() if images.get(name) != others.get(name)]


def length(kills: int) -> list[str]:
    """Settings of a run in which there is room for so many kills: an epoch (40 steps) for each, the last one cut."""
    return [f"train.epochs={kills + 3}", f"train.steps={40 * (kills + 2) + 30}"]


def check(name: str, arguments: Sequence[str], logs: Path, kills: int, seed: int) -> bool:
    """Run one configuration both ways; prints and returns whether they agree, and were killed as often as asked."""
    started = time.monotonic()
    arguments = [*arguments, *length(kills)]
    alone = finish(arguments, logs)
    run, doing = killed(arguments, logs, kills, random.Random(seed))
    found = compare(alone, run)
    verdict = "equal to the bit" if not found else "DIFFERS: " + ", ".join(found[:5])
    what = ", ".join(f"{count} {kind}" for kind, count in sorted(doing.items()))
    print(f"{name}: killed {doing.total()} times ({what}), {time.monotonic() - started:.0f} s: {verdict}", flush=True)
    return not found and doing.total() == kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["autoencoder", "flow"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if torture(Path(folder), arguments.kills, arguments.seed, arguments.only) else 1


def torture(folder: Path, kills: int, seed: int = 0, only: str | None = None) -> bool:
    """Both configurations below a folder; returns whether all runs agree."""
    torch.set_num_threads(1)
    logs = folder / "logs"
    logs.mkdir()
    os.environ["IIN_LOGS"] = str(logs)
    os.environ.setdefault("IIN_CACHE", str(folder / "cache"))
    sound = True
    if only != "flow":
        sound &= check("autoencoder", AUTOENCODER, logs, kills, seed)
    if only != "autoencoder":
        stage = finish([*AUTOENCODER, *length(0)], logs)
        named = f"system.params.first_stage.params={{run: {stage.folder}, part: model}}"
        arguments = [named if argument == "{first_stage}" else argument for argument in FLOW]
        sound &= check("factor flow", arguments, logs, kills, seed + 1)
    return sound


if __name__ == "__main__":
    sys.exit(main())
