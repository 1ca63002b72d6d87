"""Reading one well's readings a page at a time, in order of time, from any range at the cost of what is read.

Owns the SQL of pages and of the names of a well's tags. Blocks, for a worker thread; `scada_trio.storage.query` calls
it with an open connection. Starts nothing, and nothing stays open between two pages: no cursor, no transaction.

The one index is by well, tag and time, so a well's readings are not to be had by time alone. Each page is read from a
window of time, tag by tag down the index, and sorted; the window grows or shrinks with what it held, so that neither
side ever has much more than a page in memory. The names of a well's tags come from the index too, by skipping from
one to the next.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final, LiteralString
from uuid import UUID

import numpy as np
from psycopg import sql

from scada_trio.queries import Position, ReadingScan
from scada_trio.readings import ReadingRows
from scada_trio.storage.columns import POSTGRES_EPOCH_US
from scada_trio.storage.connect import Connection
from scada_trio.times import FIRST_US, LAST_US, moment

DAY_US: Final = 86_400_000_000
_SOON_US: Final = 60_000_000  # devices' clocks may be ahead of ours by this
_FIRST_WINDOW_US: Final = 60_000_000
_WINDOW_GROWTH: Final = 8

# By the labels alone: what another application may have written there instead is Bad.
QUALITY_CODE: Final = "CASE quality WHEN 'Good' THEN 0 WHEN 'Uncertain' THEN 1 ELSE 2 END"

# The inner limit stops each tag's scan, and keeps the planner from joining in another way. What was given out already
# at the window's first instant are the tags up to ``after``. Three columns: each one costs as much as finding the rows.
_PAGE: Final = """
    SELECT array_agg(timestamp), array_agg(value), array_agg(code) FROM (
        SELECT r.timestamp, r.value, s.series::int4 * 3 - 3 + r.quality AS code
        FROM unnest(%(names)s::text[]) WITH ORDINALITY AS s (node_id, series)
        CROSS JOIN LATERAL (
            SELECT timestamp, value, {quality} AS quality
            FROM scada_readings
            WHERE well_id = %(well)s AND tag_node_id = s.node_id
                AND timestamp >= %(lower)s AND timestamp <= %(upper)s
                AND (timestamp <> {first} OR s.series > %(after)s)
            ORDER BY timestamp {direction} LIMIT %(limit)s
        ) AS r
        ORDER BY r.timestamp {direction}, s.series LIMIT %(limit)s
    ) AS page"""


def _page_sql(first: LiteralString, direction: LiteralString) -> sql.Composed:
    return sql.SQL(_PAGE).format(quality=sql.SQL(QUALITY_CODE), first=sql.SQL(first), direction=sql.SQL(direction))


_NEWEST_FIRST: Final = _page_sql("%(upper)s", "DESC").as_string()
_OLDEST_FIRST: Final = _page_sql("%(lower)s", "ASC").as_string()

# The reading nearest to where a scan stands, each tag's by the index.
_NEAREST: Final = """
    SELECT {pick}(r.timestamp) FROM unnest(%(names)s::text[]) AS s (node_id)
    CROSS JOIN LATERAL (
        SELECT timestamp FROM scada_readings
        WHERE well_id = %(well)s AND tag_node_id = s.node_id AND timestamp >= %(lower)s AND timestamp <= %(upper)s
        ORDER BY timestamp {direction} LIMIT 1
    ) AS r"""
_LAST: Final = sql.SQL(_NEAREST).format(pick=sql.SQL("max"), direction=sql.SQL("DESC")).as_string()
_FIRST: Final = sql.SQL(_NEAREST).format(pick=sql.SQL("min"), direction=sql.SQL("ASC")).as_string()

# From one name to the next by the index (PostgreSQL wiki, "Loose indexscan"). The range is one of whole days, as the
# partitions and chunks are, so that it leaves some out altogether and holds whatever is in the others.
_NAMES: Final = """
    WITH RECURSIVE names AS (
        (SELECT tag_node_id FROM scada_readings
         WHERE well_id = %(well)s AND timestamp >= %(lower)s AND timestamp < %(upper)s ORDER BY tag_node_id LIMIT 1)
        UNION ALL
        SELECT (SELECT tag_node_id FROM scada_readings
                WHERE well_id = %(well)s AND tag_node_id > names.tag_node_id
                    AND timestamp >= %(lower)s AND timestamp < %(upper)s ORDER BY tag_node_id LIMIT 1)
        FROM names WHERE names.tag_node_id IS NOT NULL
    )
    SELECT tag_node_id FROM names WHERE tag_node_id IS NOT NULL"""


def read_page(connection: Connection, scan: ReadingScan, limit: int, fill: bool) -> ReadingRows:
    """The next readings of a scan, ``limit`` at most, in its order; moves the scan on.

    With ``fill`` fewer come only where no more are left, and ``scan.done`` tells then; without it, as many as are at
    hand, none at the end only. Of the same time, node ids come in the order of their code points.
    """
    query = scan.query
    wanted = limit + 1 if fill else limit  # one more tells whether something is left
    parts: list[ReadingRows] = []
    count = 0
    while not scan.done and count < wanted and (fill or not count):
        part = _read_window(connection, scan, wanted - count)
        if len(part):
            parts.append(part)
            count += len(part)
    rows = _joined(query.well_id, parts)
    if count > limit:
        rows = rows.slice(0, limit)
        scan.position = Position(int(rows.time_us[-1]), rows.names[rows.series[-1]])
        scan.done = False
    return rows


def _read_window(connection: Connection, scan: ReadingScan, wanted: int) -> ReadingRows:
    """One window's readings, ``wanted`` at most; the scan then stands behind the window, or behind the last reading."""
    query = scan.query
    lower_us, upper_us = _window(scan)
    if lower_us > upper_us:
        scan.done = True
        return _joined(query.well_id, [])
    names = _names(connection, scan, lower_us, upper_us)
    after = 0
    if scan.position is not None and scan.position.node_id is not None:
        after = bisect_right(names, scan.position.node_id)
    values = {
        "names": list(names),
        "well": query.well_id,
        "lower": moment(lower_us),
        "upper": moment(upper_us),
        "after": after,
        "limit": wanted,
    }
    rows = _joined(query.well_id, [])
    if names:
        with connection.cursor(binary=True) as cursor:
            found = cursor.execute(_OLDEST_FIRST if query.oldest_first else _NEWEST_FIRST, values).fetchone()
        if found is not None and found[0] is not None:
            rows = rows_of(query.well_id, names, found)
    if len(rows) == wanted:
        scan.position = Position(int(rows.time_us[-1]), names[rows.series[-1]])
        held_us = abs(int(rows.time_us[-1]) - int(rows.time_us[0]))
    else:
        scan.position = Position(upper_us + 1 if query.oldest_first else lower_us - 1)
        held_us = min(upper_us, _soon_us()) - lower_us
    scan.window_us = _next_window(max(held_us, 1), len(rows), wanted)
    if not len(rows):
        _skip_gap(connection, scan)
    return rows


