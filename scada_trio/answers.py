"""What the API asks of the service, answered by the tenants that run and by the master database.

Implements the API's `Backend`. Starts nothing and keeps nothing: what runs is the service's, what is configured the
master database's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from uuid import UUID

from scada_trio.api.backend import AggregatorStats, ConnectionListing, ConnectionReport, Health, TenantListing
from scada_trio.audit import Actor
from scada_trio.desired import ConnectionSpec, TagChange
from scada_trio.errors import ConfigurationRefused, InvalidField, UnknownConnection, UnknownTenant
from scada_trio.exploring import Explorer
from scada_trio.live import Watcher
from scada_trio.nodes import BrowsePage, BrowseQuery, WalkPlace
from scada_trio.queries import AggregatesPage, AggregatesQuery, ReadingScan
from scada_trio.readings import ReadingRows, Tag
from scada_trio.registry import parameters_of, tag_of
from scada_trio.sampling import UNSET
from scada_trio.secrets import SecretBox
from scada_trio.status import ConnectionStatus, TenantSnapshot
from scada_trio.storage.configuration import ConnectionRow
from scada_trio.storage.master import MasterDatabase
from scada_trio.tenant import Tenant
from scada_trio.trial import Trial


class Answers:
    """``tenants`` are those that run, as the service keeps them.

    ``reconcile`` returns when what is stored runs; ``snapshots`` and ``health`` tell how the service is.
    """

    def __init__(
        self,
        tenants: Mapping[UUID, Tenant],
        master: MasterDatabase,
        secrets: SecretBox,
        *,
        reconcile: Callable[[], Awaitable[None]],
        snapshots: Callable[[], Sequence[TenantSnapshot]],
        health: Callable[[frozenset[UUID] | None], Awaitable[Health]],
        explorer: Explorer,
    ) -> None:
        self._tenants = tenants
        self._master = master
        self._secrets = secrets
        self._reconcile = reconcile
        self._snapshots = snapshots
        self._health = health
        self._explorer = explorer

    async def read_readings(self, tenant_id: UUID, scan: ReadingScan, limit: int, fill: bool) -> ReadingRows:
        """See `Backend`."""
        return await self._tenant(tenant_id).reader.read_readings(scan, limit, fill=fill)

    async def read_aggregates(self, tenant_id: UUID, query: AggregatesQuery) -> AggregatesPage:
        """See `Backend`."""
        return await self._tenant(tenant_id).reader.read_aggregates(query)

    async def read_latest(
        self, tenant_id: UUID, well_ids: Sequence[UUID], node_ids: Sequence[str] | None
    ) -> Sequence[ReadingRows]:
        """See `Backend`."""
        tenant = self._tenant(tenant_id)
        configured = {well_id: tenant.node_ids_of(well_id) for well_id in well_ids}
        return await tenant.reader.read_latest(configured, node_ids)

    def watch(
        self, tenant_id: UUID, well_ids: Sequence[UUID], node_ids: Sequence[str]
    ) -> AbstractContextManager[Watcher]:
        """See `Backend`."""
        return self._tenant(tenant_id).watch(well_ids, node_ids)

    async def aggregator_stats(self, tenant_id: UUID) -> AggregatorStats:
        """See `Backend`."""
        tenant = self._tenant(tenant_id)
        return AggregatorStats(tenant.buffered, tenant.ms_since_commit)

    async def add_connection(self, spec: ConnectionSpec, actor: Actor | None = None) -> None:
        """See `Backend`; the password is stored encrypted or not at all."""
        password = None if spec.password is None else self._secrets.encrypt(spec.password)
        await self._master.store_connection(spec, password, actor)
        await self._reconcile()

    async def remove_connection(
        self, connection_id: UUID, tenants: frozenset[UUID] | None = None, actor: Actor | None = None
    ) -> bool:
        """See `Backend`."""
        known = await self._master.deactivate_connection(connection_id, tenants, actor)
        if known:
            await self._reconcile()
        return known

    async def connection_report(self, connection_id: UUID, tenants: frozenset[UUID] | None = None) -> ConnectionReport:
        """See `Backend`."""
        for tenant_id, tenant in list(self._tenants.items()):
            if tenants is None or tenant_id in tenants:
                report = await tenant.connection_report(connection_id)
                if report is not None:
                    return report
        raise UnknownConnection(f"connection {connection_id} does not exist or is not active")

    async def list_connections(self, tenant_id: UUID) -> Sequence[ConnectionListing]:
        """See `Backend`."""
        tenant = self._tenants.get(tenant_id)
        statuses = {} if tenant is None else tenant.snapshot().connections
        if all(row.tenant_id != tenant_id for row in await self._master.list_tenants()):
            raise UnknownTenant(f"tenant {tenant_id} does not exist")
        tags: defaultdict[UUID, list[Tag]] = defaultdict(list)
        for tag_row in await self._master.list_tags(tenant_id):
            tags[tag_row.connection_id].append(tag_of(tag_row))
        rows = await self._master.list_connections(tenant_id)
        return [_listing(row, tags[row.connection_id], statuses.get(row.connection_id)) for row in rows]

    async def list_tenants(self) -> Sequence[TenantListing]:
        """See `Backend`."""
        snapshots = {snapshot.tenant_id: snapshot for snapshot in self._snapshots()}
        return [
            TenantListing(row.tenant_id, row.name, row.status, row.connections, snapshots.get(row.tenant_id))
            for row in await self._master.list_tenants()
        ]

    async def update_tags(
        self, tenant_id: UUID, connection_id: UUID, change: TagChange, actor: Actor | None = None
    ) -> int:
        """See `Backend`."""
        count = await self._master.change_tags(tenant_id, connection_id, change, actor)
        await self._reconcile()
        return count

    async def restart_connection(self, tenant_id: UUID, connection_id: UUID) -> None:
        """See `Backend`."""
        if not self._tenant(tenant_id).restart_connection(connection_id):
            raise UnknownConnection(f"connection {connection_id} does not exist or is not active")

    async def browse(
        self, tenant_id: UUID, device: ConnectionSpec | UUID, query: BrowseQuery, limit: int, place: WalkPlace | None
    ) -> BrowsePage:
        """See `Backend`."""
        return await self._explorer.browse(self._device(tenant_id, device), query, limit, place)

    async def try_device(self, tenant_id: UUID, device: ConnectionSpec | UUID, node_ids: Sequence[str]) -> Trial:
        """See `Backend`."""
        return await self._explorer.try_device(self._device(tenant_id, device), node_ids)

    def _device(self, tenant_id: UUID, device: ConnectionSpec | UUID) -> ConnectionSpec:
        connections = self._tenant(tenant_id).spec.connections
        if isinstance(device, ConnectionSpec):
            return device
        spec = connections.get(device)
        if spec is None:
            raise UnknownConnection(f"connection {device} does not exist or is not active")
        if spec.problem:
            raise ConfigurationRefused(f"connection {device}: {spec.problem}")
        return spec

    async def health(self, tenants: frozenset[UUID] | None = None) -> Health:
        """See `Backend`."""
        return await self._health(tenants)

    def _tenant(self, tenant_id: UUID) -> Tenant:
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            raise UnknownTenant(f"tenant {tenant_id} does not exist or does not run")
        return tenant


def _listing(row: ConnectionRow, tags: Sequence[Tag], status: ConnectionStatus | None) -> ConnectionListing:
    try:
        publishing_interval_ms, sampling = parameters_of(row)
    except InvalidField:
        publishing_interval_ms, sampling = None, UNSET
    return ConnectionListing(
        connection_id=row.connection_id,
        name=row.name or "",
        endpoint_url=row.endpoint_url,
        security_mode=row.security_mode or "",
        security_policy=row.security_policy or "",
        username=row.username or None,
        active=row.is_active,
        publishing_interval_ms=publishing_interval_ms,
        sampling=sampling,
        tags=tags,
        status=status,
    )
