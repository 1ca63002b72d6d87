"""Notifications that are missing are asked for again, and what cannot be had is a loss; with a scripted device."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from opcua import ua

from scada_trio.losses import LossReason
from scada_trio.opcua.sequence import RecentNumbers, advance, after, ahead, before
from scada_trio.status import ConnectionState
from tests.devices.scripted import SILENCE
from tests.fix_devices import Rig
from tests.fix_scripted import CODES, PATIENT, A, B, open_recovering, values

LAST = 0xFFFFFFFF


# ---- numbers


def test_numbers_go_round() -> None:
    """After 2^32 - 1 comes 1, and distances are right over the turn."""
    assert [after(0), after(1), after(LAST)] == [1, 2, 1]
    assert [before(2), before(1)] == [1, LAST]
    assert [advance(LAST - 1, 0), advance(LAST - 1, 3)] == [LAST - 1, 2]
    assert [ahead(LAST, 1), ahead(1, LAST), ahead(5, 5), ahead(5, 8), ahead(8, 5)] == [1, -1, 0, 3, -3]


def test_recent_numbers_over_the_turn() -> None:
    """The last thousand are known, whatever they are, and none before them."""
    recent = RecentNumbers(1_000)
    for offset in range(3_000):
        recent.add(advance(LAST - 1_500, offset))
    assert advance(LAST - 1_500, 2_999) in recent
    assert advance(LAST - 1_500, 2_000) in recent
    assert advance(LAST - 1_500, 1_999) not in recent
    assert advance(LAST - 1_500, 3_000) not in recent


def test_recent_numbers_need_little_room() -> None:
    """One that comes before the one in front of it leaves no trace once both are there."""
    recent = RecentNumbers(1_000)
    for number in range(1, 901, 3):
        for out_of_order in (number, number + 2, number + 1):
            recent.add(out_of_order)
    assert len(recent._spans) == 1
    assert all(number in recent for number in range(1, 901))


@pytest.mark.parametrize("seed", range(20))
def test_recent_numbers_with_holes(seed: int) -> None:
    """Some are lost, some come late, some twice: what was added is known, and what was not is not."""
    draw = random.Random(seed)
    added = [number for number in range(1, 400) if draw.random() < 0.9]
    for _ in range(40):
        at = draw.randrange(len(added) - 3)
        added[at], added[at + 2] = added[at + 2], added[at]
    recent = RecentNumbers(1_000)
    for number in added:
        recent.add(number)
        if draw.random() < 0.05:
            recent.add(number)
    assert {number for number in range(1, 401) if number in recent} == set(added)


# ---- gaps


async def test_gap_is_filled_in_order() -> None:
    """Missing notifications are asked for one by one, and their readings come before the later ones."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0})
        await device.notify({1: 2.0}, missed=True)
        await device.notify({1: 3.0}, missed=True)
        await device.notify({1: 4.0})
        assert await values(rig, 4) == [1.0, 2.0, 3.0, 4.0]
        assert device.republished == [2, 3]
        assert memory.losses == []
        assert rig.errors("gap_filled") == 1


async def test_gap_over_the_turn() -> None:
    """Numbers go from 2^32 - 1 to 1, also where the ones around the turn are missing."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0}, sequence=LAST - 1)
        await device.notify({1: 2.0}, missed=True)
        await device.notify({1: 3.0}, missed=True)
        await device.notify({1: 4.0})
        assert await values(rig, 4) == [1.0, 2.0, 3.0, 4.0]
        assert device.republished == [LAST, 1]
        await device.notify({1: 5.0})
        assert await values(rig, 1) == [5.0]
        assert memory.losses == []


async def test_keep_alive_shows_a_gap() -> None:
    """A keep-alive carries the next number: where it is too high, notifications are missing."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0})
        await device.keep_alive()
        await device.notify({1: 2.0}, missed=True)
        await device.keep_alive()
        assert await values(rig, 2) == [1.0, 2.0]
        await device.notify({1: 3.0})
        assert await values(rig, 1) == [3.0]
        assert device.republished == [2]
        assert memory.losses == []


async def test_what_cannot_be_had_is_a_loss() -> None:
    """The part of a gap that the server does not have is one loss, between the notifications around it."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0})
        await rig.take()
        await device.notify({1: 2.0}, missed=True)
        await device.notify({1: 3.0}, missed=True)
        await device.notify({1: 4.0}, missed=True)
        del device.sent[2], device.sent[3]
        await device.notify({1: 5.0})
        assert await values(rig, 2) == [4.0, 5.0]
        (loss,) = memory.losses
        assert (loss.reason, loss.connection_id) == (LossReason.SEQUENCE_GAP, rig.spec.connection_id)
        assert loss.from_us < loss.to_us
        assert loss.count is None
        assert "2 notifications" in loss.detail
        assert rig.connection.status.lost == {LossReason.SEQUENCE_GAP: 1}


def _another_number(parameters: Any) -> Any:
    response = ua.RepublishResponse()
    response.NotificationMessage.SequenceNumber = 0
    return response


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_another_number, id="Good and number 0"),
        pytest.param(CODES.BadServiceUnsupported, id="unsupported"),
        pytest.param(b"\x01", id="cut off"),
        pytest.param(SILENCE, id="silence"),
    ],
)
async def test_answers_that_are_no_republish(answer: Any) -> None:
    """Whatever a server answers instead of the notification, the gap is a loss and the readings go on."""
    settings = replace(PATIENT, connect_timeout_s=1.0)
    async with open_recovering(A, settings=settings) as (device, rig, memory):
        device.answers["Republish"] = answer
        await device.notify({1: 1.0})
        await device.notify({1: 2.0}, missed=True)
        await device.notify({1: 3.0})
        assert await values(rig, 2) == [1.0, 3.0]
        assert len(memory.lost(LossReason.SEQUENCE_GAP)) == 1
        assert rig.connection.status.state is ConnectionState.CONNECTED


async def test_subscription_gone_while_a_gap_is_filled() -> None:
    """Where Republish says that the subscription is gone, what came behind the gap is kept and another one is made."""
    async with open_recovering(A) as (device, rig, memory):
        device.answers["Republish"] = CODES.BadSubscriptionIdInvalid
        await device.notify({1: 1.0})
        await device.notify({1: 2.0}, missed=True)
        await device.notify({1: 3.0})
        assert await values(rig, 2) == [1.0, 3.0]
        await device.until(lambda: device.subscription_id == 2)
        await rig.eventually(lambda: len(memory.losses) == 2)
        assert [loss.reason for loss in memory.losses] == [LossReason.SEQUENCE_GAP, LossReason.SUBSCRIPTION_LOST]


async def test_numbers_that_go_back() -> None:
    """A server that starts counting anew is taken at its word, and the doubt is a loss."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0}, sequence=10)
        await device.notify({1: 2.0}, sequence=3)
        await device.notify({1: 3.0})
        assert await values(rig, 3) == [1.0, 2.0, 3.0]
        assert len(memory.lost(LossReason.SEQUENCE_GAP)) == 1
        assert device.republished == []


