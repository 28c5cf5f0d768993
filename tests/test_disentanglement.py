"""Scores of disentanglement: published values, cases whose answer is known, and a system's own codes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from batches import batched
from conftest import REFERENCE
from torch import Tensor, nn

from iin import config
from iin.config import ConfigError
from iin.data import Images
from iin.evaluation import TestSet, evaluate
from iin.flows import vector_flow
from iin.metrics import Disentanglement, disentanglement
from iin.metrics.disentanglement import (
    beta_vae_score,
    dci,
    explicitness,
    factor_vae_score,
    importance_scores,
    irs,
    local_mig,
    local_modularity,
    local_scores,
    mig,
    modularity,
    sap,
    unsupervised,
)
from iin.metrics.disentanglement.information import discretise, entropy, mutual_information
from iin.metrics.disentanglement.interventions import beta_vae_points, factor_vae_votes
from iin.metrics.disentanglement.linear import sap_matrix
from iin.metrics.disentanglement.local import local_centre, local_factors
from iin.metrics.disentanglement.points import split
from iin.metrics.disentanglement.robustness import irs_matrix
from iin.metrics.disentanglement.sampling import sample_codes
from iin.models import Autoencoder as AutoencoderModel
from iin.models import Gaussian
from iin.systems import Autoencoder, FactorFlow, LatentFlow

Recorded = Mapping[str, np.ndarray]
SKLEARN = ("0_22_2", "1_9_1")
"""Versions that classifiers were recorded with."""


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    path = REFERENCE / "jlonevae" / "local_metrics.npz"
    if not path.is_file():
        pytest.skip("no recording jlonevae/local_metrics.npz: set IIN_REFERENCE to the folder of recorded outputs")
    return dict(np.load(path))


@pytest.fixture(scope="module", autouse=True)
def _sklearn() -> None:
    pytest.importorskip("sklearn", reason="needs iin[metrics]")


class Known:
    """Data whose images are their factors.

    Args:
        sizes: of the factors.
    """

    def __init__(self, *sizes: int) -> None:
        self.factor_sizes = sizes
        self.factor_names = tuple(f"f{i}" for i in range(len(sizes)))

    def sample_factors(self, n: int, generator: Any) -> Tensor:
        return torch.from_numpy(np.stack([generator.randint(size, size=n) for size in self.factor_sizes], 1))

    def render(self, factors: Tensor) -> Tensor:
        return factors[:, :, None, None].double()


def as_codes(image: Tensor) -> Tensor:
    return image.flatten(1)


class Recording(Known):
    """The recording's data, and its representation of them.

    Args:
        recorded: arrays.
        group: prefix of their names.
    """

    def __init__(self, recorded: Recorded, group: str) -> None:
        super().__init__(*recorded[f"{group}_factor_sizes"].tolist())
        self.weights = [recorded[f"{group}_{name}"] for name in ("A", "B", "b", "scale")]

    def represent(self, image: Tensor) -> np.ndarray:
        a, b, bias, scale = self.weights
        u = image.flatten(1).numpy() / np.maximum(np.array(self.factor_sizes) - 1, 1)
        return (np.tanh((u - 0.5) @ a + bias) + 0.3 * np.sin(4 * u @ b)) * scale


def close(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    found, expected = (list(each.values()) if isinstance(each, dict) else each for each in (found, expected))
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance


# --- published values --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def points(recorded: Recorded) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Codes and factors to learn from, and those of the test."""
    data, generator = Recording(recorded, "g"), np.random.RandomState(int(recorded["g_seed"]))
    train = sample_codes(data.represent, data, 800, generator)
    return (*train, sample_codes(data.represent, data, 400, generator))


def test_points_are_drawn_as_published(recorded: Recorded, points: Any) -> None:
    codes, factors, (test_codes, test_factors) = points
    for name, found in [
        ("mus_train", codes),
        ("ys_train", factors),
        ("mus_test", test_codes),
        ("ys_test", test_factors),
    ]:
        close(found.T, recorded[f"g_{name}"])


def test_information_is_as_published(recorded: Recorded, points: Any) -> None:
    codes, factors, _ = points
    bins = discretise(codes, 20)
    assert np.array_equal(bins.T, recorded["g_discretized20"])
    close(mutual_information(bins, factors), recorded["g_mi"])
    close(entropy(factors), recorded["g_entropy"])
    close(mig(codes, factors), recorded["g_mig"])
    close(modularity(codes, factors), recorded["g_modularity"])


@pytest.mark.parametrize("version", SKLEARN)
def test_sap_is_as_published(recorded: Recorded, points: Any, version: str) -> None:
    close(sap_matrix(*points, continuous=True), recorded["g_sap_matrix_continuous"])
    close(sap(*points, continuous=True), recorded["g_sap_continuous"])
    close(sap_matrix(*points), recorded[f"g_sap_matrix_discrete_sk{version}"], 0.01)
    close(sap(*points), recorded[f"g_sap_discrete_sk{version}"], 0.005)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("version", SKLEARN)
