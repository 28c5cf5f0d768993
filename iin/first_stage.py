"""The network under a flow: a part of another, finished run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from iin import config as configuration
from iin import experiment
from iin.run import Run, RunError, read_checkpoint

__all__ = ["pretrained"]


def pretrained(
    config: str | Mapping[str, Any] | None = None,
    part: str = "model",
    run: str | None = None,
    checkpoint: str | None = None,
) -> nn.Module:
    """A part of a trained system, frozen and in eval mode.

    In a configuration, ``config`` alone is enough: the finished run of that very configuration is looked up in the
    logs folder, and where there is none, it is trained before anything is built.

    Args:
        config: the configuration that the network is, or was, trained with: a path, the name of a shipped one, or a
            whole configuration as a mapping.
        part: attribute path of the part, such as ``model``; empty for the whole system.
        run: a run's folder, instead of looking one up.
        checkpoint: a checkpoint file; its configuration is that of the run that it lies in, or else ``config``.

    Raises:
        RunError: there is no finished run of that configuration; this function does not train.
        ValueError: there is no such part.
    """
    for mistake in check(config, part, run, checkpoint):
        raise ValueError(f"pretrained: {mistake}")
    if run is not None:
        system = experiment.load(run).system
    elif checkpoint is not None and config is None:
        system = experiment.load(Run(Path(checkpoint).parent.parent), checkpoint).system
    else:
        made = experiment.plan(_config(config))
        if checkpoint is not None:
            system = experiment.with_weights(made.tree, read_checkpoint(Path(checkpoint)), Path(checkpoint))
        else:
            found = Run.find_finished(experiment.logs_folder(), made.digest)
            if found is None:
                raise RunError(
                    f"no finished run of {made.tree['name']} below {experiment.logs_folder()}: train it with iin-train -b"
                )
            system = experiment.load(found).system
    return experiment.part_of(system, {"part": part}).eval().requires_grad_(False)


def _config(config: str | Mapping[str, Any] | None) -> configuration.Config:
    return configuration.Config(config) if isinstance(config, Mapping) else configuration.load([str(config)])


def check(
    config: Any = None, part: Any = "model", run: Any = None, checkpoint: Any = None, **_: Any
) -> Iterator[str]:
    """What is wrong with the arguments taken together."""
    if run is not None and checkpoint is not None:
        yield "give run or checkpoint, not both"
    if config is None and run is None and checkpoint is None:
        yield "give config, run or checkpoint"


pretrained.check = check  # type: ignore[attr-defined]
