"""The script for Slurm, with commands in the place of Slurm's that only note what they are asked for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from runs import only
from torch.distributed.run import get_args_parser

from iin.run import read_checkpoint

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "slurm.sh"

COMMANDS = {
    # Starts what is behind its options once for each node, and answers the largest exit code.
    "srun": """
        echo "srun $*" >> calls
        while [[ "$1" == --* ]]; do shift; done
        tasks=() code=0
        for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do "$@" & tasks+=($!); done
        echo "${tasks[@]}" > tasks
        for task in "${tasks[@]}"; do wait "$task" || code=$?; done
        exit "$code"
    """,
    "scancel": """
        echo "scancel $*" >> calls
        kill -TERM $(cat tasks)
    """,
    "scontrol": """
        if [ "$1" = show ]; then printf '%s\\n' "${HOSTS:-node7}" node8; else echo "scontrol $*" >> calls; fi
    """,
    "torchrun": """
        echo "cores $SRUN_CPUS_PER_TASK patience $TORCH_ELASTIC_SHUTDOWN_TIMEOUT" >> calls
        line="torchrun$(printf ' <%s>' "$@")"
        echo "$line" >> calls  # in one piece: the nodes write at the same time
        trap 'exit ${STOPPED:-1}' TERM
        for ((turn = 0; turn < ${TURNS:-0}; turn++)); do touch begun; sleep 0.1; done
        exit "${CODE:-0}"
    """,
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder, and a job of two nodes with four GPUs each."""
    (tmp_path / "bin").mkdir()
    for name, body in COMMANDS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}")
        path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for key in [key for key in os.environ if re.match("SLURM|SRUN|IIN_LOGS|TORCH_ELASTIC", key)]:
        monkeypatch.delenv(key)
    job = {"ID": "123456", "NAME": "my faces", "NODELIST": "node[7-8]", "NUM_NODES": "2"}
    for key, value in job.items():
        monkeypatch.setenv(f"SLURM_JOB_{key}", value)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "32")
    return tmp_path


def submit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, timeout=60)


def calls() -> list[str]:
    path = Path("calls")
    return path.read_text().splitlines() if path.exists() else []


def trained() -> list[str]:
    """The arguments that each node's torchrun hands to iin-train; they are the same."""
    found = [re.findall("<(.*?)>", line) for line in calls() if line.startswith("torchrun")]
    assert len(found) == 2 and found[0] == found[1]
    return found[0][found[0].index("iin.cli.train") + 1 :]


