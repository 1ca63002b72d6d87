"""Queries of stored readings, against a model in memory and against what goes wrong."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import psycopg
import pytest
import trio
from pydantic import SecretStr

from scada_trio.errors import DatabaseMisconfigured, DatabaseUnavailable
from scada_trio.readings import Quality, ReadingBlock, ReadingRows, TagTable
from scada_trio.storage.query import TenantReader, open_reader
from scada_trio.storage.tenant_db import open_tenant_writer
from tests.fix_postgres import PostgresServer, fetch
from tests.storage_samples import BUFFER, NOON_US, OTHER_WELL, WELL, batch, block, many, tag_table

GOOD = Quality.GOOD
SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'scada-trio reader' AND datname = current_database()"""


async def _store(url: SecretStr, readings: ReadingBlock, tags: TagTable | None = None) -> None:
    async with open_tenant_writer(url, tags or tag_table(), connect_timeout_s=5, statement_timeout_s=30) as writer:
        await writer.write(batch(1, readings), BUFFER)


def _reader(
    url: SecretStr, limiter: trio.CapacityLimiter | None = None, *, statement_timeout_s: float = 30, idle_s: float = 60
) -> TenantReader:
    return open_reader(
        url,
        limiter=limiter or trio.CapacityLimiter(4),
        connect_timeout_s=5,
        statement_timeout_s=statement_timeout_s,
        idle_s=idle_s,
    )


def _rows(rows: ReadingRows) -> list[tuple[int, str, float, str]]:
    return list(zip(rows.time_us.tolist(), rows.node_ids, rows.value.tolist(), rows.qualities, strict=True))


@asynccontextmanager
async def _locked_readings(url: SecretStr) -> AsyncIterator[None]:
    with psycopg.connect(url.get_secret_value()) as connection:
        connection.execute("LOCK TABLE scada_readings IN ACCESS EXCLUSIVE MODE")
        yield


async def _until(url: SecretStr, query: str, expected: int) -> None:
    while fetch(url, query) != [(expected,)]:  # noqa: ASYNC110 - the server has no event for it
        await trio.sleep(0.01)


async def test_newest_first_within_the_range(tenant_url: SecretStr) -> None:
    """Both ends of the range belong to it; of the same time, node ids are in order; other wells are not there."""
    await _store(
        tenant_url,
        block(
            (2, NOON_US, 3.0, GOOD),
            (0, NOON_US, 1.0, Quality.UNCERTAIN),
            (1, NOON_US, 2.0, GOOD),
            (0, NOON_US - 1, 0.0, GOOD),
            (0, NOON_US + 1, math.inf, Quality.BAD),
            (0, NOON_US + 2, 9.0, GOOD),
        ),
    )
    async with _reader(tenant_url) as reader:
        rows = await reader.query_readings(WELL, NOON_US, NOON_US + 1, 10)
        assert _rows(rows) == [
            (NOON_US + 1, "ns=2;s=Tag0", math.inf, "Bad"),
            (NOON_US, "ns=2;s=Tag0", 1.0, "Uncertain"),
            (NOON_US, "ns=2;s=Tag2", 3.0, "Good"),
        ]
        assert rows.well_id == WELL
        assert _rows(await reader.query_readings(OTHER_WELL, 0, 2**62, 10)) == [(NOON_US, "ns=2;s=Tag1", 2.0, "Good")]
        assert _rows(await reader.query_readings(WELL, NOON_US, NOON_US + 1, 1)) == _rows(rows)[:1]


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
async def test_windows_give_what_one_query_would(tenant_url: SecretStr, limit: int) -> None:
    """Sparse and dense, from years ago to tomorrow: the newest come, none twice, none left out."""
    now_us = time.time_ns() // 1000
    ages_s = [-86_400, -3600, -61, -60, -59, 0, 59, 60, 61, 119, 120, 121, 3600, 86_400, 20 * 86_400, 600 * 86_400]
    sparse = block(*((0, now_us - age * 1_000_000, float(age), GOOD) for age in ages_s))
    await _store(tenant_url, ReadingBlock.concatenate([sparse, many(600, 3, now_us - 500_000_000)]))
    query = """
        SELECT (extract(epoch FROM timestamp) * 1000000)::bigint, tag_node_id, value, quality
        FROM scada_readings WHERE well_id = %s ORDER BY timestamp DESC, tag_node_id LIMIT %s"""
    async with _reader(tenant_url) as reader:
        rows = await reader.query_readings(WELL, -(2**62), 2**62, limit)
    assert _rows(rows) == fetch(tenant_url, query, WELL, limit)


