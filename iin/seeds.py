"""Seeds from numbers."""

from __future__ import annotations

__all__ = ["mix"]

_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """Hash integers into one 63-bit seed (SplitMix64 finaliser, applied in turn).

    Unlike ``seed + epoch``, neighbouring arguments give unrelated results, so streams do not overlap.
    """
    state = 0
    for value in values:
        state = (state ^ (value & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1
