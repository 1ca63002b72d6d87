"""Writing one tenant's readings: each batch in one transaction with the cursor that remembers it.

Owns the tenant's writing connection and the SQL of ``scada_readings``; the cursor's is `cursor`'s. Knows no journal and
no retry: the tenant's writer stage opens a `TenantWriter`, gives it batches one at a time and closes it.

    BEGIN ─► move the cursor to the batch's sequence ─► COPY ─► COMMIT
                │ it stands there already: nothing to do     │ UniqueViolation: again, through a staging table
                                                             │ other rows refused: again, row by row (`sifting`)

Where no unique index tells a repeated reading, those that may be stored already are looked up (`late`, `sifting`).

A tenant with several such connections copies a batch while the one before it is still on its way, and moves the cursor
once that one is committed: `begin`, then `finish`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, LiteralString
from uuid import UUID

import numpy as np
import psycopg
import trio
from numpy.typing import NDArray
from psycopg import errors
from pydantic import SecretStr

from scada_trio.errors import BatchRejected, DatabaseMisconfigured
from scada_trio.losses import Loss
from scada_trio.readings import EMPTY_BLOCK, Batch, ReadingBlock, TagTable, WriteResult
from scada_trio.storage.connect import Connection, open_connection, run_cancellable, translate
from scada_trio.storage.copy import COPY_COLUMNS, EncodedRows, RowTemplates, encode_rows
from scada_trio.storage.cursor import amend_cursor, cursor_moved, earlier_result, move_cursor_and_commit, read_cursor
from scada_trio.storage.late import Table, inspect_table
from scada_trio.storage.losses import store_losses
from scada_trio.storage.quarantine import MAX_ROWS, Origin, Refused, keep
from scada_trio.storage.sifting import sift, split_texts
from scada_trio.storage.window import TimeWindow

_TABLES: Final = ("scada_readings", "scada_ingest_cursor", "scada_quarantine", "scada_loss")

_COPY: Final = f"COPY scada_readings ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_COPY_STAGING: Final = f"COPY scada_staging ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)"
_NO_ROWS: Final = encode_rows(EMPTY_BLOCK, RowTemplates(TagTable()))
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
    window: TimeWindow | None = None,
    quarantine_rows: int = MAX_ROWS,
) -> AsyncIterator[TenantWriter]:
    """A writer on a connection of its own, closed at the end of the block.

    ``tags`` is what the batches' tag numbers mean, ``window`` which times are taken, ``quarantine_rows`` how many rows
    the quarantine may have. Raises `DatabaseUnavailable`,
    `DatabaseMisconfigured` (login, no such database, not migrated). After `DatabaseUnavailable` from a write, open a
    new one.
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
        table = await run_cancellable(connection, inspect_table, limiter=threads)
        yield TenantWriter(connection, tags, threads, window or TimeWindow(), table, quarantine_rows)
    finally:
        connection.close()


