"""The page: what was found as HTML that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape

from torch import Tensor

from iin.explore.content import Content, Factor, Spread
from iin.explore.drawing import cell
from iin.report import charts
from iin.report.style import STYLE

__all__ = ["render"]

LISTED = 10
"""How many of the files left out are named."""
BARS = 30
"""How many labels have a bar of their own."""
TIMES = "\u00a0\u00d7 "
"""The sign of multiplication, with spaces; lines break after it only."""
EXTRA = """
header { max-width: none; } header p { max-width: 46rem; }
.remarks { margin: 1.25rem 0 0; padding: .7rem 1rem .7rem 2rem; background: var(--panel); border-radius: 8px;
  border-left: 3px solid var(--bad); } .remarks li { margin: .15rem 0; }
.grid { display: grid; gap: .9rem .6rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(var(--cell), 1fr)); }
.grid.paired { gap: 1.2rem 1.1rem; }
.grid img { width: 100%; margin: 0; border-radius: 3px; }
.two { display: grid; gap: 3px; grid-template-columns: 1fr 1fr; }
.grid figcaption { font-size: .8rem; line-height: 1.35; margin-top: .25rem; overflow-wrap: anywhere; }
.grid figcaption span { margin: 0; display: block; font-size: .92em; }
.grid .label { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 .5rem; }
.counts { columns: 2 23rem; column-gap: 2rem; }
.counts figure { max-width: 32rem; margin: 0 0 1.6rem; break-inside: avoid; } .counts svg { margin-top: .5rem; }
.bar { fill: var(--c0); } .bar.f { fill: var(--c1); }
svg .name { fill: var(--text); } .values { max-width: 34rem; } .files td { text-align: left; white-space: normal; }
.files th { overflow-wrap: anywhere; padding-right: .6rem; }
@media (max-width: 640px) { .grid { grid-template-columns: repeat(auto-fill, minmax(min(var(--cell), 46%), 1fr)); }
  .grid.large, .grid.paired { grid-template-columns: 1fr 1fr; gap: 1rem .8rem; }
  .grid.paired.large { grid-template-columns: 1fr; } .tiles b { font-size: 1.3rem; } }
"""


def render(content: Content) -> str:
    """The page's text: HTML that needs nothing beside it."""
    sections = [_grid(content), _counts(content), _values(content), _files(content), _settings(content)]
    body = "\n".join(section for section in sections if section)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(content.title)}</title>
<style>{STYLE}{EXTRA}</style>
</head>
<body>
<main>
{_head(content)}
{body}
<footer>Made by iin-explore. The same data and seed give this page again.</footer>
</main>
</body>
</html>
"""


def _head(content: Content) -> str:
    where = f"Source: {escape(content.source)}. " if content.source else ""
    if content.seen == content.count:
        looked = f"All {content.count:,} {content.noun} were looked at."
    else:
        looked = f"{content.seen:,} of {content.count:,} {content.noun}, drawn at random, were looked at."
    tiles = [
        (f"{content.count:,}", content.noun, ""),
        (TIMES.join(map(str, content.shape)), f"channels{TIMES}height{TIMES}width", content.dtype),
    ]
    if content.labels:
        tiles.append((f"{sum(1 for n in content.labels.values() if n):,}", "labels", ""))
    if content.factors:
        tiles.append((f"{len(content.factors)}", "factors", ", ".join(factor.name for factor in content.factors)))
    cells = "".join(
        f"<div><b>{escape(big)}</b><span>{escape(what)}</span><small>{escape(more)}</small></div>"
        for big, what, more in tiles
    )
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in content.remarks)
    notes = f'<ul class="remarks">{remarks}</ul>' if remarks else '<p class="note">Nothing looks odd.</p>'
    return f"""<header>
