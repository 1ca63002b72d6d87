"""Journals whose WAL or subscriptions are damaged: what is gone is within a loss, also where nobody can count it."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from scada_trio.journal.salvage import Known, open_file
from scada_trio.losses import Loss, LossReason, RememberedSubscription
from tests.fix_journal import WELL, Place, block, drain, overwrite


async def killed_with_a_wal(place: Place, rows: int) -> int:
    """Leave ``rows`` blocks of 100 readings in the WAL, as a kill does; the time of the first reading, a minute ago."""
    first = time.time_ns() // 1000 - 60_000_000
    running = Place(place.directory.with_name("running"))
    async with running.open() as journal:
        for row in range(rows):
            await journal.append([block(100, first + row * 1_000_000)])
        shutil.copytree(running.directory, place.directory)
    return first


async def test_what_a_damaged_wal_took_is_within_its_loss(place: Place) -> None:
    """From the newest block that is left to the last use of the file."""
    first = await killed_with_a_wal(place, 20)
    wal = Path(f"{place.path}-wal")
    data = wal.read_bytes()
    overwrite(wal, data.index(block(100, first + 10_000_000).value.tobytes()[:100]))
    later = place.restarted()
    async with later.open() as journal:
        await journal.resolve(0)
        values = await drain(journal)
    assert values[-1] == first + 9_000_099
    (loss,) = later.losses
    assert (loss.from_us, loss.count) == (values[-1], None)
    assert loss.to_us > first + 59_000_000


async def test_what_a_device_had_queued_is_within_the_loss(place: Place) -> None:
    """Its readings are older than those of another one that are left; one long silent widens nothing."""
    now = time.time_ns() // 1000
    heard_us, long_ago_us, queued_us = now - 90_000_000, now - 5 * 86_400_000_000, now - 80_000_000
    running = Place(place.directory.with_name("running"))
    async with running.open() as journal:
        for connection_id, when in ((uuid4(), heard_us), (uuid4(), long_ago_us)):
            remembered = RememberedSubscription("opc.tcp://a", 7, 1, {}, heard_us=when)
            journal.remember_subscription(connection_id, remembered)
        await journal.append([block(100, now - 10_000_000)])
        await journal.append([block(100, queued_us)])
        shutil.copytree(running.directory, place.directory)
    wal = Path(f"{place.path}-wal")
    overwrite(wal, wal.read_bytes().index(block(100, queued_us).value.tobytes()[:100]))
    later = place.restarted()
    async with later.open() as journal:
        await journal.resolve(0)
        assert len(await drain(journal)) == 100
    (loss,) = later.losses
    assert (loss.reason, loss.from_us) == (LossReason.JOURNAL_CORRUPT, heard_us)


async def test_damage_in_a_file_does_not_hide_that_of_its_wal(place: Place) -> None:
    """What the WAL had is recorded as lost also where the file is set aside for something else."""
    running = Place(place.directory.with_name("running"))
    async with running.open() as journal:
        await journal.append([block(100)])
        journal.remember_subscription(WELL, RememberedSubscription("opc.tcp://a", 7, 1, {}))
    with closing(sqlite3.connect(running.path, isolation_level=None)) as connection:
        connection.execute("UPDATE subscriptions SET crc = crc + 1")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("INSERT INTO blocks SELECT sequence + 1, from_us, to_us, crc, data FROM blocks")
        shutil.copytree(running.directory, place.directory)
    wal = Path(f"{place.path}-wal")
    overwrite(wal, wal.read_bytes().index(block(100).value.tobytes()[:100]))
    async with place.open() as journal:
        await journal.resolve(0)
        assert await drain(journal) == list(range(100))
    assert [(loss.reason, loss.from_us, loss.count) for loss in place.losses] == [
        (LossReason.JOURNAL_CORRUPT, 99, None)
    ]
    assert place.aside


async def test_a_subscription_that_cannot_be_read_leaves_since_when_readings_are_missing(place: Place) -> None:
    """Its device goes on with it, and what it queues there nobody will fetch."""
    heard_us = time.time_ns() // 1000 - 5_000_000
    async with place.open() as journal:
        journal.remember_subscription(WELL, RememberedSubscription("opc.tcp://a", 7, 1, {}, heard_us=heard_us))
        await journal.append([block(10)])
    where = place.path.read_bytes().index(b"opc.tcp://a")
    overwrite(place.path, where, 4)
    async with place.restarted().open() as journal:
        assert journal.remembered_subscription(WELL) == RememberedSubscription.gone(heard_us)


@pytest.mark.parametrize("where", ["block", "wal", "both"])
async def test_a_process_killed_after_it_set_a_file_aside_leaves_the_loss(place: Place, where: str) -> None:
    """The loss is in the file that takes the damaged one's place; it is told once, and before those that come later."""
    running = Place(place.directory.with_name("running"))
    async with running.open() as journal:
        await journal.append([block(100)])
        journal.remember_subscription(WELL, RememberedSubscription("opc.tcp://a", 7, 1, {}))
    with closing(sqlite3.connect(running.path, isolation_level=None)) as connection:
        if where != "wal":
            connection.execute("UPDATE subscriptions SET crc = crc + 1")
            connection.execute("UPDATE blocks SET crc = crc + 1")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("INSERT INTO blocks SELECT sequence + 1, from_us, to_us, crc, data FROM blocks")
        shutil.copytree(running.directory, place.directory)
    if where != "block":
        wal = Path(f"{place.path}-wal")
        overwrite(wal, wal.read_bytes().index(block(100).value.tobytes()[:100]))
    open_file(place.path, "normal", Known()).file.close()  # and nothing after that
    later = place.restarted()
    async with later.open() as journal:
        await journal.resolve(0)
        await drain(journal)
        journal.record_loss(Loss(LossReason.SEQUENCE_GAP, None, 1, 2))
        losses = journal.unreported_losses()
        assert [number for number, _ in losses] == sorted(number for number, _ in losses)
    counts: dict[str, list[int | None]] = {"block": [200], "wal": [None], "both": [None, 100]}
    wanted = counts[where]
    assert [loss.count for _, loss in losses] == [*wanted, None]
    async with place.restarted().open() as journal:
        assert journal.unreported_losses() == losses


