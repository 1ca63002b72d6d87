"""The Publish cycle, items and upkeep against a device that does what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import psutil
import pytest
import trio
import trio.testing
from opcua import ua
from pydantic import SecretStr
from structlog.testing import capture_logs

from scada_trio.opcua import transport
from scada_trio.opcua.publishing import PUBLISH_AHEAD
from scada_trio.opcua.subscription import Subscription
from scada_trio.status import ConnectionState
from tests.devices.scripted import SILENCE, ScriptedDevice, user_token
from tests.fix_devices import FAST, Rig, open_rig, tag

A, B = tag("ns=1;s=a"), tag("ns=1;s=b")
CODES = ua.StatusCodes
PATIENT = replace(FAST, keep_alive_s=100.0)
"""For tests whose device is quiet because the test is."""


@asynccontextmanager
async def open_scripted(device: ScriptedDevice | None = None) -> AsyncIterator[ScriptedDevice]:
    device = device or ScriptedDevice()
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        yield device
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_pair(
    *tags: Any, settings: Any = PATIENT, device: ScriptedDevice | None = None, **fields: Any
) -> AsyncIterator[tuple[ScriptedDevice, Rig]]:
    """A scripted device and a connection to it."""
    async with open_scripted(device) as server, open_rig(server.url, tags, settings=settings, **fields) as rig:
        yield server, rig


@asynccontextmanager
async def open_connected(*tags: Any, **options: Any) -> AsyncIterator[tuple[ScriptedDevice, Rig]]:
    async with open_pair(*tags, **options) as (device, rig):
        await rig.state(ConnectionState.CONNECTED)
        yield device, rig


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


# ---- the channel and the session


async def test_channel_is_renewed() -> None:
    """The channel is renewed at three quarters of its life, and data goes on over the renewed one."""
    device = ScriptedDevice()
    device.channel_lifetime_ms = 800
    async with open_connected(A, device=device) as (device, rig):
        await device.until(lambda: device.calls.count("OpenSecureChannel") >= 3)
        await device.notify({1: 6.0})
        await rig.until_value(A.node_id, 6.0)
        assert device.calls.count("Hello") == 1


async def test_renewal_survives_a_timeout() -> None:
    """One renewal that is not answered is tried again within the channel's life."""
    device = ScriptedDevice()
    device.channel_lifetime_ms = 4000
    settings = replace(PATIENT, connect_timeout_s=0.3)
    async with open_connected(A, device=device, settings=settings) as (device, rig):
        device.answers["OpenSecureChannel"] = SILENCE
        await device.until(lambda: device.calls.count("OpenSecureChannel") >= 2)
        del device.answers["OpenSecureChannel"]
        await device.until(lambda: device.calls.count("OpenSecureChannel") >= 3)
        await device.notify({1: 6.0})
        await rig.until_value(A.node_id, 6.0)
        assert device.calls.count("Hello") == 1


async def test_silence_is_noticed() -> None:
    """A device that misses its keep-alives is given up within three periods."""
    settings = replace(FAST, keep_alive_s=0.2)
    async with open_connected(A, settings=settings) as (device, rig):
        await device.until(lambda: "closed" in device.calls)
        assert rig.errors("silent") == 1


async def test_session_is_closed_on_the_server() -> None:
    """A cancelled connection closes its session before its socket."""
    async with open_scripted() as device:
        async with open_rig(device.url, (A,), settings=PATIENT) as rig:
            await rig.state(ConnectionState.CONNECTED)
        await device.until(lambda: "closed" in device.calls)
    assert device.calls[-3:] == ["CloseSession", "CloseSecureChannel", "closed"]


async def test_goodbye_is_bounded() -> None:
    """A device that does not answer CloseSession holds nobody up for more than about two seconds."""
    async with open_scripted() as device:
        async with open_rig(device.url, (A,), settings=PATIENT) as rig:
            await rig.state(ConnectionState.CONNECTED)
            device.answers["CloseSession"] = SILENCE
        with trio.fail_after(10):
            await device.until(lambda: "closed" in device.calls)
    assert device.calls[-2:] == ["CloseSession", "closed"]


STAGES = ["OpenSecureChannel", "CreateSession", "ActivateSession", "CreateSubscription", "Read", "CreateMonitoredItems"]


@pytest.mark.parametrize("service", STAGES)
async def test_cancelled_while_waiting(service: str) -> None:
    """Cancelled while the device owes an answer, the thread returns at once, and neither socket nor task is left."""
    before = len(psutil.Process().net_connections())
    async with open_scripted() as device:
        device.answers[service] = SILENCE
        settings = replace(PATIENT, connect_timeout_s=300.0)
        with trio.fail_after(20):
            async with open_rig(device.url, (A,), settings=settings) as rig:
                await device.until(lambda: service in device.calls)
            await device.until(lambda: "closed" in device.calls)
        assert ("CloseSession" in device.calls) == (STAGES.index(service) >= 2)
    assert rig.limiter.borrowed_tokens == 0
    assert len(psutil.Process().net_connections()) == before


