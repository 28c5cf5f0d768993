"""Checkpoints that the original project wrote, named in a configuration as the first stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from original import autoencoder_state, classifier_state, flow_state
from runs import evaluate, only, train
from test_compat import write
from torch import Tensor

from iin import compat
from iin.experiment import load
from iin.first_stage import pretrained

Errors = Callable[[], str]
STAGE = "system.params.first_stage.params"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a run's folder of the original and ``flow.yaml``, which stands on its newest file."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    for step in (90, 100, 9):  # by step, not by time or by name
        write(checkpoint(step), autoencoder_state())
    tiny.write(tmp_path / "flow.yaml", tiny.flow({"checkpoint": str(checkpoint(100))}))
    return tmp_path


@pytest.fixture
def errors(capsys: pytest.CaptureFixture[str]) -> Errors:
    return lambda: capsys.readouterr().err


def checkpoint(step: int) -> Path:
    return Path("original", "train", "checkpoints", f"model-{step}.ckpt")


def code(run: Path, image: Tensor) -> Tensor:
    system: Any = load(run, allow=["tiny"]).system
    return system.first_stage.encode(image).mean


@pytest.mark.parametrize(
    ("key", "value"), [("checkpoint", str(checkpoint(100))), ("checkpoint", "original"), ("run", "original")]
)
def test_a_file_or_folder_of_the_original_is_a_first_stage(here: Path, key: str, value: str) -> None:
    tiny.write(here / "flow.yaml", tiny.flow({key: value}))
    assert train("-b", "flow.yaml") == 0
    run = only(here / "logs").folder
    image = torch.rand(3, 1, 8, 8) * 2 - 1
    expected: Any = compat.load(checkpoint(100))
    torch.testing.assert_close(code(run, image), expected.encode(image).mean, rtol=0, atol=0)
    frozen = load(run, allow=["tiny"]).system.first_stage.state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in expected.state_dict().items())


def test_the_run_outlives_the_file(here: Path) -> None:
    assert train("-b", "flow.yaml", "train.epochs=1") == 0
    shutil.rmtree("original")
    run = only(here / "logs").folder
    assert train("-r", run, "train.epochs=2") == 0
    assert evaluate("-p", run) == 0


def test_a_renamed_file_is_known_by_what_is_in_it(here: Path) -> None:
    checkpoint(100).rename("downloaded.pth")
    assert train("-b", "flow.yaml", f"{STAGE}.checkpoint=downloaded.pth", "--dry-run") == 0


def test_a_classifier_without_a_decoder_trains_evaluates_and_makes_no_pictures(here: Path) -> None:
    write(Path("model-7.ckpt"), classifier_state())
    assert train("-b", "flow.yaml", f"{STAGE}.checkpoint=model-7.ckpt") == 0
    run = only(here / "logs").folder
    assert evaluate("-p", run) == 0
    assert not list(run.glob("images/*")) and (run / "report.html").is_file()


def test_a_rehearsal_names_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-b", "flow.yaml", "--dry-run") == 0
    assert f"system.params.first_stage: {here / checkpoint(100)}" in capsys.readouterr().out


def test_the_configuration_beside_a_file_does_not_count(here: Path) -> None:
    tiny.write(here / "ae.yaml", tiny.autoencoder())  # of width 4
    assert train("-b", "flow.yaml", f"{STAGE}.config=ae.yaml") == 0
    tree = yaml.safe_load((only(here / "logs").folder / "config.yaml").read_text())
    inner = tree["system"]["params"]["first_stage"]["params"]["config"]
    assert inner["name"] == "original_autoencoder"
    assert inner["system"]["params"]["model"]["params"]["width"] == 2


def test_a_renamed_key_is_one_line_and_leaves_nothing(here: Path, errors: Errors) -> None:
    state = autoencoder_state()
    state["image_layer.sub_layers.0.wait"] = state.pop("image_layer.sub_layers.0.weight")
    write(checkpoint(100), state)
    assert train("-b", "flow.yaml") == 2
    line = errors()
    assert line.count("\n") == 1 and f"{STAGE}.checkpoint" in line
    assert "missing: image_layer.sub_layers.0.weight; left over: image_layer.sub_layers.0.wait" in line
    assert not (here / "logs").exists()


def test_the_very_file_is_kept_not_the_folder(here: Path) -> None:
    tiny.write(here / "flow.yaml", tiny.flow({"checkpoint": "original"}))
    assert train("-b", "flow.yaml", "train.steps=0") == 0
    tree = yaml.safe_load((only(here / "logs").folder / "config.yaml").read_text())
    assert tree["system"]["params"]["first_stage"]["params"]["checkpoint"] == str(here / checkpoint(100))


def test_ones_own_checkpoint_may_be_called_as_the_originals_are(here: Path) -> None:
    tiny.write(here / "ae.yaml", tiny.autoencoder())
    assert train("-b", "ae.yaml", "--logs", "own") == 0
    shutil.copy(only(here / "own").checkpoint(12), "model-6.ckpt")
    assert train("-b", "flow.yaml", f"{STAGE}.checkpoint=model-6.ckpt", f"{STAGE}.config=ae.yaml", "--dry-run") == 0


@pytest.mark.parametrize("name", ["model-3.ckpt", "weights.ckpt"])
def test_a_damaged_file_is_told_as_such(here: Path, errors: Errors, name: str) -> None:
    Path(name).write_bytes(b"")
    assert train("-b", "flow.yaml", f"{STAGE}.checkpoint={name}") == 2
    line = errors()
    assert line.count("\n") == 1 and "damaged, not a checkpoint of the original, or one that would run code" in line


def test_a_flow_is_no_first_stage(here: Path, errors: Errors) -> None:
    write(checkpoint(100), flow_state(4))
    assert train("-b", "flow.yaml") == 2
    line = errors()
    assert line.count("\n") == 1 and "has no encode" in line


def test_a_published_flow_over_a_published_autoencoder_is_evaluated_as_it_is(here: Path) -> None:
    state = flow_state(4, blocks=3, hidden=7, depth=2)
    write(Path("iin", "train", "checkpoints", "model-50.ckpt"), state)
    tree = tiny.flow({"checkpoint": "original"}, steps=0)
    tree["system"]["params"]["flow"] = tiny.node("iin.first_stage.pretrained", checkpoint="iin")
    tiny.write(here / "both.yaml", tree)
    assert train("-b", "both.yaml") == 0
    shutil.rmtree("iin")
    run = only(here / "logs").folder
    system: Any = load(run, allow=["tiny"]).system
    x = torch.randn(5, 4)
    torch.testing.assert_close(system.flow(x), compat.flow(state)(x))
    assert system.dim == 4 and list(run.glob("images/*.png"))
    assert train("-r", run, "train.steps=6") == 0  # and trained further
    moved: Any = load(run, allow=["tiny"]).system
    assert not torch.equal(moved.flow(x)[0], system.flow(x)[0])
    frozen: Any = compat.load("original")
    assert all(torch.equal(v, moved.first_stage.state_dict()[k]) for k, v in frozen.state_dict().items())


def test_a_pickle_that_would_run_code_is_refused_and_nothing_is_run(here: Path, errors: Errors) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (here / "exploded",))

    for name in (checkpoint(100), Path("renamed.pth")):
        torch.save({"model": Bomb(), "loss": {}, "optimizer": {}}, name)
        assert train("-b", "flow.yaml", f"{STAGE}.checkpoint={name}") == 2
        assert errors().count("\n") == 1
    assert not (here / "exploded").exists() and not (here / "logs").exists()


def test_python_has_it_too(here: Path) -> None:
    image = torch.rand(2, 1, 8, 8)
    expected: Any = compat.load(checkpoint(100))
    found: Any = pretrained(checkpoint="original")
    torch.testing.assert_close(found.encode(image).mean, expected.encode(image).mean)
    assert not any(p.requires_grad for p in found.parameters())


def test_data_that_do_not_fit_are_told(here: Path, errors: Errors) -> None:
    write(checkpoint(100), autoencoder_state(channels=3))
    assert train("-b", "flow.yaml") == 2
    line = errors()
    assert line.count("\n") == 1 and "does not fit system" in line
