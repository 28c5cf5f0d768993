"""Every flow block keeps the contract of `InvertibleModule`; a new block is one line in `BLOCKS`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from iin.flows import (
    ActNorm,
    Chain,
    ConditionalFlow,
    Coupling,
    InvertibleModule,
    LeakyReLU,
    Shuffle,
    conditional_flow,
    vector_flow,
)
from iin.losses import nll
from iin.models import ConvEmbedder, DenseEmbedder, PoolingEmbedder

D = 6
C = 3

BLOCKS = {
    "actnorm": lambda: ActNorm(D),
    "coupling": lambda: Coupling(D, hidden=16, depth=1),
    "coupling flipped": lambda: Coupling(D, hidden=16, depth=2, flip=True),
    "coupling without hidden layers beyond the first": lambda: Coupling(D, hidden=8, depth=0),
    "coupling with context": lambda: Coupling(D, hidden=16, depth=1, context=C),
    "coupling flipped with context": lambda: Coupling(D, hidden=16, depth=0, flip=True, context=C),
    "shuffle": lambda: Shuffle(D),
    "leaky": lambda: LeakyReLU(),
    "steep": lambda: LeakyReLU(slope=3),
    "chain": lambda: Chain([ActNorm(D), Chain([Shuffle(D), Coupling(D, 8)])]),
    "chain with context": lambda: Chain([ActNorm(D), Coupling(D, 8), LeakyReLU(), Coupling(D, 8, context=C)]),
    "empty chain": lambda: Chain([]),
    "published flow": lambda: vector_flow(D, blocks=3, hidden=16, depth=1),
    "conditional flow": lambda: conditional_flow(D, DenseEmbedder(C, D, depth=3), 3, 16, 1),
    "conditional flow in sequence": lambda: conditional_flow(D, DenseEmbedder(C, D), 3, 16, 1, "sequential", "lrelu"),
    "conditional flow in parallel": lambda: conditional_flow(D, DenseEmbedder(C, 4, depth=2), 3, 16, 0, "parallel"),
}


@pytest.fixture(params=BLOCKS)
def block(request: pytest.FixtureRequest) -> InvertibleModule:
    """A block in float64 whose data-dependent parts are initialised and whose weights are not the initial ones."""
    block = BLOCKS[request.param]().double()
    block(torch.randn(32, D, dtype=torch.float64) * 2 + 1, given(block, 32))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block.eval()


def points(count: int = 5) -> torch.Tensor:
    return torch.randn(count, D, dtype=torch.float64)


def conditional(block: InvertibleModule) -> bool:
    return isinstance(block, ConditionalFlow) or any(getattr(part, "context", 0) for part in block.modules())


def given(block: InvertibleModule, count: int = 5) -> torch.Tensor | None:
    """A context for blocks that need one."""
    return torch.randn(count, C, dtype=torch.float64) if conditional(block) else None


def test_shapes(block: InvertibleModule) -> None:
    context = given(block)
    z, logdet = block(points(), context)
    assert z.shape == (5, D)
    assert logdet.shape == (5,)
    assert block.inverse(z, context).shape == (5, D)


def test_round_trip(block: InvertibleModule) -> None:
    x, context = points(), given(block)
    torch.testing.assert_close(block.inverse(block(x, context)[0], context), x, atol=1e-10, rtol=0)
    torch.testing.assert_close(block(block.inverse(x, context), context)[0], x, atol=1e-10, rtol=0)


def test_logdet_is_that_of_the_jacobian(block: InvertibleModule) -> None:
    x, context = points(), given(block)
    _, logdet = block(x, context)
    for k, row in enumerate(x):
        own = None if context is None else context[k, None]
        jacobian = torch.autograd.functional.jacobian(lambda v, own=own: block(v[None], own)[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, logdet[k], atol=1e-9, rtol=0)


def test_batch_of_one_is_its_row(block: InvertibleModule) -> None:
    x, context = points(), given(block)
    z, logdet = block(x, context)
    first = None if context is None else context[:1]
    one, one_logdet = block(x[:1], first)
    torch.testing.assert_close(one, z[:1])
    torch.testing.assert_close(one_logdet, logdet[:1])
    torch.testing.assert_close(block.inverse(z[:1], first), x[:1], atol=1e-10, rtol=0)


def test_gradient_reaches_every_parameter(block: InvertibleModule) -> None:
    z, logdet = block(points(), given(block))
    (z.square().sum() * (1 if block.state_dict() else 0) + logdet.sum()).backward() if any(
        p.requires_grad for p in block.parameters()
    ) else None
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_state_survives_saving(block: InvertibleModule, request: pytest.FixtureRequest) -> None:
    fresh = BLOCKS[request.node.callspec.params["block"]]().double()
    fresh.load_state_dict(block.state_dict())
    x, context = points(), given(block)
    # In training mode too: what was loaded must not be initialised anew.
    torch.testing.assert_close(fresh.train()(x, context)[0], block(x, context)[0])
    torch.testing.assert_close(fresh.inverse(x, context), block.inverse(x, context))


def test_context_is_ignored_or_needed(block: InvertibleModule) -> None:
    x, context = points(), torch.ones(5, C, dtype=torch.float64)
    if not conditional(block):
        torch.testing.assert_close(block(x, context)[0], block(x)[0])
        torch.testing.assert_close(block.inverse(x, context), block.inverse(x))
        return
    for run in (block.forward, block.inverse):
        with pytest.raises(ValueError, match="needs a context"):
            run(x)
        with pytest.raises(ValueError, match="context"):
            run(x, context[:4])
        with pytest.raises(ValueError, match="expected a context of shape"):
            run(x, torch.ones(5, C + 1, dtype=torch.float64))
    assert not torch.isclose(block(x, context)[0], block(x, -context)[0]).all(1).any()
    assert not torch.isclose(block.inverse(x, context), block.inverse(x, -context)).all(1).any()


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


# --- contexts --------------------------------------------------------------------------------------------------------


def test_what_is_negative_counts_unless_the_published_determinant_is_asked_for() -> None:
    x = torch.tensor([[-1.0, 2.0, 0.0, -3.0], [1.0, 1.0, 1.0, 1.0]])
    z, logdet = LeakyReLU()(x)
    torch.testing.assert_close(z, torch.tensor([[-0.9, 2.0, 0.0, -2.7], [1.0, 1.0, 1.0, 1.0]]))
    torch.testing.assert_close(logdet, torch.tensor([2 * math.log(0.9), 0.0]))
    published, nothing = LeakyReLU(published_logdet=True)(x)
    assert torch.equal(published, z) and torch.equal(nothing, torch.zeros(2))


def test_a_leaky_unit_needs_a_way_back_and_vectors() -> None:
    with pytest.raises(ValueError, match="slope must be positive"):
        LeakyReLU(0)
    with pytest.raises(ValueError, match=r"expected vectors of shape \[B, D\]"):
        LeakyReLU()(torch.zeros(2, 3, 4))


@pytest.mark.parametrize("published", [False, True])
def test_a_conditional_flow_hands_the_switch_on(published: bool) -> None:
    flow = conditional_flow(D, DenseEmbedder(C, D), 2, 8, 1, activation="lrelu", published_logdet=published).eval()
    x, context = torch.randn(4, D), torch.randn(4, C)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None], context[:1])[0][0], x[0])
    off = float(flow(x, context)[1][0].detach() - torch.linalg.slogdet(jacobian).logabsdet)
    negative = round(off / -math.log(0.9))
    assert off == pytest.approx(-negative * math.log(0.9), abs=1e-5)
    assert negative > 0 if published else negative == 0


EMBEDDERS = {
    "vectors": (lambda: DenseEmbedder(C, D), (C,)),
    "vectors as maps": (lambda: DenseEmbedder(C, D), (C, 1, 1)),
    "maps": (lambda: ConvEmbedder(C, 9, D, n_down=2, width=4), (C, 9, 9)),
    "maps of any size": (lambda: PoolingEmbedder(C, D, width=4), (C, 7, 4)),
}


@pytest.mark.parametrize("conditioning", ["none", "sequential", "parallel"])
@pytest.mark.parametrize("name", EMBEDDERS)
def test_conditional_flows_of_every_embedder(name: str, conditioning: str) -> None:
    embedder, shape = EMBEDDERS[name]
    flow = conditional_flow(D, embedder(), 3, 16, 1, conditioning, "lrelu")
    x, context = torch.randn(8, D), torch.randn(8, *shape)
    z, logdet = flow(x, context)  # takes first values from this batch
    (z.square().sum() - logdet.sum()).backward()
    assert all(p.grad is not None for p in flow.parameters())
    flow.eval()
    h = flow.embed(context)
    assert h.shape == (8, D) and flow.dim == D
    torch.testing.assert_close(flow.inverse(z, context), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(flow.through(x, h), flow(x, context))
    torch.testing.assert_close(flow.back(z, h), flow.inverse(z, context))
    *_, last = flow.steps(x, context)
    torch.testing.assert_close(last, flow(x, context))


def test_what_blocks_see() -> None:
    """In sequence each map goes on from the one before, in parallel each starts from the embedding."""
    x, h = torch.randn(4, D), torch.randn(4, D)
    for conditioning in ("none", "sequential", "parallel"):
        flow = conditional_flow(D, torch.nn.Identity(), 3, 8, 1, conditioning).eval()  # type: ignore[arg-type]
        seen: list[torch.Tensor] = []
        for block in flow.blocks:
            block.register_forward_hook(lambda module, inputs, outputs, seen=seen: seen.append(inputs[1]))
        flow(x, h)
        assert len(flow.maps) == (0 if conditioning == "none" else 3)
        expected = [h, h, h]
        for k, one in enumerate(flow.maps):
            expected[k] = one(expected[k - 1] if conditioning == "sequential" and k else h)
        for mine, theirs in zip(seen, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_embeddings_of_another_size_than_the_vectors() -> None:
    flow = conditional_flow(D, DenseEmbedder(C, 10), 2, 8, 1, "sequential").eval()
    assert flow.embed(torch.randn(4, C)).shape == (4, 10)
    assert flow.maps[0].weight.shape == (10, 10)


def test_an_embedder_that_answers_with_another_shape_is_named() -> None:
    flow = conditional_flow(D, torch.nn.Identity(), 2, 8, 1)
    with pytest.raises(ValueError, match=r"expected \[4, 6\] of the embedder, a Identity, found \[4, 5\]"):
        flow(torch.randn(4, D), torch.randn(4, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 7}, "even number"),
        ({"conditioning": "both"}, "expected none, sequential or parallel, found 'both'"),
        ({"activation": "relu"}, "expected none or lrelu, found 'relu'"),
    ],
)
def test_conditional_flows_that_are_none(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conditional_flow(**{"dim": D, "embedder": DenseEmbedder(C, D), "blocks": 1, "hidden": 8, **change})


def test_vectors_and_contexts_of_unlike_number() -> None:
    flow = conditional_flow(D, DenseEmbedder(C, D), 1, 8, 1).eval()
    with pytest.raises(ValueError, match="one context a vector, found 3 for 4 vectors"):
        flow(torch.randn(4, D), torch.randn(3, C))


@pytest.mark.parametrize(
    ("context", "found"), [(torch.ones(4, C).long(), "torch.int64"), ((torch.ones(4, C),), "a tuple"), ([1], "a list")]
)
def test_contexts_that_are_no_numbers(context: Any, found: str) -> None:
    flow = conditional_flow(D, DenseEmbedder(C, D), 1, 8, 1).eval()
    with pytest.raises(ValueError, match=f"expected a context of floating point numbers, found {found}"):
        flow(torch.randn(4, D), context)


def test_conditional_flows_leave_autocast() -> None:
    flow = conditional_flow(D, DenseEmbedder(C, D), 2, 8, 1).eval()
    x, context = torch.randn(4, D), torch.randn(4, C)
    expected = flow(x, context)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(flow(x, context), expected)
        assert flow(x.bfloat16(), context.bfloat16())[0].dtype == torch.float32


def test_a_conditional_density_is_learnt() -> None:
    """A normal one whose mean and deviation depend on the context, to 0.1 nat."""

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        context = 2 * torch.rand(count, 1) - 1
        return (2 * context) + (0.5 * context).exp() * torch.randn(count, 2), context

    flow = conditional_flow(2, DenseEmbedder(1, 8, widths=[1, 16, 8]), 2, 16, 1)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(150):
        x, context = draw(256)
        loss = nll(*flow(x, context))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entropy = 2 * 0.5 * math.log(2 * math.pi * math.e)  # the logarithm of the deviation is 0 on average
    with torch.no_grad():
        x, context = draw(20_000)
        measured = float(nll(*flow.eval()(x, context), normalised=True))
    assert abs(measured - entropy) < 0.1
