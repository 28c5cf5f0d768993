"""Pictures that are decoded once: what is read from the file is what would be decoded, and never another's."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabricate
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from runs import only, train

from iin import arrays
from iin.data import AttributePairs, CelebA, FactorCelebA, ImageFolder, Labelled, Loader, Visit, decoded, sources
from iin.interrupt import Interrupted


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of decoded pictures."""
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "cache"))
    decoded._said.clear()
    return tmp_path / "cache" / "pictures"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    fabricate.celeba(place)
    fabricate.folder(place / "mine")
    return place


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(original, tmp_path / "data"))


SETS: dict[str, Callable[..., Labelled]] = {
    "CelebA": lambda root, split="train", **kwargs: CelebA(split, root, **kwargs),
    "FactorCelebA": lambda root, split="train", **kwargs: FactorCelebA(split, root=root, **kwargs),
    "ImageFolder": lambda root, split="train", **kwargs: ImageFolder(root / "mine", split=split, **kwargs),
    "AttributePairs": lambda root, split="train", **kwargs: AttributePairs(
        root / "mine", "table.csv", split=split, **kwargs
    ),
}


@pytest.fixture(params=SETS)
def make(request: pytest.FixtureRequest) -> Callable[..., Labelled]:
    return SETS[request.param]


def alike(first: Any, second: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, nothing is decoded."""
    monkeypatch.setattr("iin.data.decoding.decode", lambda *args, **kwargs: pytest.fail("decoded again"))


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.pixels"))


# --- the same pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dequantise", [True, False])
def test_what_is_read_is_what_would_be_decoded(make, root, monkeypatch, dequantise):
    for split in ("train", "test"):
        plain = make(root, split, size=24, cache=False, dequantise=dequantise)
        answers = [plain[Visit(rows, 3)] for rows in (range(len(plain)), [3, 0, 3])]
        data = make(root, split, size=24, dequantise=dequantise)
        data.make_ready()
        with monkeypatch.context() as patched:
            no_more(patched)
            assert all(
                alike(data[Visit(list(rows), 3)], a)
                for rows, a in zip(([*range(len(data))], [3, 0, 3]), answers, strict=True)
            )
            again = make(root, split, size=24, dequantise=dequantise)  # of another process, say
            again.make_ready()
            assert alike(again[Visit([1, 2], 3)], data[Visit([1, 2], 3)])
        assert data.fingerprint == plain.fingerprint and data._image.names == plain._image.names


def test_both_splits_of_a_folder_share_a_file_and_what_is_made_of_it_counts(root, cache):
    for split in ("train", "test", "all"):
        ImageFolder(root / "mine", 16, split).make_ready()
        AttributePairs(root / "mine", "table.csv", split=split, size=16).make_ready()
    assert len(files(cache)) == 1 and files(cache)[0].stat().st_size == 4096 + 120 * 3 * 16 * 16 + 4
    variants: list[dict[str, Any]] = [{"size": 8}, {"channels": 1}, {"crop": 20}]
    images = [ImageFolder(root / "mine", **{"size": 16, **more}, split="all")[[0, 1]].image for more in variants]
    assert len(files(cache)) == 4 and len({image.shape for image in images}) == 3
    CelebA("train", root, 16).make_ready()
    CelebA("test", root, 16).make_ready()
    CelebA("train", root, 16, antialias=True).make_ready()
    assert len(files(cache)) == 7


def test_it_can_be_done_without(make, root, cache):
    data = make(root, size=16, cache=False)
    data.make_ready()
    assert len(data[[0]].image) == 1 and not cache.exists()


def test_zip_files_too(root, cache, monkeypatch):
    with zipfile.ZipFile(root / "celeba" / "img_align_celeba.zip", "w") as archive:
        for path in sorted((root / "celeba" / "img_align_celeba").iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
    shutil.rmtree(root / "celeba" / "img_align_celeba")
    data = CelebA("train", root, 16)
    before = data[range(5)]
    data.make_ready()
    no_more(monkeypatch)
    assert alike(data[range(5)], before) and len(files(cache)) == 1


def test_workers_and_copies_read_the_same_file(root, monkeypatch):
    data = CelebA("train", root, 16)
    data.make_ready()
    no_more(monkeypatch)
    content = pickle.dumps(data._image)
    assert len(content) < 3 * 16 * 16 * len(data) / 4
    assert torch.equal(pickle.loads(content)[torch.arange(4)], data._image[torch.arange(4)])
    for first, second in zip(Loader(data, 60), Loader(data, 60, workers=2), strict=True):
        assert alike(first, second)


# --- files that have changed ------------------------------------------------------------------------------------------


def test_pictures_that_changed_are_decoded_anew_into_the_same_file(make, root, cache, caplog):
    caplog.set_level("INFO", logger="iin")
    data = make(root, size=16, dequantise=False)
    data.make_ready()
    before = data[[0]].image
    name = data._image.names[0]
    (path,) = (p for p in root.rglob("*") if str(p).endswith(name))
    Image.fromarray(np.full((218, 178, 3), 9, np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    caplog.clear()
    data = make(root, size=16, dequantise=False)
    assert not torch.equal(data[[0]].image, before)  # before it was made anew, too
    data.make_ready()
    assert not torch.equal(data[[0]].image, before) and len(files(cache)) == 1
    if isinstance(data, CelebA | FactorCelebA):  # the others make it when they look through the folder
        assert caplog.messages == [f"{files(cache)[0]} holds other pictures; it is made anew"]


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:50], lambda c: b"", lambda c: c[::-1]])
def test_a_file_that_is_cut_off_is_made_anew(root, cache, damage, caplog):
    caplog.set_level("INFO", logger="iin")
    data = CelebA("train", root, 16, dequantise=False)
    data.make_ready()
    (path,) = files(cache)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    again = CelebA("train", root, 16, dequantise=False)
    again.make_ready()
    assert path.read_bytes() == content and "it is made anew" in caplog.text


# --- pictures that cannot be decoded ----------------------------------------------------------------------------------


def test_folders_with_bad_pictures(root, cache, monkeypatch):
    """Left out, they stand in nobody's way; refused, nothing is kept."""
    (root / "mine" / "disc" / "0.jpg").write_bytes(b"words")
    with pytest.raises(ValueError, match="1 of 121 pictures cannot be used"):
        ImageFolder(root / "mine", 16, "all")
    assert not files(cache)
    plain = ImageFolder(root / "mine", 16, "all", on_error="skip", cache=False)
    data = ImageFolder(root / "mine", 16, "all", on_error="skip")
    data.make_ready()  # what is to be left out was said before this
    assert len(files(cache)) == 1 and len(data) == 120
    monkeypatch.setattr("iin.data.decoding.decode", lambda *args, **kwargs: pytest.fail("decoded again"))
    again = ImageFolder(root / "mine", 16, "all", on_error="skip")
    again.make_ready()
    monkeypatch.undo()
    assert alike(data[range(120)], plain[range(120)]) and alike(again[range(120)], plain[range(120)])


def test_a_bad_face_is_named_before_training(root, cache):
    names = CelebA("train", root, 16)._image.names
    path = root / "celeba" / "img_align_celeba" / names[7]
    path.write_bytes(b"words")
    data = CelebA("train", root, 16)
    with pytest.raises(ValueError, match=f"^{path}: not a picture of a known format$"):
        data.make_ready()
    assert not list(cache.iterdir())


def test_what_could_not_be_read_once_is_no_black_picture_the_next_time(root, cache, monkeypatch):
    reading = decoded.Pictures._decode

    def broken(self: Any, row: int) -> Any:
        if row == 5:
            raise decoded.Unreadable("Input/output error")
        return reading(self, row)

    monkeypatch.setattr(decoded.Pictures, "_decode", broken)
    assert len(ImageFolder(root / "mine", 16, "all", on_error="skip")) == 119 and not files(cache)
    monkeypatch.undo()
    monkeypatch.setenv("IIN_CACHE", str(cache.parent))
    data = ImageFolder(root / "mine", 16, "all", on_error="skip")
    assert alike(data[[5]], ImageFolder(root / "mine", 16, "all", cache=False)[[5]])


# --- where there is no room -------------------------------------------------------------------------------------------


def test_without_room_pictures_are_decoded_at_each_visit(make, root, cache, monkeypatch, caplog):
    caplog.set_level("INFO", logger="iin")
    monkeypatch.setattr(
        arrays.shutil, "disk_usage", lambda _: arrays.shutil._ntuple_diskusage(0, 0, arrays.MARGIN + 99)
    )
    for _ in range(2):
        data = make(root, size=16)
        data.make_ready()
        assert len(data[[0, 1]].image) == 2
    (line,) = [line for line in caplog.messages if "decoded at each visit" in line]
    assert "and 1 GB to spare are needed, 1 GB are free" in line and str(root) in line
    assert not cache.exists()


def test_a_disk_that_fills_up_on_the_way(make, root, cache, monkeypatch, caplog):
    caplog.set_level("INFO", logger="iin")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("iin.files.os.fsync", full)
        data = make(root, size=16)
        data.make_ready()
    assert "No space left on device" in caplog.text and not list(cache.iterdir())
    assert alike(data[Visit([0, 5], 1)], make(root, size=16, cache=False)[Visit([0, 5], 1)])


# --- training ---------------------------------------------------------------------------------------------------------


def config(root: Path, folder: Path, target: str, **params: Any) -> str:
    tree = tiny.autoencoder()
    tree["system"]["params"]["model"]["params"].update(channels=3, size=8)
    place = {"root": str(root / "mine")} if target == "ImageFolder" else {"root": str(root)}
    for split in ("train", "test"):
        tree["data"][split] = tiny.node(f"iin.data.{target}", split=split, size=8, **place, **params)
    tree["train"] |= {"steps": 5, "epochs": 1}
    return tiny.write(folder / f"{target}.yaml", tree)


@pytest.mark.parametrize("target", ["ImageFolder", "CelebA"])
def test_training_makes_the_file_and_a_rehearsal_does_not(root, tmp_path, cache, target, monkeypatch):
    file = config(root, tmp_path, target)
    assert train("-b", file, "--dry-run") == 0 and not cache.exists()
    assert train("-b", file, "--logs", tmp_path / "a") == 0
    assert len(files(cache)) == (1 if target == "ImageFolder" else 2)
    no_more(monkeypatch)
    assert train("-b", file, "--logs", tmp_path / "b") == 0
    monkeypatch.undo()
    assert train("-b", config(root, tmp_path, target, cache=False), "--logs", tmp_path / "c") == 0
    runs = [only(tmp_path / name) for name in "abc"]
    assert len({(run.folder / "metrics.jsonl").read_bytes() for run in runs}) == 1


def test_a_rehearsal_looks_at_some_of_many_pictures(root, monkeypatch, caplog, cache):
    caplog.set_level("INFO", logger="iin")
    seen = []
    reading = decoded.Pictures._decode
    monkeypatch.setattr(decoded.Pictures, "_decode", lambda self, row: (seen.append(row), reading(self, row))[1])
    monkeypatch.setattr("iin.data.folder.MANY", 40)
    with sources.offline():
        assert len(ImageFolder(root / "mine", 16, "all")) == 120
    assert seen == list(range(0, 120, 3)) and not cache.exists()
    assert caplog.messages == [
        f"{root / 'mine'}: looked at 40 of 120 pictures, the others are looked at before training"
    ]
    (root / "mine" / "disc" / "0.jpg").write_bytes(b"words")  # the first of all
    with sources.offline(), pytest.raises(ValueError, match=r"1 of 121 pictures cannot be used: disc/0\.jpg"):
        ImageFolder(root / "mine", 16, "all")
    seen.clear()
    ImageFolder(root / "mine", 16, "all", on_error="skip")
    assert len(seen) == 121  # what a rehearsal saw is no verdict on the whole


def test_a_signal_ends_the_decoding(root, tmp_path, cache, monkeypatch, capsys):
    monkeypatch.setattr(decoded, "_PIECE", 10)
    seen = []
    reading = decoded.Pictures._decode

    def ask(self: Any, row: int) -> Any:
        if row > 9 and not seen:
            seen.append(row)
            os.kill(os.getpid(), signal.SIGTERM)
        return reading(self, row)

    with monkeypatch.context() as patched:
        patched.setattr(decoded.Pictures, "attempt", ask)
        assert train("-b", config(root, tmp_path, "CelebA"), "--logs", tmp_path / "logs") == 128 + signal.SIGTERM
    run = only(tmp_path / "logs")
    assert seen and f"iin-train -r {run.folder}" in capsys.readouterr().err
    assert run.state["state"] == "interrupted" and not list(cache.iterdir())
    assert train("-r", run.folder) == 0 and len(files(cache)) == 2


def test_what_the_check_raises_ends_the_decoding(make, root, cache):
    def check() -> None:
        raise Interrupted(signal.SIGINT)

    data = make(root, size=16)
    for path in files(cache):
        path.unlink()
    data._image._whole.file = None
    with pytest.raises(Interrupted):
        data.make_ready(check)
    assert not list(cache.iterdir())


def test_two_who_decode_the_same_do_not_disturb_each_other(root, cache):
    first, second = CelebA("train", root, 16), CelebA("train", root, 16)
    first.make_ready(lambda: second.make_ready())
    assert alike(first[Visit([0, 9], 1)], second[Visit([0, 9], 1)])
    assert len(list(cache.iterdir())) == 1


def test_many_pictures_are_announced(root, monkeypatch, caplog, cache):
    caplog.set_level("INFO", logger="iin")
    monkeypatch.setattr(decoded, "_MANY", 100)
    ImageFolder(root / "mine", 16, "all", cache=False)
    ImageFolder(root / "mine", 20, "all")
    assert caplog.messages == [
        f"{root / 'mine'}: 120 pictures are looked through, this once",
        f"{root / 'mine'}: 120 pictures are decoded into {files(cache)[0]}, 144 KB, this once",
    ]
