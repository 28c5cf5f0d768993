"""Tables of what a configuration may say, taken from the code that checks it.

Directives, for pages in Markdown within ``{eval-rst}``::

    .. arguments:: iin.config.Training      a table of its arguments; with :key:, the key that they stand below

    .. keys:: iin.config.schema.WANDB       a table of the keys of a mapping or tuple; the content explains each of
       project: what it is.                 them, and no other

    .. targets:: iin.data                   a section for each object of the module that a configuration may name
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, ClassVar

from docstrings import Argument, arguments, kind, summary
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import table
from torch import Tensor, nn

from iin.config import ConfigError, resolve
from iin.config.hints import hints_of
from iin.system import System


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("arguments", ArgumentTable)
    app.add_directive("keys", KeyTable)
    app.add_directive("targets", Targets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def named(path: str) -> Any:
    """The object of an import path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class Table(SphinxDirective):
    """What the tables share."""

    def rows(self, found: Iterable[Argument], prefix: str) -> nodes.Node:
        """A table whose rows can be linked to, by ``key-`` and the key's full path."""
        return table(["Key", "Value", "Default", "Meaning"], (self.row(one, prefix) for one in found))

    def row(self, argument: Argument, prefix: str) -> list[nodes.Node]:
        name = nodes.paragraph("", "", nodes.literal(text=argument.name), ids=[f"key-{prefix}{argument.name}"])
        kind = self.prose(argument.kind.replace(">=", "≥"), capital=False)
        if argument.default is None:
            default = nodes.paragraph("", "", nodes.inline(text="required", classes=["required"]))
        else:
            default = self.prose(argument.default, capital=False)
        return [name, kind, default, self.prose(argument.text)]

    def prose(self, text: str, *, capital: bool = True) -> nodes.Node:
        """A line of reStructuredText, its first letter large."""
        parsed = nodes.Element()
        where = f"{self.env.docname}:{self.lineno}"
        text = text[:1].upper() + text[1:] if capital else text
        self.state.nested_parse(StringList([text], where), 0, parsed)
        return parsed[0]

    def error_of(self, error: Exception) -> Exception:
        return self.error(f"{self.name}: {error}")


class ArgumentTable(Table):
    required_arguments = 1
    option_spec: ClassVar = {"key": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        try:
            found = arguments(named(self.arguments[0]))
        except ValueError as error:
            raise self.error_of(error) from error
        return [self.rows(found, f"{self.options['key']}." if "key" in self.options else "")]


class KeyTable(Table):
    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"key": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        hints = named(self.arguments[0])
        texts = dict(re.findall(r"^(\w+): (.*(?:\n +.*)*)", "\n".join(self.content), re.MULTILINE))
        known = hints if isinstance(hints, Mapping) else dict.fromkeys(hints)
        if texts.keys() != known.keys():
            missing, surplus = known.keys() - texts.keys(), texts.keys() - known.keys()
            raise self.error_of(ValueError(f"{self.arguments[0]}: not explained {missing}, not known {surplus}"))
        found = []
        for name, text in texts.items():
            # "kind | default | meaning", or the meaning alone where the hint tells the kind.
            *told, meaning = (part.strip() for part in " ".join(text.split()).split(" | "))
            what, default = told if told else (kind(known[name]), "none")
            found.append(Argument(name, what, None if default == "required" else default, meaning))
        return [self.rows(found, f"{self.options['key']}." if "key" in self.options else "")]


class Targets(Table):
    required_arguments = 1
    option_spec: ClassVar = {"except": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        return [self.section(f"{module.__name__}.{name}", target) for name, target in targets(module)]

    def section(self, path: str, target: Any) -> nodes.section:
        section = nodes.section(ids=[f"key-{path}"], names=[])
        section += nodes.title("", "", nodes.literal(text=path))
        text = self.prose(summary(target))
        link = pending_xref("", nodes.inline(text="Reference"), refdomain="py", reftype="obj", reftarget=path)
        link.attributes |= {"refexplicit": True, "refwarn": True, "refdoc": self.env.docname}
        section += nodes.paragraph("", "", *text.children, nodes.Text(" "), link)
        try:
            found = arguments(target)
        except ValueError as error:
            raise self.error_of(error) from error
        section += self.rows(found, f"{path}.") if found else self.prose("No arguments.")
        return section


def targets(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a configuration may name of a module: all that it exports, but for types, functions of tensors, and parts
    that do nothing by themselves."""
    for name in sorted(module.__all__, key=lambda name: list(vars(module)).index(name)):
        try:
            target = resolve(f"{module.__name__}.{name}")
        except ConfigError:
            continue
        if is_target(target):
            yield name, target


def is_target(target: Any) -> bool:
    """Whether plain data and other targets are enough to make something of it that a configuration needs."""
    if inspect.isabstract(target) or getattr(target, "_is_protocol", False):
        return False
    signature = inspect.signature(target)
    hints = hints_of(target, signature)
    needed = [hints.get(name) for name, p in signature.parameters.items() if p.default is p.empty]
    if Tensor in needed or any("Tensor" in str(hint) for hint in needed):
        return False
    if not inspect.isclass(target):
        made = typing.get_type_hints(target).get("return")
        return inspect.isclass(made) and issubclass(made, nn.Module)
    if issubclass(target, (tuple, list)):
        return False
    return issubclass(target, (System, nn.Module)) or _is_data(target) or _is_metric(target)


def _is_data(kind: type) -> bool:
    return hasattr(kind, "__len__") and hasattr(kind, "__getitem__")


def _is_metric(kind: type) -> bool:
    call = vars(kind).get("__call__")
    return call is not None and list(inspect.signature(call).parameters)[1:] == ["system", "batches"]
