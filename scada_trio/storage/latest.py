"""The newest reading of each tag of some wells: one step down the index for each tag, whatever the table holds.

Owns that SQL. Blocks, for a worker thread; `scada_trio.storage.query` calls it with an open connection.

The newest of most tags lies in the last partitions or chunks, so those are asked first; only for tags that are
not there are the older ones opened.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final
from uuid import UUID

import numpy as np
from psycopg import sql

from scada_trio.readings import ReadingRows
from scada_trio.storage.columns import POSTGRES_EPOCH_US
from scada_trio.storage.connect import Connection
from scada_trio.storage.reading import DAY_US, QUALITY_CODE, read_names
from scada_trio.times import FIRST_US, LAST_US, moment

_LATEST: Final = (
    sql.SQL("""
    SELECT array_agg(series), array_agg(timestamp), array_agg(value), array_agg(quality) FROM (
        SELECT s.series::int4 - 1 AS series, r.*
        FROM unnest(%(wells)s::uuid[], %(names)s::text[]) WITH ORDINALITY AS s (well_id, node_id, series)
        CROSS JOIN LATERAL (
            SELECT timestamp, value, {quality} AS quality
            FROM scada_readings
            WHERE well_id = s.well_id AND tag_node_id = s.node_id
                AND timestamp >= %(lower)s AND timestamp < %(upper)s
            ORDER BY timestamp DESC LIMIT 1
        ) AS r
    ) AS latest""")
    .format(quality=sql.SQL(QUALITY_CODE))
    .as_string()
)

Found = tuple[int, float, int]  # time in µs, value, quality


def read_latest(
    connection: Connection, configured: Mapping[UUID, Collection[str]], wanted: Collection[str] | None
) -> list[ReadingRows]:
    """The newest reading of each tag of each well of ``configured``, in its order, then by the node id's code points.

    The tags are those in ``wanted``, else those configured and those that had a reading since yesterday, else,
    where there are none, whatever the well ever had.
    """
    recent_us = _recent_us()
    series: list[tuple[UUID, str]] = []
    for well_id, names in configured.items():
        known = set(names) | set(read_names(connection, well_id, recent_us, LAST_US)) if wanted is None else set(wanted)
        known = known or set(read_names(connection, well_id, FIRST_US, LAST_US))
        series += ((well_id, name) for name in sorted(known))
    found = newest(connection, series)
    return [
        _rows(well_id, [key for key in series if key[0] == well_id and key in found], found) for well_id in configured
    ]


def newest(connection: Connection, series: Sequence[tuple[UUID, str]]) -> dict[tuple[UUID, str], Found]:
    """The newest reading of each of these series, by well and node id, that has one."""
    recent_us = _recent_us()
    found = _newest(connection, series, recent_us, LAST_US)
    silent = [key for key in series if key not in found]
    return found | _newest(connection, silent, 0, recent_us)


def _recent_us() -> int:
    """The start of yesterday, UTC."""
    now_us = time.time_ns() // 1000
    return now_us - now_us % DAY_US - DAY_US


def _newest(
    connection: Connection, series: Sequence[tuple[UUID, str]], lower_us: int, upper_us: int
) -> dict[tuple[UUID, str], Found]:
    if not series:
        return {}
    values = {
        "wells": [well_id for well_id, _ in series],
        "names": [name for _, name in series],
        "lower": moment(lower_us),
        "upper": moment(upper_us),
    }
    with connection.cursor(binary=True) as cursor:
        columns = cursor.execute(_LATEST, values).fetchone()
    if columns is None or columns[0] is None:
        return {}
    numbers, times, readings, qualities = (column.tolist() for column in columns)
    return {
        series[number]: (time_us + POSTGRES_EPOCH_US, value, quality)
        for number, time_us, value, quality in zip(numbers, times, readings, qualities, strict=True)
    }


def _rows(well_id: UUID, series: Sequence[tuple[UUID, str]], found: Mapping[tuple[UUID, str], Found]) -> ReadingRows:
    return ReadingRows(
        well_id,
        [name for _, name in series],
        np.arange(len(series), dtype=np.int32),
        np.array([found[key][0] for key in series], np.int64),
        np.array([found[key][1] for key in series], np.float64),
        np.array([found[key][2] for key in series], np.uint8),
    )
