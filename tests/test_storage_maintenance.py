"""Keeping a tenant's database in shape: partitions, retention, statistics; one process at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psycopg
import pytest
import trio
from pydantic import SecretStr

from scada_trio.config import StorageSettings
from scada_trio.errors import DatabaseError, DatabaseUnavailable
from scada_trio.readings import EMPTY_BLOCK, Quality, ReadingBlock
from scada_trio.storage import maintenance
from scada_trio.storage.maintenance import Maintenance, maintain
from scada_trio.storage.migrate import migrate_tenant
from scada_trio.storage.tenant_db import open_tenant_writer
from scada_trio.storage.window import TimeWindow
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import open_service
from tests.storage_samples import BUFFER, WELL, batch, block, count_rows, many, tag_table

PERIODS = StorageSettings()
PARTITIONS = """
    SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'scada_readings'::regclass ORDER BY 1"""
DEFAULT = "SELECT count(*) FROM scada_readings_default"
INSERT = """
    INSERT INTO scada_readings (timestamp, well_id, tag_node_id, value)
    SELECT date_trunc('day', now(), 'UTC') + make_interval(days => day, secs => n), gen_random_uuid(), 'late', n
    FROM unnest(%s::integer[]) AS day, generate_series(1, %s) AS n"""


async def _maintain(url: SecretStr, periods: StorageSettings = PERIODS) -> Maintenance:
    return await maintain(url, periods, connect_timeout_s=10)


def _today_us(url: SecretStr, days: int) -> int:
    query = "SELECT (extract(epoch FROM date_trunc('day', now(), 'UTC') + make_interval(days => %s)) * 1000000)::bigint"
    return int(fetch(url, query, days)[0][0])


def _make_partition(url: SecretStr, days: int) -> None:
    fetch(url, "SELECT scada_make_partition((now() AT TIME ZONE 'UTC')::date + %s)", days)


def _drop_partition(url: SecretStr, days: int) -> None:
    ((name,),) = fetch(
        url, "SELECT 'scada_readings_p' || to_char((now() AT TIME ZONE 'UTC')::date + %s, 'YYYYMMDD')", days
    )
    fetch(url, f"DROP TABLE {name}")


@contextmanager
def _locked(url: SecretStr) -> Iterator[psycopg.Connection]:
    """Somebody reads for a long time from the default partition, so that none can be attached."""
    with psycopg.connect(url.get_secret_value()) as connection:
        connection.execute("LOCK TABLE scada_readings IN ACCESS SHARE MODE")
        yield connection


async def _until_waiting(url: SecretStr) -> None:
    waiting = """SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
        AND datname = current_database() AND application_name = 'scada-trio maintenance'"""
    while not fetch(url, waiting)[0][0]:  # noqa: ASYNC110 - the server has no event for it
        await trio.sleep(0.01)


# --- native partitions


async def test_partitions_are_made_ahead(tenant_url: SecretStr) -> None:
    """Yesterday to three days ahead; asked again, nothing is left to do."""
    assert len(fetch(tenant_url, PARTITIONS)) == 6
    _drop_partition(tenant_url, 2)
    assert await _maintain(tenant_url) == Maintenance(made=1)
    assert await _maintain(tenant_url) == Maintenance()


async def test_the_days_of_an_outage_are_made_before_its_readings_come(tenant_url: SecretStr) -> None:
    """After ten days without maintenance there is a partition for each of them."""
    _make_partition(tenant_url, -10)
    for day in (-1, 0):
        _drop_partition(tenant_url, day)
    assert await _maintain(tenant_url) == Maintenance(made=10)


async def test_readings_of_a_day_without_partition_are_moved_to_it(tenant_url: SecretStr) -> None:
    """What another application inserts lies in the default partition until maintenance makes its day."""
    fetch(tenant_url, INSERT, [-40, -39, -10, -800], 2)  # the last day is past retention
    assert fetch(tenant_url, DEFAULT) == [(8,)]
    assert await _maintain(tenant_url) == Maintenance(made=3)
    assert fetch(tenant_url, DEFAULT) == [(0,)]
    assert count_rows(tenant_url) == 6


async def test_a_late_reading_makes_its_day(tenant_url: SecretStr) -> None:
    """The writer makes the partition of a day before it sends the first reading of it."""
    days = [-40, -40, -39, -10]
    readings = block(*((0, _today_us(tenant_url, day) + n, 1.0, Quality.GOOD) for n, day in enumerate(days)))
    async with open_tenant_writer(tenant_url, tag_table(), connect_timeout_s=5, statement_timeout_s=30) as writer:
        assert (await writer.write(batch(1, readings), BUFFER)).inserted == 4
    assert len(fetch(tenant_url, PARTITIONS)) == 9
    assert fetch(tenant_url, DEFAULT) == [(0,)]


async def test_a_partition_that_cannot_be_made_now(tenant_url: SecretStr) -> None:
    """Behind a long query the reading goes to the default partition; the next maintenance moves it."""
    readings = block((0, _today_us(tenant_url, -40), 1.0, Quality.GOOD))
    async with open_tenant_writer(tenant_url, tag_table(), connect_timeout_s=5, statement_timeout_s=30) as writer:
        with _locked(tenant_url):
            assert (await writer.write(batch(1, readings), BUFFER)).inserted == 1
    assert fetch(tenant_url, DEFAULT) == [(1,)]
    assert await _maintain(tenant_url) == Maintenance(made=1)
    assert fetch(tenant_url, DEFAULT) == [(0,)]


@pytest.mark.parametrize(("days", "dropped"), [(730, 1), (30, 2), (0, 0)])
async def test_partitions_past_retention_are_dropped(tenant_url: SecretStr, days: int, dropped: int) -> None:
    """Whole days, when their last reading is past RAW_RETENTION_DAYS; 0 keeps them for good."""
    for day in (-732, -32, -30):
        _make_partition(tenant_url, day)
    assert await _maintain(tenant_url, StorageSettings(raw_days=days)) == Maintenance(dropped=dropped)


async def test_cursors_of_journals_that_are_gone(tenant_url: SecretStr) -> None:
    """A journal that wrote nothing for a year is forgotten; the others are not."""
    async with open_tenant_writer(tenant_url, tag_table(), connect_timeout_s=5, statement_timeout_s=30) as writer:
        await writer.write(batch(1, EMPTY_BLOCK), BUFFER)
        await writer.write(batch(1, EMPTY_BLOCK), WELL)
    fetch(
        tenant_url,
        "UPDATE scada_ingest_cursor SET updated_at = now() - INTERVAL '367 days' WHERE journal_id = %s",
        WELL,
    )
    await _maintain(tenant_url)
    assert fetch(tenant_url, "SELECT journal_id FROM scada_ingest_cursor") == [(BUFFER,)]


async def test_other_tables_are_left_alone(postgres: PostgresServer) -> None:
    """A database without our partitions has nothing to maintain."""
    url = postgres.create_database()
    fetch(url, "CREATE TABLE scada_readings (timestamp timestamptz)")
    assert await _maintain(url) == Maintenance()


async def test_maintenance_while_readings_are_written(tenant_url: SecretStr) -> None:
    """No reading is lost or refused while its day's partition is made under the writer's hands."""
    day_us = _today_us(tenant_url, -30)

    async def write(series: int) -> None:
        tags = tag_table(series)
        async with open_tenant_writer(tenant_url, tags, connect_timeout_s=5, statement_timeout_s=30) as writer:
            for sequence in range(1, 21):
                readings = many(300, series, day_us + (series * 100 + sequence) * 1_000_000)
                await writer.write(batch(sequence, readings), BUFFER if series == 3 else WELL)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, 3)
        nursery.start_soon(write, 2)
        fetch(tenant_url, INSERT, [-30, -31], 50)
        for _ in range(4):
            await _maintain(tenant_url)
    await _maintain(tenant_url)
    assert count_rows(tenant_url) == 12_100
    assert fetch(tenant_url, DEFAULT) == [(0,)]


async def test_times_of_any_year_make_no_partition_outside_the_window(tenant_url: SecretStr) -> None:
    """10,000 readings with random years: those outside the window are quarantined, and no day is made for them."""
    await _write_random_years(tenant_url)
    before = len(fetch(tenant_url, PARTITIONS))
    await _maintain(tenant_url, StorageSettings(raw_days=30))
    names = [name for (name,) in fetch(tenant_url, PARTITIONS) if name != "scada_readings_default"]
    ((first, last),) = fetch(
        tenant_url,
        """SELECT 'scada_readings_p' || to_char((now() AT TIME ZONE 'UTC')::date - 31, 'YYYYMMDD'),
           'scada_readings_p' || to_char((now() AT TIME ZONE 'UTC')::date + 7, 'YYYYMMDD')""",
    )
    assert all(first <= name <= last for name in names)
    assert before <= len(names) + 1 <= 40


async def test_times_of_any_year_make_no_chunk_outside_the_window(timescale_url: SecretStr) -> None:
    """The same on TimescaleDB."""
    await trio.to_thread.run_sync(migrate_tenant, timescale_url)
    await _write_random_years(timescale_url)
    chunks = fetch(
        timescale_url,
        """SELECT range_end > now() - INTERVAL '30 days' AND range_start < now() + INTERVAL '168 hours'
           FROM timescaledb_information.chunks WHERE hypertable_name = 'scada_readings'""",
    )
    assert 0 < len(chunks) <= 39
    assert all(inside for (inside,) in chunks)


async def _write_random_years(url: SecretStr) -> None:
    """9,900 readings between the years 1 and 9999 and 100 of the last 30 days, in one batch."""
    rng = np.random.default_rng(11)
    anywhere = rng.integers(-62_135_596_800_000_000, 253_402_300_799_999_999, 9_900)
    now_us = _today_us(url, 0)
    recent = now_us - rng.integers(0, 29 * 86_400_000_000, 100)
    times = rng.permutation(np.concatenate([anywhere, recent]))
    inside = int(np.count_nonzero((times > now_us - 29 * 86_400_000_000) & (times <= now_us + 7 * 86_400_000_000)))
    readings = ReadingBlock(np.zeros(10_000, np.int32), times, np.arange(10_000.0), np.zeros(10_000, np.uint8))
    window = TimeWindow.of(StorageSettings(max_age_days=30))
    async with open_tenant_writer(
        url, tag_table(), connect_timeout_s=10, statement_timeout_s=60, window=window
    ) as writer:
        result = await writer.write(batch(1, readings), BUFFER)
    assert (result.inserted, result.quarantined) == (inside, 10_000 - inside)
    reasons = fetch(url, "SELECT DISTINCT sqlstate, reason FROM scada_quarantine ORDER BY reason")
    assert reasons == [
        ("22008", "timestamp out of range: before 2000"),
        ("22008", "timestamp out of range: more than 168 hours ahead"),
        ("22008", "timestamp out of range: older than 30 days"),
    ]


# --- TimescaleDB


async def test_compressed_chunks_get_statistics(timescale_url: SecretStr) -> None:
    """Once each; the estimate of the number of rows is from them."""
    await trio.to_thread.run_sync(migrate_tenant, timescale_url)
    day_us = _today_us(timescale_url, -20)
    readings = ReadingBlock.concatenate([many(3000, 3, day_us), many(3000, 3, day_us + 86_400_000_000)])
    async with open_tenant_writer(timescale_url, tag_table(), connect_timeout_s=5, statement_timeout_s=30) as writer:
        await writer.write(batch(1, readings), BUFFER)
    assert await _maintain(timescale_url) == Maintenance()
    fetch(timescale_url, "SELECT compress_chunk(c) FROM show_chunks('scada_readings') c")
    assert fetch(timescale_url, "SELECT approximate_row_count('scada_readings')") == [(0,)]
    assert await _maintain(timescale_url) == Maintenance(analyzed=2)
    assert fetch(timescale_url, "SELECT approximate_row_count('scada_readings')") == [(6000,)]
    assert await _maintain(timescale_url) == Maintenance()


# --- who does it, and when it cannot be done

PROGRAM = """
import sys, trio
from pydantic import SecretStr
from scada_trio.config import StorageSettings
from scada_trio.storage.maintenance import maintain
async def main():
    print(await maintain(SecretStr(sys.stdin.readline().strip()), StorageSettings(), connect_timeout_s=10))
