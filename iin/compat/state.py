"""State dicts of the originals, taken strictly: every entry is used once, and has the shape that it must have."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["CompatError", "Source", "listed"]

LISTED = 12
"""Keys of each kind that an error lists; a file of something else altogether would fill pages."""


class CompatError(ValueError):
    """A file or state dict that is not what the original wrote; the message is one line."""


class Source:
    """A state dict of the original, of which every entry is to be used exactly once.

    Args:
        state: the entries.
        kind: what they are to be, for messages.

    Raises:
        CompatError: it is no state dict.
    """

    def __init__(self, state: Mapping[str, Tensor], kind: str) -> None:
        self.kind = kind
        if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
            raise CompatError(f"expected the state dict of a {kind}, found a whole checkpoint: give its entry 'model'")
        wrong = not isinstance(state, Mapping) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
        )
        if wrong:
            raise CompatError(f"expected the state dict of a {kind}, names and tensors, found {type(state).__name__}")
        if any(value.is_meta for value in state.values()):
            raise CompatError(f"expected the state dict of a {kind}, found tensors without values (on device meta)")
        self._left = dict(state)
        self._taken: dict[str, Tensor] = {}
        self._missing: list[str] = []
        self._wrong: list[str] = []
        self._unsized: list[str] = []
        self._sized = True

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def shape(self, name: str, ndim: int) -> torch.Size:
        """Shape of an entry from which sizes of the network are read; ones where there is none of so many axes."""
        value = self._left.get(name)
        if value is not None and value.ndim == ndim and value.numel():
            return value.shape
        if value is not None:
            self._unsized.append(f"{name} is {list(value.shape)}, expected {ndim} axes")
        self._sized = False
        return torch.Size([1] * ndim)

    def count(self, pattern: str, start: int = 0, step: int = 1) -> int:
        """How many numbers from ``start`` on in these steps a pattern's group takes among the keys, up to a gap."""
        found = {int(match[1]) for key in self._left if (match := re.match(pattern, key))}
        return next(n for n in range(len(found) + 1) if start + n * step not in found)

    def take(self, name: str, shape: Sequence[int], *, whole: bool = False) -> Tensor:
        """An entry of this shape; zeros, and a note, where there is none.

        Args:
            name: of the entry.
            shape: that it must have.
            whole: that it holds whole numbers, of whatever type: int64 is returned. Others have a floating point.
        """
        value = self._left.pop(name, None)
        if value is None:
            self._missing.append(name)
        elif list(value.shape) != list(shape):
            self._wrong.append(f"{name} is {list(value.shape)}, expected {list(shape)}")
        elif not whole:
            return value if value.is_floating_point() else value.float()
        elif not torch.equal(value, value.long().to(value.dtype)):
            self._wrong.append(f"{name} holds fractions")
        else:
            return value.long()
        return torch.zeros(tuple(shape), dtype=torch.int64 if whole else torch.float32)

    def refuse(self, words: str) -> None:
        """Note that an entry cannot be what it should be."""
        self._wrong.append(words)

    def place(self, mine: str, value: Tensor) -> None:
        """Put an entry under our name."""
        self._taken[mine] = value

    def copy(self, module: nn.Module, mine: str, theirs: str) -> None:
        """Put all entries of one of our layers there, from the original's layer."""
        for name, ours in module.get_submodule(mine).state_dict().items():
            key = f"{theirs}.{name}"
            if name == "num_batches_tracked":  # old versions of torch did not count
                counted = self.take(key, ours.shape, whole=True) if key in self else torch.zeros((), dtype=torch.int64)
                self.place(f"{mine}.{name}", counted)
                continue
            channels = name in ("loc", "scale")  # of ActNorm: [1, C, 1, 1] there
            shape = (1, *ours.shape, 1, 1) if channels else ours.shape
            value = self.take(key, shape, whole=name == "initialized")
            self.place(f"{mine}.{name}", value.reshape(ours.shape))

    def check(self) -> None:
        """See that everything was there and of the right shape, and that nothing is left over.

        Raises:
            CompatError: with the keys.
        """
        parts = []
        if self._missing:
            parts.append("missing: " + listed(sorted(self._missing)))
        if self._left:
            parts.append("left over: " + listed(sorted(self._left)))
        # Without an entry that tells sizes, no other can be said to be of a wrong one.
        if wrong := self._wrong if self._sized else self._unsized:
            parts.append(listed(wrong))
        if parts:
            raise self._error(parts)

    def into(self, module: nn.Module) -> None:
        """Load what was placed into a module without memory, once it is checked.

        Raises:
            CompatError: with the keys.
        """
        self.check()
        floats = [value.dtype for value in self._taken.values() if value.is_floating_point()]
        dtype = functools.reduce(torch.promote_types, floats)
        state = {}
        for name, ours in module.state_dict().items():
            value = self._taken.pop(name)
            # A copy: training must not change the state dict that somebody else holds.
            state[name] = value.detach().to(dtype if ours.is_floating_point() else ours.dtype, copy=True)
        assert not self._taken, self._taken.keys()
        module.load_state_dict(state, assign=True)

    def _error(self, parts: Sequence[str]) -> CompatError:
        return CompatError(f"not a checkpoint of the original {self.kind}; {'; '.join(parts)}")


def listed(words: Sequence[str]) -> str:
    more = len(words) - LISTED
    return ", ".join(words[:LISTED]) + (f" and {more} more" if more > 0 else "")
