"""What the commands share: arguments, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence

__all__ = ["add_common", "add_devices", "add_run", "run_command"]


def add_devices(parser: argparse.ArgumentParser) -> None:
    """The argument of commands that can work in several processes."""
    parser.add_argument(
        "--devices",
        metavar="N",
        type=int,
        help="work in N processes on this machine, one for each graphics processor, or processor core without any; "
        "for several machines use torchrun",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """The arguments of commands that work with one run: ``project`` and ``checkpoint``."""
    parser.add_argument("-p", "--project", required=True, metavar="RUN", help="the run: its folder, or its config.yaml")
    parser.add_argument("-c", "--checkpoint", metavar="WHICH", help="last (default), a step, or a file")


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


def run_command(command: Callable[[], None], arguments: argparse.Namespace, module: str, argv: Sequence[str]) -> int:
    """`_run`, which may be interrupted before it has learnt what to do about it: importing torch takes seconds."""
    try:
        code = _run(command, arguments, module, argv)
    except KeyboardInterrupt:
        print("Stopped at once.", file=sys.stderr)
        code = 130
    if _several():
        # All is written. Threads of gloo may still hold tensors, and would abort the process while Python shuts down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _several() -> bool:
    """Whether this process was started as one of several; known without torch."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def _run(command: Callable[[], None], arguments: argparse.Namespace, module: str, argv: Sequence[str]) -> int:
    """Run a command and turn what may go wrong into one line and an exit code.

    Args:
        command: what it does.
        arguments: those of `add_common`, parsed.
        module: the command's, by which it is started again where ``--devices`` asks for several processes.
        argv: its command line.

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
    several = _several()
    # One process is this one: a child would have no other beside it to be told from, and start one in its turn.
    if getattr(arguments, "devices", None) not in (None, 1) and not several:
        from iin.cli.launch import launch

        return launch(module, argv, arguments.devices)
    if arguments.allow and "" not in sys.path:
        # A module of one's own lies in the current folder, where an installed command would not look for it.
        sys.path.insert(0, "")
    handler = logging.StreamHandler(_BesideBar())
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("iin")
    log.addHandler(handler)
    log.setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    follows = several and os.environ["RANK"] != "0"
    if follows:
        log.setLevel(logging.CRITICAL)  # the first process says it
    show = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: log.warning("%s", message)

    from iin import distributed
    from iin.config import ConfigError
    from iin.interrupt import Interrupted
    from iin.record import LogError
    from iin.run import RunError
    from iin.train import TrainingError

    told = gone = False

    def complain(*lines: str) -> int:
        who = f"process {os.environ['RANK']}: " if follows else ""
        for line in () if told else lines:
            print(f"error: {who}{line}", file=sys.stderr)
        return 2

    try:
        with distributed.session(), contextlib.ExitStack() as stack:
            if follows:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            try:
                command()
            except BaseException as error:
                told, gone = not distributed.speaks(), distributed.lost(error)
                raise
    except distributed.Elsewhere:
        return 2
    except ConfigError as error:
        return complain(*error.mistakes)
    except Interrupted as stopped:
        if follows:
            return 128 + stopped.number
        further = ""
        if stopped.folder is not None:
            allow = [word for package in arguments.allow for word in ("--allow", package)]
            further = f" Go on with: iin-train {shlex.join(['-r', str(stopped.folder), *allow])}"
        saved = stopped.folder is None or any(stopped.folder.glob("checkpoints/step-*.ckpt"))
        what = "everything is saved" if saved else "nothing was trained yet"
        print(f"Stopped ({stopped}); {what}.{further}", file=sys.stderr)
        return 128 + stopped.number
    except (RunError, TrainingError, LogError, ValueError, OSError) as error:
        if os.environ.get("IIN_DEBUG"):
            raise
        return complain(" ".join(str(error).split()))
    except Exception as error:  # not foreseen: a bug here, or in somebody's own code
        if gone:
            return complain("another process of this job is gone; what was saved until then is in the run's folder")
        if os.environ.get("IIN_DEBUG"):
            raise
        text = " ".join(str(error).split())[:300]
        return complain(f"{type(error).__name__}: {text} (not foreseen; IIN_DEBUG=1 shows where)")
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
