"""Write the statistics of real images that FID and KID compare with, to be used again or passed on.

    python scripts/fid_stats.py -b mnist_iin -o mnist.npz                          # the test images of a configuration
    python scripts/fid_stats.py -b celeba_iin --split train -o celeba.npz          # its training images
    python scripts/fid_stats.py --pictures faces/ --extractor inception -o faces.npz

    iin-eval -p logs/<run> evaluate=fid evaluate.fid.params.statistics=mnist.npz

The file has `mu` and `sigma`, as published statistics have, and beside them the number of images, the extractor and the
features (for KID; --no-features leaves them out). A configuration's FID says which extractor it is; --extractor decides
otherwise. Pictures are taken as they are where all are squares of one size; --size resizes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from iin.cli.common import add_common, run_command

FID = "iin.metrics.FID"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="\n".join(__doc__.splitlines()[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("-b", "--base", nargs="+", metavar="CONFIG", help="configuration whose data are looked at")
    images.add_argument("--pictures", metavar="DIR", type=Path, help="a folder of pictures, with its sub-folders")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.npz", type=Path, help="where to write")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="of the data (default: test)")
    parser.add_argument(
        "--size", type=_count, metavar="N", help="cut squares from pictures, and resize them to N pixels"
    )
    parser.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="pictures that cannot be used (default: raise)"
    )
    parser.add_argument("--images", type=_count, metavar="N", help="look at the first N images only")
    parser.add_argument("--extractor", choices=("digits", "inception"), help="default: the configuration's; inception")
    parser.add_argument("--weights", metavar="FILE", help="of Inception; by default looked for in the caches")
    parser.add_argument("--download", action="store_true", default=None, help="fetch them where they are nowhere")
    parser.add_argument("--no-features", action="store_true", help="a smaller file, good for FID alone")
    add_common(parser)
    arguments = parser.parse_intermixed_args(argv)
    return run_command(lambda: write(arguments), arguments, __name__, ())


def write(arguments: argparse.Namespace) -> None:
    """Look at the images, and write the file."""
    import torch

    from iin import config as configuration
    from iin.config import ConfigError

    output: Path = arguments.output
    if output.suffix != ".npz" or not output.parent.is_dir():
        raise ConfigError(f"--output: expected FILE.npz in a folder that exists, found {output}")
    if arguments.base is None and (arguments.overrides or arguments.split != "test"):
        raise ConfigError("--pictures: there is no configuration, so there is no setting to change and no split")
    if arguments.base is not None and arguments.size is not None:
        raise ConfigError("--size: the configuration says how large images are; change data.<split>.params there")
    tree, device = {}, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.base is not None:
        tree, device, batches, count, source = _of_configuration(arguments)
    else:
        batches, count, source = _of_pictures(arguments.pictures, arguments.size, arguments.on_error, device)
    # As the configuration has it, but for what is asked for; it cannot be compared with a file while that is written.
    node = _distance(tree)
    changes = {name: getattr(arguments, name) for name in ("extractor", "weights", "download")}
    node["params"] |= {name: value for name, value in changes.items() if value is not None}
    node["params"] |= {"images": arguments.images or count, "statistics": None}
    node["params"] |= {"kid_subsets": 0} if arguments.no_features else {"kid_subsets": 100}
    metric = configuration.build(node)
    summary = metric.measure(batches, device, source)
    summary.save(output)
    features = "" if summary.features is None else ", and the features themselves"
    print(
        f"{output}: {summary.images} images ({source}), extractor {metric.name}: mu, sigma of {summary.dim}{features}"
    )


def _of_configuration(arguments: argparse.Namespace) -> tuple[dict[str, Any], Any, Iterable[Any], int, str]:
    """Configuration, device, batches, their number of images, and what they are."""
    from iin import config as configuration
    from iin.building import datasets, device_of, source, test_set
    from iin.config import Training
    from iin.data.base import length
    from iin.plan import resolve_paths

    config = configuration.load(arguments.base, arguments.overrides)
    configuration.check(config, allow=arguments.allow)
    tree = config.tree
    for section in ("data", "evaluate"):
        resolve_paths(tree.get(section), config, section, arguments.allow)
    settings = Training(**tree.get("train", {}))
    (data,) = datasets(tree, arguments.split)
    batches = test_set(data, settings, tree.get("seed", 0))
    return tree, device_of(settings), batches, length(data), f"{tree['name']}, data.{arguments.split}: {source(data)}"


def _of_pictures(folder: Path, size: int | None, on_error: Any, device: Any) -> tuple[Iterable[Any], int, str]:
    """Batches of a folder's pictures, their number of images, and what they are."""
    from PIL import Image

    from iin.data import ImageFolder, Loader
    from iin.data.folder import Selection
    from iin.evaluation import TestSet

    if size is None:
        # The reader wants one size, and would cut and resize what has another: that shall not go unnoticed.
        sizes = set()
        for name in Selection(folder, 1).names:
            with contextlib.suppress(OSError), Image.open(folder / name) as picture:  # the reader names damaged ones
                sizes.add(picture.size)
        if len(sizes) > 1 or any(width != height for width, height in sizes):
            found = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:3])
            more = f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""
            raise ValueError(f"{folder}: pictures of {found}{more} pixels; say with --size N which squares to make")
        size = min(sizes, default=(1, 1))[0]
    data = ImageFolder(folder, size, split="all", dequantise=False, on_error=on_error)
    return TestSet(Loader(data, 250), device, fingerprint=data.fingerprint), len(data), str(folder)


def _distance(tree: dict[str, Any]) -> dict[str, Any]:
    """The configuration's first FID, else one of Inception."""
    for node in tree.get("evaluate", {}).values():
        if node.get("target") == FID:
            return {"target": FID, "params": copy.deepcopy(node.get("params") or {})}
    return {"target": FID, "params": {"extractor": "inception"}}


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
