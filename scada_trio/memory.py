"""What a connection keeps beyond its own life: losses, and the subscription that a later process may take over.

Owns the shape of that memory and the form of it that forgets. Knows no file and no device; starts nothing. A tenant's
journal is the real one.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from scada_trio.losses import Loss, RememberedSubscription


class ConnectionMemory(Protocol):
    """Called in the Trio thread; every method returns at once. What it takes is durable with the next commit."""

    def record_loss(self, loss: Loss) -> None:
        """Keep ``loss`` until a user can be told."""

    def remembered_subscription(self, connection_id: UUID) -> RememberedSubscription | None:
        """What was remembered last, with the last acknowledged number; None where there is nothing."""

    def remember_subscription(self, connection_id: UUID, remembered: RememberedSubscription | None) -> None:
        """Replace what is remembered; None forgets it."""

    def remember_acknowledged(self, connection_id: UUID, sequence_number: int) -> None:
        """All notifications up to ``sequence_number`` are accepted."""


class NoMemory:
    """Forgets at once: for a connection that no later process takes over."""

    def record_loss(self, loss: Loss) -> None:
        """Forget it; the connection has counted it."""

    def remembered_subscription(self, connection_id: UUID) -> RememberedSubscription | None:
        """Nothing."""
        return None

    def remember_subscription(self, connection_id: UUID, remembered: RememberedSubscription | None) -> None:
        """Forget it."""

    def remember_acknowledged(self, connection_id: UUID, sequence_number: int) -> None:
        """Forget it."""
