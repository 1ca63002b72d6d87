"""A batch that the database refused, taken apart: rows at fault go to the quarantine, the others are stored.

Owns how the rows at fault are found. The tenant's writer calls it within the batch's transaction, in its worker thread.

    COPY refused ─► staged ─► inserted in runs of 128 ─► refused run ─► each row by itself ─► refused ─► quarantine

However many rows are at fault, a batch costs one savepoint a row and one a run at the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from psycopg import errors, sql

from scada_trio.readings import EMPTY_BLOCK, ReadingBlock, TagTable
from scada_trio.storage.connect import REFUSALS_OF_ROWS, Connection
from scada_trio.storage.copy import COPY_COLUMNS, EncodedRows
from scada_trio.storage.late import affordable, lift_limit, tells_repeated
from scada_trio.storage.quarantine import MAX_ROWS, Origin, Refused, lose, room
from scada_trio.storage.window import TimeWindow

_NOT_TEXT: Final = ("22021", "the node id is no text that PostgreSQL can store")
_AT_ONCE: Final = 5_000  # rows of one statement, so that its time limit is not the batch's

_CREATE_STAGING: Final = """
    CREATE TEMPORARY TABLE scada_sift (n integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        timestamp timestamptz NOT NULL, value float8 NOT NULL, well_id uuid NOT NULL, tag_node_id text NOT NULL,
        quality text NOT NULL, origin bigint, sqlstate text, reason text) ON COMMIT DROP"""
_COPY_STAGING: Final = f"COPY scada_sift ({COPY_COLUMNS}) FROM STDIN (FORMAT BINARY)"

# What becomes of a row that is there already.
_REPLACING: Final = sql.SQL(
    """ON CONFLICT (well_id, tag_node_id, timestamp) DO UPDATE SET value = excluded.value, quality = excluded.quality
    WHERE (r.value, r.quality) IS DISTINCT FROM (excluded.value, excluded.quality)"""
)
_KEEPING: Final = sql.SQL("ON CONFLICT (well_id, tag_node_id, timestamp) DO NOTHING")
_COLUMNS: Final = sql.SQL(COPY_COLUMNS)

_CREATE_MERGE: Final = sql.SQL("""
    CREATE OR REPLACE FUNCTION pg_temp.scada_merge(first_n integer, last_n integer,
        OUT inserted bigint, OUT replaced bigint) LANGUAGE sql AS $$
        WITH merged AS (
            INSERT INTO scada_readings AS r ({columns}) SELECT {columns} FROM scada_sift
            WHERE n BETWEEN first_n AND last_n {conflict}
            RETURNING r.created_at = now() AS new)
        SELECT count(*) FILTER (WHERE new), count(*) FILTER (WHERE new IS NOT TRUE) FROM merged
    $$""")
# The same by looking, for a table of another application whose indexes do not tell. An UPDATE with a join would take
# whole chunks out of compression; with literals TimescaleDB takes the one series and time.
_CREATE_MERGE_LOOKING: Final = sql.SQL("""
    CREATE OR REPLACE FUNCTION pg_temp.scada_merge(first_n integer, last_n integer,
        OUT inserted bigint, OUT replaced bigint) LANGUAGE plpgsql AS $$
    DECLARE
        first_time timestamptz;
        last_time timestamptz;
        changed record;
    BEGIN
        replaced := 0;
        SELECT min(timestamp), max(timestamp) INTO first_time, last_time FROM scada_sift
        WHERE n BETWEEN first_n AND last_n;
        FOR changed IN
            SELECT DISTINCT ON (s.n) s.* FROM scada_sift s JOIN scada_readings r
                ON (r.well_id, r.tag_node_id, r.timestamp) = (s.well_id, s.tag_node_id, s.timestamp)
            WHERE s.n BETWEEN first_n AND last_n AND r.timestamp BETWEEN first_time AND last_time
                AND {replacing} AND {looking}
                AND (r.value, r.quality) IS DISTINCT FROM (s.value, s.quality)
        LOOP
            EXECUTE format('UPDATE scada_readings SET value = %L, quality = %L
                WHERE well_id = %L AND tag_node_id = %L AND timestamp = %L',
                changed.value, changed.quality, changed.well_id, changed.tag_node_id, changed.timestamp);
            replaced := replaced + 1;
        END LOOP;
        INSERT INTO scada_readings ({columns})
        SELECT DISTINCT ON (well_id, tag_node_id, timestamp) {columns} FROM scada_sift s
        WHERE s.n BETWEEN first_n AND last_n AND NOT ({looking} AND EXISTS (
            SELECT FROM scada_readings r
            WHERE (r.well_id, r.tag_node_id, r.timestamp) = (s.well_id, s.tag_node_id, s.timestamp)
                AND r.timestamp BETWEEN first_time AND last_time))
        ORDER BY well_id, tag_node_id, timestamp, n;
        GET DIAGNOSTICS inserted = ROW_COUNT;
    END
    $$""")
# Runs of rows, each in a savepoint; a refused run again row by row. What is no row's fault, no disk say, ends it.
_CREATE_SIFT: Final = """
    CREATE OR REPLACE FUNCTION pg_temp.scada_sift(first_n integer, last_n integer, refusals text[],
        OUT inserted bigint, OUT replaced bigint) LANGUAGE plpgsql AS $$
    DECLARE
        run_end integer;
        done record;
        state text;
        why text;
    BEGIN
        inserted := 0;
        replaced := 0;
        FOR run_start IN first_n..last_n BY 128 LOOP
            run_end := least(run_start + 127, last_n);
            BEGIN
                SELECT * INTO done FROM pg_temp.scada_merge(run_start, run_end);
                inserted := inserted + done.inserted;
                replaced := replaced + done.replaced;
            EXCEPTION WHEN OTHERS THEN
                IF NOT EXISTS (SELECT FROM unnest(refusals) AS refusal WHERE starts_with(SQLSTATE, refusal)) THEN
                    RAISE;
                END IF;
                FOR row_n IN run_start..run_end LOOP
                    BEGIN
                        SELECT * INTO done FROM pg_temp.scada_merge(row_n, row_n);
                        inserted := inserted + done.inserted;
                        replaced := replaced + done.replaced;
                    EXCEPTION WHEN OTHERS THEN
                        state := SQLSTATE;
                        why := SQLERRM;
                        IF NOT EXISTS (SELECT FROM unnest(refusals) AS refusal WHERE starts_with(state, refusal)) THEN
                            RAISE;
                        END IF;
                        UPDATE scada_sift AS s SET sqlstate = state, reason = why WHERE s.n = row_n;
                    END;
                END LOOP;
            END;
        END LOOP;
    END
    $$"""
_SIFT: Final = "SELECT inserted, replaced FROM pg_temp.scada_sift(%s, %s, %s)"
_KEEP_REFUSED: Final = """
    INSERT INTO scada_quarantine (timestamp, time_us, well_id, tag_node_id, value, quality, sqlstate, reason,
        journal_id, batch_seq)
    SELECT timestamp, (extract(epoch FROM timestamp) * 1000000)::bigint, well_id, tag_node_id, value, quality,
        sqlstate, reason, %s, %s
    FROM scada_sift WHERE sqlstate IS NOT NULL ORDER BY n LIMIT %s"""
_REFUSED: Final = "SELECT well_id, tag_node_id, count(*) FROM scada_sift WHERE sqlstate IS NOT NULL GROUP BY 1, 2"
_BEYOND: Final = """
    SELECT sqlstate, min(timestamp), max(timestamp), count(*)
    FROM (SELECT sqlstate, timestamp FROM scada_sift WHERE sqlstate IS NOT NULL ORDER BY n OFFSET %s) AS beyond
    GROUP BY 1"""
_FIRST_REASON: Final = "SELECT sqlstate, reason FROM scada_sift WHERE sqlstate IS NOT NULL ORDER BY n LIMIT 1"

# Rows of the quarantine to be tried again: none that another command has in hand, none that cannot go through.
_STAGE_QUARANTINED: Final = """
    INSERT INTO scada_sift (origin, timestamp, value, well_id, tag_node_id, quality)
    SELECT id, timestamp, value, well_id, tag_node_id, quality FROM scada_quarantine
    WHERE id > %(after)s AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s)) AND NOT node_id_escaped
        AND time_us BETWEEN %(first)s AND %(last)s
    ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    """
_NEWEST_STAGED: Final = "SELECT well_id, tag_node_id, timestamp FROM scada_sift ORDER BY timestamp DESC LIMIT 1"
_LAST_STAGED: Final = "SELECT count(*), max(origin) FROM scada_sift"
_STILL_REFUSED: Final = """
    UPDATE scada_quarantine AS q SET sqlstate = s.sqlstate, reason = s.reason
    FROM scada_sift AS s WHERE q.id = s.origin AND s.sqlstate IS NOT NULL"""
_LEAVE: Final = """
    DELETE FROM scada_quarantine AS q USING scada_sift AS s WHERE q.id = s.origin AND s.sqlstate IS NULL"""


@dataclass(frozen=True, slots=True, eq=False)
class Sifted:
    """What became of staged rows; ``tag`` int32, the series of each one that was refused, ``reason`` the first's.

    ``lost`` of those that were refused found no room in the quarantine.
    """

    inserted: int
    replaced: int
    tag: NDArray[np.int32]
    reason: str | None
    lost: int = 0


# --- what is not sent at all


def split_texts(connection: Connection, readings: ReadingBlock, tags: TagTable) -> tuple[ReadingBlock, list[Refused]]:
    """``readings`` without those whose node id this database cannot store, and these; within a transaction."""
    refused: list[Refused] = []
    for series in np.unique(readings.tag).tolist():
        refusal = _refusal_of_text(connection, tags.key(series)[1])
        if refusal is not None:
            of_series = readings.tag == series
            refused.append(Refused(readings.select(of_series), *refusal))
            readings = readings.select(~of_series)
    return readings, refused


def _refusal_of_text(connection: Connection, node_id: str) -> tuple[str, str] | None:
    """SQLSTATE and reason; only a database that is not UTF-8 has to be asked."""
    try:
        node_id.encode()
    except UnicodeEncodeError:
        return _NOT_TEXT
    if "\0" in node_id:
        return _NOT_TEXT
    if node_id.isascii() or connection.info.parameter_status("server_encoding") == "UTF8":
        return None
    try:
        with connection.transaction():
            connection.execute("SELECT %s::text", [node_id])
    except errors.DataError as error:
        return error.sqlstate or _NOT_TEXT[0], error.diag.message_primary or _NOT_TEXT[1]
    return None


# --- what is sent row by row


def sift(connection: Connection, rows: EncodedRows, tags: TagTable, origin: Origin, limit: int = MAX_ROWS) -> Sifted:
    """Store the rows that the database takes and quarantine the others, as `keep` does; in the batch's transaction."""
    connection.execute(_CREATE_STAGING)
    with connection.cursor() as cursor, cursor.copy(_COPY_STAGING) as copy:
        copy.write(rows.data)
    inserted, replaced = _sift_staged(connection, rows.rows, _REPLACING)
    first = connection.execute(_FIRST_REASON).fetchone()
    if first is None:
        return Sifted(inserted, replaced, EMPTY_BLOCK.tag, None)
    tag: list[int] = []
    for well_id, node_id, count in connection.execute(_REFUSED):
        tag += [tags.index_of(well_id, node_id)] * count  # has its number: it came with the batch
    left = room(connection, limit)
    kept = connection.execute(_KEEP_REFUSED, [origin.journal_id, origin.sequence, left]).rowcount
    if kept < len(tag):
        for beyond in connection.execute(_BEYOND, [left]).fetchall():
            lose(connection, *beyond)
    reason = f"{first[1]} (SQLSTATE {first[0]})"
    return Sifted(inserted, replaced, np.array(tag, np.int32), reason, lost=len(tag) - kept)


