"""A backend that holds the API's contract without a device or a database, served for real; and clients to call it."""

from __future__ import annotations

import io
import json
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import UUID

import grpc
import pytest
import structlog
import trio

from scada_trio.accounts import Accounts
from scada_trio.api._generated import scada_pb2
from scada_trio.api.access import Access
from scada_trio.api.backend import AggregatorStats, ConnectionListing, ConnectionReport, Health, TenantListing
from scada_trio.api.server import serve_grpc
from scada_trio.audit import Actor
from scada_trio.desired import ConnectionSpec, TagChange
from scada_trio.errors import UnknownConnection, UnknownTenant
from scada_trio.live import LiveHub, Watcher
from scada_trio.logs import StreamHandler, configure_logging
from scada_trio.losses import Loss
from scada_trio.nodes import BrowsePage, BrowseQuery, FoundNode, NodeClass, WalkPlace
from scada_trio.queries import Aggregate, AggregatesPage, AggregatesQuery, Position, ReadingScan
from scada_trio.readings import ReadingRows, TagTable
from scada_trio.status import ConnectionStatus, TenantSnapshot
from scada_trio.trial import Outcome, Step, StepName, Trial

NODE_CLIENTS = Path(__file__).parent / "node"
TENANT = UUID("11111111-1111-4111-8111-111111111111")
WELL = UUID("22222222-2222-4222-8222-222222222222")
CONNECTION = UUID("33333333-3333-4333-8333-333333333333")
TAG = UUID("44444444-4444-4444-8444-444444444444")
ABSENT = UUID("99999999-9999-4999-8999-999999999999")


