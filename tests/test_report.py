"""The page: what it says of a run, what it leaves out, and that nothing in the folder can break or enter it."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iin import pictures, report
from iin.record import encode
from iin.report import charts
from iin.report.glossary import explain, section
from iin.system import Loop, Picture

CONFIG = """\
name: mnist_diin
description: Digits and their style.
data:
  train: {target: iin.data.MNISTPairs, params: {split: train}}
system:
  target: iin.systems.FactorFlow
  params:
    first_stage: {target: iin.first_stage.pretrained, params: {config: mnist_ae.yaml, part: model}}
    factors: [22, 42]
train: {epochs: 3, batch_size: 128, lr: 5.0e-4}
"""

FIGURES = {
    "swaps/digit/follows": 0.913,
    "swaps/digit/stays": 0.9,
    "nll/nats": 34.56,
    "nll/bits_per_dim": 0.78,
    "inversion/max": 3.1e-5,
    "fd_digits/samples": 13.7,
    "dims/code/digit": 22.0,
    "dims/code/residual": 42.0,
    "dims/paper/digit": 0.0,
    "dims/paper/residual": 64.0,
}


def shown(level: float) -> dict[str, Picture]:
    """Pictures as systems make them."""
    grid = torch.full((3, 4, 1, 8, 8), level)
    return {
        "swap_digit": Picture(grid, "Swap: digit", "Each cell shows digit of the image at the left.", (1,), (1,)),
        "swap_residual": Picture(grid, "Swap: residual", "The style."),
        "line_digit": Picture(grid, "Interpolation: digit"),
        "line": Picture(grid, "Interpolation"),
        "samples": Picture(grid[0], "Samples", "Decoded from codes drawn at random."),
        "reconstructions": Picture(grid, "Reconstructions"),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run with three evaluations."""
    folder = tmp_path / "2026-01-31T12-00-00_mnist_diin"
    (folder / "images").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "state.json").write_text(json.dumps({"state": "finished", "step": 1404}))
    (folder / "environment.json").write_text(json.dumps({"torch": "2.14.1", "data": {"source": "MNIST, shipped"}}))
    lines = []
    for step in range(4, 1405, 4):
        lines.append(encode(step, step // 468, "train", {"loss": 30 + 60 / step, "lr": 5e-4, "logdet": -step}))
        if step % 468 == 0:
            figures = {name: value * (1 + 0.01 * (1404 - step) / 468) for name, value in FIGURES.items()}
            lines.append(encode(step, step // 468 - 1, "test", figures))
            evaluation = folder / "eval" / f"step-{step:08d}"
            evaluation.mkdir(parents=True)
            beside = {"extractor": "digits", "images": 10000, "data_source": "MNIST, shipped"}
            (evaluation / "metrics.json").write_text(json.dumps({"step": step, **figures, **beside}))
            pictures.write(folder / "images", shown(step / 1404), step)
    (folder / "metrics.jsonl").write_bytes(b"".join(lines))
    return folder


class Reader(HTMLParser):
    """Checks that elements nest, and collects what a page refers to."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_page(folder: Path) -> tuple[str, Reader]:
    path = report.write(folder)
    assert path == folder / "report.html"
    page = path.read_text()
    return page, Reader(page)


def headings(page: str) -> Iterator[str]:
    for part in page.split("<h2>")[1:]:
        yield part.split("</h2>")[0]


def test_the_page_tells_the_run(folder: Path) -> None:
    page, reader = read_page(folder)
    text = " ".join("".join(reader.text).split())
    assert list(headings(page)) == [
        "Swaps", "Figures", "Factor dimensions", "Interpolations", "Pictures", "Curves", "Settings"
    ]  # fmt: skip
    for words in (
        "mnist_diin", "finished", "started 2026-01-31 12:00 UTC", "Digits and their style.",
        "was trained on iin.data.MNISTPairs for 1,404 steps of 128 examples, with a learning rate of 0.0005, "
        "over the first stage mnist_ae",
        "Each cell shows digit of the image at the left.", "Decoded from codes drawn at random.", "91.3%",
        "34.56", "3.1e-05",
        "Fréchet distance of samples", "not to be compared with an FID", "extractor: digits", "MNIST, shipped",
        "factors: [22, 42]", "2.14.1",
    ):  # fmt: skip
        assert words in text, words


def test_the_page_stands_alone(folder: Path) -> None:
    page, reader = read_page(folder)
    assert reader.sources and all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert "http:" not in page and "https:" not in page and "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page


def test_the_same_folder_gives_the_same_page(folder: Path) -> None:
    first = report.write(folder).read_bytes()
    assert report.write(folder).read_bytes() == first
    assert not list(folder.glob(".*"))


def test_pictures_come_in_an_order_that_makes_sense(folder: Path) -> None:
    (folder / "images" / "swap_digit_step-00000001.png").write_bytes(b"an old one")
    page, reader = read_page(folder)
    titles = [
        "Swap: digit", "Swap: residual", "Interpolation: digit", "Interpolation", "Reconstructions", "Samples"
    ]  # fmt: skip
    assert re.findall(r"<figcaption><b>([^<]*)</b> <span>step 1,404</span>", page) == titles  # the newest of each
    assert reader.tags.count("img") == 6


def test_factors_come_in_the_order_of_the_data(folder: Path) -> None:
    names = ["z/first", "digit", "A", "residual"]
    (folder / "state.json").write_text(json.dumps({"state": "finished", "step": 1404, "factors": names}))
    grid = torch.zeros(2, 2, 1, 8, 8)
    more = {f"{kind}_{name}": Picture(grid, f"{kind} {name}") for kind in ("swap", "line") for name in ("A", "z/first")}
    pictures.write(folder / "images", more, 1404)
    page, _ = read_page(folder)
    titles = re.findall(r"<figcaption><b>([^<]*)</b>", page)
    assert titles[:4] == ["swap z/first", "Swap: digit", "swap A", "Swap: residual"]
    assert titles[4:8] == ["line z/first", "Interpolation: digit", "line A", "Interpolation"]


def test_sizes_are_shown_where_none_were_estimated(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if '"train"' in line))
    for path in folder.glob("eval/*/metrics.json"):
        path.unlink()
    assert "Factor dimensions" not in headings(read_page(folder)[0])
    (folder / "state.json").write_text(json.dumps({"state": "finished", "step": 9, "factors": ["digit", "residual"]}))
    page, reader = read_page(folder)
    assert "Factor dimensions" in headings(page) and "digit 22 · residual 42" in " ".join(reader.text)
    assert "An estimate" not in page and "Sizes and scores" not in page


def test_pictures_of_an_evaluation_by_hand_count_too(folder: Path) -> None:
    pictures.save(torch.zeros(1, 1, 8, 8), folder / "eval" / "step-00001404" / "my_own-picture.png")
    pictures.write(folder / "eval" / "step-00001404", {"samples": Picture(torch.zeros(1, 1, 8, 8), "By hand")})
    pictures.write(folder / "eval" / "step-00000468", {"line": Picture(torch.zeros(1, 1, 8, 8), "Too old")})
    page, _ = read_page(folder)
    assert "<b>My own picture</b>" in page and "Too old" not in page
    assert "<b>By hand</b>" in page and "<b>Samples</b>" not in page  # it was made later


def test_heavy_pictures_do_not_make_the_page_heavy(folder: Path) -> None:
    noise = torch.randn(8, 8, 3, 64, 64, generator=torch.Generator().manual_seed(0)).cumsum(-1).div(8)
    (path,) = pictures.write(folder / "images", {"samples": Picture(noise, "Samples", "Of noise.")}, 1404)
    (huge,) = pictures.write(folder / "images", {"huge": Picture(noise.repeat(1, 3, 1, 1, 1), "Huge")}, 1404)
    _, reader = read_page(folder)
    embedded = [source for source in reader.sources if source.startswith("data:image/webp;base64,")]
    assert len(embedded) == 2 and len(reader.sources) == 7
    for source, file, width in zip(embedded, (huge, path), (1100, 530), strict=True):
        content = base64.b64decode(source.partition(",")[2])
        assert len(content) < file.stat().st_size / 2
        with Image.open(io.BytesIO(content)) as small, Image.open(file) as whole:
            assert small.width == width and abs(small.height / small.width - whole.height / whole.width) < 0.01
            pixels = [np.asarray(image.convert("RGB").resize((53, 53)), np.float32) for image in (small, whole)]
            assert np.abs(pixels[0] - pixels[1]).mean() < 3


def test_what_moves_is_shown_beside_its_still(folder: Path) -> None:
    level = torch.linspace(-1, 1, 5).view(1, 5, 1, 1, 1).expand(2, 5, 1, 8, 8)
    still = Picture(
        level, "Latent traversals", "One latent a row.", labels=("z0", "z1"), loop=Loop(level, ("z0", "z1"))
    )
    _, moving = pictures.write(folder / "images", {"traversals": still}, 1404)
    page, reader = read_page(folder)
    (embedded,) = [source for source in reader.sources if source.startswith("data:image/webp;base64,")]
    assert base64.b64decode(embedded.partition(",")[2]) == moving.read_bytes()
    assert page.index("<b>Latent traversals</b>") < page.index("<b>Latent traversals in motion</b>")
    assert page.count('<figure class="lettered">') == 1 and page.count('<figure class="moving">') == 1
    assert "prefers-reduced-motion: reduce) { .moving { display: none; }" in page

    moving.with_suffix(".png").unlink()  # its name is then all that tells what it is
    assert "<b>Traversals in motion</b>" in read_page(folder)[0]
    whole = moving.read_bytes()
    for damaged in (whole[:-9], b"RIFF\x00\x00\x00\x00WEBP", b"", _standing()):
        moving.write_bytes(damaged)
        assert "in motion" not in read_page(folder)[0]
    pictures.write(folder / "eval" / "step-00001404", {"traversals": still})  # by hand, later
    assert "<b>Latent traversals in motion</b>" in read_page(folder)[0]


def _standing() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "WEBP")
    return file.getvalue()


def test_earlier_values_stand_beside_the_newest(folder: Path) -> None:
    page, _ = read_page(folder)
    row = page.split("<code>nll/nats</code>")[1].split("</tr>")[0]
    assert [row.index(value) for value in ("35.25", "34.91", "34.56")] == sorted(
        row.index(value) for value in ("35.25", "34.91", "34.56")
    )
    assert 'class="spark"' in row


def test_a_run_without_anything_yet(tmp_path: Path) -> None:
    page, reader = read_page(tmp_path)
    assert list(headings(page)) == []
    assert "config.yaml is missing or unreadable" in "".join(reader.text)


def test_a_run_that_has_only_trained(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines[:50] if '"train"' in line))
    (folder / "state.json").write_text(json.dumps({"state": "running", "step": 0}))
    for path in [*folder.glob("images/*"), *folder.glob("eval/*/*")]:
        path.unlink()
    page, reader = read_page(folder)
    assert list(headings(page)) == ["Curves", "Settings"]
    assert "is being trained on" in " ".join("".join(reader.text).split()) and "Evaluated figures" not in page


def test_a_classifier_has_no_pictures_and_no_factors(folder: Path) -> None:
    (folder / "config.yaml").write_text("name: mnist_clf\nsystem: {target: iin.systems.Classifier}\n")
    (folder / "metrics.jsonl").write_bytes(encode(468, 0, "test", {"accuracy": 0.9876}))
    for path in [*folder.glob("images/*"), *folder.glob("eval/*/*")]:
        path.unlink()
    page, reader = read_page(folder)
    assert list(headings(page)) == ["Figures", "Settings"]
    assert "98.8%" in page and "img" not in reader.tags


def test_nothing_from_the_folder_is_taken_as_html(folder: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    (folder / "config.yaml").write_text(
        json.dumps({
            "name": evil, "description": evil, "train": {"batch_size": evil, "lr": evil},
            "system": {"target": evil, "params": {"first_stage": {"params": {"run": evil}}, "factors": [1, 1]}},
            "data": {"train": {"target": evil}},
        })
    )  # fmt: skip
    (folder / "state.json").write_text(json.dumps({"state": evil, "step": 3}))
    (folder / "environment.json").write_text(json.dumps({evil: {evil: [evil]}}))
    figures = {f"dims/code/{evil}": 3.0, "dims/code/b": 2.0, evil: 1.0, f"swaps/{evil}/follows": 0.5}
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(encode(2000, 9, "test", figures) + encode(3000, 9, "test", figures))
        file.write(encode(3000, 9, "train", {f"{evil}/loss": 1.0, evil: 2.0}))
    (folder / "eval" / "step-00001404" / "metrics.json").write_text(json.dumps({evil: evil, "nll/nats": 1.0}))
    name = evil.replace("/", "")
    pictures.save(Picture(torch.zeros(1, 1, 8, 8), evil, evil), folder / "images" / f"swap_{name}_step-00001404.png")
    pictures.save(torch.zeros(1, 1, 8, 8), folder / "images" / f"{name}_step-00001404.png")
    folder = folder.rename(folder.with_name(name))
    page, reader = read_page(folder)
    assert "script" not in reader.tags and "x" not in reader.sources
    assert "<script" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;") > 10 and "<code>&lt;script&gt;" in page


@pytest.mark.parametrize("damage", [b"", b"\x00" * 64, b"\xff\xfe{", b"[1, 2]", b"{" * 5000, b"a: [", b"null\n"])
def test_damaged_files_are_passed_over(folder: Path, damage: bytes) -> None:
    for name in ("config.yaml", "state.json", "environment.json", "metrics.jsonl"):
        (folder / name).write_bytes(damage)
    for path in [*folder.glob("eval/*/*"), *folder.glob("images/*")]:
        path.write_bytes(damage)
    page, reader = read_page(folder)
    assert "Swaps" not in headings(page) and "Figures" not in headings(page) and "img" not in reader.tags


def test_damaged_lines_and_pictures_cost_only_themselves(folder: Path) -> None:
    content = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(b"\x00garbage\n" + content + b'{"step": 1500, "spl')
    newest = folder / "images" / "samples_step-00001404.png"
    newest.write_bytes(newest.read_bytes()[:-20])
    page, reader = read_page(folder)
    assert "34.56" in page and reader.tags.count("img") == 5


def test_a_figure_that_is_not_finite_is_shown_as_such(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(encode(1872, 3, "test", {"nll/nats": math.nan, "fd_digits/samples": math.inf}))
    page, _ = read_page(folder)
    assert '<em class="bad">nan</em>' in page and '<em class="bad">inf</em>' in page


def test_an_unwritable_folder_keeps_the_old_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = report.write(folder).read_bytes()
    (folder / "state.json").write_text(json.dumps({"state": "failed", "step": 1}))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        report.write(folder)
    assert (folder / "report.html").read_bytes() == before


# --- words


@pytest.mark.parametrize("name", [*FIGURES, "swaps/color/error", "swaps/color/chance", "fid/samples", "accuracy",
    "swaps/digit/judge_images", "swaps/digit/judge_reconstructions", "fd_digits/reconstructions", "inversion/mean",
    "kid/samples", "kid/samples_std", "kid_digits/samples", "kid_digits/reconstructions_std",
    "reconstruction/mse", "reconstruction/mae", "dims/score/digit", "dims/paper_score/digit"])  # fmt: skip
def test_known_figures_are_explained(name: str) -> None:
    figure = explain(name)
    assert figure.title != name and figure.text.endswith(".") and "{" not in figure.title + figure.text + figure.group
    assert section(name) != "Other figures"


def test_unknown_figures_keep_their_name() -> None:
    assert explain("my/own").title == "my/own" and explain("my/own").group == "my/own"
    assert section("my/own") == "Other figures"


def test_the_small_network_is_never_called_fid() -> None:
    assert "FID of" not in explain("fd_digits/samples").title and explain("fid/samples").title == "FID of samples"
    assert explain("fd_digits/samples").group != explain("fid/samples").group
    assert "KID of" not in explain("kid_digits/samples").title and explain("kid/samples").title == "KID of samples"
    names = ("kid/samples", "kid/samples_std", "kid_digits/samples", "kid_digits/samples_std", "fid/samples")
    assert len({explain(name).group for name in names}) == len(names)


# --- charts


def test_ticks_are_round_and_inside() -> None:
    assert charts.ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert charts.ticks(468, 1404) == [500, 750, 1000, 1250]
    for low, high in ((-3.7, 11.2), (0, 1e-7), (1e6, 3e6), (5, 5)):
        found = charts.ticks(low, high)
        assert 1 <= len(found) <= 8 and all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)


def test_smoothing_keeps_a_line_and_calms_noise() -> None:
    line = [(float(x), 2.0 * x + 1) for x in range(100)]
    assert charts.smooth(line) == [(x, pytest.approx(y)) for x, y in line]
    noise = [(float(x), float((-1) ** x)) for x in range(200)]
    assert max(abs(y) for _, y in charts.smooth(noise)[10:-10]) < 0.2


def test_long_series_are_thinned() -> None:
    chart = charts.line_chart({"loss": [(x, math.sin(x)) for x in range(100_000)]}, raw=True)
    assert len(chart) < 30_000


def test_a_peak_does_not_flatten_the_rest() -> None:
    points = [(float(x), 1 + 0.01 * (x % 7)) for x in range(300)]
    points[3] = (3.0, 1e6)
    chart = charts.line_chart({"loss": points}, raw=True)
    heights = [float(point.split()[1]) for path in re.findall(r'class="curve[^"]*" d="M([^"]*)"', chart) for point in
               path.split("L")]  # fmt: skip
    assert len(heights) == 600 and all(0 <= height <= 220 for height in heights)  # the peak ends at the frame
    labels = Reader(chart).text
    assert "1.05" in labels and not any("M" in label or "k" in label for label in labels)


@pytest.mark.parametrize(
    "points", [[], [(1, math.nan)], [(5, math.inf), (6, -math.inf)]], ids=["empty", "nan", "infinite"]
)
def test_nothing_to_draw(points: list[tuple[float, float]]) -> None:
    assert charts.line_chart({"loss": points}) == ""
    assert charts.sparkline([y for _, y in points]) == ""


@pytest.mark.parametrize("points", [[(0, 0)], [(7, 3)], [(1, 2), (9, 2)], [(1, 1e30), (2, -1e30)], [(1, 1e-30)]])
def test_odd_series_are_drawn_within_the_frame(points: list[tuple[float, float]]) -> None:
    chart = charts.line_chart({"a": points})
    Reader(chart)
    assert "nan" not in chart and "inf" not in chart and "<circle" in chart


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.913, "0.913"), (1404, "1,404"), (34.5612, "34.56"), (3.1e-5, "3.1e-05"), (12345.6, "12,346"),
     (-0.5, "-0.5"), (100.0, "100"), (0.00012345, "0.0001234"), (2e12, "2e+12"), (math.nan, "nan")],
)  # fmt: skip
def test_numbers_for_people(value: float, text: str) -> None:
    assert charts.number(value) == text


def test_bars_show_every_part_that_is_there() -> None:
    bar = charts.stacked_bar({"digit": 22, "color": 0, "residual": 42}, ["digit", "color", "residual"])
    reader = Reader(bar)
    assert "".join(reader.text) == "2242" and 'class="b0"' in bar and 'class="b2"' in bar and 'class="b1"' not in bar
