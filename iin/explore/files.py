"""From a configuration to the data set, and from what was found to a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iin import config as configuration
from iin.building import datasets
from iin.config import Config
from iin.config.schema import NAME
from iin.explore.content import Content
from iin.explore.drawing import picture
from iin.explore.page import render
from iin.files import write_atomically
from iin.plan import resolve_paths

__all__ = ["check_path", "open_data", "save"]


def open_data(config: Config, split: str, *, allow: Sequence[str] = ()) -> tuple[str, Any, str]:
    """Build one data set of a configuration.

    A configuration that describes data and nothing else will do here: a name and a system are not asked for.

    Args:
        config: as `iin.config.load` returns it.
        split: ``train`` or ``test``.
        allow: packages beyond the program's own that targets may come from.

    Returns:
        The configuration's name, the data set, and its section ``data`` as YAML.

    Raises:
        ConfigError: with all mistakes at once, or because files are missing.
    """
    tree = config.tree
    if "name" not in tree or "system" not in tree:
        stem = config.files[0].stem if config.files else ""
        name = stem if NAME.fullmatch(stem) else "data"
        config = Config({"name": name, "system": {"target": "torch.nn.Identity"}, **tree}, config.files)
        tree = config.tree
    configuration.check(config, allow=allow)
    text = configuration.dump({"data": tree["data"]})
    resolve_paths(tree["data"], config, "data", allow)
    (data,) = datasets(tree, split)
    return str(tree["name"]), data, text


def check_path(path: Path) -> Path:
    """See that a page or picture can be saved there, before the work is done.

    Raises:
        ValueError: the suffix is neither ``.html`` nor ``.png``.
        OSError: there is no such folder, or a folder has this name already.
    """
    if path.suffix.lower() not in (".html", ".png"):
        raise ValueError(f"{path}: pages are saved as .html and pictures as .png; found {path.suffix or 'no suffix'!r}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file")
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path}: there is no folder {path.parent}; make it first")
    return path


def save(content: Content, path: Path) -> Path:
    """Write the page (``.html``) or the picture (``.png``); a file that was there stays until the new one is whole.

    Raises:
        ValueError, OSError: see `check_path`; or it cannot be written.
    """
    check_path(path)
    if path.suffix.lower() == ".html":
        written = render(content).encode("utf-8", "replace")
    else:
        file = io.BytesIO()
        picture(content).save(file, format="PNG")
        written = file.getvalue()
    try:
        with write_atomically(path) as target:
            target.write(written)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path
