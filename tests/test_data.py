"""Data sets: what they answer, that it is a function of (seed, epoch, index), and what they say about bad files."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import lzma
import multiprocessing
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import iin.data
from iin.data import (
    MNIST,
    Classes,
    ColorfulMNIST,
    Draws,
    Images,
    Labelled,
    Loader,
    MNISTPairs,
    Pairs,
    Visit,
    measure_color,
    mix,
)
from iin.data.idx import parse_idx, read_idx
from iin.data.memory import digest, resize

FOLDER = Path(iin.data.__file__).parent
SCRIPT = FOLDER.parent.parent / "scripts" / "make_mnist.py"
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]

SETS: dict[str, Callable[..., Labelled]] = {
    "MNIST": MNIST,
    "MNISTPairs": MNISTPairs,
    "ColorfulMNIST": ColorfulMNIST,
    "ColorfulMNIST pairs": lambda *args, **kwargs: ColorfulMNIST(*args, pairs=True, **kwargs),
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IIN_DATA", raising=False)
    torch.set_num_threads(1)


@pytest.fixture(params=SETS)
def data(request: pytest.FixtureRequest) -> Labelled:
    return SETS[request.param]("test")


def tensors(batch: Images | Pairs) -> list[Tensor]:
    return [part for part in batch if part is not None]


def alike(first: Images | Pairs, second: Images | Pairs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, *, zipped: bool = True, split: str = "train", count: int = 20, value: int = 100) -> None:
    """A small MNIST of constant images, labels 0, 1, 2, 0, 1, ..."""
    stem = {"train": "train", "test": "t10k"}[split]
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (
        (f"{stem}-images-idx3-ubyte", np.full((count, 28, 28), value)),
        (f"{stem}-labels-idx1-ubyte", np.arange(count) % 3),
    ):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))
        else:
            (folder / name).write_bytes(idx(array))


# --- random numbers ---------------------------------------------------------------------------------------------------


def test_mix_tells_order_number_and_neighbours_apart():
    seen = {mix(), mix(0), mix(1), mix(0, 0), mix(0, 1), mix(1, 0), mix(1, 1), mix(-1), mix(0, 0, 0)}
    assert len(seen) == 9 and all(0 <= value < 2**63 for value in seen)
    many = {mix(seed, epoch) for seed in range(100) for epoch in range(100)}
    assert len(many) == 10_000


def test_neighbouring_seeds_flip_half_of_the_bits():
    flips = [(mix(seed) ^ mix(seed + 1)).bit_count() for seed in range(500)]
    assert abs(np.mean(flips) - 31.5) < 0.75


@pytest.mark.parametrize("draw", ["uniform", "halves"])
def test_draws_are_uniform_and_unrelated(draw):
    """Mean, variance and the share in each of 16 bins; no correlation with the neighbour in any direction."""

    def sample(seed: int = 0, visit: int = 0, calls: int = 0) -> np.ndarray:
        draws = Draws(Visit(range(256), visit), seed)
        for _ in range(calls):
            draws.uniform(1)
        values = getattr(draws, draw)(512).double().numpy()
        return values if draw == "uniform" else values / 2**16

    base = sample()  # 131,072 values: a standard error of 0.0028 for correlations
    assert base.shape == (256, 512) and base.min() >= 0 and base.max() < 1
    assert abs(base.mean() - 0.5) < 0.004
    assert abs(base.var() - 1 / 12) < 0.001
    shares = np.histogram(base, bins=16, range=(0, 1))[0] / base.size
    assert np.abs(shares - 1 / 16).max() < 0.0035
    others = {
        "row": (base[:-1], base[1:]),
        "column": (base[:, :-1], base[:, 1:]),
        "two columns": (base[:, :-2], base[:, 2:]),
        "four columns": (base[:, :-4], base[:, 4:]),
        "diagonal": (base[:-1, :-1], base[1:, 1:]),
        "call": (base, sample(calls=1)),
        "seed": (base, sample(seed=1)),
        "visit": (base, sample(visit=1)),
        "visit and seed": (sample(seed=1), sample(visit=1)),
    }
    for name, (first, second) in others.items():
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.014, name
    # Rows and columns each have the right mean: no stripe.
    assert np.abs(base.mean(0) - 0.5).max() < 5.5 * np.sqrt(1 / 12 / 256)
    assert np.abs(base.mean(1) - 0.5).max() < 5.5 * np.sqrt(1 / 12 / 512)


def test_draws_belong_to_their_index():
    order = [9, 3, 70_000, 0]
    whole = [Draws(Visit(range(10), 5), 1).uniform(3, 2), Draws(Visit(range(10), 5), 1).halves(5)]
    some = [Draws(Visit(order, 5), 1).uniform(3, 2), Draws(Visit(order, 5), 1).halves(5)]
    for a, b in zip(whole, some, strict=True):
        assert torch.equal(a[[9, 3, 0]], b[[0, 1, 3]])
    assert Draws([4, 5]).uniform().shape == (2,)
    assert Draws([]).uniform(3, 2).shape == (0, 3, 2) and Draws([]).integers(3).shape == (0,)
    assert torch.equal(Draws([1, 2]).uniform(4), Draws(Visit([1, 2], 0)).uniform(4))


def test_integers_cover_their_range_evenly():
    drawn = Draws(range(30_000)).integers(7)
    assert drawn.dtype == torch.int64
    assert (drawn.bincount(minlength=7) / 30_000 - 1 / 7).abs().max() < 0.01 and drawn.unique().tolist() == [*range(7)]
    high = torch.tensor([1, 2, 5]).repeat(2000)
    drawn = Draws(range(6000)).integers(high).view(-1, 3)
    assert [column.unique().tolist() for column in drawn.unbind(1)] == [[0], [0, 1], [0, 1, 2, 3, 4]]


# --- the loader -------------------------------------------------------------------------------------------------------


class Numbers:
    """A data set without randomness: it need not know about visits."""

    def __len__(self) -> int:
        return 103

    def __getitem__(self, indices: list[int]) -> Images:
        return Images(torch.tensor(indices).float().view(-1, 1, 1, 1), torch.tensor(indices))


def test_shuffled_epochs_visit_each_item_at_most_once_in_an_order_of_their_own():
    loader = Loader(Numbers(), 10, seed=3, shuffle=True)
    first, second = ([i for visit in loader.visits(epoch) for i in visit] for epoch in (0, 1))
    assert len(loader) == 10 and len(first) == len(set(first)) == 100
    assert first != second and first != sorted(first)
    assert first == [i for visit in Loader(Numbers(), 10, seed=3, shuffle=True).visits(0) for i in visit]
    assert first != [i for visit in Loader(Numbers(), 10, seed=4, shuffle=True).visits(0) for i in visit]
    assert len({visit.seed for epoch in range(20) for visit in loader.visits(epoch)}) == 20


def test_unshuffled_epochs_are_the_whole_set_in_order():
    loader = Loader(Numbers(), 10)
    batches = list(loader)
    assert len(loader) == len(batches) == 11 and torch.cat([b.label for b in batches]).tolist() == list(range(103))
    assert loader.visits(0)[0].seed == loader.visits(7)[0].seed


def test_an_epoch_can_be_entered_anywhere():
    loader = Loader(MNISTPairs("test"), 100, seed=1, shuffle=True)
    whole = [batch for _, batch in zip(range(5), loader.epoch(2), strict=False)]
    assert alike(whole[4], next(loader.epoch(2, start=4)))
    assert list(Loader(Numbers(), 10).epoch(0, start=11)) == []


def test_the_loader_leaves_the_global_generators_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    next(Loader(ColorfulMNIST("test", pairs=True), 8, shuffle=True).epoch(0))
    next(Loader(Numbers(), 50, shuffle=True, workers=1).epoch(0))
    assert torch.equal(torch.rand(3), expected)


def test_workers_change_nothing():
    data = ColorfulMNIST("test", pairs=True)
    alone, helped = (Loader(data, 200, seed=5, shuffle=True, workers=n) for n in (0, 2))
    batches = list(zip(alone.epoch(1, start=46), helped.epoch(1, start=46), strict=True))
    assert len(batches) == 4 and all(type(b) is Pairs and alike(a, b) for a, b in batches)


class Spoilt(Numbers):
    """One item cannot be read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, indices: list[int]) -> Images:
        if 25 in indices:
            raise self.error
        return super().__getitem__(indices)


