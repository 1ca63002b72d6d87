"""Batches by count and age, acceptance, and what happens when the journal is full or the input ends."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import trio
import trio.testing
from prometheus_client import generate_latest

from scada_trio.aggregator import Aggregator, CommitPace
from scada_trio.journal.queue import Journal
from scada_trio.live import LiveHub
from scada_trio.losses import RememberedSubscription
from scada_trio.memory import Followed, Mark
from scada_trio.metrics import Metrics
from scada_trio.readings import Batch, Delivery, ReadingBlock, TagTable
from tests.fix_journal import Place, block


@dataclass
class Stage:
    """An aggregator with its channels, and the numbers of the deliveries that it accepted."""

    journal: Journal
    deliveries: trio.MemorySendChannel[Delivery]
    batches: trio.MemoryReceiveChannel[Batch]
    metrics: Metrics
    live: LiveHub
    accepted: list[int] = field(default_factory=list)

    async def deliver(self, number: int, count: int) -> None:
        await self.deliveries.send(Delivery(block(count, number), lambda: self.accepted.append(number)))


@asynccontextmanager
async def open_stage(
    place: Place, *, max_readings: int = 10, max_age_s: float = 5.0, tenants: int = 1, **settings: Any
) -> AsyncIterator[Stage]:
    """Time does not pass while the journal is written: it is called in the loop."""
    metrics = Metrics()
    live = LiveHub(TagTable())
    deliveries_in, deliveries = trio.open_memory_channel[Delivery](100)
    batches_in, batches = trio.open_memory_channel[Batch](1)
    settings = {"row_readings": max_readings, **settings}
    async with place.open(inline=True, **settings) as journal, trio.open_nursery() as nursery:
        aggregator = Aggregator(
            journal,
            deliveries,
            batches_in,
            max_readings=max_readings,
            max_age_s=max_age_s,
            pace=CommitPace(tenants),
            live=live,
            metrics=metrics.tenant(uuid4(), TagTable()),
        )
        nursery.start_soon(aggregator.run)
        yield Stage(journal, deliveries_in, batches, metrics, live)
        nursery.cancel_scope.cancel()


async def test_a_full_batch_goes_at_once(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    """The count decides before the age does."""
    async with open_stage(place, max_readings=10) as stage:
        started = trio.current_time()
        await stage.deliver(0, 10)
        batch = await stage.batches.receive()
        assert len(batch) == 10
        assert trio.current_time() == started


async def test_what_is_accepted_is_live(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    """Before any batch is due, and not before it is accepted."""
    async with open_stage(place, max_readings=100, max_age_s=60) as stage:
        with stage.live.watch() as watcher:
            await stage.deliver(7, 3)
            live = await watcher.take(100)
            assert stage.accepted == [7]
            assert live.readings.value.tolist() == [7, 8, 9]


async def test_a_small_batch_goes_when_its_oldest_reading_is_old(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    """The age counts from the oldest reading, not from the newest."""
    async with open_stage(place, max_readings=100, max_age_s=5) as stage:
        started = trio.current_time()
        await stage.deliver(0, 1)
        await trio.sleep(4)
        await stage.deliver(1, 1)
        batch = await stage.batches.receive()
        assert len(batch) == 2
        assert trio.current_time() - started == 5


async def test_deliveries_are_accepted_in_order(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    """Each acceptance is told once, in the order of arrival, whether or not a batch is due."""
    async with open_stage(place, max_readings=1000) as stage:
        for number in range(20):
            await stage.deliver(number, 1)
        await trio.sleep(1)
        assert stage.accepted == list(range(20))
        assert stage.journal.ledger.accounts.received == 20


async def test_what_a_delivery_marks_is_remembered_before_it_is_accepted(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    """The last of a connection counts, each connection for itself; a delivery without a mark changes nothing."""
    first, second = Followed(uuid4()), Followed(uuid4())
    async with open_stage(place, max_readings=1000) as stage:
        remembered = RememberedSubscription("opc.tcp://a", 7, 1, {})
        for followed in (first, second):
            stage.journal.remember_subscription(followed.connection_id, remembered)
        seen: list[list[int]] = []

        def accepted() -> None:
            found = [stage.journal.remembered_subscription(followed.connection_id) for followed in (first, second)]
            seen.append([subscription.last_sequence for subscription in found if subscription is not None])

        for mark in (Mark(first, 2), Mark(second, 8), Mark(first, 3), None):
            stage.deliveries.send_nowait(Delivery(block(1), accepted, mark))
        await trio.sleep(1)
        assert seen == [[3, 8]] * 4


async def test_a_full_journal_holds_acceptance_until_there_is_room(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    """Beyond the bound nothing is accepted and nothing dropped; it is counted, and goes on with the next commit."""
    async with open_stage(place, max_readings=1000, max_bytes=200_000) as stage:
        for number in range(30):
            await stage.deliver(number, 1000)
            await trio.sleep(1)
        held_at = len(stage.accepted)
        assert 2 < held_at < 20
        assert stage.accepted == list(range(held_at))
        assert b"scada_buffer_full_total" in generate_latest(stage.metrics.registry)
        total = 0
        while total < 30_000:
            batch = await stage.batches.receive()
            await stage.journal.committed(batch)
            total += len(batch)
        assert total == 30_000
        assert stage.accepted == list(range(30))


async def test_all_that_waits_is_one_transaction(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    """The first delivery after a quiet time is accepted at once; what comes then, together when the pace allows."""
    async with open_stage(place, max_readings=1000, tenants=100) as stage:
        commits: list[float] = []
        original = stage.journal.append

        async def append(blocks: list[ReadingBlock], marks: Sequence[Mark] = ()) -> None:
            commits.append(trio.current_time())
            await original(blocks, marks)

        stage.journal.append = append  # type: ignore[method-assign]
        started = trio.current_time()
        for number in range(100):
            await stage.deliver(number, 1)
            await trio.sleep(0.01)
        await trio.sleep(1)
        assert stage.accepted == list(range(100))
        assert [round(at - started, 6) for at in commits] == [0, 0.5, 1.0]


def test_the_pace_of_commits_falls_as_tenants_grow() -> None:
    assert [CommitPace(tenants).interval_s for tenants in (1, 4, 20, 200, 5000)] == [0.02, 0.02, 0.1, 1.0, 1.0]


async def test_closing_the_input_flushes_everything(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    """When the last sender closes, what waits goes out at once and the output closes."""
    async with open_stage(place, max_readings=1000, max_age_s=3600) as stage:
        started = trio.current_time()
        for number in range(7):
            await stage.deliver(number, 3)
        stage.deliveries.close()
        batches = [batch async for batch in stage.batches]
        assert sum(len(batch) for batch in batches) == 21
        assert trio.current_time() == started


async def test_a_writer_that_is_busy_makes_larger_batches(place: Place, autojump_clock: trio.testing.MockClock) -> None:
    """While no batch is taken, small ones are merged up to the size of a batch."""
    async with open_stage(place, max_readings=10, max_age_s=1) as stage:
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
