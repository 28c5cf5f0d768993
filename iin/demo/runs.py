"""Runs as demos show them: each with its networks, its test images, and the way in for pictures of one's own.

What is opened stays open until the program ends: the networks, a hundred test images of each run, and nothing else.
Runs of the same data share them. Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iin import config as configuration
from iin.building import datasets, device_of, name_factors, source
from iin.config import ConfigError, Training
from iin.data import Images, Visit
from iin.data.base import fetch, length
from iin.data.sources import Missing, offline
from iin.demo import uploads
from iin.demo.contract import Choice, Clip, Demo, DemoError, Number, Option, Progress, Shown, Upload
from iin.experiment import load
from iin.seeds import mix
from iin.trained import Trained

__all__ = ["Exhibit", "chosen", "describe", "find", "gallery", "make", "open_runs"]

IMAGES = 100
"""Test images of a run that one may choose from."""
MODULES = ("editor", "attack", "representation", "texture", "video", "mixing", "semantics", "latents", "data")
"""What may be shown, in the gallery's order: modules here with ``demos(runs)``, and ``NEEDS``: of which."""


@dataclass(repr=False)
class Exhibit:
    """A run, ready to be shown."""

    name: str
    """What to call it: its configuration's name, with a number where two are called alike."""
    trained: Trained
    """Its networks, frozen, in eval mode."""
    images: Images
    """Up to `IMAGES` test images ``[N, C, H, W]``, evenly spread over the test set, on the networks' device."""
    labels: tuple[str, ...]
    """What each of these shows, in words; empty words where that is not known."""
    places: tuple[int, ...]
    """Where each stands in the test set."""
    source: str
    """Where the test images came from, in words."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where the data set has them."""
    data: Any = field(default=None)
    """The test set itself."""

    @property
    def system(self) -> Any:
        """The run's networks."""
        return self.trained.system

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.images.image.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of its images."""
        channels, height, width = self.images.image.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images.image)

    def __repr__(self) -> str:
        return f"Exhibit({self.name!r}, {type(self.system).__name__}, {len(self)} images)"

    def image(self, index: int) -> Tensor:
        """One of the test images ``[1, C, H, W]``."""
        return self.images.image[index : index + 1]

    def label(self, index: int) -> str:
        """What it shows, in words; empty where that is not known."""
        return self.labels[index]

    def class_name(self, number: int) -> str:
        """A class in words; its number where classes have no names."""
        return self.classes[number] if 0 <= number < len(self.classes) else str(number)

    def picture(self, path: str | Path) -> Tensor:
        """A picture of one's own ``[1, C, H, W]`` in [-1, 1], prepared as the test images are.

        Raises:
            DemoError: it cannot be used, and why.
        """
        return uploads.picture(path, self.shape).to(self.device)

    def video(self, path: str | Path, limit: int = uploads.FRAMES) -> tuple[Clip, str]:
        """A video of one's own, or pictures in a folder or zip file, as frames ``[T, C, H, W]``.

        Args:
            path: of the file or folder.
            limit: frames to read.

        Returns:
            The clip, and what was left out of it in words, empty where nothing was.

        Raises:
            DemoError: it cannot be used, and why.
        """
        clip, said = uploads.video(path, self.shape, limit)
        return Clip(clip.frames.to(self.device), clip.rate), said


def open_runs(
    paths: Iterable[str | Path], *, allow: Sequence[str] = (), say: Callable[[str], None] = lambda _: None
) -> list[Exhibit]:
    """Open runs with their test images.

    Args:
        paths: folders of runs, or their ``config.yaml``; the same one twice is opened once.
        allow: packages beyond the program's own that their configurations may name.
        say: told each run's name as it is opened.

    Raises:
        RunError: no run, or no sound checkpoint.
        ConfigError: a configuration that cannot be used, or test images that are not here; they are not downloaded.
    """
    found: list[Exhibit] = []
    names: set[str] = set()
    kept: dict[str, Any] = {}
    seen: set[Path] = set()
    for path in paths:
        trained = load(path, allow=allow)
        folder = trained.run.folder.resolve()
        if folder in seen:
            continue
        seen.add(folder)
        say(str(trained.run.folder))
        name = _unlike(str(trained.tree.get("name") or folder.name), names)
        key = configuration.digest([trained.tree["data"]["test"], trained.tree.get("seed", 0)])
        if key not in kept:
            data = _test_data(trained)
            kept[key] = data, *_some(data, trained.tree.get("seed", 0), str(trained.run.folder))
        data, images, places = kept[key]
        name_factors(trained.system, data)
        device = _device(trained)
        trained.system.to(device)
        found.append(
            Exhibit(
                name=name,
                trained=trained,
                images=Images(*(part.to(device) for part in images)),
                labels=tuple(_label(data, label) for label in images.label),
                places=places,
                source=source(data),
                classes=_classes(data),
                data=data,
            )
        )
    return found


def gallery(runs: Sequence[Exhibit]) -> list[Demo]:
    """All that the given runs can show.

    Names that two have in common get a number, and titles the runs that each is of.
    """
    found: list[Demo] = []
    names: set[str] = set()
    for module in MODULES:
        for demo in importlib.import_module(f"iin.demo.{module}").demos(runs):
            demo.name = _unlike(demo.name, names)
            found.append(demo)
    titles = Counter(demo.title for demo in found)
    for demo in found:
        if titles[demo.title] > 1:
            demo.title = f"{demo.title}: {demo.of}"
    return found


def find(demos: Sequence[Demo], name: str) -> Demo:
    """The demo of a name.

    Raises:
        DemoError: there is none; for one that other runs have, which runs these are.
    """
    for demo in demos:
        if demo.name == name:
            return demo
    needs = f"it needs {importlib.import_module(f'iin.demo.{name}').NEEDS}; " if name in MODULES else ""
    there = ", ".join(demo.name for demo in demos) or "none"
    raise DemoError(f"no demo {name!r} of these runs; {needs}there are: {there}")


def chosen(demo: Demo, given: dict[str, Any]) -> dict[str, Any]:
    """Values of all options of a demo: those that were given, read and checked, and defaults.

    Raises:
        DemoError: a value that cannot be, or an option that is not there.
    """
    options = demo.options()
    names = [option.name for option in options]
    if unknown := sorted(given.keys() - set(names)):
        raise DemoError(f"{demo.name} has no option {unknown[0]!r}; it has: {', '.join(names) or 'none'}")
    return {option.name: option.read(given.get(option.name)) for option in options}


def make(demo: Demo, values: dict[str, Any], progress: Progress | None = None) -> Shown:
    """Show a choice of values, read already; torch's own generator is left as it was.

    Raises:
        DemoError: it cannot be shown.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(0))
        try:
            return demo.show(values, progress or (lambda share, what: None))
        except torch.cuda.OutOfMemoryError as error:
            raise DemoError("not enough memory on the graphics processor; choose fewer samples") from error


