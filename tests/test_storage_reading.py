"""Pages of readings, against a model in memory, on both kinds of database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import trio
from pydantic import SecretStr

from scada_trio.queries import Position, ReadingScan, ReadingsQuery
from scada_trio.readings import ReadingBlock, ReadingRows, TagTable
from scada_trio.storage import reading
from scada_trio.storage.columns import take_columns
from scada_trio.storage.connect import connect
from scada_trio.storage.query import TenantReader, open_reader
from scada_trio.storage.tenant_db import open_tenant_writer
from scada_trio.times import moment
from tests.fix_postgres import fetch
from tests.storage_samples import BUFFER, NOON_US, WELL, batch, block, many, tag_table

LAST_US = 2**62
DAY_US = 86_400_000_000
Row = tuple[int, str, float, str]


@pytest.fixture
def url(tenant_of_each_kind: SecretStr) -> SecretStr:
    """A migrated tenant database of each kind."""
    return tenant_of_each_kind


def reader_of(url: SecretStr) -> TenantReader:
    return open_reader(url, limiter=trio.CapacityLimiter(1), connect_timeout_s=10, statement_timeout_s=60)


async def store(url: SecretStr, readings: ReadingBlock, tags: TagTable | None = None, *, number: int = 1) -> None:
    async with open_tenant_writer(url, tags or tag_table(), connect_timeout_s=10, statement_timeout_s=60) as writer:
        await writer.write(batch(number, readings), BUFFER)


def as_rows(rows: ReadingRows) -> list[Row]:
    return list(zip(rows.time_us.tolist(), rows.node_ids, rows.value.tolist(), rows.qualities, strict=True))


async def read_all(reader: TenantReader, query: ReadingsQuery, limit: int, *, anew: bool = True) -> list[Row]:
    """Every page; ``anew``: each from a scan of its own that knows the position only, as with a page token."""
    rows: list[Row] = []
    scan = ReadingScan(query)
    while not scan.done:
        page = await reader.read_readings(scan, limit)
        assert len(page) == limit or scan.done
        rows += as_rows(page)
        if anew and not scan.done:
            scan = ReadingScan(query, scan.position)
    return rows


def model(readings: ReadingBlock, tags: TagTable, query: ReadingsQuery) -> list[Row]:
    labels = ("Good", "Uncertain", "Bad")
    rows = [
        (time_us, tags.key(tag)[1], value, labels[quality])
        for tag, time_us, value, quality in zip(
            readings.tag.tolist(),
            readings.time_us.tolist(),
            readings.value.tolist(),
            readings.quality.tolist(),
            strict=True,
        )
        if tags.key(tag)[0] == query.well_id
        and query.start_us <= time_us <= query.end_us
        and (query.node_ids is None or tags.key(tag)[1] in query.node_ids)
    ]
    sign = 1 if query.oldest_first else -1
    return sorted(rows, key=lambda row: (sign * row[0], row[1]))


def scattered(count: int, series: int) -> ReadingBlock:
    """Bursts and gaps over three weeks, several series at the same instants, no series twice at one."""
    rng = np.random.default_rng(5)
    bursts = NOON_US - rng.integers(0, 21 * 24 * 60, 12) * 60_000_000
    times = rng.choice(bursts, count) + rng.integers(0, 40, count) * 250_000
    tag = rng.integers(0, series, count)
    unique = np.unique(np.stack([tag, times], axis=1), axis=0)
    size = len(unique)
    return ReadingBlock(
        unique[:, 0].astype(np.int32),
        unique[:, 1].astype(np.int64),
        rng.normal(size=size),
        rng.integers(0, 3, size).astype(np.uint8),
    )


@pytest.mark.parametrize("oldest_first", [False, True])
async def test_pages_are_the_model_cut_into_pieces(url: SecretStr, oldest_first: bool) -> None:
    """Whatever the size of a page, nothing is left out, nothing comes twice, ties are in the order of node ids."""
    readings, tags = scattered(600, 9), tag_table(9)
    await store(url, readings, tags)
    all_names = tuple(tags.key(index)[1] for index in range(9))
    queries = [
        ReadingsQuery(WELL, -LAST_US, LAST_US, None, oldest_first),
        ReadingsQuery(WELL, NOON_US - 9 * DAY_US, NOON_US - DAY_US, None, oldest_first),
        ReadingsQuery(WELL, 0, LAST_US, (all_names[4], "ns=9;s=Absent", all_names[2], all_names[4]), oldest_first),
    ]
    async with reader_of(url) as reader:
        for query in queries:
            expected = model(readings, tags, query)
            assert expected
            for limit in (7, 100, len(expected), 5000):
                assert await read_all(reader, query, limit) == expected
            assert await read_all(reader, query, 50, anew=False) == expected


@pytest.mark.parametrize("oldest_first", [False, True])
async def test_a_scan_gives_what_is_at_hand(url: SecretStr, oldest_first: bool) -> None:
    """Without filling, each page but the last has something and none more than asked for."""
    readings, tags = scattered(600, 9), tag_table(9)
    await store(url, readings, tags)
    scan = ReadingScan(ReadingsQuery(WELL, 0, LAST_US, None, oldest_first))
    rows: list[Row] = []
    async with reader_of(url) as reader:
        while not scan.done:
            page = await reader.read_readings(scan, 40, fill=False)
            assert len(page) <= 40
            assert len(page) or scan.done
            rows += as_rows(page)
    assert rows == model(readings, tags, scan.query)


async def test_what_arrives_meanwhile_shifts_no_page(tenant_url: SecretStr) -> None:
    """Newer readings, and late ones of the part that was read, do not make a later page repeat or skip."""
    tags = tag_table(3)
    await store(tenant_url, many(300, 3), tags)
    query = ReadingsQuery(WELL, 0, LAST_US)
    before = model(many(300, 3), tags, query)
    async with reader_of(tenant_url) as reader:
        scan = ReadingScan(query)
        first = as_rows(await reader.read_readings(scan, 70))
        late = block(*((0, time_us, 0.5, 0) for time_us in (before[10][0] + 1, NOON_US + 10**9)))  # type: ignore[arg-type]
        await store(tenant_url, late, tags, number=2)
        rest: list[Row] = []
        while not scan.done:
            rest += as_rows(await reader.read_readings(scan, 70))
    assert first + rest == before


async def test_many_tags_at_one_instant_are_paged_by_tag(tenant_url: SecretStr) -> None:
    """A page may end in the middle of an instant."""
    tags = TagTable()
    for index in range(500):
        tags.index_of(WELL, f"i={index}")
    readings = ReadingBlock(
        np.arange(500, dtype=np.int32), np.full(500, NOON_US), np.arange(500.0), np.zeros(500, np.uint8)
    )
    await store(tenant_url, readings, tags)
    async with reader_of(tenant_url) as reader:
        for oldest_first in (False, True):
            query = ReadingsQuery(WELL, NOON_US, NOON_US, None, oldest_first)
            assert await read_all(reader, query, 33) == model(readings, tags, query)
            position = Position(NOON_US, "i=250")
            page = await reader.read_readings(ReadingScan(query, position), 2)
            assert page.node_ids == ["i=251", "i=252"]


async def test_nothing_is_held_between_two_pages(tenant_url: SecretStr) -> None:
    """No transaction, no cursor, no snapshot: a slow reader keeps the database from nothing."""
    await store(tenant_url, many(300, 3))
    held = """SELECT state, backend_xmin IS NULL, backend_xid IS NULL FROM pg_stat_activity
              WHERE application_name = 'scada-trio reader' AND datname = current_database()"""
    async with reader_of(tenant_url) as reader:
        scan = ReadingScan(ReadingsQuery(WELL, 0, LAST_US))
        await reader.read_readings(scan, 10, fill=False)
        assert not scan.done
        assert fetch(tenant_url, held) == [("idle", True, True)]


async def test_readings_of_a_tag_nobody_reads_any_more_are_found(url: SecretStr) -> None:
    """Names come from the readings, not from the configuration; one old reading is found in a wide range."""
    await store(url, block((0, NOON_US - 500 * DAY_US, 4.0, 0)))  # type: ignore[arg-type]
    async with reader_of(url) as reader:
        for oldest_first in (False, True):
            rows = await reader.read_readings(ReadingScan(ReadingsQuery(WELL, 0, LAST_US, None, oldest_first)), 10)
            assert as_rows(rows) == [(NOON_US - 500 * DAY_US, "ns=2;s=Tag0", 4.0, "Good")]


def test_an_unknown_quality_is_bad(tenant_url: SecretStr) -> None:
    """Another application may have written what it liked."""
    fetch(tenant_url, "INSERT INTO scada_readings VALUES (now(), %s, 'x', 1, 'GOOD')", WELL)

    async def read() -> ReadingRows:
        async with reader_of(tenant_url) as reader:
            return await reader.query_readings(WELL, 0, LAST_US, 10)

    assert trio.run(read).qualities == ["Bad"]


# --- how PostgreSQL goes about it


def nodes_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes_of(child))]


def explain(url: SecretStr, query: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of the plan as it was carried out, with the settings of a reading connection."""
    connection = connect(url, application_name="test", connect_timeout_s=10, statement_timeout_s=60)
    try:
        take_columns(connection)
        row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}".encode(), values).fetchone()
    finally:
        connection.close()
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    return nodes_of(plan[0]["Plan"])


