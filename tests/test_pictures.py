"""Grids of images: layout, levels, what is broken in them; their files and what these are called."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont, ImageSequence

from iin import pictures
from iin.pictures import BREAK, GAP, animation, draw, grid, save, stems, write
from iin.system import Loop, Picture


def cell(picture: Image.Image, row: int, column: int, height: int, width: int) -> np.ndarray:
    """Pixels of one cell of a grid."""
    top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
    return np.asarray(picture)[top : top + height, left : left + width]


def test_large_images_keep_their_pixels() -> None:
    images = torch.rand(2, 3, 100, 80) * 2 - 1
    picture = grid(images)
    assert picture.size == (2 * 80 + 3 * GAP, 100 + 2 * GAP) and picture.mode == "RGB"
    for column in range(2):
        expected = ((images[column] + 1) * 128).floor().permute(1, 2, 0).numpy().astype(np.uint8)
        assert np.array_equal(cell(picture, 0, column, 100, 80), expected)


def test_small_images_are_enlarged_by_a_whole_factor() -> None:
    images = torch.rand(3, 4, 1, 8, 16) * 2 - 1
    picture = grid(images)
    assert 400 <= picture.width <= 900
    factor = (picture.width - 5 * GAP) // 4 // 16
    assert picture.size == (4 * 16 * factor + 5 * GAP, 3 * 8 * factor + 4 * GAP)
    seen = cell(picture, 2, 1, 8 * factor, 16 * factor)
    levels = ((images[2, 1, 0] + 1) * 128).floor().numpy().astype(np.uint8)
    assert np.array_equal(seen[:, :, 0], levels.repeat(factor, 0).repeat(factor, 1))
    assert (seen[:, :, 0] == seen[:, :, 2]).all()


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (7, 3, 3), (8, 4, 2), (12, 4, 3), (32, 8, 4), (64, 8, 8)]
)
def test_layout_is_near_square(count: int, columns: int, rows: int) -> None:
    picture = grid(torch.zeros(count, 1, 70, 70))
    assert picture.size == (columns * 70 + (columns + 1) * GAP, rows * 70 + (rows + 1) * GAP)


@pytest.mark.parametrize(("count", "side"), [(1, 8), (2, 8), (3, 8), (1, 64), (9, 64), (100, 5), (400, 32)])
def test_small_grids_are_neither_tiny_nor_huge(count: int, side: int) -> None:
    picture = grid(torch.zeros(1, count, 1, side, side))
    factor = (picture.height - 2 * GAP) // side
    assert picture.width == GAP + count * (factor * side + GAP) and factor >= 1
    assert factor * side <= 160 and (picture.width <= 900 or factor == 1)


def test_grids_of_large_images_are_reduced() -> None:
    images = torch.full((9, 9, 3, 256, 192), -1.0)
    images[3, 4] = 1
    picture = np.asarray(grid(images, (1,), (1,)))
    assert abs(picture.shape[1] - 1280) <= 9 and 1.2 < picture.shape[0] / picture.shape[1] < 1.4
    lit = np.argwhere((picture == 255).all(2))
    y, x = (lit.min(0) + lit.max(0)) / 2 / picture.shape[:2]
    assert abs(y - 3.5 / 9) < 0.02 and abs(x - 4.5 / 9) < 0.02


def test_rows_and_columns_are_set_off_by_a_line() -> None:
    images = torch.full((3, 4, 1, 70, 70), -1.0)
    picture = np.asarray(grid(images, rows=(1,), columns=(1, 3, 4)))  # nothing stands behind column 4
    plain = np.asarray(grid(images))
    assert picture.shape == (plain.shape[0] + BREAK, plain.shape[1] + 2 * BREAK, 3)
    down, across = picture[:, GAP + 35, 0], picture[GAP + 35, :, 0]
    assert runs(down) == [("black", 70), ("gap", 12), ("black", 70), ("gap", 2), ("black", 70)]
    assert runs(across) == [
        ("black", 70), ("gap", 12), ("black", 70), ("gap", 2), ("black", 70), ("gap", 12), ("black", 70)
    ]  # fmt: skip
    gap = down[GAP + 70 : GAP + 82]
    assert gap.tolist() == [128] * 5 + [pictures.LINE] * 2 + [128] * 5
    assert np.array_equal(across[GAP + 70 : GAP + 82], gap) and picture[0, 0, 0] == 128


def runs(levels: np.ndarray) -> list[tuple[str, int]]:
    """What follows on what along a line through a grid, without its margins, and how many pixels of it."""
    found: list[tuple[str, int]] = []
    for level in levels[GAP:-GAP]:
        kind = "black" if level == 0 else "gap"
        count = found.pop()[1] if found and found[-1][0] == kind else 0
        found.append((kind, count + 1))
    return found


def test_rows_are_labelled_at_their_left() -> None:
    images = torch.rand(2, 3, 1, 8, 8) * 2 - 1
    bare = np.asarray(grid(images))
    named = np.asarray(draw(Picture(images, labels=("conv1", "softmax"))))
    margin = named.shape[1] - bare.shape[1]
    assert 40 < margin < 120 and np.array_equal(named[:, margin:], bare)
    half = len(named) // 2
    for row in (named[:half, :margin], named[half:, :margin]):
        assert (row == 255).all(-1).any()  # letters, in the middle of their row
        where = (row != 128).any((1, 2)).nonzero()[0]
        assert abs(where.mean() - half / 2) < 8
    long = draw(Picture(images, labels=("a" * 500, "")))
    assert long.width - bare.shape[1] < 300
    low = draw(Picture(torch.zeros(20, 900, 1, 4, 4), labels=("conv1",) * 20))
    assert low.height == 20 * 6 + 2
    with pytest.raises(ValueError, match="found 1 labels; expected one for each of the 2 rows"):
        grid(images, labels=["conv1"])


def test_columns_are_headed() -> None:
    images = torch.rand(2, 3, 1, 8, 8) * 2 - 1
    bare = np.asarray(grid(images))
    headed = np.asarray(draw(Picture(images, heads=("-2", "0", "2"))))
    high = len(headed) - len(bare)
    assert 10 < high < 30 and np.array_equal(headed[high:], bare)
    letters = (headed[:high] != 128).any((0, 2)).nonzero()[0]
    for column in range(3):  # in the middle of each column
        inside = letters[(letters >= bare.shape[1] * column // 3) & (letters < bare.shape[1] * (column + 1) // 3)]
        assert abs(inside.mean() - bare.shape[1] * (column + 0.5) / 3) < 12
    both = draw(Picture(images, labels=("a", "b"), heads=("-2", "0", "2")))
    assert both.height == len(headed) and np.array_equal(np.asarray(both)[:, -headed.shape[1] :], headed)
    assert grid(torch.zeros(1, 9, 1, 64, 64), heads=["a very long head"] * 9).height == 64 + 2 * GAP + high
    with pytest.raises(ValueError, match="found 2 heads; expected one for each of the 3 columns"):
        grid(images, heads=["-2", "2"])


def loop(panels: int = 3, frames: int = 5, side: int = 8, channels: int = 1) -> Loop:
    """Panels of one level each, which grows from black to white."""
    level = torch.linspace(-1, 1, frames).view(1, frames, 1, 1, 1)
    names = tuple(f"z{k}" for k in range(panels))
    return Loop(level.expand(panels, frames, channels, side, side), names, ("-2", "2"))


def played(content: bytes) -> list[np.ndarray]:
    with Image.open(io.BytesIO(content)) as image:
        assert image.info["loop"] == 0  # without end
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def test_an_animation_goes_there_and_back() -> None:
    frames = played(animation(loop()))
    assert len(frames) == 8  # 0 1 2 3 4 3 2 1
    middle = [int(frame[GAP + 16 + 40, GAP + 64, 0]) for frame in frames]
    assert np.abs(np.array(middle) - [0, 64, 128, 192, 255, 192, 128, 64]).max() < 6
    assert animation(loop()) == animation(loop())  # to the byte, as runs that are gone on with need it
    assert played(animation(Loop(loop().images[:1])))[0].shape != frames[0].shape


@pytest.mark.parametrize(("quality", "worst"), [(None, 0), (70, 30)])
def test_an_animation_of_a_slow_change_shows_it(
    quality: int | None, worst: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that were written as differences, with loss, left out what changed by little each time."""
    ends = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    start, end = torch.nn.functional.interpolate(ends, size=(32, 32), mode="bicubic")
    slow = Loop(torch.lerp(start, end, torch.linspace(0, 1, 25).view(1, 25, 1, 1, 1)).tanh())
    monkeypatch.setattr(pictures, "THRIFT", ((quality, 1),))
    there = played(animation(slow))[:25]
    off = [np.abs(np.asarray(a, int) - b).max() for a, b in zip(pictures._frames(slow), there, strict=True)]
    assert max(off) <= worst


