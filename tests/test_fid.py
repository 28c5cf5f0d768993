"""FID and KID against closed forms, and against the reference implementation."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from batches import Batches, batched, images, normal
from PIL import Image
from processes import together
from torch import Tensor, nn

from iin import pictures
from iin.data import MNIST, ImageFolder, Images
from iin.distributed import rank
from iin.metrics import (
    FID,
    KernelDistance,
    Statistics,
    frechet,
    frechet_distance,
    frechet_distance_of_few,
    kernel_distance,
)
from iin.metrics.kid import squared_mmd, subset_size
from iin.metrics.statistics import BLOCK, Summary
from iin.models import features
from iin.models.features import Digits, Inception, levels, quantise

MADE = ("samples", "reconstructions")

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


def test_distance_of_singular_covariances_is_exact() -> None:
    """With fewer images than features; the trace of the root is the nuclear norm of the product of centred features."""
    a, b = (normal(count, 60, seed=count) @ normal(60, 60, seed=1) + count / 10 for count in (20, 35))
    centred = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b)]
    expected = (a.mean(0) - b.mean(0)).square().sum() + sum(x.square().sum() for x in centred)
    expected -= 2 * torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    found = frechet_distance(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    assert found == pytest.approx(float(expected), rel=1e-7)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), torch.cov(x.T)


def few_and_many(count: int, seed: int) -> Tensor:
    """Features ``[count, 40]`` with a steep spectrum."""
    return normal(count, 40, seed=seed) * torch.arange(1, 41, dtype=torch.float64) ** -1.5 + seed / 10


@pytest.mark.parametrize("counts", [(15, 25), (15, 300), (300, 15), (15, 15), (2, 3)])
def test_distance_of_few_images_is_that_of_their_covariances(counts: tuple[int, int]) -> None:
    """The nuclear norm, a factor with pivoting, or the features as a factor: all the same number."""
    a, b = (few_and_many(count, seed) for seed, count in enumerate(counts))
    centred = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b)]
    expected = (a.mean(0) - b.mean(0)).square().sum() + sum(x.square().sum() for x in centred)
    expected = (expected - 2 * torch.linalg.svdvals(centred[0] @ centred[1].T).sum()).item()
    few, other = (a, b) if len(a) < 40 else (b, a)
    for found in (
        frechet_distance(*moments(a), *moments(b)),
        frechet_distance_of_few(few, other),
        frechet_distance_of_few(few, moments(other)),
        frechet_distance_of_few(few.float(), other.float()),
    ):
        assert found == pytest.approx(expected, rel=2e-6)


def test_a_factor_of_any_covariance() -> None:
    whole = torch.cov(few_and_many(300, 1).T)
    singular = torch.cov(few_and_many(15, 2).T)
    slip = normal(40, 40, seed=3) * 1e-8
    noisy = singular + slip + slip.T  # as of float32: it has negative eigenvalues
    assert torch.linalg.eigvalsh(noisy)[0] < -1e-9
    for covariance, rank_of, off in ((whole, 40, 1e-14), (singular, 14, 1e-14), (noisy, None, 2e-7)):
        factor = frechet._factor(covariance)
        assert rank_of is None or factor.shape == (40, rank_of)
        assert (factor @ factor.T - covariance).abs().max() < off
    zero = torch.zeros(3)
    assert frechet_distance(zero, torch.zeros(3, 3), zero, torch.eye(3)) == 3
    for first, second in ((whole, noisy), (noisy, whole)):
        exact = frechet_distance(torch.zeros(40), whole, torch.zeros(40), singular)
        assert frechet_distance(torch.zeros(40), first, torch.zeros(40), second) == pytest.approx(exact, abs=1e-4)


def test_threads_are_as_many_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.eye(2))
        with pytest.raises(ValueError):
            frechet_distance_of_few(torch.full((2, 2), float("nan")), torch.zeros(2, 2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_distance_refuses_what_does_not_fit() -> None:
    eye, zero = torch.eye(2), torch.zeros(2)
    with pytest.raises(ValueError, match=r"found \[2\], \[2, 2\], \[3\], \[2, 2\]"):
        frechet_distance(zero, eye, torch.zeros(3), eye)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(zero, eye * float("nan"), zero, eye)
    for few, other, shapes in (
        (torch.zeros(1, 2), eye, r"\[1, 2\], \[2, 2\]"),
        (eye, torch.zeros(1, 2), r"\[2, 2\], \[1, 2\]"),
        (eye, torch.zeros(2, 3), r"\[2, 2\], \[2, 3\]"),
        (zero, zero, r"\[2\], \[2\]"),
        (eye, (zero, torch.zeros(3, 3)), r"\[2, 2\], \[2\], \[3, 3\]"),
    ):
        with pytest.raises(ValueError, match=f"n and m >= 2, found {shapes}"):
            frechet_distance_of_few(few, other)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance_of_few(eye, (zero, eye * float("inf")))


def test_a_summary_takes_the_fastest_way() -> None:
    """Where there are few images, covariances are not even looked at."""

    def summary(x: Tensor, keep: bool = True) -> Summary:
        stats = Statistics(keep=keep)
        stats.add(x)
        return stats.summary()

    many, few, other = few_and_many(300, 0), few_and_many(15, 1), few_and_many(20, 2)
    void = torch.full((40, 40), float("nan"), dtype=torch.float64)
    hidden, blind = summary(few)._replace(covariance=void), summary(many)._replace(covariance=void)
    for a, b, first, second in (
        (many, few, summary(many), hidden),
        (few, many, hidden, summary(many)),
        (few, other, hidden, summary(other)._replace(covariance=void)),
        (few, other, summary(few, keep=False), summary(other)._replace(covariance=void)),
        (few, other, summary(few, keep=False), summary(other, keep=False)),
    ):
        assert first.distance(second) == pytest.approx(frechet_distance(*moments(a), *moments(b)), rel=2e-6)
    with pytest.raises(ValueError, match="finite"):
        blind.distance(summary(many))
    with pytest.raises(ValueError, match=r"found \[40\], \[40, 40\], \[39\], \[39, 39\]"):
        summary(few).distance(summary(few[:, 1:]))


@pytest.mark.parametrize("size", [1, 7, 50])
def test_statistics_do_not_depend_on_the_batch_size(size: int) -> None:
    values = normal(50, 4) + 1e6  # a naive sum of squares loses all digits of the variance here
    stats = Statistics()
    for part in values.split(size):
        stats.add(part)
    torch.testing.assert_close(stats.mean, values.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(stats.covariance, torch.cov(values.T), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("size", [1, 100, 511, 512, 513, 2000])
def test_statistics_of_many_do_not_depend_on_the_batches_to_the_bit(size: int) -> None:
    values = normal(2 * BLOCK + 300, 3) * torch.tensor([1.0, 10, 100]) + torch.tensor([0.0, 1e4, -1e4])
    values[:600] += 30  # blocks whose means differ
    whole, stats = Statistics(keep=True), Statistics(keep=True)
    whole.add(values)
    for part in values.split(size):
        stats.add(part)
    assert stats.count == len(values) and stats.dim == 3
    assert torch.equal(stats.mean, whole.mean) and torch.equal(stats.covariance, whole.covariance)
    torch.testing.assert_close(stats.covariance, torch.cov(values.T), rtol=1e-11, atol=0)
    assert torch.equal(stats.summary().features, values.float())


def test_what_was_added_may_change_afterwards() -> None:
    values = normal(20, 3)
    stats = Statistics()
    stats.add(part := values.clone())
    part.zero_()
    torch.testing.assert_close(stats.mean, values.mean(0))


def test_statistics_merge_exactly() -> None:
    values = normal(1500, 5) * 3 + 1e4
    values[700:] -= 5
    whole = Statistics()
    whole.add(values)
    for cuts in ((700, 800), (1, 1499), (600, 0, 900), (0, 1500)):
        merged = Statistics(keep=True)
        for part in values.split(cuts):
            one = Statistics(keep=True)
            one.add(part)
            merged.merge(one)
            assert one.count == len(part)  # as it was
        assert merged.count == 1500
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-12)
        assert torch.equal(merged.summary().features, values.float())
    twice = Statistics()
    twice.add(values)
    twice.merge(twice)
    torch.testing.assert_close(twice.scatter, 2 * whole.scatter)
    with pytest.raises(ValueError, match="expected statistics of 5 features, found some of 4"):
        three = Statistics()
        three.add(normal(3, 4))
        twice.merge(three)
    with pytest.raises(ValueError, match="these statistics keep features, the others did not"):
        merged.merge(whole)


def _own_statistics(counts: tuple[int, int]) -> tuple[int, Tensor, Tensor]:
    values = normal(sum(counts), 6) * 2 + 100
    values[counts[0] :] += 7
    own = Statistics()
    own.add(values.split(counts)[rank()])
    found = own.everywhere()
    assert own.count == counts[rank()]
    return found.count, found.mean, found.scatter


@pytest.mark.parametrize("counts", [(30, 50), (0, 20), (600, 1)])
def test_statistics_of_processes_are_those_of_one(counts: tuple[int, int]) -> None:
    values = normal(sum(counts), 6) * 2 + 100
    values[counts[0] :] += 7
    whole = Statistics()
    whole.add(values)
    for count, mean, scatter in together(_own_statistics, counts):
        assert count == sum(counts)
        torch.testing.assert_close(mean, whole.mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(scatter, whole.scatter, rtol=1e-12, atol=1e-12)


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


class Reconstructor(nn.Module):
    """Reconstructs by a function, and cannot sample."""

    def __init__(self, reconstruct: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.reconstruct = reconstruct


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
    kid = {f"kid_pixels/{name}{end}" for name in ("samples", "reconstructions") for end in ("", "_std")}
    assert set(figures) == {"fd_pixels/samples", "fd_pixels/reconstructions"} | kid
    assert figures["fd_pixels/samples"] > 0 and figures["kid_pixels/reconstructions"] > 0
    few = fid_of(FID(Pixels(), kid_subsets=0), Painter(0.25), batched(data, 16))
    assert few == {name: value for name, value in figures.items() if name not in kid}


def test_fid_does_not_depend_on_the_batches_of_the_data() -> None:
    data = images(60)
    figures = [fid_of(FID(Pixels(), batch_size=16), Painter(0.1), batched(data, size)) for size in (1, 16, 25, 60)]
    assert all(found == figures[0] for found in figures)
    other = fid_of(FID(Pixels(), batch_size=7), Painter(0.1), batched(data, 60))
    for name in ("fd_pixels/reconstructions", "kid_pixels/reconstructions", "kid_pixels/reconstructions_std"):
        assert other[name] == pytest.approx(figures[0][name], rel=1e-6)


def test_fid_looks_at_as_many_images_as_asked() -> None:
    extractor = Pixels()
    metric = FID(extractor, images=30)
    few = fid_of(metric, Painter(), batched(images(60), 16))
    assert extractor.seen == 90  # real, reconstructed and sampled
    assert metric.facts.pop("figures") == list(few)
    assert metric.facts == {"extractor": "pixels", "images": 30, "kid": "100 subsets of 15"}
    first = Images(*(field[:30] for field in images(60)))
    assert few == fid_of(FID(Pixels()), Painter(), batched(first, 16))


def test_fid_sees_images_as_they_would_be_saved() -> None:
    data = images(40)
    saved = ((data.image + 1) * 128).floor().clamp(max=255).to(torch.uint8)  # as a PNG holds them
    read = data._replace(image=saved.float() / 127.5 - 1)
    assert fid_of(FID(Pixels()), Painter(2), batched(data, 8)) == fid_of(FID(Pixels()), Painter(2), batched(read, 8))
    assert quantise(torch.tensor([-3.0, 0.0, 3.0])).tolist() == pytest.approx([-1, 1 / 255, 1], abs=1e-6)
    assert torch.equal(quantise(quantise(data.image)), quantise(data.image))
    assert torch.equal(levels(quantise(data.image).bfloat16() * 0 + 1), torch.full_like(saved, 255))


def test_real_images_have_the_levels_of_their_files() -> None:
    """By either scale of the data sets; and the field's rule is never more than one level away."""
    level = torch.arange(256).repeat_interleave(300)
    noise = torch.rand(len(level), generator=torch.Generator().manual_seed(0)).mul(2**16).floor() / 2**16
    assert torch.equal(levels((level + noise) / 128 - 1), level.byte())
    assert torch.equal(levels((level + 0.5) / 128 - 1), level.byte())  # what a model of these answers
    assert torch.equal(levels(level / 127.5 - 1), level.byte())
    anything = torch.linspace(-1.1, 1.1, 100_001)
    field = ((anything.clamp(-1, 1) + 1) * 127.5).round()
    assert (levels(anything) - field).abs().max() == 1
    # Black with noise, by the field's rule: half of it is not black any more. Hence ours.
    black = ((level + noise) / 128 * 127.5).round()[level == 0]
    assert 0.4 < black.mean() < 0.6


