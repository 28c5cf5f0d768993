"""Several runs side by side on one page, made from their folders alone.

Runs that differ in nothing but the seed are a group: of these the page says mean and standard deviation.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from iin.files import write_atomically
from iin.report import charts, compare_charts, gallery, parts
from iin.report.compare_charts import Mark
from iin.report.comparison import Comparison, Group, compare, number, setting, shown
from iin.report.glossary import SECTIONS, Figure, explain, headlines, section
from iin.report.results import short, word

__all__ = ["chosen", "compare", "render", "write"]

COLUMNS = 6
"""As many settings and figures have columns of their own in the first table; the others stand below."""


def write(folders: Sequence[Path], path: Path, title: str = "", figures: Sequence[str] = ()) -> None:
    """Write the page.

    Args:
        folders: of the runs.
        path: of the page.
        title: of the page.
        figures: see `chosen`.

    Raises:
        ValueError: see `chosen`.
        OSError: the file cannot be written; an older one is untouched.
    """
    found = compare(folders)
    page = render(found, title, chosen(found, figures))
    with write_atomically(path) as file:
        file.write(page.encode())


def chosen(comparison: Comparison, patterns: Sequence[str] = ()) -> list[str]:
    """The figures that the first table and the charts are of.

    Args:
        comparison: of the runs.
        patterns: names, with ``*`` for anything; the last part of a name will do. Default: those that matter most.

    Raises:
        ValueError: a pattern that no figure has.
    """
    names = comparison.names
    if not patterns:
        return headlines(names)[:COLUMNS] or names[:COLUMNS]
    found: list[str] = []
    for pattern in patterns:
        fitting = [n for n in names if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(n, f"*/{pattern}")]
        if not fitting:
            known = f"there are {', '.join(names)}" if names else "the runs have none"
            raise ValueError(f"--figures {pattern}: no such figure; {known}")
        found += fitting
    return list(dict.fromkeys(found))


# --- the page ---------------------------------------------------------------------------------------------------------


def render(comparison: Comparison, title: str = "", figures: Sequence[str] | None = None) -> str:
    """The page's text.

    Args:
        comparison: from `compare`.
        title: of the page; default: how many runs are compared.
        figures: names; default: see `chosen`.
    """
    figures = chosen(comparison) if figures is None else figures
    runs, groups = comparison.runs, comparison.groups
    title = escape(title or f"{len(runs)} runs compared")
    head = f"{len(runs)} runs" + (f" in {len(groups)} groups of equal settings" if comparison.seeds else "")
    notes = "".join(f'<p class="note">{note}</p>' for note in comparison.notes)
    sections = [
        _first_table(comparison, figures),
        _dots(comparison, figures),
        _radii(comparison),
        _pairs(comparison, figures),
        _courses(comparison, figures),
        _pictures(comparison),
        _all_figures(comparison),
        _all_settings(comparison),
    ]
    body = "\n".join(part for part in sections if part)
    return parts.document(
        title,
        f'<header>\n<h1>{title}</h1>\n<p class="meta">{head}</p>\n{notes}</header>\n{body}',
        "Made by iin from the runs' folders; the pictures there are without loss.",
    )


# --- tables


def _first_table(comparison: Comparison, figures: Sequence[str]) -> str:
    groups, keys = comparison.groups, comparison.keys[:COLUMNS]
    names = short(comparison.keys)
    best = {name: _best(name, [group.mean(name) for group in groups]) for name in figures}
    heads = [f'<th title="{escape(key)}">{escape(names[key])}</th>' for key in keys]
    named = not keys or len(comparison.keys) > len(keys)  # else the columns tell all that the charts call a group by
    heads = ["<th></th>"] * named + heads
    if comparison.seeds:
        heads.append("<th>runs</th>")
    heads += [_figure_head(name) for name in figures]
    rows = []
    for group in groups:
        cells = [f"<td>{escape(shown(group.settings.get(key, '—')))}</td>" for key in keys]
        cells = [f"<td>{escape(group.label)}</td>"] * named + cells
        if comparison.seeds:
            cells.append(f"<td>{len(group.runs)}</td>")
        cells += [_cell(group, name, best[name]) for name in figures]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = f"<tr>{''.join(heads)}</tr>"
    table = f'<div class="wide"><table class="runs"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    text = ["Only the settings in which the runs differ."] if keys else []
    if len(comparison.keys) > len(keys):
        text.append(f"These are the first {len(keys)} of {len(comparison.keys)}; all of them stand at the end.")
    if comparison.seeds:
        text.append("Figures are means over runs that differ in the seed, ± one standard deviation.")
    if any(best.values()):
        text.append('The <b class="best">best</b> of a column is marked where one way is known to be good.')
    return parts.section("Runs", table + _each_run(comparison, figures), " ".join(text))


def _figure_head(name: str) -> str:
    figure = explain(name)
    return f'<th class="figure" title="{escape(name)}: {escape(figure.text)}">{escape(_title(name))}</th>'


def _best(name: str, means: Sequence[float]) -> float | None:
    """The best of several means; None where neither way is good, or there is nothing to choose from."""
    finite = [mean for mean in means if math.isfinite(mean)]
    better = explain(name).better
    if not better or len(finite) < 2:
        return None
    return max(finite) if better > 0 else min(finite)


def _cell(group: Group, name: str, best: float | None) -> str:
    figure, mean = explain(name), group.mean(name)
    if not math.isfinite(mean):
        broken = next((run.newest[name] for run in group.runs if name in run.newest), None)
        return f"<td>{'' if broken is None else parts.value(broken, figure)}</td>"
    text = parts.value(mean, figure)
    if len(group.values(name)) > 1:
        text = _spread(mean, group.deviation(name), figure)
    return f'<td><b class="best">{text}</b></td>' if mean == best else f"<td>{text}</td>"


def _spread(mean: float, deviation: float, figure: Figure) -> str:
    """A mean and its standard deviation, to two digits of the latter."""
    unit, scale = ("%", 100) if figure.percent else ("", 1)
    if not deviation:
        return f"{parts.value(mean, figure)}<small>± 0</small>"
    digits = 1 - math.floor(math.log10(scale * deviation))
    if digits > 6:
        return f"{parts.value(mean, figure)}<small>± {scale * deviation:.2g}{unit}</small>"
    shown = max(0, digits)
    return f"{scale * mean:,.{shown}f}{unit}<small>± {scale * deviation:,.{shown}f}{unit}</small>"


def _each_run(comparison: Comparison, figures: Sequence[str]) -> str:
    """Every run with its folder, state and seed."""
    rows = []
    for group in comparison.groups:
        for run in group.runs:
            cells = [
                f"<th>{escape(run.name)}<small>{escape(group.label)}</small></th>",
                f"<td>{escape(word(run.config, 'seed') or '0')}</td>",
                f"<td>{escape(str(run.state.get('state') or 'unknown'))}</td><td>{run.step:,}</td>",
                *(f"<td>{parts.value(run.newest[n], explain(n)) if n in run.newest else ''}</td>" for n in figures),
            ]
            rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "<tr><th>Run</th><th>seed</th><th>state</th><th>step</th>" + "".join(map(_figure_head, figures)) + "</tr>"
    return (
        f'<details><summary>Each run</summary><div class="wide"><table class="runs"><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _all_figures(comparison: Comparison) -> str:
    """Figures down, groups across."""
    names = comparison.names
    if not names:
        return ""
    sections: dict[str, list[str]] = {title: [] for title in SECTIONS.values()}
    for name in names:
        sections.setdefault(section(name), []).append(name)
    groups = comparison.groups
    rows = []
    for title, members in sections.items():
        if members:
            rows.append(f'<tr class="group"><th colspan="{1 + len(groups)}">{escape(title)}</th></tr>')
        for name in members:
            best = _best(name, [group.mean(name) for group in groups])
            cells = "".join(_cell(group, name, best) for group in groups)
            shown = f"<code>{escape(name)}</code>"
            if (called := explain(name).title) != name:
                shown = f"{escape(called)} {shown}"
            rows.append(f"<tr><th>{shown}</th>{cells}</tr>")
    head = "<tr><th>Figure</th>" + "".join(f"<th>{escape(group.label)}</th>" for group in groups) + "</tr>"
    table = f'<div class="wide"><table class="runs"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    return parts.section("All figures", f"<details><summary>{len(names)} figures</summary>{table}</details>")


def _all_settings(comparison: Comparison) -> str:
    """Settings down, groups across, where they are more than the first table has columns for."""
    if len(comparison.keys) <= COLUMNS:
        return ""
    head = "<tr><th>Setting</th>" + "".join(f"<th>{escape(group.label)}</th>" for group in comparison.groups) + "</tr>"
    rows = "".join(
        f"<tr><th><code>{escape(key)}</code></th>"
        + "".join(f"<td>{escape(shown(group.settings.get(key, '—')))}</td>" for group in comparison.groups)
        + "</tr>"
        for key in comparison.keys
    )
    table = f'<div class="wide"><table class="runs"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    summary = f"<summary>{len(comparison.keys)} settings in which the runs differ</summary>"
    return parts.section("Settings", f"<details>{summary}{table}</details>")


# --- charts


def _dots(comparison: Comparison, figures: Sequence[str]) -> str:
    drawn = []
    for name in figures:
        figure = explain(name)
        rows = [(group.label, group.values(name)) for group in comparison.groups if group.values(name)]
        drawn.append(parts.framed(_title(name), compare_charts.dots(rows, percent=figure.percent)))
    body = "".join(drawn)
    text = "A dot for each run" + (", a stroke at the mean of each group." if comparison.seeds else ".")
    return parts.section("Figures", f'<div class="charts">{body}</div>', text) if body else ""


def _title(name: str) -> str:
    """A figure's title, and which way is good."""
    figure = explain(name)
    return figure.title + {1: "\N{NO-BREAK SPACE}↑", -1: "\N{NO-BREAK SPACE}↓"}.get(figure.better, "")


