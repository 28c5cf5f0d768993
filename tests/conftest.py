"""One thread and one seed for every test, and where the recordings of the original implementations are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REFERENCE = Path(os.environ.get("IIN_REFERENCE") or Path(__file__).resolve().parents[2] / "shared" / "reference")


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    monkeypatch.setenv("IIN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("IIN_LOGS", raising=False)
    monkeypatch.delenv("IIN_DATA", raising=False)


@pytest.fixture
def recording():
    """Load a recording of the original implementations by its path below the reference folder."""

    def load(name: str):
        path = REFERENCE / name
        if not path.is_file():
            pytest.skip(f"no recording {name}: set IIN_REFERENCE to the folder of recorded outputs")
        return torch.load(path, weights_only=True)

    return load
