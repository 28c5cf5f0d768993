"""Metrics against answers that are known: closed forms, recorded outputs, systems that swap perfectly or not at all."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import Batches, batched, images, normal
from torch import Tensor, nn

from iin.data import Images, Pairs, measure_color
from iin.metrics import (
    FID,
    NLL,
    Accuracy,
    FactorDims,
    FactorSwaps,
    Inversion,
    Reconstruction,
    factor_dims,
    factor_scores,
    paper_scores,
)
from iin.metrics.swaps import draw_pairs

REFERENCE = Path(os.environ.get("IIN_REFERENCE") or Path(__file__).parents[2] / "shared" / "reference")

# -- factor dimensions ------------------------------------------------------------------------------------------------


def codes(count: int = 400, dim: int = 6, factors: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Codes whose units 0 and 1 agree where factor 0 is shared, and a row shares factor ``i % (K - 1)``."""
    first, second = normal(count, dim, seed=seed), normal(count, dim, seed=seed + 1)
    shared = torch.zeros(count, factors, dtype=torch.bool)
    shared[torch.arange(count), torch.arange(count) % (factors - 1)] = True
    second[shared[:, 0], :2] = first[shared[:, 0], :2]
    return first, second, shared


@pytest.mark.skipif(not (REFERENCE / "iin").is_dir(), reason=f"no recorded outputs in {REFERENCE}")
def test_scores_and_dims_match_the_published_code() -> None:
    cases = torch.load(REFERENCE / "iin" / "dim_estimation.pt", weights_only=True)["cases"]
    assert len(cases) == 4
    for case in cases:
        shared = nn.functional.one_hot(case["factor"], case["n_factors"]).bool()
        first, second = case["example1"].flatten(1), case["example2"].flatten(1)
        scores = factor_scores(first, second, shared)
        torch.testing.assert_close(scores, torch.tensor(case["scores"], dtype=torch.float64), atol=1e-5, rtol=0)
        assert factor_dims(scores, first.shape[1]) == case["dims"]


def test_published_scores_are_shared_covariance_in_total_variance() -> None:
    first, second, shared = codes()
    first, second = first + torch.arange(6.0), second + 3  # neither mean is 0, and they differ
    a, b = first.numpy(), second.numpy()
    total = sum(np.var(np.concatenate([a[:, i], b[:, i]])) for i in range(6))
    expected = []
    for mask in shared[:, :2].T.numpy():
        means = [(a[mask, i].mean() + b[mask, i].mean()) / 2 for i in range(6)]
        expected.append(sum(np.mean((a[mask, i] - m) * (b[mask, i] - m)) for i, m in enumerate(means)) / total)
    np.testing.assert_allclose(factor_scores(first, second, shared), [*expected, 1.0], rtol=1e-10)


def test_factors_that_agree_wholly_get_whole_shares() -> None:
    """A score that is 1 but for rounding must not cost the factor a unit."""
    for seed in range(50):
        first = normal(20 + seed, 16, seed=seed)
        shared = torch.tensor([[True, False]]).repeat(len(first), 1)
        assert factor_dims(factor_scores(first, first, shared), 16) == [8, 8]


def test_paper_scores_are_summed_correlation_coefficients() -> None:
    first, second, shared = codes()
    first = first * torch.arange(1.0, 7) + 5  # correlation knows neither scale nor offset
    expected = [
        sum(np.corrcoef(first[mask, i], second[mask, i])[0, 1] for i in range(6))
        for mask in (shared[:, 0], shared[:, 1])
    ]
    np.testing.assert_allclose(paper_scores(first, second, shared), [*expected, 6], rtol=1e-10)


def test_a_constant_unit_counts_nothing() -> None:
    first, second, shared = codes()
    scores = paper_scores(first, second, shared)
    padded = [torch.cat((x, torch.ones(len(x), 1, dtype=torch.float64)), 1) for x in (first, second)]
    torch.testing.assert_close(paper_scores(*padded, shared)[:-1], scores[:-1])


