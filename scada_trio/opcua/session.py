"""A session with a device: the scope in which its socket is pumped and its calls are made.

Owns the socket, the tasks that serve it and the session on the server; knows no tag and no reading. The connection
opens `open_session`, which closes everything when its block is left: task, thread, socket, the session on the server.

    open_session
      ├─ pump      socket ──► frames ──► LinkSocket.take ──► callers, on_publish
      ├─ backlog   while there are bytes that the socket did not take at once
      ├─ gaps      while the publisher fills one
      └─ block     log_in, call (a worker thread each), keep_up
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

import outcome
import trio
from opcua import ua

from scada_trio.config import DeviceSettings
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import DeviceError, DeviceSilent, DeviceUnreachable
from scada_trio.opcua.client import LinkClient, LinkSocket
from scada_trio.opcua.faults import status_name, translated
from scada_trio.opcua.kept import SessionTicket
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.security import LinkSecurity, Offer, activation, agree, explained, offer_of
from scada_trio.opcua.transport import MAX_CHUNK_BYTES, OpenTransport, open_transport, parse_endpoint
from scada_trio.status import Heard

T = TypeVar("T")

_GOODBYE_S: Final = 2.0
"""How long a device may take to answer CloseSession before the socket is closed under it."""
_RENEW_AT: Final = 0.75
"""Part of the channel's lifetime after which it is renewed (OPC UA Part 4, 5.5.2.1 recommends 75 %)."""
_PINGS_A_TIMEOUT: Final = 3
"""An idle session is touched this many times a session timeout, so that one lost answer does not end it."""


@asynccontextmanager
async def open_session(
    spec: ConnectionSpec,
    *,
    settings: DeviceSettings,
    pki: Pki,
    limiter: trio.CapacityLimiter,
    resolving: trio.CapacityLimiter,
    leave_subscription: Callable[[bool], bool] = lambda ended_by_error: False,
) -> AsyncIterator[Session]:
    """Agree on security, connect to the device and say Hello; the block then calls `Session.log_in`.

    Raises `DeviceError`s only as themselves, never in a group: the one that ended the link, whichever task met it. The
    block is cancelled when the link breaks. On the way out the session is closed on the server within two seconds
    where the link is whole, cancelled or not, and with it its subscriptions, unless ``leave_subscription``, which is
    told whether an error ended the link, says that somebody will take them over. ``limiter`` bounds the tenant's worker
    threads.
    """
    endpoint = parse_endpoint(spec.endpoint_url)
    security = await agree(spec, settings=settings, pki=pki, limiter=limiter, resolving=resolving)
    transport = await open_transport(endpoint, timeout_s=settings.connect_timeout_s, resolving=resolving)
    session = Session(spec, transport, security, settings=settings, pki=pki, limiter=limiter)
    try:
        async with trio.open_nursery() as nursery:
            session.scope, session.starter = nursery.cancel_scope, nursery.start_soon
            session.start_soon(session.run_pump, "pump")
            if security.protects:
                session.start_soon(session.run_trust, "trust")
            try:
                yield session
            except DeviceError as error:
                session.error = session.error or error
                if isinstance(error, DeviceUnreachable) and error.status is None:
                    session.link.fail(error)  # no goodbye: the session is to be found again
            nursery.cancel_scope.cancel()
        ended_by = session.error
    finally:
        session.starter = None
        with trio.move_on_after(_GOODBYE_S, shield=True):
            await session.say_goodbye(delete_subscriptions=not leave_subscription(session.error is not None))
        session.close()
    if ended_by is not None:
        raise ended_by


