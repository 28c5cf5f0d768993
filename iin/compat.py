"""Weights published by the original projects, as ours.

::

    model = iin.compat.load("logs/2020-02-24T12-33-54_mnist_ae/train/checkpoints/model-120000.ckpt")
    model.encode(image).mean, model.decode(x)

A checkpoint of the original is ``{"model", "loss", "optimizer"}``; what is in it is told by its keys. It is read
without running any code that it might bring along. Nothing is guessed: a key that is left over or missing is an error.

References:
    CompVis/iin, the code of A Disentangling Invertible Interpretation Network for Explaining Latent Representations
    (Esser, Rombach and Ommer, 2020), arXiv:2004.13166
"""

from __future__ import annotations

import _codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from iin.flows import Chain, vector_flow
from iin.models import Autoencoder, Classifier
from iin.models.norm import NormName

__all__ = ["CompatError", "FactorChain", "architecture", "autoencoder", "classifier", "factor_flow", "flow", "load"]


class CompatError(ValueError):
    """A file or state dict that is not what the original wrote; the message is one line."""


class _Source:
    """A state dict of the original, of which every entry is to be used exactly once."""

    def __init__(self, state: Mapping[str, Tensor], kind: str) -> None:
        self.kind = kind
        self._left = dict(state)
        self._missing: list[str] = []
        self._placed: dict[str, Tensor] = {}

    def take(self, name: str) -> Tensor | None:
        """An entry, or None (and a note) when it is not there."""
        value = self._left.pop(name, None)
        if value is None:
            self._missing.append(name)
        return value

    def place(self, mine: str, values: Sequence[Tensor | None], shape: Sequence[int], combine: Any = None) -> None:
        """Put entries, combined, under our name; their shape is checked when all are there."""
        found = [value for value in values if value is not None]
        if len(found) < len(values):
            return
        value = combine(found) if combine else found[0]
        if [size for size in value.shape if size != 1] != [size for size in shape if size != 1]:
            raise CompatError(
                f"not a checkpoint of the original {self.kind}: {mine} would be {list(value.shape)}, not {list(shape)}"
            )
        self._placed[mine] = value.reshape(tuple(shape))

    def into(self, module: nn.Module) -> None:
        """Load what was placed, if nothing is missing and nothing left over.

        Raises:
            CompatError: with the keys.
        """
        ignored = {name for name in self._left if name.endswith("num_batches_tracked")}
        left = sorted(self._left.keys() - ignored)
        if self._missing or left:
            parts = []
            if self._missing:
                parts.append("missing: " + ", ".join(sorted(self._missing)))
            if left:
                parts.append("left over: " + ", ".join(left))
            raise CompatError(f"not a checkpoint of the original {self.kind}; {'; '.join(parts)}")
        state = module.state_dict()
        module.load_state_dict({**state, **{k: v.to(state[k].dtype) for k, v in self._placed.items()}})


# --- flows -----------------------------------------------------------------------------------------------------------