def test_scores_count_a_pair_for_every_factor_it_shares() -> None:
    first, second, shared = codes()
    shared[0] = True
    both = factor_scores(first, second, shared)
    rows = shared[:, 1]
    mean = (first[rows].mean(0) + second[rows].mean(0)) / 2
    total = torch.cat((first, second)).var(0, correction=0).sum()
    torch.testing.assert_close(both[1], ((first[rows] - mean) * (second[rows] - mean)).mean(0).sum() / total)


@pytest.mark.parametrize(
    ("scores", "dim", "expected"),
    [
        ([1.0, 1.0, 1.0], 66, [22, 22, 22]),
        ([1.0, 1.0, 1.0], 64, [21, 21, 22]),
        ([64.0, 0.0, 64.0], 64, [32, 0, 32]),
        ([2000.0, -2000.0, 2000.0], 10, [5, 0, 5]),  # exp(2000) overflows
        ([1.0], 7, [7]),
        ([0.0, math.log(3)], 8, [2, 6]),
    ],
)
def test_dims_share_by_softmax_and_sum_to_the_whole(scores: list[float], dim: int, expected: list[int]) -> None:
    assert factor_dims(scores, dim) == expected
    assert sum(factor_dims(torch.tensor(scores), dim)) == dim


@pytest.mark.parametrize("scores", [[], [float("nan"), 1.0], [[1.0]]])
def test_dims_refuse_scores_that_mean_nothing(scores: list) -> None:
    with pytest.raises(ValueError, match="one finite number a factor"):
        factor_dims(scores, 8)


def test_scores_name_what_does_not_fit() -> None:
    first, second, shared = codes()
    with pytest.raises(ValueError, match=r"\[400, 6\], \[400, 5\] and \[400, 3\]"):
        factor_scores(first, second[:, :5], shared)
    with pytest.raises(ValueError, match="factor 1 is shared by none of the 400 pairs"):
        paper_scores(first, second, shared & torch.tensor([True, False, True]))
    with pytest.raises(ValueError, match="codes of all 400 pairs are equal"):
        factor_scores(first * 0, second * 0, shared)


class Codes(nn.Module):
    """A system whose code is the image, flattened."""

    def code(self, image: Tensor) -> Tensor:
        return image.flatten(1)


class Encoder(nn.Module):
    def encode(self, image: Tensor) -> Tensor:
        return image.flatten(1)


def pairs_of(first: Tensor, second: Tensor, shared: Tensor) -> Pairs:
    return Pairs(first.view(-1, 1, 1, first.shape[1]), second.view(-1, 1, 1, first.shape[1]), shared)


@pytest.mark.parametrize("system", [Codes(), Encoder()])
def test_factor_dims_of_a_system(system: nn.Module) -> None:
    first, second, shared = codes()
    names = ("digit", "color", "residual")
    figures = FactorDims()(system, batched(pairs_of(first, second, shared), 64, names))
    assert figures == FactorDims()(system, batched(pairs_of(first, second, shared), 7, names))
    for kind, scores in (("code", factor_scores), ("paper", paper_scores)):
        sizes = factor_dims(scores(first, second, shared), 6)
        assert [figures[f"dims/{kind}/{name}"] for name in names] == sizes
    assert figures["dims/score/digit"] == pytest.approx(factor_scores(first, second, shared)[0].item())
    assert figures["dims/score/digit"] > 0.25 > figures["dims/score/color"]  # 2 of 6 units agree
    assert figures["dims/paper_score/residual"] == 6
    assert len(figures) == 12


def test_factor_dims_name_the_factor_without_pairs() -> None:
    first, second, shared = codes()
    shared[:, 1] = False
    with pytest.raises(ValueError, match="none of the 400 test pairs shares the factor 'color'"):
        FactorDims()(Codes(), batched(pairs_of(first, second, shared), 64, ("digit", "color", "residual")))


