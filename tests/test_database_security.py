"""TLS to PostgreSQL, and a service whose role can do what it needs and no more."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import trio
from pydantic import SecretStr

from scada_trio.errors import DatabaseMisconfigured
from scada_trio.readings import Tag
from scada_trio.storage.connect import connect
from scada_trio.storage.migrate import migrate_master, migrate_tenant, pending_master, pending_tenant
from scada_trio.storage.programs import Programs
from tests.fix_devices import open_device
from tests.fix_pki import make
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import SECRETS, open_service
from tests.fix_tls import key_pem, pem

DOCUMENT = (Path(__file__).parent.parent / "docs" / "security.md").read_text()


# --- TLS


class TlsPostgres:
    """A server of the system's package, since the wheel's knows no TLS; its certificate is for ``localhost``."""

    def __init__(self, directory: Path, binaries: Path) -> None:
        self.authority = make("database authority", ca=True)
        made = make("database", uri=None, hosts=("localhost",), issuer=self.authority)
        self.programs = replace(Programs.find(), directory=binaries)
        self.data = directory / "data"
        self.data.mkdir(mode=0o700)
        self.programs.give(self.data)
        with self.programs.secret_file(directory / "password", "x") as password:
            arguments = ["-D", str(self.data), "-U", "scada", "-A", "scram-sha-256", f"--pwfile={password}"]
            self.programs.run("initdb", arguments, timeout_s=120)
        (directory / "server.crt").write_bytes(pem(made))
        (directory / "server.key").write_bytes(key_pem(made))
        (directory / "server.key").chmod(0o600)
        for name in ("server.crt", "server.key"):
            self.programs.give(directory / name)
        self.root = directory / "root.crt"
        self.root.write_bytes(pem(self.authority))
        self.other_root = directory / "other.crt"
        self.other_root.write_bytes(pem(make("other authority", ca=True)))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c ssl=on"
            f" -c ssl_cert_file={directory}/server.crt -c ssl_key_file={directory}/server.key"
        )
        self.control("-l", str(self.data / "log"), "-o", options, "start")

    def control(self, *arguments: str) -> None:
        self.programs.run("pg_ctl", ["-D", str(self.data), "-w", *arguments], timeout_s=60)

    def url(self, mode: str, root: Path | None = None, host: str = "localhost") -> SecretStr:
        base = f"postgresql://scada:x@{host}:{self.port}/postgres"
        return SecretStr(f"{base}?sslmode={mode}" + (f"&sslrootcert={root}" if root else ""))


def on_the_path() -> Path | None:
    program = shutil.which("pg_ctl")
    return None if program is None else Path(program).resolve().parent


@pytest.fixture(scope="module")
def tls_postgres() -> Iterator[TlsPostgres]:
    directory = Path(tempfile.mkdtemp(prefix="scada-trio-postgres-tls-"))
    directory.chmod(0o755)
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), *filter(None, [on_the_path()])]
    if not found:
        pytest.skip("no PostgreSQL with TLS is installed (Debian: postgresql)")
    made = TlsPostgres(directory, found[-1])
    try:
        yield made
    finally:
        made.control("-m", "immediate", "stop")
        shutil.rmtree(directory)


def encrypted(url: SecretStr) -> bool:
    with connect(url, application_name="test", connect_timeout_s=10, statement_timeout_s=10) as connection:
        row = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    assert row is not None
    return bool(row[0])


def test_sslmode_is_honoured(tls_postgres: TlsPostgres) -> None:
    """Each mode does what it says, up to the certificate of the right authority and the right name."""
    assert not encrypted(tls_postgres.url("disable"))
    assert encrypted(tls_postgres.url("require"))
    assert encrypted(tls_postgres.url("no-verify"))
    assert encrypted(tls_postgres.url("verify-ca", tls_postgres.root, "127.0.0.1"))
    assert encrypted(tls_postgres.url("verify-full", tls_postgres.root))


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_certificate_of_another_authority_is_refused(tls_postgres: TlsPostgres, mode: str) -> None:
    with pytest.raises(DatabaseMisconfigured, match="certificate verify failed"):
        encrypted(tls_postgres.url(mode, tls_postgres.other_root))
    with pytest.raises(DatabaseMisconfigured, match="root certificate file"):
        encrypted(tls_postgres.url(mode, tls_postgres.root.with_name("absent.crt")))


def test_a_certificate_of_another_name_is_refused(tls_postgres: TlsPostgres) -> None:
    with pytest.raises(DatabaseMisconfigured, match="does not match host name"):
        encrypted(tls_postgres.url("verify-full", tls_postgres.root, "127.0.0.1"))


def test_a_server_without_tls_is_refused(postgres: PostgresServer) -> None:
    url = postgres.server.url.get_secret_value()
    with pytest.raises(DatabaseMisconfigured, match="does not support SSL"):
        encrypted(SecretStr(f"{url}?sslmode=require"))


# --- roles


def documented(name: str) -> str:
    """The SQL of docs/security.md that begins with that comment."""
    (block,) = re.findall(rf"```sql\n-- {name}\n(.*?)```", DOCUMENT, re.DOTALL)
    return str(block)


class Roles:
    """The owner of the schemas and the service's role, as the documentation has them; roles are the whole server's."""

    def __init__(self, postgres: PostgresServer) -> None:
        self.postgres = postgres
        suffix = uuid4().hex[:8]
        self.owner, self.service = f"scada_owner_{suffix}", f"scada_service_{suffix}"
        for role in (self.owner, self.service):
            fetch(postgres.server.url, f"CREATE ROLE {role} LOGIN PASSWORD 'x'")

    def database(self, document: str) -> SecretStr:
        """Migrated by the owner; the service's URL of it."""
        url = self.postgres.create_database()
        name = url.get_secret_value().rpartition("/")[2]
        fetch(self.postgres.server.url, f"ALTER DATABASE {name} OWNER TO {self.owner}")
        owned = self.url(url, self.owner)
        if document == "master":
            migrate_master(owned)
        else:
            migrate_tenant(owned)
        fetch(owned, documented(document).replace("scada_service", self.service))
        return self.url(url, self.service)

    @staticmethod
    def url(url: SecretStr, role: str) -> SecretStr:
        return SecretStr(f"postgresql://{role}:x@{url.get_secret_value().partition('@')[2]}")


