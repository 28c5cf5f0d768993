"""Weights published by the original projects, as ours.

::

    model = iin.compat.load("logs/2020-02-24T12-33-54_mnist_ae/train/checkpoints/model-120000.ckpt")
    model.encode(image).mean, model.decode(x)

A checkpoint of the original is ``{"model", "loss", "optimizer"}``; what is in it is told by its keys. It is read
without running any code that it might bring along. Nothing is guessed: a key that is left over or missing, or a tensor
of another shape, is an error that lists it.

References:
    CompVis/iin, the code of A Disentangling Invertible Interpretation Network for Explaining Latent Representations
    (Esser, Rombach and Ommer, 2020), arXiv:2004.13166
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iin import systems
from iin.flows import Chain, vector_flow
from iin.models import Autoencoder, Classifier, PatchDiscriminator
from iin.models.norm import NormName
from iin.system import System

__all__ = [
    "CompatError",
    "FactorChain",
    "architecture",
    "autoencoder",
    "classifier",
    "discriminator",
    "factor_flow",
    "flow",
    "is_original",
    "load",
    "read",
    "step_of",
    "system",
]

LISTED = 12
"""Keys of each kind that an error lists; a file of something else altogether would fill pages."""


class CompatError(ValueError):
    """A file or state dict that is not what the original wrote; the message is one line."""


class _Source:
    """A state dict of the original, of which every entry is to be used exactly once.

    Args:
        state: the entries.
        kind: what they are to be, for messages.

    Raises:
        CompatError: it is no state dict.
    """

    def __init__(self, state: Mapping[str, Tensor], kind: str) -> None:
        self.kind = kind
        if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
            raise CompatError(f"expected the state dict of a {kind}, found a whole checkpoint: give its entry 'model'")
        wrong = not isinstance(state, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
        )
        if wrong:
            raise CompatError(f"expected the state dict of a {kind}, names and tensors, found {type(state).__name__}")
        self._left = dict(state)
        self._taken: dict[str, Tensor] = {}
        self._missing: list[str] = []
        self._wrong: list[str] = []
        self._unsized: list[str] = []
        self._sized = True

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def shape(self, name: str, ndim: int) -> torch.Size:
        """Shape of an entry from which sizes of the network are read; ones where there is none of so many axes."""
        value = self._left.get(name)
        if value is not None and value.ndim == ndim and value.numel():
            return value.shape
        if value is not None:
            self._unsized.append(f"{name} is {list(value.shape)}, expected {ndim} axes")
        self._sized = False
        return torch.Size([1] * ndim)

    def count(self, pattern: str, start: int = 0, step: int = 1) -> int:
        """How many numbers from ``start`` on in these steps a pattern's group takes among the keys, up to a gap."""
        found = {int(match[1]) for key in self._left if (match := re.match(pattern, key))}
        return next(n for n in range(len(found) + 1) if start + n * step not in found)

    def take(self, name: str, shape: Sequence[int], *, whole: bool = False) -> Tensor:
        """An entry of this shape; zeros, and a note, where there is none.

        Args:
            name: of the entry.
            shape: that it must have.
            whole: that it holds whole numbers, of whatever type: int64 is returned. Others have a floating point.
        """
        value = self._left.pop(name, None)
        if value is None:
            self._missing.append(name)
        elif list(value.shape) != list(shape):
            self._wrong.append(f"{name} is {list(value.shape)}, expected {list(shape)}")
        elif not whole:
            return value if value.is_floating_point() else value.float()
        elif not torch.equal(value, value.long().to(value.dtype)):
            self._wrong.append(f"{name} holds fractions")
        else:
            return value.long()
        return torch.zeros(tuple(shape), dtype=torch.int64 if whole else torch.float32)

    def refuse(self, words: str) -> None:
        """Note that an entry cannot be what it should be."""
        self._wrong.append(words)

    def place(self, mine: str, value: Tensor) -> None:
        """Put an entry under our name."""
        self._taken[mine] = value

    def copy(self, module: nn.Module, mine: str, theirs: str) -> None:
        """Put all entries of one of our layers there, from the original's layer."""
        for name, ours in module.get_submodule(mine).state_dict().items():
            key = f"{theirs}.{name}"
            if name == "num_batches_tracked":  # old versions of torch did not count
                counted = self.take(key, ours.shape, whole=True) if key in self else torch.zeros((), dtype=torch.int64)
                self.place(f"{mine}.{name}", counted)
                continue
            channels = name in ("loc", "scale")  # of ActNorm: [1, C, 1, 1] there
            shape = (1, *ours.shape, 1, 1) if channels else ours.shape
            value = self.take(key, shape, whole=name == "initialized")
            self.place(f"{mine}.{name}", value.reshape(ours.shape))

    def check(self) -> None:
        """See that everything was there and of the right shape, and that nothing is left over.

        Raises:
            CompatError: with the keys.
        """
        parts = []
        if self._missing:
            parts.append("missing: " + _listed(sorted(self._missing)))
        if self._left:
            parts.append("left over: " + _listed(sorted(self._left)))
        # Without an entry that tells sizes, no other can be said to be of a wrong one.
        if wrong := self._wrong if self._sized else self._unsized:
            parts.append(_listed(wrong))
        if parts:
            raise self._error(parts)

    def into(self, module: nn.Module) -> None:
        """Load what was placed into a module without memory, once it is checked.

        Raises:
            CompatError: with the keys.
        """
        self.check()
        floats = [value.dtype for value in self._taken.values() if value.is_floating_point()]
        dtype = functools.reduce(torch.promote_types, floats)
        state = {}
        for name, ours in module.state_dict().items():
            value = self._taken.pop(name)
            # A copy: training must not change the state dict that somebody else holds.
            state[name] = value.detach().to(dtype if ours.is_floating_point() else ours.dtype, copy=True)
        assert not self._taken, self._taken.keys()
        module.load_state_dict(state, assign=True)

    def _error(self, parts: Sequence[str]) -> CompatError:
        return CompatError(f"not a checkpoint of the original {self.kind}; {'; '.join(parts)}")


