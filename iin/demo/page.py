"""The page: a gallery of what the given runs can show, and a page for each demo. Nothing else here knows of a browser.

The script that Streamlit runs anew at each click is the end of this file; what it calls, and what was opened, stays in
this module, which is imported once. Nothing is fetched from elsewhere and nothing is told to anyone.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import random
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st

from iin import pictures
from iin.demo import files, runs, uploads
from iin.demo.contract import Choice, Demo, DemoError, Number, Option, Progress, Upload
from iin.report import charts
from iin.report.style import STYLE

__all__ = ["serve"]

log = logging.getLogger("iin")

ROOM = 64 << 20
"""Bytes of files that are kept for choices that come again."""
HOME = "Gallery"
"""What the first page is called; a demo's name is a word in small letters."""
KINDS = {"png": "image/png", "mp4": "video/mp4", "webp": "image/webp"}
"""Of files, by what their names end in."""
PATIENCE = 0.4
"""Seconds of work before its progress is shown."""


class Figure(NamedTuple):
    """A picture or a clip, as the page shows it."""

    stem: str
    """What to call its file."""
    title: str
    caption: str
    content: bytes
    """Of the file."""
    kind: str = "png"
    """What the file's name ends in: ``png``, ``mp4`` of a video, ``webp`` of an animation."""


@dataclass
class Rendered:
    """All that is shown for a choice, as files."""

    figures: list[Figure]
    lines: list[str]
    numbers: dict[str, float]
    notes: bytes
    """JSON."""
    cover: bytes | None
    """What the gallery shows of it: a PNG file, too small there for words."""

    @property
    def size(self) -> int:
        return sum(len(figure.content) for figure in self.figures) + len(self.notes)


class Shelf:
    """What was shown last, as much of it as there is room for.

    Args:
        room: bytes.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.room = room
        self._held: OrderedDict[Any, Rendered] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> Rendered | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Any, rendered: Rendered) -> None:
        with self._lock:
            self._held[key] = rendered
            self._held.move_to_end(key)
            while len(self._held) > 1 and sum(one.size for one in self._held.values()) > self.room:
                self._held.popitem(last=False)


_demos: list[Demo] = []
_exhibits: list[runs.Exhibit] = []
_shelf = Shelf()
_work = threading.Lock()
"""Held by whoever computes: two visitors at once would take twice the memory."""


# --- the server ------------------------------------------------------------------------------------------------------


def serve(
    exhibits: Sequence[runs.Exhibit], *, host: str = "localhost", port: int = 8501, started: Callable[[], None]
) -> None:
    """Serve the page until the process is told to stop.

    Args:
        exhibits: opened runs.
        host: address to listen at.
        port: likewise.
        started: called once, just before the server listens.
    """
    from streamlit.web import bootstrap

    _exhibits[:] = exhibits
    _demos[:] = runs.gallery(exhibits)
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": True,  # the browser is up to the command, and Streamlit asks for no address
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "runner.magicEnabled": False,  # else what stands alone on a line is shown
        "server.maxUploadSize": uploads.BYTES >> 20,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "global.developmentMode": False,
        "logger.hideWelcomeMessage": True,
        "logger.level": "warning",
        **_theme(),
    }
    flags = {name.replace(".", "_"): value for name, value in options.items()}
    bootstrap.load_config_options(flags)
    started()
    bootstrap.run(__file__, False, [], flags)


def _theme() -> dict[str, str]:
    """The colours of a run's report, by day and by night."""
    found: dict[str, str] = {}
    for name, part in zip(("light", "dark"), STYLE.split("@media (prefers-color-scheme: dark)")[:2], strict=True):
        colors = dict(re.findall(r"--(\w+): (#\w{3,6});", part.split("}")[0]))
        found |= {
            f"theme.{name}.primaryColor": colors["c0"],
            f"theme.{name}.backgroundColor": colors["page"],
            f"theme.{name}.secondaryBackgroundColor": colors["panel"],
            f"theme.{name}.textColor": colors["text"],
        }
    return found


# --- rendering -------------------------------------------------------------------------------------------------------


