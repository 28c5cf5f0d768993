"""Embedders make one vector of a representation, whatever its shape."""

from __future__ import annotations

import pytest
import torch

from iin.models import ConvEmbedder, DenseEmbedder, PoolingEmbedder
from iin.models.norm import ActNormLayer


@pytest.mark.parametrize(
    ("channels", "dim", "depth", "widths"),
    [
        (4096, 128, 4, (4096, 2773, 1450, 128)),
        (1000, 128, 4, (1000, 709, 418, 128)),
        (2048, 268, 4, (2048, 1454, 861, 268)),
        (2048, 128, 6, (2048, 1664, 1280, 896, 512, 128)),
        (149, 128, 4, (149, 142, 135, 128)),
        (10, 128, 4, (10, 49, 88, 128)),
        (10, 128, 2, (10, 128)),
    ],
)
def test_widths_are_the_published_ones(channels: int, dim: int, depth: int, widths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        made = DenseEmbedder(channels, dim, depth)
    assert made.widths == widths
    linear = [layer for layer in made.net if isinstance(layer, torch.nn.Linear)]
    assert [linear[0].in_features, *(layer.out_features for layer in linear)] == list(widths)
    assert sum(isinstance(layer, ActNormLayer) for layer in made.net) == len(widths) - 2


def test_widths_by_hand() -> None:
    assert DenseEmbedder(5, 4, widths=[5, 9, 4])(torch.randn(3, 5)).shape == (3, 4)
    for widths in ([5], [4, 5], [5, 3], []):
        with pytest.raises(ValueError, match="widths must start with channels = 5 and end with dim = 4"):
            DenseEmbedder(5, 4, widths=widths)
    with pytest.raises(ValueError, match="at least 2, found 1"):
        DenseEmbedder(5, 4, depth=1)


def test_vectors_and_maps_of_one_position_are_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5)
    for made in (DenseEmbedder(5, 6).eval(), PoolingEmbedder(5, 6, width=4).eval()):
        assert made(x).shape == (4, 6)
        torch.testing.assert_close(made(x[:, :, None, None]), made(x))


@pytest.mark.parametrize(("size", "n_down"), [(13, 2), (7, 1), (14, 2), (28, 3), (2, 1), (9, 3), (16, 4)])
def test_maps_of_the_size_that_is_said(size: int, n_down: int) -> None:
    made = ConvEmbedder(3, size, 6, n_down, width=4)
    assert made(torch.randn(2, 3, size, size)).shape == (2, 6)
    assert made.net[-1].kernel_size == (size // 2**n_down,) * 2


def test_channels_grow_up_to_16_times() -> None:
    with torch.device("meta"):
        made = ConvEmbedder(3, 224, 128, n_down=6)
    assert [layer.out_channels for layer in made.net[:-1:3]] == [64, 128, 256, 512, 1024, 1024]


@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (2, 3, 9, 9), (2, 4, 8, 8), (2, 3), (2, 3, 64)])
def test_maps_of_another_size_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a context of shape \[B, 3, 8, 8\], found \[2, "):
        ConvEmbedder(3, 8, 6, n_down=2, width=4)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("size", "n_down", "advice"),
    [
        (7, 3, "n_down between 1 and 2"),
        (1, 1, "a DenseEmbedder"),
        (8, 0, "n_down between 1 and 3"),
        (8, 4, "n_down between 1 and 3"),
    ],
)
def test_sizes_that_cannot_be_halved_so_often(size: int, n_down: int, advice: str) -> None:
    with pytest.raises(ValueError, match=f"size {size} cannot be halved n_down = {n_down} times: use {advice}$"):
        ConvEmbedder(3, size, 6, n_down)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 5, 4)])
def test_no_maps_at_all_are_pooled(shape: tuple[int, ...]) -> None:
    assert PoolingEmbedder(3, 6, width=4).eval()(torch.zeros(shape)).shape == (0, 6)


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 2, 2), (2, 3, 1), (3,)])
def test_vectors_of_another_size_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a context of shape \[B, 3\] or \[B, 3, 1, 1\], found"):
        DenseEmbedder(3, 6)(torch.zeros(shape))


@pytest.mark.parametrize("n_down", [0, 2, 4])
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (3, 1, 9), (3, 8, 5), (3, 31, 31)])
def test_maps_of_any_size(shape: tuple[int, ...], n_down: int) -> None:
    made = PoolingEmbedder(3, 6, n_down, width=4)
    h = made(torch.randn(4, *shape))
    assert h.shape == (4, 6) and torch.isfinite(h).all()


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 5, 5), (2, 3, 5), (2, 3, 0, 4), (3,)])
def test_no_maps_at_all(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a context of shape \[B, 3\] or \[B, 3, H, W\], found"):
        PoolingEmbedder(3, 6)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (DenseEmbedder(3, 6), (3,)),
        (ConvEmbedder(3, 8, 6, n_down=2, width=4), (3, 8, 8)),
        (PoolingEmbedder(3, 6, width=4), (3, 5, 4)),
    ],
    ids=["dense", "convolutional", "pooling"],
)
def test_normalisation_starts_in_training_only(made: torch.nn.Module, shape: tuple[int, ...]) -> None:
    norms = [layer for layer in made.modules() if isinstance(layer, ActNormLayer)]
    assert norms
    made.eval()(torch.randn(8, *shape))
    assert not any(norm.initialized for norm in norms)
    made.train()(torch.randn(8, *shape))
    assert all(norm.initialized for norm in norms)
    before = [norm.scale.clone() for norm in norms]
    made(5 * torch.randn(8, *shape))
    assert all(torch.equal(norm.scale, scale) for norm, scale in zip(norms, before, strict=True))
