"""What metrics of one evaluation share: batches and what a system makes of them, made once and the same for all."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from batches import Batches, batched, images
from processes import together
from torch import Tensor, nn

from iin.data import Images, Loader, Pairs
from iin.distributed import rank, world
from iin.evaluation import TestSet, evaluate, record
from iin.flows import vector_flow
from iin.interrupt import Interrupt, Interrupted
from iin.metrics import FID, NLL, Accuracy, FactorDims, FactorSwaps, Inversion, Reconstruction
from iin.metrics.contract import gathered, kept, largest, made, placed, sampled, share, summed, whole
from iin.metrics.memo import Memo, memo_of
from iin.models import Autoencoder as AutoencoderModel
from iin.system import built_on
from iin.systems import Autoencoder, FactorFlow


class Counting(nn.Module):
    """A first stage that counts the images of each call."""

    dim = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = AutoencoderModel(channels=1, size=8, dim=4, n_down=2, width=4)
        self.network(torch.rand(8, 1, 8, 8))
        self.eval()
        self.encoded: list[int] = []
        self.decoded: list[int] = []

    def encode(self, image: Tensor) -> Any:
        self.encoded.append(len(image))
        return self.network.encode(image)

    def decode(self, code: Tensor) -> Tensor:
        self.decoded.append(len(code))
        return self.network.decode(code)


def flow_system() -> FactorFlow:
    torch.manual_seed(0)
    system = FactorFlow(Counting(), vector_flow(4, 2, 8, 1), (2, 2))
    system.names = ("side", "residual")
    system.flow(torch.randn(32, 4))
    return system


class Counted(tiny.SidePairs):
    """Pairs that count how often they are read."""

    def __init__(self, count: int = 22) -> None:
        super().__init__(count)
        self.read: list[int] = []

    def __getitem__(self, indices: Sequence[int]) -> Pairs:
        self.read.append(len(indices))
        return super().__getitem__(indices)


def side(image: Tensor) -> Tensor:
    return (image[..., 4:].mean((1, 2, 3)) > image[..., :4].mean((1, 2, 3))).long()


class Pixels:
    """An extractor that counts."""

    fingerprint = "pixels"
    name = "pixels"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, image: Tensor) -> Tensor:
        self.seen.append(len(image))
        return image[:, 0, ::2, ::2].flatten(1)


class Shades(nn.Module):
    """A small network that is one of the metrics' extractors by itself."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3)).repeat(1, 2) * torch.tensor([1.0, 2.0]) + image[:, 0, 0, :2]


def metrics(extractor: Any = None) -> dict[str, Any]:
    return {
        "nll": NLL(),
        "inversion": Inversion(),
        "reconstruction": Reconstruction(),
        "fid": FID(extractor or Pixels(), kid_subset_size=5, batch_size=5),
        "dims": FactorDims(),
        "swaps": FactorSwaps(pairs=9, judges={"side": side}, batch_size=4),
    }


def pairs_set(data: Any = None, size: int = 4, **arguments: Any) -> TestSet:
    data = data or tiny.SidePairs(22)
    return TestSet(Loader(data, size, seed=3), factors=data.factors, **arguments)


# --- methods that are built on others


class Ladder:
    def base(self, image: int) -> int:
        return image + 1

    @built_on("base")
    def double(self, base: int) -> int:
        """Twice that."""
        return 2 * base

    @built_on("double", "image", "other")
    def mix(self, double: int, other: int, weight: int = 1, *, offset: int = 0) -> int:
        return double + weight * other + offset


def test_a_method_that_is_built_on_another_is_called_like_any() -> None:
    ladder = Ladder()
    assert ladder.double(4) == ladder.double(image=4) == 10
    assert ladder.mix(1, 2) == 4 + 6 and ladder.mix(1, other=2, weight=10, offset=7) == 4 + 60 + 7
    assert list(inspect.signature(Ladder.mix).parameters) == ["self", "image", "other", "weight", "offset"]
    assert Ladder.double.__doc__ == "Twice that." and Ladder.double.__name__ == "double"
    with pytest.raises(TypeError, match="image"):
        ladder.double()

    class Other(Ladder):
        def base(self, image: int) -> int:
            return -image

    assert Other().double(4) == -8  # a subclass may replace what it stands on


# --- views