def begun(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    Path(folder, "config.yaml").touch()


def test_bash_reads_it() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    asked = re.findall(r"^#SBATCH (\S+)$", SCRIPT.read_text(), re.MULTILINE)
    assert {"--signal=B:USR1@120", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= set(asked)


def test_one_torchrun_a_node_with_a_process_for_each_gpu(cluster: Path) -> None:
    done = submit("-b", "celeba_ae", "train.batch_size=800")
    assert done.returncode == 0, done.stderr
    step, *tasks = calls()
    assert step.startswith("srun --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=300 torchrun --nnodes=2 ")
    assert [task for task in tasks if not task.startswith("torchrun")] == ["cores 32 patience 90"] * 2
    (options,) = {tuple(re.findall("<(.*?)>", task)) for task in tasks if task.startswith("torchrun")}
    assert {"--nnodes=2", "--nproc-per-node=4", "--max-restarts=0", "--rdzv-backend=c10d"} <= set(options)
    assert {"--rdzv-endpoint=node7:13456", "--rdzv-id=123456-0"} <= set(options)
    assert list(options[-6:]) == ["iin.cli.train", "-b", "celeba_ae", "train.batch_size=800", "-n", "my_faces-123456"]


def test_torchrun_understands_which_arguments_are_its_own(cluster: Path) -> None:
    assert submit("-b", "celeba_ae", "--logs", "elsewhere").returncode == 0
    line = next(line for line in calls() if line.startswith("torchrun"))
    parsed = get_args_parser().parse_args(re.findall("<(.*?)>", line))
    assert parsed.module and parsed.training_script == "iin.cli.train"
    assert parsed.training_script_args[:4] == ["-b", "celeba_ae", "--logs", "elsewhere"]


def test_a_job_that_comes_back_goes_on_with_its_run(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    begun("logs/2026-01-31T12-00-00_my_faces-123455")
    begun("elsewhere/2026-01-31T12-00-00_my_faces-123456")
    begun("elsewhere/2026-01-31T12-00-09_my_faces-123456")
    kept = ["--allow", "mine", "--logs", "elsewhere", "-q", "--allow=b"]
    assert submit("-b", "celeba_ae", *kept[:2], "--quick", *kept[2:5], "train.lr=1", kept[5]).returncode == 0
    assert trained() == ["-r", "elsewhere/2026-01-31T12-00-09_my_faces-123456", *kept]
    assert "--rdzv-id=123456-2" in calls()[0]


def test_another_jobs_run_and_a_half_made_folder_are_left_alone(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IIN_LOGS", "mine")
    begun("logs/2026-01-31T12-00-00_my_faces-123456")
    Path("mine/2026-01-31T12-00-00_my_faces-123456").mkdir(parents=True)
    assert submit("-b", "celeba_ae").returncode == 0
    assert trained() == ["-b", "celeba_ae", "-n", "my_faces-123456"]


def test_a_run_that_is_named_is_gone_on_with_in_every_turn(cluster: Path) -> None:
    begun("logs/2026-01-31T12-00-00_my_faces-123456")
    assert submit("-r", "logs/other", "train.epochs=9").returncode == 0
    assert trained() == ["-r", "logs/other", "train.epochs=9"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-b", "celeba_ae", "-n", "mine"], "-n: the run is named after the job"),
        (["-b", "celeba_ae", "--name=mine"], "-n: the run is named after the job"),
        (["-r", "logs/x", "-c", "100"], "-c: each turn of this job would begin there"),
        (["-b", "celeba_ae", "--devices", "8"], "--devices: one process for each GPU of the job"),
    ],
)
def test_what_would_not_survive_another_turn(cluster: Path, arguments: list[str], said: str) -> None:
    done = submit(*arguments)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1
    assert not calls()


def test_outside_of_slurm(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    done = submit("-b", "celeba_ae")
    assert done.returncode == 2 and done.stderr.startswith("error: this is no job of Slurm; submit it: sbatch ")


def warned(*arguments: str | Path, when: Callable[[], bool]) -> tuple[int, str]:
    """A job whose shell is told that its time is nearly over, as soon as something holds; exit code, what it said."""
    line = ["bash", str(SCRIPT), *map(str, arguments)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as job:
        for _ in range(600):
            if when() or job.poll() is not None:
                break
            time.sleep(0.1)
        job.send_signal(signal.SIGUSR1)
        _, said = job.communicate(timeout=120)
    return job.returncode, said


def test_before_its_time_is_over_a_job_has_everybody_save_and_queues_again(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNS", "300")
    code, said = warned("-b", "celeba_ae", when=Path("begun").exists)
    assert code == 0
    assert calls()[-2:] == ["scancel --signal=TERM 123456", "scontrol requeue 123456"]
    assert "saving" in said and "queued again" in said


def test_a_job_that_gets_done_just_in_time_does_not_come_back(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNS", "300")
    monkeypatch.setenv("STOPPED", "0")
    code, said = warned("-b", "celeba_ae", when=Path("begun").exists)
    assert code == 0 and calls()[-1] == "scancel --signal=TERM 123456" and "queued again" not in said


def test_a_job_that_fails_does_not_come_back(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE", "7")
    assert submit("-b", "celeba_ae").returncode == 7
    assert not [call for call in calls() if call.startswith(("scancel", "scontrol"))]


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processor cores")
def test_two_nodes_train_save_and_go_on(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's own torchrun; both nodes are this machine, with a process each."""
    real = Path(sys.executable).with_name("torchrun")
    if not real.exists():
        pytest.skip("torchrun is not installed beside Python")
    (cluster / "bin" / "torchrun").unlink()
    (cluster / "bin" / "torchrun").symlink_to(real)
    monkeypatch.setenv("HOSTS", "localhost")
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tree = tiny.autoencoder(epochs=100, steps=150, evaluate_every=100, log_every=1)
    tree["system"] = tiny.node("tiny.Slow", model=tree["system"]["params"]["model"], rest=0.03)
    arguments = ["-b", tiny.write(cluster / "slow.yaml", tree), "--allow", "tiny"]

    def under_way() -> bool:
        lines = [line for file in Path("logs").glob("*/metrics.jsonl") for line in file.read_text().splitlines()]
        return any(json.loads(line)["step"] >= 3 for line in lines if line.endswith("}"))

    code, said = warned(*arguments, when=under_way)
    assert code == 0, said
    run = only(cluster / "logs")
    step = run.state["step"]
    assert run.state["state"] == "interrupted" and 3 <= step < 150, said
    assert read_checkpoint(run.checkpoints()[0])["step"] == step
    assert calls()[-1] == f"scontrol requeue {os.getpid()}"
    done = submit(*arguments)
    assert done.returncode == 0, done.stderr
    assert only(cluster / "logs").state["state"] == "finished" and run.state["step"] == 150
    assert f"at step {step} of 150" in (run.folder / "log.txt").read_text()
