"""The benchmark: that it compares like with like, and what it says. Nothing here depends on how long things take."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from itertools import count as counting
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fabricate
import pytest
import tiny
import torch
from processes import together
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from bench import autoencoder, command, evaluation, flows, jacobian, peers, processes, runs, table, timing
from bench.peers import LIBRARIES, PACKAGES, Flow, Shape
from bench.processes import Asked, Samples
from bench.steps import FlowAlone, loop_step
from bench.timing import Settings

from iin import distributed
from iin.data import ColorfulMNIST, Images, Loader
from iin.engine import Parallel
from iin.losses import nll
from iin.models import ConvVAE

SMALL = Shape(dim=8, blocks=2, hidden=16, depth=1)


def built(library: str) -> Flow:
    """A small flow of a package, whose ActNorm has its statistics."""
    if library in peers.absent():
        pytest.skip(f"{PACKAGES[library]} is not installed: pip install 'iin[bench]'")
    torch.manual_seed(0)
    flow = LIBRARIES[library](SMALL)
    flow.forward(points())
    return flow


def points(count: int = 16) -> Tensor:
    return 2 * torch.randn(count, SMALL.dim, generator=torch.Generator().manual_seed(1)) + 1


# --- libraries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
def test_all_have_as_many_parameters(library: str) -> None:
    assert built(library).parameters == SMALL.parameters


def test_the_published_shape_has_its_parameters() -> None:
    assert Shape().parameters == 26_815_488
    assert sum(parameter.numel() for parameter in peers.PlainFlow(SMALL).parameters()) == SMALL.parameters


@pytest.mark.parametrize("library", LIBRARIES)
def test_all_are_bijections_that_know_their_determinant(library: str) -> None:
    flow = built(library)
    flow.module.eval()
    x = points(3)
    z, logdet = flow.forward(x)
    torch.testing.assert_close(flow.inverse(z), x, rtol=0, atol=1e-5)
    for row, value in zip(x, logdet, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.forward(v[None])[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], value)


def test_the_plain_flow_knows_its_determinant() -> None:
    flow = peers.PlainFlow(SMALL)
    with torch.no_grad():
        flow.scale.normal_()
    (x,) = points(1)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], x)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], flow(x[None])[1][0])


def test_of_two_networks_that_are_joined_only_scales_are_squashed() -> None:
    joined = peers.Joined(SMALL, nn.Tanh(), mixed=True)
    with torch.no_grad():
        for parameter in joined.parameters():
            parameter.mul_(20)
    shift, scale = joined(points()[:, : SMALL.dim // 2]).unflatten(1, (-1, 2)).unbind(-1)
    assert scale.abs().max() <= 1 < shift.abs().min(1).values.max()


@pytest.mark.parametrize("fused", [None, True], ids=["default", "fused"])
@pytest.mark.parametrize("library", PACKAGES)
def test_a_step_of_a_peer_lowers_the_loss(library: str, fused: bool | None) -> None:
    step = flows.peer_step(built(library), fused)
    losses = [step(points()).item() for _ in range(30)]
    assert losses[-1] < losses[0] - 1e-3


def test_a_step_of_this_package_is_that_of_adam() -> None:
    flow = built("iin").module
    other = deepcopy(flow)
    step = loop_step(FlowAlone(flow))
    optimizer = torch.optim.Adam(other.parameters(), lr=1.125e-4, betas=(0.5, 0.9))
    for _ in range(3):
        loss = nll(*other(points()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(points()), loss.detach())
    for ours, theirs in zip(flow.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


# --- what the hardware allows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "passes"), [("forward", 1), ("training", 3)])
def test_the_products_are_those_of_the_networks(task: str, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = flows.Products(SMALL)
    run = getattr(bare, task)(points(5))
    done, places = [], []
    multiply = torch.mm

    def mm(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        done.append(a.shape[0] * a.shape[1] * b.shape[1])
        places.append(out.data_ptr())
        return multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    run()
    weights = SMALL.networks * sum(i * o for i, o in SMALL.layers)
    assert sum(done) == passes * 5 * weights
    gradients = {gradient.data_ptr() for network in bare.gradients for gradient in network}
    assert len(gradients & set(places)) == (SMALL.networks * len(SMALL.layers) if task == "training" else 0)


def test_a_pass_of_adam_moves_all_parameters() -> None:
    step = flows.adam_pass(100)
    (parameter,) = step.__self__.param_groups[0]["params"]  # type: ignore[attr-defined]
    before = parameter.detach().clone()
    step()
    assert parameter.numel() == 100 and (parameter != before).all()


# --- timing ------------------------------------------------------------------------------------------------------


def test_everything_is_done_in_turn() -> None:
    done: list[str] = []
    samples = timing.interleaved([partial(done.append, name) for name in "abc"], 4, least=0)
    assert "".join(done) == "abc" * (timing.WARM_UP + 4)
    assert [len(seconds) for seconds in samples] == [4, 4, 4]
    assert all(second > 0 for seconds in samples for second in seconds)


def test_what_is_short_is_done_several_times_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = counting(step=1)  # a second passes between two looks at it
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    done: list[int] = []
    (seconds,) = timing.interleaved([partial(done.append, 0)], 2, warm_up=1, least=4)
    assert len(done) == 1 + 2 * 4
    assert seconds == [0.25, 0.25]


def test_a_row_says_the_median_and_the_minimum() -> None:
    made = timing.row("forward", "iin", [3.0, 1.0, 2.0, 9.0, 4.0], batch=25, count=2, parameters=7)
    assert made == {
        **{"task": "forward", "library": "iin", "batch": 25, "threads": 2},
        **{"seconds": 3.0, "minimum": 1.0, "repeats": 5, "parameters": 7},
    }
    with pytest.raises(ValueError, match="nothing was timed"):
        timing.row("forward", "iin", [], batch=25, count=2)


def test_threads_are_set_and_put_back() -> None:
    before = torch.get_num_threads()
    with timing.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


# --- rows and tables ---------------------------------------------------------------------------------------------


def fake(task: str, library: str, seconds: float, **more: Any) -> timing.Row:
    return timing.row(task, library, [seconds], batch=25, count=2, **more)


MEASURED = [
    fake("train_step", "iin", 0.10, parameters=7),
    fake("train_step", "freia", 0.40, parameters=7, adam="default"),
    fake("train_step", "freia", 0.20, parameters=7, adam="fused"),
    {**fake("train_step", "zuko", 0.30, parameters=7, adam="default"), "minimum": 0.25},
    fake("train_step", "zuko", 0.25, parameters=7, adam="fused"),
    fake("forward", "iin", 0.02),
    fake("forward", "freia", 0.03),
    fake("inverse", "iin", 0.02),
    fake("inverse", "freia", 0.05),
    fake("train_step", "gemm", 0.05),
    fake("adam", "adam", 0.03, parameters=7),
    fake("forward", "gemm", 0.01),
]


def found(rows: list[timing.Row], task: str, library: str, **more: Any) -> timing.Row:
    (row,) = [r for r in rows if (r["task"], r["library"]) == (task, library) and more.items() <= r.items()]
    return row


def test_the_bound_is_products_and_adam_and_all_are_multiples_of_it() -> None:
    rows = flows.bounded(MEASURED)
    assert len(rows) == len(MEASURED) + 4  # three bounds, and the products of the inverse
    assert found(rows, "train_step", "bound")["seconds"] == pytest.approx(0.08)
    assert found(rows, "inverse", "bound")["seconds"] == found(rows, "inverse", "gemm")["seconds"] == 0.01
    assert found(rows, "train_step", "iin")["of_bound"] == pytest.approx(1.25)
    zuko = found(rows, "train_step", "zuko", adam="default")
    assert (zuko["of_bound"], zuko["of_bound_minimum"]) == (pytest.approx(3.75), pytest.approx(3.125))
    assert found(rows, "adam", "adam")["of_bound"] == pytest.approx(0.375)
    assert found(rows, "inverse", "freia")["of_bound"] == pytest.approx(5)


def test_ratios_are_those_to_the_fastest_peer_with_either_adam() -> None:
    rows = flows.bounded(MEASURED)
    own = found(rows, "train_step", "iin")
    assert own["times_as_fast_default"] == pytest.approx(3) and own["fastest_peer_default"] == "zuko"
    assert own["times_as_fast_fused"] == pytest.approx(2) and own["fastest_peer_fused"] == "freia"
    assert found(rows, "inverse", "iin")["times_as_fast"] == pytest.approx(2.5)


def test_a_task_alone_has_its_bound() -> None:
    rows = flows.bounded([row for row in MEASURED if row["task"] in ("inverse", "forward")][2:], ["inverse"])
    assert {(row["task"], row["library"]) for row in rows} == {
        ("inverse", library) for library in ("iin", "freia", "gemm", "bound")
    }


@pytest.mark.parametrize("markdown", [False, True])
def test_the_table_says_it_all(markdown: bool) -> None:
    rows = [*flows.bounded(MEASURED), fake("data", "iin", 2e-3, data="MNIST", items_per_second=12_500)]
    text = table.render(rows, {"machine": "a lathe", "torch": "9.9"}, markdown)
    assert "machine a lathe, torch 9.9" in text
    assert "Training step, 2 threads" in text and "Inverse (sampling), 2 threads" in text
    assert "batch 25: iin is 3.00 times as fast as the fastest peer with default Adam (zuko); minima: 2.50" in text
    assert "batch 25: iin is 2.50 times as fast as the fastest peer (freia); minima: 2.50" in text
    cells = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
    assert "iin 7 100 ms (100 ms) 1.25" in cells
    assert "freia fused 7 200 ms (200 ms) 2.50" in cells
    assert "data iin MNIST 25 2 2.00 ms 2.00 ms 12,500 a second" in cells
    if markdown:
        assert {line.count("|") for line in text.splitlines() if "freia" in line and "|" in line} == {6}


# --- autoencoder -------------------------------------------------------------------------------------------------


def small_autoencoder() -> tuple[autoencoder.Autoencoder, Tensor]:
    torch.manual_seed(0)
    system = autoencoder.system(size=16, dim=4, n_down=2, width=4, layers=1)
    image = torch.rand(6, 1, 16, 16) * 2 - 1
    next(system.objectives(Images(image, torch.zeros(6)), 0))  # ActNorm takes its statistics
    return system, image


def test_the_plain_graph_gives_the_same_gradients() -> None:
    system, image = small_autoencoder()
    other = deepcopy(system)
    torch.manual_seed(1)
    for objective in system.objectives(Images(image, torch.zeros(6)), 0):
        objective.loss.backward()
        if objective.name == "autoencoder":
            loss = objective.loss.detach()
    torch.manual_seed(1)
    torch.testing.assert_close(autoencoder.plain_gradients(other, image), loss)
    names = dict(system.named_parameters())
    assert any(name.startswith("discriminator") for name in names)
    for name, parameter in other.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        torch.testing.assert_close(names[name].grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_both_autoencoders_are_trained_alike() -> None:
    system, image = small_autoencoder()
    other, before = deepcopy(system), deepcopy(system.state_dict())
    torch.manual_seed(2)
    loop_step(system)(Images(image, torch.zeros(6)))
    torch.manual_seed(2)
    autoencoder.plain_step(other)(image)
    for (name, ours), plain in zip(system.named_parameters(), other.parameters(), strict=True):
        assert not torch.equal(ours, before[name]), name
        # The first step of Adam is lr times a sign, so that rounding shows where a gradient is next to nothing.
        assert ((ours - plain).abs() < 1e-6).float().mean() > 0.99, name


def test_both_autoencoders_have_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "system", partial(autoencoder.system, width=2, layers=1))
    ours, plain = autoencoder.autoencoder_rows(Settings(threads=(1,), repeats=1), autoencoder.TASKS)
    assert (ours["library"], plain["library"]) == ("iin", "plain") and ours["parameters"] == plain["parameters"]
    assert ours["times_as_fast"] == plain["seconds"] / ours["seconds"] and ours["batch"] == 25


# --- Jacobian ---------------------------------------------------------------------------------------------------------


def test_the_step_with_a_jacobian_is_compared_with_its_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ConvVAE(encoder=(2, 2, 2, 2), encoder_dense=(4,), decoder_dense=(16,), decoder=(2, 2, 2), dim=3)
    monkeypatch.setattr(jacobian, "ConvVAE", lambda: model)
    asked: list[int] = []
    monkeypatch.setattr(model, "logits", lambda z: asked.append(len(z)) or ConvVAE.logits(model, z))
    *own, plain = jacobian.jacobian_rows(Settings(threads=(1,), repeats=1), jacobian.TASKS)
    assert [row["what"] for row in own] == ["difference", "forward"]
    assert plain["what"] == "decoder alone, 256 codes" and 256 in asked
    assert all(row["times_the_decoder"] == row["seconds"] / plain["seconds"] for row in own)
    assert "times the decoder alone" in table.render([*own, plain], {})


# --- whole training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("players", [1, 2])
def test_steps_of_the_loop_are_timed(players: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tiny.autoencoder()
    base = tiny.write(tmp_path / "toy.yaml", tree | ({"system": tiny.node("tiny.Duel")} if players == 2 else {}))
    clock = counting()
    monkeypatch.setattr(runs, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    made: list[object] = []
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: made.append(optimizer))
    try:
        with runs.workplace() as folder:
            assert runs.loop_times(base, [], 4, allow=["tiny"]) == [1, 1, 1, 1]
    finally:
        handle.remove()
    assert len(made) == players * (runs.SETTLING + 4) - (players - 1)  # a step is over when its first player moved
    assert not folder.exists()


def test_a_run_that_is_too_short_is_said(tmp_path: Path) -> None:
    base = tiny.write(tmp_path / "toy.yaml", tiny.autoencoder())
    with runs.workplace(), pytest.raises(RuntimeError, match="ended after 2 steps, but 9 were"):
        runs.loop_times(base, ["train.steps=2"], 4, allow=["tiny"])


def test_steps_of_the_plain_loop_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stage(nn.Module):
        seen = 0

        def encode(self, image: Tensor) -> Any:
            self.seen += 1
            return runs.Ready().encode(image)

    stage = Stage()
    batches = iter([Images(points(), torch.zeros(16))] * 100)
    assert len(runs.plain_times(stage, SMALL, batches, 3)) == 3
    assert stage.seen == runs.SETTLING + 3


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IIN_DATA", str(fabricate.mnist(tmp_path / "data")))


def test_the_parts_of_a_step_are_apart(digits: None) -> None:
    model = autoencoder.AutoencoderModel(channels=3, dim=SMALL.dim, width=2)
    batches = runs.endless(Loader(ColorfulMNIST("train", pairs=True), 8, shuffle=True))
    data, encoding, flow = runs.cmnist_entries(model, SMALL, (3, 3, 2), batches)
    assert [entry.task for entry in (data, encoding, flow)] == [
        f"cmnist_diin_{part}" for part in ("data", "encoding", "flow")
    ]
    assert data.run().image.shape == (8, 3, 32, 32)  # type: ignore[attr-defined]
    assert encoding.run().shape == (16, SMALL.dim)  # type: ignore[attr-defined]
    losses = [float(flow.run()) for _ in range(30)]  # type: ignore[arg-type]
    assert losses[-1] < losses[0]


def test_loading_has_rows(digits: None) -> None:
    rows = list(runs.data_rows(Settings(threads=(1,), repeats=1), runs.DATA))
    assert {(row["data"], row["batch"]) for row in rows} == {
        (name, batch) for name in ("MNIST", "ColorfulMNIST pairs") for batch in (25, 128)
    }
    assert all(row["items_per_second"] == row["batch"] / row["seconds"] for row in rows)


# --- two processes -----------------------------------------------------------------------------------------------


SMALL_CASES = (
    Asked("flow", 3, batches=(8,), shape=SMALL),
    Asked("cmnist_diin", 2, batches=(8,), shape=SMALL, factors=(3, 3, 2), width=2),
)


def stepped(asked: Asked) -> tuple[bool, int, list[Tensor]]:
    """Whether gradients are shared, how many vectors or pairs were seen, and what became of the flow in a step."""
    system, batches = processes.case(asked)
    made, step = processes.stepper(system)
    share = next(batches(8, (distributed.rank(), distributed.world())))
    step(share)
    seen = share if isinstance(share, Tensor) else share.image
    return isinstance(made, Parallel), len(seen), [p.detach().clone() for p in system.trainable()["main"]]


@pytest.mark.parametrize("asked", SMALL_CASES, ids=lambda asked: asked.what)
def test_two_processes_take_the_same_step_as_one(asked: Asked, digits: None) -> None:
    single, whole, weights = stepped(asked)
    before = processes.case(asked)[0].trainable()["main"]
    assert not single and whole == 8
    for parallel, share, found in together(partial(stepped, asked)):
        assert parallel and share == 4
        for old, ours, theirs in zip(before, weights, found, strict=True):
            assert not torch.equal(old, ours)
            # The first step of Adam is lr times a sign, so that rounding shows where a gradient is next to nothing.
            assert ((ours - theirs).abs() < 1e-6).float().mean() > 0.99


def test_two_processes_have_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Asked] = []

    def timed(case: Asked) -> Samples:
        asked.append(case)
        return Samples({(8, 1, 1): [4.0, 3.0, 8.0], (8, 2, 1): [2.5, 2.0, 2.0]}, [0.1])

    monkeypatch.setattr(processes, "CASES", SMALL_CASES)
    monkeypatch.setattr(processes, "timed", timed)
    monkeypatch.setattr(distributed, "devices", lambda kind: 2)
    rows = list(processes.distributed_rows(Settings(repeats=2), processes.TASKS))
    assert [(case.what, case.repeats) for case in asked] == [("flow", 2), ("cmnist_diin", 2)]
    assert [(row["what"], row["processes"], row["threads"], row["batch"]) for row in rows] == [
        (what, count, 1, 8) for what in ("flow", "cmnist_diin") for count in (1, 2)
    ]
    one, two = rows[:2]
    assert (one["items_per_second"], two["items_per_second"]) == (2, 4) and "times_as_fast" not in one
    assert (two["times_as_fast"], two["times_as_fast_minimum"]) == (2, 1.5)
    said = [" ".join(line.split()) for line in table.render(rows, {}).splitlines()]
    assert "distributed iin flow, 1 process 8 1 4.00 s 3.00 s 2 a second" in said
    assert "distributed iin cmnist_diin, 2 processes 8 1 2.00 s 2.00 s 4 a second, 2.00 times as fast" in said


def test_two_processes_need_two_cores(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(distributed, "devices", lambda kind: 1)
    monkeypatch.setattr(processes, "timed", never)
    assert not list(processes.distributed_rows(Settings(), processes.TASKS))
    assert "distributed: left out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("asked", SMALL_CASES, ids=lambda asked: asked.what)
def test_two_processes_are_timed(asked: Asked, digits: None) -> None:
    if distributed.devices("cpu") < 2:
        pytest.skip("there is but one processor core")
    found = processes.timed(asked._replace(batches=(8, 4), counts=(1, 2)))
    ways = {(batch, *way) for batch in (8, 4) for way in ((1, 1), (1, 2), (2, 1))}
    assert found.steps.keys() == ways
    for seconds in (*found.steps.values(), found.message):
        assert len(seconds) == asked.repeats and min(seconds) > 0


# --- evaluation --------------------------------------------------------------------------------------------------


def test_both_distances_agree() -> None:
    ours, theirs = evaluation.distance_rows(24, 200, 1)
    assert (ours["library"], theirs["library"]) == ("iin", "scipy") and ours["dim"] == 24
    assert ours["value"] > 0.1 and ours["relative_difference"] < 1e-6
    assert ours["times_as_fast"] == theirs["seconds"] / ours["seconds"]


def test_spectra_decay() -> None:
    _, covariance = evaluation.moments(16, 4000, 0)
    values = torch.linalg.eigvalsh(covariance)
    assert values[0] > 0 and 10 < values[-1] / values[0] < 25


def test_swaps_are_made(digits: None) -> None:
    figures = evaluation.swaps(10, SMALL, (3, 3, 2))()
    assert {"swaps/digit/follows", "swaps/color/follows"} <= figures.keys()


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The command with a small flow; the peers that are not installed are left out."""
    monkeypatch.setattr(flows, "PUBLISHED", SMALL)
    missing = peers.absent()
    yield ["--without", *missing] if missing else []


