r"""How different two images look: distances between what a network sees in them.

Both images go through a frozen network. At some of its layers the features of every position are scaled to length 1,
their squared differences are weighted channel by channel, and the mean over positions is taken; the layers' values are
summed:

.. math:: d(x, y) = \sum_l \frac{1}{H_l W_l} \sum_{hw} w_l \cdot (\hat x_{lhw} - \hat y_{lhw})^2

References:
    | The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (Zhang et al., 2018)
    | https://arxiv.org/abs/1801.03924
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from iin.files import cache_folder
from iin.models.digits import digits

__all__ = ["DigitDistance", "Perceptual", "PerceptualName", "VGGDistance", "distance", "perceptual"]

log = logging.getLogger("iin")

PerceptualName = Literal["vgg", "digits", "none"]

EPS = 1e-8
"""Inside the root of a feature's length: where all channels are silent, the root alone has an infinite slope."""

VGG_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
VGG_NAME = "vgg16-397923af.pth"
VGG_SHA256 = "397923af"
"""First digits of the digest of torchvision's weights."""

HEADS = {"lpips": "weights/v0.1/vgg.pth", "torchmetrics": "functional/image/lpips_models/vgg.pth"}
"""Packages that bring along the weights of VGG's channels, and where."""


class Perceptual(Protocol):
    """Structural type of a distance."""

    def __call__(self, image: Tensor, other: Tensor) -> Tensor: ...


