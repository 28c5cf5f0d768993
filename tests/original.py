"""Weights of the original implementation laid into ours, for comparison with its recorded outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iin.flows import Chain, vector_flow


def flow(state: Mapping[str, Tensor]) -> Chain:
    """The original's vector or factor flow as ours.

    Its double coupling leaves the halves swapped; ours does not, so the swap folds into the shuffle that follows.
    """
    blocks = 1 + max(int(key.split(".")[2]) for key in state)
    first = state["realnvp.flow.0.flow.1.s.0.main.0.weight"]
    layers = sorted(
        {int(k.split(".")[8]) for k in state if k.startswith("realnvp.flow.0.flow.1.s.0.main.") and k.endswith("weight")}
    )
    dim, hidden = 2 * first.shape[1], first.shape[0]
    made = vector_flow(dim, blocks, hidden, depth=len(layers) - 2).to(first.dtype)
    swapped = torch.arange(dim).roll(dim // 2)
    mine: dict[str, Tensor] = {}
    for b in range(blocks):
        old = f"realnvp.flow.{b}.flow."
        at = 4 * b
        for name in ("loc", "scale"):
            mine[f"blocks.{at}.{name}"] = state[f"{old}0.{name}"].flatten()
        mine[f"blocks.{at}.initialized"] = state[f"{old}0.initialized"].bool()
        for half in range(2):
            for k, layer in enumerate(layers):
                nets = [f"{old}1.{net}.{half}.main.{layer}" for net in ("s", "t")]
                mine[f"blocks.{at + 1 + half}.weights.{k}"] = torch.stack([state[n + ".weight"].T for n in nets])
                mine[f"blocks.{at + 1 + half}.biases.{k}"] = torch.stack([state[n + ".bias"][None] for n in nets])
        mine[f"blocks.{at + 3}.order"] = swapped[state[f"{old}2.forward_shuffle_idx"]]
    made.load_state_dict(mine)
    return made


def recipe(keys: Iterable[Any], constants: Mapping[str, float]) -> dict[str, Tensor]:
    """Weights by the recipe that the recordings describe in words."""
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


def load_in_order(model: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str]) -> nn.Module:
    """Load the original's entries by a map from our prefix to its prefix."""
    mine = {}
    for key, value in model.state_dict().items():
        prefix, entry = key.rsplit(".", 1)
        old = state[f"{names[prefix]}.{entry}"]
        mine[key] = old.bool() if value.dtype == torch.bool else old.reshape(value.shape)
    model.load_state_dict(mine)
    return model
