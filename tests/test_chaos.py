"""The short form of the chaos suite, and whether its arithmetic would find what it looks for."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import numpy as np
import psycopg
import pytest
import trio
from pydantic import SecretStr
from rich.console import Console

from tests.chaos import journal_damage, plans
from tests.chaos.acts import NotInjected
from tests.chaos.faults import FAULTS
from tests.chaos.ledger import SLACK_US, Account, LossRow, Rounds, Series, ranges_of, read_log
from tests.chaos.proxy import Catch, Proxy
from tests.chaos.report import table
from tests.chaos.run import doubts_about, run
from tests.chaos.site import Scale
from tests.fix_journal import Place, block, drain
from tests.fix_postgres import PostgresServer, fetch

SEED = 20_261_124
SECOND_US = 1_000_000


@pytest.fixture
def directory() -> Iterator[Path]:
    # not pytest's own: PostgreSQL's user must be able to reach it
    path = Path(tempfile.mkdtemp(prefix="scada-trio-chaos-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.chaos
async def test_every_value_is_stored_once_or_known_to_be_lost(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Service, database, devices, disks and networks fail in turn and together; the arithmetic comes out."""
    outcome = await run(directory, seed=SEED, plan=plans.short, restarts=5, scale=Scale(values_per_s=5_000))
    with capsys.disabled():
        Console(width=160).print("", table(outcome))
    assert outcome.passed, "\n".join(outcome.findings)
    total = outcome.total
    assert total.sent == total.written + total.in_ledger
    assert (total.duplicated, total.unexplained, total.broken) == (0, 0, 0)
    # each of these must have been seen: a fault that hits nothing proves nothing
    assert total.given_up > 0
    assert outcome.losses.keys() >= {"queue_overflow", "journal_full", "journal_corrupt"}


