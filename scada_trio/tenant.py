"""One tenant: its nurseries, its channels, and the order in which they close.

Owns everything that belongs to the tenant, so that another tenant cannot even name it: tag numbers, journal, worker
threads, database connections. The service starts it and restarts it if it fails.

    nursery of the tenant
      ├─ writer       ◄── batches ──┐
      ├─ aggregator   ◄── deliveries ┴─┐
      ├─ upkeep of journal, partitions │
      └─ nursery of the connections ───┘
           └─ one task a connection, and one for the deliveries that wait

Stopping cancels the connections' nursery only. Their channel end closes, the aggregator flushes, the writer finishes,
and a deadline on the tenant's nursery bounds all of it. What could not be written by then stays in the journal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, suppress
from functools import partial
from uuid import UUID

import structlog
import trio

from scada_trio.accounts import Accounts, Ledger
from scada_trio.aggregator import Aggregator, CommitPace
from scada_trio.backoff import full_jitter
from scada_trio.config import Settings
from scada_trio.connection import Connection
from scada_trio.desired import TenantSpec
from scada_trio.errors import DatabaseError, JournalUnavailable
from scada_trio.heartbeat import run_heartbeats
from scada_trio.journal.queue import Journal, open_journal
from scada_trio.live import LiveHub, Watcher
from scada_trio.losses import Loss
from scada_trio.metrics import Metrics
from scada_trio.opcua.outbox import Outbox
from scada_trio.opcua.pki import Pki
from scada_trio.readings import Batch, Delivery, TagTable
from scada_trio.status import ConnectionReport, ConnectionState, ConnectionStatus, TenantSnapshot
from scada_trio.storage.heartbeats import Pulse
from scada_trio.storage.maintenance import maintain
from scada_trio.storage.query import open_reader
from scada_trio.storage.tenant_db import TenantWriter, open_tenant_writer
from scada_trio.storage.window import TimeWindow
from scada_trio.writer import Writer

log = structlog.get_logger()

_DELIVERIES_WAITING = 256  # blocks between connections and aggregator: a turn of the loop at 1,000 connections
_DEVICE_THREADS = 8  # control calls of one tenant at a time
_CONNECTING = 32  # links of one tenant in their connect phase at a time
_STARTED_A_TURN = 16  # connections; a thousand in one turn of the loop would hold it for half a second
_MAINTENANCE_S, _MAINTENANCE_RETRY_S = 3600.0, 30.0
_LEDGER_TIMEOUT_S = 2.0


class Tenant:
    """Lives as long as the tenant is wanted; `run` may be called again after it failed: nothing accepted is lost."""

    def __init__(
        self,
        spec: TenantSpec,
        *,
        settings: Settings,
        pki: Pki,
        metrics: Metrics,
        read_limiter: trio.CapacityLimiter,
        pace: CommitPace,
    ) -> None:
        self.spec = spec
        self._settings = settings
        self._pki = pki
        self._tags = TagTable()
        self._ledger = Ledger()
        self._metrics = metrics.tenant(spec.tenant_id, self._tags, self._ledger)
        self._live = LiveHub(self._tags, self._metrics)
        self._pace = pace
        self._journal: Journal | None = None
        self._journal_error: str | None = None
        self.reader = open_reader(spec.database_url, limiter=read_limiter, **settings.db_timeouts)
        self._connections: dict[UUID, Connection] = {}
        self._metrics.watch_connections(self._connections)
        self._scopes: dict[UUID, trio.CancelScope] = {}
        self._changed = trio.Event()
        self._stopping = False
        self._deadline = float("inf")
        self._writer: Writer | None = None
        self.state = "starting"

    def apply(self, spec: TenantSpec) -> None:
        """Make ``spec`` what this tenant should be; takes effect at once for what differs, touches nothing else."""
        if spec is not self.spec:
            self.spec = spec
            self._changed.set()

    def stop(self, grace_s: float) -> None:
        """End `run` from the sources on, within ``grace_s`` seconds."""
        self._stopping = True
        self._live.close()
        self._deadline = trio.current_time() + grace_s
        self._changed.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    async def run(self) -> None:
        """Returns after `stop`, with everything flushed unless the grace ran out (logged with the number of readings).

        Raises what its tasks raise; what was accepted stays in the journal for the next call, or the next process.
        """
        structlog.contextvars.bind_contextvars(tenant_id=str(self.spec.tenant_id))
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.reader)
                self._journal = await self._enter_journal(stack)
                if self._journal is not None:
                    await self._run_stages(self._journal)
        finally:
            self._journal = None
            self._connections.clear()
            self._scopes.clear()
            self._metrics.active_connections.set(0)
            self.state = "stopped" if self._stopping else "failed"
        accounts = self._ledger.accounts
        log.info(
            "tenant stopped",
            tenant=self.spec.name,
            readings_committed=accounts.committed,
            readings_in_journal=accounts.in_journal,
        )

    async def _enter_journal(self, stack: AsyncExitStack) -> Journal | None:
        """The journal, as soon as it can be opened; None where `stop` came first."""
        for delay in full_jitter(1.0, cap_s=15.0):
            self._changed = trio.Event()
            if self._stopping:
                break
            try:
                journal = await stack.enter_async_context(
                    open_journal(
                        self.spec.tenant_id,
                        self._tags,
                        self._ledger,
                        self._settings.journal,
                        on_loss=lambda loss: self._metrics.lost(loss.reason, loss.count),
                    )
                )
            except JournalUnavailable as error:
                if self._journal_error is None:
                    log.error("journal cannot be opened, trying again", error=str(error))
                self._journal_error = str(error)
                self.state = "journal away"
                with trio.move_on_after(delay):
                    await self._changed.wait()
            else:
                self._journal_error = None
                return journal
        return None

    async def _run_stages(self, journal: Journal) -> None:
        journal.expect(self.spec.connections)
        deliveries_in, deliveries = trio.open_memory_channel[Delivery](_DELIVERIES_WAITING)
        batches_in, batches = trio.open_memory_channel[Batch](1)
        device_threads = trio.CapacityLimiter(_DEVICE_THREADS)
        connecting = trio.CapacityLimiter(_CONNECTING)
        writers = self._settings.db_write_connections
        self._writer = Writer(journal, batches, self._open_sink, metrics=self._metrics, connections=writers)
        aggregator = Aggregator(
            journal,
            deliveries,
            batches_in,
            max_readings=self._settings.max_buffer_size,
            max_age_s=self._settings.aggregation_buffer_ms / 1000,
            pace=self._pace,
            live=self._live,
            metrics=self._metrics,
        )
        name = f"tenant {self.spec.tenant_id}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._writer.run, name=f"{name} writer")
            nursery.start_soon(aggregator.run, name=f"{name} aggregator")
            upkeep = trio.CancelScope()
            nursery.start_soon(_run_in_scope, partial(self._run_upkeep, journal), upkeep, name=f"{name} upkeep")
            with deliveries_in:
                async with trio.open_nursery() as connections:
                    self.state = "running"
                    log.info(
                        "tenant started",
                        tenant=self.spec.name,
                        connections=len(self.spec.connections),
                        readings_in_journal=len(journal),
                    )
                    outbox = Outbox(deliveries_in)
                    connections.start_soon(outbox.run, name=f"{name} deliveries")
                    await self._follow_spec(connections, journal, outbox, device_threads, connecting)
                    self.state = "stopping"
                    nursery.cancel_scope.deadline = self._deadline
                    upkeep.cancel()
                    connections.cancel_scope.cancel()

    def node_ids_of(self, well_id: UUID) -> frozenset[str]:
        """The nodes of a well that are to be read."""
        connections = self.spec.connections.values()
        return frozenset(tag.node_id for spec in connections for tag in spec.tags if tag.well_id == well_id)

    def restart_connection(self, connection_id: UUID) -> bool:
        """Make one of this tenant's connections log in anew; False where it is not active here."""
        connection = self._connections.get(connection_id)
        if connection is not None:
            connection.restart()
        return connection is not None

    def watch(self, well_ids: Sequence[UUID], node_ids: Sequence[str]) -> AbstractContextManager[Watcher]:
        """As `scada_trio.live.LiveHub.watch`."""
        return self._live.watch(well_ids, node_ids)

    async def connection_report(self, connection_id: UUID) -> ConnectionReport | None:
        """What is known of one of this tenant's connections; None where it is not active here."""
        connection = self._connections.get(connection_id)
        if connection is None:
            return None
        losses: list[Loss] = []
        with trio.move_on_after(_LEDGER_TIMEOUT_S), suppress(DatabaseError):
            losses = [row.loss for row in await self.reader.read_losses(connection_id)]
        return ConnectionReport(connection.spec, connection.status, losses)

    def count_restart(self) -> None:
        """Count that `run` failed and is called again."""
        self._metrics.restarted()

    @property
    def buffered(self) -> int:
        """Readings accepted and not yet committed."""
        return self.accounts.in_journal

    @property
    def accounts(self) -> Accounts:
        """What became of the tenant's readings."""
        return self._ledger.accounts

    @property
    def ms_since_commit(self) -> int:
        """Age of the last commit in milliseconds."""
        return self._ledger.ms_since_commit

    @property
    def healthy(self) -> bool:
        """Whether the database takes readings and every connection is connected."""
        return (
            self.state == "running"
            and self._writer is not None
            and self._writer.last_error is None
            and self._journal is not None
            and self._journal.error is None
            and not self._journal.full
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
        journal_error = self._journal_error if self._journal is None else self._journal.error
        if journal_error is not None:
            writer_state, writer_error = "journal away", journal_error
        statuses: dict[UUID, ConnectionStatus] = {i: c.status for i, c in self._connections.items()}
        return TenantSnapshot(
            tenant_id=self.spec.tenant_id,
            name=self.spec.name,
            state=writer_state if writer_state and self.state == "running" else self.state,
            connections=statuses,
            last_commit_at=self._ledger.last_commit_at,
            last_error=writer_error or _first_error(statuses),
            accounts=self._ledger.accounts,
            specs={i: c.spec for i, c in self._connections.items()},
            journal_bytes=self._ledger.journal_bytes,
            journal_full=self._journal is not None and self._journal.full,
        )

    # --- tasks

    async def _follow_spec(
        self,
        nursery: trio.Nursery,
        journal: Journal,
        outbox: Outbox,
        device_threads: trio.CapacityLimiter,
        connecting: trio.CapacityLimiter,
    ) -> None:
        """Start, update and cancel connections until what runs is what `apply` said last; returns on `stop`."""
        settings = self._settings.device
        while not self._stopping:
            self._changed = trio.Event()
            wanted = self.spec.connections
            for connection_id in self._connections.keys() - wanted.keys():
                self._connections.pop(connection_id).discard()
                self._scopes.pop(connection_id).cancel()
                log.info("connection stopped", connection_id=str(connection_id))
            for number, (connection_id, spec) in enumerate(wanted.items(), start=1):
                if number % _STARTED_A_TURN == 0:
                    await trio.lowlevel.checkpoint()
                running = self._connections.get(connection_id)
                if running is None:
                    connection = Connection(
                        spec,
                        tags=self._tags,
                        outbox=outbox,
                        limiter=device_threads,
                        connecting=connecting,
                        settings=settings,
                        pki=self._pki,
                        metrics=self._metrics,
                        memory=journal,
                    )
                    scope = trio.CancelScope()
                    self._connections[connection_id], self._scopes[connection_id] = connection, scope
                    nursery.start_soon(_run_in_scope, connection.run, scope, name=f"connection {connection_id}")
                elif running.spec != spec:
                    running.update(spec)
            await self._changed.wait()

    async def _run_upkeep(self, journal: Journal) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.run, name="journal upkeep")
            nursery.start_soon(self._run_maintenance, name="storage maintenance")
            if self._settings.heartbeat_interval_ms:
                beats = partial(run_heartbeats, settings=self._settings, metrics=self._metrics)
                nursery.start_soon(beats, lambda: self.spec, self._pulses, name="heartbeats")

    def _pulses(self) -> Sequence[Pulse]:
        """How each connection is, for a heartbeat."""
        return [
            Pulse(
                connection_id,
                connection.status.state is ConnectionState.CONNECTED,
                connection.status.heard.at,
                [(tag.well_id, tag.node_id) for tag in connection.spec.tags if tag.problem is None],
            )
            for connection_id, connection in self._connections.items()
        ]

    async def _run_maintenance(self) -> None:
        """Keep the database in shape every hour; where that fails, sooner. One that is away is the writer's to say."""
        said: str | None = None
        while True:
            try:
                done = await maintain(
                    self.spec.database_url,
                    self._settings.storage,
                    connect_timeout_s=self._settings.db_connect_timeout_ms / 1000,
                )
            except DatabaseError as error:
                self._metrics.maintained("failed")
                message = str(error)
                if message != said and (self._writer is None or self._writer.last_error is None):
                    log.warning("storage maintenance failed, trying again", error=message)
                    said = message
                await trio.sleep(_MAINTENANCE_RETRY_S)
                continue
            said = None
            self._metrics.maintained("busy" if done.busy else "done", made=done.made, dropped=done.dropped)
            if done.made or done.dropped or done.analyzed:
                log.info(
                    "storage maintained",
                    partitions_made=done.made,
                    partitions_dropped=done.dropped,
                    chunks_analyzed=done.analyzed,
                )
            await trio.sleep(_MAINTENANCE_S)

    def _open_sink(self) -> AbstractAsyncContextManager[TenantWriter]:
        return open_tenant_writer(
            self.spec.database_url,
            self._tags,
            window=TimeWindow.of(self._settings.storage),
            quarantine_rows=self._settings.quarantine_max_rows,
            **self._settings.db_timeouts,
        )


async def _run_in_scope(run: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    with scope:
        await run()


def _first_error(statuses: Mapping[UUID, ConnectionStatus]) -> str | None:
    return next((s.last_error for s in statuses.values() if s.last_error and s.state in _TROUBLED), None)


_TROUBLED = frozenset({ConnectionState.WAITING, ConnectionState.FAILED, ConnectionState.REFUSED})
