"""Tiny data sets, systems and metrics that tests name in configurations (``--allow tiny``), and such configurations."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from iin.arguments import Count, NonNegative, NonNegativeInt
from iin.data import Images, Pairs
from iin.data.memory import Classes, Dequantise, Labelled, digest
from iin.models import Autoencoder as AutoencoderModel
from iin.models.gaussian import Gaussian
from iin.system import Objective, System
from iin.systems import Autoencoder

# --- data --------------------------------------------------------------------------------------------------------


class Sides(Labelled):
    """Noise that is bright on the left, or on the right: ``image [B, channels, size, size]``, ``label [B]``.

    Args:
        count: number of images.
        size: height and width.
        channels: of the images.
        classes: 2 sides, or 1.
        broken: index of an image that is NaN.
    """

    factors: tuple[str, ...] | None = None

    def __init__(
        self,
        count: Count = 24,
        size: Count = 8,
        channels: Count = 1,
        classes: Count = 2,
        broken: NonNegativeInt | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(count)
        label = torch.arange(count) % classes
        image = torch.randint(0, 100, (count, channels, size, size), generator=generator)
        image[label == 0, :, :, : size // 2] += 120
        image[label == 1, :, :, size // 2 :] += 120
        image = image.to(torch.uint8)
        super().__init__(image, label, source="tiny", fingerprint=digest("tiny", image, label))
        self.broken = broken

    def __getitem__(self, indices: Sequence[int]) -> Any:
        return self.spoilt(super().__getitem__(indices), indices)

    def spoilt(self, batch: Any, indices: Sequence[int]) -> Any:
        if self.broken in indices:
            batch.image[list(indices).index(self.broken)] = float("nan")
        return batch


class SidePairs(Sides):
    """`Pairs` of images that are bright on the same side."""

    factors = ("side", "residual")

    def __init__(
        self,
        count: Count = 24,
        size: Count = 8,
        channels: Count = 1,
        classes: Count = 2,
        broken: NonNegativeInt | None = None,
    ) -> None:
        super().__init__(count, size, channels, classes, broken)
        self.classes = Classes(self._label)

    def __getitem__(self, indices: Sequence[int]) -> Pairs:
        rows, draws = self.rows(indices)
        others = self.classes.another(rows, draws)
        shared = torch.tensor([True, False]).repeat(len(rows), 1)  # [B, 2]
        images = self.pixels(rows, draws), self.pixels(others, draws)
        return self.spoilt(Pairs(*images, shared, self._label[rows], self._label[others]), indices)


class Still(Sides):
    """`Sides` of which one says how noise is drawn."""

    def __init__(self, count: Count = 24, dequantise: Dequantise = "fixed") -> None:
        super().__init__(count)
        self._dequantise = dequantise
        self.fingerprint = digest(f"{type(self).__name__} {dequantise}", self.fingerprint)


class StillPairs(Still, SidePairs):
    """`SidePairs` of which one says how noise is drawn."""


class Triples(SidePairs):
    """Pairs that name a third factor."""

    factors = ("side", "colour", "residual")


class Odd(SidePairs):
    """Pairs whose factors are called as no file can be."""

    factors = ("left/right: which?", "residual")


class Stepped(SidePairs):
    """Pairs whose factor is called as the pictures of a step are."""

    factors = ("a_step-b", "residual")


# --- systems -----------------------------------------------------------------------------------------------------


class Slow(Autoencoder):
    """An autoencoder that rests before each step, so that a test may meet it in the middle of one."""

    def __init__(self, model: AutoencoderModel, rest: NonNegative = 0.02, once: NonNegativeInt | None = None) -> None:
        super().__init__(model)
        self.rest, self.once = rest, once

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        if self.once is None or self.once == step:
            time.sleep(self.rest)
        yield from super().objectives(batch, step)


class Bursting(Autoencoder):
    """An autoencoder whose loss is infinite at one step, or whose weights become so."""

    def __init__(
        self, model: AutoencoderModel, step: NonNegativeInt | None = None, weights: NonNegativeInt | None = None
    ) -> None:
        super().__init__(model)
        self.step, self.weights = step, weights

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        for name, loss, scalars in super().objectives(batch, step):
            yield Objective(name, loss * float("inf") if step == self.step else loss, scalars)
        if step == self.weights:
            self.logvar.data.fill_(float("nan"))


class Duel(System):
    """Two players with an optimiser each; the second sees the first one's new weights."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.ones(2))
        self.right = nn.Parameter(torch.ones(2))

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        yield Objective("left", (self.left * self.right.detach() + batch.image.mean()).square().sum(), {})
        yield Objective(
            "right", (self.left.detach() - self.right).square().sum() + torch.rand(()), {"seen": self.left[0]}
        )

    def trainable(self) -> dict[str, list[nn.Parameter]]:
        return {"left": [self.left], "right": [self.right]}


class Codeless(Duel):
    """A system with factors, but without codes."""

    def __init__(self, factors: Any = 2) -> None:
        super().__init__()
        self.factors = (1,) * factors


class Undrawn(Autoencoder):
    """An autoencoder whose picture is none."""

    def images(self, batch: Any) -> dict[str, Any]:
        return {"odd": batch.image[0]}


