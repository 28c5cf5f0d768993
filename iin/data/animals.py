"""Animals, as the paper on invariances looks at them: faces of 149 kinds, and ImageNet's carnivores.

References:
    | Making Sense of CNNs: Interpreting Deep Representations & Their Invariances with INNs
      (Rombach, Esser and Ommer, 2020), arXiv:2008.01777
    | Few-Shot Unsupervised Image-to-Image Translation (Liu et al., 2019), arXiv:1905.01723: its animal faces
    | https://github.com/NVlabs/FUNIT
    | ImageNet Large Scale Visual Recognition Challenge (Russakovsky et al., 2015), arXiv:1409.0575
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from iin.arguments import Count, Fraction
from iin.data import sources
from iin.data.folder import ImageFolder, OnError, Split
from iin.data.memory import Dequantise

__all__ = ["RESTRICTED", "AnimalFaces", "ImageNetAnimals"]

RESTRICTED = {
    "n02099601": "golden retriever",
    "n02114548": "white wolf",
    "n02117135": "hyena",
    "n02119022": "red fox",
    "n02123159": "tiger cat",
    "n02127052": "lynx",
    "n02128757": "snow leopard",
    "n02129165": "lion",
    "n02132136": "brown bear",
    "n02138441": "meerkat",
}
"""Synsets of the restricted set, in the order of their labels."""

FIRST, LAST = "n02085620", "n02138441"
"""ImageNet's 149 carnivores are its synsets from this one (Chihuahua) to that one (meerkat), both included."""

_SYNSET = re.compile(r"n\d{8}")


class AnimalFaces(ImageFolder):
    """Faces of animals, cut out of ImageNet's pictures: ``image [B, 3, size, size]``, ``label [B]``.

    The pictures of a class lie in the folder of its synset: ``<root>/n02099601/*.jpg``. All 149 classes are the
    ``shared`` set, of which training and test have all classes; ten of them are the ``restricted`` one. The labels are
    the places of the synsets in ``classes``, sorted by name.

    Which pictures the published lists test on is not known here: a tenth of them is chosen by a hash of each one's
    path, as in `ImageFolder`. Where the published split lies in two folders, name each, with ``split: all``.

    Args:
        root: folder that holds the synsets; by default ``animalfaces`` in the folders of `iin.data.sources`.
        split: ``train``, ``test`` or ``all``.
        subset: ``shared`` or ``restricted``.
        size: height and width in pixels, of the largest square in the middle.
        test_share, on_error, dequantise, cache: see `ImageFolder`. Kept in the cache, the shared set takes 6 GB.

    Raises:
        Missing: there is no such folder; the message says what goes where.
        ValueError: see `ImageFolder`.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        split: Split = "train",
        subset: Literal["shared", "restricted"] = "shared",
        size: Count = 128,
        test_share: Fraction = 0.1,
        on_error: OnError = "raise",
        dequantise: Dequantise = False,
        cache: bool = True,
    ) -> None:
        if subset not in ("shared", "restricted"):
            raise ValueError(f"subset: expected shared or restricted, found {subset!r}")
        base, found = _synsets("AnimalFaces", root, "animalfaces")
        if subset == "restricted" and (absent := RESTRICTED.keys() - set(found)):
            raise sources.Missing(f"AnimalFaces: {base} lacks {', '.join(sorted(absent))} of the restricted set")
        super().__init__(
            base,
            size,
            split,
            test_share,
            on_error=on_error,
            dequantise=dequantise,
            cache=cache,
            classes=list(RESTRICTED) if subset == "restricted" else found,
        )


class ImageNetAnimals(ImageFolder):
    """ImageNet's pictures of carnivores, 149 classes: ``image [B, 3, size, size]``, ``label [B]``.

    Training and test are those of ImageNet: ``<root>/ILSVRC2012_train/data/<synset>/*.JPEG`` and
    ``<root>/ILSVRC2012_validation/data/<synset>/*.JPEG``; other synsets may lie there too. The labels are the places of
    the synsets in ``classes``, sorted by name. Other than in the published code, pictures to train are cut from the
    middle too, not anywhere.

    Args:
        root: folder that holds ``ILSVRC2012_train`` and ``ILSVRC2012_validation``; by default, one of those of
            `iin.data.sources`.
        split: ``train`` or ``test``.
        size: height and width in pixels, of the largest square in the middle.
        on_error, dequantise, cache: see `ImageFolder`. Kept in the cache, the training set takes 10 GB.

    Raises:
        Missing: there is no such folder; the message says what goes where.
        ValueError: see `ImageFolder`.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        split: Literal["train", "test"] = "train",
        size: Count = 128,
        on_error: OnError = "raise",
        dequantise: Dequantise = False,
        cache: bool = True,
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split: expected 'train' or 'test', found {split!r}")
        folder = Path(f"ILSVRC2012_{'train' if split == 'train' else 'validation'}") / "data"
        base, found = _synsets("ImageNetAnimals", None if root is None else Path(root).expanduser() / folder, folder)
        animals = [name for name in found if FIRST <= name <= LAST]
        if not animals:
            raise sources.Missing(f"ImageNetAnimals: {base} has none of the synsets {FIRST} to {LAST}")
        super().__init__(base, size, "all", on_error=on_error, dequantise=dequantise, cache=cache, classes=animals)


def _synsets(what: str, root: str | Path | None, below: str | Path) -> tuple[Path, list[str]]:
    """The folder of a data set, and the synsets in it, sorted."""
    places = [Path(root).expanduser()] if root is not None else [base / below for base in sources.folders(None)]
    for place in places:
        if place.is_dir():
            found = [path.name for path in place.iterdir() if _SYNSET.fullmatch(path.name) and path.is_dir()]
            if found:
                return place, sorted(found)
    raise sources.Missing(
        f"{what}: not found; put its folders of pictures, one a synset such as {FIRST}, into {places[0]}"
    )
