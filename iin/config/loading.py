"""Files and overrides to one tree, which remembers where each key came from."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from iin.config.files import find
from iin.config.reading import ConfigError, Malformed, nearest, parse, read, show_path
from iin.config.schema import EMPTY_SECTIONS
from iin.config.targets import is_node

__all__ = ["Config", "Layer", "Source", "Tree", "load", "show_key"]

Key = tuple["str | int", ...]


class Source(NamedTuple):
    """Who set a key."""

    file: Path | None
    """None: the command line."""
    quick: bool = False
    """In the file's section ``quick``."""

    def __str__(self) -> str:
        return show_path(self.file) if self.file else "command line"


class Layer(NamedTuple):
    """A file: what it says, and what it says of quick runs."""

    file: Path
    tree: dict[str, Any]
    quick: Any


class Tree:
    """A tree that others are merged into, with the source of each key."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self._sources: dict[Key, Source] = {}

    def merge(self, update: Mapping[str, Any], source: Source) -> None:
        """Merge deeply; lists and scalars replace, and so does a mapping with another ``target``."""
        self._merge(self.data, update, (), source)

    def _merge(self, into: dict[str, Any], update: Mapping[str, Any], path: Key, source: Source) -> None:
        for key, value in update.items():
            here, old = (*path, key), into.get(key)
            replaces = key != "params" and _replaces(old, value)  # arguments are no node, even one called target
            if isinstance(old, dict) and isinstance(value, Mapping) and not replaces:
                self._merge(old, value, here, source)
                continue
            if key in into:
                self._sources = {known: by for known, by in self._sources.items() if known[: len(here)] != here}
            into[key] = copy.deepcopy(value)
            self._record(here, value, source)

    def _record(self, path: Key, value: Any, source: Source) -> None:
        self._sources[path] = source
        if isinstance(value, Mapping):
            for key, child in value.items():
                self._record((*path, key), child, source)

    def leave_out(self) -> None:
        """Drop entries of ``evaluate`` that are null: what is not to be measured after all."""
        entries = self.data.get("evaluate")
        if isinstance(entries, dict):
            self.data["evaluate"] = {name: node for name, node in entries.items() if node is not None}

    def source(self, path: Key) -> Source | None:
        """Who set a key; for one that nobody set, who set the mapping or list that it would be in."""
        for end in range(len(path), 0, -1):
            if path[:end] in self._sources:
                return self._sources[path[:end]]
        return None


def _replaces(old: Any, new: Any) -> bool:
    return is_node(old) and is_node(new) and old["target"] != new["target"]


class Config:
    """A merged configuration. It does not change: ``tree`` is a copy each time.

    Args:
        tree: plain data, without a section ``quick``.
        files: absolute paths that it came from.
    """

    def __init__(self, tree: Mapping[str, Any], files: Iterable[Path] = ()) -> None:
        self._files = list(files)
        self._merged = Tree()
        if self._files:
            self._merged.merge(tree, Source(self._files[-1]))
        else:  # made in memory: nobody to name as the source
            self._merged.data = copy.deepcopy(dict(tree))
        self._layers: list[Layer] = []
        self._quick = False

    @classmethod
    def _of(cls, merged: Tree, layers: list[Layer], quick: bool) -> Config:
        config = cls({}, [layer.file for layer in layers])
        config._merged, config._layers, config._quick = merged, layers, quick
        return config

    @property
    def tree(self) -> dict[str, Any]:
        """The merged configuration as plain data, ``quick`` merged or left out."""
        return copy.deepcopy(self._merged.data)

    @property
    def files(self) -> list[Path]:
        """Absolute paths of the files that it came from, in the order of merging."""
        return list(self._files)

    @property
    def can_be_quick(self) -> bool:
        """Whether any of its files has a section ``quick``, merged or not."""
        return any(layer.quick for layer in self._layers)

    def where(self, path: str) -> Path | None:
        """The file that set a key, such as ``system.params.flow``; None for an override.

        For a key that nobody set, or an element of a list, the file that set what it is in; None if nobody did.
        """
        source = self._merged.source(tuple(re.sub(r"\[\d+\]", "", path).split(".")))
        return source.file if source else None

    def __repr__(self) -> str:
        return f"Config({self._merged.data.get('name')!r}, {[str(path) for path in self._files]})"


def load(
    names: Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    quick: bool = False,
    search: Sequence[Path] = (),
) -> Config:
    """Read configuration files and merge them: all files left to right, then overrides.

    Mappings merge deeply, with one exception: where a file names another ``target``, its mapping replaces the former
    one, ``params`` and all. Lists replace. Nothing is imported, and names and types are not looked at yet: that is
    left to `iin.config.check`.

    Args:
        names: paths, or names of shipped configurations; see `find`.
        overrides: ``key.sub=value``, the value in YAML's spelling. ``evaluate=a,b`` selects entries of ``evaluate``,
            ``evaluate=none`` leaves all out, ``evaluate.a=null`` one.
        quick: merge the sections ``quick`` of the files, in the same order, after the files and before the overrides.
        search: further folders to look for files in.

    Raises:
        ConfigError: files or overrides that cannot be read or applied; all such mistakes, and when the files
            themselves are sound, those that `check` would find.
    """
    if not names:
        raise ConfigError("no configuration given; name a file or a shipped configuration with -b")
    layers, mistakes = _read_all(names, search)
    given, selection = _parse_overrides(overrides, mistakes)
    if len(layers) < len(names):
        raise ConfigError(mistakes)
    merged = combine(layers, quick=quick)
    changes = _fitting(given, merged.data, mistakes)
    merged.merge(changes, Source(None))
    merged.leave_out()
    if selection is not None:
        _select(merged, selection, mistakes)
    config = Config._of(merged, layers, quick)
    if mistakes:
        from iin.config.checking import mistakes_of  # only now: it needs what this module defines

        raise ConfigError(mistakes + mistakes_of(config))
    return config


def combine(layers: Sequence[Layer], *, quick: bool) -> Tree:
    """Merge files, and then their sections ``quick`` if asked to."""
    merged = Tree()
    for layer in layers:
        merged.merge(layer.tree, Source(layer.file))
    for layer in layers if quick else ():
        if isinstance(layer.quick, dict):
            merged.merge(layer.quick, Source(layer.file, quick=True))
    merged.leave_out()
    return merged


def _read_all(names: Sequence[str | Path], search: Sequence[Path]) -> tuple[list[Layer], list[str]]:
    layers, mistakes = [], []
    for name in names:
        try:
            path = find(name, search=search)
            tree = _without_empty(read(path))
        except ConfigError as error:
            mistakes += error.mistakes
            continue
        quick = tree.pop("quick", {})
        layers.append(Layer(path, tree, _without_empty(quick) if isinstance(quick, dict) else quick))
    return layers, mistakes


def _without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if value is not None or key not in EMPTY_SECTIONS}


# --- overrides -----------------------------------------------------------------------


@dataclass
class _Override:
    path: tuple[str, ...]
    value: Any


def _parse_overrides(texts: Sequence[str], mistakes: list[str]) -> tuple[list[_Override], list[str] | None]:
    """Overrides, and the entries of ``evaluate`` that are selected, if they are."""
    overrides: list[_Override] = []
    selection: list[str] | None = None
    seen: set[tuple[str, ...]] = set()
    for text in texts:
        key, equals, spelling = text.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(re.fullmatch(r"[^\s.=]+", part) for part in path):
            mistakes.append(f"{text or repr(text)}: expected key.sub=value (command line)")
            continue
        if path in seen:
            mistakes.append(f"{key}: set twice (command line)")
            continue
        seen.add(path)
        if path[0] == "quick":
            rest = ".".join(path[1:]) or "train.steps"
            mistakes.append(f"{key}: cannot be set; set the key itself ({rest}=...), it wins over quick (command line)")
            continue
        try:
            value = parse(spelling)
        except Malformed as error:
            mistakes.append(f"{key}: {error} in {text} (command line)")
            continue
        if path == ("evaluate",) and not isinstance(value, dict):
            selection = _selected(value, mistakes)
        else:
            overrides.append(_Override(path, value))
    return overrides, selection


def _selected(value: Any, mistakes: list[str]) -> list[str] | None:
    if value is None or value == "none":
        return []
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        mistakes.append("evaluate: expected names of entries, such as evaluate=dims,swaps, or none (command line)")
        return None
    return names


def _select(merged: Tree, selection: list[str], mistakes: list[str]) -> None:
    entries = merged.data.get("evaluate", {})
    if not isinstance(entries, dict):
        return  # which is a mistake of the file, and reported as such
    for name in selection:
        if name not in entries:
            mistakes.append(f"evaluate: no entry {name}; {nearest(name, entries)} (command line)")
    merged.data["evaluate"] = {name: node for name, node in entries.items() if name in selection}


def _fitting(overrides: Sequence[_Override], tree: Mapping[str, Any], mistakes: list[str]) -> dict[str, Any]:
    """One tree of all overrides, so that their order does not matter; those that fit nowhere are mistakes."""
    changes: dict[str, Any] = {}
    for path, value in ((override.path, override.value) for override in overrides):
        problem = _misfit(path, tree) or _join(changes, path, value)
        if problem:
            mistakes.append(f"{problem} (command line)")
    return changes


def _misfit(path: tuple[str, ...], tree: Mapping[str, Any]) -> str | None:
    """What is wrong with setting a key, as far as the files tell; the rest is for `check`."""
    value: Any = tree
    for end, key in enumerate(path):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            kind = "a list; set it as a whole" if isinstance(value, list) else "a single value"
            return f"{show_key(path)}: there is no such key, {show_key(path[:end])} is {kind}"
        if key not in value:
            return _unknown_datum(path, end, value)
        value = value[key]
    return None


def _unknown_datum(path: tuple[str, ...], end: int, mapping: Mapping[str, Any]) -> str | None:
    """A new key in a mapping that is data for a target: only the files can know such keys."""
    inside = path[0] in ("data", "system", "evaluate") and "params" in path[: end - 1]
    is_params = path[end - 1] == "params"  # its keys are arguments
    is_node = path[end] in ("target", "params")
    if not inside or is_params or is_node or "target" in mapping:
        return None
    return f"{show_key(path[: end + 1])}: unknown key; {nearest(path[end], mapping)}"


def _join(changes: dict[str, Any], path: tuple[str, ...], value: Any) -> str | None:
    """Enter a value into the tree of changes; nothing may be set twice there."""
    for end, key in enumerate(path[:-1], 1):
        changes = changes.setdefault(key, {})
        if not isinstance(changes, dict):
            return f"{show_key(path)}: {show_key(path[:end])} is set as a whole already"
    return _put(changes, path[-1], value, path)


def _put(changes: dict[str, Any], key: str, value: Any, path: tuple[str, ...]) -> str | None:
    if key not in changes:
        changes[key] = copy.deepcopy(value)
        return None
    if not isinstance(changes[key], dict) or not isinstance(value, dict):
        return f"{show_key(path)}: set twice"
    problems = [_put(changes[key], child, value[child], (*path, child)) for child in value]
    return next((problem for problem in problems if problem), None)


def show_key(path: Iterable[str | int]) -> str:
    """A key as it is written: ``system.params.factors[1]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
