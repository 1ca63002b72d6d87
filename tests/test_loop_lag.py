"""The lag of the event loop, as its own task sees it."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock

from scada_trio.loop_lag import measure_loop_lag


async def test_a_loop_that_is_blocked_shows(nursery: trio.Nursery) -> None:
    """A call that blocks for three tenths of a second is two late for who is due after one."""
    send, receive = trio.open_memory_channel[float](100)
    nursery.start_soon(measure_loop_lag, send.send_nowait)
    await receive.receive()
    time.sleep(0.3)
    assert await receive.receive() > 0.19


async def test_an_idle_loop_has_no_lag(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Ten measurements a second, all of them 0 by a clock that jumps."""
    lags: list[float] = []
    nursery.start_soon(measure_loop_lag, lags.append)
    await trio.sleep(1.05)
    assert len(lags) == 10
    assert max(lags) == pytest.approx(0.0, abs=1e-9)
