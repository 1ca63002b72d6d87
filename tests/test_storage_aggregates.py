"""Aggregates by hour, day and month, from continuous aggregates and from ordinary views."""

from __future__ import annotations

import math
import statistics
from datetime import UTC, datetime

import numpy as np
import pytest
from pydantic import SecretStr

from scada_trio.queries import Aggregate, AggregatesQuery, Position, Resolution
from scada_trio.readings import Quality, ReadingBlock
from scada_trio.storage import aggregates
from scada_trio.storage.migrate import migrate_tenant
from scada_trio.storage.query import TenantReader
from scada_trio.times import moment
from tests.fix_postgres import fetch
from tests.storage_samples import NOON_US, OTHER_WELL, WELL, block, tag_table
from tests.test_storage_reading import DAY_US, explain, fill, reader_of, scanned, store, url

__all__ = ["url"]  # the fixture

HOUR_US = 3_600_000_000
TAGS = ("ns=2;s=Tag0", "ns=2;s=Tag2")  # of WELL


def readings(count: int = 500) -> ReadingBlock:
    """Two tags of one well and one of another, from October to December; one reading in ten is not Good."""
    rng = np.random.default_rng(11)
    times = np.unique(
        NOON_US + rng.integers(-40 * 24, 20 * 24, count) * HOUR_US + rng.integers(0, 3_599_000_000, count)
    )
    size = len(times)
    return ReadingBlock(
        rng.integers(0, 3, size).astype(np.int32),
        times,
        rng.normal(1000, 5, size),
        np.where(rng.random(size) < 0.1, rng.integers(1, 3, size), 0).astype(np.uint8),
    )


def start_of(time_us: int, resolution: Resolution) -> int:
    moment_at = datetime.fromtimestamp(time_us / 1_000_000, UTC).replace(minute=0, second=0, microsecond=0)
    if resolution is not Resolution.HOURLY:
        moment_at = moment_at.replace(hour=0)
    if resolution is Resolution.MONTHLY:
        moment_at = moment_at.replace(day=1)
    return int(moment_at.timestamp()) * 1_000_000


def model(rows: ReadingBlock, resolution: Resolution) -> dict[tuple[int, str], list[tuple[float, int]]]:
    """Value and quality of each reading of WELL, by bucket and tag, in the order of an answer."""
    buckets: dict[tuple[int, str], list[tuple[float, int]]] = {}
    columns = (rows.tag.tolist(), rows.time_us.tolist(), rows.value.tolist(), rows.quality.tolist())
    for tag, time_us, value, quality in zip(*columns, strict=True):
        if tag != 1:
            buckets.setdefault((start_of(time_us, resolution), f"ns=2;s=Tag{tag}"), []).append((value, quality))
    return dict(sorted(buckets.items()))


def check(found: list[Aggregate], expected: dict[tuple[int, str], list[tuple[float, int]]]) -> None:
    assert [(a.bucket_us, a.node_id) for a in found] == list(expected)
    for aggregate, rows in zip(found, expected.values(), strict=True):
        good = [value for value, quality in rows if quality == Quality.GOOD]
        assert (aggregate.count, aggregate.total_count) == (len(good), len(rows))
        assert aggregate.uncertain_count == sum(quality == Quality.UNCERTAIN for _, quality in rows)
        assert aggregate.bad_count == sum(quality == Quality.BAD for _, quality in rows)
        if good:
            assert (aggregate.min, aggregate.max) == (min(good), max(good))
            assert aggregate.avg == pytest.approx(statistics.fmean(good), rel=1e-12)
        else:
            assert (aggregate.min, aggregate.max, aggregate.avg) == (None, None, None)
        if len(good) > 1:
            assert aggregate.stddev == pytest.approx(statistics.stdev(good), rel=1e-6)


async def ask(
    reader: TenantReader, resolution: Resolution, *, limit: int = 10_000, **changes: object
) -> list[Aggregate]:
    """Every page, oldest first."""
    found: list[Aggregate] = []
    after: Position | None = None
    while True:
        fields: dict[str, object] = {"well_id": WELL, "start_us": 0, "end_us": 2**61, "after": after, **changes}
        page = await reader.read_aggregates(AggregatesQuery(resolution=resolution, limit=limit, **fields))  # type: ignore[arg-type]
        assert len(page.aggregates) == limit or not page.more
        found += page.aggregates
        if not page.more:
            return found
        after = Position(found[-1].bucket_us, found[-1].node_id)


