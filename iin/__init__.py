"""Invertible interpretation networks: translate what a network knows into factors that people understand.

::

    import iin

    run = iin.load("logs/2026-01-31T12-00-00_mnist_diin")
    run.system.swap(images, others, factors=[0])

What lies where: ``flows`` are bijections, ``models`` are not; ``systems`` train them; ``data`` feeds and ``metrics``
judges them. Nothing is imported before it is used, so that ``iin-train --help`` answers at once.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from iin.experiment import load

        return load
    raise AttributeError(f"module 'iin' has no attribute {name!r}")
