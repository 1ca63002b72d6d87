"""The query API on the whole service: tenants kept apart, queries that end on the server, connections that change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
import trio
from pydantic import SecretStr

from scada_trio.api._generated import scada_pb2
from tests.fix_api import grpcio_stream
from tests.fix_devices import open_device, tag
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import RunningService, open_service
from tests.test_api_statuses import told

WELL = UUID(int=7)
LAST_US = 253_402_300_799_999_999
READERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'scada-trio reader' AND datname = current_database() AND state = 'active'"""


def fill(url: SecretStr, value: float, count: int = 50) -> None:
    """Readings of one well and one tag, all with the same value, a minute apart."""
    fetch(
        url,
        """INSERT INTO scada_readings (timestamp, well_id, tag_node_id, value)
           SELECT date_trunc('hour', now()) - n * interval '1 minute', %s, 'ns=1;s=P', %s
           FROM generate_series(1, %s) n""",
        WELL,
        value,
        count,
    )


async def stream(running: RunningService, timeout_s: float = 30.0, **fields: Any) -> list[Any]:
    """All readings of a stream."""

    def blocking() -> list[Any]:
        with grpc.insecure_channel("{}:{}".format(*running.addresses.grpc)) as channel:
            messages = grpcio_stream(channel, timeout_s=timeout_s, **fields)
            return [reading for message in messages for reading in message.readings]

    return await trio.to_thread.run_sync(blocking)


def span(tenant: UUID, **fields: Any) -> dict[str, Any]:
    return {"tenant_id": str(tenant), "well_id": str(WELL), "end_time_us": LAST_US, **fields}


@asynccontextmanager
async def locked_readings(url: SecretStr) -> AsyncIterator[None]:
    with psycopg.connect(url.get_secret_value()) as connection:
        connection.execute("LOCK TABLE scada_readings IN ACCESS EXCLUSIVE MODE")
        yield


