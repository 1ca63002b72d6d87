"""The services of the counting device but Publish (OPC UA Part 4, 5.4 to 5.14), as far as the service uses them.

`respond` is called by a channel of the device, in its task. Starts nothing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any, Final, Protocol

import trio
from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import struct_from_binary

from tests.chaos.devices.control import TickLog
from tests.chaos.devices.counting_subscription import CountingSubscription

NONE_URI: Final = "http://opcfoundation.org/UA/SecurityPolicy#None"
_LEAST_INTERVAL_S: Final = 0.02


class Channel(Protocol):
    """One client's secure channel, which answers Publish."""

    secure: Any

    async def answer_publish(
        self, request_id: int, handle: int, subscription: CountingSubscription, message: bytes
    ) -> None:
        """Send one PublishResponse."""


@dataclass
class Session:
    """A session; ``publishes`` are the requests that wait, each with the channel that they came by."""

    token: int
    timeout_s: float
    heard_at: float
    channel: Channel | None = None
    publishes: deque[tuple[Channel, int, int]] = field(default_factory=deque)


@dataclass
class Device:
    """What the device knows of its clients; ``publish`` starts the publishing timer of a subscription."""

    log: TickLog
    port: int
    nodes: int
    most_ticks: int
    publish: Callable[[CountingSubscription], None]
    sessions: dict[int, Session] = field(default_factory=dict)
    subscriptions: dict[int, CountingSubscription] = field(default_factory=dict)
    owners: dict[int, Session | None] = field(default_factory=dict)
    numbers: count[int] = field(default_factory=lambda: count(1))

    def new_id(self) -> int:
        """A number that no earlier process of this device gave either."""
        number: int = self.log.starts * 1_000_000 + next(self.numbers)
        return number

    def owned(self, session: Session, number: int) -> CountingSubscription | None:
        """A subscription, if it is the session's."""
        return self.subscriptions.get(number) if self.owners.get(number) is session else None

    def end_subscription(self, number: int) -> None:
        """End a subscription, if it is there."""
        subscription = self.subscriptions.pop(number, None)
        if subscription is not None:
            subscription.end()
            self.owners.pop(number, None)

    def end_session(self, session: Session, *, delete: bool) -> None:
        """End a session; its subscriptions outlive it unless they are to be deleted (5.6.4)."""
        self.sessions.pop(session.token, None)
        for number, owner in list(self.owners.items()):
            if owner is session:
                self.owners[number] = None
                if delete:
                    self.end_subscription(number)


def respond(channel: Channel, device: Device, service: str, session: Session | None, body: Buffer) -> Any:
    """The response to a request, or a fault. ``body`` is at the request's parameters."""
    if service in _WITHOUT_SESSION:
        parameters = struct_from_binary(getattr(ua, f"{service}Parameters"), body)
        return _WITHOUT_SESSION[service](channel, device, parameters)
    if service not in _SERVICES and service != "CloseSession":
        return refusal(ua.StatusCodes.BadServiceUnsupported)
    if session is None:
        return refusal(ua.StatusCodes.BadSessionIdInvalid)
    if service == "CloseSession":
        device.end_session(session, delete=bool(body.read(1)[0]))
        return ua.CloseSessionResponse()
    if service == "ActivateSession":
        if session.channel is not channel:
            session.publishes.clear()  # they went with their channel
    elif session.channel is not channel:
        return refusal(ua.StatusCodes.BadSecureChannelIdInvalid)
    parameters = struct_from_binary(getattr(ua, f"{service}Parameters"), body)
    response = _SERVICES[service](device, session, parameters)
    return refusal(response) if isinstance(response, int) else response


def refusal(code: int) -> Any:
    """A fault."""
    fault = ua.ServiceFault()
    fault.ResponseHeader.ServiceResult = ua.StatusCode(code)
    return fault


# ---- channel and session


def _open_secure_channel(channel: Channel, device: Device, parameters: Any) -> Any:
    response = ua.OpenSecureChannelResponse()
    numbers = SimpleNamespace(get_new_channel_id=lambda: next(device.numbers))
    response.Parameters = channel.secure.open(parameters, numbers)
    return response


def _endpoints(device: Device) -> list[Any]:
    endpoint = ua.EndpointDescription()
    endpoint.EndpointUrl = f"opc.tcp://127.0.0.1:{device.port}"
    endpoint.SecurityMode = ua.MessageSecurityMode.None_
    endpoint.SecurityPolicyUri = NONE_URI
    token = ua.UserTokenPolicy()
    token.PolicyId, token.TokenType = "anonymous", ua.UserTokenType.Anonymous
    endpoint.UserIdentityTokens = [token]
    return [endpoint]


def _get_endpoints(channel: Channel, device: Device, parameters: Any) -> Any:
    response = ua.GetEndpointsResponse()
    response.Endpoints = _endpoints(device)
    return response


def _create_session(channel: Channel, device: Device, parameters: Any) -> Any:
    token = device.new_id()
    device.sessions[token] = Session(token, parameters.RequestedSessionTimeout / 1000, trio.current_time())
    response = ua.CreateSessionResponse()
    response.Parameters.SessionId = ua.NodeId(token, 1)
    response.Parameters.AuthenticationToken = ua.NodeId(token, 2)
    response.Parameters.RevisedSessionTimeout = parameters.RequestedSessionTimeout
    response.Parameters.ServerNonce = os.urandom(32)
    response.Parameters.ServerEndpoints = _endpoints(device)
    return response


def _activate_session(device: Device, session: Session, parameters: Any) -> Any:
    response = ua.ActivateSessionResponse()
    response.Parameters.ServerNonce = os.urandom(32)
    return response


# ---- subscriptions