def test_a_view_is_a_batch_as_ever() -> None:
    memo = Memo(None, 0)
    batch = images(3)
    view = memo.view(batch, 2, 8)
    assert isinstance(view, Images) and type(view).__name__ == "Images"
    image, label = view
    assert torch.equal(image, batch.image) and view.label is label and view._fields == Images._fields
    assert memo_of(view, None) is memo and list(placed([view])) == [(8, view)]
    for other in (view._replace(label=label), copy.copy(view), pickle.loads(pickle.dumps(view)), batch):
        assert isinstance(other, Images) and memo_of(other, None) is None


class Scaled(nn.Module):
    """Answers with its images, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def encode(self, image: Tensor) -> Tensor:
        self.calls["encode"] += 1
        return image.flatten(1) * 2

    @built_on("encode")
    def reconstruct(self, z: Tensor) -> Tensor:
        self.calls["reconstruct"] += 1
        return (z / 2).view(-1, 1, 4, 4)

    def noisy_code(self, image: Tensor) -> Tensor:
        return image.flatten(1) + torch.rand(len(image), 1)

    def sample(self, n: int) -> Tensor:
        self.calls["sample"] += 1
        return torch.rand(n, 1, 4, 4)


def test_what_was_made_is_made_once() -> None:
    system, batch = Scaled(), images(3)
    memo = Memo(system, 1 << 20, 5)
    view = memo.view(batch, 0)
    for _ in range(2):
        assert torch.equal(made(system, view, "reconstruct"), batch.image)
        assert torch.equal(made(system, view, "encode"), batch.image.flatten(1) * 2)
    assert system.calls == {"encode": 1, "reconstruct": 1}
    made(system, memo.view(batch, 1), "encode")  # another batch
    assert system.calls["encode"] == 2
    made(system, batch, "reconstruct"), made(Scaled(), view, "encode")  # no view, and another system's
    assert system.calls == {"encode": 3, "reconstruct": 2}
    pair = memo.view(Pairs(batch.image, batch.image + 1, torch.zeros(3, 2).bool()), 2)
    assert torch.equal(made(system, pair, "encode", of="other"), made(system, pair, "encode") + 2)
    memo.clear()
    assert memo.held == 0 and torch.equal(made(system, view, "encode"), batch.image.flatten(1) * 2)


def test_noise_depends_on_the_batch_alone() -> None:
    system, batch = Scaled(), images(3)

    def drawn(seed: int, number: int, budget: int = 1 << 20, before: int = 0) -> list[Tensor]:
        memo = Memo(system, budget, seed)
        view = memo.view(batch, number)
        torch.manual_seed(before)
        state = torch.get_rng_state()
        if before:
            made(system, view, "encode")
        found = made(system, view, "noisy_code"), made(system, view, "noisy_code")
        assert torch.equal(torch.get_rng_state(), state)  # nobody else's noise depends on it
        assert torch.equal(*found)
        return found[0]

    first = drawn(1, 0)
    assert torch.equal(first, drawn(1, 0, before=7)) and torch.equal(first, drawn(1, 0, budget=0))
    assert not torch.equal(first, drawn(2, 0)) and not torch.equal(first, drawn(1, 1))
    memo = Memo(system, 1 << 20, 1)
    pair = memo.view(Pairs(batch.image, batch.image, torch.zeros(3, 2).bool()), 0)
    assert not torch.equal(made(system, pair, "noisy_code"), made(system, pair, "noisy_code", of="other"))
    free = Memo(system, 1 << 20).view(batch, 0)
    torch.manual_seed(3)
    expected = system.noisy_code(batch.image)
    torch.manual_seed(3)
    assert torch.equal(made(system, free, "noisy_code"), expected)


def test_what_somebody_changes_is_made_anew() -> None:
    system, batch = Scaled(), images(3)
    memo = Memo(system, 1 << 20)
    view = memo.view(batch, 0)
    made(system, view, "encode").zero_()
    assert torch.equal(made(system, view, "encode"), batch.image.flatten(1) * 2)
    memo.keep("batch", view)
    changed = memo.view(Images(batch.image.clone(), batch.label), 1)
    changed.image.add_(1)
    assert torch.equal(made(system, changed, "encode"), (batch.image + 1).flatten(1) * 2)
    assert memo.recall(("encode", ("image",), 1)) is None  # it is of no batch that others know
    assert memo.recall("batch") is view
    view.image.add_(1)
    assert memo.recall("batch") is None


def test_the_smaller_stays() -> None:
    memo = Memo(None, 100)
    small, large = [torch.zeros(2) for _ in range(9)], [torch.zeros(10) for _ in range(4)]  # 8 and 40 bytes
    for i, value in enumerate(large):
        memo.keep(("large", i), value)
    assert memo.held == 80 and [memo.recall(("large", i)) is not None for i in range(4)] == [1, 1, 0, 0]
    for i, value in enumerate(small):
        memo.keep(("small", i), value)
    assert all(memo.recall(("small", i)) is value for i, value in enumerate(small)) and memo.held == 72
    assert memo.recall(("large", 1)) is None
    memo.keep("huge", torch.zeros(100))
    assert memo.recall("huge") is None and memo.held == 72
    memo.keep(("small", 0), torch.ones(2))  # again
    assert memo.held == 72 and memo.recall(("small", 0)).sum() == 2


def test_sizes_are_those_of_all_tensors() -> None:
    class Posterior:
        def __init__(self) -> None:
            self.mean, self.about = torch.zeros(3), {"std": [torch.zeros(2, dtype=torch.float64)]}

    memo = Memo(None, 1000)
    memo.keep("a", Posterior())
    memo.keep("b", (torch.zeros(1), "words", None, Counting()))
    assert memo.held == 12 + 16 + 4


def test_anything_can_be_kept() -> None:
    system, calls = Scaled(), []
    memo = Memo(system, 1000)
    views = [memo.view(images(3), number) for number in range(2)]
    for _ in range(2):
        for number, view in enumerate(views):
            assert kept(system, view, "mine", lambda number=number: calls.append(number) or [number]) == [number]
        assert kept(system, images(3), "mine", lambda: "of no view") == "of no view"
    assert calls == [0, 1]


# --- an evaluation


def test_each_image_is_read_encoded_and_decoded_once() -> None:
    system, data, extractor = flow_system(), Counted(), Pixels()
    figures = evaluate(system, pairs_set(data), metrics(extractor))
    batches, samples = [4, 4, 4, 4, 4, 2], [5, 5, 5, 5, 2]
    assert data.read == batches
    first_stage = system.first_stage
    chunks = [4, 4, 1]  # of pairs that are swapped
    assert Counter(first_stage.encoded) == Counter([*batches, *batches, *chunks, *chunks])  # both images of each pair
    # Reconstructions and samples; of each chunk its reconstructions, and two swaps of the one factor with a judge.
    assert Counter(first_stage.decoded) == Counter([*batches, *samples, *chunks * 3])
    assert Counter(extractor.seen) == Counter([*batches, *batches, *samples])
    assert {name.split("/")[0] for name in figures} == {
        *("nll", "inversion", "reconstruction", "fd_pixels", "kid_pixels", "dims", "swaps")
    }


def test_entries_share_what_they_agree_on(tmp_path: Path) -> None:
    extractor = Pixels()
    stats = tmp_path / "train.npz"
    FID(extractor, kid_subsets=0).measure(batched(tiny.SidePairs(30)[range(30)], 10)).save(stats)
    entries = {
        "one": FID(extractor, kid_subset_size=5, batch_size=5),
        "two": FID(extractor, kid_subsets=0, batch_size=5, images=22, statistics=stats),
        "three": FID(Shades(), kid_subsets=0, batch_size=5),
    }
    system, data = flow_system(), Counted()
    extractor.seen.clear()
    figures = evaluate(system, pairs_set(data), {name: entries[name] for name in ("one", "three")})
    assert len(extractor.seen) == 6 + 6 + 5 and len(system.first_stage.decoded) == 6 + 5
    assert "fd_shades/samples" in figures and len(data.read) == 6
    extractor.seen.clear()
    system = flow_system()
    alone = evaluate(system, pairs_set(), {"two": entries["two"]})
    extractor.seen.clear()
    prefixed = dict(entries)
    prefixed["two"].prefix = "fd_train"
    both = evaluate(flow_system(), pairs_set(), {name: prefixed[name] for name in ("one", "two")})
    assert len(extractor.seen) == 6 + 6 + 5  # and not once more for the second
    assert both["fd_train/samples"] == alone["fd_pixels/samples"] != both["fd_pixels/samples"]


@pytest.mark.parametrize("memory", [0, 600, 5000, 1 << 30])
def test_figures_do_not_depend_on_company_or_memory(memory: int) -> None:
    together = evaluate(flow_system(), pairs_set(memory=memory), metrics(), seed=4)
    reversed_ = dict(reversed(metrics().items()))
    assert evaluate(flow_system(), pairs_set(), reversed_, seed=4) == together
    alone = {}
    for name, metric in metrics().items():
        alone |= evaluate(flow_system(), pairs_set(), {f"my {name}": metric}, seed=4)
    assert alone == together
    other = evaluate(flow_system(), pairs_set(), metrics(), seed=5)
    drawn = {"nll/nats", "nll/bits_per_dim"}
    drawn |= {f"{kind}_pixels/samples{end}" for kind in ("fd", "kid") for end in ("", "_std")[: 1 + (kind == "kid")]}
    assert {name for name in together if other[name] != together[name]} == drawn


def test_figures_do_not_depend_on_where_the_batches_come_from() -> None:
    """A loader gives any batch by itself; of other things one has to go through all."""

    class Passing:
        def __init__(self, loader: Loader) -> None:
            self.loader, self.times = loader, 0

        def __iter__(self) -> Iterator[Any]:
            self.times += 1
            return iter(self.loader)

    loader = Loader(tiny.SidePairs(22), 4, seed=3)
    passing = Passing(loader)
    expected = evaluate(flow_system(), pairs_set(), metrics())
    assert evaluate(flow_system(), TestSet(passing, factors=tiny.SidePairs.factors), metrics()) == expected
    assert passing.times == 1
    assert evaluate(flow_system(), TestSet(passing, factors=("side", "residual"), memory=0), metrics()) == expected
    plain = Batches(loader)
    plain.factors = ("side", "residual")
    assert evaluate(flow_system(), plain, metrics()) == expected
    workers = Loader(tiny.SidePairs(22), 4, seed=3, workers=1)
    assert evaluate(flow_system(), TestSet(workers, factors=("side", "residual")), {"nll": NLL()}) == {
        name: expected[name] for name in ("nll/nats", "nll/bits_per_dim", "inversion/max")
    }


def test_called_by_hand_metrics_measure_the_same() -> None:
    """Of lists of batches, without an evaluation; but for noise."""
    system, batches = flow_system().eval(), Batches(Loader(tiny.SidePairs(22), 4, seed=3))
    batches.factors = ("side", "residual")
    expected = evaluate(system, pairs_set(), metrics())
    for metric in metrics().values():
        for name, value in metric(system, batches).items():
            if "samples" not in name and "nll" not in name:
                assert value == expected[name]


class Mine:
    """Somebody's own metric, which has never heard of sharing."""

    def __init__(self) -> None:
        self.views: list[Any] = []

    def __call__(self, system: Any, batches: Iterable[Any]) -> dict[str, float]:
        errors = []
        for batch in batches:
            assert isinstance(batch, Pairs)
            image, other, shared, *_ = batch
            assert shared.shape == (len(image), 2)
            errors.append((system.reconstruct(batch.image) - image).square().sum())
            self.views.append(batch)
            image.zero_(), other.zero_()  # it may
        return {"mine": float(sum(errors))}


