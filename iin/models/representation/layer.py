"""One layer of a frozen network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from iin.models.digits import DigitNetwork
from iin.models.representation import sources
from iin.models.representation.arranging import Layout, Shape, arrange, pick, shape_of, told
from iin.models.representation.names import aliases, resolve
from iin.models.representation.preprocessing import Preprocess, mistakes
from iin.models.representation.reading import kinds, read, submodule

__all__ = ["Layer"]


class Layer(nn.Module):
    """What one layer of a network makes of an image: the representation that is to be interpreted.

    The network is frozen: none of its weights takes a gradient, it is in eval mode, and `train` does not reach it. It
    is run up to the layer and no further; the answer is copied before a layer behind it that works in place may change
    it. Where a network calls the layer several times, the first answer counts.

    Vectors ``[B, C]`` and maps ``[B, C, H, W]`` are answered as they are, maps of a single pixel as vectors, maps with
    channels last as maps with channels second; the tokens of a transformer become a map of its patches, without class
    and register tokens, or their mean ``[B, C]`` where they form no grid in the proportions of the image.

    Args:
        model: a module, or a function of images; or where there is one: ``torchvision:resnet50``, ``timm:NAME``, or
            the path of a file of TorchScript (``.pt``) or ``torch.export`` (``.pt2``); see
            `iin.models.representation.load`. A module is used as it is, not copied, and frozen.
        layer: path of a submodule, such as ``layer3`` or ``features.10``; or ``input`` (the network's input, after
            ``preprocess``), ``logits`` (what the network answers) or ``softmax`` (of that). A submodule that has one of
            these names goes before. A network may give its layers further names: a mapping ``layer_names``.
        preprocess: what the network's input is made of an image in [-1, 1]: ``none``, the image itself; ``imagenet``,
            normalised as for ImageNet; ``weights``, what the weights of torchvision or timm ask for; or the arguments
            of `iin.models.representation.Preprocess`, such as ``{size: 224, mean: imagenet, std: imagenet}``.
        layout: dimensions of the layer's answer, if they are not recognised: ``channels_first``, ``channels_last`` or
            ``tokens``.
        item: index or key of the tensor that is meant, for a layer that answers several; with ``logits`` and
            ``softmax``, of the network's answer.
        gradient: whether representations may be differentiated in the image.
        weights: of a model from torchvision or timm: ``DEFAULT`` or a name; ``random`` or None for untrained ones.
        checkpoint: path of a state dict for the model; see `iin.models.representation.load`.
        download: whether weights that are not on this machine may be fetched.

    Raises:
        ValueError: there is no such network, weights or layer, or arguments do not go together.
    """

    def __init__(
        self,
        model: nn.Module | str | Callable[..., Any],
        layer: str,
        preprocess: Literal["none", "imagenet", "weights"] | Mapping[str, Any] | None = None,
        layout: Layout = "auto",
        item: int | str | None = None,
        gradient: bool = False,
        weights: str | None = None,
        checkpoint: str | Path | None = None,
        download: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(layer, str):
            raise ValueError(f"layer: expected a name, such as 'layer3', found {layer!r}")
        if layout not in get_args(Layout):
            raise ValueError(f"layout: expected {', '.join(get_args(Layout))}, found {layout!r}")
        for mistake in self.check(model, layer, preprocess, weights=weights, checkpoint=checkpoint):
            raise ValueError(mistake)
        self.name = model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
        network = sources.load(model, weights=weights, checkpoint=checkpoint, download=download)
        if isinstance(network, DigitNetwork):
            network = copy.deepcopy(network)  # the loaded one is shared; moved to a device, it would move for all
        if not isinstance(model, str):
            _warn_of_training(network, self.name)
        for parameter in network.parameters():  # scripts have no requires_grad_ of their own
            parameter.requires_grad_(False)
        self.model = network
        self.layer, self.layout, self.item, self.gradient = layer, layout, item, gradient
        self._path = resolve(layer, kinds(network), aliases(network), self.name)
        if preprocess == "weights":
            preprocess = sources.preprocessing(model, network, weights)
        self.preprocess = Preprocess.named(preprocess)
        self._elsewhere: dict[Shape, Shape | None] = {}
        self.train(False)

    @staticmethod
    def check(
        model: Any = None,
        layer: Any = None,
        preprocess: Any = None,
        layout: Any = "auto",
        item: Any = None,
        gradient: Any = False,
        weights: Any = None,
        checkpoint: Any = None,
        download: Any = False,
    ) -> Iterator[str]:
        """What is wrong with the arguments taken together."""
        for mistake in mistakes(preprocess):
            yield f"preprocess: {mistake}"
        if isinstance(model, str):
            yield from sources.mistakes(model, weights, checkpoint)
        elif weights is not None:
            yield "weights: for models of torchvision: and timm: only; a state dict of another goes to checkpoint"
        elif preprocess == "weights":
            yield "preprocess: weights is for models of torchvision: and timm: only; expected imagenet, or a mapping"

    @staticmethod
    def lacks(
        model: Any = None, weights: Any = None, checkpoint: Any = None, download: Any = False, **_: Any
    ) -> Iterator[str]:
        """Which weights are not on this machine, and where they go."""
        return sources.lacking(model, weights, checkpoint, download)

    def train(self, mode: bool = True) -> Layer:
        """Nothing but eval mode, for the network and all around it."""
        self.training = False
        self.preprocess.train(False)
        _settle(self.model)
        return self

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}"

    def network_input(self, image: Tensor) -> Tensor:
        """Network inputs ``[B, C', H', W']`` of images ``[B, C, H, W]`` in [-1, 1]; differentiable."""
        return self.preprocess(image)

    def forward(self, image: Tensor) -> Tensor:
        """Representations ``[B, C]`` or ``[B, C, H, W]`` of images ``[B, C, H, W]`` in [-1, 1].

        Raises:
            ValueError: the network does not take such images; the layer is not reached, or does not answer a tensor of
                a known arrangement.
        """
        with torch.set_grad_enabled(self.gradient and torch.is_grad_enabled()):
            if not self._path and self.layer == "softmax":
                return torch.softmax(self.logits(image), 1)
            inputs = self.network_input(image)
            if not self._path and self.layer == "input":
                return inputs.clone()
            value = self._answer(inputs, torch.clone)
            return arrange(
                value,
                tuple(inputs.shape),
                self._where,
                self.layout,
                submodule(self.model, self._path),
                self.model,
                lambda: self._other(inputs),
            )

    def logits(self, image: Tensor) -> Tensor:
        """The network's whole output ``[B, K]``, whatever the layer; differentiable in the image.

        Raises:
            ValueError: the network does not take such images, or answers something else.
        """
        inputs = self.network_input(image)
        answer = self._run(inputs)
        # An item of a layer in between says nothing of the network's answer.
        found = _logits(answer) if self._path or self.item is None else pick(answer, self.item, self.name)
        if isinstance(found, Tensor) and found.ndim == 4 and found.shape[2:] == (1, 1):
            found = found.flatten(1)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(image):
            raise ValueError(f"{self.name} answers {told(found)}; expected logits [B, K] of a classifier")
        return found

    def shape(self, size: int | Sequence[int], channels: int = 3) -> tuple[int, ...]:
        """Shape of the representation of one image, without the batch.

        Args:
            size: of the images, one number for a square.
            channels: of the images.
        """
        with torch.no_grad():
            return tuple(self(self._black(size, channels)).shape[1:])

    def _black(self, size: int | Sequence[int], channels: int) -> Tensor:
        """One image, where the network is and of its precision."""
        height, width = (size, size) if isinstance(size, int) else size
        like = next((tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point()), None)
        image = torch.zeros(1, channels, height, width)
        return image if like is None else image.to(like)

    @property
    def _where(self) -> str:
        return f"{self.name}, layer {self.layer}"

    def _run(self, inputs: Tensor) -> Any:
        _settle(self.model)
        with _explained(self.name, inputs):
            return self.model(inputs.clone())  # whose first layer may work in place

    def _read(
        self, inputs: Tensor, paths: Iterable[str], keep: Callable[[Any], Any], stop: bool
    ) -> dict[str, list[Any]]:
        _settle(self.model)
        with _explained(self.name, inputs):
            return read(self.model, inputs.clone(), paths, keep, stop)

    def _answer(self, inputs: Tensor, keep: Callable[[Tensor], Any]) -> Any:
        """What the layer answers, or the network as a whole, for inputs as they are."""
        if not self._path:
            answer = self._run(inputs)
            return keep(pick(_logits(answer) if self.item is None else answer, self.item, self._where))
        calls = self._read(inputs, [self._path], lambda answer: keep(pick(answer, self.item, self._where)), True)
        if not calls:
            raise ValueError(f"{self.name} never calls its layer {self.layer} for an image; choose one that it reaches")
        return calls[self._path][0]

    def _other(self, inputs: Tensor) -> Shape | None:
        """Shape of the layer's answer to an image of another size, where the network takes one."""
        key = tuple(inputs.shape[1:])
        if key not in self._elsewhere:
            other = inputs.new_zeros(1, key[0], 2 * key[1], 2 * key[2])
            try:
                with torch.no_grad():
                    self._elsewhere[key] = tuple(self._answer(other, shape_of).shape)
            except ValueError:
                self._elsewhere[key] = None
        return self._elsewhere[key]


def _logits(value: Any) -> Any:
    """Of a network that answers a mapping, its entry ``logits``."""
    return value["logits"] if isinstance(value, Mapping) and "logits" in value else value


@contextmanager
def _explained(name: str, inputs: Tensor) -> Iterator[None]:
    """Say what a network was given when it fails."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        if inputs.is_meta:  # a rehearsal without memory, which is then done in earnest
            raise RuntimeError(str(error)) from error
        # Scripts put a trace before what went wrong.
        words = str(error).rpartition("RuntimeError: ")[2]
        reason = " ".join(words.split())[-300:] or type(error).__name__
        raise ValueError(
            f"{name} does not take network inputs {list(inputs.shape)} ({reason}); preprocess changes size and channels"
        ) from error


def _settle(model: nn.Module) -> None:
    """Put a network in eval mode, if any part of it is not."""
    if isinstance(model, torch.jit.ScriptModule):
        if getattr(model, "training", False):
            model.eval()
    elif any(module.training for module in model.modules()):
        model.eval()


def _warn_of_training(network: nn.Module, name: str) -> None:
    """Where it makes a difference, say that a network will not stay in train mode."""
    kinds = (
        nn.modules.batchnorm._NormBase,
        nn.modules.dropout._DropoutNd,
        nn.RReLU,
    )
    differing = [type(module).__name__ for module in network.modules() if isinstance(module, kinds) and module.training]
    if differing:
        what = ", ".join(dict.fromkeys(differing))
        warnings.warn(f"{name} was in train mode, where {what} answer otherwise; it is put in eval mode", stacklevel=3)
