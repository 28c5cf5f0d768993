"""Times of steps against sizes: in one process, with one thread and with more; and lines through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from bench.autoencoder import system as autoencoder
from bench.peers import Shape
from bench.steps import FlowAlone, loop_step
from bench.timing import Row, interleaved, row, say, threads

from iin.data import Images
from iin.flows import vector_flow
from iin.models import Autoencoder as AutoencoderModel

__all__ = ["CURVES", "FULL", "TINY", "Line", "Sizes", "curve_rows", "line", "lines"]


class Sizes(NamedTuple):
    """What is measured.

    Args:
        batches: vectors a step, of the flow of shape ``flow``.
        flow: the shape; batch and two of its sizes are varied one at a time.
        dims: sizes of the latent.
        blocks: numbers of blocks.
        batch: vectors a step, where something else is varied.
        images: sides of images.
        width: of the autoencoder that is trained; its discriminator is as wide.
        encoder: width of the encoder that runs forward only, as a frozen one does, and of the autoencoder whose memory
            is measured.
        pictures: images a step of the autoencoder; the frozen encoder gets four times as many.
        processes: vectors in all, of the flow in one process and in two.
        memory: blocks of flows, and vectors a step, whose memory is measured.
        least: seconds that a sample lasts at least.
    """

    batches: tuple[int, ...] = (25, 64, 256, 1024, 4096)
    flow: Shape = Shape()
    dims: tuple[int, ...] = (16, 32, 64, 128, 256)
    blocks: tuple[int, ...] = (4, 8, 12, 16, 24)
    batch: int = 128
    images: tuple[int, ...] = (32, 64, 128)
    width: int = 16
    encoder: int = 64
    pictures: int = 8
    processes: tuple[int, ...] = (256, 1024, 4096)
    memory: tuple[tuple[int, ...], tuple[int, ...]] = ((4, 12, 24), (256, 1024, 2048))
    least: float = 0.05


FULL = Sizes()

TINY = Sizes(
    batches=(4, 8, 16),
    flow=Shape(8, 2, 16, 1),
    dims=(4, 8, 16),
    blocks=(1, 2, 3),
    batch=8,
    images=(16, 32),
    width=4,
    encoder=4,
    pictures=4,
    processes=(8, 16),
    memory=((1, 2), (8, 16)),
    least=0.0,
)
"""To see whether everything runs: its figures say nothing."""

CURVES = {
    "flow_batch": ("training step of the flow", "batch"),
    "flow_dim": ("training step of the flow", "latent size"),
    "flow_blocks": ("training step of the flow", "blocks"),
    "autoencoder": ("training step of the autoencoder", "pixels"),
    "encoder": ("frozen encoder, forward", "pixels"),
}
"""Curve -> what is timed, and what it is drawn against."""


def curve_rows(sizes: Sizes, counts: Sequence[int], repeats: int) -> Iterator[Row]:
    """A row for each size and number of threads; all points of a curve are timed in turn."""
    for name, made in (
        ("flow_batch", _batches(sizes)),
        ("flow_dim", _flows(sizes, [sizes.flow._replace(dim=dim) for dim in sizes.dims], sizes.dims)),
        ("flow_blocks", _flows(sizes, [sizes.flow._replace(blocks=count) for count in sizes.blocks], sizes.blocks)),
        ("autoencoder", _autoencoders(sizes)),
        ("encoder", _encoders(sizes)),
    ):
        points = dict(made)
        say(f"{name}: {len(points)} sizes, with {' and '.join(map(str, counts))} threads")
        keys = [(size, count) for size in points for count in counts]
        runs = [partial(_with, count, points[size]) for size, count in keys]
        samples = interleaved(runs, repeats, warm_up=1, least=sizes.least)
        for (size, count), seconds in zip(keys, samples, strict=True):
            yield row(name, "iin", seconds, batch=None, count=count, size=size)


def _with(count: int, run: Callable[[], object]) -> None:
    with threads(count):
        run()


def _batches(sizes: Sizes) -> Iterator[tuple[int, Callable[[], object]]]:
    step = loop_step(FlowAlone(vector_flow(*sizes.flow)).train())
    for batch in sizes.batches:
        yield batch, partial(step, torch.randn(batch, sizes.flow.dim))


def _flows(sizes: Sizes, shapes: Sequence[Shape], varied: Sequence[int]) -> Iterator[tuple[int, Callable[[], object]]]:
    for size, shape in zip(varied, shapes, strict=True):
        step = loop_step(FlowAlone(vector_flow(*shape)).train())
        yield size, partial(step, torch.randn(sizes.batch, shape.dim))


def _images(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 1, side, side) * 2 - 1


def _autoencoders(sizes: Sizes) -> Iterator[tuple[int, Callable[[], object]]]:
    for side in sizes.images:
        step = loop_step(autoencoder(size=side, width=sizes.width, layers=2).train())
        yield side**2, partial(step, Images(_images(sizes.pictures, side), torch.zeros(sizes.pictures)))


def _encoders(sizes: Sizes) -> Iterator[tuple[int, Callable[[], object]]]:
    for side in sizes.images:
        model = AutoencoderModel(channels=1, size=side, width=sizes.encoder).eval().requires_grad_(False)
        yield side**2, partial(model.encode, _images(4 * sizes.pictures, side))


# --- lines -----------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """``constant + slope * x``, and by how much it misses the farthest point, as a share of it."""

    constant: float
    slope: float
    error: float


def line(points: Sequence[tuple[float, float]]) -> Line:
    """The line with the least squares of relative errors, so that small points count as much as large ones.

    Args:
        points: (x, y), with y above 0; at least two different x.

    Raises:
        ValueError: there are fewer.
    """
    if len({x for x, _ in points}) < 2:
        raise ValueError("a line needs two points")
    weighted = torch.tensor([[1 / y, x / y] for x, y in points], dtype=torch.float64)
    constant, slope = torch.linalg.lstsq(weighted, torch.ones(len(points), 1, dtype=torch.float64)).solution.flatten()
    a, b = constant.item(), slope.item()
    return Line(a, b, max(abs(a + b * x - y) / y for x, y in points))


def lines(rows: Sequence[Row]) -> dict[tuple[str, int], Line]:
    """The line through each curve, by its name and the number of threads."""
    found: dict[tuple[str, int], Any] = {}
    for one in rows:
        if one["task"] in CURVES:
            found.setdefault((one["task"], one["threads"]), []).append((one["size"], one["seconds"]))
    return {key: line(points) for key, points in found.items()}
