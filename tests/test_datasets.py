"""Data sets that are read from files: every format as it really is, what is wrong with files, and what goes where."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import fabricate
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from iin import config as configuration
from iin.cli import explore as exploring
from iin.cli import train as training
from iin.data import (
    CIFAR10,
    MNIST,
    AttributePairs,
    CelebA,
    ColorfulMNIST,
    Draws,
    FactorCelebA,
    FashionMNIST,
    ImageFolder,
    Images,
    Labelled,
    Loader,
    Pairs,
    SingleColorfulMNIST,
    Visit,
    celeba,
    cifar,
    fashion,
    sources,
)
from iin.data.attributes import Attributes
from iin.data.cifar import read_arrays
from iin.data.decoding import decode
from iin.data.folder import split_names
from iin.data.table import quantile_bins

FACTORS = ["Eyeglasses", "Male", "No_Beard", "Smiling"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IIN_OFFLINE", raising=False)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats, as torchvision lays them out."""
    place = tmp_path_factory.mktemp("data")
    for make in (fabricate.mnist, fabricate.fashion, fabricate.cifar, fabricate.celeba):
        make(place)
    fabricate.folder(place / "mine")
    return place


SETS: dict[str, Callable[..., Labelled]] = {
    "FashionMNIST": FashionMNIST,
    "CIFAR10": CIFAR10,
    "CelebA": CelebA,
    "FactorCelebA": lambda split, root, **kwargs: FactorCelebA(split, root=root, **kwargs),
    "ImageFolder": lambda split, root, **kwargs: ImageFolder(root / "mine", split=split, test_share=0.3, **kwargs),
    "AttributePairs": lambda split, root, **kwargs: AttributePairs(
        root / "mine", "table.csv", split=split, test_share=0.3, **kwargs
    ),
    "SingleColorfulMNIST": SingleColorfulMNIST,
}


def tensors(batch: Images | Pairs) -> list[Tensor]:
    return [part for part in batch if part is not None]


def alike(first: Images | Pairs, second: Images | Pairs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def refused(make: Callable[[], object], error: type[Exception], *words: str) -> str:
    """It is refused in one line with these words."""
    with pytest.raises(error) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message, message
    for word in words:
        assert word in message, message
    return message


# --- every data set ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=SETS)
def make(request: pytest.FixtureRequest, root: Path) -> Callable[..., Labelled]:
    return functools.partial(SETS[request.param], root=root)


@pytest.mark.parametrize("split", ["train", "test"])
def test_batches_are_what_they_say(make, split):
    data = make(split=split)
    batch = data[[5, 0, len(data) - 1]]
    assert batch.image.shape[0] == 3 and batch.image.shape[1] in (1, 3) and batch.image.dtype == torch.float32
    assert batch.image.shape[2] == batch.image.shape[3] and batch.label.dtype == torch.int64
    assert all(tensor.is_contiguous() for tensor in tensors(batch))
    image = data[range(min(60, len(data)))].image
    assert -1 <= image.min() < -0.5 and 0.5 < image.max() < 1
    assert Path(data.source.split(", ")[0]).exists() and len(data.fingerprint) == 64
    if isinstance(batch, Pairs):
        assert batch.other.shape == batch.image.shape and batch.shared.shape == (3, len(data.factors))
        assert data.factors[-1] == "residual" and not batch.shared[:, -1].any() and (batch.shared.sum(1) == 1).all()
        assert batch.other_label.shape == (3,)
    else:
        assert not hasattr(data, "factors")


def test_they_say_whether_images_change(make):
    """And what they say is so, of partners too."""
    for dequantise in (True, False, "fixed"):
        data = make(split="train", dequantise=dequantise)
        first, second = (data[Visit(range(20), seed)] for seed in (3, 4))
        assert data.fixed == torch.equal(first.image, second.image), dequantise
        assert data.fixed == (dequantise is not True and not isinstance(data, SingleColorfulMNIST))
        if isinstance(first, Pairs):
            seen = {image.numpy().tobytes() for image in data[range(len(data))].image}
            assert all(image.numpy().tobytes() in seen for image in first.other) == data.fixed


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_splits_repeat_themselves(make, split):
    """The same draws for the same visit: from another object, in other batches, in another order."""
    first, second = make(split=split), make(split=split)
    assert len(first) == len(second) and first.fingerprint == second.fingerprint
    count = min(40, len(first))
    whole = first[Visit(range(count), 3)]
    assert alike(whole, second[Visit(range(count), 3)])
    assert alike(next(Loader(first, count).epoch(0)), next(Loader(second, count).epoch(5)))  # the same every time
    order = [3, 17, 8]
    for part, some in zip(tensors(whole), tensors(second[Visit(order, 3)]), strict=True):
        assert torch.equal(part[order], some)
    again = first[Visit(range(count), 4)]
    assert not torch.equal(whole.image, again.image)
    if isinstance(whole, Pairs):  # other partners, not only other noise
        assert (whole.other - again.other).abs().flatten(1).amax(1).gt(0.1).float().mean() > 0.4


def test_splits_and_sizes_are_sets_of_their_own(make):
    variants = [
        make(split=split, size=size, dequantise=noise).fingerprint
        for split in ("train", "test")
        for size, noise in ((32, True), (16, True), (32, False), (32, "fixed"))
    ]
    assert len(set(variants)) == len(variants)
    batch = make(split="train", size=16, dequantise=False)[Visit([0, 1], 1)]
    assert batch.image.shape[-2:] == (16, 16)
    if not isinstance(batch, Pairs) and batch.image.shape[1] == 3:
        levels = (batch.image + 1) * 127.5
        assert (levels - levels.round()).abs().max() < 1e-4 or isinstance(make(split="train"), ColorfulMNIST)


def test_arguments_that_make_no_sense(make):
    refused(lambda: make(split="val"), ValueError, "split: expected 'train'", "found 'val'")
    refused(lambda: make(split="train", size=0), ValueError, "size: expected at least 1 pixel, found 0")


def test_configurations_name_them(root):
    """As YAML gives them: lists, numbers and words, built by the program's own builder."""
    node = {
        "target": "iin.data.FactorCelebA",
        "params": {"split": "test", "attributes": ["Male", "Bald"], "root": str(root), "size": 32},
    }
    assert configuration.build(node).factors == ("Male", "Bald", "residual")
    tree = {
        "name": "faces",
        "data": {"train": node, "test": {**node, "params": {**node["params"], "attributes": []}}},
        "system": {"target": "iin.systems.Classifier"},
    }
    with pytest.raises(configuration.ConfigError) as caught:
        configuration.check(configuration.Config(tree))
    assert any("attributes" in mistake and "at least 1" in mistake for mistake in caught.value.mistakes)
    assert not any("data.train" in mistake for mistake in caught.value.mistakes)


# --- the kin of MNIST -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["gz", "extracted"])
@pytest.mark.parametrize("place", ["FashionMNIST/raw", "raw", ""])
def test_fashion_files_where_torchvision_puts_them(tmp_path, place, zipped):
    fabricate.fashion(tmp_path / "from", zipped=zipped)
    shutil.copytree(tmp_path / "from" / "FashionMNIST" / "raw", tmp_path / "to" / place, dirs_exist_ok=True)
    data = FashionMNIST("test", root=str(tmp_path / "to"), size=28, download=False)
    assert len(data) == 100 and data._label[:12].tolist() == [*range(10), 0, 1]
    assert data.classes[7] == "sneaker"


def test_torchvision_reads_the_same_clothes(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    fabricate.fashion(tmp_path, zipped=False)
    theirs = torchvision.datasets.FashionMNIST(tmp_path, train=True)
    ours = FashionMNIST("train", root=tmp_path, size=28)
    assert torch.equal(theirs.data, ours._image[:, 0]) and torch.equal(theirs.targets, ours._label)
    assert list(map(str.lower, theirs.classes))[1:] == list(ours.classes[1:])


def test_digits_are_no_clothes_and_clothes_no_digits(root, tmp_path, monkeypatch):
    """The files have the same names: those of the other set must not be taken, wherever one looks from."""
    fabricate.mnist(tmp_path)
    for place in (tmp_path / "MNIST", tmp_path / "MNIST" / "raw", tmp_path):
        refused(lambda place=place: FashionMNIST(root=place, download=False), sources.Missing, "train-images")
    monkeypatch.setenv("IIN_DATA", str(tmp_path / "MNIST" / "raw"))
    refused(lambda: FashionMNIST(download=False), sources.Missing, "train-labels")
    assert MNIST("test").source == str(tmp_path / "MNIST" / "raw")
    for place in ("FashionMNIST", "FashionMNIST/raw"):
        refused(lambda place=place: MNIST("test", root=root / place), FileNotFoundError, "t10k-images")
        monkeypatch.setenv("IIN_DATA", str(root / place))
        assert MNIST("test").source == "shipped with iin" and len(FashionMNIST("test", download=False)) == 100


def test_bare_files_in_a_shared_folder_are_nobodys_clothes(tmp_path, monkeypatch):
    fabricate.mnist(tmp_path / "from")
    shutil.copytree(tmp_path / "from" / "MNIST" / "raw", tmp_path / "bare")
    monkeypatch.setenv("IIN_DATA", str(tmp_path / "bare"))
    refused(lambda: FashionMNIST(download=False), sources.Missing, str(tmp_path / "bare" / "FashionMNIST" / "raw"))


def test_damaged_clothes_are_named(tmp_path):
    fabricate.fashion(tmp_path, zipped=False)
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-7])
    refused(lambda: FashionMNIST("train", root=tmp_path), ValueError, str(path), "truncated")


def test_single_digits_in_colour_are_those_of_the_pairs(root):
    single, pairs = SingleColorfulMNIST("test", root=root), ColorfulMNIST("test", root=root)
    assert alike(single[range(20)], pairs[range(20)]) and type(single[[0]]) is Images
    assert single.fingerprint != MNIST("test", root=root).fingerprint


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------