class FakeBackend:
    """Holds readings and connections in memory.

    ``fault`` is raised by every method; while ``hold`` is an event, every method waits for it.
    """

    def __init__(self) -> None:
        self.readings: dict[tuple[UUID, UUID], list[tuple[int, str, float, str]]] = {}
        self.connections: dict[UUID, ConnectionSpec] = {}
        self.removed: set[UUID] = set()
        self.status: Literal["healthy", "degraded", "unhealthy"] = "healthy"
        self.link = ConnectionStatus()
        self.losses: list[Loss] = []
        self.tags = TagTable()
        self.hub = LiveHub(self.tags)
        self.aggregates: list[Aggregate] = []
        self.aggregates_query: AggregatesQuery | None = None
        self.restarted: list[UUID] = []
        self.browsed: ConnectionSpec | UUID | None = None
        self.actors: list[Actor | None] = []
        self.pages = 0
        self.fault: BaseException | None = None
        self.hold: trio.Event | None = None
        self.entered = trio.Event()
        self.cancelled = trio.Event()

    def fill(self, count: int, *, node_id: str = "ns=2;s=Pressure", first_us: int = 1_700_000_000_000_000) -> None:
        """``count`` readings of one well, a second apart."""
        self.readings[TENANT, WELL] = [
            (first_us + index * 1_000_000, node_id, float(index), "Good") for index in range(count)
        ]

    async def read_readings(self, tenant_id: UUID, scan: ReadingScan, limit: int, fill: bool) -> ReadingRows:
        await self._enter(tenant_id)
        self.pages += 1
        query, position = scan.query, scan.position
        rows = [
            row
            for row in self.readings.get((tenant_id, query.well_id), ())
            if query.start_us <= row[0] <= query.end_us and (query.node_ids is None or row[1] in query.node_ids)
        ]
        sign = 1 if query.oldest_first else -1
        rows.sort(key=lambda row: (sign * row[0], row[1]))
        if position is not None:
            after = (sign * position.time_us, position.node_id or "")
            rows = [row for row in rows if (sign * row[0], row[1]) > after]
        scan.done = len(rows) <= limit
        rows = rows[:limit]
        if rows:
            scan.position = Position(rows[-1][0], rows[-1][1])
        return ReadingRows.of(query.well_id, rows)

    async def read_aggregates(self, tenant_id: UUID, query: AggregatesQuery) -> AggregatesPage:
        await self._enter(tenant_id)
        self.aggregates_query = query
        after = (query.after.time_us, query.after.node_id or "") if query.after else (-1, "")
        rest = [a for a in self.aggregates if (a.bucket_us, a.node_id) > after]
        return AggregatesPage(rest[: query.limit], more=len(rest) > query.limit)

    async def read_latest(
        self, tenant_id: UUID, well_ids: Sequence[UUID], node_ids: Sequence[str] | None
    ) -> Sequence[ReadingRows]:
        await self._enter(tenant_id)
        newest: list[ReadingRows] = []
        for well_id in well_ids:
            rows = {row[1]: row for row in sorted(self.readings.get((tenant_id, well_id), ()))}
            kept = [rows[name] for name in sorted(rows) if node_ids is None or name in node_ids]
            newest.append(ReadingRows.of(well_id, kept))
        return newest

    def watch(
        self, tenant_id: UUID, well_ids: Sequence[UUID], node_ids: Sequence[str]
    ) -> AbstractContextManager[Watcher]:
        if tenant_id != TENANT:
            raise UnknownTenant(f"tenant {tenant_id} does not exist")
        return self.hub.watch(well_ids, node_ids)

    async def aggregator_stats(self, tenant_id: UUID) -> AggregatorStats:
        await self._enter(tenant_id)
        return AggregatorStats(buffer_size=42, time_since_last_flush_ms=1234)

    async def add_connection(self, spec: ConnectionSpec, actor: Actor | None = None) -> None:
        await self._enter(spec.tenant_id)
        self.actors.append(actor)
        self.connections[spec.connection_id] = spec
        self.removed.discard(spec.connection_id)

    async def remove_connection(
        self, connection_id: UUID, tenants: frozenset[UUID] | None = None, actor: Actor | None = None
    ) -> bool:
        await self._enter()
        if tenants is not None and TENANT not in tenants:
            return False
        self.actors.append(actor)
        self.removed.add(connection_id)
        return connection_id in self.connections

    async def connection_report(self, connection_id: UUID, tenants: frozenset[UUID] | None = None) -> ConnectionReport:
        await self._enter()
        spec = self.connections.get(connection_id)
        if spec is None or (tenants is not None and spec.tenant_id not in tenants) or connection_id in self.removed:
            raise UnknownConnection(f"connection {connection_id} is not active")
        return ConnectionReport(spec, self.link, self.losses)

    async def list_connections(self, tenant_id: UUID) -> Sequence[ConnectionListing]:
        await self._enter(tenant_id)
        return [
            ConnectionListing(
                connection_id=spec.connection_id,
                name=spec.name,
                endpoint_url=spec.endpoint_url,
                security_mode=str(spec.security_mode),
                security_policy=spec.security_policy,
                username=spec.username,
                active=spec.connection_id not in self.removed,
                publishing_interval_ms=spec.publishing_interval_ms,
                sampling=spec.sampling,
                tags=spec.tags,
                status=None if spec.connection_id in self.removed else self.link,
            )
            for spec in self.connections.values()
        ]

    async def list_tenants(self) -> Sequence[TenantListing]:
        await self._enter()
        links = dict.fromkeys(self.connections, self.link)
        accounts = Accounts(received=12, written=7)
        running = TenantSnapshot(TENANT, "north", "running", links, None, "away", accounts=accounts)
        return [
            TenantListing(TENANT, "north", "ACTIVE", len(self.connections), running),
            TenantListing(ABSENT, "south", "SUSPENDED", 3, None),
        ]

    async def update_tags(
        self, tenant_id: UUID, connection_id: UUID, change: TagChange, actor: Actor | None = None
    ) -> int:
        await self._enter(tenant_id)
        self.actors.append(actor)
        spec = self.connections.get(connection_id)
        if spec is None:
            raise UnknownConnection(f"connection {connection_id} does not exist")
        tags = {} if change.replace else {tag.tag_id: tag for tag in spec.tags if tag.tag_id not in change.removed}
        tags |= {tag.tag_id: tag for tag in change.tags}
        self.connections[connection_id] = replace(spec, tags=tuple(tags.values()))
        return len(tags)

    async def restart_connection(self, tenant_id: UUID, connection_id: UUID) -> None:
        await self._enter(tenant_id)
        if connection_id not in self.connections:
            raise UnknownConnection(f"connection {connection_id} is not active")
        self.restarted.append(connection_id)

    async def browse(
        self, tenant_id: UUID, device: ConnectionSpec | UUID, query: BrowseQuery, limit: int, place: WalkPlace | None
    ) -> BrowsePage:
        await self._enter(tenant_id)
        self.browsed = device
        first = 0 if place is None else place.pages * limit
        nodes = [
            FoundNode(f"ns=1;i={n}", f"Field/{n}", str(n), NodeClass.VARIABLE, 2, data_type="Double", is_readable=True)
            for n in range(12)
        ]
        following = WalkPlace("walk", first // limit + 1) if first + limit < len(nodes) else None
        return BrowsePage(nodes[first : first + limit], following, visited=13)

    async def try_device(self, tenant_id: UUID, device: ConnectionSpec | UUID, node_ids: Sequence[str]) -> Trial:
        await self._enter(tenant_id)
        self.browsed = device
        return Trial([Step(StepName.REACH, Outcome.FAILED, "no answer", 1.5)])

    async def health(self, tenants: frozenset[UUID] | None = None) -> Health:
        await self._enter()
        if tenants is not None and TENANT not in tenants:
            return Health("unhealthy", active_connections=0, active_tenants=0)
        return Health(self.status, active_connections=len(self.connections) - len(self.removed), active_tenants=1)

    async def _enter(self, tenant_id: UUID = TENANT) -> None:
        self.entered.set()
        if self.fault is not None:
            raise self.fault
        if tenant_id != TENANT:
            raise UnknownTenant(f"no tenant {tenant_id}")
        if self.hold is None:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self.hold.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise


class ServedApi:
    """A running gRPC server; setting ``stop`` drains it, and ``done`` comes when it has returned."""

    def __init__(self, port: int, stop: trio.Event, done: trio.Event, scope: trio.CancelScope) -> None:
        self.port = port
        self.stop = stop
        self.done = done
        self.scope = scope

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


class ServeApi(Protocol):
    """Serves the test's backend while the context is open."""

    def __call__(
        self, *, port: int = 0, drain_s: float = 10.0, max_message_bytes: int = 4 << 20, access: Access | None = None
    ) -> AbstractAsyncContextManager[ServedApi]: ...


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def serve_api(backend: FakeBackend) -> ServeApi:
    @asynccontextmanager
    async def serve(
        *, port: int = 0, drain_s: float = 10.0, max_message_bytes: int = 4 << 20, access: Access | None = None
    ) -> AsyncIterator[ServedApi]:
        stop, done, scope = trio.Event(), trio.Event(), trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[tuple[str, int]]) -> None:
            with scope:
                await serve_grpc(
                    backend,
                    host="127.0.0.1",
                    port=port,
                    max_message_bytes=max_message_bytes,
                    drain_s=drain_s,
                    stop=stop,
                    token_key=b"k" * 32,
                    access=access,
                    task_status=task_status,
                )
            done.set()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                _, bound = await nursery.start(run)
                yield ServedApi(bound, stop, done, scope)
                scope.cancel()

    return serve


