"""What is lost in spite of everything: a range of readings, with a reason. Plain values; starts nothing.

Whoever notices a loss records it with the tenant's journal, which keeps it until the tenant's database has it as a row
of ``scada_loss``, so that a user can be told.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID


class LossReason(enum.StrEnum):
    """Why readings are lost; also the label of ``scada_readings_lost_total``."""

    QUEUE_OVERFLOW = "queue_overflow"  # the server's queue dropped values, its overflow bit says so
    SEQUENCE_GAP = "sequence_gap"  # notifications that Republish could not bring back
    SUBSCRIPTION_LOST = "subscription_lost"  # a subscription that could not be taken over after a break
    UNDECODABLE = "undecodable"  # a notification whose bytes cannot be read
    JOURNAL_FULL = "journal_full"  # policy drop_oldest
    JOURNAL_CORRUPT = "journal_corrupt"  # a journal file, or a record in it, that cannot be read
    QUARANTINE_FULL = "quarantine_full"  # refused by the database, and no room to keep them aside
    DROPPED = "dropped"  # an operator threw them away


@dataclass(frozen=True, slots=True)
class Loss:
    """Readings of ``connection_id`` (None: of any) between two times, µs since 1970; ``count`` None where unknown."""

    reason: LossReason
    connection_id: UUID | None
    from_us: int
    to_us: int
    count: int | None = None
    detail: str = ""


RecordLoss = Callable[[Loss], None]
"""Called in the Trio thread; returns at once; the loss is durable with the journal's next commit."""


@dataclass(frozen=True, slots=True)
class RememberedSubscription:
    """What a later session, or a later process, needs to take a subscription over (OPC UA Part 4, 5.14.7).

    ``endpoint_url`` guards against another server behind the same connection, ``server_started_us`` (0: not told)
    against the same server after a restart, which gives subscription ids again. ``items`` maps client handles, which
    many servers do not tell again, to (well id, node id, monitored item id); ``deadbands`` has the raw deadband of
    those that have one. ``last_sequence``: the number up to which all is accepted; ``heard_us``: when the device was
    last heard.
    """

    endpoint_url: str
    subscription_id: int
    last_sequence: int
    items: dict[int, tuple[UUID, str, int]]
    server_started_us: int = 0
    heard_us: int = 0
    deadbands: dict[int, float] = field(default_factory=dict)

    @classmethod
    def gone(cls, heard_us: int) -> RememberedSubscription:
        """In place of one that nobody can take over: what a device made since ``heard_us`` is missing."""
        return cls("", 0, 0, {}, heard_us=heard_us)

    @property
    def is_gone(self) -> bool:
        """Whether it is only `gone`; no server gives a subscription that number."""
        return self.subscription_id == 0
