"""Migrations: twice, two at once, interrupted, and beside tables that another application made."""

from __future__ import annotations

import threading

import pytest
import trio
from pydantic import SecretStr

from scada_trio.config import StorageSettings
from scada_trio.errors import DatabaseMisconfigured, DatabaseUnavailable
from scada_trio.readings import Quality, WriteResult
from scada_trio.storage.maintenance import Maintenance, maintain
from scada_trio.storage.migrate import MigrationReport, migrate_master, migrate_tenant, pending_master, pending_tenant
from scada_trio.storage.tenant_db import open_tenant_writer
from tests.fix_postgres import PostgresServer, fetch
from tests.master_samples import FOREIGN
from tests.storage_samples import BUFFER, NOON_US, batch, block, count_rows, tag_table

GOOD = Quality.GOOD
TABLES = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
COLUMNS = """
    SELECT attname::text, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
    WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"""
MASTER = ["master-0001-configuration", "master-0002-parameters", "master-0003-audit"]
READINGS = """
    CREATE TABLE scada_readings (timestamp timestamptz NOT NULL, well_id uuid NOT NULL, tag_node_id text NOT NULL,
        value float8 NOT NULL, quality text NOT NULL DEFAULT 'Good', created_at timestamptz NOT NULL DEFAULT now())"""


def test_a_master_database(postgres: PostgresServer) -> None:
    """Made from nothing; the second time there is nothing to do."""
    url = postgres.create_database()
    assert migrate_master(url) == MASTER
    assert migrate_master(url) == []
    assert {"tenants", "scada_connections", "tag_mappings"} <= {name for (name,) in fetch(url, TABLES)}


def test_what_waits_is_told_and_not_applied(postgres: PostgresServer) -> None:
    """Of a new database everything, of a migrated one nothing; asking makes no table."""
    master, tenant = postgres.create_database(), postgres.create_database()
    assert pending_master(master) == MASTER
    waiting = pending_tenant(tenant)
    assert fetch(master, TABLES) == fetch(tenant, TABLES) == []
    assert waiting == list(migrate_tenant(tenant).applied)
    migrate_master(master)
    assert (pending_master(master), pending_tenant(tenant)) == ([], [])
    fetch(master, "DELETE FROM scada_migrations WHERE migration_id = 'master-0003-audit'")
    fetch(tenant, "DELETE FROM scada_migrations WHERE migration_id = 'tenant-0004-heartbeats'")
    assert pending_master(master) == ["master-0003-audit"]
    assert pending_tenant(tenant) == ["tenant-0004-heartbeats"]


def test_tables_of_another_application_get_no_columns(postgres: PostgresServer) -> None:
    """Even where they have the trigger that tells the service; a table of ours beside them gets its own."""
    url = postgres.create_database()
    fetch(url, FOREIGN)
    fetch(url, "DROP TABLE tag_mappings")
    before = fetch(url, COLUMNS, "scada_connections")
    migrate_master(url)
    fetch(
        url,
        """CREATE TRIGGER scada_config_changed AFTER UPDATE ON scada_connections
        FOR EACH STATEMENT EXECUTE FUNCTION scada_config_changed()""",
    )
    fetch(url, "DELETE FROM scada_migrations WHERE migration_id = 'master-0002-parameters'")
    assert migrate_master(url) == ["master-0002-parameters"]
    assert fetch(url, COLUMNS, "scada_connections") == before
    assert "deadband_percent" in {row[0] for row in fetch(url, COLUMNS, "tag_mappings")}


def test_a_tenant_database(postgres: PostgresServer) -> None:
    """On a server without TimescaleDB readings go to native partitions."""
    url = postgres.create_database()
    first = migrate_tenant(url)
    assert first.flavour == "native"
    assert first.applied[0] == "tenant-0001-cursor"
    assert migrate_tenant(url) == MigrationReport((), "native")
    assert fetch(url, COLUMNS, "scada_readings") == [
        ("timestamp", "timestamp with time zone", True),
        ("well_id", "uuid", True),
        ("tag_node_id", "text", True),
        ("value", "double precision", True),
        ("quality", "text", True),
        ("created_at", "timestamp with time zone", True),
    ]


def test_master_and_tenant_in_one_database(postgres: PostgresServer) -> None:
    """The two sets of migrations do not get in each other's way."""
    url = postgres.create_database()
    assert migrate_master(url)
    assert migrate_tenant(url).applied
    assert migrate_master(url) == []


