"""A TCP proxy that a test can cut: between a connection and a real server, where a network would be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio


class Proxy:
    """``url`` leads to the server; made by `open_proxy`."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.open = True
        self.connections = 0
        self.round_trips = 0
        """How often the client's side spoke after the server's had."""
        self._client_speaks = False
        self._scopes: set[trio.CancelScope] = set()

    @property
    def url(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Close every connection, as a network does that goes down; those that come are closed until `mend`."""
        self.open = False
        for scope in self._scopes:
            scope.cancel()

    def mend(self) -> None:
        self.open = True

    async def serve(self, stream: trio.SocketStream) -> None:
        if not self.open:
            await trio.aclose_forcefully(stream)
            return
        self.connections += 1
        scope = trio.CancelScope()
        self._scopes.add(scope)
        with scope, suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            server = await trio.open_tcp_stream("127.0.0.1", self.target_port)
            async with stream, server, trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, stream, server, nursery.cancel_scope, True)
                nursery.start_soon(self._copy, server, stream, nursery.cancel_scope, False)
        self._scopes.discard(scope)

    async def _copy(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope, from_client: bool
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while received := await source.receive_some():
                self.round_trips += from_client and not self._client_speaks
                self._client_speaks = from_client
                await sink.send_all(received)
        scope.cancel()


@asynccontextmanager
async def open_proxy(target_port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(target_port)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, proxy.serve, 0)
        proxy.port = listeners[0].socket.getsockname()[1]
        yield proxy
        nursery.cancel_scope.cancel()
