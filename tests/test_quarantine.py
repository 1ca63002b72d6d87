"""Rows that a database does not take: set aside with the reason, and everything else of their batch stored once."""

from __future__ import annotations

import math
import time
from contextlib import AbstractAsyncContextManager

import numpy as np
import pytest
import trio
from pydantic import SecretStr

from scada_trio.errors import DatabaseUnavailable
from scada_trio.readings import Quality, ReadingBlock, TagTable, WriteResult
from scada_trio.storage.connect import Connection, connect
from scada_trio.storage.databases import with_database
from scada_trio.storage.migrate import migrate_tenant
from scada_trio.storage.quarantine import drop_quarantine, list_quarantine
from scada_trio.storage.sifting import retry_quarantine
from scada_trio.storage.tenant_db import TenantWriter, open_tenant_writer
from scada_trio.storage.window import FIRST_TIME_US
from tests.fix_postgres import PostgresServer, fetch
from tests.storage_samples import BUFFER, NOON_US, WELL, batch, block, count_rows, many, tag_table

GOOD = Quality.GOOD
HELD = "SELECT time_us, tag_node_id, value, sqlstate FROM scada_quarantine ORDER BY id"
CHECK = "ALTER TABLE scada_readings ADD CONSTRAINT plausible CHECK (value < 50)"
TRIGGER = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF {condition} THEN RAISE EXCEPTION 'not here' {using}; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON scada_readings FOR EACH ROW EXECUTE FUNCTION refuse()"""
LOCALE = "LOCALE_PROVIDER libc LOCALE 'C'"
LONG = "".join(chr(33 + (i * i * 7919 + i) % 8000) for i in range(4000))


def _open(url: SecretStr, tags: TagTable | None = None) -> AbstractAsyncContextManager[TenantWriter]:
    return open_tenant_writer(url, tags or tag_table(), connect_timeout_s=5, statement_timeout_s=30)


def _connect(url: SecretStr) -> Connection:
    return connect(url, application_name="test", connect_timeout_s=5, statement_timeout_s=30)


async def test_a_constraint_of_an_application(tenant_url: SecretStr) -> None:
    """Its 23514 takes out the rows it is about; a second attempt finds the counts of the first."""
    fetch(tenant_url, CHECK)
    readings = many(1000, 3)  # values 0 to 999
    async with _open(tenant_url) as writer:
        result = await writer.write(batch(1, readings), BUFFER)
        assert result == WriteResult(inserted=50, quarantined=950)
        assert result.reason is not None
        assert "plausible" in result.reason
        assert "23514" in result.reason
        assert np.bincount(result.refused_tag).tolist() == np.bincount(readings.tag[50:]).tolist()
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(50, quarantined=950, already=True)
        assert await writer.write(batch(2, many(10, 3, NOON_US + 10**6)), BUFFER) == WriteResult(inserted=10)
    assert count_rows(tenant_url) == 60
    different = "SELECT count(*), count(DISTINCT (well_id, tag_node_id, time_us)) FROM scada_quarantine"
    assert fetch(tenant_url, different) == [(950, 950)]
    columns = "time_us, well_id, tag_node_id, node_id_escaped, value, quality, sqlstate, journal_id, batch_seq"
    row = (NOON_US + 16_000, WELL, "ns=2;s=Tag2", False, 50.0, "Good", "23514", BUFFER, 1)
    assert fetch(tenant_url, f"SELECT {columns} FROM scada_quarantine ORDER BY value LIMIT 1") == [row]


@pytest.mark.parametrize("sqlstate", ["22003", "23503", "P0001", "44000", "54000"])
async def test_a_trigger_that_refuses_some_rows(tenant_url: SecretStr, sqlstate: str) -> None:
    """Whatever class of refusal it raises, RAISE EXCEPTION without a code among them."""
    using = "" if sqlstate == "P0001" else f"USING ERRCODE = '{sqlstate}'"
    fetch(tenant_url, TRIGGER.format(condition="NEW.value = 7 OR NEW.value = 300", using=using))
    async with _open(tenant_url) as writer:
        assert await writer.write(batch(1, many(400, 3)), BUFFER) == WriteResult(inserted=398, quarantined=2)
    assert sorted(row[2:] for row in fetch(tenant_url, HELD)) == [(7.0, sqlstate), (300.0, sqlstate)]


async def test_a_trigger_that_refuses_everything(tenant_url: SecretStr) -> None:
    """Everything is in quarantine and the queue goes on."""
    fetch(tenant_url, TRIGGER.format(condition="true", using=""))
    async with _open(tenant_url) as writer:
        result = await writer.write(batch(1, many(300, 3)), BUFFER)
        assert result == WriteResult(inserted=0, quarantined=300)
        assert result.reason == "not here (SQLSTATE P0001)"
        assert await writer.committed_sequence(BUFFER) == 1


async def test_a_deferred_constraint(tenant_url: SecretStr) -> None:
    """One that speaks at the commit only is asked at once, so that the row at fault is known."""
    fetch(tenant_url, TRIGGER.format(condition="NEW.value = 7", using="").split("CREATE TRIGGER")[0])
    fetch(
        tenant_url,
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON scada_readings DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    async with _open(tenant_url) as writer:
        assert await writer.write(batch(1, many(10, 3)), BUFFER) == WriteResult(inserted=9, quarantined=1)


async def test_a_trigger_whose_failure_is_not_the_rows(tenant_url: SecretStr) -> None:
    """A lock that is not had in the middle of the sifting is a reason to try the batch again, not to blame a row."""
    fetch(
        tenant_url,
        TRIGGER.format(condition="NEW.value = 7", using="")
        + "; "
        + TRIGGER.format(condition="NEW.value = 9", using="USING ERRCODE = '55P03'").replace("refuse", "hold"),
    )
    async with _open(tenant_url) as writer:
        with pytest.raises(DatabaseUnavailable):
            await writer.write(batch(1, many(10, 3)), BUFFER)
        assert count_rows(tenant_url) == 0
        assert fetch(tenant_url, HELD) == []
        fetch(tenant_url, "DROP TRIGGER hold ON scada_readings")
        assert await writer.write(batch(1, many(10, 3)), BUFFER) == WriteResult(inserted=9, quarantined=1)


@pytest.mark.parametrize(
    ("node_id", "shown", "sqlstate"),
    [
        ("ns=2;s=a\0b", "ns=2;s=a\\x00b", "22021"),
        ("ns=2;s=\ud800", "ns=2;s=\\ud800", "22021"),
        (LONG, LONG, "54000"),
    ],
)
async def test_node_ids_that_cannot_be_stored(tenant_url: SecretStr, node_id: str, shown: str, sqlstate: str) -> None:
    """They are shown as near as it goes; the other series of the batch are stored."""
    tags = tag_table(1)
    tags.index_of(WELL, node_id)
    readings = block((0, NOON_US, 1.0, GOOD), (1, NOON_US, math.nan, Quality.BAD), (1, NOON_US + 1, 2.0, GOOD))
    async with _open(tenant_url, tags) as writer:
        result = await writer.write(batch(1, readings), BUFFER)
        assert result == WriteResult(inserted=1, quarantined=2)
        assert result.refused_tag.tolist() == [1, 1]
    assert count_rows(tenant_url) == 1
    assert [(row[1], row[3]) for row in fetch(tenant_url, HELD)] == [(shown, sqlstate)] * 2
    escaped = fetch(tenant_url, "SELECT DISTINCT node_id_escaped FROM scada_quarantine")
    assert escaped == [(node_id is not LONG,)]


async def test_a_database_of_another_encoding(postgres: PostgresServer) -> None:
    """Text that LATIN1 has no letter for is the reading's trouble, not the batch's."""
    fetch(postgres.server.url, f"CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 {LOCALE}")
    url = with_database(postgres.server.url, "latin")
    migrate_tenant(url)
    tags = tag_table(1)
    tags.index_of(WELL, "ns=2;s=Größe")
    tags.index_of(WELL, "ns=2;s=压力")
    async with _open(url, tags) as writer:
        result = await writer.write(batch(1, block(*((n, NOON_US, 1.0, GOOD) for n in range(3)))), BUFFER)
    assert result == WriteResult(inserted=2, quarantined=1)
    assert fetch(url, HELD) == [(NOON_US, "ns=2;s=\\u538b\\u529b", 1.0, "22P05")]


async def test_a_column_of_a_domain(tenant_url: SecretStr) -> None:
    """An application may have made the value a numeric domain: what fits is stored."""
    for view in ("monthly", "daily", "hourly"):
        fetch(tenant_url, f"DROP VIEW scada_readings_{view}")
    fetch(tenant_url, "CREATE DOMAIN small AS numeric(6, 2) CHECK (VALUE <> 13)")
    fetch(tenant_url, "ALTER TABLE scada_readings ALTER value TYPE small")
    values = [1.256, 13.0, 1e9, math.nan]
    async with _open(tenant_url) as writer:
        readings = block(*((0, NOON_US + number, value, GOOD) for number, value in enumerate(values)))
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(inserted=2, quarantined=2)
    assert [str(row[0]) for row in fetch(tenant_url, "SELECT value FROM scada_readings ORDER BY timestamp")] == [
        "1.26",
        "NaN",
    ]
    assert [row[2:] for row in fetch(tenant_url, HELD)] == [(13.0, "23514"), (1e9, "22003")]


async def test_times_that_cannot_be(tenant_url: SecretStr) -> None:
    """Clocks that were never set or run far ahead make no partitions and no chunks; the time is kept as it came."""
    now_us = time.time_ns() // 1000
    hour_us = 3_600_000_000
    good = [FIRST_TIME_US, now_us, now_us + 168 * hour_us - hour_us]
    bad = [-(2**62), -(2**63), FIRST_TIME_US - 1, 0, now_us + 168 * hour_us + hour_us, 2**62, 2**63 - 1]
    readings = block(*((0, time_us, 1.0, GOOD) for time_us in [*bad[:3], *good, *bad[3:]]))
    async with _open(tenant_url) as writer:
        result = await writer.write(batch(1, readings), BUFFER)
    assert result == WriteResult(inserted=3, quarantined=7)
    assert result.reason == "timestamp out of range: before 2000 (SQLSTATE 22008)"
    assert [row[0] for row in fetch(tenant_url, HELD)] == bad
    exact = "(extract(epoch FROM timestamp) * 1000000)::bigint = time_us"
    assert fetch(tenant_url, f"SELECT {exact} FROM scada_quarantine WHERE isfinite(timestamp)") == [(True,)] * 3


async def test_a_service_clock_that_is_behind(tenant_url: SecretStr, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our clock alone refuses nothing: the database's is asked."""
    now_us = time.time_ns() // 1000
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    async with _open(tenant_url) as writer:
        assert (await writer.write(batch(1, block((0, now_us, 1.0, GOOD))), BUFFER)).inserted == 1


