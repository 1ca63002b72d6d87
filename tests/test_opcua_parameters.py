"""What subscriptions and items are asked for, what three makers' servers make of it, and how it is changed live."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from opcua import ua
from structlog.testing import capture_logs

from scada_trio.sampling import Sampling
from scada_trio.status import ConnectionState, RefusedTag, RevisedItem
from tests.devices.scripted import ScriptedDevice
from tests.fix_devices import FAST, Device, Memory, Rig, open_device, open_rig, tag

PATIENT = replace(FAST, keep_alive_s=100.0)
A, B = tag("ns=1;s=a"), tag("ns=1;s=b")
CODES = ua.StatusCodes


@asynccontextmanager
async def open_scripted(
    *tags: Any, device: ScriptedDevice | None = None, **fields: Any
) -> AsyncIterator[tuple[ScriptedDevice, Rig]]:
    """A scripted device and a connection to it that is connected."""
    device = device or ScriptedDevice()
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        async with open_rig(device.url, tags, settings=PATIENT, **fields) as rig:
            await rig.state(ConnectionState.CONNECTED)
            yield device, rig
        nursery.cancel_scope.cancel()


async def seen_by(device: Device) -> Any:
    """node-opcua's own view of its monitored items."""
    assert device._process is not None
    assert device._process.stdin is not None
    await device._process.stdin.send_all(json.dumps({"op": "items"}).encode() + b"\n")
    return await device._answer()


# ---- what is asked for


async def test_tag_before_connection_before_environment() -> None:
    """Each parameter comes from the narrowest place that has it."""
    own = replace(A, sampling=Sampling(interval_ms=0.0, discard_oldest=False))
    general = Sampling(queue_size=7, interval_ms=300.0)
    asked: list[float] = []
    device = ScriptedDevice()

    def create(parameters: Any) -> Any:
        asked.append(parameters.RequestedPublishingInterval)
        return device._CreateSubscription(parameters)

    device.answers["CreateSubscription"] = create
    async with open_scripted(own, B, device=device, publishing_interval_ms=250.0, sampling=general) as (device, rig):
        first, second = device.asked[1], device.asked[2]
        assert (first.SamplingInterval, first.QueueSize, first.DiscardOldest) == (0.0, 7, False)
        assert (second.SamplingInterval, second.QueueSize, second.DiscardOldest) == (300.0, 7, True)
        assert asked == [250.0]
        terms = rig.connection.status.revisions.terms
        assert terms is not None
        assert (terms.publishing_ms, terms.revised_publishing_ms, terms.keep_alive_count) == (250.0, 250.0, 400)


async def test_a_tag_with_a_problem_is_in_nobody_elses_way() -> None:
    """It is shown as refused with what is wrong with its row; once the row is right it is monitored."""
    async with open_scripted(replace(A, problem="queue_size: 0 is too few"), B) as (device, rig):
        assert rig.connection.status.tags_refused == [RefusedTag(A.node_id, "queue_size: 0 is too few")]
        assert len(device.items) == 1
        rig.update(tags=(A, B))
        await rig.eventually(lambda: rig.connection.status.tags_monitored == 2)
        assert rig.connection.status.tags_refused == []


# ---- changes


async def test_one_changed_tag_is_one_changed_item() -> None:
    """One call changes one item; nothing is deleted or made, and the same again is no call at all."""
    async with open_scripted(A, B) as (device, rig):
        changed = replace(B, sampling=Sampling(queue_size=3))
        rig.update(tags=(A, changed))
        await device.until(lambda: "ModifyMonitoredItems" in device.calls)
        assert (device.asked[1].QueueSize, device.asked[2].QueueSize) == (PATIENT.queue_size, 3)
        rig.update(tags=(A, replace(changed, name="another name")))
        await trio.testing.wait_all_tasks_blocked(0.05)
        for service, count in (("ModifyMonitoredItems", 1), ("CreateMonitoredItems", 1), ("DeleteMonitoredItems", 0)):
            assert device.calls.count(service) == count


async def test_a_changed_publishing_interval_changes_the_subscription() -> None:
    """Session, subscription and items stay; a device that refuses is left at what it had, which is shown."""
    async with open_scripted(A) as (device, rig):
        rig.update(publishing_interval_ms=400.0)
        await device.until(lambda: "ModifySubscription" in device.calls)
        await rig.eventually(lambda: _publishing(rig) == (400.0, 400.0))
        device.answers["ModifySubscription"] = CODES.BadServiceUnsupported
        rig.update(publishing_interval_ms=800.0)
        await rig.eventually(lambda: _publishing(rig) == (800.0, 400.0))
        assert device.calls.count("CreateSubscription") == 1
        assert "ModifyMonitoredItems" not in device.calls