@pytest.mark.parametrize("error", [ValueError("25.png: truncated"), FileNotFoundError("25.png: gone")])
def test_errors_of_workers_are_those_of_the_data(error):
    for workers in (0, 2):
        batches = Loader(Spoilt(error), 10, workers=workers).epoch(0)
        assert len(next(batches).image) == 10 and len(next(batches).image) == 10
        with pytest.raises((ValueError, OSError)) as caught:
            next(batches)
        assert str(caught.value) == str(error)
        assert multiprocessing.active_children() == []  # though the error still holds on to the loop


def test_workers_end_with_the_loop():
    batches = Loader(Numbers(), 10, workers=2).epoch(0)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []
    assert len(list(Loader(Numbers(), 10, workers=2))) == 11
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_workers_end_with_the_program():
    """Nobody closes the loop: what holds it is a circle, as an error and the frame that it was caught in are."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); from test_data import Loader, Numbers\n"
        "batches = Loader(Numbers(), 10, workers=2).epoch(0); circle = [batches, next(batches)]\n"
        "circle.append(circle)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPT.parent.parent, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0 and found.stderr == ""


def test_no_labels_pass_through_workers():
    class Unlabelled(Numbers):
        def __getitem__(self, indices: list[int]) -> Pairs:
            image = super().__getitem__(indices).image
            return Pairs(image, image, torch.zeros(len(indices), 2, dtype=torch.bool))

    batch = next(Loader(Unlabelled(), 4, workers=1).epoch(0))
    assert type(batch) is Pairs and batch.label is None and batch.image.flatten().tolist() == [0, 1, 2, 3]


def test_batch_sizes_that_make_no_sense():
    with pytest.raises(ValueError, match=r"^batch_size 104 is larger than the data set \(103 items\)$"):
        Loader(Numbers(), 104, shuffle=True)
    with pytest.raises(ValueError, match=r"^batch_size: expected at least 1, found 0$"):
        Loader(Numbers(), 0)
    assert len(Loader(Numbers(), 104)) == 1


# --- every data set ---------------------------------------------------------------------------------------------------


def test_batches_are_what_they_say(data):
    batch = data[[5, 0, 9999]]
    assert batch.image.shape[0] == 3 and batch.image.shape[2:] == (32, 32) and batch.image.dtype == torch.float32
    assert batch.label.dtype == torch.int64 and batch.label.tolist() == data._label[[5, 0, 9999]].tolist()
    assert all(tensor.is_contiguous() for tensor in tensors(batch))
    if isinstance(batch, Pairs):
        assert batch.other.shape == batch.image.shape and batch.other.dtype == torch.float32
        assert batch.shared.dtype == torch.bool and batch.shared.shape == (3, len(data.factors))
        assert data.factors[-1] == "residual" and not batch.shared[:, -1].any() and (batch.shared.sum(1) == 1).all()
        assert batch.other_label.shape == (3,)
    else:
        assert not hasattr(data, "factors")


def test_values_lie_in_their_range(data):
    batch = data[range(2000)]
    for image in (batch.image, *([batch.other] if isinstance(batch, Pairs) else [])):
        assert -1 <= image.min() < -0.99 and 0.95 < image.max() < 1


def test_the_batch_size_does_not_matter(data):
    whole = tensors(data[Visit(range(40, 50), 3)])
    single = [tensors(data[Visit([i], 3)]) for i in range(40, 50)]
    assert all(torch.equal(part, torch.cat(rows)) for part, rows in zip(whole, zip(*single, strict=True), strict=True))


def test_the_order_does_not_matter(data):
    forth, back = data[Visit([3, 8, 2], 1)], data[Visit([2, 8, 3], 1)]
    assert all(torch.equal(a, b.flip(0)) for a, b in zip(tensors(forth), tensors(back), strict=True))


def test_epochs_differ_and_repeat(data):
    loader = Loader(data, 50, seed=2, shuffle=True)
    visit = Visit(range(50), loader.visits(0)[0].seed)
    later = Visit(range(50), loader.visits(1)[0].seed)
    assert alike(data[visit], data[visit])
    assert not torch.equal(data[visit].image, data[later].image)
    if isinstance(data[visit], Pairs):
        # another partner, not only other noise
        assert (data[visit].other - data[later].other).flatten(1).abs().amax(1).median() > 0.5


def test_the_unshuffled_set_is_the_same_every_time(data):
    loader = Loader(data, 4000)
    assert all(alike(a, b) for a, b in zip(loader.epoch(0), loader.epoch(3), strict=True))


def test_wrong_indices(data):
    with pytest.raises(TypeError, match="lists of indices"):
        data[3]
    for index in (10_000, -1):
        with pytest.raises(IndexError, match=r"10000 items"):
            data[[0, index]]
    assert len(data[[]].image) == 0


def test_answers_are_copies(data):
    before = data[[1, 2]]
    for part in tensors(data[[1, 2]]):
        part.zero_()
    assert alike(before, data[[1, 2]])


def test_fingerprints_tell_sets_apart_and_stay():
    variants = [
        MNIST("test"),
        MNIST("train"),
        MNIST("test", size=28),
        MNIST("test", dequantise=False),
        MNIST("test", dequantise="fixed"),
        MNISTPairs("test"),
        ColorfulMNIST("test"),
        ColorfulMNIST("test", pairs=True),
    ]
    assert len({data.fingerprint for data in variants}) == len(variants)
    assert MNIST("test").fingerprint == variants[0].fingerprint


# --- MNIST ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "counts"), [("train", TRAIN_COUNTS), ("test", TEST_COUNTS)])
def test_all_of_mnist_is_shipped(split, counts):
    data = MNIST(split)
    assert len(data) == sum(counts) and data._label.bincount().tolist() == counts
    assert data.source == "shipped with iin"


def test_the_shipped_files_are_the_originals():
    """Their content has the published digests, and the licence beside them names what is there."""
    spec = importlib.util.spec_from_file_location("make_mnist", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    licence = (FOLDER / "mnist.LICENSE.md").read_text()
    assert "CC BY-SA 3.0" in licence
    assert all(name in licence for name in ("LeCun", "Cortes", "Burges"))
    total = 0
    for target, names in script.PARTS.items():
        packed = (FOLDER / target).read_bytes()
        total += len(packed)
        assert hashlib.sha256(packed).hexdigest() in licence
        data, start = lzma.decompress(packed), 0
        for name in names:
            _, end = parse_idx(data, target, start)
            assert hashlib.md5(data[start:end]).hexdigest() == script.MD5[name]
            start = end
        assert start == len(data)
    assert total <= 12_000_000


def test_the_script_refuses_other_files(tmp_path):
    write_mnist(tmp_path)
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert "train-images-idx3-ubyte.gz: MD5 of its content is" in result.stderr
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "expected train-images-idx3-ubyte or train-images" in result.stderr
    assert not list(tmp_path.glob("*.xz"))


def test_noise_is_one_draw_a_pixel_within_its_level():
    level = MNIST("test", dequantise=False)[range(300)].image
    noisy = MNIST("test")[range(300)].image
    noise = (noisy.double() + 1) * 128 - ((level.double() + 1) * 127.5).round()
    assert noise.min() >= 0 and noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.003 and abs(noise.var() - 1 / 12) < 0.001
    assert noise.flatten(1).std(1).min() > 0.25  # not one value an image
    pixels = noise.flatten(1).numpy()
    assert abs(np.corrcoef(pixels[:, :-1].ravel(), pixels[:, 1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(pixels[:-1].ravel(), pixels[1:].ravel())[0, 1]) < 0.01


def test_without_noise_the_ends_are_included():
    data = MNIST("test", dequantise=False)
    image = data[range(1000)].image
    assert image.min() == -1 and image.max() == 1
    assert torch.equal(image, data[Visit(range(1000), 9)].image)


@pytest.mark.parametrize("make", [MNIST, MNISTPairs])
def test_noise_that_is_drawn_once_belongs_to_the_image(make):
    """Whatever visit, batch and place in it, and as anybody's partner, an image has the same noise."""
    data, plain = make("test", dequantise="fixed"), MNIST("test", dequantise="fixed")
    whole = data[Visit(range(400), 1)]
    again = data[Visit([9, 3, 9, 250], 2)]
    assert torch.equal(whole.image[[9, 3, 9, 250]], again.image)
    if isinstance(whole, Pairs):
        others = nearest(data, whole.other)
        assert torch.equal(whole.other, plain[others.tolist()].image)
        fresh = make("test")[Visit(range(400), 1)]  # the noise takes nothing from what partners are drawn from
        assert torch.equal(nearest(data, fresh.other), others) and not torch.equal(fresh.image, whole.image)


