"""Reads what can be read of a damaged journal: row by row, around the damage, from both ends.

Owns no file: it changes nothing and sets nothing aside, that is `scada_trio.journal.salvage`'s. Blocks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from scada_trio.errors import JournalCorrupt
from scada_trio.journal.rows import BYTES_A_READING, Record, checksum, read_row


class JournalReader:
    """Reads around the damage: row by row, from both ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> JournalReader:
        self._connection = sqlite3.connect(self.path, isolation_level=None)
        self._connection.execute("PRAGMA writable_schema = on")  # else a file that is too short is not read at all
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    def identity(self) -> tuple[UUID | None, int]:
        """Id and epoch; None and 0 where they cannot be read."""
        for journal_id, epoch, crc in self.rows("SELECT journal_id, epoch, crc FROM journal"):
            if isinstance(journal_id, bytes) and isinstance(epoch, int) and crc == checksum(journal_id, epoch):
                return UUID(bytes=journal_id), epoch
        return None, 0

    def rows(self, query: str, *values: object) -> Iterator[tuple[object, ...]]:
        """Rows until SQLite cannot go on."""
        with suppress(sqlite3.DatabaseError):
            yield from self._connection.execute(query, values)

    def is_whole(self, name: str) -> bool:
        """Whether SQLite finds its way through all of a table."""
        try:
            self._connection.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608 - a constant
        except sqlite3.DatabaseError:
            return False
        return True

    def table(self, name: str, key: str) -> Iterator[tuple[object, ...]]:
        """Rows of a small table, those that a damaged page in its middle does not hide."""
        found = set()
        for order in ("ASC", "DESC"):
            for row in self.rows(f"SELECT * FROM {name} ORDER BY {key} {order}"):  # noqa: S608 - constants
                if row[0] not in found:
                    found.add(row[0])
                    yield row

    def index(self) -> tuple[list[tuple[int, int, int, int]], tuple[int, int | None] | None]:
        """(sequence, earliest and latest time, readings) of the blocks, in order; and when some are gone.

        That is between two times, the later one None: up to now. None: all are there, as far as their order shows.
        """
        query = "SELECT sequence, from_us, to_us, length(data) FROM blocks ORDER BY sequence"
        rows: dict[int, tuple[int, int, int, int]] = {}
        ordered, last, end = True, -1, None
        try:
            for row in map(_indexed, self._connection.execute(query)):
                ordered, last = ordered and row[0] > last, row[0]
                rows.setdefault(row[0], row)
        except (sqlite3.DatabaseError, TypeError):
            start = max((row[2] for row in rows.values()), default=0)
            with suppress(TypeError):
                for row in map(_indexed, self.rows(f"{query} DESC")):
                    if row[0] in rows or row[0] <= last:
                        break
                    rows[row[0]], end = row, row[1]
            hole = (start, end)
        else:
            if ordered:
                return list(rows.values()), None
        return [rows[sequence] for sequence in sorted(rows)], hole if ordered else (0, None)

    def is_sound(self) -> bool:
        """Whether SQLite finds every page in its place."""
        return list(self.rows("PRAGMA quick_check(1)")) == [("ok",)]

    def record(self, sequence: int) -> Record | None:
        """One block; None where it is damaged."""
        for row in self.rows("SELECT * FROM blocks WHERE sequence = ?", sequence):
            with suppress(JournalCorrupt):
                return read_row(row)
        return None


def _indexed(row: tuple[object, ...]) -> tuple[int, int, int, int]:
    if not all(isinstance(value, int) for value in row):
        raise TypeError
    sequence, from_us, to_us, length = row
    return sequence, from_us, to_us, length // BYTES_A_READING  # type: ignore[return-value, operator]