def test_dci_is_as_published_from_the_same_importance(recorded: Recorded, version: str, seed: int) -> None:
    importance = recorded[f"g_dci_importance_sk{version}_s{seed}"]
    close(importance_scores(importance), recorded[f"g_dci_sk{version}_s{seed}"][:2])
    # A single row, or column, is its own mean.
    of_codes = [importance_scores(row[None])["disentanglement"] for row in importance]
    of_factors = [importance_scores(column[:, None])["completeness"] for column in importance.T]
    close(of_codes, recorded[f"g_dci_per_code_sk{version}_s{seed}"])
    close(of_factors, recorded[f"g_dci_per_factor_sk{version}_s{seed}"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_dci_is_as_published(recorded: Recorded, points: Any, seed: int) -> None:
    found = dci(*points, seed=seed)
    for version in SKLEARN:
        close(found, recorded[f"g_dci_sk{version}_s{seed}"], 0.01)


def test_explicitness_is_as_published(recorded: Recorded, points: Any) -> None:
    close(explicitness(*points), recorded["g_explicitness_ovr_liblinear_sk1_9_1"], 1e-4)
    close(explicitness(*points), recorded["g_explicitness_fork_liblinear_ovr_sk0_22_2"], 1e-4)
    for version in SKLEARN:
        close(explicitness(*points, solver="lbfgs"), recorded[f"g_explicitness_default_lr_sk{version}"], 1e-3)


def test_irs_and_unsupervised_scores_are_as_published(recorded: Recorded, points: Any) -> None:
    codes, factors, _ = points
    close(irs(codes, factors), recorded["g_irs"])
    close(irs(codes, factors, quantile=1.0), recorded["g_irs_q100"])
    matrix, _ = irs_matrix(codes, factors)
    close(matrix, recorded["g_irs_matrix"])
    assert np.array_equal(matrix.argmax(1), recorded["g_irs_parents"])
    close(unsupervised(codes), recorded["g_unsup"])


def test_factor_vae_votes_are_those_published(recorded: Recorded) -> None:
    data, seed = Recording(recorded, "g"), int(recorded["fv_seed"])
    settings: dict[str, Any] = {"votes": 400, "test_votes": 200, "batch_size": 16, "points": 500}
    votes = factor_vae_votes(data.represent, data, seed, **settings)
    assert np.array_equal(votes.train, recorded["fv_votes_train"])
    assert np.array_equal(votes.test, recorded["fv_votes_eval"])
    assert np.array_equal(votes.active, recorded["fv_active"])
    close(votes.variances, recorded["fv_global_variances"])
    score = factor_vae_score(data.represent, data, seed, **settings)
    train, test, codes = recorded["fv_scores"]
    close([score["train"], score["test"]], [train, test])
    assert score["active"] == votes.active.sum() < codes == votes.train.shape[1]  # the recorded number is that of all


def test_beta_vae_score_is_as_published(recorded: Recorded) -> None:
    data, seed = Recording(recorded, "g"), int(recorded["bv_seed"])
    found, held = beta_vae_points(data.represent, data, 300, np.random.RandomState(seed), batch_size=16)
    close(found, recorded["bv_train_points"])
    assert np.array_equal(held, recorded["bv_train_labels"])
    score = beta_vae_score(data.represent, data, seed, points=300, test_points=150, batch_size=16)
    for version in SKLEARN:
        close(score, recorded[f"bv_scores_sk{version}"], 0.05)


def test_local_scores_are_as_published(recorded: Recorded) -> None:
    data, seed = Recording(recorded, "local"), int(recorded["local_seed"])
    settings: dict[str, Any] = {"points": 600, "clusters": 4, "bins": 5, "cutoff": 10, "batch_size": 16}
    radii = recorded["local_radii"].tolist()
    for radius, migs, modularities in zip(
        radii, recorded["local_mig_samples"], recorded["local_modularity_samples"], strict=True
    ):
        found = local_scores(data.represent, data, seed, radius=radius, **settings)
        close(found["mig"], migs)
        close(found["modularity"], modularities)
    found = local_mig(data.represent, data, seed, radii=radii, **settings)
    assert list(found) == ["0.1", "0.2", "0.3", "0.6", "1"]
    close(found, recorded["local_mig"])
    close(local_modularity(data.represent, data, seed, radii=radii, **settings), recorded["local_modularity"])


def test_neighbourhoods_are_those_published(recorded: Recorded) -> None:
    data, generator = Recording(recorded, "local"), np.random.RandomState(int(recorded["local_seed"]))
    for cluster in range(4):
        centre = local_centre(data.factor_sizes, generator)
        if not cluster:
            assert centre == recorded["local_first_centroid"].tolist()
        factors = local_factors(data.factor_sizes, centre, generator, points=600, radius=0.1)
        assert np.array_equal(factors.T, recorded["local_ys_r01"][cluster])
        codes = data.represent(data.render(torch.from_numpy(factors)))
        close(codes.T, recorded["local_mus_r01"][cluster])
        close(mutual_information(discretise(codes, 5), factors), recorded["local_mi_r01"][cluster])
        close(entropy(factors), recorded["local_entropy_r01"][cluster])


def test_short_and_denied_factors_stay_as_published(recorded: Recorded) -> None:
    """The published mean leaves out factors without entropy because of what an uninitialised buffer holds."""
    data, seed = Recording(recorded, "deny"), int(recorded["deny_seed"])
    given: dict[str, Any] = {"radius": float(recorded["deny_radius"]), "denied": recorded["deny_factors"].tolist()}
    found = local_scores(data.represent, data, seed, points=600, clusters=3, **given)
    close(found["mig"], recorded["deny_local_mig_samples_intended"])
    close(found["mig"], recorded["deny_local_mig_samples_original"])
    close(found["modularity"], recorded["deny_local_modularity_samples"])
    generator = np.random.RandomState(seed)
    for codes, factors, entropies in zip(
        recorded["deny_mus"], recorded["deny_ys"], recorded["deny_entropy"], strict=True
    ):
        drawn = local_factors(
            data.factor_sizes, local_centre(data.factor_sizes, generator), generator, points=600, **given
        )
        assert np.array_equal(drawn.T, factors)
        close(data.represent(data.render(torch.from_numpy(drawn))).T, codes)
        close(entropy(drawn), entropies)


# --- cases whose answer is known ---------------------------------------------------------------------------------


def grid(*sizes: int) -> np.ndarray:
    """All combinations of factors."""
    return np.stack([axis.reshape(-1) for axis in np.meshgrid(*map(np.arange, sizes), indexing="ij")], 1)


def test_codes_that_are_the_factors_score_1() -> None:
    factors = grid(20, 7, 6)
    codes = factors.astype(np.float32)
    assert mig(codes, factors) == pytest.approx(1)
    assert modularity(codes, factors) == pytest.approx(1)
    assert irs(codes, factors) == pytest.approx(1)
    assert unsupervised(codes)["mutual_information"] == pytest.approx(0, abs=1e-12)
    assert sap(codes, factors, continuous=True) == pytest.approx(1)
    few = grid(2, 3, 3)
    found = dci(few.astype(np.float64), few, (few, few))
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-6)
    data = Known(20, 7, 6)
    assert factor_vae_score(as_codes, data, votes=300, test_votes=100, points=500) == {
        "train": 1,
        "test": 1,
        "active": 3,
    }
    assert beta_vae_score(as_codes, data, points=300, test_points=100)["test"] > 0.95
    assert local_mig(as_codes, data, radii=[0.1, 0.2], points=1000, clusters=2, bins=20) == pytest.approx(
        {"0.1": 1.0, "0.2": 1.0}
    )  # factors with few values stay, and are left out
    assert local_modularity(as_codes, data, radii=[0.2], points=1000, clusters=2, cutoff=2, bins=20)["0.2"] > 0.9


def test_more_values_than_bins_cannot_all_be_told() -> None:
    factors = grid(40, 4)
    assert modularity(factors.astype(float), factors) == pytest.approx(1)
    assert mig(factors.astype(float), factors) == pytest.approx((np.log(20) / np.log(40) + 1) / 2)


def test_scores_in_closed_form() -> None:
    two = grid(2, 4)
    # A code that tells log 2 of one factor and log 4 of the other: 1 - 1^2 / 2^2.
    assert modularity((4 * two[:, :1] + two[:, 1:]).astype(float), two, bins=8) == pytest.approx(0.75)
    # Two codes for one factor, none for the other: each is of use for one, and the factor is spread over both.
    assert importance_scores(np.array([[1.0, 0.0], [1.0, 0.0]])) == pytest.approx(
        {"disentanglement": 1.0, "completeness": 0.0}, abs=1e-8
    )
    # A code counts by its share of all importance.
    assert importance_scores(np.array([[3.0, 0.0], [0.5, 0.5]]))["disentanglement"] == pytest.approx(0.75, abs=1e-8)
    # Codes of a known covariance v [[1, r], [r, 1]].
    random, r, v = np.random.RandomState(0).randn(500, 2), 0.6, 4.0
    white = (random - random.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(random, rowvar=False))).T
    found = unsupervised(white @ np.linalg.cholesky(v * np.array([[1, r], [r, 1]])).T)
    distance = 4 * v - 2 * v * (np.sqrt(1 + r) + np.sqrt(1 - r))
    assert found["total_correlation"] == pytest.approx(-0.5 * np.log(1 - r**2))
    assert found["wasserstein"] == pytest.approx(distance)
    assert found["wasserstein_normalised"] == pytest.approx(distance / (2 * v))


