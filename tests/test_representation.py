"""Any layer of any network: what is read, in which arrangement, and what is refused."""

from __future__ import annotations

import copy
import importlib
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import iin
from iin import config
from iin.cli import train
from iin.cli.explore import main
from iin.models import Classifier, Layer
from iin.models.digits import digits
from iin.models.representation import Preprocess, describe, load
from iin.systems import LatentFlow


class Net(nn.Module):
    """Layers of many kinds, some in places where reading them goes wrong easily."""

    def __init__(self, width: int = 6, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Dropout(0.5),
        )  # fmt: skip
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(width, 7)
        self.head = nn.Linear(7, classes)
        self.spare = nn.Linear(2, 2)
        self.past_head = 0

    def forward(self, image: Tensor) -> Tensor:
        x = self.pool(self.features(image)).flatten(1)
        x = self.relu(self.hidden(self.relu(x - 0.1)))
        self.past_head += 1
        return self.head(x)


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16) * 2 - 1


def answers(values: Any) -> nn.Module:
    """A network with a layer ``odd`` that answers whatever a function makes of the image."""

    class Odd(nn.Module):
        def forward(self, image: Tensor) -> Any:
            return values(image)

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = Odd()

        def forward(self, image: Tensor) -> Tensor:
            self.odd(image)
            return image.mean((2, 3))

    return Holder()


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_layer_is_what_the_network_computes_there(net: Net, images: Tensor) -> None:
    conv = net.features[0](images)
    assert torch.equal(Layer(net, "features.0")(images), conv)
    assert torch.equal(Layer(net, "features.3")(images), F.max_pool2d(net.features[1](conv).relu(), 2))
    assert Layer(net, "pool")(images).shape == (2, 6)
    assert torch.equal(Layer(net, "logits")(images), net(images))
    assert torch.equal(Layer(net, "softmax")(images), net(images).softmax(1))
    assert torch.equal(Layer(net, "input")(images), images)


def test_a_relu_that_works_in_place_does_not_change_the_layer_before_it() -> None:
    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None).eval()
    image = torch.rand(1, 3, 96, 96) * 2 - 1
    x = image
    for module in network.features[:10]:
        x = F.relu(x) if isinstance(module, nn.ReLU) else module(x)
    before = F.conv2d(x, network.features[10].weight, network.features[10].bias, padding=1)
    assert before.min() < 0
    torch.testing.assert_close(Layer(network, "features.10")(image), before)
    torch.testing.assert_close(Layer(network, "features.11")(image), before.relu())


def test_images_and_representations_share_no_memory(images: Tensor) -> None:
    network = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = images.clone()
    for name in ("input", "0", "1", "logits"):
        layer = Layer(network, name)
        layer(images).zero_()
        layer.logits(images)
        assert torch.equal(images, before), name
    image = images.requires_grad_()
    Layer(network, "1", gradient=True)(image).sum().backward()  # a leaf cannot be changed in place
    assert torch.equal(image.grad, (before > 0).float())
    held = answers(lambda x: held.kept)
    held.kept = torch.ones(2, 3)
    found = Layer(held, "odd")(images)
    held.kept.zero_()
    assert torch.equal(found, torch.ones(2, 3))


def test_nothing_behind_the_layer_is_run(net: Net, images: Tensor) -> None:
    Layer(net, "features.3")(images)
    assert net.past_head == 0
    Layer(net, "head")(images)
    assert net.past_head == 1
    assert not any(module._forward_hooks for module in net.modules())


def test_networks_that_catch_exceptions_are_read_as_well(images: Tensor) -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 2, 1)

        def forward(self, image: Tensor) -> Tensor:
            try:
                return self.inner(image)
            except Exception:
                return image

    network = Careful()
    assert torch.equal(Layer(network, "inner")(images), network.inner(images))


def test_of_several_calls_the_first_counts(net: Net, images: Tensor) -> None:
    first = (net.pool(net.features(images)).flatten(1) - 0.1).relu()
    assert torch.equal(Layer(net, "relu")(images), first)
    assert first.shape != net.relu(net.hidden(first)).shape


def test_gradients_only_where_they_are_asked_for(net: Net, images: Tensor) -> None:
    image = images.requires_grad_()
    assert not Layer(net, "features.3")(image).requires_grad
    Layer(net, "features.3", gradient=True, preprocess="imagenet")(image).sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    image.grad = None
    layer = Layer(net, "features.3", preprocess={"size": 20, "antialias": True})
    layer.logits(image).sum().backward()
    assert image.grad.abs().sum() > 0
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in net.parameters())


