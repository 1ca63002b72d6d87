"""The durable queue between acceptance and commit."""

from __future__ import annotations

from typing import TypeVar, TypeVarTuple
from uuid import uuid4

import pytest
import trio
import trio.testing

from scada_trio.losses import Loss, LossReason, RememberedSubscription
from scada_trio.readings import TagTable, WriteResult
from tests.fix_journal import WELL, Place, block, drain

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

REMEMBERED = RememberedSubscription("opc.tcp://a", 7, 1, {1: (WELL, "ns=1;s=A", 11)}, 5, 6, {1: 0.5})


async def test_batches_hold_every_reading_once_and_in_order(place: Place) -> None:
    """What goes in comes out in the same order, cut at the asked size, and the file is empty afterwards."""
    async with place.open(row_readings=7) as journal:
        await journal.append([block(7, 0), block(0), block(7, 7), block(7, 14)])
        values: list[float] = []
        sizes: list[int] = []
        sequences: list[int] = []
        while (batch := await journal.take(15)) is not None:
            values += batch.readings.value.tolist()
            sizes.append(len(batch))
            sequences.append(batch.sequence)
            await journal.committed(batch)
        assert values == list(range(21))
        assert sizes == [14, 7]
        assert sequences == sorted(set(sequences))
        assert len(journal) == 0
        assert place.ledger.accounts.committed == place.ledger.accounts.received == 21
    async with place.restarted().open() as journal:
        assert len(journal) == 0


async def test_one_block_larger_than_a_batch_is_a_batch(place: Place) -> None:
    """A block is never split: it has come in one notification."""
    async with place.open(row_readings=10) as journal:
        await journal.append([block(100)])
        batch = await journal.take(10)
        assert batch is not None
        assert len(batch) == 100


async def test_what_was_in_flight_is_offered_again_by_the_next_opening(place: Place) -> None:
    """A tenant whose tasks failed repeats it exactly, under its number, before what is newer, counting nothing anew."""
    tags = TagTable()
    async with place.open(tags=tags, row_readings=5) as journal:
        await journal.append([block(5, 0), block(5, 5), block(5, 10)])
        first, second = await journal.take(5), await journal.take(5)
        assert first is not None
        assert second is not None
        await journal.committed(first)
    async with place.open(tags=tags, row_readings=5) as journal:
        assert journal.oldest_at == float("-inf")
        assert journal.waiting == len(journal) == 10
        await journal.resolve(first.sequence)
        again = await journal.take(5)
        assert again is not None
        assert (again.sequence, again.readings.value.tolist()) == (second.sequence, second.readings.value.tolist())
        await journal.committed(again)
        third = await journal.take(5)
        assert third is not None
        assert third.sequence > second.sequence
        assert third.readings.value.tolist() == list(range(10, 15))
        assert len(journal) == 5
    accounts = place.ledger.accounts
    assert (accounts.received, accounts.recovered, accounts.written, accounts.unexplained) == (15, 0, 10, 0)


async def test_only_the_oldest_batch_in_flight_can_be_committed(place: Place) -> None:
    """Commits happen in order; anything else is a bug that must not pass."""
    async with place.open(row_readings=5) as journal:
        await journal.append([block(5), block(5)])
        await journal.take(5)
        second = await journal.take(5)
        assert second is not None
        with pytest.raises(AssertionError):
            await journal.committed(second)


async def test_a_restart_drains_what_the_last_run_left_before_what_is_new(place: Place) -> None:
    """In order, exactly once, under sequences that no former run has given."""
    tags = TagTable()
    number = tags.index_of(WELL, "ns=1;s=B")
    async with place.open(tags=tags) as journal:
        await journal.append([block(100, 0, number)])
        last = await journal.take(10)
        assert last is not None
    later = place.restarted()
    async with later.open() as journal:
        assert journal.tags.key(number) == (WELL, "ns=1;s=B")
        assert (len(journal), later.ledger.accounts.recovered, later.ledger.accounts.received) == (100, 100, 0)
        await journal.append([block(5, 100, number)])
        await journal.resolve(0)
        assert await drain(journal) == list(range(105))
        await journal.append([block(1)])
        batch = await journal.take(10)
        assert batch is not None
        assert batch.sequence > last.sequence
    assert later.ledger.accounts.unexplained == 0


async def test_nothing_of_a_former_run_is_taken_before_the_cursor_is_known(place: Place) -> None:
    """What the database has committed already is not offered again; the rest is."""
    async with place.open(row_readings=10) as journal:
        await journal.append([block(10, 0), block(10, 10), block(10, 20)])
        await journal.take(10)
        second = await journal.take(10)  # committed in the database, and then the process died
        assert second is not None
    later = place.restarted()
    async with later.open() as journal, trio.open_nursery() as nursery:
        await journal.append([block(10, 30)])
        values: list[float] = []

        async def take_all() -> None:
            values.extend(await drain(journal))

        nursery.start_soon(take_all)
        await trio.testing.wait_all_tasks_blocked()
        assert values == []
        await journal.resolve(second.sequence)
    assert values == list(range(20, 40))
    accounts = later.ledger.accounts
    assert (accounts.recovered, accounts.received, accounts.duplicates, accounts.written) == (30, 10, 20, 20)
    assert (accounts.unexplained, accounts.in_journal) == (0, 0)


