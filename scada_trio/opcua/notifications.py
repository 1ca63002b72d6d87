"""Publish answers as columns: the bytes of a PublishResponse to a `ReadingBlock`, no object per reading.

Owns the meaning of notifications (OPC UA Part 4, 5.13.5 Publish and 7.25). Knows no socket, no session and no channel;
the connection calls `decode_publish` for every answer, in the Trio thread.

    body ─► header ─► data change ─► items ─► groups of one layout ─► columns ─► in message order ─► ReadingBlock
                  └─► status change, others: counted

A message whose items all have one layout (nearly every one) is a numpy view on its bytes. In a mixed message the items
of each frequent layout are gathered by their offsets, and the rest is rewritten into one layout (`items`); all is
decoded by column (`layouts`) and put back into the order of the message. Where it is like the one before, all of that
is known already (`shapes`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scada_trio.errors import DeviceError, DeviceProtocolError
from scada_trio.opcua import items, layouts, wire
from scada_trio.opcua.faults import status_name
from scada_trio.opcua.layouts import HandleMap, Layout
from scada_trio.opcua.shapes import MAX_RARE, Part, shape_of
from scada_trio.opcua.wire import Steps
from scada_trio.readings import Quality, ReadingBlock

__all__ = ["HandleMap", "PublishFault", "PublishResult", "decode_publish", "decode_republish"]

# Numbers of the binary encodings in namespace 0 (Part 6, A.3).
SERVICE_FAULT: Final = 397
DATA_CHANGE: Final = 811
STATUS_CHANGE: Final = 820
PUBLISH_RESPONSE: Final = 829
REPUBLISH_RESPONSE: Final = 835

UNKNOWN_HANDLE: Final = "unknown_handle"

# A PublishResponse up to its sequence numbers, as every server sends it that has no diagnostics to tell: type id,
# time, request handle, service result, diagnostics mask, string table, additional header, subscription id, count.
_PLAIN_HEAD: Final = struct.Struct("<4sqIIBi3sIi")
_PLAIN_TYPE: Final = b"\x01\x00" + PUBLISH_RESPONSE.to_bytes(2, "little")
_NO_OBJECT: Final = b"\0\0\0"
_HEAD_AFTER_TYPE: Final = struct.Struct("<qII")
_MESSAGE: Final = struct.Struct("<BIqi")  # more, sequence number, publish time, count of notifications
_REPUBLISHED: Final = struct.Struct("<Iqi")  # the same without more
_BAD: Final = 0x8000_0000

_NONE_UNSTORABLE: Final[Mapping[str, int]] = MappingProxyType({})


class PublishFault(DeviceError):
    """The device answered Publish with a bad status instead of a notification.

    ``status`` is the OPC UA status code: BadNoSubscription, BadTimeout, BadSessionIdInvalid, ...
    """

    error_type = "publish"

    def __init__(self, status: int) -> None:
        self.name = status_name(status)
        super().__init__(f"Publish was answered with {self.name} (0x{status:08X})")
        self.status: int = status


@dataclass(frozen=True, slots=True, eq=False)
class PublishResult:
    """What one PublishResponse holds.

    ``block`` has the readings in the order of the message, None where nothing storable came. ``unstorable`` counts by
    reason the items that have no number; ``overflowed`` the items whose status says that the device dropped values
    beside them (overflow bit), and ``behind_dropped`` has the readings among them; ``server_timed`` and
    ``arrival_timed`` the readings without a source timestamp, by the clock used instead. ``status_change`` is a
    StatusChangeNotification's status code, ``ignored`` counts other kinds of notification, and ``results`` are the
    status codes of refused acknowledgements.
    """

    subscription_id: int
    sequence_number: int
    more: bool
    keep_alive: bool
    block: ReadingBlock | None
    unstorable: Mapping[str, int]
    overflowed: int
    server_timed: int
    arrival_timed: int
    status_change: int | None
    ignored: int
    results: tuple[int, ...]
    behind_dropped: ReadingBlock | None = None


def decode_publish(body: bytes, handles: HandleMap, arrival_us: int) -> PublishResult:
    """Decode a PublishResponse, ``body`` from its type id on; ``arrival_us`` is when it came, µs since 1970 UTC.

    Numbers and Booleans (0 and 1) become float64 times the handle's factor; Int64 and UInt64 beyond 2^53 lose their
    last digits. Quality is the severity of the status, Good where there is none. A Bad item without a number is a
    reading too, NaN; every other item without a number is counted as unstorable, and so is one whose handle is unknown.
    Time is the source's, else the server's, else ``arrival_us``; see `layouts.times` for what counts as absent.

    Raises `PublishFault` for a bad service result and `DeviceProtocolError` for bytes that are no PublishResponse.
    Allocates in proportion to ``body``, whatever lengths it claims, and in bounded time (`wire.MAX_STEPS`).
    """
    try:
        return _decode(body, handles, arrival_us)
    except (IndexError, struct.error) as error:
        raise wire.truncated() from error


def decode_republish(body: bytes, handles: HandleMap, arrival_us: int) -> PublishResult:
    """Decode a RepublishResponse (Part 4, 5.13.6) as `decode_publish` does; it names no subscription, id is 0.

    A sequence number other than the one asked for says that the server does not have the notification.
    """
    try:
        steps = Steps()
        offset = _skip_response_header(body, REPUBLISH_RESPONSE, steps)
        number, _, count = _REPUBLISHED.unpack_from(body, offset)
        return _read_message(body, offset + _REPUBLISHED.size, (0, False, number, count), handles, arrival_us, steps)
    except (IndexError, struct.error) as error:
        raise wire.truncated() from error


def _decode(body: bytes, handles: HandleMap, arrival_us: int) -> PublishResult:
    steps = Steps()
    subscription_id, offset = _read_head(body, steps)
    more, sequence_number, _, count = _MESSAGE.unpack_from(body, offset)
    head = (subscription_id, more != 0, sequence_number, count)
    return _read_message(body, offset + _MESSAGE.size, head, handles, arrival_us, steps)


def _read_message(
    body: bytes, offset: int, head: tuple[int, bool, int, int], handles: HandleMap, arrival_us: int, steps: Steps
) -> PublishResult:
    """The ``count`` notifications at ``offset``; ``head`` is subscription id, more, sequence number and count."""
    subscription_id, more, sequence_number, count = head
    notes = _Notes()
    if count > 1:
        steps.take(count)
    for _ in range(count):
        offset = _read_notification(body, offset, notes, steps)
    readings = _Readings(handles, arrival_us, steps)
    for start, end in notes.data_changes:
        item_count, start = wire.read_length(body, start)
        readings.add(body, start, end, item_count)
    return PublishResult(
        subscription_id,
        sequence_number,
        more,
        count <= 0,
        readings.block(),
        readings.unstorable or _NONE_UNSTORABLE,
        readings.overflowed,
        readings.server_timed,
        readings.arrival_timed,
        notes.status_change,
        notes.ignored,
        _read_results(body, offset, steps) if subscription_id else (),
        readings.behind_dropped(),
    )


# ---- the answer around the notifications


def _read_head(body: bytes, steps: Steps) -> tuple[int, int]:
    """Subscription id, and the offset of MoreNotifications."""
    kind, _, _, result, diagnostics, strings, extra, subscription_id, available = _PLAIN_HEAD.unpack_from(
        body.ljust(_PLAIN_HEAD.size, b"\0")
    )
    offset = _PLAIN_HEAD.size
    if kind != _PLAIN_TYPE or result or diagnostics or strings > 0 or extra != _NO_OBJECT:
        offset = _skip_response_header(body, PUBLISH_RESPONSE, steps)
        subscription_id = wire.UINT32.unpack_from(body, offset)[0]
        available, offset = wire.read_length(body, offset + 4)
    return subscription_id, offset + 4 * max(available, 0)


def _skip_response_header(body: bytes, wanted: int, steps: Steps) -> int:
    """Type id and ResponseHeader (Part 4, 7.34) with all that may be in it; raises what they say is wrong."""
    kind, offset = wire.read_type_id(body, 0, steps)
    if kind not in (wanted, SERVICE_FAULT):
        raise DeviceProtocolError(f"the device answered Publish with a message of type i={kind}")
    _, _, status = _HEAD_AFTER_TYPE.unpack_from(body, offset)
    if status & _BAD:
        raise PublishFault(status)
    if kind == SERVICE_FAULT:
        raise DeviceProtocolError("the device answered Publish with a fault that has no bad status")
    offset = wire.skip_diagnostic_info(body, offset + _HEAD_AFTER_TYPE.size, steps)
    strings, offset = wire.read_length(body, offset)
    offset = wire.skip_many(wire.skip_string, body, offset, strings, steps)
    return wire.skip_extension_object(body, offset, steps)


@dataclass(slots=True)
class _Notes:
    """The notifications of a message by kind; data changes as (start, end) of their bytes."""

    data_changes: list[tuple[int, int]] = field(default_factory=list)
    status_change: int | None = None
    ignored: int = 0


def _read_notification(body: bytes, offset: int, notes: _Notes, steps: Steps) -> int:
    """Note the extension object at ``offset``; returns the offset behind it."""
    kind, start = wire.read_type_id(body, offset, steps)
    form = body[start]
    if form == 0:
        notes.ignored += 1
        return start + 1
    length, start = wire.read_length(body, start + 1)
    end = start + length
    if end > len(body):
        raise wire.truncated()
    if form == 1 and kind == DATA_CHANGE:
        notes.data_changes.append((start, end))
    elif form == 1 and kind == STATUS_CHANGE:
        notes.status_change = wire.UINT32.unpack_from(body, start)[0]
    else:
        notes.ignored += 1
    return end


def _read_results(body: bytes, offset: int, steps: Steps) -> tuple[int, ...]:
    """Acknowledgement results that are not Good, from the two arrays that end the message."""
    count, offset = wire.read_length(body, offset)
    if count:
        steps.take(count)
    end = offset + 4 * count
    if count and end <= len(body):
        codes: tuple[int, ...] = struct.unpack_from(f"<{count}I", body, offset)
    else:
        codes = ()
    diagnostics, end = wire.read_length(body, end)
    if diagnostics:
        end = wire.skip_many(wire.skip_diagnostic_info, body, end, diagnostics, steps)
    if end > len(body):
        raise wire.truncated()
    return tuple(code for code in codes if code >> layouts.SEVERITY_SHIFT)


# ---- items into readings


class _Readings:
    """The blocks of a message's groups as they are decoded, and what is counted on the way."""

    def __init__(self, handles: HandleMap, arrival_us: int, steps: Steps) -> None:
        self._handles = handles
        self._arrival_us = arrival_us
        self._steps = steps
        self._blocks: list[ReadingBlock] = []
        self._behind_dropped: list[ReadingBlock] = []
        self.unstorable: dict[str, int] = {}
        self.overflowed = 0
        self.server_timed = 0
        self.arrival_timed = 0

    def block(self) -> ReadingBlock | None:
        """All readings in order, None where there are none."""
        return ReadingBlock.concatenate(self._blocks) if self._blocks else None

    def behind_dropped(self) -> ReadingBlock | None:
        """The readings with the overflow bit, None where there are none."""
        return ReadingBlock.concatenate(self._behind_dropped) if self._behind_dropped else None

    def add(self, body: bytes, offset: int, end: int, count: int) -> None:
        """Decode the ``count`` items of a data change that lie between ``offset`` and ``end``."""
        if not count:
            return
        layout = items.uniform_layout(body, offset, end, count)
        if layout is not None:
            records = layouts.record_window(body, layout)[offset : offset + count * layout.size : layout.size]
            block, _ = self._decode(layout, records)
        else:
            block = self._decode_mixed(body, offset, end, count)
        if len(block):
            self._blocks.append(block)

    def _decode_mixed(self, body: bytes, offset: int, end: int, count: int) -> ReadingBlock:
        shape = self._handles.shape
        if shape is not None and shape.fits(body, offset, end, count):
            parts = shape.parts(body, offset)
            return self._decode(*parts[0][:2])[0] if len(parts) == 1 else self._decode_parts(parts)
        mixed = items.group_items(body, offset, end, count, self._steps)
        self._remember(mixed)
        parts = [
            (group.layout, layouts.record_window(body, group.layout)[group.offsets], np.array(group.places, np.intp))
            for group in mixed.groups
        ]
        if mixed.places:
            records = np.frombuffer(mixed.records, layouts.COMMON.dtype)
            parts.append((layouts.COMMON, records, np.array(mixed.places, np.intp)))
        for handle, reason in mixed.unstorable:
            self._count(reason if self._handles.knows(handle) else UNKNOWN_HANDLE, 1)
        self.overflowed += mixed.overflowed
        return self._decode_parts(parts)

    def _remember(self, mixed: items.MixedItems) -> None:
        """Keep the shape of a message that came twice in a row: one that never comes again is not worth making it."""
        order = mixed.order if len(mixed.places) <= MAX_RARE else None
        latest = 0 if order is None else hash(tuple(order))
        if order is not None and latest == self._handles.latest and all(layout.reason is None for layout in order):
            self._handles.shape = shape_of(tuple(order))
        self._handles.latest = latest

    def _decode_parts(self, parts: list[Part]) -> ReadingBlock:
        """Decode part by part and put the readings back into the order of the message."""
        blocks: list[ReadingBlock] = []
        places: list[NDArray[np.intp]] = []
        for layout, records, where in parts:
            block, kept = self._decode(layout, records)
            blocks.append(block)
            places.append(where if kept is None else where[kept])
        block = ReadingBlock.concatenate(blocks)
        return _select(block, np.argsort(np.concatenate(places))) if len(block) else block

    def _decode(self, layout: Layout, records: layouts.Records) -> tuple[ReadingBlock, NDArray[np.bool_] | None]:
        """The readings of ``records``, and which of them they are (None: all)."""
        tag = self._handles.tag.take(records["handle"], mode="clip")
        quality, overflowed = layouts.qualities(records, layout)
        self.overflowed += overflowed
        time_us, by_server, by_arrival = layouts.times(records, layout, self._arrival_us)
        block = ReadingBlock(tag, time_us, layouts.values(records, layout, self._handles), quality)
        kept = self._storable(block, layout)
        if overflowed:
            marked = layouts.overflow_marks(records)
            self._behind_dropped.append(_select(block, marked if kept is None else marked & kept))
        if by_server is not None and by_arrival is not None:
            self.server_timed += int(np.count_nonzero(by_server if kept is None else by_server & kept))
            self.arrival_timed += int(np.count_nonzero(by_arrival if kept is None else by_arrival & kept))
        return (block, None) if kept is None else (_select(block, kept), kept)

    def _storable(self, block: ReadingBlock, layout: Layout) -> NDArray[np.bool_] | None:
        """Which items can be stored (None: all); counts the others."""
        if layout.reason is None and int(block.tag.min()) >= 0:
            return None
        known = block.tag >= 0
        self._count(UNKNOWN_HANDLE, len(known) - int(np.count_nonzero(known)))
        if layout.reason is None:
            return known
        kept: NDArray[np.bool_] = known & (block.quality == Quality.BAD)
        self._count(layout.reason, int(np.count_nonzero(known)) - int(np.count_nonzero(kept)))
        return kept

    def _count(self, reason: str, count: int) -> None:
        if count:
            self.unstorable[reason] = self.unstorable.get(reason, 0) + count


def _select(block: ReadingBlock, which: NDArray[np.intp] | NDArray[np.bool_]) -> ReadingBlock:
    return ReadingBlock(block.tag[which], block.time_us[which], block.value[which], block.quality[which])
