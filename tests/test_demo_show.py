"""What the demos of conditional flows show, with tiny networks of random weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from iin.data import Images
from iin.demo import attack, choosing, grouping, mixing, representation, runs, semantics, texture, video
from iin.demo.contract import Demo, DemoError, Shown
from iin.demo.runs import Exhibit
from iin.flows import conditional_flow, vector_flow
from iin.models import Autoencoder, DenseEmbedder, Layer
from iin.models.digits import digits
from iin.systems import FactorFlow, LatentFlow
from iin.trained import Trained

SHAPE = (1, 8, 8)
DIM = 4
LAYERS = {"input": 64, "hidden": 6, "logits": 3}
"""Layers of the tiny network, and their sizes."""
MODULES = {
    "attack": attack,
    "representation": representation,
    "texture": texture,
    "video": video,
    "mixing": mixing,
    "semantics": semantics,
}


class Net(nn.Module):
    """A network that tells one of its layers, and its answer; as `iin.models.Layer` does of any."""

    def __init__(self, layer: str, seed: int = 0, channels: int = 1) -> None:
        super().__init__()
        self.layer = layer
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.hidden = nn.Linear(64 * channels, 6)
            self.head = nn.Linear(6, 3)

    def forward(self, image: Tensor) -> Tensor:
        if self.layer == "input":
            return image.flatten(1)
        hidden = self.hidden(image.flatten(1)).tanh()
        return hidden if self.layer == "hidden" else self.head(hidden)

    def logits(self, image: Tensor) -> Tensor:
        return self.head(self.hidden(image.flatten(1)).tanh())


class Mute(nn.Module):
    """A representation, without a network's answer or a layer's name."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.dense(image.flatten(1))


class Generator(Autoencoder):
    """A first stage with the way back only."""

    def encode(self, image: Tensor) -> Any:
        raise ValueError("images have no codes here")


def images(count: int = 12, channels: int = 1) -> Tensor:
    """Noise on a black ground, as digits have it too."""
    image = torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(7)) * 2 - 1
    image[..., 0] = -1
    return image


def first_stage(seed: int = 0, kind: type[Autoencoder] = Autoencoder, channels: int = 1) -> Autoencoder:
    """Always the same for the same seed, but never the same object."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(channels, 8, DIM, n_down=2, width=4, norm="batch")
    return model.eval()


def exhibit(name: str, system: Any, channels: int = 1, count: int = 12) -> Exhibit:
    system.eval()
    label = torch.arange(count) % 3
    names = ("zero", "one", "two")
    return Exhibit(
        name=name,
        trained=Trained(SimpleNamespace(folder=Path(name)), system, {}, 0),  # type: ignore[arg-type]
        images=Images(images(count, channels), label),
        labels=tuple(names[k] for k in label.tolist()),
        places=tuple(range(count)),
        source="noise",
        classes=names,
    )


@torch.no_grad()
def shaken(flow: nn.Module, seed: int) -> Any:
    """A flow as if it had been trained: no two blocks are the identity."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in flow.parameters():
        parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return flow


def conditional(
    name: str, net: nn.Module, width: int, stage: nn.Module | None = None, channels: int = 1, count: int = 12
) -> Exhibit:
    flow = conditional_flow(DIM, DenseEmbedder(width, DIM, depth=2), blocks=2, hidden=8, depth=1)
    system = LatentFlow(stage or first_stage(channels=channels), shaken(flow, len(name)), net)
    with torch.no_grad():
        start = torch.randn(8, DIM)
        system.flow(start, system.represent(images(8, channels)))  # begins ActNorm
    return exhibit(name, system, channels, count)


def layers(seed: int = 0, prefix: str = "", channels: int = 1, count: int = 12) -> list[Exhibit]:
    sizes = {**LAYERS, "input": 64 * channels}
    return [
        conditional(f"{prefix}{layer}", Net(layer, seed, channels), sizes[layer], channels=channels, count=count)
        for layer in sizes
    ]


def factor_flow(name: str = "factors", seed: int = 0) -> Exhibit:
    system = FactorFlow(first_stage(seed), shaken(vector_flow(DIM, 2, 8, 1), 3), (2, 2))
    system.names = ("side", "residual")
    with torch.no_grad():
        system.flow(torch.randn(8, DIM))
    return exhibit(name, system)


