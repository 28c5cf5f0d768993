"""What was recorded from the original GAN of variation predictability is ours too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REFERENCE
from torch import Tensor, nn

from iin.losses import (
    class_loss,
    information_loss,
    nonsaturating_loss,
    variation_loss,
    variations_loss,
)
from iin.models import ModuleGenerator, PairRecogniser, ResidualDiscriminator

WEIGHT, CLASS_WEIGHT, HEAD_WEIGHT = 0.01, 0.7, 0.5
"""Weights of the recorded losses."""

Recording = Callable[[str], Tensor]


@pytest.fixture(scope="module")
def recorded() -> Recording:
    path = REFERENCE / "vp" / "vp_gan.npz"
    if not path.is_file():
        pytest.skip(f"recordings of the original are not here: {path}")
    arrays = np.load(path)
    return lambda name: torch.from_numpy(np.asarray(arrays[name]))


def close(mine: Tensor, theirs: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(mine.detach().double(), theirs.double(), atol=tolerance, rtol=tolerance)


def fill(layer: Any, recorded: Recording, name: str) -> None:
    """Weights of a convolution or of a dense layer, by their place in the original: inputs come before outputs."""
    with torch.no_grad():
        weight = recorded(f"{name}__weight")
        layer.weight.copy_(weight.permute(3, 2, 0, 1) if weight.ndim == 4 else weight.T)
        if layer.bias is not None:
            layer.bias.copy_(recorded(f"{name}__bias"))
        if hasattr(layer, "modulation"):
            layer.modulation.weight.copy_(recorded(f"{name}__mod_weight").T)
            layer.modulation.bias.copy_(recorded(f"{name}__mod_bias"))


def generator(recorded: Recording) -> ModuleGenerator:
    model = ModuleGenerator([str(name) for name in load_names()], 3, 32, width=24, least=4)
    scope = "G__G_vc_synthesis__"
    with torch.no_grad():
        model.constant.copy_(recorded(f"{scope}4x4__Const__const"))
    for place, ((kind, _), layer) in enumerate(zip(model.modules_listed, model.layers, strict=True)):
        name = f"{scope}{kind}-{place}"
        if kind == "C_global":
            fill(layer.convolution, recorded, name)
        elif kind == "C_nocond_global":
            fill(layer.dense, recorded, f"{name}__Conv0")
            fill(layer.convolution, recorded, f"{name}__Modulate")
        else:
            for number, convolution in enumerate(layer):
                fill(convolution, recorded, f"{name}-{number}")
    fill(model.last, recorded, f"{scope}ToRGB")
    return model.eval()


def load_names() -> np.ndarray:
    return np.load(REFERENCE / "vp" / "vp_gan.npz")["modules"]


def body(model: ResidualDiscriminator, recorded: Recording, scope: str, answer: str) -> None:
    size = model.size
    fill(model.entry, recorded, f"{scope}{size}x{size}__FromRGB")
    for block in model.blocks:
        name = f"{scope}{size}x{size}__"
        fill(block.first, recorded, f"{name}Conv0")
        fill(block.second, recorded, f"{name}Conv1_down")
        fill(block.skip, recorded, f"{name}Skip")
        size //= 2
    fill(model.last, recorded, f"{scope}4x4__Conv")
    fill(model.dense, recorded, f"{scope}4x4__Dense0")
    fill(model.answer, recorded, f"{scope}{answer}")


def test_the_generator(recorded: Recording) -> None:
    model = generator(recorded)
    assert sum(p.numel() for p in model.parameters()) == sum(
        np.load(REFERENCE / "vp" / "vp_gan.npz")[name].size
        for name in np.load(REFERENCE / "vp" / "vp_gan.npz").files
        if name.startswith("G__")
    )
    for code, image in (("z1", "x1"), ("z2", "x2")):
        close(model(recorded(code)), recorded(image), 1e-4)


def test_the_discriminator(recorded: Recording) -> None:
    model = ResidualDiscriminator(3, 32, width=64)
    body(model, recorded, "D__", "Output")
    scores = model(recorded("x1"))
    close(scores, recorded("d_scores"), 1e-4)
    # The original's loss of each image; ours is their mean.
    close(nonsaturating_loss(scores), recorded("g_loss_nonsat").mean(), 1e-4)


def test_the_recogniser(recorded: Recording) -> None:
    model = PairRecogniser(3, 32, 5, width=64)
    body(model.body, recorded, "I__", "Output__Dense_VC")
    logits = model(recorded("x1"), recorded("x2"))
    close(logits, recorded("q_logits"), 1e-4)
    close(WEIGHT * variation_loss(logits, recorded("dim")), recorded("vp_loss_C_lambda0_01"), 1e-6)


def test_generator_and_recogniser_together(recorded: Recording) -> None:
    made, model = generator(recorded), PairRecogniser(3, 32, 5, width=64)
    body(model.body, recorded, "I__", "Output__Dense_VC")
    logits = model(made(recorded("z1")), made(recorded("z2")))
    close(WEIGHT * variation_loss(logits, recorded("dim")), recorded("vp_loss_C_lambda0_01"), 1e-6)


def test_losses(recorded: Recording) -> None:
    logits = recorded("l_regress")
    changed = recorded("l_onehot").argmax(1)
    close(WEIGHT * variation_loss(logits, changed), recorded("l_vc_onedim"), 1e-6)
    close(WEIGHT * variations_loss(logits, recorded("l_full")), recorded("l_vc_fulldim"), 1e-6)
    answer, codes = recorded("l_info_out"), recorded("l_info_latents")
    of_class, of_values = information_loss(answer, codes, 3)
    close(CLASS_WEIGHT * of_class + WEIGHT * of_values, recorded("l_info"), 1e-6)
    close(HEAD_WEIGHT * class_loss(answer[:, :3], codes[:, :3]), recorded("l_cls"), 1e-6)


def test_published_sizes() -> None:
    celeba = (
        "Conv-up-1 C_global-10 Conv-id-2 Noise-2 Conv-up-1 C_global-10 Conv-id-1 Noise-2 Conv-up-1 C_global-5 "
        "Conv-id-2 Noise-2 Conv-id-1 Noise-2 Conv-up-1 C_global-5 Conv-id-1 Noise-2 Conv-id-2 Conv-up-1 Conv-id-1"
    )
    with torch.device("meta"):
        model = ModuleGenerator(celeba.split(), 3, 128)
        judge = ResidualDiscriminator(3, 128)
    ladder = (
        "512@8 128@8 415@8 374@8 337@16 128@16 274@16 247@16 222@32 128@32 181@32 163@32 147@32 132@32 119@64 128@64"
    )
    ladder += " 97@64 87@64 78@64 71@128 64@128"
    assert [f"{channels}@{size}" for channels, size in model.widths] == ladder.split()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 11.37 and model.dim == 30
    assert [judge.entry.weight.shape[0]] + [block.second.weight.shape[0] for block in judge.blocks] == [
        8, 16, 32, 64, 128, 256,
    ]  # fmt: skip
    dsprites = "D_global-3 Conv-up-1 C_global-6 " + " ".join(["Conv-id-1 Conv-id-1 Conv-up-1"] * 3) + " Conv-id-1"
    with torch.device("meta"):
        model = ModuleGenerator(dsprites.split(), 1, 64)
    assert [channels for channels, _ in model.widths] == [
        512, 461, 128, 374, 337, 304, 274, 247, 222, 200, 181, 163, 147,
    ]  # fmt: skip
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 8.25
    assert (model.discrete, model.continuous, model.dim) == (3, 6, 9)


def test_every_weight_takes_part(recorded: Recording) -> None:
    model: nn.Module = generator(recorded)
    model.train()
    model(recorded("z1")).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
