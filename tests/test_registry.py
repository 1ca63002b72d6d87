"""What should run, read again: the difference only, and never in the loop's time."""

from __future__ import annotations

import time
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from scada_trio.registry import Registry, build_specs
from scada_trio.secrets import SecretBox
from scada_trio.storage.master import MasterDatabase, open_master
from tests.fix_postgres import PostgresServer, fetch

TENANT = UUID("11111111-1111-4111-8111-111111111111")
BOX = SecretBox(None)

FILL = """
    INSERT INTO tenants (id, name, database_url) VALUES ('11111111-1111-4111-8111-111111111111', 'acme',
        'postgresql://localhost/acme');
    INSERT INTO scada_connections (id, tenant_id, name, endpoint_url)
        SELECT md5('c' || c)::uuid, '11111111-1111-4111-8111-111111111111', 'well ' || c, 'opc.tcp://device:4840'
        FROM generate_series(1, {connections}) c;
    INSERT INTO tag_mappings (id, tenant_id, connection_id, well_id, tag_name, opc_node_id, data_type)
        SELECT md5(c || '/' || t)::uuid, '11111111-1111-4111-8111-111111111111', md5('c' || c)::uuid,
            md5('w' || c)::uuid, 'tag ' || t, 'ns=2;s=T' || t, 'Double'
        FROM generate_series(1, {connections}) c, generate_series(1, {tags}) t"""
FIRST = "WHERE id = md5('c1')::uuid"
TAG = "WHERE id = md5('1/1')::uuid"


def _master(url: SecretStr) -> MasterDatabase:
    return MasterDatabase(url, connect_timeout_s=5, statement_timeout_s=30)


@pytest.fixture
def filled_url(master_url: SecretStr) -> SecretStr:
    """A master database with a tenant, three connections and two tags each."""
    _fill(master_url, connections=3, tags=2)
    return master_url


def _fill(url: SecretStr, *, connections: int, tags: int) -> None:
    fetch(url, FILL.format(connections=connections, tags=tags))


async def test_what_has_not_changed_is_not_read_again(filled_url: SecretStr) -> None:
    """The second reading brings digests and no rows, and the specs are the very same objects."""
    async with open_master(filled_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        rows = await master.load()
        assert (len(rows.connections), len(rows.tags), len(rows.digests)) == (3, 6, 3)
        again = await master.load(rows.digests)
        assert (again.connections, again.tags, again.digests) == ((), (), rows.digests)
        registry = Registry(master, BOX)
        specs = await registry.load()
        assert specs == build_specs(rows, BOX)
        assert await registry.load() is specs
        fetch(filled_url, "UPDATE scada_connections SET updated_at = now()")  # nothing that is read
        assert await registry.load() is specs


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE scada_connections SET name = 'other' {FIRST}",
        f"UPDATE scada_connections SET endpoint_url = 'opc.tcp://other:4840' {FIRST}",
        f"UPDATE scada_connections SET security_mode = 'Sign', security_policy = 'Basic256Sha256' {FIRST}",
        f"UPDATE scada_connections SET username = 'operator' {FIRST}",
        f"UPDATE scada_connections SET password = 'plain' {FIRST}",
        f"UPDATE scada_connections SET allow_plaintext_password = true {FIRST}",
        f"UPDATE scada_connections SET publishing_interval_ms = 500 {FIRST}",
        f"UPDATE scada_connections SET queue_size = 5 {FIRST}",
        f"UPDATE tag_mappings SET tag_name = 'other' {TAG}",
        f"UPDATE tag_mappings SET well_id = gen_random_uuid() {TAG}",
        f"UPDATE tag_mappings SET opc_node_id = 'ns=2;s=other' {TAG}",
        f"UPDATE tag_mappings SET data_type = 'Float' {TAG}",
        f"UPDATE tag_mappings SET unit = 'kPa' {TAG}",
        f"UPDATE tag_mappings SET scaling_factor = 0.1 {TAG}",
        f"UPDATE tag_mappings SET deadband = 0.5 {TAG}",
        f"UPDATE tag_mappings SET deadband_percent = 2 {TAG}",
        f"UPDATE tag_mappings SET discard_oldest = false {TAG}",
        f"UPDATE tag_mappings SET deleted_at = now() {TAG}",
        f"DELETE FROM tag_mappings {TAG}",
        "UPDATE tag_mappings SET connection_id = md5('c1')::uuid, opc_node_id = 'ns=2;s=9' WHERE id = md5('2/1')::uuid",
        f"UPDATE scada_connections SET is_active = false {FIRST}",
        "INSERT INTO scada_connections (id, tenant_id, name, endpoint_url) "
        f"VALUES (gen_random_uuid(), '{TENANT}', 'new', 'opc.tcp://new:4840')",
        "UPDATE tenants SET name = 'other'",
        "UPDATE tenants SET database_url = 'postgresql://localhost/other'",
        "UPDATE tenants SET status = 'SUSPENDED'",
    ],
)
async def test_whatever_changes_is_seen(filled_url: SecretStr, change: str) -> None:
    """What comes of it is what a whole reading makes of it, and a connection that did not change is the same object."""
    master = _master(filled_url)
    registry = Registry(master, BOX)
    before = await registry.load()
    fetch(filled_url, change)
    after = await registry.load()
    assert after != before
    assert after == build_specs(await master.load(), BOX)
    untouched = UUID(bytes=bytes.fromhex(fetch(filled_url, "SELECT md5('c3')")[0][0]))
    for tenant_id, spec in after.items():
        assert spec.connections[untouched] is before[tenant_id].connections[untouched]
    master.close()


