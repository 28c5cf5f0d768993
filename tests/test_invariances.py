"""Conditional flows over a first stage: what a layer fixes, what it leaves free, and the figures that say so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from batches import batched
from PIL import Image
from runs import evaluate, only, train
from torch import Tensor, nn
from torch.nn import functional as F

import iin
from iin import codes, evaluation
from iin.config import Training
from iin.data import Images
from iin.flows import InvertibleModule, conditional_flow, vector_flow
from iin.metrics import FID, NLL, Invariances, Inversion, Normality, Sensitivity, share_left_free
from iin.models import Codes, DenseEmbedder, Gaussian, Layer, PoolingEmbedder
from iin.report import layers
from iin.run import Run
from iin.systems import FactorFlow, LatentFlow

SMALL = 1e-3
"""Deviation of what the layer fixes."""


class Plain(nn.Module):
    """A first stage whose code is the image itself, four pixels of it."""

    dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def encode(self, image: Tensor) -> Gaussian:
        code = image.flatten(1) * self.one
        return Gaussian(code, code.new_zeros(code.shape), deterministic=True)

    def decode(self, x: Tensor) -> Tensor:
        return x.view(-1, 1, 2, 2)


class TopRow(nn.Module):
    """A network that sees the upper row of an image alone, and tells whether its first pixel is positive."""

    layer = "row"

    def forward(self, image: Tensor) -> Tensor:
        return image[:, 0, 0]  # [B, 2]

    def logits(self, image: Tensor) -> Tensor:
        return torch.stack([-image[:, 0, 0, 0], image[:, 0, 0, 0]], 1)


class Exact(InvertibleModule):
    """The true conditional flow of independent pixels, given the upper row: it is fixed, and the lower row is free."""

    dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.deviation = nn.Parameter(torch.tensor([SMALL, SMALL, 1.0, 1.0]))

    def embed(self, context: Tensor) -> Tensor:
        return F.pad(context, (0, 2))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert context is not None
        z = (x - self.embed(context)) / self.deviation
        return z, -self.deviation.log().sum().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        assert context is not None
        return self.embed(context) + self.deviation * z


def exact() -> LatentFlow:
    return LatentFlow(Plain(), Exact(), TopRow()).eval()


def normal(count: int, seed: int = 0) -> Images:
    image = torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    return Images(image, (image[:, 0, 0, 0] > 0).long())


def small(layer: str = "1", **params: Any) -> LatentFlow:
    """A conditional flow over a layer of a tiny network."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    flow = conditional_flow(4, DenseEmbedder(3, 4), blocks=2, hidden=8, depth=1)
    return LatentFlow(Plain(), flow, Layer(network, layer), **params)


# --- the system -------------------------------------------------------------------------------------------------------


def test_what_is_known_stays_and_the_rest_is_drawn_anew() -> None:
    system, image = exact(), normal(5).image
    z = torch.randn(3, 4)
    made = system.generate(system.represent(image), z)
    assert made.shape == (5, 3, 1, 2, 2)
    torch.testing.assert_close(made[..., 0, :], image[:, None, :, 0].expand(5, 3, 1, 2), atol=5 * SMALL, rtol=0)
    torch.testing.assert_close(made[:, :, 0, 1], z[None, :, 2:].expand(5, 3, 2))  # the same invariances for all
    own = torch.randn(5, 3, 4)
    torch.testing.assert_close(system.generate(system.represent(image), own)[:, :, 0, 1], own[..., 2:])


def test_there_and_back_needs_the_representation() -> None:
    system, image = small().eval(), normal(6).image
    torch.testing.assert_close(system.reconstruct(image), image, atol=1e-5, rtol=0)
    z = system.encode(image)
    torch.testing.assert_close(system.decode(z, system.represent(image)), image, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"conditional: give decode\(z, context\) a representation"):
        system.decode(z)
    with pytest.raises(ValueError, match="conditional"):
        system.sample(2)


def test_recombination_takes_the_representation_of_the_other() -> None:
    system, image, other = exact(), normal(4).image, normal(4, 1).image
    both = system.recombine(image, other)
    torch.testing.assert_close(both[:, :, 1], image[:, :, 1])
    torch.testing.assert_close(TopRow()(both), TopRow()(other), atol=1e-2, rtol=0)
    torch.testing.assert_close(system.recombine(image, image), image)