async def test_gap_filled_after_a_break() -> None:
    """A link that breaks while it fills a gap goes on filling it when it is back."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0})
        await device.notify({1: 2.0}, missed=True)
        device.answers["Republish"] = SILENCE
        await device.notify({1: 3.0})
        await device.until(lambda: "Republish" in device.calls)
        del device.answers["Republish"]
        await device.hang_up()
        assert await values(rig, 3) == [1.0, 2.0, 3.0]
        assert memory.losses == []


async def test_a_long_gap_does_not_pass_what_may_be_unaccepted() -> None:
    """Republished notifications wait for acceptance as others do."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 0.0})
        await rig.take()
        for number in range(1, 20):
            await device.notify({1: float(number)}, missed=True)
        await device.notify({1: 20.0})
        held = [await rig.take(accept=False) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert device.republished == [2, 3, 4]
        for delivery in held:
            rig.accept(delivery)
        assert await values(rig, 17) == [float(number) for number in range(4, 21)]
        assert memory.losses == []


# ---- repetitions, overflow, unreadable


async def test_repeated_values_are_recognised() -> None:
    """The first value of a new item that is the last one of the old item is not delivered again; others are."""
    async with open_recovering(A, B) as (device, rig, _):
        device.answers["TransferSubscriptions"] = CODES.BadServiceUnsupported
        await device.notify({1: 1.0, 2: 7.0}, source_us=1_000_000)
        await rig.take()
        device.sessions.clear()
        await device.hang_up()
        await device.until(lambda: device.subscription_id == 2)
        a, b = sorted(device.items.values())[-2:]
        await device.notify({a: 1.0, b: 8.0}, source_us=1_000_000)
        block = (await rig.take()).block
        assert [(int(index), float(value)) for index, value in zip(block.tag, block.value, strict=True)] == [(1, 8.0)]
        assert _count(rig, "scada_readings_repeated_total") == 1
        await device.notify({a: 1.0}, source_us=1_000_000)  # only the first one of an item can be a repetition
        assert await values(rig, 1) == [1.0]
        assert rig.connection.status.readings == 4


async def test_notification_of_repetitions_only() -> None:
    """A notification that holds nothing new is acknowledged without a delivery."""
    async with open_recovering(A) as (device, rig, _):
        device.answers["TransferSubscriptions"] = CODES.BadServiceUnsupported
        await device.notify({1: float("nan")}, source_us=1_000_000)
        await rig.take()
        device.sessions.clear()
        await device.hang_up()
        await device.until(lambda: device.subscription_id == 2)
        handle = max(device.items.values())
        await device.notify({handle: float("nan")}, source_us=1_000_000)
        await device.until(lambda: device.acknowledged == [1])
        assert _count(rig, "scada_readings_repeated_total") == 1


def _count(rig: Rig, name: str) -> float:
    return rig.metrics.registry.get_sample_value(name, {"tenant_id": str(rig.spec.tenant_id)}) or 0.0


async def test_overflow_is_a_loss() -> None:
    """Overflow bits make one loss a notification, from the reading before to the marked one."""
    async with open_recovering(A, B) as (device, rig, memory):
        await device.notify({1: 1.0, 2: 1.0}, source_us=1_000_000)
        await device.notify({2: 2.0}, source_us=2_000_000)
        assert await values(rig, 1) == [1.0]
        await device.notify({1: 9.0, 2: 9.0}, source_us=3_000_000, overflow=True)
        await device.notify({1: 10.0}, source_us=4_000_000)
        assert await values(rig, 2) == [9.0, 10.0]
        (loss,) = memory.losses
        assert (loss.reason, loss.from_us, loss.to_us) == (LossReason.QUEUE_OVERFLOW, 1_000_000, 3_000_000)


async def test_unreadable_is_a_loss() -> None:
    """A notification that cannot be read is a loss up to now, and no gap besides."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0})
        await rig.take()
        await device.answer_publish(b"\xff" * 7)
        await device.notify({1: 3.0}, sequence=3)
        assert await values(rig, 1) == [3.0]
        (loss,) = memory.losses
        assert loss.reason is LossReason.UNDECODABLE
        assert device.republished == []
