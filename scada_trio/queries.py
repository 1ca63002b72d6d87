"""What may be asked of stored readings, and what the answers are made of.

Plain values between the API, which makes the questions, and storage, which answers them. Knows neither.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID


class Resolution(enum.StrEnum):
    """The width of an aggregate's bucket, in UTC."""

    HOURLY = "hourly"
    DAILY = "daily"
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True)
class ReadingsQuery:
    """Readings of one well with ``start_us <= time <= end_us``, µs since 1970; ``node_ids`` None: of all tags."""

    well_id: UUID
    start_us: int
    end_us: int
    node_ids: tuple[str, ...] | None = None
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class Position:
    """Where an answer goes on: at ``time_us``, with the tags after ``node_id`` in the order of their code points.

    ``node_id`` None: nothing of that time was given out yet.
    """

    time_us: int
    node_id: str | None = None


@dataclass(slots=True)
class ReadingScan:
    """A query, and how far its answer was read; each page moves it on. Used by one call at a time.

    Nothing is open between two pages: a scan may rest as long as it likes, and readings that arrive meanwhile behind it
    do not shift it. ``position`` None: at the beginning. ``done``: nothing is left. ``window_us`` and ``names`` are
    what storage has learned of the data on its way.
    """

    query: ReadingsQuery
    position: Position | None = None
    done: bool = False
    window_us: int | None = None
    names: tuple[int, int, tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True)
class AggregatesQuery:
    """Buckets of one well from the one that holds ``start_us`` to the one that holds ``end_us``.

    At most ``limit``, after the bucket and tag in ``after``; ``node_ids`` None: of all tags.
    """

    well_id: UUID
    start_us: int
    end_us: int
    resolution: Resolution
    limit: int
    node_ids: tuple[str, ...] | None = None
    after: Position | None = None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One tag's Good readings with a finite number in one bucket, and how many others there were.

    ``avg``, ``min`` and ``max`` are None where ``count`` is 0, ``stddev`` where it is below 2.
    """

    bucket_us: int
    node_id: str
    avg: float | None
    min: float | None
    max: float | None
    stddev: float | None
    count: int
    uncertain_count: int
    bad_count: int
    total_count: int


@dataclass(frozen=True, slots=True)
class AggregatesPage:
    """Aggregates, oldest first, then by tag; ``more`` where the limit left some out."""

    aggregates: Sequence[Aggregate]
    more: bool
