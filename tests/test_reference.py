"""Outputs recorded from the original CVPR 2020 implementation are ours too."""

from __future__ import annotations

import original
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from iin import compat
from iin.data import Pairs
from iin.flows import ActNorm
from iin.losses import factor_mask, nll, pair_nll
from iin.models import Autoencoder, Gaussian
from iin.models.norm import ActNormLayer
from iin.systems import FactorFlow


def close(mine: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Relative to value + 0.1, as the recordings' description asks."""
    mine, theirs = mine.detach().double(), torch.as_tensor(theirs).detach().double()
    assert mine.shape == theirs.shape
    error = ((mine - theirs).abs() / (theirs.abs() + 0.1)).max() if mine.numel() else torch.zeros(())
    assert error < tolerance, float(error)


def test_vector_flow(recording) -> None:
    r = recording("iin/flow_vector.pt")
    for suffix, dtype in (("", torch.float32), ("_f64", torch.float64)):
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in r["state_dict"].items()}
        flow = compat.flow(state)
        z, logdet = flow(r["input"].flatten(1).to(dtype))
        close(z, r["output" + suffix].flatten(1), 1e-5)
        close(logdet, r["logdet" + suffix], 1e-5)
        close(flow.inverse(z), r["reverse_of_output" + suffix].flatten(1), 1e-5)
        close(flow.inverse(r["rev_input"].flatten(1).to(dtype)), r["rev_output" + suffix].flatten(1), 1e-5)


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


