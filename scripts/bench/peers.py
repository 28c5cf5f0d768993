"""The published flow, built with the classes of other packages; everywhere a network for scales and one for shifts.

Where a package wants one network whose output is twice as wide, an adapter joins the two. How scales are kept within
bounds is each package's own affair.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from iin.flows import vector_flow

__all__ = ["LIBRARIES", "PACKAGES", "PUBLISHED", "Flow", "PlainFlow", "Shape", "absent", "network"]


class Shape(NamedTuple):
    """Sizes of a flow; the published ones by default."""

    dim: int = 64
    blocks: int = 12
    hidden: int = 512
    depth: int = 2

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer of a network."""
        return list(pairwise([self.dim // 2] + [self.hidden] * (self.depth + 1) + [self.dim // 2]))

    @property
    def networks(self) -> int:
        """Two couplings a block, of two networks each."""
        return 4 * self.blocks

    @property
    def parameters(self) -> int:
        """Weights and biases of all networks; two numbers a dimension where a block normalises."""
        return self.networks * sum(i * o + o for i, o in self.layers) + 2 * self.blocks * self.dim


PUBLISHED = Shape()


class Flow(NamedTuple):
    """A flow of some package."""

    module: nn.Module
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Data ``[B, D]`` to latents ``[B, D]`` and log-determinants ``[B]``."""
    inverse: Callable[[Tensor], Tensor]
    """Latents to data."""

    @property
    def parameters(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel() for parameter in self.module.parameters() if parameter.requires_grad)


def network(shape: Shape, *last: nn.Module) -> nn.Sequential:
    """A network of a coupling: half of the dimensions to as many numbers; ``last`` comes behind the last layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in shape.layers:
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers[:-1], *last)


class Joined(nn.Module):
    """A network for shifts and one for scales, as one with outputs for both.

    Args:
        shape: of the flow.
        last: what comes behind the last layer of the network for scales.
        mixed: shift and scale of a dimension stand side by side; otherwise all shifts come first.
    """

    def __init__(self, shape: Shape, *last: nn.Module, mixed: bool) -> None:
        super().__init__()
        self.shift, self.scale = network(shape), network(shape, *last)
        self.mixed = mixed

    def forward(self, kept: Tensor, context: None = None) -> Tensor:
        shift, scale = self.shift(kept), self.scale(kept)
        return torch.stack([shift, scale], -1).flatten(1) if self.mixed else torch.cat([shift, scale], 1)


def iin(shape: Shape) -> Flow:
    """`iin.flows.vector_flow`."""
    flow = vector_flow(*shape)
    return Flow(flow, flow, flow.inverse)


def freia(shape: Shape) -> Flow:
    """FrEIA: a block for both couplings, with four networks."""
    from FrEIA.framework import SequenceINN
    from FrEIA.modules import ActNorm, PermuteRandom, RNVPCouplingBlock

    flow = SequenceINN(shape.dim)
    for _ in range(shape.blocks):
        flow.append(ActNorm)
        flow.append(RNVPCouplingBlock, subnet_constructor=lambda *_: network(shape), clamp=1.0, clamp_activation="TANH")
        flow.append(PermuteRandom)
    return Flow(flow, flow, lambda z: flow(z, rev=True)[0])


def normflows(shape: Shape) -> Flow:
    """normflows: its flows lead from latents to data, so the last block comes first."""
    import normflows as nf

    blocks: list[nn.Module] = []
    for _ in range(shape.blocks):
        blocks.append(nf.flows.ActNorm((shape.dim,)))
        blocks += [
            nf.flows.AffineCouplingBlock(Joined(shape, nn.Tanh(), mixed=True), scale_map="exp", split_mode=mode)
            for mode in ("channel", "channel_inv")
        ]
        blocks.append(nf.flows.Permute(shape.dim, mode="shuffle"))
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(shape.dim, trainable=False), blocks[::-1])
    return Flow(flow, flow.inverse_and_log_det, flow)


def nflows(shape: Shape) -> Flow:
    """nflows."""
    from nflows.transforms import ActNorm, AffineCouplingTransform, CompositeTransform, RandomPermutation

    second = torch.arange(shape.dim) >= shape.dim // 2  # which half is moved
    blocks: list[nn.Module] = []
    for _ in range(shape.blocks):
        blocks.append(ActNorm(shape.dim))
        blocks += [
            AffineCouplingTransform(moved.int(), lambda *_: Joined(shape, mixed=False)) for moved in (second, ~second)
        ]
        blocks.append(RandomPermutation(shape.dim))
    flow = CompositeTransform(blocks)
    return Flow(flow, flow, lambda z: flow.inverse(z)[0])


def zuko(shape: Shape) -> Flow:
    """zuko: it has no ActNorm, so the scales and shifts of dimensions start as the identity."""
    from zuko.flows import ElementWiseTransform, GeneralCouplingTransform
    from zuko.lazy import LazyComposedTransform, UnconditionalTransform
    from zuko.transforms import PermutationTransform

    first = torch.arange(shape.dim) < shape.dim // 2  # which half stays
    blocks: list[nn.Module] = []
    for _ in range(shape.blocks):
        normalise = ElementWiseTransform(shape.dim)
        for parameter in normalise.parameters():
            nn.init.zeros_(parameter)
        blocks.append(normalise)
        for kept in (first, ~first):
            coupling = GeneralCouplingTransform(shape.dim, mask=kept, hidden_features=())
            coupling.hyper = Joined(shape, mixed=True)
            blocks.append(coupling)
        blocks.append(UnconditionalTransform(PermutationTransform, torch.randperm(shape.dim), buffer=True))
    flow = LazyComposedTransform(*blocks)
    return Flow(flow, lambda x: flow().call_and_ladj(x), lambda z: flow().inv(z))


class PlainFlow(nn.Module):
    """The published flow as one writes it with `torch.nn.Linear`: no batching of networks, nothing by hand."""

    orders: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(shape.blocks, shape.dim))
        self.scale = nn.Parameter(torch.ones(shape.blocks, shape.dim))
        self.scales = nn.ModuleList(network(shape, nn.Tanh()) for _ in range(2 * shape.blocks))
        self.shifts = nn.ModuleList(network(shape) for _ in range(2 * shape.blocks))
        self.register_buffer("orders", torch.stack([torch.randperm(shape.dim) for _ in range(shape.blocks)]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logdet = x.new_zeros(len(x))
        for block, (loc, scale, order) in enumerate(zip(self.loc, self.scale, self.orders, strict=True)):
            x = scale * (x + loc)
            logdet = logdet + scale.abs().log().sum()
            first, second = x.chunk(2, 1)
            log_scale = self.scales[2 * block](first)
            second = second * log_scale.exp() + self.shifts[2 * block](first)
            logdet = logdet + log_scale.sum(1)
            log_scale = self.scales[2 * block + 1](second)
            first = first * log_scale.exp() + self.shifts[2 * block + 1](second)
            logdet = logdet + log_scale.sum(1)
            x = torch.cat([first, second], 1)[:, order]
        return x, logdet


LIBRARIES: dict[str, Callable[[Shape], Flow]] = {
    "iin": iin,
    "freia": freia,
    "normflows": normflows,
    "nflows": nflows,
    "zuko": zuko,
}
"""This one first, then its peers."""

PACKAGES = {"freia": "FrEIA", "normflows": "normflows", "nflows": "nflows", "zuko": "zuko"}
"""Peer -> its package, under the name by which it is installed and imported."""


def absent() -> list[str]:
    """Peers that are not installed."""
    return [peer for peer, package in PACKAGES.items() if importlib.util.find_spec(package) is None]