def test_a_code_counts_for_robustness_as_far_as_it_reaches() -> None:
    factors = grid(5, 5, 5)
    robust, fickle = factors[:, :1].astype(float), factors[:, 2:].astype(float)  # which no given factor holds
    far, near = (irs(np.concatenate([robust, scale * fickle], 1), factors[:, :2], bins=5) for scale in (10.0, 0.1))
    assert far == pytest.approx(1 / 11, abs=1e-6) and near == pytest.approx(1 / 1.1, abs=1e-6)


def test_robustness_in_closed_form() -> None:
    codes, factors = np.array([[0.0, 0, 4, 10, 10, 10]]).T, np.array([[0, 0, 0, 1, 1, 1]]).T
    matrix, reach = irs_matrix(codes, factors, bins=2, quantile=0.5)
    # From 4/3, the mean of the first three, the median distance is 4/3; from 10 it is 0; all reach 17/3 from 17/3.
    assert reach.tolist() == pytest.approx([17 / 3])
    assert matrix.tolist() == [pytest.approx([1 - (4 / 3 + 0) / 2 / (17 / 3)])]


def test_predictability_of_quantities_is_the_squared_correlation() -> None:
    random = np.random.RandomState(0)
    factors = random.randint(0, 7, size=(100, 2))
    codes = (factors @ [[1, 5, 0], [1, 0, 20]]) + random.randn(100, 3)
    expected = np.corrcoef(codes, factors, rowvar=False)[:3, 3:] ** 2
    close(sap_matrix(codes, factors, continuous=True), expected)


