"""examples/nestjs when something is wrong: databases away, slow readers, broken answers, bad settings, a stop."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
import trio

from scada_trio.errors import DatabaseUnavailable
from scada_trio.readings import ReadingBlock
from tests.fake_backend import TENANT, FakeBackend
from tests.fake_backend import WELL as SERVED_WELL
from tests.fix_api import ServeApi, eventually
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_webapp import mapping, npm, open_nest, run, start_nest, tls_before

LONG_NODE_ID = "ns=2;s=" + "x" * 700


async def test_a_master_database_that_is_away(
    built_nest: None, own_postgres: PostgresServer, serve_api: ServeApi, tmp_path: Path
) -> None:
    """503 while it is away, whatever connections were open to it; the application needs no restart."""
    master_url = await trio.to_thread.run_sync(own_postgres.create_master)
    body = {"tenantId": str(TENANT), "endpointUrl": "opc.tcp://127.0.0.1:4840", "tags": [mapping("ns=1;s=A")]}
    path = "/scada/connections/stored"
    async with serve_api() as api, open_nest(tmp_path, api.port, master_url) as nest:
        await nest.ask("POST", path, json=body, status=404)
        await trio.to_thread.run_sync(own_postgres.stop)
        away = await nest.client.post(path, json=body)
        assert (away.status_code, away.headers["retry-after"]) == (503, "1")
        assert away.json()["message"] == "the master database is away"
        await trio.to_thread.run_sync(own_postgres.start)
        fetch(master_url, "INSERT INTO tenants (id, name, database_url) VALUES (%s, 'north', 'postgresql://x')", TENANT)
        stored = await nest.ask("POST", path, json=body, status=202)
        [(tag_id,)] = fetch(master_url, "SELECT id FROM tag_mappings WHERE connection_id = %s", stored["connectionId"])
        taken = {**body, "tags": [mapping("ns=1;s=A", tagId=str(tag_id))]}
        assert "another connection" in (await nest.ask("POST", path, json=taken, status=409))["message"]
        assert fetch(master_url, "SELECT count(*) FROM scada_connections") == [(1,)]  # nothing of the refused one


async def test_a_password_is_not_stored_without_a_key(
    built_nest: None, postgres: PostgresServer, serve_api: ServeApi, tmp_path: Path
) -> None:
    master_url = await trio.to_thread.run_sync(postgres.create_master)
    body = {"tenantId": str(TENANT), "endpointUrl": "opc.tcp://127.0.0.1:4840", "tags": [mapping("ns=1;s=A")]}
    async with serve_api() as api, open_nest(tmp_path, api.port, master_url, ENCRYPTION_KEY="") as nest:
        named = {**body, "username": "operator", "password": "right-word"}
        refusal = await nest.ask("POST", "/scada/connections/stored", json=named, status=501)
        assert refusal["message"] == "a password cannot be stored: ENCRYPTION_KEY is not set"


async def test_a_restart_is_a_pause(built_nest: None, serve_api: ServeApi, tmp_path: Path) -> None:
    """A request that comes while the service is down waits for it, a subscription too."""
    path, params = "/scada/connections", {"tenantId": str(TENANT)}
    async with serve_api() as api, open_nest(tmp_path, api.port) as nest:
        await nest.ask("GET", path, params=params)
        api.stop.set()
        await api.done.wait()
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await nest.ask("GET", path, params=params))

        async def listen() -> None:
            async with nest.live(tenantId=TENANT):
                answers.append("live")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(listen)
            await nest.until("/health", lambda _: True, status=503)
            assert answers == []
            async with serve_api(port=api.port):
                await eventually(lambda: len(answers) == 2)
    assert {"connections": []} in answers


async def test_a_database_that_is_away_and_an_export_that_breaks(
    built_nest: None, serve_api: ServeApi, backend: FakeBackend, tmp_path: Path
) -> None:
    """503 with the service's own word while nothing was answered; later the connection is cut: no part looks whole."""
    span = {"tenantId": str(TENANT), "from": "1", "to": "2000000000000000"}
    path = f"/scada/wells/{SERVED_WELL}/readings"
    async with serve_api() as api, open_nest(tmp_path, api.port) as nest:
        backend.fault = DatabaseUnavailable("the database is away", "57P01")
        for one in (path, f"{path}/export"):
            refusal = await nest.client.get(one, params=span)
            assert refusal.status_code == 503
            assert refusal.headers["retry-after"] == "1"
            assert refusal.json()["reason"] == "DATABASE_UNAVAILABLE"
        backend.fault = None
        backend.fill(100_000, node_id="ns=2;s=" + "x" * 500)
        async with nest.stream(f"{path}/export", **span) as response:
            lines = response.iter_lines()
            assert json.loads(await trio.to_thread.run_sync(next, lines))["quality"] == "Good"
            backend.fault = DatabaseUnavailable("the database is away", "57P01")
            with pytest.raises(httpx.RemoteProtocolError):
                await trio.to_thread.run_sync(list, lines)
        await eventually(lambda: "cut short: the database is away" in nest.log.read_text())


