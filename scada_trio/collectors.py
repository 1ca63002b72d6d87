"""Families that are made when Prometheus asks, from columns and states that are there anyway.

Owns their names and labels; `scada_trio.metrics` registers them. `Collector.collect` is called in the thread that
renders, so what it reads is replaced or read as a whole, never while it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from scada_trio.accounts import Ledger
from scada_trio.readings import TagTable
from scada_trio.status import ConnectionStatus


class Link(Protocol):
    """A connection, as far as its series tell of it."""

    status: ConnectionStatus


class IngestedCounts:
    """Committed readings of each series of one tenant, in a column that grows with its `TagTable`."""

    def __init__(self, tenant_id: str, tags: TagTable) -> None:
        self.tenant_id = tenant_id
        self.tags = tags
        self.counts: NDArray[np.int64] = np.zeros(64, np.int64)

    def add(self, tag: NDArray[np.int32], without: NDArray[np.int32]) -> None:
        """Count one batch; ``tag`` is its int32 tag column, ``without`` that of its readings that do not count."""
        if len(tag) == 0:
            return
        added = np.bincount(tag)
        if len(without):
            added -= np.bincount(without, minlength=len(added))
        if len(added) > len(self.counts):
            grown = np.zeros(max(len(added), 2 * len(self.counts)), np.int64)
            grown[: len(self.counts)] = self.counts
            self.counts = grown
        self.counts[: len(added)] += added


class _Series:
    """The samples of a family, made while they are rendered: ten thousand at once are 8 MB."""

    def __init__(self, make: Callable[[], Iterator[Sample]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Sample]:
        return self._make()


class IngestedCollector(Collector):
    """`scada_readings_ingested_total` from the tenants' columns; called in the thread that renders."""

    def __init__(self) -> None:
        self.tenants: dict[str, IngestedCounts] = {}

    def describe(self) -> Iterator[CounterMetricFamily]:
        """The families, without series."""
        yield self._family()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The families as they are now."""
        family = self._family()
        family.samples = _Series(self._samples)  # type: ignore[assignment]  # what iterates over it is all that is asked
        yield family

    def _samples(self) -> Iterator[Sample]:
        for tenant in list(self.tenants.values()):
            counts = tenant.counts.tolist()
            for index in range(min(len(tenant.tags), len(counts))):
                if counts[index]:
                    well_id, node_id = tenant.tags.key(index)
                    labels = {"tenant_id": tenant.tenant_id, "well_id": str(well_id), "tag_node_id": node_id}
                    yield Sample("scada_readings_ingested_total", labels, counts[index])

    @staticmethod
    def _family() -> CounterMetricFamily:
        return CounterMetricFamily(
            "scada_readings_ingested",
            "Readings committed to the tenant's database",
            labels=["tenant_id", "well_id", "tag_node_id"],
        )


class CertificatesCollector(Collector):
    """When certificates end: (store, thumbprint, Unix seconds) each."""

    def __init__(self, expiries: Callable[[], Iterable[tuple[str, str, float]]]) -> None:
        self._expiries = expiries

    def describe(self) -> Iterator[Metric]:
        """The families, without series."""
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        """The families as they are now."""
        family = self._family()
        for store, thumbprint, ends_at in dict.fromkeys(self._expiries()):
            family.add_metric([store, thumbprint], ends_at)
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "scada_certificate_expiry_timestamp_seconds",
            "When a certificate ends: our own, its successor (next), those that are trusted, and their issuers",
            labels=["store", "thumbprint"],
        )


class AccountsCollector(Collector):
    """What became of readings, each tenant's figures from one moment, so that their identity holds in every scrape."""

    def __init__(self) -> None:
        self.ledgers: dict[str, Ledger] = {}

    def describe(self) -> Iterator[Metric]:
        """The families, without series."""
        return self._families({})

    def collect(self) -> Iterator[Metric]:
        """The families as they are now."""
        return self._families(dict(self.ledgers))

    @staticmethod
    def _families(ledgers: dict[str, Ledger]) -> Iterator[Metric]:
        accounts = {label: ledger.accounts for label, ledger in ledgers.items()}
        for name, field, text in _ACCOUNTS:
            counter = CounterMetricFamily(name, text, labels=["tenant_id"])
            for label, account in accounts.items():
                counter.add_metric([label], getattr(account, field))
            yield counter
        errors = CounterMetricFamily(
            "scada_journal_errors", "Calls to the journal's file that failed and were tried again", labels=["tenant_id"]
        )
        waiting = GaugeMetricFamily(
            "scada_buffer_size", "Readings accepted and not yet committed", labels=["tenant_id"]
        )
        size = GaugeMetricFamily("scada_journal_bytes", "Size of the journal's file and WAL", labels=["tenant_id"])
        for label, ledger in ledgers.items():
            errors.add_metric([label], ledger.journal_errors)
            waiting.add_metric([label], accounts[label].in_journal)
            size.add_metric([label], ledger.journal_bytes)
        yield from (errors, waiting, size)


_ACCOUNTS = (
    ("scada_readings_received", "received", "Readings accepted from devices"),
    ("scada_readings_recovered", "recovered", "Readings that an earlier process had accepted and not committed"),
    ("scada_readings_written", "written", "Readings inserted into the database"),
    ("scada_readings_duplicate", "duplicates", "Readings that were already stored, not written again"),
    ("scada_readings_replaced", "replaced", "Stored readings replaced by another value of the same time"),
    ("scada_readings_quarantined", "quarantined", "Readings that the database refused, kept in scada_quarantine"),
    ("scada_readings_lost_accepted", "lost", "Readings lost after they were accepted; among scada_readings_lost_total"),
)


class ConnectionsCollector(Collector):
    """The state of each connection, and when it was last heard and last delivered."""

    def __init__(self) -> None:
        self.tenants: dict[str, Mapping[UUID, Link]] = {}

    def describe(self) -> Iterator[Metric]:
        """The families, without series."""
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        """The families as they are now."""
        state, reading, heard = families = self._families()
        for tenant_id, links in list(self.tenants.items()):
            for connection_id, link in list(links.items()):
                labels = [tenant_id, str(connection_id)]
                state.add_metric([*labels, link.status.state.value], 1)
                for family, at in ((reading, link.status.last_reading_at), (heard, link.status.heard.at)):
                    if at is not None:
                        family.add_metric(labels, at)
        yield from families

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        labels = ["tenant_id", "connection_id"]
        return (
            GaugeMetricFamily(
                "scada_connection_state", "1 for the state that a connection is in", labels=[*labels, "state"]
            ),
            GaugeMetricFamily(
                "scada_connection_last_reading_timestamp_seconds",
                "When a device last sent readings, by our clock; none while it never did",
                labels=labels,
            ),
            GaugeMetricFamily(
                "scada_connection_last_heard_timestamp_seconds",
                "When anything last came from a device, a keep-alive too; none while it never did",
                labels=labels,
            ),
        )
