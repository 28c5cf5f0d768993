"""Charts that set runs side by side: dots for each group, lines with error bars, one figure against another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from iin.report.charts import SERIES, Axes, number, ticks

__all__ = ["Mark", "against", "dots", "with_errors"]

_WIDTH, _ROW, _MARGIN = 380, 40, 8


class Mark(NamedTuple):
    """A mean over runs."""

    x: float
    y: float
    error_x: float = 0.0
    """Standard deviation over the runs."""
    error_y: float = 0.0
    label: str = ""


def dots(rows: Sequence[tuple[str, Sequence[float]]], *, percent: bool = False) -> str:
    """A dot for each run and a stroke at their mean, a row for each group.

    Args:
        rows: name of a group, and its runs' values; what is not finite is left out.
        percent: values are shares of 1.

    Returns:
        An ``<svg>`` element, or nothing when no value is finite.
    """
    finite = [(label, [value for value in values if math.isfinite(value)]) for label, values in rows]
    every = [value for _, values in finite for value in values]
    if not every:
        return ""
    low, high = min(every), max(every)
    margin = 0.08 * (high - low) or abs(low) * 0.1 or 1.0
    low, high = low - margin, high + margin
    height = _ROW * len(finite) + 24

    def across(value: float) -> float:
        return _MARGIN + (value - low) / (high - low) * (_WIDTH - 2 * _MARGIN)

    def said(value: float) -> str:
        return f"{value:.1%}" if percent else number(value)

    title = escape(", ".join(label for label, _ in finite))
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}">']
    for mark in ticks(low, high):
        at = across(mark)
        text = f"{100 * mark:g}%" if percent else f"{mark:g}"
        parts.append(f'<path class="axis" d="M{at:.1f} 4V{height - 20}"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - 5}" text-anchor="middle">{text}</text>')
    for index, (label, values) in enumerate(finite):
        top, colour = index * _ROW, f"s{index % SERIES}"
        line = top + 28
        shown = label if len(label) <= 48 else f"{label[:47]}…"
        parts.append(f'<text class="name" x="{_MARGIN}" y="{top + 14}">{escape(shown)}</text>')
        parts.append(f'<path class="axis" d="M{_MARGIN} {line}H{_WIDTH - _MARGIN}"/>')
        for value in values:
            hint = f"{escape(label)}: {said(value)}"
            faint = " faint" if len(values) > 1 else ""
            where = f'cx="{across(value):.1f}" cy="{line}"'
            parts.append(f'<circle class="{colour}{faint}" {where} r="4.5"><title>{hint}</title></circle>')
        if len(values) > 1:
            at = across(sum(values) / len(values))
            parts.append(f'<path class="curve {colour}" d="M{at:.1f} {line - 9}V{line + 9}"/>')
    return "".join(parts) + "</svg>"


def with_errors(series: Mapping[str, Sequence[Mark]], across: str, *, percent: bool = False) -> str:
    """Lines through means, with a bar of one standard deviation to both sides.

    Args:
        series: name of a group -> its means, from left to right.
        across: what the axis below is of.
        percent: values are shares of 1.

    Returns:
        An ``<svg>`` element, or nothing without means.
    """
    every = [mark for marks in series.values() for mark in marks]
    if not every:
        return ""
    ends = [mark.y + sign * mark.error_y for mark in every for sign in (-1, 1)]
    axes = Axes([mark.x for mark in every], ends, percent=percent, spread=True)
    parts = [axes.opened(escape(f"{', '.join(series)} over {across}")), axes.scales(across)]
    for index, (name, marks) in enumerate(series.items()):
        # Beside each other, so that bars of equal places do not hide each other.
        aside = 3.0 * (index - (len(series) - 1) / 2) if len(series) <= SERIES else 0.0
        parts.append(_track(axes, name, marks, f"s{index % SERIES}", across, aside, percent=percent))
    return "".join(parts) + "</svg>"


def against(tracks: Mapping[str, Sequence[Mark]], across: str, *, percent: bool = False) -> str:
    """One figure against another: means with their labels, joined in order, and a bar of one deviation each way.

    Args:
        tracks: name -> its means in the order of what varies along it.
        across: the figure on the axis below.
        percent: those on the upward axis are shares of 1.

    Returns:
        An ``<svg>`` element, or nothing without means.
    """
    every = [mark for marks in tracks.values() for mark in marks]
    if not every:
        return ""
    xs = [mark.x + sign * mark.error_x for mark in every for sign in (-1, 1)]
    ys = [mark.y + sign * mark.error_y for mark in every for sign in (-1, 1)]
    axes = Axes(xs, ys, percent=percent, spread=True)
    parts = [axes.opened(escape(f"{', '.join(tracks)} over {across}")), axes.scales(across)]
    for index, (name, marks) in enumerate(tracks.items()):
        parts.append(_track(axes, name, marks, f"s{index % SERIES}", across, percent=percent))
    middle = axes.across((axes.first + axes.last) / 2)
    for mark in every:
        x, y = axes.across(mark.x), axes.down(mark.y) - 7
        place = f'x="{x + 6:.1f}" y="{y:.1f}"' if x < middle else f'x="{x - 6:.1f}" y="{y:.1f}" text-anchor="end"'
        parts.append(f'<text class="name" {place}>{escape(mark.label)}</text>')
    return "".join(parts) + "</svg>"


def _track(
    axes: Axes, name: str, marks: Sequence[Mark], colour: str, across: str, aside: float = 0.0, *, percent: bool
) -> str:
    """The means of one group: their line, bars and points."""
    parts = []
    places = [(axes.across(mark.x) + aside, axes.down(mark.y)) for mark in marks]
    if len(places) > 1:
        parts.append(f'<path class="curve {colour}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>')
    for mark, (x, y) in zip(marks, places, strict=True):
        if mark.error_y:
            top, bottom = axes.down(mark.y + mark.error_y), axes.down(mark.y - mark.error_y)
            ends = f"M{x - 3:.1f} {top:.1f}h6m-3 0V{bottom:.1f}m-3 0h6"
            parts.append(f'<path class="curve bar {colour}" d="{ends}"/>')
        if mark.error_x:
            left, right = axes.across(mark.x - mark.error_x), axes.across(mark.x + mark.error_x)
            ends = f"M{left:.1f} {y - 3:.1f}v6m0 -3H{right:.1f}m0 -3v6"
            parts.append(f'<path class="curve bar {colour}" d="{ends}"/>')
        said = f"{mark.y:.1%}" if percent else number(mark.y)
        error = f" ± {f'{mark.error_y:.1%}' if percent else number(mark.error_y)}" if mark.error_y else ""
        who = " ".join(filter(None, (name, mark.label)))
        hint = escape(f"{who}: {said}{error} at {across} {number(mark.x)}")
        parts.append(f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"><title>{hint}</title></circle>')
    return "".join(parts)
