"""A connection's subscription over its sessions, and over its processes.

Owns what a link left on the server: a session that may be activated again, a subscription that may be taken over, and,
where neither can be had, since when readings are missing. Makes no link; the connection calls it at both ends of one.

    obtain ─► session again ─► subscription as it was ─┐
      │  └──► new session ──► transfer ────────────────┤ provisional until something is published
      └───────────────────── create ───────────────────┴─► ... the link ends ─► keep
"""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol
from uuid import UUID

import trio

from scada_trio.desired import ConnectionSpec
from scada_trio.errors import DeviceError
from scada_trio.losses import LossReason, RememberedSubscription
from scada_trio.memory import ConnectionMemory, Followed
from scada_trio.opcua import takeover
from scada_trio.opcua.intake import Intake, IntakeObserver
from scada_trio.opcua.kept import KeptSubscription, SessionTicket, recall
from scada_trio.opcua.outbox import Outbox
from scada_trio.opcua.repeats import LastReadings
from scada_trio.opcua.services import ITEMS_A_CALL, delete_subscription
from scada_trio.opcua.session import Session
from scada_trio.readings import TagTable


class KeeperObserver(IntakeObserver, Protocol):
    """Who counts how a takeover went."""

    def taken_over(self, *, resumed: bool) -> None:
        """The subscription goes on, in the same session or, transferred, in a new one."""

    def refused(self, error_type: str) -> None:
        """A step of a takeover failed, and the next one is tried."""


class Keeper:
    """``kept`` is the subscription there is, None where the next link has to create one.

    ``provisional`` while a link goes on with a subscription that it did not create itself. ``leaves`` says whether a
    link that is cancelled leaves its subscription to the next process.
    """

    def __init__(
        self,
        connection_id: UUID,
        memory: ConnectionMemory,
        tags: TagTable,
        outbox: Outbox,
        observer: KeeperObserver,
        *,
        leaves: bool,
    ) -> None:
        self.kept: KeptSubscription | None = None
        self.provisional = False
        self.leaves = leaves
        self.last = LastReadings()
        self._connection_id = connection_id
        self._memory = memory
        self._tags = tags
        self._outbox = outbox
        self._observer = observer
        self._ticket: SessionTicket | None = None
        self._useless_id: int | None = None  # a subscription in the ticket's session that nobody wants any more
        self._lost_since: tuple[int, str] | None = None  # µs since 1970, and why

    def recall(self, spec: ConnectionSpec, keep_alive_s: float) -> None:
        """Look for the subscription of the process before this one."""
        remembered = self._memory.remembered_subscription(self._connection_id)
        if remembered is not None and remembered.is_gone:
            self._lost_since = (remembered.heard_us, "an earlier process lost its subscription")
        if remembered is None or remembered.endpoint_url != spec.endpoint_url:
            return
        wanted = {(tag.well_id, tag.node_id): tag for tag in spec.tags}
        intake = self._new_intake()
        self.kept = recall(remembered, wanted, self._tags, intake, keep_alive_s=keep_alive_s, items_a_call=ITEMS_A_CALL)

    async def obtain(self, session: Session) -> KeptSubscription:
        """Log in and come to a subscription: the one that is kept, or a new one. Raises `DeviceError`."""
        ticket = self._ticket
        if ticket is not None and trio.current_time() > ticket.expires_at:
            ticket = None
        refused = await session.log_in(ticket)
        resumed = ticket is not None and refused is None
        if refused is not None:
            self._observer.refused("session_lost")
        if self.kept is not None and not resumed:
            refused = await takeover.transfer(session, self.kept)
            if refused is not None:
                self._observer.refused("transfer_refused")
                self._drop(f"the subscription could not be taken over: {refused}")
        self.provisional = self.kept is not None
        if self.kept is not None:
            self._observer.taken_over(resumed=resumed)
            return self.kept
        if resumed and self._useless_id is not None:
            await session.call("DeleteSubscriptions", partial(delete_subscription, session.client, self._useless_id))
        self._useless_id = None
        self.kept = await takeover.create(session, self._new_intake())
        return self.kept

    def items_are_there(self, *, changed: bool) -> None:
        """The subscription has the items that are wanted: what came since the last one was heard is lost."""
        if changed and self.kept is not None:
            if not self.kept.intake.heard_us:
                self.kept.intake.begin(time.time_ns() // 1000)
            self._memory.remember_subscription(self._connection_id, self.kept.to_remember())
        if self._lost_since is not None:
            (from_us, why), self._lost_since = self._lost_since, None
            self._observer.lost(LossReason.SUBSCRIPTION_LOST, from_us, time.time_ns() // 1000, why)

    @property
    def can_be_left(self) -> bool:
        """Whether the subscription is one that a later session could go on with."""
        return self.kept is not None and not self.kept.unsure

    def keep(self, session: Session, error: DeviceError | None, *, endpoint_url: str) -> None:
        """Note what a link left on the server; ``error`` is what it ended with, None where it was cancelled.

        ``endpoint_url`` is where the next link goes.
        """
        status = error.status if error is not None else None
        if session.closed or status in takeover.SESSION_GONE:
            self._ticket = None
        else:
            self._ticket = session.ticket or self._ticket
        kept = self.kept
        if kept is None:
            return
        if kept.endpoint_url != endpoint_url:
            self._drop(None)
        elif status in takeover.SUBSCRIPTION_GONE:
            self._drop("the server ended the subscription")
        elif isinstance(error, takeover.TakeoverUnanswered) and not kept.doubted:
            kept.doubted = True  # asyncua publishes after a transfer once the new session was cut and activated again
        elif isinstance(error, takeover.TakeoverUnanswered):
            self._useless_id = kept.subscription_id
            self._drop("the server published nothing after the subscription was taken over")
        elif kept.unsure or (session.closed and not session.left_subscription):
            self._useless_id = kept.subscription_id
            self._drop("the subscription was broken off")

    def close(self) -> None:
        """The connection ends: what it leaves is remembered as it is now, or forgotten."""
        if not self.leaves:
            if self.kept is not None:
                self.kept.intake.followed.ended = True
            self._memory.remember_subscription(self._connection_id, None)
        elif self.kept is not None:
            self._memory.remember_subscription(self._connection_id, self.kept.to_remember())

    def _drop(self, why: str | None) -> None:
        """The kept subscription is of no use; ``why`` goes into the loss, None where nothing counts as lost."""
        kept, self.kept = self.kept, None
        assert kept is not None
        kept.intake.end()
        if why is not None and self._lost_since is None and kept.intake.heard_us:
            self._lost_since = (kept.intake.heard_us, why)
        gone = None
        if self._lost_since is not None:
            since_us = self._lost_since[0]
            gone = RememberedSubscription.gone(min(since_us, kept.intake.accepted_us or since_us))
        self._memory.remember_subscription(self._connection_id, gone)

    def _new_intake(self) -> Intake:
        followed = Followed(self._connection_id)
        return Intake(self._outbox, self.last, self._observer, self._memory.remember_accepted, followed)
