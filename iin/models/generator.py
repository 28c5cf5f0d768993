"""A generator whose layers are listed by name, each of which may take some numbers of the code for itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from iin.arguments import Count, NonNegative
from iin.models.equalised import EqualConv2d, EqualLinear, ModulatedConv2d

__all__ = ["KINDS", "ModuleGenerator", "Part", "parts"]

KINDS = ("Conv-up", "Conv-id", "Noise", "C_global", "C_nocond_global", "D_global")
"""Names of modules."""

START = 4
"""Height and width of the constant that everything begins with."""
START_CHANNELS = 8
HIDDEN = 128
"""Width of dense layers."""
MOST = 4096
"""Largest number of an entry; published ones have at most 14."""


class Part(NamedTuple):
    """An entry of a list of modules."""

    kind: str
    """One of `KINDS`."""
    number: int
    """Layers of it, or numbers of the code that it takes."""


def parts(modules: Sequence[str]) -> list[Part]:
    """Read a list of modules such as ``["Conv-up-1", "C_global-10"]``.

    Raises:
        ValueError: an entry is none; the message names the nearest kinds.
    """
    found = []
    for entry in modules:
        text = str(entry).strip()
        kind = next((known for known in KINDS if text.startswith(f"{known}-")), None)
        if kind is None:
            name = re.sub(r"-\d+$", "", text)
            if name in KINDS:
                raise ValueError(f"{entry!r} has no number; expected {name}-1, or more of them")
            lower = {known.lower(): known for known in KINDS}
            close = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, 2, 0.5)]
            hint = f"did you mean {' or '.join(close)}" if close else f"expected one of {', '.join(KINDS)}"
            raise ValueError(f"{entry!r}: no module is called {name!r}; {hint}, with a number behind it (Conv-up-1)?")
        count = text[len(kind) + 1 :]
        if not re.fullmatch(r"[1-9][0-9]{0,4}", count) or int(count) > MOST:
            told = count if len(count) <= 20 else f"{count[:20]}..."
            raise ValueError(f"{text[:60]!r}: expected a number from 1 to {MOST} behind {kind}-, found {told!r}")
        found.append(Part(kind, int(count)))
    return found


class _Noise(EqualConv2d):
    """Convolution with noise, of learnt strength, the same for all channels of a pixel."""

    constant: Tensor

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__(inputs, outputs)
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("constant", torch.randn(1, 1, size, size))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        noise = torch.randn_like(x[:, :1]) if self.training else self.constant
        return self.finished(x + noise * self.strength)


class _Styled(nn.Module):
    """Numbers of the code, directly as the style of a convolution."""

    def __init__(self, inputs: int, outputs: int, count: int, classes: int) -> None:
        super().__init__()
        self.gate = (
            nn.Sequential(EqualLinear(classes, HIDDEN, bend=True), EqualLinear(HIDDEN, count)) if classes else None
        )
        self.convolution = ModulatedConv2d(inputs, outputs, count)

    def forward(self, x: Tensor, code: Tensor, label: Tensor) -> Tensor:
        if self.gate is not None:
            code = code * torch.sigmoid(self.gate(label))
        return self.convolution(x, code)


class _Hidden(nn.Module):
    """Numbers of the code, by way of a dense layer, as the style of a convolution."""

    def __init__(self, inputs: int, outputs: int, count: int) -> None:
        super().__init__()
        self.dense = EqualLinear(count, HIDDEN, bend=True)
        self.convolution = ModulatedConv2d(inputs, outputs, HIDDEN)

    def forward(self, x: Tensor, code: Tensor, label: Tensor) -> Tensor:
        return self.convolution(x, self.dense(code))


class ModuleGenerator(nn.Module):
    """Makes images of codes, by a list of modules.

    A constant of 4x4 pixels goes through the modules in order, and then through a 1x1 convolution to the image. An
    entry is a name and a number:

    * ``Conv-up-n``: n convolutions, each of which doubles the map
    * ``Conv-id-n``: n convolutions
    * ``Noise-n``: n convolutions with noise: drawn anew in training, constant in evaluation
    * ``C_global-n``: a convolution whose style are the next n numbers of the code. With classes, each is multiplied
      with a number between 0 and 1 that depends on the class
    * ``C_nocond_global-n``: the same by way of a dense layer, whatever the class
    * ``D_global-n``: a convolution whose style is the class, one of n

    The code is the class, one of n numbers being 1, where there are classes; then the continuous numbers in the order
    of the list. The module at place ``i`` makes ``width / 2^(decay i)`` channels, within limits, ``C_global`` always
    ``styled`` ones.

    Args:
        modules: the list.
        channels: of the images.
        size: their height and width; what the list reaches: 4, doubled by each ``Conv-up``.
        width: channels at place 0.
        decay: how fast they become fewer.
        least: channels at least.
        most: channels at most.
        styled: channels of each ``C_global``.

    Raises:
        ValueError: an entry that is no module, or a list that does not reach the size.

    References:
        Learning Disentangled Representations with Latent Variation Predictability (Zhu, Xu and Tao, 2020),
        arXiv:2007.12885, the published code
    """

    def __init__(
        self,
        modules: Sequence[str],
        channels: Count = 3,
        size: Count = 128,
        width: Count = 512,
        decay: NonNegative = 0.15,
        least: Count = 16,
        most: Count = 512,
        styled: Count = 128,
    ) -> None:
        super().__init__()
        for mistake in self.check(modules=modules, size=size, least=least, most=most):
            raise ValueError(f"ModuleGenerator: {mistake}")
        self.modules_listed = parts(modules)
        self.channels, self.size = channels, size
        counts = {kind: sum(part.number for part in self.modules_listed if part.kind == kind) for kind in KINDS}
        self.discrete = counts["D_global"]
        """Classes; 0 for none."""
        self.continuous = counts["C_global"] + counts["C_nocond_global"]
        """Continuous numbers of the code."""
        self.dim = self.discrete + self.continuous
        """Size of the code."""
        self.constant = nn.Parameter(torch.randn(1, START_CHANNELS, START, START))
        self.layers = nn.ModuleList()
        self.widths: list[tuple[int, int]] = []
        """Channels and size of the map behind each module."""
        before, side = START_CHANNELS, START
        for place, (kind, count) in enumerate(self.modules_listed):
            after = min(max(int(width / 2 ** min(decay * place, 1000)), least), most)
            if kind == "C_global":
                after = styled
                self.layers.append(_Styled(before, after, count, self.discrete))
            elif kind == "C_nocond_global":
                self.layers.append(_Hidden(before, after, count))
            elif kind == "D_global":
                self.layers.append(ModulatedConv2d(before, after, count))
            else:
                repeated = nn.Sequential()
                for number in range(count):
                    inputs = after if number else before
                    if kind == "Noise":
                        repeated.append(_Noise(inputs, after, side))
                    else:
                        repeated.append(EqualConv2d(inputs, after, resample="up" if kind == "Conv-up" else "same"))
                        side *= 2 if kind == "Conv-up" else 1
                self.layers.append(repeated)
            self.widths.append((after, side))
            before = after
        self.last = EqualConv2d(before, channels, 1, bend=False)

    @staticmethod
    def check(modules: Any = (), size: Any = 128, least: Any = 16, most: Any = 512, **_: Any) -> Iterator[str]:
        """What is wrong with the arguments taken together."""
        if least > most:
            yield f"least: {least} channels are more than most, {most}"
        if isinstance(modules, str):
            yield f"modules: expected a list of names such as Conv-up-1, found the text {modules!r}"
            return
        if not isinstance(modules, Sequence):
            yield f"modules: expected a list of names such as Conv-up-1, found {modules!r}"
            return
        try:
            found = parts(modules)
        except ValueError as error:
            yield f"modules: {error}"
            return
        ups = sum(part.number for part in found if part.kind == "Conv-up")
        if START << ups != size:
            side = START << ups if ups < 30 else f"{START}*2^{ups}"
            yield (
                f"modules: the list has {ups} times Conv-up and reaches {side}x{side} pixels, not {size}x{size}; "
                f"{_needed(size)}"
            )
        if not any(part.kind in ("C_global", "C_nocond_global") for part in found):
            yield "modules: no entry takes continuous numbers of the code; add C_global-n"
        if sum(part.kind == "D_global" for part in found) > 1:
            yield "modules: classes come in one entry, but there are several D_global"

    def forward(self, z: Tensor) -> Tensor:
        """Images ``[B, C, size, size]``, about in [-1, 1], of codes ``[B, dim]``.

        Raises:
            ValueError: codes of another size.
        """
        if z.ndim != 2 or z.shape[1] != self.dim:
            raise ValueError(
                f"ModuleGenerator: expected codes [B, {self.dim}] ({self.discrete} of a class, {self.continuous} "
                f"continuous), found {list(z.shape)}"
            )
        label, place = z[:, : self.discrete], self.discrete
        x = self.constant.expand(len(z), -1, -1, -1)
        for (kind, count), layer in zip(self.modules_listed, self.layers, strict=True):
            if kind == "D_global":
                x = layer(x, label)
            elif kind in ("C_global", "C_nocond_global"):
                x = layer(x, z[:, place : place + count], label)
                place += count
            else:
                x = layer(x)
        return self.last(x)


def _needed(size: int) -> str:
    """In words, how often a list has to double a map to reach a size."""
    times = size // START
    if size < START or size % START or times & (times - 1):
        return f"sizes are {START} times a power of 2"
    return f"expected {times.bit_length() - 1} times"
