"""The cache of a first stage's answers: training with it is training without it, and it is never another's."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import assert_equal, differences, only, train
from torch import Tensor, nn

from iin import arrays, codes, memory
from iin.config import ConfigError, Training
from iin.data import MNIST, Draws, Images, Labelled, Loader, MNISTPairs, Visit
from iin.flows import vector_flow
from iin.interrupt import Interrupted
from iin.models import Autoencoder, Codes, Gaussian
from iin.run import Run
from iin.systems import FactorFlow, LatentFlow
from iin.train import make_optimizers


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept codes."""
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "codes"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished first stage."""
    folder = tmp_path_factory.mktemp("stage")
    assert train("-b", tiny.write(folder / "ae.yaml", tiny.autoencoder()), "--logs", folder / "logs") == 0
    return only(folder / "logs")


def still(stage: Run, folder: Path, cache: str = "auto", *, pairs: bool = True, **train: Any) -> str:
    """A configuration of a flow over images that stay the same, 12 steps in all."""
    tree = tiny.flow({"run": str(stage.folder)}, cache=cache, **train)
    data = "tiny.StillPairs" if pairs else "tiny.Still"
    tree["data"]["train"] = tiny.node(data, count=24)
    if not pairs:
        tree["data"]["test"] = tiny.node("tiny.Sides", count=10)
        tree["system"]["target"] = "iin.systems.LatentFlow"
        del tree["system"]["params"]["factors"]
    return tiny.write(folder / f"{cache}.yaml", tree)


def system(pairs: bool = False, dim: int = 4, size: int = 8, **params: Any) -> Any:
    """A flow over an autoencoder that was trained for no step, but has seen a batch."""
    torch.manual_seed(1)
    first = Autoencoder(size=size, dim=dim, **{"n_down": 2, "width": 4, **params})
    first.encode(torch.rand(32, 1, size, size) * 2 - 1)  # ActNorm
    flow = vector_flow(dim=dim, blocks=2, hidden=8, depth=1)
    return FactorFlow(first, flow, [dim // 2, dim // 2]) if pairs else LatentFlow(first, flow)


def settings(cache: str = "auto", **train: Any) -> Training:
    return Training(**{"epochs": 2, "batch_size": 4, "lr": 1e-2, "cache": cache, **train})


def losses(system: Any, data: Any, made: Training, steps: int) -> list[float]:
    """Losses of the first steps, as the loop takes them."""
    system = copy.deepcopy(system).train()
    (optimizer,) = make_optimizers(system, made).values()
    found = []
    for step, batch in zip(range(steps), Loader(data, made.batch_size, seed=3, shuffle=True).epoch(0), strict=False):
        torch.manual_seed(step)
        (objective,) = system.objectives(batch, step)
        optimizer.zero_grad()
        objective.loss.backward()
        optimizer.step()
        found.append(objective.loss.item())
    return found


# --- the same training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [True, False])
def test_training_is_the_same_to_the_bit(stage, tmp_path, pairs, caplog):
    """Weights, optimisers' states, every logged loss, figures and pictures."""
    caplog.set_level("INFO", logger="iin")
    runs = {}
    for kind in ("off", "memory", "disk", "auto"):
        caplog.clear()
        file = still(stage, tmp_path, kind, pairs=pairs)
        assert train("-b", file, "--logs", tmp_path / kind, "train.log_every=1") == 0
        runs[kind] = only(tmp_path / kind)
        said = [line for line in caplog.messages if line.startswith("Codes")]
        assert len(said) == (kind != "off"), said
        assert all("24 posteriors of 4 numbers, 768 bytes" in line for line in said)
        # What is found on disk is not computed again.
        assert {"off": not said, "memory": "in memory" in str(said), "disk": ", in /" in str(said)}.get(
            kind, "found in" in str(said)
        ), said
    for kind in ("memory", "disk", "auto"):
        assert_equal(runs["off"], runs[kind])