def test_a_third_of_the_points_is_set_aside() -> None:
    numbers = np.arange(31)[:, None]
    codes, factors, test_codes, test_factors = split(numbers.astype(float), numbers, None, 0, "dci")
    assert len(test_codes) == 10 and sorted([*codes[:, 0], *test_codes[:, 0]]) == list(range(31))
    assert np.array_equal(codes, factors) and np.array_equal(test_codes, test_factors)


def test_neighbourhoods_end_where_they_should() -> None:
    """A share of the range is rounded down, a factor as large as the cutoff moves, and no value is past the end."""
    sizes = (20, 10, 9, 20)
    factors = local_factors(sizes, [9, 4, 4, 18], np.random.RandomState(0), points=2000, radius=0.19)
    assert [np.unique(column).tolist() for column in factors.T] == [
        list(range(6, 13)), [3, 4, 5], [4], [15, 16, 17, 18, 19]
    ]  # fmt: skip


def test_the_scale_of_codes_does_not_matter_to_votes() -> None:
    data = Known(8, 8)
    scores = []
    for scale in (1.0, 1024.0):
        weight = torch.tensor([[1.0, 0.3 * scale], [0.3, scale]], dtype=torch.float64)

        def represent(image: Tensor, weight: Tensor = weight) -> Tensor:
            return as_codes(image) @ weight

        scores.append(factor_vae_score(represent, data, votes=100, test_votes=50, points=200))
    assert scores[0] == scores[1] and scores[0]["test"] > 0.9


def test_variances_at_large_are_unbiased() -> None:
    data = Known(5, 6)
    votes = factor_vae_votes(as_codes, data, 1, votes=1, test_votes=1, batch_size=2, points=20)
    codes, _ = sample_codes(as_codes, data, 20, np.random.RandomState(1), batch_size=20)
    close(votes.variances, codes.var(0, ddof=1))


def test_images_made_in_pieces_keep_their_order() -> None:
    codes, factors = sample_codes(as_codes, Known(50, 7), 2500, np.random.RandomState(0))
    assert np.array_equal(codes, factors)


def test_predictions_are_judged_on_the_points_of_the_test() -> None:
    few = grid(2, 3, 3)
    wrong = (few + 1) % [2, 3, 3]
    found = dci(few.astype(float), few, (few, wrong))
    assert (found["informativeness_train"], found["informativeness_test"]) == (1, 0)
    assert sap_matrix(few.astype(float), few, (few, wrong)).max() < sap_matrix(few.astype(float), few, (few, few)).max()


def test_explicitness_is_the_area_under_the_curve_in_units_of_what_was_learnt() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.multiclass import OneVsRestClassifier

    random = np.random.RandomState(0)
    factors = random.randint(0, 4, size=(300, 1))
    codes = np.concatenate([factors, factors**2 % 3], 1) + random.randn(300, 2)
    test = codes[150:][factors[150:, 0] > 0] * [1, 2] + [3, 0], factors[150:][factors[150:, 0] > 0]
    mean, deviation = codes[:150].mean(0), codes[:150].std(0)
    fitted = OneVsRestClassifier(LogisticRegression(solver="liblinear", random_state=0))
    fitted.fit((codes[:150] - mean) / deviation, factors[:150, 0])
    told = fitted.predict_proba((test[0] - mean) / deviation)
    expected = np.mean([roc_auc_score(test[1][:, 0] == value, told[:, value]) for value in (1, 2, 3)])
    found = explicitness(codes[:150], factors[:150], test)
    assert found["test"] == pytest.approx(expected, abs=1e-9)


def test_rotated_codes_score_less() -> None:
    factors = grid(10, 10, 10)
    straight = factors.astype(np.float64)
    turned = straight @ np.linalg.qr(np.random.RandomState(0).randn(3, 3))[0]
    for score in (mig, modularity, irs, lambda c, f: sap(c, f, continuous=True)):
        assert score(turned, factors) < score(straight, factors) - 0.1
    few = grid(3, 3, 3)
    spun = few @ np.linalg.qr(np.random.RandomState(0).randn(3, 3))[0]
    assert dci(spun, few, (spun, few))["disentanglement"] < 0.7


def test_constant_codes_score_as_the_formulas_say() -> None:
    factors = grid(5, 6)
    codes = np.full((30, 3), 0.1, dtype=np.float32)
    assert mig(codes, factors) == modularity(codes, factors) == irs(codes, factors) == 0
    assert sap(codes, factors) == sap(codes, factors, continuous=True) == 0
    assert set(unsupervised(codes).values()) == {0.0}
    assert explicitness(codes, factors, (codes, factors)) == pytest.approx({"train": 0.5, "test": 0.5})
    found = dci(codes, factors, (codes, factors))
    assert (found["disentanglement"], found["completeness"]) == pytest.approx((0, 0), abs=1e-9)
    still: Callable[[Tensor], Tensor] = lambda image: torch.zeros(len(image), 2)  # noqa: E731
    votes: dict[str, Any] = {"votes": 20, "test_votes": 20, "points": 50}
    for threshold in (0.0, 0.05):
        found = factor_vae_score(still, Known(5, 6), threshold=threshold, **votes)
        assert found == {"train": 0, "test": 0, "active": 0}
    # One dead code beside those that are the factors: the mean over codes falls, that over factors does not.
    padded = np.concatenate([factors, np.zeros((30, 1))], 1)
    assert mig(padded, factors) == pytest.approx(1)
    assert modularity(padded, factors) == pytest.approx(2 / 3)


