"""The service's metrics as numbers, read over HTTP; histograms as the difference of two scrapes.

Blocks, for a worker thread. Asks for the few families that a load test needs: a scrape of all of them renders a series
of every tag and would be a load of its own.
"""

from __future__ import annotations

import http.client
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from prometheus_client.parser import text_string_to_metric_families

COUNTERS: Final = {
    "received": "scada_readings_received_total",
    "written": "scada_readings_written_total",
    "duplicates": "scada_readings_duplicate_total",
    "replaced": "scada_readings_replaced_total",
    "quarantined": "scada_readings_quarantined_total",
    "lost": "scada_readings_lost_total",
    "buffered": "scada_buffer_size",
    "connected": "scada_active_connections",
    "journal_bytes": "scada_journal_bytes",
    "write_retries": "scada_db_write_retries_total",
}
HISTOGRAMS: Final = {
    "write": "scada_db_write_duration_seconds",
    "batch": "scada_batch_latency_seconds",
    "lag": "scada_event_loop_lag_seconds",
}
_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram: how many there were, their sum, and how many at most each bound."""

    count: float = 0.0
    total: float = 0.0
    below: dict[float, float] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """None where there is nothing."""
        return self.total / self.count if self.count else None

    def since(self, earlier: Buckets) -> Buckets:
        """What came after ``earlier``."""
        return Buckets(
            self.count - earlier.count,
            self.total - earlier.total,
            {bound: count - earlier.below.get(bound, 0.0) for bound, count in self.below.items()},
        )

    def quantile(self, part: float) -> float | None:
        """As Prometheus does it: linear within a bucket, the last finite bound where it lies above; None of nothing."""
        if not self.count:
            return None
        rank, low, before = part * self.count, 0.0, 0.0
        for bound, count in sorted(self.below.items()):
            if count >= rank:
                if math.isinf(bound):
                    return low
                return low + (bound - low) * (rank - before) / max(count - before, 1e-12)
            low, before = bound, count
        return low


@dataclass(frozen=True, slots=True)
class Scrape:
    """All tenants together: ``counters`` by the names of `COUNTERS`, ``histograms`` by those of `HISTOGRAMS`."""

    counters: dict[str, float]
    histograms: dict[str, Buckets]


def scrape(port: int) -> Scrape:
    """Ask the service on loopback; raises `OSError` where it does not answer, `ValueError` where not with metrics."""
    names = [*COUNTERS.values(), *(f"{name}_{part}" for name in HISTOGRAMS.values() for part in _PARTS)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics?" + urlencode([("name[]", name) for name in names]))
        response = connection.getresponse()
        text = response.read().decode()
        if response.status != http.client.OK:
            raise ValueError(f"/metrics answers {response.status}")
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()
    return read_metrics(text)


_PARTS: Final = ("count", "sum", "bucket")


def read_metrics(text: str) -> Scrape:
    """The figures of a text exposition, labels added up."""
    found: defaultdict[str, float] = defaultdict(float)
    below: defaultdict[str, defaultdict[float, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                below[family.name][float(sample.labels["le"])] += sample.value
            else:
                found[sample.name] += sample.value
    return Scrape(
        {key: found[name] for key, name in COUNTERS.items()},
        {
            key: Buckets(found[f"{name}_count"], found[f"{name}_sum"], dict(below[name]))
            for key, name in HISTOGRAMS.items()
        },
    )
