"""Rates over the last minute."""

from __future__ import annotations

import pytest

from scada_trio.rates import Rate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_steady_rate_is_shown_from_the_start() -> None:
    clock = Clock()
    rate = Rate(clock)
    assert rate.per_second() == 0
    for _ in range(300):
        clock.now += 1
        rate.add(10)
        if clock.now > 1005:
            assert rate.per_second() == pytest.approx(10, rel=0.2)


def test_silence_brings_it_down_to_nothing() -> None:
    clock = Clock()
    rate = Rate(clock)
    for _ in range(120):
        clock.now += 1
        rate.add(100)
    clock.now += 30
    assert 40 < rate.per_second() < 60
    clock.now += 40
    assert rate.per_second() == 0
    clock.now += 1e6
    rate.add(60)
    assert rate.per_second() == pytest.approx(1, rel=0.1)
