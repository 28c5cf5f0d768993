"""What a step would take on many GPUs: formulas and assumptions, nothing that was run.

Times of one step in one process are added up from what its parts must compute and move; what processes exchange comes
on top as far as it does not fit behind the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from bench.peers import Shape
from bench.steps import ADAM, FlowAlone, loop_step

from iin.data import Images
from iin.engine import engine
from iin.flows import vector_flow
from iin.models import Autoencoder as AutoencoderModel
from iin.models import PatchDiscriminator
from iin.systems import Autoencoder
from scaling.costs import MOMENTS, flow_flops, kept_bytes, operations, step_flops, vgg

__all__ = ["CLUSTER", "Cluster", "Estimate", "Work", "autoencoder_work", "estimate", "estimates", "flow_work", "works"]


class Cluster(NamedTuple):
    """What is assumed of the hardware: nodes of eight GPUs of the A100's class, and a network adapter for each."""

    fp32: float = 19.5e12 * 0.7
    """Flops a second that matrix products reach: the peak, times the share of it that is assumed."""
    tf32: float = 156e12 * 0.4
    bf16: float = 312e12 * 0.4
    memory: float = 2.0e12 * 0.8
    """Bytes a second."""
    start: float = 8e-6
    """Seconds for the processor to start an operation, Python and autograd included."""
    node: int = 8
    """GPUs of a node."""
    inside: float = 230e9
    """Bytes a second between the GPUs of a node, in each direction."""
    between: float = 25e9 * 0.8
    """Bytes a second for each GPU between nodes."""
    hop: float = 5e-6
    """Seconds from a GPU to the next, however little is sent."""
    message: float = 30e-6
    """Seconds until a few numbers of the processor are in its GPU, and until what comes of them is back."""
    bucket: float = 25e6
    """Bytes that are sent together."""


CLUSTER = Cluster()

MOVES = 5
"""How often a byte that is kept for backward moves: written, read by what follows, read by backward; its gradient
written and read."""

BACKWARD = 2 / 3
"""Share of backward in forward and backward."""


LOSS = 24
"""Bytes of the sum that the processes make of a loss and of what asked them to stop."""


class Work(NamedTuple):
    """A step of training.

    Args:
        name: of what is trained.
        parameters: that are trained.
        flops: for each image.
        kept: bytes that are kept for backward, for each image.
        operations: that are started, however large they are.
        objectives: how often the processes tell each other the loss.
    """

    name: str
    parameters: int
    flops: int
    kept: int
    operations: int
    objectives: int = 1


class Estimate(NamedTuple):
    """A step of all processes; seconds, unless it says otherwise.

    Args:
        work: what is trained.
        precision: of matrix products.
        devices: GPUs.
        batch: images for each.
        sharded: whether parameters are split.
        device: what the GPU needs.
        start: what the processor needs to start its operations.
        exchange: what gradients (and weights, where they are split) need to travel.
        exposed: the part of it that does not fit behind backward.
        messages: what the processes need to tell each other the loss.
        memory: bytes of a GPU.
    """

    work: Work
    precision: str
    devices: int
    batch: int
    sharded: bool
    device: float
    start: float
    exchange: float
    exposed: float
    messages: float
    memory: float

    @property
    def seconds(self) -> float:
        """The step."""
        return max(self.device, self.start) + self.exposed + self.messages

    @property
    def images_per_second(self) -> float:
        """Of all processes."""
        return self.devices * self.batch / self.seconds

    @property
    def limit(self) -> str:
        """What takes most of the step."""
        parts = {
            "starting operations" if self.start > self.device else "computing": max(self.device, self.start),
            "exchange": self.exposed,
            "telling the loss": self.messages,
        }
        return max(parts, key=lambda name: parts[name])


def estimate(
    work: Work,
    devices: int,
    batch: int,
    precision: str = "tf32",
    *,
    sharded: bool = False,
    cluster: Cluster = CLUSTER,
) -> Estimate:
    """Estimate a step.

    Args:
        work: what is trained.
        devices: GPUs; more than a node has must be whole nodes.
        batch: images for each.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        sharded: split the parameters.
        cluster: what is assumed.

    Raises:
        ValueError: devices that are no whole nodes.
    """
    if devices > cluster.node and devices % cluster.node:
        raise ValueError(f"{devices} devices are no whole nodes of {cluster.node}")
    weights = 4 * work.parameters
    # Products: weights are read forward and backward, and their gradients written, however few images there are.
    products = max(work.flops * batch / getattr(cluster, precision), 3 * weights / cluster.memory)
    moves = MOVES * work.kept * batch / cluster.memory
    # Adam reads weight, gradient and moments, and writes all but the gradient.
    adam = 7 * work.parameters * 4 / cluster.memory / (devices if sharded else 1)
    both = max(products + moves, work.operations * cluster.start)
    exchange = _exchange(weights, devices, cluster) * (1.5 if sharded else 1)
    last = _exchange(min(weights, cluster.bucket), devices, cluster)
    held = MOMENTS * work.parameters / (devices if sharded else 1)
    return Estimate(
        work,
        precision,
        devices,
        batch,
        sharded,
        device=products + moves + adam,
        start=work.operations * cluster.start,
        exchange=exchange,
        exposed=max(last, exchange - (1 if sharded else BACKWARD) * both) if devices > 1 else 0.0,
        messages=(cluster.message + _exchange(LOSS, devices, cluster)) * work.objectives if devices > 1 else 0.0,
        memory=held + work.kept * batch,
    )


