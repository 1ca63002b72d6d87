"""The Publish cycle of one subscription: requests out, notifications in, acknowledgements when readings are accepted.

Owns back-pressure. Knows no tag and no status; `scada_trio.opcua.subscription` starts it.

    pump ── answer ──► Publisher ── Delivery ──► aggregator
                          ▲                          │ accepted()
                          └── acknowledge, ask again ┘

Each of at most ``PUBLISH_AHEAD`` places is either a request that the server holds or a notification that is not yet
accepted. So a stage that does not accept stops the requests by itself, the server's queues fill, and nothing is
acknowledged that could still be lost here.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from functools import partial
from typing import Final, Protocol

import trio
from opcua import ua
from opcua.ua.ua_binary import nodeid_to_binary

from scada_trio.errors import DeviceError, DeviceProtocolError, DeviceUnreachable
from scada_trio.opcua.faults import status_name
from scada_trio.opcua.notifications import HandleMap, PublishFault, PublishResult, decode_publish
from scada_trio.opcua.session import Session
from scada_trio.readings import Delivery

PUBLISH_AHEAD: Final = 3
"""Requests outstanding and notifications not accepted, together, a subscription."""
_FAULTS_IN_A_ROW: Final = 10
"""Faults that ask for another try, one after the other, before the session is given up."""

_TOO_MANY: Final = int(ua.StatusCodes.BadTooManyPublishRequests)
_TRY_AGAIN: Final = frozenset({_TOO_MANY, int(ua.StatusCodes.BadTimeout)})

# PublishRequest (OPC UA Part 4, 5.13.5; encoding id 826): type, then the token, then time, handle, no diagnostics, no
# audit entry, no time limit and no additional header, then the acknowledgements.
_REQUEST_TYPE: Final = b"\x01\x00\x3a\x03"
_REQUEST_HEADER: Final = struct.Struct("<qIIiI3s")
_ACKNOWLEDGEMENT: Final = struct.Struct("<II")
_COUNT: Final = struct.Struct("<i")
_FILETIME_EPOCH: Final = 116_444_736_000_000_000  # 1970 in 100 ns since 1601


class PublishObserver(Protocol):
    """Who counts what the publisher sees; called in the Trio thread, must not block or raise."""

    def received(self, result: PublishResult) -> None:
        """A notification or keep-alive came."""

    def undecodable(self, error: DeviceProtocolError) -> None:
        """An answer could not be read; what was in it is lost."""

    def gap(self, expected: int, received: int) -> None:
        """Notifications ``expected`` to ``received`` - 1 never came."""


class Publisher:
    """Asks for notifications of one subscription and passes their readings on, in order.

    Nothing is sent once the session has failed. `run` has to run for deliveries that the channel does not take at once.
    """

    def __init__(
        self,
        session: Session,
        subscription_id: int,
        handles: HandleMap,
        *,
        deliver: trio.MemorySendChannel[Delivery],
        observer: PublishObserver,
    ) -> None:
        self._session = session
        self._subscription_id = subscription_id
        self._handles = handles
        self._deliver = deliver
        self._observer = observer
        self._token = bytes(nodeid_to_binary(session.link.authentication_token))
        self._limit = PUBLISH_AHEAD
        self._unaccepted = 0
        self._acknowledge: list[int] = []
        self._expected: int | None = None
        self._faults = 0
        self._undelivered: deque[Delivery] = deque()
        self._overflowed = trio.Event()
        self.outstanding = 0

    def start(self) -> None:
        """Send the first requests."""
        self._session.link.on_publish = self._take
        self._ask()

    async def run(self) -> None:
        """Forward what the channel did not take at once; returns only when cancelled."""
        while True:
            await self._overflowed.wait()
            while self._undelivered:
                await self._deliver.send(self._undelivered[0])
                self._undelivered.popleft()
            self._overflowed = trio.Event()

    # ---- requests

    def _ask(self) -> None:
        """Fill the free places with requests; the first one carries what is to be acknowledged."""
        try:
            while self.outstanding + self._unaccepted < self._limit:
                self._session.link.send_publish(self._encode_request())
                self.outstanding += 1
                self._session.sent_at = trio.current_time()
        except DeviceError as error:
            self._session.fail(error)

    def _encode_request(self) -> bytes:
        now = time.time_ns() // 100 + _FILETIME_EPOCH
        handle = self._session.link.next_request_handle()
        header = _REQUEST_HEADER.pack(now, handle, 0, -1, 0, b"\0\0\0")
        acknowledged = b"".join(_ACKNOWLEDGEMENT.pack(self._subscription_id, number) for number in self._acknowledge)
        count = _COUNT.pack(len(self._acknowledge))
        self._acknowledge.clear()
        return b"".join((_REQUEST_TYPE, self._token, header, count, acknowledged))

    # ---- answers

    def _take(self, body: bytes) -> None:
        """Take the answer to one request, in the pump task."""
        self.outstanding -= 1
        try:
            result = decode_publish(body, self._handles, time.time_ns() // 1000)
        except PublishFault as fault:
            self._take_fault(fault)
            return
        except DeviceProtocolError as error:
            self._expected = None
            self._observer.undecodable(error)
            self._ask()
            return
        self._faults = 0
        if result.subscription_id == self._subscription_id:
            self._take_result(result)
        self._ask()

    def _take_result(self, result: PublishResult) -> None:
        if result.status_change is not None:
            name = status_name(result.status_change)
            self._session.fail(DeviceUnreachable(f"the server ended the subscription: {name}"))
            return
        self._observer.received(result)
        if result.keep_alive:
            return
        number = result.sequence_number
        if self._expected is not None and number != self._expected:
            self._observer.gap(self._expected, number)
        self._expected = number % 0xFFFFFFFF + 1
        if result.block is None:
            self._acknowledge.append(number)
            return
        self._unaccepted += 1
        self._pass_on(Delivery(result.block, partial(self._accepted, number)))

    def _pass_on(self, delivery: Delivery) -> None:
        if not self._undelivered:
            try:
                self._deliver.send_nowait(delivery)
            except trio.WouldBlock:
                pass
            else:
                return
        self._undelivered.append(delivery)
        self._overflowed.set()

    def _accepted(self, number: int) -> None:
        self._unaccepted -= 1
        self._acknowledge.append(number)
        if self._session.link.broken is None and not self._session.closing:
            self._ask()

    def _take_fault(self, fault: PublishFault) -> None:
        """A server that holds too many requests gets fewer; one that let a request time out gets the next."""
        self._faults += 1
        if fault.status not in _TRY_AGAIN or self._faults > _FAULTS_IN_A_ROW:
            self._session.fail(fault)
            return
        if fault.status == _TOO_MANY:
            self._limit = max(1, self._limit - 1)
        self._ask()
