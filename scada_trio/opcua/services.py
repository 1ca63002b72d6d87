"""The services of a subscription and its items, one blocking call each, with what real servers need besides.

Owns requests and their limits. Knows no session and starts nothing: `scada_trio.opcua.subscription` calls these
functions in worker threads. They raise python-opcua's own errors, which the session's `call` translates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from opcua import ua
from opcua.ua.ua_binary import struct_from_binary

from scada_trio.config import DeviceSettings
from scada_trio.opcua.client import LinkClient
from scada_trio.opcua.node_ids import parse_node_id
from scada_trio.readings import Tag
from scada_trio.times import microseconds

ITEMS_A_CALL: Final = 1_000
"""Monitored items created or deleted in one call, where the server's own limit (Part 5, 6.3.11) is not smaller."""
_MAX_ITEMS_A_CALL_NODE: Final = 11714  # Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall
_STARTED_NODE: Final = 2257  # Server_ServerStatus_StartTime
_MIN_LIFETIME_S: Final = 600.0
"""How long the server keeps the subscription without a Publish: a device that we hold back must not lose it."""
_MAX_NOTIFICATIONS: Final = 20_000
"""Values in one message; keeps the largest message under ``MAX_MESSAGE_BYTES``."""

_TOO_LARGE: Final = frozenset(
    {
        ua.StatusCodes.BadTooManyOperations,
        ua.StatusCodes.BadEncodingLimitsExceeded,
        ua.StatusCodes.BadRequestTooLarge,
        ua.StatusCodes.BadResponseTooLarge,
    }
)


def create_subscription(client: LinkClient, settings: DeviceSettings) -> Any:
    """The server's CreateSubscriptionResult, or the result of the ModifySubscription that had to follow.

    A server that revises the publishing interval to a longer one makes the keep-alive, which counts intervals, as much
    later; so the counts are asked for anew.
    """
    request = ua.CreateSubscriptionRequest()
    _ask_for(request.Parameters, settings, settings.publishing_interval_s)
    request.Parameters.PublishingEnabled = True
    created = _request(client, request, ua.CreateSubscriptionResponse)
    interval_s = seconds(created.RevisedPublishingInterval)
    if created.RevisedMaxKeepAliveCount <= _keep_alive_count(settings, interval_s):
        return created
    change = ua.ModifySubscriptionRequest()
    change.Parameters.SubscriptionId = created.SubscriptionId
    _ask_for(change.Parameters, settings, interval_s)
    try:
        changed = _request(client, change, ua.ModifySubscriptionResponse)
    except ua.UaStatusCodeError:
        return created  # later keep-alives are better than none
    created.RevisedPublishingInterval = changed.RevisedPublishingInterval
    created.RevisedMaxKeepAliveCount = changed.RevisedMaxKeepAliveCount
    return created


def modify_subscription(client: LinkClient, subscription_id: int, settings: DeviceSettings) -> Any | None:
    """The revised parameters of a subscription that an earlier process created; None where the server does not tell."""
    change = ua.ModifySubscriptionRequest()
    change.Parameters.SubscriptionId = subscription_id
    _ask_for(change.Parameters, settings, settings.publishing_interval_s)
    try:
        return _request(client, change, ua.ModifySubscriptionResponse)
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


def _ask_for(parameters: Any, settings: DeviceSettings, interval_s: float) -> None:
    """Fill the parameters that CreateSubscription and ModifySubscription share (Part 4, 5.13.2, 5.13.3)."""
    keep_alives = _keep_alive_count(settings, interval_s)
    parameters.RequestedPublishingInterval = interval_s * 1000
    parameters.RequestedMaxKeepAliveCount = keep_alives
    parameters.RequestedLifetimeCount = max(3 * keep_alives, math.ceil(_MIN_LIFETIME_S / interval_s))
    parameters.MaxNotificationsPerPublish = _MAX_NOTIFICATIONS


def _keep_alive_count(settings: DeviceSettings, interval_s: float) -> int:
    """Publishing intervals without a notification after which a keep-alive is due."""
    return max(1, round(settings.keep_alive_s / interval_s))


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


def create_items(client: LinkClient, subscription_id: int, requests: Sequence[Any]) -> Sequence[Any] | None:
    """Results in the order of ``requests``; None where the server finds the call too large."""
    if not requests:
        return ()
    params = ua.CreateMonitoredItemsParameters()
    params.SubscriptionId = subscription_id
    params.TimestampsToReturn = ua.TimestampsToReturn.Both
    params.ItemsToCreate = list(requests)
    try:
        results: Sequence[Any] = client.uaclient.create_monitored_items(params)
    except ua.UaStatusCodeError as error:
        if error.code in _TOO_LARGE:
            return None
        raise
    return results


def delete_items(client: LinkClient, subscription_id: int, item_ids: Sequence[int]) -> bool:
    """False where the server finds the call too large; an item that is not there any more is as good as deleted."""
    params = ua.DeleteMonitoredItemsParameters()
    params.SubscriptionId = subscription_id
    params.MonitoredItemIds = list(item_ids)
    try:
        client.uaclient.delete_monitored_items(params)
    except ua.UaStatusCodeError as error:
        if error.code in _TOO_LARGE:
            return False
        raise
    return True


def item_request(tag: Tag, handle: int, settings: DeviceSettings) -> Any:
    """A MonitoredItemCreateRequest for ``tag`` (Part 4, 5.12.2); ValueError for a node id that is none.

    The queue's places are for values sampled between two reports, and for the time in which we hold Publish back.
    """
    request = ua.MonitoredItemCreateRequest()
    request.ItemToMonitor.NodeId = parse_node_id(tag.node_id)
    request.ItemToMonitor.AttributeId = ua.AttributeIds.Value
    request.MonitoringMode = ua.MonitoringMode.Reporting
    request.RequestedParameters.ClientHandle = handle
    request.RequestedParameters.SamplingInterval = settings.sampling_interval_s * 1000
    request.RequestedParameters.QueueSize = settings.queue_size
    request.RequestedParameters.DiscardOldest = True
    deadband = raw_deadband(tag)
    if deadband is not None:
        request.RequestedParameters.Filter = _deadband_filter(deadband)
    return request


def seconds(interval_ms: float | None) -> float:
    """A revised interval; servers have been seen to answer 0."""
    return max(float(interval_ms or 0.0), 1.0) / 1000


def raw_deadband(tag: Tag) -> float | None:
    """The deadband in the device's unit: the tag's is in scaled units. None where there is none to ask for."""
    if tag.deadband is None or tag.scaling_factor == 0.0:
        return None
    raw = tag.deadband / abs(tag.scaling_factor)
    return raw if math.isfinite(raw) and raw > 0.0 else None


def _deadband_filter(deadband: float) -> Any:
    """An absolute deadband (Part 4, 7.22.2)."""
    wanted = ua.DataChangeFilter()
    wanted.Trigger = ua.DataChangeTrigger.StatusValue
    wanted.DeadbandType = ua.DeadbandType.Absolute.value
    wanted.DeadbandValue = deadband
    return wanted
