"""Data sets, and the loader that draws batches of them.

A new data set is one file here (or anywhere) and one line in a config, ``target: iin.data.Mine``. All that it needs is
``__len__`` and ``__getitem__(indices) -> Images | Pairs``, which answers a *list* of indices with a whole batch; see
`iin.data.base` for what it may have besides. What is small enough for memory can start from `iin.data.memory`, with
`iin.data.mnist` as the example; what is stored as IDX files is read by `iin.data.idx`.

Take random numbers from `Draws` only, and the set is reproducible, whatever the batch size and the number of workers.
"""

from __future__ import annotations

from iin.data.base import Batch, Dataset, Draws, Images, Loader, Pairs, Visit, mix
from iin.data.memory import Classes, Labelled
from iin.data.mnist import MNIST, ColorfulMNIST, MNISTPairs, measure_color

__all__ = [
    "MNIST",
    "Batch",
    "Classes",
    "ColorfulMNIST",
    "Dataset",
    "Draws",
    "Images",
    "Labelled",
    "Loader",
    "MNISTPairs",
    "Pairs",
    "Visit",
    "measure_color",
    "mix",
]
