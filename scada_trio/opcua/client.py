"""python-opcua's blocking client on a socket that a Trio task pumps.

Owns the translation between threads and Trio: control calls (`LinkClient`) block worker threads, answers reach them
from `LinkSocket.take`, which the link's pump task calls; no thread belongs to a connection. Knows no Trio and no tag:
it is started, pumped and closed by `scada_trio.opcua.session`.

    worker thread ── request ──► LinkSocket ──► socket          (or its backlog, which a Trio task writes)
    worker thread ◄── Future ─── LinkSocket ◄── frames ── pump
    Trio          ◄── on_publish ──┘   Publish answers go no other way than this call

python-opcua as it is starts two threads a connection, waits out its time limit when a link breaks, and leaves callers
hanging when an answer cannot be read. What is replaced here is that and no more; its codec, channel and calls are used.
"""

from __future__ import annotations

import logging
import math
import socket
import struct
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from opcua import Client, ua
from opcua.client.ua_client import UaClient, UASocketClient
from opcua.common.utils import Buffer, create_nonce
from opcua.ua.ua_binary import struct_from_binary, struct_to_binary

from scada_trio import __version__
from scada_trio.errors import DeviceError, DeviceProtocolError, DeviceUnreachable
from scada_trio.opcua.bounds import allow_few
from scada_trio.opcua.faults import MALFORMED, check_answer
from scada_trio.opcua.policies import ChannelSecurity
from scada_trio.opcua.transport import MAX_MESSAGE_BYTES, MAX_MESSAGE_CHUNKS, error_of_err_frame

# At DEBUG it prints requests with the passwords in them, and what it warns of is reported by this package.
logging.getLogger("opcua").setLevel(logging.CRITICAL)

_SECURE_HEADER_BYTES: Final = 12
_PLAIN_CHUNK: Final = struct.Struct("<4sIIIII")  # type, size, channel, token, sequence number, request id
_SECURE_KINDS: Final = (b"MSG", b"OPN", b"CLO")
_MIN_GRANTED_S: Final = 0.5  # a device that grants a microsecond does not get a request every one
_STATE_NODE: Final = 2259  # Server_ServerStatus_State


