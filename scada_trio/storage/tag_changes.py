"""A change of some tags of a stored connection.

Owns that SQL beside `scada_trio.storage.changes`, whose tolerance for others' tables holds here too. Blocks, for
a worker thread; `scada_trio.storage.master` calls it with an open connection.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from scada_trio.audit import Actor
from scada_trio.desired import ConnectionSpec, TagChange
from scada_trio.errors import ConfigurationRefused, UnknownConnection
from scada_trio.storage import changes
from scada_trio.storage.connect import Connection

_ID_IS: Final = "tenant_id::text = %(tenant)s AND id::text = %(connection)s"
_REMOVE: Final = """
    UPDATE tag_mappings SET deleted_at = now()
    WHERE connection_id::text = %(connection)s AND tenant_id::text = %(tenant)s AND deleted_at IS NULL
        AND (id::text = ANY (%(removed)s) OR (%(replace)s AND id::text <> ALL (%(kept)s)))
    RETURNING id::text"""
_COUNT: Final = "SELECT count(*) FROM tag_mappings WHERE connection_id::text = %s AND deleted_at IS NULL"
_SAME_NODE: Final = """
    SELECT a.id::text FROM tag_mappings a JOIN tag_mappings b USING (connection_id, well_id, opc_node_id)
    WHERE a.connection_id::text = %s AND a.deleted_at IS NULL AND b.deleted_at IS NULL AND a.id <> b.id
        AND a.id::text = ANY (%s) ORDER BY 1 LIMIT 1"""
_TAKEN: Final = """
    SELECT id::text FROM tag_mappings
    WHERE id::text = ANY (%s) AND tenant_id::text = %s AND connection_id::text <> %s AND deleted_at IS NULL LIMIT 1"""


def change_tags(
    connection: Connection, tenant_id: UUID, connection_id: UUID, change: TagChange, actor: Actor | None = None
) -> int:
    """See `scada_trio.storage.master.MasterDatabase.change_tags`."""
    values = {"tenant": str(tenant_id), "connection": str(connection_id)}
    ids = [str(tag.tag_id) for tag in change.tags]
    scope = changes.connection_and_tags(connection_id, [tag.tag_id for tag in change.tags])
    with changes.changing(connection, actor, "change tags", scope):
        if connection.execute(f"SELECT FROM scada_connections WHERE {_ID_IS}", values).fetchone() is None:
            raise UnknownConnection(f"connection {connection_id} does not exist")
        if taken := connection.execute(_TAKEN, [ids, str(tenant_id), str(connection_id)]).fetchone():
            raise ConfigurationRefused(f"tag {taken[0]} belongs to another connection")
        removed = [str(tag_id) for tag_id in change.removed]
        rows = connection.execute(_REMOVE, {**values, "removed": removed, "replace": change.replace, "kept": ids})
        gone = {row[0] for row in rows}
        if missing := [tag_id for tag_id in removed if tag_id not in gone]:
            raise ConfigurationRefused(f"connection {connection_id} has no tag {missing[0]}")
        owner = ConnectionSpec(connection_id, tenant_id, name="", endpoint_url="")
        changes.store_tags(connection, owner, change.tags)
        if double := connection.execute(_SAME_NODE, [str(connection_id), ids]).fetchone():
            raise ConfigurationRefused(f"tag {double[0]} is the same node of the same well as another tag")
        row = connection.execute(_COUNT, [str(connection_id)]).fetchone()
        count = 0 if row is None else int(row[0])
        if count == 0:
            raise ConfigurationRefused("no tag would be left; a connection reads at least one")
    return count