def test_the_order_of_codes_and_points_does_not_matter() -> None:
    random = np.random.RandomState(0)
    factors = random.randint(0, 5, size=(300, 3))
    codes = np.tanh(factors @ random.randn(3, 4)) + 0.1 * random.randn(300, 4)
    order, rows = random.permutation(4), random.permutation(300)
    test = codes[:100], factors[:100]
    scores: list[Callable[..., Any]] = [
        lambda c, f, _: mig(c, f),
        lambda c, f, _: modularity(c, f),
        lambda c, f, _: irs(c, f),
        lambda c, f, _: list(unsupervised(c).values()),
        lambda c, f, t: sap(c, f, t),
        lambda c, f, t: sap(c, f, t, continuous=True),
        lambda c, f, t: list(explicitness(c, f, t).values()),
    ]
    for score in scores:
        before = score(codes, factors, test)
        assert score(codes[:, order], factors, (test[0][:, order], test[1])) == pytest.approx(before, abs=1e-3)
        assert score(codes[rows], factors[rows], test) == pytest.approx(before, abs=1e-3)


def test_a_factor_with_one_value_is_left_out_of_the_gap_and_counts_for_modularity() -> None:
    factors = grid(5, 6)
    codes = factors + 0.3 * factors[:, ::-1]
    more = np.concatenate([factors, np.full((30, 1), 4)], 1)
    assert mig(codes, more) == mig(codes, factors)
    assert 1 - modularity(codes, more) == pytest.approx((1 - modularity(codes, factors)) / 2)


def test_linear_dependence_is_an_infinite_total_correlation() -> None:
    code = np.arange(64.0)[:, None]
    found = unsupervised(np.concatenate([code, 2 * code], 1))
    assert found["total_correlation"] > 15  # infinite, but for rounding
    assert found["mutual_information"] == pytest.approx(np.log(20), abs=0.01)


def test_arrays_may_be_tensors_of_any_precision() -> None:
    factors = torch.from_numpy(grid(5, 6))
    codes = factors.float().requires_grad_()
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        assert mig(codes.to(kind), factors.to(torch.uint8)) == pytest.approx(1)
    single = np.random.RandomState(0).rand(1000, 2).astype(np.float32)
    assert np.array_equal(discretise(single, 20).min(0), [1, 1]) and np.array_equal(
        discretise(single, 20).max(0), [20, 20]
    )


# --- bad input ---------------------------------------------------------------------------------------------------

OF_ARRAYS = pytest.mark.parametrize("score", [mig, modularity, sap, dci, explicitness, irs], ids=lambda s: s.__name__)


