"""The master database as we made it, as another application made it, and when it goes away."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Self
from uuid import UUID, uuid4

import psycopg
import pytest
import trio
from pydantic import SecretStr

from scada_trio.desired import ConnectionSpec, SecurityMode
from scada_trio.errors import ConfigurationRefused, DatabaseMisconfigured, DatabaseUnavailable, UnknownTenant
from scada_trio.readings import Tag
from scada_trio.registry import build_specs
from scada_trio.sampling import Sampling
from scada_trio.secrets import SecretBox
from scada_trio.storage import changes
from scada_trio.storage.connect import connect
from scada_trio.storage.master import MasterDatabase, open_master
from scada_trio.storage.migrate import migrate_master
from tests.fix_postgres import PostgresServer, fetch
from tests.storage_samples import OTHER_WELL, WELL

TENANT = UUID("11111111-1111-4111-8111-111111111111")
OTHER_TENANT = UUID("11111111-1111-4111-8111-222222222222")
CONNECTION = UUID("44444444-4444-4444-8444-444444444444")
SECRET_URL = "0123:4567:89ab"

# What an ORM might have made: enums, varchar ids, columns of its own without a default, no scada trigger.
FOREIGN = """
    CREATE TYPE tenant_status AS ENUM ('ACTIVE', 'TRIAL', 'SUSPENDED', 'DELETED');
    CREATE TYPE mode AS ENUM ('None', 'Sign', 'SignAndEncrypt');
    CREATE TABLE tenants (id varchar(36) PRIMARY KEY, name varchar(100) NOT NULL, slug text, database_url text NOT NULL,
        status tenant_status NOT NULL DEFAULT 'TRIAL', deleted_at timestamp, "createdAt" timestamp NOT NULL,
        "updatedAt" timestamp NOT NULL);
    CREATE TABLE scada_connections (id uuid PRIMARY KEY, tenant_id varchar(36) NOT NULL, name text NOT NULL,
        endpoint_url varchar(500) NOT NULL, security_mode mode NOT NULL, security_policy text NOT NULL, username text,
        password text, is_active boolean NOT NULL DEFAULT true, created_at timestamp NOT NULL, region text);
    CREATE TABLE tag_mappings (id uuid PRIMARY KEY, tenant_id varchar(36), connection_id uuid NOT NULL, well_id uuid,
        tag_name text NOT NULL, opc_node_id text NOT NULL CHECK (opc_node_id <> ''), data_type text, unit text,
        scaling_factor numeric DEFAULT 1, deadband numeric, deleted_at timestamp, alarm_high float8)"""


def _open(url: SecretStr) -> MasterDatabase:
    return MasterDatabase(url, connect_timeout_s=5, statement_timeout_s=30)


def _spec(
    *tags: Tag, connection_id: UUID = CONNECTION, tenant_id: UUID = TENANT, name: str = "pad 7"
) -> ConnectionSpec:
    return ConnectionSpec(
        connection_id,
        tenant_id,
        name,
        "opc.tcp://device:4840",
        SecurityMode.SIGN,
        "Basic256Sha256",
        username="operator",
        tags=tags,
    )


def _tag(node_id: str = "ns=2;s=P", **changes: object) -> Tag:
    values: dict[str, object] = {"tag_id": uuid4(), "well_id": WELL, "node_id": node_id, "data_type": "Double"}
    return Tag(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
async def master(master_url: SecretStr) -> MasterDatabase:
    database = _open(master_url)
    await database.add_tenant(TENANT, "acme", SECRET_URL)
    return database


@pytest.fixture
def foreign_url(postgres: PostgresServer) -> SecretStr:
    """A master database whose tables another application made."""
    url = postgres.create_database()
    fetch(url, FOREIGN)
    migrate_master(url)
    return url


async def test_what_is_stored_is_loaded(master: MasterDatabase) -> None:
    """Tenant, connection and tags come back as they were given, secrets as they are stored."""
    tag = _tag(name="casing pressure", unit="kPa", scaling_factor=0.1, deadband=0.5)
    await master.check_schema()
    await master.store_connection(_spec(tag), "encrypted")
    rows = await master.load()
    (tenant,), (connection,), (stored,) = rows.tenants, rows.connections, rows.tags
    assert (tenant.tenant_id, tenant.name, tenant.database_url, tenant.connections) == (TENANT, "acme", SECRET_URL, 1)
    assert (connection.connection_id, connection.tenant_id, connection.name) == (CONNECTION, TENANT, "pad 7")
    assert (connection.security_mode, connection.security_policy) == ("Sign", "Basic256Sha256")
    assert (connection.username, connection.password, connection.allow_plaintext_password) == (
        "operator",
        "encrypted",
        False,
    )
    assert (stored.tag_id, stored.well_id, stored.node_id, stored.data_type) == (tag.tag_id, WELL, "ns=2;s=P", "Double")
    assert (stored.name, stored.unit, stored.scaling_factor, stored.deadband) == ("casing pressure", "kPa", 0.1, 0.5)
    assert rows.problems == ()
    assert SECRET_URL not in repr(rows)
    assert "encrypted" not in repr(rows)
    master.close()


async def test_tables_of_another_application(foreign_url: SecretStr) -> None:
    """Enums, text ids, missing and additional columns: read, written, and left as they are."""
    async with open_master(foreign_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        await master.check_schema()
        await master.add_tenant(TENANT, "acme", SECRET_URL)
        await master.store_connection(_spec(_tag(scaling_factor=0.1, deadband=2.0)), None)
        rows = await master.load()
        assert [row.tenant_id for row in rows.tenants] == [TENANT]
        assert [row.security_mode for row in rows.connections] == ["Sign"]
        assert [(row.scaling_factor, row.deadband) for row in rows.tags] == [(0.1, 2.0)]
        with pytest.raises(ConfigurationRefused, match="tag_mappings"):
            await master.store_connection(_spec(_tag(node_id="")), None)
        assert len((await master.load()).tags) == 1


async def test_parameters_are_stored_and_read_as_text(master: MasterDatabase) -> None:
    """Of connection and tag; what is not said again stays, and one kind of deadband takes the place of the other."""
    tag = _tag(deadband_percent=2.5, sampling=Sampling(250.0, 20, discard_oldest=False))
    spec = replace(_spec(tag), publishing_interval_ms=500.0, sampling=Sampling(0.0, 1, discard_oldest=True))
    await master.store_connection(spec, None)
    connection = {"publishing_interval_ms": "500", "sampling_interval_ms": "0", "queue_size": "1"}
    item = {"sampling_interval_ms": "250", "queue_size": "20", "discard_oldest": "false"}
    for again in (_spec(replace(tag, deadband_percent=None, sampling=Sampling())), _spec(tag)):
        rows = await master.load()
        assert rows.connections[0].parameters == {**connection, "discard_oldest": "true"}
        assert rows.tags[0].parameters == {**item, "deadband_percent": "2.5"}
        await master.store_connection(again, None)
    bare = replace(tag, deadband_percent=None, sampling=Sampling())
    await master.store_connection(_spec(replace(bare, deadband=0.5)), None)
    (row,) = (await master.load()).tags
    assert (row.deadband, row.parameters["deadband_percent"]) == (0.5, None)
    await master.store_connection(_spec(replace(bare, deadband_percent=1.0)), None)
    (row,) = (await master.load()).tags
    assert (row.deadband, row.parameters["deadband_percent"]) == (None, "1")
    master.close()


async def test_a_scaling_factor_of_one_is_one(master: MasterDatabase) -> None:
    """Said, it takes the place of another; not said, it leaves it."""
    tag = _tag(scaling_factor=10.0)
    for said, stored in ((10.0, 10.0), (None, 10.0), (1.0, 1.0)):
        await master.store_connection(_spec(replace(tag, scaling_factor=said)), None)
        assert [row.scaling_factor for row in (await master.load()).tags] == [stored]
    master.close()


async def test_parameters_of_tables_without_their_columns(foreign_url: SecretStr) -> None:
    """They are absent, and a request that brings one is refused as a whole: half of it would mean another thing."""
    async with open_master(foreign_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        await master.add_tenant(TENANT, "acme", SECRET_URL)
        await master.store_connection(_spec(_tag()), None)
        rows = await master.load()
        assert set(rows.connections[0].parameters.values()) == set(rows.tags[0].parameters.values()) == {None}
        with pytest.raises(ConfigurationRefused, match="tag_mappings has no column deadband_percent"):
            await master.store_connection(_spec(_tag(deadband_percent=5.0)), None)
        with pytest.raises(ConfigurationRefused, match="scada_connections has no column queue_size"):
            await master.store_connection(replace(_spec(_tag()), sampling=Sampling(queue_size=5)), None)
        assert len((await master.load()).tags) == 1


async def test_bad_parameters_are_a_problem_of_their_own_row(foreign_url: SecretStr) -> None:
    """Columns of any type; a value that cannot be used is shown with its row, and every other row runs."""
    fetch(foreign_url, "ALTER TABLE scada_connections ADD queue_size text, ADD publishing_interval_ms numeric(8, 2)")
    fetch(foreign_url, "ALTER TABLE tag_mappings ADD discard_oldest text, ADD sampling_interval_ms text")
    fetch(foreign_url, "ALTER TABLE tag_mappings ADD deadband_percent float8, ADD queue_size smallint")
    good, slow, double = _tag("ns=2;s=1"), _tag("ns=2;s=2"), _tag("ns=2;s=3", deadband=1.0)
    other = uuid4()
    async with open_master(foreign_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        await master.add_tenant(TENANT, "acme", "postgresql://localhost/acme")
        await master.store_connection(_spec(good, slow, double), None)
        await master.store_connection(_spec(_tag("ns=2;s=4"), connection_id=other), None)
        fetch(foreign_url, "UPDATE scada_connections SET queue_size = 'many' WHERE id = %s", str(other))
        fetch(foreign_url, "UPDATE scada_connections SET publishing_interval_ms = 500 WHERE id = %s", str(CONNECTION))
        fetch(foreign_url, "UPDATE tag_mappings SET sampling_interval_ms = 'slow' WHERE id = %s", str(slow.tag_id))
        fetch(foreign_url, "UPDATE tag_mappings SET deadband_percent = 5 WHERE id = %s", str(double.tag_id))
        fetch(
            foreign_url, "UPDATE tag_mappings SET queue_size = 3, discard_oldest = 'f' WHERE id = %s", str(good.tag_id)
        )
        specs = build_specs(await master.load(), SecretBox(None))
    spec, spoiled = specs[TENANT].connections[CONNECTION], specs[TENANT].connections[other]
    assert (spec.problem, spec.publishing_interval_ms) == (None, 500.0)
    assert spoiled.problem == "queue_size: 'many' is not a number"
    tags = {tag.tag_id: tag for tag in spec.tags}
    assert (tags[good.tag_id].problem, tags[good.tag_id].sampling) == (None, Sampling(None, 3, discard_oldest=False))
    assert tags[slow.tag_id].problem == "sampling_interval_ms: 'slow' is not a number"
    assert tags[double.tag_id].problem == "deadband_percent: cannot be given beside deadband, a node has one filter"


async def test_rows_with_ids_that_are_no_uuids_keep_nobody_else_from_running(foreign_url: SecretStr) -> None:
    """They are named, and the rest is loaded."""
    async with open_master(foreign_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        await master.add_tenant(TENANT, "acme", SECRET_URL)
        fetch(foreign_url, "INSERT INTO tenants VALUES ('tenant-7', 'odd', null, 'x', 'ACTIVE', null, now(), now())")
        rows = await master.load()
    assert [row.name for row in rows.tenants] == ["acme"]
    assert rows.problems == ("tenants: the row with id 'tenant-7' has an id that is not a UUID",)


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        ("status = 'ACTIVE'", True),
        ("status = 'TRIAL'", True),
        ("status = 'Suspended'", False),
        ("status = 'DELETED'", False),
        ("deleted_at = now()", False),
    ],
)
async def test_which_tenants_run(master: MasterDatabase, master_url: SecretStr, change: str, runs: bool) -> None:
    """All but those that are suspended or deleted, however it is spelled."""
    fetch(master_url, f"UPDATE tenants SET {change}")
    assert len((await master.load()).tenants) == runs
    if not runs:
        with pytest.raises(UnknownTenant):
            await master.store_connection(_spec(), None)
    master.close()


async def test_storing_again_replaces(master: MasterDatabase, master_url: SecretStr) -> None:
    """The same id twice is one connection; tags that are not given any more are soft-deleted, and can come back."""
    first, second, third = _tag("ns=2;s=1", unit="kPa", scaling_factor=10.0), _tag("ns=2;s=2"), _tag("ns=2;s=3")
    await master.store_connection(_spec(first, second), "old")
    moved = _tag("ns=2;s=1b", tag_id=first.tag_id, well_id=OTHER_WELL)
    await master.store_connection(_spec(moved, third, name=""), "new")
    rows = await master.load()
    assert [(row.password, row.name) for row in rows.connections] == [("new", "pad 7")]
    assert {row.tag_id for row in rows.tags} == {first.tag_id, third.tag_id}
    (kept,) = (row for row in rows.tags if row.tag_id == first.tag_id)
    assert (kept.node_id, kept.well_id, kept.unit, kept.scaling_factor) == ("ns=2;s=1b", OTHER_WELL, "kPa", 10.0)
    assert fetch(master_url, "SELECT count(*) FROM tag_mappings") == [(3,)]
    await master.store_connection(_spec(second), None)
    assert [row.tag_id for row in (await master.load()).tags] == [second.tag_id]
    master.close()


async def test_many_tags_are_a_few_statements(master: MasterDatabase, master_url: SecretStr) -> None:
    """New or known, ten tags or a thousand: the database is asked as often."""
    await master.ping()
    master.close()
    counts = []
    with connect(master_url, application_name="test", connect_timeout_s=5, statement_timeout_s=30) as connection:
        connection.cursor_factory = _CountingCursor
        for tags in (10, 1000):
            spec = _spec(*(_tag(f"ns=2;i={number}") for number in range(tags)), connection_id=uuid4())
            for _ in ("new", "again"):
                before = _CountingCursor.statements
                changes.store_connection(connection, spec, None)
                counts.append(_CountingCursor.statements - before)
    few, few_again, many, many_again = counts
    assert (few, few_again) == (many, many_again)
    assert max(counts) < 30


class _CountingCursor(psycopg.Cursor[tuple[object, ...]]):
    """Counts how often the database is asked; many rows in a pipeline are once."""

    statements = 0

    def execute(self, *args: Any, **kwargs: Any) -> Self:
        type(self).statements += 1
        return super().execute(*args, **kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        type(self).statements += 1
        super().executemany(*args, **kwargs)


async def test_a_tag_that_comes_twice(master: MasterDatabase) -> None:
    """The second one changes the first; of a thousand and more none is missing."""
    tags = [_tag(f"ns=2;i={number}") for number in range(1500)]
    await master.store_connection(_spec(*tags, replace(tags[0], node_id="ns=2;s=second", unit="kPa")), None)
    rows = {row.tag_id: row for row in (await master.load()).tags}
    assert len(rows) == 1500
    assert (rows[tags[0].tag_id].node_id, rows[tags[0].tag_id].unit) == ("ns=2;s=second", "kPa")
    master.close()


async def test_ids_of_another_tenant_are_refused(master: MasterDatabase) -> None:
    """Neither its connections nor its tags can be taken, and nothing is stored."""
    tag = _tag()
    await master.store_connection(_spec(tag), None)
    await master.add_tenant(OTHER_TENANT, "other", SECRET_URL)
    with pytest.raises(ConfigurationRefused, match="another tenant"):
        await master.store_connection(_spec(tenant_id=OTHER_TENANT), None)
    with pytest.raises(ConfigurationRefused, match="another tenant"):
        await master.store_connection(_spec(tag, connection_id=uuid4(), tenant_id=OTHER_TENANT), None)
    assert [row.tenant_id for row in (await master.load()).connections] == [TENANT]
    master.close()


async def test_a_tenant_that_does_not_exist(master: MasterDatabase) -> None:
    """A connection needs one."""
    with pytest.raises(UnknownTenant):
        await master.store_connection(_spec(tenant_id=uuid4()), None)
    master.close()


async def test_removing_a_connection(master: MasterDatabase) -> None:
    """It is kept, inactive, and can be stored again; an id that never was is told."""
    await master.store_connection(_spec(_tag()), None)
    assert await master.deactivate_connection(CONNECTION)
    assert await master.deactivate_connection(CONNECTION)
    assert not await master.deactivate_connection(uuid4())
    rows = await master.load()
    assert (rows.connections, rows.tags) == ((), ())
    assert [row.is_active for row in await master.list_connections(TENANT)] == [False]
    await master.store_connection(_spec(), None)
    assert [row.is_active for row in await master.list_connections(TENANT)] == [True]
    master.close()


async def test_names_of_tenants_are_taken_once(master: MasterDatabase) -> None:
    """A name of a tenant that is gone is free again."""
    with pytest.raises(ConfigurationRefused, match="exists already"):
        await master.add_tenant(uuid4(), "acme", SECRET_URL)
    assert [(row.name, row.status) for row in await master.list_tenants()] == [("acme", "ACTIVE")]
    master.close()


async def test_databases_are_made_beside_the_master(master: MasterDatabase) -> None:
    """For a tenant that brings none; its URL is known before and after."""
    name = f"made_{uuid4().hex}"
    url = await master.create_database(name)
    assert url == await master.database_url(name)
    assert fetch(url, "SELECT current_database()::text") == [(name,)]
    with pytest.raises(ConfigurationRefused):
        await master.create_database(name)
    master.close()


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        ("DROP TABLE tag_mappings", "table tag_mappings does not exist: not migrated, run scada-trio migrate"),
        ("ALTER TABLE tenants DROP COLUMN status", "table tenants has no column status"),
    ],
)
async def test_a_schema_that_is_not_as_needed(
    master: MasterDatabase, master_url: SecretStr, harm: str, text: str
) -> None:
    """What is missing is named before anything starts."""
    fetch(master_url, harm)
    with pytest.raises(DatabaseMisconfigured, match=text):
        await master.check_schema()
    master.close()


async def test_a_restart_of_the_server(own_postgres: PostgresServer) -> None:
    """Away while it is away; the first call afterwards works."""
    master = _open(own_postgres.create_master())
    await master.ping()
    with own_postgres.stopped(), pytest.raises(DatabaseUnavailable):
        await master.ping()
    await master.ping()
    await trio.to_thread.run_sync(own_postgres.kill)
    await trio.to_thread.run_sync(own_postgres.start)
    await master.ping()
    master.close()


class _Changes:
    """Waits for calls of ``on_change``."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def happened(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        with trio.fail_after(60):
            await self._event.wait()
        self._event = trio.Event()


