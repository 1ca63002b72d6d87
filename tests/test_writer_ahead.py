"""Several connections of one writer: rows sent ahead, commits in order, each reading once, whatever breaks."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
import trio
import trio.testing
from pydantic import SecretStr

from scada_trio.errors import DatabaseError, DatabaseUnavailable
from scada_trio.journal.queue import Journal
from scada_trio.metrics import Metrics
from scada_trio.readings import Batch, Quality, ReadingBlock, TagTable, WriteResult
from scada_trio.storage.tenant_db import open_tenant_writer
from scada_trio.writer import Writer
from tests.fix_journal import Place, block
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_proxy import open_proxy
from tests.storage_samples import BUFFER, NOON_US, ROWS, count_rows, many, tag_table
from tests.storage_samples import batch as batch_of
from tests.storage_samples import block as readings_of

GOOD = Quality.GOOD
WITHIN_S = 60.0
END_SESSIONS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'scada-trio writer'"""
SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'scada-trio writer'"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
OPEN_TRANSACTIONS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"""
# A row with the value -7 waits for advisory lock 7, in the middle of its batch's COPY.
GATE = """
    CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_lock_shared(7);
        PERFORM pg_advisory_unlock_shared(7);
        RETURN NEW;
    END $$;
    CREATE TRIGGER gate BEFORE INSERT ON scada_readings FOR EACH ROW WHEN (NEW.value = -7) EXECUTE FUNCTION gate()"""


def _open(url: SecretStr, tags: TagTable | None = None) -> Any:
    return open_tenant_writer(url, tags or tag_table(), connect_timeout_s=5, statement_timeout_s=30)


# ---- one connection: begin, then finish or undo


async def test_rows_sent_ahead_are_there_with_the_commit_only(tenant_url: SecretStr) -> None:
    """Until then neither rows nor cursor; afterwards both, with the counts of a plain write."""
    readings = readings_of((0, NOON_US, 1.0, GOOD), (0, NOON_US, 2.0, GOOD), (1, NOON_US, 3.0, GOOD))
    async with _open(tenant_url) as writer, _open(tenant_url) as other:
        assert await writer.begin(batch_of(2, readings), BUFFER)
        assert (count_rows(tenant_url), await other.committed_sequence(BUFFER)) == (0, 0)
        assert await other.write(batch_of(1, many(10, 3, NOON_US + 1_000_000)), BUFFER) == WriteResult(inserted=10)
        assert await writer.finish(batch_of(2, readings), BUFFER) == WriteResult(inserted=2, replaced=1)
        assert (count_rows(tenant_url), await other.committed_sequence(BUFFER)) == (12, 2)


async def test_only_one_round_trip_is_after_the_batch_before(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """BEGIN, COPY and its end are ahead of it; the cursor and COMMIT go together."""
    async with open_proxy(postgres.port) as proxy:
        url = SecretStr(tenant_url.get_secret_value().replace(f":{postgres.port}/", f":{proxy.port}/"))
        async with _open(url) as writer:
            await writer.write(batch_of(1, many(10, 3)), BUFFER)  # makes the partition of the day
            before = proxy.round_trips
            assert await writer.begin(batch_of(2, many(20_000, 3, NOON_US + 100_000)), BUFFER)
            assert proxy.round_trips - before == 3
            await writer.finish(batch_of(2, many(20_000, 3, NOON_US + 100_000)), BUFFER)
            assert proxy.round_trips - before == 4


async def test_rows_sent_ahead_are_taken_back(tenant_url: SecretStr) -> None:
    """By `undo`, and by a connection that is closed; then they are written as any."""
    async with _open(tenant_url) as writer:
        assert await writer.begin(batch_of(1, many(10, 3)), BUFFER)
        await writer.undo()
        assert fetch(tenant_url, OPEN_TRANSACTIONS) == [(0,)]
        assert await writer.begin(batch_of(1, many(10, 3)), BUFFER)
    async with _open(tenant_url) as writer:
        assert await writer.committed_sequence(BUFFER) == 0
        assert await writer.write(batch_of(1, many(10, 3)), BUFFER) == WriteResult(inserted=10)
    assert count_rows(tenant_url) == 10


@pytest.mark.parametrize(
    ("value", "time_us"),
    [(1.0, NOON_US), (2.0, NOON_US), (1.0, 5)],
    ids=["stored already", "to be replaced", "no time that is taken"],
)
async def test_what_is_no_plain_copy_is_not_begun(tenant_url: SecretStr, value: float, time_us: int) -> None:
    """Nothing is left open, and the same connection writes the batch the slower way."""
    async with _open(tenant_url) as writer:
        await writer.write(batch_of(1, readings_of((0, NOON_US, 1.0, GOOD))), BUFFER)
        second = batch_of(2, readings_of((0, time_us, value, GOOD), (1, NOON_US, 1.0, GOOD)))
        assert not await writer.begin(second, BUFFER)
        assert fetch(tenant_url, OPEN_TRANSACTIONS) == [(0,)]
        assert (await writer.write(second, BUFFER)).inserted == 1


async def test_without_a_unique_index_nothing_is_sent_ahead(tenant_url: SecretStr) -> None:
    """Which readings are stored already is looked up there, in order."""
    for (name,) in fetch(tenant_url, "SELECT indexname FROM pg_indexes WHERE tablename = 'scada_readings'"):
        fetch(tenant_url, f'DROP INDEX "{name}"')
    async with _open(tenant_url) as writer:
        assert not await writer.begin(batch_of(1, many(10, 3)), BUFFER)


async def test_a_batch_that_was_committed_meanwhile(tenant_url: SecretStr) -> None:
    """The cursor stands at it: what was sent ahead is rolled back, the counts are the first attempt's."""
    async with _open(tenant_url) as writer, _open(tenant_url) as other:
        assert await writer.begin(batch_of(1, many(10, 3)), BUFFER)
        await other.write(batch_of(1, many(10, 3, NOON_US + 1_000_000)), BUFFER)
        assert await writer.finish(batch_of(1, many(10, 3)), BUFFER) == WriteResult(inserted=10, already=True)
    assert count_rows(tenant_url) == 10


