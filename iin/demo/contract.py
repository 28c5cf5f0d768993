"""What a demo is: what one may choose, and what it shows for a choice. Nothing here knows of a browser.

A demo is a class with ``name``, ``title``, ``about``, ``options()`` and ``show(values, progress)``; one file here each.
The page (`iin.demo.page`) draws its options as widgets, the command ``iin-demo --save`` reads them from the command
line, and both show the same `Shown`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from iin.system import Picture

__all__ = ["Choice", "Clip", "Demo", "DemoError", "Number", "Option", "Progress", "Shown", "Upload"]

Progress = Callable[[float, str], None]
"""Called now and then during long work, with the share that is done and what is being done."""


class DemoError(ValueError):
    """Something was chosen or uploaded that cannot be shown; the message is one line for whoever chose it."""


@dataclass(frozen=True)
class Option:
    """Something that one may choose."""

    name: str
    """Key of its value."""
    label: str
    """What is written beside it."""
    help: str = field(default="", kw_only=True)
    fold: str = field(default="", kw_only=True)
    """Where it is one of many that are seldom wanted, what these are called together; they then stand folded up."""

    def read(self, value: Any) -> Any:
        """The value that was chosen, from what was typed; None where nothing was.

        Raises:
            DemoError: it cannot be that.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Number(Option):
    """A number between bounds: a slider, or with ``typed`` a box."""

    low: float = 0
    high: float = 1
    default: float = 0
    whole: bool = True
    typed: bool = False
    unset: str = ""
    """What is taken where nothing is typed, in words; then the value is None, in the place of the default."""

    def read(self, value: Any) -> float | int | None:
        if value is None and self.unset:
            return None
        kind = "a whole number" if self.whole else "a number"
        expected = f"{self.name}: expected {kind} from {self.low:g} to {self.high:g}, found {str(value)[:40]!r}"
        try:
            number = float(self.default if value is None else value)
        except (TypeError, ValueError):
            raise DemoError(expected) from None
        if not math.isfinite(number) or not self.low <= number <= self.high or (self.whole and number != int(number)):
            raise DemoError(expected)
        return int(number) if self.whole else number


@dataclass(frozen=True)
class Choice(Option):
    """One of some names."""

    among: tuple[str, ...] = ()
    default: str = ""

    def read(self, value: Any) -> str:
        if value is None:
            return self.default or self.among[0]
        if str(value) not in self.among:
            raise DemoError(f"{self.name}: expected one of {', '.join(self.among)}, found {str(value)[:40]!r}")
        return str(value)


@dataclass(frozen=True)
class Upload(Option):
    """A picture or a video of one's own, in the place of one of the data set's; its value is a path, or None."""

    video: bool = False

    def read(self, value: Any) -> Any:
        return value or None


@dataclass
class Clip:
    """A video."""

    frames: Tensor
    """``[T, C, H, W]`` in [-1, 1]."""
    rate: float = 25.0
    """Frames a second."""


@dataclass
class Shown:
    """What a demo shows, in this order within each kind."""

    pictures: dict[str, Picture] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    """Sentences, such as what a network takes an image for."""
    figures: dict[str, float] = field(default_factory=dict)
    clips: dict[str, Clip] = field(default_factory=dict)
    cover: str = ""
    """The picture that stands for all in a gallery; by default the first."""


class Demo(Protocol):
    """A demo of some runs."""

    name: str
    """As on the command line."""
    title: str
    of: str
    """Which runs it shows, in words; behind the title where two have the same."""
    about: str
    """What one sees here and how it comes about, in a few sentences."""

    def options(self) -> list[Option]: ...

    def show(self, values: Mapping[str, Any], progress: Progress) -> Shown:
        """Show a choice: ``values`` by name, each already `Option.read`.

        Raises:
            DemoError: it cannot be shown.
        """
        ...