def flow(state_dict: Mapping[str, Tensor]) -> Chain:
    """The original's ``VectorTransformer`` as a flow: ``flow(x [B, D]) -> (z [B, D], logdet [B])``.

    Its double coupling is our two couplings; it leaves the halves swapped, so that the swap folds into the shuffle that
    follows. Scale and shift networks become one batch of matrices.

    Raises:
        CompatError: keys that are missing or left over.
    """
    numbers = _numbers(state_dict, r"realnvp\.flow\.(\d+)\.")
    # Of all couplings together, so that a key that one of them lacks is missing, and does not make the others shorter.
    layers = _numbers(state_dict, r"realnvp\.flow\.\d+\.flow\.1\.[st]\.[01]\.main\.(\d+)\.")
    first = state_dict.get("realnvp.flow.0.flow.1.s.0.main.0.weight")
    if not numbers or len(layers) < 2 or first is None:
        raise CompatError("not a checkpoint of the original flow; missing: realnvp.flow.0.flow.1.s.0.main.0.weight")
    hidden, half = first.shape
    dim, dtype = 2 * half, first.dtype
    made = vector_flow(dim, blocks=max(numbers) + 1, hidden=hidden, depth=len(layers) - 2).to(dtype)
    source = _Source(state_dict, "flow")
    shapes = {name: value.shape for name, value in made.state_dict().items()}
    swapped = torch.arange(dim).roll(half)

    def place(mine: str, *theirs: str, combine: Any = None) -> None:
        source.place(mine, [source.take(name) for name in theirs], shapes[mine], combine)

    for b in range(max(numbers) + 1):
        old, at = f"realnvp.flow.{b}.flow.", 4 * b
        for name in ("loc", "scale", "initialized"):
            place(f"blocks.{at}.{name}", f"{old}0.{name}")
        for side in range(2):
            for k, layer in enumerate(layers):
                nets = [f"{old}1.{net}.{side}.main.{layer}" for net in ("s", "t")]
                mine = f"blocks.{at + 1 + side}"
                place(f"{mine}.weights.{k}", *[n + ".weight" for n in nets], combine=_transposed)
                place(f"{mine}.biases.{k}", *[n + ".bias" for n in nets], combine=torch.stack)
        place(f"blocks.{at + 3}.order", f"{old}2.forward_shuffle_idx", combine=lambda values: swapped[values[0].long()])
        source.take(f"{old}2.backward_shuffle_idx")  # the inverse of the other
    source.into(made)
    return made.eval()


class FactorChain(Chain):
    """A flow whose latent is split into factors.

    Args:
        blocks: of the flow.
        factors: dimensions of each factor.
    """

    def __init__(self, blocks: Any, factors: Sequence[int]) -> None:
        super().__init__(blocks)
        self.factors = tuple(factors)

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """Latent ``[B, D]`` as its factors, each ``[B, size]``."""
        return z.split(self.factors, dim=1)


