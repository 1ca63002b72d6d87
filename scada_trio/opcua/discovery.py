"""What a server offers, asked before anything is agreed on: GetEndpoints on a channel without security.

Owns that one exchange (OPC UA Part 4, 5.4.4). What comes back is a stranger's word: `scada_trio.opcua.security` decides
what it is worth. No worker thread waits here, and nothing outlives the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio
from opcua import ua
from opcua.common.connection import SecureConnection
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import struct_from_binary, struct_to_binary

from scada_trio.errors import DeviceProtocolError, DeviceUnreachable
from scada_trio.opcua.bounds import allow_few
from scada_trio.opcua.faults import MALFORMED, check_answer, translated
from scada_trio.opcua.transport import (
    MAX_CHUNK_BYTES,
    Endpoint,
    OpenTransport,
    error_of_err_frame,
    open_transport,
)

_MAX_ANSWER_BYTES: Final = 1 << 20
_SECURE_HEADER_BYTES: Final = 12
_CHANNEL_LIFETIME_MS: Final = 60_000


async def get_endpoints(endpoint: Endpoint, *, timeout_s: float, resolving: trio.CapacityLimiter) -> Sequence[Any]:
    """The server's EndpointDescriptions, within twice ``timeout_s``.

    Raises `DeviceUnreachable`, `DeviceProtocolError`, or what the server answered instead.
    """
    transport = await open_transport(endpoint, timeout_s=timeout_s, resolving=resolving)
    try:
        exchange = _Exchange(transport)
        with trio.move_on_after(timeout_s):
            return await exchange.run(endpoint.url)
    finally:
        transport.sock.close()
    raise DeviceUnreachable("GetEndpoints: no answer in time")


class _Exchange:
    """One channel on one socket, whose answers come in order."""

    def __init__(self, transport: OpenTransport) -> None:
        self._sock = transport.sock
        self._frames = transport.frames
        self._waiting = transport.waiting
        self._channel = SecureConnection(ua.SecurityPolicy())
        self._requests = 0

    async def run(self, url: str) -> Sequence[Any]:
        opening = ua.OpenSecureChannelRequest()
        opening.Parameters.RequestType = ua.SecurityTokenRequestType.Issue
        opening.Parameters.SecurityMode = ua.MessageSecurityMode.None_
        opening.Parameters.RequestedLifetime = _CHANNEL_LIFETIME_MS
        opening.Parameters.ClientNonce = b""
        opened = await self._ask(opening, ua.OpenSecureChannelResponse, ua.MessageType.SecureOpen)
        self._channel.set_channel(opened.Parameters, ua.SecurityTokenRequestType.Issue, b"")
        asking = ua.GetEndpointsRequest()
        asking.Parameters.EndpointUrl = url
        answer = await self._ask(asking, ua.GetEndpointsResponse, ua.MessageType.SecureMessage)
        closing = ua.CloseSecureChannelRequest()
        await self._send(closing, ua.MessageType.SecureClose)
        return answer.Endpoints or ()

    async def _ask(self, request: Any, response_type: Any, message_type: bytes) -> Any:
        name = response_type.__name__.removesuffix("Response")
        await self._send(request, message_type)
        body = allow_few(await self._receive())
        with translated(name):
            check_answer(body, request)
            response = struct_from_binary(response_type, body)
            response.ResponseHeader.ServiceResult.check()
            return response

    async def _send(self, request: Any, message_type: bytes) -> None:
        self._requests += 1
        request.RequestHeader.RequestHandle = self._requests
        request.RequestHeader.TimeoutHint = 10_000
        frames = self._channel.message_to_binary(
            struct_to_binary(request), message_type=message_type, request_id=self._requests
        )
        while frames:
            with translated("GetEndpoints"):
                try:
                    frames = frames[self._sock.send(frames) :]
                    continue
                except BlockingIOError:
                    pass
            await trio.lowlevel.wait_writable(self._sock)

    async def _receive(self) -> Buffer:
        taken = 0
        while True:
            while self._waiting:
                frame = self._waiting.pop(0)
                taken += len(frame)
                if taken > _MAX_ANSWER_BYTES:
                    raise DeviceProtocolError(f"the server lists endpoints in more than {_MAX_ANSWER_BYTES} bytes")
                message = self._take(frame)
                if message is not None:
                    return message.body()
            await trio.lowlevel.wait_readable(self._sock)
            with translated("GetEndpoints"):
                try:
                    received = self._sock.recv(MAX_CHUNK_BYTES)
                except BlockingIOError:
                    continue
            if not received:
                raise DeviceUnreachable("the device closed the connection when it was asked for its endpoints")
            self._waiting += self._frames.feed(received)

    def _take(self, frame: bytes) -> Any:
        kind = frame[:3]
        if kind == b"ERR":
            raise error_of_err_frame(frame, "GetEndpoints")
        if kind not in (b"MSG", b"OPN") or len(frame) < _SECURE_HEADER_BYTES:
            raise DeviceProtocolError("the server sent a frame that has no place here")
        header = ua.Header(kind, frame[3:4], int.from_bytes(frame[8:12], "little"))
        header.packet_size, header.body_size = len(frame), len(frame) - _SECURE_HEADER_BYTES
        try:
            return self._channel.receive_from_header_and_body(header, Buffer(frame, _SECURE_HEADER_BYTES))
        except MALFORMED as error:
            raise DeviceProtocolError(f"the server sent an unreadable chunk ({type(error).__name__})") from error
