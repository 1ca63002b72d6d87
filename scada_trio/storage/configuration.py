"""The master database's tables as rows, and the SQL that reads them, in a worker thread.

Owns the tolerance for tables that another application made: columns are read by name, optional ones where they exist,
ids and parameters as text, so that one odd value spoils its own row only. Starts nothing; `scada_trio.storage.master`
calls it with an open connection. What changes the tables is in `scada_trio.storage.changes`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID

from psycopg import sql
from psycopg.rows import dict_row

from scada_trio.errors import DatabaseMisconfigured
from scada_trio.sampling import FIELDS as SAMPLING
from scada_trio.storage.connect import Connection

Row = Mapping[str, Any]
R = TypeVar("R")

CHANNEL: Final = "scada_config"

# What each table must have; whatever else it has is somebody else's, unless it is named below.
_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "tenants": ("id", "name", "database_url", "status", "deleted_at"),
    "scada_connections": (
        *("id", "tenant_id", "name", "endpoint_url", "security_mode", "security_policy"),
        *("username", "password", "is_active"),
    ),
    "tag_mappings": (
        *("id", "tenant_id", "connection_id", "well_id", "tag_name", "opc_node_id"),
        *("data_type", "unit", "scaling_factor", "deadband", "deleted_at"),
    ),
}
PLAINTEXT: Final = "allow_plaintext_password"
PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "scada_connections": ("publishing_interval_ms", *SAMPLING),
    "tag_mappings": ("deadband_percent", *SAMPLING),
}
"""Optional columns, of whatever type: the parameters of subscription and items."""
_OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {
    "scada_connections": (PLAINTEXT, *PARAMETERS["scada_connections"]),
    "tag_mappings": PARAMETERS["tag_mappings"],
}
STOPPED: Final = ("SUSPENDED", "DELETED")


# --- rows


@dataclass(frozen=True, slots=True)
class TenantRow:
    """One row of ``tenants``; ``database_url`` as it is stored. ``connections``: how many are active."""

    tenant_id: UUID
    name: str
    status: str
    database_url: str = field(repr=False)
    connections: int = 0


@dataclass(frozen=True, slots=True)
class ConnectionRow:
    """One row of ``scada_connections``; ``password`` as it is stored, ``parameters`` as text by column."""

    connection_id: UUID
    tenant_id: UUID
    name: str | None
    endpoint_url: str
    security_mode: str | None
    security_policy: str | None
    username: str | None
    password: str | None = field(repr=False)
    allow_plaintext_password: bool = False
    is_active: bool = True
    parameters: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TagRow:
    """One row of ``tag_mappings``; ``parameters`` as text by column."""

    tag_id: UUID
    tenant_id: UUID
    connection_id: UUID
    well_id: UUID
    node_id: str
    data_type: str | None
    name: str | None
    unit: str | None
    scaling_factor: float | None
    deadband: float | None
    parameters: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MasterRows:
    """What should run, of one snapshot: all tenants, and the connections that the caller did not know, with their tags.

    ``digests`` has an entry for each connection that should run, by its id as it is stored: as long as it stays the
    same, so do the rows of the connection and its tags. One that has a row which cannot be taken for what it is has no
    entry, so that it is read each time; ``problems`` names these rows.
    """

    tenants: tuple[TenantRow, ...]
    connections: tuple[ConnectionRow, ...]
    tags: tuple[TagRow, ...]
    problems: tuple[str, ...] = ()
    digests: Mapping[str, bytes] = field(default_factory=dict)


# --- reading


def check_schema(connection: Connection) -> None:
    """Raises `DatabaseMisconfigured` naming the table or column that is missing."""
    for table, required in _REQUIRED.items():
        columns = columns_of(connection, table)
        if not columns:
            raise DatabaseMisconfigured(f"table {table} does not exist: not migrated, run scada-trio migrate", "42P01")
        missing = [column for column in required if column not in columns]
        if missing:
            raise DatabaseMisconfigured(f"table {table} has no column {', '.join(missing)}", "42703")


def load(connection: Connection, known: Mapping[str, bytes]) -> MasterRows:
    """The rows that should run, tenants by name, without the connections whose digest is in ``known``."""
    problems: list[str] = []
    spoiled: set[str] = set()
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        tenants = _select(connection, _TENANTS, _tenant, "tenants", problems, {"stopped": list(STOPPED)})
        connections_query = _CONNECTIONS.format(optional=_optional(connection, "scada_connections"))
        tags_query = _TAGS.format(optional=_optional(connection, "tag_mappings"))
        query = _DIGESTS.format(connections=connections_query, tags=tags_query)
        digests: dict[str, bytes] = dict(connection.execute(query).fetchall())
        wanted = {"ids": [row_id for row_id, digest in digests.items() if known.get(row_id) != digest]}
        connections: tuple[ConnectionRow, ...] = ()
        tags: tuple[TagRow, ...] = ()
        if wanted["ids"]:
            query = connections_query + _OF_CONNECTIONS
            connections = _select(connection, query, _connection, "scada_connections", problems, wanted, spoiled)
            query = tags_query + _OF_TAGS
            tags = _select(connection, query, partial(_tag, wells={}), "tag_mappings", problems, wanted, spoiled)
    for row_id in spoiled:
        del digests[row_id]
    return MasterRows(tenants, connections, tags, tuple(problems), digests)


def list_tenants(connection: Connection) -> tuple[TenantRow, ...]:
    """Every tenant that is not soft-deleted, by name, whatever its status."""
    return _select(connection, _TENANTS, _tenant, "tenants", [], {"stopped": []})


def list_connections(connection: Connection, tenant_id: UUID) -> tuple[ConnectionRow, ...]:
    """Every connection of a tenant, active or not, by name."""
    query = _ALL_CONNECTIONS.format(optional=_optional(connection, "scada_connections"))
    return _select(connection, query, _connection, "scada_connections", [], {"tenant": str(tenant_id)})


def list_tags(connection: Connection, tenant_id: UUID) -> tuple[TagRow, ...]:
    """Every tag of a tenant's connections, active or not."""
    query = _ALL_TAGS.format(optional=_optional(connection, "tag_mappings"))
    return _select(connection, query, partial(_tag, wells={}), "tag_mappings", [], {"tenant": str(tenant_id)})


