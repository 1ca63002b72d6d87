"""Sequence numbers of notifications: 1 to 2^32 - 1, then 1 again (OPC UA Part 4, 7.9 Counter). Pure; starts nothing."""

from __future__ import annotations

from typing import Final

_LAST: Final = 0xFFFFFFFF
_HALF: Final = _LAST // 2


def after(number: int) -> int:
    """The number that follows ``number``; 1 after 0, which stands for none."""
    return number % _LAST + 1


def advance(number: int, count: int) -> int:
    """The number ``count`` behind ``number``."""
    return (number - 1 + count) % _LAST + 1


def before(number: int) -> int:
    """The number in front of ``number``."""
    return number - 1 if number > 1 else _LAST


def ahead(expected: int, number: int) -> int:
    """How far ``number`` is ahead of ``expected``; negative where it is behind."""
    distance = (number - expected) % _LAST
    return distance if distance <= _HALF else distance - _LAST
