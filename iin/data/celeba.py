"""CelebA: faces of celebrities with forty attributes, alone and in pairs that share one of them.

Of each aligned picture the middle 160x160 pixels are taken and resized to 64x64, bilinearly and, as in the paper's
experiments and hence for the weights published with it, without averaging; ``antialias`` averages. For generators of
faces, ``crop: face`` takes the 128x128 pixels that those are trained on. Pictures are decoded once (see
`iin.data.decoded`), from a folder or from the zip file as it is.

References:
    | Deep learning face attributes in the wild (Liu, Luo, Wang and Tang, 2015)
    | https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html
    | A disentangling invertible interpretation network for explaining latent representations (Esser et al., 2020)
    | https://arxiv.org/abs/2004.13166
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import MinLen
from torch import Tensor

from iin.arguments import Count
from iin.data import sources
from iin.data.attributes import Attributed, Attributes
from iin.data.decoded import Decoded
from iin.data.decoding import Archive, Folder, Pictures
from iin.data.folder import few
from iin.data.memory import Dequantise, Labelled, check, digest
from iin.data.table import closest

__all__ = ["CelebA", "FactorCelebA"]

Split = Literal["train", "test"]

Crop = Literal["middle", "face"]

_CROPS: dict[Crop, tuple[int, tuple[int, int] | None]] = {"middle": (160, None), "face": (128, (121, 89))}
"""Side of the square that is cut out, and row and column of its centre where that is not the picture's middle."""
_TEST_IMAGES = 10_000
_PARTITION, _ATTRIBUTES, _IMAGES = "list_eval_partition.txt", "list_attr_celeba.txt", "img_align_celeba"


class CelebA(Labelled):
    """Faces: ``image [B, 3, size, size]``, ``label [B]``.

    To train, the 162,770 pictures of partition 0. To test, 10,000 of the 19,962 pictures of partition 2, by which the
    paper's figures were measured: its code draws them with numpy's ``RandomState(1).choice(19962, size=10000)``, and so
    does this, in the same order. That draws with replacement: 7,765 pictures are among them, and 2,235 items are
    repetitions. Of a smaller test partition (of a selection of the files), every picture is taken once. Nothing is
    taken from partition 1, which is meant for validation.

    Args:
        split: ``train`` or ``test``.
        root: folder that holds ``celeba``, as torchvision lays it out, with ``img_align_celeba`` (or the zip file of
            it) and ``list_eval_partition.txt``; that folder itself will do, and so will the folders ``Img``, ``Anno``
            and ``Eval`` of the publishers in it, or lists as ``.csv``, as Kaggle has them. Without it, the folders of
            `iin.data.sources` are searched likewise.
        size: height and width in pixels.
        label: attribute that the label tells, 1 where it holds and else 0 (needs ``list_attr_celeba.txt``); without
            one, all labels are 0.
        antialias: average when resizing.
        dequantise: see `Labelled`.
        cache: keep decoded pictures in a file below ``$IIN_CACHE``, made when training or an evaluation begins: 2 GB to
            train, 0.1 GB to test. Otherwise they are decoded whenever they are asked for.
        crop: what is cut out of a picture: its ``middle``, 160x160 pixels, or the ``face``, the 128x128 around row 121
            and column 89 that generators of faces are trained on.

    Raises:
        Missing: files are nowhere; the message says which go where. None is downloaded: the publishers share them by
            pages with a quota, which ask questions.
        ValueError: a file is damaged, or an argument makes no sense.
    """

    def __init__(
        self,
        split: Split = "train",
        root: str | Path | None = None,
        size: Count = 64,
        label: str | None = None,
        antialias: bool = False,
        dequantise: Dequantise = True,
        cache: bool = True,
        crop: Crop = "middle",
    ) -> None:
        pictures, base, rows = _pictures(split, root, size, antialias, crop, attributes=label is not None, keep=cache)
        values = torch.zeros_like(rows) if label is None else _attributes(base, [label])[rows, 0]
        super().__init__(
            pictures,
            values,
            source=str(base),
            fingerprint=digest(f"{type(self).__name__} {dequantise}", pictures.stamps(), values),
            dequantise=dequantise,
        )