def one(module: Any, given: Sequence[Exhibit]) -> Demo:
    (found,) = module.demos(given)
    return found


def show(demo: Demo, **given: Any) -> Shown:
    told: list[float] = []
    shown = runs.make(demo, runs.chosen(demo, given), lambda share, what: told.append(share))
    assert told == sorted(told) and told[0] >= 0 and told[-1] <= 1
    return shown


def everything() -> list[Exhibit]:
    return [*layers(), *layers(1, "second "), factor_flow()]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


# --- which runs belong together --------------------------------------------------------------------------------------


def test_layers_of_one_network_come_together_in_the_order_of_depth() -> None:
    (stage,) = grouping.stages(list(reversed(layers())))
    (network,) = stage.networks
    assert list(network.layers) == ["input", "hidden", "logits"]
    assert [run.name for run in network.layers.values()] == ["input", "hidden", "logits"]


def test_networks_and_first_stages_are_told_apart() -> None:
    other = conditional("elsewhere", Net("logits"), 3, first_stage(5))
    found = grouping.stages([*layers(), other, *layers(1, "second "), factor_flow(), factor_flow("more", seed=5)])
    assert [[list(net.layers) for net in stage.networks] for stage in found] == [
        [["input", "hidden", "logits"]] * 2,
        [["logits"]],
    ]
    assert [[run.name for run in stage.factors] for stage in found] == [["factors"], ["more"]]


def test_images_of_another_size_are_another_group() -> None:
    assert len(grouping.stages([*layers(), *layers(channels=3)])) == 2


def test_the_same_layer_twice_is_kept_twice() -> None:
    again = conditional("again", Net("logits"), 3)
    (stage,) = grouping.stages([*layers(), again])
    assert list(stage.networks[0].layers) == ["input", "hidden", "logits", "logits (again)"]


def test_a_first_stage_that_runs_have_in_common_is_held_once() -> None:
    found = [*layers(), factor_flow()]
    assert len({id(run.system.first_stage) for run in found}) == 4
    before = [run.system.first_stage.decode(torch.ones(1, DIM)) for run in found]
    grouping.stages(found)
    assert len({id(run.system.first_stage) for run in found}) == 1
    for run, image in zip(found, before, strict=True):
        assert torch.equal(run.system.first_stage.decode(torch.ones(1, DIM)), image)


