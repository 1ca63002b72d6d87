"""A quarantine has a bound: what is beyond it is lost, counted and recorded, in the batch's own transaction."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
import trio
from pydantic import SecretStr
from structlog.testing import capture_logs

from scada_trio.metrics import Metrics
from scada_trio.readings import Batch, Quality, ReadingBlock, TagTable, WriteResult
from scada_trio.storage.connect import connect
from scada_trio.storage.quarantine import drop_quarantine
from scada_trio.storage.tenant_db import TenantWriter, open_tenant_writer
from scada_trio.writer import Writer
from tests.fix_journal import Place
from tests.fix_postgres import fetch
from tests.storage_samples import BUFFER, NOON_US, batch, block, count_rows, many, tag_table

GOOD = Quality.GOOD
OTHER_BUFFER = UUID(int=9)
CHECK = "ALTER TABLE scada_readings ADD CONSTRAINT plausible CHECK (value < 50)"
HELD = "SELECT count(*) FROM scada_quarantine"
LOST = """
    SELECT reason, detail, reading_count, (extract(epoch FROM from_time) * 1000000)::bigint,
        (extract(epoch FROM to_time) * 1000000)::bigint FROM scada_loss ORDER BY id"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def _open(url: SecretStr, rows: int, tags: TagTable | None = None) -> AbstractAsyncContextManager[TenantWriter]:
    return open_tenant_writer(
        url, tags or tag_table(), connect_timeout_s=5, statement_timeout_s=30, quarantine_rows=rows
    )


def refused(count: int, first: int = 0) -> ReadingBlock:
    """Readings that `CHECK` refuses, a µs apart."""
    return block(*((0, NOON_US + first + number, 60.0, GOOD) for number in range(count)))


async def test_what_is_beyond_the_bound_is_a_loss(tenant_url: SecretStr) -> None:
    """The first ones are kept, the rest is in the ledger with its SQLSTATE, and every reading is counted once."""
    fetch(tenant_url, CHECK)
    async with _open(tenant_url, 950 - 7) as writer:
        result = await writer.write(batch(1, many(1000, 3)), BUFFER)  # values 0 to 999
        assert result == WriteResult(inserted=50, quarantined=943, lost=7)
        assert len(result.refused_tag) == 950
        assert await writer.write(batch(1, many(1000, 3)), BUFFER) == WriteResult(
            inserted=50, quarantined=943, lost=7, already=True
        )
        (loss,) = fetch(tenant_url, LOST)
        assert loss[:3] == ("quarantine_full", "SQLSTATE 23514", 7)
        assert NOON_US <= loss[3] <= loss[4] <= NOON_US + 333_000
        assert await writer.write(batch(2, refused(5, 500_000)), BUFFER) == WriteResult(inserted=0, lost=5)
    # an hour's losses of one kind are one row
    assert fetch(tenant_url, LOST) == [("quarantine_full", "SQLSTATE 23514", 12, loss[3], NOON_US + 500_004)]
    assert (count_rows(tenant_url), fetch(tenant_url, HELD)) == (50, [(943,)])


async def test_what_is_not_even_sent_counts_too(tenant_url: SecretStr) -> None:
    """Impossible times and node ids, beside rows that the database refuses: each under its SQLSTATE."""
    fetch(tenant_url, CHECK)
    tags = tag_table(1)
    tags.index_of(UUID(int=1), "a\0b")
    times = [(0, number, 1.0, GOOD) for number in range(3)]
    no_text = [(1, NOON_US + number, 1.0, GOOD) for number in range(2)]
    async with _open(tenant_url, 4, tags) as writer:
        readings = block(*times, *no_text, (0, NOON_US, 1.0, GOOD), (0, NOON_US + 1, 70.0, GOOD))
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(inserted=1, quarantined=4, lost=2)
        assert [row[1:3] for row in fetch(tenant_url, LOST)] == [("SQLSTATE 22021", 1), ("SQLSTATE 23514", 1)]
        # by COPY alone, and by merging
        assert await writer.write(batch(2, block(*times)), BUFFER) == WriteResult(inserted=0, lost=3)
        readings = block((0, NOON_US, 1.0, GOOD), (0, NOON_US + 2, 2.0, GOOD), (0, 7, 1.0, GOOD))
        assert await writer.write(batch(3, readings), BUFFER) == WriteResult(inserted=1, duplicates=1, lost=1)
        assert await writer.write(batch(3, readings), BUFFER) == WriteResult(1, duplicates=1, lost=1, already=True)
    assert [row[1:] for row in fetch(tenant_url, LOST)][2:] == [("SQLSTATE 22008", 4, 0, 7)]


async def test_a_quarantine_of_no_rows(tenant_url: SecretStr) -> None:
    """Everything refused is lost; what is taken is written."""
    fetch(tenant_url, CHECK)
    async with _open(tenant_url, 0) as writer:
        assert await writer.write(batch(1, many(60, 3)), BUFFER) == WriteResult(inserted=50, lost=10)
    assert fetch(tenant_url, HELD) == [(0,)]


