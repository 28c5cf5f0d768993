"""What docstrings say of arguments, and what signatures do."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from iin.config.hints import describe, hints_of, show


class Argument(NamedTuple):
    """One argument of a target."""

    name: str
    kind: str
    """What may be given, in the words of the errors."""
    default: str | None
    """In YAML's spelling, as reStructuredText; None where it has to be given."""
    text: str
    """What it means, in reStructuredText."""


def arguments(target: Callable[..., Any]) -> list[Argument]:
    """The arguments of a class or function, in order.

    Raises:
        ValueError: the docstring does not say what one of them means.
    """
    signature = inspect.signature(target)
    hints = hints_of(target, signature)
    found = []
    for name, parameter in signature.parameters.items():
        text = meaning(target, name)
        if text is None:
            raise ValueError(f"{target.__module__}.{target.__qualname__}: its docstring does not explain {name}")
        default = None if parameter.default is parameter.empty else f"``{show(parameter.default).strip(chr(34))}``"
        found.append(Argument(name, kind(hints.get(name, Any)), default, in_yaml(text)))
    return found


def kind(hint: Any) -> str:
    """What a hint asks for, in the words of the errors."""
    return describe(hint).replace("text or a path", "a path")


def in_yaml(text: str) -> str:
    """Words of Python in the spelling of YAML."""
    return re.sub(r"\b(None|True|False)\b", lambda match: f"``{YAML[match[1]]}``", text)


YAML = {"None": "null", "True": "true", "False": "false"}


def summary(target: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((inspect.getdoc(target) or "").split("\n\n")[0].split())


def meaning(target: Any, name: str) -> str | None:
    """What a docstring says of an argument, or that of a base class; ``see `Other``` is looked up there."""
    for owner in inspect.getmro(target) if inspect.isclass(target) else (target,):
        text = _entries(owner.__dict__.get("__doc__") if inspect.isclass(owner) else owner.__doc__).get(name)
        if text is None:
            continue
        match = re.match(r"see `([\w.]+)`\.?(.*)", text)
        if not match:
            return text
        elsewhere = meaning(_named(match[1], owner), name)
        return elsewhere and f"{elsewhere.rstrip('.')}.{match[2]}"
    return None


def _named(name: str, beside: Any) -> Any:
    """The object of a dotted name, or of one that the module of another object knows, or the package around that."""
    module, _, last = name.rpartition(".")
    place = module or beside.__module__
    while not hasattr(importlib.import_module(place), last):
        if module or "." not in place:
            raise ValueError(f"{beside.__module__}.{beside.__qualname__}: its docstring names {name}, which is nowhere")
        place = place.rpartition(".")[0]
    return getattr(importlib.import_module(place), last)


def _entries(docstring: str | None) -> dict[str, str]:
    """The entries of the section ``Args``. Names that share one have the same text; more than a reference to where
    they are explained is about the last of them."""
    body = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(docstring or ""), re.DOTALL | re.MULTILINE)
    entries: dict[str, str] = {}
    for match in _ENTRY.finditer(textwrap.dedent(body[1])) if body else ():
        names, text = match[1].split(", "), " ".join(match[2].split())
        entries |= dict.fromkeys(names, re.sub(r"^(see `[\w.]+`)\..*", r"\1", text)) | {names[-1]: text}
    return entries


_ENTRY = re.compile(r"^(\w+(?:, \w+)*): ((?:.*\n?)(?:^[ \n].*\n?)*)", re.MULTILINE)