class Folder(nn.Module):
    """Answers the pictures of a folder for reconstructions, in the order of their names."""

    def __init__(self, data: ImageFolder) -> None:
        super().__init__()
        self.data, self.shown = data, 0

    def reconstruct(self, image: Tensor) -> Tensor:
        self.shown += len(image)
        return self.data[range(self.shown - len(image), self.shown)].image


@pytest.mark.parametrize("dequantise", [True, False])
def test_saving_and_reading_again_changes_nothing(tmp_path: Path, dequantise: bool) -> None:
    """By the package's own pictures and its own reader of folders."""

    def soften(image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image, 3, 1, 1) + 0.03

    real = MNIST("test")[range(300)]
    expected = FID(kid_subset_size=100)(Reconstructor(soften), batched(real, 100))
    for name, image in (("real", real.image), ("made", soften(real.image))):
        (tmp_path / name).mkdir()
        for i, cell in enumerate(pictures.levels(image)):
            Image.fromarray(cell).save(tmp_path / name / f"{i:05d}.png")
    read = {
        name: ImageFolder(tmp_path / name, 32, split="all", channels=1, dequantise=dequantise)
        for name in ("real", "made")
    }
    again = FID(kid_subset_size=100)(Folder(read["made"]), batched(read["real"][range(300)], 100))
    assert again == expected and expected["fd_digits/reconstructions"] > 0.1