async def test_a_journal_that_was_copied_gets_another_id(place: Place) -> None:
    """A cursor from beyond this run says that another process used a copy: nothing new is taken for committed."""
    async with place.open() as journal:
        await journal.append([block(10, 0)])
    async with place.restarted().open() as journal:
        await journal.append([block(10, 10)])
        batch_of_the_copy = (journal.journal_id, 1 << 62)
        await journal.resolve(batch_of_the_copy[1])
        assert journal.journal_id != batch_of_the_copy[0]
        assert await drain(journal) == list(range(10, 20))
        new_id = journal.journal_id
    async with place.restarted().open() as journal:
        assert journal.journal_id == new_id


async def test_behind_a_database_that_is_away_only_the_file_grows(place: Place) -> None:
    """Beyond the bound of memory blocks are in the file alone, and are read back in order, in chunks."""
    async with place.open(memory_readings=100, row_readings=10) as journal:
        for first in range(0, 1000, 10):
            await journal.append([block(10, first)])
        assert journal._head_count == 100
        assert journal.waiting == 1000
        values: list[float] = []
        held = 0
        while (batch := await journal.take(10)) is not None:
            values += batch.readings.value.tolist()
            held = max(held, journal._head_count)
            await journal.committed(batch)
            if len(values) == 500:
                await journal.append([block(10, 1000)])
        assert values == list(range(1010))
        assert held <= 100
        await journal.append([block(10, 0)])
        assert journal._head_count == 10  # caught up: from memory again
    assert place.ledger.accounts.unexplained == 0


async def test_a_full_journal_holds_until_commits_make_room(place: Place) -> None:
    """With policy hold nothing is dropped: whoever waits goes on once the writer has caught up."""
    async with place.open(max_bytes=200_000, row_readings=1000) as journal:
        while not journal.full:
            await journal.append([block(1000)])
        with trio.move_on_after(0.05) as early:
            await journal.wait_room()
        assert early.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.wait_room)
            await trio.testing.wait_all_tasks_blocked()
            await drain(journal)
        assert not journal.full
    assert place.losses == []


async def test_a_full_journal_may_drop_its_oldest_readings(place: Place) -> None:
    """With policy drop_oldest what is newest stays, what goes is counted, batches in flight are spared."""
    async with place.open(max_bytes=400_000, row_readings=100, memory_readings=2000, policy="drop_oldest") as journal:
        await journal.append([block(100, 0)])
        in_flight = await journal.take(100)
        assert in_flight is not None
        for first in range(100, 50_000, 100):
            await journal.append([block(100, first)])
            assert journal.size_bytes <= 410_000  # of whole pages
        await journal.committed(in_flight)
        assert place.ledger.accounts.unexplained == 0
        dropped = sum(loss.count or 0 for loss in place.losses)
        assert dropped == place.ledger.accounts.lost > 20_000
        assert {loss.reason for loss in place.losses} == {LossReason.JOURNAL_FULL}
        assert (place.losses[0].from_us, place.losses[-1].to_us) == (100, 100 + dropped - 1)
        assert await drain(journal) == list(range(100 + dropped, 50_000))
        assert [loss for _, loss in journal.unreported_losses()] == place.losses
    assert (place.ledger.accounts.unexplained, place.ledger.accounts.in_journal) == (0, 0)


async def test_losses_wait_until_the_database_has_them(place: Place) -> None:
    """They survive restarts, under numbers that are never used twice."""
    losses = [
        Loss(LossReason.SEQUENCE_GAP, uuid4(), 1, 2, None, "7 notifications"),
        Loss(LossReason.QUEUE_OVERFLOW, None, 3, 4, 5),
    ]
    async with place.open() as journal:
        for loss in losses:
            journal.record_loss(loss)
    async with place.restarted().open() as journal:
        numbered = journal.unreported_losses()
        assert [loss for _, loss in numbered] == losses
        await journal.losses_reported(numbered[0][0])
        journal.record_loss(losses[0])
        assert journal.unreported_losses()[-1][0] > numbered[-1][0]
    async with place.restarted().open() as journal:
        assert [loss for _, loss in journal.unreported_losses()] == [losses[1], losses[0]]
    assert place.losses == losses


async def test_a_drained_journal_gives_its_disk_space_back(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    """What a long outage has made the file grow to is returned when the database has caught up."""
    async with place.open(inline=True, memory_readings=1000) as journal, trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        for first in range(0, 2_000_000, 50_000):
            await journal.append([block(50_000, first)])
        grown = place.ledger.journal_bytes
        assert grown > 40_000_000
        await drain(journal)
        await trio.sleep(5)
        assert place.ledger.journal_bytes < 12_000_000
        assert sum(path.stat().st_size for path in place.directory.iterdir()) < 12_000_000
        nursery.cancel_scope.cancel()


async def test_results_of_the_database_are_in_the_accounts(place: Place) -> None:
    """Each reading has one fate."""
    async with place.open(row_readings=10) as journal:
        await journal.append([block(10)])
        batch = await journal.take(10)
        assert batch is not None
        await journal.committed(batch, WriteResult(4, duplicates=3, replaced=2, quarantined=1))
        accounts = place.ledger.accounts
        assert (accounts.written, accounts.duplicates, accounts.replaced, accounts.quarantined) == (4, 3, 2, 1)
        assert accounts.unexplained == 0
