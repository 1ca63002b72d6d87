"""Readings as rows of COPY BINARY, built by numpy with no object per reading.

Owns the byte layout (PostgreSQL manual, COPY, "Binary Format"). Knows no connection; the tenant's writer calls it in
its worker thread.

    row  int16 5 │ int32 8, int64 timestamp │ int32 8, float64 value │ int32 16, well │ int32, node id │ int32, quality
         0         2        6                 14        18             26 ── the same for every reading of a series ──►

The columns that change come first, at fixed offsets; the rest is a template for each (series, quality), kept from
batch to batch. Rows of one width are one matrix: gather the templates, lay timestamps and values over them.

Rows come in the order of the index as far as it costs little: well by well, and within a well by width. PostgreSQL
takes a sixth less time for them than for wells as they come.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scada_trio.readings import QUALITY_LABELS, ReadingBlock, TagTable

COPY_COLUMNS: Final = "timestamp, value, well_id, tag_node_id, quality"

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, no flags, no header extension
_TRAILER: Final = b"\xff\xff"
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01 UTC
_PREFIX: Final = struct.pack("!hiqid", 5, 8, 0, 8, 0.0)
_TIME: Final = slice(6, 14)
_VALUE: Final = slice(18, 26)
_QUALITIES: Final = len(QUALITY_LABELS)
_LEAST_RUN: Final = 32  # rows of one width in a row, on average; of shorter ones each would cost more than moving all
_MOVED_AT_ONCE: Final = 1024  # rows; what is needed to move them stays in the processor's cache


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRows:
    """``data``, a whole COPY BINARY stream of ``rows`` rows, no two of the same series and time.

    ``duplicates`` readings were repeated in the batch with the same value and quality and ``replaced`` with others;
    the last one is in ``data``.
    """

    data: memoryview
    rows: int
    duplicates: int
    replaced: int


class RowTemplates:
    """The constant part of the rows of each (series, quality) that has occurred; grows with the `TagTable`.

    Takes about 100 bytes a template. Used by one thread at a time.
    """

    def __init__(self, tags: TagTable) -> None:
        self._tags = tags
        self._group_of = np.full(64, -1, np.int16)  # template → group of equal width; -1: not made yet
        self._slot_of = np.zeros(64, np.int32)  # template → its row in the group's matrix
        self._groups: list[_Group] = []
        self._group_by_width: dict[int, int] = {}
        self._ranks = np.zeros(0, np.int64)
        self._ranked = 0

    def ranks(self) -> NDArray[np.int64]:
        """Of each series its place among all, by well, width and node id; those that are new come last.

        Sorted anew where a tenth more are there: a place that is not quite right costs time, and nothing else.
        """
        count = len(self._tags)
        if count > self._ranked * 1.1:
            keys = [self._tags.key(series) for series in range(count)]
            places = [(well_id.int, len(node_id), node_id) for well_id, node_id in keys]
            order = sorted(range(count), key=places.__getitem__)
            self._ranks = np.empty(count, np.int64)
            self._ranks[order] = np.arange(count)
            self._ranked = count
        elif count > len(self._ranks):
            self._ranks = np.concatenate([self._ranks, np.arange(len(self._ranks), count)])
        return self._ranks

    def find(self, templates: NDArray[np.int64]) -> tuple[NDArray[np.int16], NDArray[np.int32]]:
        """Group and slot of each template number, ``series * 3 + quality``; makes those that are new."""
        self._reserve(int(templates.max()) + 1)
        groups = self._group_of[templates]
        if groups.min() < 0:
            for template in np.unique(templates[groups < 0]).tolist():
                self._make(template)
            groups = self._group_of[templates]
        return groups, self._slot_of[templates]

    def rows(self, group: int) -> NDArray[np.uint8]:
        """The templates of a group, one a row of its width."""
        return self._groups[group].matrix

    def widths(self) -> NDArray[np.int64]:
        """Bytes of a row of each group."""
        return np.array([group.matrix.shape[1] for group in self._groups])

    def _reserve(self, size: int) -> None:
        have = len(self._group_of)
        if size > have:
            more = max(size, 2 * have) - have
            self._group_of = np.concatenate([self._group_of, np.full(more, -1, np.int16)])
            self._slot_of = np.concatenate([self._slot_of, np.zeros(more, np.int32)])

    def _make(self, template: int) -> None:
        series, quality = divmod(template, _QUALITIES)
        well_id, node_id = self._tags.key(series)
        # What is no text for PostgreSQL is its to refuse: the row at fault, not the process.
        node, label = node_id.encode("utf-8", "surrogatepass"), QUALITY_LABELS[quality].encode()
        row = b"".join(
            (_PREFIX, struct.pack("!i", 16), well_id.bytes, _field(node), _field(label)),
        )
        group = self._group_by_width.setdefault(len(row), len(self._groups))
        if group == len(self._groups):
            self._groups.append(_Group(len(row)))
        self._slot_of[template] = self._groups[group].add(row)
        self._group_of[template] = group


class _Group:
    """Templates of one width in a matrix that doubles when it is full."""

    def __init__(self, width: int) -> None:
        self.matrix = np.empty((4, width), np.uint8)
        self._used = 0

    def add(self, row: bytes) -> int:
        if self._used == len(self.matrix):
            self.matrix = np.concatenate([self.matrix, np.empty_like(self.matrix)])
        self.matrix[self._used] = np.frombuffer(row, np.uint8)
        self._used += 1
        return self._used - 1


def encode_rows(readings: ReadingBlock, templates: RowTemplates) -> EncodedRows:
    """The rows of ``readings`` as one COPY BINARY stream, header and trailer included, of `COPY_COLUMNS`.

    Sorted by well, width, node id and time. Of readings of one series with the same time the last one stays. NaN and
    infinities are kept; a time that PostgreSQL has no timestamp for is the server's to refuse (SQLSTATE 22008).
    """
    if len(readings) == 0:
        return EncodedRows(memoryview(_HEADER + _TRAILER), 0, 0, 0)
    order = _order(templates.ranks()[readings.tag], readings.time_us)
    tag, time_us = readings.tag[order], readings.time_us[order]
    value, quality = readings.value[order], np.minimum(readings.quality[order], _QUALITIES - 1)
    last = np.append((tag[1:] != tag[:-1]) | (time_us[1:] != time_us[:-1]), True)
    dropped = len(last) - int(np.count_nonzero(last))
    replaced = 0
    if dropped:
        superseded = np.flatnonzero(~last)
        replaced = int(np.count_nonzero(~_same(value, quality, superseded, superseded + 1)))
        tag, time_us, value, quality = tag[last], time_us[last], value[last], quality[last]
    groups, slots = templates.find(tag.astype(np.int64) * _QUALITIES + quality)
    data = _lay_rows(groups, slots, time_us - _POSTGRES_EPOCH_US, value, templates)
    return EncodedRows(data, len(tag), dropped - replaced, replaced)


def _order(rank: NDArray[np.int64], time_us: NDArray[np.int64]) -> NDArray[np.intp]:
    """A stable order by series, then time: one sort of a joint key where it fits 63 bits, as it nearly always does."""
    first = int(time_us.min())
    span = int(time_us.max()) - first + 1
    if (int(rank.max()) + 1) * span < 2**63:
        return np.argsort(rank * np.int64(span) + (time_us - first), kind="stable")
    return np.lexsort((time_us, rank))


def _same(
    value: NDArray[np.float64], quality: NDArray[np.uint8], one: NDArray[np.intp], other: NDArray[np.intp]
) -> NDArray[np.bool_]:
    a, b = value[one], value[other]
    same: NDArray[np.bool_] = ((a == b) | (np.isnan(a) & np.isnan(b))) & (quality[one] == quality[other])
    return same


def _lay_rows(
    groups: NDArray[np.int16],
    slots: NDArray[np.int32],
    time: NDArray[np.int64],
    value: NDArray[np.float64],
    templates: RowTemplates,
) -> memoryview:
    """Header, rows in their order, trailer; ``time`` in µs since 2000."""
    widths = templates.widths()[groups]
    starts = _runs(groups)
    order = None
    if len(starts) * _LEAST_RUN > len(groups) and len(starts) > 1:
        order = np.argsort(groups, kind="stable")
        groups, slots, time, value = groups[order], slots[order], time[order], value[order]
        starts = _runs(groups)
    # Big-endian last of all: numpy turns columns native when it joins or sorts them.
    time_bytes = time.astype(">i8").view(np.uint8).reshape(-1, 8)
    value_bytes = value.astype(">f8").view(np.uint8).reshape(-1, 8)
    data = np.empty(len(_HEADER) + int(widths.sum()) + len(_TRAILER), np.uint8)
    data[: len(_HEADER)] = np.frombuffer(_HEADER, np.uint8)
    data[-len(_TRAILER) :] = np.frombuffer(_TRAILER, np.uint8)
    body = data[len(_HEADER) : -len(_TRAILER)]
    laid = body if order is None else np.empty_like(body)
    at = 0
    for first, last in pairwise([*starts.tolist(), len(groups)]):
        matrix = templates.rows(int(groups[first]))
        end = at + (last - first) * matrix.shape[1]
        rows = laid[at:end].reshape(last - first, -1)
        np.take(matrix, slots[first:last], axis=0, out=rows, mode="clip")
        rows[:, _TIME] = time_bytes[first:last]
        rows[:, _VALUE] = value_bytes[first:last]
        at = end
    if order is not None:
        _move_rows(laid, order, widths, body)
    return memoryview(data)  # type: ignore[arg-type]  # a buffer from 3.12 on, as far as mypy knows


def _runs(groups: NDArray[np.int16]) -> NDArray[np.intp]:
    """Where each run of equal groups begins."""
    return np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))


def _move_rows(
    laid: NDArray[np.uint8], order: NDArray[np.intp], widths: NDArray[np.int64], into: NDArray[np.uint8]
) -> None:
    """Put all rows, of ``widths`` bytes each, ``into`` their order; ``laid`` has row ``order[i]`` in place ``i``."""
    ends = np.cumsum(widths)
    starts = ends - widths
    sources = np.empty_like(starts)
    laid_widths = widths[order]
    sources[order] = np.cumsum(laid_widths) - laid_widths
    for first in range(0, len(widths), _MOVED_AT_ONCE):
        part = slice(first, first + _MOVED_AT_ONCE)
        begin, end = int(starts[first]), int(ends[part][-1])
        index = np.arange(begin, end)
        index += np.repeat(sources[part] - starts[part], widths[part])
        np.take(laid, index, out=into[begin:end], mode="clip")


def _field(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content