def test_a_metric_that_knows_nothing_is_right_and_harms_nobody() -> None:
    mine = Mine()
    figures = evaluate(flow_system(), pairs_set(), {"first": Reconstruction(), "mine": mine, **metrics()})
    assert figures["mine"] == pytest.approx(figures["reconstruction/mse"] * 22 * 64, rel=1e-5)
    expected = evaluate(flow_system(), pairs_set(), metrics())
    assert {name: figures[name] for name in expected} == expected


def test_everything_is_free_again_at_the_end() -> None:
    mine, held = Mine(), []

    class Looking:
        def __call__(self, system: Any, batches: Iterable[Any]) -> dict[str, float]:
            held.append(memo_of(batches, system))
            held.append(held[0].held)
            return {}

    evaluate(flow_system(), pairs_set(), {**metrics(), "looking": Looking()})
    memo, size = held
    assert size > 22 * 2 * 64 * 4 and memo.held == 0 and not memo._entries

    class Broken:
        def __call__(self, system: Any, batches: Iterable[Any]) -> dict[str, float]:
            mine(system, batches)
            raise ValueError("broken")

    system = flow_system().train()
    with pytest.raises(ValueError, match="broken"):
        evaluate(system, pairs_set(), {"broken": Broken()})
    assert (system.training and memo_of(mine.views[0], system) is None) or not memo_of(mine.views[0], system)._entries


