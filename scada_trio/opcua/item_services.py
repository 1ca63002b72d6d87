"""Monitored items: the services that create, change and delete them, and what real servers need besides.

Owns the requests and what a server that refuses a filter is asked instead. One blocking call each, for worker threads;
they raise python-opcua's own errors, which the session's `call` translates. Knows no session and starts nothing:
`scada_trio.opcua.subscription` calls these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from opcua import ua

from scada_trio.errors import DeviceError
from scada_trio.opcua.client import LinkClient
from scada_trio.opcua.faults import status_name
from scada_trio.opcua.kept import Item
from scada_trio.opcua.node_ids import parse_node_id
from scada_trio.opcua.parameters import ItemParameters

_TOO_LARGE: Final = frozenset(
    {
        ua.StatusCodes.BadTooManyOperations,
        ua.StatusCodes.BadEncodingLimitsExceeded,
        ua.StatusCodes.BadRequestTooLarge,
        ua.StatusCodes.BadResponseTooLarge,
    }
)
_FILTER_REFUSED: Final = frozenset(
    {
        ua.StatusCodes.BadMonitoredItemFilterInvalid,
        ua.StatusCodes.BadMonitoredItemFilterUnsupported,
        ua.StatusCodes.BadFilterNotAllowed,
        ua.StatusCodes.BadDeadbandFilterInvalid,
    }
)

Wanted = tuple[Item, ItemParameters]


def create_items(client: LinkClient, subscription_id: int, wanted: Sequence[Wanted]) -> bool:
    """Create the items (Part 4, 5.12.2), once more without a filter where the server refuses that.

    Each gets its number, or why it was refused. False, and nothing done, where the server finds the call too large.
    """
    requests: list[tuple[Item, Any]] = []
    for item, parameters in wanted:
        try:
            requests.append((item, _create_request(item, parameters)))
        except ValueError:
            item.refused = "BadNodeIdInvalid"
    asked = dict(wanted)
    results = _ask(partial(_create, client, subscription_id), requests)
    if results is None:
        return False
    for item, result, unfiltered in results:
        if result.StatusCode.is_good():
            item.item_id = int(result.MonitoredItemId)
            item.agree(asked[item], result, unfiltered=unfiltered)
        else:
            item.refused = status_name(result.StatusCode.value)
    return True


def modify_items(client: LinkClient, subscription_id: int, wanted: Sequence[Wanted]) -> list[Wanted] | None:
    """Change the items' parameters (Part 4, 5.12.3), without a filter where the server refuses that; their queues stay.

    Returns those that the server did not change; None, and nothing done, where it finds the call too large.
    """
    asked = dict(wanted)
    requests = [(item, _modify_request(item, parameters)) for item, parameters in wanted]
    results = _ask(partial(_modify, client, subscription_id), requests)
    if results is None:
        return None
    for item, result, unfiltered in results:
        if result.StatusCode.is_good():
            item.agree(asked.pop(item), result, unfiltered=unfiltered)
        elif result.StatusCode.value == ua.StatusCodes.BadMonitoredItemIdInvalid:
            item.item_id = None  # it is not there
    return list(asked.items())


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


def _ask(
    call: Callable[[Sequence[Any]], Sequence[Any]], requests: Sequence[tuple[Item, Any]]
) -> list[tuple[Item, Any, bool]] | None:
    """The result of each request, and whether it is that of asking again without the filter; None: too large a call."""
    if not requests:
        return []
    try:
        results = call([request for _, request in requests])
    except ua.UaStatusCodeError as error:
        if error.code in _TOO_LARGE:
            return None
        raise
    answered, again = [], []
    for (item, request), result in zip(requests, results, strict=True):
        if request.RequestedParameters.Filter and result.StatusCode.value in _FILTER_REFUSED:
            request.RequestedParameters.Filter = None
            again.append((item, request))
        else:
            answered.append((item, result, False))
    second = _ask(call, again)
    if second is None:
        raise DeviceError("the server took a call and then found half of it too large")
    return answered + [(item, result, True) for item, result, _ in second]


def _create(client: LinkClient, subscription_id: int, requests: Sequence[Any]) -> Sequence[Any]:
    params = ua.CreateMonitoredItemsParameters()
    params.SubscriptionId = subscription_id
    params.TimestampsToReturn = ua.TimestampsToReturn.Both
    params.ItemsToCreate = list(requests)
    results: Sequence[Any] = client.uaclient.create_monitored_items(params)
    return results


def _modify(client: LinkClient, subscription_id: int, requests: Sequence[Any]) -> Sequence[Any]:
    params = ua.ModifyMonitoredItemsParameters()
    params.SubscriptionId = subscription_id
    params.TimestampsToReturn = ua.TimestampsToReturn.Both
    params.ItemsToModify = list(requests)
    results: Sequence[Any] = client.uaclient.modify_monitored_items(params)
    return results


def _create_request(item: Item, parameters: ItemParameters) -> Any:
    """A MonitoredItemCreateRequest; ValueError for a node id that is none."""
    request = ua.MonitoredItemCreateRequest()
    request.ItemToMonitor.NodeId = parse_node_id(item.tag.node_id)
    request.ItemToMonitor.AttributeId = ua.AttributeIds.Value
    request.MonitoringMode = ua.MonitoringMode.Reporting
    _fill(request.RequestedParameters, item, parameters)
    return request


def _modify_request(item: Item, parameters: ItemParameters) -> Any:
    request = ua.MonitoredItemModifyRequest()
    request.MonitoredItemId = item.item_id
    _fill(request.RequestedParameters, item, parameters)
    return request


def _fill(requested: Any, item: Item, parameters: ItemParameters) -> None:
    requested.ClientHandle = item.handle
    requested.SamplingInterval = parameters.sampling_ms
    requested.QueueSize = parameters.queue_size
    requested.DiscardOldest = parameters.discard_oldest
    if parameters.deadband is not None:
        requested.Filter = _filter(ua.DeadbandType.Absolute, parameters.deadband)
    elif parameters.percent is not None:
        requested.Filter = _filter(ua.DeadbandType.Percent, parameters.percent)


def _filter(kind: ua.DeadbandType, deadband: float) -> Any:
    """A DataChangeFilter with a deadband (Part 4, 7.22.2)."""
    wanted = ua.DataChangeFilter()
    wanted.Trigger = ua.DataChangeTrigger.StatusValue
    wanted.DeadbandType = kind.value
    wanted.DeadbandValue = deadband
    return wanted
