"""The last stage of a tenant: one batch at a time into the tenant's database, again and again until it is there.

Owns the tenant's writing connection and its retries. Knows no device; the tenant starts it. How a batch is written is
the storage package's; a batch that may have been committed before the link broke is recognised there by its number,
and what a former process left in the journal by the cursor that it moved.

    open ──► resolve the journal, once ──► Batch ──► write ──► committed ──► losses, if there are any
      ▲                                                │ DatabaseUnavailable: new connection, back off, same batch again
      └────────────────────────────────────────────────┘ DatabaseMisconfigured, BatchRejected: the same, and shown

Rows that the database does not take end in its quarantine, or in its ledger of losses, and hold nothing up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import UUID

import structlog
import trio

from scada_trio.backoff import full_jitter
from scada_trio.errors import BatchRejected, DatabaseError, DatabaseMisconfigured
from scada_trio.losses import Loss, LossReason
from scada_trio.metrics import TenantMetrics
from scada_trio.readings import Batch, WriteResult

log = structlog.get_logger()

_FIRST_DELAY_S = 0.25
_MAX_DELAY_S = 15.0
_LOSSES_EVERY_S = 5.0  # where no batch comes
_LOSSES_AT_ONCE = 1000
_REFUSALS_EVERY_S = 60.0  # the same reason for a quarantine is an error once a minute


class BatchSink(Protocol):
    """An open database that takes batches; `scada_trio.storage` has the real one."""

    async def committed_sequence(self, journal_id: UUID) -> int:
        """The sequence of the last batch of that journal that is committed; 0 where there is none."""
        ...

    async def write(self, batch: Batch, journal_id: UUID) -> WriteResult:
        """Write and commit, exactly once for each ``(journal_id, batch.sequence)``; raises `DatabaseError`."""
        ...

    async def write_losses(self, losses: Sequence[tuple[int, Loss]], journal_id: UUID) -> None:
        """Store losses, exactly once for each number of that journal; raises `DatabaseError`."""
        ...


class BatchQueue(Protocol):
    """Where the batches come from and what is told of them; a tenant's journal."""

    @property
    def journal_id(self) -> UUID:
        """Under which the database remembers what is committed."""
        ...

    def __len__(self) -> int:
        """Readings accepted and not yet committed."""
        ...

    async def resolve(self, committed_sequence: int) -> None:
        """What a former process left, up to that sequence, is in the database."""

    async def committed(self, batch: Batch, result: WriteResult | None = None) -> None:
        """``batch`` is in the database."""

    def unreported_losses(self) -> list[tuple[int, Loss]]:
        """Losses by number, rising, that the database does not have."""
        ...

    async def losses_reported(self, last_id: int) -> None:
        """The database has the losses up to that number."""


class Writer:
    """``state`` is ``connecting``, ``ready`` or why nothing is written; ``last_error`` the failure it is in."""

    def __init__(
        self,
        journal: BatchQueue,
        incoming: trio.MemoryReceiveChannel[Batch],
        open_sink: Callable[[], AbstractAsyncContextManager[BatchSink]],
        *,
        metrics: TenantMetrics,
    ) -> None:
        self._queue = journal
        self._incoming = incoming
        self._open_sink = open_sink
        self._metrics = metrics
        self._batch: Batch | None = None
        self._resolved = False
        self._quarantine_full = False
        self._refusal: tuple[str | None, float] = (None, 0.0)
        self._delays = self._fresh_delays()
        self.state = "connecting"
        self.last_error: str | None = None

    async def run(self) -> None:
        """Returns when the channel is closed and everything that came through it is committed; closes its end.

        Cancelled, the batch in hand is rolled back in the database and stays in the journal.
        """
        with self._incoming:
            while True:
                try:
                    async with self._open_sink() as sink:
                        await self._resolve(sink)
                        if self._batch is None:
                            self._succeeded()
                        await self._write_all(sink)
                        return
                except DatabaseError as error:
                    self._failed(error)
                await trio.sleep(next(self._delays))

    async def _resolve(self, sink: BatchSink) -> None:
        """Before the first batch: what a former process committed and did not live to delete is not written again."""
        if not self._resolved:
            await self._queue.resolve(await sink.committed_sequence(self._queue.journal_id))
            self._resolved = True

    async def _write_all(self, sink: BatchSink) -> None:
        while True:
            if self._batch is None:
                await self._report_losses(sink)
                try:
                    with trio.move_on_after(_LOSSES_EVERY_S):
                        self._batch = await self._incoming.receive()
                except trio.EndOfChannel:
                    await self._report_losses(sink)
                    return
            if self._batch is not None:
                await self._write(sink, self._batch)

    async def _write(self, sink: BatchSink, batch: Batch) -> None:
        started = time.perf_counter()
        result = await sink.write(batch, self._queue.journal_id)
        elapsed = time.perf_counter() - started
        await self._queue.committed(batch, result)
        self._batch = None
        self._metrics.write_duration.observe(elapsed)
        self._metrics.batch_size.observe(len(batch))
        self._metrics.batch_latency.observe(max(0.0, time.time() - int(batch.readings.time_us.min()) / 1e6))
        self._metrics.committed(batch.readings.tag, result.refused_tag)
        self._succeeded()
        if result.quarantined:
            self._say_refused(result)
        if result.lost:
            self._lost_refused(result)
        elif result.quarantined:
            self._quarantine_full = False
        log.debug("batch committed", readings=len(batch), duplicates=result.duplicates, seconds=round(elapsed, 4))

    async def _report_losses(self, sink: BatchSink) -> None:
        """Put what was lost into the database; told of it at the end, the journal forgets."""
        losses = self._queue.unreported_losses()
        for first in range(0, len(losses), _LOSSES_AT_ONCE):
            part = losses[first : first + _LOSSES_AT_ONCE]
            await sink.write_losses(part, self._queue.journal_id)
            await self._queue.losses_reported(part[-1][0])
            self._succeeded()

    def _say_refused(self, result: WriteResult) -> None:
        reason, said_at = self._refusal
        now = trio.current_time()
        if result.reason != reason or now - said_at >= _REFUSALS_EVERY_S:
            self._refusal = (result.reason, now)
            log.error(
                "readings refused by the database, quarantined", readings=result.quarantined, reason=result.reason
            )
        else:
            log.debug("readings quarantined", readings=result.quarantined, reason=result.reason)

    def _lost_refused(self, result: WriteResult) -> None:
        """Count what the quarantine has no room for; the database has it as a loss. Said once until there is room."""
        self._metrics.lost(LossReason.QUARANTINE_FULL, result.lost)
        if not self._quarantine_full:
            self._quarantine_full = True
            log.error(
                "quarantine is full, refused readings are lost: see scada-trio quarantine",
                readings_lost=result.lost,
                reason=result.reason,
            )

    def _succeeded(self) -> None:
        if self.last_error is not None:
            log.info("tenant database is back", readings_waiting=len(self._queue))
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
                readings_waiting=len(self._queue),
            )
        self.last_error = message

    @staticmethod
    def _fresh_delays() -> Iterator[float]:
        return full_jitter(_FIRST_DELAY_S, cap_s=_MAX_DELAY_S)


_STATES: dict[type[DatabaseError], str] = {
    DatabaseMisconfigured: "database misconfigured",
    BatchRejected: "batch rejected",
}
