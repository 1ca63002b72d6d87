"""The query methods between the wire and the service: requests to queries, answers to messages.

Owns every rule about what such a request may say. Pure functions; malformed requests are `InvalidField`. Readings
themselves are laid out in `wire`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from scada_trio.api._generated import scada_pb2
from scada_trio.errors import InvalidField
from scada_trio.queries import AggregatesPage, AggregatesQuery, Position, ReadingsQuery, Resolution
from scada_trio.validation import MAX_NODE_ID_BYTES, parse_text, parse_uuid

DEFAULT_LIMIT: Final = 10_000
MAX_LIMIT: Final = 50_000  # an answer of 5 MB, with node ids as usual
MAX_AGGREGATES: Final = 10_000
MAX_WELLS: Final = 100
MAX_NODE_IDS: Final = 1_000
_DEFAULT_POINTS: Final = 500
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z
_LAST_US: Final = _LAST_SECOND * 1_000_000 + 999_999
_RANGE_TEXT: Final = "is not in the years 1970 to 9999"

_WIDTHS_US: Final[Mapping[Resolution, int]] = {
    Resolution.HOURLY: 3_600_000_000,
    Resolution.DAILY: 86_400_000_000,
}
_RESOLUTIONS: Final[Mapping[scada_pb2.Resolution, Resolution]] = {
    scada_pb2.RESOLUTION_HOURLY: Resolution.HOURLY,
    scada_pb2.RESOLUTION_DAILY: Resolution.DAILY,
    scada_pb2.RESOLUTION_MONTHLY: Resolution.MONTHLY,
}
_NUMBERS: Final = {resolution: number for number, resolution in _RESOLUTIONS.items()}


def readings_query(request: scada_pb2.QueryReadingsRequest) -> ReadingsQuery:
    """What QueryReadings asks for; microseconds count where both they and seconds are given."""
    start_us = _start_or_end_us(request, "start_time")
    end_us = _start_or_end_us(request, "end_time")
    _check_order(start_us, end_us, "end_time_us" if request.HasField("end_time_us") else "end_time")
    return _readings_query(request, start_us, end_us)


def stream_query(request: scada_pb2.StreamReadingsRequest) -> ReadingsQuery:
    """What StreamReadings asks for."""
    return _readings_query(request, *_interval_us(request))


def _readings_query(
    request: scada_pb2.QueryReadingsRequest | scada_pb2.StreamReadingsRequest, start_us: int, end_us: int
) -> ReadingsQuery:
    return ReadingsQuery(
        parse_uuid("well_id", request.well_id),
        start_us,
        end_us,
        node_ids(request.tag_node_ids),
        _oldest_first(request.order),
    )


def aggregates_query(request: scada_pb2.QueryAggregatesRequest, after: Position | None) -> AggregatesQuery:
    """What QueryAggregates asks for, with the resolution that AUTO comes to."""
    start_us, end_us = _interval_us(request)
    points = parse_limit("max_points", request.max_points, _DEFAULT_POINTS, MAX_AGGREGATES)
    if request.resolution == scada_pb2.RESOLUTION_AUTO:
        resolution = _finest(end_us - start_us, points)
    elif (named := _RESOLUTIONS.get(request.resolution)) is not None:
        resolution = named
    else:
        raise InvalidField("resolution", f"{request.resolution} is no resolution")
    return AggregatesQuery(
        parse_uuid("well_id", request.well_id),
        start_us,
        end_us,
        resolution,
        parse_limit("limit", request.limit, MAX_AGGREGATES, MAX_AGGREGATES),
        node_ids(request.tag_node_ids),
        after,
    )


def aggregates_message(
    page: AggregatesPage, resolution: Resolution, next_page_token: str
) -> scada_pb2.QueryAggregatesResponse:
    """The answer to QueryAggregates; 10,000 take 15 ms, so make it in a worker thread where there are many."""
    response = scada_pb2.QueryAggregatesResponse(
        resolution=_NUMBERS[resolution],
        next_page_token=next_page_token,
    )
    add = response.aggregates.add
    for aggregate in page.aggregates:
        message = add()
        message.tag_node_id = aggregate.node_id
        message.bucket_start_us = aggregate.bucket_us
        if aggregate.avg is not None and aggregate.min is not None and aggregate.max is not None:
            message.avg, message.min, message.max = aggregate.avg, aggregate.min, aggregate.max
        if aggregate.stddev is not None:
            message.stddev = aggregate.stddev
        message.count = aggregate.count
        message.uncertain_count = aggregate.uncertain_count
        message.bad_count = aggregate.bad_count
        message.total_count = aggregate.total_count
    return response


def well_ids(texts: Sequence[str]) -> tuple[UUID, ...]:
    """The wells of LatestReadings, each once, in the order given."""
    if not texts:
        raise InvalidField("well_ids", "is empty; at least one well is expected")
    if len(texts) > MAX_WELLS:
        raise InvalidField("well_ids", f"has {len(texts):,} entries; {MAX_WELLS} at most are answered at a time")
    return tuple(dict.fromkeys(parse_uuid(f"well_ids[{index}]", text) for index, text in enumerate(texts)))


def node_ids(texts: Sequence[str]) -> tuple[str, ...] | None:
    """The tags that are asked for; None: all. Any text will do: what was stored once may be read."""
    if len(texts) > MAX_NODE_IDS:
        raise InvalidField("tag_node_ids", f"has {len(texts):,} entries; {MAX_NODE_IDS:,} at most are taken")
    for index, text in enumerate(texts):
        parse_text(f"tag_node_ids[{index}]", text, MAX_NODE_ID_BYTES)
        if not text:
            raise InvalidField(f"tag_node_ids[{index}]", "is empty; a node id is expected")
    return tuple(texts) or None


def parse_limit(field: str, limit: int, default: int, largest: int) -> int:
    """How many; more than ``largest`` is ``largest``."""
    if limit < 0:
        raise InvalidField(field, f"{limit} is negative")
    return min(limit or default, largest)


def _start_or_end_us(request: scada_pb2.QueryReadingsRequest, field: str) -> int:
    if request.HasField(f"{field}_us"):
        return _checked_us(f"{field}_us", getattr(request, f"{field}_us"))
    time_s = int(getattr(request, field))
    if not 0 <= time_s <= _LAST_SECOND:
        raise InvalidField(field, f"{time_s} {_RANGE_TEXT}; Unix seconds are expected")
    return time_s * 1_000_000


def _interval_us(request: scada_pb2.StreamReadingsRequest | scada_pb2.QueryAggregatesRequest) -> tuple[int, int]:
    start_us = _checked_us("start_time_us", request.start_time_us)
    end_us = _checked_us("end_time_us", request.end_time_us)
    _check_order(start_us, end_us, "end_time_us")
    return start_us, end_us


def _checked_us(field: str, time_us: int) -> int:
    if not 0 <= time_us <= _LAST_US:
        raise InvalidField(field, f"{time_us} {_RANGE_TEXT}; microseconds since 1970 are expected")
    return time_us


def _check_order(start_us: int, end_us: int, field: str) -> None:
    if end_us < start_us:
        raise InvalidField(field, "is before the start")


def _oldest_first(order: int) -> bool:
    if order not in (scada_pb2.ORDER_NEWEST_FIRST, scada_pb2.ORDER_OLDEST_FIRST):
        raise InvalidField("order", f"{order} is no order")
    return order == scada_pb2.ORDER_OLDEST_FIRST


def _finest(span_us: int, points: int) -> Resolution:
    for resolution, width_us in _WIDTHS_US.items():
        if span_us // width_us + 1 <= points:
            return resolution
    return Resolution.MONTHLY
