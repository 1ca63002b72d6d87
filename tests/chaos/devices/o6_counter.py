"""An open62541 server (o6) that counts, as control.py says. Without a licence it ends by itself after ten minutes."""

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import o6

from tests.chaos.devices.control import Pace, TickLog, answer, options

EPOCH_TICKS = 116_444_736_000_000_000  # 1970 in 100 ns since 1601


def obey(log: TickLog, running: threading.Event) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        if command["op"] == "pause":
            running.clear()
        elif command["op"] == "resume":
            running.set()
        else:
            log.jump_us += command["us"]
        answer(ok=True)
    os._exit(0)


def write(server: Any, node: str, tick: int, source_us: int) -> None:
    value = o6.DataValue(value=o6.Double(float(tick)), sourceTimestamp=o6.DateTime(source_us * 10 + EPOCH_TICKS))
    result = server.write(node, value)
    if result != o6.StatusCode.GOOD:
        raise ValueError(f"{node}: {result!r}")


def main() -> None:
    wanted = options()
    server = o6.Server(port=wanted["port"])
    nodes = [f"ns=1;s=C{number}" for number in range(wanted["nodes"])]
    with server:
        for node in nodes:
            name = node.partition("s=")[2]
            server.addVariable(name, server.objectsNode, o6.Double(0.0), nodeId=node, dataType="i=24")
        log, running = TickLog(Path(wanted["log"])), threading.Event()
        running.set()
        answer(ready=True)
        threading.Thread(target=obey, args=(log, running), daemon=True).start()
        pace = Pace(wanted["ticks_per_s"])
        while True:
            running.wait()
            tick = log.tick()
            for node in nodes:
                write(server, node, *tick)
            time.sleep(pace.pause_s())


logging.disable(logging.CRITICAL)
main()
