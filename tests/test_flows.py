"""Every flow block keeps the contract of `InvertibleModule`; a new block is one line in `BLOCKS`."""

from __future__ import annotations

import math

import pytest
import torch

from iin.flows import ActNorm, Chain, Coupling, InvertibleModule, Shuffle, vector_flow
from iin.losses import nll

D = 6

BLOCKS = {
    "actnorm": lambda: ActNorm(D),
    "coupling": lambda: Coupling(D, hidden=16, depth=1),
    "coupling flipped": lambda: Coupling(D, hidden=16, depth=2, flip=True),
    "coupling without hidden layers beyond the first": lambda: Coupling(D, hidden=8, depth=0),
    "shuffle": lambda: Shuffle(D),
    "chain": lambda: Chain([ActNorm(D), Chain([Shuffle(D), Coupling(D, 8)])]),
    "empty chain": lambda: Chain([]),
    "published flow": lambda: vector_flow(D, blocks=3, hidden=16, depth=1),
}


@pytest.fixture(params=BLOCKS)
def block(request: pytest.FixtureRequest) -> InvertibleModule:
    """A block in float64 whose data-dependent parts are initialised and whose weights are not the initial ones."""
    block = BLOCKS[request.param]().double()
    block(torch.randn(32, D, dtype=torch.float64) * 2 + 1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block.eval()


def points(count: int = 5) -> torch.Tensor:
    return torch.randn(count, D, dtype=torch.float64)


def test_shapes(block: InvertibleModule) -> None:
    z, logdet = block(points())
    assert z.shape == (5, D)
    assert logdet.shape == (5,)
    assert block.inverse(z).shape == (5, D)


def test_round_trip(block: InvertibleModule) -> None:
    x = points()
    torch.testing.assert_close(block.inverse(block(x)[0]), x, atol=1e-10, rtol=0)
    torch.testing.assert_close(block(block.inverse(x))[0], x, atol=1e-10, rtol=0)


def test_logdet_is_that_of_the_jacobian(block: InvertibleModule) -> None:
    x = points()
    _, logdet = block(x)
    for row, value in zip(x, logdet, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: block(v[None])[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, value, atol=1e-9, rtol=0)


def test_batch_of_one_is_its_row(block: InvertibleModule) -> None:
    x = points()
    z, logdet = block(x)
    one, one_logdet = block(x[:1])
    torch.testing.assert_close(one, z[:1])
    torch.testing.assert_close(one_logdet, logdet[:1])
    torch.testing.assert_close(block.inverse(z[:1]), x[:1], atol=1e-10, rtol=0)


def test_gradient_reaches_every_parameter(block: InvertibleModule) -> None:
    z, logdet = block(points())
    (z.square().sum() * (1 if block.state_dict() else 0) + logdet.sum()).backward() if any(
        p.requires_grad for p in block.parameters()
    ) else None
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_state_survives_saving(block: InvertibleModule, request: pytest.FixtureRequest) -> None:
    fresh = BLOCKS[request.node.callspec.params["block"]]().double()
    fresh.load_state_dict(block.state_dict())
    x = points()
    # In training mode too: what was loaded must not be initialised anew.
    torch.testing.assert_close(fresh.train()(x)[0], block(x)[0])
    torch.testing.assert_close(fresh.inverse(x), block.inverse(x))


def test_context_is_accepted(block: InvertibleModule) -> None:
    x, context = points(), torch.ones(5, 3, dtype=torch.float64)
    torch.testing.assert_close(block(x, context)[0], block(x)[0])
    torch.testing.assert_close(block.inverse(x, context), block.inverse(x))


def test_a_density_is_learnt() -> None:
    """A bent 2-D distribution of known entropy, to 0.1 nat."""

    def draw(count: int) -> torch.Tensor:
        a, b = torch.randn(2, count)
        return torch.stack([a, 0.5 * b + a.square()], dim=1)

    flow = vector_flow(2, blocks=6, hidden=32, depth=1)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for _ in range(800):
        loss = nll(*flow(draw(256)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entropy = 2 * 0.5 * math.log(2 * math.pi * math.e) + math.log(0.5)
    with torch.no_grad():
        measured = float(nll(*flow.eval()(draw(20_000)), normalised=True))
    assert abs(measured - entropy) < 0.1


def test_actnorm_normalises_its_first_training_batch_only() -> None:
    norm = ActNorm(D)
    first = 3 * torch.randn(64, D) + 5
    z, _ = norm(first)
    torch.testing.assert_close(z.mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(D), atol=1e-5, rtol=0)
    before = norm.scale.clone()
    norm(10 * torch.randn(64, D))
    torch.testing.assert_close(norm.scale.detach(), before)


def test_actnorm_leaves_its_weights_alone_in_eval() -> None:
    norm = ActNorm(D).eval()
    x = 3 * torch.randn(8, D) + 5
    z, logdet = norm(x)
    assert torch.equal(z, x) and not logdet.any() and not norm.initialized


def test_actnorm_counts_positions_of_maps() -> None:
    norm = ActNorm(3).double()
    x = torch.randn(4, 3, 2, 5, dtype=torch.float64) * 2
    norm(x)
    z, logdet = norm(x)
    torch.testing.assert_close(logdet, (10 * norm.scale.abs().log().sum()).expand(4))
    torch.testing.assert_close(norm.inverse(z), x)


def test_actnorm_says_that_one_value_is_too_few() -> None:
    with pytest.raises(ValueError, match=r"at least 2 values a channel.*batch size of 2"):
        ActNorm(D)(torch.randn(1, D))


def test_actnorm_warns_of_constant_channels_and_stays_finite() -> None:
    x = torch.randn(8, D)
    x[:, 2] = 0.5
    with pytest.warns(UserWarning, match="1 of 6 channels are constant"):
        z, logdet = ActNorm(D)(x)
    assert torch.isfinite(z).all() and torch.isfinite(logdet).all()


@pytest.mark.parametrize("dim", [1, 7, 0, -2])
def test_odd_sizes_are_refused(dim: int) -> None:
    with pytest.raises(ValueError, match="even number"):
        Coupling(dim)
    with pytest.raises(ValueError, match="even number"):
        vector_flow(dim)


@pytest.mark.parametrize("shape", [(5, D + 2), (5,), (5, D, 1, 1)])
@pytest.mark.parametrize("block", [Coupling(D, 8), Shuffle(D)], ids=["coupling", "shuffle"])
def test_wrong_shapes_are_named(block: InvertibleModule, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected vectors of shape \[B, 6\], found"):
        block(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"expected vectors of shape \[B, 6\], found"):
        block.inverse(torch.zeros(shape))