_TENANTS: Final = sql.SQL(
    """
    SELECT t.id::text, t.name::text, t.database_url::text, coalesce(t.status::text, '') AS status,
        (SELECT count(*) FROM scada_connections c WHERE c.tenant_id::text = t.id::text AND c.is_active) AS connections
    FROM tenants t
    WHERE t.deleted_at IS NULL AND upper(coalesce(t.status::text, '')) <> ALL (%(stopped)s)
    ORDER BY t.name, t.id"""
)
_CONNECTION_COLUMNS: Final = """
    SELECT id::text, tenant_id::text, name::text, endpoint_url::text, security_mode::text, security_policy::text,
        username::text, password::text, is_active, {optional}
    FROM scada_connections m"""
_CONNECTIONS: Final = sql.SQL(_CONNECTION_COLUMNS + " WHERE is_active")
_OF_CONNECTIONS: Final = sql.SQL(" AND id::text = ANY (%(ids)s) ORDER BY id")
_ALL_CONNECTIONS: Final = sql.SQL(_CONNECTION_COLUMNS + " WHERE tenant_id::text = %(tenant)s ORDER BY name, id")
_TAG_COLUMNS: Final = """
    SELECT m.id::text, m.tenant_id::text, m.connection_id::text, m.well_id::text, m.opc_node_id::text,
        m.data_type::text, m.tag_name::text, m.unit::text, m.scaling_factor::float8, m.deadband::float8,
        {optional}
    FROM tag_mappings m JOIN scada_connections c
        ON c.id::text = m.connection_id::text AND c.tenant_id::text = m.tenant_id::text
    WHERE m.deleted_at IS NULL AND """
