"""``factors: auto`` and ``iin-eval --write``: factor sizes that are estimated, not given."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from runs import die, evaluate, killed, only, train

import iin
from iin import experiment
from iin.config import Config, check
from iin.data import Visit
from iin.experiment import load
from iin.factors import MARK, provisional, settle, write_overlay
from iin.metrics.dims import at_least_one, factor_dims, factor_scores
from iin.run import Run
from iin.seeds import mix
from iin.systems.factor import FactorFlow, equal_parts

Errors = Callable[[], str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ``ae.yaml`` and ``auto.yaml``, whose factors are to be estimated."""
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path / "ae.yaml", tiny.autoencoder())
    tiny.write(tmp_path / "auto.yaml", auto())
    return tmp_path


@pytest.fixture
def errors(capsys: pytest.CaptureFixture[str]) -> Errors:
    return lambda: capsys.readouterr().err


def auto(first_stage: Any = None, **train: Any) -> dict[str, Any]:
    tree = tiny.flow(first_stage or {"config": "ae.yaml"}, **train)
    tree["system"]["params"]["factors"] = "auto"
    tree["evaluate"]["dims"] = tiny.node("iin.metrics.FactorDims")
    return tree


def sizes(run: Run) -> list[int]:
    return yaml.safe_load(run.config_file.read_text())["system"]["params"]["factors"]


# --- estimated before training --------------------------------------------------------------------------------------


