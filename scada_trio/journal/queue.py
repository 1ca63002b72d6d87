"""What is accepted and not yet committed: one tenant's durable queue, between its aggregator and its writer.

Owns the order of the tenant's readings, their number, and what a later process needs. The tenant opens it with
`open_journal`, starts `Journal.run` beside its stages and closes it after them. Knows no device and no database.

    append ──► file and memory ──► take ──► batches in flight ──► committed ──► deleted with the next transaction

Every block is in the file before `append` returns. The newest ``memory_readings`` are in memory as well, so in steady
state nothing is read back; behind a database that is away only the file grows, and is read in order, in chunks.

SQLite is called in one worker thread at a time (`JournalFile`), never in the event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import structlog
import trio

from scada_trio.accounts import Ledger
from scada_trio.config import JournalSettings
from scada_trio.journal.file import EPOCH_BITS, JournalFile, lock_file
from scada_trio.journal.rows import BYTES_A_READING, Record
from scada_trio.journal.salvage import Known, Opened, open_file
from scada_trio.journal.store import JournalStore, OwnThread, RunSync
from scada_trio.losses import Loss, LossReason, RecordLoss, RememberedSubscription
from scada_trio.memory import Mark
from scada_trio.readings import Batch, ReadingBlock, TagTable, WriteResult

log = structlog.get_logger()


@asynccontextmanager
async def open_journal(
    tenant_id: UUID,
    tags: TagTable,
    ledger: Ledger,
    settings: JournalSettings,
    *,
    on_loss: RecordLoss,
    run_sync: RunSync | None = None,
) -> AsyncIterator[Journal]:
    """The tenant's journal, made if need be, locked against other processes; closed at the end of the block.

    ``tags`` is filled from the file: a number keeps its meaning for as long as a block that has it waits. ``ledger``
    goes on from where it stands; ``on_loss`` is called for every loss that is recorded. Raises `JournalUnavailable`.
    """
    run = run_sync or OwnThread()
    path = settings.directory / f"{tenant_id}.sqlite"
    lock = lock_file(path.with_suffix(".lock"))
    await run(lock.__enter__)
    try:
        known = Known(tags=[tags.key(number) for number in range(len(tags))])
        opened = await run(open_file, path, settings.sync, known)
        journal = Journal(path, opened, tags, ledger, settings, on_loss=on_loss, run_sync=run)
        try:
            yield journal
        finally:
            with trio.CancelScope(shield=True):  # one transaction in a thread
                await journal.close()
    finally:
        with trio.CancelScope(shield=True):
            await run(lock.__exit__, None, None, None)


class Journal:
    """Blocks in order of arrival, counted in readings. Used from the Trio thread; made by `open_journal`."""

    def __init__(
        self,
        path: Path,
        opened: Opened,
        tags: TagTable,
        ledger: Ledger,
        settings: JournalSettings,
        *,
        on_loss: RecordLoss,
        run_sync: RunSync,
    ) -> None:
        self.tags = tags
        self.ledger = ledger
        self._settings = settings
        contents = opened.contents
        self.journal_id = contents.journal_id
        self._first = self._next = (contents.epoch << EPOCH_BITS) + 1
        self._head: deque[tuple[float, Record]] = deque()  # the oldest waiting blocks, with the time that they came
        self._head_count = 0
        self._head_through = 0  # no block up to here is in the file alone
        self._spilled = contents.readings  # readings after the head, in the file alone
        self._taken_through = 0
        self._in_flight: deque[Batch] = deque()
        self._resolved = trio.Event()
        if not self._spilled:
            self._resolved.set()
        for well_id, node_id in contents.tags:
            tags.index_of(well_id, node_id)
        lost = sum(loss.count or 0 for loss in opened.losses)
        ledger.recovered(self._spilled + lost - ledger.accounts.in_journal, self._spilled + lost)
        ledger.lost(lost, len(self))
        self._store = JournalStore(
            path,
            opened,
            tags,
            ledger,
            settings,
            on_loss=on_loss,
            run_sync=run_sync,
            known=self._known,
            empty=lambda: len(self) == 0,
            exchanged=self._exchanged,
        )

    async def run(self) -> None:
        """Keep the file small and what is to be remembered in it; returns only when cancelled."""
        await self._store.run()

    async def close(self) -> None:
        """Write what is still to be written, if it can be, and close the file: its opener's last call."""
        await self._store.close()

    # --- what it holds

    def __len__(self) -> int:
        """Readings accepted and not yet committed."""
        return self.waiting + sum(map(len, self._in_flight))

    @property
    def waiting(self) -> int:
        """Readings that no batch has taken yet."""
        return self._head_count + self._spilled

    @property
    def oldest_at(self) -> float | None:
        """`trio.current_time` at which the oldest waiting block came; -inf: long ago; None: nothing waits."""
        if self._spilled and not self._head:
            return float("-inf")
        return self._head[0][0] if self._head else None

    @property
    def error(self) -> str | None:
        """Why nothing can be written or read now; None where all is well."""
        return self._store.error

    @property
    def size_bytes(self) -> int:
        """Bytes of the file that are in use; what is committed and not yet deleted is among them."""
        return self._store.space.used

    @property
    def full(self) -> bool:
        """Whether the bound is reached; the append that reaches it may pass it by its own blocks."""
        return self._store.space.used >= self._settings.max_bytes

    @property
    def drops_oldest(self) -> bool:
        """Whether `append` makes room itself where there is none."""
        return self._settings.policy == "drop_oldest"

    # --- accepting

    async def append(self, blocks: list[ReadingBlock], marks: Sequence[Mark] = ()) -> None:
        """Accept ``blocks``: when this returns they and the ``marks`` are in the file, in one transaction.

        While the file cannot be written it goes on trying. Cancelled, it has accepted nothing.
        """
        rows = _rows(blocks, self._settings.row_readings)
        count = sum(map(len, rows))
        if count:
            await self._store.insist(partial(self._append, rows, count, marks))

    async def _append(self, rows: list[ReadingBlock], count: int, marks: Sequence[Mark]) -> None:
        async with self._store.busy:
            if self.drops_oldest:
                await self._make_room(count * BYTES_A_READING)
            records = [Record(self._next + place, block) for place, block in enumerate(rows)]
            await self._store.commit(records, marks)
            self._next = max(self._next, records[-1].sequence + 1)
            now = trio.current_time()
            for record in records:
                if self._spilled or self._head_count + record.count > self._settings.memory_readings:
                    self._spilled += record.count
                else:
                    self._head.append((now, record))
                    self._head_count += record.count
                    self._head_through = record.sequence
            self.ledger.received(count, len(self))

    async def wait_room(self) -> None:
        """Return when the bound is not reached any more."""
        while self.full:
            await self._store.shrunk.wait()

    async def _make_room(self, size_bytes: int) -> None:
        """Delete the oldest blocks that no batch has taken until ``size_bytes`` fit."""
        limit = self._settings.max_bytes
        if self._store.space.used + size_bytes <= limit:
            return
        if self._store.has_work:
            await self._store.commit([])
        missing = self._store.space.used + size_bytes - limit
        if missing <= 0:
            return
        dropped = await self._store.call(lambda file: file.drop_oldest(self._taken_through, max(missing, limit // 64)))
        if not dropped.count:
            return
        in_head = 0
        while self._head and self._head[0][1].sequence <= dropped.through:
            in_head += self._head.popleft()[1].count
        self._head_count -= in_head
        self._spilled -= dropped.count - in_head
        self._head_through = max(self._head_through, dropped.through)
        self._store.saw(await self._store.call(JournalFile.space))
        self.ledger.lost(dropped.count, len(self))
        self.record_loss(Loss(LossReason.JOURNAL_FULL, None, dropped.from_us, dropped.to_us, dropped.count))
        log.error("journal full, oldest readings dropped", readings_lost=dropped.count, limit_bytes=limit)

    # --- handing over

    async def resolve(self, committed_sequence: int) -> None:
        """Delete what the database's cursor says is committed; before that nothing is taken that a former run left.

        Those readings are counted as duplicates: stored already, not written again.
        """
        if not self._resolved.is_set():
            await self._store.insist(partial(self._resolve, committed_sequence))
            self._resolved.set()

    async def _resolve(self, committed: int) -> None:
        async with self._store.busy:
            through = min(committed, self._first - 1)
            if committed >= self._first:  # another process has used a copy of this file: its cursor is not ours
                log.error("journal was copied, it gets another id", journal_id=str(self.journal_id))
                self.journal_id = await self._store.call(partial(JournalFile.rename, journal_id=uuid4()))
            self._store.forget(through)
            await self._store.commit([])
            remaining = await self._store.call(partial(JournalFile.readings, after=through))
            already, self._spilled = self._spilled - remaining, remaining
            self._head_through = max(self._head_through, through)
            if already:
                self.ledger.already_stored(already, len(self))

    async def take(self, max_readings: int) -> Batch | None:
        """The next batch in order, at most ``max_readings`` long unless one block alone is longer; None when empty.

        Its sequence is that of the last block in it.
        """
        await self._resolved.wait()
        while self._spilled and not self._head:
            await self._store.insist(self._load)
        if not self._head:
            return None
        records = [self._pop()]
        count = records[0].count
        while self._head and count + self._head[0][1].count <= max_readings:
            records.append(self._pop())
            count += records[-1].count
        batch = Batch(records[-1].sequence, ReadingBlock.concatenate(record.block for record in records))
        self._taken_through = batch.sequence
        self._in_flight.append(batch)
        return batch

    async def committed(self, batch: Batch, result: WriteResult | None = None) -> None:
        """``batch``, the oldest one in flight, is in the database as ``result`` says: forget it."""
        assert self._in_flight
        assert self._in_flight[0] is batch
        self._in_flight.popleft()
        self._store.forget(batch.sequence)
        self.ledger.committed(result or WriteResult(inserted=len(batch)), len(self))
        if self.full:
            await self._store.tidy()  # somebody waits for room

    def _pop(self) -> Record:
        _, record = self._head.popleft()
        self._head_count -= record.count
        return record

    async def _load(self) -> None:
        """Read the next chunk of what is in the file alone."""
        async with self._store.busy:
            chunk = max(1, self._settings.memory_readings // 2)
            records = await self._store.call(lambda file: file.read(self._head_through, chunk))
            if not records and self._spilled:
                await self._store.exchange("blocks are missing")
            for record in records:
                self._head.append((float("-inf"), record))
                self._head_count += record.count
                self._head_through = record.sequence
                self._spilled -= record.count

    # --- losses and subscriptions (`scada_trio.memory.ConnectionMemory`)

    def record_loss(self, loss: Loss) -> None:
        """Keep ``loss`` until the tenant's database has it; on disk with the next transaction."""
        self._store.record_loss(loss)

    def unreported_losses(self) -> list[tuple[int, Loss]]:
        """Losses by number, rising, that `losses_reported` was not told of; no number is ever used twice."""
        return list(self._store.losses)

    async def losses_reported(self, last_id: int) -> None:
        """The tenant's database has all losses up to that number."""
        self._store.losses_reported(last_id)

    def expect(self, connection_ids: Iterable[UUID]) -> None:
        """Called once with the connections that are about to start: a damaged file may not have all it had of them.

        Of those without a subscription it then remembers since when their readings may be missing.
        """
        since_us, self._store.forgotten_us = self._store.forgotten_us, None
        if since_us is not None:
            for connection_id in connection_ids:
                if self.remembered_subscription(connection_id) is None:
                    self.remember_subscription(connection_id, RememberedSubscription.gone(since_us))

    def remembered_subscription(self, connection_id: UUID) -> RememberedSubscription | None:
        """What was remembered last, with the number that was reached since."""
        return self._store.subscriptions.get(connection_id)

    def remember_subscription(self, connection_id: UUID, remembered: RememberedSubscription | None) -> None:
        """Remember it, None to forget; on disk with the next transaction."""
        self._store.remember_subscription(connection_id, remembered)

    def remember_accepted(self, mark: Mark) -> None:
        """Change the remembered subscription's last number; on disk with the next transaction."""
        self._store.remember_accepted(mark)

    # --- a damaged file

    def _known(self) -> Known:
        """What need not be read from the file: it is all here."""
        taken = [Record(batch.sequence, batch.readings) for batch in self._in_flight]
        return Known(
            self.journal_id,
            self._next >> EPOCH_BITS,
            [self.tags.key(number) for number in range(len(self.tags))],
            taken + [record for _, record in self._head],
            self._head_through,
        )

    def _exchanged(self, opened: Opened) -> None:
        """The file is another one, with what could be read of the former: here the difference is known exactly."""
        contents = opened.contents
        self.journal_id = contents.journal_id
        self._first = self._next = (contents.epoch << EPOCH_BITS) + 1
        spilled = contents.readings - (len(self) - self._spilled)
        lost, self._spilled = self._spilled - spilled, spilled
        uncounted = lost - sum(loss.count or 0 for loss in opened.losses)
        opened.losses = [replace(loss, count=uncounted) if loss.count is None else loss for loss in opened.losses]
        if lost >= 0:
            self.ledger.lost(lost, len(self))
        else:
            self.ledger.recovered(-lost, len(self))


def _rows(blocks: list[ReadingBlock], row_readings: int) -> list[ReadingBlock]:
    """The readings of ``blocks`` in rows of about that size; a block is never split."""
    rows: list[ReadingBlock] = []
    together: list[ReadingBlock] = []
    count = 0
    for block in blocks:
        if not len(block):
            continue
        if together and count + len(block) > row_readings:
            rows.append(ReadingBlock.concatenate(together))
            together, count = [], 0
        together.append(block)
        count += len(block)
    if together:
        rows.append(ReadingBlock.concatenate(together))
    return rows
