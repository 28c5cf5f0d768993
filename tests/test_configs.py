"""Every shipped configuration builds and runs, on small files in each data set's real format."""

from __future__ import annotations

import json
from pathlib import Path

import fabricate
import pytest

from iin.cli import eval as evaluation
from iin.cli import train as training
from iin.config import load, shipped

NAMES = sorted(path.stem for path in shipped().glob("*.yaml") if path.stem != "project")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few images of each data set."""
    root = tmp_path_factory.mktemp("data")
    fabricate.mnist(root)
    fabricate.fashion(root)
    fabricate.cifar(root)
    fabricate.celeba(root, n=300)
    return root


@pytest.fixture
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IIN_DATA", str(files))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list_is_whole() -> None:
    families = {"ae": "mnist fashionmnist cifar celeba cmnist", "iin": "mnist fashionmnist cifar celeba"}
    families |= {"diin": "mnist cmnist celeba", "clf": "cmnist mnist"}
    expected = {f"{data}_{kind}" for kind, names in families.items() for data in names.split()}
    assert expected | {"cmnist_clf_diin", "cmnist_dims"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    first = (shipped() / f"{name}.yaml").read_text().split("name:")[0]
    assert first.startswith("# ") and "--quick" in first
    config = load([name])
    assert config.tree["name"] == name and config.tree["description"]


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_rehearsed(name: str, quick: bool, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["-b", name, "--dry-run", "--logs", str(here / "logs")] + ["--quick"] * quick) == 0
    plan = capsys.readouterr().out
    missing = [line for line in plan.splitlines() if "missing:" in line]
    # Only what ships nowhere is missing: weights of the published perceptual distance and of FID.
    assert all("vgg" in line or "torch-fidelity" in line or "Inception" in line for line in missing), missing
    assert not (quick and missing)
    assert missing or "trained: " in plan or "trained (" in plan
    assert not list(here.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_is_measured_and_goes_on(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def train(*arguments: str) -> Path:
        assert training.main([*arguments, "train.batch_size=10", "train.log_every=5", "--logs", "logs"]) == 0
        return Path(capsys.readouterr().out.splitlines()[-1].removeprefix("Run folder: "))

    config = load([name], quick=True).tree
    small = ["--quick", "train.steps=10", "evaluate=none"]
    first = []
    if "first_stage" in config["system"]["params"]:
        stage = train("-b", config["system"]["params"]["first_stage"]["params"]["config"], *small)
        first = [f"system.params.first_stage.params={{run: {stage}, part: model}}"]
        first += ["system.params.flow.params.blocks=2", "system.params.flow.params.hidden=32"]
    if "fid" in config["evaluate"]:
        first += ["evaluate.fid.params.images=80"]
    if "swaps" in config["evaluate"]:
        first += ["evaluate.swaps.params.pairs=50"]
    run = train("-b", name, "--quick", "train.steps=20", "train.checkpoint_every=10", *first)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = {k: v for k, v in lines[-1].items() if k not in ("step", "epoch", "split")}
    assert lines[-1]["split"] == "test" and lines[-1]["step"] == 20 and len(measured) >= 1
    assert evaluation.main(["-p", str(run)]) == 0
    stored = json.loads((run / "eval" / "step-00000020" / "metrics.json").read_text())
    assert {key: stored[key] for key in measured} == measured
    assert train("-r", str(run), "train.steps=25") == run
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 25


def test_the_project_overlay_turns_wandb_on() -> None:
    assert load(["mnist_diin", "project"]).tree["logs"] == ["wandb"]