def test_noise_that_is_drawn_once_is_noise():
    level = MNIST("test", dequantise=False)[range(300)].image
    noisy = MNIST("test", dequantise="fixed")[range(300)].image
    noise = ((noisy.double() + 1) * 128 - ((level.double() + 1) * 127.5).round()).flatten(1).numpy()
    assert noise.min() >= 0 and noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.003 and abs(noise.var() - 1 / 12) < 0.001
    for first, second in ((noise[:, :-1], noise[:, 1:]), (noise[:-1], noise[1:])):  # of pixels, and of images
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.01


def test_data_sets_say_whether_images_change():
    """And what they say is so."""
    for make in SETS.values():
        for dequantise in (True, False, "fixed"):
            data = make("test", dequantise=dequantise)
            first, second = (data[Visit(range(50), seed)].image for seed in (1, 2))
            assert data.fixed == torch.equal(first, second) == (not data.varies), (data, dequantise)
    assert MNIST("test").varies == "dequantise: true"
    assert ColorfulMNIST("test", dequantise="fixed").varies == "random colours"


def test_noise_is_asked_for_by_one_of_three_words():
    with pytest.raises(ValueError, match="dequantise: expected true, false or 'fixed', found 'once'"):
        MNIST("test", dequantise="once")


def test_the_largest_level_stays_below_one():
    """8 + 16 bits: even 255 with the largest noise is exact in float32 and less than 1."""
    white = Labelled(
        torch.full((4000, 1, 16, 16), 255, dtype=torch.uint8), torch.zeros(4000), source="", fingerprint=""
    )
    image = white[range(4000)].image
    assert image.max() < 1 and image.max() > 1 - 1e-6 and image.min() >= 1 - 1 / 128


