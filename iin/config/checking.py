"""Every mistake of a configuration at once, before anything is built."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from iin.config import schema
from iin.config.hints import hints_of, mismatches, show
from iin.config.loading import Config, Source, Tree, combine, show_key
from iin.config.reading import ConfigError, nearest
from iin.config.targets import is_node, packages, resolve, trust

__all__ = ["check", "mistakes_of"]

Key = tuple["str | int", ...]


def check(config: Config, *, allow: Sequence[str] = ()) -> None:
    """Compare a configuration with the schema and with the signatures of its targets.

    Targets are imported, nothing is built. Arguments are checked by name, and by the type hints and ranges of the
    target's signature (``Count``, ``Fraction``, ``Literal["train", "test"]`` ...; see `iin.arguments`). A class or
    function may know better about several arguments at once: its ``check``, a static method or an attribute, is
    called with the arguments as they stand in the configuration, nested nodes as plain mappings, and yields
    mistakes, each in words. One that begins with ``name:`` is taken to be about that argument.

    The sections ``quick`` are checked as well, even where they are not merged.

    Args:
        config: what `load` answers.
        allow: packages that targets may come from, beside those of `iin.config.targets.PACKAGES`.

    Raises:
        ConfigError: all mistakes, in the order of the files.
    """
    packages(allow)  # refuses names of no package
    mistakes = mistakes_of(config, allow)
    if mistakes:
        raise ConfigError(mistakes)


def mistakes_of(config: Config, allow: Iterable[str] | None = None) -> list[str]:
    """What `check` raises, as a list; with ``allow`` None, targets outside the usual packages are passed over."""
    version = config._merged.data.get("version", schema.VERSION)
    if version != schema.VERSION or isinstance(version, bool):
        place = _place(config, config._merged, ("version",))
        return [f"version: this iin reads configurations of version {schema.VERSION}, found {show(version)}{place}"]
    checker = _Checker(config, config._merged, allow)
    checker.top()
    mistakes = [text for _, text in checker.mistakes]
    # What a quick run would be is judged file by file: a later file may replace what an earlier one made quick.
    for end, layer in enumerate(config._layers if not config._quick else (), 1):
        tree = combine(config._layers[:end], quick=False)
        if isinstance(layer.quick, dict):
            tree.merge(layer.quick, Source(layer.file, quick=True))
            tree.leave_out()
        quick = _Checker(config, tree, allow)
        quick.top()
        mistakes += [text for source, text in quick.mistakes if source is not None and source.quick]
    for layer in config._layers:
        if not isinstance(layer.quick, dict):
            mistakes.append(f"quick: expected a mapping, found {show(layer.quick)} ({Source(layer.file)})")
    if not mistakes:
        trust(checker.targets)
    return list(dict.fromkeys(mistakes))


def _place(config: Config, tree: Tree, path: Key) -> str:
    source = tree.source(path)
    places = [str(source)] if source else [str(Source(file)) for file in config.files]
    return f" ({', '.join(places)})" if places else ""


class _Checker:
    """Walks one merged tree and collects mistakes."""

    def __init__(self, config: Config, tree: Tree, allow: Iterable[str] | None) -> None:
        self.config = config
        self.tree = tree
        self.allow = allow
        self.mistakes: list[tuple[Source | None, str]] = []
        self.targets: dict[str, Callable[..., Any]] = {}
        self._refused: dict[str, str] = {}

    def report(self, path: Key, words: str) -> None:
        source = self.tree.source(path)
        prefix = "quick." if source is not None and source.quick else ""
        self.mistakes.append((source, f"{prefix}{show_key(path)}: {words}{_place(self.config, self.tree, path)}"))

    def typed(self, path: Key, hint: Any, value: Any) -> None:
        """Report where a value does not fit a hint."""
        for where, words in mismatches(hint, value, self.target_of, path):
            self.report(where, words)

    def keys(self, path: Key, mapping: Mapping[str, Any], known: Iterable[str]) -> None:
        """Report keys that are not known."""
        known = list(known)
        for key in mapping:
            if key not in known:
                self.report((*path, key), f"unknown key; {nearest(key, known)}")

    # --- the framework's own keys -----------------------------------------------------------------------

    def top(self) -> None:
        data = self.tree.data
        for key, value in data.items():
            if key == "quick":
                self.report((key,), "a section quick has no place here")
            elif key not in schema.KEYS:
                self.report((key,), f"unknown key; {nearest(key, schema.KEYS)}")
            else:
                section = getattr(self, f"_{key}", None)
                if section is not None:
                    section(value)
                elif key in schema.SCALARS:
                    self.typed((key,), schema.SCALARS[key], value)
        for key in schema.REQUIRED:
            if key not in data:
                self.report((key,), "missing; every configuration needs it")

    def mapping(self, key: str, value: Any) -> bool:
        if not isinstance(value, dict):
            self.report((key,), f"expected a mapping, found {show(value)}")
        return isinstance(value, dict)

    def _name(self, value: Any) -> None:
        if not isinstance(value, str):
            self.typed(("name",), str, value)
        elif not schema.NAME.fullmatch(value):
            expected = "expected letters, digits, . _ - (at most 100, not . or - first), as it names a folder"
            self.report(("name",), f"{expected}; found {show(value)}")

    def _data(self, value: Any) -> None:
        if self.mapping("data", value):
            self.keys(("data",), value, ("train", "test"))
            for key in ("train", "test"):
                if key in value:
                    self.node(("data", key), value[key])
                else:
                    self.report(("data", key), "missing; every configuration needs it")

    def _system(self, value: Any) -> None:
        self.node(("system",), value)

    def _train(self, value: Any) -> None:
        if self.mapping("train", value):
            self.arguments(("train",), schema.Training, value, "train")

    def _evaluate(self, value: Any) -> None:
        if not self.mapping("evaluate", value):
            return
        for name, node in value.items():
            source = self.tree.source(("evaluate", name))
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                self.report(("evaluate", name), "names of entries are made of letters, digits, _ and -")
            elif source is not None and source.file is None and not is_node(node):
                others = [other for other in value if other != name]
                known = nearest(name, others) if others else "give it a target and params to add it"
                self.report(("evaluate", name), f"no such entry; {known}")
            else:
                self.node(("evaluate", name), node)

    def _wandb(self, value: Any) -> None:
        if self.mapping("wandb", value):
            self.keys(("wandb",), value, schema.WANDB)
            for key, hint in schema.WANDB.items():
                if key in value:
                    self.typed(("wandb", key), hint, value[key])

    # --- nodes -----------------------------------------------------------------------

    def node(self, path: Key, node: Any) -> None:
        """Check a mapping that must have a target."""
        if not isinstance(node, dict):
            self.report(path, f"expected a mapping with target and params, found {show(node)}")
            return
        self.keys(path, node, ("target", "params"))
        if "target" not in node:
            self.report(path, "has no target; expected target (an import path) and params (its arguments)")
            return
        target = self.target_of(node)
        refusal = self._refused.get(str(node["target"]))
        if refusal:
            self.report((*path, "target"), refusal)
        params = node.get("params")
        if params is None:
            params = {}
        if not isinstance(params, dict):
            self.report((*path, "params"), f"expected a mapping of arguments, found {show(params)}")
        elif target is None:
            for key, value in params.items():
                self.nested((*path, "params", key), value)
        else:
            self.call(path, target, params)

    def nested(self, path: Key, value: Any) -> None:
        """Check nodes in a value that may hold some."""
        if is_node(value):
            self.node(path, value)
        elif isinstance(value, dict):
            for key, child in value.items():
                self.nested((*path, key), child)
        elif isinstance(value, list):
            for index, child in enumerate(value):
                self.nested((*path, index), child)

    def target_of(self, node: Any) -> Callable[..., Any] | None:
        """The callable that a node names, or None."""
        name = node["target"]
        key = str(name)
        if key not in self.targets and key not in self._refused:
            try:
                self.targets[key] = resolve(name, self.allow or ())
            except ConfigError as error:
                words = str(error).removeprefix("target ")
                # Only the caller of `check` knows what is allowed.
                self._refused[key] = "" if self.allow is None and "--allow" in words else words
        return self.targets.get(key)

    def call(self, path: Key, target: Callable[..., Any], params: dict[str, Any]) -> None:
        """Check that a target can be called with these arguments."""
        name = getattr(target, "__name__", type(target).__name__)
        if inspect.isabstract(target):
            self.report((*path, "target"), f"{name} is abstract; name one of its subclasses")
        before = len(self.mistakes)
        self.arguments((*path, "params"), target, params, name)
        for key, value in params.items():
            self.nested((*path, "params", key), value)
        self.own_check(path, target, params, sound=len(self.mistakes) == before)

    def arguments(self, path: Key, target: Callable[..., Any], params: Mapping[str, Any], name: str) -> None:
        """Check arguments against a signature."""
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError, NameError):
            self.report(path, f"{name} does not tell its arguments, so a configuration cannot give them")
            return
        by_name = {
            key: parameter
            for key, parameter in signature.parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        hints = hints_of(target, signature)
        for key, value in params.items():
            if key in by_name:
                self.typed((*path, key), hints.get(key, Any), value)
            elif not anything:
                kind = "unknown key" if target is schema.Training else f"{name} has no such argument"
                self.report((*path, key), f"{kind}; {nearest(key, by_name)}")
        for key, parameter in signature.parameters.items():
            if parameter.default is not parameter.empty:
                continue
            if key in by_name and key not in params:
                self.report((*path, key), f"missing; {name} needs it")
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                self.report(path, f"{name} takes {key} without a name, so a configuration cannot give it")

    def own_check(self, path: Key, target: Callable[..., Any], params: Mapping[str, Any], *, sound: bool) -> None:
        """Ask the target what is wrong with its arguments taken together."""
        static = inspect.getattr_static(target, "check", None)
        if not (isinstance(static, (staticmethod, classmethod)) or (inspect.isroutine(target) and callable(static))):
            return  # a method of its instances, or none
        try:
            found = [str(words) for words in target.check(**copy.deepcopy(dict(params))) or ()]  # type: ignore[attr-defined]
        except Exception as error:  # it may count on sound arguments, nested ones included
            if sound:
                self.report(path, f"its own check failed ({type(error).__name__}: {error})")
            return
        for words in found:
            argument, colon, rest = words.partition(": ")
            if colon and argument in params:
                self.report((*path, "params", argument), rest)
            else:
                self.report(path, words)