def test_two_at_once(postgres: PostgresServer) -> None:
    """One does it, the other waits and finds it done."""
    url = postgres.create_database()
    reports: list[MigrationReport] = []
    threads = [threading.Thread(target=lambda: reports.append(migrate_tenant(url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(report.applied) for report in reports) == [0, 0, 7]


def test_an_interrupted_migration_is_taken_up(postgres: PostgresServer) -> None:
    """Killed after its work and before its record, a migration runs again and does no harm."""
    url = postgres.create_tenant()
    fetch(url, "DELETE FROM scada_migrations")
    assert len(migrate_tenant(url).applied) == 7
    url = postgres.create_master()
    fetch(url, "DELETE FROM scada_migrations")
    assert migrate_master(url) == MASTER


@pytest.mark.parametrize("relation", ["TABLE scada_readings", "TABLE scada_heartbeats", "VIEW scada_readings_daily"])
def test_what_was_dropped_is_made_again(postgres: PostgresServer, relation: str) -> None:
    """The record that it was made once does not keep it from being made, and the rest stays as it is."""
    url = postgres.create_tenant()
    fetch(url, "INSERT INTO scada_ingest_cursor (journal_id, last_seq) VALUES (gen_random_uuid(), 7)")
    fetch(url, f"DROP {relation} CASCADE")
    assert migrate_tenant(url).applied
    assert fetch(url, "SELECT to_regclass(%s) IS NOT NULL", relation.split()[1]) == [(True,)]
    assert fetch(url, "SELECT last_seq FROM scada_ingest_cursor") == [(7,)]
    assert migrate_tenant(url).applied == ()


def test_tables_of_another_application_are_left_alone(postgres: PostgresServer) -> None:
    """No column, index or trigger is added to what was there."""
    url = postgres.create_database()
    fetch(url, FOREIGN)
    names = ("tenants", "scada_connections", "tag_mappings")
    before = [fetch(url, COLUMNS, name) for name in names]
    migrate_master(url)
    assert [fetch(url, COLUMNS, name) for name in names] == before
    assert fetch(url, "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal") == [
        ("scada_audit_log",)
    ]


async def test_an_ordinary_table_of_readings_is_adopted(postgres: PostgresServer) -> None:
    """With its data, and without being rewritten; the views and the writer work on it."""
    url = postgres.create_database()
    fetch(url, READINGS)
    fetch(url, "INSERT INTO scada_readings SELECT now(), gen_random_uuid(), 'old', 1 FROM generate_series(1, 100)")
    file = "SELECT pg_relation_filenode('scada_readings'), relkind::text FROM pg_class WHERE relname = 'scada_readings'"
    before = fetch(url, file)
    assert (await trio.to_thread.run_sync(migrate_tenant, url)).flavour == "native"
    assert fetch(url, file) == before
    assert await maintain(url, StorageSettings(), connect_timeout_s=10) == Maintenance()
    async with open_tenant_writer(url, tag_table(), connect_timeout_s=5, statement_timeout_s=30) as writer:
        assert await writer.write(batch(1, block((0, NOON_US, 1.0, GOOD))), BUFFER) == WriteResult(inserted=1)
    assert count_rows(url) == 101
    assert fetch(url, "SELECT sum(count) FROM scada_readings_hourly") == [(101,)]


def test_a_role_that_may_not(postgres: PostgresServer) -> None:
    """The server's reason is told."""
    url = postgres.create_database()
    fetch(url, f"CREATE ROLE guest_{url.get_secret_value()[-3:].strip('_')} LOGIN PASSWORD 'guest'")
    role = fetch(url, "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'guest%%'")[0][0]
    guest = SecretStr(f"postgresql://{role}:guest@{url.get_secret_value().split('@')[1]}")
    with pytest.raises(DatabaseMisconfigured, match="permission denied"):
        migrate_tenant(guest)
    fetch(url, f"DROP ROLE {role}")


def test_no_server(own_postgres: PostgresServer) -> None:
    """Nothing is half done."""
    url = own_postgres.create_database()
    with own_postgres.stopped(), pytest.raises(DatabaseUnavailable):
        migrate_tenant(url)
    assert migrate_tenant(url).applied


def test_nothing_is_printed(postgres: PostgresServer, capfd: pytest.CaptureFixture[str]) -> None:
    """The migration tool prints result rows; there are none."""
    url = postgres.create_database()
    capfd.readouterr()
    migrate_master(url)
    migrate_tenant(url)
    assert capfd.readouterr() == ("", "")