def _create_subscription(device: Device, session: Session, parameters: Any) -> Any:
    number = device.new_id()
    subscription = CountingSubscription(number, device.log, device.most_ticks)
    device.subscriptions[number], device.owners[number] = subscription, session
    response = ua.CreateSubscriptionResponse()
    response.Parameters.SubscriptionId = number
    _revise(response.Parameters, subscription, parameters)
    device.publish(subscription)
    return response


def _modify_subscription(device: Device, session: Session, parameters: Any) -> Any:
    subscription = device.owned(session, parameters.SubscriptionId)
    if subscription is None:
        return ua.StatusCodes.BadSubscriptionIdInvalid
    response = ua.ModifySubscriptionResponse()
    _revise(response.Parameters, subscription, parameters)
    return response


def _revise(answered: Any, subscription: CountingSubscription, wanted: Any) -> None:
    subscription.interval_s = max(_LEAST_INTERVAL_S, wanted.RequestedPublishingInterval / 1000)
    subscription.keep_alive_count = wanted.RequestedMaxKeepAliveCount
    subscription.lifetime_count = wanted.RequestedLifetimeCount
    answered.RevisedPublishingInterval = subscription.interval_s * 1000
    answered.RevisedMaxKeepAliveCount = subscription.keep_alive_count
    answered.RevisedLifetimeCount = subscription.lifetime_count


def _delete_subscriptions(device: Device, session: Session, parameters: Any) -> Any:
    response = ua.DeleteSubscriptionsResponse()
    for number in parameters.SubscriptionIds:
        known = device.owned(session, number) is not None
        device.end_subscription(number)
        response.Results.append(ua.StatusCode(0 if known else ua.StatusCodes.BadSubscriptionIdInvalid))
    return response


def _transfer_subscriptions(device: Device, session: Session, parameters: Any) -> Any:
    response = ua.TransferSubscriptionsResponse()
    for number in parameters.SubscriptionIds:
        result = ua.TransferResult()
        subscription = device.subscriptions.get(number)
        if subscription is None:
            result.StatusCode = ua.StatusCode(ua.StatusCodes.BadSubscriptionIdInvalid)
        else:
            device.owners[number] = session
            subscription.unserved = 0
            result.AvailableSequenceNumbers = list(subscription.kept)
        response.Parameters.Results.append(result)
    return response


def _republish(device: Device, session: Session, parameters: Any) -> Any:
    subscription = device.owned(session, parameters.SubscriptionId)
    if subscription is None:
        return ua.StatusCodes.BadSubscriptionIdInvalid
    message = subscription.kept.get(parameters.RetransmitSequenceNumber)
    if message is None:
        return ua.StatusCodes.BadMessageNotAvailable
    device.log.write("again", parameters.SubscriptionId, parameters.RetransmitSequenceNumber)
    response = ua.RepublishResponse()
    response.NotificationMessage = struct_from_binary(ua.NotificationMessage, Buffer(message))
    return response


# ---- items


def _create_monitored_items(device: Device, session: Session, parameters: Any) -> Any:
    subscription = device.owned(session, parameters.SubscriptionId)
    if subscription is None:
        return ua.StatusCodes.BadSubscriptionIdInvalid
    items = dict(subscription.items)
    response = ua.CreateMonitoredItemsResponse()
    for wanted in parameters.ItemsToCreate:
        result = ua.MonitoredItemCreateResult()
        node = _node_of(device, str(wanted.ItemToMonitor.NodeId.Identifier))
        if node is None:
            result.StatusCode = ua.StatusCode(ua.StatusCodes.BadNodeIdUnknown)
        else:
            result.MonitoredItemId = device.new_id()
            result.RevisedSamplingInterval = wanted.RequestedParameters.SamplingInterval
            result.RevisedQueueSize = device.most_ticks
            items[result.MonitoredItemId] = (wanted.RequestedParameters.ClientHandle, node)
        response.Results.append(result)
    subscription.change(items)
    return response


def _node_of(device: Device, name: str) -> int | None:
    known = name[:1] == "C" and name[1:].isdigit() and int(name[1:]) < device.nodes
    return int(name[1:]) if known else None


def _delete_monitored_items(device: Device, session: Session, parameters: Any) -> Any:
    subscription = device.owned(session, parameters.SubscriptionId)
    if subscription is None:
        return ua.StatusCodes.BadSubscriptionIdInvalid
    items = dict(subscription.items)
    response = ua.DeleteMonitoredItemsResponse()
    for item in parameters.MonitoredItemIds:
        known = items.pop(item, None) is not None
        response.Results.append(ua.StatusCode(0 if known else ua.StatusCodes.BadMonitoredItemIdInvalid))
    subscription.change(items)
    return response


def _read(device: Device, session: Session, parameters: Any) -> Any:
    response = ua.ReadResponse()
    response.Results = [ua.DataValue(ua.Variant(0, ua.VariantType.UInt32)) for _ in parameters.NodesToRead]
    return response


_WITHOUT_SESSION: Final[dict[str, Callable[[Channel, Device, Any], Any]]] = {
    "OpenSecureChannel": _open_secure_channel,
    "GetEndpoints": _get_endpoints,
    "CreateSession": _create_session,
}
_SERVICES: Final[dict[str, Callable[[Device, Session, Any], Any]]] = {
    "ActivateSession": _activate_session,
    "CreateSubscription": _create_subscription,
    "ModifySubscription": _modify_subscription,
    "DeleteSubscriptions": _delete_subscriptions,
    "TransferSubscriptions": _transfer_subscriptions,
    "Republish": _republish,
    "CreateMonitoredItems": _create_monitored_items,
    "DeleteMonitoredItems": _delete_monitored_items,
    "Read": _read,
}