async def test_a_tenant_that_comes_back_has_its_connections(filled_url: SecretStr) -> None:
    """Suspended and active again: its connections did not change meanwhile, and are all there."""
    master = _master(filled_url)
    registry = Registry(master, BOX)
    before = await registry.load()
    fetch(filled_url, "UPDATE tenants SET status = 'SUSPENDED'")
    assert not await registry.load()
    fetch(filled_url, f"UPDATE scada_connections SET name = 'meanwhile' {FIRST}")
    assert not await registry.load()
    fetch(filled_url, "UPDATE tenants SET status = 'ACTIVE'")
    after = await registry.load()
    assert after == build_specs(await master.load(), BOX)
    assert after[TENANT].connections.keys() == before[TENANT].connections.keys()
    master.close()


async def test_a_row_at_fault_is_read_each_time(postgres: PostgresServer) -> None:
    """Its problem stays known as long as it is there, and the row runs as soon as it is right."""
    url = postgres.create_master()
    fetch(url, "ALTER TABLE tag_mappings ALTER well_id TYPE text, ALTER id TYPE text")
    fetch(url, "ALTER TABLE scada_connections ALTER tenant_id TYPE text")
    fetch(url, "ALTER TABLE tag_mappings ALTER tenant_id TYPE text")
    _fill_text(url)
    master = _master(url)
    fetch(url, "UPDATE tag_mappings SET well_id = 'well 1' WHERE tag_name = 'odd'")
    fetch(url, "UPDATE scada_connections SET tenant_id = 'nobody' WHERE name = 'odd'")
    rows = await master.load()
    assert len(rows.problems) == 2
    assert len(rows.digests) == 1
    assert (await master.load(rows.digests)).problems == rows.problems
    registry = Registry(master, BOX)
    (spec,) = (await registry.load()).values()
    assert sorted((c.name, len(c.tags)) for c in spec.connections.values()) == [("well 1", 1), ("well 2", 1)]
    fetch(url, "UPDATE tag_mappings SET well_id = %s WHERE tag_name = 'odd'", str(uuid4()))
    fetch(url, f"UPDATE scada_connections SET tenant_id = '{TENANT}' WHERE name = 'odd'")
    (spec,) = (await registry.load()).values()
    assert sorted((c.name, len(c.tags)) for c in spec.connections.values()) == [
        ("odd", 0),
        ("well 1", 2),
        ("well 2", 1),
    ]
    master.close()


def _fill_text(url: SecretStr) -> None:
    """Two wells with a tag each, an odd tag of the first and an odd connection without any."""
    fetch(url, "INSERT INTO tenants (id, name, database_url) VALUES (%s, 'acme', 'postgresql://localhost/a')", TENANT)
    for name in ("well 1", "well 2", "odd"):
        query = "INSERT INTO scada_connections (id, tenant_id, name, endpoint_url) VALUES (md5(%s)::uuid, %s, %s, %s)"
        fetch(url, query, name, str(TENANT), name, "opc.tcp://device:4840")
    for number, (connection, name) in enumerate([("well 1", "P"), ("well 2", "P"), ("well 1", "odd")]):
        fetch(
            url,
            """INSERT INTO tag_mappings (id, tenant_id, connection_id, well_id, tag_name, opc_node_id)
            VALUES (%s, %s, md5(%s)::uuid, %s, %s, %s)""",
            *(str(uuid4()), str(TENANT), connection, str(uuid4()), name, f"ns=2;i={number}"),
        )


async def test_what_tags_have_in_common_is_kept_once(filled_url: SecretStr) -> None:
    """Wells of a kind: ten thousand tags have few words, and those of a well have one id."""
    master = _master(filled_url)
    (spec,) = (await Registry(master, BOX).load()).values()
    tags = [tag for connection in spec.connections.values() for tag in connection.tags]
    assert len(tags) == 6
    assert len({id(tag.well_id) for tag in tags}) == 3
    assert len({id(tag.node_id) for tag in tags}) == len({id(tag.name) for tag in tags}) == 2
    assert len({id(tag.data_type) for tag in tags}) == len({id(tag.sampling) for tag in tags}) == 1
    master.close()


async def test_the_loop_has_next_to_nothing_to_do_with_it(master_url: SecretStr) -> None:
    """Five thousand tags are read by a worker thread; read again, they cost the process next to nothing."""
    _fill(master_url, connections=500, tags=10)
    master = _master(master_url)
    registry = Registry(master, BOX)
    await master.ping()
    in_loop, in_all = time.thread_time(), time.process_time()
    specs = await registry.load()
    in_loop, in_all = time.thread_time() - in_loop, time.process_time() - in_all
    assert in_loop < in_all / 10
    again = time.process_time()
    for _ in range(5):
        assert await registry.load() is specs
    assert (time.process_time() - again) / 5 < in_all / 10
    master.close()
