"""The way to a device before python-opcua has a say: address, TCP, Hello and Acknowledge, and the cutting of frames.

Owns the bounds on what a stranger may send. Knows no session and no subscription; starts nothing that outlives a call.
No worker thread waits for a device here, but for one name lookup a connection: a dead device costs a Trio task only.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import trio
from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import struct_from_binary, uatcp_to_binary

from scada_trio.errors import DeviceError, DeviceProtocolError, DeviceRefused, DeviceUnreachable
from scada_trio.opcua.faults import MALFORMED, error_of_status

MAX_CHUNK_BYTES: Final = 65_536
"""Largest chunk taken from a server, told to it in Hello."""
MAX_MESSAGE_BYTES: Final = 16 << 20
"""Largest message over all of its chunks: some 400,000 values."""
MAX_MESSAGE_CHUNKS: Final = 4_096
MIN_CHUNK_BYTES: Final = 8_192
"""Smallest buffer that a server may announce (OPC UA Part 6, 7.1.2.3)."""

HEADER_BYTES: Final = 8
_SIZE: Final = struct.Struct("<I")
_KINDS: Final = frozenset({b"MSG", b"OPN", b"CLO", b"ACK", b"ERR"})
_STAGGER_S: Final = 0.25  # RFC 8305, 5: the next address gets its try while the first still waits


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an ``opc.tcp`` URL points; ``url`` is sent in Hello as it was given."""

    url: str
    host: str
    port: int


def parse_endpoint(url: str) -> Endpoint:
    """Read an ``opc.tcp://host[:port][/path]`` URL. Raises `DeviceRefused` without repeating credentials in it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise DeviceRefused("the endpoint URL cannot be read") from error
    if parts.username is not None or parts.password is not None:
        raise DeviceRefused("the endpoint URL must not hold a user or password")
    if parts.scheme != "opc.tcp" or not host or re.search(r"[\s\x00-\x1f]", url):
        raise DeviceRefused("the endpoint URL is not of the form opc.tcp://host:port/path")
    return Endpoint(url, host, port or 4840)


def has_name(url: str) -> bool:
    """Whether the host of ``url`` has to be looked up; not where it cannot be read."""
    try:
        ipaddress.ip_address(parse_endpoint(url).host)
    except DeviceRefused:
        return False
    except ValueError:
        return True
    return False


class FrameBuffer:
    """Cuts a byte stream into OPC UA frames (Part 6, 7.1.2.2), each at most ``MAX_CHUNK_BYTES``."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[bytes]:
        """The frames that ``received`` completes, in order. Raises `DeviceProtocolError` for what is no frame."""
        stream = self._rest + received if self._rest else received
        frames = []
        start = 0
        while len(stream) - start >= HEADER_BYTES:
            size = self._frame_size(stream, start)
            if len(stream) - start < size:
                break
            frames.append(stream[start : start + size])
            start += size
        self._rest = stream[start:]
        return frames

    @staticmethod
    def _frame_size(stream: bytes, start: int) -> int:
        kind = stream[start : start + 3]
        if kind not in _KINDS or stream[start + 3 : start + 4] not in (b"F", b"C", b"A"):
            raise DeviceProtocolError("the server sent bytes that are no OPC UA frame")
        (size,) = _SIZE.unpack_from(stream, start + 4)
        if not HEADER_BYTES <= size <= MAX_CHUNK_BYTES:
            raise DeviceProtocolError(f"the server sent a frame of {size} bytes; allowed are {MAX_CHUNK_BYTES}")
        return int(size)


class DeviceAway(DeviceUnreachable):
    """Nothing accepts TCP connections at the address: there is no power, no network, or no server yet."""


@dataclass(slots=True)
class OpenTransport:
    """A connected socket on which Hello was answered. Whoever holds it closes ``sock``; it does not block."""

    sock: socket.socket
    frames: FrameBuffer
    waiting: list[bytes]  # frames that came together with the Acknowledge
    send_chunk_bytes: int


async def open_transport(endpoint: Endpoint, *, timeout_s: float, resolving: trio.CapacityLimiter) -> OpenTransport:
    """Connect and exchange Hello and Acknowledge (Part 6, 7.1.2), all within ``timeout_s``.

    Raises `DeviceUnreachable`, `DeviceProtocolError`, or what a server's ERR frame stands for; then, and when it is
    cancelled, the socket is closed. ``resolving`` bounds name lookups, which no one can interrupt.
    """
    stream: trio.SocketStream | None = None
    with trio.move_on_after(timeout_s):
        stream = await _connect(endpoint, resolving)
        try:
            return await _greet(stream, endpoint)
        finally:
            stream.socket.close()  # does nothing where _greet has taken the socket out of it
    kind = DeviceAway if stream is None else DeviceUnreachable
    raise kind(f"no answer from {endpoint.host}:{endpoint.port} within {timeout_s:g} s")


