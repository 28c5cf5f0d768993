"""Configurations: reading, merging, overriding, checking, building. Each kind of mistake has its message."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval, Len

from iin import config as configuration
from iin.arguments import Count, Even, Fraction, NonNegativeInt, Positive
from iin.config import Config, ConfigError, Training, build, check, digest, dump, find, load, resolve, resolve_path
from iin.config.files import names
from iin.config.hints import describe, mismatches
from iin.config.reading import Malformed, parse

TOYS = '''
"""Targets to configure."""
from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from annotated_types import Len
from os import system

from iin.arguments import Count, Fraction

if TYPE_CHECKING:
    from nowhere import Ghost

LOG = []


class Block:
    pass


class Flow(Block):
    def __init__(self, dim: Count, blocks: Count = 2, ghost: Ghost | None = None) -> None:
        LOG.append("Flow")
        self.dim, self.blocks = dim, blocks


class Other:
    def __init__(self, dim: int = 1) -> None:
        self.dim = dim


class Fancy(Enum):
    plain = 1
    rich = 2


class System:
    def __init__(self, flow: Block, factors: Annotated[tuple[Count, ...], Len(2)] = (1, 1), rho: Fraction = 0.9,
                 name: str = "x", verbose: bool = False, blocks: Iterable[Block] = (), options: dict[str, int] = {},
                 limit: Count | None = None, split: Literal["train", "test"] = "train", data: Any = None,
                 fancy: Fancy | None = None, folder: Path | None = None) -> None:
        LOG.append("System")
        self.arguments = dict(vars(), flow=flow)

    @staticmethod
    def check(*, flow: Any, factors: Sequence[int] = (), data: Any = None, **_: Any):
        flow["params"]["touched"] = True
        if factors and sum(factors) != flow["params"]["dim"]:
            yield f"factors: sum to {sum(factors)}, not {flow['params']['dim']}"
        if data == "odd":
            yield "odd data"
        if data == "crash":
            raise RuntimeError("two\\nlines")


class Abstract(ABC):
    @abstractmethod
    def run(self) -> None: ...


class Methodical:
    def check(self) -> None:
        raise AssertionError("a method, not a check of arguments")


def flow(dim: Count, blocks: Count = 2) -> Block:
    return Flow(dim, blocks)


def pair(first: int, second: int):
    return [first, second]


pair.check = lambda first, second: ["first must be below second"] if first >= second else None


def anything(**arguments):
    return arguments


def by_position(x, /):
    return x


def data(seed: int = 0, target: str = "digit"):
    return ("data", seed, target)


CONSTANT = 3
'''

BASE = """
name: toy
data:
  train: {target: toys.data}
  test: {target: toys.data, params: {seed: 1}}
system:
  target: toys.System
  params:
    flow: {target: toys.Flow, params: {dim: 4}}
    factors: [2, 2]
train: {epochs: 3, lr: 1e-3}
quick:
  system: {params: {flow: {params: {blocks: 1}}}}
  train: {epochs: 1}
evaluate:
  nll: {target: toys.data}
  dims: {target: toys.data, params: {seed: 2}}
  swaps: {target: toys.data, params: {seed: 3}}