def test_fid_leaves_out_what_a_system_cannot_do() -> None:
    figures = fid_of(FID(Pixels()), Sampler(), batched(images(40), 8))
    assert list(figures) == ["fd_pixels/samples", "kid_pixels/samples", "kid_pixels/samples_std"]
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
    FID(extractor, kid_subsets=0)(Painter(), batches)  # without features
    extractor.fingerprint = "pixels-2"
    FID(extractor)(Painter(), batches)
    assert len(list(cache.iterdir())) == 5


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
    fields = dict(np.load(file))
    if damage in ("nan", "shape"):
        fields["mu"] = fields["mu"] * float("nan") if damage == "nan" else fields["mu"][:3]
        np.savez(file, **fields)
    else:
        file.write_bytes({"cut": sound[: len(sound) // 2], "zeros": bytes(len(sound)), "empty": b""}[damage])
    assert fid_of(FID(Pixels()), Painter(0.1), batches) == first
    assert np.isfinite(np.load(file)["mu"]).all()
    assert [f.name for f in cache.iterdir()] == [file.name]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = batched(images(40), 8, fingerprint="data-1")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "file"))
    assert fid_of(FID(Pixels()), Painter(), batches) == fid_of(FID(Pixels()), Painter(), batched(images(40), 8))
    monkeypatch.setenv("IIN_CACHE", str(tmp_path))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    FID(Pixels())(Painter(), batches)
    assert list((tmp_path / "statistics").iterdir()) == []  # no half-written file stays


def test_too_few_images() -> None:
    with pytest.raises(ValueError, match="at least 2 test images are needed, found 1"):
        FID(Pixels())(Painter(), batched(images(1), 8))
    metric = FID(Pixels())
    with pytest.warns(UserWarning, match="16 images for 16 features.*at least 17, or look at kid_pixels/"):
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
    features._checked.cache_clear()
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
    assert list(Inception.lacks()) == [line]  # asked as a target of its own, too
    with pytest.raises(ValueError, match=r"no file nowhere\.pth"):
        FID("inception", weights="nowhere.pth")
    assert list(FID.lacks(extractor="inception", download=True)) == []  # named, so it may


@pytest.mark.parametrize("place", ["given", "cache", "hub"])
def test_inception_weights_are_found_and_checked(library: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = {"given": library / "mine", "cache": library / "cache", "hub": library / "torch/hub/checkpoints"}[place]
    folder.mkdir(parents=True)
    file = folder / "pt_inception-2015-12-05-6726825d.pth"
    torch.save({"weight": torch.tensor(2.0)}, file)
    weights = str(file) if place == "given" else None
    with pytest.raises(ValueError, match=r"not the reference weights: sha256 [0-9a-f]{8}\.\.\., expected 6726825d"):
        FID("inception", weights=weights)  # before anything is trained
    monkeypatch.setattr(features, "INCEPTION_SHA256", "")
    features._checked.cache_clear()
    metric = FID("inception", weights=weights, kid_subsets=5)
    figures = fid_of(metric, Painter(1 / 127.5), batched(Images(images(20).image * 0.5, images(20).label), 8))
    assert {name.split("_")[0] for name in figures} == {f"{k}/{m}" for k in ("fid", "kid") for m in MADE}
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


# -- against the reference implementation -----------------------------------------------------------------------------


@pytest.fixture
def reference() -> ModuleType:
    return pytest.importorskip("torch_fidelity", reason="needs torch-fidelity: pip install 'iin[test]'")


def random_weights(path: Path) -> Path:
    """Weights of the reference's architecture in its own format, drawn so that images stay apart all the way up."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, state: object, *_: object, **__: object) -> None:  # type: ignore[override]
            """There is nothing to load yet."""

    torch.save({}, path)
    network = Blank("blank", ["2048"], str(path))
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, std=0.1)
    torch.save(network.state_dict(), path)
    return path


def photographs(count: int, seed: int, channels: int = 3) -> Tensor:
    """Clouds of colour ``[N, C, 32, 32]``, some of them beyond [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    parts = (
        nn.functional.interpolate(torch.randn(count, channels, side, side, generator=generator), 32, mode="bilinear")
        for side in (2, 4, 8, 16, 32)
    )
    return sum(part * 0.4 for part in parts)  # type: ignore[return-value]


@pytest.mark.slow
def test_fid_and_kid_are_those_of_the_reference_implementation(reference: ModuleType, tmp_path: Path) -> None:
    """Ours from tensors, the reference's from the same images saved as PNG: same network, its resize, all 2048
    features, fewer images than those."""
    count, weights = 100, random_weights(tmp_path / "weights.pth")
    real = photographs(count, 0)

    def blur(image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image, 3, 1, 1) * 1.1

    extractor = Inception(weights, reference=False)
    metric = FID(extractor, kid_subset_size=50, batch_size=20)
    with pytest.warns(UserWarning, match="100 images for 2048 features"):
        found = metric(Reconstructor(blur), batched(Images(real, torch.zeros(count)), 40))
    for name, image in (("real", real), ("made", blur(real))):
        (tmp_path / name).mkdir()
        for i, cell in enumerate(pictures.levels(image)):
            Image.fromarray(cell).save(tmp_path / name / f"{i:05d}.png")
    expected = reference.calculate_metrics(
        input1=str(tmp_path / "made"), input2=str(tmp_path / "real"), batch_size=25, cuda=False, save_cpu_ram=True,
        fid=True, kid=True, kid_subset_size=50, feature_extractor_weights_path=str(weights), cache=False, verbose=False,
    )  # fmt: skip
    prefix = f"fd_{extractor.name}", f"kid_{extractor.name}"
    fid, kid, deviation = (
        found[f"{prefix[0]}/reconstructions"],
        found[f"{prefix[1]}/reconstructions"],
        found[f"{prefix[1]}/reconstructions_std"],
    )
    print(f"\nFID {fid!r} and {expected}; KID {kid!r} +- {deviation!r}")
    assert fid > 0 and fid == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert kid == pytest.approx(expected["kernel_inception_distance_mean"], abs=deviation / 4)
    assert deviation == pytest.approx(expected["kernel_inception_distance_std"], rel=0.3)


@pytest.mark.slow
def test_inception_takes_grey_images_and_any_batch_size(reference: ModuleType, tmp_path: Path) -> None:
    extractor = Inception(random_weights(tmp_path / "weights.pth"), reference=False)
    image = photographs(6, 1, channels=1)
    whole = extractor(image)
    assert whole.shape == (6, extractor.dim) and whole.std(0).mean() > 1e-3
    assert torch.equal(whole, extractor(image.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(torch.cat([extractor(part) for part in image.split(4)]), whole, rtol=1e-4, atol=1e-5)
    assert (extractor(photographs(6, 2)) - whole).abs().max() > 1e-3


@pytest.mark.slow
def test_weights_of_another_network_are_one_clear_line(reference: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="no weights of this Inception network") as error:
        Inception(file, reference=False)(torch.zeros(2, 3, 8, 8))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="not the reference weights"):
        Inception(file)
    file.write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"weights\.pth: cannot be loaded as weights") as error:
        Inception(file, reference=False)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="have to be named: give weights: FILE"):
        Inception(reference=False)


def test_the_formulas_are_those_of_the_reference_implementation(reference: ModuleType) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    for counts in ((200, 220), (40, 50)):  # more, and fewer, than features
        parts = [Statistics(keep=True) for _ in counts]
        for seed, (count, part) in enumerate(zip(counts, parts, strict=True)):
            part.add(normal(count, 64, seed=seed).relu().float() * (1 + seed / 4))
        a, b = (part.summary() for part in parts)
        expected = fid_statistics_to_metric(*(fid_features_to_statistics(s.features) for s in (a, b)), verbose=False)
        found = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
        assert found == pytest.approx(expected["frechet_inception_distance"], rel=1e-5)
        options = {"kid_subsets": 100, "kid_subset_size": 20, "verbose": False, "rng_seed": 2020}
        expected = kid_features_to_metric(a.features, b.features, **options)
        distance = kernel_distance(a.features, b.features, size=20)
        assert distance.mean == pytest.approx(expected["kernel_inception_distance_mean"], abs=distance.deviation / 3)
        assert distance.deviation == pytest.approx(expected["kernel_inception_distance_std"], rel=0.3)
        # With all images in every subset nothing is left to chance.
        size = min(counts)
        whole = kid_features_to_metric(a.features[:size], b.features[:size], **options | {"kid_subset_size": size})
        exact = squared_mmd(a.features[:size], b.features[:size])
        assert exact == pytest.approx(whole["kernel_inception_distance_mean"], rel=1e-4)


# -- kernel distance --------------------------------------------------------------------------------------------------


def test_the_kernel_distance_is_its_formula() -> None:
    a, b = normal(7, 3), normal(5, 3, seed=1) + 0.5
    k = lambda x, y: (float(x @ y) / 3 + 1) ** 3  # noqa: E731
    within = [sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) for s in (a, b)]
    between = sum(k(x, y) for x in a for y in b)
    assert squared_mmd(a, b) == pytest.approx(within[0] / 42 + within[1] / 20 - 2 * between / 35, rel=1e-12)
    assert squared_mmd(a, b) == pytest.approx(squared_mmd(b, a), rel=1e-12)
    many, more = normal(300, 3), normal(290, 3, seed=1)  # several blocks, the last one smaller
    parts = [((x @ y.T / 3 + 1) ** 3) for x, y in ((many, many), (more, more), (many, more))]
    expected = sum((p.sum() - p.trace()) / (len(p) * (len(p) - 1)) for p in parts[:2]) - 2 * parts[2].mean()
    assert squared_mmd(many, more) == pytest.approx(float(expected), rel=1e-10)


def test_few_images_make_fid_large_and_leave_kid_alone() -> None:
    def both(count: int) -> tuple[float, KernelDistance]:
        parts = [Statistics(keep=True) for _ in range(2)]
        for seed, part in enumerate(parts):
            part.add(normal(count, 32, seed=seed))
        a, b = (part.summary() for part in parts)
        return frechet_distance(a.mean, a.covariance, b.mean, b.covariance), kernel_distance(a.features, b.features)

    (few, kid_few), (many, kid_many) = both(40), both(8000)
    assert few > 100 * many  # though both are of the same distribution
    assert abs(kid_few.mean) < 2 * kid_few.deviation and abs(kid_many.mean) < 2 * kid_many.deviation
    assert kid_few.deviation > 5 * kid_many.deviation > 0  # and it says how far it is to be trusted


def test_the_mean_over_subsets_is_that_of_all_images() -> None:
    a, b = normal(60, 8), normal(50, 8, seed=1) * 1.3
    found = kernel_distance(a, b, subsets=400)
    assert found.mean == pytest.approx(squared_mmd(a, b), abs=4 * found.deviation / 20)
    assert found == kernel_distance(a, b, subsets=400) != kernel_distance(a, b, subsets=400, seed=1)


@pytest.mark.parametrize(
    ("count", "size"), [(2, 2), (3, 2), (5, 2), (30, 15), (1999, 999), (2000, 1000), (50000, 1000)]
)
def test_subsets_of_few_images_are_at_most_half_of_them(count: int, size: int) -> None:
    assert subset_size(count) == size


def test_the_kernel_distance_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"n and m >= 2, found \[1, 3\], \[5, 3\]"):
        squared_mmd(normal(1, 3), normal(5, 3))
    with pytest.raises(ValueError, match=r"found \[2, 3\], \[2, 4\]"):
        kernel_distance(normal(5, 3), normal(5, 4))
    with pytest.raises(ValueError, match="subsets: expected at least 1, found 0"):
        kernel_distance(normal(5, 3), normal(5, 3), subsets=0)


