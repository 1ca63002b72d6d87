"""The services of a subscription, one blocking call each, with what real servers need besides.

Owns requests and their limits. Knows no session and starts nothing: `scada_trio.opcua.takeover` and
`scada_trio.opcua.subscription` call these functions in worker threads. They raise python-opcua's own errors, which the
session's `call` translates.
"""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from opcua import ua
from opcua.ua.ua_binary import struct_from_binary

from scada_trio.config import DeviceSettings
from scada_trio.opcua.client import LinkClient
from scada_trio.status import SubscriptionTerms
from scada_trio.times import microseconds

ITEMS_A_CALL: Final = 1_000
"""Monitored items created or deleted in one call, where the server's own limit (Part 5, 6.3.11) is not smaller."""
_MAX_ITEMS_A_CALL_NODE: Final = 11714  # Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall
_STARTED_NODE: Final = 2257  # Server_ServerStatus_StartTime
_MIN_LIFETIME_S: Final = 600.0
"""How long the server keeps the subscription without a Publish: a device that we hold back must not lose it."""
_MAX_INTERVAL_MS: Final = 86_400_000.0
"""No device publishes less often than once a day; what says so, or infinity, would never be found silent."""
_MAX_NOTIFICATIONS: Final = 20_000
"""Values in one message; keeps the largest message under ``MAX_MESSAGE_BYTES``."""


def create_subscription(
    client: LinkClient, settings: DeviceSettings, publishing_ms: float
) -> tuple[int, SubscriptionTerms]:
    """A subscription without items (Part 4, 5.13.2): its id, and what the server made of what was asked for.

    A server that revises the publishing interval to a longer one makes the keep-alive, which counts intervals, as much
    later; so the counts are asked for anew.
    """
    request = ua.CreateSubscriptionRequest()
    _ask_for(request.Parameters, settings, publishing_ms)
    request.Parameters.PublishingEnabled = True
    created = _request(client, request, ua.CreateSubscriptionResponse)
    terms = _terms(request, created, publishing_ms)
    return int(created.SubscriptionId), _counted_anew(client, int(created.SubscriptionId), settings, terms)


def modify_subscription(
    client: LinkClient, subscription_id: int, settings: DeviceSettings, publishing_ms: float
) -> SubscriptionTerms | None:
    """What the server makes of another publishing interval (Part 4, 5.13.3); None where it leaves it as it is."""
    terms = _modify(client, subscription_id, settings, publishing_ms, publishing_ms)
    return None if terms is None else _counted_anew(client, subscription_id, settings, terms)


def _counted_anew(
    client: LinkClient, subscription_id: int, settings: DeviceSettings, terms: SubscriptionTerms
) -> SubscriptionTerms:
    if terms.revised_keep_alive_count <= _keep_alive_count(settings, terms.revised_publishing_ms):
        return terms
    changed = _modify(client, subscription_id, settings, terms.revised_publishing_ms, terms.publishing_ms)
    return changed or terms  # later keep-alives are better than none


def _modify(
    client: LinkClient, subscription_id: int, settings: DeviceSettings, interval_ms: float, publishing_ms: float
) -> SubscriptionTerms | None:
    change = ua.ModifySubscriptionRequest()
    change.Parameters.SubscriptionId = subscription_id
    _ask_for(change.Parameters, settings, interval_ms)
    try:
        return _terms(change, _request(client, change, ua.ModifySubscriptionResponse), publishing_ms)
    except ua.UaStatusCodeError:
        return None


def transfer_subscription(client: LinkClient, subscription_id: int) -> Any:
    """The TransferResult (Part 4, 5.13.7) of one subscription that another session had; no values are sent again."""
    request = ua.TransferSubscriptionsRequest()
    request.Parameters.SubscriptionIds = [subscription_id]
    request.Parameters.SendInitialValues = False
    (result,) = _request(client, request, ua.TransferSubscriptionsResponse).Results
    return result


def delete_subscription(client: LinkClient, subscription_id: int) -> None:
    """Delete a subscription of this session that is of no use any more; one that is gone is as good as deleted."""
    request = ua.DeleteSubscriptionsRequest()
    request.Parameters.SubscriptionIds = [subscription_id]
    with suppress(ua.UaStatusCodeError):
        client.uaclient._uasocket.send_request(request)


def _ask_for(parameters: Any, settings: DeviceSettings, interval_ms: float) -> None:
    """Fill the parameters that CreateSubscription and ModifySubscription share (Part 4, 5.13.2, 5.13.3)."""
    keep_alives = _keep_alive_count(settings, interval_ms)
    parameters.RequestedPublishingInterval = interval_ms
    parameters.RequestedMaxKeepAliveCount = keep_alives
    parameters.RequestedLifetimeCount = max(3 * keep_alives, math.ceil(_MIN_LIFETIME_S * 1000 / interval_ms))
    parameters.MaxNotificationsPerPublish = _MAX_NOTIFICATIONS


def _keep_alive_count(settings: DeviceSettings, interval_ms: float) -> int:
    """Publishing intervals without a notification after which a keep-alive is due."""
    return max(1, round(settings.keep_alive_s * 1000 / interval_ms))


def _terms(request: Any, revised: Any, publishing_ms: float) -> SubscriptionTerms:
    """``publishing_ms`` is what was wanted at first. Servers have been seen to answer 0."""
    interval_ms = float(revised.RevisedPublishingInterval or 0.0)
    if not interval_ms <= _MAX_INTERVAL_MS:  # nor NaN
        raise ua.UaError(f"a publishing interval of {interval_ms:g} ms")
    return SubscriptionTerms(
        publishing_ms,
        request.Parameters.RequestedMaxKeepAliveCount,
        request.Parameters.RequestedLifetimeCount,
        max(interval_ms, 1.0),
        int(revised.RevisedMaxKeepAliveCount or 1),
        int(revised.RevisedLifetimeCount or 0),
    )


def _request(client: LinkClient, request: Any, response_type: Any) -> Any:
    """Send a request for which python-opcua has no right method of its own; returns the result."""
    response = struct_from_binary(response_type, client.uaclient._uasocket.send_request(request))
    response.ResponseHeader.ServiceResult.check()
    return response.Parameters


def read_server(client: LinkClient) -> tuple[int, int]:
    """MaxMonitoredItemsPerCall of the server's OperationLimits, at most `ITEMS_A_CALL`, that where it has none; and
    when the server was started, µs since 1970, 0 where it does not say.
    """
    nodes = [ua.NodeId(_MAX_ITEMS_A_CALL_NODE), ua.NodeId(_STARTED_NODE)]
    answers = client.uaclient.get_attributes(nodes, ua.AttributeIds.Value)
    values = [a.Value.Value if a.StatusCode.is_good() and a.Value is not None else None for a in answers]
    limit, started = (*values, None, None)[:2]
    if not isinstance(limit, int) or limit <= 0:
        limit = ITEMS_A_CALL
    if not isinstance(started, datetime) or started.year < 1970:
        return min(limit, ITEMS_A_CALL), 0
    return min(limit, ITEMS_A_CALL), microseconds(started.replace(tzinfo=UTC))
