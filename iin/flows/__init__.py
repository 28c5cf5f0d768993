"""Normalising flows: bijections of vectors with tractable Jacobian determinants.

A new block is one file here with a subclass of `InvertibleModule` (``forward`` and ``inverse``), and one line in the
table of ``tests/test_flows.py``, which then checks it like every other.

What a flow is conditioned on is its ``context``: `conditional_flow` has an embedder make a vector of it, which the
networks of every `Coupling` see.
"""

from iin.flows.base import Chain, InvertibleModule
from iin.flows.conditional import ConditionalFlow, LeakyReLU, conditional_flow
from iin.flows.layers import ActNorm, Coupling, Shuffle, vector_flow

__all__ = [
    "ActNorm",
    "Chain",
    "ConditionalFlow",
    "Coupling",
    "InvertibleModule",
    "LeakyReLU",
    "Shuffle",
    "conditional_flow",
    "vector_flow",
]