@pytest.mark.parametrize(("panels", "side", "width"), [(1, 32, 256), (4, 300, 128), (16, 32, 64), (16, 128, 80)])
def test_panels_of_an_animation_are_neither_tiny_nor_huge(panels: int, side: int, width: int) -> None:
    shape = played(animation(loop(panels, 2, side)))[0].shape
    across = {1: 1, 4: 2, 16: 4}[panels]
    assert shape[1] == GAP + across * (width + GAP) and shape[0] > across * width


def test_an_animation_of_noise_is_not_heavy() -> None:
    noise = torch.rand(16, 17, 3, 80, 80, generator=torch.Generator().manual_seed(0)) * 2 - 1
    content = animation(Loop(noise))
    assert len(content) <= pictures.LIGHT and 2 < len(played(content)) < 32


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Loop(torch.zeros(2, 1, 8, 8)), r"found \[2, 1, 8, 8\]"),
        (Loop(torch.zeros(2, 1, 1, 8, 8)), "two frames at least"),
        (loop()._replace(labels=("a",)), "found 1 labels; expected 3"),
    ],
)
def test_animations_that_are_none(made: Loop, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        animation(made)


def test_a_long_label_keeps_its_number() -> None:
    font = ImageFont.load_default(12)
    assert pictures._cut("z3", font, 60) == "z3"
    short = pictures._cut("wearing necklace 12", font, 70)
    assert short.endswith("… 12") and font.getlength(short) <= 70
    assert pictures._cut("wearing necklace 12", font, 1) == "12"


def test_what_moves_is_written_beside_its_still_and_only_the_newest_stays(tmp_path: Path) -> None:
    found = {name: Picture(torch.zeros(1, 1, 8, 8), loop=loop()) for name in ("a", "a_step-3", "b")}
    write(tmp_path, found, 3)
    files = write(tmp_path, {"a": found["a"]}, 12)
    assert [path.name for path in files] == ["a_step-00000012.png", "a_step-00000012.webp"]
    moving = sorted(path.name for path in tmp_path.glob("*.webp"))
    assert moving == ["a_step-00000012.webp", "a_step-3_step-00000003.webp", "b_step-00000003.webp"]
    assert len(list(tmp_path.glob("*.png"))) == 4
    assert [path.name for path in write(tmp_path / "eval", {"a": found["a"]})] == ["a.png", "a.webp"]


def test_without_webp_there_are_stills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "moves", lambda: False)
    assert len(write(tmp_path, {"a": Picture(torch.zeros(1, 1, 8, 8), loop=loop())})) == 1
    with pytest.raises(ValueError, match="Pillow has no WebP"):
        animation(loop())