def _radii(comparison: Comparison) -> str:
    """Figures that are measured at several radii, such as ``local_mig/0.1``."""
    families: dict[str, dict[float, str]] = {}
    for name in comparison.names:
        base, _, last = name.rpartition("/")
        if base and (radius := number(last)) is not None:
            families.setdefault(base, {})[radius] = name
    drawn = []
    for base, members in families.items():
        if len(members) < 2:
            continue
        series: dict[str, list[Mark]] = {}
        for group in comparison.groups:
            marks = [
                Mark(radius, group.mean(name), error_y=group.deviation(name))
                for radius, name in sorted(members.items())
                if group.values(name)
            ]
            series[group.label] = marks  # without marks too: it keeps its colour
        figure = explain(next(iter(members.values())))
        drawing = compare_charts.with_errors(series, "radius", percent=figure.percent)
        drawn.append(parts.framed(base if figure.group in members.values() else figure.group, drawing))
    body = "".join(drawn)
    text = "Means" + (" and standard deviations over seeds" if comparison.seeds else "")
    text += " of figures that are measured in neighbourhoods, against the neighbourhoods' radius."
    legend = _legend(comparison)
    return parts.section("Against the radius", f'{legend}<div class="charts">{body}</div>', text) if body else ""


_PAIRS = (
    (r"(?:disentanglement/)?mig", r"(?:disentanglement/)?modularity"),
    (r"(?:disentanglement/)?local_mig/0\.1", r"(?:disentanglement/)?local_modularity/0\.1"),
)
"""Figures that are looked at together: upwards, and across."""


