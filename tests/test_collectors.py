"""States of connections as Prometheus reads them: which, since when silent, and gone with their tenant."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import count, pairwise
from uuid import UUID

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from scada_trio.metrics import Metrics
from scada_trio.readings import TagTable
from scada_trio.status import ConnectionState, ConnectionStatus, Heard
from tests.fix_devices import open_device, open_rig, tag

TENANT, LINK, NEW_LINK = UUID(int=1), UUID(int=2), UUID(int=3)
LABELS = {"tenant_id": str(TENANT), "connection_id": str(LINK)}
HEARD = "scada_connection_last_heard_timestamp_seconds"
READING = "scada_connection_last_reading_timestamp_seconds"


@dataclass
class Link:
    """What the collector reads of a connection."""

    status: ConnectionStatus = field(default_factory=ConnectionStatus)


def families(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def states(metrics: Metrics) -> list[tuple[str, str, float]]:
    samples = families(metrics)["scada_connection_state"].samples
    return sorted((s.labels["connection_id"], s.labels["state"], s.value) for s in samples)


@pytest.mark.parametrize("state", ConnectionState)
def test_a_connection_has_one_state(state: ConnectionState) -> None:
    """The states it is not in have no series, whichever it was in before."""
    metrics, link = Metrics(), Link()
    metrics.tenant(TENANT, TagTable()).watch_connections({LINK: link})
    metrics.render()
    link.status.enter(state)
    assert states(metrics) == [(str(LINK), state.value, 1.0)]


def test_a_device_that_never_spoke_has_no_time() -> None:
    """Not 1970, which every alert about age would fire on."""
    metrics, link = Metrics(), Link()
    metrics.tenant(TENANT, TagTable()).watch_connections({LINK: link})
    assert families(metrics)[HEARD].samples == families(metrics)[READING].samples == []
    link.status.heard, link.status.last_reading_at = Heard(1_800_000_000.5), 1_799_999_999.25
    assert metrics.registry.get_sample_value(HEARD, LABELS) == 1_800_000_000.5
    assert metrics.registry.get_sample_value(READING, LABELS) == 1_799_999_999.25


def test_series_come_and_go_with_connection_and_tenant() -> None:
    metrics, links = Metrics(), {LINK: Link()}
    metrics.tenant(TENANT, TagTable()).watch_connections(links)
    links[NEW_LINK] = links.pop(LINK)
    assert [name for name, _, _ in states(metrics)] == [str(NEW_LINK)]
    metrics.forget_tenant(TENANT)
    assert states(metrics) == []


def test_scrapes_while_connections_come_and_go() -> None:
    """The rendering thread reads a mapping that another thread changes at the same time."""
    metrics, links = Metrics(), {UUID(int=number): Link() for number in range(200)}
    metrics.tenant(TENANT, TagTable()).watch_connections(links)
    stop = threading.Event()

    def churn() -> None:
        for number in count(1_000):
            links[UUID(int=number)] = Link()
            del links[next(iter(links))]
            if stop.is_set():
                return

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            (family,) = metrics.registry.restricted_registry(["scada_connection_state"]).collect()
            assert len(family.samples) in (200, 201)
    finally:
        stop.set()
        thread.join()


async def test_a_silent_device_is_told_from_values_that_do_not_change(maker: str) -> None:
    """A device whose value stands still is heard at every keep-alive, and its last reading stays where it was."""
    async with open_device(maker, nodes=["P"]) as device, open_rig(device.url, (tag("ns=1;s=P"),)) as rig:
        await device.write("P", 7.0)
        await rig.until_value("ns=1;s=P", 7.0)
        status = rig.connection.status
        read_at, heard = status.last_reading_at, status.heard
        assert read_at is not None
        times = []
        for _ in range(3):
            before = heard.at
            assert before is not None
            await rig.eventually(lambda before=before: (heard.at or 0.0) > before)  # type: ignore[misc]
            times.append(before)
        assert all(earlier < later for earlier, later in pairwise(times))
        assert status.last_reading_at == read_at
        device.freeze()
        await rig.state(ConnectionState.WAITING, ConnectionState.FAILED)
        assert status.heard is heard  # the time of the session that ended stays: nothing else was heard since
        device.thaw()
        await rig.state(ConnectionState.CONNECTED)
        assert (status.heard.at or 0.0) > (heard.at or 0.0)
