"""Networks that are not invertible: what flows are trained on, and what judges their pictures."""

from iin.models.autoencoder import Autoencoder
from iin.models.bigae import BigAE
from iin.models.biggan import BigGAN
from iin.models.classifier import Classifier
from iin.models.codes import Codes
from iin.models.discriminator import CodeDiscriminator, PatchDiscriminator
from iin.models.embedder import ConvEmbedder, DenseEmbedder, PoolingEmbedder
from iin.models.gaussian import Gaussian
from iin.models.generator import ModuleGenerator
from iin.models.representation import Layer
from iin.models.residual import PairRecogniser, ResidualDiscriminator
from iin.models.vae import ConvVAE, natural_vae, study_vae, threedots_vae

__all__ = [
    "Autoencoder",
    "BigAE",
    "BigGAN",
    "Classifier",
    "CodeDiscriminator",
    "Codes",
    "ConvEmbedder",
    "ConvVAE",
    "DenseEmbedder",
    "Gaussian",
    "Layer",
    "ModuleGenerator",
    "PairRecogniser",
    "PatchDiscriminator",
    "PoolingEmbedder",
    "ResidualDiscriminator",
    "natural_vae",
    "study_vae",
    "threedots_vae",
]