def test_levels_are_clipped_and_zero_is_the_background() -> None:
    picture = np.asarray(grid(torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0]).view(1, 5, 1, 1, 1).expand(1, 5, 1, 70, 70)))
    middle = picture[GAP + 35, GAP + 35 :: 70 + GAP, 0]
    assert middle.tolist() == [0, 0, pictures.GREY, 255, 255]
    assert (picture[0] == pictures.GREY).all()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_image_is_seen(broken: float) -> None:
    images = torch.zeros(2, 1, 70, 70)
    images[1, 0, 3, 4] = broken
    picture = grid(images)
    assert (cell(picture, 0, 1, 70, 70) == pictures.MAGENTA).all()
    assert (cell(picture, 0, 0, 70, 70) == pictures.GREY).all()


def test_of_other_channels_the_mean_is_shown() -> None:
    images = torch.zeros(1, 4, 70, 70)
    images[:, 0] = 1.0
    assert (cell(grid(images), 0, 0, 70, 70) == 160).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 1, 8, 8), (1, 2, 3, 4, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"found images of shape \[.*\]; expected \[N, C, H, W\]"):
        grid(torch.zeros(shape))


def test_half_precision_and_graphs_do_not_matter() -> None:
    images = torch.zeros(1, 1, 70, 70, dtype=torch.bfloat16, requires_grad=True)
    assert grid(images).size == (70 + 2 * GAP, 70 + 2 * GAP)


