"""A run's results as one HTML page, made from its folder alone.

The page is a single file: style, curves and pictures are inside it, and nothing is fetched when it is read. What the
folder lacks (no evaluation yet, a system without pictures) is left out; what is damaged in it is passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from iin.files import write_atomically
from iin.report import charts, gallery, parts
from iin.report.glossary import SECTIONS, explain, headlines, section
from iin.report.results import Results, dig, flat, gather, is_number, word

__all__ = ["Results", "gather", "render", "write"]


def write(folder: Path) -> Path:
    """Make ``report.html`` anew.

    Args:
        folder: the run's folder.

    Returns:
        The page's path.

    Raises:
        OSError: the folder cannot be written to; an older page is untouched.
    """
    path = Path(folder) / "report.html"
    page = render(gather(Path(folder)))
    with write_atomically(path) as file:
        file.write(page.encode())
    return path


# --- the page ---------------------------------------------------------------------------------------------------------


def render(results: Results) -> str:
    """The page's text."""
    name = escape(word(results.config, "name") or results.name)
    sections = [
        _swaps(results),
        _tiles(results),
        _table(results),
        _dims(results),
        _lines(results),
        _other_pictures(results),
        _curves(results),
        _settings(results),
    ]
    body = "\n".join(section for section in sections if section)
    footer = (
        f"Made by iin from the run's folder <code>{escape(results.name)}</code>; the pictures there are without loss."
    )
    return parts.document(name, f"{_head(results, name)}\n{body}", footer)


def _head(results: Results, name: str) -> str:
    state = str(results.state.get("state") or "unknown")
    kind = state if state in ("finished", "running", "interrupted", "failed") else "other"
    when = [f"step {results.step:,}"]
    if match := re.match(r"(\d{4}-\d\d-\d\d)T(\d\d)-(\d\d)-\d\d", results.name):
        when.append(f"started {match[1]} {match[2]}:{match[3]} UTC")
    command = results.environment.get("command")
    quick = isinstance(command, list) and "--quick" in command
    badge = ' <span class="state other">quick</span>' if quick else ""
    about = word(results.config, "description")
    lead = f'<p class="lead">{escape(about)}</p>' if about else ""
    return f"""<header>
<h1>{name}</h1>
<p class="meta"><span class="state {kind}">{escape(state)}</span>{badge} {escape(" · ".join(when))}</p>
{lead}
<p>{_sentence(results)}</p>
</header>"""


_KINDS = {
    "FactorFlow": "A flow that gives each factor its own part of the code",
    "LatentFlow": "A flow over the code of images",
    "Autoencoder": "An autoencoder",
    "Classifier": "A classifier",
}


def _sentence(results: Results) -> str:
    """What was trained on what, in words."""
    config = results.config
    target = word(config, "system", "target")
    if not target:
        return "The folder does not say what was trained: its config.yaml is missing or unreadable."
    kind = _KINDS.get(target.rpartition(".")[2], "A system")
    verb = "was trained" if results.state.get("state") in ("finished", "interrupted", "failed") else "is being trained"
    text = f"{kind} (<code>{escape(target)}</code>) {verb}"
    if data := word(config, "data", "train", "target"):
        text += f" on <code>{escape(data)}</code>"
    if results.step:
        text += f" for {results.step:,} steps"
        if size := word(config, "train", "batch_size"):
            text += f" of {escape(size)} examples"
    if rate := word(config, "train", "lr"):
        text += f", with a learning rate of {escape(rate)}"
    if first := _first_stage(config):
        text += f", over the first stage <code>{escape(first)}</code>, which stays as it is"
    return text + "."


def _first_stage(config: Mapping[str, Any]) -> str:
    """How the configuration names its first stage; empty without one."""
    stage = dig(config, "system", "params", "first_stage")
    params = stage.get("params") if isinstance(stage, dict) else None
    for key in ("config", "run", "checkpoint"):
        value = params.get(key) if isinstance(params, dict) else None
        if isinstance(value, dict):
            value = value.get("name")
        if value:
            return Path(str(value)).stem
    return ""


# --- pictures


