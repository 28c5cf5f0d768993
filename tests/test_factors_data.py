"""Data with known factors: what was recorded of the originals, files in their real formats, and what is odd in them."""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabricate
import numpy as np
import pytest
import torch
from conftest import REFERENCE
from PIL import Image

import iin.data.bank
from iin.data import (
    MPI3D,
    DSprites,
    Factored,
    KnownFactors,
    Loader,
    MPI3DMulti,
    NaturalPatches,
    Shapes3D,
    Sprites,
    ThreeDots,
    Visit,
    sources,
)
from iin.data.bank import Bank

SMALL = (4, 2, 2, 1, 3, 3, 2)
"""Factors of a small file like MPI3D's."""

SETS: dict[str, Callable[[Path, str], Factored]] = {
    "ThreeDots": lambda root, split: ThreeDots(split, count=50, size=16, granularity=5, dots=2),  # type: ignore[arg-type]
    "Sprites": lambda root, split: Sprites(split, size=16, scales=2, rotations=3, places=3),  # type: ignore[arg-type]
    "MPI3D": lambda root, split: MPI3D(split, "toy", fabricate.mpi3d(root), 8, factor_sizes=SMALL),  # type: ignore[arg-type]
    "MPI3DMulti": lambda root, split: MPI3DMulti(
        split,  # type: ignore[arg-type]
        50,
        variant="toy",
        root=fabricate.mpi3d(root),
        factor_sizes=SMALL,
    ),
    "DSprites": lambda root, split: DSprites(split, fabricate.dsprites(root), 8),  # type: ignore[arg-type]
    "Shapes3D": lambda root, split: Shapes3D(split, fabricate.shapes3d(root), 8),  # type: ignore[arg-type]
}


@pytest.fixture(params=SETS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Factored]:
    return lambda split: SETS[request.param](tmp_path, split)


def recorded(name: str) -> Any:
    path = REFERENCE / "jlonevae" / name
    if not path.is_file():
        pytest.skip(f"no recording jlonevae/{name}: set IIN_REFERENCE to the folder of recorded outputs")
    return np.load(path)


