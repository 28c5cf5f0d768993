"""Names of a network's layers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

__all__ = ["OWN", "aliases", "nearest", "resolve"]

OWN = ("input", "logits", "softmax")
"""Names that every network has: the image as the network gets it, what it answers, and its softmax."""


def aliases(model: object) -> dict[str, str]:
    """Further names that a network gives its layers: its attribute ``layer_names``, a mapping of names to paths."""
    found = getattr(model, "layer_names", None)
    return dict(found) if isinstance(found, Mapping) else {}


def resolve(layer: str, paths: Iterable[str], also: Mapping[str, str], network: str) -> str:
    """The path of a submodule; empty for one of `OWN`.

    A submodule goes before a name of the same spelling in ``also`` or `OWN`.

    Args:
        layer: the name that was asked for.
        paths: the paths of all submodules.
        also: further names, and the paths that they stand for.
        network: what the network is called in messages.

    Raises:
        ValueError: there is no such layer; the nearest names are listed.
    """
    known = list(paths)
    if layer in known:
        return layer
    if layer in also:
        return also[layer]
    if layer in OWN:
        return ""
    names = [*OWN, *also, *known]
    raise ValueError(f"{network} has no layer {layer!r}; {nearest(layer, names)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: ``did you mean ...?``, else what there is."""
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(name[:80], names, n=3, cutoff=0.6)
    # "layer3" of a network that is held in another is "body.layer3".
    close += [path for path in names if path.rpartition(".")[2] == name and path not in close][:3]
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    return f"there are: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
