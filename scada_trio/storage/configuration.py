"""The master database's tables as rows, and the SQL that reads and changes them, in a worker thread.

Owns the tolerance for tables that another application made: columns are read by name, optional ones where they exist,
ids as text. Starts nothing; `scada_trio.storage.master` calls it with an open connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import UUID

from psycopg import errors, sql
from psycopg.rows import dict_row

from scada_trio.desired import ConnectionSpec
from scada_trio.errors import ConfigurationRefused, DatabaseMisconfigured, UnknownTenant
from scada_trio.readings import Tag
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
_PLAINTEXT: Final = "allow_plaintext_password"  # optional, of scada_connections
_STOPPED: Final = ("SUSPENDED", "DELETED")
_LOCK: Final = 0x5CADB  # advisory lock of whoever changes the configuration


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
    """One row of ``scada_connections``; ``password`` as it is stored."""

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


@dataclass(frozen=True, slots=True)
class TagRow:
    """One row of ``tag_mappings``."""

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


@dataclass(frozen=True, slots=True)
class MasterRows:
    """All that should run, of one snapshot; ``problems`` names the rows that cannot be taken for what they are."""

    tenants: tuple[TenantRow, ...]
    connections: tuple[ConnectionRow, ...]
    tags: tuple[TagRow, ...]
    problems: tuple[str, ...] = ()


# --- reading


def check_schema(connection: Connection) -> None:
    """Raises `DatabaseMisconfigured` naming the table or column that is missing."""
    for table, required in _REQUIRED.items():
        columns = _columns(connection, table)
        if not columns:
            raise DatabaseMisconfigured(f"table {table} does not exist: not migrated, run scada-trio migrate", "42P01")
        missing = [column for column in required if column not in columns]
        if missing:
            raise DatabaseMisconfigured(f"table {table} has no column {', '.join(missing)}", "42703")


def load(connection: Connection) -> MasterRows:
    """The rows that should run, tenants by name; see `MasterRows`."""
    problems: list[str] = []
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        tenants = _select(connection, _TENANTS, _tenant, "tenants", problems, {"stopped": list(_STOPPED)})
        query = _CONNECTIONS.format(plaintext=_plaintext_column(connection))
        connections = _select(connection, query, _connection, "scada_connections", problems)
        tags = _select(connection, _TAGS, _tag, "tag_mappings", problems)
    return MasterRows(tenants, connections, tags, tuple(problems))


def list_tenants(connection: Connection) -> tuple[TenantRow, ...]:
    """Every tenant that is not soft-deleted, by name, whatever its status."""
    return _select(connection, _TENANTS, _tenant, "tenants", [], {"stopped": []})


def list_connections(connection: Connection, tenant_id: UUID) -> tuple[ConnectionRow, ...]:
    """Every connection of a tenant, active or not, by name."""
    query = _ALL_CONNECTIONS.format(plaintext=_plaintext_column(connection))
    return _select(connection, query, _connection, "scada_connections", [], {"tenant": str(tenant_id)})


def list_tags(connection: Connection, tenant_id: UUID) -> tuple[TagRow, ...]:
    """Every tag of a tenant's connections, active or not."""
    return _select(connection, _ALL_TAGS, _tag, "tag_mappings", [], {"tenant": str(tenant_id)})


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
        username::text, password::text, {plaintext} AS allow_plaintext_password, is_active
    FROM scada_connections"""
_CONNECTIONS: Final = sql.SQL(_CONNECTION_COLUMNS + " WHERE is_active ORDER BY id")
_ALL_CONNECTIONS: Final = sql.SQL(_CONNECTION_COLUMNS + " WHERE tenant_id::text = %(tenant)s ORDER BY name, id")
_TAG_COLUMNS: Final = """
    SELECT m.id::text, m.tenant_id::text, m.connection_id::text, m.well_id::text, m.opc_node_id::text,
        m.data_type::text, m.tag_name::text, m.unit::text, m.scaling_factor::float8, m.deadband::float8
    FROM tag_mappings m JOIN scada_connections c
        ON c.id::text = m.connection_id::text AND c.tenant_id::text = m.tenant_id::text
    WHERE m.deleted_at IS NULL AND """
_TAGS: Final = sql.SQL(_TAG_COLUMNS + "c.is_active ORDER BY m.id")
_ALL_TAGS: Final = sql.SQL(_TAG_COLUMNS + "m.tenant_id::text = %(tenant)s ORDER BY m.id")


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
        allow_plaintext_password=bool(row[_PLAINTEXT]),
        is_active=bool(row["is_active"]),
    )


def _tag(row: Row) -> TagRow:
    return TagRow(
        tag_id=UUID(row["id"]),
        tenant_id=UUID(row["tenant_id"]),
        connection_id=UUID(row["connection_id"]),
        well_id=UUID(row["well_id"]),
        node_id=row["opc_node_id"] or "",
        data_type=row["data_type"],
        name=row["tag_name"],
        unit=row["unit"],
        scaling_factor=row["scaling_factor"],
        deadband=row["deadband"],
    )


def _select(
    connection: Connection,
    query: sql.SQL | sql.Composed,
    make: Callable[[Row], R],
    table: str,
    problems: list[str],
    values: Row | None = None,
) -> tuple[R, ...]:
    """Rows made by ``make``; one with an id that is no UUID is left out and named in ``problems``."""
    made = []
    with connection.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(query, values):
            try:
                made.append(make(row))
            except (ValueError, TypeError, AttributeError):
                problems.append(f"{table}: the row with id {str(row['id'])[:64]!r} has an id that is not a UUID")
    return tuple(made)


def _columns(connection: Connection, table: str) -> dict[str, bool]:
    """The columns of a table on the search path, and whether each has to be given at an insert; none: no table."""
    rows = connection.execute(
        """
        SELECT attname, attnotnull AND NOT atthasdef AND attidentity = '' FROM pg_attribute
        WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped""",
        [table],
    )
    return dict(rows.fetchall())


def _plaintext_column(connection: Connection) -> sql.Composable:
    there = _PLAINTEXT in _columns(connection, "scada_connections")
    return sql.Identifier(_PLAINTEXT) if there else sql.SQL("false")


# --- changing


def add_tenant(connection: Connection, tenant_id: UUID, name: str, database_url: str) -> None:
    """Insert an active tenant; `ConfigurationRefused` where the name is taken."""
    with connection.transaction():
        lock(connection)
        taken = connection.execute("SELECT FROM tenants WHERE name = %s AND deleted_at IS NULL", [name]).fetchone()
        if taken is not None:
            raise ConfigurationRefused(f"a tenant named {name!r} exists already")
        row = {"id": str(tenant_id), "name": name, "database_url": database_url, "status": "ACTIVE"}
        _insert(connection, "tenants", row)
        notify(connection)


def set_database_url(connection: Connection, tenant_id: UUID, database_url: str) -> None:
    """Store where a tenant's database is now."""
    with connection.transaction():
        lock(connection)
        connection.execute("UPDATE tenants SET database_url = %s WHERE id::text = %s", [database_url, str(tenant_id)])
        notify(connection)


