"""Disentanglement: how far single codes stand for single factors of the data.

The scores of the field, each a plain function with the defaults of the published studies. Of codes ``[N, D]`` (floats)
and factors ``[N, F]`` (integers), numpy arrays or tensors: `mig`, `dci`, `sap`, `modularity`, `explicitness`, `irs`,
and `unsupervised`, which asks for no factors. Those that choose factors themselves, `factor_vae_score`,
`beta_vae_score`, `local_mig` and `local_modularity`, take ``(represent, data, seed)``: a function from images to codes,
data with known factors (`iin.data.factors`), and the seed of ``numpy.random.RandomState``. The evaluator
`iin.metrics.Disentanglement` measures them on a system.

Every function answers a float or named floats, and raises ValueError, in one line, on what it cannot score: codes that
are not finite, factors that are not whole numbers, shapes that do not fit, a factor with one value where that cannot be
left out, fewer points than bins.

References:
    | Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations
      (Locatello et al., 2019), arXiv:1811.12359
    | Local Disentanglement in Variational Auto-Encoders Using Jacobian L1 Regularization (Rhodes and Lee, 2021),
      arXiv:2106.02923
"""

from __future__ import annotations

from iin.metrics.disentanglement.correlation import unsupervised
from iin.metrics.disentanglement.information import mig, modularity
from iin.metrics.disentanglement.interventions import beta_vae_score, factor_vae_score
from iin.metrics.disentanglement.linear import explicitness, sap
from iin.metrics.disentanglement.local import local_mig, local_modularity, local_scores
from iin.metrics.disentanglement.robustness import irs
from iin.metrics.disentanglement.trees import dci, importance_scores

__all__ = [
    "beta_vae_score",
    "dci",
    "explicitness",
    "factor_vae_score",
    "importance_scores",
    "irs",
    "local_mig",
    "local_modularity",
    "local_scores",
    "mig",
    "modularity",
    "sap",
    "unsupervised",
]