def test_a_quick_run_writes_rows_and_prints_tables(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    assert command.main(["--quick", "--threads", "1", "--repeats", "1", "--out", str(out), *small]) == 0
    rows = json.loads(out.read_text())
    for row in rows:
        assert {"task", "library", "batch", "threads", "seconds"} <= row.keys()
        assert row["threads"] == 1 and row["batch"] in (25, 128) and row["seconds"] >= row["minimum"] > 0
        assert row["environment"]["torch"] == torch.__version__.split("+")[0]
    present = [peer for peer in PACKAGES if peer not in peers.absent()]
    for batch in (25, 128):
        cells = [(r["task"], r["library"], r.get("adam")) for r in rows if r["batch"] == batch]
        wanted = [("train_step", peer, adam) for peer in present for adam in ("default", "fused")]
        wanted += [(task, peer, None) for peer in present for task in ("forward", "inverse")]
        wanted += [(task, own, None) for task in flows.TASKS for own in ("iin", "gemm", "bound")]
        assert sorted(cells, key=str) == sorted([*wanted, ("adam", "adam", None)], key=str)
    printed = capsys.readouterr()
    assert "Training step, 1 thread" in printed.out and "load" in printed.err


def test_a_quick_run_is_two_batch_sizes_two_threads_and_all_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(command, "TASKS", dict.fromkeys(command.TASKS, lambda *words: asked.append(words) or iter(())))
    monkeypatch.setattr(command, "absent", list)
    assert command.main(["--quick"]) == 0
    assert asked == [(Settings((25, 128), (2,), 15, ("freia", "normflows", "nflows", "zuko")), list(flows.TASKS))]


def test_one_task_can_be_asked_for(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--only", "inverse", "--batches", "3", "--threads", "1", "--repeats", "1", "--markdown"]
    assert command.main([*words, "--without", *PACKAGES]) == 0
    printed = capsys.readouterr().out
    assert "**Inverse (sampling), 1 thread**" in printed and "batch 3" in printed
    assert "Training" not in printed and "freia" not in printed


def never(*_: Any) -> Any:
    raise AssertionError("it was measured")


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where something is measured."""
    monkeypatch.setattr(command, "TASKS", dict.fromkeys(command.TASKS, never))


@pytest.mark.parametrize("out", ["missing/bench.json", "."])
def test_a_file_that_cannot_be_written_is_found_out_first(
    out: str, unmeasured: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--only", "data", "--out", str(tmp_path / out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --out: ") and str(tmp_path) in line
    assert not list(tmp_path.iterdir())


def test_a_missing_peer_is_a_line(
    unmeasured: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "PACKAGES", {**PACKAGES, "zuko": "zuko_that_is_not_there"})
    assert command.main(["--quick"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "zuko" in line and "pip install 'iin[bench]'" in line and "--without" in line
    with pytest.raises(AssertionError, match="measured"):
        command.main(["--quick", "--without", *peers.absent()])
    with pytest.raises(AssertionError, match="measured"):
        command.main(["--only", "data"])  # for which no peer is needed


@pytest.mark.parametrize("words", [["--only", "nothing"], ["--repeats", "0"], ["--without", "iin"], ["--batches", "x"]])
def test_nonsense_is_refused(words: list[str], unmeasured: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(words)
    assert end.value.code == 2 and "error: argument" in capsys.readouterr().err


def test_rows_so_far_are_kept_when_a_later_task_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("later")

    measured = {("train_step",): lambda *_: iter([fake("train_step", "iin", 1.0)]), ("data",): fails}
    monkeypatch.setattr(command, "TASKS", measured)
    with pytest.raises(RuntimeError, match="later"):
        command.main(["--only", "train_step", "data", "--without", *PACKAGES, "--out", str(tmp_path / "rows.json")])
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["library"] == "iin"
