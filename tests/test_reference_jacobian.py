"""What was recorded from the original JL1-VAE code, and from the study that it is compared in, is ours too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REFERENCE
from torch import Tensor, nn

from iin import compat
from iin.config import Training
from iin.data import Images
from iin.losses import (
    annealed,
    bernoulli_nll,
    covariance,
    covariance_penalty,
    decoder_jacobian,
    density_ratio,
    density_ratio_loss,
    jacobian_norm,
    total_correlation,
)
from iin.models import ConvVAE, Gaussian
from iin.models import gaussian as drawing
from iin.systems import VAE, JacobianVAE
from iin.systems.vae import Seen
from iin.train import _step, make_optimizers

CASES = ("small_k3", "small_k3_float32", "small_k4_rgb", "small_odd", "tiny16_recipe", "defaultConv_recipe")


def close(mine: Any, theirs: Any, tolerance: float) -> None:
    mine, theirs = (torch.as_tensor(value, dtype=torch.float64).detach() for value in (mine, theirs))
    torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


def weights(case: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those that are recorded, or those of the recipe."""
    if "state_dict" in case:
        return {name: case["state_dict"][name] for name in case["state_dict_order"]}
    made = {}
    for i, name, shape in case["recipe_order"]:
        wave = torch.sin(torch.arange(int(np.prod(shape)), dtype=torch.float64) * 0.7 * (i + 1))
        scale = (3 / (wave.numel() / shape[0])) ** 0.5 if len(shape) > 1 else 0.1
        made[name] = (wave * scale * case["recipe_amp"]).reshape(shape)
    return made