def _pairs(comparison: Comparison, figures: Sequence[str]) -> str:
    """One figure against another, along the setting that takes most numbers."""
    key = _varied(comparison)
    if key is None:
        return ""
    names = comparison.names
    pairs = []
    for up, across in _PAIRS:
        found = [next((name for name in names if re.fullmatch(part, name)), None) for part in (up, across)]
        if found[0] and found[1]:
            pairs.append((found[0], found[1]))
    if not pairs and len(figures) > 1:
        pairs = [(figures[0], figures[1])]
    drawn = []
    called = short(comparison.keys)
    others = [other for other in comparison.keys if other != key]
    for up, across in pairs:
        tracks: dict[str, list[tuple[float, Mark]]] = {}
        members: dict[str, str] = {}
        for group in comparison.groups:
            value = number(group.settings.get(key))
            if not group.values(up) or not group.values(across):
                continue
            rest = " ".join(setting(called[o], group.settings[o]) for o in others if o in group.settings)
            mark = Mark(
                group.mean(across),
                group.mean(up),
                group.deviation(across),
                group.deviation(up),
                group.settings.get(key, ""),
            )
            tracks.setdefault(rest, []).append((value or 0.0, mark))
            members.setdefault(rest, rest if len(others) <= 3 else group.label)  # many settings tell a reader nothing
        ordered = {
            members[rest]: [mark for _, mark in sorted(marks, key=lambda m: m[0])] for rest, marks in tracks.items()
        }
        drawing = compare_charts.against(ordered, explain(across).title, percent=explain(up).percent)
        drawn.append(parts.framed(explain(up).title, drawing, list(ordered)))
    body = "".join(drawn)
    text = f"One figure against another; the numbers are <code>{escape(key)}</code>."
    return parts.section(f"Over {escape(called[key])}", f'<div class="charts">{body}</div>', text) if body else ""


