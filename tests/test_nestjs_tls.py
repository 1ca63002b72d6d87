"""examples/nestjs and the service over mutual TLS: who gets in, who does not, and certificates that are replaced."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio
from pydantic import SecretStr

from tests.fix_api import eventually
from tests.fix_devices import open_device
from tests.fix_pki import Made, make
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_proxy import open_proxy
from tests.fix_service import RunningService, open_service
from tests.fix_tls import ApiPki, key_pem, pem
from tests.fix_webapp import WELL, Nest, mapping, open_nest, start_nest
from tests.test_api_tls import until_presented

DASHBOARD_URI, STRANGER_URI = "urn:test:dashboard", "urn:test:stranger"


def service_files(pki: ApiPki) -> dict[str, Any]:
    return {
        "grpc_tls_cert": pki.cert,
        "grpc_tls_key": pki.key,
        "grpc_tls_client_ca": pki.ca,
        "grpc_rights_file": pki.rights,
    }


def app_files(folder: Path, authority: Made, client: Made | None) -> dict[str, str]:
    """The application's settings; without a certificate of its own where ``client`` is None."""
    folder.mkdir(exist_ok=True)
    settings = {"SCADA_GRPC_TLS": "true", "SCADA_GRPC_TLS_CA": str(folder / "ca.pem")}
    (folder / "ca.pem").write_bytes(pem(authority))
    if client is not None:
        settings |= {"SCADA_GRPC_TLS_CERT": str(folder / "tls.crt"), "SCADA_GRPC_TLS_KEY": str(folder / "tls.key")}
        (folder / "tls.crt").write_bytes(pem(client))
        (folder / "tls.key").write_bytes(key_pem(client))
    return settings


def assert_tells_nothing(*texts: str) -> None:
    """No key, no certificate, no stack, no path of a file."""
    for text in texts:
        for secret in ("BEGIN", "node_modules", ".js:", "    at ", "/tls.", "ca.pem"):
            assert secret not in text, text


async def refusal(nest: Nest, status: int, method: str, path: str, **options: Any) -> Any:
    response = await nest.client.request(method, path, **options)
    assert_tells_nothing(response.text, str(response.headers))
    assert response.status_code == status, response.text
    return response.json()