@pytest.mark.parametrize("make", [MNIST, MNISTPairs])
@pytest.mark.parametrize("batch_size", [25, 7])
def test_codes_of_digits_are_those_of_the_steps_to_the_bit(make, batch_size):
    """The published autoencoder and data; a few steps. No single bit of a loss differs on a CPU, whose kernels round
    alike for all batches but those of one image; the last piece of the set is filled up for their sake."""
    data = make("test", dequantise="fixed")
    data._image, data._label = data._image[:101], data._label[:101]
    if make is MNISTPairs:
        data._classes = type(data._classes)(data._label)
    flow = system(make is MNISTPairs, dim=64, size=32, n_down=4, width=64)
    made = settings("memory", batch_size=batch_size)
    kept = codes.instead(flow, data, made)
    batch, other = kept[Visit([100, 3], 5)], data[Visit([100, 3], 5)]
    assert isinstance(batch.image, Codes) and torch.equal(batch.label, other.label)
    plain, quick = losses(flow, data, made, 4), losses(flow, kept, made, 4)
    assert len(plain) >= 4 and plain == quick and len(set(plain)) == len(plain)


def test_partners_and_order_are_those_of_the_images():
    data = tiny.StillPairs(count=40)
    kept = codes.instead(system(True), data, settings("memory"))
    assert len(kept) == 40 and kept.factors == data.factors and kept.fingerprint == data.fingerprint
    answers = kept._stored.values
    for seed in (1, 2):
        batch, images = (each[Visit([5, 9, 31], seed)] for each in (kept, data))
        every = data[range(40)].image.flatten(1)
        others = [int((every == image).all(1).nonzero()) for image in images.other.flatten(1)]
        assert torch.equal(batch.other.values, answers[others]) and torch.equal(batch.image.values, answers[[5, 9, 31]])
        assert torch.equal(batch.shared, images.shared) and torch.equal(batch.other_label, images.other_label)


def test_the_noise_of_the_posterior_is_fresh():
    kept = codes.instead(flow := system(), tiny.Still(), settings("memory"))
    image = kept[[0, 1]].image
    first, second = flow.noisy_code(image), flow.noisy_code(image)
    assert not torch.equal(first, second) and torch.equal(flow.code(image), image.mean)
    assert (image.std > 0).all()


