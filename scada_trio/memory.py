"""What a connection keeps beyond its own life: losses, and the subscription that a later process may take over.

Owns the shape of that memory and the form of it that forgets. Knows no file and no device; starts nothing. A tenant's
journal is the real one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from scada_trio.losses import Loss, RememberedSubscription


@dataclass(eq=False, slots=True)
class Followed:
    """One subscription for as long as its connection goes on with it.

    The object tells subscriptions apart, since a server that was started again gives their ids again. Once it has
    ``ended``, what still comes of it is no part of what a later process takes over.
    """

    connection_id: UUID
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a subscription is accepted: every notification up to ``sequence_number`` is, or is known to be lost.

    ``heard_us`` is the time up to which that is all there was, in µs since 1970; now where it is not said.
    """

    followed: Followed
    sequence_number: int
    heard_us: int = field(default_factory=lambda: time.time_ns() // 1000)


class ConnectionMemory(Protocol):
    """Called in the Trio thread; every method returns at once. What it takes is durable with the next commit.

    The mark of a notification with readings does not come this way but with its `Delivery`: it is durable in the very
    transaction that accepts them, so nothing that is accepted is asked for again.
    """

    def record_loss(self, loss: Loss) -> None:
        """Keep ``loss`` until a user can be told."""

    def remembered_subscription(self, connection_id: UUID) -> RememberedSubscription | None:
        """What was remembered last, with the number that was reached since; None where there is nothing."""

    def remember_subscription(self, connection_id: UUID, remembered: RememberedSubscription | None) -> None:
        """Replace what is remembered; None forgets it."""

    def remember_accepted(self, mark: Mark) -> None:
        """Change the last number of what is remembered; nothing where that is nothing, or another subscription."""


class NoMemory:
    """Forgets at once: for a connection that no later process takes over."""

    def record_loss(self, loss: Loss) -> None:
        """Forget it; the connection has counted it."""

    def remembered_subscription(self, connection_id: UUID) -> RememberedSubscription | None:
        """Nothing."""
        return None

    def remember_subscription(self, connection_id: UUID, remembered: RememberedSubscription | None) -> None:
        """Forget it."""

    def remember_accepted(self, mark: Mark) -> None:
        """Forget it."""