@pytest.mark.parametrize("where", ["page", "wal"])
async def test_connections_that_a_damaged_file_forgot_are_not_new_ones(place: Place, where: str) -> None:
    """Neither row nor id of the subscription is left; what the device makes for it is missing all the same."""
    running = Place(place.directory.with_name("running"))
    async with running.open() as journal:
        await journal.append([block(10)])
    async with running.open() as journal:
        journal.remember_subscription(WELL, RememberedSubscription("opc.tcp://a", 7, 1, {}))
        await journal.append([block(10)])
        if where == "page":
            await journal._store.call(lambda file: file.give_back(1 << 20))  # all of it is in the file itself
        shutil.copytree(running.directory, place.directory)
    harmed = place.path if where == "page" else Path(f"{place.path}-wal")
    at = harmed.read_bytes().index(b"opc.tcp://a")
    overwrite(harmed, at // 4096 * 4096 if where == "page" else at, 16)
    async with place.open() as journal:
        assert journal.remembered_subscription(WELL) is None
        journal.expect([WELL])
        remembered = journal.remembered_subscription(WELL)
        assert remembered is not None
        assert remembered.is_gone
        assert 0 < remembered.heard_us <= time.time_ns() // 1000
    async with place.restarted().open() as journal:
        journal.expect([Place.tenant_id])
        assert journal.remembered_subscription(WELL) == remembered
        assert journal.remembered_subscription(Place.tenant_id) is None


@pytest.mark.parametrize("again", [False, True])
async def test_a_loss_that_is_noted_while_that_of_a_damaged_wal_is_reported_is_kept(place: Place, again: bool) -> None:
    """Losses are reported up to a number: one that comes later has a higher one, also beside those of more damage."""
    first = await killed_with_a_wal(place, 20)
    wal = Path(f"{place.path}-wal")
    overwrite(wal, wal.read_bytes().index(block(100, first + 10_000_000).value.tobytes()[:100]))
    overflow = Loss(LossReason.QUEUE_OVERFLOW, uuid4(), first, first + 1)
    async with place.restarted().open() as journal:
        numbers = [number for number, _ in journal.unreported_losses()]
        if again:
            await journal._store.exchange("damaged once more")
            journal._store.record_loss(replace(overflow, detail="before"))
            numbers = [number for number, _ in journal.unreported_losses()]
        assert numbers == sorted(set(numbers))
        journal.record_loss(overflow)
        await journal.losses_reported(numbers[-1])
        assert [loss for _, loss in journal.unreported_losses()] == [overflow]
        await journal._store.tidy()
    async with place.restarted().open() as journal:
        assert [loss for _, loss in journal.unreported_losses()] == [overflow]
