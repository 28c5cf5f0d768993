"""The autoencoder and the generators of natural images, and the published weights of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import fabricate
import pytest
import torch
from conftest import REFERENCE
from torch import Tensor
from torch.nn import functional as F

import iin
from iin import compat
from iin.config import ConfigError
from iin.first_stage import pretrained
from iin.models import BigAE, BigGAN
from iin.models.biggan import Attention, Generator, SpectralConv2d, SpectralLinear
from iin.systems import Autoencoder, LatentFlow

SMALL = {"dim": 104, "classes": 6, "hidden": 12, "width": 4, "layers": (1, 1, 1, 1)}


def small(seed: int = 0, **params: Any) -> BigAE:
    torch.manual_seed(seed)
    return BigAE(**{**SMALL, **params}).eval()


# --- spectral normalisation and attention --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_layer_is_divided_by_one_power_iteration_from_its_vector(kind: str) -> None:
    torch.manual_seed(0)
    layer = SpectralLinear(5, 3) if kind == "linear" else SpectralConv2d(5, 3, 3)
    x = torch.randn(2, 5) if kind == "linear" else torch.randn(2, 5, 4, 4)
    before, w = layer.u.clone(), layer.weight.detach().flatten(1)
    v = w.T @ layer.u
    v = v / (v.norm() + 1e-4)
    u = w @ v
    u = u / (u.norm() + 1e-4)
    weight = layer.weight / (u @ w @ v)
    expected = F.linear(x, weight, layer.bias) if kind == "linear" else F.conv2d(x, weight, layer.bias, padding=1)
    for same in (layer.train(), layer.eval(), layer.requires_grad_(False)):
        for _ in range(2):
            torch.testing.assert_close(same(x), expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(layer.u, before)


def test_a_kept_norm_follows_the_weights() -> None:
    layer = SpectralLinear(5, 3, bias=False).eval().requires_grad_(False)
    x = torch.randn(2, 5)
    expected = layer(x)
    other = SpectralLinear(5, 3, bias=False).eval().requires_grad_(False)
    other(x)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), expected)
    other.weight.mul_(3)  # of three times the map, the norm is three times as large, but for a constant
    torch.testing.assert_close(other(x), expected, atol=1e-3, rtol=1e-3)


def test_gradients_know_that_the_norm_hangs_on_the_weights() -> None:
    layer = SpectralLinear(5, 3).double().train()
    x = torch.randn(2, 5, dtype=torch.float64)
    (slope,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    # A larger weight of the same direction gives the same map, so that there is no slope in its direction.
    assert abs(float((slope * layer.weight).sum().detach())) < 1e-9 < float(slope.norm())


def test_attention_is_that_of_a_table_of_all_pairs() -> None:
    torch.manual_seed(0)
    attention, x = Attention(16), torch.randn(2, 16, 8, 6)
    assert torch.equal(attention(x), x)  # as it begins
    attention.gain.data.fill_(0.7)
    query, key, value = attention.query(x), F.max_pool2d(attention.key(x), 2), F.max_pool2d(attention.value(x), 2)
    table = torch.einsum("bcn,bcm->bnm", query.flatten(2), key.flatten(2)).softmax(2)  # [2, 48, 12]
    seen = torch.einsum("bnm,bcm->bcn", table, value.flatten(2)).view(2, 8, 8, 6)
    torch.testing.assert_close(attention(x), x + 0.7 * attention.out(seen))


# --- the networks ---------------------------------------------------------------------------------------------------


def test_bigae_encodes_and_decodes() -> None:
    model = small()
    image = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        posterior = model.encode(image)
        again = model(image)
    assert posterior.mean.shape == posterior.std.shape == (2, 104) and bool((posterior.std > 0).all())
    assert again.shape == image.shape and float(again.abs().max()) <= 1
    assert not torch.equal(again[0], again[1])
    torch.testing.assert_close(model.classes_of(posterior.mean).sum(1), torch.ones(2))
    assert float(small(deterministic=True).encode(image).std.abs().max()) == 0


def test_the_double_normalisation_of_the_original_is_a_switch() -> None:
    once, twice = small(), small(double_normalisation=True)
    seen: list[Tensor] = []
    for model in (once, twice):
        model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model.encode(torch.zeros(1, 3, 128, 128))
    grey = (0.5 - 0.485) / 0.229
    assert math.isclose(float(seen[0][0, 0, 0, 0]), grey, rel_tol=1e-5)
    assert math.isclose(float(seen[1][0, 0, 0, 0]), ((grey + 1) / 2 - 0.485) / 0.229, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: BigAE(dim=100), "dim: expected more than 100, found 100"),
        (lambda: Generator(64), "size: expected 128 or 256, found 64"),  # type: ignore[arg-type]
        (lambda: Generator(width=6), "width: expected a multiple of 4, found 6"),
        (lambda: small().encode(torch.zeros(1, 3, 64, 64)), r"BigAE: expected images of shape \[B, 3, 128, 128\]"),
        (lambda: small().decode(torch.zeros(2, 100)), r"BigAE: expected codes of shape \[B, 104\], found \[2, 100\]"),
        (lambda: BigGAN(128, width=4).decode(torch.zeros(1, 128)), r"BigGAN: expected codes of shape \[B, 248\]"),
    ],
)
def test_what_does_not_fit_is_told(act: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        act()


@pytest.mark.parametrize(("size", "latent"), [(128, 120), (256, 140)])
def test_biggan_decodes_latent_and_class(size: int, latent: int) -> None:
    torch.manual_seed(0)
    model = BigGAN(size, classes=5, width=4).eval().requires_grad_(False)  # type: ignore[arg-type]
    assert (model.latent, model.dim) == (latent, latent + 128)
    embedding = model.embed(torch.tensor([2, 4]))
    assert torch.equal(embedding, F.one_hot(torch.tensor([2, 4]), 5).float() @ model.embed_class.weight.T)
    z = torch.randn(1, latent).expand(2, -1)
    image = model.decode(torch.cat([z, embedding], 1))
    assert image.shape == (2, 3, size, size) and float(image.abs().max()) <= 1
    assert not torch.allclose(image[0], image[1])  # of one latent, but two classes
    with pytest.raises(ValueError, match="a generator has no encoder"):
        model.encode(image)


def test_a_bigae_is_trained_and_stands_under_a_flow() -> None:
    system = Autoencoder(small().train(), logvar_init=-1.0)
    batch = iin.data.Images(torch.rand(3, 3, 128, 128) * 2 - 1, None)
    next(iter(system.objectives(batch, 0))).loss.backward()
    assert system.model.last_layer.grad is not None and float(system.model.last_layer.grad.abs().sum()) > 0
    flow = LatentFlow(system.model, iin.flows.vector_flow(104, blocks=1, hidden=8))
    assert flow.sample(2).shape == (2, 3, 128, 128)


# --- published weights ----------------------------------------------------------------------------------------------


def shapes() -> dict[str, dict[str, list[int]]]:
    path = REFERENCE / "invariances" / "checkpoint_shapes.json"
    if not path.is_file():
        pytest.skip(f"no {path.name}: set IIN_REFERENCE to the folder of recorded outputs")
    return json.loads(path.read_text())["autoencoder"]


def flat(shape: list[int], key: str) -> Tensor:
    """An entry of this shape that takes no room."""
    whole = key.endswith(("initialized", "num_batches_tracked"))
    return torch.ones((), dtype=torch.int64 if whole else torch.float32).expand(shape)


def test_the_recorded_decoder_is_reproduced(recording: Any) -> None:
    r = recording("invariances/bigae_decoder_small.pt")
    config = r["config"]
    encoder = BigAE(dim=config["z_dim"], layers=(1, 1, 1, 1), width=4)
    state = {key: value for key, value in fabricate.as_published(encoder).items() if key.startswith("encoder.")}
    state |= {
        f"decoder.{key}": value.float() if value.is_floating_point() else value
        for key, value in r["state_dict"].items()
    }
    model = compat.bigae(state)
    assert (model.dim, model.classes, model.width) == (config["z_dim"], config["n_class"], config["chn"])
    assert model.generator.parts == config["split"] and model.double_normalisation
    for _ in range(2):  # with norms computed at each call, and with kept ones
        with torch.no_grad():
            assert float((model.classes_of(r["z"]) - r["class_prob"]).abs().max()) < 1e-6
            assert float((model.decode(r["z"]) - r["image"]).abs().max()) < 1e-5
        model.requires_grad_(False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), [("animals", "actnorm"), ("animalfaces", "batch")])
def test_state_dicts_of_the_published_shapes_load(name: str, norm: str) -> None:
    state = {key: flat(shape, key) for key, shape in shapes()[name].items()}
    model = compat.bigae(state)
    assert (model.norm, model.final_norm, model.layers) == (norm, norm, (3, 4, 23, 3))
    assert (model.dim, model.classes, model.hidden, model.depth, model.width) == (128, 1000, 2000, 2, 96)
    counts = {True: 0, False: 0}
    for key, parameter in model.named_parameters():
        counts[key.startswith("encoder.")] += parameter.numel()
    assert (round(counts[True] / 1e6, 1), round(counts[False] / 1e6, 1)) == (43.0, 80.9)
    del state["encoder.model.layer3.22.conv1.weight"], state["decoder.decoder.GBlock.4.HyperBN.bn.running_var"]
    with pytest.raises(compat.CompatError) as error:
        compat.bigae({**state, "more": torch.ones(1)})
    lines = str(error.value)
    assert "missing: decoder.decoder.GBlock.4.HyperBN.bn.running_var, encoder.model.layer3.22.conv1.weight" in lines
    assert "left over: more" in lines and "\n" not in lines


@pytest.mark.parametrize("norm", ["batch", "actnorm"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "checkpoint"])
def test_a_bigae_file_is_recognised(norm: Any, wrapped: bool, tmp_path: Path) -> None:
    model = small(3, norm=norm, final_norm=norm, double_normalisation=True)
    for buffer in model.buffers():
        if buffer.dtype == torch.bool:
            buffer.fill_(True)
        elif buffer.is_floating_point() and buffer.ndim == 1:
            buffer.uniform_(0.5, 1.0)
    path = tmp_path / "bigae.ckpt"
    torch.save({"model": fabricate.as_published(model)} if wrapped else fabricate.as_published(model), path)
    image = torch.rand(2, 3, 128, 128) * 2 - 1
    model.requires_grad_(False)
    for found in (
        compat.load(path),
        pretrained(checkpoint=str(path)),
        compat.system(path).model.eval(),
    ):
        with torch.no_grad():
            x = model.encode(image).mean
            torch.testing.assert_close(found.encode(image).mean, x, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found.decode(x), model.decode(x), atol=1e-5, rtol=1e-4)


def test_a_biggan_file_is_recognised(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BigGAN(256, classes=5, width=4).eval().requires_grad_(False)
    path = tmp_path / "biggan.ckpt"
    torch.save(fabricate.as_published(model), path)
    x = torch.randn(1, model.dim)
    for found in (compat.load(path), pretrained(checkpoint=str(path))):
        torch.testing.assert_close(found.decode(x), model.decode(x))
    with pytest.raises(compat.CompatError, match="a generator is no system"):
        compat.system(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("encoder.model.conv1.weight"), "missing: encoder.model.conv1.weight"),
        (lambda s: s.pop("decoder.decoder.attention.gamma"), "missing: decoder.decoder.attention.gamma"),
        (
            lambda s: s.pop("decoder.decoder.G_linear.module.weight_v"),
            "missing: decoder.decoder.G_linear.module.weight_v",
        ),
        (lambda s: s.update(extra=torch.ones(1)), "left over: extra"),
        (
            lambda s: s.update({"decoder.decoder.colorize.module.bias": torch.ones(4)}),
            r"decoder.decoder.colorize.module.bias is \[4\], expected \[3\]",
        ),
        (
            lambda s: s.pop("decoder.decoder.G_linear.module.weight_bar"),
            "missing: decoder.decoder.G_linear.module.weight_bar",
        ),
    ],
)
def test_what_is_wrong_with_a_bigae_is_listed(change: Any, words: str) -> None:
    state = fabricate.as_published(small())
    change(state)
    with pytest.raises(compat.CompatError, match=words) as error:
        compat.bigae(state)
    assert "BigAE" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IIN_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"bigae.ckpt does not exist .*; put it into {tmp_path}"):
        pretrained(checkpoint="bigae.ckpt")


# --- flows that stand on them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vector", "vector_lrelu_seq", "vector_dims", "spatial_down1", "spatial_down2"])
def test_a_published_conditional_flow_may_stand_in_a_configuration(name: str, recording: Any, tmp_path: Path) -> None:
    case = recording("invariances/cinn.pt")["cases"][name]
    path, told = tmp_path / "cinn.ckpt", case["config"]["Transformer"]
    torch.save(case["state_dict"], path)
    rest = {key: told[key] for key in ("activation", "conditioning_spatial_size")}  # all that weights do not tell
    flow = pretrained(checkpoint=str(path), part="", original=rest)
    with torch.no_grad():
        z, _ = flow(case["z"].flatten(1), case["c"])
    torch.testing.assert_close(z, case["out"].flatten(1), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="do not tell activation"):
        pretrained(checkpoint=str(path), part="")
    with pytest.raises(ValueError, match="original tells of a checkpoint; give checkpoint too"):
        pretrained(config="mnist_ae", original=rest)
