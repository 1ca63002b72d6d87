"""The middle stage of a tenant: takes deliveries, makes them accepted, and cuts batches by count or age.

Owns the order in which readings reach the writer. Knows no device and no database; the tenant starts it.

    Delivery ──► intake ──► ReadingBuffer ──► flush ──► Batch
                   │ accepted()
"""

from __future__ import annotations

import structlog
import trio

from scada_trio.buffer import ReadingBuffer
from scada_trio.metrics import TenantMetrics
from scada_trio.readings import Batch, Delivery

log = structlog.get_logger()

_DRAIN_AT_ONCE = 512  # deliveries accepted in one turn, so that other tasks of the loop get theirs


class Aggregator:
    """Batches are cut at ``max_readings``, or when the oldest reading has waited ``max_age_s``."""

    def __init__(
        self,
        buffer: ReadingBuffer,
        incoming: trio.MemoryReceiveChannel[Delivery],
        outgoing: trio.MemorySendChannel[Batch],
        *,
        max_readings: int,
        max_age_s: float,
        metrics: TenantMetrics,
    ) -> None:
        self._buffer = buffer
        self._incoming = incoming
        self._outgoing = outgoing
        self._max_readings = max_readings
        self._max_age_s = max_age_s
        self._metrics = metrics
        self._filled = trio.Event()
        self._arrived = trio.Event()
        self._closed = False

    async def run(self) -> None:
        """Returns when every sender has closed and the last batch is handed over; closes both channel ends.

        Cancelled, it leaves what it accepted in the buffer.
        """
        with self._incoming, self._outgoing:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._flush, name="aggregator flush")
                await self._intake()
                self._closed = True
                self._wake()

    async def _intake(self) -> None:
        async for delivery in self._incoming:
            deliveries = [delivery]
            while len(deliveries) < _DRAIN_AT_ONCE:
                try:
                    deliveries.append(self._incoming.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            if self._buffer.full:
                await self._hold()
            self._accept(deliveries)

    def _accept(self, deliveries: list[Delivery]) -> None:
        before = self._buffer.received_total
        self._buffer.append([delivery.block for delivery in deliveries])
        for delivery in deliveries:
            delivery.accepted()
        self._metrics.received.inc(self._buffer.received_total - before)
        self._metrics.buffer_size.set(len(self._buffer))
        self._arrived.set()
        if self._buffer.waiting >= self._max_readings:
            self._filled.set()

    async def _hold(self) -> None:
        """The buffer is full: what waits here is not accepted, so devices keep it until the writer has made room."""
        self._metrics.buffer_full.inc()
        log.warning("buffer full, intake held", buffered=len(self._buffer), limit=self._buffer.limit)
        await self._buffer.wait_room()
        log.info("buffer has room again, intake resumed", buffered=len(self._buffer))

    def _wake(self) -> None:
        self._arrived.set()
        self._filled.set()

    async def _flush(self) -> None:
        while True:
            await self._wait_due()
            batch = self._buffer.take(self._max_readings)
            if batch is not None:
                await self._outgoing.send(batch)
            elif self._closed:
                return

    async def _wait_due(self) -> None:
        """Return when a batch should be cut: enough readings, an old one, or the end."""
        while not self._closed:
            oldest_at = self._buffer.oldest_at
            if oldest_at is None:
                self._arrived = trio.Event()
                await self._arrived.wait()
                continue
            if self._buffer.waiting >= self._max_readings:
                return
            self._filled = trio.Event()
            with trio.move_on_at(oldest_at + self._max_age_s):
                await self._filled.wait()
                continue
            return
