"""A journal whose files are damaged, at any place and at any time: what is lost is known, and the tenant goes on."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from scada_trio.losses import Loss, LossReason, RememberedSubscription
from scada_trio.readings import TagTable
from tests.fix_journal import WELL, Place, block, drain, overwrite

ROOT = Path(__file__).parent.parent


async def fill(place: Place, rows: int = 50) -> None:
    """Leave ``rows`` blocks of 1,000 readings behind, and something of everything else."""
    tags = TagTable()
    for name in "ABCD":
        tags.index_of(WELL, f"ns=1;s={name}")
    async with place.open(tags=tags, row_readings=1000) as journal:
        journal.record_loss(Loss(LossReason.SEQUENCE_GAP, WELL, 1, 2))
        journal.remember_subscription(WELL, RememberedSubscription("opc.tcp://a", 7, 1, {}))
        for row in range(rows):
            await journal.append([block(1000, row * 1000, row % 4)])


async def salvage(place: Place) -> tuple[list[float], Place]:
    """Open it as the next process does, and drain it."""
    later = place.restarted()
    async with later.open(memory_readings=1000) as journal:
        await journal.resolve(0)
        values = await drain(journal)
        await journal.append([block(10, 1_000_000)])
        assert await drain(journal) == list(range(1_000_000, 1_000_010))
    assert later.ledger.accounts.unexplained == 0
    return values, later


async def test_a_block_with_a_wrong_checksum_costs_that_block(place: Place) -> None:
    """It is counted, with its times; every other block, the losses and the subscriptions are kept."""
    await fill(place)
    data = place.path.read_bytes()
    where = data.index(block(1000, 20_000).value.tobytes()[:200])
    overwrite(place.path, where + 64)
    values, later = await salvage(place)
    assert values == [*range(20_000), *range(21_000, 50_000)]
    assert later.losses == [Loss(LossReason.JOURNAL_CORRUPT, None, 20_000, 20_999, 1000, later.losses[0].detail)]
    assert later.ledger.accounts.lost == 1000
    assert later.aside
    assert later.aside[0].read_bytes()
    async with place.restarted().open() as journal:
        assert {loss.reason for _, loss in journal.unreported_losses()} == {
            LossReason.SEQUENCE_GAP,
            LossReason.JOURNAL_CORRUPT,
        }
        assert journal.remembered_subscription(WELL) is not None


@pytest.mark.parametrize("what", ["header", "schema", "empty", "text"])
async def test_a_file_that_is_no_journal_any_more_is_set_aside(place: Place, what: str) -> None:
    """The tenant goes on with a new one; that something is lost is recorded, how much nobody knows."""
    await fill(place)
    if what == "header":
        overwrite(place.path, 0)
    elif what == "schema":
        overwrite(place.path, 100, 3000)
    elif what == "empty":
        place.path.write_bytes(b"")
    else:
        place.path.write_text("this is no database\n" * 1000)
    values, later = await salvage(place)
    assert values == []
    assert [(loss.reason, loss.count) for loss in later.losses] == [(LossReason.JOURNAL_CORRUPT, None)]
    assert len(later.aside) == 1


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
async def test_a_truncated_file_keeps_what_is_left_of_it(place: Place, keep: float) -> None:
    """What was cut off is recorded as lost; what is there is written."""
    await fill(place)
    size = place.path.stat().st_size
    with place.path.open("r+b") as file:
        file.truncate(int(size * keep))
    values, later = await salvage(place)
    assert 1000 <= len(values) < 50_000
    assert sorted(set(values)) == values
    assert {loss.reason for loss in later.losses} == {LossReason.JOURNAL_CORRUPT}
    counted = sum(loss.count or 0 for loss in later.losses)
    assert len(values) + counted == 50_000 or any(loss.count is None for loss in later.losses)


@pytest.mark.parametrize("seed", range(40))
async def test_damage_anywhere_neither_stops_the_tenant_nor_forges_a_reading(place: Place, seed: int) -> None:
    """Whatever page is hit, readings are right or gone, and where some are gone that is recorded."""
    await fill(place)
    rng = random.Random(seed)
    size = place.path.stat().st_size
    for _ in range(rng.choice([1, 1, 3, 20])):
        overwrite(place.path, rng.randrange(size - 64), rng.choice([1, 8, 64]))
    values, later = await salvage(place)
    assert set(values) <= set(range(50_000))
    assert len(set(values)) == len(values)
    if len(values) < 50_000:
        assert {loss.reason for loss in later.losses} == {LossReason.JOURNAL_CORRUPT}
    counted = sum(loss.count or 0 for loss in later.losses)
    assert len(values) + counted == 50_000 or any(loss.count is None for loss in later.losses)


async def test_a_tag_that_cannot_be_read_costs_the_readings_of_that_tag(place: Place) -> None:
    """They would be stored under another name otherwise."""
    await fill(place)
    with closing(sqlite3.connect(place.path)) as connection:
        connection.execute("UPDATE tags SET node_id = ? WHERE number = 1", [b"ns=1;s=X"])
        connection.commit()
    values, later = await salvage(place)
    assert values == [value for value in range(50_000) if value // 1000 % 4 != 1]
    assert sum(loss.count or 0 for loss in later.losses) == later.ledger.accounts.lost == len(range(1, 50, 4)) * 1000


@pytest.mark.parametrize("where", ["middle", "header"])
async def test_a_damaged_wal_is_not_ignored(place: Place, where: str) -> None:
    """SQLite drops what follows a bad frame without a word; here it is recorded, and the WAL is kept to look at."""
    place.directory.mkdir()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.append_forever", str(place.directory)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    output = b""
    while output.count(b"\n") < 60:
        output += await process.stdout.receive_some()
    process.kill()
    await process.wait()
    await process.stdout.aclose()
    wal = Path(f"{place.path}-wal")
    overwrite(wal, 32 + 24 + 4096 + 100 if where == "middle" else 8, 8)
    later = place.restarted()
    async with later.open():
        pass
    assert [loss.reason for loss in later.losses] == [LossReason.JOURNAL_CORRUPT]
    assert later.aside[0].name.endswith("-wal")


async def test_damage_while_it_runs_costs_only_what_is_in_the_file_alone(place: Place) -> None:
    """What is in memory, in flight or waiting, is written into the new file; the loss is exact."""
    async with place.open(row_readings=1000, memory_readings=5000) as journal:
        for row in range(200):
            await journal.append([block(1000, row * 1000)])
        in_flight = await journal.take(1000)
        assert in_flight is not None
        await journal._store.call(lambda file: file.give_back(1 << 20))  # all of it is in the file itself
        data = place.path.read_bytes()
        for row in (2, 100, 150):
            where = data.index(block(1000, row * 1000).value.tobytes()[:200])
            overwrite(place.path, where + 64)
        await journal.committed(in_flight)
        values = await drain(journal)
        await journal.append([block(1000, 200_000)])
        values += await drain(journal)
        assert values == [v for v in range(1000, 201_000) if v // 1000 not in (100, 150)]
        assert place.ledger.accounts.lost == sum(loss.count or 0 for loss in place.losses) == 2000
        assert len(place.aside) == 1
    assert place.ledger.accounts.unexplained == 0
    async with place.restarted().open() as journal:
        assert len(journal) == 0


@pytest.mark.parametrize("step", ["new", "ready", "moved"])
async def test_a_process_killed_while_it_sets_a_file_aside_leaves_it_for_the_next(place: Place, step: str) -> None:
    """At every point between the first byte of the new file and its last renaming."""
    await fill(place)
    ready = place.path.with_name(place.path.name + ".ready")
    if step == "new":
        place.path.with_name(place.path.name + ".new").write_bytes(b"half a file")
    else:
        ready.write_bytes(place.path.read_bytes())
        if step == "moved":
            place.path.rename(place.path.with_name(place.path.name + ".corrupt-20260131T120000Z"))
    values, later = await salvage(place)
    assert values == list(range(50_000))
    assert later.losses == []
    assert not ready.exists()
    assert len(later.aside) == (0 if step == "new" else 1)
