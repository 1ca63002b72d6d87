"""What a tenant's connections have received and the channel did not take at once.

Owns the order of deliveries, over the sessions of each connection too: what came before a break goes out during it.
Knows no device; the tenant starts `Outbox.run` beside its connections, one task for all of them.
"""

from __future__ import annotations

from collections import deque

import trio

from scada_trio.readings import Delivery


class Outbox:
    """Bounded by those who fill it: each publisher has a few notifications unaccepted and no more."""

    def __init__(self, deliver: trio.MemorySendChannel[Delivery]) -> None:
        self._deliver = deliver
        self._waiting: deque[Delivery] = deque()
        self._filled = trio.Event()

    @property
    def received(self) -> bool:
        """Whether anybody takes deliveries."""
        return self._deliver.statistics().open_receive_channels > 0

    def pass_on(self, delivery: Delivery) -> None:
        """Send ``delivery`` behind all that came before it, now or as soon as there is room."""
        if not self._waiting:
            try:
                self._deliver.send_nowait(delivery)
            except trio.WouldBlock:
                pass
            else:
                return
        self._waiting.append(delivery)
        self._filled.set()

    async def run(self) -> None:
        """Send what waits; returns only when cancelled. Raises ``trio.BrokenResourceError`` where nobody receives."""
        while True:
            await self._filled.wait()
            while self._waiting:
                await self._deliver.send(self._waiting[0])
                self._waiting.popleft()
            self._filled = trio.Event()