async def test_changes_are_heard(master: MasterDatabase, master_url: SecretStr, nursery: trio.Nursery) -> None:
    """Ours, those of other programs on our tables, and a plain NOTIFY."""
    changes = _Changes()
    await nursery.start(master.run_listener, changes.happened)
    store = partial(master.store_connection, _spec(), None)
    await store()
    await changes.wait()
    fetch(master_url, "UPDATE scada_connections SET is_active = false")
    await changes.wait()
    fetch(master_url, "NOTIFY scada_config")
    await changes.wait()
    nursery.cancel_scope.cancel()
    master.close()


async def test_changes_are_heard_after_a_restart(own_postgres: PostgresServer, nursery: trio.Nursery) -> None:
    """The listener comes back by itself, and says so, since a word may have been missed."""
    url = own_postgres.create_master()
    changes = _Changes()
    await nursery.start(_open(url).run_listener, changes.happened)
    await trio.to_thread.run_sync(own_postgres.kill)
    await trio.to_thread.run_sync(own_postgres.start)
    await changes.wait()
    fetch(url, "NOTIFY scada_config")
    await changes.wait()
    nursery.cancel_scope.cancel()


async def test_a_listener_starts_without_a_database(own_postgres: PostgresServer, nursery: trio.Nursery) -> None:
    """It reports itself started, and hears when the database is there."""
    url = own_postgres.create_master()
    changes = _Changes()
    with own_postgres.stopped():
        await nursery.start(_open(url).run_listener, changes.happened)
    await changes.wait()
    nursery.cancel_scope.cancel()
