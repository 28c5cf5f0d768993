"""Figures for people: what was measured, and what is estimated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bench.peers import PUBLISHED
from bench.table import Table
from bench.timing import Row

from scaling.costs import MOMENTS
from scaling.curves import CURVES, Line, line, lines
from scaling.estimate import Estimate, Work, autoencoder_work, flow_work

__all__ = ["estimated", "measured", "networks", "written"]


def written(tables: Iterable[Table], markdown: bool = False) -> str:
    """Tables as text, or in Markdown."""
    parts = []
    for table in tables:
        grid = [list(table.head), *map(list, table.body)]
        if markdown:
            lines = ["| " + " | ".join(cells) + " |" for cells in grid]
            lines.insert(1, "|---" + "|---:" * (len(table.head) - 1) + "|")
            title = [f"**{table.title}**", ""] if table.title else []
            parts.append("\n".join([*title, *lines, *([""] * bool(table.notes)), *(f"- {n}" for n in table.notes)]))
        else:
            widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
            lines = ["  ".join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)).rstrip() for cells in grid]
            parts.append("\n".join([table.title, *(f"  {text}" for text in [*lines, *table.notes])]))
    return "\n\n".join(parts)


# --- measured --------------------------------------------------------------------------------------------------------


def measured(rows: Sequence[Row]) -> Iterator[Table]:
    """A table of each curve, one of the lines through them, one of memory, one of two processes."""
    fits = lines(rows)
    counts = sorted({count for _, count in fits})
    heads = [f"{count} thread{'s' * (count > 1)}" for count in counts]
    for name, (what, against) in CURVES.items():
        of = {(row["size"], row["threads"]): row for row in rows if row["task"] == name}
        if of:
            body = [
                [f"{size:,}", *(_milliseconds(of[size, count]["seconds"]) for count in counts)]
                for size in sorted({size for size, _ in of})
            ]
            yield Table(f"{what.capitalize()}, ms", [against, *heads], body)
    if fits:
        body = [[_task(name), str(count), *_words(fits[name, count], CURVES[name][1])] for name, count in fits]
        yield Table("Lines", ["of", "threads", "line", "farthest point"], body)
    if memory := list(_memory(rows)):
        yield Table("Memory", ["of", "measured", "by the shapes"], memory)
    yield from _processes(rows)


def _task(name: str) -> str:
    what, against = CURVES[name]
    return f"{what}, against {against}"


def _words(found: Line, against: str) -> list[str]:
    unit = {"batch": "vector", "blocks": "block", "latent size": "dimension", "pixels": "pixel"}[against]
    constant, slope = _milliseconds(found.constant), _milliseconds(found.slope)
    return [f"{constant} ms + {slope} ms a {unit}", f"{found.error:.0%}"]


def _memory(rows: Sequence[Row]) -> Iterator[list[str]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if "bytes" in row:
            found.setdefault(row["task"], []).append((row["size"], row["bytes"]))
    for name, points in found.items():
        slope = line(points).slope
        if name == "memory_parameters":
            yield ["a parameter of the flow", f"{slope:.1f} bytes", f"{MOMENTS} bytes"]
        elif name == "memory_vectors":
            yield ["a vector in the flow", _bytes(slope), _bytes(flow_work(PUBLISHED, "").kept)]
        else:
            side = int(name.rpartition("_")[2])
            of = autoencoder_work(side, channels=1, layers=2, perceptual=False)
            yield [f"an image of {side}x{side} in the autoencoder", _bytes(slope), _bytes(of.kept)]


def _processes(rows: Sequence[Row]) -> Iterator[Table]:
    of = {
        (row["batch"], row["processes"], row["threads"]): row["seconds"] for row in rows if row["task"] == "processes"
    }
    if not of:
        return
    body = []
    for batch in sorted({batch for batch, _, _ in of}):
        one, threaded, two = (of[batch, 1, 1], of[batch, 1, 2], of[batch, 2, 1])
        times = [_milliseconds(value) for value in (one, threaded, two)]
        body.append([f"{batch:,}", *times, f"{one / two:.2f}"])
    messages = [row["seconds"] for row in rows if row["task"] == "message"]
    notes = [f"telling each other the loss takes {1e3 * value:.2f} ms of it" for value in messages]
    head = [
        "vectors in all",
        "1 process, 1 thread",
        "1 process, 2 threads",
        "2 processes, 1 thread each",
        "times as fast",
    ]
    yield Table("Two processes, ms", head, body, notes)


# --- estimated -------------------------------------------------------------------------------------------------------


def networks(works: Iterable[Work]) -> Table:
    """What the shapes of networks say about a step."""
    head = ["what", "parameters", "Gflops an image", "kept for backward, an image", "operations a step"]
    body = [
        [work.name, f"{work.parameters:,}", f"{work.flops / 1e9:.3g}", _bytes(work.kept), f"{work.operations:,}"]
        for work in works
    ]
    return Table("", head, body)


def estimated(groups: Iterable[Sequence[Estimate]]) -> Table:
    """Estimates: what a step is made of, in milliseconds, and what comes of it; each group beside its first."""
    head = ["what", "GPUs", "images each", "computing", "starting", "exchange", "exposed", "loss", "step"]
    head += ["images/s", "times as fast", "memory"]
    body = []
    for group in groups:
        for one in group:
            times = (one.device, one.start, one.exchange, one.exposed, one.messages, one.seconds)
            times_as_fast = one.images_per_second / group[0].images_per_second
            body.append(
                [
                    one.work.name + (", split" if one.sharded else ""),
                    str(one.devices),
                    f"{one.batch:,}",
                    *map(_milliseconds, times),
                    _rounded(one.images_per_second),
                    _rounded(times_as_fast),
                    f"{one.memory / 1e9:.1f} GB",
                ]
            )
    return Table("", head, body)


def _rounded(value: float) -> str:
    """Two digits are what an estimate is worth."""
    return f"{float(f'{value:.2g}'):,g}" if value < 1e5 else f"{float(f'{value:.2g}'):,.0f}"


def _milliseconds(seconds: float) -> str:
    """Thousandths of a second, with two or three digits."""
    value = seconds * 1e3
    if value == 0:
        return "0"
    if abs(value) < 0.01:
        return f"{value:.1g}" if abs(value) >= 1e-4 else f"{value:.1e}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _bytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
