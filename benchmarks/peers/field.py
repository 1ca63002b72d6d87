"""The wells of a measurement: the simulator's own, in a process that takes commands. Nothing goes wrong in this field.

    python -m benchmarks.peers.field WELLS TAGS INTERVAL_MS RECORD

Prints a line of JSON a well and a last one when all can be connected to, as `scada_trio.simulator` does. Reads lines
from standard input: ``interval MILLISECONDS`` changes how often every tag has a new value, ``pause`` holds all of
them and is answered once the record is complete. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scada_trio.open_files import raise_open_files_limit
from scada_trio.simulator.device import Device
from scada_trio.simulator.field import FaultRates, Field
from scada_trio.simulator.record import Recorder
from scada_trio.simulator.server import Walks, serve_field
from scada_trio.simulator.wells import PAUSED_LINE, READY_LINE, SimulatedWell


class RunningField:
    """Wells that can be connected to, in the process ``pid``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process
        self.wells: list[SimulatedWell] = []
        while (line := self._line()) != READY_LINE:
            self.wells.append(SimulatedWell.from_line(line))

    def set_interval(self, interval_ms: float) -> None:
        """From now on every tag has a new value this often."""
        self._say(f"interval {interval_ms}")
        self._line()

    def pause(self) -> None:
        """Hold all values; the record is complete then."""
        self._say("pause")
        self._line()

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the wells' process ended with status {self._process.wait()}")
        return line.rstrip("\n")


@contextmanager
def open_field(wells: int, tags: int, interval_ms: float, record: Path) -> Iterator[RunningField]:
    """A field in a process of its own, gone at the end of the block."""
    command = [sys.executable, "-m", "benchmarks.peers.field", str(wells), str(tags), str(interval_ms), str(record)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield RunningField(process)
        finally:
            process.terminate()


# ---- in that process


def main() -> None:
    """Serve until standard input ends."""
    wells, tags, interval_ms, record = sys.argv[1:]
    raise_open_files_limit()
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(_serve(int(wells), int(tags), float(interval_ms) / 1000, Path(record)))


async def _serve(wells: int, tags: int, interval_s: float, record: Path) -> None:
    field = Field(wells, seed=1, tags=tags, rates=FaultRates(uncertain=0.0, bad=0.0))
    with Recorder(record) as recorder:
        async with serve_field(field, recorder, interval_s=interval_s) as devices:
            for device in devices:
                _print(device.announcement.to_line())
            _print(READY_LINE)
            await _obey(field, devices, recorder, interval_s)


async def _obey(field: Field, devices: list[Device], recorder: Recorder, interval_s: float) -> None:
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    walks = Walks(field, devices, recorder, interval_s=interval_s)
    walking = asyncio.create_task(walks.run())
    async for line in commands:
        command, _, argument = line.decode().strip().partition(" ")
        if command == "pause":
            walks.running.clear()
            recorder.flush()
            _print(PAUSED_LINE)
        else:
            walking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await walking
            interval_s = float(argument) / 1000
            for device in devices:
                device.interval_s = interval_s
            walks = Walks(field, devices, recorder, interval_s=interval_s)
            walking = asyncio.create_task(walks.run())
            _print(json.dumps({"interval_s": interval_s}))
    walking.cancel()


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
