"""The journal when processes are killed and disks are full, each for real."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from scada_trio.errors import ConfigError, JournalUnavailable
from scada_trio.journal.file import prepare_directory
from scada_trio.journal.queue import Journal
from scada_trio.losses import RememberedSubscription
from tests.fix_journal import WELL, Place, block, drain

ROOT = Path(__file__).parent.parent


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
