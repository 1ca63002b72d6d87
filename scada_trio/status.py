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
    """A monitored item that the server did not create, and the name of its status code."""

    node_id: str
    status: str


@dataclass(slots=True)
class ConnectionStatus:
    """State of one link; times are Unix seconds."""

    state: ConnectionState = ConnectionState.CONNECTING
    since: float = field(default_factory=time.time)
    attempts_failed: int = 0
    last_error: str | None = None
    last_error_type: str | None = None
    tags_monitored: int = 0
    tags_refused: list[RefusedTag] = field(default_factory=list)
    readings: int = 0
    rate: Rate = field(default_factory=Rate)  # readings received
    last_reading_at: float | None = None
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
