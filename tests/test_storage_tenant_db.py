"""Batches in a tenant's database: exactly once, whatever breaks."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psycopg
import pytest
import trio
from pydantic import SecretStr

from scada_trio.errors import DatabaseMisconfigured, DatabaseUnavailable
from scada_trio.readings import EMPTY_BLOCK, Quality, TagTable, WriteResult
from scada_trio.storage.tenant_db import TenantWriter, open_tenant_writer
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_proxy import Proxy, open_proxy
from tests.storage_samples import BUFFER, NOON_US, ROWS, batch, block, count_rows, many, tag_table

GOOD, BAD = Quality.GOOD, Quality.BAD
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'scada-trio writer'"
)
LOCK = "LOCK TABLE scada_readings IN ACCESS EXCLUSIVE MODE"


def _open(
    url: SecretStr, tags: TagTable | None = None, *, statement_timeout_s: float = 30
) -> AbstractAsyncContextManager[TenantWriter]:
    return open_tenant_writer(url, tags or tag_table(), connect_timeout_s=5, statement_timeout_s=statement_timeout_s)


def _through(url: SecretStr, server: PostgresServer, proxy: Proxy) -> SecretStr:
    return SecretStr(url.get_secret_value().replace(f":{server.port}/", f":{proxy.port}/"))


@asynccontextmanager
async def _locked_readings(url: SecretStr) -> AsyncIterator[psycopg.Connection]:
    """Somebody holds the table, so that a COPY waits in the middle of its transaction."""
    connection = psycopg.connect(url.get_secret_value())
    connection.execute(LOCK)
    try:
        yield connection
    finally:
        connection.close()


async def _until(url: SecretStr, query: str) -> None:
    while not fetch(url, query)[0][0]:  # noqa: ASYNC110 - the server has no event for it
        await trio.sleep(0.01)


async def test_a_batch_takes_four_round_trips(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """However many rows: the cursor, COPY, its end, COMMIT. A far database is slow by as many."""
    async with open_proxy(postgres.port) as proxy, _open(_through(tenant_url, postgres, proxy)) as writer:
        await writer.write(batch(1, block((0, NOON_US, 1.0, GOOD))), BUFFER)  # makes the partition of the day
        for sequence, count in ((2, 1), (3, 20_000)):
            before = proxy.round_trips
            readings = many(count, 3, NOON_US + sequence * 100_000_000)
            assert await writer.write(batch(sequence, readings), BUFFER) == WriteResult(inserted=count)
            assert proxy.round_trips - before == 4


async def test_a_batch_is_stored_and_remembered(tenant_url: SecretStr) -> None:
    """Rows and cursor are there together."""
    async with _open(tenant_url) as writer:
        assert await writer.committed_sequence(BUFFER) == 0
        readings = block((0, NOON_US, 1.5, GOOD), (1, NOON_US, math.inf, BAD))
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(inserted=2)
        assert await writer.committed_sequence(BUFFER) == 1
    assert [row[2:] for row in fetch(tenant_url, ROWS)] == [
        ("ns=2;s=Tag0", 1.5, "Good"),
        ("ns=2;s=Tag1", math.inf, "Bad"),
    ]


async def test_a_batch_that_was_committed_is_not_written_again(tenant_url: SecretStr) -> None:
    """After a commit in doubt the same batch comes again: nothing is stored, and the counts are the first attempt's."""
    readings = block((0, NOON_US, 1.0, GOOD), (0, NOON_US, 1.0, GOOD), (0, NOON_US, 2.0, GOOD))
    async with _open(tenant_url) as writer:
        first = await writer.write(batch(1, readings), BUFFER)
    async with _open(tenant_url) as writer:
        again = await writer.write(batch(1, readings), BUFFER)
    assert first == WriteResult(inserted=1, duplicates=1, replaced=1)
    assert again == WriteResult(inserted=1, duplicates=1, replaced=1, already=True)
    assert count_rows(tenant_url) == 1


async def test_stored_readings_are_told_from_new_ones(tenant_url: SecretStr) -> None:
    """What is stored with the same value is a duplicate; another value, or quality, replaces it; NaN equals NaN."""
    stored = block(
        (0, NOON_US, 1.0, GOOD),
        (0, NOON_US + 1, 1.0, GOOD),
        (0, NOON_US + 2, math.nan, BAD),
        (0, NOON_US + 3, 1.0, BAD),
    )
    again = block(
        (0, NOON_US, 1.0, GOOD),
        (0, NOON_US + 1, 2.0, GOOD),
        (0, NOON_US + 2, math.nan, BAD),
        (0, NOON_US + 3, 1.0, GOOD),
        (1, NOON_US, 7.0, GOOD),
        (1, NOON_US, 8.0, GOOD),
    )
    async with _open(tenant_url) as writer:
        await writer.write(batch(1, stored), BUFFER)
        result = await writer.write(batch(2, again), BUFFER)
        assert result == WriteResult(inserted=1, duplicates=2, replaced=3)
        assert await writer.committed_sequence(BUFFER) == 2
        assert await writer.write(batch(2, again), BUFFER) == WriteResult(1, 2, 3, already=True)
        # the connection goes on with plain COPY after the merge
        assert await writer.write(batch(3, many(100, 3, NOON_US + 10_000)), BUFFER) == WriteResult(inserted=100)
    values = fetch(tenant_url, "SELECT value::text, quality FROM scada_readings ORDER BY timestamp, tag_node_id")
    assert values[:5] == [("1", "Good"), ("8", "Good"), ("2", "Good"), ("NaN", "Bad"), ("1", "Good")]


