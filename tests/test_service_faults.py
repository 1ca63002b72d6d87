"""The whole service when devices, databases, ports and tenants fail, on real databases and real devices."""

from __future__ import annotations

import json
import time
from uuid import uuid4

import pytest
import trio
from pydantic import SecretStr

from scada_trio.errors import ConfigError
from tests.fix_devices import free_port, open_device, tag
from tests.fix_postgres import PostgresServer, record_inserts
from tests.fix_service import open_service, write_series
from tests.test_service import BASE_US, UNREACHABLE, WELL, is_written


async def test_a_killed_device_resumes_and_its_neighbour_does_not_notice(
    postgres: PostgresServer, tenant_url: SecretStr
) -> None:
    """Readings resume when the device is back, without a restart; the other link keeps its session."""
    async with (
        open_device("asyncua", nodes=["A"]) as lost,
        open_device("asyncua", nodes=["B"]) as neighbour,
        open_service(postgres) as running,
    ):
        tenant = await running.add_tenant(tenant_url)
        first = await running.add_connection(tenant, lost.url, [tag("ns=1;s=A")])
        second = await running.add_connection(tenant, neighbour.url, [tag("ns=1;s=B")])
        await running.connected(tenant, first, 1)
        await running.connected(tenant, second, 1)
        connected_since = running.status(tenant, second).since
        await lost.kill()
        await running.until(lambda: running.status(tenant, first).state != "connected")
        assert (await running.call("HealthCheck")).status == "degraded"
        await write_series(neighbour, "B", 1, 20, base_us=BASE_US)
        await running.until_stored(tenant, "ns=1;s=B", 20.0)
        await lost.start()
        await running.connected(tenant, first, 1)
        await lost.write("A", 77.0, source_us=BASE_US)
        await running.until_stored(tenant, "ns=1;s=A", 77.0)
        assert running.status(tenant, second).since == connected_since
        values = [row[2] for row in await running.rows(tenant, "ns=1;s=B") if is_written(row)]
    assert values == [float(number) for number in range(1, 21)]