async def denials(running: RunningService) -> Mapping[str, float]:
    """`scada_grpc_denied_total` by reason."""
    text = (await running.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("scada_grpc_denied_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


def audited(running: RunningService, reason: str) -> set[tuple[Any, ...]]:
    return set(
        fetch(
            running.master_url,
            "SELECT actor, action FROM scada_audit_log WHERE outcome = 'denied' AND detail = %s",
            reason,
        )
    )


async def until_audited(running: RunningService, reason: str, *expected: tuple[str, str]) -> None:
    """Until the denials with that reason are in the audit log, and no others."""

    async def holds() -> bool:
        return await trio.to_thread.run_sync(audited, running, reason) >= set(expected)

    await running.until_async(holds)
    assert audited(running, reason) == set(expected)


async def test_a_client_with_its_certificate_has_its_tenant(
    built_nest: None, postgres: PostgresServer, tenant_url: SecretStr, api_pki: ApiPki, tmp_path: Path
) -> None:
    """It adds a device, reads history and live readings of its own tenant; those of others are denied."""
    api_pki.grant()
    settings = app_files(tmp_path / "app", api_pki.server_ca, api_pki.client())
    async with (
        open_device("open62541", nodes=["A"]) as device,
        open_service(postgres, **service_files(api_pki)) as running,
        open_nest(tmp_path, running.addresses.grpc[1], **settings) as nest,
    ):
        tenant = await running.add_tenant(tenant_url)
        other = await running.add_tenant(await trio.to_thread.run_sync(postgres.create_tenant))
        mine: dict[str, Any] = {"tenantId": str(tenant)}
        api_pki.grant(("URI:urn:test:nestjs", "admin", [tenant]))
        assert await nest.until("/scada/connections", lambda _: True, **mine) == {"connections": []}
        body = {**mine, "endpointUrl": device.url, "tags": [mapping("ns=1;s=A")]}
        connection = (await nest.ask("POST", "/scada/connections", json=body, status=201))["connectionId"]
        await running.connected(tenant, UUID(connection), 1)
        async with nest.live(**mine) as live:
            await device.write("A", 7.5)
            while 7.5 not in [reading["value"] for reading in await live.until("readings")]:
                pass
        await running.until_stored(tenant, "ns=1;s=A", 7.5)
        newest = await nest.ask("GET", "/scada/latest", params={**mine, "wellIds": str(WELL)})
        assert [reading["value"] for reading in newest["readings"]] == [7.5]
        assert (await nest.ask("GET", "/health"))["details"]["scada"]["activeTenants"] == 1

        theirs = {"tenantId": str(other)}
        span = {**theirs, "from": "1", "to": "2"}
        for path in (f"/scada/wells/{WELL}/readings", f"/scada/wells/{WELL}/readings/export"):
            denied = await refusal(nest, 403, "GET", path, params=span)
            assert (denied["reason"], denied["message"]) == ("NOT_PERMITTED", "this client may not do that")
        await refusal(nest, 403, "GET", "/scada/live", params=theirs)
        await refusal(nest, 403, "POST", "/scada/connections", json={**body, **theirs})
        assert (await denials(running))["tenant"] == 4
        who = "URI:urn:test:nestjs"
        methods = ("QueryReadings", "StreamReadings", "SubscribeReadings", "AddConnection")
        await until_audited(running, "tenant", *[(who, method) for method in methods])
        [(actor,)] = fetch(running.master_url, "SELECT actor FROM scada_audit_log WHERE entity_id = %s", connection)
        assert actor == who
        assert_tells_nothing(nest.log.read_text())


async def test_clients_that_are_refused(
    built_nest: None, postgres: PostgresServer, tenant_url: SecretStr, api_pki: ApiPki, tmp_path: Path
) -> None:
    """Who may only read gets 403 for the rest; without a good certificate there is 503."""
    api_pki.grant((f"URI:{DASHBOARD_URI}", "read", "*"))
    stranger = make("stranger", uri=DASHBOARD_URI, hosts=(), issuer=make("other authority", ca=True))
    async with open_service(postgres, **service_files(api_pki)) as running:
        tenant = await running.add_tenant(tenant_url)
        port = running.addresses.grpc[1]
        mine: dict[str, Any] = {"tenantId": str(tenant)}
        body = {**mine, "endpointUrl": "opc.tcp://127.0.0.1:4840", "tags": [mapping("ns=1;s=A")]}
        reader = app_files(tmp_path / "reader", api_pki.server_ca, api_pki.client("dashboard", uri=DASHBOARD_URI))
        async with open_nest(tmp_path, port, **reader) as nest:
            assert await nest.ask("GET", "/scada/connections", params=mine) == {"connections": []}
            denied = await refusal(nest, 403, "POST", "/scada/connections", json=body)
            assert (denied["statusCode"], denied["error"], denied["reason"]) == (403, "Forbidden", "NOT_PERMITTED")
        await until_audited(running, "right", (f"URI:{DASHBOARD_URI}", "AddConnection"))

        unknown = app_files(tmp_path / "unknown", api_pki.server_ca, api_pki.client("unknown", uri=STRANGER_URI))
        async with open_nest(tmp_path, port, **unknown) as nest:
            await refusal(nest, 403, "GET", "/scada/connections", params=mine)
            await refusal(nest, 503, "GET", "/health")
        who = f"URI:{STRANGER_URI}"
        await until_audited(running, "unknown_client", (who, "ListConnections"), (who, "HealthCheck"))

        assert "handshake" not in await denials(running)
        for number, client in enumerate((None, stranger), 1):
            files = app_files(tmp_path / f"outside-{number}", api_pki.server_ca, client)
            async with open_nest(tmp_path, port, **files, SCADA_GRPC_TIMEOUT_MS=1000) as nest:
                absent = await refusal(nest, 503, "GET", "/scada/connections", params=mine)
                assert absent["message"] == "the SCADA service does not answer"
                health = await refusal(nest, 503, "GET", "/health")
                assert health["error"]["scada"]["message"] == "the SCADA service does not answer"
            found = await denials(running)
            assert found["handshake"] >= number
            await until_audited(running, "handshake", ("anonymous", "TLS handshake"))
        reader = app_files(tmp_path / "misled", make("other servers", ca=True), api_pki.client("dashboard"))
        async with open_nest(tmp_path, port, **reader) as nest:  # this time it is the application that refuses
            await refusal(nest, 503, "GET", "/health")
            await eventually(lambda: "WARN" in nest.log.read_text())
            assert "unable to verify the first certificate" in nest.log.read_text()
            assert_tells_nothing(nest.log.read_text())
        assert fetch(running.master_url, "SELECT FROM scada_connections") == []


async def test_certificates_are_renewed(
    built_nest: None, postgres: PostgresServer, tenant_url: SecretStr, api_pki: ApiPki, tmp_path: Path
) -> None:
    """Of the service, then of both sides with new authorities; the application connects again and is not restarted."""
    api_pki.grant(("URI:urn:test:nestjs", "admin", "*"))
    app = tmp_path / "app"
    settings = app_files(app, api_pki.server_ca, api_pki.client())
    async with (
        open_service(postgres, **service_files(api_pki)) as running,
        open_proxy(running.addresses.grpc[1]) as proxy,
        open_nest(tmp_path, proxy.port, **settings) as nest,
    ):
        mine: dict[str, Any] = {"tenantId": str(await running.add_tenant(tenant_url))}
        await nest.ask("GET", "/scada/connections", params=mine)
        async with nest.live(**mine) as live:
            second = api_pki.server("second")
            api_pki.install(second)
            await until_presented(running.addresses.grpc[1], second)
            assert proxy.connections == 1  # whoever is connected stays
            proxy.cut()
            proxy.mend()
            await live.until("interrupted")
            await live.until("subscribed")
            assert proxy.connections >= 2

            old_authority, old_client = api_pki.server_ca, api_pki.client()
            api_pki.server_ca, api_pki.client_ca = make("new servers", ca=True), make("new clients", ca=True)
            third = api_pki.server("third")
            api_pki.ca.write_bytes(pem(api_pki.client_ca))
            api_pki.install(third)
            await until_presented(running.addresses.grpc[1], third)
            proxy.cut()
            proxy.mend()
            await live.until("interrupted")
            app_files(app, api_pki.server_ca, api_pki.client())
            await live.until("subscribed")
        await nest.ask("GET", "/scada/connections", params=mine)
        assert_tells_nothing(nest.log.read_text())

        late = app_files(tmp_path / "late", old_authority, old_client)
        (tmp_path / "late" / "ca.pem").write_bytes(pem(api_pki.server_ca))
        before = (await denials(running)).get("handshake", 0)
        other = tmp_path / "other"
        other.mkdir()
        async with open_nest(other, proxy.port, **late, SCADA_GRPC_TIMEOUT_MS=1000) as nest:
            await refusal(nest, 503, "GET", "/scada/connections", params=mine)
        assert (await denials(running))["handshake"] > before


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"SCADA_GRPC_TLS": "false"}, "SCADA_GRPC_TLS"),
        ({"SCADA_GRPC_TLS_KEY": ""}, "SCADA_GRPC_TLS_KEY"),
        ({"SCADA_GRPC_TLS_CERT": ""}, "SCADA_GRPC_TLS_CERT"),
        ({"SCADA_GRPC_TLS_CA": "absent.pem"}, "SCADA_GRPC_TLS_CA"),
        ({"SCADA_GRPC_TLS_CA": "package.json"}, "SCADA_GRPC_TLS_CA"),
        ({"SCADA_GRPC_TLS_CERT": "package.json"}, "SCADA_GRPC_TLS_CERT"),
        ({"SCADA_GRPC_TLS_KEY": "package.json"}, "SCADA_GRPC_TLS_KEY"),
        ({"SCADA_GRPC_TLS_KEY": "{other}"}, "SCADA_GRPC_TLS_KEY"),
    ],
)
def test_files_that_cannot_be_used_stop_the_start(
    built_nest: None, api_pki: ApiPki, tmp_path: Path, changes: dict[str, str], variable: str
) -> None:
    """In clear text nothing is sent that was meant to be encrypted, and no key is shown."""
    other = tmp_path / "other.key"
    other.write_bytes(key_pem(make("other")))
    settings = app_files(tmp_path / "app", api_pki.server_ca, api_pki.client())
    settings |= {name: value.format(other=other) for name, value in changes.items()}
    done = start_nest(settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{variable}: ")
    assert "BEGIN" not in done.stderr