def _swaps(results: Results) -> str:
    """The swap grids, big."""
    names = gallery.ordered(results.pictures, "swap", _factors(results))
    if not (body := "".join(gallery.figure(results.pictures[name], "big") for name in names)):
        return ""
    text = (
        "Read each grid as a table. The first column and the top row are test images; the model makes every other cell "
        "from the two at its margins. A row should agree in the factor that is taken, a column in all else."
    )
    return parts.section("Swaps", f'<div class="swaps">{body}</div>', text)


def _factors(results: Results) -> list[str]:
    """Names of the factors in the data set's order, residual last, as far as the folder tells."""
    names = results.state.get("factors")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    estimates = (_under(results.newest, prefix) for prefix in ("dims/code/", "dims/paper/"))
    return list(next((sizes for sizes in estimates if sizes), {}))


def _lines(results: Results) -> str:
    """The interpolations."""
    names = gallery.ordered(results.pictures, "line", _factors(results))
    if not (body := "".join(gallery.figure(results.pictures[name]) for name in names)):
        return ""
    text = (
        "Read each row from left to right. At both ends, set off by lines, stand test images; the model makes those in "
        "between."
    )
    return parts.section("Interpolations", f'<div class="pictures">{body}</div>', text)


def _other_pictures(results: Results) -> str:
    shown = {name for kind in ("swap", "line") for name in gallery.ordered(results.pictures, kind, ())}
    names = sorted(
        (name for name in results.pictures if name not in shown),
        key=gallery.place,
    )
    body = "".join(gallery.figure(results.pictures[name]) for name in names)
    return parts.section("Pictures", f'<div class="pictures">{body}</div>') if body else ""


# --- figures


def _tiles(results: Results) -> str:
    """The few figures that matter most, large."""
    newest = results.newest
    names = headlines(newest)[:6]
    tiles = []
    for name in names:
        figure = explain(name)
        note = ""
        if (chance := newest.get(re.sub(r"/error$", "/chance", name))) is not None and name.endswith("/error"):
            note = f"<small>by chance {parts.value(chance, figure)}</small>"
        tiles.append(f"<div><b>{parts.value(newest[name], figure)}</b><span>{escape(figure.title)}</span>{note}</div>")
    return f'<section class="tiles">{"".join(tiles)}</section>' if tiles else ""


def _table(results: Results) -> str:
    """All figures of the newest evaluation, with those of the ones before."""
    newest = results.newest
    if not newest:
        return ""
    steps = list(results.evaluations)
    earlier = steps[-5:-1]
    groups: dict[str, list[str]] = {title: [] for title in SECTIONS.values()}
    for name in newest:
        if not name.startswith("dims/"):  # shown as bars
            groups.setdefault(section(name), []).append(name)
    rows = []
    columns = 3 + len(earlier)
    for title, names in groups.items():
        if names:
            rows.append(f'<tr class="group"><th colspan="{columns}">{escape(title)}</th></tr>')
        rows += [_row(results, name, earlier) for name in names]
    head = "".join(f'<th class="before">{step:,}</th>' for step in earlier)
    head = f'<tr><th>Figure</th>{head}<th class="now">step {steps[-1]:,}</th><th></th></tr>'
    table = f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    return parts.section("Figures", table + _facts(results.facts), _measured(results))


def _row(results: Results, name: str, earlier: Sequence[int]) -> str:
    figure = explain(name)
    label = f"<code>{escape(name)}</code>"
    if figure.title != name:
        label = f"<b>{escape(figure.title)}</b> {label}<small>{escape(figure.text)}</small>"
    values = [results.evaluations[step].get(name) for step in earlier]
    before = "".join(f'<td class="before">{"" if v is None else parts.value(v, figure)}</td>' for v in values)
    course = charts.sparkline([value for _, value in results.course(name)])
    now = parts.value(results.newest[name], figure)
    return f'<tr><th>{label}</th>{before}<td class="now">{now}</td><td class="course">{course}</td></tr>'


def _measured(results: Results) -> str:
    count = len(results.evaluations)
    return f"Measured on test data, {'once' if count == 1 else f'{count} times'} in this run; the newest stands last."


def _facts(facts: Mapping[str, str]) -> str:
    items = [f"{escape(key.replace('_', ' '))}: {escape(value)}" for key, value in facts.items()]
    return f'<p class="note">{" · ".join(items)}</p>' if items else ""


