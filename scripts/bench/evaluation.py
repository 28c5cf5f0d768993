"""What evaluation takes: the Fréchet distance of Inception's size, and swaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from bench.peers import PUBLISHED, Shape
from bench.timing import Row, Settings, interleaved, row, say, threads
from iin.data import ColorfulMNIST, Loader
from iin.evaluation import TestSet
from iin.flows import vector_flow
from iin.metrics import FactorSwaps, frechet_distance
from iin.models import Autoencoder
from iin.systems import FactorFlow

__all__ = ["TASKS", "evaluation_rows", "moments", "scipy_distance"]

TASKS = ("frechet_distance", "swaps")

DIM = 2048
REPEATS = 3


def evaluation_rows(settings: Settings, tasks: Sequence[str]) -> Iterator[Row]:
    """Rows of the distance with 2,048 features and of 2,000 pairs of swaps; three repeats each."""
    count = max(settings.threads)
    with threads(count):
        if "frechet_distance" in tasks:
            yield from distance_rows(DIM, 10_000, count)
        if "swaps" in tasks:
            say("swaps: 2,000 pairs of coloured digits")
            with torch.no_grad():
                (seconds,) = interleaved([swaps()], REPEATS, warm_up=0)
            yield row("swaps", "iin", seconds, batch=250, count=count, pairs=2000)


def distance_rows(dim: int, images: int, count: int) -> Iterator[Row]:
    """The distance here, and by the root of a product of matrices, as others compute it."""
    say(f"frechet_distance: {dim} features of {images:,} images")
    given = (*moments(dim, images, 0), *moments(dim, images, 1))
    arrays = tuple(part.numpy() for part in given)
    ways = {"iin": partial(frechet_distance, *given), "scipy": partial(scipy_distance, *arrays)}
    values: dict[str, float] = {}

    def run(library: str) -> None:
        values[library] = ways[library]()

    samples = interleaved([partial(run, library) for library in ways], REPEATS, warm_up=0)
    difference = abs(values["iin"] - values["scipy"]) / values["scipy"]
    rows = [
        row("frechet_distance", library, seconds, batch=None, count=count, dim=dim, value=values[library])
        for library, seconds in zip(ways, samples, strict=True)
    ]
    rows[0]["times_as_fast"] = rows[1]["seconds"] / rows[0]["seconds"]
    yield from ({**made, "relative_difference": difference} for made in rows)


def moments(dim: int, images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mean ``[d]`` and covariance ``[d, d]``, float64, of random features whose spectrum decays as a network's does.

    The two sets of seeds 0 and 1 share most of their directions, as real and generated images do.
    """
    shared = torch.Generator().manual_seed(7)
    directions = torch.linalg.qr(torch.randn(dim, dim, generator=shared, dtype=torch.float64)).Q
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, dim + 1, dtype=torch.float64) ** (-1.0 - 0.1 * seed)
    drawn = torch.randn(images, dim, generator=generator, dtype=torch.float64)
    features = (drawn + 0.2 * seed) * spectrum.sqrt() @ directions.T
    return features.mean(0), torch.cov(features.T)


def scipy_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Squared Fréchet distance with `scipy.linalg.sqrtm` of the product, the usual formula."""
    root = np.real(sqrtm(cov_a @ cov_b))
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root))


def swaps(
    pairs: int = 2000, shape: Shape = PUBLISHED, factors: tuple[int, ...] = (22, 22, 20)
) -> Callable[[], dict[str, float]]:
    """Swaps of coloured test digits by a flow and an autoencoder with fresh weights, published sizes."""
    data = ColorfulMNIST("test", pairs=True)
    model = Autoencoder(channels=3, dim=shape.dim)
    system = FactorFlow(model, vector_flow(*shape), factors).eval()
    system.names = data.factors
    return partial(FactorSwaps(pairs), system, TestSet(Loader(data, 250), factors=data.factors))
