"""A run's folder: made whole, held by one process, and never without a sound checkpoint once it has one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import resource
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from runs import differences, start

from iin import run as run_module
from iin.files import write_atomically
from iin.run import Run, RunError, read_checkpoint

TREE = {"name": "toy", "seed": 3}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "logs", "toy", TREE, digest="d")


def save(run: Run, *steps: int) -> None:
    for step in steps:
        run.save(step, {"weight": torch.arange(500.0) + step}, {"main": {"state": {}, "lr": 0.1}})


def names(run: Run) -> list[str]:
    return sorted(path.name for path in (run.folder / "checkpoints").iterdir())


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Files cannot grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- folders -----------------------------------------------------------------------------------------------------


def test_a_run_is_a_folder_named_by_time_and_name(run: Run) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d_toy", run.folder.name)
    assert yaml.safe_load(run.config_file.read_text()) == TREE
    assert run.state == {"state": "new", "step": 0, "digest": "d"}
    run.set_state("running", 7)
    assert run.state == {"state": "running", "step": 7, "digest": "d"}


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module.time, "strftime", lambda *_: "2026-01-31T12-00-00")
    folders = [Run.create(tmp_path, "toy", TREE, digest="d").folder.name for _ in range(3)]
    assert folders == [f"2026-01-31T12-00-00_toy{suffix}" for suffix in ("", "-2", "-3")]


def test_logs_that_are_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(RunError, match=r"logs: cannot make a run folder there .*--logs DIR or \$IIN_LOGS"):
        Run.create(tmp_path / "logs", "toy", TREE, digest="d")


def test_a_folder_that_cannot_be_filled_vanishes(tmp_path: Path) -> None:
    big = {"name": "toy", "description": "x" * 5000}
    with small_disk(1000), pytest.raises(RunError, match="File too large"):
        Run.create(tmp_path / "logs", "toy", big, digest="d")
    assert not list((tmp_path / "logs").iterdir())


def test_a_read_only_logs_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)  # permissions do not bind the user that tests may run as
    with pytest.raises(RunError, match=r"cannot make a run folder there .Permission denied."):
        Run.create(tmp_path / "logs", "toy", TREE, digest="d")


def test_a_run_is_opened_by_folder_or_configuration(run: Run, tmp_path: Path) -> None:
    assert Run(run.config_file).folder == Run(str(run.folder)).folder == run.folder
    with pytest.raises(RunError, match="not a run folder, it does not exist"):
        Run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"not a run folder, it holds no config.yaml"):
        Run(tmp_path)


def test_an_unreadable_state_is_empty(run: Run) -> None:
    for text in ("", "[1]", "{", "\0"):
        (run.folder / "state.json").write_text(text)
        assert run.state == {}


def test_find_answers_the_newest_of_the_digest(tmp_path: Path) -> None:
    runs = [Run.create(tmp_path, "toy", TREE, digest=digest) for digest in ("a", "a", "b", "a")]
    for index, run in enumerate(runs):
        save(run, 1)
        run.set_state("interrupted" if index == 3 else "finished", 1)
    found = Run.find(tmp_path, "a")
    assert found is not None and found.folder == runs[1].folder
    found = Run.find(tmp_path, "a", finished=False)
    assert found is not None and found.folder == runs[3].folder
    assert Run.find(tmp_path, "c") is None and Run.find(tmp_path / "nowhere", "a") is None
    runs[1].checkpoints()[0].unlink()  # finished, but there is nothing to take from it
    found = Run.find(tmp_path, "a")
    assert found is not None and found.folder == runs[0].folder


# --- one process at a time ---------------------------------------------------------------------------------------


def test_a_second_process_is_refused(run: Run) -> None:
    def second() -> int:
        try:
            with Run(run.folder).locked():
                return 0
        except RunError as error:
            return 2 if str(error) == f"{run.folder}: in use by process {os.getppid()}; wait for it, or stop it" else 1

    with run.locked():
        process = start([], command=second)
        process.join()
        assert process.exitcode == 2
    process = start([], command=second)
    process.join()
    assert process.exitcode == 0


def test_a_killed_process_leaves_no_lock(run: Run) -> None:
    def killed() -> int:
        with run.locked():
            os._exit(9)

    start([], command=killed).join()
    with run.locked():
        pass


# --- writing -----------------------------------------------------------------------------------------------------


def test_write_atomically_replaces_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with write_atomically(path) as file:
        file.write(b"old")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_save_points_last_at_the_newest(run: Run) -> None:
    save(run, 1, 2)
    assert names(run) == ["last.ckpt", "step-00000001.ckpt", "step-00000002.ckpt"]
    last = run.folder / "checkpoints" / "last.ckpt"
    assert os.readlink(last) == "step-00000002.ckpt"
    assert torch.load(last, weights_only=True)["step"] == 2


def test_a_file_system_without_links_gets_a_copy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    save(run, 1, 2)
    assert read_checkpoint(run.folder / "checkpoints" / "last.ckpt")["step"] == 2


def test_a_full_disk_costs_no_checkpoint(run: Run) -> None:
    save(run, 1)
    before = run.checkpoints()[0].read_bytes()
    with small_disk(1500), pytest.raises(RunError) as raised:
        save(run, 2)
    assert str(raised.value) == (
        f"{run.checkpoint(2)}: cannot save the checkpoint (File too large); the last good one is {run.checkpoint(1)}"
    )
    assert names(run) == ["last.ckpt", "step-00000001.ckpt"]
    assert run.checkpoints()[0].read_bytes() == before
    save(run, 2)
    assert run.load()[0]["step"] == 2


def test_weights_that_are_not_finite_are_not_saved(run: Run) -> None:
    save(run, 1)
    with pytest.raises(
        RunError, match=r"step 2: weights flow.loc are not finite, .* the last good one is .*00001.ckpt"
    ):
        run.save(2, {"count": torch.tensor(3), "flow.loc": torch.tensor([1.0, float("inf")])}, {})
    assert [path.name for path in run.checkpoints()] == ["step-00000001.ckpt"]


# --- damage ------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = content.index(torch.tensor([250.0, 251.0]).numpy().tobytes())
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)


def scramble(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(torch.tensor([250.0, 251.0]).numpy().tobytes())] ^= 1
    path.write_bytes(content)


def replace(path: Path) -> None:
    torch.save({"model": torch.ones(3)}, path)


def half_write(path: Path) -> None:
    truncate(path)
    path.rename(path.with_name(f".{path.name}.abc123.tmp"))


DAMAGES: list[Callable[[Path], None]] = [truncate, zero, scramble, empty, flip, replace]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("which", [None, "last", "last.ckpt", "path of last.ckpt"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    run: Run, damage: Callable[[Path], None], which: str | None
) -> None:
    save(run, 1, 2)
    damage(run.checkpoint(2))
    if which == "path of last.ckpt":
        which = str(run.folder / "checkpoints" / "last.ckpt")
    content, path, complaints = run.load(which)
    assert content["step"] == 1 and path == run.checkpoint(1)
    assert len(complaints) == 1 and complaints[0].startswith(f"{run.checkpoint(2)}: ")
    assert "\n" not in complaints[0]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("which", ["step", "file", "name"])
def test_a_damaged_checkpoint_that_is_named_is_refused(run: Run, damage: Callable[[Path], None], which: str) -> None:
    save(run, 1, 2)
    damage(run.checkpoint(2))
    named = {"step": 2, "file": run.checkpoint(2), "name": run.checkpoint(2).name}[which]
    with pytest.raises(RunError, match=r"step-00000002.ckpt: (damaged|not a checkpoint)") as raised:
        run.load(named)
    assert "\n" not in str(raised.value)


def test_a_half_written_temporary_file_is_no_checkpoint(run: Run) -> None:
    save(run, 1, 2)
    half_write(run.checkpoint(2))
    content, _, complaints = run.load()  # last.ckpt leads nowhere now
    assert content["step"] == 1 and complaints == []
    run.sweep()
    assert not list(run.folder.rglob("*.tmp"))


def test_any_flipped_byte_is_noticed_or_harmless(run: Run) -> None:
    save(run, 1)
    path, dice = run.checkpoint(1), random.Random(1)
    sound, content = path.read_bytes(), read_checkpoint(path)
    for position in dice.sample(range(len(sound)), 300):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(RunError):
            assert differences(read_checkpoint(path), content) == [], position


def test_checkpoints_that_are_all_damaged_are_named(run: Run) -> None:
    save(run, 1, 2)
    for path in run.checkpoints():
        empty(path)
    with pytest.raises(RunError, match=r"no sound checkpoint is left: .*00002.ckpt: .*; .*00001.ckpt: "):
        run.load()


def test_a_checkpoint_runs_no_code(run: Run, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'proof'}",)

    torch.save({"format": 1, "step": 1, "system": Evil(), "optimizers": {}}, run.checkpoint(1))
    with pytest.raises(RunError, match="no checkpoint"):
        read_checkpoint(run.checkpoint(1))
    assert not (tmp_path / "proof").exists()


def test_another_format_is_told(run: Run) -> None:
    torch.save({"format": 99, "step": 1, "system": {}, "optimizers": {}}, run.checkpoint(1))
    with pytest.raises(RunError, match="written in format 99, this version reads format 1"):
        read_checkpoint(run.checkpoint(1))


def test_a_zip_file_of_something_else_is_no_checkpoint(run: Run) -> None:
    with zipfile.ZipFile(run.checkpoint(1), "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(RunError, match="damaged or no checkpoint"):
        read_checkpoint(run.checkpoint(1))


def test_what_is_not_there_is_told(run: Run) -> None:
    with pytest.raises(RunError, match=r"no checkpoint yet; train first \(iin-train -r .*_toy\)"):
        run.load()
    save(run, 1, 2)
    with pytest.raises(RunError, match="no checkpoint of step 7; there are: 2, 1"):
        run.load("7")
    with pytest.raises(RunError, match=r"nowhere.ckpt: no such checkpoint; give a file, a step, or last"):
        run.load("nowhere.ckpt")


# --- the past and the future -------------------------------------------------------------------------------------


def test_prune_keeps_the_newest_and_the_best(run: Run) -> None:
    save(run, *range(1, 8))
    run.prune(2, best=3)
    assert names(run) == ["last.ckpt", "step-00000003.ckpt", "step-00000006.ckpt", "step-00000007.ckpt"]
    run.prune(1)
    assert names(run) == ["last.ckpt", "step-00000007.ckpt"]


def test_rewind_sets_the_future_aside_until_it_comes_again(run: Run) -> None:
    save(run, 2, 4, 6)
    for step in (2, 4, 6):
        (run.folder / "images" / f"samples_step-{step:08d}.png").write_text("")
        (run.folder / "images" / f"traversals_step-{step:08d}.webp").write_text("")
        (run.folder / "eval" / f"step-{step:08d}").mkdir()
    assert [path.name for path in run.rewind(2)] == ["step-00000006.ckpt", "step-00000004.ckpt"]
    assert names(run) == ["last.ckpt", "step-00000002.ckpt", "step-00000004.ckpt.old", "step-00000006.ckpt.old"]
    assert os.readlink(run.folder / "checkpoints" / "last.ckpt") == "step-00000002.ckpt"
    left = sorted(os.listdir(run.folder / "images"))
    assert left == ["samples_step-00000002.png", "traversals_step-00000002.webp"]
    assert os.listdir(run.folder / "eval") == ["step-00000002"]
    save(run, 5)
    run.prune(3)
    assert names(run) == ["last.ckpt", "step-00000002.ckpt", "step-00000005.ckpt", "step-00000006.ckpt.old"]
    save(run, 6)
    run.prune(3)
    assert "step-00000006.ckpt.old" not in names(run)


def test_rewind_to_the_beginning_leaves_no_link_to_nowhere(run: Run) -> None:
    save(run, 2)
    run.rewind(0)
    assert names(run) == ["step-00000002.ckpt.old"]


def test_state_is_plain_json(run: Run) -> None:
    run.set_state("finished", 3)
    assert json.loads((run.folder / "state.json").read_text())["state"] == "finished"
