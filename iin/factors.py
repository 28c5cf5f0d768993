"""``factors: auto``: how many dimensions each factor gets, estimated before the flow is built.

A flow that says so stands on a first stage that is trained already, and on pairs; together they tell how much of the
code the pairs of each factor have in common (`iin.metrics.dims`). The sizes take the place of ``auto`` in the run's
configuration, so that a run never estimates twice. `write_overlay` makes a configuration of the sizes that an
evaluation measured, to be merged behind that of a flow.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from iin import config as configuration
from iin.building import datasets, device_of, fresh, is_auto, name_factors, with_factors
from iin.config import ConfigError, Training
from iin.data import Visit
from iin.files import write_atomically
from iin.metrics.dims import at_least_one, factor_dims, factor_scores, pair_codes
from iin.run import Run
from iin.seeds import mix

__all__ = ["adopt", "check_overlay", "provisional", "settle", "write_overlay"]

log = logging.getLogger("iin")

KEY = "system.params.factors"
PAIRS = 10_000
"""Training pairs that are looked at, at most. A score is a ratio of variances: where a quarter of the pairs share the
factor, its standard error is at most about 0.03."""


def provisional(tree: Mapping[str, Any], data: Any) -> Mapping[str, Any]:
    """A copy in which the data's factors share the latent evenly, to try networks out; or the tree as it is.

    Raises:
        ConfigError: the data have no named factors.
    """
    if not is_auto(tree):
        return tree
    names = getattr(data, "factors", None)
    if not names:
        raise ConfigError(
            [f"{KEY}: auto needs training pairs with named factors, such as MNISTPairs, or a data set with pairs: true"]
        )
    return with_factors(tree, len(names))


def settle(tree: dict[str, Any]) -> None:
    """Estimate sizes from the training pairs and put them into the configuration; nothing to do without ``auto``.

    The first stage must have been trained.

    Raises:
        ConfigError: there are fewer dimensions than factors, or a factor that no pair shares.
    """
    if not is_auto(tree):
        return
    settings, seed = Training(**tree.get("train", {})), tree.get("seed", 0)
    (data,) = datasets(tree, "train")
    # The whole system, so that a first stage whose weights are drawn anew is the one that will be trained on.
    system: Any = fresh(provisional(tree, data)).eval().to(device_of(settings))
    name_factors(system, data)
    count = min(PAIRS, len(data))
    log.info("Factors: estimated from %s training pairs ...", f"{count:,}")
    try:
        scores = factor_scores(*pair_codes(system.code, _batches(data, count, settings, seed, device_of(settings))))
        sizes = at_least_one(factor_dims(scores, system.dim))
    except ValueError as error:
        raise ConfigError([f"{KEY}: auto cannot be settled: {error}; give the sizes"]) from error
    tree["system"]["params"]["factors"] = sizes
    found = zip(system.names, sizes, scores.tolist(), strict=True)
    log.info("Factors: %s", ", ".join(f"{name} {size} (score {score:.3f})" for name, size, score in found))


def adopt(tree: dict[str, Any], run: Run) -> None:
    """Put the sizes that a run of this configuration settled on into it; nothing to do without ``auto``."""
    if is_auto(tree):
        tree["system"]["params"]["factors"] = configuration.load([run.config_file]).tree["system"]["params"]["factors"]


def _batches(data: Any, count: int, settings: Training, seed: int, device: torch.device) -> Iterator[Any]:
    """Pairs from all over the set, which may be sorted."""
    rows = torch.linspace(0, len(data) - 1, count, dtype=torch.float64).round().long().tolist()
    for start in range(0, count, settings.eval_batch_size):
        batch = data[Visit(rows[start : start + settings.eval_batch_size], mix(seed, 4))]
        yield batch._replace(image=batch.image.to(device), other=batch.other.to(device))


def check_overlay(path: Path) -> None:
    """See to it, before anything is measured, that an overlay may be written there.

    Raises:
        ValueError: it is no name of a configuration, its folder is missing, or there is a file of somebody's own.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--write {path}: expected a file named .yaml")
    if not path.parent.is_dir():
        raise ValueError(f"--write {path}: there is no folder {path.parent}")
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(MARK.encode())):
        raise ValueError(f"--write {path}: exists, and was not written by --write; choose another name")


def write_overlay(path: Path, figures: Mapping[str, float], origin: str) -> None:
    """Write a configuration, to be merged behind that of a flow, which sets its factors to measured sizes.

    Args:
        path: the file.
        figures: of an evaluation; ``dims/code/<factor>``, in the order of the factors, are the sizes.
        origin: where they were measured, in words.

    Raises:
        ValueError: the figures have no sizes, or it may not be written there (see `check_overlay`).
    """
    check_overlay(path)
    prefix = "dims/code/"
    measured = {name.removeprefix(prefix): int(value) for name, value in figures.items() if name.startswith(prefix)}
    if not measured:
        raise ValueError("--write: no factor sizes were measured; an entry of evaluate must be iin.metrics.FactorDims")
    sizes = at_least_one(list(measured.values()))
    listed = ", ".join(f"{name} {size}" for name, size in zip(measured, sizes, strict=True))
    # Names come from anywhere, a table's header perhaps: a comment is to stay one.
    where = "".join(sign if sign.isprintable() else "?" for sign in f"{origin}: {listed}")
    text = (
        f"{MARK} {where}\n"
        "# Merge it behind the configuration of a flow: iin-train -b FLOW.yaml THIS.yaml\n"
        f"system: {{params: {{factors: [{', '.join(map(str, sizes))}]}}}}\n"
    )
    with write_atomically(path) as file:
        file.write(text.encode())


MARK = "# Factor sizes measured on"
"""How an overlay begins; a file that begins otherwise is somebody's own."""
