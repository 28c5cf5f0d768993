"""The commands: what they accept, what they print, and how they end."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from runs import assert_equal, evaluate, only, start, train

import iin.train as loop
from iin.cli import eval as eval_command
from iin.cli import train as train_command
from iin.config import shipped
from iin.run import Run

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with ``ae.yaml`` in it."""
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path / "ae.yaml", tiny.autoencoder(steps=2) | {"quick": {"train": {"steps": 1}}})
    return tmp_path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[str, str]]:
    return lambda: tuple(capsys.readouterr())  # type: ignore[return-value]


# --- what they accept --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["-b", "ae.yaml", "seed=3", "train.lr=1e-3"], {"seed": 3, "lr": 1e-3}),
        (["seed=3", "-b", "ae.yaml", "train.lr=1e-3"], {"seed": 3, "lr": 1e-3}),
        (["seed=3", "train.lr=1e-3", "-b", "ae.yaml"], {"seed": 3, "lr": 1e-3}),
        (["-t", "-b", "ae.yaml", "-n", "mine"], {"name": "mine"}),
        (["--train", "--base", "ae.yaml", "--name", "mine"], {"name": "mine"}),
        (["-b", "ae.yaml", "more.yaml"], {"seed": 7, "lr": 0.5, "steps": 2}),
        (["-b", "more.yaml", "ae.yaml"], {"seed": 7, "lr": 1e-2, "steps": 2}),
        (["-b", "ae.yaml", "--quick"], {"steps": 1}),
        (["-b", "ae.yaml", "--quick", "train.steps=5"], {"steps": 5}),
    ],
)
def test_arguments_in_any_order(
    here: Path, said: Callable[[], tuple[str, str]], arguments: list[str], found: dict[str, Any]
) -> None:
    tiny.write(here / "more.yaml", {"seed": 7, "train": {"lr": 0.5}})
    assert train(*arguments, "--print-config") == 0
    out, err = said()
    tree = yaml.safe_load(out)
    assert {key: {**tree, **tree["train"]}[key] for key in found} == found
    assert "quick" not in tree and not err
    assert sorted(os.listdir()) == ["ae.yaml", "more.yaml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either -b FILE ... to start a run, or -r RUN"),
        (["-b", "ae.yaml", "-r", "logs/x"], "give either -b FILE"),
        (["-r", "a", "-p", "b"], "give either -b FILE"),
        (["-r", "a", "--quick"], "--quick and --name start a run"),
        (["-r", "a", "-n", "b"], "--quick and --name start a run"),
        (["-b", "ae.yaml", "-c", "5"], "-c names a checkpoint of the run given with -r"),
        (["-b", "ae.yaml", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["-b", "ae.yaml", "--res", "x"], "unrecognized arguments: --res"),
    ],
)
def test_arguments_that_make_no_sense(
    here: Path, said: Callable[[], tuple[str, str]], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as end:
        train_command.main(arguments)
    assert end.value.code == 2 and words in said()[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-b", "nowhere.yaml"], "nowhere.yaml: no such configuration file"),
        (["-b", "mnist_din"], "did you mean mnist_diin"),
        (["-b", "ae.yaml", "train.epohcs=3"], "train.epohcs: unknown key; did you mean epochs"),
        (["-b", "ae.yaml", "seed=1", "seed=2"], "seed: set twice (command line)"),
        (["seed", "-b", "ae.yaml"], "seed: expected key.sub=value (command line)"),
        (["-b", "ae.yaml", "-n", "a/b"], "name: expected letters, digits"),
        (["-b", "ae.yaml", "system.target=os.system"], "system.target: os.system lies outside"),
        (["-b", "ae.yaml", "--allow", "no_such_package"], "--allow no_such_package: no module no_such_package in"),
        (["-r", "nowhere"], "nowhere: not a run folder, it does not exist"),
        (["-r", "."], ".: not a run folder, it holds no config.yaml"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    here: Path, said: Callable[[], tuple[str, str]], arguments: list[str], words: str
) -> None:
    assert train(*arguments) == 2
    out, err = said()
    assert err.startswith("error: ") and words in err and err.count("\n") == 1, err
    assert not out and os.listdir() == ["ae.yaml"]


def test_all_mistakes_are_listed_at_once(here: Path, said: Callable[[], tuple[str, str]]) -> None:
    assert train("-b", "ae.yaml", "train.epochs=0", "system.params.kl_weight=-1", "nme=x") == 2
    lines = said()[1].splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)


def test_toys_need_to_be_allowed(here: Path, said: Callable[[], tuple[str, str]]) -> None:
    assert train_command.main(["-b", "ae.yaml"]) == 2
    lines = said()[1].splitlines()
    assert lines and all("allow it with --allow tiny" in line for line in lines)


@pytest.mark.parametrize(
    "name", [path.stem for path in sorted(shipped().glob("*.yaml")) if "system:" in path.read_text()]
)
@pytest.mark.parametrize("quick", [False, True], ids=["", "quick"])
def test_shipped_configurations_plan(here: Path, said: Callable[[], tuple[str, str]], name: str, quick: bool) -> None:
    assert train_command.main(["-b", name, "--dry-run", *(["--quick"] if quick else [])]) == 0
    out, err = said()
    assert out.startswith(f"{name}: ") and "  steps: " in out and not err
    assert os.listdir() == ["ae.yaml"]


# --- what they print ---------------------------------------------------------------------------------------------


def test_the_run_folder_is_the_last_line(here: Path, said: Callable[[], tuple[str, str]]) -> None:
    assert train("-b", "ae.yaml") == 0
    out, err = said()
    folder = only(here / "logs").folder.relative_to(here)
    assert out == f"Report: {folder}/report.html\nRun folder: {folder}\n"
    assert f"Training toy_ae for 2 steps: {folder}\n" in err and "step 2, evaluated in" in err
    assert "Training toy_ae" in (folder / "log.txt").read_text()
    assert train("-r", folder) == 0
    assert said()[0] == out
    assert train("-p", folder / "config.yaml", "-t") == 0
    assert said()[0] == out
    assert evaluate("-p", folder / "config.yaml") == 0
    out, err = said()
    figures = [line.split() for line in out.splitlines()[:-2]]
    assert [name for name, _ in figures] == ["reconstruction/mse", "reconstruction/mae", "noise"]
    assert all(float(value) == float(value) for _, value in figures)
    assert out.splitlines()[-2:] == [f"Report: {folder}/report.html", f"Run folder: {folder}"] and not err


def test_quiet_prints_results_only(here: Path, said: Callable[[], tuple[str, str]]) -> None:
    assert train("-b", "ae.yaml", "-q") == 0
    out, err = said()
    assert out.count("\n") == 2 and not err


def test_warnings_are_lines_of_the_log(
    here: Path, said: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import warnings

    def warning(*_: Any) -> dict[str, float]:
        warnings.warn("few images", stacklevel=1)
        return {}

    monkeypatch.setattr(tiny.Noise, "__call__", warning)
    show = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = warnings.showwarning
        assert train("-b", "ae.yaml") == 0
        assert warnings.showwarning is before
    assert warnings.showwarning is show
    assert "\nfew images\n" in said()[1]


@pytest.mark.parametrize("by", ["--logs", "IIN_LOGS", "default"])
def test_where_runs_are_kept(here: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "IIN_LOGS":
        monkeypatch.setenv("IIN_LOGS", "elsewhere")
    assert train("-b", "ae.yaml", "-n", "mine", *(["--logs", "elsewhere"] if by == "--logs" else [])) == 0
    run = only(here / ("logs" if by == "default" else "elsewhere"))
    assert run.folder.name.endswith("_mine")


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_logs_that_cannot_be_written_are_one_line(here: Path, said: Callable[[], tuple[str, str]], kind: str) -> None:
    (here / "file").write_text("")
    logs = "file" if kind == "file" else "file/logs"
    assert train("-b", "ae.yaml", "--logs", logs) == 2
    err = said()[1]
    assert err.startswith(f"error: {logs}: cannot make a run folder there (") and err.count("\n") == 1
    assert sorted(os.listdir()) == ["ae.yaml", "file"]


def test_optional_loggers_are_checked_before_anything_is_trained(
    here: Path, said: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def lacking(name: str, *more: Any) -> Any:
        return None if name == "tensorboard" else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", lacking)
    assert train("-b", "ae.yaml", "logs=[tensorboard]") == 2
    error = said()[1]
    assert error.startswith(
        "error: logs: tensorboard is not installed; install it with: pip install 'iin[tensorboard]'"
    )
    assert error.count("\n") == 1
    assert os.listdir() == ["ae.yaml"]
    assert train("-b", "ae.yaml") == 0
    said()
    assert train("-r", only(here / "logs").folder, "logs=[tensorboard]") == 2
    assert said()[1].startswith("error: logs: tensorboard is not installed")


def test_unforeseen_errors_are_one_line_that_says_how_to_see_more(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any) -> None:
        raise ZeroDivisionError("a mistake of the program")

    monkeypatch.setattr(tiny.Noise, "__call__", failing)
    assert train("-b", "ae.yaml") == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert line == "error: ZeroDivisionError: a mistake of the program (not foreseen; IIN_DEBUG=1 shows where)"
    assert only(here / "logs").state["state"] == "failed"
    monkeypatch.setenv("IIN_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        train("-b", "ae.yaml")


# --- how they end ------------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def slow(folder: Path, **params: Any) -> str:
    tree = tiny.autoencoder(log_every=1)
    tree["system"] = tiny.node("tiny.Slow", model=tree["system"]["params"]["model"], **params)
    return tiny.write(folder / "slow.yaml", tree)


def started(logs: Path, what: bytes = b'"step": 1,') -> Callable[[], bool]:
    """Whether a run below ``logs`` has recorded its first step."""
    return lambda: any(what in path.read_bytes() for path in logs.glob("*/metrics.jsonl"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_stops(here: Path, number: int, code: int) -> None:
    config = slow(here)
    process = start(["-b", config])
    wait_for(started(here / "logs"))
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    run = only(here / "logs")
    state = run.state
    assert state["state"] == "interrupted" and 1 <= state["step"] < 12
    assert run.load()[0]["step"] == state["step"]
    assert train("-r", run.folder) == 0
    assert train("-b", config, "--logs", "alone") == 0
    assert_equal(run, only(here / "alone"))


def test_a_signal_while_evaluating_loses_nothing(here: Path) -> None:
    tree = tiny.autoencoder()
    tree["evaluate"]["resting"] = tiny.node("tiny.Resting", rest=0.1)
    config = tiny.write(here / "resting.yaml", tree)

    def mark() -> None:
        inner = loop.evaluate

        def marking(*arguments: Any, **named: Any) -> Any:
            (here / "evaluating").write_text("")
            return inner(*arguments, **named)

        loop.evaluate = marking

    process = start(["-b", config], mark)
    wait_for((here / "evaluating").exists)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    run = only(here / "logs")
    assert run.state["state"] == "interrupted" and run.state["step"] == 6
    assert b'"test"' not in (run.folder / "metrics.jsonl").read_bytes()
    assert train("-r", run.folder, "-q") == 0
    assert train("-b", config, "--logs", "alone") == 0
    assert_equal(run, only(here / "alone"))


def test_a_second_signal_stops_at_once(here: Path) -> None:
    process = start(["-b", slow(here, rest=60, once=3)])
    wait_for(started(here / "logs", b'"step": 3,'))
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    assert process.is_alive()  # it wants to finish its step
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130 and time.monotonic() - began < 20
    assert only(here / "logs").state["state"] == "interrupted"


def test_a_run_in_use_is_refused(here: Path, said: Callable[[], tuple[str, str]]) -> None:
    process = start(["-b", slow(here, rest=60, once=1)])
    wait_for(started(here / "logs"))
    run = only(here / "logs")
    assert train("-r", run.folder) == 2
    assert said()[1] == f"error: {run.folder}: in use by process {process.pid}; wait for it, or stop it\n"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert run.state["state"] == "running"
    assert train("-r", run.folder, "--dry-run") == 0


def test_two_processes_at_once_get_two_folders(here: Path) -> None:
    processes = [start(["-b", "ae.yaml"]) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    folders = [Run(path) for path in sorted((here / "logs").glob("*/"))]
    assert len(folders) == 2
    assert_equal(*folders)


@pytest.mark.slow
def test_modules_run_as_commands(here: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-m", "iin.cli.train", "-b", "ae.yaml", "--allow", "tiny", "-t"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    folder = only(here / "logs").folder.relative_to(here)
    assert done.stdout.splitlines()[-1] == f"Run folder: {folder}"
    assert "\r" not in done.stderr and "%|" not in done.stderr  # no progress bar where there is no terminal


def test_eval_needs_a_run(said: Callable[[], tuple[str, str]]) -> None:
    with pytest.raises(SystemExit) as end:
        eval_command.main([])
    assert end.value.code == 2 and "-p" in said()[1]


def test_a_table_lines_figures_up() -> None:
    assert eval_command.table({"a": 1.0, "long/name": 0.123456789}) == (
        "a                     1\nlong/name      0.123457"
    )
    assert eval_command.table({}) == ""


# --- the hard way ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("only_one", ["autoencoder", "flow"])
def test_kill_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_one: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import kill_resume

    monkeypatch.setenv("IIN_LOGS", "unset at the end")
    torch.set_num_threads(1)
    assert kill_resume.torture(tmp_path, kills=2, seed=1, only=only_one)