def test_layers_of_one_network_hold_it_once() -> None:
    given = []
    for layer in ("softmax", "conv2", "input", "logits", "conv1"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first = Autoencoder(1, 32, DIM, n_down=4, width=2, norm="batch").eval()
        flow = conditional_flow(DIM, nn.Identity(), blocks=1, hidden=4, depth=0)
        run = exhibit(layer, LatentFlow(first, flow, Layer(copy.deepcopy(digits()), layer)))
        run.images = Images(torch.rand(4, 1, 32, 32) * 2 - 1, torch.zeros(4, dtype=torch.int64))
        given.append(run)
    image = given[0].image(0)
    before = [run.system.represent(image) for run in given]
    (stage,) = grouping.stages(given)
    assert list(stage.networks[0].layers) == ["input", "conv1", "conv2", "logits", "softmax"]
    assert len({id(run.system.representation.model) for run in given}) == 1
    for run, value in zip(given, before, strict=True):
        assert torch.equal(run.system.represent(image), value)


def test_runs_that_cannot_show_it_give_no_demo() -> None:
    for module in MODULES.values():
        assert module.demos([]) == []
        assert module.demos([factor_flow()]) == []
    assert texture.demos(layers()) == [] and semantics.demos(layers()) == []


def test_a_network_without_an_answer_shows_all_but_the_attack() -> None:
    given = [conditional("mute", Mute(), 5), factor_flow()]
    assert attack.demos(given) == []
    for module in (representation, video, mixing, semantics):
        shown = show(one(module, given))
        assert shown.pictures and not any("agreement" in name for name in shown.figures)


def test_a_first_stage_that_only_decodes_shows_samples() -> None:
    stage = first_stage(kind=Generator)
    given = [conditional("one", Net("hidden"), 6, stage), conditional("two", Net("hidden", 1), 6, stage)]
    for module in (attack, video, mixing, semantics):
        assert module.demos(given) == []
    shown = show(one(texture, given))
    assert shown.pictures["input"].images.shape == (1, 1, *SHAPE)
    assert shown.pictures["samples"].images.shape == (2, 6, *SHAPE)
    for demo in representation.demos(given):
        shown = show(demo)
        assert shown.pictures["layers"].images.shape == (1, 9, *SHAPE)
        assert "similarity/reconstruction" not in shown.figures


# --- all demos -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_the_same_seed_shows_the_same_and_another_seed_something_else(name: str) -> None:
    demo = MODULES[name].demos(everything())[0]
    first, other = show(demo, seed=3), show(demo, seed=4)
    torch.manual_seed(99)  # nothing is drawn from the generator that all share
    again = demo.show(runs.chosen(demo, {"seed": 3}), lambda share, what: None)
    assert first.pictures and first.lines and first.figures
    assert first.lines == again.lines and first.figures == again.figures
    for key, picture in first.pictures.items():
        assert torch.equal(picture.images, again.pictures[key].images)
        assert picture.title and picture.images.isfinite().all()
        assert not picture.caption or picture.caption.endswith(".")
    assert any(not torch.equal(first.pictures[key].images, other.pictures[key].images) for key in first.pictures)


@pytest.mark.parametrize("name", MODULES)
def test_what_is_shown_does_not_depend_on_how_much_is_made_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = MODULES[name].demos(everything())[0]
    whole = show(demo)
    monkeypatch.setattr(choosing, "VALUES", 130)  # two images
    parts = show(demo)
    for key, picture in whole.pictures.items():
        close(picture.images, parts.pictures[key].images)
    assert whole.figures.keys() == parts.figures.keys()


@pytest.mark.parametrize("name", MODULES)
def test_values_that_cannot_be_are_refused_in_one_line(name: str) -> None:
    demo = MODULES[name].demos(everything())[0]
    index = "first" if name == "mixing" else "image"
    wrong = {"seed": ["x", "-1", "0.5", 2**40], index: [12, -1, "1.5", "nan"]}
    if name == "attack":
        wrong["epsilon"] = ["much", "nan", "inf", -0.1, 1.1, "0,02", ""]
    if name == "texture":
        wrong["first"] = ["nothing"]
    else:
        wrong["layer"] = ["fc9", 3]
    if name == "semantics":
        wrong["factor"] = ["hair"]
    for key, values in wrong.items():
        for value in values:
            with pytest.raises(DemoError, match=f"^{key}: expected") as caught:
                show(demo, **{key: value})
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "channels"), [*((name, 1) for name in MODULES), ("attack", 3), ("video", 3)])
def test_an_upload_stands_in_the_place_of_the_image(name: str, channels: int, tmp_path: Path) -> None:
    given = everything() if channels == 1 else layers(channels=3)
    demo = MODULES[name].demos(given)[0]
    Image.new("RGB", (40, 20), "white").save(tmp_path / "white.png")
    upload = "first_upload" if name == "mixing" else "upload"
    plain, own = show(demo), show(demo, **{upload: str(tmp_path / "white.png")})
    assert "a picture of your own" in own.lines[0] and "a picture of your own" not in plain.lines[0]
    assert any((picture.images.flatten(0, -4) > 0.99).flatten(1).all(1).any() for picture in own.pictures.values())
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DemoError, match=r"text\.png"):
        show(demo, **{upload: str(tmp_path / "text.png")})


def test_one_test_image_is_enough() -> None:
    for module in (attack, representation, video, mixing):
        assert show(one(module, layers(count=1))).pictures


@pytest.mark.parametrize("name", MODULES)
def test_images_are_those_of_the_first_run_whatever_the_layer(name: str) -> None:
    """Runs over one first stage may have other test sets, and fewer images."""
    given = everything()
    for run in given:
        if run.name not in ("input", "factors"):
            run.images = Images(run.images.image[:2].flip(2), run.images.label[:2])
    demo = MODULES[name].demos(given)[0]
    index = "first" if name == "mixing" else "image"
    layer = {"first": "logits"} if name == "texture" else {"layer": "logits"}
    shown = show(demo, **{index: 11}, **layer)
    assert "test image 11 (two)" in shown.lines[0]
    wanted = given[0].image(11)
    assert any((picture.images.flatten(0, -4) == wanted).flatten(1).all(1).any() for picture in shown.pictures.values())


