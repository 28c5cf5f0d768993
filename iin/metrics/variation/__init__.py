"""Variation predictability: whether one sees which latent has changed.

Pairs of images are made that differ in one latent each. A small network, the `Recogniser`, learns from a tenth of the
pairs which latent it was, and its accuracy on the others is the score: near 1 where each latent changes something of
its own, and near ``1 / latents`` where changes tell nothing. No factors need be known, and no encoder.

`score` takes images; the evaluator `iin.metrics.VariationPredictability` makes the pairs itself, by any system that
decodes latents. `draw_pairs`, `write_pairs` and `read_pairs` are of use by themselves: pairs as files, in the published
layout.

A latent need not be of one coordinate of the world to be recognised: a fixed rotation of all latents changes images in
as many directions as before, each always the same, and the score does not fall. It falls where what a latent does
depends on the others.

References:
    | Learning Disentangled Representations with Latent Variation Predictability (Zhu, Xu and Tao, 2020),
      arXiv:2007.12885; https://github.com/zhuxinqimac/VP-metric-pytorch
"""

from __future__ import annotations

from iin.metrics.variation.pairs import VariedPairs, draw_pairs, read_pairs, write_pairs
from iin.metrics.variation.recogniser import Mode, Recogniser
from iin.metrics.variation.scoring import changed, score, split

__all__ = [
    "Mode",
    "Recogniser",
    "VariedPairs",
    "changed",
    "draw_pairs",
    "read_pairs",
    "score",
    "split",
    "write_pairs",
]
