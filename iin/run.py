"""A run is a folder that remembers everything.

::

    logs/2026-01-31T12-00-00_mnist_diin/
      config.yaml          the merged configuration, that of the first stage included
      environment.json     versions, command line, data source, first stage
      state.json           running, finished, interrupted or failed; the digest by which the run is found again
      checkpoints/         step-00000468.ckpt ..., last.ckpt
      metrics.jsonl        one object a line: step, epoch, split, figures
      images/  eval/  log.txt  report.html
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iin import config as configuration
from iin.files import write_atomically

__all__ = ["Run", "RunError"]

FORMAT = 1
"""Version of the checkpoint's layout."""


class RunError(Exception):
    """Something about a run's folder is not as it should be; the message is one line."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs alike, atomically."""
    with write_atomically(path) as file:
        file.write((json.dumps(value, indent=2, sort_keys=False, default=str) + "\n").encode())


class Run:
    """A run's folder.

    Args:
        folder: an existing run folder, or a file ``config.yaml`` in one.

    Raises:
        RunError: there is no run here.
    """

    def __init__(self, folder: str | Path) -> None:
        if not os.fspath(folder):
            raise RunError("'': no run; expected the path of a folder below logs/, or . for the current one")
        folder = Path(folder)
        if folder.name == "config.yaml":
            folder = folder.parent
        elif folder.is_file():
            raise RunError(f"{folder}: is a file; expected a run's folder, such as one below logs/")
        if not (folder / "config.yaml").is_file():
            reason = "holds no config.yaml" if folder.is_dir() else "does not exist"
            raise RunError(f"{folder}: not a run folder, it {reason}; expected the path of a folder below logs/")
        self.folder = folder

    @classmethod
    def create(
        cls, logs: str | Path, name: str, tree: Mapping[str, Any], *, digest: str, asked: str | None = None
    ) -> Run:
        """Make a new folder ``<logs>/<UTC time>_<name>`` and write its configuration.

        Two runs that start in the same second get two folders.

        Args:
            logs: where; made when missing.
            name: of the run.
            tree: its whole configuration.
            digest: of all that decides its weights; by it the run is found again.
            asked: digest of the configuration that was asked for, where some of it was settled only then.

        Raises:
            RunError: the folder cannot be made, or not be written to.
        """
        logs = Path(logs)
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime())
        folder: Path | None = None
        try:
            logs.mkdir(parents=True, exist_ok=True)
            folder = _new_folder(logs, f"{stamp}_{name}")
            for child in ("checkpoints", "images", "eval"):
                (folder / child).mkdir()
            settled = {"asked": asked} if asked not in (None, digest) else {}
            write_json(folder / "state.json", {"state": "new", "step": 0, "digest": digest, **settled})
            with write_atomically(folder / "config.yaml") as file:
                file.write(configuration.dump(tree).encode())
        except OSError as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise RunError(
                f"{logs}: cannot make a run folder there ({error.strerror or error}); "
                "choose another with --logs DIR or $IIN_LOGS"
            ) from error
        return cls(folder)

    @classmethod
    def find(cls, logs: str | Path, digest: str, *, finished: bool = True) -> Run | None:
        """The newest run below ``logs`` of the configuration with this digest, finished or not yet; else None.

        A configuration that was settled when the run began (see `iin.factors`) is found as it was asked for, too.
        """
        for folder in sorted(Path(logs).glob("*/"), reverse=True):
            if (folder / "config.yaml").is_file():
                run = cls(folder)
                done = run.state.get("state") == "finished" and bool(run.checkpoints())
                if digest in (run.state.get("digest"), run.state.get("asked")) and done == finished:
                    return run
        return None

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    # --- what the run says of itself -------------------------------------------------------------------------------

    @property
    def config_file(self) -> Path:
        """The merged configuration of this run."""
        return self.folder / "config.yaml"

    @property
    def state(self) -> dict[str, Any]:
        """How the run stands: ``state``, ``step``, ``digest``; empty when the file is unreadable."""
        try:
            value = json.loads((self.folder / "state.json").read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def set_state(self, state: str, step: int, **more: Any) -> None:
        """Record how the run stands; what was recorded beside it stays."""
        write_json(self.folder / "state.json", {**self.state, "state": state, "step": step, **more})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run, so that no second process trains in it; the kernel lets go when the process ends.

        Raises:
            RunError: another process holds it.
        """
        try:
            file = open(self.folder / ".lock", "a+")  # noqa: SIM115 - held for the whole block
        except OSError as error:
            raise RunError(f"{self.folder}: cannot write there ({error.strerror})") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise RunError(f"{self.folder}: in use by {owner}; wait for it, or stop it") from error
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            yield

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies, or would."""
        return self.folder / "checkpoints" / f"step-{step:08d}.ckpt"

    def checkpoints(self) -> list[Path]:
        """Checkpoints by step, newest first, sound or not."""
        files = (path for path in (self.folder / "checkpoints").glob("step-*.ckpt") if step_of(path) >= 0)
        return sorted(files, key=step_of, reverse=True)

    def save(self, step: int, system: Mapping[str, Tensor], optimizers: Mapping[str, Any]) -> Path:
        """Write a checkpoint, atomically; ``last.ckpt`` then points at it.

        Raises:
            RunError: weights are not finite, or the file cannot be written; earlier checkpoints are untouched.
        """
        path = self.checkpoint(step)
        for name, value in system.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise RunError(
                    f"step {step}: weights {name} are not finite, so no checkpoint is written; {self._last_good()}"
                )
        content = {"format": FORMAT, "step": step, "system": dict(system), "optimizers": dict(optimizers)}
        # Not into the file at once: torch's writer makes a riddle of an error in the middle, such as a full disk.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        try:
            with write_atomically(path) as file:
                file.write(buffer.getbuffer())
            self._point_last_at(path)
        except OSError as error:
            raise RunError(
                f"{path}: cannot save the checkpoint ({error.strerror or error}); {self._last_good()}"
            ) from error
        return path

    def _last_good(self) -> str:
        existing = self.checkpoints()
        return f"the last good one is {existing[0]}" if existing else "there is no earlier one"

    def _point_last_at(self, path: Path) -> None:
        link = path.with_name("last.ckpt")
        temporary = path.with_name(f".last.{os.getpid()}.tmp")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        try:
            temporary.symlink_to(path.name)
        except OSError:  # a file system without links: a copy
            temporary.write_bytes(path.read_bytes())
        os.replace(temporary, link)

    def load(self, which: str | int | Path | None = None) -> tuple[dict[str, Any], Path, list[str]]:
        """Read a checkpoint.

        Args:
            which: a step, a file, ``"last"``, or None. The last two mean the newest sound checkpoint, and so does the
                run's file ``last.ckpt``: damaged ones are passed over. One that is named is read or refused.

        Returns:
            The content, the file it came from, and a line about each damaged file that was passed over.

        Raises:
            RunError: no checkpoint, or no sound one.
        """
        if which is not None and not self._means_last(str(which)):
            path = self._named(str(which))
            return read_checkpoint(path), path, []
        complaints: list[str] = []
        for path in self.checkpoints():
            try:
                return read_checkpoint(path), path, complaints
            except RunError as error:
                complaints.append(str(error))
        if complaints:
            raise RunError(f"{self.folder}: no sound checkpoint is left: " + "; ".join(complaints))
        raise RunError(f"{self.folder}: no checkpoint yet; train first (iin-train -r {self.folder})")

    def _means_last(self, which: str) -> bool:
        last = self.folder / "checkpoints" / "last.ckpt"
        return which in ("last", last.name) or Path(which).absolute() == last.absolute()

    def _named(self, which: str) -> Path:
        if which.isdigit():
            path = self.checkpoint(int(which))
            if not path.is_file():
                steps = ", ".join(str(step_of(p)) for p in self.checkpoints()) or "none"
                raise RunError(f"{self.folder}: no checkpoint of step {which}; there are: {steps}")
            return path
        for path in (Path(which), self.folder / "checkpoints" / which):
            if path.is_file():
                return path
        raise RunError(f"{which}: no such checkpoint; give a file, a step, or last")

    def prune(self, keep: int, best: int | None = None) -> None:
        """Delete all but the newest ``keep`` checkpoints and that of step ``best``.

        Those that were set aside go too, once the run has come as far again.
        """
        checkpoints = self.checkpoints()
        for path in checkpoints[keep:]:
            if step_of(path) != best:
                path.unlink(missing_ok=True)
        for path in self.folder.glob("checkpoints/step-*.ckpt.old"):
            if checkpoints and step_of(path) <= step_of(checkpoints[0]):
                path.unlink(missing_ok=True)

    def rewind(self, step: int) -> list[Path]:
        """Make ``step`` the run's newest: what lies beyond is of a future that is to be computed anew.

        Checkpoints beyond it are set aside as ``*.ckpt.old``; pictures and evaluations are deleted.

        Returns:
            The checkpoints that were set aside.
        """
        newer = [path for path in self.checkpoints() if step_of(path) > step]
        for path in newer:
            path.rename(path.with_name(path.name + ".old"))
        last = self.folder / "checkpoints" / "last.ckpt"
        if newer and (existing := self.checkpoints()):
            self._point_last_at(existing[0])
        elif newer:
            last.unlink(missing_ok=True)
        shown = (path for kind in ("png", "webp") for path in self.folder.glob(f"images/*_step-*.{kind}"))
        for path in [*shown, *self.folder.glob("eval/step-*")]:
            match = re.search(r"step-(\d+)(\.png|\.webp)?$", path.name)
            if match and int(match[1]) > step:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return newer

    def sweep(self) -> None:
        """Delete temporary files that a killed process left behind."""
        for path in self.folder.glob("**/.*.tmp"):
            path.unlink(missing_ok=True)


def _new_folder(logs: Path, name: str) -> Path:
    """Make a folder of this name, or with a number behind it where there is one already."""
    attempt = 1
    while True:
        folder = logs / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            attempt += 1


def step_of(path: Path) -> int:
    """The step in a checkpoint's file name, set aside or not; -1 without one."""
    match = re.fullmatch(r"step-(\d+)\.ckpt(\.old)?", path.name)
    return int(match.group(1)) if match else -1


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file, and only if all that it holds is as it was written.

    Raises:
        RunError: the file is damaged, or no checkpoint of this program.
    """
    try:
        # torch does not compare checksums when it reads; the archive has them.
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise RunError(f"{path}: damaged (checksum of {broken} differs)")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever random bytes make of the readers
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise RunError(f"{path}: damaged or no checkpoint ({reason})") from error
    if not isinstance(content, dict) or not {"format", "step", "system", "optimizers"} <= content.keys():
        raise RunError(f"{path}: not a checkpoint of this program (expected format, step, system, optimizers)")
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise RunError(f"{path}: written in format {content['format']}, this version reads format {FORMAT}")
    if not _is_whole(content):
        raise RunError(f"{path}: not a checkpoint of this program (step, system or optimizers are of another kind)")
    if step_of(path) not in (-1, content["step"]):
        raise RunError(f"{path}: damaged or renamed (it holds step {content['step']})")
    return content


def _is_whole(content: Mapping[str, Any]) -> bool:
    """Whether the parts of a checkpoint are of the kinds that `Run.save` writes."""
    step, system, optimizers = (content[name] for name in ("step", "system", "optimizers"))
    return (
        type(step) is int
        and step >= 0
        and isinstance(system, dict)
        and all(isinstance(value, Tensor) for value in system.values())
        and isinstance(optimizers, dict)
        and all(isinstance(state, dict) for state in optimizers.values())
    )
