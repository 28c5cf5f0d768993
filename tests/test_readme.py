"""What the README says can be done: its own-data example runs, and its links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from original import autoencoder_state, flow_state
from test_compat import write

import iin
from iin.cli import explore, train

README = Path(__file__).resolve().parents[1] / "README.md"


def block(first_line: str) -> str:
    """The code block of the README that begins with this comment."""
    for code in re.findall(r"```\w+\n(.*?)```", README.read_text(), re.DOTALL):
        if code.startswith(first_line):
            return code
    raise AssertionError(f"the README has no block {first_line!r}")


def test_own_data_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "mine.py").write_text(block("# mine.py"))
    (tmp_path / "mine.yaml").write_text(block("# mine.yaml"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert explore.main(["-b", "mine.yaml", "--allow", "mine", "--save", "data.html"]) == 0
    assert train.main(["-b", "mine.yaml", "--allow", "mine", "train.epochs=2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("Run folder: logs/")
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def test_published_weights_are_evaluated_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    text = block("# published.yaml")
    folder, file = re.findall(r"checkpoint: ([^}]+)}", text)
    write(Path(folder, "train", "checkpoints", "model-120000.ckpt"), autoencoder_state(1, 32, 4, 8, 64))
    write(Path(file), flow_state(64, blocks=12, hidden=16, depth=2))
    Path("published.yaml").write_text(text)
    overrides = ["train.steps=0", "evaluate=nll,inversion"]
    assert train.main(["-b", "mnist_iin", "published.yaml", *overrides]) == 0  # whose data are here
    (run,) = Path("logs").glob("*_mnist_iin")
    assert iin.load(run).sample(2).shape == (2, 1, 32, 32)


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_no_blank_is_left_to_fill_in() -> None:
    assert not re.search(r"@\w+@", README.read_text())
