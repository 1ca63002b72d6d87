"""BrowseNodes and TestConnection: on real devices behind the whole service, and what a request may not say."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import grpc
import pytest
import trio
from pydantic import SecretStr

from scada_trio import exploring
from scada_trio.config import PkiSettings
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import DeviceError, InvalidField, TooManyWalks
from scada_trio.exploring import Explorer
from scada_trio.nodes import BrowseQuery, WalkPlace, parse_query
from scada_trio.opcua.pki import Pki
from tests.devices.control import FIELD_OPTION
from tests.devices.vast import VastDevice
from tests.fake_backend import CONNECTION, TENANT, FakeBackend
from tests.fix_api import Call, LogLines
from tests.fix_devices import FAST, ROOT, free_port, open_device, tag
from tests.fix_postgres import PostgresServer
from tests.fix_service import RunningService, open_service
from tests.test_api_statuses import told
from tests.test_browse import serving

ENDPOINT = {"endpoint_url": "opc.tcp://192.0.2.1:4840"}


async def browsed(running: RunningService, **fields: Any) -> list[Any]:
    """All pages."""
    found: list[Any] = []
    token = ""
    while True:
        page = await running.call("BrowseNodes", page_token=token, **fields)
        found += page.nodes
        token = page.next_page_token
        if not token:
            return found


async def test_a_stored_connection_is_browsed_beside_its_subscription(maker: str, postgres: PostgresServer) -> None:
    """In pages of any size; the readings go on, the connection never blinks."""
    async with (
        open_device(maker, nodes=["P"], field=FIELD_OPTION) as device,
        open_service(postgres) as running,
    ):
        tenant = await running.add_tenant(postgres.create_tenant())
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=P")])
        await running.connected(tenant, connection, 1)
        since = running.status(tenant, connection).since
        fields = {"tenant_id": str(tenant), "device": {"connection_id": str(connection)}}
        found = await browsed(running, **fields, paths=["Field/**"], node_classes=["variable"], limit=5, values=True)
        by_path = {node.path: node for node in found}
        assert len(found) == len(by_path) == 12
        pressure = by_path["Field/Well-1/Pressure"]
        assert (pressure.node_id, pressure.unit, pressure.range_high, pressure.value, pressure.status) == (
            "ns=1;s=Well-1.Pressure",
            "psi",
            500.0,
            "12.5",
            "Good",
        )
        assert by_path["Field/Well-1/Profile"].problem == "array"
        await device.write("P", 77.5)
        await running.until_stored(tenant, "ns=1;s=P", 77.5)
        assert running.status(tenant, connection).since == since
        trial = await running.call("TestConnection", **fields)
        assert trial.success, trial
        assert trial.steps[-1].lines[0].startswith("ns=1;s=P = 77.5")


async def test_any_endpoint_can_be_tried_and_nothing_is_stored(postgres: PostgresServer, log_lines: LogLines) -> None:
    """A wrong password is an answer; it is in no answer and in no log line."""
    async with open_device("open62541", users={"operator": "right"}) as device, open_service(postgres) as running:
        tenant = await running.add_tenant(postgres.create_tenant())
        login = {"endpoint_url": device.url, "username": "operator", "password": "topsecret"}
        trial = await running.call("TestConnection", tenant_id=str(tenant), device=login)
        assert not trial.success
        assert [step.outcome for step in trial.steps][-2:] == ["failed", "skipped"]
        with pytest.raises(grpc.RpcError) as raised:
            await running.call("BrowseNodes", tenant_id=str(tenant), device=login)
        assert told(raised.value).reason == "DEVICE_REFUSED"
        away = {"endpoint_url": f"opc.tcp://127.0.0.1:{free_port()}"}
        trial = await running.call("TestConnection", tenant_id=str(tenant), device=away)
        assert trial.steps[0].outcome == "failed"
        with pytest.raises(grpc.RpcError) as raised:
            await running.call("BrowseNodes", tenant_id=str(tenant), device=away)
        assert told(raised.value).reason == "DEVICE_UNREACHABLE"
        listing = await running.call("ListConnections", tenant_id=str(tenant))
        assert not listing.connections
        assert "topsecret" not in f"{trial} {raised.value} {log_lines()}"
        with pytest.raises(grpc.RpcError) as raised:
            await running.call("BrowseNodes", tenant_id=str(tenant), device={"connection_id": str(uuid4())})
        assert told(raised.value).reason == "CONNECTION_NOT_FOUND"


async def test_pages_come_from_tokens_of_the_same_request(call: Call, backend: FakeBackend) -> None:
    """All nodes, each once; another request's token is refused."""
    fields: dict[str, Any] = {"tenant_id": str(TENANT), "device": {"connection_id": str(CONNECTION)}, "limit": 5}
    token, ids = "", []
    while True:
        page = await call("BrowseNodes", **fields, page_token=token)
        ids += [node.node_id for node in page.nodes]
        if not page.next_page_token:
            break
        token = page.next_page_token
    assert ids == [f"ns=1;i={number}" for number in range(12)]
    assert backend.browsed == CONNECTION
    with pytest.raises(grpc.RpcError) as raised:
        await call("BrowseNodes", **fields, page_token=token, paths=["other"])
    assert "page_token" in raised.value.details()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"device": {}}, "device"),
        ({"device": {"connection_id": "x"}}, "device.connection_id"),
        ({"device": {"connection_id": str(CONNECTION), **ENDPOINT}}, "device.endpoint_url"),
        ({"device": {"endpoint_url": "http://x"}}, "device.endpoint_url"),
        ({"device": {**ENDPOINT, "security_mode": "Loud"}}, "device.security_mode"),
        ({"device": ENDPOINT, "order": 7}, "order"),
        ({"device": ENDPOINT, "limit": -1}, "limit"),
        ({"device": ENDPOINT, "start_node_id": "Field"}, "start_node_id"),
        ({"device": ENDPOINT, "node_classes": ["Thing"]}, "node_classes"),
        ({"device": ENDPOINT, "tenant_id": "x"}, "tenant_id"),
        ({"device": ENDPOINT, "page_token": "x"}, "page_token"),
    ],
)
async def test_a_bad_field_is_named(call: Call, fields: dict[str, Any], named: str) -> None:
    """Before any device is asked."""
    with pytest.raises(grpc.RpcError) as raised:
        await call("BrowseNodes", **{"tenant_id": str(TENANT), **fields})
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details().startswith(named)