async def test_two_batches_that_race_past_the_bound(tenant_url: SecretStr) -> None:
    """The second waits for the first, then knows what room is left: never a row too many."""
    fetch(tenant_url, CHECK)
    results: dict[int, WriteResult] = {}

    async def write(writer: TenantWriter, journal: UUID, first: int) -> None:
        results[first] = await writer.write(batch(1, refused(8, first)), journal)

    async with _open(tenant_url, 10) as one, _open(tenant_url, 10) as other:
        gate = psycopg.connect(tenant_url.get_secret_value())
        gate.execute("LOCK TABLE scada_quarantine IN ACCESS EXCLUSIVE MODE")  # both get as far as that
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, one, BUFFER, 0)
            nursery.start_soon(write, other, OTHER_BUFFER, 100)
            with trio.fail_after(60):
                while fetch(tenant_url, WAITING) != [(2,)]:  # noqa: ASYNC110 - what is waited for is in the server
                    await trio.sleep(0.01)
            gate.close()
    assert sorted((result.quarantined, result.lost) for result in results.values()) == [(2, 6), (8, 0)]
    assert fetch(tenant_url, HELD) == [(10,)]
    assert [row[2] for row in fetch(tenant_url, LOST)] == [6]


async def test_dropping_makes_room(tenant_url: SecretStr) -> None:
    """What an operator threw away, or took back, leaves its place to the next one."""
    fetch(tenant_url, CHECK)
    async with _open(tenant_url, 3) as writer:
        assert (await writer.write(batch(1, refused(4)), BUFFER)).lost == 1
        connection = connect(tenant_url, application_name="test", connect_timeout_s=5, statement_timeout_s=30)
        assert drop_quarantine(connection, None) == 3
        connection.close()
        assert await writer.write(batch(2, refused(4, 10)), BUFFER) == WriteResult(inserted=0, quarantined=3, lost=1)
    assert [(row[0], row[2]) for row in fetch(tenant_url, LOST)] == [("quarantine_full", 2), ("dropped", 3)]


async def test_a_failure_afterwards_takes_the_loss_back(tenant_url: SecretStr) -> None:
    """The loss is part of the batch's transaction: rolled back with it, recorded once when it is written again."""
    fetch(tenant_url, CHECK)
    fetch(
        tenant_url,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'away' USING ERRCODE = '57P01'; END $$;"
        "CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON scada_ingest_cursor DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    async with _open(tenant_url, 0) as writer:
        with pytest.raises(Exception, match="away"):
            await writer.write(batch(1, refused(4)), BUFFER)
        assert fetch(tenant_url, LOST) == []
        fetch(tenant_url, "DROP TRIGGER fail ON scada_ingest_cursor")
        assert await writer.write(batch(1, refused(4)), BUFFER) == WriteResult(inserted=0, lost=4)
    assert [row[2] for row in fetch(tenant_url, LOST)] == [4]


async def test_where_nothing_is_refused_nobody_asks(tenant_url: SecretStr) -> None:
    """Neither counted nor locked: another session may hold the whole quarantine."""
    async with _open(tenant_url, 3) as writer:
        with psycopg.connect(tenant_url.get_secret_value()) as other:
            other.execute("SELECT pg_advisory_xact_lock(1935892833, 1)")
            other.execute("LOCK TABLE scada_quarantine, scada_loss IN ACCESS EXCLUSIVE MODE")
            with trio.fail_after(60):
                assert (await writer.write(batch(1, many(100, 3)), BUFFER)).inserted == 100
                assert (await writer.write(batch(2, many(100, 3)), BUFFER)).duplicates == 100


async def test_the_accounts_and_the_metrics_have_it(tenant_url: SecretStr, tmp_path: Path) -> None:
    """The identity holds with losses, one line of the log says so, and another one only after there was room."""
    fetch(tenant_url, CHECK)
    tags, metrics, tenant = tag_table(), Metrics(), uuid4()
    batches_in, batches = trio.open_memory_channel[Batch](10)
    async with Place(tmp_path).open(tags=tags) as journal:
        writer = Writer(
            journal,
            batches,
            lambda: _open(tenant_url, 3, tags),
            metrics=metrics.tenant(tenant, tags, journal.ledger),
        )
        with capture_logs() as logs, trio.fail_after(60):
            for number in range(3):
                await journal.append([refused(5, number * 10)])
                taken = await journal.take(5)
                assert taken is not None
                batches_in.send_nowait(taken)
            batches_in.close()
            await writer.run()
        accounts = journal.ledger.accounts
        assert (accounts.received, accounts.quarantined, accounts.lost, accounts.in_journal) == (15, 3, 12, 0)
        assert accounts.unexplained == 0
    said = [line for line in logs if line["event"].startswith("quarantine is full")]
    assert [(line["readings_lost"], line["log_level"]) for line in said] == [(2, "error")]
    text = metrics.render().decode()
    labels = f'{{reason="quarantine_full",tenant_id="{tenant}"}}'
    assert f"scada_readings_lost_total{labels} 12.0" in text
    assert f"scada_losses_total{labels} 3.0" in text
    assert "scada_readings_ingested_total{" not in text
