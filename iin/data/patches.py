"""Small squares cut from larger pictures, as models of early vision are trained on.

References:
    | Emergence of simple-cell receptive field properties by learning a sparse code for natural images
      (Olshausen and Field, 1996)
    | https://doi.org/10.1038/381607a0, http://www.rctn.org/bruno/sparsenet (IMAGES.mat)
    | Local Disentanglement in Variational Auto-Encoders Using Jacobian L1 Regularization (Rhodes and Lee, 2021)
    | https://arxiv.org/abs/2106.02923 (natural images)
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from iin.arguments import Count, NonNegativeInt
from iin.data import sources
from iin.data.base import Draws
from iin.data.decoding import decode
from iin.data.folder import Selection, usable
from iin.data.memory import Labelled, check, digest
from iin.seeds import mix

__all__ = ["NaturalPatches"]

_FILE = "IMAGES.mat"
_KEY = "IMAGES"
_ADDRESS = "http://www.rctn.org/bruno/sparsenet/IMAGES.mat"


class NaturalPatches(Labelled):
    """Squares at random places of grey pictures: ``image [B, 1, size, size]``, ``label [B]``, which picture.

    All pictures are scaled together, such that the darkest pixel of all is -1 and the lightest 1. Places are drawn
    evenly and independently. So patches overlap, and those for the test lie on the pictures that others were cut from
    for training, as published; the published places are not known, since they were drawn without a seed.

    Args:
        path: ``IMAGES.mat``, which holds ten whitened pictures ``IMAGES [512, 512, 10]``, or another MATLAB file like
            it; or a folder of pictures, of which the lightness and the largest square in the middle count, and which
            are held in memory, a byte a pixel. Without it, ``IMAGES.mat`` is looked for in the folders of
            `iin.data.sources`.
        size: height and width of a patch in pixels.
        count: how many of each picture; published with 10,000 to train and 1,000 to test.
        split: ``train`` or ``test``: different places.
        seed: of the places.

    Raises:
        Missing: the file is nowhere.
        ValueError: it is damaged or another, a picture is smaller than a patch, or an argument makes no sense.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        size: Count = 16,
        count: Count = 10_000,
        split: Literal["train", "test"] = "train",
        seed: NonNegativeInt = 0,
    ) -> None:
        check(split, size)
        if count < 1:
            raise ValueError(f"count: expected at least 1 patch of each picture, found {count}")
        place = _find(path)
        pictures = _of_folder(place) if place.is_dir() else _of_matlab(place)
        for name, picture in pictures.items():
            if min(picture.shape) < size:
                height, width = picture.shape
                raise ValueError(
                    f"{place}: {name} has {width}x{height} pixels; expected at least a patch, {size}x{size}"
                )
            if picture.is_floating_point() and not picture.isfinite().all():
                raise ValueError(f"{place}: {name} has pixels that are no finite numbers")
        self._low = min(float(picture.min()) for picture in pictures.values())
        self._high = max(float(picture.max()) for picture in pictures.values())
        if not self._low < self._high:
            raise ValueError(f"{place}: all pixels are {self._low:g}; expected pictures")
        squares = _Squares(list(pictures.values()), size, count, mix(seed, split == "test"))
        self.size, self.classes = size, tuple(pictures)
        super().__init__(
            squares,
            torch.arange(len(pictures)).repeat_interleave(count),
            source=str(place),
            fingerprint=digest(f"NaturalPatches {size}", squares.all, squares.first, squares.width),
            dequantise=False,
        )

    def pixels(self, rows: Tensor, draws: Draws) -> Tensor:
        """Patches of some rows: ``[B]`` int64 -> ``[B, 1, size, size]`` float32 in [-1, 1]."""
        if self._stored is not None:
            return self._stored[rows]
        return (self._image[rows].float() - self._low).mul_(2 / (self._high - self._low)).sub_(1).clamp_(-1, 1)


class _Squares:
    """Patches at random places, indexed like a tensor ``[N, 1, size, size]``; all pictures lie in one row of pixels.

    Args:
        pictures: ``[H, W]`` each, of one type.
        size: height and width of a patch.
        count: patches of each picture.
        seed: of their places.
    """

    def __init__(self, pictures: list[Tensor], size: int, count: int, seed: int) -> None:
        self.size = size
        self.all = torch.cat([picture.reshape(-1) for picture in pictures])
        firsts, start = [], 0
        for number, picture in enumerate(pictures):
            generator = torch.Generator().manual_seed(mix(seed, number))
            row, column = (torch.randint(side - size + 1, (count,), generator=generator) for side in picture.shape)
            firsts.append(start + row * picture.shape[1] + column)
            start += picture.numel()
        self.first = torch.cat(firsts)
        self.width = torch.tensor([picture.shape[1] for picture in pictures]).repeat_interleave(count)

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: Tensor) -> Tensor:
        along = torch.arange(self.size)
        down = along[:, None] * self.width[rows][:, None, None]  # [B, size, 1]
        return self.all[self.first[rows][:, None, None] + down + along][:, None]


def _of_matlab(path: Path) -> dict[str, Tensor]:
    """Pictures of a MATLAB file: name -> ``[H, W]`` float32."""
    from scipy.io import loadmat, whosmat  # not needed by other data sets

    with path.open("rb") as file:
        if reason := sources.no_data(file.read(512)):
            raise ValueError(f"{path}: {reason}; fetch it again from {_ADDRESS}")
    try:
        held = [name for name, _, _ in whosmat(path)]
        array = loadmat(path, variable_names=[_KEY])[_KEY] if _KEY in held else None
    except NotImplementedError:
        raise ValueError(f"{path}: MATLAB's format 7.3 is not read; save it with -v7") from None
    except Exception as error:  # the reader raises whatever the damage leads to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: no MATLAB file, or damaged ({reason}); fetch it again from {_ADDRESS}") from None
    if array is None:
        raise ValueError(f"{path}: holds {', '.join(held) or 'nothing'}; expected {_KEY} [height, width, pictures]")
    if array.ndim != 3 or array.dtype.kind not in "iuf" or not array.size:
        raise ValueError(
            f"{path}: {_KEY} is {array.dtype} {list(array.shape)}; expected numbers [height, width, pictures]"
        )
    return {
        f"picture {number}": torch.from_numpy(array[..., number].astype(np.float32)) for number in range(array.shape[2])
    }


def _of_folder(root: Path) -> dict[str, Tensor]:
    """Pictures of a folder: name -> ``[side, side]`` uint8, the largest square in the middle of each."""
    found = Selection(root, 1, channels=1, keep=False)
    bad, good = dict(found.skipped), {}
    for name in found.names:
        try:
            content = (root / name).read_bytes()
            good[name] = torch.from_numpy(decode(content, _side(content), channels=1)[0])
        except OSError as error:
            bad[name] = error.strerror or str(error)
        except ValueError as error:
            bad[name] = str(error)
    usable(len({*found.names, *bad}), bad, None, root, "pictures cannot be used")
    return good


def _side(content: bytes) -> int:
    """The shorter side of a picture in pixels; 1 where it is none, which decoding it will tell."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return min(picture.size)
    except Exception:
        return 1


def _find(path: str | Path | None) -> Path:
    if path is not None:
        found = Path(path).expanduser()
        if not found.exists():
            raise sources.Missing(f"{found}: no such file or folder; {_FILE} can be had from {_ADDRESS}")
        return found
    places = sources.folders(None)
    for place in places:
        if (place / _FILE).is_file():
            return place / _FILE
    raise sources.Missing(f"natural images: not found: put {_FILE} into {places[0]} (from {_ADDRESS})")