async def test_refused_and_repeated_rows_in_one_batch(tenant_url: SecretStr) -> None:
    """Every reading of the batch is counted once, under what became of it."""
    async with _open(tenant_url) as writer:
        await writer.write(batch(1, many(10, 3)), BUFFER)
        fetch(tenant_url, CHECK)
        again = [(0, NOON_US, 0.0, GOOD), (1, NOON_US, 1.5, GOOD), (0, NOON_US + 1, 99.0, GOOD)]
        new = [(0, 0, 1.0, GOOD), (0, NOON_US + 2, 3.0, GOOD), (0, NOON_US + 2, 3.0, GOOD), (0, NOON_US + 2, 4.0, GOOD)]
        result = await writer.write(batch(2, block(*again, *new)), BUFFER)
    assert result == WriteResult(inserted=1, duplicates=2, replaced=2, quarantined=2)
    assert count_rows(tenant_url) == 11


@pytest.mark.parametrize("index", ["", "CREATE UNIQUE INDEX other ON scada_readings (tag_node_id, timestamp)"])
async def test_a_table_with_other_unique_indexes(postgres: PostgresServer, index: str) -> None:
    """Without the index on series and time repeated rows are looked up; what a constraint refuses is quarantined."""
    url = postgres.create_tenant()
    fetch(url, "DROP INDEX scada_readings_series")
    fetch(url, CHECK)
    fetch(url, index or "SELECT 1")
    readings = block((0, NOON_US, 1.0, GOOD), (1, NOON_US, 99.0, GOOD))
    async with _open(url) as writer:
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(inserted=1, quarantined=1)
        again = await writer.write(batch(2, readings), BUFFER)
    assert again == WriteResult(0, duplicates=1, quarantined=1)


