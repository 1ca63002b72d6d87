"""The report of a tenant's storage: what is there, how it is kept, and that nothing is read through for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from scada_trio.config import StorageSettings
from scada_trio.errors import DatabaseError, DatabaseMisconfigured
from scada_trio.readings import Quality, ReadingBlock
from scada_trio.storage import report
from scada_trio.storage.maintenance import maintain
from scada_trio.storage.migrate import migrate_tenant
from scada_trio.storage.report import StorageReport, read_report
from scada_trio.storage.tenant_db import open_tenant_writer
from scada_trio.times import moment
from tests.fix_postgres import PostgresServer, fetch
from tests.storage_samples import BUFFER, batch, block, many, tag_table
from tests.test_storage_migrate import READINGS

PERIODS = StorageSettings()
DAY_US = 86_400_000_000


async def _report(url: SecretStr) -> StorageReport:
    return await read_report(url, PERIODS, connect_timeout_s=10, statement_timeout_s=30)


def _today_us(url: SecretStr) -> int:
    query = "SELECT (extract(epoch FROM date_trunc('day', now(), 'UTC')) * 1000000)::bigint"
    return int(fetch(url, query)[0][0])


async def _write(url: SecretStr, *days: int) -> tuple[datetime, datetime]:
    """3,000 readings on each of ``days``, in three series; the time of the first and the last one."""
    today_us = _today_us(url)
    parts = [many(3000, 3, today_us + day * DAY_US + 3_600_000_000) for day in days]
    # the first and the last are of the series that comes first in the index, and of the one that comes last
    first_us, last_us = int(min(part.time_us[0] for part in parts)), int(max(part.time_us[-1] for part in parts))
    parts.append(block((2, first_us - 5, 1.0, Quality.GOOD), (1, last_us + 5, 1.0, Quality.GOOD)))
    async with open_tenant_writer(url, tag_table(), connect_timeout_s=10, statement_timeout_s=60) as writer:
        await writer.write(batch(1, ReadingBlock.concatenate(parts)), BUFFER)
    return moment(first_us - 5), moment(last_us + 5)


async def test_an_empty_database(tenant_of_each_kind: SecretStr) -> None:
    """Nothing is oldest and nothing newest."""
    found = await _report(tenant_of_each_kind)
    assert (found.oldest, found.newest, found.rows_estimate, found.compression_ratio) == (None, None, 0, None)
    assert found.ours
    assert found.tells_repeated
    assert [rollup.materialised_until for rollup in found.rollups] == [None] * 3


async def test_sizes_ends_and_rows(tenant_of_each_kind: SecretStr) -> None:
    """The ends are exact, sizes add up, and the rows are near the truth before and after an ANALYZE."""
    first, last = await _write(tenant_of_each_kind, -20, -19, 0)
    for _ in range(2):
        found = await _report(tenant_of_each_kind)
        assert (found.oldest, found.newest) == (first, last)
        assert found.oldest_exact
        assert found.newest_exact
        assert 9002 / 2 < found.rows_estimate < 9002 * 2
        assert 0 < found.table_bytes < found.total_bytes
        assert [index.name for index in found.indexes] == ["scada_readings_series"]
        assert 0 < found.indexes[0].bytes <= found.index_bytes
        fetch(tenant_of_each_kind, "ANALYZE scada_readings")
    assert abs(found.rows_estimate - 9002) <= 9


async def test_native_partitions_and_who_keeps_them(tenant_url: SecretStr) -> None:
    """The service's own maintenance is a policy like another: when it ran, when it will, how often it failed."""
    before = await _report(tenant_url)
    assert (before.kind, before.timescaledb, before.chunks) == ("native partitions", None, 6)
    assert [(policy.what, policy.setting, policy.runs) for policy in before.policies] == [
        ("make partitions ahead (by the service)", "3 days", 0),
        ("drop after (by the service)", "730 days", 0),
    ]
    await maintain(tenant_url, PERIODS, connect_timeout_s=10)
    await maintain(tenant_url, PERIODS, connect_timeout_s=10)
    (policy, _) = (await _report(tenant_url)).policies
    assert (policy.runs, policy.failures, policy.last_status, policy.last_error) == (2, 0, "Success", None)
    assert policy.last_run is not None
    assert policy.next_run == policy.last_run + report.MAINTENANCE_EVERY
    fetch(tenant_url, "DROP FUNCTION scada_make_partition")
    fetch(tenant_url, "DROP TABLE scada_readings_p" + f"{moment(_today_us(tenant_url)):%Y%m%d}")
    with pytest.raises(DatabaseError):
        await maintain(tenant_url, PERIODS, connect_timeout_s=10)
    (policy, _) = (await _report(tenant_url)).policies
    assert (policy.runs, policy.failures, policy.last_status) == (3, 1, "Failed")
    assert "scada_make_partition" in str(policy.last_error)