def describe(demo: Demo) -> Iterator[str]:
    """A demo and its options in lines, as the command line lists them."""
    yield f"{demo.name}: {demo.title}"
    options = demo.options()
    for option in options:
        if not option.fold:
            yield f"  {option.name}={_range(option)}  {option.label}" + (f" ({option.help})" if option.help else "")
    folds: dict[tuple[str, str], list[str]] = {}
    for option in options:
        if option.fold:
            folds.setdefault((option.fold, _range(option)), []).append(option.name)
    for (fold, bounds), names in folds.items():
        yield f"  {names[0]}={bounds}  {fold}" + (f"; likewise {', '.join(names[1:])}" if names[1:] else "")


def _range(option: Option) -> str:
    if isinstance(option, Choice):
        return "|".join(option.among) + f" [{option.read(None)}]"
    if isinstance(option, Upload):
        return "FILE"
    assert isinstance(option, Number)
    low, high, default = (f"{value:.0f}" if option.whole else f"{value:g}" for value in _bounds(option))
    return f"{low}..{high} [{option.unset or default}]"


def _bounds(option: Number) -> tuple[float, float, float]:
    return option.low, option.high, option.default


# --- opening ---------------------------------------------------------------------------------------------------------


def _unlike(name: str, taken: set[str]) -> str:
    """A name that is not taken yet, which it then is."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found)
    return found


def _device(trained: Trained) -> torch.device:
    """The device that a run was configured for, or the processor where that is another machine's."""
    try:
        return device_of(Training(**trained.tree.get("train", {})))
    except ConfigError:
        return torch.device("cpu")


def _test_data(trained: Trained) -> Any:
    """The test set of a run.

    Raises:
        ConfigError: its files are not here, or damaged.
    """
    try:
        with offline():  # a page that is looked at downloads nothing
            return datasets(trained.tree, "test")[0]
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, Missing) and cause.fetchable:
            raise ConfigError(
                [
                    f"{trained.run.folder}: its test images are not here, and a demo downloads nothing; "
                    f"fetch them first: iin-explore -b {trained.run.config_file} --split test"
                ]
            ) from error
        raise ConfigError([f"{trained.run.folder}: {mistake}" for mistake in error.mistakes]) from error


def _some(data: Any, seed: int, where: str) -> tuple[Images, tuple[int, ...]]:
    """Images that are spread evenly over a data set, and their places in it; the same whenever they are asked for."""
    try:
        total = length(data)
        count = min(IMAGES, total)
        places = tuple(index * total // count for index in range(count))
        batch = fetch(data, Visit(list(places), mix(seed, 2)))
    except (ValueError, OSError) as error:
        raise ConfigError([f"{where}: data.test: {' '.join(str(error).split())}"]) from error
    label = getattr(batch, "label", None)
    return Images(batch.image, torch.full((count,), -1) if label is None else label), places


def _classes(data: Any) -> tuple[str, ...]:
    names = getattr(data, "classes", None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def _label(data: Any, value: Tensor) -> str:
    """A label in words; of known factors, their values."""
    if value.ndim:
        names = getattr(data, "factor_names", ())
        if len(names) == len(value):
            return ", ".join(f"{name} {int(one)}" for name, one in zip(names, value, strict=True))
        return ", ".join(str(int(one)) for one in value)
    label = int(value)
    if label < 0:
        return ""
    if callable(meaning := getattr(data, "meaning", None)):
        with contextlib.suppress(Exception):  # somebody's own words
            return ", ".join(f"{factor}: {value}" for factor, value in meaning(label).items())
    names = _classes(data)
    return names[label] if label < len(names) else str(label)
