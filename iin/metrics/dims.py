r"""Factor dimensions: how many of a code's units each factor deserves, seen from pairs that share it.

A factor's score says how much two images agree in the code when they agree in the factor; a softmax over the scores
splits the dimensions. There are two formulas, and they differ:

* The paper sums a correlation coefficient over the N units, :math:`s_F \in [-N, N]`, gives the residual N, and
  exponentiates that. As soon as the units agree only partly, all but a vanishing part goes to the residual.
* The published code divides one sum of covariances by the total variance of the code, so that
  :math:`s_F \in [-1, 1]`, gives the residual 1, and exponentiates that. The split is gentle. This is what the published
  models used, and what to use.

References:
    | A Disentangling Invertible Interpretation Network for Explaining Latent Representations (Esser et al., 2020)
    | https://arxiv.org/abs/2004.13166
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from iin.metrics.contract import factor_names, gathered, made, method, placed
from iin.system import System

__all__ = ["FactorDims", "at_least_one", "factor_dims", "factor_scores", "pair_codes", "paper_scores"]


def factor_scores(first: Tensor, second: Tensor, shared: Tensor) -> Tensor:
    r"""Scores by the published code's formula, in [-1, 1].

    .. math:: s_f = \frac{\sum_i \mathrm{mean}_f[(a_i - \mu_i)(b_i - \mu_i)]}{\sum_i \mathrm{var}[\{a_i, b_i\}]}

    where the mean is over the pairs that share factor f, :math:`\mu` is the mean of all their codes, and the
    (population) variance is over the codes of all pairs, whatever they share.

    Args:
        first: codes ``[N, D]``.
        second: codes ``[N, D]`` of the other images.
        shared: bool ``[N, K]``, which factors the two share; the last one is the residual.

    Returns:
        ``[K]`` float64; the residual's score is 1.

    Raises:
        ValueError: shapes do not fit, or a factor is shared by no pair.
    """
    first, second = _pairs(first, second, shared)
    total = torch.cat((first, second)).var(0, correction=0).sum()
    if not total > 0:
        raise ValueError(f"the codes of all {len(first)} pairs are equal; no factor can be told from another")
    scores = []
    for mask in shared.T[:-1].bool():
        a, b = first[mask], second[mask]
        mean = (a.mean(0) + b.mean(0)) / 2
        scores.append(((a - mean) * (b - mean)).mean(0).sum() / total)
    return torch.stack([*scores, first.new_ones(())])


def paper_scores(first: Tensor, second: Tensor, shared: Tensor) -> Tensor:
    r"""Scores by the paper's formula, in [-N, N] for N = D units: the correlation coefficient, summed over the units.

    .. math:: s_f = \sum_i \frac{\mathrm{Cov}_f(a_i, b_i)}{\sqrt{\mathrm{Var}_f(a_i) \mathrm{Var}_f(b_i)}}

    A unit that is constant within the factor counts nothing.

    Args:
        first: codes ``[N, D]``.
        second: codes ``[N, D]`` of the other images.
        shared: bool ``[N, K]``, which factors the two share; the last one is the residual.

    Returns:
        ``[K]`` float64; the residual's score is D.

    Raises:
        ValueError: shapes do not fit, or a factor is shared by no pair.
    """
    first, second = _pairs(first, second, shared)
    scores = []
    for mask in shared.T[:-1].bool():
        a, b = first[mask] - first[mask].mean(0), second[mask] - second[mask].mean(0)
        norm = (a.square().sum(0) * b.square().sum(0)).sqrt()
        correlation = (a * b).sum(0) / norm  # 0/0 for a constant unit
        scores.append(torch.where(norm > 0, correlation, 0).sum())
    return torch.stack([*scores, first.new_tensor(first.shape[1])])


def factor_dims(scores: Sequence[float] | Tensor, dim: int) -> list[int]:
    """Split ``dim`` units among factors in proportion to the exponentials of their scores.

    Shares are rounded down and the last factor, the residual, takes what is left, so a factor may get no unit.

    Args:
        scores: ``[K]``, residual last.
        dim: number of units to split.

    Returns:
        ``K`` sizes that sum to ``dim``.

    Raises:
        ValueError: fewer than one score, or one that is not finite.
    """
    values = torch.as_tensor(scores, dtype=torch.float64)
    if values.ndim != 1 or not len(values) or not values.isfinite().all():
        raise ValueError(f"scores: expected one finite number a factor, found {values.tolist()}")
    # softmax subtracts the maximum first: the paper's scores reach N, and exp(N) would overflow.
    shares = torch.softmax(values, 0) * dim
    # A share that is a whole number, as of factors that score alike, must not lose a unit to the last binary place.
    sizes = [int(share) for share in (shares[:-1] + 1e-9).floor()]
    return [*sizes, dim - sum(sizes)]


def at_least_one(sizes: Sequence[int]) -> list[int]:
    """Sizes with a unit for each factor: those without get one, from the largest.

    Rounded down, the share of a factor may be nothing; a flow has no use for a factor of no dimension.

    Raises:
        ValueError: there are fewer units than factors.
    """
    if sum(sizes) < len(sizes):
        raise ValueError(f"{sum(sizes)} dimensions are too few for {len(sizes)} factors")
    filled = list(sizes)
    while 0 in filled:
        filled[filled.index(max(filled))] -= 1
        filled[filled.index(0)] += 1
    return filled


@torch.no_grad()
def pair_codes(code: Callable[[Tensor], Tensor], pairs: Iterable[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of all pairs, on the CPU.

    Args:
        code: image ``[B, C, H, W]`` -> ``[B, D]``.
        pairs: batches of `iin.data.Pairs`.

    Returns:
        Codes ``[N, D]`` of the first images and of the others, and ``shared [N, K]``.
    """
    rows = [(code(batch.image).cpu(), code(batch.other).cpu(), batch.shared.cpu()) for batch in pairs]
    first, second, shared = (torch.cat(column) for column in zip(*rows, strict=True))
    return first, second, shared