def test_cifar_from_folders_and_from_the_archive(root, tmp_path):
    fabricate.cifar(tmp_path / "zipped", archive=True)
    fabricate.cifar(tmp_path / "named" / "CIFAR10")
    for split, count in (("train", 300), ("test", 100)):
        data = CIFAR10(split, root=root, download=False)
        assert len(data) == count and data._label[:3].tolist() == [0, 1, 2]
        for other in (tmp_path / "zipped", tmp_path / "named", root / "cifar-10-batches-py"):
            assert CIFAR10(split, root=other, download=False).fingerprint == data.fingerprint
    image = CIFAR10("test", root=root, dequantise=False)[range(20)].image
    assert (image[10] - image[0]).abs().mean() < (image[5] - image[0]).abs().mean()  # of one class, of another


def test_cifar_pixels_are_channels_then_rows(tmp_path):
    image = np.zeros((1, 3, 32, 32), np.uint8)
    image[0, 2, 5] = 255  # the sixth row, blue
    (tmp_path / "test_batch").write_bytes(fabricate.python2_pickle(image.reshape(1, -1), [3], b"one"))
    batch = CIFAR10("test", root=tmp_path, dequantise=False)[[0]]
    assert (batch.image[0, 2, 5] == 1).all() and batch.image.gt(-1).sum() == 32 and batch.label.tolist() == [3]


def test_torchvision_reads_the_same_photographs(root, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", lambda self: None)
    theirs = torchvision.datasets.CIFAR10(root, train=True)
    ours = CIFAR10("train", root=root)
    assert (
        np.array_equal(theirs.data.transpose(0, 3, 1, 2), ours._image.numpy())
        and theirs.targets == ours._label.tolist()
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_are_read(protocol):
    data = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2, 3], b"bytes": b"\xff\x00"}
    read = read_arrays(pickle.dumps(data, protocol=protocol), "here")
    assert np.array_equal(read["data"], data["data"]) and read["labels"] == [1, 2, 3]


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Shell(Trap):
    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


class Codec(Trap):
    def __reduce__(self):
        import _codecs

        return (_codecs.encode, ("x", "rot13"))


@pytest.mark.parametrize(("kind", "word"), [(Trap, "touch"), (Shell, "system"), (Codec, "rot13")])
def test_pickles_that_would_run_code_are_refused(tmp_path, kind, word):
    mark = tmp_path / "mark"
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": kind(mark), "labels": []}))
    if kind is not Codec:
        pickle.loads((tmp_path / "test_batch").read_bytes())
        assert mark.exists()  # the trap works
        mark.unlink()
    refused(lambda: CIFAR10("test", root=tmp_path), ValueError, str(tmp_path / "test_batch"), word)
    assert not mark.exists()


def test_arrays_of_objects_bring_no_code_in():
    array = np.empty(1, object)
    array[0] = os.system
    refused(lambda: read_arrays(pickle.dumps(array), "here"), ValueError, "here", "system")


CIFAR_DAMAGE = {
    "truncated": (lambda content: content[:-200], "no file of arrays"),
    "empty": (lambda _: b"", "empty file"),
    "a web page": (lambda _: b"<!DOCTYPE html><html>", "a web page"),
    "CIFAR-100": (
        lambda _: pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [1, 2]}),
        "expected 'labels'",
    ),
    "a list": (lambda _: pickle.dumps([1, 2]), "expected 'data'"),
    "floats": (lambda _: pickle.dumps({"data": np.zeros((2, 3072)), "labels": [1, 2]}), "expected 'data'"),
    "labels out of range": (
        lambda _: pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [3, 10]}),
        "labels from 3 to 10: expected 0 to 9",
    ),
    "negative labels": (
        lambda _: pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [3, -1]}),
        "labels from -1 to 3: expected 0 to 9",
    ),
    "too few labels": (
        lambda _: pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}),
        "each of 2 images",
    ),
}


@pytest.mark.parametrize("case", CIFAR_DAMAGE)
def test_damaged_batches_are_named(tmp_path, case):
    damage, message = CIFAR_DAMAGE[case]
    fabricate.cifar(tmp_path, counts=(2, 2))
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(damage(path.read_bytes()))
    refused(lambda: CIFAR10("train", root=tmp_path), ValueError, str(path), message)
    assert len(CIFAR10("test", root=tmp_path)) == 2


def test_damaged_archives_are_named(tmp_path):
    fabricate.cifar(tmp_path, counts=(2, 2), archive=True)
    path = tmp_path / "cifar-10-python.tar.gz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(lambda: CIFAR10("test", root=tmp_path), ValueError, str(path), "fetch it again")
    for content, reason in (
        (b"<html>", "a web page"),
        (b"", "empty file"),
        (b"\x1f\x8b" + b"x" * 99, "damaged archive"),
    ):
        path.write_bytes(content)
        refused(lambda: CIFAR10("test", root=tmp_path), ValueError, str(path), reason)


def test_half_a_cifar_says_what_is_missing(tmp_path):
    fabricate.cifar(tmp_path, counts=(2, 2))
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    refused(lambda: CIFAR10("train", root=tmp_path), sources.Missing, "data_batch_4", "cifar-10-batches-py")


# --- CelebA -----------------------------------------------------------------------------------------------------------


def shown(image: Tensor) -> Tensor:
    """Which of the forty attributes a fabricated face shows: ``[B, 3, 64, 64]`` -> ``[B, 40]`` bool."""
    rows = torch.arange(8) * 8 + 4
    columns = (torch.arange(5) * 12.8 + 6.4).long()
    return (image[:, :, rows][:, :, :, columns].mean(1) > 0.02).flatten(1)


def recorded(root: Path) -> dict[str, list[int]]:
    lines = (root / "celeba" / "list_attr_celeba.txt").read_text().splitlines()[2:]
    return {line.split()[0]: [int(cell) for cell in line.split()[1:]] for line in lines}


def names_of(root: Path, image: Tensor) -> list[str]:
    """Which file each fabricated face is, by the forty attributes that it shows and the publishers' list."""
    known = {tuple(cell == 1 for cell in cells): name for name, cells in recorded(root).items()}
    assert len(known) == len(recorded(root))  # no two faces show the same
    return [known[tuple(row)] for row in shown(image).tolist()]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_pair_of_faces_shares_the_attribute_named(root, split):
    """500 faces in the real format. What the pictures show and the publishers' lists say decides, nothing else."""
    facts = recorded(root)
    parts = dict(line.split() for line in (root / "celeba" / "list_eval_partition.txt").read_text().splitlines())
    data, again = FactorCelebA(split, root=root), FactorCelebA(split, root=root)
    assert len(facts) == 500 and data.factors == (*FACTORS, "residual")
    assert len(data) == {"train": 300, "test": 100}[split]
    drawn, agreements, partners = Counter(), [], []
    for epoch in range(2):
        batches = list(Loader(data, 37, seed=5, shuffle=split == "train").epoch(epoch))
        others = []
        for batch, visit in zip(batches, Loader(data, 37, seed=5, shuffle=split == "train").visits(epoch), strict=True):
            images, other_images = names_of(root, batch.image), names_of(root, batch.other)
            assert all(a != b for a, b in zip(images, other_images, strict=True))  # never itself
            assert {parts[name] for name in (*images, *other_images)} == {"0" if split == "train" else "2"}
            assert (batch.shared.sum(1) == 1).all() and not batch.shared[:, -1].any()  # one, and never the residual
            for image, other, shared in zip(images, other_images, batch.shared.tolist(), strict=True):
                factor = FACTORS[shared.index(True)]
                column = fabricate.ATTRIBUTES.index(factor)
                assert facts[image][column] == facts[other][column], (image, other, factor)
                drawn[factor, facts[image][column]] += 1
                rest = [fabricate.ATTRIBUTES.index(name) for name in FACTORS if name != factor]
                agreements += [facts[image][column] == facts[other][column] for column in rest]
            if epoch == 0:
                assert alike(batch, again[visit])  # the split repeats itself, from another object
            others += other_images
        partners.append(others)
    assert set(drawn) == {(factor, value) for factor in FACTORS for value in (1, -1)}
    assert all(abs(drawn[f, 1] + drawn[f, -1] - sum(drawn.values()) / 4) < 0.1 * sum(drawn.values()) for f in FACTORS)
    assert 0.4 < np.mean(agreements) < 0.6  # in the attributes that are not marked, they agree by chance
    assert (partners[0] == partners[1]) == (split == "test")  # unshuffled loaders see the same every time


def test_a_pictures_repetitions_are_not_its_partners():
    """The test faces hold 2,235 repetitions: a pair of a picture and itself would share everything."""
    values = torch.tensor([[0], [1], [0], [1], [0]])
    attributes = Attributes({"a": ("no", "yes")}, values, torch.tensor([0, 2, 0, 0, 4, 1, 3, 0]), "here")
    picture = torch.tensor([0, 2, 0, 0, 4, 1, 3, 0])
    for seed in range(50):
        others, _ = attributes.partners(torch.arange(8), Draws(Visit(range(8), seed)))
        assert (picture[others] != picture).all() and torch.equal(values[picture[others]], values[picture])


def test_splits_are_the_partitions(root):
    parts = dict(line.split() for line in (root / "celeba" / "list_eval_partition.txt").read_text().splitlines())
    train, test = CelebA("train", root=root), CelebA("test", root=root)
    assert train._image.names == [name for name, part in parts.items() if part == "0"]
    assert test._image.names == [name for name, part in parts.items() if part == "2"]


def test_the_test_faces_are_the_papers(tmp_path):
    """10,000 of the test partition, as numpy's RandomState(1) draws them, with its repetitions."""
    fabricate.celeba(tmp_path, n=5)
    folder = tmp_path / "celeba"
    names = [f"{number:06d}.jpg" for number in range(1, 10_055)]
    for name in names[5:]:
        os.link(folder / "img_align_celeba" / names[0], folder / "img_align_celeba" / name)
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {2 * (i >= 4)}\n" for i, name in enumerate(names)))
    drawn = np.random.RandomState(1).choice(10_050, 10_000)
    data = CelebA("test", root=tmp_path)
    assert data._image.names == [names[4 + i] for i in drawn] and len(set(data._image.names)) < 7000
    assert len(CelebA("train", root=tmp_path)) == 4


