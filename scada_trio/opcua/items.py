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

# How far a run is followed at once inside a mixed message: bounds what a failed look costs.
_LOOK_AHEAD: Final = 256


@dataclass(slots=True, eq=False)
class Group:
    """Items of one layout in a mixed message: their records start at ``offsets`` of ``buffer``.

    ``places`` are the items' places in the message, ascending.
    """

    layout: Layout
    buffer: bytes | bytearray
    offsets: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


def uniform_layout(body: bytes, offset: int, end: int, count: int) -> Layout | None:
    """The layout that all ``count`` items (1 at least) from ``offset`` share; None if they do not or pass ``end``."""
    layout = _layout_at(body, offset)
    if layout is None or offset + count * layout.size > end or _run(body, offset, layout, count) < count:
        return None
    return layout


def group_items(body: bytes, offset: int, end: int, count: int) -> list[Group]:
    """All ``count`` items between ``offset`` and ``end``, one group for each layout.

    Goes from item to item, and over runs of the same layout at once. An item whose value has no fixed size is copied
    without it, into the group for that reason. Raises `DeviceProtocolError` where an item passes ``end``.
    """
    groups: dict[Layout, Group] = {}
    cut: dict[Layout, Group] = {}
    previous: Layout | None = None
    place = 0
    while place < count:
        layout = _layout_at(body, offset)
        if layout is None:
            offset = _cut_value(body, offset, end, place, cut)
            place += 1
        else:
            room = min(count - place, (end - offset) // layout.size)
            if room < 1:
                raise wire.truncated()
            group = groups.get(layout)
            if group is None:
                group = groups[layout] = Group(layout, body)
            length = _run(body, offset, layout, min(room, _LOOK_AHEAD)) if layout is previous else 1
            group.offsets.extend(range(offset, offset + length * layout.size, layout.size))
            group.places.extend(range(place, place + length))
            offset += length * layout.size
            place += length
        previous = layout
    return [*groups.values(), *cut.values()]


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


def _cut_value(body: bytes, offset: int, end: int, place: int, cut: dict[Layout, Group]) -> int:
    """Copy the item at ``offset`` into its group without its value, which is no number; returns the offset behind."""
    mask = body[offset + 4]
    if mask > layouts.ALL_FIELDS:
        raise DeviceProtocolError(f"the device's message has a value with unknown fields, mask 0x{mask:02X}")
    kind = body[offset + 5]
    timing = wire.skip_variant(body, offset + 5)
    behind = timing + wire.timing_size(mask)
    if behind > end:
        raise wire.truncated()
    shaped = kind & (wire.ARRAY | wire.DIMENSIONS)
    layout = layouts.valueless(mask, "array" if shaped else layouts.REASONS[kind & wire.TYPE])
    group = cut.get(layout)
    if group is None:
        group = cut[layout] = Group(layout, bytearray())
    group.offsets.append(len(group.buffer))
    group.places.append(place)
    group.buffer += body[offset : offset + 4] + bytes((layout.mask,)) + body[timing:behind]
    return behind
