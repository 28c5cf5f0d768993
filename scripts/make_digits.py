"""Train the digit network that ships with the package, and write it to iin/models/digits.pt.

    python scripts/make_digits.py        # about five minutes on one CPU core; the same bits every time on one machine

The network judges reconstructions and swaps, which are softer and noisier than the digits themselves, so it learns
from digits that are bent, shifted, blurred, faded, noisy and of every contrast. The test split is looked at once, at
the end, to record the accuracy; a network below 99.2 % is not written.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from iin.data import MNIST, ColorfulMNIST, Loader
from iin.models.digits import WEIGHTS, DigitNetwork, grey

BATCH, RATE, DECAY, SMOOTHING = 128, 4e-3, 1e-3, 0.05
NEEDED = 0.992


def disturb(image: Tensor, generator: torch.Generator) -> Tensor:
    """Bend, blur, fade and colour digits ``[B, 1, 32, 32]``; a new draw for each image."""
    count = len(image)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    # Turn, stretch, shear and shift. theta maps output to input coordinates, both in [-1, 1].
    angle, shear = uniform(-0.25, 0.25), uniform(-0.2, 0.2)
    wide, high = uniform(0.85, 1.15), uniform(0.85, 1.15)
    theta = torch.stack(
        (
            torch.stack((wide * angle.cos(), shear - angle.sin(), uniform(-0.16, 0.16)), 1),
            torch.stack((angle.sin(), high * angle.cos(), uniform(-0.16, 0.16)), 1),
        ),
        1,
    )  # [B, 2, 3]
    points = F.affine_grid(theta, list(image.shape), align_corners=False)
    image = F.grid_sample(image + 1, points, align_corners=False) - 1  # background -1 beyond the edge, too

    # Blur half of them, as an autoencoder does: separable Gaussians, each image its own width.
    sigma = uniform(0.3, 1.3, 1) * (uniform(0, 1, 1) < 0.5) + 0.05
    kernel = torch.softmax(-torch.arange(-3.0, 4.0).square() / (2 * sigma.square()), 1)  # [B, 7]
    rows = F.pad(image.transpose(0, 1), (3, 3, 3, 3), value=-1)  # [1, B, 38, 38]: images as channels
    rows = F.conv2d(rows, kernel.view(count, 1, 1, 7), groups=count)
    image = F.conv2d(rows, kernel.view(count, 1, 7, 1), groups=count).transpose(0, 1)

    # Contrast and brightness of the stroke: a steep curve makes it bold, a low top makes it faint.
    steep, top = uniform(0.6, 2.5, 1, 1, 1), uniform(0.4, 1.0, 1, 1, 1)
    ink = ((image + 1) / 2 * steep).clamp(0, 1) * top
    image = ink * 2 - 1 + torch.randn(image.shape, generator=generator) * uniform(0, 0.2, 1, 1, 1)

    # A colour scales a digit; quantised and undone as it is in use.
    tint = uniform(0.05, 1, 1, 1, 1)
    return grey(((image * tint).clamp(-1, 1) * 127.5).round() / 127.5)


def train(epochs: int, seed: int) -> DigitNetwork:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = DigitNetwork().to(memory_format=torch.channels_last)
    loader = Loader(MNIST("train"), BATCH, seed=seed, shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    total, start = epochs * len(loader), time.monotonic()
    for epoch in range(epochs):
        losses = []
        for step, (image, label) in enumerate(loader.epoch(epoch), epoch * len(loader)):
            rate = min(1.0, (step + 1) / (0.1 * total)) * 0.5 * (1 + math.cos(math.pi * step / total))
            for group in optimizer.param_groups:
                group["lr"] = RATE * rate
            loss = F.cross_entropy(network(disturb(image, generator)), label, label_smoothing=SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}  loss {torch.stack(losses).mean():.4f}  {time.monotonic() - start:.0f} s")
    return network.eval()


@torch.no_grad()
def accuracy(network: DigitNetwork, data: MNIST | ColorfulMNIST) -> float:
    right = sum(int((network(image).argmax(1) == label).sum()) for image, label in Loader(data, 250))
    return right / len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = train(options.epochs, options.seed).half().float()  # stored in half precision: judge what is stored
    found, tinted = accuracy(network, MNIST("test")), accuracy(network, ColorfulMNIST("test"))
    print(f"test accuracy {found:.2%}, on ColorfulMNIST {tinted:.2%}")
    if found < NEEDED:
        raise SystemExit(f"test accuracy {found:.2%} is below {NEEDED:.1%}: {options.out} is left as it was")
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    stored = {
        "state": state,
        "test_accuracy": found,
        "test_accuracy_colorful": tinted,
        "trained_by": f"scripts/make_digits.py --epochs {options.epochs} --seed {options.seed}, "
        "on MNIST's training split",
    }
    torch.save(stored, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
