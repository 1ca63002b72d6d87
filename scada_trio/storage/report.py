"""What a tenant's database holds and how it is kept: sizes, compression, policies, rollups; for operators.

Owns the SQL of the report. Reads catalogues and the ends of an index, never all readings, so that it is as fast on
years of them; what is estimated says so. The command opens it; nothing of the running service does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

from psycopg import errors, sql
from pydantic import SecretStr

from scada_trio.config import StorageSettings
from scada_trio.storage.adoption import ROLLUPS, is_ours
from scada_trio.storage.connect import Connection, call_once
from scada_trio.storage.late import tells_repeated
from scada_trio.times import FIRST_US, LAST_US, moment

MAINTENANCE_EVERY: Final = timedelta(hours=1)

_END_TIMEOUT: Final = "SET LOCAL statement_timeout = '2s'"  # for the oldest and the newest reading each
_ROW_BYTES: Final = 100  # of a row of which there are no statistics

_KIND: Final = """
    SELECT relkind::text, to_regclass('_timescaledb_catalog.chunk') IS NOT NULL AND EXISTS (
        SELECT FROM _timescaledb_catalog.hypertable h
        WHERE to_regclass(format('%I.%I', schema_name, table_name)) = c.oid)
    FROM pg_class c WHERE oid = to_regclass('scada_readings')"""
_HAS_CATALOGUE: Final = "SELECT to_regclass('_timescaledb_catalog.chunk') IS NOT NULL"
_PLAIN_KIND: Final = "SELECT relkind::text, false FROM pg_class WHERE oid = to_regclass('scada_readings')"
_VERSION: Final = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"

# Its parts, oldest first: oid, from, to (NULL where it has no bounds), whether compressed, rows before compression.
_CHUNKS: Final = """
    SELECT to_regclass(format('%I.%I', k.chunk_schema, k.chunk_name))::oid, k.range_start, k.range_end, k.is_compressed,
        coalesce(z.numrows_pre_compression, 0)
    FROM timescaledb_information.chunks k
    JOIN _timescaledb_catalog.chunk c ON (c.schema_name, c.table_name) = (k.chunk_schema, k.chunk_name)
    LEFT JOIN _timescaledb_catalog.compression_chunk_size z ON z.chunk_id = c.id
    WHERE to_regclass(format('%I.%I', k.hypertable_schema, k.hypertable_name)) = to_regclass('scada_readings')
    ORDER BY k.range_start"""
_PARTITIONS: Final = """
    SELECT relid::oid, lower, upper, false, 0
    FROM pg_partition_tree('scada_readings') t JOIN pg_class c ON c.oid = t.relid
    LEFT JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid),
        $$FROM \\('(.+)'\\) TO \\('(.+)'\\)$$) AS bound ON true
    CROSS JOIN LATERAL (SELECT bound[1]::timestamptz AS lower, bound[2]::timestamptz AS upper) AS b
    WHERE isleaf ORDER BY lower NULLS FIRST, relid"""
_ITSELF: Final = "SELECT to_regclass('scada_readings')::oid, NULL::timestamptz, NULL::timestamptz, false, 0"

_SIZES: Final = """
    SELECT coalesce(sum(pg_relation_size(p)), 0)::bigint, coalesce(sum(pg_indexes_size(p)), 0)::bigint,
        coalesce(sum(pg_total_relation_size(p)), 0)::bigint
    FROM unnest(%s::oid[]) AS p"""
_HYPERTABLE_SIZES: Final = (
    "SELECT table_bytes, index_bytes, total_bytes FROM hypertable_detailed_size('scada_readings')"
)
_COMPRESSION: Final = """
    SELECT sum(before_compression_total_bytes)::bigint, sum(after_compression_total_bytes)::bigint
    FROM hypertable_compression_stats('scada_readings')"""
_INDEXES: Final = """
    SELECT i.indexrelid::regclass::text,
        (SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(i.indexrelid))::bigint
    FROM pg_index i WHERE i.indrelid = to_regclass('scada_readings') ORDER BY 1"""
_ORDINARY_INDEXES: Final = """
    SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index
    WHERE indrelid = to_regclass('scada_readings') ORDER BY 1"""
_HYPERTABLE_INDEXES: Final = """
    SELECT indexrelid::regclass::text, hypertable_index_size(indexrelid) FROM pg_index
    WHERE indrelid = to_regclass('scada_readings') ORDER BY 1"""
# As the planner does it: rows a page when it was analysed last, times the pages of today.
_ROWS: Final = """
    SELECT oid, pg_relation_size(oid) * CASE WHEN reltuples >= 0 AND relpages > 0
        THEN reltuples / relpages / current_setting('block_size')::float8 ELSE 1.0 / %s END
    FROM pg_class WHERE oid = ANY (%s)"""

# The first entry of each series in the unique index: as many looks as there are series, however many readings.
_NEWEST: Final = """
    WITH RECURSIVE s AS (
        (SELECT well_id, tag_node_id, timestamp FROM {part} ORDER BY well_id, tag_node_id, timestamp DESC LIMIT 1)
        UNION ALL
        SELECT n.* FROM s, LATERAL (SELECT well_id, tag_node_id, timestamp FROM {part}
            WHERE (well_id, tag_node_id) > (s.well_id, s.tag_node_id)
            ORDER BY well_id, tag_node_id, timestamp DESC LIMIT 1) AS n)
    SELECT max(timestamp) FROM s"""
_OLDEST: Final = """
    WITH RECURSIVE s AS (
        (SELECT well_id, tag_node_id, timestamp FROM {part} ORDER BY well_id DESC, tag_node_id DESC, timestamp LIMIT 1)
        UNION ALL
        SELECT n.* FROM s, LATERAL (SELECT well_id, tag_node_id, timestamp FROM {part}
            WHERE (well_id, tag_node_id) < (s.well_id, s.tag_node_id)
            ORDER BY well_id DESC, tag_node_id DESC, timestamp LIMIT 1) AS n)
    SELECT min(timestamp) FROM s"""

_FINITE: Final = "SELECT CASE WHEN isfinite(t) THEN (extract(epoch FROM t) * 1000000)::bigint END FROM ({}) AS e (t)"

_JOBS: Final = """
    SELECT coalesce(a.user_view_name, h.table_name)::text, j.proc_name::text,
        coalesce(j.config ->> 'compress_after', j.config ->> 'drop_after', j.config ->> 'start_offset'),
        j.schedule_interval, j.scheduled, nullif(s.last_run_started_at, '-infinity'), s.last_run_status::text,
        nullif(s.next_start, '-infinity'),
        coalesce(s.total_runs, 0), coalesce(s.total_failures, 0),
        (SELECT err_message FROM timescaledb_information.job_errors e WHERE e.job_id = j.job_id
            ORDER BY start_time DESC LIMIT 1)
    FROM timescaledb_information.jobs j
    JOIN _timescaledb_catalog.hypertable h
        ON h.id = coalesce(j.config ->> 'mat_hypertable_id', j.config ->> 'hypertable_id')::integer
    LEFT JOIN _timescaledb_catalog.continuous_agg a ON a.mat_hypertable_id = h.id
    LEFT JOIN timescaledb_information.job_stats s ON s.job_id = j.job_id
    WHERE to_regclass(format('%I.%I', coalesce(a.user_view_schema, h.schema_name),
        coalesce(a.user_view_name, h.table_name))) = ANY (array_remove(ARRAY[to_regclass('scada_readings'),
            to_regclass('scada_readings_hourly'), to_regclass('scada_readings_daily'),
            to_regclass('scada_readings_monthly')], NULL))
    ORDER BY length(coalesce(a.user_view_name, h.table_name)::text), 1, j.job_id"""
_MAINTENANCE: Final = "SELECT last_run_at, last_success_at, runs, failures, last_error FROM scada_maintenance"
_AGGREGATE: Final = """
    SELECT a.mat_hypertable_id, w.watermark, hypertable_size(format('%%I.%%I', h.schema_name, h.table_name)::regclass)
    FROM _timescaledb_catalog.continuous_agg a
    JOIN _timescaledb_catalog.hypertable h ON h.id = a.mat_hypertable_id
    LEFT JOIN _timescaledb_catalog.continuous_aggs_watermark w ON w.mat_hypertable_id = a.mat_hypertable_id
    WHERE to_regclass(format('%%I.%%I', a.user_view_schema, a.user_view_name)) = to_regclass(%s)"""


@dataclass(frozen=True, slots=True)
class Index:
    """An index of ``scada_readings``, with all of its parts."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A job of TimescaleDB, or of the service's own maintenance, and how it went; ``setting`` None: no bound."""

    relation: str
    what: str
    setting: str | None
    every: timedelta | None = None
    enabled: bool = True
    last_run: datetime | None = None
    last_status: str | None = None
    next_run: datetime | None = None
    runs: int = 0
    failures: int = 0
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Rollup:
    """``materialised_until`` None: nothing is, it is computed when it is asked for."""

    name: str
    kind: str
    ours: bool
    materialised_until: datetime | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class StorageReport:
    """Of one tenant's database.

    ``chunks`` are TimescaleDB's or native partitions. ``rows_estimate`` is an estimate. ``oldest`` and ``newest`` are
    readings where ``oldest_exact`` and ``newest_exact`` say so, else the bounds of the chunk they are in.
    """

    kind: str
    ours: bool
    timescaledb: str | None
    tells_repeated: bool
    chunks: int
    compressed_chunks: int
    total_bytes: int
    table_bytes: int
    index_bytes: int
    indexes: tuple[Index, ...]
    compressed_from_bytes: int | None
    compressed_to_bytes: int | None
    rows_estimate: int
    oldest: datetime | None
    oldest_exact: bool
    newest: datetime | None
    newest_exact: bool
    policies: tuple[Policy, ...]
    rollups: tuple[Rollup, ...]

    @property
    def compression_ratio(self) -> float | None:
        """Bytes before compression for one after it, of the chunks that are compressed; None where none is."""
        if not self.compressed_from_bytes or not self.compressed_to_bytes:
            return None
        return self.compressed_from_bytes / self.compressed_to_bytes


