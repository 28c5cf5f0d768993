"""The original implementation, told anew from the description of its recordings: weights, layouts and arithmetic.

Nothing here comes from the package: what is compared with this is compared with another hand's work. A state dict is
all that a network is; functions take one and what goes in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


def recipe(keys: Iterable[Any], constants: Mapping[str, float]) -> dict[str, Tensor]:
    """Weights by the recipe that a recording describes: ``keys`` are (name, shape, dtype) in order."""
    a, b, c, m, amp, gain = (constants[k] for k in ("a", "b", "c", "m", "amp", "gain"))
    state = {}
    for i, (name, shape, _) in enumerate(keys):
        n = torch.arange(math.prod(shape), dtype=torch.int64)
        w = 2 * amp * (((a * n * n + b * n * (i + 1) + c * i) % m).double() / m - 0.5)
        if name.endswith("initialized"):
            w = torch.ones_like(w)
        elif name.endswith("num_batches_tracked"):
            w = torch.zeros_like(w)
        elif name.endswith("running_var"):
            w = 1 + 4 * w
        elif name.endswith(".scale") or (name.endswith(".weight") and len(shape) == 1):
            w = gain * (1 + 4 * w)
        state[name] = w.float().reshape(shape)
    return state


# --- flows -------------------------------------------------------------------------------------------------------


def flow_state(
    dim: int = 6, blocks: int = 2, hidden: int = 5, depth: int = 1, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Random weights of a flow, in order; numbers come from torch's generator."""
    state: dict[str, Tensor] = {}
    for b in range(blocks):
        old = f"realnvp.flow.{b}.flow."
        state[old + "0.loc"] = torch.randn(1, dim, 1, 1, dtype=dtype)
        sign = torch.randint(2, (1, dim, 1, 1)) * 2 - 1  # training may turn a scale negative
        state[old + "0.scale"] = (0.4 * torch.rand(1, dim, 1, 1, dtype=dtype) + 0.8) * sign
        state[old + "0.initialized"] = torch.tensor(1, dtype=torch.uint8)
        for net in ("s", "t"):
            for half in range(2):
                sizes = [dim // 2] + [hidden] * (depth + 1) + [dim // 2]
                for k, (i, o) in enumerate(pairwise(sizes)):
                    state[f"{old}1.{net}.{half}.main.{2 * k}.weight"] = torch.randn(o, i, dtype=dtype) / (3 * i) ** 0.5
                    state[f"{old}1.{net}.{half}.main.{2 * k}.bias"] = torch.randn(o, dtype=dtype) * 0.3
        order = torch.randperm(dim)
        state[old + "2.forward_shuffle_idx"] = order
        state[old + "2.backward_shuffle_idx"] = torch.argsort(order)
    return state


def _blocks(state: State) -> int:
    return sum(key.endswith(".0.loc") for key in state)


def _network(state: State, name: str, x: Tensor, tanh: bool) -> Tensor:
    """A network of a coupling: linear layers with activations between them."""
    k = 0
    while f"{name}.main.{2 * k}.weight" in state:
        x = F.leaky_relu(x, 0.01) if k else x
        x = x @ state[f"{name}.main.{2 * k}.weight"].T + state[f"{name}.main.{2 * k}.bias"]
        k += 1
    return torch.tanh(x) if tanh else x


def flow_forward(state: State, x: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, D]`` to ``[B, D]`` and the log-determinants ``[B]``."""
    half = x.shape[1] // 2
    logdet = torch.zeros(len(x), dtype=x.dtype)
    for b in range(_blocks(state)):
        old = f"realnvp.flow.{b}.flow."
        scale, loc = (state[old + f"0.{name}"].flatten() for name in ("scale", "loc"))
        x = scale * (x + loc)
        logdet = logdet + scale.abs().log().sum()
        a, b_ = x[:, :half], x[:, half:]
        s = _network(state, old + "1.s.0", a, tanh=True)
        b_ = b_ * s.exp() + _network(state, old + "1.t.0", a, tanh=False)
        logdet = logdet + s.sum(1)
        s = _network(state, old + "1.s.1", b_, tanh=True)
        a = a * s.exp() + _network(state, old + "1.t.1", b_, tanh=False)
        logdet = logdet + s.sum(1)
        x = torch.cat([b_, a], 1)[:, state[old + "2.forward_shuffle_idx"]]
    return x, logdet


def flow_reverse(state: State, z: Tensor) -> Tensor:
    """``[B, D]`` back to ``[B, D]``."""
    half = z.shape[1] // 2
    for b in reversed(range(_blocks(state))):
        old = f"realnvp.flow.{b}.flow."
        z = z[:, state[old + "2.backward_shuffle_idx"]]
        b_, a = z[:, :half], z[:, half:]
        a = (a - _network(state, old + "1.t.1", b_, tanh=False)) / _network(state, old + "1.s.1", b_, tanh=True).exp()
        b_ = (b_ - _network(state, old + "1.t.0", a, tanh=False)) / _network(state, old + "1.s.0", a, tanh=True).exp()
        scale, loc = (state[old + f"0.{name}"].flatten() for name in ("scale", "loc"))
        z = torch.cat([a, b_], 1) / scale - loc
    return z


# --- autoencoder and classifier ----------------------------------------------------------------------------------


def widths(width: int, n_down: int) -> list[int]:
    """Channels after each halving; the original's width is 64."""
    return [width * min(2**scale, 16) for scale in range(n_down)]


def _norm_state(name: str, channels: int, norm: str, counted: bool) -> dict[str, Tensor]:
    if norm == "an":
        return {
            f"{name}.loc": torch.randn(1, channels, 1, 1) * 0.3,
            f"{name}.scale": torch.rand(1, channels, 1, 1) + 0.5,
            f"{name}.initialized": torch.tensor(1, dtype=torch.uint8),
        }
    state = {f"{name}.weight": torch.rand(channels) + 0.5, f"{name}.bias": torch.randn(channels) * 0.3}
    if norm == "bn":
        state[f"{name}.running_mean"] = torch.randn(channels) * 0.3
        state[f"{name}.running_var"] = torch.rand(channels) + 0.5
        if counted:  # since torch 0.4.1
            state[f"{name}.num_batches_tracked"] = torch.tensor(17)
    return state


def _weight(*shape: int, inputs: int) -> Tensor:
    return torch.randn(*shape) / inputs**0.5


def encoder_state(
    channels: int, size: int, n_down: int, width: int, norm: str, out: int, counted: bool = True
) -> dict[str, Tensor]:
    """Random weights of the layers that an autoencoder and a classifier have in common."""
    state: dict[str, Tensor] = {}
    before = channels
    for i, into in enumerate(widths(width, n_down)):
        name = f"feature_layers.{i}.sub_layers"
        state[f"{name}.0.weight"] = _weight(into, before, 4, 4, inputs=16 * before)
        state |= _norm_state(f"{name}.1", into, norm, counted)
        before = into
    left = size // 2**n_down
    state["dense_encode.sub_layers.0.weight"] = _weight(out, before, left, left, inputs=before * left**2)
    state["dense_encode.sub_layers.0.bias"] = torch.randn(out)
    return state


def autoencoder_state(
    channels: int = 1, size: int = 8, n_down: int = 2, width: int = 2, dim: int = 4, norm: str = "an",
    counted: bool = True,
) -> dict[str, Tensor]:  # fmt: skip
    """Random weights of an autoencoder, in order."""
    state: dict[str, Tensor] = {}
    wide = widths(width, n_down)
    encoder = encoder_state(channels, size, n_down, width, norm, 2 * dim, counted)
    state |= {key: value for key, value in encoder.items() if key.startswith("feature")}
    for i, (into, before) in enumerate(pairwise(wide)):
        name = f"decoder_layers.{i}.sub_layers"
        state[f"{name}.0.weight"] = _weight(before, into, 4, 4, inputs=4 * before)
        state |= _norm_state(f"{name}.1", into, norm, counted)
    state |= {key: value for key, value in encoder.items() if key.startswith("dense")}
    left = size // 2**n_down
    state["dense_decode.sub_layers.0.weight"] = _weight(dim, wide[-1], left, left, inputs=dim)
    state["dense_decode.sub_layers.0.bias"] = torch.randn(wide[-1])
    state["image_layer.sub_layers.0.weight"] = _weight(width, channels, 4, 4, inputs=4 * width)
    return state


def classifier_state(
    channels: int = 1, size: int = 8, n_down: int = 2, width: int = 2, dim: int = 4, norm: str = "an",
    counted: bool = True, classes: int = 3,
) -> dict[str, Tensor]:  # fmt: skip
    """Random weights of a classifier, in order."""
    return {
        **encoder_state(channels, size, n_down, width, norm, dim, counted),
        "classifier.weight": _weight(classes, dim, inputs=dim),
        "classifier.bias": torch.randn(classes),
    }


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    """Normalisation in evaluation, told by its entries."""
    if f"{name}.loc" in state:
        return state[f"{name}.scale"] * (x + state[f"{name}.loc"])
    if f"{name}.running_mean" in state:
        mean, var = (state[f"{name}.running_{part}"][:, None, None] for part in ("mean", "var"))
    else:
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    x = (x - mean) / (var + 1e-5).sqrt()
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def features(state: State, image: Tensor) -> list[Tensor]:
    """What each layer of the encoder sees."""
    seen, x = [], image
    for i in range(sum(key.startswith("feature_layers.") and key.endswith("0.weight") for key in state)):
        name = f"feature_layers.{i}.sub_layers"
        x = F.leaky_relu(_norm(state, f"{name}.1", F.conv2d(x, state[f"{name}.0.weight"], None, 2, 1)), 0.2)
        seen.append(x)
    return seen


def encode(state: State, image: Tensor) -> Tensor:
    """Parameters of the posterior ``[B, 2D]``, mean first; of a classifier its code ``[B, D]``."""
    name = "dense_encode.sub_layers.0"
    return F.conv2d(features(state, image)[-1], state[f"{name}.weight"], state[f"{name}.bias"]).flatten(1)


def decode(state: State, x: Tensor) -> Tensor:
    """Images of codes ``[B, D]``."""
    name = "dense_decode.sub_layers.0"
    h = F.conv_transpose2d(x[:, :, None, None], state[f"{name}.weight"], state[f"{name}.bias"])
    for i in reversed(range(sum(key.startswith("decoder_layers.") and key.endswith("0.weight") for key in state))):
        name = f"decoder_layers.{i}.sub_layers"
        h = F.leaky_relu(_norm(state, f"{name}.1", F.conv_transpose2d(h, state[f"{name}.0.weight"], None, 2, 1)), 0.2)
    return torch.tanh(F.conv_transpose2d(h, state["image_layer.sub_layers.0.weight"], None, 2, 1))


def classify(state: State, image: Tensor) -> Tensor:
    """Logits ``[B, classes]``."""
    return encode(state, image) @ state["classifier.weight"].T + state["classifier.bias"]


# --- discriminator -----------------------------------------------------------------------------------------------


def discriminator_state(
    channels: int = 1, width: int = 4, layers: int = 3, spectral: bool = False, counted: bool = True
) -> dict[str, Tensor]:
    """Random weights of a discriminator, in order."""
    state: dict[str, Tensor] = {}

    def convolution(name: str, before: int, into: int, bias: bool) -> None:
        weight = _weight(into, before, 4, 4, inputs=16 * before)
        if bias:
            state[f"{name}.bias"] = torch.randn(into)
        if spectral:
            state[f"{name}.weight_orig"] = weight
            for part, size in (("u", into), ("v", before * 16)):
                state[f"{name}.weight_{part}"] = F.normalize(torch.randn(size), dim=0)
        else:
            state[f"{name}.weight"] = weight

    convolution("main.0", channels, width, True)
    before = width
    for i in range(layers):
        into = width * min(2 ** (i + 1), 8)
        convolution(f"main.{2 + 3 * i}", before, into, False)
        state |= _norm_state(f"main.{3 + 3 * i}", into, "bn", counted)
        before = into
    convolution(f"main.{2 + 3 * layers}", before, 1, True)
    return state


def discriminate(state: State, image: Tensor) -> Tensor:
    """Logits of patches, in evaluation."""

    def convolution(name: str, x: Tensor, stride: int) -> Tensor:
        weight = state.get(f"{name}.weight")
        if weight is None:
            weight = state[f"{name}.weight_orig"]
            u, v = state[f"{name}.weight_u"], state[f"{name}.weight_v"]
            weight = weight / (u @ weight.flatten(1) @ v)
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, 1)

    layers = sum(key.endswith("running_mean") for key in state)
    x = F.leaky_relu(convolution("main.0", image, 2), 0.2)
    for i in range(layers):
        x = convolution(f"main.{2 + 3 * i}", x, 2 if i < layers - 1 else 1)
        x = F.leaky_relu(_norm(state, f"main.{3 + 3 * i}", x), 0.2)
    return convolution(f"main.{2 + 3 * layers}", x, 1)