def test_interrupted_and_resumed_with_codes_or_without(stage, tmp_path):
    assert train("-b", still(stage, tmp_path, "off"), "--logs", tmp_path / "a") == 0
    for kind in ("memory", "disk"):
        assert train("-b", still(stage, tmp_path, kind), "--logs", tmp_path / kind, "train.steps=7") == 0
        run = only(tmp_path / kind)
        assert train("-r", run.folder, "train.steps=null") == 0
        assert (
            differences(
                run.load()[0]["system"],
                only(tmp_path / "a").load()[0]["system"],
            )
            == []
        )


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processor cores")
def test_two_processes_train_alike_with_codes_or_without(stage, tmp_path, cache):
    """Each with its share of every batch; on disk, one makes the file and the other finds it."""
    runs, environment = {}, {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    for kind in ("off", "memory", "disk"):
        file, logs = still(stage, tmp_path, kind, log_every=1), tmp_path / kind
        line = [sys.executable, "-m", "iin.cli.train", "-b", file, "--logs", str(logs), "--allow", "tiny"]
        done = subprocess.run([*line, "--devices", "2"], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        runs[kind] = only(logs)
        assert_equal(runs["off"], runs[kind])
        assert len(kept(cache)) == (kind == "disk")


def test_codes_go_where_tensors_go():
    both = Codes.cat([Codes(torch.ones(2, 2, 3)), Codes(torch.zeros(1, 2, 3))])
    assert len(both) == 3 and both.to(torch.float64).mean.dtype == torch.float64
    assert both.mean.shape == both.std.shape == (3, 3) and both.sample()[2].tolist() == [0, 0, 0]
    for misuse in (lambda: both * torch.rand(3, 1, 1, 1), lambda: torch.rand(3, 1) * both, lambda: both[0]):
        with pytest.raises(TypeError):
            misuse()


# --- where it does not apply ------------------------------------------------------------------------------------------


class Augmented(tiny.Still):
    """Says that its images stay the same, and turns them."""

    def __getitem__(self, indices: Any) -> Images:
        batch = super().__getitem__(indices)
        return batch._replace(image=batch.image.flip(-1))


class Moved(tiny.Still):
    """Says that its images stay the same, and adds to them."""

    def __getitem__(self, indices: Any) -> Images:
        batch = super().__getitem__(indices)
        return batch._replace(image=batch.image * Draws(indices).uniform(1, 1, 1))


class Marked(tiny.Still):
    """Counts on the shape of images, but leaves them as they are."""

    def __getitem__(self, indices: Any) -> Images:
        batch = super().__getitem__(indices)
        assert batch.image.shape[1] == 1
        return batch


class Bare:
    """Fixed images without a way to put something else in their place."""

    fixed = True

    def __len__(self) -> int:
        return 24

    def __getitem__(self, indices: Any) -> Images:
        return Images(torch.zeros(len(indices), 1, 8, 8), torch.zeros(len(indices), dtype=torch.int64))


class Other(Bare):
    """Nothing is known of its images."""

    fixed = False


class Own(LatentFlow):
    """Computes its loss from images by itself."""

    def objectives(self, batch: Any, step: int) -> Iterator[Any]:
        assert isinstance(batch.image, Tensor)
        return super().objectives(batch, step)


class Noisy(LatentFlow):
    """Encodes more than the image."""

    def noisy_code(self, image: Any) -> Tensor:
        return super().noisy_code(image + torch.rand_like(image))


class Dropping(Autoencoder):
    """Answers otherwise each time."""

    def encode(self, image: Tensor) -> Gaussian:
        return super().encode(image + torch.randn_like(image))


class Sharp(Gaussian):
    """Draws in a way of its own."""

    def sample(self, *_: Any) -> Tensor:
        return self.mean.round()


class Sharpened(Autoencoder):
    def encode(self, image: Tensor) -> Gaussian:
        found = super().encode(image)
        return Sharp(found.mean, found.logvar)


class Void(Autoencoder):
    def encode(self, image: Tensor) -> Gaussian:
        return Gaussian(super().encode(image).mean * float("nan"), torch.zeros(len(image), 4))


def over(kind: type[Autoencoder]) -> LatentFlow:
    made = system()
    made.first_stage.__class__ = kind
    return made


def unfrozen() -> LatentFlow:
    made = system()
    made.first_stage.requires_grad_(True)
    return made


@pytest.mark.parametrize(
    ("flow", "data", "words", "loud"),
    [
        (system, lambda: tiny.Still(dequantise=True), "(dequantise: true): set dequantise: fixed, or cache: off", True),
        (system, Other, "images of data.train change at every visit (Other does not say", False),
        (system, Bare, "Bare has no pixels and answering", False),
        (system, Augmented, "images of Augmented change, though it says that they are fixed", True),
        (system, Moved, "images of Moved change, though it says that they are fixed", True),
        (system, Marked, "Marked needs its images (AttributeError", False),
        (lambda: tiny.Duel(), tiny.Still, "Duel has no frozen first stage whose answers would do", False),
        (lambda: Own(system().first_stage, system().flow), tiny.Still, "Own has no frozen first stage", False),
        (lambda: Noisy(system().first_stage, system().flow), tiny.Still, "Noisy has no frozen first stage", False),
        (unfrozen, tiny.Still, "LatentFlow has no frozen first stage", False),
        (lambda: over(Dropping), tiny.Still, "the first stage answers otherwise each time", True),
        (lambda: over(Sharpened), tiny.Still, "the first stage answers Sharp, not iin.models.Gaussian", False),
        (lambda: over(Void), tiny.Still, "the first stage's answers are not finite", True),
    ],
)
def test_where_it_does_not_apply(flow, data, words, loud, caplog):
    """``auto`` does without, in one line where that is of use; what was asked for by name is refused."""
    caplog.set_level("INFO", logger="iin")
    made, images = flow(), data()
    assert codes.instead(made, images, settings("auto")) is images
    assert len(caplog.messages) == loud and all(words.split(": set")[0] in line for line in caplog.messages)
    for kind in ("memory", "disk"):
        with pytest.raises(ConfigError) as caught:
            codes.instead(made, images, settings(kind))
        assert str(caught.value).startswith(f"train.cache: {kind}, but ") and words in str(caught.value)
    assert codes.instead(made, images, settings("off")) is images


def test_a_subclass_that_says_so_itself_is_given_codes():
    class Weighted(LatentFlow):
        takes_codes = True

        def objectives(self, batch: Any, step: int) -> Iterator[Any]:
            return super().objectives(batch, step)

    made = Weighted(system().first_stage, system().flow)
    assert isinstance(codes.instead(made, tiny.Still(), settings())[[0]].image, Codes)


def test_it_has_to_pay():
    """Twice the set has to be visited; pairs count twice, and what is done already does not count."""
    flow, images, pairs = system(), tiny.Still(count=24), tiny.StillPairs(count=24)
    for data, made, step, kept in (
        (images, settings(epochs=2), 0, True),
        (images, settings(epochs=2), 1, False),
        (images, settings(epochs=2, steps=11), 0, False),
        (images, settings("memory", epochs=1), 0, True),
        (pairs, settings(epochs=1), 0, True),
        (pairs, settings(epochs=1, steps=5), 0, False),
    ):
        assert (codes.instead(flow, data, made, step=step) is not data) == kept


def test_the_plan_finds_what_cannot_be(stage, tmp_path, capsys):
    file = still(stage, tmp_path, "memory")
    before = sorted(tmp_path.rglob("*"))
    for arguments in (["--dry-run"], []):
        assert train("-b", file, *arguments, "data.train.params.dequantise=true", "--logs", tmp_path / "l") == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            "error: train.cache: memory, but images of data.train change at every visit (dequantise: true): "
            "set dequantise: fixed, or cache: off"
        )
    ae = tiny.write(tmp_path / "ae.yaml", tiny.autoencoder(cache="disk"))
    assert train("-b", ae, "--dry-run") == 2
    assert "train.cache: disk, but Autoencoder has no frozen first stage" in capsys.readouterr().err
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == [Path(ae)]
    assert train("-b", file, "--dry-run", "--logs", tmp_path / "l") == 0


def test_without_a_word_nothing_changes_for_systems_without_a_first_stage(tmp_path, caplog):
    caplog.set_level("INFO", logger="iin")
    assert train("-b", tiny.write(tmp_path / "ae.yaml", tiny.autoencoder()), "--logs", tmp_path / "logs") == 0
    assert not [line for line in caplog.messages if "odes" in line]


def test_images_that_change_are_said_once(stage, tmp_path, caplog):
    caplog.set_level("INFO", logger="iin")
    file = tiny.write(tmp_path / "f.yaml", tiny.flow({"run": str(stage.folder)}))
    assert train("-b", file, "--logs", tmp_path / "logs") == 0
    assert [line for line in caplog.messages if "Codes" in line] == [
        "Codes: not kept, since images of data.train change at every visit (dequantise: true); set dequantise: fixed, "
        "or cache: off"
    ]


# --- memory and disk --------------------------------------------------------------------------------------------------


def kept(cache: Path) -> list[Path]:
    return sorted(path for path in cache.glob("*") if path.is_file())


def test_auto_takes_memory_then_disk_then_nothing(cache, monkeypatch, caplog):
    caplog.set_level("INFO", logger="iin")
    data, flow = tiny.Still(), system()
    size = 24 * 2 * 4 * 4
    monkeypatch.setattr(codes, "available_memory", lambda: 4 * size)
    assert isinstance(codes.instead(flow, data, settings())._stored.values, Tensor) and not kept(cache)
    monkeypatch.setattr(codes, "available_memory", lambda: 4 * size - 1)
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda _: arrays.shutil._ntuple_diskusage(0, 0, 0))
    assert codes.instead(flow, data, settings()) is data and not cache.exists()
    assert "768 bytes, are more than a quarter of the 3.07 KB of memory" in caplog.messages[-1]
    assert "768 bytes and 1 GB to spare are needed, 0 bytes are free" in caplog.messages[-1]
    with pytest.raises(ConfigError, match=r"train.cache: disk, but 24 posteriors .* cannot be kept on disk: .* free"):
        codes.instead(flow, data, settings("disk"))
    monkeypatch.setattr(codes, "available_memory", lambda: size - 1)
    with pytest.raises(ConfigError, match=r"train.cache: memory, but .* more than the 767 bytes of memory"):
        codes.instead(flow, data, settings("memory"))
    monkeypatch.undo()
    monkeypatch.setenv("IIN_CACHE", str(cache.parent))
    monkeypatch.setattr(codes, "available_memory", lambda: 4 * size - 1)
    assert codes.instead(flow, data, settings())._stored.values.path == kept(cache)[0]