def test_size_is_a_resize_without_padding():
    small, large = MNIST("test", size=28, dequantise=False), MNIST("test", dequantise=False)
    a, b = small[range(50)].image, large[range(50)].image
    assert a.shape[-2:] == (28, 28) and b.shape[-2:] == (32, 32)
    assert (a.mean((1, 2, 3)) - b.mean((1, 2, 3))).abs().max() < 0.01  # padding would darken them
    expected = torch.nn.functional.interpolate((a + 1) * 127.5, (32, 32), mode="bilinear").round() / 127.5 - 1
    assert (expected - b).abs().max() < 1.01 / 127.5


def test_resize_averages_when_it_shrinks():
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255  # [32, 32], a chessboard
    small = resize(board.byte().expand(3, 2, 32, 32), 8)
    assert small.shape == (3, 2, 8, 8) and small.dtype == torch.uint8 and (small.int() - 127).abs().max() <= 8


def test_resize_in_pieces_is_resize_at_once():
    image = torch.randint(0, 256, (2050, 1, 4, 4), dtype=torch.uint8)
    assert torch.equal(resize(image, 6)[2040:], resize(image[2040:], 6))


def test_one_process_holds_the_images_once():
    assert MNIST("test")._image.data_ptr() == ColorfulMNIST("test", pairs=True)._image.data_ptr()


