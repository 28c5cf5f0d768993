"""The curve over layers: what a network leaves free of an image, from its input to its answer, as one picture."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from PIL import Image, ImageDraw, ImageFont

from iin.files import write_atomically
from iin.report.charts import number, ticks
from iin.run import Run

log = logging.getLogger("iin")

__all__ = ["check", "check_figures", "draw", "name_of", "panels"]

SCALE = 4
"""The picture is drawn at so many times the size at which it is read, and reduced to half of that: lines are smooth."""
WIDTH, HEIGHT = 360 * SCALE, 300 * SCALE
LEFT, RIGHT, TOP, BOTTOM = 48 * SCALE, 16 * SCALE, 62 * SCALE, 44 * SCALE
PAPER, INK, SOFT, GRID = "white", "#1d2127", "#626a75", "#e3e6ea"
COLOURS = ("#1f6feb", "#d1652b", "#2b8a3e")


class _Line(NamedTuple):
    """Values of one figure over layers; None where a layer lacks it."""

    label: str
    values: list[float | None]
    errors: list[float] | None = None


class _Panel(NamedTuple):
    title: str
    lines: list[_Line]
    percent: bool


def panels(layers: Sequence[tuple[str, Mapping[str, float]]]) -> list[_Panel]:
    """What there is to draw: the variance, what the network predicts, how alike representations are, image quality.

    Args:
        layers: name of each layer, and the figures of its run, in the order of the curve.

    Raises:
        ValueError: fewer than two layers, or `check_figures`.
    """
    if len(layers) < 2:
        raise ValueError(f"a curve over layers needs at least 2 runs, found {len(layers)}")
    for name, figures in layers:
        check_figures(name, figures)

    def values(key: str) -> list[float | None]:
        found = [figures.get(key) for _, figures in layers]
        return [value if value is not None and math.isfinite(value) else None for value in found]

    distances = sorted({key for _, figures in layers for key in figures if key.startswith(("fid/", "fd_"))})
    drawn = [
        _Panel(
            "Variance of the code, %",
            [
                _Line(
                    "left free by the layer",
                    values("invariances/free"),
                    [error or 0.0 for error in values("invariances/error")],
                ),
            ],
            True,
        ),
        _Panel(
            "Same prediction as for the image, %",
            [
                _Line("samples", values("agreement/samples")),
                _Line("reconstructions", values("agreement/reconstructions")),
            ],
            True,
        ),
        _Panel(
            "Cosine similarity with the image's representation",
            [
                _Line("samples", values("similarity/samples")),
                _Line("reconstructions", values("similarity/reconstructions")),
                _Line("other images", values("similarity/others")),
            ],
            False,
        ),
        _Panel(
            "Distance from test images" + (f" ({distances[0].split('/')[0]})" if distances else ""),
            [
                _Line(name, values(next((key for key in distances if key.endswith(f"/{name}")), "")))
                for name in ("samples", "reconstructions")
            ],
            False,
        ),
    ]
    drawn = [panel._replace(lines=[line for line in panel.lines if _known(line)]) for panel in drawn]
    return [panel for panel in drawn if panel.lines]


def draw(layers: Sequence[tuple[str, Mapping[str, float]]], path: Path) -> None:
    """Draw the curves into a PNG file.

    Args:
        layers: see `panels`.
        path: of the file.

    Raises:
        ValueError: see `panels` and `check`.
    """
    check(path, len(layers))
    found = panels(layers)
    columns = min(2, len(found))
    picture = Image.new("RGB", (columns * WIDTH, math.ceil(len(found) / columns) * HEIGHT), PAPER)
    pen = ImageDraw.Draw(picture)
    for place, panel in enumerate(found):
        _draw(pen, place % columns * WIDTH, place // columns * HEIGHT, panel, [name for name, _ in layers])
    picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    with write_atomically(path) as file:
        picture.save(file, format="PNG", optimize=True)


def check(path: Path, count: int) -> None:
    """See that a curve can be drawn there, before anything is measured.

    Args:
        path: of the file.
        count: of the runs.

    Raises:
        ValueError: it is to be none of PNG, or in no folder; or there are fewer than two runs.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the curve over layers is drawn as .png")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: no folder {path.parent}")
    if count < 2:
        raise ValueError(f"a curve over layers needs at least 2 runs, found {count}; name them behind -p")


