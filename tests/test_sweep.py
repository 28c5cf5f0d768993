"""Sweeps: what the command line says, what is checked before, and that the same command goes on where it stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import assert_equal, only, train
from tiny import autoencoder, flow, node, write

from iin import experiment, sweep
from iin.config import ConfigError
from iin.run import Run

TESTS = Path(__file__).parent


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two configurations, where processes find the tests' own targets."""
    monkeypatch.chdir(tmp_path)
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write(tmp_path / "ae.yaml", autoencoder(cache="off"))
    write(tmp_path / "flow.yaml", flow({"config": "ae.yaml"}, cache="off"))
    return tmp_path


def planned(*words: str, file: str = "ae.yaml", overrides: Sequence[str] = ()) -> list[sweep.Point]:
    return sweep.plan([file], sweep.axes(words), overrides, allow=["tiny"])


# --- what is asked for ---------------------------------------------------------------------------------------------


def test_values_are_separated_as_in_a_list_of_yaml() -> None:
    words = ["a.b=0,0.01,1e-3", "factors=[2,2],[1, 3]", "c={x: 1, y: 2},null", "d='p,q',r s", "seed=7"]
    assert sweep.axes(words) == {
        "a.b": [0, 0.01, 1e-3],
        "factors": [[2, 2], [1, 3]],
        "c": [{"x": 1, "y": 2}, None],
        "d": ["p,q", "r s"],
        "seed": [7],
    }