def test_factor_dims_need_named_pairs() -> None:
    first, second, shared = codes()
    data = pairs_of(first, second, shared)
    with pytest.raises(ValueError, match="pairs with named factors"):
        FactorDims()(Codes(), batched(data, 64))
    with pytest.raises(ValueError, match=r"2 factors are named .* tell of 3"):
        FactorDims()(Codes(), batched(data, 64, ("digit", "residual")))
    with pytest.raises(ValueError, match=r"FactorDims needs a system with encode\(\.\.\.\); Linear has none"):
        FactorDims()(nn.Linear(1, 1), batched(data, 64, ("digit", "color", "residual")))


# -- likelihood and inversion -----------------------------------------------------------------------------------------


class Affine(nn.Module):
    """z = scale * x + 1, of which ``inverse`` gets one unit wrong by ``slip``."""

    def __init__(self, scale: float, slip: float = 0.0) -> None:
        super().__init__()
        self.scale, self.slip = scale, slip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * x + 1, x.new_full((len(x),), x.shape[1] * math.log(self.scale))

    def inverse(self, z: Tensor) -> Tensor:
        x = (z - 1) / self.scale
        x[0, 0] += self.slip
        return x


class Flow(nn.Module):
    def __init__(self, scale: float = 2.0, slip: float = 0.0) -> None:
        super().__init__()
        self.flow = Affine(scale, slip)

    def code(self, image: Tensor) -> Tensor:
        return image.flatten(1)

    def noisy_code(self, image: Tensor) -> Tensor:
        return image.flatten(1) + 0.25


def test_nll_is_the_density_of_the_noisy_codes() -> None:
    data = images(25)
    x = data.image.flatten(1).double() + 0.25
    expected = -torch.distributions.Normal(-0.5, 0.5).log_prob(x).sum(1).mean().item()  # z = 2 x + 1 is N(0, 1)
    for size in (25, 10, 1):  # batches of 10, 10 and 5 count by their images
        figures = NLL()(Flow(), batched(data, size))
        assert figures["nll/nats"] == pytest.approx(expected, rel=1e-6)
        assert figures["nll/bits_per_dim"] == pytest.approx(expected / 16 / math.log(2), rel=1e-6)


def test_inversion_finds_the_worst_unit() -> None:
    exact = Inversion()(Flow(), batched(images(20), 20))
    assert exact["inversion/max"] < 1e-6
    off = Inversion()(Flow(slip=0.5), batched(images(20), 20))
    assert off["inversion/max"] == pytest.approx(0.5, abs=1e-6)
    assert off["inversion/mean"] == pytest.approx(0.5 / (20 * 16), abs=1e-6)


def test_inversion_does_not_lose_nan() -> None:
    figures = Inversion()(Flow(slip=float("nan")), batched(images(20), 5)[:1] + batched(images(20), 20))
    assert math.isnan(figures["inversion/max"])


@pytest.mark.parametrize("metric", [NLL(), Inversion(), Reconstruction(), Accuracy()])
def test_an_unfit_system_or_no_images_is_one_clear_line(metric: object) -> None:
    with pytest.raises(ValueError, match=r"needs a system with \w+\(\.\.\.\); Linear has none"):
        metric(nn.Linear(1, 1), batched(images(4), 2))
    with pytest.raises(ValueError, match="no test images"):
        metric(Everything(), Batches())


class Everything(Flow):
    def reconstruct(self, image: Tensor) -> Tensor:
        return image + 0.5 * (torch.arange(image[0].numel()).view(image[0].shape) == 0)

    def classify(self, image: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(image),), 3), 10).float()


def test_reconstruction_and_accuracy() -> None:
    for size in (25, 10):
        figures = Reconstruction()(Everything(), batched(images(25), size))
        assert figures["reconstruction/mse"] == pytest.approx(0.25 / 16)
        assert figures["reconstruction/mae"] == pytest.approx(0.5 / 16)
        assert Accuracy()(Everything(), batched(images(25), size)) == {"accuracy": 3 / 25}  # 3, 13 and 23
    with pytest.raises(ValueError, match="labels"):
        Accuracy()(Everything(), batched(pairs_of(*codes()), 8))


