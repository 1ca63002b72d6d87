"""What a writer knows of its table without looking: which times of a series cannot be stored yet.

Pure numpy; `late` owns one for each open writer whose table has no index that tells a repeated reading.

    stored, perhaps                     nothing, as far as we know
    ────────────────┤ gap ├─────────────┤──────────────────────────►  time of one series
                                  newest that we wrote
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from scada_trio.readings import ReadingBlock

_WORTH_KEEPING_US: Final = 10_000_000.0  # a shorter gap closes by itself before its readings cost anything


class Horizon:
    """For each series the newest time that may be stored: what is newer is new, anything else has to be looked up.

    At first that is the newest time of the whole table, so that one look is enough for all series. It holds as long as
    nobody else writes newer readings of the same series. Of what a clock that jumps ahead leaves empty the widest gap
    of a series is remembered: readings in it are new as well.
    """

    def __init__(self, newest_us: int) -> None:
        self._newest_us: NDArray[np.int64] = np.full(64, newest_us, np.int64)
        self._gap_from_us: NDArray[np.int64] = np.zeros(64, np.int64)
        self._gap_to_us: NDArray[np.int64] = np.zeros(64, np.int64)
        self._first_us = newest_us

    def may_be_stored(self, readings: ReadingBlock) -> NDArray[np.bool_]:
        """For each reading whether it has to be looked up."""
        self._reserve(readings)
        may: NDArray[np.bool_] = readings.time_us <= self._newest_us[readings.tag]
        return may & ~self._in_gap(readings.tag, readings.time_us)

    def advance(self, readings: ReadingBlock) -> None:
        """These are stored now."""
        self._reserve(readings)
        before_us = self._newest_us.copy()
        np.maximum.at(self._newest_us, readings.tag, readings.time_us)
        ahead = self._newest_us.astype(np.float64) - before_us  # the distance may be all of time
        if np.any(ahead > _WORTH_KEEPING_US) or np.any(self._in_gap(readings.tag, readings.time_us)):
            self._find_gaps(readings, before_us)

    def _find_gaps(self, readings: ReadingBlock, before_us: NDArray[np.int64]) -> None:
        """Of each series the widest of what is left of its gap, and of what is empty below each newer reading."""
        order = np.lexsort((readings.time_us, readings.tag))
        tag, time_us = readings.tag[order], readings.time_us[order]
        gap_from_us, gap_to_us = self._gap_from_us[tag], self._gap_to_us[tag]
        inside, above = self._in_gap(tag, time_us), time_us > before_us[tag]
        of_one = tag[1:] == tag[:-1]
        below_us = np.where(above, before_us[tag], gap_from_us)
        below_us[1:][of_one] = np.maximum(below_us[1:], time_us[:-1])[of_one]
        last_inside = inside.copy()
        last_inside[:-1] &= ~(of_one & inside[1:])
        found = inside | above
        series = np.concatenate([tag[found], tag[last_inside]])
        from_us = np.concatenate([below_us[found], time_us[last_inside]])
        to_us = np.concatenate([time_us[found], gap_to_us[last_inside]])
        self._gap_to_us[tag[inside]] = self._gap_from_us[tag[inside]]
        width = to_us.astype(np.float64) - from_us
        wider = width > self._gap_to_us[series].astype(np.float64) - self._gap_from_us[series]
        widest_last = np.flatnonzero(wider)[np.argsort(width[wider], kind="stable")]
        self._gap_from_us[series[widest_last]] = from_us[widest_last]
        self._gap_to_us[series[widest_last]] = to_us[widest_last]

    def _in_gap(self, tag: NDArray[np.int32], time_us: NDArray[np.int64]) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = (time_us > self._gap_from_us[tag]) & (time_us < self._gap_to_us[tag])
        return inside

    def _reserve(self, readings: ReadingBlock) -> None:
        have = len(self._newest_us)
        series = int(readings.tag.max(initial=-1)) + 1
        if series > have:
            more = max(series, 2 * have) - have
            self._newest_us = np.concatenate([self._newest_us, np.full(more, self._first_us, np.int64)])
            self._gap_from_us = np.concatenate([self._gap_from_us, np.zeros(more, np.int64)])
            self._gap_to_us = np.concatenate([self._gap_to_us, np.zeros(more, np.int64)])
