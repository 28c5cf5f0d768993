"""How the steps of a system are computed: on one device or on many, in which precision, translated or not.

The loop asks an engine for the objectives of a batch, and hands their losses back to it. `Engine` is that of one
process; in several, `Parallel` averages the gradients of all: by DDP, where each process holds all parameters, or by
FSDP, which splits those of flows among the processes.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from iin.config import Training
from iin.distributed import alone, one_batch, rank, total, world
from iin.flows.kernel import by_hand
from iin.seeds import mix
from iin.system import Objective, System

__all__ = ["Engine", "Parallel", "engine"]

SIGNALS = (int(signal.SIGINT), int(signal.SIGTERM))
"""What may ask to stop (see `iin.interrupt`)."""

SMALLEST = 10_000
"""Parameters of a block that is worth splitting by itself; smaller ones are split together."""


class Engine:
    """Steps of a system in one process.

    Args:
        system: on the device where it shall train.
        settings: the configuration's section ``train``.
    """

    divides = True
    """Whether processes may evaluate different batches at the same time."""

    def __init__(self, system: System, settings: Training) -> None:
        self.system = system
        self.device = next(system.parameters()).device
        self._half = settings.precision == "bf16"
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32
        self._compile = None if settings.compile == "off" else settings.compile
        self._translates = settings.compile != "off"

    def place(self, first_batch: Callable[[], Any], seed: int) -> None:
        """Put parameters where they stay; called once, before there are optimisers.

        Args:
            first_batch: makes the first batch of all, on the device.
            seed: of the first step.
        """

    @contextlib.contextmanager
    def step(self, seed: int) -> Iterator[None]:
        """Within this context a step is computed; its noise comes from the seed."""
        torch.manual_seed(seed)
        yield

    def objectives(self, batch: Any, step: int) -> Iterator[Objective]:
        """The system's objectives, one after another, each ready to be differentiated."""
        if self._compile and all(all(_initialised(flow)) for flow in self.system.flows()):
            # Not before: what takes its first values from data would have to be translated twice.
            for flow in self.system.flows():
                flow.compile(mode=self._compile)
            self._compile = None
        found = self.system.objectives(batch, step)
        while True:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half), by_hand():
                objective = next(found, None)
            if objective is None:
                return
            yield self._ready(objective)

    def _ready(self, objective: Objective) -> Objective:
        return objective

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within this context the system is evaluated: batches are of other sizes, which nothing is translated for."""
        # From torch 2.6 on. Looked for only where it is of use: it imports the compiler, which takes seconds.
        stance = getattr(torch.compiler, "set_stance", None) if self._translates else None
        with contextlib.ExitStack() as stack:
            if stance is not None:
                stack.enter_context(stance("force_eager"))
            if not self.divides:
                stack.enter_context(alone())
            yield

    def agree(self, loss: float, asked: int | None) -> float:
        """The loss of the whole batch: mean of those of the processes.

        Args:
            loss: of this process.
            asked: the signal that asked this process to stop, which the others learn of thereby.
        """
        return loss

    def stopping(self, asked: int | None) -> int | None:
        """The signal by which training stops after this step, the same in every process; None to go on.

        Args:
            asked: the signal that asked this process.
        """
        return asked

    def averages(self, terms: Mapping[str, Tensor | float]) -> dict[str, float]:
        """What to log, as numbers: means over the processes."""
        return {key: float(v.detach() if isinstance(v, Tensor) else v) for key, v in terms.items()}

    def weights(self) -> dict[str, Tensor]:
        """The system's whole state."""
        return self.system.state_dict()

    def moments(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Any]:
        """The whole state of each optimiser."""
        return {name: optimizer.state_dict() for name, optimizer in optimizers.items()}

    def spread(self, optimizer: torch.optim.Optimizer) -> None:
        """Put a state that was just loaded where the parameters are."""


