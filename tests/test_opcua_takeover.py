"""Values written while a link is cut or the service is down arrive all the same, with servers of three makers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from pydantic import SecretStr

from scada_trio.losses import LossReason
from scada_trio.status import ConnectionState
from tests.fix_devices import FAST, Device, Memory, Rig, open_device, open_rig, tag
from tests.fix_proxy import open_proxy

A = tag("ns=1;s=a")
STEADY = replace(FAST, keep_alive_s=2.0, queue_size=100)


async def write_all(device: Device, first: int, last: int) -> list[float]:
    """Write each number, one a publishing interval, and return them."""
    written = [float(value) for value in range(first, last + 1)]
    for value in written:
        await device.write("a", value)
        await trio.sleep(4 * FAST.sampling_interval_s)  # else a server that samples late sees only some
    return written


async def received(rig: Rig, last: float) -> list[float]:
    """All values of A up to ``last``, without what stood there at first."""
    got: list[float] = []
    with trio.fail_after(60):
        while last not in got:
            got += [value for _, value, _ in rig.readings((await rig.take()).block, A.node_id)]
    return [value for value in got if value]


async def test_cut_link(maker: str) -> None:
    """While the link is cut values queue up, and all of them arrive when it is mended, once and in order."""
    memory = Memory()
    async with open_device(maker, nodes=["a"]) as device, open_proxy(int(device.options["port"])) as proxy:
        async with open_rig(proxy.url, (A,), settings=STEADY, memory=memory) as rig:
            await rig.state(ConnectionState.CONNECTED)
            written = await write_all(device, 1, 5)
            got = await received(rig, 5.0)
            for first in (6, 11, 16):
                proxy.cut()
                written += await write_all(device, first, first + 4)
                proxy.mend()
                got += await received(rig, written[-1])
        assert got == written
        assert memory.losses == []
        assert rig.errors("session_lost") == 0


@pytest.mark.parametrize("maker", ["open62541", "node-opcua"])
async def test_session_timed_out(maker: str) -> None:
    """Where the cut outlives the session the subscription is transferred, and no value is missing."""
    memory = Memory()
    settings = replace(STEADY, session_timeout_s=1.0)
    async with open_device(maker, nodes=["a"]) as device, open_proxy(int(device.options["port"])) as proxy:
        async with open_rig(proxy.url, (A,), settings=settings, memory=memory) as rig:
            await rig.state(ConnectionState.CONNECTED)
            written = await write_all(device, 1, 5)
            got = await received(rig, 5.0)
            proxy.cut()
            rig.connection._keeper._ticket = None
            written += await write_all(device, 6, 20)
            proxy.mend()
            got += await received(rig, 20.0)
        assert got == written
        assert memory.losses == []


@pytest.mark.parametrize("maker", ["open62541", "node-opcua"])
async def test_service_restart(maker: str) -> None:
    """A stop leaves the subscription on the server, and the next process gets what was written meanwhile."""
    memory = Memory()
    async with open_device(maker, nodes=["a"]) as device:
        async with open_rig(device.url, (A,), settings=STEADY, memory=memory) as rig:
            await rig.state(ConnectionState.CONNECTED)
            written = await write_all(device, 1, 5)
            got = await received(rig, 5.0)
        written += await write_all(device, 6, 25)
        async with open_rig(device.url, (A,), settings=STEADY, memory=memory) as rig:
            got += await received(rig, 25.0)
            written += await write_all(device, 26, 30)
            got += await received(rig, 30.0)
        assert got == written
        assert memory.losses == []
        assert rig.errors("transfer_refused") == 0


async def test_restart_with_a_server_that_only_says_good() -> None:
    """asyncua transfers, and publishes nothing until the new session is cut: that is done, and nothing is missing."""
    memory = Memory()
    settings = replace(STEADY, keep_alive_s=1.0)
    async with open_device("asyncua", nodes=["a"]) as device:
        async with open_rig(device.url, (A,), settings=settings, memory=memory) as rig:
            await rig.state(ConnectionState.CONNECTED)
            written = await write_all(device, 1, 3)
            got = await received(rig, 3.0)
        written += await write_all(device, 4, 8)
        async with open_rig(device.url, (A,), settings=settings, memory=memory) as rig:
            got += await received(rig, 8.0)
        assert got == written
        assert memory.losses == []


async def test_user_who_may_not_transfer() -> None:
    """open62541 refuses a transfer to another user: there is a new subscription and the time between is lost."""
    memory = Memory()
    users = {"one": "first", "two": "second"}
    fields: dict[str, Any] = {"allow_plaintext_password": True, "username": "one", "password": SecretStr("first")}
    async with open_device("open62541", nodes=["a"], users=users) as device:
        async with open_rig(device.url, (A,), settings=STEADY, memory=memory, **fields) as rig:
            await rig.state(ConnectionState.CONNECTED)
            await device.write("a", 1.0)
            await rig.until_value(A.node_id, 1.0)
            rig.update(username="two", password=SecretStr("second"))
            await rig.eventually(lambda: memory.losses != [])
            await device.write("a", 2.0)
            await rig.until_value(A.node_id, 2.0)
        (loss,) = memory.lost(LossReason.SUBSCRIPTION_LOST)
        assert loss.from_us < loss.to_us


async def test_server_restart(maker: str) -> None:
    """A server that was started again has nothing to take over; the time without it is a loss."""
    memory = Memory()
    async with open_device(maker, nodes=["a"]) as device:
        async with open_rig(device.url, (A,), settings=STEADY, memory=memory) as rig:
            await rig.state(ConnectionState.CONNECTED)
            await device.write("a", 1.0)
            await rig.until_value(A.node_id, 1.0)
            await device.kill()
            await device.start()
            await rig.eventually(lambda: memory.losses != [])
            await device.write("a", 2.0)
            await rig.until_value(A.node_id, 2.0)
        assert [loss.reason for loss in memory.losses] == [LossReason.SUBSCRIPTION_LOST]
        assert rig.errors("session_lost") >= 1
