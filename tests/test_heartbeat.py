"""Heartbeats: the last reading of each tag again, and whether its device was there, apart from readings."""

from __future__ import annotations

import math
import time
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from pydantic import SecretStr

from scada_trio.config import Settings
from scada_trio.desired import TenantSpec
from scada_trio.heartbeat import run_heartbeats
from scada_trio.metrics import Metrics
from scada_trio.readings import Quality, TagTable
from scada_trio.storage.heartbeats import Pulse, store_heartbeats
from tests.fix_api import LogLines, eventually
from tests.fix_devices import free_port, open_device, tag
from tests.fix_postgres import PostgresServer, fetch
from tests.fix_service import RunningService, open_service
from tests.storage_samples import WELL, block, tag_table
from tests.test_storage_reading import DAY_US, store

AT = float(int(time.time()) - 600)
AT_US = int(AT) * 1_000_000
LINK, OTHER_LINK = UUID(int=7), UUID(int=8)
TIMEOUTS = Settings.load().db_timeouts
BEATS = """
    SELECT extract(epoch FROM beat_at)::float, tag_node_id, connection_id, connected,
        extract(epoch FROM heard_at)::float, (extract(epoch FROM reading_at) * 1000000)::bigint, value, quality
    FROM scada_heartbeats ORDER BY beat_at, tag_node_id"""


def pulse(*names: str, link: UUID = LINK, connected: bool = True, heard_at: float | None = AT - 1) -> Pulse:
    return Pulse(link, connected, heard_at, [(WELL, name) for name in names])


async def beat(url: SecretStr, *pulses: Pulse, at: float = AT, keep_days: int = 7) -> int:
    return await store_heartbeats(url, at, pulses, keep_days, TIMEOUTS)


async def test_the_last_reading_of_each_tag_is_told_again(tenant_of_each_kind: SecretStr) -> None:
    """Of today and of long ago, with its quality as it is; a tag without readings has nothing to repeat."""
    url, now_us = tenant_of_each_kind, time.time_ns() // 1000
    readings = block(
        (0, now_us - 2_000_000, 1.0, Quality.GOOD),
        (0, now_us - 1_000_000, math.nan, Quality.BAD),
        (2, now_us - 90 * DAY_US, 4.5, Quality.UNCERTAIN),
    )
    await store(url, readings, tag_table(5))
    away = pulse("ns=2;s=Tag2", link=OTHER_LINK, connected=False, heard_at=None)
    assert await beat(url, pulse("ns=2;s=Tag0", "ns=2;s=Tag4"), away) == 2
    first, second = fetch(url, BEATS)
    assert first[:6] == (AT, "ns=2;s=Tag0", LINK, True, AT - 1, now_us - 1_000_000)
    assert math.isnan(first[6])
    assert first[7] == "Bad"
    assert second == (AT, "ns=2;s=Tag2", OTHER_LINK, False, None, now_us - 90 * DAY_US, 4.5, "Uncertain")
    assert fetch(url, "SELECT count(*) FROM scada_readings") == [(3,)]


async def test_a_beat_is_stored_once(tenant_url: SecretStr) -> None:
    """Another process' beat of the same moment, and a tag that two connections read, add nothing."""
    await store(tenant_url, block((0, AT_US, 1.0, Quality.GOOD)), tag_table(1))
    assert await beat(tenant_url, pulse("ns=2;s=Tag0"), pulse("ns=2;s=Tag0", link=OTHER_LINK)) == 1
    assert await beat(tenant_url, pulse("ns=2;s=Tag0", link=OTHER_LINK)) == 0
    assert await beat(tenant_url, pulse("ns=2;s=Tag0"), at=AT + 60) == 1
    assert [(row[0], row[2]) for row in fetch(tenant_url, BEATS)] == [(AT, LINK), (AT + 60, LINK)]


