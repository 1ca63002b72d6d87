"""Whatever a client sends: an answer, an error that says so, or a closed connection; never a crash, never much memory.

Bounded by the number of examples, so it is as long on every machine; ``--hypothesis-seed`` repeats a run, and what ever
failed is among the explicit examples.
"""

from __future__ import annotations

import socket
import ssl
import struct
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import grpc
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scada_trio.api._generated import scada_pb2
from scada_trio.metrics import Metrics
from scada_trio.web.app import create_app
from scada_trio.web.server import serve_http
from scada_trio.web.status import StatusBoard
from tests.fix_api import MESSAGES, LogLines, ServeApi, grpcio_call
from tests.fix_tls import ApiPki

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_MIB = 1 << 20
BOUNDED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,  # the same on every run: a failure is a regression, not a chance
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
EXPECTED = {
    *(grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND),
    *(grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION),
}

frames = st.builds(
    lambda kind, flags, stream, body: (
        struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body
    ),
    st.integers(0, 12),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 2**31 - 1]),
    st.binary(max_size=80),
)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """At most 30 MiB more than before, at any moment."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < 30 * _MIB
    finally:
        tracemalloc.stop()


def exchange(port: int, data: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """Send ``data`` and the end of it; what comes back until the server closes, or is silent for a moment."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        link = plain if tls is None else tls.wrap_socket(plain, server_hostname="localhost")
        try:
            link.sendall(data)
            if tls is None:
                link.shutdown(socket.SHUT_WR)
            link.settimeout(0.2)
            while part := link.recv(65536):
                received += part
        except OSError:
            pass
        finally:
            link.close()
    return received


async def in_thread(function: Any, *args: object) -> None:
    """Hypothesis runs its examples in a thread; the server runs here."""
    await trio.to_thread.run_sync(partial(function, *args))


def no_bug(log_lines: LogLines) -> None:
    """Nothing was logged that nobody expects."""
    bad = [line for line in log_lines() if line["level"] in ("ERROR", "CRITICAL") or "exception" in line]
    assert bad == []


# --- gRPC


async def test_random_frames_end_in_a_closed_connection(serve_api: ServeApi, log_lines: LogLines) -> None:
    """Bytes, frames in no order, after a good beginning or none; then a good call is answered."""

    def play(port: int) -> None:
        @BOUNDED
        @example(data=_PREFACE + _SETTINGS_FRAME * 50)
        @example(data=_PREFACE + b"\xff" * 200)
        @example(data=_PREFACE + _SETTINGS_FRAME + bytes([0, 0, 0, 0x0B, 0, 0, 0, 0, 0]))  # a frame of no known type
        @example(data=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        @given(
            data=st.one_of(
                st.binary(max_size=400),
                st.lists(frames, max_size=8).map(lambda parts: _PREFACE + _SETTINGS_FRAME + b"".join(parts)),
            )
        )
        def attempt(data: bytes) -> None:
            exchange(port, data)

        attempt()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert grpcio_call(channel, "HealthCheck").status == "healthy"

    async with serve_api() as served:
        with bounded_memory():
            await in_thread(play, served.port)
    no_bug(log_lines)


async def test_random_bytes_of_tls_end_in_a_closed_connection(
    serve_api: ServeApi, api_pki: ApiPki, log_lines: LogLines
) -> None:
    def play(port: int) -> None:
        @settings(BOUNDED, max_examples=40)
        @given(
            data=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda body: b"\x16\x03\x01" + body))
        )
        def attempt(data: bytes) -> None:
            exchange(port, data)

        attempt()
        with api_pki.channel(port) as channel:
            assert grpcio_call(channel, "HealthCheck").status == "healthy"

    async with serve_api(access=api_pki.access(rights=False, clients=False)) as served:
        await in_thread(play, served.port)
    no_bug(log_lines)


