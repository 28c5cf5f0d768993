"""Methods: what is trained, and for what. One method a file, each a subclass of `iin.system.System`."""

from iin.systems.autoencoder import Autoencoder
from iin.systems.classifier import Classifier
from iin.systems.factor import FactorFlow
from iin.systems.flow import LatentFlow
from iin.systems.jacobian import JacobianVAE
from iin.systems.vae import VAE
from iin.systems.variation import VariationGAN
from iin.systems.variation_vae import VariationVAE

__all__ = [
    "VAE",
    "Autoencoder",
    "Classifier",
    "FactorFlow",
    "JacobianVAE",
    "LatentFlow",
    "VariationGAN",
    "VariationVAE",
]