def check_figures(name: str, figures: Mapping[str, float]) -> None:
    """See that a run's figures have a place on the curve.

    Args:
        name: of the layer, or the run.
        figures: of the run.

    Raises:
        ValueError: there is no ``invariances/free``, or it is not finite.
    """
    if "invariances/free" not in figures:
        raise ValueError(
            f"{name}: the run has no figure invariances/free; it must be that of a conditional flow, with "
            "evaluate: {invariances: {target: iin.metrics.Invariances}}"
        )
    if not math.isfinite(figures["invariances/free"]):
        raise ValueError(f"{name}: invariances/free is {figures['invariances/free']}: leave out a run that went wrong")


def check_alike(runs: Sequence[Run]) -> None:
    """Warn where runs stand on different codes, or look into different networks: no curve goes over these."""
    kinds = []
    for run in runs:
        params = (yaml.safe_load(run.config_file.read_text()).get("system") or {}).get("params") or {}
        looks = dict((params.get("representation") or {}).get("params") or {})
        kinds.append((params.get("first_stage"), {key: looks.get(key) for key in ("model", "weights", "checkpoint")}))
    for what, place in (("first stages", 0), ("networks", 1)):
        if any(kind[place] != kinds[0][place] for kind in kinds):
            log.warning("layers: the runs have different %s; the curve compares what cannot be compared", what)


def name_of(run: Run) -> str:
    """What a run's place on the curve is called: its layer, or else the run's name."""
    system = yaml.safe_load(run.config_file.read_text()).get("system", {})
    representation = (system.get("params") or {}).get("representation") or {}
    layer = (representation.get("params") or {}).get("layer")
    if layer is None:
        return run.folder.name
    return f"layer {layer}" if str(layer).isdigit() else str(layer)


def _known(line: _Line) -> bool:
    return any(value is not None for value in line.values)


def _draw(pen: ImageDraw.ImageDraw, left: int, top: int, panel: _Panel, names: Sequence[str]) -> None:
    small, large = ImageFont.load_default(11 * SCALE), ImageFont.load_default(13 * SCALE)
    factor = 100 if panel.percent else 1
    known = [factor * value for line in panel.lines for value in line.values if value is not None]
    low, high = (0.0, 100.0) if panel.percent else (min(0.0, *known), max(known) * 1.05 or 1.0)
    start, end = left + LEFT, left + WIDTH - RIGHT
    bottom, ceiling = top + HEIGHT - BOTTOM, top + TOP
    step = (end - start) / len(names)

    def across(place: int) -> float:
        return start + (place + 0.5) * step

    def down(value: float) -> float:
        return bottom + (value - low) / (high - low) * (ceiling - bottom)

    pen.text((start, top + 12 * SCALE), panel.title, INK, large)
    for mark in ticks(low, high):
        pen.line((start, down(mark), end, down(mark)), GRID, SCALE)
        pen.text((start - 6 * SCALE, down(mark)), number(mark), SOFT, small, anchor="rm")
    for place, name in enumerate(names):
        shown = name
        while small.getlength(shown) > step - 4 * SCALE and len(shown) > 2:
            shown = shown[:-2] + "…"
        pen.text((across(place), bottom + 18 * SCALE), shown, SOFT, small, anchor="ms")
    legend = float(start)
    for colour, line in zip(COLOURS, panel.lines, strict=False):
        points = [(across(place), down(factor * value)) for place, value in enumerate(line.values) if value is not None]
        if len(points) > 1:
            pen.line(points, colour, 2 * SCALE, joint="curve")
        for place, error in enumerate(line.errors or []):
            value = line.values[place]
            if value is not None:
                x, radius = across(place), 4 * SCALE
                ends = [down(factor * (value + sign * error)) for sign in (-1, 1)]
                pen.line((x, ends[0], x, ends[1]), colour, SCALE)
                for y in ends:
                    pen.line((x - radius, y, x + radius, y), colour, SCALE)
        for x, y in points:
            pen.ellipse((x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE), colour)
        pen.text((legend, top + 34 * SCALE), line.label, colour, small)
        legend += small.getlength(line.label) + 14 * SCALE
