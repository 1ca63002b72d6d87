"""Delays between attempts."""

import random
from itertools import islice

from scada_trio.backoff import full_jitter


def test_bounds_double_up_to_the_cap() -> None:
    """Every delay lies between nothing and a bound that doubles until the cap."""
    bounds = [5, 10, 20, 40, 60, 60, 60]
    for seed in range(200):
        delays = list(islice(full_jitter(5, cap_s=60, rng=random.Random(seed)), len(bounds)))
        assert all(0 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))


def test_delays_spread_over_the_whole_interval() -> None:
    """A thousand devices that come back at once are spread, not bunched."""
    first = [next(full_jitter(10, rng=random.Random(seed))) for seed in range(1000)]
    tenths = [sum(low <= delay < low + 1 for delay in first) for low in range(10)]
    assert min(tenths) > 50
