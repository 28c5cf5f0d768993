"""Variation predictability: the network, the protocol, and what it tells of generators whose answer is known."""

from __future__ import annotations

import gc
import io
import signal
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from runs import evaluate, only, train
from torch import Tensor, nn

from iin import evaluation
from iin.data import Images
from iin.flows import conditional_flow, vector_flow
from iin.interrupt import Interrupt, Interrupted
from iin.metrics import VariationPredictability
from iin.metrics.variation import (
    Recogniser,
    VariedPairs,
    changed,
    draw_pairs,
    read_pairs,
    score,
    split,
    write_pairs,
)
from iin.metrics.variation.pairs import collect, latents_of
from iin.models import Autoencoder, ConvVAE, DenseEmbedder, ModuleGenerator, ResidualDiscriminator
from iin.seeds import mix
from iin.systems import VAE, LatentFlow, VariationGAN
from iin.systems import Autoencoder as AutoencoderSystem

CASES = ["diff_sin005", "concat_sin005", "diff_rs", "concat_rs", "diff_odd_rs"]


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def filled(model: nn.Module, recipe: str) -> None:
    """Weights by the recipes of the recordings; numbers count all entries of the state."""
    for i, (name, value) in enumerate(model.state_dict().items()):
        n = value.numel()
        last = name.rpartition(".")[2]
        if last == "num_batches_tracked":
            continue
        if recipe == "sin005":
            if "running" in last:
                continue
            new = torch.sin(torch.arange(n) * 0.01 * (i + 1)) * 0.05
        else:
            r = torch.from_numpy(np.random.RandomState(i).standard_normal(n))
            if value.ndim > 1:
                new = r * (2 / (n / value.shape[0])) ** 0.5
            elif last == "running_var":
                new = 0.5 + 0.25 * r.abs()
            else:
                new = 0.05 * r if last == "running_mean" else 0.1 * r + (last == "weight")
        value.copy_(new.view(value.shape))


# --- recorded --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_recogniser_is_the_published_one(name: str, recording: Any) -> None:
    case = recording("vp/vp_metric.pt")[name]
    model = Recogniser(3, case["out_dim"], case["input_mode"])
    state = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert list(state.items()) == [(key, shape) for _, key, shape, _ in case["fill_order"]]
    assert sum(p.numel() for p in model.parameters()) == case["num_parameters"]
    filled(model, case["recipe"])
    images = case["x"].chunk(2, 3)
    model.eval()
    close(model(*images), case["logits_eval"], 1e-5)

    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    logits = model.train()(*images)
    close(logits, case["logits_train"], 1e-5)
    loss = nn.functional.cross_entropy(logits, case["target"])
    assert loss.item() == pytest.approx(case["train_loss"], abs=1e-5)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert norm == pytest.approx(case["grad_global_norm"], rel=1e-4)
    for key, value in case["running_after_one_train_forward"].items():
        close(model.state_dict()[key], value, 1e-6)
    optimizer.step()
    close(model.eval()(*images), case["logits_eval_after_one_adam_step_lr0_01"], 1e-3)


def test_the_second_image_is_subtracted_or_comes_behind() -> None:
    first, second = torch.rand(2, 2, 3, 8, 8)
    for mode, seen in (("diff", first - second), ("concat", torch.cat((first, second), 1))):
        model = Recogniser(3, 5, mode).eval()
        inputs: list[Tensor] = []
        model.conv0.register_forward_pre_hook(lambda _, given, inputs=inputs: inputs.append(given[0]))
        model(first, second)
        close(inputs[0], seen, 0)


def test_splits_are_the_published_ones(recording: Any) -> None:
    for case in recording("vp/vp_metric.pt")["splits"]:
        learnt, tested = split(case["n"], case["ratio"], np.random.RandomState(case["seed"]))
        assert learnt.tolist() == list(case["train"]) and tested.tolist() == list(case["test"])


