"""The pages: they build without a warning and without a network, leave nothing out, and what they say can be done."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fabricate
import original
import pytest
import torch
from runs import only
from test_compat import write as write_original
from test_compat_conditional import random_state

import iin
from iin import config
from iin.building import COSMETIC
from iin.cli import demo, explore, export, pairs, report, train
from iin.cli import eval as evaluate
from iin.config import ConfigError, schema
from iin.config.reading import parse
from iin.report import glossary

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.glob("*.md"))

WITHOUT_NETWORK = """
import socket, sys

def refuse(*_, **__):
    raise OSError("the pages are to be built without a network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


class Block(NamedTuple):
    """A block of code on a page."""

    language: str
    code: str

    @property
    def file(self) -> str | None:
        """The file that it is the content of, if its first line says so."""
        match = re.match(r"# (\w+\.(?:py|yaml))\n", self.code)
        return match and match[1]


def blocks(page: str) -> list[Block]:
    text = (DOCS / f"{page}.md").read_text()
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


# --- the site ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", WITHOUT_NETWORK, "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(out)]
    built = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert built.returncode == 0, built.stderr
    return out


def anchors(site: Path, page: str) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', (site / f"{page}.html").read_text()))


@pytest.mark.slow
def test_every_page_is_built_and_can_be_reached(site: Path) -> None:
    sources = {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")}
    home = (site / "index.html").read_text()
    for source in sources:
        assert (site / f"{source}.html").is_file()
        assert str(source) == "index" or f'href="{source}.html"' in home, f"{source} is in no menu"


@pytest.mark.slow
def test_nothing_is_fetched_when_they_are_read(site: Path) -> None:
    elsewhere = r"""["'(\s](?:https?:)?//[\w.]"""
    for path in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source|video|embed|object)\b[^>]*>", path.read_text()):
            assert not re.search(rf"(?:src|href|srcset|data)=\s*{elsewhere}", tag), f"{path}: {tag}"
    for path in site.rglob("*.css"):
        assert not re.search(rf"(?:url|@import)\b[^;]{{0,3}}{elsewhere}", path.read_text()), path
    for path in site.rglob("*.js"):
        assert not re.search(rf"(?:fetch|import|src\s*=)\s*\(?{elsewhere}", path.read_text()), path


@pytest.mark.slow
def test_formulas_are_drawn(site: Path) -> None:
    method = (site / "method.html").read_text()
    assert method.count('<svg role="img"') > 40 and "$" not in re.sub(r"<[^>]*>", "", method.split("<article")[1])


@pytest.mark.slow
def test_every_key_of_a_configuration_is_explained(site: Path) -> None:
    train_keys = [f"train.{field.name}" for field in dataclasses.fields(schema.Training)]
    keys = [*schema.KEYS, *train_keys, *(f"wandb.{key}" for key in schema.WANDB)]
    assert {f"key-{key}" for key in keys} <= anchors(site, "configuration")


NO_TARGETS = {
    "iin.data": "Batch Classes Dataset Draws Factored Images KnownFactors Labelled Loader Pairs Visit measure_color "
    "mix",
    "iin.systems": "",
    "iin.flows": "InvertibleModule",
    "iin.models": "Codes Gaussian",
    "iin.metrics": "KernelDistance Statistics Summary factor_dims factor_scores frechet_distance "
    "frechet_distance_of_few kernel_distance paper_scores share_left_free",
    "iin.first_stage": "",
}
"""What these packages export and no configuration names: types, and functions of tensors."""


@pytest.mark.slow
@pytest.mark.parametrize("package", NO_TARGETS)
def test_every_target_is_explained_with_all_its_arguments(site: Path, package: str) -> None:
    found = anchors(site, "targets")
    others = NO_TARGETS[package].split()
    for name in importlib.import_module(package).__all__:
        path = f"{package}.{name}"
        assert (f"key-{path}" in found) != (name in others), f"{path}: explain it as a target, or say that it is none"
        if name not in others:
            for argument in inspect.signature(config.resolve(path)).parameters:
                assert f"key-{path}.{argument}" in found, f"{path}: {argument}"


REFERENCE = sorted(
    {name for path in DOCS.glob("api/*.md") for name in re.findall(r"automodule:: (iin\.[\w.]+)", path.read_text())}
)
"""Modules that the reference explains."""


@pytest.mark.slow
@pytest.mark.parametrize("module", REFERENCE)
def test_the_reference_has_every_name_of_a_module(site: Path, module: str) -> None:
    names = {name for path in DOCS.glob("api/*.md") for name in anchors(site, f"api/{path.stem}")}
    documented = {id(member(name)) for name in names if name.startswith("iin.")}
    for name in importlib.import_module(module).__all__:
        found = member(f"{module}.{name}")
        if inspect.isclass(found) or inspect.isroutine(found):
            assert id(found) in documented, f"{module}.{name}"


def test_the_reference_has_the_modules_that_programs_need() -> None:
    exported = {f"iin.{name}" for name in iin.__all__ if inspect.ismodule(getattr(iin, name))}
    others = {"iin.arguments", "iin.config", "iin.experiment", "iin.first_stage", "iin.run", "iin.system", "iin.train"}
    assert exported | others <= set(REFERENCE)
    index = (DOCS / "api/index.md").read_text().splitlines()
    assert not [name for name in REFERENCE if name.count(".") == 1 and f"   {name}" not in index]


def member(path: str) -> Any:
    """The object of a dotted name; None for a module, and for an attribute that only instances have."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


@pytest.mark.slow
def test_every_figure_is_explained(site: Path) -> None:
    rows = re.findall(r"<tr[^>]*><td><p><code[^>]*>(.*?)</code>", (site / "figures.html").read_text(), re.DOTALL)
    names = {re.sub(r"<[^>]*>", "", row).replace("&lt;", "<").replace("&gt;", ">") for row in rows}
    for pattern in glossary._FIGURES:
        generic = re.compile(re.sub(r"\([^)]*\)", r"<\\w+>", pattern))
        assert any(generic.fullmatch(name) for name in names), pattern


@pytest.mark.slow
def test_every_option_of_the_commands_is_explained(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = anchors(site, "commands")
    commands = {"iin-train": train, "iin-eval": evaluate, "iin-explore": explore, "iin-demo": demo}
    commands |= {"iin-export": export, "iin-pairs": pairs, "iin-report": report}
    for prog, command in commands.items():
        with pytest.raises(SystemExit):
            command.main(["--help"])
        options = set(re.findall(r"--([a-z-]+)", capsys.readouterr().out.split("examples:")[0]))
        assert len(options) > 4 and {f"{prog}-{option}" for option in options} <= found


# --- what they say -----------------------------------------------------------------------------------------------


def test_every_environment_variable_is_explained() -> None:
    used = {name for path in ROOT.glob("iin/**/*.py") for name in re.findall(r"\bIIN_[A-Z]+", path.read_text())}
    assert used and all(f"| `{name}`" in (DOCS / "runs.md").read_text() for name in used)


def test_settings_that_leave_the_weights_alone_are_those_of_the_code() -> None:
    (sentence,) = re.findall(r"leave the\s+weights as they are: (.*?)\.", (DOCS / "runs.md").read_text(), re.DOTALL)
    assert set(re.findall(r"`(\w+)`", sentence)) == COSMETIC


def test_every_shipped_configuration_is_named() -> None:
    page = (DOCS / "quickstart.md").read_text()
    assert not [path.stem for path in config.shipped().glob("*.yaml") if f"`{path.stem}`" not in page]


@pytest.mark.parametrize("page", PAGES)
def test_fragments_of_configurations_are_sound(page: str) -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if str(node.get("target", "")).startswith("iin."):
                target = config.resolve(node["target"])
                inspect.signature(target).bind_partial(**node.get("params", {}))
            for child in node.values():
                walk(child)

    for block in blocks(page):
        if block.language == "yaml":
            walk(parse(block.code))


def test_the_mistake_that_is_shown_is_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (file,) = (block for block in blocks("configuration") if block.file == "tiny.yaml")
    (shown,) = (block.code for block in blocks("configuration") if block.code.startswith("error: "))
    (tmp_path / "tiny.yaml").write_text(file.code.replace("    model:", "    modle:"))
    with pytest.raises(ConfigError) as caught:
        config.check(config.load(["tiny.yaml"]))
    assert shown.removeprefix("error: ").strip() in caught.value.mistakes


# --- what can be done --------------------------------------------------------------------------------------------

SHORT = ["train.batch_size=50", "evaluate.fid.params.images=50"]
TINY = [
    *SHORT,
    "train.epochs=2",
    "train.evaluate_every=1",
    "system.params.flow.params={blocks: 2, hidden: 16}",
    "evaluate.swaps.params.pairs=20",
    "evaluate.fid.params.kid_subsets=2",
]
"""What makes a quick run short."""


FIRST_STAGE = "system.params.first_stage.params"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a few digits, a finished run over them, and checkpoints of the original's kind."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("IIN_DATA", str(fabricate.mnist(folder / "data")))
        patch.setenv("IIN_CACHE", str(folder / "cache"))
        patch.delenv("IIN_LOGS", raising=False)
        small = ["train.epochs=1", "system.params.model.params.width=4"]
        assert train.main(["-b", "mnist_ae", "--quick", *SHORT, *small]) == 0
        (first,) = folder.glob("logs/*_mnist_ae")
        assert train.main(["-b", "mnist_diin", "--quick", f"{FIRST_STAGE}.run={first.resolve()}", *TINY]) == 0
        network = original.autoencoder_state(1, 32, 4, 4, 64, "an")
        write_original(folder / "original/mnist_ae/train/checkpoints/model-120000.ckpt", network)
        flow = original.flow_state(64, 2, 16, 2)
        write_original(folder / "original/mnist_iin/train/checkpoints/model-105600.ckpt", flow)
        sizes = {"in_channels": 64, "mid_channels": 16, "hidden_depth": 2, "n_flows": 2, "conditioning_option": "none"}
        context = {"conditioning_in_channels": 10, "conditioning_spatial_size": 1}
        conditional = random_state({**sizes, **context})
        torch.save(
            {key: value.float() if value.is_floating_point() else value for key, value in conditional.items()},
            folder / "cinn_mnist_softmax.ckpt",
        )
    yield folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one's own, with all that is prepared, and the files that the pages show, made short."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True, symlinks=True)
    written = []
    for block in (block for page in PAGES for block in blocks(page)):
        if block.file is not None:
            code = block.code
            if block.language == "yaml":
                code = re.sub(r"\bepochs: \d+", "epochs: 1", code)
            (tmp_path / block.file).write_text(code)
            written.append(Path(block.file))
    assert len(set(written)) == len(written), "two files of one name"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IIN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("IIN_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for path in written:
        sys.modules.pop(path.stem, None)


def filled_in(text: str, here: Path) -> str:
    """A command or a program, with the run and the step that it leaves open."""
    run = only(here / "logs", "*_mnist_diin*")
    return text.replace("<run>", run.folder.name).replace(
        "<step>", run.checkpoints()[-1].stem.split("-")[1].lstrip("0")
    )


def carry_out(line: str, here: Path) -> None:
    """A command of a page. What trains a shipped configuration, which takes minutes, is planned only."""
    command, *arguments = shlex.split(line, comments=True)
    mains = {"iin-train": train.main, "iin-eval": evaluate.main, "iin-explore": explore.main, "iin-demo": demo.main}
    mains |= {"iin-export": export.main, "iin-pairs": pairs.main, "iin-report": report.main}
    if command in mains:
        if command == "iin-train" and "-b" in arguments and not (here / arguments[arguments.index("-b") + 1]).exists():
            arguments = [word for word in arguments if word != "--dry-run"] + ["--dry-run"]
        assert mains[command](arguments) == 0, line
    elif command == "python":
        done = subprocess.run([sys.executable, ROOT / arguments[0], *arguments[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif command == "bash":
        assert (ROOT / arguments[0]).is_file(), line
    else:
        assert command in ("pip", "sphinx-build"), f"{line}: nothing tells whether this works"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_can_be_done(page: str, here: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.file is None and block.language == "python":
            exec(compile(filled_in(block.code, here), f"{page}.md", "exec"), names)
        elif block.language == "bash":
            for line in filled_in(block.code.replace("\\\n", " "), here).splitlines():
                if line.split("#")[0].strip():
                    carry_out(line, here)
