"""A tenant's readings as they are accepted, for whoever wants to watch.

Owns the bound on what a slow watcher may cost. The aggregator publishes, the API's streams subscribe; neither knows the
other. Starts nothing.

    aggregator ── accepted blocks ──► LiveHub ──► Watcher (own bound) ──► stream of one client

Nobody waits for a watcher: where one is too slow its oldest readings are dropped, and it is told how many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import numpy as np
import trio
from numpy.typing import NDArray

from scada_trio.metrics import TenantMetrics
from scada_trio.readings import EMPTY_BLOCK, ReadingBlock, TagTable

MAX_WAITING: Final = 20_000
"""Readings that may wait for one watcher, 21 bytes each: two seconds of a tenant with 10,000 readings/s."""


class LiveClosed(Exception):
    """The tenant stops; nothing more will be published."""


@dataclass(frozen=True, slots=True, eq=False)
class LiveReadings:
    """What a watcher is handed: readings in the order of acceptance, and how many were dropped before them."""

    readings: ReadingBlock
    missed: int


class LiveHub:
    """One tenant's watchers. Used in the Trio thread."""

    def __init__(self, tags: TagTable, metrics: TenantMetrics | None = None) -> None:
        self._tags = tags
        self._metrics = metrics
        self._watchers: set[Watcher] = set()
        self._closed = False

    def __len__(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def publish(self, blocks: Sequence[ReadingBlock]) -> None:
        """Hand ``blocks``, accepted together, to every watcher; costs nothing where nobody watches."""
        if not self._watchers:
            return
        readings = ReadingBlock.concatenate(blocks)
        missed = sum(watcher.offer(readings) for watcher in self._watchers)
        if missed and self._metrics is not None:
            self._metrics.live_missed.inc(missed)

    @contextmanager
    def watch(
        self, wells: Collection[UUID] = (), node_ids: Collection[str] = (), *, max_waiting: int = MAX_WAITING
    ) -> Iterator[Watcher]:
        """Readings from now on, of these wells and node ids, all of them where none are named.

        Raises `LiveClosed` where the tenant stops already.
        """
        if self._closed:
            raise LiveClosed
        watcher = Watcher(self._tags, frozenset(wells), frozenset(node_ids), max_waiting)
        self._watchers.add(watcher)
        self._count_watchers()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            self._count_watchers()

    def close(self) -> None:
        """End every watcher's waiting once it has taken what was published; later calls of `watch` are refused."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()

    def _count_watchers(self) -> None:
        if self._metrics is not None:
            self._metrics.live_watchers.set(len(self._watchers))


class Watcher:
    """What waits for one client: at most ``max_waiting`` readings, of series in ``tags``. Made by `LiveHub.watch`."""

    def __init__(self, tags: TagTable, wells: frozenset[UUID], node_ids: frozenset[str], max_waiting: int) -> None:
        self.tags = tags
        self._wells = wells
        self._node_ids = node_ids
        self._max_waiting = max_waiting
        self._wanted: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._waiting: deque[ReadingBlock] = deque()
        self._count = 0
        self._missed = 0
        self._arrived = trio.Event()
        self._closed = False

    def offer(self, readings: ReadingBlock) -> int:
        """Keep those of ``readings`` that are wanted; how many of the oldest were dropped because that is too much."""
        if self._wells or self._node_ids:
            readings = readings.select(self._mask()[readings.tag])
        if not len(readings):
            return 0
        self._waiting.append(readings)
        self._count += len(readings)
        missed = 0
        while self._count > self._max_waiting:
            dropped = len(self._pop(self._count - self._max_waiting))
            self._count -= dropped
            missed += dropped
        self._missed += missed
        self._arrived.set()
        return missed

    @property
    def waiting(self) -> int:
        """Readings that can be taken at once."""
        return self._count

    async def wait(self) -> None:
        """Return when readings wait; `LiveClosed` where there will be none."""
        while not self._waiting:
            if self._closed:
                raise LiveClosed
            self._arrived = trio.Event()
            await self._arrived.wait()

    async def take(self, most: int) -> LiveReadings:
        """Up to ``most`` readings, waiting for the first; `LiveClosed` where there will be none."""
        await self.wait()
        taken, count = [], 0
        while self._waiting and count < most:
            block = self._pop(most - count)
            taken.append(block)
            count += len(block)
        self._count -= count
        missed, self._missed = self._missed, 0
        return LiveReadings(ReadingBlock.concatenate(taken), missed)

    def close(self) -> None:
        """Nothing more will be offered."""
        self._closed = True
        self._arrived.set()

    def _pop(self, most: int) -> ReadingBlock:
        """The first block, or its first ``most`` readings."""
        block = self._waiting.popleft()
        if len(block) <= most:
            return block
        self._waiting.appendleft(_part(block, most, len(block)))
        return _part(block, 0, most)

    def _mask(self) -> NDArray[np.bool_]:
        """Whether each series of the tenant is wanted; series are added and never change."""
        known = len(self._wanted)
        if known < len(self.tags):
            more = [self._wants(*self.tags.key(index)) for index in range(known, len(self.tags))]
            self._wanted = np.concatenate([self._wanted, np.array(more, np.bool_)])
        return self._wanted

    def _wants(self, well_id: UUID, node_id: str) -> bool:
        return (not self._wells or well_id in self._wells) and (not self._node_ids or node_id in self._node_ids)


def _part(block: ReadingBlock, start: int, end: int) -> ReadingBlock:
    """Readings ``start`` to ``end``, copied, so that a short rest does not keep a long block alive."""
    if start == end:
        return EMPTY_BLOCK
    return ReadingBlock(
        block.tag[start:end].copy(),
        block.time_us[start:end].copy(),
        block.value[start:end].copy(),
        block.quality[start:end].copy(),
    )
