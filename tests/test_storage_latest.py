"""The newest reading of each tag."""

from __future__ import annotations

import time
from uuid import UUID

from pydantic import SecretStr

from scada_trio import times
from scada_trio.readings import Quality
from scada_trio.storage import latest
from tests.fix_postgres import fetch
from tests.storage_samples import OTHER_WELL, WELL, block, many, tag_table
from tests.test_storage_reading import DAY_US, as_rows, explain, fill, reader_of, scanned, store, url

__all__ = ["url"]  # the fixture

GOOD = Quality.GOOD


async def test_the_newest_of_each_tag_comes_by_well(url: SecretStr) -> None:
    """Of today and of long ago, of several wells; a tag without any reading is left out."""
    now_us = time.time_ns() // 1000
    await store(
        url,
        block(
            (0, now_us - 2_000_000, 1.0, GOOD),
            (0, now_us - 1_000_000, 2.0, Quality.BAD),
            (1, now_us - 3_000_000, 3.0, GOOD),
            (2, now_us - 400 * DAY_US, 4.0, Quality.UNCERTAIN),
            (2, now_us - 401 * DAY_US, 5.0, GOOD),
        ),
        tag_table(4),
    )
    configured = {WELL: ["ns=2;s=Tag2", "ns=2;s=New"], OTHER_WELL: []}
    async with reader_of(url) as reader:
        first, second = await reader.read_latest(configured, None)
        assert as_rows(first) == [
            (now_us - 1_000_000, "ns=2;s=Tag0", 2.0, "Bad"),
            (now_us - 400 * DAY_US, "ns=2;s=Tag2", 4.0, "Uncertain"),
        ]
        assert (first.well_id, second.well_id) == (WELL, OTHER_WELL)
        assert as_rows(second) == [(now_us - 3_000_000, "ns=2;s=Tag1", 3.0, "Good")]
        (only,) = await reader.read_latest({WELL: ["ns=2;s=Tag2"]}, ["ns=2;s=Tag0", "ns=2;s=Tag1"])
        assert only.node_ids == ["ns=2;s=Tag0"]
        assert as_rows((await reader.read_latest({UUID(int=1): []}, None))[0]) == []


async def test_a_well_that_nobody_reads_any_more_shows_what_it_had(url: SecretStr) -> None:
    """Without configured tags and recent readings, the names come from all that is stored."""
    await store(url, many(30, 3))
    async with reader_of(url) as reader:
        (rows,) = await reader.read_latest({WELL: []}, None)
    assert [(row[1], row[2]) for row in as_rows(rows)] == [("ns=2;s=Tag0", 27.0), ("ns=2;s=Tag2", 29.0)]


def test_no_table_is_read_for_it(tenant_url: SecretStr) -> None:
    """Of a hundred thousand readings in ten partitions, ten tags come upon ten rows a partition at most."""
    fill(tenant_url, days=10, tags=10, a_day=500)
    names = [f"tag {n}" for n in range(1, 11)]
    values = {
        "wells": [WELL] * 10,
        "names": names,
        "lower": times.moment(0),
        "upper": times.moment(times.LAST_US),
    }
    kinds, rows = scanned(explain(tenant_url, latest._LATEST, values))
    assert kinds <= {"Index Scan", "Index Only Scan"}
    assert rows <= 10 * 12
    assert fetch(tenant_url, "SELECT count(*) FROM scada_readings") == [(100_000,)]