async def test_the_service_runs_with_a_role_that_can_do_no_more(postgres: PostgresServer) -> None:
    """Connections stored and removed, readings written, queried and maintained; no table made, dropped or unsaid."""
    roles = await trio.to_thread.run_sync(Roles, postgres)
    master = await trio.to_thread.run_sync(roles.database, "master")
    tenant_url = await trio.to_thread.run_sync(roles.database, "tenant")
    tenant = uuid4()
    fetch(
        Roles.url(master, roles.owner),
        "INSERT INTO tenants (id, name, database_url) VALUES (%s, 'acme', %s)",
        *(tenant, SECRETS.encrypt(tenant_url)),
    )
    tag = Tag(uuid4(), uuid4(), "ns=1;s=P", "Double")
    async with open_device("asyncua", nodes=["P"]) as device, open_service(postgres, master) as running:
        running.tenants[tenant] = tenant_url
        connection = await running.add_connection(tenant, device.url, [tag])
        await running.connected(tenant, connection, 1)
        await device.write("P", 12.5)
        await running.until_stored(tenant, "ns=1;s=P", 12.5)
        query = {"tenant_id": str(tenant), "well_id": str(tag.well_id), "start_time": 0, "end_time": 4_000_000_000}
        assert len((await running.call("QueryReadings", **query)).readings) >= 1
        assert (await running.call("RemoveConnection", connection_id=str(connection))).success
        await running.until_async(lambda: maintained(tenant_url))
    (audited,) = fetch(master, "SELECT count(*) FROM scada_audit_log WHERE database_user = session_user")
    assert audited[0] == 3
    assert pending_master(master) == pending_tenant(tenant_url) == []
    fetch(Roles.url(master, roles.owner), f"REVOKE SELECT ON scada_migrations FROM {roles.service}")
    assert pending_master(master) is None
    for url, forbidden in (
        (master, "UPDATE scada_audit_log SET actor = 'nobody'"),
        (master, "DELETE FROM scada_audit_log"),
        (master, "TRUNCATE scada_audit_log"),
        (master, "DROP TRIGGER scada_audit_keep ON scada_audit_log"),
        (master, "ALTER TABLE scada_connections DISABLE TRIGGER scada_audit"),
        (master, "UPDATE tenants SET status = 'ACTIVE'"),
        (master, "DELETE FROM scada_connections"),
        (master, "CREATE TABLE mine ()"),
        (tenant_url, "DROP TABLE scada_readings"),
        (tenant_url, "TRUNCATE scada_readings"),
        (tenant_url, "CREATE TABLE mine ()"),
        (tenant_url, "DELETE FROM scada_migrations"),
        (tenant_url, "SELECT * FROM pg_authid"),
        (tenant_url, "CREATE ROLE mine"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            fetch(url, forbidden)


async def maintained(url: SecretStr) -> bool:
    rows = await trio.to_thread.run_sync(fetch, url, "SELECT failures, last_error FROM scada_maintenance")
    assert all(row == (0, None) for row in rows), rows
    return bool(rows)
