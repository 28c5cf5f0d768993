"""How steps are computed: precision, translation, and what they must not change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import only, train
from torch import Tensor, nn

from iin.building import check_precision
from iin.config import ConfigError, Training
from iin.data import Images, Pairs
from iin.engine import Engine, _touched
from iin.flows import vector_flow
from iin.losses import nll
from iin.models import Autoencoder as Model
from iin.models import PatchDiscriminator
from iin.run import read_checkpoint
from iin.systems import Autoencoder, FactorFlow, LatentFlow
from iin.train import _step, make_optimizers

half = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"), reason="this processor does not compute in bf16"
)


def images(count: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 16, 16, generator=generator) * 2 - 1


def model() -> Model:
    torch.manual_seed(0)
    return Model(1, 16, dim=6, n_down=2, width=4)


class Spy(nn.Module):
    """Remembers in which types a module answers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        answer = self.inner(x)
        self.seen.append(answer.dtype)
        return answer


@half
def test_bf16_runs_frozen_networks_in_bf16_and_the_flow_in_fp32() -> None:
    first = model()
    spy = first.encoder = Spy(first.encoder)
    torch.manual_seed(0)
    system = LatentFlow(first, vector_flow(6, 2, 16)).train()
    types: list[tuple[torch.dtype, ...]] = []
    for block in system.flow:
        block.register_forward_hook(lambda _, args, out: types.append((args[0].dtype, out[0].dtype, out[1].dtype)))
    engine = Engine(system, Training(precision="bf16"))
    batch = Images(images(), torch.zeros(6))
    with engine.step(3):
        (objective,) = engine.objectives(batch, 0)
    assert spy.seen == [torch.bfloat16]
    assert len(types) == len(system.flow) and {kind for found in types for kind in found} == {torch.float32}
    objective.loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in system.flow.parameters())
    with Engine(system, Training()).step(3):
        (full,) = Engine(system, Training()).objectives(batch, 1)
    assert objective.loss.item() == pytest.approx(full.loss.item(), rel=0.05)


@half
def test_a_flow_leaves_autocast_forward_and_back() -> None:
    torch.manual_seed(0)
    flow = vector_flow(6, 3, 16).train()
    x = torch.randn(64, 6)
    flow(x)
    z, _ = flow(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast, there = flow(x.bfloat16().float())
        again, _ = flow(x)
        back = flow.inverse(again)
    assert torch.equal(again, z) and cast.dtype == there.dtype == back.dtype == torch.float32
    assert (back - x).abs().max() < 1e-5
    assert flow(x.bfloat16())[0].dtype == torch.float32


@half
@pytest.mark.parametrize("disc", [False, True])
def test_autoencoders_train_in_bf16_with_weights_in_fp32(disc: bool) -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(1, width=4, layers=1, norm="actnorm") if disc else None
    system = Autoencoder(model(), discriminator=judge, calibrate=disc).train()
    engine = Engine(system, Training(precision="bf16"))
    optimizers = make_optimizers(system, Training())
    found: list[dict[str, Any]] = []
    for step in range(30):
        with engine.step(step):
            batch = Images(images(seed=step % 3), torch.zeros(6))
            found.append(_step(system, batch, step, optimizers, 1e-2, None, engine))
    name = "autoencoder/nll" if disc else "nll"
    assert found[-1][name] < found[0][name]
    assert all(p.dtype == torch.float32 for p in system.parameters())
    assert all(torch.isfinite(p).all() for p in system.parameters())
    assert all(value.dtype == torch.float32 for terms in found for value in terms.values() if isinstance(value, Tensor))


def test_bf16_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    check_precision(Training(precision="fp32", device="cpu"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(ConfigError, match=r"train\.precision: bf16 is not computed by this processor .*; use fp32"):
        check_precision(Training(precision="bf16", device="cpu"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    check_precision(Training(precision="bf16", device="cpu"))


def test_a_run_in_bf16_says_so_and_is_another_run(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "ae.yaml", tiny.autoencoder(steps=3))
    assert train("-b", path, "--logs", tmp_path / "a") == 0
    assert train("-b", path, "--logs", tmp_path / "b", "train.precision=bf16") == 0
    one, other = only(tmp_path / "a"), only(tmp_path / "b")
    assert one.state["digest"] != other.state["digest"]
    assert "precision: bf16" in other.config_file.read_text()
    weights = [read_checkpoint(run.checkpoints()[0])["system"] for run in (one, other)]
    key = "model.encoder.0.weight"
    assert not torch.equal(weights[0][key], weights[1][key])
    torch.testing.assert_close(weights[0][key], weights[1][key], rtol=0.2, atol=0.05)


@pytest.fixture
def eager_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """`torch.compile` with its own tracing, but without a compiler of C++ behind it; which modes were asked for."""
    modes: list[str] = []
    compile = nn.Module.compile

    def traced(self: nn.Module, *args: Any, mode: str, **options: Any) -> None:
        modes.append(mode)
        compile(self, *args, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", traced)
    yield modes
    torch.compiler.reset()


def pairs(count: int = 6) -> Pairs:
    shared = torch.tensor([True, False]).repeat(count, 1)
    return Pairs(images(count), images(count, 1), shared)


@pytest.mark.slow
def test_a_translated_flow_computes_the_same_and_keeps_its_names(eager_backend: list[str]) -> None:
    torch.manual_seed(0)
    plain = FactorFlow(model(), vector_flow(6, 2, 16), [3, 3]).train()
    fast = copy.deepcopy(plain)
    results = []
    for system, mode in ((plain, "off"), (fast, "reduce-overhead")):
        engine = Engine(system, Training(compile=mode))
        optimizers = make_optimizers(system, Training())
        losses = []
        for step in range(4):
            with engine.step(step):
                losses.append(float(_step(system, pairs(), step, optimizers, 1e-2, None, engine)["loss"]))
        results.append(losses)
    assert eager_backend == ["reduce-overhead"]
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[0][-1] < results[0][0]
    assert list(fast.state_dict()) == list(plain.state_dict())
    for name, value in fast.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_flow_translated_to_machine_code_computes_the_same() -> None:
    torch.manual_seed(0)
    flow = vector_flow(6, 1, 16).train()
    x = torch.randn(8, 6)
    flow(x)
    expected = nll(*flow(x))
    expected.backward()
    gradients = [p.grad.clone() for p in flow.parameters() if p.grad is not None]
    flow.zero_grad()
    flow.compile(mode="default")
    try:
        found = nll(*flow(x))
        found.backward()
    except Exception as error:
        if "compiler" in str(error).lower():
            pytest.skip(f"no C++ compiler here: {error}")
        raise
    finally:
        torch.compiler.reset()
    torch.testing.assert_close(found, expected)
    for parameter, gradient in zip(flow.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_the_leaves_that_a_loss_touches() -> None:
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    hidden = (a * 2).sum() + b.sum()
    assert _touched(hidden * hidden) == {id(a), id(b)} and id(c) not in _touched(hidden)
