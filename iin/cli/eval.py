"""``iin-eval``: measure a run's checkpoint, as training does after each epoch."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from iin.cli.common import add_common, add_devices, run_command

__all__ = ["main", "table"]

EPILOG = """
examples:
  iin-eval -p logs/<run>/config.yaml                  all figures of the newest checkpoint
  iin-eval -p logs/<run> -c 468 evaluate=dims,swaps   two of them, of another checkpoint
  iin-eval -p logs/<run> evaluate=dims --write F.yaml factor sizes, as an overlay: iin-train -b FLOW.yaml F.yaml
  iin-eval -p logs/<input> logs/<conv2> logs/<softmax> --layers layers.png
                                                      a curve over the layers under conditional flows
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="iin-eval",
        description="Measure a run's checkpoint: figures as a table and as JSON, picture grids, the report.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-p",
        "--project",
        required=True,
        nargs="+",
        metavar="RUN",
        help="a run: its folder, or its config.yaml; several are measured one after another",
    )
    parser.add_argument("-c", "--checkpoint", metavar="WHICH", help="last (default), a step, or a file")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write the factor sizes that were measured (iin.metrics.FactorDims) as an overlay for the configuration "
        "of a flow",
    )
    parser.add_argument(
        "--layers",
        type=Path,
        metavar="FILE",
        help="draw what was measured over the runs, as PNG: what the layers under their conditional flows leave free",
    )
    add_devices(parser)
    add_common(parser)
    arguments = parser.parse_intermixed_args(argv)
    # Overrides may stand anywhere, also right behind the runs.
    overrides = [word for word in arguments.project if "=" in word] + list(arguments.overrides)
    projects = [word for word in arguments.project if "=" not in word]
    if not projects:
        parser.error("-p names runs; only overrides were given")
    if len(projects) > 1 and (arguments.write or arguments.checkpoint):
        parser.error("--write and -c are for one run")

    def command() -> None:
        from iin import experiment, factors
        from iin.distributed import first
        from iin.report import layers
        from iin.run import Run

        runs = [Run(project) for project in projects]
        if arguments.write:
            factors.check_overlay(arguments.write)
        if arguments.layers:
            layers.check(arguments.layers, len(runs))
            layers.check_alike(runs)
        curve = []
        for run in runs:
            figures = experiment.evaluate_run(run, overrides, arguments.checkpoint, allow=arguments.allow)
            if len(runs) > 1:
                print(f"{run.folder.name}:")
            print(table(figures))
            if arguments.write:
                first(functools.partial(factors.write_overlay, arguments.write, figures, str(run.folder)))
                print(f"Factors: {arguments.write} (merge it: iin-train -b FLOW.yaml {arguments.write})")
            print(f"Report: {run.folder / 'report.html'}")
            print(f"Run folder: {run.folder}")
            curve.append((layers.name_of(run), figures))
            if arguments.layers:  # before the next is measured in vain
                layers.check_figures(run.folder.name, figures)
        if arguments.layers:
            first(lambda: layers.draw(curve, arguments.layers))
            print(f"Layers: {arguments.layers}")

    return run_command(command, arguments, "iin.cli.eval", sys.argv[1:] if argv is None else argv)


def table(figures: Mapping[str, float]) -> str:
    """Figures in two columns."""
    width = max((len(name) for name in figures), default=0)
    return "\n".join(f"{name:<{width}}  {value:>12.6g}" for name, value in figures.items())


if __name__ == "__main__":
    sys.exit(main())
