"""The loop: a run that was stopped anywhere and resumed ends as one that was left alone, to the bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import assert_equal, die, killed, only, train

import iin
import iin.train as loop
from iin.config import Training
from iin.data import Images, Loader
from iin.evaluation import TestSet, evaluate, look, record
from iin.interrupt import Interrupt, Interrupted
from iin.models import Codes
from iin.run import Run, RunError, read_checkpoint
from iin.system import Picture
from iin.train import TrainingError, fit, schedule

STEPS = 12


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Configurations by name, and a run of each that nobody disturbed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alone")
    made: dict[str, Any] = {"folder": folder}

    def run(name: str, tree: dict[str, Any]) -> None:
        made[name] = tiny.write(folder / f"{name}.yaml", tree)
        assert train("-b", made[name], "--logs", folder / name) == 0
        made[f"{name} run"] = only(folder / name)

    run("autoencoder", tiny.autoencoder(checkpoint_every=5))
    stage = {"run": str(made["autoencoder run"].folder)}
    run("flow", tiny.flow(stage, checkpoint_every=5))
    duel = tiny.autoencoder(checkpoint_every=5) | {"system": tiny.node("tiny.Duel"), "evaluate": {}}
    run("duel", duel)
    return made


def figures(run: Run, split: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def at_step(step: int, act: Callable[[], Any]) -> None:
    """Do something after so many steps of this process."""
    inner, seen = loop._step, 0

    def counted(*arguments: Any) -> Any:
        nonlocal seen
        result = inner(*arguments)
        seen += 1
        if seen == step:
            act()
        return result

    loop._step = counted  # type: ignore[assignment]


# --- stopping and going on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step", [pytest.param(n, marks=() if n in (1, 5, 6, 8, 12) else pytest.mark.slow) for n in range(1, STEPS + 1)]
)
def test_a_flow_that_is_stopped_at_any_step_goes_on_as_if_it_was_not(
    alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(loop, "_step", loop._step)  # undone at the end
    at_step(step, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train("-b", alone["flow"], "--logs", tmp_path) == 130
    run = only(tmp_path)
    assert run.state["state"] == "interrupted" and run.state["step"] == step
    assert read_checkpoint(run.checkpoints()[0])["step"] == step
    assert train("-r", run.folder) == 0
    assert run.state["state"] == "finished"
    assert_equal(run, alone["flow run"])


@pytest.mark.parametrize(
    ("name", "step"),
    [
        pytest.param("flow", 3, id="flow before its first checkpoint"),
        pytest.param("flow", 5, id="flow when a checkpoint is due"),
        pytest.param("flow", 11, id="flow shortly before the end"),
        pytest.param("autoencoder", 3, id="autoencoder before its first checkpoint"),
        pytest.param("autoencoder", 8, id="autoencoder between checkpoints"),
        pytest.param("duel", 8, id="two players between checkpoints"),
    ],
)
def test_a_killed_run_goes_on_as_if_it_was_not(alone: dict[str, Any], tmp_path: Path, name: str, step: int) -> None:
    killed(["-b", alone[name], "--logs", tmp_path], lambda: at_step(step, die))
    run = only(tmp_path)
    assert run.state["state"] == "running"
    assert train("-r", run.folder) == 0
    if name == "duel":
        assert (run.folder / "metrics.jsonl").read_bytes() == (alone["duel run"].folder / "metrics.jsonl").read_bytes()
    else:
        assert_equal(run, alone[f"{name} run"])


def at_call(module: Any, name: str, call: int = 1) -> None:
    """Die at a call of a function, before it does anything."""
    inner, seen = getattr(module, name), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1
        return die() if seen == call else inner(*arguments, **named)

    setattr(module, name, counted)


def while_saving(step: int) -> None:
    """Die when the checkpoint of a step is written but has not got its name yet."""
    replace = os.replace

    def dying(source: Any, target: Any) -> None:
        die() if str(target).endswith(f"step-{step:08d}.ckpt") else replace(source, target)

    os.replace = dying  # type: ignore[assignment]


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda: at_call(loop, "evaluate"), id="before the first evaluation"),
        pytest.param(lambda: at_call(loop, "evaluate", 2), id="before the last evaluation"),
        pytest.param(lambda: at_call(loop, "record", 1), id="before figures are written"),
        pytest.param(lambda: at_call(loop, "look", 1), id="after figures are written"),
        pytest.param(lambda: while_saving(5), id="while the first checkpoint is saved"),
        pytest.param(lambda: while_saving(10), id="while a checkpoint is saved"),
        pytest.param(lambda: while_saving(12), id="while the last checkpoint is saved"),
    ],
)
def test_a_run_killed_at_an_awkward_moment_goes_on_as_if_it_was_not(
    alone: dict[str, Any], tmp_path: Path, moment: Callable[[], None]
) -> None:
    killed(["-b", alone["flow"], "--logs", tmp_path], moment)
    run = only(tmp_path)
    assert train("-r", run.folder) == 0
    assert_equal(run, alone["flow run"])
    assert not list(run.folder.rglob("*.tmp"))


def test_a_signal_at_the_very_end_is_heard(
    alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Else what comes after a first stage would start as if nobody had asked to stop."""
    look, calls = loop.look, []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        pictures = look(*arguments, **named)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return pictures

    monkeypatch.setattr(loop, "look", interrupted)
    assert train("-b", alone["flow"], "--logs", tmp_path) == 143
    run = only(tmp_path)
    assert run.state["state"] == "interrupted"
    assert train("-r", run.folder) == 0
    assert "Nothing left to train" in capsys.readouterr().err
    assert_equal(run, alone["flow run"])


