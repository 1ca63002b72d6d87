"""One link's life: connect, subscribe, forward, notice that it broke, back off, connect again.

Owns when to try and when to give in, and what the link shows of itself. Knows no database and no other connection; the
tenant starts `Connection.run` in its inner nursery and stops it by cancelling that.

    run ─► attempt ─► open_session ─► log in ─► take over or create ─► apply tags ─► watch ─┐
      ▲                                                                                       │ DeviceError, update()
      └────────────────────────────────── back off ◄──────────────────────────────────────────┘

A link that breaks leaves a session and a subscription on the server for a while. The next attempt activates the one
again, or transfers the other to a new session, and asks for what it missed; where neither can be had it creates a
subscription, and what came between is recorded as lost.

This is one of the service's two supervision points: an unexpected error of one link is logged, counted and treated as a
failed attempt, so that it costs one device and not its tenant.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import trio

from scada_trio.backoff import full_jitter
from scada_trio.config import DeviceSettings
from scada_trio.desired import ConnectionSpec
from scada_trio.errors import CertificateRefused, DeviceError, DeviceProtocolError, DeviceRefused
from scada_trio.failures import FailureLog, names_of
from scada_trio.losses import Loss, LossReason
from scada_trio.memory import ConnectionMemory, NoMemory
from scada_trio.metrics import TenantMetrics
from scada_trio.opcua.keeper import Keeper
from scada_trio.opcua.notifications import PublishResult
from scada_trio.opcua.outbox import Outbox
from scada_trio.opcua.pki import Pki
from scada_trio.opcua.session import Session, open_session
from scada_trio.opcua.subscription import Subscription
from scada_trio.opcua.takeover import TakeoverUnanswered
from scada_trio.opcua.transport import DeviceAway, has_name, knock, parse_endpoint
from scada_trio.readings import TagTable
from scada_trio.status import ConnectionState, ConnectionStatus, Revisions

_SETTLED_AFTER_S: Final = 60.0
"""A session that lived this long, or delivered, ends the count of failures."""

_KNOCK_S: Final = 8.0
"""A device that is away is looked for at random times, this long apart at most."""

_NO_LOOKUPS: Final = trio.CapacityLimiter(1)  # for connections that have an address


class InternalFault(DeviceError):
    """An unexpected error in one link: a bug, kept from the other links of the tenant."""

    error_type = "internal"


class Connection:
    """Keeps one device connected for as long as `run` runs.

    ``spec`` is what is wanted, ``status`` what is. ``outbox``, the tenant's, takes what comes. ``limiter`` bounds the
    tenant's worker threads; ``connecting`` how many of its links log in and create items at the same time. A device has
    answered Hello before it takes a place in either, so dead ones hold up nobody.

    A device whose certificate ``pki`` does not accept is tried again as soon as the trust store changes.

    With a ``memory`` a cancelled connection leaves its subscription on the server, for the process that comes next to
    take over; `discard` says before that nobody will. Without one it is deleted.
    """

    def __init__(
        self,
        spec: ConnectionSpec,
        *,
        tags: TagTable,
        outbox: Outbox,
        limiter: trio.CapacityLimiter,
        connecting: trio.CapacityLimiter,
        settings: DeviceSettings,
        pki: Pki,
        metrics: TenantMetrics,
        memory: ConnectionMemory | None = None,
    ) -> None:
        self.spec = spec
        self.status = ConnectionStatus()
        self._memory: ConnectionMemory = NoMemory() if memory is None else memory  # an empty journal is false
        self._keeper = Keeper(spec.connection_id, self._memory, tags, outbox, self, leaves=memory is not None)
        self._tags = tags
        self._outbox = outbox
        self._limiter, self._connecting = limiter, connecting
        self._lookups: trio.CapacityLimiter | None = None
        self._settings = settings
        self._pki = pki
        self._metrics = metrics
        self._changed = trio.Event()
        self._attempt_scope: trio.CancelScope | None = None
        self._delays: Iterator[float] | None = None  # as long as nothing has failed
        self._failures = FailureLog(spec)

    def discard(self) -> None:
        """The connection is removed: cancelled after this, it deletes its subscription and what is remembered of it."""
        self._keeper.leaves = False

    def update(self, spec: ConnectionSpec) -> None:
        """Make ``spec``, of the same connection id, what is wanted.

        Where only name, tags or parameters differ they are applied to the live subscription, and other tags do not
        notice; else the link is dropped. A link that waits for its next attempt, or was given up, is tried at once.
        """
        if spec == self.spec:
            return
        relink = _link_fields(spec) != _link_fields(self.spec)
        self.spec = spec
        self._failures.names = names_of(spec)
        self._forget_failures()
        self._changed.set()
        if relink and self._attempt_scope is not None:
            self._attempt_scope.cancel()

    def restart(self) -> None:
        """Drop the link, or end the waiting for the next attempt: log in anew, at once.

        The subscription is handed on to the new session where it can be, so that nothing is missed.
        """
        self._forget_failures()
        self._changed.set()
        if self._attempt_scope is not None:
            self._attempt_scope.cancel()

    async def run(self) -> None:
        """Returns only when cancelled, then with the session closed on the server.

        Raises no `DeviceError`. Raises what it met, in a group maybe, where nobody takes deliveries any more.
        """
        try:
            self._keeper.recall(self.spec, self._settings.keep_alive_s)
            await self._run_attempts()
        finally:
            self._keeper.close()
            self.status.enter(ConnectionState.STOPPED)

    async def _run_attempts(self) -> None:
        while True:
            self._changed = trio.Event()
            if self.spec.problem is not None:
                await self._wait_for_change(self.spec.problem)
                continue
            error = await self._attempt()
            if error is None:
                continue
            if isinstance(error, TakeoverUnanswered) or (self._keeper.provisional and self._keeper.kept is None):
                # The takeover failed, not the device; the next attempt goes a step further.
                self._metrics.connection_error(self.spec.connection_id, error.error_type)
                continue
            await self._back_off(error)

    # ---- one attempt

    async def _attempt(self) -> DeviceError | None:
        """Hold the link until it fails; returns why, None where `update` asked for another."""
        if self.status.state not in (ConnectionState.FAILED, ConnectionState.REFUSED):
            self.status.enter(ConnectionState.CONNECTING)
        with trio.CancelScope() as self._attempt_scope:
            try:
                await self._hold_link()
            except DeviceError as error:
                return error
            except Exception as error:
                if not self._outbox.received:
                    raise
                self._failures.unexpected(error)
                return InternalFault(f"internal error: {type(error).__name__}")
            finally:
                self._attempt_scope = None
        return None

    async def _hold_link(self) -> None:
        keeper = self._keeper
        keeper.provisional = False
        opening = open_session(
            self.spec,
            settings=self._settings,
            pki=self._pki,
            limiter=self._limiter,
            resolving=self._resolving,
            leave_subscription=self._leave_subscription,
        )
        session: Session | None = None
        error: DeviceError | None = None
        try:
            async with opening as session:
                self.status.heard = session.heard
                async with self._connecting:
                    kept = await keeper.obtain(session)
                    subscription = Subscription(session, kept, self._tags, keeper.last, provisional=keeper.provisional)
                    subscription.publisher.start()
                    await self._apply(subscription)
                await self._watch_connected(session, subscription)
        except DeviceError as ended_by:
            error = ended_by
            raise
        finally:
            if session is not None:
                keeper.keep(session, error, endpoint_url=self.spec.endpoint_url)

    def _leave_subscription(self, ended_by_error: bool) -> bool:
        """Whether the subscription stays on the server when the session is closed."""
        if not self._keeper.can_be_left:
            return False
        if self._attempt_scope is not None and self._attempt_scope.cancel_called:  # `update` wants another link
            return self._keeper.kept is not None and self._keeper.kept.endpoint_url == self.spec.endpoint_url
        return self._keeper.leaves and not ended_by_error

    async def _apply(self, subscription: Subscription) -> None:
        self._keeper.items_are_there(changed=await subscription.apply(self.spec))

    async def _watch_connected(self, session: Session, subscription: Subscription) -> None:
        connected_at = trio.current_time()
        self.status.last_error = self.status.last_error_type = None
        self.status.enter(ConnectionState.CONNECTED)
        self._show_tags(subscription)
        self._metrics.active_connections.inc()
        self._failures.connected(tags_count=len(subscription))
        try:
            await self._watch(session, subscription)
        finally:
            self._metrics.active_connections.dec()
            self.status.tags_monitored = 0
            self.status.revisions = Revisions()
            if trio.current_time() - connected_at >= _SETTLED_AFTER_S:
                self._forget_failures()

    async def _watch(self, session: Session, subscription: Subscription) -> None:
        """Follow the tags that are wanted, keep the session up, and look whether the device still speaks."""
        retry_at = trio.current_time() + self._settings.slow_retry_s
        while True:
            due_at = min(
                session.upkeep_at, subscription.silent_at, retry_at if subscription.refused else retry_at + 3600
            )
            with trio.move_on_at(due_at):
                await self._changed.wait()
            now = trio.current_time()
            if self._changed.is_set() or now >= retry_at:
                self._changed = trio.Event()
                retry_at = now + self._settings.slow_retry_s
                await self._apply(subscription)
                self._show_tags(subscription)
            await session.keep_up()
            await subscription.check_silence()

    def _show_tags(self, subscription: Subscription) -> None:
        self.status.tags_monitored = len(subscription)
        self.status.tags_refused = subscription.refused
        self.status.revisions = subscription.revisions
        self._failures.revised(subscription.revisions)

    # ---- between attempts

    async def _wait_for_change(self, problem: str) -> None:
        """The row cannot be used as it is: say so and wait for another one."""
        error = DeviceRefused(problem)
        self._note(error)
        self.status.enter(ConnectionState.REFUSED)
        self._failures.failed(error, attempts=self.status.attempts_failed, retry_in_s=None)
        await self._changed.wait()

    async def _back_off(self, error: DeviceError) -> None:
        """Wait until the next attempt, or until `update`.

        Full jitter from the configured delay up to its cap; after ``max_attempts`` failures in a row the slow interval.
        Where nothing listened at all it ends earlier, when something does; where the certificate was not accepted, when
        the trust store has changed.
        A device that refuses us gets at least the cap between attempts: asking faster changes nothing, and a wrong
        password asked often locks accounts.
        """
        self._note(error)
        settings = self._settings
        given_up = 0 < settings.max_attempts <= self.status.attempts_failed
        if given_up:
            delay_s = settings.slow_retry_s
        elif isinstance(error, DeviceRefused):
            delay_s = settings.max_backoff_s + self._next_delay()
        else:
            delay_s = self._next_delay()
        if isinstance(error, DeviceRefused):
            self.status.enter(ConnectionState.REFUSED)
        else:
            self.status.enter(ConnectionState.FAILED if given_up else ConnectionState.WAITING)
        self._failures.failed(error, attempts=self.status.attempts_failed, retry_in_s=delay_s)
        with trio.move_on_after(delay_s):
            async with trio.open_nursery() as nursery:
                if isinstance(error, DeviceAway):
                    nursery.start_soon(self._knock, nursery.cancel_scope)
                if isinstance(error, CertificateRefused):
                    nursery.start_soon(self._wait_for_trust, error, nursery.cancel_scope)
                await self._changed.wait()
                nursery.cancel_scope.cancel()

    async def _knock(self, waiting: trio.CancelScope) -> None:
        """End the waiting soon after something listens at the address again: a field gets its power back at once.

        It costs a device without power nothing. One that accepts and then fails is left alone for its whole delay.
        """
        endpoint = parse_endpoint(self.spec.endpoint_url)
        heard = False
        while not heard:
            await trio.sleep(next(full_jitter(_KNOCK_S)))
            with trio.move_on_after(_KNOCK_S):
                heard = await knock(endpoint, resolving=self._resolving)
        waiting.cancel()

    async def _wait_for_trust(self, error: CertificateRefused, waiting: trio.CancelScope) -> None:
        await self._pki.store.changed_since(error.trust_version)
        waiting.cancel()

    def _note(self, error: DeviceError) -> None:
        self.status.attempts_failed += 1
        self.status.last_error, self.status.last_error_type = str(error), error.error_type
        self._metrics.connection_error(self.spec.connection_id, error.error_type)

    def _forget_failures(self) -> None:
        self.status.attempts_failed = 0
        self._delays = None

    def _next_delay(self) -> float:
        if self._delays is None:
            self._delays = full_jitter(self._settings.reconnect_delay_s, cap_s=self._settings.max_backoff_s)
        return next(self._delays)

    @property
    def _resolving(self) -> trio.CapacityLimiter:
        """Of its own where there is a name: one that does not resolve holds up this connection only."""
        if self._lookups is None and has_name(self.spec.endpoint_url):
            self._lookups = trio.CapacityLimiter(1)
        return self._lookups or _NO_LOOKUPS

    # ---- what the intake sees (`KeeperObserver`)

    def received(self, result: PublishResult) -> None:
        """Count one notification."""
        if result.block is not None:
            self.status.readings += len(result.block)
            self.status.rate.add(len(result.block))
            self.status.last_reading_at = time.time()
            if self.status.attempts_failed:
                self._forget_failures()
        for reason, count in result.unstorable.items():
            self.status.unstorable[reason] += count
            self._metrics.unstorable(reason, count)
        if result.server_timed:
            self._metrics.timestamp_substituted("server", result.server_timed)
        if result.arrival_timed:
            self._metrics.timestamp_substituted("arrival", result.arrival_timed)
        if result.overflowed:
            self._metrics.queue_overflow(self.spec.connection_id, result.overflowed)

    def repeated(self, count: int) -> None:
        """Count readings that new items sent again."""
        self._metrics.repeated(count)

    def undecodable(self, error: DeviceProtocolError) -> None:
        """Count an answer that could not be read; the session goes on, since its next answer may be whole."""
        self._metrics.undecodable(self.spec.connection_id)
        self._metrics.connection_error(self.spec.connection_id, error.error_type)

    def taken_over(self, *, resumed: bool) -> None:
        """Log that the subscription goes on."""
        self._failures.taken_over(resumed=resumed)

    def refused(self, error_type: str) -> None:
        """Count a step of a takeover that failed."""
        self._metrics.connection_error(self.spec.connection_id, error_type)

    def recovered(self, count: int) -> None:
        """Count a gap that Republish filled."""
        self._metrics.connection_error(self.spec.connection_id, "gap_filled")

    def lost(self, reason: LossReason, from_us: int, to_us: int, detail: str) -> None:
        """Record readings that are lost, for the user to be told."""
        connection_id = self.spec.connection_id
        self._memory.record_loss(Loss(reason, connection_id, min(from_us, to_us), to_us, None, detail))
        self.status.lost[reason] += 1
        if reason in (LossReason.SEQUENCE_GAP, LossReason.SUBSCRIPTION_LOST):
            self._metrics.connection_error(connection_id, reason)
        self._failures.lost("readings lost", reason=str(reason), detail=detail)


def _link_fields(spec: ConnectionSpec) -> tuple[object, ...]:
    """What a session depends on; everything else changes under a live link."""
    return (
        spec.endpoint_url,
        spec.security_mode,
        spec.security_policy,
        spec.username,
        spec.password,
        spec.allow_plaintext_password,
        spec.problem,
    )
