"""Small files in the real formats of the data sets, read by the very readers that the real ones are.

Each function writes below ``root``, where torchvision would, and returns ``root``.
"""

from __future__ import annotations

import csv
import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from iin.models import BigAE, BigGAN
from iin.models.biggan import SpectralConv2d, SpectralLinear

NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
)
ATTRIBUTES = NAMES.split()


def idx(array: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def _blobs(label: np.ndarray, size: int, rng: np.random.RandomState) -> np.ndarray:
    """Pictures whose classes can be told apart: a bar that turns with the label, noise on it ``[N, size, size]``."""
    angle = label[:, None, None] * np.pi / 10
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    bar = np.abs(x * np.cos(angle) + y * np.sin(angle)) < size / 8
    return np.clip(bar * 200 + rng.randint(0, 40, (len(label), size, size)), 0, 255).astype(np.uint8)


def _idx_files(folder: Path, counts: tuple[int, int], zipped: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, count, seed in (("train", counts[0], 0), ("t10k", counts[1], 1)):
        label = np.arange(count) % 10
        image = _blobs(label, 28, np.random.RandomState(seed))
        for name, array in ((f"{stem}-images-idx3-ubyte", image), (f"{stem}-labels-idx1-ubyte", label)):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))
            else:
                (folder / name).write_bytes(idx(array))


def mnist(root: Path, counts: tuple[int, int] = (300, 100), zipped: bool = True) -> Path:
    """``MNIST/raw``, so many images to train and to test."""
    _idx_files(root / "MNIST" / "raw", counts, zipped)
    return root


def fashion(root: Path, counts: tuple[int, int] = (300, 100), zipped: bool = True) -> Path:
    """``FashionMNIST/raw``, so many images to train and to test."""
    _idx_files(root / "FashionMNIST" / "raw", counts, zipped)
    return root


def python2_pickle(image: np.ndarray, label: list[int], name: bytes) -> bytes:
    """A batch as CIFAR-10's own files spell it: protocol 2 of Python 2, where text is bytes."""

    def text(value: bytes) -> bytes:
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + len(value).to_bytes(4, "little")) + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little")

    rows, columns = image.shape
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01" + number(rows) + number(columns) + b"\x86cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(image.tobytes()) + b"tb"
    )
    labels = b"](" + b"".join(number(value) for value in label) + b"e"
    return b"\x80\x02}(" + text(b"batch_label") + text(name) + text(b"labels") + labels + text(b"data") + array + b"u."


def cifar(root: Path, counts: tuple[int, int] = (60, 100), archive: bool = False) -> Path:
    """``cifar-10-batches-py``, or the archive of it: so many images in each of five batches, and to test."""
    files = {}
    for place, name in enumerate([f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]):
        label = np.arange(counts[name == "test_batch"]) % 10
        rng = np.random.RandomState(place)
        image = np.stack([_blobs(label, 32, rng) for _ in range(3)], 1)  # [N, 3, 32, 32]
        files[name] = python2_pickle(image.reshape(len(label), -1), label.tolist(), name.encode())
    files["batches.meta"] = pickle.dumps({"label_names": ["airplane"]}, protocol=2)
    root.mkdir(parents=True, exist_ok=True)
    if archive:
        with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        folder = root / "cifar-10-batches-py"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    return root


