"""Layers as the original implementation of the ECCV 2020 paper read them from its networks."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from iin.models import Layer

ALEXNET = [
    "input",
    *(f"features.{i}" for i in range(13)),
    *("avgpool", "avgpool"),  # the second is flattened
    *(f"classifier.{i}" for i in range(7)),
    "softmax",
]
RESNET = [
    "input",
    "conv1",
    "bn1",
    "relu",
    "maxpool",
    "layer1",
    "layer2",
    "layer3",
    "layer4",
    "avgpool",
    "avgpool",
    "fc",
]
LAYERS = {"alexnet": ALEXNET, "resnet18": [*RESNET, "softmax"], "resnet101": [*RESNET, "softmax"]}
"""Layer behind which the original cuts its networks, by its index of the cut."""

OVERWRITTEN = {"alexnet": {1, 4, 7, 9, 11, 17, 20}, "resnet18": {2}, "resnet101": {2}}
"""Cuts right before a ReLU that works in place. The recorded numbers were taken after the rest of the network had run
on the very tensor, so they are those behind the ReLU."""

SIZES = {"alexnet": 227, "resnet18": 224, "resnet101": 224}
"""Height and width that the original resizes images to."""


@lru_cache(maxsize=1)
def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return get_model(name, weights=None).eval()


def cases() -> list:
    slow = pytest.mark.slow
    return [
        pytest.param(name, split, size, marks=slow if name == "resnet101" else ())
        for name, layers in LAYERS.items()
        for size in ("128", "224")
        for split in range(len(layers))
    ]


def close(mine: Tensor, theirs: Tensor, scale: Tensor) -> None:
    """To a relative 1e-4; numbers that are small beside the others, to 1e-5 of their root mean square."""
    assert mine.shape == theirs.shape
    error = ((mine - theirs).abs() - 1e-4 * theirs.abs() - 1e-5 * scale).max()
    assert error <= 0, float(error)


@pytest.mark.parametrize(("name", "split", "size"), cases())
def test_a_layer_is_that_of_the_original(recording, name: str, split: int, size: str) -> None:
    recorded = recording("invariances/greybox.pt")
    theirs = recorded["models"][name]["splits"][split][size]
    image = recorded["images_uint8_nhwc"][size].permute(0, 3, 1, 2).float() / 127.5 - 1
    preprocess = {"size": SIZES[name], "mean": "imagenet", "std": "imagenet"}
    layer = Layer(network(name), LAYERS[name][split], preprocess)
    mine = layer(image)
    shape = theirs["shape"]
    flattened = (name, split) in {("alexnet", 15), ("resnet18", 10), ("resnet101", 10)}
    if flattened:
        mine = mine.flatten(1)
    if split in OVERWRITTEN[name]:
        assert mine.min() < 0, "a layer in front of a ReLU is not to be changed by it"
        mine = mine.relu()
    assert list(mine.shape) == (shape[:2] if shape[2:] == [1, 1] else shape)
    rows = mine.flatten(1)
    scale = theirs["l2"] / math.sqrt(rows.shape[1])
    close(rows.mean(1), theirs["mean"], scale)
    close(rows.std(1), theirs["std"], scale)
    close(rows.norm(dim=1), theirs["l2"], scale)
    close(rows[:, :12], theirs["head"], scale[:, None])
    # The rest of the original's network, from the cut on, gives the softmax of the whole. It fails where its vectors
    # [B, C, 1, 1] meet a layer for vectors [B, C]; ours are [B, C] from the start.
    if theirs["decode_matches_softmax"]:
        assert theirs["decode_result"].startswith(f"({len(image)}, 1000")
    else:
        assert theirs["decode_result"] == "RuntimeError" and mine.ndim == 2


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_the_rest_of_the_network_goes_on_from_a_vector(recording, name: str) -> None:
    """The original's did not: AlexNet cut at 15 to 21, ResNet at 10."""
    image = recording("invariances/greybox.pt")["images_uint8_nhwc"]["128"].permute(0, 3, 1, 2).float() / 127.5 - 1
    preprocess = {"size": SIZES[name], "mean": "imagenet", "std": "imagenet"}
    cut = Layer(network(name), "avgpool", preprocess)
    rest = network(name).classifier if name == "alexnet" else network(name).fc
    torch.testing.assert_close(rest(cut(image).flatten(1)), cut.logits(image))
