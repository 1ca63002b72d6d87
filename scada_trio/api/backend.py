"""What the API needs of the service, as a protocol: the API package knows no channel and no task.

Implemented by `scada_trio.service`; a fake in tests passes the same contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from scada_trio.desired import ConnectionSpec
from scada_trio.readings import ReadingRows
from scada_trio.status import ConnectionReport


@dataclass(frozen=True, slots=True)
class AggregatorStats:
    """``buffer_size`` readings accepted and not yet committed; age of the last commit in milliseconds."""

    buffer_size: int
    time_since_last_flush_ms: int


@dataclass(frozen=True, slots=True)
class Health:
    """``healthy``, ``degraded`` (something is not as it should be), ``unhealthy`` (nothing works)."""

    status: Literal["healthy", "degraded", "unhealthy"]
    active_connections: int
    active_tenants: int


class Backend(Protocol):
    """The service as the API sees it.

    Errors: `UnknownTenant`, `UnknownConnection`, `ConfigurationRefused`, `DatabaseError`.
    """

    async def query_readings(
        self, tenant_id: UUID, well_id: UUID, start_us: int, end_us: int, limit: int
    ) -> ReadingRows:
        """The newest ``limit`` readings with ``start_us <= time <= end_us``, newest first."""
        ...

    async def aggregator_stats(self, tenant_id: UUID) -> AggregatorStats:
        """Numbers of the tenant's buffer."""
        ...

    async def add_connection(self, spec: ConnectionSpec) -> None:
        """Store the connection and start it; the same id again replaces what is stored."""
        ...

    async def remove_connection(self, connection_id: UUID) -> bool:
        """Stop and deactivate; False where no connection ever had that id."""
        ...

    async def connection_report(self, connection_id: UUID) -> ConnectionReport:
        """One active connection. Its losses are left out where the tenant's database does not answer soon."""
        ...

    async def health(self) -> Health:
        """The state of the whole, without waiting for a device."""
        ...


__all__ = ["AggregatorStats", "Backend", "ConnectionReport", "Health", "ReadingRows"]