def face(attributes: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """A face of 178x218 pixels that shows its forty attributes ``[40]`` of 0 and 1: ``[218, 178, 3]`` uint8.

    Its middle 160x160 pixels are 8 rows of 5 tiles, one for each attribute, light where it holds and dark elsewhere;
    the tint is the picture's own.
    """
    tint = rng.randint(0, 60, 3)
    tiles = attributes.reshape(8, 5, 1) * 140 + 30 + tint  # [8, 5, 3]
    image = np.full((218, 178, 3), 128) + rng.randint(-20, 20, (218, 178, 1))
    image[29:189, 9:169] = tiles.repeat(20, 0).repeat(32, 1)
    return np.clip(image, 0, 255).astype(np.uint8)


def celeba(root: Path, n: int = 500, archive: bool = False, seed: int = 0) -> Path:
    """``celeba``: n faces, three fifths of them to train, a fifth to validate, a fifth to test; each a JPEG."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(seed)
    values = rng.randint(0, 2, (n, len(ATTRIBUTES)))
    names = [f"{number:06d}.jpg" for number in range(1, n + 1)]
    partition = np.arange(n) * 5 // n
    partition = np.select([partition < 3, partition < 4], [0, 1], 2)
    files = {}
    for name, row in zip(names, values, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(face(row, rng)).save(buffer, "JPEG", quality=90)
        files[name] = buffer.getvalue()
    if archive:
        (folder / "img_align_celeba").rmdir()
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as file:
            for name, content in files.items():
                file.writestr(f"img_align_celeba/{name}", content)
    else:
        for name, content in files.items():
            (folder / "img_align_celeba" / name).write_bytes(content)
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{name} {part}\n" for name, part in zip(names, partition, strict=True))
    )
    rows = (
        f"{name} " + " ".join(f"{value * 2 - 1:2d}" for value in row) for name, row in zip(names, values, strict=True)
    )
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(n), NAMES + " ", *rows, ""]))
    return root


def synsets(root: Path, names: Sequence[str], n: int = 12, size: int = 64) -> Path:
    """A folder for each synset, of n square JPEG pictures that its place among the names colours."""
    rng = np.random.RandomState(0)
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(n):
            image = np.full((size, size, 3), 20 + 200 * place // len(names)) + rng.randint(-8, 8, (size, size, 1))
            Image.fromarray(image.astype(np.uint8)).save(root / name / f"{name}_{number}.jpg", quality=95)
    return root


def folder(root: Path, n: int = 120, size: tuple[int, int] = (80, 64)) -> Path:
    """``square`` and ``disc``: n pictures in all, of the sizes given (width, height), half PNG and half JPEG.

    ``table.csv`` says of each its ``shape``, its ``shade`` (dark or light) and the ``brightness`` behind that.
    """
    rng = np.random.RandomState(0)
    width, height = size
    y, x = np.mgrid[:height, :width] - np.array([height - 1, width - 1])[:, None, None] / 2
    rows = []
    for number in range(n):
        shape = ("square", "disc")[number // 2 % 2]
        brightness = int(rng.randint(15, 64)) * 4 + 1  # JPEG moves it by less than their distance
        inside = np.maximum(abs(x), abs(y)) < height / 3 if shape == "square" else np.hypot(x, y) < height / 3
        image = np.where(inside[..., None], brightness, 20) * np.ones(3)
        name = f"{shape}/{number:03d}.{('png', 'jpg')[number % 2]}"
        (root / shape).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(root / name)
        rows.append((name, shape, "light" if brightness > 150 else "dark", brightness))
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "shape", "shade", "brightness"), *rows])
    return root


def pattern(index: np.ndarray, size: int = 64, channels: int = 3) -> np.ndarray:
    """Images that tell their numbers, as a recording has them: ``[N]`` -> ``[N, size, size, channels]`` uint8."""
    h, w, c = np.ogrid[:size, :size, :channels]
    return ((7 * index[:, None, None, None] + 3 * h + 5 * w + 11 * c) % 256).astype(np.uint8)


def mpi3d(
    root: Path, sizes: Sequence[int] = (4, 2, 2, 1, 3, 3, 2), variant: str = "toy", size: int = 8, packed: bool = False
) -> Path:
    """``mpi3d_<variant>.npz``: an image of every combination of factors of these sizes, compressed or as they are."""
    root.mkdir(parents=True, exist_ok=True)
    save = np.savez_compressed if packed else np.savez
    save(root / f"mpi3d_{variant}.npz", images=pattern(np.arange(np.prod(sizes)), size))
    return root


def combinations(sizes: Sequence[int]) -> np.ndarray:
    """All combinations of factors, the last one moving fastest: ``[N, F]`` int64."""
    return np.stack(np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij"), -1).reshape(-1, len(sizes))


def dsprites(root: Path, sizes: Sequence[int] = (1, 3, 2, 4, 3, 3), size: int = 8) -> Path:
    """The ``.npz`` of dSprites, with its keys and its pickled description; which pixel is white tells the number."""
    root.mkdir(parents=True, exist_ok=True)
    classes = combinations(sizes)
    image = np.zeros((len(classes), size, size), np.uint8)
    image.reshape(len(classes), -1)[np.arange(len(classes)), np.arange(len(classes)) % size**2] = 1
    np.savez_compressed(
        root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
        metadata=np.array({"title": "dSprites dataset"}, object),
        imgs=image,
        latents_classes=classes,
        latents_values=classes / np.array(sizes),
    )
    return root


def shapes3d(root: Path, sizes: Sequence[int] = (2, 2, 3, 2, 4, 3), size: int = 8) -> Path:
    """``3dshapes.npz``, with the two arrays of the published ``3dshapes.h5``."""
    root.mkdir(parents=True, exist_ok=True)
    classes = combinations(sizes)
    labels = classes * np.array([0.1, 0.1, 0.1, 0.07, 1, 4.3]) - np.array([0, 0, 0, -0.75, 0, 30])
    np.savez_compressed(root / "3dshapes.npz", images=pattern(np.arange(len(classes)), size), labels=labels)
    return root


def whitened(root: Path, shape: tuple[int, int, int] = (40, 48, 3)) -> Path:
    """``IMAGES.mat``: pictures ``[height, width, n]`` of float64, in which every pixel has another value."""
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    savemat(root / "IMAGES.mat", {"IMAGES": np.linspace(-2.5, 4, int(np.prod(shape))).reshape(shape)})
    return root


def as_published(model: BigAE | BigGAN) -> dict[str, Tensor]:
    """Our weights under the original's names."""
    names = {
        "encoder.fc.": "encoder.model.fc.sub_layers.0.",
        "encoder.": "encoder.model.",
        "classifier.": "decoder.map_to_class_embedding.main.",
    }
    start = "decoder.decoder." if isinstance(model, BigAE) else ""
    inner = {
        "norm0.batch": "HyperBN.bn",
        "norm1.batch": "HyperBN_1.bn",
        "norm0.scale": "HyperBN.gamma_embed",
        "norm1.scale": "HyperBN_1.gamma_embed",
        "norm0.shift": "HyperBN.beta_embed",
        "norm1.shift": "HyperBN_1.beta_embed",
        "conv0": "conv0",
        "conv1": "conv1",
        "skip": "conv_sc",
    }
    outer = {
        "embed_class": "linear",
        "generator.linear": "G_linear",
        "generator.image": "colorize",
        "generator.norm": "ScaledCrossReplicaBN",
        "generator.attention.query": "attention.theta",
        "generator.attention.key": "attention.phi",
        "generator.attention.value": "attention.g",
        "generator.attention.out": "attention.o_conv",
        "generator.attention": "attention",
    }
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        value = value.clone()
        if name := next((name for name in names if key.startswith(name)), None):
            key = names[name] + key.removeprefix(name)
            value = value[:, :, None, None] if key.endswith("fc.sub_layers.0.weight") else value
            if key.endswith((".loc", ".scale")):
                value = value[None, :, None, None]
            state[key] = value.byte() if key.endswith("initialized") else value
            continue
        layer, _, entry = key.rpartition(".")
        if layer.startswith("generator.blocks."):
            _, _, number, rest = layer.split(".", 3)
            theirs = f"GBlock.{number}.{inner[rest]}"
        else:
            theirs = outer[layer]
        if isinstance(model.get_submodule(layer), (SpectralConv2d, SpectralLinear)):
            entry = {"weight": "module.weight_bar", "u": "module.weight_u", "bias": "module.bias"}[entry]
            if entry.endswith("_u"):
                state[f"{start}{theirs}.module.weight_v"] = torch.randn_like(value)
        elif entry in ("loc", "scale"):
            value = value[None, :, None, None]
        state[f"{start}{theirs}.{'gamma' if entry == 'gain' else entry}"] = value
    return state


def weights(root: Path) -> Path:
    """Weights that the published configurations ask for, drawn at random: two small BigAEs and a ResNet-101.

    Those of AlexNet are where torchvision keeps them, if ``$TORCH_HOME`` is ``root``.
    """
    from torchvision.models import AlexNet_Weights, alexnet, resnet101

    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    for name in ("animals", "animalfaces"):
        model = BigAE(classes=6, hidden=12, width=4, layers=(1, 1, 1, 1))
        torch.save(as_published(model), root / f"bigae_{name}.ckpt")
    state = resnet101(num_classes=149).state_dict()
    torch.save({f"model.{key}": value for key, value in state.items()}, root / "resnet101_animalfaces_shared.ckpt")
    (root / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(alexnet().state_dict(), root / "hub" / "checkpoints" / AlexNet_Weights.DEFAULT.url.rpartition("/")[2])
    torch.random.set_rng_state(generator)
    return root
