"""A fast device of our own that counts, as control.py says: ten thousand values a second and more, without security.

It does what a good server does (OPC UA Part 4): sessions outlive their channel and are activated again on another one,
subscriptions outlive their session and can be transferred, notifications are kept until they are acknowledged and are
sent again when asked for. python-opcua's codec for everything but the notifications.

    count ── sample ──► subscriptions ◄── publish (a timer each) ──► channels ──► clients
"""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any, Final

import trio
from opcua import ua
from opcua.common.connection import SecureConnection
from opcua.common.utils import Buffer
from opcua.ua.object_ids import ObjectIds
from opcua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary, uatcp_to_binary

from tests.chaos.devices.control import Pace, TickLog, answer, options
from tests.chaos.devices.counting_services import Device, Session, refusal, respond
from tests.chaos.devices.counting_subscription import EPOCH, CountingSubscription

_SERVICES: Final = {
    code: name.removesuffix("Request_Encoding_DefaultBinary")
    for name, code in vars(ObjectIds).items()
    if name.endswith("Request_Encoding_DefaultBinary")
}
_BODY_BYTES: Final = 60_000  # of one chunk
_QUEUE_TICKS: Final = 2_000


class CountingServer:
    """Serves and counts: `run` returns when stdin ends."""

    def __init__(self, wanted: Any, nursery: trio.Nursery) -> None:
        self.device = Device(
            TickLog(Path(wanted["log"])),
            wanted["port"],
            wanted["nodes"],
            wanted.get("queue_ticks", _QUEUE_TICKS),
            publish=lambda subscription: nursery.start_soon(self.publish, subscription),
        )
        self._nursery = nursery
        self._running = trio.Event()
        self._running.set()
        self._pace = Pace(wanted["ticks_per_s"])

    async def run(self) -> None:
        """Serve until there are no more commands."""
        await self._nursery.start(trio.serve_tcp, self._serve, self.device.port)
        self._nursery.start_soon(self._count)
        answer(ready=True)
        await self._obey()

    async def _count(self) -> None:
        device = self.device
        while True:
            await self._running.wait()
            tick, source_us = device.log.tick()
            for subscription in device.subscriptions.values():
                subscription.sample(tick, source_us)
            await trio.sleep(self._pace.pause_s())

    async def _obey(self) -> None:
        stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
        buffer = b""
        while received := await stdin.receive_some():
            *lines, buffer = (buffer + bytes(received)).split(b"\n")
            for line in lines:
                command = json.loads(line)
                if command["op"] == "pause":
                    self._running = trio.Event()
                elif command["op"] == "resume":
                    self._running.set()
                else:
                    self.device.log.jump_us += command["us"]
                answer(ok=True)

    async def _serve(self, stream: trio.SocketStream) -> None:
        await ClientChannel(self, stream).run()

    # ---- publishing

    async def publish(self, subscription: CountingSubscription) -> None:
        """One subscription's publishing timer; returns when it has ended."""
        device, number = self.device, subscription.subscription_id
        while device.subscriptions.get(number) is subscription:
            await trio.sleep(subscription.interval_s)
            subscription.quiet += 1
            subscription.unserved += 1
            await self.serve_publishes(subscription)
            if subscription.expired:
                device.end_subscription(number)

    async def serve_publishes(self, subscription: CountingSubscription) -> None:
        """Answer as many requests as there is something to say."""
        while subscription.waiting or subscription.keep_alive_due:
            session = self.device.owners.get(subscription.subscription_id)
            if session is None or not self._alive(session) or not session.publishes:
                return
            channel, request_id, handle = session.publishes.popleft()
            if channel is not session.channel:
                continue
            message = subscription.notification() if subscription.waiting else subscription.keep_alive()
            await channel.answer_publish(request_id, handle, subscription, message)

    def _alive(self, session: Session) -> bool:
        if trio.current_time() - session.heard_at <= session.timeout_s:
            return True
        self.device.end_session(session, delete=False)
        return False


