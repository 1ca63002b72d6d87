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

from psycopg.rows import class_row

from scada_trio.losses import LossReason
from scada_trio.readings import QUALITY_LABELS, ReadingBlock, TagTable
from scada_trio.storage.connect import Connection

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


def keep(connection: Connection, refused: Sequence[Refused], tags: TagTable, origin: Origin) -> None:
    """Insert readings; to be called within the batch's transaction."""
    ascii_only = connection.info.parameter_status("server_encoding") != "UTF8"
    for part in refused:
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
