"""Readings that are accepted and not yet committed, in memory, with a stated bound.

Owned by one tenant and used from the Trio thread alone: the aggregator appends and takes, the writer reports what is
committed. It outlives a restart of the tenant's tasks, so what was taken and not committed is offered again.

    append ──► waiting blocks ──► take ──► batches in flight ──► committed ──► gone
                     ▲                              │
                     └────────────── rewind ◄───────┘
"""

from __future__ import annotations

import time
from collections import deque
from uuid import UUID, uuid4

import trio

from scada_trio.readings import Batch, ReadingBlock


class ReadingBuffer:
    """Blocks in order of arrival, counted in readings; nothing is dropped, `wait_room` holds the intake instead."""

    def __init__(self, limit: int) -> None:
        self.buffer_id: UUID = uuid4()
        self.limit = limit
        self.received_total = 0
        self.committed_total = 0
        self.last_commit_at: float | None = None
        self._last_commit_monotonic = time.monotonic()
        self._waiting: deque[tuple[float, ReadingBlock]] = deque()
        self._waiting_count = 0
        self._in_flight: deque[Batch] = deque()
        self._again: deque[Batch] = deque()
        self._sequence = 0
        self._room = trio.Event()

    def __len__(self) -> int:
        """Readings accepted and not yet committed."""
        return self.received_total - self.committed_total

    @property
    def waiting(self) -> int:
        """Readings that no batch has taken yet, or that a restart gave back."""
        return self._waiting_count + sum(len(batch) for batch in self._again)

    @property
    def oldest_at(self) -> float | None:
        """`trio.current_time` at which the oldest waiting block came; -inf where a restart gave batches back."""
        if self._again:
            return float("-inf")
        return self._waiting[0][0] if self._waiting else None

    @property
    def full(self) -> bool:
        """Whether the bound is reached; the append that reaches it may pass it by its own blocks."""
        return len(self) >= self.limit

    @property
    def ms_since_commit(self) -> int:
        """Milliseconds since the last commit, or since the start where there was none."""
        return int((time.monotonic() - self._last_commit_monotonic) * 1000)

    def append(self, blocks: list[ReadingBlock]) -> None:
        """Accept ``blocks``; they are this buffer's from now on."""
        now = trio.current_time()
        for block in blocks:
            count = len(block)
            if count:
                self._waiting.append((now, block))
                self._waiting_count += count
                self.received_total += count

    def take(self, max_readings: int) -> Batch | None:
        """The next batch in order, at most ``max_readings`` long unless one block alone is longer; None when empty."""
        if self._again:
            batch = self._again.popleft()
        elif self._waiting:
            blocks = [self._pop_block()]
            count = len(blocks[0])
            while self._waiting and count + len(self._waiting[0][1]) <= max_readings:
                blocks.append(self._pop_block())
                count += len(blocks[-1])
            self._sequence += 1
            batch = Batch(self._sequence, ReadingBlock.concatenate(blocks))
        else:
            return None
        self._in_flight.append(batch)
        return batch

    def committed(self, batch: Batch) -> None:
        """``batch``, the oldest one in flight, is in the database."""
        assert self._in_flight
        assert self._in_flight[0] is batch
        self._in_flight.popleft()
        self.committed_total += len(batch)
        self.last_commit_at = time.time()
        self._last_commit_monotonic = time.monotonic()
        if not self.full:
            self._room.set()

    def rewind(self) -> None:
        """Offer again, under the same numbers, what was taken and not committed: the tasks that had it are gone."""
        self._again.extendleft(reversed(self._in_flight))
        self._in_flight.clear()

    async def wait_room(self) -> None:
        """Return when the bound is not reached any more."""
        while self.full:
            self._room = trio.Event()
            await self._room.wait()

    def _pop_block(self) -> ReadingBlock:
        _, block = self._waiting.popleft()
        self._waiting_count -= len(block)
        return block