async def knock(endpoint: Endpoint, *, resolving: trio.CapacityLimiter) -> bool:
    """Whether something accepts TCP connections at ``endpoint``; says nothing to it. The caller bounds the time."""
    try:
        stream = await _connect(endpoint, resolving)
    except DeviceAway:
        return False
    await trio.aclose_forcefully(stream)
    return True


async def _connect(endpoint: Endpoint, resolving: trio.CapacityLimiter) -> trio.SocketStream:
    where = f"{endpoint.host}:{endpoint.port}"
    try:
        addresses = await _addresses(endpoint, resolving)
        if len(addresses) == 1:
            return await trio.open_tcp_stream(addresses[0], endpoint.port)
        return await _first_of(addresses, endpoint.port)
    except OSError as error:
        raise DeviceAway(f"cannot connect to {where}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    """What the system said; trio wraps it, one error an address that was tried."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError):
        return _reason(cause)
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)  # trio's own text has the address once more


async def _addresses(endpoint: Endpoint, resolving: trio.CapacityLimiter) -> list[str]:
    """Numeric addresses of the host, the resolver's order, families taking turns (RFC 8305, 4)."""
    try:
        return [str(ipaddress.ip_address(endpoint.host))]
    except ValueError:
        pass
    found = await trio.to_thread.run_sync(
        lambda: socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM),
        abandon_on_cancel=True,  # the resolver cannot be interrupted; its thread ends by itself and changes nothing
        limiter=resolving,
    )
    ordered = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
    first = [address for family, address in ordered if family == ordered[0][0]]
    other = [address for family, address in ordered if family != ordered[0][0]]
    turns = [address for pair in zip(first, other, strict=False) for address in pair]
    return turns + [address for address in first + other if address not in turns]


async def _first_of(addresses: list[str], port: int) -> trio.SocketStream:
    """The first address that answers; a slow one does not hold up the next."""
    winners: list[trio.SocketStream] = []
    errors: list[OSError] = []

    async def attempt(address: str, done: trio.Event, scope: trio.CancelScope) -> None:
        try:
            stream = await trio.open_tcp_stream(address, port)
        except OSError as error:
            errors.append(error)
        else:
            winners.append(stream)
            scope.cancel()
        done.set()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                done = trio.Event()
                nursery.start_soon(attempt, address, done, nursery.cancel_scope)
                with trio.move_on_after(_STAGGER_S):
                    await done.wait()
        if not winners:
            raise OSError(f"none of {len(addresses)} addresses answers") from errors[0]
        return winners.pop(0)
    finally:
        for late in winners:
            late.socket.close()


async def _greet(stream: trio.SocketStream, endpoint: Endpoint) -> OpenTransport:
    hello = ua.Hello()
    hello.ReceiveBufferSize = hello.SendBufferSize = MAX_CHUNK_BYTES
    hello.MaxMessageSize = MAX_MESSAGE_BYTES
    hello.MaxChunkCount = MAX_MESSAGE_CHUNKS
    hello.EndpointUrl = endpoint.url
    buffer = FrameBuffer()
    try:
        await stream.send_all(uatcp_to_binary(ua.MessageType.Hello, hello))
        frames: list[bytes] = []
        while not frames:
            received = await stream.receive_some(MAX_CHUNK_BYTES)
            if not received:
                raise DeviceUnreachable(f"{endpoint.host}:{endpoint.port} closed the connection at once")
            frames = buffer.feed(bytes(received))
    except trio.BrokenResourceError as error:
        raise DeviceUnreachable(f"{endpoint.host}:{endpoint.port} broke the connection off") from error
    chunk_bytes = _read_acknowledge(frames[0])
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return OpenTransport(sock, buffer, frames[1:], chunk_bytes)


def _read_acknowledge(frame: bytes) -> int:
    """The largest chunk that the server takes."""
    if frame[:3] == b"ERR":
        raise error_of_err_frame(frame, "Hello")
    if frame[:3] != b"ACK":
        raise DeviceProtocolError("the server answered Hello with something else than Acknowledge")
    try:
        answer = struct_from_binary(ua.Acknowledge, Buffer(frame[HEADER_BYTES:]))
    except MALFORMED as error:
        raise DeviceProtocolError("the server's Acknowledge cannot be read") from error
    if answer.ReceiveBufferSize < MIN_CHUNK_BYTES:
        raise DeviceProtocolError(f"the server takes chunks of {answer.ReceiveBufferSize} bytes only")
    return min(int(answer.ReceiveBufferSize), MAX_CHUNK_BYTES)


def error_of_err_frame(frame: bytes, context: str) -> DeviceError:
    """What an ERR frame (Part 6, 7.1.2.5) says."""
    try:
        message = struct_from_binary(ua.ErrorMessage, Buffer(frame[HEADER_BYTES:]))
    except MALFORMED:
        return DeviceProtocolError(f"{context}: the server sent an error that cannot be read")
    return error_of_status(message.Error.value, context, message.Reason)
