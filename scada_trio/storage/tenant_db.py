"""Writing one tenant's readings: each batch in one transaction with the cursor that remembers it.

Owns the tenant's writing connection and the SQL of ``scada_readings`` and ``scada_ingest_cursor``. Knows no buffer and
no retry: the tenant's writer stage opens a `TenantWriter`, gives it batches one at a time and closes it.

    BEGIN ─► move the cursor to the batch's sequence ─► COPY ─► COMMIT
                │ it stands there already: nothing to do     │ UniqueViolation: again, through a staging table
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, LiteralString
from uuid import UUID

import trio
from psycopg import errors
from pydantic import SecretStr

from scada_trio.errors import DatabaseMisconfigured
from scada_trio.readings import Batch, TagTable, WriteResult
from scada_trio.storage.connect import Connection, open_connection, run_cancellable
from scada_trio.storage.copy import COPY_COLUMNS, EncodedRows, RowTemplates, encode_rows

_TABLES: Final = ("scada_readings", "scada_ingest_cursor")

# The row lock makes a second attempt wait for a first whose commit is in doubt; no row back: it did commit.
_MOVE_CURSOR: Final = """
    INSERT INTO scada_ingest_cursor AS c (journal_id, last_seq, inserted, duplicates, replaced)
    VALUES (%(buffer)s, %(sequence)s, %(inserted)s, %(duplicates)s, %(replaced)s)
    ON CONFLICT (journal_id) DO UPDATE SET last_seq = excluded.last_seq, inserted = excluded.inserted,
        duplicates = excluded.duplicates, replaced = excluded.replaced, updated_at = now()
    WHERE c.last_seq < excluded.last_seq
    RETURNING true"""
_AMEND_CURSOR: Final = """
    UPDATE scada_ingest_cursor SET inserted = %(inserted)s, duplicates = %(duplicates)s, replaced = %(replaced)s
    WHERE journal_id = %(buffer)s"""
_READ_CURSOR: Final = """
    SELECT last_seq, inserted, duplicates, replaced FROM scada_ingest_cursor WHERE journal_id = %s"""

_COPY: Final = f"COPY scada_readings ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_COPY_STAGING: Final = f"COPY scada_staging ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_CREATE_STAGING: Final = """
    CREATE TEMPORARY TABLE IF NOT EXISTS scada_staging (timestamp timestamptz NOT NULL, value float8 NOT NULL,
        well_id uuid NOT NULL, tag_node_id text NOT NULL, quality text NOT NULL) ON COMMIT DELETE ROWS"""
# A row that was there keeps its created_at, a new one has this transaction's time. No join, which might read the table.
_MERGE: Final = f"""
    WITH merged AS (
        INSERT INTO scada_readings AS r ({COPY_COLUMNS}) SELECT {COPY_COLUMNS} FROM scada_staging
        ON CONFLICT (well_id, tag_node_id, timestamp) DO UPDATE SET value = excluded.value, quality = excluded.quality
        WHERE (r.value, r.quality) IS DISTINCT FROM (excluded.value, excluded.quality)
        RETURNING created_at = now() AS new)
    SELECT count(*) FILTER (WHERE new), count(*) FILTER (WHERE new IS NOT TRUE) FROM merged"""  # noqa: S608 - constants


@asynccontextmanager
async def open_tenant_writer(
    url: SecretStr,
    tags: TagTable,
    *,
    connect_timeout_s: float,
    statement_timeout_s: float,
    limiter: trio.CapacityLimiter | None = None,
) -> AsyncIterator[TenantWriter]:
    """A writer on a connection of its own, closed at the end of the block.

    ``tags`` is what the batches' tag numbers mean. Raises `DatabaseUnavailable`, `DatabaseMisconfigured` (login,
    no such database, not migrated). After `DatabaseUnavailable` from a write, open a new one.
    """
    threads = limiter or trio.CapacityLimiter(1)
    connection = await open_connection(
        url,
        application_name="scada-trio writer",
        connect_timeout_s=connect_timeout_s,
        statement_timeout_s=statement_timeout_s,
        limiter=threads,
    )
    try:
        await run_cancellable(connection, _check_schema, limiter=threads)
        yield TenantWriter(connection, tags, threads)
    finally:
        connection.close()


class TenantWriter:
    """One tenant's open database; one call at a time."""

    def __init__(self, connection: Connection, tags: TagTable, limiter: trio.CapacityLimiter) -> None:
        self._connection = connection
        self._templates = RowTemplates(tags)
        self._limiter = limiter

    async def committed_sequence(self, buffer_id: UUID) -> int:
        """The sequence of the last batch of that buffer in the database; 0 where there is none."""
        row = await run_cancellable(self._connection, _read_cursor, buffer_id, limiter=self._limiter)
        return 0 if row is None else row.sequence

    async def write(self, batch: Batch, buffer_id: UUID) -> WriteResult:
        """Write and commit, exactly once for each ``(buffer_id, batch.sequence)``, whatever broke an earlier attempt.

        Readings that are stored already are counted as duplicates; where the stored one of the same series and time
        differs, the batch's is stored instead and counted as replaced. ``inserted + duplicates + replaced`` is the
        length of the batch. ``already`` tells that an earlier attempt had committed it; the counts are that one's.

        Raises `DatabaseUnavailable` (the commit may be in doubt: write the same batch again), `BatchRejected`
        (nothing is stored, the connection goes on), `DatabaseMisconfigured`. A cancelled call has rolled back.
        """
        return await run_cancellable(self._connection, _write, batch, buffer_id, self._templates, limiter=self._limiter)


