"""``.. command:: iin.cli.train``: a command's usage, options and examples, taken from its parser."""

from __future__ import annotations

import argparse
import importlib
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import table


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command", Command)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class _Parser(Exception):
    """Carries a parser out of the command that made it."""


def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser that a command's ``main`` makes, at the moment when it would read the command line."""

    def caught(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Parser(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_intermixed_args", caught):
        try:
            importlib.import_module(module).main([])
        except _Parser as found:
            return found.args[0]
    raise LookupError(f"{module}.main reads its command line in another way")


class Command(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        parser = parser_of(self.arguments[0])
        examples = (parser.epilog or "").strip("\n").removeprefix("examples:\n").splitlines()
        column = examples[0].rindex("  ") + 2 if examples else 0  # where the words begin that say what a line does
        text = "\n".join(_example(line, column) for line in examples)
        code = nodes.literal_block(text, text, language="bash")
        return [nodes.paragraph(text=parser.description), self.options_of(parser), code]

    def options_of(self, parser: argparse.ArgumentParser) -> nodes.Node:
        rows = []
        for action in parser._actions:
            if action.help != argparse.SUPPRESS:
                name = (action.option_strings or [action.dest])[-1].lstrip("-")
                ids = [f"{parser.prog}-{name}"]
                spelling = nodes.paragraph("", "", nodes.literal(text=_spelling(action)), ids=ids)
                rows.append((spelling, nodes.paragraph(text=_sentence(action.help or ""))))
        return table(["Option", "Meaning"], rows)


def _example(line: str, column: int) -> str:
    """A line of examples as one of a script; a long command has its words on the next line."""
    if line[:column].endswith(" ") and not line[column:].startswith("-"):
        return f"{line[2:column]}# {line[column:]}"
    return line[2:]


def _spelling(action: argparse.Action) -> str:
    """``-b FILE ..., --base FILE ...`` as ``-b, --base FILE ...``."""
    value = action.metavar or (f"{{{','.join(action.choices)}}}" if action.choices else "")
    if action.nargs in ("*", "+"):
        value = f"{value} ..."
    return " ".join(filter(None, (", ".join(action.option_strings), str(value) if action.nargs != 0 else "")))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