def render(demo: Demo, given: Mapping[str, Any], progress: Progress | None = None) -> Rendered:
    """What a demo shows for a choice, as files; from the shelf where it was shown before.

    Args:
        demo: the demo.
        given: what was chosen, by the option's name; uploads as lists of (name, content).
        progress: called during long work.

    Raises:
        DemoError: it cannot be shown.
    """
    sent = {option.name for option in demo.options() if isinstance(option, Upload)}
    key = demo.name, *((name, _digest(value) if name in sent else value) for name, value in sorted(given.items()))
    if (found := _shelf.get(key)) is not None:
        return found
    with _work, tempfile.TemporaryDirectory(prefix="iin-demo-") as folder:
        if (found := _shelf.get(key)) is not None:  # another visitor was first
            return found
        plain = {name: _written(value, Path(folder) / name) if name in sent else value for name, value in given.items()}
        values = runs.chosen(demo, plain)
        shown = runs.make(demo, values, progress)
        told = {name: _names(given.get(name)) if name in sent else value for name, value in values.items()}
        rendered = _files(demo, told, shown)
    _shelf.put(key, rendered)
    return rendered


def _files(demo: Demo, values: Mapping[str, Any], shown: Any) -> Rendered:
    figures = []
    for name, (stem, picture) in files.called(demo, shown.pictures).items():
        title = picture.title or name
        figures.append(Figure(stem, title, picture.caption, files.png(picture)))
        if picture.loop is not None and pictures.moves():
            figures.append(Figure(stem, f"{title}, in motion", "", pictures.animation(picture.loop), "webp"))
    for name, (stem, clip) in files.called(demo, shown.clips).items():
        figures.append(Figure(stem, _spoken(name), "", files.film(clip), "mp4"))
    first = shown.cover or next(iter(shown.pictures), None)
    cover = None if first is None else files.png(shown.pictures[first]._replace(labels=(), heads=()))
    return Rendered(figures, list(shown.lines), dict(shown.figures), files.notes(demo, values, shown), cover)


