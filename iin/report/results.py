"""What a run's folder says, read without building anything; what is missing or damaged there stays empty."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from iin import record
from iin.report import gallery

__all__ = ["Results", "dig", "flat", "gather", "is_number", "short", "word"]


@dataclass
class Results:
    """What a run's folder says."""

    name: str
    """Of the folder."""
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    training: list[dict[str, Any]] = field(default_factory=list)
    """Lines of ``metrics.jsonl`` about training, by step."""
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)
    """step -> figures, by step."""
    facts: dict[str, str] = field(default_factory=dict)
    """What the newest evaluation says beside its figures: the extractor, the data source ..."""
    pictures: dict[str, Path] = field(default_factory=dict)
    """name -> file of the newest step."""

    @property
    def step(self) -> int:
        """Steps done, as far as the folder tells."""
        steps = [line["step"] for line in self.training] + list(self.evaluations)
        if isinstance(step := self.state.get("step"), int):
            steps.append(step)
        return max(steps, default=0)

    @property
    def newest(self) -> dict[str, float]:
        """Figures of the newest evaluation."""
        return self.evaluations[max(self.evaluations)] if self.evaluations else {}

    def course(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of an evaluated figure."""
        return [(step, figures[name]) for step, figures in self.evaluations.items() if name in figures]


def gather(folder: Path) -> Results:
    """Read a run's folder; what is missing or damaged stays empty."""
    results = Results(folder.name)
    results.config_text = _text(folder / "config.yaml")
    try:
        tree = yaml.safe_load(results.config_text)
    except (yaml.YAMLError, RecursionError, ValueError):
        tree = None
    results.config = tree if isinstance(tree, dict) else {}
    results.state = _json(folder / "state.json")
    results.environment = _json(folder / "environment.json")

    evaluations: dict[int, dict[str, float]] = {}
    for line in record.read(folder / "metrics.jsonl"):
        figures = {name: value for name, value in line.items() if name not in record.RESERVED and is_number(value)}
        if line["split"] == "train":
            results.training.append({"step": line["step"], **figures})
        else:
            evaluations.setdefault(line["step"], {}).update(figures)
    for file in sorted(folder.glob("eval/step-*/metrics.json")):
        if not (match := re.fullmatch(r"step-(\d+)", file.parent.name)):
            continue
        content = _json(file)
        beside = {"step", "images"}  # numbers, but no figures
        unseen = {"step", "weights", "test_set", "entries"}  # for programs
        figures = {name: v for name, v in content.items() if name not in beside and is_number(v)}
        if figures:
            # In the place of the record's line: it knows which figures were measured anew, and with what.
            evaluations[int(match[1])] = figures
            results.facts = {k: str(v) for k, v in content.items() if k not in figures.keys() | unseen}
    results.training.sort(key=lambda line: line["step"])
    results.evaluations = dict(sorted(evaluations.items()))
    results.pictures = gallery.find(folder)
    return results


def is_number(value: Any) -> bool:
    """Whether this can be drawn: no bool, and no integer beyond what a float holds."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 1000)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# --- trees of settings ------------------------------------------------------------------------------------------------


def dig(tree: Any, *keys: str) -> Any:
    """What lies at a path of keys; None where there is nothing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def word(tree: Any, *keys: str) -> str:
    """The text or number at a path of keys; empty when there is neither."""
    value = dig(tree, *keys)
    return str(value) if isinstance(value, str | int | float) else ""


def flat(tree: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Leaves of nested mappings, their keys joined by dots."""
    if isinstance(tree, dict) and depth < 8:
        for key, value in tree.items():
            yield from flat(value, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(tree, list):
        yield path, " ".join(str(value) for value in tree)
    elif tree is not None:
        yield path, str(tree)


def short(keys: Iterable[str]) -> dict[str, str]:
    """Each key path by as few of its last parts as tell it from the others."""
    keys = list(keys)
    found = {}
    for key in keys:
        parts = key.split(".")
        endings = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        found[key] = next(
            (end for end in endings if sum(other == end or other.endswith(f".{end}") for other in keys) == 1), key
        )
    return found
