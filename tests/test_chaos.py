"""The short form of the chaos suite, and whether its arithmetic would find what it looks for."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from tests.chaos import plans
from tests.chaos.ledger import SLACK_US, Account, LossRow, Rounds, Series, ranges_of, read_log
from tests.chaos.report import table
from tests.chaos.run import run
from tests.chaos.site import Scale

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
async def test_every_value_is_stored_once_or_known_to_be_lost(directory: Path) -> None:
    """Service, database, devices, disks and networks fail in turn and together; the arithmetic comes out."""
    outcome = await run(directory, seed=SEED, plan=plans.short, restarts=5, scale=Scale(values_per_s=5_000))
    assert outcome.passed, "\n".join(outcome.findings)
    total = outcome.total
    assert total.sent == total.written + total.in_ledger
    assert (total.duplicated, total.unexplained) == (0, 0)
    # what was acknowledged is gone only where the journal that had it was damaged, and then it is in the ledger
    assert {fault for fault, account in outcome.accounts.items() if account.broken} <= {"corrupted journal"}
    assert table(outcome).row_count == len(outcome.accounts) + 1  # one of its rounds has two faults


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


def test_values_of_a_removed_tag_are_not_owed(tmp_path: Path) -> None:
    """Whoever removes a tag gives up what is on its way, and not what was acknowledged."""
    handed = [["handed", 1, 1, 1, 2, "1.1"], ["ack", 1, [1]], ["handed", 1, 2, 3, 3, "1.1"], ["set", "1.2", [1]]]
    log = counted(tmp_path / "log", *handed, ["handed", 1, 3, 4, 4, "1.1"], ["handed", 1, 4, 5, 5, "1.2"])
    assert settled(log, [1]) == Account(sent=2, written=1, unexplained=1, broken=1)


def test_a_row_that_no_device_made_is_found(tmp_path: Path) -> None:
    """A value with another time than the device gave it is somebody else's."""
    log = counted(tmp_path / "log", ["handed", 1, 1, 1, 1, "1.1"])
    assert settled(log, [1, 9]) == Account(sent=1, written=1, unexplained=1)


def test_other_makers_owe_everything_between_first_and_last(tmp_path: Path) -> None:
    """A server that logs no notifications owes what it made since the first value that is stored."""
    log = counted(tmp_path / "log")
    assert settled(log, [2, 2, 4, 5], counting=False) == Account(sent=4, written=3, repeated=1, unexplained=1)


def test_a_plan_is_its_seeds() -> None:
    """The same seed plays the same faults in the same order."""
    assert list(plans.short(random.Random(3))) == list(plans.short(random.Random(3)))
    assert sorted(plans.short(random.Random(4))) == sorted(plans.SHORT)


def test_ranges_are_short() -> None:
    """Findings name ranges, a few of them."""
    assert ranges_of(np.array([1, 2, 3, 7])) == "1-3, 7"
    assert ranges_of(np.arange(0, 40, 2)).endswith("and 14 more ranges")
