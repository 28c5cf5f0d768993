"""A table of all that a module exports, each name with its first lines, before its members are explained one by one."""

from __future__ import annotations

import inspect
from typing import Any

from docstrings import summary
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", add_overview, priority=600)  # after napoleon's
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_overview(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Add the table to the docstring of a module that is documented with its members."""
    left_out = getattr(options, "exclude_members", None) or ()
    members = {each: getattr(obj, each) for each in getattr(obj, "__all__", ()) if each not in left_out}
    members = {each: member for each, member in members.items() if inspect.isclass(member) or inspect.isroutine(member)}
    if what == "module" and options.members and len(members) > 1:
        lines += ["", ".. list-table::", "   :class: overview", ""]
        for each, member in members.items():
            lines += [f"   * - :py:obj:`~{name}.{each}`", f"     - {summary(member)}"]
        lines.append("")
