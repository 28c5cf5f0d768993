"""Tables as the pages show them: on narrow screens each row becomes a block (see ``static/pages.css``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from docutils import nodes

__all__ = ["table"]


def table(columns: Sequence[str], rows: Iterable[Sequence[nodes.Node]]) -> nodes.table:
    """A table.

    Args:
        columns: their titles.
        rows: a node for each cell.
    """
    group = nodes.tgroup(cols=len(columns))
    group += [nodes.colspec(colwidth=1) for _ in columns]
    head = nodes.row("", *(nodes.entry("", nodes.paragraph(text=title)) for title in columns))
    body = nodes.tbody("", *(nodes.row("", *(nodes.entry("", cell) for cell in row)) for row in rows))
    group += [nodes.thead("", head), body]
    return nodes.table("", group, classes=["settings", "colwidths-auto"])
