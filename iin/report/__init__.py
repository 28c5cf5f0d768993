"""A run's results as one page, made from nothing but the run's folder; and several runs side by side.

``results`` gathers what a folder says and ``page`` writes it, ``charts`` draws curves and bars as SVG, ``glossary``
says in words what each figure is, ``style`` is the CSS. ``comparison`` gathers what several folders say, ``compare``
sets it side by side, with the charts of ``compare_charts``; ``layers`` draws the curve over layers. To explain a new
figure, add a line to ``glossary``.
"""

from iin.report.glossary import headlines
from iin.report.page import render, write
from iin.report.results import Results, gather

__all__ = ["Results", "gather", "headlines", "render", "write"]
