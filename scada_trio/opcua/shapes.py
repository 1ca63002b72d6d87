"""The same mixed message again: a device's messages have their items in the same order as a rule, so that where each
field is need be found once.

Owns what is remembered of such a message. Knows neither what a field means nor whose it is; starts nothing.

    items of many layouts ─► do mask and type bytes say the same as last time? ─► yes: all fields are where they were
                                                                               └► no: `items` walks from one to the next
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scada_trio.opcua import layouts
from scada_trio.opcua.items import COLUMNS_FROM
from scada_trio.opcua.layouts import Layout, Records

Part = tuple[Layout, Records, NDArray[np.intp]]
"""Records of one layout, and their places in the message."""

MAX_RARE: Final = 1_000
"""Items of a shape that are rewritten, at most: each takes half a kilobyte of it and 0.1 ms to make."""

_CONSTANTS: Final = (layouts.NAN, 0, layouts.COMMON.mask, layouts.DOUBLE)  # behind the fields that are read
_MASK_AT, _TYPE_AT = -2, -1


class Shape:
    """Items whose layouts are ``order``: records of a frequent one are gathered, the others rewritten in one go.

    Every layout has a number. ``size`` is the items' bytes.
    """

    def __init__(self, order: Sequence[Layout]) -> None:
        starts = np.cumsum([0, *(layout.size for layout in order)])
        self.size = int(starts[-1])
        self._count = len(order)
        places: dict[Layout, list[int]] = {}
        for place, layout in enumerate(order):
            places.setdefault(layout, []).append(place)
        frequent = {layout: np.array(where) for layout, where in places.items() if len(where) >= COLUMNS_FROM}
        self._groups = [(layout, starts[where], where) for layout, where in frequent.items()]
        self._kinds_at = np.concatenate([starts[:-1] + 4, starts[:-1] + 5])
        self._kinds = bytes([layout.mask for layout in order] + [layout.kind for layout in order])
        self._rest = np.array([place for place, layout in enumerate(order) if layout not in frequent], np.intp)
        # unpacks the fields of all others, puts them into the order of layout COMMON, packs them again
        self._form = struct.Struct(
            "<" + "".join(f"{each.size}x" if each in frequent else each.form.format[1:] for each in order)
        )
        picks: list[int] = []
        read = 0
        for place in self._rest.tolist():
            layout = order[place]
            fields = layout.form.unpack(bytes(layout.size))
            handle, *others = layout.pick((*range(read, read + len(fields)), *_ABSENT_AT))
            picks += (handle, _MASK_AT, _TYPE_AT, *others)
            read += len(fields)
        self._pick = operator.itemgetter(*picks) if picks else None
        self._common = struct.Struct("<" + layouts.COMMON_FORM.format[1:] * len(self._rest))

    def fits(self, body: bytes, offset: int, end: int, count: int) -> bool:
        """Whether the ``count`` items from ``offset`` are of this shape and end before ``end``; compares every one."""
        if count != self._count or offset + self.size > end:
            return False
        return np.frombuffer(body, np.uint8).take(self._kinds_at + offset).tobytes() == self._kinds

    def parts(self, body: bytes, offset: int) -> list[Part]:
        """All items, which `fits` has found at ``offset``."""
        parts = [
            (layout, layouts.record_window(body, layout)[starts + offset], where)
            for layout, starts, where in self._groups
        ]
        if self._pick is not None:
            fields = self._form.unpack_from(body, offset) + _CONSTANTS
            rewritten = self._common.pack(*self._pick(fields))
            parts.append((layouts.COMMON, np.frombuffer(rewritten, layouts.COMMON.dtype), self._rest))
        return parts


_ABSENT_AT: Final = (-4, -3)  # of NaN and 0 in _CONSTANTS, as `Layout.pick` takes them


@lru_cache(maxsize=64)
def shape_of(order: tuple[Layout, ...]) -> Shape:
    """Connections whose devices are alike share it."""
    return Shape(order)