# --- pairs ------------------------------------------------------------------------------------------------------------


def nearest(data: Labelled, image: Tensor) -> Tensor:
    """Which image of the set each one is, whatever the noise: ``[B, 1, H, W]`` -> ``[B]``."""
    stored = data._image.float().flatten(1)
    return torch.cdist((image.flatten(1) + 1) * 128 - 0.5, stored).argmin(1)


def test_mnist_pairs_share_the_digit_and_no_more():
    data = MNISTPairs("test")
    assert data.factors == ("digit", "residual")
    batch = data[range(500)]
    assert torch.equal(batch.label, batch.other_label) and batch.shared.tolist() == [[True, False]] * 500
    others = nearest(data, batch.other)
    assert torch.equal(nearest(data, batch.image), torch.arange(500))
    assert torch.equal(data._label[others], batch.other_label)
    assert (others != torch.arange(500)).all()  # never itself
    assert len(others.unique()) > 450


def test_partners_are_drawn_evenly_from_the_others_of_the_class():
    label = torch.tensor([4, 7, 4, 4, 9, 7, 4])
    classes = Classes(label)
    drawn = torch.stack([classes.another(torch.arange(7), Draws(Visit(range(7), seed))) for seed in range(3000)])
    for row, expected in enumerate([[2, 3, 6], [5], [0, 3, 6], [0, 2, 6], [4], [1], [0, 2, 3]]):
        values, counts = drawn[:, row].unique(return_counts=True)
        assert values.tolist() == expected  # the only 9 has but itself
        assert (counts / 3000 - 1 / len(expected)).abs().max() < 0.04