@pytest.mark.parametrize("resolution", Resolution)
async def test_buckets_are_those_of_the_readings(url: SecretStr, resolution: Resolution) -> None:
    """Nothing of it is materialised yet; in one page and in many, of all tags and of one."""
    rows = readings()
    await store(url, rows)
    expected = model(rows, resolution)
    async with reader_of(url) as reader:
        check(await ask(reader, resolution), expected)
        check(await ask(reader, resolution, limit=3), expected)
        one = {key: value for key, value in expected.items() if key[1] == TAGS[1]}
        check(await ask(reader, resolution, node_ids=(TAGS[1], "ns=2;s=Absent")), one)
        assert {a.node_id for a in await ask(reader, resolution, well_id=OTHER_WELL)} == {"ns=2;s=Tag1"}


@pytest.mark.parametrize("resolution", Resolution)
async def test_both_ends_of_a_range_are_in_whole_buckets(url: SecretStr, resolution: Resolution) -> None:
    """A range that begins and ends within a bucket has those whole, and nothing beside them."""
    rows = readings()
    await store(url, rows)
    start_us, end_us = NOON_US - 20 * DAY_US + 7, NOON_US + 3 * DAY_US + 8
    first_us, last_us = start_of(start_us, resolution), start_of(end_us, resolution)
    expected = {key: value for key, value in model(rows, resolution).items() if first_us <= key[0] <= last_us}
    async with reader_of(url) as reader:
        check(await ask(reader, resolution, start_us=start_us, end_us=end_us), expected)


async def test_a_bucket_without_a_good_number_has_counts_only(url: SecretStr) -> None:
    await store(
        url,
        block(
            (0, NOON_US, math.nan, Quality.BAD),
            (0, NOON_US + 1, 5.0, Quality.UNCERTAIN),
            (0, NOON_US + 2, math.inf, Quality.GOOD),
            (0, NOON_US + HOUR_US, 5.0, Quality.GOOD),
        ),
    )
    async with reader_of(url) as reader:
        first, second = await ask(reader, Resolution.HOURLY)
    assert first == Aggregate(first.bucket_us, TAGS[0], None, None, None, None, 0, 1, 1, 3)
    assert second == Aggregate(first.bucket_us + HOUR_US, TAGS[0], 5.0, 5.0, 5.0, None, 1, 0, 0, 1)


@pytest.mark.parametrize("resolution", Resolution)
async def test_what_is_not_materialised_yet_is_there(timescale_url: SecretStr, resolution: Resolution) -> None:
    """Readings behind the last refresh are in the newest buckets, beside the materialised ones."""
    migrate_tenant(timescale_url)
    rows, tags = readings(), tag_table()
    await store(timescale_url, rows, tags)
    refreshed_us = int(rows.time_us[-1])
    for name in ("hourly", "daily", "monthly"):
        fetch(
            timescale_url, f"CALL refresh_continuous_aggregate('scada_readings_{name}', NULL, %s)", moment(refreshed_us)
        )
    late = block(*((0, rows.time_us[-1] + n * HOUR_US, float(n), Quality.GOOD) for n in range(1, 50)))
    await store(timescale_url, late, tags, number=2)
    async with reader_of(timescale_url) as reader:
        check(await ask(reader, resolution), model(ReadingBlock.concatenate([rows, late]), resolution))


def test_a_view_reads_the_days_that_are_asked_for(tenant_url: SecretStr) -> None:
    """Of ten days, an hourly answer for one comes upon that one's readings of the well."""
    fill(tenant_url, days=10, tags=10, a_day=500)
    day = fetch(tenant_url, "SELECT (extract(epoch FROM current_date) * 1000000)::bigint")[0][0] - 3 * DAY_US
    query = aggregates._FROM_READINGS.format(columns="bucket, avg", unit="'hour'", good=aggregates._GOOD)
    values = {
        "well": WELL,
        "lower": moment(day),
        "upper": moment(day + DAY_US),
        "bucket": moment(0),
        "node": "",
        "names": ["tag 1", "tag 2"],
        "limit": 100,
    }
    kinds, rows = scanned(explain(tenant_url, query, values))
    assert "Seq Scan" not in kinds
    assert rows <= 2 * 500 + 10
