"""Generators by lists of modules, the networks beside them, and systems that learn with variation predictability."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fabricate
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import iin
from iin.cli import train as training
from iin.config import ConfigError, Training, check, load
from iin.data import CelebA, Images, Sprites
from iin.losses import (
    class_loss,
    gradient_penalty,
    information_loss,
    logistic_loss,
    nonsaturating_loss,
    variation_loss,
)
from iin.models import CodeDiscriminator, ConvVAE, ModuleGenerator, PairRecogniser, ResidualDiscriminator
from iin.models.equalised import EqualConv2d, EqualLinear, ModulatedConv2d, bent, smoothed
from iin.models.residual import group_deviation
from iin.systems import VAE, VariationGAN, VariationVAE, variation_vae
from iin.train import _step, make_optimizers

SMALL = ("D_global-3", "Conv-up-1", "C_global-2", "Noise-1", "C_nocond_global-2", "Conv-id-1")
"""Modules of a generator of 8x8 pixels: codes of three classes and four continuous numbers."""


def generator(modules: tuple[str, ...] = SMALL, **settings: Any) -> ModuleGenerator:
    return ModuleGenerator(modules, 1, 8, width=8, least=2, styled=4, **settings)


def gan(objective: str = "vp", modules: tuple[str, ...] = SMALL, classes: int = 0, **settings: Any) -> VariationGAN:
    made = generator(modules)
    others: dict[str, nn.Module | None] = {
        "vp": PairRecogniser(1, 8, made.dim, width=16),
        "infogan": ResidualDiscriminator(1, 8, made.dim + made.continuous, width=16),
        "gan": None,
    }
    judge = ResidualDiscriminator(1, 8, width=16, classes=classes)
    return VariationGAN(made, judge, others[objective], objective, **settings)  # type: ignore[arg-type]


def batch(count: int = 8) -> Images:
    return Images(torch.rand(count, 1, 8, 8) * 2 - 1, torch.zeros(count))


def moved(system: nn.Module, before: dict[str, Tensor], part: str) -> bool:
    return any(
        not torch.equal(value, before[name]) for name, value in system.state_dict().items() if name.startswith(part)
    )


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_map_is_smoothed_by_the_outer_product() -> None:
    impulse = torch.zeros(1, 2, 7, 7)
    impulse[0, 1, 3, 3] = 64.0
    taps = torch.tensor([1.0, 3, 3, 1])
    made = smoothed(impulse, padding=2)  # [1, 2, 8, 8]
    torch.testing.assert_close(made[0, 1, 2:6, 2:6], taps[:, None] * taps)
    assert not made[0, 0].any() and made.sum() == 64
    torch.testing.assert_close(smoothed(impulse, padding=1, stride=2), smoothed(impulse, padding=1)[..., ::2, ::2])


def test_enlarging_is_zeros_between_pixels_a_kernel_and_smoothing() -> None:
    layer, x = EqualConv2d(2, 3, resample="up", bias=False, bend=False), torch.randn(1, 2, 4, 4)
    between = torch.zeros(1, 2, 8, 8)
    between[..., ::2, ::2] = x
    weight = layer.weight / 18**0.5
    expected = smoothed(F.conv2d(F.pad(between, (2, 1, 2, 1)), weight), padding=1, gain=4.0)
    assert layer(x).shape == (1, 3, 8, 8)
    torch.testing.assert_close(layer(x), expected)
    flat = layer(torch.ones(1, 2, 8, 8))[..., 3:-3, 3:-3]  # a flat map stays flat within
    torch.testing.assert_close(flat, flat[..., :1, :1].expand_as(flat), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_reducing_halves(kernel: Any) -> None:
    layer, x = EqualConv2d(2, 3, kernel, "down"), torch.randn(2, 2, 8, 8)
    whole = F.conv2d(smoothed(x, 1 if kernel == 1 else 2), layer.weight / (2 * kernel**2) ** 0.5)
    torch.testing.assert_close(layer(x), bent(whole[..., ::2, ::2]))


def test_only_kernels_of_3_enlarge() -> None:
    with pytest.raises(ValueError, match="kernels of 3, found 1"):
        EqualConv2d(2, 2, 1, "up")


def test_a_modulated_convolution_is_one_with_its_own_kernel_for_each_image() -> None:
    layer, x, style = ModulatedConv2d(3, 5, 2), torch.randn(4, 3, 6, 6), torch.randn(4, 2)
    with torch.no_grad():
        layer.modulation.bias.normal_()
        layer.bias.normal_()
    made = layer(x, style)
    for image, numbers, answer in zip(x, style, made, strict=True):
        strength = layer.modulation.weight @ numbers / 2**0.5 + layer.modulation.bias + 1
        kernel = layer.weight / 27**0.5 * strength[:, None, None]
        kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected = bent(F.conv2d(image[None], kernel, padding=1) + layer.bias[:, None, None])
        torch.testing.assert_close(answer[None], expected, atol=1e-5, rtol=1e-4)


def test_layers_keep_the_scale_of_what_goes_through() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 256)
    for _ in range(4):
        x = EqualLinear(256, 256, bend=True)(x)
    assert 0.6 < x.square().mean() < 1.6


def test_deviation_is_of_groups() -> None:
    x = torch.randn(8, 3, 2, 2)
    made = group_deviation(x)
    assert made.shape == (8, 4, 2, 2) and torch.equal(made[:, :3], x)
    for first in range(2):  # members of a group of 4 lie 8 / 4 apart
        members = x[first::2]
        expected = (members.var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(made[first::2, 3], expected.expand(4, 2, 2))
    # Batches that 4 does not divide are divided into the largest groups that there can be.
    torch.testing.assert_close(
        group_deviation(x[:6])[0, 3, 0, 0], (x[[0, 2, 4]].var(0, correction=0) + 1e-8).sqrt().mean()
    )
    assert group_deviation(x[:1])[0, 3].max() < 1e-3
    with pytest.raises(ValueError, match="group_deviation: expected at least 1 image, found none"):
        group_deviation(x[:0])


# --- networks ---------------------------------------------------------------------------------------------------------


def test_numbers_of_the_code_go_where_the_list_says() -> None:
    model = generator().eval()
    assert (model.discrete, model.continuous, model.dim) == (3, 4, 7)
    z = torch.cat([torch.eye(3), torch.randn(3, 4)], 1)
    assert model(z).shape == (3, 1, 8, 8)
    for place in range(7):  # each number does something
        other = z.clone()
        other[:, place] += 1
        assert (model(other) - model(z)).flatten(1).abs().amax(1).min() > 1e-5, place
    hidden = model.layers[2]
    assert hidden.gate is not None and not hasattr(model.layers[4], "gate")
    torch.testing.assert_close(
        hidden(torch.ones(3, 7, 8, 8), z[:, 3:5], z[:, :3]),
        hidden.convolution(torch.ones(3, 7, 8, 8), z[:, 3:5] * hidden.gate(z[:, :3]).sigmoid()),
    )


def test_noise_is_drawn_in_training_and_constant_in_evaluation() -> None:
    model = generator()
    z = torch.randn(2, 7)
    assert torch.equal(model(z), model(z))  # its strength is 0 to begin with
    with torch.no_grad():
        model.layers[3][0].strength.fill_(1.0)
    assert not torch.equal(model(z), model(z))
    model.eval()
    assert torch.equal(model(z), model(z)) and "layers.3.0.constant" in model.state_dict()


def test_counts_repeat_layers() -> None:
    model = ModuleGenerator(["C_global-2", "Conv-up-2", "Conv-id-3"], 3, 16, width=8)
    assert [len(layer) for layer in list(model.layers)[1:]] == [2, 3] and model(torch.zeros(1, 2)).shape[-1] == 16


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        (
            ["Conv-up-1", "C_global-3", "Conv-up-1"],
            r"2 times Conv-up and reaches 16x16 pixels, not 8x8; expected 1 time",
        ),
        (["C_global-3"], r"0 times Conv-up and reaches 4x4 pixels, not 8x8"),
        (["Conv_up-1", "C_global-3"], r"'Conv_up-1': no module is called 'Conv_up'; did you mean Conv-up"),
        (["Conv-up-1", "c_global-3"], r"no module is called 'c_global'; did you mean C_global or"),
        (["Conv-up-1", "Dense-3"], r"no module is called 'Dense'"),
        (["Conv-up", "C_global-3"], r"'Conv-up' has no number; expected Conv-up-1"),
        (["Conv-up-1", "C_global"], r"'C_global' has no number"),
        (["Conv-up-0", "C_global-3"], r"expected a number from 1 to 4096 behind Conv-up-, found '0'"),
        (["Conv-up-x", "C_global-3"], r"expected a number from 1 to 4096 behind Conv-up-, found 'x'"),
        (["Conv-up-1", "Noise--1"], r"'Noise--1': expected a number from 1 to 4096 behind Noise-, found '-1'"),
        (
            ["Conv-up-1", "C_global-" + "9" * 5000],
            r"expected a number from 1 to 4096 behind C_global-, found '9{20}...'",
        ),
        (["Conv-up-4096", "C_global-3"], r"reaches 4\*2\^4096x4\*2\^4096 pixels, not 8x8; expected 1 time"),
        (7, r"expected a list of names such as Conv-up-1, found 7"),
        (["Conv-up-1"], r"takes continuous numbers of the code; add C_global-n"),
        (["D_global-2", "Conv-up-1", "C_global-1", "D_global-2"], r"several D_global"),
        ("[Conv-up-1, C_global-3]", r"expected a list of names"),
        ([], r"reaches 4x4"),
    ],
)
def test_lists_that_make_no_generator(modules: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ModuleGenerator(modules, 1, 8)


def test_a_size_that_no_list_reaches() -> None:
    with pytest.raises(ValueError, match="sizes are 4 times a power of 2"):
        ModuleGenerator(["Conv-up-1", "C_global-3"], 1, 12)
    with pytest.raises(ValueError, match="not 0x0; sizes are 4 times a power of 2"):
        ModuleGenerator(["Conv-up-1", "C_global-3"], 1, 0)
    for size in (4, 12):
        with pytest.raises(ValueError, match=f"a power of 2 of at least 8, found {size}"):
            ResidualDiscriminator(1, size)
        with pytest.raises(
            ValueError, match=f"PairRecogniser: size: expected a power of 2 of at least 8, found {size}"
        ):
            PairRecogniser(1, size)


def test_channels_that_become_fewer_at_once() -> None:
    model = ModuleGenerator(["Conv-up-1", "C_global-2", "Conv-id-2"], 1, 8, 64, decay=1e4, least=3, styled=4)
    assert model.widths == [(64, 8), (4, 8), (3, 8)]


def test_codes_and_images_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"expected codes \[B, 7\] \(3 of a class, 4 continuous\), found \[2, 4\]"):
        generator()(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"ResidualDiscriminator: expected images of shape \[B, 1, 8, 8\]"):
        ResidualDiscriminator(1, 8, width=16)(torch.zeros(2, 1, 16, 16))
    with pytest.raises(ValueError, match=r"PairRecogniser: expected images of shape \[B, 1, 8, 8\]"):
        PairRecogniser(1, 8, 3, width=16)(torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="tells no classes"):
        ResidualDiscriminator(1, 8, width=16).class_logits(torch.zeros(2, 1, 8, 8))


def test_a_recogniser_sees_both_images_or_their_difference() -> None:
    first, second = torch.randn(2, 4, 1, 8, 8)
    both, difference = (PairRecogniser(1, 8, 3, mode, width=16) for mode in ("concat", "diff"))  # type: ignore[arg-type]
    assert both(first, second).shape == difference(first, second).shape == (4, 3)
    torch.testing.assert_close(difference(first + 1, second + 1), difference(first, second), atol=1e-4, rtol=1e-4)
    assert (both(first + 1, second + 1) - both(first, second)).abs().max() > 1e-2


# --- losses -----------------------------------------------------------------------------------------------------------


def test_adversarial_losses_are_those_of_the_logistic_game() -> None:
    real, fake = torch.randn(2, 6, 1)
    torch.testing.assert_close(nonsaturating_loss(fake), -fake.sigmoid().log().mean())
    torch.testing.assert_close(logistic_loss(real, fake), -(real.sigmoid().log() + (1 - fake.sigmoid()).log()).mean())


def test_the_penalty_of_a_linear_judge_is_its_weights_norm() -> None:
    judge = nn.Linear(12, 1)
    image = torch.randn(5, 3, 2, 2, requires_grad=True)
    found = gradient_penalty(judge(image.flatten(1)), image)
    torch.testing.assert_close(found, judge.weight.square().sum())
    found.backward()
    torch.testing.assert_close(judge.weight.grad, 2 * judge.weight.detach())


def test_losses_of_codes() -> None:
    logits, changed = torch.randn(6, 4), torch.randint(4, (6,))
    torch.testing.assert_close(variation_loss(logits, changed), F.cross_entropy(logits, changed, reduction="none"))
    label = F.one_hot(changed, 4).float()
    torch.testing.assert_close(class_loss(logits, label), F.cross_entropy(logits, changed, reduction="none"))
    value, mean, logvar = torch.randn(3, 6, 2)
    of_class, of_values = information_loss(torch.cat([mean, logvar], 1), value)
    density = torch.distributions.Normal(mean, (0.5 * logvar).exp()).log_prob(value).sum(1)
    torch.testing.assert_close(of_values, -density)
    assert not of_class.any()


def test_a_deviation_of_nothing_has_a_gradient() -> None:
    answer = torch.tensor([[0.0, -300.0], [1.0, 1.0]], requires_grad=True)
    _, loss = information_loss(answer, torch.zeros(2, 1))
    loss.sum().backward()
    assert loss.isfinite().all() and answer.grad is not None and answer.grad.isfinite().all()


# --- the GAN ----------------------------------------------------------------------------------------------------------

LOGGED = {
    "vp": {"g", "vp", "accuracy"},
    "infogan": {"g", "info", "class"},
    "gan": {"g"},
}


@pytest.mark.parametrize("objective", LOGGED)
def test_both_players_learn_in_turn(objective: str) -> None:
    system, data = gan(objective).train(), batch()
    optimizers = make_optimizers(system, Training())
    before = copy.deepcopy(system.state_dict())
    seen: list[tuple[str, set[str]]] = []
    for name, loss, scalars in system.objectives(data, 0):
        seen.append((name, set(scalars)))
        assert loss.ndim == 0 and not any(value.requires_grad for value in scalars.values())
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()
        # The other player has no gradient and does not move.
        assert moved(system, before, name + ".")
        if len(seen) == 1:
            assert not moved(system, before, "discriminator.") and not moved(system, before, "average.")
            assert objective == "gan" or moved(system, before, "recogniser.")
            assert all(p.grad is None for p in system.discriminator.parameters())
            assert all(p.grad is not None for p in system.trainable()["generator"])
            halfway = copy.deepcopy(system.state_dict())
        elif len(seen) == 2:
            assert not moved(system, halfway, "generator.") and not moved(system, halfway, "recogniser.")
    judged = {"d", "real", "fake", "r1"}
    assert seen == [("generator", LOGGED[objective]), ("discriminator", judged), ("discriminator", {"loss", "r1"})]
    assert moved(system, before, "average.")
    assert [name for name, *_ in system.objectives(data, 1)] == ["generator", "discriminator"]  # the penalty is lazy


def test_the_loss_is_the_sum_of_its_parts() -> None:
    system = gan(weight=0.5)
    _, loss, scalars = next(system.objectives(batch(), 0))
    torch.testing.assert_close(loss.detach(), scalars["g"] + 0.5 * scalars["vp"])
    system = gan("infogan", weight=0.5, class_weight=2.0)
    _, loss, scalars = next(system.objectives(batch(), 0))
    torch.testing.assert_close(loss.detach(), scalars["g"] + 0.5 * scalars["info"] + 2 * scalars["class"])


def test_the_penalty_counts_as_often_as_it_is_left_out() -> None:
    system, data = gan(gamma=4.0, lazy=3), batch()
    image = data.image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(system.discriminator(image).sum(), image)
    expected = gradient.square().flatten(1).sum(1).mean()
    *_, (_, loss, scalars) = system.objectives(data, 3)
    torch.testing.assert_close(scalars["r1"], expected)
    torch.testing.assert_close(loss.detach(), 3 * 4 / 2 * expected)
    loss.backward()
    assert all(p.grad is not None for p in system.trainable()["discriminator"])
    # What is logged stays the last one that was computed, also after a resumption.
    *_, (_, loss, scalars) = system.objectives(data, 4)
    torch.testing.assert_close(scalars["r1"], expected)
    torch.testing.assert_close(system.state_dict()["r1"], expected)
    assert len(list(gan(gamma=0).objectives(data, 0))) == 2


def test_rates_are_those_of_lazy_penalties() -> None:
    system = gan()
    assert system.lr_factors() == {"generator": 4 / 5, "discriminator": 16 / 17}
    assert system.betas() == {"generator": (0.0, 0.99 ** (4 / 5)), "discriminator": (0.0, 0.99 ** (16 / 17))}
    assert gan(gamma=0).lr_factors()["discriminator"] == 1
    named = [id(p) for parameters in system.trainable().values() for p in parameters]
    kept = {id(p) for p in system.average.parameters()}
    assert len(named) == len(set(named)) and not kept & set(named)
    assert {id(p) for p in system.parameters()} == set(named) | kept


def test_the_average_follows_by_images() -> None:
    system = gan(half_life=8.0)  # one batch
    before = [p.clone() for p in system.average.parameters()]
    steps = system.objectives(batch(8), 1)
    next(steps)
    with torch.no_grad():
        for p in system.generator.parameters():
            p.add_(1.0)
    next(steps)
    for kept, old in zip(system.average.parameters(), before, strict=True):
        torch.testing.assert_close(kept, old + 0.5)
    z = system.latents(2)
    torch.testing.assert_close(system.decode(z), system.average(z).clamp(-1, 1))
    assert not system.train().average.training


@pytest.mark.parametrize("latent", ["uniform", "normal", "truncated"])
def test_codes_are_drawn_as_asked(latent: Any) -> None:
    system = gan(latent=latent)
    z = system.latents(4000, torch.Generator().manual_seed(0))
    assert z.shape == (4000, 7) and torch.equal(z, system.latents(4000, torch.Generator().manual_seed(0)))
    assert torch.equal(z[:, :3].sum(1), torch.ones(4000)) and z[:, :3].sum(0).min() > 1200
    value = z[:, 3:]
    assert value.mean().abs() < 0.05
    deviation = {"uniform": 4 / 12**0.5, "normal": 1.0, "truncated": 0.8796}[latent]
    assert abs(value.std() - deviation) < 0.02
    assert (value.abs().max() > 3) if latent == "normal" else (1.98 < value.abs().max() <= 2)


def test_one_number_changes_by_a_random_step() -> None:
    system = gan()
    z = system.latents(2000)
    other, changed = system.varied(z, 0)
    difference = (other - z)[:, 3:]
    assert not other[:, :3].any()  # as published: no class at all
    assert torch.equal(difference.abs().argmax(1), changed) and torch.equal((difference != 0).sum(1), torch.ones(2000))
    sizes = difference.gather(1, changed[:, None])
    assert abs(sizes.std() - 6) < 0.4 and sizes.mean().abs() < 0.5 and other[:, 3:].abs().max() > 4
    assert changed.bincount(minlength=4).min() > 400
    other, changed = gan(random_epsilon=False, epsilon=0.5).varied(z, 0)
    torch.testing.assert_close((other - z)[:, 3:], 0.5 * F.one_hot(changed, 4).float())


def test_all_numbers_change_by_bounded_steps() -> None:
    system = gan(variation="fulldim", epsilon=0.5)
    z = system.latents(500)
    other, share = system.varied(z, 0)
    torch.testing.assert_close((other - z)[:, 3:], (share - 0.5) * 0.5)
    assert share.shape == (500, 4) and 0 <= share.min() < 0.02 and 0.98 < share.max() <= 1
    _, loss, scalars = next(system.objectives(batch(), 0))
    assert set(scalars) == {"g", "vp"}
    torch.testing.assert_close(loss.detach(), scalars["g"] + 0.01 * scalars["vp"])


def test_a_cascade_reaches_one_number_after_another() -> None:
    system = gan(cascading=True)
    assert [system.reached(step) for step in (0, 24_999, 25_000, 50_000, 99_999, 100_000)] == [2, 2, 3, 4, 4, 2]
    z = system.latents(300)
    assert set(system.varied(z, 0)[1].tolist()) == {0, 1} and set(system.varied(z, 25_000)[1].tolist()) == {0, 1, 2}
    assert gan().reached(0) == 4


def test_the_discriminator_may_tell_classes() -> None:
    system, data = gan(classes=3, class_weight=2.0), batch()
    objectives = system.objectives(data, 1)
    _, loss, scalars = next(objectives)
    torch.testing.assert_close(loss.detach(), scalars["g"] + 0.01 * scalars["vp"] + 2 * scalars["class"])
    _, loss, scalars = next(objectives)
    torch.testing.assert_close(loss.detach(), scalars["d"] + 2 * scalars["class"])
    loss.backward()
    assert all(p.grad is not None for p in system.discriminator.head.parameters())


def test_without_classes() -> None:
    system = gan(modules=("Conv-up-1", "C_global-3"))
    assert (system.dim, system.discrete, system.latents(5).shape) == (3, 0, (5, 3))
    pictures = system.eval().images(batch())
    assert set(pictures) == {"inputs", "samples", "fixed_samples", "traversals"}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"objective": "gan"}, "recogniser: a plain GAN has none"),
        ({"recogniser": None}, "recogniser: vp needs one, such as iin.models.PairRecogniser"),
        ({"recogniser": None, "objective": "infogan"}, "infogan needs one, such as iin.models.ResidualDiscriminator"),
        ({"cascading": True, "variation": "fulldim"}, "cascading: chooses the number that changes"),
        (
            {"recogniser": PairRecogniser(1, 8, 4, width=16)},
            r"recogniser: answers 4 numbers; expected outputs: 7 .*3 classes and 4",
        ),
        (
            {"objective": "infogan", "recogniser": ResidualDiscriminator(1, 8, 7, width=16)},
            r"recogniser: answers 7 numbers; expected outputs: 11",
        ),
        (
            {"recogniser": PairRecogniser(3, 8, 7, width=16)},
            "recogniser: looks at images of channels 3, but the generator makes 1",
        ),
        (
            {"discriminator": ResidualDiscriminator(1, 16, width=16)},
            "discriminator: looks at images of size 16, but .* makes 8",
        ),
        (
            {"discriminator": ResidualDiscriminator(1, 8, 2, width=16)},
            "discriminator: answers 2 numbers; expected outputs: 1",
        ),
        (
            {"objective": "infogan"},
            "recogniser: infogan shows it one image, which PairRecogniser does not take; expected .*ResidualDisc",
        ),
        (
            {"recogniser": ResidualDiscriminator(1, 8, 7, width=16)},
            "recogniser: vp shows it both images of a pair, which ResidualDiscriminator does not take",
        ),
        (
            {
                "generator": generator(("Conv-up-1", "C_global-1")),
                "recogniser": PairRecogniser(1, 8, 1, width=16),
            },
            "generator: takes 1 continuous number, .* nothing to tell; expected at least 2",
        ),
        ({"discriminator": ResidualDiscriminator(1, 8, width=16, classes=2)}, "tells 2 classes; expected classes: 3"),
    ],
)
def test_parts_that_do_not_fit(parts: dict[str, Any], words: str) -> None:
    fitting = {"discriminator": ResidualDiscriminator(1, 8, width=16), "recogniser": PairRecogniser(1, 8, 7, width=16)}
    with pytest.raises(ValueError, match=words):
        VariationGAN(**{"generator": generator(), **fitting, **parts})


def test_pictures_show_every_number_and_every_class() -> None:
    system = gan().eval()
    with torch.no_grad():
        pictures, again = system.images(batch()), system.images(batch())
    assert {name: picture.images.shape[:2] for name, picture in pictures.items() if picture.images.ndim == 5} == {
        "traversals": (4, 9),
        "classes": (8, 3),
    }
    for name in ("fixed_samples", "traversals", "classes"):
        assert torch.equal(pictures[name].images, again[name].images)
    assert not torch.equal(pictures["samples"].images, again["samples"].images)
    rows = pictures["traversals"].images
    assert not torch.equal(rows[0, 0], rows[0, 8]) and not torch.equal(rows[0, 0], rows[1, 0])
    assert rows.abs().max() <= 1
    loop = pictures["traversals"].loop
    assert loop is not None and loop.labels == ("class", *pictures["traversals"].labels)
    assert loop.images.shape[:2] == (5, 17) and loop.ends == ("-2", "2")


@pytest.mark.parametrize(("latent", "bounds"), [("uniform", (-2, 2)), ("truncated", (-2, 2)), ("normal", None)])
def test_bounds_are_those_of_the_codes_drawn(latent: Any, bounds: tuple[float, float] | None) -> None:
    system = gan(latent=latent)
    drawn = system.latents(2000, torch.Generator().manual_seed(0))[:, system.discrete :]
    assert system.bounds == bounds and (drawn.abs().max() > 2) == (bounds is None)


def test_metrics_measure_it() -> None:
    system = gan().eval()
    measure = iin.metrics.VariationPredictability(count=60, runs=1, epochs=1)
    figures = measure(system, [batch()])
    assert 0 <= figures["vp/published"] <= 1


# --- the autoencoder --------------------------------------------------------------------------------------------------


def vae(weight: float = 10.0, **settings: Any) -> VariationVAE:
    torch.manual_seed(1)
    model = ConvVAE(1, 8, 3, (4,), 3, 2, (8,), (8, 32), 4, ())
    return VariationVAE(model, PairRecogniser(1, 8, 3, width=16), weight, **settings)


def test_the_term_is_added_to_any_regulariser() -> None:
    for kind in ("vae", "betavae", "factorvae"):
        judge = CodeDiscriminator(3, 8, 2) if kind == "factorvae" else None
        system = vae(regulariser=kind, discriminator=judge)
        plain = VAE(system.model, kind, discriminator=judge)  # type: ignore[arg-type]
        data = batch()
        torch.manual_seed(3)
        (name, loss, scalars), *others = system.objectives(data, 0)
        torch.manual_seed(3)
        expected = next(plain.objectives(data, 0))
        torch.testing.assert_close(loss.detach(), expected.loss.detach() + 10 * scalars["vp"])
        assert set(scalars) == {*expected.scalars, "vp", "accuracy"} and name == "vae"
        assert [other[0] for other in others] == ["discriminator"] * (judge is not None)


def test_the_term_reaches_decoder_and_recogniser_but_not_the_encoder() -> None:
    system = vae()
    seen = system.look(batch().image)
    _, scalars = system.penalty(seen, 0)
    scalars["vp"].backward()
    model = system.model
    assert all(p.grad is not None for p in system.recogniser.parameters())
    assert all(p.grad is not None for part in (model.decoder, model.decoder_dense) for p in part.parameters())
    assert all(p.grad is None for part in (model.encoder, model.mean, model.logvar) for p in part.parameters())
    assert {id(p) for p in system.trainable()["vae"]} == {id(p) for p in system.parameters()}


@pytest.mark.parametrize("kind", ["betavae", "factorvae"])
def test_without_weight_it_is_the_plain_autoencoder_to_the_bit(kind: Any) -> None:
    """So a comparison has the same beginning and the same draws on both sides; a discriminator's are drawn last."""
    data, settings = batch(), Training(lr=1e-3)
    judge = CodeDiscriminator(3, 8, 2) if kind == "factorvae" else None
    system = vae(0.0, beta=2.0, regulariser=kind, discriminator=judge)
    plain = VAE(copy.deepcopy(system.model), kind, beta=2.0, discriminator=copy.deepcopy(judge))
    before = copy.deepcopy(system.state_dict())
    told = []
    for each in (system, plain):
        optimizers = make_optimizers(each, settings)
        for step in range(3):
            torch.manual_seed(step)
            told.append(_step(each, data, step, optimizers, 1e-3, None))
    for ours, theirs in zip(told[:3], told[3:], strict=True):
        assert {name: float(ours[name]) for name in theirs} == {name: float(value) for name, value in theirs.items()}
    theirs = plain.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in system.state_dict().items() if key in theirs)
    assert moved(system, before, "recogniser.")
    added = set(told[0]) - set(told[3])
    assert {name.rpartition("/")[2] for name in added} == {"vp", "accuracy"}