def _skip_gap(connection: Connection, scan: ReadingScan) -> None:
    """Move a scan that met an empty window on to the next reading there is."""
    query = scan.query
    lower_us, upper_us = _rest(scan)
    if lower_us > upper_us:
        return
    names = _names(connection, scan, lower_us, upper_us)
    values = {"names": list(names), "well": query.well_id, "lower": moment(lower_us), "upper": moment(upper_us)}
    nearest: int | None = None
    if names:
        with connection.cursor(binary=True) as cursor:
            ((nearest,),) = cursor.execute(_FIRST if query.oldest_first else _LAST, values).fetchall()
    scan.done = nearest is None
    if nearest is not None:
        scan.position = Position(nearest + POSTGRES_EPOCH_US)


def _rest(scan: ReadingScan) -> tuple[int, int]:
    """Both ends, included, of what is not read yet; the lower is above the upper where that is nothing."""
    query = scan.query
    lower_us, upper_us = max(query.start_us, FIRST_US), min(query.end_us, LAST_US)
    if scan.position is None:
        return lower_us, upper_us
    if query.oldest_first:
        return scan.position.time_us, upper_us
    return lower_us, scan.position.time_us


def _window(scan: ReadingScan) -> tuple[int, int]:
    """Both ends, included, of the next window; what is to come is never split."""
    lower_us, upper_us = _rest(scan)
    width_us = scan.window_us or _FIRST_WINDOW_US
    if scan.query.oldest_first:
        return lower_us, upper_us if lower_us + width_us > _soon_us() else min(lower_us + width_us, upper_us)
    return max(lower_us, min(upper_us, _soon_us()) - width_us), upper_us