# --- attack ----------------------------------------------------------------------------------------------------------


def test_the_pattern_is_the_sign_of_the_gradient_by_hand() -> None:
    """Of a linear network the gradient of the cross-entropy is W^T (softmax(W x) - onehot)."""
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    image = images(4)
    signs = attack.pattern(lambda pixels: pixels.flatten(1) @ weight.T, image)
    logits = image.flatten(1) @ weight.T
    onehot = torch.eye(3)[logits.argmax(1)]
    expected = ((logits.softmax(1) - onehot) @ weight).sign().view_as(image)
    assert torch.equal(signs, expected)
    changed = attack.changed(image, signs, 0.1)
    assert torch.equal(changed, (image + 0.1 * expected).clamp(-1, 1))
    assert changed.amax() <= 1 and changed.amin() >= -1
    loss = nn.functional.cross_entropy(changed.flatten(1) @ weight.T, logits.argmax(1))
    assert loss > nn.functional.cross_entropy(logits, logits.argmax(1))


def test_a_network_that_is_all_but_sure_still_has_a_pattern() -> None:
    weight = torch.zeros(2, 64)
    weight[0] = 2.0
    image = torch.ones(1, *SHAPE)  # logits 128 and 0: the probability is 1, and the loss 0, in single precision
    assert torch.equal(attack.pattern(lambda pixels: pixels.flatten(1) @ weight.T, image), -image)


def test_a_network_with_one_answer_has_no_pattern() -> None:
    assert not attack.pattern(lambda pixels: pixels.flatten(1)[:, :1], images(1)).any()


def test_a_network_that_cannot_be_differentiated_says_so() -> None:
    with pytest.raises(DemoError, match="differentiated") as caught:
        attack.pattern(lambda pixels: pixels.detach().flatten(1), images(1))
    assert "\n" not in str(caught.value)


def test_an_attack_of_no_strength_changes_nothing() -> None:
    demo = one(attack, layers())
    for layer in LAYERS:
        shown = show(demo, epsilon=0, layer=layer, image=3)
        image, _, attacked = shown.pictures["attack"].images[0]
        assert torch.equal(image, attacked)
        same, again, seen, attacked_again = shown.pictures["seen"].images[0]
        assert torch.equal(same, image)
        close(seen, again)
        close(attacked_again, again)
        before, after = shown.pictures["samples"].images
        close(before, after)
        assert shown.figures["representation_moved/attack"] == 0
        assert shown.figures["probability/original"] == shown.figures["probability/attacked"]


def test_an_attack_is_what_it_says() -> None:
    (network,) = grouping.stages(given := layers())[0].networks
    run = network.layers["hidden"]
    shown = show(one(attack, given), epsilon="0.3", layer="hidden", image=2, samples=5, seed=9)
    image, signs, attacked = (each[None] for each in shown.pictures["attack"].images[0])
    assert torch.equal(image, run.image(2))
    assert torch.equal(attacked, (image + 0.3 * signs).clamp(-1, 1))
    system = run.system
    with torch.no_grad():
        _, again, seen, attacked_again = (each[None] for each in shown.pictures["seen"].images[0])
        close(again, system.first_stage(image))
        close(seen, system.first_stage.decode(system.flow.inverse(system.encode(image), system.represent(attacked))))
        close(attacked_again, system.first_stage(attacked))
        v = choosing.draw(run, 5, torch.Generator().manual_seed(9))
        for row, source in zip(shown.pictures["samples"].images, (image, attacked), strict=True):
            close(row, system.generate(system.represent(source), v)[0])
        probability = system.representation.logits(image).softmax(1).amax()
    assert shown.figures["probability/original"] == pytest.approx(float(probability))
    assert shown.figures["probability/attacked"] < shown.figures["probability/original"]
    assert shown.figures["probability/attacked"] < shown.figures["probability/control"]
    assert shown.lines[1] == "Strength 0.3." and shown.figures["epsilon"] == 0.3
    assert f"({float(probability):.1%})" in shown.lines[2]