class Parallel(Engine):
    """Steps of a system in several processes, each with its share of every batch.

    Gradients are those of the whole batch: means over the processes, each of which has a mean over its share.

    Args:
        system: with the same weights in every process.
        settings: as of `Engine`; with ``shard``, parameters of `System.flows` are split by FSDP.

    References:
        | PyTorch Distributed: Experiences on Accelerating Data Parallel Training (Li et al., 2020), arXiv:2006.15704
        | PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel (Zhao et al., 2023), arXiv:2304.11277
    """

    def __init__(self, system: System, settings: Training) -> None:
        super().__init__(system, settings)
        if self.device.type == "cuda" and not settings.shard:
            # Statistics of the whole batch; torch has this for GPUs only. On processors each share has its own.
            _synchronise(system)
        for value in system.state_dict().values():  # equal already, but for what different machines make of a seed
            torch.distributed.broadcast(value, src=0)
        self._sharded = settings.shard
        self.divides = not settings.shard
        self._moved: dict[str, list[Parameter]] = {}
        self._players: dict[str, nn.Module] = {}
        self._asked: int | None = None

    def place(self, first_batch: Callable[[], Any], seed: int) -> None:
        if self._sharded and any(not done for done in _initialised(self.system)):
            # Blocks that take their first values from data must do so while they are whole.
            with self.step(seed):
                next(super().objectives(first_batch(), 0))
        if self._sharded:
            for flow in self.system.flows():
                _split(flow, self.device)
        else:
            self._moved = self.system.trainable()

    @contextlib.contextmanager
    def step(self, seed: int) -> Iterator[None]:
        # What is drawn by other means than `noise_like` shall differ between the processes.
        torch.manual_seed(seed if rank() == 0 else mix(seed, rank()))
        with one_batch(seed):
            yield

    def _ready(self, objective: Objective) -> Objective:
        if objective.name not in self._players and objective.name in self._moved:
            self._players[objective.name] = _player(self._moved[objective.name], objective.loss)
        player = self._players.get(objective.name)
        return objective if player is None else objective._replace(loss=player(objective.loss))

    def agree(self, loss: float, asked: int | None) -> float:
        # One small message a loss, by the way that the gradients take.
        told = torch.tensor([loss, *(asked == number for number in SIGNALS)], dtype=torch.float64, device=self.device)
        value, *counts = total(told).tolist()
        self._asked = next((number for number, count in zip(SIGNALS, counts, strict=True) if count), None)
        return value / world()

    def stopping(self, asked: int | None) -> int | None:
        return self._asked  # one that was asked later tells the others in the next step

    def averages(self, terms: Mapping[str, Tensor | float]) -> dict[str, float]:
        own = super().averages(terms)
        values = total(torch.tensor(list(own.values()), dtype=torch.float64)) / world()
        return dict(zip(own, values.tolist(), strict=True))

    def weights(self) -> dict[str, Tensor]:
        return _whole(super().weights())

    def moments(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Any]:
        return _whole(super().moments(optimizers))

    def spread(self, optimizer: torch.optim.Optimizer) -> None:
        from torch.distributed.tensor import DTensor, distribute_tensor

        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[key] = distribute_tensor(value, parameter.device_mesh, parameter.placements)


def engine(system: System, settings: Training) -> Engine:
    """The engine for as many processes as there are."""
    return Engine(system, settings) if world() == 1 else Parallel(system, settings)


class _Player(nn.Module):
    """The parameters that one objective moves. Its forward hands the loss through; what matters is that DDP sees it."""

    def __init__(self, parameters: list[Parameter]) -> None:
        super().__init__()
        self.moved = nn.ParameterList(parameters)

    def forward(self, loss: Tensor) -> Tensor:
        return loss


def _player(parameters: list[Parameter], loss: Tensor) -> nn.Module:
    """Parameters under DDP, which has to look for those that a loss leaves untouched, where the first one does."""
    touched = _touched(loss)
    unused = any(id(parameter) not in touched for parameter in parameters)
    return DistributedDataParallel(
        _Player(parameters),
        init_sync=False,  # they are equal already, and in use by the loss that is to be differentiated
        gradient_as_bucket_view=True,
        find_unused_parameters=unused,
    )


def _touched(loss: Tensor) -> set[int]:
    """The leaves that a loss depends on, by identity."""
    found: set[int] = set()
    seen: set[Any] = set()
    ahead = [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        ahead.extend(following for following, _ in node.next_functions)
    return found


def _split(flow: nn.Module, device: torch.device) -> None:
    """Split the parameters of a flow, those of each large block by themselves."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world(),))
    blocks = [block for block in getattr(flow, "blocks", ()) if sum(p.numel() for p in block.parameters()) >= SMALLEST]
    for part in [*blocks, flow]:
        fully_shard(part, mesh=mesh)
        # All that is called from outside and needs weights; of these, conditional flows alone have the last ones.
        for name in ("inverse", "embed", "through", "back"):
            if hasattr(part, name):
                register_fsdp_forward_method(part, name)


def _whole(state: Any) -> Any:
    """A state in which no tensor is split any more; every process must ask for it."""
    from torch.distributed.tensor import DTensor

    return pytree.tree_map(lambda value: value.full_tensor() if isinstance(value, DTensor) else value, state)


def _initialised(system: nn.Module) -> Iterator[bool]:
    return (bool(m.initialized) for m in system.modules() if isinstance(getattr(m, "initialized", None), Tensor))


def _synchronise(system: nn.Module) -> None:
    """Let batch normalisation know the whole batch, wherever the system has any."""
    for name, child in system.named_children():
        setattr(system, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
