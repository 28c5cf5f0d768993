"""Checkpoints of the original load as ours, and what is none is refused without running it."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import original
import pytest
import torch
from conftest import REFERENCE
from original import flow_state
from torch import Tensor, nn

from iin import compat, systems
from iin.compat import reading
from iin.compat.loading import network_of
from iin.models import Autoencoder, Classifier

RECIPE = {"a": 7, "b": 13, "c": 31, "m": 1009, "amp": 0.05, "gain": 2.5}


def write(path: Path, model: Any, lr: object = 1e-4, legacy: bool = False, **content: Any) -> Path:
    """A checkpoint file as the original wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = {"state": {}, "param_groups": [{"lr": lr, "betas": (0.5, 0.9), "params": [140234]}]}
    content = {"model": model, "loss": {}, "optimizer": optimizer, **content}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def double(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.double() if value.is_floating_point() else value for key, value in state.items()}


def same(mine: Tensor, theirs: Tensor) -> None:
    """Nothing but the order of sums tells the two apart."""
    torch.testing.assert_close(mine.detach(), theirs.detach(), rtol=1e-10, atol=1e-10)


# --- what loads computes what the original computed --------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "blocks", "hidden", "depth"),
    [
        (2, 1, 1, 0),
        (2, 3, 4, 1),
        (4, 2, 3, 0),
        (6, 3, 5, 1),
        (10, 7, 8, 2),
        (22, 5, 3, 3),
        (64, 2, 16, 4),
        (128, 20, 4, 1),
    ],
)
def test_a_flow_of_any_size_computes_what_the_original_does(dim: int, blocks: int, hidden: int, depth: int) -> None:
    state = double(flow_state(dim, blocks, hidden, depth))
    mine = compat.flow(state)
    x = torch.randn(5, dim, dtype=torch.float64)
    z, logdet = mine(x)
    theirs, theirs_logdet = original.flow_forward(state, x)
    same(z, theirs)
    same(logdet, theirs_logdet)
    noise = torch.randn(5, dim, dtype=torch.float64)
    back = original.flow_reverse(state, noise)
    torch.testing.assert_close(mine.inverse(noise), back, rtol=1e-8, atol=1e-8)  # each block divides once more
    same(mine(x[:1])[0], theirs[:1])  # the original refuses one row