def test_the_network_stays_frozen_and_in_eval_mode(images: Tensor) -> None:
    net = Net()
    with pytest.warns(UserWarning, match=r"^Net was in train mode, where BatchNorm2d, Dropout answer otherwise; it is"):
        layer = Layer(net, "features")
    expected = layer(images)
    assert layer.train() is layer and not any(module.training for module in layer.modules())
    nn.ModuleList([layer]).train()
    assert not any(module.training for module in layer.modules())
    net.train()  # by another hand
    assert torch.equal(layer(images), expected) and torch.equal(layer(images), expected)
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Layer(nn.Sequential(nn.Conv2d(3, 2, 1)), "0")  # has no modes to tell apart


def test_threads_do_not_read_each_others_images(net: Net) -> None:
    layer = Layer(net, "features.0")
    wrong = []

    def work(value: float) -> None:
        image = torch.full((1, 3, 16, 16), value)
        expected = net.features[0](image)
        wrong.extend(1 for _ in range(30) if not torch.equal(layer(image), expected))

    threads = [threading.Thread(target=work, args=(k / 4,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_copies_and_state_dicts(net: Net, images: Tensor) -> None:
    layer = Layer(net, "features.3", preprocess="imagenet")
    other = copy.deepcopy(layer)
    assert torch.equal(other(images), layer(images))
    assert set(layer.state_dict()) == {f"model.{key}" for key in net.state_dict()}
    with torch.no_grad():
        other.model.features[0].weight.zero_()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(images), layer(images))
    assert layer.to(torch.float64)(images.double()).dtype == torch.float64  # mean and std move along
    assert layer.shape(32) == (6, 16, 16) and layer.shape((16, 8)) == (6, 8, 4)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("feature.3", "did you mean features.3"), ("2", "did you mean features.2"), ("zzz", "there are: input, logits")],
)
def test_a_wrong_name_lists_the_nearest(net: Net, wrong: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"^Net has no layer '{wrong}'; {nearest}"):
        Layer(net, wrong)


def test_a_layer_that_is_never_reached(net: Net, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^Net never calls its layer spare for an image"):
        Layer(net, "spare")(images)


def test_a_submodule_goes_before_a_name_of_ours(images: Tensor) -> None:
    network = nn.Sequential()
    network.add_module("logits", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    network.add_module("softmax", nn.Softmax(1))
    layer = Layer(network, "logits")
    assert torch.equal(layer(images), images.mean((2, 3))) or torch.allclose(layer(images), images.mean((2, 3)))
    assert torch.equal(Layer(network, "softmax")(images), network(images))  # not of a softmax again
    assert torch.equal(layer.logits(images), network(images))


def test_the_shipped_digit_network_has_readable_names() -> None:
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    shapes = {name: tuple(Layer(digits(), name)(images).shape[1:]) for name in ("conv1", "conv2", "conv3", "logits")}
    assert shapes == {"conv1": (16, 16, 16), "conv2": (32, 8, 8), "conv3": (64, 4, 4), "logits": (10,)}
    assert torch.equal(Layer(digits(), "softmax")(images), digits()(images).softmax(1))
    assert torch.equal(Layer(digits(), "conv2")(images), Layer(digits(), "blocks.7")(images))


def test_the_shared_digit_network_is_not_moved() -> None:
    layer = Layer(digits(), "conv1").to(torch.float64)
    assert layer(torch.zeros(1, 1, 32, 32, dtype=torch.float64)).dtype == torch.float64
    assert digits()(torch.zeros(1, 1, 32, 32)).dtype == torch.float32


def test_our_own_classifier() -> None:
    classifier = Classifier(size=16, n_down=2, width=4, norm="batch").eval()
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(Layer(classifier, "head")(images), classifier(images))
    assert Layer(classifier, "encoder.0")(images).shape == (2, 4, 8, 8)


# --- arrangement -----------------------------------------------------------------------------------------------------


def given(value: Callable[[Tensor], Tensor], image: Tensor, **arguments: Any) -> Tensor:
    return Layer(answers(value), "odd", **arguments)(image)


def test_maps_of_a_pixel_are_vectors_and_numbers_are_vectors_of_one() -> None:
    image = torch.rand(2, 3, 8, 8)
    assert given(lambda x: x.mean((2, 3), keepdim=True), image).shape == (2, 3)
    assert given(lambda x: x.mean((2, 3))[:, None, None], image, layout="channels_last").shape == (2, 3)
    assert given(lambda x: x.mean((1, 2, 3)), image).shape == (2, 1)


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (9, 7)])
def test_channels_are_found_by_the_proportions_of_the_image(size: tuple[int, int]) -> None:
    image = torch.rand(2, 5, *size)
    assert torch.equal(given(lambda x: x * 1, image), image)
    assert torch.equal(given(lambda x: x.permute(0, 2, 3, 1), image), image)
    assert torch.equal(given(lambda x: x * 1, image, layout="channels_last"), image.permute(0, 3, 1, 2))


