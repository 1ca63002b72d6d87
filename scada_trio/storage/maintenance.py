"""Keeping a tenant's database in shape while the service runs: partitions, retention, statistics, old cursors.

Owns what is done every hour and its SQL. The tenant's maintenance task calls `maintain`; starts nothing that outlives
it.
At most one process at a time maintains a database: the others see the advisory lock taken and leave it to that one.

Each partition is made or dropped in a transaction of its own, so that writers wait for one of them at most and what was
done stays done when the next one fails.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from pydantic import SecretStr

from scada_trio.config import StorageSettings
from scada_trio.storage.connect import Connection, call_once

_LOCK: Final = 0x5CADB  # advisory lock of whoever maintains this database; freed with its connection
_STATEMENT_TIMEOUT_S: Final = 60.0
_LOCK_TIMEOUT: Final = "SET lock_timeout = '5s'"  # behind a long query; the next run tries again
_DAYS_AHEAD: Final = 3
_DAYS_BACK: Final = 60  # how long an outage may be whose days are all made before its readings come

# Of journals that are gone for good, so that the table stays small; one that comes back is merged, not written twice.
_FORGET_CURSORS: Final = "DELETE FROM scada_ingest_cursor WHERE updated_at < now() - INTERVAL '1 year'"
_RECORD: Final = """
    INSERT INTO scada_maintenance AS m (last_run_at, last_success_at, runs, failures, last_error)
    VALUES (now(), CASE WHEN %(error)s::text IS NULL THEN now() END, 1, (%(error)s::text IS NOT NULL)::integer,
        %(error)s)
    ON CONFLICT (only_row) DO UPDATE SET last_run_at = excluded.last_run_at, runs = m.runs + 1,
        last_success_at = coalesce(excluded.last_success_at, m.last_success_at),
        failures = m.failures + excluded.failures, last_error = coalesce(excluded.last_error, m.last_error)"""
_EXISTS: Final = "SELECT to_regclass(%s) IS NOT NULL"

_DAYS_MISSING: Final = """
    WITH bounds AS (SELECT (now() AT TIME ZONE 'UTC')::date AS today),
        made AS (SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'scada_readings'::regclass AND c.relname ~ '^scada_readings_p[0-9]{8}$'),
        last AS (SELECT max(day) AS day FROM made, bounds WHERE day <= today)
    SELECT day FROM (
        SELECT today + n AS day FROM bounds, generate_series(-1, %(ahead)s) AS n
        UNION
        -- the days of an outage, whose readings come late and all at once
        SELECT generate_series(greatest(last.day, today - %(back)s), today, INTERVAL '1 day')::date FROM bounds, last
        UNION
        -- days whose readings came before their partition did
        SELECT DISTINCT (timestamp AT TIME ZONE 'UTC')::date FROM scada_readings_default, bounds
        WHERE timestamp < (today + %(ahead)s + 1)::timestamp AT TIME ZONE 'UTC'
            AND (%(keep)s::interval IS NULL OR timestamp >= now() - %(keep)s::interval)
    ) AS wanted WHERE day NOT IN (SELECT day FROM made) ORDER BY day"""
_DAYS_PAST: Final = """
    SELECT c.oid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'scada_readings'::regclass AND c.relname ~ '^scada_readings_p[0-9]{8}$'
        AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC' <= now() - %s::interval
    ORDER BY c.relname"""
_DROP_PAST_OF_DEFAULT: Final = "DELETE FROM scada_readings_default WHERE timestamp < now() - %s::interval"

# Compression makes a table without statistics; autovacuum does not look at one with few rows, and without background
# workers of TimescaleDB's own at none. Until then the planner guesses, and rows cannot be estimated.
_COMPRESSED: Final = "SELECT to_regclass('_timescaledb_catalog.chunk') IS NOT NULL"
_NEVER_ANALYZED: Final = """
    SELECT c.oid::regclass::text, z.oid::regclass::text
    FROM _timescaledb_catalog.hypertable h
    JOIN _timescaledb_catalog.chunk k ON k.hypertable_id = h.id
    JOIN _timescaledb_catalog.chunk kz ON kz.id = k.compressed_chunk_id
    JOIN pg_class c ON c.oid = to_regclass(format('%I.%I', k.schema_name, k.table_name))
    JOIN pg_class z ON z.oid = to_regclass(format('%I.%I', kz.schema_name, kz.table_name))
    WHERE to_regclass(format('%I.%I', h.schema_name, h.table_name)) = to_regclass('scada_readings')
        AND z.reltuples < 0
    ORDER BY k.id"""


@dataclass(frozen=True, slots=True)
class Maintenance:
    """What was done: partitions ``made`` and ``dropped``, chunks ``analyzed``; ``busy``: another process does it."""

    made: int = 0
    dropped: int = 0
    analyzed: int = 0
    busy: bool = False


async def maintain(url: SecretStr, periods: StorageSettings, *, connect_timeout_s: float) -> Maintenance:
    """Do what is to be done now; for every hour.

    On native partitions: makes yesterday to three days ahead, the days of an outage and those of late readings, and
    drops what is past ``periods.raw_days``. On TimescaleDB, which does that itself: analyses chunks that were
    compressed. A table of another application gets neither partitions nor retention. Forgets the cursors of journals
    that wrote nothing for a year. Waits 5 s at most for a lock that a query holds. Raises `DatabaseError`; what was
    done until then stays.
    """
    return await call_once(
        url,
        _maintain,
        periods,
        application_name="scada-trio maintenance",
        connect_timeout_s=connect_timeout_s,
        statement_timeout_s=_STATEMENT_TIMEOUT_S,
    )


# --- in the worker thread


def _maintain(connection: Connection, periods: StorageSettings) -> Maintenance:
    if not _one(connection, "SELECT pg_try_advisory_lock(%s)", _LOCK):
        return Maintenance(busy=True)
    connection.execute(_LOCK_TIMEOUT)
    if not _one(connection, _EXISTS, "scada_maintenance"):
        return _do(connection, periods)
    try:
        done = _do(connection, periods)
    except psycopg.Error as error:
        # after the error of a connection that is gone there is nobody to tell
        with suppress(psycopg.Error):
            connection.execute(_RECORD, {"error": error.diag.message_primary or str(error)})
        raise
    connection.execute(_RECORD, {"error": None})
    return done


def _do(connection: Connection, periods: StorageSettings) -> Maintenance:
    if _one(connection, _EXISTS, "scada_ingest_cursor"):
        connection.execute(_FORGET_CURSORS)
    if _one(connection, _EXISTS, "scada_readings_default"):
        keep = f"{periods.raw_days} days" if periods.raw_days else None
        return Maintenance(made=_make(connection, keep), dropped=_drop(connection, keep))
    if _one(connection, _COMPRESSED):
        return Maintenance(analyzed=_analyze(connection))
    return Maintenance()


def _make(connection: Connection, keep: str | None) -> int:
    values = {"ahead": _DAYS_AHEAD, "back": _DAYS_BACK, "keep": keep}
    days: list[date] = [day for (day,) in connection.execute(_DAYS_MISSING, values)]
    return sum(bool(_one(connection, "SELECT scada_make_partition(%s)", day)) for day in days)


def _drop(connection: Connection, keep: str | None) -> int:
    if keep is None:
        return 0
    names = [name for (name,) in connection.execute(_DAYS_PAST, [keep])]
    for name in names:
        # a regclass' text is quoted as an identifier has to be
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.SQL(name)))
    connection.execute(_DROP_PAST_OF_DEFAULT, [keep])
    return len(names)


def _analyze(connection: Connection) -> int:
    pairs = connection.execute(_NEVER_ANALYZED).fetchall()
    for pair in pairs:
        for name in pair:
            connection.execute(sql.SQL("ANALYZE {}").format(sql.SQL(name)))
    return len(pairs)


def _one(connection: Connection, query: LiteralString, *values: object) -> Any:
    row = connection.execute(query, values or None).fetchone()
    return None if row is None else row[0]
