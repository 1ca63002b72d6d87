"""Starts and stops the simulator's process from a Trio program, and reads what it announces.

Knows no asyncio and no OPC UA.

    open_field ── starts ──► python -m scada_trio.simulator
       ▲                       │ standard output: a line a well, then "ready"
       └───────────────────────┘ standard error: its last line is shown when the process dies
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from scada_trio.errors import ConfigError
from scada_trio.simulator.field import FaultRates
from scada_trio.simulator.wells import PAUSE_LINE, PAUSED_LINE, READY_LINE, SimulatedWell

__all__ = ["FieldOptions", "RunningField", "SimulatedWell", "open_field"]

# A thousand wells take a second; the rest is for a busy machine.
START_TIMEOUT_S: Final = 60.0
STOP_GRACE_S: Final = 5.0
PAUSE_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class FieldOptions:
    """What field is wanted. ``record`` is a file for what is made, in the form of `scada_trio.simulator.record`.

    ``advertise`` is the host in the wells' endpoints; None: ``host``.
    """

    wells: int
    tags: int = 10
    seed: int = 1
    interval_ms: float = 1000.0
    host: str = "127.0.0.1"
    base_port: int = 0
    advertise: str | None = None
    rates: FaultRates = field(default_factory=FaultRates)
    record: Path | None = None

    def arguments(self) -> list[str]:
        """Of the process."""
        rates = self.rates
        given: dict[str, object] = {
            "--wells": self.wells,
            "--tags": self.tags,
            "--seed": self.seed,
            "--interval-ms": self.interval_ms,
            "--host": self.host,
            "--base-port": self.base_port,
            "--bad": rates.bad,
            "--uncertain": rates.uncertain,
            "--outages-per-hour": rates.outages_per_hour,
            "--outage-s": rates.outage_s,
        }
        if self.advertise is not None:
            given["--advertise"] = self.advertise
        if self.record is not None:
            given["--record"] = self.record
        return [f"{name}={value}" for name, value in given.items()]


class RunningField:
    """Wells that can be connected to; ``pid`` is their process."""

    def __init__(self, wells: list[SimulatedWell], run: _Run) -> None:
        self.wells = wells
        self.pid = run.pid
        self._run = run

    async def pause(self) -> None:
        """Hold all values. On return the record is complete; nothing that was queued is lost."""
        await self._run.pause()


@asynccontextmanager
async def open_field(options: FieldOptions) -> AsyncIterator[RunningField]:
    """A field of wells that run until the block is left; the process is gone then, cancelled or not.

    Raises `ConfigError`, with the last line of its standard error, where the process does not start, or it dies later:
    the block is cancelled then. What the block raises comes out as it is.
    """
    command = [sys.executable, "-m", "scada_trio.simulator", *options.arguments()]
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            run = _Run(await nursery.start(partial(_run_process, command)))
            nursery.start_soon(run.keep_last_error, name="simulator errors")
            wells = await run.read_wells()
            nursery.start_soon(run.watch, name="simulator watch")
            nursery.start_soon(run.follow, name="simulator answers")
            with run.while_alive:
                yield RunningField(wells, run)
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
        self._paused = trio.Event()
        assert process.stdout is not None
        self._output = _lines(process.stdout)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def read_wells(self) -> list[SimulatedWell]:
        """The wells, once all of them can be connected to; raises `ConfigError` where they do not come."""
        wells: list[SimulatedWell] = []
        with trio.move_on_after(START_TIMEOUT_S):
            async for line in self._output:
                if line == READY_LINE:
                    return wells
                wells.append(SimulatedWell.from_line(line))
            await self._ended()
            raise self.death()
        raise ConfigError("simulator", f"not ready after {START_TIMEOUT_S:.0f} s")

    async def follow(self) -> None:
        """Read standard output to its end."""
        async with aclosing(self._output) as lines:
            async for line in lines:
                if line == PAUSED_LINE:
                    self._paused.set()

    async def pause(self) -> None:
        """Hold all values; raises `ConfigError` where the process does not answer."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(PAUSE_LINE)
        with trio.move_on_after(PAUSE_TIMEOUT_S):
            await self._paused.wait()
            return
        raise ConfigError("simulator", f"does not pause within {PAUSE_TIMEOUT_S:.0f} s")

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