class FactorCelebA(Attributed):
    """Pairs of faces that both have one of some attributes, or both lack it; see `Attributed`.

    The pictures are those of `CelebA`; as factors, the attributes named, and the residual. As in the original project,
    each pair is made to share one attribute, drawn anew at each visit, and that one alone is marked as shared; its
    partner is drawn from the same split. Other than there, it is never the same picture.

    Args:
        split, root, size, antialias, dequantise, cache: see `CelebA`.
        attributes: names from the second line of ``list_attr_celeba.txt``.

    Raises:
        Missing: files are nowhere; the message says which go where.
        ValueError: there is no such attribute, or all pictures are alike in it; further, see `CelebA`.
    """

    def __init__(
        self,
        split: Split = "train",
        attributes: Annotated[Sequence[str], MinLen(1)] = ("Eyeglasses", "Male", "No_Beard", "Smiling"),
        root: str | Path | None = None,
        size: Count = 64,
        antialias: bool = False,
        dequantise: Dequantise = True,
        cache: bool = True,
    ) -> None:
        if not attributes or isinstance(attributes, str) or len(set(attributes)) < len(attributes):
            raise ValueError(f"attributes: expected a list of one or more different names, found {attributes!r}")
        pictures, base, rows = _pictures(split, root, size, antialias, "middle", attributes=True, keep=cache)
        values = _attributes(base, attributes)  # [T, K]
        super().__init__(
            pictures,
            Attributes(dict.fromkeys(attributes, ("no", "yes")), values, rows, str(base)),
            source=str(base),
            fingerprint=digest(
                f"{type(self).__name__} {dequantise}", pictures.stamps(), " ".join(attributes), values[rows]
            ),
            dequantise=dequantise,
        )


def _pictures(
    split: Split, root: str | Path | None, size: int, antialias: bool, crop: Crop, *, attributes: bool, keep: bool
) -> tuple[Decoded, Path, Tensor]:
    """The pictures of a split, the folder of all files, and which of its rows they are ``[M]`` int64."""
    check(split, size)
    if crop not in _CROPS:
        raise ValueError(f"crop: expected {' or '.join(_CROPS)}, found {crop!r}")
    side, centre = _CROPS[crop]
    base = _find(root, [_PARTITION, _ATTRIBUTES] if attributes else [_PARTITION])
    names, partition = _partition(base)
    rows = (partition == (0 if split == "train" else 2)).nonzero()[:, 0]
    if not len(rows):
        raise ValueError(f"{_file(base, _PARTITION)}: no picture is of split {split}")
    if split == "test" and len(rows) >= _TEST_IMAGES:
        rows = rows[torch.from_numpy(np.random.RandomState(1).choice(len(rows), size=_TEST_IMAGES))]
    files, present = _images(base)
    wanted = [names[row] for row in rows.tolist()]
    lost = [name for name in dict.fromkeys(wanted) if name not in present]
    if len(lost) == len(set(wanted)):
        raise ValueError(
            f"{files.path}: holds none of the pictures of split {split}: {few(lost, 2)}; is it the right one?"
        )
    if lost:
        raise sources.Missing(
            f"{files.path}: {len(lost):,} of {len(set(wanted)):,} pictures of split {split} are missing: {few(lost)}; "
            "extract the whole of img_align_celeba.zip, or leave the zip file as it is"
        )
    pictures = Decoded(Pictures(files, wanted, size, crop=side, centre=centre, antialias=antialias), split, keep)
    pictures[torch.tensor([0])]  # a wrong folder comes to light now
    return pictures, base, rows


def _find(root: str | Path | None, texts: Sequence[str]) -> Path:
    """The folder of CelebA's files."""
    places = sources.folders(root)
    bases = [base for place in places for base in (place / "celeba", place / "CelebA", place)]
    lacking = {base: _lacking(base, texts) for base in bases}
    base = next((base for base in bases if not lacking[base]), None)
    if base is not None:
        return base
    begun = min(bases, key=lambda base: len(lacking[base]))  # some of the files may be there already
    raise sources.Missing(
        f"CelebA: not found: put {' and '.join(lacking[begun])} into {begun} "
        "(from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, by hand: its pages have a quota)"
    )


def _lacking(base: Path, texts: Sequence[str]) -> list[str]:
    images = any((folder / name).exists() for folder in _inside(base) for name in (_IMAGES, f"{_IMAGES}.zip"))
    words = [] if images else [f"{_IMAGES}.zip (or the folder {_IMAGES})"]
    return words + [name for name in texts if _file(base, name) is None]


