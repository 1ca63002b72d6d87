"""The journal when processes are killed, disks are full and files are damaged, each for real."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from scada_trio.errors import ConfigError, JournalUnavailable
from scada_trio.journal.file import prepare_directory
from scada_trio.journal.queue import Journal
from scada_trio.losses import Loss, LossReason, RememberedSubscription
from scada_trio.readings import TagTable
from tests.fix_journal import WELL, Place, block, drain

ROOT = Path(__file__).parent.parent


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "journal")


class SmallDisk:
    """4 MiB for the journal, or the like of it where no file system can be mounted: SQLite refuses to grow."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)]
        self.mounted = subprocess.run(command, capture_output=True).returncode == 0

    def fill(self, journal: Journal) -> None:
        """Leave half of it."""
        if self.mounted:
            (self.directory / "ballast").write_bytes(bytes(2 << 20))
        else:
            self._limit(journal, 256)

    def free(self, journal: Journal) -> None:
        """All of it."""
        if self.mounted:
            (self.directory / "ballast").unlink()
        else:
            self._limit(journal, 1024)

    @staticmethod
    def _limit(journal: Journal, pages: int) -> None:
        assert journal._store._file is not None
        journal._store._file._connection.execute(f"PRAGMA max_page_count = {pages}")

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", self.directory], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.close()


# --- processes


@pytest.mark.parametrize("seed", range(6))
async def test_every_append_that_returned_survives_a_kill(place: Place, seed: int) -> None:
    """In order, once each; what had not returned may be there or not, but never in part."""
    place.directory.mkdir()
    wanted = random.Random(seed).randrange(1, 200)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.append_forever", str(place.directory)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    output = b""
    with trio.fail_after(60):
        while output.count(b"\n") < wanted:
            output += await process.stdout.receive_some()
        process.kill()
        while chunk := await process.stdout.receive_some():
            output += chunk
        await process.wait()
    told = [int(line) for line in output.rpartition(b"\n")[0].split()]
    appended, committed = max(told), -min([0, *told])
    async with place.open() as journal:
        await journal.resolve(0)
        values = await drain(journal)
    assert values == [float(value) for value in range(int(values[0]) if values else 0, len(values) + int(values[0]))]
    assert values[0] <= committed
    assert values[-1] + 1 >= appended


async def test_two_processes_do_not_share_a_file(place: Place) -> None:
    """The second one is told which directory is in use; once the first is gone it gets what that left."""
    async with place.open() as journal:
        await journal.append([block(10)])
        code = (
            "import sys, trio\nfrom pathlib import Path\nfrom tests.fix_journal import Place\n"
            "async def main():\n    async with Place(Path(sys.argv[1])).open(): pass\n"
            "trio.run(main)\n"
        )
        other = await trio.run_process(
            [sys.executable, "-c", code, str(place.directory)], cwd=ROOT, check=False, capture_stderr=True
        )
        assert other.returncode == 1
        assert b"JournalUnavailable: JOURNAL_DIR: " in other.stderr
        assert b"in use by another process" in other.stderr
        with pytest.raises(JournalUnavailable, match="in use"):
            async with place.restarted().open():
                pass
    async with place.restarted().open() as journal:
        assert len(journal) == 10


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Before anything starts, with the variable's name."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="JOURNAL_DIR: Not a directory"):
        prepare_directory(file / "journal")


# --- disks


async def test_a_full_disk_holds_acceptance_until_there_is_room(small_disk: SmallDisk) -> None:
    """Nothing is accepted that is not in the file, nothing that was is lost, and it goes on by itself."""
    place = Place(small_disk.directory / "journal")
    async with place.open(memory_readings=1000) as journal, trio.open_nursery() as nursery:
        small_disk.fill(journal)
        accepted = 0

        async def append() -> None:
            nonlocal accepted
            for first in range(0, 80_000, 1000):
                await journal.append([block(1000, first)])
                accepted += 1000

        nursery.start_soon(append)
        with trio.fail_after(60):
            while journal.error is None:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert journal.error == f"JOURNAL_DIR: the disk is full: {place.path.name}"
        held_at = accepted
        assert len(journal) == held_at < 80_000
        assert place.ledger.journal_errors > 0
        small_disk.free(journal)
        with trio.fail_after(60):
            while accepted < 80_000:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert journal.error is None
        assert await drain(journal) == list(range(80_000))
    assert (place.ledger.accounts.unexplained, place.aside) == (0, [])


