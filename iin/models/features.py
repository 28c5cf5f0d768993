"""Feature extractors: networks through whose eyes FID and KID compare images.

An extractor is a callable ``image [B, C, H, W]`` in [-1, 1] ``-> features [B, d]``. Three attributes are optional:
``name``, which figures carry (else the class's or function's name); ``fingerprint``, a string that changes when the
features do, without which the statistics of real images are not cached; and ``dim``, the number d, by which statistics
from a file are known not to fit before anything is computed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from iin.files import cache_folder
from iin.models.digits import digits
from iin.models.digits import fingerprint as digits_fingerprint

__all__ = ["Digits", "Extractor", "Inception", "extractor", "find_inception", "levels", "quantise"]

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
    dim: int

    def __call__(self, image: Tensor) -> Tensor: ...


def quantise(image: Tensor) -> Tensor:
    """Clip to [-1, 1] and round to the 256 levels of an 8-bit image, as if it had been saved and read again.

    Returns:
        float32 of the same shape: level / 127.5 - 1.
    """
    return levels(image).float() / 127.5 - 1


def levels(image: Tensor) -> Tensor:
    """The 8-bit levels of an image in [-1, 1], ``floor(128 (image + 1))``: uint8 of the same shape.

    All images that are compared, real and generated, become levels by this one rule, and so do pictures that are saved
    (`iin.pictures`), so that the figures are those of the files. The field has ``round(127.5 (image + 1))`` instead,
    which is off where data are dequantised, as they are by default: there a level l is anywhere in
    [l / 128 - 1, (l + 1) / 128 - 1), and models answer the middle. This rule gives l back for all of these; the other
    gives l - 1 or l + 1 as well towards the ends of the scale: half the pixels of a black background would have level 1
    in real images, and next to none in reconstructions. Without dequantisation l is l / 127.5 - 1, which both rules
    give back; there this one takes what a model answers between two levels for the lower one, not for the nearest.
    The two rules are never more than one level apart.
    """
    return ((image.float().clamp(-1, 1) + 1) * 128).floor().clamp(max=255).to(torch.uint8)


class Digits:
    """Penultimate activations ``[B, 64]`` of the shipped digit network, for 32x32 digits, grey or tinted.

    It looks at shapes alone: colours are undone first (see `iin.models.digits.grey`).
    """

    name = "digits"
    dim = 64

    @property
    def fingerprint(self) -> str:
        return digits_fingerprint()

    def __call__(self, image: Tensor) -> Tensor:
        return digits(image.device).features(image)


class Inception:
    """Pooled features ``[B, 2048]`` of the Inception network that published FIDs use (ported from TensorFlow).

    Images of any size; one channel is repeated to three; the network resizes in its own way, bilinearly as TensorFlow 1
    did. The network is torch-fidelity's (``pip install iin[fid]``), its weights are looked for by `find_inception`.

    Args:
        weights: path of the weights, or None to look in the caches.
        download: fetch the weights (91 MB) when they are found nowhere.
        reference: insist on the weights of published FIDs. False takes any others of this architecture from
            ``weights``; what is measured with them is no FID, and is called ``fd_inception_<digest>``.

    Raises:
        ValueError: torch-fidelity or the weights are missing (see `missing`), or the file is another one.

    References:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et al., 2017),
        arXiv:1706.08500
    """

    dim = 2048

    def __init__(self, weights: str | Path | None = None, download: bool = False, reference: bool = True) -> None:
        problem = self.missing(weights, download, reference)
        if problem:
            raise ValueError(problem)
        self.weights = None if weights is None else str(weights)
        self.reference = reference
        self.name, self.fingerprint = "inception", INCEPTION_SHA256
        path = weights or find_inception()
        if path is not None:  # a wrong file shall be known of before anything is trained, not when it is first used
            found = _checked(str(path), Path(path).stat().st_mtime_ns, reference)
            if not reference:
                self.name, self.fingerprint = f"inception_{found[:8]}", found

    @staticmethod
    def missing(weights: str | Path | None = None, download: bool = False, reference: bool = True) -> str | None:
        """What is needed and not there, in one line; None where all is there or may be downloaded."""
        if importlib.util.find_spec("torch_fidelity") is None:
            return (
                "extractor inception needs the package torch-fidelity: pip install 'iin[fid]', or use extractor: digits"
            )
        if weights is not None and not Path(weights).is_file():
            return f"Inception weights: no file {weights}; leave `weights` out to search the caches"
        if weights is None and not reference:
            return "Inception weights other than the reference's have to be named: give weights: FILE"
        if weights is None and not download and find_inception() is None:
            return (
                f"no Inception weights: give weights: FILE, or put {INCEPTION_NAMES[0]} into {cache_folder()}, "
                f"or set download: true (91 MB from {INCEPTION_URL})"
            )
        return None

    @staticmethod
    def lacks(weights: str | Path | None = None, download: bool = False, reference: bool = True) -> Iterator[str]:
        """`missing`, as a configuration's targets are asked for it."""
        problem = Inception.missing(weights, download, reference)
        if problem:
            yield problem

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape[1] == 1:
            image = image.expand(-1, 3, -1, -1)
        return _inception(self.weights, str(image.device), self.reference)(levels(image))[0]


@lru_cache(maxsize=4)
def _checked(path: str, stamp: int, reference: bool) -> str:
    """Digest of a file of weights that may be loaded; the time of its last change tells it from earlier ones.

    Raises:
        ValueError: it is another file than the reference's, or cannot be loaded without running code from it.
    """
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if reference and not found.startswith(INCEPTION_SHA256):
        raise ValueError(f"{path}: not the reference weights: sha256 {found[:8]}..., expected {INCEPTION_SHA256}...")
    try:
        torch.load(path, map_location="cpu", weights_only=True)  # the library loads pickles of any kind
    except Exception as error:  # whatever is in the file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: cannot be loaded as weights ({reason})") from error
    return found


@lru_cache(maxsize=2)
def _inception(weights: str | None, device: str, reference: bool) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = Path(weights) if weights is not None else find_inception()
    if path is None:
        path = cache_folder() / INCEPTION_NAMES[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(INCEPTION_URL, str(path), hash_prefix=INCEPTION_SHA256)  # renamed when whole
    _checked(str(path), path.stat().st_mtime_ns, reference)
    try:
        with torch.random.fork_rng(devices=[]):  # initialising draws; figures must not depend on who loaded first
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no weights of this Inception network ({str(error).splitlines()[0]})") from error
    return network.to(device).eval().requires_grad_(False)


def find_inception() -> Path | None:
    """The weights in iin's cache folder or torch hub's, whichever has them; None if neither."""
    for folder in (cache_folder(), Path(torch.hub.get_dir()) / "checkpoints"):
        for name in INCEPTION_NAMES:
            if (folder / name).is_file():
                return folder / name
    return None


def extractor(
    which: str | Callable[[Tensor], Tensor], weights: str | Path | None, download: bool
) -> Callable[[Tensor], Tensor]:
    """The extractor of this name, or the callable itself."""
    if callable(which):
        return which
    if which == "digits":
        return Digits()
    if which == "inception":
        return Inception(weights, download)
    raise ValueError(f"extractor: expected digits, inception or a callable, found {which!r}")