async def read_report(
    url: SecretStr, periods: StorageSettings, *, connect_timeout_s: float, statement_timeout_s: float
) -> StorageReport:
    """Raises `DatabaseError`; `DatabaseMisconfigured` where there is no ``scada_readings``."""
    return await call_once(
        url,
        _read,
        periods,
        application_name="scada-trio storage report",
        connect_timeout_s=connect_timeout_s,
        statement_timeout_s=statement_timeout_s,
    )


# --- in the worker thread


@dataclass(frozen=True, slots=True)
class _Part:
    oid: int
    lower: datetime | None
    upper: datetime | None
    compressed: bool
    rows_compressed: int


def _read(connection: Connection, periods: StorageSettings) -> StorageReport:
    catalogue = bool(_one(connection, _HAS_CATALOGUE))
    row = connection.execute(_KIND if catalogue else _PLAIN_KIND).fetchone()
    if row is None:
        connection.execute("SELECT FROM scada_readings")  # raises what tells that it is not migrated
        raise AssertionError
    relkind, hypertable = row
    ours = is_ours(connection, "scada_readings")
    partitions = _CHUNKS if hypertable else _PARTITIONS if relkind == "p" else _ITSELF
    parts = [_Part(*part) for part in connection.execute(partitions)]
    oids = [part.oid for part in parts]
    if hypertable:
        sizes = connection.execute(_HYPERTABLE_SIZES).fetchone()
        indexes = connection.execute(_HYPERTABLE_INDEXES).fetchall()
        before, after = connection.execute(_COMPRESSION).fetchone() or (None, None)
    else:
        sizes = connection.execute(_SIZES, [oids]).fetchone()
        indexes = connection.execute(_INDEXES if relkind == "p" else _ORDINARY_INDEXES).fetchall()
        before = after = None
    table_bytes, index_bytes, total_bytes = sizes or (0, 0, 0)
    estimates: dict[int, float] = dict(connection.execute(_ROWS, [_ROW_BYTES, oids]).fetchall())
    indexed = tells_repeated(connection)
    oldest = _end(connection, parts, estimates, _OLDEST if indexed else None, newest=False)
    newest = _end(connection, parts, estimates, _NEWEST if indexed else None, newest=True)
    return StorageReport(
        kind="hypertable" if hypertable else {"p": "native partitions", "r": "ordinary table"}.get(relkind, "view"),
        ours=ours,
        timescaledb=_one(connection, _VERSION),
        tells_repeated=indexed,
        chunks=len(parts) if hypertable or relkind == "p" else 0,
        compressed_chunks=sum(part.compressed for part in parts),
        total_bytes=total_bytes or 0,
        table_bytes=table_bytes or 0,
        index_bytes=index_bytes or 0,
        indexes=tuple(Index(name, size or 0) for name, size in indexes),
        compressed_from_bytes=before,
        compressed_to_bytes=after,
        rows_estimate=round(sum(estimates.values())) + sum(part.rows_compressed for part in parts),
        oldest=oldest[0],
        oldest_exact=oldest[1],
        newest=newest[0],
        newest_exact=newest[1],
        policies=tuple(_policies(connection, periods, hypertable=hypertable, native=ours and relkind == "p")),
        rollups=tuple(_rollups(connection, catalogue=catalogue)),
    )