def test_auto_is_settled_from_the_training_pairs_and_kept_in_the_runs_configuration(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train("-b", "auto.yaml") == 0
    run = only(here / "logs", "*_toy_flow")
    system: Any = load(run, allow=["tiny"]).system  # whose first stage is the trained one
    batch = tiny.SidePairs(24)[Visit(range(24), mix(0, 4))]
    scores = factor_scores(system.code(batch.image), system.code(batch.other), batch.shared)
    found = sizes(run)
    assert f"side {found[0]} (score {scores[0]:.3f}), residual {found[1]} (score 1.000)" in caplog.text
    assert sum(found) == 4 and min(found) >= 1
    assert found == at_least_one(factor_dims(scores, 4))
    assert system.factors == tuple(found)


def test_a_sorted_set_is_looked_at_all_over_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watched(tiny.SidePairs):
        def __getitem__(self, indices: Any) -> Any:
            seen.extend(indices)
            return super().__getitem__(indices)

    tree = auto()
    tree["system"]["params"]["first_stage"] = tiny_stage()
    tree = tree_of(tree)
    data = Watched(240)
    monkeypatch.setattr("iin.factors.datasets", lambda *_: [data])
    monkeypatch.setattr("iin.factors.PAIRS", 60)
    found = []
    for size in (7, 60):
        seen.clear()
        tree_now = copy.deepcopy(tree)
        tree_now["train"]["eval_batch_size"] = size
        settle(tree_now)
        assert len(seen) == 60 and min(seen) == 0 and max(seen) == 239
        found.append(tree_now["system"]["params"]["factors"])
    assert found[0] == found[1]


def tiny_stage() -> dict[str, Any]:
    return tiny.node("iin.models.Autoencoder", channels=1, size=8, dim=4, n_down=2, width=4)


def tree_of(tree: dict[str, Any]) -> dict[str, Any]:
    """The configuration, with its own targets trusted."""
    config = Config(tree)
    check(config, allow=["tiny"])
    return config.tree


def test_a_shared_factor_gets_more_than_its_even_share_and_noise_gets_less() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(4000, 8, generator=generator)
    second = torch.randn(4000, 8, generator=generator)
    shared = torch.zeros(4000, 3, dtype=torch.bool)
    shared[:2000, 0] = shared[2000:, 1] = True
    second[:2000] = first[:2000]  # factor 0 is all that the code knows; factor 1 is not in it
    found = factor_dims(factor_scores(first, second, shared), 64)
    assert found[0] > 64 / 3 > found[1] and sum(found) == 64


def test_a_second_run_of_the_same_auto_configuration_is_found_as_a_first_stage(here: Path) -> None:
    outer = {
        **tiny.autoencoder(),
        "name": "outer",
        "system": tiny.node(
            "iin.systems.LatentFlow",
            first_stage=tiny.node("iin.first_stage.pretrained", config="auto.yaml", part="first_stage"),
            flow=tiny.node("iin.flows.vector_flow", dim=4, blocks=1, hidden=4, depth=1),
        ),
        "evaluate": {},
    }
    tiny.write(here / "outer.yaml", outer)
    assert train("-b", "outer.yaml") == 0
    assert train("-b", "outer.yaml", "seed=1") == 0
    assert len(list((here / "logs").glob("*_toy_flow"))) == 1
    for run in (here / "logs").glob("*_outer*"):
        inner = yaml.safe_load((run / "config.yaml").read_text())["system"]["params"]["first_stage"]["params"]["config"]
        assert sum(inner["system"]["params"]["factors"]) == 4
        load(run, allow=["tiny"])


def test_an_unfinished_run_keeps_its_sizes_and_is_gone_on_with(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("-b", "ae.yaml") == 0
    killed(
        ["-b", "auto.yaml", "train.checkpoint_every=1"],
        lambda: monkeypatch.setattr(experiment, "_write_environment", die),
    )
    run = only(here / "logs", "*_toy_flow")
    before = sizes(run)
    assert train("-r", run.folder) == 0
    assert sizes(run) == before and run.state["state"] == "finished"


def test_a_rehearsal_says_that_the_sizes_will_be_estimated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-b", "auto.yaml", "--dry-run") == 0
    assert "factors: auto, estimated from the training pairs" in capsys.readouterr().out
    assert not (here / "logs").exists()


def test_auto_on_images_without_pairs_is_refused_before_anything_is_trained(here: Path, errors: Errors) -> None:
    assert train("-b", "auto.yaml", "data.train.target=tiny.Sides") == 2
    assert "system.params.factors: auto needs training pairs with named factors" in errors()
    assert not list(here.glob("logs/*"))


def test_a_run_cannot_be_made_auto_again(here: Path, errors: Errors) -> None:
    assert train("-b", "auto.yaml") == 0
    run = only(here / "logs", "*_toy_flow")
    assert train("-r", run.folder, "system.params.factors=auto", "train.epochs=3") == 2
    assert "a run keeps the sizes that it began with" in errors()


def test_a_misspelt_auto_names_what_was_expected(here: Path, errors: Errors) -> None:
    assert train("-b", "auto.yaml", "system.params.factors=automatic") == 2
    line = errors()
    assert "system.params.factors" in line and "auto" in line and line.count("\n") == 1


def test_a_code_that_never_varies_is_one_line(here: Path, errors: Errors) -> None:
    tree = auto()
    tree["system"]["params"]["first_stage"] = tiny.node("tiny.Blind")
    tiny.write(here / "blind.yaml", tree)
    assert train("-b", "blind.yaml") == 2
    assert "system.params.factors: auto cannot be settled: the codes of all" in errors()
    assert not list(here.glob("logs/*"))


def test_auto_is_not_for_python() -> None:
    with pytest.raises(ValueError, match="give sizes or a number"):
        FactorFlow(iin.models.Autoencoder(1, 8, 4, 2, 4), iin.flows.vector_flow(4, 1, 4, 1), "auto")


# --- a number of factors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "count", "expected"),
    [(64, 3, (22, 22, 20)), (64, 5, (13, 13, 13, 13, 12)), (16, 5, (4, 3, 3, 3, 3)), (4, 4, (1, 1, 1, 1))],
)
def test_equal_parts_are_those_of_the_original_or_even(dim: int, count: int, expected: tuple[int, ...]) -> None:
    assert equal_parts(dim, count) == expected


def test_more_factors_than_dimensions_are_refused(here: Path, errors: Errors) -> None:
    assert train("-b", "auto.yaml", "system.params.factors=5") == 2
    assert "5 factors, but the flow has 4 dimensions" in errors()


def test_provisional_sizes_fit_the_data() -> None:
    tree = auto()
    assert provisional(tree, tiny.Triples(8))["system"]["params"]["factors"] == 3
    assert tree["system"]["params"]["factors"] == "auto"
    given = tiny.flow({})
    assert provisional(given, tiny.Sides(8)) is given


def test_factors_without_a_unit_get_one_from_the_largest() -> None:
    assert at_least_one([0, 0, 5]) == [1, 1, 3]
    assert at_least_one([2, 3]) == [2, 3]
    with pytest.raises(ValueError, match="2 dimensions are too few for 3 factors"):
        at_least_one([0, 0, 2])


# --- written by an evaluation -----------------------------------------------------------------------------------------


def test_measured_sizes_are_written_as_an_overlay_that_a_flow_takes(here: Path) -> None:
    tree = tiny.autoencoder()
    tree["data"]["test"] = tiny.node("tiny.SidePairs", count=24)
    tree["evaluate"]["dims"] = tiny.node("iin.metrics.FactorDims")
    tiny.write(here / "dims.yaml", tree)
    assert train("-b", "dims.yaml") == 0
    run = only(here / "logs")
    assert evaluate("-p", run.folder, "evaluate=dims", "--write", "sizes.yaml") == 0
    text = (here / "sizes.yaml").read_text()
    figures = json.loads((run.folder / "eval" / "step-00000012" / "metrics.json").read_text())
    measured = [figures["dims/code/side"], figures["dims/code/residual"]]
    assert yaml.safe_load(text) == {"system": {"params": {"factors": measured}}}
    assert text.startswith(MARK) and str(run.folder) in text
    tiny.write(here / "flow.yaml", tiny.flow({"config": "ae.yaml"}))
    assert train("-b", "flow.yaml", "sizes.yaml") == 0
    assert sizes(only(here / "logs", "*_toy_flow")) == measured
    assert evaluate("-p", run.folder, "evaluate=dims", "--write", "sizes.yaml") == 0  # its own file may be replaced


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("ae.yaml", "exists, and was not written by --write"),
        ("sizes.txt", "expected a file named .yaml"),
        ("absent/sizes.yaml", "there is no folder absent"),
    ],
)
def test_where_an_overlay_cannot_go_nothing_is_measured(
    here: Path, errors: Errors, monkeypatch: pytest.MonkeyPatch, file: str, words: str
) -> None:
    assert train("-b", "ae.yaml") == 0
    run = only(here / "logs")
    before = (here / "ae.yaml").read_bytes()
    errors()
    monkeypatch.setattr(experiment, "evaluate_run", lambda *_, **__: pytest.fail("measured"))
    assert evaluate("-p", run.folder, "--write", file) == 2
    assert words in (line := errors()) and line.count("\n") == 1
    assert (here / "ae.yaml").read_bytes() == before


