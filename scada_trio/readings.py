"""Readings as columns: what a reading is, from the decoder to COPY.

Owns the shapes that every stage passes on. Knows no device and no database; starts nothing.

    decoder ── ReadingBlock in a Delivery ──► aggregator ── Batch ──► writer

There is no object per reading: a block is four numpy columns of the same length, made once and never changed.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray


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
    """One measured point of a well, as ``tag_mappings`` has it."""

    tag_id: UUID
    well_id: UUID
    node_id: str
    data_type: str = ""
    name: str = ""
    unit: str | None = None
    scaling_factor: float = 1.0
    deadband: float | None = None


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
    """A block on its way to the aggregator, and what to call once it is accepted.

    ``accepted`` is called exactly once, in the Trio thread, and must not block or raise: the connection
    acknowledges the notification to its device then, and not before.
    """

    block: ReadingBlock
    accepted: Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The readings of one COPY.

    ``sequence`` numbers the tenant's batches from 1 without gaps within one buffer; the database remembers the last one
    it committed in the COPY's own transaction, so a batch whose commit is in doubt is never written twice.
    """

    sequence: int
    readings: ReadingBlock

    def __len__(self) -> int:
        return len(self.readings)


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a batch's readings; ``already`` where an earlier attempt had committed it.

    ``quarantined_tag`` int32, the series of each quarantined reading (empty where ``already``), and ``reason`` why the
    first of them was refused.
    """

    inserted: int
    duplicates: int = 0
    replaced: int = 0
    quarantined: int = 0
    already: bool = False
    quarantined_tag: NDArray[np.int32] = field(default_factory=lambda: EMPTY_BLOCK.tag, compare=False, repr=False)
    reason: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class ReadingRows:
    """Readings of one well as they are stored, columns of equal length in the order asked for.

    ``node_ids`` and ``qualities`` are text; ``time_us`` int64 µs since 1970 UTC; ``value`` float64.
    """

    well_id: UUID
    node_ids: list[str]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    qualities: list[str]
