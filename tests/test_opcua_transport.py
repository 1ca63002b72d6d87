"""What comes before a session: addresses, TCP, Hello, and frames out of a stream of bytes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from scada_trio.errors import DeviceError, DeviceProtocolError, DeviceRefused, DeviceUnreachable
from scada_trio.opcua.node_ids import parse_node_id
from scada_trio.opcua.transport import FrameBuffer, open_transport, parse_endpoint
from scada_trio.status import ConnectionState
from tests.devices.scripted import ScriptedDevice
from tests.fix_devices import FAST, free_port, open_device, open_rig, tag

Talk = Callable[[trio.SocketStream], Coroutine[Any, Any, None]]


@asynccontextmanager
async def open_listener(talk: Talk) -> AsyncIterator[str]:
    """A TCP server that does ``talk`` with every client; yields its URL."""
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, talk, 0, host="127.0.0.1"))
        yield f"opc.tcp://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def attempt(url: str, timeout_s: float = 10.0) -> None:
    opened = await open_transport(parse_endpoint(url), timeout_s=timeout_s, resolving=trio.CapacityLimiter(1))
    opened.sock.close()


def err(code: int, reason: str = "") -> bytes:
    text = reason.encode()
    return (
        b"ERRF"
        + (16 + len(text)).to_bytes(4, "little")
        + code.to_bytes(4, "little")
        + len(text).to_bytes(4, "little")
        + text
    )


def saying(answer: bytes) -> Talk:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.receive_some()

    return talk


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("answer", "wanted", "says"),
    [
        (err(0x80830000, "no such endpoint"), DeviceRefused, "BadTcpEndpointUrlInvalid"),
        (err(0x807D0000), DeviceUnreachable, "BadTcpServerTooBusy"),
        (b"ERRF\x08\x00\x00\x00", DeviceProtocolError, "cannot be read"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", DeviceProtocolError, "no OPC UA frame"),
        (b"ACKF\x1c\x00\x00\x00" + b"\0" * 20, DeviceProtocolError, "chunks of 0 bytes"),
        (b"ACKF\x0c\x00\x00\x00" + b"\0" * 4, DeviceProtocolError, "cannot be read"),
        (b"MSGF\x08\x00\x00\x00", DeviceProtocolError, "something else"),
        (b"ACKF\xff\xff\xff\x7f", DeviceProtocolError, "2147483647"),
    ],
)
async def test_answers_to_hello(answer: bytes, wanted: type[DeviceError], says: str) -> None:
    """What a server may say to Hello, and what it means to us."""
    async with open_listener(saying(answer)) as url:
        with pytest.raises(wanted, match=says):
            await attempt(url)


async def test_never_answers() -> None:
    """A listener that accepts and says nothing costs its time limit and no thread."""
    async with open_listener(silent) as url:
        with pytest.raises(DeviceUnreachable, match="no answer"):
            await attempt(url, timeout_s=0.1)


async def test_nobody_listens() -> None:
    """A refused connection is unreachable, with the address and the reason of the system, once each."""
    port = free_port()
    with pytest.raises(DeviceUnreachable, match=rf"^cannot connect to 127\.0\.0\.1:{port}: Connection refused$"):
        await attempt(f"opc.tcp://127.0.0.1:{port}")


async def test_hangs_up() -> None:
    """A server that closes at once is unreachable."""

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with open_listener(talk) as url:
        with pytest.raises(DeviceUnreachable, match="closed"):
            await attempt(url)


async def test_second_address_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose first address is dead is reached at its second."""
    async with open_listener(saying(b"ACKF\x1c\x00\x00\x00" + b"\0\0\1\0" * 5)) as url:
        port = parse_endpoint(url).port

        def resolve(*_: Any, **__: Any) -> Any:
            found = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]
            return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in found]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        await attempt(f"opc.tcp://device.example:{port}")