@pytest.mark.parametrize("service", ["OpenSecureChannel", "CreateSession", "CreateMonitoredItems"])
async def test_broken_while_waiting(service: str) -> None:
    """When the link breaks, the thread that waits for an answer is told at once, long before its time is over."""
    device = ScriptedDevice()
    device.answers[service] = SILENCE
    async with open_pair(A, device=device, settings=replace(PATIENT, connect_timeout_s=300.0)) as (device, rig):
        await device.until(lambda: service in device.calls)
        del device.answers[service]
        await device.hang_up()
        await rig.state(ConnectionState.CONNECTED)
        assert rig.errors("unreachable") == 1


@pytest.mark.parametrize("service", ["CreateSession", "CreateSubscription", "CreateMonitoredItems"])
async def test_fault_while_connecting(service: str) -> None:
    """A fault while connecting is shown with its service and status, and the next attempt works."""
    device = ScriptedDevice()
    device.answers[service] = CODES.BadInternalError
    async with open_pair(A, device=device) as (device, rig):
        await rig.eventually(lambda: rig.connection.status.last_error is not None)
        assert "BadInternalError" in str(rig.connection.status.last_error)
        assert service in str(rig.connection.status.last_error)
        del device.answers[service]
        await rig.state(ConnectionState.CONNECTED)


async def test_unexpected_error_is_contained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in one link is logged with its traceback, counted and tried again."""
    stock = Subscription.apply
    raised: list[bool] = []

    async def broken(self: Subscription, tags: Any) -> None:
        if not raised:
            raised.append(True)
            raise ZeroDivisionError
        await stock(self, tags)

    monkeypatch.setattr(Subscription, "apply", broken)
    with capture_logs() as logs:
        async with open_connected(A) as (_, rig):
            assert rig.errors("internal") == 1
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert line["exc_info"] is not None


# ---- hostile bytes on a live link


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no OPC UA"),
        pytest.param(b"MSGF" + (transport.MAX_CHUNK_BYTES + 1).to_bytes(4, "little"), id="too large"),
        pytest.param(b"MSGF\x08\x00\x00\x00", id="no header"),
        pytest.param(b"MSGF\x18\x00\x00\x00" + b"\xff" * 16, id="wrong channel"),
        pytest.param(b"ERRF\x10\x00\x00\x00" + (0x80AC0000).to_bytes(4, "little") + b"\xff" * 4, id="ERR"),
        pytest.param(b"ACKF\x08\x00\x00\x00", id="Acknowledge again"),
    ],
)
async def test_garbage_on_a_live_link(frame: bytes) -> None:
    """Bytes that have no place end the link, and the next one is as good as the first."""
    async with open_connected(A) as (device, rig):
        await device.send_raw(frame)
        await device.until(lambda: device.calls.count("CreateMonitoredItems") == 2)
        await rig.state(ConnectionState.CONNECTED)
        assert rig.errors("protocol") + rig.errors("unreachable") == 1


async def test_endless_message() -> None:
    """A message that goes on chunk by chunk is cut off at the bound, not collected."""
    async with open_connected(A) as (device, rig):
        token, channel = device.secure.security_token.TokenId, device.secure.security_token.ChannelId
        body = b"\0" * 60_000
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for number in range(1, 1000):
                head = [len(body) + 24, channel, token, device.secure._sequence_number + number, 99]
                await device.send_raw(b"MSGC" + b"".join(value.to_bytes(4, "little") for value in head) + body)
        assert number < transport.MAX_MESSAGE_BYTES // len(body) + 100
        await rig.eventually(lambda: rig.errors("protocol") == 1)


# ---- user tokens


async def test_encrypted_policy_wins_whatever_the_order() -> None:
    """Plain text is listed first and an unknown policy second: without a certificate nothing of it is usable."""
    device = ScriptedDevice()
    kind = ua.UserTokenType.UserName
    device.tokens = [
        user_token("odd", kind, "http://example.org/policy#Unknown"),
        user_token("clear", kind, "http://opcfoundation.org/UA/SecurityPolicy#None"),
    ]
    fields = {"username": "operator", "password": SecretStr("pump-house-7")}
    async with open_pair(A, device=device, **fields) as (device, rig):
        await rig.state(ConnectionState.REFUSED)
        assert "ActivateSession" not in device.calls
        rig.update(allow_plaintext_password=True)
        await rig.state(ConnectionState.CONNECTED)
        assert device.identity.PolicyId == "clear"
        assert device.identity.Password == b"pump-house-7"
