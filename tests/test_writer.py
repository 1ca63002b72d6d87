"""Retries of the writer, with a sink that fails on demand; the real database stands in test_tenant.py."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest
import trio
import trio.testing

from scada_trio.buffer import ReadingBuffer
from scada_trio.errors import BatchRejected, DatabaseError, DatabaseMisconfigured, DatabaseUnavailable
from scada_trio.metrics import Metrics
from scada_trio.readings import Batch, TagTable, WriteResult
from scada_trio.writer import Writer
from tests.test_buffer import block


class FailingSink:
    """Takes batches, but first raises each of ``failures``; remembers what was committed."""

    def __init__(self, failures: list[DatabaseError]) -> None:
        self.failures = failures
        self.opened = 0
        self.open_now = 0
        self.committed: list[int] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator["FailingSink"]:
        self.opened += 1
        self.open_now += 1
        try:
            yield self
        finally:
            self.open_now -= 1

    async def write(self, batch: Batch, buffer_id: UUID) -> WriteResult:
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        self.committed.append(batch.sequence)
        return WriteResult(len(batch))


async def run_three_batches(sink: FailingSink) -> tuple[Writer, ReadingBuffer]:
    buffer = ReadingBuffer(1000)
    batches_in, batches = trio.open_memory_channel[Batch](3)
    writer = Writer(buffer, batches, sink.open, metrics=Metrics().tenant(uuid4(), TagTable()))
    for number in range(3):
        buffer.append([block(4, number)])
        batch = buffer.take(4)
        assert batch is not None
        batches_in.send_nowait(batch)
    batches_in.close()
    with trio.fail_after(3600):
        await writer.run()
    return writer, buffer


async def test_every_batch_is_committed_once_in_order(autojump_clock: trio.testing.MockClock) -> None:
    """Without trouble one connection serves all batches."""
    sink = FailingSink([])
    writer, buffer = await run_three_batches(sink)
    assert sink.committed == [1, 2, 3]
    assert (sink.opened, sink.open_now) == (1, 0)
    assert len(buffer) == 0
    assert writer.last_error is None


@pytest.mark.parametrize("kind", [DatabaseUnavailable, DatabaseMisconfigured, BatchRejected])
async def test_a_failed_batch_is_tried_again_on_a_new_connection(
    kind: type[DatabaseError], autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever the database says, the batch stays, and the next success clears the error."""
    sink = FailingSink([kind("no", "57P01") for _ in range(6)])
    writer, buffer = await run_three_batches(sink)
    assert sink.committed == [1, 2, 3]
    assert sink.opened == 7
    assert len(buffer) == 0
    assert writer.state == "ready"
    assert writer.last_error is None


async def test_a_cancelled_writer_keeps_its_batch_in_the_buffer(autojump_clock: trio.testing.MockClock) -> None:
    """What was not committed is still counted as buffered and offered again by rewind."""
    buffer = ReadingBuffer(1000)
    batches_in, batches = trio.open_memory_channel[Batch](1)
    sink = FailingSink([DatabaseUnavailable("away")] * 10_000)
    writer = Writer(buffer, batches, sink.open, metrics=Metrics().tenant(uuid4(), TagTable()))
    buffer.append([block(4)])
    batch = buffer.take(4)
    assert batch is not None
    batches_in.send_nowait(batch)
    with trio.move_on_after(60):
        await writer.run()
    assert writer.last_error == "away"
    assert len(buffer) == 4
    buffer.rewind()
    assert buffer.take(4) is batch
    assert sink.open_now == 0
