"""A device that does what the test says, and a connection to it; for tests of recovery, both remember."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio
import trio.testing
from opcua import ua

from scada_trio.status import ConnectionState
from tests.devices.scripted import ScriptedDevice
from tests.fix_devices import FAST, Memory, Rig, open_rig, tag

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


@asynccontextmanager
async def open_taken_over(device: ScriptedDevice, memory: Memory, *tags: Any) -> AsyncIterator[Rig]:
    """A connection that takes over what ``memory`` knows of a device that stands at another place now."""
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        remembered = memory.subscriptions[memory.connection_id]
        memory.subscriptions[memory.connection_id] = replace(remembered, endpoint_url=device.url)
        async with open_rig(device.url, tags, settings=PATIENT, memory=memory) as rig:
            await rig.state(ConnectionState.CONNECTED)
            yield rig
        nursery.cancel_scope.cancel()


async def values(rig: Rig, count: int) -> list[float]:
    """The next ``count`` values of A."""
    got: list[float] = []
    while len(got) < count:
        got += [value for _, value, _ in rig.readings((await rig.take()).block, A.node_id)]
    return got