trio.run(main)
"""


async def test_two_processes_never_maintain_at_once(tenant_url: SecretStr) -> None:
    """While another process makes a partition this one does nothing; afterwards nothing is left to do."""
    _drop_partition(tenant_url, 2)
    with psycopg.connect(tenant_url.get_secret_value()) as connection:
        connection.execute("LOCK TABLE scada_readings IN ROW EXCLUSIVE MODE")
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdin is not None
            other.stdin.write(tenant_url.get_secret_value() + "\n")
            other.stdin.flush()
            await _until_waiting(tenant_url)
            assert await _maintain(tenant_url) == Maintenance(busy=True)
            connection.rollback()
            said = await trio.to_thread.run_sync(lambda: other.communicate()[0])
    assert said.strip() == "Maintenance(made=1, dropped=0, analyzed=0, busy=False)"
    assert await _maintain(tenant_url) == Maintenance()


async def test_a_long_query_does_not_hold_writers_up(tenant_url: SecretStr, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maintenance gives up after a moment; what it had done stays, and the next run does the rest."""
    monkeypatch.setattr(maintenance, "_LOCK_TIMEOUT", "SET lock_timeout = '100ms'")
    _drop_partition(tenant_url, 2)
    with _locked(tenant_url):
        with pytest.raises(DatabaseUnavailable) as caught:
            await _maintain(tenant_url)
        assert caught.value.sqlstate == "55P03"
        async with open_tenant_writer(tenant_url, tag_table(), connect_timeout_s=5, statement_timeout_s=30) as writer:
            now_us = _today_us(tenant_url, 0)
            assert (await writer.write(batch(1, many(30, 3, now_us)), BUFFER)).inserted == 30
    assert await _maintain(tenant_url) == Maintenance(made=1)


