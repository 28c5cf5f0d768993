"""The page in a real browser: every page of runs on MNIST that are trained here, few steps each."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from runs import only, train
from tiny import node

from iin.demo import files
from iin.demo.contract import Clip

pytestmark = pytest.mark.slow
pytest.importorskip("streamlit", reason="the page needs the package streamlit")
pytest.importorskip("av", reason="videos need the package av")
playwright = pytest.importorskip("playwright.sync_api", reason="a browser is driven by the package playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGES = {
    "editor": "Factor editor",
    "attack": "ttack",
    "representation": "epresentation",
    "texture": "exture",
    "video": "ideo",
    "mixing": "ixing",
    "semantics": "emantic",
    "latents": "Latents",
    "data": "Data",
}
"""Addresses of the pages that these runs have, and a word of the titles."""
DIM = 16


def config(name: str, data: str, system: dict[str, Any], steps: int, lr: float = 1e-3) -> dict[str, Any]:
    return {
        "name": name,
        "data": {split: node(f"iin.data.{data}", split=split) for split in ("train", "test")},
        "system": system,
        "train": {"steps": steps, "epochs": 1, "batch_size": 64, "lr": lr, "device": "cpu", "log_every": 50},
    }


def representation(layer: str, network: dict[str, Any]) -> dict[str, Any]:
    """A conditional flow of what a layer of a network leaves free."""
    embedder = (
        node("iin.models.PoolingEmbedder", channels=32, dim=DIM, n_down=1, width=16)
        if layer == "conv2"
        else node("iin.models.DenseEmbedder", channels=10, dim=DIM, depth=2)
    )
    return node(
        "iin.systems.LatentFlow",
        first_stage=node("iin.first_stage.pretrained", config="ae.yaml", part="model"),
        representation=node("iin.models.Layer", model=network, layer=layer),
        flow=node("iin.flows.conditional_flow", dim=DIM, embedder=embedder, blocks=4, hidden=64, depth=1),
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of all that the page can show: factors, two layers of one network, and a layer of another."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("mnist")
    stage = node("iin.first_stage.pretrained", config="ae.yaml", part="model")
    model = node("iin.models.Autoencoder", channels=1, size=32, dim=DIM, n_down=4, width=16)
    small = node("iin.models.Classifier", channels=1, size=32, classes=10, dim=DIM, n_down=4, width=8)
    digits = node("iin.models.digits.digits")
    other = node("iin.first_stage.pretrained", config="clf.yaml", part="model")
    flow = node("iin.flows.vector_flow", dim=DIM, blocks=4, hidden=64, depth=1)
    configs = {
        "ae": config(
            "ae", "MNIST", node("iin.systems.Autoencoder", model=model, reconstruction="l2", logvar_init=-3.0), 200
        ),
        "clf": config("clf", "MNIST", node("iin.systems.Classifier", model=small), 100),
        "factors": config(
            "factors", "MNISTPairs", node("iin.systems.FactorFlow", first_stage=stage, flow=flow, factors=[8, 8]), 120
        ),
        "conv2": config("conv2", "MNIST", representation("conv2", digits), 60),
        "softmax": config("softmax", "MNIST", representation("softmax", digits), 60),
        "other": config("other", "MNIST", representation("softmax", other), 60),
    }
    for name, tree in configs.items():
        tiny.write(place / f"{name}.yaml", tree)
    shown = ["factors", "conv2", "softmax", "other"]
    for name in shown:
        assert train("-b", place / f"{name}.yaml", "--logs", place / "logs", "-q") == 0
    return [only(place / "logs", f"*_{name}").folder for name in shown]


class Server:
    """``iin-demo`` in a process of its own.

    Args:
        folders: of the runs.
        log: file for what it prints.
    """

    def __init__(self, folders: list[Path], log: Path) -> None:
        with socket.create_server(("localhost", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://localhost:{self.port}/"
        self.log = log
        words = ["-p", *map(str, folders), "--port", str(self.port), "--no-browser", "--allow", "tiny"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "iin.cli.demo", *words], stdout=file, stderr=subprocess.STDOUT, env=environment
            )
        for _ in range(600):
            assert self.process.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"{self.address}_stcore/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"no answer: {log.read_text()}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def server(trained: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(trained, tmp_path_factory.mktemp("server") / "log.txt")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Tab:
    """A tab of the browser, and all that goes wrong in it."""

    def __init__(self, browser: Any, server: Server, width: int = 1280) -> None:
        self.server, self.wrong = server, list[str]()
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda said: said.type == "error" and self.wrong.append(said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._ours(request.url))

    def _ours(self, url: str) -> None:
        if not url.startswith((self.server.address, self.server.address.replace("http", "ws"), "data:", "blob:")):
            self.wrong.append(f"went to {url}")

    def open(self, name: str | None = None) -> None:
        """Open the gallery, or turn to a page from there."""
        self.page.goto(self.server.address)
        self.settle()
        if name is not None:
            self.turn_to(name)

    def turn_to(self, name: str) -> None:
        self.page.get_by_role("combobox", name="Page").click()
        self.page.get_by_role("option").filter(has_text=PAGES[name]).first.click()
        self.page.wait_for_url(f"**/?demo={name}")
        self.page.get_by_role("heading", level=1).filter(has_text=PAGES[name]).wait_for()
        self.settle()

    def settle(self) -> None:
        """Wait until all is drawn."""
        self.page.wait_for_timeout(300)
        self.page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=120_000)
        self.page.wait_for_function("[...document.images].every(image => image.complete)")

    def pictures(self) -> list[bytes]:
        """Those that are shown, as files."""
        found = self.page.locator('[data-testid="stMain"] [data-testid="stImage"] img')
        sources = found.evaluate_all("all => all.map(image => image.src)")
        return [self.page.request.get(source).body() for source in sources]

    def alerts(self) -> list[str]:
        return self.page.locator('[data-testid="stAlert"], [data-testid="stException"]').all_inner_texts()

    def check(self) -> None:
        assert not self.wrong and not re.search("error|exception|traceback", self.server.log.read_text(), re.I)


@pytest.fixture
def tab(browser: Any, server: Server) -> Iterator[Tab]:
    opened = Tab(browser, server)
    yield opened
    opened.page.close()
    opened.check()


def spread(picture: bytes) -> float:
    """How much the levels of a picture differ."""
    return float(np.asarray(Image.open(io.BytesIO(picture)).convert("L")).std())


def test_the_gallery_shows_a_picture_of_each_page(tab: Tab) -> None:
    tab.open()
    pictures = tab.pictures()
    assert len(pictures) >= len(PAGES) and all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert all(spread(picture) > 10 for picture in pictures)
    buttons = tab.page.get_by_test_id("stMain").get_by_role("button", name="Open")
    assert buttons.count() == len(pictures) and tab.alerts() == []
    buttons.first.click()
    tab.page.wait_for_url("**/?demo=editor")
    tab.page.get_by_role("heading", level=1).filter(has_text="Factor editor").wait_for()
    tab.settle()  # pictures that are still on their way are gone once the page is left
    tab.page.go_back()
    tab.page.get_by_role("heading", level=1).filter(has_text="Gallery").wait_for()
    tab.settle()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_and_a_slider_changes_its_pictures(tab: Tab, name: str) -> None:
    tab.open(name)
    before = tab.pictures()
    assert before and all(spread(picture) > 10 for picture in before)
    assert tab.alerts() == []
    slider = tab.page.get_by_test_id("stSidebar").get_by_role("slider").first
    slider.focus()
    slider.press("ArrowRight")
    tab.settle()
    assert tab.alerts() == [] and tab.pictures()[0] != before[0]


def test_a_choice_is_kept_while_one_looks_elsewhere(tab: Tab) -> None:
    tab.open("editor")
    slider = tab.page.get_by_role("slider", name="Second image")
    slider.focus()
    slider.press("ArrowRight")
    tab.settle()
    before = tab.pictures()
    tab.turn_to("data")
    tab.turn_to("editor")
    assert tab.pictures() == before


def test_another_seed_draws_other_samples(tab: Tab) -> None:
    tab.open("editor")
    before = tab.pictures()
    tab.page.get_by_role("button", name="Another seed").click()
    tab.settle()
    after = tab.pictures()
    assert after[:2] == before[:2] and after[2] != before[2]


def test_an_upload_is_shown_and_a_broken_one_gets_a_message(tab: Tab, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (255, 255, 255)).save(tmp_path / "white.png")
    (tmp_path / "text.png").write_text("just words\n" * 50)
    Image.new("L", (8000, 8000)).save(tmp_path / "wide.png")
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50 << 20))
    tab.open("editor")
    before = tab.pictures()

    def upload(name: str) -> None:
        tab.page.locator('[data-testid="stFileUploaderDropzoneInput"]').set_input_files(tmp_path / name)
        tab.page.get_by_text(name).first.wait_for()
        tab.settle()

    upload("white.png")
    tab.page.get_by_text("First image: uploaded").wait_for()
    assert tab.pictures()[0] != before[0]
    upload("text.png")
    tab.page.get_by_text("text.png: not a picture of a known format").wait_for()
    playwright.expect(tab.page.get_by_test_id("stMain").locator("img")).to_have_count(0)
    assert len(tab.alerts()) == 1
    upload("wide.png")
    tab.page.get_by_text("wide.png: 8,000 x 8,000 pixels").wait_for()
    upload("large.png")
    tab.page.get_by_text(re.compile(r"20(\.0)? ?MB or smaller")).wait_for()


def test_the_attack_finds_its_strength_or_takes_a_number_or_says_what_it_cannot_read(tab: Tab) -> None:
    tab.open("attack")
    tab.page.get_by_text(re.compile("the smallest of 0.02, .*answer|None of the strengths 0.02, .*answer")).wait_for()
    box = tab.page.get_by_role("textbox", name="Strength of the attack").first
    box.fill("much")
    box.press("Enter")
    tab.page.get_by_text(re.compile("expected a number from .* found 'much'")).wait_for()
    box.fill("0.3")
    box.press("Enter")
    tab.page.get_by_text("Strength 0.3.").wait_for()
    tab.settle()
    assert tab.alerts() == [] and tab.pictures()
    box.fill("")  # open again
    box.press("Enter")
    tab.page.get_by_text(re.compile("the smallest of 0.02|None of the strengths 0.02")).wait_for()


def test_a_video_is_translated_and_plays(tab: Tab, tmp_path: Path) -> None:
    moving = torch.full((6, 1, 32, 32), -1.0)
    for index in range(6):
        moving[index, :, 8:24, 4 + 3 * index : 8 + 3 * index] = 1
    (tmp_path / "film.mp4").write_bytes(files.film(Clip(moving, 6)))
    (tmp_path / "none.mp4").write_text("no film\n" * 50)
    tab.open("video")
    input_ = tab.page.locator('[data-testid="stFileUploaderDropzoneInput"]').last
    input_.set_input_files(tmp_path / "film.mp4")
    tab.page.get_by_text("film.mp4").first.wait_for()
    tab.settle()
    assert tab.alerts() == []
    tab.page.locator("video").first.scroll_into_view_if_needed()
    tab.page.wait_for_function(
        "[...document.querySelectorAll('video')].some(one => one.videoWidth > 0 && one.currentTime > 0)"
    )
    input_.set_input_files(tmp_path / "none.mp4")
    tab.page.get_by_text("film.mp4, none.mp4: expected one video alone").wait_for()
    tab.open("video")
    input_.set_input_files(tmp_path / "none.mp4")
    tab.page.get_by_text("none.mp4: no video that can be read").wait_for()


def test_latents_are_turned_and_shown_in_motion(tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("just words\n" * 50)
    tab.open("latents")
    before = tab.pictures()
    side = tab.page.get_by_test_id("stSidebar")
    folded = tab.page.get_by_text("4 more latents")  # of 16: eight of the digit, eight of the residual
    folded.wait_for()  # they come last
    names = side.locator('[data-testid="stSlider"] label').all_inner_texts()
    first = next(name for name in map(str.strip, names) if re.fullmatch(r"(digit|residual) \d", name))
    slider = side.get_by_role("slider", name=first)
    slider.focus()
    slider.press("ArrowRight")
    tab.page.get_by_text(re.compile(rf"{first}: from -?\d\.\d\d to -?\d\.\d\d\.")).wait_for()
    tab.settle()
    assert tab.alerts() == [] and tab.pictures()[0] != before[0]

    folded.click()
    last = side.get_by_role("slider").last
    last.scroll_into_view_if_needed()
    last.focus()
    last.press("ArrowLeft")
    tab.page.wait_for_timeout(300)
    tab.settle()
    playwright.expect(tab.page.get_by_text(re.compile(r"(digit|residual) \d: from"))).to_have_count(2)

    moving = tab.page.locator("img.moving")
    assert moving.count() == 1 and moving.evaluate("image => image.complete && image.naturalWidth > 100")
    with tab.page.expect_download() as coming:
        tab.page.get_by_role("button", name="Download WEBP").click()
    coming.value.save_as(tmp_path / "way.webp")
    assert coming.value.suggested_filename == "latents_way.webp"
    with Image.open(tmp_path / "way.webp") as animation:
        assert animation.n_frames > 20 and animation.info["loop"] == 0
    tab.page.locator('[data-testid="stFileUploaderDropzoneInput"]').set_input_files(tmp_path / "words.png")
    tab.page.get_by_text("words.png: not a picture of a known format").wait_for()


def test_a_download_is_the_picture_that_is_shown(tab: Tab, tmp_path: Path) -> None:
    tab.open("editor")
    with tab.page.expect_download() as coming:
        tab.page.get_by_role("button", name="Download PNG").first.click()
    coming.value.save_as(tmp_path / "edit.png")
    assert coming.value.suggested_filename == "editor_edit.png"
    assert (tmp_path / "edit.png").read_bytes() == tab.pictures()[0]


def test_a_page_can_be_opened_by_its_address_and_on_a_narrow_screen(browser: Any, server: Server) -> None:
    narrow = Tab(browser, server, width=800)
    narrow.page.goto(f"{server.address}?demo=representation")
    narrow.page.wait_for_selector('[data-testid="stImage"] img')
    narrow.settle()
    assert narrow.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    narrow.page.close()
    narrow.check()


def test_the_server_ends_when_it_is_told_to(trained: list[Path], tmp_path: Path) -> None:
    server = Server(trained[:1], tmp_path / "log.txt")
    assert server.stop() == 0
    said = (tmp_path / "log.txt").read_text()
    assert f"Demo: {server.address.rstrip('/')} (Ctrl-C ends it)" in said and "Traceback" not in said