class LinkSocket(UASocketClient):  # type: ignore[misc]
    """The socket of one link. Any thread may send; `take`, `write_backlog` and `fail` are the Trio thread's.

    ``on_publish`` gets the body of every Publish answer; whoever publishes sets it first. The constructor's
    ``on_backlog`` is called, from any thread, when bytes wait to be written.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        timeout_s: float,
        policy: ua.SecurityPolicy,
        send_chunk_bytes: int,
        on_backlog: Callable[[], None],
    ) -> None:
        super().__init__(timeout_s, security_policy=policy)
        self._request_id: int = 0
        self._request_handle: int = 0
        self.sock = sock
        self.broken: DeviceError | None = None
        self.interrupted = False
        self._connection._max_chunk_size = send_chunk_bytes
        self._plain = type(policy) is ua.SecurityPolicy
        self.on_publish: Callable[[bytes], None] = _ignore
        self._on_backlog = on_backlog
        self._publishes: set[int] = set()
        self._backlog = bytearray()
        self._partial_bytes = self._partial_chunks = 0

    # ---- sending, any thread

    def _send_request(
        self,
        request: Any,
        callback: Callable[[Future[Buffer]], None] | None = None,
        timeout: int = 1000,
        message_type: bytes = ua.MessageType.SecureMessage,
    ) -> Future[Buffer]:
        """As python-opcua's, which calls it for every service; large requests are encoded outside of the lock."""
        if self.interrupted:
            raise DeviceUnreachable("the link is being closed")
        with self._lock:
            request.RequestHeader = self._create_request_header(timeout)
        body = struct_to_binary(request)
        future: Future[Buffer] = Future()
        if callback is not None:
            future.add_done_callback(callback)
        self._transmit(body, message_type, future)
        return future

    def send_request(
        self,
        request: Any,
        callback: Callable[[Future[Buffer]], None] | None = None,
        timeout: int = 1000,
        message_type: bytes = ua.MessageType.SecureMessage,
    ) -> Buffer | None:
        """Send and wait for the answer in this thread. Raises TimeoutError, `DeviceError`, or the fault's UaError."""
        future = self._send_request(request, callback, timeout, message_type)
        if callback is not None:
            return None
        answer = self._await(future)
        check_answer(answer, request)
        return answer

    def _await(self, future: Future[Any]) -> Any:
        try:
            return future.result(self.timeout)
        except TimeoutError:
            self.forget(future)
            raise

    def forget(self, future: Future[Any]) -> None:
        """Nobody waits for the answer any more."""
        with self._lock:
            waiting = [request_id for request_id, known in self._callbackmap.items() if known is future]
            for request_id in waiting:
                del self._callbackmap[request_id]

    def _transmit(self, body: bytes, message_type: bytes, future: Future[Buffer] | None) -> int:
        """Frame and send ``body``; ``future`` None marks a Publish. Whole frames, whoever sends at the same time."""
        with self._lock:
            if self.broken is not None:
                raise self.broken
            self._request_id = request_id = self._request_id % 0xFFFFFFFF + 1
            if self._connection.next_security_token.TokenId != 0:
                self._connection.revolve_tokens()
            frames = self._connection.message_to_binary(body, message_type=message_type, request_id=request_id)
            if future is not None:
                self._callbackmap[request_id] = future
            self._write(frames)
        return request_id

    def send_publish(self, body: bytes) -> None:
        """Send an encoded PublishRequest, without waiting; its answer goes to ``on_publish``. Trio thread only."""
        if self._plain and self._connection.next_security_token.TokenId == 0:
            self._send_plain(body)
        else:
            self._publishes.add(self._transmit(body, ua.MessageType.SecureMessage, None))

    def _send_plain(self, body: bytes) -> None:
        """`_transmit` for one small chunk without security, no object a header; see `_take_plain_publish`."""
        connection = self._connection
        with self._lock:
            if self.broken is not None:
                raise self.broken
            self._request_id = request_id = self._request_id % 0xFFFFFFFF + 1
            connection._sequence_number = sequence = connection._sequence_number % 0xFFFFFFFF + 1
            token = connection.security_token
            size = _PLAIN_CHUNK.size + len(body)
            header = _PLAIN_CHUNK.pack(b"MSGF", size, token.ChannelId, token.TokenId, sequence, request_id)
            self._publishes.add(request_id)
            self._write(header + body)

    def next_request_handle(self) -> int:
        """A handle for a request header made by the caller."""
        self._request_handle = self._request_handle % 0xFFFFFFFF + 1
        return self._request_handle

    def _write(self, frames: bytes) -> None:
        """Write what the socket takes; the rest waits for the task that watches the backlog. Holds the lock."""
        if not self._backlog:
            try:
                sent = self.sock.send(frames)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise self._broken_by(error) from error
            if sent == len(frames):
                return
            frames = frames[sent:]
        self._backlog += frames
        self._on_backlog()

    def write_backlog(self) -> bool:
        """Write what waits, as far as the socket takes it; True when nothing is left."""
        with self._lock:
            try:
                sent = self.sock.send(self._backlog) if self._backlog else 0
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise self._broken_by(error) from error
            del self._backlog[:sent]
            return not self._backlog

    @staticmethod
    def _broken_by(error: OSError) -> DeviceUnreachable:
        return DeviceUnreachable(f"the link broke: {error.strerror or error}")

    # ---- receiving, Trio thread

    def take(self, frame: bytes) -> None:
        """Take one whole frame and answer whoever waits for it.

        Raises `DeviceProtocolError` for what the protocol does not allow and what an ERR frame stands for; then the
        caller drops the link with `fail`.
        """
        if self._plain and frame[:4] == b"MSGF" and self._take_plain_publish(frame):
            return
        kind = frame[:3]
        if kind == b"ERR":
            raise error_of_err_frame(frame, "the server ended the link")
        if kind not in _SECURE_KINDS or len(frame) < _SECURE_HEADER_BYTES:
            raise DeviceProtocolError("the server sent a frame that has no place here")
        self._bound_message(frame)
        try:
            with self._lock:
                message = self._connection.receive_from_header_and_body(*_split_header(frame))
        except MALFORMED as error:
            raise DeviceProtocolError(f"the server sent an unreadable chunk ({type(error).__name__})") from error
        if message is not None:
            self._dispatch(message.request_id(), message.body())

    def _take_plain_publish(self, frame: bytes) -> bool:
        """Take a Publish answer in one chunk without security; False leaves it to the ordinary way.

        Both shortcuts together: 0.07 instead of 0.10 core at 1,000 notifications of 10 values a second.
        """
        if len(frame) < _PLAIN_CHUNK.size:
            return False
        _, _, channel, token, sequence, request_id = _PLAIN_CHUNK.unpack_from(frame)
        connection = self._connection
        if (
            request_id not in self._publishes
            or sequence != connection._peer_sequence_number + 1
            or token != connection.security_token.TokenId
            or channel != connection.security_token.ChannelId
            or connection.prev_security_token.TokenId
            or connection._incoming_parts
        ):
            return False
        connection._peer_sequence_number = sequence
        self._publishes.discard(request_id)
        self.on_publish(frame[_PLAIN_CHUNK.size :])
        return True

    def _bound_message(self, frame: bytes) -> None:
        """Refuse a message that grows past its bounds chunk by chunk."""
        self._partial_bytes += len(frame)
        self._partial_chunks += 1
        if self._partial_bytes > MAX_MESSAGE_BYTES or self._partial_chunks > MAX_MESSAGE_CHUNKS:
            raise DeviceProtocolError(f"the server sent a message of more than {MAX_MESSAGE_BYTES} bytes")
        if frame[3:4] != b"C":
            self._partial_bytes = self._partial_chunks = 0

    def _dispatch(self, request_id: int, body: Buffer) -> None:
        if request_id in self._publishes:
            self._publishes.discard(request_id)
            self.on_publish(body.read(len(body)))
            return
        with self._lock:
            future = self._callbackmap.pop(request_id, None)
        if future is not None:  # else the caller has given up
            future.set_result(body)

    def fail(self, error: DeviceError) -> None:
        """The link is gone: every caller that waits gets ``error`` now, every later one at once. The first counts."""
        with self._lock:
            self.broken = self.broken or error
            waiting = list(self._callbackmap.values())
            self._callbackmap.clear()
            self._publishes.clear()
        for future in waiting:
            future.set_exception(self.broken)

    def interrupt(self) -> None:
        """Let the thread that calls return now, with an error, though the link is whole; later calls fail at once."""
        self.interrupted = True
        with self._lock:
            waiting = list(self._callbackmap.values())
            self._callbackmap.clear()
        for future in waiting:
            future.set_exception(DeviceUnreachable("the link is being closed"))

    def request_close(self, delete_subscriptions: bool) -> Future[Buffer]:
        """Ask the server to end the session, maybe its subscriptions too; Publish answers are ignored from now on."""
        self.interrupted = False
        self._publishes.clear()
        request = ua.CloseSessionRequest()
        request.DeleteSubscriptions = delete_subscriptions
        return self._send_request(request)

    def announce_close(self) -> None:
        """Tell the server that the channel ends; it does not answer (OPC UA Part 6, 7.1.4)."""
        self._send_request(ua.CloseSecureChannelRequest(), message_type=ua.MessageType.SecureClose)

    def ping(self) -> None:
        """Ask for the server's state without waiting: keeps the session alive, and the answer is a sign of life."""
        request = ua.ReadRequest()
        wanted = ua.ReadValueId()
        wanted.NodeId = ua.NodeId(_STATE_NODE)
        wanted.AttributeId = ua.AttributeIds.Value
        request.Parameters.NodesToRead = [wanted]
        self._send_request(request)

    # ---- the channel

    def open_secure_channel(self, params: Any) -> Any:
        """Open or renew the channel (OPC UA Part 4, 5.5.2). The new keys are in place before the next chunk is read."""
        request = ua.OpenSecureChannelRequest()
        request.Parameters = params
        opened: Future[Any] = Future()

        def adopt(answer: Future[Buffer]) -> None:
            try:
                body = allow_few(answer.result())
                check_answer(body, request)
                response = struct_from_binary(ua.OpenSecureChannelResponse, body)
                response.ResponseHeader.ServiceResult.check()
                if len(response.Parameters.ServerNonce or b"") < self._connection.security_policy.symmetric_key_size:
                    raise ua.UaError("the server's nonce is too short")
                with self._lock:
                    self._connection.set_channel(response.Parameters, params.RequestType, params.ClientNonce)
                opened.set_result(response.Parameters)
            except (DeviceError, *MALFORMED) as error:
                opened.set_exception(error)

        answer = self._send_request(request, adopt, message_type=ua.MessageType.SecureOpen)
        try:
            return opened.result(self.timeout)
        except TimeoutError:
            self.forget(answer)
            raise


