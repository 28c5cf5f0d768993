"""``iin-train``: train what a configuration describes, or go on with a run."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from iin.cli.common import add_common, add_devices, run_command

__all__ = ["main"]

EPILOG = """
examples:
  iin-train -b configs/mnist_diin.yaml --quick        small and short, for two CPU cores
  iin-train -b mnist_diin system.params.rho=0.9       a shipped configuration by name, one setting changed
  iin-train -b mnist_diin --dry-run                   check everything, show the plan, train nothing
  iin-train -r logs/<run>                             go on where the run stopped
  iin-train -b mnist_diin --quick --sweep system.params.rho=0.8,0.9 seed=0,1,2 --jobs 2
                                                      six runs, two at once; the same again goes on
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="iin-train",
        description="Train what a configuration describes, or go on with a run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    start = parser.add_argument_group("start or go on (one of these)")
    start.add_argument("-b", "--base", nargs="+", metavar="FILE", help="configurations, merged left to right")
    start.add_argument("-r", "--resume", metavar="RUN", help="go on with a run: its folder, or its config.yaml")
    start.add_argument("-p", "--project", metavar="RUN", help="the same as -r")
    parser.add_argument("-c", "--checkpoint", metavar="WHICH", help="go on from this step or file, not the newest")
    parser.add_argument("-n", "--name", metavar="NAME", help="name of the run's folder (default: the configuration's)")
    parser.add_argument(
        "--quick", action="store_true", help="the small and short version: each configuration's own section quick"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and show the plan; train nothing")
    parser.add_argument("--print-config", action="store_true", help="print the merged configuration and stop")
    many = parser.add_argument_group("many runs")
    many.add_argument(
        "--sweep",
        nargs="+",
        metavar="key.sub=value,value",
        help="a run for each combination of these values; commas within brackets, braces or quotes belong to a value. "
        "What is finished is left alone, what was begun is gone on with",
    )
    many.add_argument("--jobs", type=int, metavar="N", help="of a sweep: train N runs at once (default: 1)")
    many.add_argument(
        "--list-commands",
        action="store_true",
        help="of a sweep: print a command line for each run that is not finished, for a cluster; train nothing",
    )
    parser.add_argument("--under", type=int, metavar="PROCESS", help=argparse.SUPPRESS)  # the sweep's process
    parser.add_argument("-t", "--train", action="store_true", help=argparse.SUPPRESS)  # accepted, as in edflow
    add_devices(parser)
    add_common(parser)
    # Overrides may stand anywhere, also right behind the files of -b.
    arguments = parser.parse_intermixed_args(argv)
    overrides = list(arguments.overrides)
    if arguments.base:
        overrides = [word for word in arguments.base if "=" in word] + overrides
        arguments.base = [word for word in arguments.base if "=" not in word]
    target = arguments.resume or arguments.project
    if bool(arguments.base) == bool(target) or (arguments.resume and arguments.project):
        parser.error("give either -b FILE ... to start a run, or -r RUN to go on with one")
    if target and (arguments.quick or arguments.name):
        parser.error("--quick and --name start a run; -r goes on with one, whose configuration has them already")
    if arguments.checkpoint and not target:
        parser.error("-c names a checkpoint of the run given with -r")

    if arguments.sweep is None and (arguments.jobs is not None or arguments.list_commands):
        parser.error("--jobs and --list-commands belong to --sweep key.sub=value,value")
    if arguments.sweep is not None:
        _check_sweep(parser, arguments)
        # This process is alone; what is listed may ask for several.
        arguments.many, arguments.devices = arguments.devices, None
    if arguments.under is not None:
        _end_with(arguments.under)

    def command() -> None:
        from iin import config as configuration

        if arguments.sweep is not None:
            _sweep(overrides, arguments)
            return
        if target:
            _resume(target, overrides, arguments)
            return
        if arguments.name:
            overrides.append(f"name={arguments.name}")
        config = configuration.load(arguments.base, overrides, quick=arguments.quick)
        if arguments.print_config:
            configuration.check(config, allow=arguments.allow)
            print(configuration.dump(config.tree), end="")
            return
        from iin import experiment
        from iin.distributed import leading

        made = leading(
            lambda: experiment.plan(config, quick=arguments.quick, allow=arguments.allow, rehearse=arguments.dry_run)
        )
        if arguments.dry_run:
            experiment.check_shares(made)
            print(made.describe())
            return
        run = experiment.train(made)
        print(f"Report: {run.folder / 'report.html'}")
        print(f"Run folder: {run.folder}")

    return run_command(command, arguments, "iin.cli.train", sys.argv[1:] if argv is None else argv)


def _check_sweep(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if not arguments.base:
        parser.error("--sweep starts runs: give -b FILE ... (runs that were begun are found by themselves)")
    if arguments.print_config:
        parser.error("--print-config prints one configuration; --sweep has many, and --dry-run lists them")
    if arguments.jobs is not None and arguments.jobs < 1:
        parser.error(f"--jobs: expected a number >= 1, found {arguments.jobs}")
    if "RANK" in os.environ or (arguments.devices is not None and not arguments.list_commands):
        parser.error("--sweep trains each run in one process; use --jobs N, or --list-commands for a launcher")


def _sweep(overrides: Sequence[str], arguments: argparse.Namespace) -> None:
    from iin import sweep

    if arguments.name:
        overrides = [*overrides, f"name={arguments.name}"]
    points = sweep.plan(
        arguments.base,
        sweep.axes(arguments.sweep),
        overrides,
        quick=arguments.quick,
        allow=arguments.allow,
        rehearse=arguments.dry_run or arguments.list_commands,
    )
    options = [word for package in arguments.allow for word in ("--allow", package)] + ["-q"] * arguments.quiet
    if arguments.list_commands:
        for option, value in (("--logs", arguments.logs), ("--devices", arguments.many)):
            options += [option, str(value)] if value is not None else []
        print("\n".join(sweep.commands(points, options)))
        return
    if arguments.dry_run:
        print(sweep.describe(points))
        return
    try:
        sweep.run(points, jobs=arguments.jobs or 1, options=options)
    finally:
        print(sweep.table(points))


def _end_with(parent: int) -> None:
    """Have SIGTERM sent to this process when the one that started it is gone, where the kernel can (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _resume(target: str, overrides: Sequence[str], arguments: argparse.Namespace) -> None:
    from iin import config as configuration
    from iin import experiment
    from iin.run import Run

    run = Run(target)
    if arguments.print_config:
        config = configuration.load([run.config_file], overrides)
        configuration.check(config, allow=arguments.allow)
        print(configuration.dump(config.tree), end="")
        return
    if arguments.dry_run:
        made = experiment.plan_resume(run, overrides, arguments.checkpoint, allow=arguments.allow)
        experiment.check_shares(made)
        print(made.describe())
        return
    experiment.resume(run, overrides, arguments.checkpoint, allow=arguments.allow)
    print(f"Report: {run.folder / 'report.html'}")
    print(f"Run folder: {run.folder}")


if __name__ == "__main__":
    sys.exit(main())