@pytest.mark.parametrize("name", ["folder_rgb", "folder_gray"])
def test_a_published_folder_is_read(name: str, recording: Any, tmp_path: Path) -> None:
    case = recording("vp/vp_metric.pt")[name]
    for file, content in case["file_bytes"].items():
        (tmp_path / file).write_bytes(bytes(content.tolist()))
    pairs = read_pairs(tmp_path)
    assert pairs.first.dtype == torch.uint8 and pairs.delta.dtype == torch.float64
    both = torch.cat((pairs.first, pairs.second), 3)
    close(both.float() / 127.5 - 1, case["loader_tensor"], 2.5 / 127.5)  # decoders of JPEG may differ by a level
    close(pairs.delta, case["z1"] - case["z2"], 0)
    target, latents = changed(pairs.delta)
    assert target.tolist() == list(case["targets"]) == list(case["varied_dim"])
    assert latents == case["z1"].shape[1]


@pytest.mark.parametrize("name", ["folder_rgb", "folder_gray"])
def test_a_folder_is_written_as_published_ones_are(name: str, recording: Any, tmp_path: Path) -> None:
    case = recording("vp/vp_metric.pt")[name]
    pixels = case["pairs_uint8"] if case["pairs_uint8"].ndim == 4 else case["pairs_uint8"][..., None]
    first, second = pixels.permute(0, 3, 1, 2).chunk(2, 3)
    delta = case["z1"] - case["z2"]
    parts = [VariedPairs(first[rows], second[rows], delta[rows]) for rows in (slice(0, 3), slice(3, 4))]
    assert write_pairs(tmp_path / "pairs", parts) == (4, delta.shape[1])
    assert {path.name for path in (tmp_path / "pairs").iterdir()} == set(case["file_bytes"])
    labels = np.load(io.BytesIO((tmp_path / "pairs/labels.npy").read_bytes()))
    assert labels.dtype == np.float64 and (labels == case["labels_npy"].numpy()).all()
    (tmp_path / "theirs").mkdir()
    for file, content in case["file_bytes"].items():
        (tmp_path / "theirs" / file).write_bytes(bytes(content.tolist()))
    ours, theirs = read_pairs(tmp_path / "pairs"), read_pairs(tmp_path / "theirs")
    assert (ours.first.int() - theirs.first.int()).abs().max() <= 2
    assert (ours.second.int() - theirs.second.int()).abs().max() <= 2


# --- generators whose answer is known ----------------------------------------------------------------------------


class Quarters(nn.Module):
    """Each latent is the brightness of a quarter of the image."""

    dim = 4

    def factors(self, z: Tensor) -> Tensor:
        return z

    def decode(self, z: Tensor) -> Tensor:
        value = (0.3 * self.factors(z)).view(-1, 1, 2, 2)
        return value.repeat_interleave(6, 2).repeat_interleave(6, 3)  # [B, 1, 12, 12]


def _matrix() -> Tensor:
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(1))


class Turned(Quarters):
    """The same latents after a rotation, always the same."""

    def factors(self, z: Tensor) -> Tensor:
        return z @ torch.linalg.qr(_matrix())[0]


class Tangled(Quarters):
    """After a rotation whose angle depends on the code."""

    def factors(self, z: Tensor) -> Tensor:
        angle = 2 * z.sum(1)
        turn = torch.linalg.matrix_exp(angle[:, None, None] * (_matrix() - _matrix().T))
        return (turn @ z[:, :, None]).squeeze(2)


class Dead(Quarters):
    """No latent does anything."""

    def factors(self, z: Tensor) -> Tensor:
        return 0 * z


class Half(Quarters):
    """Two latents do nothing."""

    def factors(self, z: Tensor) -> Tensor:
        return z * torch.tensor([1.0, 1.0, 0.0, 0.0])


def scored(system: nn.Module, **settings: Any) -> dict[str, float]:
    metric = VariationPredictability(**{"count": 1500, "runs": 1, "epochs": 30, "every": 5, **settings})
    return metric(system, ())  # type: ignore[arg-type]


