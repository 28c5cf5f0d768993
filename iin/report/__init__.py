"""A run's results as one page, made from nothing but the run's folder.

``page`` gathers and writes it, ``charts`` draws curves and bars as SVG, ``glossary`` says in words what each figure is,
``style`` is its CSS; ``layers`` draws the curve over several runs. To explain a new figure, add a line to ``glossary``.
"""

from iin.report.page import Results, gather, render, write

__all__ = ["Results", "gather", "render", "write"]
