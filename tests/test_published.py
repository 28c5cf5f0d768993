"""Checkpoints that the original project wrote, named in a configuration as the first stage."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabricate
import pytest
import tiny
import torch
import yaml
from original import autoencoder_state, classifier_state, flow_state
from runs import evaluate, only, train
from test_compat import write
from test_compat_conditional import forward, random_state
from test_vae import small as small_vae
from test_vae import written
from torch import Tensor

from iin import compat
from iin.config import ConfigError
from iin.data.animals import RESTRICTED
from iin.experiment import load
from iin.first_stage import pretrained
from iin.models import BigAE

Errors = Callable[[], str]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "published_weights.md"
STAGE = "system.params.first_stage.params"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a run's folder of the original and ``flow.yaml``, which stands on its newest file."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    for step in (90, 100, 9):  # by step, not by time or by name
        write(checkpoint(step), autoencoder_state())
    tiny.write(tmp_path / "flow.yaml", tiny.flow({"checkpoint": str(checkpoint(100))}))
    return tmp_path


@pytest.fixture
def errors(capsys: pytest.CaptureFixture[str]) -> Errors:
    return lambda: capsys.readouterr().err


def checkpoint(step: int) -> Path:
    return Path("original", "train", "checkpoints", f"model-{step}.ckpt")


def code(run: Path, image: Tensor) -> Tensor:
    system: Any = load(run, allow=["tiny"]).system
    return system.first_stage.encode(image).mean


@pytest.mark.parametrize(
    ("key", "value"), [("checkpoint", str(checkpoint(100))), ("checkpoint", "original"), ("run", "original")]
)
def test_a_file_or_folder_of_the_original_is_a_first_stage(here: Path, key: str, value: str) -> None:
    tiny.write(here / "flow.yaml", tiny.flow({key: value}))
    assert train("-b", "flow.yaml") == 0
    run = only(here / "logs").folder
    image = torch.rand(3, 1, 8, 8) * 2 - 1
    expected: Any = compat.load(checkpoint(100))
    torch.testing.assert_close(code(run, image), expected.encode(image).mean, rtol=0, atol=0)
    frozen = load(run, allow=["tiny"]).system.first_stage.state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in expected.state_dict().items())


def test_the_run_outlives_the_file(here: Path) -> None:
    assert train("-b", "flow.yaml", "train.epochs=1") == 0
    shutil.rmtree("original")
    run = only(here / "logs").folder
    assert train("-r", run, "train.epochs=2") == 0
    assert evaluate("-p", run) == 0


def test_a_renamed_file_is_known_by_what_is_in_it(here: Path) -> None:
    checkpoint(100).rename("downloaded.pth")
    assert train("-b", "flow.yaml", f"{STAGE}.checkpoint=downloaded.pth", "--dry-run") == 0


def test_a_classifier_without_a_decoder_trains_evaluates_and_makes_no_pictures(here: Path) -> None:
    write(Path("model-7.ckpt"), classifier_state())
    assert train("-b", "flow.yaml", f"{STAGE}.checkpoint=model-7.ckpt") == 0
    run = only(here / "logs").folder
    assert evaluate("-p", run) == 0
    assert not list(run.glob("images/*")) and (run / "report.html").is_file()


def test_a_rehearsal_names_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-b", "flow.yaml", "--dry-run") == 0
    assert f"system.params.first_stage: {here / checkpoint(100)}" in capsys.readouterr().out


def test_the_configuration_beside_a_file_does_not_count(here: Path) -> None:
    tiny.write(here / "ae.yaml", tiny.autoencoder())  # of width 4
    assert train("-b", "flow.yaml", f"{STAGE}.config=ae.yaml") == 0
    tree = yaml.safe_load((only(here / "logs").folder / "config.yaml").read_text())
    inner = tree["system"]["params"]["first_stage"]["params"]["config"]
    assert inner["name"] == "original_autoencoder"
    assert inner["system"]["params"]["model"]["params"]["width"] == 2


def test_a_renamed_key_is_one_line_and_leaves_nothing(here: Path, errors: Errors) -> None:
    state = autoencoder_state()
    state["image_layer.sub_layers.0.wait"] = state.pop("image_layer.sub_layers.0.weight")
    write(checkpoint(100), state)
    assert train("-b", "flow.yaml") == 2
    line = errors()
    assert line.count("\n") == 1 and f"{STAGE}.checkpoint" in line
    assert "missing: image_layer.sub_layers.0.weight; left over: image_layer.sub_layers.0.wait" in line
    assert not (here / "logs").exists()


def test_the_very_file_is_kept_not_the_folder(here: Path) -> None:
    tiny.write(here / "flow.yaml", tiny.flow({"checkpoint": "original"}))
    assert train("-b", "flow.yaml", "train.steps=0") == 0
    tree = yaml.safe_load((only(here / "logs").folder / "config.yaml").read_text())
    assert tree["system"]["params"]["first_stage"]["params"]["checkpoint"] == str(here / checkpoint(100))


def test_ones_own_checkpoint_may_be_called_as_the_originals_are(here: Path) -> None:
    tiny.write(here / "ae.yaml", tiny.autoencoder())
    assert train("-b", "ae.yaml", "--logs", "own") == 0
    shutil.copy(only(here / "own").checkpoint(12), "model-6.ckpt")
    assert train("-b", "flow.yaml", f"{STAGE}.checkpoint=model-6.ckpt", f"{STAGE}.config=ae.yaml", "--dry-run") == 0


@pytest.mark.parametrize("name", ["model-3.ckpt", "weights.ckpt"])
def test_a_damaged_file_is_told_as_such(here: Path, errors: Errors, name: str) -> None:
    Path(name).write_bytes(b"")
    assert train("-b", "flow.yaml", f"{STAGE}.checkpoint={name}") == 2
    line = errors()
    assert line.count("\n") == 1 and "damaged, not a checkpoint of the original, or one that would run code" in line


def test_a_flow_is_no_first_stage(here: Path, errors: Errors) -> None:
    write(checkpoint(100), flow_state(4))
    assert train("-b", "flow.yaml") == 2
    line = errors()
    assert line.count("\n") == 1 and "has no encode" in line


def test_a_published_flow_over_a_published_autoencoder_is_evaluated_as_it_is(here: Path) -> None:
    state = flow_state(4, blocks=3, hidden=7, depth=2)
    write(Path("iin", "train", "checkpoints", "model-50.ckpt"), state)
    tree = tiny.flow({"checkpoint": "original"}, steps=0)
    tree["system"]["params"]["flow"] = tiny.node("iin.first_stage.pretrained", checkpoint="iin")
    tiny.write(here / "both.yaml", tree)
    assert train("-b", "both.yaml") == 0
    shutil.rmtree("iin")
    run = only(here / "logs").folder
    system: Any = load(run, allow=["tiny"]).system
    x = torch.randn(5, 4)
    torch.testing.assert_close(system.flow(x), compat.flow(state)(x))
    assert system.dim == 4 and list(run.glob("images/*.png"))
    assert train("-r", run, "train.steps=6") == 0  # and trained further
    moved: Any = load(run, allow=["tiny"]).system
    assert not torch.equal(moved.flow(x)[0], system.flow(x)[0])
    frozen: Any = compat.load("original")
    assert all(torch.equal(v, moved.first_stage.state_dict()[k]) for k, v in frozen.state_dict().items())


def test_a_pickle_that_would_run_code_is_refused_and_nothing_is_run(here: Path, errors: Errors) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (here / "exploded",))

    for name in (checkpoint(100), Path("renamed.pth")):
        torch.save({"model": Bomb(), "loss": {}, "optimizer": {}}, name)
        assert train("-b", "flow.yaml", f"{STAGE}.checkpoint={name}") == 2
        assert errors().count("\n") == 1
    assert not (here / "exploded").exists() and not (here / "logs").exists()


def test_python_has_it_too(here: Path) -> None:
    image = torch.rand(2, 1, 8, 8)
    expected: Any = compat.load(checkpoint(100))
    found: Any = pretrained(checkpoint="original")
    torch.testing.assert_close(found.encode(image).mean, expected.encode(image).mean)
    assert not any(p.requires_grad for p in found.parameters())


def test_data_that_do_not_fit_are_told(here: Path, errors: Errors) -> None:
    write(checkpoint(100), autoencoder_state(channels=3))
    assert train("-b", "flow.yaml") == 2
    line = errors()
    assert line.count("\n") == 1 and "does not fit system" in line


# --- conditional flows -------------------------------------------------------------------------------------------

FLOW = "system.params.flow.params"
SIZES = {"in_channels": 4, "mid_channels": 7, "hidden_depth": 1, "n_flows": 2, "conditioning_option": "none"}
MAPS = {**SIZES, "conditioning_in_channels": 4, "conditioning_spatial_size": 4, "embedder_down": 1}
"""The section ``Transformer`` of a flow over layer 2 of `tiny.Cut`, which answers 4 maps of 4 x 4."""
VECTORS = {**SIZES, "conditioning_in_channels": 2, "conditioning_spatial_size": 1, "conditioning_depth": 3}
"""And over its answer."""


def save(section: dict[str, Any], path: Path) -> None:
    """Random weights of that configuration, bare, as they were published."""
    state = random_state(section).items()
    torch.save({key: value.float() if value.is_floating_point() else value for key, value in state}, path)


def published(layer: str = "2", activation: str = "none", **told: Any) -> dict[str, Any]:
    """``cinn.ckpt``, bare weights as they were published, and a configuration over them and the autoencoder."""
    section = {**(MAPS if layer == "2" else VECTORS), "activation": activation}
    save(section, Path("cinn.ckpt"))
    tree = tiny.conditional({"checkpoint": "original"}, layer, steps=0)
    tree["system"]["params"]["flow"] = tiny.node("iin.first_stage.pretrained", checkpoint="cinn.ckpt", **told)
    tiny.write(Path("published.yaml"), tree)
    return section


@pytest.mark.parametrize(("layer", "activation"), [("2", "none"), ("2", "lrelu"), ("logits", "none")])
def test_a_published_conditional_flow_is_evaluated_as_it_is(here: Path, layer: str, activation: str) -> None:
    known = {"activation": activation, **({"conditioning_spatial_size": 4} if layer == "2" else {})}
    section = published(layer, activation, original=known)
    assert train("-b", "published.yaml") == 0
    state = torch.load("cinn.ckpt", weights_only=True)
    shutil.rmtree("original")
    Path("cinn.ckpt").unlink()  # the run holds all that it needs
    run = only(here / "logs").folder
    system: Any = load(run, allow=["tiny"]).system
    image = torch.rand(5, 1, 8, 8) * 2 - 1
    context, x = system.represent(image), torch.randn(5, 4)
    maps = context if layer == "2" else context[:, :, None, None]
    expected = forward(state, section, x, maps)[0]
    torch.testing.assert_close(system.flow(x, context)[0], expected, atol=1e-5, rtol=1e-5)
    assert system.decode(torch.randn(5, 4), context).shape == image.shape
    assert evaluate("-p", run) == 0
    assert train("-r", run, "train.steps=6") == 0  # and trained further
    moved: Any = load(run, allow=["tiny"]).system
    assert not torch.equal(moved.flow(x, context)[0], system.flow(x, context)[0])


def test_the_architecture_of_a_conditional_flow_is_written_out(here: Path) -> None:
    published(original={"activation": "none", "conditioning_spatial_size": 4})
    assert train("-b", "published.yaml") == 0
    written = yaml.safe_load((only(here / "logs").folder / "config.yaml").read_text())
    system = written["system"]["params"]["flow"]["params"]["config"]["system"]
    sizes = {"channels": 4, "size": 4, "dim": 4, "n_down": 1, "width": 64}
    assert system == tiny.node(
        "iin.flows.conditional_flow",
        dim=4,
        embedder=tiny.node("iin.models.ConvEmbedder", **sizes),
        blocks=2,
        hidden=7,
        depth=1,
        conditioning="none",
        activation="none",
    )


@pytest.mark.parametrize("whole", [False, True], ids=["section", "file"])
def test_the_configuration_of_the_original_will_do(here: Path, whole: bool) -> None:
    section = published("logits")
    theirs = {"model": "invariances.model.cinn.ConditionalTransformer", "batch_size": 16, "Transformer": section}
    folder = here / "configs"
    folder.mkdir()
    tiny.write(folder / "theirs.yaml", theirs)
    # A file is looked for beside the configuration that names it.
    node = {"params": {"original": "theirs.yaml" if whole else section}}
    tiny.write(folder / "more.yaml", {"system": {"params": {"flow": node}}})
    assert train("-b", "published.yaml", "configs/more.yaml") == 0
    tree = yaml.safe_load((only(here / "logs").folder / "config.yaml").read_text())
    assert tree["system"]["params"]["flow"]["params"]["original"] == section


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (None, f"whose weights do not tell activation and conditioning_spatial_size: give {FLOW}.original, such as "
               "{activation: ..., conditioning_spatial_size: ...}"),
        ({"activation": "none"}, f"do not tell conditioning_spatial_size: give {FLOW}.original"),
        ({"conditioning_spatial_size": 4}, f"do not tell activation: give {FLOW}.original"),
        ({"activation": "tanh", "conditioning_spatial_size": 4}, "activation is 'tanh', expected none or lrelu"),
        ({"activation": "none", "conditioning_spatial_size": 0}, "conditioning_spatial_size is 0, expected a whole"),
        ({"activation": "none", "conditioning_spatial_size": 9}, "dense_encode.sub_layers.0.weight is [4, 64, 2, 2]"),
        ({"activation": "none", "conditioning_spatial_size": 5}, "expected a context of shape [B, 4, 5, 5]"),
        ({"Transformer": 3}, "expected names and values, as the original has below Transformer"),
        ("theirs.yaml", f"{FLOW}.original: theirs.yaml does not exist"),
        ("broken.yaml", f"{FLOW}.original: broken.yaml:1:"),
        (7, f"{FLOW}.original: expected"),
    ],
)  # fmt: skip
def test_what_is_wrong_about_a_conditional_flow_is_one_line(here: Path, errors: Errors, told: Any, words: str) -> None:
    published(**({} if told is None else {"original": told}))
    Path("broken.yaml").write_text("{")
    assert train("-b", "published.yaml") == 2
    line = errors()
    assert line.count("\n") == 1 and words in line
    assert "system.params.flow.params" in line or "does not fit system" in line
    assert not (here / "logs").exists()


def test_what_a_file_tells_itself_is_not_to_be_told(here: Path, errors: Errors) -> None:
    told = {"activation": "none"}
    assert train("-b", "flow.yaml", f"{STAGE}.original={told}") == 2
    assert "a configuration is for conditional flows, and this is none" in errors()
    tiny.write(here / "ae.yaml", tiny.autoencoder())
    assert train("-b", "ae.yaml", "--logs", "own") == 0
    errors()
    shutil.copy(only(here / "own").checkpoint(12), "own.ckpt")
    assert train("-b", "flow.yaml", f"{STAGE}={{checkpoint: own.ckpt, config: ae.yaml, original: {told}}}") == 2
    line = errors()
    assert line.count("\n") == 1 and f"{STAGE}.original" in line and "own.ckpt" in line


def test_python_has_conditional_flows_too(here: Path) -> None:
    section = published("logits")
    flow: Any = pretrained(checkpoint="cinn.ckpt", original={"Transformer": section})
    x, context = torch.randn(5, 4), torch.randn(5, 2)
    expected = forward(torch.load("cinn.ckpt", weights_only=True), section, x, context[:, :, None, None])
    torch.testing.assert_close(flow(x, context), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"do not tell activation: give first stage\.params\.original"):
        pretrained(checkpoint="cinn.ckpt")


@pytest.mark.slow
def test_the_page_names_what_goes_with_the_published_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Errors
) -> None:
    """With files of the published names and layouts: a BigAE, a ResNet-101 of ten classes, and a flow over layer3."""
    from torchvision.models import resnet101

    root = tmp_path / "data"
    fabricate.synsets(root / "animalfaces", list(RESTRICTED), n=6)
    torch.save(
        fabricate.as_published(BigAE(classes=6, hidden=12, width=4, layers=(1, 1, 1, 1))),
        root / "bigae_animalfaces.ckpt",
    )
    state = {f"model.{key}": value for key, value in resnet101(num_classes=10).state_dict().items()}
    torch.save(state, root / "resnet101_animalfaces_10.ckpt")
    sizes = {**SIZES, "in_channels": 128, "activation": "none"}
    maps = {"conditioning_in_channels": 1024, "conditioning_spatial_size": 14, "embedder_down": 2}
    save({**sizes, **maps}, root / "cinn_resnet_animalfaces10_ae_layer3.ckpt")
    (text,) = re.findall(r"```yaml\n(# faces\.yaml\n.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IIN_DATA", str(root))
    Path("faces.yaml").write_text(text)
    short = ["train.steps=0", "train.eval_batch_size=4", "evaluate=nll,inversion"]
    assert train("-b", "resnet/animalfaces/layer3", "faces.yaml", *short) == 0, errors()
    run: Any = load(only(tmp_path / "logs").folder)
    image = torch.rand(2, 3, 128, 128) * 2 - 1
    assert run.system.generate(run.system.represent(image), torch.randn(3, 128)).shape == (2, 3, 3, 128, 128)
    # Over fc, the original's own configuration speaks of 149 classes.
    vectors = {"conditioning_in_channels": 10, "conditioning_spatial_size": 1}
    save({**sizes, **vectors}, root / "cinn_fc.ckpt")
    errors()
    for told, code in (("", 0), (", conditioning_in_channels: 149", 2)):
        flow = f"{FLOW}={{checkpoint: cinn_fc.ckpt, original: {{conditioning_spatial_size: null{told}}}}}"
        assert train("-b", "resnet/animalfaces/fc", "faces.yaml", flow, *short, "--dry-run") == code
    line = errors()
    assert "149" in line and f"{FLOW}.original" in line and line.count("\n") == 1


def test_a_published_jl1_vae_in_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: Errors
) -> None:
    monkeypatch.chdir(tmp_path)
    model = small_vae().eval()
    written(Path("cache_batch_no300000"), model)
    dots = {"target": "iin.data.ThreeDots", "params": {"count": 12, "size": 8, "dots": 1, "radius": 0.2}}
    network = {"target": "iin.compat.jacobian_vae", "params": {"folder": "cache_batch_no300000"}}
    config = {
        "name": "jl1",
        "data": {"train": dots, "test": dots},
        "system": {"target": "iin.systems.JacobianVAE", "params": {"model": network}},
        "train": {"steps": 0, "batch_size": 4},
        "evaluate": {"reconstruction": {"target": "iin.metrics.Reconstruction"}},
    }
    Path("jl1.yaml").write_text(yaml.safe_dump(config))
    assert train("-b", "jl1.yaml") == 0
    image = torch.rand(2, 1, 8, 8) * 2 - 1
    run = only(Path("logs")).folder
    system: Any = load(run).system
    assert torch.equal(system.posterior(image).mean, model.encode(image).mean)
    assert train("-r", str(run), "train.steps=2") == 0
    system = load(run).system
    assert not torch.equal(system.posterior(image).mean, model.encode(image).mean)
    errors()
    assert train("-b", "jl1.yaml", "system.params.model.params.folder=gone", "--dry-run") == 2
    assert errors() == "error: system: gone: no folder; expected one with model_state_dict.pt and model_args.p\n"
