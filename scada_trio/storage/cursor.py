"""How far a journal's batches are committed: one row of the tenant's database, moved in the transaction of each batch.

Owns the SQL of ``scada_ingest_cursor``. Blocks, for the writer's worker thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import psycopg
from psycopg import errors, pq

from scada_trio.readings import WriteResult
from scada_trio.storage.connect import Connection
from scada_trio.storage.quarantine import Origin

# The row lock makes a second attempt wait for a first whose commit is in doubt; no row back: it did commit.
_MOVE_CURSOR: Final = """
    INSERT INTO scada_ingest_cursor AS c (journal_id, last_seq, inserted, duplicates, replaced, quarantined)
    VALUES (%(journal)s, %(sequence)s, %(inserted)s, %(duplicates)s, %(replaced)s, %(quarantined)s)
    ON CONFLICT (journal_id) DO UPDATE SET last_seq = excluded.last_seq, inserted = excluded.inserted,
        duplicates = excluded.duplicates, replaced = excluded.replaced, quarantined = excluded.quarantined,
        updated_at = now()
    WHERE c.last_seq < excluded.last_seq
    RETURNING true"""
_MOVE_OR_FAIL: Final = f"WITH moved AS ({_MOVE_CURSOR}) SELECT 1 / count(*) FROM moved"  # noqa: S608 - constants
_AMEND_CURSOR: Final = """
    UPDATE scada_ingest_cursor SET inserted = %(inserted)s, duplicates = %(duplicates)s, replaced = %(replaced)s,
        quarantined = %(quarantined)s
    WHERE journal_id = %(journal)s"""
_READ_CURSOR: Final = """
    SELECT last_seq, inserted, duplicates, replaced, quarantined FROM scada_ingest_cursor WHERE journal_id = %s"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last batch of a journal that is committed, and what became of its readings."""

    sequence: int
    inserted: int
    duplicates: int
    replaced: int
    quarantined: int


def read_cursor(connection: Connection, journal_id: UUID) -> Cursor | None:
    """None where no batch of that journal is committed."""
    row = connection.execute(_READ_CURSOR, [journal_id]).fetchone()
    return None if row is None else Cursor(*row)


@contextmanager
def cursor_moved(connection: Connection, origin: Origin, result: WriteResult) -> Iterator[bool]:
    """A transaction that begins by moving the cursor; whether it was not there already.

    Both are sent at once: a far database answers a batch in four round trips, not in five. psycopg's own
    ``transaction()`` would keep the pipeline open, and there is no COPY in one.
    """
    try:
        with connection.pipeline():
            connection.execute("BEGIN")
            answer = connection.execute(_MOVE_CURSOR, _values(origin, result))
        yield answer.fetchone() is not None
        connection.commit()
    finally:
        if connection.info.transaction_status != pq.TransactionStatus.IDLE:
            with suppress(psycopg.OperationalError):  # the link is broken, and so it is rolled back
                connection.rollback()


def move_cursor_and_commit(connection: Connection, origin: Origin, result: WriteResult) -> bool:
    """End the open transaction so, in one round trip; False, rolled back, where the cursor stands there already."""
    try:
        with connection.pipeline():
            connection.execute(_MOVE_OR_FAIL, _values(origin, result))
            connection.execute("COMMIT")
    except errors.DivisionByZero:
        connection.rollback()
        return False
    return True


def amend_cursor(connection: Connection, origin: Origin, result: WriteResult) -> None:
    """Correct the counts of the batch that it was moved to in this transaction."""
    connection.execute(_AMEND_CURSOR, _values(origin, result))


def earlier_result(connection: Connection, origin: Origin, readings: int) -> WriteResult:
    """What an earlier attempt stored of a batch of so many ``readings``, as far as the cursor still tells."""
    cursor = read_cursor(connection, origin.journal_id)
    if cursor is None or cursor.sequence != origin.sequence:
        return WriteResult(inserted=readings, already=True)
    stored = (cursor.inserted, cursor.duplicates, cursor.replaced, cursor.quarantined)
    return WriteResult(*stored, already=True, lost=readings - sum(stored))


def _values(origin: Origin, result: WriteResult) -> dict[str, object]:
    return {
        "journal": origin.journal_id,
        "sequence": origin.sequence,
        "inserted": result.inserted,
        "duplicates": result.duplicates,
        "replaced": result.replaced,
        "quarantined": result.quarantined,
    }
