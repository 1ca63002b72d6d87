"""One tenant: its nurseries, its channels, and the order in which they close.

Owns everything that belongs to the tenant, so that another tenant cannot even name it: tag numbers, buffer, worker
threads, database connections. The service starts it and restarts it if it fails.

    nursery of the tenant
      ├─ writer       ◄── batches ──┐
      ├─ aggregator   ◄── deliveries ┴─┐
      ├─ partition maintenance         │
      └─ nursery of the connections    │
           └─ one task a connection ───┘

Stopping cancels the connections' nursery only. Their channel ends close, the aggregator flushes, the writer finishes,
and a deadline on the tenant's nursery bounds all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from uuid import UUID

import structlog
import trio

from scada_trio.aggregator import Aggregator
from scada_trio.buffer import ReadingBuffer
from scada_trio.config import Settings
from scada_trio.connection import Connection
from scada_trio.desired import TenantSpec
from scada_trio.errors import DatabaseError
from scada_trio.losses import Loss
from scada_trio.metrics import Metrics
from scada_trio.readings import Batch, Delivery, ReadingRows, TagTable
from scada_trio.status import ConnectionReport, ConnectionState, ConnectionStatus, TenantSnapshot
from scada_trio.storage.query import open_reader
from scada_trio.storage.tenant_db import TenantWriter, maintain_partitions, open_tenant_writer
from scada_trio.writer import Writer

log = structlog.get_logger()

_DELIVERIES_WAITING = 256  # blocks between connections and aggregator: a turn of the loop at 1,000 connections
_DEVICE_THREADS = 8  # control calls of one tenant at a time
_CONNECTING = 32  # links of one tenant in their connect phase at a time
_MAINTENANCE_S = 3600.0
_MAINTENANCE_RETRY_S = 30.0
_LEDGER_TIMEOUT_S = 2.0


class Tenant:
    """Lives as long as the tenant is wanted; `run` may be called again after it failed: nothing accepted is lost."""

    def __init__(self, spec: TenantSpec, *, settings: Settings, metrics: Metrics, read_limiter: trio.CapacityLimiter):
        self.spec = spec
        self._settings = settings
        self._tags = TagTable()
        self._metrics = metrics.tenant(spec.tenant_id, self._tags)
        self._buffer = ReadingBuffer(settings.buffer_max_readings)
        self._metrics.buffer_limit.set(settings.buffer_max_readings)
        self._reader = open_reader(
            spec.database_url,
            limiter=read_limiter,
            connect_timeout_s=settings.db_connect_timeout_ms / 1000,
            statement_timeout_s=settings.db_statement_timeout_ms / 1000,
        )
        self._connections: dict[UUID, Connection] = {}
        self._scopes: dict[UUID, trio.CancelScope] = {}
        self._changed = trio.Event()
        self._stopping = False
        self._deadline = float("inf")
        self._writer: Writer | None = None
        self.state = "starting"

    def apply(self, spec: TenantSpec) -> None:
        """Make ``spec`` what this tenant should be; takes effect at once for what differs, touches nothing else."""
        self.spec = spec
        self._changed.set()

    def stop(self, grace_s: float) -> None:
        """End `run` from the sources on, within ``grace_s`` seconds."""
        self._stopping = True
        self._deadline = trio.current_time() + grace_s
        self._changed.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    async def run(self) -> None:
        """Returns after `stop`, with everything flushed unless the grace ran out (logged with the number of readings).

        Raises what its tasks raise; what was accepted stays in the buffer for the next call.
        """
        self._buffer.rewind()
        deliveries_in, deliveries = trio.open_memory_channel[Delivery](_DELIVERIES_WAITING)
        batches_in, batches = trio.open_memory_channel[Batch](1)
        device_threads = trio.CapacityLimiter(_DEVICE_THREADS)
        connecting = trio.CapacityLimiter(_CONNECTING)
        self._writer = Writer(self._buffer, batches, self._open_sink, metrics=self._metrics)
        aggregator = Aggregator(
            self._buffer,
            deliveries,
            batches_in,
            max_readings=self._settings.max_buffer_size,
            max_age_s=self._settings.aggregation_buffer_ms / 1000,
            metrics=self._metrics,
        )
        name = f"tenant {self.spec.tenant_id}"
        structlog.contextvars.bind_contextvars(tenant_id=str(self.spec.tenant_id))
        try:
            async with self._reader, trio.open_nursery() as nursery:
                nursery.start_soon(self._writer.run, name=f"{name} writer")
                nursery.start_soon(aggregator.run, name=f"{name} aggregator")
                maintenance = trio.CancelScope()
                nursery.start_soon(self._run_maintenance, maintenance, name=f"{name} maintenance")
                with deliveries_in:
                    async with trio.open_nursery() as connections:
                        self.state = "running"
                        log.info("tenant started", tenant=self.spec.name, connections=len(self.spec.connections))
                        await self._follow_spec(connections, deliveries_in, device_threads, connecting)
                        self.state = "stopping"
                        nursery.cancel_scope.deadline = self._deadline
                        maintenance.cancel()
                        connections.cancel_scope.cancel()
        finally:
            self._connections.clear()
            self._scopes.clear()
            self._metrics.active_connections.set(0)
            self.state = "stopped" if self._stopping else "failed"
        if len(self._buffer):
            log.error("tenant stopped before all readings were written", readings_lost=len(self._buffer))
            self._metrics.lost("shutdown", len(self._buffer))
        else:
            log.info("tenant stopped", tenant=self.spec.name, readings_committed=self._buffer.committed_total)

    async def query_readings(self, well_id: UUID, start_us: int, end_us: int, limit: int) -> ReadingRows:
        """As `scada_trio.api.backend.Backend.query_readings`, on this tenant's own database; raises `DatabaseError`."""
        return await self._reader.query_readings(well_id, start_us, end_us, limit)

    async def connection_report(self, connection_id: UUID) -> ConnectionReport | None:
        """What is known of one of this tenant's connections; None where it is not active here."""
        connection = self._connections.get(connection_id)
        if connection is None:
            return None
        losses: list[Loss] = []
        with trio.move_on_after(_LEDGER_TIMEOUT_S), suppress(DatabaseError):
            losses = [row.loss for row in await self._reader.read_losses(connection_id)]
        return ConnectionReport(connection.spec, connection.status, losses)

    def count_restart(self) -> None:
        """Count that `run` failed and is called again."""
        self._metrics.restarted()

    @property
    def buffered(self) -> int:
        """Readings accepted and not yet committed."""
        return len(self._buffer)

    @property
    def ms_since_commit(self) -> int:
        """Age of the last commit in milliseconds."""
        return self._buffer.ms_since_commit

    @property
    def healthy(self) -> bool:
        """Whether the database takes readings and every connection is connected."""
        return (
            self.state == "running"
            and self._writer is not None
            and self._writer.last_error is None
            and not self._buffer.full
            and all(c.status.state is ConnectionState.CONNECTED for c in self._connections.values())
        )

    @property
    def connected(self) -> int:
        """Number of connected sessions."""
        return sum(c.status.state is ConnectionState.CONNECTED for c in self._connections.values())

    def snapshot(self) -> TenantSnapshot:
        """The tenant as it is now."""
        writer_error = self._writer.last_error if self._writer is not None else None
        writer_state = self._writer.state if self._writer is not None and writer_error is not None else None
        statuses: dict[UUID, ConnectionStatus] = {i: c.status for i, c in self._connections.items()}
        return TenantSnapshot(
            tenant_id=self.spec.tenant_id,
            name=self.spec.name,
            state=writer_state if writer_state and self.state == "running" else self.state,
            connections=statuses,
            buffered=len(self._buffer),
            received_total=self._buffer.received_total,
            committed_total=self._buffer.committed_total,
            last_commit_at=self._buffer.last_commit_at,
            last_error=writer_error or _first_error(statuses),
        )

    # --- tasks

    async def _follow_spec(
        self,
        nursery: trio.Nursery,
        deliveries: trio.MemorySendChannel[Delivery],
        device_threads: trio.CapacityLimiter,
        connecting: trio.CapacityLimiter,
    ) -> None:
        """Start, update and cancel connections until what runs is what `apply` said last; returns on `stop`."""
        while not self._stopping:
            self._changed = trio.Event()
            wanted = self.spec.connections
            for connection_id in self._connections.keys() - wanted.keys():
                del self._connections[connection_id]
                self._scopes.pop(connection_id).cancel()
                log.info("connection removed", connection_id=str(connection_id))
            for connection_id, spec in wanted.items():
                running = self._connections.get(connection_id)
                if running is None:
                    connection = Connection(
                        spec,
                        tags=self._tags,
                        deliver=deliveries.clone(),
                        limiter=device_threads,
                        connecting=connecting,
                        settings=self._settings.device,
                        metrics=self._metrics,
                    )
                    scope = trio.CancelScope()
                    self._connections[connection_id] = connection
                    self._scopes[connection_id] = scope
                    nursery.start_soon(_run_in_scope, connection, scope, name=f"connection {connection_id}")
                elif running.spec != spec:
                    running.update(spec)
            await self._changed.wait()

    async def _run_maintenance(self, scope: trio.CancelScope) -> None:
        """Keep the partitions of the days ahead; a database that is away is the writer's to report."""
        with scope:
            while True:
                try:
                    await maintain_partitions(
                        self.spec.database_url, connect_timeout_s=self._settings.db_connect_timeout_ms / 1000
                    )
                    delay = _MAINTENANCE_S
                except DatabaseError as error:
                    log.debug("partition maintenance failed, trying again", error=str(error))
                    delay = _MAINTENANCE_RETRY_S
                await trio.sleep(delay)

    def _open_sink(self) -> AbstractAsyncContextManager[TenantWriter]:
        return open_tenant_writer(
            self.spec.database_url,
            self._tags,
            connect_timeout_s=self._settings.db_connect_timeout_ms / 1000,
            statement_timeout_s=self._settings.db_statement_timeout_ms / 1000,
        )


async def _run_in_scope(connection: Connection, scope: trio.CancelScope) -> None:
    with scope:
        await connection.run()


def _first_error(statuses: Mapping[UUID, ConnectionStatus]) -> str | None:
    return next((s.last_error for s in statuses.values() if s.last_error and s.state in _TROUBLED), None)


_TROUBLED = frozenset({ConnectionState.WAITING, ConnectionState.FAILED, ConnectionState.REFUSED})
