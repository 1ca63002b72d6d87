"""The services of a simulated well but Publish (OPC UA Part 4, 5.4 to 5.14), with python-opcua's codec.

`respond` is called by a channel. Pure but for the device's own state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final

from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import struct_from_binary

from scada_trio.simulator.device import NAMESPACE, Channel, Device, Session
from scada_trio.simulator.looking import browse, browse_next, read, register_nodes, translate_browse_paths
from scada_trio.simulator.subscription import MOST_QUEUED, Item, Subscription

NONE_URI: Final = "http://opcfoundation.org/UA/SecurityPolicy#None"
_TRANSPORT_URI: Final = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary"
_LEAST_INTERVAL_S: Final = 0.01
_SESSION_TIMEOUTS_S: Final = (1.0, 3_600.0)
_MOST_SESSIONS: Final = 100


def respond(channel: Channel, device: Device, service: str, session: Session | None, body: Buffer) -> Any:
    """The response to a request, or a fault. ``body`` is at the request's parameters."""
    if service in _WITHOUT_SESSION:
        return _WITHOUT_SESSION[service](device, _parameters(service, body))
    if service not in _SERVICES and service != "CloseSession":
        return fault(ua.StatusCodes.BadServiceUnsupported)
    if session is None:
        return fault(ua.StatusCodes.BadSessionIdInvalid)
    if service == "CloseSession":
        device.end_session(session, delete=body.read(1) != b"\0")
        return ua.CloseSessionResponse()
    if service != "ActivateSession" and session.channel is not channel:
        return fault(ua.StatusCodes.BadSessionNotActivated)
    response = _SERVICES[service](device, session, _parameters(service, body))
    return fault(response) if isinstance(response, int) else response


def fault(code: int) -> Any:
    """A ServiceFault."""
    response = ua.ServiceFault()
    response.ResponseHeader.ServiceResult = ua.StatusCode(code)
    return response


def _parameters(service: str, body: Buffer) -> Any:
    return struct_from_binary(getattr(ua, f"{service}Parameters"), body)


# ---- discovery and session


def _application(device: Device) -> Any:
    application = ua.ApplicationDescription()
    application.ApplicationUri = device.uri
    application.ProductUri = "urn:scada-trio:simulator"
    application.ApplicationName = ua.LocalizedText(f"scada-trio simulator, {device.well.name}")
    application.ApplicationType = ua.ApplicationType.Server
    application.DiscoveryUrls = [device.url]
    return application


def _endpoints(device: Device, url: str | None) -> list[Any]:
    """The one endpoint, at the address by which the client came (Part 4, 5.4.4)."""
    endpoint = ua.EndpointDescription()
    endpoint.EndpointUrl = url or device.url
    endpoint.Server = _application(device)
    endpoint.SecurityMode = ua.MessageSecurityMode.None_
    endpoint.SecurityPolicyUri = NONE_URI
    endpoint.TransportProfileUri = _TRANSPORT_URI
    token = ua.UserTokenPolicy()
    token.PolicyId, token.TokenType = "anonymous", ua.UserTokenType.Anonymous
    endpoint.UserIdentityTokens = [token]
    return [endpoint]


def _get_endpoints(device: Device, parameters: Any) -> Any:
    response = ua.GetEndpointsResponse()
    response.Endpoints = _endpoints(device, parameters.EndpointUrl)
    return response


def _find_servers(device: Device, parameters: Any) -> Any:
    response = ua.FindServersResponse()
    response.Servers = [_application(device)]
    return response


def _create_session(device: Device, parameters: Any) -> Any:
    if len(device.sessions) >= _MOST_SESSIONS:
        return fault(ua.StatusCodes.BadTooManySessions)
    least, most = _SESSION_TIMEOUTS_S
    token = int.from_bytes(os.urandom(4), "little")  # nobody can guess another client's
    timeout_s = min(max(parameters.RequestedSessionTimeout / 1000, least), most)
    device.sessions[token] = Session(token, timeout_s, time.monotonic())
    response = ua.CreateSessionResponse()
    response.Parameters.SessionId = ua.NodeId(device.new_number(), 1)
    response.Parameters.AuthenticationToken = ua.NodeId(token, 1, ua.NodeIdType.Numeric)
    response.Parameters.RevisedSessionTimeout = timeout_s * 1000
    response.Parameters.ServerNonce = os.urandom(32)
    response.Parameters.ServerEndpoints = _endpoints(device, parameters.EndpointUrl)
    return response


def _activate_session(device: Device, session: Session, parameters: Any) -> Any:
    # a client may leave the token out: it is anonymous then (Part 4, 5.6.3)
    if not isinstance(parameters.UserIdentityToken, ua.AnonymousIdentityToken | None):
        return ua.StatusCodes.BadIdentityTokenRejected
    response = ua.ActivateSessionResponse()
    response.Parameters.ServerNonce = os.urandom(32)
    return response


# ---- subscriptions


def _create_subscription(device: Device, session: Session, parameters: Any) -> Any:
    subscription = device.add_subscription(session)
    subscription.publishing = bool(parameters.PublishingEnabled)
    response = ua.CreateSubscriptionResponse()
    response.Parameters.SubscriptionId = subscription.number
    _revise(response.Parameters, subscription, parameters)
    return response