def test_pairs_differ_in_one_number() -> None:
    z = torch.randn(600, 3) + 5
    first, second, changed = vae(source="posterior").pairs(z)
    assert torch.equal(first, z) and torch.equal((second != first).sum(1), torch.ones(600))
    told = [vae(source="posterior").pairs(z, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert all(torch.equal(*parts) for parts in zip(*told[:2], strict=True)) and not torch.equal(told[0][1], told[2][1])
    assert torch.equal((second - first).abs().argmax(1), changed) and changed.bincount().min() > 150
    drawn = second.gather(1, changed[:, None])
    assert drawn.mean().abs() < 0.2 and abs(drawn.std() - 1) < 0.15  # from the prior, wherever the code is
    assert vae().source == "prior"
    first, second, changed = vae(source="prior", change="step", epsilon=0.5).pairs(z)
    assert first.mean().abs() < 0.2
    assert abs((second - first).gather(1, changed[:, None]).std() - 0.5) < 0.06


def test_each_process_makes_other_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    system, made = vae(), []
    pairs = system.pairs
    monkeypatch.setattr(system, "pairs", lambda *given: made.append(pairs(*given)) or made[-1])
    for rank in (0, 0, 1):
        monkeypatch.setattr(variation_vae, "rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        next(system.objectives(batch(), 0))
    first, again, other = (part[1] for part in made)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_recogniser_of_another_size() -> None:
    model = ConvVAE(1, 8, 3, (4,), 3, 2, (8,), (8, 32), 4, ())
    for recogniser, words in (
        (PairRecogniser(1, 8, 4, width=16), "outputs 4, but the model's is 3"),
        (PairRecogniser(3, 8, 3, width=16), "channels 3, but the model's is 1"),
        (PairRecogniser(1, 16, 3, width=16), "size 16, but the model's is 8"),
    ):
        with pytest.raises(ValueError, match=words):
            VariationVAE(model, recogniser)
    alone = ConvVAE(1, 8, 1, (4,), 3, 2, (8,), (8, 32), 4, ())
    with pytest.raises(ValueError, match="model: has 1 latent; expected at least 2"):
        VariationVAE(alone, PairRecogniser(1, 8, 1, width=16))


# --- data -------------------------------------------------------------------------------------------------------------


def test_faces_are_cut_as_for_generators(tmp_path: Path) -> None:
    root = fabricate.celeba(tmp_path, n=10)
    data = CelebA("train", root=root, size=128, crop="face", dequantise=False, cache=False)
    picture = np.asarray(Image.open(root / "celeba" / "img_align_celeba" / "000003.jpg"))[57:185, 25:153]
    found = (data[[2]].image[0].numpy() + 1) * 127.5
    np.testing.assert_allclose(found, picture.transpose(2, 0, 1), atol=1e-3)
    assert data.fingerprint != CelebA("train", root=root, size=128, dequantise=False, cache=False).fingerprint
    with pytest.raises(ValueError, match="crop: expected middle or face, found 'nose'"):
        CelebA("train", root=root, crop="nose")  # type: ignore[arg-type]


def test_a_face_that_does_not_hold_the_square_is_named(tmp_path: Path) -> None:
    root = fabricate.celeba(tmp_path, n=10)
    Image.new("RGB", (178, 170)).save(root / "celeba" / "img_align_celeba" / "000001.jpg")
    with pytest.raises(ValueError, match=r"000001.jpg: 178x170 pixels do not hold a square of 128 around"):
        CelebA("train", root=root, size=128, crop="face")


# --- published weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_stylegan2_are_refused_in_one_line(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The networks in it would be made by code that is in it; none is run."""
    module = types.ModuleType("dnnlib.tflib.network")
    ran: list[int] = []
    network = type("Network", (), {"__module__": module.__name__, "__setstate__": lambda self, state: ran.append(1)})
    module.Network = network  # type: ignore[attr-defined]
    for name in ("dnnlib", "dnnlib.tflib"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    one = network()
    one.source = "def G_main(): ..."
    path = tmp_path / "network-snapshot-010000.pkl"
    path.write_bytes(pickle.dumps((one, one, one), protocol))
    with pytest.raises(iin.compat.CompatError, match=r"network-snapshot-010000.pkl: a pickle of StyleGAN2's") as told:
        iin.compat.load(path)
    assert "\n" not in str(told.value) and "celeba_vpgan" in str(told.value) and not ran
    first = f"system.params.first_stage={{target: iin.first_stage.pretrained, params: {{checkpoint: {path}}}}}"
    assert training.main(["-b", "mnist_iin", first, "--logs", str(tmp_path / "logs")]) == 2
    said = capsys.readouterr().err
    assert "a pickle of StyleGAN2's networks" in said and "Traceback" not in said and not ran


# --- runs -------------------------------------------------------------------------------------------------------------

VARIATION = ["celeba_vpgan", "dsprites_vpgan", "mnist_vpgan", "shapes3d_vpgan", "sprites_vpvae"]


@pytest.mark.parametrize("name", VARIATION)
def test_a_configuration_has_parts_that_fit(name: str) -> None:
    for quick in (False, True):
        config = load([name], quick=quick)
        check(config)
        params = config.tree["system"]["params"]
        if "generator" in params:
            made = params["generator"]["params"]
            with torch.device("meta"):
                model = ModuleGenerator(**made)
            assert params["recogniser"]["params"]["outputs"] == model.dim
            assert params["weight"] == 0.01 and (quick or params["gamma"] == 100)
            assert config.tree["train"]["lr"] == 2e-3 and (quick or config.tree["train"]["batch_size"] == 32)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("generator.params.size=64", "reaches 32x32 pixels, not 64x64; expected 4 times"),
        ("generator.params.modules=[Conv-upp-1, C_global-3]", "no module is called 'Conv-upp'; did you mean Conv-up"),
        ("objective=gan", "recogniser: a plain GAN has none"),
        ("discriminator.params.size=33", "a power of 2 of at least 8, found 33"),
        ("recogniser.params.size=33", "recogniser.params.size: expected a power of 2 of at least 8, found 33"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(told: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(load(["mnist_vpgan"], [f"system.params.{told}"]))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.chdir(tmp_path)
    sizes = {"generator": "width=16 styled=8", "discriminator": "width=32", "recogniser": "width=32"}
    told = [f"system.params.{part}.params.{one}" for part, some in sizes.items() for one in some.split()]
    yield [
        "-b", "mnist_vpgan", "--quick", *told, "evaluate=none", "train.best=null", "train.log_every=1",
        "train.device=cpu", "--logs", "logs",
    ]  # fmt: skip


def trained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Path:
    assert training.main(arguments) == 0
    return Path(capsys.readouterr().out.splitlines()[-1].removeprefix("Run folder: "))


@pytest.mark.slow
def test_a_generator_of_digits_trains_resumes_and_draws(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    whole = trained([*small, "train.steps=40"], capsys)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    values = [value for line in lines for value in line.values() if isinstance(value, float)]
    assert len([line for line in lines if line["split"] == "train"]) == 40 and np.isfinite(values).all()
    halves = trained([*small, "train.steps=21"], capsys)  # between two penalties
    assert trained(["-r", str(halves), "train.steps=40"], capsys) == halves
    one, other = (iin.load(run).system for run in (whole, halves))
    assert isinstance(one, VariationGAN)
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
    last = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (whole, halves)]
    assert last[0] == last[1]
    with torch.no_grad():
        samples = one.sample(64, torch.Generator().manual_seed(0))
    assert samples.std(0).mean() > 0.05  # they are not all the same


@pytest.mark.slow
def test_an_autoencoder_of_sprites_learns_to_show_its_numbers() -> None:
    torch.manual_seed(0)
    data = Sprites(size=32)
    layout = {"encoder": (8, 16, 16), "encoder_dense": (64,), "decoder_dense": (64, 256), "decoder": (16, 8)}
    model = ConvVAE(1, 32, 6, padding="same", **layout)  # type: ignore[arg-type]
    system = VariationVAE(model, PairRecogniser(1, 32, 6, width=64), source="posterior", beta=1.0).train()
    optimizers = make_optimizers(system, Training(lr=2e-3, betas=(0.9, 0.999)))
    told = []
    for step in range(150):
        torch.manual_seed(step)
        rows = torch.randint(len(data), (32,)).tolist()
        told.append(_step(system, data[rows], step, optimizers, 2e-3, None))
    first, last = (np.mean([float(line["vp"]) for line in part]) for part in (told[:10], told[-10:]))
    assert last < first - 0.3 and np.isfinite([float(line["loss"]) for line in told]).all()
    assert float(told[-1]["nll"]) < 0.7 * float(told[0]["nll"])
