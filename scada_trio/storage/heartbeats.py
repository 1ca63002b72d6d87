"""Rows of ``scada_heartbeats``: the last reading of each series again, and whether its device was there.

Owns that table's SQL. The tenant's heartbeat task calls `store_heartbeats`; starts nothing that outlives it.

The values come from the database, not from memory: what is repeated is what is committed, a restart changes nothing,
and readings pay nothing for it on their way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from pydantic import SecretStr

from scada_trio.config import DatabaseTimeouts
from scada_trio.readings import QUALITY_LABELS
from scada_trio.storage.columns import take_columns
from scada_trio.storage.connect import Connection, call_once
from scada_trio.storage.latest import newest
from scada_trio.times import moment

_INSERT: Final = """
    INSERT INTO scada_heartbeats
        (beat_at, well_id, tag_node_id, connection_id, connected, heard_at, reading_at, value, quality)
    SELECT %s, b.* FROM unnest(%s::uuid[], %s::text[], %s::uuid[], %s::boolean[], %s::timestamptz[], %s::timestamptz[],
        %s::double precision[], %s::text[]) AS b
    ON CONFLICT DO NOTHING"""  # another process' beat of the same moment
_FORGET: Final = "DELETE FROM scada_heartbeats WHERE beat_at < %s::timestamptz - make_interval(days => %s)"


@dataclass(frozen=True, slots=True)
class Pulse:
    """A connection at the moment of a beat; ``heard_at`` Unix seconds; ``series`` by well and node id."""

    connection_id: UUID
    connected: bool
    heard_at: float | None
    series: Sequence[tuple[UUID, str]]


async def store_heartbeats(
    url: SecretStr, at: float, pulses: Sequence[Pulse], keep_days: int, timeouts: DatabaseTimeouts
) -> int:
    """Store the beat of the moment ``at`` (Unix seconds) for every series that has a reading; how many rows are new.

    Deletes beats older than ``keep_days`` in the same transaction. Raises `DatabaseError`.
    """
    beat = datetime.fromtimestamp(at, UTC)
    return await call_once(url, _store, beat, pulses, keep_days, application_name="scada-trio heartbeats", **timeouts)


def _store(connection: Connection, at: datetime, pulses: Sequence[Pulse], keep_days: int) -> int:
    owner = {series: pulse for pulse in reversed(pulses) for series in pulse.series}  # the first connection counts
    take_columns(connection)
    found = newest(connection, list(owner))
    rows = [
        (
            *(*series, owner[series].connection_id, owner[series].connected, _moment(owner[series].heard_at)),
            *(moment(time_us), value, QUALITY_LABELS[quality]),
        )
        for series, (time_us, value, quality) in found.items()
    ]
    with connection.transaction():
        connection.execute(_FORGET, [at, keep_days])
        if not rows:
            return 0
        return connection.execute(_INSERT, [at, *map(list, zip(*rows, strict=True))]).rowcount


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
