"""Two processes that run the same function, for tests of what they do together."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from iin import distributed


def together(function: Callable[..., Any], *arguments: Any, world: int = 2, timeout: float = 60) -> list[Any]:
    """What a function answers in each of several processes (gloo, one thread each), in order of rank.

    They are forked, so the function may be any, and whatever it stands on is there already.

    Raises:
        AssertionError: one failed, or did not end in time; with its traceback.
    """
    torch.set_num_threads(1)  # threads do not survive a fork
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes, children = [], []
        for rank in range(world):
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=_body, args=(sender, folder, rank, world, function, arguments))
            child.start()
            sender.close()
            pipes.append(receiver)
            children.append(child)
        try:
            answers = []
            for rank, pipe in enumerate(pipes):
                assert pipe.poll(timeout), f"process {rank} did not answer within {timeout} s"
                answers.append(pickle.loads(pipe.recv_bytes()))
            for rank, (done, answer) in enumerate(answers):
                assert done, f"process {rank}:\n{answer}"
            return [answer for _, answer in answers]
        finally:
            for child in children:
                child.kill()
                child.join()


def _body(sender: Any, folder: str, rank: int, world: int, function: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(Path(folder) / "store"), world)
    try:
        torch.distributed.init_process_group(
            "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=30)
        )
        distributed._active = True
        answer = (True, function(*arguments))
    except BaseException:
        answer = (False, traceback.format_exc())
    sender.send_bytes(pickle.dumps(answer))  # whole: tensors would be fetched later, from a process that has ended
    sender.close()
