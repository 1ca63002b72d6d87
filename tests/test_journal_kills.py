"""Kill -9 in the worst moment there is, between real devices and a real PostgreSQL."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from pydantic import SecretStr

from tests.fix_devices import open_device
from tests.fix_postgres import fetch, record_inserts

ROOT = Path(__file__).parent.parent
BASE_US = (int(time.time()) - 7200) * 1_000_000  # within the retention
WITHIN_S = 60.0
"""How long one process may take; only a failing test waits that long."""
_SAMPLED_S = 0.25
"""Between two values: node-opcua samples every 50 ms, and sees each of them although it may wait for a core."""


def values_in(table: str, url: SecretStr) -> list[float]:
    """Those that the test wrote; the device itself begins with 0."""
    return [row[0] for row in fetch(url, f"SELECT value FROM {table} WHERE value > 0 ORDER BY value")]


@asynccontextmanager
async def running(command: list[str]) -> AsyncIterator[trio.Process]:
    """A process that a test waits for, not for ever, and that is gone after the block."""
    process = await trio.lowlevel.open_process(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with trio.fail_after(WITHIN_S):
            yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdout.aclose()


@pytest.mark.parametrize("maker", ["open62541", "node-opcua"])
async def test_a_process_killed_behind_a_commit_asks_for_nothing_that_it_holds(
    tenant_url: SecretStr, tmp_path: Path, maker: str
) -> None:
    """Killed where its readings are accepted and nothing else is written any more, again and again: each reading once.

    The device keeps what was not acknowledged and would send it again. Counted are what the journal accepted, which no
    index has a part in, and what was inserted.
    """
    await trio.to_thread.run_sync(record_inserts, tenant_url)
    rng = random.Random(maker)
    given = {"database": tenant_url.get_secret_value(), "journal": str(tmp_path / "journal")}
    given |= {"tenant": str(uuid4()), "connection": str(uuid4())}
    written = 0
    accepted: list[float] = []
    async with open_device(maker, nodes=["a"]) as device:

        async def write(count: int) -> None:
            nonlocal written
            for _ in range(count):
                written += 1
                await device.write("a", float(written), source_us=BASE_US + written * 1000)
                await trio.sleep(_SAMPLED_S)

        async def is_stored() -> bool:
            return float(written) in await trio.to_thread.run_sync(values_in, "scada_readings", tenant_url)

        for at in [*(rng.randrange(1, 5) for _ in range(8)), 0]:
            if written:  # it has a subscription
                await write(3)
            asked = json.dumps({**given, "device": device.url, "at": at})
            command = [sys.executable, "-m", "tests.die_after_commit", asked]
            async with running(command) as process:
                assert process.stdout is not None
                output = b""
                while b"accepted" not in output:  # it has taken the subscription over
                    output += await receive(process.stdout)
                while at and process.poll() is None:
                    await write(1)
                if not at:
                    await write(3)
                    while not await is_stored():  # noqa: ASYNC110 - what is waited for is in other processes
                        await trio.sleep(0.02)
                    process.kill()
                assert await process.wait() == -signal.SIGKILL
                while chunk := await process.stdout.receive_some():
                    output += chunk
            for line in output.splitlines():
                if line.startswith(b"accepted "):
                    accepted += json.loads(line.partition(b" ")[2])
    wanted = [float(number) for number in range(1, written + 1)]
    assert sorted(value for value in accepted if value) == wanted
    assert await trio.to_thread.run_sync(values_in, "inserted", tenant_url) == wanted
    assert await trio.to_thread.run_sync(values_in, "scada_readings", tenant_url) == wanted
    assert await trio.to_thread.run_sync(fetch, tenant_url, "SELECT * FROM scada_loss") == []


async def receive(stream: trio.abc.ReceiveStream) -> bytes:
    data = await stream.receive_some()
    assert data, "the process ended"
    return bytes(data)
