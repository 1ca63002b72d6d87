"""Late, repeated and out-of-order readings, on every kind of table: with and without an index that tells them."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from scada_trio.readings import EMPTY_BLOCK, Quality, ReadingBlock, TagTable, WriteResult
from scada_trio.storage import late, tenant_db
from scada_trio.storage.connect import Connection
from scada_trio.storage.copy import EncodedRows
from scada_trio.storage.quarantine import list_quarantine
from scada_trio.storage.sifting import Sifted, retry_quarantine, sift
from scada_trio.storage.tenant_db import TenantWriter, open_tenant_writer
from scada_trio.storage.window import TimeWindow
from tests.fix_postgres import fetch
from tests.storage_samples import BUFFER, ROWS, WELL, batch, block, count_rows, many, tag_table

GOOD, BAD = Quality.GOOD, Quality.BAD
DAY_US = 86_400_000_000
COMPRESS = "SELECT compress_chunk(c, if_not_compressed => true) FROM show_chunks('scada_readings') c"
OTHER_INDEXES = """
    DROP INDEX scada_readings_series;
    CREATE INDEX ON scada_readings (timestamp DESC);
    CREATE INDEX ON scada_readings (well_id, timestamp DESC);
    CREATE INDEX ON scada_readings (tag_node_id, timestamp DESC)"""


@pytest.fixture
def start_us() -> int:
    """Noon twenty days ago: late, and within every window."""
    now_us = int(np.datetime64("now", "us").astype(np.int64))
    return now_us - now_us % DAY_US - 20 * DAY_US + DAY_US // 2


@pytest.fixture(params=["index", "no index"])
def late_url(request: pytest.FixtureRequest, tenant_of_each_kind: SecretStr) -> SecretStr:
    """A tenant database of each kind, with our index and with three of another application's instead."""
    if request.param == "no index":
        for statement in OTHER_INDEXES.split(";"):
            fetch(tenant_of_each_kind, statement)
    return tenant_of_each_kind


def _open(url: SecretStr, tags: TagTable | None = None) -> AbstractAsyncContextManager[TenantWriter]:
    return open_tenant_writer(url, tags or tag_table(), connect_timeout_s=10, statement_timeout_s=60)


def _compress(url: SecretStr) -> None:
    """As far as the database can."""
    if fetch(url, "SELECT to_regclass('_timescaledb_catalog.chunk') IS NOT NULL")[0][0]:
        fetch(url, COMPRESS)


async def test_a_reading_again(late_url: SecretStr, start_us: int) -> None:
    """Identical it is a duplicate and not written; with another value or quality the last one stays."""
    first = block(*((0, start_us + n, float(n), GOOD) for n in range(6)))
    again = block(
        (0, start_us, 0.0, GOOD),
        (0, start_us + 1, -1.0, GOOD),
        (0, start_us + 2, 2.0, BAD),
        (0, start_us + 10, 10.0, GOOD),
        (1, start_us, 0.0, GOOD),
    )
    async with _open(late_url) as writer:
        assert await writer.write(batch(1, first), BUFFER) == WriteResult(inserted=6)
        assert await writer.write(batch(2, again), BUFFER) == WriteResult(inserted=2, duplicates=1, replaced=2)
    _compress(late_url)
    async with _open(late_url) as writer:  # as after a restart
        assert await writer.write(batch(3, again), BUFFER) == WriteResult(inserted=0, duplicates=5)
        changed = block((0, start_us, 7.0, GOOD), (0, start_us + 5, 5.0, GOOD), (0, start_us + 11, 1.0, GOOD))
        assert await writer.write(batch(4, changed), BUFFER) == WriteResult(inserted=1, duplicates=1, replaced=1)
    stored = [(row[0] - start_us, *row[3:]) for row in fetch(late_url, ROWS) if row[2] == "ns=2;s=Tag0"]
    assert stored == [
        (0, 7.0, "Good"),
        (1, -1.0, "Good"),
        (2, 2.0, "Bad"),
        (3, 3.0, "Good"),
        (4, 4.0, "Good"),
        (5, 5.0, "Good"),
        (10, 10.0, "Good"),
        (11, 1.0, "Good"),
    ]