def test_a_file_says_what_it_shows(tmp_path: Path) -> None:
    picture = Picture(torch.zeros(2, 3, 1, 70, 70), "Swap: größe → 2", 'Each cell "shows" 漢字.', (1,), (1,))
    drawn = draw(picture)
    assert drawn.info == {"Title": picture.title, "Description": picture.caption}
    save(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        assert dict(read.info) == drawn.info and read.size == drawn.size
    save(picture._replace(labels=("a", "b")), tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as read:
        assert read.info["Comment"] == pictures.LETTERED
    save(picture.images, str(tmp_path / "b.png"))
    with Image.open(tmp_path / "b.png") as read:
        assert not read.info and read.size == grid(picture.images).size


def test_pictures_are_written_under_their_names(tmp_path: Path) -> None:
    found = {"samples": Picture(torch.zeros(1, 1, 8, 8)), "swap_a/b": Picture(torch.zeros(1, 1, 8, 8), "Swap: a/b")}
    files = write(tmp_path / "new" / "images", found, 12)
    assert [path.name for path in files] == ["samples_step-00000012.png", "swap_a-b_step-00000012.png"]
    again = write(tmp_path / "eval", found)
    assert [path.name for path in again] == ["samples.png", "swap_a-b.png"]
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]
    assert [Image.open(path).info["Title"] for path in files] == ["samples", "Swap: a/b"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["swap_digit", "line"], ["swap_digit", "line"]),
        (["swap_hair/colour", "swap_a b: c*?", "swap_größe"], ["swap_hair-colour", "swap_a-b-c-", "swap_größe"]),
        (["../../etc/passwd", "..", ".hidden", "/", ""], ["--..-etc-passwd", "-", "-hidden", "--2", "--3"]),
        (["swap_a/b", "swap_a-b", "swap_A b"], ["swap_a-b", "swap_a-b-2", "swap_A-b-3"]),
        (["a\x00b\nc\\d", "e\udcfff"], ["a-b-c-d", "e-f"]),
        (["swap_x-2", "swap_x", "swap/x"], ["swap_x-2", "swap_x", "swap-x"]),
    ],
)
def test_names_become_ones_that_files_can_have(names: list[str], expected: list[str]) -> None:
    found = stems(names)
    assert list(found) == names and list(found.values()) == expected
    assert list(stems(expected).values()) == expected


@pytest.mark.parametrize("letter", ["a", "ß", "漢", "𝄞x"])
def test_long_names_are_cut_and_still_told_apart(tmp_path: Path, letter: str) -> None:
    names = [f"swap_{letter * 300}{k}" for k in range(3)]
    files = write(tmp_path, {name: Picture(torch.zeros(1, 1, 8, 8)) for name in names}, 1)
    assert len(set(files)) == 3 and all(path.is_file() for path in files)


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    save(grid(torch.zeros(1, 1, 70, 70)), path)
    before = path.read_bytes()
    assert Image.open(path).size == (70 + 2 * GAP, 70 + 2 * GAP)

    def fail(self: Image.Image, file, **_: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save(grid(torch.ones(1, 1, 70, 70)), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