async def test_dead_devices_delay_nobody() -> None:
    """Two hundred devices that accept and say nothing do not hold up one that answers."""
    limiter = trio.CapacityLimiter(1)
    settings = replace(FAST, connect_timeout_s=60.0)
    async with open_listener(silent) as dead, trio.open_nursery() as nursery:
        device = ScriptedDevice()
        await nursery.start(device.serve)
        async with trio.open_nursery() as dead_ones:
            for _ in range(200):
                dead_ones.start_soon(_hold_open, dead, settings, limiter)
            async with open_rig(device.url, (tag("ns=1;s=a"),), settings=replace(settings, keep_alive_s=100.0)) as rig:
                await rig.state(ConnectionState.CONNECTED)
            assert limiter.borrowed_tokens == 0
            dead_ones.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def _hold_open(url: str, settings: Any, limiter: trio.CapacityLimiter) -> None:
    async with open_rig(url, settings=settings):
        await trio.sleep_forever()


@pytest.mark.parametrize(
    "url",
    ["", "opc.tcp://", "http://host:4840", "opc.tcp://host:99999", "opc.tcp://user:secret-word@host", "opc.tcp://a b"],
)
def test_bad_urls(url: str) -> None:
    """What is no OPC UA URL is refused, and its credentials are not repeated."""
    with pytest.raises(DeviceRefused) as caught:
        parse_endpoint(url)
    assert "secret-word" not in str(caught.value)


def test_urls() -> None:
    """Host and port of a URL; the port of the standard where it has none."""
    assert (parse_endpoint("opc.tcp://plc.example/path").host, parse_endpoint("opc.tcp://plc.example").port) == (
        "plc.example",
        4840,
    )
    assert parse_endpoint("opc.tcp://[::1]:4841").host == "::1"


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_frames_whatever_the_cuts(bodies: list[bytes], cuts: list[int]) -> None:
    """Frames come out whole and in order however the stream is cut."""
    frames = [b"MSGF" + (8 + len(body)).to_bytes(4, "little") + body for body in bodies]
    stream = b"".join(frames)
    buffer = FrameBuffer()
    got = []
    place = turn = 0
    while place < len(stream):
        step = cuts[turn % len(cuts)]
        got += buffer.feed(stream[place : place + step])
        place, turn = place + step, turn + 1
    assert got == frames


@given(st.binary(max_size=64))
def test_no_other_error_from_garbage(garbage: bytes) -> None:
    """Whatever comes is frames, a wait for more, or a protocol error."""
    with suppress(DeviceProtocolError):
        FrameBuffer().feed(garbage)


@pytest.mark.parametrize(
    ("text", "namespace", "identifier"),
    [
        ("i=2258", 0, 2258),
        ("ns=2;i=4294967295", 2, 4294967295),
        ("ns=2;s=a;b=c", 2, "a;b=c"),
        ("ns=3;s=Füllstand", 3, "Füllstand"),
        ("ns=3;b=AAEC", 3, b"\0\1\2"),
    ],
)
def test_node_ids(text: str, namespace: int, identifier: object) -> None:
    """Node ids of every kind, also with semicolons in their names."""
    node = parse_node_id(text)
    assert (node.NamespaceIndex, node.Identifier) == (namespace, identifier)


@pytest.mark.parametrize(
    "text", ["", "a", "ns=1", "ns=70000;i=1", "i=-1", "i=4294967296", "ns=1;g=zz", "b=?", "s=", "i=١", "ns=1;s=\ud800"]
)
def test_no_node_ids(text: str) -> None:
    """What is no node id is a ValueError, whatever is wrong with it."""
    with pytest.raises(ValueError):
        parse_node_id(text)


async def test_open62541_says_why() -> None:
    """A real server's endpoint is reached by name as well as by address."""
    async with open_device("open62541", nodes=["a"]) as device:
        await attempt(device.url.replace("127.0.0.1", "localhost"))
