"""Invertible interpretation networks: translate what a network knows into factors that people understand.

::

    import iin

    run = iin.load("logs/<run>")
    run.swap(images, others, factors=["digit"])

What lies where: ``flows`` are bijections, ``models`` are not; ``systems`` train them; ``data`` feeds and ``metrics``
judges them. Nothing is imported before it is used, so that ``iin-train --help`` answers at once.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iin.experiment import load

__all__ = ["__version__", "compat", "data", "flows", "load", "losses", "metrics", "models", "pictures", "systems"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "load":
        return importlib.import_module("iin.experiment").load
    if name in __all__:
        return _submodule(name)
    raise AttributeError(f"module 'iin' has no attribute {name!r}")


def _submodule(name: str) -> ModuleType:
    return importlib.import_module(f"iin.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