class Bright(nn.Module):
    """A network that asks whether an image is brighter than a level."""

    layer = "logits"

    def forward(self, image: Tensor) -> Tensor:
        level = image.flatten(1).mean(1, keepdim=True)
        return torch.cat([level, -level, -9 + 0 * level], dim=1)

    logits = forward


def of_levels(*levels: float) -> Exhibit:
    """A run whose test images are plain, each of a level."""
    run = conditional("bright", Bright(), 3, count=len(levels))
    image = torch.tensor(levels)[:, None, None, None].expand(-1, *SHAPE).clone()
    run.images = Images(image, (image[:, 0, 0, 0] < 0).long())
    return run


def test_the_smallest_strength_that_misleads_is_taken() -> None:
    demo = one(attack, [of_levels(0.9, 0.12, -0.7, 0.17)])
    assert runs.chosen(demo, {})["image"] == 1  # the one that takes least
    shown = show(demo)
    assert shown.figures["epsilon"] == 0.15  # 0.1 leaves it a little brighter than grey
    assert shown.lines[1].startswith("Strength 0.15: the smallest of 0.02, ") and "for zero" in shown.lines[2]
    assert "for one" in shown.lines[3]
    assert show(demo, image=3).figures["epsilon"] == 0.2
    assert torch.equal(show(demo, epsilon=0.15).pictures["attack"].images, shown.pictures["attack"].images)
    shown = show(demo, image=0)
    assert shown.lines[1].startswith("None of the strengths") and shown.figures["epsilon"] == attack.STRENGTHS[-1]


def test_the_image_that_is_shown_first_is_one_that_the_network_knows() -> None:
    run = of_levels(0.9, 0.12, -0.7, 0.17)
    run.images.label[1] = 1
    assert attack.weakest(run) == 3
    run.images.label[:] = 2  # it knows none
    assert attack.weakest(run) == 0
    assert attack.weakest(of_levels(0.9, -0.8)) == 0


# --- representation --------------------------------------------------------------------------------------------------


def test_layers_share_their_draws() -> None:
    given = layers()
    shown = show(one(representation, given), image=4, samples=6, seed=2)
    overview = shown.pictures["layers"].images
    assert overview.shape == (3, 8, *SHAPE)
    v = choosing.draw(given[0], 6, torch.Generator().manual_seed(2))
    for row, run in zip(overview, given, strict=True):
        system = run.system
        with torch.no_grad():
            assert torch.equal(row[:1], run.image(4))
            close(row[1:2], system.first_stage(run.image(4)))
            close(row[2:], system.generate(system.represent(run.image(4)), v)[0])


def test_fewer_samples_are_the_first_of_more() -> None:
    demo = one(representation, layers())
    few, many = show(demo, samples=4).pictures["samples"], show(demo, samples=9).pictures["samples"]
    close(few.images, many.images[:4])


def test_similarities_are_of_the_layer_and_never_of_the_image_with_itself() -> None:
    given = layers()
    run = given[1]
    shown = show(one(representation, given), layer="hidden", image=1)

    def alike(images: Tensor) -> Tensor:
        return torch.cosine_similarity(run.system.represent(run.image(1)), run.system.represent(images))

    with torch.no_grad():
        samples = alike(shown.pictures["samples"].images)
        others = alike(torch.cat([run.images.image[:1], run.images.image[2:]]))  # all 11
    assert shown.figures["similarity/samples"] == pytest.approx(float(samples.mean()), abs=1e-5)
    assert shown.figures["similarity/samples_deviation"] == pytest.approx(float(samples.std()), abs=1e-5)
    assert shown.figures["similarity/others"] == pytest.approx(float(others.mean()), abs=1e-5)
    assert "11 other test images" in shown.lines[1]


def test_maps_are_of_the_samples() -> None:
    shown = show(one(representation, layers()), samples=5)
    samples, maps = shown.pictures["layers"].images[:, 2:], shown.pictures["maps"].images
    close(maps[:, 1], samples.mean(1))
    deviation = samples.std(1, correction=0)
    close(maps[:, 2], 2 * deviation / deviation.max() - 1)
    assert maps[:, 2].max() == pytest.approx(1)


