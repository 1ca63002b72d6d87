"""TimescaleDB's jobs follow the settings and lose no rollup; what another application made is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from pydantic import SecretStr

from scada_trio.config import StorageSettings
from scada_trio.readings import Quality, WriteResult
from scada_trio.storage.migrate import MigrationReport, migrate_tenant
from scada_trio.storage.tenant_db import open_tenant_writer
from tests.fix_postgres import PostgresServer, fetch
from tests.storage_samples import BUFFER, batch, block, count_rows, tag_table
from tests.test_storage_migrate import READINGS

DEFAULT = StorageSettings()
OTHER = StorageSettings(
    raw_days=365, compress_after_days=30, chunk_hours=12, hourly_days=400, daily_days=800, monthly_days=1600
)
JOBS = """
    SELECT coalesce(a.user_view_name, h.table_name)::text, proc_name::text,
        coalesce(config ->> 'compress_after', config ->> 'drop_after', config ->> 'start_offset')
    FROM timescaledb_information.jobs j
    JOIN _timescaledb_catalog.hypertable h
        ON h.id = coalesce(j.config ->> 'mat_hypertable_id', j.config ->> 'hypertable_id')::integer
    LEFT JOIN _timescaledb_catalog.continuous_agg a ON a.mat_hypertable_id = h.id
    ORDER BY 1, 2"""
CHUNK = "SELECT time_interval::text FROM timescaledb_information.dimensions WHERE hypertable_name = 'scada_readings'"
# What NestJS' migrations made: a hypertable with three indexes, none unique.
NEST = (
    "CREATE EXTENSION IF NOT EXISTS timescaledb",
    READINGS,
    "SELECT create_hypertable('scada_readings', 'timestamp', chunk_time_interval => INTERVAL '7 days')",
    "CREATE INDEX idx_well_time ON scada_readings (well_id, timestamp DESC)",
    "CREATE INDEX idx_tag_time ON scada_readings (tag_node_id, timestamp DESC)",
    """INSERT INTO scada_readings (timestamp, well_id, tag_node_id, value)
       SELECT date_trunc('hour', now()) - n * INTERVAL '1 hour', '22222222-2222-4222-8222-222222222222',
           'ns=2;s=Tag0', n
       FROM generate_series(1, 1000) n""",
)


def _jobs(url: SecretStr) -> list[tuple[str, str, str | None]]:
    names = {
        "policy_compression": "compress",
        "policy_retention": "drop",
        "policy_refresh_continuous_aggregate": "refresh",
    }
    return [
        (relation.removeprefix("scada_readings").lstrip("_") or "raw", names[procedure], setting)
        for relation, procedure, setting in fetch(url, JOBS)
    ]


def test_the_jobs_are_what_the_settings_say(timescale_url: SecretStr) -> None:
    """At first, when they change, and when they change back; a job that does not differ is not touched."""
    first = migrate_tenant(timescale_url)
    assert len(first.changed) == 5
    assert _jobs(timescale_url) == [
        ("raw", "compress", "7 days"),
        ("raw", "drop", "730 days"),
        ("daily", "refresh", None),
        ("hourly", "refresh", "730 days"),
        ("monthly", "refresh", None),
    ]
    assert migrate_tenant(timescale_url) == MigrationReport((), "timescaledb")
    ids = fetch(timescale_url, "SELECT job_id FROM timescaledb_information.jobs ORDER BY 1")
    changed = migrate_tenant(timescale_url, OTHER).changed
    assert "scada_readings: dropped after 365 days (was dropped after 730 days)" in changed
    assert "scada_readings: chunks of 12 hours from the next one on (were of 1 day)" in changed
    assert len(changed) == 9
    assert _jobs(timescale_url) == [
        ("raw", "compress", "30 days"),
        ("raw", "drop", "365 days"),
        ("daily", "refresh", "400 days"),
        ("daily", "drop", "800 days"),
        ("hourly", "refresh", "365 days"),
        ("hourly", "drop", "400 days"),
        ("monthly", "refresh", "800 days"),
        ("monthly", "drop", "1600 days"),
    ]
    assert fetch(timescale_url, CHUNK) == [("12:00:00",)]
    assert set(ids) <= set(fetch(timescale_url, "SELECT job_id FROM timescaledb_information.jobs"))
    assert migrate_tenant(timescale_url, OTHER).changed == ()
    assert len(migrate_tenant(timescale_url).changed) == 9
    forever = replace(DEFAULT, raw_days=0, compress_after_days=0)
    assert migrate_tenant(timescale_url, forever).changed == (
        "scada_readings: not compressed (was compressed after 7 days)",
        "scada_readings_hourly: takes late readings of any age (was takes late readings of 730 days)",
        "scada_readings: kept for good (was dropped after 730 days)",
    )


def test_what_an_operator_set_beside_stays(timescale_url: SecretStr) -> None:
    """A job that is paused stays paused when its period changes, and keeps its schedule."""
    migrate_tenant(timescale_url)
    fetch(
        timescale_url,
        """SELECT alter_job(job_id, scheduled => false, schedule_interval => INTERVAL '5 days')
           FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'""",
    )
    migrate_tenant(timescale_url, replace(DEFAULT, raw_days=100))
    kept = """SELECT scheduled, schedule_interval::text, config ->> 'drop_after'
        FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"""
    assert fetch(timescale_url, kept) == [(False, "5 days", "100 days")]