_TAGS: Final = sql.SQL(_TAG_COLUMNS + "c.is_active")
_OF_TAGS: Final = sql.SQL(" AND m.connection_id::text = ANY (%(ids)s) ORDER BY m.id")
_ALL_TAGS: Final = sql.SQL(_TAG_COLUMNS + "m.tenant_id::text = %(tenant)s ORDER BY m.id")
# The two queries above, so that it covers what they read and nothing else. md5 is no choice: FIPS forbids it.
_DIGESTS: Final = sql.SQL(
    """
    WITH connections AS ({connections}), tags AS ({tags}), tags_of AS (
        SELECT connection_id, string_agg(tags::text, '' ORDER BY tags::text) AS rows FROM tags GROUP BY connection_id)
    SELECT c.id, sha256(convert_to(
        string_agg(c::text, '' ORDER BY c::text) || coalesce(min(tags_of.rows), ''), getdatabaseencoding()))
    FROM connections c LEFT JOIN tags_of ON tags_of.connection_id = c.id
    GROUP BY c.id"""
)


def _tenant(row: Row) -> TenantRow:
    return TenantRow(
        UUID(row["id"]), row["name"] or "", row["status"], row["database_url"] or "", connections=row["connections"]
    )


def _connection(row: Row) -> ConnectionRow:
    return ConnectionRow(
        connection_id=UUID(row["id"]),
        tenant_id=UUID(row["tenant_id"]),
        name=row["name"],
        endpoint_url=row["endpoint_url"] or "",
        security_mode=row["security_mode"],
        security_policy=row["security_policy"],
        username=row["username"],
        password=row["password"],
        allow_plaintext_password=row[PLAINTEXT] in ("true", "t"),
        is_active=bool(row["is_active"]),
        parameters={column: row[column] for column in PARAMETERS["scada_connections"]},
    )


def _tag(row: Row, wells: dict[str, UUID]) -> TagRow:
    """Of ten thousand tags few have words of their own; what is the same is kept once."""
    well = row["well_id"]
    if well not in wells:
        wells[well] = UUID(well)
    return TagRow(
        tag_id=UUID(row["id"]),
        tenant_id=UUID(row["tenant_id"]),
        connection_id=UUID(row["connection_id"]),
        well_id=wells[well],
        node_id=sys.intern(row["opc_node_id"] or ""),
        data_type=_once(row["data_type"]),
        name=_once(row["tag_name"]),
        unit=_once(row["unit"]),
        scaling_factor=row["scaling_factor"],
        deadband=row["deadband"],
        parameters={column: row[column] for column in PARAMETERS["tag_mappings"]},
    )


def _once(text: str | None) -> str | None:
    return None if text is None else sys.intern(text)


def _select(
    connection: Connection,
    query: sql.SQL | sql.Composed,
    make: Callable[[Row], R],
    table: str,
    problems: list[str],
    values: Row | None = None,
    spoiled: set[str] | None = None,
) -> tuple[R, ...]:
    """Rows made by ``make``; one with an id that is no UUID is left out and named in ``problems``.

    ``spoiled`` gets the connection of such a row, a connection itself or one of its tags.
    """
    made = []
    with connection.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(query, values):
            try:
                made.append(make(row))
            except (ValueError, TypeError, AttributeError):
                problems.append(f"{table}: the row with id {str(row['id'])[:64]!r} has an id that is not a UUID")
                if spoiled is not None:
                    spoiled.add(row["connection_id"] if "connection_id" in row else row["id"])
    return tuple(made)


def columns_of(connection: Connection, table: str) -> dict[str, bool]:
    """The columns of a table on the search path, and whether each has to be given at an insert; none: no table."""
    rows = connection.execute(
        """
        SELECT attname, attnotnull AND NOT atthasdef AND attidentity = '' FROM pg_attribute
        WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped""",
        [table],
    )
    return dict(rows.fetchall())


def _optional(connection: Connection, table: str) -> sql.Composable:
    """The optional columns of table ``m`` as text, null where it has none such."""
    there = columns_of(connection, table)
    return sql.SQL(", ").join(
        sql.SQL("m.{0}::text AS {0}" if column in there else "NULL::text AS {0}").format(sql.Identifier(column))
        for column in _OPTIONAL[table]
    )