def test_partners_are_other_pictures():
    """Where a picture comes several times, its repetitions are no partners of it; all others are drawn evenly."""
    label = torch.tensor([4, 7, 4, 4, 9, 4, 9, 4])
    picture = torch.tensor([0, 1, 2, 0, 3, 0, 3, 4])
    classes = Classes(label, picture=picture)
    assert classes.others.tolist() == [2, 0, 4, 2, 0, 2, 0, 4]
    drawn = torch.stack([classes.another(torch.arange(8), Draws(Visit(range(8), seed))) for seed in range(4000)])
    for row, expected in enumerate([[2, 7], [1], [0, 3, 5, 7], [2, 7], [4], [2, 7], [4], [0, 2, 3, 5]]):
        values, counts = drawn[:, row].unique(return_counts=True)
        assert values.tolist() == expected, row
        assert (counts / 4000 - 1 / len(expected)).abs().max() < 0.04


def test_one_class_makes_no_pairs(tmp_path):
    with pytest.raises(
        ValueError, match=r"^pairs that share the class need at least 2 classes, but all labels are \[3\]$"
    ):
        Classes(torch.full((5,), 3))
    write_mnist(tmp_path, count=1)
    for kind in ("MNISTPairs", "ColorfulMNIST pairs"):
        with pytest.raises(ValueError, match="at least 2 classes"):
            SETS[kind]("train", root=tmp_path)
    assert len(ColorfulMNIST("train", root=tmp_path)) == 1


def test_colorful_pairs_share_what_they_say():
    data = ColorfulMNIST("test", pairs=True)
    assert data.factors == ("digit", "color", "residual")
    batch = data[range(2000)]
    digit, color, residual = batch.shared.unbind(1)
    assert not residual.any() and torch.equal(digit, ~color) and 900 < digit.sum() < 1100
    assert torch.equal(batch.label[digit], batch.other_label[digit])
    assert 0.05 < (batch.label == batch.other_label)[color].float().mean() < 0.16  # any digit: one in ten by chance
    difference = (measure_color(batch.image) - measure_color(batch.other)).abs().mean(1)  # [B]
    # The colour is the same, but one digit may have been written more faintly than the other.
    assert difference[color].mean() < 0.02 and difference[color].quantile(0.98) < 0.1
    assert 0.28 < difference[digit].mean() < 0.38  # of two draws from U[0, 1]: a third
    six = torch.cat([measure_color(batch.image), measure_color(batch.other)], 1)[digit]  # all channels are draws apart
    assert (torch.corrcoef(six.T) - torch.eye(6)).abs().max() < 0.13


def test_colors_are_uniform_one_draw_an_image():
    image = ColorfulMNIST("test")[range(4000)].image
    measured = measure_color(image)
    assert measured.shape == (4000, 3) and (measured.mean(0) - 0.5).abs().max() < 0.02
    assert (measured.var(0) - 1 / 12).abs().max() < 0.006
    assert (torch.corrcoef(measured.T) - torch.eye(3)).abs().max() < 0.06
    assert (
        0.98 < measured.sum() / (-image.amin((-2, -1))).sum() < 1
    )  # the background shows the colour, the stroke nearly


