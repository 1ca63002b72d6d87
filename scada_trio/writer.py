"""The last stage of a tenant: batch after batch into the tenant's database, again and again until it is there.

Owns the tenant's writing connections and their retries. Knows no device; the tenant starts it. How a batch is written
is the storage package's; a batch that may have been committed before the link broke is recognised there by its number,
and what a former process left in the journal by the cursor that it moved.

    open ──► resolve the journal, once ──► Batch ──► write ──► committed ──► losses, if there are any
      ▲                                                │ DatabaseUnavailable: new connection, back off, same batch again
      └────────────────────────────────────────────────┘ DatabaseMisconfigured, BatchRejected: the same, and shown

Of several connections each takes the next batch in turn. It sends its rows while the batches before are on their way,
and commits after them: the order of commits is that of the batches, so that one cursor tells of all of them.

Rows that the database does not take end in its quarantine, or in its ledger of losses, and hold nothing up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
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
_PATIENCE_S = 1.0  # of rows sent ahead: what they hold up in the database may be the very batch that they wait for
_REFUSALS_EVERY_S = 60.0  # the same reason for a quarantine is an error once a minute


class BatchSink(Protocol):
    """An open database that takes batches; `scada_trio.storage` has the real one."""

    async def committed_sequence(self, journal_id: UUID) -> int:
        """The sequence of the last batch of that journal that is committed; 0 where there is none."""
        ...

    async def write(self, batch: Batch, journal_id: UUID) -> WriteResult:
        """Write and commit, exactly once for each ``(journal_id, batch.sequence)``; raises `DatabaseError`."""
        ...

    async def begin(self, batch: Batch, journal_id: UUID) -> bool:
        """Send what `finish` commits or `undo` takes back; False where only `write` will do; raises `DatabaseError`."""
        ...

    async def finish(self, batch: Batch, journal_id: UUID) -> WriteResult:
        """Commit what was begun; as `write`."""
        ...

    async def undo(self) -> None:
        """Take back what was begun; raises `DatabaseError`."""

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


@dataclass(slots=True)
class _Turn:
    """A batch in one connection's hands, which may be committed once ``before`` is set; sets ``done`` then."""

    batch: Batch
    before: trio.Event
    done: trio.Event
    ahead: bool  # whether its rows may be sent before


class Writer:
    """``state`` is ``connecting``, ``ready`` or why nothing is written; ``last_error`` the failure it is in."""

    def __init__(
        self,
        journal: BatchQueue,
        incoming: trio.MemoryReceiveChannel[Batch],
        open_sink: Callable[[], AbstractAsyncContextManager[BatchSink]],
        *,
        metrics: TenantMetrics,
        connections: int = 1,
    ) -> None:
        self._queue = journal
        self._incoming = incoming
        self._open_sink = open_sink
        self._metrics = metrics
        self._connections = connections
        self._pending: deque[Batch] = deque()  # received and not committed, in order
        self._in_hand = 0  # of these, the first so many
        self._again = 0  # of the others, the first so many failed before
        self._receiving = trio.Lock()
        self._last_done = trio.Event()
        self._resolved = False
        self._quarantine_full = False
        self._refusal: tuple[str | None, float] = (None, 0.0)
        self._delays = self._fresh_delays()
        self.state = "connecting"
        self.last_error: str | None = None

    async def run(self) -> None:
        """Returns when the channel is closed and everything that came through it is committed; closes its end.

        Cancelled, the batches in hand are rolled back in the database and stay in the journal.
        """
        with self._incoming:
            while True:
                try:
                    async with AsyncExitStack() as stack:
                        sinks = [await stack.enter_async_context(self._open_sink()) for _ in range(self._connections)]
                        await self._resolve(sinks[0])
                        if not self._pending:
                            self._succeeded()
                        await self._write_all(sinks)
                        return
                except DatabaseError as error:
                    self._failed(error)
                await trio.sleep(next(self._delays))

    async def _resolve(self, sink: BatchSink) -> None:
        """Before the first batch: what a former process committed and did not live to delete is not written again."""
        if not self._resolved:
            await self._queue.resolve(await sink.committed_sequence(self._queue.journal_id))
            self._resolved = True

    async def _write_all(self, sinks: Sequence[BatchSink]) -> None:
        """Everything that comes, over all of ``sinks``; the first failure of one ends all."""
        self._in_hand, self._again = 0, len(self._pending)
        self._last_done = trio.Event()
        self._last_done.set()
        failures: list[DatabaseError] = []

        async def write_turns(sink: BatchSink) -> None:
            try:
                while (turn := await self._next_turn(sink)) is not None:
                    await self._write(sink, turn)
            except DatabaseError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for sink in sinks:
                nursery.start_soon(write_turns, sink)
        if failures:
            raise failures[0]

    async def _next_turn(self, sink: BatchSink) -> _Turn | None:
        """The next batch; None at the end of the channel. Losses are reported meanwhile."""
        async with self._receiving:
            while self._in_hand == len(self._pending):
                await self._report_losses(sink)
                try:
                    with trio.move_on_after(_LOSSES_EVERY_S):
                        self._pending.append(await self._incoming.receive())
                except trio.EndOfChannel:
                    await self._report_losses(sink)
                    return None
            before, self._last_done = self._last_done, trio.Event()
            turn = _Turn(self._pending[self._in_hand], before, self._last_done, ahead=self._again == 0)
            self._in_hand += 1
            self._again = max(0, self._again - 1)
            return turn

    async def _write(self, sink: BatchSink, turn: _Turn) -> None:
        batch = turn.batch
        started = time.perf_counter()
        if await self._begun(sink, turn):
            result = await sink.finish(batch, self._queue.journal_id)
        else:
            result = await sink.write(batch, self._queue.journal_id)
        elapsed = time.perf_counter() - started
        self._pending.popleft()
        self._in_hand -= 1
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
        await self._queue.committed(batch, result)
        turn.done.set()

    async def _begun(self, sink: BatchSink, turn: _Turn) -> bool:
        """Wait for the batches before; whether this one's rows were sent meanwhile."""
        if turn.before.is_set():
            return False
        begun = turn.ahead and await sink.begin(turn.batch, self._queue.journal_id)
        if begun:
            with trio.move_on_after(_PATIENCE_S):
                await turn.before.wait()
                return True
            await sink.undo()
        await turn.before.wait()
        return False

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