def scanned(nodes: Sequence[dict[str, Any]]) -> tuple[set[str], float]:
    """Kinds of scan of readings that ran, and how many rows they came upon."""
    ran = [node for node in nodes if "scada_readings" in node.get("Relation Name", "") and node["Actual Loops"]]
    rows = sum((n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"] for n in ran)
    return {node["Node Type"] for node in ran}, rows


def fill(url: SecretStr, days: int, tags: int, a_day: int) -> None:
    """Readings of ``days`` days in daily partitions, analysed."""
    fetch(url, f"SELECT scada_make_partition(current_date - n) FROM generate_series(1, {days}) n")
    fetch(
        url,
        f"""INSERT INTO scada_readings (timestamp, well_id, tag_node_id, value)
            SELECT (current_date - d)::timestamptz + n * interval '1 day' / {a_day}, w, 'tag ' || t, n
            FROM generate_series(1, {days}) d, generate_series(1, {tags}) t, generate_series(0, {a_day - 1}) n,
                unnest(ARRAY[%s::uuid, %s::uuid]) w""",
        WELL,
        UUID(int=7),
    )
    fetch(url, "ANALYZE scada_readings")


def test_a_page_reads_the_index_and_no_more_than_the_page(tenant_url: SecretStr) -> None:
    """Of a hundred thousand readings, a page of 50 comes upon a few hundred."""
    fill(tenant_url, days=10, tags=10, a_day=500)
    names = [f"tag {n}" for n in range(1, 11)]
    day_us = fetch(tenant_url, "SELECT (extract(epoch FROM current_date) * 1000000)::bigint")[0][0]
    lower, upper = moment(day_us - 3 * DAY_US), moment(day_us - 2 * DAY_US)
    values = {"names": names, "well": WELL, "lower": lower, "upper": upper, "after": 0, "limit": 50}
    kinds, rows = scanned(explain(tenant_url, reading._NEWEST_FIRST, values))
    assert kinds <= {"Index Scan", "Index Only Scan"}
    assert rows <= 10 * 51 * 2
    kinds, rows = scanned(explain(tenant_url, reading._NAMES, values))
    assert kinds <= {"Index Scan", "Index Only Scan"}
    assert rows <= 40