class TenantWriter:
    """One tenant's open database; one call at a time."""

    def __init__(
        self,
        connection: Connection,
        tags: TagTable,
        limiter: trio.CapacityLimiter,
        window: TimeWindow,
        table: Table,
        quarantine_rows: int,
    ) -> None:
        self._connection = connection
        self._window = window
        self._table = table
        self._quarantine_rows = quarantine_rows
        self._tags = tags
        self._templates = RowTemplates(tags)
        self._limiter = limiter
        self._begun: WriteResult | None = None

    async def committed_sequence(self, journal_id: UUID) -> int:
        """The sequence of the last batch of that journal in the database; 0 where there is none."""
        row = await run_cancellable(self._connection, read_cursor, journal_id, limiter=self._limiter)
        return 0 if row is None else row.sequence

    async def write(self, batch: Batch, journal_id: UUID) -> WriteResult:
        """Write and commit, exactly once for each ``(journal_id, batch.sequence)``, whatever broke an earlier attempt.

        Readings that are stored already are counted as duplicates; where the stored one of the same series and time
        differs, the batch's is stored instead and counted as replaced. What the database does not take, and what has
        an impossible time, goes to ``scada_quarantine`` in the same transaction; what that has no room for is lost
        and recorded in ``scada_loss``. ``inserted + duplicates + replaced + quarantined + lost`` is the length of the
        batch. ``already`` tells that an earlier attempt had committed it; the counts are that one's.

        Raises `DatabaseUnavailable` (the commit may be in doubt: write the same batch again), `DatabaseMisconfigured`.
        A cancelled call has rolled back.
        """
        return await run_cancellable(self._connection, _write, self._work(batch, journal_id), limiter=self._limiter)

    async def begin(self, batch: Batch, journal_id: UUID) -> bool:
        """COPY a batch into a transaction that stays open, while batches before it are not committed yet.

        True: `finish` or `undo` has to follow. False: nothing is begun, since the database has or refuses some of its
        rows, or could not tell; `write` it in its turn. Raises as `write`.
        """
        work = self._work(batch, journal_id)
        self._begun = await run_cancellable(self._connection, _begin, work, limiter=self._limiter)
        return self._begun is not None

    async def finish(self, batch: Batch, journal_id: UUID) -> WriteResult:
        """Move the cursor to the batch that was begun and commit; returns and raises as `write`."""
        assert self._begun is not None
        work = self._work(batch, journal_id)
        return await run_cancellable(self._connection, _finish, work, self._begun, limiter=self._limiter)

    async def undo(self) -> None:
        """Roll back what was begun."""
        await run_cancellable(self._connection, Connection.rollback, limiter=self._limiter)

    async def write_losses(self, losses: Sequence[tuple[int, Loss]], journal_id: UUID) -> None:
        """Store losses, each once for its number in the journal; raises as `write` does."""
        await run_cancellable(self._connection, store_losses, losses, journal_id, limiter=self._limiter)

    def _work(self, batch: Batch, journal_id: UUID) -> _Work:
        origin = Origin(journal_id, batch.sequence)
        return _Work(batch, origin, self._tags, self._templates, self._window, self._table, self._quarantine_rows)


# --- in the worker thread


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A batch to be written, and what its numbers mean."""

    batch: Batch
    origin: Origin
    tags: TagTable
    templates: RowTemplates
    window: TimeWindow
    table: Table
    quarantine_rows: int

    def keep(self, connection: Connection, refused: list[Refused]) -> int:
        """Quarantine readings; how many are lost for want of room."""
        return keep(connection, refused, self.tags, self.origin, self.quarantine_rows)


def _check_schema(connection: Connection) -> None:
    for table in _TABLES:
        if not _exists(connection, table):
            raise DatabaseMisconfigured(f"table {table} does not exist: not migrated, run scada-trio migrate", "42P01")


def _exists(connection: Connection, table: str) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone()
    return row is not None and bool(row[0])


def _admit(connection: Connection, work: _Work) -> tuple[ReadingBlock, list[Refused]]:
    """The batch's readings within the window, whose days have a partition, and the others."""
    readings, refused = work.window.split(connection, work.batch.readings)
    if work.table.days is not None:
        work.table.days.make(connection, readings)
    return readings, refused


def _write(connection: Connection, work: _Work) -> WriteResult:
    readings, refused = _admit(connection, work)
    if work.table.look_up is None:
        return _write_telling(connection, work, readings, refused)
    looked_up = work.table.look_up.wanted(connection, readings, work.tags)
    if looked_up.any():
        result = _write_sifting(connection, work, readings, refused, looked_up)
    else:
        result = _write_telling(connection, work, readings, refused)
    work.table.look_up.advance(readings)
    return result


def _begin(connection: Connection, work: _Work) -> WriteResult | None:
    """BEGIN and COPY; None, with nothing left of it, where that is not all there is to do."""
    if work.table.look_up is not None:
        return None
    readings, refused = _admit(connection, work)
    if refused:
        return None
    rows = encode_rows(readings, work.templates)
    try:
        connection.execute("BEGIN")
        _copy(connection, _COPY, rows)
    except psycopg.Error as error:
        with suppress(psycopg.OperationalError):  # the link is broken, and so it is rolled back
            connection.rollback()
        if isinstance(error, errors.UniqueViolation) or _is_rows_fault(error):
            return None
        raise
    return WriteResult(rows.rows, rows.duplicates, rows.replaced)


def _finish(connection: Connection, work: _Work, result: WriteResult) -> WriteResult:
    if move_cursor_and_commit(connection, work.origin, result):
        return result
    return earlier_result(connection, work.origin, len(work.batch))