def refused(words: str, score: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        score(*arguments, **named)
    assert "\n" not in str(caught.value)


@OF_ARRAYS
def test_arrays_that_are_none_are_refused(score: Callable[..., Any]) -> None:
    factors = grid(5, 6)
    codes = factors.astype(np.float64)
    for wrong in (np.nan, np.inf):
        broken = codes.copy()
        broken[7, 1] = wrong
        refused(rf"{score.__name__}: code 1 of point 7 is {wrong}", score, broken, factors)
    refused(r"codes \[30\]; expected \[N, D\]", score, codes[:, 0], factors)
    refused(r"factors \[30, 1, 2\]; expected \[N, F\]", score, codes, factors[:, None])
    refused("30 codes, but factors of 29 points", score, codes, factors[:-1])
    refused("factors are float64; expected integers", score, codes, codes)
    refused("factors are float32; expected integers", score, codes, torch.from_numpy(factors).float())
    refused("codes are complex128", score, codes.astype(complex), factors)
    refused("one value", score, codes, np.zeros_like(factors)) if score is not irs else None
    refused("points; expected at least", score, codes[:1], factors[:1])


@OF_ARRAYS
def test_codes_beyond_single_precision_and_ragged_ones_are_refused(score: Callable[..., Any]) -> None:
    factors = grid(5, 6)
    for codes in (1e300 * factors, -1e39 * factors):
        refused(rf"{score.__name__}: codes reach .*; expected at most 3.4e\+38", score, codes, factors)
    refused(f"{score.__name__}: codes are rows of different lengths", score, [[1.0, 2.0], [3.0]], factors)


def test_the_scale_of_codes_does_not_matter() -> None:
    codes = np.random.RandomState(0).randn(200, 4) @ np.random.RandomState(1).randn(4, 4)
    factors = np.random.RandomState(2).randint(0, 3, (200, 2))
    expected = unsupervised(codes)
    for scale in (1e38 / np.abs(codes).max(), 1e-100, 1e-300):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = unsupervised(codes * scale)
            assert np.isfinite(list(explicitness(codes * scale, factors).values())).all()
        for name in ("total_correlation", "wasserstein_normalised", "mutual_information"):
            assert found[name] == pytest.approx(expected[name], rel=1e-9), (name, scale)
        assert found["wasserstein"] == pytest.approx(expected["wasserstein"] * scale**2, rel=1e-9)


def test_too_few_points_codes_or_factors_are_refused() -> None:
    factors = grid(4, 4)
    codes = factors.astype(float)
    for score in (mig, modularity, irs):
        refused("16 points; expected at least as many as bins, 20", score, codes, factors)
        refused("bins: expected at least 2, found 1", score, codes, factors, bins=1)
    refused("16 points; expected at least as many as bins", unsupervised, codes)
    refused("code 0 of point 0 is nan", unsupervised, codes * np.nan)
    refused("one code", mig, codes[:, :1], factors, bins=4)
    refused("one code", sap, codes[:, :1], factors)
    refused("one code", unsupervised, codes[:, :1], bins=4)
    refused("one factor", modularity, codes, factors[:, :1], bins=4)
    refused("factor 1 has one value only", dci, codes, factors * [1, 0])
    refused("2 codes and 2 factors, but 1 and 2 in the test", sap, codes, factors, (codes[:, :1], factors))
    refused("test: code 0 of point 0 is nan", sap, codes, factors, (codes * np.nan, factors))
    refused("one value only in the test", explicitness, codes, factors, (codes[:1], factors[:1]))
    refused("quantile", irs, codes, factors, bins=4, quantile=0.0)
    refused("solver", explicitness, codes, factors, solver="newton")
    refused("importance", importance_scores, -codes)


def test_data_that_are_none_are_refused() -> None:
    data = Known(20, 7)
    scores = (factor_vae_score, beta_vae_score, local_mig, local_modularity)
    for score in scores:
        refused("list has no sample_factors, render, factor_sizes", score, as_codes, [])
        refused("is nan", score, lambda image: as_codes(image) * np.nan, data)
        refused(r"represent answered \[1, 2\]", score, lambda image: as_codes(image)[:1], data)
    for score in scores[:2]:
        refused("expected at least 2", score, as_codes, Known(20))
    refused("no factor varies at radius 0.1", local_mig, as_codes, Known(9, 9))
    refused("no factor varies", local_modularity, as_codes, data, denied=[0])
    refused("there is no factor 2", local_mig, as_codes, data, denied=[2])
    refused("radius -1", local_mig, as_codes, data, radii=[-1])
    refused("4 points; expected at least as many as bins, 5", local_mig, as_codes, data, points=4)
    refused("clusters", local_mig, as_codes, data, clusters=0)
    refused("no entropy", local_scores, as_codes, data, scores=["no entropy"])
    refused("points: 1 were all drawn of one factor", beta_vae_score, as_codes, data, points=1)


def test_scikit_learn_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in [name for name in sys.modules if name.startswith("sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    factors = grid(5, 6)
    for score in (sap, dci, explicitness):
        refused(r"scikit-learn: pip install 'iin\[metrics\]'", score, factors.astype(float), factors)
    assert list(Disentanglement.lacks(metrics=["mig", "sap"])) == [
        "metrics: sap: this needs the package scikit-learn: pip install 'iin[metrics]'"
    ]
    assert not list(Disentanglement.lacks(metrics=["mig"])) + list(Disentanglement.lacks())
    assert mig(factors.astype(float), factors) == pytest.approx(1)


def test_fitted_classifiers_do_not_warn() -> None:
    random = np.random.RandomState(0)
    factors = random.randint(0, 4, size=(200, 2))
    codes = 1e3 * factors + random.randn(200, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sap(codes, factors)
        explicitness(codes, factors)


# --- of a system -------------------------------------------------------------------------------------------------


class Squares:
    """Bright squares: where, at which height, and how bright; ``factors`` as labels."""

    factor_sizes = (6, 6, 4)
    factor_names = ("x", "y", "brightness")
    source = "squares"

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self.rendered = 0

    def __len__(self) -> int:
        return 144

    def __getitem__(self, indices: Any) -> Images:
        factors = torch.from_numpy(grid(6, 6, 4))[list(indices)]
        return Images(self.render(factors), factors)

    def sample_factors(self, n: int, generator: Any) -> Tensor:
        return torch.from_numpy(np.stack([generator.randint(size, size=n) for size in self.factor_sizes], 1))

    def render(self, factors: Tensor) -> Tensor:
        self.rendered += len(factors)
        image = torch.full((len(factors), 1, self.size, self.size), -1.0)
        for row, (x, y, brightness) in zip(image, factors.tolist(), strict=True):
            row[0, y : y + 3, x : x + 3] = brightness / 3
        return image


class Moments(nn.Module):
    """A first stage whose code is where the image is bright, and how much."""

    dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def encode(self, image: Tensor) -> Any:
        light = image[:, 0] + 1
        places = torch.arange(light.shape[-1], dtype=light.dtype)
        total = light.sum((1, 2))
        code = torch.stack([(light.sum(1) * places).sum(1) / total, (light.sum(2) * places).sum(1) / total, total], 1)
        return tiny.Gaussian(torch.cat([code, 0 * code[:, :1]], 1), torch.zeros(len(image), 4))


EVERY = ("mig", "modularity", "sap", "explicitness", "irs", "unsupervised", "factor_vae", "beta_vae")
TREES = {"disentanglement/dci", "disentanglement/completeness", "disentanglement/informativeness"}
NAMES = {
    *(f"disentanglement/{name}" for name in (*EVERY[:3], "explicitness")),
    *(f"disentanglement/{name}" for name in ("irs", "factor_vae", "active", "beta_vae", "total_correlation")),
    *(f"disentanglement/{name}" for name in ("wasserstein", "wasserstein_normalised", "mutual_information")),
    *("local_mig/0.5", "local_mig/1", "local_modularity/0.5", "local_modularity/1"),
}


def whole(data: Any, *more: str, **given: Any) -> Disentanglement:
    """All scores but DCI, which takes a while, of few points."""
    settings: dict[str, Any] = {"points": 120, "test_points": 60, "votes": 40, "test_votes": 20, "clusters": 2}
    metrics: Any = (*EVERY, "local_mig", "local_modularity", *more)
    return Disentanglement(metrics, data, radii=(0.5, 1.0), cutoff=2, **{**settings, **given})


def toy() -> Autoencoder:
    return Autoencoder(AutoencoderModel(channels=1, size=8, dim=4, n_down=2, width=4))


def test_an_autoencoder_has_all_figures() -> None:
    metric = whole(Squares())
    found = metric(toy().eval(), batched(Squares()[range(144)], 50))
    assert set(found) == NAMES
    assert all(np.isfinite(value) for value in found.values())
    assert metric.facts == {"codes": "encode", "factors": "squares", "figures": list(found)}


def test_a_flow_is_measured_in_its_latent_or_in_the_code_below() -> None:
    flow = vector_flow(dim=4, blocks=2, hidden=8, depth=1)
    system = FactorFlow(Moments(), flow, factors=[2, 2]).eval()
    test = batched(Squares()[range(144)], 50)
    of_latent = whole(Squares())(system, test)
    of_code = whole(Squares(), codes="code")(system, test)
    assert set(of_latent) == set(of_code) == NAMES
    # The code is the factors, in units of its own, and one that is constant; the latent is a mixture.
    assert of_code["disentanglement/mig"] > 0.9 > 0.5 > of_latent["disentanglement/mig"]
    assert of_code["disentanglement/active"] == 3
    assert of_code["local_mig/1"] > of_latent["local_mig/1"]


@pytest.mark.slow
def test_the_figures_of_trees() -> None:
    system, data = toy().eval(), Squares()
    found = whole(data, "dci")(system, batched(data[range(144)], 50))
    assert set(found) == NAMES | TREES
    generator = np.random.RandomState(0)
    train, test = (sample_codes(lambda image: system.encode(image).detach(), data, n, generator) for n in (120, 60))
    expected = dci(*train, test)
    names = {"dci": "disentanglement", "completeness": "completeness", "informativeness": "informativeness_test"}
    for name, key in names.items():
        close(found[f"disentanglement/{name}"], expected[key])


def test_figures_are_those_of_the_functions() -> None:
    system, data = LatentFlow(Moments(), vector_flow(dim=4, blocks=1, hidden=4, depth=1)).eval(), Squares()
    seed = 3
    found = whole(data, seed=seed)(system, batched(data[range(144)], 50))

    def represent(image: Tensor) -> Tensor:
        with torch.no_grad():
            return system.encode(image)

    generator = np.random.RandomState(seed)
    codes, factors = sample_codes(represent, data, 120, generator)
    test = sample_codes(represent, data, 60, generator)
    close(found["disentanglement/mig"], mig(codes, factors))
    close(found["disentanglement/sap"], sap(codes, factors, test))
    close(found["disentanglement/explicitness"], explicitness(codes, factors, test)["test"])
    votes = factor_vae_score(represent, data, seed, votes=40, test_votes=20, points=120)
    close(found["disentanglement/factor_vae"], votes["test"])
    pairs = beta_vae_score(represent, data, seed, points=40, test_points=20)
    close(found["disentanglement/beta_vae"], pairs["test"])
    local = local_mig(represent, data, seed, radii=[0.5, 1], points=120, clusters=2, cutoff=2)
    close([found["local_mig/0.5"], found["local_mig/1"]], local)


def test_votes_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of few votes are often equal, whatever was drawn."""
    seen: list[int] = []
    for name in ("factor_vae_score", "beta_vae_score"):
        score = getattr(disentanglement, name)
        monkeypatch.setattr(
            f"iin.metrics.disentanglement.evaluator.{name}",
            lambda represent, data, seed, score=score, **more: (
                seen.append(seed) or score(represent, data, seed, **more)
            ),
        )
    system = LatentFlow(Moments(), vector_flow(dim=4, blocks=1, hidden=4, depth=1)).eval()
    Disentanglement(["factor_vae", "beta_vae"], Squares(), points=50, votes=10, test_votes=5, seed=3)(system, [])
    assert seen == [3, 3]


def test_neighbourhoods_of_a_system_are_those_asked_for() -> None:
    system, data = LatentFlow(Moments(), vector_flow(dim=4, blocks=1, hidden=4, depth=1)).eval(), Squares()
    given: dict[str, Any] = {"points": 60, "clusters": 3, "cutoff": 3, "denied": (1,), "batch_size": 7}
    found = Disentanglement(["local_mig"], data, radii=(0.5,), local_bins=4, codes="code", seed=2, **given)(system, [])
    expected = local_mig(system.code, data, 2, radii=[0.5], bins=4, **given)
    close(found["local_mig/0.5"], expected["0.5"])
    for name, other in (("clusters", 2), ("cutoff", 5), ("denied", ()), ("batch_size", 60)):
        assert local_mig(system.code, data, 2, radii=[0.5], bins=4, **{**given, name: other}) != expected, name


def test_an_evaluation_draws_points_once_for_all_entries() -> None:
    data = Squares()
    entries = {name: Disentanglement([name], data, points=100) for name in ("mig", "modularity", "irs", "unsupervised")}  # type: ignore[list-item]
    found = evaluate(toy(), TestSet(batched(Squares()[range(144)], 50)), entries)
    assert data.rendered == 100
    assert {"disentanglement/mig", "disentanglement/modularity", "disentanglement/irs"} <= set(found)
    again = evaluate(toy(), TestSet(batched(Squares()[range(144)], 50)), entries)
    assert set(again) == set(found)


def test_without_data_the_labels_of_test_images_are_the_factors() -> None:
    system, data = LatentFlow(Moments(), vector_flow(dim=4, blocks=1, hidden=4, depth=1)).eval(), Squares()
    images = data[range(144)]
    metric = Disentanglement([*EVERY[:3], "irs"], codes="code")  # type: ignore[list-item]
    found = metric(system, batched(images, 50))
    close(found["disentanglement/mig"], mig(system.code(images.image), images.label))
    assert metric.facts["codes"] == "code" and "factors" not in metric.facts
    first = Disentanglement(["mig"], points=70, codes="code")(system, batched(images, 50))
    close(first["disentanglement/mig"], mig(system.code(images.image[:70]), images.label[:70]))
    # A class is one factor: how far a single code stands for it can be told, but not how codes are divided.
    classes = images._replace(label=images.label[:, 0])
    assert Disentanglement(["mig"], codes="code")(system, batched(classes, 50))["disentanglement/mig"] > 0.9
    refused("one factor", Disentanglement(["modularity"]), system, batched(classes, 50))
    refused("no labels", Disentanglement(["mig"]), system, batched(images._replace(label=None), 50))
    refused("no test images", Disentanglement(["mig"]), system, [])


def test_what_cannot_be_measured_is_refused() -> None:
    refused(r"Disentanglement needs a system with encode", Disentanglement().check_system, tiny.Codeless())
    Disentanglement().check_system(toy())
    refused("local_mig choose factors of images, and need data", Disentanglement, ["mig", "local_mig"])
    refused("metrics: there is no migg", Disentanglement, ["migg"])
    refused("list has no sample_factors", Disentanglement, None, [])
    assert Disentanglement().metrics == ("mig", "modularity")
    assert Disentanglement(data=Squares()).metrics == ("mig", "modularity", "local_mig", "local_modularity")
    refused(
        r"LatentFlow.encode failed on images \[1, 12, 12\] of Squares; expected data of the size",
        Disentanglement(["mig"], Squares(12), points=100),
        LatentFlow(tiny.Narrow(), vector_flow(dim=4, blocks=1, hidden=4, depth=1)),
        [],
    )


def test_a_factor_of_one_value_is_left_out_where_it_would_be_predicted() -> None:
    data = Squares()
    data.factor_sizes = (6, 6, 1)
    metric = Disentanglement(["mig", "sap", "explicitness"], data, points=120, test_points=60)
    found = metric(LatentFlow(Moments(), vector_flow(dim=4, blocks=1, hidden=4, depth=1)).eval(), [])
    assert len(found) == 3 and all(np.isfinite(value) for value in found.values())


def test_a_configuration_names_scores_and_data(tmp_path: Path) -> None:
    params = {"metrics": ["mig", "local_mig"], "data": tiny.node("iin.data.ThreeDots"), "radii": [0.1]}
    tree = tiny.autoencoder()

    def check() -> None:
        path = tmp_path / "local.yaml"
        tree["evaluate"] = {"local": tiny.node("iin.metrics.Disentanglement", **params)}
        path.write_text(yaml.safe_dump(tree))
        config.check(config.load([path]), allow=["tiny"])

    check()
    metric = config.build(tree["evaluate"]["local"])
    assert isinstance(metric, Disentanglement) and metric.data is not None
    params["metrics"] = ["mig", "local_migs"]
    with pytest.raises(ConfigError, match=r"evaluate\.local\.params\.metrics\[1\].*local_migs"):
        check()


def test_names_are_those_of_the_package() -> None:
    assert all(callable(getattr(disentanglement, name)) for name in disentanglement.__all__)


def test_a_posterior_is_no_code() -> None:
    posterior = Gaussian(torch.zeros(30, 2), torch.zeros(30, 2))
    with pytest.raises(
        ValueError, match=r"mig: codes are a Gaussian, a distribution; expected \[N, D\]: take its mean"
    ):
        disentanglement.mig(posterior, torch.zeros(30, 2, dtype=torch.int64))  # type: ignore[arg-type]


def test_several_answers_are_no_code() -> None:
    def represent(image: Tensor) -> Any:
        codes = as_codes(image).requires_grad_()
        return codes, codes

    for score in (factor_vae_score, beta_vae_score, local_mig, local_modularity):
        refused(r": codes are a tuple of 2 parts; expected one tensor \[N, D\]", score, represent, Known(20, 7))