async def test_nothing_found(tenant_url: SecretStr) -> None:
    """An unknown well, and a range that ends before it begins, are empty, not errors."""
    async with _reader(tenant_url) as reader:
        for well_id, start_us, end_us in ((UUID(int=1), 0, NOON_US), (WELL, NOON_US, 0)):
            rows = await reader.query_readings(well_id, start_us, end_us, 10)
            assert _rows(rows) == []
            assert (str(rows.time_us.dtype), str(rows.value.dtype)) == ("int64", "float64")


async def test_connections_are_opened_when_needed_and_closed_when_idle(tenant_url: SecretStr) -> None:
    """None before the first query, one kept for the next, none after the idle time."""
    async with _reader(tenant_url, idle_s=0.05) as reader:
        assert fetch(tenant_url, SESSIONS) == [(0,)]
        await reader.query_readings(WELL, 0, NOON_US, 10)
        await _until(tenant_url, SESSIONS, 0)
        await reader.query_readings(WELL, 0, NOON_US, 10)
    await _until(tenant_url, SESSIONS, 0)


async def test_an_idle_connection_is_used_again(tenant_url: SecretStr) -> None:
    """Queries one after the other take one connection; those at once take several."""
    async with _reader(tenant_url) as reader:
        for _ in range(3):
            await reader.query_readings(WELL, 0, NOON_US, 10)
        assert fetch(tenant_url, SESSIONS) == [(1,)]
        async with trio.open_nursery() as nursery, _locked_readings(tenant_url):
            for _ in range(6):
                nursery.start_soon(reader.query_readings, WELL, 0, NOON_US, 10)
            await _until(tenant_url, SESSIONS, 4)
        assert fetch(tenant_url, SESSIONS) == [(4,)]
    await _until(tenant_url, SESSIONS, 0)
    async with reader:  # again
        await reader.query_readings(WELL, 0, NOON_US, 10)


async def test_idle_connections_make_room_for_other_tenants(postgres: PostgresServer) -> None:
    """The bound is on all connections, and a tenant that is quiet does not keep another one from reading."""
    limiter = trio.CapacityLimiter(1)
    quiet_url, busy_url = postgres.create_tenant(), postgres.create_tenant()
    async with _reader(quiet_url, limiter) as quiet, _reader(busy_url, limiter) as busy:
        await quiet.query_readings(WELL, 0, NOON_US, 10)
        assert fetch(quiet_url, SESSIONS) == [(1,)]
        await busy.query_readings(WELL, 0, NOON_US, 10)
        await _until(quiet_url, SESSIONS, 0)
        assert fetch(busy_url, SESSIONS) == [(1,)]
    assert limiter.borrowed_tokens == 0


async def test_a_cancelled_query_ends_on_the_server(tenant_url: SecretStr) -> None:
    """And its connection is used on."""
    waiting = f"{SESSIONS} AND wait_event_type = 'Lock'"
    async with _reader(tenant_url) as reader:
        async with _locked_readings(tenant_url), trio.open_nursery() as nursery:
            nursery.start_soon(reader.query_readings, WELL, 0, NOON_US, 10)
            await _until(tenant_url, waiting, 1)
            nursery.cancel_scope.cancel()
        assert fetch(tenant_url, waiting) == [(0,)]
        await reader.query_readings(WELL, 0, NOON_US, 10)
        assert fetch(tenant_url, SESSIONS) == [(1,)]


async def test_a_query_that_takes_too_long(tenant_url: SecretStr) -> None:
    """The server stops it."""
    async with _reader(tenant_url, statement_timeout_s=0.1) as reader, _locked_readings(tenant_url):
        with pytest.raises(DatabaseUnavailable) as caught:
            await reader.query_readings(WELL, 0, NOON_US, 10)
    assert caught.value.sqlstate == "57014"


async def test_a_restarted_server_is_not_noticed(own_postgres: PostgresServer) -> None:
    """Idle connections that the restart broke are not tried."""
    url = own_postgres.create_tenant()
    await _store(url, many(10, 1))
    async with _reader(url) as reader:
        before = await reader.query_readings(WELL, 0, 2**62, 100)
        with own_postgres.stopped(), pytest.raises(DatabaseUnavailable):
            await reader.query_readings(WELL, 0, 2**62, 100)
        after = await reader.query_readings(WELL, 0, 2**62, 100)
        assert _rows(before) == _rows(after) != []


async def test_a_database_that_is_not_migrated(postgres: PostgresServer) -> None:
    """The error names the command."""
    async with _reader(postgres.create_database()) as reader:
        with pytest.raises(DatabaseMisconfigured, match="run scada-trio migrate"):
            await reader.query_readings(WELL, 0, NOON_US, 10)
