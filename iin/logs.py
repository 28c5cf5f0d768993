"""Where the figures and pictures of a run go.

A sink takes scalars and images. `JsonLines`, `Pictures` and `Report` always write into the run's folder;
`TensorBoard` and `Wandb` do so too when the configuration's ``logs`` names them. A sink that fails is dropped with a
line in the log and training goes on; only the loss of ``metrics.jsonl``, the record itself, is an error.

To add one: a class with `Sink`'s three methods, and its name in `OPTIONAL`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from iin import pictures, report
from iin.files import write_atomically
from iin.record import LogError, cut, encode, read, whole_lines
from iin.system import Picture

__all__ = [
    "Guarded",
    "JsonLines",
    "LogError",
    "Pictures",
    "Report",
    "Sink",
    "TensorBoard",
    "Wandb",
    "cut",
    "missing",
    "open_sinks",
    "read",
]

logger = logging.getLogger("iin")


class Sink(Protocol):
    """Structural type of a place where scalars and images go."""

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        """Take named figures.

        Args:
            step: number of steps done.
            epoch: in which they were measured, from 0.
            split: ``train`` or ``test``.
            values: figures by name; scalar tensors do too.
        """

    def images(self, step: int, images: Mapping[str, Picture]) -> None:
        """Take pictures by name."""

    def close(self) -> None:
        """Finish writing; called once."""


class JsonLines:
    """``metrics.jsonl``: one JSON object a line, written out at once.

    A line holds nothing that depends on the clock, so that the file of a run that was interrupted and resumed equals
    that of one that was not. A figure that is not finite is written as the text ``"nan"``, ``"inf"`` or ``"-inf"``.

    Args:
        path: the file; lines are appended. A half-written last line is removed.

    Raises:
        LogError: here and in ``scalars``, when the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open(path, "ab")  # noqa: SIM115 - open as long as the run
            self._file.truncate(whole_lines(path))
        except OSError as error:
            raise self._failure(error) from error

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        line = encode(step, epoch, split, values)
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise self._failure(error) from error

    def images(self, step: int, images: Mapping[str, Picture]) -> None:
        pass

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> LogError:
        reason = error.strerror or error
        return LogError(
            f"{self.path}: figures cannot be written ({reason}); free the disk or allow writing, then resume"
        )