def replay(flow: torch.nn.Module, trace: dict, step_loss) -> None:
    """Train as the recording did, and meet its losses on the way."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=trace["lr"], betas=(0.5, 0.9), fused=True)
    for step, (expected, *_) in enumerate(trace["per_step"]):
        loss = step_loss(step)
        close(loss, expected, 1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_training_of_the_vector_flow(recording) -> None:
    r = recording("iin/flow_vector.pt")
    trace = r["trace"]
    flow = compat.flow(trace["state_before_init"]).train()
    replay(flow, trace, lambda step: nll(*flow(trace["batches"][step].flatten(1))))
    for mine, theirs in zip(flow.parameters(), compat.flow(r["state_dict"]).parameters(), strict=True):
        close(mine, theirs, 5e-3)


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


def test_factor_flow(recording) -> None:
    for case in recording("iin/flow_factor.pt")["cases"]:
        flow = compat.flow(case["state_dict"])
        z, logdet = flow(case["input"].flatten(1))
        for mine, theirs in zip(z.split(case["output_sizes"], 1), case["outputs"], strict=True):
            close(mine, theirs.flatten(1), 1e-5)
        close(logdet, case["logdet"], 1e-5)
        close(flow.inverse(flat(case["outputs"])), case["reverse_of_outputs"].flatten(1), 1e-5)
        close(flow.inverse(flat(case["rev_inputs"])), case["rev_output"].flatten(1), 1e-5)


class Codes(torch.nn.Module):
    """A first stage whose images are codes already."""

    def encode(self, image: Tensor) -> Gaussian:
        return Gaussian(image.flatten(1), torch.zeros_like(image.flatten(1)), deterministic=True)


def test_training_of_the_factor_flow(recording) -> None:
    for case in recording("iin/flow_factor.pt")["cases"]:
        trace = case["trace"]
        flow = compat.flow(trace["state_before_init"]).train()
        system = FactorFlow(Codes(), flow, case["output_sizes"], case["rho"])

        def step_loss(step: int, system: FactorFlow = system, trace: dict = trace) -> Tensor:
            mask = shared(trace["factors"][step], len(system.factors))
            pair = Pairs(trace["z1"][step], trace["z2"][step], mask)
            return next(system.objectives(pair, step)).loss

        replay(flow, trace, step_loss)
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
        mask = factor_mask(case["mask"], torch.tensor(case["dims"]))
        loss = pair_nll(torch.cat(first, 1), logdets[0], torch.cat(second, 1), logdets[1], mask, case["rho"])
        close(loss, case["scalars"]["loss"], 1e-5)
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
    close(nll(case["reference_noise"].flatten(1), torch.zeros(5)), case["scalars"]["reference_nll_loss"], 1e-5)
    loss.backward()
    close(z.grad, case["grad_sample"].flatten(1), 1e-5)
    close(logdet.grad, case["grad_logdet"], 1e-5)


@pytest.mark.filterwarnings("ignore:ActNorm")  # one recorded channel is constant
def test_actnorm_initialisation(recording) -> None:
    for case in recording("iin/actnorm_init.pt")["cases"]:
        x = case["input"]
        vectors = x.flatten(1) if x.ndim == 2 or x.shape[2:] == (1, 1) else x
        norm = ActNorm(x.shape[1])
        z, logdet = norm(vectors)
        close(norm.loc, case["after"]["loc"].flatten(), 1e-6)
        close(norm.scale, case["after"]["scale"].flatten(), 1e-6)
        close(z.flatten(), case["output"].flatten(), 1e-5)
        again = case["input2"].reshape(case["input2"].shape[:1] + vectors.shape[1:])
        z2, logdet2 = norm(again)
        close(z2.flatten(), case["output2"].flatten(), 1e-5)
        if isinstance(case["logdet"], Tensor):
            close(logdet, case["logdet"], 1e-6)
            close(logdet2, case["logdet2"], 1e-6)
        close(norm.inverse(z2), again, 1e-5)
        assert torch.equal(ActNormLayer(x.shape[1]).train()(vectors).flatten(), z.flatten())


def test_posterior(recording) -> None:
    for case in recording("iin/distribution.pt")["cases"]:
        mine = Gaussian(*case["parameters"].chunk(2, 1))
        for name in ("mean", "logvar", "std", "var"):
            close(getattr(mine, name), case[name], 1e-5)
        close(mine.mean + mine.std * case["eps"], case["sample"], 1e-5)
        close(mine.kl(), case["kl"], 1e-5)
        close(mine.kl(Gaussian(*case["other_parameters"].chunk(2, 1))), case["kl_other"], 1e-5)
        close(mine.nll(case["x"]), case["nll"], 1e-5)
        sure = Gaussian(*case["parameters"].chunk(2, 1), deterministic=True)
        assert torch.equal(sure.sample(), sure.mean) and not sure.kl().any() and not sure.nll(case["x"]).any()


def build_autoencoder(r: dict, case: dict) -> Autoencoder:
    state = original.recipe(case["keys"], r["recipe_params"])
    return compat.autoencoder(state, deterministic=case["config"]["Model"]["deterministic"])


def test_autoencoder(recording) -> None:
    r = recording("iin/ae.pt")
    for case in r["cases"]:
        model = build_autoencoder(r, case).eval()
        with torch.no_grad():
            posterior = model.encode(case["input"])
            close(posterior.mean, case["mean"].flatten(1), 1e-4)
            close(posterior.logvar, case["logvar"].flatten(1), 1e-4)
            close(model.decode(posterior.mean), case["decoded_mean"], 1e-4)
            close(model.decode(case["z"].flatten(1)), case["decoded_z"], 1e-4)
            if "train_mode_mean" in case:
                close(model.train().encode(case["input"]).mean, case["train_mode_mean"].flatten(1), 1e-4)


def test_autoencoder_initialises_from_its_first_batch(recording) -> None:
    r = recording("iin/ae.pt")
    case = r["cases"][0]
    model = build_autoencoder(r, case)
    for module in model.modules():
        if isinstance(module, ActNormLayer):
            module.initialized.fill_(False)
    with torch.no_grad():
        posterior = model.train().encode(case["input"])
        close(posterior.mean, case["data_init"]["mean"].flatten(1), 1e-4)
        close(model.decode(posterior.mean), case["data_init"]["decoded_mean"], 1e-4)


def test_deterministic_autoencoder(recording) -> None:
    r = recording("iin/ae.pt")
    case = r["deterministic"]
    posterior = build_autoencoder(r, case).eval().encode(case["input"])
    close(posterior.mean, case["mean"].flatten(1), 1e-4)
    assert torch.equal(posterior.sample(), posterior.mean) and not posterior.kl().any()


def test_classifier(recording) -> None:
    r = recording("iin/clf.pt")
    model = compat.classifier(original.recipe(r["keys"], r["recipe_params"]))
    with torch.no_grad():
        close(model.code(r["input"]), r["encoding"].flatten(1), 1e-4)
        logits = model(r["input"])
    close(logits, r["logits"], 1e-4)
    close(F.binary_cross_entropy_with_logits(logits, F.one_hot(r["labels"], 10).float()), r["loss"], 1e-4)
