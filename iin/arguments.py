"""Types of arguments, with the ranges that make sense.

A signature that says ``blocks: Count`` documents itself, and a configuration that says ``blocks: 0`` is refused
before anything is built: ``iin/config.py`` reads these annotations. Classes that build on several arguments at once
may add a ``check`` of their own (see `iin.config.check`).
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Lt, MultipleOf

__all__ = ["Count", "Even", "Fraction", "NonNegative", "NonNegativeInt", "Positive"]

Count = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
Even = Annotated[int, Ge(2), MultipleOf(2)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Gt(0), Lt(1)]
