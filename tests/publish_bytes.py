"""Publish answers for tests: built byte by byte, and read by python-opcua's own decoder as the reference."""

from __future__ import annotations

import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from opcua import ua
from opcua.common.utils import Buffer
from opcua.ua.ua_binary import pack_uatype, pack_uatype_array, struct_from_binary

from scada_trio.opcua.notifications import HandleMap, PublishResult, decode_publish

CAPTURES = Path(__file__).parent / "captures"
DATA_CHANGE, STATUS_CHANGE, EVENTS = 811, 820, 916
BAD, UNCERTAIN, OVERFLOW = 0x808B0000, 0x40930000, 0x00000480
NUMBERS = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
# A time whose 100 ns do not make whole microseconds: 2026-01-02T03:04:05.678901 and 700 ns.
SOURCE_TICKS, SERVER_TICKS = 134118254456789017, 134118254456800000
SOURCE_US = SOURCE_TICKS // 10 - 11_644_473_600_000_000
SERVER_US = SERVER_TICKS // 10 - 11_644_473_600_000_000
ARRIVAL_US = 1_700_000_000_000_000


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


VARIANTS = {
    "Null": scalar(0, None),
    "Boolean": scalar(1, True),
    "SByte": scalar(2, -5),
    "Byte": scalar(3, 250),
    "Int16": scalar(4, -300),
    "UInt16": scalar(5, 65000),
    "Int32": scalar(6, -70000),
    "UInt32": scalar(7, 4_000_000_000),
    "Int64": scalar(8, -(2**53) - 1),
    "UInt64": scalar(9, 2**64 - 1),
    "Float": scalar(10, 0.1),
    "Double": scalar(11, 0.1),
    "String": scalar(12, "pump"),
    "NullString": scalar(12, None),
    "DateTime": scalar(13, datetime(2026, 1, 2, tzinfo=UTC).replace(tzinfo=None)),
    "Guid": scalar(14, UUID(int=1)),
    "ByteString": scalar(15, b"\0\1"),
    "XmlElement": b"\x10" + struct.pack("<i", 4) + b"<a/>",
    "NodeId": scalar(17, ua.NodeId("a", 3)),
    "ExpandedNodeId": b"\x12\xc1\x05" + struct.pack("<Hi5sI", 300, 5, b"urn:x", 2),
    "StatusCode": scalar(19, ua.StatusCode(BAD)),
    "QualifiedName": scalar(20, ua.QualifiedName("q", 1)),
    "LocalizedText": scalar(21, ua.LocalizedText("Druck", "de")),
    "Structure": scalar(22, ua.Range()),
    "DataValue": scalar(23, ua.DataValue(ua.Variant(1.0))),
    "DiagnosticInfo": b"\x19\x3f" + struct.pack("<iiii", 1, 2, 3, 4) + struct.pack("<i", 2) + b"ab" + bytes(4),
    "Doubles": array(11, [1.0, 2.0]),
    "Strings": array(12, ["a", "bc"]),
    "NoInt32": array(6, []),
    "Variants": array(24, [ua.Variant(1.0), ua.Variant("a"), ua.Variant([1, 2])]),
    "Matrix": array(6, [1, 2, 3, 4]).replace(b"\x86", b"\xc6", 1) + struct.pack("<iii", 2, 2, 2),
}
"""A value of every built-in type, and arrays."""


@dataclass
class Reference:
    """What a message holds according to the stock decoder and the rules of meaning, item by item."""

    rows: list[tuple[int, int, float, int]] = field(default_factory=list)
    unstorable: Counter[str] = field(default_factory=Counter)
    overflowed: int = 0
    server_timed: int = 0
    arrival_timed: int = 0


def reference(body: bytes) -> Reference:
    """Read ``body`` with python-opcua and apply the rules of `decode` the slow way; times must be valid ones."""
    parameters = struct_from_binary(ua.PublishResponse, Buffer(body)).Parameters
    found = Reference()
    for notification in parameters.NotificationMessage.NotificationData or ():
        for change in getattr(notification, "MonitoredItems", None) or ():
            _add(found, change.ClientHandle, change.Value)
    return found


def _add(found: Reference, handle: int, value: Any) -> None:
    status = value.StatusCode.value if value.Encoding & 2 else 0
    found.overflowed += status & 0xC80 == 0x480
    tag, quality = 10 * handle if 1 <= handle <= 1000 else None, min(status >> 30, 2)
    reason = _reason(value.Value) if value.Encoding & 1 else "null"
    if tag is None or (reason and quality != 2):
        found.unstorable["unknown_handle" if tag is None else str(reason)] += 1
        return
    time_us = ARRIVAL_US
    if value.Encoding & 4:
        time_us = _microseconds(value.SourceTimestamp)
    elif value.Encoding & 8:
        time_us = _microseconds(value.ServerTimestamp)
        found.server_timed += 1
    else:
        found.arrival_timed += 1
    number = math.nan if reason else float(value.Value.Value)
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


HANDLES = identity_handles(1000)


def decode(body: bytes, handles: HandleMap = HANDLES) -> PublishResult:
    """Decode with handles 1 to 1000 known, or with those given."""
    return decode_publish(body, handles, ARRIVAL_US)


def assert_as_stock(body: bytes) -> None:
    """The decoder finds in ``body`` what the stock decoder finds."""
    assert_agree(decode(body), reference(body))
