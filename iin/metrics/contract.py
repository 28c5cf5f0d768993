"""What a metric asks of a system and of the batches; each missing piece is one clear line.

``made(system, batch, "reconstruct")`` is the same as ``system.reconstruct(batch.image)``, but for the work: metrics of
one evaluation share what it answers. So they do with `sampled`; with `kept`, anything else. Whoever calls the system's
methods is right too, and pays for it.

A metric that says ``divided = True`` of itself (a class attribute) may be given a share of the batches, in each of
several processes, and puts together what all have found: with `summed`, `largest` and `gathered`, after it has gone
through its share. `placed` says where in the whole set a batch belongs, `share` and `whole` what else there is. One
that says nothing is given all batches in every process.

A metric may have a method ``check_system(system)`` that raises ValueError when it cannot work with such a system. It is
asked before anything is trained, of a system whose weights may lie in no memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from iin.metrics.memo import kept, made, sampled
from iin.metrics.shares import gathered, largest, placed, share, summed, whole

__all__ = [
    "decodes",
    "factor_names",
    "gathered",
    "kept",
    "largest",
    "made",
    "method",
    "noisy_latent",
    "placed",
    "represented",
    "sampled",
    "share",
    "summed",
    "whole",
]


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


def represented(system: nn.Module, batch: Any, count: int | None = None) -> tuple[Tensor, ...]:
    """What a conditional flow wants beside codes: ``flow(x, *represented(system, batch))``.

    Args:
        system: whose flow.
        batch: of whose images.
        count: of the first so many.

    Returns:
        The representations ``[B, ...]``; nothing for a flow that is not conditional.
    """
    context = made(system, batch, "represent") if getattr(system, "conditional", False) else None
    return () if context is None else (context[:count],)


def noisy_latent(system: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Latent and log-determinant of a draw from the posterior of a batch's images, made once for all who ask.

    Of a system without a method of that name, by its ``noisy_code`` and ``flow``.
    """
    if callable(getattr(system, "noisy_latent", None)):
        return made(system, batch, "noisy_latent")
    return system.flow(made(system, batch, "noisy_code"), *represented(system, batch))


def factor_names(batches: Iterable[Any], metric: str) -> tuple[str, ...]:
    """Names of the factors of a pair data set, residual last, as ``batches.factors`` has them.

    Raises:
        ValueError: the data set names no factors.
    """
    names = tuple(getattr(batches, "factors", None) or ())
    if len(names) < 2:
        raise ValueError(f"{metric} needs test data of pairs with named factors: MNISTPairs, or one with pairs: true")
    return names
