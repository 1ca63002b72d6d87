"""Stored secrets written again with the key of today; the SQL of ``secrets rotate``.

Owns which columns hold secrets. Each is replaced on its own, in a transaction with its entry in the audit log, and only
if it is still what was read: whoever stops halfway has lost nothing, and starts again. Blocks, for a worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import sql

from scada_trio.storage.changes import changing
from scada_trio.storage.connect import Connection

_COLUMNS: Final = (("tenants", "database_url"), ("scada_connections", "password"))


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret as it is stored; ``row_id`` is the text of the row's id."""

    table: str
    column: str
    row_id: str
    text: str

    def __repr__(self) -> str:
        return f"<secret in {self.table} {self.row_id}>"


def list_secrets(connection: Connection) -> list[StoredSecret]:
    """Every secret there is, of rows that are not run as well."""
    found = []
    for table, column in _COLUMNS:
        query = sql.SQL("SELECT id::text, {column}::text FROM {table} WHERE {column} <> '' ORDER BY id").format(
            table=sql.Identifier(table), column=sql.Identifier(column)
        )
        found += [StoredSecret(table, column, row_id, text) for row_id, text in connection.execute(query)]
    return found


def replace_secret(connection: Connection, secret: StoredSecret, new: str) -> bool:
    """Store ``new`` in its place; False where the row holds something else by now."""
    query = sql.SQL("UPDATE {table} SET {column} = %s WHERE id::text = %s AND {column}::text = %s").format(
        table=sql.Identifier(secret.table), column=sql.Identifier(secret.column)
    )
    with changing(connection, None, "rotate secret", {secret.table: ("t.id::text = %s", (secret.row_id,))}):
        return connection.execute(query, [new, secret.row_id, secret.text]).rowcount > 0
