"""Which faults, in which order: the short form for every test run, the long one for an hour. Both by seed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Final

from tests.chaos.faults import FAULTS

SHORT: Final = (
    "none",
    "kill -9 service",
    "kill -9 service between COPY and commit",
    "kill -9 service between commit and journal",
    "kill -9 service in COPY",
    "kill -9 service with JOURNAL_SYNC=full",
    "kill -9 service with two writers",
    "connection lost after commit",
    "kill -9 PostgreSQL",
    "kill -9 service and PostgreSQL",
    "cut to device",
    "truncate to device",
    "truncate to database",
    "kill -9 device",
    "SIGSTOP service",
    "full disk under journal",
    "full disk under PostgreSQL",
    "full journal, hold",
    "full journal, drop_oldest",
    "damaged journal, anywhere",
    "damaged journal, blocks",
    "damaged journal, WAL",
    "damaged journal, subscriptions",
    "tiny queue of device overflows",
    "10 reconfigurations",
    "cut to device + kill -9 service",
    "kill -9 service + tiny queue of device overflows",
    "damaged journal, blocks + kill -9 device",
    "connection lost before commit",
    "clock of device jumps",
    "SIGSTOP device",
)
_MIXABLE: Final = tuple(name for name in FAULTS if name != "none")


def short(rng: random.Random) -> Iterator[str]:
    """The telling faults, in a random order."""
    yield from rng.sample(SHORT, len(SHORT))


def only(names: list[str]) -> Callable[[random.Random], Iterator[str]]:
    """These and no others, in this order."""
    return lambda rng: iter(names)


def long(minutes: float) -> Callable[[random.Random], Iterator[str]]:
    """All of them in random order, again and again, every third round two at a time, until the time is over."""

    def rounds(rng: random.Random) -> Iterator[str]:
        ends_at = time.monotonic() + minutes * 60
        number = 0
        while True:
            for name in rng.sample(list(FAULTS), len(FAULTS)):
                number += 1
                yield " + ".join(sorted(rng.sample(_MIXABLE, 2))) if number % 3 == 0 else name
                if time.monotonic() > ends_at:
                    return

    return rounds
