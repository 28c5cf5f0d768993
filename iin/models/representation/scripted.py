"""Networks in TorchScript.

Hooks do not fire inside a script: its interpreter calls submodules by itself. But the graph of each method names what
it calls. So a layer is read by following the calls down to it: of each method on the way, all up to the call is run,
and what the call is given goes on to the next method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["read_script", "script_kinds"]


class _Call(NamedTuple):
    """The call number ``index`` among the nodes of a method, and the submodule that it is a call of."""

    method: str
    index: int
    inner: str
    path: tuple[str, ...]


def script_kinds(model: nn.Module) -> dict[str, str]:
    """Paths of a script's submodules, in order, and the names of their classes; a frozen script has none."""
    return {
        path: str(getattr(module, "original_name", type(module).__name__))
        for path, module in model.named_modules(remove_duplicate=False)
        if path
    }


def read_script(
    model: nn.Module, image: Tensor, paths: Iterable[str], keep: Callable[[Any], Any]
) -> dict[str, list[Any]]:
    """Run a script up to each submodule and keep its first answer.

    Raises:
        ValueError: a submodule is called inside a branch or a loop only.
    """
    found = {}
    for path in paths:
        answer = _run_to(model, image, path)
        if answer is not _Never:
            found[path] = [keep(answer)]
    return found


class _Never:
    """Stands for the answer of a submodule that is not called."""


def _run_to(model: nn.Module, image: Tensor, path: str) -> Any:
    calls = _way(model, "forward", tuple(path.split(".")), frozenset())
    if not calls:
        return _Never
    module, arguments = model, (image,)
    for call in calls:
        method = module._c._get_method(call.method)
        arguments = _until(method.graph, call.index)(module._c, *arguments)
        arguments = arguments if isinstance(arguments, tuple) else (arguments,)
        for name in call.path:
            module = getattr(module, name)
    return getattr(module, calls[-1].inner)(*arguments)


def _way(module: Any, method: str, path: tuple[str, ...], seen: frozenset[Any]) -> list[_Call]:
    """Calls from a method down to the submodule at a path; empty if it does not get there."""
    inside_block = False
    for index, node in enumerate(module._c._get_method(method).graph.nodes()):
        if node.kind() in ("prim::If", "prim::Loop"):
            inside_block |= any(_called(call) == path for call in node.findAllNodes("prim::CallMethod", True))
            continue
        if node.kind() != "prim::CallMethod":
            continue
        called = _called(node)
        inner = node.s("name")
        if called is None or called != path[: len(called)] or (called, inner) in seen:
            continue
        target = module
        for name in called:
            target = getattr(target, name)
        step = _Call(method, index, inner, called)
        if called == path:
            return [step]
        rest = _way(target, inner, path[len(called) :], frozenset() if called else seen | {(called, inner)})
        if rest:
            return [step, *rest]
    if inside_block:
        raise ValueError(
            f"layer {'.'.join(path)} is called in a branch or loop of a script, where it cannot be read; "
            "choose another, or give the network as a module"
        )
    return []


def _called(node: Any) -> tuple[str, ...] | None:
    """Path of the submodule whose method a node calls, from the module that the method is of."""
    value, path = next(iter(node.inputs())), []
    while value.node().kind() == "prim::GetAttr":
        path.append(value.node().s("name"))
        value = next(iter(value.node().inputs()))
    return tuple(reversed(path)) if value.node().kind() == "prim::Param" else None


def _until(graph: Any, index: int) -> Callable[..., Any]:
    """A function of a method's arguments that ends before a call and answers what the call is given."""
    cut = graph.copy()
    nodes = list(cut.nodes())
    given = list(nodes[index].inputs())[1:]
    while list(cut.outputs()):
        cut.eraseOutput(0)
    for value in given:
        cut.registerOutput(value)
    for node in reversed(nodes[index:]):  # they might work in place on what is answered
        node.destroy()
    if len(given) != 1:
        cut.makeMultiOutputIntoTuple()
    return torch._C._create_function_from_graph("until", cut)
