"""The buffer between acceptance and commit."""

import numpy as np
import pytest
import trio

from scada_trio.buffer import ReadingBuffer
from scada_trio.readings import ReadingBlock


def block(count: int, first: int = 0) -> ReadingBlock:
    values = np.arange(first, first + count)
    return ReadingBlock(
        np.zeros(count, np.int32), values.astype(np.int64), values.astype(np.float64), np.zeros(count, np.uint8)
    )


async def test_batches_hold_every_reading_once_and_in_order() -> None:
    """What goes in comes out in the same order, cut at the asked size."""
    buffer = ReadingBuffer(1_000_000)
    buffer.append([block(7, 0), block(0), block(7, 7), block(7, 14)])
    times: list[int] = []
    sizes: list[int] = []
    while (batch := buffer.take(15)) is not None:
        times += batch.readings.time_us.tolist()
        sizes.append(len(batch))
        buffer.committed(batch)
    assert times == list(range(21))
    assert sizes == [14, 7]
    assert len(buffer) == 0
    assert buffer.committed_total == buffer.received_total == 21


async def test_one_block_larger_than_a_batch_is_a_batch() -> None:
    """A block is never split: it has come in one notification."""
    buffer = ReadingBuffer(1_000_000)
    buffer.append([block(100)])
    batch = buffer.take(10)
    assert batch is not None
    assert len(batch) == 100


async def test_rewind_offers_uncommitted_batches_again_under_their_numbers() -> None:
    """A restart of the tasks repeats what was in flight, exactly, before anything newer."""
    buffer = ReadingBuffer(1_000_000)
    buffer.append([block(5, 0), block(5, 5), block(5, 10)])
    first, second = buffer.take(5), buffer.take(5)
    assert first is not None
    assert second is not None
    buffer.committed(first)
    buffer.rewind()
    assert buffer.oldest_at == float("-inf")
    assert buffer.waiting == 10
    again = buffer.take(5)
    assert again is second
    third = buffer.take(5)
    assert third is not None
    assert third.sequence == second.sequence + 1
    assert len(buffer) == 10


async def test_only_the_oldest_batch_in_flight_can_be_committed() -> None:
    """Commits happen in order; anything else is a bug that must not pass."""
    buffer = ReadingBuffer(1_000_000)
    buffer.append([block(5), block(5)])
    buffer.take(5)
    second = buffer.take(5)
    assert second is not None
    with pytest.raises(AssertionError):
        buffer.committed(second)


async def test_wait_room_returns_when_a_commit_makes_room(autojump_clock: trio.testing.MockClock) -> None:
    """The intake goes on as soon as the bound is not reached any more."""
    buffer = ReadingBuffer(10)
    buffer.append([block(10)])
    assert buffer.full
    batch = buffer.take(10)
    assert batch is not None
    with trio.move_on_after(1) as early:
        await buffer.wait_room()
    assert early.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(buffer.wait_room)
        await trio.testing.wait_all_tasks_blocked()
        buffer.committed(batch)
    assert not buffer.full
