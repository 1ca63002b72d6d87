"""What the journal remembers of subscriptions: numbers are on disk with their readings, whatever comes between."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, TypeVarTuple
from uuid import UUID, uuid4

import pytest
import trio
import trio.testing

from scada_trio.losses import Loss, LossReason, RememberedSubscription
from scada_trio.memory import Followed, Mark
from tests.fix_journal import WELL, Place, block, drain, run_inline

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

REMEMBERED = RememberedSubscription("opc.tcp://a", 7, 1, {1: (WELL, "ns=1;s=A", 11)}, 5, 6, {1: 0.5})


async def test_subscriptions_are_remembered(place: Place) -> None:
    """With the number that was reached last, until they are forgotten."""
    connection, other = Followed(uuid4()), Followed(uuid4())
    async with place.open() as journal:
        journal.remember_subscription(connection.connection_id, REMEMBERED)
        journal.remember_accepted(Mark(connection, 2))
        await journal.append([block(1)])
        journal.remember_accepted(Mark(connection, 3))
        journal.remember_accepted(Mark(other, 3))
        journal.remember_subscription(other.connection_id, REMEMBERED)
    async with place.restarted().open() as journal:
        found = journal.remembered_subscription(connection.connection_id)
        assert found is not None
        assert found.last_sequence == 3
        assert found.heard_us > REMEMBERED.heard_us  # what is lost is lost since then, should it come to that
        assert found.items == REMEMBERED.items
        assert found.deadbands == {1: 0.5}
        assert journal.remembered_subscription(other.connection_id) == REMEMBERED
        journal.remember_subscription(connection.connection_id, None)
    async with place.restarted().open() as journal:
        assert journal.remembered_subscription(connection.connection_id) is None
        assert journal.remembered_subscription(other.connection_id) is not None


async def as_left(place: Place, directory: Path, connection_id: UUID) -> tuple[int | None, list[float]]:
    """What a process finds that starts now, were this one killed: the number to go on from, and the readings."""
    copy = Place(directory)
    shutil.copytree(place.directory, copy.directory)
    async with copy.open() as journal:
        await journal.resolve(0)
        remembered = journal.remembered_subscription(connection_id)
        return remembered.last_sequence if remembered is not None else None, await drain(journal)


async def test_a_number_is_on_disk_with_its_readings(place: Place, tmp_path: Path) -> None:
    """No later transaction is needed: after every append the file has both, or neither."""
    followed = Followed(uuid4())
    async with place.open() as journal:
        journal.remember_subscription(followed.connection_id, REMEMBERED)
        for number in range(2, 7):
            await journal.append([block(1, number)], [Mark(followed, number)])
            left = await as_left(place, tmp_path / f"killed {number}", followed.connection_id)
            assert left == (number, list(range(2, number + 1)))
        await journal.append([block(2, 7)], [Mark(followed, 7), Mark(followed, 8)])
        assert await as_left(place, tmp_path / "killed at last", followed.connection_id) == (8, list(range(2, 9)))


async def test_a_number_is_not_remembered_where_its_readings_are_not_accepted(place: Place, tmp_path: Path) -> None:
    """The transaction fails, and is cancelled: the device is asked for that notification again, or it comes again."""
    followed = Followed(uuid4())
    async with place.open() as journal:
        journal.remember_subscription(followed.connection_id, REMEMBERED)
        await journal.append([block(1, 2)], [Mark(followed, 2)])
        assert journal._store._file is not None
        connection = journal._store._file._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.append, [block(1000, 3)], [Mark(followed, 3)])
            with trio.fail_after(60):
                while journal.error is None:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        remembered = journal.remembered_subscription(followed.connection_id)
        assert remembered is not None
        assert remembered.last_sequence == 2
        connection.execute("PRAGMA max_page_count = 1000000")
        await journal.append([block(1, 4)])
        assert await as_left(place, tmp_path / "killed", followed.connection_id) == (2, [2, 4])


async def test_a_number_of_a_subscription_that_has_ended_is_not_taken_for_one_of_the_next(place: Place) -> None:
    """Its readings waited for the journal; meanwhile the device was started again, and gives the same id again."""
    former, later = Followed(WELL), Followed(WELL)
    async with place.open() as journal:
        journal.remember_subscription(WELL, REMEMBERED)
        former.ended = True
        journal.remember_subscription(WELL, None)
        await journal.append([block(1)], [Mark(former, 57)])
        assert journal.remembered_subscription(WELL) is None
        journal.remember_subscription(WELL, REMEMBERED)
        await journal.append([block(1)], [Mark(former, 58)])
        assert journal.remembered_subscription(WELL) == REMEMBERED
        await journal.append([block(1)], [Mark(former, 59), Mark(later, 2)])
    async with place.restarted().open() as journal:
        remembered = journal.remembered_subscription(WELL)
        assert remembered is not None
        assert remembered.last_sequence == 2


@pytest.mark.parametrize("what", ["changed", "ended", "another"])
async def test_what_changes_while_a_number_is_written_is_not_undone(place: Place, what: str) -> None:
    """Items are added, or the subscription ends, in the moment of the transaction; the next one makes it right."""
    followed = Followed(WELL)
    later = replace(REMEMBERED, items={}, subscription_id=8)

    async def run_sync(sync_fn: Callable[[*_Ts], _T], /, *args: *_Ts) -> _T:
        result = await run_inline(sync_fn, *args)
        if meanwhile:
            meanwhile.pop()()
        return result

    def change() -> None:
        if what != "changed":
            followed.ended = True
            journal.remember_subscription(WELL, None)
        if what != "ended":
            journal.remember_subscription(WELL, later)  # as it was before what is being written

    meanwhile: list[Callable[[], None]] = []
    async with place.open(run_sync=run_sync) as journal:
        journal.remember_subscription(WELL, REMEMBERED)
        await journal.append([block(1)])
        meanwhile.append(change)
        await journal.append([block(1)], [Mark(followed, 2)])
        assert not meanwhile
        await journal.append([block(1)])
    async with place.restarted().open() as journal:
        remembered = journal.remembered_subscription(WELL)
        if what == "ended":
            assert remembered is None
        else:
            assert remembered is not None
            assert (remembered.subscription_id, remembered.items) == (8, {})
            assert remembered.last_sequence == (2 if what == "changed" else REMEMBERED.last_sequence)


async def test_what_no_append_takes_along_is_written_by_itself(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    """Deletions, losses and subscriptions of a tenant without readings are on disk after a short while."""
    async with place.open(inline=True) as journal, trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        await journal.append([block(1000)])
        await drain(journal)
        journal.record_loss(Loss(LossReason.DROPPED, None, 0, 0))
        await trio.sleep(5)
        async with Place(place.directory, uuid4()).open(inline=True):
            pass  # another tenant beside it
        assert not journal._store.has_work
        nursery.cancel_scope.cancel()