async def test_old_beats_go(tenant_url: SecretStr) -> None:
    await store(tenant_url, block((0, AT_US, 1.0, Quality.GOOD)), tag_table(1))
    for days in (0, 1, 2, 3):
        await beat(tenant_url, pulse("ns=2;s=Tag0"), at=AT + days * 86_400, keep_days=2)
    assert [row[0] for row in fetch(tenant_url, BEATS)] == [AT + days * 86_400 for days in (1, 2, 3)]
    await beat(tenant_url, at=AT + 9 * 86_400, keep_days=2)
    assert fetch(tenant_url, BEATS) == []


async def beats(running: RunningService, tenant: UUID) -> list[tuple[Any, ...]]:
    return await trio.to_thread.run_sync(fetch, running.tenants[tenant], BEATS)


async def test_a_dead_device_is_told_from_a_value_that_stands_still(
    postgres: PostgresServer, tenant_url: SecretStr
) -> None:
    async with (
        open_device("open62541", nodes=["P"]) as device,
        open_service(postgres, heartbeat_interval_ms=200) as running,
    ):
        tenant = await running.add_tenant(tenant_url)
        connection = await running.add_connection(tenant, device.url, [tag("ns=1;s=P")])
        await running.connected(tenant, connection)
        await device.write("P", 7.0)
        await running.until_stored(tenant, "ns=1;s=P", 7.0)
        stored = await running.rows(tenant)

        async def alive() -> bool:
            heard = {row[4] for row in await beats(running, tenant) if row[3] and row[6] == 7.0}
            return len(heard) >= 3

        await running.until_async(alive)  # the value stands still, and the device is heard again and again
        await device.kill()

        async def dead() -> bool:
            return sum(not row[3] for row in await beats(running, tenant)) >= 3

        await running.until_async(dead)
        gone = [row for row in await beats(running, tenant) if not row[3]]
        assert len({row[4] for row in gone}) == 1
        assert {(row[2], row[6], row[7]) for row in gone} == {(connection, 7.0, "Good")}
        assert await running.rows(tenant) == stored
        text = (await running.get("/metrics?name[]=scada_heartbeats_total")).text
        assert f'scada_heartbeats_total{{outcome="stored",tenant_id="{tenant}"}}' in text


async def test_no_beat_is_made_unless_it_is_asked_for(postgres: PostgresServer, tenant_url: SecretStr) -> None:
    async with open_service(postgres) as running:
        tenant = await running.add_tenant(tenant_url)
        assert await beats(running, tenant) == []
        assert "scada_heartbeats_total{" not in (await running.get("/metrics")).text


@pytest.mark.parametrize("fault", ["not migrated", "away"])
async def test_beats_that_cannot_be_stored_are_counted_and_said_once(
    tenant_url: SecretStr, log_lines: LogLines, fault: str
) -> None:
    """A database without the table is told of, with what to do; one that is away is the writer's to say."""
    url = tenant_url if fault == "not migrated" else SecretStr(f"postgresql://u:pw@127.0.0.1:{free_port()}/x")
    if fault == "not migrated":
        fetch(url, "DROP TABLE scada_heartbeats")
    metrics, tenant_id = Metrics(), uuid4()
    settings = Settings.load(heartbeat_interval_ms=20)
    labels = {"tenant_id": str(tenant_id), "outcome": "failed"}
    async with trio.open_nursery() as nursery:
        children = metrics.tenant(tenant_id, TagTable())
        spec = TenantSpec(tenant_id, "north", url)

        async def run() -> None:
            await run_heartbeats(lambda: spec, list, settings=settings, metrics=children)

        nursery.start_soon(run)
        await eventually(lambda: (metrics.registry.get_sample_value("scada_heartbeats_total", labels) or 0) >= 3)
        nursery.cancel_scope.cancel()
    said = [line for line in log_lines() if "heartbeats" in line["message"]]
    if fault == "away":
        assert said == []
    else:
        assert [line["level"] for line in said] == ["WARNING"]
        assert "run scada-trio migrate" in said[0]["error"]
