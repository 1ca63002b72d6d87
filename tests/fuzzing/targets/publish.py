"""Publish and Republish answers: the decoder by columns against the one item by item, and against the stock decoder.

An input is a byte that says which of the two it is, and the body; or that there are two messages, each behind its
length, of which the first is remembered when the second comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import struct_from_binary

from scada_trio.errors import DeviceError
from scada_trio.opcua import items, wire
from scada_trio.opcua.faults import MALFORMED
from scada_trio.opcua.layouts import HandleMap
from scada_trio.opcua.notifications import PublishResult, decode_publish, decode_republish
from tests.fuzzing.feed import Feed, pack
from tests.fuzzing.oracle import Wrong
from tests.publish_bytes import ARRIVAL_US, VARIANTS, _reason, capture, data_change, item, masked_item, publish, rows_of

MAKERS = ("asyncua", "open62541", "node-opcua")
AGAIN, TWO = b"\1", b"\2"
_SCALED = 7
_NESTED = {"structure", "variant", "data_value", "array"}
_YEAR_1601, _YEAR_9999 = datetime(1601, 1, 1), datetime(9999, 12, 31, 23, 59, 59)


def _handles() -> HandleMap:
    handles = HandleMap()
    for handle in range(1, 1001):
        handles.set(handle, 10 * handle, 2.5 if handle == _SCALED else 1.0)
    return handles


HANDLES = _handles()
Decode = Callable[[bytes, HandleMap, int], PublishResult]


def run(data: bytes) -> None:
    kind = data[:1]
    if kind == TWO:
        first, second = (*Feed(data[1:]).pieces(), b"", b"")[:2]
        _follow(first, second)
    elif kind == AGAIN:
        _play(decode_republish, ua.RepublishResponse, data[1:])
    else:
        _play(decode_publish, ua.PublishResponse, data[1:])


def _play(decode: Decode, kind: Any, body: bytes) -> None:
    fast = _outcome(decode, body)
    with _item_by_item():
        slow = _outcome(decode, body)
    if isinstance(fast, DeviceError) or isinstance(slow, DeviceError):
        if type(fast) is not type(slow):
            raise Wrong(f"by columns: {fast!r}; item by item: {slow!r}")
        assert isinstance(fast, DeviceError)
        raise fast
    _compare(_Content.of(fast), _Content.of(slow))
    for _ in range(2):  # the third is decoded by the shape that was remembered
        _compare(_Content.of(decode(body, HANDLES, ARRIVAL_US)), _Content.of(slow))
    if fast.block is not None and len(fast.block) > len(body) // 5:
        raise Wrong("more readings than the message has room for")
    # The stock decoder knows an extension object by one bit of its form, and a variant in a variant as its value: what
    # comes after one of these it may read at another place than Part 6 has it.
    is_plain = not fast.ignored and not _NESTED & fast.unstorable.keys() and _header_form(body) in (0, 1)
    stock = _stock(kind, body) if is_plain else None
    if stock is not None:
        _compare(_Content.of(fast), stock)


def _follow(first: bytes, second: bytes) -> None:
    """What is remembered of one message changes nothing about another."""
    alone = _outcome(decode_publish, second)
    if isinstance(alone, DeviceError):
        raise alone
    for _ in range(2):
        if isinstance(_outcome(decode_publish, first), DeviceError):
            return
        decode_publish(first, HANDLES, ARRIVAL_US)
    _compare(_Content.of(decode_publish(second, HANDLES, ARRIVAL_US)), _Content.of(alone))


def _outcome(decode: Decode, body: bytes) -> PublishResult | DeviceError:
    HANDLES.shape, HANDLES.latest = None, 0
    try:
        return decode(body, HANDLES, ARRIVAL_US)
    except DeviceError as error:
        return error


@contextmanager
def _item_by_item() -> Iterator[None]:
    """No layout is common to many items: each is rewritten."""
    uniform, threshold = items.uniform_layout, items.COLUMNS_FROM
    items.uniform_layout = lambda *_: None
    items.COLUMNS_FROM = 1 << 40  # type: ignore[misc]
    try:
        yield
    finally:
        items.uniform_layout, items.COLUMNS_FROM = uniform, threshold  # type: ignore[misc]


@dataclass
class _Content:
    """What two decoders must agree on."""

    rows: list[tuple[int, int, float, int]]
    unstorable: dict[str, int]
    overflowed: int
    server_timed: int
    arrival_timed: int

    @staticmethod
    def of(result: PublishResult) -> _Content:
        return _Content(
            rows_of(result), dict(result.unstorable), result.overflowed, result.server_timed, result.arrival_timed
        )


def _compare(left: _Content, right: _Content) -> None:
    if len(left.rows) != len(right.rows):
        raise Wrong(f"{len(left.rows)} readings and {len(right.rows)}")
    for one, other in zip(left.rows, right.rows, strict=True):
        same_value = one[2] == other[2] or (math.isnan(one[2]) and math.isnan(other[2]))
        if one[:2] + one[3:] != other[:2] + other[3:] or not same_value:
            raise Wrong(f"{one} and {other}")
    left.rows = right.rows = []
    if left != right:
        raise Wrong(f"{left} and {right}")


# ---- python-opcua's decoder and the rules of meaning, the slow way


def _header_form(body: bytes) -> int:
    """The form of the additional header of a response that was decoded."""
    steps = wire.Steps()
    _, offset = wire.read_type_id(body, 0, steps)
    offset = wire.skip_diagnostic_info(body, offset + 16, steps)
    strings, offset = wire.read_length(body, offset)
    offset = wire.skip_many(wire.skip_string, body, offset, strings, steps)
    return body[wire.skip_node_id(body, offset, steps)]


def _stock(kind: Any, body: bytes) -> _Content | None:
    """What python-opcua finds in ``body``; None where it cannot read it, or reads it otherwise than Part 6 says."""
    try:
        response = struct_from_binary(kind, Buffer(body))
    except MALFORMED:
        return None
    message = response.NotificationMessage if kind is ua.RepublishResponse else response.Parameters.NotificationMessage
    found = _Content([], {}, 0, 0, 0)
    for notification in message.NotificationData or ():
        if isinstance(notification, ua.DataChangeNotification):
            for change in notification.MonitoredItems or ():
                if not _add(found, change.ClientHandle, change.Value):
                    return None
    return found


def _add(found: _Content, handle: int, value: Any) -> bool:
    status = value.StatusCode.value if value.Encoding & 2 else 0
    has_value = bool(value.Encoding & 1)
    shaped = has_value and (value.Value.is_array or bool(value.Value.Dimensions))
    reason = ("array" if shaped else _reason(value.Value)) if has_value else "null"
    tag, quality = 10 * handle if 1 <= handle <= 1000 else None, min(status >> 30, 2)
    found.overflowed += status & 0xC80 == 0x480
    if tag is None or (reason and quality != 2):
        name = "unknown_handle" if tag is None else str(reason)
        found.unstorable[name] = found.unstorable.get(name, 0) + 1
        return True
    time_us = _microseconds(value.SourceTimestamp) if value.Encoding & 4 else None
    if time_us is None and value.Encoding & 8:
        time_us = _microseconds(value.ServerTimestamp)
        found.server_timed += time_us is not None
    if time_us is None:
        time_us = ARRIVAL_US
        found.arrival_timed += 1
    number = math.nan if reason else float(value.Value.Value) * (2.5 if handle == _SCALED else 1.0)
    found.rows.append((tag, time_us, number, quality))
    return True


def _microseconds(moment: datetime) -> int | None:
    if not _YEAR_1601 < moment < _YEAR_9999:
        return None
    return (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def seeds() -> Iterator[bytes]:
    for maker in MAKERS:
        for content in ("mixed", "uniform-10", "keep-alive"):
            yield b"\0" + capture(f"{maker}-{content}")
    yield b"\0" + capture("open62541-fault")
    for mask in (0, 1, 3, 5, 13, 15, 61, 63):
        for name in ("Double", "Boolean", "Int64", "String", "Doubles"):
            changed = data_change(*(masked_item(handle, mask, VARIANTS[name], 0x480) for handle in (1, 2, 7)))
            yield b"\0" + publish(changed)
    yield b"\0" + publish(data_change(*(item(handle, variant) for handle, variant in enumerate(VARIANTS.values(), 1))))
    double, integer = VARIANTS["Double"], VARIANTS["Int32"]
    long = [item(1 + number % 9, double if number % 60 < 30 else integer, source=1 << 56) for number in range(120)]
    yield b"\0" + publish(data_change(*long), results=(0, 0x807A0000))
    head = b"\x01\x00\x43\x03" + bytes(8 + 4 + 4 + 1) + b"\xff\xff\xff\xff" + bytes(3)
    alternating = [item(1 + number % 9, integer if number % 3 else double, source=1 << 56) for number in range(40)]
    for other in (alternating[::-1], alternating[1:], alternating):
        yield TWO + pack([publish(data_change(*alternating)), publish(data_change(*other))])
    yield AGAIN + head + bytes(4 + 8) + b"\x01\0\0\0" + data_change(item(1, double))