def test_an_autoencoder_encodes_once() -> None:
    system = Autoencoder(Counting())
    evaluate(system, pairs_set(), {"reconstruction": Reconstruction(), "dims": FactorDims(), "fid": FID(Pixels())})
    assert len(system.model.encoded) == 12  # both images of each pair, of six batches


def test_samples_are_those_of_their_chunk() -> None:
    system = Scaled()
    memo = Memo(system, 1 << 20, 3)
    batches = Batches()
    torch.manual_seed(0)
    free = sampled(system, batches, 4, 0)
    assert not torch.equal(free, sampled(system, batches, 4, 0))
    batches._memo = memo
    first = sampled(system, batches, 4, 0)
    assert torch.equal(first, sampled(system, batches, 4, 0)) and system.calls["sample"] == 3
    assert not torch.equal(first, sampled(system, batches, 4, 1))
    memo.clear()
    torch.manual_seed(9)
    assert torch.equal(first, sampled(system, batches, 4, 0))


# --- the flow's error


class Slipping(nn.Module):
    """A flow that is undone with an error."""

    def __init__(self, slip: float) -> None:
        super().__init__()
        self.slip = slip
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z + self.slip


class Stub(nn.Module):
    def __init__(self, slip: float) -> None:
        super().__init__()
        self.flow = Slipping(slip)

    def code(self, image: Tensor) -> Tensor:
        return image.flatten(1)


