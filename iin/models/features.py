"""Feature extractors: networks through whose eyes the Fréchet distance compares images.

An extractor is a callable ``image [B, C, H, W]`` in [-1, 1] ``-> features [B, d]``. Two attributes are optional:
``name``, which figures carry (else the class's or function's name), and ``fingerprint``, a string that changes when the
features do; without it the statistics of real images are not cached.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from iin.models.digits import digits
from iin.models.digits import fingerprint as digits_fingerprint

__all__ = ["Digits", "Extractor", "Inception", "cache_folder", "extractor", "find_inception", "quantise"]

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_NAMES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
INCEPTION_SHA256 = "6726825d"
"""First digits of the digest of the one file that both names stand for."""


class Extractor(Protocol):
    """Structural type of an extractor; any callable of that shape will do."""

    name: str
    fingerprint: str | None

    def __call__(self, image: Tensor) -> Tensor: ...


def quantise(image: Tensor) -> Tensor:
    """Clip to [-1, 1] and round to the 256 levels of an 8-bit image, as if it had been saved and read again."""
    return levels(image).to(image.dtype) / 127.5 - 1


def levels(image: Tensor) -> Tensor:
    """The 8-bit levels of an image in [-1, 1]: uint8 of the same shape.

    Each level is 1/128 wide, which undoes dequantisation, ``(level + U[0, 1)) / 128 - 1``, exactly.
    """
    return ((image.clamp(-1, 1) + 1) * 128).floor().clamp(max=255).to(torch.uint8)


class Digits:
    """Penultimate activations ``[B, 64]`` of the shipped digit network, for 32x32 digits, grey or tinted.

    It looks at shapes alone: colours are undone first (see `iin.models.digits.grey`).
    """

    name = "digits"

    @property
    def fingerprint(self) -> str:
        return digits_fingerprint()

    def __call__(self, image: Tensor) -> Tensor:
        return digits(image.device).features(image)


class Inception:
    """Pooled features ``[B, 2048]`` of the Inception network that published FIDs use (ported from TensorFlow).

    Images of any size; one channel is repeated to three; the network resizes in its own way. The network is
    torch-fidelity's (``pip install iin[fid]``), its weights are looked for by `find_inception`.

    Args:
        weights: path of the weights, or None to look in the caches.
        download: fetch the weights (91 MB) when they are found nowhere.

    Raises:
        ValueError: torch-fidelity or the weights are missing (see `missing`), or the file is another one.

    References:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et al., 2017),
        arXiv:1706.08500
    """

    name = "inception"
    fingerprint = INCEPTION_SHA256

    def __init__(self, weights: str | None = None, download: bool = False) -> None:
        problem = self.missing(weights, download)
        if problem:
            raise ValueError(problem)
        self.weights = weights

    @staticmethod
    def missing(weights: str | None = None, download: bool = False) -> str | None:
        """What is needed and not there, in one line; None where all is there or may be downloaded."""
        if importlib.util.find_spec("torch_fidelity") is None:
            return (
                "extractor inception needs the package torch-fidelity: pip install 'iin[fid]', or use extractor: digits"
            )
        if weights is not None and not Path(weights).is_file():
            return f"Inception weights: no file {weights}; leave `weights` out to search the caches"
        if weights is None and not download and find_inception() is None:
            return (
                f"no Inception weights: give weights: FILE, or put {INCEPTION_NAMES[0]} into {cache_folder()}, "
                f"or set download: true (91 MB from {INCEPTION_URL})"
            )
        return None

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        return _inception(self.weights, str(image.device))(levels(image))[0]


@lru_cache(maxsize=2)
def _inception(weights: str | None, device: str) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = Path(weights) if weights is not None else find_inception()
    if path is None:
        path = cache_folder() / INCEPTION_NAMES[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=INCEPTION_SHA256)  # renamed when whole
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(INCEPTION_SHA256):
        raise ValueError(f"{path}: not the reference weights: sha256 {found[:8]}..., expected {INCEPTION_SHA256}...")
    torch.load(path, map_location="cpu", weights_only=True)  # the library loads pickles of any kind: refuse those here
    with torch.random.fork_rng(devices=[]):  # initialising draws numbers; figures must not depend on who loaded first
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
    return network.to(device).eval().requires_grad_(False)


def find_inception() -> Path | None:
    """The weights in iin's cache folder or torch hub's, whichever has them; None if neither."""
    for folder in (cache_folder(), Path(torch.hub.get_dir()) / "checkpoints"):
        for name in INCEPTION_NAMES:
            if (folder / name).is_file():
                return folder / name
    return None


def cache_folder() -> Path:
    """Where files are kept that can be made or fetched again: ``$IIN_CACHE``, else ``~/.cache/iin``."""
    return Path(os.environ.get("IIN_CACHE") or Path.home() / ".cache" / "iin")


def extractor(
    which: str | Callable[[Tensor], Tensor], weights: str | None, download: bool
) -> Callable[[Tensor], Tensor]:
    """The extractor of this name, or the callable itself."""
    if callable(which):
        return which
    if which == "digits":
        return Digits()
    if which == "inception":
        return Inception(weights, download)
    raise ValueError(f"extractor: expected digits, inception or a callable, found {which!r}")
