"""Every shipped configuration builds and runs, on small files in each data set's real format."""

from __future__ import annotations

import json
import re
from pathlib import Path

import fabricate
import pytest

from iin.cli import eval as evaluation
from iin.cli import train as training
from iin.config import ConfigError, check, load, shipped
from iin.config.files import names
from iin.data.animals import RESTRICTED
from iin.models import ConvEmbedder, DenseEmbedder

PUBLISHED = [name for name in names() if "/" in name]
"""Those that stand on published weights, in folders of their own."""

OVERLAYS = [name for name in names() if "system" not in load([name]).tree]
"""Those that are added behind another."""

NAMES = [name for name in names() if name not in {*OVERLAYS, *PUBLISHED}]

ROBOTS = (4, 2, 2, 1, 3, 3, 2)
"""Values of each factor in a file of robots that is small enough to be made here."""

SMALL = {"mpi3d_multi_jl1": [f"data.{part}.params.factor_sizes={list(ROBOTS)}" for part in ("train", "test")]}
SMALL["celeba_vpgan"] = [f"system.params.{part}.params.width=16" for part in ("discriminator", "recogniser")]
SMALL["celeba_vpgan"] += [f"system.params.generator.params.{one}" for one in ("width=8", "styled=8")]
"""What else a configuration is told of the files here, or to be done soon with large images."""


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few images of each data set."""
    root = tmp_path_factory.mktemp("data")
    fabricate.mnist(root)
    fabricate.fashion(root)
    fabricate.cifar(root)
    fabricate.celeba(root, n=300)
    fabricate.mpi3d(root, ROBOTS, "real", 64)
    fabricate.dsprites(root)
    fabricate.shapes3d(root)
    fabricate.whitened(root)
    return root


@pytest.fixture
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IIN_DATA", str(files))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list_is_whole() -> None:
    families = {"ae": "mnist fashionmnist cifar celeba cmnist", "iin": "mnist fashionmnist cifar celeba"}
    families |= {"diin": "mnist cmnist celeba", "clf": "cmnist mnist"}
    families |= {"vpgan": "celeba dsprites mnist shapes3d", "vpvae": "sprites"}
    expected = {f"{data}_{kind}" for kind, names in families.items() for data in names.split()}
    assert expected | {"cmnist_clf_diin", "cmnist_dims"} <= set(NAMES)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_says_what_it_stands_behind(name: str) -> None:
    first, *_ = (shipped() / f"{name}.yaml").read_text().split("\n\n")
    words = re.findall(r"^# .* -b ((?:\S+ )*)(?:configs/)?" + name, first, re.MULTILINE)
    assert words and all("system" in load([behind]).tree for behind in words[0].split())


@pytest.mark.parametrize("name", [*NAMES, *PUBLISHED])
def test_it_says_what_it_is(name: str) -> None:
    first = (shipped() / f"{name}.yaml").read_text().split("name:")[0]
    assert first.startswith("# ") and "--quick" in first
    config = load([name])
    assert config.tree["name"] == name.replace("/", "_") and config.tree["description"]


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_rehearsed(name: str, quick: bool, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--dry-run", "--logs", str(here / "logs"), *["--quick"] * quick, *SMALL.get(name, [])]
    assert training.main(["-b", name, *told]) == 0
    plan = capsys.readouterr().out
    missing = [line for line in plan.splitlines() if "missing:" in line]
    # Only what ships nowhere is missing: weights of the published perceptual distance and of FID.
    assert all("vgg" in line or "torch-fidelity" in line or "Inception" in line for line in missing), missing
    assert not (quick and missing)
    assert missing or "trained: " in plan or "trained (" in plan
    assert not list(here.iterdir())


TWINS = {
    *(f"invariances_mnist_{layer}" for layer in ("conv1", "logits", "input")),
    *(f"threedots_{method}" for method in ("vae", "betavae", "annealedvae", "dipvae1", "betatcvae", "jl2")),
    *("celeba_vpgan", "shapes3d_vpgan", "fashionmnist_ae", "fashionmnist_iin", "cifar_ae"),
}
"""Configurations that differ in a layer, a setting or the data from one that is trained; these are rehearsed."""


def test_twins_are_configurations() -> None:
    assert set(NAMES) > TWINS


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in TWINS])
def test_it_trains_is_measured_and_goes_on(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def train(*arguments: str) -> Path:
        assert training.main([*arguments, "train.batch_size=10", "train.log_every=5", "--logs", "logs"]) == 0
        return Path(capsys.readouterr().out.splitlines()[-1].removeprefix("Run folder: "))

    config = load([name], quick=True).tree
    small = ["--quick", "train.steps=10", "evaluate=none"]
    first = []
    if "first_stage" in config["system"]["params"]:
        stage = train("-b", config["system"]["params"]["first_stage"]["params"]["config"], *small)
        first = [f"system.params.first_stage.params={{run: {stage}, part: model}}"]
        first += ["system.params.flow.params.blocks=2", "system.params.flow.params.hidden=32"]
    if "fid" in config["evaluate"]:
        first += ["evaluate.fid.params.images=80"]
    if "invariances" in config["evaluate"]:
        first += [f"evaluate.invariances.params.{key}" for key in ("images=20", "samples=2")]
    if "disentanglement" in config["evaluate"]:
        few = ("points=60", "clusters=2", "votes=60", "test_votes=30")
        first += [f"evaluate.disentanglement.params.{key}" for key in few]
    if "vp" in config["evaluate"]:
        first += [f"evaluate.vp.params.{key}" for key in ("count=300", "epochs=1")]
    if "swaps" in config["evaluate"]:
        first += ["evaluate.swaps.params.pairs=50"]
    run = train("-b", name, "--quick", "train.steps=20", "train.checkpoint_every=10", *first, *SMALL.get(name, []))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = {k: v for k, v in lines[-1].items() if k not in ("step", "epoch", "split")}
    assert lines[-1]["split"] == "test" and lines[-1]["step"] == 20 and len(measured) >= 1
    assert evaluation.main(["-p", str(run)]) == 0
    stored = json.loads((run / "eval" / "step-00000020" / "metrics.json").read_text())
    assert {key: stored[key] for key in measured} == measured
    assert train("-r", str(run), "train.steps=25") == run
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 25


def test_the_project_overlay_turns_wandb_on() -> None:
    assert load(["mnist_diin", "project"]).tree["logs"] == ["wandb"]


# --- on published weights ---------------------------------------------------------------------------------------------

SIZES = {
    "resnet/animalfaces/input": (3, 224, 5),
    "resnet/animalfaces/maxpool": (64, 56, 4),
    "resnet/animalfaces/layer1": (256, 56, 4),
    "resnet/animalfaces/layer2": (512, 28, 3),
    "resnet/animalfaces/layer3": (1024, 14, 2),
    "resnet/animalfaces/layer4": (2048, 7, 1),
    "resnet/animalfaces/avgpool": (2048, 1, 6),
    "resnet/animalfaces/fc": (149, 1, 4),
    "resnet/animalfaces/softmax": (149, 1, 4),
    "alexnet/conv5": (256, 13, 2),
    "alexnet/fc6": (4096, 1, 4),
    "alexnet/fc7": (4096, 1, 4),
    "alexnet/fc8": (1000, 1, 4),
    "alexnet/softmax": (1000, 1, 4),
}
"""Channels and size of the published representations, and how often a map is halved or how many widths a vector has."""


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few pictures in the published layout, and weights of the published networks."""
    root = fabricate.weights(tmp_path_factory.mktemp("published"))
    fabricate.synsets(root / "animalfaces", list(RESTRICTED), n=6)
    for part in ("train", "validation"):
        fabricate.synsets(root / f"ILSVRC2012_{part}" / "data", list(RESTRICTED)[:6], n=6)
    return root


