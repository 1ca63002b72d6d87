"""An asyncua server that counts, as control.py says."""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from asyncua import Server, ua

from tests.chaos.devices.control import Pace, TickLog, answer, options

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def data_value(tick: int, source_us: int) -> Any:
    return ua.DataValue(
        ua.Variant(float(tick), ua.VariantType.Double),
        StatusCode=ua.StatusCode(0),
        SourceTimestamp=(EPOCH + timedelta(microseconds=source_us)).replace(tzinfo=None),
        ServerTimestamp=datetime.now(UTC).replace(tzinfo=None),
    )


async def count(server: Any, nodes: list[Any], log: TickLog, pace: Pace, running: asyncio.Event) -> None:
    while True:
        await running.wait()
        value = data_value(*log.tick())
        for node in nodes:
            await server.write_attribute_value(node, value)
        await asyncio.sleep(pace.pause_s())


async def obey(log: TickLog, running: asyncio.Event) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        if command["op"] == "pause":
            running.clear()
        elif command["op"] == "resume":
            running.set()
        else:
            log.jump_us += command["us"]
        answer(ok=True)


async def main() -> None:
    wanted = options()
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{wanted['port']}")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    nodes = []
    for number in range(wanted["nodes"]):
        name = f"C{number}"
        variable = await server.nodes.objects.add_variable(ua.NodeId.from_string(f"ns=1;s={name}"), f"1:{name}", 0.0)
        nodes.append(variable.nodeid)
    log, running = TickLog(Path(wanted["log"])), asyncio.Event()
    running.set()
    async with server:
        answer(ready=True)
        counting = asyncio.create_task(count(server, nodes, log, Pace(wanted["ticks_per_s"]), running))
        await obey(log, running)
        counting.cancel()


logging.disable(logging.CRITICAL)
asyncio.run(main())