def _exchange(size: float, devices: int, cluster: Cluster) -> float:
    """Seconds until every GPU has the sum of what all have, ``size`` bytes each: within the nodes, then between them.

    Either way each GPU sends and receives ``2 (n - 1) / n`` times its part.
    """
    inside = min(devices, cluster.node)
    nodes = max(1, devices // cluster.node)
    seconds = 2 * (inside - 1) / inside * size / cluster.inside
    seconds += 2 * (nodes - 1) / nodes * (size / inside) / cluster.between
    steps = 2 * (inside - 1) + 2 * math.ceil(math.log2(nodes))
    return seconds + math.ceil(size / cluster.bucket) * steps * cluster.hop


# --- what is trained -------------------------------------------------------------------------------------------------


def flow_work(shape: Shape, name: str) -> Work:
    """A flow's step on kept codes; its blocks are all alike, so two of them tell."""
    counts, kept = zip(*(_flow_counts(shape._replace(blocks=blocks)) for blocks in (1, 2)), strict=True)
    further = shape.blocks - 1
    return Work(
        name,
        shape.parameters,
        flow_flops(shape),
        kept[0] + further * (kept[1] - kept[0]),
        counts[0] + further * (counts[1] - counts[0]),
    )


@lru_cache
def _flow_counts(shape: Shape) -> tuple[int, int]:
    """Operations of a step, and bytes kept for each vector."""
    system = FlowAlone(vector_flow(*shape)).train()
    x, step = torch.randn(4, shape.dim), loop_step(system)
    step(x)
    kept = kept_bytes(lambda: next(engine(system, ADAM).objectives(x, 1)), [*system.parameters(), x])
    return operations(lambda: step(x)), kept // len(x)


@lru_cache
def autoencoder_work(
    size: int,
    channels: int = 3,
    dim: int = 64,
    n_down: int = 4,
    width: int = 64,
    layers: int = 3,
    perceptual: bool = True,
) -> Work:
    """An autoencoder's step against a discriminator, as `celeba_ae` has it, at some size of images.

    Args:
        size, channels, dim, n_down, width: of the autoencoder.
        layers: of the discriminator; 0 for none.
        perceptual: with a perceptual distance in VGG16. Its flops and what it keeps are counted, but it is not built.
    """
    model = AutoencoderModel(channels=channels, size=size, dim=dim, n_down=n_down, width=width)
    judge = PatchDiscriminator(channels=channels, width=width, layers=layers) if layers else None
    system = Autoencoder(model, discriminator=judge, calibrate=judge is not None).train()
    batch = Images(torch.rand(2, channels, size, size) * 2 - 1, torch.zeros(2))
    step = loop_step(system)
    step(batch)
    held = [*system.parameters(), *system.buffers(), batch.image]
    kept = kept_bytes(lambda: next(engine(system, ADAM).objectives(batch, 1)), held) // 2
    count = operations(lambda: step(batch))
    if perceptual:
        maps = vgg(size)
        kept += sum(4 * layer.outputs * layer.side**2 for layer in maps)
        count += 2 * 2 * len(maps) + 2 * len(maps)  # images and reconstructions forward, reconstructions back
    return Work(
        f"autoencoder, {size} pixels" + (", perceptual distance" if perceptual else ""),
        sum(parameter.numel() for parameter in system.parameters()),
        step_flops(channels, size, dim, n_down, width, layers, perceptual),
        kept,
        count,
        1 + bool(layers),
    )


def works() -> list[Work]:
    """What the page's tables are about."""
    plain = [autoencoder_work(size, perceptual=False) for size in (32, 64, 128)]
    return [flow_work(Shape(), "flow as published"), flow_work(LARGE, "large flow"), *plain, autoencoder_work(128)]


LARGE = Shape(dim=256, blocks=32, hidden=2048, depth=2)
"""A flow with forty times the parameters of the published one."""


def estimates(cluster: Cluster = CLUSTER) -> Iterator[list[Estimate]]:
    """The lines of the page's table, each group with one GPU first."""
    published, large, *_, faces = works()
    yield [estimate(published, *how, cluster=cluster) for how in ((1, 25), (5, 5))]  # 25 in all
    for work, batch in ((published, 1024), (large, 1024), (faces, 25)):
        group = [estimate(work, devices, batch, cluster=cluster) for devices in (1, 8, 512)]
        if work is large:
            group.append(estimate(large, 512, batch, sharded=True, cluster=cluster))
        yield group