def test_a_migration_that_was_interrupted_gets_its_jobs(timescale_url: SecretStr) -> None:
    """Killed between the tables and their jobs, the next one makes the jobs."""
    migrate_tenant(timescale_url)
    jobs = _jobs(timescale_url)
    fetch(timescale_url, "SELECT delete_job(job_id) FROM timescaledb_information.jobs WHERE proc_name LIKE 'policy_%%'")
    assert migrate_tenant(timescale_url).applied == ()
    assert _jobs(timescale_url) == jobs


def _run_jobs(url: SecretStr, procedure: str) -> None:
    query = "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = %s ORDER BY job_id"
    for (job_id,) in fetch(url, query, procedure):
        fetch(url, f"CALL run_job({job_id})")


def _buckets(url: SecretStr) -> list[int]:
    return [fetch(url, f"SELECT count(*) FROM scada_readings_{name}")[0][0] for name in ("hourly", "daily", "monthly")]


async def test_late_readings_reach_every_rollup(timescale_url: SecretStr) -> None:
    """A reading of months ago, into a chunk that is compressed and rolled up already, is counted when the jobs run."""
    await trio.to_thread.run_sync(migrate_tenant, timescale_url)
    ((start_us,),) = fetch(
        timescale_url,
        "SELECT (extract(epoch FROM date_trunc('day', now(), 'UTC')) * 1000000)::bigint - 86400000000 * 200",
    )
    async with open_tenant_writer(timescale_url, tag_table(), connect_timeout_s=10, statement_timeout_s=60) as writer:
        await writer.write(batch(1, block(*((0, start_us + n, 1.0, Quality.GOOD) for n in range(10)))), BUFFER)
        for procedure in ("policy_refresh_continuous_aggregate", "policy_compression"):
            await trio.to_thread.run_sync(_run_jobs, timescale_url, procedure)
        late = block((0, start_us + 5_000_000, 3.0, Quality.GOOD), (0, start_us, 9.0, Quality.GOOD))
        assert await writer.write(batch(2, late), BUFFER) == WriteResult(inserted=1, replaced=1)
    await trio.to_thread.run_sync(_run_jobs, timescale_url, "policy_refresh_continuous_aggregate")
    for name in ("hourly", "daily", "monthly"):
        fetch(
            timescale_url, f"ALTER MATERIALIZED VIEW scada_readings_{name} SET (timescaledb.materialized_only = true)"
        )
        rows = fetch(timescale_url, f"SELECT count, min, max FROM scada_readings_{name}")
        assert rows == [(11, 1.0, 9.0)]


def test_a_retention_that_is_raised_takes_no_rollup_away(timescale_url: SecretStr) -> None:
    """What was dropped before is not refreshed to nothing: the window grows only as far as there are readings."""
    short = replace(DEFAULT, raw_days=30)
    migrate_tenant(timescale_url, replace(short, raw_days=0))
    fetch(
        timescale_url,
        """INSERT INTO scada_readings (timestamp, well_id, tag_node_id, value)
           SELECT now() - n * INTERVAL '1 day', gen_random_uuid(), 'x', n FROM generate_series(1, 300) n""",
    )
    _run_jobs(timescale_url, "policy_refresh_continuous_aggregate")
    before = _buckets(timescale_url)
    assert before[0] == 300
    migrate_tenant(timescale_url, short)
    _run_jobs(timescale_url, "policy_retention")
    assert count_rows(timescale_url) < 32
    changed = migrate_tenant(timescale_url, replace(short, raw_days=200)).changed
    assert any(line.startswith("scada_readings: dropped after 200 days") for line in changed)
    (window,) = [
        setting for relation, kind, setting in _jobs(timescale_url) if (relation, kind) == ("hourly", "refresh")
    ]
    assert window in ("30 days", "31 days")
    _run_jobs(timescale_url, "policy_refresh_continuous_aggregate")
    assert _buckets(timescale_url) == before


# --- what another application made


