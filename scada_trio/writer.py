"""The last stage of a tenant: one batch at a time into the tenant's database, again and again until it is there.

Owns the tenant's writing connection and its retries. Knows no device; the tenant starts it. How a batch is written is
the storage package's; a batch that may have been committed before the link broke is recognised there by its number.

    Batch ──► write ──► committed
                │ DatabaseUnavailable: new connection, back off, same batch again
                │ DatabaseMisconfigured, BatchRejected: the same, slowly, and shown in status
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import UUID

import structlog
import trio

from scada_trio.backoff import full_jitter
from scada_trio.buffer import ReadingBuffer
from scada_trio.errors import BatchRejected, DatabaseError, DatabaseMisconfigured
from scada_trio.metrics import TenantMetrics
from scada_trio.readings import Batch, WriteResult

log = structlog.get_logger()

_FIRST_DELAY_S = 0.25
_MAX_DELAY_S = 15.0


class BatchSink(Protocol):
    """An open database that takes batches; `scada_trio.storage` has the real one."""

    async def write(self, batch: Batch, buffer_id: UUID) -> WriteResult:
        """Write and commit, exactly once for each ``(buffer_id, batch.sequence)``; raises `DatabaseError`."""
        ...


class Writer:
    """``state`` is ``connecting``, ``ready`` or why nothing is written; ``last_error`` the failure it is in."""

    def __init__(
        self,
        buffer: ReadingBuffer,
        incoming: trio.MemoryReceiveChannel[Batch],
        open_sink: Callable[[], AbstractAsyncContextManager[BatchSink]],
        *,
        metrics: TenantMetrics,
    ) -> None:
        self._buffer = buffer
        self._incoming = incoming
        self._open_sink = open_sink
        self._metrics = metrics
        self._batch: Batch | None = None
        self._delays = self._fresh_delays()
        self.state = "connecting"
        self.last_error: str | None = None

    async def run(self) -> None:
        """Returns when the channel is closed and everything that came through it is committed; closes its end.

        Cancelled, the batch in hand is rolled back in the database and stays in the buffer.
        """
        with self._incoming:
            while True:
                try:
                    async with self._open_sink() as sink:
                        if self._batch is None:
                            self._succeeded()
                        await self._write_all(sink)
                        return
                except DatabaseError as error:
                    self._failed(error)
                await trio.sleep(next(self._delays))

    async def _write_all(self, sink: BatchSink) -> None:
        while True:
            if self._batch is None:
                try:
                    self._batch = await self._incoming.receive()
                except trio.EndOfChannel:
                    return
            await self._write(sink, self._batch)
            self._batch = None

    async def _write(self, sink: BatchSink, batch: Batch) -> None:
        started = time.perf_counter()
        result = await sink.write(batch, self._buffer.buffer_id)
        elapsed = time.perf_counter() - started
        self._buffer.committed(batch)
        self._metrics.write_duration.observe(elapsed)
        self._metrics.batch_size.observe(len(batch))
        self._metrics.committed(batch.readings.tag)
        self._metrics.duplicate.inc(result.duplicates)
        self._metrics.replaced.inc(result.replaced)
        self._metrics.buffer_size.set(len(self._buffer))
        self._succeeded()
        log.debug("batch committed", readings=len(batch), duplicates=result.duplicates, seconds=round(elapsed, 4))

    def _succeeded(self) -> None:
        if self.last_error is not None:
            log.info("tenant database is back", readings_waiting=len(self._buffer))
            self._delays = self._fresh_delays()
        self.state = "ready"
        self.last_error = None

    def _failed(self, error: DatabaseError) -> None:
        self.state = _STATES.get(type(error), "database away")
        self._metrics.write_retry(error.sqlstate or "connection")
        message = str(error)
        if message != self.last_error:
            log.error(
                "tenant database does not take readings, trying again",
                error=message,
                readings_waiting=len(self._buffer),
            )
        self.last_error = message

    @staticmethod
    def _fresh_delays() -> Iterator[float]:
        return full_jitter(_FIRST_DELAY_S, cap_s=_MAX_DELAY_S)


_STATES: dict[type[DatabaseError], str] = {
    DatabaseMisconfigured: "database misconfigured",
    BatchRejected: "batch rejected",
}
