"""The result for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.flows import TASKS as FLOW
from bench.timing import Row

__all__ = ["Table", "render", "tables"]

TITLES = {"train_step": "Training step", "forward": "Forward", "inverse": "Inverse (sampling)"}


class Table(NamedTuple):
    """A table with a title above and notes below."""

    title: str
    head: Sequence[str]
    body: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def tables(rows: Sequence[Row]) -> Iterable[Table]:
    """A table for each of the flow's tasks and numbers of threads; then one of all else."""
    for task in FLOW:
        for count in sorted({row["threads"] for row in rows if row["task"] == task}):
            yield _flow([row for row in rows if row["threads"] == count], task, count)
    if others := [row for row in rows if row["task"] not in (*FLOW, "adam")]:
        head = ("task", "by", "with", "batch", "threads", "median", "least", "")
        yield Table("All else", head, [_line(row) for row in others])


def _flow(rows: Sequence[Row], task: str, count: int) -> Table:
    rows = [row for row in rows if row["task"] == task or (task == "train_step" and row["task"] == "adam")]
    batches = sorted({row["batch"] for row in rows})
    body, notes = [], []
    for library, adam in dict.fromkeys((row["library"], row.get("adam", "")) for row in rows):
        of = {r["batch"]: r for r in rows if (r["library"], r.get("adam", "")) == (library, adam)}
        sizes = {row.get("parameters") for row in of.values()} - {None}
        line = [library, adam, *(f"{size:,}" for size in sizes or ())] + [""] * (not sizes)
        for batch in batches:
            line += [f"{_time(of[batch]['seconds'])} ({_time(of[batch]['minimum'])})", f"{of[batch]['of_bound']:.2f}"]
        body.append(line)
        if library == "iin":
            notes = [note for batch in batches for note in _notes(of[batch])]
    head = ["by", "Adam", "parameters"]
    for batch in batches:
        head += [f"batch {batch}", "of bound"]
    return Table(f"{TITLES[task]}, {count} thread{'s' * (count > 1)}", head, body, notes)


def _notes(row: Row) -> Iterable[str]:
    """How the row of this package stands to its fastest peers."""
    for suffix, peer in (("", "peer"), ("_default", "peer with default Adam"), ("_fused", "peer with fused Adam")):
        if f"times_as_fast{suffix}" in row:
            times, name = row[f"times_as_fast{suffix}"], row[f"fastest_peer{suffix}"]
            least = row[f"times_as_fast{suffix}_minimum"]
            compared = f"iin is {times:.2f} times as fast as the fastest {peer} ({name}); minima: {least:.2f}"
            yield f"batch {row['batch']}: {compared}"


def _line(row: Row) -> list[str]:
    settings = [f"{key} {row[key]}" for key in ("cache", "dim", "pairs") if key in row]
    settings += [row.get("data", ""), row.get("what", "")]
    if "processes" in row:
        settings.append(f"{row['processes']} process{'es' * (row['processes'] > 1)}")
    remarks = []
    if "items_per_second" in row:
        remarks.append(f"{row['items_per_second']:,.0f} a second")
    if "times_as_fast" in row:
        remarks.append(f"{row['times_as_fast']:.2f} times as fast")
    if "times_the_decoder" in row:
        least = row["times_the_decoder_minimum"]
        remarks.append(f"{row['times_the_decoder']:.2f} times the decoder alone; minima: {least:.2f}")
    if "data_and_encoding" in row:
        remarks.append(f"data and encoding take {row['data_and_encoding']:.2f} of it")
    if "relative_difference" in row:
        remarks.append(f"relative difference {row['relative_difference']:.1e}")
    if "peak_bytes" in row:
        remarks.append(f"{row['peak_bytes'] / 1e9:.2f} GB at most")
    batch = "" if row["batch"] is None else str(row["batch"])
    times = (_time(row["seconds"]), _time(row["minimum"]))
    setting = ", ".join(filter(None, settings))
    return [row["task"], row["library"], setting, batch, str(row["threads"]), *times, ", ".join(remarks)]


def _time(seconds: float) -> str:
    """Three digits, or so, in seconds or thousandths."""
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1e3, "ms")
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {unit}"


def render(rows: Sequence[Row], facts: Mapping[str, str], markdown: bool = False) -> str:
    """All tables as text, or in Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in facts.items())
    parts = [about]
    for table in tables(rows):
        grid = [list(table.head), *map(list, table.body)]
        if markdown:
            lines = ["| " + " | ".join(line) + " |" for line in grid]
            lines.insert(1, "|" + "---|" * len(table.head))
            notes = [f"- {note}" for note in table.notes]
            parts.append("\n".join([f"**{table.title}**", "", *lines] + (["", *notes] if notes else [])))
        else:
            widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
            lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in grid]
            parts.append("\n".join([table.title, *(f"  {line}" for line in [*lines, *table.notes])]))
    return "\n\n".join(parts)
