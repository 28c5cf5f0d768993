"""Data sets, and the loader that draws batches of them.

A new data set is one file here (or anywhere) and one line in a config, ``target: iin.data.Mine``. All that it needs is
``__len__`` and ``__getitem__(indices) -> Images | Pairs``, which answers a *list* of indices with a whole batch; see
`iin.data.base` for what it may have besides. Where to start from:

* images that are drawn instead of read: `Draws`, and nothing else; the README has one in twenty lines
* images that fit into memory: `Labelled`, as in `iin.data.mnist`; `iin.data.memory.Published` where they are found or
  downloaded, as in `iin.data.cifar`
* pictures in files: `iin.data.decoding.Pictures`, decoded once by `iin.data.decoded.Decoded`, as in `iin.data.celeba`
* images of which all factors are known: `Factored`, as in `iin.data.dots`; `iin.data.bank.Filed` where a file has one
  image for each combination of them, as in `iin.data.mpi3d`
* pairs that share what a table says of images: `iin.data.attributes.Attributed`

Files are looked for, and where possible fetched, by `iin.data.sources`; IDX files are read by `iin.data.idx`, pictures
by `iin.data.decoding`, tables by `iin.data.table`.

Somebody's own pictures need no code: `ImageFolder`, and `AttributePairs` for factors that a table holds.

Take random numbers from `Draws` only, and the set is reproducible, whatever the batch size and the number of workers.
"""

from __future__ import annotations

from iin.data.animals import AnimalFaces, ImageNetAnimals
from iin.data.attributes import AttributePairs
from iin.data.base import Batch, Dataset, Draws, Images, Loader, Pairs, Visit, mix
from iin.data.celeba import CelebA, FactorCelebA
from iin.data.cifar import CIFAR10
from iin.data.dots import ThreeDots
from iin.data.factors import Factored, KnownFactors
from iin.data.fashion import FashionMNIST
from iin.data.folder import ImageFolder
from iin.data.memory import Classes, Labelled
from iin.data.mnist import MNIST, ColorfulMNIST, MNISTPairs, SingleColorfulMNIST, measure_color
from iin.data.mpi3d import MPI3D, MPI3DMulti
from iin.data.patches import NaturalPatches
from iin.data.sprites import DSprites, Shapes3D, Sprites

__all__ = [
    "CIFAR10",
    "MNIST",
    "MPI3D",
    "AnimalFaces",
    "AttributePairs",
    "Batch",
    "CelebA",
    "Classes",
    "ColorfulMNIST",
    "DSprites",
    "Dataset",
    "Draws",
    "FactorCelebA",
    "Factored",
    "FashionMNIST",
    "ImageFolder",
    "ImageNetAnimals",
    "Images",
    "KnownFactors",
    "Labelled",
    "Loader",
    "MNISTPairs",
    "MPI3DMulti",
    "NaturalPatches",
    "Pairs",
    "Shapes3D",
    "SingleColorfulMNIST",
    "Sprites",
    "ThreeDots",
    "Visit",
    "measure_color",
    "mix",
]
