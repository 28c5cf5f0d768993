"""The costs that docs/scaling.md speaks of: that formulas count what is computed, and that the script runs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from bench.peers import Shape
from bench.steps import ADAM, FlowAlone, loop_step
from scaling import command, costs, curves, estimate, table
from scaling.estimate import CLUSTER, Work

from iin.data import Images
from iin.engine import engine
from iin.flows import vector_flow
from iin.models import Autoencoder as Model
from iin.models import PatchDiscriminator
from iin.systems import Autoencoder

ROOT = Path(__file__).resolve().parents[1]
SMALL = Shape(dim=8, blocks=2, hidden=16, depth=1)


class Flops(TorchDispatchMode):
    """Counts what torch says of each operation. (Its own counter cannot follow gradients of a leaf.)"""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.count += formula(*args, **(kwargs or {}), out_val=answer)
        return answer


def counted(run: Callable[[], object]) -> int:
    with Flops() as counter:
        run()
    return counter.count


# --- formulas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [SMALL, Shape(12, 3, 8, 0)])
def test_flops_of_a_flow_are_those_that_are_computed(shape: Shape) -> None:
    step, x = loop_step(FlowAlone(vector_flow(*shape)).train()), torch.randn(6, shape.dim)
    step(x)
    assert counted(lambda: step(x)) == 6 * costs.flow_flops(shape)
    published = Shape()
    assert costs.flow_products(published) == pytest.approx(published.parameters, rel=0.01)


@pytest.mark.parametrize(("channels", "size", "layers"), [(1, 32, 2), (3, 48, 3), (2, 32, 0)])
def test_flops_of_an_autoencoder_are_those_that_are_computed(channels: int, size: int, layers: int) -> None:
    judge = PatchDiscriminator(channels, width=4, layers=layers) if layers else None
    model = Model(channels, size, dim=6, n_down=3, width=4)
    system = Autoencoder(model, discriminator=judge, calibrate=bool(layers)).train()
    step, batch = loop_step(system), Images(torch.rand(4, channels, size, size) * 2 - 1, torch.zeros(4))
    step(batch)
    assert counted(lambda: step(batch)) == 4 * costs.step_flops(channels, size, 6, 3, 4, layers)
    frozen = counted(lambda: model.encode(batch.image))
    assert frozen == 4 * costs.flops(costs.encoder(channels, size, 6, 3, 4))


def test_flops_of_the_perceptual_distance_are_those_of_vgg() -> None:
    with torch.device("meta"):
        network, image = torchvision.models.vgg16(weights=None).features, torch.rand(1, 3, 64, 64)
    assert counted(lambda: network(image)) == costs.flops(costs.vgg(64))
    without = costs.step_flops(3, 64, 6, 3, 4, 2)
    assert costs.step_flops(3, 64, 6, 3, 4, 2, perceptual=True) - without == 3 * costs.flops(costs.vgg(64))


def test_what_backward_needs_is_counted_once_and_without_weights() -> None:
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)

    def loss() -> torch.Tensor:
        hidden = layer(x).tanh()  # the input is kept, and what tanh answers: by tanh, and by the product
        return (hidden * hidden).sum()

    assert costs.kept_bytes(loss, layer.parameters()) == 4 * (3 * 5 + 3 * 7)
    assert costs.kept_bytes(loss, [*layer.parameters(), x]) == 4 * 3 * 7


def test_operations_are_those_that_compute() -> None:
    x = torch.randn(4, 4)
    assert costs.operations(lambda: x.T.reshape(2, 8)[0]) == 1  # the copy
    assert costs.operations(lambda: (x + 1).view(16).exp()) == 2


def test_the_flow_keeps_the_numbers_behind_every_activation() -> None:
    shape = Shape(4, 5, 256, 2)
    assert estimate.flow_work(shape, "").kept == pytest.approx(8 * 2 * 5 * 3 * 256, rel=0.05)
    large = estimate.flow_work(shape._replace(blocks=50), "")
    system = FlowAlone(vector_flow(*shape._replace(blocks=50))).train()
    x = torch.randn(4, 4)
    loop_step(system)(x)
    whole = costs.kept_bytes(lambda: next(engine(system, ADAM).objectives(x, 1)), [*system.parameters(), x])
    assert large.kept == pytest.approx(whole / 4, rel=0.02)


# --- lines and estimates -----------------------------------------------------------------------------------------


def test_a_line_through_points() -> None:
    found = curves.line([(1, 5.0), (3, 11.0), (10, 32.0)])
    assert found == pytest.approx((2.0, 3.0, 0.0), abs=1e-9)
    assert curves.line([(1, 5.0), (3, 11.0), (10, 40.0)]).error > 0.05
    with pytest.raises(ValueError, match="two points"):
        curves.line([(2, 1.0), (2, 3.0)])


WORK = Work("some", parameters=10**9, flops=10**10, kept=10**6, operations=1000)


def test_gradients_travel_within_nodes_and_between_them() -> None:
    slow = CLUSTER._replace(hop=0.0)
    inside = estimate.estimate(WORK, 8, 64, cluster=slow).exchange
    assert inside == pytest.approx(2 * 7 / 8 * 4e9 / slow.inside)
    both = estimate.estimate(WORK, 64, 64, cluster=slow).exchange
    assert both - inside == pytest.approx(2 * 7 / 8 * 4e9 / 8 / slow.between)
    assert estimate.estimate(WORK, 64, 64, sharded=True, cluster=slow).exchange == pytest.approx(1.5 * both)
    assert estimate.estimate(WORK, 1, 64).exchange == estimate.estimate(WORK, 1, 64).messages == 0
    with pytest.raises(ValueError, match="12 devices are no whole nodes of 8"):
        estimate.estimate(WORK, 12, 64)


def test_a_loss_takes_its_hops_and_little_else() -> None:
    for devices, hops in ((4, 6), (8, 14), (512, 14 + 12)):  # to all others of a node and back; between nodes, a tree
        taken = estimate.estimate(WORK, devices, 64).messages
        assert taken == pytest.approx(CLUSTER.message + hops * CLUSTER.hop, rel=1e-3)
        assert estimate.estimate(WORK._replace(objectives=2), devices, 64).messages == pytest.approx(2 * taken)


def test_devices_bring_what_they_can_and_no_more() -> None:
    one, eight, many = (estimate.estimate(WORK, n, 512) for n in (1, 8, 512))
    assert one.seconds < eight.seconds < many.seconds
    assert 7 < eight.images_per_second / one.images_per_second < 8
    assert one.memory == pytest.approx(16e9 + 512e6)
    assert estimate.estimate(WORK, 8, 256, sharded=True).memory == pytest.approx(2e9 + 256e6)
    assert estimate.estimate(WORK, 1, 512, "fp32").device > 3.5 * one.device
    small = estimate.estimate(WORK._replace(parameters=10**6, flops=10**6), 1, 1)
    assert small.seconds == small.start == 1000 * CLUSTER.start and small.limit == "starting operations"


def numbers(line: str) -> list[float]:
    return [float(text.replace(",", "")) for text in re.findall(r"\d[\d,]*(?:\.\d+)?", line)]


def test_the_page_has_the_tables_of_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--estimate", "--markdown"]) == 0
    page = [line for line in (ROOT / "docs" / "scaling.md").read_text().splitlines() if line.startswith("|")]
    made = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(made) > 15
    first = page.index(made[0])
    shown = page[first : first + 8] + page[page.index(made[8]) :]
    assert len(shown) == len(made)
    for ours, theirs in zip(made, shown, strict=True):
        assert ours.split("|")[1] == theirs.split("|")[1]
        # Versions of torch differ in how many operations they need; two digits are all that is said.
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=0.15, abs=0.02), theirs


# --- the script --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_is_measured_written_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "scaling.json", tmp_path / "scaling.png"
    assert command.main(["--tiny", "--repeats", "1", "--out", str(out), "--plot", str(picture), "--markdown"]) == 0
    rows = json.loads(out.read_text())
    tasks = {row["task"] for row in rows}
    assert {*curves.CURVES, "processes", "message", "memory_parameters", "memory_vectors"} <= tasks
    sizes = curves.TINY
    for name, points in (("flow_batch", sizes.batches), ("encoder", [side**2 for side in sizes.images])):
        found = {(row["size"], row["threads"]) for row in rows if row["task"] == name}
        assert found == {(size, count) for size in points for count in (1, 2)}
    assert all(row.get("seconds", 1) > 0 and row.get("bytes", 1) > 0 and row["environment"] for row in rows)
    ways = {(row["batch"], row["processes"], row["threads"]) for row in rows if row["task"] == "processes"}
    assert ways == {(batch, *way) for batch in sizes.processes for way in ((1, 1), (1, 2), (2, 1))}
    said = capsys.readouterr().out
    assert "**Two processes, ms**" in said and "a parameter of the flow" in said
    with Image.open(picture) as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 20) or ()}
        assert len(colours) > 8


def test_measured_figures_become_tables() -> None:
    rows = [
        {"task": "flow_batch", "threads": count, "size": size, "seconds": (2 + 3 * size) / 1000 / count}
        for size in (1, 10)
        for count in (1, 2)
    ]
    rows += [{"task": "memory_parameters", "threads": 1, "size": n, "bytes": 7e8 + 16 * n} for n in (10**7, 10**8)]
    for processes, count, seconds in ((1, 1, 0.3), (1, 2, 0.2), (2, 1, 0.15)):
        rows.append({"task": "processes", "batch": 64, "processes": processes, "threads": count, "seconds": seconds})
    found = {made.title: made for made in table.measured(rows)}
    assert list(found["Training step of the flow, ms"].body) == [["1", "5.00", "2.50"], ["10", "32.0", "16.0"]]
    assert found["Lines"].body[0][2:] == ["2.00 ms + 3.00 ms a vector", "0%"]
    assert list(found["Memory"].body) == [["a parameter of the flow", "16.0 bytes", "16 bytes"]]
    assert list(found["Two processes, ms"].body) == [["64", "300", "200", "150", "2.00"]]


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--out", "nowhere/x.json"], ["--plot", "."]])
def test_what_cannot_work_is_said_at_once(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2 and "error: " in capsys.readouterr().err
