"""What a metric asks of a system and of the batches; each missing piece is one clear line.

A metric may have a method ``check_system(system)`` that raises ValueError when it cannot work with such a system. It is
asked before anything is trained, of a system whose weights may lie in no memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

__all__ = ["decodes", "factor_names", "method"]


def decodes(system: nn.Module) -> bool:
    """Whether the system has a way back to images; one that says nothing has it where it has the methods."""
    return bool(getattr(system, "decodes", True))


def method(system: nn.Module, name: str, metric: str, *, decoder: bool = False) -> Any:
    """The system's method of this name.

    Args:
        system: whose method.
        name: which.
        metric: who asks; the error says so.
        decoder: the method answers images.

    Raises:
        ValueError: the system has none, or needs a decoder for it and has none.
    """
    found = getattr(system, name, None)
    if not callable(found):
        raise ValueError(f"{metric} needs a system with {name}(...); {type(system).__name__} has none")
    if decoder and not decodes(system):
        raise ValueError(f"{metric} needs images, but this {type(system).__name__} has no decoder; leave it out")
    return found


def factor_names(batches: Iterable[Any], metric: str) -> tuple[str, ...]:
    """Names of the factors of a pair data set, residual last, as ``batches.factors`` has them.

    Raises:
        ValueError: the data set names no factors.
    """
    names = tuple(getattr(batches, "factors", None) or ())
    if len(names) < 2:
        raise ValueError(f"{metric} needs test data of pairs with named factors: MNISTPairs, or one with pairs: true")
    return names
