"""Nothing is lost that the device still has: gaps, breaks and restarts, with a device that does what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from opcua import ua

from scada_trio.losses import LossReason, RememberedSubscription
from scada_trio.opcua.sequence import advance, after, ahead, before
from scada_trio.status import ConnectionState
from tests.devices.scripted import SILENCE, ScriptedDevice
from tests.fix_devices import FAST, Memory, Rig, free_port, open_rig, tag

A, B = tag("ns=1;s=a"), tag("ns=1;s=b")
CODES = ua.StatusCodes
PATIENT = replace(FAST, keep_alive_s=100.0)
LAST = 0xFFFFFFFF


@asynccontextmanager
async def open_recovering(
    *tags: Any, settings: Any = PATIENT, memory: Memory | None = None, device: ScriptedDevice | None = None
) -> AsyncIterator[tuple[ScriptedDevice, Rig, Memory]]:
    """A device that keeps its session and subscription over breaks, and a connection to it that remembers."""
    device, memory = device or ScriptedDevice(), memory or Memory()
    device.remembers = True
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        async with open_rig(device.url, tags, settings=settings, memory=memory) as rig:
            await rig.state(ConnectionState.CONNECTED)
            yield device, rig, memory
        nursery.cancel_scope.cancel()


async def values(rig: Rig, count: int) -> list[float]:
    """The next ``count`` values of A."""
    got: list[float] = []
    while len(got) < count:
        got += [value for _, value, _ in rig.readings((await rig.take()).block, A.node_id)]
    return got


# ---- numbers


def test_numbers_go_round() -> None:
    """After 2^32 - 1 comes 1, and distances are right over the turn."""
    assert [after(0), after(1), after(LAST)] == [1, 2, 1]
    assert [before(2), before(1)] == [1, LAST]
    assert [advance(LAST - 1, 0), advance(LAST - 1, 3)] == [LAST - 1, 2]
    assert [ahead(LAST, 1), ahead(1, LAST), ahead(5, 5), ahead(5, 8), ahead(8, 5)] == [1, -1, 0, 3, -3]


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


@asynccontextmanager
async def open_taken_over(device: ScriptedDevice, memory: Memory, *tags: Any) -> AsyncIterator[Rig]:
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        remembered = memory.subscriptions[memory.connection_id]
        memory.subscriptions[memory.connection_id] = replace(remembered, endpoint_url=device.url)
        async with open_rig(device.url, tags, settings=PATIENT, memory=memory) as rig:
            await rig.state(ConnectionState.CONNECTED)
            yield rig
        nursery.cancel_scope.cancel()


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


# ---- many at once


async def test_no_stampede() -> None:
    """A hundred connections that come back at the same time log in as few at a time as they may, and all get there."""
    at_once, most, active = 5, 0, 0
    connecting = trio.CapacityLimiter(at_once)
    logging_in: set[ScriptedDevice] = set()

    class Watched(ScriptedDevice):
        def _note(self, call: str) -> None:
            nonlocal most
            if call == "OpenSecureChannel":
                logging_in.add(self)
            elif call in ("CreateMonitoredItems", "closed"):
                logging_in.discard(self)
            most = max(most, len(logging_in))
            super()._note(call)

    devices: list[Watched] = []

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal active
        device = Watched()
        devices.append(device)
        active += 1
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await device.serve_client(stream)
        device._note("closed")
        active -= 1

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        url = f"opc.tcp://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with AsyncExitStack() as stack:
            rigs = [
                await stack.enter_async_context(open_rig(url, (A,), settings=PATIENT, connecting=connecting))
                for _ in range(100)
            ]
            for rig in rigs:
                await rig.state(ConnectionState.CONNECTED)
            for device in list(devices):
                await device.hang_up()
            for rig in rigs:
                await rig.eventually(lambda rig=rig: rig.errors("unreachable") >= 1)  # type: ignore[misc]
                await rig.state(ConnectionState.CONNECTED)
            assert len(devices) >= 200
        nursery.cancel_scope.cancel()
    assert 1 < most <= at_once


async def test_device_that_comes_back_is_found_before_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that waits long for its next attempt tries when something listens at the address again."""
    monkeypatch.setattr("scada_trio.connection._KNOCK_S", 0.1)
    settings = replace(PATIENT, reconnect_delay_s=3000.0, max_backoff_s=3000.0, max_attempts=1, slow_retry_s=3000.0)
    device = ScriptedDevice()
    device.port = free_port()
    async with open_rig(device.url, (A,), settings=settings) as rig:
        await rig.state(ConnectionState.FAILED)
        async with trio.open_nursery() as nursery:
            await nursery.start(device.serve)
            await rig.state(ConnectionState.CONNECTED)
            nursery.cancel_scope.cancel()