async def test_a_batch_that_is_refused_row_by_row_ends_soon(tenant_url: SecretStr) -> None:
    """20,000 rows, every one of them at fault: one savepoint each."""
    fetch(tenant_url, TRIGGER.format(condition="true", using=""))
    async with _open(tenant_url, tag_table(100)) as writer:
        with trio.fail_after(60):
            assert (await writer.write(batch(1, many(20_000, 100)), BUFFER)).quarantined == 20_000


# --- what operators do with it


async def _hold_five(url: SecretStr) -> None:
    """Five readings in quarantine (values 50 to 54), and five that are stored."""
    fetch(url, CHECK)
    readings = block(*((0, NOON_US + number, float(45 + number), GOOD) for number in range(10)))
    async with _open(url) as writer:
        await writer.write(batch(1, readings), BUFFER)


async def test_written_again_when_the_reason_is_gone(tenant_url: SecretStr) -> None:
    """What goes through leaves the quarantine in the same transaction; what does not, stays with today's reason."""
    await _hold_five(tenant_url)
    fetch(
        tenant_url,
        "INSERT INTO scada_readings VALUES (to_timestamp(%s), %s, 'ns=2;s=Tag0', 1)",
        (NOON_US + 9) / 1e6,
        WELL,
    )
    fetch(tenant_url, "ALTER TABLE scada_readings DROP CONSTRAINT plausible")
    fetch(tenant_url, TRIGGER.format(condition="NEW.value = 51", using=""))
    connection = _connect(tenant_url)
    tried, stored, last_id = retry_quarantine(connection, None)
    assert (tried, stored) == (5, 4)
    assert retry_quarantine(connection, None, after=last_id or 0) == (0, 0, None)
    connection.close()
    assert [row[2:] for row in fetch(tenant_url, HELD)] == [(51.0, "P0001")]
    # the one that another reading had taken the place of was a duplicate, and the stored one stays
    assert count_rows(tenant_url) == 9
    assert fetch(tenant_url, "SELECT max(value) FROM scada_readings") == [(53.0,)]


