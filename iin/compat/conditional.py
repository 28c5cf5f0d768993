"""Conditional flows of the ECCV 2020 code from their state dicts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from iin.compat.networks import place_block
from iin.compat.state import CompatError, Source, listed
from iin.flows import ConditionalFlow
from iin.flows import conditional_flow as build
from iin.models import ConvEmbedder, DenseEmbedder

__all__ = ["Untold", "completed", "conditional_flow"]

CONFIGURATION = "configuration of a conditional flow"
"""What errors call it."""

SIZES = (
    "in_channels",
    "mid_channels",
    "hidden_depth",
    "n_flows",
    "conditioning_in_channels",
    "conditioning_spatial_size",
)
DEFAULTS = {
    "activation": "lrelu",
    "embedding_channels": None,
    "conditioning_depth": 4,
    "conditioning_dims": "none",
    "embedder_down": 4,
}


class Untold(CompatError):
    """Weights that do not tell all of the configuration; ``names`` is what lacks."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"a conditional flow, whose weights do not tell {' and '.join(names)}: give its configuration, as in "
            f"iin.compat.load(path, config={{{', '.join(f'{name!r}: ...' for name in names)}}})"
        )
        self.names = tuple(names)


def conditional_flow(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any], *, published_logdet: bool = False
) -> ConditionalFlow:
    """The original's ``ConditionalTransformer``: ``flow(x [B, D], context) -> (v [B, D], logdet [B])``.

    The context is the representation, ``[B, C]`` or ``[B, C, H, W]``. Weights become ours as those of `flow` do.
    Blocks that have seen no data yet take their statistics from the first batch in training mode, where the original
    takes them in any mode.

    Args:
        state_dict: as the original's ``from_pretrained`` reads it, or the entry ``model`` of a checkpoint.
        config: the original's configuration with its section ``Transformer``, or that section. Without ``activation``
            the original has ``lrelu``.
        published_logdet: leave the activations out of the log-determinant, as the original does. Without activations
            nothing changes.

    Returns:
        The flow, in eval mode.

    Raises:
        CompatError: keys that are missing or left over, shapes that do not fit, or a configuration that is none.

    References:
        CompVis/invariances, the code of Making Sense of CNNs: Interpreting Deep Representations and Their Invariances
        with INNs (Rombach, Esser and Ommer, 2020), arXiv:2008.01777
    """
    told = _checked(config)
    source = Source(state_dict, "conditional flow")
    dim = told["in_channels"]
    try:
        with torch.device("meta"):  # neither time nor random numbers for weights that are replaced
            embedder = _embedder(told)
            made = build(
                dim,
                embedder,
                blocks=told["n_flows"],
                hidden=told["mid_channels"],
                depth=told["hidden_depth"],
                conditioning=told["conditioning_option"],
                activation=told["activation"],
                published_logdet=published_logdet,
            )
    except ValueError as error:
        raise CompatError(f"{CONFIGURATION}: {error}") from error
    for k in range(told["n_flows"]):
        norm, *others = (f"blocks.{k}.blocks.{part}" for part in range(len(made.blocks[k])))  # type: ignore[arg-type]
        theirs = [f"flow.sub_layers.{k}.{part}" for part in ("norm_layer", "coupling", "shuffle")]
        place_block(source, made, [norm, *others[-3:]], theirs)
    for k in range(len(made.maps)):
        _place_linear(source, made, f"maps.{k}", f"flow.conditioning_layers.{k}")
    _place_embedder(source, made, embedder)
    source.into(made)
    return made.eval()