def factor_flow(state_dict: Mapping[str, Tensor], factors: Sequence[int] | int = 2) -> FactorChain:
    """The original's ``FactorTransformer``: a flow that knows its factors.

    Args:
        state_dict: the checkpoint's entry ``model``.
        factors: dimensions of each factor (``factor_config``), or a number of factors (``n_factors``): then the latent
            is cut into pieces of ``ceil(D / n)``, as the original does, which may make fewer pieces than asked for.

    Raises:
        CompatError: keys that are missing or left over.
        ValueError: the factors do not sum to the size of the latent.
    """
    made = flow(state_dict)
    dim = made[0].dim
    if isinstance(factors, int):
        size = -(-dim // factors)
        factors = [min(size, dim - start) for start in range(0, dim, size)]
    if sum(factors) != dim:
        raise ValueError(
            f"factors: {' + '.join(map(str, factors))} = {sum(factors)}, but the flow has {dim} dimensions"
        )
    return FactorChain(made, factors).eval()


def _transposed(values: Sequence[Tensor]) -> Tensor:
    """Weights ``[out, in]`` of both networks as one ``[2, in, out]``."""
    return torch.stack([value.T for value in values])


# --- first stages ----------------------------------------------------------------------------------------------------

_NORMS: dict[str, tuple[NormName, tuple[str, ...]]] = {
    "loc": ("actnorm", ("loc", "scale", "initialized")),
    "running_mean": ("batch", ("weight", "bias", "running_mean", "running_var")),
    "weight": ("instance", ("weight", "bias")),
}


def autoencoder(state_dict: Mapping[str, Tensor], *, deterministic: bool = False) -> Autoencoder:
    """The original's autoencoder: ``encode(image) -> Gaussian`` over ``[B, D]``, ``decode(x [B, D])``.

    Args:
        state_dict: the checkpoint's entry ``model``.
        deterministic: that the original was configured so; its weights do not tell.

    Raises:
        CompatError: keys that are missing or left over.
    """
    shape = _trunk(state_dict, "autoencoder")
    dim = _size(state_dict, "dense_encode.sub_layers.0.bias") // 2
    made = Autoencoder(dim=dim, **shape, deterministic=deterministic)
    source = _Source(state_dict, "autoencoder")
    _place_encoder(source, made, shape)
    n_down = shape["n_down"]
    _place(source, made, "decoder.0", "dense_decode.sub_layers.0", ("weight", "bias"))
    for i in range(n_down - 1):  # the original counts from the image
        old = f"decoder_layers.{n_down - 2 - i}.sub_layers"
        _place(source, made, f"decoder.{1 + 3 * i}", f"{old}.0", ("weight",))
        _place(source, made, f"decoder.{2 + 3 * i}", f"{old}.1", _entries(shape["norm"]))
    _place(source, made, f"decoder.{1 + 3 * (n_down - 1)}", "image_layer.sub_layers.0", ("weight",))
    source.into(made)
    return made.eval()


def classifier(state_dict: Mapping[str, Tensor]) -> Classifier:
    """The original's classifier: ``classifier(image)`` -> logits ``[B, classes]``.

    Raises:
        CompatError: keys that are missing or left over.
    """
    shape = _trunk(state_dict, "classifier")
    made = Classifier(
        dim=_size(state_dict, "dense_encode.sub_layers.0.bias"), classes=_size(state_dict, "classifier.bias"), **shape
    )
    source = _Source(state_dict, "classifier")
    _place_encoder(source, made, shape)
    _place(source, made, "head", "classifier", ("weight", "bias"))
    source.into(made)
    return made.eval()


def _trunk(state: Mapping[str, Tensor], kind: str) -> dict[str, Any]:
    """Arguments of encoder and decoder that the shapes tell."""
    first = state.get("feature_layers.0.sub_layers.0.weight")
    last = state.get("dense_encode.sub_layers.0.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        raise CompatError(
            f"not a checkpoint of the original {kind}; missing: feature_layers.0.sub_layers.0.weight or "
            "dense_encode.sub_layers.0.weight"
        )
    n_down = max(_numbers(state, r"feature_layers\.(\d+)\.")) + 1
    first_norm = "feature_layers.0.sub_layers.1"
    norm = next(name for entry, (name, _) in _NORMS.items() if f"{first_norm}.{entry}" in state or entry == "weight")
    return {
        "channels": first.shape[1],
        "size": last.shape[2] * 2**n_down,
        "n_down": n_down,
        "width": first.shape[0],
        "norm": norm,
    }


def _place_encoder(source: _Source, made: nn.Module, shape: Mapping[str, Any]) -> None:
    for i in range(shape["n_down"]):
        old = f"feature_layers.{i}.sub_layers"
        _place(source, made, f"encoder.{3 * i}", f"{old}.0", ("weight",))
        _place(source, made, f"encoder.{3 * i + 1}", f"{old}.1", _entries(shape["norm"]))
    _place(source, made, f"encoder.{3 * shape['n_down']}", "dense_encode.sub_layers.0", ("weight", "bias"))


def _place(source: _Source, made: nn.Module, mine: str, theirs: str, entries: Sequence[str]) -> None:
    """Entries of one layer, each to the entry of the same name."""
    shapes = {name: value.shape for name, value in made.get_submodule(mine).state_dict().items()}
    for entry in entries:
        source.place(f"{mine}.{entry}", [source.take(f"{theirs}.{entry}")], shapes[entry])


def _entries(norm: NormName) -> tuple[str, ...]:
    return next(entries for name, entries in _NORMS.values() if name == norm)


def _numbers(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    """The numbers that a pattern's group takes among the keys, in order."""
    return sorted({int(match.group(1)) for key in state if (match := re.match(pattern, key))})


def _size(state: Mapping[str, Tensor], name: str) -> int:
    if name not in state:
        raise CompatError(f"not a checkpoint of the original; missing: {name}")
    return len(state[name])


# --- files -----------------------------------------------------------------------------------------------------------


def load(path: str | Path, factors: Sequence[int] | int | None = None) -> nn.Module:
    """The network of an original checkpoint: an autoencoder, a classifier or a flow, in eval mode.

    Args:
        path: the file, or a run's folder of the original, whose newest checkpoint counts.
        factors: for a flow: dimensions or number of its factors; None for the plain flow.

    Raises:
        CompatError: not such a file, or one that asks for code to be run.
    """
    try:
        return _load_state(read(path)["model"], factors)
    except CompatError as error:
        named = str(error).startswith(str(path))
        raise error if named else CompatError(f"{path}: {error}") from error


def _load_state(state: Mapping[str, Tensor], factors: Sequence[int] | int | None = None) -> nn.Module:
    """The network whose keys these are."""
    if any(key.startswith("realnvp.") for key in state):
        return flow(state) if factors is None else factor_flow(state, factors)
    if any(key.startswith("classifier.") for key in state):
        return classifier(state)
    return autoencoder(state)


def architecture(path: str | Path) -> dict[str, Any]:
    """Node of a configuration that builds the network of an original autoencoder or classifier, without its weights."""
    model = load(path)
    if not isinstance(model, Autoencoder | Classifier):
        kind = type(model).__name__
        raise CompatError(f"{path}: a {kind} is no first stage; expected an autoencoder or a classifier")
    params = {name: getattr(model, name) for name in ("channels", "size", "dim", "n_down", "width", "norm")}
    if isinstance(model, Classifier):
        params["classes"] = model.classes
    return {"target": f"iin.models.{type(model).__name__}", "params": params}


def read(path: str | Path) -> dict[str, Any]:
    """Content of an original checkpoint; nothing in it is executed.

    Raises:
        CompatError: not such a file, or one that asks for code to be run.
    """
    path = _newest(Path(path))
    try:
        with torch.serialization.safe_globals(list(_allowed())):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CompatError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever a foreign file makes of the reader
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise CompatError(f"{path}: not a checkpoint of the original, or one that would run code ({first})") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), Mapping):
        raise CompatError(f"{path}: not a checkpoint of the original (expected model, loss, optimizer)")
    if not all(isinstance(value, Tensor) for value in content["model"].values()):
        raise CompatError(f"{path}: not a checkpoint of the original (its model holds more than tensors)")
    return content


