"""Training of the autoencoder: what was recorded from the original CVPR 2020 implementation is ours too."""

from __future__ import annotations

from typing import Any

import original
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iin import compat
from iin.config import Training
from iin.data import Images
from iin.flows import ActNorm
from iin.models import Gaussian, PatchDiscriminator
from iin.systems import Autoencoder
from iin.train import _step, make_optimizers, schedule


def close(mine: Any, theirs: Any, tolerance: float, what: str = "") -> None:
    """Relative to value + 0.1, as the recordings' description asks."""
    mine, theirs = (torch.as_tensor(value, dtype=torch.float64).detach() for value in (mine, theirs))
    assert mine.shape == theirs.shape
    error = ((mine - theirs).abs() / (theirs.abs() + 0.1)).max()
    assert error < tolerance, f"{what}: {float(error)}"


def discriminator(keys: list, constants: dict, config: dict) -> PatchDiscriminator:
    """The discriminator of a recording, with its weights by recipe; their names are ours."""
    made = PatchDiscriminator(
        config["disc_in_channels"],
        layers=config.get("disc_num_layers", 3),
        spectral_norm=config.get("spectral_norm", False),
    )
    state = original.recipe(keys, {**constants, "gain": 1.0})
    for name, value in state.items():
        if name.endswith(("weight_u", "weight_v")):
            state[name] = value / value.norm()
    made.load_state_dict(state)  # strict
    return made.train()


def build(model: nn.Module, judge: nn.Module, config: dict) -> Autoencoder:
    """Our system with the settings of a recording."""
    return Autoencoder(
        model,
        reconstruction=config.get("pixelloss", "l1"),
        kl_weight=config.get("kl_weight", 1.0),
        logvar_init=config["logvar_init"],
        perceptual_weight=config["perceptual_weight"],
        discriminator=judge,
        disc_start=config["disc_start"],
        disc_factor=config.get("disc_factor", 1.0),
        discriminator_weight=config.get("discriminator_weight", 1.0),
        calibrate=config["calibrate"],
        d_lr_factor=config.get("d_lr_factor", 1.0),
    ).train()


NAMES = {
    "loss": "autoencoder/loss",
    "logvar": "autoencoder/logvar",
    "kl_loss": "autoencoder/kl",
    "nll_loss": "autoencoder/nll",
    "rec_loss": "autoencoder/rec",
    "calibration": "autoencoder/calibration",
    "g_loss": "autoencoder/g",
    "logits_real": "autoencoder/real",
    "logits_fake": "autoencoder/fake",
    "d_weight": "autoencoder/d_weight",
    "d_loss": "discriminator/loss",
    "lr": "lr",
    "d_lr": "discriminator/lr",
}
"""What is logged, by its recorded name."""


class Recorded(nn.Module):
    """Reconstructions and posterior of a recording, as a model."""

    dim = 5

    def __init__(self, r: dict) -> None:
        super().__init__()
        self.h = r["h"].clone().requires_grad_()
        self.last_layer = nn.Parameter(r["last_layer"].clone())
        self.posterior = nn.Parameter(r["posterior_parameters"].clone())

    def encode(self, image: Tensor) -> Gaussian:
        return Gaussian(*self.posterior.flatten(1).chunk(2, 1))

    def decode(self, code: Tensor) -> Tensor:
        return torch.tanh(F.conv_transpose2d(self.h, self.last_layer, stride=2, padding=1))


CASES = (
    "plain_before",
    "plain_at_start",
    "calibrate_before",
    "calibrate_after",
    "weights",
    "calibrate_weights",
    "spectral",
    "layers2",
    "perceptual",
)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients(recording, name: str) -> None:
    r = recording("iin/loss_ae.pt")
    found = [case for case in r["cases"] if case["name"] == name]
    if not found:
        pytest.skip(f"this recording has no case {name}")
    check_losses_and_gradients(r, found[0])


def test_no_recorded_case_is_left_out(recording) -> None:
    r = recording("iin/loss_ae.pt")
    for case in r["cases"]:
        if case["name"] not in CASES:
            check_losses_and_gradients(r, case)


