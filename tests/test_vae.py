"""Convolutional autoencoders with a Bernoulli likelihood, what regularises them, and linear codes beside them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iin import compat
from iin.config import Training
from iin.data import Images
from iin.flows import vector_flow
from iin.losses import density_ratio_loss, permuted
from iin.models import CodeDiscriminator, ConvVAE, Gaussian, natural_vae, study_vae, threedots_vae
from iin.systems import VAE, LatentFlow
from iin.systems.linear import linear_code
from iin.train import _step, make_optimizers


def small(**settings: Any) -> ConvVAE:
    return ConvVAE(1, 8, 3, (4,), 3, 2, (8,), (8, 32), 4, (), **settings)


def batch(count: int = 6) -> Images:
    return Images(torch.rand(count, 1, 8, 8) * 2 - 1, torch.zeros(count))


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "count", "size"),
    [(threedots_vae(1), 567_637, 64), (threedots_vae(3), 569_687, 64), (natural_vae(), 413_845, 16)],
)
def test_published_sizes(model: ConvVAE, count: int, size: int) -> None:
    assert sum(p.numel() for p in model.parameters()) == count
    image = torch.rand(2, model.channels, size, size) * 2 - 1
    posterior = model.encode(image)
    assert isinstance(posterior, Gaussian) and posterior.mean.shape == (2, 10)
    made = model(image)
    assert made.shape == image.shape and made.abs().max() <= 1
    torch.testing.assert_close(made, 2 * model.logits(posterior.mean).sigmoid() - 1)


def test_the_networks_that_are_compared_pad_as_tensorflow_does() -> None:
    model = study_vae()
    assert [tuple(layer.weight.shape) for layer in model.encoder] == [
        (32, 1, 4, 4),
        (32, 32, 4, 4),
        (64, 32, 2, 2),
        (64, 64, 2, 2),
    ]  # fmt: skip
    assert model.encoder_dense[0].in_features == 64 * 4 * 4
    # An image of 7 pixels under a kernel of 4 and a stride of 2: 4 answers, 3 zeros, one before and two behind.
    odd = ConvVAE(1, 7, 2, (5,), 4, 2, (), (49,), 7, (), 3, 1, padding="same")
    image, layer = torch.rand(1, 1, 7, 7), odd.encoder[0]
    expected = F.relu(F.conv2d(F.pad((image + 1) / 2, (1, 2, 1, 2)), layer.weight, layer.bias, 2))
    assert expected.shape[-1] == 4
    torch.testing.assert_close(odd.encode(image).mean, odd.mean(expected.flatten(1)))


@pytest.mark.parametrize(
    ("kernel", "stride", "before", "after"), [(4, 2, 1, 1), (3, 2, 0, 1), (3, 1, 1, 1), (5, 2, 1, 2), (2, 2, 0, 0)]
)
def test_what_is_cut_off(kernel: int, stride: int, before: int, after: int) -> None:
    model = ConvVAE(1, 3 * stride, 2, (), 3, 1, (), (9,), 3, (), kernel, stride)
    z, layer = torch.randn(2, 2), model.decoder[0]
    whole = F.conv_transpose2d(
        F.relu(model.decoder_dense[0](z)).view(2, 1, 3, 3), layer.weight, layer.bias, stride
    )  # fmt: skip
    end = whole.shape[-1] - after
    torch.testing.assert_close(model.logits(z), whole[..., before:end, before:end])


def test_noise_begins_as_small_as_asked() -> None:
    for shift in (-3.0, 0.0):
        torch.manual_seed(0)
        bias = threedots_vae().logvar.bias if shift else ConvVAE(logvar_shift=0.0).logvar.bias
        assert (bias - shift).abs().max() <= 256**-0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 60}, "the decoder makes images of 64"),
        ({"encoder_kernels": (4, 4)}, "encoder_kernels: expected one number, or one for each of 4 layers, found 2"),
        ({"decoder_dense": (256, 1000)}, "a multiple of start.2 = 16, found 1000"),
        ({"decoder_dense": ()}, "found none"),
        ({"decoder_kernels": 1}, "leaves gaps"),
        ({"encoder_kernels": 8}, "too small for the encoder's 4 convolutions"),
    ],
)
def test_sizes_that_do_not_go_together(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConvVAE(**arguments)


def test_a_flow_stands_on_it() -> None:
    first = ConvVAE(1, 8, 4, (4,), 3, 2, (8,), (8, 32), 4, ())
    system = LatentFlow(first, vector_flow(4, 2, 8, 1))
    (objective,) = system.objectives(batch(), 0)
    objective.loss.backward()
    assert system.sample(2).shape == (2, 1, 8, 8)


# --- regularisers -----------------------------------------------------------------------------------------------------

KINDS = {
    "vae": set(),
    "betavae": set(),
    "annealedvae": {"capacity"},
    "dipvae1": {"covariance"},
    "dipvae2": {"covariance"},
    "betatcvae": {"tc"},
    "factorvae": {"tc"},
}


def made(kind: str, **settings: Any) -> VAE:
    judge = CodeDiscriminator(3, 16, 2) if kind == "factorvae" else None
    return VAE(small(), kind, discriminator=judge, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_likelihood_and_what_is_added(kind: str) -> None:
    system = made(kind)
    objectives = [(o.name, o.loss.detach(), o.scalars) for o in system.objectives(batch(), 1)]
    (name, loss, scalars), *others = objectives
    assert name == "vae" and set(scalars) == {"nll", "kl", "mu_div", "var_div", "regulariser", *KINDS[kind]}
    torch.testing.assert_close(loss, scalars["nll"] + scalars["regulariser"])
    assert [name for name, *_ in others] == ["discriminator"] * (kind == "factorvae")
    assert set(system.trainable()) == {name for name, *_ in objectives}


def test_strengths_are_the_studys() -> None:
    assert made("betavae").beta == made("betatcvae").beta == 4
    assert (made("factorvae").gamma, made("annealedvae").gamma) == (30, 1000)
    assert (made("annealedvae").capacity, made("annealedvae").threshold) == (25, 100000)
    assert [(made(kind).lambda_od, made(kind).lambda_d) for kind in ("dipvae1", "dipvae2")] == [(5, 50), (5, 5)]
    layers = [layer for layer in CodeDiscriminator(10).main if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [1000] * 6 + [2]


def test_each_player_moves_its_own_weights() -> None:
    system, data = made("factorvae").train(), batch()
    settings = Training(lr=1e-3, betas=(0.9, 0.999))
    optimizers = make_optimizers(system, settings)
    assert {name: o.param_groups[0]["betas"] for name, o in optimizers.items()} == {
        "vae": (0.9, 0.999),
        "discriminator": (0.5, 0.9),
    }
    gradients: dict[str, set[str]] = {}
    for objective in system.objectives(data, 0):
        system.zero_grad(set_to_none=True)
        objective.loss.backward()
        moved = {name.split(".")[0] for name, p in system.named_parameters() if p.grad is not None}
        gradients[objective.name] = moved
    assert gradients == {"vae": {"model"}, "discriminator": {"discriminator"}}
    terms = _step(system, data, 0, optimizers, 1e-3, None)
    assert {"vae/nll", "vae/tc", "discriminator/d", "discriminator/loss"} <= set(terms)


def test_the_discriminator_learns_to_tell_codes_that_hang_together() -> None:
    torch.manual_seed(0)
    judge = CodeDiscriminator(2, 32, 2)
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3)
    loss = torch.zeros(())
    for _ in range(150):
        z = torch.randn(128, 1).expand(128, 2)
        loss = density_ratio_loss(judge(z), judge(permuted(z, torch.rand(128, 2))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.35  # log 2 for one that says nothing


def test_columns_are_permuted_one_by_one() -> None:
    z = torch.arange(40.0).view(20, 2)
    found = permuted(z, torch.rand(20, 2))
    assert not torch.equal(found, z) and not torch.equal(found[:, 0] + 1, found[:, 1])
    assert torch.equal(found.sort(0).values, z)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"regulariser": "factorvae"}, "factorvae needs one"),
        ({"discriminator": CodeDiscriminator(3, 4, 1)}, "betavae has none"),
        ({"regulariser": "factorvae", "discriminator": CodeDiscriminator(5, 4, 1)}, "codes of 5 numbers, .* have 3"),
    ],
)
def test_what_does_not_go_together(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VAE(small(), **arguments)
    with pytest.raises(ValueError, match="Linear has no encode"):
        VAE(nn.Linear(2, 2))  # type: ignore[arg-type]


# --- published folders ------------------------------------------------------------------------------------------------

ARGUMENTS = {
    "latent_dim": 3,
    "im_side_len": 8,
    "im_channels": 1,
    "emb_conv_layers_channels": [4],
    "emb_conv_layers_strides": [2],
    "emb_conv_layers_kernel_sizes": [3],
    "emb_fc_layers_num_features": [8],
    "gen_fc_layers_num_features": [8, 32],
    "gen_first_im_side_len": 4,
    "gen_conv_layers_channels": [1],
    "gen_conv_layers_strides": [2],
    "gen_conv_layers_kernel_sizes": [4],
}

NAMES = {"mean": "fcmu", "logvar": "fclogvar", "encoder": "emb_convs"}
NAMES |= {"encoder_dense": "emb_fcs", "decoder_dense": "gen_fcs", "decoder": "gen_convs"}


def written(folder: Path, model: ConvVAE, arguments: Any = ARGUMENTS) -> Path:
    folder.mkdir(exist_ok=True)
    state = {NAMES[name.split(".")[0]] + "." + name.split(".", 1)[1]: v for name, v in model.state_dict().items()}
    torch.save(state, folder / "model_state_dict.pt")
    (folder / "model_args.p").write_bytes(pickle.dumps(arguments))
    (folder / "model_type.txt").write_text("conv_vae")
    return folder


def test_a_published_folder_loads(tmp_path: Path) -> None:
    model, image = small().eval(), batch().image
    found = compat.jacobian_vae(written(tmp_path / "cache_batch_no300000", model))
    assert not found.training
    assert torch.equal(found.encode(image).mean, model.encode(image).mean)
    assert torch.equal(found(image), model(image))


class Trap:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_arguments_run_no_code(tmp_path: Path) -> None:
    folder = written(tmp_path / "folder", small(), {**ARGUMENTS, "latent_dim": Trap(tmp_path / "trapped")})
    with pytest.raises(compat.CompatError, match=r"model_args.p: .*it names pathlib"):
        compat.jacobian_vae(folder)
    assert not (tmp_path / "trapped").exists()


def test_weights_run_no_code(tmp_path: Path) -> None:
    folder = written(tmp_path / "folder", small())
    torch.save({"fcmu.weight": Trap(tmp_path / "trapped")}, folder / "model_state_dict.pt")
    with pytest.raises(compat.CompatError, match=r"model_state_dict.pt: damaged, or no state dict, or one that would"):
        compat.jacobian_vae(folder)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({**ARGUMENTS, "latent_dim": 4}, r"fcmu.weight is \[3, 8\], expected \[4, 8\]"),
        ({**ARGUMENTS, "latent_dim": 2.5}, "latent_dim is 2.5, expected a whole number"),
        ({**ARGUMENTS, "emb_conv_layers_channels": 4}, "expected a list of whole numbers"),
        ({**ARGUMENTS, "im_channels": 3}, r"gen_conv_layers_channels ends in \[1\], expected im_channels = 3"),
        ({**ARGUMENTS, "colour": 3}, "unknown arguments: colour"),
        ({**ARGUMENTS, "im_side_len": 16}, "make no network: .*the decoder makes images of 8"),
        ({name: value for name, value in ARGUMENTS.items() if name != "latent_dim"}, "latent_dim is None"),
        ([1, 2], "expected arguments by name, found list"),
    ],
)
def test_arguments_that_do_not_fit(arguments: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(compat.CompatError, match=words) as caught:
        compat.jacobian_vae(written(tmp_path / "folder", small(), arguments))
    assert str(tmp_path / "folder") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda weight: weight * torch.nan, "fcmu.weight holds values that are not finite"),
        (lambda weight: weight.index_fill(0, torch.tensor([1]), torch.inf), "fcmu.weight holds values that are not fi"),
        (lambda weight: weight.long(), "fcmu.weight is int64, expected floating point"),
        (lambda weight: weight > 0, "fcmu.weight is bool, expected floating point"),
    ],
)
def test_weights_that_are_none(spoil: Any, words: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "folder", small())
    state = torch.load(folder / "model_state_dict.pt", weights_only=True)
    torch.save({**state, "fcmu.weight": spoil(state["fcmu.weight"])}, folder / "model_state_dict.pt")
    with pytest.raises(compat.CompatError, match=words) as caught:
        compat.jacobian_vae(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(compat.CompatError, match="no folder"):
        compat.jacobian_vae(tmp_path / "none")
    folder = written(tmp_path / "folder", small())
    with pytest.raises(compat.CompatError, match="no network in it; name one of the folders that it holds: folder"):
        compat.jacobian_vae(tmp_path)
    with pytest.raises(compat.CompatError, match=r"of the JL1-VAE code; iin.compat.jacobian_vae reads it"):
        compat.load(folder)
    (folder / "model_args.p").write_bytes(b"\x80\x04nothing")
    with pytest.raises(compat.CompatError, match="damaged, or no pickle of plain values"):
        compat.jacobian_vae(folder)
    (folder / "model_args.p").unlink()
    with pytest.raises(compat.CompatError, match=r"model_args.p: cannot be read"):
        compat.jacobian_vae(folder)
    (folder / "model_type.txt").write_text("dense")
    with pytest.raises(compat.CompatError, match="expected conv_vae, found 'dense'"):
        compat.jacobian_vae(folder)


# --- linear codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pca", "ica"])
def test_a_linear_code_finds_what_is_linear(method: Any) -> None:
    pytest.importorskip("sklearn")
    torch.manual_seed(1)
    sources, ways = torch.rand(500, 2) - 0.5, torch.randn(2, 16)
    image = (sources @ ways * 0.2).view(500, 1, 4, 4).clamp(-1, 1)
    code = linear_code(image, 2, method)
    assert code.encode(image).shape == (500, 2) and code.components.shape == (16, 2)
    assert (code.reconstruct(image) - image).abs().max() < 1e-3
    errors = code.errors(image)
    assert errors.mse < 1e-6 and errors.nll > 0
    assert linear_code(image, 1, method).errors(image).mse > 100 * errors.mse
    related = torch.corrcoef(torch.cat([code.code(image).T, sources.T])).abs()[:2, 2:]
    if method == "ica":  # independent sources come apart, which directions of most variance do not tell
        assert related.max(1).values.min() > 0.95
    assert code.picture().images.shape == (2, 1, 4, 4) and code.picture().images.abs().max() == 1
    torch.testing.assert_close(code.deviation, code.encode(image).std(0, correction=0), rtol=1e-3, atol=1e-6)
    turned = code.traversals(image[:1])  # of one deviation, PCA and ICA alike
    moved = (turned.images[:, -1] - turned.images[:, 0]).flatten(1)
    index = int(turned.labels[0][1:])
    torch.testing.assert_close(moved[0], 4 * code.deviation[index] * code.components[:, index] * 2)


def test_errors_are_of_images_in_their_range() -> None:
    pytest.importorskip("sklearn")
    image = torch.rand(20, 1, 4, 4) * 2 - 1
    code = linear_code(image, 2)
    assert code.errors(torch.cat([image, torch.ones(1, 1, 4, 4)])).mse > 0
    for wrong, found in ((image * 3, r"-\d\.\d+ to \d"), (image[:0], "none"), (image * torch.nan, "nan")):
        with pytest.raises(ValueError, match=r"image: expected images in \[-1, 1\], found " + found):
            code.errors(wrong)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dim": 0}, "dim: expected 1 to 16"),
        ({"dim": 17}, "dim: expected 1 to 16"),
        ({"method": "lda"}, "method: expected pca or ica"),
        ({"image": torch.full((20, 1, 4, 4), torch.nan)}, "expected finite images"),
        ({"image": torch.zeros(20, 16)}, "expected finite images of shape"),
        ({"image": torch.full((20, 1, 4, 4), 0.3)}, "expected images that differ, found 20 alike"),
        ({"image": torch.zeros(1, 1, 4, 4), "dim": 1}, "expected images that differ, found 1"),
        ({"image": torch.linspace(-1, 1, 20).view(20, 1, 1, 1).expand(20, 1, 4, 4), "method": "ica"}, "1 directions"),
    ],
)
def test_what_no_linear_code_is_fitted_to(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        linear_code(**{"image": torch.rand(20, 1, 4, 4), "dim": 2, **arguments})