@pytest.fixture
def there(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IIN_DATA", str(published))
    monkeypatch.setenv("TORCH_HOME", str(published))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_published_layers_are_there() -> None:
    assert sorted(SIZES) == PUBLISHED


@pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_has_the_published_numbers(name: str, quick: bool) -> None:
    config = load([name], quick=quick)
    check(config)
    params, train = config.tree["system"]["params"], config.tree["train"]
    embedder = params["flow"]["params"]["embedder"]
    channels, size, depth = SIZES[name]
    expected = {"channels": channels, "dim": 128} | ({"size": size, "n_down": depth} if size > 1 else {"depth": depth})
    assert embedder["params"] == expected
    assert embedder["target"] == f"iin.models.{(ConvEmbedder if size > 1 else DenseEmbedder).__name__}"
    assert (train["batch_size"], train["lr"], train["betas"]) == (16, 4.5e-6 * 16, [0.5, 0.9])
    assert params["representation"]["params"]["preprocess"]["size"] == (227 if name.startswith("alexnet") else 224)
    if not quick:
        flow = params["flow"]["params"]
        assert (flow["dim"], flow["blocks"], flow["hidden"], flow["depth"]) == (128, 20, 1024, 2)
        assert train["steps"] == 250000 <= train["epochs"] * (105653 // 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [f"resnet/animalfaces/{n}" for n in ("input", "layer4", "softmax")] + ["alexnet/conv5"]
)
def test_a_published_configuration_can_be_rehearsed(name: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["-b", name, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "missing" not in plan and "bigae_animal" in plan and "trained: " in plan
    assert not list(there.iterdir())


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("resnet/animalfaces/fc", ["bigae_animalfaces.ckpt", "resnet101_animalfaces_shared.ckpt", "animalfaces"]),
        ("alexnet/conv5", ["bigae_animals.ckpt", "alexnet-owt-7be5be79.pth", "ILSVRC2012_validation"]),
    ],
)
def test_what_is_missing_is_told_with_its_place(
    name: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IIN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    assert training.main(["-b", name, "--dry-run"]) == 0
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  missing: ")]
    assert len(missing) == 4
    for file in files:
        assert any(file in line and str(tmp_path) in line for line in missing), file
    assert training.main(["-b", name]) == 2
    assert "bigae_animal" in capsys.readouterr().err
    # A file that somebody names by hand is another matter.
    by_hand = "system.params.first_stage.params.checkpoint=nowhere.ckpt"
    assert training.main(["-b", name, "--dry-run", by_hand]) == 2
    assert "nowhere.ckpt does not exist (command line); put it into" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet/animalfaces/maxpool", "alexnet/fc6"])
def test_a_published_configuration_trains(name: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["train.steps=2", "train.batch_size=4", "train.log_every=1"]
    small += [f"evaluate.invariances.params.{key}" for key in ("images=2", "samples=2")]
    small += ["system.params.flow.params.blocks=1", "--logs", "logs"]
    assert training.main(["-b", name, "--quick", *small]) == 0
    run = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("Run folder: "))
    measured = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert measured["split"] == "test" and measured["step"] == 2
    assert measured["invariances/free"] > 0 and "agreement/samples" in measured
    assert evaluation.main(["-p", str(run)]) == 0


def test_a_wrong_name_of_a_layer_names_the_right_one() -> None:
    with pytest.raises(ConfigError, match="did you mean resnet/animalfaces/layer3"):
        load(["layer3"])
    with pytest.raises(ConfigError, match="did you mean alexnet/softmax or resnet/animalfaces/softmax"):
        load(["resnet/softmax"])
    with pytest.raises(ConfigError, match="did you mean alexnet/conv5"):
        load(["alexnet/conv6"])
