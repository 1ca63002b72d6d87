"""Publish answers for tests: built byte by byte, and read by python-opcua's own decoder as the reference."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import pack_uatype, pack_uatype_array, struct_from_binary

from scada_trio.opcua.notifications import HandleMap, PublishResult

CAPTURES = Path(__file__).parent / "captures"
DATA_CHANGE, STATUS_CHANGE, EVENTS = 811, 820, 916
BAD, UNCERTAIN, OVERFLOW = 0x808B0000, 0x40930000, 0x00000480
NUMBERS = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
# A time whose 100 ns do not make whole microseconds: 2026-01-02T03:04:05.678901 and 700 ns.
SOURCE_TICKS, SERVER_TICKS = 134118254456789017, 134118254456800000


def capture(name: str) -> bytes:
    """A recorded message, such as ``asyncua-mixed``."""
    return (CAPTURES / f"{name}.bin").read_bytes()


def item(
    handle: int,
    variant: bytes | None = None,
    status: int | None = None,
    source: int | None = None,
    server: int | None = None,
    source_ps: int | None = None,
    server_ps: int | None = None,
) -> bytes:
    """A MonitoredItemNotification; what is None is left out and its mask bit with it."""
    fields: list[tuple[int, bytes]] = []
    for bit, form, number in (
        (2, "<I", status),
        (4, "<q", source),
        (16, "<H", source_ps),
        (8, "<q", server),
        (32, "<H", server_ps),
    ):
        if number is not None:
            fields.append((bit, struct.pack(form, number)))
    if variant is not None:
        fields.insert(0, (1, variant))
    return struct.pack("<IB", handle, sum(bit for bit, _ in fields)) + b"".join(part for _, part in fields)


def masked_item(handle: int, mask: int, variant: bytes, status: int = 0) -> bytes:
    """An item with the fields that ``mask`` says."""
    return item(
        handle,
        variant if mask & 1 else None,
        status if mask & 2 else None,
        SOURCE_TICKS if mask & 4 else None,
        SERVER_TICKS if mask & 8 else None,
        7 if mask & 16 else None,
        8 if mask & 32 else None,
    )


def scalar(kind: int, value: object) -> bytes:
    """A variant of built-in type ``kind``."""
    return bytes((kind,)) + bytes(pack_uatype(ua.VariantType(kind), value))


def array(kind: int, values: list[Any]) -> bytes:
    """A variant that is an array."""
    return bytes((kind | 0x80,)) + bytes(pack_uatype_array(ua.VariantType(kind), values))


def double(value: float) -> bytes:
    """A variant with a Double."""
    return struct.pack("<Bd", 11, value)


def data_change(*items: bytes) -> bytes:
    """A DataChangeNotification in its extension object."""
    return extension(DATA_CHANGE, struct.pack("<i", len(items)) + b"".join(items) + struct.pack("<i", -1))


def extension(type_id: int, content: bytes) -> bytes:
    """An extension object of a type in namespace 0."""
    return struct.pack("<BBHBi", 1, 0, type_id, 1, len(content)) + content


PLAIN_HEADER = struct.pack("<BBHqIIBi3s", 1, 0, 829, SERVER_TICKS, 5, 0, 0, -1, bytes(3))


def publish(
    *notifications: bytes,
    header: bytes = PLAIN_HEADER,
    available: tuple[int, ...] = (1, 2),
    more: bool = False,
    sequence: int = 2,
    results: tuple[int, ...] = (),
    tail: bytes = struct.pack("<i", -1),
) -> bytes:
    """A PublishResponse of subscription 77."""
    return (
        header
        + struct.pack("<Ii", 77, len(available))
        + struct.pack(f"<{len(available)}I", *available)
        + struct.pack("<BIqi", more, sequence, SERVER_TICKS, len(notifications))
        + b"".join(notifications)
        + struct.pack("<i", len(results))
        + struct.pack(f"<{len(results)}I", *results)
        + tail
    )


@dataclass
class Reference:
    """What a message holds according to the stock decoder and the rules of meaning, item by item."""

    rows: list[tuple[int, int, float, int]] = field(default_factory=list)
    unstorable: Counter[str] = field(default_factory=Counter)
    overflowed: int = 0
    server_timed: int = 0
    arrival_timed: int = 0


def reference(
    body: bytes, tag_of: Callable[[int], int | None], arrival_us: int, scale_of: Callable[[int], float] = lambda _: 1.0
) -> Reference:
    """Read ``body`` with python-opcua and apply the rules the slow way; only for times that are valid."""
    parameters = struct_from_binary(ua.PublishResponse, Buffer(body)).Parameters
    found = Reference()
    for notification in parameters.NotificationMessage.NotificationData or ():
        for change in getattr(notification, "MonitoredItems", None) or ():
            _add(found, change.ClientHandle, change.Value, tag_of, arrival_us, scale_of)
    return found


def _add(
    found: Reference,
    handle: int,
    value: Any,
    tag_of: Callable[[int], int | None],
    arrival_us: int,
    scale_of: Callable[[int], float],
) -> None:
    status = value.StatusCode.value if value.Encoding & 2 else 0
    found.overflowed += status & 0xC80 == 0x480
    tag, quality = tag_of(handle), min(status >> 30, 2)
    reason = _reason(value.Value) if value.Encoding & 1 else "null"
    if tag is None or (reason and quality != 2):
        found.unstorable["unknown_handle" if tag is None else str(reason)] += 1
        return
    time_us = arrival_us
    if value.Encoding & 4:
        time_us = _microseconds(value.SourceTimestamp)
    elif value.Encoding & 8:
        time_us = _microseconds(value.ServerTimestamp)
        found.server_timed += 1
    else:
        found.arrival_timed += 1
    number = math.nan if reason else float(value.Value.Value) * scale_of(handle)
    found.rows.append((tag, time_us, number, quality))


def _reason(variant: Any) -> str | None:
    """Why a variant has no number, by a table of its own."""
    if variant.is_array:
        return "array"
    kind = variant.VariantType.value
    if kind in NUMBERS:
        return None
    names = "null string datetime guid byte_string xml_element node_id expanded_node_id status_code qualified_name "
    names += "localized_text structure data_value variant diagnostic_info"
    kinds = (0, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25)
    return dict(zip(kinds, names.split(), strict=True)).get(kind, "reserved_type")


def _microseconds(moment: datetime) -> int:
    return (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def rows_of(result: PublishResult) -> list[tuple[int, int, float, int]]:
    """The block as rows of tag, time, value and quality."""
    block = result.block
    if block is None:
        return []
    return list(
        zip(block.tag.tolist(), block.time_us.tolist(), block.value.tolist(), block.quality.tolist(), strict=True)
    )


def assert_agree(result: PublishResult, expected: Reference) -> None:
    """The fast decoder found what the reference found, in its order."""
    rows = rows_of(result)
    assert [row[:2] + row[3:] for row in rows] == [row[:2] + row[3:] for row in expected.rows]
    np.testing.assert_array_equal([row[2] for row in rows], [row[2] for row in expected.rows])
    assert dict(result.unstorable) == dict(expected.unstorable)
    assert (result.overflowed, result.server_timed, result.arrival_timed) == (
        expected.overflowed,
        expected.server_timed,
        expected.arrival_timed,
    )


def identity_handles(count: int) -> HandleMap:
    """Handles 1 to ``count``, each for the series ten times its number."""
    handles = HandleMap()
    for handle in range(1, count + 1):
        handles.set(handle, 10 * handle)
    return handles
