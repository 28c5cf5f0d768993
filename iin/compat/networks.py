"""Networks of the CVPR 2020 code from their state dicts: flows, autoencoders, classifiers, discriminators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from iin.compat.state import Source
from iin.flows import Chain, vector_flow
from iin.models import Autoencoder, Classifier, PatchDiscriminator
from iin.models.norm import NormName

__all__ = ["FactorChain", "autoencoder", "classifier", "discriminator", "factor_flow", "flow", "place_block"]


def flow(state_dict: Mapping[str, Tensor]) -> Chain:
    """The original's ``VectorTransformer`` as a flow: ``flow(x [B, D]) -> (z [B, D], logdet [B])``.

    Its double coupling is our two couplings; it leaves the halves swapped, so that the swap folds into the shuffle that
    follows. Scale and shift networks become one batch of matrices. The numbers keep their precision. A flow that has
    seen no data yet (``initialized`` is 0) takes its statistics from the first batch in training mode, where the
    original takes them in any mode.

    Args:
        state_dict: the checkpoint's entry ``model``.

    Returns:
        The flow, in eval mode.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
    """
    source = Source(state_dict, "flow")
    blocks = source.count(r"realnvp\.flow\.(\d+)\.")
    hidden, half = source.shape("realnvp.flow.0.flow.1.s.0.main.0.weight", 2)
    # Of all couplings together, so that a key that one of them lacks is missing, and does not make the others shorter.
    # Activations stand between the linear layers.
    linear = max(2, source.count(r"realnvp\.flow\.\d+\.flow\.1\.[st]\.\d\.main\.(\d+)\.", step=2))
    dim = 2 * half
    with torch.device("meta"):  # neither time nor random numbers for weights that are replaced
        made = vector_flow(dim, blocks=max(1, blocks), hidden=hidden, depth=linear - 2)
    for b in range(len(made) // 4):
        theirs = [f"realnvp.flow.{b}.flow.{part}" for part in range(3)]
        place_block(source, made, [f"blocks.{4 * b + part}" for part in range(4)], theirs)
    source.into(made)
    return made.eval()


def place_block(source: Source, made: nn.Module, mine: Sequence[str], theirs: Sequence[str]) -> None:
    """Put the entries of one of the original's blocks into ours.

    Args:
        source: of the entries.
        made: the module that holds the block.
        mine: names of our ActNorm, our two couplings and our shuffle.
        theirs: names of the original's ActNorm, double coupling and shuffle.
    """
    norm, *couplings, shuffle = mine
    their_norm, coupling, their_shuffle = theirs
    source.copy(made, norm, their_norm)
    for side, name in enumerate(couplings):
        for k, weight in enumerate(made.get_submodule(name).get_submodule("weights").parameters()):
            _, into, out = weight.shape
            layers = [f"{coupling}.{net}.{side}.main.{2 * k}" for net in ("s", "t")]
            weights = [source.take(f"{layer}.weight", (out, into)).T for layer in layers]
            biases = [source.take(f"{layer}.bias", (out,)) for layer in layers]
            source.place(f"{name}.weights.{k}", torch.stack(weights))  # [2, in, out]
            source.place(f"{name}.biases.{k}", torch.stack(biases)[:, None])  # [2, 1, out]
    dim = len(made.get_buffer(f"{shuffle}.order"))
    there = all(f"{their_shuffle}.{way}_shuffle_idx" in source for way in ("forward", "backward"))
    order = source.take(f"{their_shuffle}.forward_shuffle_idx", (dim,), whole=True)
    inverse = source.take(f"{their_shuffle}.backward_shuffle_idx", (dim,), whole=True)
    if torch.equal(order.sort().values, torch.arange(dim)) and torch.equal(order.argsort(), inverse):
        # The original's double coupling leaves the halves swapped.
        source.place(f"{shuffle}.order", torch.arange(dim).roll(dim // 2)[order])
    elif there:
        source.refuse(
            f"{their_shuffle}: forward_shuffle_idx and backward_shuffle_idx are no permutation and its inverse"
        )


class FactorChain(Chain):
    """A flow whose latent is split into factors.

    Args:
        blocks: of the flow.
        factors: dimensions of each factor.
    """

    def __init__(self, blocks: Any, factors: Sequence[int]) -> None:
        super().__init__(blocks)
        self.factors = tuple(factors)

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """Latent ``[B, D]`` as its factors, each ``[B, size]``."""
        return z.split(self.factors, dim=1)


def factor_flow(state_dict: Mapping[str, Tensor], factors: Sequence[int] | int = 2) -> FactorChain:
    """The original's ``FactorTransformer``: a flow that knows its factors.

    Args:
        state_dict: the checkpoint's entry ``model``.
        factors: dimensions of each factor (``factor_config``), or a number of factors (``n_factors``): then the latent
            is cut into pieces of ``ceil(D / n)``, as the original does, which may make fewer pieces than asked for.

    Returns:
        The flow, in eval mode.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
        ValueError: the factors do not sum to the size of the latent.
    """
    made = flow(state_dict)
    dim = made[0].dim
    sizes = [factors] if isinstance(factors, int) else list(factors)
    if not sizes or any(size < 1 for size in sizes):
        raise ValueError(f"factors: expected sizes, or a number of factors, of at least 1, found {factors}")
    if isinstance(factors, int):
        size = -(-dim // factors)
        sizes = [min(size, dim - start) for start in range(0, dim, size)]
    if sum(sizes) != dim:
        raise ValueError(f"factors: {' + '.join(map(str, sizes))} = {sum(sizes)}, but the flow has {dim} dimensions")
    return FactorChain(made, sizes).eval()


def autoencoder(state_dict: Mapping[str, Tensor], *, deterministic: bool = False) -> Autoencoder:
    """The original's autoencoder: ``encode(image) -> Gaussian`` over ``[B, D]``, ``decode(x [B, D])``.

    Args:
        state_dict: the checkpoint's entry ``model``.
        deterministic: that the original was configured so; its weights do not tell.

    Returns:
        The network, in eval mode. Its images are as large as its last convolution tells: a multiple of
        ``2**n_down``.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
    """
    source = Source(state_dict, "autoencoder")
    trunk = _trunk(source)
    dim = max(1, source.shape(f"{DENSE}.bias", 1)[0] // 2)
    with torch.device("meta"):
        made = Autoencoder(dim=dim, **trunk, deterministic=deterministic)
    _place_encoder(source, made)
    n_down = made.n_down
    source.copy(made, "decoder.0", "dense_decode.sub_layers.0")
    for i in range(n_down - 1):  # the original counts from the image
        for j in range(2):
            source.copy(made, f"decoder.{1 + 3 * i + j}", f"decoder_layers.{n_down - 2 - i}.sub_layers.{j}")
    source.copy(made, f"decoder.{1 + 3 * (n_down - 1)}", "image_layer.sub_layers.0")
    source.into(made)
    return made.eval()


def classifier(state_dict: Mapping[str, Tensor]) -> Classifier:
    """The original's classifier: ``classifier(image)`` -> logits ``[B, classes]``.

    Args:
        state_dict: the checkpoint's entry ``model``.

    Returns:
        The network, in eval mode; for the size of its images see `autoencoder`.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
    """
    source = Source(state_dict, "classifier")
    trunk = _trunk(source)
    dim, classes = source.shape(f"{DENSE}.bias", 1)[0], source.shape("classifier.bias", 1)[0]
    with torch.device("meta"):
        made = Classifier(dim=dim, classes=classes, **trunk)
    _place_encoder(source, made)
    source.copy(made, "head", "classifier")
    source.into(made)
    return made.eval()


DENSE = "dense_encode.sub_layers.0"
"""The layer that makes the code."""


def _trunk(source: Source) -> dict[str, Any]:
    """Arguments of encoder and decoder that the shapes tell."""
    first = source.shape("feature_layers.0.sub_layers.0.weight", 4)
    last = source.shape(f"{DENSE}.weight", 4)
    n_down = max(1, source.count(r"feature_layers\.(\d+)\."))
    return {
        "channels": first[1],
        "size": last[2] * 2**n_down,
        "n_down": n_down,
        "width": first[0],
        "norm": _norm(source, "feature_layers.0.sub_layers.1"),
    }


def _norm(source: Source, layer: str) -> NormName:
    """What kind of normalisation a layer is; any two of its entries tell, so that one of them may be missing."""
    if any(f"{layer}.{name}" in source for name in ("loc", "scale", "initialized")):
        return "actnorm"
    return "batch" if any(f"{layer}.{name}" in source for name in ("running_mean", "running_var")) else "instance"


def _place_encoder(source: Source, made: Autoencoder | Classifier) -> None:
    for i in range(made.n_down):
        for j in range(2):  # convolution and normalisation
            source.copy(made, f"encoder.{3 * i + j}", f"feature_layers.{i}.sub_layers.{j}")
    source.copy(made, f"encoder.{3 * made.n_down}", DENSE)


def discriminator(state_dict: Mapping[str, Tensor]) -> PatchDiscriminator:
    """The discriminator that the original trained its autoencoder against.

    Args:
        state_dict: the entries ``discriminator.*`` of the checkpoint's entry ``loss``, without that prefix.

    Returns:
        The network, in eval mode.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
    """
    source = Source(state_dict, "discriminator")
    spectral = any(f"main.0.weight_{part}" in source for part in ("orig", "u", "v"))
    first = source.shape("main.0.weight_orig" if spectral else "main.0.weight", 4)
    layers = max(1, source.count(r"main\.(\d+)\.", start=3, step=3))  # numbers of the normalisation layers
    with torch.device("meta"):
        made = PatchDiscriminator(first[1], first[0], layers, spectral_norm=spectral)
    for name, module in made.main.named_children():
        if module.state_dict():
            source.copy(made, f"main.{name}", f"main.{name}")
    source.into(made)
    return made.eval()