class FactorDims:
    """Factor dimensions of the first stage's code, estimated on the test pairs.

    Figures, for each factor and the residual: ``dims/code/<factor>`` and ``dims/score/<factor>``, units and score by
    the published code's formula; ``dims/paper/<factor>`` and ``dims/paper_score/<factor>`` by the paper's.

    Needs ``system.code(image) -> [B, D]`` (of an autoencoder, ``encode``) and test data of pairs.
    """

    divided = True

    def check_system(self, system: System) -> None:
        """Raise ValueError for a system that this cannot measure."""
        getattr(system, "code", None) or method(system, "encode", "FactorDims")

    @torch.no_grad()
    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        names = factor_names(batches, "FactorDims")
        self.check_system(system)
        code = "code" if hasattr(system, "code") else "encode"
        parts: tuple[list[tuple[int, Tensor]], ...] = ([], [], [])
        for start, batch in placed(batches):
            found = made(system, batch, code), made(system, batch, code, of="other"), batch.shared
            for part, rows in zip(parts, found, strict=True):
                part.append((start, rows))
        first, second, shared = (gathered(batches, part) for part in parts)
        if not len(shared):
            raise ValueError("FactorDims: there are no test pairs")
        if shared.shape[1] != len(names):
            raise ValueError(f"FactorDims: {len(names)} factors are named {names}, but pairs tell of {shared.shape[1]}")
        for name, count in zip(names[:-1], shared.sum(0).tolist(), strict=False):
            if not count:
                raise ValueError(f"FactorDims: none of the {len(shared)} test pairs shares the factor {name!r}")
        scores, paper = factor_scores(first, second, shared), paper_scores(first, second, shared)
        columns = {
            "code": factor_dims(scores, first.shape[1]),
            "paper": factor_dims(paper, first.shape[1]),
            "score": scores.tolist(),
            "paper_score": paper.tolist(),
        }
        return {
            f"dims/{kind}/{name}": float(value)
            for kind, values in columns.items()
            for name, value in zip(names, values, strict=True)
        }


def _pairs(first: Tensor, second: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """Check shapes; the codes in float64."""
    if first.ndim != 2 or first.shape != second.shape or shared.ndim != 2 or len(shared) != len(first):
        raise ValueError(
            "expected codes [N, D], [N, D] and shared [N, K], "
            f"found {list(first.shape)}, {list(second.shape)} and {list(shared.shape)}"
        )
    empty = [index for index, count in enumerate(shared[:, :-1].sum(0).tolist()) if not count]
    if empty:
        raise ValueError(f"factor {empty[0]} is shared by none of the {len(first)} pairs")
    return first.double(), second.double()
