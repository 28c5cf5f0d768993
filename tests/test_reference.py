"""Outputs recorded from the original CVPR 2020 implementation are ours too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import original
import pytest
import torch
from torch import Tensor

from iin import compat
from iin.config import Training
from iin.data import Images, Pairs
from iin.flows import ActNorm
from iin.losses import factor_mask, nll, pair_nll
from iin.models import Autoencoder, Gaussian
from iin.models.norm import ActNormLayer
from iin.systems import Classifier, FactorFlow, LatentFlow
from iin.train import _step, make_optimizers


def close(mine: Any, theirs: Any, tolerance: float) -> None:
    """Relative to value + 0.1, as the recordings' description asks."""
    mine, theirs = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (mine, theirs))
    assert mine.shape == theirs.shape
    error = ((mine - theirs).abs() / (theirs.abs() + 0.1)).max() if mine.numel() else torch.zeros(())
    assert error < tolerance, float(error)


def of_type(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}


PRECISIONS = pytest.mark.parametrize(
    ("suffix", "dtype", "tolerance"), [("", torch.float32, 1e-5), ("_f64", torch.float64, 1e-12)], ids=["f32", "f64"]
)


@PRECISIONS
def test_vector_flow(recording, suffix: str, dtype: torch.dtype, tolerance: float) -> None:
    r = recording("iin/flow_vector.pt")
    flow = compat.flow(of_type(r["state_dict"], dtype))
    z, logdet = flow(r["input"].flatten(1).to(dtype))
    close(z, r["output" + suffix].flatten(1), tolerance)
    close(logdet, r["logdet" + suffix], tolerance)
    close(flow.inverse(z), r["reverse_of_output" + suffix].flatten(1), tolerance)
    close(flow.inverse(r["rev_input"].flatten(1).to(dtype)), r["rev_output" + suffix].flatten(1), tolerance)


def test_layers_of_the_vector_flow(recording) -> None:
    """The original's double coupling leaves the halves swapped; ours leaves that to the shuffle."""
    r = recording("iin/flow_vector.pt")
    x = r["input"].flatten(1)
    half, blocks = x.shape[1] // 2, iter(compat.flow(r["state_dict"]))
    for theirs in r["intermediates"]:
        x, logdet = next(blocks)(x)
        seen = x
        if theirs["type"] == "DoubleVectorCouplingBlock":
            x, second = next(blocks)(x)
            seen, logdet = x.roll(half, 1), logdet + second
        close(seen, theirs["out"], 1e-5)
        close(logdet, theirs["logdet"] if theirs["type"] != "Shuffle" else torch.zeros(len(x)), 1e-5)
    assert next(blocks, None) is None


