"""Layouts of monitored items on the wire, and how records of one layout become columns.

Owns what an item's bytes mean: number, quality, time. Knows no message and no service; starts nothing.

    u32 handle | u8 mask | [u8 type, value] | [u32 status] | [i64 source time] | [u16 ps] | [i64 server time] | [u16 ps]

(OPC UA Part 4, 7.25.2 MonitoredItemNotification; Part 6, 5.2.2.17 DataValue.) The mask says which bracket is there, so
mask and type fix the layout, and records of one layout are a numpy structured array over the message itself.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from scada_trio.opcua import wire
from scada_trio.readings import Quality

if TYPE_CHECKING:
    from scada_trio.opcua.shapes import Shape

VALUE, STATUS, SOURCE_TIME, SERVER_TIME, SOURCE_PICOSECONDS, SERVER_PICOSECONDS = (1 << bit for bit in range(6))
ALL_FIELDS: Final = 0x3F

# A device's DateTime counts 100 ns from 1601 (Part 6, 5.2.2.5); 1970 is that many microseconds later.
EPOCH_US: Final = 11_644_473_600_000_000
# 9999-12-31T23:59:59, which stands for "no latest time" on the wire (same clause), in µs since 1601.
END_US: Final = 265_046_774_399_000_000
_VALID_SPAN_US: Final = END_US - 1  # from 1 on, since 0 stands for "none" too

# Status codes (Part 4, 7.39.1): severity in the top two bits; the overflow bit counts only with InfoType DataValue.
SEVERITY_SHIFT: Final = 30
BAD: Final = 0x8000_0000  # this and above
OVERFLOW_MASK: Final = 0xC80
OVERFLOW: Final = 0x480

# The types with a number, as numpy and as struct name them.
_NUMBERS: Final = {
    1: ("u1", "?"),  # Boolean, any byte but 0 is true
    2: ("i1", "b"),
    3: ("u1", "B"),
    4: ("<i2", "h"),
    5: ("<u2", "H"),
    6: ("<i4", "i"),
    7: ("<u4", "I"),
    8: ("<i8", "q"),
    9: ("<u8", "Q"),
    10: ("<f4", "f"),
    11: ("<f8", "d"),
}
BOOLEAN: Final = 1
DOUBLE: Final = 11

# Why a value has no number, by its built-in type; arrays of every type are "array".
NULL: Final = "null"
REASONS: Final = {
    0: NULL,
    12: "string",
    13: "datetime",
    14: "guid",
    15: "byte_string",
    16: "xml_element",
    17: "node_id",
    18: "expanded_node_id",
    19: "status_code",
    20: "qualified_name",
    21: "localized_text",
    22: "structure",
    23: "data_value",
    24: "variant",
    25: "diagnostic_info",
    **dict.fromkeys(range(26, 32), "reserved_type"),
}


Fields = tuple[int, float, int, int, int]
"""Handle, value, status, source and server time of one item as it is on the wire."""


class HandleMap:
    """The client handles of one subscription: which series each stands for, and the factor of its values.

    Handles are small integers from 1, given by us; the columns are as long as the largest. ``tag`` int32, number in the
    tenant's `TagTable` or -1 where the handle stands for nothing; ``scale`` float64. Used from the Trio thread only.

    ``shape`` is that of the subscription's latest mixed messages, ``latest`` what tells the last one's from others.
    """

    def __init__(self) -> None:
        # The last slot is never used: a handle beyond the end is clipped to it and so found unknown.
        self.tag: NDArray[np.int32] = np.full(16, -1, np.int32)
        self.scale: NDArray[np.float64] = np.ones(16, np.float64)
        self._scaled = 0
        self.shape: Shape | None = None
        self.latest = 0

    def __len__(self) -> int:
        return int(np.count_nonzero(self.tag >= 0))

    def knows(self, handle: int) -> bool:
        """Whether ``handle`` stands for a series."""
        return handle < len(self.tag) and int(self.tag[handle]) >= 0

    def set(self, handle: int, tag: int, scale: float = 1.0) -> None:
        """Let ``handle`` stand for series ``tag``, its values times ``scale``; replaces what it stood for."""
        if handle < 1 or tag < 0:
            raise ValueError(f"handle {handle} and tag {tag}: handles start at 1, tags at 0")
        if handle + 1 >= len(self.tag):
            grow = max(handle + 2, 2 * len(self.tag)) - len(self.tag)
            self.tag = np.append(self.tag, np.full(grow, -1, np.int32))
            self.scale = np.append(self.scale, np.ones(grow))
        self.tag[handle] = tag
        self._set_scale(handle, scale)

    def remove(self, handle: int) -> None:
        """Let ``handle`` stand for nothing; what still comes under it is counted as unknown."""
        if 1 <= handle < len(self.tag):
            self.tag[handle] = -1
            self._set_scale(handle, 1.0)

    @property
    def scaled(self) -> bool:
        """Whether any factor is not 1."""
        return self._scaled > 0

    def _set_scale(self, handle: int, scale: float) -> None:
        self._scaled += int(scale != 1.0) - int(self.scale[handle] != 1.0)
        self.scale[handle] = scale


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """One form of an item: ``size`` bytes, of which ``dtype`` names the fields.

    ``reason`` says why its value has no number, and is None where it has one; ``kind`` is the type byte, or what stands
    in its place. ``form`` and ``pick`` read a single item.
    """

    mask: int
    kind: int
    size: int
    dtype: np.dtype[np.void]
    boolean: bool
    reason: str | None
    form: struct.Struct
    pick: Callable[[tuple[Any, ...]], Fields]

    def fields(self, buffer: bytes | bytearray, offset: int) -> Fields:
        """The item at ``offset``: handle, value, status, source and server time; NaN or 0 for what it does not have."""
        return self.pick(self.form.unpack_from(buffer, offset) + _ABSENT)


NAN: Final = math.nan
_ABSENT: Final = (NAN, 0)  # behind the fields of every item, so that a missing one is picked from here
_ABSENT_VALUE, _ABSENT_NUMBER = -2, -1


def _layout(mask: int, kind: int, reason: str | None) -> Layout:
    forms = [("handle", "<u4", "I"), ("mask", "u1", "x")]
    if mask & VALUE:
        forms.append(("type", "u1", "x"))
        size = wire.FIXED_SIZES[kind]
        if kind in _NUMBERS:
            forms.append(("value", *_NUMBERS[kind]))
        elif size:
            forms.append(("skipped", f"V{size}", f"{size}x"))
    optional = (
        (STATUS, ("status", "<u4", "I")),
        (SOURCE_TIME, ("source", "<u8", "Q")),
        (SOURCE_PICOSECONDS, ("source_ps", "<u2", "2x")),
        (SERVER_TIME, ("server", "<u8", "Q")),
        (SERVER_PICOSECONDS, ("server_ps", "<u2", "2x")),
    )
    forms += [form for bit, form in optional if mask & bit]
    dtype = np.dtype([(name, of_numpy) for name, of_numpy, _ in forms])
    read = [name for name, _, of_struct in forms if not of_struct.endswith("x")]
    picks = (read.index(name) if name in read else _ABSENT_NUMBER for name in ("status", "source", "server"))
    pick = operator.itemgetter(0, read.index("value") if "value" in read else _ABSENT_VALUE, *picks)
    form = struct.Struct("<" + "".join(of_struct for _, _, of_struct in forms))
    return Layout(mask, kind, dtype.itemsize, dtype, kind == BOOLEAN, reason, form, pick)


@cache
def valueless(mask: int, reason: str) -> Layout:
    """The layout of an item whose value was cut out because of ``reason``."""
    return _layout(mask & ~VALUE, 0, reason)


def _fixed_layouts() -> dict[int, Layout]:
    layouts = {}
    for mask in range(ALL_FIELDS + 1):
        if mask & VALUE:
            for kind in wire.FIXED_SIZES:
                layouts[mask << 8 | kind] = _layout(mask, kind, REASONS.get(kind))
        else:
            layouts[mask << 8] = valueless(mask, NULL)
    return layouts


# Every item of fixed size, by mask << 8 | type byte (type 0 where the mask has no value).
FIXED_LAYOUTS: Final = _fixed_layouts()

# What any item can be rewritten to: a Double with all fields, where a time of 0 is none.
COMMON: Final = FIXED_LAYOUTS[(VALUE | STATUS | SOURCE_TIME | SERVER_TIME) << 8 | DOUBLE]
COMMON_FORM: Final = struct.Struct("<IBBdIQQ")


def common_record(fields: Fields) -> bytes:
    """The item as a record of layout `COMMON`."""
    handle, value, status, source, server = fields
    return COMMON_FORM.pack(handle, COMMON.mask, DOUBLE, value, status, source, server)


Records = np.ndarray[Any, np.dtype[np.void]]


def record_window(buffer: bytes | bytearray, layout: Layout) -> Records:
    """A record at every offset of ``buffer``, overlapping, copying nothing: index it with offsets or a slice.

    The buffer must hold one record at least.
    """
    return np.ndarray((len(buffer) - layout.size + 1,), layout.dtype, buffer, 0, (1,))


def values(records: Records, layout: Layout, handles: HandleMap) -> NDArray[np.float64]:
    """Scaled values, NaN where the layout has no number. Integers beyond 2^53 lose their last digits in float64."""
    if layout.reason is not None:
        return np.full(len(records), np.nan)
    column = records["value"]
    if layout.boolean:
        column = column != 0
    with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaNs are values like others
        if handles.scaled:
            return np.asarray(column * handles.scale.take(records["handle"], mode="clip"), np.float64)
        return column.astype(np.float64)


def qualities(records: Records, layout: Layout) -> tuple[NDArray[np.uint8], int]:
    """Quality of each record, Good where there is no status, and how many have the overflow bit."""
    if layout.mask & STATUS:
        status = records["status"]
        if status.any():
            quality = np.minimum(status >> SEVERITY_SHIFT, Quality.BAD).astype(np.uint8)
            return quality, int(np.count_nonzero(overflow_marks(records)))
    return np.zeros(len(records), np.uint8), 0


def overflow_marks(records: Records) -> NDArray[np.bool_]:
    """Which of ``records``, whose layout has a status, have the overflow bit."""
    marked: NDArray[np.bool_] = records["status"] & OVERFLOW_MASK == OVERFLOW
    return marked


def times(
    records: Records, layout: Layout, arrival_us: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
    """Time of each record in µs since 1970, and which were timed by the server's clock and which by ours (None: none).

    The source's time is taken, else the server's, else ``arrival_us``. A time that is 0, negative or beyond the year
    9999 is taken as absent: the first and the last stand for "none" on the wire, and nothing encodes the second.
    """
    source = _microseconds(records, layout, SOURCE_TIME, "source")
    if source is not None and int((source - 1).max()) < _VALID_SPAN_US:
        return source.view(np.int64) - EPOCH_US, None, None
    time_us = np.full(len(records), arrival_us, np.int64)
    by_source = _fill(time_us, source)
    by_server = _fill(time_us, _microseconds(records, layout, SERVER_TIME, "server"), ~by_source)
    return time_us, by_server, ~(by_source | by_server)


def _microseconds(records: Records, layout: Layout, bit: int, field: str) -> NDArray[np.uint64] | None:
    """Whole µs since 1601; unsigned, so that a negative time is a huge one and one comparison finds both."""
    return records[field] // 10 if layout.mask & bit else None


def _fill(
    time_us: NDArray[np.int64], since_1601: NDArray[np.uint64] | None, where: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Write the valid ones of ``since_1601`` into ``time_us``; returns which were written."""
    if since_1601 is None:
        return np.zeros(len(time_us), np.bool_)
    valid = since_1601 - 1 < _VALID_SPAN_US
    if where is not None:
        valid &= where
    time_us[valid] = since_1601[valid].view(np.int64) - EPOCH_US
    return valid
