"""A subscription of the counting device: its queue, its sequence numbers, and what it keeps until it is acknowledged.

As OPC UA Part 4, 5.13.1 has it: it outlives its session for a lifetime counted in publishing intervals, and what was
sent can be sent again until it is acknowledged. All of its variables have the same value, so its queue is ranges of
ticks. Starts nothing; the server calls it in one task.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tests.chaos.devices.control import TickLog

EPOCH: Final = 116_444_736_000_000_000
MOST_KEPT: Final = 2_000
"""Messages kept for Republish, the oldest given up first."""
_MOST_VALUES: Final = 5_000
_ITEM: Final = np.dtype(
    [
        ("handle", "<u4"),
        ("mask", "u1"),
        ("type", "u1"),
        ("value", "<f8"),
        ("status", "<u4"),
        ("source", "<i8"),
        ("server", "<i8"),
    ]
)
_OVERFLOW: Final = 0x480  # InfoType DataValue, Overflow


@dataclass
class Variables:
    """What a subscription monitored for a while: handles and node numbers, in the order of the items."""

    set_id: str
    handles: Any
    nodes: list[int]


@dataclass
class _Range:
    """Ticks ``first`` to ``last`` of a set, and their source times; ``overflowed`` where others before it were lost."""

    first: int
    sources_us: deque[int]
    variables: Variables
    overflowed: bool = False

    @property
    def last(self) -> int:
        return self.first + len(self.sources_us) - 1


@dataclass
class CountingSubscription:
    """One subscription; ``notification`` and ``keep_alive`` are what Publish is answered with."""

    subscription_id: int
    log: TickLog
    most_ticks: int
    interval_s: float = 1.0
    keep_alive_count: int = 10
    lifetime_count: int = 30
    items: dict[int, tuple[int, int]] = field(default_factory=dict)  # item id → handle, node
    kept: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    quiet: int = 0  # intervals since something was sent
    unserved: int = 0  # intervals since the client asked last
    _sequence: int = 1
    _sets: int = 0
    _variables: Variables | None = None
    _queue: deque[_Range] = field(default_factory=deque)
    _queued: int = 0

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    @property
    def keep_alive_due(self) -> bool:
        return self.quiet >= self.keep_alive_count

    @property
    def expired(self) -> bool:
        return self.unserved > self.lifetime_count

    def change(self, items: dict[int, tuple[int, int]]) -> None:
        """From the next tick on monitor ``items``."""
        self.items = items
        self._sets += 1
        handles = np.array([handle for handle, _ in items.values()], np.uint32)
        nodes = [node for _, node in items.values()]
        set_id = f"{self.subscription_id}.{self._sets}"
        self._variables = Variables(set_id, handles, nodes) if items else None
        self.log.write("set", set_id, nodes)

    def sample(self, tick: int, source_us: int) -> None:
        """Queue a tick; the oldest makes room where the queue is full."""
        if self._variables is None:
            return
        newest = self._queue[-1] if self._queue else None
        if newest is not None and newest.variables is self._variables and newest.last + 1 == tick:
            newest.sources_us.append(source_us)
        else:
            self._queue.append(_Range(tick, deque([source_us]), self._variables))
        self._queued += 1
        while self._queued > self.most_ticks:
            oldest = self._take(1)
            self.log.write("dropped", oldest.first, oldest.last, oldest.variables.set_id)
            self._queue[0].overflowed = True

    def notification(self) -> bytes:
        """The next notification message, kept until it is acknowledged (Part 4, 7.26)."""
        variables = self._queue[0].variables
        ticks = self._take(max(1, _MOST_VALUES // len(variables.nodes)))
        number = self._number(advance=True)
        self.log.write("handed", self.subscription_id, number, ticks.first, ticks.last, variables.set_id)
        message = _data_change(number, ticks)
        self.kept[number] = message
        while len(self.kept) > MOST_KEPT:
            self.kept.popitem(last=False)
        self.quiet = 0
        return message

    def keep_alive(self) -> bytes:
        """A message without data; the next notification has the same number."""
        self.quiet = 0
        return struct.pack("<Iqi", self._number(advance=False), _now(), 0)

    def acknowledge(self, number: int) -> bool:
        """Forget a message; False where it is not kept."""
        return self.kept.pop(number, None) is not None

    def end(self) -> None:
        """Log what nobody will ever get."""
        for ticks in self._queue:
            self.log.write("died", ticks.first, ticks.last, ticks.variables.set_id)
        self._queue.clear()

    def _number(self, *, advance: bool) -> int:
        number = self._sequence
        if advance:
            self._sequence = number % 0xFFFFFFFF + 1
        return number

    def _take(self, most: int) -> _Range:
        """The oldest ticks, ``most`` of them at most, of one set."""
        head = self._queue[0]
        if len(head.sources_us) <= most:
            self._queue.popleft()
            self._queued -= len(head.sources_us)
            return head
        taken = _Range(head.first, deque(), head.variables, head.overflowed)
        while len(taken.sources_us) < most:
            taken.sources_us.append(head.sources_us.popleft())
        head.first += most
        head.overflowed = False
        self._queued -= most
        return taken


def _data_change(number: int, ticks: _Range) -> bytes:
    width = len(ticks.variables.nodes)
    count = len(ticks.sources_us)
    rows = np.empty(width * count, _ITEM)
    rows["handle"] = np.tile(ticks.variables.handles, count)
    rows["mask"], rows["type"], rows["status"] = 0x0F, 11, 0
    if ticks.overflowed:
        rows["status"][:width] = _OVERFLOW
    rows["value"] = np.repeat(np.arange(ticks.first, ticks.last + 1, dtype=np.float64), width)
    rows["source"] = np.repeat(np.array(ticks.sources_us, np.int64) * 10 + EPOCH, width)
    rows["server"] = _now()
    change = struct.pack("<i", len(rows)) + rows.tobytes() + struct.pack("<i", -1)
    extension = struct.pack("<BBHBi", 1, 0, 811, 1, len(change)) + change
    return struct.pack("<Iqi", number, _now(), 1) + extension


def _now() -> int:
    return EPOCH + time.time_ns() // 100