def test_representation_and_first_stage_are_frozen_and_the_embedder_learns() -> None:
    system = small().train()
    assert not system.representation.training and not system.first_stage.training
    (objective,) = system.objectives(normal(8), 0)
    objective.loss.backward()
    moved = {name.split(".")[0] for name, p in system.named_parameters() if p.grad is not None}
    assert moved == {"flow"}
    assert all(p.grad is not None for p in system.flow.embedder.parameters())
    assert system.flows() == [system.flow] and system.conditional


def test_a_flow_and_its_representation_must_go_together() -> None:
    with pytest.raises(ValueError, match="is conditional; give the system a representation"):
        LatentFlow(Plain(), small().flow)
    with pytest.raises(ValueError, match=r"is not conditional .* use iin.flows.conditional_flow"):
        LatentFlow(Plain(), vector_flow(4, 1, 8), TopRow())


def test_pictures_show_samples_recombinations_and_maps() -> None:
    system, image = exact(), normal(10).image
    pictures = system.images(Images(image, torch.zeros(10)))
    assert list(pictures) == ["samples", "recombinations", "maps", "traversals"]
    samples, cells, maps, _ = (pictures[name].images for name in pictures)
    assert samples.shape == (8, 10, 1, 2, 2) and torch.equal(samples[:, 0], image[:8])
    torch.testing.assert_close(samples[:, 1], image[:8])
    torch.testing.assert_close(samples[0, 2:, 0, 1], samples[7, 2:, 0, 1])  # the same invariances in each column
    assert cells.shape == (9, 9, 1, 2, 2)
    given, taken = cells[1:, :1], cells[:1, 1:]
    torch.testing.assert_close(cells[1:, 1:, :, 0], given[..., 0, :].expand(8, 8, 1, 2), atol=1e-2, rtol=0)
    torch.testing.assert_close(cells[1:, 1:, :, 1], taken[..., 1, :].expand(8, 8, 1, 2))
    assert maps.shape == (3, 8, 1, 2, 2)
    assert (maps[2, :, :, 0] < -0.99).all() and (maps[2, :, :, 1] > 0).all()  # the lower row alone is left open


# --- figures ----------------------------------------------------------------------------------------------------------


def test_the_share_left_free_is_that_of_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4000, 3, generator=generator) * torch.tensor([1.0, 2.0, 3.0])  # variance 14
    variances = 3.5 + 0.5 * torch.randn(4000, generator=generator)
    share = share_left_free(variances, values)
    assert share.value == pytest.approx(0.25, abs=0.01)
    again = [
        share_left_free(
            3.5 + 0.5 * torch.randn(200, generator=generator),
            torch.randn(200, 3, generator=generator) * torch.tensor([1.0, 2.0, 3.0]),
        )
        for _ in range(300)
    ]
    spread = torch.tensor([one.value for one in again]).std().item()
    assert sum(one.error for one in again) / len(again) == pytest.approx(spread, rel=0.15)  # it is a standard error


