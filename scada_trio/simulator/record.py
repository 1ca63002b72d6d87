"""What a simulated field made, written down value by value time, so that a load test can tell what became of it.

A file of fixed-size rows, one for each subscription and step: `Recorder` writes them in the simulator's process,
`read_record` reads them in another one. A step of a well has one time, and all of its items have that.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

MADE: Final = 0  # queued for a client
DROPPED: Final = 1  # pushed out of a full queue; the client was told by the overflow bit
DIED: Final = 2  # queued, or sent and not acknowledged, when the subscription ended

ROW: Final = np.dtype(
    [("kind", "<u4"), ("well", "<u4"), ("time_us", "<i8"), ("items", "<u4"), ("bad", "<u4"), ("sum", "<f8")]
)
"""``well`` is the well's number; ``sum`` adds the values that are there, ``bad`` counts those that are not."""

_ROW: Final = Struct("<IIqIId")


class Recorder:
    """Appends to a file, or to none where ``path`` is None. Closed at the end of its ``with`` block."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, kind: int, well: int, time_us: int, items: int, bad: int = 0, total: float = 0.0) -> None:
        """Note one step of one subscription."""
        if self._file is not None:
            self._file.write(_ROW.pack(kind, well, time_us, items, bad, total))

    def write_all(self, kind: int, well: int, steps: Iterable[tuple[int, int]]) -> None:
        """Note (time, items) pairs."""
        for time_us, items in steps:
            self.write(kind, well, time_us, items)

    def flush(self) -> None:
        """Let a reader see everything."""
        if self._file is not None:
            self._file.flush()


def read_record(path: Path) -> NDArray[np.void]:
    """All whole rows of a file, of dtype `ROW`."""
    whole = path.stat().st_size // ROW.itemsize
    return np.fromfile(path, ROW, count=whole)
