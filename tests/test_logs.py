"""Where figures and pictures go: the record to the byte, the real TensorBoard and wandb, and sinks that fail."""

from __future__ import annotations

import io
import json
import logging
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from iin import logs, pictures
from iin.logs import Guarded, JsonLines, LogError, Pictures, cut, missing, open_sinks, read
from iin.system import Picture

IMAGES = {
    "samples": Picture(torch.linspace(-1, 1, 4 * 64).view(4, 1, 8, 8), "Samples", "Drawn at random."),
    "swap_hair/colour": Picture(
        torch.linspace(-1, 1, 12 * 64).view(2, 2, 3, 8, 8), "Swap: hair/colour", "", (1,), (1,)
    ),
}
STEMS = ["samples", "swap_hair-colour"]


def write_lines(path: Path, steps: range) -> None:
    sink = JsonLines(path)
    for step in steps:
        sink.scalars(step, step // 4, "train", {"loss": 1 / 3 * step, "lr": 1e-4})
    sink.close()


# --- the record


def test_lines_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.scalars(100, 0, "train", {"autoencoder/loss": torch.tensor(0.1), "lr": 1 / 3, "count": 7})
    sink.scalars(468, 0, "test", {"swaps/digit/follows": 0.91})
    assert read(sink.path)[1] == {"step": 468, "epoch": 0, "split": "test", "swaps/digit/follows": 0.91}
    first = read(sink.path)[0]
    sink.close()
    assert list(first) == ["step", "epoch", "split", "autoencoder/loss", "lr", "count"]
    assert first["lr"] == 1 / 3 and first["autoencoder/loss"] == pytest.approx(0.1) and first["count"] == 7


def test_each_line_is_on_disk_at_once(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    for step in range(3):
        sink.scalars(step, 0, "train", {"loss": 1.0})
        assert len(read(sink.path)) == step + 1
    sink.close()


def test_what_is_not_finite_stays_valid_json(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.scalars(1, 0, "train", {"a": math.nan, "b": math.inf, "c": torch.tensor(-math.inf)})
    sink.close()

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (line["a"], line["b"], line["c"]) == ("nan", "inf", "-inf")
    (back,) = read(tmp_path / "metrics.jsonl")
    assert math.isnan(back["a"]) and back["b"] == math.inf and back["c"] == -math.inf


def test_no_figure_takes_the_name_of_another_key(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    with pytest.raises(LogError, match="no figure may be called 'step'"):
        sink.scalars(1, 0, "test", {"step": 3.0})
    sink.close()
    assert not read(sink.path)


@pytest.mark.parametrize(
    "damage",
    [
        b'{"step": 9, "epoch": 0, "spl',
        b"\x00\x00\x00\n",
        b"[1, 2]\n",
        b'{"step": "9"}\n',
        b"\xff\xfe\n",
        b"[" * 9999 + b"\n",
    ],
    ids=["half", "zeros", "list", "no step", "bytes", "nested"],
)
def test_damaged_lines_are_passed_over_and_cut(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, range(1, 4))
    sound = path.read_bytes()
    path.write_bytes(sound + damage)
    assert [line["step"] for line in read(path)] == [1, 2, 3]
    cut(path, 3)
    assert path.read_bytes() == sound


def test_cut_leaves_earlier_lines_to_the_byte(tmp_path: Path) -> None:
    whole, short = tmp_path / "whole.jsonl", tmp_path / "short.jsonl"
    write_lines(whole, range(1, 9))
    write_lines(short, range(1, 6))
    cut(whole, 5)
    assert whole.read_bytes() == short.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["short.jsonl", "whole.jsonl"]


def test_without_a_file_there_is_nothing_to_read_or_cut(tmp_path: Path) -> None:
    cut(tmp_path / "metrics.jsonl", 3)
    assert read(tmp_path / "metrics.jsonl") == []
    assert not list(tmp_path.iterdir())


def test_interrupted_record_equals_the_uninterrupted(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    write_lines(whole, range(1, 13))
    write_lines(broken, range(1, 10))
    broken.write_bytes(broken.read_bytes()[:-7])  # killed in the middle of a line
    cut(broken, 6)  # the newest checkpoint is that of step 6
    write_lines(broken, range(7, 13))
    assert broken.read_bytes() == whole.read_bytes()


def test_a_half_line_never_runs_into_the_next(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "epo')
    write_lines(path, range(2, 4))
    assert [line["step"] for line in read(path)] == [2, 3]


def test_losing_the_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(LogError, match=r"metrics\.jsonl: figures cannot be written"):
        open_sinks([], tmp_path, {})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to play a full disk")
def test_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink._file.close()
    sink._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(LogError, match="No space left on device"):
        sink.scalars(1, 0, "train", {"loss": 1.0})
    sink._file.close()


# --- the sinks together


def test_the_folder_gets_its_files(tmp_path: Path) -> None:
    sinks = open_sinks([], tmp_path, {"name": "x"})
    for sink in sinks:
        sink.scalars(5, 0, "train", {"loss": 2.0})
        sink.images(5, IMAGES)
    assert not (tmp_path / "report.html").exists()  # it comes with the first evaluation
    for sink in sinks:
        sink.scalars(5, 0, "test", {"nll/nats": 41.5})
    assert "41.5" in (tmp_path / "report.html").read_text()
    for sink in sinks:
        sink.close()
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "images", "report.html"}
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [f"{stem}_step-00000005.png" for stem in STEMS]


def test_opening_for_a_resumed_run_takes_back_what_came_later(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", range(1, 9))
    for sink in open_sinks([], tmp_path, {}, step=5):
        sink.close()
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_picture_names_stay_in_their_folder(tmp_path: Path) -> None:
    Pictures(tmp_path / "images").images(12, {"../../swap/digit": IMAGES["samples"]})
    (path,) = tmp_path.rglob("*.*")
    assert path.parent == tmp_path / "images" and path.name == "--..-swap-digit_step-00000012.png"
    assert Image.open(path).info["Description"] == "Drawn at random."


class Breaks:
    """A sink that fails from the second call on."""

    def __init__(self) -> None:
        self.calls = 0

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("no route to host\nand much more")

    def images(self, step: int, images: Mapping[str, Picture]) -> None:
        self.calls += 1

    def close(self) -> None:
        self.calls += 1


def test_a_failing_sink_is_named_once_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    breaks = Breaks()
    sink = Guarded("wandb", lambda: breaks)
    with caplog.at_level(logging.WARNING, "iin"):
        for step in range(4):
            sink.scalars(step, 0, "train", {"loss": 1.0})
        sink.images(4, IMAGES)
        sink.close()
    assert breaks.calls == 2
    assert messages(caplog) == ["wandb: dropped, it failed at scalars (no route to host); training goes on without it"]


def test_a_picture_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "images").write_text("a file where the folder should be")
    sinks = open_sinks([], tmp_path, {})
    with caplog.at_level(logging.WARNING, "iin"):
        for sink in sinks:
            sink.images(1, IMAGES)
            sink.scalars(1, 0, "test", {"nll/nats": 1.0})
            sink.close()
    (message,) = messages(caplog)
    assert message.startswith("images: dropped")
    assert len(read(tmp_path / "metrics.jsonl")) == 1 and (tmp_path / "report.html").exists()


def test_names_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(["wandb", "tensorboard"]) == []
    assert missing(["wandbb"]) == ["logs: 'wandbb' is not known; expected any of tensorboard, wandb"]
    with pytest.raises(LogError, match="'wandbb' is not known"):
        open_sinks(["wandbb"], tmp_path, {})
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    assert missing(["tensorboard"]) == [
        "logs: tensorboard is not installed; install it with: pip install 'iin[tensorboard]', or leave it out of logs"
    ]
    with pytest.raises(LogError, match=r"pip install 'iin\[tensorboard\]'"):
        open_sinks(["tensorboard"], tmp_path, {})
    assert not list(tmp_path.iterdir())


# --- the real packages


def test_tensorboard_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first, resumed = logs.TensorBoard(tmp_path), None
    for step in range(1, 6):
        first.scalars(step, 0, "train", {"loss": float(step)})
    first.images(5, IMAGES)
    first.close()
    resumed = logs.TensorBoard(tmp_path, step=3)
    for step in range(4, 8):
        resumed.scalars(step, 0, "train", {"loss": 10.0 * step})
    resumed.images(7, IMAGES)
    resumed.scalars(7, 0, "test", {"swaps/digit/follows": 0.5})
    resumed.close()

    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0), (7, 70.0)
    ]  # fmt: skip
    assert [(e.step, e.value) for e in events.Scalars("test/swaps/digit/follows")] == [(7, 0.5)]
    assert events.Tags()["images"] == STEMS
    for name, stem in pictures.stems(IMAGES).items():
        (event,) = events.Images(stem)  # that of step 5 is taken back
        with Image.open(io.BytesIO(event.encoded_image_string)) as seen:
            assert event.step == 7 and np.array_equal(np.asarray(seen), np.asarray(pictures.draw(IMAGES[name])))


@pytest.fixture
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An account without a wandb login, and a folder for a run."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # settings are read once a session
    home = tmp_path / "home"
    home.mkdir()
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(home / name))
    folder = tmp_path / "run"
    folder.mkdir()
    yield folder
    wandb.teardown()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log ``iin`` said."""
    return [record.getMessage() for record in caplog.records if record.name == "iin"]


def chunks(content: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: after 7 bytes, LevelDB's log format in blocks of 32 KiB."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)  # after the checksum
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def history(folder: Path) -> list[dict[str, Any]]:
    """What the pieces of an offline wandb run hold, in order."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits until its process has written everything
    rows = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        for chunk in chunks(file.read_bytes()):
            record = Record.FromString(chunk)
            if record.WhichOneof("record_type") == "history":
                rows.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    return rows


def test_wandb_without_login_goes_on_offline(lonely: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = {"name": "x", "train": {"lr": 1e-3}, "wandb": {"project": "digits", "tags": "a, b"}}
    for steps in (range(1, 4), range(3, 5)):  # interrupted after step 3, resumed from step 2
        with caplog.at_level(logging.WARNING, "iin"):
            sinks = open_sinks(["wandb"], lonely, config)
        for sink in sinks:
            for step in steps:
                sink.scalars(step, 0, "train", {"loss": float(step)})
            sink.images(steps[-1], IMAGES)
            sink.scalars(steps[-1], 0, "test", {"nll/nats": 0.25})
            sink.close()
    command = f"wandb sync {lonely}/wandb/offline-run-*"
    said = f"wandb: offline (no login; run `wandb login`); upload the run later with: {command}"
    assert messages(caplog) == [said, said]
    rows = history(lonely)
    assert [(r["step"], r["train/loss"]) for r in rows if "train/loss" in r] == [(1, 1), (2, 2), (3, 3), (3, 3), (4, 4)]
    assert [(r["step"], r["test/nll/nats"]) for r in rows if "test/nll/nats" in r] == [(3, 0.25), (4, 0.25)]
    for step in (3, 4):
        (row,) = [row for row in rows if row["step"] == step and any(key.startswith("images/") for key in row)]
        for name, stem in pictures.stems(IMAGES).items():
            assert row.get(f"images/{stem}/caption") == (IMAGES[name].caption or None)
            (file,) = lonely.glob(f"wandb/offline-run-*/files/{row[f'images/{stem}/path']}")
            with Image.open(file) as seen:
                assert np.array_equal(np.asarray(seen), np.asarray(pictures.draw(IMAGES[name])))
    identity = json.loads((lonely / "wandb.json").read_text())["id"]
    assert {p.stem for p in lonely.glob("wandb/offline-run-*/*.wandb")} == {f"run-{identity}"}


def test_wandb_without_network_goes_on_offline(
    lonely: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    monkeypatch.setattr(logs.Wandb, "PATIENCE", 2.0)
    with caplog.at_level(logging.WARNING, "iin"):
        sink = logs.Wandb(lonely, {})
    sink.scalars(1, 0, "train", {"loss": 1.0})
    sink.close()
    (message,) = messages(caplog)
    assert message.startswith("wandb: offline (") and "127.0.0.1:9" in message and f"wandb sync {lonely}" in message
    assert [row["train/loss"] for row in history(lonely)] == [1]


def test_wandb_names_an_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"wandb\.projekt: unknown key; expected one of project"):
        open_sinks(["wandb"], tmp_path, {"wandb": {"projekt": "x"}})


def test_wandb_identity_survives_a_damaged_file(tmp_path: Path) -> None:
    first = logs._identity(tmp_path / "wandb.json")
    assert logs._identity(tmp_path / "wandb.json") == first
    (tmp_path / "wandb.json").write_text("[]")
    assert logs._identity(tmp_path / "wandb.json") not in ("", first)
