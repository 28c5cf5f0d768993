"""``iin-pairs``, and folders of pairs, whoever has written them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from runs import evaluate, only, train

import iin
import iin.pairs as writing
from iin.cli import pairs as command
from iin.metrics import VariationPredictability
from iin.metrics.variation import VariedPairs, draw_pairs, read_pairs, write_pairs
from iin.metrics.variation.pairs import collect
from iin.run import Run
from iin.seeds import mix


def pairs(*arguments: str | Path) -> int:
    return command.main([*map(str, arguments), "--allow", "tiny"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pairs")
    path = tiny.write(folder / "ae.yaml", tiny.autoencoder())
    assert train("-b", path, "--logs", folder / "logs", "-q") == 0
    return only(folder / "logs")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """The one line that a command has said on standard error since."""

    def said() -> str:
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return said


def test_a_run_writes_the_pairs_that_are_measured(run: Run, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pairs("-p", run.folder, "--out", "made", "--count", 130, "--seed", 3, "-q") == 0
    assert "130 pairs, each of which differs in one of 4 latents." in capsys.readouterr().out
    assert sorted(os.listdir("made")) == ["labels.npy", *(f"pair_{n:06d}.jpg" for n in range(130))]
    assert os.listdir() == ["made"] and Path("made").stat().st_mode & 0o777 == 0o755
    with Image.open("made/pair_000000.jpg") as image:
        assert image.size == (16, 8) and image.mode == "L"
    system = iin.load(run.folder, allow=["tiny"]).system
    expected = collect(draw_pairs(system, 130, torch.Generator().manual_seed(mix(3, 0))), 130)
    found = read_pairs("made")
    assert torch.equal(found.delta, expected.delta)
    for one, other in ((found.first, expected.first), (found.second, expected.second)):
        lost, apart = ((one.float() - images.float()).abs().mean() for images in (other, other.roll(1, 0)))
        assert lost < 0.5 * apart  # JPEG loses something
    assert torch.equal(found.first[:, :1], found.first[:, 2:])

    assert pairs("-p", run.folder, "--out", "again", "--count", 130, "--seed", 3, "-q") == 0
    assert all(
        (here / "again" / name).read_bytes() == (here / "made" / name).read_bytes() for name in os.listdir("made")
    )
    assert pairs("-p", run.folder, "--out", "other", "--count", 130, "-q") == 0
    assert (np.load("other/labels.npy") != np.load("made/labels.npy")).any()

    entry = "evaluate={vp: {target: iin.metrics.VariationPredictability, params: {pairs: made, runs: 1, epochs: 1}}}"
    capsys.readouterr()
    assert evaluate("-p", run.folder, entry, "-q") == 0
    assert "vp/honest" in capsys.readouterr().out


def test_what_cannot_be_written_leaves_nothing(run: Run, here: Path, error: Callable[[], str]) -> None:
    (here / "full").mkdir()
    (here / "full" / "mine.txt").write_text("mine")
    (here / "file").write_text("mine")
    for arguments, words in {
        ("--out", "full"): "full: exists already; give a folder that is new, or empty",
        ("--out", "file"): "file: exists already",
        ("--out", "no/where"): "no/where: there is no folder no; make it first",
        ("--out", "new", "--count", "0"): "--count: expected at least 1, found 0",
        (
            "--out",
            "new",
            "--count",
            str(10**15),
        ): "--count: 1,000,000,000,000,000 pairs take 4,096,000,000 GB or more, but",
        ("--out", "new", "--seed", "-1"): "--seed: expected 0 or more, found -1",
    }.items():
        assert pairs("-p", run.folder, *arguments) == 2
        assert words in error()
    assert pairs("-p", "nowhere", "--out", "new") == 2
    assert "nowhere" in error()
    assert sorted(os.listdir()) == ["file", "full"] and os.listdir("full") == ["mine.txt"]


def test_a_failure_on_the_way_leaves_nothing(here: Path) -> None:
    def parts() -> Any:
        yield made(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pairs("new", parts())
    with pytest.raises(ValueError, match="images have 2 channels; expected 1 or 3"):
        write_pairs("new", [made(3, channels=2)])
    with pytest.raises(ValueError, match="there are no pairs to write"):
        write_pairs("new", [])
    assert not os.listdir()
    with pytest.raises(ValueError, match=r"new: expected images as uint8 levels, found torch.float32"):
        write_pairs("new", [made(3)._replace(first=torch.zeros(3, 3, 8, 8))])
    assert not os.listdir()
    (here / "empty").mkdir()
    assert write_pairs("empty", [made(3)]) == (3, 5)


def test_empty_folders_of_other_kinds(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be replaced is refused before anything is made."""

    def never() -> Any:
        raise AssertionError
        yield

    with pytest.raises(ValueError, match=r"\.: is the current folder; give a new folder in it"):
        write_pairs(".", never())
    (here / "disk").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os.path, "ismount", lambda path: Path(path).name == "disk")
        with pytest.raises(ValueError, match="disk: is a disk of its own; give a new folder in it"):
            write_pairs("disk", never())
    for target in ("disk", "later"):  # links to an empty folder, and to none yet
        (here / "link").symlink_to(target)
        assert write_pairs("link", [made(3)]) == (3, 5)
        assert (here / "link").is_symlink() and (here / target / "labels.npy").is_file()
        (here / "link").unlink()
    assert sorted(os.listdir()) == ["disk", "later"]