async def test_an_export_that_nobody_reads_asks_for_no_more(
    built_nest: None, serve_api: ServeApi, backend: FakeBackend, tmp_path: Path
) -> None:
    """Of 8 pages of 7 MB some are under way; the others are fetched as they are read."""
    span = {"tenantId": str(TENANT), "from": "1", "to": "2000000000000000"}
    backend.fill(64_000, node_id=LONG_NODE_ID)
    async with (
        serve_api() as api,
        open_nest(tmp_path, api.port) as nest,
        nest.stream(f"/scada/wells/{SERVED_WELL}/readings/export", **span) as response,
    ):
        lines = response.iter_lines()
        await trio.to_thread.run_sync(next, lines)
        with trio.move_on_after(4):
            while backend.pages < 8:  # noqa: ASYNC110 - what must not come
                await trio.sleep(0.05)
        assert backend.pages < 8
        assert await trio.to_thread.run_sync(lambda: sum(1 for _ in lines)) == 63_999


async def test_what_a_slow_reader_misses_is_counted(
    built_nest: None, serve_api: ServeApi, backend: FakeBackend, tmp_path: Path
) -> None:
    """Live readings are held up to where the service drops them and says so; none is gone in silence."""
    async with serve_api() as api, open_nest(tmp_path, api.port) as nest, nest.live(tenantId=TENANT) as live:
        series = backend.tags.index_of(SERVED_WELL, LONG_NODE_ID)
        published = 0
        while published < 60_000:
            numbers = np.arange(published, published + 1_000)
            times, values = 1_700_000_000_000_000 + numbers, numbers.astype(float)
            backend.hub.publish(
                [ReadingBlock(np.full(1_000, series, np.int32), times, values, np.zeros(1_000, np.uint8))]
            )
            published += 1_000
            await trio.sleep(0.05)
        received, missed, last = 0, 0, -1.0
        while last != published - 1:
            name, data = await live.next()
            if name == "missed":
                missed += int(data["count"])
            else:
                received += len(data)
                last = data[-1]["value"]
        assert missed > 0
        assert received + missed == published


async def test_tls(built_nest: None, serve_api: ServeApi, tmp_path: Path) -> None:
    """With a certificate of its own, to a server whose certificate the given authority has signed, and to no other."""
    path, params = "/scada/connections", {"tenantId": str(TENANT)}
    async with serve_api() as api, tls_before(api.port, tmp_path) as (port, settings):
        async with open_nest(tmp_path, port, **settings) as nest:
            assert await nest.ask("GET", path, params=params) == {"connections": []}
        del settings["SCADA_GRPC_TLS_CA"]
        async with open_nest(tmp_path, port, **settings, SCADA_GRPC_TIMEOUT_MS=500) as nest:
            await nest.ask("GET", path, params=params, status=503)


async def test_a_stop_while_somebody_listens(
    built_nest: None, serve_api: ServeApi, backend: FakeBackend, tmp_path: Path
) -> None:
    """SIGTERM ends the application at once, with readers of live readings, and with one that waits for the service."""
    async with AsyncExitStack() as readers:
        async with serve_api() as api:
            async with open_nest(tmp_path, api.port) as nest:
                live = await readers.enter_async_context(nest.live(tenantId=TENANT))
            with pytest.raises((EOFError, httpx.RemoteProtocolError)):
                await live.next()
            await eventually(lambda: len(backend.hub) == 0)
            stack = await readers.enter_async_context(AsyncExitStack())
            nest = await stack.enter_async_context(open_nest(tmp_path, api.port))
            live = await readers.enter_async_context(nest.live(tenantId=TENANT))
        await live.until("interrupted")
        await stack.aclose()
        with pytest.raises((EOFError, httpx.RemoteProtocolError)):
            await live.next()


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("SCADA_GRPC_TLS", "yes"), ("SCADA_GRPC_TIMEOUT_MS", "1"), ("SCADA_GRPC_PAGE_SIZE", "10001")],
)
def test_a_bad_setting_stops_the_start(built_nest: None, name: str, value: str) -> None:
    done = start_nest({name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{name}: ")


def test_the_examples_own_tests(built_nest: None) -> None:
    run(npm(), "run", "test:unit")
