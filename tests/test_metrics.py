"""Metrics against answers that are known: closed forms, recorded outputs, systems that swap perfectly or not at all."""

from __future__ import annotations

import math
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
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
    Statistics,
    factor_dims,
    factor_scores,
    frechet_distance,
    paper_scores,
)
from iin.metrics.swaps import draw_pairs
from iin.models import features
from iin.models.features import Digits, Inception, quantise

REFERENCE = Path(os.environ.get("IIN_REFERENCE") or Path(__file__).parents[2] / "shared" / "reference")


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


# -- Fréchet distance -------------------------------------------------------------------------------------------------


def test_distance_of_a_shifted_set_is_the_squared_shift() -> None:
    mean, cov = normal(5), torch.cov(normal(5, 30, seed=1))
    shift = torch.tensor([1.0, 2.0, 0.0, -2.0, 0.5])
    assert frechet_distance(mean, cov, mean + shift, cov) == pytest.approx(9.25, rel=1e-9)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-9)


def test_distance_of_scaled_gaussians_is_the_squared_difference_of_deviations() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.0])  # the last is degenerate
    zero = torch.zeros(3)
    assert frechet_distance(zero, a.diag() ** 2, zero, b.diag() ** 2) == pytest.approx(1 + 9)


def test_distance_agrees_with_the_matrix_square_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    a, b = normal(8, 100, seed=1), normal(8, 8, seed=2) @ normal(8, 100, seed=3)
    cov_a, cov_b = torch.cov(a), torch.cov(b)
    expected = (a.mean(1) - b.mean(1)).square().sum() + cov_a.trace() + cov_b.trace()
    expected -= 2 * np.trace(linalg.sqrtm((cov_a @ cov_b).numpy())).real
    assert frechet_distance(a.mean(1).numpy(), cov_a.numpy(), b.mean(1), cov_b) == pytest.approx(
        float(expected), rel=1e-8
    )
    assert frechet_distance(b.mean(1), cov_b, a.mean(1), cov_a) == pytest.approx(float(expected), rel=1e-8)  # symmetric


def test_distance_is_real_and_not_negative_for_fewer_images_than_features() -> None:
    stats = [Statistics(), Statistics()]
    for seed, s in enumerate(stats):
        s.add(normal(10, 200, seed=seed) * 1e3)
    value = frechet_distance(stats[0].mean, stats[0].covariance, stats[1].mean, stats[1].covariance)
    assert math.isfinite(value) and value > 0
    same = frechet_distance(stats[0].mean, stats[0].covariance, stats[0].mean, stats[0].covariance)
    assert 0 <= same < 1e-6 * stats[0].covariance.trace()


def test_distance_refuses_what_does_not_fit() -> None:
    eye, zero = torch.eye(2), torch.zeros(2)
    with pytest.raises(ValueError, match=r"found \[2\], \[2, 2\], \[3\], \[2, 2\]"):
        frechet_distance(zero, eye, torch.zeros(3), eye)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(zero, eye * float("nan"), zero, eye)