NORMS = {"an": "actnorm", "bn": "batch", "in": "instance"}
SIZES = [
    # channels, size, n_down, width, dim
    (1, 16, 1, 3, 1),
    (3, 16, 2, 5, 4),
    (1, 24, 3, 2, 7),
    (3, 32, 4, 2, 8),
    (1, 48, 4, 3, 64),
    (4, 64, 5, 1, 6),
    (3, 128, 6, 1, 4),
    (3, 256, 6, 2, 128),
]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("channels", "size", "n_down", "width", "dim"), SIZES)
def test_an_autoencoder_of_any_size_computes_what_the_original_does(
    channels: int, size: int, n_down: int, width: int, dim: int, norm: str
) -> None:
    state = double(original.autoencoder_state(channels, size, n_down, width, dim, norm, counted=bool(dim % 2)))
    mine = compat.autoencoder(state)
    assert (mine.channels, mine.size, mine.n_down, mine.width, mine.dim) == (channels, size, n_down, width, dim)
    assert mine.norm == NORMS[norm] and not mine.deterministic
    image = torch.rand(2, channels, size, size, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        posterior = mine.encode(image)
        theirs = original.encode(state, image)
        same(posterior.mean, theirs[:, :dim])
        same(posterior.logvar, theirs[:, dim:].clamp(-30, 10))
        code = torch.randn(2, dim, dtype=torch.float64)
        same(mine.decode(code), original.decode(state, code))
        sure = compat.autoencoder(state, deterministic=True).encode(image)
        assert torch.equal(sure.sample(), posterior.mean) and not sure.kl().any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("channels", "size", "n_down", "width", "dim", "classes"),
    [(1, 16, 1, 2, 3, 2), (3, 32, 4, 2, 16, 10), (1, 64, 5, 1, 1, 1000), (3, 64, 4, 2, 64, 1)],
)
def test_a_classifier_of_any_size_computes_what_the_original_does(
    channels: int, size: int, n_down: int, width: int, dim: int, classes: int, norm: str
) -> None:
    state = double(original.classifier_state(channels, size, n_down, width, dim, norm, classes=classes))
    mine = compat.classifier(state)
    assert (mine.channels, mine.size, mine.classes, mine.dim) == (channels, size, classes, dim)
    image = torch.rand(2, channels, size, size, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        same(mine(image), original.classify(state, image))
        same(mine.encode(image).sample(), original.encode(state, image))


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "torch 0.4"])
@pytest.mark.parametrize(
    ("channels", "width", "layers", "spectral"), [(1, 3, 3, False), (3, 2, 1, False), (3, 4, 3, True), (1, 1, 5, True)]
)
def test_a_discriminator_of_any_size_computes_what_the_original_does(
    channels: int, width: int, layers: int, spectral: bool, counted: bool
) -> None:
    state = double(original.discriminator_state(channels, width, layers, spectral, counted))
    mine = compat.discriminator(state)
    assert (mine.channels, mine.width, mine.layers, mine.spectral_norm) == (channels, width, layers, spectral)
    image = torch.rand(2, channels, 100, 100, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        same(mine(image), original.discriminate(state, image))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_numbers_keep_their_precision(dtype: torch.dtype) -> None:
    for make, state in (
        (compat.flow, flow_state()),
        (compat.autoencoder, original.autoencoder_state()),
        (compat.classifier, original.classifier_state(norm="bn")),
    ):
        state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
        found = make(state).state_dict().values()
        assert {value.dtype for value in found if value.is_floating_point()} == {dtype}


def test_loading_draws_no_random_numbers_and_shares_no_memory() -> None:
    for make, state in (
        (compat.flow, flow_state()),
        (compat.autoencoder, original.autoencoder_state()),
        (compat.classifier, original.classifier_state(norm="bn")),
        (compat.discriminator, original.discriminator_state(spectral=True)),
    ):
        before = {key: value.clone() for key, value in state.items()}
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        made = make(state)
        assert torch.equal(torch.rand(1), expected)
        assert not made.training and all(p.requires_grad for p in made.parameters())
        with torch.no_grad():
            for value in [*made.parameters(), *made.buffers()]:
                value.zero_()
        assert all(torch.equal(value, before[key]) for key, value in state.items())


def test_running_statistics_and_their_count_load() -> None:
    state = original.autoencoder_state(norm="bn")
    mine = compat.autoencoder(state).encoder[1]
    assert mine.num_batches_tracked == 17
    assert torch.equal(mine.running_var, state["feature_layers.0.sub_layers.1.running_var"])


def test_a_flow_that_has_seen_no_data_waits_for_training() -> None:
    state = {k: torch.zeros_like(v) if k.endswith("initialized") else v for k, v in flow_state().items()}
    mine, x = compat.flow(state), torch.randn(8, 6)
    torch.testing.assert_close(mine(x)[0], original.flow_forward(state, x)[0])
    assert not mine[0].initialized
    mine.train()(x)
    assert mine[0].initialized
    torch.testing.assert_close(mine[0](x)[0].std(0), torch.ones(6))


# --- published layouts -------------------------------------------------------------------------------------------


def layout(name: str | None = None) -> dict[str, Any]:
    """Names and shapes of a published configuration's entries, or all of them."""
    path = REFERENCE / "iin" / "checkpoint_layout.json"
    if not path.is_file():
        pytest.skip("no recording of the layouts: set IIN_REFERENCE to the folder of recorded outputs")
    layouts = json.loads(path.read_text())
    return layouts if name is None else layouts[name]


@pytest.mark.parametrize(
    "name", ["mnist_ae", "cmnist_ae", "celeba_ae", "cmnist_clf", "mnist_iin", "cmnist_diin", "celeba_diin"]
)
def test_published_layouts_load_whole(name: str) -> None:
    """Every key and shape of the published configurations finds its place."""
    entry = layout(name)
    state = original.recipe(entry["model"], RECIPE)
    for key in state:
        if key.endswith("shuffle_idx"):
            state[key] = torch.arange(len(state[key]))
    mine = network_of(state)
    assert sum(p.numel() for p in mine.parameters()) == entry["n_params_model"]
    if isinstance(mine, Autoencoder | Classifier):
        config = entry["config"]["Model"]
        assert (mine.channels, mine.size, mine.dim) == (config["in_channels"], config["in_size"], config["z_dim"])


@pytest.mark.parametrize("name", ["mnist_ae", "cmnist_ae", "celeba_ae"])
def test_published_losses_load_whole(name: str, tmp_path: Path) -> None:
    """So do the discriminators and noise levels."""
    entry = layout(name)
    loss = original.recipe(entry["loss"], RECIPE)
    made = compat.system(write(tmp_path / "model-3.ckpt", original.recipe(entry["model"], RECIPE), loss=loss))
    assert sum(p.numel() for p in made.discriminator.parameters()) == entry["n_params_discriminator"]
    assert made.discriminator.spectral_norm == entry["config"]["Loss"].get("spectral_norm", False)
    moved = made.trainable()
    assert len(moved["autoencoder"]) == len(entry["optimizer_params"])  # network and noise level, as in the original
    assert torch.equal(made.logvar, loss["logvar"]) and made.training


def test_every_published_configuration_is_among_these() -> None:
    names = {"mnist_ae", "cmnist_ae", "celeba_ae", "cmnist_clf", "mnist_iin", "cmnist_diin", "celeba_diin"}
    assert {name for name in layout() if not name.startswith("_")} == names


# --- files -------------------------------------------------------------------------------------------------------


def old_numpy(path: Path) -> None:
    """Call numpy's numbers in a file as numpy before version 2 did."""
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    content = path.read_bytes()
    assert new in content
    if not zipfile.is_zipfile(path):
        path.write_bytes(content.replace(new, old))
        return
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part.replace(new, old))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "torch 1.4"])
@pytest.mark.parametrize("naming", ["numpy 1", "numpy 2"])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.int32])
def test_learning_rates_of_numpy_are_numbers(tmp_path: Path, kind: Any, naming: str, legacy: bool) -> None:
    value = kind(1.125e-4) if kind in (np.float32, np.float64) else kind(-3)
    path = write(tmp_path / "model-12.ckpt", flow_state(), value, legacy)
    if naming == "numpy 1":
        old_numpy(path)
    before = set(torch.serialization.get_safe_globals())
    found = compat.read(path)["optimizer"]["param_groups"][0]["lr"]
    assert type(found) in (float, int) and found == value.item()
    assert set(torch.serialization.get_safe_globals()) == before