@pytest.fixture
async def api(serve_api: ServeApi) -> AsyncIterator[ServedApi]:
    async with serve_api() as served:
        yield served


MESSAGES: Mapping[str, tuple[Any, Any]] = {
    "QueryReadings": (scada_pb2.QueryReadingsRequest, scada_pb2.QueryReadingsResponse),
    "GetAggregatorStats": (scada_pb2.GetAggregatorStatsRequest, scada_pb2.GetAggregatorStatsResponse),
    "AddConnection": (scada_pb2.AddConnectionRequest, scada_pb2.AddConnectionResponse),
    "RemoveConnection": (scada_pb2.RemoveConnectionRequest, scada_pb2.RemoveConnectionResponse),
    "HealthCheck": (scada_pb2.HealthCheckRequest, scada_pb2.HealthCheckResponse),
    "GetConnection": (scada_pb2.GetConnectionRequest, scada_pb2.GetConnectionResponse),
    "StreamReadings": (scada_pb2.StreamReadingsRequest, scada_pb2.StreamReadingsResponse),
    "QueryAggregates": (scada_pb2.QueryAggregatesRequest, scada_pb2.QueryAggregatesResponse),
    "LatestReadings": (scada_pb2.LatestReadingsRequest, scada_pb2.LatestReadingsResponse),
    "ListConnections": (scada_pb2.ListConnectionsRequest, scada_pb2.ListConnectionsResponse),
    "ListTenants": (scada_pb2.ListTenantsRequest, scada_pb2.ListTenantsResponse),
    "UpdateConnectionTags": (scada_pb2.UpdateConnectionTagsRequest, scada_pb2.UpdateConnectionTagsResponse),
    "SubscribeReadings": (scada_pb2.SubscribeReadingsRequest, scada_pb2.SubscribeReadingsResponse),
    "BrowseNodes": (scada_pb2.BrowseNodesRequest, scada_pb2.BrowseNodesResponse),
    "TestConnection": (scada_pb2.TestConnectionRequest, scada_pb2.TestConnectionResponse),
    "RestartConnection": (scada_pb2.RestartConnectionRequest, scada_pb2.RestartConnectionResponse),
}


