"""The autoencoder and the generators of natural images that stand under the published conditional flows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iin.compat.state import Source
from iin.models import BigAE, BigGAN
from iin.models.biggan import MULTIPLES, FinalNorm, Generator, SpectralConv2d, SpectralLinear
from iin.models.norm import NormName

__all__ = ["bigae", "biggan", "is_bigae", "is_biggan"]

_FIRST = "G_linear.module.weight_bar"
"""The generator's first layer."""

_MARK = "decoder.decoder."
"""What names of the generator begin with in an autoencoder."""


def is_bigae(state: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a BigAE, or of something like it."""
    return any(key.startswith((_MARK, "decoder.map_to_class_embedding.", "encoder.model.")) for key in state)


def is_biggan(state: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a BigGAN, or of something like it."""
    return any(key.startswith(("G_linear.", "GBlock.")) for key in state)


def bigae(state_dict: Mapping[str, Tensor], *, double_normalisation: bool = True, deterministic: bool = False) -> BigAE:
    """A published BigAE: ``encode(image [B, 3, 128, 128]) -> Gaussian`` over ``[B, D]``, ``decode(x [B, D])``.

    Args:
        state_dict: the network's entries; such files hold nothing else.
        double_normalisation: as the weights were trained; see `iin.models.BigAE`.
        deterministic: without posterior noise. The published ones have it.

    Returns:
        The network, in eval mode.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
    """
    source = Source(state_dict, "BigAE")
    layers = [max(1, source.count(rf"encoder\.model\.layer{stage}\.(\d+)\.")) for stage in range(1, 5)]
    classifier = "decoder.map_to_class_embedding.main"
    linear = max(2, source.count(rf"{classifier.replace('.', chr(92) + '.')}\.(\d+)\.", step=2))
    hidden, dim = source.shape(f"{classifier}.0.weight", 2)
    classes = source.shape(f"{classifier}.{2 * (linear - 1)}.weight", 2)[0]
    width = source.shape(f"{_MARK}{_FIRST}", 2)[0] // (16 * MULTIPLES[128][0])
    with torch.device("meta"):
        made = BigAE(
            dim=max(101, dim),
            norm=_norm(source, "encoder.model.bn1"),
            final_norm=_final_norm(source, f"{_MARK}ScaledCrossReplicaBN"),
            classes=classes,
            hidden=hidden,
            depth=linear - 2,
            width=_multiple(width),
            layers=layers,
            double_normalisation=double_normalisation,
            deterministic=deterministic,
        )
    for name, module in made.encoder.named_modules():
        if name != "fc" and not list(module.children()) and module.state_dict():
            source.copy(made, f"encoder.{name}", f"encoder.model.{name}")
    head = source.take("encoder.model.fc.sub_layers.0.weight", (*made.encoder.fc.weight.shape, 1, 1))
    source.place("encoder.fc.weight", head.flatten(1))
    source.place("encoder.fc.bias", source.take("encoder.model.fc.sub_layers.0.bias", made.encoder.fc.bias.shape))
    for k in range(linear):
        source.copy(made, f"classifier.{2 * k}", f"{classifier}.{2 * k}")
    _place_generator(source, made, _MARK)
    source.into(made)
    return made.eval()


def biggan(state_dict: Mapping[str, Tensor]) -> BigGAN:
    """A published BigGAN for images of 128 or 256 pixels: ``decode(x [B, D])``, latent and class embedding in a row.

    Args:
        state_dict: the generator's entries.

    Returns:
        The network, in eval mode.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
    """
    source = Source(state_dict, "BigGAN")
    first, part = source.shape(_FIRST, 2)
    embedding, classes = source.shape("linear.weight", 2)
    size = 256 if source.count(r"GBlock\.(\d+)\.") > len(MULTIPLES[128]) - 1 else 128
    with torch.device("meta"):
        made = BigGAN(size, classes, part, embedding, _multiple(first // (16 * MULTIPLES[size][0])))  # type: ignore[arg-type]
    _place_generator(source, made, "")
    source.into(made)
    return made.eval()


def _multiple(width: int) -> int:
    """The nearest width that can be built; shapes tell of any other."""
    return max(4, width // 4 * 4)


def _norm(source: Source, layer: str) -> NormName:
    if any(f"{layer}.{name}" in source for name in ("loc", "scale", "initialized")):
        return "actnorm"
    return "batch" if any(f"{layer}.{name}" in source for name in ("running_mean", "running_var")) else "instance"


def _final_norm(source: Source, layer: str) -> FinalNorm:
    return "actnorm" if _norm(source, layer) == "actnorm" else "batch"


BLOCK = {"norm0": "HyperBN", "norm1": "HyperBN_1", "conv0": "conv0", "conv1": "conv1", "skip": "conv_sc"}
NORM = {"batch": "bn", "scale": "gamma_embed", "shift": "beta_embed"}
ATTENTION = {"query": "theta", "key": "phi", "value": "g", "out": "o_conv"}


def _place_generator(source: Source, made: BigAE | BigGAN, theirs: str) -> None:
    """The generator, and the class embedding that belongs to it there."""
    source.copy(made, "embed_class", f"{theirs}linear")
    ours = made.generator
    names = {"linear": "G_linear", "image": "colorize"}
    names |= {f"attention.{mine}": f"attention.{name}" for mine, name in ATTENTION.items()}
    for b in range(len(ours.blocks)):
        for mine, name in BLOCK.items():
            if not mine.startswith("norm"):
                names[f"blocks.{b}.{mine}"] = f"GBlock.{b}.{name}"
                continue
            for inner, other in NORM.items():
                names[f"blocks.{b}.{mine}.{inner}"] = f"GBlock.{b}.{name}.{other}"
    for mine, name in names.items():
        if isinstance(ours.get_submodule(mine), nn.BatchNorm2d):
            source.copy(made, f"generator.{mine}", theirs + name)
        else:
            _place_spectral(source, ours, mine, f"{theirs}{name}.module")
    source.copy(made, "generator.norm", f"{theirs}ScaledCrossReplicaBN")
    source.place("generator.attention.gain", source.take(f"{theirs}attention.gamma", (1,)))


def _place_spectral(source: Source, ours: Generator, mine: str, theirs: str) -> None:
    """A layer with spectral normalisation."""
    layer: Any = ours.get_submodule(mine)
    assert isinstance(layer, (SpectralConv2d, SpectralLinear)), type(layer)
    place = f"generator.{mine}"
    source.place(f"{place}.weight", source.take(f"{theirs}.weight_bar", layer.weight.shape))
    source.place(f"{place}.u", source.take(f"{theirs}.weight_u", layer.u.shape))
    source.take(f"{theirs}.weight_v", layer.u.shape)  # as long as u there; computed anew before it is used
    if layer.bias is not None:
        source.place(f"{place}.bias", source.take(f"{theirs}.bias", layer.bias.shape))
