"""A journal with one damaged page of its live blocks, of each kind that SQLite has: all readings are accounted for."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scada_trio.losses import LossReason
from tests.fix_journal import Place, block, drain

PAGE_BYTES = 4096
BLOCKS = 60
COMMITTED = 20
READINGS = 300  # of a block: two overflow pages behind its cell


async def fill(place: Place) -> None:
    """Readings of which a third is committed and deleted, so that there are free pages beside the live ones."""
    async with place.open(row_readings=READINGS) as journal:
        for number in range(BLOCKS):
            await journal.append([block(READINGS, number * READINGS)])
        for _ in range(COMMITTED):
            batch = await journal.take(READINGS)
            assert batch is not None
            await journal.committed(batch)


class Pages:
    """Page numbers of the table ``blocks``, by their kind (SQLite, "Database File Format", 1.6)."""

    def __init__(self, path: Path) -> None:
        self._data = path.read_bytes()
        with closing(sqlite3.connect(path)) as connection:
            self.root: int = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'blocks'").fetchone()[
                0
            ]
            assert connection.execute("PRAGMA freelist_count").fetchone()[0] > 0
        self.interior: list[int] = []
        self.leaf: list[int] = []
        self.overflow: list[int] = []
        self._walk(self.root)

    def _walk(self, number: int) -> None:
        page = self._data[(number - 1) * PAGE_BYTES : number * PAGE_BYTES]
        cells = int.from_bytes(page[3:5], "big")
        if page[0] == 5:
            self.interior.append(number)
            for cell in range(cells):
                at = int.from_bytes(page[12 + 2 * cell : 14 + 2 * cell], "big")
                self._walk(int.from_bytes(page[at : at + 4], "big"))
            self._walk(int.from_bytes(page[8:12], "big"))
            return
        assert page[0] == 13
        self.leaf.append(number)
        # each cell ends with the number of its first overflow page; they are packed from the end of the page
        starts = sorted(int.from_bytes(page[8 + 2 * cell : 10 + 2 * cell], "big") for cell in range(cells))
        for end in [*starts[1:], PAGE_BYTES]:
            self._chain(int.from_bytes(page[end - 4 : end], "big"))

    def _chain(self, number: int) -> None:
        while number:
            self.overflow.append(number)
            number = int.from_bytes(self._data[(number - 1) * PAGE_BYTES : (number - 1) * PAGE_BYTES + 4], "big")


def damage(path: Path, page: int, other: int, how: str) -> None:
    start = (page - 1) * PAGE_BYTES
    with path.open("r+b") as file:
        if how == "zeroed":  # a write that never came
            new = bytes(PAGE_BYTES)
        elif how == "misdirected":  # one that went to the wrong place
            file.seek((other - 1) * PAGE_BYTES)
            new = file.read(PAGE_BYTES)
        else:
            file.seek(start)
            old = file.read(PAGE_BYTES)
            first, count = {"head": (0, 8), "middle": (2000, 200), "end": (4090, 6)}[how]
            new = old[:first] + bytes(value ^ 0xA5 for value in old[first : first + count]) + old[first + count :]
        file.seek(start)
        file.write(new)


@pytest.mark.parametrize("how", ["zeroed", "misdirected", "head", "middle", "end"])
@pytest.mark.parametrize("kind", ["interior", "leaf", "overflow"])
@pytest.mark.parametrize("seed", range(3))
async def test_a_damaged_page_of_live_blocks(place: Place, kind: str, how: str, seed: int) -> None:
    """Recovered are right readings, in order; the others are counted, or each of them is in the time of a loss."""
    await fill(place)
    pages = Pages(place.path)
    chosen = random.Random(f"{kind} {how} {seed}")
    numbers: list[int] = getattr(pages, kind)
    page = chosen.choice(numbers)
    others = [number for number in (*numbers, *pages.leaf, *pages.overflow) if number != page]
    damage(place.path, page, chosen.choice(others), how)
    later = place.restarted()
    async with later.open(memory_readings=READINGS) as journal:
        await journal.resolve(0)
        values = await drain(journal)
    live = range(COMMITTED * READINGS, BLOCKS * READINGS)
    assert values == sorted(set(values))
    assert set(values) <= set(live)
    missing = set(live) - set(values)
    counted = sum(loss.count or 0 for loss in later.losses)
    assert all(loss.reason is LossReason.JOURNAL_CORRUPT for loss in later.losses)
    if any(loss.count is None for loss in later.losses):
        assert counted <= len(missing)
    else:
        assert counted == len(missing)
    unexplained = [v for v in missing if not any(loss.from_us <= v <= loss.to_us for loss in later.losses)]
    assert unexplained == []
    assert later.ledger.accounts.unexplained == 0
    assert bool(missing) == bool(later.losses)
    if kind == "overflow" and how != "end":
        assert missing  # a page of readings alone: nothing else could have hidden it