def _dims(results: Results) -> str:
    """How many units each factor has, and should have by either formula."""
    bars = []
    newest = results.newest
    estimates = {
        "estimated, published code's formula": _under(newest, "dims/code/"),
        "estimated, paper's formula": _under(newest, "dims/paper/"),
    }
    names = _factors(results)
    used = dig(results.config, "system", "params", "factors")
    if isinstance(used, list) and len(used) == len(names) and all(is_number(size) for size in used):
        bars.append(("in this flow", dict(zip(names, used, strict=True))))
    bars += [(title, sizes) for title, sizes in estimates.items() if sizes]
    bars = [(title, sizes) for title, sizes in bars if _splits(sizes)]
    if not bars:
        return ""
    rows = "".join(
        f"<dt>{escape(title)}</dt><dd>{charts.stacked_bar(sizes, names)}<small>{_sizes(sizes)}</small></dd>"
        for title, sizes in bars
    )
    legend = parts.legend(names, "b")
    text, details = "How many of the code's units go to each factor.", ""
    if figures := "".join(_row(results, name, []) for name in newest if name.startswith("dims/")):
        text += (
            " An estimate compares the codes of test images that share the factor; the two formulas are the paper's "
            "and that of its published code, and they differ."
        )
        details = f"<details><summary>Sizes and scores</summary><table><tbody>{figures}</tbody></table></details>"
    return parts.section("Factor dimensions", f'{legend}<dl class="bars">{rows}</dl>{details}', text)


def _under(figures: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in figures.items() if name.startswith(prefix)}


def _splits(sizes: Mapping[str, float]) -> bool:
    """Whether these are parts of a whole."""
    return all(math.isfinite(size) and size >= 0 for size in sizes.values()) and sum(sizes.values()) > 0


def _sizes(sizes: Mapping[str, float]) -> str:
    return escape(" · ".join(f"{name} {charts.number(size)}" for name, size in sizes.items()))


# --- curves


def _curves(results: Results) -> str:
    """Training above, evaluations below."""
    scalars: dict[str, list[tuple[float, float]]] = {}
    for line in results.training:
        for name, value in line.items():
            if name != "step":
                scalars.setdefault(name, []).append((line["step"], value))
    losses = [name for name in scalars if name.split("/")[-1] == "loss"]
    rates = [name for name in scalars if name.split("/")[-1] == "lr"]
    others = [name for name in scalars if name not in losses and name not in rates]

    training = [
        parts.curves(name if len(losses) > 1 else "Training loss", {name: scalars[name]}, raw=True) for name in losses
    ]
    if rates:
        training.append(parts.curves("Learning rate", {name: scalars[name] for name in rates}))
    more = "".join(parts.curves(name, {name: scalars[name]}, raw=True) for name in others)

    grouped: dict[str, list[str]] = {}
    for name in results.newest:
        if name.startswith("dims/"):
            continue  # the first stage's: they do not change
        grouped.setdefault(explain(name).group, []).append(name)
    evaluated = [_evaluated(results, group, names) for group, names in grouped.items() if len(results.evaluations) > 1]

    body = f'<div class="charts">{"".join(training)}</div>' if any(training) else ""
    if more:
        body += f'<details><summary>More of the training</summary><div class="charts">{more}</div></details>'
    if any(evaluated):
        body += f'<h3>Evaluated figures</h3><div class="charts">{"".join(evaluated)}</div>'
    return parts.section("Curves", body) if body else ""


def _evaluated(results: Results, group: str, names: Sequence[str]) -> str:
    figure = explain(names[0])
    title = figure.title if len(names) == 1 else group
    if len(names) == 1:
        return parts.curves(title, {names[0]: results.course(names[0])}, percent=figure.percent)
    series = {name.split("/")[-1].replace("_", " "): results.course(name) for name in names}
    return parts.curves(title, series, percent=figure.percent)


# --- settings


def _settings(results: Results) -> str:
    body = []
    if results.config_text:
        body.append(f"<details><summary>Configuration</summary><pre>{escape(results.config_text)}</pre></details>")
    rows = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in flat(results.environment) if value
    )
    if rows:
        body.append(f'<details><summary>Environment and origin</summary><dl class="facts">{rows}</dl></details>')
    return parts.section("Settings", "".join(body)) if body else ""
