"""Imports go one way. The table says who may import whom; imports inside functions count too."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import iin

PACKAGE = Path(iin.__file__).parent

BOTTOM = "arguments arrays distributed feed files memory progress seeds"
"""Whoever needs them may import these; they import nothing of the package but each other."""

LAYERS = {
    "arguments": "",
    "arrays": "",
    "distributed": "",
    "feed": "",
    "files": "",
    "memory": "",
    "progress": "",
    "seeds": "",
    # Each of these stands alone, but for the last.
    "losses": "",
    "data": "",
    "flows": "",
    "system": "",
    "config": "",
    "pictures": "system",
    # What is trained and what judges it.
    "models": "flows",
    "systems": "system flows models losses data",
    "metrics": "system data models losses",
    "compat": "system flows models systems",
    # The loop, which gets all of the above built.
    "run": "config",
    "record": "run",
    "report": "run record pictures",
    "logs": "run record report pictures system",
    "interrupt": "",
    "evaluation": "run record system interrupt metrics",
    "engine": "config system flows",
    "adam": "flows",
    "train": "config run record logs system interrupt evaluation engine adam",
    # From a configuration to a run. Data sets reach these built; what is imported of `data` is the loader, and sources.
    "building": "config run system data compat interrupt evaluation",
    "codes": "config data models",
    "factors": "config run data metrics building",
    "trial": "config data system building factors codes",
    "plan": "config run logs data compat building factors trial",
    "trained": "run system",
    "experiment": "config run logs report pictures system data interrupt evaluation train building factors plan codes "
    "trained",
    "first_stage": "building plan",
    "export": "run building experiment",
    "pairs": "config run metrics building experiment",
    "sweep": "config run record report train interrupt building factors plan experiment",
    "explore": "config run data models pictures report building plan",
    "demo": "config run data pictures report system models systems trained building experiment explore",
    # What a person starts.
    "cli": "config run record train interrupt factors experiment explore report demo export pairs sweep",
    "": "experiment",  # iin.load, imported when it is used
}
"""Module or subpackage -> those that it may import, beside itself and the bottom."""


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("iin", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def unit(name: str) -> str:
    """The first part below the package: ``iin.data.mnist`` -> ``data``."""
    return name.partition(".")[2].partition(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Names of the package's modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "iin")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module == "iin":
                yield from (f"iin.{alias.name}" for alias in node.names)
            elif (node.module or "").startswith("iin."):
                yield str(node.module)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_below(path: Path) -> None:
    own = unit(name_of(path))
    assert own in LAYERS, f"{own}: give it a place in the table"
    allowed = {own, *LAYERS[own].split(), *BOTTOM.split()}
    wrong = sorted({name for name in imports(path) if unit(name) not in allowed})
    assert not wrong, f"{name_of(path)} imports {', '.join(wrong)}; allowed are {', '.join(sorted(allowed))}"


def test_the_table_has_no_cycle_and_nothing_that_does_not_exist() -> None:
    TopologicalSorter({name: below.split() for name, below in LAYERS.items()}).prepare()
    existing = {unit(name_of(path)) for path in modules()}
    assert set(LAYERS) == existing
    assert {name for below in LAYERS.values() for name in below.split()} <= existing


def test_the_loop_never_imports_a_method_data_or_metric() -> None:
    named = {unit(name) for module in ("train", "run", "logs", "record") for name in imports(PACKAGE / f"{module}.py")}
    assert not named & {"systems", "data", "metrics", "models", "flows", "losses"}


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize("command", ["train", "eval", "demo", "export", "pairs", "report"])
def test_help_answers_without_torch(command: str) -> None:
    code = f"""
import sys
from iin.cli import {command}
try:
    {command}.main(["--help"])
except SystemExit as end:
    assert end.code == 0
print(*sorted(sys.modules.keys() & {{"torch", "numpy", "wandb", "pydantic", "PIL"}}), file=sys.stderr)
"""
    done = python(code)
    assert done.returncode == 0 and done.stderr == "\n"
    assert done.stdout.startswith(f"usage: iin-{command}") and "examples:" in done.stdout


@pytest.mark.slow
def test_every_module_imports_alone() -> None:
    """Each in a process that has seen the libraries, but nothing of the package."""
    code = f"""
import importlib, os, sys
import numpy, PIL.Image, pydantic, torch, torch.utils.data, tqdm, yaml
failed = False
for name in {[name_of(path) for path in modules()]}:
    child = os.fork()
    if not child:
        assert not any(loaded.split(".")[0] == "iin" for loaded in sys.modules)
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    failed |= os.waitpid(child, 0)[1] != 0
sys.exit(failed)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
