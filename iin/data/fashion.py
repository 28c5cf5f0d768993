"""Fashion-MNIST: articles of clothing, in the files and sizes of MNIST.

The images are the 28x28 originals at 32x32, the size of the paper's experiments: resized bilinearly, without padding,
and rounded to bytes again.

References:
    | Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms (Xiao, Rasul and Vollgraf, 2017)
    | https://arxiv.org/abs/1708.07747
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from iin.data import sources
from iin.data.idx import find_idx, read_labelled
from iin.data.memory import Published, resize

__all__ = ["FashionMNIST"]

_SITES = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
_FILES = {  # the images' file, the labels' file; MD5 of the gzipped files, as published
    "train": (
        ("train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}


class FashionMNIST(Published):
    """Clothes with their kinds: ``image [B, 1, size, size]``, ``label [B]`` in 0 ... 9.

    Args:
        split: 60,000 images to train, or 10,000 to test.
        root: folder of the IDX files as torchvision lays them out (``root/FashionMNIST/raw``; also ``root/raw`` or
            ``root`` itself; extracted or .gz). Without it, ``FashionMNIST/raw`` below the folders of
            `iin.data.sources`.
        size: height and width in pixels.
        dequantise: see `Labelled`.
        download: fetch files that are nowhere (30 MB).

    Raises:
        Missing: the files are nowhere and were not downloaded.
        ValueError: a file is damaged, or an argument makes no sense.
    """

    classes = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

    @staticmethod
    def load(split: str, root: str | Path | None, size: int, download: bool) -> tuple[Tensor, Tensor, str]:
        paths = _find(split, root, download)
        image, label = _read(tuple((str(path), path.stat().st_mtime_ns) for path in paths), size)
        return image, label, str(paths[0].parent)


def _find(split: str, root: str | Path | None, download: bool) -> list[Path]:
    """The files of images and of labels, downloaded where needed."""
    places = sources.folders(root)
    for place in places:
        found = _here(place, split, named=root is None)
        if all(found):
            return [path for path in found if path]
    found = _here(places[0], split, named=root is None)
    folder = places[0] / "FashionMNIST" / "raw"
    missing = [
        sources.Remote(f"{name}.gz", md5, tuple(f"{site}{name}.gz" for site in _SITES))
        for (name, md5), path in zip(_FILES[split], found, strict=True)
        if not path
    ]
    sources.fetch("FashionMNIST", missing, folder, download=download)
    return [path or folder / f"{name}.gz" for (name, _), path in zip(_FILES[split], found, strict=True)]


def _here(place: Path, split: str, named: bool) -> list[Path | None]:
    return [find_idx(place, name, "FashionMNIST", named=named) for name, _ in _FILES[split]]


@lru_cache(maxsize=4)  # several data sets of one process share the images
def _read(stamps: tuple[tuple[str, int], ...], size: int) -> tuple[Tensor, Tensor]:
    """Read and resize the images of two files, with their labels."""
    images, labels = (Path(path) for path, _ in stamps)
    image, label = read_labelled(images, labels, classes=len(FashionMNIST.classes))
    pixels = torch.from_numpy(image.copy()).unsqueeze(1)  # [N, 1, 28, 28]
    return resize(pixels, size), torch.from_numpy(label.astype("int64"))