def test_gradients_of_the_vector_flow(recording) -> None:
    r = recording("iin/flow_vector.pt")
    flow = compat.flow(r["state_dict"])
    x = r["input"].flatten(1).requires_grad_()
    loss = nll(*flow(x))
    close(loss, r["loss"], 1e-5)
    loss.backward()
    close(x.grad, r["grad_input"].flatten(1), 1e-5)
    theirs = r["grads"]
    for b in range(len(flow) // 4):
        old = f"realnvp.flow.{b}.flow."
        norm, *couplings = (flow[4 * b + i] for i in range(3))
        close(norm.loc.grad, theirs[old + "0.loc"].flatten(), 1e-5)
        close(norm.scale.grad, theirs[old + "0.scale"].flatten(), 1e-5)
        for half, coupling in enumerate(couplings):
            for k, (weight, bias) in enumerate(zip(coupling.weights, coupling.biases, strict=True)):
                for net, name in enumerate(("s", "t")):
                    key = f"{old}1.{name}.{half}.main.{2 * k}"
                    close(weight.grad[net].T, theirs[key + ".weight"], 1e-5)
                    close(bias.grad[net, 0], theirs[key + ".bias"], 1e-5)


class Codes(torch.nn.Module):
    """A first stage whose images are codes already."""

    def encode(self, image: Tensor) -> Gaussian:
        return Gaussian(image.flatten(1), torch.zeros_like(image.flatten(1)), deterministic=True)


def replay(system: LatentFlow, trace: dict, batch: Callable[[int], Any], parts: Callable[..., list[Tensor]]) -> None:
    """Train as the recording did, by our loop's own step, and meet its losses and their parts on the way."""
    seen: list[tuple[Tensor, Tensor]] = []
    system.flow.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    optimizers = make_optimizers(system, Training(lr=trace["lr"], betas=tuple(trace["betas"])))
    double = next(system.parameters()).dtype == torch.float64
    tolerance = 1e-9 if double else 1e-4
    for step, expected in enumerate(trace["per_step_f64" if double else "per_step"]):
        logged = _step(system, batch(step), step, optimizers, trace["lr"], None)
        if step == 0 and "first_output" in trace:
            close(seen[-1][0], trace["first_output"].flatten(1), 1e-5)
            close(seen[-1][1], trace["first_logdet"], 1e-5)
        for mine, theirs in zip([logged["loss"], *parts(*seen[-1], logged["loss"])], expected, strict=True):
            close(mine, theirs, tolerance)


@PRECISIONS
def test_training_of_the_vector_flow(recording, suffix: str, dtype: torch.dtype, tolerance: float) -> None:
    r = recording("iin/flow_vector.pt")
    trace = r["trace"]
    flow = compat.flow(of_type(trace["state_before_init"], dtype))
    system = LatentFlow(Codes(), flow).train()

    def batch(step: int) -> Images:
        return Images(trace["batches"][step].to(dtype), torch.zeros(32))

    def parts(z: Tensor, logdet: Tensor, loss: Tensor) -> list[Tensor]:
        return [nll(z, torch.zeros_like(logdet)), -logdet.mean()]

    replay(system, trace, batch, parts)
    for mine, theirs in zip(flow.parameters(), compat.flow(r["state_dict"]).parameters(), strict=True):
        close(mine, theirs, 5e-3)


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


def factor_flow(state: dict[str, Tensor], case: dict) -> compat.FactorChain:
    """Our flow of a recorded case, its factors by the recorded configuration."""
    config = case["config"]["Transformer"]
    factors = config.get("factor_config") or config.get("n_factors")
    made = compat.factor_flow(state) if factors is None else compat.factor_flow(state, factors)
    assert list(made.factors) == case["output_sizes"]
    return made


@PRECISIONS
def test_factor_flow(recording, suffix: str, dtype: torch.dtype, tolerance: float) -> None:
    for case in recording("iin/flow_factor.pt")["cases"]:
        flow = factor_flow(of_type(case["state_dict"], dtype), case)
        z, logdet = flow(case["input"].flatten(1).to(dtype))
        for mine, theirs in zip(flow.split(z), case["outputs" + suffix], strict=True):
            close(mine, theirs.flatten(1), tolerance)
        close(logdet, case["logdet" + suffix], tolerance)
        close(flow.inverse(flat(case["outputs"]).to(dtype)), case["reverse_of_outputs"].flatten(1), 1e-5)
        close(flow.inverse(flat(case["rev_inputs"]).to(dtype)), case["rev_output"].flatten(1), 1e-5)


def test_training_of_the_factor_flow(recording) -> None:
    for case in recording("iin/flow_factor.pt")["cases"]:
        trace = case["trace"]
        flow = factor_flow(trace["state_before_init"], case)
        system = FactorFlow(Codes(), flow, case["output_sizes"], case["rho"]).train()

        def batch(step: int, trace: dict = trace, system: FactorFlow = system) -> Pairs:
            mask = shared(trace["factors"][step], len(system.factors))
            return Pairs(trace["z1"][step], trace["z2"][step], mask)

        def parts(z: Tensor, logdet: Tensor, loss: Tensor) -> list[Tensor]:
            first = nll(z.chunk(2)[0], logdet.chunk(2)[0])
            return [first, loss - first]

        replay(system, trace, batch, parts)
        for mine, theirs in zip(flow.parameters(), compat.flow(case["state_dict"]).parameters(), strict=True):
            close(mine, theirs, 5e-3)


def shared(ids: Tensor, factors: int) -> Tensor:
    """The original's signed factor ids as our mask: -k means that all factors are shared but k."""
    ids, k = ids[:, None], torch.arange(factors)
    return (ids == k) | ((ids < 0) & (ids != -k))


def test_pair_loss(recording) -> None:
    for case in recording("iin/loss_factor.pt")["factor"]:
        first = [s.flatten(1).requires_grad_() for s in case["sample1"]]
        second = [s.flatten(1).requires_grad_() for s in case["sample2"]]
        logdets = [case[f"logdet{i}"].clone().requires_grad_() for i in (1, 2)]
        shares = shared(case["factors"], len(case["dims"]))
        assert torch.equal(shares, case["mask"])
        mask = factor_mask(shares, torch.tensor(case["dims"]))
        rho = [case["rho"]] if case["rho_in_config"] else []  # the default is the original's
        loss = pair_nll(torch.cat(first, 1), logdets[0], torch.cat(second, 1), logdets[1], mask, *rho)
        close(loss, case["scalars"]["loss"], 1e-5)
        loss1 = nll(torch.cat(first, 1), logdets[0])
        close(loss1, case["scalars"]["loss1"], 1e-5)
        close(loss - loss1, case["scalars"]["loss2"], 1e-5)
        loss.backward()
        for samples, name in ((first, "grad_sample1"), (second, "grad_sample2")):
            for mine, theirs in zip(samples, case[name], strict=True):
                close(mine.grad, theirs.flatten(1), 1e-5)
        for mine, name in zip(logdets, ("grad_logdet1", "grad_logdet2"), strict=True):
            close(mine.grad, case[name], 1e-5)


def test_plain_loss(recording) -> None:
    case = recording("iin/loss_factor.pt")["plain"]
    z, logdet = case["sample"].flatten(1).requires_grad_(), case["logdet"].clone().requires_grad_()
    loss = nll(z, logdet)
    close(loss, case["scalars"]["loss"], 1e-5)
    close(nll(z, torch.zeros_like(logdet)), case["scalars"]["nll_loss"], 1e-5)
    close(nll(torch.zeros_like(z), logdet), case["scalars"]["nlogdet_loss"], 1e-5)
    close(nll(case["reference_noise"].flatten(1), torch.zeros(5)), case["scalars"]["reference_nll_loss"], 1e-5)
    loss.backward()
    close(z.grad, case["grad_sample"].flatten(1), 1e-5)
    close(logdet.grad, case["grad_logdet"], 1e-5)


@pytest.mark.filterwarnings("ignore:ActNorm")  # one recorded channel is constant
def test_actnorm_initialisation(recording) -> None:
    for case in recording("iin/actnorm_init.pt")["cases"]:
        x = case["input"]
        vectors = x.flatten(1) if x.ndim == 2 or x.shape[2:] == (1, 1) else x
        norm, layer = ActNorm(x.shape[1]), ActNormLayer(x.shape[1])
        for name, value in case["before"].items():
            close(getattr(norm, name).flatten(), value.flatten(), 1e-6)
        z, logdet = norm(vectors)
        close(norm.loc, case["after"]["loc"].flatten(), 1e-6)
        close(norm.scale, case["after"]["scale"].flatten(), 1e-6)
        assert norm.initialized == case["after"]["initialized"]
        close(z.flatten(), case["output"].flatten(), 1e-6)
        again = case["input2"].reshape(case["input2"].shape[:1] + vectors.shape[1:])
        z2, logdet2 = norm(again)
        close(z2.flatten(), case["output2"].flatten(), 1e-6)
        if isinstance(case["logdet"], Tensor):
            close(logdet, case["logdet"], 1e-6)
            close(logdet2, case["logdet2"], 1e-6)
        close(norm.inverse(z2).flatten(), case["reverse2"].flatten(), 1e-6)
        assert torch.equal(layer.train()(vectors), z) and torch.equal(layer(again), z2)


def test_posterior(recording) -> None:
    for case in recording("iin/distribution.pt")["cases"]:
        parameters = case["parameters"].requires_grad_()
        mine, other = (Gaussian(*values.chunk(2, 1)) for values in (parameters, case["other_parameters"]))
        for name in ("mean", "logvar", "std", "var"):
            close(getattr(mine, name), case[name], 1e-5)
        close(mine.mean, case["mode"], 1e-5)
        close(mine.mean + mine.std * case["eps"], case["sample"], 1e-5)
        close(mine.kl(), case["kl"], 1e-5)
        close(mine.kl(other), case["kl_other"], 1e-5)
        close(mine.nll(case["x"]), case["nll"], 1e-5)
        mine.kl().sum().backward()
        close(parameters.grad, case["grad_kl_sum"], 1e-5)


def test_deterministic_posterior_of_each_example(recording) -> None:
    """The original answers one zero, whatever the batch; ours is a zero for each example."""
    for case in recording("iin/distribution.pt")["cases"]:
        theirs, count = case["deterministic"], len(case["x"])
        sure = Gaussian(*case["parameters"].chunk(2, 1), deterministic=True)
        other = Gaussian(*case["other_parameters"].chunk(2, 1))
        for name in ("std", "var", "logvar"):
            close(getattr(sure, name), theirs[name], 1e-5)
        close(sure.sample(), theirs["sample"], 1e-5)
        close(sure.mean, theirs["mode"], 1e-5)
        for mine, name in ((sure.kl(), "kl"), (sure.kl(other), "kl_other"), (sure.nll(case["x"]), "nll")):
            close(mine, theirs[name].expand(count), 1e-5)


def build_autoencoder(r: dict, case: dict) -> Autoencoder:
    state = original.recipe(case["keys"], r["recipe_params"])
    return compat.autoencoder(state, deterministic=case["config"]["Model"]["deterministic"])


def test_autoencoder(recording) -> None:
    r = recording("iin/ae.pt")
    for case in r["cases"]:
        model = build_autoencoder(r, case)
        config = case["config"]["Model"]
        assert (model.channels, model.size, model.dim) == (config["in_channels"], config["in_size"], config["z_dim"])
        assert model.norm == {"an": "actnorm", "bn": "batch", "in": "instance"}[config["norm"]]
        maps: list[Tensor] = []
        with torch.no_grad():
            close(model.encoder(case["input"]), case["parameters"], 1e-4)
            for k, layer in enumerate(model.encoder[:-1]):
                maps.append(layer(maps[-1] if k else case["input"]))
            seen = [[float(m.mean()), float(m.std())] for m in maps[2::3]]  # behind each activation
            close(seen, case["feature_mean_std"], 1e-4)
            posterior = model.encode(case["input"])
            close(posterior.mean, case["mean"].flatten(1), 1e-4)
            close(posterior.logvar, case["logvar"].flatten(1), 1e-4)
            close(model.decode(posterior.mean), case["decoded_mean"], 1e-4)
            close(model.decode(case["z"].flatten(1)), case["decoded_z"], 1e-4)
            single = model.decode(case["z"].flatten(1))
            model.double()
            posterior = model.encode(case["input"].double())
            close(posterior.mean, case["mean_f64"].flatten(1), 1e-10)
            close(posterior.logvar, case["logvar_f64"].flatten(1), 1e-10)
            apart = (model.decode(case["z"].flatten(1).double()) - single).abs().max()
            assert apart < 5 * case["decoded_z_maxdiff_f64"] + 1e-6


def test_autoencoder_in_training_mode(recording) -> None:
    r = recording("iin/ae.pt")
    cases = [case for case in r["cases"] if "train_mode_mean" in case]
    assert {case["config"]["Model"]["norm"] for case in cases} == {"bn", "in"}
    for case in cases:
        posterior = build_autoencoder(r, case).train().encode(case["input"])
        close(posterior.mean, case["train_mode_mean"].flatten(1), 1e-4)
        close(posterior.logvar, case["train_mode_logvar"].flatten(1), 1e-4)


def test_autoencoder_initialises_from_its_first_batch(recording) -> None:
    """In training mode; the original does so in any."""
    r = recording("iin/ae.pt")
    cases = [case for case in r["cases"] if "data_init" in case]
    assert cases
    for case in cases:
        state = original.recipe(case["keys"], r["recipe_params"])
        for key in state:
            if key.endswith(("loc", "scale", "initialized")):
                state[key] = torch.full_like(state[key], float(key.endswith("scale")))
        model, theirs = compat.autoencoder(state), case["data_init"]
        with torch.no_grad():
            posterior = model.train().encode(case["input"])
            close(posterior.mean, theirs["mean"].flatten(1), 1e-4)
            close(posterior.logvar, theirs["logvar"].flatten(1), 1e-4)
            close(model.decode(posterior.mean), theirs["decoded_mean"], 1e-4)
        after = compat.autoencoder({**state, **theirs["norm_state"]}).state_dict()
        for key, value in model.state_dict().items():
            close(value, after[key], 1e-4)
            assert value if key.endswith("initialized") else True


def test_deterministic_autoencoder(recording) -> None:
    r = recording("iin/ae.pt")
    case = r["deterministic"]
    model = build_autoencoder(r, case)
    assert model.deterministic
    posterior = model.encode(case["input"])
    close(posterior.mean, case["mean"].flatten(1), 1e-4)
    close(posterior.std, case["std"].flatten(1), 1e-4)
    close(posterior.sample(), case["sample"].flatten(1), 1e-4)
    close(posterior.kl(), case["kl"].expand(2), 1e-4)


def test_classifier(recording) -> None:
    r = recording("iin/clf.pt")
    model = compat.classifier(original.recipe(r["keys"], r["recipe_params"]))
    assert (model.dim, model.classes) == (r["config"]["Model"]["z_dim"], r["config"]["n_classes"])
    with torch.no_grad():
        close(model.code(r["input"]), r["encoding"].flatten(1), 1e-4)
        close(model.encode(r["input"]).sample(), r["encoding"].flatten(1), 1e-4)
        close(model(r["input"]), r["logits"], 1e-4)
        (objective,) = Classifier(model).objectives(Images(r["input"], r["labels"]), 0)
    close(objective.loss, r["loss"], 1e-4)
    close(objective.scalars["accuracy"], r["accuracy"], 1e-4)
