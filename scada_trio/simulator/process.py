"""Starts and stops the simulator's process from a Trio program, and reads what it announces.

Knows no asyncio and no OPC UA; imports nothing of asyncua, so it can say in clear words that the extra is missing.

    open_field ── starts ──► python -m scada_trio.simulator
       ▲                       │ standard output: a line a well, then "ready"
       └───────────────────────┘ standard error: its last line is shown when the process dies
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Final

import trio

from scada_trio.errors import ConfigError
from scada_trio.simulator.wells import READY_LINE, SimulatedWell

__all__ = ["SimulatedWell", "open_field"]

# The standard address space takes 1 s of CPU, each well 0.02 s; the rest is for a busy machine.
START_TIMEOUT_S: Final = 60.0
STOP_GRACE_S: Final = 5.0


@asynccontextmanager
async def open_field(
    wells: int, *, seed: int, interval_ms: int, base_port: int = 0
) -> AsyncIterator[list[SimulatedWell]]:
    """A field of ``wells`` wells that run until the block is left; the process is gone then, cancelled or not.

    Raises `ConfigError`, with the last line of its standard error, where the extra ``simulator`` is not installed, the
    process does not start, or it dies later: the block is cancelled then. What the block raises comes out as it is.
    """
    if importlib.util.find_spec("asyncua") is None:
        raise ConfigError("simulator", "needs an extra package: pip install 'scada-trio[simulator]'")
    command = [sys.executable, "-m", "scada_trio.simulator", "--wells", str(wells), "--seed", str(seed)]
    command += ["--interval-ms", str(interval_ms), "--base-port", str(base_port)]
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            run = _Run(await nursery.start(partial(_run_process, command)))
            nursery.start_soon(run.keep_last_error, name="simulator errors")
            field = await run.read_wells()
            nursery.start_soon(run.watch, name="simulator watch")
            with run.while_alive:
                yield field
            if run.while_alive.cancelled_caught:
                raise run.death()
            await run.stop()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery's tasks raise nothing of their own: what is in the group came from above or from the block.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise


async def _run_process(
    command: list[str], *, task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run until it ends; SIGTERM, and SIGKILL 5 s later, when cancelled."""
    pipe = subprocess.PIPE
    await trio.run_process(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        check=False,
        start_new_session=True,  # Ctrl-C in a terminal is for us; it ends when we close its standard input
        task_status=task_status,
    )


class _Run:
    """One process whose outputs are being read."""

    def __init__(self, process: trio.Process) -> None:
        self.while_alive = trio.CancelScope()
        self._process = process
        self._last_error = "no message"
        self._errors_ended = trio.Event()

    async def read_wells(self) -> list[SimulatedWell]:
        """The wells, once all of them can be connected to; raises `ConfigError` where they do not come."""
        assert self._process.stdout is not None
        wells: list[SimulatedWell] = []
        with trio.move_on_after(START_TIMEOUT_S):
            async with aclosing(_lines(self._process.stdout)) as lines:
                async for line in lines:
                    if line == READY_LINE:
                        return wells
                    wells.append(SimulatedWell.from_line(line))
            await self._ended()
            raise self.death()
        raise ConfigError("simulator", f"not ready after {START_TIMEOUT_S:.0f} s")

    async def keep_last_error(self) -> None:
        """Read standard error to its end, so that the process never waits for us to."""
        assert self._process.stderr is not None
        async with aclosing(_lines(self._process.stderr)) as lines:
            async for line in lines:
                self._last_error = line.strip() or self._last_error
        self._errors_ended.set()

    async def watch(self) -> None:
        """Cancel ``while_alive`` when the process dies; does nothing more after that."""
        await self._ended()
        self.while_alive.cancel()

    def death(self) -> ConfigError:
        """Why the process ended."""
        return ConfigError("simulator", f"its process ended with status {self._process.returncode}: {self._last_error}")

    async def stop(self) -> None:
        """Ask it to end by closing its standard input, and give it a while."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with trio.move_on_after(STOP_GRACE_S):
            await self._process.wait()

    async def _ended(self) -> None:
        await self._process.wait()
        await self._errors_ended.wait()


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncGenerator[str, None]:
    """The lines of ``stream`` without their ends, until it closes."""
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")
