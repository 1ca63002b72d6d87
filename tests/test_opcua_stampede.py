"""Many connections that come back at the same time, and one whose device comes back before its turn."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from dataclasses import replace

import pytest
import trio
import trio.testing

from scada_trio.status import ConnectionState
from tests.devices.scripted import ScriptedDevice
from tests.fix_devices import free_port, open_rig
from tests.fix_scripted import PATIENT, A


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
