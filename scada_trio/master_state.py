"""Whether the master database answers, as far as the service knows; says so once when that changes."""

from __future__ import annotations

from typing import Final

import structlog
import trio

from scada_trio.errors import DatabaseError
from scada_trio.storage.master import MasterDatabase

log = structlog.get_logger()

_PING_TIMEOUT_S: Final = 2.0
_PING_EVERY_S: Final = 1.0


class MasterState:
    """``error`` is what is wrong with it, None while it answers."""

    def __init__(self, master: MasterDatabase) -> None:
        self.error: str | None = None
        self._master = master
        self._pinged_at = float("-inf")

    async def ping(self) -> None:
        """Ask it, at most once a second."""
        if trio.current_time() - self._pinged_at < _PING_EVERY_S:
            return
        self._pinged_at = trio.current_time()
        try:
            with trio.fail_after(_PING_TIMEOUT_S):
                await self._master.ping()
        except trio.TooSlowError:
            self.lost(f"no answer within {_PING_TIMEOUT_S:.0f} s")
        except DatabaseError as error:
            self.lost(str(error))
        else:
            self.found()

    def lost(self, error: str) -> None:
        """Somebody asked it in vain."""
        if self.error is None:
            log.error("master database is away; what runs goes on running", error=error)
        self.error = error

    def found(self) -> None:
        """It answered."""
        if self.error is not None:
            log.info("master database is back")
        self.error = None