def refused(make: Callable[[], object], *words: str, kind: type[Exception] = ValueError) -> None:
    """Refused in one line, which says all of this."""
    with pytest.raises(kind) as found:
        make()
    said = str(found.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said


# --- the contract -----------------------------------------------------------------------------------------------------


def test_a_set_renders_what_it_says_of_its_items(make) -> None:
    data = make("train")
    assert isinstance(data, KnownFactors) and len(data.factor_names) == len(data.factor_sizes)
    assert len(set(data.factor_names)) == len(data.factor_names)
    batch = data[[3, 0, 7]]
    assert batch.image.dtype == torch.float32 and batch.image.ndim == 4
    assert -1 <= batch.image.min() < batch.image.max() <= 1
    assert batch.label.dtype == torch.int64 and batch.label.shape == (3, len(data.factor_sizes))
    assert torch.equal(data.render(batch.label), batch.image)
    assert torch.equal(data.render(batch.label.numpy()), batch.image)
    assert data.render(batch.label[:0]).shape == (0, *batch.image.shape[1:])


def test_an_item_hangs_on_its_index_alone(make) -> None:
    data, again, other = make("train"), make("train"), make("test")
    assert data.fixed and data.source and data.fingerprint == again.fingerprint != other.fingerprint
    batch, single = data[Visit([5, 1, 6], seed=1)], again[Visit([6], seed=2)]
    assert torch.equal(batch.image[2:], single.image) and torch.equal(batch.label[2:], single.label)
    assert not torch.equal(data[range(8)].label, other[range(8)].label)
    copied = pickle.loads(pickle.dumps(data))
    assert torch.equal(copied[[5, 1, 6]].image, batch.image)


def test_all_items_are_seen_by_a_loader(make) -> None:
    data = make("test")
    batches = list(Loader(data, 7))
    assert sum(len(batch.image) for batch in batches) == len(data)
    sizes = torch.tensor(data.factor_sizes)
    assert all(((batch.label >= 0) & (batch.label < sizes)).all() for batch in batches)


def test_the_answers_of_a_network_can_stand_for_images(make) -> None:
    data = make("train")
    kept = data.answering(torch.arange(len(data)))
    assert kept[[4, 2]].image.tolist() == [4, 2] and torch.equal(kept[[4, 2]].label, data[[4, 2]].label)


def test_factors_are_drawn_column_by_column_as_published(make) -> None:
    data = make("train")
    drawn = data.sample_factors(20, np.random.RandomState(3))
    state = np.random.RandomState(3)
    for column, size in enumerate(data.factor_sizes):
        assert drawn[:, column].tolist() == state.randint(size, size=20).tolist()
    one, other = (data.sample_factors(20, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other) and drawn.dtype == one.dtype == torch.int64 and one.shape == drawn.shape
    assert (one < torch.tensor(data.factor_sizes)).all()


def test_combinations_have_numbers(make) -> None:
    data = make("train")
    factors = data.sample_factors(30, np.random.RandomState(0))
    index = data.index(factors)
    assert torch.equal(data.factors_of(index), factors)
    assert index.tolist() == np.ravel_multi_index(tuple(factors.T.numpy()), data.factor_sizes).tolist()
    refused(lambda: data.factors_of(torch.tensor([10**18])), "combinations")
    refused(lambda: data.factors_of(torch.tensor([0.5])), "whole")


def test_what_are_no_factors_is_refused(make) -> None:
    data = make("train")
    count = len(data.factor_sizes)
    refused(lambda: data.render(torch.zeros(2, count)), type(data).__name__, "whole numbers", "float32")
    refused(lambda: data.render(np.zeros((2, count + 1), np.int64)), f"[n, {count}]")
    refused(lambda: data.render(torch.zeros(count, dtype=torch.long)), f"[n, {count}]")
    wrong = torch.zeros(2, count, dtype=torch.long)
    wrong[1, 1] = data.factor_sizes[1]
    refused(lambda: data.render(wrong), "row 1", data.factor_names[1], f"0 to {data.factor_sizes[1] - 1}")
    wrong[1, 1] = -1
    refused(lambda: data.render(wrong), "-1")
    refused(lambda: data[[len(data)]], str(len(data)), kind=IndexError)
    refused(lambda: data[3], "lists of indices", kind=TypeError)  # type: ignore[index]


@pytest.mark.parametrize("name", ["Sprites", "MPI3D", "DSprites", "Shapes3D"])
def test_splits_have_no_combination_in_common(name: str, tmp_path: Path) -> None:
    train, test, both = (SETS[name](tmp_path, split) for split in ("train", "test", "all"))
    numbers = [data.index(data[range(len(data))].label).tolist() for data in (train, test, both)]
    assert sorted(numbers[0] + numbers[1]) == numbers[2] == list(range(len(both)))
    assert len(test) == round(len(both) / 10) and numbers[1] != sorted(numbers[1])
    refused(lambda: SETS[name](tmp_path, "valid"), "split", "'valid'")


# --- three-dots -------------------------------------------------------------------------------------------------------


def test_three_dots_are_those_recorded() -> None:
    r = recorded("three_dots.npz")
    data = ThreeDots(count=10)
    image = (data.render(r["factors"])[:, 0].numpy() + 1) / 2
    error = np.abs(image - r["images"][..., 0])
    assert error.max() < 0.0101 and error.mean() < 1e-5
    assert np.allclose(image * 100, np.rint(image * 100), atol=1e-4)
    drawn = data.sample_factors(6, np.random.RandomState(int(r["sample_seed"])))
    assert drawn.tolist() == r["sample_factors_first6"].tolist()


def test_dots_of_another_granularity_are_those_recorded() -> None:
    r = recorded("three_dots.npz")
    image = ThreeDots(count=10, granularity=32).render(r["granularity32_factors"])[:, 0].numpy() / 2 + 0.5
    assert np.abs(image - r["granularity32_images"][..., 0]).max() < 0.0101


def test_the_published_training_sets_are_the_first_images() -> None:
    """One call draws all factors of the published sets from RandomState(0), column by column."""
    data, state = ThreeDots(count=20_000), np.random.RandomState(0)
    columns = np.stack([state.randint(64, size=20_000) for _ in range(6)], 1)
    assert data.factors_at(torch.arange(20_000)).tolist() == columns.tolist()


def test_dots_of_any_size_and_number() -> None:
    data = ThreeDots(count=4, size=32, dots=2, radius=0.1)
    assert data.factor_sizes == (64,) * 4 and data.factor_names == ("x0", "y0", "x1", "y1")
    image = data.render(torch.tensor([[32, 16, 32, 16], [63, 63, 63, 63]]))
    black = (1 - image).sum((1, 2, 3)) / 2  # pixels
    area = np.pi * (3.2 + 0.05) ** 2
    assert black[0] == pytest.approx(area, rel=0.01)  # laid over one another, two dots are one
    assert black[1] == pytest.approx(area / 4, rel=0.1)  # the rest lies beyond the corner
    y, x = np.mgrid[:32, :32]
    dark = (1 - image[0, 0].numpy()) / 2
    place = np.array([(dark * x).sum(), (dark * y).sum()]) / dark.sum() + 0.5
    assert place == pytest.approx(32 * np.array([32, 16]) / 63, abs=0.06)


def test_the_cache_of_dots_is_bounded_and_changes_nothing() -> None:
    free = ThreeDots(count=40, size=16, cache=0)
    kept = ThreeDots(count=40, size=16, cache=10 * 256 / 1e9)  # ten images
    assert kept._kept.room == 10 and kept._kept._level.numel() == 10 * 256 and free._kept.room == 0
    for rows in ([3, 20, 9], [3, 9], [10, 3, 39, 8, 9], [39]):
        assert torch.equal(kept[rows].image, free[rows].image)
    assert kept._kept._there.nonzero().flatten().tolist() == [3, 8, 9]
    kept[[3]].image.fill_(7)  # what was answered is the asker's own
    assert torch.equal(kept[[3]].image, free[[3]].image)
    assert len(pickle.dumps(ThreeDots(count=40, size=64))) < 10_000


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"split": "valid"}, "'valid'"),
        ({"size": 0}, "size"),
        ({"granularity": 1}, "granularity"),
        ({"granularity": 300}, "300"),
        ({"count": 0}, "count"),
        ({"radius": 0.7}, "0.7"),
        ({"cache": -1}, "cache"),
        ({"cache": float("inf")}, "cache"),
        ({"cache": float("nan")}, "cache"),
        ({"size": 512, "radius": 0.49, "granularity": 256}, "GB"),  # which a machine would not survive
    ],
)
def test_arguments_of_dots_that_make_no_sense(arguments: dict[str, Any], word: str) -> None:
    refused(lambda: ThreeDots(**{"count": 10, **arguments}), word)


