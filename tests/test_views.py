"""What systems show: every factor, any batch, and the images that a picture says it holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from iin import pictures
from iin.data import Images, Pairs
from iin.flows import vector_flow
from iin.models import Autoencoder, Classifier, Gaussian
from iin.system import Picture, System
from iin.systems import Autoencoder as AutoencoderSystem
from iin.systems import Classifier as ClassifierSystem
from iin.systems import FactorFlow, LatentFlow, views


def batch(count: int, channels: int = 1, paired: bool = True) -> Any:
    generator = torch.Generator().manual_seed(count)
    image, other = torch.rand(2, count, channels, 8, 8, generator=generator) * 2 - 1
    if paired:
        return Pairs(image, other, torch.tensor([[True, False]]).repeat(count, 1))
    return Images(image, torch.zeros(count, dtype=torch.int64))


def autoencoder(channels: int = 1) -> Autoencoder:
    model = Autoencoder(channels, 8, 6, n_down=2, width=4)
    model.decode(model.encode(batch(16, channels).image).mean)  # initialises ActNorm
    return model.eval()


def factor_flow(channels: int = 1, factors: tuple[int, ...] = (2, 4), first_stage: nn.Module | None = None) -> Any:
    system = FactorFlow(first_stage or autoencoder(channels), vector_flow(6, 2, 8, 1), factors)
    system.names = (*(f"concept_{k}" for k in range(len(factors) - 1)), "residual")
    system.flow(system.code(batch(16, channels).image))
    return system.eval()


def latent_flow(channels: int = 1) -> Any:
    system = LatentFlow(autoencoder(channels), vector_flow(6, 2, 8, 1))
    system.flow(system.code(batch(16, channels).image))
    return system.eval()


@torch.no_grad()
def shown(system: System, data: Any, seed: int = 0) -> dict[str, Picture]:
    torch.manual_seed(seed)
    found = dict(system.images(data))
    assert all(isinstance(picture, Picture) for picture in found.values())
    return found  # type: ignore[return-value]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


# --- any batch


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 13, 16, 40])
def test_batches_of_any_size_give_all_pictures(count: int, channels: int, paired: bool) -> None:
    data = batch(count, channels, paired)
    general = {"inputs", "reconstructions", "samples", "fixed_samples", "traversals"}
    factors = {f"{kind}_{name}" for kind in ("swap", "line") for name in ("concept_0", "residual")}
    expected = [
        (AutoencoderSystem(autoencoder(channels)), general),
        (latent_flow(channels), general | {"line"}),
        (factor_flow(channels), general | {"line"} | factors),
    ]
    for system, names in expected:
        found = shown(system.eval(), data)
        assert found.keys() == names
        for picture in found.values():
            assert picture.title and picture.caption.endswith(".")
            pictures.draw(picture)
        assert found["samples"].images.shape == found["fixed_samples"].images.shape == (64, channels, 8, 8)
        rows = 2 if paired else 1
        assert found["inputs"].images.shape == (rows, min(count, 12), channels, 8, 8)
        if "line" in found:
            assert found["line"].images.shape == (min(count, 5), 10, channels, 8, 8)
            assert found["line"].columns == (1, 9)
        if "swap_residual" in found:
            assert found["swap_residual"].images.shape == (min(count, 8) + 1, min(count, 8) + 1, channels, 8, 8)


def test_every_factor_has_its_pictures() -> None:
    found = shown(factor_flow(3, (2, 1, 1, 1, 1)), batch(8, 3))
    names = ["concept_0", "concept_1", "concept_2", "concept_3", "residual"]
    assert [name for name in found if name.startswith("swap_")] == [f"swap_{name}" for name in names]
    assert [name for name in found if name.startswith("line_")] == [f"line_{name}" for name in names]
    assert found["swap_concept_1"].title == "Swap: concept 1"
    assert found["swap_concept_1"].caption == (
        "Each cell takes its concept 1 from the image at the left of its row, and all else from the one at the top of "
        "its column."
    )
    assert "no pair shares" in found["swap_residual"].caption and "no pair shares" in found["line_residual"].caption


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 16, 30])
def test_partners_are_other_images(count: int, paired: bool) -> None:
    data = batch(count, paired=paired)
    first, second = views.partners(data)
    assert len(first) == len(second) == min(8, count)
    pool = data.other if paired else data.image
    for place, image in enumerate(second):
        (index,) = [k for k, other in enumerate(pool) if torch.equal(image, other)]
        if count > 1:
            assert index != place  # neither the image itself nor the one that it is paired with
    if count >= 16:
        assert torch.equal(second, pool[8:16])


# --- what pictures hold


def test_cross_grids_cross() -> None:
    system, data = factor_flow(), batch(16)
    found = shown(system, data)
    rows, columns = data.image[:8], data.other[8:16]
    for index, name in enumerate(system.names):
        images = found[f"swap_{name}"].images
        assert found[f"swap_{name}"].rows == found[f"swap_{name}"].columns == (1,)
        assert not images[0, 0].any()
        assert torch.equal(images[1:, 0], rows) and torch.equal(images[0, 1:], columns)
        for row in range(8):
            expected = system.swap(columns, rows[row].expand_as(columns), [index])
            close(images[row + 1, 1:], expected)
            assert (expected - system.reconstruct(columns)).abs().amax() > 1e-3  # taking the factor does something


def test_lines_lead_from_one_image_to_the_other() -> None:
    system, data = factor_flow(), batch(16)
    found = shown(system, data)
    start, end = data.image[:5], data.other[8:13]
    ends = {"line": system.reconstruct(end)}
    ends |= {f"line_{name}": system.swap(start, end, [k]) for k, name in enumerate(system.names)}
    for name, last in ends.items():
        images = found[name].images
        assert torch.equal(images[:, 0], start) and torch.equal(images[:, -1], end)
        close(images[:, 1], system.reconstruct(start))
        close(images[:, -2], last)
        assert (images[:, 1] - images[:, -2]).abs().amax() > 1e-3
    middle = system.decode(torch.lerp(system.encode(start), system.encode(end), 3 / 7))
    close(found["line"].images[:, 4], middle)


@pytest.mark.parametrize("make", [factor_flow, latent_flow, lambda: AutoencoderSystem(autoencoder()).eval()])
def test_inputs_reconstructions_and_samples(make: Any) -> None:
    system, data = make(), batch(16)
    found = shown(system, data, seed=3)
    assert torch.equal(found["inputs"].images, torch.stack([data.image[:12], data.other[:12]]))
    assert torch.equal(found["reconstructions"].images[0], data.image[:12])
    assert found["reconstructions"].rows == (1,)
    close(found["reconstructions"].images[1], system.reconstruct(data.image[:12]))
    torch.manual_seed(3)
    close(found["samples"].images, system.sample(64))

    again, other = shown(system, data, seed=3), shown(system, data, seed=4)
    for name in found:
        same = torch.equal(found[name].images, other[name].images)
        assert torch.equal(found[name].images, again[name].images) and same == (name != "samples"), name
    assert not torch.equal(found["samples"].images, found["fixed_samples"].images)


def test_fixed_noise_neither_uses_nor_moves_torch_s_own() -> None:
    system = latent_flow()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    images = system.sample(4, torch.Generator().manual_seed(7))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(images, system.sample(4, torch.Generator().manual_seed(7)))
    close(images, system.decode(torch.randn(4, 6, generator=torch.Generator().manual_seed(7))))


# --- what cannot be shown


def test_without_a_decoder_there_are_no_pictures() -> None:
    network = Classifier(1, 8, 3, 6, n_down=2, width=4)
    network(batch(16).image)
    assert shown(factor_flow(first_stage=network), batch(16)) == {}
    assert shown(LatentFlow(network, vector_flow(6, 2, 8, 1)).eval(), batch(16)) == {}


def test_a_broken_image_costs_its_own_cells_alone() -> None:
    data = batch(16)
    data.image[2, 0, 3, 3] = float("nan")
    found = shown(factor_flow(), data)

    def broken(name: str) -> list[list[bool]]:
        return (~found[name].images.isfinite().flatten(2).all(2)).tolist()

    for name in ("swap_concept_0", "swap_residual"):
        assert broken(name) == [[row == 3] * 9 for row in range(9)]  # the row that the image gives the factor to
    assert broken("reconstructions") == [[column == 2 for column in range(12)]] * 2
    assert broken("line_residual") == [[row == 2 and column < 9 for column in range(10)] for row in range(5)]
    drawn = np.asarray(pictures.draw(found["swap_residual"]))
    assert abs((drawn == pictures.MAGENTA).all(2).mean() - 1 / 9) < 0.02


def test_a_broken_network_shows_magenta() -> None:
    class Void(nn.Module):
        dim = 6

        def encode(self, image: Tensor) -> Gaussian:
            code = image.flatten(1)[:, :6]
            return Gaussian(code, torch.zeros_like(code))

        def decode(self, code: Tensor) -> Tensor:
            return torch.full((len(code), 1, 8, 8), torch.nan)

    found = shown(factor_flow(first_stage=Void()), batch(16))
    assert (np.asarray(pictures.draw(found["samples"])) == pictures.MAGENTA).all(2).mean() > 0.9


# --- a classifier


@pytest.mark.parametrize(("count", "classes"), [(1, 3), (2, 3), (40, 3), (40, 12)])
def test_a_classifier_shows_what_it_takes_for_the_same(count: int, classes: int) -> None:
    system = ClassifierSystem(Classifier(3, 8, classes, 6, n_down=2, width=4)).eval()
    data = batch(count, 3, paired=False)
    with torch.no_grad():
        system.model.head.weight.mul_(50)
        system.classify(batch(16, 3).image)
    found = shown(system, data)["predictions"]
    assert found.images.shape == (min(10, classes), 10, 3, 8, 8) and found.caption
    taken = system.classify(data.image).argmax(1)
    for label in range(min(10, classes)):
        expected = data.image[taken == label][:10]
        assert torch.equal(found.images[label, : len(expected)], expected)
        assert not found.images[label, len(expected) :].any()