def _ignore(body: bytes) -> None:
    """No one publishes yet."""


def _split_header(frame: bytes) -> tuple[ua.Header, Buffer]:
    header = ua.Header(frame[:3], frame[3:4], int.from_bytes(frame[8:12], "little"))
    header.packet_size, header.body_size = len(frame), len(frame) - _SECURE_HEADER_BYTES
    return header, Buffer(frame, _SECURE_HEADER_BYTES)


class LinkClient(Client):  # type: ignore[misc]
    """python-opcua's client on a `LinkSocket`. Every method blocks: worker threads only.

    ``channel_lifetime_s`` and ``session_timeout_s`` are what the server granted, once channel and session are there.
    """

    def __init__(
        self, url: str, link: LinkSocket, *, policy: ua.SecurityPolicy, application_uri: str, session_timeout_s: float
    ) -> None:
        super().__init__(url, timeout=link.timeout)
        self.application_uri = application_uri
        self.product_uri = "urn:scada-trio"
        self.name = self.description = f"scada-trio {__version__}"
        self.security_policy = policy
        self.session_timeout = session_timeout_s * 1000
        self.uaclient = _LinkServices(link)
        del self.nodes  # three dozen Node objects, 6 KB a link, for nobody

    @property
    def channel_lifetime_s(self) -> float:
        """Revised lifetime of the channel's token in seconds; 0 from the server means none, an hour is taken."""
        return max((self.secure_channel_timeout or 3_600_000) / 1000, _MIN_GRANTED_S)

    @property
    def session_timeout_s(self) -> float:
        """Revised session timeout in seconds; 0 from the server means none, an hour is taken."""
        return max((self.session_timeout or 3_600_000) / 1000, _MIN_GRANTED_S)

    def create_session(self) -> Any:
        """Create the session (OPC UA Part 4, 5.6.2); returns the CreateSessionResult. Starts no thread."""
        params = ua.CreateSessionParameters()
        params.ClientDescription.ApplicationUri = self.application_uri
        params.ClientDescription.ProductUri = self.product_uri
        params.ClientDescription.ApplicationName = ua.LocalizedText(self.name)
        params.ClientDescription.ApplicationType = ua.ApplicationType.Client
        params.ClientNonce = create_nonce(32)
        params.ClientCertificate = self.security_policy.client_certificate
        params.EndpointUrl = self.server_url.geturl()
        params.SessionName = self.name
        params.RequestedSessionTimeout = self.session_timeout
        params.MaxResponseMessageSize = MAX_MESSAGE_BYTES
        result = self.uaclient.create_session(params)
        if isinstance(self.security_policy, ChannelSecurity):
            self.security_policy.verify_server(params.ClientNonce, result.ServerSignature.Signature)
        if not math.isfinite(result.RevisedSessionTimeout):
            raise ua.UaError(f"a session timeout of {result.RevisedSessionTimeout} ms")
        self._server_nonce = result.ServerNonce
        self.session_timeout = result.RevisedSessionTimeout
        return result


class _LinkServices(UaClient):  # type: ignore[misc]
    """python-opcua's services, sent through a socket that is there already."""

    def __init__(self, link: LinkSocket) -> None:
        super().__init__(link.timeout)
        self._uasocket = link