def test_a_colorful_image_is_the_grey_one_times_its_color():
    """The background of the grey image is -1, which shows the colour; each channel is a multiple of that image."""
    image = ColorfulMNIST("test", dequantise=False)[range(500)].image
    grey = MNIST("test", dequantise=False)[range(500)].image
    color = -image.amin((-2, -1))
    assert (image - grey * color[:, :, None, None]).abs().max() < 1e-6
    assert (measure_color(image) <= color + 1e-6).all()
    white = grey.amax((1, 2, 3)) == 1
    assert white.sum() > 50 and torch.allclose(measure_color(image)[white], color[white], atol=1e-6)


def test_colorful_images_are_the_digits_of_their_labels():
    data = ColorfulMNIST("test", pairs=True)
    batch = data[range(300)]
    for image, label in ((batch.image, batch.label), (batch.other, batch.other_label)):
        color = -image.amin((-2, -1))  # of the background: -1 in the grey image
        channel, rows = color.argmax(1), torch.arange(300)
        grey = image[rows, channel][:, None] / color[rows, channel].view(-1, 1, 1, 1)
        assert (data._label[nearest(data, grey)] == label).float().mean() > 0.99


def test_measured_colors_are_clipped():
    image = torch.tensor([-0.5, 1.2, 0.25]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert torch.allclose(measure_color(image), torch.tensor([[0.0, 1.0, 0.25]]).repeat(2, 1))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["gz", "extracted"])
@pytest.mark.parametrize("place", ["MNIST/raw", "raw", ""])
def test_torchvision_layouts(tmp_path, zipped, place):
    write_mnist(tmp_path / place, zipped=zipped)
    data = MNIST("train", root=str(tmp_path), dequantise=False)
    assert len(data) == 20 and data.source == str(tmp_path)
    batch = data[range(20)]
    assert batch.label.tolist() == [i % 3 for i in range(20)]
    assert torch.allclose(batch.image, torch.tensor(100 / 127.5 - 1))


def test_torchvision_reads_what_we_read(tmp_path):
    """Our idea of its layout is its own."""
    torchvision = pytest.importorskip("torchvision")
    for split in ("train", "test"):
        write_mnist(tmp_path / "MNIST" / "raw", zipped=False, split=split, count=7)
    theirs = torchvision.datasets.MNIST(tmp_path, train=True)
    ours = MNIST("train", root=tmp_path, size=28)
    assert torch.equal(theirs.data, ours._image[:, 0]) and torch.equal(theirs.targets, ours._label)


def test_root_then_environment_then_shipped(tmp_path, monkeypatch):
    write_mnist(tmp_path / "a", value=10)
    write_mnist(tmp_path / "b", value=20)
    assert MNIST("train", size=28).source == "shipped with iin"
    monkeypatch.setenv("IIN_DATA", str(tmp_path / "b"))
    assert MNIST("train", size=28).source == str(tmp_path / "b")
    by_root = MNIST("train", root=tmp_path / "a", size=28)
    assert by_root.source == str(tmp_path / "a") and by_root._image.unique().tolist() == [10]
    assert MNIST("test").source == "shipped with iin"  # the folder has no test digits
    for unrelated in ("", str(tmp_path), str(tmp_path / "none")):
        monkeypatch.setenv("IIN_DATA", unrelated)
        assert MNIST("test").source == "shipped with iin"


def test_a_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
    write_mnist(tmp_path / "digits")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(MNIST("train", root="~/digits")) == 20


def test_files_that_change_are_read_again(tmp_path):
    write_mnist(tmp_path, value=1)
    before = MNIST("train", root=tmp_path)
    time.sleep(0.02)
    write_mnist(tmp_path, value=2)
    after = MNIST("train", root=tmp_path)
    assert after._image.unique().tolist() == [2] and after.fingerprint != before.fingerprint