@pytest.mark.slow
def test_independent_latents_are_told_and_tangled_ones_are_not() -> None:
    found = {kind: scored(kind()) for kind in (Quarters, Turned, Tangled, Half, Dead)}
    for figure in ("vp/published", "vp/honest"):
        value = {kind: figures[figure] for kind, figures in found.items()}
        assert value[Quarters] >= 0.9
        assert value[Turned] >= value[Quarters] - 0.1  # a rotation that is always the same has directions as well
        assert value[Tangled] <= value[Quarters] - 0.3
        assert value[Dead] == pytest.approx(0.25, abs=0.05)
        assert value[Half] == pytest.approx(0.75, abs=0.1)  # of two that do nothing, one is guessed


def quarters(count: int = 200, seed: int = 0) -> VariedPairs:
    return collect(draw_pairs(Quarters(), count, torch.Generator().manual_seed(seed)), count)


FEW: dict[str, Any] = {"runs": 1, "epochs": 6, "batch_size": 8, "test_share": 0.7}
ONCE: dict[str, Any] = {**FEW, "epochs": 2}


def test_one_sees_at_once_which_quarter_changes() -> None:
    figures = score(*quarters(), **FEW)
    assert list(figures) == ["published", "published_std", "honest", "honest_std"]
    assert figures["published"] > 0.5  # 0.25 is chance
    assert figures["published_std"] == figures["honest_std"] == 0
    # Labels that say nothing are not to be learnt, however well the images can be told.
    first, second, delta = quarters()
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(3))
    assert score(first, second, delta[order], **ONCE)["honest"] < 0.4


def test_arrays_levels_indices_and_grey_or_colour_are_one() -> None:
    first, second, delta = quarters(60)
    expected = score(first, second, delta, **ONCE)
    target, _ = changed(delta)
    assert score(first.numpy(), second.numpy(), delta.numpy(), **ONCE) == expected
    assert score(first, second, target, latents=4, **ONCE) == expected
    assert score(*(part.expand(-1, 3, -1, -1) for part in (first, second)), delta, **ONCE) == expected
    backwards = (np.ascontiguousarray(part.numpy()[::-1])[::-1] for part in (first, second))
    assert score(*backwards, delta.numpy().astype(">f8"), **ONCE) == expected
    floats = (part.float() / 127.5 - 1 for part in (first, second))
    assert score(*floats, delta, **ONCE) == expected


def test_runs_differ_and_repeat_themselves() -> None:
    pairs = quarters(60)
    several = score(*pairs, **{**ONCE, "runs": 2})
    state = torch.get_rng_state()
    assert score(*pairs, **{**ONCE, "runs": 2}) == several
    assert torch.equal(torch.get_rng_state(), state)
    assert several["published_std"] > 0
    assert score(*pairs, **ONCE, seed=1) != score(*pairs, **ONCE)