def distance(first: Iterable[Tensor], second: Iterable[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Distance between the features of two batches of images.

    Args:
        first: features of each layer ``[B, C, H, W]``.
        second: features of each layer, of the same shapes.
        weights: of the channels of each layer ``[C]``, none negative.

    Returns:
        ``[B, 1, 1, 1]``, non-negative; its gradient is finite everywhere, identical and silent features included.
    """
    layers = [
        ((_unit(a) - _unit(b)).square() * w[:, None, None]).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        for a, b, w in zip(first, second, weights, strict=True)
    ]
    return torch.stack(layers).sum(0)


def _unit(features: Tensor) -> Tensor:
    """Features ``[B, C, H, W]`` of length 1 at each position; 0 where all are 0."""
    return features / (features.square().sum(1, keepdim=True) + EPS).sqrt()


def _uniform(channels: Iterable[int], like: Tensor) -> list[Tensor]:
    """Weights that are the same for all channels; the distance is then at most 2 for features that are not negative."""
    sizes = list(channels)
    return [torch.full((size,), 1 / len(sizes), dtype=like.dtype, device=like.device) for size in sizes]


class DigitDistance:
    """Distance in the feature maps of the shipped digit network: small, offline, the same everywhere.

    For pictures of strokes: the network knows nothing but digits. It looks at each channel of an image as at a grey
    picture, and the distance is the mean over channels. All channels of its maps weigh the same.
    """

    name = "digits"

    def __call__(self, image: Tensor, other: Tensor) -> Tensor:
        """Distances ``[B, 1, 1, 1]`` in [0, 2] of images ``[B, C, H, W]`` in [-1, 1]; gradients reach ``other`` alone.

        Raises:
            ValueError: images of another range, of different shapes, or smaller than 4x4.
        """
        _check(image, other, 4, "digits")
        blocks = digits(image.device).blocks
        first = next(blocks.parameters())
        with torch.no_grad():
            real = _digit_maps(blocks, image.to(first.dtype))
        made = _digit_maps(blocks, other.to(first.dtype))
        found = distance(real, made, _uniform((maps.shape[1] for maps in real), first))  # [B * C, 1, 1, 1]
        return found.reshape(image.shape[:2]).mean(1).reshape(-1, 1, 1, 1).to(other.dtype)  # [B, 1, 1, 1]


def _digit_maps(blocks: nn.Sequential, image: Tensor) -> list[Tensor]:
    """What the three blocks see in each channel, before they halve it: ``[B * C, 16 | 32 | 64, h, w]``."""
    x = image.reshape(-1, 1, *image.shape[2:])  # [B * C, 1, H, W]
    maps: list[Tensor] = []
    for layer in blocks:
        if isinstance(layer, nn.MaxPool2d) and len(maps) == 3:
            break  # nobody looks at what follows
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            maps.append(x)
    return maps


class VGGDistance:
    """LPIPS: distance in five layers of the VGG network that was trained on ImageNet.

    Its weights are torchvision's: of a given file, else of ``$IIN_CACHE`` or torch hub's cache, and fetched only where
    that is allowed. The weights of the channels are those published with the distance (version 0.1), where a package
    that has them is installed (lpips, torchmetrics): with them this is what the package lpips computes, to 1e-7. Else
    all channels weigh the same; a warning says so, before training and in it. `heads` tells which.

    Args:
        weights: path of the network's weights, or None to look in the caches.
        download: fetch them (528 MB) when they are found nowhere.

    Raises:
        ValueError: there are no weights (see `missing`).
    """

    name = "vgg"

    def __init__(self, weights: str | Path | None = None, download: bool = False) -> None:
        problem = self.missing(weights, download)
        if problem:
            raise ValueError(problem)
        self.weights = None if weights is None else str(weights)
        package = _find_heads()
        self.heads = package[0] if package else "uniform"
        """Where the weights of the channels come from: the name of a package, or ``uniform``."""
        self._said = False
        if package is None:
            _say_uniform_once()

    @staticmethod
    def missing(weights: str | Path | None = None, download: bool = False) -> str | None:
        """What is needed and not there, in one line; None where all is there or may be fetched."""
        ways = "or use perceptual: digits (the small network that ships with iin), or set perceptual_weight: 0"
        if weights is not None:
            if Path(weights).expanduser().is_file():
                return None
            return f"perceptual_path: no file {weights} (torchvision's VGG16, {VGG_URL}): give another path, {ways}"
        if _find_vgg() is not None:
            return None
        offline = os.environ.get("IIN_OFFLINE", "0") not in ("", "0")
        if download and not offline:
            return None
        forbidden = " and IIN_OFFLINE forbids to download them" if download else ""
        return (
            f"perceptual: vgg has no weights{forbidden}: set perceptual_path: FILE (torchvision's {VGG_NAME}, found by "
            f"itself in {cache_folder()}; 528 MB from {VGG_URL}, fetched with download: true), {ways}"
        )

    def __call__(self, image: Tensor, other: Tensor) -> Tensor:
        """Distances ``[B, 1, 1, 1]`` of images ``[B, 1 or 3, H, W]`` in [-1, 1]; gradients reach ``other`` alone.

        Raises:
            ValueError: images of another range, of different shapes, of other channels, or smaller than 16x16; the
                file of weights is another one.
        """
        _check(image, other, 16, "vgg")
        if image.shape[1] not in (1, 3):
            raise ValueError(f"perceptual vgg: expected images of 1 or 3 channels, found {image.shape[1]}")
        if self.heads == "uniform" and not self._said and not image.is_meta:
            self._said = True
            _say_uniform()  # again, so that the log of a run has it
        network = _vgg(self.weights, str(image.device))
        with torch.no_grad():
            real = network.maps(image)
        return distance(real, network.maps(other), network.heads).to(other.dtype)


_CHANNELS = (64, 128, 256, 512, 512)
"""Of VGG16's five blocks."""
_DEPTHS = (2, 2, 3, 3, 3)
"""Convolutions of each."""


class VGG(nn.Module):
    """The convolutions of VGG16, with a look at the end of each of its five blocks."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels, depth in zip(_CHANNELS, _DEPTHS, strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])  # torchvision's names; nobody looks at what follows
        # Of ImageNet's images in [-1, 1].
        self.register_buffer("mean", 2 * torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) - 1, persistent=False)
        self.register_buffer("deviation", 2 * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        for i, channels in enumerate(_CHANNELS):
            self.register_buffer(f"head{i}", torch.full((channels,), 1 / len(_CHANNELS)), persistent=False)

    @property
    def heads(self) -> list[Tensor]:
        """Weights of the channels of each block ``[C]``."""
        return [self.get_buffer(f"head{i}") for i in range(len(_CHANNELS))]

    def maps(self, image: Tensor) -> list[Tensor]:
        """Features at the end of each block, before it halves them, of images ``[B, 1 or 3, H, W]`` in [-1, 1]."""
        x = (image.to(self.mean.dtype) - self.mean) / self.deviation  # [B, 3, H, W], one channel becomes three
        maps = []
        for layer, following in zip(self.features, [*self.features[1:], nn.MaxPool2d(2)], strict=True):
            x = layer(x)
            if isinstance(following, nn.MaxPool2d):
                maps.append(x)
        return maps


@lru_cache(maxsize=2)
def _vgg(weights: str | None, device: str) -> VGG:
    """The network, frozen; one for all who ask."""
    path = Path(weights).expanduser() if weights is not None else _find_vgg()
    with torch.random.fork_rng(devices=[]):  # initialising draws numbers; runs must not depend on who loaded first
        network = VGG()
    if path is None and device == "meta":
        return network.to(device)  # a rehearsal without values, which fetches nothing
    if device != "cpu":
        return copy.deepcopy(_vgg(weights, "cpu")).to(device)
    if path is None:
        path = _fetch()
    state = _read(path)
    expected = {name: value.shape for name, value in network.state_dict().items()}
    wrong = [name for name, shape in expected.items() if name not in state or state[name].shape != shape]
    if wrong:
        raise ValueError(
            f"{path}: not torchvision's weights of VGG16: {len(wrong)} entries are missing, {wrong[0]} first"
        )
    network.load_state_dict({name: state[name] for name in expected})  # its classifier is left out
    found = _find_heads()
    if found:
        _load_heads(network, found[1])
    return network.eval().requires_grad_(False)


def _fetch() -> Path:
    path = cache_folder() / VGG_NAME
    log.info("downloading %s to %s", VGG_URL, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(VGG_URL, str(path), hash_prefix=VGG_SHA256)  # renamed when whole
    except (OSError, RuntimeError) as error:  # of the network, the disk, or the content
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{VGG_URL} could not be downloaded ({reason}): put it into {path.parent} by hand") from error
    return path


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes of the reader
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path}: not a file of weights ({reason[0][:160]})") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: not a file of weights (expected names and tensors)")
    return content


def _load_heads(network: VGG, path: Path) -> None:
    state = _read(path)
    for i, head in enumerate(network.heads):
        value = state.get(f"lin{i}.model.1.weight")
        if value is None or value.numel() != head.numel() or (value < 0).any():
            raise ValueError(
                f"{path}: no weights of channels: lin{i}.model.1.weight is missing, of another size or negative"
            )
        head.copy_(value.flatten())


def _find_vgg() -> Path | None:
    """Torchvision's weights in iin's cache folder or torch hub's, whichever has them; None if neither."""
    for folder in (cache_folder(), Path(torch.hub.get_dir()) / "checkpoints"):
        if (folder / VGG_NAME).is_file():
            return folder / VGG_NAME
    return None


def _find_heads() -> tuple[str, Path] | None:
    """The installed package that has the weights of VGG's channels, and their file; nothing of it is imported."""
    for package, inside in HEADS.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / inside).is_file():
                return package, Path(folder) / inside
    return None


def _say_uniform() -> None:
    log.warning(
        "perceptual vgg: all channels weigh the same, since no installed package has the published weights of LPIPS; "
        "pip install lpips for those"
    )


_say_uniform_once = lru_cache(maxsize=1)(_say_uniform)
"""Once a process: a plan builds systems more than once."""


def _check(image: Tensor, other: Tensor, smallest: int, name: str) -> None:
    if image.shape != other.shape or image.ndim != 4:
        raise ValueError(
            f"perceptual {name}: expected two batches of images [B, C, H, W] of one shape, found {list(image.shape)} "
            f"and {list(other.shape)}"
        )
    if min(image.shape[2:]) < smallest:
        raise ValueError(
            f"perceptual {name}: images must be at least {smallest}x{smallest}, found {image.shape[2]}x{image.shape[3]}"
        )
    for values in (image, other):
        if values.is_meta or not values.numel():
            continue
        low, high = torch.stack(values.detach().aminmax()).tolist()
        if low < -1.001 or high > 1.001:  # NaN passes: the loss is not finite then, and training says so
            raise ValueError(f"perceptual {name}: images must lie in [-1, 1], found values in [{low:.3g}, {high:.3g}]")


def perceptual(
    name: PerceptualName, weight: float = 1.0, path: str | Path | None = None, download: bool = False
) -> Perceptual | None:
    """The distance of this name; None for ``none``, or where its weight in a loss is 0.

    Raises:
        ValueError: there is no such distance, or it has no weights.
    """
    if name not in ("vgg", "digits", "none"):
        raise ValueError(f"perceptual: expected vgg, digits or none, found {name!r}")
    if name == "none" or not weight:
        return None
    return DigitDistance() if name == "digits" else VGGDistance(path, download)