def _inside(base: Path) -> tuple[Path, ...]:
    return (base, base / "Img", base / "Anno", base / "Eval")


def _file(base: Path, name: str) -> Path | None:
    """A list of the publishers', or the same as a table with commas."""
    names = (name, f"{Path(name).stem}.csv")
    return next((path for path in (folder / n for n in names for folder in _inside(base)) if path.is_file()), None)


def _images(base: Path) -> tuple[Folder | Archive, set[str]]:
    """The extracted pictures, or else the zip file; and the names that are there."""
    for folder in _inside(base):
        for place in (folder / _IMAGES, folder / _IMAGES / _IMAGES):  # some extract it into a folder of its name
            names = {path.name for path in place.glob("*.jpg")} if place.is_dir() else set()
            if names:
                return Folder(place), names
    for folder in _inside(base):
        if (folder / f"{_IMAGES}.zip").is_file():
            archive = Archive(folder / f"{_IMAGES}.zip", prefix=f"{_IMAGES}/")
            return archive, set(archive.names())
    raise sources.Missing(f"{base / _IMAGES}: no pictures (*.jpg) in it; extract {_IMAGES}.zip there")


def _read(base: Path, name: str) -> tuple[Path, list[str], list[tuple[int, list[str]]]]:
    """A list: its path, the names of its columns behind the first, and the cells of each row with its line's number."""
    path = _file(base, name)
    if path is None:
        raise sources.Missing(f"{base / name}: no such file")
    content = path.read_bytes()
    if found := sources.no_data(content):
        raise ValueError(f"{path}: {found}; fetch the file again")
    lines = content.decode("utf-8-sig", "replace").splitlines()
    comma = "," if path.suffix == ".csv" else None
    rows = [(number, line.split(comma)) for number, line in enumerate(lines, 1) if line.strip()]
    if comma:
        return path, rows[0][1][1:], rows[1:]
    if name == _ATTRIBUTES:  # the number of rows, the names, the rows
        return path, rows[1][1] if len(rows) > 1 else [], rows[2:]
    return path, [], rows


def _partition(base: Path) -> tuple[list[str], Tensor]:
    """Names of all pictures, and the partition of each ``[N]``: 0 to train, 1 to validate, 2 to test."""
    path, _, rows = _read(base, _PARTITION)
    partition: dict[str, int] = {}
    for number, cells in rows:
        if len(cells) != 2 or cells[1] not in ("0", "1", "2"):
            raise ValueError(f"{path}:{number}: expected a file name and 0, 1 or 2, found {' '.join(cells)[:60]!r}")
        if cells[0] in partition:
            raise ValueError(f"{path}:{number}: {cells[0]} comes a second time; fetch the file again")
        partition[cells[0]] = int(cells[1])
    return list(partition), torch.tensor(list(partition.values()), dtype=torch.int64)


def _attributes(base: Path, wanted: Sequence[str]) -> Tensor:
    """Some attributes of all pictures, in the order of the partition: ``[N, K]`` int64, 1 where one holds, else 0."""
    path, known, rows = _read(base, _ATTRIBUTES)
    if not known or not rows:
        raise ValueError(f"{path}: expected the number of pictures, the names of attributes, and rows; fetch it again")
    for name in wanted:
        if name not in known:
            raise ValueError(f"{path}: no attribute is called {name!r}; {closest(name, known)}")
    columns = [known.index(name) + 1 for name in wanted]
    values = {"1": 1, "-1": 0}
    found: dict[str, list[int]] = {}
    for number, cells in rows:
        if len(cells) != len(known) + 1 or any(cells[column] not in values for column in columns):
            said = " ".join(cells)[:60]
            raise ValueError(f"{path}:{number}: expected a file name and {len(known)} of 1 and -1, found {said!r}")
        found[cells[0]] = [values[cells[column]] for column in columns]
    names, _ = _partition(base)
    lost = [name for name in names if name not in found]
    if lost:
        raise ValueError(f"{path}: {len(lost):,} of {len(names):,} pictures are missing in it: {few(lost)}")
    return torch.tensor([found[name] for name in names], dtype=torch.int64)
