"""The master database as we made it, as another application made it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from scada_trio.errors import ConfigurationRefused, DatabaseMisconfigured, UnknownTenant
from scada_trio.registry import build_specs
from scada_trio.sampling import Sampling
from scada_trio.secrets import SecretBox
from scada_trio.storage import changes
from scada_trio.storage.connect import connect
from scada_trio.storage.master import MasterDatabase, open_master
from scada_trio.storage.migrate import migrate_master
from tests.fix_postgres import PostgresServer, fetch
from tests.master_samples import (
    CONNECTION,
    FOREIGN,
    OTHER_TENANT,
    SECRET_URL,
    TENANT,
    connection_spec,
    mapped_tag,
    open_master_database,
)
from tests.storage_samples import OTHER_WELL, WELL


@pytest.fixture
async def master(master_url: SecretStr) -> MasterDatabase:
    database = open_master_database(master_url)
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
    tag = mapped_tag(name="casing pressure", unit="kPa", scaling_factor=0.1, deadband=0.5)
    await master.check_schema()
    await master.store_connection(connection_spec(tag), "encrypted")
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
        await master.store_connection(connection_spec(mapped_tag(scaling_factor=0.1, deadband=2.0)), None)
        rows = await master.load()
        assert [row.tenant_id for row in rows.tenants] == [TENANT]
        assert [row.security_mode for row in rows.connections] == ["Sign"]
        assert [(row.scaling_factor, row.deadband) for row in rows.tags] == [(0.1, 2.0)]
        with pytest.raises(ConfigurationRefused, match="tag_mappings"):
            await master.store_connection(connection_spec(mapped_tag(node_id="")), None)
        assert len((await master.load()).tags) == 1


async def test_parameters_are_stored_and_read_as_text(master: MasterDatabase) -> None:
    """Of connection and tag; what is not said again stays, and one kind of deadband takes the place of the other."""
    tag = mapped_tag(deadband_percent=2.5, sampling=Sampling(250.0, 20, discard_oldest=False))
    spec = replace(connection_spec(tag), publishing_interval_ms=500.0, sampling=Sampling(0.0, 1, discard_oldest=True))
    await master.store_connection(spec, None)
    connection = {"publishing_interval_ms": "500", "sampling_interval_ms": "0", "queue_size": "1"}
    item = {"sampling_interval_ms": "250", "queue_size": "20", "discard_oldest": "false"}
    for again in (connection_spec(replace(tag, deadband_percent=None, sampling=Sampling())), connection_spec(tag)):
        rows = await master.load()
        assert rows.connections[0].parameters == {**connection, "discard_oldest": "true"}
        assert rows.tags[0].parameters == {**item, "deadband_percent": "2.5"}
        await master.store_connection(again, None)
    bare = replace(tag, deadband_percent=None, sampling=Sampling())
    await master.store_connection(connection_spec(replace(bare, deadband=0.5)), None)
    (row,) = (await master.load()).tags
    assert (row.deadband, row.parameters["deadband_percent"]) == (0.5, None)
    await master.store_connection(connection_spec(replace(bare, deadband_percent=1.0)), None)
    (row,) = (await master.load()).tags
    assert (row.deadband, row.parameters["deadband_percent"]) == (None, "1")
    master.close()


async def test_a_scaling_factor_of_one_is_one(master: MasterDatabase) -> None:
    """Said, it takes the place of another; not said, it leaves it."""
    tag = mapped_tag(scaling_factor=10.0)
    for said, stored in ((10.0, 10.0), (None, 10.0), (1.0, 1.0)):
        await master.store_connection(connection_spec(replace(tag, scaling_factor=said)), None)
        assert [row.scaling_factor for row in (await master.load()).tags] == [stored]
    master.close()


async def test_parameters_of_tables_without_their_columns(foreign_url: SecretStr) -> None:
    """They are absent, and a request that brings one is refused as a whole: half of it would mean another thing."""
    async with open_master(foreign_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        await master.add_tenant(TENANT, "acme", SECRET_URL)
        await master.store_connection(connection_spec(mapped_tag()), None)
        rows = await master.load()
        assert set(rows.connections[0].parameters.values()) == set(rows.tags[0].parameters.values()) == {None}
        with pytest.raises(ConfigurationRefused, match="tag_mappings has no column deadband_percent"):
            await master.store_connection(connection_spec(mapped_tag(deadband_percent=5.0)), None)
        with pytest.raises(ConfigurationRefused, match="scada_connections has no column queue_size"):
            await master.store_connection(replace(connection_spec(mapped_tag()), sampling=Sampling(queue_size=5)), None)
        assert len((await master.load()).tags) == 1


async def test_bad_parameters_are_a_problem_of_their_own_row(foreign_url: SecretStr) -> None:
    """Columns of any type; a value that cannot be used is shown with its row, and every other row runs."""
    fetch(foreign_url, "ALTER TABLE scada_connections ADD queue_size text, ADD publishing_interval_ms numeric(8, 2)")
    fetch(foreign_url, "ALTER TABLE tag_mappings ADD discard_oldest text, ADD sampling_interval_ms text")
    fetch(foreign_url, "ALTER TABLE tag_mappings ADD deadband_percent float8, ADD queue_size smallint")
    good, slow, double = mapped_tag("ns=2;s=1"), mapped_tag("ns=2;s=2"), mapped_tag("ns=2;s=3", deadband=1.0)
    other = uuid4()
    async with open_master(foreign_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        await master.add_tenant(TENANT, "acme", "postgresql://localhost/acme")
        await master.store_connection(connection_spec(good, slow, double), None)
        await master.store_connection(connection_spec(mapped_tag("ns=2;s=4"), connection_id=other), None)
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
            await master.store_connection(connection_spec(), None)
    master.close()


async def test_storing_again_replaces(master: MasterDatabase, master_url: SecretStr) -> None:
    """The same id twice is one connection; tags that are not given any more are soft-deleted, and can come back."""
    first, second, third = (
        mapped_tag("ns=2;s=1", unit="kPa", scaling_factor=10.0),
        mapped_tag("ns=2;s=2"),
        mapped_tag("ns=2;s=3"),
    )
    await master.store_connection(connection_spec(first, second), "old")
    moved = mapped_tag("ns=2;s=1b", tag_id=first.tag_id, well_id=OTHER_WELL)
    await master.store_connection(connection_spec(moved, third, name=""), "new")
    rows = await master.load()
    assert [(row.password, row.name) for row in rows.connections] == [("new", "pad 7")]
    assert {row.tag_id for row in rows.tags} == {first.tag_id, third.tag_id}
    (kept,) = (row for row in rows.tags if row.tag_id == first.tag_id)
    assert (kept.node_id, kept.well_id, kept.unit, kept.scaling_factor) == ("ns=2;s=1b", OTHER_WELL, "kPa", 10.0)
    assert fetch(master_url, "SELECT count(*) FROM tag_mappings") == [(3,)]
    await master.store_connection(connection_spec(second), None)
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
            spec = connection_spec(*(mapped_tag(f"ns=2;i={number}") for number in range(tags)), connection_id=uuid4())
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
    tags = [mapped_tag(f"ns=2;i={number}") for number in range(1500)]
    await master.store_connection(connection_spec(*tags, replace(tags[0], node_id="ns=2;s=second", unit="kPa")), None)
    rows = {row.tag_id: row for row in (await master.load()).tags}
    assert len(rows) == 1500
    assert (rows[tags[0].tag_id].node_id, rows[tags[0].tag_id].unit) == ("ns=2;s=second", "kPa")
    master.close()


async def test_ids_of_another_tenant_are_refused(master: MasterDatabase) -> None:
    """Neither its connections nor its tags can be taken, and nothing is stored."""
    tag = mapped_tag()
    await master.store_connection(connection_spec(tag), None)
    await master.add_tenant(OTHER_TENANT, "other", SECRET_URL)
    with pytest.raises(ConfigurationRefused, match="another tenant"):
        await master.store_connection(connection_spec(tenant_id=OTHER_TENANT), None)
    with pytest.raises(ConfigurationRefused, match="another tenant"):
        await master.store_connection(connection_spec(tag, connection_id=uuid4(), tenant_id=OTHER_TENANT), None)
    assert [row.tenant_id for row in (await master.load()).connections] == [TENANT]
    master.close()


async def test_a_tenant_that_does_not_exist(master: MasterDatabase) -> None:
    """A connection needs one."""
    with pytest.raises(UnknownTenant):
        await master.store_connection(connection_spec(tenant_id=uuid4()), None)
    master.close()


async def test_removing_a_connection(master: MasterDatabase) -> None:
    """It is kept, inactive, and can be stored again; an id that never was is told."""
    await master.store_connection(connection_spec(mapped_tag()), None)
    assert await master.deactivate_connection(CONNECTION)
    assert await master.deactivate_connection(CONNECTION)
    assert not await master.deactivate_connection(uuid4())
    rows = await master.load()
    assert (rows.connections, rows.tags) == ((), ())
    assert [row.is_active for row in await master.list_connections(TENANT)] == [False]
    await master.store_connection(connection_spec(), None)
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
