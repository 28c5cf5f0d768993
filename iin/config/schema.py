"""Keys of a configuration, their types, ranges and defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from iin.arguments import Count, NonNegativeInt, Positive

__all__ = ["EMPTY_SECTIONS", "KEYS", "NAME", "REQUIRED", "VERSION", "WANDB", "Training"]

VERSION = 1
"""Format of configurations that this version writes, and the newest that it reads."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
"""Names become folders."""

Momentum = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class Training:
    """The section ``train``: how a system is trained.

    Args:
        epochs: passes over the data.
        steps: ends the run after so many steps, wherever that is in an epoch; 0 trains nothing and evaluates the system
            as it was built, which is of use where its weights come from elsewhere.
        batch_size: images or pairs a step.
        eval_batch_size: images or pairs a batch of evaluation.
        lr: learning rate of Adam.
        betas: decay rates of Adam's moments.
        decay_start: step from which on the learning rate falls linearly, towards 0 at the last; None keeps it.
        clip: largest norm of the gradient; None clips nothing.
        log_every: steps between two lines of ``metrics.jsonl``.
        checkpoint_every: steps between two checkpoints; None saves after each epoch.
        keep: how many of the newest checkpoints stay, beside the best.
        best: figure by which the best checkpoint is told; None keeps only the newest.
        best_mode: whether the best is the smallest or the largest.
        evaluate_every: epochs between two evaluations.
        workers: processes that fetch data; 0 fetches in the process that trains.
        device: ``cpu``, ``cuda``, ``cuda:1`` ...; ``auto`` takes the fastest there is.
        precision: ``bf16`` runs frozen networks and the training of networks other than flows in bfloat16 where that
            is safe; flows, their determinants and their inverses stay in ``fp32``.
        tf32: let graphics processors round the factors of fp32 products to 10 bits of mantissa, which is faster.
        compile: translate flows with ``torch.compile``: ``default``, or ``reduce-overhead`` (with CUDA graphs, for
            small batches) or ``max-autotune``; ``off`` runs them as they are.
        cache: where the frozen first stage's answers to a training set whose images stay the same are kept, so that
            each image is encoded once: ``memory``, ``disk`` (below ``$IIN_CACHE``) or ``off``; ``auto`` decides by
            their size, and does without where images change from visit to visit.
        shard: split the parameters of a flow among the processes too (FSDP), for flows that outgrow a device.
    """

    epochs: Count = 10
    steps: NonNegativeInt | None = None
    batch_size: Count = 25
    eval_batch_size: Count = 250
    lr: Positive = 1.125e-4
    betas: tuple[Momentum, Momentum] = (0.5, 0.9)
    decay_start: NonNegativeInt | None = None
    clip: Positive | None = None
    log_every: Count = 100
    checkpoint_every: Count | None = None
    keep: Count = 3
    best: str | None = "nll/nats"
    best_mode: Literal["min", "max"] = "min"
    evaluate_every: Count = 1
    workers: NonNegativeInt = 0
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    tf32: bool = False
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    cache: Literal["auto", "memory", "disk", "off"] = "auto"
    shard: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # YAML has lists only


KEYS = (
    "name",
    "description",
    "version",
    "seed",
    "data",
    "system",
    "train",
    "evaluate",
    "logs",
    "wandb",
    "quick",
)
"""Top level."""

REQUIRED = ("name", "data", "system")

EMPTY_SECTIONS = frozenset({"data", "train", "evaluate", "logs", "wandb", "quick"})
"""Sections that may stand in a file with nothing below them, as when every line is a comment."""

SCALARS: dict[str, Any] = {
    "description": str,
    "seed": NonNegativeInt,
    "logs": list[Literal["tensorboard", "wandb"]],
}

WANDB: dict[str, Any] = {
    "project": str,
    "entity": str,
    "mode": Literal["online", "offline", "disabled"],
    "name": str,
    "group": str,
    "job_type": str,
    "notes": str,
    "tags": list[str],
}
"""Section ``wandb``: what is passed on to it."""