@pytest.mark.parametrize(
    ("variances", "values", "words"),
    [
        (torch.ones(1), torch.ones(1, 2), "at least 2 images"),
        (torch.ones(3), torch.ones(3, 2), "all images are the same"),
    ],
)
def test_a_share_of_nothing_is_an_error(variances: Tensor, values: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        share_left_free(variances, values)


@pytest.mark.parametrize("size", [50, 128])
def test_figures_of_a_flow_whose_answer_is_known(size: int) -> None:
    figures = Invariances(images=400, samples=20)(exact(), batched(normal(400), size))
    assert figures["invariances/free"] == pytest.approx(0.5, abs=0.03)
    assert figures["invariances/free"] + figures["invariances/fixed"] == 1
    assert 0 < figures["invariances/error"] < 0.03
    # Half the pixels differ from the reconstruction, as two normal numbers do.
    assert figures["invariances/difference"] == pytest.approx(0.5 * 2 / math.sqrt(math.pi), abs=0.03)
    assert figures["invariances/deviation"] == pytest.approx(0.5, abs=0.03)
    assert figures["agreement/samples"] > 0.99 and figures["agreement/reconstructions"] == 1
    assert figures["similarity/samples"] > 0.999 and figures["similarity/reconstructions"] == pytest.approx(1)
    assert abs(figures["similarity/others"]) < 0.1
    assert figures["similarity/samples_std"] < 0.1


def test_an_image_is_never_its_own_other() -> None:
    one = Invariances(images=4, samples=3)(exact(), batched(normal(4), 1))
    assert math.isnan(one["similarity/others"])
    assert Invariances(images=4, samples=3)(exact(), batched(normal(4), 4))["similarity/others"] < 0.99


def test_figures_lack_what_cannot_be_had() -> None:
    blind = exact()
    blind.representation = nn.Identity()  # no logits
    blind.represent = lambda image: image[:, 0, 0]  # type: ignore[method-assign]
    assert not any("agreement" in name for name in Invariances(50, 3)(blind, batched(normal(50), 25)))

    class Blind(Plain):
        decode = None  # type: ignore[assignment]

    del Blind.decode
    undecoded = LatentFlow(Plain(), Exact(), TopRow()).eval()
    undecoded.first_stage.decode = None
    with pytest.raises(ValueError, match="needs a conditional flow"):
        Invariances()(LatentFlow(Plain(), vector_flow(4, 1, 8)), batched(normal(4), 2))


def test_the_latent_of_the_true_flow_is_normal_and_another_is_not() -> None:
    count = 2000
    figures = Normality()(exact(), batched(normal(count), 500))
    assert figures["latent/kolmogorov"] < 2 / math.sqrt(count) or figures["latent/deviation"] > 0.5
    wide = exact()
    wide.flow.deviation.data[2:] = 0.5
    far = Normality()(wide, batched(normal(count), 500))
    assert far["latent/deviation"] > figures["latent/deviation"]
    plain = LatentFlow(Plain(), vector_flow(4, 1, 8)).eval()  # ActNorm has not begun: nearly the identity
    assert Normality()(plain, batched(normal(200), 50))["latent/mean"] < 1


def test_likelihood_and_inversion_know_the_context() -> None:
    system = small().eval()
    assert Inversion()(system, batched(normal(20), 10))["inversion/max"] < 1e-5
    image = normal(20).image
    z, logdet = system.flow(system.code(image), system.represent(image))
    expected = (0.5 * z.square().sum(1) + 2 * math.log(2 * math.pi) - logdet).mean()
    assert NLL()(system, batched(normal(20), 10))["nll/nats"] == pytest.approx(expected.item(), rel=1e-5)


def test_samples_that_are_compared_have_the_test_images_representations() -> None:
    def row(image: Tensor) -> Tensor:
        return image[:, 0, 0]

    def lower(image: Tensor) -> Tensor:
        return image[:, 0, 1]

    data = batched(Images(normal(300).image.clamp(-1, 1), None), 100)
    near = FID(row, images=300, kid_subsets=0)(exact(), data)
    assert near["fd_row/samples"] < 1e-3  # the very same rows
    assert FID(lower, images=300, kid_subsets=0)(exact(), data)["fd_lower/samples"] > 10 * near["fd_row/samples"]


def test_a_representation_is_sensitive_to_what_it_holds() -> None:
    stage = Plain()
    system = LatentFlow(stage, Exact(), TopRow()).eval()
    factors = FactorFlow(stage, vector_flow(4, 1, 8), [2, 2])
    factors.flow.forward = lambda x, context=None: (x, x.new_zeros(len(x)))  # type: ignore[method-assign]
    factors.flow.inverse = lambda z, context=None: z  # type: ignore[method-assign]
    figures = Sensitivity(factors, ["upper", "lower"], images=200)(system, batched(normal(200), 50))
    assert figures["sensitivity/upper"] == pytest.approx(1, abs=1e-5)
    assert figures["sensitivity/lower"] == pytest.approx(0, abs=1e-5)
    assert figures["sensitivity/upper/changed"] == pytest.approx(0.5, abs=0.12)
    assert figures["sensitivity/lower/changed"] == 0


def test_sensitivity_says_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="has no factors"):
        Sensitivity(exact())
    other = Plain()
    other.one.data.fill_(2)
    factors = FactorFlow(other, vector_flow(4, 1, 8), [2, 2])
    with pytest.raises(ValueError, match="3 names for 2 factors"):
        Sensitivity(factors, ["a", "b", "c"])
    with pytest.raises(ValueError, match="another first stage"):
        Sensitivity(factors)(exact(), batched(normal(4), 2))


