"""What newcomers stumble over: each is one clear line, in time."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import only, train
from test_train import at_step
from torch import Tensor, nn

import iin.train as loop
from iin.config import ConfigError
from iin.config.targets import resolve
from iin.data import Images
from iin.evaluation import table
from iin.flows import vector_flow
from iin.metrics import FactorSwaps
from iin.report.glossary import explain
from iin.report.page import gather, render
from iin.run import Run
from iin.systems import LatentFlow

Errors = Callable[[], str]


class Given:
    """Ten items that answer with whatever they are given, as somebody's own data set may.

    Args:
        answer: what to answer: an item's image, a plain tuple, a class of one's own, or images that are too bright.
    """

    def __init__(self, answer: str = "plain") -> None:
        self.answer = answer

    def __len__(self) -> int:
        return 12

    def __getitem__(self, indices: Sequence[int]) -> Any:
        image, label = torch.zeros(len(indices), 1, 8, 8), torch.zeros(len(indices), dtype=torch.int64)
        if self.answer == "item":
            return [None] * 12 + [indices + 1]  # type: ignore[operator]
        if self.answer == "object":
            batch: Any = nn.Module()
            batch.image = image
            return batch
        return Images(image + 255, label) if self.answer == "bright" else (image, label)


class Nameless(tiny.SidePairs):
    """Pairs without names, which share the residual."""

    factors = None

    def __getitem__(self, indices: Sequence[int]) -> Any:
        batch = super().__getitem__(indices)
        return batch._replace(shared=torch.ones_like(batch.shared))


class Renamed(tiny.SidePairs):
    """Pairs that name their factor differently."""

    factors = ("left", "residual")


class Plain(nn.Module):
    """A first stage that answers with a code and no distribution."""

    def encode(self, image: Tensor) -> Tensor:
        return image.flatten(1)[:, :4]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two configurations in it."""
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path / "ae.yaml", tiny.autoencoder())
    tiny.write(tmp_path / "flow.yaml", tiny.flow({"config": "ae.yaml"}))
    return tmp_path


@pytest.fixture
def errors(capsys: pytest.CaptureFixture[str]) -> Errors:
    """What was printed to stderr since the last call."""
    return lambda: capsys.readouterr().err


def own(*arguments: str | Path) -> int:
    return train(*arguments, "--allow", "test_stumbles")


# --- going on with a run -----------------------------------------------------------------------------------------


