"""Variational autoencoders of the JL1-VAE code, from its folders."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iin.compat.reading import named
from iin.compat.state import CompatError, Source, listed
from iin.models import ConvVAE

__all__ = ["conv_vae", "jacobian_vae"]

ARGUMENTS: dict[str, Any] = {
    "latent_dim": None,
    "im_side_len": 64,
    "im_channels": 3,
    "emb_conv_layers_channels": [64, 128, 192, 256],
    "emb_conv_layers_strides": [2, 2, 2, 2],
    "emb_conv_layers_kernel_sizes": [4, 4, 4, 4],
    "emb_fc_layers_num_features": [1024],
    "gen_fc_layers_num_features": [4096],
    "gen_first_im_side_len": 4,
    "gen_conv_layers_channels": [192, 128, 128, 64, 3],
    "gen_conv_layers_strides": [2, 2, 1, 2, 2],
    "gen_conv_layers_kernel_sizes": [4, 4, 4, 4, 4],
}
"""The original's arguments, and what they are where they are not given; the size of the code must be."""

PARTS = {
    "mean": "fcmu",
    "logvar": "fclogvar",
    "encoder": "emb_convs",
    "encoder_dense": "emb_fcs",
    "decoder_dense": "gen_fcs",
    "decoder": "gen_convs",
}
"""Our names of layers, and the original's."""

MOST = 1 << 20
"""Bytes that a file of arguments has at most; real ones have less than a thousand."""

LARGEST = 1 << 16
"""Of an argument; those of published networks have at most 4096."""


def jacobian_vae(folder: str | Path) -> ConvVAE:
    """The network in a folder that the JL1-VAE code wrote, ``cache_batch_no<N>``.

    Of ``model_args.p``, a pickle, plain values are read, and no code that it might bring along is run.

    Args:
        folder: holds ``model_state_dict.pt`` and ``model_args.p``.

    Returns:
        The network, in eval mode.

    Raises:
        CompatError: files that are missing, damaged, or hold anything else.

    References:
        travers-rhodes/jlonevae, the code of Local Disentanglement in Variational Auto-Encoders Using Jacobian L1
        Regularization (Rhodes and Lee, 2021), arXiv:2106.02923
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CompatError(f"{folder}: no folder; expected one with model_state_dict.pt and model_args.p")
    inside = sorted(found.parent.name for found in folder.glob("*/model_state_dict.pt"))
    if inside and not (folder / "model_state_dict.pt").exists():
        raise CompatError(f"{folder}: no network in it; name one of the folders that it holds: {listed(inside)}")
    kind = folder / "model_type.txt"
    if kind.is_file():
        told = kind.read_text(errors="replace").strip()
        if told != "conv_vae":
            raise CompatError(f"{kind}: expected conv_vae, found {told[:40]!r}")
    arguments, weights = folder / "model_args.p", folder / "model_state_dict.pt"
    with named(arguments):
        told = _arguments(arguments)
        _checked(told)
    with named(weights):
        return conv_vae(_weights(weights), told)


def conv_vae(state_dict: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> ConvVAE:
    """The original's ``ConvVAE``.

    Args:
        state_dict: of the original.
        arguments: that it was built with.

    Returns:
        The network, in eval mode.

    Raises:
        CompatError: arguments that make no network; keys that are missing or left over, shapes that do not fit, weights
            that are not finite or no floating point.
    """
    told = _checked(arguments)
    widths = told["gen_conv_layers_channels"]
    source = Source(state_dict, "ConvVAE")
    try:
        with torch.device("meta"):  # neither time nor random numbers for weights that are replaced
            made = ConvVAE(
                channels=told["im_channels"],
                size=told["im_side_len"],
                dim=told["latent_dim"],
                encoder=told["emb_conv_layers_channels"],
                encoder_kernels=told["emb_conv_layers_kernel_sizes"],
                encoder_strides=told["emb_conv_layers_strides"],
                encoder_dense=told["emb_fc_layers_num_features"],
                decoder_dense=told["gen_fc_layers_num_features"],
                start=told["gen_first_im_side_len"],
                decoder=widths[:-1],
                decoder_kernels=told["gen_conv_layers_kernel_sizes"],
                decoder_strides=told["gen_conv_layers_strides"],
            )
    except ValueError as error:
        raise CompatError(f"its arguments make no network: {error}") from error
    for name, ours in made.state_dict().items():
        part, _, rest = name.partition(".")
        theirs = f"{PARTS[part]}.{rest}"
        if (given := state_dict.get(theirs)) is not None and not given.is_floating_point():
            source.refuse(f"{theirs} is {str(given.dtype).removeprefix('torch.')}, expected floating point")
        elif given is not None and not given.isfinite().all():
            source.refuse(f"{theirs} holds values that are not finite")
        source.place(name, source.take(theirs, ours.shape))
    source.into(made)
    return made.eval()


def _checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments.

    Raises:
        CompatError: they are not those of the original.
    """
    if not isinstance(arguments, Mapping):
        raise CompatError(f"expected arguments by name, found {type(arguments).__name__}")
    if unknown := [_short(name).strip("'") for name in arguments if name not in ARGUMENTS]:
        raise CompatError(f"unknown arguments: {listed(unknown)}; expected {', '.join(ARGUMENTS)}")
    told, wrong = {**ARGUMENTS, **arguments}, []
    for name, default in ARGUMENTS.items():
        value = told[name]
        if isinstance(default, list):
            if not isinstance(value, list | tuple) or not all(_counts(number) for number in value):
                wrong.append(f"{name} is {_short(value)}, expected a list of whole numbers from 1 to {LARGEST}")
        elif not _counts(value):
            wrong.append(f"{name} is {_short(value)}, expected a whole number from 1 to {LARGEST}")
    if not wrong and list(told["gen_conv_layers_channels"])[-1:] != [told["im_channels"]]:
        wrong.append(
            f"gen_conv_layers_channels ends in {_short(told['gen_conv_layers_channels'][-1:])}, expected im_channels = "
            f"{told['im_channels']}"
        )
    if wrong:
        raise CompatError(listed(wrong))
    return told


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _short(value: Any) -> str:
    return repr(value)[:60]


class _Plain(pickle.Unpickler):
    """Reads numbers, words, lists and mappings; whatever else a pickle names is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, expected plain values")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside, expected plain values")


def _arguments(path: Path) -> Any:
    """Content of a file of arguments."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size > MOST:
                raise CompatError("too large for arguments")
            return _Plain(file).load()
    except OSError as error:
        raise CompatError(f"cannot be read ({error.strerror or error})") from error
    except CompatError:
        raise
    except Exception as error:  # whatever a foreign file makes of the reader
        raise CompatError(
            f"damaged, or no pickle of plain values ({str(error)[:160] or type(error).__name__})"
        ) from error


def _weights(path: Path) -> Mapping[str, Tensor]:
    try:
        with path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CompatError(f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever a foreign file makes of the reader
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CompatError(f"damaged, or no state dict, or one that would run code ({first})") from error
    return content