def test_numbers_of_the_other_byte_order() -> None:
    kind = reading._Kind("f8", False, True)
    kind.__setstate__((3, ">", None, None, None, -1, -1, 0))
    assert reading._number(kind, np.array(0.1, dtype=">f8").tobytes()) == 0.1


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "torch 1.4"])
def test_files_of_a_gpu_load_without_one(tmp_path: Path, legacy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    state = flow_state()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        path = write(tmp_path / "model-12.ckpt", state, legacy=legacy)
    assert b"cuda:0" in path.read_bytes()
    assert torch.equal(compat.load(path)[0].loc.detach(), state["realnvp.flow.0.flow.0.loc"].flatten())


class Shuffle(nn.Module):
    """The original registers its permutations as buffers that are parameters."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("forward_shuffle_idx", nn.Parameter(order, requires_grad=False))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "torch 1.4"])
def test_state_dicts_are_stored_as_modules_make_them(tmp_path: Path, legacy: bool) -> None:
    state: Any = collections.OrderedDict(flow_state())
    made = Shuffle(state["realnvp.flow.0.flow.2.forward_shuffle_idx"]).state_dict(keep_vars=True)
    state["realnvp.flow.0.flow.2.forward_shuffle_idx"] = made["forward_shuffle_idx"]
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    mine = compat.load(write(tmp_path / "model-12.ckpt", state, legacy=legacy))
    x = torch.randn(4, 6)
    torch.testing.assert_close(mine(x)[0], original.flow_forward(state, x)[0])


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "torch 1.4"])
def test_each_kind_of_network_is_found_in_its_file(tmp_path: Path, legacy: bool) -> None:
    ae, clf, flow = original.autoencoder_state(), original.classifier_state(), flow_state()
    path = tmp_path / "model-12.ckpt"
    assert isinstance(compat.load(write(path, ae, legacy=legacy, loss=original_loss())), Autoencoder)
    torch.save({"model": clf, "optimizer": {}}, path, _use_new_zipfile_serialization=not legacy)  # it has no loss
    assert isinstance(compat.load(path), Classifier)
    write(path, flow, legacy=legacy)
    mine, x = compat.load(path), torch.randn(4, 6)
    torch.testing.assert_close(mine(x), original.flow_forward(flow, x))
    split = compat.load(path, factors=[1, 5])
    assert isinstance(split, compat.FactorChain) and split.factors == (1, 5)
    with pytest.raises(compat.CompatError, match=f"{path}: factors are for flows"):
        compat.load(write(path, ae), factors=2)


def test_a_folder_gives_its_newest_checkpoint_by_step(tmp_path: Path) -> None:
    old, new = flow_state(), flow_state()
    run = tmp_path / "logs" / "2020-02-24T12-33-54_mnist_iin"
    write(run / "train" / "checkpoints" / "model-1000.ckpt", new)
    write(run / "train" / "checkpoints" / "model-999.ckpt", old)  # written later, and sorted after the other
    write(run / "eval" / "model-5000.ckpt", old)
    (run / "train" / "checkpoints" / "model-best.ckpt").write_bytes(b"")
    x = torch.randn(2, 6)
    expected = original.flow_forward(new, x)[0]
    for folder in (run, run / "train", run / "train" / "checkpoints"):
        torch.testing.assert_close(compat.load(folder)(x)[0], expected)
        assert compat.step_of(folder) == 1000
    assert compat.is_original(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(compat.CompatError, match=r"no checkpoint of the original in it") as error:
        compat.load(tmp_path / "empty")
    assert str(error.value).count(str(tmp_path)) == 1


def test_a_folder_of_runs_is_not_chosen_from(tmp_path: Path) -> None:
    for name in ("2020-02-24T12-33-54_mnist_ae", "2020-02-25T09-00-00_mnist_iin"):
        write(tmp_path / "logs" / name / "train" / "checkpoints" / "model-10.ckpt", flow_state())
    with pytest.raises(compat.CompatError, match="it holds runs, name one of them: 2020-02-24T12-33-54_mnist_ae, 2020"):
        compat.load(tmp_path / "logs")


@pytest.mark.parametrize("factors", [1, 2, 3, 4, 5, 7, 21, 22, 23, 99])
def test_a_number_of_factors_cuts_as_the_original_does(factors: int) -> None:
    mine = compat.factor_flow(flow_state(22), factors)
    z = mine(torch.randn(2, 22))[0]
    pieces = torch.chunk(z, factors, dim=1)
    assert mine.factors == tuple(piece.shape[1] for piece in pieces)
    assert all(map(torch.equal, mine.split(z), pieces))


def test_factors_by_size() -> None:
    mine = compat.factor_flow(flow_state(), [1, 5])
    assert mine.factors == (1, 5)
    assert compat.factor_flow(flow_state()).factors == (3, 3)  # the original's default
    with pytest.raises(ValueError, match=r"4 \+ 4 = 8, but the flow has 6 dimensions"):
        compat.factor_flow(flow_state(), [4, 4])
    for nothing in (0, -1, [], [7, -1]):
        with pytest.raises(ValueError, match="of at least 1"):
            compat.factor_flow(flow_state(), nothing)


# --- what does not fit is named ----------------------------------------------------------------------------------

KINDS = {
    "flow": flow_state,
    "autoencoder": original.autoencoder_state,
    "classifier": original.classifier_state,
    "discriminator": original.discriminator_state,
}


@pytest.fixture(params=[*KINDS, "autoencoder-bn", "autoencoder-in", "discriminator-sn"])
def kind(request: pytest.FixtureRequest) -> tuple[str, dict[str, Tensor]]:
    name, _, variant = request.param.partition("-")
    options: dict[str, Any] = {"": {}, "sn": {"spectral": True}}.get(variant, {"norm": variant})
    return name, KINDS[name](**options)


def refused(name: str, state: Any) -> str:
    with pytest.raises(compat.CompatError) as error:
        getattr(compat, name)(state)
    assert "\n" not in str(error.value) and len(str(error.value)) < 3000
    return str(error.value)


def test_a_renamed_key_is_named(kind: tuple[str, dict[str, Tensor]]) -> None:
    name, state = kind
    for key in state:
        message = refused(name, {("other." + k if k == key else k): v for k, v in state.items()})
        assert f"missing: {key}" in message or (key.endswith("tracked") and f"left over: other.{key}" in message), key


def test_missing_keys_are_named(kind: tuple[str, dict[str, Tensor]]) -> None:
    name, state = kind
    for key in state:
        rest = {k: v for k, v in state.items() if k != key}
        if key.endswith("num_batches_tracked"):
            getattr(compat, name)(rest)
        else:
            assert f"missing: {key}" in refused(name, rest)
    several = [key for key in state if not key.endswith("tracked")][-3:]
    message = refused(name, {k: v for k, v in state.items() if k not in several})
    assert all(key in message for key in several)


def test_a_key_too_many_is_named(kind: tuple[str, dict[str, Tensor]]) -> None:
    name, state = kind
    assert "left over: extra.weight" in refused(name, {**state, "extra.weight": torch.zeros(1)})


@pytest.mark.parametrize("shape", [(), (1,), (99,), (2, 2), (3, 0), (7, 3, 4, 4)])
def test_a_tensor_of_another_shape_is_named(kind: tuple[str, dict[str, Tensor]], shape: tuple[int, ...]) -> None:
    name, state = kind
    sizes = (".0.sub_layers.0.weight", "dense_encode.sub_layers.0", "classifier.bias", "main.0.weight")
    for key, value in state.items():
        if value.shape == shape:
            continue
        message = refused(name, {**state, key: torch.zeros(shape, dtype=value.dtype)})
        told = any(part in key for part in sizes)  # by which the size is known; others do not fit it then
        assert key in message or told, key


def test_a_transposed_weight_is_named() -> None:
    state = flow_state(6, hidden=6)
    key = "realnvp.flow.1.flow.1.t.1.main.4.weight"
    state[key] = state[key].T
    assert f"{key} is [6, 3], expected [3, 6]" in refused("flow", state)


def test_what_is_no_permutation_is_named() -> None:
    state = flow_state()
    for key, value in [
        ("forward", torch.zeros(6, dtype=torch.int64)),
        ("backward", state["realnvp.flow.1.flow.2.backward_shuffle_idx"].roll(1)),
        ("forward", state["realnvp.flow.1.flow.2.forward_shuffle_idx"] + 1),
    ]:
        message = refused("flow", {**state, f"realnvp.flow.1.flow.2.{key}_shuffle_idx": value})
        assert "realnvp.flow.1.flow.2" in message and "permutation" in message
    message = refused("flow", {**state, "realnvp.flow.1.flow.2.forward_shuffle_idx": torch.rand(6)})
    assert "forward_shuffle_idx holds fractions" in message


def test_an_odd_number_of_dimensions_is_none_of_the_original() -> None:
    """Its halves would not be halves; it refuses as well."""
    state = flow_state()
    state["realnvp.flow.0.flow.0.loc"] = torch.zeros(1, 7, 1, 1)
    assert "realnvp.flow.0.flow.0.loc is [1, 7, 1, 1], expected [1, 6, 1, 1]" in refused("flow", state)


def test_numbers_in_names_make_no_giants() -> None:
    """Neither memory nor time for a name that says so."""
    state = flow_state()
    for old, new in [("flow.1.flow.0.loc", "flow.99999999999.flow.0.loc"), ("s.0.main.4", "s.0.main.40000000000")]:
        message = refused("flow", {key.replace(old, new): value for key, value in state.items()})
        assert "missing" in message and "left over" in message
    state = original.autoencoder_state()
    state["feature_layers.99999999999.sub_layers.0.weight"] = torch.zeros(1)
    assert "left over: feature_layers.99999999999" in refused("autoencoder", state)


def test_something_else_altogether_is_told_in_one_line() -> None:
    for name in KINDS:
        assert "missing" in refused(name, {f"layer.{i}.weight": torch.zeros(1) for i in range(500)})
        assert "missing" in refused(name, {})
        assert "give its entry 'model'" in refused(name, {"model": {}, "loss": {}, "optimizer": {}})
        assert "found str" in refused(name, "model-12.ckpt")
        assert "names and tensors, found dict" in refused(name, {"weight": [1.0]})


def test_whole_numbers_may_be_stored_as_others() -> None:
    """As recordings of recipes do."""
    state = flow_state()
    floats = {key: value.float() for key, value in state.items()}
    x = torch.randn(3, 6)
    torch.testing.assert_close(compat.flow(floats)(x), compat.flow(state)(x))
    assert compat.flow(floats)[0].initialized.dtype == torch.bool


# --- the discriminator and the noise level beside an autoencoder -------------------------------------------------


def original_loss(channels: int = 1) -> dict[str, Tensor]:
    judge = original.discriminator_state(channels, layers=1)
    return {"logvar": torch.tensor(-1.5), **{f"discriminator.{key}": value for key, value in judge.items()}}


def test_a_system_has_all_that_the_file_has(tmp_path: Path) -> None:
    model, loss = original.autoencoder_state(), original_loss()
    path = write(tmp_path / "model-12.ckpt", model, loss=loss)
    made = compat.system(path, disc_start=5, calibrate=True)
    assert isinstance(made, systems.Autoencoder) and made.disc_start == 5 and made.calibrate
    assert made.logvar.item() == -1.5 and made.logvar.requires_grad
    image = torch.rand(2, 1, 8, 8) * 2 - 1
    made.eval()
    torch.testing.assert_close(made.discriminator(image), original.discriminate(made.discriminator.state_dict(), image))
    torch.testing.assert_close(made.encode(image), original.encode(model, image)[:, :4])
    judge = {key.removeprefix("discriminator."): value for key, value in loss.items() if key != "logvar"}
    torch.testing.assert_close(made.discriminator(image), original.discriminate(judge, image))
    assert isinstance(compat.system(write(path, original.classifier_state())), systems.Classifier)


def test_a_loss_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path, model, loss = tmp_path / "model-12.ckpt", original.autoencoder_state(), original_loss()

    def message(model: Any = model, **settings: Any) -> str:
        with pytest.raises(compat.CompatError) as error:
            compat.system(path, **settings)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
        return str(error.value)

    for key in loss:
        write(path, model, loss={k: v for k, v in loss.items() if k != key})
        if not key.endswith("tracked"):
            assert "missing: " + key.removeprefix("discriminator.") in message()
    write(path, model, loss={**loss, "perceptual.weight": torch.zeros(1)})
    assert "left over: perceptual.weight" in message()
    write(path, model)
    assert "missing: logvar" in message()
    write(path, flow_state())
    assert "a flow is no system without a first stage" in message()
    write(path, original.classifier_state(), loss=loss)
    assert "a classifier has no loss" in message()
    write(path, original.classifier_state())
    assert "a classifier has no settings" in message(disc_start=1)
    write(path, model, loss=original_loss(3))
    with pytest.raises(ValueError, match="of 3 channels, but the model makes 1"):
        compat.system(path)


# --- what is no checkpoint, or would run code --------------------------------------------------------------------


class Bomb:
    """Calls a function when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def hidden(bomb: Any) -> dict[str, Any]:
    """A checkpoint that looks sound, with one of these wherever there is room."""
    return {
        "beside the weights": {"model": {**flow_state(), "extra": bomb}, "loss": {}, "optimizer": {}},
        "as the weights": {"model": bomb, "loss": {}, "optimizer": {}},
        "in the loss": {"model": flow_state(), "loss": {"logvar": bomb}, "optimizer": {}},
        "in the optimizer": {
            "model": flow_state(),
            "loss": {},
            "optimizer": {"state": {140234: {"step": bomb}}, "param_groups": [{"lr": 1e-4, "params": [140234]}]},
        },
        "as a learning rate": {"model": flow_state(), "optimizer": {"param_groups": [{"lr": bomb}]}},
        "elsewhere": {"model": flow_state(), "config": [({"a": bomb},)]},
        "as a key": {"model": flow_state(), (1, bomb): 0},
        "alone": bomb,
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "torch 1.4"])
@pytest.mark.parametrize("place", hidden(None))
@pytest.mark.parametrize("gadget", ["system", "exec", "eval", "import", "touch", "getattr", "numpy"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, gadget: str, place: str, legacy: bool) -> None:
    trace = tmp_path / "exploded"
    code = f"open({str(trace)!r}, 'w')"
    bomb = {
        "system": Bomb(os.system, f"touch {trace}"),
        "exec": Bomb(exec, code),
        "eval": Bomb(eval, code),
        "import": Bomb(__import__, "antigravity"),
        "touch": Bomb(Path.touch, trace),
        "getattr": Bomb(getattr, Bomb(__import__, "os"), "system"),
        "numpy": Bomb(np.load, str(trace)),
    }[gadget]
    path = tmp_path / "model-1.ckpt"
    torch.save(hidden(bomb)[place], path, _use_new_zipfile_serialization=not legacy)
    for reader in (compat.load, compat.system, compat.read, compat.architecture):
        with pytest.raises(compat.CompatError, match="would run code") as error:
            reader(path)
        assert "\n" not in str(error.value)
    assert not trace.exists() and "antigravity" not in sys.modules
    trace.touch()  # the trap itself works
    assert trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_container_gets_around_that(tmp_path: Path) -> None:
    """A bare pickle; the tar of the oldest versions of torch; a module saved whole; numpy's objects."""
    trace, path = tmp_path / "exploded", tmp_path / "model-2.ckpt"
    bomb = Bomb(Path.touch, trace)
    path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(compat.CompatError, match="would run code"):
        compat.load(path)
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(bomb)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(compat.CompatError, match="would run code"):
        compat.load(path)
    torch.save({"model": nn.Linear(2, 2)}, path)
    with pytest.raises(compat.CompatError, match="would run code"):
        compat.load(path)
    torch.save({"model": flow_state(), "lr": np.array([bomb], dtype=object)}, path)
    with pytest.raises(compat.CompatError, match="would run code"):
        compat.load(path)
    torch.save({"model": flow_state(), "lr": np.complex128(1)}, path)
    with pytest.raises(compat.CompatError, match="'c16', expected a number"):
        compat.load(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model-1.ckpt"
    path.write_bytes(content)
    with pytest.raises(compat.CompatError, match="not a checkpoint of the original") as error:
        compat.load(path)
    assert "\n" not in str(error.value)
    with pytest.raises(compat.CompatError, match="cannot be read"):
        compat.load(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "torch 1.4"])
def test_a_truncated_file_is_refused(tmp_path: Path, legacy: bool) -> None:
    path = write(tmp_path / "model-1.ckpt", flow_state(), legacy=legacy)
    whole = path.read_bytes()
    for part in (0.01, 0.3, 0.7, 0.99):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(compat.CompatError, match=f"{path}: damaged, not a checkpoint of the original") as error:
            compat.load(path)
        assert "\n" not in str(error.value)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model-1.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(compat.CompatError, match="not a checkpoint of the original"):
        compat.load(path)
    for content in ([1, 2], {"model": [1]}, {"model": {"weight": 1.0}}, {"model": {}, "loss": [1]}):
        torch.save(content, path)
        with pytest.raises(compat.CompatError, match="not a checkpoint of the original"):
            compat.load(path)
    torch.save({"model": {}, "loss": {}, "optimizer": {}}, path)
    with pytest.raises(compat.CompatError, match="those of none of its networks"):
        compat.load(path)


def test_a_checkpoint_of_ours_is_known(tmp_path: Path) -> None:
    path = tmp_path / "step-00000012.ckpt"
    torch.save({"format": 1, "step": 12, "system": {}, "optimizers": {}}, path)
    with pytest.raises(compat.CompatError, match=r"a checkpoint of iin itself, not of the original: iin\.load"):
        compat.load(path)
    assert not compat.is_original(path)


def as_original(model: nn.Module) -> dict[str, Tensor]:
    """Our autoencoder's or classifier's weights, of two halvings, under the original's names."""
    names = {"encoder.6": "dense_encode.sub_layers.0", "head": "classifier", "decoder.0": "dense_decode.sub_layers.0"}
    names |= {f"encoder.{3 * i + j}": f"feature_layers.{i}.sub_layers.{j}" for i in range(2) for j in range(2)}
    names |= {"decoder.1": "decoder_layers.0.sub_layers.0", "decoder.2": "decoder_layers.0.sub_layers.1"}
    names |= {"decoder.4": "image_layer.sub_layers.0"}
    state = {}
    for key, value in model.state_dict().items():
        prefix, entry = key.rsplit(".", 1)
        state[f"{names[prefix]}.{entry}"] = value[None, :, None, None] if entry in ("loc", "scale") else value
    return state


def test_networks_round_trip() -> None:
    model = Autoencoder(1, 8, 4, 2, 2).eval()
    mine = compat.autoencoder(as_original(model))
    image = torch.rand(3, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(mine.encode(image).logvar, model.encode(image).logvar)
    torch.testing.assert_close(mine(image), model(image))
    judge = Classifier(1, 8, 3, 4, 2, 2).eval()
    torch.testing.assert_close(compat.classifier(as_original(judge))(image), judge(image))


@pytest.mark.parametrize("name", ["flow", "autoencoder", "classifier"])
def test_architecture_builds_the_same_network(tmp_path: Path, name: str) -> None:
    from iin.config import build

    path = write(tmp_path / "model-1.ckpt", KINDS[name]())
    built = build(compat.architecture(path))
    assert {k: v.shape for k, v in built.state_dict().items()} == {
        k: v.shape for k, v in compat.load(path).state_dict().items()
    }


@pytest.mark.parametrize("size", [10**12, 10**30])
def test_sizes_that_no_memory_holds_are_refused(size: int) -> None:
    with pytest.raises(compat.CompatError, match=f"latent_dim is {size}, expected a whole number from 1 to 65536"):
        compat.jacobian.conv_vae({}, {"latent_dim": size})


def test_names_of_arguments_are_told_in_one_line() -> None:
    with pytest.raises(compat.CompatError, match="unknown arguments: ") as caught:
        compat.jacobian.conv_vae({}, {"latent_dim": 3, "a\nb": 1})
    assert "\n" not in str(caught.value)
