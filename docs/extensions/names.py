"""Names in docstrings.

A name in single backticks refers to whatever is called so, from everywhere: `Labelled` is ``iin.data.Labelled``. One
that has no place in the pages is shown as code, as long as the package knows it; one that nothing is called by is an
error, so docstrings cannot speak of what was renamed.
"""

from __future__ import annotations

import importlib
import sys
from functools import reduce
from typing import Any

from docutils import nodes
from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role_to_domain("py", "name", Name())
    app.connect("missing-reference", code_of_known_name)
    app.connect("autodoc-process-docstring", keep_colon, priority=400)  # before napoleon's
    app.connect("autodoc-process-signature", readable_defaults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def readable_defaults(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, signature: str, answer: str) -> Any:
    """Write defaults that a dataclass makes anew each time as ``...``; ``<factory>`` is no Python."""
    return (signature.replace("<factory>", "..."), answer) if "<factory>" in (signature or "") else None


class Name(PyXRefRole):
    """Like ``py:obj``, for the end of a name too; of two that end alike, the module's own."""

    def process_link(
        self, env: BuildEnvironment, refnode: Element, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        title, target = super().process_link(env, refnode, has_explicit_title, title, target)
        refnode["reftype"] = "obj"
        refnode["refspecific"] = True
        return title, target


def code_of_known_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> nodes.Node | None:
    """What is shown for a name that no page explains; None, and so a warning, where there is nothing of that name."""
    if node.get("refdomain") == "py" and exists(node["reftarget"]):
        return content
    return None


def exists(name: str) -> bool:
    """Whether the package has an object of this name, or one in any of its modules."""
    try:
        return importlib.import_module(name) is not None
    except ImportError:
        pass
    modules = [module for path, module in sys.modules.items() if path.split(".")[0] == "iin"]
    for parent in modules:
        try:
            reduce(getattr, name.removeprefix(f"{parent.__name__}.").split("."), parent)
            return True
        except AttributeError:
            continue
    return False


def keep_colon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Tell napoleon that the words before a colon in an attribute's docstring are no type: an empty one comes first."""
    if what in ("attribute", "property", "data") and lines and ":" in lines[0]:
        lines[0] = f": {lines[0]}"
