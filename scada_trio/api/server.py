"""The gRPC server: listening, the guard around every call, the drain. The only module that knows asyncio.

    serve_grpc (Trio) ── open_loop ── GrpcServer (grpclib, asyncio)
       │ files followed                 ├─ one _Connection a client, retired when it is quiet
       └─ Access: who may what          └─ every call ── _guarded ── handler ── CallerBackend ── Backend (Trio)

grpclib runs on an asyncio loop that trio-asyncio drives inside our nursery; the loop lives as long as `serve_grpc`.
What grpclib keeps private and is used here (`_protocol_factory`, a handler's `_tasks`, a connection's `_transport`)
stands in this module and in `limits`, nowhere else.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog
import trio
import trio_asyncio
from grpclib.const import Status
from grpclib.encoding.proto import ProtoStatusDetailsCodec
from grpclib.events import RecvRequest, listen
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.reflection.service import ServerReflection
from grpclib.server import Server
from h2.events import AlternativeServiceAvailable, UnknownFrameReceived
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes

from scada_trio.api.access import Access, Caller
from scada_trio.api.backend import Backend
from scada_trio.api.handlers import HealthHandlers, ScadaHandlers
from scada_trio.api.limited import CallerBackend
from scada_trio.api.limits import BoundedStream
from scada_trio.api.rights import Grant, identities_of
from scada_trio.api.statuses import as_grpc_error, with_reason
from scada_trio.api.tokens import PageTokens
from scada_trio.api.wire import WireCodec
from scada_trio.errors import NotPermitted, TooManyCalls, leaves
from scada_trio.listening import close_all, open_listening_sockets, require_loopback, shielded_until_cancelled
from scada_trio.tls import HANDSHAKE_S

log = structlog.get_logger()

_GOODBYE_S: Final = 0.5  # for a client to close its side after GOAWAY
_DISTANCES_S: Final = (0.02, 0.02, 0.02)  # tried between the last answer and the goodbye
_HANDLERS_END_S: Final = 1.0  # for cancelled handlers to unwind
_HARD_STOP_S: Final = _GOODBYE_S + _HANDLERS_END_S + 0.5
_UNCOUNTED: Final = "/grpc.reflection."  # a client may hold such a call open for ever; it must not hold up a drain


async def serve_grpc(
    backend: Backend,
    *,
    host: str,
    port: int,
    max_message_bytes: int,
    drain_s: float,
    stop: trio.Event,
    token_key: bytes,
    access: Access | None = None,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stop`` is set, then drain and return; ``started`` passes the host and the bound port.

    The drain closes the listener, then each client's connection as soon as no call of it runs, at the latest after
    ``drain_s``; calls that still run then are answered UNAVAILABLE. Cancelled, it does the same without waiting.
    ``token_key`` signs page tokens: with the same key those of another process are good. ``access``, loaded, says who
    may call. Raises `ConfigError` naming GRPC_HOST or GRPC_PORT where it cannot listen, or must not without TLS. Opens
    its own asyncio loop.
    """
    access = access or Access()
    sockets = await open_listening_sockets(host, port, variable_prefix="GRPC")
    try:
        if access.context is None and not access.settings.insecure:
            require_loopback(sockets, "GRPC_HOST", "GRPC_TLS_CERT and GRPC_TLS_KEY, or GRPC_INSECURE=true")
        bound: int = sockets[0].getsockname()[1]
        async with shielded_until_cancelled(_HARD_STOP_S) as cancelled, trio_asyncio.open_loop():
            server = GrpcServer(
                backend, stop=stop, max_message_bytes=max_message_bytes, tokens=PageTokens(token_key), access=access
            )
            await trio_asyncio.aio_as_trio(server.listen)(sockets)
            task_status.started((host, bound))
            async with trio.open_nursery() as nursery:
                renew = trio_asyncio.aio_as_trio(partial(server.listen, sockets))
                nursery.start_soon(access.follow_files, renew, server.reconsider, name="gRPC files")
                await _unless(cancelled, stop.wait)
                nursery.cancel_scope.cancel()
            close_all(sockets)  # the listeners have duplicates of their own, and go in a moment
            log.info("gRPC server draining", calls=server.live_calls)
            with trio.move_on_after(drain_s):
                await _unless(cancelled, trio_asyncio.aio_as_trio(server.retire))
            await trio_asyncio.aio_as_trio(server.cut_short)()
    finally:
        close_all(sockets)