def test_a_request_to_end_leaves_nothing(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, seen = writing.draw_pairs, []

    def draw(*arguments: Any, **settings: Any) -> Any:
        for part in drawn(*arguments, **settings):
            yield part
            seen.extend(os.listdir())
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(writing, "draw_pairs", draw)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(SystemExit) as ended:
        pairs("-p", run.folder, "--out", "new", "--count", 130, "-q")
    assert ended.value.code == 128 + signal.SIGTERM and len(seen) == 1 and not os.listdir()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_system_without_latents_is_told_so(here: Path, error: Callable[[], str]) -> None:
    tree = tiny.autoencoder()
    tree["system"] = {"target": "tiny.Codeless"}
    tree["evaluate"] = {}
    assert train("-b", tiny.write(here / "duel.yaml", tree), "-q") == 0
    assert pairs("-p", only(here / "logs").folder, "--out", "new") == 2
    assert "pairs need a system with decode(z)" in error()
    assert not (here / "new").exists()


# --- folders of anybody ----------------------------------------------------------------------------------------------


def made(count: int, channels: int = 3, latents: int = 5) -> VariedPairs:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (2, count, channels, 8, 8), generator=generator, dtype=torch.uint8)
    which = torch.arange(count) % latents
    delta = torch.zeros(count, latents, dtype=torch.float64)
    delta[torch.arange(count), which] = torch.rand(count, generator=generator, dtype=torch.float64) + 0.1
    return VariedPairs(images[0], images[1], delta)


def remove(folder: Path) -> None:
    for number in (3, 4, 7, 59):
        (folder / f"pair_{number:06d}.jpg").unlink()


def relabel(value: Any) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "labels.npy", value)


def replace(content: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "pair_000002.jpg"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            Image.new("RGB", content).save(path)

    return change


_ABOUT = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000, 5)}\n"
HUGE = b"\x93NUMPY\1\0" + len(_ABOUT).to_bytes(2, "little") + _ABOUT
"""A file that says that it has 40 PB of labels."""

