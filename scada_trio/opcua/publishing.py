"""The Publish cycle of one session: requests out, notifications in, acknowledgements when readings are accepted.

Owns back-pressure and the filling of gaps. Knows no tag and no status; the connection starts it in its session, which
runs a task of its for as long as there is a gap, and no longer.

    pump ── answer ──► Publisher ──► Intake ── Delivery ──► aggregator
                          ▲  └ gap: Republish, then go on      │ accepted()
                          └── acknowledge, ask again ──────────┘

Each of at most ``PUBLISH_AHEAD`` places is either a request that the server holds or a notification that is not yet
accepted. So a stage that does not accept stops the requests by itself, the server's queues fill, and nothing is
acknowledged that could still be lost here. While a gap is filled, what comes behind it waits, in a place each.
"""

from __future__ import annotations

import struct
import time
from typing import Final

import trio
from opcua import ua
from opcua.ua.ua_binary import nodeid_to_binary

from scada_trio.errors import DeviceError, DeviceProtocolError, DeviceUnreachable
from scada_trio.opcua.faults import status_name
from scada_trio.opcua.kept import KeptSubscription
from scada_trio.opcua.notifications import PublishFault, PublishResult, decode_publish, decode_republish
from scada_trio.opcua.sequence import advance
from scada_trio.opcua.session import Session

PUBLISH_AHEAD: Final = 3
"""Requests outstanding and notifications not accepted, together, a subscription."""
REPUBLISH_LIMIT: Final = 1_000
"""Missing notifications that are asked for, the newest of a longer gap: servers keep 100 to 5,000."""
_USELESS_IN_A_ROW: Final = 10
"""Faults that ask for another try, or answers for other subscriptions, before the session is given up."""

_TOO_MANY: Final = int(ua.StatusCodes.BadTooManyPublishRequests)
_TRY_AGAIN: Final = frozenset({_TOO_MANY, int(ua.StatusCodes.BadTimeout)})
_UNAVAILABLE: Final = int(ua.StatusCodes.BadMessageNotAvailable)
_ENDED: Final = frozenset(
    int(code)
    for code in (
        ua.StatusCodes.BadSubscriptionIdInvalid,
        ua.StatusCodes.BadNoSubscription,
        ua.StatusCodes.BadSessionIdInvalid,
        ua.StatusCodes.BadSessionClosed,
    )
)

# PublishRequest (OPC UA Part 4, 5.13.5; encoding id 826): type, then the token, then time, handle, no diagnostics, no
# audit entry, no time limit and no additional header, then the acknowledgements.
_REQUEST_TYPE: Final = b"\x01\x00\x3a\x03"
_REQUEST_HEADER: Final = struct.Struct("<qIIiI3s")
_ACKNOWLEDGEMENT: Final = struct.Struct("<II")
_COUNT: Final = struct.Struct("<i")
_FILETIME_EPOCH: Final = 116_444_736_000_000_000  # 1970 in 100 ns since 1601


