"""Networks that ``torch.export`` has turned into a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["Exported"]


class _Enough(BaseException):
    """All that was asked for is known."""


class Exported(nn.Module):
    """An exported program as a network.

    Its graph holds operations only; each says which submodule it was part of, and by that the submodules' answers are
    found. One that did no operation of its own, such as ``Identity``, is not among the layers. One that answers several
    tensors answers a tuple of them, in the order in which they are computed.

    Args:
        program: what ``torch.export.load`` answers, or the module of one.
    """

    def __init__(self, program: torch.export.ExportedProgram | fx.GraphModule) -> None:
        super().__init__()
        self.program = program if isinstance(program, fx.GraphModule) else program.module()
        self.training = False

    def train(self, mode: bool = True) -> Exported:
        """Nothing: an exported program has one mode, and refuses to be asked for another."""
        return self

    def forward(self, image: Tensor) -> Any:
        """What the program answers."""
        return self.program(image)

    def kinds(self) -> dict[str, str]:
        """Paths of the submodules that the graph remembers, in order, and the names of their classes."""
        found: dict[str, str] = {}
        for node in self._operations():
            for path, kind in _stack(node).values():
                if path:
                    found.setdefault(path, str(kind).rpartition(".")[2])
        return found

    def read(self, image: Tensor, paths: Iterable[str], keep: Callable[[Any], Any], stop: bool) -> dict[str, list[Any]]:
        """Run the graph and keep what submodules answer; see `iin.models.representation.reading.read`."""
        wanted = list(paths)
        ends = self._ends(wanted)
        seen: dict[str, list[Any]] = {}
        last = {path: len(calls) for path, calls in ends.items()}
        watch: dict[fx.Node, list[tuple[str, int]]] = {}
        for path, calls in ends.items():
            for call, nodes in enumerate(calls):
                for node in nodes:
                    watch.setdefault(node, []).append((path, call))
        parts: dict[tuple[str, int], list[Any]] = {}

        class Reader(fx.Interpreter):
            def run_node(self, node: fx.Node) -> Any:
                value = super().run_node(node)
                for path, call in watch.get(node, ()):
                    if len(ends[path][call]) == 1:
                        seen.setdefault(path, []).append(keep(value))
                        continue
                    got = parts.setdefault((path, call), [])
                    got.append(value.clone() if isinstance(value, Tensor) else value)
                    if len(got) == len(ends[path][call]):
                        seen.setdefault(path, []).append(keep(tuple(got)))
                if stop and last and len(seen) == len(last):
                    raise _Enough
                return value

        with suppress(_Enough):
            reader = Reader(self.program)
            reader.extra_traceback = False  # errors are told in one line
            reader.run(image)
        return seen

    def _operations(self) -> list[fx.Node]:
        return [node for node in self.program.graph.nodes if node.op == "call_function"]

    def _ends(self, paths: Iterable[str]) -> dict[str, list[list[fx.Node]]]:
        """For each path and each call the nodes whose values leave the submodule; the last node, if none does."""
        calls: dict[str, dict[str, list[fx.Node]]] = {path: {} for path in paths}
        for node in self._operations():
            for key, (path, _) in _stack(node).items():
                if path in calls:
                    calls[path].setdefault(key, []).append(node)
        found: dict[str, list[list[fx.Node]]] = {}
        for path, by_key in calls.items():
            for nodes in by_key.values():
                inside = set(nodes)
                leaving = [node for node in nodes if any(user not in inside for user in node.users)]
                found.setdefault(path, []).append(leaving or nodes[-1:])
        return found


def _stack(node: fx.Node) -> dict[str, tuple[str, Any]]:
    """Submodules that an operation is part of, outermost first: one key for each call of one."""
    found = node.meta.get("nn_module_stack")
    return found if isinstance(found, dict) else {}
