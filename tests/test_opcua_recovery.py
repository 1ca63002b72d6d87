"""Links that break and services that start again lose nothing that the device still has; with a scripted device."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from opcua import ua

from scada_trio.losses import LossReason, RememberedSubscription
from tests.devices.scripted import SILENCE, ScriptedDevice
from tests.fix_devices import Memory
from tests.fix_scripted import CODES, PATIENT, A, B, open_recovering, open_taken_over, values

# ---- breaks


async def test_session_is_activated_again() -> None:
    """A link that is cut goes on with its session, its subscription and its items, and gets what it missed."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0})
        await rig.take()
        await device.notify({1: 2.0}, missed=True)  # a Publish in flight at the cut is consumed
        await device.hang_up()
        await device.until(lambda: device.calls.count("ActivateSession") == 2)
        await device.notify({1: 3.0})
        assert await values(rig, 2) == [2.0, 3.0]
        assert device.calls.count("CreateSession") == device.calls.count("CreateSubscription") == 1
        assert device.calls.count("CreateMonitoredItems") == 1
        assert "TransferSubscriptions" not in device.calls
        assert memory.losses == []


async def test_what_was_received_before_a_break_is_acknowledged_after_it() -> None:
    """Acceptance during a break counts in the next session."""
    async with open_recovering(A) as (device, rig, _):
        await device.notify({1: 1.0})
        first = await rig.take(accept=False)
        await device.hang_up()
        rig.accept(first)
        await device.until(lambda: device.calls.count("ActivateSession") == 2)
        await device.until(lambda: device.acknowledged == [1])


async def test_subscription_is_transferred() -> None:
    """Where the session is gone a new one takes the subscription over, with what was missed."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0})
        await rig.take()
        await device.notify({1: 2.0}, missed=True)
        device.sessions.clear()
        await device.hang_up()
        await device.until(lambda: "TransferSubscriptions" in device.calls)
        await device.notify({1: 3.0})
        assert await values(rig, 2) == [2.0, 3.0]
        assert device.calls.count("CreateSubscription") == 1
        assert rig.errors("session_lost") == 1
        assert memory.losses == []


def _transferred(device: ScriptedDevice, times: int) -> bool:
    return device.calls.count("TransferSubscriptions") == times


async def test_what_is_lost_is_not_acknowledged() -> None:
    """A server that still has what it did not send again in time is not told that it was taken, by no later session."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0})
        await rig.take()
        device.answers["Republish"] = CODES.BadTooManyOperations
        await device.notify({1: 2.0}, missed=True)
        await device.notify({1: 3.0})
        assert await values(rig, 1) == [3.0]
        assert [loss.reason for loss in memory.losses] == [LossReason.SEQUENCE_GAP]
        for session in range(1, 3):
            device.sessions.clear()
            await device.hang_up()
            await device.until(partial(_transferred, device, session))
            await device.notify({1: 3.0 + session})
            assert await values(rig, 1) == [3.0 + session]
        await device.until(lambda: 5 in device.acknowledged)
        assert 2 in device.sent
        assert sorted(device.acknowledged) == [1, 3, 4, 5]


def _refuse(code: int) -> Any:
    def answer(parameters: Any) -> Any:
        response = ua.TransferSubscriptionsResponse()
        result = ua.TransferResult()
        result.StatusCode = ua.StatusCode(code)
        response.Parameters.Results = [result]
        return response

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(CODES.BadServiceUnsupported, id="BadServiceUnsupported"),
        pytest.param(_refuse(CODES.BadSubscriptionIdInvalid), id="BadSubscriptionIdInvalid"),
        pytest.param(_refuse(CODES.BadUserAccessDenied), id="BadUserAccessDenied"),
        pytest.param(lambda _: ua.TransferSubscriptionsResponse(), id="no result"),
        pytest.param(b"\x01", id="cut off"),
    ],
)
async def test_refused_transfer(answer: Any) -> None:
    """A transfer that is refused as a whole or in its result makes a new subscription, and the time between is lost."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0})
        await rig.take()
        device.answers["TransferSubscriptions"] = answer
        device.sessions.clear()
        await device.hang_up()
        await device.until(lambda: device.subscription_id == 2)
        await rig.eventually(lambda: memory.losses != [])
        (loss,) = memory.losses
        assert loss.reason is LossReason.SUBSCRIPTION_LOST
        assert loss.from_us < loss.to_us
        assert rig.errors("transfer_refused") == 1
        handle = max(device.items.values())
        await device.notify({handle: 2.0})
        assert await values(rig, 1) == [2.0]


@pytest.mark.parametrize("keeps_session", [True, False])
async def test_takeover_without_a_word(keeps_session: bool) -> None:
    """A server that says yes and then publishes nothing gets a new subscription after a bound, though it answers."""
    settings = replace(PATIENT, keep_alive_s=0.4)
    device = ScriptedDevice()
    async with open_recovering(A, settings=settings, device=device) as (device, rig, memory):
        await device.notify({1: 1.0})
        await rig.take()
        if not keeps_session:
            device.sessions.clear()
        await device.hang_up()
        await device.until(lambda: device.subscription_id == 2)
        await rig.eventually(lambda: len(memory.losses) == 1)
        assert memory.losses[0].reason is LossReason.SUBSCRIPTION_LOST
        assert rig.errors("takeover_unanswered") == 2  # the second time after the link was cut


async def test_server_that_was_started_again() -> None:
    """A subscription of the same number on a server that has another start time is somebody else's."""
    device = ScriptedDevice()
    started = [ua.datetime(2026, 1, 1)]

    def read(parameters: Any) -> Any:
        response = ua.ReadResponse()
        response.Results = [ua.DataValue(ua.Variant(0, ua.VariantType.UInt32)), ua.DataValue(ua.Variant(started[0]))]
        return response

    device.answers["Read"] = read
    async with open_recovering(A, device=device) as (device, rig, memory):
        await device.notify({1: 1.0})
        await rig.take()
        started[0] = ua.datetime(2026, 1, 2)
        device.sessions.clear()
        await device.hang_up()
        await device.until(lambda: device.subscription_id == 2)
        assert "TransferSubscriptions" not in device.calls
        await rig.eventually(lambda: len(memory.losses) == 1)
        assert "started again" in memory.losses[0].detail