async def test_what_can_never_be_stored_is_not_tried(tenant_url: SecretStr) -> None:
    """A node id that is shown escaped, or an impossible time: written again it would be another reading."""
    tags = tag_table(1)
    tags.index_of(WELL, "a\0b")
    async with _open(tenant_url, tags) as writer:
        await writer.write(batch(1, block((1, NOON_US, 1.0, GOOD), (0, 0, 1.0, GOOD))), BUFFER)
    connection = _connect(tenant_url)
    assert retry_quarantine(connection, None) == (0, 0, None)
    connection.close()


async def test_looked_through_and_thrown_away(tenant_url: SecretStr) -> None:
    """What is thrown away is a loss, with its range and count."""
    await _hold_five(tenant_url)
    connection = _connect(tenant_url)
    rows, total = list_quarantine(connection, 2)
    assert total == 5
    assert [(row.value, row.sqlstate, row.time_us) for row in rows] == [
        (54.0, "23514", NOON_US + 9),
        (53.0, "23514", NOON_US + 8),
    ]
    assert drop_quarantine(connection, [rows[0].id, 999_999]) == 1
    assert drop_quarantine(connection, None) == 4
    assert drop_quarantine(connection, None) == 0
    connection.close()
    span = "(extract(epoch FROM from_time) * 1000000)::bigint, (extract(epoch FROM to_time) * 1000000)::bigint"
    assert fetch(tenant_url, f"SELECT reason, reading_count, {span} FROM scada_loss ORDER BY id") == [
        ("dropped", 1, NOON_US + 9, NOON_US + 9),
        ("dropped", 4, NOON_US + 5, NOON_US + 8),
    ]


async def test_on_timescaledb(timescale_url: SecretStr) -> None:
    """The same on a hypertable."""
    await trio.to_thread.run_sync(migrate_tenant, timescale_url)
    fetch(timescale_url, CHECK)
    readings = ReadingBlock.concatenate([many(300, 3), block((0, 0, 1.0, GOOD))])
    async with _open(timescale_url) as writer:
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(inserted=50, quarantined=251)
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(50, quarantined=251, already=True)
    assert count_rows(timescale_url) == 50