async def test_any_order_ends_as_the_last_reading_of_each_series_and_time(late_url: SecretStr, start_us: int) -> None:
    """Readings days apart, forwards and backwards, over restarts and compressed chunks: every count is right."""
    rng = np.random.default_rng(5)
    stored: dict[tuple[int, int], tuple[float, int]] = {}
    tags = tag_table(4)
    for sequence in range(1, 13, 2):
        async with _open(late_url, tags) as writer:
            for number in (sequence, sequence + 1):
                size = int(rng.integers(1, 60))
                columns = (
                    rng.integers(0, 4, size).astype(np.int32),
                    start_us + rng.integers(-4, 5, size) * DAY_US + rng.integers(0, 4, size),
                    rng.integers(0, 3, size).astype(np.float64),
                    rng.integers(0, 3, size).astype(np.uint8),
                )
                inserted = duplicates = replaced = 0
                batched: dict[tuple[int, int], tuple[float, int]] = {}
                for tag, time_us, value, quality in zip(*(column.tolist() for column in columns), strict=True):
                    before = batched.get((tag, time_us))
                    batched[tag, time_us] = (value, quality)
                    duplicates += before == (value, quality)
                    replaced += before is not None and before != (value, quality)
                for key, last in batched.items():
                    inserted += key not in stored
                    duplicates += stored.get(key) == last
                    replaced += key in stored and stored[key] != last
                stored.update(batched)
                result = await writer.write(batch(number, ReadingBlock(*columns)), BUFFER)
                assert result == WriteResult(inserted, duplicates, replaced)
        if sequence % 4 == 1:
            _compress(late_url)
    labels = ("Good", "Uncertain", "Bad")
    expected = sorted((t, *tags.key(tag), value, labels[q]) for (tag, t), (value, q) in stored.items())
    assert sorted(fetch(late_url, ROWS)) == expected


async def test_clocks_that_jump(late_url: SecretStr, start_us: int) -> None:
    """A day ahead and back again: every reading is stored once, also those that come a second time."""
    times = [*range(5), *(DAY_US + n for n in range(5)), *range(3, 10), *(DAY_US + n for n in range(3, 8))]
    inserted = repeated = 0
    async with _open(late_url) as writer:
        for number, offset in enumerate(times):
            readings = block((0, start_us + offset, float(offset), GOOD))
            result = await writer.write(batch(number + 1, readings), BUFFER)
            inserted, repeated = inserted + result.inserted, repeated + result.duplicates
    assert (inserted, repeated) == (18, 4)
    assert count_rows(late_url) == 18


