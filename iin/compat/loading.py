"""From a file to the network in it, to a system around it, or to a configuration of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from iin import systems
from iin.compat.bigae import bigae, biggan, is_bigae, is_biggan
from iin.compat.conditional import completed, conditional_flow
from iin.compat.networks import autoencoder, classifier, discriminator, factor_flow, flow
from iin.compat.reading import named, read
from iin.compat.state import CompatError, Source, listed
from iin.flows import Chain, ConditionalFlow
from iin.models import Autoencoder, BigAE, BigGAN, Classifier, ConvEmbedder
from iin.system import System

__all__ = ["architecture", "load", "network_of", "system"]


def load(
    path: str | Path, factors: Sequence[int] | int | None = None, config: Mapping[str, Any] | None = None
) -> nn.Module:
    """The network of an original checkpoint: an autoencoder, a generator, a classifier or a flow, in eval mode.

    Args:
        path: the file, or a run's folder of the original, whose newest checkpoint counts.
        factors: for a flow: dimensions or number of its factors; None for the plain flow.
        config: for a conditional flow: what its weights do not tell of the original's section ``Transformer``, which
            is ``activation`` (``none`` in all that were published) and, for maps, ``conditioning_spatial_size``. The
            whole will do too.

    Raises:
        CompatError: not such a file, or one that asks for code to be run.
    """
    with named(path):
        return network_of(read(path)["model"], factors, config)


def network_of(
    state: Mapping[str, Tensor],
    factors: Sequence[int] | int | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network whose keys these are."""
    if factors is None and any(key.startswith("flow.sub_layers.") for key in state):
        return conditional_flow(state, completed(state, config))
    if config is not None:
        raise CompatError("a configuration is for conditional flows, and this is none")
    if any(key.startswith("realnvp.") for key in state):
        return flow(state) if factors is None else factor_flow(state, factors)
    if factors is None and is_bigae(state):
        return bigae(state)
    if factors is None and is_biggan(state):
        return biggan(state)
    if not any(key.startswith(("feature_layers.", "dense_encode.")) for key in state):
        raise CompatError(
            "not a checkpoint of the original; its keys are those of none of its networks: " + listed([*state])
        )
    if factors is not None:
        raise CompatError("factors are for flows, and this is none")
    decodes = any(key.startswith(("dense_decode.", "decoder_layers.", "image_layer.")) for key in state)
    return autoencoder(state) if decodes else classifier(state)


def system(path: str | Path, **settings: Any) -> System:
    """A first stage of the original with all that its checkpoint holds, as a system that can be trained further.

    An autoencoder comes with the discriminator that it was trained against and its noise level: `systems.Autoencoder`.
    How it was trained is not in the file: ``disc_start``, ``perceptual`` and the like are settings. Neither is the
    state of the discriminator's optimiser. A classifier becomes a `systems.Classifier`, without settings.

    Args:
        path: the file, or a run's folder of the original, whose newest checkpoint counts.
        settings: further arguments of `systems.Autoencoder`.

    Returns:
        The system, in training mode.

    Raises:
        CompatError: not such a file; keys that are missing or left over, those of the loss included.
    """
    with named(path):
        content = read(path)
        model: Any = network_of(content["model"])
        loss = content.get("loss") or {}
        if isinstance(model, Classifier):
            if settings or loss:
                raise CompatError(f"a classifier has no {'settings' if settings else 'loss'}")
            return systems.Classifier(model).train()
        if isinstance(model, BigAE):
            if loss:
                raise CompatError("a BigAE was published without its loss, and this file has one")
            return systems.Autoencoder(model, **settings).train()
        if isinstance(model, BigGAN):
            raise CompatError("a generator is no system: it has no encoder to be trained")
        if not isinstance(model, Autoencoder):
            raise CompatError(
                "a flow is no system without a first stage: iin.systems.LatentFlow(first_stage, iin.compat.load(path))"
            )
        prefix = "discriminator."
        source = Source({k: v for k, v in loss.items() if not k.startswith(prefix)}, "autoencoder's loss")
        logvar = source.take("logvar", ())
        source.check()
        judge = discriminator({k.removeprefix(prefix): v for k, v in loss.items() if k.startswith(prefix)})
        made = systems.Autoencoder(model, discriminator=judge, **settings)
        made.logvar = nn.Parameter(logvar.clone())
        return made.train()


def architecture(path: str | Path | nn.Module, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Node of a configuration that builds the network of an original checkpoint, without its weights.

    Args:
        path, config: see `load`; or the network that it returned.

    Raises:
        CompatError: as `load` does.
    """
    model = path if isinstance(path, nn.Module) else load(path, config=config)
    if isinstance(model, ConditionalFlow):
        return _conditional(model)
    if isinstance(model, Chain):
        coupling: Any = model[1]
        sizes = {"dim": coupling.dim, "blocks": len(model) // 4, "hidden": coupling.hidden, "depth": coupling.depth}
        return {"target": "iin.flows.vector_flow", "params": sizes}
    names = ["channels", "size", "dim", "n_down", "width", "norm"]
    if isinstance(model, Classifier):
        names += ["classes"]
    elif isinstance(model, BigAE):
        names = ["dim", "norm", "final_norm", "classes", "hidden", "depth", "width", "layers", "double_normalisation"]
    elif isinstance(model, BigGAN):
        names = ["size", "classes", "part", "embedding", "width"]
    params = {name: list(value) if isinstance(value := getattr(model, name), tuple) else value for name in names}
    return {"target": f"iin.models.{type(model).__name__}", "params": params}


def _conditional(flow: ConditionalFlow) -> dict[str, Any]:
    block: Any = flow.blocks[0]
    coupling, embedder = block[-2], flow.embedder
    maps = isinstance(embedder, ConvEmbedder)
    names = ["channels", "size", "dim", "n_down", "width"] if maps else ["channels", "dim", "widths"]
    params = {name: list(value) if isinstance(value := getattr(embedder, name), tuple) else value for name in names}
    sizes = {"dim": flow.dim, "blocks": len(flow.blocks), "hidden": coupling.hidden, "depth": coupling.depth}
    return {
        "target": "iin.flows.conditional_flow",
        "params": {
            **sizes,
            "embedder": {"target": f"iin.models.{type(embedder).__name__}", "params": params},
            "conditioning": flow.conditioning,
            "activation": "lrelu" if len(block) > 4 else "none",
        },
    }