class Needy(nn.Module):
    """A first stage that cannot be tried out without values."""

    dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def encode(self, image: Tensor) -> Gaussian:
        if image.sum().item() == 0:
            raise ValueError("nothing to see")
        code = image[:, 0, 0, :4] * self.weight
        return Gaussian(code, code.new_zeros(code.shape))


class Cut(nn.Sequential):
    """A classifier of `Sides`, to be looked into: layers ``0`` to ``4``."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 2)
        )


class Narrow(nn.Module):
    """A first stage for images of 4x4 only, with weights that it loads itself."""

    dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)
        self.load_state_dict({"layer.weight": torch.ones(4, 16), "layer.bias": torch.zeros(4)})

    def encode(self, image: Tensor) -> Gaussian:
        code = self.layer(image.flatten(1))
        return Gaussian(code, torch.zeros_like(code))


class Blind(nn.Module):
    """A first stage that sees the same in all images."""

    dim = 4

    def encode(self, image: Tensor) -> Gaussian:
        code = image.new_zeros(len(image), 4)
        return Gaussian(code, code)


# --- metrics -----------------------------------------------------------------------------------------------------


class Noise:
    """A figure that is drawn, and depends on the weights.

    Args:
        name: of the figure.
        fact: what it says of itself.
    """

    def __init__(self, name: str = "noise", fact: str | None = None) -> None:
        self.name = name
        self.facts = {"extractor": fact} if fact else {}

    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        weights = sum(p.double().sum() for p in system.parameters())
        pixels = sum(batch.image.double().sum() for batch in batches)
        return {self.name: float(weights * torch.rand((), dtype=torch.float64) + pixels)}


class Resting:
    """A figure that takes its time over each batch."""

    def __init__(self, rest: NonNegative = 0.05) -> None:
        self.rest = rest

    def __call__(self, system: System, batches: Iterable[Any]) -> dict[str, float]:
        count = 0
        for _ in batches:
            count += 1
            time.sleep(self.rest)
        return {"batches": count}


class Void:
    """A figure that is none."""

    def __call__(self, system: System, batches: Iterable[Images]) -> dict[str, float]:
        return {"void": float("nan"), "noise": 1.0}


# --- configurations ----------------------------------------------------------------------------------------------


def node(target: str, **params: Any) -> dict[str, Any]:
    return {"target": target, "params": params}


def autoencoder(**train: Any) -> dict[str, Any]:
    """24 images, batches of 4: 6 steps an epoch, 12 in all."""
    return {
        "name": "toy_ae",
        "data": {"train": node("tiny.Sides", count=24), "test": node("tiny.Sides", count=10)},
        "system": node(
            "iin.systems.Autoencoder",
            model=node("iin.models.Autoencoder", channels=1, size=8, dim=4, n_down=2, width=4),
        ),
        "train": {"epochs": 2, "batch_size": 4, "eval_batch_size": 4, "lr": 1e-2, "log_every": 2, **train},
        "evaluate": {"reconstruction": node("iin.metrics.Reconstruction"), "noise": node("tiny.Noise")},
    }


def flow(first_stage: Mapping[str, Any], **train: Any) -> dict[str, Any]:
    """A disentangling flow over the autoencoder's code; as many steps."""
    return {
        "name": "toy_flow",
        "data": {"train": node("tiny.SidePairs", count=24), "test": node("tiny.SidePairs", count=10)},
        "system": node(
            "iin.systems.FactorFlow",
            first_stage=node("iin.first_stage.pretrained", **first_stage),
            flow=node("iin.flows.vector_flow", dim=4, blocks=2, hidden=8, depth=1),
            factors=[2, 2],
        ),
        "train": {"epochs": 2, "batch_size": 4, "eval_batch_size": 4, "lr": 1e-2, "log_every": 2, **train},
        "evaluate": {"nll": node("iin.metrics.NLL"), "noise": node("tiny.Noise")},
    }


def conditional(first_stage: Mapping[str, Any], layer: str = "2", **train: Any) -> dict[str, Any]:
    """A conditional flow over the autoencoder's code and a layer of `Cut`: its map ``2``, or its answer."""
    embedder = {"2": node("iin.models.PoolingEmbedder", channels=4, dim=4)}.get(
        layer, node("iin.models.DenseEmbedder", channels=2, dim=4)
    )
    return {
        "name": f"layer_{layer}",
        "data": {"train": node("tiny.Still", count=24), "test": node("tiny.Still", count=10)},
        "system": node(
            "iin.systems.LatentFlow",
            first_stage=node("iin.first_stage.pretrained", **first_stage),
            representation=node("iin.models.Layer", model=node("tiny.Cut"), layer=layer),
            flow=node("iin.flows.conditional_flow", dim=4, blocks=2, hidden=8, depth=1, embedder=embedder),
        ),
        "train": {"epochs": 2, "batch_size": 4, "eval_batch_size": 4, "lr": 1e-2, "log_every": 2, **train},
        "evaluate": {
            "invariances": node("iin.metrics.Invariances", images=10, samples=3),
            "normality": node("iin.metrics.Normality"),
        },
    }


def write(path: Path, tree: Mapping[str, Any]) -> str:
    """Write a configuration; returns its path as the command line has it."""
    path.write_text(yaml.safe_dump(dict(tree), sort_keys=False))
    return str(path)
