"""A backend that holds the API's contract without a device or a database, served for real; and clients to call it."""

from __future__ import annotations

import io
import json
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import UUID

import grpc
import pytest
import structlog
import trio

from scada_trio.api._generated import scada_pb2
from scada_trio.api.backend import AggregatorStats, ConnectionReport, Health
from scada_trio.api.server import serve_grpc
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import UnknownConnection, UnknownTenant
from scada_trio.logs import StreamHandler, configure_logging
from scada_trio.losses import Loss
from scada_trio.readings import ReadingRows
from scada_trio.status import ConnectionStatus

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
        self.fault: BaseException | None = None
        self.hold: trio.Event | None = None
        self.entered = trio.Event()
        self.cancelled = trio.Event()

    def fill(self, count: int, *, node_id: str = "ns=2;s=Pressure", first_us: int = 1_700_000_000_000_000) -> None:
        """``count`` readings of one well, a second apart."""
        self.readings[TENANT, WELL] = [
            (first_us + index * 1_000_000, node_id, float(index), "Good") for index in range(count)
        ]

    async def query_readings(
        self, tenant_id: UUID, well_id: UUID, start_us: int, end_us: int, limit: int
    ) -> ReadingRows:
        await self._enter(tenant_id)
        rows = [row for row in self.readings.get((tenant_id, well_id), ()) if start_us <= row[0] <= end_us]
        rows = sorted(rows, reverse=True)[:limit]
        return ReadingRows.of(well_id, rows)

    async def aggregator_stats(self, tenant_id: UUID) -> AggregatorStats:
        await self._enter(tenant_id)
        return AggregatorStats(buffer_size=42, time_since_last_flush_ms=1234)

    async def add_connection(self, spec: ConnectionSpec) -> None:
        await self._enter(spec.tenant_id)
        self.connections[spec.connection_id] = spec
        self.removed.discard(spec.connection_id)

    async def remove_connection(self, connection_id: UUID) -> bool:
        await self._enter()
        self.removed.add(connection_id)
        return connection_id in self.connections

    async def connection_report(self, connection_id: UUID) -> ConnectionReport:
        await self._enter()
        spec = self.connections.get(connection_id)
        if spec is None or connection_id in self.removed:
            raise UnknownConnection(f"connection {connection_id} is not active")
        return ConnectionReport(spec, self.link, self.losses)

    async def health(self) -> Health:
        await self._enter()
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
        self, *, port: int = 0, drain_s: float = 10.0, max_message_bytes: int = 4 << 20
    ) -> AbstractAsyncContextManager[ServedApi]: ...


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def serve_api(backend: FakeBackend) -> ServeApi:
    @asynccontextmanager
    async def serve(
        *, port: int = 0, drain_s: float = 10.0, max_message_bytes: int = 4 << 20
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
}


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