def refused(error: type[Exception], root: Path | None, *words: str) -> None:
    """The data set is refused in one line with these words."""
    with pytest.raises(error) as caught:
        MNIST("train", root=root)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_a_root_without_the_files_says_which_go_where(tmp_path, monkeypatch):
    names = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    refused(FileNotFoundError, tmp_path, *names, str(tmp_path / "MNIST" / "raw"), "leave root out")
    refused(FileNotFoundError, tmp_path / "none", str(tmp_path / "none"), *names)
    write_mnist(tmp_path / "half")
    (tmp_path / "half" / names[1]).unlink()
    refused(FileNotFoundError, tmp_path / "half", names[1])
    with pytest.raises(FileNotFoundError) as caught:
        MNIST("train", root=tmp_path / "half")
    assert names[0] not in str(caught.value)
    monkeypatch.setenv("IIN_DATA", str(tmp_path / "half"))
    refused(FileNotFoundError, None, names[1], "unset IIN_DATA")


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
DAMAGE = {
    "truncated": (IMAGES, lambda data: data[:-5], "truncated: its header says 20x28x28, but only"),
    "header only": (IMAGES, lambda data: data[:9], "truncated"),
    "empty": (IMAGES, lambda _: b"", "empty file; fetch it again"),
    "wrong magic": (IMAGES, lambda data: b"\x00\x00\x0d" + data[3:], "not an IDX file of bytes"),
    "a web page": (IMAGES, lambda _: b"<!DOCTYPE html><html>404</html>", "a web page"),
    "a count beyond reason": (IMAGES, lambda data: data[:4] + b"\xff" * 12 + data[16:], "truncated"),
    "too long": (IMAGES, lambda data: data + b"..", "2 bytes too many"),
    "labels for images": (IMAGES, lambda _: idx(np.zeros(20)), "expected 3 axes, found shape [20]"),
    "images for labels": (LABELS, lambda _: idx(np.zeros((20, 2, 2))), "expected 1 axes, found shape [20, 2, 2]"),
    "labels out of range": (LABELS, lambda _: idx(np.arange(20) % 11), "labels up to 10: expected 0 to 9"),
    "too few labels": (LABELS, lambda _: idx(np.zeros(19)), f"19 labels, but 20 images in {IMAGES}"),
    "no pixels": (IMAGES, lambda _: idx(np.zeros((20, 0, 28))), "shape [20, 0, 28]"),
    "damaged gzip": (IMAGES, lambda data: gzip.compress(data)[:-40], "damaged gzip"),
    "scrambled gzip": (LABELS, lambda data: gzip.compress(data)[:12] + b"\xff" * 40, "damaged gzip"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_named(tmp_path, case):
    name, damage, message = DAMAGE[case]
    write_mnist(tmp_path, zipped=False)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    refused(ValueError, tmp_path, str(path), message)


def test_a_set_without_images(tmp_path):
    for name, array in ((IMAGES, np.zeros((0, 28, 28))), (LABELS, np.zeros(0))):
        (tmp_path / name).write_bytes(idx(array))
    refused(ValueError, tmp_path, str(tmp_path / IMAGES), "expected images")


def test_content_decides_whether_a_file_is_gzipped(tmp_path):
    (tmp_path / "labels").write_bytes(gzip.compress(idx(np.arange(5))))
    (tmp_path / "labels.gz").write_bytes(idx(np.arange(5)))
    assert read_idx(tmp_path / "labels", axes=1).tolist() == read_idx(tmp_path / "labels.gz", axes=1).tolist()


def test_a_damaged_shipped_file_is_named(tmp_path, monkeypatch):
    from iin.data import mnist

    shutil.copytree(FOLDER, tmp_path / "data", ignore=shutil.ignore_patterns("mnist-train*", "__pycache__"))
    path = tmp_path / "data" / "mnist-test.xz"
    path.write_bytes(path.read_bytes()[:1000])
    monkeypatch.setattr(mnist, "__file__", str(tmp_path / "data" / "mnist.py"))
    with pytest.raises(ValueError, match=re.escape(f"{path}: damaged")):
        MNIST("test", size=27)  # a size that no other test uses: it is not in memory yet


def test_arguments_that_make_no_sense():
    with pytest.raises(ValueError, match=r"^split: expected 'train' or 'test', found 'val'$"):
        MNIST("val")
    with pytest.raises(ValueError, match=r"^size: expected at least 1 pixel, found 0$"):
        MNIST("test", size=0)
    image = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"here: .* found 3 images and 2 labels"):
        Labelled(image, torch.zeros(2), source="here", fingerprint="")


def test_digests_see_values_shapes_types_and_order():
    base = torch.arange(4)
    seen = [digest(base), digest(base.view(2, 2)), digest(base.int()), digest(base + 1), digest(base, "a"), digest("a")]
    assert (
        len(set(seen)) == len(seen) and digest("ab", "c") != digest("a", "bc") and digest(base) == digest(base.clone())
    )