def _legend(comparison: Comparison) -> str:
    """The colours of the groups."""
    labels = [group.label for group in comparison.groups]
    return parts.legend(labels, "b") if len(labels) > 1 else ""


def _varied(comparison: Comparison) -> str | None:
    """The setting that takes most different numbers, two at least."""
    counts = {}
    for key in comparison.keys:
        values = {number(group.settings[key]) for group in comparison.groups if key in group.settings}
        if None not in values and len(values) > 1:
            counts[key] = len(values)
    return max(counts, key=lambda key: counts[key]) if counts else None


def _courses(comparison: Comparison, figures: Sequence[str]) -> str:
    """Curves of all runs over each other, coloured by group."""
    colours = {run.name: index for index, group in enumerate(comparison.groups) for run in group.runs}
    scalars = dict.fromkeys(name for run in comparison.runs for line in run.training for name in line)
    drawn = []
    for name in (name for name in scalars if name.split("/")[-1] == "loss"):
        courses = {
            run.name: [(line["step"], line[name]) for line in run.training if name in line] for run in comparison.runs
        }
        drawing = charts.line_chart(courses, raw=True, colours=colours)
        drawn.append(parts.framed("Training loss" if name == "loss" else name, drawing))
    for name in figures:
        courses = {run.name: run.course(name) for run in comparison.runs}
        if any(len(points) > 1 for points in courses.values()):
            drawing = charts.line_chart(courses, percent=explain(name).percent, colours=colours)
            drawn.append(parts.framed(_title(name), drawing))
    body = "".join(drawn)
    if not body:
        return ""
    return parts.section("Curves", f'{_legend(comparison)}<div class="charts">{body}</div>', "A line for each run.")


# --- pictures

_SHOWN = 12
"""So many groups show their pictures at most."""


def _pictures(comparison: Comparison) -> str:
    """Pictures of one name beside each other, of the first run of each group."""
    groups = comparison.groups[:_SHOWN]
    names = sorted({name for group in groups for run in group.runs for name in run.pictures}, key=gallery.place)
    blocks = []
    for name in names:
        drawn = [
            gallery.figure(run.pictures[name], label=group.label)
            for group in groups
            if (run := next((run for run in group.runs if name in run.pictures), None)) is not None
        ]
        if body := "".join(drawn):
            title = escape(name.replace("_", " ").replace("-", " ").capitalize())
            matters = name.removesuffix(gallery.MOVING) not in gallery.LAST
            blocks.append((title, matters, f'<div class="pictures side">{body}</div>'))
    if not blocks:
        return ""
    body = "".join(
        f"<details{' open' if index < 3 or matters else ''}><summary>{title}</summary>{body}</details>"
        for index, (title, matters, body) in enumerate(blocks)
    )
    text = "Of the first run of each group, by the same names."
    if len(comparison.groups) > _SHOWN:
        text += f" Only those of the first {_SHOWN} groups are here."
    return parts.section("Pictures", body, text)
