"""Which runs belong together: layers of one network, and networks over one first stage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from iin.demo.runs import Exhibit
from iin.models.representation import Layer
from iin.models.representation.names import aliases
from iin.systems import FactorFlow

__all__ = ["Network", "Stage", "encodes", "judges", "stages"]

ENDS = ("logits", "softmax")
"""Layers that come behind all others; ``input`` comes before them."""


@dataclass(repr=False)
class Network:
    """Layers of one network, each with the run whose flow is conditioned on it; all over the same first stage."""

    layers: dict[str, Exhibit]
    """From the image to the answer."""

    @property
    def first(self) -> Exhibit:
        """The run whose test images are shown."""
        return next(iter(self.layers.values()))

    def __repr__(self) -> str:
        return f"Network({', '.join(self.layers)})"


@dataclass(repr=False)
class Stage:
    """Runs over one first stage, for images of one size."""

    networks: list[Network]
    """In the order in which their runs were given."""
    factors: list[Exhibit]
    """Runs that split the code of the same first stage into factors."""

    def __repr__(self) -> str:
        return f"Stage({self.networks}, {[run.name for run in self.factors]})"


def stages(runs: Sequence[Exhibit]) -> list[Stage]:
    """Group runs whose flow is conditioned on a representation by first stage, and in it by network.

    Two networks, or first stages, are the same if they say the same of the same noise, to the bit. Runs that have
    their first stage or network in common then hold it once: a copy for each layer would fill the memory.
    """
    found: dict[Any, Stage] = {}
    networks: dict[Any, dict[str, Exhibit]] = {}
    first: dict[Any, nn.Module] = {}
    for run in filter(_conditional, runs):
        key = _first_stage(run)
        run.system.first_stage = first.setdefault(key, run.system.first_stage)
        stage = found.setdefault(key, Stage([], []))
        name = _network(run), key
        if name not in networks:
            networks[name] = {}
            stage.networks.append(Network(networks[name]))
        layers = networks[name]
        if layers:
            _share(next(iter(layers.values())).system.representation, run.system.representation)
        layer = getattr(run.system.representation, "layer", None) or run.name
        layers[f"{layer} ({run.name})" if layer in layers else str(layer)] = run
    for run in runs:
        if found and isinstance(run.system, FactorFlow) and run.system.decodes:
            key = _first_stage(run)
            if key in found:
                run.system.first_stage = first[key]
                found[key].factors.append(run)
    for stage in found.values():
        stage.networks = [_by_depth(network) for network in stage.networks]
    return list(found.values())


@torch.no_grad()
def encodes(run: Exhibit) -> bool:
    """Whether the run's first stage finds a code of an image; a generator has only the way back."""
    stage = run.system.first_stage
    if stage not in _encodes:
        try:
            stage.encode(_noise(run))
            _encodes[stage] = True
        except (AttributeError, NotImplementedError, ValueError):  # it says that it does not
            _encodes[stage] = False
    return _encodes[stage]


@torch.no_grad()
def judges(run: Exhibit) -> bool:
    """Whether the run's network takes images for something, and not only tells what a layer holds."""
    network = run.system.representation
    if network not in _judges:
        try:
            network.logits(_noise(run))
            _judges[network] = True
        except (AttributeError, ValueError):  # it has no answers, or not of this kind
            _judges[network] = False
    return _judges[network]


def _conditional(run: Exhibit) -> bool:
    return bool(getattr(run.system, "conditional", False)) and run.system.decodes


def _by_depth(network: Network) -> Network:
    """A network's layers from the image to the answer, as far as their names tell; others stay where they are."""
    names = [name for name, _ in network.first.system.representation.named_modules()]
    also = aliases(getattr(network.first.system.representation, "model", None))

    def depth(item: tuple[str, Exhibit]) -> int:
        layer = str(getattr(item[1].system.representation, "layer", ""))
        if layer == "input":
            return -1
        layer = also.get(layer, layer)
        if layer in ENDS:
            return len(names) + ENDS.index(layer)
        # The network stands inside of what reads its layers, so that a name of ours is the end of one of these.
        return next((at for at, name in enumerate(names) if layer and f".{name}".endswith(f".{layer}")), len(names) - 1)

    return Network(dict(sorted(network.layers.items(), key=depth)))


def _share(one: Any, other: Any) -> None:
    """Let two layers of what is the same network hold it once, where it is of the same make."""
    if isinstance(one, Layer) and isinstance(other, Layer):
        makes = [(type(layer.model), list(layer.model.state_dict())) for layer in (one, other)]
        if makes[0] == makes[1]:
            other.model = one.model


# --- telling them apart ----------------------------------------------------------------------------------------------

_known: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
"""Answers of modules that were asked before; all are frozen."""
_encodes: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_judges: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _first_stage(run: Exhibit) -> Any:
    """What tells a first stage, and the size of its images, from others."""
    stage = run.system.first_stage
    if stage not in _known:
        _known[stage] = tuple(_said(run, stage))
    return (run.shape, run.device, run.system.dim, *_known[stage])


@torch.no_grad()
def _said(run: Exhibit, stage: Any) -> Iterator[str]:
    """What a first stage says of noise."""
    generator = torch.Generator().manual_seed(0)
    yield type(stage).__name__
    yield _digest(stage.decode(torch.randn(2, run.system.dim, generator=generator).to(run.device)))
    if encodes(run):
        yield _digest(stage.encode(_noise(run)).mean)


@torch.no_grad()
def _network(run: Exhibit) -> Any:
    """What tells a network from others; one that gives no answers, by its weights."""
    network = run.system.representation
    if network not in _known:
        if judges(run):
            _known[network] = _digest(network.logits(_noise(run)))
        else:
            _known[network] = _digest(*(tensor for _, tensor in sorted(network.state_dict().items())))
    return _known[network]


def _noise(run: Exhibit) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, *run.shape, generator=generator) * 2 - 1).to(run.device)


def _digest(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(str(list(tensor.shape)).encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
