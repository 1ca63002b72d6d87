"""What stands in a WAL by itself: SQLite reads it up to the first damaged frame and ignores the rest without a word.

Owns its layout (SQLite, "WAL-mode File Format"). Reads a file; starts nothing.
"""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scada_trio.losses import Loss, LossReason

_WAL_HEADER: Final = struct.Struct(">8I")
_FRAME_HEADER: Final = struct.Struct(">6I")
_WAL_MAGIC: Final = 0x377F0682


@dataclass(frozen=True, slots=True)
class WalBefore:
    """A journal's WAL before SQLite has had a look at it; ``frames`` as `committed_frames` has it, times in µs.

    The file itself is written by checkpoints, so what is in the WAL alone came after the last one.
    """

    frames: int
    checkpointed_us: int
    written_us: int

    @classmethod
    def of(cls, path: Path) -> WalBefore:
        """Of the journal at ``path``, which nobody has opened yet."""
        frames = committed_frames(path.with_name(path.name + "-wal"))
        return cls(frames, path.stat().st_mtime_ns // 1000, last_written_us(path))

    def is_cut(self, valid_frames: int) -> bool:
        """Whether SQLite did not take all of it."""
        return self.frames < 0 or self.frames > valid_frames

    def loss(self, newest_us: object, heard_us: object, detail: str) -> Loss:
        """What may be gone with the rest of it, nobody knows how much.

        ``newest_us`` is that of the blocks left. ``heard_us``: when a device whose queue may have been in the rest was
        heard before; its readings are older than those of others that are left. Anything but a number is not known.
        """
        since_us = min(newest_us if isinstance(newest_us, int) else self.checkpointed_us, self.written_us)
        if isinstance(heard_us, int):
            since_us = min(since_us, heard_us)
        return Loss(LossReason.JOURNAL_CORRUPT, None, since_us, self.written_us, None, detail)


def last_written_us(path: Path) -> int:
    """When the journal or its WAL was written last."""
    times = []
    for suffix in ("", "-wal"):
        with suppress(OSError):
            times.append(path.with_name(path.name + suffix).stat().st_mtime_ns // 1000)
    return max(times, default=time.time_ns() // 1000)


def committed_frames(wal: Path) -> int:
    """Number of the last frame of the WAL that ends a transaction; -1 where its header is damaged; 0 where it has none.

    Frames that a former round through the file has left have another salt.
    """
    try:
        data = wal.read_bytes()
    except FileNotFoundError:
        return 0
    if not data.strip(b"\0"):
        return 0
    if len(data) < _WAL_HEADER.size:
        return -1
    magic, _, page_bytes, _, salt_1, salt_2, sum_1, sum_2 = _WAL_HEADER.unpack_from(data)
    if magic & ~1 != _WAL_MAGIC or (sum_1, sum_2) != _wal_checksum(data[:24], big=bool(magic & 1)):
        return -1
    last = 0
    step = _FRAME_HEADER.size + page_bytes
    for number, offset in enumerate(range(_WAL_HEADER.size, len(data) - step + 1, step), 1):
        _, database_pages, frame_1, frame_2, _, _ = _FRAME_HEADER.unpack_from(data, offset)
        if database_pages and (frame_1, frame_2) == (salt_1, salt_2):
            last = number
    return last


def _wal_checksum(data: bytes, *, big: bool) -> tuple[int, int]:
    first = second = 0
    for even, odd in struct.iter_unpack(">2I" if big else "<2I", data):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