async def test_a_hypertable_and_its_jobs(timescale_url: SecretStr) -> None:
    """Compression, policies, and how far each rollup is materialised."""
    migrate_tenant(timescale_url)
    first, last = await _write(timescale_url, -20, -19, -1)
    fetch(timescale_url, "SELECT compress_chunk(c) FROM show_chunks('scada_readings', INTERVAL '7 days') c")
    fetch(
        timescale_url, "CALL refresh_continuous_aggregate('scada_readings_hourly', NULL, now() - INTERVAL '12 hours')"
    )
    found = await _report(timescale_url)
    assert (found.kind, found.chunks, found.compressed_chunks) == ("hypertable", 3, 2)
    assert str(found.timescaledb).startswith("2.")
    assert (found.oldest, found.newest, found.oldest_exact, found.newest_exact) == (first, last, True, True)
    assert 9002 * 0.8 < found.rows_estimate < 9002 * 1.5
    assert found.compression_ratio is not None
    assert found.compression_ratio > 1
    assert [(policy.relation, policy.what, policy.setting) for policy in found.policies] == [
        ("scada_readings", "compress after", "7 days"),
        ("scada_readings", "drop after", "730 days"),
        ("scada_readings_daily", "refresh back to", None),
        ("scada_readings_hourly", "refresh back to", "730 days"),
        ("scada_readings_monthly", "refresh back to", None),
        ("scada_readings", "analyze compressed chunks (by the service)", None),
    ]
    hourly, daily, monthly = found.rollups
    assert hourly.materialised_until is not None
    assert hourly.materialised_until >= last.replace(minute=0, second=0, microsecond=0)
    assert (daily.materialised_until, monthly.materialised_until) == (None, None)
    assert hourly.bytes is not None
    assert hourly.bytes > 0


async def test_an_adopted_table(postgres: PostgresServer) -> None:
    """Ordinary, without a unique index, with a time that no calendar has."""
    url = postgres.create_database()
    fetch(url, READINGS)
    fetch(url, "CREATE INDEX ON scada_readings (timestamp DESC)")
    fetch(url, "INSERT INTO scada_readings SELECT now(), gen_random_uuid(), 'old', n FROM generate_series(1, 5000) n")
    migrate_tenant(url)
    found = await _report(url)
    assert (found.kind, found.ours, found.tells_repeated, found.chunks) == ("ordinary table", False, False, 0)
    assert 2500 < found.rows_estimate < 10_000
    assert found.oldest == found.newest
    assert found.oldest is not None
    assert found.policies == ()
    assert [(rollup.kind, rollup.ours) for rollup in found.rollups] == [("view", True)] * 3
    fetch(url, "INSERT INTO scada_readings VALUES ('infinity', gen_random_uuid(), 'x', 1)")
    assert (await _report(url)).newest is None


async def test_an_adopted_hypertable(timescale_url: SecretStr) -> None:
    """With whatever jobs its application gave it."""
    fetch(timescale_url, "CREATE EXTENSION IF NOT EXISTS timescaledb")
    fetch(timescale_url, READINGS)
    fetch(timescale_url, "SELECT create_hypertable('scada_readings', 'timestamp')")
    fetch(timescale_url, "SELECT add_retention_policy('scada_readings', INTERVAL '90 days')")
    migrate_tenant(timescale_url)
    found = await _report(timescale_url)
    assert (found.kind, found.ours, found.tells_repeated) == ("hypertable", False, False)
    assert next((p.what, p.setting) for p in found.policies if p.relation == "scada_readings") == (
        "drop after",
        "90 days",
    )


