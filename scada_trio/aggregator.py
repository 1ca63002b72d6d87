"""The middle stage of a tenant: takes deliveries, makes them accepted, and cuts batches by count or age.

Owns the order in which readings reach the writer, and how often the journal is written. Knows no device and no
database; the tenant starts it.

    Delivery ──► intake ──► Journal ──► flush ──► Batch
                   │ accepted(), and live to whoever watches
"""

from __future__ import annotations

from typing import Final

import structlog
import trio

from scada_trio.journal.queue import Journal
from scada_trio.live import LiveHub
from scada_trio.metrics import TenantMetrics
from scada_trio.readings import Batch, Delivery

log = structlog.get_logger()

_DRAIN_AT_ONCE: Final = 512  # deliveries accepted in one turn, so that other tasks of the loop get theirs
_COMMIT_SHARE_S: Final = 0.005  # of time between two commits for each tenant: a commit costs about a tenth of it
_MIN_INTERVAL_S: Final = 0.02  # a thousand devices would make 200 commits a second; three reports of each may wait
_MAX_INTERVAL_S: Final = 1.0


class CommitPace:
    """How far apart commits to journals are: the process's tenants share what they may cost, a tenth of a core at most.

    The first delivery after a pause is committed at once; only those that come soon after it wait.
    """

    def __init__(self, tenants: int = 1) -> None:
        self.tenants = tenants

    @property
    def interval_s(self) -> float:
        """Least time between two commits of one tenant."""
        return min(max(self.tenants * _COMMIT_SHARE_S, _MIN_INTERVAL_S), _MAX_INTERVAL_S)


class Aggregator:
    """Batches are cut at ``max_readings``, or when the oldest reading has waited ``max_age_s``."""

    def __init__(
        self,
        journal: Journal,
        incoming: trio.MemoryReceiveChannel[Delivery],
        outgoing: trio.MemorySendChannel[Batch],
        *,
        max_readings: int,
        max_age_s: float,
        pace: CommitPace,
        live: LiveHub,
        metrics: TenantMetrics,
    ) -> None:
        self._journal = journal
        self._incoming = incoming
        self._outgoing = outgoing
        self._max_readings = max_readings
        self._max_age_s = max_age_s
        self._pace = pace
        self._live = live
        self._metrics = metrics
        self._next_commit_at = float("-inf")
        self._filled = trio.Event()
        self._arrived = trio.Event()
        self._closed = False

    async def run(self) -> None:
        """Returns when every sender has closed and the last batch is handed over; closes both channel ends.

        Cancelled, it leaves what it accepted in the journal.
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
            await self._gather(deliveries)
            if self._journal.full and not self._journal.drops_oldest:
                await self._hold()
            marks = [delivery.mark for delivery in deliveries if delivery.mark is not None]
            blocks = [delivery.block for delivery in deliveries]
            await self._journal.append(blocks, marks)
            self._live.publish(blocks)
            for delivery in deliveries:
                delivery.accepted()
            self._next_commit_at = trio.current_time() + self._pace.interval_s
            self._arrived.set()
            if self._journal.waiting >= self._max_readings:
                self._filled.set()

    async def _gather(self, deliveries: list[Delivery]) -> None:
        """Add to ``deliveries`` all that waits, and what comes until the next commit is due or makes it worth while."""
        count = len(deliveries[0].block)
        with trio.move_on_at(self._next_commit_at):
            while len(deliveries) < _DRAIN_AT_ONCE and count < self._max_readings:
                try:
                    deliveries.append(self._incoming.receive_nowait())
                except trio.EndOfChannel:
                    return
                except trio.WouldBlock:
                    if not await self._more(deliveries):
                        return
                count += len(deliveries[-1].block)

    async def _more(self, deliveries: list[Delivery]) -> bool:
        """Wait for one more; False where there will be none, or none in time."""
        if trio.current_time() >= self._next_commit_at:
            return False
        try:
            deliveries.append(await self._incoming.receive())
        except trio.EndOfChannel:
            return False
        return True

    async def _hold(self) -> None:
        """The journal is full: what waits here is not accepted, so devices keep it until the writer has made room."""
        self._metrics.buffer_full.inc()
        log.warning("journal full, intake held", waiting=len(self._journal), size_bytes=self._journal.size_bytes)
        await self._journal.wait_room()
        log.info("journal has room again, intake resumed", waiting=len(self._journal))

    def _wake(self) -> None:
        self._arrived.set()
        self._filled.set()

    async def _flush(self) -> None:
        while True:
            await self._wait_due()
            batch = await self._journal.take(self._max_readings)
            if batch is not None:
                await self._outgoing.send(batch)
            elif self._closed:
                return

    async def _wait_due(self) -> None:
        """Return when a batch should be cut: enough readings, an old one, or the end."""
        while not self._closed:
            oldest_at = self._journal.oldest_at
            if oldest_at is None:
                self._arrived = trio.Event()
                await self._arrived.wait()
                continue
            if self._journal.waiting >= self._max_readings:
                return
            self._filled = trio.Event()
            with trio.move_on_at(oldest_at + self._max_age_s):
                await self._filled.wait()
                continue
            return