def test_evaluation_that_skips_epochs_is_resumed_so_too(
    alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["-b", alone["flow"], "train.evaluate_every=2", "train.epochs=3"]
    assert train(*arguments, "--logs", tmp_path / "a") == 0
    assert [line["step"] for line in figures(only(tmp_path / "a"), "test")] == [12, 18]
    for step in (6, 12):
        logs = tmp_path / str(step)
        killed([*arguments, "--logs", logs], lambda step=step: at_step(step + 1, die))
        assert train("-r", only(logs).folder) == 0
        assert_equal(only(logs), only(tmp_path / "a"))


def test_a_run_ends_at_the_step_it_is_told(alone: dict[str, Any], tmp_path: Path) -> None:
    assert train("-b", alone["flow"], "train.steps=8", "--logs", tmp_path) == 0
    run = only(tmp_path)
    assert [line["step"] for line in figures(run, "test")] == [6, 8]
    assert [line["step"] for line in figures(run, "train")] == [1, 2, 4, 6, 8]
    assert (run.folder / "eval" / "step-00000008" / "metrics.json").is_file()
    assert os.readlink(run.folder / "checkpoints" / "last.ckpt") == "step-00000008.ckpt"
    # The rest of the way, beginning in the middle of an epoch, is that of a run which never ended there.
    assert train("-r", run.folder, "train.steps=null") == 0
    (a,), (b,) = ([run.checkpoints()[0] for run in (one,)] for one in (run, alone["flow run"]))
    assert torch.equal(
        read_checkpoint(a)["system"]["flow.blocks.0.loc"], read_checkpoint(b)["system"]["flow.blocks.0.loc"]
    )


def test_the_record_beyond_the_resumed_step_is_cut(alone: dict[str, Any], tmp_path: Path) -> None:
    killed(["-b", alone["flow"], "--logs", tmp_path], lambda: at_step(9, die))
    run = only(tmp_path)
    record_file = run.folder / "metrics.jsonl"
    assert [line["step"] for line in figures(run, "train")] == [1, 2, 4, 6, 8]
    newest = read_checkpoint(run.checkpoints()[0])["step"]
    assert newest == 6
    with record_file.open("ab") as file:
        file.write(b'{"step": 9, "epoch": 1, "spl')  # half a line
    killed(["-r", run.folder], lambda: at_step(1, die))
    assert [line["step"] for line in figures(run, "train")] == [1, 2, 4, 6]


def test_an_older_checkpoint_can_be_gone_on_from(alone: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    assert train("-b", alone["flow"], "train.keep=9", "--logs", tmp_path) == 0
    run = only(tmp_path)
    capsys.readouterr()
    assert train("-r", run.folder, "-c", 5) == 0
    error = capsys.readouterr().err
    assert "at step 5 of 12 (step-00000005.ckpt)" in error
    assert "Set aside, as *.old: step-00000012.ckpt, step-00000010.ckpt, step-00000006.ckpt" in error
    assert_equal(run, alone["flow run"])
    assert not list(run.folder.glob("checkpoints/*.old"))  # come again, so not kept twice


def test_a_file_from_elsewhere_can_be_gone_on_from(alone: dict[str, Any], tmp_path: Path) -> None:
    assert train("-b", alone["flow"], "train.keep=9", "--logs", tmp_path) == 0
    run = only(tmp_path)
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(run.checkpoint(5).read_bytes())
    for path in run.checkpoints():
        path.unlink()
    (run.folder / "metrics.jsonl").write_bytes(b"")
    assert train("-r", run.folder, "-c", copy) == 0
    assert [line["step"] for line in figures(run, "train")] == [6, 8, 10, 12]
    assert read_checkpoint(run.checkpoints()[0])["step"] == 12


def test_a_file_from_elsewhere_takes_the_place_of_the_runs_own_of_that_step(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    assert train("-b", alone["flow"], "train.keep=9", "--logs", tmp_path / "own") == 0
    assert train("-b", alone["flow"], "train.keep=9", "train.lr=0.02", "--logs", tmp_path / "other") == 0
    run, other = only(tmp_path / "own"), only(tmp_path / "other")
    before = {line["step"]: line for line in figures(run, "test")}
    assert train("-r", run.folder, "-c", other.checkpoint(6)) == 0  # the end of the first epoch, evaluated
    after, theirs = ({line["step"]: line for line in figures(each, "test")} for each in (run, other))
    assert after[6] == theirs[6] != before[6]
    assert 6 not in [line["step"] for line in figures(run, "train")]  # the run's own loss of that step is not theirs
    assert read_checkpoint(run.checkpoint(12))["step"] == 12


def test_a_file_with_other_optimisers_is_refused_before_anything_is_set_aside(
    alone: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    assert train("-b", alone["flow"], "train.keep=9", "--logs", tmp_path) == 0
    run = only(tmp_path)
    content = read_checkpoint(run.checkpoint(5))
    content["optimizers"]["main"]["param_groups"][0]["params"] = [0]
    torch.save(content, tmp_path / "odd.ckpt")
    before = sorted(path.name for path in run.folder.glob("checkpoints/*"))
    assert train("-r", run.folder, "-c", tmp_path / "odd.ckpt") == 2
    assert "the checkpoint's optimiser 'main' is of another system" in capsys.readouterr().err
    assert sorted(path.name for path in run.folder.glob("checkpoints/*")) == before
    assert_equal(run, alone["flow run"])


def test_no_steps_evaluate_a_system_as_it_was_built_and_can_be_gone_on_from(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    assert train("-b", alone["flow"], "train.steps=0", "--logs", tmp_path) == 0
    run = only(tmp_path)
    assert run.state["state"] == "finished" and run.state["step"] == 0
    (line,) = figures(run, "test")
    assert line["step"] == 0 and line["epoch"] == 0 and "nll/nats" in line
    assert (run.folder / "report.html").is_file() and list(run.folder.glob("images/*_step-00000000.png"))
    assert train("-r", run.folder) == 0
    assert len(figures(run, "test")) == 1
    assert train("-r", run.folder, "train.steps=12", "train.checkpoint_every=5") == 0
    weights = [read_checkpoint(each.checkpoint(12))["system"] for each in (run, alone["flow run"])]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    alone: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    assert train("-b", alone["flow"], "--logs", tmp_path) == 0
    run = only(tmp_path)
    run.checkpoints()[0].write_bytes(b"")
    capsys.readouterr()
    assert train("-r", run.folder) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "damaged or" in line]
    assert len(lines) == 1 and "step-00000012.ckpt: damaged" in lines[0] and "using the one before it" in lines[0]
    assert_equal(run, alone["flow run"])


def test_changed_settings_are_listed_and_kept(alone: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    assert train("-b", alone["flow"], "--logs", tmp_path) == 0
    run = only(tmp_path)
    digest = run.state["digest"]
    capsys.readouterr()
    assert train("-r", run.folder, "train.epochs=3", "train.lr=0.001") == 0
    assert "Changed: train.epochs 2 -> 3, train.lr 0.01 -> 0.001\n" in capsys.readouterr().err
    assert (run.state["state"], run.state["step"], run.state["factors"]) == ("finished", 18, ["side", "residual"])
    assert run.state["digest"] != digest  # not to be mistaken for the run that it was
    assert figures(run, "train")[-1]["lr"] == 0.001
    assert train("-r", run.folder) == 0  # the settings are the run's own by now
    assert "is at step 18 of 18" in capsys.readouterr().err


def test_settings_that_make_no_sense_do_not_spoil_a_run(alone: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    assert train("-b", alone["flow"], "--logs", tmp_path) == 0
    run = only(tmp_path)
    files = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and path.name != "log.txt"}
    for change, words in {
        "train.batch_size=1000": "train.batch_size: 1000 is larger than the training set (24 items)",
        "system.params.flow.params.blocks=3": "a checkpoint of another architecture: flow.blocks.10.biases.0",
        "train.device=gpu": "train.device: gpu cannot be used here",
        "system.params.first_stage.params.config=mnist_ae": "the first stage of a run cannot be changed",
    }.items():
        capsys.readouterr()
        assert train("-r", run.folder, change) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert files == {path: path.read_bytes() for path in files}


def test_a_finished_run_is_resumed_without_harm(alone: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    assert train("-b", alone["flow"], "--logs", tmp_path) == 0
    run = only(tmp_path)
    assert train("-r", run.folder) == 0
    assert f"Nothing left to train: {run.folder} is at step 12 of 12" in capsys.readouterr().err
    assert_equal(run, alone["flow run"])


def test_checkpoints_of_another_systems_optimisers_are_refused(alone: dict[str, Any]) -> None:
    states = read_checkpoint(alone["duel run"].checkpoints()[0])["optimizers"]
    optimizers = loop.make_optimizers(tiny.Duel(), Training())
    loop.restore(optimizers, states)
    assert differ(optimizers["left"].state_dict()["state"], states["left"]["state"]) == 0
    with pytest.raises(TrainingError, match="the checkpoint has optimisers left, but the system minimises left, right"):
        loop.restore(optimizers, {"left": states["left"]})
    states["left"]["param_groups"][0]["params"] = [0, 1]
    with pytest.raises(TrainingError, match="the checkpoint's optimiser 'left' is of another system"):
        loop.restore(optimizers, states)


def differ(a: dict[Any, Any], b: dict[Any, Any]) -> float:
    return max(float((a[i][key] - b[i][key]).abs().max()) for i in a for key in a[i])


# --- what training does ------------------------------------------------------------------------------------------


def test_the_loss_falls(alone: dict[str, Any], tmp_path: Path) -> None:
    for name, steps in (("autoencoder", 36), ("flow", 36)):
        settings = ["train.epochs=6", "train.evaluate_every=6", "train.checkpoint_every=null", "evaluate=none"]
        assert train("-b", alone[name], *settings, "--logs", tmp_path / name) == 0
        losses = [line["loss"] for line in figures(only(tmp_path / name), "train")]
        assert losses and only(tmp_path / name).state["step"] == steps
        assert sum(losses[-5:]) < sum(losses[:5])


def test_each_player_has_its_own_figures_and_moves(alone: dict[str, Any]) -> None:
    run = alone["duel run"]
    lines = figures(run, "train")
    assert set(lines[0]) == {"step", "epoch", "split", "left/loss", "right/loss", "right/seen", "lr"}
    system = read_checkpoint(run.checkpoints()[0])["system"]
    assert all(not torch.equal(system[key], torch.ones(2)) for key in ("left", "right"))
    assert lines[0]["right/seen"] != 1.0  # computed after the left one's step


def test_the_first_stage_is_unchanged_by_training(alone: dict[str, Any]) -> None:
    stage = read_checkpoint(alone["autoencoder run"].checkpoints()[0])["system"]
    system = read_checkpoint(alone["flow run"].checkpoints()[0])["system"]
    frozen = {key.removeprefix("first_stage."): v for key, v in system.items() if key.startswith("first_stage.")}
    model = {key.removeprefix("model."): v for key, v in stage.items() if key.startswith("model.")}
    assert frozen.keys() == model.keys() and frozen
    assert all(torch.equal(frozen[key], model[key]) for key in frozen)


def test_the_first_stage_is_in_eval_mode_and_frozen_while_training(
    alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spying(system: Any, *arguments: Any) -> Any:
        stage = system.first_stage
        seen.append((system.training, stage.training, any(p.requires_grad for p in stage.parameters())))
        return step(system, *arguments)

    step = loop._step
    monkeypatch.setattr(loop, "_step", spying)
    assert train("-b", alone["flow"], "--logs", tmp_path) == 0
    assert seen == [(True, False, False)] * STEPS  # after the evaluation too


def test_keep_and_best_bound_the_disk(alone: dict[str, Any], tmp_path: Path) -> None:
    settings = ["train.checkpoint_every=1", "train.keep=2", "train.epochs=3", "train.best=noise"]
    for mode, pick in (("min", min), ("max", max)):
        logs = tmp_path / mode
        assert train("-b", alone["flow"], *settings, f"train.best_mode={mode}", "--logs", logs) == 0
        run = only(logs)
        best = pick(figures(run, "test"), key=lambda line: line["noise"])["step"]
        kept = [int(path.stem[5:]) for path in run.checkpoints()]
        assert kept == sorted({18, 17, best}, reverse=True)
        assert os.readlink(run.folder / "checkpoints" / "last.ckpt") == "step-00000018.ckpt"


def test_a_figure_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "toy", {"name": "toy"}, digest="d")
    lines = [{"step": step, "epoch": 0, "split": "test", "x": x} for step, x in ((1, "nan"), (2, 3.0), (3, "-inf"))]
    lines.append({"step": 4, "epoch": 0, "split": "train", "x": 0.0})
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert loop.best_step(run, Training(best="x")) == 2
    assert loop.best_step(run, Training(best="y")) is None
    assert loop.best_step(run, Training(best=None)) is None


def test_the_gradient_is_clipped_when_asked(alone: dict[str, Any], tmp_path: Path) -> None:
    weights = []
    for clip in ("null", "1e-12"):
        logs = tmp_path / clip
        settings = [f"train.clip={clip}", "train.steps=1", "evaluate=none"]
        assert train("-b", alone["autoencoder"], *settings, "--logs", logs) == 0
        weights.append(read_checkpoint(only(logs).checkpoints()[0])["system"]["logvar"])
    # Adam divides by the gradient's size, but for its epsilon: only a tiny gradient moves less.
    assert abs(float(weights[0])) > 100 * abs(float(weights[1]))


def test_schedule_is_constant_and_then_falls_one_step_late_as_published() -> None:
    assert [schedule(step, 2.0, None, 10) for step in (0, 5, 10)] == [2.0, 2.0, 2.0]
    assert [schedule(step, 2.0, 10, 10) for step in (0, 9, 12)] == [2.0, 2.0, 2.0]  # it never comes to that
    assert [schedule(step, 2.0, 6, 10) for step in (0, 6, 7, 8, 9, 11, 13)] == [2.0, 2.0, 2.0, 1.5, 1.0, 0.0, 0.0]


def test_an_objective_that_moves_nothing_is_named() -> None:
    duel = tiny.Duel()
    optimizers = loop.make_optimizers(duel, Training())
    del optimizers["right"]
    with pytest.raises(TrainingError, match=r"yielded an objective 'right', but .* for 'left'; expected"):
        loop._step(duel, Images(torch.zeros(2, 1, 4, 4), None), 0, optimizers, 1e-3, None)


def test_workers_change_nothing(alone: dict[str, Any], tmp_path: Path) -> None:
    assert train("-b", alone["flow"], "train.workers=1", "--logs", tmp_path) == 0
    assert_equal(only(tmp_path), alone["flow run"])


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_data_that_are_not_finite_stop_training_at_once(alone: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    train_data = Loader(tiny.SidePairs(24), 4, seed=loop.mix(0, 0), shuffle=True)
    index = train_data.visits(1)[2][0]  # in the third batch of the second epoch
    step = next(i for i, visit in enumerate(train_data.visits(0)) if index in visit) + 1
    arguments = ["-b", alone["flow"], f"data.train.params.broken={index}", "train.checkpoint_every=1"]
    assert train(*arguments, "--logs", tmp_path) == 2
    run = only(tmp_path)
    kept = f"the last checkpoint is {run.checkpoint(step - 1)}" if step > 1 else "no checkpoint was written yet"
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error == [
        f"error: loss 'main' is nan at step {step} (epoch 0, batch {step - 1}); the batch itself is not finite "
        f"(image); stopped before the update, {kept}"
    ]
    assert run.state["state"] == "failed" and run.state["step"] == step - 1
    assert "TrainingError: loss 'main' is nan" in (run.folder / "log.txt").read_text()
    if step > 1:
        assert run.load()[0]["step"] == step - 1


def bursting(alone: dict[str, Any], **when: int) -> str:
    tree = tiny.autoencoder(checkpoint_every=2)
    tree["system"] = tiny.node("tiny.Bursting", model=tree["system"]["params"]["model"], **when)
    return tiny.write(alone["folder"] / "bursting.yaml", tree)


def test_a_loss_that_is_not_finite_stops_training_at_once(alone: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    assert train("-b", bursting(alone, step=8), "--logs", tmp_path) == 2
    run = only(tmp_path)
    assert (
        "error: loss 'autoencoder' is inf at step 9 (epoch 1, batch 2); the data are finite: lower train.lr; "
        f"stopped before the update, the last checkpoint is {run.checkpoint(8)}\n"
    ) in capsys.readouterr().err
    assert run.load()[0]["step"] == 8


def test_weights_that_are_not_finite_keep_the_last_good_checkpoint(
    alone: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    assert train("-b", bursting(alone, weights=7), "--logs", tmp_path) == 2
    run = only(tmp_path)
    assert "error: step 8: weights logvar are not finite, so no checkpoint" in capsys.readouterr().err
    assert run.load()[0]["step"] == 6


def test_a_full_disk_ends_training_in_one_line_and_costs_nothing(
    alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    fsync, calls = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        if os.path.basename(os.readlink(f"/proc/self/fd/{handle}")).startswith(".step-"):
            calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert train("-b", alone["flow"], "--logs", tmp_path) == 2
    monkeypatch.undo()
    run = only(tmp_path)
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error == [
        f"error: {run.checkpoint(6)}: cannot save the checkpoint (No space left on device); "
        f"the last good one is {run.checkpoint(5)}"
    ]
    assert not list(run.folder.rglob("*.tmp"))
    assert train("-r", run.folder) == 0  # and once there is room again
    assert_equal(run, alone["flow run"])


def test_an_evaluation_that_fails_loses_nothing(
    alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def failing(*_: Any) -> None:
        raise ValueError("no figure today")

    monkeypatch.setattr(tiny.Noise, "__call__", failing)
    assert train("-b", alone["flow"], "--logs", tmp_path) == 2
    assert "error: no figure today\n" in capsys.readouterr().err
    monkeypatch.undo()
    assert train("-r", only(tmp_path).folder) == 0
    assert_equal(only(tmp_path), alone["flow run"])


# --- parts -------------------------------------------------------------------------------------------------------


def test_interrupt_asks_first_and_insists_then(capfd: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        interrupt.check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.asked == signal.SIGTERM
        with pytest.raises(Interrupted, match="SIGTERM"):
            interrupt.check()
        with pytest.raises(Interrupted):
            next(iter(TestSet([tiny.Sides(4)[[0]]], interrupt=interrupt)))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
    assert capfd.readouterr().err.count("once more to stop at once") == 1


def test_a_figure_does_not_depend_on_what_else_is_measured() -> None:
    system, test = tiny.Duel(), TestSet(Loader(tiny.Sides(10), 4))
    both = evaluate(system, test, {"a": tiny.Noise("a"), "b": tiny.Noise("b")}, seed=1)
    assert evaluate(system, test, {"b": tiny.Noise("b")}, seed=1) == {"b": both["b"]}
    assert evaluate(system, test, {"b": tiny.Noise("b")}, seed=2) != {"b": both["b"]}
    assert both["a"] != both["b"] and system.training


def test_two_entries_of_one_figure_are_told(caplog: pytest.LogCaptureFixture) -> None:
    system, test = tiny.Duel(), TestSet(Loader(tiny.Sides(10), 4))
    found = evaluate(system, test, {"a": tiny.Noise("x"), "b": tiny.Noise("x")}, seed=1)
    assert found == evaluate(system, test, {"a": tiny.Noise("x")}, seed=1)
    assert "evaluate.b: another entry gives x too; the first one counts" in caplog.text


def test_figures_of_the_same_weights_are_merged_and_of_others_replaced(tmp_path: Path) -> None:
    run, system = Run.create(tmp_path, "toy", {"name": "toy"}, digest="d"), tiny.Duel()
    facts = {"data_source": "tiny"}

    def written(figures: dict[str, float], metrics: dict[str, Any], facts: dict[str, Any] = facts) -> dict[str, Any]:
        record(run, 5, system, figures, facts, metrics)
        content = json.loads((run.folder / "eval" / "step-00000005" / "metrics.json").read_text())
        assert content.pop("step") == 5
        content.pop("weights")
        return content

    digits, inception = tiny.Noise(fact="digits"), tiny.Noise(fact="inception")
    assert written({"a": 1.0, "b": 2.0}, {"fid": digits}) == {
        "data_source": "tiny", "a": 1.0, "b": 2.0, "extractor": "digits", "entries": {"fid": {"extractor": "digits"}},
    }  # fmt: skip
    assert written({"b": 3.0}, {"noise": tiny.Noise()})["extractor"] == "digits"
    merged = written({"c": float("nan")}, {"other": inception})
    assert merged == {
        "data_source": "tiny",
        "a": 1.0,
        "b": 3.0,
        "c": "nan",
        "extractor": "fid: digits, other: inception",
        "entries": {"fid": {"extractor": "digits"}, "other": {"extractor": "inception"}},
    }
    assert "a" not in written({"b": 4.0}, {}, {"data_source": "elsewhere"})
    written({"a": 1.0}, {})
    with torch.no_grad():
        system.left += 1
    assert "a" not in written({"b": 4.0}, {})
    (run.folder / "eval" / "step-00000005" / "metrics.json").write_text("{damaged")
    assert written({"b": 4.0}, {}) == {"data_source": "tiny", "b": 4.0, "entries": {}}


def test_fit_locks_nothing_and_needs_no_files_but_the_run(tmp_path: Path) -> None:
    """The loop gets everything built: it can be used without a configuration."""
    run, system = Run.create(tmp_path, "toy", {"name": "toy"}, digest="d"), tiny.Duel()
    train_data = Loader(tiny.Sides(10), 5, shuffle=True)
    fit(system, train_data, TestSet(Loader(tiny.Sides(4), 4)), {}, Training(epochs=2), run, [], seed=0)
    assert run.load()[0]["step"] == 4
    with pytest.raises(RunError):
        run.load("3")


# --- pictures


class Artist(tiny.Duel):
    """Shows the test images, and noise."""

    def images(self, batch: Any) -> dict[str, Any]:
        if batch.image.shape[-1] != 8:
            raise RuntimeError("mat1 and mat2 shapes\ncannot be multiplied")
        return {"bare": batch.image, "drawn": Picture(torch.rand(4, 1, 8, 8), "Drawn", "At random.", rows=(1,))}


def test_pictures_depend_on_seed_and_step_alone() -> None:
    system, test = Artist(), TestSet([tiny.Sides(4)[range(4)], tiny.Sides(6)[range(6)]])
    first = look(system, test, 3, seed=1)
    torch.rand(7)
    assert system.training and torch.equal(first["bare"].images, tiny.Sides(4)[range(4)].image)
    assert first["drawn"]._replace(images=None) == Picture(None, "Drawn", "At random.", (1,))  # type: ignore[arg-type]
    assert torch.equal(look(system, test, 3, seed=1)["drawn"].images, first["drawn"].images)
    for step, seed in ((4, 1), (3, 2)):
        assert not torch.equal(look(system, test, step, seed=seed)["drawn"].images, first["drawn"].images)


def test_pictures_that_cannot_be_made_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    system = Artist()
    assert look(system, TestSet([tiny.Sides(4, size=4)[range(4)]]), 3) == {} and system.training
    assert caplog.messages == [
        "no pictures: Artist.images failed (RuntimeError: mat1 and mat2 shapes cannot be multiplied)"
    ]


def test_new_samples_at_each_evaluation_and_fixed_ones(alone: dict[str, Any]) -> None:
    """And those of another seed are others, but for the fixed ones."""
    for name in ("autoencoder run", "flow run"):
        run = alone[name]
        loaded, again = (iin.load(run.folder, 6, allow=["tiny"]).system for _ in range(2))
        batches = TestSet([tiny.SidePairs(8)[range(8)]])
        shown = [look(loaded, batches, 6), look(loaded, batches, 12), look(again, batches, 6, seed=1)]
        samples, fixed = ([found[name].images for found in shown] for name in ("samples", "fixed_samples"))
        assert not torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])
        assert torch.equal(fixed[0], fixed[1]) and torch.equal(fixed[0], fixed[2])
        for step in (6, 12):
            assert len(list(run.folder.glob(f"images/*samples_step-{step:08d}.png"))) == 2


def test_codes_that_are_not_finite_are_to_blame() -> None:
    values = torch.zeros(2, 2, 3)
    batch = Images(Codes(values), torch.zeros(2))  # type: ignore[arg-type]
    assert loop._blame(batch) == "the data are finite: lower train.lr"
    values[1, 0, 0] = float("nan")
    assert loop._blame(batch) == "the batch itself is not finite (image)"