def test_one_and_true_are_two_values() -> None:
    found = sweep.axes(["a=1,true", "b=[0,1],[false,1]", "c={x: 0},{x: false}", "d=0,false,null"])
    assert [[repr(value) for value in values] for values in found.values()] == [
        ["1", "True"], ["[0, 1]", "[False, 1]"], ["{'x': 0}", "{'x': False}"], ["0", "False", "None"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("seed", "--sweep seed: expected key.sub=value,value,..."),
        ("=1,2", "--sweep =1,2: expected key.sub=value,value,..."),
        ("seed=", "--sweep seed=: no value for seed"),
        ("seed=1,2,1", "--sweep seed=1,2,1: the value 1 a second time"),
        ("seed=1,1.0", "--sweep seed=1,1.0: the value 1.0 a second time"),
        ("a=[0,true],[0,true]", "--sweep a=[0,true],[0,true]: the value [0, true] a second time"),
        ("a={x: 1},{x: 1}", '--sweep a={x: 1},{x: 1}: the value {"x": 1} a second time'),
        ("seed=1],[2", "--sweep seed=1],[2: "),
        ("seed=.nan", "--sweep seed=.nan: expected a finite number"),
    ],
)
def test_a_word_that_is_no_axis_is_refused(word: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep.axes([word])
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(complaint)


def test_a_key_stands_there_once() -> None:
    with pytest.raises(ConfigError, match="seed a second time; give all its values at once"):
        sweep.axes(["seed=1", "seed=2"])


def test_the_points_are_the_product_and_the_last_key_is_fastest(here: Path) -> None:
    points = planned("train.lr=0.1,0.01", "seed=0,1")
    assert [point.label for point in points] == ["lr=0.1 seed=0", "lr=0.1 seed=1", "lr=0.01 seed=0", "lr=0.01 seed=1"]
    assert [point.plan.settings.lr for point in points] == [0.1, 0.1, 0.01, 0.01]
    assert len({point.plan.digest for point in points}) == 4
    assert points[2].start == ["-b", "ae.yaml", "train.lr=0.01", "seed=0", "-n", "toy_ae_lr-0.01_seed-0"]


def test_names_are_fit_for_folders(here: Path) -> None:
    wide = "{a: {target: iin.metrics.Reconstruction}, b: {target: tiny.Noise, params: {name: " + "x" * 90 + "}}}"
    (point,) = planned("train.betas=[0.9, 0.99]", f"evaluate={wide}")
    assert len(point.start[-1]) <= 100
    (point,) = planned("train.betas=[0.9, 0.99]")
    assert point.start[-1] == "toy_ae_betas-0.9-0.99"


def test_all_points_are_checked_and_a_mistake_names_its_point(here: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        planned("train.lr=0.1,-1", "seed=0,1", overrides=["train.keep=0"])
    shared, own = caught.value.mistakes
    assert shared.startswith("train.keep: ")
    assert own.startswith("lr=-1 seed=0 (and 1 more): train.lr: ")


def test_two_points_that_would_be_one_run_are_refused(here: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        planned("train.log_every=2,3", "seed=0")
    assert caught.value.mistakes == [
        "--sweep: log_every=2 seed=0 and log_every=3 seed=0 would be the same run, since train.log_every leaves its "
        "weights as they are; set it once, before --sweep"
    ]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-r", "logs/x", "--sweep", "seed=0,1"], "--sweep starts runs: give -b FILE"),
        (["-b", "ae.yaml", "--jobs", "2"], "--jobs and --list-commands belong to --sweep"),
        (["-b", "ae.yaml", "--sweep", "seed=0", "--jobs", "0"], "--jobs: expected a number >= 1, found 0"),
        (["-b", "ae.yaml", "--sweep", "seed=0", "--print-config"], "--print-config prints one configuration"),
        (["-b", "ae.yaml", "--sweep", "seed=0", "--devices", "2"], "use --jobs N, or --list-commands"),
    ],
)
def test_options_that_do_not_go_together(
    words: list[str], complaint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train(*words)
    assert end.value.code == 2 and complaint in capsys.readouterr().err


def test_a_dry_run_lists_the_points_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    words = ["-b", "flow.yaml", "--sweep", "system.params.rho=0.5,0.9", "seed=0,1", "--dry-run"]
    assert train(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 runs of toy_flow, 4 of them to be trained:"
    assert lines[1:5] == [f"  rho={rho} seed={seed}  new" for rho in (0.5, 0.9) for seed in (0, 1)]
    assert lines[5] == "  first, once for all: toy_ae" and lines[7] == "rho=0.5 seed=0:"
    assert sorted(here.rglob("*")) == before


def test_commands_for_a_launcher_go_on_with_what_was_begun(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = planned("seed=0,1,2")
    for point, state in zip(points, ("finished", "interrupted"), strict=False):
        run = Run.create("logs", point.plan.name, point.plan.tree, digest=point.plan.digest)
        run.set_state(state, 12)
        if state == "finished":
            run.save(12, {}, {})
    options = ["--allow", "tiny", "--devices", "2", "--list-commands"]
    assert train("-b", "ae.yaml", "train.keep=2", "--sweep", "seed=0,1,2", *options) == 0
    begun = only(here / "logs", "*-2")
    assert capsys.readouterr().out.splitlines() == [
        f"iin-train -r logs/{begun.folder.name} --allow tiny --allow tiny --devices 2",
        "iin-train -b ae.yaml train.keep=2 seed=2 --allow tiny --allow tiny --devices 2",
    ]


# --- training, with processes in the place of which something quick stands -------------------------------------------


def in_this_process(point_fails: Callable[[list[str]], bool] = lambda words: False) -> Any:
    """What takes the place of starting ``iin-train`` in a process of its own."""

    def started(words: Sequence[str], slot: int, jobs: int) -> Any:
        code = 2 if point_fails(list(words)) else train(*words)
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])

    return started


def test_what_is_finished_is_left_alone_and_first_stages_are_trained_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "_started", in_this_process())
    assert train("-b", "flow.yaml", "train.epochs=1", "--sweep", "seed=0,1") == 0
    assert len(list(here.glob("logs/*_toy_ae"))) == 1
    made = sorted(path.name for path in here.glob("logs/*_toy_flow_*"))
    assert [name.partition("_")[2] for name in made] == ["toy_flow_seed-0", "toy_flow_seed-1"]
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("point", "seed="))]
    assert rows[0] == ["point", "state", "nll/nats", "folder"] and rows[1][:2] == ["seed=0", "finished"]
    assert rows[2][-1] == f"logs/{made[1]}" and float(rows[2][2]) > 0

    def refuse(words: Sequence[str], *_: Any) -> Any:
        raise AssertionError(words)

    monkeypatch.setattr(sweep, "_started", refuse)
    assert train("-b", "flow.yaml", "train.epochs=1", "--sweep", "seed=0,1") == 0
    assert "2 of 2 runs are finished already" in capsys.readouterr().err


def test_a_point_that_fails_does_not_end_the_others(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "_started", in_this_process(lambda words: "seed=0" in words))
    assert train("-b", "ae.yaml", "train.epochs=1", "--sweep", "seed=0,1") == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "error: 1 of 2 runs failed: seed=0 (failed with exit code 2)"
    states = [line.split()[1] for line in said.out.splitlines() if line.startswith("seed=")]
    assert states == ["failed", "finished"]


def test_a_point_that_another_sweep_has_finished_meanwhile_is_not_trained_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts, own = [], in_this_process()

    def started(words: Sequence[str], slot: int, jobs: int) -> Any:
        if not starts:  # while the first point is trained here, the other sweep trains the second
            assert train(*[word.replace("seed=0", "seed=1") for word in words]) == 0
        starts.append(words)
        return own(words, slot, jobs)

    monkeypatch.setattr(sweep, "_started", started)
    assert train("-b", "ae.yaml", "train.epochs=1", "--sweep", "seed=0,1") == 0
    assert len(starts) == 1 and "seed=0" in starts[0]
    assert "[2/2] seed=1: finished meanwhile by another process, logs/" in capsys.readouterr().err


