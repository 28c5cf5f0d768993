"""MNIST: handwritten digits, alone, in pairs, and in colour.

The images are the 28x28 originals at 32x32, the size of the paper's experiments: resized bilinearly, without padding,
and rounded to bytes again. They ship in the package; a folder of IDX files takes precedence where one is named.

References:
    | Gradient-based learning applied to document recognition (LeCun, Bottou, Bengio and Haffner, 1998)
    | A disentangling invertible interpretation network for explaining latent representations (Esser et al., 2020)
    | https://arxiv.org/abs/2004.13166
"""

from __future__ import annotations

import lzma
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from iin.arguments import Count
from iin.data.base import Images, Pairs
from iin.data.idx import find_idx, parse_idx, read_labelled
from iin.data.memory import Classes, Dequantise, Labelled, check, digest, resize

__all__ = ["MNIST", "ColorfulMNIST", "MNISTPairs", "SingleColorfulMNIST", "measure_color"]

Split = Literal["train", "test"]

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_SHIPPED = "shipped with iin"


class MNIST(Labelled):
    """Digits with their labels: ``image [B, 1, size, size]``, ``label [B]``.

    Args:
        split: 60,000 images to train, or 10,000 to test.
        root: folder of the IDX files as torchvision lays them out (``root/MNIST/raw``, ``root/raw`` or ``root`` itself;
            extracted or .gz). Without it, ``$IIN_DATA`` is searched the same way, then the shipped digits are used.
        size: height and width in pixels.
        dequantise: see `Labelled`.

    Raises:
        FileNotFoundError: ``root`` lacks the files, or ``$IIN_DATA`` holds one of the two without the other.
        ValueError: a file is damaged, or an argument makes no sense.
    """

    def __init__(
        self, split: Split = "train", root: str | Path | None = None, size: Count = 32, dequantise: Dequantise = True
    ) -> None:
        image, label, source = _load(split, root, size)
        name = f"{type(self).__name__} {size} {dequantise}"
        super().__init__(image, label, source=source, fingerprint=digest(name, image, label), dequantise=dequantise)


class MNISTPairs(MNIST):
    """Pairs of images that share the digit: `Pairs` with factors ``digit`` and ``residual``.

    The item at an index is that image, and another of the same digit, drawn anew at each visit. Arguments and errors
    are those of `MNIST`; further

    Raises:
        ValueError: all labels are alike.
    """

    factors = ("digit", "residual")

    def __init__(
        self, split: Split = "train", root: str | Path | None = None, size: Count = 32, dequantise: Dequantise = True
    ) -> None:
        super().__init__(split, root, size, dequantise)
        self._classes = Classes(self._label)

    def __getitem__(self, indices: Sequence[int]) -> Pairs:  # type: ignore[override]
        rows, draws = self.rows(indices)
        others = self._classes.another(rows, draws)
        return Pairs(
            self.pixels(rows, draws),
            self.pixels(others, draws),
            torch.tensor([True, False]).repeat(len(rows), 1),  # [B, 2]
            self._label[rows],
            self._label[others],
        )


class ColorfulMNIST(MNIST):
    """Digits in colour: the grey image in [-1, 1] times a colour from U[0, 1]^3, so that the background takes the
    negative of the digit's colour. ``image [B, 3, size, size]``; colours are drawn anew at each visit.

    As pairs, half of the items share the digit, each image with its own colour; the others share the colour, the second
    image being any of the set (of the same digit, one time in ten: ``shared`` says what the pair was made to share).
    Factors: ``digit``, ``color``, ``residual``. The label is the digit.

    Args:
        split, root, size, dequantise: see `MNIST`. The noise is that of the grey image, one draw a pixel.
        pairs: answer `Pairs` instead of `Images`.

    Raises:
        ValueError: pairs are asked for and all labels are alike; further, see `MNIST`.
    """

    def __init__(
        self,
        split: Split = "train",
        root: str | Path | None = None,
        size: Count = 32,
        dequantise: Dequantise = True,
        pairs: bool = False,
    ) -> None:
        super().__init__(split, root, size, dequantise)
        self._classes = Classes(self._label) if pairs else None
        if pairs:
            self.factors = ("digit", "color", "residual")
            self.fingerprint = digest("pairs", self.fingerprint)

    @property
    def varies(self) -> str:
        return "random colours"

    def __getitem__(self, indices: Sequence[int]) -> Images | Pairs:  # type: ignore[override]
        rows, draws = self.rows(indices)
        if self._classes is None:
            color = draws.uniform(3, 1, 1)
            return Images(self.pixels(rows, draws) * color, self._label[rows])

        same_color = draws.integers(2).bool()  # [B]
        anyone = draws.integers(len(self))
        others = torch.where(same_color, anyone, self._classes.another(rows, draws))
        color, another = draws.uniform(3, 1, 1), draws.uniform(3, 1, 1)
        return Pairs(
            self.pixels(rows, draws) * color,
            self.pixels(others, draws) * torch.where(same_color[:, None, None, None], color, another),
            torch.stack([~same_color, same_color, torch.zeros_like(same_color)], 1),  # [B, 3]
            self._label[rows],
            self._label[others],
        )


