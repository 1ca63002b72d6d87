"""How late the event loop runs its tasks: the one figure that tells a loop that is blocked from one that is busy.

Started by the service. Knows no metric, only whom to tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

_EVERY_S: Final = 0.1


async def measure_loop_lag(observe: Callable[[float], None]) -> None:
    """Tell ``observe`` ten times a second how many seconds after its time a task ran; returns only when cancelled."""
    while True:
        due = trio.current_time() + _EVERY_S
        await trio.sleep_until(due)
        observe(trio.current_time() - due)