def _next_window(held_us: int, count: int, wanted: int) -> int:
    """The width that would have held ``wanted`` readings and a few more, as far as one that held ``count`` tells.

    Reading a few too many costs less than asking once more.
    """
    more = wanted + wanted // 4
    return held_us * _WINDOW_GROWTH if count * _WINDOW_GROWTH <= more else -(-held_us * more // count)


def _soon_us() -> int:
    return time.time_ns() // 1000 + _SOON_US


def _names(connection: Connection, scan: ReadingScan, lower_us: int, upper_us: int) -> Sequence[str]:
    """Names that may have readings in the window, by code points; looked up again when the days change."""
    query = scan.query
    if scan.names is None and query.node_ids is not None:
        scan.names = (FIRST_US, LAST_US, tuple(sorted(set(query.node_ids))))
    if scan.names is None or not scan.names[0] <= lower_us <= upper_us <= scan.names[1]:
        first_us = lower_us - lower_us % DAY_US
        last_us = min(upper_us - upper_us % DAY_US + DAY_US, LAST_US)
        scan.names = (first_us, last_us, read_names(connection, query.well_id, first_us, last_us))
    return scan.names[2]


def read_names(connection: Connection, well_id: UUID, lower_us: int, upper_us: int) -> tuple[str, ...]:
    """Node ids of a well with readings in ``lower_us <= time < upper_us``, by code points."""
    values = {"well": well_id, "lower": moment(lower_us), "upper": moment(upper_us)}
    with connection.cursor(binary=True) as cursor:
        return tuple(sorted(row[0] for row in cursor.execute(_NAMES, values)))


def rows_of(well_id: UUID, names: Sequence[str], columns: Sequence[Any]) -> ReadingRows:
    """From the columns time, value, and three times the series plus the quality, as `columns` loads them."""
    times, values, codes = columns
    series = codes // 3
    return ReadingRows(well_id, names, series, times + POSTGRES_EPOCH_US, values, (codes - series * 3).astype(np.uint8))


def _joined(well_id: UUID, parts: Sequence[ReadingRows]) -> ReadingRows:
    """All readings of ``parts`` in order; each has names of its own, sorted alike."""
    if len(parts) == 1:
        return parts[0]
    names = sorted({name for part in parts for name in part.names})
    index = {name: number for number, name in enumerate(names)}
    renumber = [np.array([index[name] for name in part.names], np.int32) for part in parts]
    return ReadingRows(
        well_id,
        names,
        np.concatenate([np.empty(0, np.int32), *(n[p.series] for n, p in zip(renumber, parts, strict=True))]),
        np.concatenate([np.empty(0, np.int64), *(part.time_us for part in parts)]),
        np.concatenate([np.empty(0, np.float64), *(part.value for part in parts)]),
        np.concatenate([np.empty(0, np.uint8), *(part.quality for part in parts)]),
    )