def test_a_run_that_another_process_trains_is_left_to_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep, "_started", in_this_process())
    made = planned("seed=0", overrides=["train.epochs=1"])[0].plan
    words = ["-b", "ae.yaml", "train.epochs=1", "--sweep", "seed=0,1"]
    run = Run.create("logs", made.name, made.tree, digest=made.digest)
    with run.locked():
        assert train(*words) == 2
    said, busy = capsys.readouterr(), f"in use by process {os.getpid()}; wait for it, or stop it"
    assert said.err.splitlines()[-1] == f"error: 1 of 2 runs failed: seed=0 ({busy})"
    rows = [line for line in said.out.splitlines() if line.startswith("seed=")]
    assert busy in rows[0] and rows[1].split()[1] == "finished"

    def elsewhere(words: Sequence[str], *_: Any) -> Any:
        """The run is held by another process, which finishes it before this one's sweep is over."""
        train(*words)
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])

    monkeypatch.setattr(sweep, "_started", elsewhere)
    assert train(*words) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seed=")]
    assert [row.split()[1] for row in rows] == ["finished", "finished"]


def test_a_first_stage_that_fails_is_named_and_not_tried_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = yaml.safe_load((here / "ae.yaml").read_text())
    tree["system"] = node("tiny.Bursting", **tree["system"]["params"], step=3)
    write(here / "ae.yaml", tree)
    monkeypatch.setattr(sweep, "_started", in_this_process())
    assert train("-b", "flow.yaml", "--sweep", "seed=0,1") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: 2 of 2 runs failed: seed=0 (first stage toy_ae: loss ")
    assert len(list(here.glob("logs/*"))) == 1


# --- training in processes ---------------------------------------------------------------------------------------


def command(*words: str) -> subprocess.Popen[str]:
    """``iin-train`` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "iin.cli.train", *words, "--allow", "tiny"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about"
        time.sleep(0.02)


def states(here: Path) -> dict[str, str]:
    runs = [Run(path.parent) for path in here.glob("logs/*/config.yaml")]
    return {run.folder.name.partition("_")[2]: run.state.get("state", "") for run in runs}


def begun(here: Path) -> int:
    """How many runs have made a step."""
    return sum(file.stat().st_size > 0 for file in here.glob("logs/*/metrics.jsonl"))


@pytest.fixture
def slow(here: Path) -> list[str]:
    """Two points that rest before each step."""
    tree = autoencoder(log_every=1, cache="off")
    tree["system"] = node("tiny.Slow", **tree["system"]["params"], rest=0.4)
    write(here / "slow.yaml", tree)
    return ["-b", "slow.yaml", "--sweep", "seed=0,1", "--jobs", "2"]


@pytest.mark.slow
def test_a_signal_saves_all_and_the_same_command_goes_on(here: Path, slow: list[str]) -> None:
    process = command(*slow)
    wait_for(lambda: list(states(here).values()) == ["running"] * 2)
    wait_for(lambda: begun(here) == 2)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 130, said
    assert set(states(here).values()) == {"interrupted"}
    assert all(Run(path.parent).checkpoints() for path in here.glob("logs/*/config.yaml"))
    assert "0 of 2 runs are finished; the same command goes on" in said and "Stopped (SIGINT)" in said

    again = command(*slow)
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert states(here) == {"toy_ae_seed-0": "finished", "toy_ae_seed-1": "finished"}
    assert "[1/2] seed=0: Resuming" in said and "[2/2] seed=1: Resuming" in said
    # As if it had never been stopped, and as a run by itself.
    tree = yaml.safe_load((here / "slow.yaml").read_text())
    tree["system"]["params"]["rest"] = 0
    write(here / "slow.yaml", tree)
    alone = experiment.train(planned("seed=1", file="slow.yaml")[0].plan)
    assert_equal(only(here / "logs", "*seed-1"), alone)


@pytest.mark.slow
def test_a_sweep_that_is_killed_leaves_no_process_behind_and_goes_on(here: Path, slow: list[str]) -> None:
    process = command(*slow)
    wait_for(lambda: list(states(here).values()) == ["running"] * 2)
    wait_for(lambda: begun(here) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: set(states(here).values()) == {"interrupted"})
    again = command(*slow)
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and set(states(here).values()) == {"finished"}, said


@pytest.mark.slow
def test_a_process_that_dies_is_named_and_the_rest_is_trained(here: Path, slow: list[str]) -> None:
    process = command(*slow[:-2], "--jobs", "1")
    wait_for(lambda: list(states(here).values()) == ["running"] and begun(here) == 1)
    run = only(here / "logs")
    os.kill(int((run.folder / ".lock").read_text().split()[1]), signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "error: 1 of 2 runs failed: seed=0 (ended by SIGKILL (out of memory, perhaps))" in said
    assert states(here) == {"toy_ae_seed-0": "running", "toy_ae_seed-1": "finished"}
