"""All layers of a network, and what each answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from iin.models.representation.arranging import Shape, arrange, pick, shape_of
from iin.models.representation.layer import Layer
from iin.models.representation.names import aliases
from iin.models.representation.reading import kinds, submodule
from iin.models.representation.sources import is_named

__all__ = ["Row", "describe"]


class Row(NamedTuple):
    """A layer: the ``path`` that `Layer` knows it by, the name of its ``type``, the ``shape`` of its representation of
    one image without the batch, None if it has none, and a ``note`` of what is odd."""

    path: str
    type: str
    shape: tuple[int, ...] | None
    note: str = ""


def describe(
    model: nn.Module | str | Callable[..., Any] | Layer, size: int | Sequence[int] = 224, channels: int = 3
) -> list[Row]:
    """List the layers of a network, ``input`` first, ``logits`` and ``softmax`` last.

    Args:
        model: a `Layer`, whose network and preprocessing are meant; or what `Layer` takes for one, without
            preprocessing.
        size: of the images, one number for a square.
        channels: of the images.

    Raises:
        ValueError: there is no such network, or it does not take such images.
    """
    layer = model if isinstance(model, Layer) else Layer(model, "logits", weights="random" if is_named(model) else None)
    with torch.no_grad():
        inputs = layer.network_input(layer._black(size, channels))
        whole = layer._run(inputs)
        names = kinds(layer.model)
        answers = layer._read(inputs, names, shape_of, stop=False)
        also = {path: name for name, path in aliases(layer.model).items()}

        @cache
        def larger() -> dict[str, list[Any]]:
            try:
                return layer._read(
                    inputs.new_zeros(1, inputs.shape[1], *(2 * n for n in inputs.shape[2:])),
                    names,
                    shape_of,
                    stop=False,
                )
            except ValueError:
                return {}

        def row(path: str, kind: str, answer: Any, note: str) -> Row:
            def other() -> Shape | None:
                calls = larger().get(path)
                return tuple(calls[0].shape) if calls and isinstance(calls[0], Tensor) else None

            try:
                value = pick(answer, None, "it")
                found = arrange(
                    value, tuple(inputs.shape), "it", "auto", submodule(layer.model, path), layer.model, other
                )
            except ValueError as error:
                return Row(path, kind, None, str(error))
            return Row(path, kind, tuple(found.shape[1:]), note)

        rows = [] if "input" in names else [Row("input", "", tuple(inputs.shape[1:]), "what the network gets")]
        for path, kind in names.items():
            calls = answers.get(path, [])
            notes = [f"also {also[path]}"] if path in also else []
            if len(calls) > 1:
                notes.append(f"called {len(calls)} times, the first counts")
            if calls:
                rows.append(row(path, kind, calls[0], "; ".join(notes)))
            else:
                unseen = ", or in a branch or loop only" if isinstance(layer.model, torch.jit.ScriptModule) else ""
                rows.append(Row(path, kind, None, f"never called for an image{unseen}"))
        for own, note in (("logits", "what the network answers"), ("softmax", "of the logits")):
            if own not in names:
                rows.append(row("", "", whole, note)._replace(path=own))
    return rows