async def test_an_empty_batch_moves_the_cursor(tenant_url: SecretStr) -> None:
    """A batch without rows counts as committed like any other."""
    async with _open(tenant_url) as writer:
        assert await writer.write(batch(4, EMPTY_BLOCK), BUFFER) == WriteResult(inserted=0)
        assert await writer.committed_sequence(BUFFER) == 4


async def test_a_database_that_is_not_migrated(postgres: PostgresServer) -> None:
    """Opening says which command makes the tables."""
    with pytest.raises(DatabaseMisconfigured, match="run scada-trio migrate"):
        async with _open(postgres.create_database()):
            pass


async def test_a_cancelled_copy_leaves_nothing(tenant_url: SecretStr) -> None:
    """Neither rows nor cursor, and the connection writes the batch when it is asked again."""
    async with _open(tenant_url) as writer:
        async with _locked_readings(tenant_url), trio.open_nursery() as nursery:
            nursery.start_soon(writer.write, batch(1, many(20_000, 3)), BUFFER)
            await _until(tenant_url, WAITING)
            nursery.cancel_scope.cancel()
        assert count_rows(tenant_url) == 0
        assert await writer.committed_sequence(BUFFER) == 0
        assert (await writer.write(batch(1, many(20_000, 3)), BUFFER)).inserted == 20_000


async def test_a_copy_that_takes_too_long(tenant_url: SecretStr) -> None:
    """The statement timeout ends it; nothing is stored and the connection stays good."""
    async with _open(tenant_url, statement_timeout_s=0.1) as writer:
        async with _locked_readings(tenant_url):
            with pytest.raises(DatabaseUnavailable) as caught:
                await writer.write(batch(1, many(10, 3)), BUFFER)
        assert caught.value.sqlstate == "57014"
        assert (await writer.write(batch(1, many(10, 3)), BUFFER)).inserted == 10


async def test_a_writer_whose_backend_is_terminated(tenant_url: SecretStr) -> None:
    """In the middle of a COPY: the writer is of no use any more, a new one writes the batch once."""
    with pytest.RaisesGroup(DatabaseUnavailable):
        async with _open(tenant_url) as writer, _locked_readings(tenant_url), trio.open_nursery() as nursery:
            nursery.start_soon(writer.write, batch(1, many(20_000, 3)), BUFFER)
            await _until(tenant_url, WAITING)
            fetch(
                tenant_url,
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name = 'scada-trio writer' AND wait_event_type = 'Lock'""",
            )
    async with _open(tenant_url) as writer:
        assert (await writer.write(batch(1, many(20_000, 3)), BUFFER)).inserted == 20_000
    assert count_rows(tenant_url) == 20_000


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_server_that_goes_away_between_batches(own_postgres: PostgresServer, how: str) -> None:
    """What was committed is there after the restart, crash or not; what was not is written then."""
    url = own_postgres.create_tenant()
    away: Callable[[], None] = getattr(own_postgres, how)
    async with _open(url) as writer:
        await writer.write(batch(1, many(1000, 3)), BUFFER)
        await trio.to_thread.run_sync(away)
        with pytest.raises(DatabaseUnavailable):
            await writer.write(batch(2, many(1000, 3, NOON_US + 10_000_000)), BUFFER)
    await trio.to_thread.run_sync(own_postgres.start)
    async with _open(url) as writer:
        assert await writer.committed_sequence(BUFFER) == 1
        assert (await writer.write(batch(1, many(1000, 3)), BUFFER)).already
        await writer.write(batch(2, many(1000, 3, NOON_US + 10_000_000)), BUFFER)
    assert count_rows(url) == 2000


async def test_two_writers_of_one_buffer_store_a_batch_once(tenant_url: SecretStr) -> None:
    """The second attempt waits for the first, whose commit is in doubt, and finds it done."""
    results: list[WriteResult] = []

    async def write(writer: TenantWriter) -> None:
        results.append(await writer.write(batch(1, many(5000, 3)), BUFFER))

    async with _open(tenant_url) as one, _open(tenant_url) as other, trio.open_nursery() as nursery:
        nursery.start_soon(write, one)
        nursery.start_soon(write, other)
    assert sorted(result.already for result in results) == [False, True]
    assert {result.inserted for result in results} == {5000}
    assert count_rows(tenant_url) == 5000
