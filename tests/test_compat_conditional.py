"""Conditional flows in the layout of the ECCV 2020 code, against its arithmetic told anew."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from iin import compat

State = dict[str, Tensor]

OPTIONS: dict[str, dict[str, Any]] = {
    "vectors": {"conditioning_spatial_size": 1},
    "in parallel": {"conditioning_spatial_size": 1, "conditioning_option": "Parallel", "conditioning_depth": 2},
    "in sequence, with activations": {
        "conditioning_spatial_size": 1,
        "conditioning_option": "sequential",
        "activation": "lrelu",
        "conditioning_dims": [5, 4, 7, 6],
    },
    "no further hidden layer": {"conditioning_spatial_size": 1, "hidden_depth": 0, "conditioning_depth": 3},
    "maps halved once": {"conditioning_spatial_size": 5, "embedder_down": 1, "activation": "lrelu"},
    "maps halved thrice": {"conditioning_spatial_size": 19, "embedder_down": 3, "conditioning_option": "parallel"},
}


def configuration(name: str) -> dict[str, Any]:
    sizes = {"in_channels": 6, "mid_channels": 7, "hidden_depth": 1, "n_flows": 3, "conditioning_in_channels": 5}
    return {**sizes, "conditioning_option": "none", "activation": "none", **OPTIONS[name]}


def random_state(config: dict[str, Any]) -> State:
    """Weights in the original's layout, in double precision."""
    dim, state = config["in_channels"], {}

    def layer(name: str, out: int, into: int, *kernel: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = (
            torch.randn(out, into, *kernel, dtype=torch.float64) / (into * math.prod(kernel)) ** 0.5
        )
        if bias:
            state[f"{name}.bias"] = torch.randn(out, dtype=torch.float64) * 0.3

    def norm(name: str, channels: int) -> None:
        state[f"{name}.loc"] = torch.randn(1, channels, 1, 1, dtype=torch.float64)
        state[f"{name}.scale"] = 0.5 + torch.rand(1, channels, 1, 1, dtype=torch.float64)
        state[f"{name}.initialized"] = torch.tensor(1, dtype=torch.uint8)

    for k in range(config["n_flows"]):
        block = f"flow.sub_layers.{k}"
        norm(f"{block}.norm_layer", dim)
        for net in "st":
            for side in range(2):
                sizes = [dim // 2 + dim, *[config["mid_channels"]] * (config["hidden_depth"] + 1), dim // 2]
                for j in range(len(sizes) - 1):
                    layer(f"{block}.coupling.{net}.{side}.main.{2 * j}", sizes[j + 1], sizes[j])
        order = torch.randperm(dim)
        state[f"{block}.shuffle.forward_shuffle_idx"] = order
        state[f"{block}.shuffle.backward_shuffle_idx"] = order.argsort()
        if config["conditioning_option"] != "none":
            layer(f"flow.conditioning_layers.{k}", dim, dim, 1, 1)
    channels = config["conditioning_in_channels"]
    if config["conditioning_spatial_size"] > 1:
        for k in range(config["embedder_down"]):
            out = 64 * 2**k
            layer(f"embedder.feature_layers.{k}.sub_layers.0", out, channels, 4, 4, bias=False)
            norm(f"embedder.feature_layers.{k}.sub_layers.1", out)
            channels = out
        left = config["conditioning_spatial_size"] // 2 ** config["embedder_down"]
        layer("embedder.dense_encode.sub_layers.0", dim, channels, left, left)
        return state
    depth = config.get("conditioning_depth", 4)
    widths = config.get("conditioning_dims") or [
        int(channels + k * (dim - channels) / (depth - 1)) for k in range(depth)
    ]
    for k in range(len(widths) - 1):
        layer(f"embedder.net.{3 * k}", widths[k + 1], widths[k], 1, 1)
        if k < len(widths) - 2:
            norm(f"embedder.net.{3 * k + 1}", widths[k + 1])
    return state


def embed(state: State, context: Tensor) -> Tensor:
    """``[B, C, H, W]`` to ``[B, D, 1, 1]``."""

    def normal(name: str, x: Tensor) -> Tensor:
        return F.leaky_relu(state[f"{name}.scale"] * (x + state[f"{name}.loc"]), 0.2)

    k, x = 0, context
    while (name := f"embedder.feature_layers.{k}.sub_layers") + ".0.weight" in state:
        x = normal(f"{name}.1", F.conv2d(x, state[f"{name}.0.weight"], None, 2, 1))
        k += 1
    if k:
        name = "embedder.dense_encode.sub_layers.0"
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])
    while f"embedder.net.{k}.weight" in state:
        x = F.conv2d(x, state[f"embedder.net.{k}.weight"], state[f"embedder.net.{k}.bias"])
        if f"embedder.net.{k + 1}.loc" in state:
            x = normal(f"embedder.net.{k + 1}", x)
        k += 3
    return x


