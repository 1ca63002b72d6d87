"""Rows of COPY BINARY as PostgreSQL itself reads them."""

from __future__ import annotations

import itertools
import math
import random
from uuid import UUID

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from scada_trio.readings import EMPTY_BLOCK, QUALITY_LABELS, Quality, ReadingBlock, TagTable
from scada_trio.storage.copy import COPY_COLUMNS, RowTemplates, encode_rows
from tests.fix_postgres import fetch
from tests.storage_samples import NOON_US, OTHER_WELL, ROWS, WELL, block, many, tag_table

_STATEMENT = f"COPY scada_readings ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)"


def _copy(url: SecretStr, readings: ReadingBlock, tags: TagTable) -> list[tuple[object, ...]]:
    with psycopg.connect(url.get_secret_value()) as connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE scada_readings")
        with cursor.copy(_STATEMENT.encode()) as copy:
            copy.write(encode_rows(readings, RowTemplates(tags)).data)
    return fetch(url, ROWS)


def test_rows_are_stored_as_they_were_read(tenant_url: SecretStr) -> None:
    """Times keep their microseconds, values their bits, qualities their names, node ids their letters."""
    tags = TagTable()
    tags.index_of(WELL, "ns=2;s=Pressure")
    tags.index_of(OTHER_WELL, "ns=3;s=Tür/Δp 漢字")
    tags.index_of(WELL, "ns=2;s=" + "x" * 900)
    readings = block(
        (0, NOON_US + 1, 0.1, Quality.GOOD),
        (1, NOON_US + 2, -math.inf, Quality.UNCERTAIN),
        (2, NOON_US + 3, 5e-324, Quality.GOOD),
        (0, -1, 1e308, Quality.GOOD),
    )
    assert _copy(tenant_url, readings, tags) == [
        (-1, WELL, "ns=2;s=Pressure", 1e308, "Good"),
        (NOON_US + 1, WELL, "ns=2;s=Pressure", 0.1, "Good"),
        (NOON_US + 2, OTHER_WELL, "ns=3;s=Tür/Δp 漢字", -math.inf, "Uncertain"),
        (NOON_US + 3, WELL, "ns=2;s=" + "x" * 900, 5e-324, "Good"),
    ]


def test_a_bad_reading_without_a_value_is_a_nan(tenant_url: SecretStr) -> None:
    """NaN survives the way into a column that takes no NULL."""
    ((*_, value, quality),) = _copy(tenant_url, block((0, NOON_US, math.nan, Quality.BAD)), tag_table())
    assert math.isnan(float(str(value)))
    assert quality == "Bad"


_readings = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.integers(NOON_US, NOON_US + 20),
        st.floats(allow_nan=False),
        st.sampled_from(Quality),
    ),
    max_size=60,
)


@given(readings=_readings)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_batch_ends_as_its_last_reading_of_each_series_and_time(
    tenant_url: SecretStr, readings: list[tuple[int, int, float, Quality]]
) -> None:
    """Whatever repeats within a batch, the last one is stored and the others are counted, by whether they differ."""
    tags = TagTable()
    for index in range(31):
        tags.index_of(WELL, "n" * (index % 7) + str(index))
    kept: dict[tuple[int, int], tuple[float, Quality]] = {}
    replaced = duplicates = 0
    for series, time_us, value, quality in readings:
        before = kept.get((series, time_us))
        duplicates += before == (value, quality)
        replaced += before is not None and before != (value, quality)
        kept[series, time_us] = (value, quality)
    encoded = encode_rows(block(*readings), RowTemplates(tags))
    assert (encoded.rows, encoded.duplicates, encoded.replaced) == (len(kept), duplicates, replaced)
    expected = {
        (time_us, *tags.key(series), value, QUALITY_LABELS[q]) for (series, time_us), (value, q) in kept.items()
    }
    assert set(_copy(tenant_url, block(*readings), tags)) == expected


def test_templates_grow_with_the_tags() -> None:
    """A series that appears later is encoded by the templates that were there before it."""
    tags = tag_table(1)
    templates = RowTemplates(tags)
    first = encode_rows(block((0, NOON_US, 1.0, Quality.GOOD)), templates).data.tobytes()
    for index in range(5000):
        tags.index_of(WELL, f"later {index}")
    late = encode_rows(block((5000, NOON_US, 1.0, Quality.GOOD)), templates).data.tobytes()
    assert b"later 4999" in late
    assert encode_rows(block((0, NOON_US, 1.0, Quality.GOOD)), templates).data.tobytes() == first


@pytest.mark.parametrize(("wells", "names"), [(40, 5), (3, 200)], ids=["short runs", "long runs"])
def test_rows_come_as_the_index_has_them(tenant_url: SecretStr, wells: int, names: int) -> None:
    """Well by well and within one by width, however they came and whatever their quality; each with its own value."""
    tags, rng = TagTable(), random.Random(3)
    well_ids = [UUID(int=rng.getrandbits(128)) for _ in range(wells)]
    for name, well_id in itertools.product(range(names), well_ids):
        tags.index_of(well_id, "n" * (name % 4) + str(name))
    count = wells * names
    readings = ReadingBlock(
        np.array(rng.sample(range(count), count), np.int32),
        np.full(count, NOON_US),
        np.arange(count, dtype=np.float64),
        np.array([rng.choice((0, 0, 0, 1, 2)) for _ in range(count)], np.uint8),
    )
    _copy(tenant_url, readings, tags)
    stored = fetch(tenant_url, "SELECT well_id, tag_node_id, value, quality FROM scada_readings ORDER BY ctid")
    assert [row[:2] for row in stored] == sorted((row[:2] for row in stored), key=lambda k: (k[0], len(k[1]), k[1]))
    expected = {
        (*tags.key(int(tag)), float(value), QUALITY_LABELS[quality])
        for tag, value, quality in zip(readings.tag, readings.value, readings.quality, strict=True)
    }
    assert set(stored) == expected


def test_an_empty_batch_is_an_empty_stream(tenant_url: SecretStr) -> None:
    """Header and trailer alone are a COPY that PostgreSQL takes."""
    assert encode_rows(EMPTY_BLOCK, RowTemplates(tag_table())).rows == 0
    assert _copy(tenant_url, EMPTY_BLOCK, tag_table()) == []


def test_one_long_node_id_costs_its_own_rows_only() -> None:
    """Rows are laid out by width: a node id of 64 KiB does not widen the others."""
    tags = tag_table(10)
    tags.index_of(WELL, "x" * 65536)
    readings = ReadingBlock.concatenate([many(10_000, 10), block((10, NOON_US, 1.0, Quality.GOOD))])
    assert len(encode_rows(readings, RowTemplates(tags)).data) < 10_000 * 80 + 66_000


def test_times_far_apart_are_sorted_too() -> None:
    """Where a joint sorting key does not fit 63 bits, series and time are sorted one by one."""
    far = np.array([2**62, -(2**62), 0, 2**62], np.int64)
    readings = ReadingBlock(np.array([2, 2, 1, 2], np.int32), far, np.arange(4.0), np.zeros(4, np.uint8))
    encoded = encode_rows(readings, RowTemplates(tag_table()))
    assert (encoded.rows, encoded.replaced) == (3, 1)
