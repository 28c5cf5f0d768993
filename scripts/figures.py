"""Make the README's picture from finished runs: newest swap grids side by side.

python scripts/figures.py logs/<mnist_diin run>:swap_digit logs/<cmnist_diin run>:swap_color
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

HEIGHT, GAP = 560, 24


def newest(run: str, name: str) -> Image.Image:
    """The newest grid of this name in a run's folder."""
    files = sorted(Path(run, "images").glob(f"{name}_step-*.png"))
    if not files:
        raise SystemExit(f"{run}: no picture {name} in images/")
    return Image.open(files[-1]).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", nargs="+", metavar="RUN:NAME")
    parser.add_argument("--out", type=Path, default=Path("docs/images/swaps.png"))
    arguments = parser.parse_args()
    grids = [newest(*grid.rsplit(":", 1)) for grid in arguments.grids]
    grids = [g.resize((round(g.width * HEIGHT / g.height), HEIGHT), Image.Resampling.LANCZOS) for g in grids]
    sheet = Image.new("RGB", (sum(g.width for g in grids) + GAP * (len(grids) - 1), HEIGHT), "white")
    left = 0
    for grid in grids:
        sheet.paste(grid, (left, 0))
        left += grid.width + GAP
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.out, optimize=True)
    print(f"Saved: {arguments.out}")


if __name__ == "__main__":
    main()
