"""What was received of one subscription: which number comes next, what is handed on, what may be acknowledged.

Owns the order of a subscription's notifications, over the sessions that it outlives. Knows no socket and sends nothing:
the `Publisher` of the present session feeds it, and the connection keeps it.

    result ─► in order? ─► without repetitions ─► Outbox ··· accepted and remembered ─► acknowledged
                 └► pending, while the publisher asks for what is missing

A notification's readings and its number are durable in one transaction, and it is acknowledged after that: a process
that dies finds every number that it had not remembered still at the server, and asks for none that it had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from scada_trio.errors import DeviceProtocolError
from scada_trio.losses import LossReason
from scada_trio.memory import Followed, Mark
from scada_trio.opcua.notifications import PublishResult
from scada_trio.opcua.outbox import Outbox
from scada_trio.opcua.repeats import LastReadings
from scada_trio.opcua.sequence import RecentNumbers, advance, after, ahead, before
from scada_trio.readings import Delivery, ReadingBlock

_NUMBERS_KEPT: Final = 1_000  # accepted last: more than any server known keeps of what is not acknowledged


class IntakeObserver(Protocol):
    """Who counts what is received; called in the Trio thread, must not block or raise. Times in µs since 1970."""

    def received(self, result: PublishResult) -> None:
        """A notification or keep-alive came, repetitions left out."""

    def repeated(self, count: int) -> None:
        """So many readings were the same as the last ones, sent again for new items."""

    def undecodable(self, error: DeviceProtocolError) -> None:
        """An answer could not be read."""

    def recovered(self, count: int) -> None:
        """So many missing notifications came by Republish."""

    def lost(self, reason: LossReason, from_us: int, to_us: int, detail: str) -> None:
        """Readings between two times are lost."""


class Intake:
    """``expected`` is the number of the next notification, None as long as there is nothing to compare with.

    ``heard_us`` is the time up to which everything was received, 0 if nothing was. ``wake`` is called when a reading is
    accepted; ``remember`` where notifications without readings move the number up to which all are. ``followed`` is the
    subscription, and ends with it.
    """

    def __init__(
        self,
        outbox: Outbox,
        last: LastReadings,
        observer: IntakeObserver,
        remember: Callable[[Mark], None],
        followed: Followed,
    ) -> None:
        self._outbox = outbox
        self._last = last
        self._observer = observer
        self.expected: int | None = None
        self.heard_us = 0
        self.pending: list[PublishResult] = []  # a few at most, see `Publisher`; an empty deque has 600 bytes
        self.unaccepted: dict[int, None] = {}
        self.acknowledge: list[int] = []
        self._accepted_numbers = RecentNumbers(_NUMBERS_KEPT)
        self.wake: Callable[[], None] = _nothing
        self.followed = followed
        self._remember = remember
        self._accepted_us = 0
        self._unchecked = False

    # ---- order

    def gap(self, result: PublishResult) -> int:
        """How many notifications are missing in front of ``result``; negative where its number is one of the past."""
        if self.expected is None or self._unchecked:
            return 0
        missing = ahead(self.expected, result.sequence_number)
        return 0 if result.keep_alive and missing < 0 else missing

    def take(self, result: PublishResult) -> None:
        """Hand ``result`` on; what is missing in front of it was asked for, or noted with `lose`."""
        number = result.sequence_number
        if result.keep_alive:
            if self.expected is None or self._unchecked or ahead(self.expected, number) > 0:
                self.expected = number
            self.heard_us = _now_us()
            self._observer.received(result)
        else:
            self.expected = after(number)
            block = self._screen(result)
            self._observer.received(result if block is result.block else replace(result, block=block))
            self._hand_on(number, block)
        self._unchecked = False

    def lose(self, count: int, detail: str) -> None:
        """The next ``count`` notifications cannot be had; the range goes from what was received last until now."""
        if self.expected is not None:
            self.expected = advance(self.expected, count)
        self._observer.lost(LossReason.SEQUENCE_GAP, self.heard_us or _now_us(), _now_us(), detail)

    def note_recovered(self, count: int) -> None:
        """So many missing notifications were taken after all."""
        self._observer.recovered(count)

    def unreadable(self, error: DeviceProtocolError) -> None:
        """An answer of unknown number was lost; the next number is taken as it comes."""
        self._unchecked = True
        now_us = _now_us()
        self._observer.undecodable(error)
        self._observer.lost(LossReason.UNDECODABLE, self.heard_us or now_us, now_us, str(error))

    def end(self) -> None:
        """The subscription is gone: hand on what waits for missing notifications, and remember no more."""
        self.wake = _nothing
        self.followed.ended = True
        while self.pending:
            result = self.pending.pop(0)
            missing = self.gap(result)
            if missing:
                self.lose(max(missing, 0), "the subscription ended before they could be asked for again")
            self.take(result)

    def acknowledge_again(self, available: Iterable[int]) -> None:
        """Let the server forget what it still has, the acknowledgement lost with a session, if it is accepted here.

        Not what is only old: a notification that came too late and is in the ledger was never accepted.
        """
        asked = set(self.acknowledge)
        self.acknowledge += [number for number in available if number in self._accepted_numbers and number not in asked]

    def begin(self, heard_us: int) -> None:
        """Everything up to ``heard_us`` is accepted, or not asked for."""
        self.heard_us = self._accepted_us = heard_us

    @property
    def accepted_until(self) -> int:
        """The number up to which every notification is accepted or lost; 0 where none was received."""
        if self.expected is None:
            return 0
        return before(next(iter(self.unaccepted), self.expected))

    @property
    def accepted_us(self) -> int:
        """As ``heard_us``, of what is accepted: what a later process does not have is from after that."""
        return self._accepted_us or self.heard_us if self.unaccepted else self.heard_us

    # ---- readings

    def _screen(self, result: PublishResult) -> ReadingBlock | None:
        """The readings of ``result`` that are new; None where there are none."""
        now_us = _now_us()
        block = result.block
        if block is None:
            self.heard_us = now_us
            return None
        if result.behind_dropped is not None and len(result.behind_dropped):
            marked = result.behind_dropped
            from_us, to_us = self._last.earliest(marked, self.heard_us), int(marked.time_us.max())
            self._observer.lost(LossReason.QUEUE_OVERFLOW, min(from_us, to_us), to_us, f"{len(marked)} tags")
        screened = self._last.screen(block)
        if len(screened) < len(block):
            self._observer.repeated(len(block) - len(screened))
        self.heard_us = min(now_us, int(block.time_us.max()))
        return screened if len(screened) else None

    def _hand_on(self, number: int, block: ReadingBlock | None) -> None:
        if block is None:
            self._may_acknowledge(number)
            self._remember(Mark(self.followed, self.accepted_until, self.accepted_us))
            return
        self.unaccepted[number] = None
        heard_us = self.heard_us
        mark = Mark(self.followed, number, heard_us)
        self._outbox.pass_on(Delivery(block, partial(self._accepted, number, heard_us), mark))

    def _accepted(self, number: int, heard_us: int) -> None:
        self.unaccepted.pop(number, None)
        self._accepted_us = heard_us
        self._may_acknowledge(number)
        if self.accepted_until != number:  # what came behind it had no readings
            self._remember(Mark(self.followed, self.accepted_until, self.accepted_us))
        self.wake()

    def _may_acknowledge(self, number: int) -> None:
        self.acknowledge.append(number)
        self._accepted_numbers.add(number)


def _now_us() -> int:
    return time.time_ns() // 1000


def _nothing() -> None:
    """No session publishes."""