# --- texture ---------------------------------------------------------------------------------------------------------


def test_two_networks_share_their_draws() -> None:
    given = everything()
    demo = one(texture, given)
    values = runs.chosen(demo, {})
    assert (values["first"], values["second"]) == ("logits", "second logits")
    shown = show(demo, first="hidden", second="second hidden", image=5, samples=4, seed=8)
    v = choosing.draw(given[0], 4, torch.Generator().manual_seed(8))
    pair = [run for run in given if run.name in ("hidden", "second hidden")]
    for row, run in zip(shown.pictures["samples"].images, pair, strict=True):
        with torch.no_grad():
            close(row, run.system.generate(run.system.represent(run.image(5)), v)[0])
    assert shown.figures["difference"] > 0
    same = show(demo, first="hidden", second="hidden")
    assert same.figures["difference"] == 0 and "same network" in same.lines[-1]


# --- video -----------------------------------------------------------------------------------------------------------


def test_a_sequence_is_made_where_there_is_no_video() -> None:
    given = layers()
    run = given[-1]
    shown = show(one(video, given), image=3, frames=21)
    clip = shown.clips["video"]
    assert clip.rate == 25 and clip.frames.shape == (21, 1, 8, 3 * 8 + 2)
    frames, still, made = clip.frames[..., :8], clip.frames[..., 9:17], clip.frames[..., 18:]
    close(frames[0], frames[-1])  # it leads back
    assert (frames[0] - frames[5]).abs().max() > 1e-3
    assert torch.equal(still, run.image(3).expand(21, *SHAPE))
    with torch.no_grad():
        context = run.system.represent(still)
        close(made, run.system.decode(run.system.encode(frames), context))
    strip = shown.pictures["strip"].images
    assert torch.equal(strip[0, 0], frames[0]) and torch.equal(strip[1, -1], made[-1])


def test_pictures_in_a_row_are_a_video(tmp_path: Path) -> None:
    for k in range(5):
        Image.new("L", (8, 8), 50 * k).save(tmp_path / f"{k}.png")
    demo = one(video, layers())
    shown = show(demo, video=str(tmp_path), frames=3)
    assert shown.figures["frames"] == 3 and any("first 3 of 5" in line for line in shown.lines)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(DemoError, match="empty"):
        show(demo, video=str(empty))


def test_a_video_of_the_image_itself_is_its_reconstruction(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 80).save(tmp_path / "a.png")
    shown = show(one(video, layers()), video=str(tmp_path), upload=str(tmp_path / "a.png"))
    close(shown.clips["video"].frames[0, :, :, 18:], shown.pictures["image"].images[0, 1])


# --- mixing ----------------------------------------------------------------------------------------------------------


def test_mixing_exchanges_what_layers_know() -> None:
    given = layers()
    shown = show(one(mixing, given), first=2, second=6, layer="hidden", grid=4)
    inputs, again, mixed = shown.pictures["mixed"].images
    run = given[1]
    first, second = run.image(2), run.image(6)
    assert torch.equal(inputs, torch.cat([first, second]))
    system = run.system
    with torch.no_grad():
        close(again, system.first_stage(inputs))
        close(mixed[:1], system.decode(system.encode(first), system.represent(second)))
        close(mixed[1:], system.decode(system.encode(second), system.represent(first)))
    assert (mixed - again).abs().max() > 1e-3
    by_layer = shown.pictures["layers"].images
    assert by_layer.shape == (3, 6, *SHAPE)
    assert torch.equal(by_layer[1, 4:], mixed)
    grid = shown.pictures["grid"].images
    assert grid.shape == (5, 5, *SHAPE)
    assert torch.equal(grid[0, 1:3], inputs) and torch.equal(grid[1:3, 0], inputs)
    close(grid[2, 1], mixed[0])  # the row gives the representation, the column all else
    close(grid[1, 2], mixed[1])
    full = show(one(mixing, given), first=2, second=6, grid=8).pictures["grid"].images
    assert len({tuple(image.flatten().tolist()) for image in full[0, 1:]}) == 8


