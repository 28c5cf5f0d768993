"""Data sets, and the loader that draws batches of them.

A new data set is one file here (or anywhere) and one line in a config, ``target: iin.data.Mine``. All that it needs is
``__len__`` and ``__getitem__(indices) -> Images | Pairs``, which answers a *list* of indices with a whole batch; see
`iin.data.base` for what it may have besides. It can start from `iin.data.memory`, which makes batches of stored bytes,
with `iin.data.mnist` as the example of a set in memory and `iin.data.celeba` as that of pictures decoded on demand.
Files are looked for, and where possible fetched, by `iin.data.sources`; IDX files are read by `iin.data.idx`, pictures
by `iin.data.decoding`.

Somebody's own pictures need no code: `ImageFolder`, and `AttributePairs` for factors that a table holds.

Take random numbers from `Draws` only, and the set is reproducible, whatever the batch size and the number of workers.
"""

from __future__ import annotations

from iin.data.attributes import AttributePairs
from iin.data.base import Batch, Dataset, Draws, Images, Loader, Pairs, Visit, mix
from iin.data.celeba import CelebA, FactorCelebA
from iin.data.cifar import CIFAR10
from iin.data.fashion import FashionMNIST
from iin.data.folder import ImageFolder
from iin.data.memory import Classes, Labelled
from iin.data.mnist import MNIST, ColorfulMNIST, MNISTPairs, SingleColorfulMNIST, measure_color

__all__ = [
    "CIFAR10",
    "MNIST",
    "AttributePairs",
    "Batch",
    "CelebA",
    "Classes",
    "ColorfulMNIST",
    "Dataset",
    "Draws",
    "FactorCelebA",
    "FashionMNIST",
    "ImageFolder",
    "Images",
    "Labelled",
    "Loader",
    "MNISTPairs",
    "Pairs",
    "SingleColorfulMNIST",
    "Visit",
    "measure_color",
    "mix",
]
