"""What a connection has received and the channel did not take at once.

Owns the order of deliveries over the sessions of one connection: what came before a break goes out during it. Knows no
device; the connection starts `Outbox.run` beside its attempts.
"""

from __future__ import annotations

import trio

from scada_trio.readings import Delivery


class Outbox:
    """Bounded by whoever fills it: the publisher has a few notifications unaccepted and no more."""

    def __init__(self, deliver: trio.MemorySendChannel[Delivery]) -> None:
        self._deliver = deliver
        self._waiting: list[Delivery] = []
        self._filled = trio.Event()

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
                self._waiting.pop(0)
            self._filled = trio.Event()
