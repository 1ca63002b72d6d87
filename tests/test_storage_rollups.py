"""Hourly, daily and monthly rollups: the same numbers from TimescaleDB's aggregates and from native views."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import trio
from pydantic import SecretStr

from scada_trio.config import StorageSettings
from scada_trio.readings import Quality, ReadingBlock, WriteResult
from scada_trio.storage.maintenance import Maintenance, maintain
from scada_trio.storage.migrate import migrate_tenant
from scada_trio.storage.query import open_reader
from scada_trio.storage.tenant_db import open_tenant_writer
from tests.fix_postgres import fetch
from tests.storage_samples import BUFFER, NOON_US, WELL, batch, block, count_rows, many, tag_table
from tests.test_storage_migrate import READINGS

NAMES = ("hourly", "daily", "monthly")
COLUMNS = ["bucket", "well_id", "tag_node_id", "avg", "min", "max", "stddev", "count"]
HOUR_US = 3_600_000_000


@pytest.fixture
def rollup_url(tenant_of_each_kind: SecretStr) -> SecretStr:
    """A migrated tenant database of each kind."""
    return tenant_of_each_kind


async def _write(url: SecretStr, sequence: int, readings: ReadingBlock) -> WriteResult:
    async with open_tenant_writer(url, tag_table(), connect_timeout_s=10, statement_timeout_s=60) as writer:
        return await writer.write(batch(sequence, readings), BUFFER)


async def test_rollups_aggregate_good_readings_and_count_the_rest(rollup_url: SecretStr) -> None:
    """Means, extremes and deviations over hours, days and months are those of the Good readings with a number."""
    rng = np.random.default_rng(7)
    count = 400
    values = rng.normal(1000, 3, count)
    times = NOON_US + np.sort(rng.integers(0, 12 * 24 * HOUR_US, count))  # within November and December 2025
    good = ReadingBlock(np.zeros(count, np.int32), times, values, np.zeros(count, np.uint8))
    others = block(
        (0, NOON_US + 1, 1e9, Quality.UNCERTAIN),
        (0, NOON_US + 2, math.nan, Quality.BAD),
        (0, NOON_US + 3, -1e9, Quality.BAD),
        (0, NOON_US + 4, math.nan, Quality.GOOD),
        (0, NOON_US + 5, math.inf, Quality.GOOD),
    )
    assert await _write(rollup_url, 1, ReadingBlock.concatenate([good, others])) == WriteResult(inserted=count + 5)
    for name, unit in zip(NAMES, ("hour", "day", "month"), strict=True):
        rows = fetch(
            rollup_url,
            f"""SELECT (extract(epoch FROM bucket) * 1000000)::bigint, well_id, tag_node_id, avg, min, max, stddev,
                count, uncertain_count, bad_count, total_count FROM scada_readings_{name} ORDER BY bucket""",
        )
        buckets = {
            row[0]: values[(times >= row[0]) & (times < _end(rollup_url, row[0], unit))].tolist() for row in rows
        }
        assert sum(len(bucket) for bucket in buckets.values()) == count
        for bucket_us, well_id, node_id, avg, low, high, stddev, good_count, *_ in rows:
            bucket = buckets[bucket_us]
            assert (well_id, node_id, good_count) == (WELL, "ns=2;s=Tag0", len(bucket))
            assert (low, high) == (min(bucket), max(bucket))
            assert avg == pytest.approx(statistics.fmean(bucket), rel=1e-12)
            if len(bucket) > 1:
                assert stddev == pytest.approx(statistics.stdev(bucket), rel=1e-6, abs=1e-6)
        assert [sum(row[column] for row in rows) for column in (7, 8, 9, 10)] == [count, 1, 2, count + 5]


def _end(url: SecretStr, bucket_us: int, unit: str) -> int:
    query = f"""SELECT (extract(epoch FROM (to_timestamp(%s) AT TIME ZONE 'UTC' + interval '1 {unit}')
                AT TIME ZONE 'UTC') * 1000000)::bigint"""
    return int(fetch(url, query, bucket_us / 1_000_000)[0][0])


def test_rollups_have_the_same_columns(rollup_url: SecretStr) -> None:
    """Whoever reads them need not know what keeps them."""
    query = "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
    for name in NAMES:
        columns = [column for (column,) in fetch(rollup_url, query, f"scada_readings_{name}")]
        assert columns == [*COLUMNS, "uncertain_count", "bad_count", "total_count"]


# --- TimescaleDB


async def test_a_hypertable_takes_and_gives_readings(timescale_url: SecretStr) -> None:
    """COPY, merge, cursor and query are the same there."""
    await trio.to_thread.run_sync(migrate_tenant, timescale_url)
    readings = many(5000, 3)
    assert await _write(timescale_url, 1, readings) == WriteResult(inserted=5000)
    assert (await _write(timescale_url, 1, readings)).already
    changed = ReadingBlock.concatenate([many(10, 1), block((0, NOON_US, -1.0, Quality.GOOD))])
    result = await _write(timescale_url, 2, changed)
    assert (result.inserted, result.duplicates + result.replaced) == (0, 11)
    reader = open_reader(timescale_url, limiter=trio.CapacityLimiter(1), connect_timeout_s=10, statement_timeout_s=60)
    async with reader:
        rows = await reader.query_readings(WELL, 0, NOON_US, 10)
    assert sorted(zip(rows.node_ids, rows.value.tolist(), strict=True)) == [("ns=2;s=Tag0", -1.0), ("ns=2;s=Tag2", 2.0)]
    assert await maintain(timescale_url, StorageSettings(), connect_timeout_s=10) == Maintenance()


def test_the_hypertable_is_set_up_as_promised(timescale_url: SecretStr) -> None:
    """Chunks of a day, one index, compression after a week by series, retention of two years, refresh policies."""
    report = migrate_tenant(timescale_url)
    assert len(report.applied) == 8
    assert migrate_tenant(timescale_url).applied == ()
    chunks = (
        "SELECT time_interval::text FROM timescaledb_information.dimensions WHERE hypertable_name = 'scada_readings'"
    )
    assert fetch(timescale_url, chunks) == [("1 day",)]
    indexes = fetch(timescale_url, "SELECT indexname::text FROM pg_indexes WHERE tablename = 'scada_readings'")
    assert indexes == [("scada_readings_series",)]
    settings = fetch(
        timescale_url,
        """SELECT segmentby, orderby FROM timescaledb_information.hypertable_compression_settings
           WHERE hypertable = 'scada_readings'::regclass""",
    )
    assert settings == [("well_id,tag_node_id", '"timestamp" DESC')]
    jobs = fetch(
        timescale_url,
        """SELECT proc_name::text, coalesce(config->>'compress_after', config->>'drop_after', '')
           FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL ORDER BY 1, 2""",
    )
    assert jobs == [
        ("policy_compression", "7 days"),
        *[("policy_refresh_continuous_aggregate", "")] * 3,
        ("policy_retention", "730 days"),
    ]


async def test_compressed_chunks_take_late_readings(timescale_url: SecretStr) -> None:
    """A late reading, and a repeated one, are told apart in a chunk that is compressed already."""
    await trio.to_thread.run_sync(migrate_tenant, timescale_url)
    await _write(timescale_url, 1, many(300, 3))
    fetch(timescale_url, "SELECT compress_chunk(c) FROM show_chunks('scada_readings') c")
    late = block((0, NOON_US, 0.0, Quality.GOOD), (0, NOON_US + 1, 5.0, Quality.GOOD))
    assert await _write(timescale_url, 2, late) == WriteResult(inserted=1, duplicates=1)
    assert count_rows(timescale_url) == 301


def test_rollups_are_materialised(timescale_url: SecretStr) -> None:
    """Each on the one below it; refreshed, they keep what they had counted."""
    migrate_tenant(timescale_url)
    fetch(
        timescale_url,
        """INSERT INTO scada_readings SELECT '2025-11-24 16:00Z'::timestamptz + n * interval '1 minute',
           '22222222-2222-4222-8222-222222222222', 'x', n FROM generate_series(0, 119) n""",
    )
    for name in NAMES:
        fetch(timescale_url, f"CALL refresh_continuous_aggregate('scada_readings_{name}', NULL, NULL)")
        fetch(
            timescale_url, f"ALTER MATERIALIZED VIEW scada_readings_{name} SET (timescaledb.materialized_only = true)"
        )
    counts = [fetch(timescale_url, f"SELECT count(*), sum(count) FROM scada_readings_{name}") for name in NAMES]
    assert counts == [[(2, 120)], [(1, 120)], [(1, 120)]]


def test_an_ordinary_table_beside_the_extension_stays_ordinary(timescale_url: SecretStr) -> None:
    """With data in it, it is adopted as it is, with views for rollups."""
    fetch(timescale_url, READINGS)
    assert migrate_tenant(timescale_url).flavour == "native"
    assert fetch(timescale_url, "SELECT relkind::text FROM pg_class WHERE oid = 'scada_readings_hourly'::regclass") == [
        ("v",)
    ]


def test_somebody_elses_hypertable_is_adopted(timescale_url: SecretStr) -> None:
    """Without index, compression or retention of ours; with rollups."""
    fetch(timescale_url, "CREATE EXTENSION IF NOT EXISTS timescaledb")
    fetch(timescale_url, READINGS)
    fetch(timescale_url, "SELECT create_hypertable('scada_readings', 'timestamp')")
    assert migrate_tenant(timescale_url).flavour == "timescaledb"
    jobs = "SELECT proc_name::text FROM timescaledb_information.jobs WHERE hypertable_name = 'scada_readings'"
    assert fetch(timescale_url, jobs) == []
    assert fetch(timescale_url, "SELECT count(*) FROM timescaledb_information.continuous_aggregates") == [(3,)]