async def test_a_backend_that_ends_between(tenant_url: SecretStr) -> None:
    """What was sent is gone with it, and `finish` says that the database is away."""
    async with _open(tenant_url) as writer:
        assert await writer.begin(batch_of(1, many(10, 3)), BUFFER)
        fetch(tenant_url, END_SESSIONS)
        with pytest.raises(DatabaseUnavailable):
            await writer.finish(batch_of(1, many(10, 3)), BUFFER)
    assert count_rows(tenant_url) == 0


async def test_a_cancelled_begin_leaves_nothing(tenant_url: SecretStr) -> None:
    """Neither a transaction nor a lock; the connection goes on."""
    fetch(tenant_url, GATE)
    async with _open(tenant_url) as writer:
        gate = await trio.to_thread.run_sync(_lock_gate, tenant_url)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.begin, batch_of(1, readings_of((0, NOON_US, -7.0, GOOD))), BUFFER)
            await _until(lambda: fetch(tenant_url, WAITING) == [(1,)])
            nursery.cancel_scope.cancel()
        gate.close()
        assert fetch(tenant_url, OPEN_TRANSACTIONS) == [(0,)]
        assert (await writer.write(batch_of(1, many(10, 3)), BUFFER)).inserted == 10


# ---- the writer, with sinks that keep a diary


@dataclass
class Diary:
    """What the connections of one writer did, in order: (connection, deed, first value of the batch)."""

    deeds: list[tuple[int, str, float]] = field(default_factory=list)
    failures: list[tuple[str, DatabaseError]] = field(default_factory=list)  # the next such deed fails so
    slow_s: dict[str, float] = field(default_factory=dict)
    begins: bool = True
    opened: int = 0
    open_now: int = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[DiarySink]:
        self.opened += 1
        self.open_now += 1
        try:
            yield DiarySink(self, self.opened)
        finally:
            self.open_now -= 1

    def committed(self) -> list[float]:
        return [value for _, deed, value in self.deeds if deed in ("write", "finish")]


@dataclass
class DiarySink:
    diary: Diary
    number: int

    async def committed_sequence(self, journal_id: UUID) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    async def write(self, batch: Batch, journal_id: UUID) -> WriteResult:
        await self._do("write", batch)
        return WriteResult(len(batch))

    async def begin(self, batch: Batch, journal_id: UUID) -> bool:
        if self.diary.begins:
            await self._do("begin", batch)
        return self.diary.begins

    async def finish(self, batch: Batch, journal_id: UUID) -> WriteResult:
        await self._do("finish", batch)
        return WriteResult(len(batch))

    async def undo(self) -> None:
        await trio.lowlevel.checkpoint()
        self.diary.deeds.append((self.number, "undo", -1))

    async def write_losses(self, losses: object, journal_id: UUID) -> None:
        raise AssertionError("there are none")

    async def _do(self, deed: str, batch: Batch) -> None:
        await trio.sleep(self.diary.slow_s.get(deed, 0.01))
        if self.diary.failures and self.diary.failures[0][0] == deed:
            raise self.diary.failures.pop(0)[1]
        self.diary.deeds.append((self.number, deed, float(batch.readings.value[0])))