class Publisher:
    """Asks for notifications of one subscription and passes their readings on, in order.

    ``confirmed`` where the subscription is new, or once the server has answered for it. Nothing is
    sent once the session has failed.
    """

    def __init__(self, session: Session, kept: KeptSubscription, *, provisional: bool = False) -> None:
        self._session = session
        self._kept = kept
        self._intake = kept.intake
        self._token = bytes(nodeid_to_binary(session.link.authentication_token))
        self._limit = PUBLISH_AHEAD
        self._useless = 0
        self._filling = False
        self._accepted = trio.Event()
        self._republishes = True
        self.outstanding = 0
        self.confirmed = not provisional

    def start(self) -> None:
        """Send the first requests."""
        self._session.link.on_publish = self._take
        self._intake.wake = self._go_on
        if self._intake.pending:  # the session before broke while a gap was filled
            self._fill()
        self._ask()

    # ---- requests

    def _go_on(self) -> None:
        """A reading was accepted, maybe late, for a session that is gone."""
        self._accepted.set()
        if self._session.link.broken is None and not self._session.closing:
            self._ask()

    def _ask(self) -> None:
        """Fill the free places with requests; the first one carries what is to be acknowledged."""
        intake = self._intake
        try:
            while self.outstanding + len(intake.unaccepted) + len(intake.pending) < self._limit:
                self._session.link.send_publish(self._encode_request())
                self.outstanding += 1
                self._session.sent_at = trio.current_time()
        except DeviceError as error:
            self._session.fail(error)

    def _encode_request(self) -> bytes:
        now = time.time_ns() // 100 + _FILETIME_EPOCH
        handle = self._session.link.next_request_handle()
        header = _REQUEST_HEADER.pack(now, handle, 0, -1, 0, b"\0\0\0")
        numbers, subscription_id = self._intake.acknowledge, self._kept.subscription_id
        acknowledged = b"".join(_ACKNOWLEDGEMENT.pack(subscription_id, number) for number in numbers)
        count = _COUNT.pack(len(numbers))
        numbers.clear()
        return b"".join((_REQUEST_TYPE, self._token, header, count, acknowledged))

    # ---- answers

    def _take(self, body: bytes) -> None:
        """Take the answer to one request, in the pump task."""
        self.outstanding -= 1
        try:
            result = decode_publish(body, self._kept.handles, time.time_ns() // 1000)
        except PublishFault as fault:
            self._take_fault(fault)
            return
        except DeviceProtocolError as error:
            self._intake.unreadable(error)
            self._ask()
            return
        if result.subscription_id == self._kept.subscription_id:
            self._useless = 0
            self._take_result(result)
        elif self._count_useless():
            self._session.fail(DeviceProtocolError("Publish: the server answers for other subscriptions alone"))
            return
        self._ask()

    def _count_useless(self) -> bool:
        """One more; whether to stop asking: each such answer comes at once, so that the next is asked for at once."""
        self._useless += 1
        return self._useless > _USELESS_IN_A_ROW

    def _take_result(self, result: PublishResult) -> None:
        if result.status_change is not None:
            error = DeviceUnreachable(f"the server ended the subscription: {status_name(result.status_change)}")
            error.status = int(ua.StatusCodes.BadNoSubscription)
            self._session.fail(error)
            return
        self.confirmed = True
        if self._filling or self._intake.gap(result):
            self._intake.pending.append(result)
            self._fill()
        else:
            self._intake.take(result)

    def _take_fault(self, fault: PublishFault) -> None:
        """A server that holds too many requests gets fewer; one that let a request time out gets the next."""
        if fault.status not in _TRY_AGAIN or self._count_useless():
            self._session.fail(fault)
            return
        if fault.status == _TOO_MANY:
            self._limit = max(1, self._limit - 1)
        self._ask()

    # ---- gaps

    def _fill(self) -> None:
        if not self._filling:
            self._filling = True
            self._session.start_soon(self._fill_gaps, "gaps")

    async def _fill_gaps(self) -> None:
        try:
            await self._work_off()
        except DeviceError as error:
            self._session.fail(error)

    async def _work_off(self) -> None:
        """Ask for what is missing in front of each pending notification, then take it; the next session can go on."""
        intake = self._intake
        while intake.pending:
            missing = intake.gap(intake.pending[0])
            if missing > 0:
                await self._fill_in(missing)
            elif missing < 0:
                intake.lose(0, f"the server went from {intake.expected} back to {intake.pending[0].sequence_number}")
            intake.take(intake.pending.pop(0))
            self._ask()
        self._filling = False

    async def _fill_in(self, missing: int) -> None:
        """Take the next ``missing`` notifications from the server's retransmission queue, or note them as lost."""
        intake, recovered = self._intake, 0
        lost = max(0, missing - REPUBLISH_LIMIT)
        why = "too many are missing"
        first = intake.expected or 1
        for offset in range(lost, missing):
            answer = await self._ask_again(advance(first, offset))
            if isinstance(answer, str):
                lost, why = lost + 1, answer
                continue
            if lost:
                intake.lose(lost, f"{lost} notifications: {why}")
                lost = 0
            intake.take(answer)
            recovered += 1
        if lost:
            intake.lose(lost, f"{lost} notifications: {why}")
        if recovered:
            intake.note_recovered(recovered)

    async def _ask_again(self, number: int) -> PublishResult | str:
        """The notification ``number`` by Republish (Part 4, 5.13.6), or why the server does not give it.

        Servers say that they do not have it with BadMessageNotAvailable, or with Good and another number.
        """
        if not self._republishes:
            return "the server does not republish"
        while len(self._intake.unaccepted) >= self._limit:
            self._accepted = trio.Event()
            await self._accepted.wait()
        request = ua.RepublishRequest()
        request.Parameters.SubscriptionId = self._kept.subscription_id
        request.Parameters.RetransmitSequenceNumber = number
        body = await self._session.ask(request)
        if body is None:
            self._republishes = False  # else a device that ignores the request holds everything up for ever
            return "Republish was not answered"
        try:
            result = decode_republish(body, self._kept.handles, time.time_ns() // 1000)
        except PublishFault as fault:
            if fault.status in _ENDED:
                raise
            self._republishes = fault.status == _UNAVAILABLE
            return fault.name
        except DeviceProtocolError as error:
            return str(error)
        if result.sequence_number != number or result.keep_alive:
            return "the server has them no more"
        return result
