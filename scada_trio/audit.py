"""Who did what: the actor of a change, and denied calls on their way to the audit log.

Owns how denied calls are gathered, so that a client that knocks a thousand times a second fills no table: the first
of a kind is written within a second, the same again within a minute is counted in one row. The rows themselves are
`scada_trio.storage.audit`'s. The service runs `DenialLog.run`.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import structlog
import trio

from scada_trio.errors import DatabaseError

log = structlog.get_logger()

_EVERY_S: Final = 1.0
_SAME_AGAIN_S: Final = 60.0
_KINDS: Final = 1_000  # that are remembered at a time
_LAST_S: Final = 2.0  # for what is left at the end


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something: what they are called (``URI:...``, ``os:root``) and where they are, as far as known."""

    identity: str
    address: str = ""


@cache
def this_process() -> Actor:
    """The user that runs this process, on this machine: whoever typed a command."""
    return Actor(f"os:{_user()}", socket.gethostname())


def _user() -> str:
    if os.name != "posix":
        return getpass.getuser()
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name  # not from LOGNAME, which anybody may set
    except KeyError:  # a container's user has a number only
        return str(os.getuid())


@dataclass(frozen=True, slots=True)
class Denial:
    """A call that was refused: which, to whom, why; ``count`` times since ``at`` (Unix seconds)."""

    actor: Actor
    action: str
    reason: str
    at: float = 0.0
    count: int = 1

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """What makes two denials the same."""
        return self.actor.identity, self.actor.address, self.action, self.reason


class DenialLog:
    """Denied calls that are not yet written; ``write`` stores them, in one transaction."""

    def __init__(self, write: Callable[[Sequence[Denial]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: dict[tuple[str, ...], Denial] = {}
        self._written_at: dict[tuple[str, ...], float] = {}
        self._failed = False
        self._left_out = 0

    def add(self, denial: Denial) -> None:
        """Take a denied call; never waits."""
        known = self._waiting.get(denial.kind)
        if known is not None:
            self._waiting[denial.kind] = replace(known, count=known.count + 1)
        elif len(self._waiting) < _KINDS:
            self._waiting[denial.kind] = replace(denial, at=time.time())
        else:
            self._left_out += 1

    async def run(self) -> None:
        """Write what is due, every second; returns only when cancelled."""
        while True:
            await trio.sleep(_EVERY_S)
            now = trio.current_time()
            self._written_at = {kind: at for kind, at in self._written_at.items() if now - at < _SAME_AGAIN_S}
            await self._store([denial for kind, denial in self._waiting.items() if kind not in self._written_at])

    async def finish(self) -> None:
        """Write what is left, for 2 s at most."""
        with trio.move_on_after(_LAST_S):
            await self._store(list(self._waiting.values()))

    async def _store(self, due: list[Denial]) -> None:
        if self._left_out:
            log.warning("denied calls of too many kinds at once, some are not in the audit log", count=self._left_out)
            self._left_out = 0
        if not due:
            return
        try:
            await self._write(due)
        except DatabaseError as error:
            if not self._failed:
                log.error("denied calls cannot be written to the audit log, trying again", error=str(error))
            self._failed = True
            return
        self._failed = False
        for denial in due:
            self._written_at[denial.kind] = trio.current_time()
            came_meanwhile = self._waiting[denial.kind].count - denial.count
            del self._waiting[denial.kind]
            if came_meanwhile:
                self._waiting[denial.kind] = replace(denial, at=time.time(), count=came_meanwhile)
