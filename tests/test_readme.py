"""What the README says can be done: its own-data example runs, and its links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

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


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_no_blank_is_left_to_fill_in() -> None:
    assert not re.search(r"@\w+@", README.read_text())
