"""The gRPC server around its methods: listening, limits, health, reflection, and how it ends."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
import trio
import trio_asyncio
from grpclib.client import Channel
from grpclib.health.v1.health_grpc import HealthStub
from grpclib.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpclib.reflection.v1.reflection_grpc import ServerReflectionStub
from grpclib.reflection.v1.reflection_pb2 import ServerReflectionRequest

from scada_trio.api._generated import scada_pb2
from scada_trio.api._generated.scada_grpc import ScadaServiceStub
from scada_trio.api.server import serve_grpc
from scada_trio.errors import ConfigError
from tests.fake_backend import TENANT, FakeBackend
from tests.fix_api import LogLines, ServeApi, ServedApi, eventually, grpcio_call

STATS = "/scada.ScadaService/GetAggregatorStats"
MIB = 1 << 20


@contextlib.asynccontextmanager
async def grpclib_channel(served: ServedApi) -> AsyncIterator[Channel]:
    """A client of another make, on an asyncio loop of its own."""
    async with trio_asyncio.open_loop():
        channel = Channel("127.0.0.1", served.port)
        try:
            yield channel
        finally:
            channel.close()


async def raw_call(served: ServedApi, body: bytes, **options: Any) -> bytes:
    """Send ``body`` as the request, whatever it is, and return the bytes of the answer."""

    def blocking() -> bytes:
        with grpc.insecure_channel(served.address, options=[("grpc.max_send_message_length", -1)]) as channel:
            answer: bytes = channel.unary_unary(STATS)(body, timeout=30, wait_for_ready=True, **options)
            return answer

    return await trio.to_thread.run_sync(blocking)


# --- listening


async def start_on(backend: FakeBackend, host: str, port: int) -> None:
    await serve_grpc(
        backend, host=host, port=port, max_message_bytes=MIB, drain_s=1, stop=trio.Event(), token_key=b"k" * 32
    )


async def test_a_port_in_use_is_one_line_that_names_the_variable(backend: FakeBackend, api: ServedApi) -> None:
    with pytest.raises(ConfigError) as raised:
        await start_on(backend, "127.0.0.1", api.port)
    assert str(raised.value) == f"GRPC_PORT: port {api.port} is already in use"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "a" * 300, "\udcff"])
async def test_a_host_that_is_not_ours_is_one_line_that_names_the_variable(backend: FakeBackend, host: str) -> None:
    with pytest.raises(ConfigError) as raised:
        await start_on(backend, host, 0)
    assert raised.value.variable == "GRPC_HOST"
    assert "\n" not in str(raised.value)


# --- limits


async def test_fifty_megabytes_are_refused_and_not_held(api: ServedApi) -> None:
    body = bytes(50 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(grpc.RpcError) as raised:
            await raw_call(api, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "over the limit of 4,194,304 bytes" in raised.value.details()
    assert peak < 20 * MIB


async def test_a_message_of_exactly_the_limit_is_read(serve_api: ServeApi) -> None:
    def request(size: int) -> bytes:
        empty = scada_pb2.AddConnectionRequest(tenant_id="").ByteSize()
        padding = "x" * (size - empty - 4)
        return scada_pb2.GetAggregatorStatsRequest(tenant_id=padding).SerializeToString()

    async with serve_api(max_message_bytes=100_000) as served:
        for size, code in (
            (100_000, grpc.StatusCode.INVALID_ARGUMENT),
            (100_001, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            body = request(size)
            assert len(body) == size
            with pytest.raises(grpc.RpcError) as raised:
                await raw_call(served, body)
            assert raised.value.code() is code


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_compressed_request_is_read(api: ServedApi, compression: grpc.Compression) -> None:
    request = scada_pb2.GetAggregatorStatsRequest(tenant_id=str(TENANT)).SerializeToString() * 20
    answer = await raw_call(api, request, compression=compression)
    assert scada_pb2.GetAggregatorStatsResponse.FromString(answer).buffer_size == 42


async def test_a_compressed_request_is_refused_when_it_unpacks_to_too_much(api: ServedApi) -> None:
    bomb = bytes(100 * MIB)
    assert len(gzip.compress(bomb, 6)) < MIB
    with pytest.raises(grpc.RpcError) as raised:
        await raw_call(api, bomb, compression=grpc.Compression.Gzip)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\x24short", b"\x0a\x01\xff"])
async def test_what_is_no_message_is_the_clients_fault(api: ServedApi, body: bytes, log_lines: LogLines) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        await raw_call(api, body)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not [line for line in log_lines() if line["level"] == "ERROR"]


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\0\0\0\7abc", b"\1\0\0\0\3abc", b"\0\0\0\0\5\n\3abc"])
async def test_a_request_that_ends_early_is_answered(api: ServedApi, sent: bytes, log_lines: LogLines) -> None:
    async with grpclib_channel(api) as channel:
        status = await trio_asyncio.aio_as_trio(send_raw)(channel, sent)
    assert status in ("3", "12")
    assert not [line for line in log_lines() if line["level"] == "ERROR"]


async def send_raw(channel: Channel, sent: bytes) -> str:
    """Send bytes as the whole request; returns the grpc-status of the answer."""
    protocol = await channel.__connect__()
    stream = protocol.processor.connection.create_stream()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", STATS),
        (":authority", "test"),
        ("te", "trailers"),
        ("content-type", "application/grpc+proto"),
    ]
    release = await stream.send_request(headers, _processor=protocol.processor)
    await stream.send_data(sent, end_stream=True)
    status: str = dict(await stream.recv_headers())["grpc-status"]
    release()
    return status


# --- health, reflection, another make of client


async def test_health_checking_follows_the_backend(api: ServedApi, backend: FakeBackend) -> None:
    async with grpclib_channel(api) as channel:
        check = trio_asyncio.aio_as_trio(HealthStub(channel).Check)
        for service in ("", "scada.ScadaService"):
            for status, expected in (
                ("healthy", HealthCheckResponse.SERVING),
                ("degraded", HealthCheckResponse.SERVING),
                ("unhealthy", HealthCheckResponse.NOT_SERVING),
            ):
                backend.status = status  # type: ignore[assignment]
                assert (await check(HealthCheckRequest(service=service))).status == expected


async def test_a_health_watch_ends_with_not_serving_when_the_server_stops(serve_api: ServeApi) -> None:
    async with serve_api(drain_s=3600) as served:

        def watch() -> list[int]:
            with grpc.insecure_channel(served.address) as channel:
                method = channel.unary_stream(
                    "/grpc.health.v1.Health/Watch", response_deserializer=HealthCheckResponse.FromString
                )
                seen = []
                for answer in method(b"", wait_for_ready=True, timeout=30):
                    seen.append(answer.status)
                    trio.from_thread.run_sync(served.stop.set)
                return seen

        assert await trio.to_thread.run_sync(watch) == [HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING]
        await served.done.wait()


async def test_reflection_lists_the_service_and_holds_up_no_drain(serve_api: ServeApi) -> None:
    async with serve_api(drain_s=3600) as served, grpclib_channel(served) as channel:

        async def ask(stream: Any, request: ServerReflectionRequest) -> Any:
            await stream.send_message(request)
            return await stream.recv_message()

        opened = trio_asyncio.aio_as_trio(ServerReflectionStub(channel).ServerReflectionInfo.open())
        with contextlib.suppress(Exception):  # the server ends the call while it is open
            async with opened as stream:
                answer = await trio_asyncio.aio_as_trio(ask)(stream, ServerReflectionRequest(list_services=""))
                names = {service.name for service in answer.list_services_response.service}
                request = ServerReflectionRequest(file_containing_symbol="scada.ScadaService")
                described = await trio_asyncio.aio_as_trio(ask)(stream, request)
                served.stop.set()
                await served.done.wait()
        assert names == {"scada.ScadaService", "grpc.health.v1.Health"}
        assert b"QueryReadings" in described.file_descriptor_response.file_descriptor_proto[0]


async def test_a_grpclib_client_that_leaves_cancels_the_work(serve_api: ServeApi, backend: FakeBackend) -> None:
    backend.hold = trio.Event()
    async with serve_api() as served, grpclib_channel(served) as channel, trio.open_nursery() as nursery:
        request = scada_pb2.GetAggregatorStatsRequest(tenant_id=str(TENANT))
        nursery.start_soon(trio_asyncio.aio_as_trio(ScadaServiceStub(channel).GetAggregatorStats), request)
        await backend.entered.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await backend.cancelled.wait()


# --- the end


class Load:
    """Clients that call without pause from threads of their own; each has its own connection and stays on it."""

    def __init__(self, address: str, count: int) -> None:
        self.answered = 0
        self.errors: list[grpc.RpcError] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(address, index), daemon=True) for index in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    async def end(self) -> None:
        """Let every client finish its last call."""
        self._stop.set()
        for thread in self._threads:
            await trio.to_thread.run_sync(thread.join)

    def _run(self, address: str, index: int) -> None:
        # otherwise channels of one process to one address share a connection; and come back soon after a restart
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("scada.client", index),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
        ]
        with grpc.insecure_channel(address, options=options) as channel:
            while not self._stop.is_set():
                try:
                    grpcio_call(channel, "GetAggregatorStats", tenant_id=str(TENANT), timeout_s=30)
                except grpc.RpcError as error:
                    self.errors.append(error)
                    return
                self.answered += 1


async def test_a_restart_under_load_costs_no_call(serve_api: ServeApi) -> None:
    async with serve_api() as first:
        load = Load(first.address, 4)
        load.start()
        await eventually(lambda: load.answered >= 100)
        first.stop.set()
        await first.done.wait()
        before = load.answered
        async with serve_api(port=first.port):
            await eventually(lambda: load.answered >= before + 100)
            await load.end()
    assert not load.errors


async def test_idle_clients_do_not_hold_up_the_end(serve_api: ServeApi) -> None:
    async with serve_api(drain_s=3600) as served:

        def connect() -> grpc.Channel:
            channel = grpc.insecure_channel(served.address)
            grpcio_call(channel, "HealthCheck")
            return channel

        channel = await trio.to_thread.run_sync(connect)
        with socket.create_connection(("127.0.0.1", served.port)):  # one that never says a word
            served.stop.set()
            await served.done.wait()
        channel.close()


async def test_a_call_under_way_is_answered_before_the_end(serve_api: ServeApi, backend: FakeBackend) -> None:
    backend.hold = trio.Event()
    async with serve_api(drain_s=3600) as served, slow_call(served) as answer:
        await backend.entered.wait()
        served.stop.set()
        await refused(served)
        assert not served.done.is_set()
        backend.hold.set()
        await served.done.wait()
    assert answer().buffer_size == 42


async def test_a_call_that_outlasts_the_drain_is_told_so(serve_api: ServeApi, backend: FakeBackend) -> None:
    backend.hold = trio.Event()
    async with serve_api(drain_s=0.1) as served, slow_call(served) as answer:
        await backend.entered.wait()
        served.stop.set()
        await served.done.wait()
        assert backend.cancelled.is_set()
    with pytest.raises(grpc.RpcError) as raised:
        answer()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert raised.value.details() == "the service is stopping"


@pytest.mark.parametrize("draining", [False, True])
async def test_cancelled_it_ends_at_once(serve_api: ServeApi, backend: FakeBackend, draining: bool) -> None:
    backend.hold = trio.Event()
    async with serve_api(drain_s=3600) as served, slow_call(served) as answer:
        await backend.entered.wait()
        if draining:
            served.stop.set()
            await refused(served)
        served.scope.cancel()
        await served.done.wait()
        assert backend.cancelled.is_set()
    with pytest.raises(grpc.RpcError) as raised:
        answer()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    async with serve_api(port=served.port):  # nothing holds the port
        pass


async def refused(served: ServedApi) -> None:
    """Wait until nobody listens any more."""

    def check() -> bool:
        try:
            socket.create_connection(("127.0.0.1", served.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    await eventually(check)


@contextlib.asynccontextmanager
async def slow_call(served: ServedApi) -> AsyncIterator[Callable[[], Any]]:
    """One call in a thread beside the body; what is yielded gives its answer, or raises its error, after the body."""
    outcome: list[Any] = []

    def blocking() -> None:
        with grpc.insecure_channel(served.address) as channel:
            try:
                outcome.append(grpcio_call(channel, "GetAggregatorStats", tenant_id=str(TENANT), timeout_s=60))
            except grpc.RpcError as error:
                outcome.append(error)

    def answer() -> Any:
        if isinstance(outcome[0], grpc.RpcError):
            raise outcome[0]
        return outcome[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, blocking)
        yield answer


@pytest.fixture(autouse=True)
def _no_error_is_logged(log_lines: LogLines) -> Iterator[None]:
    yield
    assert not [line for line in log_lines() if line["level"] in ("ERROR", "CRITICAL")]