def test_the_honest_figure_is_of_pairs_that_choose_no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recogniser that is right of the validation pairs in its second epoch, and of all other test pairs in its
    first."""
    first, second, delta = quarters(100)
    _, test = split(100, 0.7, np.random.RandomState(mix(0, 0) % (1 << 32)))
    validation = set(test[:10].tolist())
    target, _ = changed(delta)
    images = first.float() / 127.5 - 1
    images[:, 0, 0, 0] = torch.arange(100) / 100  # by which a pair is known
    looks = []

    def answer(self: Recogniser, one: Tensor, other: Tensor) -> Tensor:
        if self.training:
            return self.output(torch.zeros(len(one), 256))
        looks.append(1)
        rows = (one[:, 0, 0, 0] * 100).round().long()
        right = torch.tensor([(row in validation) == (len(looks) == 2) for row in rows.tolist()])
        return nn.functional.one_hot(torch.where(right, target[rows], (target[rows] + 1) % 4), 4).float()

    monkeypatch.setattr(Recogniser, "forward", answer)
    found = score(images, second.float() / 127.5 - 1, delta, **{**FEW, "epochs": 2})
    assert found["published"] == pytest.approx(60 / 70) and found["honest"] == 0


def test_it_stops_when_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = quarters(100)
    target, _ = changed(pairs.delta)
    steps = []

    def know(self: Recogniser, one: Tensor, other: Tensor) -> Tensor:
        steps.append(self.training)
        if self.training:
            return self.output(torch.zeros(len(one), 256))
        size = (one - other).flatten(2).abs().mean(1).view(-1, 2, 6, 2, 6).mean((2, 4)).flatten(1)
        return size

    monkeypatch.setattr(Recogniser, "forward", know)
    clear = pairs._replace(second=(pairs.first.int() + 50 * pattern(target)).clamp(0, 255).to(torch.uint8))
    found = score(*clear, **{**FEW, "epochs": 50})
    assert found["published"] == found["honest"] == 1 and steps.count(False) == 1


def pattern(target: Tensor) -> Tensor:
    """1 in a quarter each: ``[N, 1, 12, 12]``."""
    one = nn.functional.one_hot(target, 4).view(-1, 1, 2, 2)
    return one.repeat_interleave(6, 2).repeat_interleave(6, 3)


def test_graphics_processors_are_not_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    score(*quarters(60), **{**ONCE, "epochs": 1})
    assert not seeded


def test_a_check_ends_the_work() -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(*quarters(), **FEW, check=check)


# --- pairs -----------------------------------------------------------------------------------------------------------


class Named(nn.Module):
    """Three numbers of a class before two latents; images show all of them."""

    dim, discrete = 5, 3

    def latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        label = torch.eye(3)[torch.randint(3, (n,), generator=generator)]
        return torch.cat((label, torch.rand(n, 2, generator=generator)), 1)

    def sample(self, n: int = 1, z: Tensor | None = None) -> Tensor:
        assert z is not None
        return (2 * z - 1).view(-1, 1, 1, 5).repeat(1, 3, 6, 1)


def test_pairs_differ_in_one_latent_and_never_in_the_class() -> None:
    pairs = collect(draw_pairs(Named(), 250, torch.Generator().manual_seed(0), batch_size=60), 250)
    assert pairs.delta.shape == (250, 2) and ((pairs.delta != 0).sum(1) == 1).all()
    target, _ = changed(pairs.delta)
    assert 90 < int(target.sum()) < 160
    codes = torch.stack((pairs.first, pairs.second))[:, :, 0, 0].double() / 255  # [2, N, 5]
    assert torch.equal(codes[0, :, :3], codes[1, :, :3]) and (codes[0, :, :3].sum(1) == 1).all()
    close(codes[0, :, 3:] - codes[1, :, 3:], pairs.delta, 1 / 255)
    again = collect(draw_pairs(Named(), 250, torch.Generator().manual_seed(0), batch_size=60), 250)
    assert torch.equal(again.first, pairs.first) and torch.equal(again.delta, pairs.delta)


class Coarse(Quarters):
    """Latents that are often drawn as they were."""

    levels = 2

    def latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(self.levels, (n, 4), generator=generator).float()


def test_a_latent_that_is_drawn_as_it_was_is_drawn_once_more() -> None:
    pairs = collect(draw_pairs(Coarse(), 200, torch.Generator().manual_seed(0)), 200)
    assert ((pairs.delta != 0).sum(1) == 1).all() and pairs.delta.abs().max() == 1
    system = Coarse()
    system.levels = 1
    with pytest.raises(ValueError, match=r"Coarse.latents draws number [0-3] always the same"):
        next(draw_pairs(system, 5, torch.Generator()))
    with pytest.raises(ValueError, match="batch_size: expected at least 1, found 0"):
        next(draw_pairs(Coarse(), 5, torch.Generator(), batch_size=0))


def test_pairs_of_one_run_are_gone_before_the_next_ones_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made, kept, alive = VariationPredictability._made, [], []

    def make(self: VariationPredictability, *arguments: Any) -> VariedPairs:
        gc.collect()
        alive.append(sum(reference() is not None for reference in kept))
        pairs = made(self, *arguments)
        kept.append(weakref.ref(pairs.first))
        return pairs

    monkeypatch.setattr(VariationPredictability, "_made", make)
    scored(Quarters(), count=40, epochs=1, runs=3)
    assert alive == [0, 0, 0]
    with pytest.raises(ValueError, match="runs: expected at least 1, found 0"):
        VariationPredictability(runs=0)


def test_levels_are_rounded_as_published() -> None:
    class Ramp(nn.Module):
        dim = 2

        def decode(self, z: Tensor) -> Tensor:
            return torch.linspace(-1.2, 1.2, 25).view(1, 1, 5, 5).expand(len(z), -1, -1, -1)

    (pairs,) = draw_pairs(Ramp(), 2, torch.Generator())
    x = torch.linspace(-1.2, 1.2, 25)
    assert pairs.first[0].flatten().tolist() == ((x.clamp(-1, 1) + 1) * 127.5).round().int().tolist()


SYSTEMS: dict[str, Any] = {
    "autoencoder": lambda: AutoencoderSystem(Autoencoder(1, 8, 4, 2, 4)),
    "vae": lambda: VAE(ConvVAE(1, 8, 3, (4,), 3, 2, (8,), (8, 32), 4, ())),
    "flow": lambda: LatentFlow(Autoencoder(1, 8, 4, 2, 4), vector_flow(4, 2, 8, 1)),
    "named": Named,
    "gan": lambda: VariationGAN(
        ModuleGenerator(["D_global-3", "Conv-up-1", "C_global-2"], 1, 8, 16, least=4, styled=4),
        ResidualDiscriminator(1, 8, width=16),
        objective="gan",
    ),
}


@pytest.mark.parametrize("kind", SYSTEMS)
def test_any_system_that_decodes_latents_is_measured(kind: str) -> None:
    system = SYSTEMS[kind]()
    size = latents_of(system).varied
    assert size == {"autoencoder": 4, "vae": 3, "flow": 4, "named": 2, "gan": 2}[kind]
    metric = VariationPredictability(count=40, runs=2, epochs=1, decoded=16)
    figures = evaluation.evaluate(system.eval(), Batches(), {"vp": metric})
    assert {"vp/published", "vp/published_std", "vp/honest", "vp/honest_std"} <= figures.keys()
    assert 0 <= figures["vp/honest"] <= 1
    assert metric.facts["vp"] == (
        f"40 pairs, 4 to learn {size} latents from, 1 epochs, diff; 2 runs; chance {1 / size:.3g}"
    )
    assert metric.facts["figures"] == [name for name in figures if name.startswith("vp/")]
    assert all(p.grad is None for p in system.parameters())


@pytest.mark.parametrize("during", ["draw", "learn"])
def test_a_signal_ends_the_evaluation(during: str) -> None:
    """Neither looks at test batches, which is where evaluations look out for signals."""
    interrupt, system = Interrupt(), Named()
    inner, calls = system.sample, []

    def sample(n: int = 1, z: Tensor | None = None) -> Tensor:
        calls.append(1)
        if len(calls) == (2 if during == "draw" else 6):
            interrupt.asked = signal.SIGTERM
        return inner(n, z)

    system.sample = sample  # type: ignore[method-assign]
    test = evaluation.TestSet(Batches(), interrupt=interrupt)
    metric = VariationPredictability(count=60, runs=1, epochs=10**6, decoded=20)
    with pytest.raises(Interrupted):
        evaluation.evaluate(system, test, {"vp": metric})  # type: ignore[arg-type]
    assert len(calls) == (2 if during == "draw" else 6)


class Batches:
    """Test images, two batches of different sizes."""

    def __iter__(self) -> Any:
        for count in (6, 3):
            yield Images(torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count)) * 2 - 1, None)


class Mean(nn.Module):
    """A representation: the mean of each image's rows."""

    layer = "mean"

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((1, 3))


