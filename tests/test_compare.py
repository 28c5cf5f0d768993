"""The page that sets runs side by side: groups, spreads, charts, and what it makes of runs that lack something."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_report import Reader
from tiny import autoencoder

from iin import pictures
from iin.building import COSMETIC
from iin.cli import report as command
from iin.record import encode
from iin.report import compare, compare_charts, comparison
from iin.report.compare_charts import Mark
from iin.system import Loop, Picture


def fabricate(
    logs: Path, name: str, figures: Mapping[str, float], seed: int = 0, steps: int = 40, **settings: Any
) -> Path:
    """The folder of a finished run whose system has these arguments."""
    folder = logs / name
    (folder / "images").mkdir(parents=True)
    target = settings.pop("target", "iin.systems.JacobianVAE")
    tree = {
        **autoencoder(),
        "name": name,
        "seed": seed,
        "system": {"target": target, "params": {"dim": 6, **settings}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    (folder / "state.json").write_text(json.dumps({"state": "finished", "step": steps}))
    lines = [encode(s, 0, "train", {"loss": 30 + 60 / s + seed}) for s in range(2, steps + 1, 2)]
    lines += [encode(s, 0, "test", {k: v * s / steps for k, v in figures.items()}) for s in (steps // 2, steps)]
    (folder / "metrics.jsonl").write_bytes(b"".join(lines if figures else lines[:-2]))
    grid = torch.full((2, 4, 1, 8, 8), math.tanh(seed - 1.0))
    pictures.write(folder / "images", {"traversals": Picture(grid, "Traversals", "One code a row.")}, steps)
    return folder


def scores(gamma: float, seed: int) -> dict[str, float]:
    level = 0.3 + gamma + 0.01 * seed
    return {
        "disentanglement/mig": level,
        "disentanglement/modularity": 1 - level / 2,
        **{f"local_mig/{radius:g}": level * (1 - radius) for radius in (0.1, 0.2, 0.6)},
        "reconstruction/mae": 0.1 + gamma + 0.01 * seed,
    }


@pytest.fixture
def swept(tmp_path: Path) -> list[Path]:
    """Three values of gamma, with two seeds each."""
    return [
        fabricate(tmp_path / "logs", f"run_{gamma}_{seed}", scores(gamma, seed), seed, gamma=gamma)
        for gamma in (0.1, 0.01, 0.0)
        for seed in (1, 0)
    ]


def page_of(folders: list[Path], **more: Any) -> tuple[str, Reader]:
    page = compare.render(compare.compare(folders), **more)
    return page, Reader(page)


def test_runs_that_differ_in_the_seed_are_a_group(swept: list[Path]) -> None:
    found = compare.compare(swept)
    assert found.keys == ["system.params.gamma"]
    assert [group.label for group in found.groups] == ["gamma=0.0", "gamma=0.01", "gamma=0.1"]
    assert [run.name for run in found.groups[1].runs] == ["run_0.01_0", "run_0.01_1"]
    values = [scores(0.01, seed)["disentanglement/mig"] for seed in (0, 1)]
    assert found.groups[1].mean("disentanglement/mig") == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert found.groups[1].deviation("disentanglement/mig") == pytest.approx(statistics.stdev(values), abs=1e-12)


def test_the_page_is_whole_and_fetches_nothing(swept: list[Path]) -> None:
    page, reader = page_of(swept, title="Gamma <1")
    assert reader.sources and all(source.startswith("data:image/") for source in reader.sources)
    assert "<h1>Gamma &lt;1</h1>" in page and "6 runs in 3 groups" in page
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == ["Runs", "Figures", "Against the radius", "Over gamma", "Curves", "Pictures", "All figures"]
    table = page.split("<tbody>")[1].split("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    assert len(rows) == 3 and all(re.sub(r"<.*?>", " ", row).split()[1] == "2" for row in rows)
    assert "0.3050<small>± 0.0071</small>" in rows[0]  # 0.01 / sqrt(2)


def test_what_moves_stands_beside_each_other(swept: list[Path]) -> None:
    level = torch.linspace(-1, 1, 3).view(1, 3, 1, 1, 1).expand(2, 3, 1, 8, 8)
    for folder in swept:
        pictures.write(folder / "images", {"traversals": Picture(level, "Traversals", loop=Loop(level))}, 40)
    page, reader = page_of(swept)
    assert len([source for source in reader.sources if source.startswith("data:image/webp")]) == 3  # one a group
    block = page.split("<summary>Traversals in motion</summary>")[1].split("</details>")[0]
    assert re.findall(r"<b>(gamma=.*?)</b>", block) == ["gamma=0.0", "gamma=0.01", "gamma=0.1"]


def test_pictures_that_tell_runs_apart_are_open_and_stand_first(swept: list[Path]) -> None:
    image = torch.linspace(-1, 1, 3).view(1, 3, 1, 1, 1).expand(2, 3, 1, 8, 8)
    for folder in swept:
        more = {name: Picture(image) for name in ("inputs", "jacobian", "reconstructions", "samples", "fixed_samples")}
        pictures.write(folder / "images", {**more, "traversals": Picture(image, loop=Loop(image))}, 40)
    found = re.findall(r"<details( open)?><summary>(.*?)</summary>", page_of(swept)[0].split("<h2>Pictures</h2>")[1])
    assert [title for is_open, title in found if is_open] == [
        "Reconstructions", "Jacobian", "Traversals", "Traversals in motion"
    ]  # fmt: skip
    assert [title for _, title in found[4:7]] == ["Fixed samples", "Samples", "Inputs"]


def test_the_best_is_marked_where_one_way_is_good(swept: list[Path]) -> None:
    page, _ = page_of(swept, figures=["reconstruction/mae", "loss/unknown"])
    table = page.split("<tbody>")[1].split("</tbody>")[0]
    (best,) = [k for k, row in enumerate(re.findall(r"<tr>(.*?)</tr>", table)) if 'class="best"' in row]
    assert best == 0  # the lowest error is that of gamma = 0


def test_one_figure_stands_against_another_along_what_varies(swept: list[Path]) -> None:
    page, _ = page_of(swept)
    chart = page.split("<h2>Over gamma</h2>")[1].split("</svg>")[0]
    labels = re.findall(r'<text class="name"[^>]*>(.*?)</text>', chart)
    assert labels == ["0.0", "0.01", "0.1"]
    places = [float(x) for x in re.findall(r'<circle class="s0" cx="([\d.]+)"', chart)]
    assert len(places) == 3 and places == sorted(places, reverse=True)  # modularity falls with gamma


def test_runs_of_other_systems_stand_beside_each_other(tmp_path: Path) -> None:
    one = fabricate(tmp_path, "vae", {"disentanglement/mig": 0.2}, target="iin.systems.VAE", beta=4)
    two = fabricate(tmp_path, "jl1", {"accuracy": 0.9}, gamma=0.1)
    found = compare.compare([one, two])
    assert [group.label for group in found.groups] == ["VAE beta=4", "JacobianVAE gamma=0.1"]
    page, _ = page_of([one, two])
    assert "<td>—</td>" in page and "±" not in page and "90.0%" in page


def test_what_is_missing_or_damaged_is_said(tmp_path: Path) -> None:
    whole = fabricate(tmp_path, "whole", {"accuracy": 0.9}, gamma=1)
    bare = fabricate(tmp_path, "bare", {}, gamma=2)
    broken = fabricate(tmp_path, "broken<b>", {"accuracy": math.nan})
    (broken / "config.yaml").write_text("{")
    (broken / "state.json").unlink()
    (broken / "images" / "traversals_step-00000040.png").write_bytes(b"no picture")
    page, reader = page_of([whole, bare, broken])
    said = "".join(reader.text)
    assert "Without figures, since nothing was evaluated yet: bare." in said
    assert "Not finished: broken<b>." in said and "unreadable: broken<b>." in said
    assert len([source for source in reader.sources if source.startswith("data:image")]) == 2
    assert '<em class="bad">nan</em>' in page


def test_many_differences_are_told_at_the_end(tmp_path: Path) -> None:
    folders = [
        fabricate(tmp_path, name, {"accuracy": level}, **{f"setting_{k}": level + k for k in range(9)})
        for name, level in (("one", 0.5), ("two", 0.7))
    ]
    page, _ = page_of(folders)
    assert "the first 6 of 9" in page and page.count("setting_8") == 1
    assert [group.label for group in compare.compare(folders).groups] == ["one", "two"]


def test_settings_that_leave_the_weights_alone_make_no_difference(swept: list[Path]) -> None:
    assert {f"train.{key}" for key in COSMETIC} <= comparison.ASIDE
    file = swept[0] / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**tree, "train": {**tree["train"], "workers": 3, "log_every": 7}}))
    assert len(compare.compare(swept).groups) == 3


def test_figures_are_chosen_by_patterns(swept: list[Path]) -> None:
    found = compare.compare(swept)
    assert compare.chosen(found)[:2] == ["disentanglement/mig", "disentanglement/modularity"]
    assert compare.chosen(found, ["mae", "local_*/0.[12]"]) == ["reconstruction/mae", "local_mig/0.1", "local_mig/0.2"]
    with pytest.raises(ValueError, match=r"--figures fid: no such figure; there are disentanglement/mig, "):
        compare.chosen(found, ["fid"])


def test_charts_leave_out_what_is_not_finite() -> None:
    assert compare_charts.dots([("a", [math.nan])]) == ""
    drawn = compare_charts.dots([("a<", [1.0, 3.0, math.inf]), ("b", [2.0])])
    circles = re.findall(r'<circle class="(s\d)[^"]*" cx="([\d.]+)"', drawn)
    assert [colour for colour, _ in circles] == ["s0", "s0", "s1"]
    middle = float(re.findall(r'class="curve s0" d="M([\d.]+)', drawn)[0])
    assert middle == float(circles[2][1]) == pytest.approx(190)  # the mean of 1 and 3 is 2, in the middle
    assert compare_charts.against({}, "x") == "" and compare_charts.with_errors({}, "x") == ""
    lone = compare_charts.against({"": [Mark(1, 1, label="only")]}, "x")
    assert "only" in lone and "nan" not in lone


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_writes_one_file(swept: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "all.html"
    assert command.main([str(tmp_path / "logs"), str(swept[0]), "--save", str(file), "--title", "All of them"]) == 0
    said = capsys.readouterr()
    assert said.out == f"Report: {file} (6 runs)\n" and said.err == f"{swept[0]}: named twice, taken once\n"
    Reader(file.read_text())
    assert "<title>All of them</title>" in file.read_text()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["{0}", "{0}"], "a comparison needs at least 2 runs, found 1"),
        (["{0}", "{logs}/absent"], "absent: not a run folder, it does not exist"),
        (["{0}", "{1}", "--save", "page.txt"], "--save page.txt: expected a file named .html"),
        (["{0}", "{1}", "--save", "absent/page.html"], "--save absent/page.html: there is no folder absent"),
        (["{0}", "{1}", ""], "'': no run; expected the path of a folder"),
        (["{0}", "{1}", "--save", "x" * 240 + ".html"], "File name too long: '" + "x" * 240 + ".html'"),
        (["{0}", "{1}", "--figures", "fid"], "--figures fid: no such figure"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    complaint: str,
    swept: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.format(*swept, logs=tmp_path / "logs") for word in words]
    assert command.main([*words, *([] if "--save" in words else ["--save", "page.html"])]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "named twice" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: ") and complaint in lines[0]
    assert not (tmp_path / "page.html").exists()


def test_what_was_swept_is_told_beside_runs_of_another_kind(swept: list[Path], tmp_path: Path) -> None:
    other = {"target": "iin.systems.VAE", **{f"a{number}": number for number in range(8)}}
    folders = [*swept, fabricate(tmp_path / "more", "other", scores(0.0, 0), **other)]
    found = compare.compare(folders)
    assert found.keys[0] == "system.params.gamma"
    assert [group.label for group in found.groups] == ["run_0.0", "run_0.01", "run_0.1", "other"]
    text, _ = page_of(folders)
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td>", text.split("Each run")[0])
    assert rows == [("run_0.0", "0.0"), ("run_0.01", "0.01"), ("run_0.1", "0.1"), ("other", "—")]


def test_a_long_list_of_settings_is_no_legend(swept: list[Path], tmp_path: Path) -> None:
    more = [
        fabricate(tmp_path / "more", f"more_{gamma}", scores(gamma, 0), gamma=gamma, **{f"a{k}": k for k in range(8)})
        for gamma in (0.0, 0.1)
    ]
    text, _ = page_of([*swept, *more])
    over = text.split("<h2>Over gamma</h2>")[1].split("</section>")[0]
    assert "more_0.0</li>" in over and "a1=1" not in over
