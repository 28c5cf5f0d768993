"""The training step with a Jacobian's norm, beside what its decoder costs at least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from bench.steps import loop_step
from bench.timing import Entry, Row, Settings, measure, say, threads
from iin.config import Training
from iin.data import Images
from iin.models import ConvVAE
from iin.systems import JacobianVAE

__all__ = ["TASKS", "jacobian_entries", "jacobian_rows", "plain_decoder"]

TASKS = ("jacobian_step",)

BATCH = 64


def jacobian_rows(settings: Settings, tasks: Sequence[str]) -> Iterator[Row]:
    """Rows of the published step on images of 64x64 with 10 latents, by both methods, and of a plain decoder."""
    entries = jacobian_entries(ConvVAE(), torch.rand(BATCH, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    count = max(settings.threads)
    say(f"jacobian_step: {count} threads, batch {BATCH}, {len(entries)} entries side by side")
    with threads(count):
        rows = measure(entries, settings.repeats, batch=BATCH, count=count)
    *own, plain = rows
    for row in own:
        row["times_the_decoder"] = row["seconds"] / plain["seconds"]
        row["times_the_decoder_minimum"] = row["minimum"] / plain["minimum"]
    yield from rows


def jacobian_entries(model: ConvVAE, image: Tensor) -> list[Entry]:
    """Training steps on images ``[B, C, H, W]`` by each method; last, forward and backward of the decoder alone."""
    batch = Images(image * 2 - 1, torch.zeros(len(image), dtype=torch.int64))
    entries = []
    for method in ("difference", "forward"):
        system = JacobianVAE(model, method=method)
        step = loop_step(system, Training(lr=1e-4))
        entries.append(Entry("jacobian_step", "iin", partial(step, batch), {"what": method}))
    what = f"decoder alone, {(model.dim + 1) * len(image)} codes"
    return [
        *entries,
        Entry("jacobian_step", "plain", plain_decoder(model, (model.dim + 1) * len(image)), {"what": what}),
    ]


def plain_decoder(model: ConvVAE, count: int) -> Callable[[], None]:
    """Forward and backward of a decoder on so many codes, to its weights, and nothing else."""
    z = torch.randn(count, model.dim, generator=torch.Generator().manual_seed(1))

    def run() -> None:
        model.zero_grad(set_to_none=True)
        torch.sigmoid(model.logits(z)).sum().backward()

    return run
