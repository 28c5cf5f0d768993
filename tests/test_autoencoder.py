"""Training of the first stage: its losses, both players, the discriminator and the perceptual distances."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor, nn

from iin import losses
from iin.config import ConfigError, Training, check, load
from iin.data import MNIST, Images
from iin.models import Autoencoder as Model
from iin.models import Gaussian, PatchDiscriminator, perceptual
from iin.models.discriminator import SpectralConv2d
from iin.models.perceptual import DigitDistance, VGGDistance
from iin.plan import plan
from iin.systems import Autoencoder
from iin.train import _step, make_optimizers, schedule


def images(count: int = 4, channels: int = 1, size: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


def batch(**shape: int) -> Images:
    image = images(**shape)
    return Images(image, torch.zeros(len(image)))


def model(channels: int = 1, size: int = 16) -> Model:
    return Model(channels, size, dim=6, n_down=2, width=4)


def critic(channels: int = 1, **options: Any) -> PatchDiscriminator:
    return PatchDiscriminator(channels, width=4, layers=2, **options)


# --- losses ------------------------------------------------------------------------------------------------------


def test_reconstruction_terms_are_densities_up_to_constants() -> None:
    image, made, logvar = images(3), images(3, seed=1), torch.tensor(0.4)
    laplace = -torch.distributions.Laplace(made, logvar.exp()).log_prob(image).flatten(1).sum(1).mean()
    mine = losses.reconstruction_nll(losses.pixel_error(image, made, "l1"), logvar)
    assert torch.isclose(mine, laplace - 256 * math.log(2))
    # exp(logvar) is twice the variance of a normal, and a value counts it twice as much as its density does.
    normal = torch.distributions.Normal(made, (logvar.exp() / 2).sqrt())
    expected = -normal.log_prob(image).flatten(1).sum(1).mean() - 256 * (0.5 * math.log(math.pi) - 0.5 * logvar)
    assert torch.isclose(losses.reconstruction_nll(losses.pixel_error(image, made, "l2"), logvar), expected)


def test_adversarial_losses_in_closed_form() -> None:
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [-3.0]])
    probability = torch.sigmoid
    entropy = -probability(real).log().mean() - (1 - probability(fake)).log().mean()
    assert torch.isclose(losses.discriminator_loss(real, fake), entropy / 2)
    assert math.isclose(losses.discriminator_loss(torch.zeros(2, 1), torch.zeros(2, 1)), math.log(2), rel_tol=1e-6)
    assert losses.generator_loss(fake) == 1.25
    assert losses.discriminator_loss(torch.tensor([1e4]), torch.tensor([-1e4])) == 0  # and no overflow on the way
    assert losses.discriminator_loss(torch.tensor([-1e4]), torch.tensor([1e4])) == 1e4


def test_adaptive_weight() -> None:
    strong, weak = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.5])
    assert torch.isclose(losses.adaptive_weight(strong, weak), torch.tensor(5 / 0.5001))
    assert losses.adaptive_weight(strong, torch.zeros(2)) == 1e4  # 5e4, clamped
    assert losses.adaptive_weight(torch.zeros(2), weak) == 0
    assert not losses.adaptive_weight(strong.clone().requires_grad_(), weak.clone().requires_grad_()).requires_grad


# --- the system --------------------------------------------------------------------------------------------------


def gradients(system: Autoencoder) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in system.named_parameters() if p.grad is not None}


def naive(system: Autoencoder, data: Images, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """The players' losses written down plainly, and the weight of the adversarial one."""
    assert system.discriminator is not None
    posterior = system.model.encode(data.image)
    made = system.model.decode(posterior.sample())
    error = (data.image - made).abs() if system.reconstruction == "l1" else (data.image - made) ** 2
    if system.perceptual is not None:
        error = error + system.perceptual_weight * system.perceptual(data.image, made)
    nll = (error / system.logvar.exp() + system.logvar).sum() / len(made)
    real, fake = system.discriminator(data.image), system.discriminator(made)
    weight = torch.tensor(float(system.discriminator_weight))
    if system.calibrate:
        ours, theirs = (
            torch.autograd.grad(term, system.model.last_layer, retain_graph=True)[0] for term in (nll, -fake.mean())
        )
        weight = (ours.norm() / (theirs.norm() + 1e-4)).clamp(0, 1e4)
    factor = system.disc_factor if step >= system.disc_start else 0.0
    first = nll + system.kl_weight * posterior.kl().mean() - weight * factor * fake.mean()
    softplus = nn.functional.softplus
    second = factor * 0.5 * (softplus(-real).mean() + softplus(fake).mean())
    return first, second, weight