def _end(
    connection: Connection,
    parts: Sequence[_Part],
    estimates: Mapping[int, float],
    by_index: LiteralString | None,
    *,
    newest: bool,
) -> tuple[datetime | None, bool]:
    """The time of the first or last reading and whether it is exact; ``parts`` oldest first."""
    bounded = [part for part in parts if part.lower is not None]
    found: list[datetime] = []
    exact = True
    # what lies in the default partition, or in an ordinary table, may be of any time
    for candidates in (bounded[::-1] if newest else bounded, [part for part in parts if part.lower is None]):
        for part in candidates:
            if not part.compressed and not estimates.get(part.oid):
                continue
            time, read = _end_of(connection, part, by_index, newest=newest)
            exact = exact and read
            if time is not None:
                found.append(time)
            if time is not None or not read:
                break
    return max(found, default=None) if newest else min(found, default=None), exact


def _end_of(
    connection: Connection, part: _Part, by_index: LiteralString | None, *, newest: bool
) -> tuple[datetime | None, bool]:
    plain: LiteralString = "SELECT max(timestamp) FROM {part}" if newest else "SELECT min(timestamp) FROM {part}"
    relation = sql.SQL(_one(connection, "SELECT %s::regclass::text", part.oid))
    query = sql.SQL(by_index if by_index and not part.compressed else plain).format(part=relation)
    try:
        with connection.transaction():
            connection.execute(_END_TIMEOUT)
            row = connection.execute(sql.SQL(_FINITE).format(query)).fetchone()
    except errors.QueryCanceled:
        return part.upper if newest else part.lower, False
    return (None if row is None or row[0] is None else moment(row[0])), True