@pytest.mark.parametrize(
    ("slip", "words"),
    [(5e-4, None), (2e-3, "up to 0.002, more than 0.001"), (float("nan"), "up to nan"), (float("inf"), "up to inf")],
)
@pytest.mark.parametrize("entries", [{}, {"inversion": Inversion()}, {"other": FID(Pixels(), images=2)}])
def test_the_flows_error_is_always_measured(
    slip: float, words: str | None, entries: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "iin"):
        figures = evaluate(Stub(slip), TestSet(batched(images(6), 4)), entries)
    assert figures["inversion/max"] == pytest.approx(slip, rel=1e-3, nan_ok=True)
    assert ("inversion/mean" in figures) == ("inversion" in entries)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (words is not None)
    if words:
        assert words in said[0] and "train.lr" in said[0] and "\n" not in said[0]


class Bright(Slipping):
    """A flow that fails where a code is large."""

    def inverse(self, z: Tensor) -> Tensor:
        return z + 0.5 * (z > 4)


def test_where_nobody_asks_for_the_error_the_first_images_will_do(tmp_path: Path) -> None:
    data, system = images(1100), Stub(0)
    data.image[1020] = 5
    system.flow = Bright(0)
    unasked = evaluate(system, TestSet(batched(data, 300)), {})
    assert unasked == {"inversion/max": 0}
    entries = {"inversion": Inversion()}
    asked = evaluate(system, TestSet(batched(data, 300)), entries)
    assert asked["inversion/max"] == 0.5
    run: Any = SimpleNamespace(folder=tmp_path)
    for measured, by, expected in ((unasked, {}, 0), (asked, entries, 0.5), (unasked | {"other": 1}, {}, 0.5)):
        record(run, 3, system, measured, {}, by)
        written = json.loads((tmp_path / "eval/step-00000003/metrics.json").read_text())
        assert written["inversion/max"] == expected
    assert written["other"] == 1 and written["inversion/mean"] == asked["inversion/mean"]
    system.flow.weight.data.add_(1)  # other weights: nothing of before holds
    record(run, 3, system, unasked, {}, {})
    assert json.loads((tmp_path / "eval/step-00000003/metrics.json").read_text())["inversion/max"] == 0


def test_systems_without_a_flow_have_no_such_error(caplog: pytest.LogCaptureFixture) -> None:
    batches = TestSet(batched(images(6), 4))
    for system in (Scaled(), Autoencoder(Counting()), tiny.Duel(), nn.Identity()):
        assert evaluate(system, batches, {}) == {}
    half = Stub(0)
    del half.flow
    half.flow = nn.Identity()
    assert evaluate(half, batches, {}) == {} and not caplog.records


