"""What the recordings of the original implementation describe in words: weights by recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


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
