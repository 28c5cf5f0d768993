"""Weights published by the original projects, as ours.

::

    model = iin.compat.load("logs/2020-02-24T12-33-54_mnist_ae/train/checkpoints/model-120000.ckpt")
    model.encode(image).mean, model.decode(x)

A checkpoint of the original is ``{"model", "loss", "optimizer"}``; what is in it is told by its keys. It is read
without running any code that it might bring along. Nothing is guessed: a key that is left over or missing, or a tensor
of another shape, is an error that lists it.

So load the networks that the ECCV 2020 project stands on: `bigae` and `biggan`, which were published as bare weights.
A folder of the JL1-VAE code, weights and the arguments of their network, is read by `jacobian_vae`.

References:
    CompVis/iin, the code of A Disentangling Invertible Interpretation Network for Explaining Latent Representations
    (Esser, Rombach and Ommer, 2020), arXiv:2004.13166;
    CompVis/invariances, the code of Making Sense of CNNs: Interpreting Deep Representations and Their Invariances with
    INNs (Rombach, Esser and Ommer, 2020), arXiv:2008.01777;
    travers-rhodes/jlonevae, the code of Local Disentanglement in Variational Auto-Encoders Using Jacobian L1
    Regularization (Rhodes and Lee, 2021), arXiv:2106.02923
"""

from iin.compat.bigae import bigae, biggan
from iin.compat.conditional import Untold, conditional_flow
from iin.compat.jacobian import conv_vae, jacobian_vae
from iin.compat.loading import architecture, load, system
from iin.compat.networks import FactorChain, autoencoder, classifier, discriminator, factor_flow, flow
from iin.compat.reading import is_original, newest, read, step_of
from iin.compat.state import CompatError

__all__ = [
    "CompatError",
    "FactorChain",
    "Untold",
    "architecture",
    "autoencoder",
    "bigae",
    "biggan",
    "classifier",
    "conditional_flow",
    "conv_vae",
    "discriminator",
    "factor_flow",
    "flow",
    "is_original",
    "jacobian_vae",
    "load",
    "newest",
    "read",
    "step_of",
    "system",
]
