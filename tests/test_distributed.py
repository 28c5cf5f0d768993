"""What processes put together, alone and in company."""

from __future__ import annotations

import math

import pytest
import torch
from processes import together

from iin.distributed import gather, largest, rank, total, world


def test_alone_nothing_is_put_together() -> None:
    rows = torch.arange(6.0).view(3, 2)
    assert (rank(), world()) == (0, 1)
    assert all(torch.equal(found, rows) for found in (gather(rows), total(rows), largest(rows)))


def _meet() -> tuple[int, int, list[torch.Tensor], torch.Tensor]:
    own = torch.arange(1.0, 7).view(3, 2) * (rank() + 1)
    before = own.clone()
    ragged = gather(own[: 3 - 2 * rank()])  # 3 rows and 1
    nothing = gather(own[:0])
    masks = gather(torch.tensor([[rank() == 0, True]]))
    counts = gather(torch.arange(rank() * 2))  # none and 2
    bounds = largest(torch.tensor([float(rank()), -float(rank()), math.nan if rank() == 0 else 5.0]))
    summed = total(own)
    assert torch.equal(own, before)
    return rank(), world(), [ragged, nothing, masks, counts, bounds], summed


def test_two_put_their_rows_and_sums_together() -> None:
    answers = together(_meet)
    assert [answer[:2] for answer in answers] == [(0, 2), (1, 2)]
    own = torch.arange(1.0, 7).view(3, 2)
    for _, _, (ragged, nothing, masks, counts, bounds), summed in answers:
        assert torch.equal(ragged, torch.cat([own, 2 * own[:1]]))
        assert nothing.shape == (0, 2)
        assert masks.tolist() == [[True, True], [False, True]]
        assert counts.tolist() == [0, 1] and counts.dtype == torch.int64
        assert bounds[:2].tolist() == [1.0, 0.0] and bounds[2].isnan()
        assert torch.equal(summed, 3 * own)


def _fail() -> None:
    if rank() == 1:
        raise ValueError("of the second")


def test_a_failure_is_told_of() -> None:
    with pytest.raises(AssertionError, match=r"process 1:(.|\n)*ValueError: of the second"):
        together(_fail)
