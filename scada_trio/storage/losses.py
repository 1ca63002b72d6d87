"""What was lost, as rows of ``scada_loss``: stored once each, read back newest first.

Owns that table's SQL. Blocks, for a worker thread; starts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from scada_trio.losses import Loss, LossReason
from scada_trio.storage.connect import Connection
from scada_trio.times import microseconds, moment

_INSERT: Final = """
    INSERT INTO scada_loss (journal_id, loss_no, connection_id, reason, from_time, to_time, reading_count, detail)
    SELECT %s, l.* FROM unnest(%s::bigint[], %s::uuid[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::bigint[],
        %s::text[]) AS l
    ON CONFLICT (journal_id, loss_no) DO NOTHING"""
_SELECT: Final = """
    SELECT id, recorded_at, reason, connection_id, from_time, to_time, reading_count, detail FROM scada_loss
    WHERE (%(connection)s::uuid IS NULL OR connection_id = %(connection)s)
        AND (%(since)s::timestamptz IS NULL OR to_time >= %(since)s)
    ORDER BY id DESC LIMIT %(limit)s"""


@dataclass(frozen=True, slots=True)
class StoredLoss:
    """One row."""

    id: int
    recorded_at: datetime
    loss: Loss


def store_losses(connection: Connection, losses: Sequence[tuple[int, Loss]], journal_id: UUID) -> None:
    """Insert those that are not there; each is told by its number in the journal."""
    if not losses:
        return
    rows = [
        (
            *(number, loss.connection_id, str(loss.reason), moment(loss.from_us), moment(loss.to_us)),
            *(loss.count, _text(loss.detail)),
        )
        for number, loss in losses
    ]
    connection.execute(_INSERT, [journal_id, *map(list, zip(*rows, strict=True))])


def read_losses(
    connection: Connection, connection_id: UUID | None, since_us: int | None, limit: int
) -> list[StoredLoss]:
    """The newest rows, newest first, that reach beyond ``since_us``; None: of any connection, of any time."""
    since = None if since_us is None else moment(since_us)
    rows = connection.execute(_SELECT, {"connection": connection_id, "since": since, "limit": limit})
    return [
        StoredLoss(
            number,
            recorded_at,
            Loss(LossReason(reason), lost_connection, microseconds(start), microseconds(end), count, detail),
        )
        for number, recorded_at, reason, lost_connection, start, end, count, detail in rows
    ]


def _text(detail: str) -> str:
    return detail.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
