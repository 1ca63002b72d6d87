"""Damage to a journal's file that is certain to hit what it is meant for. Blocks; the service does not run.

Knows the schema of `scada_trio.journal.file` and nothing of processes. What is searched for in the file is read from a
copy, so that the file and its WAL are as the killed process left them.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.chaos.acts import NotInjected

_NEEDLE_BYTES: Final = 24
_TRIES: Final = 1000
_MOST_COPIES: Final = 4  # of a row, in pages that are free again or in older frames; zeroes are everywhere


def newest_block(path: Path) -> int:
    """Sequence of the newest block of a journal that is in use; 0 where there is none."""
    return _one(path, "SELECT coalesce(max(sequence), 0) FROM blocks WHERE sequence > ?", 0)


def blocks_after(path: Path, last: int) -> int:
    """How many blocks have a higher sequence than that."""
    return _one(path, "SELECT count(*) FROM blocks WHERE sequence > ?", last)


def _one(path: Path, query: str, value: int) -> int:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return int(connection.execute(query, [value]).fetchone()[0])
    except sqlite3.Error as error:
        raise NotInjected(f"the journal cannot be looked into: {error}") from error


def change_anywhere(path: Path, after: int, rng: random.Random) -> None:
    """Three times sixteen bytes at random places of the file."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(3):
            file.seek(rng.randrange(size))
            file.write(rng.randbytes(16))
        os.fsync(file.fileno())


def change_blocks(path: Path, after: int, rng: random.Random) -> None:
    """Bytes inside of up to three blocks with a sequence above ``after``, in the file proper."""
    _checkpoint(path)
    blocks = _rows(path, "SELECT data FROM blocks WHERE sequence > ?", after)
    for data in rng.sample(blocks, min(3, len(blocks))):
        _change(path, data, rng)


def change_wal(path: Path, after: int, rng: random.Random) -> None:
    """Bytes inside of one block with a sequence above ``after``, in the WAL: SQLite ignores what follows them."""
    wal = path.with_name(path.name + "-wal")
    blocks = _rows(path, "SELECT data FROM blocks WHERE sequence > ? ORDER BY sequence DESC", after)
    for data in rng.sample(blocks, len(blocks)):  # a checkpoint may have taken some of them
        try:
            _change(wal, data, rng)
        except NotInjected:
            continue
        return
    raise NotInjected("no block of the journal is in its WAL")


def change_subscriptions(path: Path, after: int, rng: random.Random) -> None:
    """Bytes inside of every remembered subscription."""
    _checkpoint(path)
    for data in _rows(path, "SELECT subscription FROM subscriptions WHERE ? >= 0", after):
        _change(path, data, rng)


def _checkpoint(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise NotInjected(f"the journal cannot be opened: {error}") from error


def _rows(path: Path, query: str, *values: int) -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / path.name
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + suffix))
        try:
            with closing(sqlite3.connect(copy)) as connection:
                rows = [bytes(row[0]) for row in connection.execute(query, values)]
        except sqlite3.Error as error:
            raise NotInjected(f"the journal cannot be read: {error}") from error
    if not rows:
        raise NotInjected("the journal has nothing that could be damaged")
    return rows


def _change(path: Path, data: bytes, rng: random.Random) -> None:
    """Change eight bytes of ``data`` wherever the file has them; pages end anywhere in it, hence the tries."""
    content = path.read_bytes() if path.exists() else b""
    for _ in range(_TRIES):
        start = rng.randrange(max(1, len(data) - _NEEDLE_BYTES))
        needle = data[start : start + _NEEDLE_BYTES]
        places = _find_all(content, needle)
        if 1 <= len(places) <= _MOST_COPIES:
            break
    else:
        raise NotInjected(f"{path.name} does not have the row")
    with path.open("r+b") as file:
        for place in places:
            file.seek(place + 8)
            file.write(bytes(byte ^ 0xA5 for byte in needle[8:16]))
        os.fsync(file.fileno())


def _find_all(content: bytes, needle: bytes) -> list[int]:
    places = []
    place = content.find(needle)
    while place >= 0:
        places.append(place)
        place = content.find(needle, place + 1)
    return places