def _modify_subscription(device: Device, session: Session, parameters: Any) -> Any:
    subscription = device.owned(session, parameters.SubscriptionId)
    if subscription is None:
        return ua.StatusCodes.BadSubscriptionIdInvalid
    response = ua.ModifySubscriptionResponse()
    _revise(response.Parameters, subscription, parameters)
    return response


def _revise(answered: Any, subscription: Subscription, wanted: Any) -> None:
    subscription.interval_s = max(_LEAST_INTERVAL_S, wanted.RequestedPublishingInterval / 1000)
    subscription.keep_alive_count = max(1, wanted.RequestedMaxKeepAliveCount)
    subscription.lifetime_count = max(3 * subscription.keep_alive_count, wanted.RequestedLifetimeCount)
    subscription.limit_message(wanted.MaxNotificationsPerPublish)
    answered.RevisedPublishingInterval = subscription.interval_s * 1000
    answered.RevisedMaxKeepAliveCount = subscription.keep_alive_count
    answered.RevisedLifetimeCount = subscription.lifetime_count


def _set_publishing_mode(device: Device, session: Session, parameters: Any) -> Any:
    response = ua.SetPublishingModeResponse()
    for number in parameters.SubscriptionIds:
        subscription = device.owned(session, number)
        if subscription is not None:
            subscription.publishing = bool(parameters.PublishingEnabled)
        response.Parameters.Results.append(_subscription_status(subscription))
    return response


def _delete_subscriptions(device: Device, session: Session, parameters: Any) -> Any:
    response = ua.DeleteSubscriptionsResponse()
    for number in parameters.SubscriptionIds:
        subscription = device.owned(session, number)
        if subscription is not None:
            device.end_subscription(number)
        response.Results.append(_subscription_status(subscription))
    if session not in device.owners.values():
        while session.publishes:  # none will ever be answered otherwise (5.13.8)
            request = session.publishes.popleft()
            request.channel.refuse(request.request_id, request.handle, ua.StatusCodes.BadNoSubscription)
    return response


def _subscription_status(found: Subscription | None) -> Any:
    return ua.StatusCode(0 if found is not None else ua.StatusCodes.BadSubscriptionIdInvalid)


def _transfer_subscriptions(device: Device, session: Session, parameters: Any) -> Any:
    response = ua.TransferSubscriptionsResponse()
    for number in parameters.SubscriptionIds:
        result = ua.TransferResult()
        subscription = device.subscriptions.get(number)
        result.StatusCode = _subscription_status(subscription)
        if subscription is not None:
            device.owners[number] = session
            subscription.asked_at = time.monotonic()
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
    subscription.asked_at = time.monotonic()
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
        found = _item(device, wanted)
        if isinstance(found, int):
            result.StatusCode = ua.StatusCode(found)
        else:
            result.MonitoredItemId = device.new_number()
            result.RevisedSamplingInterval = device.interval_s * 1000
            result.RevisedQueueSize = found.queue_size
            items[result.MonitoredItemId] = found
        response.Results.append(result)
    subscription.change(items)
    device.revision += 1
    return response


def _item(device: Device, wanted: Any) -> Item | int:
    """The item, or why not. Every value is a change here, so a deadband would hide what is counted: refused."""
    node_id, asked = wanted.ItemToMonitor.NodeId, wanted.RequestedParameters
    column = device.columns.get(node_id.Identifier) if node_id.NamespaceIndex == NAMESPACE else None
    if column is None:
        return int(ua.StatusCodes.BadNodeIdUnknown)
    if wanted.ItemToMonitor.AttributeId != ua.AttributeIds.Value:
        return int(ua.StatusCodes.BadAttributeIdInvalid)
    if getattr(asked.Filter, "DeadbandType", 0):
        return int(ua.StatusCodes.BadMonitoredItemFilterUnsupported)
    return Item(asked.ClientHandle, column, min(max(1, asked.QueueSize), MOST_QUEUED))


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
    device.revision += 1
    return response


_WITHOUT_SESSION: Final[dict[str, Callable[[Device, Any], Any]]] = {
    "GetEndpoints": _get_endpoints,
    "FindServers": _find_servers,
    "CreateSession": _create_session,
}
_SERVICES: Final[dict[str, Callable[[Device, Session, Any], Any]]] = {
    "ActivateSession": _activate_session,
    "CreateSubscription": _create_subscription,
    "ModifySubscription": _modify_subscription,
    "SetPublishingMode": _set_publishing_mode,
    "DeleteSubscriptions": _delete_subscriptions,
    "TransferSubscriptions": _transfer_subscriptions,
    "Republish": _republish,
    "CreateMonitoredItems": _create_monitored_items,
    "DeleteMonitoredItems": _delete_monitored_items,
    "Read": read,
    "Browse": browse,
    "BrowseNext": browse_next,
    "TranslateBrowsePathsToNodeIds": translate_browse_paths,
    "RegisterNodes": register_nodes,
}
