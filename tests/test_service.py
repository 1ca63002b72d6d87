"""The main job end to end: real devices, a real database, a real gRPC client, and one after the other failing."""

from __future__ import annotations

import math
import threading
import time
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import grpc
import psutil
import pytest
import trio
from pydantic import SecretStr

from scada_trio.desired import ConnectionSpec
from tests.fix_api import run_node_client
from tests.fix_devices import open_device, tag
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import SECRETS, open_service, write_series
from tests.test_api_clients import camel_case, presence_aside
from tests.test_opcua_values import NUMBERS, moment_of

WELL = UUID(int=7)
UNREACHABLE = SecretStr("postgresql://nobody:secret-word@127.0.0.1:1/nowhere")
# a month ago, a whole day: within the retention, and before what devices time themselves
BASE_US = (int(time.time()) // 86_400 - 30) * 86_400_000_000


def is_written(row: tuple[Any, ...]) -> bool:
    """Whether the test wrote this reading: the device's first values carry the time of its start."""
    return bool(BASE_US <= row[0] < BASE_US + 86_400_000_000)


async def test_readings_of_a_device_arrive_in_its_tenants_database_and_over_grpc(
    postgres: PostgresServer, tenant_url: SecretStr, maker: str
) -> None:
    """What a server of each maker wrote is what the database holds and gRPC answers."""
    written = {1.5: (0, "Good"), 2.5: (0x40000000, "Uncertain"), 3.5: (0x80000000, "Bad")}
    async with open_device(maker, nodes=["P"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        await device.write("P", 0.5, source_us=BASE_US)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=P", well_id=WELL)])
        await running.connected(tenant, connection, 1)

        async def stored(count: int) -> bool:
            return sum(map(is_written, await running.rows(tenant))) == count

        await running.until_async(partial(stored, 1))
        for number, (value, (status, _)) in enumerate(written.items(), 1):
            await device.write("P", value, status=status, source_us=BASE_US + number * 1_001_000)
            await running.until_async(partial(stored, 1 + number))  # some servers sample, whatever they are asked
        rows = [row for row in await running.rows(tenant) if is_written(row)]
        answer = await running.call(
            "QueryReadings",
            tenant_id=str(tenant),
            well_id=str(WELL),
            start_time=BASE_US // 10**6,
            end_time=BASE_US // 10**6 + 60,
        )
        stats = await running.call("GetAggregatorStats", tenant_id=str(tenant))
        health = await running.call("HealthCheck")
        metrics = (await running.get("/metrics")).text
    expected = [(BASE_US, "ns=1;s=P", 0.5, "Good")] + [
        (BASE_US + number * 1_001_000, "ns=1;s=P", value, quality)
        for number, (value, (_, quality)) in enumerate(written.items(), 1)
    ]
    if maker == "asyncua":  # which sends no value with a Bad status
        expected[-1] = (*expected[-1][:2], math.nan, "Bad")
    assert repr(rows) == repr(expected)
    assert repr([(r.timestamp, r.tag_node_id, r.value, r.quality) for r in answer.readings]) == repr(
        [(time_us // 10**6, node_id, value, quality) for time_us, node_id, value, quality in reversed(expected)]
    )
    assert {r.well_id for r in answer.readings} == {str(WELL)}
    assert (stats.tenant_id, stats.buffer_size) == (str(tenant), 0)
    assert (health.status, health.active_connections, health.active_tenants) == ("healthy", 1, 1)
    assert f'scada_readings_ingested_total{{tag_node_id="ns=1;s=P",tenant_id="{tenant}",well_id="{WELL}"}}' in metrics


async def test_every_number_is_stored_as_the_device_wrote_it(
    postgres: PostgresServer, tenant_url: SecretStr, maker: str
) -> None:
    """Every scalar number and Boolean of each maker, with its source time."""
    expected: dict[tuple[int, str], float] = {}
    async with open_device(maker) as device, open_service(postgres) as running:
        for kind, _ in NUMBERS:
            await device.add(kind, kind)
        tenant = await running.add_tenant(tenant_url)
        connection = await running.add_connection(tenant, device.url, [tag(f"ns=1;s={kind}") for kind, _ in NUMBERS])
        await running.connected(tenant, connection, len(NUMBERS))
        for place in range(2):
            for number, (kind, values) in enumerate(NUMBERS):
                source_us = BASE_US + (place * 100 + number) * 1_001
                await device.write(kind, values[place], kind=kind, source_us=source_us)
                expected[moment_of(maker, source_us), f"ns=1;s={kind}"] = float(values[place])

            async def stored() -> bool:
                return sum(map(is_written, await running.rows(tenant))) == len(expected)

            await running.until_async(stored)
        rows = {row[:2]: row[2] for row in await running.rows(tenant) if is_written(row)}
    assert rows == expected


async def test_a_nestjs_application_calls_all_methods(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """A NestJS client with the fixed contract, against the whole service."""
    connection, pressure = uuid4(), tag("ns=1;s=P", well_id=WELL)
    seconds = BASE_US // 10**6

    async def call(*calls: dict[str, Any]) -> list[Any]:
        address = "{}:{}".format(*running.addresses.grpc)
        answers = await run_node_client("nest_client.mjs", address, camel_case(list(calls)))
        return [answer["response"] for answer in presence_aside(answers)]

    async with open_device("asyncua", nodes=["P"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        added = {
            "connection_id": str(connection),
            "tenant_id": str(tenant),
            "endpoint_url": device.url,
            "security_mode": "None",
            "security_policy": "None",
            "tags": [
                {"tag_id": str(pressure.tag_id), "well_id": str(WELL), "node_id": "ns=1;s=P", "data_type": "Double"}
            ],
        }
        assert await call({"method": "AddConnection", "request": added}) == [{"success": True}]
        await running.connected(tenant, connection, 1)
        await device.write("P", 12.5, source_us=BASE_US)
        await running.until_stored(tenant, "ns=1;s=P", 12.5)
        span = {"tenant_id": str(tenant), "well_id": str(WELL), "start_time": str(seconds), "end_time": str(seconds)}
        queried, stats, health, removed = await call(
            {"method": "QueryReadings", "request": span},
            {"method": "GetAggregatorStats", "request": {"tenant_id": str(tenant)}},
            {"method": "HealthCheck", "request": {}},
            {"method": "RemoveConnection", "request": {"connection_id": str(connection)}},
        )
    assert queried["readings"] == [
        {
            "wellId": str(WELL),
            "tagNodeId": "ns=1;s=P",
            "timestamp": str(seconds),
            "value": 12.5,
            "quality": "Good",
            "timestampUs": str(BASE_US),
        }
    ]
    assert stats["tenantId"] == str(tenant)
    assert stats["bufferSize"] == 0
    assert health == {"status": "healthy", "activeConnections": 1, "activeTenants": 1}
    assert removed == {"success": True}


async def test_rows_are_also_found_without_a_notification(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """An application that does not notify is followed at the next interval."""
    async with open_service(postgres, registry_interval_ms=50) as running:
        tenant = uuid4()
        await trio.to_thread.run_sync(fetch, running.master_url, "ALTER TABLE tenants DISABLE TRIGGER USER")
        await running.master.add_tenant(tenant, "silent", SECRETS.encrypt(tenant_url))
        await trio.to_thread.run_sync(fetch, running.master_url, "UPDATE tenants SET name = 'silence'")
        await running.until(lambda: getattr(running.snapshot(tenant), "name", "") == "silence")


async def test_a_bad_status_without_a_value_is_stored_as_nan(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """A device that says that it does not know is a reading too."""
    async with open_device("open62541", nodes=["P"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=P", well_id=WELL)])
        await running.connected(tenant, connection, 1)
        await device.write("P", None, status=0x80000000, source_us=BASE_US)

        async def stored() -> bool:
            return any(math.isnan(r[2]) and r[3] == "Bad" for r in await running.rows(tenant, "ns=1;s=P"))

        await running.until_async(stored)


async def test_connections_are_added_changed_and_removed_while_others_run(
    postgres: PostgresServer, tenant_url: SecretStr
) -> None:
    """Both calls are idempotent, a change of tags touches no other tag, and all of it is in the master database."""
    async with open_device("asyncua", nodes=["A", "B"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        kept, dropped = tag("ns=1;s=A"), tag("ns=1;s=B")
        connection = await running.add_connection(tenant, device.url, [kept])
        await running.connected(tenant, connection, 1)
        since = running.status(tenant, connection).since
        for _ in range(2):
            await running.add_connection(tenant, device.url, [kept, dropped], connection_id=connection)
            await running.connected(tenant, connection, 2)
        await running.add_connection(tenant, device.url, [kept], connection_id=connection)
        await running.connected(tenant, connection, 1)
        assert running.status(tenant, connection).since == since
        for _ in range(2):
            assert (await running.call("RemoveConnection", connection_id=str(connection))).success
            assert running.status(tenant, connection) is None
        assert not (await running.call("RemoveConnection", connection_id=str(uuid4()))).success
        rows = await trio.to_thread.run_sync(
            fetch, running.master_url, "SELECT is_active FROM scada_connections WHERE id = %s", connection
        )
        assert rows == [(False,)]


async def test_rows_that_another_application_writes_are_followed(
    postgres: PostgresServer, tenant_url: SecretStr
) -> None:
    """A notification is enough: connection added, tag added, tenant suspended and resumed by plain SQL."""

    async def sql(query: str, *values: object) -> None:
        await trio.to_thread.run_sync(fetch, running.master_url, query, *values)

    insert_tag = (
        "INSERT INTO tag_mappings (id, tenant_id, connection_id, well_id, tag_name, opc_node_id, data_type)"
        " VALUES (%s, %s, %s, %s, 'x', %s, 'Double')"
    )
    async with open_device("asyncua", nodes=["A", "B"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        connection = uuid4()
        await sql(
            "INSERT INTO scada_connections (id, tenant_id, name, endpoint_url, security_mode, security_policy,"
            " is_active) VALUES (%s, %s, 'by sql', %s, 'None', 'None', true)",
            connection,
            tenant,
            device.url,
        )
        await sql(insert_tag, uuid4(), tenant, connection, WELL, "ns=1;s=A")
        await sql("NOTIFY scada_config")
        await running.connected(tenant, connection, 1)
        await sql(insert_tag, uuid4(), tenant, connection, WELL, "ns=1;s=B")
        await sql("NOTIFY scada_config")
        await running.connected(tenant, connection, 2)
        await sql("UPDATE tenants SET status = 'SUSPENDED' WHERE id = %s", tenant)
        await sql("NOTIFY scada_config")
        await running.until(lambda: running.snapshot(tenant) is None)
        assert f'tenant_id="{tenant}"' not in (await running.get("/metrics")).text
        assert (await running.call("HealthCheck")).active_tenants == 0
        await sql("UPDATE tenants SET status = 'ACTIVE' WHERE id = %s", tenant)
        await sql("NOTIFY scada_config")
        await running.connected(tenant, connection, 2)


async def test_a_tenant_whose_database_moves_writes_to_the_new_one(postgres: PostgresServer) -> None:
    """A changed database_url restarts that tenant alone, with everything flushed to the old one first."""
    old, new = await trio.to_thread.run_sync(lambda: (postgres.create_tenant(), postgres.create_tenant()))
    async with open_device("asyncua", nodes=["A"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(old)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=A")])
        await running.connected(tenant, connection, 1)
        await device.write("A", 1.0, source_us=BASE_US)
        await running.until_stored(tenant, "ns=1;s=A", 1.0)
        await trio.to_thread.run_sync(
            fetch,
            running.master_url,
            "UPDATE tenants SET database_url = %s WHERE id = %s",
            SECRETS.encrypt(new),
            tenant,
        )
        await trio.to_thread.run_sync(fetch, running.master_url, "NOTIFY scada_config")
        running.tenants[tenant] = new
        await running.until(lambda: running.snapshot(tenant) is not None)
        await device.write("A", 2.0, source_us=BASE_US + 1)
        await running.until_stored(tenant, "ns=1;s=A", 2.0)


async def test_a_connection_is_shown_with_what_it_lost(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """GetConnection: refused tags and state from the link, the loss of a device's restart from the ledger."""
    async with open_device("asyncua", nodes=["A"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=A"), tag("ns=1;s=missing")])
        await running.connected(tenant, connection, 1)
        await device.write("A", 1.0, source_us=BASE_US)
        await running.until_stored(tenant, "ns=1;s=A", 1.0)
        await device.kill()
        await running.until(lambda: running.status(tenant, connection).state != "connected")
        await device.start()
        await running.connected(tenant, connection, 1)

        async def shown() -> bool:
            answer = await running.call("GetConnection", connection_id=str(connection))
            return [loss.reason for loss in answer.losses] == ["subscription_lost"]

        await running.until_async(shown)
        answer = await running.call("GetConnection", connection_id=str(connection))
        await running.call("RemoveConnection", connection_id=str(connection))
        with pytest.raises(grpc.RpcError) as gone:
            await running.call("GetConnection", connection_id=str(connection))
    assert (answer.tenant_id, answer.state, answer.tags_monitored) == (str(tenant), "connected", 1)
    assert [(refused.node_id, refused.status) for refused in answer.tags_refused] == [
        ("ns=1;s=missing", "BadNodeIdUnknown")
    ]
    assert answer.losses[0].from_time_us <= answer.losses[0].to_time_us
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND


async def test_connections_take_no_threads(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """Threads are for calls: as many connections as one likes need no more of them than a tenant may use at once."""
    count = 60
    before = threading.active_count()
    async with open_device("open62541", nodes=["A"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        for _ in range(count):
            spec = ConnectionSpec(uuid4(), tenant, "", device.url, tags=(tag("ns=1;s=A", well_id=uuid4()),))
            await running.master.store_connection(spec, None)
        await running.until(lambda: running.snapshot(tenant).connected == count)
        threads = threading.active_count() - before
        await device.write("A", 7.0, source_us=BASE_US)

        async def all_stored() -> bool:
            return sum(map(is_written, await running.rows(tenant))) == count

        await running.until_async(all_stored)
    assert threads < count / 2


async def test_stopping_flushes_what_was_accepted_and_leaves_nothing_behind(
    postgres: PostgresServer, tenant_url: SecretStr
) -> None:
    """The last readings are in the database although no batch was due; no task, socket or child is left."""
    before = set(psutil.Process().net_connections())
    async with open_device("asyncua", nodes=["A"]) as device:
        async with open_service(postgres, aggregation_buffer_ms=3_600_000) as running:
            tenant = await running.add_tenant(tenant_url)
            connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=A")])
            await running.connected(tenant, connection, 1)
            await write_series(device, "A", 1, 30, base_us=BASE_US)
            await running.until(lambda: running.snapshot(tenant).buffered >= 30)
            assert await running.rows(tenant) == []
        values = [row[2] for row in await running.rows(tenant) if is_written(row)]
        assert values == [float(number) for number in range(1, 31)]
        assert {c for c in psutil.Process().net_connections() if c.status != "TIME_WAIT"} <= before
    assert not [thread for thread in threading.enumerate() if "opcua" in thread.name.lower()]