def check_losses_and_gradients(r: dict, case: dict) -> None:
    config = case["config"]
    lr = config["base_learning_rate"] * config["batch_size"]
    judge = discriminator(case["disc_keys"], r["recipe_params"], config["Loss"])
    model = Recorded(r)
    system = build(model, judge, config["Loss"])
    if config["Loss"]["perceptual_weight"]:
        system.perceptual = lambda image, other: r["perceptual_values"]  # as in the recording
    before = {key: value.detach().clone() for key, value in judge.named_parameters()}
    optimizers = make_optimizers(system, Training(lr=lr))
    # Its first step is made without the factor, which is why the system's own is not asked.
    system.lr_factors = lambda: {"discriminator": case["d_lr_used_first_step"] / lr}  # type: ignore[method-assign]
    logged = _step(system, Images(r["inputs"], torch.zeros(2)), case["global_step"], optimizers, lr, None)
    del system.lr_factors

    scalars = dict(case["scalars"])
    close(logged["discriminator/lr"], scalars.pop("d_lr_00"), 1e-6)
    for key, value in scalars.items():
        close(float(logged[NAMES[key]]), value, 1e-4, key)
    later = schedule(case["global_step"] + 1, lr, config["decay_start"], config["num_steps"])  # of the next step
    close(later * system.lr_factors()["discriminator"] / lr, case["d_lr_after"] / lr, 1e-6)

    close(model.last_layer.grad, case["grad_last_layer"], 1e-3, "last layer")
    close(model.posterior.grad, case["grad_posterior_parameters"], 1e-3, "posterior")
    close(system.logvar.grad, case["grad_logvar"], 1e-3, "logvar")
    close(model.h.grad.norm(), case["grad_h_norm"], 1e-3, "h")

    parameters = dict(judge.named_parameters())
    assert {key for key, _ in case["disc_grad_norms"]} == parameters.keys()
    for key, value in case["disc_grad_norms"]:
        assert abs(float(parameters[key].grad.norm()) - value) <= 1e-3 * (value + 1e-4), key
    for key, value in case["disc_update_norms"]:  # sizes of the learning rate, too small for the 0.1
        assert abs(float((parameters[key] - before[key]).detach().norm()) - value) <= 2e-3 * value, key
    for key, value in case["disc_running_after_forward"].items():
        close(judge.get_buffer(key), value, 1e-4, key)


@pytest.mark.parametrize("suffix", ["", pytest.param("_f64", marks=pytest.mark.slow)])
def test_training(recording, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the two updates is the one called clean: all gradients at the weights before the step.

    The other, called legacy, sends the autoencoder's gradient through a discriminator that has been updated already.
    """
    r = recording("iin/ae_train_trace.pt")
    config, dtype = r["config"], torch.float64 if suffix else torch.float32
    state = original.recipe(r["keys"], r["recipe_params"])
    model = compat.autoencoder(state, deterministic=config["Model"]["deterministic"])
    for module in model.modules():
        if isinstance(module, ActNorm):  # data-dependent initialisation is part of the recording
            nn.init.zeros_(module.loc)
            nn.init.ones_(module.scale)
            module.initialized.fill_(False)
    judge = discriminator(r["disc_keys"], {**r["recipe_params"], "gain": r["disc_gain"]}, config["Loss"])
    system = build(model, judge, config["Loss"]).to(dtype)
    optimizers = make_optimizers(system, Training(lr=config["learning_rate"]))
    noise = iter(r["eps"].flatten(2).to(dtype))
    monkeypatch.setattr(torch, "randn_like", lambda mean: next(noise))
    clean = r["clean"]
    for step, expected in enumerate(clean["per_step" + suffix]):
        row = dict(zip(r["columns"], expected, strict=True))
        batch = Images(r["images"][step].to(dtype), torch.zeros(len(r["images"][step])))
        lr = schedule(step, config["learning_rate"], config["decay_start"], config["num_steps"])
        close(lr / row["lr"], 1.0, 1e-6, f"step {step}, lr")  # too small for the 0.1
        close(lr * system.lr_factors()["discriminator"] / row["d_lr"], 1.0, 1e-6, f"step {step}, d_lr")
        logged = _step(system, batch, step, optimizers, lr, None)
        tolerance = 1e-4 if step < 3 else 10 * clean["max_rel_diff_f32_f64_per_step"][step]
        if suffix:
            tolerance = 1e-6  # nothing is left but the order of sums
        for key, value in row.items():
            close(float(logged[NAMES[key]]), value, tolerance, f"step {step}, {key}")
        legacy = dict(zip(r["columns"], r["legacy"]["per_step" + suffix][step], strict=True))
        if step > config["Loss"]["disc_start"]:  # until then the two are the same
            assert abs(float(logged["discriminator/loss"]) - legacy["d_loss"]) > 1e-3
    close(model.last_layer, clean["last_layer_after"].to(dtype), 5e-3)
    close(system.logvar, clean["logvar_after"], 1e-4)