def test_a_cube_is_told_by_a_second_image_size() -> None:
    image = torch.rand(2, 8, 8, 8)
    assert torch.equal(given(lambda x: x * 1, image), image)
    assert torch.equal(given(lambda x: x.permute(0, 2, 3, 1), image), image)
    # Where the network takes no other size, its own word decides, and else channels come second.
    fixed = answers(lambda x: x.permute(0, 2, 3, 1) + torch.zeros(8, 8, 1))
    assert torch.equal(Layer(fixed, "odd")(image), image.permute(0, 2, 3, 1))
    fixed.output_fmt = "NHWC"
    assert torch.equal(Layer(fixed, "odd")(image), image)


def test_the_modules_class_goes_before_proportions() -> None:
    image = torch.rand(1, 4, 4, 4)
    linear = nn.Sequential(nn.Conv2d(4, 4, 1), nn.LayerNorm(4), nn.Linear(4, 4))
    raw = linear(image)
    assert torch.equal(Layer(linear, "2")(image), raw.permute(0, 3, 1, 2))
    assert torch.equal(Layer(linear, "0")(image), linear[0](image))


@pytest.mark.parametrize("front", [0, 1, 2, 5])
def test_tokens_become_a_map_without_class_and_registers(front: int) -> None:
    image = torch.rand(2, 3, 4, 8)
    tokens = lambda x: torch.cat([torch.ones(2, front, 3), x.flatten(2).transpose(1, 2)], 1)  # noqa: E731
    assert torch.equal(given(tokens, image), image)
    assert torch.equal(given(lambda x: tokens(x).transpose(1, 2), image, layout="channels_first"), image)


def test_the_networks_own_count_of_tokens_goes_first() -> None:
    image = torch.rand(2, 3, 8, 8)
    network = answers(lambda x: torch.cat([torch.ones(2, 3, 3), x[:, :, :3, :2].flatten(2).transpose(1, 2)], 1))
    assert Layer(network, "odd")(image).shape == (2, 3, 3, 3)  # nine tokens: a square of nine
    network.num_prefix_tokens = 5
    assert Layer(network, "odd")(image).shape == (2, 3, 2, 2)


def test_tokens_without_a_grid_are_averaged() -> None:
    image = torch.rand(2, 3, 8, 8)
    pick = lambda x: x.flatten(2).transpose(1, 2)[:, :7]  # noqa: E731
    torch.testing.assert_close(given(pick, image), pick(image).mean(1))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x: (x, {"a": x}), r"answers a tuple of 2 \(0: a tensor \[2, 3, 8, 8\], 1: a dict .*choose one .* item"),
        (lambda x: {"map": x}, r"answers a dict \{'map': a tensor \[2, 3, 8, 8\]\}; expected a tensor: choose one"),
        (lambda x: None, r"answers a NoneType; expected a tensor: choose another layer"),
        (lambda x: x.argmax(1), r"answers torch.int64 \[2, 8, 8\]; expected floating point"),
        (lambda x: x[:1], r"answers \[1, 3, 8, 8\] for 2 images"),
        (lambda x: x.mean(), r"answers \[\] for 2 images"),
        (lambda x: x[..., None], r"answers \[2, 3, 8, 8, 1\], which layout auto does not arrange; expected \[B, C\]"),
    ],
)
def test_answers_that_are_no_representation(value: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^Holder, layer odd {message}") as caught:
        given(value, torch.rand(2, 3, 8, 8))
    assert "\n" not in str(caught.value)


def test_an_item_of_a_tuple_or_mapping() -> None:
    image = torch.rand(2, 3, 8, 8)
    assert torch.equal(given(lambda x: (x, x * 2), image, item=1), image * 2)
    assert torch.equal(given(lambda x: {"a": x, "b": x * 2}, image, item="b"), image * 2)
    with pytest.raises(ValueError, match=r"answers a tuple of 2 .*, which has no item 2"):
        given(lambda x: (x, x), image, item=2)
    with pytest.raises(ValueError, match=r"answers one tensor \[2, 3, 8, 8\]; leave out item, found 1"):
        given(lambda x: x * 1, image, item=1)


def test_an_item_of_the_networks_answer(images: Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)

        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            answer = self.first(image).mean((2, 3))
            return answer, answer[:, :2]

    network = Twice().eval()
    expected = network(images)[1]
    for name in ("logits", "softmax"):
        layer = Layer(network, name, item=1)
        assert torch.equal(layer.logits(images), expected)
        assert torch.equal(layer(images), expected if name == "logits" else expected.softmax(1))
    with pytest.raises(ValueError, match="Twice answers a tuple of 2"):
        Layer(network, "softmax").logits(images)


@pytest.mark.parametrize(
    ("model", "layer", "layout", "message"),
    [
        (nn.Identity(), 3, "auto", "layer: expected a name, such as 'layer3', found 3"),
        (nn.Identity(), None, "auto", "layer: expected a name"),
        (nn.Identity(), "input", "last", "layout: expected auto, channels_first, channels_last, tokens, found 'last'"),
        (nn.Identity, "input", "auto", "model: expected a module, found the class Identity: make one of it"),
    ],
)
def test_arguments_of_another_kind(model: Any, layer: Any, layout: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layer(model, layer, layout=layout)


def test_logits_are_those_of_a_classifier(images: Tensor) -> None:
    conv = nn.Conv2d(3, 4, 1)
    with pytest.raises(ValueError, match=r"^Conv2d answers a tensor \[2, 4, 16, 16\]; expected logits \[B, K\]"):
        Layer(conv, "input").logits(images)
    assert Layer(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1)), "0").logits(images).shape == (2, 4)

    class Mapping(nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"logits": image.mean((2, 3)), "more": image}

    layer = Layer(Mapping(), "logits")
    assert torch.equal(layer(images), images.mean((2, 3))) and torch.equal(layer.logits(images), layer(images))


