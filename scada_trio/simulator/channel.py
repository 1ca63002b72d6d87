"""One client's link to a simulated well: frames, chunks, the secure channel, and Publish, which alone comes often.

Owns the socket's bytes (OPC UA Part 6, 6.7 and 7.1), with security None. Everything but Publish goes to `services`. An
asyncio protocol, because a well's whole work for one client is then two system calls and no task a second.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
from typing import Any, Final

from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.object_ids import ObjectIds
from opcua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary

from scada_trio.simulator.device import MOST_PUBLISHES, Device, PublishRequest, Session
from scada_trio.simulator.services import NONE_URI, fault, respond
from scada_trio.simulator.subscription import Subscription, ticks_now

_FRAME: Final = struct.Struct("<3scI")
_SYMMETRIC: Final = struct.Struct("<3scIIIII")  # frame, channel, token, sequence number, request id
_UINT32: Final = struct.Struct("<I")
_INT32: Final = struct.Struct("<i")
_ACKNOWLEDGE: Final = struct.Struct("<3scIIIIII")
_PUBLISH_HEAD: Final = struct.Struct("<BBHqIIBi3sIi")
_LARGEST_FRAME: Final = 65_536
_MOST_CHUNKS: Final = 1_000
_LIFETIME_MS: Final = 3_600_000
_CHANNELS: Final = itertools.count(1)
_PUBLISH_ID: Final = b"\x01\x00\x3a\x03"
_SERVICES: Final = {
    code: name.removesuffix("Request_Encoding_DefaultBinary")
    for name, code in vars(ObjectIds).items()
    if name.endswith("Request_Encoding_DefaultBinary")
}
_SENT_AGAIN: Final = 256  # numbers that a response lists as available at most


class _Broken(Exception):
    """The client does not speak OPC UA as we do; ``code`` is told it before the link is closed."""

    def __init__(self, code: int) -> None:
        self.code = code


class ClientChannel(asyncio.Protocol):
    """Made for each connection that is accepted."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._chunks: list[bytes] = []
        self._number = next(_CHANNELS)
        self._token = 0
        self._sequence = itertools.count(1)
        self._largest_frame = _LARGEST_FRAME
        self.peer_url = device.url

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called once; an unpowered well drops the link at once."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._device.powered:
            self._device.channels.add(self)
        else:
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Called once."""
        self._device.channels.discard(self)
        for session in self._device.sessions.values():
            if session.channel is self:
                session.channel = None
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Take all frames that are whole."""
        received = self._received
        received += data
        try:
            while len(received) >= 8 and len(received) >= (size := self._frame_size()):
                frame = bytes(received[:size])
                del received[:size]
                self._take(frame)
        except _Broken as error:
            self._send(struct.pack("<3scIIi", b"ERR", b"F", 16, error.code, -1))
            if self._transport is not None:
                self._transport.close()

    def abort(self) -> None:
        """Close without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _frame_size(self) -> int:
        size = _UINT32.unpack_from(self._received, 4)[0]
        if not 8 <= size <= _LARGEST_FRAME:
            raise _Broken(ua.StatusCodes.BadTcpMessageTooLarge)
        return int(size)

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    # ---- frames

    def _take(self, frame: bytes) -> None:
        kind = frame[:3]
        try:
            if kind == b"MSG":
                self._take_message(frame)
            elif kind == b"HEL":
                self._take_hello(frame)
            elif kind == b"OPN":
                self._open(frame)
            elif kind == b"CLO":
                if self._transport is not None:
                    self._transport.close()
            else:
                raise _Broken(ua.StatusCodes.BadTcpMessageTypeInvalid)
        except (struct.error, IndexError, ValueError, KeyError, ua.UaError) as error:
            raise _Broken(ua.StatusCodes.BadDecodingError) from error

    def _take_hello(self, frame: bytes) -> None:
        theirs = _UINT32.unpack_from(frame, 12)[0]
        self._largest_frame = max(8_192, min(theirs or _LARGEST_FRAME, _LARGEST_FRAME))
        self._send(_ACKNOWLEDGE.pack(b"ACK", b"F", 28, 0, _LARGEST_FRAME, self._largest_frame, 0, _MOST_CHUNKS))

    def _open(self, frame: bytes) -> None:
        """OpenSecureChannel, the first time or as a renewal; the old token is good for as long as it is used."""
        body = Buffer(frame[12:])
        policy = body.read(_INT32.unpack(body.read(4))[0]).decode()
        if policy != NONE_URI:
            raise _Broken(ua.StatusCodes.BadSecurityPolicyRejected)
        for _ in range(2):  # certificate and thumbprint
            body.read(max(0, _INT32.unpack(body.read(4))[0]))
        _, request_id = struct.unpack("<II", body.read(8))
        nodeid_from_binary(body)
        header = struct_from_binary(ua.RequestHeader, body)
        wanted = struct_from_binary(ua.OpenSecureChannelParameters, body)
        if wanted.SecurityMode != ua.MessageSecurityMode.None_:
            raise _Broken(ua.StatusCodes.BadSecurityModeRejected)
        self._token += 1
        response = ua.OpenSecureChannelResponse()
        response.ResponseHeader.RequestHandle = header.RequestHandle
        token = response.Parameters.SecurityToken
        token.ChannelId, token.TokenId = self._number, self._token
        token.RevisedLifetime = min(wanted.RequestedLifetime or _LIFETIME_MS, _LIFETIME_MS)
        response.Parameters.ServerNonce = b"\0"
        uri = NONE_URI.encode()
        rest = _INT32.pack(len(uri)) + uri + struct.pack("<iiII", -1, -1, next(self._sequence), request_id)
        rest += struct_to_binary(response)
        self._send(_FRAME.pack(b"OPN", b"F", 12 + len(rest)) + _UINT32.pack(self._number) + rest)

    def _take_message(self, frame: bytes) -> None:
        _, final, _, channel, _, _, request_id = _SYMMETRIC.unpack_from(frame)
        if channel != self._number:
            raise _Broken(ua.StatusCodes.BadTcpSecureChannelUnknown)
        if final == b"F" and not self._chunks:
            self._serve(request_id, frame, 24)
            return
        if final == b"A":
            self._chunks.clear()
            return
        self._chunks.append(frame[24:])
        if len(self._chunks) > _MOST_CHUNKS:
            raise _Broken(ua.StatusCodes.BadTcpMessageTooLarge)
        if final == b"F":
            whole = b"".join(self._chunks)
            self._chunks.clear()
            self._serve(request_id, whole, 0)

    def _send_message(self, body: bytes, request_id: int) -> None:
        most = self._largest_frame - 24
        frames: list[bytes] = []
        for start in range(0, len(body), most):
            part = body[start : start + most] if len(body) > most else body
            final = b"F" if start + most >= len(body) else b"C"
            numbers = (len(part) + 24, self._number, self._token, next(self._sequence), request_id)
            frames += (_SYMMETRIC.pack(b"MSG", final, *numbers), part)
        self._send(b"".join(frames))

    # ---- services

    def _serve(self, request_id: int, data: bytes, start: int) -> None:
        if data[start : start + 4] == _PUBLISH_ID:
            self._publish(request_id, data, start + 4)
            return
        body = Buffer(data[start:])
        service = _SERVICES.get(nodeid_from_binary(body).Identifier, "")
        header = struct_from_binary(ua.RequestHeader, body)
        token = header.AuthenticationToken.Identifier
        session = self._session(token if isinstance(token, int) else 0)
        response = respond(self, self._device, service, session, body)
        if service == "ActivateSession" and session is not None and not isinstance(response, ua.ServiceFault):
            if session.channel is not self:
                session.publishes.clear()  # they went with their channel
            session.channel = self
        response.ResponseHeader.RequestHandle = header.RequestHandle
        self._send_message(struct_to_binary(response), request_id)

    def refuse(self, request_id: int, handle: int, code: int) -> None:
        """Send a ServiceFault."""
        response: Any = fault(code)
        response.ResponseHeader.RequestHandle = handle
        self._send_message(struct_to_binary(response), request_id)

    def _session(self, token: int) -> Session | None:
        session = self._device.sessions.get(token)
        if session is not None:
            session.heard_at = time.monotonic()
        return session

    def _publish(self, request_id: int, data: bytes, offset: int) -> None:
        """Publish (Part 4, 5.13.5), taken apart by hand."""
        token, offset = _read_token(data, offset)
        handle = _UINT32.unpack_from(data, offset + 8)[0]
        audit = _INT32.unpack_from(data, offset + 16)[0]
        offset += 20 + max(0, audit) + 4 + 3  # timeout hint, and an additional header that is empty
        session = self._session(token)
        if session is None or session.channel is not self:
            self.refuse(request_id, handle, ua.StatusCodes.BadSessionIdInvalid)
            return
        results = self._acknowledge(session, data, offset)
        if session not in self._device.owners.values():
            self.refuse(request_id, handle, ua.StatusCodes.BadNoSubscription)
        elif len(session.publishes) >= MOST_PUBLISHES:
            self.refuse(request_id, handle, ua.StatusCodes.BadTooManyPublishRequests)
        else:
            self._device.take_publish(session, PublishRequest(self, request_id, handle, results))

    def _acknowledge(self, session: Session, data: bytes, offset: int) -> bytes:
        """Forget what has arrived; the array of results as bytes."""
        count = max(0, _INT32.unpack_from(data, offset)[0])
        results = [_INT32.pack(count)]
        for number, sequence in struct.iter_unpack("<II", data[offset + 4 : offset + 4 + 8 * count]):
            subscription = self._device.owned(session, number)
            if subscription is None:
                code = ua.StatusCodes.BadSubscriptionIdInvalid
            else:
                code = 0 if subscription.acknowledge(sequence) else ua.StatusCodes.BadSequenceNumberUnknown
            results.append(_UINT32.pack(code))
        return b"".join(results)

    def answer_publish(
        self, request: PublishRequest, subscription: Subscription, message: bytes, *, more: bool
    ) -> None:
        """Send one PublishResponse."""
        kept = list(subscription.kept)[-_SENT_AGAIN:]
        head = _PUBLISH_HEAD.pack(
            1, 0, 829, ticks_now(), request.handle, 0, 0, -1, b"\0\0\0", subscription.number, len(kept)
        )
        parts = (head, struct.pack(f"<{len(kept)}I", *kept), b"\1" if more else b"\0", message, request.results)
        self._send_message(b"".join((*parts, b"\xff\xff\xff\xff")), request.request_id)


def _read_token(data: bytes, offset: int) -> tuple[int, int]:
    """The number of an authentication token (a NodeId, Part 6, 5.2.2.9), 0 where it is none of ours, and its end."""
    form = data[offset]
    if form == 0:
        return data[offset + 1], offset + 2
    if form == 1:
        return int.from_bytes(data[offset + 2 : offset + 4], "little"), offset + 4
    if form == 2:
        return int(_UINT32.unpack_from(data, offset + 3)[0]), offset + 7
    if form == 4:
        return 0, offset + 19
    return 0, offset + 7 + max(0, _INT32.unpack_from(data, offset + 3)[0])