def retry_quarantine(
    connection: Connection, ids: Sequence[int] | None, after: int = 0, window: TimeWindow | None = None
) -> tuple[int, int, int | None]:
    """Write quarantined rows again, up to 5,000 with an id above ``after``, those of ``ids`` (None: all).

    (tried, stored, last id tried): those that went through have left the quarantine in the same transaction; the
    last id is None when there were none left. A reading that is stored meanwhile for the same series and time stays.
    """
    lift_limit(connection)
    with connection.transaction():
        connection.execute(_CREATE_STAGING)
        first_us, last_us = (window or TimeWindow()).bounds(connection)
        values = {"after": after, "ids": None if ids is None else list(ids), "limit": _AT_ONCE}
        connection.execute(_STAGE_QUARANTINED, {**values, "first": first_us, "last": last_us})
        staged = connection.execute(_LAST_STAGED).fetchone()
        tried, last_id = staged or (0, None)
        _sift_staged(connection, tried, _KEEPING)
        connection.execute(_STILL_REFUSED)
        stored = connection.execute(_LEAVE).rowcount
        connection.execute("DROP TABLE scada_sift")
    return tried, stored, last_id


def _sift_staged(connection: Connection, rows: int, conflict: sql.SQL) -> tuple[int, int]:
    """Insert the staged rows, marking those that are refused: (inserted, replaced)."""
    # an error that a deferred constraint would keep for the commit belongs to its row
    connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    if tells_repeated(connection):
        connection.execute(_CREATE_MERGE.format(columns=_COLUMNS, conflict=conflict))
    else:
        replacing = conflict is _REPLACING
        # who tries the quarantine again waits for it; a batch must not
        looking = not replacing or _may_look(connection)
        literals = {"replacing": sql.Literal(replacing), "looking": sql.Literal(looking)}
        connection.execute(_CREATE_MERGE_LOOKING.format(columns=_COLUMNS, **literals))
    connection.execute(_CREATE_SIFT)
    inserted = replaced = 0
    for first in range(1, rows + 1, _AT_ONCE):
        values = [first, min(first + _AT_ONCE - 1, rows), list(REFUSALS_OF_ROWS)]
        row = connection.execute(_SIFT, values).fetchone() or (0, 0)
        inserted += row[0]
        replaced += row[1]
    return inserted, replaced


def _may_look(connection: Connection) -> bool:
    """Whether it costs little to look a staged row up."""
    row = connection.execute(_NEWEST_STAGED).fetchone()
    return row is None or affordable(connection, *row)