def _publishing(rig: Rig) -> tuple[float, float] | None:
    terms = rig.connection.status.revisions.terms
    return None if terms is None else (terms.publishing_ms, terms.revised_publishing_ms)


@pytest.mark.parametrize("code", ["BadServiceUnsupported", "BadMonitoredItemIdInvalid"])
async def test_items_that_cannot_be_changed_are_made_anew(code: str) -> None:
    """Whether the server does not know the service, or not the item."""
    async with open_scripted(A, B) as (device, rig):
        if code == "BadMonitoredItemIdInvalid":
            device.items.pop(2)
            device.answers["DeleteMonitoredItems"] = CODES.BadUnexpectedError
        else:
            device.answers["ModifyMonitoredItems"] = getattr(CODES, code)
        rig.update(tags=(A, replace(B, deadband=1.0)))
        await device.until(lambda: 3 in device.items)
        assert 1 in device.items
        assert rig.errors("device") == 0


async def test_an_interrupted_change_is_made_again() -> None:
    """A link that breaks while the device owes the answer leaves the item in doubt; the next one asks again."""
    device = ScriptedDevice()
    device.remembers = True
    async with open_scripted(A, device=device) as (device, rig):
        device.answers["ModifyMonitoredItems"] = lambda _: CODES.BadSessionIdInvalid
        rig.update(tags=(replace(A, sampling=Sampling(queue_size=2)),))
        await device.until(lambda: "ModifyMonitoredItems" in device.calls)
        del device.answers["ModifyMonitoredItems"]
        await device.until(lambda: any(asked.QueueSize == 2 for asked in device.asked.values()))
        await rig.state(ConnectionState.CONNECTED)


async def test_parameters_outlive_a_restart() -> None:
    """The next process takes the items over, asks for what is wanted of them, and learns what was revised."""
    device, memory = ScriptedDevice(), Memory()
    device.remembers, device.max_queue_size = True, 20
    wanted = replace(A, sampling=Sampling(queue_size=30))
    async with open_scripted(wanted, device=device, memory=memory) as (device, _):
        before = dict(device.items)
    device.port = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        remembered = memory.subscriptions[memory.connection_id]
        memory.subscriptions[memory.connection_id] = replace(remembered, endpoint_url=device.url)
        async with open_rig(device.url, (wanted,), settings=PATIENT, memory=memory) as rig:
            await rig.state(ConnectionState.CONNECTED)
            assert device.items == before
            assert device.calls.count("CreateSubscription") == 1
            assert rig.connection.status.revisions.examples == (RevisedItem(A.node_id, 50.0, 50.0, 30, 20),)
        nursery.cancel_scope.cancel()


# ---- what is shown


async def test_revisions_are_said_once_and_shown() -> None:
    """One line a connection with counts and a few examples; a reconnect that brings the same says nothing."""
    device = ScriptedDevice()
    device.max_queue_size = 20
    tags = [tag(f"ns=1;s=n{number}") for number in range(200)]
    with capture_logs() as logs:
        async with open_scripted(*tags, device=device) as (device, rig):
            revisions = rig.connection.status.revisions
            assert (revisions.items, len(revisions.examples)) == (200, 10)
            await device.hang_up()
            await device.until(lambda: device.calls.count("CreateMonitoredItems") == 2)
            await rig.eventually(lambda: rig.connection.status.revisions == revisions)
    (line,) = [line for line in logs if line["event"] == "OPC UA subscription revised by the device"]
    assert (line["items_revised"], len(line["examples"])) == (200, 3)


# ---- three makers


async def test_real_servers_change_items_live(maker: str) -> None:
    """Values that wait in a queue while the item changes arrive, and no other item notices."""
    names = ["a", "b"]
    async with open_device(maker, nodes=names) as device, open_rig(device.url, (A, B)) as rig:
        await rig.state(ConnectionState.CONNECTED)
        await device.write("a", 1.0)
        await rig.until_value(A.node_id, 1.0)
        ids = dict(_ids(rig))
        rig.update(publishing_interval_ms=1500.0)
        granted_ms = 50.0 if maker == "asyncua" else 1500.0  # asyncua takes the call and keeps its interval
        await rig.eventually(lambda: _publishing(rig) == (1500.0, granted_ms))
        since = rig.connection.status.since
        for value in (2.0, 3.0, 4.0):
            await device.write("a", value)
            await trio.sleep(0.12)  # the device samples
        rig.update(tags=(replace(A, sampling=Sampling(queue_size=20, interval_ms=100.0)), B))
        seen: list[tuple[int, float]] = []
        with trio.fail_after(30):
            while not seen or seen[-1][1] != 4.0:
                block = (await rig.take()).block
                seen += [(time_us, value) for time_us, value, _ in rig.readings(block, A.node_id)]
        # node-opcua sends the last one again behind its queue, with the same time
        assert [value for _, value in dict.fromkeys(seen)] == [2.0, 3.0, 4.0]
        assert _ids(rig) == ids
        assert rig.connection.status.since == since
        if maker == "node-opcua":
            items = await seen_by(device)
            assert {field: items[A.node_id][field] for field in ("publishing", "sampling", "queue")} == {
                "publishing": 1500,
                "sampling": 100,
                "queue": 20,
            }
            assert items[B.node_id]["queue"] == FAST.queue_size


