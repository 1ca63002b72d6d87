"""The families that dashboards and alerts are built on, read back as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from scada_trio.accounts import Ledger
from scada_trio.metrics import Metrics, TenantMetrics
from scada_trio.readings import TagTable, WriteResult

TENANT = UUID("11111111-1111-4111-8111-111111111111")
OTHER = UUID("22222222-2222-4222-8222-222222222222")
WELL = UUID("33333333-3333-4333-8333-333333333333")
LINK = UUID("44444444-4444-4444-8444-444444444444")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def used(metrics: Metrics, tenant_id: UUID, tags: TagTable | None = None) -> TenantMetrics:
    """A tenant that has touched every one of its families."""
    tags = TagTable() if tags is None else tags
    ledger = Ledger()
    tenant = metrics.tenant(tenant_id, tags, ledger)
    ledger.received(10, in_journal=10)
    ledger.committed(WriteResult(2, duplicates=1, replaced=1, quarantined=1), in_journal=5)
    ledger.lost(1, in_journal=4)
    tenant.active_connections.set(2)
    tenant.write_duration.observe(0.2)
    tenant.batch_size.observe(1500)
    tenant.batch_latency.observe(4.5)
    tenant.buffer_full.inc()
    tenant.connection_error(LINK, "unreachable")
    tenant.unstorable("string", 2)
    tenant.timestamp_substituted("server", 1)
    tenant.undecodable(LINK)
    tenant.queue_overflow(LINK, 4)
    tenant.write_retry("57P01")
    tenant.restarted()
    tenant.lost("journal_full", 1)
    tenant.lost("sequence_gap", None)
    tenant.committed(column(tags.index_of(WELL, "ns=2;s=Pressure")))
    return tenant


def column(*tags: int) -> NDArray[np.int32]:
    return np.array(tags, np.int32)


def scrape(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def value(metrics: Metrics, name: str, labels: Mapping[str, str]) -> float | None:
    for family in scrape(metrics).values():
        for sample in family.samples:
            if (sample.name, sample.labels) == (name, dict(labels)):
                return sample.value
    return None


@pytest.mark.parametrize(
    ("name", "kind", "labels"),
    [
        ("scada_readings_ingested_total", "counter", {"tenant_id", "well_id", "tag_node_id"}),
        ("scada_active_connections", "gauge", {"tenant_id"}),
        ("scada_connection_errors_total", "counter", {"tenant_id", "connection_id", "error_type"}),
        ("scada_db_write_duration_seconds_count", "histogram", {"tenant_id"}),
        ("scada_batch_size_count", "histogram", {"tenant_id"}),
        ("scada_buffer_size", "gauge", {"tenant_id"}),
    ],
)
def test_the_six_families_have_their_names_types_and_labels(
    metrics: Metrics, name: str, kind: str, labels: set[str]
) -> None:
    used(metrics, TENANT)
    (family,) = [family for family in scrape(metrics).values() if name in {sample.name for sample in family.samples}]
    assert family.type == kind
    (sample,) = [sample for sample in family.samples if sample.name == name]
    assert set(sample.labels) == labels
    assert sample.labels["tenant_id"] == str(TENANT)


def test_type_lines_are_what_an_older_scraper_expects(metrics: Metrics) -> None:
    text = metrics.render().decode()
    for line in (
        "# TYPE scada_readings_ingested_total counter",
        "# TYPE scada_connection_errors_total counter",
        "# TYPE scada_db_write_duration_seconds histogram",
        "# TYPE scada_batch_size histogram",
    ):
        assert line in text.splitlines()


def test_write_times_show_a_tenth_and_half_a_second(metrics: Metrics) -> None:
    used(metrics, TENANT)
    family = scrape(metrics)["scada_db_write_duration_seconds"]
    buckets = {sample.labels["le"]: sample.value for sample in family.samples if sample.name.endswith("_bucket")}
    assert (buckets["0.1"], buckets["0.5"], buckets["+Inf"]) == (0, 1, 1)


def test_tenants_without_traffic_show_zeros(metrics: Metrics) -> None:
    metrics.tenant(TENANT, TagTable())
    for name in ("scada_active_connections", "scada_buffer_size", "scada_readings_received_total"):
        assert value(metrics, name, {"tenant_id": str(TENANT)}) == 0


def test_received_is_the_sum_of_what_became_of_the_readings(metrics: Metrics) -> None:
    used(metrics, TENANT)
    labels = {"tenant_id": str(TENANT)}

    def total(*names: str) -> float:
        return sum(value(metrics, f"scada_readings_{name}_total", labels) or 0 for name in names)

    fates = total("written", "duplicate", "replaced", "quarantined", "lost_accepted")
    in_journal = value(metrics, "scada_buffer_size", labels)
    assert in_journal == 4
    assert total("received", "recovered") == fates + in_journal == 10
    assert value(metrics, "scada_losses_total", labels | {"reason": "sequence_gap"}) == 1
    assert value(metrics, "scada_readings_lost_total", labels | {"reason": "sequence_gap"}) == 0


def test_no_series_tells_when_it_was_created(metrics: Metrics) -> None:
    used(metrics, TENANT)
    assert b"_created" not in metrics.render()


@settings(deadline=None)
@given(batches=st.lists(st.lists(st.integers(0, 300), max_size=50), max_size=10))
def test_ingested_counts_each_reading_of_each_series(batches: list[list[int]]) -> None:
    metrics, tags = Metrics(), TagTable()
    for index in range(301):
        tags.index_of(WELL, f"ns=2;i={index}")
    tenant = metrics.tenant(TENANT, tags)
    for batch in batches:
        tenant.committed(column(*batch))
    expected: dict[str, int] = {}
    for index in (index for batch in batches for index in batch):
        expected[f"ns=2;i={index}"] = expected.get(f"ns=2;i={index}", 0) + 1
    family = scrape(metrics)["scada_readings_ingested"]
    assert {sample.labels["tag_node_id"]: sample.value for sample in family.samples} == expected


def test_a_node_id_keeps_its_odd_characters(metrics: Metrics) -> None:
    tags = TagTable()
    node_id = 'ns=2;s=Well "7"\\pressure\nbar {µ}'
    metrics.tenant(TENANT, tags).committed(column(tags.index_of(WELL, node_id)))
    labels = {"tenant_id": str(TENANT), "well_id": str(WELL), "tag_node_id": node_id}
    assert value(metrics, "scada_readings_ingested_total", labels) == 1


def ours(metrics: Metrics) -> list[str]:
    """What is rendered, without CPU time and memory of the process, which pass meanwhile."""
    return [line for line in metrics.render().decode().splitlines() if not line.startswith("process_")]


def test_a_tenant_that_is_gone_leaves_no_series(metrics: Metrics) -> None:
    before = ours(metrics)
    used(metrics, TENANT)
    used(metrics, OTHER)
    metrics.forget_tenant(TENANT)
    text = "".join(ours(metrics))
    assert str(TENANT) not in text
    assert str(OTHER) in text
    metrics.forget_tenant(OTHER)
    assert ours(metrics) == before
    metrics.forget_tenant(OTHER)  # twice does no harm


def test_two_services_in_one_process_stay_apart(metrics: Metrics) -> None:
    used(metrics, TENANT)
    assert str(TENANT) not in Metrics().render().decode()


def test_single_families_can_be_asked_for(metrics: Metrics) -> None:
    """A scrape of a few figures does not pay for a series of every tag."""
    used(metrics, TENANT)
    metrics.observe_loop_lag(0.003)
    wanted = {"scada_readings_written_total", "scada_event_loop_lag_seconds_sum", "scada_batch_latency_seconds_count"}
    families = text_string_to_metric_families(metrics.render(wanted).decode())
    assert {sample.name: sample.value for family in families for sample in family.samples} == {
        "scada_readings_written_total": 2.0,
        "scada_event_loop_lag_seconds_sum": 0.003,
        "scada_batch_latency_seconds_count": 1.0,
    }
