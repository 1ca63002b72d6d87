"""The SQL that changes the master database's tables, in a worker thread.

Owns what a change leaves as it is, and that nothing is stored halfway or without its entry in the audit log. Starts
nothing; `scada_trio.storage.master` calls it with an open connection. Columns that a table does not have are not
written, see `configuration`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from psycopg import errors, sql

from scada_trio.audit import Actor
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import ConfigurationRefused, IdTaken, UnknownTenant
from scada_trio.readings import Tag
from scada_trio.sampling import Sampling
from scada_trio.storage.audit import Scope, audited
from scada_trio.storage.configuration import CHANNEL, PLAINTEXT, STOPPED, columns_of
from scada_trio.storage.connect import Connection

Row = Mapping[str, object]

_ROWS_A_STATEMENT: Final = 1000  # a statement takes 65,535 parameters
_LOCK: Final = 0x5CADB  # advisory lock of whoever changes the configuration


def add_tenant(
    connection: Connection, tenant_id: UUID, name: str, database_url: str, actor: Actor | None = None
) -> None:
    """Insert an active tenant; `ConfigurationRefused` where the name is taken."""
    with changing(connection, actor, "add tenant", _of("tenants", tenant_id)):
        taken = connection.execute("SELECT FROM tenants WHERE name = %s AND deleted_at IS NULL", [name]).fetchone()
        if taken is not None:
            raise ConfigurationRefused(f"a tenant named {name!r} exists already")
        row = {"id": str(tenant_id), "name": name, "database_url": database_url, "status": "ACTIVE"}
        _insert(connection, "tenants", [row])


def set_database_url(connection: Connection, tenant_id: UUID, database_url: str, actor: Actor | None = None) -> None:
    """Store where a tenant's database is now."""
    with changing(connection, actor, "move tenant database", _of("tenants", tenant_id)):
        connection.execute("UPDATE tenants SET database_url = %s WHERE id::text = %s", [database_url, str(tenant_id)])


def store_connection(
    connection: Connection, spec: ConnectionSpec, password: str | None, actor: Actor | None = None
) -> None:
    """See `scada_trio.storage.master.MasterDatabase.store_connection`."""
    scope = connection_and_tags(spec.connection_id, [tag.tag_id for tag in spec.tags])
    with changing(connection, actor, "store connection", scope):
        _require_tenant(connection, spec.tenant_id)
        _store_connection_row(connection, spec, password)
        store_tags(connection, spec, spec.tags)
        connection.execute(
            """
            UPDATE tag_mappings SET deleted_at = now()
            WHERE connection_id = %s AND deleted_at IS NULL AND id::text <> ALL (%s)""",
            [str(spec.connection_id), [str(tag.tag_id) for tag in spec.tags]],
        )


def deactivate_connection(
    connection: Connection, connection_id: UUID, tenants: Collection[UUID] | None = None, actor: Actor | None = None
) -> bool:
    """False where no connection, of these tenants if given, ever had that id."""
    query = "UPDATE scada_connections SET is_active = false WHERE id::text = %s"
    values: list[object] = [str(connection_id)]
    if tenants is not None:
        query += " AND tenant_id::text = ANY (%s)"
        values.append([str(tenant_id) for tenant_id in tenants])
    with changing(connection, actor, "remove connection", _of("scada_connections", connection_id)):
        return connection.execute(query.encode(), values).rowcount > 0


@contextmanager
def changing(connection: Connection, actor: Actor | None, action: str, scope: Scope) -> Iterator[None]:
    """A change: one at a time, in a transaction with its entries in the audit log, and told to the listeners."""
    with connection.transaction():
        lock(connection)
        with audited(connection, actor, action, scope):
            yield
        notify(connection)


def connection_and_tags(connection_id: UUID, tag_ids: Iterable[UUID]) -> Scope:
    """The rows of a connection, of its tags, and of those that become its tags."""
    ids = [str(tag_id) for tag_id in tag_ids]
    tags = ("t.connection_id::text = %s OR t.id::text = ANY (%s)", (str(connection_id), ids))
    return {**_of("scada_connections", connection_id), "tag_mappings": tags}


def _of(table: str, row_id: UUID) -> Scope:
    return {table: ("t.id::text = %s", (str(row_id),))}


def _require_tenant(connection: Connection, tenant_id: UUID) -> None:
    row = connection.execute(
        "SELECT upper(coalesce(status::text, '')) FROM tenants WHERE id::text = %s AND deleted_at IS NULL",
        [str(tenant_id)],
    ).fetchone()
    if row is None:
        raise UnknownTenant(f"tenant {tenant_id} does not exist")
    if row[0] in STOPPED:
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
    if PLAINTEXT in columns_of(connection, "scada_connections"):
        values[PLAINTEXT] = spec.allow_plaintext_password
    values |= _told(
        name=spec.name or None, publishing_interval_ms=spec.publishing_interval_ms, **_sampling(spec.sampling)
    )
    owner = _owner_of_connection(connection, spec.connection_id)
    if owner is None:
        fixed = {"id": str(spec.connection_id), "tenant_id": str(spec.tenant_id), "name": spec.endpoint_url}
        _insert(connection, "scada_connections", [{**fixed, **values}])
    elif owner != str(spec.tenant_id):
        raise IdTaken(f"connection {spec.connection_id} belongs to another tenant")
    else:
        _update(connection, "scada_connections", [{"id": str(spec.connection_id), **values}])