@pytest.mark.parametrize("memory", [10**9, 0])
def test_a_disk_that_is_full_before_it_was_expected(cache, monkeypatch, caplog, memory):
    """Nothing is left of the file; ``auto`` goes on in memory, where that has become possible, or without."""
    caplog.set_level("INFO", logger="iin")
    data, flow = tiny.Still(), system()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    found = iter([0, memory, memory])
    monkeypatch.setattr(codes, "available_memory", lambda: next(found))
    monkeypatch.setattr("iin.files.os.fsync", full)
    result = codes.instead(flow, data, settings())
    assert (result is data) == (memory == 0) and not list(cache.iterdir())
    assert "No space left on device" in caplog.text
    with pytest.raises(ConfigError, match=f"on disk: {cache}: No space left on device: set cache: memory, or off"):
        codes.instead(flow, data, settings("disk"))
    assert not list(cache.iterdir())


def test_a_folder_that_cannot_be_made(cache, caplog):
    caplog.set_level("INFO", logger="iin")
    cache.parent.write_text("a file")
    with pytest.raises(ConfigError, match=f"{cache}: Not a directory"):
        codes.instead(system(), tiny.Still(), settings("disk"))
    assert "made anew" not in caplog.text


def test_errors_of_the_data_are_no_errors_of_the_disk(cache, monkeypatch):
    class Lost(tiny.Still):
        def pixels(self, rows: Tensor, draws: Draws) -> Tensor:
            if 23 in rows:
                raise FileNotFoundError("23.png: gone")
            return super().pixels(rows, draws)

    for kind in ("disk", "memory", "auto"):
        with pytest.raises(FileNotFoundError, match=r"^23\.png: gone$"):
            codes.instead(system(), Lost(), settings(kind))
    assert not list(cache.iterdir())