def test_many_or_large_dots_are_drawn_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ThreeDots(count=30, size=16, cache=0)[range(30)].image
    laid = iin.data.dots._laid
    counts: list[int] = []
    monkeypatch.setattr("iin.data.dots._laid", lambda *given: counts.append(len(given[1])) or laid(*given))
    monkeypatch.setattr("iin.data.dots._PIECE", 10_000)
    assert torch.equal(ThreeDots(count=30, size=16, cache=0)[range(30)].image, whole)
    assert counts == [17, 13]
    monkeypatch.setattr("iin.data.dots._PIECE", 1)
    assert torch.equal(ThreeDots(count=30, size=16, cache=0)[[3, 4]].image, whole[3:5])


# --- sprites without a file -------------------------------------------------------------------------------------------


def test_no_two_sprites_are_alike() -> None:
    data = Sprites("all", size=32, scales=2, rotations=8, places=3, brightness=2)
    images = data[range(len(data))].image.flatten(1)
    assert len(images.unique(dim=0)) == len(data) == 3 * 2 * 8 * 9 * 2
    assert data.factor_names[-1] == "brightness" and "brightness" not in Sprites(size=32).factor_names


def test_each_factor_of_sprites_does_what_it_is_called() -> None:
    data = Sprites("all", size=64, brightness=3)
    start = torch.tensor([[2, 1, 3, 7, 8, 1]])

    def moved(name: str) -> torch.Tensor:
        place = data.factor_names.index(name)
        rows = start.repeat(data.factor_sizes[place], 1)
        rows[:, place] = torch.arange(data.factor_sizes[place])
        return (data.render(rows)[:, 0].double() + 1) / 2

    along = torch.arange(64).double() + 0.5

    def centre(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = image.sum((1, 2))
        return (image.sum(1) * along).sum(1) / total, (image.sum(2) * along).sum(1) / total

    for name, mine, other in (("x", 0, 1), ("y", 1, 0)):
        places = centre(moved(name))
        assert (places[mine].diff() - 32 / 15).abs().max() < 0.05 and places[other].diff().abs().max() < 0.05
    area = moved("scale").sum((1, 2))
    reach = torch.linspace(1 / 8, 1 / 4, 4).double()
    assert torch.allclose(area / area[0], (reach / reach[0]) ** 2, rtol=0.01)
    assert (moved("brightness").amax((1, 2)) - torch.tensor([0.5, 0.75, 1])).abs().max() < 0.003
    turned = moved("rotation").sum((1, 2))
    assert (turned / turned.mean() - 1).abs().max() < 0.01
    quarter = data.render(torch.tensor([[0, 3, 0, 0, 0, 2], [0, 3, 4, 0, 0, 2]]))[:, 0, :32, :32]
    assert torch.allclose(quarter[0].rot90(-1), quarter[1], atol=0.02)  # clockwise


def test_sprites_have_smooth_edges_and_are_nowhere_cut_off() -> None:
    data = Sprites("all", size=32, scales=2, rotations=8, places=2)
    image = (data[range(len(data))].image[:, 0] + 1) / 2
    grey = ((image > 0.05) & (image < 0.95)).sum((1, 2))
    assert (grey > 4).all()
    big = image[data[range(len(data))].label[:, 1] == 1].sum((1, 2)).view(3, -1)
    assert (big / big.mean(1, keepdim=True) - 1).abs().max() < 0.02  # the same area in every corner


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"shapes": 4}, "shapes"),
        ({"rotations": 1}, "rotation"),
        ({"brightness": 0}, "brightness"),
        ({"size": 4}, "size"),
        ({"test_share": 1.5}, "test_share"),
        ({"places": 5000}, "combinations"),
        ({"cache": float("nan")}, "cache"),
    ],
)
def test_arguments_of_sprites_that_make_no_sense(arguments: dict[str, Any], word: str) -> None:
    refused(lambda: Sprites(**arguments), word)