def _listed(words: Sequence[str]) -> str:
    more = len(words) - LISTED
    return ", ".join(words[:LISTED]) + (f" and {more} more" if more > 0 else "")


# --- flows -----------------------------------------------------------------------------------------------------------


def flow(state_dict: Mapping[str, Tensor]) -> Chain:
    """The original's ``VectorTransformer`` as a flow: ``flow(x [B, D]) -> (z [B, D], logdet [B])``.

    Its double coupling is our two couplings; it leaves the halves swapped, so that the swap folds into the shuffle that
    follows. Scale and shift networks become one batch of matrices. The numbers keep their precision. A flow that has
    seen no data yet (``initialized`` is 0) takes its statistics from the first batch in training mode, where the
    original takes them in any mode.

    Args:
        state_dict: the checkpoint's entry ``model``.

    Returns:
        The flow, in eval mode.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
    """
    source = _Source(state_dict, "flow")
    blocks = source.count(r"realnvp\.flow\.(\d+)\.")
    hidden, half = source.shape("realnvp.flow.0.flow.1.s.0.main.0.weight", 2)
    # Of all couplings together, so that a key that one of them lacks is missing, and does not make the others shorter.
    # Activations stand between the linear layers.
    linear = max(2, source.count(r"realnvp\.flow\.\d+\.flow\.1\.[st]\.\d\.main\.(\d+)\.", step=2))
    dim = 2 * half
    sizes = [half, *[hidden] * (linear - 1), half]
    with torch.device("meta"):  # neither time nor random numbers for weights that are replaced
        made = vector_flow(dim, blocks=max(1, blocks), hidden=hidden, depth=linear - 2)
    swapped = torch.arange(dim).roll(half)
    for b in range(len(made) // 4):
        old, at = f"realnvp.flow.{b}.flow.", 4 * b
        source.copy(made, f"blocks.{at}", f"{old}0")
        for side in range(2):
            for k, (into, out) in enumerate(pairwise(sizes)):
                names = [f"{old}1.{net}.{side}.main.{2 * k}" for net in ("s", "t")]
                weights = [source.take(f"{name}.weight", (out, into)).T for name in names]
                biases = [source.take(f"{name}.bias", (out,)) for name in names]
                mine = f"blocks.{at + 1 + side}"
                source.place(f"{mine}.weights.{k}", torch.stack(weights))  # [2, in, out]
                source.place(f"{mine}.biases.{k}", torch.stack(biases)[:, None])  # [2, 1, out]
        there = all(f"{old}2.{way}_shuffle_idx" in source for way in ("forward", "backward"))
        order = source.take(f"{old}2.forward_shuffle_idx", (dim,), whole=True)
        inverse = source.take(f"{old}2.backward_shuffle_idx", (dim,), whole=True)
        if torch.equal(order.sort().values, torch.arange(dim)) and torch.equal(order.argsort(), inverse):
            source.place(f"blocks.{at + 3}.order", swapped[order])
        elif there:
            source.refuse(f"{old}2: forward_shuffle_idx and backward_shuffle_idx are no permutation and its inverse")
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

    Returns:
        The flow, in eval mode.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
        ValueError: the factors do not sum to the size of the latent.
    """
    made = flow(state_dict)
    dim = made[0].dim
    sizes = [factors] if isinstance(factors, int) else list(factors)
    if not sizes or any(size < 1 for size in sizes):
        raise ValueError(f"factors: expected sizes, or a number of factors, of at least 1, found {factors}")
    if isinstance(factors, int):
        size = -(-dim // factors)
        sizes = [min(size, dim - start) for start in range(0, dim, size)]
    if sum(sizes) != dim:
        raise ValueError(f"factors: {' + '.join(map(str, sizes))} = {sum(sizes)}, but the flow has {dim} dimensions")
    return FactorChain(made, sizes).eval()


# --- first stages ----------------------------------------------------------------------------------------------------


def autoencoder(state_dict: Mapping[str, Tensor], *, deterministic: bool = False) -> Autoencoder:
    """The original's autoencoder: ``encode(image) -> Gaussian`` over ``[B, D]``, ``decode(x [B, D])``.

    Args:
        state_dict: the checkpoint's entry ``model``.
        deterministic: that the original was configured so; its weights do not tell.

    Returns:
        The network, in eval mode. Its images are as large as its last convolution tells: a multiple of
        ``2**n_down``.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
    """
    source = _Source(state_dict, "autoencoder")
    trunk = _trunk(source)
    dim = max(1, source.shape(f"{DENSE}.bias", 1)[0] // 2)
    with torch.device("meta"):
        made = Autoencoder(dim=dim, **trunk, deterministic=deterministic)
    _place_encoder(source, made)
    n_down = made.n_down
    source.copy(made, "decoder.0", "dense_decode.sub_layers.0")
    for i in range(n_down - 1):  # the original counts from the image
        for j in range(2):
            source.copy(made, f"decoder.{1 + 3 * i + j}", f"decoder_layers.{n_down - 2 - i}.sub_layers.{j}")
    source.copy(made, f"decoder.{1 + 3 * (n_down - 1)}", "image_layer.sub_layers.0")
    source.into(made)
    return made.eval()


def classifier(state_dict: Mapping[str, Tensor]) -> Classifier:
    """The original's classifier: ``classifier(image)`` -> logits ``[B, classes]``.

    Args:
        state_dict: the checkpoint's entry ``model``.

    Returns:
        The network, in eval mode; for the size of its images see `autoencoder`.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
    """
    source = _Source(state_dict, "classifier")
    trunk = _trunk(source)
    dim, classes = source.shape(f"{DENSE}.bias", 1)[0], source.shape("classifier.bias", 1)[0]
    with torch.device("meta"):
        made = Classifier(dim=dim, classes=classes, **trunk)
    _place_encoder(source, made)
    source.copy(made, "head", "classifier")
    source.into(made)
    return made.eval()


DENSE = "dense_encode.sub_layers.0"
"""The layer that makes the code."""


def _trunk(source: _Source) -> dict[str, Any]:
    """Arguments of encoder and decoder that the shapes tell."""
    first = source.shape("feature_layers.0.sub_layers.0.weight", 4)
    last = source.shape(f"{DENSE}.weight", 4)
    n_down = max(1, source.count(r"feature_layers\.(\d+)\."))
    return {
        "channels": first[1],
        "size": last[2] * 2**n_down,
        "n_down": n_down,
        "width": first[0],
        "norm": _norm(source, "feature_layers.0.sub_layers.1"),
    }


def _norm(source: _Source, layer: str) -> NormName:
    """What kind of normalisation a layer is; any two of its entries tell, so that one of them may be missing."""
    if any(f"{layer}.{name}" in source for name in ("loc", "scale", "initialized")):
        return "actnorm"
    return "batch" if any(f"{layer}.{name}" in source for name in ("running_mean", "running_var")) else "instance"


def _place_encoder(source: _Source, made: Autoencoder | Classifier) -> None:
    for i in range(made.n_down):
        for j in range(2):  # convolution and normalisation
            source.copy(made, f"encoder.{3 * i + j}", f"feature_layers.{i}.sub_layers.{j}")
    source.copy(made, f"encoder.{3 * made.n_down}", DENSE)


def discriminator(state_dict: Mapping[str, Tensor]) -> PatchDiscriminator:
    """The discriminator that the original trained its autoencoder against.

    Args:
        state_dict: the entries ``discriminator.*`` of the checkpoint's entry ``loss``, without that prefix.

    Returns:
        The network, in eval mode.

    Raises:
        CompatError: keys that are missing or left over, or shapes that do not fit.
    """
    source = _Source(state_dict, "discriminator")
    spectral = any(f"main.0.weight_{part}" in source for part in ("orig", "u", "v"))
    first = source.shape("main.0.weight_orig" if spectral else "main.0.weight", 4)
    layers = max(1, source.count(r"main\.(\d+)\.", start=3, step=3))  # numbers of the normalisation layers
    with torch.device("meta"):
        made = PatchDiscriminator(first[1], first[0], layers, spectral_norm=spectral)
    for name, module in made.main.named_children():
        if module.state_dict():
            source.copy(made, f"main.{name}", f"main.{name}")
    source.into(made)
    return made.eval()


# --- files -----------------------------------------------------------------------------------------------------------


def load(path: str | Path, factors: Sequence[int] | int | None = None) -> nn.Module:
    """The network of an original checkpoint: an autoencoder, a classifier or a flow, in eval mode.

    Args:
        path: the file, or a run's folder of the original, whose newest checkpoint counts.
        factors: for a flow: dimensions or number of its factors; None for the plain flow.

    Raises:
        CompatError: not such a file, or one that asks for code to be run.
    """
    with _named(path):
        return _load_state(read(path)["model"], factors)


def _load_state(state: Mapping[str, Tensor], factors: Sequence[int] | int | None = None) -> nn.Module:
    """The network whose keys these are."""
    if any(key.startswith("realnvp.") for key in state):
        return flow(state) if factors is None else factor_flow(state, factors)
    if not any(key.startswith(("feature_layers.", "dense_encode.")) for key in state):
        raise CompatError(
            "not a checkpoint of the original; its keys are those of none of its networks: " + _listed([*state])
        )
    if factors is not None:
        raise CompatError("factors are for flows, and this is none")
    decodes = any(key.startswith(("dense_decode.", "decoder_layers.", "image_layer.")) for key in state)
    return autoencoder(state) if decodes else classifier(state)


def system(path: str | Path, **settings: Any) -> System:
    """A first stage of the original with all that its checkpoint holds, as a system that can be trained further.

    An autoencoder comes with the discriminator that it was trained against and its noise level: `systems.Autoencoder`.
    How it was trained is not in the file: ``disc_start``, ``perceptual`` and the like are settings. Neither is the
    state of the discriminator's optimiser. A classifier becomes a `systems.Classifier`, without settings.

    Args:
        path: the file, or a run's folder of the original, whose newest checkpoint counts.
        settings: further arguments of `systems.Autoencoder`.

    Returns:
        The system, in training mode.

    Raises:
        CompatError: not such a file; keys that are missing or left over, those of the loss included.
    """
    with _named(path):
        content = read(path)
        model, loss = _load_state(content["model"]), content.get("loss") or {}
        if isinstance(model, Classifier):
            if settings or loss:
                raise CompatError(f"a classifier has no {'settings' if settings else 'loss'}")
            return systems.Classifier(model).train()
        if not isinstance(model, Autoencoder):
            raise CompatError(
                "a flow is no system without a first stage: iin.systems.LatentFlow(first_stage, iin.compat.load(path))"
            )
        prefix = "discriminator."
        source = _Source({k: v for k, v in loss.items() if not k.startswith(prefix)}, "autoencoder's loss")
        logvar = source.take("logvar", ())
        source.check()
        judge = discriminator({k.removeprefix(prefix): v for k, v in loss.items() if k.startswith(prefix)})
        made = systems.Autoencoder(model, discriminator=judge, **settings)
        made.logvar = nn.Parameter(logvar.clone())
        return made.train()


def architecture(path: str | Path) -> dict[str, Any]:
    """Node of a configuration that builds the network of an original checkpoint, without its weights."""
    model = load(path)
    if isinstance(model, Chain):
        coupling: Any = model[1]
        sizes = {"dim": coupling.dim, "blocks": len(model) // 4, "hidden": coupling.hidden, "depth": coupling.depth}
        return {"target": "iin.flows.vector_flow", "params": sizes}
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
        file = path.open("rb")
    except OSError as error:
        raise CompatError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        with file, _numbers_allowed():
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes of the reader
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise CompatError(
            f"{path}: damaged, not a checkpoint of the original, or one that would run code ({first})"
        ) from error
    if isinstance(content, dict) and {"format", "step", "system"} <= content.keys():
        raise CompatError(
            f"{path}: a checkpoint of iin itself, not of the original: iin.load(its run's folder) reads it"
        )
    if not isinstance(content, dict) or not isinstance(content.get("model"), Mapping):
        raise CompatError(f"{path}: not a checkpoint of the original (expected model, loss, optimizer)")
    for entry in ("model", "loss"):
        values = content.get(entry) or {}
        if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
            raise CompatError(f"{path}: not a checkpoint of the original (its {entry} holds more than tensors)")
    return content


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Within this context, errors name the file."""
    try:
        yield
    except CompatError as error:
        # The path of a folder is a part of that of its newest checkpoint.
        raise error if str(error).startswith(str(path)) else CompatError(f"{path}: {error}") from error


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
    for folder in (path / "train" / "checkpoints", path / "checkpoints", path):
        files = [file for file in folder.glob("model-*.ckpt") if _STEP.fullmatch(file.name)]
        if files:
            return max(files, key=step_of)
    runs = sorted(checkpoints.parent.parent.name for checkpoints in path.glob("*/train/checkpoints"))
    hint = f"; it holds runs, name one of them: {_listed(runs)}" if runs else ""
    raise CompatError(
        f"{path}: no checkpoint of the original in it (expected train/checkpoints/model-<step>.ckpt){hint}"
    )


class _Kind:
    """What a file calls ``numpy.dtype``: the kind of a number, and the order of its bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


def _number(kind: _Kind, data: bytes) -> float | int:
    """A number of numpy's as one of Python's.

    Raises:
        ValueError: a value of another kind.
    """
    letter = {"f8": "d", "f4": "f", "i8": "q", "i4": "i"}.get(kind.code)
    if letter is None or kind.order not in ("<", ">"):
        raise ValueError(f"a value of kind {kind.code!r}, expected a number")
    return struct.unpack(kind.order + letter, data)[0]


def _as(name: str, called: Callable[..., Any]) -> Callable[..., Any]:
    """A callable under the name that files know it by."""
    called.__module__, _, called.__qualname__ = name.rpartition(".")
    called.__name__ = called.__qualname__
    return called


@contextmanager
def _numbers_allowed() -> Iterator[None]:
    """Within this context, a file may name numpy's numbers beside tensors: the original stored its learning rates so.

    What it names is never numpy's, but what stands above, which builds a number from bytes and calls nothing.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_NUMBERS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


_NUMBERS: list[Any] = [
    _as("numpy.dtype", _Kind),
    # The module has another name since numpy 2.
    _as("numpy.core.multiarray.scalar", lambda kind, data: _number(kind, data)),
    _as("numpy._core.multiarray.scalar", lambda kind, data: _number(kind, data)),
]