def grpcio_stream(
    channel: grpc.Channel, method: str = "StreamReadings", *, timeout_s: float = 30.0, **fields: Any
) -> Any:
    """A streaming call with the official Python client: an iterator that blocks, and can be cancelled."""
    request_type, response_type = MESSAGES[method]
    call = channel.unary_stream(
        f"/scada.ScadaService/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response_type.FromString,
    )
    return call(request_type(**fields), timeout=timeout_s, wait_for_ready=True)


def grpcio_call(channel: grpc.Channel, method: str, /, *, timeout_s: float = 30.0, **fields: Any) -> Any:
    """One unary call with the official Python client; blocks, so call it in a thread. ``fields`` make the request."""
    request_type, response_type = MESSAGES[method]
    call = channel.unary_unary(
        f"/scada.ScadaService/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response_type.FromString,
    )
    return call(request_type(**fields), timeout=timeout_s, wait_for_ready=True)


class Call(Protocol):
    """Calls the served API with the official Python client, in a thread."""

    async def __call__(self, method: str, /, *, timeout_s: float = 30.0, **fields: Any) -> Any: ...


@pytest.fixture
def call(api: ServedApi) -> Call:
    async def run(method: str, /, *, timeout_s: float = 30.0, **fields: Any) -> Any:
        def blocking() -> Any:
            with grpc.insecure_channel(api.address) as channel:
                return grpcio_call(channel, method, timeout_s=timeout_s, **fields)

        return await trio.to_thread.run_sync(blocking)

    return run


class LogLines(Protocol):
    """What the service has logged since the test began, parsed."""

    def __call__(self) -> list[dict[str, Any]]: ...


@pytest.fixture
def log_lines() -> Iterator[LogLines]:
    stream = io.StringIO()
    root = logging.getLogger()
    level = root.level
    configure_logging("INFO", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for handler in [handler for handler in root.handlers if isinstance(handler, StreamHandler)]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def connection_fields(**changes: Any) -> dict[str, Any]:
    """Fields of a good AddConnection request, with ``changes``."""
    fields: dict[str, Any] = {
        "connection_id": str(CONNECTION),
        "tenant_id": str(TENANT),
        "endpoint_url": "opc.tcp://192.0.2.1:4840/wells",
        "security_mode": "None",
        "security_policy": "None",
        "tags": [{"tag_id": str(TAG), "well_id": str(WELL), "node_id": "ns=2;s=Pressure", "data_type": "Double"}],
    }
    return fields | changes


def node() -> str:
    """The path of node; skips the test where there is none."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    return found


async def run_node_client(script: str, address: str, calls: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The answers of a client in tests/node to ``calls``, each ``{"method": ..., "request": {...}}``."""
    done = await trio.run_process(
        [node(), str(NODE_CLIENTS / script), address, "-"],
        stdin=json.dumps(calls).encode(),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    answers: list[Any] = json.loads(done.stdout)
    return answers


def eventually(condition: Callable[[], bool], *, timeout_s: float = 30.0) -> Any:
    """Wait in Trio until ``condition()`` holds; fails the test after ``timeout_s``."""
    return partial(_eventually, condition, timeout_s)()


async def _eventually(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await trio.sleep(0.005)
