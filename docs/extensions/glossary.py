"""``.. figures::``: what each figure of an evaluation means, in the words of the report."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import table

from iin.report.glossary import _FIGURES, SECTIONS, section


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("figures", Figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Figures(SphinxDirective):
    """A table of the figures under one heading of the report, or several."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        wanted = [name.strip() for name in self.arguments[0].split(",")]
        if unknown := set(wanted) - set(SECTIONS.values()):
            raise self.error(f"figures: no heading {', '.join(unknown)}; there are {', '.join(SECTIONS.values())}")
        rows = []
        for pattern, figure in _FIGURES.items():
            name, parts = spelt(pattern)
            if section(name) in wanted:
                meaning = nodes.paragraph(text=figure.text.format(*parts))
                rows.append((nodes.paragraph("", "", nodes.literal(text=name)), meaning))
        return [table(["Figure", "Meaning"], rows)]


def spelt(pattern: str) -> tuple[str, list[str]]:
    """The name that a pattern stands for, with a placeholder for each of its groups; and words for the groups."""
    first = pattern.split("/")[0]
    if first in ("swaps", "dims"):
        names, words = ["factor"], ["factor"]
    elif first.startswith("local_"):
        names, words = ["radius"], ["<radius>"]
    else:
        names, words = ["what"], ["samples or reconstructions"]
        if "(" in first:
            names, words = ["network", *names], ["<network>", *words]
    places = iter(names)
    return re.sub(r"\([^)]*\)", lambda _: f"<{next(places)}>", pattern), words
