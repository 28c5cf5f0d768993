"""Outputs recorded from the original ECCV 2020 implementation's conditional flows are ours too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import REFERENCE
from torch import Tensor

from iin import compat
from iin.flows import ConditionalFlow
from iin.flows.kernel import by_hand
from iin.losses import nll

CASES = ("vector", "vector_lrelu_seq", "vector_dims", "spatial_down1", "spatial_down2")
SHAPES = REFERENCE / "invariances" / "checkpoint_shapes.json"


def close(mine: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(mine.detach(), theirs, atol=tolerance, rtol=tolerance)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, recording: Any) -> dict[str, Any]:
    found: dict[str, Any] = recording("invariances/cinn.pt")["cases"][request.param]
    return found


def made(case: dict[str, Any], state: str = "state_dict") -> ConditionalFlow:
    return compat.conditional_flow(case[state], case["config"], published_logdet=True)


def vectors(case: dict[str, Any], *names: str) -> Iterator[Tensor]:
    """Recordings [..., D, 1, 1] as [..., D]."""
    return (case[name][..., 0, 0] for name in names)


def test_outputs(case: dict[str, Any]) -> None:
    flow, context = made(case), case["c"]
    x, out = vectors(case, "z", "out")
    close(flow.embed(context), case["embedding"])
    z, logdet = flow(x, context)
    close(z, out)
    close(logdet, case["logdet"])
    close(0.5 * z.square().sum(1), case["nll_per_sample"])


def test_each_block(case: dict[str, Any]) -> None:
    x, blocks = vectors(case, "z", "block_out")
    steps = made(case).steps(x, case["c"])
    close(torch.stack([z for z, _ in steps]), blocks)
    close(torch.stack([logdet for _, logdet in steps]), case["block_logdet_cumulative"])


def test_ways_back(case: dict[str, Any]) -> None:
    flow, context = made(case), case["c"]
    out, back, v, of_v, of_flipped, with_flipped = vectors(
        case, "out", "reverse_of_out", "v", "reverse_of_v", "reverse_of_flipped_out", "reverse_with_flipped_c"
    )
    close(flow.inverse(out, context), back)
    close(flow.inverse(v, context), of_v)
    close(flow.inverse(out.flip(0), context), of_flipped)
    close(flow.inverse(out, context.flip(0)), with_flipped)


def test_the_true_determinant(case: dict[str, Any]) -> None:
    flow = compat.conditional_flow(case["state_dict"], case["config"])
    (x,) = vectors(case, "z")
    close(flow(x, case["c"])[1][0], torch.tensor(case["autograd_logabsdet_sample0"]))


def test_the_published_determinant_leaves_out_the_activations(recording: Any) -> None:
    case = recording("invariances/cinn.pt")["cases"]["vector_lrelu_seq"]
    (x,) = vectors(case, "z")
    true = compat.conditional_flow(case["state_dict"], case["config"])(x, case["c"])
    published = made(case)(x, case["c"])
    assert torch.equal(true[0], published[0])
    assert ((true[1] - published[1]) < -0.1).all()


@pytest.mark.parametrize("hand", [False, True], ids=["autograd", "by hand"])
@pytest.mark.parametrize("name", CASES[:-1])  # of the last one only the losses were kept
def test_training(recording: Any, name: str, hand: bool) -> None:
    case = recording("invariances/cinn.pt")["cases"][name]
    flow = made(case, "init_state_dict").train()
    optimizer = torch.optim.Adam(flow.parameters(), lr=case["lr"], betas=tuple(case["betas"]))
    for step in range(case["n_steps"]):
        x, context = case["train_z"][step][:, :, 0, 0], case["train_c"][step].float()
        with by_hand(hand):
            z, logdet = flow(x, context)
            loss = nll(z, logdet)
        if step == 0:
            first = case["first_step"]
            close(z, first["out"][:, :, 0, 0])
            close(logdet, first["logdet"])
            compare(flow, {**case["init_state_dict"], **first["actnorm_after_init"]}, case, 1e-5)
        close(loss, torch.tensor(case["train_loss"][step]), 1e-4)
        close(0.5 * z.square().sum(1).mean(), torch.tensor(case["train_nll"][step]), 1e-4)
        close(-logdet.mean(), torch.tensor(case["train_nlogdet"][step]), 1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    compare(flow, case["state_dict"], case, 1e-3)


def compare(flow: ConditionalFlow, state: dict[str, Tensor], case: dict[str, Any], tolerance: float) -> None:
    """All that a flow holds with a state dict of the original."""
    theirs = compat.conditional_flow(state, case["config"]).state_dict()
    assert flow.state_dict().keys() == theirs.keys()
    for name, value in flow.state_dict().items():
        close(value, theirs[name], tolerance)


# --- what was published ----------------------------------------------------------------------------------------------


def published() -> dict[str, Any]:
    if not SHAPES.is_file():
        return {}
    found: dict[str, Any] = json.loads(SHAPES.read_text())
    return found


@pytest.mark.parametrize("name", sorted(published().get("cinn", ["no recording"])))
def test_published_weights_fit(name: str) -> None:
    """Weights of the published shapes, of which the blocks are all alike: one is enough."""
    if not SHAPES.is_file():
        pytest.skip(f"no recording {SHAPES.name}: set IIN_REFERENCE to the folder of recorded outputs")
    entry = published()["cinn"][name]
    block, config = published()["flow"][entry["flow_block_ref"]], entry["config"]["Transformer"]
    state = {key: torch.zeros(()).expand(shape) for key, shape in (block | entry["embedder"]).items()}
    for way in ("forward", "backward"):
        state[f"flow.sub_layers.0.shuffle.{way}_shuffle_idx"] = torch.arange(config["in_channels"])
    assert len(block) * entry["n_blocks"] + len(entry["embedder"]) == entry["n_keys"]
    flow = compat.conditional_flow(state, {"Transformer": {**config, "n_flows": 1}})
    counts = [sum(p.numel() for p in part.parameters()) for part in (flow.blocks, flow.embedder)]
    assert counts == [entry["params_flow"] // entry["n_blocks"], entry["params_embedder"]]
    channels, size = config["conditioning_in_channels"], config["conditioning_spatial_size"]
    with torch.no_grad():
        assert flow(torch.zeros(1, flow.dim), torch.zeros(1, channels, size, size))[0].shape == (1, flow.dim)


def test_a_state_of_another_network_lists_what_does_not_fit(recording: Any) -> None:
    case = recording("invariances/cinn.pt")["cases"]["vector_lrelu_seq"]
    state, config = dict(case["state_dict"]), case["config"]["Transformer"]
    del state["flow.sub_layers.1.coupling.t.1.main.2.bias"]
    state["embedder.net.6.bias"] = torch.zeros(3)
    state["flow.conditioning_layers.0.weight"] = torch.zeros(12, 12)
    with pytest.raises(compat.CompatError) as caught:
        compat.conditional_flow(state, config)
    assert "missing: flow.sub_layers.1.coupling.t.1.main.2.bias" in str(caught.value)
    assert "left over: embedder.net.6.bias" in str(caught.value)
    assert "flow.conditioning_layers.0.weight is [12, 12], expected [12, 12, 1, 1]" in str(caught.value)


def test_a_configuration_lacks_what_has_no_default(recording: Any) -> None:
    case = recording("invariances/cinn.pt")["cases"]["vector"]
    config = dict(case["config"]["Transformer"])
    del config["conditioning_option"], config["mid_channels"]
    with pytest.raises(compat.CompatError, match="missing: mid_channels, conditioning_option"):
        compat.conditional_flow(case["state_dict"], config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 7}, "even number"),
        ({"n_flows": 0}, "n_flows is 0, expected a whole number of at least 1"),
        ({"activation": "relu"}, "activation is 'relu', expected none or lrelu"),
        ({"embedding_channels": 16}, "embedding_channels is 16, expected in_channels = 8"),
        ({"conditioning_dims": [6, 20, 9]}, "widths must start with channels = 6 and end with dim = 8"),
        ({"conditioning_dims": 5}, "conditioning_dims is 5, expected a list of whole numbers"),
        ({"conditioning_spatial_size": 3}, "halved n_down = 4 times"),
    ],
)
def test_configurations_that_are_none(recording: Any, change: dict[str, Any], message: str) -> None:
    case = recording("invariances/cinn.pt")["cases"]["vector"]
    with pytest.raises(compat.CompatError, match=message):
        compat.conditional_flow(case["state_dict"], {**case["config"]["Transformer"], **change})


def test_names_that_the_original_does_not_know_are_told(recording: Any) -> None:
    case = recording("invariances/cinn.pt")["cases"]["vector"]
    with pytest.warns(UserWarning, match="knows no activatoin"):
        compat.conditional_flow(case["state_dict"], {**case["config"]["Transformer"], "activatoin": "none"})


def test_without_a_word_the_original_has_activations(recording: Any) -> None:
    case = recording("invariances/cinn.pt")["cases"]["vector"]
    config = {key: value for key, value in case["config"]["Transformer"].items() if key != "activation"}
    (x,) = vectors(case, "z")
    explicit = compat.conditional_flow(case["state_dict"], {**config, "activation": "LReLU"})
    assert torch.equal(compat.conditional_flow(case["state_dict"], config)(x, case["c"])[0], explicit(x, case["c"])[0])
    assert not torch.equal(made(case)(x, case["c"])[0], explicit(x, case["c"])[0])
