"""YAML to plain data and back.

Scalars follow the core schema of YAML 1.2, not the 1.1 of PyYAML: ``1e-4`` is a number, ``yes`` and ``12:30`` are
text, ``010`` is ten. Tags, merge keys, duplicate keys, keys that are not text and numbers that are not finite are
refused.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["ConfigError", "Malformed", "digest", "dump", "nearest", "parse", "read", "show_path"]

_LARGEST_FILE = 1 << 20  # bytes
_MOST_VALUES = 100_000  # a few nested aliases make billions of values from a few lines
_DEEPEST = 40

_PREFIX = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_RESOLVERS = [  # the first that matches wins, so int stands before float
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("float", re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"), list("-+.")),
    ("merge", re.compile(r"<<$"), ["<"]),
]


class ConfigError(Exception):
    """What is wrong with a configuration.

    Args:
        mistakes: one, or several; each becomes a single line, and repetitions are left out.
    """

    def __init__(self, mistakes: str | Iterable[str]) -> None:
        lines = [mistakes] if isinstance(mistakes, str) else mistakes
        self.mistakes: list[str] = list(dict.fromkeys(" ".join(line.split()) for line in lines))
        super().__init__("\n".join(self.mistakes))


class Malformed(Exception):
    """Text that is not acceptable YAML: ``problems`` are pairs of a position (``"line:column"``) and words."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(words for _, words in problems))
        self.problems = list(problems)


class _Reader(yaml.SafeLoader):
    """Composes nodes; the class below makes data of them."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own protocol

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        if tag is not None:
            short = tag.replace(_PREFIX, "!!")
            raise yaml.composer.ComposerError(None, None, f"tags such as {short} are not allowed", event.start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or our reader would not take for text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _RESOLVERS:
    _Reader.add_implicit_resolver(_PREFIX + _name, _pattern, _first)
    _Dumper.add_implicit_resolver(_PREFIX + _name, _pattern, _first)


class _Constructor:
    """Makes plain data of composed nodes, and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []
        self._count = 0
        self._open: list[int] = []

    def _problem(self, node: yaml.Node, words: str) -> None:
        self.problems.append((_position(node.start_mark), words))

    def value(self, node: yaml.Node) -> Any:
        self._count += 1
        if self._count > _MOST_VALUES:
            raise Malformed([(_position(node.start_mark), f"more than {_MOST_VALUES} values; are aliases nested?")])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            self._problem(node, "an alias that contains itself")
            return None
        if len(self._open) == _DEEPEST:
            raise Malformed([(_position(node.start_mark), f"nested more than {_DEEPEST} levels deep")])
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(child) for child in node.value]
            return self._mapping(node)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.Node) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _PREFIX + "merge":
                self._problem(key_node, "merge keys (<<) are not supported; give several files instead")
                continue
            key = self.value(key_node)
            value = self.value(value_node)
            if not isinstance(key, str):
                self._problem(key_node, f"keys must be text, found {json.dumps(key)}; quote it")
            elif key in mapping:
                self._problem(key_node, f"key {key} a second time (first in line {lines[key]})")
            else:
                mapping[key] = value
                lines[key] = key_node.start_mark.line + 1
        return mapping

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, tag = node.value, node.tag.removeprefix(_PREFIX)
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        if tag == "int" and len(text) > 100:
            self._problem(node, "a number of more than 100 digits")
            return 0
        if tag == "int":
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if tag == "float":
            number = float(text) if _FLOAT.match(text) else math.nan
            if not math.isfinite(number):
                self._problem(node, f"expected a finite number, found {text}")
            return number
        try:
            text.encode()
        except UnicodeEncodeError:
            self._problem(node, "text with half a surrogate pair")
        return text


def _position(mark: Any) -> str:
    return f"{mark.line + 1}:{mark.column + 1}"


def parse(text: str) -> Any:
    """Turn YAML into mappings, lists, text, numbers, booleans and None.

    Raises:
        Malformed: it is not YAML, or uses what a configuration has no need of.
    """
    try:
        node = yaml.compose(text, Loader=_Reader)
    except yaml.reader.ReaderError as error:
        position = f"{text.count(chr(10), 0, error.position) + 1}:1"
        raise Malformed([(position, f"character U+{error.character:04X} is not allowed")]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = error.problem or error.context or "not valid YAML"
        raise Malformed([(_position(mark) if mark else "1:1", words)]) from None
    except RecursionError:
        raise Malformed([("1:1", f"nested more than {_DEEPEST} levels deep")]) from None
    if node is None:
        return None
    constructor = _Constructor()
    value = constructor.value(node)
    if constructor.problems:
        raise Malformed(constructor.problems)
    return value


def read(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, or is no YAML mapping; every mistake with ``file:line:column``.
    """
    name = show_path(path)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror or error})") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError(f"{name}: not a text file; expected YAML in UTF-8")
    if len(data) > _LARGEST_FILE:
        raise ConfigError(f"{name}: larger than {_LARGEST_FILE >> 20} MiB; expected a configuration in YAML")
    try:
        tree = parse(text)
    except Malformed as error:
        raise ConfigError(f"{name}:{position}: {words}" for position, words in error.problems) from None
    if tree is None:
        raise ConfigError(f"{name}: empty; expected a configuration in YAML")
    if not isinstance(tree, dict):
        kind = "a list" if isinstance(tree, list) else "a single value"
        raise ConfigError(f"{name}: expected a mapping (key: value), found {kind}")
    return tree


def dump(tree: Any) -> str:
    """Write YAML that reads back to the same tree, here and with any other reader of YAML 1.1 or 1.2."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def digest(tree: Any) -> str:
    """SHA-256 of a tree, as 64 hexadecimal digits; the order of keys does not matter."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def show_path(path: Path) -> str:
    """A path as a person would write it: relative when it lies in the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say about a name that is not known: ``did you mean ...?``, else what there is."""
    names = sorted(known)
    wanted = name[:80]

    def likeness(key: str) -> float:
        blind = difflib.SequenceMatcher(None, wanted.lower(), key.lower()).ratio()
        return blind + difflib.SequenceMatcher(None, wanted, key).ratio() / 100  # case only decides between equals

    likely = sorted(((likeness(key), key) for key in names), key=lambda pair: -pair[0])
    close = [key for value, key in likely if value > max(0.6, likely[0][0] - 0.15)]
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    if not names:
        return "there are none"
    return f"known: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
