"""What a writer knows without looking: never too much, and enough for clocks that jump."""

from __future__ import annotations

import numpy as np
import pytest

from scada_trio.readings import EMPTY_BLOCK, ReadingBlock
from scada_trio.storage.horizon import Horizon

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US


def readings(*times: tuple[int, int]) -> ReadingBlock:
    """Of (series, time_us)."""
    tag, time_us = zip(*times, strict=True)
    return ReadingBlock(
        np.array(tag, np.int32), np.array(time_us, np.int64), np.zeros(len(tag)), np.zeros(len(tag), np.uint8)
    )


def looked_up(horizon: Horizon, *times: tuple[int, int]) -> list[bool]:
    """Of each, and then they are stored."""
    block = readings(*times)
    may = horizon.may_be_stored(block)
    horizon.advance(block)
    return [bool(each) for each in may]


def test_what_is_newer_than_the_table_is_new() -> None:
    """For every series, and then for each its own newest."""
    horizon = Horizon(100 * SECOND_US)
    assert looked_up(horizon, (0, 99 * SECOND_US), (1, 100 * SECOND_US), (70, 101 * SECOND_US)) == [True, True, False]
    assert looked_up(horizon, (70, 101 * SECOND_US), (1, 101 * SECOND_US)) == [True, False]
    assert horizon.may_be_stored(EMPTY_BLOCK).tolist() == []
    horizon.advance(EMPTY_BLOCK)


def test_a_clock_that_jumps_ahead_costs_its_own_readings_alone() -> None:
    """Once it is right again all are new but those that were there, until it comes to where it had jumped to."""
    horizon = Horizon(0)
    assert looked_up(horizon, (0, SECOND_US), (0, HOUR_US), (0, HOUR_US + 1), (1, SECOND_US)) == [False] * 4
    for second in range(2, 3600):
        assert looked_up(horizon, (0, second * SECOND_US), (1, second * SECOND_US)) == [False, False]
        assert looked_up(horizon, (0, second * SECOND_US)) == [True]
    assert looked_up(horizon, (0, HOUR_US), (0, HOUR_US + 1), (0, HOUR_US + 2)) == [True, True, False]


def test_a_clock_that_jumps_ahead_and_back_in_one_batch() -> None:
    """The order of a batch says nothing."""
    horizon = Horizon(0)
    assert looked_up(horizon, (0, HOUR_US), (0, SECOND_US), (0, 2 * SECOND_US)) == [False] * 3
    assert looked_up(horizon, (0, SECOND_US), (0, 3 * SECOND_US), (0, HOUR_US - 1), (0, HOUR_US)) == [
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("newest_us", [-np.iinfo(np.int64).max, 0, 40 * SECOND_US, np.iinfo(np.int64).max])
def test_nothing_that_is_stored_is_taken_for_new(newest_us: int) -> None:
    """Readings forwards, backwards and twice, whatever the table had before."""
    rng = np.random.default_rng(7)
    for _ in range(40):
        horizon = Horizon(newest_us)
        stored: set[tuple[int, int]] = set()
        for _ in range(60):
            step = int(rng.choice([1, SECOND_US, 20 * SECOND_US]))
            times = [
                (int(tag), int(time) * step)
                for tag, time in zip(rng.integers(0, 3, 12), rng.integers(-5, 90, 12), strict=True)
            ]
            for key, may in zip(times, looked_up(horizon, *times), strict=True):
                assert may or (key not in stored and key[1] > newest_us)
            stored.update(times)
