"""The writer on a real journal, with a sink that fails on demand; test_storage_outages.py breaks a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from scada_trio.errors import BatchRejected, DatabaseError, DatabaseMisconfigured, DatabaseUnavailable
from scada_trio.journal.queue import Journal
from scada_trio.losses import Loss, LossReason
from scada_trio.metrics import Metrics
from scada_trio.readings import Batch, TagTable, WriteResult
from scada_trio.writer import Writer
from tests.fix_journal import Place, block

LOSS = Loss(LossReason.SEQUENCE_GAP, None, 1, 2, 3)


class FailingSink:
    """Takes batches, but first raises each of ``failures``; remembers what it was given."""

    def __init__(self, failures: Sequence[DatabaseError] = ()) -> None:
        self.failures = list(failures)
        self.opened = 0
        self.open_now = 0
        self.asked = 0
        self.cursor = 0
        self.committed: list[Batch] = []
        self.losses: list[tuple[int, Loss]] = []
        self.refused: list[int] = []  # series that are quarantined

    @asynccontextmanager
    async def open(self) -> AsyncIterator[FailingSink]:
        self.opened += 1
        self.open_now += 1
        try:
            yield self
        finally:
            self.open_now -= 1

    async def committed_sequence(self, journal_id: UUID) -> int:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return self.cursor

    async def write(self, batch: Batch, journal_id: UUID) -> WriteResult:
        await self._fail()
        self.committed.append(batch)
        refused = batch.readings.tag[np.isin(batch.readings.tag, self.refused)]
        reason = "too large" if len(refused) else None
        return WriteResult(len(batch) - len(refused), quarantined=len(refused), refused_tag=refused, reason=reason)

    async def begin(self, batch: Batch, journal_id: UUID) -> bool:
        raise AssertionError("one connection has nothing to send ahead of")

    async def finish(self, batch: Batch, journal_id: UUID) -> WriteResult:
        raise AssertionError("nothing was begun")

    async def undo(self) -> None:
        raise AssertionError("nothing was begun")

    async def write_losses(self, losses: Sequence[tuple[int, Loss]], journal_id: UUID) -> None:
        await self._fail()
        self.losses += losses

    async def _fail(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)


def _writer(journal: Journal, sink: FailingSink, batches: trio.MemoryReceiveChannel[Batch]) -> Writer:
    return Writer(journal, batches, sink.open, metrics=Metrics().tenant(uuid4(), TagTable()))


async def _run_batches(journal: Journal, sink: FailingSink, count: int) -> Writer:
    """Append, take and write ``count`` batches of four readings."""
    batches_in, batches = trio.open_memory_channel[Batch](count)
    writer = _writer(journal, sink, batches)
    for number in range(count):
        await journal.append([block(4, number)])
        batch = await journal.take(4)
        assert batch is not None
        batches_in.send_nowait(batch)
    batches_in.close()
    with trio.fail_after(3600):
        await writer.run()
    return writer


async def test_every_batch_is_committed_once_in_order(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Without trouble one connection serves all batches, and the cursor is asked for once."""
    sink = FailingSink()
    async with Place(tmp_path).open(inline=True) as journal:
        writer = await _run_batches(journal, sink, 3)
        assert [batch.readings.value[0] for batch in sink.committed] == [0, 1, 2]
        assert (sink.opened, sink.open_now, sink.asked) == (1, 0, 1)
        assert len(journal) == 0
    assert writer.last_error is None