async def test_a_tenant_sees_its_own_readings_only(postgres: PostgresServer) -> None:
    """Two tenants with the same well and the same tag: no method answers with the other's, nor does a page token."""
    urls = [postgres.create_tenant(), postgres.create_tenant()]
    for value, url in enumerate(urls):
        fill(url, float(value))
    async with open_service(postgres) as running:
        tenants = [await running.add_tenant(url) for url in urls]
        tokens = []
        for value, tenant in enumerate(tenants):
            page = await running.call("QueryReadings", **span(tenant, limit=20))
            tokens.append(page.next_page_token)
            rest = await running.call("QueryReadings", **span(tenant, limit=20, page_token=page.next_page_token))
            newest = await running.call("LatestReadings", tenant_id=str(tenant), well_ids=[str(WELL)])
            found = [*page.readings, *rest.readings, *newest.readings, *await stream(running, **span(tenant))]
            assert (len(found), {reading.value for reading in found}) == (20 + 20 + 1 + 50, {float(value)})
            hours = await running.call("QueryAggregates", **span(tenant, resolution=scada_pb2.RESOLUTION_HOURLY))
            assert {(a.min, a.max) for a in hours.aggregates} == {(value, value)}
            assert sum(a.total_count for a in hours.aggregates) == 50
        with pytest.raises(grpc.RpcError) as raised:
            await running.call("QueryReadings", **span(tenants[0], limit=20, page_token=tokens[1]))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        for method, fields in (
            ("QueryReadings", span(uuid4())),
            ("QueryAggregates", span(uuid4())),
            ("LatestReadings", {"tenant_id": str(uuid4()), "well_ids": [str(WELL)]}),
            ("ListConnections", {"tenant_id": str(uuid4())}),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                await running.call(method, **fields)
            error = told(raised.value)
            assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "TENANT_NOT_FOUND")
            assert error.details["ResourceInfo"].resource_name == fields["tenant_id"]
        with pytest.raises(grpc.RpcError) as raised:
            await stream(running, **span(uuid4()))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_page_tokens_outlive_the_process(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """A restarted service, or another one beside it, goes on where an answer ended."""
    fill(tenant_url, 1.0)
    master = postgres.create_master()
    async with open_service(postgres, master) as running:
        tenant = await running.add_tenant(tenant_url)
        first = await running.call("QueryReadings", **span(tenant, limit=20))
    async with open_service(postgres, master) as running:
        await running.until(lambda: running.snapshot(tenant) is not None)
        rest = await running.call("QueryReadings", **span(tenant, limit=40, page_token=first.next_page_token))
    times = [reading.timestamp for reading in (*first.readings, *rest.readings)]
    assert times == sorted(set(times), reverse=True)
    assert (len(times), rest.next_page_token) == (50, "")


@pytest.mark.parametrize("method", ["QueryReadings", "QueryAggregates", "LatestReadings", "StreamReadings"])
async def test_a_deadline_stops_the_query_on_the_server(
    postgres: PostgresServer, tenant_url: SecretStr, method: str
) -> None:
    """And the next call is answered."""
    fill(tenant_url, 1.0)
    async with open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        fields = span(tenant) if method != "LatestReadings" else {"tenant_id": str(tenant), "well_ids": [str(WELL)]}

        async def ask(timeout_s: float) -> object:
            if method == "StreamReadings":
                return await stream(running, timeout_s, **fields)
            return await running.call(method, timeout_s=timeout_s, **fields)

        async with locked_readings(tenant_url):
            with pytest.raises(grpc.RpcError) as raised:
                await ask(1.0)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until_readers(tenant_url, 0)  # while the lock is held: it was cancelled, it did not go on
        assert await ask(30.0)


async def until_readers(url: SecretStr, expected: int) -> None:
    with trio.fail_after(30):
        while (await trio.to_thread.run_sync(fetch, url, READERS))[0][0] != expected:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_a_client_that_cancels_a_stream_stops_its_query(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    fill(tenant_url, 1.0)
    async with open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        channel = grpc.insecure_channel("{}:{}".format(*running.addresses.grpc))
        async with locked_readings(tenant_url):
            call = grpcio_stream(channel, **span(tenant))
            await until_readers(tenant_url, 1)
            call.cancel()
            await until_readers(tenant_url, 0)
        await trio.to_thread.run_sync(channel.close)
        assert len(await stream(running, **span(tenant))) == 50


async def test_a_query_over_the_statement_timeout_says_so(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    async with open_service(postgres, db_statement_timeout_ms=1000) as running:
        tenant = await running.add_tenant(tenant_url)
        async with locked_readings(tenant_url):
            with pytest.raises(grpc.RpcError) as raised:
                await running.call("QueryReadings", **span(tenant))
    error = told(raised.value)
    assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "STATEMENT_TIMEOUT")
    assert "shorter range" in error.text


# --- connections


def mapping(name: str, tag_id: UUID | None = None) -> dict[str, str]:
    return {"tag_id": str(tag_id or uuid4()), "well_id": str(WELL), "node_id": f"ns=1;s={name}", "data_type": "Double"}


async def test_tags_are_changed_one_by_one(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """Added, changed, removed and replaced on a live subscription; what cannot be is refused and changes nothing."""
    async with open_device("asyncua", nodes=["A", "B", "C"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        first = tag("ns=1;s=A", well_id=WELL)
        connection = await running.add_connection(tenant, device.url, [first])
        await running.connected(tenant, connection, 1)
        ids = {"tenant_id": str(tenant), "connection_id": str(connection)}
        since = running.status(tenant, connection).since

        async def update(**fields: Any) -> int:
            return int((await running.call("UpdateConnectionTags", **ids, **fields)).tags_configured)

        async def refused(**fields: Any) -> tuple[grpc.StatusCode, str]:
            with pytest.raises(grpc.RpcError) as raised:
                await update(**fields)
            return raised.value.code(), raised.value.details()

        second = mapping("B")
        assert await update(tags=[second]) == 2
        await running.connected(tenant, connection, 2)
        assert await update(tags=[second | {"node_id": "ns=1;s=C"}], remove_tag_ids=[str(first.tag_id)]) == 1
        await running.connected(tenant, connection, 1)
        assert await update(tags=[mapping("A"), mapping("B")], replace=True) == 2
        await running.connected(tenant, connection, 2)
        assert running.status(tenant, connection).since == since  # the session never noticed
        await device.write("B", 7.5)
        await running.until_stored(tenant, "ns=1;s=B", 7.5)

        listed = await running.call("ListConnections", tenant_id=str(tenant), include_tags=True)
        (summary,) = listed.connections
        tags = [t.tag_id for t in summary.tags]
        failed, missing = grpc.StatusCode.FAILED_PRECONDITION, uuid4()
        code, text = await refused(remove_tag_ids=[str(missing)])
        assert (code, str(missing) in text) == (failed, True)
        code, text = await refused(remove_tag_ids=tags)
        assert (code, "no tag would be left" in text) == (failed, True)
        code, text = await refused(tags=[mapping("A")])
        assert (code, "same node" in text) == (failed, True)
        for fields in ({}, {"replace": True}, {"tags": [mapping("A", UUID(tags[0]))], "remove_tag_ids": [tags[0]]}):
            assert (await refused(**fields))[0] is grpc.StatusCode.INVALID_ARGUMENT
        again = await running.call("ListConnections", tenant_id=str(tenant), include_tags=True)
        assert [t.tag_id for t in again.connections[0].tags] == tags
        assert (summary.tags_configured, summary.tags_monitored, summary.state) == (2, 2, "connected")
        assert (summary.active, summary.endpoint_url) == (True, device.url)
        assert summary.readings > 0
        assert summary.readings_per_second > 0


async def test_a_connection_is_its_tenants_alone(postgres: PostgresServer) -> None:
    """Another tenant's connection or tag is not there, whoever knows its id; an inactive one is listed as such."""
    urls = [postgres.create_tenant(), postgres.create_tenant()]
    async with open_service(postgres) as running:
        ours, theirs = [await running.add_tenant(url, name) for url, name in zip(urls, ("ours", "theirs"), strict=True)]
        mine = tag("ns=1;s=A", well_id=WELL)
        own = await running.add_connection(ours, "opc.tcp://127.0.0.1:1", [mine])
        login = {"username": "reader", "password": "s3cret"}
        other = await running.add_connection(theirs, "opc.tcp://127.0.0.1:1", [tag("ns=1;s=A", well_id=WELL)], **login)
        listed = await running.call("ListConnections", tenant_id=str(theirs), include_tags=True)
        assert [(c.connection_id, c.username, len(c.tags)) for c in listed.connections] == [(str(other), "reader", 1)]
        assert "s3cret" not in str(listed)
        for method, fields in (
            ("UpdateConnectionTags", {"tags": [mapping("B")]}),
            ("RestartConnection", {}),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                await running.call(method, connection_id=str(other), tenant_id=str(ours), **fields)
            error = told(raised.value)
            assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "CONNECTION_NOT_FOUND")
            assert error.details["ResourceInfo"].resource_name == str(other)
        taken: dict[str, Any] = {"connection_id": str(other), "tenant_id": str(theirs)}
        taken["tags"] = [mapping("B", mine.tag_id)]
        with pytest.raises(grpc.RpcError) as raised:
            await running.call("UpdateConnectionTags", **taken)
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        await running.call("RemoveConnection", connection_id=str(own))
        (summary,) = (await running.call("ListConnections", tenant_id=str(ours))).connections
        assert (summary.connection_id, summary.active, summary.state) == (str(own), False, "inactive")
        assert (summary.tags_configured, len(summary.tags)) == (1, 0)
        with pytest.raises(grpc.RpcError) as raised:
            await running.call("RestartConnection", connection_id=str(own), tenant_id=str(ours))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        fetch(running.master_url, "UPDATE tenants SET status = 'SUSPENDED' WHERE name = 'theirs'")
        fetch(running.master_url, "NOTIFY scada_config")
        await running.until(lambda: running.snapshot(theirs) is None)
        tenants = (await running.call("ListTenants")).tenants
    assert [(t.name, t.status, t.state, t.connections, t.connections_connected) for t in tenants] == [
        ("ours", "ACTIVE", "running", 0, 0),
        ("theirs", "SUSPENDED", "stopped", 1, 0),
    ]


async def test_a_list_tells_what_was_stored(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """What AddConnection says of connection and tags comes back; what it left out, or cannot be read, is absent."""
    own: dict[str, Any] = {"sampling_interval_ms": 250.0, "queue_size": 7, "discard_oldest": False}
    full = mapping("A") | own | {"name": "Casing", "unit": "bar", "scaling_factor": 0.5, "deadband_percent": 2.0}
    async with open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        request = own | {"connection_id": str(uuid4()), "endpoint_url": "opc.tcp://127.0.0.1:1", "name": "rtu-17"}
        request |= {"publishing_interval_ms": 2000.0}

        async def listed() -> tuple[dict[str, Any], dict[str, Any]]:
            answer = await running.call("ListConnections", tenant_id=str(tenant), include_tags=True)
            (summary,) = answer.connections
            (stored,) = summary.tags
            summary, stored = ({f.name: value for f, value in message.ListFields()} for message in (summary, stored))
            return summary, stored

        await running.call("AddConnection", tenant_id=str(tenant), **request, tags=[full])
        summary, stored = await listed()
        assert {name: summary[name] for name in request} == request
        assert stored == full
        fetch(running.master_url, "UPDATE scada_connections SET queue_size = 0")
        fetch(running.master_url, "UPDATE tag_mappings SET deadband_percent = NULL, queue_size = NULL")
        summary, stored = await listed()
    assert not set(own) & set(summary)
    assert "publishing_interval_ms" not in summary
    assert set(full) - set(stored) == {"deadband_percent", "queue_size"}


async def test_a_restarted_connection_logs_in_anew_and_misses_nothing(
    postgres: PostgresServer, tenant_url: SecretStr
) -> None:
    """The session is another one; what the device writes meanwhile arrives."""
    async with open_device("node-opcua", nodes=["A"]) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=A", well_id=WELL)])
        await running.connected(tenant, connection, 1)
        since = running.status(tenant, connection).since
        await running.call("RestartConnection", connection_id=str(connection), tenant_id=str(tenant))
        await device.write("A", 41.5)
        await running.until(lambda: running.status(tenant, connection).since > since)
        await running.connected(tenant, connection, 1)
        await device.write("A", 42.5)
        await running.until_stored(tenant, "ns=1;s=A", 42.5)
        await running.until_stored(tenant, "ns=1;s=A", 41.5)
