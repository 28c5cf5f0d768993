"""A finished run in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import iin
from iin.data import Pairs
from iin.flows import vector_flow
from iin.models import Autoencoder, Classifier
from iin.run import Run
from iin.systems import Classifier as ClassifierSystem
from iin.systems import FactorFlow
from iin.trained import Trained


@pytest.fixture
def run(tmp_path: Path) -> Trained:
    (tmp_path / "config.yaml").write_text("name: toy\n")
    system = FactorFlow(Autoencoder(1, 8, 4, n_down=2, width=4), vector_flow(4, 2, 8, 1), [1, 3])
    system.names = ("digit", "residual")
    pair = Pairs(torch.randn(8, 1, 8, 8), torch.randn(8, 1, 8, 8), torch.tensor([[True, False]]).repeat(8, 1))
    next(system.objectives(pair, 0))  # initialises the flow
    return Trained(Run(tmp_path), system.eval(), {}, 1)


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8) * 2 - 1


def test_codes_round_trip(run: Trained) -> None:
    x = images()
    z = run.encode(x)
    assert z.shape == (3, 4) and not z.requires_grad
    torch.testing.assert_close(run.decode(z), run.system.reconstruct(x).detach())


def test_swapping_all_factors_is_the_other_image(run: Trained) -> None:
    x, y = images(), images()
    torch.testing.assert_close(run.swap(x, y, ["digit", "residual"]), run.system.reconstruct(y).detach())
    torch.testing.assert_close(run.swap(x, y, []), run.system.reconstruct(x).detach())
    torch.testing.assert_close(run.swap(x, y, "digit"), run.swap(x, y, 0))
    torch.testing.assert_close(run.swap(x, y, -1), run.swap(x, y, ["residual"]))
    z = run.system.encode(run.swap(x, y, "digit"))
    assert z.shape == (3, 4)


def test_a_cross_grid_crosses_and_can_be_saved(run: Trained, tmp_path: Path) -> None:
    x, y = images(2), images(3)
    picture = run.swap_grid(x, y, "digit")
    assert picture.images.shape == (3, 4, 1, 8, 8) and not picture.images.requires_grad
    torch.testing.assert_close(picture.images[2, 1:], run.swap(y, x[1:].expand_as(y), "digit"))
    assert torch.equal(picture.images[1:, 0], x) and torch.equal(picture.images[0, 1:], y)
    iin.pictures.save(picture, tmp_path / "swap.png")
    assert (tmp_path / "swap.png").stat().st_size > 500
    with pytest.raises(ValueError, match="no factor 'colour'"):
        run.swap_grid(x, y, "colour")


def test_interpolation_ends_at_its_ends(run: Trained) -> None:
    x, y = images(), images()
    line = run.interpolate(x, y, factor="digit", steps=5)
    assert line.shape == (3, 5, 1, 8, 8)
    torch.testing.assert_close(line[:, 0], run.swap(x, y, []))
    torch.testing.assert_close(line[:, -1], run.swap(x, y, "digit"))
    torch.testing.assert_close(run.interpolate(x, y)[:, -1], run.system.reconstruct(y).detach())
    with pytest.raises(ValueError, match="at least 2"):
        run.interpolate(x, y, steps=1)


def test_samples_depend_on_their_seed_alone(run: Trained) -> None:
    before = torch.random.get_rng_state()
    first = run.sample(4, seed=1)
    assert torch.equal(first, run.sample(4, seed=1)) and not torch.equal(first, run.sample(4, seed=2))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("factor", ["colour", 2, -3])
def test_unknown_factors_are_named(run: Trained, factor: str | int) -> None:
    with pytest.raises(ValueError, match=r"no factor .*there are.*digit, residual"):
        run.swap(images(), images(), [factor])


def test_a_system_without_codes_says_so(tmp_path: Path, run: Trained) -> None:
    judge = Trained(run.run, ClassifierSystem(Classifier(1, 8, 3, 4, n_down=2, width=4)).eval(), {}, 1)
    with pytest.raises(ValueError, match="Classifier has no swap"):
        judge.swap(images(), images())
    assert judge.factors == () and repr(judge).startswith("Trained(") and "\n" not in repr(judge)


def test_a_swap_needs_another_image_for_each(run: Trained) -> None:
    with pytest.raises(ValueError, match=r"of the same size: \[3, 1, 8, 8\], found \[2, 1, 8, 8\]"):
        run.swap(images(), images()[:2], 0)
    with pytest.raises(ValueError, match="as many other images"):
        run.interpolate(images(), images()[:2])


def test_a_flow_over_a_classifier_encodes_and_says_that_it_makes_no_images(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: toy\n")
    system = FactorFlow(Classifier(1, 8, 3, 4, n_down=2, width=4), vector_flow(4, 2, 8, 1), [1, 3])
    system.names = ("digit", "residual")
    run, x = Trained(Run(tmp_path), system.eval(), {}, 1), images()
    assert run.encode(x).shape == (3, 4) and system.images(Pairs(x, x, torch.zeros(3, 2, dtype=torch.bool))) == {}
    for ask in (
        lambda: run.swap(x, x, "digit"),
        lambda: run.swap_grid(x, x, "digit"),
        lambda: run.decode(run.encode(x)),
        lambda: run.sample(2),
        lambda: run.interpolate(x, x, "digit"),
    ):
        with pytest.raises(ValueError, match=r"no images can be made: the first stage, a Classifier, has no decode"):
            ask()
