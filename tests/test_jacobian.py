"""The norm of a decoder's Jacobian, and the autoencoder that is trained to keep it small."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from iin import pictures
from iin.data import Images
from iin.losses import annealed, decoder_jacobian, jacobian_norm
from iin.models import ConvVAE
from iin.systems import JacobianVAE

METHODS = pytest.mark.parametrize("method", ["difference", "forward"])


def small(**settings: Any) -> ConvVAE:
    return ConvVAE(1, 8, 3, (4,), 3, 2, (8,), (8, 32), 4, (), **settings)


def batch(count: int = 4) -> Images:
    return Images(torch.rand(count, 1, 8, 8) * 2 - 1, torch.zeros(count))


class Counting(nn.Module):
    """A linear decoder that knows what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]], dtype=torch.float64))
        self.asked: list[Tensor] = []

    def forward(self, z: Tensor) -> Tensor:
        self.asked.append(z)
        return (z @ self.weight.T).unflatten(1, (1, 3, 1))


@METHODS
def test_of_a_linear_decoder_it_is_its_matrix(method: Any) -> None:
    decode, z = Counting(), torch.randn(5, 2, dtype=torch.float64)
    found = decoder_jacobian(decode, z, method)
    assert found.shape == (2, 5, 1, 3, 1)
    expected = decode.weight.detach().T[:, None, None, :, None].expand(2, 5, 1, 3, 1)
    torch.testing.assert_close(found.detach(), expected, atol=1e-6, rtol=0)
    for p, value in ((1, 6.5), (2, 14.25)):
        norm = jacobian_norm(decode, z, p, method)  # type: ignore[arg-type]
        assert norm.item() == pytest.approx(value, rel=1e-6)  # a mean over the batch, a sum over all else
    (gradient,) = torch.autograd.grad(jacobian_norm(decode, z, 1, method), decode.weight)
    torch.testing.assert_close(gradient, decode.weight.detach().sign(), atol=1e-6, rtol=0)


def test_the_difference_asks_once_in_the_published_order() -> None:
    decode, z = Counting(), torch.randn(3, 2, dtype=torch.float64)
    decoder_jacobian(decode, z, step=0.5)
    (asked,) = decode.asked
    first, second = torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.5])
    torch.testing.assert_close(asked, torch.cat([z + first, z + second, z]), atol=0, rtol=0)


def test_forward_mode_asks_once() -> None:
    decode = Counting()
    decoder_jacobian(decode, torch.randn(3, 2, dtype=torch.float64), "forward")
    assert len(decode.asked) == 1


@METHODS
def test_the_code_takes_no_gradient(method: Any) -> None:
    model, z = small(), torch.randn(2, 3, requires_grad=True)
    jacobian_norm(lambda code: torch.sigmoid(model.logits(code)), z, 1, method).backward()
    assert z.grad is None
    moved = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {"decoder", "decoder_dense"}


def test_both_methods_have_the_same_gradients() -> None:
    model, z = small().double(), torch.randn(6, 3, dtype=torch.float64)
    decode = lambda code: torch.sigmoid(model.logits(code))  # noqa: E731
    for p in (1, 2):
        found = []
        for method, step in (("forward", 1.0), ("difference", 1e-6)):
            norm = jacobian_norm(decode, z, p, method, step)  # type: ignore[arg-type]
            parameters = [*model.decoder.parameters(), *model.decoder_dense.parameters()]
            gradients = torch.autograd.grad(norm, parameters, allow_unused=True)
            found.append(
                torch.cat(
                    [
                        (torch.zeros_like(w) if g is None else g).flatten()
                        for w, g in zip(parameters, gradients, strict=True)
                    ]
                )
            )
        assert (found[0] - found[1]).norm() < 1e-4 * found[0].norm()