def _write_telling(connection: Connection, work: _Work, readings: ReadingBlock, refused: list[Refused]) -> WriteResult:
    """By COPY; where the database tells of rows that it has or does not take, by a slower way."""
    rows = encode_rows(readings, work.templates)
    result = _with_refused(WriteResult(rows.rows, rows.duplicates, rows.replaced), refused)
    try:
        with cursor_moved(connection, work.origin, result) as moved:
            if not moved:
                return earlier_result(connection, work.origin, len(work.batch))
            if lost := work.keep(connection, refused):
                result = replace(result, quarantined=result.quarantined - lost, lost=lost)
                amend_cursor(connection, work.origin, result)
            _copy(connection, _COPY, rows)
        return result
    except errors.UniqueViolation:
        try:
            return _write_merging(connection, work, rows, refused)
        except psycopg.Error as error:
            if not _is_rows_fault(error):
                raise
    except psycopg.Error as error:
        if not _is_rows_fault(error):
            raise
    return _write_sifting(connection, work, readings, refused)


def _is_rows_fault(error: psycopg.Error) -> bool:
    """Whether other rows might be taken; a unique index that is not ours lets no `_MERGE` through."""
    return isinstance(error, errors.InvalidColumnReference) or isinstance(translate(error), BatchRejected)


def _write_merging(connection: Connection, work: _Work, rows: EncodedRows, refused: list[Refused]) -> WriteResult:
    """The same where some rows are stored already; half as fast."""
    with cursor_moved(connection, work.origin, WriteResult(inserted=0)):
        lost = work.keep(connection, refused)
        connection.execute(_CREATE_STAGING)
        _copy(connection, _COPY_STAGING, rows)
        inserted, replaced = connection.execute(_MERGE).fetchone() or (0, 0)
        counted = WriteResult(
            inserted=inserted,
            duplicates=rows.duplicates + rows.rows - inserted - replaced,
            replaced=rows.replaced + replaced,
        )
        result = _with_refused(counted, refused, lost)
        amend_cursor(connection, work.origin, result)
    return result


def _write_sifting(
    connection: Connection,
    work: _Work,
    readings: ReadingBlock,
    refused: list[Refused],
    which: NDArray[np.bool_] | None = None,
) -> WriteResult:
    """The same where some rows are refused or have to be looked up: those ``which``, the others by COPY."""
    if which is not None and not which.all():
        fresh = encode_rows(readings.select(~which), work.templates)
        try:
            return _sift_beside(connection, work, readings.select(which), refused, fresh)
        except psycopg.Error as error:
            if not _is_rows_fault(error):
                raise
    return _sift_beside(connection, work, readings, refused, _NO_ROWS)


def _sift_beside(
    connection: Connection, work: _Work, readings: ReadingBlock, refused: list[Refused], fresh: EncodedRows
) -> WriteResult:
    with cursor_moved(connection, work.origin, WriteResult(inserted=0)) as moved:
        if not moved:
            return earlier_result(connection, work.origin, len(work.batch))
        _copy(connection, _COPY, fresh)
        readings, no_text = split_texts(connection, readings, work.tags)
        refused = refused + no_text
        rows = encode_rows(readings, work.templates)
        lost = work.keep(connection, refused)
        sifted = sift(connection, rows, work.tags, work.origin, work.quarantine_rows)
        stored_already = rows.rows - sifted.inserted - sifted.replaced - len(sifted.tag)
        counted = WriteResult(
            inserted=fresh.rows + sifted.inserted,
            duplicates=fresh.duplicates + rows.duplicates + stored_already,
            replaced=fresh.replaced + rows.replaced + sifted.replaced,
            quarantined=len(sifted.tag) - sifted.lost,
            lost=sifted.lost,
            refused_tag=sifted.tag,
            reason=sifted.reason,
        )
        result = _with_refused(counted, refused, lost)
        amend_cursor(connection, work.origin, result)
    return result


def _with_refused(result: WriteResult, refused: list[Refused], lost: int = 0) -> WriteResult:
    """``result`` with the readings that were not sent counted as quarantined, but for ``lost`` of them."""
    if not refused:
        return result
    return replace(
        result,
        quarantined=result.quarantined + sum(len(part.readings) for part in refused) - lost,
        lost=result.lost + lost,
        refused_tag=np.concatenate([result.refused_tag, *(part.readings.tag for part in refused)]),
        reason=f"{refused[0].reason} (SQLSTATE {refused[0].sqlstate})",
    )


def _copy(connection: Connection, statement: LiteralString, rows: EncodedRows) -> None:
    if rows.rows == 0:
        return
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(rows.data)
