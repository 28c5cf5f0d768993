"""``--devices N``: the same command in several processes of this machine, which work together."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["launch"]


def launch(module: str, argv: Sequence[str], count: int) -> int:
    """Run a command in several processes, with the agent behind torchrun; returns the exit code.

    Args:
        module: the command's.
        argv: its command line.
        count: how many processes.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from iin.distributed import devices

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    there = devices(kind)
    what = "graphics processors" if kind == "cuda" else "processor cores (and no graphics processor)"
    if count < 1:
        print(f"error: --devices: expected a number >= 1, found {count}", file=sys.stderr)
        return 2
    if count > there:
        print(f"error: --devices: {count} asked for, but this machine has {there} {what}", file=sys.stderr)
        return 2
    if kind == "cpu":  # together they take what one would
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, there // count)))
    for name in list(logging.root.manager.loggerDict):  # of torch's agent; what is to be said is said below
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=f"iin-{os.getpid()}",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *argv)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        return _explained(codes, count)
    except SignalException as error:  # the processes have been told, and have said what they did
        return 128 + int(error.sigval)
    return 0


def _explained(codes: dict[int, int], count: int) -> int:
    """Say what ended the job, where the processes could not; returns the exit code."""
    for code in codes.values():
        if code > 128:
            return code
    killed = {rank: -code for rank, code in codes.items() if code < 0}
    # The agent ends with SIGTERM what is left when one has died.
    causes = {rank: number for rank, number in killed.items() if number != signal.SIGTERM}
    if not causes and 2 in codes.values():
        return 2  # it has said why
    causes = causes or killed
    for rank, number in sorted(causes.items()):
        name = signal.Signals(number).name
        cause = " (out of memory, perhaps)" if number == signal.SIGKILL else ""
        print(
            f"error: process {rank} of {count} was ended by {name}{cause}, so the others were stopped; "
            "go on with: iin-train -r RUN, in as many processes as you like",
            file=sys.stderr,
        )
    return 2 if killed else max(codes.values(), default=1)
