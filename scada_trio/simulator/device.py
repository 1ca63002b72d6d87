"""One simulated well as a device: its sessions and subscriptions, whatever channels they come by.

Owned by the server, which samples it; its channels call `services` with it. A session outlives its channel and a
subscription its session, as Part 4 has it, until the power goes.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from scada_trio.readings import Tag
from scada_trio.simulator.field import Well
from scada_trio.simulator.record import Recorder
from scada_trio.simulator.subscription import Subscription
from scada_trio.simulator.wells import SimulatedWell

WELLS_URI: Final = "urn:scada-trio:simulator:wells"
NAMESPACE: Final = 2
"""Index of `WELLS_URI`; 1 is the device's own."""
MOST_PUBLISHES: Final = 100


class Channel(Protocol):
    """One client's link."""

    def answer_publish(
        self, request: PublishRequest, subscription: Subscription, message: bytes, *, more: bool
    ) -> None:
        """Send one PublishResponse."""

    def refuse(self, request_id: int, handle: int, code: int) -> None:
        """Send a ServiceFault."""

    def abort(self) -> None:
        """Close without a word."""


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """One that waits for something to say: where it came from, and a status for each of its acknowledgements."""

    channel: Channel
    request_id: int
    handle: int
    results: bytes


@dataclass(slots=True, eq=False)
class Session:
    """``token`` authenticates its requests; ``browsing`` has what continuation points stand for."""

    token: int
    timeout_s: float
    heard_at: float
    channel: Channel | None = None
    publishes: deque[PublishRequest] = field(default_factory=deque)
    browsing: dict[bytes, list[Any]] = field(default_factory=dict)


class Device:
    """``shown`` has the present value and status of every tag and ``shown_at_us`` their time; the server sets them.

    ``host`` is the name under which clients reach it.
    """

    def __init__(self, well: Well, recorder: Recorder, *, interval_s: float, host: str = "127.0.0.1") -> None:
        self.well = well
        self.host = host
        self.interval_s = interval_s
        self.port = 0
        self.powered = True
        self.started_at = datetime.now(UTC)
        self.value: list[float] = well.homes()
        self.status: list[int] = [0] * len(well.tags)
        self.shown_at_us = time.time_ns() // 1000
        self.columns = {well.node_name(tag): column for column, tag in enumerate(well.tags)}
        self.data_types = [tag.data_type for tag in well.tags]
        self.channels: set[Channel] = set()
        self.sessions: dict[int, Session] = {}
        self.subscriptions: dict[int, Subscription] = {}
        self.owners: dict[int, Session | None] = {}
        self.revision = 0
        """Changes whenever a subscription or its items do."""
        self._recorder = recorder
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        """Of the endpoint."""
        return f"opc.tcp://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"

    @property
    def uri(self) -> str:
        """Of the application."""
        return f"urn:scada-trio:simulator:{self.well.well_id}"

    @property
    def announcement(self) -> SimulatedWell:
        """What a client needs to know."""
        well = self.well
        tags = (
            Tag(
                well.tag_id(tag),
                well.well_id,
                f"ns={NAMESPACE};s={well.node_name(tag)}",
                tag.data_type,
                tag.name,
                tag.unit,
            )
            for tag in well.tags
        )
        return SimulatedWell(well.well_id, well.name, self.url, tuple(tags))

    def new_number(self) -> int:
        """For a session, a subscription or an item."""
        return next(self._numbers)

    # ---- sessions and subscriptions

    def add_subscription(self, session: Session) -> Subscription:
        """A new one that ``session`` owns."""
        subscription = Subscription(self.new_number(), self.well.number, self.data_types, self._recorder)
        self.subscriptions[subscription.number] = subscription
        self.owners[subscription.number] = session
        return subscription

    def owned(self, session: Session, number: int) -> Subscription | None:
        """A subscription, if it is the session's."""
        return self.subscriptions.get(number) if self.owners.get(number) is session else None

    def end_subscription(self, number: int) -> None:
        """End a subscription, if it is there."""
        subscription = self.subscriptions.pop(number, None)
        if subscription is not None:
            subscription.end()
            del self.owners[number]
            self.revision += 1

    def end_session(self, session: Session, *, delete: bool) -> None:
        """End a session; its subscriptions outlive it unless they are to be deleted (Part 4, 5.6.4)."""
        self.sessions.pop(session.token, None)
        for number in [number for number, owner in self.owners.items() if owner is session]:
            self.owners[number] = None
            if delete:
                self.end_subscription(number)

    def power_off(self) -> None:
        """Links break and nobody is answered until `powered` is set again; what was not acknowledged is gone."""
        self.powered = False
        for channel in list(self.channels):
            channel.abort()
        for number in list(self.subscriptions):
            self.end_subscription(number)
        self.sessions.clear()

    def tidy(self, now: float) -> None:
        """End what has outlived its timeout."""
        for session in [s for s in self.sessions.values() if now - s.heard_at > s.timeout_s]:
            self.end_session(session, delete=False)
        for number in [s.number for s in self.subscriptions.values() if s.expired(now)]:
            self.end_subscription(number)

    # ---- publishing

    def sampled(self) -> Iterator[Subscription]:
        """The subscriptions that have items."""
        return (subscription for subscription in self.subscriptions.values() if subscription.items)

    def take_publish(self, session: Session, request: PublishRequest) -> None:
        """A client asks for a message: it is answered as soon as there is one."""
        now = time.monotonic()
        owned = [self.subscriptions[number] for number, owner in self.owners.items() if owner is session]
        for subscription in owned:
            subscription.asked_at = now
        session.publishes.append(request)
        for subscription in owned:
            self.publish(subscription, now)

    def publish(self, subscription: Subscription, now: float) -> bool:
        """Send what is due, as far as the client has asked; whether everything due is sent."""
        session = self.owners[subscription.number]
        while subscription.due(now):
            request = None if session is None else _next_request(session)
            if request is None:
                return False
            message, more = subscription.message(now)
            request.channel.answer_publish(request, subscription, message, more=more)
        return not subscription.waiting


def _next_request(session: Session) -> PublishRequest | None:
    """The oldest that came by the session's present channel."""
    while session.publishes:
        request = session.publishes.popleft()
        if request.channel is session.channel:
            return request
    return None