async def test_random_bodies_are_an_error_that_says_so(serve_api: ServeApi, log_lines: LogLines) -> None:
    """Any bytes as the request of any method."""

    def play(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

            @BOUNDED
            @example(method="QueryReadings", body=b"\x0a\xff\xff\xff\xff\x7f")
            @given(method=st.sampled_from(sorted(MESSAGES)), body=st.binary(max_size=300))
            def attempt(method: str, body: bytes) -> None:
                assert code_of(channel, method, body) in EXPECTED

            attempt()

    async with serve_api() as served:
        with bounded_memory():
            await in_thread(play, served.port)
    no_bug(log_lines)


async def test_random_messages_are_answered_or_refused(serve_api: ServeApi, log_lines: LogLines) -> None:
    """Well-formed messages with odd values in their fields."""

    def play(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

            @BOUNDED
            @given(data=st.data(), method=st.sampled_from(sorted(MESSAGES)))
            def attempt(data: st.DataObject, method: str) -> None:
                message = data.draw(messages(MESSAGES[method][0]))
                assert code_of(channel, method, message.SerializeToString()) in EXPECTED

            attempt()

    async with serve_api() as served:
        with bounded_memory():
            await in_thread(play, served.port)
    no_bug(log_lines)


def code_of(channel: grpc.Channel, method: str, body: bytes) -> grpc.StatusCode:
    """What the call ends with; a stream that goes on has begun well."""
    call = channel.unary_stream(f"/scada.ScadaService/{method}")(body, timeout=10)
    try:
        for _ in call:
            if method == "SubscribeReadings":
                call.cancel()
                return grpc.StatusCode.OK
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


_IDS = ["", "x", "11111111-1111-4111-8111-111111111111", "99999999-9999-4999-8999-999999999999"]
_TEXTS = st.one_of(
    st.sampled_from([*_IDS, "None", "Sign", "ns=2;s=P", "opc.tcp://h:1", "opc.tcp://[::1", "\0", "\u202e", "a" * 5000]),
    st.text(max_size=40),
)
_INTEGERS = st.one_of(st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]), st.integers(-(2**31), 2**31 - 1))
_LONGS = st.one_of(_INTEGERS, st.sampled_from([2**63 - 1, -(2**63), 253_402_300_800, 1_700_000_000]))


@st.composite
def messages(draw: Any, kind: Any) -> Any:
    """A message of that type; each field there or not."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        value = values(field)
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(value, max_size=3)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(value))
        else:
            setattr(message, field.name, draw(value))
    return message


def values(field: Any) -> st.SearchStrategy[Any]:
    kinds: dict[int, st.SearchStrategy[Any]] = {
        field.TYPE_STRING: _TEXTS,
        field.TYPE_INT32: _INTEGERS,
        field.TYPE_UINT32: _INTEGERS.map(abs),
        field.TYPE_INT64: _LONGS,
        field.TYPE_DOUBLE: st.floats(),
        field.TYPE_BOOL: st.booleans(),
        field.TYPE_ENUM: st.integers(-1, 9),
    }
    if field.message_type is not None:
        return messages(getattr(scada_pb2, field.message_type.name))
    return kinds[field.type]


# --- HTTP


@asynccontextmanager
async def served_http() -> AsyncIterator[int]:
    async def ready() -> tuple[bool, dict[str, str]]:
        return True, {}

    async with trio.open_nursery() as nursery:
        app = create_app(Metrics(), ready, StatusBoard(list))
        _, port = await nursery.start(partial(serve_http, app, host="127.0.0.1", port=0))
        yield port
        nursery.cancel_scope.cancel()


async def test_random_http_is_refused(log_lines: LogLines) -> None:
    """Request lines, headers and bodies of any bytes; an answer is one of HTTP's, without a traceback."""
    names = st.sampled_from(
        [b"Host", b"Authorization", b"Content-Length", b"Transfer-Encoding", b"X", b"\xff", b"Upgrade"]
    )
    lines = st.tuples(names, st.binary(max_size=60)).map(lambda pair: pair[0] + b": " + pair[1] + b"\r\n")
    methods = st.sampled_from([b"GET", b"HEAD", b"POST", b"CONNECT", b"TRACE", b"\x00"])
    targets = st.one_of(
        st.sampled_from([b"/metrics", b"/metrics?name[]=%ff%00", b"/readyz", b"/%2e%2e/", b"*", b"http://a/metrics"]),
        st.binary(max_size=60),
    )

    def play(port: int) -> None:
        @BOUNDED
        @example(data=b"GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Basic \xff\xff\r\n\r\n")
        @example(data=b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
        @example(data=_PREFACE + b"\xff" * 100)
        @given(
            data=st.one_of(
                st.binary(max_size=300),
                st.builds(
                    lambda method, target, headers, body: (
                        method + b" " + target + b" HTTP/1.1\r\n" + b"".join(headers) + b"\r\n" + body
                    ),
                    *(methods, targets, st.lists(lines, max_size=5), st.binary(max_size=50)),
                ),
            )
        )
        def attempt(data: bytes) -> None:
            answer = exchange(port, data)
            assert b"Traceback" not in answer
            assert not answer or answer.startswith((b"HTTP/1.", b"\x00\x00"))
            assert b" 500 " not in answer.split(b"\r\n", 1)[0]

        attempt()
        assert b" 200 " in exchange(port, b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")

    async with served_http() as port:
        with bounded_memory():
            await in_thread(play, port)
    no_bug(log_lines)
