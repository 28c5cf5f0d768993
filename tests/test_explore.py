"""What the explorer finds in a data set, what it says of it, and that nothing in the data can enter the page."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from iin.cli.explore import main
from iin.data import MNIST, ColorfulMNIST, Images, Pairs
from iin.explore import Content, Spread, describe, picture, render
from iin.explore.drawing import LINE, _head, cell

GALLERY = """
import torch
from iin.data import Images


class Bare:
    '''Nothing but what a data set needs.'''

    def __init__(self, count: int = 5) -> None:
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, indices):
        return Images(torch.stack([torch.linspace(-1, 1, 48).roll(i).view(3, 4, 4) for i in indices]), None)
"""


class Plain:
    """Twenty images of 4x4 with labels 0, 1, 2; what tests spoil."""

    def __init__(self, count: int = 20, channels: int = 1, size: int = 4) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(count, channels, size, size, generator=generator) * 2 - 1
        self.labels = torch.arange(count) % 3

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Sequence[int]) -> Any:
        rows = torch.as_tensor(indices)
        return Images(self.images[rows], self.labels[rows])


class Couples(Plain):
    """Pairs with the next image: every second pair shares the shape, every fifth nothing, the others the place."""

    factors = ("shape", "place", "residual")

    def __getitem__(self, indices: Sequence[int]) -> Any:
        rows = torch.as_tensor(indices)
        others = (rows + torch.where(rows % 2 == 0, 3, 1)) % len(self)
        shape = (rows % 2 == 0) & (rows % 5 > 0)
        place = (rows % 2 == 1) & (rows % 5 > 0)
        shared = torch.stack([shape, place, torch.zeros_like(shape)], 1)
        return Pairs(self.images[rows], self.images[others], shared, self.labels[rows], self.labels[others])


class Answers(Plain):
    """A data set that answers whatever it is told to."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def __getitem__(self, indices: Sequence[int]) -> Any:
        return self.answer(len(indices)) if callable(self.answer) else self.answer


