"""What the commands share: arguments, and how they end."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable

__all__ = ["add_common", "run_command"]


def add_common(parser: argparse.ArgumentParser) -> None:
    """Arguments that every command understands."""
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change a setting, in YAML's spelling")
    parser.add_argument("--logs", metavar="DIR", help="where run folders are (default: $IIN_LOGS, or logs)")
    parser.add_argument(
        "--allow",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="let configurations name targets of this package or module too, installed or in the current folder; "
        "a guard, not a sandbox",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and results only")


def run_command(command: Callable[[], None], arguments: argparse.Namespace) -> int:
    """Run a command and turn what may go wrong into one line and an exit code.

    Returns:
        0; 2 for anything that the user can mend; 128 + n when signal n asked to stop.
    """
    # Threads that wait for each other soon fall asleep instead of spinning. Where cores are shared with other programs,
    # spinning threads wait for ones that do not run: on two busy cores a step took ten times as long as it does so, on
    # two idle ones it takes about a sixth longer. Torch's threads read this when it is first imported, which is below.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if arguments.logs:
        os.environ["IIN_LOGS"] = arguments.logs
    if arguments.allow and "" not in sys.path:
        # A module of one's own lies in the current folder, where an installed command would not look for it.
        sys.path.insert(0, "")
    handler = logging.StreamHandler(_BesideBar())
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("iin")
    log.addHandler(handler)
    log.setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    show = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: log.warning("%s", message)

    from iin.config import ConfigError
    from iin.interrupt import Interrupted
    from iin.record import LogError
    from iin.run import RunError
    from iin.train import TrainingError

    try:
        command()
    except ConfigError as error:
        for mistake in error.mistakes:
            print(f"error: {mistake}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        further = ""
        if stopped.folder is not None:
            allow = [word for package in arguments.allow for word in ("--allow", package)]
            further = f" Go on with: iin-train {shlex.join(['-r', str(stopped.folder), *allow])}"
        print(f"Stopped ({stopped}); everything is saved.{further}", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("Stopped at once.", file=sys.stderr)
        return 130
    except (RunError, TrainingError, LogError, ValueError, OSError) as error:
        if os.environ.get("IIN_DEBUG"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception as error:  # not foreseen: a bug here, or in somebody's own code
        if os.environ.get("IIN_DEBUG"):
            raise
        text = " ".join(str(error).split())[:300]
        print(f"error: {type(error).__name__}: {text} (not foreseen; IIN_DEBUG=1 shows where)", file=sys.stderr)
        return 2
    finally:
        warnings.showwarning = show
        log.removeHandler(handler)
    return 0


class _BesideBar:
    """A stream that writes above a progress bar instead of through it."""

    def write(self, text: str) -> None:
        from tqdm import tqdm

        if text.strip():
            tqdm.write(text.rstrip("\n"), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