async def test_a_hypertable_of_nestjs_is_adopted(timescale_url: SecretStr) -> None:
    """With its data, indexes, chunks and want of jobs; nothing is rewritten, and everything works on it."""
    for statement in NEST:
        fetch(timescale_url, statement)
    fetch(
        timescale_url,
        "ALTER TABLE scada_readings SET (timescaledb.compress, timescaledb.compress_segmentby = 'well_id')",
    )
    fetch(timescale_url, "SELECT compress_chunk(c) FROM show_chunks('scada_readings', INTERVAL '14 days') c")
    state = """SELECT c.relname::text, pg_relation_filenode(c.oid), pg_relation_size(c.oid) FROM pg_class c
        WHERE relname LIKE '%%hyper%%chunk' ORDER BY 1"""
    before = fetch(timescale_url, state)
    report = await trio.to_thread.run_sync(migrate_tenant, timescale_url, OTHER)
    assert fetch(timescale_url, state) == before
    assert report.left_alone == (
        "scada_readings is a hypertable of another application and stays as it is: chunks of 7 days, "
        "no compression policy, no retention policy",
        "its indexes stay: idx_tag_time, idx_well_time, scada_readings_timestamp_idx",
        "it has no unique index on (well_id, tag_node_id, timestamp): repeated readings are looked up instead",
    )
    assert [job for job in _jobs(timescale_url) if job[0] == "raw"] == []
    assert ("hourly", "refresh", "400 days") in _jobs(timescale_url)
    again = await trio.to_thread.run_sync(migrate_tenant, timescale_url, OTHER)
    assert (again.applied, again.changed, again.left_alone) == ((), (), report.left_alone)
    (oldest_us, newest_us) = fetch(
        timescale_url,
        """SELECT (extract(epoch FROM min(timestamp)) * 1000000)::bigint,
           (extract(epoch FROM max(timestamp)) * 1000000)::bigint FROM scada_readings""",
    )[0]
    readings = block(
        (0, oldest_us, 1000.0, Quality.GOOD),  # stored already, in a compressed chunk
        (0, oldest_us + 3_600_000_000, 5.0, Quality.GOOD),  # another value
        (0, newest_us + 1, 7.0, Quality.GOOD),
    )
    async with open_tenant_writer(timescale_url, tag_table(), connect_timeout_s=10, statement_timeout_s=60) as writer:
        result = await writer.write(batch(1, readings), BUFFER)
    assert result == WriteResult(inserted=1, duplicates=1, replaced=1)
    assert count_rows(timescale_url) == 1001
    await trio.to_thread.run_sync(_run_jobs, timescale_url, "policy_refresh_continuous_aggregate")
    assert fetch(timescale_url, "SELECT sum(count) FROM scada_readings_hourly") == [(1001,)]


def test_its_own_retention_bounds_the_rollups(timescale_url: SecretStr) -> None:
    """A window as long as what the application keeps, whatever our settings say."""
    for statement in NEST:
        fetch(timescale_url, statement)
    fetch(timescale_url, "SELECT add_retention_policy('scada_readings', INTERVAL '60 days')")
    report = migrate_tenant(timescale_url)
    assert "chunks of 7 days, no compression policy, dropped after 60 days" in report.left_alone[0]
    assert ("hourly", "refresh", "60 days") in _jobs(timescale_url)
    assert ("raw", "drop", "60 days") in _jobs(timescale_url)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            """CREATE MATERIALIZED VIEW scada_readings_hourly WITH (timescaledb.continuous) AS
               SELECT time_bucket('1 hour', timestamp) AS bucket, well_id, tag_node_id, avg(value) AS avg
               FROM scada_readings GROUP BY 1, 2, 3 WITH NO DATA""",
            "scada_readings_hourly has no column min",
        ),
        (
            "CREATE VIEW scada_readings_hourly AS SELECT timestamp AS bucket FROM scada_readings",
            "scada_readings_hourly is no continuous aggregate",
        ),
    ],
)
def test_a_rollup_of_another_application(timescale_url: SecretStr, made: str, said: str) -> None:
    """It is neither altered nor built upon where it does not fit, and that is said each time."""
    for statement in NEST:
        fetch(timescale_url, statement)
    fetch(timescale_url, made)
    report = migrate_tenant(timescale_url)
    assert report.left_alone[-3:] == (
        "scada_readings_hourly is another application's: used as it is",
        f"scada_readings_daily cannot be made: {said}",
        f"scada_readings_monthly cannot be made: {said}",
    )
    assert _jobs(timescale_url) == []
    again = migrate_tenant(timescale_url)
    assert (again.applied, again.left_alone) == ((), report.left_alone)


def test_an_ordinary_table_of_nestjs(postgres: PostgresServer) -> None:
    """What stays as it is is said for it, too; a unique index of its own tells repeated readings."""
    url = postgres.create_database()
    fetch(url, READINGS)
    fetch(url, "CREATE UNIQUE INDEX own ON scada_readings (timestamp, tag_node_id, well_id)")
    fetch(url, "CREATE VIEW scada_readings_daily AS SELECT timestamp AS bucket FROM scada_readings")
    report = migrate_tenant(url)
    assert report.left_alone == (
        "scada_readings is an ordinary table of another application and stays as it is: "
        "no partitions, no compression, no retention of ours",
        "its indexes stay: own",
        "scada_readings_daily is another application's: used as it is",
    )
    assert migrate_tenant(url) == replace(report, applied=())