async def test_an_end_that_takes_too_long(tenant_url: SecretStr, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of its partition are told instead, as such."""
    await _write(tenant_url, -20, 0)
    monkeypatch.setattr(report, "_END_TIMEOUT", "SET LOCAL statement_timeout = '50ms'")
    for name in ("_OLDEST", "_NEWEST"):
        monkeypatch.setattr(report, name, "SELECT max(timestamp) FROM {part}, pg_sleep(60)")
    found = await _report(tenant_url)
    today_us = _today_us(tenant_url)
    assert (found.oldest, found.oldest_exact) == (moment(today_us - 20 * DAY_US), False)
    assert (found.newest, found.newest_exact) == (moment(today_us + DAY_US), False)


async def test_nothing_is_read_through(tenant_url: SecretStr) -> None:
    """Of 200,000 readings a few pages are touched."""
    today_us = _today_us(tenant_url)
    async with open_tenant_writer(tenant_url, tag_table(), connect_timeout_s=10, statement_timeout_s=60) as writer:
        for day in range(-10, 0):
            await writer.write(batch(day + 11, many(20_000, 3, today_us + day * DAY_US)), BUFFER)
    fetch(tenant_url, "VACUUM ANALYZE scada_readings")
    fetch(tenant_url, "SELECT pg_stat_force_next_flush(), pg_stat_reset()")
    await _report(tenant_url)
    read = """SELECT coalesce(sum(seq_tup_read), 0), coalesce(sum(idx_scan), 0) FROM pg_stat_user_tables
        WHERE relname LIKE 'scada_readings_p%%'"""
    sequential, looks = fetch(tenant_url, read)[0]
    assert sequential == 0
    assert 0 < looks < 50


async def test_no_table(postgres: PostgresServer) -> None:
    """Not migrated: which command helps is told."""
    with pytest.raises(DatabaseMisconfigured, match="run scada-trio migrate"):
        await _report(postgres.create_database())


# --- the command


def _command(postgres: PostgresServer, tmp_path: Path, *arguments: str, **environment: str) -> str:
    variables = {**os.environ, "DATA_DIR": str(tmp_path), "ENCRYPTION_KEY": "k" * 32, **environment}
    command = [sys.executable, "-m", "scada_trio", *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command(postgres: PostgresServer, tmp_path: Path) -> None:
    """A table for people, JSON for programs."""
    master = postgres.create_master().get_secret_value()
    tenant = postgres.create_database().get_secret_value()
    _command(postgres, tmp_path, "tenant", "add", "Acme", "--database-url", tenant, DATABASE_URL=master)
    shown = _command(postgres, tmp_path, "storage", "report", "--tenant", "Acme", DATABASE_URL=master)
    for words in ("native partitions", "rows, estimated", "drop after (by the service)", "scada_readings_monthly"):
        assert words in shown
    printed = _command(postgres, tmp_path, "storage", "report", "--tenant", "Acme", "--json", DATABASE_URL=master)
    found: dict[str, Any] = json.loads(printed)
    assert (found["kind"], found["chunks"], found["oldest"]) == ("native partitions", 6, None)
    assert found["policies"][1]["setting"] == "730 days"
    assert found["policies"][1]["every"] == 3600.0


def test_migrate_says_what_it_left_alone(postgres: PostgresServer, tmp_path: Path) -> None:
    """An adopted table's indexes and want of a unique one are named."""
    master = postgres.create_master().get_secret_value()
    url = postgres.create_database()
    fetch(url, READINGS)
    fetch(url, "CREATE INDEX by_time ON scada_readings (timestamp DESC)")
    said = _command(
        postgres, tmp_path, "tenant", "add", "Acme", "--database-url", url.get_secret_value(), DATABASE_URL=master
    )
    assert "left alone: scada_readings is an ordinary table of another application" in said
    assert "left alone: its indexes stay: by_time" in said
    assert "no unique index" in said
