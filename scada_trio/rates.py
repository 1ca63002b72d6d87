"""How often something happens, over the last minute, at the cost of one addition each time. Starts nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_SLOT_S: Final = 5.0
_SLOTS: Final = 13  # a minute, and the slot that is still filling


class Rate:
    """Events a second over the last minute, or since the first call where that is less. Used from one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._slot = int(self._since // _SLOT_S)
        self._counts = [0] * _SLOTS

    def add(self, count: int) -> None:
        """Count ``count`` events now."""
        self._counts[self._advance(self._clock()) % _SLOTS] += count

    def per_second(self) -> float:
        """Events a second."""
        now = self._clock()
        self._advance(now)
        covered_s = min(now - self._since, (_SLOTS - 1) * _SLOT_S + now % _SLOT_S)
        return sum(self._counts) / max(covered_s, 1.0)

    def _advance(self, now: float) -> int:
        slot = int(now // _SLOT_S)
        for passed in range(self._slot + 1, min(slot, self._slot + _SLOTS) + 1):
            self._counts[passed % _SLOTS] = 0
        self._slot = slot
        return slot