def is_original(path: str | Path) -> bool:
    """Whether a file or a run's folder is one of the original's, sound or not: by its name, or by what is in it."""
    path = Path(path)
    if path.is_dir() or _STEP.fullmatch(path.name):
        return not path.is_dir() or (path / "train" / "checkpoints").is_dir()
    try:
        read(path)
    except CompatError:
        return False
    return True


def step_of(path: str | Path) -> int:
    """The step of a checkpoint, or of the newest in a folder, by its name; 0 where that does not tell."""
    match = _STEP.fullmatch(_newest(Path(path)).name)
    return int(match[1]) if match else 0


_STEP = re.compile(r"model-(\d+)\.ckpt")
"""Names of the original's checkpoints, which alone tell the step."""


def _newest(path: Path) -> Path:
    """The checkpoint of the highest step, if the path is a run's folder of the original."""
    if not path.is_dir():
        return path
    files = [file for file in path.glob("**/model-*.ckpt") if _STEP.fullmatch(file.name)]
    if not files:
        raise CompatError(f"{path}: no checkpoint of the original in it (expected train/checkpoints/model-<step>.ckpt)")
    return max(files, key=step_of)


def _allowed() -> Iterator[Any]:
    """What a file may name beside tensors: numpy's numbers, which the original stored as learning rates.

    Each builds a value from bytes and calls nothing. Old files call them by numpy's old module names.
    """
    from numpy._core.multiarray import scalar

    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        yield scalar, f"{module}.scalar"
    yield np.dtype
    yield _codecs.encode
    for kind in (np.float64, np.float32, np.int64, np.int32):
        yield type(np.dtype(kind))
