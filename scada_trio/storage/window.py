"""Which times are taken: what lies outside goes to the quarantine, since a chunk or a partition would come of it.

Owns the two bounds. The tenant's writer and the quarantine's review have one each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Self

from scada_trio.config import StorageSettings
from scada_trio.readings import ReadingBlock
from scada_trio.storage.connect import Connection
from scada_trio.storage.quarantine import Refused

FIRST_TIME_US: Final = 946_684_800_000_000  # 2000-01-01 UTC; a clock that says less was never set

_SQLSTATE: Final = "22008"  # datetime field overflow, as PostgreSQL has it for a time that is out of its own range
_HOUR_US: Final = 3_600_000_000


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """From ``max_age_days`` ago (0: from 2000 on, as in any case) to ``max_ahead_hours`` ahead."""

    max_age_days: int = 0
    max_ahead_hours: int = 168

    @classmethod
    def of(cls, periods: StorageSettings) -> Self:
        """What the settings say."""
        return cls(periods.oldest_days, periods.max_ahead_hours)

    def split(self, connection: Connection, readings: ReadingBlock) -> tuple[ReadingBlock, list[Refused]]:
        """``readings`` within the window, and those before and after it.

        Outside by both clocks, ours and the database's, so that one wrong clock refuses nothing; the database's is
        asked only where it matters.
        """
        time_us = readings.time_us
        now_us = time.time_ns() // 1000
        if len(readings) == 0:
            return readings, []
        first_us, last_us = int(time_us.min()), int(time_us.max())
        if self._first_us(now_us) <= first_us and last_us <= self._last_us(now_us):
            return readings, []
        lower_us, upper_us = self.bounds(connection)
        early, late = time_us < lower_us, time_us > upper_us
        refused: list[Refused] = []
        if early.any():
            set_once = early & (time_us >= FIRST_TIME_US)
            for which, reason in ((early & ~set_once, _NEVER_SET), (set_once, f"older than {self.max_age_days} days")):
                if which.any():
                    refused.append(Refused(readings.select(which), _SQLSTATE, f"timestamp out of range: {reason}"))
        if late.any():
            reason = f"timestamp out of range: more than {self.max_ahead_hours} hours ahead"
            refused.append(Refused(readings.select(late), _SQLSTATE, reason))
        return (readings.select(~(early | late)), refused) if refused else (readings, [])

    def bounds(self, connection: Connection) -> tuple[int, int]:
        """First and last time that are taken now, µs since 1970."""
        row = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").fetchone()
        ours_us = time.time_ns() // 1000
        theirs_us = int(row[0]) if row else ours_us
        return self._first_us(min(ours_us, theirs_us)), self._last_us(max(ours_us, theirs_us))

    def _first_us(self, now_us: int) -> int:
        return max(FIRST_TIME_US, now_us - self.max_age_days * 24 * _HOUR_US if self.max_age_days else FIRST_TIME_US)

    def _last_us(self, now_us: int) -> int:
        return now_us + self.max_ahead_hours * _HOUR_US


_NEVER_SET: Final = "before 2000"
