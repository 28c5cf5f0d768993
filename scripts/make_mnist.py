"""Make the MNIST that ships in the package from the four IDX files.

    python scripts/make_mnist.py FOLDER

FOLDER holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain
or gzipped. Their content is checked, then written into ``iin/data``: ``mnist-train.xz`` and ``mnist-test.xz``, each
the file of images followed by the file of labels, byte for byte, as one LZMA stream; ``mnist.LICENSE.md`` says so.
The same content makes the same bytes each time (with the same liblzma; these were made with 5.4.1).

Why this layout: it was the smallest. Of 10,000 images, the plain order takes 1.355 MB; transposed images 1.372, rows
first 1.431, pixels first 1.577, a delta filter 1.619 (to the pixel before) or 1.765 (to the row above); other LZMA
literal and position bits move it by less than 1 %. Two files, because the test digits alone load five times faster.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import lzma
import sys
from pathlib import Path

# MD5 of the extracted files, as published; a gzipped copy differs with the program and the date that made it.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
PARTS = {
    "mnist-train.xz": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "mnist-test.xz": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

LICENSE = """# MNIST

`mnist-train.xz` and `mnist-test.xz` beside this file are the MNIST database of handwritten digits, whole: 60,000 and
10,000 images of 28x28 pixels with their labels.

- Authors: Yann LeCun (Courant Institute, NYU), Corinna Cortes (Google Labs, New York) and Christopher J. C. Burges
  (Microsoft Research, Redmond); a remix of NIST's Special Databases 1 and 3.
- Source: http://yann.lecun.com/exdb/mnist/
- Licence: Creative Commons Attribution-ShareAlike 3.0 (CC BY-SA 3.0), https://creativecommons.org/licenses/by-sa/3.0/.
  It holds for these two files; the program code around them has its own licence.
- Paper: Gradient-based learning applied to document recognition (LeCun, Bottou, Bengio and Haffner, Proceedings of the
  IEEE, 1998).

Changes: none to the content. Each file is the original file of images followed by the original file of labels, byte
for byte, compressed as one LZMA stream (`xz -dc mnist-test.xz` gives them back) by `scripts/make_mnist.py`.

| original, extracted | MD5 |
|---|---|
{originals}

| file | SHA-256 |
|---|---|
{made}
"""


def content(folder: Path, name: str) -> bytes:
    """Read one original, plain or gzipped, and check it."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        sys.exit(f"{folder}: expected {name} or {name}.gz in this folder")
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            sys.exit(f"{path}: damaged gzip file ({error})")
    found = hashlib.md5(data).hexdigest()
    if found != MD5[name]:
        sys.exit(f"{path}: MD5 of its content is {found}, expected {MD5[name]}")
    return data


def main() -> None:
    """Write the two files and the licence."""
    parser = argparse.ArgumentParser(description="Make the MNIST that ships in the package.")
    parser.add_argument("folder", type=Path, help="holds the four IDX files, plain or gzipped")
    default = Path(__file__).resolve().parent.parent / "iin" / "data"
    parser.add_argument("--out", type=Path, default=default, help="folder to write into (default: iin/data)")
    arguments = parser.parse_args()

    made = {}
    for target, names in PARTS.items():
        data = b"".join(content(arguments.folder, name) for name in names)
        packed = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=9 | lzma.PRESET_EXTREME)
        (arguments.out / target).write_bytes(packed)
        made[target] = hashlib.sha256(packed).hexdigest()
        print(f"{arguments.out / target}: {len(packed):,} bytes")
    table = {
        "originals": "\n".join(f"| {name} | `{digest}` |" for name, digest in MD5.items()),
        "made": "\n".join(f"| {name} | `{digest}` |" for name, digest in made.items()),
    }
    (arguments.out / "mnist.LICENSE.md").write_text(LICENSE.format(**table), encoding="utf-8")


if __name__ == "__main__":
    main()
