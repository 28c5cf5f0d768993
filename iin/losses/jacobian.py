"""How strongly a decoder answers to each number of its code."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["decoder_jacobian", "jacobian_norm"]

Method = Literal["difference", "forward"]


def decoder_jacobian(
    decode: Callable[[Tensor], Tensor], z: Tensor, method: Method = "difference", step: float = 1e-3
) -> Tensor:
    """Derivatives of a decoder with respect to each number of its code, at given codes.

    Args:
        decode: codes ``[N, L]`` -> ``[N, ...]``, each row by itself: a decoder with batch statistics has no Jacobian.
        z: codes ``[B, L]``; no gradient leads back to them.
        method: ``difference``, the forward difference, as published: one call on ``(L + 1) * B`` rows, first number 0
            of all codes moved, then number 1 of all, and last the codes as they are. ``forward``, exact: derivatives
            along all directions at once, in forward mode.
        step: of the difference.

    Returns:
        ``[L, B, ...]``, differentiable in the decoder's weights.

    Raises:
        ValueError: codes of another shape, an unknown method, a step that is not positive.

    References:
        Local Disentanglement in Variational Auto-Encoders Using Jacobian L1 Regularization (Rhodes and Lee, 2021),
        arXiv:2106.02923, and the published code
    """
    if z.ndim != 2 or not z.numel():
        raise ValueError(f"z: expected codes of shape [B, L], found {list(z.shape)}")
    z = z.detach()
    count, dim = z.shape
    if method == "forward":
        directions = torch.eye(dim, dtype=z.dtype, device=z.device)[:, None].expand(dim, count, dim)
        _begin_forward_mode()
        return torch.func.vmap(lambda direction: torch.func.jvp(decode, (z,), (direction,))[1])(directions)
    if method != "difference":
        raise ValueError(f"method: expected difference or forward, found {method!r}")
    if not step > 0:
        raise ValueError(f"step: expected a number above 0, found {step}")
    # The published code has the step in single precision where it moves the code, and as it is where it divides.
    shift = (step * torch.eye(dim, dtype=torch.float32, device=z.device)).to(z.dtype)
    moved = (z + shift[:, None]).flatten(0, 1)  # [L * B, L]
    made = decode(torch.cat([moved, z]))
    made = made.unflatten(0, (dim + 1, count))
    return (made[:-1] - made[-1]) / step


@functools.cache
def _begin_forward_mode() -> None:
    """Have torch load its forward mode, once, without the warning of what torch itself deprecates there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


def jacobian_norm(
    decode: Callable[[Tensor], Tensor],
    z: Tensor,
    p: Literal[1, 2] = 1,
    method: Method = "difference",
    step: float = 1e-3,
) -> Tensor:
    """Sum over a decoder's Jacobian of absolute values, or of squares; mean over the batch.

    Nothing is divided by the number of pixels or of latents. The code takes no gradient: it is the decoder alone that
    is to answer to fewer numbers in each place.

    Args:
        decode: codes ``[N, L]`` -> ``[N, ...]``; as published, with images in [0, 1].
        z: codes ``[B, L]``, with their noise.
        p: 1 for absolute values, which favours Jacobians with many zeros; 2 for squares, without a root.
        method, step: see `decoder_jacobian`.

    Returns:
        Scalar.

    Raises:
        ValueError: another ``p``; or see `decoder_jacobian`.

    References:
        Local Disentanglement in Variational Auto-Encoders Using Jacobian L1 Regularization (Rhodes and Lee, 2021),
        arXiv:2106.02923, section 3
    """
    if p not in (1, 2):
        raise ValueError(f"p: expected 1 or 2, found {p!r}")
    jacobian = decoder_jacobian(decode, z, method, step)
    return (jacobian.abs() if p == 1 else jacobian.square()).sum() / len(z)