def test_a_finished_runs_settings_are_not_rewritten(here: Path, errors: Errors, capsys: Any) -> None:
    assert train("-b", "ae.yaml") == 0
    run = only(here / "logs")
    files = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and path.name != "log.txt"}
    for dry in ([], ["--dry-run"]):
        errors()
        assert train("-r", run.folder, "system.params.kl_weight=0.5", "seed=4", "name=other", *dry) == 2
        lines = errors().splitlines()
        assert sorted(line.split(":")[1].strip() for line in lines) == ["seed", "system.params.kl_weight"]
        assert all(
            "the run is finished (step 12 of 12), so this would change its record only; train" in x for x in lines
        )
    assert files == {path: path.read_bytes() for path in files}

    change = "evaluate.noise.params.name=hiss"
    assert train("-r", run.folder, change, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "  at step 12 of 12\n" in out and "  Changed: evaluate.noise.params" in out
    assert files == {path: path.read_bytes() for path in files}
    assert train("-r", run.folder, change) == 0
    assert "(evaluate: kept in config.yaml, for later evaluations too)" in errors()
    assert "name: hiss" in run.config_file.read_text()
    assert train("-r", run.folder, "train.epochs=3", "train.lr=0.5") == 0  # there is something to train with it
    assert run.state["step"] == 18


def test_a_rehearsal_of_going_on_tells_the_step(here: Path, capsys: Any) -> None:
    assert train("-b", "ae.yaml") == 0
    run = only(here / "logs")
    capsys.readouterr()
    assert train("-r", run.folder, "-c", "6", "train.lr=0.5", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "  at step 6 of 12\n  Changed: train.lr 0.01 -> 0.5\n" in out
    assert run.state["state"] == "finished" and "lr: 0.01" in run.config_file.read_text()


def test_who_stops_a_run_is_told_how_to_go_on(here: Path, errors: Errors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_step", loop._step)  # put back afterwards
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train("-b", "ae.yaml") == 130
    folder = only(here / "logs").folder.relative_to(here)
    command = f"iin-train -r {folder} --allow tiny"
    assert errors().endswith(f"Stopped (SIGINT); everything is saved. Go on with: {command}\n")
    assert train(*command.split()[1:3]) == 0
    assert Run(folder).state["state"] == "finished"


# --- data and metrics of one's own -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("plain", "answered tuple, which has no image; expected Images or Pairs, with image [B, C, H, W]"),
        ("item", "failed (TypeError: "),
        ("object", "Given answered Module; expected Images or Pairs"),
    ],
)
def test_a_data_set_that_answers_something_else(here: Path, errors: Errors, answer: str, words: str) -> None:
    own_data = ["data.train.target=test_stumbles.Given", f"data.train.params={{answer: {answer}}}"]
    assert own("-b", "ae.yaml", *own_data) == 2
    error = errors()
    assert error.startswith("error: data.train: Given") and words in error and error.count("\n") == 1
    assert not (here / "logs").exists()


def test_odd_data_are_warned_of(here: Path, errors: Errors) -> None:
    bright = ["data.train.target=test_stumbles.Given", "data.train.params={answer: bright}", "--dry-run"]
    assert own("-b", "ae.yaml", *bright) == 0
    assert errors() == "data.train: images go from 255 to 255; expected within [-1, 1]\n"
    assert own("-b", "flow.yaml", "data.test.target=test_stumbles.Nameless", "--dry-run") == 0
    assert errors().splitlines() == [
        "data.test: pairs without names; give Nameless factors = (..., 'residual')",
        "data.test: pairs share the last factor; that is the residual, which no pair should share",
    ]
    assert own("-b", "flow.yaml", "data.test.target=test_stumbles.Renamed", "--dry-run") == 0
    assert errors() == "data.test: its factors are left, residual, but those of data.train side, residual\n"
    assert own("-b", "flow.yaml", "--dry-run") == 0 and not errors()


def test_a_metric_that_cannot_work_is_found_before_training(here: Path, errors: Errors) -> None:
    swaps = "evaluate.swaps={target: iin.metrics.FactorSwaps}"
    assert train("-b", "ae.yaml", swaps) == 2
    assert errors() == (
        "error: evaluate.swaps: FactorSwaps needs a system with swap(...); Autoencoder has none; leave it out, "
        "for instance evaluate=reconstruction,noise\n"
    )
    flow = ["system.params.first_stage={target: tiny.Needy}", "evaluate=nll,noise"]
    assert train("-b", "flow.yaml", swaps, flow[0]) == 2
    assert "FactorSwaps needs images, but this FactorFlow has no decoder; leave it out, for" in errors()
    assert not (here / "logs").exists()
    assert train("-b", "flow.yaml", *flow, "--dry-run") == 0
    assert train("-b", "flow.yaml", swaps, "--dry-run") == 0


def test_a_factor_without_judge_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    metric = FactorSwaps()
    for _ in range(2):
        metric._warn(("shape", "digit", "residual"))
    assert caplog.messages == [
        "swaps: no judge for factor shape, so it has no figures; give judges: {shape: {target: ...}}"
    ]


def test_a_first_stage_may_answer_codes_but_nothing_else() -> None:
    stage = Plain()
    system = LatentFlow(stage, vector_flow(dim=4, blocks=1, hidden=4, depth=1))
    image = torch.randn(2, 1, 8, 8)
    code = stage.encode(image)
    assert torch.equal(system.code(image), code) and torch.equal(system.noisy_code(image), code)
    for answer, found in (((code, code), "tuple"), (code[:, :3], r"a tensor \[2, 3\]"), (code[0], r"a tensor \[4\]")):
        stage.encode = lambda image, answer=answer: answer  # type: ignore[method-assign]
        for method in (system.code, system.noisy_code, system.encode):
            with pytest.raises(ValueError, match=f"answered {found}; expected iin.models.Gaussian, or codes"):
                method(image)


# --- what is said ------------------------------------------------------------------------------------------------


def test_figures_are_a_table() -> None:
    figures = {"swaps/digit/follows": 0.5, "swaps/digit/stays": 0.25, "nll/nats": 7.0, "accuracy": 1.0}
    assert table(figures).splitlines() == [
        "",
        "  swaps/digit  follows 0.5  stays 0.25",
        "  nll          nats 7",
        "  accuracy     1",
    ]
    many = {f"dims/code/factor_{k}": 1 / 3 for k in range(20)}
    lines = table(many).splitlines()[1:]
    assert len(lines) > 2 and max(map(len, lines)) <= 100 and sum(line.count("0.3333") for line in lines) == 20
    assert table({}) == ""


def test_a_first_stage_of_other_settings_is_named(here: Path, errors: Errors, capsys: Any) -> None:
    assert train("-b", "ae.yaml", "train.steps=3") == 0
    folder = only(here / "logs").folder.relative_to(here)
    hint = f"({folder} differs in train.steps; to use it: system.params.first_stage.params.run={folder})"
    capsys.readouterr()
    assert train("-b", "flow.yaml", "--dry-run") == 0
    assert hint in capsys.readouterr().out
    assert train("-b", "flow.yaml", f"system.params.first_stage.params.run={folder}", "--dry-run") == 0
    assert f"system.params.first_stage: {here / folder}" in capsys.readouterr().out
    assert train("-b", "flow.yaml", "train.steps=1") == 0
    assert hint in errors()


def test_quick_without_such_a_section_is_said(here: Path, errors: Errors) -> None:
    assert train("-b", "flow.yaml", "--quick", "--dry-run") == 0
    assert errors().splitlines() == [
        "flow.yaml has no section quick: its full version is run, over the small version of its first stage",
        "ae.yaml has no section quick: its full version is run",
    ]
    tiny.write(here / "ae.yaml", tiny.autoencoder() | {"quick": {"train": {"steps": 1}}})
    assert train("-b", "ae.yaml", "--quick", "--dry-run") == 0 and not errors()
    assert train("-b", "ae.yaml", "--quick", "train.epochs=1") == 0
    assert Run(only(here / "logs").folder).state["step"] == 1


def test_what_is_allowed_lies_in_the_current_folder(here: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("mine_own.Thing", ["mine_own"])
    assert (
        str(caught.value) == f"--allow mine_own: no module mine_own in the current folder ({here}) and none installed"
    )
    with pytest.raises(ConfigError, match=r"allow it with --allow mine_own, or allow=\['mine_own'\] in Python"):
        resolve("mine_own.Thing")


def test_data_without_source_and_files_that_are_no_runs(here: Path, errors: Errors, capsys: Any) -> None:
    given = ["data.train.target=test_stumbles.Given", "data.train.params={answer: bright}"]
    assert own("-b", "ae.yaml", *given, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "  data.train: Given\n" in out and "  data.test: Sides, tiny\n" in out
    assert train("-r", "ae.yaml") == 2
    assert errors() == "error: ae.yaml: is a file; expected a run's folder, such as one below logs/\n"


def test_the_report_tells_quick_runs(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text(json.dumps({"command": ["iin-train", "-b", "a", "--quick"]}))
    assert '<span class="state other">quick</span>' in render(gather(tmp_path))
    (tmp_path / "environment.json").write_text(json.dumps({"command": ["iin-train", "-b", "quick"]}))
    assert ">quick<" not in render(gather(tmp_path))
    assert "does not change while the flow trains" in explain("dims/code/digit").text
    assert "It can be 0" in explain("dims/paper/digit").text
