"""The service as a child process: ``scada-trio serve`` with ports of its own, its log kept in a file.

open_service ── starts ──► python -m scada_trio serve
   ▲                        │ standard output: JSON logs; "service started" has the ports
   └── SIGTERM at the end ──┘
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from scada_trio.errors import ScadaError

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 60.0
_SHOWN_LINES: Final = 3


class LoadTestFailed(ScadaError):
    """The test could not be carried out; says nothing of how fast the service is."""


class ServiceChild:
    """A service that runs; ``grpc_port`` and ``metrics_port`` are on loopback. `stop` lets it drain."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        self.grpc_port = 0
        self.metrics_port = 0
        self.pid = process.pid
        self.while_alive = trio.CancelScope()
        self.errors = 0
        """Lines of its log that are errors."""
        self._process = process
        self._log = log
        self._started = trio.Event()
        self._ended = trio.Event()
        self._stopping = False
        self._last: deque[str] = deque(maxlen=_SHOWN_LINES)

    async def follow(self) -> None:
        """Keep its log and take from it what is needed, until it ends."""
        assert self._process.stdout is not None
        rest = b""
        with self._log.open("wb") as file:
            async for chunk in self._process.stdout:
                file.write(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(line)
        await self._process.wait()
        self._ended.set()
        self._started.set()
        if not self._stopping:
            self.while_alive.cancel()

    async def wait_started(self) -> None:
        """Wait until it serves; raises `LoadTestFailed` with its last words where it does not come to that."""
        with trio.move_on_after(START_TIMEOUT_S):
            await self._started.wait()
        if not self.metrics_port:
            raise self.death()

    async def stop(self) -> int:
        """SIGTERM, so that it writes what it has, and wait; its exit status. SIGKILL after a minute."""
        self._stopping = True
        self._process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_TIMEOUT_S):
            await self._ended.wait()
        if not self._ended.is_set():
            self._process.kill()
            await self._ended.wait()
        assert self._process.returncode is not None
        return self._process.returncode

    def death(self) -> LoadTestFailed:
        """Why it does not run."""
        status = self._process.returncode
        what = f"ended with status {status}" if status is not None else f"is not ready after {START_TIMEOUT_S:.0f} s"
        return LoadTestFailed(
            f"the service is {what}: {' | '.join(self._last) or 'no message'} (all of it: {self._log})"
        )

    def _take(self, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        if text:
            self._last.append(text)
        try:
            entry = json.loads(text)
        except ValueError:
            return
        if entry.get("level") in ("error", "critical"):
            self.errors += 1
        if entry.get("metrics_port"):
            self.grpc_port = int(entry["grpc_port"])
            self.metrics_port = int(entry["metrics_port"])
            self._started.set()


@asynccontextmanager
async def open_service(environment: Mapping[str, str], log: Path) -> AsyncIterator[ServiceChild]:
    """The service with ``environment`` over ours; gone at the end of the block, which is cancelled if it dies earlier.

    Raises `LoadTestFailed` where it does not start, or dies.
    """
    start = partial(
        trio.run_process,
        [sys.executable, "-m", "scada_trio", "serve"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        check=False,
        start_new_session=True,  # Ctrl-C in a terminal is for us
    )
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(start)
        child = ServiceChild(process, log)
        nursery.start_soon(child.follow, name="service log")
        await child.wait_started()
        with child.while_alive:
            yield child
        if child.while_alive.cancelled_caught:
            raise child.death()
        nursery.cancel_scope.cancel()