class ClientChannel:
    """One client's TCP connection with its secure channel. Its session outlives it."""

    def __init__(self, server: CountingServer, stream: trio.SocketStream) -> None:
        self.secure = SecureConnection(ua.SecurityPolicy())
        self._server = server
        self._device = server.device
        self._stream = stream
        self._sending = trio.Lock()

    async def run(self) -> None:
        """Serve until the client hangs up."""
        buffer = bytearray()
        try:
            while received := await self._stream.receive_some():
                buffer += received
                while len(buffer) >= 8 and len(buffer) >= (size := int.from_bytes(buffer[4:8], "little")):
                    frame = bytes(buffer[:size])
                    del buffer[:size]
                    await self._take(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _take(self, frame: bytes) -> None:
        kind = frame[:3]
        if kind == b"HEL":
            acknowledge = ua.Acknowledge()
            acknowledge.ReceiveBufferSize = acknowledge.SendBufferSize = 65536
            await self._send(uatcp_to_binary(ua.MessageType.Acknowledge, acknowledge))
            return
        header = ua.Header(kind, frame[3:4], int.from_bytes(frame[8:12], "little"))
        header.packet_size, header.body_size = len(frame), len(frame) - 12
        message = self.secure.receive_from_header_and_body(header, Buffer(frame, 12))
        if message is None or kind == b"CLO":
            return
        body = message.body()
        service = _SERVICES.get(nodeid_from_binary(body).Identifier, "")
        request = struct_from_binary(ua.RequestHeader, body)
        session = self._device.sessions.get(request.AuthenticationToken.Identifier)
        if session is not None:
            session.heard_at = trio.current_time()
        if service == "Publish":
            await self._publish(session, message.request_id(), request.RequestHandle, body)
            return
        response = respond(self, self._device, service, session, body)
        await self._answer(response, request.RequestHandle, message.request_id(), opening=kind == b"OPN")
        if service == "ActivateSession" and session is not None:
            session.channel = self

    async def _answer(self, response: Any, handle: int, request_id: int, *, opening: bool = False) -> None:
        response.ResponseHeader.RequestHandle = handle
        kind = ua.MessageType.SecureOpen if opening else ua.MessageType.SecureMessage
        body = struct_to_binary(response)
        async with self._sending:
            frames = self.secure.message_to_binary(body, message_type=kind, request_id=request_id)
            await self._stream.send_all(frames)

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            await self._stream.send_all(data)

    # ---- Publish (5.13.5)

    async def _publish(self, session: Session | None, request_id: int, handle: int, body: Buffer) -> None:
        device = self._device
        if session is None or session.channel is not self:
            await self._answer(refusal(ua.StatusCodes.BadSessionIdInvalid), handle, request_id)
            return
        self._take_acknowledgements(body)
        owned = [device.subscriptions[number] for number, owner in device.owners.items() if owner is session]
        if not owned:
            await self._answer(refusal(ua.StatusCodes.BadNoSubscription), handle, request_id)
            return
        session.publishes.append((self, request_id, handle))
        for subscription in owned:
            subscription.unserved = 0
            if subscription.quiet > 1:  # an interval passed without a request: this one is late
                await self._server.serve_publishes(subscription)

    def _take_acknowledgements(self, body: Buffer) -> None:
        taken: dict[int, list[int]] = {}
        for _ in range(max(0, struct.unpack("<i", body.read(4))[0])):
            number, sequence = struct.unpack("<II", body.read(8))
            subscription = self._device.subscriptions.get(number)
            if subscription is not None and subscription.acknowledge(sequence):
                taken.setdefault(number, []).append(sequence)
        for number, sequences in taken.items():
            self._device.log.write("ack", number, sequences)

    async def answer_publish(
        self, request_id: int, handle: int, subscription: CountingSubscription, message: bytes
    ) -> None:
        """Send one PublishResponse, in as many chunks as it takes; a link that broke leaves it to Republish."""
        head = struct.pack("<BBHqIIBi3s", 1, 0, 829, EPOCH, handle, 0, 0, -1, b"\0\0\0")
        kept = list(subscription.kept)
        available = struct.pack(f"<Ii{len(kept)}I", subscription.subscription_id, len(kept), *kept)
        body = head + available + struct.pack("<?", subscription.waiting) + message + struct.pack("<ii", -1, -1)
        secure = self.secure
        try:
            async with self._sending:
                for start in range(0, len(body), _BODY_BYTES):
                    part = body[start : start + _BODY_BYTES]
                    final = b"F" if start + _BODY_BYTES >= len(body) else b"C"
                    secure._sequence_number += 1
                    token = secure.security_token
                    numbers = (len(part) + 24, token.ChannelId, token.TokenId, secure._sequence_number, request_id)
                    await self._stream.send_all(b"MSG" + final + struct.pack("<IIIII", *numbers) + part)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def main() -> None:
    async with trio.open_nursery() as nursery:
        await CountingServer(options(), nursery).run()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
