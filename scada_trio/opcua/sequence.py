"""Sequence numbers of notifications: 1 to 2^32 - 1, then 1 again (OPC UA Part 4, 7.9 Counter). Starts nothing."""

from __future__ import annotations

from typing import Final

_LAST: Final = 0xFFFFFFFF
_HALF: Final = _LAST // 2
_OPEN_SPANS: Final = 4  # the newest, which may still grow


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


class RecentNumbers:
    """The numbers that were added last, ``most`` of them at most, in little room where one follows the other."""

    __slots__ = ("_count", "_most", "_spans")

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._spans: list[list[int]] = []  # first number and how many, in the order in which they began

    def __contains__(self, number: int) -> bool:
        return any(0 <= ahead(first, number) < count for first, count in self._spans)

    def add(self, number: int) -> None:
        """Know ``number``, and forget the oldest where there are more than ``most``."""
        span = next((span for span in self._spans[-_OPEN_SPANS:] if ahead(span[0], number) == span[1]), None)
        if span is not None:
            span[1] += 1
            self._join(span)
        elif number in self:
            return
        else:
            self._spans.append([number, 1])
        self._count += 1
        if self._count > self._most:
            self._forget_first()

    def _join(self, span: list[int]) -> None:
        """Add to ``span`` the one that begins where it ends."""
        behind = advance(span[0], span[1])
        for other in self._spans[-_OPEN_SPANS:]:
            if other[0] == behind and other is not span:
                span[1] += other[1]
                self._spans.remove(other)

    def _forget_first(self) -> None:
        first = self._spans[0]
        first[0], first[1] = after(first[0]), first[1] - 1
        self._count -= 1
        if not first[1]:
            del self._spans[0]
