"""Configurations: YAML in, checked and built objects out.

A configuration names callables and their arguments (``target`` and ``params``), and nothing below this package ever
sees one. `load` reads and merges files and overrides, `check` lists every mistake before anything is built, `build`
makes the objects. Importing this package is cheap: targets are imported by `check` and `build` alone.

::

    config = load(["mnist_diin"], ["train.steps=100"], quick=True)
    check(config)
    system = build(config.tree["system"])
"""

from iin.config.checking import check
from iin.config.files import find, resolve_path, shipped
from iin.config.loading import Config, load
from iin.config.reading import ConfigError, digest, dump
from iin.config.schema import VERSION, Training
from iin.config.targets import build, resolve

__all__ = [
    "VERSION",
    "Config",
    "ConfigError",
    "Training",
    "build",
    "check",
    "digest",
    "dump",
    "find",
    "load",
    "resolve",
    "resolve_path",
    "shipped",
]
