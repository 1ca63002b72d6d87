"""The last reading of each series of a connection, by which a value that a device sends again is recognised.

Owns four columns a connection. Knows no session: it outlives them, which is its purpose. Starts nothing.

A new monitored item reports the present value first (OPC UA Part 4, 5.12.1.6), also where the item before it had
reported the same one: that is no new reading.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from scada_trio.readings import ReadingBlock

Tags = NDArray[np.int32]


class LastReadings:
    """Rows by tag number, sorted; `add` comes before a tag's first reading. Used from the Trio thread only."""

    def __init__(self) -> None:
        self._tag: Tags = np.empty(0, np.int32)
        self._known: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._time_us: NDArray[np.int64] = np.empty(0, np.int64)
        self._value: NDArray[np.float64] = np.empty(0, np.float64)
        self._quality: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._first: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._awaited = 0

    def add(self, tags: Iterable[int], *, created: bool) -> None:
        """Know ``tags``; where their items were ``created`` just now, the next reading of each may be a repetition."""
        wanted = np.array(sorted(set(tags)), np.int32)
        new = np.setdiff1d(wanted, self._tag, assume_unique=True)
        if len(new):
            where = np.searchsorted(self._tag, new)
            self._tag = np.insert(self._tag, where, new)
            self._known = np.insert(self._known, where, False)
            self._time_us = np.insert(self._time_us, where, 0)
            self._value = np.insert(self._value, where, 0.0)
            self._quality = np.insert(self._quality, where, 0)
            self._first = np.insert(self._first, where, False)
        if created and len(wanted):
            row = np.searchsorted(self._tag, wanted)
            self._first[row] = self._known[row]
            self._awaited = int(np.count_nonzero(self._first))

    def earliest(self, block: ReadingBlock, heard_us: int) -> int:
        """The time in µs before which the series of ``block``, one reading at least, are known to be whole.

        ``heard_us``: when the device was last heard, by an earlier process maybe; 0 if it was not.
        """
        row = self._rows(block.tag)
        unknown_us = np.minimum(block.time_us, heard_us) if heard_us else block.time_us
        return int(np.where(self._known[row], self._time_us[row], unknown_us).min())

    def screen(self, block: ReadingBlock) -> ReadingBlock:
        """``block`` without the readings that repeat the last one; remembers what is left."""
        row = self._rows(block.tag)
        if self._awaited:
            block, row = self._drop_repeated(block, row)
        # Where a series is in the block twice numpy keeps the last assignment.
        self._known[row] = True
        self._time_us[row] = block.time_us
        self._value[row] = block.value
        self._quality[row] = block.quality
        return block

    def _drop_repeated(self, block: ReadingBlock, row: NDArray[np.intp]) -> tuple[ReadingBlock, NDArray[np.intp]]:
        """Look at the first reading of each series that has one to come."""
        places = np.unique(row, return_index=True)[1]
        places = places[self._first[row[places]]]
        rows = row[places]
        self._first[rows] = False
        self._awaited -= len(rows)
        value, last = block.value[places], self._value[rows]
        same = (
            (block.time_us[places] == self._time_us[rows])
            & ((value == last) | (np.isnan(value) & np.isnan(last)))
            & (block.quality[places] == self._quality[rows])
        )
        if not same.any():
            return block, row
        kept = np.ones(len(row), np.bool_)
        kept[places[same]] = False
        return ReadingBlock(block.tag[kept], block.time_us[kept], block.value[kept], block.quality[kept]), row[kept]

    def _rows(self, tag: Tags) -> NDArray[np.intp]:
        return np.searchsorted(self._tag, tag)
