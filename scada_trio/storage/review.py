"""An operator's way into a tenant's quarantine, on a connection of its own.

Owns the connection, no SQL. The commands open it; nothing of the running service does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from pydantic import SecretStr

from scada_trio.storage.connect import Connection, open_connection, run_cancellable
from scada_trio.storage.quarantine import QuarantinedReading, drop_quarantine, list_quarantine
from scada_trio.storage.sifting import retry_quarantine
from scada_trio.storage.window import TimeWindow


@asynccontextmanager
async def open_review(
    url: SecretStr, *, connect_timeout_s: float, statement_timeout_s: float, window: TimeWindow | None = None
) -> AsyncIterator[QuarantineReview]:
    """Closed at the end of the block; ``window`` says which times may go through.

    Raises `DatabaseError`, as do the calls.
    """
    limiter = trio.CapacityLimiter(1)
    connection = await open_connection(
        url,
        application_name="scada-trio quarantine",
        connect_timeout_s=connect_timeout_s,
        statement_timeout_s=statement_timeout_s,
        limiter=limiter,
    )
    try:
        yield QuarantineReview(connection, limiter, window or TimeWindow())
    finally:
        connection.close()


class QuarantineReview:
    """One call at a time; ``ids`` None means every row."""

    def __init__(self, connection: Connection, limiter: trio.CapacityLimiter, window: TimeWindow) -> None:
        self._connection = connection
        self._window = window
        self._limiter = limiter

    async def newest(self, limit: int) -> tuple[list[QuarantinedReading], int]:
        """The newest rows, newest first, and how many there are."""
        return await run_cancellable(self._connection, list_quarantine, limit, limiter=self._limiter)

    async def retry(self, ids: Sequence[int] | None) -> tuple[int, int]:
        """Write readings again, those that go through leave: (tried, gone through). In transactions of 5,000."""
        tried, stored, last_id = 0, 0, 0
        while True:
            part = await run_cancellable(
                self._connection, retry_quarantine, ids, last_id, self._window, limiter=self._limiter
            )
            tried, stored = tried + part[0], stored + part[1]
            if part[2] is None:
                return tried, stored
            last_id = part[2]

    async def drop(self, ids: Sequence[int] | None) -> int:
        """Throw readings away and record the loss; how many there were."""
        return await run_cancellable(self._connection, drop_quarantine, ids, limiter=self._limiter)
