"""The audit log: every change, by whomever, and every denied call; nothing is taken back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
import trio
import trio.testing
from pydantic import SecretStr

from scada_trio.audit import Actor, Denial, DenialLog, this_process
from scada_trio.desired import ConnectionSpec, SecurityMode, TagChange
from scada_trio.errors import ConfigurationRefused, DatabaseMisconfigured, DatabaseUnavailable
from scada_trio.readings import Tag
from scada_trio.storage.audit import AuditEntry, AuditQuery
from scada_trio.storage.master import MasterDatabase, open_master
from scada_trio.storage.migrate import migrate_master
from tests.fix_api import LogLines, grpcio_call
from tests.fix_pki import Made
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import open_service
from tests.fix_tls import ApiPki
from tests.master_samples import FOREIGN

TENANT, CONNECTION, TAG = uuid4(), uuid4(), uuid4()
WHO = Actor("URI:urn:test:nestjs", "192.0.2.7")
URL = "postgresql://scada:Pl4nted-Url@localhost/acme"
PASSWORD = "Pl4nted-Password"  # as it is stored
SPEC = ConnectionSpec(
    CONNECTION,
    TENANT,
    name="pad 7",
    endpoint_url="opc.tcp://192.0.2.1:4840",
    security_mode=SecurityMode("None"),
    username="operator",
    tags=(Tag(TAG, uuid4(), "ns=2;s=P", "Double"),),
)


@pytest.fixture(params=["ours", "another application's"])
async def master(request: Any, postgres: PostgresServer) -> Any:
    """A master database whose tables are ours, and one whose tables are not."""
    url = postgres.create_database()
    if request.param != "ours":
        fetch(url, FOREIGN)
    migrate_master(url)
    async with open_master(url, connect_timeout_s=5, statement_timeout_s=30) as database:
        yield database


async def entries(master: MasterDatabase, **query: Any) -> list[AuditEntry]:
    """The oldest first."""
    return list(reversed(await master.read_audit(AuditQuery(**query))))


async def fill(master: MasterDatabase) -> None:
    await master.add_tenant(TENANT, "acme", URL, WHO)
    await master.store_connection(SPEC, PASSWORD, WHO)


async def test_changes_are_written_down_without_secrets(master: MasterDatabase) -> None:
    """Who, from where, what, before and after; a secret is there or changed, and no more."""
    await fill(master)
    await master.store_connection(replace(SPEC, endpoint_url="opc.tcp://u:Pl4nted-Endpoint@192.0.2.2:4840"), "new", WHO)
    await master.change_tags(TENANT, CONNECTION, TagChange((replace(SPEC.tags[0], unit="kPa"),)), WHO)
    await master.deactivate_connection(CONNECTION, actor=WHO)
    await master.set_database_url(TENANT, URL.replace("acme", "other"))
    found = await entries(master)
    assert [(entry.action, entry.entity) for entry in found] == [
        ("add tenant", "tenants"),
        ("store connection", "scada_connections"),
        ("store connection", "tag_mappings"),
        ("store connection", "scada_connections"),
        ("change tags", "tag_mappings"),
        ("remove connection", "scada_connections"),
        ("move tenant database", "tenants"),
    ]
    assert {(entry.actor, entry.address) for entry in found[:-1]} == {(WHO.identity, WHO.address)}
    assert found[-1].actor == this_process().identity
    assert {entry.database_user for entry in found} == {"scada"}
    assert {entry.tenant_id for entry in found} == {str(TENANT)}
    added, stored, changed, tags, removed, moved = (found[i] for i in (0, 1, 3, 4, 5, 6))
    assert (added.before, added.after and added.after["database_url"]) == (None, "(set)")
    assert stored.after is not None
    assert (stored.after["password"], stored.after["username"]) == ("(set)", "operator")
    assert changed.after is not None
    assert (changed.after["password"], changed.after["endpoint_url"]) == ("(changed)", "opc.tcp://192.0.2.2:4840")
    assert tags.before is not None
    assert tags.after is not None
    assert (tags.before["unit"], tags.after["unit"]) == (None, "kPa")
    assert removed.after is not None
    assert removed.after["is_active"] is False
    assert moved.after is not None
    assert moved.after["database_url"] == "(changed)"
    assert "Pl4nted" not in str(found)


async def test_a_refused_change_is_written_down_and_changes_nothing(master: MasterDatabase) -> None:
    await fill(master)
    count = len(await entries(master))
    with pytest.raises(ConfigurationRefused):
        await master.add_tenant(uuid4(), "acme", URL, WHO)
    with pytest.raises(ConfigurationRefused):
        await master.change_tags(TENANT, CONNECTION, TagChange((), removed=(uuid4(),)), WHO)
    found = (await entries(master))[count:]
    assert [(entry.action, entry.outcome) for entry in found] == [("add tenant", "refused"), ("change tags", "refused")]
    assert "exists already" in found[0].detail
    assert [entry.outcome for entry in await entries(master, outcome="refused")] == ["refused"] * 2


async def test_the_same_again_is_no_change(master: MasterDatabase) -> None:
    await fill(master)
    count = len(await entries(master))
    await master.store_connection(SPEC, PASSWORD, WHO)
    assert len(await entries(master)) == count


async def test_a_change_that_cannot_be_written_down_is_not_made(master: MasterDatabase) -> None:
    """In the same transaction: neither without the other."""
    await fill(master)
    url = master._url
    refuse = "CHECK (action <> 'remove connection')"
    fetch(url, f"ALTER TABLE scada_audit_log ADD CONSTRAINT full_disk {refuse} NOT VALID")
    with pytest.raises(Exception, match="full_disk"):
        await master.deactivate_connection(CONNECTION, actor=WHO)
    assert fetch(url, "SELECT is_active FROM scada_connections") == [(True,)]
    fetch(url, "DROP TABLE scada_audit_log")
    with pytest.raises(DatabaseMisconfigured, match="scada_audit_log"):
        await master.deactivate_connection(CONNECTION, actor=WHO)
    assert fetch(url, "SELECT is_active FROM scada_connections") == [(True,)]


@pytest.mark.parametrize(
    "change", ["UPDATE scada_audit_log SET actor = 'x'", "DELETE FROM scada_audit_log", "TRUNCATE scada_audit_log"]
)
async def test_rows_are_added_and_never_changed(master: MasterDatabase, change: str) -> None:
    """Not even by who owns the table."""
    await fill(master)
    before = await entries(master)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="never changed"):
        fetch(master._url, change)
    assert await entries(master) == before


async def test_who_changes_our_tables_by_sql_is_written_down(master_url: SecretStr) -> None:
    """Another application with its own role, which cannot read or write the log itself."""
    async with open_master(master_url, connect_timeout_s=5, statement_timeout_s=30) as master:
        await fill(master)
        role = f"nestjs_{uuid4().hex[:8]}"
        fetch(master_url, f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        fetch(master_url, f"GRANT SELECT, UPDATE, DELETE ON tenants, tag_mappings TO {role}")
        url = SecretStr(
            master_url.get_secret_value().replace(master_url.get_secret_value().split("@")[0], f"postgresql://{role}:x")
        )
        fetch(url, "UPDATE tenants SET status = 'SUSPENDED'")
        fetch(url, "DELETE FROM tag_mappings")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            fetch(url, "SELECT * FROM scada_audit_log")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            fetch(url, "SELECT scada_audit_row('x', NULL, '{\"id\": 1}', 'x')")
        fetch(url, "CREATE TEMPORARY TABLE scada_audit_log (LIKE tenants); UPDATE tenants SET status = 'ACTIVE'")
        found = (await entries(master))[-3:]
    assert [(entry.actor, entry.database_user, entry.action) for entry in found] == [
        (f"database:{role}", role, "update"),
        (f"database:{role}", role, "delete"),
        (f"database:{role}", role, "update"),
    ]
    assert found[1].after is None


# --- denied calls


class Sink:
    def __init__(self) -> None:
        self.rows: list[Denial] = []
        self.fault: Exception | None = None

    async def __call__(self, denials: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.rows += denials


async def test_the_same_denial_is_one_row_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    """A client that knocks a thousand times a second fills no table, and every knock is counted."""
    sink = Sink()
    denials = DenialLog(sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(denials.run)
        for _ in range(600):
            for _ in range(10):
                denials.add(Denial(WHO, "AddConnection", "right"))
            await trio.sleep(0.25)
        nursery.cancel_scope.cancel()
    await denials.finish()
    assert sum(row.count for row in sink.rows) == 6000
    assert len(sink.rows) <= 5
    assert {row.kind for row in sink.rows} == {(WHO.identity, WHO.address, "AddConnection", "right")}
    assert all(row.at > 0 for row in sink.rows)


async def test_denials_wait_for_the_database(autojump_clock: trio.testing.MockClock, log_lines: LogLines) -> None:
    sink = Sink()
    sink.fault = DatabaseUnavailable("away")
    denials = DenialLog(sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(denials.run)
        for number in range(1_500):
            denials.add(Denial(Actor(f"CN:{number}"), "QueryReadings", "unknown_client"))
        await trio.sleep(5)
        sink.fault = None
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert len(sink.rows) == 1_000
    messages = [line["message"] for line in log_lines()]
    assert sum("cannot be written to the audit log" in message for message in messages) == 1
    assert [line["count"] for line in log_lines() if "too many kinds" in line["message"]] == [500]


async def test_a_service_audits_its_clients_changes(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """Without certificates a client is anonymous, and its address is all that is known."""
    async with open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        connection = await running.add_connection(
            tenant, "opc.tcp://127.0.0.1:1", [Tag(uuid4(), uuid4(), "i=1", "Double")]
        )
        assert (await running.call("RemoveConnection", connection_id=str(connection))).success
        found = await entries(running.master, tenant=str(tenant))
    assert [(entry.actor, entry.address) for entry in found[1:]] == [("anonymous", "127.0.0.1")] * 3
    assert json.dumps([entry.after for entry in found])


async def test_a_denied_call_is_counted_and_written_down(
    postgres: PostgresServer, tenant_url: SecretStr, api_pki: ApiPki
) -> None:
    """On the whole service, by certificate; also one that is denied in the last moment before the end."""
    api_pki.grant(("URI:urn:test:nestjs", "read", "*"))
    files: dict[str, Any] = {
        "grpc_tls_cert": api_pki.cert,
        "grpc_tls_key": api_pki.key,
        "grpc_tls_client_ca": api_pki.ca,
        "grpc_rights_file": api_pki.rights,
    }
    async with open_service(postgres, **files) as running:
        port = running.addresses.grpc[1]
        await running.add_tenant(tenant_url)

        def denied(method: str, client: Made, **fields: Any) -> None:
            with api_pki.channel(port, client) as channel, pytest.raises(grpc.RpcError) as raised:
                grpcio_call(channel, method, **fields)
            assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED

        def allowed() -> Any:
            with api_pki.channel(port, api_pki.client()) as channel:
                return grpcio_call(channel, "HealthCheck")

        assert (await trio.to_thread.run_sync(allowed)).status == "healthy"
        stranger = api_pki.client("stranger", uri=None)
        remove = {"connection_id": str(uuid4())}
        await trio.to_thread.run_sync(lambda: denied("RemoveConnection", api_pki.client(), **remove))
        await trio.to_thread.run_sync(lambda: denied("ListTenants", stranger))
        metrics = (await running.get("/metrics")).text
        assert 'scada_grpc_denied_total{reason="right"} 1.0' in metrics
        assert 'scada_certificate_expiry_timestamp_seconds{store="grpc"' in metrics
        assert 'scada_grpc_denied_total{reason="unknown_client"} 1.0' in metrics
    found = fetch(
        running.master_url,
        "SELECT actor, address, action, outcome, detail, count FROM scada_audit_log WHERE outcome = 'denied'"
        " ORDER BY actor",
    )
    assert found == [
        ("CN:stranger", "127.0.0.1", "ListTenants", "denied", "unknown_client", 1),
        ("URI:urn:test:nestjs", "127.0.0.1", "RemoveConnection", "denied", "right", 1),
    ]