def _policies(connection: Connection, periods: StorageSettings, *, hypertable: bool, native: bool) -> list[Policy]:
    found: list[Policy] = []
    if hypertable:
        for row in connection.execute(_JOBS):
            relation, procedure, *rest = row
            found.append(Policy(relation, _WHAT.get(str(procedure), str(procedure)), *rest))
    if _one(connection, "SELECT to_regclass('scada_maintenance') IS NOT NULL"):
        last = connection.execute(_MAINTENANCE).fetchone()
        tasks = _own_tasks(periods, hypertable=hypertable, native=native)
        found += [_own(what, setting, last) for what, setting in tasks]
    return found


_WHAT: Final = {
    "policy_compression": "compress after",
    "policy_retention": "drop after",
    "policy_refresh_continuous_aggregate": "refresh back to",
}


def _own_tasks(periods: StorageSettings, *, hypertable: bool, native: bool) -> list[tuple[str, str | None]]:
    if native:
        keep = f"{periods.raw_days} days" if periods.raw_days else None
        return [("make partitions ahead", "3 days"), ("drop after", keep)]
    return [("analyze compressed chunks", None)] if hypertable else []


def _own(what: str, setting: str | None, row: tuple[Any, ...] | None) -> Policy:
    """A task of the service's own maintenance."""
    if row is None:
        return Policy("scada_readings", f"{what} (by the service)", setting, MAINTENANCE_EVERY)
    last_run, last_success, runs, failures, last_error = row
    return Policy(
        "scada_readings",
        f"{what} (by the service)",
        setting,
        MAINTENANCE_EVERY,
        last_run=last_run,
        last_status="Success" if last_success == last_run else "Failed",
        next_run=last_run + MAINTENANCE_EVERY,
        runs=runs,
        failures=failures,
        last_error=last_error,
    )


def _rollups(connection: Connection, *, catalogue: bool) -> list[Rollup]:
    found: list[Rollup] = []
    for name in ROLLUPS:
        relation = f"scada_readings_{name}"
        if not _one(connection, "SELECT to_regclass(%s) IS NOT NULL", relation):
            continue
        ours = is_ours(connection, relation)
        row = connection.execute(_AGGREGATE, [relation]).fetchone() if catalogue else None
        if row is None:
            found.append(Rollup(relation, "view", ours))
        else:
            _, watermark, size = row
            until = moment(watermark) if watermark is not None and FIRST_US < watermark < LAST_US else None
            found.append(Rollup(relation, "continuous aggregate", ours, until, size or 0))
    return found


def _one(connection: Connection, query: LiteralString, *values: object) -> Any:
    row = connection.execute(query, values or None).fetchone()
    return None if row is None else row[0]
