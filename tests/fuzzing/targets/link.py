"""A whole connection on Trio and a real socket, to a device that at some moment does what the input says.

An input is the number of the answer at which it happens, the manner, and bytes: in place of the answer's body, of its
frame, one by one, again and again as the part of a message that never ends, or nothing, or the end of the connection.
Whatever it is, the link goes on or ends with a reason in its time, and leaves neither task nor thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from enum import IntEnum
from functools import cache

import trio
from opcua import ua

from scada_trio.connection import InternalFault
from scada_trio.status import ConnectionState
from tests.devices.scripted import ScriptedDevice
from tests.fix_devices import FAST, Rig, open_rig, tag
from tests.fuzzing.bodies import fault
from tests.fuzzing.fakes import plain_frame
from tests.fuzzing.feed import Feed
from tests.fuzzing.oracle import Wrong
from tests.publish_bytes import capture

_HELD_S = 30.0
"""A reason has to come in that time; only a failure, or a very busy machine, takes it."""
_QUICK = replace(
    FAST, connect_timeout_s=0.5, keep_alive_s=0.3, reconnect_delay_s=600.0, max_backoff_s=600.0, slow_retry_s=600.0
)
_VALUES = 3
_ENOUGH = 10
_TAG = tag("ns=1;s=a")
_BODY_AT = 24


class Manner(IntEnum):
    """What happens in place of an answer."""

    BODY = 0
    FRAME = 1
    TRICKLE = 2
    FLOOD = 3
    SILENCE = 4
    CLOSE = 5


class BentDevice(ScriptedDevice):
    """Does what it should up to answer number ``moment``, counted from 0, Hello's; ``struck`` after that."""

    def __init__(self, moment: int, manner: Manner, content: bytes) -> None:
        super().__init__()
        self._left, self._manner, self._content = moment, manner, content
        self.struck = False
        self._opened = moment > 1

    async def send_raw(self, frame: bytes) -> None:
        self._left -= 1
        if self._left != -1:
            await super().send_raw(frame)
            return
        self.struck = True
        match self._manner:
            case Manner.BODY:
                body = self._content[: 65_536 - _BODY_AT]
                size = (_BODY_AT + len(body)).to_bytes(4, "little")
                bent = frame[:4] + size + frame[8:_BODY_AT] + body
                await super().send_raw(bent if frame[:3] == b"MSG" else frame[:8] + self._content)
            case Manner.FRAME:
                await super().send_raw(self._content or b"\0")
            case Manner.TRICKLE:
                for at in range(min(len(self._content), 40)):
                    await super().send_raw(self._content[at : at + 1])
                    await trio.sleep(0.001)
            case Manner.FLOOD:
                await self._flood()
            case Manner.SILENCE:
                pass
            case Manner.CLOSE:
                await self.hang_up()

    async def _flood(self) -> None:
        """Good chunks of one message, in the place of the answer and after it, until somebody closes."""
        token = self.secure.security_token if self._opened else ua.ChannelSecurityToken()
        sequence, part = self.secure._sequence_number, self._content[:8000]
        while True:
            ids = {"sequence": sequence, "channel": token.ChannelId, "token": token.TokenId}
            await super().send_raw(plain_frame(b"MSGC", part, request_id=2, **ids))
            sequence += 1


def run(data: bytes) -> None:
    feed = Feed(data)
    moment, manner = feed.byte() % 16, Manner(feed.byte() % len(Manner))
    trio.run(_play, moment, manner, feed.rest())


async def _play(moment: int, manner: Manner, content: bytes) -> None:
    device = BentDevice(moment, manner, content)
    async with trio.open_nursery() as nursery:
        await nursery.start(device.serve)
        async with open_rig(device.url, (_TAG,), settings=_QUICK) as rig:
            await _until_it_ends(rig, device)
        nursery.cancel_scope.cancel()
    status = rig.connection.status
    if rig.errors(InternalFault.error_type):
        raise Wrong(f"an internal error: {status.last_error}")


async def _until_it_ends(rig: Rig, device: BentDevice) -> None:
    """Until the link has ended with a reason, or goes on: a value comes, or it asks for more and more of them."""
    status = rig.connection.status
    sent = values = 0
    with trio.move_on_after(_HELD_S):
        while status.last_error is None:
            if status.state is ConnectionState.CONNECTED and device.publishes:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await device.notify({1: 1.0 + sent})
                sent += device.struck
            with trio.move_on_after(0.02):
                rig.accept(await rig.deliveries.receive())
                values += 1
            if (device.struck and values) or values == _VALUES or sent == _ENOUGH:
                return
        return
    raise Wrong(f"no reason after {_HELD_S:g} s; it is {status.state}")


@cache
def _bodies() -> tuple[bytes, ...]:
    return (fault(ua.StatusCodes.BadSessionIdInvalid), capture("open62541-uniform-10"), b"\xff" * 60)


def seeds() -> Iterator[bytes]:
    for moment in range(10):
        for manner in Manner:
            if manner is Manner.BODY:
                yield from (bytes((moment, manner)) + body for body in _bodies())
            elif manner is Manner.FLOOD:
                yield from (bytes((moment, manner)) + bytes(size) for size in (0, 8000))
            else:
                yield bytes((moment, manner)) + b"MSGF\x10\x00\x00\x00\x07\x00"