def test_faces_are_cut_and_resized_as_published(root):
    """The middle 160x160 pixels, then at each new pixel's middle the four nearest old ones, by hand."""
    name = "000007.jpg"
    picture = np.asarray(Image.open(root / "celeba" / "img_align_celeba" / name)).astype(float)[29:189, 9:169]
    where = (np.arange(64) + 0.5) * 2.5 - 0.5
    low, part = where.astype(int), where % 1

    def blend(array: np.ndarray) -> np.ndarray:
        weight = part[:, None, None]
        return array[low] * (1 - weight) + array[low + 1] * weight

    expected = blend(blend(picture).transpose(1, 0, 2)).transpose(2, 1, 0)  # [3, 64, 64]
    data = CelebA("train", root=root, dequantise=False)
    found = (data[[data._image.names.index(name)]].image[0].double().numpy() + 1) * 127.5
    assert np.abs(found - expected).max() < 0.51
    averaged = (CelebA("train", root=root, dequantise=False, antialias=True)[[6]].image[0].numpy() + 1) * 127.5
    assert np.abs(averaged - expected).max() > 1 and np.abs(averaged - expected).mean() < 12


def test_an_attribute_can_be_the_label(root):
    data = CelebA("train", root=root, label="Young")
    batch = data[range(100)]
    assert torch.equal(shown(batch.image)[:, fabricate.ATTRIBUTES.index("Young")], batch.label == 1)
    assert not CelebA("train", root=root)[range(100)].label.any()


def test_faces_from_the_zip_file_are_the_same(root, tmp_path):
    fabricate.celeba(tmp_path, archive=True)
    zipped, extracted = FactorCelebA("test", root=tmp_path), FactorCelebA("test", root=root)
    assert alike(zipped[range(30)], extracted[range(30)])
    loaders = [Loader(zipped, 25, seed=1, shuffle=True, workers=workers) for workers in (0, 2)]
    batches = list(zip(*(loader.epoch(2) for loader in loaders), strict=True))
    assert len(batches) == 4 and all(alike(a, b) for a, b in batches)  # processes share no place in the file
    assert alike(pickle.loads(pickle.dumps(zipped))[range(5)], zipped[range(5)])


def test_threads_change_nothing(root):
    data = FactorCelebA("test", root=root)
    alone = data[range(40)]
    torch.set_num_threads(2)
    assert alike(alone, data[range(40)])


@pytest.mark.parametrize("layout", ["celeba", "CelebA", "", "publishers", "nested"])
def test_layouts_of_celeba(root, tmp_path, layout):
    place = tmp_path / (layout if layout in ("celeba", "CelebA") else "")
    shutil.copytree(root / "celeba", place, dirs_exist_ok=True)
    if layout == "publishers":
        for folder, name in (
            ("Img", "img_align_celeba"),
            ("Anno", "list_attr_celeba.txt"),
            ("Eval", "list_eval_partition.txt"),
        ):
            (tmp_path / folder).mkdir()
            (tmp_path / name).rename(tmp_path / folder / name)
    if layout == "nested":
        (tmp_path / "img_align_celeba").rename(tmp_path / "inner")
        (tmp_path / "img_align_celeba").mkdir()
        (tmp_path / "inner").rename(tmp_path / "img_align_celeba" / "img_align_celeba")
    assert alike(FactorCelebA("test", root=tmp_path)[[1, 2]], FactorCelebA("test", root=root)[[1, 2]])


def test_missing_faces_say_which_files_go_where(root, tmp_path, monkeypatch):
    texts = ("list_eval_partition.txt", "list_attr_celeba.txt")
    message = refused(
        lambda: FactorCelebA(root=tmp_path), sources.Missing, "img_align_celeba.zip", *texts, str(tmp_path / "celeba")
    )
    assert "mmlab" in message and "by hand" in message
    monkeypatch.setenv("IIN_DATA", str(tmp_path / "shared"))
    refused(CelebA, sources.Missing, str(tmp_path / "shared" / "celeba"), texts[0])
    shutil.copytree(root / "celeba", tmp_path / "shared" / "celeba")
    assert len(CelebA("train")) == 300
    (tmp_path / "shared" / "celeba" / texts[1]).unlink()
    assert len(CelebA("train")) == 300  # which needs no attributes
    message = refused(FactorCelebA, sources.Missing, texts[1], str(tmp_path / "shared" / "celeba"))
    assert texts[0] not in message and "zip" not in message


CELEBA_DAMAGE = {
    "partition": ("list_eval_partition.txt", lambda text: text.replace("000003.jpg 0", "000003.jpg 7"), ":3: expected"),
    "attributes": ("list_attr_celeba.txt", lambda text: text[:-60], "expected a file name and 40"),
    "fewer attributes": ("list_attr_celeba.txt", lambda text: text[: text.index("000499.jpg")], "2 of 500 pictures"),
    "no attributes": ("list_attr_celeba.txt", lambda _: "500\n", "expected the number of pictures"),
    "empty": ("list_attr_celeba.txt", lambda _: "", "empty file"),
    "a picture twice": (
        "list_eval_partition.txt",
        lambda text: text + "000004.jpg 2\n",
        ":501: 000004.jpg comes a second time",
    ),
    "quota page": ("list_attr_celeba.txt", lambda _: "<!DOCTYPE html><html>quota", "a web page"),
    "no test": (
        "list_eval_partition.txt",
        lambda text: text.replace(".jpg 2", ".jpg 1"),
        "no picture is of split test",
    ),
}


@pytest.mark.parametrize("case", CELEBA_DAMAGE)
def test_damaged_lists_are_named(root, tmp_path, case):
    name, damage, message = CELEBA_DAMAGE[case]
    shutil.copytree(root / "celeba", tmp_path / "celeba", copy_function=os.link)
    path = tmp_path / "celeba" / name
    text = damage(path.read_text())
    path.unlink()
    path.write_text(text)
    refused(lambda: FactorCelebA("test", root=tmp_path), ValueError, str(path), message)


@pytest.mark.parametrize("form", ["mark", "CRLF", "kaggle"])
def test_lists_as_programs_write_them(root, tmp_path, form):
    shutil.copytree(root / "celeba", tmp_path / "celeba", copy_function=os.link)
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        path = tmp_path / "celeba" / name
        text = path.read_text()
        path.unlink()
        if form == "kaggle":
            header = text.splitlines()[1].split() if "attr" in name else ["partition"]
            rows = [line.split() for line in text.splitlines()[2 if "attr" in name else 0 :]]
            with path.with_suffix(".csv").open("w", newline="") as file:
                csv.writer(file).writerows([["image_id", *header], *rows])
        else:
            path.write_bytes(b"\xef\xbb\xbf" + text.encode() if form == "mark" else text.replace("\n", "\r\n").encode())
    ours, plain = (FactorCelebA("test", root=place) for place in (tmp_path, root))
    assert alike(ours[range(9)], plain[range(9)]) and ours.values == dict.fromkeys(FACTORS, ("no", "yes"))


def test_wrong_faces_are_named(root, tmp_path):
    shutil.copytree(root / "celeba", tmp_path / "celeba", copy_function=os.link)
    folder = tmp_path / "celeba" / "img_align_celeba"
    path = folder / "000002.jpg"
    content = path.read_bytes()
    for change, message in (
        (lambda: path.write_bytes(content[:900]), "truncated"),
        (lambda: path.write_bytes(b""), "empty file"),
        (lambda: Image.new("RGB", (178, 120)).save(path), "178x120 pixels are smaller than the crop of 160"),
    ):
        path.unlink()
        change()
        data = CelebA("train", root=tmp_path)
        refused(lambda data=data: data[[0, 1]], ValueError, str(path), message)
        assert len(data[[0, 2]].image) == 2
    path.unlink()
    refused(lambda: CelebA("train", root=tmp_path), sources.Missing, "1 of 300 pictures", "000002.jpg")
    assert len(CelebA("test", root=tmp_path)) == 100
    shutil.rmtree(folder)
    with zipfile.ZipFile(tmp_path / "celeba" / "img_align_celeba.zip", "w") as file:
        file.writestr("img_align_celeba/other.jpg", b"")
    refused(lambda: CelebA("train", root=tmp_path), ValueError, "img_align_celeba.zip", "none of the pictures")
    (tmp_path / "celeba" / "img_align_celeba.zip").write_bytes(b"PK\x03\x04 and then the line went dead")
    refused(lambda: CelebA("train", root=tmp_path), ValueError, "img_align_celeba.zip", "cut off")
    (tmp_path / "celeba" / "img_align_celeba.zip").write_bytes(b"<!DOCTYPE html><html>Too many users have viewed ...")
    refused(lambda: CelebA("train", root=tmp_path), ValueError, "img_align_celeba.zip", "a web page", "quota")


def test_unknown_attributes_are_answered_with_the_nearest(root):
    refused(
        lambda: FactorCelebA(attributes=["Male", "smilng"], root=root), ValueError, "'smilng'", "did you mean Smiling?"
    )
    refused(lambda: CelebA(label="Beard", root=root), ValueError, "No_Beard")
    for wrong in ([], ["Male", "Male"], "Male"):
        refused(
            lambda wrong=wrong: FactorCelebA(attributes=wrong, root=root), ValueError, "expected a list of one or more"
        )


