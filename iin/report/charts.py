"""Charts as inline SVG and HTML, drawn without any library and coloured by the page's style sheet.

The classes used here (``s0`` ... ``s5`` for the series, ``axis``, ``raw``) get their colours in `iin.report`, so that
a chart follows the page into dark mode and onto paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

__all__ = ["SERIES", "Axes", "line_chart", "number", "smooth", "sparkline", "stacked_bar", "ticks"]

SERIES = 6
"""Number of series colours; they repeat after that."""
POINTS = 400
"""Longer series are averaged down to about this many points: a chart has no more pixels."""

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 380, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 36


def number(value: float) -> str:
    """A number for people: four significant digits, thousands apart, no exponent where none is needed."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-4:
        return f"{value:.3g}"
    if float(value).is_integer() or size >= 1e4:
        return f"{value:,.0f}"
    decimals = max(0, 3 - math.floor(math.log10(size)))
    return f"{value:,.{decimals}f}".rstrip("0").rstrip(".")


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers within ``[low, high]``: steps of 1, 2, 2.5 or 5 times a power of ten, about ``count`` of them."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(span / step - count))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def smooth(points: Points, share: float = 0.02) -> list[tuple[float, float]]:
    """Average each point with its neighbours; the window shrinks towards both ends, so no trend is dragged along.

    Args:
        points: (x, y) in order.
        share: half the window as a share of the series.
    """
    reach = max(2, round(len(points) * share))
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    result = []
    for index, (x, _) in enumerate(points):
        half = min(reach, index, len(points) - 1 - index)
        start, end = index - half, index + half + 1
        result.append((x, (sums[end] - sums[start]) / (end - start)))
    return result