def test_images_that_the_network_does_not_take(net: Net) -> None:
    with pytest.raises(ValueError, match=r"^Net does not take network inputs \[2, 1, 16, 16\] \(.*preprocess changes"):
        Layer(net, "head")(torch.rand(2, 1, 16, 16))
    assert not any(module._forward_hooks for module in net.modules())
    for wrong in (torch.rand(3, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"^expected images \[B, C, H, W\] in \[-1, 1\], found torch\."):
            Layer(net, "head")(wrong)


# --- preprocessing ---------------------------------------------------------------------------------------------------


def test_imagenet_is_what_torchvision_does(images: Tensor) -> None:
    from torchvision.transforms import functional as T

    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    torch.testing.assert_close(Preprocess.named("imagenet")(images), T.normalize((images + 1) / 2, mean, std))
    resized = T.resize(images, [21, 21], antialias=False)
    torch.testing.assert_close(
        Preprocess.named({"size": 21, "mean": "imagenet", "std": std})(images),
        T.normalize((resized + 1) / 2, mean, std),
    )
    assert torch.equal(Preprocess.named(None)(images), images)


def test_what_the_weights_ask_for_is_their_own_transform() -> None:
    image = torch.rand(1, 3, 300, 260)
    layer = Layer("torchvision:squeezenet1_1", "input", preprocess="weights", weights="random")
    expected = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()(image)
    torch.testing.assert_close(layer(image * 2 - 1), expected, atol=1e-5, rtol=1e-4)


def test_channels_and_range() -> None:
    grey = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3)
    assert torch.equal(Preprocess(range=[0, 10])(grey).flatten(), torch.tensor([0.0, 5.0, 10.0]))
    assert Preprocess(channels=3)(grey).shape == (1, 3, 1, 3)
    colour = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert Preprocess(channels=1)(colour).item() == pytest.approx(0.299)
    torch.testing.assert_close(Preprocess(channels=1)(Preprocess(channels=3)(grey)), grey)
    with pytest.raises(ValueError, match="expected images of 1 or 3 channels, found 4"):
        Preprocess(channels=1)(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="images have 2 channels, mean and std 3"):
        Preprocess.named("imagenet")(torch.zeros(1, 2, 2, 2))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("imagnet", "expected none, imagenet, weights, or a mapping"),
        ({"sice": 3}, "unknown key sice; known: size, resize"),
        ({"size": 0}, "size: expected a number of pixels"),
        ({"size": True}, "size: expected a number of pixels"),
        ({"resize": 8}, "resize: expected the length of the shorter side"),
        ({"mean": [1, 2]}, "mean: expected imagenet, or 1 or 3 numbers"),
        ({"std": [0.0]}, "std: expected numbers > 0"),
        ({"range": [1, 0]}, "range: expected two numbers"),
        ({"antialias": "no"}, "antialias: expected true or false"),
        ({"interpolation": "cubic"}, "interpolation: expected bilinear"),
        ({"channels": 2}, "channels: expected 1 or 3"),
    ],
)
def test_preprocessing_that_makes_no_sense(net: Net, what: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^preprocess: {message}"):
        Layer(net, "head", preprocess=what)


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_function_has_its_ends_alone(images: Tensor) -> None:
    layer = Layer(lambda image: image.mean((2, 3)), "logits")
    assert torch.equal(layer(images), images.mean((2, 3))) and torch.equal(layer.logits(images), layer(images))
    with pytest.raises(ValueError, match=r"has no layer 'conv'; there are: input, logits, softmax$"):
        Layer(lambda image: image, "conv")
    assert [row.path for row in describe(lambda image: image.mean((2, 3)), 8)] == ["input", "logits", "softmax"]


def test_torchvision_by_name() -> None:
    with pytest.warns(UserWarning, match="^torchvision:resnet18 has random weights; weights: DEFAULT"):
        torch.manual_seed(3)
        layer = Layer("torchvision:resnet18", "layer2")
    torch.manual_seed(3)
    expected = torchvision.models.resnet18(weights=None)
    assert torch.equal(layer.model.layer2[0].conv1.weight, expected.layer2[0].conv1.weight)
    assert not layer.model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "torchvision:resnet1"}, "model: torchvision has no 'resnet1'; did you mean resnet1"),
        (
            {"model": "torchvision:alexnet", "weights": "BEST"},
            "weights: torchvision:alexnet has no 'BEST'; there are: DE",
        ),
        (
            {"model": "torchvision:alexnet", "weights": "DEFAULT", "checkpoint": "x.pt"},
            "weights: give weights or checkp",
        ),
        ({"model": "torchvision:alexnet", "checkpoint": "x.pt"}, "checkpoint: there is no file x.pt"),
        ({"model": "resnet18"}, "model: expected torchvision:NAME, timm:NAME, a file"),
        ({"model": "net.onnx"}, "model: net.onnx ends in none of .pt"),
        ({"model": "net.pt"}, "model: there is no file net.pt"),
        ({"model": nn.Identity(), "weights": "DEFAULT"}, "weights: for models of torchvision: and timm: only"),
        ({"model": nn.Identity(), "preprocess": "weights"}, "preprocess: weights is for models of torchvision"),
        ({"model": 3}, "expected a module, a function of images or text, found a int"),
    ],
)
def test_sources_that_are_none(arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{message}"):
        Layer(layer="input", **arguments)


def test_weights_that_are_not_here_are_not_fetched(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(ValueError, match=r"are not on this machine: expected .*squeezenet1_1-.*download: true"):
        Layer("torchvision:squeezenet1_1", "input", weights="DEFAULT")
    Layer("torchvision:fcn_resnet50", "input", weights="random")  # whose builder fetches a backbone by default
    with pytest.raises(ValueError, match="not on this machine") as caught:
        Layer("torchvision:squeezenet1_1", "input", weights="IMAGENET1K_V1")
    # In the place that the message names, weights are found.
    path = Path(str(caught.value).partition("expected ")[2].partition(", which")[0])
    path.parent.mkdir(parents=True)
    network = torchvision.models.squeezenet1_1(weights=None)
    torch.save(network.state_dict(), path)
    layer = Layer("torchvision:squeezenet1_1", "features.0", weights="DEFAULT")
    assert torch.equal(layer.model.features[0].weight, network.features[0].weight)
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read as a file of tensors"):
        Layer("torchvision:squeezenet1_1", "features.0", weights="DEFAULT")


def test_download_that_fails(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(url: str, path: str, *_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(ValueError, match=r"^weights: downloading .* failed: no network"):
        Layer("torchvision:squeezenet1_1", "input", weights="DEFAULT", download=True)


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_checkpoint_tells_the_number_of_classes(tmp_path: Path, key: str | None) -> None:
    network = torchvision.models.resnet18(weights=None, num_classes=10).eval()
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    torch.save({key: state, "step": 3} if key else state, tmp_path / "net.pt")
    layer = Layer("torchvision:resnet18", "fc", checkpoint=str(tmp_path / "net.pt"))
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(layer(image), network(image)) and layer(image).shape == (1, 10)


def test_checkpoints_that_do_not_fit(tmp_path: Path, net: Net, capfd: Any) -> None:
    path = tmp_path / "net.pt"
    torch.save(Net(width=5).state_dict(), path)
    with pytest.raises(
        ValueError, match=r"^checkpoint: does not fit .*: features.0.bias is \[5\], expected \[6\]; .*more"
    ):
        Layer(net, "head", checkpoint=str(path))
    with pytest.raises(ValueError, match=r"^checkpoint: does not fit torchvision:alexnet: .* is missing; .*more"):
        Layer("torchvision:alexnet", "avgpool", checkpoint=str(path))
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="no state dict; expected names and tensors"):
        Layer(net, "head", checkpoint=str(path))
    torch.save(net, path)  # pickled code is not run
    with pytest.raises(ValueError, match="cannot be read as a file of tensors"):
        Layer(net, "head", checkpoint=str(path))
    with pytest.raises(ValueError, match="not a file of TorchScript; a state dict goes to checkpoint"):
        Layer(str(path), "head")
    for content in (b"nothing", path.read_bytes()):
        (tmp_path / "net.pt2").write_bytes(content)
        with pytest.raises(ValueError, match=r"net\.pt2: not a file of torch\.export \("):
            Layer(str(tmp_path / "net.pt2"), "head")
    assert capfd.readouterr().err == ""


class Plain(nn.Module):
    """`Net` without the count, which neither script nor export knows."""

    def __init__(self) -> None:
        super().__init__()
        net = Net()
        self.features, self.relu, self.pool = net.features, net.relu, net.pool
        self.hidden, self.head, self.spare = net.hidden, net.head, net.spare

    def forward(self, image: Tensor) -> Tensor:
        return self.classify(self.pool(self.features(image)).flatten(1))

    def classify(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.hidden(self.relu(x - 0.1))))


@pytest.fixture(params=["script", "trace", "export"])
def stored(request: pytest.FixtureRequest, tmp_path: Path, images: Tensor) -> tuple[nn.Module, str]:
    """A network, and the path of a file of it."""
    net = Plain().eval()
    with torch.no_grad():
        net.features[1].running_mean.uniform_(-1, 1)
    path = str(tmp_path / ("net.pt2" if request.param == "export" else "net.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if request.param == "export":
            many = ({0: torch.export.Dim("batch")},)
            torch.export.save(torch.export.export(net, (images,), dynamic_shapes=many), path)
        else:
            made = torch.jit.script(net) if request.param == "script" else torch.jit.trace(net, images)
            torch.jit.save(made, path)
    return net, path


def test_layers_of_stored_programs(stored: tuple[nn.Module, str], images: Tensor) -> None:
    net, path = stored
    names = ["input", "features.0", "features.1", "features.2", "features", "relu", "hidden", "logits", "softmax"]
    for name in names:
        for count in (1, 2):
            expected = Layer(net, name)(images[:count])
            torch.testing.assert_close(Layer(path, name)(images[:count]), expected, msg=name)
    image = images.clone().requires_grad_()
    Layer(path, "features.3", gradient=True)(image).sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"has no layer 'hiden'; did you mean hidden"):
        Layer(path, "hiden")


def test_stored_programs_are_listed_like_the_module(stored: tuple[nn.Module, str], images: Tensor) -> None:
    net, path = stored
    mine = {row.path: row for row in describe(net, 16)}
    theirs = {row.path: row for row in describe(path, 16)}
    spare, mine_spare = theirs.pop("spare", None), mine.pop("spare")
    assert spare is None if "pt2" in path else spare[:3] == mine_spare[:3] and spare.note.endswith("loop only")
    assert mine == theirs and mine["relu"].note == "called 2 times, the first counts"


def test_stored_programs_are_parts_of_systems(stored: tuple[nn.Module, str], images: Tensor) -> None:
    layer = Layer(stored[1], "features.3")
    expected = layer(images)
    holder = nn.ModuleList([layer]).train().requires_grad_(False)
    other = copy.deepcopy(holder).to("cpu")
    for tensor in other.state_dict().values():
        tensor.zero_()
    assert not torch.equal(other[0](images), expected)
    other.load_state_dict(holder.state_dict(), strict=True)
    assert torch.equal(other[0](images), expected) and torch.equal(layer(images), expected)


def test_layers_in_branches_of_a_script(tmp_path: Path, images: Tensor) -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

        def forward(self, image: Tensor) -> Tensor:
            if image.sum() > 1e9:
                image = self.inner(image)
            return self.last(image)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(Branch().eval())
    assert Layer(script, "last")(images).shape == (2, 2, 16, 16)
    with pytest.raises(ValueError, match="layer inner is called in a branch or loop of a script"):
        Layer(script, "inner")(images)


def test_exported_modules_that_answer_several_tensors(tmp_path: Path, images: Tensor) -> None:
    network = answers(lambda x: (x.mean((2, 3)), x * 2))
    network.forward = lambda image: sum(part.mean() for part in network.odd(image)) + image.mean((2, 3))
    program = torch.export.export(network, (images,))
    with pytest.raises(ValueError, match=r"layer odd answers a tuple of 2 \(0: a tensor \[2, 3\], 1: a tensor .*item$"):
        Layer(program, "odd")(images)
    assert torch.equal(Layer(program, "odd", item=1)(images), images * 2)


def test_graphs_of_fx_are_modules(net: Net, images: Tensor) -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(net.features, nn.Flatten()))
    assert torch.equal(Layer(graph, "0.0")(images), net.features[0](images))


def test_traces_that_were_not_stored(net: Net, images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = torch.jit.trace(net, images)
    torch.testing.assert_close(Layer(trace, "features.2")(images[:1]), Layer(net, "features.2")(images[:1]))
    assert {row.path: row for row in describe(trace, 16)}["hidden"].shape == (7,)


def test_frozen_scripts_have_their_ends_alone(images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.freeze(torch.jit.script(Plain().eval()))
    assert Layer(script, "logits")(images).shape == (2, 5)
    with pytest.raises(ValueError, match="has no layer 'head'; there are: input, logits, softmax"):
        Layer(script, "head")


# --- timm ------------------------------------------------------------------------------------------------------------


def test_a_block_of_a_timm_transformer() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, class_token=True).eval()
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    seen = []
    network.blocks[1].register_forward_hook(lambda module, inputs, answer: seen.append(answer))
    network(image)
    map_ = Layer(network, "blocks.1")(image)
    assert map_.shape == (2, 192, 4, 4)
    assert torch.equal(map_.flatten(2).transpose(1, 2), seen[0][:, 1:])
    registers = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, reg_tokens=4).eval()
    assert Layer(registers, "blocks.0")(image).shape == (2, 192, 4, 4)


def test_maps_of_timm_with_channels_last() -> None:
    timm = pytest.importorskip("timm")
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    arguments = {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 1)}
    swin = timm.create_model("swin_tiny_patch4_window7_224", **arguments).eval()
    raw = swin.layers[0](swin.patch_embed(image))  # [1, 16, 16, 16]: nothing in the shape tells
    assert raw.shape == (1, 16, 16, 16)
    assert torch.equal(Layer(swin, "layers.0")(image), raw.permute(0, 3, 1, 2))
    assert Layer(swin, "patch_embed.proj")(image).shape == (1, 16, 16, 16)
    assert torch.equal(Layer(swin, "patch_embed.proj")(image), swin.patch_embed.proj(image))
    convnext = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), conv_mlp=False).eval()
    assert Layer(convnext, "stages.1")(image).shape == (1, 16, 8, 8)
    assert Layer(convnext, "stages.1.blocks.0.norm")(image).shape == (1, 16, 8, 8)
    assert Layer(convnext, "stages.0.blocks.0.mlp.fc1")(image).shape == (1, 32, 16, 16)