class Pictures:
    """``images/<name>_step-00001234.png``; see `iin.pictures.write`.

    Args:
        folder: where the files go; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        pass

    def images(self, step: int, images: Mapping[str, Picture]) -> None:
        pictures.write(self.folder, images, step)

    def close(self) -> None:
        pass


class TensorBoard:
    """Event files for ``tensorboard --logdir``.

    Args:
        folder: where they go.
        step: when a run resumes, the steps done: events of later steps are taken back.

    Raises:
        LogError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise LogError(f"logs: tensorboard cannot be used ({error}); {_INSTALL['tensorboard']}") from error
        self._writer = SummaryWriter(str(folder), purge_step=None if step is None else step + 1)

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", float(value), step)
        self._writer.add_scalar("epoch", epoch, step)
        if split == "test":
            self._writer.flush()

    def images(self, step: int, images: Mapping[str, Picture]) -> None:
        import numpy as np

        for name, stem in pictures.stems(images).items():
            self._writer.add_image(stem, np.asarray(pictures.draw(images[name])), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases, its files below the run's folder.

    Without a login or a network it goes on offline and says once how to upload the run later. Steps are an ordinary
    figure that serves as the x axis, since wandb's own counter would refuse the steps that a resumed run repeats. The
    run's identity is kept in ``wandb.json``, so that a resumed run continues the same curves.

    Args:
        folder: the run's folder.
        config: the whole configuration, shown beside the curves; its section ``wandb`` is passed to ``wandb.init``.

    Raises:
        LogError: wandb is not installed, or the section ``wandb`` has an unknown key.
    """

    KEYS = ("project", "entity", "mode", "tags", "name", "group", "job_type", "notes")
    """What the section ``wandb`` may say."""
    PATIENCE = 15.0
    """Seconds to wait for the server before going offline."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        options = dict(config.get("wandb") or {})
        if unknown := [key for key in options if key not in self.KEYS]:
            raise LogError(f"wandb.{unknown[0]}: unknown key; expected one of {', '.join(self.KEYS)}")
        try:
            import wandb
        except ImportError as error:
            raise LogError(f"logs: wandb cannot be used ({error}); {_INSTALL['wandb']}") from error
        if isinstance(tags := options.get("tags"), str):
            options["tags"] = [tag.strip() for tag in tags.split(",") if tag.strip()]
        mode: Any = options.pop("mode", None) or os.environ.get("WANDB_MODE") or "online"
        arguments: dict[str, Any] = {
            "project": "iin",
            "name": folder.name,
            **options,
            "dir": str(folder),
            "config": dict(config),
            "id": _identity(folder / "wandb.json"),
            "resume": "allow",
            "settings": wandb.Settings(
                init_timeout=self.PATIENCE,
                finish_timeout=4 * self.PATIENCE,
                silent=True,
                console="off",
                disable_git=True,
                x_disable_stats=True,
            ),
        }
        self._wandb = wandb
        self._run: Any = None
        reason = None
        if mode == "online":
            try:
                if _logged_in(wandb):
                    self._run = wandb.init(mode=mode, **arguments)
                else:
                    reason, mode = "no login; run `wandb login`", "offline"
            except Exception as error:  # whatever its client makes of a network that is not there
                reason, mode = (str(error).splitlines() or [type(error).__name__])[0][:160], "offline"
        if self._run is None:
            if mode == "offline":
                arguments["resume"] = None  # means nothing offline, and wandb would warn; the pieces share the id
            self._run = wandb.init(mode=mode, **arguments)
        if mode == "offline":
            because = f" ({reason})" if reason else ""
            logger.warning(
                "wandb: offline%s; upload the run later with: wandb sync %s/wandb/offline-run-*", because, folder
            )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        figures = {f"{split}/{name}": float(value) for name, value in values.items()}
        self._run.log({"step": step, "epoch": epoch, **figures})

    def images(self, step: int, images: Mapping[str, Picture]) -> None:
        grids = {
            f"images/{stem}": self._wandb.Image(pictures.draw(images[name]), caption=images[name].caption or None)
            for name, stem in pictures.stems(images).items()
        }
        if grids:
            self._run.log({"step": step, **grids})

    def close(self) -> None:
        self._run.finish()


class Report:
    """``report.html``, written anew after each evaluation.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        if split == "test":
            report.write(self.folder)

    def images(self, step: int, images: Mapping[str, Picture]) -> None:
        pass  # the figures of the same evaluation follow

    def close(self) -> None:
        report.write(self.folder)


class Guarded:
    """A sink that, when it fails, says so once and is silent from then on.

    Args:
        name: how the log calls it.
        make: makes the sink; a `LogError` passes, any other failure is taken as the sink's.
    """

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        self.name = name
        self.sink: Sink | None = None
        """The sink; None once it has failed."""
        try:
            self.sink = make()
        except LogError:
            raise
        except Exception as error:
            self._drop("start", error)

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        self._call("scalars", step, epoch, split, values)

    def images(self, step: int, images: Mapping[str, Picture]) -> None:
        self._call("images", step, images)

    def close(self) -> None:
        self._call("close")

    def _call(self, method: str, *arguments: Any) -> None:
        if self.sink is None:
            return
        try:
            getattr(self.sink, method)(*arguments)
        except Exception as error:  # a library's, a network's or a disk's: training must not end for it
            self._drop(method, error)

    def _drop(self, doing: str, error: Exception) -> None:
        self.sink = None
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        logger.warning("%s: dropped, it failed at %s (%s); training goes on without it", self.name, doing, reason)


_INSTALL = {
    "tensorboard": "install it with: pip install 'iin[tensorboard]'",
    "wandb": "install it with: pip install wandb",
}

OPTIONAL: dict[str, Callable[[Path, Mapping[str, Any], int | None], Sink]] = {
    "tensorboard": lambda folder, config, step: TensorBoard(folder / "tensorboard", step),
    "wandb": lambda folder, config, step: Wandb(folder, config),
}
"""What ``logs`` of a configuration may name."""


def missing(names: Sequence[str]) -> list[str]:
    """Mistakes in ``logs`` of a configuration, a line each; nothing is imported or started to find them."""
    lines = []
    for name in names:
        if name not in OPTIONAL:
            lines.append(f"logs: {name!r} is not known; expected any of {', '.join(OPTIONAL)}")
        elif (spec := importlib.util.find_spec(name)) is None or spec.origin is None:  # a mere folder has no origin
            lines.append(f"logs: {name} is not installed; {_INSTALL[name]}, or leave it out of logs")
    return lines


def open_sinks(names: Sequence[str], folder: Path, config: Mapping[str, Any], *, step: int | None = None) -> list[Sink]:
    """Open all sinks of a run.

    Args:
        names: the configuration's ``logs``: any of ``tensorboard`` and ``wandb``.
        folder: the run's folder.
        config: the run's configuration.
        step: when a run resumes, the steps done; what was recorded of later steps is taken back.

    Returns:
        The sinks, the record first and the report, which reads what the others wrote, last.

    Raises:
        LogError: a name is not known or its package not installed, or ``metrics.jsonl`` cannot be written.
    """
    if mistakes := missing(names):
        raise LogError("; ".join(mistakes))
    record = folder / "metrics.jsonl"
    if step is not None:
        cut(record, step)
    sinks: list[Sink] = [JsonLines(record), Guarded("images", lambda: Pictures(folder / "images"))]
    for name in dict.fromkeys(names):
        sinks.append(Guarded(name, lambda make=OPTIONAL[name]: make(folder, config, step)))  # type: ignore[misc]
    return [*sinks, Guarded("report.html", lambda: Report(folder))]


def _identity(path: Path) -> str:
    """The id of the wandb run that belongs to this folder, made at the first call."""
    try:
        found = json.loads(path.read_text())["id"]
        if isinstance(found, str) and found:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or damaged: a new one
    import secrets

    identity = secrets.token_hex(4)
    with write_atomically(path) as file:
        file.write(json.dumps({"id": identity}).encode())
    return identity


def _logged_in(wandb: Any) -> bool:
    """Whether a key is there, without ever asking for one."""
    try:
        return bool(wandb.login(prompt=False))
    except TypeError:  # older versions have no such argument
        return bool(wandb.api.api_key)