def forward(state: State, config: dict[str, Any], x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, D]`` to ``[B, D]``, and the log-determinants ``[B]`` without those of activations."""
    h = before = embed(state, context)
    logdet = torch.zeros(len(x), dtype=x.dtype)
    for k in range(config["n_flows"]):
        block = f"flow.sub_layers.{k}"
        seen = h
        if config["conditioning_option"] != "none":
            start = before if config["conditioning_option"] == "sequential" else h
            name = f"flow.conditioning_layers.{k}"
            seen = before = F.conv2d(start, state[f"{name}.weight"], state[f"{name}.bias"])
        scale, loc = (state[f"{block}.norm_layer.{part}"].flatten() for part in ("scale", "loc"))
        x = scale * (x + loc)
        logdet = logdet + scale.abs().log().sum()
        if config["activation"] == "lrelu":
            x = torch.where(x < 0, 0.9 * x, x)
        for side in range(2):
            a, b = x.chunk(2, 1)[::-1] if side else x.chunk(2, 1)

            def network(net: str, side: int = side, a: Tensor = a, block: str = block, seen: Tensor = seen) -> Tensor:
                j, y = 0, torch.cat([a, seen.flatten(1)], 1)
                while (name := f"{block}.coupling.{net}.{side}.main.{2 * j}") + ".weight" in state:
                    y = F.linear(F.leaky_relu(y, 0.01) if j else y, state[f"{name}.weight"], state[f"{name}.bias"])
                    j += 1
                return y

            s = network("s").tanh()
            x = torch.cat([a, b * s.exp() + network("t")], 1)
            logdet = logdet + s.sum(1)
        x = x[:, state[f"{block}.shuffle.forward_shuffle_idx"]]
    return x, logdet


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option(name: str) -> None:
    config = configuration(name)
    state = random_state(config)
    size = config["conditioning_spatial_size"]
    x, context = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 5, size, size, dtype=torch.float64)
    flow = compat.conditional_flow(state, {"Transformer": config}, published_logdet=True)
    lowered = {**config, "conditioning_option": config["conditioning_option"].lower()}
    expected = forward(state, lowered, x, context)
    z, logdet = flow(x, context)
    torch.testing.assert_close((z, logdet), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(flow.inverse(z, context), x, atol=1e-9, rtol=0)
    torch.testing.assert_close(flow.embed(context), embed(state, context).flatten(1), atol=1e-12, rtol=1e-12)
    if size == 1:
        torch.testing.assert_close(flow(x, context.flatten(1)), (z, logdet))
    true = compat.conditional_flow(state, config)(x, context)[1]
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None], context[:1])[0][0], x[0])
    torch.testing.assert_close(true[0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-10, rtol=0)
    assert torch.equal(true, logdet) == (config["activation"] == "none")


def test_the_state_dict_that_is_given_stays_as_it_is() -> None:
    config = configuration("in sequence, with activations")
    state = random_state(config)
    before = {key: value.clone() for key, value in state.items()}
    flow = compat.conditional_flow(state, config)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in state.items())


@pytest.mark.parametrize("whole", [False, True], ids=["bare weights", "checkpoint"])
def test_files_load_with_what_their_weights_do_not_tell(tmp_path: Path, whole: bool) -> None:
    for name in OPTIONS:
        config = configuration(name)
        if config["conditioning_option"].lower() == "parallel":
            continue  # the original cannot have written one
        state = random_state(config)
        path = tmp_path / "model-7.ckpt"
        torch.save({"model": state} if whole else state, path)
        size = config["conditioning_spatial_size"]
        known = {key: config[key] for key in ("activation", "conditioning_spatial_size")[: 1 if size == 1 else 2]}
        x, context = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 5, size, size, dtype=torch.float64)
        expected = forward(state, config, x, context)[0]
        for given in (known, {"Transformer": config}):
            loaded: Any = compat.load(path, config=given)
            torch.testing.assert_close(loaded(x, context)[0], expected, atol=1e-12, rtol=1e-12)
        words = " and ".join(known)
        with pytest.raises(compat.CompatError, match=rf"model-7\.ckpt: .* do not tell {words}: give its configuration"):
            compat.load(path)


def test_a_configuration_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "flow.ckpt"
    torch.save(random_state(configuration("vectors")), path)
    with pytest.raises(compat.CompatError, match="expected names and values"):
        compat.load(path, config={"Transformer": 3})
    torch.save({"model": {"realnvp.flow.0.flow.0.loc": torch.zeros(1, 4, 1, 1)}}, path)
    with pytest.raises(compat.CompatError, match="a configuration is for conditional flows"):
        compat.load(path, config={"activation": "none"})


def test_a_state_of_something_else_lists_what_lacks() -> None:
    with pytest.raises(
        compat.CompatError, match=r"original conditional flow; missing: .* and \d+ more; left over: what"
    ):
        compat.conditional_flow({"what": torch.zeros(2)}, configuration("vectors"))
    with pytest.raises(compat.CompatError, match="give its entry 'model'"):
        compat.conditional_flow({"model": {}}, configuration("vectors"))  # type: ignore[dict-item]
    state = {name: value.to("meta") for name, value in random_state(configuration("vectors")).items()}
    with pytest.raises(compat.CompatError, match="tensors without values"):
        compat.conditional_flow(state, configuration("vectors"))


def test_a_permutation_that_is_none() -> None:
    state = random_state(configuration("vectors"))
    state["flow.sub_layers.2.shuffle.forward_shuffle_idx"] = torch.zeros(6, dtype=torch.int64)
    with pytest.raises(compat.CompatError, match=r"flow\.sub_layers\.2\.shuffle: .* no permutation and its inverse"):
        compat.conditional_flow(state, configuration("vectors"))