class Case:
    """A recording, our network with its weights, and how closely they must agree."""

    def __init__(self, recorded: Mapping[str, Any]) -> None:
        self.recorded = recorded
        self.model = compat.conv_vae(weights(recorded), recorded["arch"])
        self.image = 2 * recorded["x"] - 1
        double = recorded["dtype"] == "torch.float64"
        self.tolerance = 1e-7 if double else 1e-4
        self.entry = 1e-7 if double else 2e-4  # a single precision's noise in an entry of the Jacobian
        self.z = recorded["z"]

    def probabilities(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.model.logits(z))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, recording: Any) -> Case:
    return Case(recording("jlonevae/jacobian_l1.pt")[request.param])


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let codes have recorded noise."""

    def use(eps: Tensor) -> None:
        monkeypatch.setattr(drawing, "noise_like", lambda like: eps.to(like.dtype))

    return use


def test_codes_and_images(case: Case, noise: Any) -> None:
    r = case.recorded
    noise(r["eps"])
    posterior = case.model.encode(case.image)
    close(posterior.mean, r["mu"], 1e-6)
    close(posterior.logvar, r["logvar"], 1e-6)
    close(posterior.sample(), r["z"], 1e-6)
    close(case.probabilities(r["z"]), r["recon"], 1e-6)
    close((case.model.decode(r["z"]) + 1) / 2, r["recon"], 1e-6)


def test_jacobian(case: Case) -> None:
    r = case.recorded
    found = decoder_jacobian(case.probabilities, case.z)
    close(found, r["jacobian_fd"], case.entry)
    close(decoder_jacobian(case.probabilities, r["mu"][:1]), r["jacobian_fd_at_mu_first"], case.entry)
    if "jacobian_fd_image_sum" in r:
        close(found.sum(2, keepdim=True), r["jacobian_fd_image_sum"], 10 * case.entry)


def test_the_exact_jacobian(case: Case) -> None:
    r = case.recorded
    case.model.double()  # the recording is of double precision, whatever the network's is
    exact = decoder_jacobian(case.probabilities, r["z"][:1].double(), "forward")
    close(exact, r["jacobian_exact_first"], 1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_norms_and_their_gradients(case: Case, p: Any) -> None:
    r = case.recorded
    case.model.requires_grad_(True)
    norm = jacobian_norm(case.probabilities, case.z, p)
    close(norm / r[f"l{p}"], 1.0, 1e-7 if case.tolerance < 1e-5 else 1e-4)
    norm.backward()
    theirs = {"decoder_dense": "gen_fcs", "decoder": "gen_convs"}
    found = {}
    for name, parameter in case.model.named_parameters():
        if parameter.grad is not None:
            part, rest = name.split(".", 1)
            found[f"{theirs[part]}.{rest}"] = parameter.grad.norm()
    assert sorted(found) == sorted(r["params_with_jacobian_grad"])
    for name, value in r[f"l{p}_grad_l2norms"].items():
        close(found[name] / value, 1.0, 1e-6 if case.tolerance < 1e-5 else 2e-3)


def test_a_finer_difference_comes_nearer_to_the_exact_norm(case: Case) -> None:
    """They differ where a ReLU turns within the step, which a finer one meets less often."""
    case.model.double().requires_grad_(False)
    for p in (1, 2):
        exact = jacobian_norm(case.probabilities, case.z.double(), p, "forward")
        coarse, fine = (jacobian_norm(case.probabilities, case.z.double(), p, step=step) for step in (1e-3, 1e-7))
        close(coarse / exact, 1.0, 0.05)
        close(fine / exact, 1.0, 1e-6)


def test_terms_of_the_objective(case: Case, noise: Any) -> None:
    r = case.recorded
    noise(r["eps"])
    system = JacobianVAE(case.model, beta=r["beta"], gamma=0.0)
    (objective,) = system.objectives(Images(case.image, torch.zeros(len(case.image))), 0)
    close(objective.loss / r["loss"], 1.0, 1e-7)
    for mine, theirs in {"nll": "nll", "kl": "kld", "mu_div": "mu_div", "var_div": "var_div"}.items():
        close(objective.scalars[mine] / r[theirs], 1.0, 1e-6)
    close(bernoulli_nll(r["recon"], r["x"], logits=False) / r["nll"], 1.0, 1e-7)


@pytest.mark.parametrize(("name", "p"), [("train_jlone", 1), ("train_jltwo", 2)])
def test_seven_steps_of_training(recording: Any, noise: Any, name: str, p: Any) -> None:
    r = recording("jlonevae/jacobian_l1.pt")[name]
    model = compat.conv_vae(r["init_state_dict"], r["arch"])
    system = JacobianVAE(model, r["beta"], r["gamma"], annealing=r["annealing_batches"], p=p).train()
    optimizers = make_optimizers(system, Training(lr=r["lr"], betas=(0.9, 0.999)))
    names = {"loss": "ELBO/train", "nll": "NLL/train", "kl": "KLD/train", "mu_div": "MuDiv/train"}
    names |= {"var_div": "VarDiv/train", "jacobian": "ICALoss/train", "beta": "beta", "gamma": "gamma"}
    for step, (x, eps) in enumerate(zip(r["batches"], r["eps"], strict=True)):
        noise(eps)
        terms = _step(system, Images(2 * x - 1, torch.zeros(len(x))), step, optimizers, r["lr"], None)
        for mine, theirs in names.items():
            close(terms[mine], r["logs"][theirs][step], 1e-6)
    final = compat.conv_vae(r["final_state_dict"], r["arch"])
    for mine, theirs in zip(model.parameters(), final.parameters(), strict=True):
        close(mine, theirs.detach(), 1e-6)


def test_noise_begins_small(recording: Any) -> None:
    """The recorded biases are those of torch's generator at 0, where the original asks it in another order."""
    theirs = recording("jlonevae/jacobian_l1.pt")["init_fclogvar_bias_seed0"]
    bias = ConvVAE().logvar.bias
    bound = 256**-0.5
    for found in (theirs, bias):
        assert (found + 3).abs().max() <= bound and found.std() > 0.01


# --- the study's regularisers -----------------------------------------------------------------------------------------


@pytest.fixture
def study() -> dict[str, Any]:
    path = REFERENCE / "jlonevae" / "baseline_losses.npz"
    if not path.is_file():
        pytest.skip("no recording jlonevae/baseline_losses.npz: set IIN_REFERENCE to the folder of recorded outputs")
    stored = np.load(path)
    made: dict[str, Any] = {}
    for name in stored.files:
        made[name] = torch.from_numpy(stored[name]) if stored[name].dtype.kind in "fi" else stored[name]
    return made