async def test_many_late_readings_of_many_series(late_url: SecretStr, start_us: int) -> None:
    """They look into more compressed rows than TimescaleDB allows a transaction, and go through all the same."""
    tags = tag_table(300)
    async with _open(late_url, tags) as writer:
        # 500 rows a series, which one compressed row holds; a reading of each series touches 150,000
        await writer.write(batch(1, many(150_000, 300, start_us)), BUFFER)
        _compress(late_url)
        index = np.arange(600)
        again = ReadingBlock(
            (index % 300).astype(np.int32),
            start_us + (index // 300) * 1000,
            np.where(index < 300, index, -1.0),
            np.zeros(600, np.uint8),
        )
        assert await writer.write(batch(2, again), BUFFER) == WriteResult(inserted=0, duplicates=300, replaced=300)
        new = many(600, 300, start_us + 1)
        assert await writer.write(batch(3, new), BUFFER) == WriteResult(inserted=600)
    assert count_rows(late_url) == 150_600


# --- without an index that tells


def _forbidden(*_: object) -> object:
    raise AssertionError("a reading that cannot be stored already was looked up")


@pytest.fixture
def bare_url(tenant_url: SecretStr) -> SecretStr:
    """Native partitions without the unique index."""
    fetch(tenant_url, "DROP INDEX scada_readings_series")
    return tenant_url


async def test_readings_in_order_are_not_looked_up(
    bare_url: SecretStr, start_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is newer than all that is stored goes by COPY alone: into an empty table, and after a restart."""
    monkeypatch.setattr(tenant_db, "sift", _forbidden)
    async with _open(bare_url) as writer:
        for number in range(1, 4):
            readings = many(300, 3, start_us + number * 1_000_000)
            assert (await writer.write(batch(number, readings), BUFFER)).inserted == 300
    async with _open(bare_url, tag_table(100)) as writer:
        readings = many(1000, 100, start_us + 9_000_000)
        assert (await writer.write(batch(4, readings), BUFFER)).inserted == 1000
        assert (await writer.write(batch(5, EMPTY_BLOCK), BUFFER)).inserted == 0


async def test_one_late_reading_does_not_slow_the_others(
    bare_url: SecretStr, start_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that may be stored are looked up, the rest of their batch is copied."""
    looked_up: list[int] = []

    def counting(connection: Connection, rows: EncodedRows, *rest: Any) -> Sifted:
        looked_up.append(rows.rows)
        return sift(connection, rows, *rest)

    async with _open(bare_url) as writer:
        await writer.write(batch(1, many(300, 3, start_us)), BUFFER)
    monkeypatch.setattr(tenant_db, "sift", counting)
    async with _open(bare_url) as writer:
        mixed = ReadingBlock.concatenate(
            [many(300, 3, start_us + 1_000_000), block((0, start_us, 0.0, GOOD), (0, start_us - 1, 0.0, GOOD))]
        )
        assert await writer.write(batch(2, mixed), BUFFER) == WriteResult(inserted=301, duplicates=1)
    assert looked_up == [2]


@pytest.fixture
def large_url(bare_url: SecretStr, start_us: int) -> SecretStr:
    """No index at all, and 300,000 readings in the day's partition."""
    fetch(bare_url, "SELECT scada_make_partition(%s::date)", _date(start_us))
    insert = """INSERT INTO scada_readings (timestamp, well_id, tag_node_id, value)
        SELECT 'epoch'::timestamptz + (%s + n) * INTERVAL '1 microsecond', %s, 'ns=2;s=Tag' || n %% 3, n
        FROM generate_series(1, 300000) n"""
    fetch(bare_url, insert, start_us - 1_000_000, WELL)
    return bare_url


def _date(time_us: int) -> str:
    return str(np.datetime64(time_us, "us").astype("datetime64[D]"))


def _rows_read(url: SecretStr) -> int:
    """By passes over a table, of sessions that are over."""
    query = "SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'scada_readings%'"
    return int(fetch(url, query)[0][0])


async def test_a_reading_an_hour_ahead_costs_no_look_at_those_that_follow(
    large_url: SecretStr, start_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer knows what the clock left out, and looks for what is in none of its gaps."""
    hour_us = 3_600_000_000
    async with _open(large_url) as writer:
        ahead = ReadingBlock.concatenate([many(300, 3, start_us), many(3, 3, start_us + hour_us)])
        assert await writer.write(batch(1, ahead), BUFFER) == WriteResult(inserted=303)
        monkeypatch.setattr(tenant_db, "sift", _forbidden)
        for number in range(2, 30):
            readings = many(300, 3, start_us + number * 1_000_000)
            assert await writer.write(batch(number, readings), BUFFER) == WriteResult(inserted=300)
    assert _rows_read(large_url) <= 1_000_000  # the newest one was looked for, and no reading


@pytest.mark.parametrize("refused", [False, True])
async def test_where_nothing_leads_to_a_reading_no_batch_waits_for_a_pass_over_the_day(
    large_url: SecretStr, start_us: int, capsys: pytest.CaptureFixture[str], refused: bool
) -> None:
    """After a restart all may be stored already: it is written, what is refused set aside, and the log says so once."""
    fetch(large_url, "INSERT INTO scada_readings VALUES (now(), gen_random_uuid(), 'x', 1)")
    if refused:
        fetch(large_url, "ALTER TABLE scada_readings ADD CONSTRAINT plausible CHECK (value <> 7) NOT VALID")
    before = _rows_read(large_url)
    async with _open(large_url) as writer:
        for number in range(1, 11):
            readings = many(1000, 3, start_us + number * 1_000_000)
            result = await writer.write(batch(number, readings), BUFFER)
            assert (result.inserted, result.quarantined) == (1000 - refused, refused)
    assert _rows_read(large_url) - before <= 1_000_000  # looking up would have passed 160 times and more
    assert count_rows(large_url) == 300_001 + 10 * (1000 - refused)
    assert capsys.readouterr().out.count("CREATE UNIQUE INDEX ON scada_readings") == 1


async def test_an_index_makes_looking_up_possible_again(large_url: SecretStr, start_us: int) -> None:
    """However many readings there are."""
    fetch(large_url, "CREATE INDEX ON scada_readings (timestamp)")
    async with _open(large_url) as writer:
        readings = block(*((0, start_us - 1_000_000 + n, float(n), GOOD) for n in range(3, 3003)))
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(inserted=2000, duplicates=1000)


async def test_a_batch_whose_commit_was_in_doubt(bare_url: SecretStr, start_us: int) -> None:
    """The cursor knows it, index or not."""
    readings = many(300, 3, start_us)
    async with _open(bare_url) as writer:
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(inserted=300)
    async with _open(bare_url) as writer:
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(inserted=300, already=True)
    assert count_rows(bare_url) == 300


async def test_what_another_application_stored_twice(bare_url: SecretStr, start_us: int) -> None:
    """Both copies are replaced, and count as one."""
    insert = """INSERT INTO scada_readings (timestamp, well_id, tag_node_id, value)
        SELECT 'epoch'::timestamptz + %s * INTERVAL '1 microsecond', %s, 'ns=2;s=Tag0', 1 FROM generate_series(1, 2)"""
    fetch(bare_url, insert, start_us, WELL)
    async with _open(bare_url) as writer:
        result = await writer.write(batch(1, block((0, start_us, 2.0, GOOD))), BUFFER)
    assert result == WriteResult(inserted=0, replaced=1)
    assert [row[3] for row in fetch(bare_url, ROWS)] == [2.0, 2.0]


async def test_a_table_whose_newest_reading_is_not_found_in_time(
    bare_url: SecretStr, start_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then everything is looked up, which is slower and as right."""
    async with _open(bare_url) as writer:
        await writer.write(batch(1, many(30, 3, start_us)), BUFFER)
    monkeypatch.setattr(late, "_NEWEST", "SELECT pg_sleep(60)")
    monkeypatch.setattr(late, "_NEWEST_TIMEOUT", "SET LOCAL statement_timeout = '50ms'")
    async with _open(bare_url) as writer:
        again = many(60, 3, start_us)
        assert await writer.write(batch(2, again), BUFFER) == WriteResult(inserted=30, duplicates=30)


async def test_a_table_with_an_endless_time(bare_url: SecretStr, start_us: int) -> None:
    """'infinity' is newer than everything: everything is looked up."""
    fetch(bare_url, "INSERT INTO scada_readings VALUES ('infinity', gen_random_uuid(), 'x', 1)")
    async with _open(bare_url) as writer:
        assert await writer.write(batch(1, many(30, 3, start_us)), BUFFER) == WriteResult(inserted=30)
        assert await writer.write(batch(2, many(30, 3, start_us)), BUFFER) == WriteResult(inserted=0, duplicates=30)


async def test_refused_and_repeated_readings_together(bare_url: SecretStr, start_us: int) -> None:
    """Refused among the new and among the old ones: each reading is counted once, and written again on request once."""
    async with _open(bare_url) as writer:
        await writer.write(batch(1, many(30, 3, start_us)), BUFFER)
        fetch(bare_url, "ALTER TABLE scada_readings ADD CONSTRAINT plausible CHECK (value < 35) NOT VALID")
        assert await writer.write(batch(2, many(60, 3, start_us)), BUFFER) == WriteResult(
            inserted=5, duplicates=30, quarantined=25
        )
        connection = writer._connection
        assert list_quarantine(connection, 1)[1] == 25
        fetch(bare_url, "ALTER TABLE scada_readings DROP CONSTRAINT plausible")
        assert await writer.write(batch(3, block((0, start_us + 19_000, 5.0, GOOD))), BUFFER) == WriteResult(inserted=1)
        assert retry_quarantine(connection, None)[:2] == (25, 25)
    assert count_rows(bare_url) == 60
    kept = "SELECT value FROM scada_readings WHERE tag_node_id = 'ns=2;s=Tag0' ORDER BY timestamp DESC LIMIT 1"
    assert fetch(bare_url, kept) == [(5.0,)]


# --- outside the window


async def test_a_wider_window_lets_a_quarantined_reading_in(tenant_url: SecretStr, start_us: int) -> None:
    """What was too old is not tried again until READING_MAX_AGE_DAYS says otherwise."""
    narrow = TimeWindow(max_age_days=10)
    async with open_tenant_writer(
        tenant_url, tag_table(), connect_timeout_s=10, statement_timeout_s=60, window=narrow
    ) as writer:
        readings = block((0, start_us, 1.0, GOOD), (0, start_us + 15 * DAY_US, 2.0, GOOD))
        assert await writer.write(batch(1, readings), BUFFER) == WriteResult(inserted=1, quarantined=1)
        connection = writer._connection
        assert retry_quarantine(connection, None, window=narrow)[:2] == (0, 0)
        assert retry_quarantine(connection, None, window=TimeWindow(max_age_days=30))[:2] == (1, 1)
    assert count_rows(tenant_url) == 2


async def test_one_clock_that_is_wrong_refuses_nothing(
    tenant_url: SecretStr, start_us: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service whose clock is a year ahead finds nothing too old, one a year behind nothing too far ahead."""
    window = TimeWindow(max_age_days=30, max_ahead_hours=1)
    real_ns = time.time_ns()
    async with open_tenant_writer(
        tenant_url, tag_table(), connect_timeout_s=10, statement_timeout_s=60, window=window
    ) as writer:
        for sequence, years in enumerate((1, -1), 1):
            monkeypatch.setattr(time, "time_ns", lambda ns=real_ns + years * 365 * DAY_US * 1000: ns)
            readings = block((0, start_us + sequence, 1.0, GOOD), (1, start_us + 19 * DAY_US, float(years), GOOD))
            result = await writer.write(batch(sequence, readings), BUFFER)
            assert result.quarantined == 0
            assert result.inserted >= 1
