"""The losses are the densities that they claim to be."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from iin.losses import factor_mask, nll, pair_nll


def test_nll_is_the_density_of_the_normal() -> None:
    z, logdet = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    expected = -(Normal(0, 1).log_prob(z).sum(1) + logdet).mean()
    torch.testing.assert_close(nll(z, logdet, normalised=True), expected)


def test_training_drops_the_constant_only() -> None:
    z, logdet = torch.randn(7, 5), torch.randn(7)
    other = torch.randn(7, 5)
    constant = nll(z, logdet, normalised=True) - nll(z, logdet)
    torch.testing.assert_close(constant, nll(other, logdet, normalised=True) - nll(other, logdet))


@pytest.mark.parametrize("rho", [0.5, 0.975])
def test_pair_nll_is_the_density_of_the_joint_gaussian(rho: float) -> None:
    z, other = torch.randn(2, 7, 4, dtype=torch.float64)
    logdets = torch.randn(2, 7, dtype=torch.float64)
    shared = torch.rand(7, 4) < 0.5
    total = torch.zeros(7, dtype=torch.float64)
    for dim in range(4):
        for row in range(7):
            r = rho if shared[row, dim] else 0.0
            covariance = torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64)
            joint = MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance)
            total[row] -= joint.log_prob(torch.stack([z[row, dim], other[row, dim]]))
    expected = (total - logdets.sum(0)).mean()
    torch.testing.assert_close(pair_nll(z, logdets[0], other, logdets[1], shared, rho, normalised=True), expected)


def test_pair_nll_is_symmetric_in_the_pair() -> None:
    z, other = torch.randn(2, 7, 4, dtype=torch.float64)
    logdets = torch.randn(2, 7, dtype=torch.float64)
    shared = torch.rand(7, 4) < 0.5
    torch.testing.assert_close(
        pair_nll(z, logdets[0], other, logdets[1], shared, 0.9),
        pair_nll(other, logdets[1], z, logdets[0], shared, 0.9),
    )


def test_factor_mask_repeats_each_factor_over_its_dimensions() -> None:
    mask = factor_mask(torch.tensor([[True, False], [False, True]]), torch.tensor([2, 3]))
    assert mask.tolist() == [[True, True, False, False, False], [False, False, True, True, True]]
