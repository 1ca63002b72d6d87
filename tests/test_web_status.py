"""The status document: what is in it, what is not, and that many viewers cost what one costs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import trio
from pydantic import SecretStr
from trio.testing import MockClock

from scada_trio.accounts import Accounts
from scada_trio.desired import ConnectionSpec
from scada_trio.metrics import Metrics
from scada_trio.status import ConnectionState, ConnectionStatus, Heard, RefusedTag, TenantSnapshot
from scada_trio.web.app import create_app
from scada_trio.web.server import serve_http
from scada_trio.web.status import CONNECTIONS_SHOWN, MAX_VIEWERS, StatusBoard, without_user
from tests.fix_postgres import PostgresServer
from tests.fix_service import SECRETS, open_service

TENANT = UUID(int=1)


def snapshot(links: dict[UUID, ConnectionStatus] | None = None, **fields: Any) -> TenantSnapshot:
    """A tenant whose connections are at rtu-N.field, behind a user and a password."""
    links = {} if links is None else links
    specs = {
        link: ConnectionSpec(
            *(link, TENANT, f"Well {link.int:04}", f"opc.tcp://user:hunter2@rtu-{link.int}.field:4840/a"),
            username="user",
            password=SecretStr("hunter2"),
        )
        for link in links
    }
    return TenantSnapshot(TENANT, "north", "running", links, None, None, specs=specs, **fields)


@asynccontextmanager
async def open_client(board: StatusBoard) -> AsyncIterator[httpx.AsyncClient]:
    async def ready() -> tuple[bool, dict[str, str]]:
        return True, {}

    app = create_app(Metrics(), ready, board)
    async with trio.open_nursery() as nursery:
        host, port = await nursery.start(partial(serve_http, app, host="127.0.0.1", port=0))
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30) as client:
            yield client
        nursery.cancel_scope.cancel()


async def eventually(holds: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not holds():  # noqa: ASYNC110 - what is waited for is on the other end of a socket
            await trio.sleep(0.01)


def documents(text: str) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


# --- what is in it


async def test_the_document_tells_how_a_connection_is() -> None:
    link = ConnectionStatus(ConnectionState.WAITING, since=100.0, attempts_failed=3, last_error="no answer")
    link.last_error_type, link.last_reading_at, link.heard = "unreachable", 98.0, Heard(99.0)
    link.tags_refused = [RefusedTag(f"ns=2;s={number}", "BadNodeIdUnknown") for number in range(12)]
    link.lost["sequence_gap"] = 2
    accounts = Accounts(received=50, written=30, in_journal=15, quarantined=4, lost=1)
    shown = snapshot({UUID(int=7): link}, accounts=accounts, journal_bytes=4096, journal_full=True)
    document = json.loads(await StatusBoard(lambda: [shown]).whole())
    (tenant,) = document["tenants"]
    (connection,) = tenant.pop("connections")
    assert tenant == {
        "id": str(TENANT),
        "name": "north",
        "state": "running",
        "last_error": None,
        "last_commit_at": None,
        "readings_per_second": 0.0,
        "received": 50,
        "committed": 34,
        "in_journal": 15,
        "journal_bytes": 4096,
        "journal_full": True,
        "quarantined": 4,
        "readings_lost": 1,
        "losses": {"sequence_gap": 2},
        "tags_refused": 12,
        "connections_by_state": {"waiting": 1},
    }
    assert connection["refused"][9] == {"node_id": "ns=2;s=9", "status": "BadNodeIdUnknown"}
    assert (connection["tags_refused"], len(connection.pop("refused"))) == (12, 10)
    assert connection == {
        "id": str(UUID(int=7)),
        "name": "Well 0007",
        "endpoint": "opc.tcp://rtu-7.field:4840/a",
        "security": "None None",
        "state": "waiting",
        "since": 100.0,
        "attempts_failed": 3,
        "last_error": "no answer",
        "last_error_type": "unreachable",
        "readings": 0,
        "readings_per_second": 0.0,
        "last_reading_at": 98.0,
        "last_heard_at": 99.0,
        "tags_monitored": 0,
        "tags_refused": 12,
        "losses": {"sequence_gap": 2},
    }


async def test_no_secret_is_in_it(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    """Of a service with a device's password, a database's, and a URL that hides one where none belongs."""
    async with open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        password = tenant_url.get_secret_value().partition("://")[2].partition("@")[0]
        spec = ConnectionSpec(uuid4(), tenant, "rtu", "opc.tcp://operator:hunter2@127.0.0.1:1/", username="operator")
        await running.master.store_connection(spec, SECRETS.encrypt(SecretStr("hunter3")))
        await running.until(lambda: bool(running.snapshot(tenant).connections))
        text = (await running.get("/status")).text + (await running.get("/")).text
        assert str(tenant) in text
        for secret in ("hunter2", "hunter3", password, "postgresql://"):
            assert secret not in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("opc.tcp://rtu.field:4840/server", "opc.tcp://rtu.field:4840/server"),
        ("opc.tcp://user:pass@rtu.field:4840", "opc.tcp://rtu.field:4840"),
        ("opc.tcp://a@b@c:1/x?password=d#e", "opc.tcp://c:1/x"),
        ("opc.tcp://[fe80::1]:4840/", "opc.tcp://[fe80::1]:4840/"),
        ("opc.tcp://[broken", ""),
        ("opc.tcp://host:port/", ""),
        ("user:pass@rtu", ""),
        ("", ""),
    ],
)
def test_an_endpoint_is_shown_without_its_user(url: str, shown: str) -> None:
    assert without_user(url) == shown


async def test_those_in_trouble_come_first_and_the_rest_is_counted() -> None:
    links = {UUID(int=n): ConnectionStatus(ConnectionState.CONNECTED) for n in range(1, CONNECTIONS_SHOWN + 51)}
    away = UUID(int=CONNECTIONS_SHOWN + 50)
    links[away].enter(ConnectionState.FAILED)
    board = StatusBoard(lambda: [snapshot(links)])
    event = await board.newer(0)
    assert event is not None
    (tenant,) = documents(event[1].decode())[0]["tenants"]
    assert len(tenant["connections"]) == CONNECTIONS_SHOWN
    assert [row["id"] for row in tenant["connections"][:2]] == [str(away), str(UUID(int=1))]
    assert tenant["connections_by_state"] == {"connected": CONNECTIONS_SHOWN + 49, "failed": 1}
    (tenant,) = json.loads(await board.whole())["tenants"]
    assert len(tenant["connections"]) == len(links)


@pytest.mark.parametrize("name", ["two\nlines\r\nand more", "\u2028", "</script>", "\udc80", "data: x\n\nid: 7"])
async def test_any_name_fits_into_one_event(name: str) -> None:
    tenant = TenantSnapshot(TENANT, name, "running", {}, None, None)
    event = await StatusBoard(lambda: [tenant]).newer(0)
    assert event is not None
    fields, _, rest = event[1].decode().partition("\n\n")
    assert rest == ""
    assert [line.partition(":")[0] for line in fields.split("\n")] == ["id", "data"]
    assert documents(fields.replace("\u2028", "?"))[0]["tenants"][0]["name"] in (name, "?")


async def test_a_rate_is_what_came_between_two_documents() -> None:
    now, received = [50.0], [1_000]
    board = StatusBoard(lambda: [snapshot(accounts=Accounts(received=received[0]))], clock=lambda: now[0])

    async def rate() -> float:
        text = await board._text(None)
        return float(json.loads(text)["tenants"][0]["readings_per_second"])

    assert await rate() == 0.0
    now[0], received[0] = 52.0, 1_500
    assert await rate() == 250.0
    now[0], received[0] = 52.1, 1_510  # too close to tell: as before
    assert await rate() == 250.0
    now[0], received[0] = 53.0, 1_600
    assert await rate() == 100.0
    now[0], received[0] = 54.0, 10  # a tenant that was stopped and added again
    assert await rate() == 0.0


# --- who sees it


async def test_many_viewers_cost_what_one_costs(autojump_clock: MockClock) -> None:
    """Each gets every event, made once for all, at most one a second."""
    board = StatusBoard(lambda: [snapshot()])
    got: list[list[tuple[float, bytes]]] = [[] for _ in range(MAX_VIEWERS)]

    async def watch(events: list[tuple[float, bytes]]) -> None:
        with board.viewing() as view:
            async for event in view:
                events.append((trio.current_time(), event))
                if len(events) == 6:
                    return

    async with trio.open_nursery() as nursery:
        for events in got:
            nursery.start_soon(watch, events)
    assert board.made == 5
    assert {tuple(event for _, event in events) for events in got} == {tuple(event for _, event in got[0])}
    times = [at for at, event in got[0] if event.startswith(b"id:")]
    assert min(later - earlier for earlier, later in pairwise(times)) >= 1.0


async def test_nothing_is_made_when_nobody_looks(autojump_clock: MockClock) -> None:
    board = StatusBoard(lambda: [snapshot()])
    with board.viewing() as view:
        await view.__anext__()
        await view.__anext__()
    made = board.made
    await trio.sleep(3600)
    assert (board.made, board.viewers) == (made, 0)


async def test_the_next_viewer_goes_on_where_the_one_that_made_it_leaves(autojump_clock: MockClock) -> None:
    board = StatusBoard(lambda: [snapshot()])
    await board.newer(0)
    leaving = trio.CancelScope()

    async def leave() -> None:
        with leaving:
            await board.newer(1)

    async def leave_soon() -> None:
        await trio.sleep(0.5)
        leaving.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        nursery.start_soon(leave_soon)
        await trio.testing.wait_all_tasks_blocked()
        event = await board.newer(1)
    assert event is not None
    assert (event[0], leaving.cancelled_caught) == (2, True)


async def test_the_whole_document_is_made_once_a_second(autojump_clock: MockClock) -> None:
    board = StatusBoard(lambda: [snapshot()])
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(board.whole)
    assert board.made == 1
    await trio.sleep(1.0)
    await board.whole()
    assert board.made == 2


async def test_viewers_are_bounded_and_leave_their_place() -> None:
    board = StatusBoard(lambda: [snapshot()])
    async with open_client(board) as client:
        board.viewers = MAX_VIEWERS - 1
        async with client.stream("GET", "/status/events") as first:
            assert first.headers["content-type"] == "text/event-stream; charset=utf-8"
            refused = await client.get("/status/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        await eventually(lambda: board.viewers == MAX_VIEWERS - 1)
        async with client.stream("GET", "/status/events") as second:
            assert second.status_code == 200


async def test_events_end_when_the_service_stops() -> None:
    board = StatusBoard(lambda: [snapshot()])
    async with open_client(board) as client, client.stream("GET", "/status/events") as answer:
        text = ""
        async for part in answer.aiter_text():
            text += part
            if "data:" in text:
                board.close()
        assert text.startswith("retry: 2000\n\nid: 1\n")
        assert [document["tenants"][0]["name"] for document in documents(text)] == ["north"]
        assert (await client.get("/status/events")).status_code == 503


async def test_the_page_may_do_nothing_but_ask_us() -> None:
    async with open_client(StatusBoard(list)) as client:
        page = await client.get("/")
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in page.headers["content-security-policy"]
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        for path in ("/", "/status.js", "/status"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
            assert answer.headers["cache-control"] == "no-store"
            assert "http://" not in answer.text
            assert "https://" not in answer.text
        head = await client.head("/status/events")
        assert (head.status_code, head.text) == (200, "")
