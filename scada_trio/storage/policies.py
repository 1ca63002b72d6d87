"""The periods of a hypertable of ours and of its rollups: chunk size, compression, retention, refresh.

Owns TimescaleDB's background jobs of what `migrate` made. Sets what differs from the settings and leaves the rest of a
job, its schedule say, as an operator left it. Blocks; run under the lock of whoever migrates.

    scada_readings ──refresh──► _hourly ──refresh──► _daily ──refresh──► _monthly
      └ compression, retention    └ retention         └ retention         └ retention

A refresh counts again what changed, and takes readings that are gone for a change to nothing: its window must never
reach back to where the level below was dropped, or the rollup's rows would go with it. So a window is as long as the
retention of the level below, or shorter where that has less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, LiteralString

from psycopg import sql
from psycopg.types.json import Jsonb

from scada_trio.config import StorageSettings
from scada_trio.storage.adoption import ROLLUPS, is_ours
from scada_trio.storage.connect import Connection

# How far a rollup stays behind the present (its view computes the rest from the level below), and how often it runs.
_END: Final = {"hourly": "1 hour", "daily": "1 day", "monthly": "1 month"}
_WIDTH: Final = {"hourly": sql.Literal("1 hour"), "daily": sql.Literal("1 day"), "monthly": sql.Literal("1 month")}
_LEAST_DAYS: Final = {"hourly": 1, "daily": 4, "monthly": 124}  # two whole buckets behind the end
_EVERY: Final = {"hourly": "30 minutes", "daily": "1 hour", "monthly": "1 day"}

# A job's relation by id: its name in the views is the materialisation's in some versions, the rollup's in others.
_JOB: Final = """
    SELECT j.job_id, j.config ->> %(key)s FROM timescaledb_information.jobs j
    WHERE j.proc_name = %(procedure)s AND coalesce(
        (SELECT format('%%I.%%I', user_view_schema, user_view_name)::regclass FROM _timescaledb_catalog.continuous_agg
            WHERE mat_hypertable_id
                = coalesce(j.config ->> 'mat_hypertable_id', j.config ->> 'hypertable_id')::integer),
        (SELECT format('%%I.%%I', schema_name, table_name)::regclass FROM _timescaledb_catalog.hypertable
            WHERE id = (j.config ->> 'hypertable_id')::integer)) = to_regclass(%(relation)s)"""
_ALTER: Final = """
    SELECT alter_job(job_id, config => config || %(change)s) FROM timescaledb_information.jobs WHERE job_id = %(job)s"""
_SAME: Final = "SELECT %s::interval IS NOT DISTINCT FROM %s::interval"
_CHUNK: Final = """
    SELECT time_interval::text, time_interval = %s::interval FROM timescaledb_information.dimensions
    WHERE format('%%I.%%I', hypertable_schema, hypertable_name)::regclass = to_regclass('scada_readings')
        AND dimension_number = 1"""
_STORED_IN: Final = """
    SELECT materialization_hypertable_schema::text, materialization_hypertable_name::text
    FROM timescaledb_information.continuous_aggregates
    WHERE format('%%I.%%I', view_schema, view_name)::regclass = to_regclass(%s)"""
_RAW: Final = """
    SELECT relnamespace::regnamespace::text, relname::text FROM pg_class WHERE oid = to_regclass(%s)"""
_FIRST_CHUNK: Final = """
    SELECT floor(extract(epoch FROM now() - min(range_start)) / 86400)::integer, min(range_start)
    FROM timescaledb_information.chunks WHERE (hypertable_schema, hypertable_name) = (%s, %s)"""

Kind = Literal["compression", "retention", "refresh"]
_PROCEDURES: Final[dict[Kind, tuple[str, str]]] = {
    "compression": ("policy_compression", "compress_after"),
    "retention": ("policy_retention", "drop_after"),
    "refresh": ("policy_refresh_continuous_aggregate", "start_offset"),
}
_ADD: Final[dict[Kind, LiteralString]] = {
    "compression": "SELECT add_compression_policy(%(relation)s, compress_after => %(after)s::interval)",
    "retention": "SELECT add_retention_policy(%(relation)s, drop_after => %(after)s::interval)",
    "refresh": """SELECT add_continuous_aggregate_policy(%(relation)s, start_offset => %(after)s::interval,
        end_offset => %(end)s::interval, schedule_interval => %(every)s::interval)""",
}
_REMOVE: Final[dict[Kind, LiteralString]] = {
    "compression": "SELECT remove_compression_policy(%(relation)s)",
    "retention": "SELECT remove_retention_policy(%(relation)s)",
    "refresh": "SELECT remove_continuous_aggregate_policy(%(relation)s)",
}
_SAID: Final[dict[Kind, tuple[str, str]]] = {
    "compression": ("compressed after", "not compressed"),
    "retention": ("dropped after", "kept for good"),
    "refresh": ("takes late readings of", "takes late readings of any age"),
}


@dataclass(frozen=True, slots=True)
class _Job:
    job_id: int
    after: str | None


def apply_policies(connection: Connection, periods: StorageSettings) -> list[str]:
    """Make the jobs what ``periods`` says; what was changed, a line each. In autocommit mode: one thing at a time."""
    changed: list[str] = []
    if is_ours(connection, "scada_readings"):
        changed += _set_chunks(connection, periods.chunk_hours)
        changed += _set(connection, "compression", "scada_readings", _days(periods.compress_after_days))
    # windows first where they get shorter: a retention that is cut must not run before them
    rollups = [name for name in ROLLUPS if is_ours(connection, f"scada_readings_{name}")]
    for name in rollups:
        window = _window_days(connection, name, periods)
        changed += _set(connection, "refresh", f"scada_readings_{name}", _days(window))
    if is_ours(connection, "scada_readings"):
        changed += _set(connection, "retention", "scada_readings", _days(periods.raw_days))
    for name in rollups:
        relation = f"scada_readings_{name}"
        changed += _set(connection, "retention", relation, _days(_setting(relation, periods)))
    return changed


def _setting(relation: str, periods: StorageSettings) -> int:
    kept = {"hourly": periods.hourly_days, "daily": periods.daily_days, "monthly": periods.monthly_days}
    return kept.get(relation.rpartition("_")[2], periods.raw_days)


def _days(days: int) -> str | None:
    return f"{days} days" if days else None


def _set_chunks(connection: Connection, hours: int) -> Iterator[str]:
    row = connection.execute(_CHUNK, [f"{hours} hours"]).fetchone()
    if row is not None and not row[1]:
        connection.execute("SELECT set_chunk_time_interval('scada_readings', %s::interval)", [f"{hours} hours"])
        yield f"scada_readings: chunks of {hours} hours from the next one on (were of {row[0]})"


def _set(connection: Connection, kind: Kind, relation: str, after: str | None) -> Iterator[str]:
    """Add, change or remove the one job of that kind; None: there is to be none, or for a refresh no bound."""
    job = _find(connection, kind, relation)
    wanted = after is not None or kind == "refresh"
    words, without = _SAID[kind]
    said = f"{words} {after}" if after is not None else without
    if job is None:
        if wanted:
            name = relation.rpartition("_")[2]
            values = {"relation": relation, "after": after, "end": _END.get(name), "every": _EVERY.get(name)}
            connection.execute(_ADD[kind], values)
            yield f"{relation}: {said}"
    elif not wanted:
        connection.execute(_REMOVE[kind], {"relation": relation})
        yield f"{relation}: {said} (was {words} {job.after})"
    elif not _one(connection, _SAME, job.after, after):
        connection.execute(_ALTER, {"job": job.job_id, "change": Jsonb({_PROCEDURES[kind][1]: after})})
        yield f"{relation}: {said} (was {f'{words} {job.after}' if job.after is not None else without})"


def _find(connection: Connection, kind: Kind, relation: str) -> _Job | None:
    procedure, key = _PROCEDURES[kind]
    row = connection.execute(_JOB, {"key": key, "procedure": procedure, "relation": relation}).fetchone()
    return None if row is None else _Job(*row)


# --- how far back a rollup may be counted again


def _window_days(connection: Connection, name: str, periods: StorageSettings) -> int:
    """As long as the level below is kept, and the rollup itself; 0: no bound."""
    level = ROLLUPS.index(name)
    below = f"scada_readings_{ROLLUPS[level - 1]}" if level else "scada_readings"
    kept = (_kept_days(connection, below, periods), _setting(f"scada_readings_{name}", periods))
    wanted = min((days for days in kept if days), default=0)
    reach = _reach_days(connection, name, below if level else None)
    if reach is None:
        return wanted
    job = _find(connection, "refresh", f"scada_readings_{name}")
    if job is not None and job.after is None:
        return wanted
    safe = max(_LEAST_DAYS[name], reach, 0 if job is None else _whole_days(connection, job.after))
    return min(wanted or safe, safe)


def _kept_days(connection: Connection, relation: str, periods: StorageSettings) -> int:
    """0: for good. What another application keeps, it keeps as its own job says."""
    if is_ours(connection, relation):
        return _setting(relation, periods)
    job = _find(connection, "retention", relation)
    return 0 if job is None else _whole_days(connection, job.after)


def _reach_days(connection: Connection, name: str, rollup_below: str | None) -> int | None:
    """How many days the level below has, where it once had more and dropped them; None where it has all."""
    own = connection.execute(_STORED_IN, [f"scada_readings_{name}"]).fetchone()
    below = connection.execute(_STORED_IN if rollup_below else _RAW, [rollup_below or "scada_readings"]).fetchone()
    if own is None or below is None:
        return None
    first = sql.SQL("SELECT min(bucket) + {}::interval FROM {}").format(_WIDTH[name], sql.Identifier(*own))
    row = connection.execute(first).fetchone()
    chunk = connection.execute(_FIRST_CHUNK, below).fetchone()
    if row is None or row[0] is None or chunk is None:
        return None
    if chunk[1] is None:
        return 0
    return int(chunk[0]) if row[0] <= chunk[1] else None


def _whole_days(connection: Connection, interval: str | None) -> int:
    return int(_one(connection, "SELECT floor(extract(epoch FROM %s::interval) / 86400)", interval))


def _one(connection: Connection, query: LiteralString, *values: object) -> Any:
    row = connection.execute(query, values or None).fetchone()
    return None if row is None else row[0]
