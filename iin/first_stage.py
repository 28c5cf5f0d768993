"""The network under a flow: a part of another, finished run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from iin.building import trained_part
from iin.plan import locate

__all__ = ["pretrained"]


def pretrained(
    config: str | Mapping[str, Any] | None = None,
    part: str = "model",
    run: str | None = None,
    checkpoint: str | None = None,
    original: str | Mapping[str, Any] | None = None,
) -> nn.Module:
    """A part of a trained system, frozen and in eval mode.

    In a configuration, ``config`` alone is enough: the finished run of that very configuration is looked up in the
    logs folder, and where there is none, it is trained before anything is built.

    A checkpoint or run's folder of the original project will do as well: its autoencoder, classifier or flow. A flow is
    no first stage, but this may stand where a system asks for its ``flow``, which is then trained further from these
    weights, or with ``train.steps=0`` evaluated as it is.

    Args:
        config: the configuration that the network is, or was, trained with: a path, the name of a shipped one, or a
            whole configuration as a mapping.
        part: attribute path of the part, such as ``model``; empty for the whole system. A flow of the original is
            a whole.
        run: a run's folder, instead of looking one up.
        checkpoint: a checkpoint file; its configuration is that of the run that it lies in, or else ``config``. One of
            the original project tells its own.
        original: of a conditional flow of the original, what its weights do not tell, as `iin.compat.load` takes it in
            ``config``: ``activation`` and, for maps, ``conditioning_spatial_size``; or the path of its YAML file.

    Raises:
        RunError: there is no finished run of that configuration; this function does not train.
        ValueError: there is no such part.
    """
    for mistake in check(config, part, run, checkpoint, original):
        raise ValueError(f"pretrained: {mistake}")
    params: dict[str, Any] = {
        "config": config,
        "part": part,
        "run": run,
        "checkpoint": checkpoint,
        "original": original,
    }
    locate(params)
    return trained_part(params)


def check(
    config: Any = None, part: Any = "model", run: Any = None, checkpoint: Any = None, original: Any = None, **_: Any
) -> Iterator[str]:
    """What is wrong with the arguments taken together."""
    if run is not None and checkpoint is not None:
        yield "give run or checkpoint, not both"
    if config is None and run is None and checkpoint is None:
        yield "give config, run or checkpoint"
    if original is not None and checkpoint is None and run is None:
        yield "original tells of a checkpoint; give checkpoint too"


pretrained.check = check  # type: ignore[attr-defined]
