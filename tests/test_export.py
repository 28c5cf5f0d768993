"""Encoders of runs as files that torch alone reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import only, train
from torch import Tensor, nn

from iin import export, load
from iin.cli import export as command
from iin.flows import vector_flow
from iin.models import Autoencoder, ConvVAE, Layer
from iin.systems import Autoencoder as AutoencoderSystem
from iin.systems import JacobianVAE, LatentFlow

SYSTEMS: dict[str, Any] = {
    "autoencoder": lambda: AutoencoderSystem(Autoencoder(1, 8, 4, 2, 4)),
    "vae": lambda: JacobianVAE(ConvVAE(1, 8, 3, (4,), 3, 2, (8,), (8, 32), 4, ())),
    "flow": lambda: LatentFlow(Autoencoder(1, 8, 4, 2, 4), vector_flow(4, 2, 8, 1)),
}


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("kind", "name"), [("torchscript", "encoder.pt"), ("export", "encoder.pt2")])
@pytest.mark.parametrize("system", SYSTEMS)
def test_what_is_written_encodes_as_the_system_does(system: str, kind: Any, name: str, tmp_path: Path) -> None:
    made = SYSTEMS[system]()
    path = tmp_path / name
    assert export.save(made, path, kind, images(5)) <= 1e-6
    assert [file.name for file in tmp_path.iterdir()] == [name]
    alone = torch.jit.load(path) if kind == "torchscript" else torch.export.load(path).module()
    layer = Layer(str(path), "logits")
    for count in (1, 3, 7):
        expected = made.encode(images(count))
        torch.testing.assert_close(alone(images(count)), expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(layer(images(count)), expected, atol=1e-6, rtol=1e-6)


class Remembers(nn.Module):
    """Answers according to the number of images that it was traced with."""

    def encode(self, image: Tensor) -> Tensor:
        return image.flatten(1) * (1.0 if len(image) == export.SEEN else 2.0)


class Unsure(nn.Module):
    """Answers otherwise each time."""

    def encode(self, image: Tensor) -> Tensor:
        return torch.rand(len(image), 3)


class Ragged(nn.Module):
    """Its way depends on the values of the image."""

    def encode(self, image: Tensor) -> Tensor:
        return image.flatten(1) if bool(image.sum() > 0) else -image.flatten(1)


@pytest.mark.parametrize("system", [Remembers(), Unsure()], ids=type)
def test_a_file_that_would_answer_otherwise_is_not_written(system: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"answers otherwise|does not take|was written answers"):
        export.save(system, tmp_path / "encoder.pt", "torchscript", images(5))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("system", "name", "kind", "count", "words"),
    [
        (Ragged(), "encoder.pt2", "export", 5, "Ragged cannot be written as export"),
        (nn.Linear(2, 2), "encoder.pt", "torchscript", 5, "Linear has no encode"),
        (Remembers(), "encoder.pt2", "torchscript", 5, r"should end in \.pt,"),
        (Remembers(), "encoder.onnx", "export", 5, r"should end in \.pt2"),
        (Remembers(), "nowhere/encoder.pt", "torchscript", 5, "no folder"),
        (Remembers(), "encoder.pt", "torchscript", 2, "at least 5 images"),
        (SYSTEMS["vae"](), "encoder.pt", "torchscript", 0, r"expected images of shape \[B, 1, 8, 8\]"),
    ],
)
def test_what_cannot_be(system: nn.Module, name: str, kind: Any, count: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        export.save(system, tmp_path / name, kind, images(count) if count else torch.zeros(5, 3, 8, 8))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    assert train("-b", tiny.write(tmp_path / "tiny.yaml", tiny.autoencoder(steps=2)), "--logs", "logs") == 0
    capsys.readouterr()
    return only(tmp_path / "logs").folder


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["-p", str(run), "--out", "encoder.pt", "--allow", "tiny"]) == 0
    trained = load(run, allow=["tiny"])
    model: Any = trained.system.model
    image = torch.rand(4, model.channels, model.size, model.size) * 2 - 1
    torch.testing.assert_close(torch.jit.load("encoder.pt")(image), trained.encode(image), atol=1e-6, rtol=1e-6)
    said = capsys.readouterr().out
    assert f"[B, {model.channels}, {model.size}, {model.size}]" in said and said.endswith("Encoder: encoder.pt\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "encoder.pt2"], "should end in .pt"),
        (["--out", "encoder.pt", "--size", "0"], "--size: expected at least 1"),
        (["--out", "encoder.pt", "--size", "9"], "expected images of shape"),
        (["--out", "encoder.pt", "-c", "77"], "77"),
        (["--out", "away/encoder.pt"], "no folder away"),
    ],
)
def test_mistakes_are_one_line(run: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["-p", str(run), "--allow", "tiny", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not list(Path().glob("encoder*"))


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["-p", str(tmp_path / "none"), "--out", str(tmp_path / "encoder.pt")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.iterdir())