async def _write_batches(directory: Path, diary: Diary, count: int, connections: int = 2) -> Writer:
    batches_in, batches = trio.open_memory_channel[Batch](count)
    place = Place(directory)
    async with place.open(inline=True) as journal:
        metrics = Metrics().tenant(uuid4(), TagTable(), place.ledger)
        writer = Writer(journal, batches, diary.open, metrics=metrics, connections=connections)
        for number in range(count):
            await _take(journal, batches_in, block(4, number))
        batches_in.close()
        with trio.fail_after(3600):
            await writer.run()
        assert len(journal) == 0
        assert place.ledger.accounts.unexplained == 0
    assert diary.open_now == 0
    return writer


async def _take(journal: Journal, batches: trio.MemorySendChannel[Batch], readings: ReadingBlock) -> None:
    await journal.append([readings])
    batch = await journal.take(len(readings))
    assert batch is not None
    await batches.send(batch)


@pytest.mark.parametrize("connections", [2, 3, 4])
async def test_commits_are_in_order(connections: int, tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Each connection in its turn; the second batch's rows are sent before the first is committed."""
    diary = Diary(slow_s={"begin": 0.001})
    await _write_batches(tmp_path, diary, 9, connections)
    assert diary.committed() == list(range(9))
    assert diary.opened == connections
    assert {number for number, *_ in diary.deeds} == set(range(1, connections + 1))
    deeds = [(deed, value) for _, deed, value in diary.deeds]
    assert deeds.index(("begin", 1)) < deeds.index(("write", 0))
    assert deeds.index(("begin", 8)) < deeds.index(("finish", 7))


async def test_a_slow_batch_before_has_the_rows_taken_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """After a second, since it may wait for them in the database; they are sent again after its commit."""
    diary = Diary(slow_s={"write": 10.0})
    await _write_batches(tmp_path, diary, 2)
    assert [deed for _, deed, _ in diary.deeds] == ["begin", "undo", "write", "write"]
    assert diary.committed() == [0, 1]


async def test_rows_that_cannot_be_sent_ahead_wait(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Each is written in its turn."""
    diary = Diary(begins=False)
    await _write_batches(tmp_path, diary, 5)
    assert [(deed, value) for _, deed, value in diary.deeds] == [("write", value) for value in range(5)]


@pytest.mark.parametrize("deed", ["write", "begin", "finish"])
async def test_a_failure_of_one_is_one_of_all(
    deed: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """All are opened anew, and what was in hand is written one after the other before anything is sent ahead again."""
    diary = Diary(failures=[(deed, DatabaseUnavailable("away", "57P01"))] * 3)
    writer = await _write_batches(tmp_path, diary, 12)
    assert diary.committed() == list(range(12))
    assert diary.opened == 8
    assert writer.state == "ready"
    assert writer.last_error is None


# ---- the writer on a real database


@asynccontextmanager
async def _running(directory: Path, url: SecretStr, tags: TagTable) -> AsyncIterator[Callable[[ReadingBlock], Any]]:
    """A writer of two connections; what is yielded sends it a batch. At the end everything is committed."""
    place = Place(directory)
    batches_in, batches = trio.open_memory_channel[Batch](1)
    async with place.open(tags=tags) as journal, trio.open_nursery() as nursery:
        writer = Writer(
            journal,
            batches,
            lambda: _open(url, tags),
            metrics=Metrics().tenant(uuid4(), tags, place.ledger),
            connections=2,
        )
        nursery.start_soon(writer.run)
        yield lambda readings: _take(journal, batches_in, readings)
        await _until(lambda: len(journal) == 0)
        batches_in.close()
    assert place.ledger.accounts.unexplained == 0


async def test_a_batch_that_waits_for_rows_sent_ahead(tenant_url: SecretStr, tmp_path: Path) -> None:
    """The first wants a row that the second has, which waits for the first: no deadlock that PostgreSQL sees."""
    fetch(tenant_url, GATE)
    tags = tag_table()
    async with _running(tmp_path, tenant_url, tags) as send:
        gate = await trio.to_thread.run_sync(_lock_gate, tenant_url)
        await send(readings_of((0, NOON_US, -7.0, GOOD), (2, NOON_US, 1.0, GOOD)))
        await _until(lambda: fetch(tenant_url, WAITING) == [(1,)])
        await send(readings_of((2, NOON_US, 2.0, GOOD)))
        await _until(lambda: fetch(tenant_url, OPEN_TRANSACTIONS) == [(1,)])
        gate.close()
    assert [(row[2], row[3]) for row in fetch(tenant_url, ROWS)] == [("ns=2;s=Tag0", -7.0), ("ns=2;s=Tag2", 2.0)]


async def test_the_last_value_stays_whatever_breaks(tenant_url: SecretStr, tmp_path: Path) -> None:
    """Neighbouring batches with the same keys, sessions ended at random: each key once, with its newest value."""
    tags, rng = tag_table(40), random.Random(5)
    newest: dict[tuple[int, int], float] = {}
    numbers = itertools.count(1)

    def some() -> ReadingBlock:
        count = rng.randrange(1, 400)
        keys = [(rng.randrange(40), NOON_US + rng.randrange(3) * 1000 + next(numbers) // 300) for _ in range(count)]
        values = [float(next(numbers)) for _ in keys]
        newest.update(zip(keys, values, strict=True))
        tag, time_us = zip(*keys, strict=True)
        return ReadingBlock(
            np.array(tag, np.int32), np.array(time_us, np.int64), np.array(values), np.zeros(count, np.uint8)
        )

    async with _running(tmp_path, tenant_url, tags) as send:
        for number in range(100):
            await send(some())
            if number % 20 == 19:
                await trio.to_thread.run_sync(fetch, tenant_url, END_SESSIONS)
    stored = {(row[2], row[0]): row[3] for row in fetch(tenant_url, ROWS)}
    assert stored == {(tags.key(tag)[1], time_us): value for (tag, time_us), value in newest.items()}
    assert count_rows(tenant_url) == len(newest)


async def test_a_server_that_is_killed(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """With batches in both hands, again and again: every reading is there once."""
    url = own_postgres.create_tenant()
    tags = tag_table()
    async with _running(tmp_path, url, tags) as send:
        for number in range(120):
            await send(many(2000, 3, NOON_US + number * 1_000_000))
            if number in (30, 60, 90):
                await trio.to_thread.run_sync(own_postgres.kill)
                await trio.to_thread.run_sync(own_postgres.start)
    assert count_rows(url) == 240_000


async def test_a_cancelled_writer_leaves_nothing_open(tenant_url: SecretStr, tmp_path: Path) -> None:
    """One batch in COPY, one sent ahead: both are rolled back, no session stays, and the journal has them."""
    fetch(tenant_url, GATE)
    tags, place = tag_table(), Place(tmp_path)
    batches_in, batches = trio.open_memory_channel[Batch](1)
    gate = await trio.to_thread.run_sync(_lock_gate, tenant_url)
    async with place.open(tags=tags) as journal, trio.open_nursery() as nursery:
        metrics = Metrics().tenant(uuid4(), tags, place.ledger)
        writer = Writer(journal, batches, lambda: _open(tenant_url, tags), metrics=metrics, connections=2)
        nursery.start_soon(writer.run)
        await _take(journal, batches_in, readings_of((0, NOON_US, -7.0, GOOD)))
        await _until(lambda: fetch(tenant_url, WAITING) == [(1,)])
        await _take(journal, batches_in, many(10, 3, NOON_US + 1000))
        await _until(lambda: fetch(tenant_url, OPEN_TRANSACTIONS) == [(1,)])
        nursery.cancel_scope.cancel()
    gate.close()
    await _until(lambda: fetch(tenant_url, SESSIONS) == [(0,)])
    assert count_rows(tenant_url) == 0
    assert place.ledger.accounts.in_journal == 11


def _lock_gate(url: SecretStr) -> Any:
    connection = psycopg.connect(url.get_secret_value(), autocommit=True)
    connection.execute("SELECT pg_advisory_lock(7)")
    return connection


async def _until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(WITHIN_S):
        while not holds():  # noqa: ASYNC110 - what is waited for is in the server
            await trio.sleep(0.01)
