"""Import paths to objects, and nodes of a configuration to what they stand for."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from iin.config.reading import ConfigError, nearest

__all__ = ["PACKAGES", "build", "is_node", "packages", "resolve", "trust"]

PACKAGES = ("iin", "torch.nn", "torchvision.models")
"""Where targets may come from without being allowed on the command line."""

_BUILDABLE = (
    "iin.compat.jacobian",
    "iin.data",
    "iin.first_stage",
    "iin.flows",
    "iin.losses",
    "iin.metrics",
    "iin.models",
    "iin.systems",
)
"""Of this package, what configurations build. All else reads configurations, writes runs or fetches files, and a target
there could allow itself any package, or write where it likes."""

_TOOLS = ("iin.data.sources", "iin.data.decoding", "iin.data.decoded")
"""Modules in between that fetch and read files for others."""

_trusted: dict[str, Callable[..., Any]] = {}
"""Targets of the configurations that were checked in this process, those from allowed packages among them."""


def resolve(target: str, allow: Iterable[str] = ()) -> Callable[..., Any]:
    """Find the object that an import path names.

    A path outside the allowed packages is refused before anything is imported, and an object that is defined
    elsewhere is refused even if an allowed package lets one reach it. This keeps a configuration from naming
    ``os.system``; it is a guard, not a sandbox, and packages that are allowed run their code.

    Args:
        target: such as ``iin.data.MNIST``.
        allow: packages beside `PACKAGES`.

    Raises:
        ConfigError: the path is refused, leads nowhere, or the object cannot be called; one line.
    """
    allowed = packages(allow)
    if not isinstance(target, str) or "." not in target or not _is_public(target):
        raise ConfigError(f"target {target!r}: expected an import path of public names, such as iin.data.MNIST")
    if not _inside(target, allowed) and target not in allowed:
        raise ConfigError(_outside(f"target {target}", target, allowed))
    first, *rest = target.split(".")
    found: Any = _import(first, target)
    for end, part in enumerate(rest, 2):
        found = _step(found, part, target)
        prefix = ".".join([first, *rest][:end])
        if isinstance(found, ModuleType) and found.__name__ != prefix and not _inside(found.__name__ + ".", allowed):
            raise ConfigError(_outside(f"target {target}: module {found.__name__}", found.__name__, allowed))
    if isinstance(found, ModuleType) or not callable(found):
        kind = "module" if isinstance(found, ModuleType) else type(found).__name__
        raise ConfigError(f"target {target}: cannot be called, it is a {kind}; expected a class or function")
    home = getattr(found, "__module__", None)
    if not isinstance(home, str) or not _inside(home + ".", allowed):
        raise ConfigError(_outside(f"target {target}: it is defined in {home}, which", str(home), allowed))
    ours = _inside(home + ".", ("iin",))
    if ours and (not _inside(home + ".", _BUILDABLE) or _inside(home + ".", _TOOLS) or "." in found.__qualname__):
        raise ConfigError(
            f"target {target}: is of the machinery, not something to build; expected a class or function of "
            f"{', '.join(_BUILDABLE)}"
        )
    return found


def packages(allow: Iterable[str]) -> tuple[str, ...]:
    """Packages that targets may come from.

    Raises:
        ConfigError: one of ``allow`` is not the name of a package that can be imported.
    """
    names = [allow] if isinstance(allow, str) else list(allow)
    mistakes = []
    for name in names:
        if not isinstance(name, str) or not _is_public(name):
            mistakes.append(f"--allow {name}: expected the name of a package, such as timm")
        elif not _installed(name.split(".")[0]):
            mistakes.append(f"--allow {name}: no module {name} in the current folder ({Path.cwd()}) and none installed")
    if mistakes:
        raise ConfigError(mistakes)
    return (*PACKAGES, *names)


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None  # looks, does not import
    except (ImportError, ValueError):
        return False


def _is_public(path: str) -> bool:
    return all(re.fullmatch(r"[^\W_]\w*", part) and part.isidentifier() for part in path.split("."))


def _inside(path: str, allowed: Sequence[str]) -> bool:
    return any(path.startswith(f"{package}.") for package in allowed)


def _outside(what: str, path: str, allowed: Sequence[str]) -> str:
    package = path.split(".")[0]
    return (
        f"{what} lies outside {', '.join(allowed)}; if you trust package {package} to run its code, "
        f"allow it with --allow {package}, or allow=[{package!r}] in Python"
    )


def _import(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the code of a module does
        raise ConfigError(f"target {target}: importing {name} failed ({type(error).__name__}: {error})") from error


def _step(parent: Any, part: str, target: str) -> Any:
    try:
        return getattr(parent, part)
    except AttributeError:
        pass
    except Exception as error:  # a module that imports its parts when asked for them
        raise ConfigError(f"target {target}: importing {part} failed ({type(error).__name__}: {error})") from error
    submodules = {module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", []))}
    if part in submodules:
        return _import(f"{parent.__name__}.{part}", target)
    names = getattr(parent, "__all__", None) or dir(parent)
    known = {name for name in (*names, *submodules) if not name.startswith("_")}
    where = getattr(parent, "__name__", type(parent).__name__)
    raise ConfigError(f"target {target}: there is no {part} in {where}; {nearest(part, known)}")


# --- building -----------------------------------------------------------------------


def is_node(value: Any) -> bool:
    """Whether a value is to be built: a mapping with a ``target``."""
    return isinstance(value, dict) and "target" in value


def trust(targets: dict[str, Callable[..., Any]]) -> None:
    """Remember targets of a configuration that passed its check, with what was allowed then."""
    _trusted.update(targets)


def build(node: Any, /, **extra: Any) -> Any:
    """Build what a node of a configuration stands for, innermost first.

    A mapping with ``target`` is called with its ``params``; all else stays data, and is copied.

    Args:
        node: a node, or data with nodes in it.
        extra: further keyword arguments of the outermost target.

    Raises:
        ConfigError: a target is refused. Targets outside the usual packages must have passed `check`.
    """
    if is_node(node):
        target = node["target"]
        params = {key: build(value) for key, value in (node.get("params") or {}).items()}
        found = _trusted.get(target) if isinstance(target, str) else None
        return (found or resolve(target))(**{**params, **extra})
    if extra:
        raise ConfigError(f"nothing to build with {', '.join(extra)}: expected a mapping with target")
    if isinstance(node, dict):
        return {key: build(value) for key, value in node.items()}
    if isinstance(node, list):
        return [build(value) for value in node]
    return node
