"""A process that is started again whenever it ends, as a process supervisor does it; and what freezes one.

`Child.run` is started by the site and returns when it is cancelled, with the process killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil
import trio

ROOT: Final = Path(__file__).parent.parent.parent
_PAUSE_S: Final = 0.2
_STARTS_WITHIN_S: Final = 90.0


class NotReady(Exception):
    """A process does not come to run."""


class Child:
    """One process. ``wanted`` unset keeps it down; ``ready`` is set while it runs and has said so on stdout.

    What it prints is appended to ``output``.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready: Callable[[Any], bool],
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> None:
        self.name = name
        self.starts = 0
        self.ready = trio.Event()
        self.lines: list[Any] = []
        self.environment = dict(environment or {})  # beside the harness's own; the next start has it
        self._command = list(command)
        self._is_ready = ready
        self._output = output
        self._wanted = trio.Event()
        self._wanted.set()
        self._process: trio.Process | None = None
        self._gone = trio.Event()
        self._answers, self._answered = trio.open_memory_channel[Any](10)

    @property
    def pid(self) -> int | None:
        """Of the process; None while it is down."""
        return None if self._process is None else self._process.pid

    async def run(self) -> None:
        """Start the process and start it again; returns only when cancelled."""
        while True:
            await self._wanted.wait()
            await self._run_once()
            await trio.sleep(_PAUSE_S)

    async def _run_once(self) -> None:
        process = await trio.lowlevel.open_process(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, **self.environment},
        )
        self._process, self._gone = process, trio.Event()
        self.starts += 1
        try:
            await self._read(process)
            await process.wait()
        finally:
            self._process, self.ready = None, trio.Event()
            with trio.CancelScope(shield=True):
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                for stream in (process.stdin, process.stdout):
                    assert stream is not None
                    await stream.aclose()
            self._gone.set()

    async def _read(self, process: trio.Process) -> None:
        assert process.stdout is not None
        buffer = b""
        while received := await process.stdout.receive_some():
            *lines, buffer = (buffer + bytes(received)).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        if self._output is not None:
            with self._output.open("ab") as file:
                file.write(line + b"\n")
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"message": line.decode(errors="replace")}
        self.lines.append(entry)
        if self._is_ready(entry):
            self.ready.set()
        if isinstance(entry, dict) and "ok" in entry:
            with suppress(trio.WouldBlock):
                self._answers.send_nowait(entry)

    # ---- what is done to it

    async def wait_ready(self) -> None:
        """Wait until it runs and is ready; raises `NotReady` with its last lines where it does not come to that."""
        with trio.move_on_after(_STARTS_WITHIN_S):
            while not self.ready.is_set():  # noqa: ASYNC110 - each process that is started has an event of its own
                await trio.sleep(0.01)
            return
        raise NotReady(f"{self.name} does not start: {self.lines[-3:]}")

    async def kill(self, *, down: bool = False) -> None:
        """SIGKILL; returns when it is gone. ``down`` keeps it down until `start`."""
        if down:
            self.stay_away()
        process, gone = self._process, self._gone
        if process is not None:
            process.kill()
            await gone.wait()

    def stay_away(self) -> None:
        """It goes on, and when it has ended it stays down until `start`."""
        self._wanted = trio.Event()

    def start(self) -> None:
        """Let it be started again."""
        self._wanted.set()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    async def tell(self, **command: object) -> None:
        """Send one command and wait for its answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(command).encode() + b"\n")
        with trio.fail_after(_STARTS_WITHIN_S):
            await self._answered.receive()

    def resources(self) -> tuple[int, int]:
        """Resident bytes and open file descriptors."""
        process = psutil.Process(self.pid)
        return int(process.memory_info().rss), int(process.num_fds())


def signal_family(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process and everything that descends from it."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