<h1>{escape(content.title)}</h1>
<p class="meta">{where}{looked}</p>
<div class="tiles">{cells}</div>
{notes}
</header>"""


def _section(title: str, body: str, text: str = "") -> str:
    intro = f"<p>{text}</p>" if text else ""
    return f"<section>\n<h2>{title}</h2>\n{intro}{body}\n</section>"


def _grid(content: Content) -> str:
    """The pictures, each with its label; of pairs, what they share."""
    figures = []
    for item in content.items:
        place = f"<span>#{item.place}</span>"
        name = f"item {item.place}"
        if item.other is None:
            alt = f"{name}, label {item.label}" if item.label else name
            caption = f'<div class="label"><b>{escape(item.label)}</b>{place}</div>'
            figures.append(f"<figure>{_img(item.image, alt)}<figcaption>{caption}</figcaption></figure>")
            continue
        images = _img(item.image, f"{name}, first image") + _img(item.other, f"{name}, second image")
        shared = f"shares <b>{escape(item.sharing)}</b>" if item.shared else "shares nothing"
        labels = f"<span>{escape(item.labels)}</span>"
        caption = f'{shared}<div class="label">{labels}{place}</div>'
        figures.append(f'<figure><div class="two">{images}</div><figcaption>{caption}</figcaption></figure>')
    few = f"{len(content.items):,} of the {content.count:,} {content.noun}, drawn at random"
    text = f"{few if len(content.items) < content.count else f'All {content.count:,} {content.noun}'}. "
    if content.paired:
        text += "Below each pair stands what its two images share"
        text += ", then their labels. " if any(item.labels for item in content.items) else ". "
    elif any(item.label for item in content.items):
        text += "Below each stands its label. "
    text += "#n is the item's index."
    if content.broken:
        text += " Magenta: values that are not finite."
    kind = "grid paired" if content.paired else "grid"
    if max(content.shape[1:]) > 64:
        kind += " large"
    body = f'<div class="{kind}" style="--cell: {_cell_width(content):.1f}rem">{"".join(figures)}</div>'
    return _section("Pairs" if content.paired else "Images", body, text)


def _cell_width(content: Content) -> float:
    """How wide a cell of the grid has to be for its pictures and words, in rem; words may wrap if they are long."""
    large = max(content.shape[1:]) > 64
    if content.paired:
        words = max(max(len(f"shares {item.sharing}"), len(f"{item.labels} #{item.place}")) for item in content.items)
        return min(max(0.43 * words, 14.5 if large else 9.4), 16)
    words = max(len(f"{item.label} #{item.place}") for item in content.items)
    return min(max(0.5 * words, 7.4 if large else 4.7), 10)


def _img(image: Tensor, alt: str) -> str:
    picture = cell(image)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img alt="{escape(alt)}" {size} src="data:image/png;base64,{data}">'


def _counts(content: Content) -> str:
    """What pairs share, and how often each label occurs."""
    figures = []
    if content.paired:
        rows = [(factor.name, factor.pairs, _agreement(factor)) for factor in content.factors]
        if content.apart:
            rows.append(("nothing", content.apart, ""))
        text = f"Of {content.seen:,} pairs. The last factor is the residual, which no pair should share."
        figures.append(_bars("Shared factors", text, rows, content.seen, "bar f"))
    all_of_them = content.labelled == content.count
    text = f"Of all {content.count:,} items" if all_of_them else f"Of {content.labelled:,} items"
    text += ", by the first image." if content.paired else "."
    for name, counts in content.counts.items():
        rows, more = [(label, number, "") for label, number in counts.items()], ""
        if len(rows) > BARS:
            rows.sort(key=lambda row: -row[1])
            kept = sum(number for _, number, _ in rows[:BARS])
            more = f" The {BARS} most frequent; {len(rows) - BARS:,} others have {content.labelled - kept:,} together."
            rows = rows[:BARS]
        figures.append(_bars("Labels" if name == "labels" else name, text + more, rows, content.labelled, "bar"))
    if not figures:
        return ""
    return _section("Counts", f'<div class="counts">{"".join(figures)}</div>')


def _agreement(factor: Factor) -> str:
    return "" if factor.same_label is None else f"{factor.same_label:.0%} with the same label"


def _bars(title: str, text: str, rows: Sequence[tuple[str, int, str]], total: int, kind: str) -> str:
    """A bar a row: name, number and share of the total, further words in a second line."""
    most = max((number for _, number, _ in rows), default=0) or 1
    left = 8 + min(126, max(round(6.6 * len(_short(name))) for name, _, _ in rows))
    room = 380 - left - 92
    parts, top = [], 0
    for name, number, more in rows:
        middle = top + 15
        length = room * number / most
        share = f"{number / total:.1%}" if total else ""
        hint = f"{name}: {number:,} ({share})"
        parts.append(
            f'<g><title>{escape(hint)}</title><text class="name" x="0" y="{middle}">{escape(_short(name))}</text>'
            f'<rect class="{kind}" x="{left}" y="{top + 4}" width="{max(length, 1 if number else 0):.1f}" height="14" '
            f'rx="2"/><text x="{left + length + 6:.1f}" y="{middle}">{number:,} · {share}</text></g>'
        )
        top += 22
        if more:
            parts.append(f'<text x="{left}" y="{top + 9}">{escape(more)}</text>')
            top += 20
    label = escape(f"{title}: " + ", ".join(f"{name} {number:,}" for name, number, _ in rows))
    drawing = f'<svg class="chart" viewBox="0 0 380 {top + 4}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f"<figure><figcaption><b>{escape(title)}</b> <span>{escape(text)}</span></figcaption>{drawing}</figure>"


def _short(name: str, length: int = 19) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _values(content: Content) -> str:
    """Ranges of values, of each channel and of all."""
    names = {1: ["grey"], 3: ["red", "green", "blue"]}.get(
        content.shape[0], [f"channel {k + 1}" for k in range(content.shape[0])]
    )
    rows = list(zip(names, content.channels, strict=True))
    if len(rows) > 1:
        rows.append(("all", content.values))
    cells = "".join(
        f"<tr><th>{name}</th>"
        + "".join(f"<td>{charts.number(v) if math.isfinite(v) else '&ndash;'}</td>" for v in _figures(spread))
        + "</tr>"
        for name, spread in rows
    )
    head = "<th>channel</th><th>min</th><th>max</th><th>mean</th><th>deviation</th>"
    table = f'<div class="wide values"><table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table></div>'
    note = f"{len(content.broken):,} not finite · {len(content.constant):,} of one colour all over"
    text = "The values that a system is given. Images are expected in [-1, 1]."
    return _section("Values", f'{table}<p class="note">Of {content.seen:,} {content.noun}: {note}</p>', text)


def _figures(spread: Spread) -> tuple[float, ...]:
    return spread.low, spread.high, spread.mean, spread.deviation


def _files(content: Content) -> str:
    """Files that were left out."""
    if not content.odd:
        return ""
    rows = "".join(
        f"<tr><th><code>{escape(path)}</code></th><td>{escape(why)}</td></tr>" for path, why in content.odd[:LISTED]
    )
    more = f'<p class="note">And {len(content.odd) - LISTED:,} more.</p>' if len(content.odd) > LISTED else ""
    text = f"{content.left_out} cannot be used."
    return _section("Files left out", f'<table class="files"><tbody>{rows}</tbody></table>{more}', text)


def _settings(content: Content) -> str:
    if not content.config:
        return ""
    quoted = f"<details><summary>Section data</summary><pre>{escape(content.config)}</pre></details>"
    return _section("Configuration", quoted)