async def test_a_trial_reads_ten_nodes_at_most(call: Call) -> None:
    """And node ids have a form."""
    for node_ids, named in ((["i=1"] * 11, "node_ids"), (["x"], "node_ids[0]")):
        with pytest.raises(grpc.RpcError) as raised:
            await call("TestConnection", tenant_id=str(TENANT), device=ENDPOINT, node_ids=node_ids)
        assert raised.value.details().startswith(named)


# ---- walks that wait


class Exploring:
    """An explorer that runs, and a device for it."""

    def __init__(self, device: VastDevice) -> None:
        self.explorer = Explorer(FAST, Pki(PkiSettings(ROOT / "no-such-pki")))
        self.device = device
        self.tenant = uuid4()

    async def page(self, place: WalkPlace | None, limit: int = 50, query: BrowseQuery | None = None) -> Any:
        spec = ConnectionSpec(uuid4(), self.tenant, "", self.device.url, password=SecretStr("topsecret"))
        with trio.fail_after(30):
            return await self.explorer.browse(spec, query or parse_query(), limit, place)


@pytest.fixture
async def walks() -> Any:
    device = VastDevice(10, 30)
    async with serving(device), trio.open_nursery() as nursery:
        running = Exploring(device)
        nursery.start_soon(running.explorer.run)
        yield running
        nursery.cancel_scope.cancel()


async def test_a_page_that_was_lost_is_given_again(walks: Exploring) -> None:
    """The last one only; the walk goes on from there, and its session is closed at the end."""
    first = await walks.page(None)
    second = await walks.page(first.following)
    assert await walks.page(first.following) == second
    with pytest.raises(InvalidField, match="page_token"):
        await walks.page(WalkPlace(first.following.key, 0))
    found, place = [*first.nodes, *second.nodes], second.following
    while place is not None:
        page = await walks.page(place)
        found, place = found + list(page.nodes), page.following
    assert len({node.node_id for node in found}) == len(found) == walks.device.count
    await walks.device.until(lambda: "CloseSession" in walks.device.calls)
    with pytest.raises(InvalidField, match="page_token"):
        await walks.page(second.following)


async def test_a_walk_that_nobody_asks_for_ends(walks: Exploring, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its session; its token is too old then."""
    monkeypatch.setattr(exploring, "_IDLE_S", 0.2)
    first = await walks.page(None)
    await walks.device.until(lambda: "CloseSession" in walks.device.calls)
    with pytest.raises(InvalidField, match="too old"):
        await walks.page(first.following)


async def test_a_tenant_cannot_go_on_with_anothers_walk(walks: Exploring) -> None:
    """Even with its token's content."""
    first = await walks.page(None)
    walks.tenant = uuid4()
    with pytest.raises(InvalidField, match="too old"):
        await walks.page(first.following)


async def test_a_tenant_walks_through_two_devices_at_a_time(walks: Exploring, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is refused; another tenant is not concerned."""
    monkeypatch.setattr(exploring, "_WALKS_A_TENANT", 1)
    assert (await walks.page(None)).following is not None
    with pytest.raises(TooManyWalks):
        await walks.page(None)


async def test_a_call_that_is_given_up_ends_its_walk(walks: Exploring) -> None:
    """Nobody would come for the rest; the session is closed."""
    first = await walks.page(None, limit=1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await walks.page(first.following)
    await walks.device.until(lambda: "CloseSession" in walks.device.calls)


async def test_a_device_that_hangs_up_between_pages(walks: Exploring) -> None:
    """Whoever asks next is told to begin anew, or of the broken link."""
    first = await walks.page(None, limit=1)
    await walks.device.hang_up()

    async def go_on() -> None:
        place = first.following
        while place is not None:
            place = (await walks.page(place, limit=1)).following

    with pytest.raises((InvalidField, DeviceError)):
        await go_on()


async def test_a_page_does_not_wait_for_ever(walks: Exploring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters that let nothing through make an empty page with a token."""
    monkeypatch.setattr(exploring, "_PAGE_S", 0.0)
    monkeypatch.setattr("scada_trio.opcua.browse_services._FIRST_A_CALL", 1)
    page = await walks.page(None, query=parse_query(data_types=["Boolean"]))
    assert (list(page.nodes), page.following is None) == ([], False)