def write_log(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def counted(path: Path, *handed: object) -> Path:
    """Five ticks, a second apart, of variables 0 and 1."""
    ticks = [["tick", number, number * SECOND_US, number * SECOND_US] for number in range(1, 6)]
    return write_log(path, ["start"], ["set", "1.1", [0, 1]], *ticks, *handed)


def settled(path: Path, stored: list[int], *losses: LossRow, counting: bool = True) -> Account:
    series, account, rounds = Series(read_log(path), losses, counting, subscriptions=1), Account(), Rounds()
    rounds.begin("test", 0)
    times = np.array([number * SECOND_US for number in stored], np.int64)
    series.settle(0, np.array(stored, np.int64), times, rounds, [account])
    return account


def test_a_value_that_is_not_there_is_unexplained(tmp_path: Path) -> None:
    """What a device handed over and nobody has."""
    log = counted(tmp_path / "log", ["handed", 1, 1, 1, 4, "1.1"])
    assert settled(log, [1, 2, 4]) == Account(sent=4, written=3, unexplained=1)


def test_a_value_that_is_there_twice_is_duplicated(tmp_path: Path) -> None:
    """Two rows of one value."""
    log = counted(tmp_path / "log", ["handed", 1, 1, 1, 4, "1.1"])
    assert settled(log, [1, 2, 2, 3, 4]) == Account(sent=4, written=4, duplicated=1)


def test_a_value_that_the_device_sent_again_is_repeated(tmp_path: Path) -> None:
    """Once for each time, and no more."""
    log = counted(tmp_path / "log", ["handed", 1, 1, 1, 2, "1.1"], ["handed", 1, 2, 3, 4, "1.1"], ["again", 1, 2])
    assert settled(log, [1, 2, 2, 3, 3, 4, 4, 4]) == Account(sent=4, written=4, duplicated=2, repeated=2)


def test_a_lost_value_is_explained_by_the_ledger_alone(tmp_path: Path) -> None:
    """A loss covers its range, and nothing beyond the slack."""
    log = counted(tmp_path / "log", ["handed", 1, 1, 1, 5, "1.1"])
    loss = LossRow("sequence_gap", UUID(int=1), 2 * SECOND_US + SLACK_US, 3 * SECOND_US)
    assert settled(log, [1, 4], loss) == Account(sent=5, written=2, in_ledger=2, unexplained=1)


def test_an_acknowledged_value_must_be_stored(tmp_path: Path) -> None:
    """The ledger does not excuse what was acknowledged."""
    log = counted(tmp_path / "log", ["handed", 1, 1, 1, 4, "1.1"], ["ack", 1, [1]])
    loss = LossRow("sequence_gap", None, 0, 9 * SECOND_US)
    assert settled(log, [1, 2, 3], loss) == Account(sent=4, written=3, in_ledger=1, broken=1)


@pytest.mark.parametrize("reason", ["journal_corrupt", "journal_full"])
def test_the_journal_itself_may_give_up_what_was_acknowledged(tmp_path: Path, reason: str) -> None:
    """Within its range, and nowhere else."""
    log = counted(tmp_path / "log", ["handed", 1, 1, 1, 5, "1.1"], ["ack", 1, [1]])
    loss = LossRow(reason, None, 2 * SECOND_US + SLACK_US, 3 * SECOND_US - SLACK_US, 1)
    assert settled(log, [1, 4], loss) == Account(sent=5, written=2, in_ledger=2, given_up=2, unexplained=1, broken=1)


def test_what_a_journal_gave_up_is_compared_with_its_counts() -> None:
    """No more than it counted, where it could count, and nothing where nobody harmed it."""
    rows = [LossRow("journal_full", None, 0, 0, 3), LossRow("sequence_gap", None, 0, 0, None)]
    assert doubts_about(3, rows, harmed=True) == []
    assert "the journal counted 3" in doubts_about(4, rows, harmed=True)[0]
    assert doubts_about(4, [*rows, LossRow("journal_corrupt", None, 0, 0, None)], harmed=True) == []
    assert "nobody harmed" in doubts_about(1, rows, harmed=False)[0]


def test_values_of_a_removed_tag_are_not_owed(tmp_path: Path) -> None:
    """Whoever removes a tag gives up what is on its way, and not what was acknowledged."""
    handed = [["handed", 1, 1, 1, 2, "1.1"], ["ack", 1, [1]], ["handed", 1, 2, 3, 3, "1.1"], ["set", "1.2", [1]]]
    log = counted(tmp_path / "log", *handed, ["handed", 1, 3, 4, 4, "1.1"], ["handed", 1, 4, 5, 5, "1.2"])
    assert settled(log, [1]) == Account(sent=2, written=1, unexplained=1, broken=1)


def test_a_subscription_that_was_left_owes_what_came_before_the_next_one(tmp_path: Path) -> None:
    """Its queue overflows for a while, also for tags that the client has removed from the next one."""
    ticks = [["tick", number, number * SECOND_US, number * SECOND_US] for number in range(1, 6)]
    log = write_log(
        tmp_path / "log",
        *(["set", "1.1", [0, 1]], ticks[0], ["handed", 1, 1, 1, 1, "1.1"], ticks[1], ["set", "2.1", [1]]),
        *(*ticks[2:], ["handed", 2, 1, 3, 5, "2.1"], ["dropped", 2, 2, "1.1"], ["died", 3, 5, "1.1"]),
    )
    assert settled(log, [1]) == Account(sent=2, written=1, unexplained=1)


def test_a_subscription_that_was_taken_up_again_owes_all(tmp_path: Path) -> None:
    """Another one came and went between."""
    ticks = [["tick", number, number * SECOND_US, number * SECOND_US] for number in range(1, 6)]
    log = write_log(
        tmp_path / "log",
        *(["set", "1.1", [0]], ticks[0], ["handed", 1, 1, 1, 1, "1.1"], ticks[1], ["set", "2.1", [0]]),
        *(*ticks[2:], ["dropped", 2, 4, "1.1"], ["handed", 1, 2, 5, 5, "1.1"]),
    )
    assert settled(log, [1, 5]) == Account(sent=5, written=2, unexplained=3)


def test_a_row_that_no_device_made_is_found(tmp_path: Path) -> None:
    """A value with another time than the device gave it is somebody else's."""
    log = counted(tmp_path / "log", ["handed", 1, 1, 1, 1, "1.1"])
    assert settled(log, [1, 9]) == Account(sent=1, written=1, unexplained=1)


def test_other_makers_owe_everything_between_first_and_last(tmp_path: Path) -> None:
    """A server that logs no notifications owes what it made since the first value that is stored."""
    log = counted(tmp_path / "log")
    assert settled(log, [2, 2, 4, 5], counting=False) == Account(sent=4, written=3, repeated=1, unexplained=1)
    assert settled(log, [2, 3, 4, 5, 5, 5], counting=False) == Account(sent=4, written=4, duplicated=2)


def test_a_plan_is_its_seeds() -> None:
    """The same seed plays the same faults in the same order."""
    assert list(plans.short(random.Random(3))) == list(plans.short(random.Random(3)))
    assert sorted(plans.short(random.Random(4))) == sorted(plans.SHORT)


def test_the_short_form_has_every_fault_that_must_be_hit_for_certain() -> None:
    """Kills at each byte that matters, every damage to a journal, every setting of it."""
    wanted = [name for name in FAULTS if name.startswith(("kill", "damaged", "full journal", "tiny queue"))]
    assert set(wanted) <= {part for name in plans.SHORT for part in name.split(" + ")}


def test_ranges_are_short() -> None:
    """Findings name ranges, a few of them."""
    assert ranges_of(np.array([1, 2, 3, 7])) == "1-3, 7"
    assert ranges_of(np.arange(0, 40, 2)).endswith("and 14 more ranges")


# ---- faults that are certain to hit


@pytest.mark.parametrize(("catch", "there"), [(Catch.IN_COPY, 0), (Catch.NEVER_ARRIVES, 0), (Catch.NEVER_ANSWERED, 1)])
async def test_a_link_is_frozen_at_the_byte_that_is_meant(
    postgres: PostgresServer, tenant_url: SecretStr, catch: Catch, there: int
) -> None:
    """A batch whose link is caught is in the database if its COMMIT was to be carried out, and else it is not."""
    proxy = Proxy(lambda: postgres.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        url = tenant_url.get_secret_value().replace(f":{postgres.port}/", f":{proxy.port}/")
        caught = proxy.catch(catch)
        nursery.start_soon(trio.to_thread.run_sync, _copy_a_row, url)
        with trio.fail_after(30):
            await caught.wait()
        count = "SELECT count(*) FROM scada_readings"
        assert (await trio.to_thread.run_sync(fetch, tenant_url, count)) == [(there,)]
        proxy.cut()
        proxy.heal()
        assert (await trio.to_thread.run_sync(fetch, tenant_url, count)) == [(there,)]
        nursery.cancel_scope.cancel()


def _copy_a_row(url: str) -> None:
    try:
        with (
            psycopg.connect(url) as connection,
            connection.cursor() as cursor,
            cursor.copy("COPY scada_readings (timestamp, well_id, tag_node_id, value) FROM STDIN") as copy,
        ):
            copy.write_row(("2026-01-01T00:00:00Z", UUID(int=1), "A", 1.0))
    except psycopg.OperationalError:
        return


@pytest.mark.parametrize("harm", [journal_damage.change_blocks, journal_damage.change_wal])
async def test_damage_hits_blocks_that_wait(tmp_path: Path, harm: Callable[[Path, int, random.Random], None]) -> None:
    """Those behind a given one; what was there before stays whole."""
    running, killed = Place(tmp_path / "running"), Place(tmp_path / "killed")
    async with running.open() as journal:
        for row in range(4):
            await journal.append([block(1000, 1000 * row)])
        last = journal_damage.newest_block(running.path)
        for row in range(4, 8):
            await journal.append([block(1000, 1000 * row)])
        assert journal_damage.blocks_after(running.path, last) == 4
        shutil.copytree(running.directory, killed.directory)
    harm(killed.path, last, random.Random(1))
    async with killed.open() as journal:
        await journal.resolve(0)
        values = await drain(journal)
    assert values[:4000] == list(range(4000))
    assert len(values) < 8000
    assert killed.losses


def test_damage_that_finds_nothing_says_so(tmp_path: Path) -> None:
    """A fault that hits nothing would prove nothing."""
    path = tmp_path / "x.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE blocks (sequence INTEGER PRIMARY KEY, data BLOB)")
    with pytest.raises(NotInjected, match="nothing that could be damaged"):
        journal_damage.change_blocks(path, 0, random.Random(1))