def _ids(rig: Rig) -> dict[Any, int | None]:
    kept = rig.connection._keeper.kept
    assert kept is not None
    return {series: item.item_id for series, item in kept.items.items()}


@pytest.mark.parametrize(("maker", "revised"), [("asyncua", None), ("open62541", 100), ("node-opcua", None)])
async def test_a_long_queue(maker: str, revised: int | None) -> None:
    """open62541 keeps 100 values, which is shown; the others take what is asked for."""
    wanted = replace(A, sampling=Sampling(queue_size=1500))
    async with open_device(maker, nodes=["a"]) as device, open_rig(device.url, (wanted,)) as rig:
        await rig.state(ConnectionState.CONNECTED)
        shown = [item.revised_queue_size for item in rig.connection.status.revisions.examples]
        assert shown == ([] if revised is None else [revised])


@pytest.mark.parametrize(("maker", "held_back"), [("asyncua", False), ("open62541", True), ("node-opcua", True)])
async def test_percent_deadband(maker: str, held_back: bool) -> None:
    """A change within the percentage of the EURange is held back; asyncua takes the filter and does not apply it."""
    wanted = replace(A, deadband_percent=10.0)
    async with open_device(maker) as device:
        await device.tell("add", node=A.node_id, type="Double", range=[0, 200])
        async with open_rig(device.url, (wanted,)) as rig:
            await rig.state(ConnectionState.CONNECTED)
            assert rig.connection.status.revisions.unfiltered == 0
            await device.write("a", 100.0)
            await rig.until_value(A.node_id, 100.0)
            await device.write("a", 110.0)
            await trio.sleep(0.3)  # the device samples
            await device.write("a", 150.0)
            assert (await rig.until(A.node_id, lambda *_: True))[1] == (150.0 if held_back else 110.0)
            if maker == "node-opcua":
                assert (await seen_by(device))[A.node_id]["deadband"] == [2, 10]


@pytest.mark.parametrize(("maker", "refused"), [("asyncua", False), ("open62541", True), ("node-opcua", True)])
async def test_percent_deadband_without_a_range(maker: str, refused: bool) -> None:
    """A node without EURange cannot be filtered so: it reports every change, which is logged and shown."""
    wanted = replace(A, deadband_percent=10.0)
    with capture_logs() as logs:
        async with open_device(maker, nodes=["a"]) as device, open_rig(device.url, (wanted,)) as rig:
            await rig.state(ConnectionState.CONNECTED)
            assert rig.connection.status.revisions.unfiltered == refused
            await device.write("a", 0.5)
            await rig.until_value(A.node_id, 0.5)
    lines = [line for line in logs if line["event"] == "device refused deadbands, items report every change"]
    assert [(line["items"], line["examples"]) for line in lines] == ([(1, [A.node_id])] if refused else [])


@pytest.mark.parametrize(("queue_size", "discard_oldest"), [(1, True), (1, False), (3, True), (3, False)])
@pytest.mark.parametrize("maker", ["open62541", "node-opcua"])
async def test_full_queues(maker: str, queue_size: int, discard_oldest: bool) -> None:
    """A queue of one never overflows (Part 4, 5.12.1.5); a longer one marks the value beside those that it dropped."""
    sampling = Sampling(10.0, queue_size, discard_oldest)
    async with (
        open_device(maker, nodes=["a"]) as device,
        open_rig(device.url, (replace(A, sampling=sampling),), publishing_interval_ms=1500.0) as rig,
    ):
        await rig.state(ConnectionState.CONNECTED)
        await rig.until_value(A.node_id, 0.0)
        for value in range(1, 7):
            await device.write("a", float(value))
            await trio.sleep(0.1)  # the device samples
        seen: list[float] = []
        with trio.fail_after(30):
            while 6.0 not in seen:
                seen += [value for _, value, _ in rig.readings((await rig.take()).block, A.node_id)]
        assert len(seen) < 6
        assert (rig.connection.status.lost["queue_overflow"] > 0) == (queue_size > 1)
        assert queue_size == 1 or seen[-2] == (5.0 if discard_oldest else 2.0)
