"""What a layer of any network makes of an image."""

from iin.models.representation.layer import Layer
from iin.models.representation.listing import Row, describe
from iin.models.representation.preprocessing import Preprocess
from iin.models.representation.sources import is_spelt, load

__all__ = ["Layer", "Preprocess", "Row", "describe", "is_spelt", "load"]
