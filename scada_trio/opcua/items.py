"""Where the items of a data change are: which bytes form records of one layout.

Owns the walk over a DataChangeNotification's items. Knows their sizes, not their meaning; starts nothing.

That all items of a run share the layout is checked, not assumed: the mask and type bytes of every one are compared, as
two strided slices of the message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from scada_trio.errors import DeviceProtocolError
from scada_trio.opcua import layouts, wire
from scada_trio.opcua.layouts import Layout
from scada_trio.opcua.wire import Steps

# How far a run is followed at once inside a mixed message: bounds what a failed look costs.
_LOOK_AHEAD: Final = 256

# From how many items on a layout is decoded by column: numpy takes about 25 µs a layout, one by one takes 1 µs an item.
COLUMNS_FROM: Final = 24

# The most items whose order is noted: as many as a notification has at most if the device does what it is asked.
_MAX_NOTED: Final = 20_000


@dataclass(slots=True, eq=False)
class Group:
    """Many items of one layout: their records start at ``offsets``, their ``places`` in the message ascend."""

    layout: Layout
    offsets: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class MixedItems:
    """All items of a mixed message.

    ``groups`` hold the layouts that many items have. The others are rewritten: ``records`` has them one behind the
    other in `layouts.COMMON`, ``places`` says where in the message they were. Of those the ones that are neither a
    number nor Bad are left out: ``unstorable`` has handle and reason of each, ``overflowed`` how many have the
    overflow bit. ``order`` is the layout of each item, None where one is of no fixed size or where there are more than
    anybody asked for.
    """

    groups: list[Group]
    records: bytearray = field(default_factory=bytearray)
    places: list[int] = field(default_factory=list)
    unstorable: list[tuple[int, str]] = field(default_factory=list)
    overflowed: int = 0
    order: list[Layout] | None = field(default_factory=list)

    def add_group(self, group: Group, body: bytes) -> None:
        """Keep a group if it is large enough, else rewrite its items."""
        if len(group.places) >= COLUMNS_FROM:
            self.groups.append(group)
        else:
            for place, offset in zip(group.places, group.offsets, strict=True):
                self.add(place, group.layout, body, offset)

    def add(self, place: int, layout: Layout, buffer: bytes, offset: int) -> None:
        """Rewrite one item, or leave it out."""
        fields = layout.fields(buffer, offset)
        status = fields[2]
        if layout.reason is None or status >= layouts.BAD:
            self.records += layouts.common_record(fields)
            self.places.append(place)
        else:
            self.unstorable.append((fields[0], layout.reason))
            self.overflowed += status & layouts.OVERFLOW_MASK == layouts.OVERFLOW


def uniform_layout(body: bytes, offset: int, end: int, count: int) -> Layout | None:
    """The layout that all ``count`` items (1 at least) from ``offset`` share; None if they do not or pass ``end``."""
    layout = _layout_at(body, offset)
    if layout is None or offset + count * layout.size > end or _run(body, offset, layout, count) < count:
        return None
    return layout


def group_items(body: bytes, offset: int, end: int, count: int, steps: Steps) -> MixedItems:
    """All ``count`` items between ``offset`` and ``end``. Goes from one to the next, and over runs of a layout at once.

    Raises `DeviceProtocolError` where an item passes ``end``, and where there are too many runs.
    """
    groups: dict[Layout, Group] = {}
    mixed = MixedItems([], order=[] if count <= _MAX_NOTED else None)
    previous: Layout | None = None
    place = 0
    while place < count:
        steps.take(1)
        layout = _layout_at(body, offset)
        if layout is None:
            offset = _cut_value(body, offset, end, place, mixed, steps)
            place += 1
            mixed.order = None
        else:
            size = layout.size
            if offset + size > end:
                raise wire.truncated()
            group = groups.get(layout)
            if group is None:
                group = groups[layout] = Group(layout)
            if layout is previous:
                length = _run(body, offset, layout, min(count - place, (end - offset) // size, _LOOK_AHEAD))
                group.offsets.extend(range(offset, offset + length * size, size))
                group.places.extend(range(place, place + length))
            else:
                length = 1
                group.offsets.append(offset)
                group.places.append(place)
            if mixed.order is not None:
                mixed.order += [layout] * length
            offset += length * size
            place += length
        previous = layout
    for group in groups.values():
        mixed.add_group(group, body)
    return mixed


def _layout_at(body: bytes, offset: int) -> Layout | None:
    """The layout of the item at ``offset``, None where its value has no fixed size."""
    mask = body[offset + 4]
    return layouts.FIXED_LAYOUTS.get(mask << 8 | body[offset + 5] if mask & layouts.VALUE else mask << 8)


def _run(body: bytes, offset: int, layout: Layout, limit: int) -> int:
    """How many of the next ``limit`` items, the first of which has ``layout``, have it one after the other."""
    behind = offset + limit * layout.size
    length = _leading(body[offset + 4 : behind : layout.size], limit)
    if layout.mask & layouts.VALUE:
        length = min(length, _leading(body[offset + 5 : behind : layout.size], limit))
    return length


def _leading(column: bytes, limit: int) -> int:
    """How many of the ``limit`` bytes of ``column`` are like the first, before one that is not."""
    first = column[:1]
    return limit if column == first * limit else limit - len(column.lstrip(first))


def _cut_value(body: bytes, offset: int, end: int, place: int, mixed: MixedItems, steps: Steps) -> int:
    """Add the item at ``offset`` without its value, which is of no fixed size; returns the offset behind it."""
    mask = body[offset + 4]
    if mask > layouts.ALL_FIELDS:
        raise DeviceProtocolError(f"the device's message has a value with unknown fields, mask 0x{mask:02X}")
    kind = body[offset + 5]
    timing = wire.skip_variant(body, offset + 5, steps)
    behind = timing + wire.timing_size(mask)
    if behind > end:
        raise wire.truncated()
    shaped = kind & (wire.ARRAY | wire.DIMENSIONS)
    layout = layouts.valueless(mask, "array" if shaped else layouts.REASONS[kind & wire.TYPE])
    mixed.add(place, layout, body[offset : offset + 5] + body[timing:behind], 0)
    return behind
