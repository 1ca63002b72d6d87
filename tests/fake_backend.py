"""A backend that holds the API's contract without a device or a database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Literal
from uuid import UUID

import trio

from scada_trio.accounts import Accounts
from scada_trio.api.backend import AggregatorStats, ConnectionListing, ConnectionReport, Health, TenantListing
from scada_trio.audit import Actor
from scada_trio.desired import ConnectionSpec, TagChange
from scada_trio.errors import UnknownConnection, UnknownTenant
from scada_trio.live import LiveHub, Watcher
from scada_trio.losses import Loss
from scada_trio.nodes import BrowsePage, BrowseQuery, FoundNode, NodeClass, WalkPlace
from scada_trio.queries import Aggregate, AggregatesPage, AggregatesQuery, Position, ReadingScan
from scada_trio.readings import ReadingRows, TagTable
from scada_trio.status import ConnectionStatus, TenantSnapshot
from scada_trio.trial import Outcome, Step, StepName, Trial

TENANT = UUID("11111111-1111-4111-8111-111111111111")
WELL = UUID("22222222-2222-4222-8222-222222222222")
CONNECTION = UUID("33333333-3333-4333-8333-333333333333")
TAG = UUID("44444444-4444-4444-8444-444444444444")
ABSENT = UUID("99999999-9999-4999-8999-999999999999")


class FakeBackend:
    """Holds readings and connections in memory.

    ``fault`` is raised by every method; while ``hold`` is an event, every method waits for it.
    """

    def __init__(self) -> None:
        self.readings: dict[tuple[UUID, UUID], list[tuple[int, str, float, str]]] = {}
        self.connections: dict[UUID, ConnectionSpec] = {}
        self.removed: set[UUID] = set()
        self.status: Literal["healthy", "degraded", "unhealthy"] = "healthy"
        self.link = ConnectionStatus()
        self.losses: list[Loss] = []
        self.tags = TagTable()
        self.hub = LiveHub(self.tags)
        self.aggregates: list[Aggregate] = []
        self.aggregates_query: AggregatesQuery | None = None
        self.restarted: list[UUID] = []
        self.browsed: ConnectionSpec | UUID | None = None
        self.actors: list[Actor | None] = []
        self.pages = 0
        self.fault: BaseException | None = None
        self.hold: trio.Event | None = None
        self.entered = trio.Event()
        self.cancelled = trio.Event()

    def fill(self, count: int, *, node_id: str = "ns=2;s=Pressure", first_us: int = 1_700_000_000_000_000) -> None:
        """``count`` readings of one well, a second apart."""
        self.readings[TENANT, WELL] = [
            (first_us + index * 1_000_000, node_id, float(index), "Good") for index in range(count)
        ]

    async def read_readings(self, tenant_id: UUID, scan: ReadingScan, limit: int, fill: bool) -> ReadingRows:
        await self._enter(tenant_id)
        self.pages += 1
        query, position = scan.query, scan.position
        rows = [
            row
            for row in self.readings.get((tenant_id, query.well_id), ())
            if query.start_us <= row[0] <= query.end_us and (query.node_ids is None or row[1] in query.node_ids)
        ]
        sign = 1 if query.oldest_first else -1
        rows.sort(key=lambda row: (sign * row[0], row[1]))
        if position is not None:
            after = (sign * position.time_us, position.node_id or "")
            rows = [row for row in rows if (sign * row[0], row[1]) > after]
        scan.done = len(rows) <= limit
        rows = rows[:limit]
        if rows:
            scan.position = Position(rows[-1][0], rows[-1][1])
        return ReadingRows.of(query.well_id, rows)

    async def read_aggregates(self, tenant_id: UUID, query: AggregatesQuery) -> AggregatesPage:
        await self._enter(tenant_id)
        self.aggregates_query = query
        after = (query.after.time_us, query.after.node_id or "") if query.after else (-1, "")
        rest = [a for a in self.aggregates if (a.bucket_us, a.node_id) > after]
        return AggregatesPage(rest[: query.limit], more=len(rest) > query.limit)

    async def read_latest(
        self, tenant_id: UUID, well_ids: Sequence[UUID], node_ids: Sequence[str] | None
    ) -> Sequence[ReadingRows]:
        await self._enter(tenant_id)
        newest: list[ReadingRows] = []
        for well_id in well_ids:
            rows = {row[1]: row for row in sorted(self.readings.get((tenant_id, well_id), ()))}
            kept = [rows[name] for name in sorted(rows) if node_ids is None or name in node_ids]
            newest.append(ReadingRows.of(well_id, kept))
        return newest

    def watch(
        self, tenant_id: UUID, well_ids: Sequence[UUID], node_ids: Sequence[str]
    ) -> AbstractContextManager[Watcher]:
        if tenant_id != TENANT:
            raise UnknownTenant(f"tenant {tenant_id} does not exist")
        return self.hub.watch(well_ids, node_ids)

    async def aggregator_stats(self, tenant_id: UUID) -> AggregatorStats:
        await self._enter(tenant_id)
        return AggregatorStats(buffer_size=42, time_since_last_flush_ms=1234)

    async def add_connection(self, spec: ConnectionSpec, actor: Actor | None = None) -> None:
        await self._enter(spec.tenant_id)
        self.actors.append(actor)
        self.connections[spec.connection_id] = spec
        self.removed.discard(spec.connection_id)

    async def remove_connection(
        self, connection_id: UUID, tenants: frozenset[UUID] | None = None, actor: Actor | None = None
    ) -> bool:
        await self._enter()
        if tenants is not None and TENANT not in tenants:
            return False
        self.actors.append(actor)
        self.removed.add(connection_id)
        return connection_id in self.connections

    async def connection_report(self, connection_id: UUID, tenants: frozenset[UUID] | None = None) -> ConnectionReport:
        await self._enter()
        spec = self.connections.get(connection_id)
        if spec is None or (tenants is not None and spec.tenant_id not in tenants) or connection_id in self.removed:
            raise UnknownConnection(f"connection {connection_id} is not active")
        return ConnectionReport(spec, self.link, self.losses)

    async def list_connections(self, tenant_id: UUID) -> Sequence[ConnectionListing]:
        await self._enter(tenant_id)
        return [
            ConnectionListing(
                connection_id=spec.connection_id,
                name=spec.name,
                endpoint_url=spec.endpoint_url,
                security_mode=str(spec.security_mode),
                security_policy=spec.security_policy,
                username=spec.username,
                active=spec.connection_id not in self.removed,
                publishing_interval_ms=spec.publishing_interval_ms,
                sampling=spec.sampling,
                tags=spec.tags,
                status=None if spec.connection_id in self.removed else self.link,
            )
            for spec in self.connections.values()
        ]

    async def list_tenants(self) -> Sequence[TenantListing]:
        await self._enter()
        links = dict.fromkeys(self.connections, self.link)
        accounts = Accounts(received=12, written=7)
        running = TenantSnapshot(TENANT, "north", "running", links, None, "away", accounts=accounts)
        return [
            TenantListing(TENANT, "north", "ACTIVE", len(self.connections), running),
            TenantListing(ABSENT, "south", "SUSPENDED", 3, None),
        ]

    async def update_tags(
        self, tenant_id: UUID, connection_id: UUID, change: TagChange, actor: Actor | None = None
    ) -> int:
        await self._enter(tenant_id)
        self.actors.append(actor)
        spec = self.connections.get(connection_id)
        if spec is None:
            raise UnknownConnection(f"connection {connection_id} does not exist")
        tags = {} if change.replace else {tag.tag_id: tag for tag in spec.tags if tag.tag_id not in change.removed}
        tags |= {tag.tag_id: tag for tag in change.tags}
        self.connections[connection_id] = replace(spec, tags=tuple(tags.values()))
        return len(tags)

    async def restart_connection(self, tenant_id: UUID, connection_id: UUID) -> None:
        await self._enter(tenant_id)
        if connection_id not in self.connections:
            raise UnknownConnection(f"connection {connection_id} is not active")
        self.restarted.append(connection_id)

    async def browse(
        self, tenant_id: UUID, device: ConnectionSpec | UUID, query: BrowseQuery, limit: int, place: WalkPlace | None
    ) -> BrowsePage:
        await self._enter(tenant_id)
        self.browsed = device
        first = 0 if place is None else place.pages * limit
        nodes = [
            FoundNode(f"ns=1;i={n}", f"Field/{n}", str(n), NodeClass.VARIABLE, 2, data_type="Double", is_readable=True)
            for n in range(12)
        ]
        following = WalkPlace("walk", first // limit + 1) if first + limit < len(nodes) else None
        return BrowsePage(nodes[first : first + limit], following, visited=13)

    async def try_device(self, tenant_id: UUID, device: ConnectionSpec | UUID, node_ids: Sequence[str]) -> Trial:
        await self._enter(tenant_id)
        self.browsed = device
        return Trial([Step(StepName.REACH, Outcome.FAILED, "no answer", 1.5)])

    async def health(self, tenants: frozenset[UUID] | None = None) -> Health:
        await self._enter()
        if tenants is not None and TENANT not in tenants:
            return Health("unhealthy", active_connections=0, active_tenants=0)
        return Health(self.status, active_connections=len(self.connections) - len(self.removed), active_tenants=1)

    async def _enter(self, tenant_id: UUID = TENANT) -> None:
        self.entered.set()
        if self.fault is not None:
            raise self.fault
        if tenant_id != TENANT:
            raise UnknownTenant(f"no tenant {tenant_id}")
        if self.hold is None:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self.hold.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
