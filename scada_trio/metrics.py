"""Every metric name and label of the service, and the registry that holds them.

Nothing here is called once a reading: what counts readings counts in columns (`TenantMetrics.committed`), and
`scada_trio.collectors` turns columns and states into series when Prometheus asks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from scada_trio import __version__
from scada_trio.accounts import Ledger
from scada_trio.collectors import (
    AccountsCollector,
    CertificatesCollector,
    ConnectionsCollector,
    IngestedCollector,
    IngestedCounts,
    Link,
)
from scada_trio.losses import LossReason
from scada_trio.readings import EMPTY_BLOCK, TagTable

# A second series a counter that nobody asked for: half of the bytes and of the time of a scrape.
disable_created_metrics()  # type: ignore[no-untyped-call]

# fine where a healthy write lies, so that a percentile of them means something
WRITE_SECONDS = (
    *(0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
LATENCY_SECONDS = (0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 10, 15, 30, 60, 300, 1_800, 3_600, 21_600, 86_400)
LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
BATCH_READINGS = (1, 10, 100, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000)


class Metrics:
    """All families, on a registry of their own so that two services in one process stay apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        tenant = ["tenant_id"]
        connection = ["tenant_id", "connection_id"]
        self.active_connections = Gauge(
            "scada_active_connections", "Connected OPC UA sessions", tenant, registry=registry
        )
        self.connection_errors = Counter(
            "scada_connection_errors",
            "Errors of device links",
            [*connection, "error_type"],
            registry=registry,
        )
        self.write_duration = Histogram(
            "scada_db_write_duration_seconds",
            "Time of one batch write, transaction included",
            tenant,
            buckets=WRITE_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "scada_batch_size",
            "Readings in one committed batch",
            tenant,
            buckets=BATCH_READINGS,
            registry=registry,
        )
        self.batch_latency = Histogram(
            "scada_batch_latency_seconds",
            "From the time of a batch's oldest reading, by its device's clock, to the commit",
            tenant,
            buckets=LATENCY_SECONDS,
            registry=registry,
        )
        self.observe_loop_lag = Histogram(
            "scada_event_loop_lag_seconds",
            "How late a task runs that asked to be woken, ten times a second",
            buckets=LAG_SECONDS,
            registry=registry,
        ).observe
        self.buffer_full = Counter(
            "scada_buffer_full",
            "Times that intake was held because the journal was full",
            tenant,
            registry=registry,
        )
        self.readings_repeated = Counter(
            "scada_readings_repeated",
            "Readings that a device sent again for new items, not received twice",
            tenant,
            registry=registry,
        )
        self.readings_lost = Counter(
            "scada_readings_lost",
            "Readings that are lost, by reason, as far as they can be counted",
            [*tenant, "reason"],
            registry=registry,
        )
        self.losses = Counter(
            "scada_losses",
            "Times of a loss, by reason, counted readings or not",
            [*tenant, "reason"],
            registry=registry,
        )
        self.readings_unstorable = Counter(
            "scada_readings_unstorable",
            "Values without a number (strings, arrays, nulls, ...)",
            [*tenant, "reason"],
            registry=registry,
        )
        self.timestamps_substituted = Counter(
            "scada_timestamps_substituted",
            "Readings without a source timestamp, by the clock used instead (server, arrival)",
            [*tenant, "clock"],
            registry=registry,
        )
        self.notifications_undecodable = Counter(
            "scada_notifications_undecodable",
            "Publish answers that could not be read",
            connection,
            registry=registry,
        )
        self.queue_overflows = Counter(
            "scada_queue_overflows",
            "Values marked by the server as following dropped ones",
            connection,
            registry=registry,
        )
        self.write_retries = Counter(
            "scada_db_write_retries",
            "Batch writes that failed and were tried again",
            [*tenant, "reason"],
            registry=registry,
        )
        self.maintenance_runs = Counter(
            "scada_storage_maintenance",
            "Runs of a tenant's storage maintenance by outcome (done, busy: another process does it, failed)",
            [*tenant, "outcome"],
            registry=registry,
        )
        self.heartbeats = Counter(
            "scada_heartbeats",
            "Heartbeats of a tenant's series by outcome (stored, failed)",
            [*tenant, "outcome"],
            registry=registry,
        )
        self.partitions = Counter(
            "scada_storage_partitions",
            "Daily partitions that the maintenance made or dropped",
            [*tenant, "change"],
            registry=registry,
        )
        self.live_watchers = Gauge(
            "scada_live_subscribers", "Calls of SubscribeReadings that run", tenant, registry=registry
        )
        self.live_missed = Counter(
            "scada_live_missed",
            "Readings that were dropped for subscribers which took them too slowly; the database has them",
            tenant,
            registry=registry,
        )
        self.grpc_denied = Counter(  # by reason, so no tenant takes its series along
            "scada_grpc_denied",
            "Calls, connections and TLS handshakes that were refused, by reason",
            ["reason"],
            registry=registry,
        ).labels
        self.tenant_restarts = Counter(
            "scada_tenant_restarts", "Tenants that failed and were started again", tenant, registry=registry
        )
        self._ingested = IngestedCollector()
        registry.register(self._ingested)
        self._accounts = AccountsCollector()
        registry.register(self._accounts)
        self._connections = ConnectionsCollector()
        registry.register(self._connections)
        ProcessCollector(registry=registry)  # CPU, memory, descriptors, start time
        build = Gauge("scada_build_info", "Always 1; which version runs", ["version"], registry=registry)
        build.labels(__version__).set(1)

    def render(self, names: Collection[str] = ()) -> bytes:
        """The text exposition of the series of those names, else of all.

        Takes 10 µs a series: call it in a worker thread.
        """
        return generate_latest(self.registry.restricted_registry(names) if names else self.registry)

    def tenant(self, tenant_id: UUID, tags: TagTable, ledger: Ledger | None = None) -> TenantMetrics:
        """The children of one tenant, made once so that no stage looks a label up, with ``ledger`` as it stands."""
        self._accounts.ledgers[str(tenant_id)] = ledger or Ledger()
        return TenantMetrics(self, tenant_id, tags)

    def watch_certificates(self, expiries: Callable[[], Iterable[tuple[str, str, float]]]) -> None:
        """Expose when certificates end: (store, thumbprint, Unix seconds) each; called in the rendering thread."""
        self.registry.register(CertificatesCollector(expiries))

    def add_ingested(self, counts: IngestedCounts) -> None:
        """Expose a tenant's columns."""
        self._ingested.tenants[counts.tenant_id] = counts

    def watch_connections(self, tenant_id: str, links: Mapping[UUID, Link]) -> None:
        """Expose the states of a tenant's connections, ``links`` as they are whenever Prometheus asks."""
        self._connections.tenants[tenant_id] = links

    def forget_tenant(self, tenant_id: UUID) -> None:
        """Remove every series of a tenant that is gone."""
        self._ingested.tenants.pop(str(tenant_id), None)
        self._accounts.ledgers.pop(str(tenant_id), None)
        self._connections.tenants.pop(str(tenant_id), None)
        for family in vars(self).values():
            if isinstance(family, Counter | Gauge | Histogram):
                family.remove_by_labels({"tenant_id": str(tenant_id)})


