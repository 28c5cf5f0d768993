"""Pictures of animals in the layout of the published data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fabricate
import pytest
import torch

from iin.data import AnimalFaces, ImageFolder, ImageNetAnimals, sources
from iin.data.animals import RESTRICTED

OTHER = "n02085620"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("animals")
    fabricate.synsets(root / "animalfaces", [OTHER, *RESTRICTED])
    (root / "animalfaces" / "readme").mkdir()
    train, test = (root / f"ILSVRC2012_{part}" / "data" for part in ("train", "validation"))
    fabricate.synsets(train, ["n01440764", OTHER, "n02138441", "n02165105"])
    fabricate.synsets(test, [OTHER, "n02138441"], n=2)
    return root


def test_the_restricted_classes_have_the_published_labels(root: Path) -> None:
    parts = [AnimalFaces(root / "animalfaces", split=split, subset="restricted") for split in ("train", "test")]
    assert parts[0].classes == tuple(RESTRICTED)
    assert list(RESTRICTED.values())[::9] == ["golden retriever", "meerkat"]
    assert sum(map(len, parts)) == 120 and 4 <= len(parts[1]) <= 30
    whole = AnimalFaces(root / "animalfaces", split="all", subset="restricted")
    images, labels = whole[list(range(120))]
    assert images.shape == (120, 3, 128, 128) and labels.tolist() == [k for k in range(10) for _ in range(12)]
    # As they were coloured: the place among eleven synsets, of levels 0 ... 255 in [-1, 1].
    grey = (20 + 200 * (labels + 1) // 11) / 127.5 - 1
    assert float((images.mean((1, 2, 3)) - grey).abs().max()) < 0.05


def test_the_shared_set_has_all_classes_in_both_splits_or_nearly_so(root: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("IIN_DATA", str(root))
    train, test = AnimalFaces(), AnimalFaces(split="test")
    assert train.classes == test.classes == (OTHER, *RESTRICTED)
    names, others = set(train._image.names), set(test._image.names)
    assert not names & others and len(names | others) == 132
    # A picture is on the same side in both sets.
    assert set(AnimalFaces(split="test", subset="restricted")._image.names) == {
        name for name in others if not name.startswith(OTHER)
    }


def test_of_imagenet_the_carnivores_are_taken(root: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("IIN_DATA", str(root))
    train, test = ImageNetAnimals(size=32), ImageNetAnimals(root, split="test", size=32)
    assert train.classes == test.classes == (OTHER, "n02138441")
    assert (len(train), len(test)) == (24, 4)
    assert train[[0, 23]].image.shape == (2, 3, 32, 32) and train[[0, 23]].label.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("act", "kind", "words"),
    [
        (lambda at: AnimalFaces(at / "no"), sources.Missing, "AnimalFaces: not found; put its folders .* into .*/no"),
        (lambda at: AnimalFaces(), sources.Missing, "AnimalFaces: not found; .*/data/animalfaces"),
        (lambda at: AnimalFaces(at, subset="all"), ValueError, "subset: expected shared or restricted, found 'all'"),
        (lambda at: AnimalFaces(at, split="val"), ValueError, "split: expected 'train', 'test' or 'all', found 'val'"),
        (lambda at: AnimalFaces(at, subset="restricted"), sources.Missing, "lacks n02128757 of the restricted set"),
        (lambda at: ImageNetAnimals(at), sources.Missing, "not found; .* into .*/ILSVRC2012_train/data"),
        (lambda at: ImageNetAnimals(split="all"), ValueError, "split: expected 'train' or 'test', found 'all'"),
    ],
)
def test_what_is_not_there_is_told(act: Any, kind: type[Exception], words: str, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "animalfaces", tmp_path / "faces")
    shutil.rmtree(tmp_path / "faces" / "n02128757")
    with pytest.raises(kind, match=words) as error:
        act(tmp_path / "faces")
    assert "\n" not in str(error.value)


def test_other_synsets_of_imagenet_are_no_animals(root: Path, tmp_path: Path) -> None:
    fabricate.synsets(tmp_path / "ILSVRC2012_train" / "data", ["n01440764"], n=1)
    with pytest.raises(sources.Missing, match="has none of the synsets n02085620 to n02138441"):
        ImageNetAnimals(tmp_path)


def test_a_folder_of_classes_may_be_cut_down_to_some(root: Path) -> None:
    names = ["n02138441", OTHER]
    data = ImageFolder(root / "animalfaces", size=8, split="all", classes=names)
    assert data.classes == tuple(names) and len(data) == 24
    # Whatever the order in which a folder lists them, label and picture belong together.
    assert {name.split("/")[0] for name in data._image.names[:12]} == {OTHER}
    assert torch.equal(data[list(range(24))].label, torch.tensor([1] * 12 + [0] * 12))
    with pytest.raises(FileNotFoundError, match="has no folder n00000000; classes must be folders"):
        ImageFolder(root / "animalfaces", classes=["n00000000", OTHER])
    for wrong in ([], [OTHER, OTHER], OTHER):
        with pytest.raises(ValueError, match="classes: expected a list of one or more different names"):
            ImageFolder(root / "animalfaces", classes=wrong)
