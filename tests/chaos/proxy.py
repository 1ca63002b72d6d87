"""A TCP proxy that does to its connections what networks do: cut, freeze, delay, truncate, refuse.

Knows nothing of the protocols but two words: it can freeze the link of a PostgreSQL client in a COPY of readings,
before the COMMIT behind it, or between that and its answer. `Proxy.serve` is started by who owns it, and serves until
cancelled.

    client ──► link ──► target        each link has two pumps; what they do is decided by the proxy's fields
"""

from __future__ import annotations

import enum
import random
import socket
import struct
from collections.abc import Callable
from typing import Final

import trio

_CHUNK_BYTES: Final = 65536
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends a reset
_COPY: Final = b"COPY scada_readings"
_COMMIT: Final = b"COMMIT\0"  # the statement's end, and the end of its CommandComplete


class Way(enum.Enum):
    """A direction through the proxy."""

    TO_TARGET = "to target"
    TO_CLIENT = "to client"


class Catch(enum.Enum):
    """At which byte of a batch's way to PostgreSQL a link is frozen."""

    IN_COPY = "the COPY has begun, and its end never arrives"
    NEVER_ARRIVES = "the COPY is over, and the COMMIT never arrives"
    NEVER_ANSWERED = "the COMMIT is carried out, and its answer never arrives"


_COPY_BEGINS: Final = frozenset({Catch.IN_COPY})
_COMMITS: Final = frozenset({Catch.NEVER_ARRIVES, Catch.NEVER_ANSWERED})


class Proxy:
    """One port in front of ``target``, which may change its port meanwhile."""

    def __init__(self, target: Callable[[], int]) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.refusing = False
        self._target = target
        self._flowing = trio.Event()
        self._flowing.set()
        self._links: set[_Link] = set()
        self._budget: dict[Way, int] = {}
        self._catch: Catch | None = None
        self._caught = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until cancelled; ``port`` is known once it is started."""
        (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._accept, [listener])

    def cut(self) -> None:
        """Reset every link there is."""
        for link in list(self._links):
            link.reset()

    def freeze(self) -> None:
        """Let nothing through, and keep every socket open."""
        self._flowing = trio.Event()

    def thaw(self) -> None:
        """Let everything through again that waited."""
        self._flowing.set()

    def truncate(self, way: Way, after_bytes: int) -> None:
        """Reset the link that carries the ``after_bytes``-th byte from now, once that byte is through."""
        self._budget[way] = after_bytes

    def catch(self, catch: Catch) -> trio.Event:
        """Freeze the link of the next batch where ``catch`` says; the event is set once it is there."""
        self._caught, self._catch = trio.Event(), catch
        return self._caught

    def heal(self) -> None:
        """Be an ordinary proxy again. Links that were caught stay frozen until they are cut."""
        self.delay_s, self.refusing, self._catch = 0.0, False, None
        self._budget.clear()
        self.thaw()

    # ---- links

    async def _accept(self, client: trio.SocketStream) -> None:
        async with client:
            if self.refusing:
                return
            try:
                target = await trio.open_tcp_stream("127.0.0.1", self._target())
            except OSError:
                _reset(client)
                return
            link = _Link(client, target)
            self._links.add(link)
            try:
                async with target, trio.open_nursery() as nursery:
                    link.scope = nursery.cancel_scope
                    nursery.start_soon(self._pump, link, Way.TO_TARGET)
                    nursery.start_soon(self._pump, link, Way.TO_CLIENT)
            finally:
                self._links.discard(link)

    async def _pump(self, link: _Link, way: Way) -> None:
        source, sink = (link.client, link.target) if way is Way.TO_TARGET else (link.target, link.client)
        try:
            while data := bytes(await source.receive_some(_CHUNK_BYTES)):
                await self._flowing.wait()
                if self.delay_s:
                    await trio.sleep(random.uniform(0, self.delay_s))
                if way is Way.TO_TARGET and self._catch in link.passes(data):
                    await self._hold(link, data)
                if way is Way.TO_CLIENT and link.caught is not None and _COMMIT in data:
                    link.caught.set()
                await link.flowing.wait()
                await self._forward(link, way, data, sink)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        link.reset()

    async def _hold(self, link: _Link, data: bytes) -> None:
        catch, self._catch = self._catch, None
        link.flowing = trio.Event()
        if catch is Catch.NEVER_ANSWERED:
            link.caught = self._caught
        if catch is not Catch.NEVER_ARRIVES:
            await link.target.send_all(data)
        if catch is not Catch.NEVER_ANSWERED:
            self._caught.set()
        await trio.sleep_forever()

    async def _forward(self, link: _Link, way: Way, data: bytes, sink: trio.SocketStream) -> None:
        budget = self._budget.get(way)
        if budget is None:
            await sink.send_all(data)
            return
        await sink.send_all(data[:budget])
        self._budget[way] = budget - len(data)
        if self._budget[way] <= 0:
            del self._budget[way]
            link.reset()


class _Link:
    """One client and its connection to the target."""

    def __init__(self, client: trio.SocketStream, target: trio.SocketStream) -> None:
        self.client = client
        self.target = target
        self.scope = trio.CancelScope()
        self.flowing = trio.Event()
        self.flowing.set()
        self.caught: trio.Event | None = None  # to be set when the COMMIT is answered
        self._copying = False
        self._tail = b""

    def passes(self, data: bytes) -> frozenset[Catch]:
        """Where on a batch's way ``data`` from the client is."""
        seen, self._tail = self._tail + data, data[-len(_COPY) :]
        if _COPY in seen and not self._copying:
            self._copying, self._tail = True, b""
            return _COPY_BEGINS
        if _COMMIT in seen and self._copying:
            self._copying, self._tail = False, b""
            return _COMMITS
        return frozenset()

    def reset(self) -> None:
        """End the link with a reset on both sides, whatever is on its way."""
        _reset(self.client)
        _reset(self.target)
        self.scope.cancel()


def _reset(stream: trio.SocketStream) -> None:
    """Let the stream's closing send a reset, and throw away what it has not sent."""
    if stream.socket.fileno() >= 0:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