def test_timm_by_name(tmp_path: Path, monkeypatch: Any) -> None:
    timm = pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"^model: timm has no 'resnet1'; did you mean"):
        Layer("timm:resnet1", "input")
    with pytest.raises(ValueError, match=r"^weights: timm:test_vit has no 'best'; there are: DEFAULT, random, r160"):
        Layer("timm:test_vit", "input", weights="best")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(
        ValueError, match=r"^weights: those of timm:test_vit.* not on this machine: expected timm/test_vit"
    ):
        Layer("timm:test_vit", "input", weights="DEFAULT")
    network = timm.create_model("test_vit", num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "net.pt")
    layer = Layer("timm:test_vit", "softmax", preprocess="weights", checkpoint=str(tmp_path / "net.pt"))
    image = torch.rand(2, 1, 90, 100)
    assert layer.network_input(image).shape == (2, 3, 160, 160)
    assert torch.equal(layer(image), network(layer.network_input(image)).softmax(1)) and layer(image).shape == (2, 7)


def test_timm_that_is_not_installed(monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^model: timm:resnet18 needs timm, which is not installed: pip install 'iin\[t"
    ):
        Layer("timm:resnet18", "input")


# --- configurations and the command ----------------------------------------------------------------------------------

NODE = {"target": "iin.models.Layer", "params": {"model": {"target": "iin.models.digits.digits"}, "layer": "conv2"}}


