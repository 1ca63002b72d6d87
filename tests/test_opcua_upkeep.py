"""Channel, session and hostile bytes against a device that does what the test says."""

from __future__ import annotations

from contextlib import suppress
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
from scada_trio.opcua.subscription import Subscription
from scada_trio.status import ConnectionState
from tests.devices.scripted import SILENCE, ScriptedDevice, user_token
from tests.fix_devices import FAST, open_rig
from tests.fix_scripted import CODES, PATIENT, A, open_connected, open_pair, open_scripted

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
