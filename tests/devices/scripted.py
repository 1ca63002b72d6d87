"""A device that does what the test says, in the test's own Trio loop: for what real servers do only when broken.

It speaks OPC UA through python-opcua's codec, knows one subscription, and takes every item. ``answers`` replaces
single services: a function from the request's parameters to a response, or to the number of its encoding and its
bytes; a status code for a fault; or `SILENCE`.
Where ``remembers`` is set its session and subscription outlive a link, else a client that comes again starts anew.
"""

import struct
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import trio
from opcua import ua
from opcua.common.connection import SecureConnection
from opcua.common.utils import Buffer
from opcua.ua.object_ids import ObjectIds
from opcua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary, uatcp_to_binary

SILENCE: Final = object()
NONE_URI: Final = "http://opcfoundation.org/UA/SecurityPolicy#None"
EPOCH: Final = 116_444_736_000_000_000
_ITEM: Final = struct.Struct("<IBBdqq")
_MARKED: Final = struct.Struct("<IBBdIqq")  # with a status


class ScriptedDevice:
    """A server for one client at a time. `serve` runs it; ``calls`` lists the services asked for, in order."""

    def __init__(self) -> None:
        self.port = 0
        self.calls: list[str] = []
        self.answers: dict[str, Callable[[Any], Any] | int | object] = {}
        self.publishes: deque[tuple[int, int]] = deque()
        self.acknowledged: list[int] = []
        self.items: dict[int, int] = {}  # client handle by monitored item id
        self.asked: dict[int, Any] = {}  # MonitoringParameters by monitored item id, as they were asked for last
        self.max_queue_size = 1_000_000
        self.channel_lifetime_ms = 3_600_000
        self.sequence = 0
        self.subscription_id = 0
        self.sent: dict[int, bytes] = {}  # notifications that are not acknowledged
        self.remembers = False
        self.republished: list[int] = []
        self.sessions: set[int] = set()
        self.sessions_closed = 0
        self.subscriptions_deleted: list[bool] = []
        self.hello: bytes | None = None
        self.changed = trio.Event()
        self.tokens: list[Any] = [_token("anonymous", ua.UserTokenType.Anonymous)]
        self.identity: Any = None
        self.secure = SecureConnection(ua.SecurityPolicy())
        self._stream: trio.SocketStream | None = None
        self._sending = trio.Lock()
        self._next_item = self._next_session = 0
        self._asked_with = ua.NodeId()

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}"

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve one client after the other until cancelled."""
        (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        async with listener:
            while True:
                stream = await listener.accept()
                try:
                    await self.serve_client(stream)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                finally:
                    await trio.aclose_forcefully(stream)
                    self._note("closed")

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until ``holds``; looked at after every request and every close."""
        with trio.fail_after(30):
            while not holds():
                await self.changed.wait()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    # ---- notifications

    async def notify(
        self,
        values: dict[int, float],
        *,
        sequence: int | None = None,
        missed: bool = False,
        source_us: int | None = None,
        overflow: bool = False,
    ) -> None:
        """Answer the oldest Publish with values by client handle; waits until there is one.

        ``missed`` only puts it into the retransmission queue, as if its answer had been lost.
        """
        self.sequence = self.sequence % 0xFFFFFFFF + 1 if sequence is None else sequence
        now = EPOCH + time.time_ns() // 100
        source = now if source_us is None else EPOCH + source_us * 10
        if overflow:
            items = b"".join(
                _MARKED.pack(handle, 0x0F, 11, value, 0x480, source, now) for handle, value in values.items()
            )
        else:
            items = b"".join(_ITEM.pack(handle, 0x0D, 11, value, source, now) for handle, value in values.items())
        change = struct.pack("<i", len(values)) + items + struct.pack("<i", -1)
        extension = struct.pack("<BBHBi", 1, 0, 811, 1, len(change)) + change
        self.sent[self.sequence] = struct.pack("<Iqi", self.sequence, now, 1) + extension
        if not missed:
            await self.answer_publish(b"\0" + self.sent[self.sequence])

    async def keep_alive(self, *, foreign: bool = False) -> None:
        """``foreign``: of another subscription."""
        message = struct.pack("<BIqi", 0, self.sequence % 0xFFFFFFFF + 1, EPOCH, 0)
        await self.answer_publish(message, subscription_id=self.subscription_id + (1000 if foreign else 0))

    async def change_status(self, code: int) -> None:
        change = struct.pack("<IBBB", code, 0, 0, 0)  # status, no diagnostics
        extension = struct.pack("<BBHBi", 1, 0, 820, 1, len(change)) + change
        await self.answer_publish(struct.pack("<BIqi", 0, self.sequence + 1, EPOCH, 1) + extension)

    async def answer_publish(self, message: bytes, *, subscription_id: int | None = None) -> None:
        await self.until(lambda: bool(self.publishes))
        request_id, handle = self.publishes.popleft()
        whose = self.subscription_id if subscription_id is None else subscription_id
        head = struct.pack("<BBHqIIBi3sIi", 1, 0, 829, EPOCH, handle, 0, 0, -1, b"\0\0\0", whose, 0)
        await self._send(head + message + struct.pack("<ii", -1, -1), request_id)

    async def refuse_publish(self, code: int) -> None:
        await self.until(lambda: bool(self.publishes))
        request_id, handle = self.publishes.popleft()
        await self._send(_fault(handle, code), request_id)

    async def send_raw(self, frame: bytes) -> None:
        assert self._stream is not None
        await self._stream.send_all(frame)

    async def hang_up(self) -> None:
        """Close the client's socket as a server does that dies."""
        assert self._stream is not None
        await trio.aclose_forcefully(self._stream)

    # ---- the protocol

    async def serve_client(self, stream: trio.SocketStream) -> None:
        """Serve one client until it hangs up."""
        self._stream = stream
        self.secure = SecureConnection(ua.SecurityPolicy())
        self.publishes.clear()
        if not self.remembers:
            self.sessions.clear()
        buffer = bytearray()
        while received := await stream.receive_some():
            buffer += received
            while len(buffer) >= 8 and len(buffer) >= (size := int.from_bytes(buffer[4:8], "little")):
                frame = bytes(buffer[:size])
                del buffer[:size]
                await self._take(frame)

    async def _take(self, frame: bytes) -> None:
        kind = frame[:3]
        if kind == b"HEL":
            acknowledge = uatcp_to_binary(ua.MessageType.Acknowledge, ua.Acknowledge())
            if self.hello is None or self.hello:
                await self.send_raw(acknowledge if self.hello is None else self.hello)
            self._note("Hello")
            return
        header = ua.Header(kind, frame[3:4], int.from_bytes(frame[8:12], "little"))
        header.packet_size, header.body_size = len(frame), len(frame) - 12
        message = self.secure.receive_from_header_and_body(header, Buffer(frame, 12))
        if message is not None:
            await self._serve_request(message.request_id(), message.body(), kind)

    async def _serve_request(self, request_id: int, body: Buffer, kind: bytes) -> None:
        encoding = nodeid_from_binary(body).Identifier
        name = next(name for name, code in vars(ObjectIds).items() if code == encoding).partition("_")[0]
        service = name.removesuffix("Request")
        header = struct_from_binary(ua.RequestHeader, body)
        if service == "Publish":
            count = struct.unpack("<i", body.read(4))[0]
            numbers = [struct.unpack("<II", body.read(8))[1] for _ in range(max(count, 0))]
            self.acknowledged += numbers
            for number in numbers:
                self.sent.pop(number, None)
            self.publishes.append((request_id, header.RequestHandle))
        elif service not in ("CloseSecureChannel",):
            self._asked_with = header.AuthenticationToken
            answer = self._answer(service, body)
            if isinstance(answer, tuple):
                number, encoded = answer
                head = struct.pack("<BBHqIIBi3s", 1, 0, number, EPOCH, header.RequestHandle, 0, 0, -1, b"\0\0\0")
                await self._send(head + encoded, request_id)
            elif isinstance(answer, bytes):
                head = struct.pack("<BBHqIIBi3s", 1, 0, 835, EPOCH, header.RequestHandle, 0, 0, -1, b"\0\0\0")
                await self._send(head + answer, request_id)
            elif isinstance(answer, int):
                await self._send(_fault(header.RequestHandle, answer), request_id)
            elif answer is not SILENCE:
                answer.ResponseHeader.RequestHandle = header.RequestHandle
                message_type = ua.MessageType.SecureOpen if kind == b"OPN" else ua.MessageType.SecureMessage
                await self._send(struct_to_binary(answer), request_id, message_type)
        self._note(service)

    def _answer(self, service: str, body: Buffer) -> Any:
        parameters = _parameters(service, body)
        scripted = self.answers.get(service)
        if callable(scripted):
            return scripted(parameters)
        if scripted is not None:
            return scripted
        return getattr(self, f"_{service}")(parameters)

    async def _send(self, body: bytes, request_id: int, message_type: bytes = ua.MessageType.SecureMessage) -> None:
        async with self._sending:
            await self.send_raw(self.secure.message_to_binary(body, message_type=message_type, request_id=request_id))

    # ---- services

    def _OpenSecureChannel(self, parameters: Any) -> Any:
        response = ua.OpenSecureChannelResponse()
        parameters.RequestedLifetime = self.channel_lifetime_ms
        response.Parameters = self.secure.open(parameters, SimpleNamespace(get_new_channel_id=lambda: 7))
        return response

    def _CreateSession(self, parameters: Any) -> Any:
        response = ua.CreateSessionResponse()
        response.Parameters.SessionId = ua.NodeId(1, 1)
        self._next_session += 1
        self.sessions.add(self._next_session)
        response.Parameters.AuthenticationToken = ua.NodeId(self._next_session, 1)
        response.Parameters.RevisedSessionTimeout = parameters.RequestedSessionTimeout
        response.Parameters.ServerNonce = b"n" * 32
        endpoint = ua.EndpointDescription()
        endpoint.EndpointUrl = self.url
        endpoint.SecurityMode = ua.MessageSecurityMode.None_
        endpoint.SecurityPolicyUri = NONE_URI
        endpoint.UserIdentityTokens = self.tokens
        response.Parameters.ServerEndpoints = [endpoint]
        return response

    def _ActivateSession(self, parameters: Any) -> Any:
        if self._asked_with.Identifier not in self.sessions:
            return ua.StatusCodes.BadSessionIdInvalid
        self.identity = parameters.UserIdentityToken
        response = ua.ActivateSessionResponse()
        response.Parameters.ServerNonce = b"n" * 32
        return response

    def _CreateSubscription(self, parameters: Any) -> Any:
        response = ua.CreateSubscriptionResponse()
        self.subscription_id += 1
        self.sequence = 0
        self.sent.clear()
        response.Parameters.SubscriptionId = self.subscription_id
        response.Parameters.RevisedPublishingInterval = parameters.RequestedPublishingInterval
        response.Parameters.RevisedLifetimeCount = parameters.RequestedLifetimeCount
        response.Parameters.RevisedMaxKeepAliveCount = parameters.RequestedMaxKeepAliveCount
        return response

    def _TransferSubscriptions(self, parameters: Any) -> Any:
        if not self.remembers:
            return ua.StatusCodes.BadServiceUnsupported
        response = ua.TransferSubscriptionsResponse()
        for subscription_id in parameters.SubscriptionIds:
            result = ua.TransferResult()
            if subscription_id == self.subscription_id:
                result.AvailableSequenceNumbers = list(self.sent)
            else:
                result.StatusCode = ua.StatusCode(ua.StatusCodes.BadSubscriptionIdInvalid)
            response.Parameters.Results.append(result)
        return response

    def _ModifySubscription(self, parameters: Any) -> Any:
        response = ua.ModifySubscriptionResponse()
        response.Parameters.RevisedPublishingInterval = parameters.RequestedPublishingInterval
        response.Parameters.RevisedLifetimeCount = parameters.RequestedLifetimeCount
        response.Parameters.RevisedMaxKeepAliveCount = parameters.RequestedMaxKeepAliveCount
        return response

    def _DeleteSubscriptions(self, parameters: Any) -> Any:
        response = ua.DeleteSubscriptionsResponse()
        response.Results = [ua.StatusCode() for _ in parameters.SubscriptionIds]
        return response

    def _Republish(self, parameters: Any) -> Any:
        number = parameters.RetransmitSequenceNumber
        self.republished.append(number)
        return self.sent.get(number, ua.StatusCodes.BadMessageNotAvailable)

    def _CreateMonitoredItems(self, parameters: Any) -> Any:
        response = ua.CreateMonitoredItemsResponse()
        for wanted in parameters.ItemsToCreate:
            self._next_item += 1
            self.items[self._next_item] = wanted.RequestedParameters.ClientHandle
            result = ua.MonitoredItemCreateResult()
            result.MonitoredItemId = self._next_item
            response.Results.append(self._revise(self._next_item, wanted.RequestedParameters, result))
        return response

    def _ModifyMonitoredItems(self, parameters: Any) -> Any:
        response = ua.ModifyMonitoredItemsResponse()
        for wanted in parameters.ItemsToModify:
            result = ua.MonitoredItemModifyResult()
            if wanted.MonitoredItemId in self.items:
                self._revise(wanted.MonitoredItemId, wanted.RequestedParameters, result)
            else:
                result.StatusCode = ua.StatusCode(ua.StatusCodes.BadMonitoredItemIdInvalid)
            response.Results.append(result)
        return response

    def _revise(self, item_id: int, wanted: Any, result: Any) -> Any:
        self.asked[item_id] = wanted
        result.RevisedSamplingInterval = wanted.SamplingInterval
        result.RevisedQueueSize = min(wanted.QueueSize, self.max_queue_size)
        return result

    def _DeleteMonitoredItems(self, parameters: Any) -> Any:
        response = ua.DeleteMonitoredItemsResponse()
        for item in parameters.MonitoredItemIds:
            del self.items[item]
            response.Results.append(ua.StatusCode())
        return response

    def _Read(self, parameters: Any) -> Any:
        response = ua.ReadResponse()
        response.Results = [ua.DataValue(ua.Variant(0, ua.VariantType.UInt32)) for _ in parameters.NodesToRead]
        return response

    def _CloseSession(self, parameters: Any) -> Any:
        self.sessions_closed += 1
        self.sessions.discard(self._asked_with.Identifier)
        self.subscriptions_deleted.append(parameters)
        return ua.CloseSessionResponse()


def _parameters(service: str, body: Buffer) -> Any:
    """The request's parameters; those of CloseSession are whether subscriptions are deleted."""
    if service == "CloseSession":
        return body.read(1) != b"\0"
    return struct_from_binary(getattr(ua, f"{service}Parameters"), body)


def _fault(handle: int, code: int) -> bytes:
    fault = ua.ServiceFault()
    fault.ResponseHeader.RequestHandle = handle
    fault.ResponseHeader.ServiceResult = ua.StatusCode(code)
    return bytes(struct_to_binary(fault))


def _token(policy_id: str, kind: Any, policy_uri: str | None = None) -> Any:
    token = ua.UserTokenPolicy()
    token.PolicyId, token.TokenType, token.SecurityPolicyUri = policy_id, kind, policy_uri
    return token


user_token = _token
