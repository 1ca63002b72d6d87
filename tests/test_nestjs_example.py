"""examples/nestjs, installed, built and run as a team would, against the real service and real devices."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import trio
from pydantic import SecretStr

from scada_trio.opcua.pki import Pki
from tests.fake_backend import ABSENT
from tests.fix_devices import free_port, open_device
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import SECRETS, open_service, write_series
from tests.fix_webapp import WELL, Nest, mapping, open_nest


def values(readings: list[Any]) -> list[float]:
    return [reading["value"] for reading in readings]


async def wait_stored(nest: Nest, tenant: UUID, node_id: str, value: float) -> Any:
    """Until the newest reading of the tag is that one."""
    return await nest.until(
        "/scada/latest",
        lambda body: value in values(body["readings"]),
        tenantId=tenant,
        wellIds=WELL,
        tagNodeIds=node_id,
    )


async def test_connections_from_first_to_last(
    built_nest: None, postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path
) -> None:
    """Over gRPC: added, listed, looked at, given other tags, removed."""
    async with (
        open_device("open62541", nodes=["A", "B"]) as device,
        open_service(postgres) as running,
        open_nest(tmp_path, running.addresses.grpc[1]) as nest,
    ):
        tenant = await running.add_tenant(tenant_url)
        body = {"tenantId": str(tenant), "endpointUrl": device.url, "name": "rtu", "tags": [mapping("ns=1;s=A")]}
        connection = (await nest.ask("POST", "/scada/connections", json=body, status=201))["connectionId"]
        path = f"/scada/connections/{connection}"
        mine: dict[str, Any] = {"tenantId": str(tenant)}
        report = await nest.until(path, lambda report: report["state"] == "connected", **mine)
        assert (report["name"], report["tagsMonitored"], report["tagsRefused"]) == ("rtu", 1, [])
        assert report["subscription"]["requestedPublishingIntervalMs"] == 50
        await device.write("A", 7.5)
        await wait_stored(nest, tenant, "ns=1;s=A", 7.5)

        change = {**mine, "tags": [mapping("ns=1;s=B", scalingFactor=2)]}
        assert await nest.ask("PATCH", f"{path}/tags", json=change) == {"tagsConfigured": 2}
        await running.connected(tenant, UUID(connection), 2)
        await device.write("B", 4.0)
        await wait_stored(nest, tenant, "ns=1;s=B", 8.0)
        [listed] = (await nest.ask("GET", "/scada/connections", params={**mine, "includeTags": "true"}))["connections"]
        assert sorted(tag["nodeId"] for tag in listed["tags"]) == ["ns=1;s=A", "ns=1;s=B"]
        [first] = [tag["tagId"] for tag in listed["tags"] if tag["nodeId"] == "ns=1;s=A"]
        await nest.ask("PATCH", f"{path}/tags", json={**mine, "removeTagIds": [first]})
        await running.connected(tenant, UUID(connection), 1)

        health = await nest.ask("GET", "/health")
        assert health["details"]["scada"]["service"] == "healthy"
        await nest.ask("DELETE", path, params=mine, status=204)
        await running.until(lambda: running.status(tenant, UUID(connection)) is None)
        await nest.ask("GET", path, params=mine, status=404)
        [listed] = (await nest.ask("GET", "/scada/connections", params=mine))["connections"]
        assert (listed["active"], listed["state"], listed["tags"]) == (False, "inactive", [])


async def test_a_connection_stored_in_the_master_database(
    built_nest: None, postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path
) -> None:
    """The service hears of it, and the device takes the password that was stored encrypted; so are changes of it."""
    async with (
        open_device("node-opcua", nodes=["A", "B"], users={"operator": "right-word"}) as device,
        open_service(postgres) as running,
        open_nest(tmp_path, running.addresses.grpc[1], running.master_url) as nest,
    ):
        tenant = await running.add_tenant(tenant_url)
        for table in ("scada_connections", "tag_mappings"):  # another application's tables have no trigger of ours
            fetch(running.master_url, f"DROP TRIGGER scada_config_changed ON {table}")
        body = {
            "tenantId": str(tenant),
            "endpointUrl": device.url,
            "username": "operator",
            "password": "right-word",
            "tags": [mapping("ns=1;s=A", unit="psi", scalingFactor=10)],
        }
        stored = await nest.ask("POST", "/scada/connections/stored", json=body, status=202)
        connection = UUID(stored["connectionId"])
        [(sealed,)] = fetch(running.master_url, "SELECT password FROM scada_connections WHERE id = %s", connection)
        assert SECRETS.decrypt(sealed).get_secret_value() == "right-word"
        path = f"/scada/connections/{connection}"
        mine: dict[str, Any] = {"tenantId": str(tenant)}
        report = await nest.until(path, lambda report: report["state"] == "refused", **mine)
        assert report["lastErrorType"] == "certificate_untrusted"  # passwords go to servers that are trusted only
        pki = Pki(running.settings.pki)
        pki.store.prepare()
        pki.store.trust(report["lastError"].rpartition(" ")[2])
        await running.connected(tenant, connection, 1)
        await device.write("A", 1.5)
        await wait_stored(nest, tenant, "ns=1;s=A", 15.0)

        again = {**body, **stored, "tags": [mapping("ns=1;s=B")]}
        await nest.ask("POST", "/scada/connections/stored", json=again, status=202)
        await device.write("B", 2.5)
        await wait_stored(nest, tenant, "ns=1;s=B", 2.5)
        await running.connected(tenant, connection, 1)

        other = await running.add_tenant(await trio.to_thread.run_sync(postgres.create_tenant))
        theft = await nest.ask("POST", "/scada/connections/stored", json={**again, "tenantId": str(other)}, status=409)
        assert "another tenant" in theft["message"]
        nobody = {**again, "tenantId": str(ABSENT)}
        assert str(ABSENT) in (await nest.ask("POST", "/scada/connections/stored", json=nobody, status=404))["message"]
        await nest.ask("DELETE", path, params=mine, status=204)
        await running.until(lambda: running.status(tenant, connection) is None)
        for text in (nest.log.read_text(), json.dumps(theft)):
            assert "right-word" not in text


async def test_history(built_nest: None, postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path) -> None:
    """Microseconds stay exact, pages join without a gap, an export has everything, rollups and latest agree with it."""
    count = 120
    now = datetime.now().astimezone().replace(microsecond=123_456)
    base_us = int(now.timestamp()) * 1_000_000 - 3600 * 1_000_000 + 123_457
    async with (
        open_device("asyncua", nodes=["P"]) as device,
        open_service(postgres) as running,
        open_nest(tmp_path, running.addresses.grpc[1], SCADA_GRPC_PAGE_SIZE=7) as nest,
    ):
        tenant = await running.add_tenant(tenant_url)
        body = {"tenantId": str(tenant), "endpointUrl": device.url, "tags": [mapping("ns=1;s=P")]}
        connection = (await nest.ask("POST", "/scada/connections", json=body, status=201))["connectionId"]
        await running.connected(tenant, UUID(connection), 1)
        await write_series(device, "P", 1, count, base_us=base_us)
        await running.until_stored(tenant, "ns=1;s=P", float(count))
        span = {
            "tenantId": str(tenant),
            "from": str(base_us + 1000),
            "to": (now + timedelta(hours=1)).isoformat(),
            "tagNodeIds": "ns=1;s=P",
        }
        everything = {**span, "to": str(base_us + 1000 * count)}
        path = f"/scada/wells/{WELL}"

        pages: list[Any] = []
        token = ""
        while not pages or token:
            page = await nest.ask("GET", f"{path}/readings", params={**everything, "limit": 50, "pageToken": token})
            pages.append(page["readings"])
            token = page["nextPageToken"]
        assert [len(page) for page in pages] == [50, 50, 20]
        found = [reading for page in pages for reading in page]
        assert [int(reading["timeUs"]) for reading in found] == [base_us + 1000 * n for n in range(count, 0, -1)]
        assert values(found) == [float(n) for n in range(count, 0, -1)]
        whole = datetime.fromisoformat(found[0]["time"]) - datetime.fromisoformat("1970-01-01T00:00:00Z")
        assert whole // timedelta(microseconds=1) == int(found[0]["timeUs"])

        oldest = {**everything, "order": "oldest"}
        export = await nest.client.get(f"{path}/readings/export", params=oldest)
        assert export.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line) for line in export.text.splitlines()] == found[::-1]
        assert (await nest.client.get(f"{path}/readings/export", params={**span, "from": "1", "to": "2"})).text == ""

        rollup = await nest.ask("GET", f"{path}/aggregates", params={**everything, "resolution": "hourly"})
        assert rollup["resolution"] == "hourly"
        assert sum(int(bucket["count"]) for bucket in rollup["aggregates"]) >= count
        assert max(bucket["max"] for bucket in rollup["aggregates"]) == count
        auto = await nest.ask("GET", f"{path}/aggregates", params={**everything, "maxPoints": 1})
        assert auto["resolution"] in ("hourly", "daily", "monthly")
        newest = await nest.ask("GET", "/scada/latest", params={"tenantId": str(tenant), "wellIds": str(WELL)})
        assert [reading["tagNodeId"] for reading in newest["readings"]] == ["ns=1;s=P"]


async def test_live_readings(built_nest: None, postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path) -> None:
    """As the device changes them, to who asked for them; who goes is forgotten by the service, too."""
    async with (
        open_device("open62541", nodes=["A", "B"]) as device,
        open_service(postgres) as running,
        open_nest(tmp_path, running.addresses.grpc[1]) as nest,
    ):
        tenant = await running.add_tenant(tenant_url)
        body = {
            "tenantId": str(tenant),
            "endpointUrl": device.url,
            "tags": [mapping("ns=1;s=A"), mapping("ns=1;s=B")],
        }
        connection = (await nest.ask("POST", "/scada/connections", json=body, status=201))["connectionId"]
        await running.connected(tenant, UUID(connection), 2)
        await wait_stored(nest, tenant, "ns=1;s=B", 0.0)
        async with nest.live(tenantId=tenant, wellIds=WELL, tagNodeIds="ns=1;s=A") as live:
            assert subscribers(await running.get("/metrics"), tenant) == 1
            for number in range(1, 21):
                await device.write("B", -1.0)
                await device.write("A", float(number))
            found: list[float] = []
            while 20.0 not in found:
                name, readings = await live.next()
                assert (name, {r["tagNodeId"] for r in readings}) == ("readings", {"ns=1;s=A"})
                found += values(readings)
            assert found[-20:] == [float(number) for number in range(1, 21)]

        async def forgotten() -> bool:
            return subscribers(await running.get("/metrics"), tenant) == 0

        await running.until_async(forgotten)


def subscribers(metrics: httpx.Response, tenant: UUID) -> float:
    [line] = [
        one for one in metrics.text.splitlines() if one.startswith(f'scada_live_subscribers{{tenant_id="{tenant}"')
    ]
    return float(line.split()[-1])


async def test_a_restart_of_the_service(
    built_nest: None, postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path
) -> None:
    """While it is down calls are 503, in time; when it is back everything goes on, live readings included."""
    port = free_port()
    master_url = await trio.to_thread.run_sync(postgres.create_master)
    journal = tmp_path / "journal"
    async with (
        open_device("open62541", nodes=["A"]) as device,
        open_nest(tmp_path, port, SCADA_GRPC_TIMEOUT_MS=500) as nest,
        AsyncExitStack() as stack,
    ):
        async with open_service(postgres, master_url, grpc_port=port, journal_dir=journal) as running:
            tenant = await running.add_tenant(tenant_url)
            body = {"tenantId": str(tenant), "endpointUrl": device.url, "tags": [mapping("ns=1;s=A")]}
            await nest.until("/health", lambda body: body["status"] != "error")  # its first connection is made
            await nest.ask("POST", "/scada/connections", json=body, status=201)
            mine: dict[str, Any] = {"tenantId": str(tenant)}
            live = await stack.enter_async_context(nest.live(**mine))
            leaving = await stack.enter_async_context(AsyncExitStack())
            other = await leaving.enter_async_context(nest.live(**mine))
        await live.until("interrupted")
        await other.until("interrupted")
        await leaving.aclose()  # while the application waits to subscribe again
        refusal = await nest.client.get("/scada/connections", params=mine)
        assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "1")
        assert refusal.json()["message"] == "the SCADA service does not answer"
        assert (await nest.client.get("/scada/live", params=mine)).status_code == 503
        assert (await nest.ask("GET", "/health", status=503))["status"] == "error"
        async with open_service(postgres, master_url, grpc_port=port, journal_dir=journal) as running:
            await live.until("subscribed")
            await nest.until("/scada/connections", lambda body: len(body["connections"]) == 1, **mine)
            await device.write("A", 42.0)
            while 42.0 not in values(await live.until("readings")):
                pass
            await nest.until("/health", lambda body: body["details"]["scada"]["service"] == "healthy")


async def test_refusals(built_nest: None, postgres: PostgresServer, tenant_url: SecretStr, tmp_path: Path) -> None:
    """Each with its status, a word for programs and the field at fault, whoever noticed it."""
    async with (
        open_service(postgres) as running,
        open_nest(tmp_path, running.addresses.grpc[1]) as nest,
    ):
        tenant = await running.add_tenant(tenant_url)
        body: dict[str, Any] = {
            "tenantId": str(tenant),
            "endpointUrl": f"opc.tcp://127.0.0.1:{free_port()}",
            "tags": [mapping("ns=1;s=A")],
        }
        connection = (await nest.ask("POST", "/scada/connections", json=body, status=201))["connectionId"]
        await check_fields(nest, body, tenant)
        span = {"from": "1", "to": "2"}
        for path, params in (
            ("/scada/connections", {}),
            (f"/scada/wells/{WELL}/readings", span),
            (f"/scada/wells/{WELL}/readings/export", span),
            (f"/scada/wells/{WELL}/aggregates", span),
            ("/scada/latest", {"wellIds": str(WELL)}),
            ("/scada/live", {}),
        ):
            refusal = await nest.ask("GET", path, params={**params, "tenantId": str(ABSENT)}, status=404)
            assert refusal["reason"] == "TENANT_NOT_FOUND"
            assert refusal["resource"] == {"type": "tenant", "name": str(ABSENT)}
        unknown = await nest.ask("POST", "/scada/connections", json={**body, "tenantId": str(ABSENT)}, status=404)
        assert unknown["reason"] == "TENANT_NOT_FOUND"

        other = await running.add_tenant(await trio.to_thread.run_sync(postgres.create_tenant))
        theirs = {"tenantId": str(other)}
        for method in ("GET", "DELETE"):
            await nest.ask(method, f"/scada/connections/{connection}", params=theirs, status=404)
        taken = {**body, **theirs, "connectionId": connection}
        assert "tenant" in (await nest.ask("POST", "/scada/connections", json=taken, status=409))["message"]
        assert running.status(tenant, UUID(connection)) is not None
        off = await nest.ask("POST", "/scada/connections/stored", json=body, status=501)
        assert off["message"] == "SCADA_MASTER_DATABASE_URL is not set"


async def check_fields(nest: Nest, body: dict[str, Any], tenant: UUID) -> None:
    """A DTO's fields and the service's own are told alike."""
    mine: dict[str, Any] = {"tenantId": str(tenant)}
    span = {**mine, "from": "1", "to": "2"}
    for method, path, options, field in (
        ("GET", "/scada/connections/17", {"params": mine}, "connectionId"),
        ("GET", "/scada/connections", {"params": {"tenantId": "north"}}, "tenantId"),
        ("GET", "/scada/connections", {"params": {**mine, "includeTags": "maybe"}}, "includeTags"),
        ("GET", "/scada/wells/7/readings", {"params": span}, "wellId"),
        ("GET", f"/scada/wells/{WELL}/readings", {"params": {**span, "from": "yesterday"}}, "from"),
        ("GET", f"/scada/wells/{WELL}/readings", {"params": {**span, "limit": "0"}}, "limit"),
        ("GET", f"/scada/wells/{WELL}/readings", {"params": {**span, "pageToken": "AAAA"}}, "pageToken"),
        ("GET", f"/scada/wells/{WELL}/readings/export", {"params": {**span, "from": "3"}}, "endTimeUs"),
        ("GET", f"/scada/wells/{WELL}/aggregates", {"params": {**span, "resolution": "weekly"}}, "resolution"),
        ("GET", "/scada/latest", {"params": mine}, "wellIds"),
        ("GET", "/scada/live", {"params": {**mine, "wellIds": ["x"]}}, "wellIds"),
        ("POST", "/scada/connections", {"json": {**body, "colour": "red"}}, "colour"),
        ("POST", "/scada/connections", {"json": {**body, "endpointUrl": "http://x"}}, "endpointUrl"),
        ("POST", "/scada/connections", {"json": {**body, "tags": []}}, "tags"),
        ("POST", "/scada/connections", {"json": {**body, "tags": [mapping("A", wellId=1)]}}, "tags[0].wellId"),
        ("POST", "/scada/connections", {"json": {**body, "tags": [mapping("A"), mapping("B")]}}, "tags[0].nodeId"),
    ):
        refusal = await nest.ask(method, path, status=400, **options)
        assert field in [problem["field"] for problem in refusal["fields"]], refusal
        assert refusal["fields"][0]["description"]
