"""What pages are made of: the document around everything, sections, numbers, curves with their legend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from iin.report import charts
from iin.report.glossary import Figure
from iin.report.style import STYLE

__all__ = ["curves", "document", "framed", "legend", "section", "value"]


def document(title: str, body: str, footer: str) -> str:
    """A whole page, which fetches nothing and runs nothing.

    Args:
        title: escaped, as are the others.
        body: what stands above the footer.
        footer: where it all comes from.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
<footer>{footer}
</footer>
</main>
</body>
</html>
"""


def section(title: str, body: str, text: str = "") -> str:
    """A heading, a paragraph about it, and what it is about."""
    intro = f"<p>{text}</p>" if text else ""
    return f"<section>\n<h2>{title}</h2>\n{intro}{body}\n</section>"


def value(number: float, figure: Figure) -> str:
    """A figure's value for people."""
    if not math.isfinite(number):
        return f'<em class="bad">{number}</em>'
    return f"{number:.1%}" if figure.percent else charts.number(number)


def curves(title: str, series: Mapping[str, charts.Points], *, raw: bool = False, percent: bool = False) -> str:
    """Curves over steps with a title and, where there are several, a legend; nothing without a finite value."""
    return framed(title, charts.line_chart(series, raw=raw, percent=percent), list(series))


def framed(title: str, drawing: str, names: Sequence[str] = ()) -> str:
    """A drawing with its title and a legend of more than one name; nothing without a drawing."""
    if not drawing:
        return ""
    names_of_colours = legend(names, "b") if len(names) > 1 else ""
    return f"<figure><figcaption><b>{escape(title)}</b>{names_of_colours}</figcaption>{drawing}</figure>"


def legend(names: Sequence[str], prefix: str) -> str:
    """Names with the colours that they have in a chart."""
    items = (f'<li><i class="{prefix}{k % charts.SERIES}"></i>{escape(name)}</li>' for k, name in enumerate(names))
    return f'<ul class="legend">{"".join(items)}</ul>'