# -- statistics in files ----------------------------------------------------------------------------------------------


class Sampler(nn.Module):
    """Samples noise, and nothing else."""

    def sample(self, n: int) -> Tensor:
        return torch.rand(n, 1, 4, 4)


class Nothing:
    """Batches that nobody may look at."""

    def __iter__(self) -> None:
        raise AssertionError("the test images are not needed")


def written(path: Path, leave: tuple[str, ...] = (), **changed: object) -> Path:
    """A file of statistics of 40 images by `Pixels`."""
    FID(Pixels()).measure(batched(images(40), 8), source="noise").save(path)
    fields = {name: value for name, value in np.load(path).items() if name not in leave} | changed
    np.savez(path, **{name: value for name, value in fields.items() if value is not None})
    return path


def test_statistics_from_a_file_stand_for_the_images(tmp_path: Path) -> None:
    file = written(tmp_path / "a.npz")
    assert str(np.load(file)["source"]) == "noise" and np.load(file)["images"] == 40
    expected = fid_of(FID(Pixels()), Painter(0.1), batched(images(40), 8))
    extractor = Pixels()
    metric = FID(extractor, images=40, statistics=file)
    assert fid_of(metric, Painter(0.1), batched(images(40), 8)) == expected
    assert extractor.seen == 80  # reconstructed and sampled
    assert metric.facts.pop("figures") == list(expected)
    assert metric.facts == {
        "extractor": "pixels", "images": 40, "statistics": "a.npz (40 images)", "kid": "100 subsets of 20"
    }  # fmt: skip
    # As many samples as asked for; and there need not be test images at all.
    metric = FID(Pixels(), images=70, statistics=str(file))
    assert set(metric(Sampler(), Nothing())) == {"fd_pixels/samples", "kid_pixels/samples", "kid_pixels/samples_std"}
    assert metric.facts["images"] == 70
    metric(Painter(), batched(images(40), 8))
    assert metric.facts["images"] == "70 samples, 40 reconstructions"