def test_an_attribute_with_one_value_is_refused(root, tmp_path):
    shutil.copytree(root / "celeba", tmp_path / "celeba", copy_function=os.link)
    path = tmp_path / "celeba" / "list_attr_celeba.txt"
    first, names, *rows = path.read_text().splitlines()
    column = fabricate.ATTRIBUTES.index("Bald") + 1
    rows = [row.split() for row in rows]
    rows = [" ".join([*row[:column], "-1", *row[column + 1 :]]) for row in rows]
    path.unlink()
    path.write_text("\n".join([first, names, *rows]))
    refused(lambda: FactorCelebA(attributes=["Male", "Bald"], root=tmp_path), ValueError, "all 500", "'Bald'")


# --- folders ----------------------------------------------------------------------------------------------------------


def png(pixels: np.ndarray, **options: object) -> bytes:
    return saved(Image.fromarray(pixels), "PNG", **options)


GREY = np.array([[10, 60], [120, 250]], np.uint8).repeat(8, 0).repeat(8, 1)  # four squares of 8x8
COLOR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], 2)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_kind_of_picture_becomes_bytes_of_rgb():
    grey, color = np.stack([GREY] * 3), COLOR.transpose(2, 0, 1)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90 degrees
    exact = {
        "grey": (png(GREY), grey),
        "color": (png(COLOR), color),
        "palette": (saved(Image.fromarray(COLOR).quantize(8), "PNG"), color),
        "16 bits": (saved(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"), grey),
        "16 bits tiff": (saved(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), grey),
        "32 bits of 16": (saved(Image.fromarray(GREY.astype(np.int32) * 257), "TIFF"), grey),
        "one bit": (saved(Image.fromarray(GREY > 100), "PNG"), (grey > 100) * 255),
        "opaque": (png(np.dstack([COLOR, np.full_like(GREY, 255)])), color),
        "clear": (png(np.dstack([COLOR, np.zeros_like(GREY)])), np.full_like(color, 255)),
        "half clear": (png(np.dstack([COLOR, np.full_like(GREY, 128)])), np.round(color * (128 / 255) + 127)),
        "grey, clear": (
            saved(Image.fromarray(np.dstack([GREY, np.zeros_like(GREY)]), "LA"), "PNG"),
            np.full_like(grey, 255),
        ),
        "a clear colour": (png(GREY, transparency=10), np.where(grey == 10, 255, grey)),
        "turned": (png(np.rot90(COLOR).copy(), exif=turned), color),
        "bmp": (saved(Image.fromarray(COLOR), "BMP"), color),
        "webp": (saved(Image.fromarray(COLOR), "WEBP", lossless=True), color),
        "cmyk tiff": (saved(Image.fromarray(COLOR).convert("CMYK"), "TIFF"), color),
        "animation": (
            saved(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.new("L", (16, 16))]),
            grey,
        ),
    }
    for name, (content, expected) in exact.items():
        found = decode(content, 16)
        assert found.dtype == np.uint8 and found.shape == (3, 16, 16) and found.flags.c_contiguous, name
        assert np.abs(found.astype(int) - expected).max() <= 1, name
    for mode in ("RGB", "L", "CMYK"):
        lossy = decode(saved(Image.fromarray(GREY).convert(mode), "JPEG", quality=95), 16)
        assert np.abs(lossy.astype(int) - grey).mean() < 4, mode
    luma = COLOR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(png(COLOR), 16, channels=1)[0] - luma).max() <= 1
    assert np.array_equal(decode(png(GREY), 16, channels=1)[0], GREY)


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_what_is_no_picture_is_told_apart():
    for content, reason in (
        (b"", "empty file"),
        (b"hello", "not a picture of a known format"),
        (b" <!DOCTYPE HTML><title>404", "a web page"),
        (png(COLOR)[:-30], "truncated"),
        (png_of(40_000, 40_000), "more than 178,956,970 pixels"),
        (saved(Image.fromarray(COLOR), "JPEG")[:-150], "truncated"),
        (saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating point"),
        (saved(Image.fromarray(GREY.astype(np.int32) * 70_000), "TIFF"), "expected 16 bits"),
    ):
        with pytest.raises(ValueError, match=f"(?i){reason}"):
            decode(content, 16)


def test_crops_come_from_the_middle():
    picture = np.zeros((30, 50), np.uint8)
    picture[10:20, 20:30] = 200
    assert (decode(png(picture), 10, crop=10) == 200).all()
    assert (decode(png(picture), 5, crop=10, antialias=False) == 200).all()
    assert decode(png(picture), 30).mean() == pytest.approx(200 * 100 / 900)  # the largest square: 30 by 30
    assert (decode(png(GREY), 64, crop=16, channels=1)[0][:8, :8] == 10).all()  # enlarged after it was cut
    with pytest.raises(ValueError, match="50x30 pixels are smaller than the crop of 31"):
        decode(png(picture), 8, crop=31)


def test_folders_are_read_recursively_and_sorted(tmp_path):
    for name in ("b/2.png", "b/1.PNG", "a/deep/down/x.jpeg", "a/y.png", "top.png", ".hidden/z.png", "b/._1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        kind = "JPEG" if name.endswith("jpeg") else "PNG"
        (tmp_path / name).write_bytes(saved(Image.fromarray(COLOR), kind))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "b" / "round").symlink_to(tmp_path)  # in circles
    data = ImageFolder(tmp_path, size=16, split="all")
    assert data._image.names == ["a/deep/down/x.jpeg", "a/y.png", "b/1.PNG", "b/2.png", "top.png"]
    assert data.classes == (".", "a", "b") and data[range(5)].label.tolist() == [1, 1, 2, 2, 0]
    assert data.skipped == {} and data.source == str(tmp_path)


def test_files_that_cannot_be_opened_are_named(tmp_path):
    (tmp_path / "good.png").write_bytes(png(COLOR))
    (tmp_path / "good.link.png").symlink_to("good.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "self").symlink_to("self")  # no picture, whatever it is
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes into it: to open it would be to wait for ever
    for name in (".DS_Store", "Thumbs.db", "._good.png", "desktop.ini"):
        (tmp_path / name).write_bytes(b"\0\0\0\1")
    reasons = {
        "gone.png": "a link that leads nowhere",
        "self.png": "a link that leads nowhere",
        "pipe.png": "not a file",
    }
    refused(lambda: ImageFolder(tmp_path), ValueError, "3 of 5 pictures", *(f"{k} ({v})" for k, v in reasons.items()))
    data = ImageFolder(tmp_path, split="all", on_error="skip")
    assert data.skipped == reasons and data._image.names == ["good.link.png", "good.png"]
    (tmp_path / "good.png").unlink()
    (tmp_path / "good.link.png").unlink()
    refused(lambda: ImageFolder(tmp_path), ValueError, "no pictures", "cannot be opened", "pipe.png (not a file)")
    refused(lambda: ImageFolder(tmp_path / "gone.png"), FileNotFoundError, "no such folder")
    (tmp_path / "text.txt").write_text("")
    refused(lambda: ImageFolder(tmp_path / "text.txt"), FileNotFoundError, "a file, not a folder")


@pytest.fixture
def nobody():
    """A folder that everybody may enter, and the rights of a user who owns nothing, where one may take them."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    root = os.geteuid() == 0
    yield place, (lambda: os.seteuid(65534)) if root else (lambda: None)
    if root:
        os.seteuid(0)
    for path in place.rglob("*"):
        path.chmod(0o700)
    shutil.rmtree(place)


def test_files_and_folders_that_may_not_be_read_are_named(nobody, monkeypatch):
    place, become = nobody
    (place / ".cache").mkdir()
    (place / ".cache").chmod(0o777)
    monkeypatch.setenv("IIN_CACHE", str(place / ".cache"))
    for name in ("open/a.png", "open/b.png", "closed/c.png"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(png(COLOR))
    (place / "open" / "b.png").chmod(0)
    (place / "closed").chmod(0)
    become()
    words = ("closed/ (Permission denied)", "open/b.png (Permission denied)")
    refused(lambda: ImageFolder(place), ValueError, "2 of 3 pictures cannot be used", *words)
    assert ImageFolder(place, split="all", on_error="skip")._image.names == ["open/a.png"]
    refused(lambda: ImageFolder(place / "closed"), ValueError, "no pictures", "Permission denied")
    if os.getuid() == 0:
        os.seteuid(0)
    (place / "open" / "b.png").chmod(0o644)
    become()
    # Nothing is remembered of what could not be read: the file looks the same from outside.
    assert ImageFolder(place, split="all", on_error="skip")._image.names == ["open/a.png", "open/b.png"]


def test_names_of_files_may_be_anything(tmp_path):
    (tmp_path / "a\nb\x1b[31m.png").write_bytes(b"")
    (tmp_path / "Käfer schön.JPG").write_bytes(saved(Image.fromarray(COLOR), "JPEG"))
    with open(os.fsencode(str(tmp_path)) + b"/b\xe4r.png", "wb") as file:  # of a time before UTF-8
        file.write(png(COLOR))
    message = refused(lambda: ImageFolder(tmp_path), ValueError, "1 of 3", r"a\nb\x1b[31m.png (empty file)")
    assert "\x1b" not in message
    data = ImageFolder(tmp_path, size=16, split="all", on_error="skip")
    assert len(data[[0, 1]].image) == 2 and len(data.fingerprint) == 64
    assert {len(ImageFolder(tmp_path, split=split, on_error="skip")) for split in ("train", "test")} == {1}


def test_grey_folders(root):
    data = ImageFolder(root / "mine", size=32, channels=1, split="all")
    assert data[[0, 1]].image.shape == (2, 1, 32, 32) and data.classes == ("disc", "square")
    assert data.fingerprint != ImageFolder(root / "mine", size=32, split="all").fingerprint


def test_splits_hang_on_paths_alone():
    names = [f"a/{i}.png" for i in range(5000)]
    test = {names[row] for row in split_names(names, "test", 0.2, "")}
    train = {names[row] for row in split_names(names, "train", 0.2, "")}
    assert not test & train and len(test | train) == 5000 and abs(len(test) / 5000 - 0.2) < 0.02
    fewer = names[::7]
    assert {fewer[row] for row in split_names(fewer, "test", 0.2, "")} == test & set(fewer)
    assert test <= {names[row] for row in split_names(names, "test", 0.3, "")}  # a larger share adds to it
    for count in range(2, 12):  # one on either side at least
        assert 0 < len(split_names(names[:count], "test", 0.01, "")) < count
        assert 0 < len(split_names(names[:count], "train", 0.01, "")) < count
    assert len(split_names(names, "all", 0.2, "")) == 5000
    refused(lambda: split_names(["a"], "train", 0.1, "here"), ValueError, "here", "split: all")
    refused(lambda: split_names(names, "train", 1.0, "here"), ValueError, "test_share")


def test_pictures_that_cannot_be_used_are_named_counted_and_refused_or_skipped(root, tmp_path, caplog):
    shutil.copytree(root / "mine", tmp_path / "mine")
    bad = {"disc/cut.jpg": "truncated", "square/none.png": "empty file", "square/words.png": "not a picture"}
    whole = (root / "mine" / "disc" / "003.jpg").read_bytes()
    for name, content in zip(bad, (whole[:-40], b"", b"words"), strict=True):
        (tmp_path / "mine" / name).write_bytes(content)
    make = functools.partial(ImageFolder, tmp_path / "mine", split="all")
    for _ in range(2):  # what is known by now is said again
        message = refused(make, ValueError, "3 of 123 pictures cannot be used", "on_error: skip", *bad)
        assert all(reason in message for reason in bad.values())
    data = make(on_error="skip")
    assert len(data) == 120 and data.skipped.keys() == bad.keys() and len(data[range(120)].image) == 120
    assert "3 of 123" in caplog.text and "left out" in caplog.text
    assert data.fingerprint == ImageFolder(tmp_path / "mine", split="all", on_error="skip").fingerprint
    (tmp_path / "mine" / "square" / "none.png").write_bytes(png(COLOR))  # mended: looked at again
    assert len(make(on_error="skip")) == 121


def test_pictures_smaller_than_the_crop(root, tmp_path):
    shutil.copytree(root / "mine", tmp_path / "mine")
    (tmp_path / "mine" / "tiny.png").write_bytes(png(COLOR))
    refused(
        lambda: ImageFolder(tmp_path / "mine", crop=64), ValueError, "tiny.png (16x16 pixels are smaller than the crop"
    )
    assert len(ImageFolder(tmp_path / "mine", crop=64, on_error="skip", split="all")) == 120
    assert len(ImageFolder(tmp_path / "mine", split="all")) == 121  # without a crop, it is enlarged
    refused(lambda: ImageFolder(tmp_path / "mine", crop=500, on_error="skip"), ValueError, "nothing is left")


def test_a_picture_that_goes_bad_later_is_named(root, tmp_path):
    shutil.copytree(root / "mine", tmp_path / "mine")
    data, kept = (ImageFolder(tmp_path / "mine", split="all", cache=cache) for cache in (False, True))
    kept.make_ready()
    path = tmp_path / "mine" / data._image.names[5]
    path.unlink()
    refused(lambda: data[[4, 5]], ValueError, str(path), "No such file")
    assert len(kept[[4, 5]].image) == 2


def test_what_is_decoded_once_is_not_decoded_again(root, monkeypatch):
    ImageFolder(root / "mine", split="train")
    monkeypatch.setattr("iin.data.decoding.decode", lambda *args, **kwargs: pytest.fail("decoded again"))
    ImageFolder(root / "mine", split="test")


def test_a_cache_that_cannot_be_written_does_no_harm(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "file"))
    assert len(ImageFolder(root / "mine", split="all")) == 120


def test_folders_that_make_no_sense(root, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(lambda: ImageFolder(tmp_path / "none"), FileNotFoundError, str(tmp_path / "none"), "no such folder")
    refused(lambda: ImageFolder(tmp_path / "empty"), ValueError, str(tmp_path / "empty"), "no pictures", ".png")
    refused(lambda: ImageFolder(root / "mine", channels=4), ValueError, "channels: expected 1 (grey) or 3")
    refused(lambda: ImageFolder(root / "mine", on_error="ignore"), ValueError, "on_error", "'ignore'")
    refused(lambda: ImageFolder(root / "mine", crop=0), ValueError, "crop: expected at least 1")


# --- folders with tables ----------------------------------------------------------------------------------------------


def rewrite(folder: Path, change: Callable[[list[list[str]]], list[list[str]]], delimiter: str = ",") -> Path:
    """Change the rows of a folder's table, header included."""
    path = folder / "table.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(change(rows))
    return path


@pytest.fixture
def mine(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root / "mine", tmp_path / "mine")
    return tmp_path / "mine"


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_pair_shares_what_the_table_says(mine, split):
    """By what the pictures show: a corner of the middle tells squares from discs, the middle its brightness."""
    data = AttributePairs(mine, "table.csv", split=split, test_share=0.4, bins=4, dequantise=False)
    assert data.factors == ("shape", "shade", "brightness", "residual")
    assert data.values["shape"] == ("disc", "square") and data.values["shade"] == ("dark", "light")
    edges = [float(words.split(" to ")[0]) for words in data.values["brightness"]]
    assert len(edges) == 4

    def measure(image: Tensor) -> Tensor:
        level = (image.mean(1) + 1) * 127.5  # [B, 64, 64]
        brightness = level[:, 31, 31]
        square = level[:, 14, 14] > 40  # inside the square, outside the disc
        quantile = torch.bucketize(brightness + 2, torch.tensor(edges)) - 1  # the levels are four apart
        return torch.stack([square, brightness > 151, quantile], 1).long()

    count = Counter()
    for seed in range(3):
        batch = data[Visit(range(len(data)), seed)]
        image, other = measure(batch.image), measure(batch.other)
        assert (image == other)[batch.shared[:, :3]].all()
        assert torch.equal(image[:, :2], data.attributes.combinations[batch.label][:, :2])
        known, theirs = data.attributes.combinations[batch.label], data.attributes.combinations[batch.other_label]
        assert (known == theirs)[batch.shared[:, :3]].all()
        count.update(batch.shared.long().argmax(1).tolist())
    assert len(count) == 3 and min(count.values()) > 0.2 * sum(count.values())


def test_columns_are_words_few_numbers_or_binned_numbers(mine):
    rewrite(
        mine,
        lambda rows: [
            [row[0], *extra]
            for row, extra in zip(
                rows,
                [("kind", "few", "many", "padded")]
                + [("ab"[i % 2], str(i % 3), str(i * 0.5), f"{i % 4:03d}.0") for i in range(120)],
                strict=True,
            )
        ],
    )
    data = AttributePairs(mine, "table.csv", split="all", bins=5)
    assert data.factors == ("kind", "few", "many", "padded", "residual")
    assert data.values["few"] == ("0", "1", "2") and data.values["padded"] == ("0", "1", "2", "3")
    assert data.values["many"] == ("0 to 11.5", "12 to 23.5", "24 to 35.5", "36 to 47.5", "48 to 59.5")
    assert [column.unique().numel() for column in data.attributes.values.unbind(1)] == [2, 3, 5, 4]
    some = AttributePairs(mine, "table.csv", ["many", "kind"], split="all", bins=5)
    assert some.factors == ("many", "kind", "residual") and some.fingerprint != data.fingerprint
    train, test = (
        AttributePairs(mine, "table.csv", split=split, bins=5, test_share=0.4) for split in ("train", "test")
    )
    assert train.values == test.values == data.values  # one meaning in both splits
    assert torch.equal(train.attributes.combinations, test.attributes.combinations)


def test_bins_hold_equally_many_as_far_as_ties_allow():
    rng = np.random.RandomState(0)
    assert np.bincount(quantile_bins(rng.randn(1000), 8)).tolist() == [125] * 8
    numbers = np.array([0.0] * 95 + [1, 2, 3, 4, 5])
    bins = quantile_bins(numbers, 10)
    assert len(set(bins[:95])) == 1 and bins[0] not in bins[95:]
    for numbers in (
        np.arange(3.0),
        np.array([1.0] * 99 + [2]),
        np.array([1.0] + [2] * 99),
        rng.randint(0, 5, 50).astype(float),
    ):
        bins = quantile_bins(numbers, 2)
        order = numbers.argsort()
        assert (np.diff(bins[order]) >= 0).all() and len(set(bins)) == 2 and set(bins) <= {0, 1}
        assert len(set(zip(numbers, bins, strict=True))) == len(set(numbers))  # equal numbers, equal bins


Rows = list[list[str]]


def joined(rows: Rows, delimiter: str = ",", end: str = "\n") -> str:
    return "".join(delimiter.join(row) + end for row in rows)


def renamed(change: Callable[[str], str]) -> Callable[[Rows], str]:
    """Pictures called otherwise."""
    return lambda rows: joined([rows[0], *([change(row[0]), *row[1:]] for row in rows[1:])])


def celebas(rows: Rows) -> str:
    """Words as CelebA's list has them: the number of rows, the names, and no comma anywhere."""
    return "\n".join([str(len(rows) - 1), " ".join(rows[0][1:]) + " ", *(" ".join(row) for row in rows[1:]), ""])


VARIANTS: dict[str, Callable[[Rows], str | bytes]] = {
    "semicolons": lambda rows: joined(rows, ";"),
    "tabs": lambda rows: joined(rows, "\t"),
    "spaces": lambda rows: joined(rows, " "),
    "columns set with spaces": lambda rows: joined([[cell.ljust(18) for cell in row] for row in rows], " "),
    "spaces around cells": lambda rows: joined([[f" {cell} " for cell in row] for row in rows]),
    "CRLF": lambda rows: joined(rows, end="\r\n"),
    "CR": lambda rows: joined(rows, end="\r"),
    "a mark in front": lambda rows: b"\xef\xbb\xbf" + joined(rows).encode(),
    "UTF-16": lambda rows: joined(rows, "\t").encode("utf-16"),
    "a hint for Excel": lambda rows: "sep=;\n" + joined(rows, ";"),
    "empty lines": lambda rows: "\n" + joined(rows, end="\n\n"),
    "quotes": lambda rows: joined([[f'"{cell}"' for cell in row] for row in rows]),
    "a delimiter at the end": lambda rows: joined([[*row, ""] for row in rows]),
    "one at the end of rows": lambda rows: joined([rows[0], *([*row, "", ""] for row in rows[1:])]),
    "an index without a name": lambda rows: joined([[str(i - 1) if i else "", *row] for i, row in enumerate(rows)]),
    "an index of pandas": lambda rows: joined([[str(i) if i else "Unnamed: 0", *row] for i, row in enumerate(rows)]),
    "a running number": lambda rows: joined([[str(i) if i else "id", *row] for i, row in enumerate(rows)]),
    "names in the last column": lambda rows: joined([[*row[1:], row[0]] for row in rows]),
    "names without a header": lambda rows: joined([["", *rows[0][1:]], *rows[1:]]),
    "CelebA": celebas,
    "no ending": renamed(lambda name: name.rpartition(".")[0]),
    "no folder": renamed(lambda name: name.rpartition("/")[2]),
    "neither": renamed(lambda name: name.rpartition("/")[2].rpartition(".")[0]),
    "the folder's own name": renamed(lambda name: f"mine/{name}"),
    "from another machine": renamed(lambda name: "C:\\Users\\me\\mine\\" + name.replace("/", "\\")),
    "backslashes": renamed(lambda name: ".\\" + name.replace("/", "\\")),
    "upper case": renamed(str.upper),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_tables_as_programs_write_them(mine, variant):
    plain = AttributePairs(mine, "table.csv", split="all")
    with (mine / "table.csv").open(newline="") as file:
        content = VARIANTS[variant](list(csv.reader(file)))
    (mine / "table.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    data = AttributePairs(mine, "table.csv", split="all")
    assert data.factors == plain.factors and data.values == plain.values and data.skipped == {}
    assert data.fingerprint == plain.fingerprint and alike(data[range(10)], plain[range(10)])


def test_tables_of_windows_are_read_and_it_is_said(mine, caplog):
    rows = rewrite(mine, lambda rows: [["file", "Größe"], *([row[0], f"»{row[1]}«, 5 €"] for row in rows[1:])])
    rows.write_bytes(rows.read_text().encode("cp1252"))
    for _ in range(2):
        data = AttributePairs(mine, "table.csv", split="all")
    assert data.factors == ("Größe", "residual") and data.values["Größe"] == ("»disc«, 5 €", "»square«, 5 €")
    assert caplog.text.count("Windows-1252") == 1  # both splits have the same table


def test_quoted_cells_may_hold_anything(mine):
    words = {"disc": 'a "disc", round;\nor so', "square": "square\u2028\tor not"}
    path = rewrite(mine, lambda rows: [["file", "what, exactly"], *([row[0], words[row[1]]] for row in rows[1:])])
    assert "\n" in path.read_text().replace("\n\n", "")
    data = AttributePairs(mine, "table.csv", split="all")
    assert data.factors == ("what, exactly", "residual") and set(data.values["what, exactly"]) == set(words.values())


def with_column(folder: Path, cells: Callable[[int], str], delimiter: str = ",") -> None:
    """A table of the shape, and of one other column."""
    rewrite(
        folder,
        lambda rows: [["file", "shape", "other"], *([*row[:2], cells(i)] for i, row in enumerate(rows[1:]))],
        delimiter,
    )


@pytest.mark.parametrize("word", ["", "NaN", "nan", "NA", "N/A", "#N/A", "null", "<NA>"])
def test_cells_that_are_missing_are_no_values(mine, word):
    with_column(mine, lambda i: word if i % 40 == 0 else "ab"[i % 2])
    refused(lambda: AttributePairs(mine, "table.csv"), ValueError, "3 of 120 rows", "square/000.png (no other)")
    data = AttributePairs(mine, "table.csv", split="all", on_error="skip")
    assert data.values["other"] == ("a", "b") and len(data) == 117
    assert data.skipped == dict.fromkeys(("square/000.png", "square/040.png", "square/080.png"), "no other")


@pytest.mark.parametrize("word", ["?", "-", "none", "unknown", "inf", "12a", "1_2"])
def test_words_in_a_column_of_numbers_are_no_values(mine, word):
    """As categories, each number would be one."""
    with_column(mine, lambda i: word if i % 40 == 0 else str(i / 2))
    refused(lambda: AttributePairs(mine, "table.csv"), ValueError, "3 of 120", f"(other: {word!r} is no number)")
    data = AttributePairs(mine, "table.csv", split="all", on_error="skip", bins=2)
    assert data.values["other"] == ("0.5 to 29.5", "30 to 59.5") and len(data) == 117
    with_column(mine, lambda i: word if i % 40 == 0 else str(i % 3))  # few numbers are categories, and so may words be
    assert AttributePairs(mine, "table.csv", split="all").values["other"] == tuple(sorted(("0", "1", "2", word)))


def test_decimal_commas_are_numbers_where_commas_do_not_separate(mine):
    with_column(mine, lambda i: f"{i % 7},5")
    assert AttributePairs(mine, "table.csv", split="all", bins=2).values["other"][:2] == ("0,5", "1,5")
    with_column(mine, lambda i: f"{i},5" if i else "-,25", ";")
    data = AttributePairs(mine, "table.csv", split="all", bins=2)
    assert data.values["other"] == ("-0.25 to 59.5", "60.5 to 119.5")


def test_values_that_differ_in_case_only_are_pointed_out(mine, caplog):
    with_column(mine, lambda i: ("True", "TRUE", "False")[i % 3])
    assert len(AttributePairs(mine, "table.csv", split="all").values["other"]) == 3
    assert "'other': 'TRUE', 'True' are different values" in caplog.text


def test_columns_that_hardly_any_pictures_share_are_pointed_out(mine, caplog):
    with_column(mine, lambda i: f"remark {max(i, 3)}")
    AttributePairs(mine, "table.csv", split="all")
    assert "'other': 116 of 120 pictures of this split share it with no other" in caplog.text


def test_a_number_that_only_counts_the_rows_is_no_attribute_unless_it_is_asked_for(mine, caplog):
    with_column(mine, lambda i: str(i + 1))
    assert AttributePairs(mine, "table.csv", split="all").factors == ("shape", "residual")
    assert "'other' numbers the rows" in caplog.text
    assert AttributePairs(mine, "table.csv", ["other"], split="all").factors == ("other", "residual")
    with_column(mine, lambda i: str(i + 2))
    assert AttributePairs(mine, "table.csv", split="all").factors == ("shape", "other", "residual")


def test_numbers_are_not_taken_for_names_of_pictures(mine):
    """Pictures are called 000 to 119, and a column holds just such numbers; the names are of another folder."""
    with_column(mine, lambda i: f"{119 - i:03d}")
    assert AttributePairs(mine, "table.csv", split="all").factors == ("shape", "other", "residual")
    renamed_rows = rewrite(mine, lambda rows: [rows[0], *([f"x/{row[0]}", *row[1:]] for row in rows[1:])])
    refused(lambda: AttributePairs(mine, "table.csv"), ValueError, "none of its 120 rows", "x/square/000.png")
    text = joined([["first", "second", "shape"], *([f"{i:03d}", f"{119 - i:03d}", "ab"[i % 2]] for i in range(120))])
    renamed_rows.write_text(text)
    refused(lambda: AttributePairs(mine, "table.csv"), ValueError, "'first' and 'second' may all name the pictures")


def test_a_name_that_fits_several_pictures_is_not_guessed(mine):
    (mine / "disc" / "000.png").write_bytes(png(COLOR))
    rewrite(mine, lambda rows: [rows[0], *([row[0].rpartition("/")[2], *row[1:]] for row in rows[1:])])
    words = ("1 of 120 rows name pictures that are not in", "000.png (several fit: disc/000.png, square/000.png)")
    refused(lambda: AttributePairs(mine, "table.csv"), ValueError, *words)
    data = AttributePairs(mine, "table.csv", split="all", on_error="skip")
    assert len(data) == 119 and data.skipped["000.png"] == "several fit: disc/000.png, square/000.png"
    (mine / "000.png").write_bytes(png(COLOR))  # a whole path is one picture, whatever else ends like it
    assert "000.png" in AttributePairs(mine, "table.csv", split="all", on_error="skip")._image.names


def test_pictures_with_several_rows(mine):
    """Rows that say the same are one; of rows that do not, nobody knows which is right."""
    rewrite(mine, lambda rows: [*rows, rows[3], [rows[4][0], "square", *rows[4][2:]]])
    words = (
        "2 of 120 pictures have several rows",
        "disc/002.png (lines 4, 122)",
        "disc/003.jpg (lines 5, 123, which differ)",
    )
    refused(lambda: AttributePairs(mine, "table.csv"), ValueError, *words)
    data = AttributePairs(mine, "table.csv", split="all", on_error="skip")
    assert len(data) == 119 and data.skipped == {"disc/003.jpg": "lines 5, 123, which differ"}
    assert "disc/002.png" in data._image.names
    data = AttributePairs(mine, "table.csv", ["shade"], split="all", on_error="skip")  # they differ in another column
    assert len(data) == 120 and data.skipped == {}


def test_labels_have_meanings(mine):
    data = AttributePairs(mine, "table.csv", ["shade", "shape"], split="all")
    with (mine / "table.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    for name, label in zip(data._image.names, data[range(120)].label.tolist(), strict=True):
        assert data.meaning(label) == {"shade": rows[name]["shade"], "shape": rows[name]["shape"]}
    assert data.values == {"shade": ("dark", "light"), "shape": ("disc", "square")}


def test_tables_are_found_beside_the_pictures_or_where_one_stands(root, tmp_path, monkeypatch):
    shutil.copy(root / "mine" / "table.csv", tmp_path / "other.csv")
    monkeypatch.chdir(tmp_path)
    for table in ("other.csv", tmp_path / "other.csv", "table.csv"):
        assert AttributePairs(root / "mine", table, ["shape"], split="all").factors == ("shape", "residual")
    refused(lambda: AttributePairs(root / "mine", "none.csv"), FileNotFoundError, "none.csv", str(root / "mine"))
    refused(lambda: AttributePairs(root / "mine", "disc"), FileNotFoundError, "disc: a folder")


def test_files_and_rows_that_do_not_match_are_named_and_counted(mine, caplog):
    (mine / "disc" / "bare.png").write_bytes(png(COLOR))
    make = functools.partial(AttributePairs, mine, "table.csv", split="all", bins=2)
    refused(make, ValueError, "1 of 121 pictures", "have no row", "disc/bare.png", "on_error: skip")
    rewrite(mine, lambda rows: [*rows, ["lost/1.png", "disc", "dark", "7"], ["lost/2.png", "disc", "dark", "8"]])
    refused(make, ValueError, "2 of 122 rows name pictures that are not in", "lost/1.png, lost/2.png")
    rewrite(mine, lambda rows: [[*row[:2], "", "NaN"] if row[0] == "square/000.png" else row for row in rows])
    data = make(on_error="skip")
    assert len(data) == 119 and len(data[range(119)].image) == 119
    assert data.skipped == {
        "lost/1.png": "in the table only",
        "lost/2.png": "in the table only",
        "disc/bare.png": "in the folder only",
        "square/000.png": "no shade and no brightness",
    }
    assert all(
        words in caplog.text for words in ("2 of 122 rows", "1 of 121 pictures", "1 of 122 rows have cells that")
    )
    rewrite(mine, lambda rows: [row for row in rows if "lost" not in row[0]])
    (mine / "disc" / "bare.png").unlink()
    refused(make, ValueError, "1 of 120 rows have cells that are empty", "square/000.png (no shade and no brightness)")


def test_damaged_pictures_are_left_out_with_their_rows(mine):
    (mine / "square" / "001.jpg").write_bytes(b"damaged")
    refused(lambda: AttributePairs(mine, "table.csv"), ValueError, "1 of 120 pictures cannot be used", "square/001.jpg")
    data = AttributePairs(mine, "table.csv", on_error="skip", split="all")
    assert len(data) == 119 and list(data.skipped) == ["square/001.jpg"] and len(data[range(119)].image) == 119


TABLES: dict[str, tuple[Callable[[list[list[str]]], list[list[str]]], dict[str, object], tuple[str, ...]]] = {
    "unknown column": (
        lambda rows: rows,
        {"attributes": ["shape", "Shade", "brightnes"]},
        ("'Shade'", "did you mean shade"),
    ),
    "no column like it": (
        lambda rows: rows,
        {"attributes": ["zzz"]},
        ("'zzz'", "known: brightness, file, shade, shape"),
    ),
    "the same column twice": (lambda rows: rows, {"attributes": ["shape", "shape"]}, ("one or more different",)),
    "no columns": (lambda rows: rows, {"attributes": []}, ("one or more different",)),
    "one value": (
        lambda rows: [[*row[:2], "dark" if i else row[2], *row[3:]] for i, row in enumerate(rows)],
        {},
        ("all 120", "'shade'"),
    ),
    "a value each": (
        lambda rows: [[*row[:2], f"word {i}", *row[3:]] for i, row in enumerate(rows)],
        {},
        ("no two of 120", "'word 0'"),
    ),
    "duplicate rows": (
        lambda rows: [*rows, rows[3], rows[4]],
        {},
        ("2 of 120 pictures have several rows", "disc/002.png (lines 4, 122), disc/003.jpg (lines 5, 123)"),
    ),
    "a row too short": (
        lambda rows: [*rows[:5], rows[5][:2], *rows[6:]],
        {},
        ("table.csv:6:", "expected 4 cells", "found 2"),
    ),
    "columns of one name": (lambda rows: [["file", "a", "a", "b"], *rows[1:]], {}, ("same name: 'a'",)),
    "no header": (lambda rows: rows[1:], {}, ("its first line names a picture, square/000.png",)),
    "the names as an attribute": (lambda rows: rows, {"attributes": ["file"]}, ("'file' names the pictures",)),
    "an attribute called residual": (
        lambda rows: [["file", "shape", "residual", "brightness"], *rows[1:]],
        {},
        ("'residual'", "another name"),
    ),
    "nothing but an index": (
        lambda rows: [[*row[:1], str(i) if i else ""] for i, row in enumerate(rows)],
        {},
        ("one or more columns of attributes beside 'file'",),
    ),
    "header only": (lambda rows: rows[:1], {}, ("expected a header", "found 0 rows below 'file, shape, shade, bri")),
    "nothing": (lambda rows: [], {}, ("not a table (empty file)",)),
    "file names only": (lambda rows: [row[:1] for row in rows], {}, ("expected a header",)),
    "another folder's": (
        lambda rows: [[f"x/{row[0]}", *row[1:]] for row in rows],
        {},
        ("none of its 120 rows", "x/square/000.png", "disc/002.png"),
    ),
    "bins": (lambda rows: rows, {"bins": 1}, ("bins: expected at least 2, found 1",)),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_cannot_be_used(mine, case):
    change, arguments, words = TABLES[case]
    rewrite(mine, change)
    refused(lambda: AttributePairs(mine, "table.csv", **arguments), ValueError, *words)


def test_files_that_are_no_tables(mine):
    for content, reason in (
        (b"file,shape\n\x81\xfe,disc\n", "not a table in utf-8"),
        (b"PK\x03\x04\x14\0\x06", "save it as CSV"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"file,shape\ndisc/002.png,disc\0\n", "bytes of value 0"),
        (b"\xff\xfef", "not a table in utf-16"),
    ):
        (mine / "table.csv").write_bytes(content)
        refused(lambda: AttributePairs(mine, "table.csv"), ValueError, str(mine / "table.csv"), reason)
    (mine / "table.csv").write_text('file,shape\n"disc/002.png"x,disc\n')
    refused(lambda: AttributePairs(mine, "table.csv"), ValueError, "table.csv:2: not a table")


def test_attributes_without_partners_are_not_drawn(caplog):
    """The third image shares only its second value, the last none at all."""
    values = torch.tensor([[0, 5, 1], [0, 6, 1], [1, 5, 2], [2, 7, 3]])
    attributes = Attributes(
        {name: "01234567" for name in "abc"}, values.repeat_interleave(2, 0), torch.tensor([0, 2, 4, 6]), "here"
    )
    rows, seen = torch.arange(4), [set() for _ in range(4)]
    for seed in range(60):
        others, shared = attributes.partners(rows, Draws(Visit(range(4), seed)))
        for row, (other, which) in enumerate(zip(others.tolist(), shared.long().argmax(1).tolist(), strict=True)):
            seen[row].add((other, which))
    assert seen[0] == {(1, 0), (2, 1), (1, 2)} and seen[1] == {(0, 0), (0, 2)} and seen[2] == {(0, 1)}
    assert seen[3] == {(3, 0), (3, 1), (3, 2)}
    assert caplog.text == ""
    Attributes({name: "01234567" for name in "abc"}, values.repeat_interleave(2, 0), torch.tensor([0, 1]), "here")
    assert "'a' has one value only in the 2 pictures of this split" in caplog.text


# --- through the commands ---------------------------------------------------------------------------------------------


def change(path: str, content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change a file below a root, without touching what it is a link to."""

    def damage(root: Path) -> None:
        before = (root / path).read_bytes()
        (root / path).unlink()
        (root / path).write_bytes(content(before))

    return damage


RAW, FACES = "MNIST/raw", "celeba/img_align_celeba"
MINE = {"target": "iin.data.ImageFolder", "params": {"root": "mine"}}
TABLE = {"target": "iin.data.AttributePairs", "params": {"root": "mine", "table": "table.csv"}}
PAGE = b"<!DOCTYPE html><html><body>Quota exceeded</body></html>"

BAD: dict[str, tuple[dict[str, object], Callable[[Path], object], str]] = {
    "a truncated picture": (MINE, change("mine/disc/003.jpg", lambda c: c[:200]), "1 of 120 pictures cannot be used"),
    "an empty picture": (MINE, change("mine/disc/003.jpg", lambda c: b""), "disc/003.jpg (empty file)"),
    "a page for a picture": (MINE, change("mine/disc/003.jpg", lambda c: PAGE), "disc/003.jpg (a web page"),
    "a bomb": (MINE, change("mine/disc/002.png", lambda c: png_of(40_000, 40_000)), "more than 178,956,970 pixels"),
    "a crop too large": (
        {"target": "iin.data.ImageFolder", "params": {"root": "mine", "crop": 70}},
        lambda root: None,
        "80x64 pixels are smaller than the crop of 70",
    ),
    "no folder": (MINE, lambda root: shutil.rmtree(root / "mine"), "no such folder"),
    "no pictures": (MINE, lambda root: [shutil.rmtree(root / "mine" / k) for k in ("disc", "square")], "no pictures"),
    "a page for a table": (TABLE, change("mine/table.csv", lambda c: PAGE), "not a table (a web page"),
    "a table that lacks pictures": (
        TABLE,
        change("mine/table.csv", lambda c: c[: c.index(b"disc/118")]),
        "have no row",
    ),
    "a table of other pictures": (
        TABLE,
        change("mine/table.csv", lambda c: c.replace(b"/", b"/x/")),
        "none of its 120 rows names a picture",
    ),
    "an unknown column": (
        {"target": "iin.data.AttributePairs", "params": {**TABLE["params"], "attributes": ["shapes"]}},
        lambda root: None,
        "no column is called 'shapes'; did you mean shape",
    ),
    "one value": (TABLE, change("mine/table.csv", lambda c: c.replace(b"square,", b"disc,")), "the same 'shape'"),
    "a page for digits": ("MNIST", change(f"{RAW}/train-images-idx3-ubyte.gz", lambda c: PAGE), "a web page"),
    "truncated digits": ("MNIST", change(f"{RAW}/train-images-idx3-ubyte.gz", lambda c: c[:99]), "damaged gzip file"),
    "digits beyond nine": (
        "MNIST",
        change(f"{RAW}/train-labels-idx1-ubyte.gz", lambda c: gzip.compress(fabricate.idx(np.arange(300) % 11))),
        "labels up to 10",
    ),
    "too few labels": (
        "MNIST",
        change(f"{RAW}/train-labels-idx1-ubyte.gz", lambda c: gzip.compress(fabricate.idx(np.arange(299) % 10))),
        "299 labels, but 300 images",
    ),
    "half an archive": ("CIFAR10", change("cifar-10-python.tar.gz", lambda c: c[: len(c) // 2]), "damaged archive"),
    "a page for an archive": ("CIFAR10", change("cifar-10-python.tar.gz", lambda c: PAGE), "a web page"),
    "a page for a list": ("FactorCelebA", change("celeba/list_attr_celeba.txt", lambda c: PAGE), "a web page"),
    "a damaged first face": ("CelebA", change(f"{FACES}/000001.jpg", lambda c: c[:999]), "000001.jpg: truncated"),
    "no face with a beard": (
        "FactorCelebA",
        change(
            "celeba/list_attr_celeba.txt",
            lambda c: b"\n".join(
                line if i < 2 else b" ".join(cell if k != 25 else b"-1" for k, cell in enumerate(line.split()))
                for i, line in enumerate(c.splitlines())
            ),
        ),
        "all 500 pictures have the same 'No_Beard'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_commands_answer_bad_files_in_one_line(case, root, tmp_path, monkeypatch, capsys):
    node, damage, words = BAD[case]
    place = tmp_path / "data"
    for name in ("mine", "MNIST", "celeba"):
        shutil.copytree(root / name, place / name, copy_function=os.link)
    if node == "CIFAR10":
        fabricate.cifar(place, counts=(2, 2), archive=True)
    if isinstance(node, str):
        node = {"target": f"iin.data.{node}", "params": {"root": str(place)}}
    else:
        node = {"target": node["target"], "params": {**node["params"], "root": str(place / "mine")}}
    damage(place)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model = {"target": "iin.models.Classifier", "params": {"channels": 1, "size": 32, "classes": 10, "width": 8}}
    system = {"target": "iin.systems.Classifier", "params": {"model": model}}
    config = {"name": "bad", "data": {"train": node, "test": node}, "system": system}
    (tmp_path / "bad.yaml").write_text(json.dumps(config))
    for command in (
        [training.main, "-b", "../bad.yaml", "--dry-run"],
        [training.main, "-b", "../bad.yaml"],
        [exploring.main, "-b", "../bad.yaml", "--save", "bad.html"],
    ):
        assert command[0]([*command[1:], "--logs", "logs"]) == 2, command
        found = capsys.readouterr()
        assert found.err.startswith("error: data.train: ") and found.err.count("\n") == 1, found.err
        assert words in found.err and "Traceback" not in found.err and found.out == ""
        assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_large_pictures_are_nothing_to_warn_of(tmp_path):
    """In a process of its own: what is warned of is set up when the program starts."""
    (tmp_path / "scans").mkdir()
    for name, size in (("scan", (9000, 10_000)), ("other", (64, 64))):
        Image.new("L", size, 90).save(tmp_path / "scans" / f"{name}.png")
    node = {"target": "iin.data.ImageFolder", "params": {"root": "scans", "split": "all"}}
    (tmp_path / "scans.yaml").write_text(json.dumps({"data": {"train": node, "test": node}}))
    command = [sys.executable, "-W", "always", "-m", "iin.cli.explore", "-b", "scans.yaml", "--save", "scans.png"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0 and found.stderr == "", found.stderr
    assert "ImageFolder, train: 2 images" in found.stdout


# --- where files come from --------------------------------------------------------------------------------------------


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A web site with the files of FashionMNIST and CIFAR-10, which the data sets are told is theirs."""
    fabricate.fashion(tmp_path / "www", counts=(20, 10))
    fabricate.cifar(tmp_path / "www", counts=(2, 2), archive=True)
    pages = {path.name: path.read_bytes() for path in (tmp_path / "www").rglob("*.gz")}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            name = self.path.rsplit("/", 1)[1]
            found = name in pages and "dead" not in self.path
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(pages[name] if found else b"gone")

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in pages.items()}
    monkeypatch.setattr(fashion, "_SITES", (f"{base}/dead/", f"{base}/clothes/"))
    monkeypatch.setattr(
        fashion, "_FILES", {s: tuple((n, md5[f"{n}.gz"]) for n, _ in f) for s, f in fashion._FILES.items()}
    )
    name = "cifar-10-python.tar.gz"
    monkeypatch.setattr(cifar, "_ARCHIVE", sources.Remote(name, md5[name], (f"{base}/{name}",)))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield {"asked": asked, "pages": pages, "base": base}
    server.shutdown()
    server.server_close()


def test_what_is_nowhere_is_downloaded_once(site, tmp_path, monkeypatch):
    data = FashionMNIST("train", root=tmp_path / "new")
    raw = tmp_path / "new" / "FashionMNIST" / "raw"
    assert len(data) == 20 and data.source == str(raw)
    # From the second site, since the first has lost it; and no more than this split needs.
    assert sorted(path.name for path in raw.iterdir()) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    assert Counter(path.split("/")[1] for path in site["asked"]) == {"dead": 2, "clothes": 2}
    assert FashionMNIST("train", root=tmp_path / "new", size=28)._image.shape == (20, 1, 28, 28)
    assert len(site["asked"]) == 4
    monkeypatch.setenv("IIN_DATA", str(tmp_path / "shared"))
    assert len(CIFAR10("test")) == 2 and len(CIFAR10("train")) == 10
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["cifar-10-python.tar.gz"]
    monkeypatch.delenv("IIN_DATA")
    assert Path(CIFAR10("test").source).parent == tmp_path / "cache" / "data"
    assert len(site["asked"]) == 6


def test_half_of_the_files_are_completed(site, tmp_path):
    FashionMNIST("test", root=tmp_path / "new")
    (tmp_path / "new" / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    site["asked"].clear()
    assert len(FashionMNIST("test", root=tmp_path / "new")) == 10
    assert [path.rsplit("/")[-1] for path in site["asked"]] == ["t10k-labels-idx1-ubyte.gz"] * 2


def test_downloads_that_fail_say_which_files_go_where(site, tmp_path):
    site["pages"]["train-images-idx3-ubyte.gz"] = gzip.compress(b"something else")
    message = refused(
        lambda: FashionMNIST("train", root=tmp_path / "new"),
        sources.Missing,
        "FashionMNIST: could not be downloaded",
        "404",
        "its MD5 is",
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        str(tmp_path / "new" / "FashionMNIST" / "raw"),
        site["base"],
    )
    assert "\n" not in message
    assert list((tmp_path / "new").rglob("*.gz")) == [] and list((tmp_path / "new").rglob(".*")) == []  # no remains
    site["pages"].clear()
    refused(lambda: FashionMNIST("test", root=tmp_path / "newer"), sources.Missing, "404")
    assert not (tmp_path / "newer").exists()
    refused(
        lambda: CIFAR10(root=tmp_path / "new"), sources.Missing, "CIFAR-10", "404", "put cifar-10-python.tar.gz into"
    )


@pytest.mark.parametrize("make", [FashionMNIST, CIFAR10])
def test_downloads_can_be_forbidden(site, tmp_path, monkeypatch, make):
    place = tmp_path / "new"
    message = refused(
        lambda: make(root=place, download=False), sources.Missing, "download is false", "put ", str(place)
    )
    assert "http" in message
    with sources.offline():
        with pytest.raises(sources.Missing, match="would be downloaded") as caught:
            make(root=place)
        assert caught.value.fetchable and str(place) in str(caught.value)
        with sources.offline():
            pass
        refused(lambda: make(root=place), sources.Missing, "would be downloaded")
    monkeypatch.setenv("IIN_OFFLINE", "1")
    for block in (sources.offline(), None):
        if block:
            with block, pytest.raises(sources.Missing, match="IIN_OFFLINE forbids") as caught:
                make(root=place)
        else:
            with pytest.raises(sources.Missing, match="IIN_OFFLINE forbids") as caught:
                make(root=place)
        assert not caught.value.fetchable
    assert site["asked"] == [] and not place.exists()
    monkeypatch.setenv("IIN_OFFLINE", "0")
    with sources.offline():
        refused(lambda: make(root=place), sources.Missing, "would be downloaded")
    assert len(make(root=place)) > 0 and site["asked"]


def test_local_files_need_no_network(root, monkeypatch):
    monkeypatch.setenv("IIN_OFFLINE", "1")
    monkeypatch.setenv("IIN_DATA", str(root))
    assert [len(make("test")) for make in (FashionMNIST, CIFAR10, CelebA, FactorCelebA)] == [100] * 4


def test_published_addresses_are_complete():
    """Names, digests and addresses as torchvision has them."""
    datasets = pytest.importorskip("torchvision").datasets
    ours = {(f"{name}.gz", md5) for files in fashion._FILES.values() for name, md5 in files}
    assert ours == set(datasets.FashionMNIST.resources) and fashion._SITES[0] in datasets.FashionMNIST.mirrors
    theirs = datasets.CIFAR10
    assert (theirs.filename, theirs.tgz_md5, (theirs.url,)) == cifar._ARCHIVE
    assert {name for name, _ in theirs.train_list} == set(cifar._FILES["train"])
    assert celeba._IMAGES in {Path(name).stem for _, _, name in datasets.CelebA.file_list}