def completed(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> dict[str, Any]:
    """A configuration of the original, of which the weights tell all but the activation and the size of maps.

    Args:
        state_dict: of the flow.
        config: what is known of it, as `conditional_flow` takes it; it counts where the weights tell otherwise.

    Raises:
        Untold: what the weights do not tell is not known.
    """
    told = _told(state_dict) | dict(_section(config or {}))
    if missing := [name for name in ("activation", "conditioning_spatial_size") if name not in told]:
        raise Untold(missing)
    return told


def _told(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """What weights tell of the configuration; those of something else tell nothing that would fit them."""
    source = Source(state_dict, "conditional flow")
    hidden, wide = source.shape("flow.sub_layers.0.coupling.s.0.main.0.weight", 2)
    dim = source.shape("flow.sub_layers.0.norm_layer.loc", 4)[1]
    linear = source.count(r"flow\.sub_layers\.\d+\.coupling\.[st]\.\d\.main\.(\d+)\.", step=2)
    told: dict[str, Any] = {
        "in_channels": dim,
        "embedding_channels": wide - dim // 2,
        "mid_channels": hidden,
        "hidden_depth": max(0, linear - 2),
        "n_flows": max(1, source.count(r"flow\.sub_layers\.(\d+)\.")),
        # Parallel conditioning has the same keys, but the original never ran with it.
        "conditioning_option": "sequential" if source.count(r"flow\.conditioning_layers\.(\d+)\.") else "none",
    }
    if halvings := source.count(r"embedder\.feature_layers\.(\d+)\."):
        channels = source.shape("embedder.feature_layers.0.sub_layers.0.weight", 4)[1]
        return {**told, "conditioning_in_channels": channels, "embedder_down": halvings}
    layers = max(1, source.count(r"embedder\.net\.(\d+)\.weight", step=3))
    shapes = [source.shape(f"embedder.net.{3 * k}.weight", 4) for k in range(layers)]
    widths = [shapes[0][1], *(shape[0] for shape in shapes)]
    return {
        **told,
        "conditioning_in_channels": widths[0],
        "conditioning_spatial_size": 1,
        "conditioning_dims": widths,
    }


def _checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``Transformer`` with the original's defaults.

    Raises:
        CompatError: it is none.
    """
    words, section = CONFIGURATION, _section(config)
    if missing := [name for name in (*SIZES, "conditioning_option") if section.get(name) is None]:
        raise CompatError(f"{words}: missing: {listed(missing)}")
    if unknown := [str(name) for name in section if name not in (*SIZES, *DEFAULTS, "conditioning_option")]:
        warnings.warn(f"{words}: the original knows no {listed(unknown)}, and ignores it", stacklevel=3)
    told = {**DEFAULTS, **section}
    wrong = []
    for name in (*SIZES, "conditioning_depth", "embedder_down"):
        least = {"hidden_depth": 0, "conditioning_depth": 2}.get(name, 1)
        value = told[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            wrong.append(f"{name} is {value!r}, expected a whole number of at least {least}")
    for name, choices in (
        ("conditioning_option", ("none", "sequential", "parallel")),
        ("activation", ("none", "lrelu")),
    ):
        told[name] = str(told[name]).lower()  # YAML's null included
        if told[name] not in choices:
            wrong.append(f"{name} is {section[name]!r}, expected {', '.join(choices[:-1])} or {choices[-1]}")
    if told["embedding_channels"] not in (None, told["in_channels"]):
        wrong.append(
            f"embedding_channels is {told['embedding_channels']!r}, expected in_channels = {told['in_channels']!r}: "
            "with others the original does not run"
        )
    widths = told["conditioning_dims"]
    if widths is None or str(widths).lower() == "none":
        told["conditioning_dims"] = None
    elif not isinstance(widths, Sequence) or not all(isinstance(width, int) for width in widths):
        wrong.append(f"conditioning_dims is {widths!r}, expected a list of whole numbers, or none")
    if wrong:
        raise CompatError(f"{words}: {listed(wrong)}")
    return told


def _section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    section = config.get("Transformer", config) if isinstance(config, Mapping) else config
    if not isinstance(section, Mapping):
        raise CompatError(
            f"{CONFIGURATION}: expected names and values, as the original has below Transformer, found {section!r}"
        )
    return section


def _embedder(told: Mapping[str, Any]) -> nn.Module:
    channels, dim = told["conditioning_in_channels"], told["in_channels"]
    size = told["conditioning_spatial_size"]
    if size == 1:
        return DenseEmbedder(channels, dim, told["conditioning_depth"], told["conditioning_dims"])
    return ConvEmbedder(channels, size, dim, told["embedder_down"])


def _place_embedder(source: Source, made: nn.Module, embedder: nn.Module) -> None:
    if isinstance(embedder, ConvEmbedder):
        for k in range(embedder.n_down):
            for j in range(2):  # convolution and normalisation
                source.copy(made, f"embedder.net.{3 * k + j}", f"embedder.feature_layers.{k}.sub_layers.{j}")
        source.copy(made, f"embedder.net.{3 * embedder.n_down}", "embedder.dense_encode.sub_layers.0")
        return
    for name, layer in embedder.get_submodule("net").named_children():
        if isinstance(layer, nn.Linear):
            _place_linear(source, made, f"embedder.net.{name}", f"embedder.net.{name}")
        elif layer.state_dict():
            source.copy(made, f"embedder.net.{name}", f"embedder.net.{name}")


def _place_linear(source: Source, made: nn.Module, mine: str, theirs: str) -> None:
    """A linear layer, which the original has as a convolution over one position."""
    out, into = made.get_parameter(f"{mine}.weight").shape
    source.place(f"{mine}.weight", source.take(f"{theirs}.weight", (out, into, 1, 1))[:, :, 0, 0])
    source.place(f"{mine}.bias", source.take(f"{theirs}.bias", (out,)))