class SingleColorfulMNIST(ColorfulMNIST):
    """`ColorfulMNIST` without pairs, under the name that it had in the original project: `Images` of digits, each in a
    colour of its own, drawn anew at each visit. Arguments and errors are those of `MNIST`.
    """

    def __init__(
        self, split: Split = "train", root: str | Path | None = None, size: Count = 32, dequantise: Dequantise = True
    ) -> None:
        super().__init__(split, root, size, dequantise)


def measure_color(image: Tensor) -> Tensor:
    """Measure the colour of digits as `ColorfulMNIST` paints them: each channel's maximum, clipped to [0, 1].

    A stroke that is white in the grey image has exactly the colour that was drawn; the brightest pixel of a digit has
    98.7 % of it on average. The background, the negative of the colour, is never the maximum.

    Args:
        image: ``[B, C, H, W]`` in [-1, 1]; slightly beyond, as decoders answer, is clipped.

    Returns:
        ``[B, C]`` in [0, 1].
    """
    return image.amax((-2, -1)).clamp(0, 1)


def _load(split: Split, root: str | Path | None, size: int) -> tuple[Tensor, Tensor, str]:
    """Find the digits: image ``[N, 1, size, size]`` uint8, label ``[N]`` int64, and where they came from."""
    check(split, size)
    for folder, way_out in ((root, "leave root out"), (os.environ.get("IIN_DATA") or None, "unset IIN_DATA")):
        if folder is None:
            continue
        place = Path(folder).expanduser()
        found = [find_idx(place, name, "MNIST") for name in _FILES[split]]
        if all(found):
            stamps = tuple((str(path), path.stat().st_mtime_ns) for path in found if path)
            return *_read(split, stamps, size), str(place)
        if root is not None or any(found):  # $IIN_DATA may hold other sets only, but half of this one is a mistake
            missing = " and ".join(f"{name}.gz" for name, path in zip(_FILES[split], found, strict=True) if not path)
            raise FileNotFoundError(
                f"{place}: no complete MNIST here: put {missing} (or extracted) into {place / 'MNIST' / 'raw'}, "
                f"or {way_out} to use the digits shipped with iin"
            )
    return *_read(split, (), size), _SHIPPED


@lru_cache(maxsize=4)  # several data sets of one process share the images
def _read(split: Split, stamps: tuple[tuple[str, int], ...], size: int) -> tuple[Tensor, Tensor]:
    """Read and resize the images of two files, with their labels; of no files, the shipped ones."""
    if stamps:
        images, labels = (Path(path) for path, _ in stamps)
        image, label = read_labelled(images, labels, classes=10)
    else:
        path = Path(__file__).parent / f"mnist-{split}.xz"
        try:
            data = lzma.decompress(path.read_bytes())
        except lzma.LZMAError as error:
            raise ValueError(f"{path}: damaged ({error}); install iin again") from None
        image, end = parse_idx(data, str(path))
        label, _ = parse_idx(data, str(path), end)
    pixels = torch.from_numpy(image.copy()).unsqueeze(1)  # [N, 1, 28, 28]
    return resize(pixels, size), torch.from_numpy(label.astype("int64"))