def test_a_conditional_flow_decodes_with_test_images() -> None:
    embedder = DenseEmbedder(8, 4, 2)
    flow = conditional_flow(4, embedder, blocks=2, hidden=8, depth=1)
    system = LatentFlow(Autoencoder(1, 8, 4, 2, 4), flow, Mean()).eval()
    told: list[Tensor] = []
    inner = system.decode
    system.decode = lambda z, context=None: told.append(context) or inner(z, context)  # type: ignore[method-assign]
    pairs = collect(draw_pairs(system, 20, torch.Generator().manual_seed(0), batch_size=4, batches=Batches()), 20)
    assert len(pairs.first) == 20
    assert [len(context) for context in told[::2]] == [4, 2, 3, 4, 2, 3, 2]  # parts of the batches, again and again
    assert all(torch.equal(a, b) for a, b in zip(told[::2], told[1::2], strict=True))  # the same for both images
    with pytest.raises(ValueError, match="a conditional flow need test images, and there are none"):
        list(draw_pairs(system, 20, torch.Generator()))


def test_more_than_memory_allows_goes_into_a_file_without_a_name(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    parts = list(draw_pairs(Named(), 30, torch.Generator().manual_seed(0), batch_size=8))
    inside, outside = collect(parts, 30), collect(parts, 30, memory=100)
    assert torch.equal(inside.first, outside.first) and torch.equal(inside.second, outside.second)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("iin.metrics.variation.pairs.lacking", lambda *_: "no room at all")
    with pytest.raises(OSError, match="more than memory allows, and there is no room"):
        collect(parts, 30, memory=100)


# --- what cannot be measured -----------------------------------------------------------------------------------------


class Odd(nn.Module):
    """A system that is what it is told to be."""

    def __init__(self, **has: Any) -> None:
        super().__init__()
        self.__dict__.update(has)


@pytest.mark.parametrize(
    ("system", "words"),
    [
        (Odd(dim=4), r"pairs need a system with decode\(z\), or sample\(z=...\); Odd has neither"),
        (Odd(dim=4, sample=lambda n: n), "Odd has neither"),
        (Odd(dim=4, decode=lambda z: z, decodes=False), "has no decoder; leave it out"),
        (Odd(decode=lambda z: z), "need to know the number of latents; Odd has no attribute dim"),
        (Odd(dim=1, decode=lambda z: z), "need at least 2 latents.* this Odd has 1"),
        (Odd(dim=9, discrete=8, decode=lambda z: z), "need at least 2 latents.* this Odd has 1"),
        (Odd(dim=9, decode=lambda z: z), r"expected images \[100, C, H, W\]|answered \[100, 9\]"),
        (Odd(dim=9, decode=lambda z: torch.full((len(z), 1, 8, 8), torch.nan)), "NaN or infinity"),
        (Odd(dim=9, latents=lambda n, g: torch.zeros(n, 3), decode=None, sample=lambda z: z), r"\[100, 3\], expected"),
    ],
)
def test_systems_that_cannot_be_measured_are_told_so(system: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        scored(system)
    assert str(error.value).startswith("VariationPredictability") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"first": torch.zeros(20, 1, 8, 8)}, r"of one size and type, found \[20, 1, 8, 8\].* and \[200, 1, 12, 12\]"),
        ({"first": torch.zeros(200, 12, 12), "second": torch.zeros(200, 12, 12)}, r"pairs of images \[N, C, H, W\]"),
        ({"first": torch.full((200, 1, 12, 12), torch.inf)}, "first: images hold NaN or infinity"),
        ({"second": torch.zeros(200, 1, 12, 12, dtype=torch.int32)}, "second: expected floats in .*, or uint8 levels"),
        ({"first": torch.zeros(200, 1, 4, 9), "second": torch.zeros(200, 1, 4, 9)}, "5 or more pixels a side"),
        ({"delta": torch.rand(199, 4)}, "there are 200 pairs, and 199 rows"),
        ({"delta": torch.zeros(200, 4)}, "delta: 200 of 200 rows are all zero, the first one is 0"),
        ({"delta": torch.full((200, 4), torch.nan)}, "delta holds NaN"),
        ({"delta": torch.rand(200)}, r"expected differences \[N, L\], or whole numbers \[N\], found torch.float32"),
        ({"delta": torch.rand(200, 1)}, "at least 2 latents are needed"),
        ({"latents": 5}, "delta has 4 latents, expected 5"),
        ({"delta": torch.arange(200), "latents": 100}, r"indices from 0 to 99, found \[0, 199\]"),
        ({"delta": torch.rand(200, 100)}, "too few pairs: 200, of which 60 to learn 100 latents from.*expected 330 or"),
        ({"validation_share": 0.001}, "too few pairs: .* 0 for validation"),
        ({"validation_share": 0.8}, "0 < validation_share < test_share < 1"),
        ({"epochs": 0}, "epochs: expected at least 1, found 0"),
        ({"runs": 0}, "runs: expected at least 1, found 0"),
        ({"second": None}, "second: expected an array of numbers, found NoneType"),
        ({"delta": np.array(["a"] * 200)}, r"delta: expected an array of numbers, found <U1 \[200\]"),
        ({"delta": torch.ones(200, 4, dtype=torch.complex64)}, "delta: expected real differences .* torch.complex64"),
        ({"delta": torch.arange(200) % 2 == 0}, r"or whole numbers \[N\], found torch.bool \[200\]"),
        ({"delta": torch.arange(200) % 4, "latents": 0}, "latents: at least 2 are needed"),
        ({"lr": 0.0}, "lr: expected more than 0"),
        ({"lr": float("inf")}, "lr: expected more than 0, and finite, found inf"),
        ({"lr": 1e30, "epochs": 1}, r"lr: with 1e\+30 the recogniser's answers are NaN or infinity after 1 epochs"),
        ({"mode": "sum"}, "mode: expected diff or concat, found 'sum'"),
    ],
)
def test_pairs_and_settings_that_make_no_sense_are_refused(change: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {**quarters()._asdict(), **FEW, **change}
    with pytest.raises(ValueError, match=words) as error:
        score(arguments.pop("first"), arguments.pop("second"), arguments.pop("delta"), **arguments)
    assert "\n" not in str(error.value)


def test_too_few_pairs_are_known_before_any_is_made() -> None:
    def never(z: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(ValueError, match="too few pairs: 100, of which 10 to learn 30 latents from"):
        VariationPredictability(count=100).check_system(Odd(dim=30, decode=never))  # type: ignore[arg-type]
    VariationPredictability(count=300).check_system(Odd(dim=30, decode=never))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="validation_share"):
        VariationPredictability(test_share=0.5, validation_share=0.5)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_is_measured_by_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = tiny.autoencoder()
    tree["evaluate"] = {"vp": tiny.node("iin.metrics.VariationPredictability", count=40, runs=2, epochs=1)}
    assert train("-b", tiny.write(tmp_path / "ae.yaml", tree), "-q") == 0
    run = only(tmp_path / "logs")
    content = (run.folder / "eval/step-00000012/metrics.json").read_text()
    assert "vp/published" in content and "40 pairs, 4 to learn 4 latents from" in content
    assert "Latent that changed, honest" in (run.folder / "report.html").read_text()
    capsys.readouterr()
    for change, words in {
        "evaluate.vp.params.pairs=nowhere": "nowhere: no such folder; expected one of pairs, such as iin-pairs writes",
        "evaluate.vp.params.validation_share=0.95": "0 < validation_share < test_share < 1",
        "evaluate.vp.params.count=20": "too few pairs: 20, of which 2 to learn 4 latents from",
    }.items():
        assert evaluate("-p", run.folder, change, "-q") == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
