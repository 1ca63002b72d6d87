"""Since when readings are missing, where one process loses what another one had: never later than it is true."""

from __future__ import annotations

import time
from pathlib import Path

import trio

from scada_trio.losses import LossReason, RememberedSubscription
from scada_trio.memory import Followed, Mark
from tests.devices.scripted import ScriptedDevice
from tests.fix_devices import Memory, open_rig, tag
from tests.fix_journal import WELL, Place, block
from tests.fix_scripted import CODES, PATIENT, A, open_recovering

B = tag("ns=1;s=b")


async def test_a_subscription_that_is_gone_is_a_loss_once_there_is_another() -> None:
    """A damaged journal has only since when: the range goes until the new items are there, and is told once."""
    memory = Memory()
    memory.subscriptions[memory.connection_id] = RememberedSubscription.gone(5_000_000)
    began_us = time.time_ns() // 1000
    async with open_recovering(A, memory=memory) as (_, __, ___):
        (loss,) = memory.lost(LossReason.SUBSCRIPTION_LOST)
        assert loss.from_us == 5_000_000
        assert loss.to_us >= began_us
        assert not memory.subscriptions[memory.connection_id].is_gone
    async with open_recovering(A, memory=memory):
        pass
    assert [loss.from_us for loss in memory.losses if loss.detail == "an earlier process lost its subscription"] == [
        5_000_000
    ]


async def test_a_process_that_dies_between_two_subscriptions_leaves_the_loss_to_the_next() -> None:
    """The old one could not be taken over, the new one was not there yet."""
    device, memory = ScriptedDevice(), Memory()
    device.remembers = True
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        async with open_rig(device.url, (A,), settings=PATIENT, memory=memory) as rig:
            await rig.eventually(lambda: memory.connection_id in memory.subscriptions)
            await device.notify({1: 1.0}, source_us=7_000_000)
            await rig.take()
        device.answers["TransferSubscriptions"] = CODES.BadSubscriptionIdInvalid
        device.answers["CreateSubscription"] = CODES.BadTooManySubscriptions
        async with open_rig(device.url, (A,), settings=PATIENT, memory=memory) as rig:
            await rig.eventually(lambda: memory.subscriptions[memory.connection_id].is_gone)
        assert memory.losses == []
        device.answers.clear()
        async with open_rig(device.url, (A,), settings=PATIENT, memory=memory) as rig:
            await rig.eventually(lambda: bool(memory.losses))
        (loss,) = memory.losses
        assert (loss.reason, loss.from_us) == (LossReason.SUBSCRIPTION_LOST, 7_000_000)
        nursery.cancel_scope.cancel()


async def test_what_is_not_accepted_was_not_heard() -> None:
    """A full disk holds a notification up: for the next process its readings are missing, however late it was held."""
    memory = Memory()
    async with open_recovering(A, memory=memory) as (device, rig, _):
        await device.notify({1: 1.0}, source_us=1_000_000)
        await rig.take()
        await device.notify({1: 2.0}, source_us=2_000_000)
        await device.notify({1: 3.0}, source_us=3_000_000)
        await rig.take(accept=False)
        held = await rig.take(accept=False)
        assert held.mark is not None
        assert held.mark.heard_us == 3_000_000
    assert memory.subscriptions[memory.connection_id].heard_us == 1_000_000


async def test_an_overflow_reaches_back_to_what_the_process_before_heard() -> None:
    """The first reading of a new process has the overflow bit: what was dropped lies before it."""
    memory = Memory()
    device = ScriptedDevice()
    device.remembers = True
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        async with open_rig(device.url, (A,), settings=PATIENT, memory=memory) as rig:
            await rig.eventually(lambda: memory.connection_id in memory.subscriptions)
            await device.notify({1: 1.0}, source_us=1_000_000)
            await rig.take()
        async with open_rig(device.url, (A,), settings=PATIENT, memory=memory) as rig:
            await device.until(lambda: device.calls.count("TransferSubscriptions") == 1)
            await device.notify({1: 9.0}, source_us=9_000_000, overflow=True)
            await rig.take()
        (loss,) = memory.losses
        assert (loss.reason, loss.from_us, loss.to_us) == (LossReason.QUEUE_OVERFLOW, 1_000_000, 9_000_000)
        nursery.cancel_scope.cancel()


async def test_a_journal_keeps_since_when_a_subscription_is_gone(tmp_path: Path) -> None:
    """Readings of the next one, accepted before all of its items are there, do not move it."""
    place = Place(tmp_path / "journal")
    followed = Followed(WELL)
    async with place.open() as journal:
        journal.remember_subscription(WELL, RememberedSubscription.gone(5))
        await journal.append([block(1)], [Mark(followed, 1)])
    async with place.restarted().open() as journal:
        assert journal.remembered_subscription(WELL) == RememberedSubscription.gone(5)
        journal.remember_subscription(WELL, RememberedSubscription("opc.tcp://a", 7, 1, {}, heard_us=6))
        await journal.append([block(1)], [Mark(followed, 2, heard_us=8)])
    async with place.restarted().open() as journal:
        remembered = journal.remembered_subscription(WELL)
        assert remembered is not None
        assert (remembered.last_sequence, remembered.heard_us) == (2, 8)
