"""Flows over a first stage: what they are trained on, and what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iin.data import Images, Pairs
from iin.flows import vector_flow
from iin.losses import nll
from iin.models import Autoencoder, Classifier, Gaussian
from iin.systems import FactorFlow, LatentFlow


class Wide(nn.Module):
    """A first stage that is sure of nothing: codes are drawn about 7 with a deviation of 2."""

    dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(7.0))

    def encode(self, image: Tensor) -> Gaussian:
        mean = self.mean.expand(len(image), 4)
        return Gaussian(mean, torch.full_like(mean, 2.0).square().log())


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8) * 2 - 1


def test_flows_are_trained_on_draws_and_asked_about_means() -> None:
    system, image = LatentFlow(Wide(), vector_flow(4, 2, 8, 1)), images(4000)
    drawn = system.noisy_code(image)
    assert not drawn.requires_grad
    torch.testing.assert_close(drawn.mean(0), torch.full((4,), 7.0), atol=0.2, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.full((4,), 2.0), atol=0.1, rtol=0)
    assert torch.equal(system.code(image), torch.full((4000, 4), 7.0))
    torch.manual_seed(4)
    (objective,) = system.objectives(Images(image, torch.zeros(4000)), 1)
    torch.manual_seed(4)
    torch.testing.assert_close(objective.loss, nll(*system.flow(system.noisy_code(image))))


def test_both_of_a_pair_are_drawn_on_their_own() -> None:
    system = FactorFlow(Wide(), vector_flow(4, 2, 8, 1), [1, 3])
    seen: list[Tensor] = []
    system.flow.register_forward_hook(lambda module, inputs, outputs: seen.append(inputs[0]))
    image = images()
    next(system.objectives(Pairs(image, image, torch.zeros(6, 2, dtype=torch.bool)), 1))
    first, second = seen[-1].chunk(2)
    assert len(first) == 6 and (first != second).all()


@pytest.mark.parametrize("stage", [Wide(), Autoencoder(1, 8, 4, 2, 4), Classifier(1, 8, 3, 4, 2, 4)], ids=type)
def test_the_first_stage_is_frozen(stage: Any) -> None:
    stage.requires_grad_(True).train()
    system = LatentFlow(stage, vector_flow(4, 2, 8, 1)).train()
    assert not stage.training and not any(p.requires_grad for p in stage.parameters())
    (trained,) = system.trainable().values()
    assert {id(p) for p in trained} == {id(p) for p in system.flow.parameters()}
    (objective,) = system.objectives(Images(images(), torch.zeros(6)), 0)
    objective.loss.backward()
    assert all(p.grad is None for p in stage.parameters())
    assert all(p.grad is not None for p in trained)
