"""What every counting device has in common: its options, the log of what it made, and the commands it obeys.

Options are one JSON argument: ``port``, ``nodes`` (how many variables ``ns=1;s=C0`` ...), ``ticks_per_s``, ``log`` (a
path). At tick n every variable becomes n. The log is JSON, one array a line, appended before anybody can see the value:

    ["start"]                          the process started
    ["tick", n, source µs, wall µs]    value n was made

The device of our own also logs what it did with the values:

    ["set", id, [nodes]]               variables that one subscription monitors
    ["handed", subscription, number, first, last, set]    in notification ``number``, values first to last of a set
    ["again", subscription, number]    sent once more, as it was asked to
    ["ack", subscription, [numbers]]   acknowledged
    ["dropped", first, last, set]      its queue was full
    ["died", first, last, set]         never handed over: the subscription ended first

A device that starts again goes on from the last tick of its log. Commands, one JSON object a line on stdin, each
answered with ``{"ok": true}``: ``{"op": "pause"}``, ``{"op": "resume"}``, ``{"op": "jump", "us": n}`` (source times).
The first line on stdout is ``{"ready": true}``; the end of stdin ends the process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class TickLog:
    """The log of one device, and the count of its ticks."""

    def __init__(self, path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.starts = 1 + sum(line[0] == "start" for line in lines)
        self.last = max((line[1] for line in lines if line[0] == "tick"), default=0)
        self.jump_us = 0
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.write("start")

    def write(self, *entry: object) -> None:
        """Append one line; it is the kernel's when this returns, so it outlives the process."""
        os.write(self._file, json.dumps(entry).encode() + b"\n")

    def tick(self) -> tuple[int, int]:
        """Make the next value: its number and its source time in µs, unlike that of any other."""
        self.last += 1
        wall_us = time.time_ns() // 1000
        source_us = wall_us // 1000 * 1000 + self.last % 1000 + self.jump_us
        self.write("tick", self.last, source_us, wall_us)
        return self.last, source_us


class Pace:
    """When the next tick is due. A process that slept does not make up for it."""

    def __init__(self, ticks_per_s: float) -> None:
        self._period_s = 1 / ticks_per_s
        self._due = time.monotonic()

    def pause_s(self) -> float:
        """Seconds until the next tick; called once a tick."""
        now = time.monotonic()
        self._due = max(self._due + self._period_s, now - 2 * self._period_s)
        return max(0.0, self._due - now)


def options() -> Any:
    """The options of this process."""
    return json.loads(sys.argv[1])


def answer(**fields: object) -> None:
    """Print one answer."""
    print(json.dumps(fields), flush=True)