# -- factor swaps -----------------------------------------------------------------------------------------------------

NAMES = ("digit", "color", "residual")


def colored(count: int, seed: int = 0) -> Images:
    """Images ``[B, 3, 2, 10]`` that show their label as a bar: stroke +colour, background -colour."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(10, (count,), generator=generator)
    color = torch.rand(count, 3, 1, 1, generator=generator)
    bar = nn.functional.one_hot(label, 10).float().view(count, 1, 1, 10).expand(-1, 3, 2, -1) * 2 - 1
    return Images(bar * color, label)


def judge_bar(image: Tensor) -> Tensor:
    return image.sum((1, 2)).argmax(1)


class Swapper(nn.Module):
    """A system on `colored` images; ``honest`` ones swap as they should, others ignore the factors they are given."""

    def __init__(self, honest: bool = True) -> None:
        super().__init__()
        self.honest = honest
        self.largest = 0

    def swap(self, image: Tensor, other: Tensor, factors: list[int]) -> Tensor:
        self.largest = max(self.largest, len(image))
        if not self.honest:
            return image
        source = [other if k in factors else image for k in range(2)]
        color = source[1].amax((2, 3), keepdim=True)
        bar = nn.functional.one_hot(judge_bar(source[0]), 10).float().view(-1, 1, 1, 10) * 2 - 1
        return bar.expand(-1, 3, 2, -1) * color

    def reconstruct(self, image: Tensor) -> Tensor:
        return image.flip(3) if not self.honest else image


def swaps(**arguments: object) -> FactorSwaps:
    return FactorSwaps(judges={"digit": judge_bar}, **arguments)


def test_a_perfect_swapper() -> None:
    system = Swapper()
    figures = swaps(pairs=400, batch_size=64)(system, batched(colored(1000), 100, NAMES))
    assert set(figures) == {
        *(f"swaps/digit/{key}" for key in ("follows", "stays", "judge_images", "judge_reconstructions")),
        *(f"swaps/color/{key}" for key in ("follows", "stays", "error", "chance")),
    }
    assert figures.pop("swaps/color/error") == pytest.approx(0, abs=1e-6)
    assert figures.pop("swaps/color/chance") == pytest.approx(1 / 3, abs=0.03)  # E|u - v| of uniform u, v
    assert set(figures.values()) == {1.0}
    assert system.largest == 64


class Notes(Swapper):
    """Writes down which factors are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[list[int]] = []

    def swap(self, image: Tensor, other: Tensor, factors: list[int]) -> Tensor:
        self.taken.append(list(factors))
        return super().swap(image, other, factors)


def test_all_but_the_factor_is_taken_where_it_shall_stay() -> None:
    """The residual too: it is what could carry the factor along."""
    system = Notes()
    swaps(pairs=20)(system, batched(colored(100), 100, NAMES))
    assert system.taken == [[0], [1, 2], [1], [0, 2]]


def test_a_system_that_swaps_nothing() -> None:
    figures = swaps(pairs=400)(Swapper(honest=False), batched(colored(1000), 100, NAMES))
    assert figures["swaps/digit/follows"] == 0
    assert figures["swaps/digit/stays"] == 1
    assert figures["swaps/color/follows"] == 0
    assert figures["swaps/color/stays"] == 1
    assert figures["swaps/color/error"] == pytest.approx(1 / 3, abs=0.03)
    assert figures["swaps/digit/judge_images"] == 1
    assert figures["swaps/digit/judge_reconstructions"] == 0  # the bar is mirrored


def test_swaps_do_not_depend_on_the_batches() -> None:
    data = colored(1000)
    figures = [swaps(pairs=200)(Swapper(), batched(data, size, NAMES)) for size in (7, 100, 1000)]
    assert figures[0] == figures[1] == figures[2]
    data = Pairs(data.image, data.image, torch.zeros(1000, 3, dtype=torch.bool), data.label, data.label)
    assert swaps(pairs=200)(Swapper(), batched(data, 100, NAMES)) == figures[0]