def test_codes_on_disk_are_known_by_data_network_and_precision(cache):
    """Whatever differs has a file of its own, so none is taken for another."""

    def changed() -> LatentFlow:
        made = system()
        made.first_stage.encoder[0].weight.data[0, 0, 0, 0] += 1e-3
        return made

    def buffered() -> LatentFlow:
        made = system()
        made.first_stage.register_buffer("more", torch.zeros(1), persistent=False)
        return made

    variants: list[tuple[Callable[[], Any], Any, dict[str, Any]]] = [
        (system, tiny.Still(), {}),
        (system, tiny.Still(count=28), {}),
        (system, tiny.Still(dequantise=False), {}),
        (system, tiny.Still(), {"precision": "bf16"}),
        (changed, tiny.Still(), {}),
        (buffered, tiny.Still(), {}),
        (lambda: system(deterministic=True), tiny.Still(), {}),
        (lambda: over(Sibling), tiny.Still(), {}),
    ]
    for count, (flow, data, more) in enumerate(variants, 1):
        codes.instead(flow(), data, settings("disk", **more))
        assert len(kept(cache)) == count
    modified = [path.stat().st_mtime_ns for path in kept(cache)]
    for flow, data, more in variants:
        assert codes.instead(flow(), data, settings("disk", **more)) is not data
    assert [path.stat().st_mtime_ns for path in kept(cache)] == modified


class Sibling(Autoencoder):
    """The same weights by another name."""