BROKEN = {
    "missing": (remove, "4 of 60 images are missing: pair_000003.jpg, pair_000004.jpg, pair_000007.jpg and 1 more"),
    "all missing": (lambda f: [p.unlink() for p in f.glob("*.jpg")], "60 of 60 images are missing"),
    "too few labels": (relabel(np.ones((59, 5))), "labels.npy has 59 rows, but there is pair_000059.jpg"),
    "too many labels": (
        relabel(np.ones((61, 5))),
        "1 of 61 images are missing: pair_000060.jpg; expected one for each",
    ),
    "flat labels": (relabel(np.ones(60)), "labels.npy: expected differences of latents [N, L], found float64 [60]"),
    "words": (relabel(np.array([["a", "b"]] * 60)), "labels.npy: expected differences of latents [N, L], found <U1"),
    "objects": (relabel(np.array([[{}, {}]] * 60)), "labels.npy: cannot be read ("),
    "a labels' NaN": (relabel(np.where(np.eye(60)[:, :5], np.nan, 1)), "labels.npy: NaN or infinity, first in row 0"),
    "no difference": (relabel(np.eye(60)[:, :5]), "labels.npy: 55 of 60 rows are all zero, first row 5"),
    "one latent": (relabel(np.ones((60, 1))), "labels.npy: differences of 1 latent; expected at least 2"),
    "huge labels": (lambda f: (f / "labels.npy").write_bytes(HUGE), "labels.npy: cannot be read ("),
    "half an archive": (lambda f: (f / "labels.npy").write_bytes(b"PK\3\4"), "labels.npy: cannot be read ("),
    "cut labels": (lambda f: (f / "labels.npy").write_bytes(b"\x93NUMPY"), "labels.npy: cannot be read ("),
    "no labels": (lambda f: (f / "labels.npy").unlink(), "labels.npy: no such file; expected the differences"),
    "other latents": (relabel(np.ones((60, 6))), "labels.npy is of 6 latents, but the system has 5"),
    "other size": (replace((18, 8)), "pair_000002.jpg: 18x8 pixels; expected two images side by side, of the size"),
    "no picture": (replace(b"none"), "pair_000002.jpg: cannot be read as a picture"),
}


class Five(torch.nn.Module):
    """A system of five latents that makes no images here."""

    dim = 5

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        raise AssertionError


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_one_line(name: str, here: Path) -> None:
    change, words = BROKEN[name]
    write_pairs("pairs", [made(60)])
    change(here / "pairs")
    with pytest.raises(ValueError) as error:
        read_pairs("pairs", latents=5)
    assert words in str(error.value) and str(error.value).startswith("pairs") and "\n" not in str(error.value)
    with pytest.raises(ValueError) as again:
        VariationPredictability(pairs="pairs")(Five(), ())  # type: ignore[arg-type]
    assert str(again.value) == f"VariationPredictability: {error.value}"


def test_an_odd_width_cannot_be_halved(here: Path) -> None:
    write_pairs("pairs", [made(2)])
    for number in range(2):
        Image.new("RGB", (15, 8)).save(f"pairs/pair_{number:06d}.jpg")
    with pytest.raises(ValueError, match=r"pair_000000.jpg: 15x8 pixels; expected two images side by side.* 14x8"):
        read_pairs("pairs")


def test_a_folder_is_measured_whatever_the_system(here: Path) -> None:
    write_pairs("pairs", [made(60)])
    metric = VariationPredictability(pairs="pairs", runs=2, epochs=1)
    figures = metric(Five(), ())  # type: ignore[arg-type]
    assert 0 <= figures["vp/honest"] <= figures["vp/published"] + 0.2
    assert metric.facts["vp"].startswith("60 pairs of pairs, 6 to learn 5 latents from, 1 epochs, diff; 2 runs")
    metric(torch.nn.Linear(2, 2), ())  # type: ignore[arg-type]
    write_pairs("few", [made(40)])
    with pytest.raises(
        ValueError, match=r"too few pairs: 40, of which 4 to learn 5 latents from.* expected 41 or more"
    ):
        VariationPredictability(pairs="few")(Five(), ())  # type: ignore[arg-type]
    assert not list(VariationPredictability.lacks(pairs="few"))
    (line,) = VariationPredictability.lacks(pairs="gone")
    assert line.startswith("pairs: gone: no such folder")
