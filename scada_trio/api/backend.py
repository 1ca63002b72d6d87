"""What the API needs of the service, as a protocol: the API package knows no channel and no task.

Implemented by `scada_trio.service`; a fake in tests passes the same contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from scada_trio.audit import Actor
from scada_trio.desired import ConnectionSpec, TagChange
from scada_trio.live import Watcher
from scada_trio.nodes import BrowsePage, BrowseQuery, WalkPlace
from scada_trio.queries import AggregatesPage, AggregatesQuery, ReadingScan
from scada_trio.readings import ReadingRows, Tag
from scada_trio.sampling import Sampling
from scada_trio.status import ConnectionReport, ConnectionStatus, TenantSnapshot
from scada_trio.trial import Trial


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


@dataclass(frozen=True, slots=True)
class ConnectionListing:
    """One stored connection; ``status`` is None where it is not to run.

    ``publishing_interval_ms`` and ``sampling`` as they are stored; nothing where a row's cannot be read, of which an
    active connection's status tells.
    """

    connection_id: UUID
    name: str
    endpoint_url: str
    security_mode: str
    security_policy: str
    username: str | None
    active: bool
    publishing_interval_ms: float | None
    sampling: Sampling
    tags: Sequence[Tag]
    status: ConnectionStatus | None


@dataclass(frozen=True, slots=True)
class TenantListing:
    """One stored tenant, ``status`` as it is stored; ``snapshot`` is None where it is not to run."""

    tenant_id: UUID
    name: str
    status: str
    connections: int
    snapshot: TenantSnapshot | None


class Backend(Protocol):
    """The service as the API sees it.

    Errors: `UnknownTenant`, `UnknownConnection`, `ConfigurationRefused`, `DatabaseError`. ``tenants`` are those that
    the caller may see, None: all; the others are not there. ``actor`` is who changes something, None: this process.
    """

    async def read_readings(self, tenant_id: UUID, scan: ReadingScan, limit: int, fill: bool) -> ReadingRows:
        """The next ``limit`` readings of ``scan`` at most, in its order; moves the scan on.

        With ``fill`` fewer come only where no more are left, which ``scan.done`` tells; without it, as many as are at
        hand, none at the end only.
        """
        ...

    async def read_aggregates(self, tenant_id: UUID, query: AggregatesQuery) -> AggregatesPage:
        """Buckets of one well, the one that is still filling included."""
        ...

    async def read_latest(
        self, tenant_id: UUID, well_ids: Sequence[UUID], node_ids: Sequence[str] | None
    ) -> Sequence[ReadingRows]:
        """The newest reading of each tag, by well as asked for; ``node_ids`` None: of all tags."""
        ...

    def watch(
        self, tenant_id: UUID, well_ids: Sequence[UUID], node_ids: Sequence[str]
    ) -> AbstractContextManager[Watcher]:
        """Readings as they are accepted, of these wells and node ids; none named: of all.

        Raises `LiveClosed` where the tenant stops.
        """
        ...

    async def aggregator_stats(self, tenant_id: UUID) -> AggregatorStats:
        """Numbers of the tenant's buffer."""
        ...

    async def add_connection(self, spec: ConnectionSpec, actor: Actor | None = None) -> None:
        """Store the connection and start it; the same id again replaces what is stored.

        Raises `IdTaken` where the id, or that of a tag, is another tenant's.
        """
        ...

    async def remove_connection(
        self, connection_id: UUID, tenants: frozenset[UUID] | None = None, actor: Actor | None = None
    ) -> bool:
        """Stop and deactivate; False where no connection ever had that id."""
        ...

    async def connection_report(self, connection_id: UUID, tenants: frozenset[UUID] | None = None) -> ConnectionReport:
        """One active connection. Its losses are left out where the tenant's database does not answer soon."""
        ...

    async def list_connections(self, tenant_id: UUID) -> Sequence[ConnectionListing]:
        """Every stored connection of a tenant that is not deleted, by name."""
        ...

    async def list_tenants(self) -> Sequence[TenantListing]:
        """Every tenant that is not deleted, by name."""
        ...

    async def update_tags(
        self, tenant_id: UUID, connection_id: UUID, change: TagChange, actor: Actor | None = None
    ) -> int:
        """Store the change and apply it to what runs; how many tags the connection has then.

        Raises `IdTaken` where the id of a tag is another tenant's.
        """
        ...

    async def restart_connection(self, tenant_id: UUID, connection_id: UUID) -> None:
        """Drop the session of an active connection; the next attempt is made at once."""
        ...

    async def browse(
        self, tenant_id: UUID, device: ConnectionSpec | UUID, query: BrowseQuery, limit: int, place: WalkPlace | None
    ) -> BrowsePage:
        """The next nodes of a walk, from ``place`` of an earlier page; the id of an active connection will do.

        Raises `DeviceError`, `TooManyWalks`, and `InvalidField` for a place that is none any more.
        """
        ...

    async def try_device(self, tenant_id: UUID, device: ConnectionSpec | UUID, node_ids: Sequence[str]) -> Trial:
        """Try a device, stored or not; a failure is a result."""
        ...

    async def health(self, tenants: frozenset[UUID] | None = None) -> Health:
        """The state of the whole, or of these tenants, without waiting for a device."""
        ...


__all__ = [
    "AggregatorStats",
    "Backend",
    "ConnectionListing",
    "ConnectionReport",
    "Health",
    "ReadingRows",
    "TagChange",
    "TenantListing",
]