async def test_cancelled_maintenance_lets_go(tenant_url: SecretStr) -> None:
    """Nothing of it goes on behind the caller's back, and the lock is free."""
    _drop_partition(tenant_url, 2)
    with _locked(tenant_url):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_maintain, tenant_url)
            await _until_waiting(tenant_url)
            nursery.cancel_scope.cancel()
    assert await _maintain(tenant_url) == Maintenance(made=1)


async def test_a_database_that_is_away(own_postgres: PostgresServer) -> None:
    """An error like any other call's."""
    url = own_postgres.create_tenant()
    with own_postgres.stopped(), pytest.raises(DatabaseError):
        await _maintain(url)


async def test_a_service_maintains_its_tenants_and_counts_it(postgres: PostgresServer) -> None:
    """Runs and partitions are metrics; a run that fails is counted, said once and tried again."""
    url, broken = postgres.create_tenant(), postgres.create_tenant()
    _drop_partition(url, 2)
    _drop_partition(broken, 2)
    fetch(
        broken,
        """CREATE OR REPLACE FUNCTION scada_make_partition(day date) RETURNS boolean LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '53100'; END $$""",
    )
    async with open_service(postgres) as running:
        tenant, other = str(await running.add_tenant(url)), str(await running.add_tenant(broken))

        def value(name: str, **labels: str) -> float | None:
            return running.metrics.registry.get_sample_value(name, labels)

        await running.until(
            lambda: (
                value("scada_storage_maintenance_total", tenant_id=tenant, outcome="done") == 1.0
                and value("scada_storage_maintenance_total", tenant_id=other, outcome="failed") == 1.0
            )
        )
        assert value("scada_storage_partitions_total", tenant_id=tenant, change="made") == 1.0
        assert value("scada_storage_partitions_total", tenant_id=tenant, change="dropped") == 0.0
