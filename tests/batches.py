"""Test batches as metrics see them, of images that are noise."""

from __future__ import annotations

import torch
from torch import Tensor

from iin.data import Images, Pairs


class Batches(list):
    """A list of batches with what the loop adds to it."""

    factors: tuple[str, ...] = ()
    fingerprint: str | None = None


def batched(data: Images | Pairs, size: int, factors: tuple[str, ...] = (), fingerprint: str | None = None) -> Batches:
    count = len(data.image)
    made = Batches(
        type(data)(*(None if field is None else field[i : i + size] for field in data)) for i in range(0, count, size)
    )
    made.factors, made.fingerprint = factors, fingerprint
    return made


def images(count: int, channels: int = 1, size: int = 4, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, channels, size, size, generator=generator) * 2 - 1
    return Images(image, torch.arange(count) % 10)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