@pytest.mark.parametrize("count", [50, 3000])
def test_pairs_are_as_many_as_asked_and_differ(count: int) -> None:
    data = colored(1000)
    pairs = draw_pairs(batched(data, 64), count)
    assert len(pairs.image) == len(pairs.other) == count
    assert (pairs.label != pairs.other_label).all()
    assert torch.equal(judge_bar(pairs.image), pairs.label)  # each image kept its own label
    assert torch.equal(judge_bar(pairs.other), pairs.other_label)
    places = [(data.image == image).flatten(1).all(1).nonzero()[0, 0].item() for image in pairs.image[:50]]
    assert len(set(places)) == 50  # no image is first twice before all were
    assert max(places) > 900 and min(places) < 100  # from the whole set, not from its beginning
    again = draw_pairs(batched(data, 10), count)
    assert all(torch.equal(a, b) for a, b in zip(pairs, again, strict=True))
    assert not torch.equal(pairs.label, draw_pairs(batched(data, 64), count, seed=1).label)


def test_pairs_without_labels_are_of_two_images() -> None:
    data = colored(10)
    unlabelled = Pairs(data.image, data.image, torch.zeros(10, 3, dtype=torch.bool))
    pairs = draw_pairs(batched(unlabelled, 4), 100)
    assert pairs.label is None and (pairs.image != pairs.other).flatten(1).any(1).all()
    with pytest.raises(ValueError, match="'digit' names classes, but the test images have no labels"):
        swaps()(Swapper(), batched(unlabelled, 4, NAMES))


def test_systems_that_cannot_decode() -> None:
    """A flow over a classifier's code has the methods, but no images come out of them."""
    blind, batches = Swapper(), batched(colored(200), 50, NAMES)
    blind.decodes = False
    with pytest.raises(ValueError, match="FactorSwaps needs images, but this Swapper has no decoder"):
        swaps()(blind, batches)
    with pytest.raises(ValueError, match="Reconstruction needs images"):
        Reconstruction()(blind, batches)
    assert FID()(blind, batches) == {}


def test_the_system_must_know_as_many_factors_as_the_data() -> None:
    system = Swapper()
    system.factors = (4, 4)
    with pytest.raises(ValueError, match=r"the data has the factors digit, color, residual, the system \(4, 4\)"):
        swaps()(system, batched(colored(200), 50, NAMES))


def test_a_judge_of_anybodys() -> None:
    batches = batched(colored(200), 50, ("bar", "hue", "residual"))
    assert FactorSwaps()(Swapper(), batches) == {}  # nobody judges these
    figures = FactorSwaps(judges={"bar": judge_bar, "hue": measure_color}, pairs=50)(Swapper(), batches)
    assert figures["swaps/bar/follows"] == figures["swaps/hue/stays"] == 1
    with pytest.raises(ValueError, match="judges for tint, but the factors are bar, hue, residual"):
        FactorSwaps(judges={"tint": judge_bar})(Swapper(), batches)
    with pytest.raises(ValueError, match=r"judges\.digit: no judge is called 'eyes'; there are digits, color"):
        FactorSwaps(judges={"digit": "eyes"})


def test_swaps_need_differing_images() -> None:
    data = colored(20)
    with pytest.raises(ValueError, match="all 20 have the label 7"):
        swaps()(Swapper(), batched(data._replace(label=torch.full((20,), 7)), 8, NAMES))
    with pytest.raises(ValueError, match="at least 2 test images, found 1"):
        swaps()(Swapper(), batched(Images(*(field[:1] for field in data)), 8, NAMES))
    grey = Images(data.image / data.image.amax((2, 3), keepdim=True), data.label)
    with pytest.raises(ValueError, match="'color' is the same in both images of all 2000 pairs"):
        swaps()(Swapper(), batched(grey, 8, NAMES))
    with pytest.raises(ValueError, match=r"FactorSwaps needs a system with swap\(\.\.\.\); Identity has none"):
        swaps()(nn.Identity(), batched(data, 8, NAMES))
