"""Batches by count and age, acceptance, and what happens when the buffer is full or the input ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import numpy as np
import trio
import trio.testing
from prometheus_client import generate_latest

from scada_trio.aggregator import Aggregator
from scada_trio.buffer import ReadingBuffer
from scada_trio.metrics import Metrics
from scada_trio.readings import Batch, Delivery, TagTable
from tests.test_buffer import block


@dataclass
class Stage:
    """An aggregator with its channels, and the numbers of the deliveries that it accepted."""

    buffer: ReadingBuffer
    deliveries: trio.MemorySendChannel[Delivery]
    batches: trio.MemoryReceiveChannel[Batch]
    metrics: Metrics
    accepted: list[int] = field(default_factory=list)

    async def deliver(self, number: int, count: int) -> None:
        await self.deliveries.send(Delivery(block(count, number), lambda: self.accepted.append(number)))


@asynccontextmanager
async def open_stage(*, limit: int = 1000, max_readings: int = 10, max_age_s: float = 5.0) -> AsyncIterator[Stage]:
    metrics = Metrics()
    deliveries_in, deliveries = trio.open_memory_channel[Delivery](100)
    batches_in, batches = trio.open_memory_channel[Batch](1)
    buffer = ReadingBuffer(limit)
    aggregator = Aggregator(
        buffer,
        deliveries,
        batches_in,
        max_readings=max_readings,
        max_age_s=max_age_s,
        metrics=metrics.tenant(uuid4(), TagTable()),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aggregator.run)
        yield Stage(buffer, deliveries_in, batches, metrics)
        nursery.cancel_scope.cancel()


async def test_a_full_batch_goes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """The count decides before the age does."""
    async with open_stage(max_readings=10) as stage:
        started = trio.current_time()
        await stage.deliver(0, 10)
        batch = await stage.batches.receive()
        assert len(batch) == 10
        assert trio.current_time() == started


async def test_a_small_batch_goes_when_its_oldest_reading_is_old(autojump_clock: trio.testing.MockClock) -> None:
    """The age counts from the oldest reading, not from the newest."""
    async with open_stage(max_readings=100, max_age_s=5) as stage:
        started = trio.current_time()
        await stage.deliver(0, 1)
        await trio.sleep(4)
        await stage.deliver(1, 1)
        batch = await stage.batches.receive()
        assert len(batch) == 2
        assert trio.current_time() - started == 5


async def test_deliveries_are_accepted_in_order(autojump_clock: trio.testing.MockClock) -> None:
    """Each acceptance is told once, in the order of arrival, whether or not a batch is due."""
    async with open_stage(max_readings=1000) as stage:
        for number in range(20):
            await stage.deliver(number, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert stage.accepted == list(range(20))
        assert stage.buffer.received_total == 20


async def test_a_full_buffer_holds_acceptance_until_there_is_room(autojump_clock: trio.testing.MockClock) -> None:
    """Beyond the bound nothing is accepted and nothing dropped; it is counted, and goes on with the next commit."""
    async with open_stage(limit=20, max_readings=10) as stage:
        for number in range(5):
            await stage.deliver(number, 10)
            await trio.testing.wait_all_tasks_blocked()
        assert stage.accepted == [0, 1]
        assert b"scada_buffer_full_total" in generate_latest(stage.metrics.registry)
        total = 0
        for _ in range(5):
            batch = await stage.batches.receive()
            stage.buffer.committed(batch)
            total += len(batch)
            await trio.testing.wait_all_tasks_blocked()
        assert total == 50
        assert stage.accepted == [0, 1, 2, 3, 4]


async def test_closing_the_input_flushes_everything(autojump_clock: trio.testing.MockClock) -> None:
    """When the last sender closes, what waits goes out at once and the output closes."""
    async with open_stage(max_readings=1000, max_age_s=3600) as stage:
        started = trio.current_time()
        for number in range(7):
            await stage.deliver(number, 3)
        stage.deliveries.close()
        batches = [batch async for batch in stage.batches]
        assert sum(len(batch) for batch in batches) == 21
        assert trio.current_time() == started


async def test_a_writer_that_is_busy_makes_larger_batches(autojump_clock: trio.testing.MockClock) -> None:
    """While no batch is taken, small ones are merged up to the size of a batch."""
    async with open_stage(max_readings=10, max_age_s=1) as stage:
        for number in range(30):
            await stage.deliver(number, 1)
            await trio.sleep(0.5)
        sizes = []
        with trio.move_on_after(10):
            while True:
                sizes.append(len(await stage.batches.receive()))
        assert sum(sizes) == 30
        assert max(sizes) == 10
        assert np.mean(sizes) > 4