def _spoken(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _digest(sent: Sequence[tuple[str, bytes]] | None) -> str | None:
    """Of what was uploaded; None of nothing."""
    if not sent:
        return None
    total = hashlib.sha256()
    for name, content in sent:
        total.update(f"{len(name)} {name} {len(content)} ".encode(errors="replace"))
        total.update(content)
    return total.hexdigest()


def _written(sent: Sequence[tuple[str, bytes]] | None, folder: Path) -> Path | None:
    """Where what was uploaded lies now: the file, or the folder of several."""
    if not sent:
        return None
    if len(sent) > 1 and any(Path(name).suffix.lower().lstrip(".") not in uploads.PICTURES for name, _ in sent):
        raise DemoError(f"{_names(sent)}: expected one video alone, or several pictures; remove what is too much")
    folder.mkdir()
    for number, (name, content) in enumerate(sent):
        # Of the name that a browser tells, no more than a file may be called.
        path = folder / (re.sub(r"[^\w. -]", "_", Path(name).name).lstrip(".")[-80:] or f"upload-{number}")
        path.write_bytes(content)
    return folder if len(sent) > 1 else path


def _names(sent: Sequence[tuple[str, bytes]] | None) -> str | None:
    return ", ".join(name for name, _ in sent) if sent else None


# --- pages -----------------------------------------------------------------------------------------------------------


def draw() -> None:
    """Draw the page that the browser is at: what Streamlit runs at each click."""
    st.set_page_config(page_title="iin demo", layout="wide", menu_items={})
    st.html(f"<style>{_css()}</style>")
    if not _demos:
        st.error("Nothing was opened. Start this page with: iin-demo -p RUN")
        return
    for key in [key for key in st.session_state if str(key).startswith("value ")]:
        st.session_state[key] = st.session_state[key]  # else choices are forgotten when one turns to another page
    places = {HOME: HOME, **{demo.name: demo.title for demo in _demos}}
    here = st.query_params.get("demo", HOME)
    here = here if here in places else HOME
    st.session_state["page"] = here
    with st.sidebar:
        st.selectbox("Page", list(places), format_func=places.__getitem__, key="page", on_change=_turned)
        st.divider()
    if here == HOME:
        _gallery()
    else:
        _show(runs.find(_demos, here))


def _turned() -> None:
    _turn_to(st.session_state["page"])


def _turn_to(name: str) -> None:
    """Have another page drawn. It has an address of its own, which one may keep, and come back from."""
    if name == HOME:
        st.query_params.clear()
    else:
        st.query_params["demo"] = name


def _gallery() -> None:
    st.title("Gallery")
    names = ", ".join(run.name for run in _exhibits)
    st.html(f'<p class="soft">What {len(_exhibits)} run{"s" * (len(_exhibits) > 1)} can show: {escape(names)}</p>')
    previews = []
    for start in range(0, len(_demos), 2):
        for column, demo in zip(st.columns(2), _demos[start : start + 2], strict=False):
            with column, st.container(border=True):
                st.html(f"<h3>{escape(demo.title)}</h3>")
                previews.append((demo, st.empty()))
                st.html(f'<p class="soft">{escape(demo.about)}</p>')
                st.button("Open", key=f"open {demo.name}", on_click=_turn_to, args=(demo.name,))
    for demo, place in previews:
        try:
            rendered = render(demo, {}, _progress(place))
        except Exception as error:  # its own page says more
            _unforeseen(demo, error)
            place.empty()
            continue
        if rendered.cover is not None:
            place.image(rendered.cover, output_format="PNG")
        else:
            place.empty()


def _show(demo: Demo) -> None:
    """A demo: options in the sidebar, what they show beside them."""
    st.title(demo.title)
    st.html(f'<p class="soft about">{escape(demo.about)}</p>')
    with st.sidebar:
        options = demo.options()
        given = {option.name: _widget(demo, option) for option in options if not option.fold}
        for fold in dict.fromkeys(option.fold for option in options if option.fold):
            with st.expander(fold):
                given |= {option.name: _widget(demo, option) for option in options if option.fold == fold}
    place = st.empty()
    try:
        rendered = render(demo, given, _progress(place))
    except DemoError as error:
        place.error(str(error))
        return
    except Exception as error:
        _unforeseen(demo, error)
        place.error(f"Not foreseen: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return
    place.empty()
    if rendered.lines:
        st.html("".join(f"<p>{escape(line)}</p>" for line in rendered.lines))
    for figure in rendered.figures:
        _figure(figure)
    if rendered.numbers:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{charts.number(value)}</td></tr>"
            for name, value in rendered.numbers.items()
        )
        st.html(f'<h3>Figures</h3><table class="figures">{rows}</table>')
    _download("Download choice and figures as JSON", rendered.notes, f"{demo.name}.json", "application/json")


def _figure(figure: Figure) -> None:
    caption = f'<p class="soft">{escape(figure.caption)}</p>' if figure.caption else ""
    st.html(f"<h3>{escape(figure.title)}</h3>{caption}")
    if figure.kind == "mp4":
        column, _ = st.columns(2)
        column.video(figure.content, format=KINDS["mp4"], loop=True, autoplay=True, muted=True)
    elif figure.kind == "webp":  # which `st.image` would bring to a stop
        content = base64.b64encode(figure.content).decode()
        st.html(f'<img class="moving" alt="{escape(figure.title)}" src="data:{KINDS["webp"]};base64,{content}">')
    else:
        st.image(figure.content, output_format="PNG")  # else it becomes a JPEG
    name = f"{figure.stem}.{figure.kind}"
    _download(f"Download {figure.kind.upper()}", figure.content, name, KINDS[figure.kind])


def _download(label: str, content: bytes, name: str, kind: str) -> None:
    st.download_button(
        label,
        content,
        name,
        kind,
        key=f"download {name}",
        icon=":material/download:",
        type="tertiary",
        on_click="ignore",  # nothing is to be drawn anew
    )


def _unforeseen(demo: Demo, error: Exception) -> None:
    if not isinstance(error, DemoError):
        log.error("%s: %s: %s", demo.name, type(error).__name__, " ".join(str(error).split()), exc_info=error)


def _progress(place: Any) -> Progress:
    """Shows how far work has come, once it takes a while."""
    began = time.monotonic()

    def tell(share: float, what: str) -> None:
        if time.monotonic() - began > PATIENCE:
            place.progress(min(max(share, 0.0), 1.0), what)

    return tell


# --- options ---------------------------------------------------------------------------------------------------------


def _widget(demo: Demo, option: Option) -> Any:
    """Draw an option; the value that it has now, as `Option.read` takes it."""
    key = f"value {demo.name} {option.name}"
    told: dict[str, Any] = {"key": key, "help": option.help or None}
    if isinstance(option, Choice):
        default = option.among.index(option.read(None))
        return st.selectbox(option.label, option.among, **_index(key, default), **told)
    if isinstance(option, Upload):
        kinds = [*uploads.PICTURES, *(uploads.VIDEOS if option.video else ())]
        told["key"] = f"upload {demo.name} {option.name}"
        sent = st.file_uploader(option.label, kinds, accept_multiple_files=option.video, **told)
        some = sent if isinstance(sent, list) else [sent]
        return [(file.name, file.getvalue()) for file in some if file is not None] or None
    assert isinstance(option, Number)
    if option.typed:
        first = "" if option.unset else f"{option.read(None):g}"
        value = st.text_input(option.label, **_value(key, first), placeholder=option.unset or None, **told)
        if option.name == "seed":
            st.button("Another seed", key=f"again {key}", on_click=_reseed, args=(key,))
        return value.strip().replace(",", ".") or None
    if option.high <= option.low:
        return option.read(None)
    if option.whole:
        return st.slider(option.label, int(option.low), int(option.high), **_value(key, option.read(None)), **told)
    low, high = float(option.low), float(option.high)
    return st.slider(option.label, low, high, **_value(key, option.read(None)), step=(high - low) / 100, **told)


def _value(key: str, default: Any) -> dict[str, Any]:
    """A widget's first value; Streamlit wants it but once."""
    return {} if key in st.session_state else {"value": default}


def _index(key: str, default: int) -> dict[str, Any]:
    return {} if key in st.session_state else {"index": default}


def _reseed(key: str) -> None:
    st.session_state[key] = str(random.randrange(10_000))


def _css() -> str:
    """What Streamlit's own look lacks: pixels stay squares, text is quiet."""
    return """
[data-testid="stMainBlockContainer"] { max-width: 1100px; padding: 3.5rem 2.5rem 4rem; }
[data-testid="stMain"] [data-testid="stVerticalBlock"] { gap: .6rem; }
[data-testid="stSidebar"] [data-testid="stVerticalBlock"] { gap: .35rem; }
[data-testid="stSidebarUserContent"] { padding-top: .5rem; } [data-testid="stSidebar"] hr { margin: .6rem 0; }
h1 { font-size: 1.9rem !important; letter-spacing: -.015em; padding: 0 0 .4rem !important; }
h3 { font-size: 1.05rem !important; letter-spacing: 0 !important; padding: 0 !important; }
[data-testid="stHtml"] h3 { margin: 1.4rem 0 .15rem; }
[data-testid="stColumn"] h3 { margin-top: 0; } [data-testid="stHtml"] p { margin: 0 0 .15rem; }
.moving { display: block; border-radius: 4px; max-width: 100%; }
[data-testid="stImage"] img { image-rendering: pixelated; border-radius: 4px; }
[data-testid="stColumn"] [data-testid="stImage"] img { max-height: 180px; width: auto !important; max-width: 100%; }
[data-testid="stColumn"] > [data-testid="stVerticalBlock"], [data-testid="stColumn"] [data-testid="stLayoutWrapper"],
[data-testid="stColumn"] [data-testid="stLayoutWrapper"] > div { height: 100%; }
.soft { color: #767e89; max-width: 46rem; font-size: .92rem; } .about { font-size: 1rem; }
.figures { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
.figures th { font-weight: 400; text-align: left; padding: .25rem 2rem .25rem 0; }
.figures td { text-align: right; }
"""


if __name__ == "__main__":
    # Streamlit runs this file as a script of its own; what was opened is in the module of this name.
    from iin.demo import page

    page.draw()
