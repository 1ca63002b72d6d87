"""Heartbeats: each interval the last reading of every series is stored again, apart from readings.

Owns when. A tenant's upkeep starts `run_heartbeats` where an interval is set; the tenant tells how its connections are,
and `scada_trio.storage.heartbeats` stores it. Knows no device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from scada_trio.config import Settings
from scada_trio.desired import TenantSpec
from scada_trio.errors import DatabaseError, DatabaseUnavailable
from scada_trio.metrics import TenantMetrics
from scada_trio.storage.heartbeats import Pulse, store_heartbeats

log = structlog.get_logger()

_LATE_S: Final = 0.05  # wake a little after the moment: clocks are not that even


async def run_heartbeats(
    spec: Callable[[], TenantSpec], pulses: Callable[[], Sequence[Pulse]], *, settings: Settings, metrics: TenantMetrics
) -> None:
    """Store a beat at every multiple of the interval, by the clock of day; returns only when cancelled.

    Two processes, or one that was started again, beat at the same moments and store each once. A beat that cannot be
    stored is counted and not made up for: the next one says the same.
    """
    interval_s = settings.heartbeat_interval_ms / 1000
    said: str | None = None
    while True:
        at = (time.time() // interval_s + 1) * interval_s
        await trio.sleep(max(0.0, at - time.time()) + _LATE_S)
        try:
            await store_heartbeats(
                spec().database_url, at, pulses(), settings.heartbeat_retention_days, settings.db_timeouts
            )
        except DatabaseError as error:
            metrics.heartbeat("failed")
            # one that is away is the writer's to say
            if str(error) != said and not isinstance(error, DatabaseUnavailable):
                log.warning("heartbeats cannot be stored", error=str(error))
                said = str(error)
        else:
            metrics.heartbeat("stored")
            said = None
