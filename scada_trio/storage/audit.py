"""The audit log's SQL: changes written down with what they change, denied calls, and the log read again.

Owns `scada_audit_log` beside its migration. Blocks, for a worker thread; `scada_trio.storage.changes` and `master` call
it with an open connection. Where a table has the migration's trigger, that writes the rows and needs to be told only
who acts; the tables of another application are looked at before and after the change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from scada_trio.audit import Actor, Denial, this_process
from scada_trio.storage.connect import Connection

Scope = Mapping[str, tuple[LiteralString, Sequence[object]]]
"""The rows that a change may touch: a condition on table ``t`` and its values, by table."""

_TOLD: Final = """
    SELECT set_config('scada.actor', %s, true), set_config('scada.address', %s, true),
        set_config('scada.action', %s, true)"""
_HAS_TRIGGER: Final = """
    SELECT EXISTS (SELECT FROM pg_trigger
        WHERE tgrelid = to_regclass(%s) AND tgname = 'scada_audit' AND tgenabled IN ('O', 'A'))"""
_CHANGE: Final = "SELECT scada_audit_row(%s, %s::jsonb, %s::jsonb, 'change')"
_DONE: Final = """
    INSERT INTO scada_audit_log (actor, address, action, entity, entity_id, before, after, outcome)
    VALUES (%s, %s, %s, %s, %s, %s, %s, 'done')"""
_REFUSED: Final = """
    INSERT INTO scada_audit_log (actor, address, action, tenant_id, entity, entity_id, outcome, detail)
    VALUES (%s, %s, %s, %s, %s, %s, 'refused', %s)"""
_DENIED: Final = """
    INSERT INTO scada_audit_log (at, actor, address, action, outcome, detail, count)
    VALUES (to_timestamp(%s), %s, %s, %s, 'denied', %s, %s)"""
_READ: Final = """
    SELECT id, at, actor, address, database_user, action, tenant_id, entity, entity_id, before, after, outcome, detail,
        count
    FROM scada_audit_log
    WHERE (%(since)s::timestamptz IS NULL OR at >= %(since)s) AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
        AND (%(tenant)s::text IS NULL OR tenant_id = %(tenant)s)
        AND (%(outcome)s::text IS NULL OR outcome = %(outcome)s)
    ORDER BY at DESC, id DESC LIMIT %(limit)s"""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row of the log; ``actor`` is who it is said to be, ``database_user`` who the database knows it was."""

    id: int
    at: datetime
    actor: str
    address: str
    database_user: str
    action: str
    tenant_id: str | None
    entity: str | None
    entity_id: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    outcome: str
    detail: str
    count: int


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which entries, the newest of them first."""

    since: datetime | None = None
    until: datetime | None = None
    tenant: str | None = None
    outcome: str | None = None
    limit: int = 100


@contextmanager
def audited(connection: Connection, actor: Actor | None, action: str, scope: Scope) -> Iterator[None]:
    """Write down what the block changes, within its transaction: where that fails, so does the change."""
    who = actor or this_process()
    connection.execute(_TOLD, [who.identity, who.address, action])
    foreign = {table: rows for table, rows in scope.items() if not _one(connection, _HAS_TRIGGER, table)}
    before = {table: _rows(connection, table, *rows) for table, rows in foreign.items()}
    yield
    for table, rows in foreign.items():
        after = _rows(connection, table, *rows)
        for row_id in sorted(before[table].keys() | after.keys()):
            connection.execute(_CHANGE, [table, _json(before[table].get(row_id)), _json(after.get(row_id))])


def record_done(
    connection: Connection,
    actor: Actor | None,
    action: str,
    entity: tuple[str, str],
    before: Mapping[str, object] | None,
    after: Mapping[str, object] | None,
) -> None:
    """A change of something that is in no table; ``entity``: kind, id. Without secrets: it is written as it is."""
    who = actor or this_process()
    values = [who.identity, who.address, action, *entity, _json(before), _json(after)]
    connection.execute(_DONE, values)


def record_refused(
    connection: Connection, actor: Actor | None, action: str, entity: tuple[str | None, str, str], detail: str
) -> None:
    """A change that was not carried out; ``entity``: tenant id, table, id."""
    who = actor or this_process()
    connection.execute(_REFUSED, [who.identity, who.address, action, *entity, detail])


def record_denials(connection: Connection, denials: Sequence[Denial]) -> None:
    """Denied calls, in one transaction."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            _DENIED,
            [(d.at, d.actor.identity, d.actor.address, d.action, d.reason, d.count) for d in denials],
        )


def read_audit(connection: Connection, query: AuditQuery) -> list[AuditEntry]:
    """The newest entries first."""
    values = {
        "since": query.since,
        "until": query.until,
        "tenant": query.tenant,
        "outcome": query.outcome,
        "limit": query.limit,
    }
    with connection.cursor(row_factory=class_row(AuditEntry)) as cursor:
        return cursor.execute(_READ, values).fetchall()


def _rows(connection: Connection, table: str, condition: LiteralString, values: Sequence[object]) -> dict[str, Any]:
    query = sql.SQL("SELECT t.id::text, to_jsonb(t) FROM {} t WHERE {}").format(
        sql.Identifier(table), sql.SQL(condition)
    )
    return dict(connection.execute(query, values).fetchall())


def _json(row: object) -> Jsonb | None:
    return None if row is None else Jsonb(row)


def _one(connection: Connection, query: Any, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()
    return None if row is None else row[0]