VARIANTS = {
    "calibrated": {"calibrate": True},
    "weighted": {"discriminator_weight": 3.0, "disc_factor": 0.5, "reconstruction": "l2", "kl_weight": 0.1},
    "perceptual": {"calibrate": True, "perceptual": "digits", "perceptual_weight": 0.7},
    "spectral": {"calibrate": True, "spectral_norm": True},
    "actnorm": {"discriminator_weight": 2.0, "norm": "actnorm"},
    "not yet": {"calibrate": True, "disc_start": 10},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_both_players_get_the_gradients_of_the_plain_formulas(name: str) -> None:
    options = dict(VARIANTS[name])
    of_critic = {key: options.pop(key) for key in ("spectral_norm", "norm") if key in options}
    system = Autoencoder(model(), discriminator=critic(**of_critic), logvar_init=-0.3, **options).train()
    data = batch()
    for _ in system.objectives(data, 0):  # ActNorm and running statistics are settled
        pass
    plain = copy.deepcopy(system)

    torch.manual_seed(1)
    first, second, weight = naive(plain, data, 3)
    of_model = torch.autograd.grad(first, [*plain.model.parameters(), plain.logvar], retain_graph=True)
    assert plain.discriminator is not None
    of_judge = torch.autograd.grad(second, list(plain.discriminator.parameters()), allow_unused=True)

    torch.manual_seed(1)
    objectives = system.objectives(data, 3)
    mine = next(objectives)
    assert mine.name == "autoencoder" and torch.isclose(mine.loss, first, rtol=1e-5)
    assert torch.isclose(mine.scalars["d_weight"], weight, rtol=1e-4)
    assert not any(value.requires_grad for value in mine.scalars.values())
    mine.loss.backward()
    for p, expected in zip([*system.model.parameters(), system.logvar], of_model, strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-7)
    assert system.discriminator is not None
    assert all(p.grad is None and p.requires_grad for p in system.discriminator.parameters())  # its weights are spared

    before = {key: p.grad.clone() for key, p in system.model.named_parameters()}
    other = next(objectives)
    assert other.name == "discriminator" and torch.isclose(other.loss, second)
    other.loss.backward()
    for p, expected in zip(system.discriminator.parameters(), of_judge, strict=True):
        torch.testing.assert_close(p.grad, torch.zeros_like(p) if expected is None else expected, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(p.grad, before[key]) for key, p in system.model.named_parameters())
    assert next(objectives, None) is None
    for key, value in plain.discriminator.state_dict().items():  # images first, then reconstructions, once each
        torch.testing.assert_close(system.discriminator.state_dict()[key], value)


def test_a_system_without_opponents_is_a_plain_autoencoder() -> None:
    system = Autoencoder(model()).train()
    assert list(system.trainable()) == ["autoencoder"] and system.lr_factors() == {}
    (objective,) = system.objectives(batch(), 0)
    assert objective.scalars.keys() == {"nll", "kl", "rec", "logvar", "calibration"}
    assert torch.isclose(objective.loss, objective.scalars["nll"] + objective.scalars["kl"])
    (objective,) = Autoencoder(model(), kl_weight=0.25).train().objectives(batch(), 0)
    assert objective.scalars["kl"] > 0
    assert torch.isclose(objective.loss, objective.scalars["nll"] + 0.25 * objective.scalars["kl"])


def moved(system: Autoencoder, steps: range, lr: float = 1e-3) -> dict[str, list[str]]:
    """Which parameters of each player move."""
    before = {name: p.detach().clone() for name, p in system.named_parameters()}
    optimizers = make_optimizers(system, Training())
    for step in steps:
        _step(system, batch(), step, optimizers, lr, None)
    names = [name for name, p in system.named_parameters() if not torch.equal(p, before[name])]
    return {part: [name for name in names if name.startswith(part)] for part in ("model", "discriminator")}


def test_both_players_move_and_the_discriminator_waits_for_its_turn() -> None:
    system = Autoencoder(model(), discriminator=critic(), disc_start=2).train()
    count = {part: len(list(getattr(system, part).parameters())) for part in ("model", "discriminator")}
    early = moved(system, range(2))
    assert len(early["model"]) == count["model"] and not early["discriminator"]
    late = moved(system, range(2, 4))
    assert [len(late[part]) for part in count] == list(count.values())


def test_a_waiting_discriminator_counts_steps_and_takes_statistics_or_rests() -> None:
    for warmup in (True, False):
        system = Autoencoder(model(), discriminator=critic(), disc_start=5, disc_warmup=warmup).train()
        optimizers = make_optimizers(system, Training())
        for step in range(3):
            logged = _step(system, batch(), step, optimizers, 1e-3, None)
        assert system.discriminator is not None
        tracked = system.discriminator.state_dict()["main.3.num_batches_tracked"]
        counted = [int(state["step"]) for state in optimizers["discriminator"].state.values()]
        if warmup:
            assert tracked == 6 and counted == [3] * len(list(system.discriminator.parameters()))
            assert logged["autoencoder/active"] == 0 and logged["discriminator/loss"] == 0
        else:
            assert tracked == 0 and not counted and "discriminator/loss" not in logged


def test_waiting_or_not_the_autoencoder_is_trained_alike() -> None:
    trained = []
    for options in ({}, {"discriminator": critic(), "disc_start": 9}):
        torch.manual_seed(5)
        system = Autoencoder(model(), **options).train()
        optimizers = make_optimizers(system, Training())
        for step in range(3):
            torch.manual_seed(step)
            _step(system, batch(), step, optimizers, 1e-3, None)
        trained.append(system.model.state_dict())
    for key, value in trained[0].items():
        torch.testing.assert_close(trained[1][key], value, rtol=1e-4, atol=1e-5)


def test_the_discriminator_has_a_learning_rate_of_its_own() -> None:
    system = Autoencoder(model(), discriminator=critic(), d_lr_factor=4.0).train()
    optimizers = make_optimizers(system, Training())
    logged = _step(system, batch(), 0, optimizers, 1e-3, None)
    assert [optimizers[name].param_groups[0]["lr"] for name in ("autoencoder", "discriminator")] == [1e-3, 4e-3]
    assert logged["lr"] == 1e-3 and logged["discriminator/lr"] == 4e-3


def test_a_discriminator_learns_to_tell() -> None:
    torch.manual_seed(0)
    system = Autoencoder(model(), discriminator=critic(), disc_factor=1.0, discriminator_weight=0.0).train()
    optimizers = make_optimizers(system, Training(betas=(0.5, 0.9)))
    series = [float(_step(system, batch(count=16), t, optimizers, 2e-3, None)["discriminator/loss"]) for t in range(25)]
    assert sum(series[-5:]) / 5 < 0.5 * series[0]


def test_players_that_are_stopped_go_on_as_if_they_were_not() -> None:
    def start() -> tuple[Autoencoder, dict[str, torch.optim.Optimizer]]:
        judge = critic(spectral_norm=True)
        system = Autoencoder(model(), discriminator=judge, calibrate=True, perceptual="digits", disc_start=2).train()
        return system, make_optimizers(system, Training())

    def train(system: Autoencoder, optimizers: dict[str, torch.optim.Optimizer], steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            _step(system, batch(seed=step), step, optimizers, 1e-3, None)

    first, first_optimizers = start()
    state = copy.deepcopy(first.state_dict())
    train(first, first_optimizers, range(6))
    for stop in (1, 3):
        half, half_optimizers = start()
        half.load_state_dict(state)
        train(half, half_optimizers, range(stop))
        second, second_optimizers = start()
        second.load_state_dict(half.state_dict())
        for name, optimizer in second_optimizers.items():
            optimizer.load_state_dict(half_optimizers[name].state_dict())
        train(second, second_optimizers, range(stop, 6))
        assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


class Line(nn.Module):
    """A model whose reconstruction is its image times a number."""

    dim = 1

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.last_layer = nn.Parameter(torch.tensor(factor))

    def encode(self, image: Tensor) -> Gaussian:
        return Gaussian(image.flatten(1), torch.zeros_like(image.flatten(1)), deterministic=True)

    def decode(self, code: Tensor) -> Tensor:
        return (self.last_layer * code)[..., None, None]


class Slope(nn.Module):
    """A discriminator whose logit is its image times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, image: Tensor) -> Tensor:
        return self.factor * image


class Hand(NamedTuple):
    """Losses of linear players, and how steep each is, worked out on paper."""

    nll: float
    nll_w: float
    nll_s: float
    g: float
    g_w: float
    d: float
    d_v: float


def by_hand(kind: str, x: list[float], w: float, v: float, s: float) -> Hand:
    """The image is a pixel x, its reconstruction w x, its logit v x; s is the noise level; w < 1."""

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(x)

    def sigmoid(t: float) -> float:
        return 1 / (1 + math.exp(-t))

    assert w < 1
    size = mean(abs(t) for t in x) if kind == "l1" else mean(t * t for t in x)
    error, slope = ((1 - w) * size, -size) if kind == "l1" else ((1 - w) ** 2 * size, -2 * (1 - w) * size)
    return Hand(
        nll=error * math.exp(-s) + s,
        nll_w=slope * math.exp(-s),
        nll_s=1 - error * math.exp(-s),
        g=-v * w * mean(x),
        g_w=-v * mean(x),
        d=0.5 * mean(math.log1p(math.exp(-v * t)) + math.log1p(math.exp(v * w * t)) for t in x),
        d_v=0.5 * mean(w * t * sigmoid(v * w * t) - t * sigmoid(-v * t) for t in x),
    )


@pytest.mark.parametrize("warmup", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("calibrate", [True, False], ids=["calibrated", "weighted"])
@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_updates_of_linear_players_in_closed_form(kind: Any, calibrate: bool, warmup: bool) -> None:
    """Both players move at once: each by its gradient at the numbers that both had before the step."""
    start, total, decay_start, lr, lr_factor, factor, fixed = 2, 7, 3, 0.05, 3.0, 0.7, 1.9
    model, judge = Line(0.4), Slope(-0.8)
    system = Autoencoder(
        model,  # type: ignore[arg-type]
        reconstruction=kind,
        logvar_init=0.3,
        discriminator=judge,
        disc_start=start,
        disc_factor=factor,
        discriminator_weight=fixed,
        calibrate=calibrate,
        d_lr_factor=lr_factor,
        disc_warmup=warmup,
    ).double()
    numbers = model.last_layer, judge.factor, system.logvar
    w, v, s = (float(p.detach()) for p in numbers)
    optimizers = {name: torch.optim.SGD(parameters, lr=9.0) for name, parameters in system.trainable().items()}
    for step in range(total - 1):
        image = images(5, 1, 1, seed=step).double()
        hand = by_hand(kind, image.flatten().tolist(), w, v, s)
        weight = min(abs(hand.nll_w) / (abs(hand.g_w) + 1e-4), 1e4) if calibrate else fixed
        active = factor if step >= start else 0.0
        rate = lr * (1 - max(0, step - 1 - decay_start) / (total - decay_start))
        assert math.isclose(schedule(step, lr, decay_start, total), rate)

        logged = _step(system, Images(image, torch.zeros(5)), step, optimizers, rate, None)
        assert math.isclose(float(logged["autoencoder/nll"]), hand.nll)
        assert math.isclose(float(logged["autoencoder/loss"]), hand.nll + weight * active * hand.g)
        if active or warmup:
            assert math.isclose(float(logged["autoencoder/d_weight"]), weight)
            assert math.isclose(float(logged["autoencoder/g"]), hand.g)
            assert math.isclose(float(logged["discriminator/loss"]), active * hand.d)
            assert float(logged["autoencoder/active"]) == (step >= start)
        w -= rate * (hand.nll_w + weight * active * hand.g_w)
        s -= rate * hand.nll_s
        v -= rate * lr_factor * active * hand.d_v
        for p, expected in zip(numbers, (w, v, s), strict=True):
            assert math.isclose(float(p.detach()), expected), step


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="of 3 channels, but the model makes 1"):
        Autoencoder(model(), discriminator=critic(3))
    with pytest.raises(ValueError, match="at least 24x24, but the model makes 16x16: set fewer layers"):
        Autoencoder(model(), discriminator=PatchDiscriminator(1, 4, 3))
    bare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="last_layer"):
        Autoencoder(bare, discriminator=critic(), calibrate=True)  # type: ignore[arg-type]
    Autoencoder(bare, discriminator=critic())  # type: ignore[arg-type]


# --- discriminator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers, patches", [(1, 14), (2, 6), (3, 2)])
def test_discriminator_judges_patches(layers: int, patches: int) -> None:
    judge = PatchDiscriminator(3, 4, layers, norm="instance")
    image = images(2, 3, 32).requires_grad_()
    logits = judge(image)
    assert logits.shape == (2, 1, patches, patches)
    smallest = PatchDiscriminator(3, 4, layers)
    assert smallest(images(2, 3, smallest.smallest)).shape == (2, 1, 1, 1)
    with pytest.raises(ValueError, match="set fewer layers"):
        smallest(images(2, 3, smallest.smallest - 1))
    with pytest.raises(ValueError, match=r"expected images \[B, 3, H, W\]"):
        judge(images(2, 1, 32))


def test_discriminator_starts_as_published() -> None:
    torch.manual_seed(0)
    state = PatchDiscriminator(1, 32).state_dict()
    assert abs(float(state["main.8.weight"].std()) - 0.02) < 1e-3
    assert abs(float(state["main.9.weight"].mean()) - 1) < 0.01 and not state["main.9.bias"].any()
    spectral = PatchDiscriminator(1, 32, spectral_norm=True).state_dict()
    assert abs(float(spectral["main.8.weight_orig"].std()) - 0.02) < 1e-3
    assert list(PatchDiscriminator(1, 4, norm="actnorm").state_dict())[3:6] == [
        "main.3.loc",
        "main.3.scale",
        "main.3.initialized",
    ]


def test_spectral_norm_agrees_with_torch() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.utils.spectral_norm(nn.Conv2d(3, 5, 4, stride=2, padding=1))
    mine = SpectralConv2d(3, 5, 4, stride=2, padding=1)
    mine.load_state_dict(theirs.state_dict())
    first, second = images(2, 3), images(2, 3, seed=1)
    grads = []
    for conv in (mine, theirs):
        (conv(first).square().sum() + conv(second).square().sum()).backward()  # two forwards, then a backward
        grads.append(conv.weight_orig.grad)
    torch.testing.assert_close(grads[0], grads[1])
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value)
    mine.eval()
    vectors = mine.weight_u.clone(), mine.weight_v.clone()
    torch.testing.assert_close(mine(first), theirs.eval()(first))
    assert torch.equal(mine.weight_u, vectors[0]) and torch.equal(mine.weight_v, vectors[1])
    copy.deepcopy(mine)


def test_spectral_norm_bounds_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    conv = SpectralConv2d(3, 5, 4).train()
    for _ in range(100):
        weight = conv.weight()
    assert torch.isclose(torch.linalg.svdvals(weight.detach().flatten(1))[0], torch.ones(()), atol=1e-3)


# --- perceptual distances ----------------------------------------------------------------------------------------

IMAGENET = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
"""Mean and deviation of its images in [0, 1]."""
FIND_HEADS = perceptual._find_heads


@pytest.fixture
def vgg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of random weights under torchvision's names, and no cache but an empty one."""
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv("IIN_OFFLINE", raising=False)
    monkeypatch.setattr(perceptual, "_find_heads", lambda: None)
    perceptual._vgg.cache_clear()
    torch.manual_seed(0)
    path = tmp_path / "vgg.pth"
    # Torchvision's file has the format of old versions of torch.
    state = {**perceptual.VGG().state_dict(), "classifier.0.weight": torch.zeros(1)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    yield path
    perceptual._vgg.cache_clear()


@pytest.fixture(params=["digits", "vgg"])
def measure(request: pytest.FixtureRequest, vgg: Path) -> Any:
    return DigitDistance() if request.param == "digits" else VGGDistance(str(vgg))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_perceptual_distance_is_one(measure: Any, channels: int) -> None:
    a, b = images(3, channels, 32), images(3, channels, 32, seed=1)
    found = measure(a, b)
    assert found.shape == (3, 1, 1, 1) and (found > 1e-3).all() and (found <= 2).all()
    torch.testing.assert_close(measure(b, a), found)
    torch.testing.assert_close(measure(a[1:2], b[1:2]), found[1:2])  # each image for itself
    assert not measure(a, a).any()
    near = measure(a, (a + 0.05 * b).clamp(-1, 1))
    assert (near < found).all() and (near > 0).all()


@pytest.mark.parametrize("value", [None, 0.0, -1.0])
def test_gradients_at_identical_images_are_numbers(measure: Any, value: float | None) -> None:
    image = images(2, 1, 32) if value is None else torch.full((2, 1, 32, 32), value)
    made = image.clone().requires_grad_()
    with torch.autograd.set_detect_anomaly(True):
        measure(image, made).sum().backward()
    assert made.grad is not None and made.grad.isfinite().all()


def test_silent_features_have_a_gradient_that_is_a_number() -> None:
    first, second = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2, requires_grad=True)
    perceptual.distance([first], [second], [torch.ones(3)]).sum().backward()
    assert second.grad is not None and second.grad.isfinite().all()


def test_distance_in_closed_form() -> None:
    first = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    second = torch.tensor([0.0, 7.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    weights = torch.tensor([0.5, 2.0])
    found = perceptual.distance([first, first], [second, first], [weights, weights])
    assert torch.isclose(found, torch.tensor(0.5 * 0.36 + 2.0 * 0.04)).all()


def test_gradients_reach_the_reconstruction_alone(measure: Any) -> None:
    image, made = images(2, 1, 32).requires_grad_(), images(2, 1, 32, seed=1).requires_grad_()
    measure(image, made).sum().backward()
    assert image.grad is None and made.grad is not None and made.grad.any()


def test_the_shipped_network_tells_digits_from_each_other() -> None:
    data = MNIST(split="test")
    found, labels = data[list(range(200))][:2]
    pairs = DigitDistance()(found[:100], found[100:]).flatten()
    same = labels[:100] == labels[100:]
    assert pairs[same].mean() < 0.9 * pairs[~same].mean()


def test_images_of_another_range_or_size_are_refused(measure: Any) -> None:
    image = images(2, 1, 32)
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\], found values in \[0, 254\]"):
        measure((image.clamp(min=0) * 300).clamp(max=254), image)
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
        measure(image, image * 3)
    with pytest.raises(ValueError, match="one shape"):
        measure(image, image[:1])
    with pytest.raises(ValueError, match="must be at least"):
        measure(image[..., :3], image[..., :3])


def test_distances_leave_no_trace_in_the_state_and_the_numbers_drawn(vgg: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for distance in (DigitDistance(), VGGDistance(str(vgg))):
        distance(torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32))
    assert torch.equal(torch.rand(2), expected)
    system = Autoencoder(model(), perceptual="vgg", perceptual_path=str(vgg))
    assert system.state_dict().keys() == Autoencoder(model()).state_dict().keys()


def test_vgg_looks_where_lpips_does(vgg: Path) -> None:
    network = perceptual._vgg(str(vgg), "cpu")
    maps = network.maps(images(1, 3, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    assert all((m >= 0).all() for m in maps)
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs = torchvision.models.vgg16().features
    theirs.load_state_dict(
        {k.removeprefix("features."): v for k, v in network.state_dict().items()}, strict=True, assign=True
    )
    x = (images(1, 3, 32) - network.mean) / network.deviation
    for i, layer in enumerate(theirs[:30]):
        x = layer(x)
        if i in (3, 8, 15, 22, 29):
            torch.testing.assert_close(maps.pop(0), x)
    white = torch.ones(3, 1, 1)
    torch.testing.assert_close((white - network.mean) / network.deviation, (1 - IMAGENET[0]) / IMAGENET[1])


def lpips(network: dict[str, Tensor], heads: list[Tensor], image: Tensor, other: Tensor) -> Tensor:
    """The published distance, written down plainly over torchvision's weights."""
    total = torch.zeros(len(image), 1, 1, 1)
    x, y = ((batch / 2 + 0.5 - IMAGENET[0]) / IMAGENET[1] for batch in (image, other))
    places = iter([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28])
    for head, depth in zip(heads, (2, 2, 3, 3, 3), strict=True):
        for _ in range(depth):
            place = f"features.{next(places)}"
            x, y = (
                nn.functional.conv2d(maps, network[f"{place}.weight"], network[f"{place}.bias"], padding=1).relu()
                for maps in (x, y)
            )
        a, b = (maps / (maps.norm(dim=1, keepdim=True) + 1e-10) for maps in (x, y))
        total += ((a - b) ** 2 * head).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        x, y = (nn.functional.max_pool2d(maps, 2) for maps in (x, y))
    return total


def test_heads_of_an_installed_package_are_used(
    vgg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    perceptual._say_uniform_once.cache_clear()
    image, other = images(2, 3, 32), images(2, 3, 32, seed=1)
    with caplog.at_level(logging.WARNING, "iin"):
        plain = VGGDistance(str(vgg))
        assert plain.heads == "uniform" and caplog.text.count("all channels weigh the same") == 1
        before = plain(image, other)
        assert torch.equal(plain(image, other), before)
    assert caplog.text.count("all channels weigh the same") == 2  # before training, and in it

    folder = tmp_path / "site" / "lpips" / "weights" / "v0.1"
    folder.mkdir(parents=True)
    (tmp_path / "site" / "lpips" / "__init__.py").write_text("raise RuntimeError('imported')")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}
    torch.save(heads, folder / "vgg.pth")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(perceptual, "_find_heads", FIND_HEADS)
    perceptual._vgg.cache_clear()
    measure = VGGDistance(str(vgg))
    assert measure.heads == "lpips"
    expected = lpips(torch.load(vgg, weights_only=True), list(heads.values()), image, other)
    torch.testing.assert_close(measure(image, other), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(measure(image, other), before)

    torch.save({key: value - 1 for key, value in heads.items()}, folder / "vgg.pth")
    perceptual._vgg.cache_clear()
    with pytest.raises(ValueError, match="negative"):
        measure(image, other)


def test_weights_are_found_in_the_caches(vgg: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "hub" / "checkpoints", tmp_path / "cache"):
        folder.mkdir(parents=True)
        assert VGGDistance.missing() is not None
        place = folder / perceptual.VGG_NAME
        place.hardlink_to(vgg)
        assert VGGDistance.missing() is None
        image = images(1, 1, 32)
        perceptual._vgg.cache_clear()
        assert VGGDistance()(image, -image) > 0
        place.unlink()


WAYS = ("perceptual_path", "perceptual: digits", "perceptual_weight: 0")


def tree(**params: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "data": {split: {"target": "iin.data.MNIST", "params": {"split": split}} for split in ("train", "test")},
        "system": {
            "target": "iin.systems.Autoencoder",
            "params": {"model": {"target": "iin.models.Autoencoder", "params": {}}, **params},
        },
    }


def mistakes(tmp_path: Path, **params: Any) -> list[str]:
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(tree(**params)))
    try:
        plan(load([file]))
    except ConfigError as error:
        return list(error.mistakes)
    return []


def test_missing_weights_are_named_with_the_ways_out(
    vgg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = str(tmp_path / "lost.pth")
    for params in ({}, {"perceptual_path": lost}):
        with pytest.raises(ValueError) as caught:
            Autoencoder(model(), perceptual="vgg", **params)
        assert all(way in str(caught.value) for way in WAYS) and "\n" not in str(caught.value)
        (mistake,) = mistakes(tmp_path, perceptual="vgg", **params)
        assert mistake.startswith("system") and str(caught.value).partition(": ")[2] in mistake
    # Each of them is one, and downloading too, unless it is forbidden.
    assert not mistakes(tmp_path, perceptual="vgg", perceptual_path=str(vgg))
    assert not mistakes(tmp_path, perceptual="vgg", perceptual_path=vgg.name)  # beside the configuration
    assert not mistakes(tmp_path, perceptual="digits")
    assert not mistakes(tmp_path, perceptual="vgg", perceptual_weight=0)
    assert Autoencoder(model(), perceptual="vgg", perceptual_weight=0).perceptual is None
    assert not mistakes(tmp_path, perceptual="vgg", download=True)
    monkeypatch.setenv("IIN_OFFLINE", "1")
    (mistake,) = mistakes(tmp_path, perceptual="vgg", download=True)
    assert "IIN_OFFLINE" in mistake
    with pytest.raises(ValueError, match="expected vgg, digits or none, found 'alex'"):
        Autoencoder(model(), perceptual="alex")  # type: ignore[arg-type]


def test_a_file_that_is_something_else_is_refused(vgg: Path, tmp_path: Path) -> None:
    image = images(1, 1, 32)
    wrong = tmp_path / "wrong.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, wrong)
    with pytest.raises(ValueError, match="not torchvision's weights of VGG16: 26 entries are missing"):
        VGGDistance(str(wrong))(image, image)
    wrong.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="not a file of weights"):
        VGGDistance(str(wrong))(image, image)
    torch.save([1, 2], wrong)
    with pytest.raises(ValueError, match="expected names and tensors"):
        VGGDistance(str(wrong))(image, image)


def test_rehearsals_without_values_fetch_and_check_nothing_of_them(vgg: Path) -> None:
    with torch.device("meta"):
        system = Autoencoder(
            Model(1, 32, 4, 2, 4), perceptual="vgg", download=True, discriminator=critic(), calibrate=True
        ).eval()
    data = Images(torch.empty(2, 1, 32, 32, device="meta"), torch.zeros(2))
    assert [objective.name for objective in system.objectives(data, 0)] == ["autoencoder", "discriminator"]


def test_a_failed_download_is_one_line(vgg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ValueError, match="could not be downloaded \\(no route to host\\): put it into"):
        VGGDistance(download=True)(images(1, 1, 32), images(1, 1, 32))


@pytest.mark.parametrize("name", ["mnist_ae", "cmnist_ae"])
def test_shipped_configurations_say_what_was_published(name: str) -> None:
    params = load([name]).tree["system"]["params"]
    assert (params["perceptual"], params["reconstruction"], params["logvar_init"]) == ("digits", "l1", 0.0)
    assert params["disc_start"] == 25001 and params["calibrate"] and params["discriminator_weight"] == 150
    quick = load([name], quick=True).tree["system"]["params"]
    assert (quick["perceptual"], quick["reconstruction"], quick["logvar_init"]) == ("none", "l2", -3.0)
    assert quick["discriminator"] is None
    check(load([name]))


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "n_down"), [(64, 4), (64, 5), (128, 4), (128, 5)])
def test_larger_images_are_learnt_too(size: int, n_down: int) -> None:
    torch.manual_seed(0)
    model = Model(channels=3, size=size, dim=8, n_down=n_down, width=4, deterministic=True)
    image = (torch.rand(4, 3, 1, 1) * 2 - 1).expand(4, 3, size, size)  # each of one colour
    system = Autoencoder(model, reconstruction="l2", logvar_init=-3.0)
    optimizer = torch.optim.Adam(system.parameters(), lr=1e-3)
    errors = []
    for step in range(20):
        objective = next(iter(system.objectives(Images(image, None), step)))
        optimizer.zero_grad()
        objective.loss.backward()
        optimizer.step()
        with torch.no_grad():
            errors.append(float((model(image) - image).square().mean()))
    assert model(image).shape == image.shape and model.encode(image).mean.shape == (4, 8)
    assert errors[-1] < 0.75 * errors[0]
