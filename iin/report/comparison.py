"""What the folders of several runs say: groups that differ in the seed alone, and the settings in which they differ."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from iin.report.results import Results, flat, gather, short, word

__all__ = ["ASIDE", "Comparison", "Group", "compare", "number", "setting", "shown"]

ASIDE = {
    *("name", "description", "version", "logs", "wandb", "evaluate"),
    *("train.log_every", "train.checkpoint_every", "train.keep", "train.best", "train.best_mode", "train.workers"),
    *("train.evaluate_every", "train.eval_batch_size", "train.device", "train.compile", "train.cache", "train.shard"),
}
"""Settings that do not make two runs different: they leave the weights as they are."""


@dataclass
class Group:
    """Runs that differ in nothing but the seed."""

    settings: dict[str, str]
    """Those in which the groups differ: key path -> value; a group may lack one."""
    runs: list[Results]
    label: str = ""

    def values(self, name: str) -> list[float]:
        """A figure of each run that has it, in which it is finite."""
        return [run.newest[name] for run in self.runs if math.isfinite(run.newest.get(name, math.nan))]

    def mean(self, name: str) -> float:
        """NaN where no run has the figure."""
        values = self.values(name)
        return statistics.fmean(values) if values else math.nan

    def deviation(self, name: str) -> float:
        """Standard deviation over the runs (with n - 1); 0 for one."""
        values = self.values(name)
        return statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass
class Comparison:
    """What the folders of several runs say."""

    groups: list[Group]
    keys: list[str]
    """Key paths of the settings in which the groups differ."""
    notes: list[str] = field(default_factory=list)
    """What to keep in mind, in sentences."""

    @property
    def runs(self) -> list[Results]:
        return [run for group in self.groups for run in group.runs]

    @property
    def names(self) -> list[str]:
        """Names of all figures, but for the sizes of factors."""
        found = dict.fromkeys(name for run in self.runs for name in run.newest)
        return [name for name in found if not name.startswith("dims/")]

    @property
    def seeds(self) -> bool:
        """Whether there is a group of several runs."""
        return any(len(group.runs) > 1 for group in self.groups)


def compare(folders: Sequence[Path]) -> Comparison:
    """Read the folders of runs, and put those together that differ in nothing but the seed."""
    runs = [gather(folder) for folder in folders]
    trees = [_essential(run) for run in runs]
    together: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, tree in enumerate(trees):
        # A run whose configuration cannot be read is like no other.
        key = tuple(sorted((k, v) for k, v in tree.items() if k != "seed")) if tree else (("", str(index)),)
        together.setdefault(key, []).append(index)
    members = list(together.values())
    first = [trees[indices[0]] for indices in members]
    known = [key for key in dict.fromkeys(key for tree in first for key in tree) if key != "seed"]
    differing = [key for key in known if len({tree.get(key) for tree in first if tree}) > 1]
    groups = []
    for indices, tree in zip(members, first, strict=True):
        settings = {key: tree[key] for key in differing if key in tree}
        ordered = sorted((runs[index] for index in indices), key=_seed)
        groups.append(Group(settings, ordered))
    groups.sort(key=_place(differing, groups))
    _label(groups, differing)
    return Comparison(groups, _telling(differing, groups), _notes(runs))


def _telling(keys: Sequence[str], groups: Sequence[Group]) -> list[str]:
    """The settings again, first those that are all in which two groups differ: what was varied."""
    pairs = list(itertools.combinations(groups, 2))
    unlike = [[key for key in keys if a.settings.get(key) != b.settings.get(key)] for a, b in pairs]
    varied = {names[0] for names in unlike if len(names) == 1}
    return sorted(keys, key=lambda key: key not in varied)


def _essential(run: Results) -> dict[str, str]:
    """Settings that make a run what it is, those of first stages included."""
    found = {}
    for key, value in flat(run.config):
        inner = key.rpartition(".config.")[2]
        if inner not in ASIDE and inner.split(".")[0] not in ASIDE:
            found[key] = value
    return found


def _seed(run: Results) -> tuple[float, str]:
    return number(word(run.config, "seed") or "0") or 0.0, run.name


def number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _place(keys: Sequence[str], groups: Sequence[Group]) -> Callable[[Group], list[tuple[float, str]]]:
    """Order of groups: by kind, then by their settings, numbers as numbers; others as they were named."""
    numeric = [key for key in keys if all(number(g.settings.get(key, "0")) is not None for g in groups)]
    rank = {id(group): float(index) for index, group in enumerate(groups)}
    texts = [key for key in keys if key not in numeric]
    first: dict[tuple[str | None, ...], float] = {}
    for group in groups:
        first.setdefault(tuple(group.settings.get(key) for key in texts), rank[id(group)])

    def place(group: Group) -> list[tuple[float, str]]:
        kind = first[tuple(group.settings.get(key) for key in texts)]
        return [(kind, ""), *((number(group.settings.get(key)) or 0.0, "") for key in numeric), (rank[id(group)], "")]

    return place


def _label(groups: Sequence[Group], keys: Sequence[str]) -> None:
    """Call groups by their settings; where these are many, by the names of their configurations."""
    names = short(keys)
    for group in groups:
        group.label = " ".join(setting(names[key], group.settings[key]) for key in keys if key in group.settings)
    if len(keys) > 3 or not all(group.label for group in groups):
        called = [_common(group) for group in groups]
        if len(set(called)) < len(called):
            called = [group.runs[0].name for group in groups]
        for group, name in zip(groups, called, strict=True):
            group.label = name


def _common(group: Group) -> str:
    """What the configurations of a group are called; in a sweep over seeds, without the seed."""
    names = [word(run.config, "name") or run.name for run in group.runs]
    parts = zip(*(name.split("_") for name in names), strict=False)
    alike = itertools.takewhile(lambda part: len(set(part)) == 1, parts)
    return "_".join(part[0] for part in alike) or names[0]


def setting(name: str, value: str) -> str:
    return shown(value) if name.rpartition(".")[2] == "target" else f"{name}={shown(value)}"


def shown(value: str) -> str:
    """A setting in a few letters: a target by its last name."""
    last = value.rpartition(".")[2] if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", value) else value
    return last if len(last) <= 40 else f"{last[:39]}…"


def _notes(runs: Sequence[Results]) -> list[str]:
    notes = []
    if bare := [run.name for run in runs if not run.newest]:
        notes.append(f"Without figures, since nothing was evaluated yet: {', '.join(bare)}.")
    if undone := [run.name for run in runs if run.state.get("state") != "finished"]:
        notes.append(f"Not finished: {', '.join(undone)}.")
    if unread := [run.name for run in runs if not run.config]:
        notes.append(f"Configuration missing or unreadable: {', '.join(unread)}.")
    measured = {tuple(flat({"": run.config.get("evaluate")})) for run in runs if run.newest and run.config}
    if len(measured) > 1:
        notes.append("The sections <code>evaluate</code> of these runs differ, so that figures may be measured unlike.")
    return [note if "<code>" in note else escape(note) for note in notes]
