"""Means, extremes and counts by hour, day or month, up to the newest reading.

Owns the SQL that reads the rollups. Blocks, for a worker thread; `scada_trio.storage.query` calls it with an open
connection.

TimescaleDB's continuous aggregates are read as they are: they add what is not materialised yet by themselves. An
ordinary view of the same name would read every reading that the well has, since no range of buckets reaches the table
under it; so the same is asked of the table, with a range of times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, LiteralString

from psycopg import sql

from scada_trio.queries import Aggregate, AggregatesPage, AggregatesQuery, Position, Resolution
from scada_trio.storage.columns import POSTGRES_EPOCH_US
from scada_trio.storage.connect import Connection
from scada_trio.times import FIRST_US, LAST_US, moment

_UNITS: Final[Mapping[Resolution, LiteralString]] = {
    Resolution.HOURLY: "hour",
    Resolution.DAILY: "day",
    Resolution.MONTHLY: "month",
}
_NAMES: Final[Mapping[Resolution, LiteralString]] = {
    Resolution.HOURLY: "scada_readings_hourly",
    Resolution.DAILY: "scada_readings_daily",
    Resolution.MONTHLY: "scada_readings_monthly",
}

_RANGE: Final = """
    SELECT date_trunc({unit}, %(start)s::timestamptz, 'UTC') AS lower, least(
        (date_trunc({unit}, %(end)s::timestamptz, 'UTC') AT TIME ZONE 'UTC' + {width}::interval) AT TIME ZONE 'UTC',
        %(last)s) AS upper"""
_COLUMNS: Final = """bucket, tag_node_id, avg, min, max, stddev, count, uncertain_count, bad_count, total_count"""
_FROM_ROLLUP: Final = """
    SELECT {columns} FROM {rollup}
    WHERE well_id = %(well)s AND bucket >= %(lower)s AND bucket < %(upper)s
        AND (%(names)s::text[] IS NULL OR tag_node_id = ANY (%(names)s))
        AND (bucket, tag_node_id) > (%(bucket)s, %(node)s)
    ORDER BY bucket, tag_node_id LIMIT %(limit)s"""
_FROM_READINGS: Final = """
    SELECT {columns} FROM (
        SELECT date_trunc({unit}, timestamp, 'UTC') AS bucket, tag_node_id,
            avg(value) FILTER (WHERE {good}) AS avg,
            min(value) FILTER (WHERE {good}) AS min,
            max(value) FILTER (WHERE {good}) AS max,
            stddev(value) FILTER (WHERE {good}) AS stddev,
            count(*) FILTER (WHERE {good}) AS count,
            count(*) FILTER (WHERE quality = 'Uncertain') AS uncertain_count,
            count(*) FILTER (WHERE quality = 'Bad') AS bad_count,
            count(*) AS total_count
        FROM scada_readings
        WHERE well_id = %(well)s AND timestamp >= %(lower)s AND timestamp < %(upper)s
            AND timestamp >= %(bucket)s AND (%(names)s::text[] IS NULL OR tag_node_id = ANY (%(names)s))
        GROUP BY 1, 2
    ) AS readings
    WHERE (bucket, tag_node_id) > (%(bucket)s, %(node)s)
    ORDER BY bucket, tag_node_id LIMIT %(limit)s"""
_GOOD: Final = "quality = 'Good' AND abs(value) < 'Infinity'"
# A continuous aggregate is a view, too.
_KIND: Final = """
    SELECT c.relkind::text, to_regclass('timescaledb_information.continuous_aggregates') IS NOT NULL
    FROM pg_class AS c WHERE c.oid = to_regclass(%(name)s)"""
_IS_CONTINUOUS: Final = """
    SELECT EXISTS (SELECT FROM timescaledb_information.continuous_aggregates
        WHERE format('%%I.%%I', view_schema, view_name)::regclass = to_regclass(%(name)s))"""


def read_aggregates(connection: Connection, query: AggregatesQuery) -> AggregatesPage:
    """The buckets of a query, oldest first, then by tag as the database orders them."""
    unit = sql.Literal(_UNITS[query.resolution])
    after = query.after or Position(FIRST_US, "")
    start, end = (moment(time_us) for time_us in (query.start_us, query.end_us))
    with connection.cursor(binary=True) as cursor:
        range_sql = sql.SQL(_RANGE).format(unit=unit, width=sql.Literal(f"1 {_UNITS[query.resolution]}"))
        cursor.execute(range_sql, {"start": start, "end": end, "last": moment(LAST_US)})
        ((lower, upper),) = cursor.fetchall()
        values = {
            "well": query.well_id,
            "lower": moment(lower + POSTGRES_EPOCH_US),
            "upper": moment(upper + POSTGRES_EPOCH_US),
            "names": None if query.node_ids is None else list(query.node_ids),
            "bucket": moment(after.time_us),
            "node": after.node_id or "",
            "limit": query.limit + 1,
        }
        rows = cursor.execute(_source(connection, query.resolution), values).fetchall()
    aggregates = [Aggregate(row[0] + POSTGRES_EPOCH_US, *row[1:]) for row in rows[: query.limit]]
    return AggregatesPage(aggregates, more=len(rows) > query.limit)


def _source(connection: Connection, resolution: Resolution) -> sql.Composed:
    name = _NAMES[resolution]
    columns = sql.SQL(_COLUMNS)
    if _is_ordinary_view(connection, name):
        return sql.SQL(_FROM_READINGS).format(
            columns=columns, unit=sql.Literal(_UNITS[resolution]), good=sql.SQL(_GOOD)
        )
    return sql.SQL(_FROM_ROLLUP).format(columns=columns, rollup=sql.Identifier(name))


def _is_ordinary_view(connection: Connection, name: str) -> bool:
    row = connection.execute(_KIND, {"name": name}).fetchone()
    if row is None or row[0] != "v":
        return False
    return not (row[1] and connection.execute(_IS_CONTINUOUS, {"name": name}).fetchone() == (True,))