def test_metrics_of_one_evaluation_represent_each_batch_once() -> None:
    system = small().eval()
    seen: list[int] = []
    system.representation.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    test = evaluation.TestSet(iin.data.Loader(_Listed(normal(40)), 20), torch.device("cpu"))
    evaluation.evaluate(system, test, {"nll": NLL(), "normality": Normality(), "inversion": Inversion()})
    assert seen == [20, 20]


class _Listed:
    """Images as a data set."""

    fixed = True

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images.image)

    def __getitem__(self, indices: Any) -> Images:
        rows = list(indices)
        return Images(self.images.image[rows], self.images.label[rows])


def test_a_layer_that_answers_the_same_for_all_has_no_sensitivity() -> None:
    class Blind(TopRow):
        def forward(self, image: Tensor) -> Tensor:
            return image.new_ones(len(image), 2)

    system = LatentFlow(Plain(), Exact(), Blind()).eval()
    factors = FactorFlow(Plain(), vector_flow(4, 1, 8, 1), [2, 2])
    with pytest.raises(ValueError, match="all samples have the same representation"):
        Sensitivity(factors)(system, batched(normal(8), 4))


@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 3, 4), (1, 2, 3, 4)])
def test_latents_of_another_shape_are_named(shape: tuple[int, ...]) -> None:
    system, image = exact(), normal(5).image
    with pytest.raises(ValueError, match=r"latents of shape \[n, 4\] or \[5, n, 4\], found"):
        system.generate(system.represent(image), torch.zeros(shape))
    with pytest.raises(ValueError, match="give a representation"):
        system.generate(None, torch.zeros(3, 4))  # type: ignore[arg-type]


# --- kept codes -------------------------------------------------------------------------------------------------------