def test_a_file_of_something_else_is_recognised_and_made_anew(cache, caplog):
    caplog.set_level("INFO", logger="iin")
    data, flow = tiny.Still(), system()
    good = codes.instead(flow, data, settings("disk"))._stored.values[torch.arange(24)]
    (path,) = kept(cache)
    content = path.read_bytes()
    other = codes.instead(system(), tiny.Still(dequantise=False), settings("disk"))
    (stranger,) = (found.read_bytes() for found in kept(cache) if found != path)
    assert len(other) == 24
    nothing = bytes(len(content) - 4096 - 4)
    zeros = content[:4096] + nothing + zlib.crc32(nothing).to_bytes(4, "little")
    flipped = content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
    for found, words in (
        (content[:-5], "is cut off"),
        (content[:100], "is cut off"),
        (b"", "is cut off"),
        (content + b"more", "is cut off"),
        (stranger, "holds other data"),
        (content.replace(flow_digest(path), b"0" * 64), "holds other first stage"),
        (b"\x93NUMPY" + content, "holds something else"),
        (flipped, "is damaged"),
        (zeros, "holds other codes than the first stage gives"),
    ):
        path.write_bytes(found)
        caplog.clear()
        values = codes.instead(flow, data, settings("disk"))._stored.values[torch.arange(24)]
        assert torch.equal(values, good) and path.read_bytes() == content
        assert caplog.messages[0] == f"{path} {words}; it is made anew", caplog.messages
        assert len(caplog.messages) == 2 and ", in /" in caplog.messages[1]


def flow_digest(path: Path) -> bytes:
    import json

    return json.loads(path.read_bytes()[:4096].split(b"\n", 1)[1])["first stage"].encode()


def test_two_who_make_the_same_file_do_not_disturb_each_other(cache):
    """One begins, another makes the whole file in between, and both have what they wanted."""
    data, flow = tiny.Still(), system()
    found: list[Any] = []

    def meanwhile() -> None:
        if not found:
            found.append(None)
            found[0] = codes.instead(flow, data, settings("disk"))._stored.values

    mine = codes.instead(flow, data, settings("disk"), check=meanwhile)._stored.values
    rows = torch.arange(24)
    assert torch.equal(mine[rows], found[0][rows]) and len(kept(cache)) == 1
    assert not list(cache.glob(".*"))


def test_leavings_of_killed_processes_are_swept_up(cache):
    cache.mkdir(parents=True)
    old, new = cache / ".a.codes.1.tmp", cache / ".b.codes.2.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    codes.instead(system(), tiny.Still(), settings("disk"))
    assert not old.exists() and new.exists()


def test_what_is_done_to_an_answer_never_reaches_the_file(cache):
    values = codes.instead(system(), tiny.Still(), settings("disk"))._stored.values
    before = kept(cache)[0].read_bytes()
    values[torch.tensor([0])].zero_()
    values._tensor[0] = 7
    assert kept(cache)[0].read_bytes() == before


def test_workers_of_another_process_read_the_same_file():
    import pickle

    data = codes.instead(system(), tiny.Still(), settings("disk"))
    again = pickle.loads(pickle.dumps(data._stored.values))
    assert len(pickle.dumps(data._stored.values)) < 1000
    assert torch.equal(again[torch.arange(24)], data._stored.values[torch.arange(24)])
    answers = list(zip(Loader(data, 5), Loader(data, 5, workers=1), strict=True))
    assert answers and all(torch.equal(a.image.values, b.image.values) for a, b in answers)


def test_a_signal_ends_the_encoding(stage, tmp_path, monkeypatch, capsys, cache):
    """At the next piece: the run can be gone on with, and nothing is left half-written."""
    encoded = []

    def ask(*arguments: Any) -> Tensor:
        encoded.append(arguments[2])
        if len(encoded) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return answers(*arguments)

    answers = codes._answers
    monkeypatch.setattr(codes, "_answers", ask)
    assert train("-b", still(stage, tmp_path, "disk"), "--logs", tmp_path / "logs") == 128 + signal.SIGTERM
    run = only(tmp_path / "logs")
    assert f"iin-train -r {run.folder}" in capsys.readouterr().err
    assert run.state["state"] == "interrupted" and not list(cache.iterdir()) and len(encoded) == 4
    monkeypatch.undo()
    assert train("-r", run.folder) == 0 and run.state["state"] == "finished"