def test_mixing_an_image_with_itself_is_its_reconstruction() -> None:
    shown = show(one(mixing, layers()), first=3, second=3, grid=3)
    _, again, mixed = shown.pictures["mixed"].images
    close(mixed, again)
    for pair in shown.pictures["layers"].images:
        close(pair[4:], pair[2:4])
    grid = shown.pictures["grid"].images
    assert shown.figures["agreement"] in (0, 1) and grid.shape == (4, 4, *SHAPE)
    for k in range(1, 3):
        close(grid[k, k], again[0])


# --- semantics -------------------------------------------------------------------------------------------------------


def test_a_factor_is_exchanged_in_images_of_the_same_representation() -> None:
    given = [*layers(), factor_flow()]
    demo = one(semantics, given)
    shown = show(demo, image=1, other=5, factor="side", layer="hidden", samples=3, seed=6)
    run, factors = given[1], given[-1].system
    v = choosing.draw(run, 3, torch.Generator().manual_seed(6))
    kept, edited = shown.pictures["edited"].images
    system = run.system
    with torch.no_grad():
        close(kept[:1], system.first_stage(run.image(1)))
        codes = torch.cat([system.code(run.image(1)), system.codes(system.represent(run.image(1)), v)[0]])
        close(kept, system.first_stage.decode(codes))
        e, value = factors.flow(codes)[0], factors.encode(run.image(5))
        changed = torch.cat([value[:, :2].expand(4, 2), e[:, 2:]], dim=1)
        close(edited, factors.decode(changed))
        before, after = system.represent(kept), system.represent(edited)
        moved = ((after - before).norm(dim=1) / before.norm(dim=1)).mean()
    assert shown.figures["moved/side"] == pytest.approx(float(moved), rel=1e-4)
    factors_shown = shown.pictures["factors"].images
    assert factors_shown.shape == (3, 4, *SHAPE) and torch.equal(factors_shown[1], edited)


def test_an_image_that_gives_itself_a_factor_stays() -> None:
    shown = show(one(semantics, [*layers(), factor_flow()]), image=2, other=2)
    kept, edited = shown.pictures["edited"].images
    close(kept[0], edited[0])
    assert (kept[1:] - edited[1:]).abs().max() > 1e-4  # samples have other codes


def test_names_of_runs_say_what_they_share_once() -> None:
    def named(*names: str) -> str:
        return choosing.named([SimpleNamespace(name=name) for name in names])  # type: ignore[misc]

    assert named("run_a") == "run_a"
    assert named("mnist_input", "mnist_conv1", "mnist_softmax") == "mnist_input, conv1 and softmax"
    assert named("alone", "other") == "alone and other"
    assert named(*(f"l_{k}" for k in range(5))) == "l_0, 1, 2, 3 and 4"
    assert named(*(f"l_{k}" for k in range(6))) == "l_0, 1, 2, 3 and 2 more"


def test_titles_name_runs_where_there_are_several_groups_only() -> None:
    titles = [demo.title for demo in runs.gallery([*layers(), factor_flow()])]
    assert "Adversarial attack" in titles and "Semantic editing" in titles and len(set(titles)) == len(titles)
    titles = [demo.title for demo in runs.gallery([*layers(), *layers(1, "second ")])]
    assert "Adversarial attack: input, hidden and logits" in titles and "Texture bias" in titles


@pytest.mark.parametrize("name", MODULES)
def test_rows_are_labelled(name: str) -> None:
    shown = show(MODULES[name].demos(everything())[0])
    labels = {key: picture.labels for key, picture in shown.pictures.items() if picture.labels}
    assert labels and all(len(found) == len(shown.pictures[key].images) for key, found in labels.items())
    if name in ("mixing", "representation"):
        assert labels["layers"] == ("input", "hidden", "logits")
    if name == "semantics":
        assert labels["factors"] == ("as it was", "side", "residual")
    assert not shown.cover or shown.cover in shown.pictures


def test_all_begin_with_the_last_layer() -> None:
    for name, module in MODULES.items():
        if name != "texture":
            assert runs.chosen(module.demos(everything())[0], {})["layer"] == "logits"