def test_an_evaluation_without_dimensions_has_nothing_to_write(here: Path, errors: Errors) -> None:
    assert train("-b", "ae.yaml") == 0
    assert evaluate("-p", only(here / "logs").folder, "evaluate=noise", "--write", "sizes.yaml") == 2
    assert "no factor sizes were measured" in errors() and not (here / "sizes.yaml").exists()


def test_a_name_cannot_smuggle_settings_into_an_overlay(tmp_path: Path) -> None:
    figures = {"dims/code/hat\ntrain: {steps: 0}\n#": 0.0, "dims/code/residual": 4.0}
    write_overlay(tmp_path / "sizes.yaml", figures, "logs/a\nb")
    found = yaml.safe_load((tmp_path / "sizes.yaml").read_text())
    assert found == {"system": {"params": {"factors": [1, 3]}}}  # none without a dimension


def test_an_overlay_never_replaces_a_file_of_somebodys_own(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("name: mine\n")
    with pytest.raises(ValueError, match="was not written by --write"):
        write_overlay(tmp_path / "own.yaml", {"dims/code/a": 2.0, "dims/code/b": 2.0}, "x")
    assert (tmp_path / "own.yaml").read_text() == "name: mine\n"


def test_a_changed_run_is_no_longer_found_as_the_configuration_that_was_asked_for(here: Path) -> None:
    assert train("-b", "auto.yaml") == 0
    run = only(here / "logs", "*_toy_flow")
    asked = run.state["asked"]
    assert Run.find(here / "logs", asked) is not None
    assert train("-r", run.folder, "train.epochs=3", "train.lr=0.02") == 0
    assert Run.find(here / "logs", asked) is None


def test_a_system_that_tells_no_codes_cannot_have_auto(here: Path, errors: Errors) -> None:
    tree = auto()
    tree["system"] = tiny.node("tiny.Codeless", factors="auto")
    tiny.write(here / "codeless.yaml", tree)
    assert train("-b", "codeless.yaml", "--dry-run") == 2
    assert "system.params.factors: auto needs a system with code(image) and dim" in errors()


def test_settling_without_auto_changes_nothing() -> None:
    tree = tiny.flow({})
    before = copy.deepcopy(tree)
    settle(tree)
    assert tree == before
