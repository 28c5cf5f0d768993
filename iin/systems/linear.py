"""Linear codes of small patches, which a variational autoencoder's is compared with: PCA and ICA."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iin.system import Picture
from iin.systems import views

__all__ = ["LinearCode", "LinearErrors", "linear_code"]


class LinearErrors(NamedTuple):
    """How far reconstructions are from their images, both in [0, 1]: sums over an image's values, means over images."""

    mse: float
    """Squared error."""
    nll: float
    """Cross entropy under a Bernoulli distribution of each value, in nats."""


class LinearCode(nn.Module):
    """A code that is linear in the image, and a way back that is linear in the code.

    Args:
        to_code: ``[L, D]``, of the centred image in [0, 1].
        components: ``[D, L]``: the image's change with each number of the code, its Jacobian.
        mean: of the images ``[D]``.
        shape: of an image, ``(C, H, W)``.
        deviation: standard deviation of each number of the code ``[L]``; default: 1.
    """

    def __init__(
        self,
        to_code: Tensor,
        components: Tensor,
        mean: Tensor,
        shape: tuple[int, int, int],
        deviation: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.dim = shape, components.shape[1]
        deviation = torch.ones_like(components[0]) if deviation is None else deviation
        for name, value in {"to_code": to_code, "components": components, "mean": mean, "deviation": deviation}.items():
            self.register_buffer(name, value)

    to_code: Tensor
    components: Tensor
    mean: Tensor
    deviation: Tensor

    def encode(self, image: Tensor) -> Tensor:
        """Codes ``[B, L]`` of images ``[B, C, H, W]`` in [-1, 1].

        Raises:
            ValueError: images of another shape.
        """
        if tuple(image.shape[1:]) != self.shape:
            raise ValueError(f"expected images of shape [B, {', '.join(map(str, self.shape))}], found {[*image.shape]}")
        return ((image.flatten(1) + 1) / 2 - self.mean) @ self.to_code.T

    def code(self, image: Tensor) -> Tensor:
        """Same as `encode`."""
        return self.encode(image)

    def decode(self, z: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` in [-1, 1] of codes ``[B, L]``, cut to that range."""
        return ((z @ self.components.T + self.mean).clamp(0, 1) * 2 - 1).unflatten(1, self.shape)

    def reconstruct(self, image: Tensor) -> Tensor:
        """To the code and back."""
        return self.decode(self.encode(image))

    def errors(self, image: Tensor) -> LinearErrors:
        """Of images ``[B, C, H, W]`` in [-1, 1].

        Raises:
            ValueError: there is none, or they are of another shape or range.
        """
        if not len(image) or not (image.abs() <= 1).all():
            found = f"{image.min():g} to {image.max():g}" if len(image) else "none"
            raise ValueError(f"image: expected images in [-1, 1], found {found}")
        made, target = ((part + 1) / 2 for part in (self.reconstruct(image), image))
        count = len(image)
        return LinearErrors(
            float((made - target).square().sum() / count),
            float(F.binary_cross_entropy(made, target, reduction="sum") / count),
        )

    def picture(self) -> Picture:
        """The components as images, scaled together so that their largest value is black or white."""
        shown = self.components / self.components.abs().max().clamp_min(1e-12)
        return Picture(
            shown.T.unflatten(1, self.shape),
            "Components",
            "How the image changes with each number of the code: grey where it does not; one scale for all.",
        )

    def traversals(self, image: Tensor) -> Picture:
        """What each number of the code does to an image ``[1, C, H, W]`` in [-1, 1], and the same in motion."""
        return views.traversals(self, self.encode(image)[0], of="an image")


def linear_code(
    image: Tensor, dim: int, method: Literal["pca", "ica"] = "pca", seed: int = 0, iterations: int = 200
) -> LinearCode:
    """Fit a linear code to images.

    Args:
        image: ``[N, C, H, W]`` in [-1, 1]; 10,000 patches of 16x16 in the published comparison.
        dim: numbers in a code ``L``, at most those of an image and at most N.
        method: ``pca``, the directions of most variance; ``ica``, directions along which images are independent
            (FastICA).
        seed: of the fit.
        iterations: of FastICA, at most. A warning says where they were too few.

    Raises:
        ValueError: scikit-learn is not installed; images, number or method are none that can be fitted: they must
            differ, and for ``ica`` in ``dim`` directions at least.

    References:
        Local Disentanglement in Variational Auto-Encoders Using Jacobian L1 Regularization (Rhodes and Lee, 2021),
        arXiv:2106.02923, section 5, natural images
    """
    if image.ndim != 4 or not image.isfinite().all():
        raise ValueError(f"image: expected finite images of shape [N, C, H, W], found {[*image.shape]}")
    if len(image) < 2 or (image == image[:1]).all():
        raise ValueError(f"image: expected images that differ, found {len(image)}{' alike' * (len(image) > 1)}")
    values = ((image.flatten(1) + 1) / 2).double().cpu().numpy()
    if not 1 <= dim <= min(values.shape):
        raise ValueError(f"dim: expected 1 to {min(values.shape)} for images {[*image.shape]}, found {dim}")
    if method not in ("pca", "ica"):
        raise ValueError(f"method: expected pca or ica, found {method!r}")
    try:
        from sklearn import decomposition, exceptions
    except ImportError as error:
        raise ValueError(f"linear codes need scikit-learn ({error}); pip install 'iin[metrics]'") from error
    fitted: Any
    if method == "pca":
        fitted = decomposition.PCA(dim, random_state=seed).fit(values)
        to_code, components = fitted.components_, fitted.components_.T
    else:
        if (rank := int(np.linalg.matrix_rank(values - values.mean(0)))) < dim:
            raise ValueError(f"dim: {dim}, but the images differ in {rank} directions only, too few for ica")
        fitted = decomposition.FastICA(
            dim, random_state=seed, whiten="unit-variance", whiten_solver="svd", max_iter=iterations
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", exceptions.ConvergenceWarning)
            fitted.fit(values)
        if any(issubclass(warning.category, exceptions.ConvergenceWarning) for warning in caught):
            warnings.warn(f"ICA has not converged in {iterations} iterations; raise iterations", stacklevel=2)
        to_code, components = fitted.components_, fitted.mixing_
    deviation = ((values - fitted.mean_) @ to_code.T).std(axis=0)
    told, back, mean, spread = (
        torch.from_numpy(np.array(part)).to(image.dtype) for part in (to_code, components, fitted.mean_, deviation)
    )
    channels, height, width = image.shape[1:]
    return LinearCode(told, back, mean, (channels, height, width), spread)