class Judge(nn.Module):
    """A discriminator that answers what it is told."""

    dim = 10

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, z: Tensor) -> Tensor:
        return self.logits


def added(study: Mapping[str, Any], step: int = 0, **settings: Any) -> Tensor:
    """What a system adds to the likelihood of the recorded codes, relative to value."""
    posterior = Gaussian(study["z_mean"].double(), study["z_logvar"].double())
    system = VAE(ConvVAE(dim=10), **settings)
    seen = Seen(posterior, study["z"].double(), torch.zeros(()), posterior.kl().mean(), {})
    return system.penalty(seen, step)[0]


STUDY = {
    "kl": {"regulariser": "vae"},
    "reg_beta_vae_1": {"regulariser": "betavae", "beta": 1.0},
    "reg_beta_vae_4": {"regulariser": "betavae"},
    "reg_beta_vae_16": {"regulariser": "betavae", "beta": 16.0},
    "reg_dip_i_1": {"regulariser": "dipvae1", "lambda_od": 1.0},
    "reg_dip_i_5": {"regulariser": "dipvae1"},
    "reg_dip_i_50": {"regulariser": "dipvae1", "lambda_od": 50.0},
    "reg_dip_ii_1": {"regulariser": "dipvae2", "lambda_od": 1.0},
    "reg_dip_ii_5": {"regulariser": "dipvae2"},
    "reg_dip_ii_50": {"regulariser": "dipvae2", "lambda_od": 50.0},
    "reg_beta_tc_1": {"regulariser": "betatcvae", "beta": 1.0},
    "reg_beta_tc_4": {"regulariser": "betatcvae"},
    "reg_beta_tc_10": {"regulariser": "betatcvae", "beta": 10.0},
}


@pytest.mark.parametrize("name", STUDY)
def test_regularisers(name: str, study: dict[str, Any]) -> None:
    close(added(study, **STUDY[name]) / study[name], 1.0, 1e-6)


def test_annealed_capacity(study: dict[str, Any]) -> None:
    for k, step in enumerate(study["anneal_steps"].tolist()):
        close(annealed(25.0, step, 100000), study["anneal_c25"][k], 1e-6)
        expected = study["reg_annealed_c25_gamma1000"][k]
        close(added(study, step, regulariser="annealedvae") / expected, 1.0, 1e-5)


def test_covariance_and_total_correlation(study: dict[str, Any]) -> None:
    mean, logvar = study["z_mean"].double(), study["z_logvar"].double()
    close(covariance(mean), study["cov_z_mean"], 1e-6)
    close(total_correlation(study["z"].double(), mean, logvar), study["total_correlation"], 1e-5)
    assert covariance_penalty(torch.eye(3), 5.0, 5.0) == 0


def test_bernoulli_likelihood(study: dict[str, Any]) -> None:
    logits, x = study["recon_logits"].double(), study["x"].double()
    each = torch.stack([bernoulli_nll(a[None], b[None]) for a, b in zip(logits, x, strict=True)])
    close(each / study["recon_bernoulli_per_sample"], torch.ones(len(x)), 1e-6)
    close(bernoulli_nll(logits, x) / study["recon_bernoulli_per_sample"].mean(), 1.0, 1e-6)
    close(bernoulli_nll(logits.sigmoid(), x, logits=False), bernoulli_nll(logits, x), 1e-6)


def test_discriminator_of_codes(study: dict[str, Any]) -> None:
    logits, of_permuted = study["fv_logits"].double(), study["fv_logits_shuffled"].double()
    close(density_ratio(logits), study["fv_tc"], 1e-6)
    close(-density_ratio_loss(logits, of_permuted), study["fv_discriminator_objective"], 1e-6)
    found = added(study, regulariser="factorvae", discriminator=Judge(logits))
    close(found, study["kl"] + 30 * study["fv_tc"], 1e-5)