class TenantMetrics:
    """One tenant's metric children; used from the Trio thread."""

    def __init__(self, metrics: Metrics, tenant_id: UUID, tags: TagTable) -> None:
        label = str(tenant_id)
        self._metrics = metrics
        self._label = label
        self.active_connections = metrics.active_connections.labels(label)
        self.write_duration = metrics.write_duration.labels(label)
        self.batch_size = metrics.batch_size.labels(label)
        self.batch_latency = metrics.batch_latency.labels(label)
        self.buffer_full = metrics.buffer_full.labels(label)
        self.tenant_restarts = metrics.tenant_restarts.labels(label)
        self.live_watchers = metrics.live_watchers.labels(label)
        self.live_missed = metrics.live_missed.labels(label)
        for reason in LossReason:  # from 0 on: a series that begins with its first loss shows no increase
            self.lost(reason, None, times=0)
        self._ingested = IngestedCounts(label, tags)
        metrics.add_ingested(self._ingested)

    def committed(self, tag: NDArray[np.int32], quarantined: NDArray[np.int32] = EMPTY_BLOCK.tag) -> None:
        """Count a batch's readings as ingested but for the quarantined; int32, their numbers in the tag table."""
        self._ingested.add(tag, quarantined)

    def watch_connections(self, links: Mapping[UUID, Link]) -> None:
        """Expose the states of the tenant's connections."""
        self._metrics.watch_connections(self._label, links)

    def connection_error(self, connection_id: UUID, error_type: str) -> None:
        """Count one failure of a link."""
        self._metrics.connection_errors.labels(self._label, str(connection_id), error_type).inc()

    def lost(self, reason: str, count: int | None, *, times: int = 1) -> None:
        """Count a loss, and its readings where their number is known."""
        self._metrics.losses.labels(self._label, reason).inc(times)
        self._metrics.readings_lost.labels(self._label, reason).inc(count or 0)

    def unstorable(self, reason: str, count: int) -> None:
        """Count values that have no number."""
        self._metrics.readings_unstorable.labels(self._label, reason).inc(count)

    def repeated(self, count: int) -> None:
        """Count readings that a device sent again."""
        self._metrics.readings_repeated.labels(self._label).inc(count)

    def timestamp_substituted(self, clock: str, count: int) -> None:
        """Count readings timed by the ``server`` clock or by ``arrival``."""
        self._metrics.timestamps_substituted.labels(self._label, clock).inc(count)

    def undecodable(self, connection_id: UUID) -> None:
        """Count one Publish answer that could not be read."""
        self._metrics.notifications_undecodable.labels(self._label, str(connection_id)).inc()

    def queue_overflow(self, connection_id: UUID, count: int) -> None:
        """Count values whose status has the overflow bit."""
        self._metrics.queue_overflows.labels(self._label, str(connection_id)).inc(count)

    def write_retry(self, reason: str) -> None:
        """Count a write that failed; ``reason`` is a SQLSTATE or a short word."""
        self._metrics.write_retries.labels(self._label, reason).inc()

    def restarted(self) -> None:
        """Count a restart of the tenant."""
        self.tenant_restarts.inc()

    def heartbeat(self, outcome: str) -> None:
        """Count a heartbeat that was stored, or failed."""
        self._metrics.heartbeats.labels(self._label, outcome).inc()

    def maintained(self, outcome: str, *, made: int = 0, dropped: int = 0) -> None:
        """Count a run of the storage maintenance and the partitions it made and dropped."""
        self._metrics.maintenance_runs.labels(self._label, outcome).inc()
        self._metrics.partitions.labels(self._label, "made").inc(made)
        self._metrics.partitions.labels(self._label, "dropped").inc(dropped)
