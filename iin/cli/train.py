"""``iin-train``: train what a configuration describes, or go on with a run."""

from __future__ import annotations

import argparse
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

    def command() -> None:
        from iin import config as configuration

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