async def test_a_writer_that_drains_makes_room_on_a_full_disk(small_disk: SmallDisk) -> None:
    """The database is back, the disk still full: what is committed is deleted and its pages are used again."""
    place = Place(small_disk.directory / "journal")
    async with place.open(memory_readings=1000) as journal:
        small_disk.fill(journal)
        journal.remember_subscription(WELL, RememberedSubscription("opc.tcp://a", 7, 1, {}))
        async with trio.open_nursery() as nursery:

            async def append_until_held() -> None:
                while True:
                    await journal.append([block(5000)])

            nursery.start_soon(append_until_held)
            while journal.error is None:
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        former_id = journal.journal_id
        await drain(journal)
        with trio.fail_after(60):
            await journal.append([block(5000, 1)])
        assert journal.error is None
    later = place.restarted()
    async with later.open() as journal:
        assert (journal.journal_id, len(journal)) == (former_id, 5000)
        assert journal.remembered_subscription(WELL) is not None
        await journal.resolve(0)
        assert await drain(journal) == list(range(1, 5001))
    assert place.ledger.accounts.unexplained == 0


async def start_often(place: Place) -> None:
    """More often than once a minute, so that sequences are ahead of those that the time alone would give."""
    for _ in range(4):
        async with place.restarted().open() as journal:
            await journal.append([block(1)])
            await journal.resolve(0)
            await drain(journal)


async def test_a_journal_made_anew_on_a_full_disk_stays_ahead_of_its_cursor(small_disk: SmallDisk) -> None:
    """Else the database would take what is new for committed, and nobody would notice."""
    place = Place(small_disk.directory / "journal")
    await start_often(place)
    async with place.open(memory_readings=1000) as journal:
        await journal.append([block(1)])
        before = await journal.take(1)
        assert before is not None
        await journal.committed(before)
        small_disk.fill(journal)
        async with trio.open_nursery() as nursery:

            async def append_until_held() -> None:
                while True:
                    await journal.append([block(5000)])

            nursery.start_soon(append_until_held)
            while journal.error is None:
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        await drain(journal)
        with trio.fail_after(60):
            await journal.append([block(5000, 1)])
        after = await journal.take(5000)
        assert after is not None
        assert after.sequence > before.sequence


async def test_a_journal_that_takes_a_damaged_ones_place_stays_ahead_of_its_cursor(place: Place) -> None:
    """The same where the file was set aside."""
    await start_often(place)
    async with place.restarted().open() as journal:
        await journal.append([block(1)])
        before = await journal.take(1)
        assert before is not None
        await journal.committed(before)
        journal_id = journal.journal_id
        async with journal._store.busy:
            await journal._store.exchange("the test says so")
        await journal.append([block(1)])
        after = await journal.take(1)
        assert after is not None
        assert journal.journal_id == journal_id
        assert after.sequence > before.sequence


# --- damage


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


def overwrite(path: Path, offset: int, count: int = 16) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(count)
        file.seek(offset)
        file.write(bytes(value ^ 0x5A for value in old))


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


async def test_a_long_outage_costs_disk_and_not_memory(place: Place) -> None:
    """A million readings wait in the file, the process grows by what it may keep in memory, and all come in order."""
    place.directory.mkdir()
    done = await trio.run_process(
        [sys.executable, "-m", "tests.spool_a_million", str(place.directory)], cwd=ROOT, capture_stdout=True
    )
    grown_bytes, in_order, file_bytes = map(int, done.stdout.split())
    assert in_order == 1_000_000
    assert file_bytes > 15_000_000  # the rest is in the WAL
    assert grown_bytes < 12_000_000
