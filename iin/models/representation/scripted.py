"""Networks in TorchScript.

Hooks do not fire inside a script: its interpreter calls submodules by itself. But the graph of each method names what
it calls. So a layer is read by following the calls down to it: of each method on the way, all up to the call is run,
and what the call is given goes on to the next method.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["read_script", "script_kinds"]


_ways: weakref.WeakKeyDictionary[nn.Module, dict[str, list[_Call]]] = weakref.WeakKeyDictionary()
"""Calls down to layers that were read before; a function of torch's takes a while to make and to warm up."""


class _Call(NamedTuple):
    """A call in a method of a script.

    ``before`` answers what the call is given, of the module that the method is of and the method's arguments; the call
    is one of method ``inner`` of the submodule at ``path`` from there.
    """

    before: Callable[..., Any]
    path: tuple[str, ...]
    inner: str


def script_kinds(model: nn.Module) -> dict[str, str]:
    """Paths of a script's submodules, in order, and the names of their classes; a frozen script has none."""
    return {
        path: str(getattr(module, "original_name", type(module).__name__))
        for path, module in model.named_modules(remove_duplicate=False)
        if path
    }


def read_script(
    model: nn.Module, image: Tensor, paths: Iterable[str], keep: Callable[[Any], Any], stop: bool
) -> dict[str, list[Any]]:
    """Run a script and keep what submodules answer; see `iin.models.representation.reading.read`.

    Args:
        model: the script.
        image: network inputs.
        paths: of submodules.
        keep: what is kept of an answer.
        stop: run up to each path and keep its first answer; else run all once, where answers are read only after the
            method that calls for them has ended, so that layers that work in place have changed them: their shapes
            are right, their values may not be.

    Raises:
        ValueError: with ``stop``, a submodule is called inside a branch or a loop only.
    """
    found: dict[str, list[Any]] = {}
    if not stop:
        _walk(model, "forward", (image,), "", {path: found.setdefault(path, []) for path in paths}, keep)
        return {path: calls for path, calls in found.items() if calls}
    ways = _ways.setdefault(model, {})
    for path in paths:
        if path not in ways:
            ways[path] = _way(model, "forward", tuple(path.split(".")), frozenset())
        if ways[path]:
            found[path] = [keep(_follow(model, ways[path], (image,)))]
    return found


def _follow(module: Any, way: list[_Call], arguments: tuple[Any, ...]) -> Any:
    for call in way:
        arguments = call.before(module._c, *arguments)
        for name in call.path:
            module = getattr(module, name)
    return module._c._get_method(way[-1].inner)(*arguments)  # a trace refuses to be called in parts by its name


def _way(module: Any, method: str, path: tuple[str, ...], seen: frozenset[str]) -> list[_Call]:
    """Calls from a method down to the submodule at a path; empty if it does not get there."""
    graph = module._c._get_method(method).graph
    hidden = False
    for index, node in enumerate(graph.nodes()):
        if node.kind() != "prim::CallMethod":
            inside = (_called(call) for call in node.findAllNodes("prim::CallMethod", True))
            hidden |= any(call and call == path[: len(call)] for call in inside)
            continue
        called, inner = _called(node), node.s("name")
        # A method may call others of its own module, and they it.
        if called is None or called != path[: len(called)] or (not called and inner in seen):
            continue
        rest = []
        if called != path:
            rest = _way(_at(module, called), inner, path[len(called) :], frozenset() if called else seen | {inner})
        if called == path or rest:
            return [_Call(_until(graph, index), called, inner), *rest]
    if hidden:
        raise ValueError(
            f"layer {'.'.join(path)} is called in a branch or loop of a script, where it cannot be read; "
            "choose another, or give the network as a module"
        )
    return []


def _walk(
    module: Any, method: str, arguments: tuple[Any, ...], at: str, found: dict[str, list[Any]], keep: Callable[..., Any]
) -> None:
    """Run a method once with all that it calls for, then the methods that it called, to see what these call for."""
    graph = module._c._get_method(method).graph
    nodes = [node for node in graph.nodes() if node.kind() == "prim::CallMethod"]
    calls = [(called, node) for node in nodes if (called := _called(node)) is not None]
    inner = {path.removeprefix(at) for path in found if path.startswith(at)}
    calls = [(called, node) for called, node in calls if not called or ".".join(called) in inner]
    if not calls:
        return
    values = iter(_all_calls(graph, [node for _, node in calls])(module._c, *arguments))
    for called, node in calls:
        given = tuple(next(values) for _ in range(node.inputsSize() - 1))
        answer = next(values)
        path = at + ".".join(called)
        if called:
            found[path].append(keep(answer))
        _walk(_at(module, called), node.s("name"), given, path + "." if called else at, found, keep)


def _at(module: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        module = getattr(module, name)
    return module


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
    return _function(cut)


def _all_calls(graph: Any, calls: list[Any]) -> Callable[..., Any]:
    """A function of a method's arguments that answers what each of some calls is given, and answers."""
    whole = graph.copy()
    copies = dict(zip(graph.nodes(), whole.nodes(), strict=True))
    while list(whole.outputs()):
        whole.eraseOutput(0)
    for call in calls:
        for value in (*list(copies[call].inputs())[1:], copies[call].output()):
            whole.registerOutput(value)
    return _function(whole)


def _function(graph: Any) -> Callable[..., Any]:
    graph.makeMultiOutputIntoTuple()
    return torch._C._create_function_from_graph("part", graph)
