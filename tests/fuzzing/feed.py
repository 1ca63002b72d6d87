"""How the bytes of an input become decisions: read from the front, with zeros behind the end."""

from __future__ import annotations

import struct
from collections.abc import Iterable


class Feed:
    """Takes numbers and pieces from an input."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """At most ``size`` bytes."""
        part = self._data[self._at : self._at + size]
        self._at += size
        return part

    def byte(self) -> int:
        return self.number(1)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def piece(self) -> bytes:
        """A piece whose length, two bytes, stands before it."""
        return self.take(self.number(2))

    def pieces(self) -> list[bytes]:
        """All pieces that are left."""
        found = []
        while self:
            found.append(self.piece())
        return found

    def rest(self) -> bytes:
        return self.take(len(self._data))


def pack(pieces: Iterable[bytes]) -> bytes:
    """What `Feed.pieces` takes apart again; a piece is cut where its length does not fit."""
    return b"".join(struct.pack("<H", len(piece[:0xFFFF])) + piece[:0xFFFF] for piece in pieces)