def test_a_flow_that_wants_more_than_a_code_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Conditional(Slipping):
        def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            raise AssertionError

    system = Stub(0)
    system.flow = Conditional(0)
    with caplog.at_level(logging.WARNING, "iin"):
        assert evaluate(system, TestSet(batched(images(6), 4)), {}) == {}
    assert "inversion: the flow's error was not measured (TypeError: " in caplog.text
    interrupt = Interrupt()
    interrupt.asked = 2
    with pytest.raises(Interrupted):
        evaluate(Stub(0), TestSet(batched(images(6), 4), interrupt=interrupt), {})


# --- shares


class Everywhere:
    """Says which batches it got."""

    def __call__(self, system: Any, batches: Iterable[Any]) -> dict[str, float]:
        assert share(batches) == (0, 1) and whole(batches) is batches
        return {"batches": float(sum(1 for _ in batches)), "noise": float(torch.rand(()))}


class Divided(Everywhere):
    divided = True

    def __call__(self, system: Any, batches: Iterable[Any]) -> dict[str, float]:
        number, count = share(batches)
        assert (number, count) == (rank(), world())
        starts = [start for start, _ in placed(batches)]
        assert starts == [start for start, _ in placed(batches)]
        everything = [start for start, _ in placed(whole(batches))]
        assert everything[number::count] == starts
        rows = gathered(batches, [(start, batch.image) for start, batch in placed(batches)])
        assert torch.equal(rows, torch.cat([batch.image for batch in whole(batches)]))
        kinds = gathered(batches, [(start, batch.shared) for start, batch in placed(batches)])
        assert kinds.dtype == torch.bool and len(kinds) == len(rows)
        few = gathered(batches, [(7, torch.tensor([2, 3]))] if number == count - 1 else [])
        assert few.tolist() == [2, 3] and few.dtype == torch.int64
        assert not len(gathered(batches, []))
        assert summed(batches, 1, number) == [count, count * (count - 1) / 2]
        assert largest(batches, torch.tensor([float(number)])).item() == count - 1
        return {"own": float(len(starts)), "divided noise": float(torch.rand(()))}


def _figures(count: int, memory: int = 1 << 30, source: str = "loader") -> dict[str, float]:
    data = tiny.SidePairs(count)
    loader: Any = Loader(data, 4, seed=3)
    test = TestSet(loader if source == "loader" else list(loader), factors=data.factors, memory=memory)
    test.fingerprint = f"{count} pairs"
    entries = {**metrics(), "everywhere": Everywhere(), "divided": Divided(), "accuracy": Accuracy()}
    system = flow_system()
    system.classify = lambda image: nn.functional.one_hot(side(image), 2).float()
    return evaluate(system, test, entries, seed=4)


@pytest.mark.parametrize(
    ("count", "processes", "memory", "source"),
    [(22, 2, 1 << 30, "loader"), (20, 2, 900, "list"), (9, 4, 1 << 30, "loader"), (9, 4, 1 << 30, "list")],
)
def test_figures_of_processes_are_those_of_one(
    count: int, processes: int, memory: int, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that do not come out even; memory for some; and more processes than batches or chunks of pairs."""
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "one"))
    expected = _figures(count, source=source)
    own = expected.pop("own")
    assert own == -(-count // 4)
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / "several"))
    for cached in (False, True):
        assert (tmp_path / "several").exists() == cached
        found = together(_figures, count, memory, source, world=processes)
        for number, figures in enumerate(found):
            assert figures.pop("own") == len(range(number, int(own), processes))
            assert figures == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert len(list((tmp_path / "several").rglob("*.npz"))) == 1


def _elsewhere(folder: str) -> dict[str, float]:
    """A cache that the second process does not see, or has another file in."""
    import os

    os.environ["IIN_CACHE"] = f"{folder}/{rank()}"
    return _figures(22)


@pytest.mark.parametrize("filled", [0, 1])
def test_one_process_decides_what_the_cache_holds(filled: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IIN_CACHE", str(tmp_path / str(filled)))
    expected = _figures(22)
    (file,) = tmp_path.rglob("*.npz")
    before = file.read_bytes()
    found = together(_elsewhere, str(tmp_path))
    for figures in found:
        figures.pop("own")
        assert figures == pytest.approx({k: v for k, v in expected.items() if k != "own"}, rel=1e-6, abs=1e-9)
    assert file.read_bytes() == before and len(list(tmp_path.rglob("*.npz"))) == 1 + filled
