"""The Publish cycle and items against a device that does what the test says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from opcua import ua
from structlog.testing import capture_logs

from scada_trio.opcua.publishing import PUBLISH_AHEAD
from scada_trio.status import ConnectionState
from tests.devices.scripted import SILENCE, ScriptedDevice
from tests.fix_devices import tag
from tests.fix_scripted import CODES, PATIENT, A, B, open_connected

# ---- Publish


async def test_acknowledged_when_accepted() -> None:
    """A notification is acknowledged with the request that its acceptance makes room for; keep-alives never are."""
    async with open_connected(A) as (device, rig):
        await device.keep_alive()
        await device.notify({1: 1.5})
        delivery = await rig.take(accept=False)
        await device.until(lambda: len(device.publishes) == PUBLISH_AHEAD - 1)
        assert device.acknowledged == []
        rig.accept(delivery)
        await device.until(lambda: len(device.publishes) == PUBLISH_AHEAD)
        assert device.acknowledged == [1]


async def test_at_most_three_unaccepted() -> None:
    """Unaccepted notifications take the places of requests until none is left; accepting frees them."""
    async with open_connected(A) as (device, rig):
        for value in range(PUBLISH_AHEAD):
            await device.notify({1: float(value)})
        held = [await rig.take(accept=False) for _ in range(PUBLISH_AHEAD)]
        asked = device.calls.count("Publish")
        assert asked == PUBLISH_AHEAD
        for delivery in held:
            rig.accept(delivery)
        await device.until(lambda: device.acknowledged == [1, 2, 3])


async def test_full_channel_keeps_the_order() -> None:
    """What the channel does not take at once waits, and comes in order."""
    async with open_connected(A, waiting=0) as (device, rig):
        for value in range(PUBLISH_AHEAD):
            await device.notify({1: float(value)})
        await trio.testing.wait_all_tasks_blocked(0.05)
        got = [rig.readings((await rig.take()).block, A.node_id)[0][1] for _ in range(PUBLISH_AHEAD)]
        assert got == [0.0, 1.0, 2.0]


async def test_held_session_is_kept_alive() -> None:
    """While Publish is held the session is touched several times within its timeout."""
    async with open_connected(A, settings=replace(PATIENT, session_timeout_s=0.6)) as (device, rig):
        for value in range(PUBLISH_AHEAD):
            await device.notify({1: float(value)})
        held = [await rig.take(accept=False) for _ in range(PUBLISH_AHEAD)]
        reads = device.calls.count("Read")
        await device.until(lambda: device.calls.count("Read") >= reads + 4)
        assert rig.connection.status.state is ConnectionState.CONNECTED
        device.answers["Read"] = SILENCE
        assert len(held) == PUBLISH_AHEAD


async def test_silent_while_held() -> None:
    """A device that leaves the Read of a held session unanswered is given up."""
    settings = replace(PATIENT, session_timeout_s=0.6, connect_timeout_s=0.5)
    async with open_connected(A, settings=settings) as (device, rig):
        device.answers["Read"] = SILENCE
        for value in range(PUBLISH_AHEAD):
            await device.notify({1: float(value)})
        held = [await rig.take(accept=False) for _ in range(PUBLISH_AHEAD)]
        await device.until(lambda: "closed" in device.calls)
        assert rig.errors("silent") == 1
        for delivery in held:
            rig.accept(delivery)  # late, for a session that is gone: harmless


async def test_gap_is_counted() -> None:
    """A missing sequence number is counted and logged, and what came is kept."""
    with capture_logs() as logs:
        async with open_connected(A) as (device, rig):
            await device.notify({1: 1.0})
            await device.notify({1: 2.0}, sequence=5)
            await rig.until_value(A.node_id, 2.0)
            assert rig.errors("sequence_gap") == 1
            assert rig.connection.status.state is ConnectionState.CONNECTED
    (line,) = [line for line in logs if line["event"] == "OPC UA readings lost"]
    assert (line["reason"], line["detail"]) == ("sequence_gap", "3 notifications: BadMessageNotAvailable")


async def test_fewer_requests_for_a_small_server() -> None:
    """A server that finds the requests too many gets one less."""
    async with open_connected(A) as (device, rig):
        await device.refuse_publish(CODES.BadTooManyPublishRequests)
        await device.notify({1: 1.0})
        await rig.until_value(A.node_id, 1.0)
        await device.until(lambda: device.calls.count("Publish") == PUBLISH_AHEAD + 1)
        assert len(device.publishes) == PUBLISH_AHEAD - 1


async def test_timed_out_publish_is_sent_again() -> None:
    """A Publish that timed out at the server is asked again."""
    async with open_connected(A) as (device, rig):
        await device.refuse_publish(CODES.BadTimeout)
        await device.until(lambda: len(device.publishes) == PUBLISH_AHEAD)
        assert rig.connection.status.state is ConnectionState.CONNECTED


@pytest.mark.parametrize("code", ["BadNoSubscription", "BadSessionIdInvalid", "BadInternalError"])
async def test_fault_ends_the_session(code: str) -> None:
    """A fault that says that session or subscription are gone makes a new session."""
    async with open_connected(A) as (device, rig):
        await device.refuse_publish(getattr(CODES, code))
        await device.until(lambda: device.calls.count("ActivateSession") == 2)
        await rig.state(ConnectionState.CONNECTED)


async def test_status_change_ends_the_session() -> None:
    """A server that ends the subscription gets a new session."""
    async with open_connected(A) as (device, rig):
        await device.change_status(CODES.BadTimeout)
        await device.until(lambda: device.calls.count("ActivateSession") == 2)
        assert rig.errors("unreachable") == 1


async def test_unreadable_notification() -> None:
    """A notification that cannot be read is counted, and the next one arrives."""
    async with open_connected(A) as (device, rig):
        await device.answer_publish(b"\xff" * 7)
        await device.notify({1: 3.0})
        await rig.until_value(A.node_id, 3.0)
        assert rig.errors("protocol") == 1
        assert rig.errors("sequence_gap") == 0


async def test_answers_for_another_subscription() -> None:
    """A few are passed over; nothing but such answers, each at once, is a session that is given up."""
    async with open_connected(A) as (device, rig):
        for _ in range(2):
            for _ in range(10):
                await device.keep_alive(foreign=True)
            await device.notify({1: 1.0})
            await rig.take()
        assert device.calls.count("ActivateSession") == 1
        for _ in range(11):
            await device.keep_alive(foreign=True)
        await device.until(lambda: device.calls.count("ActivateSession") == 2)
        assert rig.errors("protocol") == 1
        await rig.state(ConnectionState.CONNECTED)


# ---- items


async def test_difference_only() -> None:
    """A changed set of tags touches the items that differ; the others keep theirs on the server."""
    async with open_connected(A, B) as (device, rig):
        before = dict(device.items)
        other = tag("ns=1;s=c")
        rig.update(tags=(A, other))
        await rig.eventually(lambda: rig.connection.status.tags_monitored == 2 and len(device.items) == 2)
        await device.until(lambda: 3 in device.items)
        assert device.items == {1: before[1], 3: 3}
        rig.update(tags=(replace(A, scaling_factor=4.0), other))
        await trio.testing.wait_all_tasks_blocked(0.05)
        await device.notify({1: 2.0})
        await rig.until_value(A.node_id, 8.0)
        assert device.items == {1: before[1], 3: 3}
        rig.update(tags=(replace(A, scaling_factor=4.0, deadband=1.0), other))
        await device.until(lambda: "ModifyMonitoredItems" in device.calls)
        assert device.asked[1].Filter.DeadbandValue == 0.25
        assert device.items == {1: before[1], 3: 3}


async def test_too_many_operations() -> None:
    """A server that takes fewer items a call than it says gets half as many, until it takes them."""
    device = ScriptedDevice()
    sizes: list[int] = []

    def create(parameters: Any) -> Any:
        sizes.append(len(parameters.ItemsToCreate))
        return device._CreateMonitoredItems(parameters) if sizes[-1] <= 5 else CODES.BadTooManyOperations

    device.answers["CreateMonitoredItems"] = create
    tags = [tag(f"ns=1;s=n{number}") for number in range(12)]
    device.answers["Read"] = lambda parameters: _limit(20)
    async with open_connected(*tags, device=device) as (device, rig):
        assert sizes == [12, 10, 5, 5, 2]
        assert rig.connection.status.tags_monitored == 12
        assert len(device.items) == 12


def _limit(value: int) -> Any:
    response = ua.ReadResponse()
    response.Results = [ua.DataValue(ua.Variant(value, ua.VariantType.UInt32))]
    return response


async def test_refused_deadband() -> None:
    """An item whose deadband the server refuses is created without it."""
    device = ScriptedDevice()

    def create(parameters: Any) -> Any:
        response = ua.CreateMonitoredItemsResponse()
        for number, wanted in enumerate(parameters.ItemsToCreate, 1):
            result = ua.MonitoredItemCreateResult()
            filtered = isinstance(wanted.RequestedParameters.Filter, ua.DataChangeFilter)
            result.StatusCode = ua.StatusCode(CODES.BadMonitoredItemFilterUnsupported if filtered else 0)
            result.MonitoredItemId = number
            response.Results.append(result)
        return response

    device.answers["CreateMonitoredItems"] = create
    with capture_logs() as logs:
        async with open_connected(tag("ns=1;s=a", deadband=0.5), device=device) as (device, rig):
            assert rig.connection.status.tags_monitored == 1
            assert device.calls.count("CreateMonitoredItems") == 2
    assert any("deadband" in line["event"] for line in logs)