def conditional(size: int = 8, layer: str = "input") -> LatentFlow:
    torch.manual_seed(1)
    first = iin.models.Autoencoder(1, size, 4, 2, 4)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 1, size, size))
    channels = {"input": 1, "0": 3}[layer]
    flow = conditional_flow(4, PoolingEmbedder(channels, 4), blocks=2, hidden=8, depth=1)
    return LatentFlow(first, flow, Layer(network.eval(), layer)).train()


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("layer", ["input", "0"])
def test_codes_and_representations_are_kept_together(
    where: str, layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("IIN_CACHE", str(tmp_path))
    system, data = conditional(layer=layer), tiny.Still()
    caplog.set_level("INFO")
    kept = codes.instead(system, data, Training(epochs=9, batch_size=6, cache=where))
    batch = kept[[3, 5, 7]]
    assert isinstance(batch.image, Codes)
    image = data[[3, 5, 7]].image
    assert torch.equal(system.represent(batch.image), system.represent(image))
    torch.testing.assert_close(system.code(batch.image), system.code(image))
    assert "posteriors of 4 numbers and representations of " in caplog.text and " KB" in caplog.text
    if where == "disk":
        again = codes.instead(system, data, Training(epochs=9, batch_size=6, cache=where))
        assert "found in" in caplog.text and torch.equal(again[[3]].image.context, kept[[3]].image.context)
        other = codes.instead(conditional(layer="0"), data, Training(epochs=9, batch_size=6, cache=where))
        assert (other[[3]].image.context.shape == batch.image.context[:1].shape) == (layer == "0")


@pytest.mark.parametrize("change", [{"size": 8}, {"range": [0, 1]}])
def test_codes_of_other_preprocessing_are_not_taken(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IIN_CACHE", str(tmp_path))
    system, data, settings = conditional(), tiny.Still(), Training(epochs=9, batch_size=6, cache="disk")
    codes.instead(system, data, settings)
    system.representation = Layer(system.representation.model, "input", preprocess=change)
    codes.instead(system, data, settings)
    assert len(list((tmp_path / "codes").glob("*.codes"))) == 2


def test_the_room_they_take_is_told_beforehand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tiny.conditional({"run": ""}, "2")
    tree["system"]["params"]["first_stage"] = tiny.node("iin.models.Autoencoder", size=8, dim=4, n_down=2, width=4)
    path = tiny.write(tmp_path / "layer.yaml", tree)
    assert train("-b", path, "--allow", "tiny", "--dry-run") == 0
    # (2 * 4 + 4 * 4 * 4) * 4 bytes for each of 24 images
    assert (
        "codes: 24 posteriors of 4 numbers and representations of 4x4x4, 6.91 KB, computed once and kept in memory"
        in (capsys.readouterr().out)
    )
    assert train("-b", path, "--allow", "tiny", "--dry-run", "train.cache=disk") == 0
    assert "6.91 KB, computed once and kept on disk" in capsys.readouterr().out
    for off in ("train.cache=off", "train.steps=3"):
        assert train("-b", path, "--allow", "tiny", "--dry-run", off) == 0
        assert "posteriors" not in capsys.readouterr().out


def test_contexts_go_where_codes_go() -> None:
    one = Codes(torch.ones(2, 2, 3), torch.ones(2, 5))
    both = Codes.cat([one, one.to(torch.float64).to(torch.float32)])
    assert both.context is not None and both.context.shape == (4, 5)
    assert one.to(torch.float64).context.dtype == torch.float64  # type: ignore[union-attr]
    assert Codes(torch.ones(2, 2, 3)).to(torch.float64).context is None


# --- runs -------------------------------------------------------------------------------------------------------------


def configuration(folder: Path, stage: Path, layer: str = "2", **train: Any) -> str:
    return tiny.write(folder / f"{layer}.yaml", tiny.conditional({"run": str(stage)}, layer, steps=4, **train))


def test_from_configurations_to_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-b", tiny.write(tmp_path / "ae.yaml", tiny.autoencoder(steps=2)), "--logs", tmp_path / "ae") == 0
    stage = only(tmp_path / "ae").folder
    folders = []
    for layer in ("2", "softmax"):
        logs = tmp_path / layer
        assert train("-b", configuration(tmp_path, stage, layer), "--allow", "tiny", "--logs", logs) == 0
        folders.append(only(logs).folder)
    picture = tmp_path / "layers.png"
    capsys.readouterr()
    assert evaluate("-p", *folders, "--layers", picture, "--allow", "tiny") == 0
    out = capsys.readouterr().out
    assert out.count("invariances/free") == 2 and f"Layers: {picture}" in out
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 1000
    run = iin.load(folders[0], allow=["tiny"])
    image = tiny.Still()[range(3)].image
    assert run.resample(image, 2).shape == (3, 2, 1, 8, 8)
    torch.testing.assert_close(run.decode(run.encode(image), image), run.system.first_stage(image), atol=1e-4, rtol=0)
    torch.testing.assert_close(run.recombine(image, image), run.system.first_stage(image), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="no represent"):
        iin.load(stage, allow=["tiny"]).represent(image)
    picture.unlink()
    capsys.readouterr()
    assert evaluate("-p", stage, *folders, "--layers", picture, "--allow", "tiny") == 2
    said = capsys.readouterr()
    assert f"{stage.name}: the run has no figure invariances/free" in said.err
    assert "invariances/free" not in said.out and not picture.exists()  # others are not measured in vain


def test_a_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    assert train("-b", tiny.write(tmp_path / "ae.yaml", tiny.autoencoder(steps=2)), "--logs", tmp_path / "ae") == 0
    stage = only(tmp_path / "ae").folder
    whole = configuration(tmp_path, stage)
    assert train("-b", whole, "--allow", "tiny", "--logs", tmp_path / "a") == 0
    assert train("-b", whole, "train.steps=2", "--allow", "tiny", "--logs", tmp_path / "b") == 0
    run = only(tmp_path / "b")
    assert train("-r", run.folder, "train.steps=4", "train.cache=off", "--allow", "tiny") == 0
    one, other = (iin.load(only(tmp_path / name).folder, allow=["tiny"]).system.state_dict() for name in "ab")
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flow.params.embedder.params.channels": 7}, "7"),
        ({"representation.params.layer": "fc9"}, "fc9"),
        ({"flow": tiny.node("iin.flows.vector_flow", dim=4, blocks=1, hidden=8)}, "conditional"),
        ({"representation": None}, "representation"),
    ],
)
def test_what_does_not_fit_is_one_line(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("-b", tiny.write(tmp_path / "ae.yaml", tiny.autoencoder(steps=2)), "--logs", tmp_path / "ae") == 0
    path = Path(configuration(tmp_path, only(tmp_path / "ae").folder))
    tree = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        node = tree["system"]["params"]
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = value
    capsys.readouterr()
    assert train("-b", tiny.write(path, tree), "--allow", "tiny", "--logs", tmp_path / "logs") == 2
    err = capsys.readouterr().err
    assert words in err and "not foreseen" not in err and not (tmp_path / "logs").exists()


def test_a_conditional_run_says_what_to_ask_instead(tmp_path: Path) -> None:
    run = iin.trained.Trained(None, small().eval(), {}, 0)  # type: ignore[arg-type]
    image = normal(2).image
    for asked, instead in (
        (lambda: run.decode(run.encode(image)), r"decode\(latents, images\)"),
        (lambda: run.sample(2), r"resample\(images, n\)"),
        (lambda: run.interpolate(image, image), r"recombine\(images, others\)"),
    ):
        with pytest.raises(ValueError, match=f"this flow is conditional, .*; use {instead}"):
            asked()
    with pytest.raises(ValueError, match="LatentFlow has no swap; a FactorFlow does"):
        run.swap(image, image, [0])


def test_a_curve_over_different_networks_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = []
    for name, layer, model in (("a", "1", "tiny.Cut"), ("b", "2", "tiny.Cut"), ("c", "3", "tiny.Other")):
        (tmp_path / name).mkdir()
        tree = tiny.conditional({"run": "x"}, layer)
        tree["system"]["params"]["representation"]["params"]["model"] = tiny.node(model)
        tiny.write(tmp_path / name / "config.yaml", tree)
        runs.append(Run(tmp_path / name))
    assert [layers.name_of(run) for run in runs] == ["layer 1", "layer 2", "layer 3"]
    layers.check_alike(runs[:2])
    assert not caplog.messages
    layers.check_alike(runs)
    assert caplog.messages == ["layers: the runs have different networks; the curve compares what cannot be compared"]


def test_a_curve_needs_runs_of_layers(tmp_path: Path) -> None:
    known = ("conv", {"invariances/free": 0.2, "invariances/fixed": 0.8, "invariances/error": 0.01})
    with pytest.raises(ValueError, match="at least 2 runs"):
        layers.draw([known], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"fc: the run has no figure invariances/free"):
        layers.draw([known, ("fc", {})], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"drawn as \.png"):
        layers.draw([known, known], tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="no folder"):
        layers.check(tmp_path / "none" / "a.png", 2)
    assert not list(tmp_path.iterdir())
    assert [panel.title for panel in layers.panels([known, known])] == ["Variance of the code, %"]


def test_a_figure_that_is_no_number_leaves_a_gap_in_the_curve(tmp_path: Path) -> None:
    figures = {"invariances/free": 0.2, "invariances/fixed": 0.8, "similarity/samples": 0.9}
    run = ("conv", {**figures, "similarity/others": math.nan, "invariances/error": math.nan})
    layers.draw([run, ("fc", {**figures, "similarity/others": 0.5})], tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
    similar = layers.panels([run, run])[1]
    assert [line.label for line in similar.lines] == ["samples"]
    with pytest.raises(ValueError, match="fc: invariances/free is nan: leave out"):
        layers.draw([run, ("fc", {**figures, "invariances/free": math.nan})], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_a_representation_that_is_not_finite_is_an_error() -> None:
    system = exact()
    system.represent = lambda image: image[:, 0, 0] / 0  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="is not finite; look into another layer"):
        Invariances(4, 2)(system, batched(normal(4), 2))