def store_connection(connection: Connection, spec: ConnectionSpec, password: str | None) -> None:
    """See `scada_trio.storage.master.MasterDatabase.store_connection`."""
    with connection.transaction():
        lock(connection)
        _require_tenant(connection, spec.tenant_id)
        _store_connection_row(connection, spec, password)
        for tag in spec.tags:
            store_tag(connection, spec, tag)
        connection.execute(
            """
            UPDATE tag_mappings SET deleted_at = now()
            WHERE connection_id::text = %s AND deleted_at IS NULL AND id::text <> ALL (%s)""",
            [str(spec.connection_id), [str(tag.tag_id) for tag in spec.tags]],
        )
        notify(connection)


def deactivate_connection(connection: Connection, connection_id: UUID) -> bool:
    """False where no connection ever had that id."""
    with connection.transaction():
        lock(connection)
        query = "UPDATE scada_connections SET is_active = false WHERE id::text = %s"
        known = connection.execute(query, [str(connection_id)]).rowcount > 0
        notify(connection)
    return known


def _require_tenant(connection: Connection, tenant_id: UUID) -> None:
    row = connection.execute(
        "SELECT upper(coalesce(status::text, '')) FROM tenants WHERE id::text = %s AND deleted_at IS NULL",
        [str(tenant_id)],
    ).fetchone()
    if row is None:
        raise UnknownTenant(f"tenant {tenant_id} does not exist")
    if row[0] in _STOPPED:
        raise UnknownTenant(f"tenant {tenant_id} is {row[0].lower()}")