# --- files ------------------------------------------------------------------------------------------------------------


class Recorded(Bank):
    """The bank of images that the recording describes, which would fill 12.7 GB."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key, self.shape, self.stamp = path, key, (1_036_800, 64, 64, 3), "recorded"

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(fabricate.pattern(rows.numpy())).permute(0, 3, 1, 2)


def test_four_in_one_is_what_was_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    r = recorded("mpi3d_multi.npz")
    monkeypatch.setattr("iin.data.mpi3d.Bank", Recorded)
    (tmp_path / "mpi3d_real.npz").touch()
    data = MPI3DMulti(root=tmp_path, factors="published")
    factors = data.sample_factors(len(r["factors"]), np.random.RandomState(int(r["seed"])))
    assert factors.tolist() == r["factors"].tolist()
    assert data.places(factors).tolist() == r["index_into_mpi3d_real"].tolist()
    image = data.render(factors)
    assert image.dtype == torch.float32
    assert ((image + 1) * 127.5 - torch.from_numpy(r["images_uint8"]).permute(0, 3, 1, 2)).abs().max() < 1e-4
    moving = MPI3DMulti(root=tmp_path)
    assert moving.factor_sizes == (40,) * 8
    assert torch.equal(moving.render(factors.view(-1, 4, 7)[..., 5:].reshape(-1, 8)), image)
    refused(lambda: data.index(factors), "have no numbers")


@pytest.mark.parametrize("packed", [False, True])
def test_mpi3d_finds_images_by_their_factors(packed: bool, tmp_path: Path) -> None:
    data = MPI3D("all", "toy", fabricate.mpi3d(tmp_path, packed=packed), 8, factor_sizes=SMALL)
    batch = data[[0, 1, 2, 5, 50, 287]]
    assert batch.label.tolist() == fabricate.combinations(SMALL)[[0, 1, 2, 5, 50, 287]].tolist()
    expected = fabricate.pattern(np.array([0, 1, 2, 5, 50, 287]), 8).transpose(0, 3, 1, 2)
    assert np.abs((batch.image.numpy() + 1) * 127.5 - expected).max() < 1e-4
    assert MPI3D("all", "toy", tmp_path, 4, factor_sizes=SMALL)[[0]].image.shape == (1, 3, 4, 4)


def test_large_compressed_files_are_unpacked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(iin.data.bank, "SMALL", 100)
    monkeypatch.setattr(iin.data.bank, "_PIECE", 2000)
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "cache"))
    whole = MPI3D("all", "toy", fabricate.mpi3d(tmp_path / "plain"), 8, factor_sizes=SMALL)[range(288)].image
    root = fabricate.mpi3d(tmp_path / "packed", packed=True)
    data = MPI3D("all", "toy", root, 8, factor_sizes=SMALL)
    with sources.offline():  # a rehearsal leaves nothing behind
        assert data[[0, 287]].image.shape == (2, 3, 8, 8)
    assert not (tmp_path / "cache").exists()
    calls: list[int] = []
    data.make_ready(lambda: calls.append(1))
    assert len(calls) == 288 // 10 + 1 and torch.equal(data[range(288)].image, whole)
    (kept,) = (tmp_path / "cache" / "banks").iterdir()
    stamp = kept.stat().st_mtime_ns
    again = MPI3D("all", "toy", root, 8, factor_sizes=SMALL)
    assert torch.equal(again[[7]].image, whole[[7]]) and kept.stat().st_mtime_ns == stamp
    copied = pickle.loads(pickle.dumps(again))
    assert torch.equal(copied[[7]].image, whole[[7]])
    np.savez_compressed(root / "mpi3d_toy.npz", images=255 - fabricate.pattern(np.arange(288), 8))
    assert torch.allclose(MPI3D("all", "toy", root, 8, factor_sizes=SMALL)[[7]].image, -whole[[7]], atol=1e-6)


def test_without_room_a_file_is_not_unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(iin.data.bank, "SMALL", 100)
    monkeypatch.setattr("iin.arrays.MARGIN", 10**18)
    data = MPI3D("all", "toy", fabricate.mpi3d(tmp_path, packed=True), 8, factor_sizes=SMALL)
    refused(lambda: data[[0]], "mpi3d_toy.npz", "cannot be unpacked", "IIN_CACHE")


def test_dsprites_in_the_published_format(tmp_path: Path) -> None:
    data = DSprites("all", fabricate.dsprites(tmp_path), 8)
    assert data.factor_sizes == (3, 2, 4, 3, 3) and data.factor_names == ("shape", "scale", "orientation", "x", "y")
    batch = data[[0, 70, 215]]
    assert batch.image.shape == (3, 1, 8, 8) and sorted(batch.image.unique().tolist()) == [-1, 1]
    assert batch.image.flatten(1).argmax(1).tolist() == [0, 70 % 64, 215 % 64]
    assert batch.label.tolist() == fabricate.combinations((3, 2, 4, 3, 3))[[0, 70, 215]].tolist()


def test_shapes_of_an_npz(tmp_path: Path) -> None:
    data = Shapes3D("all", fabricate.shapes3d(tmp_path), 8)
    assert data.factor_sizes == (2, 2, 3, 2, 4, 3) and data.factor_names[3:5] == ("scale", "shape")
    expected = fabricate.pattern(np.array([17, 200]), 8).transpose(0, 3, 1, 2)
    assert np.abs((data[[17, 200]].image.numpy() + 1) * 127.5 - expected).max() < 1e-4


def test_shapes_of_the_published_h5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    expected = Shapes3D("all", fabricate.shapes3d(tmp_path / "npz"), 8)
    with np.load(tmp_path / "npz" / "3dshapes.npz") as arrays, h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        for name in ("images", "labels"):
            file.create_dataset(name, data=arrays[name], compression="gzip", chunks=True)
    for small in (iin.data.bank.SMALL, 100):
        monkeypatch.setattr(iin.data.bank, "SMALL", small)
        data = Shapes3D("all", tmp_path, 8)
        assert torch.equal(data[[5, 100]].image, expected[[5, 100]].image)
    (tmp_path / "3dshapes.h5").write_bytes(b"no HDF5")
    refused(lambda: Shapes3D("all", tmp_path, 8), "3dshapes.h5", "damaged")


def test_h5_without_h5py_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "3dshapes.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    refused(lambda: Shapes3D("all", tmp_path), "3dshapes.h5", "pip install h5py", ".npz")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: MPI3D(root=root), ["MPI3D (real)", "mpi3d_real.npz", "github.com"]),
        (lambda root: MPI3DMulti(root=root), ["mpi3d_real.npz"]),
        (lambda root: DSprites(root=root), ["dSprites", "dsprites_ndarray", "github.com"]),
        (lambda root: Shapes3D(root=root), ["3dshapes.npz or 3dshapes.h5"]),
        (lambda root: NaturalPatches(root / "none"), ["none", "IMAGES.mat"]),
        (lambda root: NaturalPatches(), ["IMAGES.mat", "http"]),
    ],
)
def test_what_is_missing_is_said(make: Callable[[Path], object], words: list[str], tmp_path: Path) -> None:
    refused(lambda: make(tmp_path), *words, kind=sources.Missing)


def test_files_are_found_below_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IIN_DATA", str(tmp_path))
    fabricate.mpi3d(tmp_path / "mpi3d")
    fabricate.dsprites(tmp_path)
    fabricate.shapes3d(tmp_path / "3dshapes")
    fabricate.whitened(tmp_path)
    assert len(MPI3D("all", "toy", factor_sizes=SMALL)) == 288
    assert len(DSprites("all")) == 216 and len(Shapes3D("all")) == 288 and len(NaturalPatches(count=5)) == 15
    assert len(DSprites("all", next(tmp_path.glob("*.npz")))) == 216  # the file itself


def mpi3d(root: Path, **arrays: np.ndarray) -> Callable[[], object]:
    np.savez(root / "mpi3d_toy.npz", **arrays)
    return lambda: MPI3D("all", "toy", root)


def test_npz_files_of_another_kind(tmp_path: Path) -> None:
    image = fabricate.pattern(np.arange(288), 8)
    refused(mpi3d(tmp_path, imgs=image, x=image), "mpi3d_toy.npz", "holds imgs, x", "expected images")
    refused(mpi3d(tmp_path, images=image.astype(np.float32)), "float32", "uint8 [N, H, W, 3]")
    refused(mpi3d(tmp_path, images=image[0, 0, 0]), "[3]", "uint8 [N, H, W, 3]")
    refused(mpi3d(tmp_path, images=image[..., 0]), "[288, 8, 8]", "[N, 64, 64, 3]")
    refused(mpi3d(tmp_path, images=image[:, :0]), "[288, 0, 8, 3]", "at least one pixel")
    refused(mpi3d(tmp_path, images=np.array({"a": 1}, object)), "pickled")
    refused(mpi3d(tmp_path, images=image), "288 images", "6 x 6 x 2 x 3 x 3 x 40 x 40", "1,036,800", "factor_sizes")
    refused(lambda: MPI3D("all", "toy", tmp_path, factor_sizes=(4, 72)), "factor_sizes", "7")
    refused(lambda: MPI3D("all", "real", tmp_path / "mpi3d_toy.npz", factor_sizes=(3, *SMALL[1:])), "216", "288")
    refused(lambda: MPI3D("all", "blue", tmp_path), "variant", "'blue'")  # type: ignore[arg-type]
    refused(lambda: MPI3D("all", "toy", tmp_path, size=0, factor_sizes=SMALL), "size")
    few = (3, 2, 2, 2, 3, 2, 2)
    fabricate.mpi3d(tmp_path, few)
    refused(lambda: MPI3DMulti(variant="toy", root=tmp_path, factor_sizes=few), "no combination", "cube")
    refused(lambda: MPI3DMulti(variant="toy", root=tmp_path, factor_sizes=few, factors="all"), "factors")  # type: ignore[arg-type]


def test_damaged_files(tmp_path: Path) -> None:
    path = fabricate.mpi3d(tmp_path) / "mpi3d_toy.npz"
    content = path.read_bytes()
    make = lambda: MPI3D("all", "toy", tmp_path, 8, factor_sizes=SMALL)  # noqa: E731
    for wrong, word in ((b"", "empty"), (b"<!doctype html>", "a web page"), (content[:5000], "damaged")):
        path.write_bytes(wrong)
        refused(make, "mpi3d_toy.npz", word, "fetch it again")
    fabricate.mpi3d(tmp_path, packed=True)
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    spoilt = bytearray(path.read_bytes())
    for place in range(info.compress_size // 2, info.compress_size // 2 + 40):
        spoilt[place] ^= 0xFF
    path.write_bytes(bytes(spoilt))
    refused(lambda: make()[[0]], "mpi3d_toy.npz", "damaged", "fetch it again")


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("size", [100, iin.data.bank.SMALL])
def test_damage_anywhere_is_one_line(packing: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iin.data.bank, "SMALL", size)
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "cache"))
    path = fabricate.mpi3d(tmp_path) / "mpi3d_toy.npz"
    with zipfile.ZipFile(path) as archive:
        array = archive.read("images.npy")
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("images.npy", array)
        start, length = archive.infolist()[0].header_offset, archive.infolist()[0].compress_size
    content = path.read_bytes()
    assert MPI3D("all", "toy", tmp_path, 8, factor_sizes=SMALL)[[0]].image.shape == (1, 3, 8, 8)
    # Of the name before the array, of its header, and, where a sum tells of it, of the array itself.
    for first in (start + 30, start + 100, *([length // 2] if packing else [])):
        path.write_bytes(content[:first] + b"\xff" * 80 + content[first + 80 :])
        monkeypatch.setenv("IIN_CACHE", str(tmp_path / f"cache{first}"))  # where nothing is unpacked yet
        refused(
            lambda: MPI3D("all", "toy", tmp_path, 8, factor_sizes=SMALL)[[0, 287]], "mpi3d_toy.npz", "fetch it again"
        )
    assert not list(tmp_path.glob("cache*/**/*.tmp"))


def test_sprites_of_other_levels_than_published_are_refused(tmp_path: Path) -> None:
    data = dsprites(tmp_path, lambda arrays: arrays.update(imgs=255 * arrays["imgs"]))()
    refused(lambda: data[[0, 5]], "imgs has pixels of 255", "expected 0 to 1")  # type: ignore[index]


def test_four_in_one_wants_a_count(tmp_path: Path) -> None:
    refused(lambda: MPI3DMulti(root=tmp_path, count=0), "count", "found 0")


def dsprites(root: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[], object]:
    path = next(fabricate.dsprites(root).glob("*.npz"))
    with np.load(path) as file:
        arrays = {name: file[name] for name in ("imgs", "latents_classes", "latents_values")}
    change(arrays)
    np.savez(path, **arrays)
    return lambda: DSprites("all", root)


def test_dsprites_of_another_kind(tmp_path: Path) -> None:
    refused(dsprites(tmp_path, lambda a: a.pop("imgs")), "expected imgs")
    refused(dsprites(tmp_path, lambda a: a.pop("latents_classes")), "expected latents_classes")
    refused(dsprites(tmp_path, lambda a: a.update(imgs=a["imgs"][:100])), "[216, 6]", "[100, 6]")
    fewer = {"imgs": np.zeros((100, 8, 8), np.uint8)}
    refused(
        dsprites(tmp_path, lambda a: a.update(fewer, latents_classes=a["latents_classes"][:100])),
        "100 images",
        "combinations",
    )
    refused(dsprites(tmp_path, lambda a: a.update(latents_classes=a["latents_classes"][::-1])), "out of order", "row 0")
    refused(dsprites(tmp_path, lambda a: a.update(latents_classes=a["latents_values"])), "latents_classes", "whole")
    fabricate.shapes3d(tmp_path)
    with np.load(tmp_path / "3dshapes.npz") as file:
        np.savez(tmp_path / "3dshapes.npz", images=file["images"], labels=file["labels"][:, :5])
    refused(lambda: Shapes3D("all", tmp_path), "labels", "[288, 5]", "[288, 6]")


# --- patches ----------------------------------------------------------------------------------------------------------


def test_patches_are_squares_of_the_pictures(tmp_path: Path) -> None:
    shape = (40, 48, 3)
    data = NaturalPatches(fabricate.whitened(tmp_path, shape) / "IMAGES.mat", size=8, count=200)
    assert len(data) == 600 and data.fixed
    batch = data[range(600)]
    assert batch.image.shape == (600, 1, 8, 8) and batch.label.bincount().tolist() == [200] * 3
    assert torch.equal(batch.label, torch.arange(3).repeat_interleave(200))
    # All three pictures are scaled together; every pixel has a value of its own, which tells its place.
    place = ((batch.image[:, 0].double() + 1) / 2 * (np.prod(shape) - 1)).round().long()
    row, column, number = place // (48 * 3), place // 3 % 48, place % 3
    assert torch.equal(number, batch.label[:, None, None].expand_as(number))
    assert torch.equal(row - row[:, :1, :1], torch.arange(8)[:, None].expand_as(row))
    assert torch.equal(column - column[:, :1, :1], torch.arange(8).expand_as(column))
    assert row[:, 0, 0].unique().tolist() == list(range(33)) and column[:, 0, 0].unique().tolist() == list(range(41))


def test_patches_hang_on_the_seed_and_the_split(tmp_path: Path) -> None:
    path = fabricate.whitened(tmp_path) / "IMAGES.mat"
    data, again, seed, test = (
        NaturalPatches(path, count=20, **extra)  # type: ignore[arg-type]
        for extra in ({}, {}, {"seed": 1}, {"split": "test"})
    )
    assert torch.equal(data[[3, 30]].image, again[[30, 3]].image.flip(0))
    assert data.fingerprint == again.fingerprint and len({d.fingerprint for d in (data, seed, test)}) == 3
    assert not torch.equal(data[range(60)].image, seed[range(60)].image)
    assert not torch.equal(data[range(60)].image, test[range(60)].image)
    assert data.answering(torch.arange(60))[[4]].image.tolist() == [4]


def test_patches_of_a_folder(tmp_path: Path) -> None:
    data = NaturalPatches(fabricate.folder(tmp_path / "a", 6), size=16, count=30)
    batch = data[range(len(data))]
    assert batch.image.shape == (180, 1, 16, 16) and len(data.classes) == 6
    assert -1 <= batch.image.min() < -0.5 and 0.2 < batch.image.max() <= 1
    folder = tmp_path / "b"
    folder.mkdir()
    level = np.arange(20 * 20, dtype=np.uint16).reshape(20, 20) // 2
    Image.fromarray(np.pad(level.astype(np.uint8), ((0, 0), (5, 5)))).save(folder / "a.png")
    pixels = NaturalPatches(folder, size=20, count=1)[[0]].image  # the square in the middle
    assert torch.allclose(pixels[0, 0], torch.from_numpy(level / 199 * 2 - 1).float(), atol=1e-6)


def test_pictures_that_no_patch_can_be_cut_from(tmp_path: Path) -> None:
    from scipy.io import savemat

    path, random = tmp_path / "IMAGES.mat", np.random.RandomState(0)

    def mat(**arrays: Any) -> Callable[[], object]:
        savemat(path, arrays)
        return lambda: NaturalPatches(path, count=4)

    refused(mat(OTHER=np.zeros((3, 3))), "IMAGES.mat", "holds OTHER", "expected IMAGES")
    refused(mat(IMAGES=np.zeros((30, 30))), "[30, 30]", "[height, width, pictures]")
    refused(mat(IMAGES=random.rand(10, 30, 2)), "picture 0", "30x10", "16x16")
    refused(mat(IMAGES=np.ones((30, 30, 2))), "all pixels are 1")
    spoilt = random.rand(30, 30, 2)
    spoilt[3, 4, 1] = np.nan
    refused(mat(IMAGES=spoilt), "picture 1", "finite")
    refused(lambda: NaturalPatches(path, count=0), "count")
    refused(lambda: NaturalPatches(path, split="all"), "split")  # type: ignore[arg-type]
    for content, word in ((b"", "empty"), (b"<html>", "a web page"), (b"no MATLAB file, but text" * 20, "damaged")):
        path.write_bytes(content)
        refused(lambda: NaturalPatches(path), "IMAGES.mat", word)
    root = fabricate.folder(tmp_path / "pictures", 3)
    refused(lambda: NaturalPatches(root, size=200), "64x64", "200x200")
    (root / "square" / "spoilt.png").write_bytes(b"nothing")
    refused(lambda: NaturalPatches(root), "1 of 4", "spoilt.png", "mend or remove them")
    with pytest.raises(ValueError) as caught:
        NaturalPatches(root)
    assert "on_error" not in str(caught.value)  # which it does not have
