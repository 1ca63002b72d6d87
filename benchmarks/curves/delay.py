"""A TCP proxy that makes a way longer: every byte arrives later by half a round trip, and no fewer of them a second.

`DelayingProxy.serve` is started by who owns it, and serves until cancelled.

    client ──► read ──► (due, bytes) ──► write when due ──► target, and the same back
"""

from __future__ import annotations

from typing import Final

import trio

_CHUNK_BYTES: Final = 65_536
_CHUNKS_UNDER_WAY: Final = 4_096


class DelayingProxy:
    """``round_trip_s`` may be changed at any time; ``port``, on loopback, is known once it serves."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.round_trip_s = 0.0
        self._target_port = target_port

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until cancelled."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._accept, [listener])

    async def _accept(self, client: trio.SocketStream) -> None:
        async with client:
            try:
                target = await trio.open_tcp_stream("127.0.0.1", self._target_port)
            except OSError:
                return
            async with target, trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, client, target)
                await self._carry(target, client)
                nursery.cancel_scope.cancel()

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Everything from ``source`` to ``sink``, its end too."""
        put, take = trio.open_memory_channel[tuple[float, bytes]](_CHUNKS_UNDER_WAY)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, source, put)
                with take:
                    async for due, data in take:
                        await trio.sleep_until(due)
                        await sink.send_all(data)
                await sink.send_eof()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _read(self, source: trio.SocketStream, put: trio.MemorySendChannel[tuple[float, bytes]]) -> None:
        with put:
            while data := bytes(await source.receive_some(_CHUNK_BYTES)):
                await put.send((trio.current_time() + self.round_trip_s / 2, data))
