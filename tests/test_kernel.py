"""The coupling whose backward pass is written by hand, and Adam over one piece of memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from iin.adam import FlatAdam
from iin.config import Training
from iin.flows import ActNorm, Coupling, Shuffle, conditional_flow, vector_flow
from iin.flows.kernel import active, affine, block, by_hand, lend, scale_shift, take
from iin.flows.layers import VectorFlow
from iin.losses import nll
from iin.models import DenseEmbedder
from iin.system import Objective, System
from iin.train import make_optimizers


def parts(dim: int = 6, hidden: int = 4, depth: int = 1, context: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    block = Coupling(dim, hidden, depth, context=context).double()
    return list(block.weights), list(block.biases)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("context", [0, 2])
def test_gradients_of_the_coupling_to_every_order_that_is_asked_for(depth: int, batch: int, context: int) -> None:
    weights, biases = parts(depth=depth, context=context)
    seen, moved = (torch.randn(batch, size, dtype=torch.float64, requires_grad=True) for size in (3 + context, 3))
    count = len(weights)

    def run(*given: Tensor) -> tuple[Tensor, Tensor]:
        return affine(given[0], given[1], given[2 : 2 + count], given[2 + count :])

    assert gradcheck(run, (seen, moved, *weights, *biases))
    assert gradgradcheck(run, (seen, moved, *weights, *biases))


def test_the_coupling_by_hand_is_the_coupling() -> None:
    weights, biases = parts(depth=2)
    kept, moved = torch.randn(2, 7, 3, dtype=torch.float64)
    scale, shift = scale_shift(kept, weights, biases)
    z, logdet = affine(kept, moved, weights, biases)
    torch.testing.assert_close(z, moved * scale.exp() + shift)
    torch.testing.assert_close(logdet, scale.sum(1))


@pytest.fixture
def flow() -> nn.Module:
    torch.manual_seed(1)
    made = vector_flow(8, 3, 16, 1).train()
    made(torch.randn(32, 8))
    return made


def gradients(flow: nn.Module, x: Tensor, hand: bool) -> list[Tensor]:
    with by_hand(hand):
        assert active() == hand
        loss = nll(*flow(x))
    return list(torch.autograd.grad(loss, list(flow.parameters())))


def test_gradients_by_hand_are_those_of_autograd(flow: nn.Module) -> None:
    x = torch.randn(5, 8)
    for one, other in zip(gradients(flow, x, True), gradients(flow, x, False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_only_training_is_by_hand(flow: nn.Module) -> None:
    assert not active()
    with by_hand():
        assert active()
        with torch.no_grad():
            assert not active()
        with by_hand(False):
            assert not active()
    assert not active()
    jacobian = torch.func.jacfwd(lambda x: flow(x[None])[0][0])(torch.randn(8))
    assert torch.linalg.det(jacobian) != 0


def test_frozen_parts_get_no_gradient(flow: nn.Module) -> None:
    block = flow[1]
    block.weights[0].requires_grad_(False)
    block.biases[1].requires_grad_(False)
    x = torch.randn(5, 8)
    with by_hand():
        nll(*flow(x)).backward()
    assert block.weights[0].grad is None and block.biases[1].grad is None and block.weights[1].grad is not None


def test_memory_that_is_lent_is_used_once() -> None:
    weights, biases = parts()
    kept, moved = torch.randn(2, 5, 3, dtype=torch.float64)
    expected = torch.autograd.grad(affine(kept, moved, weights, biases)[0].sum(), weights)
    places = [torch.full_like(weight, 7) for weight in weights]
    for weight, place in zip(weights, places, strict=True):
        lend(weight, place)
    out = affine(kept, moved, weights, biases)[0].sum() + affine(2 * kept, moved, weights, biases)[0].sum()
    first = torch.autograd.grad(affine(kept, moved, weights, biases)[0].sum(), weights)
    assert [g.data_ptr() for g in first] == [place.data_ptr() for place in places]
    for one, other in zip(first, expected, strict=True):
        torch.testing.assert_close(one, other)
    # Two uses in one backward pass add up, though memory was lent for one.
    for weight, place in zip(weights, places, strict=True):
        lend(weight, place)
    both = torch.autograd.grad(out, weights)
    apart = torch.autograd.grad(affine(2 * kept, moved, weights, biases)[0].sum(), weights)
    for total, one, other in zip(both, expected, apart, strict=True):
        torch.testing.assert_close(total, one + other)
    assert all(take(weight) is None for weight in weights)


# --- Adam ------------------------------------------------------------------------------------------------------------


def train(flow: nn.Module, optimizer: torch.optim.Optimizer, steps: range, hand: bool = False) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        with by_hand(hand):
            loss = nll(*flow(x))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture
def copies(flow: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    yield flow, copy.deepcopy(flow)


def test_flat_adam_is_adam_to_the_bit(copies: tuple[nn.Module, nn.Module]) -> None:
    flow, other = copies
    flat = FlatAdam(flow.parameters(), 1e-2, (0.5, 0.9))
    plain = torch.optim.Adam(other.parameters(), lr=1e-2, betas=(0.5, 0.9), fused=True)
    assert train(flow, flat, range(5)) == train(other, plain, range(5))
    assert equal(flow, other)
    found, expected = flat.state_dict(), plain.state_dict()
    assert found["param_groups"] == expected["param_groups"] and found["state"].keys() == expected["state"].keys()
    for key, state in expected["state"].items():
        assert found["state"][key].keys() == state.keys()
        assert all(torch.equal(found["state"][key][name], value) for name, value in state.items())


def test_gradients_go_to_where_adam_wants_them(flow: nn.Module) -> None:
    flat = FlatAdam(flow.parameters(), 1e-2, (0.5, 0.9))
    train(flow, flat, range(4), hand=True)
    places = {view.data_ptr() for view in flat._places}
    block = flow[1]
    assert all(p.grad is not None and p.grad.data_ptr() in places for p in block.parameters())


def test_by_hand_and_flat_train_as_autograd_and_adam(copies: tuple[nn.Module, nn.Module]) -> None:
    flow, other = copies
    flat = FlatAdam(flow.parameters(), 1e-3, (0.5, 0.9))
    plain = torch.optim.Adam(other.parameters(), lr=1e-3, betas=(0.5, 0.9), fused=True)
    found, expected = train(flow, flat, range(10), hand=True), train(other, plain, range(10))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("writer", ["flat", "plain"])
@pytest.mark.parametrize("reader", ["flat", "plain"])
def test_either_goes_on_from_the_others_state(copies: tuple[nn.Module, nn.Module], writer: str, reader: str) -> None:
    def make(kind: str, flow: nn.Module) -> torch.optim.Optimizer:
        if kind == "flat":
            return FlatAdam(flow.parameters(), 1e-2, (0.5, 0.9))
        return torch.optim.Adam(flow.parameters(), lr=1e-2, betas=(0.5, 0.9), fused=True)

    flow, other = copies
    whole = make("plain", other)
    train(other, whole, range(6))
    first = make(writer, flow)
    train(flow, first, range(3))
    resumed = copy.deepcopy(flow)
    second = make(reader, resumed)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(resumed, second, range(3, 6))
    assert equal(resumed, other)


def test_parameters_without_a_gradient_stay_and_count_no_step(copies: tuple[nn.Module, nn.Module]) -> None:
    flow, other = copies
    flat = FlatAdam(flow.parameters(), 1e-2, (0.5, 0.9))
    plain = torch.optim.Adam(other.parameters(), lr=1e-2, betas=(0.5, 0.9), fused=True)
    for made, optimizer in ((flow, flat), (other, plain)):
        train(made, optimizer, range(2))
        optimizer.zero_grad()
        nll(*made[1](torch.ones(4, 8))).backward()  # one block alone
        optimizer.step()
        train(made, optimizer, range(3, 5))
    assert equal(flow, other)
    again = FlatAdam(flow.parameters(), 1e-2, (0.5, 0.9))
    again.load_state_dict(flat.state_dict())
    train(flow, again, range(5, 7))
    train(other, plain, range(5, 7))
    assert equal(flow, other)


def test_clipping_reaches_the_gradients_in_their_places(copies: tuple[nn.Module, nn.Module]) -> None:
    flow, other = copies
    flat = FlatAdam(flow.parameters(), 1e-2, (0.5, 0.9))
    plain = torch.optim.Adam(other.parameters(), lr=1e-2, betas=(0.5, 0.9), fused=True)
    x = torch.randn(8, 8)
    for made, optimizer in ((flow, flat), (other, plain)):
        for _ in range(3):
            with by_hand(made is flow):
                loss = nll(*made(x))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(list(made.parameters()), 0.1)
            optimizer.step()
    for one, two in zip(flow.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_parameters_of_two_types() -> None:
    with pytest.raises(ValueError, match="one type, on one device"):
        FlatAdam([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2).double())], 1e-3, (0.5, 0.9))


def test_parameters_that_somebody_else_moved(flow: nn.Module) -> None:
    flat = FlatAdam(flow.parameters(), 1e-2, (0.5, 0.9))
    train(flow, flat, range(1))
    FlatAdam(flow.parameters(), 1e-2, (0.5, 0.9))
    with pytest.raises(RuntimeError, match="moved"):
        train(flow, flat, range(1, 2))


def test_parameters_of_two_objectives_learn_from_both(flow: nn.Module) -> None:
    class Both(System):
        def __init__(self) -> None:
            super().__init__()
            self.flow = flow

        def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
            raise AssertionError("no steps are taken by it")

        def flows(self) -> list[nn.Module]:
            return [self.flow]

        def trainable(self) -> dict[str, list[nn.Parameter]]:
            return {"one": list(flow.parameters()), "other": list(flow[1].parameters())}

    made = make_optimizers(Both(), Training(lr=1e-2))
    train(flow, made["one"], range(2))
    before = copy.deepcopy(flow)
    train(flow, made["one"], range(2, 3))
    assert not equal(flow, before)


def test_a_state_of_before_the_first_step(copies: tuple[nn.Module, nn.Module]) -> None:
    flow, other = copies
    flat = FlatAdam(flow.parameters(), 1e-2, (0.5, 0.9))
    start = copy.deepcopy(flat.state_dict())
    train(flow, flat, range(3))
    flow.load_state_dict(other.state_dict())
    flat.load_state_dict(start)
    plain = torch.optim.Adam(other.parameters(), lr=1e-2, betas=(0.5, 0.9), fused=True)
    assert train(flow, flat, range(3)) == train(other, plain, range(3))


# --- a block ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("size", [0, 2])
def test_gradients_of_a_block_to_every_order_that_is_asked_for(depth: int, size: int) -> None:
    torch.manual_seed(0)
    first, second = (Coupling(6, 4, depth, flip=flip, context=size).double() for flip in (False, True))
    shuffle = Shuffle(6)
    loc, scale = (torch.rand(6, dtype=torch.float64).sub_(1.5).requires_grad_() for _ in range(2))
    of_first, of_second = ([*coupling.weights, *coupling.biases] for coupling in (first, second))
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    context = [torch.randn(4, size, dtype=torch.float64, requires_grad=True)] if size else []

    def run(*given: Tensor) -> tuple[Tensor, Tensor]:
        middle, end = 3 + len(of_first), 3 + len(of_first) + len(of_second)
        return block(*given[:3], shuffle.order, given[3:middle], given[middle:end], *given[end:])

    assert gradcheck(run, (x, loc, scale, *of_first, *of_second, *context))
    assert gradgradcheck(run, (x, loc, scale, *of_first, *of_second, *context))


def test_a_block_by_hand_is_the_block(flow: nn.Module) -> None:
    x = torch.randn(5, 8)
    with by_hand():
        z, logdet = flow(x)
    expected, expected_logdet = flow(x)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(logdet, expected_logdet)
    assert "_Block" in str(z.grad_fn) and "_Block" not in str(expected.grad_fn)


@pytest.mark.parametrize("activation", ["none", "lrelu"])
@pytest.mark.parametrize("conditioning", ["none", "sequential"])
def test_a_conditional_flow_by_hand_is_the_flow(conditioning: str, activation: str) -> None:
    torch.manual_seed(1)
    flow: Any = conditional_flow(8, DenseEmbedder(5, 8), 3, 16, 1, conditioning, activation)  # type: ignore[arg-type]
    flow(torch.randn(32, 8), torch.randn(32, 5))
    x, context = torch.randn(5, 8), torch.randn(5, 5, requires_grad=True)
    found = []
    for hand in (False, True):
        with by_hand(hand):
            z, logdet = flow(x, context)
        assert ("_Block" in str(z.grad_fn)) == (hand and activation == "none")
        found.append([z, logdet, *torch.autograd.grad(nll(z, logdet), [context, *flow.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_context_that_lacks_is_named_by_hand_too() -> None:
    made = conditional_flow(8, DenseEmbedder(5, 8), 1, 16, 1)
    with by_hand(), pytest.raises(ValueError, match=r"needs a context of shape \[3, 8\]"):
        made.blocks[0](torch.randn(3, 8))


def test_couplings_of_unlike_contexts_are_called_one_by_one() -> None:
    norm, shuffle = ActNorm(8), Shuffle(8)
    made = VectorFlow([norm, Coupling(8, 16, 1), Coupling(8, 16, 1, flip=True, context=3), shuffle]).eval()
    x, context = torch.randn(5, 8), torch.randn(5, 3)
    expected = made(x, context)
    with by_hand():
        torch.testing.assert_close(made(x, context), expected)


def test_blocks_that_something_hangs_on_are_called(flow: nn.Module) -> None:
    seen = []
    handle = flow[4].register_forward_hook(lambda *_: seen.append(1))
    with by_hand():
        flow(torch.randn(5, 8))
        assert seen == [1]
        handle.remove()
        flow(torch.randn(5, 8))
    assert seen == [1]


def test_actnorm_takes_its_first_batch_by_hand_too() -> None:
    torch.manual_seed(2)
    one = vector_flow(8, 2, 16, 1).train()
    other = copy.deepcopy(one)
    x = 3 * torch.randn(64, 8) + 2
    with by_hand():
        one(x)
    other(x)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    assert bool(one[0].initialized) and bool(one[4].initialized)


def test_vectors_of_another_size_by_hand(flow: nn.Module) -> None:
    with by_hand(), pytest.raises(ValueError, match=r"expected vectors of shape \[B, 8\]"):
        flow(torch.randn(5, 6))


def test_a_coupling_by_itself_trains_under_autocast() -> None:
    torch.manual_seed(0)
    coupling, x = Coupling(8, 16, 1), torch.randn(7, 8)
    found = []
    for hand in (False, True):
        coupling.zero_grad()
        with torch.autocast("cpu", torch.bfloat16), by_hand(hand):
            loss = nll(*coupling(x))
        loss.backward()
        found.append(coupling.weights[0].grad)
    assert found[0] is not None and torch.equal(*found)


@pytest.mark.parametrize("place", [1, 2, 8])
def test_blocks_of_ones_own_are_asked_in_training_too(place: int) -> None:
    class Calm(Coupling):
        def scale_shift(self, kept: Tensor) -> tuple[Tensor, Tensor]:
            scale, shift = super().scale_shift(kept)
            return scale / 2, shift

    made = vector_flow(8, 2, 16, 1)
    made.blocks.insert(place, Calm(8, 16, 1))
    swapped = vector_flow(8, 2, 16, 1)
    swapped.blocks[place % 8] = Calm(8, 16, 1)
    flipped = vector_flow(8, 2, 16, 1)
    flipped[1].flip = True
    for changed in (made, swapped, flipped):
        x = torch.randn(7, 8)
        expected = changed(x)
        with by_hand():
            torch.testing.assert_close(changed(x), expected)
