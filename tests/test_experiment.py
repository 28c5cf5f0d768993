"""Plans, first stages, evaluation: everything is checked before anything is trained, and nothing is trained twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from PIL import Image
from runs import assert_equal, die, evaluate, only, start, train
from test_train import at_step

import iin
from iin import config as configuration
from iin.building import digest, part_of, trained_part
from iin.config import ConfigError
from iin.experiment import load
from iin.first_stage import pretrained
from iin.plan import plan
from iin.run import Run, RunError, read_checkpoint

Errors = Callable[[], str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ae.yaml``, ``flow.yaml`` (whose first stage is ``ae.yaml``) and finished runs of both."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    tiny.write(folder / "ae.yaml", tiny.autoencoder())
    path = tiny.write(folder / "flow.yaml", tiny.flow({"config": "ae.yaml"}))
    assert train("-b", path, "--logs", folder / "logs") == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, which is the current one."""
    shutil.copytree(trained, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def bare(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configurations alone, in the current folder; nothing was trained."""
    for name in ("ae.yaml", "flow.yaml"):
        shutil.copy(trained / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def errors(capsys: pytest.CaptureFixture[str]) -> Errors:
    """What was printed to stderr since the last call."""
    return lambda: capsys.readouterr().err


def stages() -> list[Path]:
    return sorted(Path("logs").glob("*_toy_ae*"))


def flows() -> list[Path]:
    return sorted(Path("logs").glob("*_toy_flow*"))


def figures(run: Run, step: int = 12) -> dict[str, Any]:
    return json.loads((run.folder / "eval" / f"step-{step:08d}" / "metrics.json").read_text())


# --- first stages ------------------------------------------------------------------------------------------------


def test_a_missing_first_stage_is_announced_and_trained_first(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-b", "flow.yaml") == 0
    out, err = capsys.readouterr()
    (stage,), (run,) = stages(), flows()
    assert "First stage: no finished run of toy_ae below logs, so it is trained first\n" in err
    assert f"Training toy_ae for 12 steps: {stage}\n" in err and f"First stage: {stage}\n" in err
    assert out.splitlines() == [f"Report: {run}/report.html", f"Run folder: {run}"]
    recorded = json.loads((run / "environment.json").read_text())["first_stage"]
    assert recorded == {
        "system.params.first_stage": {"run": str(stage), "step": 12, "digest": Run(stage).state["digest"]}
    }


def test_a_first_stage_is_found_the_second_time(here: Path, errors: Errors) -> None:
    assert train("-b", "flow.yaml") == 0
    assert f"First stage: {stages()[0]}\n" in errors()
    assert len(stages()) == 1 and len(flows()) == 2
    assert_equal(Run(flows()[0]), Run(flows()[1]))


@pytest.mark.parametrize("killed_hard", [False, True], ids=["interrupted", "killed"])
def test_a_first_stage_that_was_not_finished_is_gone_on_with(bare: Path, errors: Errors, killed_hard: bool) -> None:
    def stop() -> None:
        die() if killed_hard else os.kill(os.getpid(), 2)

    process = start(["-b", "flow.yaml"], lambda: at_step(8, stop))
    process.join()
    assert process.exitcode == (9 if killed_hard else 130)
    (stage,) = stages()
    assert not flows() and Run(stage).state["state"] == ("running" if killed_hard else "interrupted")
    assert train("-b", "flow.yaml") == 0
    words = errors()
    assert "First stage: no finished run of toy_ae below logs, but one that was not finished; it is first\n" in words
    assert f"Resuming {stage} at step {6 if killed_hard else 8} of 12" in words
    assert stages() == [stage] and Run(stage).state["state"] == "finished"


def test_a_first_stage_in_use_is_not_trained_twice(bare: Path, errors: Errors) -> None:
    process = start(["-b", "flow.yaml"], lambda: at_step(8, die))
    process.join()
    (stage,) = stages()
    with Run(stage).locked():
        assert train("-b", "flow.yaml") == 2
    assert errors().splitlines()[-1] == f"error: {stage}: in use by process {os.getpid()}; wait for it, or stop it"


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["system"]["params"]["model"]["params"].update(width=5),
        lambda tree: tree["train"].update(lr=2e-2),
        lambda tree: tree["data"]["train"]["params"].update(count=28),
        lambda tree: tree.update(seed=1),
    ],
    ids=["width", "learning rate", "data", "seed"],
)
def test_another_first_stage_is_not_mistaken_for_it(here: Path, change: Callable[[Any], Any]) -> None:
    tree = tiny.autoencoder()
    change(tree)
    tiny.write(here / "ae.yaml", tree)
    made = plan(configuration.load(["flow.yaml"]), allow=["tiny"])
    assert made.stages[0].run is None


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["train"].update(log_every=1, keep=1, evaluate_every=2, checkpoint_every=3),
        lambda tree: tree["train"].update(clip=None, betas=[0.5, 0.9], eval_batch_size=7),
        lambda tree: tree.pop("evaluate"),
        lambda tree: tree["data"]["test"]["params"].update(count=8),
        lambda tree: tree.update(name="other", description="the same"),
    ],
    ids=["what is logged", "defaults written out", "metrics", "test data", "name"],
)
def test_what_does_not_change_its_weights_leaves_a_first_stage_found(here: Path, change: Callable[[Any], Any]) -> None:
    tree = tiny.autoencoder()
    change(tree)
    tiny.write(here / "ae.yaml", tree)
    made = plan(configuration.load(["flow.yaml"]), allow=["tiny"])
    assert made.stages[0].run is not None and made.stages[0].run.folder == stages()[0]


def test_quick_is_quick_for_first_stages_too(bare: Path) -> None:
    tree = tiny.autoencoder() | {"quick": {"train": {"steps": 3}}}
    tiny.write(bare / "ae.yaml", tree)
    flow = tiny.flow({"config": "ae.yaml"}) | {"quick": {"train": {"steps": 2}}}
    assert train("-b", tiny.write(bare / "flow.yaml", flow), "--quick") == 0
    assert Run(stages()[0]).state["step"] == 3 and Run(flows()[0]).state["step"] == 2
    assert "quick" not in yaml.safe_load((flows()[0] / "config.yaml").read_text())


def test_a_first_stage_may_be_named_by_run_or_checkpoint(here: Path, errors: Errors) -> None:
    stage = Run(stages()[0])
    whole = {"config": "ae.yaml", "checkpoint": str(stage.checkpoint(6))}
    for number, (named, step) in enumerate(
        [
            ({"run": str(stage.folder)}, 12),
            ({"run": str(stage.config_file)}, 12),
            ({"checkpoint": str(stage.checkpoint(6))}, 6),
            (whole, 6),
        ]
    ):
        path = tiny.write(here / f"flow{number}.yaml", tiny.flow(named) | {"evaluate": {}})
        assert train("-b", path, "train.steps=1") == 0
        run = Run(flows()[-1])
        (recorded,) = json.loads((run.folder / "environment.json").read_text())["first_stage"].values()
        assert str(stage.folder) in str(recorded) and ("checkpoint" in recorded) == (step == 6)
        weights = read_checkpoint(stage.checkpoint(step))["system"]["model.encoder.0.weight"]
        frozen = run.load()[0]["system"]["first_stage.encoder.0.weight"]
        assert torch.equal(frozen, weights)
    assert stages() == [stage.folder]


def test_named_weights_that_cannot_be_used_come_to_light_at_once(here: Path, errors: Errors) -> None:
    stage = Run(stages()[0])
    other = tiny.autoencoder()
    other["system"]["params"]["model"]["params"]["width"] = 5
    tiny.write(here / "other.yaml", other)
    torch.save({"model": 1}, here / "stray.ckpt")
    shutil.copy(stage.checkpoint(12), here / "lone.ckpt")
    (here / "stray.yaml").write_text("")
    cases = [
        ({"run": "nowhere"}, "system.params.first_stage.params.run: nowhere does not exist"),
        ({"run": str(here)}, "not a run folder, it holds no config.yaml"),
        ({"checkpoint": "nowhere.ckpt"}, "system.params.first_stage.params.checkpoint: nowhere.ckpt does not exist"),
        ({"checkpoint": "stray.ckpt", "config": "ae.yaml"}, "stray.ckpt: not a checkpoint of this program"),
        ({"checkpoint": "lone.ckpt"}, "lone.ckpt lies in no run; give its config too"),
        ({"checkpoint": "lone.ckpt", "config": "other.yaml"}, "lone.ckpt: a checkpoint of another architecture"),
        ({"config": "ea.yaml"}, "system.params.first_stage.params.config: ea.yaml: no such configuration file"),
        ({}, "system.params.first_stage: give config, run or checkpoint"),
        ({"run": "a", "checkpoint": "b"}, "system.params.first_stage: give run or checkpoint, not both"),
    ]
    for named, words in cases:
        assert train("-b", tiny.write(here / "bad.yaml", tiny.flow(named)), "--dry-run") == 2
        error = errors()
        assert error.startswith("error: ") and words in error and error.count("\n") == 1, error
    for path in stage.checkpoints():
        path.write_bytes(b"")
    assert train("-b", tiny.write(here / "bad.yaml", tiny.flow({"run": str(stage.folder)}))) == 2
    assert "no sound checkpoint is left" in errors()
    assert len(flows()) == 1


def test_a_damaged_first_stage_is_named_and_its_checkpoint_before_used(here: Path, errors: Errors) -> None:
    stage = Run(stages()[0])
    stage.checkpoint(12).write_bytes(b"")
    assert train("-b", "flow.yaml", "train.steps=1") == 0
    assert f"{stage.checkpoint(12)}: damaged" in errors()
    frozen = Run(flows()[-1]).load()[0]["system"]["first_stage.encoder.0.weight"]
    assert torch.equal(frozen, read_checkpoint(stage.checkpoint(6))["system"]["model.encoder.0.weight"])


def test_a_flow_outlives_the_folder_of_its_first_stage(here: Path) -> None:
    run = Run(flows()[0])
    before = figures(run)
    shutil.rmtree(stages()[0])
    assert evaluate("-p", run.folder) == 0
    assert figures(run) == before
    assert train("-r", run.folder, "train.epochs=3") == 0
    assert train("-r", run.folder, "--dry-run") == 0
    assert not stages()


def test_a_part_that_does_not_exist_is_told_with_those_that_do(here: Path, errors: Errors) -> None:
    for part, system in (("modle", "Autoencoder"), ("logvar", "Autoencoder"), ("model.encode", "Autoencoder")):
        assert train("-b", "flow.yaml", f"system.params.first_stage.params.part={part}", "--dry-run") == 2
        assert errors() == f"error: system: {system} has no part '{part}'; it has: model\n"


def test_a_first_stage_that_is_its_own_is_refused(bare: Path, errors: Errors) -> None:
    for name, first in (("a", "b"), ("b", "a"), ("self", "self")):
        tiny.write(bare / f"{name}.yaml", tiny.flow({"config": f"{first}.yaml"}) | {"name": name})
    for name, words in (("a", "a.yaml is its own first stage"), ("self", "self.yaml is its own first stage")):
        assert train("-b", f"{name}.yaml") == 2
        assert errors() == f"error: system.params.first_stage.params.config: {words}\n"
    assert not Path("logs").exists()


def test_mistakes_of_a_first_stage_are_found_with_ones_own(bare: Path, errors: Errors) -> None:
    tree = tiny.autoencoder()
    tree["system"]["params"]["model"]["params"]["widht"] = 4
    tiny.write(bare / "ae.yaml", tree)
    assert train("-b", "flow.yaml", "train.epochs=0") == 2
    lines = errors().splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
    assert "train.epochs" in lines[0] and "widht" in lines[1] and "ae.yaml" in lines[1]


def test_pretrained_answers_a_frozen_part(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iin.config.targets.PACKAGES", ("iin", "torch.nn", "tiny"))
    stage = Run(stages()[0])
    weights = read_checkpoint(stage.checkpoint(12))["system"]
    model = pretrained(run=str(stage.folder))
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, weights[f"model.{key}"]) for key, value in model.state_dict().items())
    assert type(pretrained("ae.yaml", part="")).__name__ == "Autoencoder"
    with pytest.raises(ValueError, match="pretrained: give config, run or checkpoint"):
        pretrained()
    shutil.rmtree("logs")
    with pytest.raises(RunError, match="no finished run of toy_ae below logs; train it with iin-train -b"):
        pretrained("ae.yaml")


def test_stages_upon_stages_are_trained_in_order(bare: Path, errors: Errors) -> None:
    top = tiny.flow({"config": "flow.yaml", "part": "first_stage"}) | {"name": "toy_top", "evaluate": {}}
    assert train("-b", tiny.write(bare / "top.yaml", top)) == 0
    words = errors()
    order = [words.index(f"Training {name} for") for name in ("toy_ae", "toy_flow", "toy_top")]
    assert order == sorted(order)
    shutil.rmtree(stages()[0])
    shutil.rmtree(flows()[0])
    assert evaluate("-p", only(bare / "logs").folder) == 0


def test_a_digest_tells_checkpoints_apart() -> None:
    def of(**named: str) -> str:
        return digest(tiny.flow({"config": tiny.autoencoder(), **named}))

    assert len({of(), of(checkpoint="/a/step-00000001.ckpt"), of(checkpoint="/b"), of(run="/a"), of(part="x")}) == 5
    assert of(part="model") == of()
    tree = tiny.flow({"config": tiny.autoencoder()})
    before = json.dumps(tree)
    digest(tree)
    assert json.dumps(tree) == before


# --- the plan ----------------------------------------------------------------------------------------------------


def test_dry_run_shows_the_plan_and_writes_nothing(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(bare.rglob("*"))
    assert train("-b", "flow.yaml", "--dry-run") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "toy_flow: FactorFlow",
        "  data.train: SidePairs, tiny",
        "  data.test: SidePairs, tiny",
        "  trained: 928 parameters",
        "  frozen: 1,584 parameters",
        "  steps: 12 (6 an epoch, batches of 4), lr 0.01",
        "  evaluated: nll, noise",
        "  system.params.first_stage: no finished run of toy_ae yet; it will be trained first:",
        "    toy_ae: Autoencoder",
        "      data.train: Sides, tiny",
        "      data.test: Sides, tiny",
        "      trained: 1,585 parameters",
        "      steps: 12 (6 an epoch, batches of 4), lr 0.01",
        "      evaluated: reconstruction, noise",
        "      results: logs/<time>_toy_ae/",
        "  results: logs/<time>_toy_flow/",
    ]
    assert not err and sorted(bare.rglob("*")) == before


def test_dry_run_of_a_finished_first_stage_names_its_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-b", "flow.yaml", "--dry-run") == 0
    assert f"  system.params.first_stage: {stages()[0]}\n" in capsys.readouterr().out


def test_a_checkpoint_from_elsewhere_takes_the_place_of_the_runs_own(here: Path, errors: Errors) -> None:
    """Of that very step too: what was measured there is not of these weights."""
    run = Run(flows()[0])
    before = figures(run, 6)
    content = read_checkpoint(run.checkpoint(6))
    for name, value in content["system"].items():
        if name.startswith("flow.") and value.is_floating_point():
            value += 0.125
    torch.save(content, "other.ckpt")
    assert train("-r", run.folder, "-c", "other.ckpt") == 0
    assert "Set aside, as *.old: step-00000012.ckpt, step-00000006.ckpt" in errors()
    after = figures(run, 6)
    assert after["weights"] != before["weights"] and after["nll/nats"] != before["nll/nats"]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    (tested,) = [line for line in lines if line["split"] == "test" and line["step"] == 6]
    assert tested["nll/nats"] == after["nll/nats"]


def test_dry_run_of_resuming_names_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-r", flows()[0], "train.epochs=4", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "  steps: 24 (6 an epoch" in out and f"  results: {flows()[0]}\n" in out
    assert Run(flows()[0]).state["step"] == 12


BAD = [
    (
        "system.params.flow.params.dim=5 system.params.factors=[2,3]",
        "system.params.flow.params.dim: expected an integer >= 2 and divisible by 2, found 5",
    ),
    ("system.params.factors=[2,3]", "factors: 2 + 3 = 5, but the flow has 4 dimensions"),
    ("system.params.factors=[1,1,2]", "system: factors: 3 sizes, but the data have 2 factors: side, residual"),
    ("data.train.params.classes=1", "data.train: pairs that share the class need at least 2 classes"),
    ("data.train.params.size=16", "data.train does not fit system: Autoencoder: expected images of shape [B, 1, 8, 8]"),
    (
        "data.test.params.channels=3",
        "data.test does not fit system: Autoencoder: expected images of shape [B, 1, 8, 8]",
    ),
    ("data.train.target=tiny.Sides", "data.train does not fit system: FactorFlow is trained on pairs"),
    ("data.test.target=tiny.Triples", "system: factors: 2 sizes, but the data have 3 factors: side, colour, residual"),
    ("train.batch_size=25", "train.batch_size: 25 is larger than the training set (24 items)"),
    ("train.batch_size=1", "ActNorm initialises from its first training batch and needs at least 2 values"),
    ("train.device=gpu", "train.device: gpu cannot be used here"),
    ("train.epochs=0", "train.epochs: expected an integer >= 1, found 0"),
    ("version=2", "version: this iin reads configurations of version 1, found 2 (command line)"),
    ("data.test.target=tiny.Sidse", "data.test.target: tiny.Sidse: there is no Sidse in tiny; did you mean Sides"),
]


@pytest.mark.parametrize(("override", "words"), BAD, ids=[override for override, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(bare: Path, errors: Errors, override: str, words: str) -> None:
    assert train("-b", "flow.yaml", *override.split()) == 2
    error = errors()
    assert error.startswith("error: ") and words in error and error.count("\n") == 1, error
    assert sorted(path.name for path in bare.iterdir()) == ["ae.yaml", "flow.yaml"]


def test_sizes_of_stage_and_flow_must_agree(bare: Path, errors: Errors) -> None:
    assert train("-b", "flow.yaml", "system.params.flow.params.dim=6", "system.params.factors=[3, 3]") == 2
    assert errors() == "error: system: flow works on 6 dimensions, but the first stage's code has 4\n"


def test_data_that_are_missing_are_told(bare: Path, errors: Errors) -> None:
    tree = tiny.autoencoder() | {"evaluate": {}}
    tree["data"]["test"] = tiny.node("iin.data.MNIST", split="test", root="nowhere")
    assert train("-b", tiny.write(bare / "ae.yaml", tree), "--dry-run") == 2
    error = errors()
    assert error.startswith("error: data.test: nowhere") and error.count("\n") == 1


def test_a_system_that_needs_values_to_be_tried_out_is_let_pass(bare: Path) -> None:
    tree = tiny.flow({"config": "ae.yaml"}) | {"evaluate": {}}
    tree["system"]["params"]["first_stage"] = tiny.node("tiny.Needy")
    assert train("-b", tiny.write(bare / "needy.yaml", tree)) == 0


def test_a_network_of_ones_own_that_does_not_fit_the_data_is_found_out_before(bare: Path, errors: Errors) -> None:
    tree = tiny.flow({"config": "ae.yaml"})
    tree["system"]["params"]["first_stage"] = tiny.node("tiny.Narrow")
    tiny.write(bare / "flow.yaml", tree)
    assert train("-b", "flow.yaml", "--dry-run") == 2
    line = errors()
    assert line.startswith("error: data.train does not fit system: ") and line.count("\n") == 1


def test_weights_that_a_network_loads_itself_are_tried_out_in_silence(bare: Path, errors: Errors) -> None:
    tree = tiny.flow({"config": "ae.yaml"})
    tree["system"]["params"]["first_stage"] = tiny.node("tiny.Narrow")
    for split in ("train", "test"):
        tree["data"][split]["params"]["size"] = 4
    tiny.write(bare / "flow.yaml", tree)
    assert train("-b", "flow.yaml", "--dry-run") == 0
    assert errors() == ""


def test_an_autoencoder_is_no_flow(bare: Path, errors: Errors) -> None:
    tree = tiny.flow({"config": "ae.yaml"})
    tree["system"]["params"]["flow"] = {"target": "tiny.Blind"}
    tiny.write(bare / "flow.yaml", tree)
    assert train("-b", "flow.yaml", "--dry-run") == 2
    assert "flow" in (line := errors()) and line.count("\n") == 1


def test_paths_resolve_beside_the_file_that_names_them(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration in a folder names its neighbours, wherever the command is started."""
    inside = bare / "inside"
    (inside / "digits").mkdir(parents=True)
    shutil.move(bare / "ae.yaml", inside / "ae.yaml")
    shutil.move(bare / "flow.yaml", inside / "flow.yaml")
    made = plan(configuration.load(["inside/flow.yaml"]), allow=["tiny"])
    assert made.stages[0].plan is not None and made.stages[0].plan.config.files == [inside / "ae.yaml"]
    tree = tiny.autoencoder()
    tree["data"]["test"] = tiny.node("iin.data.MNIST", split="test", root="digits")
    tiny.write(inside / "mnist.yaml", tree)
    with pytest.raises(ConfigError, match=f"data.test: {inside}/digits"):
        plan(configuration.load(["inside/mnist.yaml"]), allow=["tiny"])


# --- evaluation --------------------------------------------------------------------------------------------------


def test_evaluation_gives_the_figures_of_training_to_the_bit(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(flows()[0])
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for which, step in ((None, 12), (6, 6), ("last", 12), (run.checkpoint(6), 6)):
        logged = next(line for line in lines if line["split"] == "test" and line["step"] == step)
        logged = {key: value for key, value in logged.items() if key not in ("step", "epoch", "split")}
        before = figures(run, step)
        (run.folder / "eval" / f"step-{step:08d}" / "metrics.json").unlink()
        capsys.readouterr()
        assert evaluate("-p", run.config_file, *(["-c", which] if which else [])) == 0
        out = capsys.readouterr().out.splitlines()
        after = figures(run, step)
        assert after == before and {key: after[key] for key in logged} == logged
        assert set(logged) == {"nll/nats", "nll/bits_per_dim", "noise", "inversion/max"}
        assert out[-1] == f"Run folder: {run.folder}" and out[0].split()[0] == "nll/nats"
        pictures = {path.stem: path for path in (run.folder / "eval" / f"step-{step:08d}").glob("*.png")}
        factors = {f"{kind}_{name}" for kind in ("swap", "line") for name in ("side", "residual")}
        general = {"inputs", "reconstructions", "samples", "fixed_samples", "line", "traversals"}
        assert pictures.keys() == general | factors
        for name, path in pictures.items():
            assert path.read_bytes() == (run.folder / "images" / f"{name}_step-{step:08d}.png").read_bytes()


def test_a_factor_may_be_called_as_a_step_is(here: Path) -> None:
    tree = tiny.flow({"config": "ae.yaml"})
    for split in ("train", "test"):
        tree["data"][split]["target"] = "tiny.Stepped"
    assert train("-b", tiny.write(here / "odd.yaml", tree), "train.steps=6") == 0
    run = Run(flows()[-1])
    assert evaluate("-p", run.folder) == 0
    assert "Swap: a step-b" in (run.folder / "report.html").read_text()


def test_pictures_that_cannot_be_drawn_cost_no_figures(here: Path, errors: Errors) -> None:
    tree = tiny.autoencoder()
    tree["system"]["target"] = "tiny.Undrawn"
    assert train("-b", tiny.write(here / "undrawn.yaml", tree), "train.steps=6", "--logs", "undrawn") == 0
    (run,) = (here / "undrawn").glob("*/")
    errors()
    assert evaluate("-p", run) == 0
    assert "pictures: left out" in errors() and (run / "report.html").is_file()


def test_factors_may_be_called_anything(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tiny.flow({"config": "ae.yaml"}) | {"logs": ["tensorboard"]}
    for split in ("train", "test"):
        tree["data"][split]["target"] = "tiny.Odd"
    tree["evaluate"]["dims"] = tiny.node("iin.metrics.FactorDims")
    assert train("-b", tiny.write(here / "odd.yaml", tree), "train.steps=6") == 0
    run = Run(flows()[-1])
    assert evaluate("-p", run.folder) == 0
    said = capsys.readouterr()
    assert "dropped" not in said.err and "warning" not in said.err.lower()
    for files in (run.folder / "eval" / "step-00000006").glob("*.png"), (run.folder / "images").glob("*.png"):
        names = {path.stem.removesuffix("_step-00000006") for path in files}
        assert len(names) == 10 and {"swap_left-right-which-", "line_left-right-which-"} < names
    page = (run.folder / "report.html").read_text()
    assert "Swap: left/right: which?" in page
    assert "Each cell takes its left/right: which? from the image at the left" in page
    assert page.index("Swap: left/right") < page.index("Swap: residual") < page.index("Interpolation: left/right")
    assert "Units for left/right: which?" in page


@pytest.mark.parametrize("size", [1, 3])
def test_a_flow_may_be_looked_at_with_few_images_that_are_no_pairs(here: Path, size: int) -> None:
    run = Run(flows()[0])
    settings = ["data.test.target=tiny.Sides", f"train.eval_batch_size={size}", "evaluate=nll"]
    assert evaluate("-p", run.folder, *settings) == 0
    pictures = {path.stem: path for path in (run.folder / "eval" / "step-00000012").glob("*.png")}
    assert {"swap_side", "swap_residual", "line_side", "line", "inputs"} < pictures.keys() and len(pictures) == 10
    for path in pictures.values():
        with Image.open(path) as picture:
            assert picture.info["Title"] and picture.info["Description"]


def test_selected_figures_join_those_that_are_there(here: Path) -> None:
    run = Run(flows()[0])
    before = figures(run)
    path = run.folder / "eval" / "step-00000012" / "metrics.json"
    path.write_text(json.dumps(before | {"noise": 0.0, "elsewhere": 1.5}))
    assert evaluate("-p", run.folder, "evaluate=noise") == 0
    assert figures(run) == before | {"elsewhere": 1.5}
    assert evaluate("-p", run.folder, "evaluate=noise", "data.test.params.count=8") == 0
    assert set(before) - set(figures(run)) == {"nll/nats", "nll/bits_per_dim"}  # of other data, so they do not mix
    path.write_text(json.dumps(before | {"weights": "of another checkpoint", "elsewhere": 1.5}))
    assert evaluate("-p", run.folder, "evaluate=noise") == 0
    assert figures(run) == {key: value for key, value in before.items() if not key.startswith("nll/")}


def test_a_distance_says_what_it_was_measured_with(here: Path) -> None:
    tree = tiny.autoencoder(eval_batch_size=40) | {"evaluate": {"fid": tiny.node("iin.metrics.FID", images=30)}}
    tree["system"]["params"]["model"]["params"]["size"] = 32
    for split in ("train", "test"):
        tree["data"][split]["params"].update(size=32, count=40)
    assert train("-b", tiny.write(here / "fid.yaml", tree), "train.steps=1", "-q") == 0
    found = figures(Run(stages()[-1]), 1)
    assert {"fd_digits/samples", "fd_digits/reconstructions"} <= set(found)
    assert (found["extractor"], found["images"], found["data_source"]) == ("digits", 30, "tiny")
    # Another entry of another number of images does not pass its own off as that of both.
    tree["evaluate"]["other"] = tiny.node("tiny.Noise", fact="pixels")
    assert train("-b", tiny.write(here / "two.yaml", tree), "train.steps=1", "-q") == 0
    found = figures(Run(stages()[-1]), 1)
    assert found["extractor"] == "fid: digits, other: pixels" and found["images"] == 30
    fid = {"extractor": "digits", "images": 30, "kid": "100 subsets of 15"}
    figures_of = {"figures": [name for name in found if name.startswith(("fd_", "kid_"))]}
    assert found["entries"] == {"fid": fid | figures_of, "other": {"extractor": "pixels"}}


def test_figures_that_are_not_finite_are_still_json(here: Path) -> None:
    tree = tiny.autoencoder(steps=1) | {"evaluate": {"void": tiny.node("tiny.Void")}}
    assert train("-b", tiny.write(here / "void.yaml", tree)) == 0

    def refuse(text: str) -> None:
        raise AssertionError(text)

    path = stages()[-1] / "eval" / "step-00000001" / "metrics.json"
    assert json.loads(path.read_text(), parse_constant=refuse)["void"] == "nan"


def test_a_damaged_checkpoint_is_not_evaluated(here: Path, errors: Errors) -> None:
    run = Run(flows()[0])
    run.checkpoint(12).write_bytes(run.checkpoint(12).read_bytes()[:1000])
    last = run.folder / "checkpoints" / "last.ckpt"
    for which in ([], ["-c", "last"], ["-c", last]):
        assert evaluate("-p", run.folder, *which) == 0
        lines = [line for line in errors().splitlines() if "damaged or" in line]
        assert len(lines) == 1 and lines[0].startswith(f"{run.checkpoint(12)}: ")
    for which in ("12", str(run.checkpoint(12)), "step-00000012.ckpt"):
        assert evaluate("-p", run.folder, "-c", which) == 2
        error = errors()
        assert error.startswith(f"error: {run.checkpoint(12)}: damaged") and error.count("\n") == 1
    assert load(run.folder, allow=["tiny"]).step == 6


def test_what_cannot_be_evaluated_is_told(here: Path, errors: Errors) -> None:
    run, stage = Run(flows()[0]), Run(stages()[0])
    cases: list[tuple[list[Any], str]] = [
        (["-p", "nowhere"], "nowhere: not a run folder, it does not exist; expected the path of a folder below logs/"),
        (["-p", "logs"], "logs: not a run folder, it holds no config.yaml"),
        (["-p", run.folder, "-c", "7"], f"{run.folder}: no checkpoint of step 7; there are: 12, 6"),
        (["-p", run.folder, "-c", stage.checkpoint(6)], f"{stage.checkpoint(6)}: a checkpoint of another architecture"),
        (["-p", run.folder, "evaluate=dims"], "evaluate: no entry dims; "),
        (["-p", stage.folder, "evaluate.nll.target=iin.metrics.NLL"], "NLL needs a system with noisy_code"),
    ]
    for arguments, words in cases:
        assert evaluate(*arguments) == 2
        error = errors()
        assert error.startswith(f"error: {words}") and error.count("\n") == 1, error
    run.config_file.write_text(run.config_file.read_text().replace("version: 1", "version: 9"))
    assert evaluate("-p", run.folder) == 2
    assert "version: this iin reads configurations of version 1, found 9" in errors()
    new = Run.create("logs", "new", yaml.safe_load(stage.config_file.read_text()), digest="d")
    assert evaluate("-p", new.folder) == 2
    assert f"{new.folder}: no checkpoint yet; train first" in errors()


def test_overrides_of_an_evaluation_count(here: Path) -> None:
    run = Run(flows()[0])
    before = run.config_file.read_text()
    assert load(run, overrides=["system.params.rho=0.5"], allow=["tiny"]).system.rho == 0.5
    assert run.config_file.read_text() == before


# --- loading -----------------------------------------------------------------------------------------------------


def test_load_answers_a_system_that_is_ready(here: Path) -> None:
    run = iin.load(flows()[0], allow=["tiny"])
    assert run.step == 12 and not run.system.training and run.tree["name"] == "toy_flow"
    image = tiny.Sides(4)[[0, 1]].image
    assert torch.allclose(run.system.reconstruct(image), run.system.first_stage(image), atol=1e-4)
    assert iin.load(flows()[0], 6, allow=["tiny"]).step == 6
    with pytest.raises(ConfigError, match="if you trust package tiny"):
        iin.load(flows()[0])


def test_a_run_records_what_it_stands_on(here: Path) -> None:
    run = flows()[0]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["data"] == {"train": "tiny", "test": "tiny"}
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in torch.__version__
    assert environment["threads"] == 1 and environment["device"] == "cpu"
    tree = yaml.safe_load((run / "config.yaml").read_text())
    assert tree["version"] == 1
    assert tree["system"]["params"]["first_stage"]["params"]["config"]["name"] == "toy_ae"
    for name in ("checkpoints/last.ckpt", "metrics.jsonl", "images", "log.txt", "report.html", "state.json"):
        assert (run / name).exists(), name


def test_parts_are_taken_from_a_whole_tree(here: Path) -> None:
    configuration.check(configuration.load(["ae.yaml"]), allow=["tiny"])
    params = {"config": tiny.autoencoder(), "run": str(stages()[0])}
    assert type(trained_part(params)).__name__ == "Autoencoder" and part_of(tiny.Duel(), {"part": ""}) is not None