def test_where_gradients_are_off() -> None:
    model = small()
    with torch.no_grad():
        found = decoder_jacobian(model.decode, torch.zeros(2, 3), "forward")
    assert found.shape == (3, 2, 1, 8, 8) and found.abs().sum() > 0 and not found.requires_grad


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"z": torch.zeros(3)}, r"expected codes of shape \[B, L\], found \[3\]"),
        ({"z": torch.zeros(0, 3)}, "found \\[0, 3\\]"),
        ({"p": 3}, "p: expected 1 or 2"),
        ({"method": "backward"}, "method: expected difference or forward"),
        ({"step": 0.0}, "step: expected a number above 0"),
    ],
)
def test_mistakes(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        jacobian_norm(**{"decode": torch.sin, "z": torch.zeros(2, 3), **arguments})


# --- the system -------------------------------------------------------------------------------------------------------


@METHODS
@pytest.mark.parametrize("p", [1, 2])
def test_the_objective_is_the_sum_of_its_terms(method: Any, p: Any) -> None:
    system, data = JacobianVAE(small(), 3.0, 0.5, annealing=10, p=p, method=method), batch()
    (objective,) = system.objectives(data, 5)
    s = objective.scalars
    assert (float(s["beta"]), float(s["gamma"])) == (1.5, 0.25)
    torch.testing.assert_close(s["kl"], s["mu_div"] + s["var_div"])
    torch.testing.assert_close(objective.loss.detach(), s["nll"] + 1.5 * s["kl"] + 0.25 * s["jacobian"])
    assert s["jacobian"] > 0 and not any(value.requires_grad for value in s.values())
    assert set(s) == {"nll", "kl", "mu_div", "var_div", "jacobian", "beta", "gamma"}


def test_without_weight_the_jacobian_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iin.systems.jacobian.jacobian_norm", lambda *_: pytest.fail("computed"))
    for system, step in ((JacobianVAE(small(), gamma=0.0), 7), (JacobianVAE(small(), annealing=9), 0)):
        (objective,) = system.objectives(batch(), step)
        assert objective.scalars["jacobian"] == 0


def test_weights_grow_and_stay() -> None:
    assert [annealed(4.0, step, 4) for step in range(6)] == [0.0, 1.0, 2.0, 3.0, 4.0, 4.0]
    assert annealed(4.0, 0, 0) == 4.0


def test_the_jacobian_is_taken_at_the_noisy_code(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def norm(decode: Any, z: Tensor, *_: Any) -> Tensor:
        seen.append(z)
        return z.sum() * 0.0

    monkeypatch.setattr("iin.systems.jacobian.jacobian_norm", norm)
    system, data = JacobianVAE(small()), batch()
    decoded: list[Tensor] = []
    monkeypatch.setattr(system.model, "logits", lambda z: decoded.append(z) or ConvVAE.logits(system.model, z))
    next(system.objectives(data, 0))
    assert seen[0] is decoded[0] and not torch.equal(seen[0], system.encode(data.image))


def test_training_lowers_the_norm() -> None:
    """Of a decoder with a weight on it, against one without, from the same weights."""
    data, norms = batch(8), []
    for gamma in (0.0, 1.0):
        torch.manual_seed(0)
        system = JacobianVAE(small(), beta=0.1, gamma=gamma)
        optimizer = torch.optim.Adam(system.parameters(), lr=1e-2)
        for step in range(40):
            (objective,) = system.objectives(data, step)
            optimizer.zero_grad()
            objective.loss.backward()
            optimizer.step()
        norms.append(jacobian_norm(system.probabilities, system.encode(data.image)).item())
    assert norms[1] < 0.7 * norms[0], norms


def test_pictures() -> None:
    system = JacobianVAE(small()).eval()
    with torch.no_grad():
        pictures = system.images(batch(5))
    assert set(pictures) == {
        "inputs", "reconstructions", "samples", "fixed_samples", "traversals", "jacobian"
    }  # fmt: skip
    assert pictures["traversals"].images.shape == (3, 9, 1, 8, 8)
    shown = pictures["jacobian"].images
    assert shown.shape == (1 + 3, 5, 1, 8, 8)
    exact = system.jacobian(system.encode(batch(5).image))
    assert exact.shape == (3, 5, 1, 8, 8)
    for picture in pictures.values():
        assert picture.images.abs().max() <= 1 and picture.caption


def test_columns_are_on_one_scale_and_the_strongest_comes_first() -> None:
    from iin.systems.views import columns

    jacobian = torch.zeros(2, 1, 1, 1, 2)
    jacobian[0, 0, 0, 0, 0], jacobian[1, 0, 0, 0, 1] = 0.5, -2.0
    picture = columns(jacobian, torch.ones(1, 1, 1, 2))
    expected = [[1.0, 1.0], [0.0, -120 / 127.5], [30 / 127.5, 0.0]]
    torch.testing.assert_close(picture.images.flatten(1), torch.tensor(expected))


def test_a_line_divides_the_columns_of_a_jacobian() -> None:
    """All of them are grey where nothing answers, as the ground is."""
    from iin.systems.views import columns

    drawn = np.asarray(pictures.draw(columns(torch.zeros(3, 4, 1, 8, 8), torch.zeros(4, 1, 8, 8))))[..., 0]
    for lines, count in ((drawn == pictures.LINE, 3), ((drawn == pictures.LINE).T, 3)):
        assert (np.diff(lines.mean(1) > 0.9, prepend=False) & (lines.mean(1) > 0.9)).sum() == count


def test_forward_mode_warns_of_nothing() -> None:
    program = (
        "import torch; from iin.losses import jacobian_norm; "
        "jacobian_norm(torch.nn.Linear(2, 3), torch.zeros(1, 2), method='forward')"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
