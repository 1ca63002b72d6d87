"""Readings as columns: what a reading is, from the decoder to COPY.

Owns the shapes that every stage passes on. Knows no device and no database; starts nothing.

    decoder ── ReadingBlock in a Delivery ──► aggregator ── Batch ──► writer

There is no object per reading: a block is four numpy columns of the same length, made once and never changed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from scada_trio.memory import Mark
from scada_trio.sampling import UNSET, Sampling


class Quality(enum.IntEnum):
    """Severity of an OPC UA status code, its top two bits (OPC UA Part 4, 7.39.1); reserved 3 counts as Bad."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2

    @property
    def label(self) -> str:
        """The text that the database and the API use: ``Good``, ``Uncertain`` or ``Bad``."""
        return QUALITY_LABELS[self]


QUALITY_LABELS: Final = ("Good", "Uncertain", "Bad")


@dataclass(frozen=True, slots=True)
class Tag:
    """One measured point of a well, as ``tag_mappings`` has it; None where a row or request does not say.

    ``deadband`` is in the reading's own unit, ``deadband_percent`` of the node's EURange (OPC UA Part 8, 5.3.2.3).
    ``problem`` tells why the row cannot be used; such a tag is shown as refused and not monitored until it changes.
    """

    tag_id: UUID
    well_id: UUID
    node_id: str
    data_type: str = ""
    name: str = ""
    unit: str | None = None
    scaling_factor: float | None = None
    deadband: float | None = None
    deadband_percent: float | None = None
    sampling: Sampling = UNSET
    problem: str | None = None

    @property
    def factor(self) -> float:
        """What the device's numbers are multiplied by."""
        return 1.0 if self.scaling_factor is None else self.scaling_factor


class TagTable:
    """One tenant's series, numbered from 0 in order of first use.

    A series is a (well, node id) pair, the key under which readings are stored. A number is never given
    again, so a block that waits in a buffer stays true while tags come and go. Used from one thread only,
    but for ``len`` and ``key``, which any thread may call.
    """

    def __init__(self) -> None:
        self._keys: list[tuple[UUID, str]] = []
        self._index: dict[tuple[UUID, str], int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def index_of(self, well_id: UUID, node_id: str) -> int:
        """The number of a series; it gets the next one if it has none."""
        key = (well_id, node_id)
        index = self._index.get(key)
        if index is None:
            index = self._index[key] = len(self._keys)
            self._keys.append(key)
        return index

    def key(self, index: int) -> tuple[UUID, str]:
        """Well id and node id of series ``index``."""
        return self._keys[index]


@dataclass(frozen=True, slots=True, eq=False)
class ReadingBlock:
    """Readings that were decoded together; four columns of equal length, C-contiguous, native byte order.

    ``tag`` int32, number in the tenant's `TagTable`; ``time_us`` int64, µs since 1970-01-01 UTC;
    ``value`` float64, scaled, NaN where there is none; ``quality`` uint8, a `Quality`.
    """

    tag: NDArray[np.int32]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.tag)

    def select(self, which: NDArray[np.bool_]) -> ReadingBlock:
        """The readings where ``which``, one for each reading, is true; copied."""
        return ReadingBlock(self.tag[which], self.time_us[which], self.value[which], self.quality[which])

    @staticmethod
    def concatenate(blocks: Iterable[ReadingBlock]) -> ReadingBlock:
        """All readings of ``blocks`` in order, copied; a single block is returned as it is."""
        parts = list(blocks)
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return EMPTY_BLOCK
        return ReadingBlock(
            np.concatenate([part.tag for part in parts]),
            np.concatenate([part.time_us for part in parts]),
            np.concatenate([part.value for part in parts]),
            np.concatenate([part.quality for part in parts]),
        )


EMPTY_BLOCK: Final = ReadingBlock(
    np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float64), np.empty(0, np.uint8)
)


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A block on its way to the aggregator, what is to be remembered with it, and what to call once it is accepted.

    ``mark`` is written in the transaction that accepts the block, None where no later process goes on from there.

    ``accepted`` is called exactly once, in the Trio thread, and must not block or raise: the connection
    acknowledges the notification to its device then, and not before.
    """

    block: ReadingBlock
    accepted: Callable[[], None]
    mark: Mark | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The readings of one COPY.

    ``sequence`` is that of its last block in the journal, rising; the database remembers the last one that it committed
    in the COPY's own transaction, so a batch whose commit is in doubt is never written twice.
    """

    sequence: int
    readings: ReadingBlock

    def __len__(self) -> int:
        return len(self.readings)


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a batch's readings; ``already`` where an earlier attempt had committed it.

    ``lost`` were refused when the quarantine was full. ``refused_tag`` int32, the series of each reading that was
    quarantined or lost (empty where ``already``), and ``reason`` why the first of them was refused.
    """

    inserted: int
    duplicates: int = 0
    replaced: int = 0
    quarantined: int = 0
    already: bool = False
    lost: int = 0
    refused_tag: NDArray[np.int32] = field(default_factory=lambda: EMPTY_BLOCK.tag, compare=False, repr=False)
    reason: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class ReadingRows:
    """Readings of one well as they are stored, columns of equal length in the order asked for.

    ``series`` int32, number in ``names``, the node ids; ``time_us`` int64 µs since 1970 UTC; ``value`` float64;
    ``quality`` uint8, a `Quality`.
    """

    well_id: UUID
    names: Sequence[str]
    series: NDArray[np.int32]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.series)

    @property
    def node_ids(self) -> list[str]:
        """The node id of each reading."""
        names = self.names
        return [names[index] for index in self.series.tolist()]

    @property
    def qualities(self) -> list[str]:
        """The label of each reading's quality."""
        return [QUALITY_LABELS[quality] for quality in self.quality.tolist()]

    def slice(self, start: int, stop: int) -> ReadingRows:
        """The readings from ``start`` up to ``stop``; views of the same columns."""
        part = slice(start, stop)
        columns = (self.series[part], self.time_us[part], self.value[part], self.quality[part])
        return ReadingRows(self.well_id, self.names, *columns)

    @staticmethod
    def of(well_id: UUID, rows: Iterable[tuple[int, str, float, str]]) -> ReadingRows:
        """From (time in µs, node id, value, label of quality), in that order."""
        listed = list(rows)
        names = sorted({row[1] for row in listed})
        index = {name: number for number, name in enumerate(names)}
        return ReadingRows(
            well_id,
            names,
            np.array([index[row[1]] for row in listed], np.int32),
            np.array([row[0] for row in listed], np.int64),
            np.array([row[2] for row in listed], np.float64),
            np.array([QUALITY_LABELS.index(row[3]) for row in listed], np.uint8),
        )