@pytest.mark.parametrize("size", [1, 7, 50])
def test_statistics_do_not_depend_on_the_batch_size(size: int) -> None:
    values = normal(50, 4) + 1e6  # a naive sum of squares loses all digits of the variance here
    stats = Statistics()
    for part in values.split(size):
        stats.add(part)
    torch.testing.assert_close(stats.mean, values.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(stats.covariance, torch.cov(values.T), rtol=1e-8, atol=1e-9)


def test_statistics_refuse_what_has_no_covariance() -> None:
    stats = Statistics()
    stats.add(normal(1, 3))
    with pytest.raises(ValueError, match="at least 2 images, found 1"):
        _ = stats.covariance
    with pytest.raises(ValueError, match=r"expected \[B, 3\], found \[1, 4\]"):
        stats.add(normal(1, 4))
    with pytest.raises(ValueError, match="NaN"):
        stats.add(torch.full((1, 3), float("nan")))


class Painter(nn.Module):
    """Samples noise, and reconstructs an image brighter by ``shift``."""

    def __init__(self, shift: float = 0.0, shape: tuple[int, ...] = (1, 4, 4)) -> None:
        super().__init__()
        self.shift, self.shape = shift, shape

    def sample(self, n: int) -> Tensor:
        return torch.rand(n, *self.shape) * 2 - 1

    def reconstruct(self, image: Tensor) -> Tensor:
        return image + self.shift


class Pixels:
    """An extractor that counts its images."""

    name = "pixels"
    fingerprint = "pixels-1"

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, image: Tensor) -> Tensor:
        self.seen += len(image)
        return image.flatten(1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IIN_CACHE", str(tmp_path))
    return tmp_path / "statistics"


def fid_of(metric: FID, system: nn.Module, batches: Batches) -> dict[str, float]:
    torch.manual_seed(0)
    return metric(system, batches)


def test_fid_of_brighter_reconstructions_is_the_squared_shift() -> None:
    data = images(60)
    data = data._replace(image=quantise(data.image * 0.5))
    figures = fid_of(FID(Pixels()), Painter(0.25), batched(data, 16))
    levels = round(0.25 * 127.5) / 127.5  # images are rounded to 8 bits: 0.25 is 32 levels
    assert figures["fd_pixels/reconstructions"] == pytest.approx(16 * levels**2, rel=1e-6)
    assert set(figures) == {"fd_pixels/samples", "fd_pixels/reconstructions"}
    assert figures["fd_pixels/samples"] > 0


def test_fid_does_not_depend_on_the_batches_of_the_data() -> None:
    data = images(60)
    figures = [fid_of(FID(Pixels(), batch_size=16), Painter(0.1), batched(data, size)) for size in (1, 16, 25, 60)]
    assert all(found == figures[0] for found in figures)
    other = fid_of(FID(Pixels(), batch_size=7), Painter(0.1), batched(data, 60))
    assert other["fd_pixels/reconstructions"] == pytest.approx(figures[0]["fd_pixels/reconstructions"], rel=1e-6)


def test_fid_looks_at_as_many_images_as_asked() -> None:
    extractor = Pixels()
    metric = FID(extractor, images=30)
    few = fid_of(metric, Painter(), batched(images(60), 16))
    assert extractor.seen == 90  # real, reconstructed and sampled
    assert metric.facts == {"extractor": "pixels", "images": 30}
    first = Images(*(field[:30] for field in images(60)))
    assert few == fid_of(FID(Pixels()), Painter(), batched(first, 16))


def test_fid_sees_images_as_they_would_be_saved() -> None:
    data = images(40)
    saved = ((data.image + 1) * 128).floor().clamp(max=255).to(torch.uint8)  # as a PNG holds them
    read = data._replace(image=saved.float() / 127.5 - 1)
    assert fid_of(FID(Pixels()), Painter(2), batched(data, 8)) == fid_of(FID(Pixels()), Painter(2), batched(read, 8))
    assert quantise(torch.tensor([-3.0, 0.0, 3.0])).tolist() == pytest.approx([-1, 1 / 255, 1], abs=1e-6)


def test_fid_leaves_out_what_a_system_cannot_do() -> None:
    class Sampler(nn.Module):
        def sample(self, n: int) -> Tensor:
            return torch.rand(n, 1, 4, 4)

    assert list(fid_of(FID(Pixels()), Sampler(), batched(images(40), 8))) == ["fd_pixels/samples"]
    assert fid_of(FID(Pixels()), nn.Identity(), batched(images(40), 8)) == {}


def test_statistics_of_real_images_are_cached(cache: Path) -> None:
    batches, extractor = batched(images(40), 8, fingerprint="data-1"), Pixels()
    first = fid_of(FID(extractor), Painter(0.1), batches)
    assert extractor.seen == 120 and len(list(cache.iterdir())) == 1
    assert fid_of(FID(extractor), Painter(0.1), batches) == first
    assert extractor.seen == 200  # the real images are not looked at again
    for other, metric in (
        (batched(images(40), 8, fingerprint="data-2"), FID(extractor)),  # other data
        (batches, FID(extractor, images=30)),  # another count
    ):
        before = len(list(cache.iterdir()))
        metric(Painter(), other)
        assert len(list(cache.iterdir())) == before + 1
    extractor.fingerprint = "pixels-2"
    FID(extractor)(Painter(), batches)
    assert len(list(cache.iterdir())) == 4


def test_nothing_is_cached_without_fingerprints(cache: Path) -> None:
    FID(Pixels())(Painter(), batched(images(40), 8))
    FID(lambda image: image.flatten(1))(Painter(), batched(images(40), 8, fingerprint="data-1"))
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "nan", "shape"])
def test_a_damaged_cache_is_made_again(cache: Path, damage: str) -> None:
    batches = batched(images(40), 8, fingerprint="data-1")
    first = fid_of(FID(Pixels()), Painter(0.1), batches)
    (file,) = cache.iterdir()
    sound = file.read_bytes()
    fields = torch.load(file, weights_only=True)
    if damage in ("nan", "shape"):
        fields["mean"] = fields["mean"] * float("nan") if damage == "nan" else fields["mean"][:3]
        torch.save(fields, file)
    else:
        file.write_bytes({"cut": sound[: len(sound) // 2], "zeros": bytes(len(sound)), "empty": b""}[damage])
    assert fid_of(FID(Pixels()), Painter(0.1), batches) == first
    assert torch.load(file, weights_only=True)["mean"].isfinite().all()
    assert [f.name for f in cache.iterdir()] == [file.name]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = batched(images(40), 8, fingerprint="data-1")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "file"))
    assert fid_of(FID(Pixels()), Painter(), batches) == fid_of(FID(Pixels()), Painter(), batched(images(40), 8))
    monkeypatch.setenv("IIN_CACHE", str(tmp_path))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    FID(Pixels())(Painter(), batches)
    assert list((tmp_path / "statistics").iterdir()) == []  # no half-written file stays


def test_too_few_images() -> None:
    with pytest.raises(ValueError, match="at least 2 test images are needed, found 1"):
        FID(Pixels())(Painter(), batched(images(1), 8))
    metric = FID(Pixels())
    with pytest.warns(UserWarning, match="16 images for 16 features"):
        metric(Painter(), batched(images(16), 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric(Painter(), batched(images(16), 8))  # once is enough
        FID(Pixels())(Painter(), batched(images(17), 8))


def test_fid_of_nan_is_an_error_not_a_number() -> None:
    with pytest.raises(ValueError, match="NaN"):
        FID(Pixels())(Painter(float("nan")), batched(images(40), 8))


def test_figures_carry_the_name_of_their_extractor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FID().prefix == "fd_digits"

    def mine(image: Tensor) -> Tensor:
        return image.flatten(1)

    assert FID(mine).prefix == "fd_mine"
    mine.name = "inception"  # a name alone does not make an FID
    assert FID(mine).prefix == "fd_inception"
    with pytest.raises(ValueError, match="expected digits, inception or a callable, found 'vgg'"):
        FID("vgg")


def test_digit_features_need_no_name() -> None:
    data = images(80, size=32)
    figures = fid_of(FID(), Painter(shape=(1, 32, 32)), batched(data, 40))
    assert figures["fd_digits/reconstructions"] == pytest.approx(0, abs=1e-6)
    assert Digits()(data.image).shape == (80, 64)
    assert FID().facts["extractor"] == "digits"


# -- Inception: the network itself is an optional library's -----------------------------------------------------------

FAKE = """
import torch
class FeatureExtractorInceptionV3(torch.nn.Module):
    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert features_list == ["2048"]
        self.weight = torch.load(feature_extractor_weights_path)["weight"]
    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        return (x.float().mean((2, 3)) * self.weight,)
"""


@pytest.fixture
def no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing downloads unless it is named")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    features._inception.cache_clear()
    return tmp_path


@pytest.fixture
def library(no_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for torch-fidelity, on the path."""
    package = no_caches / "site" / "torch_fidelity"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "feature_extractor_inceptionv3.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(package.parent))
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    yield no_caches
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_fidelity"]:
        del sys.modules[name]


def test_inception_without_its_library_says_what_to_install(no_caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"torch-fidelity: pip install 'iin\[fid\]'") as error:
        FID("inception")
    assert "\n" not in str(error.value)
    assert list(FID.lacks(extractor="inception")) == [str(error.value)]
    assert list(FID.lacks()) == list(FID.lacks(extractor="digits", images=10)) == []


def test_inception_without_weights_names_the_ways_out(library: Path) -> None:
    with pytest.raises(ValueError) as error:
        FID("inception")
    line = str(error.value)
    assert "\n" not in line
    for part in ("weights: FILE", "pt_inception-2015-12-05-6726825d.pth", str(library / "cache"), "download: true"):
        assert part in line
    with pytest.raises(ValueError, match=r"no file nowhere\.pth"):
        FID("inception", weights="nowhere.pth")
    assert list(FID.lacks(extractor="inception", download=True)) == []  # named, so it may


@pytest.mark.parametrize("place", ["given", "cache", "hub"])
def test_inception_weights_are_found_and_checked(library: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = {"given": library / "mine", "cache": library / "cache", "hub": library / "torch/hub/checkpoints"}[place]
    folder.mkdir(parents=True)
    file = folder / "pt_inception-2015-12-05-6726825d.pth"
    torch.save({"weight": torch.tensor(2.0)}, file)
    metric = FID("inception", weights=str(file) if place == "given" else None)
    with pytest.raises(ValueError, match=r"not the reference weights: sha256 [0-9a-f]{8}\.\.\., expected 6726825d"):
        metric(Painter(), batched(images(20), 8))
    monkeypatch.setattr(features, "INCEPTION_SHA256", "")
    figures = fid_of(metric, Painter(1 / 127.5), batched(Images(images(20).image * 0.5, images(20).label), 8))
    assert set(figures) == {"fid/samples", "fid/reconstructions"}
    assert figures["fid/reconstructions"] == pytest.approx(3 * 2**2, rel=1e-2)  # one level brighter, in 3 features


def test_inception_downloads_where_it_is_named(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(url: str, path: str, hash_prefix: str) -> None:
        asked.append((url, hash_prefix))
        torch.save({"weight": torch.tensor(1.0)}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setattr(features, "INCEPTION_SHA256", "")
    extractor = Inception(download=True)
    assert asked == []  # not before it is used
    assert extractor(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert extractor(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    assert len(asked) == 1 and asked[0][0].endswith("6726825d.pth")
    assert features.find_inception() == library / "cache" / "pt_inception-2015-12-05-6726825d.pth"


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
    assert FID(Pixels())(blind, batches) == {}


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
