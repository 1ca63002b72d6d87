"""A subscription of a simulated well: its queue, its sequence numbers, and what it keeps until it is acknowledged.

As OPC UA Part 4, 5.13.1 has it: it outlives its session for a lifetime counted in publishing intervals, and what was
sent can be sent again until it is acknowledged. Pure but for the recorder; the device calls it.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scada_trio.simulator.encoding import EPOCH_TICKS, OVERFLOW, Layout, data_change
from scada_trio.simulator.field import DataType
from scada_trio.simulator.record import DIED, DROPPED, Recorder

MOST_KEPT: Final = 1_000
"""Messages kept for Republish, the oldest given up first."""
MOST_QUEUED: Final = 10_000
"""Values that one item may queue."""
_MOST_VALUES: Final = 10_000  # in a message
_MESSAGE: Final = struct.Struct("<Iqi")
# A sample comes a few milliseconds early or late: that must not cost it a whole publishing interval.
_SLACK: Final = 0.8


@dataclass(slots=True, eq=False)
class _Sampled:
    """The items of one step, encoded; the columns behind them for the case that it must be marked as an overflow."""

    time_us: int
    layout: Layout
    data: bytes
    value: NDArray[np.float64]
    status: NDArray[np.uint32]

    def mark_overflow(self) -> None:
        self.data, _ = self.layout.encode(self.value, self.status | OVERFLOW, self.time_us)


@dataclass(frozen=True, slots=True)
class Item:
    """A monitored item: the client's handle, the column of the field, and how many values wait at most."""

    handle: int
    column: int
    queue_size: int


class Subscription:
    """``interval_s``, ``keep_alive_count`` and ``lifetime_count`` are set by whoever creates or modifies it."""

    def __init__(self, number: int, well: int, data_types: Sequence[DataType], recorder: Recorder) -> None:
        self.number = number
        self.interval_s = 1.0
        self.keep_alive_count = 10
        self.lifetime_count = 30
        self.most_values = _MOST_VALUES
        self.publishing = True
        self.items: dict[int, Item] = {}
        self.layout = Layout.of((), data_types)
        self.kept: OrderedDict[int, bytes] = OrderedDict()
        self.asked_at = time.monotonic()  # when the client asked for a message last
        self._sent_at = float("-inf")
        self._spoke_at = time.monotonic()
        self._well = well
        self._data_types = data_types
        self._recorder = recorder
        self._sequence = 1
        self._most_steps = 1
        self._queue: deque[_Sampled] = deque()
        self._contents: dict[int, list[tuple[int, int]]] = {}  # (time, items) of each message that is kept

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        return bool(self._queue) and self.publishing

    def due(self, now: float) -> bool:
        """Whether a message may be sent: data once an interval, else a keep-alive; the first at once."""
        if self.waiting:
            return now - self._sent_at >= _SLACK * self.interval_s
        return now - self._spoke_at >= self.keep_alive_count * self.interval_s

    def expired(self, now: float) -> bool:
        """Whether nobody has asked for its messages for its lifetime."""
        return now - self.asked_at > self.lifetime_count * self.interval_s

    def limit_message(self, values: int) -> None:
        """No more than ``values`` in a message, 0 for no limit of the client's; a single step is never divided."""
        self.most_values = min(values or _MOST_VALUES, _MOST_VALUES)

    def change(self, items: dict[int, Item]) -> None:
        """From the next step on monitor ``items``."""
        self.items = items
        self.layout = Layout.of([(item.handle, item.column) for item in items.values()], self._data_types)
        self._most_steps = min((item.queue_size for item in items.values()), default=1)

    def queue(self, data: bytes, value: NDArray[np.float64], status: NDArray[np.uint32], time_us: int) -> None:
        """Take the items of one step; the oldest makes room where the queue is full."""
        self._queue.append(_Sampled(time_us, self.layout, data, value, status))
        if len(self._queue) > self._most_steps:
            self._drop(len(self._queue) - self._most_steps)

    def message(self, now: float) -> tuple[bytes, bool]:
        """The next NotificationMessage (Part 4, 7.26), and whether there is more.

        One without data is a keep-alive: it has the number that the next one with data will have.
        """
        number = self._sequence
        self._spoke_at = now
        if not self.waiting:
            return _MESSAGE.pack(number, ticks_now(), 0), False
        taken = [self._queue.popleft()]
        values = len(taken[0].layout)
        while self._queue and values + len(self._queue[0].layout) <= self.most_values:
            taken.append(self._queue.popleft())
            values += len(taken[-1].layout)
        message = _MESSAGE.pack(number, ticks_now(), 1) + data_change([step.data for step in taken], values)
        self._sequence = number % 0xFFFFFFFF + 1
        self._sent_at = now if not self._queue else self._sent_at
        self._keep(number, message, [(step.time_us, len(step.layout)) for step in taken])
        return message, bool(self._queue)

    def acknowledge(self, number: int) -> bool:
        """Forget a message; False where it is not kept."""
        self._contents.pop(number, None)
        return self.kept.pop(number, None) is not None

    def end(self) -> None:
        """Write down what nobody will get any more, and what perhaps nobody got."""
        self._recorder.write_all(DIED, self._well, ((step.time_us, len(step.layout)) for step in self._queue))
        for steps in self._contents.values():
            self._recorder.write_all(DIED, self._well, steps)
        self._queue.clear()
        self._contents.clear()

    def _keep(self, number: int, message: bytes, contents: list[tuple[int, int]]) -> None:
        self.kept[number] = message
        self._contents[number] = contents
        if len(self.kept) > MOST_KEPT:
            oldest, _ = self.kept.popitem(last=False)
            self._contents.pop(oldest, None)

    def _drop(self, steps: int) -> None:
        dropped = [self._queue.popleft() for _ in range(steps)]
        self._recorder.write_all(DROPPED, self._well, ((step.time_us, len(step.layout)) for step in dropped))
        self._queue[0].mark_overflow()


def sample(
    subscriptions: Iterable[Subscription],
    layout: Layout,
    value: NDArray[np.float64],
    status: NDArray[np.uint32],
    time_us: int,
) -> None:
    """Queue one step for several subscriptions, encoded in one go.

    ``layout``, ``value`` and ``status`` are those of all their items in order.
    """
    data, ends = layout.encode(value, status, time_us)
    first = start = 0
    for subscription in subscriptions:
        last = first + len(subscription.layout)
        end = int(ends[last - 1])
        subscription.queue(data[start:end], value[first:last], status[first:last], time_us)
        first, start = last, end


def ticks_now() -> int:
    """The time of day in 100 ns since 1601."""
    return EPOCH_TICKS + time.time_ns() // 100