class Things(Couples):
    """Pairs whose labels say two things; every pair shares the shape."""

    factors = ("shape", "size", "residual")
    values: ClassVar = {"shape": ("disc", "square"), "size": ("small", "middle", "large")}

    def __getitem__(self, indices: Sequence[int]) -> Any:
        rows = torch.as_tensor(indices)
        others = (rows + 2) % len(self)
        shared = torch.tensor([[True, False, False]]).repeat(len(rows), 1)
        return Pairs(self.images[rows], self.images[others], shared, rows % 4, others % 4)

    def meaning(self, label: int) -> dict[str, str]:
        return {"shape": ("disc", "square")[label % 2], "size": ("small", "large")[label // 2]}


def numbers_of(content: Content) -> list[int]:
    return [item.place for item in content.items]


# --- what is found ----------------------------------------------------------------------------------------------------


def test_figures_are_those_of_all_values() -> None:
    data = Plain(channels=3)
    content = describe(data, 4)
    assert (content.kind, content.count, content.seen, content.shape) == ("Plain", 20, 20, (3, 4, 4))
    for channel, spread in enumerate(content.channels):
        values = data.images[:, channel].double()
        expected = (values.min(), values.max(), values.mean(), values.std(correction=0))
        found = (spread.low, spread.high, spread.mean, spread.deviation)
        assert found == pytest.approx([float(v) for v in expected], abs=1e-12)
    assert content.values.deviation == pytest.approx(float(data.images.double().std(correction=0)), abs=1e-12)
    assert content.labels == {"0": 7, "1": 7, "2": 6}
    assert content.remarks == []


def test_spreads_join_without_losing_digits() -> None:
    values = torch.rand(1000, dtype=torch.float64) + 1e8
    total = Spread()
    for piece in values.split(7):
        total = total.join(Spread.of(piece))
    assert total.size == 1000
    assert total.deviation == pytest.approx(float(values.std(correction=0)), rel=1e-6)
    assert math.isnan(Spread.of(torch.tensor([math.nan])).mean)


def test_shared_factors_are_counted_and_named() -> None:
    content = describe(Couples(), 20)
    data = Couples()
    shape = [i for i in range(20) if i % 2 == 0 and i % 5]
    place = [i for i in range(20) if i % 2 == 1 and i % 5]
    assert [(f.name, f.pairs) for f in content.factors] == [
        ("shape", len(shape)),
        ("place", len(place)),
        ("residual", 0),
    ]
    same = [bool(data.labels[i] == data.labels[(i + 3) % 20]) for i in shape]
    assert content.factors[0].same_label == pytest.approx(sum(same) / len(same))
    assert content.factors[2].same_label is None
    assert content.apart == 4
    for item in content.items:
        assert item.shared == (("shape",) if item.place in shape else ("place",) if item.place in place else ())
        assert torch.equal(item.image, data.images[item.place])
        assert item.label == str(item.place % 3)


def test_colourful_pairs_share_what_is_written_below_them() -> None:
    content = describe(ColorfulMNIST("test", pairs=True), 12, budget=12 * 2 * 3 * 32 * 32)
    assert Counter(item.shared for item in content.items).keys() == {("digit",), ("color",)}
    for item in content.items:
        if item.shared == ("digit",):
            assert item.label == item.other_label


def test_labels_that_say_several_things_are_taken_apart() -> None:
    content = describe(Things(), 20)
    assert content.labels == {}
    assert content.meanings == {"shape": {"disc": 10, "square": 10}, "size": {"small": 10, "middle": 0, "large": 10}}
    for item in content.items:
        assert item.shared == (("shape: disc", "shape: square")[item.place % 2],) and item.labels == ""
    assert content.factors[0].same_label is None and content.remarks == ["No pair shares 'size'."]
    page = render(content)
    assert page.count("shares <b>shape: disc</b>") == 10
    assert "<b>size</b> <span>Of all 20 items, by the first image.</span>" in page
    assert "middle: 0 (0.0%)" in page and "with the same label" not in page and " labels" not in page


def test_pairs_that_differ_in_what_they_share_are_remarked_upon() -> None:
    class Wrong(Things):
        def __getitem__(self, indices: Sequence[int]) -> Any:
            batch = super().__getitem__(indices)
            return batch._replace(other_label=torch.where(batch.label == 3, 0, batch.other_label))

    content = describe(Wrong(), 5)
    assert content.factors[0].different == 5
    assert "5 pairs of images made to share 'shape', though they differ in it." in content.remarks

    class Broken(Things):
        def meaning(self, label: int) -> dict[str, str]:
            raise KeyError(label)

    with pytest.raises(ValueError, match=r"^Broken: meaning\(\d\) failed \(KeyError: \d\); expected a dict$"):
        describe(Broken(), 5)


def test_a_large_set_is_looked_at_in_part_and_says_so() -> None:
    content = describe(MNIST("test"), 6, seed=3, budget=500 * 1024)
    assert (content.seen, content.labelled, content.count) == (500, 500, 10_000)
    page = render(content)
    assert "500 of 10,000 images, drawn at random, were looked at" in page
    assert "Of 500 items" in page


def test_labels_at_hand_are_counted_over_all_items() -> None:
    data = Plain()
    data.label = data.labels
    content = describe(data, 2, budget=5 * 16)
    assert (content.seen, content.labelled) == (5, 20)
    assert content.labels == {"0": 7, "1": 7, "2": 6}


def test_labels_have_the_names_of_classes() -> None:
    data = Plain()
    data.classes = ("cat", "dog", "dog", "owl")
    content = describe(data, 20)
    assert content.labels == {"cat": 7, "dog (1)": 7, "dog (2)": 6, "owl": 0}
    assert {item.label for item in content.items} == {"cat", "dog"}


def test_faulty_images_are_counted_and_named() -> None:
    data = Plain(channels=3)
    data.images[7, 0, 1, 1] = math.nan
    data.images[11, 2] = math.inf
    data.images[3] = torch.tensor([0.5, -0.5, 0.1])[:, None, None] + torch.rand(3, 4, 4) / 128  # noise below a level
    data.images[4, 0] = 0.25  # one channel only
    content = describe(data, 20)
    assert (content.broken, content.constant) == ([7, 11], [3])
    assert "2 images with values that are not finite: items 7, 11." in content.remarks
    assert "1 image with one colour all over: item 3." in content.remarks
    assert all(math.isfinite(figure) for channel in content.channels for figure in channel)


@pytest.mark.parametrize(
    ("spoil", "remark"),
    [
        (lambda data: data.images.mul_(2), r"Values go from -\d.* to \d.*; images are expected in \[-1, 1\]"),
        (lambda data: setattr(data, "images", data.images.double()), "Images are float64; float32"),
        (lambda data: setattr(data, "images", data.images.repeat(1, 2, 1, 1)), "Images have 2 channels"),
        (lambda data: setattr(data, "skipped", {"a.png": "empty file"}), "1 file was left out"),
    ],
)
def test_what_is_unusual_is_remarked_upon(spoil: Any, remark: str) -> None:
    data = Plain()
    spoil(data)
    content = describe(data, 5)
    assert len(content.remarks) == 1
    assert re.search(remark, content.remarks[0])
    assert "Nothing looks odd" not in render(content)
    picture(content)


def test_a_set_that_does_not_repeat_itself_is_found_out() -> None:
    class Restless(Plain):
        def __getitem__(self, indices: Sequence[int]) -> Any:
            return Images(torch.rand(len(indices), 1, 4, 4), torch.zeros(len(indices), dtype=torch.int64))

    assert any("twice" in remark for remark in describe(Restless(), 5).remarks)
    assert describe(Plain(), 5).remarks == []


def test_a_residual_that_is_shared_is_remarked_upon() -> None:
    class Wrong(Couples):
        factors = ("shape", "place")

        def __getitem__(self, indices: Sequence[int]) -> Any:
            batch = super().__getitem__(indices)
            return batch._replace(shared=batch.shared[:, :2])

    assert any("'place', the last factor" in remark for remark in describe(Wrong(), 5).remarks)


def test_files_left_out_are_listed_with_reasons() -> None:
    data = Plain()
    data.odd = [(f"faces/{k:02d}.png", f"reason {k}\nof two lines") for k in range(13)]
    content = describe(data, 3)
    assert len(content.odd) == 13
    page = render(content)
    assert "faces/09.png" in page and "faces/10.png" not in page
    assert "reason 3 of two lines" in page
    assert "13 files cannot be used" in page and "And 3 more" in page


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Plain(0), "Plain: holds no items"),
        (3, "int: has no length"),
        (Answers({"image": 1}), "answered dict, which has no image; expected Images or Pairs"),
        (Answers(lambda n: Images(torch.zeros(n, 4, 4), None)), r"answered float32 \[1, 4, 4\]"),
        (Answers(Images(torch.zeros(1, 1, 4, 4), None)), r"float32 \[1, 1, 4, 4\] to 20 indices"),
        (Answers(lambda n: Images(torch.zeros(n, 1, 4 + (n > 1), 4), None)), "expected one shape"),
        (Answers(lambda n: Images(np.zeros((n, 1, 4, 4)), None)), "answered ndarray"),
        (Answers(lambda n: [][n]), r"data\[\[\d+\]\] failed \(IndexError: .*\); a data set answers lists"),
        (Answers(lambda n: Pairs(*torch.zeros(2, n, 1, 4, 4), torch.zeros(n, 2))), "shared float32 .*; expected bool"),
        (Answers(lambda n: Pairs(torch.zeros(n, 1, 4, 4), None, None)), "answered other NoneType"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(data: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        describe(data)
    assert "\n" not in str(caught.value)


def test_a_wrong_number_of_factor_names_is_refused() -> None:
    data = Couples()
    data.factors = ("one", "two")
    with pytest.raises(ValueError, match=r"names 2 factors \(one, two\), but shared has 3 columns"):
        describe(data)


def test_count_is_at_least_one_and_at_most_all() -> None:
    with pytest.raises(ValueError, match="count: expected at least 1"):
        describe(Plain(), 0)
    assert sorted(numbers_of(describe(Plain(), 100))) == list(range(20))


# --- the page ---------------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects tags, and checks that they close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("data", [Plain(), Plain(channels=3), Couples()], ids=["grey", "colour", "pairs"])
def test_the_page_needs_nothing_beside_it_and_repeats_itself(data: Any) -> None:
    page = render(describe(data, 6, seed=1, split="train", config="data: {}\n"))
    again = render(describe(data, 6, seed=1, split="train", config="data: {}\n"))
    other = render(describe(data, 6, seed=2, split="train", config="data: {}\n"))
    assert page == again != other
    tags = _Page(page).tags
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == (12 if isinstance(data, Couples) else 6)
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in images)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    assert not [a for _, attributes in tags for a in attributes if a.startswith("on") or a == "href"]
    assert "http:" not in page and "https:" not in page and "@import" not in page


def test_captions_of_pairs_say_what_they_share() -> None:
    content = describe(Couples(), 20)
    page = render(content)
    assert page.count("shares <b>shape</b>") == content.factors[0].pairs
    assert page.count("<figcaption>shares nothing") == content.apart


def test_nothing_in_the_data_enters_the_page_as_markup() -> None:
    evil = "<script>alert('1')</script>\"&"
    data = Couples()
    data.factors = (evil + "a", evil + "b", evil + "c")
    data.classes = [evil + "0", evil + "1", evil + "2"]
    data.source = evil
    data.skipped = {evil: evil}
    page = render(describe(data, 20, split=evil, config=evil))
    assert "<script" not in page
    assert not {"script"} & {tag for tag, _ in _Page(page).tags}
    assert "&lt;script&gt;" in page


def test_many_labels_do_not_make_a_long_page() -> None:
    data = Plain(200)
    data.labels = torch.arange(200)
    data.labels[:50] = 7
    page = render(describe(data, 3))
    assert page.count('class="bar"') == 30
    # 151 labels: one of 51 items, 150 of one each.
    assert "The 30 most frequent; 121 others have 121 together" in page


def test_cells_are_as_wide_as_their_words_need() -> None:
    def width(data: Any) -> float:
        return float(re.search(r"--cell: ([\d.]+)rem", render(describe(data, 9)))[1])

    named = Plain()
    named.classes = ("a rather long name", "b", "c")
    longer = Plain()
    longer.classes = ("a name that is longer than anybody wants to see below a small picture", "b", "c")
    assert 4 < width(Plain()) < width(named) <= width(longer) <= 10
    pairs = Couples()
    pairs.factors = ("the shape of their outlines", "place", "residual")
    assert 9 < width(Couples()) < width(pairs) <= 16


def test_large_images_are_shown_reduced() -> None:
    (item,) = describe(Plain(1, size=600), 1).items
    assert cell(item.image).size == (256, 256)


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_picture_holds_every_image_and_room_for_words() -> None:
    data = Plain(12)
    data.images[:] = torch.linspace(-1, 1, 12)[:, None, None, None]
    found = picture(describe(data, 12))
    assert found.mode == "RGB"
    levels = Counter(found.get_flattened_data() if hasattr(found, "get_flattened_data") else found.getdata())
    for value in data.images[:, 0, 0, 0]:
        level = min(int((float(value) + 1) * 128), 255)
        assert levels[(level, level, level)] >= 72 * 72
    pair = picture(describe(Couples(), 1))
    assert pair.size[1] > 72 + 2 * LINE


def test_figures_stand_above_the_picture() -> None:
    """What is written there is what the page says: counts, ranges, and what is odd."""
    data = Plain(channels=3)
    data.skipped = {"a.png": "empty file", "b.png": "empty file"}
    lines = [line for line, _ in _head(describe(data, 5))]
    assert lines == [
        "20 images, 3x4x4, float32",
        "labels: 0 (7), 1 (7), 2 (6)",
        f"values: {data.images.min():.4g} to {data.images.max():.4g}, mean {data.images.mean():.4g}, "
        f"deviation {data.images.std(correction=0):.4g}",
        "odd: 2 files were left out.",
    ]
    lines = [line for line, _ in _head(describe(Things(), 5))]
    assert lines[1:4] == [
        "shared, of 20 pairs of images: shape (20), size (0), residual (0)",
        "shape: disc (10), square (10)",
        "size: small (10), middle (0), large (10)",
    ]
    data.skipped = {}
    few, many = (picture(describe(spoilt, 5)).size[1] for spoilt in (data, Plain(channels=3)))
    assert few == many  # no line without a word
    data.images[3] = math.nan
    assert picture(describe(data, 5)).size[1] == few + LINE


def test_words_that_do_not_fit_are_cut() -> None:
    data = Plain()
    data.classes = ["a very long name of a class, too long for any cell " * 9, "b", "写真\u200b"]
    data.source = "/" * 3000
    assert picture(describe(data, 20)).size[0] < 2000


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in, with a package of one's own beside it."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "gallery.py").write_text(GALLERY)
    (tmp_path / "here").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"
    sys.modules.pop("gallery", None)


def own(here: Path, params: dict[str, Any] | None = None) -> str:
    """A configuration of data of one's own, and nothing else."""
    node = {"target": "gallery.Bare", "params": params or {}}
    (here / "own.yaml").write_text(json.dumps({"data": {"train": node, "test": node}}))
    return "own.yaml"


@pytest.mark.parametrize("name", ["mnist_diin", "cmnist_diin", "mnist_ae"])
def test_shipped_configurations_are_shown(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-b", name, "--split", "test", "--count", "4"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"Saved: explore_{name}_test.html"
    page = (here / f"explore_{name}_test.html").read_text()
    tags = _Page(page).tags
    assert sum(tag == "img" for tag, _ in tags) == (8 if "diin" in name else 4)
    assert "target: iin.data." in page  # the section data, quoted
    assert "shipped with iin" in page


def test_data_of_ones_own_need_nothing_but_items(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = own(here, {"count": 7})
    assert main(["-b", config, "--allow", "gallery", "data.test.params.count=3", "--split", "test"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "Bare, test: 3 images, 3x4x4, float32"
    assert out[-1] == "Saved: explore_own_test.html"
    assert main(["-b", config, "--save", "own.html"]) == 2
    assert "--allow gallery" in capsys.readouterr().err


def test_a_picture_is_saved_and_replaces_the_old_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "own.PNG").write_text("old")
    assert main(["-b", own(here), "--allow", "gallery", "--save", "own.PNG"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Saved: own.PNG"
    with Image.open(io.BytesIO((here / "own.PNG").read_bytes())) as found:
        assert found.format == "PNG"
    assert sorted(path.name for path in here.iterdir()) == ["own.PNG", "own.yaml"]


def test_the_seed_of_the_configuration_chooses_the_items(here: Path) -> None:
    arguments = ["-b", own(here, {"count": 50}), "--allow", "gallery", "--count", "5", "--save"]
    for name, seed in (("a.html", "seed=1"), ("b.html", "seed=1"), ("c.html", "seed=2")):
        assert main([*arguments, name, seed]) == 0
    a, b, c = ((here / name).read_bytes() for name in ("a.html", "b.html", "c.html"))
    assert a == b != c


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--save", "page.pdf"], "page.pdf: pages are saved as .html and pictures as .png"),
        (["--save", "page"], "found 'no suffix'"),
        (["--save", "folder.html"], "folder.html: is a folder"),
        (["--save", "nowhere/page.html"], "nowhere/page.html: there is no folder nowhere"),
        (["--count", "0"], "--count: expected at least 1"),
        (["data.train.params.cuont=3"], "Bare has no such argument"),
        (["data.train.params.count=0"], "Bare: holds no items"),
        (["data.train.params.count=three"], "data.train.params.count: expected"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "folder.html").mkdir()
    assert main(["-b", own(here), *arguments, "--allow", "gallery"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert [path.name for path in here.iterdir() if path.is_file()] == ["own.yaml"]


def test_a_target_that_cannot_be_written_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", "/somewhere/.page.tmp")

    (here / "page.html").write_text("old")
    monkeypatch.setattr("iin.files.tempfile.mkstemp", refuse)
    assert main(["-b", own(here), "--allow", "gallery", "--save", "page.html"]) == 2
    assert capsys.readouterr().err == "error: page.html: cannot be written (Permission denied)\n"
    assert (here / "page.html").read_text() == "old"


def test_a_root_is_looked_for_beside_the_configuration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "digits").mkdir()
    node = {"target": "iin.data.MNIST", "params": {"split": "test", "root": "digits"}}
    (here / "sub" / "c.yaml").write_text(json.dumps({"data": {"train": node, "test": node}}))
    assert main(["-b", "sub/c.yaml"]) == 2
    error = capsys.readouterr().err
    assert str(here / "sub" / "digits") in error and "data.train" in error and error.count("\n") == 1
