"""The readings that a tenant's database did not take, kept whole with the reason.

Owns the SQL of ``scada_quarantine``. A batch's transaction adds to it; the commands list it and throw rows away, and
write them again as `scada_trio.storage.sifting` does. Blocks, for a worker thread; starts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import numpy as np
from psycopg.rows import class_row

from scada_trio.losses import LossReason
from scada_trio.readings import QUALITY_LABELS, ReadingBlock, TagTable
from scada_trio.storage.connect import Connection
from scada_trio.times import moment

MAX_ROWS: Final = 100_000

# A timestamp is as far as a Python datetime goes; time_us is exact.
_INSERT: Final = """
    INSERT INTO scada_quarantine (timestamp, time_us, well_id, tag_node_id, node_id_escaped, value, quality, sqlstate,
        reason, journal_id, batch_seq)
    SELECT CASE WHEN t < -62135596800000000 THEN '-infinity' WHEN t > 253402300799999999 THEN 'infinity'
            ELSE 'epoch'::timestamptz + make_interval(secs => t / 1000000) + mod(t, 1000000) * INTERVAL '1 microsecond'
        END, t, w, n, e, v, q, s, r, %s, %s
    FROM unnest(%s::bigint[], %s::uuid[], %s::text[], %s::boolean[], %s::float8[], %s::text[], %s::text[], %s::text[])
        AS u (t, w, n, e, v, q, s, r)"""
_LIST: Final = """
    SELECT id, quarantined_at, time_us, well_id, tag_node_id, value, quality, sqlstate, reason FROM scada_quarantine
    ORDER BY id DESC LIMIT %s"""
_COUNT: Final = "SELECT count(*) FROM scada_quarantine"
# Until the end of the transaction nobody else adds rows, so that the count stands; only who has some to add asks.
_LOCK: Final = "SELECT pg_advisory_xact_lock(1935892833, 1)"  # "scda"
_ROOM: Final = "SELECT %(limit)s - count(*) FROM (SELECT FROM scada_quarantine LIMIT %(limit)s) AS held"
# One row an hour for each SQLSTATE, since every batch may have some; nobody else changes it, by the same lock.
_LOSE: Final = """
    WITH grown AS (
        UPDATE scada_loss SET reading_count = reading_count + %(count)s,
            from_time = least(from_time, %(first)s), to_time = greatest(to_time, %(last)s)
        WHERE id = (SELECT max(id) FROM scada_loss WHERE reason = %(reason)s AND detail = %(detail)s
            AND recorded_at > clock_timestamp() - INTERVAL '1 hour')
        RETURNING true)
    INSERT INTO scada_loss (reason, from_time, to_time, reading_count, detail)
    SELECT %(reason)s, %(first)s, %(last)s, %(count)s, %(detail)s WHERE NOT EXISTS (SELECT FROM grown)"""
# One statement: what is thrown away is in the ledger of losses, or is not thrown away.
_DROP: Final = """
    WITH dropped AS (
        DELETE FROM scada_quarantine WHERE %(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s)
        RETURNING timestamp, sqlstate)
    INSERT INTO scada_loss (reason, from_time, to_time, reading_count, detail)
    SELECT %(reason)s, min(timestamp), max(timestamp), count(*),
        'dropped from quarantine, SQLSTATE ' || string_agg(DISTINCT sqlstate, ', ')
    FROM dropped HAVING count(*) > 0
    RETURNING reading_count"""


@dataclass(frozen=True, slots=True)
class Origin:
    """The batch that a refused reading came in."""

    journal_id: UUID
    sequence: int


@dataclass(frozen=True, slots=True, eq=False)
class Refused:
    """Readings that are not even sent to ``scada_readings``, all for one reason."""

    readings: ReadingBlock
    sqlstate: str
    reason: str


@dataclass(frozen=True, slots=True)
class QuarantinedReading:
    """One row; ``time_us`` as it came, µs since 1970."""

    id: int
    quarantined_at: datetime
    time_us: int
    well_id: UUID
    tag_node_id: str
    value: float
    quality: str
    sqlstate: str
    reason: str


def keep(
    connection: Connection, refused: Sequence[Refused], tags: TagTable, origin: Origin, limit: int = MAX_ROWS
) -> int:
    """Insert readings as long as there are no more than ``limit`` rows; what is beyond is recorded as lost.

    Returns how many are lost. To be called within the batch's transaction.
    """
    if not refused:
        return 0
    left, lost = room(connection, limit), 0
    for part in refused:
        count = len(part.readings)
        if left < count:
            beyond = part.readings.time_us[left:]
            lose(connection, part.sqlstate, moment(int(beyond.min())), moment(int(beyond.max())), count - left)
            lost += count - left
            part = Refused(part.readings.select(np.arange(count) < left), part.sqlstate, part.reason)
        left -= len(part.readings)
        if len(part.readings):
            _insert(connection, part, tags, origin)
    return lost


def room(connection: Connection, limit: int) -> int:
    """How many more rows there may be; nobody else adds any before this transaction ends."""
    connection.execute(_LOCK)
    row = connection.execute(_ROOM, {"limit": limit}).fetchone()
    return int(row[0]) if row else 0


def lose(connection: Connection, sqlstate: str, first: datetime, last: datetime, count: int) -> None:
    """Record refused readings that there is no room for, from ``first`` to ``last``; after `room`, as it is locked."""
    values = {"first": first, "last": last, "count": count, "detail": f"SQLSTATE {sqlstate}"}
    connection.execute(_LOSE, {**values, "reason": LossReason.QUARANTINE_FULL.value})


def _insert(connection: Connection, part: Refused, tags: TagTable, origin: Origin) -> None:
    ascii_only = connection.info.parameter_status("server_encoding") != "UTF8"
    series = part.readings.tag.tolist()
    keys = {number: tags.key(number) for number in set(series)}
    shown = {number: shown_text(node_id, ascii_only=ascii_only) for number, (_, node_id) in keys.items()}
    values = [
        part.readings.time_us.tolist(),
        [keys[number][0] for number in series],
        [shown[number] for number in series],
        [shown[number] != keys[number][1] for number in series],
        part.readings.value.tolist(),
        [QUALITY_LABELS[quality] for quality in part.readings.quality.tolist()],
        [part.sqlstate] * len(series),
        [part.reason] * len(series),
    ]
    connection.execute(_INSERT, [origin.journal_id, origin.sequence, *values])


def shown_text(node_id: str, *, ascii_only: bool = False) -> str:
    """``node_id``, with what cannot be stored as a backslash escape."""
    text = node_id.encode("ascii" if ascii_only else "utf-8", "backslashreplace").decode()
    return text.replace("\0", "\\x00")


def list_quarantine(connection: Connection, limit: int) -> tuple[list[QuarantinedReading], int]:
    """The newest rows, newest first, and how many there are."""
    with connection.cursor(row_factory=class_row(QuarantinedReading)) as cursor:
        rows = cursor.execute(_LIST, [limit]).fetchall()
    count = connection.execute(_COUNT).fetchone()
    return rows, count[0] if count else 0


def drop_quarantine(connection: Connection, ids: Sequence[int] | None) -> int:
    """Throw these rows away, None: all of them, and record that as a loss; how many there were."""
    values = {"ids": None if ids is None else list(ids), "reason": LossReason.DROPPED.value}
    row = connection.execute(_DROP, values).fetchone()
    return 0 if row is None else int(row[0])
