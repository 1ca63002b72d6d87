"""The API served for real on a backend in memory, and clients to call it."""

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
from typing import Any, Protocol

import grpc
import pytest
import structlog
import trio

from scada_trio.api._generated import scada_pb2
from scada_trio.api.access import Access
from scada_trio.api.server import serve_grpc
from scada_trio.logs import StreamHandler, configure_logging
from tests.fake_backend import CONNECTION, TAG, TENANT, WELL, FakeBackend

NODE_CLIENTS = Path(__file__).parent / "node"


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