@pytest.mark.parametrize("kind", [DatabaseUnavailable, DatabaseMisconfigured, BatchRejected])
async def test_a_failed_batch_is_tried_again_on_a_new_connection(
    kind: type[DatabaseError], tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever the database says, the batch stays, and the next success clears the error."""
    sink = FailingSink([kind("no", "57P01") for _ in range(6)])
    async with Place(tmp_path).open(inline=True) as journal:
        writer = await _run_batches(journal, sink, 3)
        assert len(sink.committed) == 3
        assert sink.opened == 7
        assert sink.asked == 1
        assert len(journal) == 0
    assert writer.state == "ready"
    assert writer.last_error is None


async def test_a_cancelled_writer_keeps_its_batch_in_the_journal(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """What was not committed is still counted, and offered again when the journal is opened again."""
    sink = FailingSink([DatabaseUnavailable("away")] * 10_000)
    place = Place(tmp_path)
    async with place.open(inline=True) as journal:
        batches_in, batches = trio.open_memory_channel[Batch](1)
        writer = _writer(journal, sink, batches)
        await journal.append([block(4)])
        batch = await journal.take(4)
        assert batch is not None
        batches_in.send_nowait(batch)
        with trio.move_on_after(60):
            await writer.run()
        assert writer.last_error == "away"
        assert writer.state == "database away"
        assert len(journal) == 4
        batches_in.close()
    async with place.restarted().open(inline=True) as journal:
        await journal.resolve(0)
        again = await journal.take(4)
        assert again is not None
        assert (again.sequence, again.readings.value.tolist()) == (batch.sequence, [0, 1, 2, 3])
    assert sink.open_now == 0


async def test_what_the_last_run_committed_is_not_written_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The process died between the commit and the journal's delete: the cursor says how far it had come."""
    place = Place(tmp_path)
    async with place.open(inline=True) as journal:
        for number in range(3):
            await journal.append([block(4, number)])
        first = await journal.take(4)
        assert first is not None
    sink = FailingSink()
    sink.cursor = first.sequence
    async with place.restarted().open(inline=True) as journal, trio.open_nursery() as nursery:
        batches_in, batches = trio.open_memory_channel[Batch](3)
        nursery.start_soon(_writer(journal, sink, batches).run)
        for _ in range(2):
            batch = await journal.take(4)  # waits until the writer has read the cursor
            assert batch is not None
            await batches_in.send(batch)
        batches_in.close()
    assert [batch.readings.value[0] for batch in sink.committed] == [1, 2]


async def test_losses_are_reported_beside_the_batches(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Before the next batch, every few seconds where none comes, and at the end; then the journal forgets them."""
    sink = FailingSink()
    async with Place(tmp_path).open(inline=True) as journal, trio.open_nursery() as nursery:
        journal.record_loss(LOSS)
        batches_in, batches = trio.open_memory_channel[Batch](1)
        nursery.start_soon(_writer(journal, sink, batches).run)
        await trio.testing.wait_all_tasks_blocked()
        assert [loss for _, loss in sink.losses] == [LOSS]
        journal.record_loss(LOSS)
        await trio.sleep(10)
        assert len(sink.losses) == 2
        assert journal.unreported_losses() == []
        journal.record_loss(LOSS)
        batches_in.close()
    assert [number for number, _ in sink.losses] == sorted({number for number, _ in sink.losses})
    assert len(sink.losses) == 3


async def test_losses_that_could_not_be_reported(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """They stay with the journal, the failure shows, and they are told when the database is back."""
    sink = FailingSink([DatabaseUnavailable("away")] * 3)
    async with Place(tmp_path).open(inline=True) as journal:
        journal.record_loss(LOSS)
        writer = await _run_batches(journal, sink, 1)
        assert len(sink.losses) == 1
        assert journal.unreported_losses() == []
    assert writer.state == "ready"


async def test_quarantined_readings_are_not_counted_as_ingested(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """They are an error in the log, once for the same reason; the other series count in full."""
    sink = FailingSink()
    sink.refused = [1]
    metrics = Metrics()
    tenant_id, tags = uuid4(), TagTable()
    place = Place(tmp_path)
    async with place.open(inline=True, tags=tags) as journal:
        tags.index_of(uuid4(), "ns=1;s=B")
        batches_in, batches = trio.open_memory_channel[Batch](2)
        for number in range(2):
            await journal.append([block(4, number), block(3, number, tag=1)])
            batch = await journal.take(7)
            assert batch is not None
            batches_in.send_nowait(batch)
        batches_in.close()
        with capture_logs() as lines:
            await Writer(journal, batches, sink.open, metrics=metrics.tenant(tenant_id, tags)).run()
        assert place.ledger.accounts.quarantined == 6
        assert place.ledger.accounts.unexplained == 0
    errors = [line for line in lines if line["log_level"] == "error"]
    assert [(line["readings"], line["reason"]) for line in errors] == [(3, "too large")]
    text = metrics.render().decode()
    assert 'tag_node_id="ns=1;s=A"' in text
    assert 'tag_node_id="ns=1;s=B"' not in text
