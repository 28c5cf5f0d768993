"""Latents of any system: their names and ranges, what is drawn of them, and the page that turns them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_demo_show import Net as Network
from test_demo_show import conditional, exhibit, factor_flow
from torch import Tensor, nn

from iin.demo import files, latents, runs
from iin.demo.contract import DemoError, Shown
from iin.models import Autoencoder, Classifier, ConvVAE, PairRecogniser, ResidualDiscriminator
from iin.models.generator import ModuleGenerator
from iin.systems import VAE, VariationGAN, views
from iin.systems import Autoencoder as AutoencoderSystem
from iin.systems import Classifier as ClassifierSystem
from iin.systems.latents import Latents, latents_of


class Painter(nn.Module):
    """Each latent is the level of a pixel of its own, times a strength: what it does can be told from the image."""

    def __init__(self, dim: int = 3, strengths: Tensor | None = None, discrete: int = 0, **told: Any) -> None:
        super().__init__()
        self.dim, self.discrete = dim, discrete
        self.weight = nn.Parameter(torch.full((dim,), 0.1) if strengths is None else strengths)
        self.asked: list[Tensor] = []
        for name, value in told.items():
            setattr(self, name, value)

    def decode(self, z: Tensor) -> Tensor:
        self.asked.append(z)
        return (z * self.weight).view(len(z), 1, 1, self.dim)


def gan(latent: str = "uniform", classes: int = 3) -> VariationGAN:
    torch.manual_seed(0)
    modules = (*([f"D_global-{classes}"] if classes else []), "Conv-up-1", "C_global-4")
    made = ModuleGenerator(modules, 1, 8, width=8, least=4, styled=4)
    recogniser = PairRecogniser(1, 8, made.dim, width=16)
    return VariationGAN(made, ResidualDiscriminator(1, 8, width=16), recogniser, latent=latent).eval()  # type: ignore[arg-type]


def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(ConvVAE(1, 8, 3, (4,), 3, 2, (8,), (8, 32), 4, ()), "vae").eval()


# --- names, ranges, strengths ----------------------------------------------------------------------------------------


def test_latents_are_named_by_their_factors_or_numbers() -> None:
    assert Latents(factor_flow().system).names == ("side 0", "side 1", "residual 0", "residual 1")
    assert Latents(vae()).names == ("z0", "z1", "z2")
    found = Latents(gan())
    assert found.names == ("z0", "z1", "z2", "z3") and found.discrete == 3 and len(found) == 4


def test_ranges_are_the_bounds_or_two_deviations() -> None:
    assert Latents(Painter()).range(1) == (-2, 2)
    assert Latents(Painter(deviation=torch.tensor([1.0, 3.0, 1.0]))).range(1) == (-6, 6)
    bounded = Latents(Painter(bounds=(0.0, 1.0)))
    assert bounded.range(1) == (0, 1) and bounded.within(3) == 1 and bounded.within(0.5) == 0.5
    assert Latents(gan("normal")).within(3) == 3 and Latents(gan("truncated")).within(3) == 2


@pytest.mark.parametrize(
    ("system", "words"),
    [
        (nn.Linear(2, 2), "Linear makes no images of latents"),
        (ClassifierSystem(Classifier(1, 8, 3, 4, n_down=2, width=4)), "Classifier makes no images"),
        (SimpleNamespace(decode=lambda z: z), "does not say how many latents"),
        (SimpleNamespace(decode=lambda z: z, dim=3, decodes=False), "no decoder"),
        (Painter(3, discrete=3), "no latents but its 3 classes"),
    ],
)
def test_systems_without_latents(system: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Latents(system)
    assert latents_of(system) is None


def test_strengths_are_how_far_pixels_move() -> None:
    found = Latents(Painter(3, torch.tensor([0.1, -0.3, 0.2])))
    z = torch.tensor([[0.0, 0.5, -1.0], [1.0, 0.0, 0.0]])
    strengths = found.strengths(z)  # 4 deviations on the whole way, in one of three pixels
    torch.testing.assert_close(strengths, torch.tensor([0.4, 1.2, 0.8]) / 3)
    assert found.strongest(strengths) == [1, 2, 0]
    broken = Latents(Painter(2, torch.tensor([float("nan"), 0.1])))
    assert broken.strongest(broken.strengths(torch.zeros(1, 2))) is not None


def test_images_are_made_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    system, z = Painter(), torch.randn(10, 3)
    whole = Latents(system).decode(z)
    monkeypatch.setattr("iin.systems.latents.VALUES", 7)  # two of these images
    system.asked.clear()
    assert torch.equal(Latents(system).decode(z), whole) and [len(part) for part in system.asked] == [1, 2, 2, 2, 2, 1]


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_row_moves_one_latent_and_the_strongest_comes_first() -> None:
    system = Painter(3, torch.tensor([0.1, -0.3, 0.2]))
    z = torch.tensor([0.5, 1.0, -1.5])
    picture = views.traversals(system, z)
    assert picture.labels == ("z1", "z2", "z0") and picture.heads[0] == "-2" and picture.heads[-1] == "2"
    levels = picture.images.flatten(2)  # [row, value, latent]
    for row, index in enumerate((1, 2, 0)):
        others = [k for k in range(3) if k != index]
        torch.testing.assert_close(levels[row, :, index], torch.linspace(-2, 2, 9) * system.weight[index])
        torch.testing.assert_close(levels[row][:, others], (z * system.weight)[others].expand(9, 2))
    assert picture.loop is not None and picture.loop.labels == picture.labels
    assert picture.loop.images.shape == (3, 17, 1, 1, 3) and torch.equal(picture.loop.images[:, ::2], picture.images)
    assert "from -2 to 2 deviations" in picture.caption and not picture.images.requires_grad


def test_of_many_latents_the_strongest_are_shown_and_the_caption_says_so() -> None:
    strengths = torch.rand(40, generator=torch.Generator().manual_seed(0))
    picture = views.traversals(Painter(40, strengths), torch.zeros(40))
    assert picture.labels == tuple(f"z{k}" for k in strengths.argsort(descending=True)[:16])
    assert "These are the 16 of 40 that move the image most" in picture.caption
    some = views.traversals(Painter(20, strengths[:20]), torch.zeros(20))
    assert len(some.images) == len(some.labels) == 20 and some.loop is not None and len(some.loop.images) == 16


def test_a_range_of_its_own_is_gone_through() -> None:
    picture = views.traversals(Painter(bounds=(0.0, 1.0)), torch.full((3,), 0.5))
    assert picture.heads[0] == "0" and picture.heads[4] == "0.5" and picture.heads[-1] == "1"
    torch.testing.assert_close(picture.images[0, :, 0, 0, 0], 0.1 * torch.linspace(0, 1, 9))
    assert "from 0 to 1; all" in picture.caption


def test_classes_have_a_panel_that_goes_through_all() -> None:
    system = Painter(5, torch.ones(5), discrete=3)
    picture = views.traversals(system, torch.tensor([0.0, 1.0, 0.0, 0.5, 0.5]))
    assert picture.labels == ("z0", "z1") and picture.loop is not None
    assert picture.loop.labels == ("class", "z0", "z1")
    classes = picture.loop.images[0, :, 0, 0, :3]
    assert torch.equal(classes.sum(1), torch.ones(17)) and sorted(set(classes.argmax(1).tolist())) == [0, 1, 2]
    assert classes.argmax(1).tolist() == sorted(classes.argmax(1).tolist())
    for rows in (picture.images, picture.loop.images[1:]):  # else the class stays
        assert torch.equal(rows[..., :3].flatten(0, 3).unique(dim=0), torch.tensor([[0.0, 1.0, 0.0]]))


def test_a_conditional_flow_keeps_what_the_layer_knows() -> None:
    run = conditional("flow", Network("hidden"), 6)
    image = run.image(0)
    z, context = run.system.encode(image), run.system.represent(image)
    picture = views.traversals(run.system, z[0], context)
    codes = z.repeat(9, 1)
    index = int(picture.labels[0][1:])
    codes[:, index] = torch.linspace(-2, 2, 9)
    expected = run.system.decode(codes, context.expand(9, -1))
    torch.testing.assert_close(picture.images[0], expected, atol=1e-4, rtol=0)


# --- the page --------------------------------------------------------------------------------------------------------


def autoencoder() -> Any:
    model = Autoencoder(1, 8, 6, n_down=2, width=4)
    model.decode(model.encode(torch.rand(16, 1, 8, 8)).mean)  # begins ActNorm
    return AutoencoderSystem(model).eval()


MAKES = {
    "vae": vae,
    "gan": gan,
    "normal": lambda: gan("normal", 0),
    "autoencoder": autoencoder,
    "factors": lambda: factor_flow().system,
    "conditional": lambda: conditional("flow", Network("hidden"), 6).system,
}


def page(name: str) -> latents.LatentSliders:
    (found,) = latents.demos([exhibit(name, MAKES[name]())])
    return found


def show(demo: latents.LatentSliders, **given: Any) -> Shown:
    told: list[float] = []
    shown = runs.make(demo, runs.chosen(demo, given), lambda share, what: told.append(share))
    assert told == sorted(told) and told[-1] <= 1
    return shown


@pytest.mark.parametrize("name", MAKES)
def test_sliders_move_their_latents_and_nothing_else(name: str) -> None:
    demo = page(name)
    system, found = demo.run.system, demo.latents
    still = show(demo)
    start, changed = still.pictures["change"].images[0, -3:-1]
    assert torch.equal(start, changed) and still.figures["changed/pixels"] == 0
    assert not still.pictures["change"].images[0, -1].any()

    index, other = demo.order[0], demo.order[-1]
    moved = show(demo, **{demo.keys[index]: 1.5, demo.keys[other]: "-0.5"})
    image = demo.run.image(0)
    noise = torch.Generator().manual_seed(0)
    first = (system.encode(image) if demo.encodes else found.draw(1, noise)).detach()
    code = first.clone()
    for at, shift in ((index, 1.5), (other, -0.5)):
        code[0, found.discrete + at] = found.within(float(code[0, found.discrete + at]) + shift)
    context = (system.represent(image),) if found.conditional else ()
    with torch.no_grad():
        expected = [system.decode(one, *context)[0] for one in (first, code)]
    for made, wanted in zip(moved.pictures["change"].images[0, -3:-1], expected, strict=True):
        torch.testing.assert_close(made, wanted, atol=1e-4, rtol=0)
    assert moved.figures["changed/pixels"] > 0 and found.names[index] in " ".join(moved.lines)


@pytest.mark.parametrize("name", MAKES)
def test_all_latents_have_sliders_by_their_strengths(name: str) -> None:
    demo = page(name)
    sliders = [option for option in demo.options() if option.name in demo.keys]
    assert sorted(option.name for option in sliders) == sorted(demo.keys)
    strengths = [float(demo.strengths[demo.keys.index(option.name)]) for option in sliders]
    assert strengths == sorted(strengths, reverse=True) and strengths[0] > 0
    assert all(len(picture.heads) == picture.images.shape[1] for picture in show(demo).pictures.values())


def test_more_than_a_few_sliders_are_folded_but_there() -> None:
    strengths = torch.rand(40, generator=torch.Generator().manual_seed(0)) + 0.1
    (demo,) = latents.demos([exhibit("many", Painter(40, strengths))])
    options = {option.name: option for option in demo.options()}
    order = [f"z{k}" for k in demo.strengths.argsort(descending=True)]
    assert [name for name in options if name in order] == order
    assert [name for name in order if options[name].fold] == order[12:] and options["z3"].fold in (
        "",
        "28 more latents",
    )
    assert len([line for line in runs.describe(demo) if "28 more latents" in line]) == 1
    assert all(any(name in line for line in runs.describe(demo)) for name in order)
    weak = order[-1]
    shown = show(demo, **{weak: 1.0, "latent": weak})
    assert shown.figures["changed/pixels"] > 0 and shown.pictures["way"].labels == (weak,)


def test_one_latent_goes_from_end_to_end() -> None:
    (demo,) = latents.demos([exhibit("painter", Painter())])
    way = show(demo, latent="z2", z0=1.0).pictures["way"]
    torch.testing.assert_close(way.images[0, :, 0, 0, 2], torch.linspace(-2, 2, 9) * 0.1)
    assert way.heads == ("-2", "-1.5", "-1", "-0.5", "0", "0.5", "1", "1.5", "2") and way.loop is not None
    assert way.loop.images.shape == (1, 25, 1, 1, 3) and torch.equal(way.loop.images[:, ::3], way.images)
    start = Latents(demo.run.system).draw(1, torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close(way.images[0, :, 0, 0, 0], ((start[0] + 1) * 0.1).expand(9))


def test_a_class_is_chosen_and_gone_through() -> None:
    demo = page("gan")
    shown = show(demo, **{"class": "2", "latent": "class"})
    assert shown.pictures["way"].heads == ("0", "1", "2") and shown.lines[1:] == ["Class 2."]
    torch.testing.assert_close(shown.pictures["way"].images[0, 2], shown.pictures["change"].images[0, 1])
    assert show(demo, **{"class": "1"}).pictures["change"].images[0, 1].ne(shown.pictures["change"].images[0, 1]).any()


def test_a_latent_does_not_leave_its_range() -> None:
    demo = page("gan")
    shown = show(demo, z1=4)
    assert any(line.startswith("z1: from ") and line.endswith("to 2.00, the end of its range.") for line in shown.lines)
    free = show(page("normal"), z1=4)
    assert any(line.startswith("z1: from ") and "end of its range" not in line for line in free.lines)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("vae", {"z0": 9}, "z0: expected a number from -4 to 4, found '9'"),
        ("vae", {"z0": "nan"}, "z0: expected a number from -4 to 4, found 'nan'"),
        ("vae", {"z7": 1}, "latents has no option 'z7'"),
        ("vae", {"latent": "z9"}, "latent: expected one of z"),
        ("vae", {"start": "nowhere"}, "start: expected one of image, random"),
        ("gan", {"image": 1}, "latents has no option 'image'"),
        ("gan", {"class": "3"}, "class: expected one of as it is, 0, 1, 2, found '3'"),
        ("gan", {"seed": "x"}, "seed: expected a whole number"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_one_line(name: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(DemoError, match=words) as refused:
        show(page(name), **given)
    assert "\n" not in str(refused.value)


def test_an_upload_is_the_start_and_what_is_none_is_refused(tmp_path: Path) -> None:
    Image.new("L", (40, 30), 255).save(tmp_path / "white.png")
    (tmp_path / "words.png").write_text("words")
    shown = show(page("vae"), upload=tmp_path / "white.png")
    assert shown.lines[0] == "Image: a picture of your own." and (shown.pictures["change"].images[0, 0] > 0.99).all()
    with pytest.raises(DemoError, match=r"words\.png: not a picture"):
        show(page("vae"), upload=tmp_path / "words.png")


def test_random_starts_differ_by_their_seed_alone() -> None:
    demo = page("vae")
    one, same, other = (show(demo, start="random", seed=seed) for seed in (1, 1, 2))
    assert "image" not in one.pictures["change"].heads and one.lines == ["Random latents of seed 1."]
    assert torch.equal(one.pictures["change"].images, same.pictures["change"].images)
    assert not torch.equal(one.pictures["change"].images, other.pictures["change"].images)


def test_runs_that_make_no_images_are_passed_over() -> None:
    network = Classifier(1, 8, 3, 4, n_down=2, width=4)
    assert latents.demos([exhibit("classifier", ClassifierSystem(network))]) == []
    with pytest.raises(DemoError, match="no demo 'latents' of these runs; it needs a run that makes images of latents"):
        runs.find([], "latents")


def test_names_that_options_have_are_told_apart() -> None:
    (demo,) = latents.demos([exhibit("odd", Painter(2, factors=(1, 1), names=("class", "class 0")))])
    assert len({option.name for option in demo.options()}) == len(demo.options())


def test_what_is_shown_is_written_as_files(tmp_path: Path) -> None:
    demo = page("factors")
    values = runs.chosen(demo, {"side_1": 1.0})
    shown = runs.make(demo, values)
    written = {path.name for path in files.save(tmp_path, demo, values, shown)}
    assert written == {"latents_change.png", "latents_way.png", "latents_way.webp", "latents.json"}
    notes = json.loads((tmp_path / "latents.json").read_text())
    assert notes["values"]["side_1"] == 1 and notes["pictures"]["latents_way.png"]["columns"][0] == "-2"
    assert notes["pictures"]["latents_way.png"]["moving"] == "latents_way.webp"
    assert "moving" not in notes["pictures"]["latents_change.png"]
    with Image.open(tmp_path / "latents_way.webp") as moving:
        assert moving.n_frames > 40 and moving.info["loop"] == 0


def test_the_page_draws_what_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = pytest.importorskip("iin.demo.page", reason="the page needs the package streamlit")
    monkeypatch.setattr(drawn, "_shelf", drawn.Shelf())
    rendered = drawn.render(page("vae"), {"z1": 1.0})
    kinds = [(figure.stem, figure.kind) for figure in rendered.figures]
    assert kinds == [("latents_change", "png"), ("latents_way", "png"), ("latents_way", "webp")]
    assert rendered.figures[2].title.endswith(", in motion") and rendered.figures[2].content[8:12] == b"WEBP"
    assert np.asarray(Image.open(io.BytesIO(rendered.cover))).std() > 5
