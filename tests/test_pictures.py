"""Grids of images: layout, levels, and what is broken in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iin import pictures
from iin.pictures import GAP, grid, save


def cell(picture: Image.Image, row: int, column: int, height: int, width: int) -> np.ndarray:
    """Pixels of one cell of a grid."""
    top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
    return np.asarray(picture)[top : top + height, left : left + width]


def test_large_images_keep_their_pixels() -> None:
    images = torch.rand(2, 3, 100, 80) * 2 - 1
    picture = grid(images)
    assert picture.size == (2 * 80 + 3 * GAP, 100 + 2 * GAP) and picture.mode == "RGB"
    for column in range(2):
        expected = ((images[column] + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.uint8)
        assert np.array_equal(cell(picture, 0, column, 100, 80), expected)


def test_small_images_are_enlarged_by_a_whole_factor() -> None:
    images = torch.rand(3, 4, 1, 8, 16) * 2 - 1
    picture = grid(images)
    assert picture.width >= 600
    factor = (picture.width - 5 * GAP) // 4 // 16
    assert picture.size == (4 * 16 * factor + 5 * GAP, 3 * 8 * factor + 4 * GAP)
    seen = cell(picture, 2, 1, 8 * factor, 16 * factor)
    levels = ((images[2, 1, 0] + 1) * 127.5).round().numpy().astype(np.uint8)
    assert np.array_equal(seen[:, :, 0], levels.repeat(factor, 0).repeat(factor, 1))
    assert (seen[:, :, 0] == seen[:, :, 2]).all()


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (7, 3, 3), (8, 4, 2), (12, 4, 3), (32, 8, 4), (64, 8, 8)]
)
def test_layout_is_near_square(count: int, columns: int, rows: int) -> None:
    picture = grid(torch.zeros(count, 1, 70, 70))
    assert picture.size == (columns * 70 + (columns + 1) * GAP, rows * 70 + (rows + 1) * GAP)


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


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (3, 8, 8), (0, 1, 8, 8), (1, 2, 3, 4, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"found images of shape \[.*\]; expected \[N, C, H, W\]"):
        grid(torch.zeros(shape))


def test_half_precision_and_graphs_do_not_matter() -> None:
    images = torch.zeros(1, 1, 70, 70, dtype=torch.bfloat16, requires_grad=True)
    assert grid(images).size == (70 + 2 * GAP, 70 + 2 * GAP)


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