async def maintain_partitions(
    url: SecretStr, *, connect_timeout_s: float, statement_timeout_s: float = 60.0
) -> tuple[int, int]:
    """Make the partitions of yesterday to three days ahead and drop those past retention: (made, dropped).

    For every hour. (0, 0) where TimescaleDB or somebody else's ordinary table keeps the readings. Readings of a day
    without a partition are in the default partition meanwhile and are moved when theirs is made. Waits 5 s at most
    for a lock that a query holds. Raises `DatabaseError`.
    """
    limiter = trio.CapacityLimiter(1)
    connection = await open_connection(
        url,
        application_name="scada-trio maintenance",
        connect_timeout_s=connect_timeout_s,
        statement_timeout_s=statement_timeout_s,
        limiter=limiter,
    )
    try:
        return await run_cancellable(connection, _maintain, limiter=limiter)
    finally:
        connection.close()


# --- in the worker thread


@dataclass(frozen=True, slots=True)
class _Cursor:
    sequence: int
    inserted: int
    duplicates: int
    replaced: int


def _check_schema(connection: Connection) -> None:
    for table in _TABLES:
        found = connection.execute("SELECT to_regclass(%s)", [table]).fetchone()
        if found is None or found[0] is None:
            raise DatabaseMisconfigured(f"table {table} does not exist: not migrated, run scada-trio migrate", "42P01")


def _read_cursor(connection: Connection, buffer_id: UUID) -> _Cursor | None:
    row = connection.execute(_READ_CURSOR, [buffer_id]).fetchone()
    return None if row is None else _Cursor(*row)


def _write(connection: Connection, batch: Batch, buffer_id: UUID, templates: RowTemplates) -> WriteResult:
    rows = encode_rows(batch.readings, templates)
    result = WriteResult(inserted=rows.rows, duplicates=rows.duplicates, replaced=rows.replaced)
    try:
        with connection.transaction():
            if not _move_cursor(connection, buffer_id, batch.sequence, result):
                return _earlier_result(connection, buffer_id, batch)
            _copy(connection, _COPY, rows)
        return result
    except errors.UniqueViolation:
        return _write_merging(connection, batch.sequence, buffer_id, rows)


def _write_merging(connection: Connection, sequence: int, buffer_id: UUID, rows: EncodedRows) -> WriteResult:
    """The same where some rows are stored already; half as fast."""
    with connection.transaction():
        _move_cursor(connection, buffer_id, sequence, WriteResult(inserted=0))
        connection.execute(_CREATE_STAGING)
        _copy(connection, _COPY_STAGING, rows)
        inserted, replaced = connection.execute(_MERGE).fetchone() or (0, 0)
        result = WriteResult(
            inserted=inserted,
            duplicates=rows.duplicates + rows.rows - inserted - replaced,
            replaced=rows.replaced + replaced,
        )
        connection.execute(_AMEND_CURSOR, _cursor_values(buffer_id, result))
    return result


def _move_cursor(connection: Connection, buffer_id: UUID, sequence: int, result: WriteResult) -> bool:
    values = _cursor_values(buffer_id, result) | {"sequence": sequence}
    return connection.execute(_MOVE_CURSOR, values).fetchone() is not None


def _cursor_values(buffer_id: UUID, result: WriteResult) -> dict[str, object]:
    return {
        "buffer": buffer_id,
        "inserted": result.inserted,
        "duplicates": result.duplicates,
        "replaced": result.replaced,
    }


def _earlier_result(connection: Connection, buffer_id: UUID, batch: Batch) -> WriteResult:
    cursor = _read_cursor(connection, buffer_id)
    if cursor is None or cursor.sequence != batch.sequence:
        return WriteResult(inserted=len(batch), already=True)
    return WriteResult(cursor.inserted, cursor.duplicates, cursor.replaced, already=True)


def _copy(connection: Connection, statement: LiteralString, rows: EncodedRows) -> None:
    if rows.rows == 0:
        return
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(rows.data)


def _maintain(connection: Connection) -> tuple[int, int]:
    found = connection.execute("SELECT to_regprocedure('scada_maintain_partitions(integer, interval)')").fetchone()
    if found is None or found[0] is None:
        return 0, 0
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '5s'")
        row = connection.execute("SELECT made, dropped FROM scada_maintain_partitions()").fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))
