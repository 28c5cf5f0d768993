"""Figures of merit: one family a file.

A metric is any callable ``(system, batches) -> {name: number}``. It gets the system in eval mode and the test batches
(`iin.data.Images` or `iin.data.Pairs`, on the system's device, iterable more than once; ``batches.factors`` and
``batches.fingerprint`` are the data set's, where it has them) and calls the system's public methods: ``encode``,
``decode``, ``reconstruct``, ``sample``, ``code``, ``flow``, ``swap``, ``classify``; by way of `iin.metrics.contract`,
if it is to share with other metrics what they answer. The random state is set before each metric, so its draws are the
same every time.

To add one, write ``iin/metrics/mine.py`` (a class, its arguments the metric's and its ``__call__`` the measurement; say
which figures it returns and which methods it needs), name it in a configuration as
``evaluate: {mine: {target: iin.metrics.mine.Mine}}``, and give it a test on a system whose answer is known. A metric in
a package of your own works the same way, with ``--allow yourpackage``.
"""

from __future__ import annotations

from iin.metrics.accuracy import Accuracy
from iin.metrics.dims import FactorDims, factor_dims, factor_scores, paper_scores
from iin.metrics.disentanglement.evaluator import Disentanglement
from iin.metrics.fid import FID
from iin.metrics.frechet import frechet_distance, frechet_distance_of_few
from iin.metrics.invariances import Invariances, Normality, share_left_free
from iin.metrics.kid import KernelDistance, kernel_distance
from iin.metrics.likelihood import NLL, Inversion
from iin.metrics.reconstruction import Reconstruction
from iin.metrics.sensitivity import Sensitivity
from iin.metrics.statistics import Statistics, Summary
from iin.metrics.swaps import FactorSwaps
from iin.metrics.variation.evaluator import VariationPredictability

__all__ = [
    "FID",
    "NLL",
    "Accuracy",
    "Disentanglement",
    "FactorDims",
    "FactorSwaps",
    "Invariances",
    "Inversion",
    "KernelDistance",
    "Normality",
    "Reconstruction",
    "Sensitivity",
    "Statistics",
    "Summary",
    "VariationPredictability",
    "factor_dims",
    "factor_scores",
    "frechet_distance",
    "frechet_distance_of_few",
    "kernel_distance",
    "paper_scores",
    "share_left_free",
]
