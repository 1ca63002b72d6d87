"""Serves a field of wells: an endpoint each, all on one asyncio loop, and moves their values.

Runs in a process of its own (`python -m scada_trio.simulator`), with nothing of the service in it. Besides the API's
server this is the one place where asyncio appears: its protocols cost a third of what a task for each socket does, and
the simulator must not compete with the service that it loads.

    run_walks ── 100 times an interval: field.advance ──► subscriptions ──► channels ──► clients

`serve_field` owns the listeners from bind to stop.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scada_trio.simulator.channel import ClientChannel
from scada_trio.simulator.device import Device
from scada_trio.simulator.encoding import Layout
from scada_trio.simulator.field import Field, Step
from scada_trio.simulator.record import MADE, Recorder
from scada_trio.simulator.subscription import Subscription, sample

_SLOT_S: Final = 0.01
_TIDY_S: Final = 0.25
_BACKLOG: Final = 16
_BAD: Final = np.uint32(0x80000000)


@asynccontextmanager
async def serve_field(
    field: Field,
    recorder: Recorder,
    *,
    interval_s: float,
    host: str = "127.0.0.1",
    base_port: int = 0,
    advertise: str | None = None,
) -> AsyncIterator[list[Device]]:
    """Serve the wells on the ports from ``base_port`` on, or each on a free one where that is 0; closed on leaving.

    Their endpoints are at ``advertise``: a name that leads to ``host``, which it is if left out. Their values do not
    move by themselves: `Walks` does that. Raises `OSError` where a port is taken.
    """
    loop = asyncio.get_running_loop()
    devices: list[Device] = []
    listeners: list[asyncio.Server] = []
    try:
        for index, well in enumerate(field.wells):
            device = Device(well, recorder, interval_s=interval_s, host=advertise or host)
            port = base_port + index if base_port else 0
            listener = await loop.create_server(partial(ClientChannel, device), host, port, backlog=_BACKLOG)
            listeners.append(listener)
            device.port = listener.sockets[0].getsockname()[1]
            devices.append(device)
        yield devices
    finally:
        for listener in listeners:
            listener.close()
        for device in devices:
            for channel in list(device.channels):
                channel.abort()


class Walks:
    """Moves a field's values and gives them to whoever is subscribed. ``running`` unset holds all of them."""

    def __init__(self, field: Field, devices: Sequence[Device], recorder: Recorder, *, interval_s: float) -> None:
        self.running = asyncio.Event()
        self.running.set()
        self._field = field
        self._devices = devices
        self._recorder = recorder
        self._interval_s = interval_s
        slots = max(1, min(len(devices), round(interval_s / _SLOT_S)))
        edges = [len(devices) * slot // slots for slot in range(slots + 1)]
        self._groups = [
            _Group(field, slice(first, last), devices[first:last], recorder)
            for first, last in itertools.pairwise(edges)
        ]
        self._tidied_at = 0.0

    async def run(self) -> None:
        """Move every well once an interval, the wells spread over it evenly; returns only when cancelled.

        A loop that falls behind by more than an interval leaves steps out instead of catching up in a burst.
        """
        clock = time.monotonic
        gap_s = self._interval_s / len(self._groups)
        due = clock()
        late: set[tuple[Device, Subscription]] = set()
        while True:
            for group in self._groups:
                await self._wait_until(due)
                if self.running.is_set():
                    late |= group.advance()
                now = clock()
                late = {(device, sub) for device, sub in late if not _publish(device, sub, now)}
                self._tidy(now)
                due = max(due + gap_s, now - self._interval_s)

    async def _wait_until(self, due: float) -> None:
        """In steps, so that what is not a step of a well, a keep-alive say, does not wait for one."""
        while (pause := due - time.monotonic()) > _TIDY_S:
            await asyncio.sleep(_TIDY_S)
            self._tidy(time.monotonic())
        await asyncio.sleep(max(0.0, pause))

    def _tidy(self, now: float) -> None:
        if now - self._tidied_at < _TIDY_S:
            return
        self._tidied_at = now
        self._recorder.flush()
        for device in self._devices:
            if device.subscriptions or device.sessions:
                device.tidy(now)
                for subscription in list(device.subscriptions.values()):
                    device.publish(subscription, now)
        self._cut_power()

    def _cut_power(self) -> None:
        rates = self._field.rates
        if not rates.outages_per_hour or not self.running.is_set():
            return
        chance = rates.outages_per_hour / 3600 * _TIDY_S
        loop = asyncio.get_running_loop()
        for device in self._devices:
            if device.powered and random.random() < chance:  # noqa: S311 - a simulation
                device.power_off()
                loop.call_later(rates.outage_s, setattr, device, "powered", True)


class _Group:
    """Wells that move at the same moment, so that their values are made and encoded in one go."""

    def __init__(self, field: Field, wells: slice, devices: Sequence[Device], recorder: Recorder) -> None:
        self._field = field
        self._wells = wells
        self._devices = devices
        self._recorder = recorder
        self._time_us = 0
        self._revisions: list[int] = []
        self._subscribed: list[tuple[Device, Subscription]] = []
        self._layout: Layout | None = None
        self._cells: NDArray[np.int64] = np.empty(0, np.int64)  # of each item: where in the step's matrix
        self._starts: NDArray[np.int64] = np.empty(0, np.int64)  # of each subscription: its first item

    def advance(self) -> set[tuple[Device, Subscription]]:
        """Move the wells by a step and publish; the subscriptions that still have something to send."""
        step = self._field.advance(self._wells)
        self._time_us = time_us = max(self._time_us + 1, time.time_ns() // 1000)
        for row, device in enumerate(self._devices):
            if device.powered and device.sessions:
                device.value, device.status = step.value[row].tolist(), step.status[row].tolist()
                device.shown_at_us = time_us
        self._follow_changes()
        if self._layout is None:
            return set()
        self._sample(self._layout, step, time_us)
        now = time.monotonic()
        return {(device, sub) for device, sub in self._subscribed if not _publish(device, sub, now)}

    def _sample(self, layout: Layout, step: Step, time_us: int) -> None:
        value, status = step.value.ravel()[self._cells], step.status.ravel()[self._cells]
        is_bad = status >= _BAD
        totals = np.add.reduceat(np.where(is_bad, 0.0, value), self._starts).tolist()
        bad = np.add.reduceat(is_bad.astype(np.int64), self._starts).tolist()
        for (device, subscription), total, missing in zip(self._subscribed, totals, bad, strict=True):
            self._recorder.write(MADE, device.well.number, time_us, len(subscription.layout), missing, total)
        sample([subscription for _, subscription in self._subscribed], layout, value, status, time_us)

    def _follow_changes(self) -> None:
        revisions = [device.revision for device in self._devices]
        if revisions == self._revisions:
            return
        self._revisions = revisions
        tags = len(self._field.tags)
        self._subscribed = [(device, sub) for device in self._devices for sub in device.sampled()]
        layouts = [sub.layout for _, sub in self._subscribed]
        if not layouts:
            self._layout = None
            return
        rows = {device: row for row, device in enumerate(self._devices)}
        self._layout = Layout.concatenate(layouts)
        self._cells = np.concatenate([rows[device] * tags + sub.layout.columns for device, sub in self._subscribed])
        self._starts = np.cumsum([0, *(len(layout) for layout in layouts[:-1])])


def _publish(device: Device, subscription: Subscription, now: float) -> bool:
    """Whether nothing is left to send, or nobody to send it to."""
    return device.subscriptions.get(subscription.number) is not subscription or device.publish(subscription, now)