def _store_connection_row(connection: Connection, spec: ConnectionSpec, password: str | None) -> None:
    values: dict[str, object] = {
        "endpoint_url": spec.endpoint_url,
        "security_mode": str(spec.security_mode),
        "security_policy": spec.security_policy,
        "username": spec.username,
        "password": password,
        "is_active": True,
    }
    if _PLAINTEXT in _columns(connection, "scada_connections"):
        values[_PLAINTEXT] = spec.allow_plaintext_password
    if spec.name:
        values["name"] = spec.name
    owner = _owner(connection, "scada_connections", spec.connection_id)
    if owner is None:
        fixed = {"id": str(spec.connection_id), "tenant_id": str(spec.tenant_id), "name": spec.endpoint_url}
        _insert(connection, "scada_connections", {**fixed, **values})
    elif owner != str(spec.tenant_id):
        raise ConfigurationRefused(f"connection {spec.connection_id} belongs to another tenant")
    else:
        _update(connection, "scada_connections", spec.connection_id, values)


def store_tag(connection: Connection, spec: ConnectionSpec, tag: Tag) -> None:
    """What the request does not say of a tag that is there already (name, unit, scaling) stays as it is."""
    values: dict[str, object] = {
        "connection_id": str(spec.connection_id),
        "well_id": str(tag.well_id),
        "opc_node_id": tag.node_id,
        "data_type": tag.data_type,
    }
    owner = _owner(connection, "tag_mappings", tag.tag_id)
    if owner is None:
        rest = {
            "id": str(tag.tag_id),
            "tenant_id": str(spec.tenant_id),
            "tag_name": tag.name or tag.node_id,
            "unit": tag.unit,
            "scaling_factor": tag.scaling_factor,
            "deadband": tag.deadband,
        }
        _insert(connection, "tag_mappings", {**values, **rest})
    elif owner != str(spec.tenant_id):
        raise ConfigurationRefused(f"tag {tag.tag_id} belongs to another tenant")
    else:
        told = {"tag_name": tag.name or None, "unit": tag.unit, "deadband": tag.deadband}
        values |= {column: value for column, value in told.items() if value is not None}
        if tag.scaling_factor != 1.0:
            values["scaling_factor"] = tag.scaling_factor
        _update(connection, "tag_mappings", tag.tag_id, {**values, "deleted_at": None})


def _owner(connection: Connection, table: str, row_id: UUID) -> str | None:
    query = sql.SQL("SELECT tenant_id::text FROM {} WHERE id::text = %s").format(sql.Identifier(table))
    row = connection.execute(query, [str(row_id)]).fetchone()
    return None if row is None else str(row[0])


def _insert(connection: Connection, table: str, values: Mapping[str, object]) -> None:
    """Insert; times that the table wants and has no default for are now, as an ORM's own columns are."""
    wanted = [column for column, needed in _columns(connection, table).items() if needed and column not in values]
    now = [column for column in wanted if column.lower().replace("_", "") in ("createdat", "updatedat")]
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, [*values, *now])),
        sql.SQL(", ").join([*[sql.Placeholder()] * len(values), *[sql.SQL("now()")] * len(now)]),
    )
    with _refused(table):
        connection.execute(query, list(values.values()))


def _update(connection: Connection, table: str, row_id: UUID, values: Mapping[str, object]) -> None:
    query = sql.SQL("UPDATE {} SET {} WHERE id::text = %s").format(
        sql.Identifier(table),
        sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(column)) for column in values),
    )
    with _refused(table):
        connection.execute(query, [*values.values(), str(row_id)])


@contextmanager
def _refused(table: str) -> Iterator[None]:
    """What the table does not take is the request's fault: a rule of whoever made the table."""
    try:
        yield
    except (errors.IntegrityError, errors.DataError) as error:
        raise ConfigurationRefused(f"{table}: {error.diag.message_primary}") from error


def lock(connection: Connection) -> None:
    """One change of the configuration at a time, so that looking first and inserting then is safe."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])


def notify(connection: Connection) -> None:
    """Tell the listeners, when the transaction commits."""
    connection.execute("SELECT pg_notify(%s, '')", [CHANNEL])
