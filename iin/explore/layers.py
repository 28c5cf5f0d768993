"""The layers of a network, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from iin import config as configuration
from iin.config import Config
from iin.config.targets import is_node
from iin.explore.files import open_data
from iin.models.representation import Layer, Row, describe, is_spelt

__all__ = ["layers_of_config", "layers_of_network", "table"]


def layers_of_network(network: str, size: int, channels: int, *, allow: Sequence[str] = ()) -> list[Row]:
    """List the layers of a network that a text names.

    Args:
        network: ``torchvision:NAME``, ``timm:NAME``, a file of TorchScript or ``torch.export``, or the import path of a
            class or function that makes one without arguments.
        size: height and width of the images.
        channels: of the images.
        allow: packages beyond the program's own that an import path may lead to.

    Raises:
        ConfigError, ValueError: there is no such network, or it does not take such images.
    """
    try:
        return describe(_made(network, allow), size, channels)
    except ValueError as error:
        if "preprocess changes size and channels" not in str(error):
            raise
        what = str(error).replace("preprocess changes size and channels", "")
        raise ValueError(f"{what}--size and --channels say which images it is shown") from error


def layers_of_config(
    config: Config, size: int | None = None, channels: int | None = None, *, allow: Sequence[str] = ()
) -> list[Row]:
    """List the layers of the network whose layer a configuration takes for its representation.

    Args:
        config: as `iin.config.load` returns it.
        size: height and width of the images; None for those of the configuration's training data.
        channels: of the images; likewise.
        allow: packages beyond the program's own that targets may come from.

    Raises:
        ConfigError: the configuration is not sound.
        ValueError: it has no representation.
    """
    configuration.check(config, allow=allow)
    node = next(_representations(config.tree.get("system"), allow), None)
    if node is None:
        raise ValueError(f"{config.tree.get('name')}: no representation; expected a node with target iin.models.Layer")
    height = width = size or 0
    if size is None or channels is None:
        image = open_data(config, "train", allow=allow)[1][[0]].image
        channels = channels or image.shape[1]
        height, width = (size, size) if size else image.shape[2:]
    return describe(configuration.build(node), (height, width), channels)


def table(rows: Sequence[Row]) -> str:
    """One line for each layer: path, type, shape of one image's representation, and what is odd."""
    cells = [("layer", "type", "output", "")]
    cells += [(row.path, row.type, " x ".join(map(str, row.shape)) if row.shape else "-", row.note) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return "\n".join("  ".join((*map(str.ljust, line[:3], widths), line[3])).rstrip() for line in cells)


def _made(network: str, allow: Sequence[str]) -> Any:
    if is_spelt(network):
        return network
    if network.endswith(".py"):
        raise ValueError(
            f"{network}: a file of source is no network; name what it defines, such as "
            f"{network.removesuffix('.py').replace('/', '.').strip('.')}.Net"
        )
    target = configuration.resolve(network, allow)
    try:
        made = target()
    except TypeError as error:
        raise ValueError(
            f"{network}: cannot be made without arguments ({error}); name a function that gives them"
        ) from error
    return made.eval() if isinstance(made, nn.Module) else made


def _representations(node: Any, allow: Sequence[str]) -> Iterator[Any]:
    if is_node(node) and configuration.resolve(node["target"], allow) is Layer:
        yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _representations(child, allow)
