"""Monitored items as bytes: many at once, in columns (OPC UA Part 4, 7.25.2; Part 6, 5.2.2.17).

Owns the layout of a MonitoredItemNotification as a simulated well sends it: value, source and server time, and the
status only where it is not Good, as most devices do. Pure; the subscriptions of `device` call it once a step.

Every item is laid out at its full width, then the bytes that it does not have are left out all in one go.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scada_trio.simulator.field import DataType

EPOCH_TICKS: Final = 116_444_736_000_000_000
"""1970 in the clock of OPC UA, which counts 100 ns since 1601."""
OVERFLOW: Final = np.uint32(0x480)
"""Status bits: the queue dropped values before this one (Part 4, 7.39.1: InfoType DataValue, Overflow)."""

_ITEM: Final = np.dtype(
    [
        ("handle", "<u4"),
        ("mask", "u1"),
        ("type", "u1"),
        ("value", "<u8"),
        ("status", "<u4"),
        ("source", "<i8"),
        ("server", "<i8"),
    ]
)
_VALUE: Final = slice(5, 14)  # with its type
_STATUS: Final = slice(14, 18)
_BAD: Final = np.uint32(0x80000000)
_TYPES: Final[dict[DataType, tuple[int, int]]] = {
    "Boolean": (1, 1),
    "Int32": (6, 4),
    "Float": (10, 4),
    "Double": (11, 8),
}
_EXTENSION: Final = struct.Struct("<BBHBi")


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Items of one subscription in their order: client handles, columns of the field, types, which bytes are sent."""

    handles: NDArray[np.uint32]
    columns: NDArray[np.int64]
    types: NDArray[np.uint8]
    kept: NDArray[np.bool_]  # a row an item, where all are Good

    def __len__(self) -> int:
        return len(self.handles)

    @classmethod
    def of(cls, items: Sequence[tuple[int, int]], data_types: Sequence[DataType]) -> Layout:
        """``items`` are pairs of client handle and column; ``data_types`` those of the field's columns."""
        handles, columns = np.array(items, np.int64).reshape(-1, 2).T
        types = np.array([_TYPES[data_types[column]] for column in columns], np.uint8).reshape(-1, 2)
        kept = np.ones((len(handles), _ITEM.itemsize), bool)
        kept[:, _STATUS] = False
        kept[:, 6:14] = np.arange(8) < types[:, 1:]
        return cls(handles.astype(np.uint32), columns, np.ascontiguousarray(types[:, 0]), kept)

    @staticmethod
    def concatenate(layouts: Sequence[Layout]) -> Layout:
        """All items of all of them in order; ``columns`` keep their meaning only for who knows whose they are."""
        if len(layouts) == 1:
            return layouts[0]
        return Layout(
            np.concatenate([layout.handles for layout in layouts]),
            np.concatenate([layout.columns for layout in layouts]),
            np.concatenate([layout.types for layout in layouts]),
            np.concatenate([layout.kept for layout in layouts]),
        )

    def encode(
        self, value: NDArray[np.float64], status: NDArray[np.uint32], time_us: int
    ) -> tuple[bytes, NDArray[np.int64]]:
        """The items' bytes one behind the other, and where each ends; ``time_us`` since 1970 is their time.

        ``value`` float64 and ``status`` uint32, one for each item. One that is Bad is sent without a value.
        """
        cells = np.empty(len(self), _ITEM)
        cells["handle"] = self.handles
        cells["type"] = self.types
        cells["value"] = self._bits(value)
        cells["status"] = status
        cells["source"] = cells["server"] = EPOCH_TICKS + time_us * 10
        cells["mask"] = 0x0D
        kept = self.kept
        told = np.flatnonzero(status)
        if len(told):
            kept = kept.copy()
            kept[told, _STATUS] = True
            cells["mask"][told] = 0x0F
            void = told[status[told] >= _BAD]
            kept[void, _VALUE] = False
            cells["mask"][void] = 0x0E
        data = cells.view(np.uint8).reshape(len(self), _ITEM.itemsize)[kept].tobytes()
        return data, kept.sum(axis=1).cumsum()

    def _bits(self, value: NDArray[np.float64]) -> NDArray[np.uint64]:
        """Each value as its type has it, in the lower bytes of eight."""
        bits = value.view(np.uint64).copy()
        for number, form in ((1, np.uint8), (6, np.int32), (10, np.float32)):
            which = self.types == number
            if which.any():
                narrow = value[which].astype(form)
                bits[which] = narrow.view(f"u{narrow.itemsize}")
        return bits


def data_change(parts: Sequence[bytes], items: int) -> bytes:
    """A DataChangeNotification of ``items`` items, in its extension object."""
    length = 8 + sum(map(len, parts))
    head = _EXTENSION.pack(1, 0, 811, 1, length) + items.to_bytes(4, "little")
    return b"".join((head, *parts, b"\xff\xff\xff\xff"))
