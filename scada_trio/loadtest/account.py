"""What was sent against what is stored: every step of every well is looked for, with its time, its sum and its quality.

Pure; takes the simulator's record and the database's tally.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scada_trio.simulator.record import DIED, DROPPED, MADE

_TOLERANCE: Final = 1e-9  # sums are added in another order
_TIME_BITS: Final = np.uint64(44)  # µs of 200 days


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from the time of a reading to the commit of its batch; ``late`` readings took longer than ``late_s``."""

    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float
    late: int
    late_s: float


@dataclass(frozen=True, slots=True)
class Account:
    """Readings of the whole run, but for those ``in_window``.

    ``lost`` are in the record and not in the database; of those ``dropped`` by a device whose queue was full, ``died``
    with a device that lost its power or a subscription that ended. ``wrong`` have another value or quality than was
    sent.
    """

    sent: int
    stored: int
    lost: int
    dropped: int
    died: int
    duplicated: int
    unknown: int
    wrong: int
    sent_in_window: int
    stored_in_window: int
    latency: Latency | None

    @property
    def unexplained(self) -> int:
        """Lost, and no device's fault."""
        return self.lost - self.dropped - self.died


def settle(
    record: NDArray[np.void], stored: NDArray[np.void], *, window_us: tuple[int, int], commit_s: float, late_s: float
) -> Account:
    """Compare a record with a tally; ``window_us`` bounds the measured time, ``commit_s`` is what a write takes.

    Two subscriptions to a well, after a new session say, make a step twice in the record: it counts once.
    """
    start_us = int(min(record["time_us"].min(initial=0x7FFFFFFFFFFFFFFF), stored["time_us"].min(initial=2**62)))
    made = record[record["kind"] == MADE]
    keys, first = np.unique(_keys(made, start_us), return_index=True)
    made = made[first]
    order = np.argsort(_keys(stored, start_us))
    stored = stored[order]
    found_at = np.searchsorted(_keys(stored, start_us), keys)
    stored_keys = np.append(_keys(stored, start_us), np.uint64(0xFFFFFFFFFFFFFFFF))
    is_there = stored_keys[found_at] == keys
    match = stored[found_at[is_there]]
    sent_items = made["items"].astype(np.int64)
    there = np.zeros(len(made), np.int64)
    there[is_there] = match["items"]
    missing = np.maximum(sent_items - there, 0)
    whole = missing[is_there] == 0
    ours = made[is_there]
    differs = (ours["bad"] != match["bad"]) | (
        np.abs(ours["sum"] - match["sum"]) > _TOLERANCE * np.maximum(1.0, np.abs(ours["sum"]))
    )
    low, high = window_us
    in_window = (made["time_us"] >= low) & (made["time_us"] < high)
    dropped, died = (np.isin(keys, _keys(record[record["kind"] == kind], start_us)) for kind in (DROPPED, DIED))
    total_stored = int(stored["items"].sum(dtype=np.int64))
    return Account(
        sent=int(sent_items.sum()),
        stored=total_stored,
        lost=int(missing.sum()),
        dropped=int(missing[dropped].sum()),
        died=int(missing[died & ~dropped].sum()),
        duplicated=int(np.maximum(there - sent_items, 0).sum()),
        unknown=total_stored - int(there.sum()),
        wrong=int(ours["items"][differs & whole].sum(dtype=np.int64)),
        sent_in_window=int(sent_items[in_window].sum()),
        stored_in_window=int(there[in_window].sum()),
        latency=_latency(match[in_window[is_there]], commit_s, late_s),
    )


def _keys(steps: NDArray[np.void], start_us: int) -> NDArray[np.uint64]:
    """Well and time in one number."""
    keys: NDArray[np.uint64] = (steps["well"].astype(np.uint64) << _TIME_BITS) + (steps["time_us"] - start_us).astype(
        np.uint64
    )
    return keys


def _latency(stored: NDArray[np.void], commit_s: float, late_s: float) -> Latency | None:
    if not len(stored):
        return None
    took_s = (stored["written_us"] - stored["time_us"]) / 1e6 + commit_s
    order = np.argsort(took_s)
    took_s, weight = took_s[order], stored["items"][order].astype(np.int64)
    reached = np.cumsum(weight)
    p50, p95, p99 = (float(took_s[np.searchsorted(reached, part * reached[-1])]) for part in (0.5, 0.95, 0.99))
    return Latency(p50, p95, p99, float(took_s[-1]), int(weight[took_s > late_s].sum()), late_s)