async def test_never_connected_loses_nothing() -> None:
    """A first connection records no loss, however many attempts it took."""
    device = ScriptedDevice()

    def fail_once(parameters: Any) -> int:
        device.answers.clear()
        return int(CODES.BadInternalError)

    device.answers["CreateMonitoredItems"] = fail_once
    async with open_recovering(A, device=device) as (device, rig, memory):
        assert rig.errors("device") == 1
        assert memory.losses == []


async def test_broken_while_items_change() -> None:
    """Items that may or may not exist after a break are left behind with their subscription."""
    async with open_recovering(A) as (device, rig, memory):
        await device.notify({1: 1.0})
        await rig.take()
        device.answers["CreateMonitoredItems"] = SILENCE
        rig.update(tags=(A, B))
        await device.until(lambda: device.calls.count("CreateMonitoredItems") == 2)
        del device.answers["CreateMonitoredItems"]
        await device.hang_up()
        await device.until(lambda: device.subscription_id == 2)
        assert "DeleteSubscriptions" in device.calls
        await rig.eventually(lambda: rig.connection.status.tags_monitored == 2)
        await rig.eventually(lambda: len(memory.losses) == 1)


# ---- from one process to the next


async def test_stopped_and_started() -> None:
    """A connection that is stopped leaves its subscription, and the next process goes on where the last accepted is."""
    device, memory = ScriptedDevice(), Memory()
    async with open_recovering(A, B, device=device, memory=memory) as (device, rig, memory):
        await device.notify({1: 1.0})
        await rig.take()
        await device.notify({1: 2.0})
        await rig.take(accept=False)  # it dies with the process
    assert device.subscriptions_deleted == [False]
    remembered = memory.subscriptions[memory.connection_id]
    assert (remembered.subscription_id, remembered.last_sequence) == (1, 1)
    await device.notify({1: 3.0}, missed=True)
    device.port = 0
    only_a = replace(A, scaling_factor=10.0)
    async with open_taken_over(device, memory, only_a) as rig:
        await device.notify({1: 4.0})
        assert await values(rig, 3) == [20.0, 30.0, 40.0]
        assert device.calls.count("CreateSubscription") == 1
        assert len(device.items) == 1  # B's item went with the tag
        assert memory.losses == []


async def test_changed_deadband_is_asked_for_after_a_restart() -> None:
    """A tag whose deadband changed while the service was down keeps its item, with the new deadband."""
    device, memory = ScriptedDevice(), Memory()
    async with open_recovering(replace(A, deadband=1.0), device=device, memory=memory):
        before_items = dict(device.items)
    device.port = 0
    async with open_taken_over(device, memory, replace(A, deadband=2.0)):
        assert device.calls.count("CreateSubscription") == 1
        assert device.items == before_items
        assert [asked.Filter.DeadbandValue for asked in device.asked.values()] == [2.0]


async def test_other_endpoint_is_not_taken_over() -> None:
    """What is remembered of another endpoint is of no use."""
    memory = Memory()
    old = RememberedSubscription("opc.tcp://192.0.2.1:4840", 1, 7, {1: (A.well_id, A.node_id, 1)})
    memory.subscriptions[memory.connection_id] = old
    async with open_recovering(A, memory=memory) as (device, _, memory):
        assert "TransferSubscriptions" not in device.calls
        assert memory.losses == []


async def test_discarded_connection_leaves_nothing() -> None:
    """A connection that is removed deletes its subscription and what is remembered of it."""
    async with open_recovering(A) as (device, rig, memory):
        assert memory.subscriptions
        rig.connection.discard()
    assert device.subscriptions_deleted == [True]
    assert memory.subscriptions == {}


async def test_credentials_change_keeps_the_subscription() -> None:
    """A new link to the same endpoint takes the subscription over from the one before."""
    async with open_recovering(A) as (device, rig, memory):
        rig.update(allow_plaintext_password=True)
        await device.until(lambda: "TransferSubscriptions" in device.calls)
        assert device.subscriptions_deleted == [False]
        await device.notify({1: 2.0})
        assert await values(rig, 1) == [2.0]
        assert memory.losses == []
