"""Type hints against plain data: what fits, and in words what would have."""

from __future__ import annotations

import collections.abc
import enum
import functools
import inspect
import json
import os
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any, Literal, Union, get_args, get_origin

from iin.config.reading import nearest
from iin.config.targets import is_node

__all__ = ["describe", "hints_of", "mismatches", "show"]

Key = tuple["str | int", ...]
TargetOf = Callable[[Any], Any]

_LISTS = (
    list,
    tuple,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
    collections.abc.MutableSequence,
)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_PATHS = (Path, PurePath, os.PathLike)
_SCALARS = {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_PLURALS = {"an integer": "integers", "a number": "numbers", "true or false": "true or false each"}
_ANYTHING = (Any, object, inspect.Parameter.empty)


def hints_of(target: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """Hints of a target's parameters, ranges included; those that cannot be evaluated are left out."""
    function: Any = target
    if inspect.isclass(target):
        function = target.__init__ if target.__init__ is not object.__init__ else target.__new__
    elif not inspect.isroutine(target):
        function = type(target).__call__
    names = getattr(inspect.unwrap(function), "__globals__", {})
    hints = {}
    for name, parameter in signature.parameters.items():
        if parameter.annotation is inspect.Parameter.empty:
            continue
        # One by one, so that a name that exists for type checkers only costs no more than its own parameter.
        alone = types.SimpleNamespace(__annotations__={name: parameter.annotation})
        try:
            hints[name] = typing.get_type_hints(alone, globalns=names, include_extras=True)[name]
        except Exception:  # whatever an annotation in somebody's code evaluates to
            continue
    return hints


def mismatches(hint: Any, value: Any, target_of: TargetOf, path: Key = ()) -> Iterator[tuple[Key, str]]:
    """Compare plain data with a hint, strictly.

    Text is no number, true is no integer; an integer is a number, a list serves for a tuple, and a node
    (a mapping with ``target``) for whatever its target makes.

    Args:
        hint: with ranges as ``Annotated`` metadata.
        value: from a configuration.
        target_of: the callable that a node names, or None if it is not known.
        path: where the value stands.

    Yields:
        Where in the value, and ``expected ..., found ...``.
    """
    base, limits = _split(hint)
    if any(base is anything for anything in _ANYTHING):
        return
    kind = get_origin(base) or base
    if is_node(value):
        if not _may_give(base, target_of(value)):
            yield path, f"expected {describe(hint)}, found a mapping with target {value['target']}"
    elif kind in (Union, types.UnionType):
        yield from _union_mismatches(hint, value, target_of, path)
    elif kind in _LISTS and isinstance(value, list):
        yield from _list_mismatches(hint, value, target_of, path)
    elif kind in _MAPPINGS and isinstance(value, dict):
        arguments = get_args(base)
        for key, child in value.items() if len(arguments) == 2 else ():
            yield from mismatches(arguments[0], key, target_of, (*path, key))
            yield from mismatches(arguments[1], child, target_of, (*path, key))
        if limits and not _within(limits, dict, value):
            yield path, f"expected {describe(hint)}, found {show(value)}"
    elif not _leaf_fits(hint, base, value):
        yield path, f"expected {describe(hint)}, found {show(value)}{_advice(base, value)}"


def _union_mismatches(hint: Any, value: Any, target_of: TargetOf, path: Key) -> Iterator[tuple[Key, str]]:
    arms = get_args(_split(hint)[0])
    found = [list(mismatches(arm, value, target_of, path)) for arm in arms]
    if not all(found):
        return
    # Where one arm is a list too, say which of its elements is wrong.
    inner = [each for each in found if any(len(where) > len(path) for where, _ in each)]
    if len(inner) == 1:
        yield from inner[0]
    else:
        advice = "".join(dict.fromkeys(_advice(_split(arm)[0], value) for arm in arms))
        yield path, f"expected {describe(hint)}, found {show(value)}{advice}"


def _list_mismatches(hint: Any, value: list[Any], target_of: TargetOf, path: Key) -> Iterator[tuple[Key, str]]:
    base, limits = _split(hint)
    elements = _elements(base)
    if isinstance(elements, tuple):
        fits = len(value) == len(elements)
    else:
        fits, elements = True, (elements,) * len(value)
    if not fits or (limits and not _within(limits, list, value)):
        yield path, f"expected {describe(hint)}, found {show(value)}"
        return
    for index, (element, child) in enumerate(zip(elements, value, strict=True)):
        yield from mismatches(element, child, target_of, (*path, index))


def _elements(base: Any) -> Any:
    """Hint of every element, or a tuple of hints where their number is fixed."""
    arguments = get_args(base)
    if not arguments:
        return Any
    if get_origin(base) is tuple and arguments[-1] is not Ellipsis:
        return () if arguments == ((),) else arguments
    return arguments[0]


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The hint itself, and its metadata."""
    if get_origin(hint) is typing.Annotated:
        return hint.__origin__, hint.__metadata__
    return hint, ()


def _leaf_fits(hint: Any, base: Any, value: Any) -> bool:
    if base in _PATHS or get_origin(base) in _PATHS:
        return isinstance(value, str)
    if inspect.isclass(base) and issubclass(base, enum.Enum):
        return isinstance(value, str) and value in base.__members__
    if get_origin(base) is Literal:  # True == 1, but they are not the same choice
        return any(type(choice) is type(value) and choice == value for choice in get_args(base))
    return _valid(hint, value)


def _valid(hint: Any, value: Any) -> bool:
    adapter = _adapter(hint)
    if adapter is None:
        return True
    try:
        adapter.validate_python(value)
    except Exception:  # ValidationError, and what validators of somebody's own raise
        return False
    return True


def _within(limits: tuple[Any, ...], kind: type, value: Any) -> bool:
    parts = (kind, *limits)
    return _valid(typing.Annotated[parts], value)


def _adapter(hint: Any) -> Any:
    try:
        return _make_adapter(hint)
    except TypeError:  # metadata that cannot be hashed
        return _make_adapter.__wrapped__(hint)


@functools.lru_cache(maxsize=512, typed=True)
def _make_adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter  # takes a while to import

    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False))
    except Exception:  # a hint that pydantic makes nothing of says nothing about plain data
        return None


def _may_give(base: Any, target: Any) -> bool:
    """Whether calling a target may give what a hint asks for; only classes tell."""
    base = _split(base)[0]
    if get_origin(base) in (Union, types.UnionType):
        return any(_may_give(arm, target) for arm in get_args(base))
    if get_origin(base) is Literal:
        return False
    if not inspect.isclass(base) or not inspect.isclass(target) or get_origin(base) is not None:
        return True
    try:
        return issubclass(target, base)
    except TypeError:  # a protocol that cannot be asked
        return True


# --- words -----------------------------------------------------------------------


def describe(hint: Any) -> str:
    """What a hint asks for: ``a number > 0 and < 1``."""
    base, limits = _split(hint)
    kind = get_origin(base) or base
    if kind in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(arm) for arm in get_args(base)))
    if any(base is anything for anything in _ANYTHING):
        return "anything"
    bounds = _bounds(limits)
    if kind in _LISTS:
        return _describe_list(base, limits)
    if kind in _MAPPINGS:
        return "a mapping"
    if kind is Literal:
        return " or ".join("null" if choice is None else show(choice).strip('"') for choice in get_args(base))
    if base in _PATHS or kind in _PATHS:
        return "a path"
    if inspect.isclass(base) and issubclass(base, enum.Enum):
        return f"one of {', '.join(base.__members__)}"
    if base in _SCALARS:
        return f"{_SCALARS[base]} {bounds}".strip()
    name = getattr(base, "__name__", str(base))
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name} (a mapping with target)"


def _describe_list(base: Any, limits: tuple[Any, ...]) -> str:
    elements = _elements(base)
    if isinstance(elements, tuple):
        words = list(dict.fromkeys(describe(element) for element in elements))
        each = f"each {words[0]}" if len(words) == 1 else f"of {', '.join(words)}"
        return f"a list of {len(elements)}, {each}"
    least, most = _lengths(limits)
    length = " of" * bool(least or most) + f" at least {least}" * bool(least)
    length += " and" * bool(least and most) + f" at most {most}" * bool(most)
    return (
        f"a list{length}"
        if any(elements is anything for anything in _ANYTHING)
        else (f"a list{length}, each {describe(elements)}")
    )


def _atoms(limits: tuple[Any, ...]) -> Iterator[Any]:
    for limit in limits:
        # Len and Interval are groups of simpler limits.
        yield from limit if isinstance(limit, collections.abc.Iterable) and not isinstance(limit, str) else (limit,)


def _lengths(limits: tuple[Any, ...]) -> tuple[int | None, int | None]:
    least = most = None
    for limit in _atoms(limits):
        least = getattr(limit, "min_length", least)
        most = getattr(limit, "max_length", most)
    return least, most


def _bounds(limits: tuple[Any, ...]) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "divisible by"}
    words = [
        f"{sign} {getattr(limit, name)}"
        for limit in _atoms(limits)
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    return " and ".join(words)


def show(value: Any) -> str:
    """A value as YAML would spell it, cut to a readable length."""
    if is_node(value):
        return f"a mapping with target {value['target']}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _advice(base: Any, value: Any) -> str:
    """How to mend what people often write."""
    if base is int and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if base is str and isinstance(value, (bool, int, float)):
        return f"; for text, quote it: '{show(value)}'"
    if get_origin(base) is Literal and isinstance(value, str):
        close = nearest(value, [choice for choice in get_args(base) if isinstance(choice, str)])
        return f"; {close}" if close.startswith("did") else ""
    if inspect.isclass(base) and issubclass(base, enum.Enum) and isinstance(value, str):
        return f"; {nearest(value, base.__members__)}"
    if inspect.isclass(base) and isinstance(value, dict) and "params" in value:
        return "; it has params but no target"
    return ""
