"""The most memory that a step takes, each time in a process of its own.

python -m scaling.memory '{"kind": "flow", "shape": [64, 12, 512, 2], "batch": 256}'    # prints bytes
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.timing import Row, say

from scaling.curves import Sizes

__all__ = ["memory_rows", "peak"]

STATUS = Path("/proc/self/status")


def memory_rows(sizes: Sizes) -> Iterator[Row]:
    """Rows of the most memory held: by parameters, by vectors, and by images of each size; none where nobody tells."""
    if not STATUS.exists():
        say("memory: left out, this system does not tell how much a process held")
        return
    blocks, batches = sizes.memory
    shapes = [sizes.flow._replace(blocks=count) for count in blocks]
    asked: list[tuple[str, int, dict[str, Any]]] = [
        *(("memory_parameters", shape.parameters, {"kind": "flow", "shape": shape, "batch": 4}) for shape in shapes),
        *(("memory_vectors", batch, {"kind": "flow", "shape": sizes.flow, "batch": batch}) for batch in batches),
    ]
    for side in sizes.images:
        network = {"kind": "autoencoder", "side": side, "width": sizes.encoder}
        counts = (sizes.pictures, 2 * sizes.pictures)
        asked += [(f"memory_images_{side}", count, {**network, "batch": count}) for count in counts]
    say(f"memory: {len(asked)} processes, one after another")
    for name, size, what in asked:
        yield {"task": name, "library": "iin", "threads": 1, "size": size, "bytes": peak(what)}


def peak(what: Mapping[str, Any]) -> int:
    """Bytes that a process held at most while it made its second step.

    Raises:
        RuntimeError: it failed.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed goes back to the system, and is not held for later
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "scaling.memory", json.dumps(what)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"memory of {what}: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout)


def _held() -> int:
    """Bytes that this process held at most until now."""
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    return int(kilobytes) * 1024


def _step_twice(what: Mapping[str, Any]) -> None:
    import torch
    from bench.autoencoder import system as autoencoder
    from bench.steps import FlowAlone, loop_step

    from iin.data import Images
    from iin.flows import vector_flow

    batch = what["batch"]
    if what["kind"] == "flow":
        step = loop_step(FlowAlone(vector_flow(*what["shape"])).train())
        data: Any = torch.randn(batch, what["shape"][0])
    else:
        side = what["side"]
        step = loop_step(autoencoder(size=side, width=what["width"], layers=2).train())
        data = Images(torch.rand(batch, 1, side, side) * 2 - 1, torch.zeros(batch))
    step(data)
    with contextlib.suppress(OSError):  # what was held for a moment, when all of this was made, does not count
        Path("/proc/self/clear_refs").write_text("5")
    step(data)


if __name__ == "__main__":
    _step_twice(json.loads(sys.argv[1]))
    print(_held())