def store_tags(connection: Connection, spec: ConnectionSpec, tags: Iterable[Tag]) -> None:
    """Insert or update, in a few statements however many tags there are.

    What the request does not say of a tag that is there already (name, unit, scaling, parameters) stays as it is.
    """
    wanted = list(tags)
    owners = _owners_of_tags(connection, wanted)
    columns = columns_of(connection, "tag_mappings")
    inserts: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    updates: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for tag in wanted:
        owner = owners.setdefault(str(tag.tag_id))
        if owner is None:
            row = _new_tag(spec, tag)
            inserts[tuple(row)].append(row)
            owners[str(tag.tag_id)] = str(spec.tenant_id)
        elif owner != str(spec.tenant_id):
            raise IdTaken(f"tag {tag.tag_id} belongs to another tenant")
        else:
            row = _changed_tag(spec, tag, columns)
            updates[tuple(row)].append(row)
    for rows in inserts.values():
        for start in range(0, len(rows), _ROWS_A_STATEMENT):
            _insert(connection, "tag_mappings", rows[start : start + _ROWS_A_STATEMENT])
    for rows in updates.values():
        _update(connection, "tag_mappings", rows)


def _owners_of_tags(connection: Connection, tags: Iterable[Tag]) -> dict[str, str | None]:
    """The tenant of each tag that is there, by id. Compared in the column's own type, by its index."""
    row = connection.execute(
        """
        SELECT format_type(atttypid, NULL) FROM pg_attribute
        WHERE attrelid = to_regclass('tag_mappings') AND attname = 'id'"""
    ).fetchone()
    query = sql.SQL("SELECT id::text, tenant_id::text FROM tag_mappings WHERE id = ANY (%s::text[]::{}[])")
    with _refused("tag_mappings"):
        found = connection.execute(
            query.format(sql.SQL("text" if row is None else row[0])), [[str(tag.tag_id) for tag in tags]]
        )
    return dict(found.fetchall())


def _new_tag(spec: ConnectionSpec, tag: Tag) -> Row:
    defaults = {
        "id": str(tag.tag_id),
        "tenant_id": str(spec.tenant_id),
        "tag_name": tag.node_id,
        "scaling_factor": tag.factor,
    }
    return {**_link_of(spec, tag), **defaults, **_told_of(tag)}


def _changed_tag(spec: ConnectionSpec, tag: Tag, columns: Container[str]) -> Row:
    row = _link_of(spec, tag)
    if tag.deadband and "deadband_percent" in columns:
        row["deadband_percent"] = None
    if tag.deadband_percent:
        row["deadband"] = None
    return {"id": str(tag.tag_id), **row, **_told_of(tag), "deleted_at": None}


def _link_of(spec: ConnectionSpec, tag: Tag) -> dict[str, object]:
    return {
        "connection_id": str(spec.connection_id),
        "well_id": str(tag.well_id),
        "opc_node_id": tag.node_id,
        "data_type": tag.data_type,
    }


def _told_of(tag: Tag) -> dict[str, object]:
    return _told(
        tag_name=tag.name or None,
        unit=tag.unit,
        scaling_factor=tag.scaling_factor,
        deadband=tag.deadband,
        deadband_percent=tag.deadband_percent,
        **_sampling(tag.sampling),
    )


def _told(**values: object) -> dict[str, object]:
    """What a request says."""
    return {column: value for column, value in values.items() if value is not None}


def _sampling(sampling: Sampling) -> dict[str, object]:
    return {
        "sampling_interval_ms": sampling.interval_ms,
        "queue_size": sampling.queue_size,
        "discard_oldest": sampling.discard_oldest,
    }


def _owner_of_connection(connection: Connection, connection_id: UUID) -> str | None:
    query = "SELECT tenant_id::text FROM scada_connections WHERE id::text = %s"
    row = connection.execute(query, [str(connection_id)]).fetchone()
    return None if row is None else str(row[0])


def _insert(connection: Connection, table: str, rows: Sequence[Row]) -> None:
    """Insert rows of the same columns; times that the table wants and has no default for are now, as an ORM's are."""
    columns = columns_of(connection, table)
    values = rows[0]
    _require_columns(table, columns, values)
    wanted = [column for column, needed in columns.items() if needed and column not in values]
    now = [column for column in wanted if column.lower().replace("_", "") in ("createdat", "updatedat")]
    fields = [*[sql.Placeholder()] * len(values), *[sql.SQL("now()")] * len(now)]
    one = sql.SQL("({})").format(sql.SQL(", ").join(fields))
    query = sql.SQL("INSERT INTO {} ({}) VALUES {}").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, [*values, *now])),
        sql.SQL(", ").join([one] * len(rows)),
    )
    with _refused(table):
        connection.execute(query, [value for row in rows for value in row.values()])


def _update(connection: Connection, table: str, rows: Sequence[Row]) -> None:
    """Update rows of the same columns by their ``id``, on one way to the server and back."""
    changed = [column for column in rows[0] if column != "id"]
    _require_columns(table, columns_of(connection, table), changed)
    query = sql.SQL("UPDATE {} SET {} WHERE id = {}").format(
        sql.Identifier(table),
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(column), sql.Placeholder(column)) for column in changed
        ),
        sql.Placeholder("id"),
    )
    with _refused(table), connection.cursor() as cursor:
        cursor.executemany(query, rows)


def _require_columns(table: str, columns: Container[str], values: Iterable[str]) -> None:
    """A parameter that cannot be kept is refused: half of it would be another one."""
    missing = [column for column in values if column not in columns]
    if missing:
        raise ConfigurationRefused(f"{table} has no column {', '.join(missing)}: this cannot be stored")


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
