"""Training in several processes: the same as in one, and what becomes of a job that loses one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import only, train
from torch import Tensor

from iin.run import Run, read_checkpoint

PROCESSES = 2

needs_two = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < PROCESSES and not torch.cuda.is_available(), reason="needs two processor cores"
)
pytestmark = needs_two

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}


def command(*arguments: str | Path, program: str = "iin.cli.train") -> list[str]:
    return [sys.executable, "-m", program, *map(str, arguments), "--allow", "tiny"]


def together(*arguments: str | Path, program: str = "iin.cli.train") -> subprocess.CompletedProcess[str]:
    """A command in two processes."""
    line = command(*arguments, "--devices", str(PROCESSES), program=program)
    return subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def losses(run: Run) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.endswith("loss")} for line in lines if line["split"] == "train"]


def figures(run: Run) -> dict[str, float]:
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    (found,) = [line for line in lines if line["split"] == "test"]
    return {key: value for key, value in found.items() if isinstance(value, float)}


def adversarial() -> dict[str, Any]:
    """Both players from the first step on, with what depends on the whole batch: ActNorm, and the adaptive weight."""
    tree = tiny.autoencoder()
    tree["system"]["params"] |= {
        "discriminator": tiny.node("iin.models.PatchDiscriminator", channels=1, width=4, layers=1, norm="actnorm"),
        "calibrate": True,
    }
    return tree


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A trained first stage, as configurations name it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("stage")
    assert train("-b", tiny.write(folder / "ae.yaml", tiny.autoencoder(steps=6)), "--logs", folder) == 0
    return {"run": str(only(folder).folder)}


def case(name: str, stage: dict[str, str]) -> dict[str, Any]:
    tree = adversarial() if name == "adversarial" else tiny.flow(stage)
    if name.startswith("conditional"):
        tree = tiny.conditional(stage)
    tree["train"] |= {"log_every": 1, "checkpoint_every": 1, "keep": 100, "lr": 1e-3}
    tree["train"]["evaluate_every"] = 2
    if name.endswith("sharded"):
        tree["train"]["shard"] = True
        tree["system"]["params"]["flow"]["params"]["hidden"] = 80  # blocks that are worth splitting
    return tree


def near(found: Any, expected: Any, tolerance: float, where: str = "") -> None:
    """Compare nested states, each tensor by its own largest value."""
    if isinstance(expected, Tensor):
        scale = max(1e-3, float(expected.double().abs().max())) * (2 if where.endswith("_sq") else 1)  # of squares
        error = float((found.double() - expected.double()).abs().max())
        assert error <= tolerance * scale, f"{where}: {error} of {scale}"
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            near(found[key], expected[key], tolerance, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            near(one, other, tolerance, f"{where}/{index}")
    else:
        assert found == expected, where


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow", "adversarial", "sharded", "conditional", "conditional sharded"])
def test_two_processes_train_as_one_does(name: str, stage: dict[str, str], tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "config.yaml", case(name, stage))
    assert train("-b", path, "--logs", tmp_path / "one") == 0
    done = together("-b", path, "--logs", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    one, two = only(tmp_path / "one"), only(tmp_path / "two")
    before, after = (read_checkpoint(run.checkpoint(1)) for run in (one, two))
    # Adam's first moment after one step is the gradient, times a number.
    near(after["optimizers"], before["optimizers"], 1e-6, "optimizers")
    norms = {key for key in before["system"] if key.endswith((".loc", ".scale", ".initialized"))}
    assert norms
    near(*({key: found["system"][key] for key in norms} for found in (after, before)), 1e-6, "ActNorm")
    # Adam's first update is nearly the sign of the gradient: where that is rounding, so is the update.
    near(after["system"], before["system"], 1e-3, "system")
    for found, expected in zip(losses(two), losses(one), strict=True):
        assert found == pytest.approx(expected, rel=1e-5), losses(two)
    found, expected = figures(two), figures(one)
    assert found.keys() == expected.keys()
    assert {k: v for k, v in found.items() if k != "noise"} == pytest.approx(
        {k: v for k, v in expected.items() if k != "noise"}, rel=1e-3, abs=1e-6
    )
    assert [path.name for path in two.checkpoints()] == [path.name for path in one.checkpoints()]
    assert (two.folder / "report.html").exists() and two.state["state"] == "finished"
    assert len(list((tmp_path / "two").iterdir())) == 1


def until(run: Path, step: int) -> Run:
    """Wait until the one run below a folder has come so far."""
    for _ in range(1200):
        for file in run.glob("*/metrics.jsonl"):
            if any(json.loads(line)["step"] >= step for line in file.read_text().splitlines() if line.endswith("}")):
                return Run(file.parent)
        time.sleep(0.1)
    raise AssertionError(f"no step {step} in {run}")


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"iin.cli.train" in Path(f"/proc/{child}/cmdline").read_bytes()]


def long(stage: dict[str, str], tmp_path: Path) -> str:
    tree = tiny.flow(stage, log_every=1, checkpoint_every=5, epochs=100_000, evaluate_every=100_000)
    return tiny.write(tmp_path / "long.yaml", tree)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job_and_another_number_goes_on(stage: dict[str, str], tmp_path: Path) -> None:
    line = command("-b", long(stage, tmp_path), "--logs", tmp_path / "logs", "--devices", "2")
    with subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        run = until(tmp_path / "logs", 12)
        os.kill(children(job.pid)[1], signal.SIGKILL)
        _, said = job.communicate(timeout=120)
    assert job.returncode == 2
    assert "error: process 1 of 2 was ended by SIGKILL" in said and "iin-train -r RUN" in said, said
    assert said.count("error:") <= 2 and "Traceback" not in said, said
    assert run.state["state"] in ("failed", "running", "interrupted")
    step = run.load()[0]["step"]
    assert step >= 10
    assert train("-r", run.folder, f"train.steps={step + 3}") == 0
    assert run.state["state"] == "finished" and run.state["step"] == step + 3


@pytest.mark.slow
def test_a_job_that_is_asked_to_stop_saves_and_goes_on(stage: dict[str, str], tmp_path: Path) -> None:
    line = command("-b", long(stage, tmp_path), "--logs", tmp_path / "logs", "--devices", "2")
    with subprocess.Popen(
        line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as job:
        run = until(tmp_path / "logs", 7)
        os.killpg(job.pid, signal.SIGINT)  # as a terminal does: everybody hears it
        _, said = job.communicate(timeout=120)
    assert job.returncode == 130, said
    assert "everything is saved" in said and "error" not in said and "Traceback" not in said, said
    assert run.state["state"] == "interrupted"
    step = run.state["step"]
    assert read_checkpoint(run.checkpoints()[0])["step"] == step
    done = together("-r", run.folder, f"train.steps={step + 3}")
    assert done.returncode == 0, done.stderr
    assert run.state["state"] == "finished" and run.state["step"] == step + 3


def test_more_processes_than_the_machine_has_room_for(stage: dict[str, str], tmp_path: Path) -> None:
    line = command("-b", tiny.write(tmp_path / "flow.yaml", tiny.flow(stage)), "--logs", tmp_path / "l")
    done = subprocess.run([*line, "--devices", "999"], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and not (tmp_path / "l").exists()
    assert (
        done.stderr.startswith("error: --devices: 999 asked for, but this machine has ")
        and done.stderr.count("\n") == 1
    )


def test_one_process_that_is_asked_for_is_the_one_that_was_asked(
    stage: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iin.cli.launch.launch", lambda *_: pytest.fail("it starts itself again, and again"))
    path = tiny.write(tmp_path / "flow.yaml", tiny.flow(stage, steps=2))
    assert train("-b", path, "--logs", tmp_path / "l", "--devices", "1") == 0
    assert only(tmp_path / "l").state["step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("rehearse", [(), ("--dry-run",)])
def test_batches_that_cannot_be_divided(stage: dict[str, str], tmp_path: Path, rehearse: tuple[str, ...]) -> None:
    path = tiny.write(tmp_path / "flow.yaml", tiny.flow(stage, batch_size=5))
    done = together("-b", path, "--logs", tmp_path / "l", *rehearse)
    assert done.returncode == 2 and not (tmp_path / "l").exists()
    expected = "error: train.batch_size: 5 (toy_flow) cannot be divided among 2 processes; use a multiple of 2\n"
    assert done.stderr == expected


@pytest.mark.slow
def test_processes_that_disagree_about_the_configuration(stage: dict[str, str], tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "flow.yaml", tiny.flow(stage))
    script = tmp_path / "start.py"
    script.write_text(
        "import os, sys\n"
        "from iin.cli.train import main\n"
        f"sys.exit(main(['-b', {path!r}, '--logs', {str(tmp_path / 'l')!r}, '--allow', 'tiny', "
        "f'train.lr=0.{1 + int(os.environ[\"RANK\"])}']))\n"
    )
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and not (tmp_path / "l").exists()
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert said == ["error: train.lr: 0.2 in process 1, but 0.1 in process 0; give all the same settings"]
