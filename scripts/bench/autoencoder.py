"""The autoencoder's adversarial training step, as this package makes it and as one writes it down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from bench.steps import loop_step, plain_adam
from bench.timing import Entry, Row, Settings, measure, say, threads
from iin.data import Images
from iin.losses import adaptive_weight, discriminator_loss, generator_loss, pixel_error, reconstruction_nll
from iin.models import Autoencoder as AutoencoderModel
from iin.models import PatchDiscriminator
from iin.systems import Autoencoder

__all__ = ["TASKS", "autoencoder_entries", "autoencoder_rows", "plain_gradients", "plain_step", "system"]

TASKS = ("ae_train_step",)

BATCH = 25


def autoencoder_rows(settings: Settings, tasks: Sequence[str]) -> Iterator[Row]:
    """Rows of the training step for digits of 32x32, of published sizes: adversarial part on, perceptual part off."""
    entries = autoencoder_entries(
        system(), torch.rand(BATCH, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    for count in settings.threads:
        say(f"ae_train_step: {count} threads, batch {BATCH}, {len(entries)} entries side by side")
        with threads(count):
            rows = measure(entries, settings.repeats, batch=BATCH, count=count)
        rows[0]["times_as_fast"] = rows[1]["seconds"] / rows[0]["seconds"]
        yield from rows


def autoencoder_entries(own: Autoencoder, image: Tensor) -> list[Entry]:
    """A training step of a system, and of a copy of it, on the same images ``[B, C, H, W]``."""
    plain = deepcopy(own)
    batch = Images(image, torch.zeros(len(image), dtype=torch.int64))
    more = {"parameters": sum(parameter.numel() for parameter in own.parameters())}
    return [
        Entry("ae_train_step", "iin", partial(loop_step(own), batch), more),
        Entry("ae_train_step", "plain", partial(plain_step(plain), image), more),
    ]


def system(size: int = 32, dim: int = 64, n_down: int = 4, width: int = 64, layers: int = 3) -> Autoencoder:
    """An autoencoder that is trained against a discriminator, which takes part from the first step on."""
    model = AutoencoderModel(channels=1, size=size, dim=dim, n_down=n_down, width=width, norm="actnorm")
    critic = PatchDiscriminator(channels=1, width=width, layers=layers)
    return Autoencoder(model, discriminator=critic, calibrate=True)


def plain_gradients(system: Autoencoder, image: Tensor) -> Tensor:
    """Gradients of both players, by the graph that the published code builds; they are left in the parameters.

    The discriminator judges a reconstruction that is not detached: its loss runs back through the decoder too, and the
    generator's through the discriminator's weights. A further backward gives the adaptive weight. There the
    discriminator moved before the generator's backward, which torch refuses today; here all gradients are those at the
    old weights, and no copy is made.

    Returns:
        The autoencoder's loss, detached.
    """
    critic = system.discriminator
    assert critic is not None
    posterior = system.model.encode(image)
    made = system.model.decode(posterior.sample())
    likelihood = reconstruction_nll(pixel_error(image, made), system.logvar)
    divergence = posterior.kl().mean()
    real, fake = critic(image), critic(made)
    d_loss, g_loss = discriminator_loss(real, fake), generator_loss(fake)
    last = system.model.last_layer
    weight = adaptive_weight(
        torch.autograd.grad(likelihood, last, retain_graph=True)[0],
        torch.autograd.grad(g_loss, last, retain_graph=True)[0],
    )
    loss = likelihood + divergence + weight * g_loss
    system.zero_grad()
    d_loss.backward(retain_graph=True)
    judged = [parameter.grad for parameter in critic.parameters()]
    system.zero_grad()  # what the discriminator's loss says to the autoencoder is thrown away
    loss.backward()
    for parameter, gradient in zip(critic.parameters(), judged, strict=True):
        parameter.grad = gradient  # and what the generator's says to the discriminator
    return loss.detach()


def plain_step(system: Autoencoder) -> Callable[[Tensor], Tensor]:
    """A training step on images ``[B, C, H, W]``, by `plain_gradients` and Adam as it is by default."""
    assert system.discriminator is not None
    players: list[list[nn.Parameter]] = [
        [*system.model.parameters(), system.logvar],
        [*system.discriminator.parameters()],
    ]
    optimizers = [plain_adam(player) for player in players]

    def step(image: Tensor) -> Tensor:
        loss = plain_gradients(system, image)
        for optimizer in optimizers:
            optimizer.step()
        return loss

    return step
