"""The shipped digit network sees what it is said to see."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from iin.data import MNIST, ColorfulMNIST, Loader
from iin.metrics.swaps import judge_digit
from iin.models.digits import WEIGHTS, _load, digits, grey
from iin.models.features import quantise


@pytest.fixture(scope="module")
def plain() -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(Loader(MNIST("test"), 500))
    return torch.cat([b.image for b in batches]), torch.cat([b.label for b in batches])


@torch.no_grad()
def accuracy(image: torch.Tensor, label: torch.Tensor) -> float:
    right = [judge_digit(part) == truth for part, truth in zip(image.split(100), label.split(100), strict=True)]
    return torch.cat(right).double().mean().item()


def test_test_accuracy_is_what_the_file_says(plain: tuple[torch.Tensor, torch.Tensor]) -> None:
    found = accuracy(*plain)
    assert found >= 0.992
    assert found == pytest.approx(digits().test_accuracy, abs=5e-4)


def test_it_sees_digits_of_every_colour() -> None:
    batches = list(Loader(ColorfulMNIST("test"), 500))
    image, label = torch.cat([b.image for b in batches])[::2], torch.cat([b.label for b in batches])[::2]
    assert image.shape[1] == 3
    assert accuracy(quantise(image), label) >= 0.99


def test_it_sees_soft_and_faded_digits(plain: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = plain[0][::5], plain[1][::5]
    assert accuracy(F.avg_pool2d(image, 3, 1, 1, count_include_pad=False), label) >= 0.985
    assert accuracy((image + 1) * 0.5 - 1, label) >= 0.985
    assert accuracy(image + 0.2 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0)), label) >= 0.98


def test_features_are_those_of_the_last_hidden_layer(plain: tuple[torch.Tensor, torch.Tensor]) -> None:
    image = plain[0][:20]
    network = digits()
    features = network.features(image)
    assert features.shape == (20, 64) and (features >= 0).all()
    torch.testing.assert_close(network(image), network.logits(features))
    alone = torch.cat([network.features(row) for row in image.split(1)])
    torch.testing.assert_close(alone, features, rtol=1e-4, atol=1e-5)  # eval mode: a batch of one sees the same


def test_it_is_small_frozen_and_loaded_once() -> None:
    assert digits() is digits("cpu") is digits(torch.device("cpu"))
    assert not digits().training and not any(p.requires_grad for p in digits().parameters())
    assert WEIGHTS.stat().st_size < 400_000
    stored = torch.load(WEIGHTS, weights_only=True)
    assert set(stored) >= {"state", "test_accuracy", "trained_by"} and "make_digits" in stored["trained_by"]


def test_loading_it_draws_no_random_numbers() -> None:
    """Else a sample drawn after it would depend on whether it had been used before."""
    _load.cache_clear()
    torch.manual_seed(5)
    digits()
    found = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(3))


@pytest.mark.parametrize("shape", [(2, 2, 32, 32), (2, 1, 28, 28), (1, 32, 32)])
def test_other_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[B, 1 or 3, 32, 32\], found \[" + ", ".join(map(str, shape))):
        digits()(torch.zeros(shape))


def test_grey_undoes_a_colour() -> None:
    image = torch.rand(3, 1, 32, 32) * 2 - 1
    image[:, :, 0, 0] = -1
    for color in ([1.0, 1.0, 1.0], [0.9, 0.1, 0.0], [0.05, 0.05, 0.05]):
        torch.testing.assert_close(grey(image * torch.tensor(color).view(1, 3, 1, 1)), image)
    torch.testing.assert_close(grey(image), image)
    assert grey(torch.zeros(1, 3, 32, 32)).isfinite().all()
