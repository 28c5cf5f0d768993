"""Formulas as pictures of their outlines, drawn when the pages are built: readers need no script, font or network."""

from __future__ import annotations

import html
import re
from typing import Any

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

PIXELS = 17
"""Size of the letters; text is 16 pixels high, and the formulas' font is a little smaller than most."""

TALLEST = 8
"""Of a formula, in letters."""


def setup(app: Sphinx) -> dict[str, Any]:
    ziamath.config.svg2 = False  # glyphs as paths: as symbols, those of two formulas would share their names
    ziamath.config.precision = 2
    app.add_html_math_renderer("svg", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def picture(latex: str, *, within_text: bool) -> str:
    """A formula as SVG in the colour of the text around it; its LaTeX is what screen readers say.

    Raises:
        ExtensionError: it cannot be drawn.
    """
    try:
        drawn = ziamath.Latex(latex, size=PIXELS, inline=within_text, color="currentColor")
        svg, shift, meaning = drawn.svg(), drawn.getyofst(), drawn.mathmlstr()
    except Exception as error:  # whatever LaTeX that it does not know leads to
        raise ExtensionError(f"formula {latex!r} cannot be drawn ({type(error).__name__}: {error})") from error
    if unknown := re.findall(r"\\\w*", meaning):
        raise ExtensionError(f"formula {latex!r}: {', '.join(unknown)} is not known")
    if drawn.getsize()[1] > TALLEST * PIXELS:  # some delimiters grow without end
        raise ExtensionError(f"formula {latex!r} is drawn {drawn.getsize()[1]:.0f} pixels high: write it another way")
    # In units of the text, so that formulas grow with it.
    svg = re.sub(r'\b(width|height)="([\d.]+)"', lambda m: f'{m[1]}="{float(m[2]) / 16:.3f}em"', svg, count=2)
    name = html.escape(" ".join(latex.split()), quote=True)
    place = f' style="vertical-align: {shift / 16:.3f}em"' if within_text else ""
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name}"{place} ', 1)


def inline(self: Any, node: nodes.math) -> None:
    self.body.append(f'<span class="math">{picture(node.astext(), within_text=True)}</span>')
    raise nodes.SkipNode


def block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f"{self.starttag(node, 'div', CLASS='math')}{picture(node.astext(), within_text=False)}</div>\n")
    raise nodes.SkipNode