def test_a_configuration_builds_a_layer() -> None:
    layer = config.build(NODE)
    assert isinstance(layer, Layer) and layer(torch.zeros(1, 1, 32, 32)).shape == (1, 32, 8, 8)
    assert layer.layer == "conv2" and isinstance(LatentFlow, type)


OWN = """
import torch
from torch import nn

from iin.data import Images


class Slopes:
    "Grey ramps of 16 x 16."

    def __len__(self):
        return 64

    def __getitem__(self, indices):
        return Images(torch.stack([torch.linspace(-1, 1, 256).roll(i).view(1, 16, 16) for i in indices]), None)


def plain():
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), *ends)
"""

EMBED = {"dim": 4, "width": 4, "n_down": 1}
REPRESENTED = {
    "timm": (
        {"model": "timm:test_vit", "weights": "random", "layer": "blocks.1", "preprocess": "weights"},
        {"target": "iin.models.PoolingEmbedder", "params": {"channels": 64, **EMBED}},
    ),
    "torchvision": (
        {"model": "torchvision:resnet18", "weights": "random", "layer": "layer2", "preprocess": "imagenet"},
        {"target": "iin.models.PoolingEmbedder", "params": {"channels": 128, **EMBED}},
    ),
    "script": (
        {"model": "plain.pt", "layer": "0"},
        {"target": "iin.models.PoolingEmbedder", "params": {"channels": 4, **EMBED}},
    ),
    "export": (
        {"model": "plain.pt2", "layer": "softmax"},
        {"target": "iin.models.DenseEmbedder", "params": {"channels": 3, "dim": 4, "depth": 2}},
    ),
    "own": (
        {"model": {"target": "own_of_layers.plain"}, "layer": "logits"},
        {"target": "iin.models.DenseEmbedder", "params": {"channels": 3, "dim": 4, "depth": 2}},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPRESENTED)
def test_any_network_is_looked_into_from_one_configuration(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    if kind == "timm":
        pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_of_layers.py").write_text(OWN)
    sys.modules.pop("own_of_layers", None)
    own = importlib.import_module("own_of_layers")
    images = torch.rand(3, 1, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(own.plain().eval()), "plain.pt")
    many = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(own.plain().eval(), (images,), dynamic_shapes=many), "plain.pt2")
    layer, embedder = REPRESENTED[kind]
    first_stage = {"channels": 1, "size": 16, "dim": 4, "n_down": 2, "width": 2}
    tree = {
        "name": "look",
        "data": {"train": {"target": "own_of_layers.Slopes"}, "test": {"target": "own_of_layers.Slopes"}},
        "system": {
            "target": "iin.systems.LatentFlow",
            "params": {
                "first_stage": {"target": "iin.models.Autoencoder", "params": first_stage},
                "representation": {"target": "iin.models.Layer", "params": layer},
                "flow": {
                    "target": "iin.flows.conditional_flow",
                    "params": {"dim": 4, "blocks": 2, "hidden": 8, "embedder": embedder},
                },
            },
        },
        "train": {"steps": 20, "batch_size": 8, "device": "cpu"},
    }
    Path("look.yaml").write_text(config.dump(tree))
    assert train.main(["-b", "look.yaml", "--allow", "own_of_layers", "-q"]) == 0
    (folder,) = Path("logs").iterdir()
    system = iin.load(folder, allow=["own_of_layers"]).system
    assert system.represent(images).ndim in (2, 4) and not system.representation.model.training
    context = system.represent(images)
    assert torch.allclose(system.decode(system.encode(images), context), system.reconstruct(images), atol=1e-4)


def test_every_layer_is_listed() -> None:
    rows = describe(Net().eval(), 16)
    assert [row.path for row in rows] == [
        "input", "features", *(f"features.{i}" for i in range(5)), "relu", "pool", "hidden", "head", "spare", "logits",
        "softmax",
    ]  # fmt: skip
    found = {row.path: row for row in rows}
    assert found["features.0"][1:3] == ("Conv2d", (6, 16, 16)) and found["pool"].shape == (6,)
    assert found["spare"].shape is None and found["spare"].note == "never called for an image"
    tuples = {row.path: row for row in describe(answers(lambda x: (x, x)), 8)}
    assert tuples["odd"].shape is None and "a tuple of 2" in tuples["odd"].note
    assert [row.path for row in describe(Layer(digits(), "conv1"), 32, 1)][:2] == ["input", "blocks"]


def test_the_list_is_what_layers_answer(net: Net) -> None:
    for row in describe(net, 16):
        if row.shape is not None:
            assert Layer(net, row.path).shape(16) == row.shape, row


def lines(capsys: Any, *arguments: str) -> list[str]:
    assert main(arguments) == 0
    return capsys.readouterr().out.splitlines()


def test_the_command_lists_layers(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    found = lines(capsys, "--model", "iin.models.digits.digits", "--layers", "--size", "32", "--channels", "1")
    assert found[0].split() == ["layer", "type", "output"]
    assert any(line.split() == ["blocks.3", "MaxPool2d", "16", "x", "16", "x", "16", "also", "conv1"] for line in found)
    found = lines(capsys, "--model", "torchvision:resnet18", "--layers", "--size", "32")
    assert any(line.split() == ["layer3", "Sequential", "256", "x", "2", "x", "2"] for line in found)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_of_layers.py").write_text("from torch import nn\n\ndef make():\n    return nn.Conv2d(3, 2, 1)\n")
    found = lines(capsys, "--model", "mine_of_layers.make", "--layers", "--size", "8", "--allow", "mine_of_layers")
    assert found[-2].split()[:6] == ["logits", "2", "x", "8", "x", "8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "torchvision:resnet", "--layers"], "torchvision has no 'resnet'; did you mean"),
        (["--model", "os.system", "--layers"], "target os.system lies outside"),
        (["--model", "net.pt", "--layers"], "there is no file net.pt"),
        (["--model", "torch.nn.Linear", "--layers"], "torch.nn.Linear: cannot be made without arguments"),
        (["--model", "iin.models.digits.digits", "--layers"], "the digit network looks at images"),
        (["--model", "torchvision:alexnet", "--layers", "--size", "0"], "--size: expected at least 1, found 0"),
        (["-b", "mnist_ae", "--layers"], "no representation; expected a node with target iin.models.Layer"),
    ],
)
def test_wrong_commands_get_one_line(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["--model", "x.y"], ["--model", "x.y", "--layers", "-b", "mnist_ae"], ["-b", "mnist_ae", "--size", "3"]],
)
def test_arguments_that_do_not_go_together(arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_load_needs_a_network() -> None:
    network = nn.Identity()
    assert load(network) is network