async def test_a_frozen_device_is_noticed_and_taken_up_again(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """SIGSTOP: noticed within three keep-alive periods, reconnected when it thaws."""
    keep_alive_s = 1.0
    async with (
        open_device("open62541", nodes=["A"]) as device,
        open_service(postgres, opc_keep_alive_ms=int(keep_alive_s * 1000)) as running,
    ):
        tenant = await running.add_tenant(tenant_url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=A")])
        await running.connected(tenant, connection, 1)
        device.freeze()
        frozen_at = time.monotonic()
        await running.until(lambda: running.status(tenant, connection).state != "connected")
        noticed_s = time.monotonic() - frozen_at
        device.thaw()
        await running.connected(tenant, connection, 1)
        await device.write("A", 5.0, source_us=BASE_US)
        await running.until_stored(tenant, "ns=1;s=A", 5.0)
    assert noticed_s < 3 * keep_alive_s + 1.0  # and what a busy machine adds


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_database_that_restarts_loses_and_repeats_nothing(own_postgres: PostgresServer, how: str) -> None:
    """Readings flow while PostgreSQL goes down and comes back: each is stored exactly once."""
    total = 600
    async with open_device("asyncua", nodes=["N"]) as device, open_service(own_postgres) as running:
        url = await trio.to_thread.run_sync(own_postgres.create_tenant)
        await trio.to_thread.run_sync(record_inserts, url)
        tenant = await running.add_tenant(url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=N")])
        await running.connected(tenant, connection, 1)
        async with trio.open_nursery() as nursery:
            down = trio.Event()

            async def write() -> None:
                await write_series(device, "N", 1, total // 2, base_us=BASE_US)
                await down.wait()  # a fast device would be through before the database is gone
                await write_series(device, "N", total // 2 + 1, total - total // 2, base_us=BASE_US)

            nursery.start_soon(write)
            await running.until_stored(tenant, "ns=1;s=N", 50.0)
            await trio.to_thread.run_sync(own_postgres.stop if how == "stop" else own_postgres.kill)
            down.set()
            await running.until(lambda: running.snapshot(tenant).buffered > 20)
            await trio.to_thread.run_sync(own_postgres.start)
        await running.until_stored(tenant, "ns=1;s=N", float(total))
        values = [row[2] for row in await running.rows(tenant, "ns=1;s=N", "inserted") if is_written(row)]
        assert running.snapshot(tenant).buffered == 0
    assert values == [float(number) for number in range(1, total + 1)]


async def test_one_tenants_trouble_costs_the_other_nothing(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """A database that is away, a refused login and a thousand bad node ids stay with the tenant that has them."""
    total = 300
    async with (
        open_device("node-opcua", nodes=["G"], users={"operator": "right-word"}) as guarded,
        open_device("asyncua", nodes=["N"]) as device,
        open_service(postgres) as running,
    ):
        troubled = await running.add_tenant(UNREACHABLE)
        well = await running.add_tenant(tenant_url)
        refused = await running.add_connection(
            troubled, guarded.url, [tag("ns=1;s=G")], username="operator", password="wrong-word"
        )
        await running.add_connection(troubled, f"opc.tcp://127.0.0.1:{free_port()}", [tag("ns=1;s=X")])
        bad = [tag(f"ns=1;s=missing-{number}") for number in range(1000)]
        many = await running.add_connection(troubled, device.url, [*bad, tag("ns=1;s=N")])
        good = await running.add_connection(well, device.url, [tag("ns=1;s=N")])
        await running.connected(troubled, many, 1)
        await running.connected(well, good, 1)
        await running.until(lambda: running.status(troubled, refused).state == "refused")
        await write_series(device, "N", 1, total, base_us=BASE_US)
        await running.until_stored(well, "ns=1;s=N", float(total))
        values = [row[2] for row in await running.rows(well, "ns=1;s=N") if is_written(row)]
        status = running.status(troubled, many)
        snapshot = running.snapshot(troubled)
        health = await running.call("HealthCheck")
        metrics = (await running.get("/metrics")).text
        running.settings.shutdown_grace_ms = 500  # what the troubled tenant holds has nowhere to go
    assert values == [float(number) for number in range(1, total + 1)]
    assert len(status.tags_refused) == 1000
    assert {refusal.status for refusal in status.tags_refused} == {"BadNodeIdUnknown"}
    assert snapshot.state == "database away"
    assert health.status == "degraded"
    for text in (metrics, str(snapshot)):
        assert "secret-word" not in text
        assert "wrong-word" not in text


async def test_a_row_that_cannot_be_used_is_shown_and_hides_no_other(
    postgres: PostgresServer, tenant_url: SecretStr
) -> None:
    """A URL that does not decrypt makes that tenant refused and the service degraded; the others run."""
    async with open_service(postgres) as running:
        broken = uuid4()
        await running.master.add_tenant(broken, "broken", "00" * 16 + ":" + "00" * 16 + ":abcd")
        good = await running.add_tenant(tenant_url)
        await running.until(lambda: running.snapshot(broken) is not None)
        assert running.snapshot(broken).state == "refused"
        assert "ENCRYPTION_KEY" in running.snapshot(broken).last_error
        assert running.snapshot(good).state == "running"
        assert (await running.call("HealthCheck")).status == "degraded"


async def test_health_and_readiness_follow_the_master_database(own_postgres: PostgresServer) -> None:
    """Without it the service is unhealthy and not ready, and alive; what runs goes on; it recovers by itself."""
    async with open_service(own_postgres) as running:
        assert (await running.call("HealthCheck")).status == "unhealthy"  # no tenant runs
        url = await trio.to_thread.run_sync(own_postgres.create_tenant)
        tenant = await running.add_tenant(url)
        await running.until(lambda: running.snapshot(tenant).state == "running")
        assert (await running.get("/readyz")).status_code == 200
        await trio.to_thread.run_sync(own_postgres.stop)

        async def is_unready() -> bool:
            return (await running.get("/readyz")).status_code == 503

        await running.until_async(is_unready)
        assert "master database" in json.dumps((await running.get("/readyz")).json())
        assert (await running.get("/healthz")).status_code == 200
        assert (await running.call("HealthCheck")).status == "unhealthy"
        refused = await running.call(
            "AddConnection",
            connection_id=str(uuid4()),
            tenant_id=str(tenant),
            endpoint_url="opc.tcp://127.0.0.1:4840",
            tags=[{"tag_id": str(uuid4()), "well_id": str(WELL), "node_id": "i=1"}],
        )
        assert (refused.success, bool(refused.error)) == (False, True)
        await trio.to_thread.run_sync(own_postgres.start)

        async def is_ready() -> bool:
            return (await running.get("/readyz")).status_code == 200

        await running.until_async(is_ready)


async def test_a_tenant_that_is_not_migrated_says_so_and_works_once_it_is(postgres: PostgresServer) -> None:
    """The state names the command that helps; nothing is lost meanwhile."""
    from scada_trio.storage.migrate import migrate_tenant

    url = await trio.to_thread.run_sync(postgres.create_database)
    async with open_device("asyncua", nodes=["A"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=A")])
        await running.connected(tenant, connection, 1)
        await device.write("A", 1.0, source_us=BASE_US)
        await running.until(lambda: "scada-trio migrate" in (running.snapshot(tenant).last_error or ""))
        assert running.snapshot(tenant).state == "database misconfigured"
        await trio.to_thread.run_sync(migrate_tenant, url)
        await running.until_stored(tenant, "ns=1;s=A", 1.0)
        await running.until(lambda: running.snapshot(tenant).state == "running")


@pytest.mark.parametrize("variable", ["GRPC_PORT", "METRICS_PORT"])
async def test_a_taken_port_is_named(postgres: PostgresServer, variable: str) -> None:
    """The start fails with the variable's name, and leaves nothing running."""
    async with open_service(postgres) as running:
        taken = running.addresses.grpc[1] if variable == "GRPC_PORT" else running.addresses.http[1]
        with pytest.RaisesGroup(ConfigError, flatten_subgroups=True, allow_unwrapped=True) as caught:
            async with open_service(postgres, None, **{variable.lower(): taken}):
                pytest.fail("it started")
        assert variable in repr(caught.value)


async def test_a_tenants_bug_is_its_own(
    postgres: PostgresServer, tenant_url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error ends that tenant's tasks, is counted, and the tenant comes back with what it had accepted."""
    from scada_trio.storage.tenant_db import TenantWriter

    real, failures = TenantWriter.write, iter([RuntimeError("a bug")])

    async def write(self: TenantWriter, *args: object) -> object:
        for failure in failures:
            raise failure
        return await real(self, *args)  # type: ignore[arg-type]

    async with open_device("asyncua", nodes=["A"]) as device, open_service(postgres) as running:
        monkeypatch.setattr(TenantWriter, "write", write)
        tenant = await running.add_tenant(tenant_url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=A")])
        await device.write("A", 42.0, source_us=BASE_US)
        await running.until_stored(tenant, "ns=1;s=A", 42.0)
        await running.connected(tenant, connection, 1)
        labels = {"tenant_id": str(tenant)}
        assert running.metrics.registry.get_sample_value("scada_tenant_restarts_total", labels) == 1
