"""Codes and factors of points, as the scores of this package want them; whatever else is given is one clear line."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

__all__ = [
    "Array",
    "Points",
    "checked",
    "classifiers",
    "constant",
    "enough",
    "fitting",
    "learners",
    "real_numbers",
    "split",
    "whole_numbers",
]

Array = np.ndarray | Tensor
"""What the functions of this package take; they answer numbers."""
_MOST = float(np.finfo(np.float32).max)
"""Of a code: trees work in single precision, and squares of squares are to be finite in double precision."""
Points = tuple[Array, Array]
"""Codes ``[N, D]`` and factors ``[N, F]``."""


def checked(codes: Array, factors: Array, metric: str, *, bins: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``[N, D]`` in their own floating type, and factors ``[N, F]`` int64.

    Args:
        codes: floats.
        factors: whole numbers.
        metric: who asks; errors say so.
        bins: what is put into bins needs as many points at least.

    Raises:
        ValueError: these are no such arrays.
    """
    values = real_numbers(codes, metric)
    numbers = whole_numbers(factors, metric)
    if len(values) != len(numbers):
        raise ValueError(f"{metric}: {len(values)} codes, but factors of {len(numbers)} points; expected as many")
    enough(len(values), bins, metric)
    return values, numbers


def enough(points: int, bins: int | None, metric: str) -> None:
    """Raise ValueError where there are fewer points than bins, or than 2."""
    if bins is not None and bins < 2:
        raise ValueError(f"{metric}: bins: expected at least 2, found {bins}")
    if points < (bins or 2):
        raise ValueError(f"{metric}: {points} points; expected at least {f'as many as bins, {bins}' if bins else 2}")


def real_numbers(codes: Array, metric: str) -> np.ndarray:
    """Codes ``[N, D]``, float32 or float64, all within the range of float32.

    Raises:
        ValueError: they are not.
    """
    if isinstance(codes, Tensor):
        codes = codes.detach().cpu()
        codes = codes.float() if codes.is_floating_point() and codes.itemsize < 4 else codes
    if isinstance(getattr(codes, "mean", None), Tensor):
        raise ValueError(
            f"{metric}: codes are a {type(codes).__name__}, a distribution; expected [N, D]: take its mean"
        )
    if isinstance(codes, list | tuple) and any(isinstance(part, Tensor) and part.ndim > 1 for part in codes):
        raise ValueError(
            f"{metric}: codes are a {type(codes).__name__} of {len(codes)} parts; expected one tensor [N, D]: take the "
            "part that is the code"
        )
    try:
        values = np.asarray(codes)
    except ValueError:
        raise ValueError(f"{metric}: codes are rows of different lengths; expected [N, D]") from None
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"{metric}: codes {list(values.shape)}; expected [N, D], a row for each point")
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{metric}: codes are {values.dtype}; expected real numbers")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"{metric}: code {column} of point {row} is {values[row, column]} ({len(wrong)} such values); "
            "expected finite numbers"
        )
    if values.size and (most := float(np.abs(values).max())) > _MOST:
        raise ValueError(f"{metric}: codes reach {most:.1e}; expected at most {_MOST:.1e}, as single precision holds")
    return values


def whole_numbers(factors: Array, metric: str) -> np.ndarray:
    """Factors ``[N, F]`` int64.

    Raises:
        ValueError: they are none.
    """
    numbers = factors.detach().cpu().numpy() if isinstance(factors, Tensor) else np.asarray(factors)
    if numbers.ndim != 2 or not numbers.shape[1]:
        raise ValueError(f"{metric}: factors {list(numbers.shape)}; expected [N, F], a row for each point")
    if numbers.dtype.kind not in "iub":
        raise ValueError(f"{metric}: factors are {numbers.dtype}; expected integers, the number of each factor's value")
    return numbers.astype(np.int64)


def constant(factors: np.ndarray) -> np.ndarray:
    """Which factors have one value only: bool ``[F]``."""
    return (factors == factors[:1]).all(0)


def split(
    codes: Array, factors: Array, test: Points | None, seed: int, metric: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes and factors to learn from, and those to be tested on.

    Args:
        codes: ``[N, D]``.
        factors: ``[N, F]``; none may be constant where it is learnt.
        test: others; None sets a third of the points aside, at random.
        seed: of that.
        metric: who asks.

    Raises:
        ValueError: codes or factors cannot be used, or do not fit those of the test.
    """
    values, numbers = checked(codes, factors, metric)
    if test is None:
        if len(values) < 3:
            raise ValueError(f"{metric}: {len(values)} points; expected at least 3, of which one is for the test")
        order = np.random.RandomState(seed).permutation(len(values))
        learnt, tested = order[len(values) // 3 :], order[: len(values) // 3]
        found = values[learnt], numbers[learnt], values[tested], numbers[tested]
    else:
        test_values, test_numbers = real_numbers(test[0], f"{metric}, test"), whole_numbers(test[1], f"{metric}, test")
        if not 0 < len(test_values) == len(test_numbers):
            raise ValueError(f"{metric}: test: {len(test_values)} codes, but factors of {len(test_numbers)} points")
        sizes = [(values.shape[1], numbers.shape[1]), (test_values.shape[1], test_numbers.shape[1])]
        if sizes[0] != sizes[1]:
            (d, f), (test_d, test_f) = sizes
            raise ValueError(f"{metric}: {d} codes and {f} factors, but {test_d} and {test_f} in the test")
        found = values, numbers, test_values, test_numbers
    if alike := np.flatnonzero(constant(found[1])).tolist():
        which = f"factor {alike[0]} has" if len(alike) == 1 else f"factors {', '.join(map(str, alike))} have"
        raise ValueError(f"{metric}: {which} one value only, so there is nothing to predict; leave that column out")
    return found


def learners(metric: str) -> str | None:
    """Why a metric's classifiers are not there, in words; None where they are."""
    if importlib.util.find_spec("sklearn") is None:
        return f"{metric} needs the package scikit-learn: pip install 'iin[metrics]'"
    return None


def classifiers(module: str, metric: str) -> Any:
    """A module of scikit-learn, such as ``svm``.

    Raises:
        ValueError: the package is missing.
    """
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ValueError(learners(metric) or f"{metric}: scikit-learn cannot be imported: {error}") from error


@contextmanager
def fitting() -> Iterator[None]:
    """Within this context classifiers do not warn that they stopped at the number of steps that the metric gives."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"sklearn\.")
        yield
