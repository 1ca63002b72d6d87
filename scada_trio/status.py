"""What a connection shows of itself: written by the connection alone, read by whoever asks. Starts nothing."""

from __future__ import annotations

import enum
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from scada_trio.accounts import Accounts
from scada_trio.desired import ConnectionSpec
from scada_trio.losses import Loss
from scada_trio.rates import Rate


class ConnectionState(enum.StrEnum):
    """Where a link is in its life."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"  # backing off before the next attempt
    FAILED = "failed"  # the maximum of attempts in a row failed; goes on trying slowly
    REFUSED = "refused"  # the device or the configuration says no
    STOPPED = "stopped"


@dataclass(slots=True)
class RefusedTag:
    """A tag that is not monitored: the name of the server's status code, or what is wrong with the tag's row."""

    node_id: str
    status: str


@dataclass(frozen=True, slots=True)
class SubscriptionTerms:
    """What was asked for, and what the server made of it (OPC UA Part 4, 5.13.2); counts are publishing intervals."""

    publishing_ms: float
    keep_alive_count: int
    lifetime_count: int
    revised_publishing_ms: float
    revised_keep_alive_count: int
    revised_lifetime_count: int

    @property
    def keep_alive_s(self) -> float:
        """The keep-alive period that the server granted."""
        return self.revised_publishing_ms * self.revised_keep_alive_count / 1000

    @property
    def revised(self) -> bool:
        """Whether the server made anything else of it."""
        asked = (self.publishing_ms, self.keep_alive_count, self.lifetime_count)
        return asked != (self.revised_publishing_ms, self.revised_keep_alive_count, self.revised_lifetime_count)


@dataclass(frozen=True, slots=True)
class RevisedItem:
    """A monitored item that the server samples or queues otherwise than asked for (Part 4, 5.12.2)."""

    node_id: str
    sampling_ms: float
    revised_sampling_ms: float
    queue_size: int
    revised_queue_size: int


@dataclass(frozen=True, slots=True)
class Revisions:
    """What a server made of a subscription and its items; ``examples`` are the first of the items revised."""

    terms: SubscriptionTerms | None = None
    items: int = 0
    examples: tuple[RevisedItem, ...] = ()
    unfiltered: int = 0


class Heard:
    """When something last came from a device, a keep-alive too; set by the session that hears it, read from any thread.

    ``at`` is in Unix seconds, None where nothing came yet.
    """

    __slots__ = ("at",)

    def __init__(self, at: float | None = None) -> None:
        self.at = at

    @classmethod
    def now(cls) -> Heard:
        """Something came just now."""
        return cls(time.time())

    def again(self) -> None:
        """Something came again."""
        self.at = time.time()


@dataclass(slots=True)
class ConnectionStatus:
    """State of one link; times are Unix seconds. ``heard`` is that of its last session."""

    state: ConnectionState = ConnectionState.CONNECTING
    since: float = field(default_factory=time.time)
    attempts_failed: int = 0
    last_error: str | None = None
    last_error_type: str | None = None
    tags_monitored: int = 0
    tags_refused: list[RefusedTag] = field(default_factory=list)
    revisions: Revisions = Revisions()
    readings: int = 0
    rate: Rate = field(default_factory=Rate)  # readings received
    last_reading_at: float | None = None
    heard: Heard = field(default_factory=Heard)
    unstorable: Counter[str] = field(default_factory=Counter)  # values without a number, by reason
    lost: Counter[str] = field(default_factory=Counter)  # losses recorded, by reason

    def enter(self, state: ConnectionState) -> None:
        """Move to ``state``; the time is kept when it is a change."""
        if state is not self.state:
            self.state = state
            self.since = time.time()


@dataclass(frozen=True, slots=True)
class TenantSnapshot:
    """One tenant as it is now; times are Unix seconds."""

    tenant_id: UUID
    name: str
    state: str  # "running", "starting", "failed", "not migrated", ...
    connections: Mapping[UUID, ConnectionStatus]
    last_commit_at: float | None
    last_error: str | None
    accounts: Accounts = field(default_factory=Accounts)
    specs: Mapping[UUID, ConnectionSpec] = field(default_factory=dict)  # of the connections
    journal_bytes: int = 0  # on disk
    journal_full: bool = False

    @property
    def buffered(self) -> int:
        """Readings accepted and not yet committed."""
        return self.accounts.in_journal

    @property
    def connected(self) -> int:
        """Number of connected sessions."""
        return sum(status.state is ConnectionState.CONNECTED for status in self.connections.values())


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """What is wanted of a connection, what it is, and its newest losses, newest first."""

    spec: ConnectionSpec
    status: ConnectionStatus
    losses: Sequence[Loss] = ()