class Session:
    """One link, from Hello on. Made by `open_session`; used in the Trio thread.

    ``error`` is what ended the link. ``heard_at`` and ``sent_at`` are Trio times of the last bytes from the device and
    of the last request that keeps the session alive; ``heard`` tells the former to others.
    """

    def __init__(
        self,
        spec: ConnectionSpec,
        transport: OpenTransport,
        security: LinkSecurity,
        *,
        settings: DeviceSettings,
        pki: Pki,
        limiter: trio.CapacityLimiter,
    ) -> None:
        self.spec = spec
        self.settings = settings
        self.error: DeviceError | None = None
        self.scope = trio.CancelScope()
        self.closing = self.closed = self.left_subscription = False  # the latter two on the server, as far as asked for
        self.heard_at = self.sent_at = trio.current_time()
        self.heard = Heard.now()
        self._security, self._pki, self._limiter = security, pki, limiter
        self._offer: Offer | None = None  # of the session that was activated last
        self._opening, self._created, self._writing = True, False, False
        self._frames, self._waiting = transport.frames, transport.waiting
        self.starter: Callable[..., None] | None = None  # its nursery's, while that is open
        self._pinged_at: float | None = None
        self._renew_at = self._expires_at = math.inf
        self.link = LinkSocket(
            transport.sock,
            timeout_s=settings.connect_timeout_s,
            policy=security.policy,
            send_chunk_bytes=transport.send_chunk_bytes,
            on_backlog=partial(trio.lowlevel.current_trio_token().run_sync_soon, self._start_backlog),
        )
        self.client = LinkClient(
            spec.endpoint_url,
            self.link,
            policy=security.policy,
            application_uri=security.own_uri,
            session_timeout_s=settings.session_timeout_s,
        )

    async def log_in(self, ticket: SessionTicket | None = None) -> str | None:
        """Open the channel, then activate the session of ``ticket`` on it, or create and activate one.

        (Part 4, 5.5.2, 5.6.2, 5.6.3.) Returns None, or why the ticket's session could not be had and it is a new one.
        Raises `DeviceError`.
        """
        refused = await self.call("logging in", lambda: self._log_in(ticket))
        self._plan_renewal()
        return refused

    def _log_in(self, ticket: SessionTicket | None) -> str | None:
        client = self.client
        with translated("OpenSecureChannel"):
            client.open_secure_channel()
        self._opening = False
        refused = None
        if ticket is not None:
            refused = self._resume(ticket)
            if refused is None:
                return None
        with translated("CreateSession"):
            created = client.create_session()
            self._created = True
            offer = offer_of(created, self._security)
        with translated("ActivateSession"):
            self._activate(offer)
        return refused

    def _resume(self, ticket: SessionTicket) -> str | None:
        """Activate the session of ``ticket`` on the new channel; returns what the server has against it."""
        client = self.client
        self.link.authentication_token = ticket.authentication_token
        client._server_nonce = ticket.server_nonce
        client.session_timeout = ticket.timeout_ms
        try:
            with translated("ActivateSession"):
                self._activate(ticket.offer)
        except DeviceError as error:
            if error.status is None:
                raise
            self.link.authentication_token = ua.NodeId()
            client.session_timeout = self.settings.session_timeout_s * 1000
            return status_name(error.status)
        self._created = True
        return None

    def _activate(self, offer: Offer) -> None:
        client = self.client
        parameters = activation(client, self.spec, offer, self._security, self._pki)
        activated = client.uaclient.activate_session(parameters)
        client._server_nonce = activated.ServerNonce  # the next activation signs and encrypts with it
        self._offer = offer

    @property
    def ticket(self) -> SessionTicket | None:
        """What a later link needs to go on with this session; None where it was closed or never activated."""
        if self._offer is None or self.closed:
            return None
        client = self.client
        return SessionTicket(
            self.heard_at + client.session_timeout_s,
            client.session_timeout,
            self.link.authentication_token,
            client._server_nonce,
            self._offer,
        )

    async def ask(self, request: Any) -> bytes | None:
        """Send ``request`` without a worker thread; returns the answer's body, None where none came in time.

        Raises the `DeviceError` that the link broke with.
        """
        answered = trio.Event()
        future = self.link._send_request(request)
        future.add_done_callback(lambda _: answered.set())
        self.sent_at = trio.current_time()
        with trio.move_on_after(self.settings.connect_timeout_s):
            await answered.wait()
        if not future.done():
            self.link.forget(future)
            return None
        body = future.result()
        return bytes(body.read(len(body)))

    async def call(self, context: str, function: Callable[[], T]) -> T:
        """Run blocking ``function`` in a worker thread of the tenant. Raises `DeviceError`, which names ``context``.

        Cancelled, it lets the thread's wait for the device end at once and returns when the thread has; the link then
        takes no further calls.
        """

        def run() -> T:
            with translated(context):
                return function()

        done = False

        async def interrupt_when_cancelled() -> None:
            try:
                await trio.sleep_forever()
            finally:
                if not done:
                    self.link.interrupt()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt_when_cancelled)
            result = await trio.to_thread.run_sync(outcome.capture, run, limiter=self._limiter)
            done = True
            nursery.cancel_scope.cancel()
        self.sent_at = trio.current_time()
        return result.unwrap()

    def start_soon(self, task: Callable[[], Awaitable[None]], what: str) -> bool:
        """Run ``task`` beside the pump, at the longest until the link ends; False where it has ended already.

        For what is seldom needed: a task that only waits costs 2 KB, a thousand times.
        """
        if self.starter is None:
            return False
        self.starter(task, name=f"connection {self.spec.connection_id} {what}")
        return True

    @property
    def unusable(self) -> bool:
        """Whether the link broke or is being closed: what a call raises then is not the device's answer."""
        return self.link.broken is not None or self.link.interrupted

    def fail(self, error: DeviceError) -> None:
        """End the link: who waits for the device gets ``error``, and `open_session` raises it. The first counts."""
        if self._opening and self._security.protects:
            error = explained(error, self._security)
        self.error = self.error or error
        self.link.fail(error)
        self.scope.cancel()

    # ---- upkeep, called by the connection's own task

    @property
    def upkeep_at(self) -> float:
        """Trio time at which `keep_up` has something to do."""
        return min(self._renew_at, self._ping_at, self._answer_due_at)

    @property
    def _ping_at(self) -> float:
        return self.sent_at + self.client.session_timeout_s / _PINGS_A_TIMEOUT

    @property
    def _answer_due_at(self) -> float:
        if self._pinged_at is None or self.heard_at >= self._pinged_at:
            return math.inf
        return self._pinged_at + self.settings.connect_timeout_s

    async def keep_up(self) -> None:
        """Renew the channel and touch the idle session where they are due. Raises `DeviceError`, or ends the link.

        A renewal that is not answered is tried again as long as the channel lives.
        """
        now = trio.current_time()
        if now >= self._answer_due_at:
            self.fail(DeviceSilent(f"the device left a Read unanswered for {self.settings.connect_timeout_s:g} s"))
            return
        if now >= self._ping_at:
            with translated("Read"):
                self.link.ping()
            self.sent_at = now
            if self._answer_due_at == math.inf:  # else the last one is still unanswered, and its time is running
                self._pinged_at = now
        if now >= self._renew_at:
            await self._renew()

    async def _renew(self) -> None:
        try:
            await self.call("renewing the channel", self._renew_channel)
        except DeviceUnreachable as error:
            if self.link.broken is not None:
                raise
            now = trio.current_time()
            if now >= self._expires_at:
                raise DeviceSilent("the channel ran out; no renewal was answered") from error
            self._renew_at = now + (self._expires_at - now) / 4
        else:
            self._plan_renewal()
            self.link.ping()  # a server goes over to the new token when it first sees it, and the old one runs out

    def _renew_channel(self) -> None:
        self._security.recheck()
        self.client.open_secure_channel(renew=True)

    def _plan_renewal(self) -> None:
        now = trio.current_time()
        self._renew_at = now + _RENEW_AT * self.client.channel_lifetime_s
        self._expires_at = now + self.client.channel_lifetime_s

    async def run_trust(self) -> None:
        """End the link when the trust store says that the server's certificate is accepted no more."""
        try:
            await self._security.watch(self._pki, limiter=self._limiter)
        except DeviceError as error:
            self.fail(error)

    # ---- the socket's two tasks

    async def run_pump(self) -> None:
        """Read the socket and hand each frame on; returns when the link has failed or when it is cancelled."""
        sock = self.link.sock
        try:
            while self._waiting:
                self.link.take(self._waiting.pop(0))
            while True:
                await trio.lowlevel.wait_readable(sock)
                try:
                    received = sock.recv(MAX_CHUNK_BYTES)
                except BlockingIOError:
                    continue
                if not received:
                    raise DeviceUnreachable("the device closed the connection")
                self.heard_at = trio.current_time()
                self.heard.again()
                for frame in self._frames.feed(received):
                    self.link.take(frame)
        except OSError as error:
            self.fail(DeviceUnreachable(f"the link broke: {error.strerror or error}"))
        except DeviceError as error:
            self.fail(error)

    async def _run_backlog(self) -> None:
        """Write what the socket did not take at once, when it does; returns when nothing is left, or as `run_pump`."""
        try:
            while not self.link.write_backlog():
                await trio.lowlevel.wait_writable(self.link.sock)
        except DeviceError as error:
            self.fail(error)
        finally:
            self._writing = False

    def _start_backlog(self) -> None:
        if not self._writing:
            self._writing = self.start_soon(self._run_backlog, "backlog")

    # ---- the end, called by `open_session`

    async def say_goodbye(self, *, delete_subscriptions: bool) -> None:
        """Close session and channel on the server (Part 4, 5.6.4, 5.5.3) where there are any and the link is whole."""
        self.closing = True
        if not self._created or self.link.broken is not None:
            return
        self.closed, self.left_subscription = True, not delete_subscriptions
        async with trio.open_nursery() as nursery:
            self.scope, self.starter = nursery.cancel_scope, nursery.start_soon
            self.start_soon(self.run_pump, "goodbye")
            answered = trio.Event()
            try:
                self.link.request_close(delete_subscriptions).add_done_callback(lambda _: answered.set())
                await answered.wait()
                self.link.announce_close()
            except DeviceError:
                pass  # it broke at the last moment; there is nothing left to close
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Close the socket; every caller that is still there gets an error."""
        self.starter = None
        self.link.fail(self.error or DeviceUnreachable("the link was closed"))
        self.link.sock.close()
