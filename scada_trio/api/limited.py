"""The service as one caller may see it: a `Backend` before the `Backend`, made for each call.

Owns the rule that whoever may see some tenants cannot learn that there are others: a tenant that is not theirs is
denied whether it exists or not, a connection that is not theirs does not exist. Every method is written out, so that
a new one is not open by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from uuid import UUID

from scada_trio.api.access import Caller, Right
from scada_trio.api.backend import AggregatorStats, Backend, ConnectionListing, Health, TenantListing
from scada_trio.audit import Actor
from scada_trio.desired import ConnectionSpec, TagChange
from scada_trio.errors import IdTaken, NotPermitted
from scada_trio.live import Watcher
from scada_trio.nodes import BrowsePage, BrowseQuery, WalkPlace
from scada_trio.queries import AggregatesPage, AggregatesQuery, ReadingScan
from scada_trio.readings import ReadingRows
from scada_trio.status import ConnectionReport
from scada_trio.trial import Trial


class CallerBackend:
    """See `Backend`; raises `NotPermitted` besides. ``tenants`` and ``actor`` tell on who the caller is."""

    def __init__(self, backend: Backend, caller: Caller) -> None:
        self._backend = backend
        self._actor = caller.actor
        self._tenants = caller.grant.tenants
        self._right = caller.grant.right

    def _require(self, tenant_id: UUID) -> None:
        if self._tenants is not None and tenant_id not in self._tenants:
            raise NotPermitted("tenant")

    async def read_readings(self, tenant_id: UUID, scan: ReadingScan, limit: int, fill: bool) -> ReadingRows:
        """See `Backend`."""
        self._require(tenant_id)
        return await self._backend.read_readings(tenant_id, scan, limit, fill)

    async def read_aggregates(self, tenant_id: UUID, query: AggregatesQuery) -> AggregatesPage:
        """See `Backend`."""
        self._require(tenant_id)
        return await self._backend.read_aggregates(tenant_id, query)

    async def read_latest(
        self, tenant_id: UUID, well_ids: Sequence[UUID], node_ids: Sequence[str] | None
    ) -> Sequence[ReadingRows]:
        """See `Backend`."""
        self._require(tenant_id)
        return await self._backend.read_latest(tenant_id, well_ids, node_ids)

    def watch(
        self, tenant_id: UUID, well_ids: Sequence[UUID], node_ids: Sequence[str]
    ) -> AbstractContextManager[Watcher]:
        """See `Backend`."""
        self._require(tenant_id)
        return self._backend.watch(tenant_id, well_ids, node_ids)

    async def aggregator_stats(self, tenant_id: UUID) -> AggregatorStats:
        """See `Backend`."""
        self._require(tenant_id)
        return await self._backend.aggregator_stats(tenant_id)

    async def add_connection(self, spec: ConnectionSpec, actor: Actor | None = None) -> None:
        """See `Backend`."""
        self._require(spec.tenant_id)
        try:
            await self._backend.add_connection(spec, actor or self._actor)
        except IdTaken:
            self._require_all()
            raise

    async def remove_connection(
        self, connection_id: UUID, tenants: frozenset[UUID] | None = None, actor: Actor | None = None
    ) -> bool:
        """See `Backend`."""
        return await self._backend.remove_connection(connection_id, self._seen(tenants), actor or self._actor)

    async def connection_report(self, connection_id: UUID, tenants: frozenset[UUID] | None = None) -> ConnectionReport:
        """See `Backend`."""
        return await self._backend.connection_report(connection_id, self._seen(tenants))

    async def list_connections(self, tenant_id: UUID) -> Sequence[ConnectionListing]:
        """See `Backend`."""
        self._require(tenant_id)
        return await self._backend.list_connections(tenant_id)

    async def list_tenants(self) -> Sequence[TenantListing]:
        """See `Backend`."""
        listings = await self._backend.list_tenants()
        return [listing for listing in listings if self._tenants is None or listing.tenant_id in self._tenants]

    async def update_tags(
        self, tenant_id: UUID, connection_id: UUID, change: TagChange, actor: Actor | None = None
    ) -> int:
        """See `Backend`."""
        self._require(tenant_id)
        try:
            return await self._backend.update_tags(tenant_id, connection_id, change, actor or self._actor)
        except IdTaken:
            self._require_all()
            raise

    async def restart_connection(self, tenant_id: UUID, connection_id: UUID) -> None:
        """See `Backend`."""
        self._require(tenant_id)
        await self._backend.restart_connection(tenant_id, connection_id)

    async def browse(
        self, tenant_id: UUID, device: ConnectionSpec | UUID, query: BrowseQuery, limit: int, place: WalkPlace | None
    ) -> BrowsePage:
        """See `Backend`."""
        self._require_device(tenant_id, device)
        return await self._backend.browse(tenant_id, device, query, limit, place)

    async def try_device(self, tenant_id: UUID, device: ConnectionSpec | UUID, node_ids: Sequence[str]) -> Trial:
        """See `Backend`."""
        self._require_device(tenant_id, device)
        return await self._backend.try_device(tenant_id, device, node_ids)

    def _require_device(self, tenant_id: UUID, device: ConnectionSpec | UUID) -> None:
        """Where the service connects to, and with which credentials, is the administrator's to say."""
        self._require(tenant_id)
        if isinstance(device, ConnectionSpec) and self._right < Right.ADMIN:
            raise NotPermitted("right")

    async def health(self, tenants: frozenset[UUID] | None = None) -> Health:
        """See `Backend`."""
        return await self._backend.health(self._seen(tenants))

    def _seen(self, tenants: frozenset[UUID] | None) -> frozenset[UUID] | None:
        if self._tenants is None or tenants is None:
            return self._tenants if tenants is None else tenants
        return self._tenants & tenants

    def _require_all(self) -> None:
        """Another tenant's id: who may see all is told of it; to anybody else it is just not theirs."""
        if self._tenants is not None:
            raise NotPermitted("tenant") from None