async def _unless(event: trio.Event, function: Callable[[], Awaitable[object]]) -> None:
    """Await ``function()``, and give it up when ``event`` is set."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_after, event, nursery.cancel_scope)
        await function()
        nursery.cancel_scope.cancel()


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class _Connection(H2Protocol):  # type: ignore[misc]
    """One client's connection, and how it ends."""

    def __init__(self, server: GrpcServer, plain: Any) -> None:
        super().__init__(plain.handler, plain.config, plain.h2_config)
        self._server = server
        self._lost = asyncio.Event()
        self.names: Sequence[str] = ()
        self.address = ""
        self._goodbye_said = False  # waiting for the client may be cut off, and taken up again

    @property
    def live(self) -> set[asyncio.Task[None]]:
        """Tasks of the calls that run and that a drain waits for."""
        return {task for task in self.handler._tasks.values() if not task.done() and self._server.counts(task)}

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`; a client that comes while the listener closes, or is one too many, is turned away."""
        super().connection_made(transport)
        for kind in (UnknownFrameReceived, AlternativeServiceAvailable):  # RFC 9113, 5.5; grpclib would raise
            self.processor.processors[kind] = _ignore
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.names = identities_of(tls.getpeercert(binary_form=True))
        self._server.connections[self.connection] = self
        if self._server.stopping:
            transport.abort()
        elif tls is not None and tls.selected_alpn_protocol() != "h2":
            self._turn_away("no_h2")
        elif len(self._server.connections) > self._server.access.settings.max_connections:
            self._turn_away("too_many_connections")
        else:
            limit = {SettingCodes.MAX_CONCURRENT_STREAMS: self._server.access.settings.max_streams}
            self.connection._connection.update_settings(limit)
            self.connection.flush()

    def _turn_away(self, reason: str) -> None:
        self._server.access.denied(self.names, self.address, "connect", reason)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. The hook that the loop calls: what is raised here would end it, for every client."""
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - grpclib expects less of a client than a client can send
            log.warning("a client's bytes could not be followed", address=self.address, error=type(error).__name__)
            self._transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._server.connections.pop(self.connection, None)
        self._lost.set()
        super().connection_lost(exc)

    async def retire(self) -> None:
        """Wait for a moment without a call, then close. A request that is under way then is not lost.

        GOAWAY carries the last call that was accepted; the client sends later ones again elsewhere (RFC 9113, 6.8).
        Some clients drop an answer that they read together with GOAWAY (grpclib's own does): where calls leave room,
        the goodbye keeps a distance to the last answer.
        """
        for pause_s in _DISTANCES_S:
            while live := self.live:
                await asyncio.wait(live, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(pause_s)
            if not self.live:
                break
        while live := self.live:
            await asyncio.wait(live, return_when=asyncio.FIRST_COMPLETED)
        await self.say_goodbye()

    async def cut_short(self) -> None:
        """Cancel the calls that run, give them a moment to answer, then close."""
        if live := self.live:
            for task in live:
                task.cancel()
            await asyncio.wait(live, timeout=_HANDLERS_END_S)
        await self.say_goodbye()

    async def say_goodbye(self) -> None:
        """Close in order: GOAWAY, end of our side, and the socket when the client has closed its own."""
        if not (self._goodbye_said or self.connection.is_closing()):
            self._goodbye_said = True
            self.connection._connection.close_connection()
            self.connection.flush()
            if self._transport.can_write_eof():  # not with TLS, where clients take GOAWAY for the end
                with suppress(OSError):  # the client is gone; the loop will say so
                    self._transport.write_eof()
        try:
            await asyncio.wait_for(self._lost.wait(), _GOODBYE_S)
        except TimeoutError:
            self._transport.abort()
            await self._lost.wait()


def _ignore(_event: object) -> None:
    pass


class GrpcServer(Server):  # type: ignore[misc]
    """grpclib's server with a guard around every call and an orderly end; made inside the asyncio loop."""

    def __init__(
        self, backend: Backend, *, stop: trio.Event, max_message_bytes: int, tokens: PageTokens, access: Access
    ) -> None:
        services = [ScadaHandlers(backend, tokens), HealthHandlers(backend, stop)]
        super().__init__(
            ServerReflection.extend(services),
            codec=WireCodec(),
            status_details_codec=ProtoStatusDetailsCodec(),
        )
        self.access = access
        self.connections: dict[Any, _Connection] = {}  # by grpclib's own object for the link
        self._backend = backend
        self._tokens = tokens
        self._grants: dict[asyncio.Task[Any], Grant] = {}  # with which calls run
        self._revoked: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.stopping = False
        self._cutting = False
        self._max_message_bytes = max_message_bytes
        self._listeners: list[asyncio.Server] = []
        self._uncounted: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        listen(self, RecvRequest, self._on_request)

    @property
    def live_calls(self) -> int:
        """Calls that run now and that a drain waits for."""
        return sum(len(connection.live) for connection in self.connections.values())

    def counts(self, task: asyncio.Task[Any]) -> bool:
        """Whether a drain waits for the call that runs in ``task``."""
        return task not in self._uncounted

    async def listen(self, sockets: list[socket.socket]) -> None:
        """Accept clients on ``sockets``, which stay the caller's, with today's certificate.

        Called again, it takes the place of the listeners before, whose clients stay; those that knock meanwhile wait
        in the kernel.
        """
        context = self.access.context
        handshake_s = None if context is None else HANDSHAKE_S
        listeners = []
        for sock in sockets:
            own = sock.dup()
            own.setblocking(False)
            listeners.append(
                await self._loop.create_server(
                    self._protocol_factory, sock=own, ssl=context, ssl_handshake_timeout=handshake_s
                )
            )
        before, self._listeners = self._listeners, listeners
        for listener in before:
            listener.close()
        if self.stopping:
            self._stop_listening()

    async def reconsider(self) -> None:
        """End the calls that run with rights which their callers no longer have."""
        for connection in list(self.connections.values()):
            caller = self.access.caller(connection.names, connection.address)
            grant = None if caller is None else caller.grant
            for task in list(connection.handler._tasks.values()):
                if self._grants.get(task, grant) != grant:
                    self._revoked.add(task)
                    task.cancel()

    async def retire(self) -> None:
        """Stop listening, and return when the last call has ended and every connection is closed."""
        self._stop_listening()
        async with asyncio.TaskGroup() as group:
            for connection in list(self.connections.values()):
                group.create_task(connection.retire())

    async def cut_short(self) -> None:
        """Stop listening, cancel what still runs, and close every connection, within about 1.5 s."""
        self._stop_listening()
        self._cutting = True
        async with asyncio.TaskGroup() as group:
            for connection in list(self.connections.values()):
                group.create_task(connection.cut_short())

    def _stop_listening(self) -> None:
        self.stopping = True
        for listener in self._listeners:
            listener.close()

    def _protocol_factory(self) -> _Connection:
        return _Connection(self, super()._protocol_factory())

    async def _on_request(self, event: RecvRequest) -> None:
        event.method_func = partial(self._guarded, event.method_func, event.method_name)

    async def _guarded(self, method: Any, name: str, stream: Any) -> None:
        """Every call passes here: who may not is refused, bounded messages in, statuses out.

        grpclib calls it, and answers UNKNOWN to whatever it does not know; so this is the last place to catch
        an `Exception` and to log it with its traceback.
        """
        connection = self.connections.get(stream._stream.connection)
        if connection is None:
            raise GRPCError(Status.CANCELLED, "the client is gone")
        names, address = connection.names, connection.address
        stream._stream = BoundedStream(stream._stream, self._max_message_bytes)
        task = asyncio.current_task()
        assert task is not None
        if name.startswith(_UNCOUNTED):
            self._uncounted.add(task)
        try:
            with self.access.counted(names, address):
                caller = self.access.admit(names, address, name)
                self._grants[task] = caller.grant
                await self._for_caller(method, caller)(stream)
        except asyncio.CancelledError:
            if task in self._revoked:
                self.access.denied(names, address, name, "revoked")
                raise as_grpc_error(NotPermitted("revoked")) from None  # type: ignore[misc]
            if not self._cutting or stream._stream.wrapper.cancelled:
                raise  # the client cancelled, or its deadline passed: grpclib knows which
            raise with_reason(GRPCError(Status.UNAVAILABLE, "the service is stopping")) from None
        except StreamClosedError:
            raise GRPCError(Status.CANCELLED, "the client is gone") from None
        except Exception as error:
            for denied in (leaf for leaf in leaves(error) if isinstance(leaf, NotPermitted | TooManyCalls)):
                self.access.denied(names, address, name, denied.reason)
            status = as_grpc_error(error)
            if status is None:
                log.exception("call failed", method=name)
                status = with_reason(GRPCError(Status.INTERNAL, "internal error"))
            raise status from None
        finally:
            self._grants.pop(task, None)

    def _for_caller(self, method: Any, caller: Caller) -> Any:
        """``method`` of handlers that see what ``caller`` may; health and reflection tell nothing of tenants."""
        if not isinstance(method.__self__, ScadaHandlers):
            return method
        return getattr(ScadaHandlers(CallerBackend(self._backend, caller), self._tokens), method.__name__)
