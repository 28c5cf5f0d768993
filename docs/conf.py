"""How the pages are built: sphinx-build -W docs docs/build. Nothing is fetched, then or when they are read."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

import iin  # noqa: E402 - found by the line above

project = "iin"
author = "the iin authors"
copyright = "the iin authors"
version = release = iin.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "formulas",
    "names",
    "settings",
    "commands",
    "glossary",
    "overview",
]
exclude_patterns = ["build", "extensions"]
nitpicky = True

# Pages are Markdown; docstrings are reStructuredText, in which `a name` in single backticks refers to it.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
default_role = "py:name"

# --- docstrings -----------------------------------------------------------------------

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_type_aliases = {
    name: f"iin.arguments.{name}" for name in ("Count", "Even", "Fraction", "NonNegative", "NonNegativeInt", "Positive")
}
autodoc_inherit_docstrings = False
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
viewcode_line_numbers = True

# What annotations name beside this package; its pages are elsewhere, and looking them up would need a network.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|nn|np|numpy|PIL|Image|abc|argparse|pathlib|collections|typing|annotated_types)(\..*)?"),
    (r"py:.*", r"Tensor|TypeAliasForwardRef|iin\.(\w+\.)*_\w+"),
]

# --- look -----------------------------------------------------------------------

html_theme = "furo"
html_title = f"iin {release}"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "svg"
templates_path: list[str] = []
pygments_style = "friendly"
pygments_dark_style = "github-dark"
