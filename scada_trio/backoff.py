"""Delays between attempts, as a pure iterator: no clock, no sleeping, no logging."""

from __future__ import annotations

import random
from collections.abc import Iterator


def full_jitter(first_s: float, *, cap_s: float = 60.0, rng: random.Random | None = None) -> Iterator[float]:
    """Endless delays in seconds: uniform between 0 and a bound that starts at ``first_s`` and doubles up to ``cap_s``.

    Full jitter spreads a thousand devices that come back after one power cut over the whole interval
    (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    draw = random.uniform if rng is None else rng.uniform  # one of its own has 2.5 KB, and each connection draws
    bound = min(first_s, cap_s)
    while True:
        yield draw(0.0, bound)
        bound = min(bound * 2.0, cap_s)
