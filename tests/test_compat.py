"""Checkpoints of the original load as ours, and what is none is refused without running it."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import original
import pytest
import torch
from conftest import REFERENCE
from torch import Tensor, nn

from iin import compat
from iin.models import Autoencoder, Classifier

RECIPE = {"a": 7, "b": 13, "c": 31, "m": 1009, "amp": 0.05, "gain": 2.5}


def flow_state(dim: int = 6, blocks: int = 2, hidden: int = 5, depth: int = 1) -> dict[str, Tensor]:
    """A flow's state dict in the original's layout."""
    state: dict[str, Tensor] = {}
    for b in range(blocks):
        old = f"realnvp.flow.{b}.flow."
        state[old + "0.loc"] = torch.randn(1, dim, 1, 1)
        state[old + "0.scale"] = torch.rand(1, dim, 1, 1) + 0.5
        state[old + "0.initialized"] = torch.tensor(1, dtype=torch.uint8)
        for net in ("s", "t"):
            for half in range(2):
                sizes = [dim // 2] + [hidden] * (depth + 1) + [dim // 2]
                for k, (i, o) in enumerate(pairwise(sizes)):
                    state[f"{old}1.{net}.{half}.main.{2 * k}.weight"] = torch.randn(o, i)
                    state[f"{old}1.{net}.{half}.main.{2 * k}.bias"] = torch.randn(o)
        order = torch.randperm(dim)
        state[old + "2.forward_shuffle_idx"] = order
        state[old + "2.backward_shuffle_idx"] = torch.argsort(order)
    return state


def write(path: Path, model: dict[str, Tensor], lr: object = 1e-4, legacy: bool = False) -> Path:
    """A checkpoint file as the original wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = {"state": {}, "param_groups": [{"lr": lr, "betas": (0.5, 0.9), "params": [140234]}]}
    content = {"model": model, "loss": {}, "optimizer": optimizer}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "torch 1.4"])
@pytest.mark.parametrize("lr", [1e-4, np.float64(1e-4)], ids=["float", "numpy"])
def test_a_flow_is_found_in_its_file(tmp_path: Path, lr: object, legacy: bool) -> None:
    state = flow_state()
    mine = compat.load(write(tmp_path / "model-12.ckpt", state, lr, legacy))
    x = torch.randn(4, 6)
    z, logdet = mine(x)
    torch.testing.assert_close(mine.inverse(z), x, atol=1e-4, rtol=0)
    torch.testing.assert_close(compat.flow(state)(x)[1], logdet)


def test_a_folder_gives_its_newest_checkpoint_by_step(tmp_path: Path) -> None:
    old, new = flow_state(), flow_state()
    run = tmp_path / "logs" / "2020-02-24T12-33-54_mnist_iin"
    write(run / "train" / "checkpoints" / "model-1000.ckpt", new)
    write(run / "train" / "checkpoints" / "model-999.ckpt", old)  # written later, and sorted after the other
    x = torch.randn(2, 6)
    torch.testing.assert_close(compat.load(run)(x)[0], compat.flow(new)(x)[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(compat.CompatError, match=r"no checkpoint of the original in it"):
        compat.load(tmp_path / "empty")


@pytest.mark.parametrize(("factors", "sizes"), [(3, (2, 2, 2)), (4, (2, 2, 2)), ([1, 5], (1, 5)), (2, (3, 3))])
def test_factors_by_number_or_by_size(factors: object, sizes: tuple[int, ...]) -> None:
    mine = compat.factor_flow(flow_state(), factors)
    assert mine.factors == sizes
    assert tuple(part.shape[1] for part in mine.split(mine(torch.randn(2, 6))[0])) == sizes


def test_factors_must_fill_the_latent() -> None:
    with pytest.raises(ValueError, match=r"4 \+ 4 = 8, but the flow has 6 dimensions"):
        compat.factor_flow(flow_state(), [4, 4])


@pytest.mark.parametrize("name", ["mnist_ae", "celeba_ae", "cmnist_clf", "mnist_iin", "cmnist_diin", "celeba_diin"])
def test_published_layouts_load_whole(name: str) -> None:
    """Every key and shape of the published configurations finds its place."""
    path = REFERENCE / "iin" / "checkpoint_layout.json"
    if not path.is_file():
        pytest.skip("no recording of the layouts: set IIN_REFERENCE to the folder of recorded outputs")
    layout = json.loads(path.read_text())[name]
    state = original.recipe(layout["model"], RECIPE)
    for key in state:
        if key.endswith("shuffle_idx"):
            state[key] = torch.arange(len(state[key]))
    mine = compat._load_state(state)
    count = sum(p.numel() for p in mine.parameters())
    assert count == layout["n_params_model"]
    if isinstance(mine, Autoencoder | Classifier):
        config = layout["config"]["Model"]
        assert (mine.channels, mine.size, mine.dim) == (config["in_channels"], config["in_size"], config["z_dim"])


@pytest.fixture(params=["flow", "autoencoder", "classifier"])
def kind(request: pytest.FixtureRequest) -> tuple[str, dict[str, Tensor]]:
    if request.param == "flow":
        return request.param, flow_state()
    model: nn.Module = Autoencoder(1, 8, 4, 2, 2) if request.param == "autoencoder" else Classifier(1, 8, 3, 4, 2, 2)
    return request.param, as_original(model)


def as_original(model: nn.Module) -> dict[str, Tensor]:
    """Our autoencoder's or classifier's weights under the original's names."""
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


def test_a_renamed_key_is_named(kind: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    name, state = kind
    for key in list(state)[1:]:
        renamed = {("other." + k if k == key else k): v for k, v in state.items()}
        with pytest.raises(compat.CompatError) as error:
            getattr(compat, name)(renamed)
        assert key in str(error.value) and "\n" not in str(error.value)


def test_a_key_too_many_is_named(kind: tuple[str, dict[str, Tensor]]) -> None:
    name, state = kind
    with pytest.raises(compat.CompatError, match=r"left over: extra\.weight"):
        getattr(compat, name)({**state, "extra.weight": torch.zeros(1)})


def test_a_wrong_shape_is_refused(kind: tuple[str, dict[str, Tensor]]) -> None:
    name, state = kind
    key = next(k for k in reversed(state) if k.endswith("bias"))
    with pytest.raises((compat.CompatError, RuntimeError)):
        getattr(compat, name)({**state, key: torch.zeros(99)})


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    for legacy in (False, True):
        path = tmp_path / "model-1.ckpt"
        torch.save({"model": flow_state(), "loss": Bomb()}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(compat.CompatError, match="would run code"):
            compat.load(path)
    (tmp_path / "model-2.ckpt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(compat.CompatError, match="would run code"):
        compat.load(tmp_path / "model-2.ckpt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model-1.ckpt"
    path.write_bytes(content)
    with pytest.raises(compat.CompatError, match="not a checkpoint of the original") as error:
        compat.load(path)
    assert "\n" not in str(error.value)
    with pytest.raises(compat.CompatError, match="cannot be read"):
        compat.load(tmp_path / "absent.ckpt")


def test_architecture_builds_the_same_network(tmp_path: Path) -> None:
    from iin.config import build

    for state in (as_original(Classifier(1, 8, 3, 4, 2, 2)), as_original(Autoencoder(3, 16, 4, 2, 2)), flow_state()):
        path = write(tmp_path / "model-1.ckpt", state)
        built = build(compat.architecture(path))
        assert {k: v.shape for k, v in built.state_dict().items()} == {
            k: v.shape for k, v in compat.load(path).state_dict().items()
        }