def test_files_of_others_have_only_mu_and_sigma(tmp_path: Path) -> None:
    file = written(tmp_path / "a.npz", leave=("images", "extractor", "fingerprint", "source", "features"))
    assert sorted(np.load(file)) == ["mu", "sigma"]
    expected = fid_of(FID(Pixels(), kid_subsets=0), Painter(0.1), batched(images(40), 8))
    with pytest.warns(UserWarning, match=r"a\.npz has no features, so there will be no KID"):
        metric = FID(Pixels(), images=40, statistics=file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FID(Pixels(), kid_subsets=0, statistics=file)
        assert fid_of(metric, Painter(0.1), batched(images(40), 8)) == expected
    assert metric.facts["statistics"] == "a.npz (an unknown number of images)"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"extractor": "inception"}, "statistics by the extractor inception, but extractor is pixels"),
        ({"fingerprint": "pixels-0"}, "by another version of the extractor pixels; write them again"),
        ({"mu": None}, r"expected mu \[d\] and sigma \[d, d\], found no mu"),
        ({"mu": None, "sigma": None}, "found no mu and no sigma"),
        ({"mu": np.zeros((16, 1))}, r"expected mu \[d\] of floating point numbers, found \[16, 1\]"),
        ({"sigma": np.zeros((16, 15))}, r"expected sigma \[d, d\] .* found \[16, 15\] of float64"),
        ({"sigma": np.full((16, 16), np.nan)}, "sigma holds NaN"),
        ({"sigma": np.eye(16) + np.eye(16, k=1)}, "sigma is not symmetric"),
        ({"features": np.zeros((40, 15), np.float32)}, r"expected features \[n, d\]"),
        ({"mu": np.array([None] * 16)}, "no file of statistics: expected .npz with mu and sigma"),
        ({"images": 1}, "expected images to be a number >= 2, found 1"),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_line(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    file = written(tmp_path / "a.npz", **changed)
    with pytest.raises(ValueError, match=message) as error:
        FID(Pixels(), statistics=file)
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"mu, sigma", b"PK\x03\x04 half an archive", b"\x93NUMPY\x01\x00"])
def test_a_file_of_something_else_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.npz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: no file of statistics: expected \.npz with mu and sigma") as error:
        FID(Pixels(), statistics=file)
    assert "\n" not in str(error.value)
    np.save(file.with_suffix(".npy"), np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npy: no file of statistics"):
        FID(Pixels(), statistics=file.with_suffix(".npy"))


def test_a_file_of_another_number_of_features(tmp_path: Path) -> None:
    file = written(tmp_path / "a.npz", leave=("extractor", "fingerprint"))
    for extractor, dim in (("digits", 64), (Digits(), 64)):
        with pytest.raises(ValueError, match=f"statistics of 16 features, but the extractor digits has {dim}"):
            FID(extractor, statistics=file)
    metric = FID(lambda image: image.flatten(1)[:, :5], statistics=file)  # which does not say how many it has
    with pytest.raises(ValueError, match=r"a\.npz have 16 features, reconstructions have 5 by the extractor <lambda>"):
        metric(Reconstructor(lambda image: image), batched(images(40), 8))


def test_a_file_that_is_nowhere_is_known_of_beforehand(tmp_path: Path) -> None:
    assert list(FID.lacks(statistics=tmp_path / "a.npz")) == [
        f"statistics: no file {tmp_path / 'a.npz'}; write it with scripts/fid_stats.py"
    ]
    with pytest.raises(ValueError, match=r"no file .*a\.npz; write one with scripts/fid_stats.py"):
        FID(statistics=tmp_path / "a.npz")
    assert list(FID.lacks(statistics=written(tmp_path / "a.npz"))) == []


def test_too_few_images_to_compare(tmp_path: Path) -> None:
    file = written(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="at least 2 samples are needed, found 1"):
        FID(Pixels(), images=1, statistics=file)(Sampler(), Nothing())
    with pytest.warns(UserWarning, match="10 images for 16 features"):
        FID(Pixels(), images=10, statistics=file)(Sampler(), Nothing())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"sigma": -np.eye(4)}, "sigma is no covariance"),
        ({"features": np.zeros((1, 4), np.float32)}, "features of at least 2 images"),
        ({"features": np.zeros((3, 4), np.float32), "images": np.int64(9)}, "features of 3 images, but mu and sigma"),
    ],
)
def test_statistics_that_cannot_be_are_refused(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "odd.npz", **{"mu": np.zeros(4), "sigma": np.eye(4), **content})
    with pytest.raises(ValueError, match=words):
        Summary.load(tmp_path / "odd.npz")


def test_a_distance_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.full(2, 1e300), np.eye(2), np.zeros(2), np.eye(2))
