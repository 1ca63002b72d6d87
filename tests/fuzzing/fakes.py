"""A link whose device is the input: what it is asked it answers at once, out of a list, and no socket is needed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, cast

from opcua import ua
from opcua.common.utils import Buffer

from scada_trio.errors import DeviceUnreachable
from scada_trio.opcua.client import LinkClient, LinkSocket

URL = "opc.tcp://127.0.0.1:4840"
CHANNEL, TOKEN = 7, 13


class _Sink:
    """A socket that takes all."""

    def send(self, frames: bytes) -> int:
        return len(frames)

    def close(self) -> None:
        """Nothing is open."""


class AnsweringLink(LinkSocket):
    """Answers the requests that it is given with ``answers``, in order, and breaks when there are no more."""

    def __init__(self, answers: list[bytes], policy: Any = None) -> None:
        super().__init__(
            cast("Any", _Sink()),
            timeout_s=0.0,
            policy=policy or ua.SecurityPolicy(),
            send_chunk_bytes=65_536,
            on_backlog=lambda: None,
        )
        self.answers = answers
        self._patient = False

    def _send_request(
        self,
        request: Any,
        callback: Callable[[Future[Buffer]], None] | None = None,
        timeout: int = 1000,
        message_type: bytes = ua.MessageType.SecureMessage,
    ) -> Future[Buffer]:
        if not self.answers and not self._patient:
            raise DeviceUnreachable("no more answers")
        future = super()._send_request(request, callback, timeout, message_type)
        if not self._patient:
            self._dispatch(self._request_id, Buffer(self.answers.pop(0)))
        return future

    def expect(self, count: int) -> list[Future[Buffer]]:
        """Wait for the answers to the next ``count`` requests."""
        futures: list[Future[Buffer]] = [Future() for _ in range(count)]
        for future in futures:
            self._transmit(b"", ua.MessageType.SecureMessage, future)
        return futures

    def forget(self, future: Future[Any]) -> None:
        if not self._patient:
            super().forget(future)

    def expect_open(self, nonce: bytes = b"", *, renew: bool = False) -> None:
        """Have asked for a channel, as `LinkSocket.open_secure_channel` does, and wait for the answer to come."""
        self._patient = True
        with suppress(TimeoutError):
            self.open_secure_channel(open_parameters(nonce, renew=renew))
        self._patient = False

    def open(self, local_nonce: bytes = b"", remote_nonce: bytes = b"") -> None:
        """Be open, as after an answer to OpenSecureChannel."""
        opened = ua.OpenSecureChannelResult()
        opened.SecurityToken.ChannelId, opened.SecurityToken.TokenId = CHANNEL, TOKEN
        opened.SecurityToken.RevisedLifetime = 3_600_000
        opened.ServerNonce = remote_nonce
        self._connection.set_channel(opened, ua.SecurityTokenRequestType.Issue, local_nonce)
        self._connection._peer_sequence_number = 0


def open_parameters(nonce: bytes = b"", *, renew: bool = False) -> Any:
    parameters = ua.OpenSecureChannelParameters()
    parameters.ClientProtocolVersion = 0
    kinds = ua.SecurityTokenRequestType
    parameters.RequestType = kinds.Renew if renew else kinds.Issue
    parameters.SecurityMode = ua.MessageSecurityMode.None_
    parameters.RequestedLifetime = 3_600_000
    parameters.ClientNonce = nonce
    return parameters


def open_client(link: LinkSocket, policy: Any = None) -> LinkClient:
    return LinkClient(
        URL, link, policy=policy or ua.SecurityPolicy(), application_uri="urn:test:client", session_timeout_s=60.0
    )


def plain_frame(
    head: bytes, body: bytes, *, request_id: int, sequence: int, channel: int = CHANNEL, token: int = TOKEN
) -> bytes:
    """A chunk without security; ``head`` is its kind and its place in the message."""
    if head[:3] == b"OPN":
        uri = b"http://opcfoundation.org/UA/SecurityPolicy#None"
        security = struct.pack("<i", len(uri)) + uri + struct.pack("<ii", -1, -1)
    else:
        security = struct.pack("<I", token)
    content = struct.pack("<I", channel) + security + struct.pack("<II", sequence, request_id) + body
    return head + struct.pack("<I", 8 + len(content)) + content