def test_every_piece_has_the_size_of_a_step(monkeypatch):
    sizes = []
    answers = codes._answers
    monkeypatch.setattr(codes, "_answers", lambda *args: (sizes.append(len(args[2])), answers(*args))[1])
    flow, data = system(), tiny.Still(count=27)
    pieces = list(codes.encode(flow, data, range(27), 8))
    assert sizes == [8, 8, 8, 8] and [len(piece) for piece in pieces] == [8, 8, 8, 3]
    values = torch.cat(pieces)
    answer = flow.posterior(data[range(27)].image)
    torch.testing.assert_close(values[:, 0], answer.mean)
    torch.testing.assert_close(values[:, 1], answer.std)
    # Processes may share the work.
    shares = [torch.cat(list(codes.encode(flow, data, range(a, b), 8))) for a, b in ((0, 10), (10, 27))]
    assert torch.equal(torch.cat(shares), values)
    assert len(torch.cat(list(codes.encode(flow, data, range(3), 8)))) == 3


def test_images_are_encoded_in_the_precision_of_the_steps():
    flow, data = system(), tiny.Still()
    kept = codes.instead(flow, data, settings("memory", precision="bf16"))[range(4)].image
    image = data[range(4)].image
    with torch.autocast("cpu", torch.bfloat16):  # as the engine has it
        answer = flow.posterior(image)
    assert torch.equal(kept.mean, answer.mean) and torch.equal(kept.std, answer.std)
    assert not torch.equal(kept.mean, flow.posterior(image).mean)


def test_encoding_leaves_the_system_as_it_was():
    flow = system().train()
    state = copy.deepcopy(flow.state_dict())
    codes.instead(flow, tiny.Still(), settings("memory"))
    assert flow.training and not flow.first_stage.training and differences(state, flow.state_dict()) == []


def test_interrupted_is_what_the_check_raises():
    def check() -> None:
        raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        codes.instead(system(), tiny.Still(), settings("memory"), check=check)


def test_memory_that_is_available_is_less_than_there_is():
    found = memory.available_memory()
    assert 0 < found < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_limits_of_groups_count(tmp_path, monkeypatch):
    """The smallest of the machine's memory and of the limits of the group and of those around it."""
    root = tmp_path / "sys"
    for folder, limit, used in (("", "max", 0), ("jobs", 10_000, 3000), ("jobs/mine", 9000, 1000)):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / "memory.max").write_text(f"{limit}\n")
        (root / folder / "memory.current").write_text(f"{used}\n")
    group = tmp_path / "cgroup"
    group.write_text("1:name=x:/\n0::/jobs/mine\n")
    places = {"/proc/self/cgroup": group, "/sys/fs/cgroup": root}
    monkeypatch.setattr(memory, "Path", lambda path: places.get(path) or Path(path))
    assert memory.available_memory() == 7000


def test_labelled_sets_keep_their_images():
    data = tiny.Still()
    stored = torch.arange(24)
    copied = data.answering(stored)
    assert copied[[3, 5]].image.tolist() == [3, 5] and isinstance(copied, Labelled)
    assert data[[3, 5]].image.shape == (2, 1, 8, 8)


def test_a_network_of_ones_own_will_do():
    """With ``encode`` and a Gaussian; settings that its weights do not tell count for what is found on disk."""

    class Plain(nn.Module):
        dim = 4

        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = shift

        def encode(self, image: Tensor) -> Gaussian:
            code = image[:, 0, 0, :4] + self.shift
            return Gaussian(code, torch.zeros_like(code))

    data = tiny.Still()
    for shift in (0.0, 100.0):
        flow = LatentFlow(Plain(shift), vector_flow(dim=4, blocks=1, hidden=8, depth=1))
        kept = codes.instead(flow, data, settings("disk"))
        assert torch.equal(kept[[1]].image.mean, data[[1]].image[:, 0, 0, :4] + shift)