class Axes:
    """The frame of a chart: where values lie in it, and the scales at its margins.

    Args:
        xs: all values across; from 0 where they are one.
        ys: all values upwards.
        percent: the upward ones are shares of 1, and the axis ends at 100 %.
        noisy: a few peaks may run along the frame.
        spread: leave some room at both sides, for points that are no beginning and no end.
    """

    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        *,
        percent: bool = False,
        noisy: bool = False,
        spread: bool = False,
    ) -> None:
        self.first, self.last = min(xs), max(xs)
        if spread:
            self.first, self.last = _range(xs, False)
        elif self.first == self.last:
            self.first, self.last = (0.0, self.last) if self.last > 0 else (self.first - 1, self.last + 1)
        self.low, self.high = _share_range(ys) if percent else _range(ys, noisy)
        self.percent = percent

    def across(self, x: float) -> float:
        """Pixels from the left."""
        return _LEFT + (x - self.first) / (self.last - self.first) * (_WIDTH - _LEFT - _RIGHT)

    def down(self, y: float) -> float:
        """Pixels from the top; what is out of range lies on the frame."""
        share = min(1.0, max(0.0, (y - self.low) / (self.high - self.low)))
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def opened(self, label: str) -> str:
        """The drawing's first tag.

        Args:
            label: what it shows, escaped.
        """
        return f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'

    def scales(self, across: str) -> str:
        """Both scales, and what the one below is of."""
        parts = []
        for y in ticks(self.low, self.high):
            at = self.down(y)
            label = f"{100 * y:g}%" if self.percent else _short(y)
            parts.append(f'<path class="axis" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        for x in ticks(self.first, self.last):
            at = self.across(x)
            parts.append(f'<path class="axis" d="M{at:.1f} {_HEIGHT - _BOTTOM}v4"/>')
            parts.append(f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{_short(x)}</text>')
        parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{escape(across)}</text>')
        return "".join(parts)


def line_chart(
    series: Mapping[str, Points],
    *,
    raw: bool = False,
    percent: bool = False,
    colours: Mapping[str, int] | None = None,
) -> str:
    """Curves over steps.

    Args:
        series: name -> (step, value) in order of steps; what is not finite is left out.
        raw: the values are noisy: draw them faintly, and their average over them.
        percent: values are shares of 1: the axis ends at 100 %.
        colours: number of each one's colour; default: one after another.

    Returns:
        An ``<svg>`` element, or nothing when no value is finite.
    """
    curves = {name: _thin([p for p in points if math.isfinite(p[1])]) for name, points in series.items()}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    steps = [x for points in curves.values() for x, _ in points]
    axes = Axes(steps, [y for points in curves.values() for _, y in points], percent=percent, noisy=raw)
    across, down = axes.across, axes.down
    title = escape(", ".join(curves))
    parts = [axes.opened(f"{title} over steps"), axes.scales("step")]
    for index, (name, points) in enumerate(curves.items()):
        colour = f"s{(colours[name] if colours else index) % SERIES}"
        smoothed = raw and len(points) >= 8
        if smoothed:
            parts.append(f'<path class="curve raw {colour}" d="{_path(points, across, down)}"/>')
            points = smooth(points)
        if len(points) > 1:
            parts.append(f'<path class="curve {colour}" d="{_path(points, across, down)}"/>')
        if not smoothed and len(points) <= 30:
            for x, y in points:
                hint = f"{escape(name)}: {f'{y:.1%}' if percent else number(y)} at step {number(x)}"
                where = f'cx="{across(x):.1f}" cy="{down(y):.1f}"'
                parts.append(f'<circle class="{colour}" {where} r="3"><title>{hint}</title></circle>')
    return "".join(parts) + "</svg>"


def sparkline(values: Sequence[float]) -> str:
    """The course of a few values as a line of a text's height; nothing for fewer than two finite ones."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    points = [
        (4 + 72 * i / (len(finite) - 1), 18 - 14 * ((v - low) / span if high > low else 0.5))
        for i, v in enumerate(finite)
    ]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    x, y = points[-1]
    return (
        '<svg class="spark" viewBox="0 0 80 22" aria-hidden="true">'
        f'<path class="curve s0" d="M{line}"/><circle class="s0" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/></svg>'
    )


def stacked_bar(parts: Mapping[str, float], names: Sequence[str] = ()) -> str:
    """Shares of a whole as one horizontal bar; what is too narrow for its number shows it on hover, and in print below.

    Args:
        parts: name -> size, not negative.
        names: order that gives each name its colour; default: that of ``parts``.
    """
    order = list(names) or list(parts)
    total = sum(parts.values())
    cells = []
    for name, size in parts.items():
        if size > 0:
            share, label = size / total, number(size)
            colour = (order.index(name) if name in order else len(order)) % SERIES
            text = label if share > 0.03 + 0.015 * len(label) else ""
            cells.append(
                f'<div class="b{colour}" style="flex:{share:.5f} 1 0" title="{escape(name)}: {label}">{text}</div>'
            )
    return f'<div class="stack">{"".join(cells)}</div>'


def _short(value: float) -> str:
    """A tick's label: 20k for 20,000."""
    for unit, size in (("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _range(values: Sequence[float], noisy: bool) -> tuple[float, float]:
    """Limits of the axis of values; a few peaks of a noisy series do not flatten all the rest."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if noisy and len(ordered) >= 20:
        bottom, top = ordered[len(ordered) // 50], ordered[-1 - len(ordered) // 50]
        low, high = max(low, bottom - (top - bottom)), min(high, top + (top - bottom))
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    margin = 0.06 * (high - low)
    # An axis of what cannot be negative does not reach below zero just for its margin.
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _share_range(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis of shares: from 0, unless all lie close to 100 %."""
    lowest = min(values)
    return (0.9 if lowest > 0.9 else 0.5 if lowest > 0.5 else 0.0), 1.0


def _thin(points: Points) -> list[tuple[float, float]]:
    """Average groups of neighbours until about `POINTS` are left."""
    size = math.ceil(len(points) / POINTS)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _path(points: Points, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    return "M" + "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in points)
