"""Reading layers while a network runs, whatever it is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from iin.models.representation.exported import Exported
from iin.models.representation.scripted import read_script, script_kinds

__all__ = ["Function", "kinds", "read", "submodule"]

_one_at_a_time = threading.RLock()
"""Hooks are on a module for the length of a call; one that ran in another thread would be read as well."""


class Function(nn.Module):
    """A function of images as a network: it has no layers but its input and what it answers.

    Args:
        function: network input ``[B, C, H, W]`` to logits ``[B, K]``.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Tensor) -> Any:
        """What the function answers."""
        return self.function(image)


class _Enough(BaseException):
    """All that was asked for is known. No `Exception`, which networks may catch."""


def kinds(model: nn.Module) -> dict[str, str]:
    """Paths of a network's submodules, in order, and the names of their classes."""
    if isinstance(model, Function):
        return {}
    if isinstance(model, Exported):
        return model.kinds()
    if isinstance(model, torch.jit.ScriptModule):
        return script_kinds(model)
    return {path: type(module).__name__ for path, module in model.named_modules(remove_duplicate=False) if path}


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """The submodule at a path, where a network still has it: scripts and exported programs keep no classes."""
    if not path or isinstance(model, (torch.jit.ScriptModule, Exported)):
        return None
    return model.get_submodule(path)


def read(
    model: nn.Module, image: Tensor, paths: Iterable[str], keep: Callable[[Any], Any], stop: bool = False
) -> dict[str, list[Any]]:
    """Run a network and read some of its submodules' answers, once for each call.

    Args:
        model: in eval mode.
        image: network inputs ``[B, C, H, W]``.
        paths: of submodules.
        keep: what is kept of an answer. It is called at once, before a layer that works in place may change it.
        stop: end as soon as each path was reached once. Without it, values that a script keeps are not to be relied
            on, only their shapes.

    Returns:
        Answers by path, in the order of the calls; nothing for a path that is not reached.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return read_script(model, image, paths, keep, stop)
    if isinstance(model, Exported):
        return model.read(image, paths, keep, stop)
    return _read_modules(model, image, list(paths), keep, stop)


def _read_modules(
    model: nn.Module, image: Tensor, paths: list[str], keep: Callable[[Any], Any], stop: bool
) -> dict[str, list[Any]]:
    seen: dict[str, list[Any]] = {}
    thread = threading.get_ident()

    def hook(path: str) -> Callable[..., None]:
        def after(module: nn.Module, inputs: Any, answer: Any) -> None:
            if threading.get_ident() != thread:
                return
            seen.setdefault(path, []).append(keep(answer))
            if stop and len(seen) == len(paths):
                raise _Enough

        return after

    with _one_at_a_time:
        handles = [model.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
        try:
            model(image)
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
    return seen
