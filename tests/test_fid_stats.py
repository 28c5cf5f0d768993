"""The script that writes statistics of real images, and runs that are measured against its files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny
import torch
import yaml
from PIL import Image
from runs import evaluate, only, train

from iin.models.features import Digits

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import fid_stats

    return fid_stats


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``sub/fid.yaml``, whose digits are 70 noisy squares; it is the current one."""
    tree = tiny.autoencoder(eval_batch_size=40, steps=1)
    tree |= {"evaluate": {"fid": tiny.node("iin.metrics.FID", extractor="digits", kid_subset_size=20)}}
    tree["system"]["params"]["model"]["params"]["size"] = 32
    for split, count in (("train", 90), ("test", 70)):
        tree["data"][split]["params"].update(size=32, count=count)
    (tmp_path / "sub").mkdir()
    tiny.write(tmp_path / "sub" / "fid.yaml", tree)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def figures(folder: Path) -> dict[str, object]:
    return json.loads((only(folder).folder / "eval" / "step-00000001" / "metrics.json").read_text())


def test_a_run_is_measured_against_a_file(here: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["-b", "sub/fid.yaml", "-o", "sub/test.npz", "--allow", "tiny"]) == 0
    assert capsys.readouterr().out == (
        "sub/test.npz: 70 images (toy_ae, data.test: tiny), extractor digits: mu, sigma of 64, and the features "
        "themselves\n"
    )
    assert train("-b", "sub/fid.yaml", "--logs", "plain") == 0
    plain = figures(here / "plain")
    # Relative to the configuration that names it, and absolute in the run's.
    tree = yaml.safe_load((here / "sub" / "fid.yaml").read_text())
    tree["evaluate"]["fid"]["params"] |= {"statistics": "test.npz", "images": 70}
    tiny.write(here / "sub" / "other.yaml", tree)
    assert train("-b", "sub/other.yaml", "--logs", "logs") == 0
    run, found = only(here / "logs"), figures(here / "logs")
    measured = {name for name, value in plain.items() if isinstance(value, float)}
    assert {name.split("/")[0] for name in measured} == {"fd_digits", "kid_digits"}
    assert {name: found[name] for name in measured} == {name: plain[name] for name in measured}
    assert plain["images"] == found["images"] == 70 and found["statistics"] == "test.npz (70 images)"
    assert "statistics" not in plain and plain["kid"] == found["kid"] == "100 subsets of 20"
    kept = yaml.safe_load(run.config_file.read_text())["evaluate"]["fid"]["params"]["statistics"]
    assert kept == str(here / "sub" / "test.npz")
    # Against the training images instead, for once.
    assert script.main(["-b", "sub/fid.yaml", "--split", "train", "-o", "train.npz", "--allow", "tiny"]) == 0
    assert evaluate("-p", run.folder, "evaluate=fid", "evaluate.fid.params.statistics=train.npz") == 0
    other = figures(here / "logs")
    assert other["statistics"] == "train.npz (90 images)"
    assert other["fd_digits/reconstructions"] != found["fd_digits/reconstructions"]
    # What the entry measured before does not stay beside facts that are not its own.
    assert evaluate("-p", run.folder, "evaluate=fid", "evaluate.fid.params.kid_subsets=0") == 0
    last = figures(here / "logs")
    assert {name.split("/")[0] for name, value in last.items() if isinstance(value, float)} == {"fd_digits"}
    assert "kid" not in last and last["entries"]["fid"]["figures"] == ["fd_digits/samples", "fd_digits/reconstructions"]


def test_the_configuration_is_checked_with_its_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value, message in (
        ("nowhere.npz", "error: evaluate.fid: statistics: no file nowhere.npz; write it with scripts/fid_stats.py"),
        ("sub/fid.yaml", "error: evaluate.fid: .*fid.yaml: no file of statistics: expected .npz with mu and sigma"),
        ("3", "error: evaluate.fid.params.statistics: expected text or a path or null, found 3"),
    ):
        assert train("-b", "sub/fid.yaml", "--logs", "logs", f"evaluate.fid.params.statistics={value}") == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and re.match(message, said), said
    assert not (here / "logs").exists()


def test_of_a_folder_of_pictures(here: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    levels = torch.randint(0, 256, (12, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    (here / "faces" / "a").mkdir(parents=True)
    for i, level in enumerate(levels):
        Image.fromarray(level.numpy()).save(here / "faces" / "a" / f"{i:03d}.png")
    arguments = ["--pictures", "faces", "--extractor", "digits", "-o", "faces.npz"]
    assert script.main([*arguments, "--no-features", "--images", "10"]) == 0
    assert capsys.readouterr().out == "faces.npz: 10 images (faces), extractor digits: mu, sigma of 64\n"
    found = np.load("faces.npz")
    assert sorted(found) == ["extractor", "fingerprint", "images", "mu", "sigma", "source"]
    features = Digits()(levels[:10].permute(0, 3, 1, 2).float() / 127.5 - 1).double().numpy()
    np.testing.assert_allclose(found["mu"], features.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found["sigma"], np.cov(features.T), rtol=1e-6, atol=1e-9)
    (here / "faces" / "damaged.png").write_bytes(b"no picture")
    assert script.main(arguments) == 2
    assert "faces: 1 of 13 pictures cannot be used: damaged.png" in capsys.readouterr().err
    (here / "faces" / "damaged.png").unlink()
    Image.new("RGB", (40, 20)).save(here / "faces" / "wide.png")
    assert script.main(arguments) == 2
    assert capsys.readouterr().err == (
        "error: faces: pictures of 32x32, 40x20 pixels; say with --size N which squares to make\n"
    )
    assert script.main([*arguments, "--size", "32"]) == 0
    assert np.load("faces.npz")["images"] == 13 and "features" in np.load("faces.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-b", "sub/fid.yaml", "-o", "a.npy"], "--output: expected FILE.npz in a folder that exists, found a.npy"),
        (["-b", "sub/fid.yaml", "-o", "no/a.npz"], "--output: expected FILE.npz in a folder that exists"),
        (["-b", "sub/none.yaml", "-o", "a.npz"], "none.yaml"),
        (
            ["-b", "sub/fid.yaml", "-o", "a.npz", "--weights", "none.pth", "--extractor", "inception"],
            "no file none.pth",
        ),
        (["-b", "sub/fid.yaml", "-o", "a.npz", "--images", "1"], "FID: at least 2 test images are needed, found 1"),
        (["-b", "sub/fid.yaml", "-o", "a.npz", "--size", "3"], "--size: the configuration says how large images are"),
        (["--pictures", "none", "-o", "a.npz", "--extractor", "digits"], "none: no such folder"),
        (["--pictures", "sub", "-o", "a.npz", "--extractor", "digits"], "sub: no pictures here"),
        (["--pictures", "sub", "-o", "a.npz", "--split", "train"], "there is no configuration"),
    ],
)
def test_bad_input_is_one_line(
    here: Path, script: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_fidelity")
    assert script.main([*arguments, "--allow", "tiny"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and message in said
    assert not list(here.glob("*.np*"))