"""


@pytest.fixture(scope="module", autouse=True)
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A package of targets, one that is not allowed, and one that cannot be imported."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "toys").mkdir()
    (folder / "toys" / "__init__.py").write_text(TOYS)
    (folder / "toys" / "broken.py").write_text("raise RuntimeError('half a\\nmodule')\n")
    (folder / "stranger.py").write_text("import os\nos.environ['IIN_STRANGER'] = 'imported'\n\ndef run(): ...\n")
    sys.path.insert(0, str(folder))
    import toys

    yield toys
    sys.path.remove(str(folder))
    for name in ("toys", "toys.broken", "stranger"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> Path:
    path = Path.cwd() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def mistakes(*texts: str, overrides: list[str] | None = None, quick: bool = False, allow: str = "toys") -> list[str]:
    """What is said about configurations a.yaml, b.yaml ..."""
    names = [write(f"{letter}.yaml", text) for letter, text in zip("abcdef", texts, strict=False)]
    try:
        check(load(names, overrides or [], quick=quick), allow=[allow])
    except ConfigError as error:
        assert str(error) == "\n".join(error.mistakes)
        assert all(line and "\n" not in line for line in error.mistakes)
        return error.mistakes
    return []


# --- YAML -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E4", 1e4),
        ("1e5", 1e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("12", 12),
        ("+3", 3),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("yes", "yes"),
        ("off", "off"),
        ("No", "No"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        ("[1, a, {b: 2.0}]", [1, "a", {"b": 2.0}]),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
        ("1e", "1e"),
        ("e5", "e5"),
        (".", "."),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    found = parse(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3:1: key a a second time (first in line 1)"),
        ("a: {b: 1, c: 2, b: 3}\n", "x.yaml:1:17: key b a second time"),
        ("a: [1, 2\n", "x.yaml:2:1: expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", "x.yaml:2:1: found character '\\t'"),
        ("a: b: c\n", "x.yaml:1:5: mapping values are not allowed here"),
        ("a: !!python/object/apply:os.system [ls]\n", "x.yaml:1:4: tags such as !!python/object/apply:os.system are"),
        ("a: !foo 1\n", "x.yaml:1:4: tags such as !foo are not allowed"),
        ("a: !!str 1\n", "x.yaml:1:4: tags such as !!str are not allowed"),
        ("a: &x {b: *x}\n", "x.yaml:1:4: an alias that contains itself"),
        ("a: &x [[*x]]\n", "x.yaml:1:4: an alias that contains itself"),
        ("a: *nobody\n", "x.yaml:1:4: found undefined alias 'nobody'"),
        ("a: &x {c: 1}\nb: {<<: *x}\n", "x.yaml:2:5: merge keys (<<) are not supported"),
        ("1: a\n", "x.yaml:1:1: keys must be text, found 1"),
        ("true: a\n", "x.yaml:1:1: keys must be text, found true"),
        ("[a]: b\n", "x.yaml:1:1: keys must be text"),
        ("a: .nan\n", "x.yaml:1:4: expected a finite number, found .nan"),
        ("a: -.inf\n", "x.yaml:1:4: expected a finite number, found -.inf"),
        ("a: 1e999\n", "x.yaml:1:4: expected a finite number, found 1e999"),
        ("a: " + "9" * 5000, "x.yaml:1:4: a number of more than 100 digits"),
        ('a: "\\ud800"\n', "x.yaml:1:4: text with half a surrogate pair"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1: but found another document"),
        ("a: \x07\n", "x.yaml:1:1: character U+0007 is not allowed"),
        ("", "x.yaml: empty; expected a configuration"),
        ("# nothing\n", "x.yaml: empty; expected a configuration"),
        ("- a\n- b\n", "x.yaml: expected a mapping (key: value), found a list"),
        ("just words\n", "x.yaml: expected a mapping (key: value), found a single value"),
        (b"PK\x03\x04\x00\x00\xff\xfe", "x.yaml: not a text file; expected YAML in UTF-8"),
        (b"a: \xff\xfe\n", "x.yaml: not a text file; expected YAML in UTF-8"),
        (b"a: 1\x00\n", "x.yaml: not a text file; expected YAML in UTF-8"),
        (b"#" * (1 << 21), "x.yaml: larger than 1 MiB"),
        ("[" * 5000, "nested more than 40 levels deep"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 40 levels deep"),
    ],
)
def test_a_file_that_cannot_be_read(content: str | bytes, message: str) -> None:
    path = Path("x.yaml")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        load(["x.yaml"])
    assert len(caught.value.mistakes) == 1
    assert message in str(caught.value)


def test_nested_aliases_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(Malformed, match="more than 100000 values"):
        parse("\n".join(lines))


def test_several_mistakes_of_several_files_are_listed_at_once() -> None:
    write("x.yaml", "a: 1\na: 2\n3: 4\n")
    with pytest.raises(ConfigError) as caught:
        load(["x.yaml", "nowhere", write("y.yaml", "b: {c: 1, c: 2}")], ["nonsense"])
    assert [line.split(": ")[0] for line in caught.value.mistakes] == [
        "x.yaml:2:1",
        "x.yaml:3:1",
        "nowhere",
        "y.yaml:1:11",
        "nonsense",
    ]


def test_byte_order_mark_and_windows_line_ends_are_read() -> None:
    Path("x.yaml").write_bytes(b"\xef\xbb\xbfname: x\r\nseed: 1\r\n")
    assert load(["x.yaml"]).tree == {"name": "x", "seed": 1}


# --- writing -----------------------------------------------------------------------

AWKWARD = {
    "text": ["1e-4", "yes", "off", "010", "12:30", "null", "~", "", "true", "0x1F", "2024-01-01", "a: b", "# c", "*x"],
    "more": [
        "=",
        "<<",
        "1_000",
        ".inf",
        "!foo",
        "- a",
        "two\nlines\n",
        " space ",
        "ünï ☃ 😀",
        "\x07",
        "x" * 300,
        "é\u2028",
    ],
    "numbers": [1e-05, 1e16, 1e300, 0.1, -0.0, 3.0, 10**30, 7, True, False, None, 1.125e-4],
    "empty": {"a": [], "b": {}},
    "nested": {"target": "x.Y", "params": {"factors": [22, 22, 20], "flow": {"target": "z", "params": {"dim": 64}}}},
    "1": {"on": 1, "null": 2},
}


def test_dump_reads_back_to_the_same_tree() -> None:
    import yaml

    text = dump(AWKWARD)
    assert repr(parse(text)) == repr(AWKWARD)
    # other readers of YAML 1.1 agree, so that a run's config.yaml means the same to everyone
    assert repr(yaml.safe_load(text)) == repr(AWKWARD)
    assert list(parse(dump({"b": 1, "a": 2}))) == ["b", "a"]


def test_dump_repeats_shared_values() -> None:
    shared = [1, 2]
    assert "&" not in dump({"a": shared, "b": shared})


def test_digest() -> None:
    expected = hashlib.sha256(b'{"a":1,"b":[true,null,"x"]}').hexdigest()
    assert digest({"b": [True, None, "x"], "a": 1}) == expected
    assert digest(AWKWARD) == digest(parse(dump(AWKWARD)))
    assert len({digest({"a": value}) for value in (1, 2, "1", True, None, [1])}) == 6
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})


# --- finding -----------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("installed") / "configs"
    folder.mkdir()
    for name in ("mnist_diin", "mnist_ae", "cmnist_diin"):
        (folder / f"{name}.yaml").write_text(f"name: {name}\n")
    monkeypatch.setattr("iin.config.files.shipped", lambda: folder)
    return folder


@pytest.mark.parametrize("name", ["mnist_diin", "mnist_diin.yaml", "configs/mnist_diin.yaml", "configs/mnist_diin"])
def test_shipped_configurations_are_found_from_anywhere(name: str, shipped: Path) -> None:
    assert find(name) == shipped / "mnist_diin.yaml"
    assert find(Path(name), beside=Path.cwd() / "somewhere" / "x.yaml") == shipped / "mnist_diin.yaml"


def test_order_of_looking(shipped: Path, here: Path) -> None:
    folders = [here / "beside", here, here / "further", shipped]
    for index in range(len(folders) - 1, -1, -1):
        folders[index].mkdir(exist_ok=True)
        (folders[index] / "mnist_ae.yaml").write_text("name: x\n")
        naming = here / "beside" / "naming.yaml"
        expected = folders[index] / "mnist_ae.yaml"
        assert find("mnist_ae", beside=naming, search=[here / "further"]) == expected
        assert find("mnist_ae.yaml", beside=naming.parent, search=[here / "further"]) == expected
        assert resolve_path("mnist_ae.yaml", naming, [here / "further"]) == expected


def test_a_missing_configuration_names_its_neighbours(shipped: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find("mnist_din.yaml")
    assert len(caught.value.mistakes) == 1
    assert str(caught.value).startswith("mnist_din.yaml: no such configuration file")
    assert "did you mean mnist_diin" in str(caught.value)
    with pytest.raises(ConfigError, match="known: cmnist_diin, mnist_ae, mnist_diin"):
        find("quite_different")


@pytest.mark.parametrize("name", ["", "..", "x" * 5000, "a\0b", "mnist_diin/x", 3, None, ["mnist_diin"]])
def test_names_that_no_file_can_have(name: Any, shipped: Path) -> None:
    with pytest.raises(ConfigError):
        find(name)


def test_a_folder_is_no_configuration(here: Path) -> None:
    write("run/config.yaml", "name: x")
    with pytest.raises(ConfigError, match=r"run: is a folder; .*its config\.yaml"):
        find("run")
    assert find("run/config.yaml") == here / "run" / "config.yaml"


def test_resolve_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("deep/er/weights.pt", "")
    assert resolve_path("weights.pt", here / "deep" / "er" / "x.yaml") == here / "deep" / "er" / "weights.pt"
    assert resolve_path("deep/er") == here / "deep" / "er"
    assert resolve_path(str(here / "deep")) == here / "deep"
    assert resolve_path("weights.pt") is None
    monkeypatch.setenv("HOME", str(here))
    assert resolve_path("~/deep") == here / "deep"


def test_the_shipped_folder_belongs_to_the_package() -> None:
    package = Path(configuration.__file__).parent.parent
    assert configuration.shipped() in (package / "configs", package.parent / "configs")


# --- merging -----------------------------------------------------------------------


def merged(*texts: str, overrides: list[str] | None = None, quick: bool = False) -> dict[str, Any]:
    names = [write(f"{letter}.yaml", text) for letter, text in zip("abc", texts, strict=False)]
    return load(names, overrides or [], quick=quick).tree


@pytest.mark.parametrize(
    ("texts", "tree"),
    [
        (["a: {b: 1, c: 2}", "a: {c: 3, d: 4}"], {"a": {"b": 1, "c": 3, "d": 4}}),
        (["a: [1, 2, 3]", "a: [4]"], {"a": [4]}),
        (["a: 1", "a: 2", "a: 3"], {"a": 3}),
        (["a: {b: 1}", "a: 2"], {"a": 2}),
        (["a: 1", "a: {b: 2}"], {"a": {"b": 2}}),
        (["a: {b: 1}", "a: null"], {"a": None}),
        (
            ["system: {target: x.A, params: {p: 1, q: 2}}", "system: {target: x.A, params: {q: 3}}"],
            {"system": {"target": "x.A", "params": {"p": 1, "q": 3}}},
        ),
        (
            ["system: {target: x.A, params: {p: 1}}", "system: {params: {q: 3}}"],
            {"system": {"target": "x.A", "params": {"p": 1, "q": 3}}},
        ),
        (
            ["system: {target: x.A, params: {p: 1}}", "system: {target: x.B, params: {q: 3}}"],
            {"system": {"target": "x.B", "params": {"q": 3}}},
        ),
        (["system: {target: x.A, params: {p: 1}}", "system: {target: x.B}"], {"system": {"target": "x.B"}}),
        (
            ["system: {target: x.A, params: {target: u, q: 1}}", "system: {params: {target: v}}"],
            {"system": {"target": "x.A", "params": {"target": "v", "q": 1}}},
        ),
        (["name: x\ntrain:\nevaluate:\nquick:\n", "train: {steps: 1}"], {"name": "x", "train": {"steps": 1}}),
    ],
)
def test_merge(texts: list[str], tree: dict[str, Any]) -> None:
    found = merged(*texts)
    assert found == tree
    assert list(found) == list(tree)


def test_quick_sections_come_after_all_files_and_before_overrides() -> None:
    first = "train: {epochs: 9, lr: 0.9, keep: 9}\nquick: {train: {epochs: 1, lr: 0.1, keep: 1, steps: 1}}"
    second = "train: {epochs: 8, lr: 0.8}\nquick: {train: {epochs: 2}}"
    assert merged(first, second) == {"train": {"epochs": 8, "lr": 0.8, "keep": 9}}
    found = merged(first, second, overrides=["train.keep=5"], quick=True)
    assert found == {"train": {"epochs": 2, "lr": 0.1, "keep": 5, "steps": 1}}


def test_quick_with_another_target_replaces() -> None:
    text = "system: {target: x.A, params: {p: 1}}\nquick: {system: {target: x.B, params: {q: 1}}}"
    assert merged(text, quick=True) == {"system": {"target": "x.B", "params": {"q": 1}}}


def test_a_configuration_does_not_change() -> None:
    config = load([write("a.yaml", BASE)])
    config.tree["train"]["epochs"] = 7
    config.files.clear()
    assert config.tree["train"]["epochs"] == 3
    assert config.files == [Path.cwd() / "a.yaml"]
    for attribute in ("tree", "files"):
        with pytest.raises(AttributeError):
            setattr(config, attribute, {})


def test_where() -> None:
    a = write("a.yaml", BASE)
    b = write(
        "deep/b.yaml", "system: {params: {flow: {target: toys.flow, params: {dim: 4}}}}\nquick: {train: {lr: 2.0}}"
    )
    config = load([a, b], ["seed=3", "train.epochs=2"], quick=True)
    assert config.files == [a, b]
    assert config.where("name") == a
    assert config.where("system.params.factors") == config.where("system.params.factors[1]") == a
    assert config.where("system.params.flow") == config.where("system.params.flow.params.dim") == b
    assert config.where("system") == a
    assert config.where("train.lr") == b
    assert config.where("seed") is None
    assert config.where("train.epochs") is None
    assert config.where("train.steps") == a
    assert config.where("nobody") is None
    c = write("c.yaml", "system: {params: {flow: {target: toys.Other}}}")
    assert load([a, c]).where("system.params.flow.params.dim") == c  # which left the argument out


# --- overrides -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.lr=5e-4", "train.lr", 5e-4),
        ("train.steps=100", "train.steps", 100),
        ("seed=010", "seed", 10),
        ("description=a=b: c", "description", None),
        ("system.params.rho=0.5", "system.params.rho", 0.5),
        ("system.params.factors=[1, 3]", "system.params.factors", [1, 3]),
        ("system.params.options={a: 1}", "system.params.options", {"a": 1}),
        ("system.params.name='7'", "system.params.name", "7"),
        ("train.clip=", "train.clip", None),
        ("train.betas=[0, 0.9]", "train.betas", [0, 0.9]),
        ("wandb.mode=offline", "wandb.mode", "offline"),
        ("system.params.flow.params.dim=4", "system.params.flow.params.dim", 4),
        ("data.train.params.seed=5", "data.train.params.seed", 5),
        ("evaluate.dims.params.target=color", "evaluate.dims.params.target", "color"),
    ],
)
def test_override(override: str, path: str, value: Any) -> None:
    if value is None and "description" in override:
        override, value = 'description="a=b: c"', "a=b: c"
    config = load([write("a.yaml", BASE)], [override])
    check(config, allow=["toys"])
    found: Any = config.tree
    for key in path.split("."):
        found = found[key]
    assert found == value and type(found) is type(value)
    assert config.where(path) is None


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("evaluate=dims,swaps", ["dims", "swaps"]),
        ("evaluate=swaps, dims", ["dims", "swaps"]),
        ("evaluate=[dims]", ["dims"]),
        ("evaluate=dims", ["dims"]),
        ("evaluate=", []),
        ("evaluate=none", []),
        ("evaluate=[]", []),
        ("evaluate={nll: {params: {seed: 4}}}", ["nll", "dims", "swaps"]),
    ],
)
def test_evaluate_selects(override: str, names: list[str]) -> None:
    config = load([write("a.yaml", BASE)], [override, "evaluate.dims.params.seed=9"])
    assert list(config.tree["evaluate"]) == names
    check(config, allow=["toys"])
    if "dims" in names:
        assert config.tree["evaluate"]["dims"]["params"]["seed"] == 9


def test_overrides_of_one_node_do_not_depend_on_their_order() -> None:
    for order in (1, -1):
        overrides = ["system.target=toys.anything", "system.params.x=1"][::order]
        assert merged(BASE, overrides=overrides)["system"] == {"target": "toys.anything", "params": {"x": 1}}


# --- every kind of mistake -----------------------------------------------------------------------

OVERRIDES = [
    ("train.epohcs=3", "train.epohcs: unknown key; did you mean epochs? (command line)"),
    ("trian.epochs=3", "trian: unknown key; did you mean train? (command line)"),
    ("system.params.rhoo=0.9", "system.params.rhoo: System has no such argument; did you mean rho? (command line)"),
    ("system.params.rho=1.5", "system.params.rho: expected a number > 0 and < 1, found 1.5 (command line)"),
    ("system.params.rho=x", 'system.params.rho: expected a number > 0 and < 1, found "x" (command line)'),
    ("train.lr.x=3", "train.lr.x: there is no such key, train.lr is a single value (command line)"),
    ("system.params.factors.0=3", "system.params.factors is a list; set it as a whole (command line)"),
    ("nonsense", "nonsense: expected key.sub=value (command line)"),
    ("=3", "=3: expected key.sub=value (command line)"),
    ("", "'': expected key.sub=value (command line)"),
    ("train..lr=3", "train..lr=3: expected key.sub=value (command line)"),
    ("train.betas=[0.5", "train.betas: expected ',' or ']'"),
    ("train.lr=.nan", "train.lr: expected a finite number, found .nan"),
    ("train.lr=!!float 3", "train.lr: tags such as !!float are not allowed"),
    ("evaluate=dimz", "evaluate: no entry dimz; did you mean dims? (command line)"),
    ("evaluate=[dims, 3]", "evaluate: expected names of entries, such as evaluate=dims,swaps, or none (command line)"),
    ("evaluate=3", "evaluate: expected names of entries"),
    ("evaluate.dimz.params.seed=3", "evaluate.dimz: no such entry; did you mean dims? (command line)"),
    ("quick.train.steps=3", "quick.train.steps: cannot be set; set the key itself (train.steps=...)"),
    ("train.steps=-1", "train.steps: expected an integer >= 0 or null, found -1 (command line)"),
    ("wandb.projct=x", "wandb.projct: unknown key; did you mean project? (command line)"),
    ("system.target=toys.Sistem", "system.target: toys.Sistem: there is no Sistem in toys; did you mean System"),
    ("system.parms.rho=0.5", "system.parms: unknown key; did you mean params? (command line)"),
    ("data.trian.params.seed=3", "data.trian: unknown key; did you mean train? (command line)"),
    ("train=5", "train: expected a mapping, found 5 (command line)"),
    ("system.params.flow=5", "system.params.flow: expected a Block (a mapping with target), found 5 (command line)"),
    ("name=2024", "name: expected text, found 2024; for text, quote it: '2024' (command line)"),
]


@pytest.mark.parametrize(("override", "message"), OVERRIDES)
def test_mistakes_of_overrides(override: str, message: str) -> None:
    found = mistakes(BASE, overrides=[override])
    assert len(found) == 1, found
    assert message in found[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.lr=1.0", "train.lr=1.0"], "train.lr: set twice (command line)"),
        (["train={lr: 1.0}", "train.lr=2.0"], "train.lr: set twice (command line)"),
        (["train=5", "train.lr=2.0"], "train.lr: train is set as a whole already (command line)"),
        (["train.lr=2.0", "train=5"], "train: set twice (command line)"),
    ],
)
def test_nothing_is_set_twice(overrides: list[str], message: str) -> None:
    assert message in mistakes(BASE, overrides=overrides)


def test_new_keys_in_data_of_a_target_are_unknown() -> None:
    text = BASE.replace("factors: [2, 2]", "options: {alpha: 1}")
    assert mistakes(text, overrides=["system.params.options.alpha=2"]) == []
    found = mistakes(text, overrides=["system.params.options.alpa=2"])
    assert found == ["system.params.options.alpa: unknown key; did you mean alpha? (command line)"]


def change(old: str, new: str) -> str:
    assert BASE.count(old) == 1, old
    return BASE.replace(old, new)


SYSTEM = """name: toy
data: {train: {target: toys.data}, test: {target: toys.data}}
system:
"""

FILES = [
    # the framework's keys
    (BASE + "sed: 3", "sed: unknown key; did you mean seed? (a.yaml)"),
    (BASE + "something_else: 3", "something_else: unknown key; known: data, description, evaluate, logs, name,"),
    (BASE + "seed: -1", "seed: expected an integer >= 0, found -1 (a.yaml)"),
    (BASE + "seed: true", "seed: expected an integer >= 0, found true (a.yaml)"),
    (BASE + "seed: 1.0", "seed: expected an integer >= 0, found 1.0; write 1 (a.yaml)"),
    (BASE + "version: 2", "version: this iin reads configurations of version 1, found 2 (a.yaml)"),
    (BASE + "version: x\nseed: -1", 'version: this iin reads configurations of version 1, found "x" (a.yaml)'),
    (BASE + "version: true", "version: this iin reads configurations of version 1, found true (a.yaml)"),
    (BASE + "logs: [tensorbord]", 'logs[0]: expected tensorboard or wandb, found "tensorbord"; did you mean tens'),
    (BASE + "logs: wandb", "logs: expected a list, each tensorboard or wandb, found"),
    (BASE + "wandb: {mode: onlin}", 'wandb.mode: expected online or offline or disabled, found "onlin"; did you mean'),
    (BASE + "wandb: {tags: [a, 1]}", "wandb.tags[1]: expected text, found 1; for text, quote it: '1' (a.yaml)"),
    (BASE + "wandb: 3", "wandb: expected a mapping, found 3 (a.yaml)"),
    (BASE + "description: [a]", 'description: expected text, found ["a"] (a.yaml)'),
    (change("name: toy", "name: a/b"), "name: expected letters, digits, . _ -"),
    (change("name: toy", "name: .."), "name: expected letters, digits, . _ -"),
    (change("name: toy", "name: -x"), "name: expected letters, digits, . _ -"),
    (change("name: toy", f"name: {'x' * 200}"), "name: expected letters, digits, . _ -"),
    (change("name: toy", "name:"), "name: expected text, found null (a.yaml)"),
    (change("name: toy", "description: toy"), "name: missing; every configuration needs it (a.yaml)"),
    (change("  train: {target: toys.data}\n", ""), "data.train: missing; every configuration needs it (a.yaml)"),
    (change("{target: toys.data}\n  test", "toys.data\n  test"), "data.train: expected a mapping with target and"),
    (change("{target: toys.data}\n  test", "{params: {}}\n  test"), "data.train: has no target; expected target"),
    (change("data:\n", "data: 3\nx:\n"), "data: expected a mapping, found 3 (a.yaml)"),
    (change("evaluate:\n", "evaluate: [a]\nwandb:\n"), 'evaluate: expected a mapping, found ["a"] (a.yaml)'),
    (change("  nll: {", '  "a/b": {'), "evaluate.a/b: names of entries are made of letters, digits, _ and - (a.yaml)"),
    # training
    (change("epochs: 3", "epochs: 0"), "train.epochs: expected an integer >= 1, found 0 (a.yaml)"),
    (change("epochs: 3", "epochs: three"), 'train.epochs: expected an integer >= 1, found "three" (a.yaml)'),
    (change("epochs: 3", "epochs: 3.5"), "train.epochs: expected an integer >= 1, found 3.5 (a.yaml)"),
    (change("epochs: 3", "batch_size: -4"), "train.batch_size: expected an integer >= 1, found -4 (a.yaml)"),
    (change("epochs: 3", "lr_: 3"), "train.lr_: unknown key; did you mean lr"),
    (change("lr: 1e-3", "lr: 0"), "train.lr: expected a number > 0, found 0 (a.yaml)"),
    (change("lr: 1e-3", "lr: '1e-3'"), 'train.lr: expected a number > 0, found "1e-3" (a.yaml)'),
    (change("lr: 1e-3", "lr: true"), "train.lr: expected a number > 0, found true (a.yaml)"),
    (change("lr: 1e-3", "betas: [0.5, 1]"), "train.betas[1]: expected a number >= 0 and < 1, found 1 (a.yaml)"),
    (change("lr: 1e-3", "betas: [0.5]"), "train.betas: expected a list of 2, each a number >= 0 and < 1, found [0.5]"),
    (change("lr: 1e-3", "betas: 0.5"), "train.betas: expected a list of 2, each a number >= 0 and < 1, found 0.5"),
    (change("lr: 1e-3", "decay_start: 1e5"), "train.decay_start: expected an integer >= 0 or null, found 100000.0; wr"),
    (change("lr: 1e-3", "best_mode: mim"), 'train.best_mode: expected min or max, found "mim"; did you mean min? (a.'),
    (change("lr: 1e-3", "workers: null"), "train.workers: expected an integer >= 0, found null (a.yaml)"),
    # arguments
    (change("factors: [2, 2]", "rhoo: 0.5"), "system.params.rhoo: System has no such argument; did you mean rho? (a.y"),
    (change("factors: [2, 2]", "rho: 1.0"), "system.params.rho: expected a number > 0 and < 1, found 1.0 (a.yaml)"),
    (change("factors: [2, 2]", "factors: [4]"), "system.params.factors: expected a list of at least 2, each an int"),
    (change("factors: [2, 2]", "factors: [4, 0]"), "system.params.factors[1]: expected an integer >= 1, found 0 (a."),
    (change("factors: [2, 2]", "factors: [3, 2]"), "system.params.factors: sum to 5, not 4 (a.yaml)"),
    (change("factors: [2, 2]", "factors: 4"), "system.params.factors: expected a list of at least 2, each an integer"),
    (change("factors: [2, 2]", "verbose: 1"), "system.params.verbose: expected true or false, found 1 (a.yaml)"),
    (change("factors: [2, 2]", "verbose: yes"), 'system.params.verbose: expected true or false, found "yes" (a.yaml)'),
    (change("factors: [2, 2]", "name: 1"), "system.params.name: expected text, found 1; for text, quote it: '1'"),
    (change("factors: [2, 2]", "limit: 0"), "system.params.limit: expected an integer >= 1 or null, found 0 (a.yaml)"),
    (change("factors: [2, 2]", "split: tests"), 'system.params.split: expected train or test, found "tests"; did you'),
    (change("factors: [2, 2]", "options: {a: x}"), 'system.params.options.a: expected an integer, found "x" (a.yaml)'),
    (change("factors: [2, 2]", "options: [a]"), 'system.params.options: expected a mapping, found ["a"] (a.yaml)'),
    (change("factors: [2, 2]", "fancy: plane"), 'system.params.fancy: expected one of plain, rich or null, found "pl'),
    (change("factors: [2, 2]", "folder: 3"), "system.params.folder: expected a path or null, found 3 (a.yaml)"),
    (change("factors: [2, 2]", "data: odd"), "system: odd data (a.yaml)"),
    (change("factors: [2, 2]", "data: crash"), "system: its own check failed (RuntimeError: two lines) (a.yaml)"),
    (change("params: {dim: 4}}", "params: {}}"), "system.params.flow.params.dim: missing; Flow needs it (a.yaml)"),
    (change("params: {dim: 4}}", "params: 3}"), "system.params.flow.params: expected a mapping of arguments, found 3"),
    (change("params: {dim: 4}}", "param: {dim: 4}, params: {dim: 4}}"), "system.params.flow.param: unknown key; did"),
    (
        change("{dim: 4}}", "{dim: 4, blocks: 0}}"),
        "system.params.flow.params.blocks: expected an integer >= 1, found 0",
    ),
    (change("{target: toys.Flow, p", "{p"), "system.params.flow: expected a Block (a mapping with target), found {"),
    (change("{target: toys.Flow, p", "{p"), "; it has params but no target (a.yaml)"),
    (
        change("toys.Flow", "toys.Other"),
        "system.params.flow: expected a Block (a mapping with target), found a mapping ",
    ),
    (
        change("factors: [2, 2]", "rho: {target: toys.Other}"),
        "system.params.rho: expected a number > 0 and < 1, found a ",
    ),
    (change("factors: [2, 2]", "split: {target: toys.flow, params: {dim: 1}}"), "system.params.split: expected train "),
    (
        change("factors: [2, 2]", "blocks: [{target: toys.Flow, params: {dim: 1}}, {target: toys.Flow}]"),
        "system.params.blocks[1].params.dim: missing; Flow needs it (a.yaml)",
    ),
    (
        change("factors: [2, 2]", "blocks: [3]"),
        "system.params.blocks[0]: expected a Block (a mapping with target), fou",
    ),
    (
        change("factors: [2, 2]", "data: {deep: [{target: toys.Flow}]}"),
        "system.params.data.deep[0].params.dim: missing; Flow needs it (a.yaml)",
    ),
    # targets
    (SYSTEM + "  target: os.system", "system.target: os.system lies outside iin, torch.nn, torchvision.models, toys; "),
    (SYSTEM + "  target: stranger.run", "allow it with --allow stranger, or allow=['stranger'] in Python (a.yaml)"),
    (SYSTEM + "  target: toys.system", "system.target: toys.system: it is defined in"),
    (SYSTEM + "  target: toys.os.system", "system.target: toys.os.system: module os lies outside"),
    (SYSTEM + "  target: toysx.run", "system.target: toysx.run lies outside"),
    (SYSTEM + "  target: iin.config.reading.yaml.unsafe_load", "module yaml lies outside"),
    (SYSTEM + "  target: iin.config.resolve.__globals__", "expected an import path of public names"),
    (SYSTEM + "  target: iin.config.resolve.__globals__.get", "expected an import path of public names"),
    (SYSTEM + "  target: toys", "system.target: 'toys': expected an import path"),
    (SYSTEM + "  target: toys..Flow", "expected an import path of public names"),
    (SYSTEM + "  target: 'toys.Flow; ls'", "expected an import path of public names"),
    (SYSTEM + "  target: ''", "expected an import path of public names"),
    (SYSTEM + "  target: 3", "system.target: 3: expected an import path of public names"),
    (SYSTEM + "  target: [toys.Flow]", "expected an import path of public names"),
    (
        SYSTEM + "  target: toys.CONSTANT",
        "system.target: toys.CONSTANT: cannot be called, it is a int; expected a class",
    ),
    (
        SYSTEM + "  target: toys.broken",
        "system.target: toys.broken: importing toys.broken failed (RuntimeError: half a ",
    ),
    (SYSTEM + "  target: toys.broken.X", "importing toys.broken failed (RuntimeError: half a module)"),
    (
        SYSTEM + "  target: iin.confg.load",
        "system.target: iin.confg.load: there is no confg in iin; did you mean config",
    ),
    (SYSTEM + "  target: torch.nn", "system.target: torch.nn: cannot be called, it is a module"),
    (SYSTEM + "  target: iin.config.resolve\n  params: {target: os.system, allow: [os]}", "is of the machinery"),
    (SYSTEM + "  target: iin.plan.plan_resume\n  params: {run: x, allow: [posix]}", "is of the machinery"),
    (SYSTEM + "  target: iin.experiment.load\n  params: {folder: ., allow: [posix]}", "is of the machinery"),
    (SYSTEM + "  target: iin.run.Run\n  params: {folder: .}", "is of the machinery"),
    (SYSTEM + "  target: iin.data.sources.fetch", "is of the machinery"),
    (SYSTEM + "  target: iin.data.MNIST.rows", "is of the machinery"),
    (SYSTEM + "  target: iin.config", "system.target: iin.config: cannot be called, it is a module"),
    (SYSTEM + "  target: toys.Abstract", "system.target: Abstract is abstract; name one of its subclasses (a.yaml)"),
    (SYSTEM + "  target: toys.by_position", "system.params: by_position takes x without a name"),
    (SYSTEM + "  target: toys.pair\n  params: {first: 2, second: 1}", "system: first must be below second (a.yaml)"),
    (SYSTEM + "  target: toys.pair\n  params: {first: 2}", "system.params.second: missing; pair needs it (a.yaml)"),
    (
        SYSTEM + "  target: torch.nn.Linear\n  params: {in_features: 2, out_feature: 3, out_features: 3}",
        "out_feature: ",
    ),
    # quick, though it is not asked for
    (
        change("train: {epochs: 1}", "train: {epohcs: 1}"),
        "quick.train.epohcs: unknown key; did you mean epochs? (a.yaml)",
    ),
    (
        change("train: {epochs: 1}", "train: {epochs: 0}"),
        "quick.train.epochs: expected an integer >= 1, found 0 (a.yaml)",
    ),
    (
        change("params: {blocks: 1}", "params: {block: 1}"),
        "quick.system.params.flow.params.block: Flow has no such argu",
    ),
    (change("train: {epochs: 1}", "trian: {}"), "quick.trian: unknown key; did you mean train? (a.yaml)"),
    (change("train: {epochs: 1}", "quick: {}"), "quick.quick: a section quick has no place here (a.yaml)"),
    (change("train: {epochs: 1}", "train: 3"), "quick.train: expected a mapping, found 3 (a.yaml)"),
    (
        change("quick:\n", "quick: 3\nwandb:\n").replace("  system: {p", "  #").replace("  train: {e", "  #"),
        "quick: exp",
    ),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_mistakes_of_files(text: str, message: str) -> None:
    found = mistakes(text)
    assert any(message in line for line in found), found
    assert all(line.endswith("(a.yaml)") for line in found), found
    if "x:\n" not in text and "wandb:\n" not in text:  # which break several things at once
        # A quick section may suffer from the mistake as well.
        assert len([line for line in found if message.startswith("quick") or not line.startswith("quick")]) == 1, found


def test_all_mistakes_are_listed_at_once_in_order() -> None:
    text = BASE.replace("epochs: 3", "epochs: 0").replace("[2, 2]", "[3, 2]").replace("toys.data}\n  t", "os.x}\n  t")
    found = mistakes(text, "seed: -1", overrides=["nonsense", "train.lrr=3", "train.lr=0"])
    assert [line.split(":")[0] for line in found] == [
        "nonsense",
        "train.epochs",
        "train.lr",
        "train.lrr",
        "seed",
    ]  # targets of other packages wait for check, which alone knows what is allowed
    found = mistakes(text, "seed: -1", overrides=["train.lrr=3", "train.lr=0"])
    assert [line.split(":")[0] for line in found] == [
        "data.train.target",
        "system.params.factors",
        "train.epochs",
        "train.lr",
        "train.lrr",
        "seed",
    ]
    assert found[-1] == "seed: expected an integer >= 0, found -1 (b.yaml)"
    assert found == mistakes(text, "seed: -1", overrides=["train.lrr=3", "train.lr=0"])


def test_checks_of_several_arguments_do_not_wait_for_sound_ones() -> None:
    found = mistakes(change("factors: [2, 2]", "factors: [3, 2]\n    rho: 1.5"))
    assert [line.split(": ")[0] for line in found] == ["system.params.rho", "system.params.factors"]
    # ... but those that cannot do with what they get stay silent: the reason is named already
    found = mistakes(change("factors: [2, 2]", "factors: [2, x]"))
    assert [line.split(": ")[0] for line in found] == ["system.params.factors[1]"]


def test_missing_top_level_keys_name_all_files() -> None:
    found = mistakes("name: x", "seed: 1")
    assert found == [
        "data: missing; every configuration needs it (a.yaml, b.yaml)",
        "system: missing; every configuration needs it (a.yaml, b.yaml)",
    ]


def test_mistakes_of_quick_runs() -> None:
    text = change("train: {epochs: 1}", "train: {epochs: 0}")
    assert mistakes(text, quick=True) == ["quick.train.epochs: expected an integer >= 1, found 0 (a.yaml)"]
    assert mistakes(text, quick=True, overrides=["train.epochs=2"]) == []


def test_a_quick_section_for_a_target_that_another_file_replaced_is_no_mistake() -> None:
    assert mistakes(BASE, "system: {target: toys.data}") == []


def test_good_configurations_pass() -> None:
    assert mistakes(BASE) == []
    assert mistakes(BASE, quick=True) == []
    assert mistakes(BASE + "version: 1\nseed: 0\nlogs: [wandb, tensorboard]\nwandb: {tags: [a], mode: offline}") == []
    good = [
        "rho: 0.5",
        "options: {a: 1}",
        "limit: null",
        "fancy: rich",
        "folder: some/where",
        "data: {anything: [1, {goes: x}]}",
        "blocks: [{target: toys.Flow, params: {dim: 1}}, {target: toys.flow, params: {dim: 2}}]",
        "blocks: {target: toys.flow, params: {dim: 1}}",
        "rho: {target: toys.pair, params: {first: 1, second: 2}}",
    ]
    for line in good:
        assert mistakes(change("factors: [2, 2]", line)) == []
    assert mistakes(change("evaluate:\n", "evaluate: {}\n_:\n").split("_:")[0]) == []
    assert (
        mistakes(change("{target: toys.Flow, params: {dim: 4}}", "{target: toys.Flow, params: {dim: 4, ghost: 3}}"))
        == []
    )
    assert mistakes(SYSTEM + "  target: toys.anything\n  params: {what: ever}") == []
    assert mistakes(SYSTEM + "  target: toys.Methodical") == []
    assert mistakes(SYSTEM + "  target: toys.data\n  params:") == []
    assert (
        mistakes(SYSTEM + "  target: torch.nn.Linear\n  params: {in_features: 2, out_features: 3, bias: false}") == []
    )


def test_checks_see_a_copy_of_the_arguments() -> None:
    config = load([write("a.yaml", BASE)])
    check(config, allow=["toys"])
    assert "touched" not in config.tree["system"]["params"]["flow"]["params"]


def test_nothing_is_built_by_checking(toys: Any) -> None:
    toys.LOG.clear()
    check(load([write("a.yaml", BASE)]), allow=["toys"])
    assert toys.LOG == []


def test_a_package_that_is_not_allowed_is_not_imported() -> None:
    os.environ.pop("IIN_STRANGER", None)
    assert mistakes(SYSTEM + "  target: stranger.run")
    with pytest.raises(ConfigError):
        resolve("stranger.run")
    with pytest.raises(ConfigError):
        build({"target": "stranger.run"})
    assert "IIN_STRANGER" not in os.environ
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("name", ["", "*", ".", "a b", "os.*", "_private", "toys.", "-x", "no_such_package_anywhere"])
def test_allow_takes_packages_only(name: str) -> None:
    with pytest.raises(ConfigError, match="--allow"):
        check(load([write("a.yaml", BASE)]), allow=[name])


def test_a_configuration_made_in_memory() -> None:
    tree = load([write("a.yaml", BASE)]).tree
    check(Config(tree), allow=["toys"])
    tree["train"]["epochs"] = 0
    with pytest.raises(ConfigError) as caught:
        check(Config(tree), allow=["toys"])
    assert caught.value.mistakes == ["train.epochs: expected an integer >= 1, found 0"]
    tree["train"] = {"lr": float("inf")}
    with pytest.raises(ConfigError, match=r"train.lr: expected a number > 0, found Infinity"):
        check(Config(tree), allow=["toys"])


def test_no_configuration() -> None:
    with pytest.raises(ConfigError, match="no configuration given"):
        load([])


# --- hints -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "good", "bad", "words"),
    [
        (int, [0, -3, 10**30], [1.0, True, "3", None], "an integer"),
        (float, [0, 1.5], [True, "3", None, float("nan"), float("inf")], "a number"),
        (bool, [True, False], [0, 1, "true", None], "true or false"),
        (str, ["", "x"], [0, True, None, ["x"]], "text"),
        (Count, [1, 2], [0, 1.0], "an integer >= 1"),
        (Even, [2, 4], [0, 3], "an integer >= 2 and divisible by 2"),
        (NonNegativeInt | None, [0, None], [-1, False], "an integer >= 0 or null"),
        (Positive, [1, 1e-9], [0, -1], "a number > 0"),
        (Fraction, [0.5], [0, 1, 1.0], "a number > 0 and < 1"),
        (Annotated[float, Interval(ge=0, le=1)], [0, 1], [-0.1, 1.1], "a number >= 0 and <= 1"),
        (Literal["a", "b"], ["a"], ["c", 1], "a or b"),
        (Literal[1, 2], [1], [True, "1", 3], "1 or 2"),
        (list[int], [[], [1, 2]], [1, ["x"], {}], "a list, each an integer"),
        (tuple[int, str], [[1, "x"]], [["x", 1], [1]], "a list of 2, of an integer, text"),
        (
            Annotated[list[int], Len(1, 2)],
            [[1], [1, 2]],
            [[], [1, 2, 3]],
            "a list of at least 1 and at most 2, each an",
        ),
        (list, [[], [1, "x"]], [{}, 3], "a list"),
        (dict[str, float], [{}, {"a": 1}], [{"a": "x"}, []], "a mapping"),
        (Annotated[dict[str, int], Len(1)], [{"a": 1}], [{}], "a mapping"),
        (str | list[int], ["x", [1]], [["x"], 3], "text or a list, each an integer"),
        (Any, [None, 3, {}], [], "anything"),
        (Path, ["x"], [3], "a path"),
        (str | os.PathLike[str], ["x"], [3], "text or a path"),
        (Callable[[int], int], [], [3, "x"], "a Callable"),
    ],
)
def test_hints(hint: Any, good: list[Any], bad: list[Any], words: str) -> None:
    assert describe(hint).startswith(words)
    for value in good:
        assert list(mismatches(hint, value, lambda node: None)) == [], value
    for value in bad:
        assert list(mismatches(hint, value, lambda node: None)), value


def test_training_defaults_fit_their_own_hints() -> None:
    import typing

    hints = typing.get_type_hints(Training, include_extras=True)
    for name, value in vars(Training()).items():
        value = list(value) if isinstance(value, tuple) else value
        assert list(mismatches(hints[name], value, lambda node: None)) == [], name
    assert Training(betas=[0.1, 0.2]).betas == (0.1, 0.2)  # type: ignore[arg-type]


# --- building -----------------------------------------------------------------------


def test_build_innermost_first(toys: Any) -> None:
    config = load(
        [write("a.yaml", BASE)], ["system.params.data={deep: [{target: toys.pair, params: {first: 1, second: 2}}]}"]
    )
    check(config, allow=["toys"])
    toys.LOG.clear()
    system = build(config.tree["system"])
    assert toys.LOG == ["Flow", "System"]
    assert isinstance(system.arguments["flow"], toys.Flow)
    assert system.arguments["flow"].dim == 4
    assert system.arguments["factors"] == [2, 2]
    assert system.arguments["data"] == {"deep": [[1, 2]]}


def test_build_gives_extras_to_the_outermost(toys: Any) -> None:
    check(
        load([write("a.yaml", SYSTEM + "  target: toys.anything\n  params: {a: {target: toys.anything}, node: 1}")]),
        allow=["toys"],
    )
    tree = load(["a.yaml"]).tree
    assert build(tree["system"], a=2, target=3) == {"a": 2, "node": 1, "target": 3}
    assert build(tree["system"]) == {"a": {}, "node": 1}
    with pytest.raises(ConfigError, match="nothing to build"):
        build({"a": 1}, b=2)


def test_arguments_may_be_called_target() -> None:
    check(load([write("a.yaml", BASE)]), allow=["toys"])
    assert build({"target": "toys.data", "params": {"target": "color"}}) == ("data", 0, "color")


def test_data_is_copied_by_building() -> None:
    data = {"a": [1, {"b": 2}]}
    found = build(data)
    assert found == data
    found["a"][1]["b"] = 3
    assert data == {"a": [1, {"b": 2}]}


def test_build_refuses_what_was_not_checked() -> None:
    for target in ("os.getcwd", "toys.not_checked", "iin.config.files.Path", 3):
        with pytest.raises(ConfigError):
            build({"target": target})
    check(load([write("a.yaml", BASE)]), allow=["toys"])
    with pytest.raises(ConfigError, match="--allow toys"):
        build({"target": "toys.by_position"})  # of the package that was allowed, but not checked


def test_resolve(toys: Any) -> None:
    assert resolve("toys.Flow", ["toys"]) is toys.Flow
    assert resolve("toys.System.check", ["toys"]) is toys.System.check
    assert resolve("torch.nn.Linear").__module__ == "torch.nn.modules.linear"
    with pytest.raises(ConfigError, match="lies outside"):
        resolve("toys.Flow")


# --- the whole -----------------------------------------------------------------------


def test_importing_the_package_is_light() -> None:
    code = "import sys, iin.config; print(sorted({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(configuration.__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(result.stdout.replace("'", '"')) == []


def test_what_a_run_stores_is_the_same_configuration() -> None:
    config = load([write("a.yaml", BASE)], ["train.lr=1e-4"], quick=True)
    again = load([write("run/config.yaml", dump(config.tree))])
    assert again.tree == config.tree
    assert digest(again.tree) == digest(config.tree)
    check(again, allow=["toys"])


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_shipped_configurations_are_sound(name: str, quick: bool) -> None:
    # A file without a system is an overlay: it stands behind another.
    alone = "system" in load([name]).tree
    check(load([name] if alone else ["mnist_diin", name], quick=quick))


def test_a_null_entry_of_evaluate_is_not_measured(tmp_path: Path) -> None:
    """A quick section, a later file or an override can leave a metric out."""
    base = tmp_path / "base.yaml"
    base.write_text(
        "name: a\ndata: {}\nsystem: {}\nevaluate: {one: {target: iin.A}, two: {target: iin.B}}\n"
        "quick: {evaluate: {two: null}}\n"
    )
    assert set(load([base]).tree["evaluate"]) == {"one", "two"}
    assert set(load([base], quick=True).tree["evaluate"]) == {"one"}
    assert set(load([base], ["evaluate.one=null"]).tree["evaluate"]) == {"two"}
